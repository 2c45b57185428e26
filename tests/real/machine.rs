//! What the tests need of the machine: folders, free ports, connections, waiting.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
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

    /// Writes a file that only its owner may read.
    pub(crate) fn write_secret(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.write(name, content);
        share(&path, 0o600);
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
