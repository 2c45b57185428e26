//! The checks under way: which question is asked of which upstream next.
//!
//! [`super::rules`] says what follows from an answer; this is the book that is kept meanwhile: of every
//! upstream its plan and its check, the controls that a check waits for, and what is asked to find out
//! whether the target of the probe can be believed again. Both are of the group of the upstream: another one may be in
//! another network, where another target can be reached.
//!
//! No IO, no clock, no thread: the prober hands in the answers and the time, and asks what this says is to
//! be asked. So whole outages are played in virtual time (`health/examiner/tests.rs`).
//!
//! Not here: when a check is due ([`super::schedule`]), asking ([`super::question`]), what a verdict does to
//! an upstream ([`crate::balance::state`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::history::EventKind;
use crate::balance::pool::Pool;
use crate::balance::reason::{Depth, OfflineReason};
use crate::balance::state::{CheckVerdict, Epoch, Thresholds};
use crate::balance::upstream::Upstream;
use crate::balance::vitals::UpstreamId;
use crate::config::health::{HealthCheck, ProbeTarget};

use super::outliers::Outliers;
use super::question::{self, CheckAnswer, CheckQuestion};
use super::rules::{CheckStep, Premises, passes};
use super::schedule::{Due, Pace, Plan};

/// The longest time between two looks at the pool, in case a notification was missed.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How many others are asked whether the probe passes through them.
const CONTROLS: usize = 3;

/// A question to be asked now.
#[derive(Clone, Debug)]
pub(super) struct Inquiry {
    pub(super) upstream: Arc<Upstream>,
    pub(super) question: CheckQuestion,
    /// How long the answer may take.
    pub(super) limit: Duration,
    purpose: Purpose,
}

/// What the answer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// The check of the upstream that is asked.
    Check,
    /// The poll of this number.
    Poll(u64),
}

/// What the examiner needs to know about the moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckContext<'a> {
    pub(super) pool: &'a Pool,
    pub(super) health: &'a HealthCheck,
    pub(super) now: Instant,
    /// The same in milliseconds since 1970, for people.
    pub(super) unix_ms: u64,
}

/// All checks and plans. One per process.
#[derive(Debug)]
pub(super) struct Examiner {
    records: HashMap<UpstreamId, Record>,
    /// Those that are not over, by number.
    polls: HashMap<u64, Poll>,
    polls_begun: u64,
    target: Option<ProbeTarget>,
    outliers: Outliers,
    /// A number that cannot be foretold.
    chance: fn() -> u64,
    /// Verdicts since they were last taken.
    verdicts: Vec<CheckVerdict>,
}

/// What is remembered of one upstream.
#[derive(Debug)]
struct Record {
    upstream: Arc<Upstream>,
    plan: Plan,
    check: Option<OpenCheck>,
}

/// A check under way.
#[derive(Debug)]
struct OpenCheck {
    began: Epoch,
    depth: Depth,
    /// What the upstream has answered for itself.
    itself: Option<CheckAnswer>,
}

/// The probe sent through several upstreams. It is over when it passes, or when all have answered.
#[derive(Debug)]
struct Poll {
    asked: usize,
    /// What each got, by its name.
    got: Vec<(String, CheckAnswer)>,
    wanted: Finding,
}

/// What a poll is to find out.
#[derive(Debug)]
enum Finding {
    /// Whether this is to be held against the upstream, whose check it ends: if the probe passes elsewhere.
    Guilt(UpstreamId, OfflineReason),
    /// Whether the target can be believed again in this group.
    Belief(Option<Box<str>>),
}

impl Examiner {
    pub(super) fn new(chance: fn() -> u64) -> Self {
        Self {
            records: HashMap::new(),
            polls: HashMap::new(),
            polls_begun: 0,
            target: None,
            outliers: Outliers::default(),
            chance,
            verdicts: Vec::new(),
        }
    }

    /// Whether no check is under way or due by itself.
    pub(super) fn is_idle(&self) -> bool {
        let is_idle =
            |record: &Record| record.check.is_none() && !record.upstream.vitals().is_offline();
        self.polls.is_empty() && self.records.values().all(is_idle)
    }

    /// The verdicts of checks since the last call.
    pub(super) fn take_verdicts(&mut self) -> Vec<CheckVerdict> {
        std::mem::take(&mut self.verdicts)
    }

    /// The pool is another one, after a reload or at the start.
    pub(super) fn follow_pool(&mut self, pool: &Pool) {
        let mut before = std::mem::take(&mut self.records);
        for upstream in pool.upstreams() {
            let known = before.remove(&upstream.id());
            let (plan, check) = known.map_or_else(Default::default, |one| (one.plan, one.check));
            let record = Record {
                upstream: Arc::clone(upstream),
                plan,
                check,
            };
            self.records.insert(upstream.id(), record);
        }
        let records = &self.records;
        self.polls.retain(|_, poll| match &poll.wanted {
            Finding::Guilt(id, _) => records.contains_key(id),
            Finding::Belief(_) => true,
        });
    }

    /// Another target is believed until it is asked, and it is asked through all upstreams.
    fn follow_target(&mut self, ctx: CheckContext<'_>) {
        if self.target.as_ref() == Some(&ctx.health.target) {
            return;
        }
        let before = self.target.replace(ctx.health.target.clone());
        if before.is_some() {
            ctx.pool.belief().believe_all();
            for upstream in ctx.pool.upstreams() {
                upstream.vitals().want_check();
            }
        }
    }

    /// Begins the checks that are due, the urgent ones first and at most `room` of them: what is to be asked
    /// now, and when to look again.
    pub(super) fn look(&mut self, ctx: CheckContext<'_>, room: usize) -> (Vec<Inquiry>, Duration) {
        self.follow_target(ctx);
        let pace = Pace::new(ctx.health, self.chance);
        let mut pause = LOOK_AGAIN;
        let mut due = Vec::new();
        for upstream in ctx.pool.upstreams() {
            let vitals = upstream.vitals();
            let Some(record) = self.records.get_mut(&vitals.id()) else {
                continue;
            };
            if record.check.is_some() {
                continue;
            }
            if vitals.take_wanted_check() {
                record.plan.want(ctx.now);
            }
            let state = (vitals.epoch(), vitals.availability());
            match record.plan.look(ctx.now, state, pace) {
                Due::Now(urgency) => due.push((urgency, due.len(), vitals.id())),
                Due::At(at) => pause = pause.min(at.saturating_duration_since(ctx.now)),
                Due::Never => {}
            }
        }
        // Equals in the order of the file.
        due.sort_unstable_by_key(|(urgency, place, _)| (*urgency, *place));
        let mut inquiries: Vec<_> = due
            .into_iter()
            .take(room)
            .filter_map(|(.., id)| self.begin(id, ctx.health))
            .collect();
        inquiries.extend(self.ask_target(ctx));
        self.watch_outliers(ctx);
        (inquiries, pause)
    }

    fn begin(&mut self, id: UpstreamId, health: &HealthCheck) -> Option<Inquiry> {
        let record = self.records.get_mut(&id)?;
        let (began, depth) = record.upstream.vitals().check_begins();
        record.check = Some(OpenCheck {
            began,
            depth: depth.max(record.plan.wanted_depth()),
            itself: None,
        });
        let what = (CheckQuestion::Itself, Purpose::Check);
        Some(Inquiry::new(&record.upstream, what, health))
    }

    /// Takes an answer in; gives the questions that follow from it.
    pub(super) fn answered(
        &mut self,
        ctx: CheckContext<'_>,
        inquiry: &Inquiry,
        answer: CheckAnswer,
    ) -> Vec<Inquiry> {
        match inquiry.purpose {
            Purpose::Check => self.check_answered(ctx, inquiry.upstream.id(), answer),
            Purpose::Poll(number) => {
                self.poll_answered(ctx, number, (&inquiry.upstream, answer));
                Vec::new()
            }
        }
    }

    fn check_answered(
        &mut self,
        ctx: CheckContext<'_>,
        id: UpstreamId,
        answer: CheckAnswer,
    ) -> Vec<Inquiry> {
        let Some(Record {
            upstream,
            check: Some(check),
            ..
        }) = self.records.get_mut(&id)
        else {
            return Vec::new();
        };
        let premises = Premises {
            health: ctx.health,
            spec: &upstream.spec,
            availability: upstream.vitals().availability(),
            depth: check.depth,
            is_believed: ctx.pool.belief().is_believed(upstream.group(), ctx.now),
        };
        let step = match check.itself {
            None => premises.after_itself(answer),
            Some(itself) => premises.after_probe(itself, answer),
        };
        let (verdict, evidence) = match step {
            CheckStep::Probe => {
                check.itself = Some(answer);
                let what = (CheckQuestion::Probe, Purpose::Check);
                return vec![Inquiry::new(upstream, what, ctx.health)];
            }
            CheckStep::Compare(reason) => {
                let accused = Arc::clone(upstream);
                return self.compare(ctx, &accused, (reason, answer));
            }
            CheckStep::Passes => {
                let group = upstream.spec.group.clone();
                self.believe(ctx, group.as_deref());
                (Some(CheckVerdict::Works(Depth::Probe)), "the probe passed")
            }
            CheckStep::Works(depth, evidence) => (Some(CheckVerdict::Works(depth)), evidence),
            CheckStep::Fails(reason) => (Some(CheckVerdict::Fails(reason)), ""),
            CheckStep::NotAsked => (None, ""),
        };
        self.end(ctx, id, verdict, evidence);
        Vec::new()
    }

    /// The probe did not pass through `accused`, which got `answer`: now it is sent through others.
    fn compare(
        &mut self,
        ctx: CheckContext<'_>,
        accused: &Upstream,
        (reason, answer): (OfflineReason, CheckAnswer),
    ) -> Vec<Inquiry> {
        // Those that take requests first.
        let others = self.draw(ctx, CONTROLS, |other| {
            let is_peer = other.group() == accused.group() && other.id() != accused.id();
            is_peer.then(|| other.vitals().availability())
        });
        let number = self.poll(1 + others.len(), Finding::Guilt(accused.id(), reason));
        self.poll_answered(ctx, number, (accused, answer));
        probes(&others, number, ctx.health)
    }

    /// When the time of a disbelief is over, a few upstreams are asked before the target is believed.
    fn ask_target(&mut self, ctx: CheckContext<'_>) -> Vec<Inquiry> {
        let groups = ctx.pool.belief().doubted().into_iter();
        groups
            .flat_map(|group| self.ask_target_of(ctx, group.as_deref()))
            .collect()
    }

    fn ask_target_of(&mut self, ctx: CheckContext<'_>, group: Option<&str>) -> Vec<Inquiry> {
        let belief = ctx.pool.belief();
        let is_asked = self.polls.values().any(|poll| poll.is_about_target(group));
        let doubted_until = belief.doubted_until(group);
        if is_asked || doubted_until.is_none_or(|until| ctx.now < until) {
            return Vec::new();
        }
        let asked = self.draw(ctx, CONTROLS + 1, |one| {
            (one.group() == group && !one.vitals().is_offline()).then_some(())
        });
        if asked.is_empty() {
            return Vec::new();
        }
        belief.wait_until(group, ctx.now + question::limit(ctx.health) * 2);
        let number = self.poll(asked.len(), Finding::Belief(group.map(Into::into)));
        probes(&asked, number, ctx.health)
    }

    /// Begins a poll of so many upstreams; gives its number.
    fn poll(&mut self, asked: usize, wanted: Finding) -> u64 {
        self.polls_begun += 1;
        let poll = Poll {
            asked,
            got: Vec::new(),
            wanted,
        };
        self.polls.insert(self.polls_begun, poll);
        self.polls_begun
    }

    fn poll_answered(
        &mut self,
        ctx: CheckContext<'_>,
        number: u64,
        (through, answer): (&Upstream, CheckAnswer),
    ) {
        let has_passed = passes(ctx.health, answer);
        if has_passed {
            self.believe(ctx, through.group());
        }
        let Some(mut poll) = self.polls.remove(&number) else {
            return;
        };
        let name = &through.spec.name;
        poll.got.push((name.clone(), answer));
        if !has_passed && poll.got.len() < poll.asked {
            self.polls.insert(number, poll);
            return;
        }
        let seen = poll.seen();
        if !has_passed && let Some(seen) = &seen {
            disbelieve(ctx, through.group(), seen);
        }
        let Finding::Guilt(id, reason) = poll.wanted else {
            return;
        };
        let (verdict, evidence) = match seen {
            _ if has_passed => (
                Some(CheckVerdict::Fails(reason)),
                format!("the probe passes through {name}"),
            ),
            Some(seen) => (
                Some(CheckVerdict::Works(Depth::Probe)),
                format!("it answers for itself; the probe is not believed ({seen})"),
            ),
            None => (None, String::new()),
        };
        self.end(ctx, id, verdict, &evidence);
    }

    /// A check ends; no verdict: it could not be carried out.
    fn end(
        &mut self,
        ctx: CheckContext<'_>,
        id: UpstreamId,
        verdict: Option<CheckVerdict>,
        evidence: &str,
    ) {
        let Some(record) = self.records.get_mut(&id) else {
            return;
        };
        let Some(check) = record.check.take() else {
            return;
        };
        let vitals = record.upstream.vitals();
        if let Some(verdict) = verdict {
            let thresholds = Thresholds {
                fall: ctx.health.fall,
                rise: ctx.health.rise,
            };
            let name = &record.upstream.spec.name;
            log::debug!("the check of {name} is over: {verdict:?}; {evidence}");
            match vitals.check_ended(check.began, verdict, thresholds, ctx.unix_ms) {
                Some(change) => record.upstream.tell(change, evidence, ctx.unix_ms),
                None => vitals.set_evidence(evidence),
            }
            match verdict {
                CheckVerdict::Works(_) => vitals.works(ctx.now),
                // What refuses our credentials still answers what it has taken.
                CheckVerdict::Fails(OfflineReason::Auth) => {}
                CheckVerdict::Fails(_) => vitals.give_up_waiting(),
            }
            self.verdicts.push(verdict);
        } else {
            vitals.check_abandoned();
        }
        let pace = Pace::new(ctx.health, self.chance);
        let availability = vitals.availability();
        record.plan.ended(ctx.now, verdict, availability, pace);
    }

    /// The probe has passed through an upstream of this group.
    fn believe(&mut self, ctx: CheckContext<'_>, group: Option<&str>) {
        // Whether it can be believed again is no question any more.
        self.polls.retain(|_, poll| !poll.is_about_target(group));
        if ctx.pool.belief().believe(group) {
            let text = format!(
                "the probe passes again{}: health_check.url {} is believed",
                of_group(group),
                ctx.health.target
            );
            log::info!("{text}");
            let history = ctx.pool.history();
            history.add(ctx.unix_ms, EventKind::ProbeBelieved, None, &text);
        }
    }

    /// Upstreams to send the probe through, at most so many: the lowest `rank` first, equals in an order that
    /// cannot be foretold. No rank: not this one.
    fn draw<R: Ord + Copy>(
        &self,
        ctx: CheckContext<'_>,
        most: usize,
        rank: impl Fn(&Upstream) -> Option<R>,
    ) -> Vec<Arc<Upstream>> {
        let upstreams = ctx.pool.upstreams().iter();
        let mut drawn: Vec<_> = upstreams
            .filter_map(|upstream| Some((rank(upstream)?, (self.chance)(), upstream)))
            .collect();
        drawn.sort_unstable_by_key(|(rank, chance, _)| (*rank, *chance));
        let drawn = drawn.into_iter().take(most);
        drawn.map(|(.., upstream)| Arc::clone(upstream)).collect()
    }

    /// Takes upstreams offline that fail what others serve, while no probe can tell.
    fn watch_outliers(&mut self, ctx: CheckContext<'_>) {
        for outlier in self.outliers.look(ctx.now, ctx.pool) {
            let upstream = &outlier.upstream;
            let vitals = upstream.vitals();
            if let Some(change) = vitals.eject(vitals.epoch(), ctx.unix_ms) {
                upstream.tell(change, &outlier.evidence, ctx.unix_ms);
                if let Some(record) = self.records.get_mut(&upstream.id()) {
                    let until = ctx.now + outlier.rest;
                    record.plan.hold_until(vitals.epoch(), until);
                }
            }
        }
    }
}

impl Inquiry {
    fn new(
        upstream: &Arc<Upstream>,
        (question, purpose): (CheckQuestion, Purpose),
        health: &HealthCheck,
    ) -> Self {
        Self {
            upstream: Arc::clone(upstream),
            question,
            limit: question::limit(health),
            purpose,
        }
    }
}

impl Poll {
    /// Whether it is to find out if the target can be believed again in this group.
    fn is_about_target(&self, group: Option<&str>) -> bool {
        matches!(&self.wanted, Finding::Belief(of) if of.as_deref() == group)
    }

    /// `a got 403, b got no answer`; none: some could not be asked, so all of it proves nothing.
    fn seen(&self) -> Option<String> {
        if self
            .got
            .iter()
            .any(|(_, got)| *got == CheckAnswer::NotAsked)
        {
            return None;
        }
        let each = self.got.iter().map(|(name, got)| format!("{name} {got}"));
        Some(each.collect::<Vec<_>>().join(", "))
    }
}

/// The questions of a poll.
fn probes(through: &[Arc<Upstream>], number: u64, health: &HealthCheck) -> Vec<Inquiry> {
    let what = (CheckQuestion::Probe, Purpose::Poll(number));
    let probe = |upstream| Inquiry::new(upstream, what, health);
    through.iter().map(probe).collect()
}

/// How many questions are open at the same moment at most: of every upstream the controls of its check, and
/// those about the target.
pub(super) fn most_questions(upstreams: usize, groups: usize) -> usize {
    let controls = upstreams.saturating_sub(1).clamp(1, CONTROLS);
    let about_target = upstreams.min((CONTROLS + 1) * groups);
    upstreams
        .saturating_mul(controls)
        .saturating_add(about_target)
}

fn of_group(group: Option<&str>) -> String {
    group.map_or_else(String::new, |group| format!(" in group {group}"))
}

/// The probe has passed through no upstream of this group.
fn disbelieve(ctx: CheckContext<'_>, group: Option<&str>, seen: &str) {
    let belief = ctx.pool.belief();
    if belief.doubt(group, ctx.now, seen, ctx.unix_ms) {
        let where_to = of_group(group);
        let text = format!(
            "the probe passes through no upstream{where_to} ({seen}): health_check.url {} is at fault, or the \
             way to it, and is not believed; upstreams are judged by whether they answer for themselves",
            ctx.health.target
        );
        log::warn!("{text}");
        let history = ctx.pool.history();
        history.add(ctx.unix_ms, EventKind::ProbeNotBelieved, None, &text);
    }
}

#[cfg(test)]
mod tests;
