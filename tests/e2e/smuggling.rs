//! Attacks that live from two parsers reading one message in two ways (RFC 9112 §11.2).
//!
//! Every test has the same three parts: the attack, the proof that nothing of it was forwarded,
//! and an honest request on a new connection that still works.

use super::harness::{Proxy, Talk, Upstream, expect_bad_gateway, expect_refused_and_closed};

/// Behind every attack: what an attacker wants to be taken for a request.
const SMUGGLED: &str = "GET http://smuggled.test/ HTTP/1.1\r\nHost: smuggled.test\r\n\r\n";

/// D11b.
#[test]
fn length_and_coding_together_are_refused() {
    check_fields(
        400,
        &[
            "Content-Length: 6\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 6",
            "Content-Length: 0\r\nTransfer-Encoding: chunked",
            "content-length: 6\r\ntransfer-encoding: CHUNKED",
            "Transfer-Encoding: chunked\r\nX-A: b\r\nContent-Length: 6",
        ],
    );
}

/// D11b.
#[test]
fn lengths_that_differ_are_refused() {
    check_fields(
        400,
        &[
            "Content-Length: 0\r\nContent-Length: 6",
            "Content-Length: 6\r\nContent-Length: 0",
            "Content-Length: 0, 6",
            "Content-Length: 6\r\nContent-Length: 6, 7",
        ],
    );
}

/// D11b: `+5` was a length.
#[test]
fn a_length_that_is_not_only_digits_is_refused() {
    check_fields(
        400,
        &[
            "Content-Length: +6",
            "Content-Length: -6",
            "Content-Length: -0",
            "Content-Length: 0x6",
            "Content-Length: 6.0",
            "Content-Length: 6e0",
            "Content-Length: 6 6",
            "Content-Length: 6;",
            "Content-Length: \"6\"",
            "Content-Length:",
            "Content-Length: ,",
            "Content-Length: six",
            "Content-Length: 18446744073709551616",
            "Content-Length: 99999999999999999999999999",
        ],
    );
}

/// D11b: `xchunked` was chunked.
#[test]
fn a_coding_other_than_chunked_is_501() {
    check_fields(
        501,
        &[
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunkedx",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: identity, chunked",
        ],
    );
}

#[test]
fn a_malformed_coding_is_refused() {
    check_fields(
        400,
        &[
            "Transfer-Encoding:",
            "Transfer-Encoding: ,",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: chunked;q=1",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\u{b}",
            "Transfer-Encoding: \0chunked",
        ],
    );
}

#[test]
fn a_framing_field_in_disguise_is_refused() {
    check_fields(
        400,
        &[
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\t: chunked",
            " Transfer-Encoding: chunked",
            "X-A: b\r\n Transfer-Encoding: chunked",
            "X-A: b\rTransfer-Encoding: chunked",
            "X-A: b\nTransfer-Encoding: chunked",
            "Transfer-Encoding:\r\n chunked",
            "Content-Length : 6",
            "Content-Length: 6\r\n 7",
            "Transfer\0Encoding: chunked",
            "Transfer-Encoding\u{a0}: chunked",
        ],
    );
}

#[test]
fn a_coding_in_http_1_0_is_refused() {
    let request = format!(
        "POST http://o.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
    );
    expect_refused_and_closed(400, [request]);
}

#[test]
fn a_body_where_nobody_expects_one_is_refused() {
    let with = |method: &str, version: &str| {
        let length = SMUGGLED.len();
        format!(
            "{method} http://o.test/ {version}\r\nHost: o.test\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
        )
    };
    let attacks = [
        ("GET", "HTTP/1.0"),
        ("HEAD", "HTTP/1.0"),
        ("DELETE", "HTTP/1.0"),
    ];
    for (method, version) in attacks {
        let upstream = Upstream::echo_ok("a");
        let proxy = Proxy::over([&upstream]);
        let mut client = proxy.client();
        client.send_as_far_as_possible(with(method, version));
        client.expect_head(400).expect_field("Connection", "close");
        client.socket().read_to_end();
        upstream.expect_untouched();
        proxy.expect_honest_request_works();
    }
    expect_refused_and_closed(400, [with("TRACE", "HTTP/1.1")]);
}

/// The head was in order and may have been forwarded: then the upstream must never see an end.
#[test]
fn a_malformed_chunk_of_a_request_is_never_completed() {
    let bodies = [
        "x\r\n",
        "\r\n0\r\n\r\n",
        "+2\r\nhi\r\n0\r\n\r\n",
        "-2\r\nhi\r\n0\r\n\r\n",
        "0x2\r\nhi\r\n0\r\n\r\n",
        " 2\r\nhi\r\n0\r\n\r\n",
        "2 \r\nhi\r\n0\r\n\r\n",
        "2\nhi\r\n0\r\n\r\n",
        "2\rhi\r\n0\r\n\r\n",
        "2\r\nhi\n0\r\n\r\n",
        "2\r\nhiX\r\n0\r\n\r\n",
        "2\r\nhi0\r\n\r\n",
        "2\r\nh\r\n0\r\n\r\n",
        "2;a\nb\r\nhi\r\n0\r\n\r\n",
        "2;a\0\r\nhi\r\n0\r\n\r\n",
        "00000000000000000002\r\nhi\r\n0\r\n\r\n",
        "10000000000000002\r\nhi\r\n0\r\n\r\n",
        "ffffffffffffffff1\r\nhi\r\n0\r\n\r\n",
        "2_\r\nhi\r\n0\r\n\r\n",
        "2,\r\nhi\r\n0\r\n\r\n",
        "2\r\nhi\r\n0\r\nX : y\r\n\r\n",
        "2\r\nhi\r\n0\r\nX\r\n\r\n",
        "2\r\nhi\r\n0\r\nX: y\n\r\n",
        "2\r\nhi\r\n0\r\n X: y\r\n\r\n",
        "2\r\nhi\r\n0\n\r\n",
        "2\r\nhi\r\n0\r\n\n",
    ];
    for body in bodies {
        check_chunked(400, body);
    }
}

#[test]
fn an_endless_chunk_extension_is_refused() {
    check_chunked(
        431,
        &format!("2;{}\r\nhi\r\n0\r\n\r\n", "x".repeat(100_000)),
    );
    check_chunked(431, &("1;a=b\r\nx\r\n".repeat(50_000) + "0\r\n\r\n"));
}

#[test]
fn an_endless_trailer_section_is_refused() {
    check_chunked(
        431,
        &format!("2\r\nhi\r\n0\r\nX-A: {}\r\n\r\n", "x".repeat(100_000)),
    );
    check_chunked(
        431,
        &format!("2\r\nhi\r\n0\r\n{}\r\n", "X-A: b\r\n".repeat(2_000)),
    );
}

/// What stands within a body is no request, and what stands behind it is one of its own.
#[test]
fn a_request_inside_a_body_is_data() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let length = SMUGGLED.len();
    let mut client = proxy.client();
    client.send(format!(
        "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
    ));
    client
        .expect_status(200)
        .get("http://o.test/next")
        .expect_status(200);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    requests[0].expect_body(SMUGGLED);
    requests[1]
        .expect_line("GET http://o.test/next HTTP/1.1")
        .expect_body("");
}

/// A second head behind a request without a body is judged as strictly as the first.
#[test]
fn an_attack_behind_an_honest_request_is_refused() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send_as_far_as_possible(format!(
        "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n\
         POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 6\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
    ));
    client.expect_status(200).expect_refusal_and_close(400);
    upstream.expect_never_saw("smuggled");
    assert_eq!(upstream.requests().len(), 1);
    proxy.expect_honest_request_works();
}

#[test]
fn a_response_that_can_be_read_in_two_ways_is_502() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";
    expect_bad_gateway([
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}"
        ),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n{evil}"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\n{evil}"),
        format!("HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n{evil}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n{evil}"),
        format!("HTTP/1.1 304 No\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n{evil}"),
        format!("HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 0\r\n\r\n{evil}"),
        format!("HTTP/1.1 200 OK\nContent-Length: 0\n\n{evil}"),
    ]);
}

/// A field value cannot begin a line of its own at the next hop.
#[test]
fn nothing_a_client_sends_can_begin_a_line_at_the_upstream() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    proxy
        .client()
        .send(
            "GET http://o.test/%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: o.test\r\n\
             X-A: b\\r\\nX-Evil: 1\r\n\r\n",
        )
        .expect_status(200);
    upstream.requests()[0].expect_no_field("X-Evil");
}

/// A POST with these fields, and with bytes behind it that are a request in one of its readings.
#[track_caller]
fn check_fields(status: u16, fields: &[&str]) {
    let attack = |fields| {
        let attack = format!(
            "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}"
        );
        // A char is a byte: nothing here is meant as UTF-8.
        attack
            .chars()
            .map(|c| u8::try_from(u32::from(c)).expect("a byte"))
            .collect::<Vec<_>>()
    };
    expect_refused_and_closed(status, fields.iter().map(attack));
}

/// A chunked POST with this body is answered with this status, its connection closed, and never complete
/// at the upstream, which stays online.
#[track_caller]
fn check_chunked(status: u16, body: &str) {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send_as_far_as_possible(format!(
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n\
         {body}{SMUGGLED}"
    ));
    client.expect_refusal_and_close(status);
    proxy.expect_at_rest();
    proxy.expect_online("a");
    assert!(upstream.requests().is_empty(), "completed with {body:?}");
    upstream.expect_never_saw("smuggled");
    proxy.expect_honest_request_works();
}
