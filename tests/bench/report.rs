//! What is printed: for each scenario a table with a row for each target.

use std::fmt::Write;

use crate::compare::Row;
use crate::peers::Layer;
use crate::run::Sample;
use crate::scenarios::Unit;
use crate::targets::Target;

/// The middle of the rounds, field by field.
pub(crate) fn median(samples: &[Sample]) -> Option<Sample> {
    if samples.is_empty() {
        return None;
    }
    let of = |field: fn(&Sample) -> Option<f64>| middle(samples.iter().filter_map(field).collect());
    Some(Sample {
        rate: of(|sample| sample.rate),
        cpu: of(|sample| sample.cpu),
        p50: of(|sample| sample.p50),
        p99: of(|sample| sample.p99),
        errors: samples.iter().map(|sample| sample.errors).sum(),
        first_error: samples.iter().find_map(|sample| sample.first_error.clone()),
        resident: of(|sample| sample.resident),
        threads: of(|sample| sample.threads),
        sleeps: of(|sample| sample.sleeps),
        per_connection: of(|sample| sample.per_connection),
    })
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    let high = *values.get(upper)?;
    if values.len() % 2 == 1 {
        return Some(high);
    }
    values.get(upper - 1).map(|low| f64::midpoint(*low, high))
}

/// What others are compared with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Best {
    pub(crate) cpu: Option<f64>,
    pub(crate) rate: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) per_connection: Option<f64>,
}

/// The figures of those targets of a row for which `is_rival` holds.
fn of_rivals<'r>(
    targets: &[Target],
    row: &'r Row,
    is_rival: impl Fn(&Target) -> bool,
) -> Vec<&'r Sample> {
    let both = targets.iter().zip(row.medians());
    both.filter_map(|(target, median)| median.filter(|_| is_rival(target)))
        .collect()
}

/// The best figures among peers that speak HTTP; each may be another peer's. Without such peers,
/// those of the first target.
pub(crate) fn best(targets: &[Target], row: &Row) -> Best {
    let mut rivals = of_rivals(targets, row, |target| target.is_peer(Layer::Http));
    if rivals.is_empty() {
        rivals.extend(row.medians().next().flatten());
    }
    let least = |field: fn(&Sample) -> Option<f64>| {
        let values = rivals.iter().copied().filter_map(field);
        values.min_by(f64::total_cmp)
    };
    Best {
        cpu: least(|sample| sample.cpu),
        rate: rivals.iter().filter_map(|s| s.rate).max_by(f64::total_cmp),
        p50: least(|sample| sample.p50),
        p99: least(|sample| sample.p99),
        per_connection: least(|sample| sample.per_connection),
    }
}

pub(crate) fn text(value: Option<f64>, unit: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), unit)
}

fn ratio(value: Option<f64>, of: Option<f64>) -> String {
    let ratio = value.zip(of).filter(|(_, of)| *of > 0.0);
    ratio.map_or_else(String::new, |(value, of)| format!(" ({:.2})", value / of))
}

/// Seconds, in the unit that reads best.
pub(crate) fn time(seconds: f64) -> String {
    if seconds < 0.001 {
        format!("{:.0} µs", seconds * 1e6)
    } else {
        format!("{:.1} ms", seconds * 1e3)
    }
}

pub(crate) fn rate(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Bytes(_) => format!("{:.0} MB/s", value / 1e6),
        Unit::Cycles | Unit::Memory(_) => format!("{value:.0}/s"),
    }
}

pub(crate) fn cpu(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Bytes(_) => format!("{:.2} s/GB", value * 1e9),
        Unit::Cycles | Unit::Memory(_) => format!("{:.1} µs", value * 1e6),
    }
}

/// One scenario as a Markdown table. Ratios in brackets are against the best peer.
pub(crate) fn table(row: &Row, targets: &[Target]) -> String {
    let best = best(targets, row);
    let scenario = &row.scenario;
    let mut out = format!("\n### {}: {}\n\n", scenario.name, scenario.title);
    let memory = matches!(scenario.unit, Unit::Memory(_));
    out.push_str(if memory {
        "| target | per connection | RSS | threads | errors |\n|---|---|---|---|---|\n"
    } else {
        "| target | CPU | rate | p50 | p99 | sleeps | threads | RSS | errors |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    });
    for (target, sample) in targets.iter().zip(row.medians()) {
        let line = sample.map_or_else(
            || "-".to_owned(),
            |sample| line(scenario.unit, sample, &best),
        );
        writeln!(out, "| {} | {line} |", target.name).expect("a string takes it");
    }
    out
}

fn line(unit: Unit, sample: &Sample, best: &Best) -> String {
    let resident = text(sample.resident, |bytes| format!("{:.1} MB", bytes / 1e6));
    let threads = text(sample.threads, |threads| format!("{threads:.0}"));
    let errors = sample.first_error.as_ref().map_or_else(
        || sample.errors.to_string(),
        |first| format!("{} ({first})", sample.errors),
    );
    if matches!(unit, Unit::Memory(_)) {
        let each = text(sample.per_connection, |bytes| {
            format!("{:.1} KiB", bytes / 1024.0)
        });
        let ratio = ratio(sample.per_connection, best.per_connection);
        return format!("{each}{ratio} | {resident} | {threads} | {errors}");
    }
    format!(
        "{}{} | {}{} | {}{} | {}{} | {} | {threads} | {resident} | {errors}",
        text(sample.cpu, |value| cpu(unit, value)),
        ratio(sample.cpu, best.cpu),
        text(sample.rate, |value| rate(unit, value)),
        ratio(sample.rate, best.rate),
        text(sample.p50, time),
        ratio(sample.p50, best.p50),
        text(sample.p99, time),
        ratio(sample.p99, best.p99),
        text(sample.sleeps, |sleeps| format!("{sleeps:.2}")),
    )
}
