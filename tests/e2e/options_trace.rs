//! OPTIONS, TRACE and `Max-Forwards` (RFC 9110 §7.6.2, §9.3.7, §9.3.8).

use super::harness::{
    Client, Proxy, Talk, Upstream, expect_refused_and_closed, forwarded, forwarded_direct,
};

#[test]
fn a_trace_with_no_forwards_left_is_answered_here() {
    let (upstream, _proxy, mut client) = echoing();
    client.send(
        "TRACE http://o.test/x?y HTTP/1.1\r\nHost: o.test\r\nMax-Forwards: 0\r\nX-Test: 1\r\n\
         Via: 1.1 before\r\n\r\n",
    );
    client
        .expect_status(200)
        .expect_field("Content-Type", "message/http");
    client
        .expect_body_with("TRACE http://o.test/x?y HTTP/1.1\r\n")
        .expect_body_with("X-Test: 1");
    client.expect_body_with("Via: 1.1 before");
    client
        .get("http://o.test/")
        .expect_status(200)
        .expect_body("a");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn what_a_trace_echoes_has_no_secrets() {
    let (upstream, _proxy, mut client) = echoing();
    client.send(
        "TRACE http://bob:hunter2@o.test/ HTTP/1.1\r\nHost: o.test\r\nMax-Forwards: 0\r\n\
         Authorization: Basic hunter2\r\nCookie: hunter2\r\nProxy-Authorization: Basic hunter2\r\n\
         proxy-x: hunter2\r\nX-Test: 1\r\n\r\n",
    );
    client.expect_status(200).expect_body_with("X-Test: 1");
    let text = client.message().text();
    assert!(!text.contains("hunter2"), "{text}");
    upstream.expect_untouched();
}

/// It would answer with the request as it got it.
#[test]
fn no_upstream_gets_our_credentials_with_a_trace() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([a.with("{username: bob, password: hunter2}")]);
    for field in ["Max-Forwards: 1\r\n", "Max-Forwards: 9\r\n", ""] {
        let mut client = proxy.client();
        client.send(format!(
            "TRACE http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{field}\r\n"
        ));
        client
            .expect_status(200)
            .expect_body_with("TRACE http://o.test/ HTTP/1.1\r\n");
    }
    a.expect_untouched();
}

#[test]
fn options_with_no_forwards_left_is_answered_here() {
    let (upstream, _proxy, mut client) = echoing();
    for target in ["http://o.test/", "http://o.test"] {
        client.send(format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: o.test\r\nMax-Forwards: 0\r\n\r\n"
        ));
        client.read_response();
        assert!([200, 204].contains(&client.message().status()));
        client.expect_body("");
    }
    upstream.expect_untouched();
}

#[test]
fn forwards_that_are_left_are_counted_down() {
    for method in ["TRACE", "OPTIONS"] {
        with_max_forwards(method, "1").expect_field("Max-Forwards", "0");
        with_max_forwards(method, "10").expect_field("Max-Forwards", "9");
    }
}

#[test]
fn other_methods_are_not_limited() {
    for method in ["GET", "PUT", "PROPFIND"] {
        with_max_forwards(method, "0").expect_field("Max-Forwards", "0");
    }
}

#[test]
fn a_request_without_the_field_gets_none() {
    forwarded("TRACE http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .expect_no_field("Max-Forwards");
}

#[test]
fn trace_with_a_body_is_refused() {
    let request = |field| {
        format!("TRACE http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{field}\r\n\r\n0\r\n\r\n")
    };
    let fields = ["Content-Length: 5", "Transfer-Encoding: chunked"];
    expect_refused_and_closed(400, fields.map(request));
}

#[test]
fn options_for_an_empty_path_is_about_the_origin_itself() {
    forwarded_direct("OPTIONS http://{origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n")
        .expect_line("OPTIONS * HTTP/1.1");
    forwarded_direct("OPTIONS http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\r\n")
        .expect_line("OPTIONS / HTTP/1.1");
}

#[test]
fn options_for_an_empty_path_stays_one_at_an_upstream() {
    forwarded("OPTIONS http://o.test HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .expect_line("OPTIONS http://o.test HTTP/1.1")
        .expect_field("Host", "o.test");
    forwarded("OPTIONS http://o.test:8080 HTTP/1.1\r\nHost: o.test:8080\r\n\r\n")
        .expect_line("OPTIONS http://o.test:8080 HTTP/1.1");
}

#[test]
fn options_may_have_a_body() {
    forwarded("OPTIONS http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi")
        .expect_body("hi");
}

fn echoing() -> (Upstream, Proxy, Client) {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let client = proxy.client();
    (upstream, proxy, client)
}

#[track_caller]
fn with_max_forwards(method: &str, value: &str) -> super::harness::Message {
    forwarded(format!(
        "{method} http://o.test/ HTTP/1.1\r\nHost: o.test\r\nMax-Forwards: {value}\r\n\r\n"
    ))
}
