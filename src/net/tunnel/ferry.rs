//! The ferry: one thread that carries the small messages of many tunnels.
//!
//! It never waits for a single socket. What one read takes and one write sends is carried here; a half
//! that has more, or whose receiver takes less, goes to a thread of its own. Where there is none to be had,
//! it is carried on here, a load at a time, and waits in [`Stuck`] for a receiver. The ferry also closes
//! tunnels that were idle for too long.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::net::log_limiter::LogLimiter;
use crate::net::readiness::Readiness;
use crate::net::socket;
use crate::net::threads;

use super::TunnelEnd;
use super::half::{Half, Haul, Pending, Step, Tunnel};
use super::stuck::Stuck;

/// What one read takes at most, in bytes: a whole TLS record with its frame fits.
const LOAD: usize = 16 * 1024 + 512;
/// Idle tunnels are looked for at most this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked whether a side that has sent its end was reset since: nobody reads from it.
const LOOK_AT_ENDED: Duration = Duration::from_secs(2);

/// Once there was no thread for a busy half, none is asked for that long.
const NO_THREAD_FOR: Duration = Duration::from_millis(100);

/// What is said when there is no thread.
static NO_THREAD: LogLimiter = LogLimiter::new();

/// The ferries of a server; started when the first tunnel is. None: the system has none, or could not
/// give any yet.
#[derive(Debug, Default)]
pub(super) struct Ferries {
    fleet: RwLock<Vec<Arc<Ferry>>>,
}

impl Ferries {
    /// Carries `half` from now on.
    ///
    /// # Errors
    /// When it cannot: the half comes back.
    pub(super) fn take(&self, half: Half) -> Result<(), Half> {
        if self.fleet.read().is_empty() {
            self.build();
        }
        match self.ferry_of(half.tunnel()) {
            Some(ferry) => ferry.take(half),
            None => Err(half),
        }
    }

    /// Carries on with a half for which there is no thread.
    ///
    /// # Errors
    /// When it cannot: the half comes back.
    pub(super) fn keep(&self, haul: Haul) -> Result<(), Haul> {
        if self.fleet.read().is_empty() {
            self.build();
        }
        match self.ferry_of(haul.tunnel()) {
            Some(ferry) => {
                ferry.keep(haul);
                ferry.readiness.wake();
                Ok(())
            }
            None => Err(haul),
        }
    }

    /// One half of `tunnel` has ended: what becomes of the side it read from is to be noticed.
    pub(super) fn look_after(&self, tunnel: &Tunnel) {
        if let Some(ferry) = self.ferry_of(tunnel) {
            ferry.look_within(LOOK_AT_ENDED);
        }
    }

    /// Both halves of a tunnel go the same way.
    fn ferry_of(&self, tunnel: &Tunnel) -> Option<Arc<Ferry>> {
        let fleet = self.fleet.read();
        let at = usize::try_from(tunnel.id).unwrap_or(0) % fleet.len().max(1);
        fleet.get(at).map(Arc::clone)
    }

    /// The halves from which something can be read right now.
    #[cfg(test)]
    pub(super) fn stirred(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for ferry in self.fleet.read().iter() {
            let mut ready = Vec::new();
            let waited = ferry.readiness.wait(&mut ready, Some(Duration::ZERO));
            waited.expect("the ferry waits, too");
            all.append(&mut ready);
        }
        all
    }

    fn build(&self) {
        let mut fleet = self.fleet.write();
        if fleet.is_empty() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            fleet.extend((0..cores.div_ceil(2)).map_while(|_| Ferry::start()));
        }
    }
}

impl Drop for Ferries {
    fn drop(&mut self) {
        for ferry in self.fleet.get_mut() {
            ferry.is_over.store(true, Ordering::Release);
            ferry.readiness.wake();
        }
    }
}

#[derive(Debug)]
struct Ferry {
    readiness: Readiness,
    halves: Mutex<Halves>,
    built: Instant,
    /// Milliseconds after `built` at which the next tunnel may have been idle for too long.
    look_at: AtomicU64,
    stuck: Stuck,
    is_over: AtomicBool,
}

/// The halves on board, by number. A number is a place and how often that place was given away before,
/// so that what is said of one half is never taken for word of the next.
#[derive(Debug, Default)]
struct Halves {
    places: Vec<(u32, Option<Half>)>,
    free: Vec<u32>,
}

impl Halves {
    fn put(&mut self, half: Half) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        match self.places.get_mut(place as usize) {
            Some((turn, slot)) => {
                *slot = Some(half);
                number(*turn, place)
            }
            None => number(0, place),
        }
    }

    /// Takes a half out for a moment; its place is kept.
    fn borrow(&mut self, number: u64) -> Option<Half> {
        let (turn, place) = parts(number);
        let (current, half) = self.places.get_mut(place as usize)?;
        half.take_if(|_| *current == turn)
    }

    /// Puts it back.
    fn give_back(&mut self, number: u64, half: Half) {
        if let Some((_, slot)) = self.places.get_mut(parts(number).1 as usize) {
            *slot = Some(half);
        }
    }

    /// Frees the place of a half that was taken out.
    fn leave(&mut self, number: u64) -> Option<Half> {
        let place = parts(number).1;
        let (turn, slot) = self.places.get_mut(place as usize)?;
        // Never the highest number there is: the place is never u32::MAX.
        *turn = turn.wrapping_add(1);
        self.free.push(place);
        slot.take()
    }
}

fn number(turn: u32, place: u32) -> u64 {
    u64::from(turn) << 32 | u64::from(place)
}

fn parts(number: u64) -> (u32, u32) {
    let place = number & u64::from(u32::MAX);
    (
        u32::try_from(number >> 32).unwrap_or(0),
        u32::try_from(place).unwrap_or(0),
    )
}

impl Ferry {
    fn start() -> Option<Arc<Self>> {
        let readiness = match Readiness::new() {
            Ok(readiness) => readiness,
            Err(error) => {
                log::debug!("tunnels need threads of their own: {error}");
                return None;
            }
        };
        let ferry = Arc::new(Self {
            readiness,
            halves: Mutex::default(),
            built: Instant::now(),
            look_at: AtomicU64::new(u64::MAX),
            stuck: Stuck::default(),
            is_over: AtomicBool::new(false),
        });
        let running = Arc::clone(&ferry);
        match threads::start("ferry", move || running.run()) {
            Ok(_ends_with_the_tunnels) => Some(ferry),
            Err(error) => {
                if let Some(more) = NO_THREAD.allow() {
                    log::warn!("no thread for the ferry: {error}{more}");
                }
                None
            }
        }
    }

    fn take(&self, half: Half) -> Result<(), Half> {
        let (tunnel, direction) = (Arc::clone(half.tunnel()), half.direction());
        let number = self.halves.lock().put(half);
        // Not before it is there, or a look in between would forget it.
        self.look_within(tunnel.patience_left());
        // From here on it may be served already, or even be over.
        if self.readiness.watch(tunnel.from(direction), number).is_ok() {
            return Ok(());
        }
        self.halves.lock().leave(number).map_or(Ok(()), Err)
    }

    /// Sees to it that somebody looks when `left` is over.
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

    fn run(&self) {
        let mut buffer = Vec::with_capacity(LOAD);
        let mut ready = Vec::new();
        let mut no_thread_since: Option<Instant> = None;
        while !self.is_over.load(Ordering::Acquire) {
            let limits = [self.time_to_look(), self.stuck.time_to_ask()];
            let limit = limits.into_iter().flatten().min();
            if let Err(error) = self.readiness.wait(&mut ready, limit) {
                log::error!("cannot wait for tunnels: {error}");
                return;
            }
            for number in ready.drain(..) {
                self.serve(number, &mut buffer, &mut no_thread_since);
            }
            if self.stuck.time_to_ask().is_some_and(|left| left.is_zero()) {
                for haul in self.stuck.ask() {
                    self.keep(haul);
                }
            }
            if self.time_to_look().is_some_and(|left| left.is_zero()) {
                self.close_idle();
            }
        }
    }

    /// How long until tunnels are to be looked at. `None`: nobody asked for it.
    fn time_to_look(&self) -> Option<Duration> {
        let at = self.look_at.load(Ordering::Acquire);
        (at != u64::MAX).then(|| Duration::from_millis(at).saturating_sub(self.built.elapsed()))
    }

    /// One socket can be read. `no_thread_since`: when there was none for a busy half.
    fn serve(&self, number: u64, buffer: &mut Vec<u8>, no_thread_since: &mut Option<Instant>) {
        let Some(half) = self.halves.lock().borrow(number) else {
            return;
        };
        let step = match catch_unwind(AssertUnwindSafe(|| half.ferry(buffer))) {
            Ok(step) => step,
            Err(_panic) => Step::Over(Err(TunnelEnd::Reset)),
        };
        match step {
            Step::Wait => self.halves.lock().give_back(number, half),
            Step::Busy(pending)
                if no_thread_since.is_some_and(|at| at.elapsed() < NO_THREAD_FOR) =>
            {
                self.stay(number, half, pending);
            }
            Step::Busy(pending) => {
                self.let_go(number, &half);
                if let Err((haul, error)) = half.haul(pending) {
                    *no_thread_since = Some(Instant::now());
                    if let Some(more) = NO_THREAD.allow() {
                        log::warn!(
                            "no thread for a busy tunnel, which is carried slowly: {error}{more}"
                        );
                    }
                    self.keep(haul);
                }
            }
            Step::Over(result) => {
                // Whoever else knows the tunnel keeps its sockets open: they would be told of for ever.
                self.let_go(number, &half);
                half.end(result);
            }
        }
    }

    /// A busy half stays, for there is no thread.
    fn stay(&self, number: u64, half: Half, pending: Pending) {
        if pending.is_empty() {
            self.halves.lock().give_back(number, half);
        } else {
            self.let_go(number, &half);
            self.stuck.push(half.with(pending));
        }
    }

    /// The same for one that was let go of.
    fn keep(&self, haul: Haul) {
        if !haul.is_empty() {
            self.stuck.push(haul);
        } else if let Err(half) = self.take(haul.into_half()) {
            half.end(Err(TunnelEnd::Reset));
        }
    }

    fn let_go(&self, number: u64, half: &Half) {
        self.readiness.forget(half.from());
        self.halves.lock().leave(number);
    }

    /// Closes what was idle for too long or has lost a side, and notes when to look again.
    fn close_idle(&self) {
        self.look_at.store(u64::MAX, Ordering::Release);
        let (mut over, mut ended) = (Vec::new(), Vec::new());
        let mut next = Duration::MAX;
        for half in self
            .halves
            .lock()
            .places
            .iter()
            .filter_map(|(_, half)| half.as_ref())
        {
            let left = half.tunnel().patience_left();
            if left.is_zero() {
                over.push((Arc::clone(half.tunnel()), half.direction()));
            } else if half.is_last() {
                ended.push((Arc::clone(half.tunnel()), half.direction()));
                next = next.min(left).min(LOOK_AT_ENDED);
            } else {
                next = next.min(left);
            }
        }
        for (tunnel, direction) in over {
            if tunnel.can_go_on(direction) {
                next = Duration::ZERO;
            } else {
                tunnel.stop(TunnelEnd::Idle);
            }
        }
        for (tunnel, direction) in ended {
            if socket::is_broken(tunnel.to(direction)) {
                tunnel.stop(TunnelEnd::Reset);
            }
        }
        if next < Duration::MAX {
            self.note(next.max(LOOK_EVERY));
        }
    }
}
