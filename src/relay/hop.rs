//! A connection to a next hop, for one attempt.

use std::time::Instant;

use crate::balance::upstream::Lease;
use crate::net::conn::{Conn, LookAround};
use crate::net::idle_pool::Leftover;
use crate::protocol::head::HeadScanner;
use crate::protocol::socks::Round;
use crate::stop::Stage;

use super::report;

/// A connection to a next hop, for one attempt.
#[derive(Debug)]
pub struct Hop {
    /// The connection.
    pub conn: Conn,
    /// The upstream; `None`: the origin itself.
    pub lease: Option<Lease>,
    /// When the attempt began.
    pub begun: Instant,
    /// Whether the connection carried other exchanges before.
    pub origin: HopOrigin,
    /// Bytes sent and received that the upstream's vitals know of.
    counted: (u64, u64),
    /// How far it is with a SOCKS5 upstream that has not connected to the target yet.
    pub(super) round: Option<Round>,
    /// What has been seen while its response is waited for. `None`: it was not asked yet.
    pub(super) waiting: Option<ResponseWait>,
}

impl Hop {
    /// A hop whose attempt began at `begun`.
    pub fn new(conn: Conn, lease: Option<Lease>, begun: Instant, origin: HopOrigin) -> Self {
        let counted = (conn.sent(), conn.received());
        let is_socks = lease
            .as_ref()
            .is_some_and(|lease| lease.upstream().spec.is_socks());
        let is_fresh = origin == HopOrigin::Fresh;
        Self {
            round: (is_socks && is_fresh).then_some(Round::Greeting),
            conn,
            lease,
            begun,
            origin,
            counted,
            waiting: None,
        }
    }

    /// When to look whether there is still a point in waiting for its answer.
    pub(super) fn until(&self) -> Instant {
        let until = self
            .waiting
            .as_ref()
            .and_then(|waiting| waiting.suspended_until);
        until.unwrap_or_else(Instant::now)
    }

    /// Whether it has the request, or what there is of it yet.
    pub(super) fn has_request(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether an operator has cut its upstream since the attempt began.
    pub(super) fn is_cut(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::is_cut)
    }

    /// Whether the credentials for its upstream are the client's.
    pub(super) fn passes_credentials(&self) -> bool {
        let lease = self.lease.as_ref();
        lease.is_some_and(|lease| lease.upstream().spec.told.passes_credentials)
    }

    /// Whether an answer of this status is about those: neither the upstream's fault nor a reason to ask another.
    pub(super) fn is_clients_matter(&self, status: u16) -> bool {
        status == 407 && self.passes_credentials()
    }

    /// Adds what moved since the last time to the counts of the upstream.
    pub(super) fn count_bytes(&mut self) {
        let moved = (self.conn.sent(), self.conn.received());
        let before = std::mem::replace(&mut self.counted, moved);
        if let Some(lease) = &self.lease {
            let (sent, received) = (moved.0 - before.0, moved.1 - before.1);
            report::count_upstream_bytes(lease.upstream().vitals(), sent, received);
        }
    }
}

/// Where a connection to a next hop came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopOrigin {
    /// Dialed for this attempt.
    Fresh,
    /// Idle until now: it may have died unseen, or carry more of an exchange before.
    Reused(Leftover),
}

/// What has been seen while waiting for a response.
#[derive(Debug, Default)]
pub(super) struct ResponseWait {
    pub(super) scanner: Option<HeadScanner>,
    /// When all of the request was sent.
    pub(super) sent_at: Option<Instant>,
    pub(super) interim: u32,
    /// It sent a part of what is waited for.
    pub(super) drips: bool,
    /// When something other than the next hop was last looked at while that dripped.
    pub(super) looked: Option<Instant>,
    /// It was suspended until then, and nothing was read since.
    pub(super) suspended_until: Option<Instant>,
}

pub(super) fn look_at(stage: Stage) -> LookAround {
    match stage {
        Stage::Running | Stage::Draining => LookAround::GoOn,
        Stage::Ended => LookAround::GiveUp,
    }
}
