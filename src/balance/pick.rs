//! The choice of an upstream for one attempt.
//!
//! Round robin is the smooth weighted kind that nginx uses, between classes of equal weight: each class gains
//! its weight, the richest is taken and pays the sum of all; within a class the members take turns. So a full
//! cycle has exactly the configured shares, heavy members do not come in a row, a weight of four thousand
//! million costs what a weight of 1 costs, and ten thousand members what ten cost. When the set of members
//! changes the count begins anew, so the others keep exact shares from there on, and the turns go on where
//! they were. A suspect stays a member, for it is back in a moment: its turns pass meanwhile. Second attempts
//! have an account of their own: a member that fails must not disturb the shares of the others.
//!
//! Where all members have the same weight, which is most pools, a turn is a number: [`Equals`] takes it without a
//! lock, so that requests of two lanes do not wait for each other. It is the same turn as that of the one class
//! they are.
//!
//! The best is the one with the lowest latency, load and share of errors. Errors are costs and not
//! speed: else the upstream that fails fastest would get the most. Of a large pool it is the best of the next
//! 64: to look at all of them would cost more than it brings.
//!
//! Not here: which ones may be chosen ([`super::pool`] says so with [`Candidate::availability`] and [`Members::may`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::state::Availability;

/// How an upstream is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BalanceMode {
    /// By weight, in turn.
    #[default]
    RoundRobin,
    /// Lowest latency, load and share of errors.
    Best,
    /// Lowest priority value; equals by weight, in turn.
    Priority,
}

/// As it is spelled in the configuration.
impl fmt::Display for BalanceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "round_robin",
            Self::Best => "best",
            Self::Priority => "priority",
        })
    }
}

/// What one request in flight costs in `best`, in microseconds of latency.
const ACTIVE_COST_US: u64 = 50_000;

/// Which account of a member an attempt is charged to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Account {
    /// The exchange has tried no other upstream before.
    First,
    /// It has.
    Again,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// A suspect is chosen if none is online; one that counts as offline may not be chosen.
    pub(super) availability: Availability,
    pub(super) weight: u32,
    pub(super) priority: u32,
    /// Average latency in microseconds; none: never measured.
    pub(super) latency_us: Option<u64>,
    pub(super) active: u64,
    /// Share of errors, in millionths.
    pub(super) errors: u64,
}

/// How many candidates `best` looks at.
const BEST_OF: usize = 64;

/// Remembers what was chosen before.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    equals: Equals,
    book: Mutex<Book>,
}

/// Whose turn it is while all members are in one class.
#[derive(Debug)]
struct Equals {
    /// The number of changes of the members for which that is so, or [`UNEQUAL`].
    version: AtomicU64,
    next: AtomicUsize,
}

/// No number of changes.
const UNEQUAL: u64 = u64::MAX;

/// What is remembered of members that differ, of second attempts, and of the best.
#[derive(Debug, Default)]
struct Book {
    first: Turns,
    again: Turns,
    /// Where the search for the best begins, so that ties rotate.
    next_best: usize,
}

/// Whose turn it is.
#[derive(Debug, Default)]
struct Turns {
    /// What the levels were made for: the mode, and the number of changes of the members until then.
    made_for: Option<(BalanceMode, u64)>,
    /// By priority; one where the mode does not ask for it.
    levels: BTreeMap<u32, Vec<WeightClass>>,
    /// Who was taken last.
    last: Option<usize>,
}

/// Members of the same weight, who take turns.
#[derive(Debug, Default)]
struct WeightClass {
    /// Of all of them together.
    weight: i64,
    credit: i64,
    members: Vec<usize>,
    next: usize,
    /// Whether no member can be taken this time.
    is_out: bool,
}

/// All members as they are now.
pub(super) struct Members<L, M> {
    /// How many there are.
    pub(super) count: usize,
    /// Another number once a member may have come or gone.
    pub(super) version: u64,
    /// A member as it is.
    pub(super) look: L,
    /// Whether this attempt may go there.
    pub(super) may: M,
}

impl Candidate {
    pub(super) const OUT: Self = Self {
        availability: Availability::Offline,
        weight: 0,
        priority: 0,
        latency_us: None,
        active: 0,
        errors: 0,
    };

    /// The lowest is preferred; all are equal where the mode does not ask for the priority.
    pub(super) fn level(&self, mode: BalanceMode) -> u32 {
        match mode {
            BalanceMode::RoundRobin | BalanceMode::Best => 0,
            BalanceMode::Priority => self.priority,
        }
    }

    /// In microseconds of latency. An error costs a second, so its share in millionths is its cost.
    fn cost_us(&self, average_us: u64) -> u64 {
        self.latency_us
            .unwrap_or(average_us)
            .saturating_add(self.active.saturating_mul(ACTIVE_COST_US))
            .saturating_add(self.errors)
    }
}

impl<L: Fn(usize) -> Candidate, M: Fn(usize) -> bool> Members<L, M> {
    /// Whether a member is so available or better, and may be taken. Or better: one that changes between the look
    /// for those online and the one for suspects is missed by neither.
    fn is(&self, place: usize, availability: Availability) -> bool {
        (self.look)(place).availability <= availability && (self.may)(place)
    }
}

impl Chooser {
    /// Chooses among `members`; gives the place of the one chosen.
    pub(super) fn choose<L: Fn(usize) -> Candidate, M: Fn(usize) -> bool>(
        &self,
        mode: BalanceMode,
        account: Account,
        members: &Members<L, M>,
    ) -> Option<usize> {
        let in_turn = (mode, account) == (BalanceMode::RoundRobin, Account::First);
        if in_turn && self.equals.are_known(members.version) {
            return self.equals.choose(members);
        }
        let mut book = self.book.lock();
        if in_turn && book.first.finds_equals(&self.equals, members) {
            return self.equals.choose(members);
        }
        book.choose(mode, account, members)
    }
}

impl Default for Equals {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(UNEQUAL),
            next: AtomicUsize::new(0),
        }
    }
}

impl Equals {
    fn are_known(&self, version: u64) -> bool {
        self.version.load(Ordering::Acquire) == version
    }

    fn choose<L: Fn(usize) -> Candidate, M: Fn(usize) -> bool>(
        &self,
        members: &Members<L, M>,
    ) -> Option<usize> {
        let take = |availability| {
            let mut taken = None;
            let turn = |from| {
                let mut places = (from..members.count).chain(0..from.min(members.count));
                taken = places.find(|place| members.is(*place, availability));
                taken?.saturating_add(1).checked_rem(members.count)
            };
            let relaxed = Ordering::Relaxed;
            self.next.fetch_update(relaxed, relaxed, turn).ok()?;
            taken
        };
        take(Availability::Online).or_else(|| take(Availability::Suspect))
    }
}

impl Book {
    fn choose<L: Fn(usize) -> Candidate, M: Fn(usize) -> bool>(
        &mut self,
        mode: BalanceMode,
        account: Account,
        members: &Members<L, M>,
    ) -> Option<usize> {
        let turns = match (mode, account) {
            (BalanceMode::Best, _) => {
                return self
                    .best(Availability::Online, members)
                    .or_else(|| self.best(Availability::Suspect, members));
            }
            (_, Account::First) => &mut self.first,
            (_, Account::Again) => &mut self.again,
        };
        turns.prepare(mode, members);
        turns
            .take(Availability::Online, members)
            .or_else(|| turns.take(Availability::Suspect, members))
    }

    fn best<L: Fn(usize) -> Candidate, M: Fn(usize) -> bool>(
        &mut self,
        availability: Availability,
        members: &Members<L, M>,
    ) -> Option<usize> {
        let count = members.count;
        let from = self.next_best.checked_rem(count)?;
        let those = || {
            (from..count)
                .chain(0..from)
                .filter(|place| members.is(*place, availability))
                .take(BEST_OF)
        };
        let average = average(those().map(|place| (members.look)(place).latency_us)).unwrap_or(0);
        let place = those().min_by_key(|place| (members.look)(*place).cost_us(average))?;
        self.next_best = if count <= BEST_OF {
            place.saturating_add(1)
        } else {
            those().last()?.saturating_add(1)
        };
        Some(place)
    }
}

impl Turns {
    /// Begins the count anew if the members have changed.
    fn prepare<L: Fn(usize) -> Candidate, M>(
        &mut self,
        mode: BalanceMode,
        members: &Members<L, M>,
    ) {
        let now = Some((mode, members.version));
        if self.made_for == now {
            return;
        }
        self.made_for = now;
        let mut levels: BTreeMap<u32, Vec<WeightClass>> = BTreeMap::new();
        // where the class of a level and a weight is in its level
        let mut known = BTreeMap::new();
        for place in 0..members.count {
            let candidate = (members.look)(place);
            if candidate.availability == Availability::Offline {
                continue;
            }
            let level = candidate.level(mode);
            let classes = levels.entry(level).or_default();
            let class = *known
                .entry((level, candidate.weight))
                .or_insert(classes.len());
            // Of equal credit, the first in the file is first.
            if class == classes.len() {
                classes.push(WeightClass::default());
            }
            if let Some(class) = classes.get_mut(class) {
                class.weight = class.weight.saturating_add(i64::from(candidate.weight));
                class.next += usize::from(Some(place) <= self.last);
                class.members.push(place);
            }
        }
        // What has changed may be another pool's.
        if !shape(&levels).eq(shape(&self.levels)) {
            self.levels = levels;
        }
    }

    /// Whether all members are in one class as they are now; then `equals` has the turns from here on, and else
    /// they are here.
    fn finds_equals<L: Fn(usize) -> Candidate, M>(
        &mut self,
        equals: &Equals,
        members: &Members<L, M>,
    ) -> bool {
        let were_equal = !equals.are_known(UNEQUAL);
        if were_equal {
            self.last = equals.next.load(Ordering::Relaxed).checked_sub(1);
        }
        self.prepare(BalanceMode::RoundRobin, members);
        let mut classes = self.levels.values().flatten();
        let first = classes.next().filter(|_| classes.next().is_none());
        let are_equal = first.is_some_and(|class| class.members.len() == members.count);
        if are_equal && !were_equal {
            let next = self.last.map_or(0, |last| last.saturating_add(1));
            equals.next.store(next, Ordering::Relaxed);
        }
        let version = if are_equal { members.version } else { UNEQUAL };
        equals.version.store(version, Ordering::Release);
        are_equal
    }

    fn take<L: Fn(usize) -> Candidate, M: Fn(usize) -> bool>(
        &mut self,
        availability: Availability,
        members: &Members<L, M>,
    ) -> Option<usize> {
        let may_be_taken = |place| members.is(place, availability);
        let mut levels = self.levels.values_mut();
        let place = levels.find_map(|classes| take_turn(classes, &may_be_taken))?;
        self.last = Some(place);
        Some(place)
    }
}

/// What makes the counts of two sets of members comparable.
fn shape(
    levels: &BTreeMap<u32, Vec<WeightClass>>,
) -> impl Iterator<Item = (u32, i64, &Vec<usize>)> {
    levels.iter().flat_map(|(level, classes)| {
        classes
            .iter()
            .map(|class| (*level, class.weight, &class.members))
    })
}

impl WeightClass {
    /// The next member that may be taken.
    fn next(&mut self, may_be_taken: &impl Fn(usize) -> bool) -> Option<usize> {
        let (before, from) = self.members.split_at_checked(self.next)?;
        let places = (self.next..).zip(from).chain((0..).zip(before));
        let (turn, place) = places
            .map(|(turn, place)| (turn, *place))
            .find(|(_, place)| may_be_taken(*place))?;
        self.next = turn.saturating_add(1).checked_rem(self.members.len())?;
        Some(place)
    }
}

/// The average of what was measured; none where nothing was.
pub(super) fn average(measured: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let (sum, count) = measured
        .flatten()
        .fold((0_u128, 0_u128), |(sum, count), one| {
            (sum + u128::from(one), count + 1)
        });
    u64::try_from(sum.checked_div(count)?).ok()
}

/// One step of smooth weighted round robin. A class of which no member may be taken neither gains nor pays.
fn take_turn(classes: &mut [WeightClass], may_be_taken: &impl Fn(usize) -> bool) -> Option<usize> {
    for class in &mut *classes {
        class.credit = class.credit.saturating_add(class.weight);
        class.is_out = false;
    }
    let mut taken = None;
    while let (None, Some(class)) = (taken, richest(classes)) {
        taken = class.next(may_be_taken);
        class.is_out = taken.is_none();
    }
    let took_part = classes.iter().filter(|class| !class.is_out);
    let sum = took_part.fold(0_i64, |sum, class| sum.saturating_add(class.weight));
    if let Some(class) = richest(classes) {
        class.credit = class.credit.saturating_sub(sum);
    }
    for class in classes.iter_mut().filter(|class| class.is_out) {
        class.credit = class.credit.saturating_sub(class.weight);
    }
    taken
}

fn richest(classes: &mut [WeightClass]) -> Option<&mut WeightClass> {
    let those = classes.iter_mut().filter(|class| !class.is_out);
    those.reduce(|most, class| {
        if most.credit < class.credit {
            class
        } else {
            most
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates as text: `a` to `z` in order, with `*weight`, `@priority`, `~latency_us`,
    /// `+active`, `%errors`, and `!` = out, `?` = suspect.
    fn candidates(text: &str) -> Vec<Candidate> {
        text.split_whitespace()
            .map(|word| {
                let number = |mark: char| {
                    let behind = word.split_once(mark)?.1;
                    behind
                        .split(|c: char| !c.is_ascii_digit())
                        .next()?
                        .parse::<u64>()
                        .ok()
                };
                Candidate {
                    availability: match word.chars().find(|c| "!?".contains(*c)) {
                        Some('!') => Availability::Offline,
                        Some(_) => Availability::Suspect,
                        None => Availability::Online,
                    },
                    weight: number('*').unwrap_or(1).try_into().unwrap(),
                    priority: number('@').unwrap_or(100).try_into().unwrap(),
                    latency_us: number('~'),
                    active: number('+').unwrap_or(0),
                    errors: number('%').unwrap_or(0),
                }
            })
            .collect()
    }

    fn choose(
        chooser: &Chooser,
        mode: BalanceMode,
        account: Account,
        text: &str,
        may: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let candidates = candidates(text);
        let is_out = |one: &Candidate| u64::from(one.availability == Availability::Offline);
        let members = Members {
            count: candidates.len(),
            version: candidates
                .iter()
                .fold(1, |bits, one| bits << 1 | is_out(one)),
            look: |place: usize| candidates[place],
            may,
        };
        chooser.choose(mode, account, &members)
    }

    fn turns(chooser: &Chooser, mode: BalanceMode, text: &str, count: usize) -> String {
        let letter = |place: usize| char::from(b'a' + u8::try_from(place).unwrap());
        (0..count)
            .map(|_| {
                let choice = choose(chooser, mode, Account::First, text, |_| true);
                choice.map_or('-', letter)
            })
            .collect()
    }

    fn check(mode: BalanceMode, text: &str, expected: &str) {
        let chooser = Chooser::default();
        assert_eq!(
            turns(&chooser, mode, text, expected.len()),
            expected,
            "{text}"
        );
    }

    fn shares(picks: &str) -> Vec<usize> {
        ('a'..='e')
            .map(|letter| picks.matches(letter).count())
            .collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        check(BalanceMode::RoundRobin, "a b c", "abcabcabc");
    }

    #[test]
    fn many_who_choose_at_once_share_exactly() {
        let (chooser, members) = (Chooser::default(), candidates("a b c"));
        let pick = || {
            let members = Members {
                count: members.len(),
                version: 1,
                look: |place: usize| members[place],
                may: |_| true,
            };
            chooser.choose(BalanceMode::RoundRobin, Account::First, &members)
        };
        let mut counts = [0; 3];
        std::thread::scope(|scope| {
            let picks = || (0..3000).filter_map(|_| pick()).collect::<Vec<usize>>();
            let threads = [(); 4].map(|()| scope.spawn(picks));
            for place in threads.into_iter().flat_map(|one| one.join().unwrap()) {
                counts[place] += 1;
            }
        });
        assert_eq!(counts, [4000; 3]);
    }

    #[test]
    fn a_turn_of_equals_takes_no_lock_that_others_have() {
        let chooser = Chooser::default();
        assert_eq!(turns(&chooser, BalanceMode::RoundRobin, "a b c", 2), "ab");
        let (tell, told) = std::sync::mpsc::channel();
        let chooser = std::sync::Arc::new(chooser);
        let own = std::sync::Arc::clone(&chooser);
        let held = chooser.book.lock();
        let other = std::thread::Builder::new().spawn(move || {
            let members = Members {
                count: 3,
                version: 8,
                look: |place: usize| candidates("a b c")[place],
                may: |_| true,
            };
            let place = own.choose(BalanceMode::RoundRobin, Account::First, &members);
            tell.send(place).unwrap();
        });
        let place = told.recv_timeout(std::time::Duration::from_secs(20));
        drop(held);
        other.unwrap().join().unwrap();
        assert_eq!(place, Ok(Some(2)));
    }

    #[test]
    fn turns_go_on_where_they_were_when_members_become_equal_or_cease_to_be() {
        let chooser = Chooser::default();
        let mut picks = String::new();
        for of in ["a b c d", "a b! c d", "a b c d", "a b c! d", "a b c d"] {
            picks += &turns(&chooser, BalanceMode::RoundRobin, of, 3);
        }
        assert_eq!(picks, "abcdacdabdabcda");
    }

    #[test]
    fn heavy_members_are_interleaved() {
        check(BalanceMode::RoundRobin, "a*5 b c", "abaaacaabaaaca");
        check(BalanceMode::RoundRobin, "a b*2", "bab");
    }

    #[test]
    fn six_hundred_picks_at_1_2_3_are_exactly_100_200_300() {
        let chooser = Chooser::default();
        let picks = turns(&chooser, BalanceMode::RoundRobin, "a b*2 c*3", 600);
        assert_eq!(shares(&picks), [100, 200, 300, 0, 0]);
    }

    #[test]
    fn every_full_cycle_is_exact() {
        let chooser = Chooser::default();
        let picks = turns(
            &chooser,
            BalanceMode::RoundRobin,
            "a*7 b*1 c*4 d*9 e*2",
            23 * 10,
        );
        for cycle in picks.as_bytes().chunks(23) {
            assert_eq!(shares(std::str::from_utf8(cycle).unwrap()), [7, 1, 4, 9, 2]);
        }
    }

    /// Smooth weighted round robin without classes, as it was before there were any: the measure of smoothness.
    fn one_by_one(weights: &[u32], count: usize) -> Vec<usize> {
        let sum: i64 = weights.iter().copied().map(i64::from).sum();
        let mut credits = vec![0_i64; weights.len()];
        let pick = |_| {
            for (credit, weight) in credits.iter_mut().zip(weights) {
                *credit += i64::from(*weight);
            }
            let richest = (0..weights.len())
                .max_by_key(|place| (credits[*place], -i64::try_from(*place).unwrap()));
            credits[richest.unwrap()] -= sum;
            richest.unwrap()
        };
        (0..count).map(pick).collect()
    }

    fn longest_run(picks: &[usize]) -> usize {
        let runs = picks.chunk_by(|a, b| a == b);
        runs.map(<[usize]>::len).max().unwrap_or(0)
    }

    /// The number that says so is one for all pools.
    #[test]
    fn what_comes_and_goes_in_another_pool_disturbs_no_share() {
        let (chooser, members) = (Chooser::default(), candidates("a*1 b*2 c*3"));
        let mut counts = [0; 3];
        for version in 0..60 {
            let members = Members {
                count: members.len(),
                version,
                look: |place: usize| members[place],
                may: |_| true,
            };
            let place = chooser.choose(BalanceMode::RoundRobin, Account::First, &members);
            counts[place.unwrap()] += 1;
        }
        assert_eq!(counts, [10, 20, 30]);
    }

    #[test]
    fn whatever_the_weights_each_cycle_is_exact_and_no_run_is_longer_than_one_by_one() {
        let mut dice = 20_261_128_u64;
        let mut roll = |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33) % sides
        };
        for _ in 0..150 {
            let (count, heaviest) = (2 + roll(63), 1 + roll(9));
            let weights: Vec<u32> = (0..count)
                .map(|_| 1 + u32::try_from(roll(heaviest)).unwrap())
                .collect();
            let cycle = weights.iter().sum::<u32>() as usize;
            let picks = {
                let members = Members {
                    count: weights.len(),
                    version: 1,
                    look: |place: usize| Candidate {
                        availability: Availability::Online,
                        weight: weights[place],
                        ..Candidate::OUT
                    },
                    may: |_| true,
                };
                let chooser = Chooser::default();
                let pick = |_| chooser.choose(BalanceMode::RoundRobin, Account::First, &members);
                (0..cycle * 3).filter_map(pick).collect::<Vec<usize>>()
            };
            for (number, cycle) in picks.chunks(cycle).enumerate() {
                let share = |place| cycle.iter().filter(|pick| **pick == place).count();
                let shares: Vec<_> = (0..weights.len()).map(share).collect();
                let expected: Vec<_> = weights.iter().map(|weight| *weight as usize).collect();
                assert_eq!(shares, expected, "cycle {number}");
            }
            let before = one_by_one(&weights, cycle * 3);
            assert!(longest_run(&picks) <= longest_run(&before), "{weights:?}");
        }
    }

    #[test]
    fn where_no_two_weights_are_alike_the_order_is_that_of_one_by_one() {
        check(BalanceMode::RoundRobin, "a*3 b*5 c", &{
            let letter = |place: usize| char::from(b'a' + u8::try_from(place).unwrap());
            one_by_one(&[3, 5, 1], 27)
                .into_iter()
                .map(letter)
                .collect::<String>()
        });
    }

    #[test]
    fn the_largest_weights_cost_and_share_like_small_ones() {
        check(BalanceMode::RoundRobin, "a*4294967295 b*4294967295", "abab");
        check(BalanceMode::RoundRobin, "a*4294967295 b*1", "aaaaaaaaaa");
    }

    #[test]
    fn without_a_candidate_there_is_no_choice() {
        for mode in [
            BalanceMode::RoundRobin,
            BalanceMode::Best,
            BalanceMode::Priority,
        ] {
            check(mode, "", "-");
            check(mode, "a! b!", "--");
        }
    }

    #[test]
    fn suspects_are_for_when_nobody_is_online() {
        for mode in [
            BalanceMode::RoundRobin,
            BalanceMode::Best,
            BalanceMode::Priority,
        ] {
            check(mode, "a? b c?", "bb");
            check(mode, "a? b! c?", "acac");
        }
        check(BalanceMode::Priority, "a@1? b@2", "bb");
    }

    /// Suspicions come and go in milliseconds; each must not begin the turns anew.
    #[test]
    fn a_suspect_that_comes_back_finds_its_turn_where_it_left_it() {
        let chooser = Chooser::default();
        let mut picks = String::new();
        for round in 0..30 {
            let of = if round % 3 == 0 { "a b? c" } else { "a b c" };
            picks.push_str(&turns(&chooser, BalanceMode::RoundRobin, of, 1));
        }
        let counted = shares(&picks);
        assert!(
            counted[..3].iter().all(|count| (6..=13).contains(count)),
            "{picks}"
        );
    }

    #[test]
    fn the_others_share_exactly_from_any_moment_one_drops_out() {
        for before in 0..12 {
            let chooser = Chooser::default();
            turns(&chooser, BalanceMode::RoundRobin, "a b*2 c*3", before);
            let picks = turns(&chooser, BalanceMode::RoundRobin, "a! b*2 c*3", 50);
            assert_eq!(shares(&picks), [0, 20, 30, 0, 0], "after {before}");
            let picks = turns(&chooser, BalanceMode::RoundRobin, "a b*2 c*3", 60);
            assert_eq!(shares(&picks), [10, 20, 30, 0, 0], "after {before}");
        }
    }

    #[test]
    fn second_attempts_do_not_disturb_the_shares_of_first_ones() {
        let chooser = Chooser::default();
        let mut firsts = String::new();
        let mut seconds = String::new();
        for _ in 0..60 {
            let first = turns(&chooser, BalanceMode::RoundRobin, "a b*2 c*3", 1);
            if first == "a" {
                let (mode, text) = (BalanceMode::RoundRobin, "a b*2 c*3");
                let second = choose(&chooser, mode, Account::Again, text, |place| place != 0);
                seconds.push(if second == Some(1) { 'b' } else { 'c' });
            }
            firsts.push_str(&first);
        }
        assert_eq!(shares(&firsts), [10, 20, 30, 0, 0]);
        assert_eq!(shares(&seconds), [0, 4, 6, 0, 0]);
    }

    #[test]
    fn priority_takes_the_lowest_value_that_is_there() {
        check(BalanceMode::Priority, "a@10 b@5 c@20", "bbb");
        check(BalanceMode::Priority, "a@10 b@5! c@20", "aaa");
        check(BalanceMode::Priority, "a@10! b@5! c@20", "ccc");
    }

    #[test]
    fn equals_in_priority_share_by_weight() {
        check(BalanceMode::Priority, "a@1*2 b@1 c@2*9", "abaaba");
    }

    #[test]
    fn best_takes_the_lowest_latency() {
        check(BalanceMode::Best, "a~900 b~100 c~500", "bbb");
    }

    #[test]
    fn a_request_in_flight_costs_fifty_milliseconds() {
        check(BalanceMode::Best, "a~10000+1 b~59999", "bb");
        check(BalanceMode::Best, "a~10000+1 b~60001", "aa");
    }

    #[test]
    fn microseconds_count() {
        check(BalanceMode::Best, "a~401 b~400", "bb");
    }

    #[test]
    fn ties_rotate_in_best() {
        check(BalanceMode::Best, "a b c", "abcabc");
        check(BalanceMode::Best, "a~5 b~9 c~5", "acacac");
    }

    #[test]
    fn one_never_measured_counts_as_the_average() {
        check(BalanceMode::Best, "a~100 b c~500", "aaa");
        check(BalanceMode::Best, "a~400+1 b c~50400", "bb");
    }

    #[test]
    fn an_error_in_four_costs_a_quarter_of_a_second() {
        check(BalanceMode::Best, "a~1000%250000 b~250999", "bb");
        check(BalanceMode::Best, "a~1000%250000 b~251001", "aa");
    }

    #[test]
    fn weights_and_priorities_do_not_count_in_best() {
        check(BalanceMode::Best, "a~9*100@1 b~8", "bb");
    }
}
