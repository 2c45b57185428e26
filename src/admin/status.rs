//! `/ready` and `/status` as JSON.
//!
//! The names of the first release stay what they were, with the same meaning; what is new stands beside
//! them. Upstreams are told by name, address and state; credentials are never here.

use std::collections::HashSet;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::access_log::write_time;
use crate::balance::groups;
use crate::balance::history::Event;
use crate::balance::pool::Pool;
use crate::balance::reason::OfflineReason;
use crate::balance::state::{Availability, CheckVerdict};
use crate::balance::upstream::Upstream;
use crate::json::{self, JsonText, Members, members};
use crate::relay::{Context, Snapshot, unix_ms};

use super::authorization::Detail;
use super::readiness::why_not_ready;
use super::rows::{self, ServerNow, UpstreamNow};

/// Rests that are told one by one.
const MOST_TOLD_RESTS: usize = 20;

/// Whether this instance is ready, and the answer of `/ready`.
pub(super) fn ready(ctx: &Context, detail: Detail) -> (bool, String) {
    let snapshot = ctx.snapshot();
    let reason = why_not_ready(ctx, &snapshot);
    let mut ready = members! {
        "status": if reason.is_none() { "ready" } else { "not ready" },
        "reason": reason,
    };
    if detail == Detail::Shown {
        let pool = &snapshot.pool;
        let not_in_use = pool
            .upstreams()
            .iter()
            .filter(|upstream| upstream.vitals().is_offline() || !upstream.is_in_service());
        let reload = ctx.metrics.last_reload.lock().clone();
        ready.extend(members! {
            "upstreams": pool.upstreams().len(),
            "upstreams_online": pool.online_count(),
            "groups_down": groups_down(pool),
            "not_in_use": not_in_use.map(|upstream| state(upstream)).collect::<JsonText>(),
            "probe_target": probe_target(&snapshot),
            "reload_error": reload.failure.map(|(_, error)| error),
        });
    }
    (reason.is_none(), json::document(ready))
}

/// The groups of which no member gets requests: what a rule sends there alone is not served.
fn groups_down(pool: &Pool) -> JsonText {
    let serving: HashSet<_> = pool.serving().map(|upstream| upstream.group()).collect();
    let names = groups::names(pool.upstreams().iter().map(|upstream| &upstream.spec));
    let is_down = |name: &&str| !serving.contains(&Some(*name));
    names.into_iter().filter(is_down).collect()
}

/// The answer of `/status`.
pub(super) fn status(server: &ServerNow<'_>) -> String {
    let (ctx, snapshot) = (server.ctx, server.snapshot);
    let up = u64::try_from(ctx.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let numbers = |place: &str| numbers(server, place);
    let failures = server
        .metrics
        .failures
        .all()
        .filter(|(_, count)| *count > 0);
    let failures = failures.map(|(cause, count)| (cause.into(), count.into()));
    let upstreams = snapshot.pool.upstreams().iter();
    json::document(members! {
        ..numbers(""),
        ..numbers("now"),
        "version": env!("CARGO_PKG_VERSION"),
        "via": ctx.via.pseudonym(),
        "started": moment(unix_ms().saturating_sub(up)),
        "ready": server.why_not_ready.is_none(),
        "reason": server.why_not_ready,
        "groups_down": groups_down(&snapshot.pool),
        "mode": snapshot.config.mode.to_string(),
        "probe_target": probe_target(snapshot),
        "connections": numbers("connections"),
        "workers": numbers("workers"),
        "queue": numbers("queue"),
        "sticky": numbers("sticky"),
        "rests": members! {
            ..numbers("rests"),
            "longest": rests(snapshot),
        },
        ..numbers("totals"),
        "failures": failures.collect::<Members>(),
        "config": members! {
            "fingerprint": format!("{:016x}", snapshot.config.fingerprint),
            "warnings": snapshot.config.warnings.iter().map(ToString::to_string).collect::<JsonText>(),
        },
        "reload": reload(server),
        "upstreams": upstreams
            .map(|upstream| whole(&UpstreamNow::new(server, upstream)))
            .collect::<JsonText>(),
        "events": snapshot.pool.history().events().iter().map(event).collect::<JsonText>(),
    })
}

/// The numbers of the relay at a place.
fn numbers(server: &ServerNow<'_>, place: &str) -> Members {
    [rows::FIRST_RELEASE, rows::LOAD, rows::CONFIG]
        .into_iter()
        .flat_map(|rows| rows::members(rows, place, server))
        .collect()
}

/// Whether the target of the probe is believed, and if not, why.
fn probe_target(snapshot: &Snapshot) -> Members {
    let disbelief = snapshot.pool.belief().disbelief(Instant::now());
    members! {
        "url": snapshot.config.health.target.to_string(),
        "believed": disbelief.is_none(),
        "since": disbelief.as_ref().map(|disbelief| moment(disbelief.since_unix_ms)),
        "seen": disbelief.as_ref().map(|disbelief| &*disbelief.seen),
    }
}

fn reload(server: &ServerNow<'_>) -> Members {
    let reload = server.metrics.last_reload.lock().clone();
    let (failing_since, error) = reload.failure.unzip();
    members! {
        "ok": error.is_none(),
        "last_success": reload.succeeded_unix_ms.map(moment),
        ..numbers(server, "reload"),
        "changes": JsonText::from_iter(reload.changes),
        "needs_restart": JsonText::from_iter(reload.needs_restart),
        "failing_since": failing_since.map(moment),
        "error": error,
    }
}

/// The rests that end last. Where no token guards them the hosts, which clients have chosen, are not told.
fn rests(snapshot: &Snapshot) -> JsonText {
    let now = Instant::now();
    let (longest, _) = snapshot.pool.rests().longest(MOST_TOLD_RESTS, now);
    let is_guarded = snapshot.config.admin_token.is_some();
    let told = longest.iter().map(|rest| {
        let upstream = snapshot.pool.by_id(rest.upstream);
        let left = rest.until.saturating_duration_since(now);
        members! {
            "upstream": upstream.map(|upstream| upstream.spec.name.as_str()),
            "scope": if rest.host.is_some() { "host" } else { "upstream" },
            "host": rest.host.as_deref().filter(|_| is_guarded),
            "status": u64::from(rest.status),
            "ends": moment(unix_ms().saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))),
        }
    });
    told.collect()
}

/// What happened.
fn event(event: &Event) -> Members {
    members! {
        "id": event.id,
        "time": moment(event.unix_ms),
        "event": event.kind.label(),
        "upstream": event.upstream.as_deref(),
        "text": &*event.text,
    }
}

/// What both `/ready` and `/status` say of an upstream.
fn state(upstream: &Upstream) -> Members {
    let state = upstream.vitals().state();
    members! {
        "name": upstream.spec.name.as_str(),
        "online": state.availability != Availability::Offline,
        "state": state.availability.label(),
        "drained": !upstream.is_in_service(),
        "reason": state.reason.map(|reason| reason.to_string()),
        "doubt": state.doubt.map(|doubt| doubt.to_string()),
        "evidence": &*upstream.vitals().evidence(),
        "no_connect": upstream.vitals().lacks_connect(),
        "since": state.since_unix_ms.map(moment),
    }
}

/// Everything about an upstream.
fn whole(it: &UpstreamNow<'_>) -> Members {
    let (upstream, vitals) = (it.upstream, it.vitals);
    let numbers = |place: &str| rows::members(rows::UPSTREAM, place, it);
    let attempts = numbers("attempts");
    let all_attempts: u64 = attempts
        .iter()
        .filter_map(|(_, count)| count.0.parse::<u64>().ok())
        .sum();
    let distrusted_for = it.distrusted_for().map(|left| left.as_millis());
    let left = distrusted_for.and_then(|left| u64::try_from(left).ok());
    members! {
        "url": upstream.url(),
        ..state(upstream),
        "reason_label": vitals.state().reason.map(OfflineReason::label),
        "drained_at_run_time": vitals.is_drained(),
        "last_check": last_check(vitals.state().last_check),
        ..numbers("now"),
        // 0 for one that was never measured, and whole milliseconds, as in the first release.
        "latency_ms": it.latency().as_millis(),
        "latency_us": it.latency().as_micros(),
        "latency_p95_us": it.latency_p95().as_micros(),
        ..numbers("trouble"),
        "weight": upstream.weight(),
        "weight_in_file": upstream.spec.weight,
        "priority": upstream.spec.priority,
        "group": upstream.spec.group.as_deref(),
        "attempts": all_attempts,
        ..attempts,
        ..["failures", "checks", "connections", "traffic", "idle"].into_iter().flat_map(numbers),
        // Until then each connection serves one client.
        "distrusted_until": left.map(|left| moment(unix_ms().saturating_add(left))),
    }
}

/// When a check last came to its end, and what it found.
fn last_check(last: Option<(u64, CheckVerdict)>) -> JsonText {
    let told = last.map(|(ended, verdict)| {
        let reason = match verdict {
            CheckVerdict::Works(_) => None,
            CheckVerdict::Fails(reason) => Some(reason.to_string()),
        };
        members! {
            "time": moment(ended),
            "works": reason.is_none(),
            "reason": reason,
        }
    });
    told.into()
}

/// The answer to an action: the upstream as it is now.
pub(super) fn acted(upstream: &Upstream) -> String {
    json::document(members! {
        ..state(upstream),
        "weight": upstream.weight(),
    })
}

/// A moment, from milliseconds since 1970, as RFC 3339 writes it.
pub(super) fn moment(unix_ms: u64) -> String {
    // Beyond the year 9999 there is no RFC 3339.
    let at = Duration::from_millis(unix_ms.min(253_402_300_799_999));
    let mut text = String::new();
    let written = write_time(UNIX_EPOCH + at, &mut text);
    debug_assert!(written.is_ok());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_milliseconds() {
        let at = moment(1_700_000_000_123);
        assert_eq!(at, "2023-11-14T22:13:20.123Z");
    }
}
