//! What the tests need of the machine: folders, free ports, child processes, waiting.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long a program may take to start or to end before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `done` says so; fails after `limit`, naming `what`. The only place that sleeps.
#[expect(
    clippy::disallowed_methods,
    reason = "polling another process has no signal to wait on"
)]
pub(crate) fn wait_until(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Prints a figure that people want to see in the log of a green run, too.
pub(crate) fn note(text: &str) {
    writeln!(io::stderr(), "    {text}").expect("standard error is open");
}

/// A temporary folder that other users may enter, gone when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hplb-real-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("temporary folder");
        share(&path, 0o755);
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A subfolder that every user may write to: servers started by root change their user.
    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).expect("subfolder");
        share(&path, 0o777);
        path
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        write(&path, content);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if thread::panicking() {
            note(&format!("kept for a look: {}", self.0.display()));
        } else if let Err(error) = fs::remove_dir_all(&self.0) {
            note(&format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}

fn share(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

/// Writes a file, with the folders it needs.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
    fs::write(path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A loopback port nobody listens on. It lies below the ports that the kernel gives to outgoing
/// connections, so that a server can be killed and started again on it.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let now = SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("a clock after 1970");
        AtomicU16::new(u16::try_from(now.subsec_micros() % u32::from(COUNT)).expect("below COUNT"))
    });
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// A connection to a loopback port from a loopback address of choice.
pub(crate) fn connect_from(source: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(source, 0))?;
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(TcpStream::from(socket))
}

/// A connection to a loopback port.
pub(crate) fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)
}

/// Raises the number of descriptors this process may have, for tests with many connections.
pub(crate) fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the hard limit is always allowed");
}

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

/// Fails unless both files have the same bytes; says how long they are.
pub(crate) fn assert_same_file(got: &Path, wanted: &Path) {
    let read =
        |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_same_bytes(&read(got), &read(wanted), &got.display().to_string());
}

/// Fails unless both are the same, without printing megabytes.
pub(crate) fn assert_same_bytes(got: &[u8], wanted: &[u8], what: &str) {
    let differs_at = got.iter().zip(wanted).position(|(a, b)| a != b);
    assert_eq!(
        (got.len(), differs_at),
        (wanted.len(), None),
        "{what}: (length, first difference)"
    );
}
