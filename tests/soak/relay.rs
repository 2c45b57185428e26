//! The relay as a process of its own, and what it uses.

use std::fmt;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::pass;

/// Connections on both sides of the relay, and then some.
const DESCRIPTORS: u64 = 16_000;
/// Longer than a start takes on any machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines a relay may say while it is attacked: complaints come once in a while, not for each client.
const LINES_MAX: usize = 60;

/// Raises the number of descriptors of this process, and so of the relay it starts.
pub(crate) fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(most >= DESCRIPTORS, "ulimit -Hn is {most}: too low");
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the hard limit is always allowed");
}

/// The program; killed when dropped.
pub(crate) struct Relay {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

/// What the relay uses at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) resident_kib: u64,
    pub(crate) threads: u64,
    pub(crate) files: usize,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resident_kib,
            threads,
            files,
        } = self;
        write!(f, "{resident_kib} KiB, {threads} threads, {files} files")
    }
}

impl Relay {
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let folder = std::env::temp_dir().join(format!("hplb-soak-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let config = folder.join("config.yaml");
        // Idle connections to the upstream are no leak, but waiting half a minute for them is a bore.
        let text = format!(
            "listen: 127.0.0.1:0\nhealth_check: {{url: 'http://origin.test/generate_204'}}\n\
             limits: {{upstream_idle_secs: 2}}\nupstream:\n  - url: http://{upstream}\n"
        );
        fs::write(&config, text).expect("a temporary file");
        let log = File::create(folder.join("log")).expect("a temporary file");
        let child = Command::new(env!("CARGO_BIN_EXE_http-proxy-lb"))
            .arg("--config")
            .arg(&config)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut relay = Self {
            child,
            folder,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        relay.address = relay.listening();
        relay
    }

    /// Waits for the line that tells where it listens.
    fn listening(&self) -> SocketAddr {
        let begun = Instant::now();
        loop {
            let log = self.log();
            let rest = log.split_once("listens on ").map(|(_, rest)| rest);
            let word = rest.and_then(|rest| rest.split([';', ' ']).next());
            if let Some(address) = word.and_then(|word| word.parse().ok()) {
                return address;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not listen:\n{log}");
            pass(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn usage(&self) -> Usage {
        let own = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(own.join("status")).expect("the relay runs");
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| word.parse().ok()).expect("a number")
        };
        Usage {
            resident_kib: number("VmRSS:"),
            threads: number("Threads:"),
            files: fs::read_dir(own.join("fd"))
                .expect("the relay runs")
                .count(),
        }
    }

    /// Whatever thousands of clients did, the log is short, and nothing panicked.
    pub(crate) fn expect_a_quiet_log(&self) {
        let log = self.log();
        let count = log.lines().count();
        assert!(count <= LINES_MAX, "{count} lines:\n{log}");
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("is offline"), "{log}");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let skipped = lines.len().saturating_sub(30);
            crate::note(&format!(
                "log of the relay:\n{}",
                lines[skipped..].join("\n")
            ));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}
