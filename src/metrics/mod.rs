//! Counters of the whole relay. Written by `relay/report.rs` and the server, shown by `admin`.
//!
//! Each is an atomic addition on the path of a request; gauges (connections, workers, tunnels) are read
//! from their owners when they are asked for. What is counted for each upstream is in
//! [`crate::balance::vitals::Counters`]. How all of it is shown is not decided here.

pub mod counter;
pub mod exchanges;
pub mod histogram;

use parking_lot::Mutex;

use counter::Counter;
use exchanges::{Exchanges, Failures};
use histogram::{EXCHANGE_BOUNDS, Histogram, TUNNEL_BOUNDS};

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Exchanges and tunnels that ended, refusals included.
    pub requests: Counter,
    /// Those whose final response reached the client whole, if it is none of 502, 503 and 504.
    pub succeeded: Counter,
    /// Those that did not succeed, and all that have a cause of failure.
    pub failed: Counter,
    /// CONNECT requests among `requests`.
    pub connect_requests: Counter,
    /// Requests that are not CONNECT, and those that could not be read.
    pub http_requests: Counter,
    /// Requests that went to an origin directly.
    pub direct: Counter,
    /// Bytes received from clients; those of tunnels while they flow.
    pub received: Counter,
    /// Bytes sent to clients; those of tunnels while they flow.
    pub sent: Counter,
    /// `requests` by route, method and status.
    pub exchanges: Exchanges,
    /// `failed` by cause.
    pub failures: Failures,
    /// How long exchanges, connecting and tunnels took.
    pub times: Durations,
    /// Tunnels that ended, by how.
    pub tunnel_ends: TunnelEnds,
    /// Client connections accepted.
    pub accepted: Counter,
    /// Client connections refused before their first request was read, because there were too many.
    pub refused: Counter,
    /// The same, because their client had too many.
    pub refused_for_client: Counter,
    /// Probes of upstreams that ended.
    pub probes: Counter,
    /// Those that were answered as wanted.
    pub probes_succeeded: Counter,
    /// Panics caught; each cost one connection.
    pub panics: Counter,
    /// Successful reloads.
    pub reloads: Counter,
    /// Reloads that failed.
    pub failed_reloads: Counter,
    /// How the last reload ended. Written by the reload thread alone.
    pub last_reload: Mutex<ReloadState>,
    /// Lines missing from the access log because its queue was full or its file could not be written.
    pub access_log_dropped: Counter,
}

/// How long things took.
#[derive(Debug)]
pub struct Durations {
    /// Exchanges other than tunnels: from the first byte of the request to the last of the response.
    pub exchange: Histogram,
    /// From the first byte of a request to the first one of its final response.
    pub first_byte: Histogram,
    /// Connecting to next hops, name look-ups included, successful or not.
    pub connect: Histogram,
    /// Tunnels, from the first byte of their request to their end.
    pub tunnel: Histogram,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            exchange: Histogram::new(EXCHANGE_BOUNDS),
            first_byte: Histogram::new(EXCHANGE_BOUNDS),
            connect: Histogram::new(EXCHANGE_BOUNDS),
            tunnel: Histogram::new(TUNNEL_BOUNDS),
        }
    }
}

/// Tunnels that ended, by how.
#[derive(Debug, Default)]
pub struct TunnelEnds {
    /// Both sides finished.
    pub finished: Counter,
    /// One side reset the connection or vanished.
    pub reset: Counter,
    /// Nothing moved for the idle limit.
    pub idle: Counter,
    /// The process ended.
    pub cut: Counter,
    /// An operator cut the upstream.
    pub upstream_cut: Counter,
}

/// What is known of reloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadState {
    /// When a file was last put in force, in milliseconds since 1970. `None`: since the start.
    pub succeeded_unix_ms: Option<u64>,
    /// What is wrong with the file as it is now, and since when (milliseconds since 1970). `None`:
    /// it is the one in force.
    pub failure: Option<(u64, String)>,
    /// What the last successful reload changed, a sentence each.
    pub changes: Vec<String>,
    /// Keys whose value in the file has to wait for a restart, a sentence each.
    pub needs_restart: Vec<String>,
}
