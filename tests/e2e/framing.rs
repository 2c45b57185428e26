//! Where a body ends (RFC 9112 §6 and §7), in both directions. What can be read in two ways is in
//! `smuggling`.

use super::harness::{
    Client, Proxy, Talk, Upstream, expect_bad_gateway, expect_refused, forwarded, forwarded_direct,
    pattern, relayed, spawn, wait_until,
};

const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_request_body_of_known_length_arrives_whole() {
    let request = forwarded(format!("{POST}Content-Length: 5\r\n\r\nhello"));
    request
        .expect_field("Content-Length", "5")
        .expect_body("hello");
    request.expect_no_field("Transfer-Encoding");
}

#[test]
fn a_request_without_a_body_has_none_at_the_next_hop() {
    let request = forwarded(format!("{POST}\r\n"));
    request
        .expect_no_field("Content-Length")
        .expect_no_field("Transfer-Encoding");
    forwarded(format!("{POST}Content-Length: 0\r\n\r\n")).expect_field("Content-Length", "0");
}

#[test]
fn repeated_equal_lengths_are_forwarded_as_one() {
    for lengths in [
        "Content-Length: 5, 5",
        "Content-Length: 5\r\nContent-Length: 5",
    ] {
        let request = forwarded(format!("{POST}{lengths}\r\n\r\nhello"));
        request
            .expect_field("Content-Length", "5")
            .expect_body("hello");
        let response = relayed(format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\nhello"));
        response
            .expect_field("Content-Length", "5")
            .expect_body("hello");
    }
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let requests = [
        format!("{POST}Content-Length: 5\r\n\r\nhello"),
        format!("{POST}{CHUNKED}3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
    ];
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    for request in requests {
        proxy
            .client()
            .send_byte_by_byte(&request)
            .expect_status(200);
        for at in POST.len()..request.len() {
            let (before, after) = request.split_at(at);
            proxy
                .client()
                .send_in_pieces([before, after])
                .expect_status(200);
        }
    }
    for request in upstream.requests() {
        request.expect_body("hello");
    }
}

#[test]
fn a_response_may_come_in_any_pieces() {
    let responses = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{CHUNKED}3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
    ];
    let (_proxy, upstream, mut client) = one_upstream();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_byte_by_byte(&responses[0]);
    client.expect_status(200).expect_body("hello");
    for response in responses {
        for at in 15..response.len() {
            client.get("http://o.test/");
            hop.read_request();
            let (before, after) = response.split_at(at);
            hop.send_in_pieces([before, after]);
            client.expect_status(200).expect_body("hello");
        }
        client.get("http://o.test/");
        hop.read_request();
        hop.send_byte_by_byte(response);
        client.expect_status(200).expect_body("hello");
    }
}

#[test]
fn a_chunked_request_passes_byte_for_byte() {
    let body = "0000000000000005\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n";
    let request = forwarded(format!("{POST}{CHUNKED}{body}"));
    request
        .expect_field("Transfer-Encoding", "chunked")
        .expect_raw_body(body);
    request.expect_no_field("Content-Length");
}

#[test]
fn a_chunked_response_passes_byte_for_byte() {
    let body = "005\r\nhello\r\na\r\n0123456789\r\n0\r\n\r\n";
    relayed(format!("HTTP/1.1 200 OK\r\n{CHUNKED}{body}"))
        .expect_field("Transfer-Encoding", "chunked")
        .expect_raw_body(body);
}

#[test]
fn the_direct_route_frames_alike() {
    let start = "POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n";
    let chunked = "5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
    forwarded_direct(&format!("{start}{CHUNKED}{chunked}"))
        .expect_body("hello")
        .expect_trailers(&["X-Sum: 1"]);
    forwarded_direct(&format!("{start}Content-Length: 5\r\n\r\nhello"))
        .expect_field("Content-Length", "5")
        .expect_body("hello");
}

#[test]
fn the_coding_is_read_in_any_case() {
    let field = "transfer-encoding: \t Chunked \r\n\r\n";
    forwarded(format!("{POST}{field}2\r\nhi\r\n0\r\n\r\n")).expect_body("hi");
    relayed(format!("HTTP/1.1 200 OK\r\n{field}2\r\nhi\r\n0\r\n\r\n")).expect_body("hi");
}

/// D6a: what looks like the end ended it.
#[test]
fn an_end_marker_inside_data_is_data() {
    let data = "0\r\n\r\n";
    let (proxy, upstream, mut client) = one_upstream();
    client.send(format!("{POST}{CHUNKED}7\r\nab{data}"));
    let mut hop = upstream.accept();
    hop.read_head();
    hop.expect_bytes(format!("7\r\nab{data}"));
    client.send("\r\n2\r\ncd\r\n0\r\n\r\n");
    hop.expect_bytes("\r\n2\r\ncd\r\n0\r\n\r\n");
    hop.send(format!("HTTP/1.1 200 OK\r\n{CHUNKED}7\r\nef{data}"));
    client
        .expect_head(200)
        .expect_bytes(format!("7\r\nef{data}"));
    hop.send("\r\n2\r\ngh\r\n0\r\n\r\n");
    client.expect_bytes("\r\n2\r\ngh\r\n0\r\n\r\n");
    proxy.expect_at_rest();
}

/// D6b: `0;ext` was waited past for ever.
#[test]
fn chunk_extensions_are_left_out_and_the_framing_is_written_anew() {
    let body = "5;a=b\r\nhello\r\n1 ; c = \"d;e\"\r\n!\r\n0;last\r\n\r\n";
    let request = forwarded(format!("{POST}{CHUNKED}{body}"));
    request.expect_body("hello!");
    assert!(!request.raw_body.contains(&b';'), "an extension passed");
    let response = relayed(format!("HTTP/1.1 200 OK\r\n{CHUNKED}{body}"));
    response.expect_body("hello!");
    assert!(!response.raw_body.contains(&b';'), "an extension passed");
}

/// D6b.
#[test]
fn trailers_pass() {
    let body = "2\r\nhi\r\n0\r\nX-Sum: 1\r\nX-Other:  two \r\n\r\n";
    let trailers = ["X-Sum: 1", "X-Other: two"];
    let request = forwarded(format!("{POST}Trailer: X-Sum\r\n{CHUNKED}{body}"));
    request
        .expect_body("hi")
        .expect_trailers(&trailers)
        .expect_field("Trailer", "X-Sum");
    let response = relayed(format!(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\n{CHUNKED}{body}"
    ));
    response
        .expect_body("hi")
        .expect_trailers(&trailers)
        .expect_field("Trailer", "X-Sum");
}

#[test]
fn trailers_that_frame_route_or_authenticate_are_left_out() {
    let body = "2\r\nhi\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\
                Authorization: x\r\nProxy-Authorization: x\r\nConnection: x\r\nX-Sum: 1\r\n\
                Set-Cookie: x\r\nContent-Type: x\r\n\r\n";
    forwarded(format!("{POST}{CHUNKED}{body}"))
        .expect_body("hi")
        .expect_trailers(&["X-Sum: 1"]);
    relayed(format!("HTTP/1.1 200 OK\r\n{CHUNKED}{body}"))
        .expect_body("hi")
        .expect_trailers(&["X-Sum: 1"]);
}

/// D6c: a body in the same packet as its head was not looked at.
#[test]
fn a_chunked_body_in_one_piece_with_its_head_ends_where_it_ends() {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(format!("{POST}{CHUNKED}2\r\nhi\r\n0\r\n\r\n"));
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(format!("HTTP/1.1 200 OK\r\n{CHUNKED}2\r\nho\r\n0\r\n\r\n"));
    client.expect_status(200).expect_body("ho");
    proxy.expect_at_rest();
    client.get("http://o.test/again");
    hop.read_request()
        .expect_line("GET http://o.test/again HTTP/1.1");
    hop.send_ok("again");
    client.expect_status(200).expect_body("again");
}

#[test]
fn an_empty_chunked_body_is_complete() {
    forwarded(format!("{POST}{CHUNKED}0\r\n\r\n")).expect_raw_body("0\r\n\r\n");
    relayed(format!("HTTP/1.1 200 OK\r\n{CHUNKED}0\r\n\r\n")).expect_body("");
}

#[test]
fn a_body_is_passed_on_while_it_comes() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(format!("{POST}Content-Length: 10\r\n\r\nhello"));
    let mut hop = upstream.accept();
    hop.read_head();
    hop.expect_bytes("hello");
    client.send("world");
    hop.expect_bytes("world");
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nHELLO");
    client.expect_head(200).expect_bytes("HELLO");
    hop.send("WORLD");
    client.expect_bytes("WORLD");
    client.get("http://o.test/again");
    hop.read_request();
    hop.send(format!("HTTP/1.1 200 OK\r\n{CHUNKED}5\r\nhello\r\n"));
    client.expect_head(200).expect_bytes("5\r\nhello\r\n");
    hop.send("0\r\n\r\n");
    client.expect_bytes("0\r\n\r\n");
}

#[test]
fn megabytes_pass_unchanged_in_every_framing() {
    const BYTES: usize = 3_000_000;
    let bytes = pattern(BYTES);
    let mut chunked = Vec::new();
    for chunk in bytes.chunks(70_001) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let length = format!("Content-Length: {BYTES}\r\n\r\n");
    check_large(&length, &bytes, &bytes);
    check_large(CHUNKED, &chunked, &bytes);
}

#[test]
fn a_close_delimited_response_is_chunked_anew_and_the_client_stays() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\nhel")
        .send("lo")
        .half_close();
    client
        .expect_status(200)
        .expect_field("Transfer-Encoding", "chunked")
        .expect_body("hello");
    client
        .expect_no_field("Content-Length")
        .get("http://o.test/again");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_ok("again");
    client.expect_status(200).expect_body("again");
}

#[test]
fn a_close_delimited_response_of_http_1_0_is_chunked_anew() {
    relayed("HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nhello")
        .expect_line("HTTP/1.1 200 OK")
        .expect_field("Transfer-Encoding", "chunked")
        .expect_field("Content-Type", "a/b")
        .expect_body("hello");
    relayed("HTTP/1.1 200 OK\r\n\r\n").expect_body("");
}

#[test]
fn a_reset_is_no_end_of_a_close_delimited_body() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\nhello");
    client.expect_head(200).read_until("hello\r\n");
    hop.reset();
    client.expect_truncated("");
}

/// D11.
#[test]
fn a_response_to_head_has_no_body() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("HEAD http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    client.expect_head(200).expect_field("Content-Length", "5");
    client.get("http://o.test/again");
    hop.read_request()
        .expect_line("GET http://o.test/again HTTP/1.1");
    hop.send_ok("again");
    client.expect_status(200).expect_body("again");
}

#[test]
fn a_chunked_response_to_head_has_no_body_either() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("HEAD http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(format!("HTTP/1.1 200 OK\r\n{CHUNKED}"));
    client
        .expect_head(200)
        .expect_no_field("Content-Length")
        .expect_nothing_more();
}

/// D11: `304` and a second response behind it reached the client, with the bytes of an attacker.
#[test]
fn bytes_behind_a_response_without_a_body_never_reach_the_client() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";
    for status in ["304 Not Modified", "204 No Content"] {
        check_surplus("GET", &format!("HTTP/1.1 {status}\r\n\r\n{evil}"));
        check_surplus("HEAD", &format!("HTTP/1.1 {status}\r\n\r\n{evil}"));
    }
    check_surplus(
        "HEAD",
        &format!("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{evil}"),
    );
    check_surplus(
        "HEAD",
        &format!("HTTP/1.1 404 No\r\n{CHUNKED}4\r\nEVIL\r\n0\r\n\r\n"),
    );
}

/// D11.
#[test]
fn bytes_behind_the_end_of_a_response_never_reach_the_client() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";
    check_surplus(
        "GET",
        &format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi{evil}"),
    );
    check_surplus(
        "GET",
        &format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{evil}"),
    );
    check_surplus(
        "GET",
        &format!("HTTP/1.1 200 OK\r\n{CHUNKED}2\r\nhi\r\n0\r\n\r\n{evil}"),
    );
}

#[test]
fn a_304_keeps_the_length_it_speaks_of() {
    let response = relayed("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n");
    response
        .expect_field("Content-Length", "5")
        .expect_field("ETag", "\"x\"")
        .expect_body("");
}

#[test]
fn a_204_has_no_length() {
    let response = relayed("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n");
    response
        .expect_no_field("Content-Length")
        .expect_no_field("Transfer-Encoding");
}

/// D4: a second response began inside the body of the first.
#[test]
fn a_response_that_breaks_off_breaks_off_at_the_client() {
    check_truncated("Content-Length: 10\r\n\r\n", "abc");
    check_truncated(CHUNKED, "3\r\nabc\r\n");
}

/// D6d: an end within a chunk counted as success, and the client waited.
#[test]
fn a_response_that_breaks_off_within_a_chunk_breaks_off_at_the_client() {
    check_truncated(CHUNKED, "9\r\nabc");
    check_truncated(CHUNKED, "3\r\nabc\r\n0\r\n");
    check_truncated(CHUNKED, "3\r\nabc\r\n0\r\nX-Sum: 1\r\n");
}

#[test]
fn a_malformed_chunk_of_a_response_ends_the_client_connection() {
    for broken in [
        "EVIL\r\n",
        "-1\r\nEVIL",
        "3\r\nabcEVIL",
        "ffffffffffffffff0\r\nEVIL",
        "3\nEVIL",
    ] {
        let (_proxy, upstream, mut client) = one_upstream();
        client.get("http://o.test/");
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send(format!("HTTP/1.1 200 OK\r\n{CHUNKED}2\r\nhi\r\n"));
        client.expect_head(200).expect_bytes("2\r\nhi\r\n");
        hop.send_as_far_as_possible(broken);
        client.socket().read_to_end();
        let rest = client.socket().take_pending();
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(
            !rest.contains("EVIL") && !rest.contains("0\r\n\r\n"),
            "{broken:?}: {rest:?}"
        );
    }
}

/// Nothing of the response has been sent yet, so that there is something better to say than nothing.
#[test]
fn a_chunk_that_is_malformed_in_one_piece_with_its_head_is_502() {
    expect_bad_gateway(
        ["EVIL\r\n", "-1\r\nEVIL", "2\r\nhiEVIL", "3\nEVIL"]
            .map(|broken| format!("HTTP/1.1 200 OK\r\n{CHUNKED}{broken}")),
    );
}

#[test]
fn a_chunk_that_is_malformed_while_the_request_goes_on_is_502() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 10\r\n\r\nhello");
    let mut hop = upstream.accept();
    hop.read_head();
    hop.send(format!("HTTP/1.1 200 OK\r\n{CHUNKED}EVIL\r\n"));
    client.expect_refusal_and_close(502);
}

/// D6d.
#[test]
fn a_request_that_breaks_off_is_never_completed() {
    check_incomplete("Content-Length: 10\r\n\r\n", "abc");
    check_incomplete(CHUNKED, "3\r\nabc\r\n");
    check_incomplete(CHUNKED, "9\r\nabc");
}

#[test]
fn another_transfer_coding_is_501_from_a_client_and_502_from_an_upstream() {
    let codings = ["gzip", "gzip, chunked", "xchunked", "identity", "chunkedx"];
    let field = |coding| format!("Transfer-Encoding: {coding}\r\n\r\nEVIL");
    expect_refused(
        501,
        codings.map(|coding| format!("{POST}{}", field(coding))),
    );
    expect_bad_gateway(codings.map(|coding| format!("HTTP/1.1 200 OK\r\n{}", field(coding))));
}

#[test]
fn ambiguous_framing_of_a_response_is_502() {
    let fields = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 4, 5",
        "Content-Length: +4",
        "Content-Length: -4",
        "Content-Length: 0x4",
        "Content-Length: 4 4",
        "Content-Length: 4;",
        "Content-Length:",
        "Content-Length: 4,",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding:",
    ];
    let response = |fields| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n");
    expect_bad_gateway(fields.map(response));
    expect_bad_gateway([
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n",
    ]);
}

fn one_upstream() -> (Proxy, Upstream, Client) {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let client = proxy.client();
    (proxy, upstream, client)
}

/// This body, framed like this, is the same content at the other end, both ways at once.
#[track_caller]
fn check_large(framing: &str, framed: &[u8], content: &[u8]) {
    let (proxy, upstream, mut client) = one_upstream();
    let sender =
        client.send_in_background([format!("{POST}{framing}").as_bytes(), framed].concat());
    let (mut hop, request) = upstream.accept_and_read_request();
    request.expect_body(content);
    sender
        .join()
        .expect("the sender")
        .expect("everything is sent");
    let response = [format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes(), framed].concat();
    let sender = hop.send_in_background(response);
    client.expect_status(200).expect_body(content);
    sender
        .join()
        .expect("the sender")
        .expect("everything is sent");
    proxy.expect_at_rest();
}

/// Nothing behind the first response of the upstream reaches the client, whose next request goes
/// out over a new connection.
#[track_caller]
fn check_surplus(method: &str, response: &str) {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(format!(
        "{method} http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n"
    ));
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_as_far_as_possible(response);
    if method == "HEAD" {
        client.read_head();
    } else {
        client.read_response();
    }
    let other = spawn("test-hop", move || hop.socket().read_to_end());
    client.get("http://o.test/again");
    let (mut hop, request) = upstream.accept_and_read_request();
    request.expect_line("GET http://o.test/again HTTP/1.1");
    hop.send_ok("again");
    client.expect_status(200).expect_body("again");
    other.join().expect("the first connection ends");
}

/// The response begins like this and its upstream closes: the client gets no more than `body`,
/// and the connection ends. Nothing is added, and no end is invented.
#[track_caller]
fn check_truncated(framing: &str, body: &str) {
    let first = Upstream::by_hand("a");
    let second = Upstream::echo_ok("b");
    let members = [first.with("priority: 1"), second.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = first.accept_and_read_request();
    hop.send(format!("HTTP/1.1 200 OK\r\n{framing}{body}"));
    client.expect_head(200);
    hop.close();
    client.socket().read_to_end();
    let got = String::from_utf8_lossy(client.socket().pending()).into_owned();
    assert!(
        body.starts_with(&got),
        "more than the upstream sent: {got:?}"
    );
    assert!(
        !got.ends_with("\r\n0\r\n\r\n"),
        "an end was invented: {got:?}"
    );
    second.expect_untouched();
    proxy.expect_at_rest();
}

/// The request begins like this and its client closes: the upstream never gets a complete one.
/// It is not to blame.
#[track_caller]
fn check_incomplete(framing: &str, body: &str) {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(format!("{POST}{framing}{body}"));
    let mut hop = upstream.accept();
    hop.read_head();
    drop(client);
    hop.socket().read_to_end();
    let got = String::from_utf8_lossy(hop.socket().pending()).into_owned();
    assert!(body.starts_with(&got), "more than the client sent: {got:?}");
    proxy.expect_at_rest();
    proxy.expect_online("a");
    wait_until(|| proxy.counts().connections == 0);
}
