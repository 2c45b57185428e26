//! The checks under way: which question is asked of which upstream next, and what the answers mean.
//!
//! A check has up to three questions. Does the upstream answer for itself? Does the probe pass through it?
//! If not: does it pass through another one, at this moment? Only a probe that passes elsewhere accuses an
//! upstream; one that passes nowhere accuses its target, which is then not believed for a while, and the
//! first question alone decides. While it is not believed, the traffic tells what no probe can: see
//! [`super::outliers`].
//!
//! No IO, no clock, no thread: the prober hands in the answers and the time, and asks what this says is to
//! be asked. So whole outages are played in virtual time (`health/situations.rs`).
//!
//! Not here: when a check is due ([`super::schedule`]), asking ([`super::question`]), what a verdict does to
//! an upstream ([`crate::balance::state`]).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::pool::Pool;
use crate::balance::reason::{Depth, OfflineReason};
use crate::balance::state::{Availability, Epoch, Thresholds, Verdict};
use crate::balance::upstream::{Upstream, UpstreamSpec};
use crate::balance::vitals::UpstreamId;
use crate::config::health::{HealthCheck, ProbeTarget};

use super::outliers::Outliers;
use super::schedule::{Due, Outcome, Pace, Plan};

/// The longest time between two looks at the pool, for whoever forgets to ring.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How many others are asked whether the probe passes through them.
const CONTROLS: usize = 3;

/// What is asked of an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// Whether it answers for itself.
    Itself,
    /// Whether the probe passes through it.
    Probe,
}

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// This status.
    Status(u16),
    /// No connection could be made, for the reason given.
    CannotConnect(&'static str),
    /// Nothing in time.
    Unanswered,
    /// The end of the connection.
    Closed,
    /// Something that is not HTTP.
    NotHttp,
    /// This process could not ask, which proves nothing.
    NotAsked,
}

/// A question to be asked now.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) upstream: Arc<Upstream>,
    pub(super) question: Question,
    /// How long the answer may take.
    pub(super) limit: Duration,
    purpose: Purpose,
}

/// What the answer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// The check of this number, of the upstream that is asked.
    Check(u64),
    /// The check of this number, of another upstream.
    Control(u64, UpstreamId),
    /// To find out whether the target can be believed again.
    Target,
}

/// What is to be done now, and when to look again.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) asks: Vec<Ask>,
    pub(super) pause: Duration,
}

/// What the examiner needs to know about the moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'a> {
    pub(super) pool: &'a Pool,
    pub(super) health: &'a HealthCheck,
    pub(super) now: Instant,
    /// The same in milliseconds since 1970, for people.
    pub(super) unix_ms: u64,
}

/// All checks and plans. One per process.
#[derive(Debug)]
pub(super) struct Examiner {
    watched: HashMap<UpstreamId, Watched>,
    checks_begun: u64,
    target: Option<ProbeTarget>,
    /// Questions about the target that are not answered yet, and what came back so far.
    target_asked: Option<Poll>,
    outliers: Outliers,
    /// A number nobody can foretell.
    chance: fn() -> u64,
    /// Verdicts since they were last taken.
    verdicts: Vec<Verdict>,
}

/// What is remembered of one upstream.
#[derive(Debug)]
struct Watched {
    upstream: Arc<Upstream>,
    plan: Plan,
    check: Option<Check>,
}

/// A check under way.
#[derive(Debug)]
struct Check {
    number: u64,
    began: Epoch,
    depth: Depth,
    stage: Stage,
}

/// The question that a check waits for.
#[derive(Debug)]
enum Stage {
    Itself,
    /// `itself`: what came of the first question.
    Probe {
        itself: Itself,
    },
    /// The probe did not pass here; does it elsewhere?
    Controls {
        got: Answer,
        others: Poll,
    },
}

/// What an upstream said for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Itself {
    Answered,
    /// It ended the connection, or spoke no HTTP. Some do so with whatever they do not expect, so the
    /// probe has the last word; and where nothing else was wrong, that is no proof.
    Unclear(OfflineReason),
}

/// The same question asked of several upstreams.
#[derive(Debug)]
struct Poll {
    unanswered: usize,
    /// `a got 403, b no answer`.
    seen: String,
    /// Some could not be asked, which proves nothing.
    unasked: usize,
}

/// How far a [`Poll`] has come in which nobody passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Others are to answer yet.
    Open,
    /// All that were asked have answered, but not all could be asked.
    Unclear,
    /// All have answered.
    Clear,
}

impl Examiner {
    pub(super) fn new(chance: fn() -> u64) -> Self {
        Self {
            watched: HashMap::new(),
            checks_begun: 0,
            target: None,
            target_asked: None,
            outliers: Outliers::default(),
            chance,
            verdicts: Vec::new(),
        }
    }

    /// Whether no check is under way or due by itself.
    pub(super) fn is_idle(&self) -> bool {
        self.target_asked.is_none()
            && self
                .watched
                .values()
                .all(|watched| watched.check.is_none() && !watched.upstream.vitals().is_offline())
    }

    /// The verdicts of checks since the last call.
    pub(super) fn take_verdicts(&mut self) -> Vec<Verdict> {
        std::mem::take(&mut self.verdicts)
    }

    /// Begins the checks that are due, the urgent ones first and at most `room` of them.
    pub(super) fn look(&mut self, moment: Moment<'_>, room: usize) -> Round {
        self.follow_target(moment);
        let mut pause = LOOK_AGAIN;
        let mut due = Vec::new();
        for upstream in moment.pool.upstreams() {
            let Some(watched) = self.watched.get_mut(&upstream.id()) else {
                continue;
            };
            if watched.check.is_some() {
                continue;
            }
            match watched.look(moment, self.chance) {
                Due::Now(urgency) => due.push((urgency, upstream.id())),
                Due::At(at) => pause = pause.min(at.saturating_duration_since(moment.now)),
                Due::Never => {}
            }
        }
        // A stable sort: equals in the order of the file.
        due.sort_by_key(|(urgency, _)| *urgency);
        let mut asks: Vec<_> = due
            .into_iter()
            .take(room)
            .filter_map(|(_, id)| self.begin(id, moment.health))
            .collect();
        asks.extend(self.ask_target(moment));
        self.watch_outliers(moment);
        Round { asks, pause }
    }

    /// Takes an answer in; gives the questions that follow from it.
    pub(super) fn answered(&mut self, moment: Moment<'_>, ask: &Ask, answer: Answer) -> Vec<Ask> {
        match ask.purpose {
            Purpose::Check(number) => {
                let id = ask.upstream.id();
                match self.stage_of(id, number) {
                    Some(Stage::Itself) => self.answered_for_itself(moment, id, answer),
                    Some(Stage::Probe { itself }) => {
                        let itself = *itself;
                        self.probed(moment, id, (itself, answer))
                    }
                    Some(Stage::Controls { .. }) | None => Vec::new(),
                }
            }
            Purpose::Control(number, of) => {
                if passes(moment.health, answer) {
                    self.believe(moment);
                }
                if let Some(Stage::Controls { .. }) = self.stage_of(of, number) {
                    self.compared(moment, of, (&ask.upstream, answer));
                }
                Vec::new()
            }
            Purpose::Target => {
                self.target_answered(moment, &ask.upstream, answer);
                Vec::new()
            }
        }
    }

    fn stage_of(&self, id: UpstreamId, number: u64) -> Option<&Stage> {
        let check = self.watched.get(&id)?.check.as_ref()?;
        (check.number == number).then_some(&check.stage)
    }

    /// Another target is believed until it is asked, and asked through everybody.
    fn follow_target(&mut self, moment: Moment<'_>) {
        if self.target.as_ref() == Some(&moment.health.target) {
            return;
        }
        let before = self.target.replace(moment.health.target.clone());
        if before.is_some() {
            moment.pool.belief().believe();
            for upstream in moment.pool.upstreams() {
                upstream.vitals().want_check();
            }
        }
    }

    /// The pool is another one, after a reload or at the start.
    pub(super) fn follow_pool(&mut self, pool: &Pool) {
        for upstream in pool.upstreams() {
            let watched = self
                .watched
                .entry(upstream.id())
                .or_insert_with(|| Watched {
                    upstream: Arc::clone(upstream),
                    plan: Plan::default(),
                    check: None,
                });
            if !Arc::ptr_eq(&watched.upstream, upstream) {
                watched.upstream = Arc::clone(upstream);
            }
        }
        if pool.upstreams().len() < self.watched.len() {
            let stays: HashSet<_> = pool.upstreams().iter().map(|one| one.id()).collect();
            self.watched.retain(|id, _| stays.contains(id));
        }
    }

    fn begin(&mut self, id: UpstreamId, health: &HealthCheck) -> Option<Ask> {
        self.checks_begun += 1;
        let number = self.checks_begun;
        let watched = self.watched.get_mut(&id)?;
        let (began, depth) = watched.upstream.vitals().check_begins();
        watched.check = Some(Check {
            number,
            began,
            depth: depth.max(watched.plan.wanted_depth()),
            stage: Stage::Itself,
        });
        Some(watched.ask(Question::Itself, number, health))
    }

    fn answered_for_itself(
        &mut self,
        moment: Moment<'_>,
        id: UpstreamId,
        answer: Answer,
    ) -> Vec<Ask> {
        let itself = match answer {
            Answer::Status(_) => Itself::Answered,
            Answer::Closed => Itself::Unclear(OfflineReason::Closes),
            Answer::NotHttp => Itself::Unclear(OfflineReason::NotHttp),
            Answer::NotAsked => return self.abandon(moment, id),
            Answer::CannotConnect(what) => {
                let reason = OfflineReason::CannotConnect(what);
                return self.accuse(moment, id, (reason, ""));
            }
            Answer::Unanswered => return self.accuse(moment, id, (OfflineReason::Silent, "")),
        };
        let Some(watched) = self.watched.get_mut(&id) else {
            return Vec::new();
        };
        let Some(check) = &mut watched.check else {
            return Vec::new();
        };
        let is_believed = moment.pool.belief().is_believed(moment.now);
        match (itself, &moment.health.target) {
            (Itself::Unclear(_), ProbeTarget::Nothing)
                if watched.upstream.vitals().availability() == Availability::Online =>
            {
                self.acquit(moment, id, (Depth::Probe, "it accepts connections"))
            }
            (Itself::Unclear(reason), ProbeTarget::Nothing) => {
                self.accuse(moment, id, (reason, ""))
            }
            (Itself::Answered, ProbeTarget::Nothing) => {
                self.acquit(moment, id, (Depth::Probe, "it answers for itself"))
            }
            (Itself::Answered, _) if check.depth == Depth::Itself => {
                self.acquit(moment, id, (Depth::Itself, "it answers for itself"))
            }
            (Itself::Answered, _) if !is_believed => {
                let evidence = "it answers for itself; the probe's target is not believed";
                self.acquit(moment, id, (Depth::Probe, evidence))
            }
            (Itself::Answered | Itself::Unclear(_), _) => {
                check.stage = Stage::Probe { itself };
                let number = check.number;
                vec![watched.ask(Question::Probe, number, moment.health)]
            }
        }
    }

    fn probed(
        &mut self,
        moment: Moment<'_>,
        id: UpstreamId,
        (itself, answer): (Itself, Answer),
    ) -> Vec<Ask> {
        if passes(moment.health, answer) {
            self.believe(moment);
            return self.acquit(moment, id, (Depth::Probe, "the probe passed"));
        }
        let Some(watched) = self.watched.get_mut(&id) else {
            return Vec::new();
        };
        match (answer, itself) {
            (Answer::NotAsked, _) => return self.abandon(moment, id),
            (Answer::CannotConnect(what), _) => {
                return self.accuse(moment, id, (OfflineReason::CannotConnect(what), ""));
            }
            (Answer::Status(status), _) if is_about_credentials(&watched.upstream.spec, status) => {
                return self.conclude(moment, id, Verdict::Fails(OfflineReason::Auth), "");
            }
            // Neither for itself nor for others, and something was wrong before.
            (Answer::Closed | Answer::NotHttp | Answer::Unanswered, Itself::Unclear(reason))
                if watched.upstream.vitals().availability() != Availability::Online =>
            {
                return self.accuse(moment, id, (reason, ""));
            }
            (
                Answer::Status(_) | Answer::Closed | Answer::NotHttp | Answer::Unanswered,
                Itself::Answered | Itself::Unclear(_),
            ) => {}
        }
        if !moment.pool.belief().is_believed(moment.now) {
            let evidence = "the probe's target is not believed";
            return self.acquit(moment, id, (Depth::Probe, evidence));
        }
        let others = self.others(moment, id, CONTROLS);
        let Some(watched) = self.watched.get_mut(&id) else {
            return Vec::new();
        };
        let Some(check) = &mut watched.check else {
            return Vec::new();
        };
        let mut poll = Poll {
            unanswered: others.len(),
            seen: String::new(),
            unasked: 0,
        };
        poll.note(&watched.upstream, answer);
        let number = check.number;
        if others.is_empty() {
            return self.blame_target(moment, id, &poll.seen);
        }
        check.stage = Stage::Controls {
            got: answer,
            others: poll,
        };
        let control = |upstream| Ask {
            upstream,
            question: Question::Probe,
            limit: question_limit(moment.health),
            purpose: Purpose::Control(number, id),
        };
        others.into_iter().map(control).collect()
    }

    /// Others that the probe can be sent through: those that take requests first, in no order that
    /// anybody could foretell.
    fn others(&self, moment: Moment<'_>, id: UpstreamId, most: usize) -> Vec<Arc<Upstream>> {
        let mut others: Vec<_> = moment
            .pool
            .upstreams()
            .iter()
            .filter(|upstream| upstream.id() != id)
            .map(|upstream| (upstream.vitals().availability(), (self.chance)(), upstream))
            .collect();
        others.sort_by_key(|(availability, chance, _)| (*availability, *chance));
        others.truncate(most);
        others
            .into_iter()
            .map(|(.., upstream)| Arc::clone(upstream))
            .collect()
    }

    fn compared(
        &mut self,
        moment: Moment<'_>,
        id: UpstreamId,
        (through, answer): (&Upstream, Answer),
    ) {
        let Some(watched) = self.watched.get_mut(&id) else {
            return;
        };
        let Some(Stage::Controls { got, others }) =
            watched.check.as_mut().map(|check| &mut check.stage)
        else {
            return;
        };
        if passes(moment.health, answer) {
            let reason = match got {
                Answer::Status(status) => OfflineReason::ProbeStatus(*status),
                Answer::NotHttp => OfflineReason::NotHttp,
                Answer::Closed => OfflineReason::Closes,
                Answer::CannotConnect(_) | Answer::Unanswered | Answer::NotAsked => {
                    OfflineReason::ProbeUnanswered
                }
            };
            let evidence = format!("the probe passes through {}", through.spec.name);
            self.accuse(moment, id, (reason, &evidence));
            return;
        }
        others.note(through, answer);
        match others.answered_one() {
            Standing::Open => {}
            Standing::Unclear => {
                self.abandon(moment, id);
            }
            Standing::Clear => {
                let seen = std::mem::take(&mut others.seen);
                self.blame_target(moment, id, &seen);
            }
        }
    }

    /// The probe passed through nobody.
    fn blame_target(&mut self, moment: Moment<'_>, id: UpstreamId, seen: &str) -> Vec<Ask> {
        disbelieve(moment, seen);
        let evidence = format!("the probe's target is at fault ({seen})");
        self.acquit(moment, id, (Depth::Probe, &evidence))
    }

    fn believe(&mut self, moment: Moment<'_>) {
        self.target_asked = None;
        if moment.pool.belief().believe() {
            log::info!(
                "the probe passes again: health_check.url {} is believed",
                moment.health.target
            );
        }
    }

    /// The upstream works, as far as `depth`.
    fn acquit(
        &mut self,
        moment: Moment<'_>,
        id: UpstreamId,
        (depth, evidence): (Depth, &str),
    ) -> Vec<Ask> {
        self.conclude(moment, id, Verdict::Works(depth), evidence)
    }

    /// The upstream does not work, and whoever waits for it waits in vain.
    fn accuse(
        &mut self,
        moment: Moment<'_>,
        id: UpstreamId,
        (reason, evidence): (OfflineReason, &str),
    ) -> Vec<Ask> {
        self.conclude(moment, id, Verdict::Fails(reason), evidence);
        if let Some(watched) = self.watched.get(&id) {
            watched.upstream.vitals().give_up_waiting();
        }
        Vec::new()
    }

    fn conclude(
        &mut self,
        moment: Moment<'_>,
        id: UpstreamId,
        verdict: Verdict,
        evidence: &str,
    ) -> Vec<Ask> {
        let Some(watched) = self.watched.get_mut(&id) else {
            return Vec::new();
        };
        let Some(check) = watched.check.take() else {
            return Vec::new();
        };
        let thresholds = Thresholds {
            fall: moment.health.fall,
            rise: moment.health.rise,
        };
        let vitals = watched.upstream.vitals();
        match vitals.check_ended(check.began, verdict, thresholds, moment.unix_ms) {
            Some(change) => watched.upstream.tell(change, evidence),
            None => vitals.set_evidence(evidence),
        }
        let outcome = match verdict {
            Verdict::Works(_) => {
                vitals.works(moment.now);
                Outcome::Passed
            }
            Verdict::Fails(_) => Outcome::Failed,
        };
        watched.ended(moment, outcome, self.chance);
        self.verdicts.push(verdict);
        Vec::new()
    }

    fn abandon(&mut self, moment: Moment<'_>, id: UpstreamId) -> Vec<Ask> {
        if let Some(watched) = self.watched.get_mut(&id) {
            watched.check = None;
            watched.upstream.vitals().check_abandoned();
            watched.ended(moment, Outcome::NotAsked, self.chance);
        }
        Vec::new()
    }

    /// When the time of a disbelief is over, a few upstreams are asked before the target is believed.
    fn ask_target(&mut self, moment: Moment<'_>) -> Vec<Ask> {
        let belief = moment.pool.belief();
        let is_over = belief
            .doubted_until()
            .is_some_and(|until| until <= moment.now);
        if !is_over || self.target_asked.is_some() {
            return Vec::new();
        }
        let asked = self.sample(moment);
        if asked.is_empty() {
            return Vec::new();
        }
        let limit = question_limit(moment.health);
        belief.wait_until(moment.now + limit * 2);
        self.target_asked = Some(Poll {
            unanswered: asked.len(),
            seen: String::new(),
            unasked: 0,
        });
        let ask = |upstream| Ask {
            upstream,
            question: Question::Probe,
            limit,
            purpose: Purpose::Target,
        };
        asked.into_iter().map(ask).collect()
    }

    /// A few upstreams that are not offline.
    fn sample(&self, moment: Moment<'_>) -> Vec<Arc<Upstream>> {
        let mut some: Vec<_> = moment
            .pool
            .upstreams()
            .iter()
            .filter(|upstream| !upstream.vitals().is_offline())
            .map(|upstream| ((self.chance)(), upstream))
            .collect();
        some.sort_by_key(|(chance, _)| *chance);
        some.truncate(CONTROLS + 1);
        some.into_iter()
            .map(|(_, upstream)| Arc::clone(upstream))
            .collect()
    }

    fn target_answered(&mut self, moment: Moment<'_>, through: &Upstream, answer: Answer) {
        if passes(moment.health, answer) {
            self.believe(moment);
            return;
        }
        let Some(poll) = &mut self.target_asked else {
            return;
        };
        poll.note(through, answer);
        match poll.answered_one() {
            Standing::Open => {}
            Standing::Unclear => self.target_asked = None,
            Standing::Clear => {
                let seen = std::mem::take(&mut poll.seen);
                self.target_asked = None;
                disbelieve(moment, &seen);
            }
        }
    }

    fn watch_outliers(&mut self, moment: Moment<'_>) {
        let is_believed = moment.health.target == ProbeTarget::Nothing
            || moment.pool.belief().doubted_until().is_none();
        if is_believed {
            self.outliers.clear();
            return;
        }
        for found in self.outliers.look(moment.now, moment.pool) {
            let upstream = &found.upstream;
            let began = upstream.vitals().epoch();
            if let Some(change) = upstream.vitals().eject(began, moment.unix_ms) {
                upstream.tell(change, &found.evidence);
                if let Some(watched) = self.watched.get_mut(&upstream.id()) {
                    let until = moment.now + found.rest;
                    watched.plan.hold_until(upstream.vitals().epoch(), until);
                }
            }
        }
    }
}

impl Watched {
    fn look(&mut self, moment: Moment<'_>, chance: fn() -> u64) -> Due {
        let vitals = self.upstream.vitals();
        if vitals.take_wanted_check() {
            self.plan.want(moment.now);
        }
        let state = (vitals.epoch(), vitals.availability());
        self.plan
            .look(moment.now, state, Pace::new(moment.health, chance))
    }

    fn ask(&self, question: Question, number: u64, health: &HealthCheck) -> Ask {
        Ask {
            upstream: Arc::clone(&self.upstream),
            question,
            limit: question_limit(health),
            purpose: Purpose::Check(number),
        }
    }

    fn ended(&mut self, moment: Moment<'_>, outcome: Outcome, chance: fn() -> u64) {
        let availability = self.upstream.vitals().availability();
        let pace = Pace::new(moment.health, chance);
        self.plan.ended(moment.now, outcome, availability, pace);
    }
}

/// Whether an answer of this status refuses us: some proxies say 401 for it.
pub(super) fn is_about_credentials(spec: &UpstreamSpec, status: u16) -> bool {
    status == 407 || (status == 401 && spec.credentials.is_some())
}

impl Poll {
    fn note(&mut self, through: &Upstream, answer: Answer) {
        if !self.seen.is_empty() {
            self.seen.push_str(", ");
        }
        let said = format!("{} {answer}", through.spec.name);
        self.seen.push_str(&said);
        self.unasked += usize::from(answer == Answer::NotAsked);
    }

    /// One more has answered.
    fn answered_one(&mut self) -> Standing {
        self.unanswered = self.unanswered.saturating_sub(1);
        match (self.unanswered, self.unasked) {
            (0, 0) => Standing::Clear,
            (0, _) => Standing::Unclear,
            (_, _) => Standing::Open,
        }
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

/// Each question gets half of the time of a check.
pub(super) fn question_limit(health: &HealthCheck) -> Duration {
    health.timeout / 2
}

pub(super) fn passes(health: &HealthCheck, answer: Answer) -> bool {
    match answer {
        Answer::Status(status) => health.passes(status),
        Answer::CannotConnect(_)
        | Answer::Unanswered
        | Answer::Closed
        | Answer::NotHttp
        | Answer::NotAsked => false,
    }
}

fn disbelieve(moment: Moment<'_>, seen: &str) {
    let belief = moment.pool.belief();
    if belief.doubt(moment.now, seen, moment.unix_ms) {
        log::warn!(
            "the probe passes through no upstream ({seen}): health_check.url {} is at fault, or the \
             way to it, and is not believed; upstreams are judged by whether they answer for themselves",
            moment.health.target
        );
    }
}

/// What an upstream did with a probe, behind its name.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "got {status}"),
            Self::CannotConnect(what) => write!(f, "cannot be connected to: {what}"),
            Self::Unanswered => f.write_str("got no answer"),
            Self::Closed => f.write_str("closed the connection"),
            Self::NotHttp => f.write_str("got something that is not HTTP"),
            Self::NotAsked => f.write_str("could not be asked"),
        }
    }
}
