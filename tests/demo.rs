//! The demonstration, as a newcomer runs it: the program itself, what it prints, what is typed, and
//! requests through it.
#![cfg(test)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, Signal, kill_process};

/// No wait is longer than this.
const LONG: Duration = Duration::from_secs(30);

/// One scene at a time: the port of an upstream that was killed must be free when it is revived.
static STAGE: Mutex<()> = Mutex::new(());

/// A running demonstration.
struct Demo {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Everything printed so far, on both streams.
    seen: Vec<String>,
    relay: SocketAddr,
    origin: u16,
}

impl Demo {
    fn start(stdin: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_http-proxy-lb"))
            .arg("demo")
            .env_remove("RUST_LOG")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for stream in streams {
            let sender = sender.clone();
            let forward = move || {
                let lines = BufReader::new(stream).lines().map_while(Result::ok);
                lines
                    .take_while(|line| sender.send(line.clone()).is_ok())
                    .count()
            };
            thread::Builder::new().spawn(forward).unwrap();
        }
        let mut demo = Self {
            stdin: child.stdin.take(),
            child,
            lines,
            seen: Vec::new(),
            relay: SocketAddr::from(([0, 0, 0, 0], 0)),
            origin: 0,
        };
        demo.relay = address_in(&demo.line("  relay "));
        demo.origin = address_in(&demo.line("  origin ")).port();
        demo.line("Each request is one line below");
        demo
    }

    /// Waits for the next line with `part` in it.
    fn line(&mut self, part: &str) -> String {
        let until = Instant::now() + LONG;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line with {part:?} in\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    /// As [`Demo::line`], unless there was one already: what threads print has no order.
    fn sees(&mut self, part: &str) {
        if !self.seen.iter().any(|line| line.contains(part)) {
            self.line(part);
        }
    }

    fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Sends `head` (without its empty line) and `body`.
    fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect_timeout(&self.relay, LONG).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
            .write_all(format!("{head}\r\n\r\n{body}").as_bytes())
            .unwrap();
        stream
    }

    fn get(&self, path: &str) -> TcpStream {
        let authority = format!("origin.test:{}", self.origin);
        let head = format!(
            "GET http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close"
        );
        self.send(&head, "")
    }

    /// The name of the upstream that a request went through.
    fn upstream_used(&self) -> String {
        let answer = answer(self.get("/"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (_, name) = answer.split_once("by way of ").expect("a name");
        name.trim_end().trim_end_matches('.').to_owned()
    }

    fn upstreams_used(&self, requests: usize) -> BTreeSet<String> {
        (0..requests).map(|_| self.upstream_used()).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of everything that is printed, and of the process.
    fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + LONG;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("it does not end:\n{}", self.seen.join("\n"))
                }
            }
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Only a test that fails leaves it running.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn stage() -> MutexGuard<'static, ()> {
    STAGE.lock()
}

/// The first word of `row` that is an address.
fn address_in(row: &str) -> SocketAddr {
    row.split(' ').find_map(|word| word.parse().ok()).unwrap()
}

/// Everything up to the end of the connection.
fn answer(mut stream: TcpStream) -> String {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    String::from_utf8(received).unwrap()
}

/// Waits until a download has begun.
fn begin(mut download: TcpStream) -> TcpStream {
    let mut first = [0; 12];
    download.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    download
}

/// Reads until the connection ends or is reset.
fn drain(mut stream: TcpStream) -> u64 {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    let until = Instant::now() + LONG;
    loop {
        assert!(Instant::now() < until, "it still flows after {total} bytes");
        match stream.read(&mut buffer) {
            Ok(0) => return total,
            Ok(count) => total += count as u64,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return total,
            Err(error) => panic!("after {total} bytes: {error}"),
        }
    }
}

/// More than anybody will read.
const ENDLESS: &str = "/bytes/1000000000000000";

#[test]
fn requests_go_round_a_killed_upstream_and_use_it_again_when_it_is_revived() {
    let _alone = stage();
    let mut demo = Demo::start(Stdio::piped());
    let all = BTreeSet::from(["upstream-1", "upstream-2", "upstream-3"].map(str::to_owned));
    let others = BTreeSet::from(["upstream-1", "upstream-3"].map(str::to_owned));
    assert_eq!(demo.upstreams_used(3), all);

    demo.type_line("kill 2");
    demo.line("upstream-2 is dead");
    assert_eq!(demo.upstreams_used(12), others);
    demo.sees("upstream upstream-2 is offline");
    demo.type_line("status");
    let row = demo.line("  upstream-2 ");
    assert!(row.contains("offline"), "{row}");

    demo.type_line("revive 2");
    demo.line("upstream upstream-2 is online again");
    assert_eq!(demo.upstreams_used(3), all);

    demo.signal(Signal::TERM);
    assert_eq!(demo.end().code(), Some(0));
}

#[test]
fn a_kill_cuts_what_the_upstream_relays() {
    let _alone = stage();
    let mut demo = Demo::start(Stdio::piped());
    for number in [1, 3] {
        demo.type_line(&format!("kill {number}"));
        demo.line(&format!("upstream-{number} is dead"));
    }
    assert_eq!(demo.upstream_used(), "upstream-2");
    let download = begin(demo.get(ENDLESS));

    demo.type_line("kill 2");
    drain(download);
    demo.line("upstream-2 is dead");
    demo.sees("(response_truncated)");
    let refused = answer(demo.get("/"));
    assert!(refused.starts_with("HTTP/1.1 50"), "{refused}");

    demo.type_line("quit");
    assert_eq!(demo.end().code(), Some(0));
}

#[test]
fn without_input_it_runs_until_a_signal_which_downloads_and_tunnels_do_not_delay() {
    let _alone = stage();
    let mut demo = Demo::start(Stdio::null());
    demo.line("standard input has ended");
    let origin = format!("origin.test:{}", demo.origin);

    let posted = demo.send(
        &format!(
            "POST http://{origin}/echo HTTP/1.1\r\nHost: {origin}\r\nContent-Length: 8\r\n\
             Connection: close"
        ),
        "any text",
    );
    let posted = answer(posted);
    assert!(
        posted.starts_with("HTTP/1.1 200 ") && posted.ends_with("\r\n\r\nany text"),
        "{posted}"
    );

    let download = begin(demo.get(ENDLESS));
    let tunnel = demo.send(&format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}"), "");
    let mut tunnel = begin(tunnel);
    let inside = format!("GET {ENDLESS} HTTP/1.1\r\nHost: {origin}\r\n\r\n");
    tunnel.write_all(inside.as_bytes()).unwrap();
    tunnel.read_exact(&mut [0; 4096]).unwrap();

    demo.signal(Signal::INT);
    assert_eq!(demo.end().code(), Some(0));
    drain(download);
    drain(tunnel);
}

#[test]
fn the_status_page_is_where_the_first_screen_says() {
    let _alone = stage();
    let mut demo = Demo::start(Stdio::null());
    demo.sees("  http://any:");
    let shown = demo
        .seen
        .iter()
        .find_map(|line| line.split("http://any:").nth(1));
    let (token, address) = shown
        .unwrap()
        .trim_end_matches('/')
        .split_once('@')
        .unwrap();
    let ask = |path: &str, token: &str| {
        let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), LONG).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        answer(stream)
    };
    let page = ask("/", token);
    assert!(
        page.starts_with("HTTP/1.1 200 ") && page.contains("<title>"),
        "{page}"
    );
    // It has nothing to complain about in the demonstration itself.
    let status = ask("/status", token);
    assert!(status.contains("\"warnings\":[]"), "{status}");
    assert!(ask("/", "another").starts_with("HTTP/1.1 401 "));
    demo.signal(Signal::TERM);
    assert_eq!(demo.end().code(), Some(0));
}

#[test]
fn a_second_one_beside_the_first_has_ports_of_its_own() {
    let _alone = stage();
    let mut demos = [Demo::start(Stdio::null()), Demo::start(Stdio::null())];
    let [first, second] = &demos;
    assert_ne!(first.relay, second.relay);
    assert_ne!(first.origin, second.origin);
    for demo in &mut demos {
        assert_eq!(demo.upstreams_used(3).len(), 3);
        let curl = format!("curl -x {} http://origin.test:{}/", demo.relay, demo.origin);
        let shown = demo.seen.iter().any(|line| line.trim() == curl);
        assert!(shown, "{curl} is not in\n{}", demo.seen.join("\n"));
        demo.signal(Signal::TERM);
        assert_eq!(demo.end().code(), Some(0));
    }
}
