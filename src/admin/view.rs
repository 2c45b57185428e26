//! What the admin server sees of the relay it tells about.

use std::sync::Arc;

use crate::relay::Context;

use super::drains::DrainFile;

/// What the admin server needs of the rest of the program.
pub trait RelayView: Send + Sync + 'static {
    /// What the relay shares.
    fn context(&self) -> &Arc<Context>;

    /// What the server is doing right now.
    fn load(&self) -> Load;

    /// Where drains are kept.
    fn drains(&self) -> &DrainFile;
}

/// What a server is doing right now, and how much it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Client connections, tunnels included.
    pub connections: usize,
    /// How many there may be.
    pub most_connections: usize,
    /// Those that wait for a request, or the rest of one.
    pub parked: usize,
    /// Those that are about to be closed.
    pub lingering: usize,
    /// Threads that count as workers.
    pub workers: usize,
    /// Exchanges at work, with a thread or, while the next hop has not answered, without.
    pub busy: usize,
    /// How many there may be.
    pub most_workers: usize,
    /// Threads whose exchange lasts.
    pub lasting: usize,
    /// Connections that wait for a worker.
    pub queue: usize,
    /// How many may wait.
    pub most_queued: usize,
}
