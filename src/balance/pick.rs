//! The choice of an upstream for one attempt.
//!
//! Round robin is the smooth weighted kind that nginx uses: each member gains its weight, the
//! richest is taken and pays the sum of all. So a full cycle has exactly the configured shares,
//! heavy members do not come in a row, and a weight of four thousand million costs what a weight
//! of 1 costs. Members that are out neither gain nor pay, and when the set of members changes the
//! count begins anew, so the others keep exact shares from there on. Second attempts have an
//! account of their own: a member that fails must not disturb the shares of the others.
//!
//! Not here: who may be chosen ([`super::pool`] says so with [`Role`]).

use std::fmt;

/// How an upstream is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BalanceMode {
    /// By weight, in turn.
    #[default]
    RoundRobin,
    /// Lowest latency and load.
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

/// What a candidate may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// It may be chosen.
    Eligible,
    /// It could be, but this exchange has tried it already.
    Tried,
    /// It may be chosen if nobody is `Eligible` or `Tried`.
    LastResort,
    /// It may not be chosen.
    Out,
}

/// Whether this exchange has tried another upstream before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    First,
    Again,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) role: Role,
    pub(super) weight: u32,
    pub(super) priority: u32,
    /// Average latency in microseconds; 0: never measured.
    pub(super) latency_us: u64,
    pub(super) active: u64,
}

/// A candidate and its accounts.
#[derive(Debug)]
struct Seat {
    candidate: Candidate,
    first: Account,
    again: i64,
}

/// The account for first attempts: open while the candidate is a member of the set that shares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Account {
    Closed,
    Open(i64),
}

/// Remembers what was chosen before. One per pool.
#[derive(Debug)]
pub(super) struct Chooser {
    seats: Vec<Seat>,
    /// Where the search for the best begins, so that ties rotate.
    next_best: usize,
}

impl Candidate {
    pub(super) const OUT: Self = Self {
        role: Role::Out,
        weight: 0,
        priority: 0,
        latency_us: 0,
        active: 0,
    };

    fn cost_us(&self) -> u64 {
        self.latency_us
            .saturating_add(self.active.saturating_mul(ACTIVE_COST_US))
    }

    /// Whether it shares with the members of a group; no group: with all.
    fn is_in(&self, group: Option<u32>) -> bool {
        self.role == Role::Eligible && group.is_none_or(|priority| self.priority == priority)
    }
}

impl Chooser {
    pub(super) fn new(seats: usize) -> Self {
        let seat = || Seat {
            candidate: Candidate::OUT,
            first: Account::Closed,
            again: 0,
        };
        Self {
            seats: std::iter::repeat_with(seat).take(seats).collect(),
            next_best: 0,
        }
    }

    /// Chooses among `candidates`, which come in the same order each time; gives the place of the
    /// one chosen. Costs O(candidates), allocates nothing.
    pub(super) fn choose(
        &mut self,
        mode: BalanceMode,
        turn: Turn,
        candidates: impl Iterator<Item = Candidate>,
    ) -> Option<usize> {
        for (seat, candidate) in self.seats.iter_mut().zip(candidates) {
            seat.candidate = candidate;
        }
        self.admit_last_resort();
        match (mode, turn) {
            (BalanceMode::Best, _) => self.best(),
            (BalanceMode::RoundRobin, Turn::First) => self.first_in_turn(None),
            (BalanceMode::RoundRobin, Turn::Again) => self.again_in_turn(None),
            (BalanceMode::Priority, Turn::First) => self.first_in_turn(Some(self.preferred()?)),
            (BalanceMode::Priority, Turn::Again) => self.again_in_turn(Some(self.preferred()?)),
        }
    }

    /// Decided on the same look at the candidates as the choice itself, so that an upstream that
    /// goes offline right now cannot leave a request between the two.
    fn admit_last_resort(&mut self) {
        let is_online = |seat: &Seat| matches!(seat.candidate.role, Role::Eligible | Role::Tried);
        if self.seats.iter().any(is_online) {
            return;
        }
        for seat in &mut self.seats {
            if seat.candidate.role == Role::LastResort {
                seat.candidate.role = Role::Eligible;
            }
        }
    }

    fn eligible(&self) -> impl Iterator<Item = &Candidate> {
        self.seats
            .iter()
            .map(|seat| &seat.candidate)
            .filter(|c| c.role == Role::Eligible)
    }

    fn preferred(&self) -> Option<u32> {
        self.eligible().map(|candidate| candidate.priority).min()
    }

    fn first_in_turn(&mut self, group: Option<u32>) -> Option<usize> {
        let is_open = |seat: &Seat| seat.first != Account::Closed;
        if self
            .seats
            .iter()
            .any(|seat| is_open(seat) != seat.candidate.is_in(group))
        {
            for seat in &mut self.seats {
                seat.first = if seat.candidate.is_in(group) {
                    Account::Open(0)
                } else {
                    Account::Closed
                };
            }
        }
        take_turn(self.seats.iter_mut().map(|seat| match &mut seat.first {
            Account::Open(credit) => Some((credit, seat.candidate.weight)),
            Account::Closed => None,
        }))
    }

    fn again_in_turn(&mut self, group: Option<u32>) -> Option<usize> {
        take_turn(self.seats.iter_mut().map(|seat| {
            seat.candidate
                .is_in(group)
                .then_some((&mut seat.again, seat.candidate.weight))
        }))
    }

    fn best(&mut self) -> Option<usize> {
        let (before, from) = self.seats.split_at(self.next_best.min(self.seats.len()));
        let places = (before.len()..).zip(from).chain((0..).zip(before));
        let (place, _) = places
            .filter(|(_, seat)| seat.candidate.role == Role::Eligible)
            .min_by_key(|(_, seat)| seat.candidate.cost_us())?;
        self.next_best = place.saturating_add(1);
        Some(place)
    }
}

/// One step of smooth weighted round robin over the members: their credit and weight. Gives the
/// place of the one whose turn it is.
#[expect(
    single_use_lifetimes,
    reason = "an anonymous lifetime cannot stand in `impl Trait` yet"
)]
fn take_turn<'s>(members: impl Iterator<Item = Option<(&'s mut i64, u32)>>) -> Option<usize> {
    let mut sum: i64 = 0;
    let mut richest: Option<(usize, &mut i64)> = None;
    for (place, member) in members.enumerate() {
        let Some((credit, weight)) = member else {
            continue;
        };
        *credit = credit.saturating_add(i64::from(weight));
        sum = sum.saturating_add(i64::from(weight));
        if richest.as_ref().is_none_or(|(_, most)| **most < *credit) {
            richest = Some((place, credit));
        }
    }
    let (place, credit) = richest?;
    *credit = credit.saturating_sub(sum);
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates as text: `a` to `z` in order, with `*weight`, `@priority`, `~latency_us`,
    /// `+active`, and `!` = out, `?` = last resort, `=` = tried.
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
                    role: match word.chars().find(|c| "!?=".contains(*c)) {
                        Some('!') => Role::Out,
                        Some('?') => Role::LastResort,
                        Some(_) => Role::Tried,
                        None => Role::Eligible,
                    },
                    weight: number('*').unwrap_or(1).try_into().unwrap(),
                    priority: number('@').unwrap_or(100).try_into().unwrap(),
                    latency_us: number('~').unwrap_or(0),
                    active: number('+').unwrap_or(0),
                }
            })
            .collect()
    }

    fn turns(chooser: &mut Chooser, mode: BalanceMode, text: &str, count: usize) -> String {
        let letter = |place: usize| char::from(b'a' + u8::try_from(place).unwrap());
        (0..count)
            .map(|_| {
                let choice = chooser.choose(mode, Turn::First, candidates(text).into_iter());
                choice.map_or('-', letter)
            })
            .collect()
    }

    fn check(mode: BalanceMode, text: &str, expected: &str) {
        let mut chooser = Chooser::new(text.split_whitespace().count());
        assert_eq!(
            turns(&mut chooser, mode, text, expected.len()),
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
    fn heavy_members_are_interleaved() {
        check(BalanceMode::RoundRobin, "a*5 b c", "aabacaaaabacaa");
        check(BalanceMode::RoundRobin, "a b*2", "bab");
    }

    #[test]
    fn six_hundred_picks_at_1_2_3_are_exactly_100_200_300() {
        let mut chooser = Chooser::new(3);
        let picks = turns(&mut chooser, BalanceMode::RoundRobin, "a b*2 c*3", 600);
        assert_eq!(shares(&picks), [100, 200, 300, 0, 0]);
    }

    #[test]
    fn every_full_cycle_is_exact() {
        let mut chooser = Chooser::new(5);
        let picks = turns(
            &mut chooser,
            BalanceMode::RoundRobin,
            "a*7 b*1 c*4 d*9 e*2",
            23 * 10,
        );
        for cycle in picks.as_bytes().chunks(23) {
            assert_eq!(shares(std::str::from_utf8(cycle).unwrap()), [7, 1, 4, 9, 2]);
        }
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
    fn the_last_resort_is_for_when_nobody_is_online() {
        for mode in [
            BalanceMode::RoundRobin,
            BalanceMode::Best,
            BalanceMode::Priority,
        ] {
            check(mode, "a? b c?", "bb");
            check(mode, "a? b! c?", "acac");
            check(mode, "a? b= c?", "--");
        }
    }

    #[test]
    fn the_others_share_exactly_from_any_moment_one_drops_out() {
        for before in 0..12 {
            let mut chooser = Chooser::new(3);
            turns(&mut chooser, BalanceMode::RoundRobin, "a b*2 c*3", before);
            let picks = turns(&mut chooser, BalanceMode::RoundRobin, "a! b*2 c*3", 50);
            assert_eq!(shares(&picks), [0, 20, 30, 0, 0], "after {before}");
            let picks = turns(&mut chooser, BalanceMode::RoundRobin, "a b*2 c*3", 60);
            assert_eq!(shares(&picks), [10, 20, 30, 0, 0], "after {before}");
        }
    }

    #[test]
    fn second_attempts_do_not_disturb_the_shares_of_first_ones() {
        let mut chooser = Chooser::new(3);
        let mut firsts = String::new();
        let mut seconds = String::new();
        for _ in 0..60 {
            let first = turns(&mut chooser, BalanceMode::RoundRobin, "a b*2 c*3", 1);
            if first == "a" {
                let rest = candidates("a! b*2 c*3").into_iter();
                let second = chooser.choose(BalanceMode::RoundRobin, Turn::Again, rest);
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
    fn one_never_measured_counts_as_the_fastest() {
        check(BalanceMode::Best, "a~1 b c~1", "bb");
    }

    #[test]
    fn weights_and_priorities_do_not_count_in_best() {
        check(BalanceMode::Best, "a~9*100@1 b~8", "bb");
    }
}
