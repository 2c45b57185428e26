//! The checks under way: which question is asked of which upstream next.
//!
//! [`super::rules`] says what follows from an answer; this is the book that is kept meanwhile: of every
//! upstream its plan and its check, the controls that a check waits for, and what is asked to find out
//! whether the target of the probe can be believed again.
//!
//! No IO, no clock, no thread: the prober hands in the answers and the time, and asks what this says is to
//! be asked. So whole outages are played in virtual time (`health/examiner/tests.rs`).
//!
//! Not here: when a check is due ([`super::schedule`]), asking ([`super::question`]), what a verdict does to
//! an upstream ([`crate::balance::state`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::pool::Pool;
use crate::balance::reason::{Depth, OfflineReason};
use crate::balance::state::{CheckVerdict, Epoch, Thresholds};
use crate::balance::upstream::Upstream;
use crate::balance::vitals::UpstreamId;
use crate::config::health::{HealthCheck, ProbeTarget};

use super::outliers::Outliers;
use super::question::{self, CheckAnswer, CheckQuestion};
use super::rules::{Premises, Step, passes};
use super::schedule::{CheckOutcome, Due, Pace, Plan};

/// The longest time between two looks at the pool, should a thread forget to ring.
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
    /// A check of the upstream that is asked.
    Check(CheckId),
    /// The check of another upstream.
    Control(CheckId),
    /// To find out whether the target can be believed again.
    Target,
}

/// An upstream, and the number of its check.
type CheckId = (UpstreamId, u64);

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
    checks_begun: u64,
    target: Option<ProbeTarget>,
    /// Whether the target can be believed again, while that is asked.
    target_poll: Option<Poll>,
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
    number: u64,
    began: Epoch,
    depth: Depth,
    stage: Stage,
}

/// The question that a check waits for.
#[derive(Debug)]
enum Stage {
    Itself,
    /// `itself`: what the upstream answered for itself.
    Probe {
        itself: CheckAnswer,
    },
    /// The probe did not pass here; if it does elsewhere, `reason` is held against the upstream.
    Controls {
        reason: OfflineReason,
        poll: Poll,
    },
}

/// The probe sent through several upstreams.
#[derive(Debug)]
struct Poll {
    asked: usize,
    /// What each got, by its name.
    got: Vec<(String, CheckAnswer)>,
}

impl Examiner {
    pub(super) fn new(chance: fn() -> u64) -> Self {
        Self {
            records: HashMap::new(),
            checks_begun: 0,
            target: None,
            target_poll: None,
            outliers: Outliers::default(),
            chance,
            verdicts: Vec::new(),
        }
    }

    /// Whether no check is under way or due by itself.
    pub(super) fn is_idle(&self) -> bool {
        self.target_poll.is_none()
            && self
                .records
                .values()
                .all(|record| record.check.is_none() && !record.upstream.vitals().is_offline())
    }

    /// The verdicts of checks since the last call.
    pub(super) fn take_verdicts(&mut self) -> Vec<CheckVerdict> {
        std::mem::take(&mut self.verdicts)
    }

    /// The pool is another one, after a reload or at the start.
    pub(super) fn follow_pool(&mut self, pool: &Pool) {
        let mut before = std::mem::take(&mut self.records);
        self.records = pool
            .upstreams()
            .iter()
            .map(|upstream| {
                let known = before.remove(&upstream.id());
                let (plan, check) =
                    known.map_or_else(Default::default, |one| (one.plan, one.check));
                let upstream = Arc::clone(upstream);
                (
                    upstream.id(),
                    Record {
                        upstream,
                        plan,
                        check,
                    },
                )
            })
            .collect();
    }

    /// Another target is believed until it is asked, and it is asked through all upstreams.
    fn follow_target(&mut self, ctx: CheckContext<'_>) {
        if self.target.as_ref() == Some(&ctx.health.target) {
            return;
        }
        let before = self.target.replace(ctx.health.target.clone());
        if before.is_some() {
            ctx.pool.belief().believe();
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
                Due::Now(urgency) => due.push((urgency, vitals.id())),
                Due::At(at) => pause = pause.min(at.saturating_duration_since(ctx.now)),
                Due::Never => {}
            }
        }
        // A stable sort: equals in the order of the file.
        due.sort_by_key(|(urgency, _)| *urgency);
        let mut inquiries: Vec<_> = due
            .into_iter()
            .take(room)
            .filter_map(|(_, id)| self.begin(id, ctx.health))
            .collect();
        inquiries.extend(self.ask_target(ctx));
        self.watch_outliers(ctx);
        (inquiries, pause)
    }

    fn begin(&mut self, id: UpstreamId, health: &HealthCheck) -> Option<Inquiry> {
        self.checks_begun += 1;
        let number = self.checks_begun;
        let record = self.records.get_mut(&id)?;
        let (began, depth) = record.upstream.vitals().check_begins();
        record.check = Some(OpenCheck {
            number,
            began,
            depth: depth.max(record.plan.wanted_depth()),
            stage: Stage::Itself,
        });
        let purpose = Purpose::Check((id, number));
        let what = (CheckQuestion::Itself, purpose);
        Some(Inquiry::new(&record.upstream, what, health))
    }

    /// Takes an answer in; gives the questions that follow from it.
    pub(super) fn answered(
        &mut self,
        ctx: CheckContext<'_>,
        inquiry: &Inquiry,
        answer: CheckAnswer,
    ) -> Vec<Inquiry> {
        let heard = (&*inquiry.upstream, answer);
        let has_passed = passes(ctx.health, answer);
        match inquiry.purpose {
            Purpose::Check(id) => return self.check_answered(ctx, id, answer),
            Purpose::Control(id) => {
                if has_passed {
                    self.believe(ctx);
                }
                self.compared(ctx, id, heard);
            }
            Purpose::Target if has_passed => self.believe(ctx),
            Purpose::Target => self.target_answered(ctx, heard),
        }
        Vec::new()
    }

    /// The check of this number, if it is still under way, and its upstream.
    fn open(&mut self, (id, number): CheckId) -> Option<(&Arc<Upstream>, &mut OpenCheck)> {
        let record = self.records.get_mut(&id)?;
        let check = record.check.as_mut()?;
        (check.number == number).then_some((&record.upstream, check))
    }

    fn check_answered(
        &mut self,
        ctx: CheckContext<'_>,
        id: CheckId,
        answer: CheckAnswer,
    ) -> Vec<Inquiry> {
        let Some((upstream, check)) = self.open(id) else {
            return Vec::new();
        };
        let premises = Premises {
            health: ctx.health,
            spec: &upstream.spec,
            availability: upstream.vitals().availability(),
            depth: check.depth,
            is_believed: ctx.pool.belief().is_believed(ctx.now),
        };
        let step = match check.stage {
            Stage::Itself => premises.after_itself(answer),
            Stage::Probe { itself } => premises.after_probe(itself, answer),
            Stage::Controls { .. } => return Vec::new(),
        };
        match step {
            Step::Probe => {
                check.stage = Stage::Probe { itself: answer };
                return vec![Inquiry::probe(upstream, Purpose::Check(id), ctx.health)];
            }
            Step::Compare(reason) => return self.compare(ctx, id, (reason, answer)),
            Step::Passes => {
                self.believe(ctx);
                let verdict = CheckVerdict::Works(Depth::Probe);
                self.end(ctx, id, Some(verdict), "the probe passed");
            }
            Step::Works(depth, evidence) => {
                self.end(ctx, id, Some(CheckVerdict::Works(depth)), evidence);
            }
            Step::Fails(reason) => self.end(ctx, id, Some(CheckVerdict::Fails(reason)), ""),
            Step::NotAsked => self.end(ctx, id, None, ""),
        }
        Vec::new()
    }

    /// The probe did not pass through the upstream, which got `answer`: now it is sent through others.
    fn compare(
        &mut self,
        ctx: CheckContext<'_>,
        id: CheckId,
        (reason, answer): (OfflineReason, CheckAnswer),
    ) -> Vec<Inquiry> {
        // Those that take requests first.
        let others = self.draw(ctx, CONTROLS, |other| {
            (other.id() != id.0).then(|| other.vitals().availability())
        });
        let Some((upstream, check)) = self.open(id) else {
            return Vec::new();
        };
        let upstream = Arc::clone(upstream);
        let poll = Poll::new(1 + others.len());
        check.stage = Stage::Controls { reason, poll };
        self.compared(ctx, id, (&upstream, answer));
        let control = |other| Inquiry::probe(other, Purpose::Control(id), ctx.health);
        others.iter().map(control).collect()
    }

    /// Takes in what one of those got that a check compares. It ends with the first that the probe passes
    /// through, or when all have answered.
    fn compared(
        &mut self,
        ctx: CheckContext<'_>,
        id: CheckId,
        (through, answer): (&Upstream, CheckAnswer),
    ) {
        let Some((_, check)) = self.open(id) else {
            return;
        };
        let Stage::Controls { reason, poll } = &mut check.stage else {
            return;
        };
        if passes(ctx.health, answer) {
            let verdict = CheckVerdict::Fails(*reason);
            let evidence = format!("the probe passes through {}", through.spec.name);
            return self.end(ctx, id, Some(verdict), &evidence);
        }
        poll.note(through, answer);
        if poll.is_open() {
            return;
        }
        let Some(seen) = poll.seen() else {
            return self.end(ctx, id, None, "");
        };
        disbelieve(ctx, &seen);
        let verdict = CheckVerdict::Works(Depth::Probe);
        let evidence = format!("the probe's target is at fault ({seen})");
        self.end(ctx, id, Some(verdict), &evidence);
    }

    /// A check ends; no verdict: it could not be carried out.
    fn end(
        &mut self,
        ctx: CheckContext<'_>,
        (id, _): CheckId,
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
        let outcome = match verdict {
            None => CheckOutcome::NotAsked,
            Some(CheckVerdict::Works(_)) => CheckOutcome::Passed,
            Some(CheckVerdict::Fails(_)) => CheckOutcome::Failed,
        };
        if let Some(verdict) = verdict {
            let thresholds = Thresholds {
                fall: ctx.health.fall,
                rise: ctx.health.rise,
            };
            match vitals.check_ended(check.began, verdict, thresholds, ctx.unix_ms) {
                Some(change) => record.upstream.tell(change, evidence),
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
        record.plan.ended(ctx.now, outcome, availability, pace);
    }

    /// When the time of a disbelief is over, a few upstreams are asked before the target is believed.
    fn ask_target(&mut self, ctx: CheckContext<'_>) -> Vec<Inquiry> {
        let belief = ctx.pool.belief();
        let doubted_until = belief.doubted_until();
        if self.target_poll.is_some() || doubted_until.is_none_or(|until| ctx.now < until) {
            return Vec::new();
        }
        let asked = self.draw(ctx, CONTROLS + 1, |one| {
            (!one.vitals().is_offline()).then_some(())
        });
        if asked.is_empty() {
            return Vec::new();
        }
        belief.wait_until(ctx.now + question::limit(ctx.health) * 2);
        self.target_poll = Some(Poll::new(asked.len()));
        let ask = |upstream| Inquiry::probe(upstream, Purpose::Target, ctx.health);
        asked.iter().map(ask).collect()
    }

    fn target_answered(
        &mut self,
        ctx: CheckContext<'_>,
        (through, answer): (&Upstream, CheckAnswer),
    ) {
        let Some(poll) = &mut self.target_poll else {
            return;
        };
        poll.note(through, answer);
        if !poll.is_open() {
            let seen = poll.seen();
            self.target_poll = None;
            if let Some(seen) = seen {
                disbelieve(ctx, &seen);
            }
        }
    }

    /// The probe has passed.
    fn believe(&mut self, ctx: CheckContext<'_>) {
        self.target_poll = None;
        if ctx.pool.belief().believe() {
            log::info!(
                "the probe passes again: health_check.url {} is believed",
                ctx.health.target
            );
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
        drawn.sort_by_key(|(rank, chance, _)| (*rank, *chance));
        let drawn = drawn.into_iter().take(most);
        drawn.map(|(.., upstream)| Arc::clone(upstream)).collect()
    }

    /// Takes upstreams offline that fail what others serve, while no probe can tell.
    fn watch_outliers(&mut self, ctx: CheckContext<'_>) {
        let is_believed = ctx.health.target == ProbeTarget::Nothing
            || ctx.pool.belief().doubted_until().is_none();
        if is_believed {
            self.outliers.clear();
            return;
        }
        for outlier in self.outliers.look(ctx.now, ctx.pool) {
            let upstream = &outlier.upstream;
            let vitals = upstream.vitals();
            if let Some(change) = vitals.eject(vitals.epoch(), ctx.unix_ms) {
                upstream.tell(change, &outlier.evidence);
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

    fn probe(upstream: &Arc<Upstream>, purpose: Purpose, health: &HealthCheck) -> Self {
        Self::new(upstream, (CheckQuestion::Probe, purpose), health)
    }
}

impl Poll {
    fn new(asked: usize) -> Self {
        Self {
            asked,
            got: Vec::new(),
        }
    }

    fn note(&mut self, through: &Upstream, answer: CheckAnswer) {
        self.got.push((through.spec.name.clone(), answer));
    }

    /// Whether others are to answer yet.
    fn is_open(&self) -> bool {
        self.got.len() < self.asked
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

/// How many questions are open at the same moment at most: of every upstream the controls of its check, and
/// those about the target.
pub(super) fn most_questions(upstreams: usize) -> usize {
    let controls = upstreams.saturating_sub(1).clamp(1, CONTROLS);
    let about_target = upstreams.min(CONTROLS + 1);
    upstreams
        .saturating_mul(controls)
        .saturating_add(about_target)
}

/// The probe has passed through no upstream.
fn disbelieve(ctx: CheckContext<'_>, seen: &str) {
    if ctx.pool.belief().doubt(ctx.now, seen, ctx.unix_ms) {
        log::warn!(
            "the probe passes through no upstream ({seen}): health_check.url {} is at fault, or the \
             way to it, and is not believed; upstreams are judged by whether they answer for themselves",
            ctx.health.target
        );
    }
}

#[cfg(test)]
mod tests;
