//! Who may use the relay, and where it goes for them.

use super::harness::{Origin, Proxy, Talk, Upstream};

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
