//! Event loops, which carry the small messages of many tunnels each.
//!
//! An event loop never waits for a single socket. What one read takes and one write sends is carried here,
//! and so is what a receiver does not take at once, when it takes it. A direction that has more to carry
//! goes to a thread of its own until it is quiet. Where there is none to be had, it is carried on here, one
//! read at a time. An event loop also closes tunnels that were idle for too long.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::log_limiter::LogLimiter;
use crate::net::permits::ClientPermit;
use crate::net::pipe::Pipes;
use crate::net::readiness::Readiness;
use crate::net::socket::Want;
use crate::net::thread_pool::ThreadPool;
use crate::net::threads::LongThreads;

use super::shared::{Tunnel, TunnelEnd};
use super::transfer::{Step, Transfer};

/// What one read takes at most, in bytes: a whole TLS record with its frame fits.
const LOAD: usize = 16 * 1024 + 512;
/// Idle tunnels are looked for at most this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often sides that are not read from at the moment are looked at: they may have been reset.
const LOOK_AT_UNREAD: Duration = Duration::from_secs(2);
/// Once there was no thread for a busy direction, none is asked for that long.
const NO_THREAD_FOR: Duration = Duration::from_millis(100);

/// What is said when there is no thread.
static NO_THREAD: LogLimiter = LogLimiter::new();

/// What threads for busy directions need.
#[derive(Debug)]
pub(super) struct Resources {
    pool: ThreadPool<BulkCopy>,
    threads: LongThreads,
    pipes: Arc<Pipes>,
}

impl Resources {
    /// Threads out of the budget `threads` move bytes through `pipes`.
    pub(super) fn new(threads: LongThreads, pipes: Arc<Pipes>) -> Self {
        Self {
            pool: ThreadPool::new("tunnel", threads.clone(), BulkCopy::run),
            threads,
            pipes,
        }
    }
}

/// Whether one that waits for `want` has a side that is not read from at the moment.
fn has_unread_side(tunnel: &Tunnel, want: Want) -> bool {
    tunnel.is_half_closed() || want == Want::Write
}

/// When to look at a direction that waits for `want`, at the latest.
fn time_to_look_at(tunnel: &Tunnel, want: Want) -> Duration {
    let left = tunnel.patience_left();
    if has_unread_side(tunnel, want) {
        left.min(LOOK_AT_UNREAD)
    } else {
        left
    }
}

/// A busy direction on its way to, and with, a thread of its own.
#[derive(Debug)]
struct BulkCopy {
    transfer: Transfer,
    event_loop: Arc<EventLoop>,
    _share: ClientPermit,
}

impl BulkCopy {
    fn run(self) {
        let (mut transfer, event_loop) = (self.transfer, self.event_loop);
        match transfer.copy(&event_loop.resources.pipes) {
            Ok(()) => event_loop.take(transfer),
            Err(end) => transfer.end(Err(end)),
        }
    }
}

/// One event loop.
#[derive(Debug)]
pub(super) struct EventLoop {
    readiness: Readiness,
    resources: Arc<Resources>,
    /// By number.
    transfers: Mutex<HashMap<u64, Transfer>>,
    built: Instant,
    /// Milliseconds after `built` at which the next tunnel may have been idle for too long.
    look_at: AtomicU64,
    is_over: AtomicBool,
    #[cfg(test)]
    breaks: AtomicBool,
}

impl EventLoop {
    /// One that carries nothing yet.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub(super) fn new(resources: Arc<Resources>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            readiness: Readiness::new()?,
            resources,
            transfers: Mutex::default(),
            built: Instant::now(),
            look_at: AtomicU64::new(u64::MAX),
            is_over: AtomicBool::new(false),
            #[cfg(test)]
            breaks: AtomicBool::new(false),
        }))
    }

    /// Carries `transfer` from now on.
    pub(super) fn take(&self, transfer: Transfer) {
        let (tunnel, direction) = (Arc::clone(transfer.tunnel()), transfer.direction());
        let (number, want) = (transfer.number(), transfer.wants());
        self.transfers.lock().insert(number, transfer);
        // Not before it is there, or a look in between would forget it.
        self.look_within(time_to_look_at(&tunnel, want));
        // From here on it may be served already, or even be over.
        let watched = self
            .readiness
            .watch(tunnel.socket(direction, want), want, number);
        if let Err(error) = watched {
            log::debug!("cannot wait for a tunnel: {error}");
            let ended = self.transfers.lock().remove(&number);
            drop(ended);
        }
    }

    /// Sees to it that there is a look when `left` is over.
    fn look_within(&self, left: Duration) {
        if self.note(left) {
            self.readiness.wake();
        }
    }

    /// Notes when to look; says whether that is earlier than it was.
    fn note(&self, left: Duration) -> bool {
        let at = (self.built.elapsed() + left).as_millis();
        let at = u64::try_from(at).unwrap_or(u64::MAX - 1) + 1;
        self.look_at.fetch_min(at, Ordering::AcqRel) > at
    }

    /// Ends [`EventLoop::run`].
    pub(super) fn finish(&self) {
        self.is_over.store(true, Ordering::Release);
        self.readiness.wake();
    }

    /// Carries what it has taken, until [`EventLoop::finish`].
    ///
    /// # Panics
    /// When the system cannot say which sockets are ready: its tunnels would hang.
    pub(super) fn run(self: &Arc<Self>) {
        let mut buffer = vec![0; LOAD];
        let mut ready = Vec::new();
        let mut no_thread_since: Option<Instant> = None;
        while !self.is_over.load(Ordering::Acquire) {
            if let Err(error) = self.readiness.wait(&mut ready, self.time_to_look()) {
                log::error!("cannot wait for tunnels: {error}");
                resume_unwind(Box::new(error));
            }
            for number in ready.drain(..) {
                // Dropped by a panic, a direction takes its tunnel with it, and no other.
                let serve = || self.serve(number, &mut buffer, &mut no_thread_since);
                if catch_unwind(AssertUnwindSafe(serve)).is_err() {
                    self.note(LOOK_AT_UNREAD);
                }
            }
            #[cfg(test)]
            assert!(!self.breaks.load(Ordering::Acquire), "on purpose");
            if self.time_to_look().is_some_and(|left| left.is_zero()) {
                self.look();
            }
        }
    }

    /// How long until tunnels are to be looked at. `None`: there is no need to.
    fn time_to_look(&self) -> Option<Duration> {
        let at = self.look_at.load(Ordering::Acquire);
        (at != u64::MAX).then(|| Duration::from_millis(at).saturating_sub(self.built.elapsed()))
    }

    /// One direction can go on. `no_thread_since`: when there was none for a busy one.
    fn serve(
        self: &Arc<Self>,
        number: u64,
        buffer: &mut [u8],
        no_thread_since: &mut Option<Instant>,
    ) {
        let Some(mut transfer) = self.transfers.lock().remove(&number) else {
            return;
        };
        let wanted = transfer.wants();
        let step = transfer.advance(buffer);
        let has_none = |since: &Instant| since.elapsed() < NO_THREAD_FOR;
        let stays = match step {
            Ok(Step::Wait) => transfer.wants() == wanted,
            Ok(Step::Busy) => no_thread_since.as_ref().is_some_and(has_none),
            Ok(Step::End) | Err(_) => false,
        };
        if stays {
            self.transfers.lock().insert(number, transfer);
            return;
        }
        // Also when it is over: others may know the tunnel for a while, and its sockets stay open that long.
        self.readiness.forget(transfer.socket(wanted), wanted);
        match step {
            Ok(Step::Wait) => self.take(transfer),
            Ok(Step::Busy) => self.lend_thread(transfer, no_thread_since),
            Ok(Step::End) => {
                let (tunnel, want) = (Arc::clone(transfer.tunnel()), transfer.wants());
                transfer.end(Ok(()));
                self.note(time_to_look_at(&tunnel, want));
            }
            Err(end) => transfer.end(Err(end)),
        }
    }

    /// Gives a busy direction to a thread, if there is one for this client.
    fn lend_thread(self: &Arc<Self>, transfer: Transfer, no_thread_since: &mut Option<Instant>) {
        let Some(share) = self.resources.threads.share(transfer.tunnel().owner) else {
            return self.take(transfer);
        };
        let copy = BulkCopy {
            transfer,
            event_loop: Arc::clone(self),
            _share: share,
        };
        if let Err((copy, error)) = self.resources.pool.run(copy) {
            *no_thread_since = Some(Instant::now());
            if let Some(more) = NO_THREAD.allow() {
                log::warn!("no thread for a busy tunnel, which is carried slowly: {error}{more}");
            }
            self.take(copy.transfer);
        }
    }

    /// Closes what was idle for too long or has lost a side, and notes when to look again.
    fn look(&self) {
        self.look_at.store(u64::MAX, Ordering::Release);
        let (mut idle, mut unread) = (Vec::new(), Vec::new());
        let mut next = Duration::MAX;
        for transfer in self.transfers.lock().values() {
            let tunnel = transfer.tunnel();
            let want = transfer.wants();
            if tunnel.patience_left().is_zero() {
                idle.push((Arc::clone(tunnel), transfer.direction()));
                continue;
            }
            next = next.min(time_to_look_at(tunnel, want));
            if has_unread_side(tunnel, want) {
                unread.push(Arc::clone(tunnel));
            }
        }
        for (tunnel, direction) in idle {
            if tunnel.can_go_on(direction) {
                next = Duration::ZERO;
            } else {
                tunnel.stop(TunnelEnd::Idle);
            }
        }
        for tunnel in unread {
            if tunnel.is_broken() {
                tunnel.stop(TunnelEnd::Reset);
            }
        }
        if next < Duration::MAX {
            self.note(next.max(LOOK_EVERY));
        }
    }

    /// Has [`EventLoop::run`] panic.
    #[cfg(test)]
    pub(super) fn break_down(&self) {
        self.breaks.store(true, Ordering::Release);
        self.readiness.wake();
    }

    /// The directions that can go on right now.
    #[cfg(test)]
    pub(super) fn ready(&self) -> Vec<u64> {
        let mut ready = Vec::new();
        let waited = self.readiness.wait(&mut ready, Some(Duration::ZERO));
        waited.expect("the event loop waits, too");
        ready
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::shared::{Direction, Meter, Patience, Uncounted};
    use super::*;
    use crate::net::socket::tests::pair;

    /// Its other side is not read from any more, and may have been reset.
    #[test]
    fn a_direction_that_was_busy_while_the_other_ended_is_looked_at_soon() {
        let hour = Duration::from_secs(3600);
        let resources = Resources::new(LongThreads::of(0), Pipes::at_most(1));
        let event_loop = EventLoop::new(Arc::new(resources)).unwrap();
        let ((client, _far_client), (hop, _far_hop)) = (pair(), pair());
        let patience = Patience {
            idle: hour,
            half_closed: hour,
        };
        let how = (patience, Arc::new(Uncounted) as Arc<dyn Meter>);
        let owner = IpAddr::from([127, 0, 0, 1]);
        let tunnel = Tunnel::new((0, owner), (client, hop), how, Box::new(|_totals| {}));
        Transfer::new(&tunnel, Direction::ToHop, &[]).end(Ok(()));
        event_loop.take(Transfer::new(&tunnel, Direction::ToClient, &[]));
        assert!(
            event_loop
                .time_to_look()
                .is_some_and(|left| left < 2 * LOOK_AT_UNREAD)
        );
    }
}
