//! Sessions that keep their upstream, and upstreams that rest for a site.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::admin::{ADMIN, ask};
use super::harness::exchange::{basic, connect, get};
use super::harness::{Client, FullPort, Hop, Message, Proxy, Talk, Upstream, wait_until};

const BY_SESSION: &str = "sticky: {by: session}";

/// What a client presents as `user`, with the password x.
fn login(user: &str) -> String {
    format!("Proxy-Authorization: {}\r\n", basic(user, "x"))
}

fn four() -> [Upstream; 4] {
    ["a", "b", "c", "d"].map(Upstream::echo_ok)
}

/// The body of the answer, which is the name of the upstream.
#[track_caller]
fn body(client: &mut Client, request: &str) -> String {
    let message = client.send(request).read_response();
    String::from_utf8(message.body.clone()).unwrap()
}

/// The names of the upstreams that answer clients that come one after the other.
#[track_caller]
fn names(proxy: &Proxy, request: &str, count: usize) -> String {
    (0..count)
        .map(|_| body(&mut proxy.client(), request))
        .collect()
}

#[track_caller]
fn admin(proxy: &Proxy, line: &str) -> String {
    let (status, text) = ask(proxy, line);
    assert_eq!(status, 200, "{text}");
    text
}

/// Whether one of these answered all requests.
fn is_one(names: &str) -> bool {
    names.chars().collect::<HashSet<_>>().len() == 1
}

/// Answers this to `x.test` with its name as the body, a 200 to all others.
fn banned(name: &'static str, head: &'static str) -> Upstream {
    Upstream::answering(name, move |hop: &mut Hop, request: &Message| {
        if request.target().contains("x.test") {
            hop.send(format!(
                "{head}Content-Length: {}\r\n\r\n{name}",
                name.len()
            ));
        } else {
            hop.send_ok(name);
        }
    })
}

#[test]
fn a_session_keeps_its_upstream_over_connections_and_tunnels() {
    let upstreams = four();
    let proxy = Proxy::with_yaml(BY_SESSION, &upstreams);
    let mut used = HashSet::new();
    for number in 0..32 {
        let session = login(&format!("someone-session-{number}"));
        let answers = names(&proxy, &get("o.test", &session), 3);
        let (first, others) = answers.split_at(1);
        assert_eq!(others, first.repeat(2), "{number}");
        let tunnel = connect(&format!("t{number}.test:443"), &session);
        proxy.client().send(tunnel).expect_head(200);
        let its = upstreams.iter().find(|one| one.name() == first).unwrap();
        let wanted = format!("t{number}.test:443");
        assert!(
            its.requests()
                .iter()
                .any(|request| request.target() == wanted)
        );
        used.insert(first.to_owned());
    }
    assert_eq!(used.len(), 4);
}

#[test]
fn who_names_no_session_is_not_sticky() {
    let upstreams = four();
    let proxy = Proxy::with_yaml(BY_SESSION, &upstreams);
    assert_eq!(names(&proxy, &get("o.test", &login("someone")), 4), "abcd");
    assert_eq!(
        names(&proxy, &get("o.test", &login("someone-session-")), 4),
        "abcd"
    );
    assert_eq!(names(&proxy, &get("o.test", ""), 4), "abcd");
}

#[test]
fn a_session_logs_in_as_its_user_with_his_password() {
    let users =
        "access: {users: [{username: someone, password: x}, {username: a-session-b, password: x}]}";
    let upstreams = four();
    let proxy = Proxy::with_yaml(&format!("{BY_SESSION}\n{users}"), &upstreams);
    for (user, status) in [
        ("someone", 200),
        ("someone-session-1", 200),
        ("a-session-b", 200),
        ("a-session-b-session-1", 200),
        ("other-session-1", 407),
        ("someone-session-", 407),
        ("someone-sessions-1", 407),
        ("-session-1", 407),
    ] {
        let message = proxy
            .client()
            .send(get("o.test", &login(user)))
            .read_response()
            .status();
        assert_eq!(message, status, "{user}");
    }
    let wrong = basic("someone-session-1", "y");
    let wrong = format!("Proxy-Authorization: {wrong}\r\n");
    proxy
        .client()
        .send(get("o.test", &wrong))
        .expect_refusal(407);
    // Without `sticky` a name is a name.
    let proxy = Proxy::with_yaml(users, &upstreams);
    let named = get("o.test", &login("someone-session-1"));
    proxy.client().send(named).expect_refusal(407);
}

#[test]
fn clients_users_and_targets_keep_their_upstream() {
    let upstreams = four();
    let proxy = Proxy::with_yaml("sticky: {by: client}", &upstreams);
    for last in 1..9 {
        let source = Ipv4Addr::new(127, 0, 0, last);
        let answer = || {
            let mut client = Client::connect_from(source, proxy.address());
            body(&mut client, &get("o.test", ""))
        };
        assert_eq!(answer(), answer());
    }
    let users = "access: {users: [{username: ann, password: x}, {username: bob, password: x}]}";
    let proxy = Proxy::with_yaml(&format!("sticky: {{by: user}}\n{users}"), &upstreams);
    for user in ["ann", "bob"] {
        let answers = names(&proxy, &get("o.test", &login(user)), 3);
        assert!(is_one(&answers), "{user}: {answers}");
    }
    let proxy = Proxy::with_yaml("sticky: {by: target}", &upstreams);
    for number in 0..8 {
        let host = format!("o{number}.test");
        let same =
            names(&proxy, &get(&host, ""), 2) + &names(&proxy, &get(&format!("{host}.:81"), ""), 2);
        assert!(is_one(&same), "{host}: {same}");
    }
}

#[test]
fn a_session_whose_upstream_is_offline_moves_and_stays_where_it_went() {
    let upstreams = four();
    let extra = format!("{ADMIN}{BY_SESSION}\nlimits: {{upstream_idle_connections: 0}}");
    let proxy = Proxy::with_yaml(&extra, &upstreams);
    let session = get("o.test", &login("someone-session-1"));
    let first = names(&proxy, &session, 1);
    let its = upstreams.iter().find(|one| one.name() == first).unwrap();
    its.kill();
    names(&proxy, &session, 1);
    let second = names(&proxy, &session, 1);
    assert_ne!(second, first);
    its.revive();
    wait_until(|| proxy.upstream(&first).online);
    assert_eq!(names(&proxy, &session, 3), second.repeat(3));
    let status = admin(&proxy, "GET /status");
    assert!(
        status.contains("\"sessions\":1,\"moved_removed\":0,\"moved_offline\":1"),
        "{status}"
    );
}

/// A race would have cost it its address at once.
#[test]
fn a_session_waits_for_its_upstream_until_that_has_failed() {
    let (full, other) = (FullPort::new(), Upstream::echo_ok("b"));
    let members = [full.with("a", "priority: 1"), other.with("priority: 2")];
    let extra =
        format!("{ADMIN}{BY_SESSION}\nmode: priority\nlimits: {{connect_timeout_secs: 0.5}}");
    let proxy = Proxy::with_yaml(&extra, members);
    let session = get("o.test", &login("someone-session-1"));
    assert_eq!(names(&proxy, &session, 1), "b");
    let metrics = admin(&proxy, "GET /metrics");
    for (outcome, count) in [("failed", 1), ("given_up", 0)] {
        let line = format!(
            "http_proxy_lb_upstream_attempts_total{{upstream=\"a\",outcome=\"{outcome}\"}} {count}\n"
        );
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[test]
fn an_answer_lets_its_upstream_rest_for_the_host_and_no_other() {
    let upstreams = [
        banned("a", "HTTP/1.1 429 No\r\n"),
        banned("b", "HTTP/1.1 200 OK\r\n"),
    ];
    let extra = format!("{ADMIN}rest: [{{status: [429]}}]");
    let proxy = Proxy::with_yaml(&extra, &upstreams);
    let mut client = proxy.client();
    client
        .send(get("x.test", ""))
        .expect_status(429)
        .expect_body("a");
    assert_eq!(names(&proxy, &get("x.test", ""), 4), "bbbb");
    assert_eq!(names(&proxy, &get("x.test.", ""), 2), "bb");
    let others: HashSet<_> = names(&proxy, &get("y.test", ""), 4).chars().collect();
    assert_eq!(others.len(), 2);
    proxy.expect_online("a");
    let status = admin(&proxy, "GET /status");
    let told =
        "\"longest\":[{\"upstream\":\"a\",\"scope\":\"host\",\"host\":\"x.test\",\"status\":429,";
    assert!(status.contains(told), "{status}");
    let metrics = admin(&proxy, "GET /metrics");
    let line = "http_proxy_lb_upstream_rests_total{upstream=\"a\",status=\"429\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    admin(&proxy, "POST /upstreams/a/clear-rests");
    assert!(names(&proxy, &get("x.test", ""), 2).contains('a'));
}

#[test]
fn where_a_rest_is_for_all_hosts_all_hosts_use_others() {
    let upstreams = [
        banned("a", "HTTP/1.1 403 No\r\n"),
        banned("b", "HTTP/1.1 200 OK\r\n"),
    ];
    let proxy = Proxy::with_yaml("rest: [{status: [403], scope: upstream}]", &upstreams);
    proxy.client().send(get("x.test", "")).expect_status(403);
    assert_eq!(names(&proxy, &get("y.test", ""), 4), "bbbb");
}

#[test]
fn with_retry_another_upstream_is_asked_at_once_if_the_request_may_be_repeated() {
    let upstreams = [
        banned("a", "HTTP/1.1 429 No\r\n"),
        banned("b", "HTTP/1.1 200 OK\r\n"),
    ];
    let proxy = Proxy::with_yaml("rest: [{status: [429], retry: true}]", &upstreams);
    let mut client = proxy.client();
    client
        .send(get("x.test", ""))
        .expect_status(200)
        .expect_body("b");
    client.send(get("x.test", "")).expect_status(200);
    assert_eq!(upstreams[0].requests().len(), 1);
    let proxy = Proxy::with_yaml("rest: [{status: [429], retry: true}]", &upstreams);
    let post = "POST http://x.test/ HTTP/1.1\r\nHost: x.test\r\nContent-Length: 2\r\n\r\nhi";
    proxy
        .client()
        .send(post)
        .expect_status(429)
        .expect_body("a");
}

#[test]
fn if_nobody_answers_better_the_first_answer_stands_and_the_connection_goes_on() {
    for second in ["HTTP/1.1 429 No\r\n", "HTTP/1.1 502 No\r\n"] {
        let upstreams = [banned("a", "HTTP/1.1 429 No\r\n"), banned("b", second)];
        let proxy = Proxy::with_yaml("rest: [{status: [429], retry: true}]", &upstreams);
        let mut client = proxy.client();
        client
            .send(get("x.test", ""))
            .expect_status(429)
            .expect_body("a");
        assert_eq!(upstreams[1].requests().len(), 1);
        client.send(get("y.test", "")).expect_status(200);
        proxy.expect_at_rest();
    }
}

/// It would be banned for longer.
#[test]
fn nobody_who_rests_is_asked_after_an_answer_that_began_a_rest() {
    let upstreams = ["a", "b", "c"].map(|name| banned(name, "HTTP/1.1 429 No\r\n"));
    let proxy = Proxy::with_yaml("rest: [{status: [429], retry: true}]", &upstreams);
    proxy.client().send(get("x.test", "")).expect_status(429);
    let asked = || {
        upstreams
            .iter()
            .map(|one| one.requests().len())
            .sum::<usize>()
    };
    assert_eq!(asked(), 3);
    proxy.client().send(get("x.test", "")).expect_status(429);
    assert_eq!(asked(), 4);
}

#[test]
fn a_refused_connect_begins_a_rest_and_may_be_tried_elsewhere() {
    for (retry, statuses) in [("false", [403, 200]), ("true", [200, 200])] {
        let upstreams = [banned("a", "HTTP/1.1 403 No\r\n"), Upstream::echo_ok("b")];
        let extra = format!("rest: [{{status: [403], retry: {retry}}}]");
        let proxy = Proxy::with_yaml(&extra, &upstreams);
        for status in statuses {
            proxy
                .client()
                .send(connect("x.test:443", ""))
                .expect_head(status);
        }
        assert_eq!(upstreams[0].requests().len(), 1);
    }
}

/// What one client asks for must not take the upstream of its session out of service, whatever it calls its sessions.
#[test]
fn gateway_errors_of_a_client_or_user_that_keeps_to_an_upstream_are_known_as_its_own() {
    let users = "access: {users: [{username: ann, password: x}, {username: bob, password: x}]}";
    for (keys, of_one) in [
        ("sticky: {by: client}", 3),
        (BY_SESSION, 3),
        (&*format!("{BY_SESSION}\n{users}"), 1),
        (users, 0),
    ] {
        let a = Upstream::answering("a", |hop, _| {
            hop.send("HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n");
        });
        let proxy = Proxy::with_yaml(keys, [&a]);
        let mut client = proxy.client();
        for user in ["ann-session-1", "ann-session-2", "bob-session-1"] {
            let user = login(if keys == users { "ann" } else { user });
            client.send(get("dead.test", &user)).expect_status(504);
        }
        let snapshot = proxy.server().context().snapshot();
        let vitals = snapshot.pool.upstreams()[0].vitals();
        assert_eq!(vitals.take_errors_of_one(), of_one, "{keys}");
    }
}

/// An upstream whose own rules refuse two ports of every site.
fn with_refused_ports(name: &'static str) -> Upstream {
    Upstream::answering(name, move |hop: &mut Hop, request: &Message| {
        let target = request.target();
        if target.contains(":25") || target.contains(":8080") {
            hop.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        } else {
            hop.send_ok(name);
        }
    })
}

#[test]
fn upstreams_that_refuse_a_port_do_not_rest_for_the_site_at_others() {
    let upstreams = ["a", "b"].map(with_refused_ports);
    let extra = format!("{ADMIN}rest: [{{status: [403]}}]");
    let proxy = Proxy::with_yaml(&extra, &upstreams);
    for port in ["25", "8080"] {
        let tunnel = connect(&format!("x.test:{port}"), "");
        proxy.client().send(tunnel).expect_head(403);
    }
    proxy.client().send(get("x.test:25", "")).expect_status(403);
    let status = admin(&proxy, "GET /status");
    for (rest, count) in [
        ("CONNECT x.test:25", 1),
        ("CONNECT x.test:8080", 1),
        ("x.test:25", 1),
        ("x.test:8080", 0),
        ("x.test", 0),
    ] {
        let told = format!("\"host\":\"{rest}\"");
        assert_eq!(status.matches(&told).count(), count, "{rest}: {status}");
    }
    proxy
        .client()
        .send(connect("x.test:443", ""))
        .expect_head(200);
}

#[test]
fn a_refused_connect_lets_nobody_rest_for_all_hosts() {
    let upstreams = ["a", "b"].map(with_refused_ports);
    let extra = format!("{ADMIN}rest: [{{status: [403], scope: upstream, retry: true}}]");
    let proxy = Proxy::with_yaml(&extra, &upstreams);
    let tunnel = connect("x.test:25", "");
    proxy.client().send(tunnel).expect_head(403);
    let metrics = admin(&proxy, "GET /metrics");
    assert!(metrics.contains("http_proxy_lb_rests 0\n"), "{metrics}");
}

/// It has an answer already, whose server does not wait for ever either.
#[test]
fn with_an_answer_in_hand_no_other_upstream_is_waited_for_as_long_as_without() {
    let silent = Upstream::answering("b", |_: &mut Hop, _: &Message| {});
    let upstreams = [banned("a", "HTTP/1.1 429 No\r\n"), silent];
    let extra = "rest: [{status: [429], retry: true}]\nlimits: {response_timeout_secs: 3600, request_timeout_secs: 0}";
    let proxy = Proxy::with_yaml(extra, &upstreams);
    proxy
        .client()
        .send(get("x.test", ""))
        .expect_status(429)
        .expect_body("a");
}
