//! What operators are told, and what they can do: the numbers are the clients' own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use http_proxy_lb::config;
use http_proxy_lb::server::{Options, Server};

use super::harness::{Client, Hop, Member, PATIENCE, Proxy, Talk, Upstream, spawn, wait_until};

pub(super) const ADMIN: &str = "admin_listen: 127.0.0.1:0\nadmin_token: sesame-sesame-sesame\n";

/// The names of the first release; `url` where upstreams are told apart.
const OLD_FAMILIES: [(&str, &str); 17] = [
    ("uptime_seconds", ""),
    ("requests_total", ""),
    ("requests_success", ""),
    ("requests_failed", ""),
    ("connect_requests", ""),
    ("http_requests", ""),
    ("direct_connections", ""),
    ("bytes_received", ""),
    ("bytes_sent", ""),
    ("active_connections", ""),
    ("health_checks_total", ""),
    ("health_checks_success", ""),
    ("hot_reloads", ""),
    ("upstream_online", "{url=\"URL\"}"),
    ("upstream_active_connections", "{url=\"URL\"}"),
    ("upstream_latency_ms", "{url=\"URL\"}"),
    ("upstream_consecutive_failures", "{url=\"URL\"}"),
];

/// Those of them that break the rules of Prometheus.
const UNRULY: [&str; 10] = [
    "bytes_received",
    "bytes_sent",
    "connect_requests",
    "direct_connections",
    "health_checks_success",
    "hot_reloads",
    "http_requests",
    "requests_failed",
    "requests_success",
    "upstream_latency_ms",
];

/// Asks the admin server of a relay.
#[track_caller]
pub(super) fn ask(proxy: &Proxy, line: &str) -> (u16, String) {
    let address = proxy.server().admin_addr().expect("an admin server");
    ask_at(address, line)
}

#[track_caller]
fn ask_at(address: SocketAddr, line: &str) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame-sesame-sesame\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}

#[track_caller]
pub(super) fn metrics(proxy: &Proxy) -> String {
    let (status, text) = ask(proxy, "GET /metrics");
    assert_eq!(status, 200);
    text
}

/// The value of a series; `name` without the prefix, with its labels.
#[track_caller]
fn value(text: &str, name: &str) -> u64 {
    let start = format!("http_proxy_lb_{name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    let number = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    number.parse().expect("a number without fraction")
}

/// All series of a family together.
fn sum(text: &str, name: &str) -> u64 {
    let start = format!("http_proxy_lb_{name}{{");
    let lines = text.lines().filter(|line| line.starts_with(&start));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[track_caller]
pub(super) fn check(text: &str, expected: &[(&str, u64)]) {
    for (name, number) in expected {
        assert_eq!(value(text, name), *number, "{name} in\n{text}");
    }
}

/// The counts after [`counters_add_up_over_answers_failures_tunnels_and_resets`].
const WHAT_HAPPENED: &[(&str, u64)] = &[
    ("requests_total", 8),
    ("requests_success", 4),
    ("requests_failed", 4),
    ("connect_requests", 2),
    ("http_requests", 6),
    ("direct_connections", 0),
    ("failures_total{cause=\"relayed_gateway_error\"}", 1),
    ("failures_total{cause=\"target_origin_form\"}", 1),
    ("failures_total{cause=\"tls_to_plain_port\"}", 1),
    ("failures_total{cause=\"client_gone\"}", 1),
    ("tunnels_ended_total{end=\"finished\"}", 1),
    ("tunnels_ended_total{end=\"reset\"}", 1),
    ("tunnels", 0),
    (
        "exchanges_total{route=\"upstream\",method=\"safe\",status=\"2xx\"}",
        1,
    ),
    (
        "exchanges_total{route=\"upstream\",method=\"safe\",status=\"4xx\"}",
        1,
    ),
    (
        "exchanges_total{route=\"upstream\",method=\"safe\",status=\"none\"}",
        1,
    ),
    (
        "exchanges_total{route=\"upstream\",method=\"other\",status=\"5xx\"}",
        1,
    ),
    (
        "exchanges_total{route=\"upstream\",method=\"connect\",status=\"2xx\"}",
        2,
    ),
    (
        "exchanges_total{route=\"none\",method=\"unread\",status=\"4xx\"}",
        1,
    ),
    (
        "exchanges_total{route=\"none\",method=\"safe\",status=\"4xx\"}",
        1,
    ),
    ("request_duration_seconds_count", 6),
    ("tunnel_duration_seconds_count", 2),
    ("time_to_first_byte_seconds_count", 7),
    (
        "upstream_attempts_total{upstream=\"a\",outcome=\"answered\"}",
        5,
    ),
    (
        "upstream_attempts_total{upstream=\"a\",outcome=\"failed\"}",
        0,
    ),
    (
        "upstream_attempts_total{upstream=\"a\",outcome=\"given_up\"}",
        1,
    ),
    ("upstream_gateway_errors_total{upstream=\"a\"}", 1),
    ("upstream_active{upstream=\"a\"}", 0),
];

/// Three answers over one connection, the last one a 502.
fn three_answers(proxy: &Proxy, upstream: &Upstream) {
    let mut client = proxy.client();
    client.get("http://o.test/");
    let mut hop = upstream.accept();
    for (status, next) in [
        ("200 OK", Some("GET")),
        ("404 No", Some("POST")),
        ("502 Bad", None),
    ] {
        hop.read_request();
        hop.send(format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nabc"));
        client.read_response();
        if let Some(method) = next {
            client.send(format!(
                "{method} http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n"
            ));
        }
    }
}

/// An open tunnel with a few bytes through it.
fn tunnel(proxy: &Proxy, upstream: &Upstream) -> (Client, Hop) {
    let mut client = proxy.client();
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n");
    let mut hop = upstream.accept();
    hop.read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\nearly");
    client.expect_tunnel().expect_bytes("early");
    client.send("to the hop");
    hop.expect_bytes("to the hop");
    (client, hop)
}

#[test]
fn counters_add_up_over_answers_failures_tunnels_and_resets() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml(ADMIN, [&upstream]);
    three_answers(&proxy, &upstream);
    for refused in ["GET / HTTP/1.1\r\nHost: o.test\r\n\r\n", "\u{16}\u{3}\u{1}"] {
        proxy.client().send(refused).expect_status(400);
    }
    let (mut client, mut hop) = tunnel(&proxy, &upstream);
    hop.half_close();
    client.expect_closed().half_close();
    hop.expect_closed();
    let (client, mut hop) = tunnel(&proxy, &upstream);
    client.reset();
    hop.expect_reset();
    let mut gone = proxy.client();
    gone.get("http://o.test/");
    let mut hop = upstream.accept();
    hop.read_request();
    gone.reset();
    wait_until(|| value(&metrics(&proxy), "requests_total") == 8);
    proxy.expect_at_rest();

    let text = metrics(&proxy);
    check(&text, WHAT_HAPPENED);
    assert_eq!(sum(&text, "exchanges_total"), 8);
    assert_eq!(sum(&text, "failures_total"), 4);
}

#[test]
fn bytes_are_those_that_were_sent() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml(ADMIN, [&upstream]);
    let mut client = proxy.client();
    let request = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\nearly";
    let answer = "HTTP/1.1 200 OK\r\n\r\nearly too";
    client.send(request);
    let mut hop = upstream.accept();
    let asked = hop.read_head().raw.len();
    hop.send(answer);
    client.expect_tunnel().expect_bytes("early too");
    hop.expect_bytes("early");
    client.send("0123456789");
    hop.expect_bytes("0123456789");
    hop.send("01234567890123456789");
    client.expect_bytes("01234567890123456789");
    let upstream_sent = "upstream_sent_bytes_total{upstream=\"a\"}";
    let upstream_received = "upstream_received_bytes_total{upstream=\"a\"}";

    // The tunnel is still open: its bytes are there, its head is not.
    let text = metrics(&proxy);
    check(
        &text,
        &[
            ("bytes_received", 15),
            ("received_bytes_total", 15),
            (upstream_sent, (asked + 15) as u64),
            (upstream_received, (answer.len() + 20) as u64),
            ("tunnels", 1),
            ("requests_total", 0),
            ("upstream_active{upstream=\"a\"}", 1),
        ],
    );
    let opened = value(&text, "bytes_sent");

    client.half_close();
    hop.expect_closed().half_close();
    client.expect_closed();
    proxy.expect_at_rest();
    wait_until(|| value(&metrics(&proxy), "requests_total") == 1);
    check(
        &metrics(&proxy),
        &[
            ("bytes_received", (request.len() + 10) as u64),
            ("bytes_sent", opened),
            (upstream_sent, (asked + 15) as u64),
            (upstream_received, (answer.len() + 20) as u64),
        ],
    );
}

#[test]
fn retries_and_reuse_are_counted_for_the_upstream_that_had_them() {
    let dead = Upstream::echo_ok("dead");
    let good = Upstream::echo_ok("good");
    let extra = format!("{ADMIN}mode: priority\n");
    let members: [Member; 2] = [dead.with("priority: 1"), good.with("priority: 2")];
    let proxy = Proxy::with_yaml(&extra, members);
    dead.kill();
    let mut client = proxy.client();
    for _ in 0..3 {
        client.get("http://o.test/").expect_status(200);
    }
    check(
        &metrics(&proxy),
        &[
            (
                "upstream_attempts_total{upstream=\"dead\",outcome=\"failed\"}",
                1,
            ),
            ("upstream_failures_total{upstream=\"dead\"}", 1),
            ("upstream_retries_total{upstream=\"dead\"}", 0),
            ("upstream_up{upstream=\"dead\"}", 0),
            (
                "upstream_state_changes_total{upstream=\"dead\",to=\"offline\"}",
                1,
            ),
            (
                "upstream_attempts_total{upstream=\"good\",outcome=\"answered\"}",
                3,
            ),
            ("upstream_retries_total{upstream=\"good\"}", 1),
            (
                "upstream_connections_total{upstream=\"good\",kind=\"opened\"}",
                1,
            ),
            (
                "upstream_connections_total{upstream=\"good\",kind=\"reused\"}",
                2,
            ),
            ("connect_duration_seconds_count", 2),
            ("requests_failed", 0),
        ],
    );
    let (status, ready) = ask(&proxy, "GET /ready");
    assert_eq!(status, 200, "{ready}");
    let sick = "\"name\":\"dead\",\"online\":false,\"state\":\"offline\",\"drained\":false,\
        \"reason\":\"cannot connect: connection refused\",\"doubt\":null,";
    assert!(ready.contains(sick), "{ready}");
    let (_, status) = ask(&proxy, "GET /status");
    assert!(status.contains(sick), "{status}");
}

#[test]
fn the_names_of_the_first_release_are_still_there() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(ADMIN, [&upstream]);
    let text = metrics(&proxy);
    let url = format!("http://{}", upstream.address());
    let (_, status) = ask(&proxy, "GET /status");
    for (name, labels) in OLD_FAMILIES {
        let start = format!("\nhttp_proxy_lb_{name}{} ", labels.replace("URL", &url));
        assert!(format!("\n{text}").contains(&start), "{name} in\n{text}");
        let member = match name.strip_prefix("upstream_") {
            Some(member) => member,
            None => name,
        };
        assert!(
            status.contains(&format!("\"{member}\":")),
            "{member} in {status}"
        );
    }
    for member in ["url", "weight", "priority"] {
        assert!(
            status.contains(&format!("\"{member}\":")),
            "{member} in {status}"
        );
    }
}

/// As in the first release: scripts read it as an integer.
#[test]
fn the_latency_is_whole_milliseconds_and_stands_in_microseconds_beside_them() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml(ADMIN, [&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_ok("");
    client.expect_status(200);
    let latency = proxy.upstream("a").latency.expect("a sample");
    let (_, status) = ask(&proxy, "GET /status");
    let members = format!(
        "\"latency_ms\":{},\"latency_us\":{micros},\"latency_p95_us\":{micros},",
        latency.as_millis(),
        micros = latency.as_micros(),
    );
    assert!(status.contains(&members), "{members} in {status}");
    let url = format!("http://{}", upstream.address());
    let name = format!("upstream_latency_ms{{url=\"{url}\"}}");
    assert_eq!(
        u128::from(value(&metrics(&proxy), &name)),
        latency.as_millis()
    );
}

/// The connections of a relay, each from its state on, without moments.
fn connections(proxy: &Proxy) -> Vec<String> {
    let (status, text) = ask(proxy, "GET /connections");
    assert_eq!(status, 200);
    let entries = text.split("{\"id\":").skip(1);
    entries
        .map(|entry| {
            let from_state = entry.split_once("\"state\":").expect("a state").1;
            let (state, rest) = from_state.split_once(',').expect("more");
            let from_user = rest.split_once("\"user\":").expect("a user").1;
            format!("{state},\"user\":{}", from_user.split('}').next().unwrap())
        })
        .collect()
}

#[test]
fn who_is_connected_is_told_with_what_they_do_and_where_it_goes() {
    let upstream = Upstream::by_hand("a");
    let users = "access: {users: [{username: bob, password: x}]}\n";
    let proxy = Proxy::with_yaml(&format!("{ADMIN}{users}"), [&upstream]);
    // bob:x
    let bob = "Proxy-Authorization: Basic Ym9iOng=\r\n\r\n";
    let silent = proxy.client();
    wait_until(|| connections(&proxy).len() == 1);
    let mut asking = proxy.client();
    let get = format!("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{bob}");
    asking.send(&get);
    let mut hop = upstream.accept();
    hop.read_request();
    let mut tunnel = proxy.client();
    let connect = format!("CONNECT t.test:443 HTTP/1.1\r\nHost: t.test:443\r\n{bob}");
    tunnel.send(&connect);
    let mut far = upstream.accept();
    far.read_request();
    far.send("HTTP/1.1 200 OK\r\n\r\nearly");
    let opened = tunnel.expect_tunnel().message().raw.len();
    tunnel.expect_bytes("early");
    tunnel.send("to the hop");
    far.expect_bytes("to the hop");
    let idle = "\"idle\",\"user\":null,\"target\":null,\"route\":null,\"upstream\":null,";
    let to = |state: &str, target: &str| {
        format!(
            "\"{state}\",\"user\":\"bob\",\"target\":\"{target}\",\"route\":\"upstream\",\"upstream\":\"a\","
        )
    };
    let bytes = |up: usize, down: usize| format!("\"bytes_received\":{up},\"bytes_sent\":{down}");
    wait_until(|| {
        let told = connections(&proxy);
        told[0] == format!("{idle}{}", bytes(0, 0))
            && told[1].starts_with(&to("request", "o.test:80"))
            && told[2].starts_with(&to("tunnel", "t.test:443"))
            && told[2].ends_with(&bytes(connect.len() + 10, opened + 5))
    });
    // A long answer is seen while it comes.
    hop.send("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 8\r\n\r\nhalf");
    let answer = asking.read_head().raw.len() + "halfhalf".len();
    asking.expect_bytes("half");
    wait_until(|| connections(&proxy)[1].ends_with(&bytes(get.len(), answer - 4)));
    hop.send("half");
    asking.expect_bytes("half");
    wait_until(|| connections(&proxy)[1] == format!("{idle}{}", bytes(get.len(), answer)));
    drop((silent, tunnel, far));
    wait_until(|| connections(&proxy).len() == 1);
    asking.send("x");
    drop(asking);
    wait_until(|| connections(&proxy).is_empty());
}

#[test]
fn who_is_connected_is_told_to_nobody_without_the_token() {
    let upstream = Upstream::echo_ok("a");
    let other = ADMIN.replace("sesame-sesame-sesame", "another-another-another");
    let proxy = Proxy::with_yaml(&other, [&upstream]);
    assert_eq!(ask(&proxy, "GET /connections").0, 401);
}

#[test]
fn a_drained_upstream_gets_nothing_new_until_it_is_enabled() {
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let proxy = Proxy::with_yaml(ADMIN, [&a, &b]);
    let ask_four = || {
        for _ in 0..4 {
            proxy.client().get("http://o.test/").expect_status(200);
        }
    };
    assert_eq!(ask(&proxy, "POST /upstreams/a/drain").0, 200);
    ask_four();
    assert_eq!((a.requests().len(), b.requests().len()), (0, 4));
    // Kept over a reload.
    proxy.reload(&format!("{ADMIN}mode: best\n"), [&a, &b]);
    ask_four();
    assert_eq!((a.requests().len(), b.requests().len()), (0, 8));
    check(
        &metrics(&proxy),
        &[("upstream_in_service{upstream=\"a\"}", 0)],
    );
    assert_eq!(ask(&proxy, "POST /upstreams/b/drain").0, 200);
    let (status, ready) = ask(&proxy, "GET /ready");
    assert!(status == 503 && ready.contains("\"reason\":\"all upstreams are drained\""));
    let mut client = proxy.client();
    client
        .get("http://o.test/")
        .expect_refusal(503)
        .expect_field_with("Proxy-Status", "all upstreams are drained")
        .expect_body_with("All upstreams are drained.");
    // It is counted once it is over, and the client may be told sooner.
    let refused = "failures_total{cause=\"all_upstreams_drained\"}";
    wait_until(|| value(&metrics(&proxy), refused) == 1);
    assert_eq!(ask(&proxy, "POST /upstreams/a/enable").0, 200);
    assert_eq!(ask(&proxy, "GET /ready").0, 200);
    ask_four();
    assert_eq!((a.requests().len(), b.requests().len()), (4, 8));
}

#[test]
fn readiness_says_that_the_relay_drains() {
    let upstream = Upstream::by_hand("a");
    let extra = format!("{ADMIN}limits: {{shutdown_timeout_secs: 8}}\n");
    let proxy = Proxy::with_yaml(&extra, [&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let mut hop = upstream.accept();
    hop.read_request();
    let address = proxy.server().admin_addr().expect("an admin server");
    let draining = spawn("test-drain", move || {
        proxy.server().drain();
        proxy
    });
    wait_until(|| {
        let (status, body) = ask_at(address, "GET /ready");
        status == 503 && body.contains("\"reason\":\"draining\"")
    });
    assert_eq!(ask_at(address, "GET /health").0, 200);
    hop.send_ok("late");
    client.expect_status(200);
    drop(draining.join().expect("drained"));
    assert!(TcpStream::connect_timeout(&address, PATIENCE).is_err());
}

#[test]
fn an_admin_port_that_is_taken_is_an_error_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = taken.local_addr().expect("an address");
    let text = format!("listen: 127.0.0.1:0\nadmin_listen: {address}\nupstream: []\n");
    let config = config::parse(&text, "test.yaml").expect("a configuration");
    let error = Server::start(config, Options::default()).expect_err("no server");
    let start = format!("admin_listen {address}: ");
    assert!(error.to_string().starts_with(&start), "{error}");
}

#[test]
fn a_new_token_counts_from_the_reload_on() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(ADMIN, [&upstream]);
    assert_eq!(ask(&proxy, "GET /status").0, 200);
    let other = ADMIN.replace("sesame-sesame-sesame", "another-another-another");
    proxy.reload(&other, [&upstream]);
    assert_eq!(ask(&proxy, "GET /status").0, 401);
}

#[test]
fn stray_bytes_of_an_upstream_are_told() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml(ADMIN, [&upstream]);
    let (_, status) = ask(&proxy, "GET /status");
    assert!(status.contains("\"distrusted_until\":null"), "{status}");
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npageX");
    client.expect_status(200).expect_body("page");
    hop.expect_gone();
    check(
        &metrics(&proxy),
        &[
            ("upstream_strays_total{upstream=\"a\"}", 1),
            ("upstream_distrusted{upstream=\"a\"}", 1),
            ("upstream_reuse_broken_total{upstream=\"a\"}", 0),
        ],
    );
    let (_, status) = ask(&proxy, "GET /status");
    assert!(status.contains("\"strays\":1,"), "{status}");
    assert!(status.contains("\"distrusted_until\":\"2"), "{status}");
}

#[test]
fn an_upstream_without_connect_is_told() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send("HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n");
    });
    let b = Upstream::echo_ok("b");
    let proxy = Proxy::with_yaml(ADMIN, [&a, &b]);
    let told = || {
        ask(&proxy, "GET /status")
            .1
            .matches("\"no_connect\":true")
            .count()
    };
    assert_eq!(told(), 0);
    for n in 0..4 {
        proxy.client().open_tunnel(&format!("o{n}.test:443"));
    }
    assert_eq!(told(), 1);
    check(
        &metrics(&proxy),
        &[
            ("upstream_no_connect{upstream=\"a\"}", 1),
            ("upstream_no_connect{upstream=\"b\"}", 0),
        ],
    );
}

#[test]
fn ten_thousand_upstreams_are_told() {
    let member = |n: u32| {
        let address = SocketAddr::from(([127, 1, n.to_be_bytes()[2], n.to_be_bytes()[3]], 9));
        Member::at(&format!("u{n}"), address)
    };
    let proxy = Proxy::with_yaml(ADMIN, (0..10_000).map(member));
    let text = metrics(&proxy);
    assert!(text.contains("upstream_up{upstream=\"u9999\"} "));
    let (status, body) = ask(&proxy, "GET /status");
    assert_eq!(status, 200);
    assert_eq!(body.matches("\"priority\":").count(), 10_000);
}

#[test]
fn numbers_of_each_upstream_can_be_left_out() {
    let yaml = format!("{ADMIN}metrics: {{per_upstream: false}}\n");
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let proxy = Proxy::with_yaml(&yaml, [&a, &b]);
    proxy.client().get("http://o.test/").expect_status(200);
    // It is counted once it is over, and the client may be told sooner.
    wait_until(|| value(&metrics(&proxy), "requests_total") == 1);
    let text = metrics(&proxy);
    assert!(
        !text.contains("upstream=") && !text.contains("url="),
        "{text}"
    );
    check(
        &text,
        &[
            ("upstreams{state=\"online\"}", 2),
            ("upstreams{state=\"suspect\"}", 0),
            ("upstreams{state=\"offline\"}", 0),
            ("requests_total", 1),
        ],
    );
}

#[test]
#[ignore = "needs promtool (Debian package prometheus)"]
fn promtool_names_exactly_the_names_of_the_first_release() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(ADMIN, [&upstream]);
    proxy.client().get("http://o.test/").expect_status(200);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut input = promtool.stdin.take().expect("its input");
    input.write_all(metrics(&proxy).as_bytes()).expect("told");
    drop(input);
    let output = promtool.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut named: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("http_proxy_lb_"))
        .filter_map(|line| line.split(' ').next())
        .collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named, UNRULY, "{said}");
    assert!(
        said.lines().all(|line| line.starts_with("http_proxy_lb_")),
        "{said}"
    );
}
