//! Responses before the final one, `Expect: 100-continue`, and final responses that come before
//! the request is complete (RFC 9110 §10.1.1, §15.2; RFC 9112 §9.3).

use super::harness::{Client, Proxy, Talk, Upstream, forwarded, wait_until};

const EXPECTING: &str = "PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\
                         Expect: 100-continue\r\nContent-Length: 5\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// D9: the 100 was taken for the answer, and the answer never came.
#[test]
fn a_100_is_relayed_and_so_is_the_response_behind_it() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 100 Continue\r\n\r\n");
    client.expect_head(100);
    hop.send(OK);
    client.expect_status(200).expect_body("hi");
}

/// D9.
#[test]
fn early_hints_are_relayed_with_their_fields() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Hop\r\n\
         X-Hop: 1\r\n\r\n",
    );
    client
        .expect_head(103)
        .expect_field("Link", "</a.css>; rel=preload")
        .expect_no_field("X-Hop");
    client
        .expect_no_field("Content-Length")
        .expect_no_field("Transfer-Encoding");
    hop.send(OK);
    client.expect_status(200).expect_body("hi");
}

/// The end came in one event with the interim response, and was seen a second later.
#[test]
fn a_close_behind_an_interim_response_is_no_answer() {
    let (proxy, upstream, mut client) = one_upstream();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 102 Processing\r\n\r\n");
    drop(hop);
    client.expect_head(102).expect_status(502);
    proxy.expect_at_rest();
}

#[test]
fn several_interim_responses_in_one_piece_with_the_final_one_are_relayed() {
    let (proxy, upstream, mut client) = one_upstream();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{OK}"
    ));
    client
        .expect_head(100)
        .expect_head(102)
        .expect_status(200)
        .expect_body("hi");
    proxy.expect_at_rest();
    client.get("http://o.test/again");
    hop.read_request();
    hop.send_byte_by_byte(format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}"));
    client.expect_head(103).expect_status(200).expect_body("hi");
}

/// D10: the body was waited for before the answer of the upstream was read.
#[test]
fn expect_continue_works_end_to_end() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(EXPECTING);
    let mut hop = upstream.accept();
    hop.read_head()
        .expect_field("Expect", "100-continue")
        .expect_field("Content-Length", "5");
    hop.send("HTTP/1.1 100 Continue\r\n\r\n");
    client.expect_head(100).send("hello");
    hop.expect_bytes("hello").send(OK);
    client.expect_status(200).expect_body("hi");
    client.get("http://o.test/again");
    hop.read_request();
    hop.send(OK);
    client.expect_status(200);
}

#[test]
fn expect_continue_works_with_a_chunked_body() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nExpect: 100-Continue\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    let mut hop = upstream.accept();
    hop.read_head();
    hop.send("HTTP/1.1 100 Continue\r\n\r\n");
    client.expect_head(100).send("5\r\nhello\r\n0\r\n\r\n");
    hop.expect_bytes("5\r\nhello\r\n0\r\n\r\n").send(OK);
    client.expect_status(200).expect_body("hi");
}

/// D10: a client that waits for 100 learns at once that its body is not wanted.
#[test]
fn a_final_answer_instead_of_100_is_relayed_at_once() {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(EXPECTING);
    let mut hop = upstream.accept();
    hop.read_head();
    hop.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno");
    client.expect_status(417).expect_body("no");
    // Whether the client will still send the body cannot be known: the connections end.
    client.expect_field("Connection", "close").expect_closed();
    hop.expect_gone();
    proxy.expect_at_rest();
    proxy.expect_online("a");
}

#[test]
fn a_client_that_does_not_wait_for_100_is_served() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(format!("{EXPECTING}hello"));
    let mut hop = upstream.accept();
    hop.read_head();
    hop.expect_bytes("hello").send(OK);
    client.expect_status(200).expect_body("hi");
    client.get("http://o.test/again");
    hop.read_request();
    hop.send(OK);
    client.expect_status(200);
}

/// D10: the upload went on against an upstream that had long answered.
#[test]
fn a_final_answer_to_a_half_sent_upload_is_relayed_at_once() {
    for framing in [
        "Content-Length: 1000000\r\n\r\nsome",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
    ] {
        let (proxy, upstream, mut client) = one_upstream();
        client.send(format!(
            "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{framing}"
        ));
        let mut hop = upstream.accept();
        hop.read_head();
        hop.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
        client.expect_status(413).expect_body("no");
        client.expect_field("Connection", "close").expect_closed();
        proxy.expect_at_rest();
        proxy.expect_online("a");
    }
}

/// D10: with an upstream that reads nothing more, so that the upload fills all buffers.
#[test]
fn a_final_answer_reaches_a_client_that_is_stuck_in_its_upload() {
    let (proxy, upstream, mut client) = one_upstream();
    let bytes = vec![b'x'; 30_000_000];
    let length = bytes.len();
    client.send(format!(
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {length}\r\n\r\n"
    ));
    let sender = client.send_in_background(bytes);
    let mut hop = upstream.accept();
    hop.read_head();
    hop.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
    client.expect_status(413).expect_body("no");
    hop.close();
    client.close();
    drop(sender.join().expect("the sender"));
    proxy.expect_at_rest();
    proxy.expect_online("a");
}

/// The response has begun, so the request may end before it, and both go on.
#[test]
fn a_response_may_begin_before_the_request_is_complete() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 4\r\n\r\nab");
    let mut hop = upstream.accept();
    hop.read_head();
    hop.expect_bytes("ab")
        .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nAB");
    client.expect_head(200).expect_bytes("AB");
    hop.send("CD");
    client.expect_bytes("CD");
}

#[test]
fn an_expectation_is_passed_on_only_for_http_1_1() {
    forwarded(
        "POST http://o.test/ HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    )
    .expect_no_field("Expect")
    .expect_body("hi");
}

#[test]
fn an_http_1_0_client_gets_no_interim_response() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("GET http://o.test/ HTTP/1.0\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n{OK}"
    ));
    client.expect_status(200).expect_body("hi").expect_closed();
}

#[test]
fn an_endless_run_of_interim_responses_is_502() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi");
    let (mut hop, _) = upstream.accept_and_read_request();
    let sender = hop.send_in_background(b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000));
    while client.read_head().status() == 103 {}
    assert_eq!(client.message().status(), 502);
    drop(hop);
    drop(sender.join().expect("the sender"));
}

#[test]
fn a_connection_that_ends_after_an_interim_response_is_502() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    client.expect_head(103);
    hop.close();
    client.expect_refusal(502);
}

#[test]
fn a_client_that_gives_up_after_100_takes_nobody_offline() {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(EXPECTING);
    let mut hop = upstream.accept();
    hop.read_head();
    hop.send("HTTP/1.1 100 Continue\r\n\r\n");
    client.expect_head(100).send("hel");
    client.close();
    hop.expect_truncated("hel");
    proxy.expect_at_rest();
    proxy.expect_online("a");
    wait_until(|| proxy.counts().connections == 0);
}

fn one_upstream() -> (Proxy, Upstream, Client) {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let client = proxy.client();
    (proxy, upstream, client)
}
