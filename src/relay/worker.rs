//! What a session asks of the worker that serves it.

use std::sync::Arc;

use crate::net::conn::Conn;

use super::client::Client;
use super::context::Context;
use super::snapshot::Snapshot;

/// The worker that serves a session, as far as the session is concerned; one that has no lane has no more to
/// do than it must.
pub trait Worker {
    /// The configuration in force.
    fn snapshot(&self, ctx: &Context) -> Arc<Snapshot> {
        ctx.snapshot()
    }

    /// A request is there: whether it may be worked at. If not, it waits for others to be over.
    fn may_begin(&self) -> bool;

    /// What `client` sends from now on is the body of its request: should this worker have to wait for it,
    /// no other is to be told of it.
    fn reads_body(&self, _client: &Client) {}

    /// What `client` sends from now on is waited for elsewhere, by a tunnel: no other worker is to be told
    /// of it.
    fn takes_over(&self, _client: &Client) {}

    /// The same for what a next hop sends.
    fn takes_over_hop(&self, _conn: &mut Conn) {}

    /// From here on the exchange at hand may wait for its peers: other clients need another worker.
    fn may_block(&self);

    /// Whether the exchange at hand may wait for its next hop without this worker.
    fn may_suspend(&self) -> bool;

    /// The number of its lane: connections to next hops that were used there are watched there, too.
    fn home(&self) -> usize {
        0
    }
}
