//! Connections to next hops that are used again: which one a request gets, and what a failure on it means.
//!
//! A connection that was idle may have been closed in the same moment, or carry what is left of an exchange
//! before. Neither says anything about the upstream, so a request that fails on one is sent once more over
//! a fresh connection, if it may be sent twice at all. Bytes that were not asked for are another matter:
//! the client that got the connection next would take them for its answer, so the upstream's connections are no longer
//! shared ([`crate::net::idle_pool`]).

use std::time::Instant;

use crate::balance::failover::{self, AttemptError, Next, Replay};
use crate::balance::upstream::{Lease, Upstream, UpstreamSpec};
use crate::net::conn::Conn;
use crate::net::idle_pool::{LastUse, Leftover, Sender, SharedBy, TakenConn, UseFor, Wanted};
use crate::net::socket::{self, Peeked, TICK};
use crate::protocol::answer::HopFailure;
use crate::protocol::head::ResponseHead;
use crate::protocol::persistence::{self, NextHopPersistence};

use super::client::{Bound, BoundTo};
use super::exchange::Exchange;
use super::hop::{Hop, HopOrigin};
use super::report;

/// What an answer leaves its connection good for.
#[derive(Clone, Copy, Debug)]
pub(super) struct After {
    keeps: NextHopPersistence,
    rest: Leftover,
}

impl After {
    /// An answer that has no body whatever its fields say (RFC 9112 §6.3 rule 1) ends where its head does,
    /// but not every server knows: some send a body all the same, a moment later.
    pub(super) fn of(method: &str, head: &ResponseHead) -> Self {
        let keeps = persistence::next_hop_keeps(head);
        let has_no_body = method == "HEAD" || matches!(head.status(), 204 | 304);
        let rest = match keeps {
            NextHopPersistence::Keeps if !has_no_body => Leftover::Nothing,
            NextHopPersistence::Keeps
            | NextHopPersistence::KeepsUnsaid
            | NextHopPersistence::Closes => Leftover::Possible,
        };
        Self { keeps, rest }
    }

    /// Whether more may come on a connection that was from there before this answer: what may have come
    /// behind the one before it was not waited for.
    fn rest(self, origin: HopOrigin) -> Leftover {
        match origin {
            HopOrigin::Fresh | HopOrigin::Reused(Leftover::Nothing) => self.rest,
            HopOrigin::Reused(Leftover::Possible) => Leftover::Possible,
        }
    }
}

impl Exchange<'_> {
    /// The connection to `to` that is bound to this client, unless something has happened on it since:
    /// unasked bytes would be taken for the answer to this request. `upstream`: the one it leads to.
    pub(super) fn take_bound(
        &mut self,
        to: &BoundTo,
        upstream: Option<&Upstream>,
    ) -> Option<Bound> {
        let bound = self.client.bound.take_if(|bound| bound.to == *to)?;
        let is_alike = match upstream {
            Some(upstream) => self.shared_by(upstream) == Some(bound.shared_by),
            None => true,
        };
        if !is_alike || !bound.use_for.admits(self.target_hash()) {
            return None;
        }
        match socket::peek(bound.conn.stream()) {
            Peeked::Quiet => Some(*bound),
            Peeked::Bytes => {
                self.strayed(upstream);
                None
            }
            Peeked::Ended => None,
        }
    }

    /// A connection to the upstream of `lease` that was idle: the one bound to this client, or one that is
    /// kept for all.
    fn reuse(&mut self, lease: &Lease) -> Option<(Conn, Leftover)> {
        let upstream = lease.upstream();
        let to = BoundTo::Upstream(upstream.id());
        if let Some(bound) = self.take_bound(&to, Some(upstream)) {
            return Some((bound.conn, Leftover::Nothing));
        }
        let idle = self.snapshot.idle_pool(upstream)?;
        let is_repeatable = failover::is_repeatable(self.head.method())
            && self.state.upload.is_finished()
            && self.state.upload.replay() == Replay::Whole;
        let wanted = Wanted {
            target: self.target_hash(),
            shared_by: self.shared_by(upstream)?,
            sender: self.sender(upstream),
            client: self.client.id,
            within: self.snapshot.config.limits.upstream_idle,
            is_repeatable,
            home: self.worker.home(),
        };
        loop {
            match idle.take(&wanted, Instant::now()) {
                TakenConn::Idle(mut conn, rest) => {
                    report::count(&upstream.vitals().counters.connections_reused, 1);
                    conn.borrow_memory(&mut self.scratch.from_hop);
                    return Some((conn, rest));
                }
                TakenConn::Stray => self.strayed(Some(upstream)),
                TakenConn::Nothing => return None,
            }
        }
    }

    /// A connection to the upstream of `lease` that is there already: the one bound to this client, or an
    /// idle one; else the lease again.
    pub(super) fn idle_connection(&mut self, lease: Lease, begun: Instant) -> Result<Hop, Lease> {
        if self.head.method() == "CONNECT" {
            return Err(lease); // A tunnel gets a connection of its own.
        }
        let reused = self
            .reuse(&lease)
            .map(|(conn, rest)| (conn, HopOrigin::Reused(rest)));
        match reused {
            Some((conn, origin)) => {
                self.report.connected(None);
                decided!(self, "goes over a connection that was idle");
                Ok(Hop::new(conn, Some(lease), begun, origin))
            }
            None => Err(lease),
        }
    }

    /// Keeps a connection whose exchange is complete: for this client alone if it is bound to it.
    pub(super) fn keep(&mut self, hop: Hop, after: After) {
        let upstream = hop.lease.as_ref().map(Lease::upstream);
        let Some(use_for) = self.good_for(after.keeps, upstream.map(AsRef::as_ref)) else {
            return;
        };
        let shared_by = match upstream {
            Some(upstream) => self.shared_by(upstream),
            None => Some(SharedBy::All),
        };
        let Some(shared_by) = shared_by else {
            return; // No other request is alike.
        };
        if !hop.conn.unread().is_empty() {
            return self.strayed(upstream.map(AsRef::as_ref));
        }
        self.client.binds |= self.state.binds;
        if self.client.binds {
            let to = match upstream {
                Some(upstream) => BoundTo::Upstream(upstream.id()),
                None => BoundTo::Origin(self.authority().clone()),
            };
            let conn = hop.conn;
            self.client.bound = Some(Box::new(Bound {
                conn,
                to,
                use_for,
                shared_by,
            }));
            return;
        }
        let idle = upstream.and_then(|upstream| self.snapshot.idle_pool(upstream));
        let (Some(upstream), Some(idle)) = (upstream, idle) else {
            return; // Origins are not kept.
        };
        if upstream.vitals().is_offline() || self.snapshot.leads_astray(upstream, &hop.conn) {
            return;
        }
        let last_use = LastUse {
            use_for,
            shared_by,
            sender: self.sender(upstream),
            client: self.client.id,
            begun: hop.begun,
            leftover: after.rest(hop.origin),
            home: self.worker.home(),
        };
        let most = self.snapshot.config.limits.upstream_idle_connections;
        let mut conn = hop.conn;
        conn.limit_read(TICK);
        conn.release(&mut self.scratch.from_hop);
        idle.keep(conn, last_use, most, Instant::now());
    }

    /// What a connection is good for after an exchange that leaves it like this. None: nothing.
    fn good_for(&self, keeps: NextHopPersistence, upstream: Option<&Upstream>) -> Option<UseFor> {
        let spec = upstream.map(|upstream| &upstream.spec);
        let passes_credentials = spec.is_some_and(|spec| spec.told.passes_credentials);
        let has_credentials = passes_credentials || spec.is_some_and(|s| s.credentials.is_some());
        let is_bound = self.state.binds || self.client.binds;
        match keeps {
            NextHopPersistence::Closes => None,
            // It leads to this target, and nothing of our credentials is sent over it any more.
            _ if spec.is_some_and(UpstreamSpec::is_socks) => {
                Some(UseFor::Target(self.target_hash()))
            }
            NextHopPersistence::Keeps => Some(UseFor::Anything),
            // A handshake with the upstream itself needs a connection that stays, and who asks a client for
            // credentials reads each of its requests.
            NextHopPersistence::KeepsUnsaid if passes_credentials && is_bound => {
                Some(UseFor::Anything)
            }
            NextHopPersistence::KeepsUnsaid if !has_credentials => {
                Some(UseFor::Target(self.target_hash()))
            }
            // If it is a pipe to the origin by now, that one must not get credentials for a proxy.
            NextHopPersistence::KeepsUnsaid => None,
        }
    }

    /// Whether an answer may be meant for another client, and this request can still be sent once more: its
    /// connection was used before, and the upstream was seen to send stray bytes meanwhile.
    pub(super) fn may_be_anothers(&self, hop: &Hop) -> bool {
        let (HopOrigin::Reused(_), Some(lease)) = (hop.origin, &hop.lease) else {
            return false;
        };
        if self.client.binds {
            return false; // No other client has used it.
        }
        let sender = self.sender(lease.upstream());
        let idle = self.snapshot.idle_pool(lease.upstream());
        idle.is_some_and(|idle| idle.lost_trust_since(sender, hop.begun, Instant::now()))
            && self.may_be_sent_afresh(&AttemptError::NoResponse(HopFailure::Closed))
    }

    /// Whether the request may be sent once more over a fresh connection after this on one that was used
    /// before: what came over it, be it as odd as it likes, need not have been an answer.
    pub(super) fn may_be_sent_afresh(&self, error: &AttemptError) -> bool {
        match error {
            AttemptError::NotSent(_) => true,
            AttemptError::NoResponse(_) => {
                let closed = AttemptError::NoResponse(HopFailure::Closed);
                self.next_after(&closed) == Next::Failover
            }
            AttemptError::Truncated(_) => false,
        }
    }

    /// A reused connection to the upstream of `lease` has failed; see [`explains`].
    pub(super) fn broke(&self, lease: &Lease, error: &AttemptError) {
        let upstream = lease.upstream();
        report::count(&upstream.vitals().counters.reuse_broken, 1);
        if let Some(idle) = self.snapshot.idle_pool(upstream) {
            idle.broke(self.sender(upstream), Instant::now());
        }
        if failover::shows_stray_bytes(error.failure()) {
            self.strayed(Some(upstream));
        }
    }

    /// A next hop sent a byte that was not asked for. Connections to origins are not shared anyway.
    fn strayed(&self, upstream: Option<&Upstream>) {
        if let Some(upstream) = upstream {
            self.snapshot.strayed(upstream, self.sender(upstream));
        }
    }

    /// Who sends what comes from `upstream` for this request.
    fn sender(&self, upstream: &Upstream) -> Sender {
        if upstream.spec.is_socks() {
            Sender::Origin(self.target_hash())
        } else {
            Sender::Upstream
        }
    }
}

/// Whether a failure may be due to what happened on the connection before: then the upstream is
/// not to blame, and a fresh one may do.
pub(super) fn explains(origin: HopOrigin, error: &AttemptError) -> bool {
    matches!(origin, HopOrigin::Reused(_)) && failover::is_explained_by_idleness(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_may_come_behind_an_answer_without_a_body_or_a_word_about_its_connection() {
        let kept = "Connection: keep-alive\r\nContent-Length: 4\r\n";
        for (method, status, fields, expected) in [
            ("GET", 200, kept, Leftover::Nothing),
            ("POST", 404, kept, Leftover::Nothing),
            ("HEAD", 200, kept, Leftover::Possible),
            ("GET", 304, kept, Leftover::Possible),
            ("GET", 204, "Connection: keep-alive\r\n", Leftover::Possible),
            ("GET", 200, "Content-Length: 4\r\n", Leftover::Possible),
        ] {
            let text = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
            let head = ResponseHead::parse(text.into_bytes()).expect("well formed");
            let after = After::of(method, &head);
            assert_eq!(after.rest, expected, "{method} {status} {fields:?}");
        }
    }

    #[test]
    fn what_may_still_come_may_come_behind_the_next_answer_too() {
        let whole = After {
            keeps: NextHopPersistence::Keeps,
            rest: Leftover::Nothing,
        };
        assert_eq!(whole.rest(HopOrigin::Fresh), Leftover::Nothing);
        assert_eq!(
            whole.rest(HopOrigin::Reused(Leftover::Nothing)),
            Leftover::Nothing
        );
        let owed = HopOrigin::Reused(Leftover::Possible);
        assert_eq!(whole.rest(owed), Leftover::Possible);
    }

    #[test]
    fn no_time_that_ran_out_and_no_refusal_is_the_connections_fault() {
        let reused = HopOrigin::Reused(Leftover::Nothing);
        for (failure, expected) in [
            (HopFailure::Closed, true),
            (HopFailure::Reset, true),
            (HopFailure::Malformed("x"), true),
            (HopFailure::TooManyInterim, true),
            (HopFailure::ResponseTimeout, false),
            (HopFailure::SendTimeout, false),
            (HopFailure::WentOffline, false),
            (HopFailure::LocalExhaustion, false),
            (HopFailure::AuthenticationRefused, false),
        ] {
            let error = AttemptError::NoResponse(failure);
            assert_eq!(explains(reused, &error), expected, "{failure:?}");
            assert!(!explains(HopOrigin::Fresh, &error), "{failure:?}");
            assert!(!explains(reused, &AttemptError::Truncated(failure)));
        }
    }
}
