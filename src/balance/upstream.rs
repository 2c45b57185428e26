//! One upstream: what the file says about it, and its vitals.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::credentials::Credentials;
use crate::protocol::target::Authority;

use super::reason::OfflineReason;
use super::state::{Availability, Epoch, Standing, Transition};
use super::vitals::{Failure, UpstreamId, Vitals};

/// An upstream as it is configured.
#[derive(Clone, Debug)]
pub struct UpstreamSpec {
    /// What logs, metrics and actions call it.
    pub name: String,
    /// Where it listens.
    pub authority: Authority,
    /// What it is told in `Proxy-Authorization`.
    pub credentials: Option<Credentials>,
    /// Its share among others; 0 = no new requests.
    pub weight: u32,
    /// Lower is preferred.
    pub priority: u32,
}

/// A member of a [`super::pool::Pool`].
#[derive(Debug)]
pub struct Upstream {
    /// What the file says.
    pub spec: UpstreamSpec,
    url: Box<str>,
    vitals: Arc<Vitals>,
}

/// One attempt or tunnel on an upstream; counted as active until it is dropped.
#[must_use = "the upstream counts as free when the lease is dropped"]
#[derive(Debug)]
pub struct Lease {
    upstream: Arc<Upstream>,
    began: Epoch,
}

/// A change of state as one line for the log. Made by [`Upstream::change`].
#[derive(Clone, Copy, Debug)]
pub struct StateChange<'u> {
    name: &'u str,
    to: ChangedTo,
    after: Option<Duration>,
}

/// The state an upstream came into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangedTo {
    /// It is back.
    Online,
    /// It is out, for this reason.
    Offline(OfflineReason),
}

impl Upstream {
    pub(super) fn new(spec: UpstreamSpec, vitals: Arc<Vitals>) -> Self {
        let url = format!("http://{}", spec.authority).into_boxed_str();
        Self { spec, url, vitals }
    }

    /// What is known about it.
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// `http://host:port`, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Who this is, over reloads.
    pub fn id(&self) -> UpstreamId {
        self.vitals.id()
    }

    /// Whether it may get new requests while it is online: neither drained at run time nor by a
    /// weight of 0.
    pub fn is_in_service(&self) -> bool {
        self.spec.weight != 0 && !self.vitals.is_drained()
    }

    /// The line to be logged for a transition of this upstream, if the state changed. Whoever gets
    /// the transition logs it, so that each change is logged one time.
    pub fn change(&self, transition: Transition) -> Option<StateChange<'_>> {
        let (to, after) = match transition {
            Transition::StillOnline | Transition::StillOffline => return None,
            Transition::WentOffline { reason, after } => (ChangedTo::Offline(reason), after),
            Transition::CameOnline { after } => (ChangedTo::Online, after),
        };
        Some(StateChange {
            name: &self.spec.name,
            to,
            after,
        })
    }

    pub(super) fn standing(&self) -> Standing {
        self.vitals.standing()
    }
}

impl Lease {
    pub(super) fn take(upstream: &Arc<Upstream>) -> Self {
        upstream.vitals.begin();
        Self {
            upstream: Arc::clone(upstream),
            began: upstream.vitals.epoch(),
        }
    }

    /// The upstream that was picked.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The attempt failed by the fault of the upstream after `elapsed`; `fall` (from 1) failures in
    /// a row take it offline. If the state has changed since the pick, the failure is counted and
    /// measured, and changes nothing else: it tells about a time that is over.
    /// `now_unix_ms`: milliseconds since 1970.
    pub fn failed(
        &self,
        reason: OfflineReason,
        elapsed: Duration,
        fall: u32,
        now_unix_ms: u64,
    ) -> Transition {
        let failure = Failure {
            began: self.began,
            reason,
            elapsed,
        };
        self.upstream.vitals.failed(failure, fall, now_unix_ms)
    }

    /// Whether a probe has shown since the pick that the upstream does not work. This ends an
    /// attempt that waits on a silent upstream; a failure of another attempt does not, for that one
    /// may have been poisonous. On a last resort, the status that made it one says nothing new.
    pub fn is_lost(&self) -> bool {
        let vitals = &self.upstream.vitals;
        if vitals.is_online() {
            return false;
        }
        let reason = vitals.state().reason;
        reason.is_some_and(|reason| match self.began.availability() {
            Availability::Online => reason.is_from_probe(),
            Availability::Offline => reason.is_from_probe() && !reason.allows_last_resort(),
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.vitals.end();
    }
}

impl StateChange<'_> {
    /// Where to.
    pub fn to(&self) -> ChangedTo {
        self.to
    }
}

impl fmt::Display for StateChange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = match self.to {
            ChangedTo::Online => {
                write!(f, "upstream {} is online again", self.name)?;
                "offline"
            }
            ChangedTo::Offline(reason) => {
                write!(f, "upstream {} is offline: {reason}", self.name)?;
                "online"
            }
        };
        match self.after {
            Some(after) => write!(f, " (was {before} for {})", Spoken(after)),
            None => write!(f, " (was {before} since the start)"),
        }
    }
}

/// A duration in its two largest units.
struct Spoken(Duration);

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) if seconds < 10 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, _) => write!(f, "{minutes} min {} s", seconds % 60),
            (0, _, _) => write!(f, "{hours} h {minutes} min"),
            (_, _, _) => write!(f, "{days} d {hours} h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream() -> Arc<Upstream> {
        let spec = UpstreamSpec {
            name: "a".into(),
            authority: Authority::parse(b"a.test:3128", None).unwrap(),
            credentials: Some(Credentials::basic("bob", "hunter2")),
            weight: 1,
            priority: 100,
        };
        Arc::new(Upstream::new(spec, Arc::new(Vitals::new())))
    }

    const REASON: OfflineReason = OfflineReason::ProbeStatus(403);

    fn check_line(transition: Transition, line: &str) {
        assert_eq!(upstream().change(transition).unwrap().to_string(), line);
    }

    #[test]
    fn the_url_shows_no_credentials() {
        assert_eq!(upstream().url(), "http://a.test:3128");
    }

    #[test]
    fn debug_shows_no_credentials() {
        let lease = Lease::take(&upstream());
        let shown = format!("{lease:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("Ym9iOmh1bnRlcjI"),
            "{shown}"
        );
    }

    #[test]
    fn a_lease_counts_until_it_is_dropped() {
        let upstream = upstream();
        let (first, second) = (Lease::take(&upstream), Lease::take(&upstream));
        assert_eq!(upstream.vitals().active(), 2);
        drop(first);
        assert_eq!(upstream.vitals().active(), 1);
        drop(second);
        assert_eq!(upstream.vitals().active(), 0);
    }

    fn fail_probe(upstream: &Upstream, reason: OfflineReason) {
        upstream
            .vitals()
            .probe_failed(upstream.vitals().epoch(), reason, 1, 0);
    }

    #[test]
    fn a_failed_probe_ends_the_leases_that_wait() {
        for reason in [OfflineReason::ProbeTimeout, OfflineReason::Auth, REASON] {
            let upstream = upstream();
            let lease = Lease::take(&upstream);
            assert!(!lease.is_lost());
            fail_probe(&upstream, reason);
            assert!(lease.is_lost(), "{reason}");
        }
    }

    #[test]
    fn a_failed_attempt_ends_no_other_lease_until_a_probe_agrees() {
        let upstream = upstream();
        let (lease, other) = (Lease::take(&upstream), Lease::take(&upstream));
        other.failed(OfflineReason::Closed, Duration::ZERO, 1, 0);
        assert!(!lease.is_lost());
        fail_probe(&upstream, OfflineReason::ProbeTimeout);
        assert!(lease.is_lost());
    }

    #[test]
    fn a_last_resort_is_lost_by_something_worse_than_another_status() {
        let upstream = upstream();
        fail_probe(&upstream, REASON);
        let lease = Lease::take(&upstream);
        fail_probe(&upstream, OfflineReason::ProbeStatus(500));
        assert!(!lease.is_lost());
        fail_probe(&upstream, OfflineReason::ProbeClosed);
        assert!(lease.is_lost());
    }

    #[test]
    fn a_recovery_ends_no_lease() {
        let upstream = upstream();
        fail_probe(&upstream, REASON);
        let lease = Lease::take(&upstream);
        upstream
            .vitals()
            .probe_succeeded(upstream.vitals().epoch(), 1, 0);
        assert!(!lease.is_lost());
    }

    #[test]
    fn a_change_is_told_with_the_time_before_it() {
        let seconds = |n| Some(Duration::from_secs(n));
        check_line(
            Transition::WentOffline {
                reason: REASON,
                after: None,
            },
            "upstream a is offline: probe: got 403 (was online since the start)",
        );
        check_line(
            Transition::WentOffline {
                reason: REASON,
                after: seconds(7_320),
            },
            "upstream a is offline: probe: got 403 (was online for 2 h 2 min)",
        );
        check_line(
            Transition::CameOnline {
                after: Some(Duration::from_millis(1_240)),
            },
            "upstream a is online again (was offline for 1.2 s)",
        );
        check_line(
            Transition::CameOnline { after: seconds(59) },
            "upstream a is online again (was offline for 59 s)",
        );
        check_line(
            Transition::CameOnline { after: seconds(61) },
            "upstream a is online again (was offline for 1 min 1 s)",
        );
        check_line(
            Transition::CameOnline {
                after: seconds(90_000),
            },
            "upstream a is online again (was offline for 1 d 1 h)",
        );
    }

    #[test]
    fn what_is_no_change_is_not_told() {
        assert!(upstream().change(Transition::StillOnline).is_none());
        assert!(upstream().change(Transition::StillOffline).is_none());
    }
}
