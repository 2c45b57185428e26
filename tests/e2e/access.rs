//! Who may use the relay, and where it goes for them.

use std::net::IpAddr;

use http_proxy_lb::net::resolve::Resolver;
use http_proxy_lb::server::Options;

use super::harness::{Member, Origin, Proxy, Talk, Upstream};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";

#[test]
fn whoever_is_not_allowed_is_told_403() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("access: {allow: [192.0.2.0/24]}", [&a]);
    for request in [GET, CONNECT] {
        proxy.client().send(request).expect_refusal(403);
    }
    a.expect_untouched();
    let proxy = Proxy::with_yaml("access: {allow: [127.0.0.1]}", [&a]);
    proxy.client().send(GET).expect_status(200);
}

#[test]
fn users_must_present_their_credentials() {
    let a = Upstream::echo_ok("a");
    let extra = "access: {users: [{username: bob, password: 'a:b'}]}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    let with = |value: &str| {
        format!(
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nProxy-Authorization: {value}\r\n\r\n"
        )
    };
    let wrong = [
        "Basic Ym9iOmE6Yw==",
        "Basic !",
        "Bearer Ym9iOmE6Yg==",
        "Basic",
    ]
    .map(with);
    for request in [GET.to_owned(), CONNECT.to_owned()].iter().chain(&wrong) {
        proxy
            .client()
            .send(request)
            .expect_refusal(407)
            .expect_field_with("Proxy-Authenticate", "Basic");
    }
    a.expect_untouched();
    proxy
        .client()
        .send(with("Basic Ym9iOmE6Yg=="))
        .expect_status(200);
    a.expect_never_saw("Ym9iOmE6Yg");
}

#[test]
fn ports_of_connect_can_be_limited() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("access: {connect_ports: [443, 8000-8010]}", [&a]);
    for (port, status) in [(443, 200), (8005, 200), (22, 403), (8011, 403), (80, 403)] {
        let mut client = proxy.client();
        client.send(format!(
            "CONNECT o.test:{port} HTTP/1.1\r\nHost: o.test:{port}\r\n\r\n"
        ));
        client.expect_head(status);
    }
    // Only of CONNECT.
    proxy.client().get("http://o.test:81/").expect_status(200);
}

#[test]
fn addresses_can_be_denied_to_the_direct_route() {
    let origin = Origin::echo_ok("origin");
    let proxy = Proxy::direct();
    proxy
        .client()
        .get("http://169.254.169.254/")
        .expect_refusal(403);
    proxy.client().get("http://[fe80::1]/").expect_refusal(403);
    proxy
        .client()
        .get(&format!("http://{}/", origin.authority()))
        .expect_status(200);
    let proxy = Proxy::direct_with("access: {direct_deny: [192.0.2.0/24]}");
    proxy.client().get("http://192.0.2.1/").expect_refusal(403);
    proxy
        .client()
        .get("http://[::ffff:192.0.2.1]/")
        .expect_refusal(403);
}

/// Access changes with the file, between requests of one connection.
#[test]
fn a_reload_applies_to_the_next_request_of_a_connection() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send(GET).expect_status(200);
    proxy.reload("access: {allow: [192.0.2.0/24]}", [&a]);
    client.send(GET).expect_refusal(403);
    proxy.reload("{}", [&a]);
    client.send(GET).expect_status(200);
}

/// Not a byte goes on of what is refused, and its body is no request.
#[test]
fn a_refused_request_forwards_nothing() {
    let a = Upstream::echo_ok("a");
    let inner = "GET http://smuggled.test/ HTTP/1.1\r\nHost: smuggled.test\r\n\r\n";
    let length = inner.len();
    let rules = [
        (403, "access: {allow: [192.0.2.0/24]}"),
        (407, "access: {users: [{username: bob, password: x}]}"),
    ];
    for (status, access) in rules {
        let proxy = Proxy::with_yaml(access, [&a]);
        for framing in [
            format!("Content-Length: {length}\r\n\r\n{inner}"),
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n"),
            format!("Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n{inner}"),
        ] {
            let mut client = proxy.client();
            client.send_as_far_as_possible(format!(
                "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{framing}"
            ));
            client.expect_refusal_and_close(status);
        }
        let mut client = proxy.client();
        client.send_as_far_as_possible(format!("{CONNECT}{inner}"));
        client.expect_refusal_and_close(status);
    }
    a.expect_untouched();
}

#[test]
fn a_refusal_says_what_to_do() {
    let a = Upstream::echo_ok("a");
    let rules = [
        ("access: {allow: [192.0.2.0/24]}", 403, "access.allow"),
        ("access: {connect_ports: [80]}", 403, "access.connect_ports"),
        (
            "access: {users: [{username: bob, password: x}]}",
            407,
            "Set user and password",
        ),
    ];
    for (access, status, advice) in rules {
        let proxy = Proxy::with_yaml(access, [&a]);
        proxy
            .client()
            .send(CONNECT)
            .expect_refusal(status)
            .expect_body_with(advice)
            .expect_field_with("Proxy-Status", "error=http_request_denied");
    }
}

/// Neither to an upstream nor to an origin, whatever the client calls them or says about them.
#[test]
fn the_credentials_of_a_client_stop_here() {
    let (a, origin) = (Upstream::echo_ok("a"), Origin::echo_ok("origin"));
    let users = "access: {users: [{username: bob, password: hunter2}]}";
    let direct = format!("{users}\ndomain_policy: {{mode: blacklist, domains: [127.0.0.1]}}");
    let proxy = Proxy::with_yaml(&direct, [&a]);
    let token = "Basic Ym9iOmh1bnRlcjI=";
    for host in ["o.test".to_owned(), origin.authority()] {
        for fields in [
            format!("Proxy-Authorization: {token}"),
            format!("PROXY-AUTHORIZATION: {token}\r\nConnection: close, Proxy-Authorization"),
            format!("Proxy-Authorization: {token}\r\nProxy-Authorization: {token}"),
            format!("Connection: X-A\r\nProxy-Authorization:\t{token}"),
        ] {
            let request = format!("http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n\r\n");
            let mut client = proxy.client();
            client.send(format!("GET {request}")).expect_status(200);
        }
        let chunked = format!(
            "POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {token}\r\n\
             Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nProxy-Authorization: {token}\r\n\r\n"
        );
        proxy.client().send(chunked).expect_status(200);
    }
    let mut client = proxy.client();
    client.send(format!(
        "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\nProxy-Authorization: {token}\r\n\r\n"
    ));
    client.expect_tunnel();
    a.expect_never_saw("Ym9iOmh1bnRlcjI");
    for request in origin.requests() {
        request.expect_no_field("Proxy-Authorization");
    }
}

/// The second one sees a client of this host, and in `Via` that it is not the one who asks.
#[test]
fn a_chain_of_two_relays_on_one_host_does_not_lead_to_its_loopback() {
    let origin = Origin::echo_ok("origin");
    let second = Proxy::direct();
    let first = Proxy::over([Member::at("second", second.address())]);
    let authority = origin.authority();
    first
        .client()
        .get(&format!("http://{authority}/"))
        .expect_status(403);
    first
        .client()
        .send(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        ))
        .expect_status(403);
    origin.expect_untouched();
    // Who asks the second one itself is on this host.
    second
        .client()
        .get(&format!("http://{authority}/"))
        .expect_status(200);
}

/// Spellings of this machine, or of others, that are no hosts.
const NO_HOSTS: [&str; 25] = [
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.1",
    "0X7F.0.0.1",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "127.0.0.1.",
    "127.0.0.0x1",
    "0",
    "%6c%6f%63alhost",
    "127%2e0.0.1",
    "localhost%00",
    "localhost..",
    ".localhost",
    "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
    "127\u{3002}0\u{3002}0\u{3002}1",
    "loc\u{e4}lhost",
    "[::1%25lo]",
    "[::1%lo]",
    "[fe80::1%25eth0]",
    "[127.0.0.1]",
    "[::ffff:0x7f.1]",
    "::1",
];

/// Spellings of this machine, and names that lead to it.
const LOOPBACK: [&str; 17] = [
    "localhost",
    "LocalHost.",
    "a.localhost",
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7F00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "leads-here.test",
    "xn--lclhost-hwa.test",
    "2130706433.test",
];

/// Some resolvers take numbers in any base, or letters of any script, for addresses.
#[test]
fn no_spelling_of_loopback_is_a_way_around() {
    let origin = Origin::echo_ok("origin");
    let port = origin.address().port();
    let options = Options {
        resolver: Resolver::asking(|_| Ok(vec![IpAddr::from([127, 0, 0, 1])])),
        ..Options::default()
    };
    let all_direct = "domain_policy: {mode: whitelist, domains: []}";
    let proxy = Proxy::with_options::<Member>(all_direct, [], options);
    for (status, hosts) in [(400, &NO_HOSTS[..]), (403, &LOOPBACK[..])] {
        for host in hosts {
            // From elsewhere: the answer to a client of this host is another one.
            let fields = "Host: x\r\nVia: 1.1 other\r\n\r\n";
            for line in [
                format!("GET http://{host}:{port}/"),
                format!("CONNECT {host}:{port}"),
            ] {
                let mut client = proxy.client();
                client.send(format!("{line} HTTP/1.1\r\n{fields}"));
                client.read_response();
                assert_eq!(client.message().status(), status, "{line}");
            }
        }
    }
    origin.expect_untouched();
}

/// What was checked is what is connected to: of several addresses only those that are allowed.
#[test]
fn a_name_with_a_forbidden_address_leads_to_its_other_one() {
    let origin = Origin::echo_ok("origin");
    let options = Options {
        resolver: Resolver::asking(|_| {
            let addresses = [
                "169.254.169.254",
                "fe80::1",
                "64:ff9b:1::a9fe:a9fe",
                "127.0.0.1",
            ];
            Ok(addresses
                .map(|text| text.parse().expect("an address"))
                .into())
        }),
        ..Options::default()
    };
    let all_direct = "domain_policy: {mode: whitelist, domains: []}";
    let proxy = Proxy::with_options::<Member>(all_direct, [], options);
    let port = origin.address().port();
    proxy
        .client()
        .get(&format!("http://both.test:{port}/"))
        .expect_status(200);
}

/// It was dialed when the client, or the file, was another one.
#[test]
fn a_connection_that_is_bound_to_a_client_leads_nobody_past_the_rules() {
    let refused = [
        ("Via: 1.1 other\r\n", ""),
        (
            "",
            "access: {allow: [127.0.0.1], direct_deny: [127.0.0.0/8]}",
        ),
    ];
    for (field, reloaded) in refused {
        let origin = Upstream::by_hand("origin");
        let options = Options {
            resolver: Resolver::asking(|_| Ok(vec![IpAddr::from([127, 0, 0, 1])])),
            ..Options::default()
        };
        let all_direct = "domain_policy: {mode: whitelist, domains: []}";
        let proxy = Proxy::with_options::<Member>(all_direct, [], options);
        // Not by number: such a target is refused before it is asked who leads there.
        let authority = format!("origin.test:{}", origin.address().port());
        let get = format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n");
        let mut client = proxy.client();
        client.send(format!("{get}\r\n"));
        let (mut hop, _) = origin.accept_and_read_request();
        hop.send(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n",
        );
        client.expect_status(401);
        proxy.reload::<Member>(&format!("{all_direct}\n{reloaded}"), []);
        client.send(format!("{get}{field}\r\n")).expect_refusal(403);
        hop.expect_gone();
        assert!(origin.try_accept().is_none());
    }
}

/// Users change with the file, and a client may try again on its connection.
#[test]
fn users_apply_to_the_next_request_of_a_connection() {
    let a = Upstream::echo_ok("a");
    let users =
        |password: &str| format!("access: {{users: [{{username: bob, password: {password}}}]}}");
    let with = |token: &str| {
        format!(
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nProxy-Authorization: Basic {token}\r\n\r\n"
        )
    };
    let (old, new) = (with("Ym9iOmh1bnRlcjI="), with("Ym9iOmh1bnRlcjM="));
    let proxy = Proxy::with_yaml(&users("hunter2"), [&a]);
    let mut client = proxy.client();
    client.send(GET).expect_refusal(407);
    client.send(&old).expect_status(200);
    proxy.reload(&users("hunter3"), [&a]);
    client.send(&old).expect_refusal(407);
    client.send(&new).expect_status(200);
}
