//! `/health`, `/ready` and `/status` as JSON.
//!
//! The names of the first release stay what they were, with the same meaning; what is new stands beside
//! them. Upstreams are told by name, address and state; credentials are never here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::balance::reason::OfflineReason;
use crate::balance::state::Availability;
use crate::balance::upstream::Upstream;
use crate::net::idle_pool::IdlePool;
use crate::relay::{Context, Snapshot, unix_ms};

use super::Load;
use super::gate::Detail;
use super::json::{Millis, Moment, Object, document};
use super::readiness::Readiness;

/// The answer of `/health`.
pub(super) const HEALTH: &str = "{\"status\":\"ok\"}\n";

/// The answer of `/ready`, and whether it is good news.
pub(super) fn ready(ctx: &Context, detail: Detail) -> (Readiness, String) {
    let snapshot = ctx.snapshot();
    let readiness = Readiness::of(ctx, &snapshot);
    let text = document(|object| {
        let word = if readiness.is_ready() {
            "ready"
        } else {
            "not ready"
        };
        object.field("status", word);
        object.field("reason", readiness.reason());
        if detail == Detail::Shown {
            object.field("upstreams", snapshot.pool.upstreams().len());
            object.field("upstreams_online", snapshot.pool.online_count());
            let troubled = snapshot
                .pool
                .upstreams()
                .iter()
                .filter(|upstream| upstream.vitals().is_offline() || !upstream.is_in_service());
            object.list("not_in_use", troubled, |object, upstream| {
                write_state(object, upstream);
            });
            write_probe_target(object, &snapshot);
            let reload = ctx.metrics.last_reload.state();
            object.field("reload_error", reload.failure.map(|(_, error)| error));
        }
    });
    (readiness, text)
}

/// The answer of `/status`.
pub(super) fn status(ctx: &Context, load: &Load) -> String {
    let snapshot = ctx.snapshot();
    document(|object| {
        write_totals(object, ctx, load);
        let readiness = Readiness::of(ctx, &snapshot);
        object.field("version", env!("CARGO_PKG_VERSION"));
        object.field("via", ctx.via.pseudonym());
        let up = u64::try_from(ctx.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        object.field("started", Moment(unix_ms().saturating_sub(up)));
        object.field("ready", readiness.is_ready());
        object.field("reason", readiness.reason());
        object.field("mode", snapshot.config.mode.to_string());
        write_probe_target(object, &snapshot);
        write_load(object, ctx, load);
        write_config(object, ctx, &snapshot);
        let upstreams = snapshot.pool.upstreams();
        object.list("upstreams", upstreams, |object, upstream| {
            write_upstream(object, &snapshot, upstream);
        });
    })
}

/// The names of the first release.
fn write_totals(object: &mut Object<'_>, ctx: &Context, load: &Load) {
    let metrics = &ctx.metrics;
    object.field("uptime_seconds", ctx.started.elapsed().as_secs());
    for (name, counter) in [
        ("requests_total", &metrics.requests),
        ("requests_success", &metrics.succeeded),
        ("requests_failed", &metrics.failed),
        ("connect_requests", &metrics.connect_requests),
        ("http_requests", &metrics.http_requests),
        ("direct_connections", &metrics.direct),
        ("bytes_received", &metrics.received),
        ("bytes_sent", &metrics.sent),
        ("health_checks_total", &metrics.probes),
        ("health_checks_success", &metrics.probes_succeeded),
        ("hot_reloads", &metrics.reloads),
    ] {
        object.field(name, counter.value());
    }
    object.field("active_connections", load.connections);
}

/// Whether the target of the probe is believed, and if not, why.
fn write_probe_target(object: &mut Object<'_>, snapshot: &Snapshot) {
    let disbelief = snapshot.pool.belief().disbelief(Instant::now());
    object.object("probe_target", |object| {
        object.field("url", snapshot.config.health.target.to_string());
        object.field("believed", disbelief.is_none());
        let since = disbelief.as_ref().map(|disbelief| disbelief.since_unix_ms);
        object.field("since", since.map(Moment));
        let seen = disbelief.as_ref().map(|disbelief| &*disbelief.seen);
        object.field("seen", seen);
    });
}

fn write_load(object: &mut Object<'_>, ctx: &Context, load: &Load) {
    let metrics = &ctx.metrics;
    object.object("connections", |object| {
        object.field("limit", load.most_connections);
        object.field("parked", load.parked);
        object.field("lingering", load.lingering);
        object.field("accepted", metrics.accepted.value());
        object.field("refused", metrics.refused.value());
        object.field("refused_for_client", metrics.refused_for_client.value());
    });
    object.object("workers", |object| {
        object.field("threads", load.workers);
        object.field("busy", load.busy);
        object.field("limit", load.most_workers);
        object.field("lasting", load.lasting);
    });
    object.object("queue", |object| {
        object.field("waiting", load.queue);
        object.field("limit", load.most_queued);
    });
    object.field("tunnels", ctx.tunnels.count());
    object.field("panics", metrics.panics.value());
    object.field("access_log_lines_lost", metrics.access_log_dropped.value());
    object.object("failures", |object| {
        for (cause, count) in metrics.failures.all().filter(|(_, count)| *count > 0) {
            object.field(cause, count);
        }
    });
}

fn write_config(object: &mut Object<'_>, ctx: &Context, snapshot: &Snapshot) {
    let config = &snapshot.config;
    object.object("config", |object| {
        object.field("fingerprint", format!("{:016x}", config.fingerprint));
        object.values("warnings", config.warnings.iter().map(ToString::to_string));
    });
    let reload = ctx.metrics.last_reload.state();
    object.object("reload", |object| {
        object.field("ok", reload.failure.is_none());
        object.field("last_success", reload.succeeded_unix_ms.map(Moment));
        object.field("failed", ctx.metrics.failed_reloads.value());
        object.values("changes", reload.changes);
        object.values("needs_restart", reload.needs_restart);
        let (at, error) = match reload.failure {
            Some((at, error)) => (Some(Moment(at)), Some(error)),
            None => (None, None),
        };
        object.field("failing_since", at);
        object.field("error", error);
    });
}

/// What both `/ready` and `/status` say of an upstream.
fn write_state(object: &mut Object<'_>, upstream: &Upstream) {
    let state = upstream.vitals().state();
    object.field("name", upstream.spec.name.as_str());
    object.field("online", state.availability != Availability::Offline);
    object.field("state", state.availability.label());
    object.field("drained", !upstream.is_in_service());
    object.field("reason", state.reason.map(|reason| reason.to_string()));
    object.field("doubt", state.doubt.map(|doubt| doubt.to_string()));
    object.field("evidence", &*upstream.vitals().evidence());
    object.field("since", state.since_unix_ms.map(Moment));
}

fn write_upstream(object: &mut Object<'_>, snapshot: &Snapshot, upstream: &Arc<Upstream>) {
    let vitals = upstream.vitals();
    let counters = &vitals.counters;
    object.field("url", upstream.url());
    write_state(object, upstream);
    let label = vitals.state().reason.map(OfflineReason::label);
    object.field("reason_label", label);
    object.field("drained_at_run_time", vitals.is_drained());
    object.field("active_connections", vitals.active());
    // A number for scripts; 0 for one that was never measured, as in the first release.
    object.field(
        "latency_ms",
        Millis(vitals.latency().unwrap_or(Duration::ZERO)),
    );
    object.field("consecutive_failures", vitals.consecutive_failures());
    object.field("weight", upstream.spec.weight);
    object.field("priority", upstream.spec.priority);
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let answered = read(&counters.attempts_answered);
    let failed = read(&counters.attempts_failed);
    let given_up = read(&counters.attempts_given_up);
    object.field("attempts", answered + failed + given_up);
    object.field("attempts_answered", answered);
    object.field("attempts_failed", failed);
    object.field("attempts_given_up", given_up);
    for (name, counter) in [
        ("failures", &counters.faults),
        ("gateway_errors", &counters.gateway_errors),
        ("retries", &counters.retries),
        ("probes_succeeded", &counters.probes_ok),
        ("probes_failed", &counters.probes_failed),
        ("went_offline", &counters.went_offline),
        ("came_online", &counters.came_online),
        ("connections_opened", &counters.connections_opened),
        ("connections_reused", &counters.connections_reused),
        ("strays", &counters.strays),
        ("reuse_broken", &counters.reuse_broken),
        ("bytes_sent", &counters.bytes_sent),
        ("bytes_received", &counters.bytes_received),
    ] {
        object.field(name, read(counter));
    }
    let idle_pool = snapshot.idle_pool(upstream);
    object.field("connections_idle", idle_pool.map_or(0, IdlePool::len));
    let now = Instant::now();
    let until = idle_pool.and_then(|idle_pool| idle_pool.distrusted_until(now));
    let left = until.map(|until| until.saturating_duration_since(now).as_millis());
    let left = left.and_then(|left| u64::try_from(left).ok());
    // Until then each connection serves one client.
    let until = left.map(|left| Moment(unix_ms().saturating_add(left)));
    object.field("distrusted_until", until);
}

/// The answer to an action: the upstream as it is now.
pub(super) fn acted(upstream: &Upstream) -> String {
    document(|object| write_state(object, upstream))
}
