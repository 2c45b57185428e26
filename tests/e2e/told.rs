//! What upstreams are told of the client.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::harness::exchange::basic;
use super::harness::{
    Client, Hop, Message, Origin, ProbeAnswer, Proxy, SocksReplies, Talk, Upstream,
};

/// A request of a client that presents this user, with the password x; nobody for an empty one.
fn get(user: &str) -> String {
    let login = basic(user, "x");
    let field = match user {
        "" => String::new(),
        _ => format!("Proxy-Authorization: {login}\r\n"),
    };
    format!("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{field}\r\n")
}

fn connect(user: &str) -> String {
    let login = basic(user, "x");
    format!(
        "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\nProxy-Authorization: {login}\r\n\r\n"
    )
}

/// The user that the last request was sent with.
#[track_caller]
fn last_user(upstream: &Upstream) -> String {
    let requests = upstream.requests();
    let values = requests
        .last()
        .expect("a request")
        .values("Proxy-Authorization");
    let token = values[0].strip_prefix("Basic ").expect("the scheme");
    let login = String::from_utf8(STANDARD.decode(token).unwrap()).unwrap();
    login.strip_suffix(":pw").expect("the password").to_owned()
}

/// An upstream whose user name is this one.
fn named(username: &str, extra: &str) -> (Proxy, Upstream) {
    let a = Upstream::answering("a", |hop: &mut Hop, request: &Message| {
        if request.method() == "CONNECT" {
            hop.send("HTTP/1.1 200 OK\r\n\r\n");
        } else {
            hop.send_kept("a");
        }
    });
    let keys = format!("{{username: '{username}', password: pw}}");
    let proxy = Proxy::with_yaml(extra, [a.with(&keys)]);
    (proxy, a)
}

#[test]
fn the_user_name_of_an_upstream_follows_the_session_of_the_client() {
    let (proxy, a) = named("customer-x-sessid-{session}", "{}");
    for (user, told) in [
        ("someone-session-a1b2", "customer-x-sessid-a1b2"),
        ("-session-Z", "customer-x-sessid-Z"),
        ("x-session-a-session-b", "customer-x-sessid-b"),
        (
            "x-session-1-country-us",
            "customer-x-sessid-1_2dcountry_2dus",
        ),
        ("x-session-{session}", "customer-x-sessid-_7bsession_7d"),
    ] {
        proxy.client().send(get(user)).expect_status(200);
        assert_eq!(last_user(&a), told);
        proxy.client().send(connect(user)).expect_head(200);
        assert_eq!(last_user(&a), told);
    }
    a.expect_never_saw(STANDARD.encode("someone-session-a1b2:x"));
}

#[test]
fn a_request_without_a_session_has_one_of_its_own() {
    let (proxy, a) = named("x-{session}", "{}");
    let mut seen = Vec::new();
    let mut client = proxy.client();
    for user in ["", "someone", "", "someone-session-"] {
        client.send(get(user)).expect_status(200);
        let told = last_user(&a);
        assert_eq!(told.len(), "x-".len() + 16, "{told}");
        assert!(!seen.contains(&told), "{told} {seen:?}");
        seen.push(told);
    }
    assert_eq!(a.connections(), seen.len());
}

#[test]
fn without_a_name_a_session_is_what_the_request_is_sticky_by() {
    let users = "access: {users: [{username: bob, password: x}]}";
    for (sticky, user, told) in [
        ("sticky: {by: client}", "", "7f000001"),
        ("sticky: {by: target}", "", "o_2etest"),
        (&*format!("sticky: {{by: user}}\n{users}"), "bob", "bob"),
        ("sticky: {by: target}", "bob-session-1", "1"),
        ("sticky: {by: session}", "bob-session-1", "1"),
    ] {
        let (proxy, a) = named("x-{session}", sticky);
        proxy.client().send(get(user)).expect_status(200);
        assert_eq!(last_user(&a), format!("x-{told}"), "{sticky}");
    }
}

#[test]
fn a_session_is_named_behind_the_user_that_logs_in() {
    let users = "access: {users: [{username: bob, password: x}, {username: ann, password: x}]}";
    let (proxy, a) = named("{user}-{client}-{session}", users);
    for user in ["bob", "ann"] {
        let request = get(&format!("{user}-session-1"));
        proxy.client().send(request).expect_status(200);
        assert_eq!(last_user(&a), format!("{user}-7f000001-1"));
    }
    proxy
        .client()
        .send(get("eve-session-1"))
        .expect_refusal(407);
    // Where no session is told there is none.
    let (proxy, _a) = named("{user}", users);
    proxy
        .client()
        .send(get("bob-session-1"))
        .expect_refusal(407);
}

#[test]
fn no_connection_is_used_in_the_name_of_two_sessions() {
    let (proxy, a) = named("x-{session}", "{}");
    for (user, connections) in [
        ("x-session-1", 1),
        ("x-session-2", 2),
        ("y-session-1", 2),
        ("x-session-2", 2),
        ("x-session-3", 3),
    ] {
        proxy.client().send(get(user)).expect_status(200);
        proxy.expect_at_rest();
        assert_eq!(a.connections(), connections, "{user}");
    }
}

#[test]
fn a_socks_login_follows_the_session_too() {
    let replies = SocksReplies {
        greeting: b"\x05\x02",
        ..SocksReplies::default()
    };
    let a = Upstream::socks("a", replies);
    let keys = "{username: 'x-{session}', password: pw}";
    let proxy = Proxy::over([a.as_socks(keys)]);
    let mut client = proxy.client();
    let mut hops = Vec::new();
    for user in ["x-session-1", "x-session-22"] {
        client.send(get(user));
        let (mut hop, _) = a.accept_and_read_request();
        hop.send_kept("hi");
        client.expect_status(200);
        hops.push(hop);
    }
    client.send(get("x-session-22"));
    hops[1].read_request();
    hops[1].send_kept("again");
    client.expect_status(200).expect_body("again");
    assert_eq!(
        a.socks_handshakes(),
        [
            b"\x05\x02\x00\x02\x01\x03x-1\x02pw\x05\x01\x00\x03\x06o.test\x00\x50".to_vec(),
            b"\x05\x02\x00\x02\x01\x04x-22\x02pw\x05\x01\x00\x03\x06o.test\x00\x50".to_vec(),
        ]
    );
}

/// What of these fields an upstream gets with a request, and with a CONNECT.
#[track_caller]
fn forwarded(yaml: &str, fields: &str, names: &[&str]) -> Vec<Vec<String>> {
    let a = Upstream::answering("a", |hop: &mut Hop, _: &Message| {
        hop.send_kept("a");
    });
    let proxy = Proxy::with_yaml(yaml, [&a]);
    let requests = ["GET http://o.test/", "CONNECT o.test:443"];
    for line in requests {
        let request = format!("{line} HTTP/1.1\r\nHost: o.test\r\n{fields}\r\n");
        proxy.client().send(request).expect_head(200);
    }
    let got = a.requests();
    assert_eq!(got.len(), requests.len());
    let values = |request: &Message| names.iter().flat_map(|name| request.values(name)).collect();
    got.iter().map(values).collect()
}

#[test]
fn upstreams_are_told_the_address_of_the_client_if_the_file_says_so() {
    let sent = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.2\r\nConnection: x-forwarded-for, forwarded\r\n";
    for (yaml, expected) in [
        ("{}", ["192.0.2.1", "for=192.0.2.2"]),
        ("forwarded: off", ["192.0.2.1", "for=192.0.2.2"]),
        (
            "forwarded: x_forwarded_for",
            ["192.0.2.1, 127.0.0.1", "for=192.0.2.2"],
        ),
        (
            "forwarded: forwarded",
            ["192.0.2.1", "for=192.0.2.2, for=127.0.0.1"],
        ),
    ] {
        let got = forwarded(yaml, sent, &["X-Forwarded-For", "Forwarded"]);
        assert_eq!(got, [expected, expected], "{yaml}");
    }
    let got = forwarded("forwarded: forwarded", "", &["Forwarded"]);
    assert_eq!(got, [["for=127.0.0.1"], ["for=127.0.0.1"]]);
}

#[test]
fn who_a_balancer_names_is_told_and_not_the_balancer() {
    let a = Upstream::echo_ok("a");
    let yaml = "forwarded: forwarded\nlisten_proxy_protocol: true\n\
                access: {proxy_protocol_from: [127.0.0.1], allow: ['2001:db8::/32']}";
    let proxy = Proxy::with_yaml(yaml, [&a]);
    let mut client = proxy.client();
    client.send("PROXY TCP6 2001:db8::7 2001:db8::1 56324 8080\r\n");
    client.send(get("")).expect_status(200);
    a.requests()[0].expect_field("Forwarded", "for=\"[2001:db8::7]\"");
}

#[test]
fn origins_are_not_told_who_the_client_is() {
    let direct = "domain_policy: {mode: whitelist, domains: []}\nforwarded: x_forwarded_for";
    let origin = Origin::echo_ok("origin");
    let proxy = Proxy::with_yaml(direct, Vec::<&Upstream>::new());
    proxy
        .client()
        .get(&format!("http://{}/", origin.authority()))
        .expect_status(200);
    origin.requests()[0].expect_no_field("X-Forwarded-For");

    let a = Upstream::socks("a", SocksReplies::default());
    let proxy = Proxy::with_yaml("forwarded: x_forwarded_for", [a.as_socks("{}")]);
    let mut client = proxy.client();
    client.send(get(""));
    let (_hop, request) = a.accept_and_read_request();
    request.expect_no_field("X-Forwarded-For");
}

/// What connections of `client` to an upstream begin with: in text, and in bytes.
fn headers_of(client: &mut Client, proxy: &Proxy) -> [Vec<u8>; 2] {
    let port = client.socket().handle().local_addr().unwrap().port();
    let to = proxy.address().port();
    let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {to}\r\n");
    let mut block = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
    block.extend(port.to_be_bytes());
    block.extend(to.to_be_bytes());
    [line.into_bytes(), block]
}

const LINE: &str = "PROXY UNKNOWN\r\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

#[test]
fn a_connection_begins_with_a_proxy_header_and_serves_one_client() {
    for (version, local) in [LINE.as_bytes(), LOCAL].into_iter().enumerate() {
        let a = Upstream::echo_ok("a");
        let keys = format!("{{proxy_protocol: v{}}}", version + 1);
        let proxy = Proxy::over([a.with(&keys)]);
        let of_checks = a.proxy_headers();
        assert!(!of_checks.is_empty());
        assert!(
            of_checks.iter().all(|header| header == local),
            "{of_checks:?}"
        );
        let (mut one, mut other) = (proxy.client(), proxy.client());
        for client in [&mut one, &mut other] {
            // The second goes over the connection of the first, and has no header of its own.
            client.send(get("")).expect_status(200);
            client.send(get("")).expect_status(200);
        }
        one.send(get("")).expect_status(200);
        let mut tunnel = proxy.client();
        tunnel
            .open_tunnel("o.test:443")
            .send("ping")
            .expect_bytes("ping");
        let clients = [&mut one, &mut other, &mut tunnel];
        let expected = clients.map(|client| headers_of(client, &proxy)[version].clone());
        assert_eq!(a.proxy_headers()[of_checks.len()..], expected);
        assert_eq!(a.connections(), 3);
        proxy.expect_online("a");
    }
}

#[test]
fn the_proxy_header_goes_before_the_greeting_of_socks() {
    let a = Upstream::socks("a", SocksReplies::default());
    let proxy = Proxy::over([a.as_socks("{proxy_protocol: v1}")]);
    let of_checks = a.proxy_headers();
    assert!(
        of_checks.iter().all(|header| header == LINE.as_bytes()),
        "{of_checks:?}"
    );
    let mut client = proxy.client();
    client.send(get(""));
    let (mut hop, request) = a.accept_and_read_request();
    request.expect_line("GET / HTTP/1.1");
    hop.send_kept("hi");
    client.expect_status(200);
    let [line, _] = headers_of(&mut client, &proxy);
    assert_eq!(a.proxy_headers()[of_checks.len()..], [line]);
    let handshake = b"\x05\x01\x00\x05\x01\x00\x03\x06o.test\x00\x50".to_vec();
    assert_eq!(a.socks_handshakes(), [handshake]);
}

#[test]
fn who_a_balancer_names_is_in_the_proxy_header() {
    let a = Upstream::echo_ok("a");
    let yaml = "listen_proxy_protocol: true\naccess: {proxy_protocol_from: [127.0.0.1], allow: [192.0.2.7]}";
    let proxy = Proxy::with_yaml(yaml, [a.with("{proxy_protocol: v1}")]);
    let mut client = proxy.client();
    client.send("PROXY TCP4 192.0.2.7 198.51.100.1 56324 8080\r\n");
    client.send(get("")).expect_status(200);
    let expected = format!(
        "PROXY TCP4 192.0.2.7 127.0.0.1 56324 {}\r\n",
        proxy.address().port()
    );
    assert_eq!(a.proxy_headers().pop().unwrap(), expected.into_bytes());
}

const CHALLENGE: &str =
    "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"a\"\r\nContent-Length: 2\r\n\r\nno";

#[test]
fn the_credentials_of_a_client_are_passed_on_and_the_upstreams_answer_back() {
    let a = Upstream::answering("a", |hop: &mut Hop, request: &Message| {
        let is_known = request.values("Proxy-Authorization") == [basic("bob", "x")];
        match (is_known, request.method()) {
            (false, _) => hop.send(CHALLENGE),
            (true, "CONNECT") => hop.send("HTTP/1.1 200 OK\r\n\r\n"),
            (true, _) => hop.send_kept("a"),
        };
    });
    a.answer_probes(ProbeAnswer::Status(407));
    let b = Upstream::echo_ok("b");
    let members = [
        a.with("{credentials: client, priority: 1}"),
        b.with("{priority: 2}"),
    ];
    let yaml = "mode: priority\nrest: [{status: [407]}]";
    let proxy = Proxy::with_yaml(yaml, members);
    let connect_bare = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n";
    for request in [get(""), get("eve"), connect("eve"), connect_bare.to_owned()] {
        let mut client = proxy.client();
        client
            .send(request)
            .expect_status(407)
            .expect_field("Proxy-Authenticate", "Basic realm=\"a\"")
            .expect_body("no");
    }
    let mut client = proxy.client();
    client.send(get("")).expect_status(407);
    client.send(get("bob")).expect_status(200).expect_body("a");
    proxy.client().send(connect("bob")).expect_head(200);
    b.expect_untouched();
    proxy.expect_online("a");
    proxy.expect_nobody_suspected();
}

#[test]
fn a_handshake_of_connect_stays_on_both_connections() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([a.with("{credentials: client}")]);
    let mut client = proxy.client();
    let ask = |token: &str| {
        format!(
            "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\nProxy-Authorization: NTLM {token}\r\n\r\n"
        )
    };
    client.send(ask("one"));
    let mut hop = a.accept();
    hop.read_head()
        .expect_field("Proxy-Authorization", "NTLM one");
    hop.send("HTTP/1.1 407 Go on\r\nProxy-Authenticate: NTLM two\r\nContent-Length: 0\r\n\r\n");
    client
        .expect_status(407)
        .expect_field("Proxy-Authenticate", "NTLM two")
        .send(ask("three"));
    hop.read_head()
        .expect_field("Proxy-Authorization", "NTLM three");
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel().send("ping");
    hop.expect_bytes("ping");
    assert_eq!(a.connections(), 1);
}

/// What a client sends early for a tunnel that is refused is no request.
#[test]
fn a_client_that_has_not_waited_for_a_challenge_is_closed() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([a.with("{credentials: client}")]);
    for (field, early) in [
        ("NTLM one", "GET http://o.test/ HTTP/1.1\r\n\r\n"),
        ("Basic eA==", ""),
    ] {
        let mut client = proxy.client();
        client.send(format!(
            "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\nProxy-Authorization: {field}\r\n\r\n{early}"
        ));
        let mut hop = a.accept();
        hop.read_head();
        hop.send("HTTP/1.1 407 Go on\r\nProxy-Authenticate: NTLM two\r\nContent-Length: 0\r\n\r\n");
        client
            .expect_status(407)
            .expect_field("Connection", "close")
            .expect_closed();
    }
}

/// Whatever is asked for next: the upstream has authenticated the connection.
#[test]
fn a_connection_that_a_client_has_authenticated_is_its_own_from_then_on() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([a.with("{credentials: client}")]);
    let mut client = proxy.client();
    let ask = |client: &mut Client, host: &str, credentials: &str| {
        client.send(format!(
            "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{credentials}\r\n"
        ));
    };
    ask(&mut client, "o.test", "Proxy-Authorization: NTLM one\r\n");
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 407 Go on\r\nProxy-Authenticate: NTLM two\r\nContent-Length: 0\r\n\r\n");
    client.expect_status(407);
    ask(&mut client, "o.test", "Proxy-Authorization: NTLM three\r\n");
    hop.read_request();
    hop.send_ok("known");
    client.expect_status(200);
    for host in ["o.test", "other.test", "o.test"] {
        ask(&mut client, host, "");
        hop.read_request();
        hop.send_ok(host);
        client.expect_status(200).expect_body(host);
    }
    assert_eq!(a.connections(), 1);
}
