//! What is known about an upstream while it works: state, load, latency, counts.
//!
//! [`Vitals`] belong to the address of an upstream, not to a line of the file, so they outlive a
//! reload. All threads write to them: numbers are atomics; the state machine is behind a small lock
//! which is taken when something changes, and its result is published in one atomic word, so that
//! a choice among many upstreams takes no lock but its own.
//!
//! Not here: the rules of the state machine ([`super::state`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::reason::OfflineReason;
use super::state::{
    Epoch, Standing, State, Suspicion, Transition, UpstreamState, is_gateway_error,
};

/// The latency of an upstream that was never measured.
const UNMEASURED: u64 = u64::MAX;

/// Bits of the published word that hold the [`Standing`]; the epoch is above them.
const STANDING_BITS: u32 = 2;

/// State, load, latency and counts of one upstream. It starts online.
#[derive(Debug)]
pub struct Vitals {
    id: UpstreamId,
    /// Epoch and standing, written under the lock of `state`.
    published: AtomicU64,
    /// [`State::failures`], written under the lock of `state`.
    failures: AtomicU64,
    /// [`State::doubts`], written under the lock of `state`.
    doubts: AtomicU64,
    active: AtomicU64,
    /// In microseconds, or [`UNMEASURED`].
    latency: AtomicU64,
    suspect: AtomicBool,
    drained: AtomicBool,
    state: Mutex<State>,
    /// Counts since the start, for metrics.
    pub counters: Counters,
}

/// Identity of an upstream, kept over reloads, never used twice in a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UpstreamId(u64);

/// Counts of one upstream since the start. Those that [`Vitals`] does not count itself are counted
/// by whoever does the thing.
#[derive(Default, Debug)]
pub struct Counters {
    /// Final response heads of any status.
    pub responses: AtomicU64,
    /// Failures by its fault.
    pub faults: AtomicU64,
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
    /// Probes that were answered as wanted.
    pub probes_ok: AtomicU64,
    /// Probes that were not.
    pub probes_failed: AtomicU64,
    /// Changes from online to offline.
    pub went_offline: AtomicU64,
    /// Changes from offline to online.
    pub came_online: AtomicU64,
    /// Connections made for attempts (counted by the caller).
    pub connections_opened: AtomicU64,
    /// Attempts on a connection that was idle before (counted by the caller).
    pub connections_reused: AtomicU64,
    /// Bytes written to it (counted by the caller).
    pub bytes_sent: AtomicU64,
    /// Bytes read from it (counted by the caller).
    pub bytes_received: AtomicU64,
}

/// A failure of an attempt by the fault of the upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) began: Epoch,
    pub(super) reason: OfflineReason,
    pub(super) elapsed: Duration,
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new()
    }
}

impl Vitals {
    /// An upstream of which nothing is known.
    pub fn new() -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let state = State::new();
        Self {
            id: UpstreamId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            published: AtomicU64::new(word(&state)),
            failures: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            active: AtomicU64::new(0),
            latency: AtomicU64::new(UNMEASURED),
            suspect: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            state: Mutex::new(state),
            counters: Counters::default(),
        }
    }

    /// Who this is.
    pub fn id(&self) -> UpstreamId {
        self.id
    }

    /// Whether it takes part in balancing (unless it is drained).
    pub fn is_online(&self) -> bool {
        self.standing() == Standing::Online
    }

    /// State, reason and since when, all of the same moment.
    pub fn state(&self) -> UpstreamState {
        self.state.lock().shown()
    }

    /// The span without a change of state that lasts now. Whoever begins a probe takes it along.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.published.load(Ordering::Acquire) >> STANDING_BITS)
    }

    /// Leases not yet given back.
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Moving average (α = 0.25) of the time to the first byte of a response head, in steps of a
    /// microsecond; none: never measured.
    pub fn latency(&self) -> Option<Duration> {
        match self.latency.load(Ordering::Relaxed) {
            UNMEASURED => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// Failures in a row, of attempts and of probes.
    pub fn consecutive_failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// A final response head came `latency` after the attempt began. Below 500 it is a sample. To be
    /// called besides [`Vitals::trust`] or [`Vitals::doubt`].
    pub fn answered(&self, latency: Duration, status: u16) {
        count(&self.counters.responses);
        if status < 500 {
            self.sample(|_| micros(latency));
        }
        if is_gateway_error(status) {
            count(&self.counters.gateway_errors);
        }
    }

    /// An answer shows that the upstream works: it ends a row of doubtful ones.
    pub fn trust(&self) {
        if self.doubts.load(Ordering::Relaxed) != 0 {
            self.change(State::trust);
        }
    }

    /// A response of this status came to its end, or a tunnel stands. Below 500 it ends a row of
    /// failures: not its head, or responses that are always cut short would never make a row.
    pub fn completed(&self, status: u16) {
        if status < 500 && self.failures.load(Ordering::Relaxed) != 0 {
            self.change(State::attempt_completed);
        }
    }

    /// An answer may be the upstream's own word that it cannot serve; `target_hash` tells targets apart.
    /// The third in a row, if they were for at least two targets, makes the upstream a suspect.
    ///
    /// An upstream that becomes a suspect is marked as by [`Vitals::suspect`]; whoever sees
    /// [`Suspicion::Probe`] wakes the prober.
    pub fn doubt(&self, target_hash: u64) -> Suspicion {
        let suspicion = self.change(|state| state.doubt(target_hash));
        if suspicion == Suspicion::Probe {
            self.suspect();
        }
        suspicion
    }

    /// Counts and measures a failure that shall not change the state: a further one of an exchange
    /// that has blamed another upstream already. The caller then calls [`Vitals::suspect`].
    pub fn failed_softly(&self, elapsed: Duration) {
        count(&self.counters.faults);
        self.sample_failure(elapsed);
    }

    /// Asks for a probe at once, whatever the state.
    pub fn suspect(&self) {
        self.suspect.store(true, Ordering::Release);
    }

    /// Whether a probe was asked for since the last call.
    pub fn take_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed) && self.suspect.swap(false, Ordering::AcqRel)
    }

    /// A probe that began in `began` was answered as wanted. `rise` (from 1) of them in a row bring
    /// an offline upstream back. `now_unix_ms`: milliseconds since 1970.
    pub fn probe_succeeded(&self, began: Epoch, rise: u32, now_unix_ms: u64) -> Transition {
        count(&self.counters.probes_ok);
        self.transition(|state| state.probe_succeeded(began, rise, now_unix_ms))
    }

    /// A probe that began in `began` failed. `fall` (from 1) failed ones in a row take an online
    /// upstream offline. `now_unix_ms`: milliseconds since 1970.
    pub fn probe_failed(
        &self,
        began: Epoch,
        reason: OfflineReason,
        fall: u32,
        now_unix_ms: u64,
    ) -> Transition {
        count(&self.counters.probes_failed);
        self.transition(|state| state.probe_failed(began, reason, fall, now_unix_ms))
    }

    /// No new requests from now on, until [`Vitals::enable`]. Kept over a reload.
    pub fn drain(&self) {
        self.drained.store(true, Ordering::Relaxed);
    }

    /// Ends [`Vitals::drain`].
    pub fn enable(&self) {
        self.drained.store(false, Ordering::Relaxed);
    }

    /// Whether it was drained at run time. A weight of 0 in the file is another matter, with the
    /// same effect.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    pub(super) fn standing(&self) -> Standing {
        match self.published.load(Ordering::Acquire) & ((1 << STANDING_BITS) - 1) {
            0 => Standing::Online,
            1 => Standing::LastResort,
            _ => Standing::Offline,
        }
    }

    pub(super) fn failed(&self, failure: Failure, fall: u32, now_unix_ms: u64) -> Transition {
        count(&self.counters.faults);
        self.sample_failure(failure.elapsed);
        let before = self.standing();
        let transition = self.transition(|state| {
            state.attempt_failed(failure.began, failure.reason, fall, now_unix_ms)
        });
        if before == Standing::LastResort && self.standing() == Standing::Offline {
            // Nothing else is online: a long pause before its next probe would be an outage.
            self.suspect();
        }
        transition
    }

    pub(super) fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    fn transition(&self, event: impl FnOnce(&mut State) -> Transition) -> Transition {
        let transition = self.change(event);
        match transition {
            Transition::WentOffline { .. } => count(&self.counters.went_offline),
            Transition::CameOnline { .. } => count(&self.counters.came_online),
            Transition::StillOnline | Transition::StillOffline => {}
        }
        transition
    }

    fn change<T>(&self, event: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = event(&mut state);
        self.published.store(word(&state), Ordering::Release);
        self.failures
            .store(u64::from(state.failures()), Ordering::Relaxed);
        self.doubts
            .store(u64::from(state.doubts()), Ordering::Relaxed);
        result
    }

    /// A failure is never better news than the average: an upstream that refuses at once must not
    /// look fast.
    fn sample_failure(&self, elapsed: Duration) {
        self.sample(|current| micros(elapsed).max(current.unwrap_or(0)));
    }

    /// Moves the average by a quarter of the way to the sample.
    fn sample(&self, sample: impl Fn(Option<u64>) -> u64) {
        let average = |known: u64| match known {
            UNMEASURED => sample(None),
            current => {
                let sum = u128::from(current) * 3 + u128::from(sample(Some(current))) + 2;
                u64::try_from(sum / 4).unwrap_or(UNMEASURED - 1)
            }
        };
        let mut known = self.latency.load(Ordering::Relaxed);
        while let Err(newer) = self.latency.compare_exchange_weak(
            known,
            average(known),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            known = newer;
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .min(UNMEASURED - 1)
}

fn word(state: &State) -> u64 {
    let standing = match state.standing() {
        Standing::Online => 0,
        Standing::LastResort => 1,
        Standing::Offline => 2,
    };
    state.epoch().0 << STANDING_BITS | standing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn latency_us(vitals: &Vitals) -> Option<u128> {
        vitals.latency().map(|latency| latency.as_micros())
    }

    fn fail(vitals: &Vitals, elapsed: Duration, fall: u32) -> Transition {
        let reason = OfflineReason::Closed;
        vitals.failed(
            Failure {
                began: vitals.epoch(),
                reason,
                elapsed,
            },
            fall,
            0,
        )
    }

    #[test]
    fn one_never_measured_has_no_latency() {
        assert_eq!(Vitals::new().latency(), None);
    }

    #[test]
    fn the_average_moves_by_a_quarter() {
        let vitals = Vitals::new();
        vitals.answered(ms(100), 200);
        assert_eq!(latency_us(&vitals), Some(100_000));
        vitals.answered(ms(200), 404);
        assert_eq!(latency_us(&vitals), Some(125_000));
        vitals.answered(Duration::from_micros(1), 200);
        assert_eq!(latency_us(&vitals), Some(93_750));
    }

    #[test]
    fn a_latency_of_nothing_is_a_measurement() {
        let vitals = Vitals::new();
        vitals.answered(Duration::ZERO, 200);
        assert_eq!(vitals.latency(), Some(Duration::ZERO));
    }

    #[test]
    fn an_endless_latency_is_bounded() {
        let vitals = Vitals::new();
        vitals.answered(Duration::MAX, 200);
        vitals.answered(Duration::MAX, 200);
        assert_eq!(latency_us(&vitals), Some(u128::from(UNMEASURED - 1)));
    }

    #[test]
    fn only_answers_below_500_are_samples() {
        let vitals = Vitals::new();
        vitals.answered(ms(100), 200);
        for status in [500, 502, 599] {
            vitals.answered(ms(1), status);
        }
        assert_eq!(latency_us(&vitals), Some(100_000));
    }

    #[test]
    fn a_failure_counts_as_its_time_or_the_average_whichever_is_larger() {
        let vitals = Vitals::new();
        vitals.answered(ms(100), 200);
        vitals.failed_softly(ms(1));
        assert_eq!(latency_us(&vitals), Some(100_000));
        fail(&vitals, ms(500), 9);
        assert_eq!(latency_us(&vitals), Some(200_000));
    }

    #[test]
    fn a_failure_can_be_the_first_sample() {
        let vitals = Vitals::new();
        vitals.failed_softly(ms(7));
        assert_eq!(latency_us(&vitals), Some(7_000));
    }

    #[test]
    fn a_soft_failure_changes_no_state() {
        let vitals = Vitals::new();
        for _ in 0..9 {
            vitals.failed_softly(ms(1));
        }
        assert!(vitals.is_online());
        assert_eq!(vitals.consecutive_failures(), 0);
        assert_eq!(vitals.counters.faults.load(Ordering::Relaxed), 9);
    }

    #[test]
    fn a_complete_answer_below_500_ends_a_row_of_failures() {
        let vitals = Vitals::new();
        fail(&vitals, ms(1), 2);
        vitals.answered(ms(1), 200);
        vitals.completed(500);
        assert_eq!(vitals.consecutive_failures(), 1);
        vitals.completed(499);
        assert_eq!(vitals.consecutive_failures(), 0);
        assert_eq!(fail(&vitals, ms(1), 2), Transition::StillOnline);
    }

    #[test]
    fn a_suspect_is_taken_once() {
        let vitals = Vitals::new();
        assert!(!vitals.take_suspect());
        vitals.suspect();
        vitals.suspect();
        assert!(vitals.take_suspect());
        assert!(!vitals.take_suspect());
    }

    #[test]
    fn a_row_of_doubtful_answers_makes_a_suspect() {
        let vitals = Vitals::new();
        for target in [1, 2] {
            assert_eq!(vitals.doubt(target), Suspicion::None);
        }
        assert!(!vitals.take_suspect());
        assert_eq!(vitals.doubt(1), Suspicion::Probe);
        assert!(vitals.take_suspect());
        assert!(vitals.is_online());
    }

    #[test]
    fn an_answer_of_another_kind_ends_a_row_of_doubtful_ones() {
        let vitals = Vitals::new();
        for round in 0..3 {
            for target in [1, 2] {
                assert_eq!(vitals.doubt(target), Suspicion::None, "round {round}");
            }
            vitals.trust();
        }
    }

    #[test]
    fn what_is_published_follows_the_state() {
        let vitals = Vitals::new();
        let began = vitals.epoch();
        let status = OfflineReason::ProbeStatus(500);
        assert_eq!(vitals.standing(), Standing::Online);
        vitals.probe_failed(began, status, 1, 7);
        assert_eq!(vitals.standing(), Standing::LastResort);
        assert_ne!(vitals.epoch(), began);
        vitals.probe_failed(vitals.epoch(), OfflineReason::Auth, 1, 8);
        assert_eq!(vitals.standing(), Standing::Offline);
        assert_eq!(vitals.state().reason, Some(OfflineReason::Auth));
        assert_eq!(vitals.state().since_unix_ms, Some(7));
        vitals.probe_succeeded(vitals.epoch(), 1, 9);
        assert!(vitals.is_online());
    }

    #[test]
    fn failures_of_many_threads_at_once_are_one_change() {
        let vitals = Vitals::new();
        let reason = OfflineReason::Closed;
        let failure = Failure {
            began: vitals.epoch(),
            reason,
            elapsed: ms(1),
        };
        let changes = std::thread::scope(|scope| {
            let fail = || vitals.failed(failure, 1, 0) != Transition::StillOffline;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(fail)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .filter(|changed| *changed)
                .count()
        });
        assert_eq!(changes, 1);
        assert_eq!(vitals.counters.went_offline.load(Ordering::Relaxed), 1);
        assert_eq!(vitals.counters.faults.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn two_upstreams_are_never_the_same() {
        assert_ne!(Vitals::new().id(), Vitals::new().id());
    }
}
