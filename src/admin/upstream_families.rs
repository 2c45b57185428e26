//! The families of `/metrics` that tell about upstreams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::balance::state::Availability;
use crate::balance::upstream::Upstream;
use crate::balance::vitals::Counters;
use crate::net::idle_pool::IdlePool;
use crate::relay::Snapshot;

use super::exposition::{Exposition, Family, Kind, seconds};

/// Those of the first release: upstreams by address.
pub(super) fn write_first_release(out: &mut Exposition, upstreams: &[Arc<Upstream>]) {
    let mut each = |name: &str, help: &str, value: &dyn Fn(&Upstream) -> f64| {
        let mut family = out.family(Kind::Gauge, name, help);
        for upstream in upstreams {
            family.sample(&[("url", upstream.url())], value(upstream));
        }
    };
    each(
        "upstream_online",
        "Whether the upstream is online.",
        &|upstream| f64::from(u8::from(!upstream.vitals().is_offline())),
    );
    each(
        "upstream_active_connections",
        "Exchanges and tunnels on the upstream now.",
        &|upstream| number(upstream.vitals().active()),
    );
    each(
        "upstream_latency_ms",
        "Moving average of the time to the first byte of a response, in milliseconds.",
        &|upstream| seconds(upstream.vitals().latency().unwrap_or_default()) * 1000.0,
    );
    each(
        "upstream_consecutive_failures",
        "Failures of the upstream in a row.",
        &|upstream| number(upstream.vitals().consecutive_failures()),
    );
}

/// For gauges: counts of things that exist at once.
fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// One family with a sample for each upstream.
fn each(mut family: Family<'_>, snapshot: &Snapshot, value: impl Fn(&Upstream) -> f64) {
    for upstream in snapshot.pool.upstreams() {
        family.sample(&[("upstream", &upstream.spec.name)], value(upstream));
    }
}

/// What each is doing now.
pub(super) fn write_states(out: &mut Exposition, snapshot: &Snapshot) {
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Upstream) -> f64| {
        each(out.family(Kind::Gauge, name, help), snapshot, value);
    };
    gauge(
        "upstream_up",
        "Whether the upstream is online.",
        &|upstream| f64::from(u8::from(!upstream.vitals().is_offline())),
    );
    gauge(
        "upstream_suspect",
        "Whether the upstream is a suspect: asked last until a check has decided.",
        &|upstream| {
            let availability = upstream.vitals().availability();
            f64::from(u8::from(availability == Availability::Suspect))
        },
    );
    gauge(
        "upstream_errors_ratio",
        "Moving share of attempts that failed or were answered with 403, 407, 429 or 5xx.",
        &|upstream| number(upstream.vitals().errors_millionths()) / 1e6,
    );
    gauge(
        "upstream_in_service",
        "Whether the upstream may get requests while it is online (0: drained).",
        &|upstream| f64::from(u8::from(upstream.is_in_service())),
    );
    write_uses(out, snapshot);
}

/// What each has to do, and how it does.
fn write_uses(out: &mut Exposition, snapshot: &Snapshot) {
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Upstream) -> f64| {
        each(out.family(Kind::Gauge, name, help), snapshot, value);
    };
    gauge(
        "upstream_active",
        "Exchanges and tunnels on the upstream now.",
        &|upstream| number(upstream.vitals().active()),
    );
    gauge(
        "upstream_latency_seconds",
        "Moving average of the time to the first byte of a response; 0: never measured.",
        &|upstream| seconds(upstream.vitals().latency().unwrap_or_default()),
    );
    gauge(
        "upstream_failures_in_a_row",
        "Failures of the upstream without a success between them.",
        &|upstream| number(upstream.vitals().consecutive_failures()),
    );
    gauge(
        "upstream_state_since_timestamp_seconds",
        "When the upstream came into its state; 0: at the start.",
        &|upstream| {
            let since = upstream.vitals().state().since_unix_ms.unwrap_or(0);
            seconds(Duration::from_millis(since))
        },
    );
    gauge(
        "upstream_idle_connections",
        "Idle connections to the upstream, kept for reuse.",
        &|upstream| {
            let idle = snapshot.idle_pool(upstream).map_or(0, IdlePool::len);
            number(idle as u64)
        },
    );
    let now = Instant::now();
    gauge(
        "upstream_distrusted",
        "Whether connections to the upstream serve one client each, as it sent bytes nobody asked for.",
        &|upstream| {
            let idle_pool = snapshot.idle_pool(upstream);
            let until = idle_pool.and_then(|idle_pool| idle_pool.distrusted_until(now));
            f64::from(u8::from(until.is_some()))
        },
    );
}

/// A counter with one more label: its values, and where each is counted.
type ByLabel = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, fn(&Counters) -> &AtomicU64)],
);

const UPSTREAM_COUNTERS: &[ByLabel] = &[
    (
        "upstream_attempts_total",
        "Attempts at the upstream, by outcome.",
        "outcome",
        &[
            ("answered", |counters| &counters.attempts_answered),
            ("failed", |counters| &counters.attempts_failed),
            ("given_up", |counters| &counters.attempts_given_up),
        ],
    ),
    (
        "upstream_probes_total",
        "Checks of the upstream, by result.",
        "result",
        &[
            ("success", |counters| &counters.probes_ok),
            ("failure", |counters| &counters.probes_failed),
        ],
    ),
    (
        "upstream_state_changes_total",
        "Changes of the upstream's state, by the new one.",
        "to",
        &[
            ("offline", |counters| &counters.went_offline),
            ("online", |counters| &counters.came_online),
            ("suspect", |counters| &counters.suspected),
        ],
    ),
    (
        "upstream_connections_total",
        "Connections to the upstream taken for attempts: newly opened, or reused.",
        "kind",
        &[
            ("opened", |counters| &counters.connections_opened),
            ("reused", |counters| &counters.connections_reused),
        ],
    ),
];

/// A counter without another label.
type Plain = (&'static str, &'static str, fn(&Counters) -> &AtomicU64);

const PLAIN_UPSTREAM_COUNTERS: &[Plain] = &[
    (
        "upstream_failures_total",
        "Failures at the upstream, and what made it a suspect.",
        |counters| &counters.faults,
    ),
    (
        "upstream_gateway_errors_total",
        "Responses 502, 503 and 504 of the upstream.",
        |counters| &counters.gateway_errors,
    ),
    (
        "upstream_retries_total",
        "Attempts at the upstream because one elsewhere had failed.",
        |counters| &counters.retries,
    ),
    (
        "upstream_strays_total",
        "Times the upstream was seen to send bytes nobody had asked for.",
        |counters| &counters.strays,
    ),
    (
        "upstream_reuse_broken_total",
        "Attempts that failed on a reused connection, and were not held against the upstream.",
        |counters| &counters.reuse_broken,
    ),
    (
        "upstream_sent_bytes_total",
        "Bytes sent to the upstream.",
        |counters| &counters.bytes_sent,
    ),
    (
        "upstream_received_bytes_total",
        "Bytes received from the upstream.",
        |counters| &counters.bytes_received,
    ),
];

/// What happened with each so far.
pub(super) fn write_counts(out: &mut Exposition, snapshot: &Snapshot) {
    let upstreams = snapshot.pool.upstreams();
    for (name, help, label, values) in UPSTREAM_COUNTERS {
        let mut family = out.family(Kind::Counter, name, help);
        for upstream in upstreams {
            for (value, counter) in *values {
                let count = counter(&upstream.vitals().counters).load(Ordering::Relaxed);
                let labels = [("upstream", upstream.spec.name.as_str()), (label, value)];
                family.sample(&labels, count);
            }
        }
    }
    for (name, help, counter) in PLAIN_UPSTREAM_COUNTERS {
        let mut family = out.family(Kind::Counter, name, help);
        for upstream in upstreams {
            let count = counter(&upstream.vitals().counters).load(Ordering::Relaxed);
            family.sample(&[("upstream", &upstream.spec.name)], count);
        }
    }
}
