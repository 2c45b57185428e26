//! The program under a service manager, played by this test.
#![cfg(test)]
#![cfg(target_os = "linux")]

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program and the socket that it tells everything to.
struct Setup {
    folder: PathBuf,
    socket: UnixDatagram,
    program: Child,
    passed: RefCell<Vec<String>>,
}

impl Setup {
    fn start(name: &Name, variables: &[(&str, &str)]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("http-proxy-lb-service-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&unique);
        fs::create_dir(&folder).expect("a folder");
        let (socket, called) = match name {
            Name::Path => {
                let path = folder.join("notify");
                let called = path.display().to_string();
                (UnixDatagram::bind(path), called)
            }
            Name::Abstract => {
                let address = SocketAddr::from_abstract_name(&unique).expect("a name");
                (UnixDatagram::bind_addr(&address), format!("@{unique}"))
            }
        };
        let socket = socket.expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let file = folder.join("c.yaml");
        fs::write(&file, CONFIG).expect("written");
        let program = Command::new(env!("CARGO_BIN_EXE_http-proxy-lb"))
            .arg("--config")
            .arg(&file)
            .env("NOTIFY_SOCKET", called)
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        Self {
            folder,
            socket,
            program,
            passed: RefCell::default(),
        }
    }

    /// The next datagram.
    fn told(&self) -> String {
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).expect("a datagram in time");
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    }

    /// The next datagram that begins so. Others that come before it are kept: the status comes from
    /// another thread, and may come first.
    fn told_of(&self, begin: &str) -> String {
        self.told_that(|text| text.starts_with(begin))
    }

    fn told_that(&self, is_wanted: impl Fn(&str) -> bool) -> String {
        let mut passed = self.passed.borrow_mut();
        if let Some(index) = passed.iter().position(|text| is_wanted(text)) {
            return passed.remove(index);
        }
        loop {
            let text = self.told();
            if is_wanted(&text) {
                return text;
            }
            assert!(!text.starts_with("STOPPING"), "{text}");
            passed.push(text);
        }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.program.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(id.expect("a process"), signal).expect("it lives");
    }

    fn write(&self, text: &str) {
        fs::write(self.folder.join("c.yaml"), text).expect("written");
    }

    fn end(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        let mut stderr = self.program.stderr.take().expect("it is a pipe");
        stderr.read_to_string(&mut log).expect("text");
        (self.program.wait().expect("it ends"), log)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        drop(self.program.kill());
        drop(self.program.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

enum Name {
    Path,
    Abstract,
}

const CONFIG: &str = "listen: 127.0.0.1:0\nreload_interval_secs: 0\nupstream:\n  \
                      - {url: 'http://127.0.0.1:1', name: a}\n  - {url: 'http://127.0.0.1:2'}\n";

fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    micros.try_into().expect("after the boot")
}

#[test]
fn a_service_tells_its_start_its_reloads_and_its_end() {
    for name in [Name::Path, Name::Abstract] {
        let setup = Setup::start(&name, &[]);
        setup.told_of("READY=1");
        // Nobody listens there, which the first check finds out, before the first line or after.
        setup.told_of("STATUS=0/2 upstreams online, 0 tunnels");
        for (text, failed) in [("via: false\n", false), ("via: 7\n", true), ("", false)] {
            setup.write(&format!("{CONFIG}{text}"));
            let before = monotonic_micros();
            setup.signal(Signal::HUP);
            let reloading = setup.told_of("RELOADING=1\n");
            let at = reloading
                .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
                .expect("the time");
            let at: u64 = at.parse().expect("a number");
            assert!((before..=monotonic_micros()).contains(&at), "{at}");
            setup.told_of("READY=1");
            if failed {
                let status = setup.told_that(|text| text.contains("reload failed: "));
                assert!(
                    status.starts_with("STATUS=0/2 upstreams online, 0 tunnels; "),
                    "{status}"
                );
                assert!(status.contains("c.yaml:6: via: "), "{status}");
            }
        }
        setup.signal(Signal::TERM);
        setup.told_of("STOPPING=1");
        let (status, log) = setup.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("keys changed: via true -> false"), "{log}");
    }
}

#[test]
fn the_watchdog_is_fed_while_the_relay_works() {
    let mut setup = Setup::start(&Name::Path, &[("WATCHDOG_USEC", "400000")]);
    for _ in 0..5 {
        setup.told_of("WATCHDOG=1");
    }
    // Nobody else needs the loops to go round: with traffic it is no different.
    let stderr = setup.program.stderr.as_mut().expect("it is a pipe");
    let mut lines = BufReader::new(stderr).lines();
    let address = lines.find_map(|line| {
        let line = line.expect("text");
        let (_, rest) = line.split_once("listens on ")?;
        rest.split(';').next().map(str::to_owned)
    });
    #[expect(clippy::disallowed_methods, reason = "loopback answers at once")]
    let mut client = TcpStream::connect(address.expect("its address")).expect("it accepts");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    let mut begin = [0; 12];
    client.read_exact(&mut begin).expect("an answer");
    assert_eq!(&begin, b"HTTP/1.1 400");
    for _ in 0..3 {
        setup.told_of("WATCHDOG=1");
    }
    setup.signal(Signal::TERM);
    setup.told_of("STOPPING=1");
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let setup = Setup::start(
        &Name::Path,
        &[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")],
    );
    setup.told_of("READY=1");
    // It would come every half millisecond.
    for _ in 0..3 {
        setup.signal(Signal::HUP);
        assert!(setup.told_of("R").starts_with("RELOADING=1"));
        setup.told_of("READY=1");
    }
    setup.signal(Signal::TERM);
    loop {
        let text = setup.told();
        assert_ne!(text, "WATCHDOG=1");
        if text == "STOPPING=1" {
            return;
        }
    }
}

/// A manager that is gone, or one that never reads, is no reason to fail.
#[test]
fn a_manager_that_is_gone_changes_nothing() {
    let setup = Setup::start(&Name::Path, &[("NOTIFY_SOCKET", "/nonexistent/notify")]);
    let mut setup = setup;
    let stderr = setup.program.stderr.as_mut().expect("it is a pipe");
    let mut lines = BufReader::new(stderr).lines();
    assert!(lines.any(|line| line.expect("text").contains("listens on ")));
    setup.signal(Signal::TERM);
    assert_eq!(setup.program.wait().expect("it ends").code(), Some(0));
}
