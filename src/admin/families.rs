//! `/metrics`: which families there are.
//!
//! The families of the first release keep their names and labels, rules or not: dashboards read them.
//! Everything else follows the rules of Prometheus, and tells upstreams by name, never anything that a
//! client can choose.

use std::time::{Duration, Instant};

use crate::balance::state::Availability;
use crate::metrics::Metrics;
use crate::net::process::{self, Usage};
use crate::relay::{Context, Snapshot};

use super::Load;
use super::exposition::{Exposition, Kind, seconds};
use super::readiness::Readiness;
use super::upstream_families;

/// Everything, in the text format.
pub(super) fn metrics(ctx: &Context, load: &Load) -> String {
    let snapshot = ctx.snapshot();
    let mut out = Exposition::default();
    write_first_release(&mut out, ctx, load);
    upstream_families::write_first_release(&mut out, snapshot.pool.upstreams());
    write_exchanges(&mut out, &ctx.metrics);
    write_load(&mut out, &ctx.metrics);
    write_gauges(&mut out, load, ctx.tunnels.count());
    upstream_families::write_states(&mut out, &snapshot);
    upstream_families::write_counts(&mut out, &snapshot);
    write_config(&mut out, ctx, &snapshot);
    write_build(&mut out);
    if let Some(usage) = process::usage() {
        write_process(&mut out, &usage);
    }
    out.finish()
}

fn write_first_release(out: &mut Exposition, ctx: &Context, load: &Load) {
    let metrics = &ctx.metrics;
    let up = ctx.started.elapsed().as_secs();
    out.gauge("uptime_seconds", "Time since the start.", up);
    let help = "Client connections now, tunnels included.";
    out.gauge("active_connections", help, load.connections);
    for (name, help, counter) in [
        (
            "requests_total",
            "Exchanges and tunnels that ended.",
            &metrics.requests,
        ),
        (
            "requests_success",
            "Those answered whole, 502, 503 and 504 excepted.",
            &metrics.succeeded,
        ),
        ("requests_failed", "The others.", &metrics.failed),
        (
            "connect_requests",
            "CONNECT requests that ended.",
            &metrics.connect_requests,
        ),
        (
            "http_requests",
            "Other requests that ended.",
            &metrics.http_requests,
        ),
        (
            "direct_connections",
            "Requests that went to an origin directly.",
            &metrics.direct,
        ),
        (
            "bytes_received",
            "Bytes received from clients.",
            &metrics.received,
        ),
        ("bytes_sent", "Bytes sent to clients.", &metrics.sent),
        (
            "health_checks_total",
            "Probes of upstreams that ended.",
            &metrics.probes,
        ),
        (
            "health_checks_success",
            "Probes answered as wanted.",
            &metrics.probes_succeeded,
        ),
        ("hot_reloads", "Successful reloads.", &metrics.reloads),
    ] {
        out.counter(name, help, counter.value());
    }
}

fn write_exchanges(out: &mut Exposition, metrics: &Metrics) {
    let mut family = out.family(
        Kind::Counter,
        "exchanges_total",
        "Exchanges and tunnels that ended, by route, class of the method and class of the status.",
    );
    for ([route, method, status], count) in metrics.exchanges.all() {
        let labels = [("route", route), ("method", method), ("status", status)];
        family.sample(&labels, count);
    }
    let help = "Exchanges that failed, by cause.";
    let mut family = out.family(Kind::Counter, "failures_total", help);
    for (cause, count) in metrics.failures.all() {
        family.sample(&[("cause", cause)], count);
    }
    let times = &metrics.times;
    for (name, help, histogram) in [
        (
            "request_duration_seconds",
            "Exchanges other than tunnels, from the first byte of the request to the last of the response.",
            &times.exchange,
        ),
        (
            "time_to_first_byte_seconds",
            "From the first byte of a request to the first byte of its final response.",
            &times.first_byte,
        ),
        (
            "connect_duration_seconds",
            "Connecting to next hops, name look-ups included, successful or not.",
            &times.connect,
        ),
        (
            "tunnel_duration_seconds",
            "Tunnels, from the first byte of their request to their end.",
            &times.tunnel,
        ),
    ] {
        out.histogram(name, help, histogram);
    }
    let ends = &metrics.tunnel_ends;
    let help = "Tunnels that ended, by how.";
    let mut family = out.family(Kind::Counter, "tunnels_ended_total", help);
    for (end, counter) in [
        ("finished", &ends.finished),
        ("reset", &ends.reset),
        ("idle", &ends.idle),
        ("cut", &ends.cut),
    ] {
        family.sample(&[("end", end)], counter.value());
    }
    for (name, help, counter) in [
        (
            "received_bytes_total",
            "Bytes received from clients.",
            &metrics.received,
        ),
        ("sent_bytes_total", "Bytes sent to clients.", &metrics.sent),
    ] {
        out.counter(name, help, counter.value());
    }
}

fn write_load(out: &mut Exposition, metrics: &Metrics) {
    let help = "Client connections accepted.";
    out.counter("connections_accepted_total", help, metrics.accepted.value());
    let help =
        "Client connections refused before a request was read, by the limit that was reached.";
    let mut family = out.family(Kind::Counter, "connections_refused_total", help);
    for (reason, counter) in [
        ("connection_limit", &metrics.refused),
        ("client_connection_limit", &metrics.refused_for_client),
    ] {
        family.sample(&[("reason", reason)], counter.value());
    }
    let help = "Panics caught; each cost one connection.";
    out.counter("panics_total", help, metrics.panics.value());
    let help = "Lines missing from the access log.";
    let lost = metrics.access_log_dropped.value();
    out.counter("access_log_lines_lost_total", help, lost);
}

fn write_gauges(out: &mut Exposition, load: &Load, tunnels: usize) {
    for (name, help, value) in [
        (
            "connections_limit",
            "Client connections that may exist at once.",
            load.most_connections,
        ),
        (
            "connections_parked",
            "Client connections that wait for a request or the rest of one.",
            load.parked,
        ),
        (
            "connections_lingering",
            "Client connections that are about to be closed.",
            load.lingering,
        ),
        (
            "worker_threads",
            "Threads that serve requests or could.",
            load.workers,
        ),
        (
            "worker_threads_busy",
            "Requests at work; while the upstream has not answered, without a thread.",
            load.busy,
        ),
        (
            "worker_threads_limit",
            "Requests that may be at work.",
            load.most_workers,
        ),
        (
            "exchanges_lasting",
            "Exchanges that last and no longer count as a worker.",
            load.lasting,
        ),
        (
            "queue_length",
            "Requests that wait for a worker.",
            load.queue,
        ),
        (
            "queue_limit",
            "Requests that may wait for a worker.",
            load.most_queued,
        ),
        ("tunnels", "Tunnels open now.", tunnels),
    ] {
        out.gauge(name, help, value);
    }
}

fn write_config(out: &mut Exposition, ctx: &Context, snapshot: &Snapshot) {
    let readiness = Readiness::of(ctx, snapshot);
    let help = "Whether this instance is ready, as /ready says.";
    out.gauge("ready", help, u8::from(readiness.is_ready()));
    let help = "Whether nobody is online, and suspects serve.";
    let mut in_service = snapshot
        .pool
        .upstreams()
        .iter()
        .filter(|upstream| upstream.is_in_service() && !upstream.vitals().is_offline());
    let last_resort = readiness.is_ready()
        && in_service.clone().next().is_some()
        && in_service.all(|upstream| upstream.vitals().availability() == Availability::Suspect);
    out.gauge("last_resort", help, u8::from(last_resort));
    let help = "Whether the target of the probe is believed; 0: it passes through no upstream.";
    let believed = snapshot.pool.belief().is_believed(Instant::now());
    out.gauge("probe_target_believed", help, u8::from(believed));
    let help = "Reloads of the configuration, by result.";
    let mut family = out.family(Kind::Counter, "config_reloads_total", help);
    for (result, counter) in [
        ("success", &ctx.metrics.reloads),
        ("failure", &ctx.metrics.failed_reloads),
    ] {
        family.sample(&[("result", result)], counter.value());
    }
    let reload = ctx.metrics.last_reload.state();
    let help = "Whether the configuration file, as it was last seen, is the one in force.";
    let ok = u8::from(reload.failure.is_none());
    out.gauge("config_last_reload_successful", help, ok);
    let help = "When a changed file was last put in force; 0: never since the start.";
    let at = Duration::from_millis(reload.succeeded_unix_ms.unwrap_or(0));
    out.gauge(
        "config_last_reload_success_timestamp_seconds",
        help,
        seconds(at),
    );
    // As many bits as a float holds exactly.
    let help = "A number that changes with the content of the configuration in force.";
    let hash = snapshot.config.fingerprint & ((1 << 53) - 1);
    out.gauge("config_hash", help, hash);
    let help = "What an operator should know about the configuration, in number.";
    out.gauge("config_warnings", help, snapshot.config.warnings.len());
}

fn write_build(out: &mut Exposition) {
    let help = "Always 1; the labels tell which program this is.";
    let mut family = out.family(Kind::Gauge, "build_info", help);
    family.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn write_process(out: &mut Exposition, usage: &Usage) {
    let help = "Processor time, user and kernel.";
    let mut family = out.common(Kind::Counter, "process_cpu_seconds_total", help);
    family.sample(&[], seconds(usage.cpu));
    let help = "When the process was started.";
    let mut family = out.common(Kind::Gauge, "process_start_time_seconds", help);
    family.sample(&[], seconds(usage.started));
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Memory in RAM.",
            Some(usage.resident),
        ),
        (
            "process_virtual_memory_bytes",
            "Address space.",
            Some(usage.address_space),
        ),
        ("process_threads", "Threads.", Some(usage.threads)),
        (
            "process_open_fds",
            "Open file descriptors.",
            Some(usage.open_files),
        ),
        (
            "process_max_fds",
            "File descriptors that may be open.",
            usage.most_files,
        ),
    ] {
        if let Some(value) = value {
            out.common(Kind::Gauge, name, help).sample(&[], value);
        }
    }
}
