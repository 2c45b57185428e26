//! `--check --probe`: every upstream is asked once, and told what a relay would make of the answers.
//!
//! The questions are those of a check ([`super::examiner`]). All upstreams are asked at the same time, so
//! each is the control of the others: a probe that passes through one accuses those through which it does
//! not pass; one that passes through nobody accuses its target.
//!
//! Not here: asking again, and anything that needs a running relay.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::balance::reason::OfflineReason;
use crate::balance::upstream::UpstreamSpec;
use crate::config::checked::Config;
use crate::config::health::{HealthCheck, ProbeTarget};
use crate::net::resolve::Resolver;

use super::examiner::{Answer, Question, is_about_credentials, passes, question_limit};
use super::threads::Threads;
use super::{addresses, question};

/// What every upstream answered when it was asked once. Its `Display` tells it, and what it means.
#[derive(Debug)]
pub struct Survey {
    health: HealthCheck,
    found: Vec<Found>,
}

/// What one upstream answered.
#[derive(Debug)]
struct Found {
    name: String,
    itself: Answer,
    /// Not asked where the first answer was the end of the matter, or for a target of `none`.
    probe: Option<Answer>,
    standing: Standing,
}

/// What a relay would make of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// It has passed all that is asked.
    Passes,
    /// It answers for itself, and the probe passes through nobody.
    Serves,
    /// It would be offline.
    Fails(OfflineReason),
    /// This process could not ask.
    Unknown,
}

/// Whether the probe passes through anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Reached,
    Unreached,
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
) -> (Answer, Option<Answer>) {
    let limit = question_limit(health);
    let target = &health.target;
    let itself = question::ask(spec, (Question::Itself, target), limit, resolve);
    let goes_on = match itself {
        Answer::Status(_) | Answer::Closed | Answer::NotHttp => *target != ProbeTarget::Nothing,
        Answer::CannotConnect(_) | Answer::Unanswered | Answer::NotAsked => false,
    };
    let probe = goes_on.then(|| question::ask(spec, (Question::Probe, target), limit, resolve));
    (itself, probe)
}

impl Survey {
    fn new(health: &HealthCheck, answers: Vec<(&UpstreamSpec, (Answer, Option<Answer>))>) -> Self {
        let has_passed = |probe: Option<Answer>| probe.is_some_and(|answer| passes(health, answer));
        let target = if answers.iter().any(|(_, (_, probe))| has_passed(*probe)) {
            Target::Reached
        } else {
            Target::Unreached
        };
        let found = answers
            .into_iter()
            .map(|(spec, (itself, probe))| Found {
                name: spec.name.clone(),
                itself,
                probe,
                standing: match probe {
                    _ if has_passed(probe) => Standing::Passes,
                    Some(answer) => by_probe(spec, (itself, answer), target),
                    None => by_itself(itself),
                },
            })
            .collect();
        Self {
            health: health.clone(),
            found,
        }
    }

    /// Whether at least one upstream has passed all that is asked.
    pub fn has_passed(&self) -> bool {
        self.count(|standing| standing == Standing::Passes) > 0
    }

    fn count(&self, is_meant: impl Fn(Standing) -> bool) -> usize {
        let meant = |found: &&Found| is_meant(found.standing);
        self.found.iter().filter(meant).count()
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
            Some(Answer::Status(status))
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
        let passed = self.count(|standing| standing == Standing::Passes);
        let serving = self.count(|standing| standing == Standing::Serves);
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
            if passed < self.found.len() {
                writeln!(
                    out,
                    "a relay would serve through these; where the others work, set health_check.url to \
                     something that is reached through them, too, or to none"
                )?;
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
             a relay would serve all the same, through {serving} of {all} that answer for themselves, \
             and not believe the probe\n\
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

/// One that got further than the first question, and through which the probe has not passed.
fn by_probe(spec: &UpstreamSpec, answers: (Answer, Answer), target: Target) -> Standing {
    match answers {
        (_, Answer::NotAsked) => Standing::Unknown,
        (_, Answer::CannotConnect(what)) => Standing::Fails(OfflineReason::CannotConnect(what)),
        (_, Answer::Status(status)) if is_about_credentials(spec, status) => {
            Standing::Fails(OfflineReason::Auth)
        }
        // Neither for itself nor for others.
        (
            Answer::Closed | Answer::NotHttp,
            Answer::Closed | Answer::NotHttp | Answer::Unanswered,
        ) => by_itself(answers.0),
        (_, Answer::Status(_) | Answer::Closed | Answer::NotHttp | Answer::Unanswered)
            if target == Target::Unreached =>
        {
            Standing::Serves
        }
        (_, Answer::Status(status)) => Standing::Fails(OfflineReason::ProbeStatus(status)),
        (_, Answer::Closed) => Standing::Fails(OfflineReason::Closes),
        (_, Answer::NotHttp) => Standing::Fails(OfflineReason::NotHttp),
        (_, Answer::Unanswered) => Standing::Fails(OfflineReason::ProbeUnanswered),
    }
}

/// One of which nothing more is to be known.
fn by_itself(itself: Answer) -> Standing {
    match itself {
        Answer::Status(_) => Standing::Passes,
        Answer::CannotConnect(what) => Standing::Fails(OfflineReason::CannotConnect(what)),
        Answer::Unanswered => Standing::Fails(OfflineReason::Silent),
        Answer::Closed => Standing::Fails(OfflineReason::Closes),
        Answer::NotHttp => Standing::Fails(OfflineReason::NotHttp),
        Answer::NotAsked => Standing::Unknown,
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

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.name)?;
        match self.standing {
            Standing::Passes | Standing::Serves => write!(out, "online")?,
            // What the probe got is told below.
            Standing::Fails(OfflineReason::ProbeStatus(_) | OfflineReason::ProbeUnanswered) => {
                write!(out, "offline")?;
            }
            Standing::Fails(reason) => write!(out, "offline, {reason}")?,
            Standing::Unknown => {
                return write!(out, "could not be asked: try again");
            }
        }
        if let Answer::Status(status) = self.itself {
            write!(out, "; answers for itself with {status}")?;
        }
        match self.probe {
            Some(answer) => write!(out, "; the probe {answer}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::credentials::Credentials;
    use crate::protocol::target::Authority;

    use super::*;

    const REFUSED: &str = "connection refused";

    fn spec(name: &str) -> UpstreamSpec {
        UpstreamSpec {
            name: name.to_owned(),
            authority: Authority::parse(b"192.0.2.1:3128", None).unwrap(),
            credentials: (name == "auth").then(|| Credentials::basic("a", "b")),
            weight: 1,
            priority: 100,
        }
    }

    fn health(target: &str) -> HealthCheck {
        let text = format!(
            "listen: 127.0.0.1:0\nhealth_check: {{url: '{target}'}}\nupstream: [{{url: 'http://a.test'}}]\n"
        );
        crate::config::parse(&text, "config.yaml").unwrap().health
    }

    fn told(target: &str, answers: &[(&str, Answer, Option<Answer>)]) -> (String, bool) {
        let specs: Vec<_> = answers.iter().map(|(name, ..)| spec(name)).collect();
        let answers = answers.iter().map(|(_, itself, probe)| (*itself, *probe));
        let survey = Survey::new(&health(target), specs.iter().zip(answers).collect());
        (survey.to_string(), survey.has_passed())
    }

    fn got(status: u16) -> Answer {
        Answer::Status(status)
    }

    #[test]
    fn where_the_probe_passes_it_accuses_those_that_do_not_pass_it() {
        let (text, has_passed) = told(
            "http://p.test/",
            &[
                ("one", got(400), Some(got(204))),
                ("two", got(400), Some(got(403))),
                ("mute", got(400), Some(Answer::Unanswered)),
                ("auth", got(400), Some(got(401))),
                ("down", Answer::CannotConnect(REFUSED), None),
                ("shut", Answer::Closed, Some(Answer::Closed)),
                ("odd", Answer::Closed, Some(got(204))),
                ("busy", Answer::NotAsked, None),
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
             shut: offline, closes connections without an answer; the probe closed the connection\n  \
             odd: online; the probe got 204\n  \
             busy: could not be asked: try again\n\n\
             the probe passes through 2 of 8 upstreams\n\
             a relay would serve through these; where the others work, set health_check.url to something \
             that is reached through them, too, or to none\n"
        );
    }

    #[test]
    fn a_probe_that_passes_nowhere_accuses_its_target_and_the_remedy_is_named() {
        let (text, has_passed) = told(
            "https://p.test",
            &[
                ("one", got(400), Some(got(403))),
                ("two", got(400), Some(Answer::Unanswered)),
                ("hung", Answer::Unanswered, None),
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
             a relay would serve all the same, through 2 of 3 upstreams that answer for themselves, and \
             not believe the probe\n\
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
            &[("one", got(400), None), ("two", Answer::NotHttp, None)],
        );
        assert!(has_passed);
        assert_eq!(
            text,
            "\nprobe (none)\n  \
             one: online; answers for itself with 400\n  \
             two: offline, answers something that is not HTTP\n\n\
             1 of 2 upstreams passed; with health_check.url: none nothing more is asked than whether they \
             answer for themselves\n"
        );
    }

    #[test]
    fn where_nobody_works_that_is_told() {
        let (text, has_passed) = told(
            "http://p.test/",
            &[("one", Answer::CannotConnect(REFUSED), None)],
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
