//! Defects of the first release that belong to no other file here. `main.rs` has the whole list.

use super::harness::{Origin, Proxy, Talk, Upstream, pattern};

const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";

/// D1: it went to the second upstream as well.
#[test]
fn post_is_not_repeated_once_it_was_sent() {
    let first = Upstream::script("a").read_request().close();
    let second = Upstream::script("b");
    let members = [first.with("priority: 1"), second.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    proxy.client().send(POST).expect_refusal(502);
    second.expect_untouched();
}

/// D2: the second upstream got a length and no body.
#[test]
fn a_body_is_repeated_whole_or_not_at_all() {
    for length in [0, 1, 1000, 60_000] {
        let first = Upstream::script("a").read_request().close();
        let second = Upstream::echo_ok("b");
        let members = [first.with("priority: 1"), second.with("priority: 2")];
        let proxy = Proxy::with_yaml("mode: priority", members);
        let body = pattern(length);
        let head =
            format!("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {length}");
        proxy
            .client()
            .send([head.as_bytes(), b"\r\n\r\n", &body].concat())
            .expect_status(200)
            .expect_body("b");
        second.requests()[0].expect_body(&body);
    }
}

/// D2.
#[test]
fn a_body_that_is_gone_is_not_repeated() {
    const LENGTH: usize = 300_000;
    let first = Upstream::script("a").read_request().close();
    let second = Upstream::script("b");
    let members = [first.with("priority: 1"), second.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let head =
        format!("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {LENGTH}\r\n\r\n");
    let mut client = proxy.client();
    client.send(head);
    let sender = client.send_in_background(pattern(LENGTH));
    client.expect_refusal(502);
    drop(sender.join().expect("the sender"));
    second.expect_untouched();
}

/// D2.
#[test]
fn a_body_of_any_method_arrives_whole_behind_an_upstream_that_refuses() {
    let (first, second) = (Upstream::refusing("a"), Upstream::echo_ok("b"));
    let members = [first.with("priority: 1"), second.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    proxy
        .client()
        .send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 10\r\n\r\n")
        .send("01234")
        .send("56789")
        .expect_status(200)
        .expect_body("b");
    second.requests()[0].expect_body("0123456789");
}

/// D16: whoever reached the relay reached everything that trusts the machine it runs on.
#[test]
fn a_request_that_came_through_another_relay_does_not_reach_this_machine() {
    let origin = Origin::echo_ok("origin");
    let proxy = Proxy::direct();
    let authority = origin.authority();
    for field in ["Via: 1.1 other", "Forwarded: for=192.0.2.1"] {
        let fields = format!("Host: {authority}\r\n{field}\r\n\r\n");
        let get = format!("GET http://{authority}/ HTTP/1.1\r\n{fields}");
        proxy.client().send(get).expect_refusal(403);
        let connect = format!("CONNECT {authority} HTTP/1.1\r\n{fields}");
        proxy.client().send(connect).expect_refusal(403);
    }
    origin.expect_untouched();
}
