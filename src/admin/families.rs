//! `/metrics`: the rows of numbers as families, and the families that are tables themselves.

use std::collections::HashSet;
use std::slice;

use crate::metrics::Metrics;
use crate::net::process;

use super::exposition::{Exposition, MetricType};
use super::rows::{self, ServerNow, ServerRow, UpstreamNow};

/// More than an exposition has as a rule, without upstreams and for each: it is megabytes that are not copied to
/// make room.
const BYTES: (usize, usize) = (65_536, 4096);

/// Everything, in the text format.
pub(super) fn metrics(server: &ServerNow<'_>) -> String {
    let snapshot = server.snapshot;
    let upstreams = snapshot.pool.upstreams().iter();
    // Without them their families have no samples.
    let upstreams: Vec<_> = upstreams
        .filter(|_| snapshot.config.metrics.per_upstream)
        .map(|upstream| UpstreamNow::new(server, upstream))
        .collect();
    let write_server = |out: &mut Exposition, rows: &[ServerRow]| {
        rows::write(out, rows, slice::from_ref(server), |_| Vec::new());
    };
    let mut out = Exposition::of_size(BYTES.0 + BYTES.1 * upstreams.len());
    write_server(&mut out, rows::FIRST_RELEASE);
    let urls = upstreams.iter().map(|it| it.upstream.url());
    let shared = repeated(urls);
    rows::write(&mut out, rows::UPSTREAM_FIRST_RELEASE, &upstreams, |it| {
        let url = it.upstream.url();
        let name = shared.contains(url).then_some(&it.upstream.spec.name);
        let name = name.map(|name| ("upstream", &**name));
        [("url", url)].into_iter().chain(name).collect()
    });
    write_exchanges(&mut out, server.metrics);
    write_server(&mut out, rows::LOAD);
    rows::write(&mut out, rows::UPSTREAM, &upstreams, |it| {
        vec![("upstream", &it.upstream.spec.name)]
    });
    write_rests(&mut out, server, &upstreams);
    write_server(&mut out, rows::CONFIG);
    if let Some(usage) = process::usage() {
        rows::write(&mut out, rows::PROCESS, slice::from_ref(&usage), |_| {
            Vec::new()
        });
        if usage.most_files.is_some() {
            rows::write(
                &mut out,
                rows::PROCESS_LIMIT,
                slice::from_ref(&usage),
                |_| Vec::new(),
            );
        }
    }
    out.finish()
}

/// Those that are there more than once. Several users of one gateway have one URL, and no two samples of a family may
/// have the same labels.
fn repeated<'u>(urls: impl Iterator<Item = &'u str>) -> HashSet<&'u str> {
    let mut seen = HashSet::new();
    urls.filter(|url| !seen.insert(*url)).collect()
}

fn write_rests(out: &mut Exposition, server: &ServerNow<'_>, upstreams: &[UpstreamNow<'_>]) {
    let help = "Answers that let the upstream rest, by status.";
    let mut family = out.family(MetricType::Counter, "upstream_rests_total", help);
    for upstream in upstreams.iter().map(|it| it.upstream) {
        for (status, count) in server.snapshot.pool.rests().begun_by(upstream.id()) {
            let labels = [
                ("upstream", &*upstream.spec.name),
                ("status", &status.to_string()),
            ];
            family.sample(&labels, count);
        }
    }
}

fn write_exchanges(out: &mut Exposition, metrics: &Metrics) {
    let mut family = out.family(
        MetricType::Counter,
        "exchanges_total",
        "Exchanges and tunnels that ended, by route, class of the method and class of the status.",
    );
    for ([route, method, status], count) in metrics.exchanges.all() {
        let labels = [("route", route), ("method", method), ("status", status)];
        family.sample(&labels, count);
    }
    let help = "Exchanges that failed, by cause.";
    let mut family = out.family(MetricType::Counter, "failures_total", help);
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
}
