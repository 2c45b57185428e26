//! What a head may look like, from either side (RFC 9112 §2 to §5), and how large it may be.

use super::harness::{
    Message, Proxy, Talk, Upstream, expect_bad_gateway, expect_refused_and_closed, forwarded,
    latin1, numbered_fields, relayed,
};

const REQUEST_LINE_MAX: usize = 16 * 1024;
const HEAD_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 256;

#[test]
fn a_head_may_come_in_any_pieces() {
    let request = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nX-Test: a b\r\n\r\n";
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    proxy.client().send_byte_by_byte(request).expect_status(200);
    for at in 1..request.len() {
        let (before, after) = request.split_at(at);
        proxy
            .client()
            .send_in_pieces([before, after])
            .expect_status(200);
    }
    for request in upstream.requests() {
        request
            .expect_line("GET http://o.test/ HTTP/1.1")
            .expect_field("X-Test", "a b");
    }
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    forwarded("\r\n\r\nGET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .expect_line("GET http://o.test/ HTTP/1.1");
}

#[test]
fn optional_whitespace_around_a_value_is_no_part_of_it() {
    forwarded("GET http://o.test/ HTTP/1.1\r\nHost: \t o.test \t\r\nX-A:b\r\nX-C: \t\r\n\r\n")
        .expect_field("X-A", "b")
        .expect_field("X-C", "");
}

/// D7: the byte E9 became EF BF BD.
#[test]
fn bytes_beyond_ascii_in_a_value_pass_unchanged() {
    forwarded(b"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nX-Name: caf\xe9 \xff\r\n\r\n")
        .expect_field("X-Name", "caf\u{e9} \u{ff}");
    relayed(b"HTTP/1.1 200 D\xe9j\xe0 vu\r\nX-Name: caf\xe9\r\nContent-Length: 0\r\n\r\n")
        .expect_line("HTTP/1.1 200 D\u{e9}j\u{e0} vu")
        .expect_field("X-Name", "caf\u{e9}");
}

/// D7: a field behind a bare line feed was seen by one parser and not by the other.
#[test]
fn a_bare_line_feed_or_carriage_return_is_refused() {
    expect_refused_and_closed(
        400,
        [
            "GET http://o.test/ HTTP/1.1\nHost: o.test\r\n\r\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\nProxy-Authorization: Basic eA==\r\n\r\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\n\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nX-A: b\rc\r\n\r\n",
            "\nGET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
        ],
    );
}

#[test]
fn a_malformed_field_line_is_refused() {
    let lines = [
        "Host : o.test",
        "X-A : b",
        "X-A\t: b",
        ": b",
        "X-A",
        "X A: b",
        "X-(A): b",
        "X-A: b\r\n folded",
        "X-A: b\r\n\tfolded",
        " X-A: b",
        "X-A: \0",
        "X-A: \u{1}",
        "X-A: \u{7f}",
    ];
    let request = |line| format!("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{line}\r\n\r\n");
    expect_refused_and_closed(400, lines.map(request));
}

#[test]
fn a_malformed_request_line_is_refused() {
    let lines = [
        "GET  http://o.test/ HTTP/1.1",
        "GET http://o.test/  HTTP/1.1",
        "GET\thttp://o.test/ HTTP/1.1",
        "GET http://o.test/\tHTTP/1.1",
        "GET http://o.test/ HTTP/1.1 ",
        " GET http://o.test/ HTTP/1.1",
        "GET http://o.test/",
        "GET HTTP/1.1",
        "G(T http://o.test/ HTTP/1.1",
        "GET http://o.test/ http/1.1",
        "GET http://o.test/ HTTP/1",
        "GET http://o.test/ HTTP/1.10",
        "GET http://o.test/ HTTP/1.1x",
        "GET http://o.test/a\0b HTTP/1.1",
        "GET http://o.test/a\u{1}b HTTP/1.1",
    ];
    let request = |line| format!("{line}\r\nHost: o.test\r\n\r\n");
    expect_refused_and_closed(400, lines.map(request));
}

#[test]
fn another_major_version_is_505() {
    expect_refused_and_closed(
        505,
        [
            "GET http://o.test/ HTTP/2.0\r\nHost: o.test\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    );
}

#[test]
fn a_higher_minor_version_is_answered_as_1_1() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let request = "GET http://o.test/ HTTP/1.2\r\nHost: o.test\r\n\r\n";
    proxy
        .client()
        .send(request)
        .expect_status(200)
        .send(request)
        .expect_status(200);
    upstream.requests()[0].expect_line("GET http://o.test/ HTTP/1.1");
}

/// A client that speaks TLS to us must not wait for a timeout.
#[test]
fn what_cannot_become_a_request_is_refused_at_once() {
    expect_refused_and_closed(
        400,
        [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"\x05\x01\x00",
            b"\0",
            b"{",
        ],
    );
}

#[test]
fn http_1_1_needs_exactly_one_valid_host() {
    expect_refused_and_closed(
        400,
        [
            "GET http://o.test/ HTTP/1.1\r\n\r\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nHost: o.test\r\n\r\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nhost: other.test\r\n\r\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test, other.test\r\n\r\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: o test\r\n\r\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: http://o.test/\r\n\r\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: bob@o.test\r\n\r\n",
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test:99999\r\n\r\n",
            "CONNECT o.test:443 HTTP/1.1\r\n\r\n",
            "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\nHost: o.test:443\r\n\r\n",
        ],
    );
}

/// D18: it was a reset without an answer.
#[test]
fn a_request_line_that_is_too_long_is_414() {
    let request = |length| request_line(length) + "\r\nHost: o.test\r\n\r\n";
    forwarded(request(REQUEST_LINE_MAX - 2));
    expect_refused_and_closed(
        414,
        [request(REQUEST_LINE_MAX + 1), request_line(HEAD_MAX * 2)],
    );
}

/// D18.
#[test]
fn a_head_that_is_too_large_is_431() {
    forwarded(head_of(HEAD_MAX));
    expect_refused_and_closed(431, [head_of(HEAD_MAX + 1), head_of(4 * HEAD_MAX)]);
}

/// D18: more than 96 were refused.
#[test]
fn two_hundred_and_fifty_six_fields_pass_and_one_more_is_431() {
    let request = |count| {
        let fields = numbered_fields(count - 1);
        format!("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{fields}\r\n")
    };
    let passed = forwarded(request(FIELDS_MAX));
    assert_eq!(
        passed
            .names()
            .iter()
            .filter(|name| name.starts_with("x-"))
            .count(),
        FIELDS_MAX - 1
    );
    expect_refused_and_closed(431, [request(FIELDS_MAX + 1), request(4 * FIELDS_MAX)]);
}

#[test]
fn the_size_of_a_head_is_configurable() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {max_header_bytes: 4096}", [&upstream]);
    proxy.client().send(head_of(4096)).expect_status(200);
    proxy
        .client()
        .send_as_far_as_possible(head_of(4097))
        .expect_refusal_and_close(431);
}

/// D19b: slow heads held a connection for ever.
#[test]
fn a_head_that_stays_incomplete_is_408() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {header_timeout_secs: 0.3}", [&upstream]);
    for begun in [
        "G",
        "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n",
        "\r\n",
    ] {
        proxy.client().send(begun).expect_refusal_and_close(408);
    }
    upstream.expect_untouched();
    proxy.expect_honest_request_works();
}

#[test]
fn a_response_with_many_fields_passes() {
    let fields = numbered_fields(200);
    let response = relayed(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{fields}\r\nhi"
    ));
    assert_eq!(
        response
            .names()
            .iter()
            .filter(|name| name.starts_with("x-"))
            .count(),
        200
    );
    response.expect_body("hi");
}

#[test]
fn a_response_head_may_come_in_any_pieces() {
    let response = "HTTP/1.1 200 Fine\r\nX-Test: a b\r\nContent-Length: 2\r\n\r\nhi";
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_byte_by_byte(response);
    client
        .expect_status(200)
        .expect_field("X-Test", "a b")
        .expect_body("hi");
    for at in 1..response.len() {
        let (before, after) = response.split_at(at);
        client.get("http://o.test/");
        hop.read_request();
        hop.send_in_pieces([before, after]);
        client
            .expect_status(200)
            .expect_field("X-Test", "a b")
            .expect_body("hi");
    }
}

#[test]
fn a_response_without_a_reason_passes() {
    relayed("HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n").expect_line("HTTP/1.1 404 ");
    relayed("HTTP/1.1 599 Odd: reason\r\nContent-Length: 0\r\n\r\n")
        .expect_line("HTTP/1.1 599 Odd: reason");
}

#[test]
fn a_malformed_response_head_is_502() {
    expect_bad_gateway([
        "EVIL\r\n\r\n",
        "HTTP/2 200 OK\r\nX: EVIL\r\n\r\n",
        "HTTP/1.1 20 EVIL\r\n\r\n",
        "HTTP/1.1 2000 EVIL\r\n\r\n",
        "HTTP/1.1 abc EVIL\r\n\r\n",
        "HTTP/1.1 200 OK\nX: EVIL\n\n",
        "HTTP/1.1 200 OK\r\nX: EVIL\n\r\n",
        "HTTP/1.1 200 OK\r\nX \r\n: EVIL\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n EVIL\r\n\r\n",
        "HTTP/1.1 200 OK\r\nEVIL\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: EVIL\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rEVIL\r\n\r\n",
    ]);
}

#[test]
fn a_response_head_that_is_too_large_is_502() {
    let many = "X:y\r\n".repeat(HEAD_MAX / 5);
    let large = "x".repeat(HEAD_MAX);
    expect_bad_gateway([
        format!("HTTP/1.1 200 OK\r\n{many}\r\nEVIL"),
        format!("HTTP/1.1 200 OK\r\nX-Large: {large}\r\n\r\nEVIL"),
    ]);
}

#[test]
fn white_space_before_a_colon_of_a_response_does_not_go_on() {
    let response = relayed("HTTP/1.1 200 OK\r\nX-Note : v\r\nContent-Length: 0\r\n\r\n");
    let raw = latin1(&response.raw);
    assert!(raw.contains("\r\nX-Note: v\r\n"), "{raw}");
}

#[test]
fn a_control_byte_in_a_value_of_a_response_stays() {
    relayed("HTTP/1.1 200 OK\r\nX-Note: a\u{1}\u{b}b\u{7f}\r\nContent-Length: 0\r\n\r\n")
        .expect_field("X-Note", "a\u{1}\u{b}b\u{7f}");
}

#[test]
fn three_hundred_fields_of_a_response_pass() {
    let fields = numbered_fields(300);
    let response = relayed(format!(
        "HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nhi"
    ));
    let names = response.names();
    let passed = names.iter().filter(|name| name.starts_with("x-"));
    assert_eq!(passed.count(), 300);
    response.expect_body("hi");
}

#[test]
fn icy_is_read_as_http_1_0() {
    relayed("ICY 200 OK\r\nicy-name: radio\r\n\r\nmusic")
        .expect_line("HTTP/1.1 200 OK")
        .expect_field("icy-name", "radio")
        .expect_body("music");
}

/// What an upstream answers that has 70 kB to say, with this limit.
fn relayed_within(limit: usize, response: &str) -> Message {
    let upstream = Upstream::by_hand("a");
    let yaml = format!("limits: {{max_header_bytes: {limit}}}");
    let proxy = Proxy::with_yaml(&yaml, [&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_as_far_as_possible(response).half_close();
    client.read_response().clone()
}

#[test]
fn seventy_kilobytes_of_cookies_pass_within_max_header_bytes() {
    let cookie = format!("Set-Cookie: a={}\r\n", "x".repeat(985));
    let response = format!(
        "HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nhi",
        cookie.repeat(70)
    );
    let passed = relayed_within(2 * HEAD_MAX, &response);
    assert_eq!(passed.values("Set-Cookie").len(), 70);
    passed.expect_body("hi");
    let refused = latin1(&relayed_within(HEAD_MAX, &response).raw);
    assert!(refused.starts_with("HTTP/1.1 502 "), "{refused}");
    assert!(refused.contains("limits.max_header_bytes"), "{refused}");
}

#[test]
fn seventy_kilobytes_of_trailers_pass_within_max_header_bytes() {
    let trailers = "X-Trailer: value\r\n".repeat(70_000 / 18);
    let response =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n");
    let passed = latin1(&relayed_within(2 * HEAD_MAX, &response).raw);
    assert!(
        passed.ends_with(&format!("\r\n\r\n0\r\n{trailers}\r\n")),
        "{}",
        passed.len()
    );
}

/// The line without its end, of this length.
fn request_line(length: usize) -> String {
    let around = "GET http://o.test/ HTTP/1.1".len();
    format!("GET http://o.test/{} HTTP/1.1", "x".repeat(length - around))
}

/// A whole head of this many bytes, its blank line included.
fn head_of(bytes: usize) -> String {
    let start = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nX-Large: ";
    format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
}
