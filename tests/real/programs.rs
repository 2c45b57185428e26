//! Programs that the tests start: servers that have to end with the test, and clients that end by
//! themselves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use crate::machine::{PATIENCE, connect, note, wait_until};

/// A program started by a test: killed (SIGKILL) and reaped when dropped.
pub(crate) struct Spawned {
    child: Child,
    output: PathBuf,
}

impl Spawned {
    /// Starts `command` with everything it prints in the file `output`.
    pub(crate) fn start(command: &mut Command, output: PathBuf) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&output)
            .expect("output file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("second handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, output }
    }

    /// Where everything it prints goes.
    pub(crate) fn output(&self) -> &Path {
        &self.output
    }

    /// Fails if it has ended.
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("own child") {
            panic!("ended with {status}:\n{}", tail(&self.output));
        }
    }

    /// Ends it as the kernel would: no goodbye to anybody.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("own child");
        let mut status = None;
        wait_until(PATIENCE, "it ends after SIGTERM", || {
            status = self.child.try_wait().expect("own child");
            status.is_some()
        });
        status.expect("just seen")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).expect("own child");
    }

    /// What it has used of the processors so far, from `/proc/PID/stat`.
    pub(crate) fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        // The 14th and 15th of the manual, in user and in kernel mode.
        let each = rustix::param::clock_ticks_per_second();
        Duration::from_millis((ticks(11) + ticks(12)) * 1000 / each)
    }

    /// A number from `/proc/PID/status`: "Threads", or in KiB "`VmHWM`" and "`VmRSS`".
    pub(crate) fn status_number(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = status
            .lines()
            .find(|line| line.split(':').next() == Some(key));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("{key} in {path}"))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // It may be gone already: that is all these two can complain about.
        drop(self.child.kill());
        drop(self.child.wait());
        let said = tail(&self.output);
        if thread::panicking() && !said.is_empty() {
            note(&format!("{}:\n{said}", self.output.display()));
        }
    }
}

/// A program that listens on a loopback port.
pub(crate) struct Server {
    pub(crate) program: Spawned,
    port: u16,
}

impl Server {
    /// Starts `command` and waits until it accepts connections on loopback `port`.
    pub(crate) fn start(command: &mut Command, output: PathBuf, port: u16) -> Self {
        let mut program = Spawned::start(command, output);
        wait_until(
            PATIENCE,
            &format!("something listens on port {port}"),
            || {
                program.assert_running();
                connect(port).is_ok()
            },
        );
        Self { program, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// The last lines of a file, for messages.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(30);
    lines.get(skipped..).unwrap_or_default().join("\n")
}

/// A client program, with a time limit and without the proxy settings of whoever runs the tests.
pub(crate) fn tool(program: &str, home: &Path) -> Command {
    const LIMIT: &str = "120";
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", LIMIT, program])
        .stdin(Stdio::null())
        .current_dir(home);
    for name in [
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "all_proxy",
        "no_proxy",
    ] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    for name in [
        "GIT_SSL_CAINFO",
        "CURL_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
    ] {
        command.env_remove(name);
    }
    command
        .env("HOME", home)
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    command
}

/// What a client program left behind.
pub(crate) struct Finished {
    command: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// Runs a client program to its end.
pub(crate) fn run(command: &mut Command) -> Finished {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    Finished {
        command: format!("{command:?}"),
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Finished {
    /// Its output, if it ended well; the test fails if it did not.
    pub(crate) fn expect_success(self) -> Vec<u8> {
        assert_eq!(
            self.code,
            Some(0),
            "{}\nstdout: {}\nstderr: {}",
            self.command,
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self.stdout
    }

    /// As `expect_success`, for output that is text.
    pub(crate) fn expect_text(self) -> String {
        String::from_utf8(self.expect_success()).expect("text")
    }
}
