//! A dozen incidents, and what the logs alone say of each: who asked, where to, through whom, what was tried,
//! what came of it, and where the time went.
//!
//! The lines stand here as they are written, but for times (`M` milliseconds), numbers of bytes (`N`), the
//! client's port (`P`) and names of requests (`R`).

use std::io;
use std::time::{Duration, Instant};

use http_proxy_lb::net::resolve::Resolver;
use http_proxy_lb::server::Options;

use super::access_log::Log;
use super::harness::{FullPort, Member, Proxy, Talk, Upstream, wait_until};
use super::process::Process;

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";
const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";
/// The first upstream is tried first.
const IN_ORDER: &str = "mode: priority\n";

impl Log {
    /// What turns it on, and more configuration.
    fn with(&self, more: &str) -> String {
        self.yaml("text") + more
    }

    /// The only line.
    #[track_caller]
    fn line(&self) -> String {
        self.lines(1).remove(0)
    }

    #[track_caller]
    fn expect(&self, expected: &str) {
        assert_eq!(masked(&self.line()), expected);
    }
}

/// A line without what is another each time.
fn masked(line: &str) -> String {
    let word = |word: &str| {
        let Some((key, value)) = word.split_once('=') else {
            return "T".to_owned();
        };
        let value = match (key, value) {
            (_, "-") => "-".to_owned(),
            ("in" | "out", _) => "N".to_owned(),
            ("ms" | "ttfb_ms" | "queue_ms" | "connect_ms", _) => "M".to_owned(),
            ("request_id", _) => "R".to_owned(),
            ("client", _) => format!("{}:P", value.rsplit_once(':').expect("a port").0),
            ("tries", _) => {
                let one = |one: &str| format!("{}:M", one.rsplit_once(':').expect("a time").0);
                value.split(',').map(one).collect::<Vec<_>>().join(",")
            }
            (_, _) => value.to_owned(),
        };
        format!("{key}={value}")
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The milliseconds of a key, or of the last try.
#[track_caller]
fn milliseconds(line: &str, key: &str) -> f64 {
    let (_, rest) = line.split_once(&format!(" {key}=")).expect("the key");
    let value = rest.split(' ').next().expect("its value");
    let number = value.rsplit(':').next().expect("its end");
    number.trim_end_matches("ms").parse().expect("a number")
}

#[test]
fn an_upstream_refuses_and_the_next_one_serves() {
    let (log, a, b) = (Log::new(), Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let proxy = Proxy::with_yaml(&log.with(IN_ORDER), [a.with("priority: 1"), b.with("{}")]);
    a.kill();
    proxy.client().send(GET).expect_status(200);
    log.expect(
        "T id=1 client=127.0.0.1:P method=GET target=http://o.test/ status=200 in=N out=N ms=M \
         ttfb_ms=M route=b attempts=2 cause=- user=- request_id=R queue_ms=M connect_ms=M \
         tries=a:connect_refused:M,b:200:M",
    );
}

#[test]
fn an_upstream_is_slow() {
    let (log, a) = (Log::new(), Upstream::by_hand("a"));
    let proxy = Proxy::with_yaml(&log.with(""), [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    let asked = Instant::now();
    wait_until(|| asked.elapsed() > Duration::from_millis(300));
    hop.send_ok("at last");
    client.expect_status(200);
    log.expect(
        "T id=1 client=127.0.0.1:P method=GET target=http://o.test/ status=200 in=N out=N ms=M \
         ttfb_ms=M route=a attempts=1 cause=- user=- request_id=R queue_ms=M connect_ms=M \
         tries=a:200:M",
    );
    let line = log.line();
    let waited = milliseconds(&line, "queue_ms") + milliseconds(&line, "connect_ms");
    assert!(
        milliseconds(&line, "tries") >= 300.0,
        "the upstream: {line}"
    );
    assert!(milliseconds(&line, "ms") >= 300.0 + waited, "{line}");
}

#[test]
fn all_workers_are_busy() {
    let (log, a) = (Log::new(), Upstream::by_hand("a"));
    let limits = "limits: {workers: 1, queue_timeout_secs: 0.2}";
    let proxy = Proxy::with_yaml(&log.with(limits), [&a]);
    let mut busy = proxy.client();
    busy.send(GET);
    let (hop, _) = a.accept_and_read_request();
    proxy.client().send(GET).expect_refusal_and_close(503);
    log.expect(
        "T id=2 client=127.0.0.1:P method=- target=- status=503 in=N out=N ms=M ttfb_ms=M route=- \
         attempts=0 cause=queue_timeout user=- request_id=R queue_ms=M connect_ms=- tries=-",
    );
    let line = log.line();
    assert!(milliseconds(&line, "queue_ms") >= 200.0, "{line}");
    drop((busy, hop));
}

#[test]
fn an_upstream_takes_its_time_to_accept_and_is_outrun() {
    let (log, full, b) = (Log::new(), FullPort::new(), Upstream::echo_ok("b"));
    let more = format!("{IN_ORDER}limits: {{connect_timeout_secs: 60}}");
    let members = [full.with("full", "priority: 1"), b.with("{}")];
    let proxy = Proxy::with_yaml(&log.with(&more), members);
    proxy.client().send(GET).expect_status(200);
    log.expect(
        "T id=1 client=127.0.0.1:P method=GET target=http://o.test/ status=200 in=N out=N ms=M \
         ttfb_ms=M route=b attempts=2 cause=- user=- request_id=R queue_ms=M connect_ms=M \
         tries=full:outrun:M,b:200:M",
    );
}

#[test]
fn an_origin_does_not_accept() {
    let (log, full) = (Log::new(), FullPort::new());
    let proxy = Proxy::direct_with(&log.with("limits: {connect_timeout_secs: 0.3}"));
    let url = format!("http://{}/", full.address());
    proxy.client().get(&url).expect_refusal(504);
    log.expect(&format!(
        "T id=1 client=127.0.0.1:P method=GET target={url} status=504 in=N out=N ms=M \
         ttfb_ms=M route=direct attempts=1 cause=connect_timeout user=- request_id=R queue_ms=M \
         connect_ms=- tries=direct:connect_timeout:M"
    ));
}

#[test]
fn an_upstream_does_not_take_our_credentials() {
    let (log, b) = (Log::new(), Upstream::echo_ok("b"));
    let a = Upstream::answering("a", |hop, _| {
        hop.send(
            "HTTP/1.1 407 Who are you?\r\nProxy-Authenticate: Basic realm=\"a\"\r\n\
             Content-Length: 0\r\n\r\n",
        );
    });
    let members = [a.with("priority: 1"), b.with("{}")];
    let proxy = Proxy::with_yaml(&log.with(IN_ORDER), members);
    proxy.client().send(GET).expect_status(200);
    log.expect(
        "T id=1 client=127.0.0.1:P method=GET target=http://o.test/ status=200 in=N out=N ms=M \
         ttfb_ms=M route=b attempts=2 cause=- user=- request_id=R queue_ms=M connect_ms=M \
         tries=a:authentication_refused:M,b:200:M",
    );
}

#[test]
fn a_response_is_cut() {
    let (log, a) = (Log::new(), Upstream::by_hand("a"));
    let proxy = Proxy::with_yaml(&log.with(""), [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    hop.close();
    client.expect_head(200).expect_truncated("abc");
    log.expect(
        "T id=1 client=127.0.0.1:P method=GET target=http://o.test/ status=200 in=N out=N ms=M \
         ttfb_ms=M route=a attempts=1 cause=response_truncated user=- request_id=R queue_ms=M \
         connect_ms=M tries=a:200:M",
    );
}

#[test]
fn a_client_leaves() {
    let (log, a) = (Log::new(), Upstream::by_hand("a"));
    let proxy = Proxy::with_yaml(&log.with(""), [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    client.close();
    hop.expect_gone();
    log.expect(
        "T id=1 client=127.0.0.1:P method=GET target=http://o.test/ status=- in=N out=N ms=M \
         ttfb_ms=- route=a attempts=1 cause=client_gone user=- request_id=R queue_ms=M \
         connect_ms=M tries=a:client_gone:M",
    );
}

#[test]
fn a_post_is_not_repeated() {
    let (log, a, b) = (Log::new(), Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let proxy = Proxy::with_yaml(&log.with(IN_ORDER), [a.with("priority: 1"), b.with("{}")]);
    let mut client = proxy.client();
    client.send(POST);
    let (hop, _) = a.accept_and_read_request();
    hop.close();
    client.expect_refusal(502);
    log.expect(
        "T id=1 client=127.0.0.1:P method=POST target=http://o.test/ status=502 in=N out=N ms=M \
         ttfb_ms=M route=a attempts=1 cause=closed user=- request_id=R queue_ms=M connect_ms=M \
         tries=a:closed:M",
    );
}

#[test]
fn a_user_asks_for_what_is_not_allowed() {
    let (log, a) = (Log::new(), Upstream::echo_ok("a"));
    let access = "access: {users: [{username: bob, password: hunter2}], connect_ports: [443]}";
    let proxy = Proxy::with_yaml(&log.with(access), [&a]);
    let mut client = proxy.client();
    client.send(
        "CONNECT o.test:25 HTTP/1.1\r\nHost: o.test\r\n\
         Proxy-Authorization: Basic Ym9iOmh1bnRlcjI=\r\n\r\n",
    );
    client.expect_refusal_and_close(403);
    log.expect(
        "T id=1 client=127.0.0.1:P method=CONNECT target=o.test:25 status=403 in=N out=N ms=M \
         ttfb_ms=M route=- attempts=0 cause=port_forbidden user=bob request_id=R queue_ms=M \
         connect_ms=- tries=-",
    );
}

#[test]
fn a_tunnel_is_ended_because_it_was_idle() {
    let (log, a) = (Log::new(), Upstream::by_hand("a"));
    let idle = "limits: {tunnel_idle_timeout_secs: 0.3}";
    let proxy = Proxy::with_yaml(&log.with(idle), [&a]);
    let mut client = proxy.client();
    client.send(CONNECT);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel().expect_gone();
    log.expect(
        "T id=1 client=127.0.0.1:P method=CONNECT target=o.test:443 status=200 in=N out=N ms=M \
         ttfb_ms=M route=a attempts=1 cause=tunnel_idle user=- request_id=R queue_ms=M \
         connect_ms=M tries=a:200:M",
    );
}

#[test]
fn the_name_of_an_upstream_cannot_be_resolved() {
    let (log, b) = (Log::new(), Upstream::echo_ok("b"));
    let options = Options {
        resolver: Resolver::asking(|_| Err(io::Error::other("no such name"))),
        ..Options::default()
    };
    // Nobody but the request finds out.
    let more = format!("{IN_ORDER}health_check: {{fall: 1000}}");
    let members = [
        Member::named("gone", 3128).with("priority: 1"),
        b.with("{}"),
    ];
    let proxy = Proxy::with_options(&log.with(&more), members, options);
    proxy.client().send(GET).expect_status(200);
    log.expect(
        "T id=1 client=127.0.0.1:P method=GET target=http://o.test/ status=200 in=N out=N ms=M \
         ttfb_ms=M route=b attempts=2 cause=- user=- request_id=R queue_ms=M connect_ms=M \
         tries=gone:upstream_dns_error:M,b:200:M",
    );
}

/// What the log of the process tells of a request, from its name on, without times.
fn told(process: &Process, of: &str) -> Vec<String> {
    let untimed = |words: &str| match words.split_once(" after ") {
        Some((before, rest)) => {
            let end = rest.split_once(':').map_or("", |(_, end)| end);
            format!("{before} after M{end}")
        }
        None => words.to_owned(),
    };
    let lines = process.logged();
    let about = lines.iter().filter_map(|line| line.split_once(of));
    about.map(|(_, words)| untimed(words)).collect()
}

#[test]
fn at_debug_each_decision_of_a_request_is_told_under_its_name() {
    let (log, b) = (Log::new(), Upstream::echo_ok("b"));
    let a = Upstream::answering("a", |hop, _| hop.close_then());
    let members = [a.with("priority: 1"), b.with("{}")];
    let process = Process::start_logging("debug", &log.with(IN_ORDER), members);
    let mut client = process.client();
    client.send(GET).expect_status(200);
    let line = log.line();
    let (_, name) = line.split_once(" request_id=").expect("a name");
    let name = format!("{}: ", name.split(' ').next().expect("its end"));
    wait_until(|| process.has_logged(&format!("{name}over")));
    let address = client.socket().handle().local_addr().expect("an address");
    let asks = format!("{address} asks with GET for o.test:80, which goes through an upstream");
    assert_eq!(
        told(&process, &name),
        [
            &*asks,
            "picks a by priority, of 2 that serve",
            "connects to a",
            "is connected to a after M",
            "a: closed after M",
            "has a checked: closed a connection before a response",
            "tries another upstream",
            "picks b by priority, of 2 that serve",
            "connects to b",
            "is connected to b after M",
            "b: 200 after M",
            "over after M complete",
        ]
    );
}

#[test]
fn at_trace_heads_are_told_without_secrets() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send("HTTP/1.1 200 OK\r\nSet-Cookie: a=hunter2\r\nContent-Length: 0\r\n\r\n");
    });
    let members = [a.with("{username: bob, password: hunter2}")];
    let users = "access: {users: [{username: bob, password: hunter2}]}\n";
    let process = Process::start_logging("trace", users, members);
    let mut client = process.client();
    client.send(
        "GET http://x:hunter2@o.test/ HTTP/1.1\r\nHost: o.test\r\n\
         Proxy-Authorization: Basic Ym9iOmh1bnRlcjI=\r\nAuthorization: Basic hunter2\r\n\
         Cookie: a=hunter2\r\nReferer: http://y:hunter2@o.test/\r\n\r\n",
    );
    client.expect_status(200);
    wait_until(|| process.has_logged("to the client: HTTP/1.1 200 OK | Set-Cookie: (hidden)"));
    for told in [
        "from the client: GET ...@o.test/ HTTP/1.1 | Host: o.test",
        "| Cookie: (hidden) | Referer: ...@o.test/",
        "to the next hop: GET http://o.test/ HTTP/1.1 | Host: o.test",
        "from the next hop: HTTP/1.1 200 OK",
    ] {
        assert!(process.has_logged(told), "{told}");
    }
    for secret in ["hunter2", "Ym9iOmh1bnRlcjI="] {
        assert!(!process.has_logged(secret), "{secret}");
    }
}
