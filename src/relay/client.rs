//! One client, between and during its exchanges.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::vitals::UpstreamId;
use crate::net::conn::Conn;
use crate::net::idle_pool::{ClientId, SharedBy, UseFor};
use crate::net::permits::{ClientPermit, Permit};
use crate::protocol::head::HeadScanner;
use crate::protocol::target::Authority;

use super::connections::{Connections, Listed};
use super::snapshot::Snapshot;

/// One client's connection between and during its exchanges.
#[derive(Debug)]
pub struct Client {
    /// Which connection this is.
    pub id: ClientId,
    /// The socket and its unread bytes.
    pub conn: Conn,
    /// Who it is.
    pub address: SocketAddr,
    /// How it came here.
    pub arrival: Arrival,
    /// How far the head that is coming in has been looked at.
    pub scanner: HeadScanner,
    /// When the first byte of that head came.
    pub head_begun: Option<Instant>,
    /// How long that request waited for others to be over.
    pub(super) queued: Duration,
    /// Exchanges so far.
    pub served: u64,
    /// A connection to a next hop that belongs to this client alone (NTLM, Negotiate). Boxed, because few
    /// have one, and thousands of clients wait.
    pub bound: Option<Box<Bound>>,
    /// Whether it has ever used such a scheme: then its connections are never shared again.
    pub binds: bool,
    pub(super) permits: (Permit, ClientPermit),
    /// What operators see of it.
    pub(super) listed: Listed,
}

/// How a client came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// By itself; its address is that of the connection.
    Direct,
    /// Its connection must begin with a PROXY header that says who it is.
    Unannounced,
    /// Through a balancer that has said who it is.
    ThroughBalancer,
}

impl Client {
    /// A new connection that counts for `permits`, and is one of `connections`.
    pub fn new(
        conn: Conn,
        (address, arrival): (SocketAddr, Arrival),
        permits: (Permit, ClientPermit),
        connections: &Arc<Connections>,
    ) -> Self {
        let id = ClientId::next();
        Self {
            id,
            conn,
            address,
            arrival,
            scanner: HeadScanner::default(),
            head_begun: None,
            queued: Duration::ZERO,
            served: 0,
            bound: None,
            binds: false,
            permits,
            listed: connections.list(id, address),
        }
    }

    /// Its request has waited so long for others to be over.
    pub fn has_waited(&mut self, time: Duration) {
        self.queued = time;
    }

    /// Lets the connection count for `address` from now on. `false`: that has `limit` already.
    pub(super) fn counts_for(&mut self, address: IpAddr, limit: Option<NonZeroUsize>) -> bool {
        match self.permits.1.of_another(address, limit) {
            Some(permit) => {
                self.permits.1 = permit;
                true
            }
            None => false,
        }
    }

    /// What the connection received for messages so far, and what it sent.
    pub(super) fn totals(&self) -> (u64, u64) {
        let unread = self.conn.unread().len() as u64;
        (
            self.conn.received().saturating_sub(unread),
            self.conn.sent(),
        )
    }

    /// When its lane must give up on what it waits for, counted from `now`.
    pub fn deadline(&self, snapshot: &Snapshot, now: Instant) -> Instant {
        let limits = &snapshot.config.limits;
        match self.head_begun {
            // A configuration with short requests does not want to wait longer for a head alone.
            Some(begun) => {
                let whole = limits.request_timeout.unwrap_or(limits.header_timeout);
                begun + limits.header_timeout.min(whole)
            }
            None => now + limits.idle_timeout,
        }
    }
}

/// A connection that belongs to one client connection (NTLM and Negotiate authenticate connections,
/// not requests).
#[derive(Debug)]
pub struct Bound {
    /// The connection, idle.
    pub conn: Conn,
    /// Where it leads.
    pub to: BoundTo,
    /// What it is good for.
    pub use_for: UseFor,
    /// Which requests of the client may use it.
    pub shared_by: SharedBy,
}

/// Where a bound connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundTo {
    /// To this upstream.
    Upstream(UpstreamId),
    /// To this origin.
    Origin(Authority),
}
