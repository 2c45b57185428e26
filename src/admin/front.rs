//! The front of the admin server: the only part that the network talks to.
//!
//! One thread watches all connections, so that a silent or slow one costs a descriptor and a few
//! kilobytes, and delays no other. A connection has one request, without a body, whose head must come
//! within a few seconds; a complete one is judged by the auth check, answered by the server behind it in
//! milliseconds, and the answer then waits here for the client to take it. When the places or the
//! descriptors are used up, the connection that has been silent longest is closed. A front that fails goes on
//! without the connections it had.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::listen::ListenAddress;
use crate::net::conn::Conn;
use crate::net::log_limiter::LogLimiter;
use crate::net::socket::{self, PollReady, Received, TICK, Wait, Want};
use crate::protocol::head::{HeadLimits, HeadScanner, RequestHead};
use crate::relay::Context;

use super::authorization::AuthCheck;
use super::failed_logins::{self, FailedLogins};
use super::inner::{Inner, Prepare};
use super::refused::{self, Refused};
use super::view::RelayView;

/// Connections at once.
const MOST: usize = 64;
/// The largest head, in bytes.
const HEAD: HeadLimits = HeadLimits { bytes: 8 * 1024 };
/// From the beginning of a connection to the end of its head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a client may take over an answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long a client may go on sending after its answer, and how much, in bytes.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 256 * 1024);
/// Answers that wait to be taken, all together, in bytes.
const MOST_WAITING: usize = 64 * 1024 * 1024;
/// Connections accepted before the others have their turn again.
const AT_ONCE: usize = 64;
/// The pause when there is no descriptor for even one connection, and after a failure.
const REST: Duration = Duration::from_millis(100);
/// Descriptors that stay free once there were none: one to be accepted with, and what one request
/// needs behind the front.
const SPARE: usize = 6;
/// How long they do.
const CAUTION: Duration = Duration::from_secs(10);

/// What is said when the server behind this one does not answer.
static UNANSWERED: LogLimiter = LogLimiter::new();

/// Everything the thread has.
pub(super) struct Front {
    ctx: Arc<Context>,
    /// Where it listens, as the file said at the start.
    listen: ListenAddress,
    listener: TcpListener,
    /// Readable: leave.
    wake: UnixStream,
    inner: Inner,
    connections: Vec<Connection>,
    /// How many connections there may be until when, after descriptors had run out.
    cautious: Option<(usize, Instant)>,
    failed_logins: FailedLogins,
}

/// One connection.
struct Connection {
    conn: Conn,
    phase: Phase,
    until: Instant,
}

/// How far a connection is.
enum Phase {
    Reading(HeadScanner),
    /// The answer to a wrong token, until its time has come.
    Delayed(Vec<u8>),
    Writing {
        answer: Vec<u8>,
        sent: usize,
    },
    Lingering {
        left: u64,
    },
}

impl Front {
    /// A front without connections, and the server behind it.
    ///
    /// # Errors
    /// When there is no folder for a private socket, or no descriptor or thread left.
    pub(super) fn start(
        seen: Arc<dyn RelayView>,
        listener: TcpListener,
        listen: ListenAddress,
        wake: UnixStream,
        prepare: Prepare,
    ) -> io::Result<Self> {
        Ok(Self {
            ctx: Arc::clone(seen.context()),
            listen,
            listener,
            wake,
            inner: Inner::start(seen, prepare)?,
            connections: Vec::new(),
            cautious: None,
            failed_logins: FailedLogins::default(),
        })
    }

    /// The thread: serves until it is told to leave, and goes on should that ever fail.
    pub(super) fn run(mut self) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.serve())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => log::error!("the admin server is started anew: {error}"),
                Err(_panic) => self.ctx.metrics.panics.increment(),
            }
            self.connections.clear();
            self.rest();
        }
    }

    /// Serves until it is told to leave.
    ///
    /// # Errors
    /// When waiting is impossible.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            self.cautious = self.cautious.filter(|(_, until)| *until > now);
            let ready = self.wait(now)?;
            let [wake, listener, connections @ ..] = &*ready else {
                continue; // Each that was asked for has an answer.
            };
            if wake.to_read() {
                return Ok(());
            }
            self.advance(now, connections);
            if listener.to_read() {
                self.accept();
            }
        }
    }

    /// Does nothing for a moment, unless it is told to leave.
    fn rest(&self) {
        if let Err(error) = socket::wait_any(&[(self.wake.as_fd(), Want::Read)], REST) {
            log::debug!("the admin server cannot wait: {error}");
        }
    }

    /// Waits for something to do: the wake-up first, then the listener, then the connections in their order.
    fn wait(&self, now: Instant) -> io::Result<Vec<PollReady>> {
        let mut asked: Vec<(BorrowedFd<'_>, Want)> = vec![
            (self.wake.as_fd(), Want::Read),
            (self.listener.as_fd(), Want::Read),
        ];
        asked.extend(self.connections.iter().map(|connection| {
            let want = match connection.phase {
                Phase::Reading(_) | Phase::Lingering { .. } => Want::Read,
                Phase::Delayed(_) => Want::Nothing,
                Phase::Writing { .. } => Want::Write,
            };
            (connection.conn.stream().as_fd(), want)
        }));
        let deadlines = self.connections.iter().map(|connection| connection.until);
        let until = deadlines.min().unwrap_or(now + TICK * 60);
        socket::wait_any(&asked, until.saturating_duration_since(now))
    }

    /// Serves those that are `ready`, and gives those up whose time was over at `now`, before that was
    /// looked at: however long this process stood still meanwhile.
    fn advance(&mut self, now: Instant, ready: &[PollReady]) {
        let connections = std::mem::take(&mut self.connections);
        for (place, mut connection) in connections.into_iter().enumerate() {
            let ready = ready.get(place).copied().unwrap_or_default();
            let stays = if ready.to_read() || ready.to_write() {
                self.step(&mut connection)
            } else {
                connection.until > now || connection.is_answered_late()
            };
            if stays {
                self.connections.push(connection);
            }
        }
        self.drop_answers_not_taken();
    }

    /// Goes on with a connection. Whether it stays.
    fn step(&mut self, connection: &mut Connection) -> bool {
        match &mut connection.phase {
            Phase::Reading(_) => self.read(connection),
            Phase::Delayed(_) => false, // The client has left.
            Phase::Writing { answer, sent } => {
                let rest = answer.get(*sent..).unwrap_or_default();
                let Ok(count) = connection.conn.send(&[IoSlice::new(rest)], Wait::No) else {
                    return false;
                };
                *sent += count;
                if *sent == answer.len() {
                    connection.conn.finish_sending();
                    connection.enter(Phase::Lingering { left: LINGER.1 }, LINGER.0);
                }
                true
            }
            Phase::Lingering { left } => {
                connection.conn.consume(usize::MAX);
                match connection.conn.receive(Wait::No) {
                    Ok(Received::Bytes(count)) if (count as u64) < *left => {
                        *left -= count as u64;
                        true
                    }
                    Ok(Received::Nothing) => true,
                    Ok(Received::Bytes(_) | Received::End) | Err(_) => false,
                }
            }
        }
    }

    fn read(&mut self, connection: &mut Connection) -> bool {
        let Phase::Reading(scanner) = &mut connection.phase else {
            return true;
        };
        match connection.conn.receive(Wait::No) {
            Ok(Received::Bytes(_)) => {}
            Ok(Received::Nothing) => return true,
            Ok(Received::End) | Err(_) => return false,
        }
        let head = match scanner.scan(connection.conn.unread(), HEAD) {
            Ok(None) => return true,
            Ok(Some(length)) => {
                let mut bytes = Vec::new();
                connection.conn.take_into(length, &mut bytes);
                RequestHead::parse(bytes)
            }
            Err(error) => Err(error),
        };
        match head {
            Err(error) => connection.write(refused::answer(Refused::Head(error), None)),
            Ok(head) => match self.judge(&head, connection.address()) {
                Ok(answer) => connection.write(answer),
                Err(denied) => self.deny(connection, denied, &head),
            },
        }
        true
    }

    /// Refuses a request; later, if that was a failed login.
    fn deny(&mut self, connection: &mut Connection, denied: Refused, head: &RequestHead) {
        let answer = refused::answer(denied, Some(head));
        if !denied.is_wrong_token(head) {
            return connection.write(answer);
        }
        let from = connection.address();
        if let Some(said) = self.failed_logins.add(Instant::now(), from) {
            log::warn!("{said}");
        }
        connection.enter(Phase::Delayed(answer), failed_logins::DELAY);
    }

    /// The answer to a request, or why there is none but a refusal.
    fn judge(&mut self, head: &RequestHead, from: Option<SocketAddr>) -> Result<Vec<u8>, Refused> {
        let snapshot = self.ctx.snapshot();
        let config = &snapshot.config;
        let check = AuthCheck {
            token: config.admin_token.as_ref(),
            listen: &self.listen,
            client: from.map(|from| from.ip()),
        };
        let call = check.judge(head)?;
        let answered = self.inner.answer(&call).or_else(|error| {
            if !socket::is_exhaustion(&error) {
                return Err(error);
            }
            self.make_room();
            self.inner.answer(&call)
        });
        Ok(answered.unwrap_or_else(|error| {
            if let Some(more) = UNANSWERED.allow() {
                log::error!("an admin request cannot be answered: {error}{more}");
            }
            refused::answer(Refused::Unavailable, Some(head))
        }))
    }

    fn accept(&mut self) {
        for _ in 0..AT_ONCE {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if socket::is_exhaustion(&error) => {
                    if self.cautious.is_none() {
                        log::warn!("the admin server closes silent connections: {error}");
                    }
                    if self.connections.is_empty() {
                        return self.rest();
                    }
                    self.make_room();
                }
                Err(error) => log::debug!("an admin connection was lost: {error}"),
            }
        }
    }

    fn admit(&mut self, stream: TcpStream) {
        let most = self.cautious.map_or(MOST, |(most, _)| most);
        if self.connections.len() >= most {
            self.evict();
        }
        if stream.set_nonblocking(false).is_err() || socket::prepare(&stream).is_err() {
            return; // It is gone already.
        }
        self.connections.push(Connection {
            conn: Conn::prepared(stream, TICK),
            phase: Phase::Reading(HeadScanner::default()),
            until: Instant::now() + HEAD_TIME,
        });
    }

    /// Closes the connection that has done nothing useful for longest.
    fn evict(&mut self) {
        let rank = |connection: &Connection| match connection.phase {
            Phase::Lingering { .. } | Phase::Delayed(_) => 0,
            Phase::Reading(_) => 1,
            Phase::Writing { .. } => 2,
        };
        let places = self.connections.iter().enumerate();
        let worst = places.min_by_key(|(_, connection)| (rank(connection), connection.until));
        if let Some((place, _)) = worst {
            drop(self.connections.remove(place));
        }
    }

    /// Frees descriptors, and keeps them free for a while.
    fn make_room(&mut self) {
        let most = self.connections.len().saturating_sub(SPARE).max(1);
        self.cautious = Some((most, Instant::now() + CAUTION));
        for _ in 0..SPARE {
            self.evict();
        }
    }

    /// Keeps the memory for answers that clients do not take within bounds: the oldest ones go first.
    fn drop_answers_not_taken(&mut self) {
        let size = |connection: &Connection| match &connection.phase {
            Phase::Writing { answer, .. } => answer.len(),
            Phase::Reading(_) | Phase::Delayed(_) | Phase::Lingering { .. } => 0,
        };
        let mut waiting: usize = self.connections.iter().map(size).sum();
        self.connections.retain(|connection| {
            let own = size(connection);
            let stays = own == 0 || waiting <= MOST_WAITING || waiting == own;
            if !stays {
                waiting -= own;
            }
            stays
        });
    }
}

impl Connection {
    /// That of its client, unless it is gone.
    fn address(&self) -> Option<SocketAddr> {
        self.conn.stream().peer_addr().ok()
    }

    fn enter(&mut self, phase: Phase, limit: Duration) {
        self.phase = phase;
        self.until = Instant::now() + limit;
    }

    /// Puts an answer before the client.
    fn write(&mut self, answer: Vec<u8>) {
        self.enter(Phase::Writing { answer, sent: 0 }, ANSWER_TIME);
    }

    /// Its time is over: whether there is an answer all the same. A client that sent nothing at all gets
    /// none.
    fn is_answered_late(&mut self) -> bool {
        match &mut self.phase {
            Phase::Delayed(answer) => {
                let answer = std::mem::take(answer);
                self.write(answer);
                true
            }
            Phase::Reading(_) if !self.conn.unread().is_empty() => {
                self.write(refused::answer(Refused::TooSlow, None));
                true
            }
            Phase::Reading(_) | Phase::Writing { .. } | Phase::Lingering { .. } => false,
        }
    }
}
