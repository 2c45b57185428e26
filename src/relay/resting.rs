//! Answers that let their upstream rest: an exit that a site has banned is good for others.
//!
//! Which answers those are the file says (`rest`), and whether another upstream is asked at once. Then the answer
//! is kept with its connection, as one is that refuses a tunnel: the client gets it if nobody answers better.
//!
//! Not here: what rests ([`crate::balance::rests`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::failover::Next;
use crate::balance::rests::Rest;
use crate::balance::state::is_gateway_error;
use crate::config::exits::{RestRule, RestScope};
use crate::protocol::retry_after;

use super::context::unix_ms;
use super::exchange::{Done, Exchange, HopAnswer};
use super::exits::key_of_client;
use super::failed::{Failed, RESTS, refused};

/// How long others are waited for while an answer is there: its server does not wait for ever with the rest of it, and
/// neither does the client.
const WITH_AN_ANSWER: Duration = Duration::from_secs(5);

/// `Retry-After` may make a rest so many times as long as the file says.
const MOST_LONGER: u32 = 10;

impl<'a> Exchange<'a> {
    /// Whether it waits for the upstream of its session alone, which has not failed so far.
    pub(super) fn stays_with_session(&self) -> bool {
        let wanted = self.state.destination.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.session.is_some()) && self.state.last.is_none()
    }

    /// Gives back the answer of an upstream, unless it begins a rest and another upstream is to be asked now.
    /// Then it is kept: the client gets it if nobody answers better.
    ///
    /// # Errors
    /// When another upstream is to be asked.
    pub(super) fn unless_kept(&mut self, answer: HopAnswer) -> Result<HopAnswer, Failed> {
        let rule = self.begin_rest(&answer);
        let kept = self.state.kept.as_ref();
        let kept = kept.map(|kept| kept.head.status());
        let is_kept_for_rest = kept.is_some_and(|status| asks_again(self.rest_rule(status)));
        let is_no_better = match kept {
            None => asks_again(rule),
            Some(_) if is_kept_for_rest => rule.is_some() || is_gateway_error(answer.head.status()),
            Some(_) => false,
        };
        // Connections whose request was not sent whole are of no use later.
        let may_go_on =
            || self.state.upload.is_delivered() && self.next_after(&RESTS) == Next::Failover;
        if !is_no_better || !may_go_on() {
            return Ok(answer);
        }
        if kept.is_none() {
            self.state.kept = Some(Box::new(answer));
        }
        Err(Failed::Hop(RESTS))
    }

    /// How long the next hop may take for its answer, if it may take `limit` where there is no other.
    pub(super) fn patience(&self, limit: Duration) -> Duration {
        let kept = self.state.kept.as_ref();
        let has_answer = kept.is_some_and(|kept| asks_again(self.rest_rule(kept.head.status())));
        if has_answer {
            limit.min(WITH_AN_ANSWER)
        } else {
            limit
        }
    }

    /// What came of asking upstreams; where none of them has answered better, the answer that was kept.
    pub(super) fn or_kept(&mut self, done: Result<Done, Failed>) -> Result<Done, Failed> {
        if !matches!(done, Err(Failed::Refused(_))) {
            return done;
        }
        match self.state.kept.take() {
            Some(answer) => {
                if self.state.upload.is_open() {
                    // It was sent whole to this one, and is under way to another.
                    self.state.upload.abandon();
                }
                self.pass_answer(*answer).map_err(refused)
            }
            None => done,
        }
    }

    /// Lets the upstream rest if there is a rule for its answer.
    fn begin_rest(&self, answer: &HopAnswer) -> Option<&'a RestRule> {
        let lease = answer.hop.lease.as_ref()?;
        let wanted = self.state.destination.wanted.as_ref()?;
        let status = answer.head.status();
        if answer.hop.is_clients_matter(status) {
            return None;
        }
        let rule = self.rest_rule(status)?;
        let asked = answer.head.fields().values("Retry-After").next();
        let time = time_of(rule.rest, asked, unix_ms() / 1000);
        let now = Instant::now();
        let rest = Rest {
            upstream: lease.upstream().id(),
            host: (rule.scope == RestScope::Host).then(|| Arc::clone(&wanted.host)),
            status,
            until: now + time,
            client: key_of_client(self.client.address.ip()),
        };
        let (name, scope) = (&lease.upstream().spec.name, rest.host.clone());
        if self.snapshot.pool.rests().begin(rest, now) {
            let scope = scope.as_deref().unwrap_or("all hosts");
            decided!(
                self,
                "{name} rests for {scope} for {time:.1?}: it answered {status}"
            );
        }
        Some(rule)
    }

    /// The rule for such an answer. A refused CONNECT says nothing of other targets.
    fn rest_rule(&self, status: u16) -> Option<&'a RestRule> {
        let is_tunnel = self.head.method() == "CONNECT";
        let mut rules = self.snapshot.config.rest.iter();
        rules.find(|rule| {
            rule.statuses.contains(&status) && !(is_tunnel && rule.scope == RestScope::Upstream)
        })
    }
}

fn asks_again(rule: Option<&RestRule>) -> bool {
    rule.is_some_and(|rule| rule.retry)
}

/// How long a rest is, for what the file says and the value of `Retry-After`, at `now` in seconds since 1970.
fn time_of(rest: Duration, asked: Option<&[u8]>, now: u64) -> Duration {
    let most = rest.saturating_mul(MOST_LONGER);
    let asked = asked.and_then(|value| retry_after::wait(value, now));
    asked.map_or(rest, |asked| asked.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_honoured_up_to_ten_times_the_rest() {
        for (asked, wanted) in [
            (None, 60),
            (Some("5"), 5),
            (Some("599"), 599),
            (Some("601"), 600),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), 90),
            (Some("later"), 60),
        ] {
            let asked = asked.map(str::as_bytes);
            let time = time_of(Duration::from_secs(60), asked, 784_111_777 - 90);
            assert_eq!(time, Duration::from_secs(wanted), "{asked:?}");
        }
    }
}
