//! Behind a balancer that says who the client is.

use super::harness::{Origin, Proxy, Talk, TemporaryFile, Upstream, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 8080\r\n";
/// The same client in version 2, with an extension.
const BLOCK: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10\
    \xc0\x00\x02\x07\xc6\x33\x64\x01\xdc\x04\x1f\x90\x04\x00\x01x";
/// In version 2, the balancer for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// Trusts these networks, and admits clients from these.
fn behind(from: &str, allow: &str, extra: &str) -> String {
    format!(
        "listen_proxy_protocol: true\n\
         access: {{proxy_protocol_from: [{from}], allow: [{allow}]}}\n{extra}"
    )
}

fn with_request(header: impl AsRef<[u8]>) -> Vec<u8> {
    [header.as_ref(), GET.as_bytes()].concat()
}

#[test]
fn the_client_is_who_the_balancer_says() {
    let (log, a) = (TemporaryFile::new("access.log"), Upstream::echo_ok("a"));
    let extra = format!("access_log: {{file: '{}'}}", log.path());
    let proxy = Proxy::with_yaml(&behind("127.0.0.1", "192.0.2.7", &extra), [&a]);
    for (at, header) in [LINE.as_bytes(), BLOCK].into_iter().enumerate() {
        let mut client = proxy.client();
        client.send(with_request(header)).expect_status(200);
        // Once a connection, not once a request.
        client.send(GET).expect_status(200);
        wait_until(|| log.text().lines().count() == 2 * at + 2);
    }
    for line in log.text().lines() {
        assert!(line.contains(" client=192.0.2.7:56324 "), "{line}");
        assert!(line.contains(&format!(" in={} ", GET.len())), "{line}");
    }
    for request in a.requests() {
        request.expect_field("Host", "o.test");
    }
}

#[test]
fn a_header_may_come_in_pieces_cut_anywhere() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(&behind("127.0.0.1", "192.0.2.7", ""), [&a]);
    for header in [LINE.as_bytes(), BLOCK] {
        let whole = with_request(header);
        for at in 1..=header.len() + 3 {
            let (first, rest) = whole.split_at(at);
            let mut client = proxy.client();
            client.send(first);
            wait_until(|| proxy.counts().parked == 1);
            client.send(rest).expect_status(200);
            drop(client);
            proxy.expect_deserted();
        }
    }
}

#[test]
fn access_is_decided_by_the_address_of_the_client() {
    let a = Upstream::echo_ok("a");
    // The balancer itself may not.
    let proxy = Proxy::with_yaml(&behind("127.0.0.1", "192.0.2.0/24", ""), [&a]);
    proxy.client().send(with_request(LINE)).expect_status(200);
    let other = LINE.replace("192.0.2.7", "203.0.113.1");
    proxy.client().send(with_request(other)).expect_refusal(403);
    let sixth = "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
    proxy.client().send(with_request(sixth)).expect_refusal(403);
    proxy.client().send(with_request(LOCAL)).expect_refusal(403);
}

#[test]
fn a_balancer_that_names_nobody_counts_as_the_client() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(&behind("127.0.0.1", "127.0.0.1", ""), [&a]);
    for header in [LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b c\r\n"] {
        proxy.client().send(with_request(header)).expect_status(200);
    }
}

/// Whoever could claim any address could be anybody.
#[test]
fn a_header_from_elsewhere_is_refused() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(&behind("192.0.2.1", "0.0.0.0/0", ""), [&a]);
    for bytes in [with_request(LINE), with_request(BLOCK), with_request("")] {
        proxy.client().send(bytes).expect_refusal_and_close(403);
    }
    assert_eq!(a.connections(), 0);
}

#[test]
fn a_connection_without_a_header_is_refused() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(&behind("127.0.0.1", "0.0.0.0/0", ""), [&a]);
    let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
    for bytes in [
        GET,
        "PROXY TCP4 nonsense\r\n",
        "\r\n\r\n\0\r\nQUIT\n\x22",
        &long,
    ] {
        proxy.client().send(bytes).expect_refusal_and_close(400);
    }
    assert_eq!(a.connections(), 0);
}

/// It would reach the origin as a request, with an address of the client's choice.
#[test]
fn without_the_key_a_header_is_no_request() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    for bytes in [with_request(LINE), with_request(BLOCK)] {
        proxy.client().send(bytes).expect_refusal_and_close(400);
    }
    // Nor is a second one.
    let proxy = Proxy::with_yaml(&behind("127.0.0.1", "0.0.0.0/0", ""), [&a]);
    let twice = with_request([LINE, LINE].concat());
    proxy.client().send(twice).expect_refusal_and_close(400);
    assert_eq!(a.connections(), 0);
}

#[test]
fn a_header_that_does_not_come_in_time_is_408() {
    let a = Upstream::echo_ok("a");
    let extra = "limits: {header_timeout_secs: 0.2}";
    let proxy = Proxy::with_yaml(&behind("127.0.0.1", "0.0.0.0/0", extra), [&a]);
    proxy
        .client()
        .send("PROXY TCP4 ")
        .expect_refusal_and_close(408);
    // What follows it has its own time.
    let mut client = proxy.client();
    client.send(LINE);
    wait_until(|| proxy.counts().parked == 1);
    client.send(GET).expect_status(200);
}

#[test]
fn connections_are_counted_for_the_client_and_not_for_the_balancer() {
    let a = Upstream::echo_ok("a");
    let extra = "limits: {max_connections_per_client: 1}";
    let proxy = Proxy::with_yaml(&behind("127.0.0.1", "0.0.0.0/0", extra), [&a]);
    let mut first = proxy.client();
    first.send(with_request(LINE)).expect_status(200);
    proxy.client().send(with_request(LINE)).expect_refusal(503);
    let other = LINE.replace("192.0.2.7", "192.0.2.8");
    proxy.client().send(with_request(&other)).expect_status(200);
    drop(first);
    wait_until(|| {
        let mut client = proxy.client();
        client.send(with_request(LINE));
        client.read_response().status() == 200
    });
}

/// `127.0.0.1` is the balancer's host, not this one.
#[test]
fn nobody_behind_a_balancer_reaches_this_host() {
    let origin = Origin::echo_ok("origin");
    let local = LINE.replace("192.0.2.7", "127.0.0.1");
    let proxy = Proxy::direct_with(&behind("127.0.0.1", "0.0.0.0/0", ""));
    for header in [LINE.as_bytes(), local.as_bytes(), LOCAL] {
        let mut client = proxy.client();
        client.send(header);
        client.get(&format!("http://{}/", origin.authority()));
        client.expect_refusal(403);
    }
}

#[test]
fn a_tunnel_opens_behind_a_header() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(&behind("127.0.0.1", "192.0.2.7", ""), [&a]);
    let mut client = proxy.client();
    client.send(BLOCK).open_tunnel("o.test:443");
    client.send("ping").expect_bytes("ping");
}
