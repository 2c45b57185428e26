//! The harness tested on itself, client against upstream with no proxy between: when these fail,
//! look at nothing else.

use super::wire::{AtEnd, Kind, Unread};
use super::{Client, Message, Origin, ProbeAnswer, Talk, Upstream, pattern, spawn, wait_until};

#[test]
fn an_echoing_upstream_answers_with_its_name_and_keeps_the_connection() {
    let upstream = Upstream::echo_ok("a");
    let mut client = Client::connect(upstream.address());
    client
        .get("http://o.test/1")
        .expect_status(200)
        .expect_body("a");
    client
        .get("http://o.test/2")
        .expect_status(200)
        .expect_body_with("a");
    client
        .send("HEAD http://o.test/3 HTTP/1.1\r\n\r\n")
        .expect_head(200);
    client
        .send("GET /4 HTTP/1.1\r\nConnection: close\r\n\r\n")
        .expect_status(200)
        .expect_closed();
    assert_eq!(upstream.connections(), 1);
    assert_eq!(upstream.requests().len(), 4);
    upstream.expect_never_saw("/5");
}

#[test]
fn an_echoing_upstream_echoes_tunnels_to_names_and_connects_those_to_addresses() {
    let upstream = Upstream::echo_ok("a");
    let origin = Origin::echo_ok("origin");
    let mut to_name = Client::connect(upstream.address());
    to_name
        .open_tunnel("o.test:443")
        .send("ping")
        .expect_bytes("ping");
    to_name.half_close().expect_closed();
    let mut to_address = Client::connect(upstream.address());
    to_address.open_tunnel(&origin.authority());
    to_address
        .get("http://o.test/")
        .expect_status(200)
        .expect_body("origin");
}

#[test]
fn probes_are_answered_and_counted_apart() {
    let upstream = Upstream::by_hand("a");
    let probe = |answer| {
        upstream.answer_probes(answer);
        let mut client = Client::connect(upstream.address());
        client.get("http://probe.test/probe-generate_204");
        client
    };
    probe(ProbeAnswer::Good).expect_status(204).expect_closed();
    probe(ProbeAnswer::Status(403))
        .expect_status(403)
        .expect_closed();
    probe(ProbeAnswer::Close).expect_closed();
    probe(ProbeAnswer::Silence).expect_nothing_more();
    upstream.expect_untouched();
    assert_eq!(upstream.probes().len(), 4);
}

#[test]
fn a_dead_upstream_refuses_and_a_revived_one_answers_on_the_same_port() {
    let upstream = Upstream::refusing("a");
    let connect = || std::net::TcpStream::connect_timeout(&upstream.address(), super::PATIENCE);
    connect().expect_err("nobody listens");
    upstream.revive();
    let mut client = Client::connect(upstream.address());
    client.get("http://o.test/").expect_status(200);
    upstream.kill();
    client.expect_gone();
    connect().expect_err("nobody listens");
}

#[test]
fn a_silent_upstream_keeps_the_connection_and_says_nothing() {
    let upstream = Upstream::silent("a");
    let mut client = Client::connect(upstream.address());
    client
        .get("http://probe.test/probe-generate_204")
        .expect_nothing_more();
    wait_until(|| upstream.probes().len() == 1);
    let mut client = Client::connect(upstream.address());
    client.get("http://o.test/").expect_nothing_more();
    wait_until(|| upstream.connections() == 1);
}

#[test]
fn a_script_plays_one_connection_after_the_other() {
    let upstream = Upstream::script("a")
        .read_request()
        .send("HTTP/1.1 204 No Content\r\n\r\n")
        .close()
        .next_connection()
        .expect_bytes("hello")
        .reset()
        .next_connection()
        .stall();
    let mut first = Client::connect(upstream.address());
    first
        .get("http://o.test/")
        .expect_status(204)
        .expect_closed();
    Client::connect(upstream.address())
        .send("hello\n")
        .expect_reset();
    let mut third = Client::connect(upstream.address());
    third.send("hello\n");
    third.close();
}

#[test]
fn a_test_can_play_both_sides_in_turn() {
    let upstream = Upstream::by_hand("a");
    let mut client = Client::connect(upstream.address());
    client.send_in_pieces([
        "GET /one HT",
        "TP/1.1\r\nContent-Length: 3\r",
        "\n\r\nab",
        "cdef\n",
    ]);
    let (mut hop, request) = upstream.accept_and_read_request();
    request
        .expect_line("GET /one HTTP/1.1")
        .expect_field("content-length", "3")
        .expect_body("abc");
    hop.expect_bytes("def\n").send_ok("fine");
    client
        .expect_status(200)
        .expect_body("fine")
        .expect_no_field("Via");
    client.send_byte_by_byte("POST /two HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n");
    hop.read_head().expect_line("POST /two HTTP/1.1");
    client.reset();
    hop.expect_reset();
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn large_bodies_are_sent_while_the_test_goes_on() {
    let upstream = Upstream::echo_ok("a");
    let bytes = pattern(3_000_000);
    let mut client = Client::connect(upstream.address());
    client.open_tunnel("o.test:443");
    let sender = client.send_in_background(bytes.clone());
    client.expect_bytes(bytes);
    sender
        .join()
        .expect("the sender")
        .expect("everything is sent");
}

#[test]
fn an_origin_may_speak_first() {
    let origin = Origin::by_hand("origin");
    let address = origin.authority().parse().expect("an address");
    let mut client = Client::connect(address);
    origin.accept().send("220 ready\r\n").half_close();
    assert_eq!(client.read_until("\r\n"), "220 ready\r\n");
    client.expect_closed();
}

#[test]
fn messages_are_read_by_their_framing() {
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi!", Ok("hi"));
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh",
        Err(Unread::Incomplete),
    );
    check("HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\nhi", Ok(""));
    check(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: x\r\n\r\n",
        Ok("hi"),
    );
    check(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n",
        Err(Unread::Incomplete),
    );
    let both = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n";
    let wrong = "both Transfer-Encoding and Content-Length".to_owned();
    check(both, Err(Unread::Wrong(wrong)));
}

#[test]
fn a_close_delimited_body_ends_with_the_connection() {
    let bytes = b"HTTP/1.1 200 OK\r\n\r\nhi";
    let open = Message::parse(bytes, Kind::Response, AtEnd::MoreMayCome);
    assert_eq!(open.err(), Some(Unread::Incomplete));
    let closed = Message::parse(bytes, Kind::Response, AtEnd::Closed).expect("complete");
    closed
        .expect_body("hi")
        .expect_raw_body("hi")
        .expect_trailers(&[]);
}

#[test]
fn a_helper_thread_returns_its_value() {
    assert_eq!(spawn("seven", || 7).join().expect("no panic"), 7);
}

#[track_caller]
fn check(bytes: &str, expected: Result<&str, Unread>) {
    let message = Message::parse(bytes.as_bytes(), Kind::Response, AtEnd::MoreMayCome);
    assert_eq!(
        message.map(|message| message.text()),
        expected.map(str::to_owned)
    );
}
