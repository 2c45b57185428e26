//! Clients of HTTP/1.0: no chunks, no 1xx, no second request (RFC 9112 §9.3, appendix C.2).

use super::harness::{
    Client, Proxy, Talk, Upstream, expect_refused_and_closed, forwarded, forwarded_direct,
};

const GET: &str = "GET http://o.test/ HTTP/1.0\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";

#[test]
fn the_next_hop_is_spoken_to_in_http_1_1() {
    forwarded(GET)
        .expect_line("GET http://o.test/ HTTP/1.1")
        .expect_field("Host", "o.test");
    let request = forwarded_direct("GET http://{origin}/ HTTP/1.0\r\n\r\n");
    request.expect_line("GET / HTTP/1.1");
    assert_eq!(request.values("Host").len(), 1);
}

#[test]
fn the_version_is_told_in_via() {
    let via = forwarded(GET).values("Via").concat();
    assert!(via.starts_with("1.0 hplb-"), "{via}");
}

#[test]
fn the_connection_ends_after_one_answer() {
    let fields = [
        "",
        "Connection: keep-alive\r\n",
        "Proxy-Connection: keep-alive\r\n",
    ];
    for field in fields {
        let upstream = Upstream::echo_ok("a");
        let proxy = Proxy::over([&upstream]);
        let mut client = proxy.client();
        let request = format!("GET http://o.test/ HTTP/1.0\r\n{field}\r\n");
        client.send([request.as_str(), &request].concat());
        client
            .expect_status(200)
            .expect_field("Connection", "close")
            .expect_gone();
        assert_eq!(upstream.requests().len(), 1);
    }
}

/// D11c: it was sent chunks.
#[test]
fn a_chunked_response_is_decoded() {
    let (_proxy, upstream, mut client) = asked(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(format!(
        "{CHUNKED}5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n"
    ));
    client
        .expect_status(200)
        .expect_body("hello!")
        .expect_no_field("Transfer-Encoding");
    client
        .expect_no_field("Content-Length")
        .expect_field("Connection", "close")
        .expect_closed();
}

#[test]
fn a_decoded_response_is_passed_on_while_it_comes() {
    let (_proxy, upstream, mut client) = asked(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(format!("{CHUNKED}5\r\nhello\r\n"));
    client.expect_head(200).expect_bytes("hello");
    hop.send_byte_by_byte("7\r\n, world\r\n0\r\n\r\n");
    client.expect_bytes(", world").expect_closed();
}

/// Its only end is the end of the connection: a clean one would say that the body is complete.
#[test]
fn a_decoded_response_that_breaks_off_does_not_end_cleanly() {
    let (_proxy, upstream, mut client) = asked(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(format!("{CHUNKED}5\r\nhello\r\n"));
    client.expect_head(200).expect_bytes("hello");
    hop.close();
    client.expect_reset();
}

#[test]
fn a_close_delimited_response_stays_close_delimited() {
    let (_proxy, upstream, mut client) = asked(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.0 200 OK\r\n\r\nhello").half_close();
    client
        .expect_status(200)
        .expect_body("hello")
        .expect_no_field("Transfer-Encoding");
}

#[test]
fn a_response_of_known_length_keeps_it() {
    let (_proxy, upstream, mut client) = asked(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_ok("hello");
    client
        .expect_status(200)
        .expect_field("Content-Length", "5")
        .expect_body("hello");
    client.expect_closed();
}

#[test]
fn a_response_to_head_ends_with_its_head() {
    let (_proxy, upstream, mut client) = asked("HEAD http://o.test/ HTTP/1.0\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(CHUNKED);
    client
        .expect_head(200)
        .expect_no_field("Transfer-Encoding")
        .expect_closed();
}

#[test]
fn a_client_that_has_half_closed_still_gets_its_answer() {
    let (_proxy, upstream, mut client) = asked(GET);
    client.half_close();
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.expect_nothing_more().send_ok("hello");
    client
        .expect_status(200)
        .expect_body("hello")
        .expect_closed();
}

#[test]
fn a_body_of_known_length_passes() {
    forwarded("POST http://o.test/ HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
        .expect_field("Content-Length", "2")
        .expect_body("hi");
    forwarded("GET http://o.test/ HTTP/1.0\r\nContent-Length: 0\r\n\r\n").expect_body("");
}

#[test]
fn a_refusal_closes() {
    expect_refused_and_closed(
        400,
        [
            "GET / HTTP/1.0\r\n\r\n",
            "GET http://o.test/ HTTP/1.0\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
            "GET http://o.test/ HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
            "CONNECT o.test HTTP/1.0\r\n\r\n",
        ],
    );
}

#[test]
fn connect_opens_a_tunnel() {
    let (_proxy, upstream, mut client) = asked("CONNECT o.test:443 HTTP/1.0\r\n\r\nearly");
    let (mut hop, request) = upstream.accept_and_read_request();
    request
        .expect_line("CONNECT o.test:443 HTTP/1.1")
        .expect_field("Host", "o.test:443");
    hop.send("HTTP/1.1 200 OK\r\n\r\n").expect_bytes("early");
    client.expect_tunnel().send("ping");
    hop.expect_bytes("ping");
}

/// A client that has sent this to a relay in front of an upstream played by hand.
fn asked(request: &str) -> (Proxy, Upstream, Client) {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send(request);
    (proxy, upstream, client)
}
