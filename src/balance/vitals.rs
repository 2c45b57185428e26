//! What is known about an upstream while it works: state, load, latency, errors, counts.
//!
//! [`Vitals`] belong to an upstream (its address and user: [`super::succession`]), not to a line of the file, so
//! they outlive a reload. All threads write to them: numbers are atomics; the state machine is behind a small lock
//! which is taken when something changes, and its result is published in one atomic word, so that
//! neither a choice among many upstreams nor an answer as it should be takes a lock.
//!
//! Not here: the rules of the state machine ([`super::state`]).

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connect::ConnectRecord;
use super::latency::LastLatencies;
use super::majority::Majority;
use super::reason::{Depth, Doubt};
use super::state::{
    Availability, Change, CheckVerdict, Epoch, Health, StateMachine, Thresholds, UpstreamState,
    is_gateway_error,
};

/// The latency of an upstream that was never measured.
const UNMEASURED: u64 = u64::MAX;

/// The share of an upstream that takes all of its turns, in percent.
const WARM: u32 = 100;

/// The most requests of an upstream that takes any number.
const UNLIMITED: u64 = u64::MAX;

/// The weight of an upstream for which nobody has set another one.
const AS_IN_FILE: u64 = u64::MAX;

/// A share of errors of 1, in the unit that it is kept in.
const ALL_ERRORS: u64 = 1_000_000;

/// Between two trials of one upstream that is offline.
const BETWEEN_TRIALS: Duration = Duration::from_secs(1);

/// Bits of the published word that hold the [`Availability`] and [`HEEDS`]; the epoch is above them.
const STATE_BITS: u32 = 3;

/// Set in the published word while good evidence would change something.
const HEEDS: u64 = 1 << 2;

/// State, load, latency and counts of one upstream. It starts online.
#[derive(Debug)]
pub struct Vitals {
    id: UpstreamId,
    /// Epoch, availability and [`HEEDS`], written under the lock of `state`.
    published: AtomicU64,
    /// [`StateMachine::failures`], written under the lock of `state`.
    failures: AtomicU64,
    active: AtomicU64,
    /// How many there may be, or [`UNLIMITED`].
    most: AtomicU64,
    /// In microseconds, or [`UNMEASURED`].
    latency: AtomicU64,
    last_latencies: LastLatencies,
    /// The moving share of attempts that failed or were answered with an error, of [`ALL_ERRORS`].
    errors: AtomicU64,
    /// How many checks have shown that an answer is waited for in vain.
    given_up: AtomicU64,
    wants_check: AtomicBool,
    drained: AtomicBool,
    /// What an operator has set at run time, or [`AS_IN_FILE`].
    weight: AtomicU64,
    /// How often an operator has cut it.
    cuts: AtomicU64,
    /// The share of its turns that it takes, in percent, and what it has of the next one.
    warmth: AtomicU32,
    saved: AtomicU32,
    /// The epoch that [`Vitals::warm_up`] saw last, and when that began, if it saw it begin.
    came_back: Mutex<Option<(Epoch, Option<Instant>)>>,
    state: Mutex<StateMachine>,
    /// The evidence for the state as it is, for people.
    evidence: Mutex<Box<str>>,
    trial: Mutex<Trial>,
    /// [`ConnectRecord::is_lacking`], written under the lock of `connect`.
    lacks_connect: AtomicBool,
    connect: Mutex<ConnectRecord>,
    /// When a check first found that it works, and how many microseconds later one did so last: read for each
    /// request that is waited for.
    first_worked: OnceLock<Instant>,
    worked_after: AtomicU64,
    /// Of clients whose requests keep to it.
    kept_errors: Mutex<Majority>,
    /// Counts since the start, for metrics.
    pub counters: Counters,
}

/// Requests sent to an upstream that is offline, to see whether it works.
#[derive(Default, Debug)]
struct Trial {
    last: Option<Instant>,
    is_under_way: bool,
}

/// How often an upstream came into service, left it or got another weight, of all pools.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Whether an upstream was ever thought to have no CONNECT.
static MAY_LACK_CONNECT: AtomicBool = AtomicBool::new(false);

/// Whether it makes sense to look for upstreams without CONNECT.
pub(super) fn may_lack_connect() -> bool {
    MAY_LACK_CONNECT.load(Ordering::Relaxed)
}

/// Another number once an upstream came into service, left it or got another weight.
pub(super) fn changes() -> u64 {
    CHANGES.load(Ordering::Acquire)
}

/// Identity of an upstream, kept over reloads, never used twice in a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UpstreamId(u64);

/// How often an operator has cut an upstream. What began at another number is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cuts(u64);

/// Counts of one upstream since the start. Those that [`Vitals`] does not count itself are counted
/// by the module that does the thing.
#[derive(Default, Debug)]
pub struct Counters {
    /// Final response heads of any status.
    pub responses: AtomicU64,
    /// Failures and doubts.
    pub faults: AtomicU64,
    /// Changes from online to suspect.
    pub suspected: AtomicU64,
    /// Attempts that ended with a response passed on, or with a tunnel (counted by the caller).
    pub attempts_answered: AtomicU64,
    /// Attempts that failed, by whose fault ever (counted by the caller).
    pub attempts_failed: AtomicU64,
    /// Attempts given up for the client's or this proxy's sake (counted by the caller).
    pub attempts_given_up: AtomicU64,
    /// Final responses 502, 503 and 504.
    pub gateway_errors: AtomicU64,
    /// Attempts made here because one elsewhere had failed, or took its time to connect (counted by the
    /// caller).
    pub retries: AtomicU64,
    /// Checks that found it working.
    pub probes_ok: AtomicU64,
    /// Checks that did not.
    pub probes_failed: AtomicU64,
    /// Changes from online or suspect to offline.
    pub went_offline: AtomicU64,
    /// Changes from offline to online.
    pub came_online: AtomicU64,
    /// Connections made for attempts (counted by the caller).
    pub connections_opened: AtomicU64,
    /// Attempts on a connection that was idle before (counted by the caller).
    pub connections_reused: AtomicU64,
    /// Times it was seen to send bytes that no request had asked for (counted by the caller).
    pub strays: AtomicU64,
    /// Attempts that failed on a connection that was idle before (counted by the caller).
    pub reuse_broken: AtomicU64,
    /// Bytes written to it (counted by the caller).
    pub bytes_sent: AtomicU64,
    /// Bytes read from it (counted by the caller).
    pub bytes_received: AtomicU64,
}

/// An upstream of which nothing is known.
impl Default for Vitals {
    fn default() -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let state = StateMachine::default();
        Self {
            id: UpstreamId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            published: AtomicU64::new(word(&state)),
            failures: AtomicU64::new(0),
            active: AtomicU64::new(0),
            most: AtomicU64::new(UNLIMITED),
            latency: AtomicU64::new(UNMEASURED),
            last_latencies: LastLatencies::default(),
            errors: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            // Every upstream is checked once when it is new.
            wants_check: AtomicBool::new(true),
            drained: AtomicBool::new(false),
            weight: AtomicU64::new(AS_IN_FILE),
            cuts: AtomicU64::new(0),
            warmth: AtomicU32::new(WARM),
            saved: AtomicU32::new(0),
            came_back: Mutex::default(),
            state: Mutex::new(state),
            evidence: Mutex::default(),
            trial: Mutex::default(),
            lacks_connect: AtomicBool::new(false),
            connect: Mutex::default(),
            first_worked: OnceLock::new(),
            worked_after: AtomicU64::new(0),
            kept_errors: Mutex::default(),
            counters: Counters::default(),
        }
    }
}

impl Vitals {
    /// Its identity.
    pub fn id(&self) -> UpstreamId {
        self.id
    }

    /// Online, suspect or offline.
    pub fn availability(&self) -> Availability {
        match self.published.load(Ordering::Acquire) & 3 {
            0 => Availability::Online,
            1 => Availability::Suspect,
            _ => Availability::Offline,
        }
    }

    /// Whether no requests go there (trials left out).
    pub fn is_offline(&self) -> bool {
        self.availability() == Availability::Offline
    }

    /// State, reason and since when, all of the same moment.
    pub fn state(&self) -> UpstreamState {
        self.state.lock().shown()
    }

    /// The evidence for the state, in words; empty while nothing was seen yet.
    pub fn evidence(&self) -> Box<str> {
        self.evidence.lock().clone()
    }

    /// Notes it.
    pub fn set_evidence(&self, words: &str) {
        *self.evidence.lock() = words.into();
    }

    /// The span without a change between offline and not that lasts now. An attempt takes it along.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.published.load(Ordering::Acquire) >> STATE_BITS)
    }

    /// Leases not yet given back.
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Moving average (α = 0.25) of the time to the first byte of a response head, in steps of a
    /// microsecond; none: never measured.
    pub fn latency(&self) -> Option<Duration> {
        self.latency_us().map(Duration::from_micros)
    }

    /// What 95 % of the last answers and failures took at most; none: there were none.
    pub fn latency_p95(&self) -> Option<Duration> {
        self.last_latencies.p95()
    }

    pub(super) fn latency_us(&self) -> Option<u64> {
        match self.latency.load(Ordering::Relaxed) {
            UNMEASURED => None,
            micros => Some(micros),
        }
    }

    /// Moving share (α = 0.25) of attempts that failed or were answered with 403, 407, 429 or 5xx, in
    /// millionths.
    pub fn errors_millionths(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Failures in a row, of attempts to connect and of checks.
    pub fn consecutive_failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// A final response head came `latency` after the attempt began. An error is no proof of speed: as a
    /// sample it counts what it took or `average`, that of the pool, whichever is larger.
    pub fn answered(
        &self,
        latency: Duration,
        status: u16,
        average: impl FnOnce() -> Option<Duration>,
    ) {
        count(&self.counters.responses);
        if is_error(status) {
            self.sample(latency.max(average().unwrap_or_default()));
            self.sample_error(ALL_ERRORS);
        } else {
            self.sample(latency);
            self.sample_error(0);
        }
        if is_gateway_error(status) {
            count(&self.counters.gateway_errors);
        }
    }

    /// An attempt failed `elapsed` after it began. As [`Vitals::answered`] with an error.
    pub fn failed(&self, elapsed: Duration, average: impl FnOnce() -> Option<Duration>) {
        count(&self.counters.faults);
        self.sample(elapsed.max(average().unwrap_or_default()));
        self.sample_error(ALL_ERRORS);
    }

    /// An exchange that began in `began` got what only a working upstream gives: a final response that is
    /// no gateway error and asks for no credentials, or a byte through a tunnel. `now_unix_ms`:
    /// milliseconds since 1970, asked for only if something changes.
    pub fn good(&self, began: Epoch, now_unix_ms: impl FnOnce() -> u64) -> Option<Change> {
        if self.published.load(Ordering::Relaxed) & HEEDS == 0 {
            return None;
        }
        let now = now_unix_ms();
        self.change(|state| state.good(began, now))
    }

    /// An attempt that began in `began` could not connect; `fall` (from 1) of them in a row take the
    /// upstream offline. The caller wakes the prober after a change.
    pub fn cannot_connect(
        &self,
        began: Epoch,
        what: &'static str,
        fall: u32,
        now_unix_ms: u64,
    ) -> Option<Change> {
        self.change(|state| state.cannot_connect(began, what, fall, now_unix_ms))
    }

    /// Something was seen in an exchange that began in `began` that may be the fault of the upstream: it is
    /// a suspect until a check has decided. The caller wakes the prober after a change. Of one that is offline
    /// the next check is due at once, for its verdict ends the wait of a trial.
    pub fn doubt(&self, began: Epoch, doubt: Doubt) -> Option<Change> {
        if self.is_offline() && doubt == Doubt::Silent {
            self.want_check();
        }
        self.change(|state| state.doubt(began, doubt))
    }

    /// A gateway error; `target_hash` tells targets apart. The third in a row, if they were for at least
    /// two targets, is a doubt.
    pub fn gateway_error(&self, began: Epoch, target_hash: u64) -> Option<Change> {
        self.change(|state| state.gateway_error(began, target_hash))
    }

    /// A gateway error was the answer to a client whose requests keep to this upstream; `client_hash` tells
    /// clients apart.
    pub fn gateway_error_of(&self, client_hash: u64) {
        self.kept_errors.lock().count(client_hash);
    }

    /// How many of those since the last call are one client's alone: see [`super::majority`].
    pub fn take_errors_of_one(&self) -> u64 {
        self.kept_errors.lock().take_excess()
    }

    /// It opened a tunnel at `now`. Says whether it was thought to have no CONNECT.
    pub(super) fn opened_tunnel(&self, now: Instant) -> bool {
        let mut connect = self.connect.lock();
        let is_news = connect.opened(now);
        self.lacks_connect.store(false, Ordering::Relaxed);
        is_news
    }

    /// It refused by `now` a tunnel that another upstream opened; `target_hash` tells targets apart. Says
    /// whether it is thought to have no CONNECT from now on.
    pub(super) fn refused_tunnel(&self, target_hash: u64, now: Instant) -> bool {
        let mut connect = self.connect.lock();
        let is_news = connect.refused(target_hash, now);
        MAY_LACK_CONNECT.fetch_or(connect.is_lacking(), Ordering::Relaxed);
        self.lacks_connect
            .store(connect.is_lacking(), Ordering::Relaxed);
        is_news
    }

    /// Whether it is thought to have no CONNECT: others get the tunnels.
    pub fn lacks_connect(&self) -> bool {
        self.lacks_connect.load(Ordering::Relaxed)
    }

    /// Whether it may be asked for a tunnel at `now` as others are.
    pub(super) fn may_be_asked_for_tunnel(&self, now: Instant) -> bool {
        !self.lacks_connect() || self.connect.lock().may_be_asked(now)
    }

    /// It is asked for a tunnel at `now`.
    pub(super) fn asked_for_tunnel(&self, now: Instant) {
        if self.lacks_connect() {
            self.connect.lock().ask(now);
        }
    }

    /// Asks for a check at once, whatever the state.
    pub fn want_check(&self) {
        self.wants_check.store(true, Ordering::Release);
    }

    /// Whether a check was asked for since the last call.
    pub fn take_wanted_check(&self) -> bool {
        self.wants_check.load(Ordering::Relaxed) && self.wants_check.swap(false, Ordering::AcqRel)
    }

    /// A check begins: how deep it must go. It ends with [`Vitals::check_ended`] or
    /// [`Vitals::check_abandoned`].
    pub fn check_begins(&self) -> (Epoch, Depth) {
        self.with_state(|state| (state.check_begins(), state.needed()))
    }

    /// It could not be carried out, for no fault of the upstream.
    pub fn check_abandoned(&self) {
        self.with_state(StateMachine::check_abandoned);
    }

    /// The check that began in `began` has come to its end. `now_unix_ms`: milliseconds since 1970.
    pub fn check_ended(
        &self,
        began: Epoch,
        verdict: CheckVerdict,
        thresholds: Thresholds,
        now_unix_ms: u64,
    ) -> Option<Change> {
        count(match verdict {
            CheckVerdict::Works(_) => &self.counters.probes_ok,
            CheckVerdict::Fails(_) => &self.counters.probes_failed,
        });
        self.change(|state| state.check_ended(began, verdict, thresholds, now_unix_ms))
    }

    /// A check has found at `now` that it works.
    pub fn works(&self, now: Instant) {
        let first = *self.first_worked.get_or_init(|| now);
        let after = now.saturating_duration_since(first).as_micros();
        let after = u64::try_from(after).unwrap_or(u64::MAX);
        self.worked_after.store(after, Ordering::Relaxed);
    }

    /// Since when a request that waits since `since` has not heard of it: a check may have heard of it later.
    pub fn silent_since(&self, since: Instant) -> Instant {
        let Some(first) = self.first_worked.get() else {
            return since;
        };
        let after = Duration::from_micros(self.worked_after.load(Ordering::Relaxed));
        let last = first.checked_add(after);
        last.map_or(since, |last| last.max(since))
    }

    /// It fails what others serve, seen in the epoch `began` while no probe can tell.
    pub fn eject(&self, began: Epoch, now_unix_ms: u64) -> Option<Change> {
        self.change(|state| state.eject(began, now_unix_ms))
    }

    /// Requests that wait for an answer of this upstream, if it is offline, wait in vain:
    /// [`super::upstream::Lease::is_lost`].
    pub fn give_up_waiting(&self) {
        if self.is_offline() {
            self.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn times_given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// No new requests from now on, until [`Vitals::enable`]. Kept over a reload.
    pub fn drain(&self) {
        self.drained.store(true, Ordering::Release);
        CHANGES.fetch_add(1, Ordering::Release);
    }

    /// Ends [`Vitals::drain`].
    pub fn enable(&self) {
        self.drained.store(false, Ordering::Release);
        CHANGES.fetch_add(1, Ordering::Release);
    }

    /// Whether it was drained at run time. A weight of 0 in the file is another matter, with the
    /// same effect.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Gives it another weight than the file does, until [`Vitals::forget_weight`]. Kept over a reload that leaves
    /// the weight in the file as it was.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight.into(), Ordering::Release);
        CHANGES.fetch_add(1, Ordering::Release);
    }

    /// The weight in the file counts again.
    pub fn forget_weight(&self) {
        self.weight.store(AS_IN_FILE, Ordering::Release);
        CHANGES.fetch_add(1, Ordering::Release);
    }

    /// The weight that was set at run time.
    pub(super) fn weight_set(&self) -> Option<u32> {
        u32::try_from(self.weight.load(Ordering::Relaxed)).ok()
    }

    /// What goes on at it now is to end: whatever began before sees another number in [`Vitals::cuts`].
    pub fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Release);
    }

    /// How often an operator has cut it.
    pub fn cuts(&self) -> Cuts {
        Cuts(self.cuts.load(Ordering::Acquire))
    }

    /// Whether it may be tried at `now` although it is offline.
    pub(super) fn may_be_tried(&self, now: Instant) -> bool {
        let trial = self.trial.lock();
        let is_due = trial.last.is_none_or(|last| last + BETWEEN_TRIALS <= now);
        is_due && !trial.is_under_way
    }

    /// When it was last tried so.
    pub(super) fn last_trial(&self) -> Option<Instant> {
        self.trial.lock().last
    }

    pub(super) fn trial_begins(&self, now: Instant) {
        *self.trial.lock() = Trial {
            last: Some(now),
            is_under_way: true,
        };
    }

    pub(super) fn trial_ends(&self) {
        self.trial.lock().is_under_way = false;
    }

    /// For `time` after it came back it takes a share of its turns that grows; to be called again and again. It
    /// is seen to come back by then at `now`. Says whether the share still grows.
    pub(super) fn warm_up(&self, now: Instant, time: Duration) -> bool {
        let epoch = self.epoch();
        let mut came_back = self.came_back.lock();
        let since = match *came_back {
            Some((known, since)) if known == epoch => since,
            Some(_) if !epoch.is_offline() => Some(now),
            Some(_) | None => None,
        };
        *came_back = Some((epoch, since));
        let gone = since.map(|since| now.saturating_duration_since(since));
        let percent = match gone {
            Some(gone) if gone < time => {
                let percent = gone.as_secs_f64() / time.as_secs_f64() * f64::from(WARM);
                (1..WARM).rev().find(|one| f64::from(*one) <= percent)
            }
            Some(_) | None => Some(WARM),
        };
        let percent = percent.unwrap_or(1);
        self.warmth.store(percent, Ordering::Relaxed);
        percent < WARM
    }

    /// The share of its turns that it takes, in percent.
    pub fn warmth(&self) -> u32 {
        self.warmth.load(Ordering::Relaxed)
    }

    /// Whether it has been back for so short a time that it does not take all of its turns.
    pub(super) fn is_warming_up(&self) -> bool {
        self.warmth() < WARM
    }

    /// It is its turn: whether it lets that pass.
    pub(super) fn sits_out(&self) -> bool {
        let warmth = self.warmth();
        if warmth >= WARM {
            return false;
        }
        let relaxed = Ordering::Relaxed;
        let more = |saved: u32| Some((saved + warmth) % WARM);
        let saved = self.saved.fetch_update(relaxed, relaxed, more);
        saved.unwrap_or(0) + warmth < WARM
    }

    /// From now on it may have so many leases at a time; those it has stay.
    pub(super) fn limit(&self, most: Option<NonZeroU32>) {
        let most = most.map_or(UNLIMITED, |most| u64::from(most.get()));
        self.most.store(most, Ordering::Relaxed);
    }

    /// Whether there is an end to what it takes at a time.
    pub(super) fn is_limited(&self) -> bool {
        self.most.load(Ordering::Relaxed) != UNLIMITED
    }

    /// Whether it has as many leases as it may.
    pub fn is_full(&self) -> bool {
        self.is_limited() && self.most.load(Ordering::Relaxed) <= self.active()
    }

    /// Whether it has more, as it may after a reload.
    pub(super) fn is_overfull(&self) -> bool {
        self.most.load(Ordering::Relaxed) < self.active()
    }

    /// One more, if it has room.
    pub(super) fn begin(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        if most == UNLIMITED {
            self.active.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let more = |active: u64| (active < most).then_some(active + 1);
        let relaxed = Ordering::Relaxed;
        self.active.fetch_update(relaxed, relaxed, more).is_ok()
    }

    pub(super) fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Publishes what an event makes of the state.
    fn with_state<T>(&self, event: impl FnOnce(&mut StateMachine) -> T) -> T {
        let mut state = self.state.lock();
        let was_offline = state.epoch.is_offline();
        let result = event(&mut state);
        self.published.store(word(&state), Ordering::Release);
        if state.epoch.is_offline() != was_offline {
            CHANGES.fetch_add(1, Ordering::Release);
        }
        let failures = u64::from(state.failures());
        self.failures.store(failures, Ordering::Relaxed);
        result
    }

    fn change(&self, event: impl FnOnce(&mut StateMachine) -> Option<Change>) -> Option<Change> {
        let change = self.with_state(event);
        if let Some(change) = &change {
            match (change.from, change.to) {
                (_, Health::Offline(_)) => count(&self.counters.went_offline),
                (Availability::Offline, _) => count(&self.counters.came_online),
                (_, Health::Suspect(_)) => count(&self.counters.suspected),
                (_, Health::Online) => {}
            }
        }
        change
    }

    fn sample(&self, latency: Duration) {
        let sample = micros(latency);
        self.last_latencies.add(sample);
        update(&self.latency, |known| match known {
            UNMEASURED => sample,
            current => quarter_of_the_way(current, sample),
        });
    }

    fn sample_error(&self, sample: u64) {
        if self.errors.load(Ordering::Relaxed) != sample {
            update(&self.errors, |known| {
                let average = quarter_of_the_way(known, sample);
                // The last millionths never go by quarters.
                if average == known { sample } else { average }
            });
        }
    }
}

/// Whether an answer of this status may as well be the work of an upstream that cannot serve.
fn is_error(status: u16) -> bool {
    matches!(status, 403 | 407 | 429 | 500..)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn update(average: &AtomicU64, next: impl Fn(u64) -> u64) {
    let always = |known| Some(next(known));
    let _known = average.fetch_update(Ordering::Relaxed, Ordering::Relaxed, always);
}

/// Moves an average to the sample by a quarter of the way (α = 0.25).
fn quarter_of_the_way(current: u64, sample: u64) -> u64 {
    let sum = u128::from(current) * 3 + u128::from(sample) + 2;
    u64::try_from(sum / 4).unwrap_or(UNMEASURED - 1)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .min(UNMEASURED - 1)
}

fn word(state: &StateMachine) -> u64 {
    let availability = match state.health {
        Health::Online => 0,
        Health::Suspect(_) => 1,
        Health::Offline(_) => 2,
    };
    let heeds = u64::from(state.heeds_good_evidence()) * HEEDS;
    state.epoch.0 << STATE_BITS | heeds | availability
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::balance::reason::OfflineReason;

    const REFUSED: &str = "connection refused";
    const ONCE: Thresholds = Thresholds { fall: 1, rise: 1 };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn latency_us(vitals: &Vitals) -> Option<u128> {
        vitals.latency().map(|latency| latency.as_micros())
    }

    fn fail(vitals: &Vitals, fall: u32) -> Option<Change> {
        vitals.cannot_connect(vitals.epoch(), REFUSED, fall, 0)
    }

    #[test]
    fn one_never_measured_has_no_latency() {
        assert_eq!(Vitals::default().latency(), None);
    }

    #[test]
    fn the_average_moves_by_a_quarter() {
        let vitals = Vitals::default();
        vitals.answered(ms(100), 200, || None);
        assert_eq!(latency_us(&vitals), Some(100_000));
        vitals.answered(ms(200), 404, || None);
        assert_eq!(latency_us(&vitals), Some(125_000));
        vitals.answered(Duration::from_micros(1), 200, || None);
        assert_eq!(latency_us(&vitals), Some(93_750));
    }

    #[test]
    fn a_latency_of_nothing_is_a_measurement() {
        let vitals = Vitals::default();
        vitals.answered(Duration::ZERO, 200, || None);
        assert_eq!(vitals.latency(), Some(Duration::ZERO));
    }

    #[test]
    fn an_endless_latency_is_bounded() {
        let vitals = Vitals::default();
        vitals.answered(Duration::MAX, 200, || None);
        vitals.answered(Duration::MAX, 200, || None);
        assert_eq!(latency_us(&vitals), Some(u128::from(UNMEASURED - 1)));
    }

    #[test]
    fn an_error_counts_as_its_time_or_that_of_the_pool_whichever_is_larger() {
        for status in [403, 407, 429, 500, 502, 599] {
            let vitals = Vitals::default();
            vitals.answered(ms(1), status, || Some(ms(100)));
            assert_eq!(latency_us(&vitals), Some(100_000), "{status}");
            vitals.answered(ms(500), status, || Some(ms(100)));
            assert_eq!(latency_us(&vitals), Some(200_000), "{status}");
        }
        let vitals = Vitals::default();
        vitals.failed(ms(7), || None);
        assert_eq!(latency_us(&vitals), Some(7_000));
    }

    #[test]
    fn the_share_of_errors_moves_by_a_quarter_and_comes_back_to_nothing() {
        let vitals = Vitals::default();
        vitals.answered(ms(1), 403, || None);
        assert_eq!(vitals.errors_millionths(), 250_000);
        vitals.failed(ms(1), || None);
        assert_eq!(vitals.errors_millionths(), 437_500);
        for _ in 0..60 {
            vitals.answered(ms(1), 200, || None);
        }
        assert_eq!(vitals.errors_millionths(), 0);
        for _ in 0..60 {
            vitals.answered(ms(1), 502, || None);
        }
        assert_eq!(vitals.errors_millionths(), ALL_ERRORS);
    }

    #[test]
    fn good_evidence_ends_a_row_of_failures() {
        let vitals = Vitals::default();
        assert!(
            fail(&vitals, 2)
                .is_some_and(|change| change.to.availability() == Availability::Suspect)
        );
        assert_eq!(vitals.consecutive_failures(), 1);
        vitals.good(vitals.epoch(), || 0);
        assert_eq!(vitals.consecutive_failures(), 0);
        fail(&vitals, 2);
        assert!(!vitals.is_offline());
    }

    #[test]
    fn good_evidence_about_a_well_upstream_does_not_ask_for_the_time() {
        let vitals = Vitals::default();
        assert!(vitals.good(vitals.epoch(), || panic!("asked")).is_none());
    }

    #[test]
    fn a_new_upstream_wants_a_check_and_each_wish_is_taken_once() {
        let vitals = Vitals::default();
        assert!(vitals.take_wanted_check());
        assert!(!vitals.take_wanted_check());
        vitals.want_check();
        vitals.want_check();
        assert!(vitals.take_wanted_check());
        assert!(!vitals.take_wanted_check());
    }

    #[test]
    fn who_waits_has_heard_of_it_when_a_check_has() {
        let (vitals, asked) = (Vitals::default(), Instant::now());
        assert_eq!(vitals.silent_since(asked), asked);
        vitals.works(asked + ms(5));
        assert_eq!(vitals.silent_since(asked), asked + ms(5));
        assert_eq!(vitals.silent_since(asked + ms(9)), asked + ms(9));
    }

    #[test]
    fn what_is_published_follows_the_state() {
        let vitals = Vitals::default();
        let began = vitals.epoch();
        assert_eq!(vitals.availability(), Availability::Online);
        vitals.doubt(began, Doubt::Silent);
        assert_eq!(vitals.availability(), Availability::Suspect);
        let (check, depth) = vitals.check_begins();
        assert_eq!((check, depth), (began, Depth::Probe));
        vitals.check_ended(check, CheckVerdict::Fails(OfflineReason::Silent), ONCE, 7);
        assert!(vitals.is_offline());
        assert_ne!(vitals.epoch(), began);
        assert_eq!(vitals.state().reason, Some(OfflineReason::Silent));
        assert_eq!(vitals.state().since_unix_ms, Some(7));
        let (check, _) = vitals.check_begins();
        vitals.check_ended(check, CheckVerdict::Works(Depth::Probe), ONCE, 9);
        assert_eq!(vitals.availability(), Availability::Online);
        let counters = &vitals.counters;
        let counted = [
            &counters.suspected,
            &counters.went_offline,
            &counters.came_online,
        ];
        assert_eq!(
            counted.map(|counter| counter.load(Ordering::Relaxed)),
            [1, 1, 1]
        );
    }

    #[test]
    fn failures_of_many_threads_at_once_are_one_change() {
        let vitals = Vitals::default();
        let began = vitals.epoch();
        let changes = std::thread::scope(|scope| {
            let fail = || vitals.cannot_connect(began, REFUSED, 1, 0).is_some();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(fail)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .filter(|changed| *changed)
                .count()
        });
        assert_eq!(changes, 1);
        assert_eq!(vitals.counters.went_offline.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn two_upstreams_are_never_the_same() {
        assert_ne!(Vitals::default().id(), Vitals::default().id());
    }
}
