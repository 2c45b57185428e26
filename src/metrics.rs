//! Counters of the whole relay. Written by `relay/report.rs` and the server, read by everybody.
//!
//! Each is one atomic addition on the path of a request; gauges (connections, workers, tunnels) are read
//! from their owners when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Exchanges and tunnels that ended, refusals included.
    pub requests: Counter,
    /// Those whose final response reached the client whole, whatever its status.
    pub succeeded: Counter,
    /// The others, and those answered 5xx by this proxy.
    pub failed: Counter,
    /// CONNECT requests among `requests`.
    pub connect_requests: Counter,
    /// The others.
    pub http_requests: Counter,
    /// Requests that went to an origin directly.
    pub direct: Counter,
    /// Bytes received from clients.
    pub received: Counter,
    /// Bytes sent to clients.
    pub sent: Counter,
    /// Client connections accepted.
    pub accepted: Counter,
    /// Client connections refused before their first request was read.
    pub refused: Counter,
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
    /// Lines missing from the access log because its queue was full or its file could not be written.
    pub access_log_dropped: Counter,
}
