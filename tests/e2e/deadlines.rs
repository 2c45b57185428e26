//! Which wait ends when, and what must never be cut.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::harness::{Client, FullPort, Hop, Proxy, Talk, Upstream, spawn, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";

#[test]
fn a_response_that_does_not_begin_in_time_is_504() {
    for limit in ["request_timeout_secs: 0.3", "response_timeout_secs: 0.3"] {
        let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
        let members = [a.with("priority: 1"), b.with("priority: 2")];
        let proxy = Proxy::with_yaml(&format!("mode: priority\nlimits: {{{limit}}}"), members);
        for request in [GET, CONNECT] {
            let mut client = proxy.client();
            client.send(request);
            let (mut hop, _) = a.accept_and_read_request();
            client
                .expect_refusal(504)
                .expect_field_with("Proxy-Status", "http_response_timeout");
            hop.expect_gone();
            proxy.expect_nobody_suspected();
        }
        b.expect_untouched();
    }
}

/// A slow upload is not a slow answer.
#[test]
fn the_request_timeout_begins_with_the_last_byte_of_the_request() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {request_timeout_secs: 0.6}", [&a]);
    let mut client = proxy.client();
    client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\n\r\n");
    for byte in ["h", "e", "l", "l", "o"] {
        thread::park_timeout(Duration::from_millis(200));
        client.send(byte);
    }
    let (mut hop, request) = a.accept_and_read_request();
    request.expect_body("hello");
    hop.send_ok("done");
    client.expect_status(200).expect_body("done");
}

#[test]
fn interim_responses_do_not_stop_the_request_timeout() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {request_timeout_secs: 0.5}", [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    for _ in 0..3 {
        hop.send("HTTP/1.1 102 Processing\r\n\r\n");
        client.expect_head(102);
    }
    client.expect_refusal(504);
}

#[test]
fn all_attempts_together_have_one_request_timeout() {
    let a = Upstream::answering("a", |hop, _| {
        thread::park_timeout(Duration::from_millis(400));
        hop.close_then();
    });
    let b = Upstream::answering("b", |hop, _| {
        thread::park_timeout(Duration::from_millis(400));
        hop.send_as_far_as_possible("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let extra = "mode: priority\nlimits: {request_timeout_secs: 0.6}";
    let proxy = Proxy::with_yaml(extra, members);
    proxy.client().send(GET).expect_refusal(504);
}

#[test]
fn a_response_body_may_take_longer_than_any_request_timeout() {
    let a = Upstream::by_hand("a");
    let extra = "limits: {request_timeout_secs: 0.3, response_timeout_secs: 0.3}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    client.expect_head(200);
    for byte in ["h", "e", "l", "l", "o"] {
        thread::park_timeout(Duration::from_millis(150));
        hop.send(byte);
        client.expect_bytes(byte);
    }
    client.send(GET);
    hop.read_request();
    hop.send_ok("next");
    client.expect_status(200);
}

/// As long as something comes, it may take longer than the limit for no progress.
#[test]
fn a_body_that_makes_progress_is_not_cut() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 0.6}", [&a]);
    let mut client = proxy.client();
    client.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 6\r\n\r\n");
    let mut hop = a.accept();
    hop.read_head();
    for byte in ["a", "b", "c", "d", "e", "f"] {
        thread::park_timeout(Duration::from_millis(200));
        client.send(byte);
        hop.expect_bytes(byte);
    }
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
    client.expect_head(200);
    for byte in ["a", "b", "c", "d", "e", "f"] {
        thread::park_timeout(Duration::from_millis(200));
        hop.send(byte);
        client.expect_bytes(byte);
    }
}

#[test]
fn a_response_body_that_stops_breaks_off_at_the_client() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {response_idle_timeout_secs: 0.3}", [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    client.expect_head(200);
    client.expect_truncated("abc");
    hop.expect_gone();
    proxy.expect_deserted_after(client);
}

/// A stream of events is silent while there are none.
#[test]
fn an_event_stream_may_be_silent_for_longer_than_an_upload() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 0.3}", [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
    client.expect_head(200).expect_bytes("9\r\ndata: 1\n\n\r\n");
    // An upload that stops after that, and is cut for it, shows that the time has passed.
    let mut upload = proxy.client();
    upload.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 6\r\n\r\n");
    let mut other_hop = a.accept();
    other_hop.read_head();
    upload.expect_refusal(408);
    hop.send("data: 2\n\n");
    client.expect_bytes("9\r\ndata: 2\n\n\r\n");
    // A client that leaves is noticed all the same.
    client.close();
    hop.expect_gone();
    proxy.expect_deserted();
}

/// D3: whoever does not read is too slow; the upstream has nothing to do with it.
#[test]
fn a_client_that_does_not_read_is_cut_and_blamed_alone() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 0.4}", [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
    let sender = hop.send_in_background(vec![b'x'; 50_000_000]);
    assert!(
        sender.join().expect("the sender").is_err(),
        "the relay took it all"
    );
    proxy.expect_at_rest();
    proxy.expect_online("a");
    assert_eq!(proxy.upstream("a").consecutive_failures, 0);
    drop(client);
}

#[test]
fn an_upstream_that_does_not_take_the_request_is_504_and_probed() {
    const LENGTH: usize = 50_000_000;
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 0.4}", [&a]);
    let mut client = proxy.client();
    client.send(format!(
        "PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    let sender = client.send_in_background(vec![b'x'; LENGTH]);
    let hop = a.accept();
    client.expect_refusal(504);
    wait_until(|| !a.probes().is_empty());
    drop(hop);
    drop(client);
    drop(sender.join().expect("the sender"));
    proxy.expect_deserted();
}

#[test]
fn an_upstream_that_does_not_accept_in_time_is_passed_over() {
    let full = FullPort::new();
    let b = Upstream::echo_ok("b");
    let members = [full.member("full"), b.with("priority: 200")];
    let extra = "mode: priority\nlimits: {connect_timeout_secs: 0.3}\n\
        health_check: {timeout_secs: 0.3}";
    let proxy = Proxy::with_yaml(extra, members);
    proxy.client().send(GET).expect_status(200).expect_body("b");
    // The request did not wait for it that long, but somebody looks into it.
    wait_until(|| !proxy.upstream("full").online);
    let reason = proxy.upstream("full").reason.expect("a reason");
    assert!(reason.contains("in time"), "{reason}");
}

#[test]
fn an_origin_that_does_not_accept_in_time_is_504() {
    let full = FullPort::new();
    let proxy = Proxy::direct_with("limits: {connect_timeout_secs: 0.3}");
    let authority = full.address().to_string();
    proxy
        .client()
        .get(&format!("http://{authority}/"))
        .expect_refusal(504)
        .expect_field_with("Proxy-Status", "connection_timeout");
    proxy
        .client()
        .send(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        ))
        .expect_refusal_and_close(504);
}

#[test]
fn a_tunnel_that_is_silent_both_ways_is_closed() {
    let (proxy, a) = silent_tunnels();
    let (mut client, mut hop) = tunnel(&proxy, &a);
    client.expect_gone();
    hop.expect_gone();
    drop((client, hop));
    proxy.expect_deserted();
}

#[test]
fn a_tunnel_in_which_one_side_speaks_stays_open() {
    let (proxy, a) = silent_tunnels();
    let (mut client, mut hop) = tunnel(&proxy, &a);
    for _ in 0..5 {
        thread::park_timeout(Duration::from_millis(200));
        client.send("ping");
        hop.expect_bytes("ping");
    }
    for _ in 0..5 {
        thread::park_timeout(Duration::from_millis(200));
        hop.send("pong");
        client.expect_bytes("pong");
    }
}

/// 300 000 of them stayed for ever at a peer.
#[test]
fn a_tunnel_that_is_half_closed_and_silent_is_closed() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {tunnel_half_closed_secs: 0.5}", [&a]);
    let (mut client, mut hop) = tunnel(&proxy, &a);
    client.half_close();
    hop.expect_gone();
    client.expect_gone();
    drop((client, hop));
    proxy.expect_deserted();
}

fn silent_tunnels() -> (Proxy, Upstream) {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {tunnel_idle_timeout_secs: 0.7}", [&a]);
    (proxy, a)
}

fn tunnel(proxy: &Proxy, upstream: &Upstream) -> (Client, Hop) {
    let mut client = proxy.client();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    (client, hop)
}

impl Proxy {
    #[track_caller]
    fn expect_deserted_after(&self, client: Client) {
        drop(client);
        self.expect_deserted();
    }
}

#[test]
fn a_full_port_is_one_at_which_connections_hang() {
    let full = FullPort::new();
    let address = full.address();
    let tried = spawn("late", move || {
        TcpStream::connect_timeout(&address, Duration::from_millis(200))
    });
    let error = tried.join().expect("a thread").expect_err("no connection");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}
