//! The front of the admin server: the only part that the network talks to.
//!
//! One thread watches all connections, so that a silent or slow one costs a descriptor and a few
//! kilobytes, and delays nobody. A connection has one request, without a body, whose head must come
//! within a few seconds; a complete one is judged by the gate, answered by the server behind it in
//! milliseconds, and the answer then waits here for the client to take it. When the places or the
//! descriptors are used up, whoever has been silent longest loses its own.

use std::io::{self, IoSlice};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::config::listen::ListenAddress;
use crate::net::conn::Conn;
use crate::net::log_limiter::LogLimiter;
use crate::net::socket::{self, Ready, Received, TICK, Wait, Want};
use crate::protocol::head::{HeadLimits, HeadScanner, RequestHead};
use crate::relay::Context;

use super::gate::{Denied, Gate};
use super::guesses::{self, Guesses};
use super::inner::Inner;
use super::refused::{self, Refused};

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
/// The pause when there is no descriptor for even one connection.
const REST: Duration = Duration::from_millis(100);
/// Descriptors that stay free once there were none: one to be accepted with, and what one request
/// needs behind the front.
const SPARE: usize = 6;
/// How long they do.
const CAUTION: Duration = Duration::from_secs(10);

/// What is said when the server behind this one does not answer.
static UNANSWERED: LogLimiter = LogLimiter::new();

/// Everything the thread has.
#[derive(Debug)]
pub(super) struct Front<'a> {
    ctx: &'a Context,
    /// Where it listens, as the file said at the start.
    listen: &'a ListenAddress,
    listener: &'a TcpListener,
    /// Readable: leave.
    wake: &'a UnixStream,
    inner: &'a mut Inner,
    seats: Vec<Seat>,
    /// Until when the listener is left alone.
    resting: Option<Instant>,
    /// How many connections there may be until when, after descriptors had run out.
    cautious: Option<(usize, Instant)>,
    guesses: Guesses,
}

/// One connection.
#[derive(Debug)]
struct Seat {
    conn: Conn,
    phase: Phase,
    until: Instant,
}

#[derive(Debug)]
enum Phase {
    Reading(HeadScanner),
    /// Until a guess has taken long enough.
    Held(Vec<u8>),
    Writing {
        answer: Vec<u8>,
        sent: usize,
    },
    Lingering {
        left: u64,
    },
}

/// What becomes of a connection.
enum Next {
    Stay(Seat),
    Leave,
}

impl<'a> Front<'a> {
    /// A front without connections.
    pub(super) fn new(
        ctx: &'a Context,
        listen: &'a ListenAddress,
        (listener, wake): (&'a TcpListener, &'a UnixStream),
        inner: &'a mut Inner,
    ) -> Self {
        Self {
            ctx,
            listen,
            listener,
            wake,
            inner,
            seats: Vec::new(),
            resting: None,
            cautious: None,
            guesses: Guesses::default(),
        }
    }

    /// Serves until it is told to leave.
    ///
    /// # Errors
    /// When waiting is impossible.
    pub(super) fn run(&mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            self.resting = self.resting.filter(|until| *until > now);
            self.cautious = self.cautious.filter(|(_, until)| *until > now);
            let ready = self.wait(now)?;
            let mut ready = ready.into_iter();
            if ready.next().is_some_and(Ready::to_read) {
                return Ok(());
            }
            let knocked = ready.next().is_some_and(Ready::to_read);
            let ready: Vec<Ready> = ready.collect();
            self.advance(now, &ready);
            if knocked && self.resting.is_none() {
                self.accept();
            }
        }
    }

    /// Waits for something to do: the wake-up first, then the listener, then the seats in their order.
    fn wait(&self, now: Instant) -> io::Result<Vec<Ready>> {
        let listen = match self.resting {
            Some(_) => Want::Nothing,
            None => Want::Read,
        };
        let mut asked: Vec<(BorrowedFd<'_>, Want)> = vec![
            (self.wake.as_fd(), Want::Read),
            (self.listener.as_fd(), listen),
        ];
        asked.extend(self.seats.iter().map(|seat| {
            let want = match seat.phase {
                Phase::Reading(_) | Phase::Lingering { .. } => Want::Read,
                Phase::Held(_) => Want::Nothing,
                Phase::Writing { .. } => Want::Write,
            };
            (seat.conn.stream().as_fd(), want)
        }));
        let deadlines = self.seats.iter().map(|seat| seat.until).chain(self.resting);
        let until = deadlines.min().unwrap_or(now + TICK * 60);
        socket::wait_any(&asked, until.saturating_duration_since(now))
    }

    /// Serves those that are `ready`, and gives those up whose time was over at `now`, before that was
    /// looked at: however long this process stood still meanwhile.
    fn advance(&mut self, now: Instant, ready: &[Ready]) {
        let seats = std::mem::take(&mut self.seats);
        for (place, seat) in seats.into_iter().enumerate() {
            let ready = ready.get(place).copied().unwrap_or_default();
            let next = if ready.to_read() || ready.to_write() {
                self.step(seat)
            } else if seat.until <= now {
                Self::give_up(seat)
            } else {
                Next::Stay(seat)
            };
            if let Next::Stay(seat) = next {
                self.seats.push(seat);
            }
        }
        self.forget_what_nobody_takes();
    }

    fn step(&mut self, mut seat: Seat) -> Next {
        match &mut seat.phase {
            Phase::Reading(_) => self.read(seat),
            Phase::Held(_) => Next::Leave, // It has left.
            Phase::Writing { answer, sent } => {
                let rest = answer.get(*sent..).unwrap_or_default();
                let Ok(count) = seat.conn.send(&[IoSlice::new(rest)], Wait::No) else {
                    return Next::Leave;
                };
                *sent += count;
                if *sent < answer.len() {
                    return Next::Stay(seat);
                }
                seat.conn.finish_sending();
                seat.until = Instant::now() + LINGER.0;
                seat.phase = Phase::Lingering { left: LINGER.1 };
                Next::Stay(seat)
            }
            Phase::Lingering { left } => {
                seat.conn.consume(usize::MAX);
                match seat.conn.receive(Wait::No) {
                    Ok(Received::Bytes(count)) if (count as u64) < *left => {
                        *left -= count as u64;
                        Next::Stay(seat)
                    }
                    Ok(Received::Nothing) => Next::Stay(seat),
                    Ok(Received::Bytes(_) | Received::End) | Err(_) => Next::Leave,
                }
            }
        }
    }

    fn read(&mut self, mut seat: Seat) -> Next {
        match seat.conn.receive(Wait::No) {
            Ok(Received::Bytes(_)) => {}
            Ok(Received::Nothing) => return Next::Stay(seat),
            Ok(Received::End) | Err(_) => return Next::Leave,
        }
        let Phase::Reading(scanner) = &mut seat.phase else {
            return Next::Stay(seat);
        };
        let head = match scanner.scan(seat.conn.unread(), HEAD) {
            Ok(None) => return Next::Stay(seat),
            Ok(Some(length)) => {
                let mut bytes = Vec::new();
                seat.conn.take_into(length, &mut bytes);
                RequestHead::parse(bytes)
            }
            Err(error) => Err(error),
        };
        let head = match head {
            Ok(head) => head,
            Err(error) => return Self::write(seat, refused::answer(Refused::Head(error), None)),
        };
        match self.judge(&head) {
            Ok(answer) => Self::write(seat, answer),
            Err(denied) => {
                let answer = refused::answer(Refused::Denied(denied), Some(&head));
                let guessed = head.fields().contains("authorization");
                if denied != Denied::TokenWanted || !guessed {
                    return Self::write(seat, answer);
                }
                let now = Instant::now();
                let from = seat.conn.stream().peer_addr().ok();
                if let Some(said) = self.guesses.add(now, from) {
                    log::warn!("{said}");
                }
                seat.until = now + guesses::HELD;
                seat.phase = Phase::Held(answer);
                Next::Stay(seat)
            }
        }
    }

    /// Puts an answer before a client, and sends what it takes at once.
    fn write(mut seat: Seat, answer: Vec<u8>) -> Next {
        seat.until = Instant::now() + ANSWER_TIME;
        seat.phase = Phase::Writing { answer, sent: 0 };
        Next::Stay(seat)
    }

    /// The answer to a request, or why there is none but a refusal.
    fn judge(&mut self, head: &RequestHead) -> Result<Vec<u8>, Denied> {
        let snapshot = self.ctx.snapshot();
        let config = &snapshot.config;
        let gate = Gate {
            token: config.admin_token.as_ref(),
            listen: self.listen,
        };
        let call = gate.check(head)?;
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
                Ok((stream, _)) => self.seat(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if socket::is_exhaustion(&error) => {
                    if self.cautious.is_none() {
                        log::warn!("the admin server closes silent connections: {error}");
                    }
                    if self.seats.is_empty() {
                        self.resting = Some(Instant::now() + REST);
                        return;
                    }
                    self.make_room();
                }
                Err(error) => log::debug!("an admin connection was lost: {error}"),
            }
        }
    }

    fn seat(&mut self, stream: TcpStream) {
        let most = self.cautious.map_or(MOST, |(most, _)| most);
        if self.seats.len() >= most {
            self.evict();
        }
        if stream.set_nonblocking(false).is_err() || socket::prepare(&stream).is_err() {
            return; // It is gone already.
        }
        self.seats.push(Seat {
            conn: Conn::prepared(stream, TICK),
            phase: Phase::Reading(HeadScanner::default()),
            until: Instant::now() + HEAD_TIME,
        });
    }

    /// Closes the connection that has done nothing useful for longest.
    fn evict(&mut self) {
        let rank = |seat: &Seat| match seat.phase {
            Phase::Lingering { .. } | Phase::Held(_) => 0,
            Phase::Reading(_) => 1,
            Phase::Writing { .. } => 2,
        };
        let places = self.seats.iter().enumerate();
        let worst = places.min_by_key(|(_, seat)| (rank(seat), seat.until));
        if let Some((place, _)) = worst {
            drop(self.seats.remove(place));
        }
    }

    /// Frees descriptors, and keeps them free for a while.
    fn make_room(&mut self) {
        let most = self.seats.len().saturating_sub(SPARE).max(1);
        self.cautious = Some((most, Instant::now() + CAUTION));
        for _ in 0..SPARE {
            self.evict();
        }
    }

    /// Keeps the memory for answers within bounds: the oldest ones go first.
    fn forget_what_nobody_takes(&mut self) {
        let size = |seat: &Seat| match &seat.phase {
            Phase::Writing { answer, .. } => answer.len(),
            Phase::Reading(_) | Phase::Held(_) | Phase::Lingering { .. } => 0,
        };
        let mut waiting: usize = self.seats.iter().map(size).sum();
        self.seats.retain(|seat| {
            let own = size(seat);
            let stays = own == 0 || waiting <= MOST_WAITING || waiting == own;
            if !stays {
                waiting -= own;
            }
            stays
        });
    }

    /// A deadline has passed. Who sent nothing at all is not worth a word.
    fn give_up(mut seat: Seat) -> Next {
        if let Phase::Held(answer) = &mut seat.phase {
            let answer = std::mem::take(answer);
            return Self::write(seat, answer);
        }
        match seat.phase {
            Phase::Reading(_) if !seat.conn.unread().is_empty() => {
                Self::write(seat, refused::answer(Refused::TooSlow, None))
            }
            Phase::Reading(_)
            | Phase::Held(_)
            | Phase::Writing { .. }
            | Phase::Lingering { .. } => Next::Leave,
        }
    }
}
