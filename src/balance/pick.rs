//! The choice of an upstream for one attempt.
//!
//! Round robin is the smooth weighted kind that nginx uses: each member gains its weight, the
//! richest is taken and pays the sum of all. So a full cycle has exactly the configured shares,
//! heavy members do not come in a row, and a weight of four thousand million costs what a weight
//! of 1 costs. Members that are out neither gain nor pay, and when the set of members changes the
//! count begins anew, so the others keep exact shares from there on. A suspect stays a member, for it is
//! back in a moment: it neither gains nor pays meanwhile. Second attempts have an account of their own: a
//! member that fails must not disturb the shares of the others.
//!
//! The best is the one with the lowest latency, load and share of errors. Errors are costs and not
//! speed: else the upstream that fails fastest would get the most.
//!
//! Not here: which ones may be chosen ([`super::pool`] says so with [`Candidate::availability`]).

use std::fmt;

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

/// A candidate and its accounts.
#[derive(Debug)]
struct Member {
    candidate: Candidate,
    /// None: it is not in the set that shares.
    first: Option<i64>,
    again: i64,
}

/// Remembers what was chosen before. One per pool.
#[derive(Debug)]
pub(super) struct Chooser {
    members: Vec<Member>,
    /// Where the search for the best begins, so that ties rotate.
    next_best: usize,
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

    /// In microseconds of latency. An error costs a second, so its share in millionths is its cost.
    fn cost_us(&self, average_us: u64) -> u64 {
        self.latency_us
            .unwrap_or(average_us)
            .saturating_add(self.active.saturating_mul(ACTIVE_COST_US))
            .saturating_add(self.errors)
    }

    /// Whether it shares with the members of a group; no group: with all.
    fn is_in(&self, group: Option<u32>) -> bool {
        self.availability != Availability::Offline
            && group.is_none_or(|priority| self.priority == priority)
    }
}

impl Chooser {
    pub(super) fn new(members: usize) -> Self {
        let member = || Member {
            candidate: Candidate::OUT,
            first: None,
            again: 0,
        };
        Self {
            members: std::iter::repeat_with(member).take(members).collect(),
            next_best: 0,
        }
    }

    /// Chooses among `candidates`, which come in the same order each time; gives the place of the
    /// one chosen. Costs O(candidates), allocates nothing.
    pub(super) fn choose(
        &mut self,
        mode: BalanceMode,
        account: Account,
        candidates: impl Iterator<Item = Candidate>,
    ) -> Option<usize> {
        for (member, candidate) in self.members.iter_mut().zip(candidates) {
            member.candidate = candidate;
        }
        // Decided on the same look at the candidates as the choice itself, so that an upstream that changes
        // right now cannot leave a request between the two.
        let availabilities = self.candidates().map(|candidate| candidate.availability);
        let best = availabilities
            .filter(|availability| *availability != Availability::Offline)
            .min()?;
        let group = match mode {
            BalanceMode::RoundRobin | BalanceMode::Best => None,
            BalanceMode::Priority => Some(self.preferred(best)?),
        };
        match (mode, account) {
            (BalanceMode::Best, _) => self.best(best),
            (BalanceMode::RoundRobin | BalanceMode::Priority, Account::First) => {
                self.first_in_turn(best, group)
            }
            (BalanceMode::RoundRobin | BalanceMode::Priority, Account::Again) => {
                self.again_in_turn(best, group)
            }
        }
    }

    fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.members.iter().map(|member| &member.candidate)
    }

    fn preferred(&self, availability: Availability) -> Option<u32> {
        self.candidates()
            .filter(|candidate| candidate.availability == availability)
            .map(|candidate| candidate.priority)
            .min()
    }

    fn first_in_turn(&mut self, availability: Availability, group: Option<u32>) -> Option<usize> {
        let is_settled = |member: &Member| member.first.is_some() == member.candidate.is_in(group);
        if !self.members.iter().all(is_settled) {
            for member in &mut self.members {
                member.first = member.candidate.is_in(group).then_some(0);
            }
        }
        take_turn(self.members.iter_mut().map(|member| {
            let takes_part = member.candidate.availability == availability;
            let credit = member.first.as_mut().filter(|_| takes_part)?;
            Some((credit, member.candidate.weight))
        }))
    }

    fn again_in_turn(&mut self, availability: Availability, group: Option<u32>) -> Option<usize> {
        take_turn(self.members.iter_mut().map(|member| {
            let candidate = member.candidate;
            let takes_part = candidate.availability == availability && candidate.is_in(group);
            takes_part.then_some((&mut member.again, candidate.weight))
        }))
    }

    fn best(&mut self, availability: Availability) -> Option<usize> {
        let is_one = |candidate: &Candidate| candidate.availability == availability;
        let those = self.candidates().filter(|candidate| is_one(candidate));
        let average = average(those.map(|candidate| candidate.latency_us)).unwrap_or(0);
        let (before, from) = self
            .members
            .split_at(self.next_best.min(self.members.len()));
        let places = (before.len()..).zip(from).chain((0..).zip(before));
        let (place, _) = places
            .filter(|(_, member)| is_one(&member.candidate))
            .min_by_key(|(_, member)| member.candidate.cost_us(average))?;
        self.next_best = place.saturating_add(1);
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

    fn turns(chooser: &mut Chooser, mode: BalanceMode, text: &str, count: usize) -> String {
        let letter = |place: usize| char::from(b'a' + u8::try_from(place).unwrap());
        (0..count)
            .map(|_| {
                let choice = chooser.choose(mode, Account::First, candidates(text).into_iter());
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
        let mut chooser = Chooser::new(3);
        let mut picks = String::new();
        for round in 0..30 {
            let of = if round % 3 == 0 { "a b? c" } else { "a b c" };
            picks.push_str(&turns(&mut chooser, BalanceMode::RoundRobin, of, 1));
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
                let second = chooser.choose(BalanceMode::RoundRobin, Account::Again, rest);
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
