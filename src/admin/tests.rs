//! The admin server from the outside, with an invented relay behind it; and its inside failing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::sockopt;

use super::*;
use std::time::{Duration, Instant};

use crate::balance::reason::{Depth, OfflineReason};
use crate::balance::state::{CheckVerdict, Thresholds};
use crate::config;
use crate::json::Json;
use crate::net::resolve::Resolver;
use crate::net::socket;
use crate::relay::Context;
use crate::stop::Stage;

/// Long enough for a busy machine; nothing that works waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

const TWO: &str = "listen: 127.0.0.1:0\nadmin_token: sesame-sesame-sesame\nupstream:\n  \
    - {url: 'http://127.0.0.1:1', name: one}\n  - {url: 'http://127.0.0.1:2', name: 'two \"\\'}\n";

/// A relay that does nothing, and panics when asked to.
struct Invented {
    ctx: Arc<Context>,
    panics: AtomicBool,
    drains: DrainFile,
}

impl RelayView for Invented {
    fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    fn load(&self) -> Load {
        assert!(!self.panics.load(Ordering::Relaxed), "as the test wants");
        Load::default()
    }

    fn drains(&self) -> &DrainFile {
        &self.drains
    }
}

struct Stand {
    admin: Admin,
    seen: Arc<Invented>,
}

impl Stand {
    fn with(text: &str, prepare: Prepare) -> Self {
        let config = config::parse(text, "test.yaml").unwrap();
        let ctx = Arc::new(Context::new(config, Resolver::default()).unwrap());
        let seen = Arc::new(Invented {
            ctx,
            panics: AtomicBool::new(false),
            drains: DrainFile::default(),
        });
        let listen = ListenAddress {
            host: "127.0.0.1".to_owned(),
            port: 0,
        };
        let listener = socket::listen("admin_listen", &listen).unwrap();
        let view: Arc<dyn RelayView> = Arc::<Invented>::clone(&seen);
        let admin = Admin::start_prepared(listener, listen, view, prepare).unwrap();
        Self { admin, seen }
    }

    fn new() -> Self {
        Self::with(TWO, |_| Ok(()))
    }

    fn connect(&self) -> TcpStream {
        connect(self.admin.address())
    }

    /// The answer to `request`, of which `\n` ends a line, and which has no blank line yet.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        let request = format!("{request}\n\n").replace('\n', "\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        rest(&mut stream)
    }

    /// The same for a `GET` with the token.
    fn get(&self, path: &str) -> String {
        self.ask(&format!(
            "GET {path} HTTP/1.1\nHost: localhost\nAuthorization: Bearer sesame-sesame-sesame"
        ))
    }

    fn check(&self, request: &str, status: &str) {
        let answer = self.ask(request);
        let line = answer.lines().next().unwrap_or_default();
        assert_eq!(line, format!("HTTP/1.1 {status}"), "{request}");
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes until the end.
fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

const HEALTH: &str = "GET /health HTTP/1.1\nHost: localhost";

#[test]
fn every_endpoint_answers() {
    let stand = Stand::new();
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/health", "application/json"),
        ("/ready", "application/json"),
        ("/status", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        let answer = stand.get(path);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n"),
            "{path}: {answer}"
        );
        let field = format!("\r\nContent-Type: {media_type}\r\n");
        assert!(answer.contains(&field), "{path}: {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{path}");
        let length = format!("\r\nContent-Length: {}\r\n", body(&answer).len());
        assert!(answer.contains(&length), "{path}: {answer}");
    }
    assert_eq!(body(&stand.get("/health")), "{\"status\":\"ok\"}\n");
}

#[test]
fn head_brings_the_head_of_get() {
    let stand = Stand::new();
    let get = stand.ask("GET /health HTTP/1.1\nHost: localhost");
    let head = stand.ask("HEAD /health HTTP/1.1\nHost: localhost");
    let without_date = |text: &str| {
        let lines = text.split("\r\n").filter(|line| !line.starts_with("Date:"));
        lines
            .take_while(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(without_date(&head), without_date(&get));
    assert_eq!(body(&head), "");
}

#[test]
fn http_1_0_is_understood() {
    Stand::new().check("GET /health HTTP/1.0", "200 OK");
}

#[test]
fn what_is_not_there_or_not_so_is_told() {
    let stand = Stand::new();
    let token = "HTTP/1.1\nHost: h\nAuthorization: Bearer sesame-sesame-sesame";
    stand.check(&format!("GET /healthz {token}"), "404 Not Found");
    stand.check(&format!("GET /upstreams/one {token}"), "404 Not Found");
    let answer = stand.ask("DELETE /health HTTP/1.1\nHost: h");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("\r\nAllow: GET, HEAD\r\n"), "{answer}");
    stand.check("GET http://h/health HTTP/1.1\nHost: h", "400 Bad Request");
    stand.check(
        "GET /health HTTP/1.1\nHost: h\nContent-Length: 5",
        "413 Content Too Large",
    );
    stand.check("GET /health HTTP/1.1\nHost : h", "400 Bad Request");
    stand.check(
        "GET /health HTTP/2.0\nHost: h",
        "505 HTTP Version Not Supported",
    );
}

#[test]
fn a_challenge_comes_without_the_token() {
    let answer = Stand::new().ask("GET /status HTTP/1.1\nHost: localhost");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(
        answer.contains("\r\nWWW-Authenticate: Basic realm="),
        "{answer}"
    );
}

/// The answer is delayed, and no other client waits for it.
#[test]
fn a_wrong_token_is_answered_and_delays_nobody() {
    let stand = Stand::new();
    let mut guess = stand.connect();
    let wrong = "GET /status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n";
    guess.write_all(wrong.as_bytes()).unwrap();
    let gone = stand.connect();
    (&gone).write_all(wrong.as_bytes()).unwrap();
    drop(gone);
    stand.check("GET /health HTTP/1.1\nHost: localhost", "200 OK");
    assert!(rest(&mut guess).starts_with("HTTP/1.1 401 "));
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let stand = Stand::new();
    let mut stream = stand.connect();
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert!(rest(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn an_oversized_head_is_refused_and_the_answer_arrives() {
    let stand = Stand::new();
    let field = format!("GET /health HTTP/1.1\nHost: h\nX: {}", "x".repeat(20_000));
    stand.check(&field, "431 Request Header Fields Too Large");
    let line = format!("GET /{} HTTP/1.1\nHost: h", "x".repeat(9_000));
    stand.check(&line, "431 Request Header Fields Too Large");
}

#[test]
fn a_head_that_does_not_come_in_time_is_told_so() {
    let stand = Stand::new();
    let mut stream = stand.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nHo").unwrap();
    assert!(rest(&mut stream).starts_with("HTTP/1.1 408 "));
}

#[test]
fn five_hundred_silent_clients_delay_nobody() {
    let stand = Stand::new();
    let silent: Vec<_> = (0..500).map(|_| stand.connect()).collect();
    stand.check(HEALTH, "200 OK");
    // No client waited for their time to pass: the last one still has some.
    let mut last = silent.last().unwrap();
    last.set_nonblocking(true).unwrap();
    let said = last.read(&mut [0]).unwrap_err();
    assert_eq!(said.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn clients_that_never_read_their_answer_delay_nobody() {
    let stand = Stand::new();
    let deaf: Vec<_> = (0..60)
        .map(|_| {
            let mut stream = stand.connect();
            stream
                .write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    stand.check(HEALTH, "200 OK");
    drop(deaf);
}

#[test]
fn only_one_request_is_served_on_a_connection() {
    let stand = Stand::new();
    let mut stream = stand.connect();
    let twice = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2);
    stream.write_all(twice.as_bytes()).unwrap();
    assert_eq!(rest(&mut stream).matches("HTTP/1.1 200").count(), 1);
}

#[test]
fn a_client_may_close_its_side_before_the_answer() {
    let stand = Stand::new();
    let mut stream = stand.connect();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_panic_costs_one_answer() {
    let stand = Stand::new();
    stand.seen.panics.store(true, Ordering::Relaxed);
    assert!(stand.get("/status").starts_with("HTTP/1.1 500 "));
    stand.seen.panics.store(false, Ordering::Relaxed);
    assert!(stand.get("/status").starts_with("HTTP/1.1 200 "));
    assert_eq!(stand.seen.ctx.metrics.panics.value(), 1);
}

#[test]
fn an_accept_thread_that_dies_is_replaced_before_anybody_notices() {
    // A time limit on the listener ends the accept thread of tiny_http when it has passed.
    let short_lived = |listener: &UnixListener| {
        let limit = Some(Duration::from_millis(300));
        Ok(sockopt::set_socket_timeout(
            listener,
            sockopt::Timeout::Recv,
            limit,
        )?)
    };
    let stand = Stand::with(TWO, short_lived);
    for _ in 0..4 {
        stand.check(HEALTH, "200 OK");
        stand.seen.ctx.stop.wait(Duration::from_millis(400));
        stand.check(HEALTH, "200 OK");
    }
}

#[test]
fn readiness_names_the_groups_that_are_down() {
    let groups = TWO.replace("name: one", "name: one, group: eu");
    let stand = Stand::with(&groups, |_| Ok(()));
    assert!(body(&stand.get("/ready")).contains("\"groups_down\":[]"));
    let pool = Arc::clone(&stand.seen.ctx.snapshot().pool);
    pool.upstreams()[0].vitals().drain();
    assert!(body(&stand.get("/ready")).contains("\"groups_down\":[\"eu\"]"));
    assert!(body(&stand.get("/ready")).contains("\"status\":\"ready\""));
    assert!(body(&stand.get("/status")).contains("\"groups_down\":[\"eu\"]"));
}

#[test]
fn what_failures_took_is_no_latency() {
    let stand = Stand::with(TWO, |_| Ok(()));
    let pool = Arc::clone(&stand.seen.ctx.snapshot().pool);
    let vitals = pool.upstreams()[0].vitals();
    vitals.failed(Duration::from_millis(7), || None);
    let answer = stand.get("/status");
    assert!(
        body(&answer).contains("\"latency_us\":0,\"latency_p95_us\":0"),
        "{answer}"
    );
    vitals.answered(Duration::from_millis(7), 200, || None);
    let answer = stand.get("/status");
    assert!(body(&answer).contains("\"latency_us\":7000,"), "{answer}");
}

#[test]
fn who_serves_nothing_that_no_rule_catches_is_not_ready() {
    for (rules, is_ready) in [
        ("default: eu\n", false),
        ("rules: [{use: eu}]\n", false),
        (
            "rules: [{use: eu, fallback: [direct]}]\ndefault: eu\n",
            true,
        ),
        ("rules: [{ports: [443], use: eu}]\n", true),
    ] {
        let groups = TWO.replace("name: one", "name: one, group: eu");
        let stand = Stand::with(&format!("{rules}{groups}"), |_| Ok(()));
        let pool = Arc::clone(&stand.seen.ctx.snapshot().pool);
        pool.upstreams()[0].vitals().drain();
        let answer = stand.get("/ready");
        let said = body(&answer);
        let reason =
            "\"reason\":\"nobody of the group that requests use by default is in service\"";
        assert_eq!(said.contains(reason), !is_ready, "{rules}: {said}");
    }
}

#[test]
fn readiness_follows_the_upstreams_and_the_drain() {
    let stand = Stand::new();
    let check = |status: &str, part: &str| {
        let answer = stand.get("/ready");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(body(&answer).contains(part), "{answer}");
    };
    let ctx = &stand.seen.ctx;
    check("200", "{\"status\":\"ready\",\"reason\":null,");
    let pool = Arc::clone(&ctx.snapshot().pool);
    let check_ends = |verdict| {
        for upstream in pool.upstreams() {
            let (began, _) = upstream.vitals().check_begins();
            let once = Thresholds { fall: 1, rise: 1 };
            let at = 1_700_000_000_000;
            upstream.vitals().check_ended(began, verdict, once, at);
        }
    };
    check_ends(CheckVerdict::Fails(OfflineReason::ProbeUnanswered));
    check("503", "\"reason\":\"no upstream is online\"");
    check("503", "\"reason\":\"probe: no answer\"");
    check("503", "\"since\":\"2023-11-14T22:13:20.000Z\"");
    check_ends(CheckVerdict::Works(Depth::Probe));
    pool.belief()
        .doubt(None, Instant::now(), "a got 403", 1_700_000_000_000);
    check(
        "200",
        "\"believed\":false,\"since\":\"2023-11-14T22:13:20.000Z\",\"seen\":\"a got 403\"",
    );
    for upstream in pool.upstreams() {
        upstream.vitals().drain();
    }
    check("503", "\"reason\":\"all upstreams are drained\"");
    let [first, second] = pool.upstreams() else {
        panic!("two");
    };
    let began = second.vitals().epoch();
    second.vitals().cannot_connect(began, "refused", 1, 0);
    second.vitals().enable();
    check(
        "503",
        "\"reason\":\"every upstream that is online is drained\"",
    );
    first.vitals().enable();
    check("200", "\"reason\":null");
    ctx.metrics.last_reload.lock().failure = Some((1, "test.yaml:3: mode: what".to_owned()));
    check("200", "\"reload_error\":\"test.yaml:3: mode: what\"");
    ctx.stop.advance(Stage::Draining);
    check("503", "\"reason\":\"draining\"");
}

#[test]
fn an_empty_pool_is_ready_only_where_everything_goes_direct() {
    let ready = |policy: &str| {
        let text = format!("listen: 127.0.0.1:0\nupstream: []\n{policy}");
        Stand::with(&text, |_| Ok(())).get("/ready")
    };
    let answer = ready("");
    assert!(answer.contains("no upstream is configured"), "{answer}");
    let answer = ready("domain_policy: {mode: whitelist, domains: []}");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn upstreams_are_drained_and_enabled_by_name() {
    let stand = Stand::new();
    let post = |path: &str, status: &str| {
        let token = "Authorization: Bearer sesame-sesame-sesame";
        stand.check(
            &format!("POST {path} HTTP/1.1\nHost: localhost\n{token}"),
            status,
        );
    };
    let drained = || {
        let pool = Arc::clone(&stand.seen.ctx.snapshot().pool);
        pool.upstreams()
            .iter()
            .map(|up| up.vitals().is_drained())
            .collect::<Vec<_>>()
    };
    post("/upstreams/two%20%22%5C/drain", "200 OK");
    assert_eq!(drained(), [false, true]);
    post("/upstreams/one/drain", "200 OK");
    post("/upstreams/two%20%22%5c/enable", "200 OK");
    assert_eq!(drained(), [true, false]);
    post("/upstreams/three/drain", "404 Not Found");
    stand.check(
        "POST /upstreams/one/enable HTTP/1.1\nHost: localhost",
        "401 Unauthorized",
    );
    assert_eq!(drained(), [true, false]);
}

#[test]
fn the_history_says_who_drained_what() {
    let stand = Stand::new();
    // bob:sesame-sesame-sesame
    let basic = "Basic Ym9iOnNlc2FtZS1zZXNhbWUtc2VzYW1l";
    for (action, authorization) in [("drain", basic), ("enable", "Bearer sesame-sesame-sesame")] {
        stand.check(
            &format!(
                "POST /upstreams/one/{action} HTTP/1.1\nHost: localhost\nAuthorization: {authorization}"
            ),
            "200 OK",
        );
    }
    let answer = stand.get("/status");
    let status = Json::parse(body(&answer)).unwrap();
    let events = status.get("events").elements().iter();
    let told = events.map(|event| {
        let member = |name| event.get(name).text();
        (member("event"), member("upstream"), member("text"))
    });
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            (
                Some("enabled"),
                Some("one"),
                Some("upstream one is enabled by 127.0.0.1")
            ),
            (
                Some("drained"),
                Some("one"),
                Some("upstream one is drained by 127.0.0.1 (user bob): it gets no new requests")
            ),
            (
                Some("started"),
                None,
                Some(&*format!("started, version {version}"))
            ),
        ]
    );
}

#[test]
fn every_number_that_has_a_name_in_the_status_stands_there() {
    let answer = Stand::new().get("/status");
    let status = Json::parse(body(&answer)).unwrap();
    let server = [rows::FIRST_RELEASE, rows::LOAD, rows::CONFIG];
    for (place, name) in server.into_iter().flatten().filter_map(|row| row.json) {
        let inside = status.get(place).get(name).text();
        assert!(
            inside.or(status.get(name).text()).is_some(),
            "{place} {name}"
        );
    }
    let upstream = &status.get("upstreams").elements()[0];
    for (_, name) in rows::UPSTREAM.iter().filter_map(|row| row.json) {
        assert!(upstream.get(name).text().is_some(), "{name}");
    }
}

#[test]
fn no_secret_is_told() {
    let text = TWO.replace("name: one", "name: one, username: bob, password: hunter2");
    let stand = Stand::with(&text, |_| Ok(()));
    for path in ["/status", "/metrics", "/ready", "/"] {
        let answer = stand.get(path);
        for secret in ["hunter2", "sesame", "Ym9iOmh1bnRlcjI"] {
            assert!(!answer.contains(secret), "{path}: {answer}");
        }
    }
}

#[test]
fn every_family_is_in_one_piece_with_help_and_type_first() {
    let answer = Stand::new().get("/metrics");
    let mut seen = std::collections::HashSet::new();
    let mut current = String::new();
    let mut lines = body(&answer).lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(current.clone()), "{current} comes twice");
            let kind = lines.next().unwrap();
            assert!(kind.starts_with(&format!("# TYPE {current} ")), "{kind}");
            continue;
        }
        let name = line.split(['{', ' ']).next().unwrap();
        let own = ["", "_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name == format!("{current}{suffix}"));
        assert!(own, "{line} in {current}");
    }
    assert!(seen.len() > 40);
}

#[test]
fn a_hostile_name_stays_one_label_value() {
    let answer = Stand::new().get("/metrics");
    let line = "\nhttp_proxy_lb_upstream_up{upstream=\"two \\\"\\\\\"} 1\n";
    assert!(answer.contains(line), "{answer}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let stand = Stand::new();
    let listen = ListenAddress {
        host: "127.0.0.1".to_owned(),
        port: stand.admin.address().port(),
    };
    let error = socket::listen("admin_listen", &listen)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("admin_listen {listen}: ")),
        "{error}"
    );
}

#[test]
fn the_status_says_which_group_an_upstream_is_in() {
    let text = "listen: 127.0.0.1:0\nupstream: [{url: 'http://a', group: eu}, {url: 'http://b'}]\n";
    let stand = Stand::with(text, |_| Ok(()));
    let answer = stand.get("/status");
    assert!(body(&answer).contains("\"group\":\"eu\""), "{answer}");
    assert!(body(&answer).contains("\"group\":null"), "{answer}");
}

/// Several users of one gateway: two samples with the same labels would have all of them refused.
#[test]
fn no_sample_of_a_family_has_the_labels_of_another() {
    let gate = |user: &str| format!("  - {{url: 'http://gate.test:8000', username: {user}}}\n");
    let text = format!(
        "listen: 127.0.0.1:0\nupstream:\n  - {{url: 'http://a.test:1'}}\n{}{}",
        gate("ann-secret"),
        gate("bob-secret")
    );
    let config = config::parse(&text, "test.yaml").unwrap();
    let ctx = Context::new(config, Resolver::default()).unwrap();
    let (snapshot, load) = (ctx.snapshot(), Load::default());
    let text = families::metrics(&rows::ServerNow::new(&ctx, &snapshot, &load));
    let mut seen = std::collections::HashSet::new();
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        let (labels, _) = sample.rsplit_once(' ').unwrap();
        assert!(seen.insert(labels), "{labels}");
    }
    let shared = "{url=\"http://gate.test:8000\",upstream=\"gate.test:8000";
    for labels in [
        "{url=\"http://a.test:1\"}",
        &format!("{shared}\"}}"),
        &format!("{shared}-2\"}}"),
    ] {
        let sample = format!("http_proxy_lb_upstream_online{labels}");
        assert!(seen.contains(&*sample), "{sample}: {text}");
    }
    assert!(!text.contains("secret"), "{text}");
}
