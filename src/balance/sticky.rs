//! Sessions and the upstreams they stay with.
//!
//! A session's first upstream comes from a weighted rendezvous hash (highest random weight; Thaler and
//! Ravishankar, 1998): every upstream has a score for the session, the highest wins. So relays that have the
//! same file agree without a word to each other, one that was restarted agrees with itself, and when an
//! upstream leaves only its own sessions move. From then on the session is pinned: an upstream that joins
//! moves no session that is in use.
//!
//! Not here: what a session is known by (the relay takes it from the request), and which upstreams may be
//! chosen ([`super::pool`]).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::vitals::UpstreamId;

/// What a session is known by, as a number that is the same on every relay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey(u64);

/// Why a session left its upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveReason {
    /// It left the configuration.
    Removed,
    /// It is out of service.
    Offline,
    /// It gets no new requests.
    Drained,
    /// It rests for the target.
    Resting,
}

/// The pins in use. Bounded: beyond `most` the one that was not used for longest leaves.
#[derive(Debug, Default)]
pub(super) struct Pins {
    by_key: HashMap<SessionKey, Pin>,
    /// The keys in the order of their last use.
    by_use: BTreeMap<u64, SessionKey>,
    uses: u64,
    /// Sessions that left their upstream, by [`MoveReason`].
    moves: [u64; MoveReason::ALL.len()],
}

#[derive(Debug)]
struct Pin {
    upstream: UpstreamId,
    used: Instant,
    use_number: u64,
}

impl SessionKey {
    /// The key of `text`, such as a user name or an address.
    pub fn new(text: &[u8]) -> Self {
        Self(hash(text))
    }

    /// The key of the same session within a group, by the hash of its name: there it has an upstream of its own.
    pub(super) fn within(self, group: u64) -> Self {
        Self(self.0 ^ group)
    }

    /// The score of an upstream for this session: the highest wins, and how often each does is as their
    /// weights are. 0 for a weight of 0.
    pub(super) fn score(self, upstream: u64, weight: u32) -> f64 {
        let drawn = mix(self.0 ^ upstream) >> 12;
        #[expect(clippy::cast_precision_loss, reason = "52 bits fit into a double")]
        let uniform = (drawn as f64 + 0.5) / (1_u64 << 52) as f64;
        f64::from(weight) / -uniform.ln()
    }
}

impl MoveReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Removed, Self::Offline, Self::Drained, Self::Resting];

    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Offline => "offline",
            Self::Drained => "drained",
            Self::Resting => "resting",
        }
    }
}

impl Pins {
    /// The upstream that `key` was pinned to, if it was used in the last `ttl`; this is a use.
    pub(super) fn find(
        &mut self,
        key: SessionKey,
        ttl: Duration,
        now: Instant,
    ) -> Option<UpstreamId> {
        let pin = self.by_key.get_mut(&key)?;
        if now.saturating_duration_since(pin.used) > ttl {
            return None;
        }
        self.by_use.remove(&pin.use_number);
        self.uses += 1;
        pin.use_number = self.uses;
        pin.used = now;
        self.by_use.insert(self.uses, key);
        Some(pin.upstream)
    }

    /// Pins `key`. What was not used in the last `ttl` is forgotten in passing.
    pub(super) fn pin(
        &mut self,
        key: SessionKey,
        upstream: UpstreamId,
        (most, ttl): (usize, Duration),
        now: Instant,
    ) {
        if let Some(before) = self.by_key.remove(&key) {
            self.by_use.remove(&before.use_number);
        }
        while let Some(oldest) = self.by_use.first_entry() {
            let is_expired = self
                .by_key
                .get(oldest.get())
                .is_none_or(|pin| now.saturating_duration_since(pin.used) > ttl);
            if !is_expired && self.by_key.len() < most {
                break;
            }
            self.by_key.remove(&oldest.remove());
        }
        self.uses += 1;
        let use_number = self.uses;
        self.by_use.insert(use_number, key);
        let pin = Pin {
            upstream,
            used: now,
            use_number,
        };
        self.by_key.insert(key, pin);
    }

    /// Counts a session that left its upstream.
    pub(super) fn moved(&mut self, reason: MoveReason) {
        if let Some(count) = self.moves.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// How many sessions left their upstream for `reason`.
    pub(super) fn moves_by(&self, reason: MoveReason) -> u64 {
        self.moves.get(reason as usize).copied().unwrap_or(0)
    }

    /// How many keys are remembered.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}

/// FNV-1a, mixed: the same on every machine and in every release, as relays must agree.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

/// The finalizer of splitmix64: every bit of the input changes half of the output.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::vitals::Vitals;

    const TTL: Duration = Duration::from_secs(600);

    fn key(number: usize) -> SessionKey {
        SessionKey::new(format!("someone-session-{number}").as_bytes())
    }

    /// Who of the weights wins `key`.
    fn winner(key: SessionKey, weights: &[u32]) -> usize {
        let score = |place: &usize| {
            key.score(
                hash(format!("http://u{place}.test:8080").as_bytes()),
                weights[*place],
            )
        };
        (0..weights.len())
            .max_by(|a, b| score(a).total_cmp(&score(b)))
            .unwrap()
    }

    #[test]
    fn sessions_are_shared_by_weight() {
        let weights = [1, 2, 3, 0, 4];
        let mut shares = [0_usize; 5];
        for number in 0..100_000 {
            shares[winner(key(number), &weights)] += 1;
        }
        assert_eq!(shares[3], 0);
        for (share, weight) in shares.iter().zip(weights) {
            let expected = f64::from(weight) * 10_000.0;
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let off = (*share as f64 - expected).abs();
            assert!(off <= expected * 0.03, "{shares:?}");
        }
    }

    #[test]
    fn only_the_sessions_of_an_upstream_that_leaves_move() {
        let all = [1; 200];
        let mut without = all;
        without[77] = 0;
        let moved = (0..10_000).filter(|number| {
            let (before, after) = (winner(key(*number), &all), winner(key(*number), &without));
            assert!(before == 77 || before == after);
            before != after
        });
        assert!((1..200).contains(&moved.count()));
    }

    /// Relays of different releases must agree, too.
    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash(b"someone-session-a1b2"), 0xb2ee_3fa8_f0fe_a0ef);
    }

    #[test]
    fn a_pin_ends_its_ttl_after_the_last_use() {
        let (mut pins, start) = (Pins::default(), Instant::now());
        let upstream = Vitals::default().id();
        pins.pin(key(1), upstream, (10, TTL), start);
        let later = start + TTL;
        assert_eq!(pins.find(key(1), TTL, later), Some(upstream));
        assert_eq!(pins.find(key(1), TTL, later + TTL), Some(upstream));
        let late = later + TTL * 2 + Duration::from_millis(1);
        assert_eq!(pins.find(key(1), TTL, late), None);
    }

    #[test]
    fn the_least_recently_used_pin_leaves_when_there_are_too_many() {
        let (mut pins, start) = (Pins::default(), Instant::now());
        let upstream = Vitals::default().id();
        for number in 0..3 {
            pins.pin(key(number), upstream, (3, TTL), start);
        }
        assert!(pins.find(key(0), TTL, start).is_some());
        pins.pin(key(3), upstream, (3, TTL), start);
        let known = [0, 1, 2, 3].map(|number| pins.find(key(number), TTL, start).is_some());
        assert_eq!(known, [true, false, true, true]);
        assert_eq!((pins.len(), pins.by_use.len()), (3, 3));
    }

    #[test]
    fn expired_pins_are_forgotten_in_passing() {
        let (mut pins, start) = (Pins::default(), Instant::now());
        for number in 0..100 {
            pins.pin(key(number), Vitals::default().id(), (1_000, TTL), start);
        }
        let late = start + TTL + Duration::from_secs(1);
        pins.pin(key(100), Vitals::default().id(), (1_000, TTL), late);
        assert_eq!((pins.len(), pins.by_use.len()), (1, 1));
    }
}
