//! How much and how long: the block `limits`.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::findings::Findings;
use super::reader::{Section, Shortest};

/// The largest head that may be allowed, in bytes.
const HEADER_BYTES_MAX: u32 = 1024 * 1024;
/// The smallest head that still holds a request, in bytes.
const HEADER_BYTES_MIN: u32 = 1024;
/// More threads than this are no help to anybody.
const WORKERS_MAX: u32 = 16_384;
/// More requests than this cannot be waiting in memory.
const QUEUE_MAX: u32 = 1_048_576;
/// More idle connections than this no upstream has ports for.
const UPSTREAM_IDLE_MAX: u32 = 65_535;

/// The block `limits`. `None` is no limit, or, where it is said, a value that
/// the program works out for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at a time, tunnels included. `None`: as many as file
    /// descriptors and threads allow.
    pub max_connections: Option<NonZeroUsize>,
    /// Client connections at a time from one address.
    pub max_connections_per_client: Option<NonZeroUsize>,
    /// Worker threads at most. `None`: 64 a core, between 512 and 1024.
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
    /// A body, or a slow reader, without any progress.
    pub io_timeout: Duration,
    /// A tunnel silent in both directions.
    pub tunnel_idle_timeout: Duration,
    /// From the signal to stop until what is left is cut off.
    pub shutdown_timeout: Duration,
    /// A whole head, in bytes: 1024 to 1048576.
    pub max_header_bytes: usize,
    /// Idle connections kept for reuse, for each upstream; 0: none.
    pub upstream_idle_connections: usize,
    /// How long such a connection is kept; zero: not at all.
    pub upstream_idle: Duration,
}

impl Limits {
    /// Reads the block; the defaults stand for absent keys.
    pub(super) fn read(findings: &mut Findings, limits: &Section<'_>) -> Self {
        let mut integer = |key, range, default| limits.integer(findings, key, range, default);
        let max_connections = limit(integer("max_connections", 0..=u32::MAX, 0));
        let per_client = limit(integer("max_connections_per_client", 0..=u32::MAX, 0));
        let workers = limit(integer("workers", 0..=WORKERS_MAX, 0));
        let queue = limit(integer("queue", 0..=QUEUE_MAX, 0));
        let max_header_bytes = size(integer(
            "max_header_bytes",
            HEADER_BYTES_MIN..=HEADER_BYTES_MAX,
            65_536,
        ));
        let upstream_idle_connections = size(integer(
            "upstream_idle_connections",
            0..=UPSTREAM_IDLE_MAX,
            64,
        ));

        let mut may_be_zero = |key, default| limits.seconds(findings, key, Shortest::Zero, default);
        let queue_timeout = may_be_zero("queue_timeout_secs", 5);
        let request_timeout = unless_zero(may_be_zero("request_timeout_secs", 0));
        let shutdown_timeout = may_be_zero("shutdown_timeout_secs", 30);
        let upstream_idle = may_be_zero("upstream_idle_secs", 30);

        let mut seconds =
            |key, default| limits.seconds(findings, key, Shortest::Millisecond, default);
        Self {
            max_connections,
            max_connections_per_client: per_client,
            workers,
            queue,
            queue_timeout,
            request_timeout,
            response_timeout: seconds("response_timeout_secs", 300),
            connect_timeout: seconds("connect_timeout_secs", 5),
            header_timeout: seconds("header_timeout_secs", 15),
            idle_timeout: seconds("idle_timeout_secs", 60),
            io_timeout: seconds("io_timeout_secs", 60),
            tunnel_idle_timeout: seconds("tunnel_idle_timeout_secs", 3600),
            shutdown_timeout,
            max_header_bytes,
            upstream_idle_connections,
            upstream_idle,
        }
    }
}

/// In the file 0 means "none"; behind it, nothing does.
pub(super) fn unless_zero(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

fn limit(number: u32) -> Option<NonZeroUsize> {
    NonZeroUsize::new(size(number))
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
