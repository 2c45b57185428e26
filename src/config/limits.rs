//! How much and how long: the block `limits`.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::reader::KeyBlock;

/// The block `limits`. `None` is no limit, or, where it is said, a value that
/// the program works out for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at a time, tunnels included. `None`: as many as file
    /// descriptors allow.
    pub max_connections: Option<NonZeroUsize>,
    /// Client connections at a time from one address.
    pub max_connections_per_client: Option<NonZeroUsize>,
    /// Requests at work at a time, with a thread or suspended. `None`: 64 a core, between 512 and 1024.
    pub workers: Option<NonZeroUsize>,
    /// Requests waiting for a worker. `None`: four for each worker.
    pub queue: Option<NonZeroUsize>,
    /// How long such a request waits before it is answered with 503.
    pub queue_timeout: Duration,
    /// From the last byte of the request to the first byte of the final
    /// response head, all attempts together.
    pub request_timeout: Option<Duration>,
    /// The same for one attempt.
    pub response_timeout: Duration,
    /// One attempt to connect, the look-up of the name included.
    pub connect_timeout: Duration,
    /// From the first byte of a request head to its end.
    pub header_timeout: Duration,
    /// Between two requests of a client connection.
    pub idle_timeout: Duration,
    /// An upload, or a slow reader, without any progress.
    pub io_timeout: Duration,
    /// A response body of which nothing comes.
    pub response_idle_timeout: Duration,
    /// A tunnel silent in both directions.
    pub tunnel_idle_timeout: Duration,
    /// One of which one side has ended.
    pub tunnel_half_closed: Duration,
    /// From the signal to stop until what is left is cut off.
    pub shutdown_timeout: Duration,
    /// A whole head, in bytes: 1024 to 1048576.
    pub max_header_bytes: usize,
    /// Idle connections kept for reuse for longer than a moment, for each upstream; 0: none.
    pub upstream_idle_connections: usize,
    /// How long such a connection is kept; zero: not at all.
    pub upstream_idle: Duration,
}

impl Limits {
    /// Reads the block.
    pub(super) fn read(limits: &KeyBlock<'_>) -> Self {
        let limit = |key| NonZeroUsize::new(limits.size(key));
        let io_timeout = limits.seconds("io_timeout_secs");
        Self {
            max_connections: limit("max_connections"),
            max_connections_per_client: limit("max_connections_per_client"),
            workers: limit("workers"),
            queue: limit("queue"),
            max_header_bytes: limits.size("max_header_bytes"),
            upstream_idle_connections: limits.size("upstream_idle_connections"),
            queue_timeout: limits.seconds("queue_timeout_secs"),
            request_timeout: unless_zero(limits.seconds("request_timeout_secs")),
            shutdown_timeout: limits.seconds("shutdown_timeout_secs"),
            upstream_idle: limits.seconds("upstream_idle_secs"),
            response_timeout: limits.seconds("response_timeout_secs"),
            connect_timeout: limits.seconds("connect_timeout_secs"),
            header_timeout: limits.seconds("header_timeout_secs"),
            idle_timeout: limits.seconds("idle_timeout_secs"),
            io_timeout,
            // In older files it was that key which said how long an event stream may be silent.
            response_idle_timeout: limits.seconds_or("response_idle_timeout_secs", io_timeout),
            tunnel_idle_timeout: limits.seconds("tunnel_idle_timeout_secs"),
            tunnel_half_closed: limits.seconds("tunnel_half_closed_secs"),
        }
    }
}

/// For keys where 0 means "none": a `Duration` that is kept is never zero for that.
pub(super) fn unless_zero(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}
