//! Upstreams that are reached over TLS, and why one is not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use http_proxy_lb::config;

use super::harness::tls::{Seen, TlsFront, certificate};
use super::harness::{Client, Hop, Member, Proxy, Talk, Upstream, pattern, spawn, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";

/// Checks take no upstream offline, so requests get to it whatever they find.
const UNCHECKED: &str = "health_check: {fall: 1000}";

/// The authority that has signed the certificates, as a key.
fn trusting(name: &str) -> String {
    format!("{{ca_file: '{}'}}", certificate(name))
}

/// An upstream that the test plays, behind TLS with the right certificate.
fn by_hand() -> (Proxy, Upstream, TlsFront) {
    let upstream = Upstream::by_hand("a");
    let front = TlsFront::of(&upstream, "by_address");
    let proxy = Proxy::over([upstream.over_tls(&front, &trusting("authority"))]);
    (proxy, upstream, front)
}

#[test]
fn a_request_goes_through_and_so_does_the_next_one_over_the_same_connection() {
    let (proxy, upstream, front) = by_hand();
    proxy.expect_online("a");
    assert_eq!(
        proxy.upstream("a").url,
        format!("https://{}", front.address())
    );
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, request) = upstream.accept_and_read_request();
    request.expect_line("GET http://o.test/ HTTP/1.1");
    hop.send_kept("one");
    client.expect_status(200).expect_body("one");
    client.send(GET);
    hop.read_request();
    hop.send_kept("two");
    client.expect_status(200).expect_body("two");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_address_is_not_sent_as_a_name_and_only_http_1_is_offered() {
    let (_proxy, _upstream, front) = by_hand();
    let seen = Seen {
        name: None,
        protocol: Some(b"http/1.1".to_vec()),
    };
    assert_eq!(front.handshakes().first(), Some(&seen));
}

#[test]
fn a_tunnel_passes_bytes_and_the_ends_of_both_sides() {
    let (proxy, upstream, _front) = by_hand();
    let mut client = proxy.client();
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\nearly");
    let (mut hop, request) = upstream.accept_and_read_request();
    request.expect_line("CONNECT o.test:443 HTTP/1.1");
    hop.send("HTTP/1.1 200 OK\r\n\r\nbanner");
    client.expect_tunnel().expect_bytes("banner");
    hop.expect_bytes("early");
    client.send("ping").half_close();
    hop.expect_bytes("ping").expect_closed();
    hop.send("pong").half_close();
    client.expect_bytes("pong").expect_closed();
    drop((client, hop));
    proxy.expect_deserted();
}

#[test]
fn an_upstream_that_ends_its_side_first_still_gets_what_the_client_sends() {
    let (proxy, upstream, _front) = by_hand();
    let (mut client, mut hop) = tunnel(&proxy, &upstream);
    hop.send("bye").half_close();
    client.expect_bytes("bye").expect_closed();
    let much = pattern(1 << 20);
    let sent = client.send_in_background(much.clone());
    hop.expect_bytes(&much);
    sent.join().unwrap().unwrap();
    client.close();
    hop.expect_closed();
}

#[test]
fn a_reset_of_either_side_of_a_tunnel_resets_the_other() {
    let (proxy, upstream, _front) = by_hand();
    let (mut client, hop) = tunnel(&proxy, &upstream);
    hop.reset();
    client.expect_reset();
    let (client, mut hop) = tunnel(&proxy, &upstream);
    client.reset();
    hop.expect_reset();
    proxy.expect_at_rest();
}

fn tunnel(proxy: &Proxy, upstream: &Upstream) -> (Client, Hop) {
    let mut client = proxy.client();
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    (client, hop)
}

/// A body that ends with its connection is whole if the upstream says so under TLS.
#[test]
fn an_end_without_a_close_notify_is_no_end_of_a_body() {
    let (proxy, upstream, _front) = by_hand();
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(head).send("whole");
    hop.close();
    client.expect_status(200).expect_body("whole");
    client.send(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(head).send("a part");
    client.read_head();
    client.read_until("a part\r\n");
    hop.reset();
    client.expect_gone();
}

#[test]
fn what_came_before_the_connection_was_cut_is_relayed() {
    let (proxy, upstream, _front) = by_hand();
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody");
    hop.reset();
    client.expect_status(200).expect_body("body");
}

#[test]
fn large_bodies_pass_both_ways_however_slowly_they_are_taken() {
    let (proxy, upstream, _front) = by_hand();
    let body = pattern(8 << 20);
    let mut client = Client::connect_narrow(proxy.address());
    client.send(format!(
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    let sent = client.send_in_background(body.clone());
    let (mut hop, request) = upstream.accept_and_read_request();
    request.expect_raw_body(&body);
    sent.join().unwrap().unwrap();
    hop.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    let sent = hop.send_in_background(body.clone());
    client.expect_status(200).expect_body(&body);
    sent.join().unwrap().unwrap();
}

#[test]
fn an_answer_that_comes_before_the_end_of_the_request_is_relayed() {
    let (proxy, upstream, _front) = by_hand();
    let mut client = proxy.client();
    client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 8388608\r\n\r\n");
    let sent = client.send_in_background(pattern(8 << 20));
    let mut hop = upstream.accept();
    hop.read_head();
    hop.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
    hop.half_close();
    client.expect_status(413).expect_body("no");
    drop((hop, client));
    // Whether all of it could be sent is no matter.
    drop(sent.join().unwrap());
    proxy.expect_online("a");
}

#[test]
fn a_busy_tunnel_passes_both_directions_at_once() {
    let (proxy, upstream, _front) = by_hand();
    let (mut client, mut hop) = tunnel(&proxy, &upstream);
    let much = pattern(8 << 20);
    let up = client.send_in_background(much.clone());
    let down = hop.send_in_background(much.clone());
    let expected = much.clone();
    let there = spawn("test-hop", move || {
        hop.expect_bytes(&expected);
    });
    client.expect_bytes(&much);
    there.join().unwrap();
    up.join().unwrap().unwrap();
    down.join().unwrap().unwrap();
}

/// A server that answers the first bytes of each connection with these, and closes it.
fn answering(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn("test-server", move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let read = stream.read(&mut [0; 4096]);
            if read.is_ok() && stream.write_all(bytes).is_ok() {
                drop(stream.shutdown(std::net::Shutdown::Write));
                drop(stream.read_to_end(&mut Vec::new()));
            }
        }
    });
    address
}

/// A server whose handshake fails, and what is to be told of it: to the client, as a type of error and in words, and
/// of the upstream.
struct Failing {
    address: SocketAddr,
    authority: &'static str,
    error: &'static str,
    words: &'static str,
    of_upstream: &'static str,
}

impl Failing {
    fn check(&self) {
        let member = || {
            Member::at("bad", self.address)
                .with(&format!("{{url: 'https://{}'}}", self.address))
                .with(&trusting(self.authority))
        };
        let proxy = Proxy::with_yaml(UNCHECKED, [member()]);
        proxy
            .client()
            .get("http://o.test/")
            .expect_refusal(502)
            .expect_field_with("Proxy-Status", &format!("error={}", self.error))
            .expect_field_with("Proxy-Status", self.words);
        // Nothing of a request was sent, so any may go elsewhere.
        let good = Upstream::by_hand("good");
        let keys = format!("mode: priority\n{UNCHECKED}");
        let proxy = Proxy::with_yaml(&keys, [member(), good.with("priority: 200")]);
        let mut client = proxy.client();
        client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi");
        let (mut hop, request) = good.accept_and_read_request();
        request.expect_body("hi");
        hop.send_ok("");
        client.expect_status(200);
        // The check finds the same.
        let proxy = Proxy::over([member()]);
        wait_until(|| !proxy.upstream("bad").online);
        let told = format!("cannot connect: {}", self.of_upstream);
        assert_eq!(proxy.upstream("bad").reason, Some(told));
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_and_the_request_goes_elsewhere() {
    let behind = Upstream::by_hand("behind");
    for (name, authority, words, of_upstream) in [
        (
            "by_address",
            "stranger",
            "no trusted authority has signed",
            "no trusted authority has signed its certificate",
        ),
        (
            "by_name",
            "authority",
            "is for another name",
            "its certificate is for another name",
        ),
        (
            "expired",
            "authority",
            "is not valid at this time",
            "its certificate is not valid at this time",
        ),
    ] {
        let failing = Failing {
            address: TlsFront::of(&behind, name).address(),
            authority,
            error: "tls_certificate_error",
            words,
            of_upstream,
        };
        failing.check();
    }
    assert_eq!(behind.connections(), 0);
}

#[test]
fn what_speaks_no_tls_is_told_and_the_request_goes_elsewhere() {
    let failing = |bytes, error, words, of_upstream| Failing {
        address: answering(bytes),
        authority: "authority",
        error,
        words,
        of_upstream,
    };
    failing(
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        "tls_protocol_error",
        "something that is not TLS",
        "it sent something that is not TLS",
    )
    .check();
    // A fatal alert: handshake_failure.
    failing(
        b"\x15\x03\x03\x00\x02\x02\x28",
        "tls_alert_received",
        "refused the TLS handshake",
        "it refused the TLS handshake",
    )
    .check();
    failing(
        b"",
        "tls_protocol_error",
        "handshake with the upstream proxy failed",
        "the TLS handshake failed",
    )
    .check();
}

#[test]
fn a_server_name_is_sent_and_checked_in_place_of_the_host() {
    let upstream = Upstream::echo_ok("a");
    let front = TlsFront::of(&upstream, "by_name");
    let keys = format!(
        "{}\nserver_name: proxy.test",
        trusting("authority").trim_matches(['{', '}'])
    );
    let proxy = Proxy::over([upstream.over_tls(&front, &keys)]);
    proxy.expect_online("a");
    proxy.client().get("http://o.test/").expect_status(200);
    for seen in front.handshakes() {
        assert_eq!(seen.name.as_deref(), Some("proxy.test"));
    }
}

#[test]
fn a_handshake_that_hangs_is_a_connection_that_was_not_made_in_time() {
    let upstream = Upstream::silent("a");
    let keys = format!("limits: {{connect_timeout_secs: 0.2}}\n{UNCHECKED}");
    let member = Member::at("a", upstream.address());
    let member = member.with(&format!("{{url: 'https://{}'}}", upstream.address()));
    let proxy = Proxy::with_yaml(&keys, [member]);
    proxy
        .client()
        .get("http://o.test/")
        .expect_refusal(504)
        .expect_field_with("Proxy-Status", "connection_timeout");
    drop(proxy);
}

#[test]
fn a_handshake_that_hangs_is_outrun_by_another_upstream() {
    let (silent, good) = (Upstream::silent("a"), Upstream::echo_ok("b"));
    let member = Member::at("a", silent.address());
    let member = member.with(&format!("{{url: 'https://{}'}}", silent.address()));
    let keys = format!("mode: priority\nlimits: {{connect_timeout_secs: 60}}\n{UNCHECKED}");
    let proxy = Proxy::with_yaml(&keys, [member, good.with("priority: 200")]);
    proxy
        .client()
        .get("http://o.test/")
        .expect_status(200)
        .expect_body("b");
}

#[test]
fn an_idle_connection_that_ended_is_not_used_again() {
    let (proxy, upstream, _front) = by_hand();
    for end in [Hop::close as fn(Hop), Hop::reset] {
        let mut client = proxy.client();
        client.send(GET);
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send_kept("one");
        client.expect_status(200);
        end(hop);
        // A POST is sent once: it would be lost on a connection that has ended.
        std::thread::park_timeout(Duration::from_millis(50));
        client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi");
        let (mut hop, request) = upstream.accept_and_read_request();
        request.expect_body("hi");
        hop.send_ok("");
        client.expect_status(200);
    }
}

#[test]
fn a_connection_is_not_used_again_once_others_are_trusted() {
    let (proxy, upstream, front) = by_hand();
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_kept("one");
    client.expect_status(200);
    proxy.reload(
        UNCHECKED,
        [upstream.over_tls(&front, &trusting("stranger"))],
    );
    client
        .get("http://o.test/")
        .expect_refusal(502)
        .expect_field_with("Proxy-Status", "no trusted authority");
    hop.expect_gone();
}

#[test]
fn what_was_sent_last_arrives_before_the_process_ends() {
    let (proxy, upstream, _front) = by_hand();
    let (mut client, mut hop) = tunnel(&proxy, &upstream);
    hop.half_close();
    client.expect_closed();
    let much = pattern(100_000);
    client.send(&much);
    client.close();
    wait_until(|| proxy.counts().tunnels == 0);
    drop(proxy);
    hop.expect_bytes(&much).expect_closed();
}

/// What is said of a file with an upstream of these keys.
fn mistakes(keys: &str) -> String {
    let text = format!("listen: 127.0.0.1:1\nupstream:\n  - {keys}\n");
    config::parse(&text, "c.yaml").unwrap_err().to_string()
}

#[test]
fn what_is_wrong_with_the_keys_is_told_where_they_stand() {
    let key = certificate("key");
    for (keys, said) in [
        (
            "{url: 'https://a.test', ca_file: /nonexistent}",
            "c.yaml:3: upstream[0].ca_file: `/nonexistent`: cannot be read: No such file",
        ),
        (
            &*format!("{{url: 'https://a.test', ca_file: '{key}'}}"),
            "has no certificate in it",
        ),
        (
            "{url: 'http://a.test', server_name: b.test}",
            "upstream[0].server_name: is for upstreams that are reached over TLS: write `url: https://host:port`",
        ),
        (
            "{url: 'https://a.test', server_name: 'a b'}",
            "c.yaml:3: upstream[0].server_name: ",
        ),
    ] {
        let errors = mistakes(keys);
        assert!(errors.contains(said), "{errors}");
    }
}

#[test]
fn a_list_may_have_upstreams_over_tls_at_the_usual_port() {
    let list = super::harness::TemporaryFile::new("list");
    list.write("https://ann:x@p.test\n");
    let text = format!("listen: 127.0.0.1:1\nupstream_files: ['{}']\n", list.path());
    let config = config::parse(&text, "/c.yaml").unwrap();
    assert_eq!(config.upstreams[0].url(), "https://p.test:443");
    assert!(config.upstreams[0].tls.is_some());
}
