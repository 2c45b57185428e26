//! Which fields pass and which stop here (RFC 9110 §7.6), and how loops are found.

use super::harness::{
    Member, Message, Origin, ProbeAnswer, Proxy, Talk, Upstream, forwarded, forwarded_direct,
    relayed, wait_until,
};

const WANTS_CREDENTIALS: &str = "HTTP/1.1 407 Proxy Authentication Required\r\n\
    Proxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";

/// D8.
#[test]
fn hop_by_hop_fields_of_a_request_stop_here() {
    let fields = [
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers, deflate",
        "Upgrade: x/1",
        "Proxy-Authenticate: Basic",
        "Proxy-Authentication-Info: x",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    ];
    for field in fields {
        let (name, _) = field.split_once(':').expect("a field line");
        for name_as_sent in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
            let line = field.replacen(name, &name_as_sent, 1);
            request_with(&line).expect_no_field(name);
        }
    }
}

/// D8.
#[test]
fn hop_by_hop_fields_of_a_response_stop_here() {
    let fields = [
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Upgrade: x/1",
        "Proxy-Authenticate: Basic realm=\"upstream\"",
        "Proxy-Authentication-Info: x",
    ];
    for field in fields {
        let (name, _) = field.split_once(':').expect("a field line");
        response_with(field).expect_no_field(name);
    }
}

/// D8.
#[test]
fn fields_named_by_connection_stop_here() {
    let lines = "Connection: x-one, X-TWO ,, \r\nX-One: 1\r\nConnection: x-three\r\nX-Two: 2\r\n\
                 X-Three: 3\r\nX-Four: 4";
    for message in [request_with(lines), response_with(lines)] {
        message
            .expect_no_field("Connection")
            .expect_no_field("X-One")
            .expect_no_field("X-Two");
        message
            .expect_no_field("X-Three")
            .expect_field("X-Four", "4");
    }
}

#[test]
fn fields_named_beside_close_stop_here() {
    request_with("Connection: close, X-Foo\r\nX-Foo: 1").expect_no_field("X-Foo");
    response_with("Connection: close, X-Foo\r\nX-Foo: 1").expect_no_field("X-Foo");
}

/// Who may name these takes away what the next hop decides by.
#[test]
fn fields_that_frame_route_or_authenticate_stay_even_if_named() {
    let kept = [
        ("Authorization", "Basic eA=="),
        ("Cookie", "a=b"),
        ("Cache-Control", "no-store"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Forwarded", "for=192.0.2.1"),
        ("Max-Forwards", "7"),
    ];
    for (name, value) in kept {
        request_with(&format!("Connection: {name}\r\n{name}: {value}")).expect_field(name, value);
    }
    let request = forwarded(
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nConnection: Host, Content-Length, Via\r\n\
         Via: 1.1 before\r\nContent-Length: 2\r\n\r\nhi",
    );
    request
        .expect_field("Host", "o.test")
        .expect_field("Content-Length", "2")
        .expect_body("hi");
    assert!(
        request.values("Via").concat().contains("1.1 before"),
        "Via was taken away"
    );
    response_with("Connection: Set-Cookie\r\nSet-Cookie: a=b").expect_field("Set-Cookie", "a=b");
    relayed("HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 2\r\n\r\nhi")
        .expect_field("Content-Length", "2")
        .expect_body("hi");
}

#[test]
fn a_field_that_only_resembles_a_hop_by_hop_field_passes() {
    for field in [
        "Keep-Alive-X: 1",
        "X-Connection: close",
        "TEX: 1",
        "Upgrade-Insecure-Requests: 1",
    ] {
        let (name, value) = field.split_once(": ").expect("a field line");
        request_with(field).expect_field(name, value);
        response_with(field).expect_field(name, value);
    }
}

/// D7: it reached the upstream behind a bare line feed.
#[test]
fn the_clients_proxy_credentials_stop_here() {
    request_with("Proxy-Authorization: Basic Y2xpZW50OnNlY3JldA==")
        .expect_no_field("Proxy-Authorization");
    let request = "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\
                   Proxy-Authorization: Basic Y2xpZW50OnNlY3JldA==\r\n\r\n";
    forwarded_direct(request).expect_no_field("Proxy-Authorization");
}

#[test]
fn the_credentials_of_an_upstream_are_sent_to_it() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([upstream.with("{username: bob, password: 'hunter:2'}")]);
    proxy
        .client()
        .send(
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\
             Proxy-Authorization: Basic Y2xpZW50OnNlY3JldA==\r\n\r\n",
        )
        .expect_status(200);
    upstream.requests()[0].expect_field("Proxy-Authorization", "Basic Ym9iOmh1bnRlcjoy");
}

/// D19: it asks for credentials the client does not have.
#[test]
fn a_407_of_an_upstream_never_reaches_the_client() {
    let (first, second) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let members = [first.with("priority: 1"), second.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    first.answer_probes(ProbeAnswer::Status(407));
    let mut client = proxy.client();
    client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi");
    let (mut hop, _) = first.accept_and_read_request();
    hop.send(WANTS_CREDENTIALS);
    client
        .expect_status(200)
        .expect_body("b")
        .expect_no_field("Proxy-Authenticate");
    second.requests()[0].expect_body("hi");
    wait_until(|| !proxy.upstream("a").online);
}

#[test]
fn a_407_of_an_origin_is_502() {
    let origin = Origin::by_hand("origin");
    let proxy = Proxy::direct();
    let mut client = proxy.client();
    client.get(&format!("http://{}/", origin.authority()));
    let mut end = origin.accept();
    end.read_until("\r\n\r\n");
    end.send(WANTS_CREDENTIALS);
    client
        .expect_refusal(502)
        .expect_no_field("Proxy-Authenticate");
}

#[test]
fn end_to_end_fields_pass_in_order_and_byte_for_byte() {
    let lines = "accept: */*\r\nX-Odd: a, \"b,c\" ;d\r\nCookie: a=1\r\nX-Twice: 1\r\n\
                 ETag: W/\"x\"\r\nX-Twice: 2\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nX-Empty:";
    let passed = [
        "accept", "X-Odd", "Cookie", "X-Twice", "ETag", "X-Twice", "Date", "X-Empty",
    ];
    for message in [request_with(lines), response_with(lines)] {
        let names = message.fields.iter().map(|(name, _)| name.as_str());
        let own = |name: &&str| !["Host", "Via", "Content-Length"].contains(name);
        assert_eq!(names.filter(own).collect::<Vec<_>>(), passed);
        message
            .expect_field("X-Odd", "a, \"b,c\" ;d")
            .expect_field("ETag", "W/\"x\"");
        assert_eq!(message.values("X-Twice"), ["1", "2"]);
    }
}

#[test]
fn cookies_that_are_set_stay_apart() {
    let response =
        response_with("Set-Cookie: a=1; Expires=Tue, 15 Nov 1994 08:12:31 GMT\r\nSet-Cookie: b=2");
    let cookies = ["a=1; Expires=Tue, 15 Nov 1994 08:12:31 GMT", "b=2"];
    assert_eq!(response.values("Set-Cookie"), cookies);
}

#[test]
fn where_a_request_came_from_is_neither_added_nor_changed() {
    let request = request_with("X-Test: 1");
    request
        .expect_no_field("X-Forwarded-For")
        .expect_no_field("Forwarded");
    request_with("X-Forwarded-For: 192.0.2.1, 192.0.2.2\r\nForwarded: for=192.0.2.1")
        .expect_field("X-Forwarded-For", "192.0.2.1, 192.0.2.2")
        .expect_field("Forwarded", "for=192.0.2.1");
}

/// D8: there was none.
#[test]
fn via_is_added_to_a_request() {
    let via = request_with("X-Test: 1").values("Via");
    assert_eq!(via.len(), 1, "{via:?}");
    assert!(is_ours(&via[0]), "{via:?}");
}

#[test]
fn via_is_added_behind_those_before() {
    let via = request_with("Via: 1.0 fred, 1.1 p.example.net (x)")
        .values("Via")
        .join(", ");
    let own = via.strip_prefix("1.0 fred, 1.1 p.example.net (x), ");
    assert!(own.is_some_and(is_ours), "{via:?}");
}

#[test]
fn via_is_added_to_a_response() {
    let via = response_with("Via: 1.1 upstream").values("Via").join(", ");
    let own = via.strip_prefix("1.1 upstream, ");
    assert!(own.is_some_and(is_ours), "{via:?}");
}

#[test]
fn via_names_every_start_anew() {
    let name = || request_with("X-Test: 1").values("Via").concat();
    assert_ne!(name(), name());
}

/// D17: one request became as many as there may be connections.
#[test]
fn a_request_that_went_through_here_before_is_508() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    proxy.client().get("http://o.test/").expect_status(200);
    let via = upstream.requests()[0].values("Via").concat();
    proxy
        .client()
        .send(format!(
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nVia: 1.1 x, {via}\r\n\r\n"
        ))
        .expect_refusal(508)
        .expect_field_with("Proxy-Status", "proxy_loop_detected");
    proxy
        .client()
        .send(format!(
            "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\nVia: {via}\r\n\r\n"
        ))
        .expect_refusal(508)
        .expect_closed();
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_name_that_resembles_ours_is_no_loop() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    proxy.client().get("http://o.test/").expect_status(200);
    let via = upstream.requests()[0].values("Via").concat();
    for other in [
        format!("{via}0"),
        format!("1.1 other ({via})"),
        via.replace("hplb-", "hplb-0"),
    ] {
        proxy
            .client()
            .send(format!(
                "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nVia: {other}\r\n\r\n"
            ))
            .expect_status(200);
    }
}

/// D17.
#[test]
fn a_relay_that_is_its_own_upstream_goes_round_once() {
    let proxy = Proxy::over::<Member>([]);
    proxy.reload("{}", [Member::at("itself", proxy.address())]);
    proxy.client().get("http://o.test/").expect_status(508);
    proxy
        .client()
        .send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n")
        .expect_status(508);
    proxy.expect_at_rest();
}

#[test]
fn without_via_there_is_no_field_and_no_loop_check() {
    let upstream = Upstream::echo_ok("a");
    let with_via = Proxy::over([&upstream]);
    with_via.client().get("http://o.test/").expect_status(200);
    let via = upstream.requests()[0].values("Via").concat();
    with_via.reload("via: false", [&upstream]);
    with_via
        .client()
        .send(format!(
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nVia: {via}\r\n\r\n"
        ))
        .expect_status(200);
    upstream.requests()[1].expect_field("Via", &via);
}

#[test]
fn an_upstream_is_not_asked_to_close_after_each_request() {
    let request = request_with("Connection: close");
    assert!(
        !request.values("Connection").concat().contains("close"),
        "the connection is reused"
    );
}

/// `1.1 hplb-` and eight hexadecimal digits.
fn is_ours(member: &str) -> bool {
    let digits = member.strip_prefix("1.1 hplb-").unwrap_or_default();
    digits.len() == 8
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[track_caller]
fn request_with(lines: &str) -> Message {
    forwarded(format!(
        "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{lines}\r\n\r\n"
    ))
}

#[track_caller]
fn response_with(lines: &str) -> Message {
    relayed(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{lines}\r\n\r\n"
    ))
}
