//! What follows from an answer: the rules of a check, for one upstream and without memory.
//!
//! A check has up to three questions. Does the upstream answer for itself? Does the probe pass through it?
//! If not: does it pass through another one, at this moment? Only a probe that passes elsewhere accuses an
//! upstream; one that passes nowhere accuses its target, which is then not believed for a while, and the
//! first question alone decides. While it is not believed, the traffic tells what no probe can: see
//! [`super::outliers`].
//!
//! Not here: which upstream is asked what at which moment ([`super::examiner`]), asking ([`super::question`]).

use crate::balance::reason::{Depth, OfflineReason};
use crate::balance::state::Availability;
use crate::balance::upstream::UpstreamSpec;
use crate::config::health::{HealthCheck, ProbeTarget};

use super::question::{CheckAnswer, CheckQuestion};

/// What follows from an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CheckStep {
    /// The probe is sent through the upstream.
    Probe,
    /// The probe is sent through others: if it passes there, this is held against the upstream.
    Compare(OfflineReason),
    /// The check ends: the probe has passed.
    Passes,
    /// The check ends: the upstream works as far as this, and on this evidence.
    Works(Depth, &'static str),
    /// The check ends: it does not.
    Fails(OfflineReason),
    /// The check ends and proves nothing.
    NotAsked,
}

/// What a check goes by, besides the answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Premises<'c> {
    pub(super) health: &'c HealthCheck,
    pub(super) spec: &'c UpstreamSpec,
    /// What the upstream is at this moment.
    pub(super) availability: Availability,
    /// What the check must find out.
    pub(super) depth: Depth,
    /// Whether a probe that fails may be the upstream's fault.
    pub(super) is_believed: bool,
}

impl Premises<'_> {
    /// What follows from the answer of the upstream for itself. Some end the connection, or speak no HTTP,
    /// when they are asked what they do not expect: so the probe has the last word, and where there is none
    /// and nothing else was wrong, that is no proof.
    pub(super) fn after_itself(&self, answer: CheckAnswer) -> CheckStep {
        let has_target = self.health.target != ProbeTarget::Nothing;
        let fault = fault(CheckQuestion::Itself, answer);
        match (answer, fault) {
            (CheckAnswer::Closed | CheckAnswer::NotHttp, _) if has_target => CheckStep::Probe,
            (CheckAnswer::Closed | CheckAnswer::NotHttp, _)
                if self.availability == Availability::Online =>
            {
                CheckStep::Works(Depth::Probe, "it accepts connections")
            }
            (CheckAnswer::Status(_), _) if !has_target => {
                CheckStep::Works(Depth::Probe, "it answers for itself")
            }
            (CheckAnswer::Status(_), _) if self.depth == Depth::Itself => {
                CheckStep::Works(Depth::Itself, "it answers for itself")
            }
            (CheckAnswer::Status(_), _) if !self.is_believed => CheckStep::Works(
                Depth::Probe,
                "it answers for itself; the probe's target is not believed",
            ),
            (CheckAnswer::Status(_), _) => CheckStep::Probe,
            (_, Some(reason)) => CheckStep::Fails(reason),
            (_, None) => CheckStep::NotAsked,
        }
    }

    /// What follows from the answer to the probe; `itself`: what the upstream answered for itself.
    pub(super) fn after_probe(&self, itself: CheckAnswer, answer: CheckAnswer) -> CheckStep {
        let Some(reason) = fault(CheckQuestion::Probe, answer) else {
            return CheckStep::NotAsked;
        };
        match (answer, fault(CheckQuestion::Itself, itself)) {
            (CheckAnswer::CannotConnect(_), _) => CheckStep::Fails(reason),
            (CheckAnswer::Status(status), _) if self.health.passes(status) => CheckStep::Passes,
            (CheckAnswer::Status(status), _) if self.refuses_credentials(status) => {
                CheckStep::Fails(OfflineReason::Auth)
            }
            // Neither for itself nor for others, and something was wrong before.
            (
                CheckAnswer::Closed | CheckAnswer::NotHttp | CheckAnswer::Unanswered,
                Some(before),
            ) if self.availability != Availability::Online => CheckStep::Fails(before),
            (_, _) if self.is_believed => CheckStep::Compare(reason),
            (_, _) => CheckStep::Works(Depth::Probe, "the probe's target is not believed"),
        }
    }

    /// Whether a status refuses us: some proxies say 401 for it.
    fn refuses_credentials(&self, status: u16) -> bool {
        status == 407 || (status == 401 && self.spec.credentials.is_some())
    }
}

/// What an answer may be held against an upstream for; none: for nothing.
fn fault(question: CheckQuestion, answer: CheckAnswer) -> Option<OfflineReason> {
    match (answer, question) {
        (CheckAnswer::Status(_), CheckQuestion::Itself) | (CheckAnswer::NotAsked, _) => None,
        (CheckAnswer::Status(status), CheckQuestion::Probe) => {
            Some(OfflineReason::ProbeStatus(status))
        }
        (CheckAnswer::CannotConnect(what), _) => Some(OfflineReason::CannotConnect(what)),
        (CheckAnswer::Unanswered, CheckQuestion::Itself) => Some(OfflineReason::Silent),
        (CheckAnswer::Unanswered, CheckQuestion::Probe) => Some(OfflineReason::ProbeUnanswered),
        (CheckAnswer::Closed, _) => Some(OfflineReason::Closes),
        (CheckAnswer::NotHttp, _) => Some(OfflineReason::NotHttp),
    }
}

/// Whether the probe has passed with this answer.
pub(super) fn passes(health: &HealthCheck, answer: CheckAnswer) -> bool {
    matches!(answer, CheckAnswer::Status(status) if health.passes(status))
}
