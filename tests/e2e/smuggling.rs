//! Attacks that live from two parsers reading one message in two ways (RFC 9112 §11.2), where a row of the
//! tables in `desync` cannot tell them: several messages, and bodies without an end.

use super::harness::{Proxy, Talk, Upstream};

/// Behind every attack: what an attacker wants to be taken for a request.
const SMUGGLED: &str = "GET http://smuggled.test/ HTTP/1.1\r\nHost: smuggled.test\r\n\r\n";

#[test]
fn an_endless_chunk_extension_is_refused() {
    check_endless(&format!("2;{}\r\nhi\r\n0\r\n\r\n", "x".repeat(100_000)));
    check_endless(&("1;a=b\r\nx\r\n".repeat(50_000) + "0\r\n\r\n"));
}

#[test]
fn an_endless_trailer_section_is_refused() {
    check_endless(&format!(
        "2\r\nhi\r\n0\r\nX-A: {}\r\n\r\n",
        "x".repeat(100_000)
    ));
    check_endless(&format!(
        "2\r\nhi\r\n0\r\n{}\r\n",
        "X-A: b\r\n".repeat(2_000)
    ));
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

/// A chunked POST with this body is answered with 431, its connection closed, and never complete at the
/// upstream, which stays online.
#[track_caller]
fn check_endless(body: &str) {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send_as_far_as_possible(format!(
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n\
         {body}{SMUGGLED}"
    ));
    client.expect_refusal_and_close(431);
    proxy.expect_at_rest();
    proxy.expect_online("a");
    assert!(upstream.requests().is_empty(), "completed with {body:?}");
    upstream.expect_never_saw("smuggled");
    proxy.expect_honest_request_works();
}
