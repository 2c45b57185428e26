//! The waiter: holds connections from which nothing can be read yet. One thread, however many they are.
//!
//! A new connection waits here for its first byte, a kept-alive one for its next request, one whose
//! head is incomplete for the rest of it, and one that was answered for the last time until its client
//! is done sending. Each has a deadline. A worker registers a connection itself (epoll is thread-safe);
//! only a deadline earlier than all others wakes the thread.
//!
//! Edge-triggered registration is safe here because it is undone at each event: registering a socket
//! that is already readable reports it.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use parking_lot::Mutex;

use crate::net::conn::Conn;
use crate::net::socket::{self, Received, Wait};
use crate::protocol::answer::Refusal;
use crate::relay::session::{self, Outcome};
use crate::relay::{Client, Context};

use super::service::Service;
use super::workers::{Hold, Workers};

/// How long a client may go on sending after its last answer.
const LINGER: Duration = Duration::from_secs(5);
/// How much it may send in that time, in bytes.
const LINGER_BYTES: u64 = 16 * 1024 * 1024;
/// Connections refused without a permit that may linger at once, if there are file descriptors
/// enough; more are closed at once.
const MOST_UNCOUNTED: usize = 256;
/// The share of all file descriptors that those may use: they come out of the reserve.
const UNCOUNTED_SHARE: usize = 16;
/// The token of the waker; connections count up from the next.
const WAKE: Token = Token(0);
/// Events taken from the system at once.
const EVENTS: usize = 1024;

/// The table of waiting connections, shared by the thread and whoever parks.
#[derive(Debug)]
pub(super) struct Waiter {
    ctx: Arc<Context>,
    service: Arc<Service>,
    most_uncounted: usize,
    registry: Registry,
    waker: mio::Waker,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    waiting: HashMap<usize, Waiting>,
    deadlines: BTreeSet<(Instant, usize)>,
    next_token: usize,
    /// When the thread wakes by itself; `None`: it does not.
    wakes_at: Option<Instant>,
    uncounted: usize,
    stage: WaiterStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaiterStage {
    Running,
    /// Idle connections are closed; half-read heads may still be completed.
    Draining,
    Ended,
}

#[derive(Debug)]
struct Waiting {
    until: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    Client(Client),
    Lingering { client: Client, left: u64 },
    Uncounted { conn: Conn, left: u64 },
}

impl What {
    fn conn(&self) -> &Conn {
        match self {
            Self::Client(client) | Self::Lingering { client, .. } => &client.conn,
            Self::Uncounted { conn, .. } => conn,
        }
    }
}

/// Where the thread's events come from.
#[derive(Debug)]
pub(super) struct Source {
    poll: Poll,
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WaiterCounts {
    /// Connections that wait for a request or the rest of one.
    pub(super) parked: usize,
    /// Connections that are about to be closed and still hold their permits.
    pub(super) lingering: usize,
}

impl Waiter {
    /// A waiter, and what its thread needs.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub(super) fn new(ctx: Arc<Context>, service: Arc<Service>) -> io::Result<(Arc<Self>, Source)> {
        let poll = Poll::new()?;
        let files = socket::raise_file_limit();
        let waiter = Self {
            ctx,
            service,
            most_uncounted: (files / UNCOUNTED_SHARE).min(MOST_UNCOUNTED),
            registry: poll.registry().try_clone()?,
            waker: mio::Waker::new(poll.registry(), WAKE)?,
            table: Mutex::new(Table {
                waiting: HashMap::new(),
                deadlines: BTreeSet::new(),
                next_token: WAKE.0 + 1,
                wakes_at: None,
                uncounted: 0,
                stage: WaiterStage::Running,
            }),
        };
        Ok((Arc::new(waiter), Source { poll }))
    }

    fn add(&self, what: What, until: Instant) {
        let mut table = self.table.lock();
        match (&what, table.stage) {
            (_, WaiterStage::Ended) => return,
            (What::Client(client), WaiterStage::Draining) if client.head_begun.is_none() => return,
            (What::Uncounted { .. }, _) if table.uncounted >= self.most_uncounted => return,
            (_, _) => {}
        }
        let token = table.next_token;
        table.next_token += 1;
        // Under the lock: an event for a connection that is not in the table yet would be lost.
        let fd = what.conn().stream().as_raw_fd();
        let registered =
            self.registry
                .register(&mut SourceFd(&fd), Token(token), Interest::READABLE);
        if let Err(error) = registered {
            log::warn!("a connection is closed because it cannot be watched: {error}");
            return;
        }
        table.uncounted += what.is_uncounted();
        table.waiting.insert(token, Waiting { until, what });
        table.deadlines.insert((until, token));
        if table.wakes_at.is_none_or(|at| until < at) {
            drop(table);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("the waiter cannot be woken: {error}");
        }
    }

    /// Lets a connection linger that was refused without a permit.
    pub(super) fn linger_uncounted(&self, conn: Conn) {
        let left = LINGER_BYTES;
        self.add(What::Uncounted { conn, left }, Instant::now() + LINGER);
    }

    /// The thread: until everything is over after [`Waiter::end`].
    pub(super) fn run(self: &Arc<Self>, source: Source, workers: &Arc<Workers>) {
        let hold: Arc<dyn Hold> = Arc::<Self>::clone(self);
        let Source { mut poll } = source;
        let mut events = Events::with_capacity(EVENTS);
        let mut swept = false;
        loop {
            self.service.pulses.waiter.beat();
            let (timeout, sweeps) = {
                let mut table = self.table.lock();
                if table.stage == WaiterStage::Ended {
                    return;
                }
                let first = table.deadlines.first().map(|(at, _)| *at);
                let every = self.service.pulses.every;
                let pulse = every.map(|every| Instant::now() + every);
                table.wakes_at = first.into_iter().chain(pulse).min();
                let left = table
                    .wakes_at
                    .map(|at| at.saturating_duration_since(Instant::now()));
                match table.stage {
                    // A look at what has arrived until now, and only then idle ones are dropped.
                    WaiterStage::Draining if !swept => (Some(Duration::ZERO), true),
                    WaiterStage::Draining | WaiterStage::Running | WaiterStage::Ended => {
                        (left, false)
                    }
                }
            };
            match poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("waiting for connections failed: {error}");
                    return;
                }
            }
            // A full batch: there may be more that is no longer idle.
            let all_seen = events.iter().count() < EVENTS;
            for waiting in self.take_ready(&events) {
                self.guarded(|| match waiting.what {
                    What::Client(client) => workers.submit(client, &hold),
                    What::Lingering { .. } | What::Uncounted { .. } => self.read_away(waiting),
                });
            }
            for what in self.take_late() {
                self.guarded(|| self.give_up(what));
            }
            if sweeps && all_seen {
                self.drop_idle();
                swept = true;
            }
        }
    }

    /// A panic costs the connection at hand, never this thread: without it nobody is served.
    fn guarded(&self, act: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(act)).is_err() {
            self.ctx.metrics.panics.increment();
        }
    }

    fn take_ready(&self, events: &Events) -> Vec<Waiting> {
        let mut table = self.table.lock();
        let ready = events.iter().filter(|event| event.token() != WAKE);
        ready
            .filter_map(|event| table.remove(event.token().0, &self.registry))
            .collect()
    }

    fn take_late(&self) -> Vec<What> {
        let now = Instant::now();
        let mut late = Vec::new();
        let mut table = self.table.lock();
        while let Some((until, token)) = table.deadlines.first().copied() {
            if until > now {
                break;
            }
            late.extend(
                table
                    .remove(token, &self.registry)
                    .map(|waiting| waiting.what),
            );
        }
        late
    }

    /// A deadline has passed.
    fn give_up(&self, what: What) {
        match what {
            What::Client(client) if client.head_begun.is_some() => {
                match session::refuse(&self.ctx, client, &Refusal::HeadTimeout) {
                    Outcome::Park(client) | Outcome::Linger(client) => self.linger(client),
                    Outcome::Closed(_) | Outcome::Tunneled => {}
                }
            }
            // Idle for too long, or lingered enough: closed without a word.
            What::Client(_) | What::Lingering { .. } | What::Uncounted { .. } => {}
        }
    }

    /// Reads away what a client sends after its last answer, so that no reset overtakes the answer.
    fn read_away(&self, mut waiting: Waiting) {
        let (conn, left) = match &mut waiting.what {
            What::Client(_) => return,
            What::Lingering { client, left } => (&mut client.conn, left),
            What::Uncounted { conn, left } => (conn, left),
        };
        conn.consume(usize::MAX);
        match conn.receive_bulk(Wait::No) {
            Ok(Received::Bytes(count)) => {
                *left = left.saturating_sub(count as u64);
                conn.consume(usize::MAX);
                if *left == 0 {
                    return;
                }
            }
            Ok(Received::Nothing) => {}
            Ok(Received::End) | Err(_) => return,
        }
        conn.shrink();
        self.add(waiting.what, waiting.until);
    }

    /// After this, [`Waiter::add`] takes no idle ones any more.
    fn drop_idle(&self) {
        let mut table = self.table.lock();
        let idle: Vec<usize> = table
            .waiting
            .iter()
            .filter(|(_, waiting)| match &waiting.what {
                What::Client(client) => client.head_begun.is_none(),
                What::Lingering { .. } | What::Uncounted { .. } => false,
            })
            .map(|(token, _)| *token)
            .collect();
        let dropped: Vec<_> = idle
            .into_iter()
            .filter_map(|token| table.remove(token, &self.registry))
            .collect();
        drop(table);
        drop(dropped);
    }

    /// Closes idle connections from now on. What already sent something is still served.
    pub(super) fn drain(&self) {
        self.table.lock().stage = WaiterStage::Draining;
        self.wake();
    }

    /// Closes everything and ends the thread.
    pub(super) fn end(&self) {
        let mut table = self.table.lock();
        table.stage = WaiterStage::Ended;
        let waiting = std::mem::take(&mut table.waiting);
        table.deadlines.clear();
        drop(table);
        drop(waiting);
        self.wake();
    }

    /// Numbers for people.
    pub(super) fn counts(&self) -> WaiterCounts {
        let table = self.table.lock();
        let parked = table
            .waiting
            .values()
            .filter(|waiting| matches!(waiting.what, What::Client(_)))
            .count();
        WaiterCounts {
            parked,
            lingering: table.waiting.len() - parked - table.uncounted,
        }
    }
}

impl Hold for Waiter {
    fn park(&self, mut client: Client) {
        client.conn.shrink();
        let until = client.deadline(&self.ctx.snapshot(), Instant::now());
        self.add(What::Client(client), until);
    }

    fn linger(&self, client: Client) {
        let left = LINGER_BYTES;
        self.add(What::Lingering { client, left }, Instant::now() + LINGER);
    }
}

impl What {
    fn is_uncounted(&self) -> usize {
        match self {
            Self::Client(_) | Self::Lingering { .. } => 0,
            Self::Uncounted { .. } => 1,
        }
    }
}

impl Table {
    fn remove(&mut self, token: usize, registry: &Registry) -> Option<Waiting> {
        let waiting = self.waiting.remove(&token)?;
        self.deadlines.remove(&(waiting.until, token));
        self.uncounted -= waiting.what.is_uncounted();
        let fd = waiting.what.conn().stream().as_raw_fd();
        if let Err(error) = registry.deregister(&mut SourceFd(&fd)) {
            log::debug!("a connection was not watched: {error}");
        }
        Some(waiting)
    }
}
