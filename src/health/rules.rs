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

use super::question::CheckAnswer::{
    self, CannotConnect, Closed, Greeting, LoginRefused, NotAsked, NotHttp, NotSocks, Status,
    Unanswered,
};
use super::question::CheckQuestion;

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
        match (answer, fault(CheckQuestion::Itself, answer)) {
            (Closed | NotHttp, _) if has_target => CheckStep::Probe,
            (Closed | NotHttp, _) if self.availability == Availability::Online => {
                CheckStep::Works(Depth::Probe, "it accepts connections")
            }
            (Status(_) | Greeting, _) if !has_target => {
                CheckStep::Works(Depth::Probe, "it answers for itself")
            }
            (Status(_) | Greeting, _) if self.depth == Depth::Itself => {
                CheckStep::Works(Depth::Itself, "it answers for itself")
            }
            (Status(_) | Greeting, _) if !self.is_believed => CheckStep::Works(
                Depth::Probe,
                "it answers for itself; the probe's target is not believed",
            ),
            (Status(_) | Greeting, _) => CheckStep::Probe,
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
            (CannotConnect(_) | LoginRefused | NotSocks, _) => CheckStep::Fails(reason),
            (Status(status), _) if self.health.passes(status) => CheckStep::Passes,
            // A probe has no client.
            (Status(407), _) if self.spec.told.passes_credentials => {
                CheckStep::Works(Depth::Probe, "it wants the credentials of the client")
            }
            (Status(status), _) if self.refuses_credentials(status) => {
                CheckStep::Fails(OfflineReason::Auth)
            }
            // Neither for itself nor for others, and something was wrong before.
            (Closed | NotHttp | Unanswered, Some(before))
                if self.availability != Availability::Online =>
            {
                CheckStep::Fails(before)
            }
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
        (Status(_), CheckQuestion::Itself) | (Greeting | NotAsked, _) => None,
        (Status(status), CheckQuestion::Probe) => Some(OfflineReason::ProbeStatus(status)),
        (CannotConnect(what), _) => Some(OfflineReason::CannotConnect(what)),
        (Unanswered, CheckQuestion::Itself) => Some(OfflineReason::Silent),
        (Unanswered, CheckQuestion::Probe) => Some(OfflineReason::ProbeUnanswered),
        (Closed, _) => Some(OfflineReason::Closes),
        (NotHttp, _) => Some(OfflineReason::NotHttp),
        (LoginRefused, _) => Some(OfflineReason::Auth),
        (NotSocks, _) => Some(OfflineReason::NotSocks),
    }
}

/// Whether the probe has passed with this answer.
pub(super) fn passes(health: &HealthCheck, answer: CheckAnswer) -> bool {
    matches!(answer, Status(status) if health.passes(status))
}

#[cfg(test)]
mod tests {
    use crate::protocol::credentials::Credentials;
    use crate::protocol::target::Authority;

    use super::*;
    use crate::balance::upstream::UpstreamProtocol;

    const REFUSED: &str = "connection refused";
    const GOT_400: CheckAnswer = Status(400);
    const CANNOT_CONNECT: CheckAnswer = CannotConnect(REFUSED);

    /// A check that must go to the bottom of an online upstream, with a target that is believed and wants
    /// 204; `change`: what is different.
    fn with_premises<T>(
        url: &str,
        change: impl FnOnce(&mut Premises<'_>),
        test: impl FnOnce(&Premises<'_>) -> T,
    ) -> T {
        let config = format!(
            "listen: 127.0.0.1:0\nhealth_check: {{url: '{url}'}}\nupstream: [{{url: 'http://a.test'}}]\n"
        );
        let health = crate::config::parse(&config, "config.yaml").unwrap().health;
        let spec = UpstreamSpec {
            name: "a".to_owned(),
            credentials: Some(Credentials::basic("a", "b")),
            ..UpstreamSpec::new(
                UpstreamProtocol::Http,
                Authority::parse(b"192.0.2.1:3128", None).unwrap(),
            )
        };
        let mut premises = Premises {
            health: &health,
            spec: &spec,
            availability: Availability::Online,
            depth: Depth::Probe,
            is_believed: true,
        };
        change(&mut premises);
        test(&premises)
    }

    fn after_itself(
        url: &str,
        change: impl FnOnce(&mut Premises<'_>),
        answers: &[CheckAnswer],
    ) -> Vec<CheckStep> {
        with_premises(url, change, |premises| {
            let step = |answer: &CheckAnswer| premises.after_itself(*answer);
            answers.iter().map(step).collect()
        })
    }

    fn after_probe(
        itself: CheckAnswer,
        change: impl FnOnce(&mut Premises<'_>),
        answers: &[CheckAnswer],
    ) -> Vec<CheckStep> {
        with_premises("http://p.test/", change, |premises| {
            let step = |answer: &CheckAnswer| premises.after_probe(itself, *answer);
            answers.iter().map(step).collect()
        })
    }

    #[test]
    fn one_that_takes_no_connection_or_answers_nothing_fails_whatever_is_known() {
        let answers = [CANNOT_CONNECT, Unanswered, NotAsked];
        let expected = [
            CheckStep::Fails(OfflineReason::CannotConnect(REFUSED)),
            CheckStep::Fails(OfflineReason::Silent),
            CheckStep::NotAsked,
        ];
        for url in ["http://p.test/", "none"] {
            assert_eq!(after_itself(url, |_| {}, &answers), expected);
            let doubted = |premises: &mut Premises<'_>| {
                premises.availability = Availability::Suspect;
                premises.is_believed = false;
            };
            assert_eq!(after_itself(url, doubted, &answers), expected);
        }
    }

    #[test]
    fn one_that_answers_for_itself_works_as_far_as_that_is_asked() {
        let works = |depth, evidence| [CheckStep::Works(depth, evidence)];
        let answers = "it answers for itself";
        let url = "http://p.test/";
        assert_eq!(after_itself(url, |_| {}, &[GOT_400]), [CheckStep::Probe]);
        let shallow = |premises: &mut Premises<'_>| premises.depth = Depth::Itself;
        let step = after_itself(url, shallow, &[GOT_400]);
        assert_eq!(step, works(Depth::Itself, answers));
        let doubted = |premises: &mut Premises<'_>| premises.is_believed = false;
        let step = after_itself(url, doubted, &[GOT_400]);
        let evidence = "it answers for itself; the probe's target is not believed";
        assert_eq!(step, works(Depth::Probe, evidence));
        let step = after_itself("none", |_| {}, &[GOT_400]);
        assert_eq!(step, works(Depth::Probe, answers));
    }

    /// A SOCKS5 proxy says so itself, which no target can make it do.
    #[test]
    fn one_that_refuses_the_login_or_speaks_no_socks_fails_at_either_question() {
        let answers = [LoginRefused, NotSocks];
        let expected = [OfflineReason::Auth, OfflineReason::NotSocks].map(CheckStep::Fails);
        for url in ["http://p.test/", "none"] {
            assert_eq!(after_itself(url, |_| {}, &answers), expected);
        }
        assert_eq!(after_probe(Greeting, |_| {}, &answers), expected);
        assert_eq!(
            after_itself("http://p.test/", |_| {}, &[Greeting]),
            [CheckStep::Probe]
        );
    }

    #[test]
    fn one_that_is_odd_for_itself_is_judged_by_the_probe_or_by_what_was_wrong_before() {
        let odd = [Closed, NotHttp];
        let doubted = |premises: &mut Premises<'_>| {
            premises.depth = Depth::Itself;
            premises.is_believed = false;
        };
        let steps = after_itself("http://p.test/", doubted, &odd);
        assert_eq!(steps, [CheckStep::Probe; 2]);
        let works = CheckStep::Works(Depth::Probe, "it accepts connections");
        assert_eq!(after_itself("none", |_| {}, &odd), [works; 2]);
        for availability in [Availability::Suspect, Availability::Offline] {
            let wrong = |premises: &mut Premises<'_>| premises.availability = availability;
            let fails = [OfflineReason::Closes, OfflineReason::NotHttp].map(CheckStep::Fails);
            assert_eq!(after_itself("none", wrong, &odd), fails);
        }
    }

    #[test]
    fn a_probe_that_does_not_pass_is_compared_if_its_target_is_believed() {
        let answers = [Status(403), Closed, NotHttp, Unanswered];
        let reasons = [
            OfflineReason::ProbeStatus(403),
            OfflineReason::Closes,
            OfflineReason::NotHttp,
            OfflineReason::ProbeUnanswered,
        ];
        let steps = after_probe(GOT_400, |_| {}, &answers);
        assert_eq!(steps, reasons.map(CheckStep::Compare));
        let doubted = |premises: &mut Premises<'_>| premises.is_believed = false;
        let works = CheckStep::Works(Depth::Probe, "the probe's target is not believed");
        assert_eq!(after_probe(GOT_400, doubted, &answers), [works; 4]);
    }

    #[test]
    fn some_answers_to_the_probe_decide_alone() {
        let answers = [
            Status(204),
            Status(407),
            Status(401),
            CANNOT_CONNECT,
            NotAsked,
        ];
        let expected = [
            CheckStep::Passes,
            CheckStep::Fails(OfflineReason::Auth),
            CheckStep::Fails(OfflineReason::Auth),
            CheckStep::Fails(OfflineReason::CannotConnect(REFUSED)),
            CheckStep::NotAsked,
        ];
        for itself in [GOT_400, Closed] {
            let doubted = |premises: &mut Premises<'_>| {
                premises.availability = Availability::Offline;
                premises.is_believed = false;
            };
            assert_eq!(after_probe(itself, doubted, &answers), expected);
        }
    }

    #[test]
    fn one_that_answers_neither_for_itself_nor_the_probe_fails_if_something_was_wrong_before() {
        let answers = [Closed, NotHttp, Unanswered];
        let suspect = |premises: &mut Premises<'_>| {
            premises.availability = Availability::Suspect;
            premises.is_believed = false;
        };
        let steps = after_probe(NotHttp, suspect, &answers);
        assert_eq!(steps, [CheckStep::Fails(OfflineReason::NotHttp); 3]);
        let steps = after_probe(Closed, |_| {}, &[Unanswered]);
        let compared = CheckStep::Compare(OfflineReason::ProbeUnanswered);
        assert_eq!(steps, [compared]);
    }
}
