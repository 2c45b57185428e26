//! One GET to the admin server of a running relay.

use std::fmt;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use crate::config::secret::Secret;
use crate::net::conn::{Conn, LookAround};
use crate::net::dial::{self, DialError};
use crate::net::resolve::Resolver;
use crate::net::socket::{Received, TICK, Wait};
use crate::protocol::answer::HopFailure;
use crate::protocol::body::{BodyCoder, Sent};
use crate::protocol::framing;
use crate::protocol::head::{HeadLimits, HeadScanner, ResponseHead};
use crate::protocol::target::Authority;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest head that is read, in bytes.
const HEAD: HeadLimits = HeadLimits { bytes: 64 * 1024 };
/// The largest body that is read, in bytes.
const MOST: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Nobody takes the connection.
    Unreachable(HopFailure),
    /// The connection ended too early.
    Broken,
    /// The answer did not come in time.
    TooLate,
    /// What came is not an HTTP response, or too much.
    NotUnderstood,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(HopFailure::ConnectRefused) => {
                f.write_str("the connection is refused: is the relay running?")
            }
            Self::Unreachable(HopFailure::DnsError | HopFailure::DnsTimeout) => {
                f.write_str("the name cannot be resolved")
            }
            Self::Unreachable(HopFailure::ConnectTimeout) => f.write_str("nobody answers"),
            Self::Unreachable(_) => f.write_str("it cannot be reached"),
            Self::Broken => f.write_str("the connection ended before the answer"),
            Self::TooLate => write!(f, "no answer within {} s", PATIENCE.as_secs()),
            Self::NotUnderstood => f.write_str("the answer is no HTTP: is this the admin server?"),
        }
    }
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Asks `server` for `path`.
pub(super) fn get(
    server: &Authority,
    path: &str,
    token: Option<&Secret>,
) -> Result<Answer, Unanswered> {
    let deadline = Instant::now() + PATIENCE;
    let go_on = &mut || LookAround::GoOn;
    let mut conn =
        dial::dial(server, &Resolver::default(), deadline, go_on).map_err(|error| match error {
            DialError::Failed(failure) => Unanswered::Unreachable(failure),
            DialError::Forbidden | DialError::GivenUp => {
                Unanswered::Unreachable(HopFailure::ConnectFailed)
            }
        })?;
    let authorization = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {}\r\n", token.expose())
    });
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\n{authorization}Connection: close\r\n\r\n"
    );
    let mut parts = [IoSlice::new(request.as_bytes())];
    conn.send_all(&mut parts, PATIENCE, &mut || LookAround::GoOn)
        .map_err(|_gone| Unanswered::Broken)?;
    let head = read_head(&mut conn, deadline)?;
    let body = read_body(&mut conn, &head, deadline)?;
    Ok(Answer {
        status: head.status(),
        body,
    })
}

fn read_head(conn: &mut Conn, deadline: Instant) -> Result<ResponseHead, Unanswered> {
    let mut scanner = HeadScanner::for_response();
    loop {
        let length = scanner
            .scan(conn.unread(), HEAD)
            .map_err(|_malformed| Unanswered::NotUnderstood)?;
        if let Some(length) = length {
            let mut bytes = Vec::new();
            conn.take_into(length, &mut bytes);
            return ResponseHead::parse(bytes).map_err(|_malformed| Unanswered::NotUnderstood);
        }
        if receive(conn, deadline)? == Received::End {
            return Err(Unanswered::Broken);
        }
    }
}

fn read_body(
    conn: &mut Conn,
    head: &ResponseHead,
    deadline: Instant,
) -> Result<Vec<u8>, Unanswered> {
    let framing =
        framing::of_response("GET", head).map_err(|_malformed| Unanswered::NotUnderstood)?;
    let sent = match framing {
        framing::Framing::Chunked => Sent::Decoded,
        framing::Framing::Empty | framing::Framing::Length(_) | framing::Framing::UntilClose => {
            Sent::AsReceived
        }
    };
    let mut coder = BodyCoder::new(framing, sent, HEAD.bytes);
    let mut body = Vec::new();
    loop {
        let passed = coder
            .pass(conn.unread_mut())
            .map_err(|_malformed| Unanswered::NotUnderstood)?;
        body.extend_from_slice(conn.unread().get(..passed.output).unwrap_or_default());
        conn.consume(passed.taken);
        if coder.is_finished() {
            return Ok(body);
        }
        if body.len() > MOST {
            return Err(Unanswered::NotUnderstood);
        }
        if conn.unread().is_empty() && receive(conn, deadline)? == Received::End {
            return match coder.end_of_input() {
                Ok(()) => Ok(body),
                Err(_) => Err(Unanswered::Broken),
            };
        }
    }
}

/// Waits for bytes or the end.
fn receive(conn: &mut Conn, deadline: Instant) -> Result<Received, Unanswered> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Unanswered::TooLate);
        }
        conn.limit_read(left.min(TICK));
        match conn.receive_bulk(Wait::Tick) {
            Ok(Received::Nothing) => {}
            Ok(received) => return Ok(received),
            Err(_) => return Err(Unanswered::Broken),
        }
    }
}
