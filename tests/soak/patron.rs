//! The client that behaves: steady, polite, and with a watch.
//!
//! In turn it asks over a connection that it keeps, over a new one, and through a new tunnel. What it
//! measures is the time from the first thing it does to the last byte it wants.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// From the start of one request to that of the next.
const PACE: Duration = Duration::from_millis(4);
/// No answer within this time is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

const GET: &[u8] = b"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n";
const CONNECT: &[u8] = b"CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n\r\n";
const PING: &[u8] = b"are you there?";

pub(crate) struct Patron {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Waits>,
}

/// How long it waited each time, and what went wrong.
#[derive(Default)]
pub(crate) struct Waits {
    times: Vec<Duration>,
    failures: Vec<String>,
}

impl Patron {
    pub(crate) fn start(relay: SocketAddr) -> Self {
        let over = Arc::<AtomicBool>::default();
        let told = Arc::clone(&over);
        let thread = thread::Builder::new().name("patron".to_owned());
        let thread = thread
            .spawn(move || ask_on(relay, &told))
            .expect("a thread");
        Self { over, thread }
    }

    /// The first requests of all, one of each kind.
    pub(crate) fn introduce(relay: SocketAddr) {
        ask_anew(relay).expect("an answer");
        ask_through_a_tunnel(relay).expect("a tunnel");
    }

    pub(crate) fn end(self) -> Waits {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

fn ask_on(relay: SocketAddr, over: &AtomicBool) -> Waits {
    let mut waits = Waits::default();
    let mut kept = None;
    let mut due = Instant::now();
    for turn in 0_u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        let done = match turn % 4 {
            0 | 2 => ask_again(relay, &mut kept),
            1 => ask_anew(relay),
            _ => ask_through_a_tunnel(relay),
        };
        match done {
            Ok(()) => waits.times.push(begun.elapsed()),
            Err(error) => waits.failures.push(format!("request {turn}: {error}")),
        }
        // Whoever is late goes on at once, but does not hurry to make up for it.
        due = (due + PACE).max(Instant::now());
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
    }
    waits
}

fn connect(relay: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&relay, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Over the connection it has kept.
fn ask_again(relay: SocketAddr, kept: &mut Option<TcpStream>) -> io::Result<()> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => connect(relay)?,
    };
    stream.write_all(GET)?;
    expect(&mut stream, b"\r\n\r\nok")?;
    *kept = Some(stream);
    Ok(())
}

fn ask_anew(relay: SocketAddr) -> io::Result<()> {
    let mut stream = connect(relay)?;
    stream.write_all(GET)?;
    expect(&mut stream, b"\r\n\r\nok")
}

fn ask_through_a_tunnel(relay: SocketAddr) -> io::Result<()> {
    let mut stream = connect(relay)?;
    stream.write_all(CONNECT)?;
    expect(&mut stream, b"\r\n\r\n")?;
    stream.write_all(PING)?;
    let mut echo = [0; PING.len()];
    stream.read_exact(&mut echo)?;
    if echo == PING {
        Ok(())
    } else {
        Err(io::Error::other(format!("{echo:?} came back")))
    }
}

/// A 200 that ends so; nothing comes behind it unasked.
fn expect(stream: &mut TcpStream, end: &[u8]) -> io::Result<()> {
    let mut answer = Vec::new();
    let mut block = [0; 4096];
    while !answer.ends_with(end) {
        match stream.read(&mut block)? {
            0 => {
                let so_far = String::from_utf8_lossy(&answer);
                return Err(io::Error::other(format!("ended after {so_far:?}")));
            }
            count => answer.extend_from_slice(&block[..count]),
        }
    }
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&answer).into_owned(),
    ))
}

impl Waits {
    fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.times.clone();
        sorted.sort();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "thousands of times"
        )]
        let place = (sorted.len() as f64 * share) as usize;
        sorted
            .get(place)
            .or(sorted.last())
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    pub(crate) fn expect_no_failure(&self) {
        assert!(!self.times.is_empty(), "nothing was asked");
        let told: Vec<_> = self.failures.iter().take(10).collect();
        let count = self.failures.len();
        assert!(told.is_empty(), "{count} failures, the first: {told:#?}");
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} failed, p50 {:.1?} p99 {:.1?} worst {:.1?}",
            self.times.len() + self.failures.len(),
            self.failures.len(),
            self.quantile(0.5),
            self.p99(),
            self.quantile(1.0)
        )?;
        self.failures
            .iter()
            .take(3)
            .try_for_each(|what| write!(f, " ({what})"))
    }
}
