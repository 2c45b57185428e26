//! `--check --probe`: every upstream is asked once, and told what a relay would make of the answers.
//!
//! The questions and [`super::rules`] are those of a check. All upstreams are asked at the same time, so
//! each is the control of the others of its group: a probe that passes through one accuses those through which it does
//! not pass; one that passes through none accuses its target.
//!
//! Not here: asking again, and anything that needs a running relay.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::balance::reason::{Depth, OfflineReason};
use crate::balance::state::Availability;
use crate::balance::upstream::UpstreamSpec;
use crate::config::checked::Config;
use crate::config::health::{HealthCheck, ProbeTarget};
use crate::net::resolve::Resolver;

use super::addresses;
use super::question::{self, CheckAnswer, CheckQuestion};
use super::rules::{CheckStep, Premises, passes};
use super::threads::Threads;

/// What every upstream answered when it was asked once. Its `Display` tells it, and what it means.
#[derive(Debug)]
pub struct Survey {
    health: HealthCheck,
    found: Vec<Surveyed>,
}

/// What one upstream answered.
#[derive(Debug)]
struct Surveyed {
    name: String,
    itself: CheckAnswer,
    /// Not asked where the first answer was the end of the matter, or for a target of `none`.
    probe: Option<CheckAnswer>,
    standing: Standing,
}

/// What a relay would make of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// It has passed all that is asked.
    Passes,
    /// Nothing is known against it: it accepts connections, and the probe passes through none.
    Serves,
    /// It would be offline.
    Fails(OfflineReason),
    /// This process could not ask.
    Unknown,
}

/// Asks every upstream of a configuration, at most [`super::threads::MOST_THREADS`] at a time. Blocks for
/// up to `health_check.timeout_secs` for each of these turns.
pub fn survey(config: &Config) -> Survey {
    let names = Resolver::default();
    let resolve =
        |spec: &UpstreamSpec, deadline| addresses(&spec.authority, &names, None, deadline);
    let health = &config.health;
    let ask = |spec: &UpstreamSpec| answers(spec, health, &resolve);
    let mut threads = Threads::None;
    let answers: Vec<_> = match threads.get(config.upstreams.len()) {
        Some(threads) => threads.install(|| config.upstreams.par_iter().map(ask).collect()),
        None => config.upstreams.iter().map(ask).collect(),
    };
    Survey::new(health, config.upstreams.iter().zip(answers).collect())
}

/// The two questions, one after the other.
fn answers(
    spec: &UpstreamSpec,
    health: &HealthCheck,
    resolve: &(dyn Fn(&UpstreamSpec, Instant) -> io::Result<Vec<SocketAddr>> + Sync),
) -> (CheckAnswer, Option<CheckAnswer>) {
    let ask = |question| {
        let what = (question, &health.target);
        question::ask(spec, what, question::limit(health), resolve)
    };
    let itself = ask(CheckQuestion::Itself);
    let probe = goes_on(health, spec, itself).then(|| ask(CheckQuestion::Probe));
    (itself, probe)
}

/// Those of a relay that has just started: it believes the target, and looks into everything.
fn premises<'c>(health: &'c HealthCheck, spec: &'c UpstreamSpec) -> Premises<'c> {
    Premises {
        health,
        spec,
        availability: Availability::Online,
        depth: Depth::Probe,
        is_believed: true,
    }
}

/// Whether the first answer leaves the second question open.
fn goes_on(health: &HealthCheck, spec: &UpstreamSpec, itself: CheckAnswer) -> bool {
    premises(health, spec).after_itself(itself) == CheckStep::Probe
}

impl Survey {
    fn new(
        health: &HealthCheck,
        answers: Vec<(&UpstreamSpec, (CheckAnswer, Option<CheckAnswer>))>,
    ) -> Self {
        let passed = |probe: Option<_>| probe.is_some_and(|answer| passes(health, answer));
        let reaching = answers.iter().filter(|(_, (_, probe))| passed(*probe));
        let reaching: HashSet<_> = reaching.map(|(spec, _)| spec.group.as_deref()).collect();
        let standing = |step, itself, is_reached| match (step, itself) {
            (CheckStep::Passes, _) => Standing::Passes,
            // No more than this is asked.
            (CheckStep::Works(..), CheckAnswer::Status(_) | CheckAnswer::Greeting) => {
                Standing::Passes
            }
            (CheckStep::Compare(reason), _) if is_reached => Standing::Fails(reason),
            (CheckStep::Compare(_) | CheckStep::Works(..) | CheckStep::Probe, _) => {
                Standing::Serves
            }
            (CheckStep::Fails(reason), _) => Standing::Fails(reason),
            (CheckStep::NotAsked, _) => Standing::Unknown,
        };
        let found = answers.into_iter().map(|(spec, (itself, probe))| {
            let premises = premises(health, spec);
            let step = match probe {
                Some(answer) => premises.after_probe(itself, answer),
                None => premises.after_itself(itself),
            };
            Surveyed {
                name: spec.name.clone(),
                itself,
                probe,
                standing: standing(step, itself, reaching.contains(&spec.group.as_deref())),
            }
        });
        Self {
            health: health.clone(),
            found: found.collect(),
        }
    }

    /// Whether at least one upstream has passed all that is asked.
    pub fn has_passed(&self) -> bool {
        self.count(Standing::Passes) > 0
    }

    fn count(&self, standing: Standing) -> usize {
        let stands = |found: &&Surveyed| found.standing == standing;
        self.found.iter().filter(stands).count()
    }

    /// The status that the probe got through all that serve, if that is the same and good news elsewhere.
    fn same_success(&self) -> Option<u16> {
        let mut answers = self
            .found
            .iter()
            .filter(|found| found.standing == Standing::Serves)
            .map(|found| found.probe);
        let first = answers.next()?;
        match first {
            Some(CheckAnswer::Status(status))
                if matches!(self.health.target, ProbeTarget::Get { .. })
                    && (200..300).contains(&status)
                    && answers.all(|answer| answer == first) =>
            {
                Some(status)
            }
            Some(_) | None => None,
        }
    }

    fn sum_up(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.count(Standing::Passes);
        let serving = self.count(Standing::Serves);
        let all = of_upstreams(self.found.len());
        let url = &self.health.target;
        if *url == ProbeTarget::Nothing {
            return writeln!(
                out,
                "{passed} of {all} passed; with health_check.url: none nothing more is asked than whether \
                 they answer for themselves"
            );
        }
        if passed > 0 {
            writeln!(out, "the probe passes through {passed} of {all}")?;
            if passed == self.found.len() {
                return Ok(());
            }
            let is_probes_doing = |found: &Surveyed| {
                use OfflineReason::{ProbeStatus, ProbeUnanswered};
                matches!(
                    found.standing,
                    Standing::Serves | Standing::Fails(ProbeStatus(_) | ProbeUnanswered)
                )
            };
            if self.found.iter().any(is_probes_doing) {
                writeln!(
                    out,
                    "a relay would serve through these; where the others work, set health_check.url to \
                     something that is reached through them, too, or to none"
                )?;
            } else {
                writeln!(out, "a relay would serve through these")?;
            }
            return Ok(());
        }
        if serving == 0 {
            return writeln!(
                out,
                "none of {all} works: a relay would answer 503 to what needs one"
            );
        }
        writeln!(
            out,
            "the probe passes through none of {all}: {url} is at fault, or the way to it\n\
             a relay would serve all the same, through {serving} of {all}, and not believe the \
             probe\n\
             set health_check.url to something that is reached through them, or to none"
        )?;
        if let Some(status) = self.same_success() {
            writeln!(
                out,
                "or set health_check.expect_status to {status}, if that is what {url} answers"
            )?;
        }
        Ok(())
    }
}

fn of_upstreams(count: usize) -> String {
    format!("{count} upstream{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Survey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.health.target;
        match url {
            ProbeTarget::Nothing => writeln!(out, "\nprobe ({url})")?,
            ProbeTarget::Get { .. } => {
                let status = self.health.expect_status;
                writeln!(out, "\nprobe ({url}, wants {status})")?;
            }
            ProbeTarget::Connect(_) => writeln!(out, "\nprobe (CONNECT to {url}, wants 2xx)")?,
        }
        for found in &self.found {
            writeln!(out, "  {found}")?;
        }
        if self.found.is_empty() {
            return writeln!(out, "  there is no upstream to ask");
        }
        writeln!(out)?;
        self.sum_up(out)
    }
}

impl fmt::Display for Surveyed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.name)?;
        match self.standing {
            Standing::Passes | Standing::Serves => out.write_str("online"),
            // What the probe got is told below.
            Standing::Fails(OfflineReason::ProbeStatus(_) | OfflineReason::ProbeUnanswered) => {
                out.write_str("offline")
            }
            Standing::Fails(reason) => write!(out, "offline, {reason}"),
            Standing::Unknown => return out.write_str("could not be asked: try again"),
        }?;
        match self.itself {
            CheckAnswer::Status(status) => write!(out, "; answers for itself with {status}"),
            CheckAnswer::Greeting => out.write_str("; answers for itself"),
            CheckAnswer::Closed | CheckAnswer::NotHttp => {
                out.write_str("; does not answer for itself")
            }
            // The reason says it.
            CheckAnswer::CannotConnect(_)
            | CheckAnswer::LoginRefused
            | CheckAnswer::NotSocks
            | CheckAnswer::Unanswered
            | CheckAnswer::NotAsked => Ok(()),
        }?;
        match self.probe {
            Some(answer) => write!(out, "; the probe {answer}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use crate::balance::pool::Pool;
    use crate::protocol::credentials::Credentials;
    use crate::protocol::target::Authority;

    use super::super::examiner::{CheckContext, Examiner};
    use super::*;
    use crate::balance::upstream::UpstreamProtocol;

    const REFUSED: &str = "connection refused";

    fn spec(name: &str) -> UpstreamSpec {
        UpstreamSpec {
            name: name.to_owned(),
            credentials: (name == "auth").then(|| Credentials::basic("a", "b")),
            ..UpstreamSpec::new(
                UpstreamProtocol::Http,
                Authority::parse(b"192.0.2.1:3128", None).unwrap(),
            )
        }
    }

    fn health(target: &str) -> HealthCheck {
        let text = format!(
            "listen: 127.0.0.1:0\nhealth_check: {{url: '{target}'}}\nupstream: [{{url: 'http://a.test'}}]\n"
        );
        crate::config::parse(&text, "config.yaml").unwrap().health
    }

    fn told(target: &str, answers: &[(&str, CheckAnswer, Option<CheckAnswer>)]) -> (String, bool) {
        let specs: Vec<_> = answers.iter().map(|(name, ..)| spec(name)).collect();
        let answers = answers.iter().map(|(_, itself, probe)| (*itself, *probe));
        let survey = Survey::new(&health(target), specs.iter().zip(answers).collect());
        (survey.to_string(), survey.has_passed())
    }

    fn got(status: u16) -> CheckAnswer {
        CheckAnswer::Status(status)
    }

    #[test]
    fn where_the_probe_passes_it_accuses_those_that_do_not_pass_it() {
        let (text, has_passed) = told(
            "http://p.test/",
            &[
                ("one", got(400), Some(got(204))),
                ("two", got(400), Some(got(403))),
                ("mute", got(400), Some(CheckAnswer::Unanswered)),
                ("auth", got(400), Some(got(401))),
                ("down", CheckAnswer::CannotConnect(REFUSED), None),
                ("shut", CheckAnswer::Closed, Some(CheckAnswer::Closed)),
                ("odd", CheckAnswer::Closed, Some(got(204))),
                ("busy", CheckAnswer::NotAsked, None),
            ],
        );
        assert!(has_passed);
        assert_eq!(
            text,
            "\nprobe (http://p.test/, wants 204)\n  \
             one: online; answers for itself with 400; the probe got 204\n  \
             two: offline; answers for itself with 400; the probe got 403\n  \
             mute: offline; answers for itself with 400; the probe got no answer\n  \
             auth: offline, auth: refused the credentials configured for it; answers for itself with \
             400; the probe got 401\n  \
             down: offline, cannot connect: connection refused\n  \
             shut: offline, closes connections without an answer; does not answer for itself; the probe closed the connection\n  \
             odd: online; does not answer for itself; the probe got 204\n  \
             busy: could not be asked: try again\n\n\
             the probe passes through 2 of 8 upstreams\n\
             a relay would serve through these; where the others work, set health_check.url to something \
             that is reached through them, too, or to none\n"
        );
    }

    #[test]
    fn another_url_is_no_advice_where_the_probe_is_not_what_fails() {
        let (text, _) = told(
            "http://p.test/",
            &[
                ("one", got(400), Some(got(204))),
                ("auth", got(400), Some(got(401))),
            ],
        );
        assert!(
            text.ends_with("a relay would serve through these\n"),
            "{text}"
        );
    }

    /// Why a relay that has just started with these upstreams takes the first of them offline.
    fn reason_of_a_relay(
        health: &HealthCheck,
        answers: &[(UpstreamSpec, (CheckAnswer, Option<CheckAnswer>))],
    ) -> Option<OfflineReason> {
        let specs = answers.iter().map(|(spec, _)| spec.clone()).collect();
        let pool = Pool::new(specs);
        let moment = CheckContext {
            pool: &pool,
            health,
            now: Instant::now(),
            unix_ms: 0,
        };
        let mut examiner = Examiner::new(|| 0);
        examiner.follow_pool(&pool);
        // Side by side, as the relay asks.
        let mut asks = VecDeque::from(examiner.look(moment, answers.len()).0);
        while let Some(ask) = asks.pop_front() {
            let named = |(spec, _): &&(UpstreamSpec, _)| spec.name == ask.upstream.spec.name;
            let (_, (itself, probe)) = answers.iter().find(named).unwrap();
            let answer = match ask.question {
                CheckQuestion::Itself => *itself,
                CheckQuestion::Probe => probe.unwrap(),
            };
            asks.extend(examiner.answered(moment, &ask, answer));
        }
        pool.upstreams()[0].vitals().state().reason
    }

    #[test]
    fn what_it_says_is_what_a_relay_does_that_has_just_started() {
        let kinds = [
            got(204),
            got(400),
            got(401),
            got(407),
            CheckAnswer::Closed,
            CheckAnswer::NotHttp,
            CheckAnswer::Unanswered,
            CheckAnswer::CannotConnect(REFUSED),
        ];
        for group in [None, Some("eu")] {
            for (name, target, others) in ["one", "auth"].into_iter().flat_map(|name| {
                ["http://p.test/", "none"]
                    .into_iter()
                    .flat_map(move |target| {
                        [got(204), got(403)].map(|others| (name, target, others))
                    })
            }) {
                let health = health(target);
                for (itself, probe) in kinds
                    .iter()
                    .flat_map(|itself| kinds.iter().map(move |probe| (*itself, *probe)))
                {
                    let two = UpstreamSpec {
                        group: group.map(Into::into),
                        ..spec("two")
                    };
                    let answers = vec![
                        (spec(name), (itself, Some(probe))),
                        (two, (got(400), Some(others))),
                    ];
                    let wanted = reason_of_a_relay(&health, &answers);
                    let asked = answers.iter().map(|(spec, (itself, probe))| {
                        let probe = probe.filter(|_| goes_on(&health, spec, *itself));
                        (spec, (*itself, probe))
                    });
                    let told = Survey::new(&health, asked.collect()).found[0].standing;
                    let told = match told {
                        Standing::Fails(reason) => Some(reason),
                        Standing::Passes | Standing::Serves | Standing::Unknown => None,
                    };
                    assert_eq!(
                        told, wanted,
                        "{name}, {target}, {itself}, {probe}, others: {others}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_probe_that_passes_nowhere_accuses_its_target_and_the_remedy_is_named() {
        let (text, has_passed) = told(
            "https://p.test",
            &[
                ("one", got(400), Some(got(403))),
                ("two", got(400), Some(CheckAnswer::Unanswered)),
                ("hung", CheckAnswer::Unanswered, None),
            ],
        );
        assert!(!has_passed);
        assert_eq!(
            text,
            "\nprobe (CONNECT to https://p.test, wants 2xx)\n  \
             one: online; answers for itself with 400; the probe got 403\n  \
             two: online; answers for itself with 400; the probe got no answer\n  \
             hung: offline, accepts connections and answers nothing\n\n\
             the probe passes through none of 3 upstreams: https://p.test is at fault, or the way to it\n\
             a relay would serve all the same, through 2 of 3 upstreams, and not believe the probe\n\
             set health_check.url to something that is reached through them, or to none\n"
        );
    }

    #[test]
    fn another_success_everywhere_may_be_what_the_target_answers() {
        let hint =
            "or set health_check.expect_status to 200, if that is what http://p.test/ answers\n";
        let one = ("one", got(400), Some(got(200)));
        let (text, _) = told("http://p.test/", &[one, ("two", got(400), Some(got(200)))]);
        assert!(text.ends_with(hint), "{text}");
        let (text, _) = told("http://p.test/", &[one, ("two", got(400), Some(got(403)))]);
        assert!(!text.contains("expect_status"), "{text}");
    }

    #[test]
    fn without_a_target_the_first_question_is_all() {
        let (text, has_passed) = told(
            "none",
            &[("one", got(400), None), ("two", CheckAnswer::NotHttp, None)],
        );
        assert!(has_passed);
        assert_eq!(
            text,
            "\nprobe (none)\n  \
             one: online; answers for itself with 400\n  \
             two: online; does not answer for itself\n\n\
             1 of 2 upstreams passed; with health_check.url: none nothing more is asked than whether they \
             answer for themselves\n"
        );
    }

    #[test]
    fn where_nobody_works_that_is_told() {
        let (text, has_passed) = told(
            "http://p.test/",
            &[("one", CheckAnswer::CannotConnect(REFUSED), None)],
        );
        assert!(!has_passed);
        assert!(
            text.ends_with(
                "none of 1 upstream works: a relay would answer 503 to what needs one\n"
            ),
            "{text}"
        );
    }
}
