//! Networks in which nobody reaches the target of the probe: that is the target's fault, whatever
//! becomes of the upstreams.
//!
//! What the health rules say of this is played in `src/health/examiner/tests.rs`; here the other ends are
//! Squid and tinyproxy in a network without a way out, and each of them is restarted.

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_yaml::Value;

use crate::machine::{PATIENCE, connect, free_port, note, wait_until};
use crate::network::{alone, own_address, silent_name_server};
use crate::origin::Origin;
use crate::proxies::{Proxy, squid, tinyproxy};
use crate::relay::{Relay, Settings};
use crate::stage::SetAtTheEnd;
use crate::wire::{Client, Head};

/// An address of the internet, where there is one.
const FAR: &str = "198.51.100.1";
/// `health_check.timeout_secs`.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Between two requests of a client that asks all the time.
const BREATH: Duration = Duration::from_millis(5);

/// What keeps the probe from its target.
#[derive(Clone, Copy, Debug)]
enum Wall {
    /// Packets are lost.
    Drops,
    /// Connections are reset.
    Refuses,
    /// Somebody answers in place of the target: the status line and a field.
    Answers(&'static str),
    /// No name server answers.
    NamesHang,
}

/// What the wall is made of, kept as long as it shall stand.
struct Standing {
    /// What a probe asks for in vain.
    url: String,
    _names: Option<UdpSocket>,
}

impl Wall {
    fn raise(self) -> Standing {
        let mut url = format!("http://{FAR}/generate_204");
        let mut names = None;
        match self {
            Self::Drops => {}
            Self::Refuses => own_address(FAR),
            Self::Answers(start) => {
                own_address(FAR);
                answer_all(start);
            }
            Self::NamesHang => {
                "http://probe.test/generate_204".clone_into(&mut url);
                names = Some(silent_name_server());
            }
        }
        Standing { url, _names: names }
    }
}

/// Answers whoever comes to the target in its place. Its thread ends with the test process.
fn answer_all(start: &'static str) {
    let listener = TcpListener::bind((FAR, 80)).expect("a port of an own network");
    let accept = move || {
        for mut stream in listener.incoming().flatten() {
            let answer = format!("{start}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let head = Head::read(&mut std::io::BufReader::new(&stream));
            drop(head.and_then(|_| stream.write_all(answer.as_bytes())));
        }
    };
    let builder = thread::Builder::new().name("captive".to_owned());
    drop(builder.spawn(accept).expect("a thread"));
}

/// An origin, upstreams and the relay before them, behind a wall.
struct Closed {
    origin: Origin,
    upstreams: Vec<Proxy>,
    relay: Relay,
    admin: u16,
    _wall: Standing,
}

impl Closed {
    fn start(wall: Wall, upstreams: Vec<Proxy>) -> Self {
        let wall = wall.raise();
        let admin = free_port();
        let settings = Settings::default()
            .line(&format!("admin_listen: '127.0.0.1:{admin}'"))
            .line(&format!(
                "health_check: {{url: '{}', timeout_secs: {}}}",
                wall.url,
                TIMEOUT.as_secs()
            ));
        let settings = upstreams.iter().fold(settings, Settings::upstream);
        Self {
            origin: Origin::start(),
            relay: Relay::start(&settings),
            upstreams,
            admin,
            _wall: wall,
        }
    }

    /// A GET by a new client: the status, and 200 only with the right body.
    fn get(&self, path: &str) -> u16 {
        let answer = Client::connect(self.relay.port()).get(&self.origin.url(path));
        let (status, body) = answer.expect("an answer");
        let name = path.rsplit('/').next().unwrap_or_default();
        assert!(status != 200 || body == name.as_bytes(), "{path}: {body:?}");
        status
    }

    fn status(&self) -> Value {
        let mut client = Client::connect(self.admin);
        let request = "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n";
        client.send(request).expect("sent");
        let head = client.head().expect("an answer");
        let mut body = Vec::new();
        let read = client.body(&head, |bytes| body.extend_from_slice(bytes));
        read.expect("a whole answer");
        serde_yaml::from_slice(&body).expect("JSON")
    }

    /// The states of all upstreams, as `/status` tells them.
    fn states(&self) -> Vec<String> {
        let status = self.status();
        let upstreams = status["upstreams"].as_sequence().expect("a list");
        let state = |one: &Value| one["state"].as_str().expect("a word").to_owned();
        upstreams.iter().map(state).collect()
    }

    fn wait_until_all_are_online(&self) {
        wait_until(PATIENCE, "all are online", || {
            self.states().iter().all(|state| state == "online")
        });
    }

    /// The target is not believed; gives what each upstream got when it was asked for it.
    fn wait_until_the_target_is_not_believed(&self) -> String {
        let mut seen = None;
        wait_until(PATIENCE, "the target is not believed", || {
            let target = self.status()["probe_target"].clone();
            seen = target["seen"].as_str().map(str::to_owned);
            target["believed"].as_bool() == Some(false)
        });
        seen.expect("what each got")
    }

    /// Kills an upstream and waits until its port refuses.
    fn kill(&mut self, number: usize) {
        let upstream = &mut self.upstreams[number];
        upstream.kill();
        let port = upstream.port();
        wait_until(PATIENCE, "its port refuses", || connect(port).is_err());
    }

    /// How long it takes until a request is served.
    fn served_after(&self) -> Duration {
        let begun = Instant::now();
        wait_until(PATIENCE, "a request is served", || {
            self.get("/own/back") == 200
        });
        begun.elapsed()
    }
}

/// One Squid and, from two on, instances of tinyproxy.
fn pool(size: usize) -> Vec<Proxy> {
    const OTHERS: [&str; 4] = ["tinyproxy-1", "tinyproxy-2", "tinyproxy-3", "tinyproxy-4"];
    let others = OTHERS.iter().take(size - 1).map(|name| named(name));
    std::iter::once(squid(443)).chain(others).collect()
}

fn named(name: &'static str) -> Proxy {
    let mut proxy = tinyproxy();
    proxy.name = name;
    proxy
}

/// A client that asks all the time.
#[derive(Default)]
struct Steady {
    is_over: AtomicBool,
    asked: AtomicUsize,
    lost: AtomicUsize,
}

impl Steady {
    fn run(&self, port: u16, origin: &Origin) {
        while !self.is_over.load(Ordering::Relaxed) {
            let number = self.asked.fetch_add(1, Ordering::Relaxed).to_string();
            let url = origin.url(&format!("/own/{number}"));
            let answer = Client::connect(port).get(&url);
            if answer.ok() != Some((200, number.into_bytes())) {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            thread::park_timeout(BREATH);
        }
    }
}

/// Everything is served, before and after each upstream is restarted; where there are several, also
/// meanwhile.
fn check(wall: Wall, upstreams: Vec<Proxy>) {
    let mut closed = Closed::start(wall, upstreams);
    let size = closed.upstreams.len();
    let steady = Steady::default();
    let origin = Origin::start();
    let port = closed.relay.port();
    thread::scope(|scope| {
        let _over = SetAtTheEnd(&steady.is_over);
        if size > 1 {
            scope.spawn(|| steady.run(port, &origin));
        }
        serve_ten(&closed, "before");
        let seen = closed.wait_until_the_target_is_not_believed();
        note(&format!("{wall:?}, {size} upstreams: {seen}"));
        ask_for_a_slow_page(&closed);
        for number in 0..size {
            closed.kill(number);
            if size > 1 {
                serve_ten(&closed, "meanwhile");
            }
            closed.upstreams[number].revive();
            let (name, after) = (closed.upstreams[number].name, closed.served_after());
            note(&format!("{name} restarted: served after {after:?}"));
            serve_ten(&closed, "after");
            closed.wait_until_all_are_online();
        }
    });
    let (asked, lost) = (steady.asked.into_inner(), steady.lost.into_inner());
    note(&format!("beside that {lost} of {asked} requests were lost"));
    assert_eq!(lost, 0, "of {asked}");
    closed.wait_until_the_target_is_not_believed();
    closed.wait_until_all_are_online();
}

fn serve_ten(closed: &Closed, when: &str) {
    for number in 0..10 {
        assert_eq!(closed.get(&format!("/own/{number}")), 200, "{when}");
    }
}

/// It takes longer than a probe may, comes all the same, and is asked for once.
fn ask_for_a_slow_page(closed: &Closed) {
    let begun = Instant::now();
    assert_eq!(closed.get("/slow/page"), 200);
    note(&format!("a page of 3 s came after {:?}", begun.elapsed()));
    assert_eq!(closed.origin.seen()["page"], 1, "asked for once");
}

/// In networks of their own, one after the other.
fn check_all(wall: Wall) {
    alone(|| check(wall, vec![tinyproxy()]));
    for size in [1, 2, 5] {
        alone(|| check(wall, pool(size)));
    }
}

#[test]
#[ignore = "needs root, squid, tinyproxy and ip (Debian packages squid tinyproxy iproute2)"]
fn all_are_served_where_the_probe_is_dropped() {
    check_all(Wall::Drops);
}

#[test]
#[ignore = "needs root, squid, tinyproxy and ip (Debian packages squid tinyproxy iproute2)"]
fn all_are_served_where_the_probe_is_refused() {
    check_all(Wall::Refuses);
}

#[test]
#[ignore = "needs root, squid, tinyproxy and ip (Debian packages squid tinyproxy iproute2)"]
fn all_are_served_where_the_probe_is_forbidden() {
    check_all(Wall::Answers("HTTP/1.1 403 Forbidden"));
}

#[test]
#[ignore = "needs root, squid, tinyproxy and ip (Debian packages squid tinyproxy iproute2)"]
fn all_are_served_where_the_probe_is_sent_to_a_login_page() {
    check_all(Wall::Answers(
        "HTTP/1.1 302 Found\r\nLocation: http://login.test/",
    ));
}

#[test]
#[ignore = "needs root, squid, tinyproxy and ip (Debian packages squid tinyproxy iproute2)"]
fn all_are_served_where_no_name_server_answers() {
    check_all(Wall::NamesHang);
}

#[test]
#[ignore = "needs root, squid, tinyproxy and ip (Debian packages squid tinyproxy iproute2)"]
fn what_a_stopped_squid_was_asked_moves_on_in_a_closed_network() {
    alone(|| {
        let closed = Closed::start(Wall::Drops, pool(3));
        serve_ten(&closed, "before");
        closed.wait_until_the_target_is_not_believed();
        let squid = &closed.upstreams[0].server().program;
        squid.signal(Signal::STOP);
        let mut slowest = Duration::ZERO;
        for number in 0..12 {
            let begun = Instant::now();
            assert_eq!(closed.get(&format!("/own/{number}")), 200);
            slowest = slowest.max(begun.elapsed());
        }
        note(&format!("the slowest request took {slowest:?}"));
        assert!(slowest < 5 * TIMEOUT, "{slowest:?}");
        assert_eq!(closed.states(), ["offline", "online", "online"]);
        let begun = Instant::now();
        squid.signal(Signal::CONT);
        closed.wait_until_all_are_online();
        note(&format!("Squid is back after {:?}", begun.elapsed()));
        serve_ten(&closed, "after");
    });
}

#[test]
#[ignore = "needs root, squid, tinyproxy and ip (Debian packages squid tinyproxy iproute2)"]
fn the_first_upstream_that_is_back_serves_without_a_probe_that_passes() {
    alone(|| {
        for back in 0..2 {
            let mut closed = Closed::start(Wall::Drops, pool(2));
            closed.wait_until_the_target_is_not_believed();
            closed.kill(0);
            closed.kill(1);
            assert_eq!(closed.get("/own/x"), 502, "each was tried");
            let begun = Instant::now();
            let answers = (0..20).filter(|_| closed.get("/own/x") == 503).count();
            note(&format!(
                "all down: {answers} of 20 are 503, all within {:?}",
                begun.elapsed()
            ));
            // But for those that try each once a second.
            assert!(answers >= 16, "{answers} of 20 are refused at once");
            closed.upstreams[back].revive();
            let (name, after) = (closed.upstreams[back].name, closed.served_after());
            note(&format!("{name} is back: served after {after:?}"));
            serve_ten(&closed, "after");
            closed.upstreams[1 - back].revive();
            closed.wait_until_all_are_online();
        }
    });
}
