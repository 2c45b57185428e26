//! What is counted and measured: one row each, with its name in `/status`, its name in `/metrics`, and
//! where it is read.
//!
//! The names of the first release stay, rules or not: dashboards and scripts read them. Everything else
//! follows the rules of Prometheus, and tells upstreams by name, never anything that a client can choose.
//! A new number is one row here.

use std::collections::HashMap;
use std::fmt::{Display, Write as _};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::balance::state::Availability;
use crate::balance::sticky::MoveReason;
use crate::balance::upstream::Upstream;
use crate::balance::vitals::{Counters, UpstreamId, Vitals};
use crate::json::{JsonText, Members};
use crate::metrics::Metrics;
use crate::net::idle_pool::IdlePool;
use crate::net::process::Usage;
use crate::relay::{Context, Snapshot};

use super::exposition::{self, Exposition, Label, MetricType};
use super::readiness::why_not_ready;
use super::view::Load;

/// A number that is shown. `read` is the way to it, and appends it as it is written: of a large pool there are
/// hundreds of thousands, and none needs memory of its own.
pub(super) struct NumberRow<Read> {
    kind: MetricType,
    /// Its name in `/metrics`, without prefix.
    metric: &'static str,
    /// What tells it from the others of the same family, if there are any.
    label: Option<Label<'static>>,
    help: &'static str,
    /// Its place in `/status`, and its name there; `None`: it is not in `/status`.
    pub(super) json: Option<(&'static str, &'static str)>,
    pub(super) read: Read,
}

/// A number of the whole relay.
pub(super) type ServerRow = NumberRow<fn(&ServerNow<'_>, &mut String)>;
/// A number of one upstream.
pub(super) type UpstreamRow = NumberRow<fn(&UpstreamNow<'_>, &mut String)>;
/// A number of the process.
pub(super) type ProcessRow = NumberRow<fn(&Usage, &mut String)>;

/// The relay as it is now.
pub(super) struct ServerNow<'a> {
    pub(super) ctx: &'a Context,
    pub(super) metrics: &'a Metrics,
    pub(super) snapshot: &'a Snapshot,
    pub(super) load: &'a Load,
    pub(super) why_not_ready: Option<&'static str>,
    /// How many rests each upstream has that has any.
    resting: HashMap<UpstreamId, usize>,
}

/// An upstream as it is now.
pub(super) struct UpstreamNow<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) vitals: &'a Vitals,
    counters: &'a Counters,
    idle_pool: Option<&'a IdlePool>,
    resting: usize,
    now: Instant,
}

/// The rows of a table:
///
/// `KIND "metric" {"label" "value"} "Help." json("place" "name") = |subject| number;`
///
/// Of a family with labels, which has several rows, the first one has the help.
macro_rules! rows {
    ($($kind:ident $metric:literal $({$label:literal $text:expr})? $($help:literal)?
        $(json($place:literal $name:literal))? = |$subject:ident| $number:expr;)*) => {
        &[$(NumberRow {
            kind: MetricType::$kind,
            metric: $metric,
            label: rows!(@pair $($label $text)?),
            help: concat!($($help)?),
            json: rows!(@pair $($place $name)?),
            read: |$subject, out| append($number, out),
        }),*]
    };
    (@pair) => { None };
    (@pair $first:literal $second:expr) => { Some(($first, $second)) };
}

/// The numbers that the first release had.
pub(super) const FIRST_RELEASE: &[ServerRow] = rows! {
    Gauge "uptime_seconds" "Time since the start."
        json("" "uptime_seconds") = |it| it.ctx.started.elapsed().as_secs();
    Gauge "active_connections" "Client connections now, tunnels included."
        json("now" "active_connections") = |it| it.load.connections;
    Counter "requests_total" "Exchanges and tunnels that ended."
        json("" "requests_total") = |it| it.metrics.requests.value();
    Counter "requests_success" "Those answered whole, 502, 503 and 504 excepted."
        json("" "requests_success") = |it| it.metrics.succeeded.value();
    Counter "requests_failed" "The others." json("" "requests_failed") = |it| it.metrics.failed.value();
    Counter "connect_requests" "CONNECT requests that ended."
        json("" "connect_requests") = |it| it.metrics.connect_requests.value();
    Counter "http_requests" "Other requests that ended."
        json("" "http_requests") = |it| it.metrics.http_requests.value();
    Counter "direct_connections" "Requests that went to an origin directly."
        json("" "direct_connections") = |it| it.metrics.direct.value();
    Counter "bytes_received" "Bytes received from clients."
        json("" "bytes_received") = |it| it.metrics.received.value();
    Counter "bytes_sent" "Bytes sent to clients." json("" "bytes_sent") = |it| it.metrics.sent.value();
    Counter "health_checks_total" "Probes of upstreams that ended."
        json("" "health_checks_total") = |it| it.metrics.probes.value();
    Counter "health_checks_success" "Probes answered as wanted."
        json("" "health_checks_success") = |it| it.metrics.probes_succeeded.value();
    Counter "hot_reloads" "Successful reloads."
        json("" "hot_reloads") = |it| it.metrics.reloads.value();
};

/// What the relay has done, and what it has to do now.
pub(super) const LOAD: &[ServerRow] = rows! {
    Counter "tunnels_ended_total" {"end" "finished"} "Tunnels that ended, by how."
        = |it| it.metrics.tunnel_ends.finished.value();
    Counter "tunnels_ended_total" {"end" "reset"} = |it| it.metrics.tunnel_ends.reset.value();
    Counter "tunnels_ended_total" {"end" "idle"} = |it| it.metrics.tunnel_ends.idle.value();
    Counter "tunnels_ended_total" {"end" "cut"} = |it| it.metrics.tunnel_ends.cut.value();
    Counter "tunnels_ended_total" {"end" "upstream_cut"}
        = |it| it.metrics.tunnel_ends.upstream_cut.value();
    Counter "received_bytes_total" "Bytes received from clients." = |it| it.metrics.received.value();
    Counter "sent_bytes_total" "Bytes sent to clients." = |it| it.metrics.sent.value();
    Counter "connections_accepted_total" "Client connections accepted."
        json("connections" "accepted") = |it| it.metrics.accepted.value();
    Counter "connections_refused_total" {"reason" "connection_limit"}
        "Client connections refused before a request was read, by the limit that was reached."
        json("connections" "refused") = |it| it.metrics.refused.value();
    Counter "connections_refused_total" {"reason" "client_connection_limit"}
        json("connections" "refused_for_client") = |it| it.metrics.refused_for_client.value();
    Counter "panics_total" "Panics caught; each cost one connection."
        json("totals" "panics") = |it| it.metrics.panics.value();
    Counter "access_log_lines_lost_total" "Lines missing from the access log."
        json("totals" "access_log_lines_lost") = |it| it.metrics.access_log_dropped.value();
    Gauge "connections_limit" "Client connections that may exist at once."
        json("connections" "limit") = |it| it.load.most_connections;
    Gauge "connections_parked" "Client connections that wait for a request or the rest of one."
        json("connections" "parked") = |it| it.load.parked;
    Gauge "connections_lingering" "Client connections that are about to be closed."
        json("connections" "lingering") = |it| it.load.lingering;
    Gauge "worker_threads" "Threads that serve requests or could."
        json("workers" "threads") = |it| it.load.workers;
    Gauge "worker_threads_busy" "Requests at work; while the upstream has not answered, without a thread."
        json("workers" "busy") = |it| it.load.busy;
    Gauge "worker_threads_limit" "Requests that may be at work."
        json("workers" "limit") = |it| it.load.most_workers;
    Gauge "exchanges_lasting" "Exchanges that last and no longer count as a worker."
        json("workers" "lasting") = |it| it.load.lasting;
    Gauge "queue_length" "Requests that wait for a worker."
        json("queue" "waiting") = |it| it.load.queue;
    Gauge "queue_limit" "Requests that may wait for a worker."
        json("queue" "limit") = |it| it.load.most_queued;
    Gauge "upstream_queue_length" "Requests that wait until an upstream has room for them."
        json("queue" "waiting_for_upstream") = |it| it.snapshot.pool.line().len();
    Gauge "sticky_sessions" "Sessions that are remembered with their upstream."
        json("sticky" "sessions") = |it| it.snapshot.pool.sessions().0;
    Counter "sticky_moves_total" {"reason" "removed"} "Sessions that left their upstream, by why."
        json("sticky" "moved_removed") = |it| it.moves(MoveReason::Removed);
    Counter "sticky_moves_total" {"reason" "offline"}
        json("sticky" "moved_offline") = |it| it.moves(MoveReason::Offline);
    Counter "sticky_moves_total" {"reason" "drained"}
        json("sticky" "moved_drained") = |it| it.moves(MoveReason::Drained);
    Counter "sticky_moves_total" {"reason" "resting"}
        json("sticky" "moved_resting") = |it| it.moves(MoveReason::Resting);
    Gauge "rests" "Upstreams that rest for a host or for all: rests that have not ended."
        json("rests" "count") = |it| it.snapshot.pool.rests().longest(0, Instant::now()).1;
    Counter "rests_overridden_total" "Picks of an upstream although it rested, because all did."
        json("rests" "overridden") = |it| it.snapshot.pool.rests().overridden();
    Gauge "tunnels" "Tunnels open now." json("totals" "tunnels") = |it| it.ctx.tunnels.count();
};

/// What the relay runs with, and what that means.
pub(super) const CONFIG: &[ServerRow] = rows! {
    Gauge "ready" "Whether this instance is ready, as /ready says."
        = |it| u8::from(it.why_not_ready.is_none());
    Gauge "last_resort" "Whether nobody is online, and suspects serve."
        = |it| u8::from(it.is_at_last_resort());
    Gauge "upstreams" {"state" "online"} "Upstreams by their state, drained or not."
        = |it| it.upstreams(Availability::Online);
    Gauge "upstreams" {"state" "suspect"} = |it| it.upstreams(Availability::Suspect);
    Gauge "upstreams" {"state" "offline"} = |it| it.upstreams(Availability::Offline);
    Gauge "probe_target_believed"
        "Whether the target of the probe is believed; 0: it passes through no upstream."
        = |it| u8::from(it.snapshot.pool.belief().disbelief(Instant::now()).is_none());
    Counter "config_reloads_total" {"result" "success"} "Reloads of the configuration, by result."
        = |it| it.metrics.reloads.value();
    Counter "config_reloads_total" {"result" "failure"}
        json("reload" "failed") = |it| it.metrics.failed_reloads.value();
    Gauge "config_last_reload_successful"
        "Whether the configuration file, as it was last seen, is the one in force."
        = |it| u8::from(it.metrics.last_reload.lock().failure.is_none());
    Gauge "config_last_reload_success_timestamp_seconds"
        "When a changed file was last put in force; 0: never since the start."
        = |it| seconds_of(it.metrics.last_reload.lock().succeeded_unix_ms);
    // As many bits as a float holds exactly.
    Gauge "config_hash" "A number that changes with the content of the configuration in force."
        = |it| it.snapshot.config.fingerprint & ((1 << 53) - 1);
    Gauge "config_warnings" "What an operator should know about the configuration, in number."
        = |it| it.snapshot.config.warnings.len();
    Gauge "build_info" {"version" env!("CARGO_PKG_VERSION")}
        "Always 1; the labels tell which program this is." = |_it| 1;
};

/// What upstreams had in the first release, which told them by address.
pub(super) const UPSTREAM_FIRST_RELEASE: &[UpstreamRow] = rows! {
    Gauge "upstream_online" "Whether the upstream is online." = |it| u8::from(!it.vitals.is_offline());
    Gauge "upstream_active_connections" "Exchanges and tunnels on the upstream now."
        = |it| it.vitals.active();
    Gauge "upstream_latency_ms"
        "Moving average of the time to the first byte of a response, in whole milliseconds."
        = |it| it.latency().as_millis();
    Gauge "upstream_consecutive_failures" "Failures of the upstream in a row."
        = |it| it.vitals.consecutive_failures();
};

/// How upstreams are, and what has happened with them.
pub(super) const UPSTREAM: &[UpstreamRow] = rows! {
    Gauge "upstream_up" "Whether the upstream is online." = |it| u8::from(!it.vitals.is_offline());
    Gauge "upstream_suspect" "Whether the upstream is a suspect: asked last until a check has decided."
        = |it| u8::from(it.vitals.availability() == Availability::Suspect);
    Gauge "upstream_errors_ratio"
        "Moving share of attempts that failed or were answered with 403, 407, 429 or 5xx."
        = |it| f64::from(u32::try_from(it.vitals.errors_millionths()).unwrap_or(u32::MAX)) / 1e6;
    Gauge "upstream_in_service" "Whether the upstream may get requests while it is online (0: drained)."
        = |it| u8::from(it.upstream.is_in_service());
    Gauge "upstream_active" "Exchanges and tunnels on the upstream now."
        json("now" "active_connections") = |it| it.vitals.active();
    Gauge "upstream_max_active"
        "Exchanges and tunnels that the upstream may have at a time; 0: any number."
        json("now" "max_active") = |it| it.upstream.spec.max_active.map_or(0, NonZeroU32::get);
    Gauge "upstream_resting" "Rests of the upstream now, each for a host or for all."
        json("now" "resting") = |it| it.resting;
    Gauge "upstream_weight" "Its weight: that of the file, or what was set at run time."
        = |it| it.upstream.weight();
    Gauge "upstream_slow_start_ratio"
        "Share of its turns that the upstream takes, which grows after it came back online; 1: all."
        json("now" "slow_start") = |it| f64::from(it.vitals.warmth()) / 100.0;
    Gauge "upstream_latency_seconds"
        "Moving average of the time to the first byte of a response; 0: never measured."
        = |it| it.latency().as_secs_f64();
    Gauge "upstream_latency_p95_seconds"
        "What 95 % of the last 128 responses took at most to their first byte; 0: never measured."
        = |it| it.latency_p95().as_secs_f64();
    Gauge "upstream_failures_in_a_row" "Failures of the upstream without a success between them."
        json("trouble" "consecutive_failures") = |it| it.vitals.consecutive_failures();
    Gauge "upstream_state_since_timestamp_seconds"
        "When the upstream came into its state; 0: at the start."
        = |it| seconds_of(it.vitals.state().since_unix_ms);
    Gauge "upstream_idle_connections" "Idle connections to the upstream, kept for reuse."
        json("idle" "connections_idle") = |it| it.idle_pool.map_or(0, IdlePool::len);
    Gauge "upstream_distrusted"
        "Whether connections to the upstream serve one client each, as it sent bytes nobody asked for."
        = |it| u8::from(it.distrusted_for().is_some());
    Gauge "upstream_no_connect" "Whether the upstream was seen to have no CONNECT: others get the tunnels."
        = |it| u8::from(it.vitals.lacks_connect());
    Counter "upstream_attempts_total" {"outcome" "answered"} "Attempts at the upstream, by outcome."
        json("attempts" "attempts_answered") = |it| count(&it.counters.attempts_answered);
    Counter "upstream_attempts_total" {"outcome" "failed"}
        json("attempts" "attempts_failed") = |it| count(&it.counters.attempts_failed);
    Counter "upstream_attempts_total" {"outcome" "given_up"}
        json("attempts" "attempts_given_up") = |it| count(&it.counters.attempts_given_up);
    Counter "upstream_probes_total" {"result" "success"} "Checks of the upstream, by result."
        json("checks" "probes_succeeded") = |it| count(&it.counters.probes_ok);
    Counter "upstream_probes_total" {"result" "failure"}
        json("checks" "probes_failed") = |it| count(&it.counters.probes_failed);
    Counter "upstream_state_changes_total" {"to" "offline"}
        "Changes of the upstream's state, by the new one."
        json("checks" "went_offline") = |it| count(&it.counters.went_offline);
    Counter "upstream_state_changes_total" {"to" "online"}
        json("checks" "came_online") = |it| count(&it.counters.came_online);
    Counter "upstream_state_changes_total" {"to" "suspect"} = |it| count(&it.counters.suspected);
    Counter "upstream_connections_total" {"kind" "opened"}
        "Connections to the upstream taken for attempts: newly opened, or reused."
        json("connections" "connections_opened") = |it| count(&it.counters.connections_opened);
    Counter "upstream_connections_total" {"kind" "reused"}
        json("connections" "connections_reused") = |it| count(&it.counters.connections_reused);
    Counter "upstream_failures_total" "Failures at the upstream, and what made it a suspect."
        json("failures" "failures") = |it| count(&it.counters.faults);
    Counter "upstream_gateway_errors_total" "Responses 502, 503 and 504 of the upstream."
        json("failures" "gateway_errors") = |it| count(&it.counters.gateway_errors);
    Counter "upstream_retries_total" "Attempts at the upstream because one elsewhere had failed."
        json("failures" "retries") = |it| count(&it.counters.retries);
    Counter "upstream_strays_total" "Times the upstream was seen to send bytes nobody had asked for."
        json("traffic" "strays") = |it| count(&it.counters.strays);
    Counter "upstream_reuse_broken_total"
        "Attempts that failed on a reused connection, and were not held against the upstream."
        json("traffic" "reuse_broken") = |it| count(&it.counters.reuse_broken);
    Counter "upstream_sent_bytes_total" "Bytes sent to the upstream."
        json("traffic" "bytes_sent") = |it| count(&it.counters.bytes_sent);
    Counter "upstream_received_bytes_total" "Bytes received from the upstream."
        json("traffic" "bytes_received") = |it| count(&it.counters.bytes_received);
};

/// What the process uses, by the names that all programs share.
pub(super) const PROCESS: &[ProcessRow] = rows! {
    Counter "process_cpu_seconds_total" "Processor time, user and kernel."
        = |usage| usage.cpu.as_secs_f64();
    Gauge "process_start_time_seconds" "When the process was started."
        = |usage| usage.started.as_secs_f64();
    Gauge "process_resident_memory_bytes" "Memory in RAM." = |usage| usage.resident;
    Gauge "process_virtual_memory_bytes" "Address space." = |usage| usage.address_space;
    Gauge "process_threads" "Threads." = |usage| usage.threads;
    Gauge "process_open_fds" "Open file descriptors." = |usage| usage.open_files;
};

/// The same, where there is a limit.
pub(super) const PROCESS_LIMIT: &[ProcessRow] = rows! {
    Gauge "process_max_fds" "File descriptors that may be open."
        = |usage| usage.most_files.unwrap_or_default();
};

/// A moment, from milliseconds since 1970, in the base unit of Prometheus; 0: never.
fn seconds_of(unix_ms: Option<u64>) -> f64 {
    Duration::from_millis(unix_ms.unwrap_or(0)).as_secs_f64()
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl<'a> ServerNow<'a> {
    pub(super) fn new(ctx: &'a Context, snapshot: &'a Snapshot, load: &'a Load) -> Self {
        Self {
            ctx,
            metrics: &ctx.metrics,
            snapshot,
            load,
            why_not_ready: why_not_ready(ctx, snapshot),
            resting: snapshot.pool.rests().by_upstream(Instant::now()),
        }
    }

    /// How many sessions left their upstream for this reason.
    fn moves(&self, reason: MoveReason) -> u64 {
        let (_, moves) = self.snapshot.pool.sessions();
        let mut moves = moves.into_iter();
        moves.find(|(one, _)| *one == reason).map_or(0, |it| it.1)
    }

    /// How many upstreams are in this state.
    fn upstreams(&self, state: Availability) -> usize {
        let upstreams = self.snapshot.pool.upstreams().iter();
        upstreams
            .filter(|upstream| upstream.vitals().availability() == state)
            .count()
    }

    /// Whether requests are served, but by suspects alone.
    fn is_at_last_resort(&self) -> bool {
        let upstreams = self.snapshot.pool.upstreams().iter();
        let mut serving = upstreams
            .filter(|upstream| upstream.is_in_service() && !upstream.vitals().is_offline())
            .map(|upstream| upstream.vitals().availability() == Availability::Suspect)
            .peekable();
        self.why_not_ready.is_none() && serving.peek().is_some() && serving.all(|suspect| suspect)
    }
}

impl<'a> UpstreamNow<'a> {
    pub(super) fn new(server: &ServerNow<'a>, upstream: &'a Upstream) -> Self {
        Self {
            upstream,
            vitals: upstream.vitals(),
            counters: &upstream.vitals().counters,
            idle_pool: server.snapshot.idle_pool(upstream),
            resting: server.resting.get(&upstream.id()).copied().unwrap_or(0),
            now: Instant::now(),
        }
    }

    /// Zero if it never answered: what failures took is of use to compare upstreams, and no latency.
    pub(super) fn latency(&self) -> Duration {
        self.if_answered(self.vitals.latency())
    }

    /// The same of what 95 % took at most.
    pub(super) fn latency_p95(&self) -> Duration {
        self.if_answered(self.vitals.latency_p95())
    }

    fn if_answered(&self, measured: Option<Duration>) -> Duration {
        let responses = self.vitals.counters.responses.load(Ordering::Relaxed);
        let measured = measured.filter(|_| responses > 0);
        measured.unwrap_or_default()
    }

    /// How long each connection to it will serve one client alone.
    pub(super) fn distrusted_for(&self) -> Option<Duration> {
        let until = self.idle_pool?.distrusted_until(self.now)?;
        Some(until.saturating_duration_since(self.now))
    }
}

/// The families of `rows`, each with a sample or more for every subject; `labels` tell those apart.
pub(super) fn write<Read: Fn(&Subject, &mut String), Subject>(
    out: &mut Exposition,
    rows: &[NumberRow<Read>],
    subjects: &[Subject],
    labels: impl for<'s> Fn(&'s Subject) -> Vec<Label<'s>>,
) {
    let labels = subjects
        .iter()
        .map(|subject| exposition::labels(&labels(subject)));
    let labels: Vec<_> = labels.collect();
    let numbers = Numbers::of(rows, subjects);
    let mut place = 0;
    for family_rows in rows.chunk_by(|one, other| one.metric == other.metric) {
        let Some(first) = family_rows.first() else {
            continue;
        };
        let mut family = out.family(first.kind, first.metric, first.help);
        let own = family_rows
            .iter()
            .map(|row| exposition::labels(row.label.as_slice()));
        let own: Vec<_> = own.collect();
        for (subject, its) in labels.iter().enumerate() {
            for (own, row) in own.iter().zip(place..) {
                family.sample_of(its, own, numbers.get(subject * rows.len() + row));
            }
        }
        place += family_rows.len();
    }
}

/// All numbers of each subject. What thousands of upstreams have is far apart in memory, so each is looked at once, and
/// not again for each family.
struct Numbers {
    text: String,
    /// Where each begins, and where the last one ends.
    bounds: Vec<usize>,
}

impl Numbers {
    fn of<Read: Fn(&Subject, &mut String), Subject>(
        rows: &[NumberRow<Read>],
        subjects: &[Subject],
    ) -> Self {
        let mut text = String::new();
        let mut bounds = Vec::with_capacity(subjects.len() * rows.len() + 1);
        for subject in subjects {
            for row in rows {
                bounds.push(text.len());
                (row.read)(subject, &mut text);
            }
        }
        bounds.push(text.len());
        Self { text, bounds }
    }

    fn get(&self, place: usize) -> &str {
        let bounds = self.bounds.get(place).zip(self.bounds.get(place + 1));
        bounds
            .and_then(|(begin, end)| self.text.get(*begin..*end))
            .unwrap_or_default()
    }
}

/// The members of a place in `/status`: what is now, and then what was counted.
pub(super) fn members<Read: Fn(&Subject, &mut String), Subject>(
    rows: &[NumberRow<Read>],
    place: &str,
    subject: &Subject,
) -> Members {
    let of_kind = |kind| rows.iter().filter(move |row| row.kind == kind);
    of_kind(MetricType::Gauge)
        .chain(of_kind(MetricType::Counter))
        .filter_map(|row| {
            let (_, name) = row.json.filter(|(stands_at, _)| *stands_at == place)?;
            let mut number = String::new();
            (row.read)(subject, &mut number);
            Some((name.into(), JsonText(number)))
        })
        .collect()
}

fn append(number: impl Display, out: &mut String) {
    let written = write!(out, "{number}");
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<Read>(rows: &[NumberRow<Read>], seen: &mut Vec<&'static str>) {
        for family in rows.chunk_by(|one, other| one.metric == other.metric) {
            let name = family[0].metric;
            assert!(!seen.contains(&name), "{name} is in two pieces");
            seen.push(name);
            assert!(!family[0].help.is_empty(), "{name} has no help");
            let labelled = family.iter().filter(|row| row.label.is_some()).count();
            assert!(labelled == family.len() || family.len() == 1, "{name}");
            assert!(family[1..].iter().all(|row| row.help.is_empty()), "{name}");
        }
    }

    #[test]
    fn every_family_is_in_one_piece_and_its_first_row_has_the_help() {
        let mut seen = Vec::new();
        for rows in [FIRST_RELEASE, LOAD, CONFIG] {
            check(rows, &mut seen);
        }
        for rows in [UPSTREAM_FIRST_RELEASE, UPSTREAM] {
            check(rows, &mut seen);
        }
        check(PROCESS, &mut seen);
        check(PROCESS_LIMIT, &mut seen);
    }
}
