//! What a session asks of the worker that serves it.

use std::sync::Arc;
use std::time::Instant;

use crate::net::conn::Conn;

use super::client::Client;
use super::context::Context;
use super::snapshot::Snapshot;

/// The worker that serves a session, as far as the session is concerned.
pub trait Worker {
    /// The configuration in force.
    fn snapshot(&self, ctx: &Context) -> Arc<Snapshot> {
        ctx.snapshot()
    }

    /// A request is there: whether it may be worked at. If not, it waits for others to be over.
    fn may_begin(&self, client: &Client) -> bool;

    /// A further exchange would begin: whether it may at once. If not, the session has been served for a
    /// while, and those who wait are next.
    fn may_go_on(&self) -> bool;

    /// What `client` sends from now on is the body of its request: should this worker have to wait for it,
    /// no other is to be told of it.
    fn reads_body(&self, client: &Client);

    /// What `client` sends from now on is waited for elsewhere, by a tunnel: no other worker is to be told
    /// of it.
    fn takes_over(&self, client: &Client);

    /// The same for what a next hop sends.
    fn takes_over_hop(&self, conn: &mut Conn);

    /// From here on the exchange at hand may wait for its peers: other clients need another worker.
    fn may_block(&self);

    /// Whether the exchange at hand may wait for its next hop without this worker; it has waited since
    /// `since`, which says which exchange of the session it is, too.
    fn may_suspend(&self, since: Instant) -> bool;

    /// The number of its lane: connections to next hops that were used there are watched there, too.
    fn home(&self) -> usize;
}
