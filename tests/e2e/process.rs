//! The program as a process: signals, exit codes, descriptors. What needs no process of its own is
//! in `shutdown`, `reload` and `limits`.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::harness::{
    Client, Member, Talk, TemporaryFile, Upstream, configuration_text, spawn, wait_until,
};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";
const BINARY: &str = env!("CARGO_BIN_EXE_http-proxy-lb");

/// The running program; killed at the end of the test if it still runs.
pub(super) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    file: TemporaryFile,
    address: SocketAddr,
}

impl Process {
    #[track_caller]
    pub(super) fn start<M: Into<Member>>(
        extra: &str,
        upstreams: impl IntoIterator<Item = M>,
    ) -> Self {
        Self::start_logging("info", extra, upstreams)
    }

    /// With this level of its log.
    #[track_caller]
    pub(super) fn start_logging<M: Into<Member>>(
        level: &str,
        extra: &str,
        upstreams: impl IntoIterator<Item = M>,
    ) -> Self {
        Self::start_by(Command::new(BINARY), level, extra, upstreams)
    }

    /// With no more file descriptors than these.
    #[track_caller]
    fn start_with_files<M: Into<Member>>(
        files: u32,
        extra: &str,
        upstreams: impl IntoIterator<Item = M>,
    ) -> Self {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("ulimit -n {files}; exec \"$0\" \"$@\""))
            .arg(BINARY);
        Self::start_by(shell, "info", extra, upstreams)
    }

    #[track_caller]
    fn start_by<M: Into<Member>>(
        mut command: Command,
        level: &str,
        extra: &str,
        upstreams: impl IntoIterator<Item = M>,
    ) -> Self {
        let file = TemporaryFile::new("config.yaml");
        file.write(configuration_text(extra, upstreams));
        command
            .args(["--log-level", level, "--config"])
            .arg(file.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("a pipe");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let lines = Arc::clone(&log);
        drop(spawn("log", move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().push(line);
            }
        }));
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut process = Self {
            child,
            log,
            file,
            address,
        };
        process.address = process.listening();
        process
    }

    /// Waits for the line that tells where it listens.
    #[track_caller]
    fn listening(&self) -> SocketAddr {
        let mut found = None;
        wait_until(|| {
            found = self.log.lock().iter().find_map(|line| {
                let (_, rest) = line.split_once("listens on ")?;
                rest.split([';', ' ']).next()?.parse().ok()
            });
            found.is_some()
        });
        found.expect("waited for it")
    }

    #[track_caller]
    pub(super) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    #[track_caller]
    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process is there");
    }

    /// Stops it as a whole, and waits until it stands still.
    #[track_caller]
    pub(super) fn stop(&self) {
        self.signal(Signal::STOP);
        let file = format!("/proc/{}/stat", self.child.id());
        wait_until(|| {
            let stat = std::fs::read_to_string(&file).expect("it is there");
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" T"))
        });
    }

    /// Lets it go on.
    #[track_caller]
    pub(super) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// How many descriptors it has open.
    pub(super) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(folder).expect("it runs").count()
    }

    /// The lines of its log so far.
    pub(super) fn logged(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    pub(super) fn has_logged(&self, text: &str) -> bool {
        self.log.lock().iter().any(|line| line.contains(text))
    }

    #[track_caller]
    fn wait_for_log(&self, text: &str) {
        wait_until(|| self.has_logged(text));
    }

    /// Waits for the end.
    #[track_caller]
    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(|| {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("waited for it")
    }

    /// Nobody accepts at its address any more.
    #[track_caller]
    fn expect_refusing(&self) {
        let limit = Duration::from_secs(1);
        wait_until(|| TcpStream::connect_timeout(&self.address, limit).is_err());
    }
}

impl Drop for Process {
    #[expect(
        clippy::print_stderr,
        reason = "a failing test shows the log of the process"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the process:\n{}", self.log.lock().join("\n"));
        }
        // Both fail if it has ended, which is all right.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// D15: the listener stayed open, idle connections held the exit, a second signal did nothing.
#[test]
fn sigterm_and_sigint_finish_a_download_and_exit_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let a = Upstream::by_hand("a");
        let mut process = Process::start("limits: {shutdown_timeout_secs: 30}", [&a]);
        let (mut client, mut idle) = (process.client(), process.client());
        client.send(GET);
        let (mut hop, _) = a.accept_and_read_request();
        hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        client.expect_head(200);
        process.signal(signal);
        process.expect_refusing();
        idle.expect_closed();
        hop.send("world");
        client.expect_bytes("helloworld").expect_closed();
        assert_eq!(process.ended().code(), Some(0));
    }
}

#[test]
fn without_work_it_stops_at_once() {
    let a = Upstream::echo_ok("a");
    let mut process = Process::start("limits: {shutdown_timeout_secs: 30}", [&a]);
    let mut client = process.client();
    client.send(GET).expect_status(200);
    process.signal(Signal::TERM);
    client.expect_closed();
    assert_eq!(process.ended().code(), Some(0));
    assert!(process.has_logged("stopped"));
}

#[test]
fn a_second_signal_ends_it_now() {
    let a = Upstream::by_hand("a");
    let mut process = Process::start("limits: {shutdown_timeout_secs: 600}", [&a]);
    let mut client = process.client();
    client.send(CONNECT);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    process.signal(Signal::TERM);
    process.expect_refusing();
    client.send("ping");
    hop.expect_bytes("ping");
    process.signal(Signal::TERM);
    process.ended();
    client.expect_gone();
    hop.expect_gone();
}

#[test]
fn what_takes_too_long_is_cut_and_the_exit_is_clean() {
    let a = Upstream::by_hand("a");
    let mut process = Process::start("limits: {shutdown_timeout_secs: 0.2}", [&a]);
    let mut client = process.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    client.expect_head(200).expect_bytes("hello");
    process.signal(Signal::TERM);
    client.expect_gone();
    assert_eq!(process.ended().code(), Some(0));
    wait_until(|| process.has_logged("cut"));
}

/// D13: SIGHUP killed the process.
#[test]
fn sighup_reloads_and_never_kills() {
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let mut process = Process::start("reload_interval_secs: 0", [&a]);
    let mut client = process.client();
    client.send(GET).expect_status(200).expect_body("a");
    process
        .file
        .write(configuration_text("reload_interval_secs: 0", [&b]));
    process.signal(Signal::HUP);
    wait_until(|| {
        client.send(GET).expect_status(200);
        client.message().text() == "b"
    });
    // A broken file is told, and changes nothing.
    process.file.write("listen: [");
    process.signal(Signal::HUP);
    process.wait_for_log("stays in force");
    client.send(GET).expect_status(200).expect_body("b");
    for _ in 0..20 {
        process.signal(Signal::HUP);
    }
    client.send(GET).expect_status(200).expect_body("b");
    assert!(process.child.try_wait().expect("a child").is_none());
}

#[test]
fn sigusr1_opens_the_access_log_anew() {
    let (log, rotated) = (
        TemporaryFile::new("access.log"),
        TemporaryFile::new("rotated"),
    );
    let a = Upstream::echo_ok("a");
    let process = Process::start(&format!("access_log: {{file: '{}'}}", log.path()), [&a]);
    process.client().send(GET).expect_status(200);
    wait_until(|| log.text().lines().count() == 1);
    std::fs::rename(log.path(), rotated.path()).expect("to rotate");
    process.signal(Signal::USR1);
    wait_until(|| std::path::Path::new(&log.path()).exists());
    process.client().send(GET).expect_status(200);
    wait_until(|| log.text().lines().count() == 1);
    assert_eq!(rotated.text().lines().count(), 1);
}

#[test]
fn a_port_in_use_is_named_and_the_exit_code_is_1() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let file = TemporaryFile::new("config.yaml");
    let text = configuration_text::<Member>(&format!("listen: '{address}'"), []);
    file.write(text);
    let output = Command::new(BINARY)
        .arg("--config")
        .arg(file.path())
        .output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = told.lines().find(|line| line.contains(&address));
    let line = line.unwrap_or_else(|| panic!("no line names {address}: {told}"));
    assert!(line.contains("the port is in use by "), "{line}");
    let holder = format!("(process {}): stop that, or", std::process::id());
    assert!(line.contains(&holder), "{line}");
}

/// Writing to a connection that is gone must not be a signal that ends the process.
#[test]
fn clients_and_upstreams_that_vanish_do_not_end_it() {
    let a = Upstream::by_hand("a");
    let process = Process::start("{}", [&a]);
    for request in [GET, CONNECT] {
        let mut client = process.client();
        client.send(request);
        let (mut hop, _) = a.accept_and_read_request();
        hop.send_as_far_as_possible("HTTP/1.1 200 OK\r\n\r\n");
        client.expect_head(200);
        client.reset();
        hop.send_as_far_as_possible(vec![b'x'; 1_000_000]);
        hop.reset();
    }
    let mut client = process.client();
    client.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 1000000\r\n\r\n");
    let hop = a.accept();
    hop.reset();
    client.send_as_far_as_possible(vec![b'x'; 1_000_000]);
    client.reset();
    wait_until(|| {
        let mut client = process.client();
        client.send("GET / HTTP/1.1\r\nHost: o.test\r\n\r\n");
        client.read_response().status() == 400
    });
}

#[test]
fn an_upstream_without_connect_is_told_once() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send("HTTP/1.1 501 No\r\nContent-Length: 0\r\n\r\n");
    });
    let b = Upstream::echo_ok("b");
    let process = Process::start("{}", [&a, &b]);
    for n in 0..8 {
        process.client().open_tunnel(&format!("o{n}.test:443"));
    }
    process.wait_for_log("upstream a has no CONNECT: it answered 501 to what others opened");
    let log = process.log.lock();
    let told = log.iter().filter(|line| line.contains("no CONNECT"));
    assert_eq!(told.count(), 1);
}

/// D14: 234 417 lines of log in a second and a half, and a core at 93 %.
#[test]
fn without_descriptors_it_waits_says_so_once_and_recovers() {
    let upstreams = ["a", "b", "c"].map(Upstream::echo_ok);
    let process = Process::start_with_files(64, "{}", &upstreams);
    for _ in 0..2 {
        // More than it can take; whoever finds no place is told or closed.
        let mut clients: Vec<Client> = (0..200).map(|_| process.client()).collect();
        let mut served = 0;
        for client in &mut clients {
            client.send_as_far_as_possible(GET);
        }
        for client in &mut clients {
            match client.status_or_end() {
                Some(200) => served += 1,
                Some(502 | 503) | None => {}
                Some(other) => panic!("status {other}"),
            }
        }
        assert!(served > 0, "nobody was served");
        drop(clients);
        wait_until(|| {
            let mut client = process.client();
            client.send_as_far_as_possible(GET);
            client.status_or_end() == Some(200)
        });
    }
    let lines = process.log.lock().len();
    assert!(lines < 50, "{lines} lines of log");
    assert!(
        !process.has_logged("is offline"),
        "it was no upstream's fault"
    );
}

impl Client {
    /// The status of the next answer; `None` if the connection ends without one.
    fn status_or_end(&mut self) -> Option<u16> {
        self.try_read_response().map(|answer| answer.status())
    }
}

/// Idle connections to upstreams must not starve those that are needed now.
#[test]
fn kept_connections_give_way_when_descriptors_run_out() {
    let upstreams = ["a", "b", "c", "d"].map(Upstream::by_hand);
    let members = |first: usize| {
        let place = move |at: usize| (at + 4 - first) % 4;
        let member = move |(at, upstream): (usize, &Upstream)| {
            upstream.with(&format!("priority: {}", place(at)))
        };
        upstreams.iter().enumerate().map(member).collect::<Vec<_>>()
    };
    let extra = "mode: priority\nreload_interval_secs: 0\nlimits: {max_connections: 12}";
    let process = Process::start_with_files(64, extra, members(0));
    let mut kept = Vec::new();
    for (first, upstream) in upstreams.iter().enumerate() {
        if first > 0 {
            process
                .file
                .write(configuration_text(extra, members(first)));
            process.signal(Signal::HUP);
        }
        wait_until(|| {
            let log = process.log.lock();
            log.iter()
                .filter(|line| line.contains("is in force"))
                .count()
                == first
        });
        let mut clients: Vec<Client> = (0..12).map(|_| process.client()).collect();
        for client in &mut clients {
            client.send(GET);
        }
        let mut hops: Vec<_> = clients.iter().map(|_| upstream.accept()).collect();
        for hop in &mut hops {
            hop.read_request();
            hop.send_ok("served");
        }
        for client in &mut clients {
            client.expect_status(200).expect_body("served");
        }
        // The next ones find no place while these still count.
        let all = process.descriptors();
        drop(clients);
        wait_until(|| process.descriptors() + 12 <= all);
        // Its idle connections stay open here, and so there.
        kept.push(hops);
    }
    assert!(
        !process.has_logged("is offline"),
        "it was no upstream's fault"
    );
}

/// Once, not for each of them.
#[test]
fn stray_bytes_of_an_upstream_are_in_the_log() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npageX");
    });
    let process = Process::start("{}", [&a]);
    let mut client = process.client();
    for _ in 0..3 {
        client.send(GET).expect_status(200).expect_body("page");
    }
    let line = "upstream a sent bytes nobody asked for: its connections are not shared between \
        clients for 10 minutes";
    process.wait_for_log(line);
    process.signal(Signal::TERM);
    process.wait_for_log("stopped");
    let told = |log: &Vec<String>| log.iter().filter(|said| said.contains(line)).count();
    assert_eq!(told(&process.log.lock()), 1);
}

/// The client cannot read our answer, so whoever set it up must find the remedy in the log.
#[test]
fn a_client_that_speaks_tls_or_socks_is_told_to_the_operator_once_with_the_remedy() {
    let a = Upstream::echo_ok("a");
    let process = Process::start("{}", [&a]);
    for greeting in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..],
        b"\x05\x01\0",
    ] {
        for _ in 0..3 {
            process.client().send(greeting).expect_refusal(400);
        }
    }
    process.signal(Signal::TERM);
    process.wait_for_log("stopped");
    for line in [
        "127.0.0.1: A client speaks TLS to the plain port. Write http://, not https://, before the \
         proxy's address.",
        "127.0.0.1: A client speaks SOCKS to the HTTP port. Set this address as its HTTP proxy, not \
         as its SOCKS proxy.",
    ] {
        let told = |log: &Vec<String>| log.iter().filter(|said| said.contains(line)).count();
        assert_eq!(told(&process.log.lock()), 1, "{line}");
    }
}
