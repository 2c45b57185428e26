//! What an exchange tells about its upstream.
//!
//! Evidence for it is a final response that only a working upstream gives. Evidence against it is weighed by
//! [`failover::evidence`]: a connection that cannot be made is proof, everything else is a doubt that the
//! prober looks into at once ([`crate::health`]).

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use crate::balance::failover::{self, AttemptError, Evidence};
use crate::balance::pick::BalanceMode;
use crate::balance::reason::Doubt;
use crate::balance::state::{Availability, Change, is_gateway_error};
use crate::balance::sticky::SessionKey;
use crate::balance::upstream::Lease;
use crate::net::socket::TICK;
use crate::protocol::answer::HopFailure;

use super::context::unix_ms;
use super::exchange::Exchange;
use super::exits;
use super::failed::Failed;

/// How often those who wait for a suspect look whether it is lost.
const SOON: Duration = Duration::from_millis(100);

impl Exchange<'_> {
    /// A final response of this status came, `latency` after the attempt began.
    pub(super) fn weigh_answer(&self, lease: &Lease, latency: Duration, status: u16) {
        self.weigh(lease, latency, (status, is_doubtful(lease, status)));
    }

    /// A SOCKS5 upstream has opened the way to the target, or refused to; `status` is what an HTTP proxy
    /// would have answered to CONNECT.
    pub(super) fn weigh_tunnel_answer(&self, lease: &Lease, latency: Duration, status: u16) {
        self.weigh(lease, latency, (status, is_gateway_error(status)));
    }

    fn weigh(&self, lease: &Lease, latency: Duration, (status, is_doubtful): (u16, bool)) {
        let vitals = lease.upstream().vitals();
        vitals.answered(latency, status, || self.average_latency());
        if is_gateway_error(status)
            && let Some(who) = self.keeps_to_upstream()
        {
            vitals.gateway_error_of(self.ctx.target_hasher.hash_one(who));
        }
        if is_doubtful {
            let change = vitals.gateway_error(lease.began(), self.target_hash());
            self.tell(lease, change, "");
        } else {
            let change = vitals.good(lease.began(), unix_ms);
            self.tell(lease, change, "it answered a request");
        }
    }

    /// Whose request it is, if these are not shared out: what is asked for meets one upstream more than others.
    fn keeps_to_upstream(&self) -> Option<SessionKey> {
        let wanted = self.state.destination.wanted.as_ref();
        let wanted = wanted.filter(|wanted| wanted.session.is_some());
        let binds = self.client.binds;
        wanted
            .map(|wanted| wanted.by)
            .or_else(|| binds.then(|| exits::key_of_client(self.client.address.ip())))
    }

    /// The attempt that began at `begun` failed.
    pub(super) fn blame(&self, lease: &Lease, begun: Instant, error: &AttemptError) {
        let vitals = lease.upstream().vitals();
        match failover::evidence(error.failure()) {
            Evidence::Nothing => {}
            Evidence::Doubtful(doubt) => {
                vitals.failed(begun.elapsed(), || self.average_latency());
                self.doubt(lease, doubt);
            }
            Evidence::CannotConnect(what) => {
                vitals.failed(begun.elapsed(), || self.average_latency());
                let fall = self.snapshot.config.health.fall;
                let change = vitals.cannot_connect(lease.began(), what, fall, unix_ms());
                self.tell(lease, change, "");
            }
        }
    }

    /// Something may be the upstream's fault: it is checked at once.
    pub(super) fn doubt(&self, lease: &Lease, doubt: Doubt) {
        let change = lease.upstream().vitals().doubt(lease.began(), doubt);
        if change.is_some() {
            let name = &lease.upstream().spec.name;
            decided!(self, "has {name} checked: {doubt}");
        }
        self.tell(lease, change, "");
        if lease.upstream().vitals().is_offline() {
            self.ctx.health_notify.notify_one();
        }
    }

    /// The next hop has not said or taken anything since `since`. An upstream of which no check has heard
    /// either is doubted for it, after half of the time of a check.
    ///
    /// # Errors
    /// When a check has found that there is no point in waiting for it, or an operator has cut it.
    pub(super) fn weigh_silence(
        &self,
        lease: Option<&Lease>,
        since: Instant,
    ) -> Result<(), Failed> {
        let Some(lease) = lease else {
            return Ok(());
        };
        if lease.is_cut() {
            return Err(Failed::no_response(HopFailure::UpstreamCut));
        }
        if lease.is_lost() {
            decided!(self, "waits no more: a check found its upstream dead");
            return Err(Failed::no_response(HopFailure::WentOffline));
        }
        if self.doubted_at(lease, since) <= Instant::now() {
            self.doubt(lease, Doubt::Silent);
        }
        Ok(())
    }

    /// When an upstream that is silent since `since` is doubted: the check needs the other half of its time.
    fn doubted_at(&self, lease: &Lease, since: Instant) -> Instant {
        lease.upstream().vitals().silent_since(since) + self.snapshot.config.health.timeout / 2
    }

    /// When to look next at an upstream that is silent since `since`: soon while a check may find it dead.
    pub(super) fn next_look(&self, lease: &Lease, since: Instant, now: Instant) -> Instant {
        let doubted_at = self.doubted_at(lease, since);
        match lease.upstream().vitals().availability() {
            _ if now < doubted_at => doubted_at.min(now + TICK),
            Availability::Online => now + TICK,
            Availability::Suspect | Availability::Offline => now + SOON,
        }
    }

    fn average_latency(&self) -> Option<Duration> {
        match self.snapshot.config.mode {
            BalanceMode::Best => self.snapshot.pool.average_latency(),
            BalanceMode::RoundRobin | BalanceMode::Priority => None,
        }
    }

    fn tell(&self, lease: &Lease, change: Option<Change>, evidence: &str) {
        if let Some(change) = change {
            lease.upstream().tell(change, evidence, unix_ms());
            self.ctx.health_notify.notify_one();
        }
    }
}

/// Whether an answer may be the upstream's own instead of the origin's: that it could not serve, or does
/// not take the credentials that it got. For those a proxy answers 407, but some (tinyproxy) 401. A SOCKS5
/// upstream answers nothing itself.
fn is_doubtful(lease: &Lease, status: u16) -> bool {
    let is_http = !lease.upstream().spec.is_socks();
    is_http && (is_gateway_error(status) || (status == 401 && has_sent_credentials(lease)))
}

/// Whether the upstream was told credentials of ours.
pub(super) fn has_sent_credentials(lease: &Lease) -> bool {
    lease.upstream().spec.credentials.is_some()
}
