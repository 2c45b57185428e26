//! Upstreams that speak SOCKS5 (RFC 1928, RFC 1929): what they are told, byte by byte, and what their replies
//! mean for a request and for themselves.

use super::harness::{
    Client, Message, ProbeAnswer, Proxy, SocksReplies, Talk, Upstream, pattern, wait_until,
};

const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n";
const GET: &str = "GET http://o.test/a?b HTTP/1.1\r\nHost: o.test\r\n\r\n";

/// A reply of this code to the request.
fn replying(request: &'static [u8]) -> SocksReplies {
    SocksReplies {
        request,
        ..SocksReplies::default()
    }
}

fn one(replies: SocksReplies) -> (Proxy, Upstream, Client) {
    one_with(replies, "{}")
}

fn one_with(replies: SocksReplies, keys: &str) -> (Proxy, Upstream, Client) {
    let upstream = Upstream::socks("a", replies);
    let proxy = Proxy::over([upstream.as_socks(keys)]);
    let client = proxy.client();
    (proxy, upstream, client)
}

#[test]
fn connect_opens_a_socks_connection_to_the_name() {
    let (proxy, upstream, mut client) = one(SocksReplies::default());
    client.send(CONNECT);
    let mut hop = upstream.accept();
    client.expect_tunnel().send("ping");
    hop.expect_bytes("ping").send("pong");
    client.expect_bytes("pong");
    let expected = b"\x05\x01\x00\x05\x01\x00\x03\x06o.test\x01\xbb".to_vec();
    assert_eq!(upstream.socks_handshakes(), [expected]);
    assert_eq!(
        proxy.upstream("a").url,
        format!("socks5://{}", upstream.address())
    );
    drop((hop, client));
    proxy.expect_deserted();
}

#[test]
fn addresses_are_told_as_addresses() {
    for (target, expected) in [
        (
            "192.0.2.7:80",
            &b"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50"[..],
        ),
        (
            "[2001:db8::1]:8080",
            b"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1f\x90",
        ),
    ] {
        let (_proxy, upstream, mut client) = one(SocksReplies::default());
        client.open_tunnel(target);
        assert_eq!(upstream.socks_handshakes(), [expected]);
    }
}

/// The reply may end with a name or an address of either kind, and what is behind it belongs to the tunnel.
#[test]
fn bytes_behind_the_reply_reach_the_client() {
    for reply in [
        &b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50early"[..],
        b"\x05\x00\x00\x03\x03abc\x00\x50early",
        b"\x05\x00\x00\x04aaaabbbbccccdddd\x00\x50early",
    ] {
        let (_proxy, upstream, mut client) = one(replying(reply));
        client.send(format!("{CONNECT}bird"));
        let mut hop = upstream.accept();
        client.expect_tunnel().expect_bytes("early");
        hop.expect_bytes("bird");
    }
}

#[test]
fn credentials_are_told_when_they_are_asked_for() {
    let replies = SocksReplies {
        greeting: b"\x05\x02",
        ..SocksReplies::default()
    };
    let keys = "{username: bob, password: 'se:same'}";
    let (proxy, upstream, mut client) = one_with(replies, keys);
    client.send(CONNECT);
    let _hop = upstream.accept();
    client.expect_tunnel();
    let expected =
        b"\x05\x02\x00\x02\x01\x03bob\x07se:same\x05\x01\x00\x03\x06o.test\x01\xbb".to_vec();
    assert_eq!(upstream.socks_handshakes(), [expected]);
    proxy.expect_online("a");
}

#[test]
fn plain_http_is_sent_to_the_origin_in_origin_form() {
    let keys = "{username: bob, password: sesame}";
    let (_proxy, upstream, mut client) = one_with(SocksReplies::default(), keys);
    client.send(
        "GET http://o.test:8080/a?b HTTP/1.1\r\nHost: o.test:8080\r\nProxy-Authorization: x\r\n\r\n",
    );
    let (mut hop, request) = upstream.accept_and_read_request();
    request
        .expect_line("GET /a?b HTTP/1.1")
        .expect_field("Host", "o.test:8080")
        .expect_no_field("Proxy-Authorization");
    hop.send_ok("hi");
    client.expect_status(200).expect_body("hi");
    let expected = b"\x05\x02\x00\x02\x05\x01\x00\x03\x06o.test\x1f\x90".to_vec();
    assert_eq!(upstream.socks_handshakes(), [expected]);
}

#[test]
fn a_body_follows_once_the_way_is_open() {
    let (_proxy, upstream, mut client) = one(SocksReplies::default());
    let body = pattern(300_000);
    client.send(format!(
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    let sending = client.send_in_background(body.clone());
    let (mut hop, request) = upstream.accept_and_read_request();
    request.expect_line("POST / HTTP/1.1").expect_body(&body);
    hop.send_ok("thanks");
    client.expect_status(200).expect_body("thanks");
    drop(sending.join());
}

/// A connection leads to one origin, and another one never gets it.
#[test]
fn a_connection_is_used_again_for_the_same_origin_alone() {
    let (_proxy, upstream, mut client) = one(SocksReplies::default());
    client.send(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_kept("one");
    client.expect_status(200).expect_body("one");
    client.send("GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n");
    let (mut other, request) = upstream.accept_and_read_request();
    request.expect_field("Host", "other.test");
    other.send_kept("two");
    client.expect_status(200).expect_body("two");
    client.send(GET);
    hop.read_request().expect_field("Host", "o.test");
    hop.send_kept("three");
    client.expect_status(200).expect_body("three");
    assert_eq!(upstream.socks_handshakes().len(), 2);
}

#[test]
fn what_the_upstream_does_not_allow_is_403_and_no_evidence() {
    let forbidding = Upstream::socks("a", replying(b"\x05\x02\x00\x01\0\0\0\0\0\0"));
    let other = Upstream::socks("b", SocksReplies::default());
    let proxy = Proxy::with_yaml(
        "mode: priority",
        [forbidding.as_socks("{priority: 1}"), other.as_socks("{}")],
    );
    for request in [CONNECT, GET] {
        let mut client = proxy.client();
        client.send(request);
        client.expect_refusal(403).expect_field_with(
            "Proxy-Status",
            "next-hop=\"a\"; details=\"the upstream proxy does not",
        );
    }
    other.expect_untouched();
    proxy.expect_online("a");
    assert!(!proxy.upstream("a").suspect);
}

#[test]
fn one_that_cannot_reach_the_target_sends_any_request_to_one_other() {
    for (reply, status) in [
        (&b"\x05\x01"[..], 502),
        (b"\x05\x03\x00\x01\0\0\0\0\0\0", 502),
        (b"\x05\x04\x00\x01\0\0\0\0\0\0", 502),
        (b"\x05\x05\x00\x01\0\0\0\0\0\0", 502),
        (b"\x05\x06\x00\x01\0\0\0\0\0\0", 504),
    ] {
        let all = ["a", "b", "c"].map(|name| Upstream::socks(name, replying(reply)));
        let proxy = Proxy::over(all.each_ref().map(|one| one.as_socks("{}")));
        let post = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 1\r\n\r\nx";
        for request in [CONNECT, GET, post] {
            let before: usize = all.iter().map(Upstream::connections).sum();
            let mut client = proxy.client();
            client.send(request);
            client.expect_refusal(status);
            let after: usize = all.iter().map(Upstream::connections).sum();
            assert_eq!(after - before, 2, "{reply:?} {request}");
        }
        for one in &all {
            proxy.expect_online(one.name());
        }
    }
}

#[test]
fn another_upstream_may_reach_what_the_first_cannot() {
    let lost = Upstream::socks("a", replying(b"\x05\x05\x00\x01\0\0\0\0\0\0"));
    let http = Upstream::echo_ok("b");
    let members = [lost.as_socks("{priority: 1}"), http.with("{}")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 1\r\n\r\nx");
    client.expect_status(200).expect_body("b");
    assert_eq!(lost.connections(), 1);
}

/// A gateway error of an HTTP proxy and a refusal of a SOCKS5 one are two opinions of one kind.
#[test]
fn two_opinions_of_either_kind_are_enough() {
    let http = Upstream::answering("a", |hop, _| {
        hop.send("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno");
    });
    let [second, third] =
        ["b", "c"].map(|name| Upstream::socks(name, replying(b"\x05\x04\x00\x01\0\0\0\0\0\0")));
    let members = |first: u32, second_at: u32| {
        [
            http.with(&format!("{{priority: {first}}}")),
            second.as_socks(&format!("{{priority: {second_at}}}")),
            third.as_socks("{priority: 3}"),
        ]
    };
    let proxy = Proxy::with_yaml("mode: priority", members(1, 2));
    let mut client = proxy.client();
    client.send(CONNECT);
    client.expect_status(502).expect_body("no");
    proxy.reload("mode: priority", members(2, 1));
    let mut client = proxy.client();
    client.send(CONNECT);
    client.expect_status(502).expect_body("no");
    third.expect_untouched();
}

#[test]
fn refused_credentials_send_a_request_elsewhere_and_take_the_upstream_offline() {
    let wanting = [
        SocksReplies {
            greeting: b"\x05\xff",
            ..SocksReplies::default()
        },
        SocksReplies {
            greeting: b"\x05\x02",
            login: b"\x01\x01",
            ..SocksReplies::default()
        },
    ];
    for replies in wanting {
        let strict = Upstream::socks("a", replies);
        let other = Upstream::socks("b", SocksReplies::default());
        let keys = "{priority: 1, username: bob, password: wrong}";
        let members = [strict.as_socks(keys), other.as_socks("{}")];
        let proxy = Proxy::with_yaml("mode: priority", members);
        wait_until(|| !proxy.upstream("a").online);
        let reason = proxy.upstream("a").reason.unwrap_or_default();
        assert!(reason.starts_with("auth"), "{reason}");
        let mut client = proxy.client();
        client.send(CONNECT);
        let _hop = other.accept();
        client.expect_tunnel();
    }
}

#[test]
fn an_upstream_that_does_not_speak_socks_is_told_so() {
    let http = Upstream::socks(
        "a",
        SocksReplies {
            greeting: b"HTTP/1.1 400 Bad Request\r\n\r\n",
            ..SocksReplies::default()
        },
    );
    let proxy = Proxy::over([http.as_socks("{}")]);
    wait_until(|| !proxy.upstream("a").online);
    let reason = proxy.upstream("a").reason.unwrap_or_default();
    assert_eq!(reason, "answers something that is not SOCKS5");
}

/// As the 407 of an HTTP proxy, this is for the operator; the client's request is one of the trials.
#[test]
fn a_trial_of_one_that_is_not_socks_is_502() {
    let (proxy, _upstream, mut client) = one(SocksReplies {
        greeting: b"\x00",
        ..SocksReplies::default()
    });
    wait_until(|| !proxy.upstream("a").online);
    client.send(GET);
    client.read_response();
    assert!([502, 503].contains(&client.message().status()));
}

#[test]
fn a_reply_that_breaks_off_sends_even_a_post_to_another_upstream() {
    let other = Upstream::socks("b", SocksReplies::default());
    let cut = Upstream::socks("a", replying(b"\x05"));
    let members = [cut.as_socks("{priority: 1}"), other.as_socks("{}")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 1\r\n\r\nx");
    let (mut hop, request) = other.accept_and_read_request();
    request.expect_line("POST / HTTP/1.1");
    hop.send_ok("b");
    client.expect_status(200).expect_body("b");
    proxy.expect_nobody_suspected();
    proxy.expect_online("a");
}

#[test]
fn a_reply_that_does_not_come_in_time_is_504() {
    let upstream = Upstream::socks("a", replying(b""));
    let extra = "limits: {response_timeout_secs: 0.3}";
    let proxy = Proxy::with_yaml(extra, [upstream.as_socks("{}")]);
    for request in [CONNECT, GET] {
        let mut client = proxy.client();
        client.send(request);
        client.expect_refusal(504);
    }
    proxy.expect_at_rest();
    proxy.expect_online("a");
}

#[test]
fn a_reply_that_is_waited_for_needs_no_thread() {
    let upstream = Upstream::socks("a", replying(b""));
    let proxy = Proxy::over([upstream.as_socks("{}")]);
    let mut waiting: Vec<Client> = (0..40).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.send(CONNECT);
    }
    wait_until(|| upstream.connections() == waiting.len());
    wait_until(|| proxy.counts().busy == waiting.len());
    assert!(proxy.counts().workers < 20, "{:?}", proxy.counts());
    drop(waiting);
    proxy.expect_at_rest();
}

/// With SOCKS5 upstreams alone it is 400: see below.
#[test]
fn what_only_an_http_proxy_knows_goes_to_one() {
    let socks = Upstream::socks("a", SocksReplies::default());
    let http = Upstream::echo_ok("b");
    let members = [socks.as_socks("{priority: 1}"), http.with("{priority: 2}")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send("GET https://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n");
    client.expect_status(200).expect_body("b");
    socks.expect_untouched();
}

#[test]
fn a_client_that_leaves_during_the_handshake_is_noticed_and_nobodys_fault() {
    let (proxy, upstream, mut client) = one(replying(b""));
    client.send(CONNECT);
    wait_until(|| upstream.connections() == 1);
    client.close();
    proxy.expect_deserted();
    proxy.expect_online("a");
}

#[test]
fn only_an_http_proxy_gets_a_url_of_another_scheme() {
    let (_proxy, socks, mut client) = one(SocksReplies::default());
    for url in ["https://o.test/", "ftp://o.test/"] {
        client.send(format!("GET {url} HTTP/1.1\r\nHost: o.test\r\n\r\n"));
        client
            .expect_refusal(400)
            .expect_body_with("opens a tunnel with CONNECT");
    }
    socks.expect_untouched();
}

/// As for any other request while nobody is in service; the one that speaks SOCKS is not asked.
#[test]
fn a_url_of_another_scheme_is_503_while_all_are_offline() {
    let (http, socks) = (Upstream::refusing("a"), Upstream::refusing("b"));
    let proxy = Proxy::over([http.with("{}"), socks.as_socks("{}")]);
    wait_until(|| !proxy.upstream("a").online && !proxy.upstream("b").online);
    let mut client = proxy.client();
    client.send("GET ftp://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n");
    client.expect_refusal(503);
}

#[test]
fn an_answer_of_the_origin_tells_nothing_bad_of_the_upstream() {
    let keys = "{username: bob, password: sesame}";
    let (proxy, upstream, _) = one_with(SocksReplies::default(), keys);
    for status in [401, 502, 503, 504, 502, 503, 504, 407] {
        let mut client = proxy.client();
        client.send(format!(
            "GET http://o{status}.test/ HTTP/1.1\r\nHost: o{status}.test\r\n\r\n"
        ));
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send(format!(
            "HTTP/1.1 {status} Origin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        ));
        // A client must not take it for ours.
        client.expect_status(if status == 407 { 502 } else { status });
    }
    assert_eq!(upstream.connections(), 8);
    assert!(upstream.probes().is_empty(), "it was not even a suspect");
    proxy.expect_online("a");
}

#[test]
fn the_probe_goes_through_it_in_origin_form() {
    let upstream = Upstream::socks("a", SocksReplies::default());
    let probe =
        "health_check: {url: 'http://probe.test/probe-generate_204', online_interval_secs: 0.1}";
    let proxy = Proxy::with_yaml(probe, [upstream.as_socks("{}")]);
    wait_until(|| !upstream.probes().is_empty());
    let probe: Message = upstream.probes().remove(0);
    probe
        .expect_line("GET /probe-generate_204 HTTP/1.1")
        .expect_field("Host", "probe.test");
    proxy.expect_online("a");
    upstream.answer_only_probes(ProbeAnswer::Status(500));
    proxy.expect_online("a");
}

/// Its connections speak another protocol: none of them, and nothing that is known, is kept.
#[test]
fn a_reload_that_changes_the_protocol_makes_it_another_upstream() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    proxy.client().get("http://o.test/").expect_status(200);
    proxy.reload("{}", [upstream.as_socks("{}")]);
    let url = proxy.upstream("a").url;
    assert_eq!(url, format!("socks5://{}", upstream.address()));
    assert_eq!(proxy.upstream("a").latency, None);
}

/// The proxy is told the login once a connection, be it one that is shared or one that is bound to a client.
#[test]
fn no_connection_outlives_its_login() {
    for field in ["", "Authorization: NTLM x\r\n"] {
        let replies = SocksReplies {
            greeting: b"\x05\x02",
            ..SocksReplies::default()
        };
        let (proxy, upstream, mut client) = one_with(replies, "{username: us, password: x}");
        let request = format!("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{field}\r\n");
        client.send(&request);
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send_kept("us");
        client.expect_status(200).expect_body("us");
        proxy.reload("{}", [upstream.as_socks("{username: de, password: x}")]);
        client.send(&request);
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send_kept("de");
        client.expect_status(200).expect_body("de");
        let logins = upstream.socks_handshakes();
        assert_eq!(logins.len(), 2);
        assert!(logins[1].starts_with(b"\x05\x02\x00\x02\x01\x02de\x01x"));
    }
}

/// It passes on what they send, when they send it.
#[test]
fn bytes_that_an_origin_sends_unasked_cost_no_connection_to_another() {
    let (proxy, upstream, mut client) = one(SocksReplies::default());
    let good = "GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n";
    client.send(good);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_kept("one");
    client.expect_status(200).expect_body("one");
    client.send(GET);
    let (mut odd, _) = upstream.accept_and_read_request();
    odd.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokEVIL");
    client.expect_status(200).expect_body("ok");
    odd.expect_gone();
    let mut other = proxy.client();
    other.send(good);
    hop.read_request().expect_field("Host", "good.test");
    hop.send_kept("two");
    other.expect_status(200).expect_body("two");
}
