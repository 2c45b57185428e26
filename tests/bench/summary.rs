//! The table of the whole run, a row for each scenario, and what has to be known with it.

use std::fmt::Write;
use std::fs;
use std::thread;

use crate::compare::{Results, Row};
use crate::options::{Options, Spin};
use crate::peers::Layer;
use crate::report::{self, Best};
use crate::run::Sample;
use crate::scenarios::Unit;
use crate::targets::{Kind, Target};

fn first_value(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.unwrap_or_default();
    value.trim_start_matches([' ', '\t', ':']).trim().to_owned()
}

/// The machine and the method in one paragraph.
pub(crate) fn circumstances(options: &Options) -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let spin = match options.spin {
        Spin::No => "cores may halt between requests",
        Spin::EveryCore => "cores kept awake by spinners of idle priority",
    };
    format!(
        "{cores} cores, {}, Linux {}; {} rounds of {} s, targets in alternating order; {spin}.\n\
         CPU is that of the target's processes alone; brackets are ratios against the best HTTP \
         peer, or against the first target where there is none.",
        first_value("/proc/cpuinfo", "model name"),
        first_value("/proc/sys/kernel/osrelease", ""),
        options.rounds,
        options.time.as_secs_f64(),
    )
}

/// A column of the table: of several targets, the one with the least CPU.
struct Column {
    title: &'static str,
    fits: fn(&Target) -> bool,
}

const COLUMNS: [Column; 5] = [
    Column {
        title: "this program",
        fits: |target| matches!(target.kind, Kind::Ours(..)),
    },
    Column {
        title: "best HTTP peer",
        fits: |target| target.is_peer(Layer::Http),
    },
    Column {
        title: "best layer-4 relay",
        fits: |target| target.is_peer(Layer::Bytes),
    },
    Column {
        title: "blind threads",
        fits: |target| matches!(target.kind, Kind::Blind),
    },
    Column {
        title: "no proxy",
        fits: |target| matches!(target.kind, Kind::None),
    },
];

/// One row for each scenario.
pub(crate) fn table(results: &Results) -> String {
    let is_there = |column: &&Column| results.targets.iter().any(column.fits);
    let columns: Vec<&Column> = COLUMNS.iter().filter(is_there).collect();
    let titles = columns.iter().map(|column| format!(" {} |", column.title));
    let titles: String = titles.collect();
    let mut out = format!(
        "\n## Summary\n\n| work |{titles} CPU | rate | p50 | p99 |\n|---|{}---|---|---|---|\n",
        "---|".repeat(columns.len())
    );
    for row in &results.rows {
        let cells = columns.iter().map(|column| cell(results, row, column));
        let cells: Vec<String> = cells.collect();
        let cells = cells.join(" | ");
        let ratios = ratios(results, row);
        writeln!(out, "| {} | {cells} | {ratios} |", row.scenario.title)
            .expect("a string takes it");
    }
    out.push_str("\nThe last four columns: this program against the best HTTP peer, each figure against the best one.\n");
    out
}

fn cell(results: &Results, row: &Row, column: &Column) -> String {
    let both = results.targets.iter().zip(row.medians());
    let fitting = both.filter(|(target, _)| (column.fits)(target));
    let found = fitting.filter_map(|(target, median)| Some((target, median?)));
    let cost = |sample: &Sample| sample.cpu.or(sample.per_connection).unwrap_or(f64::MAX);
    let best = found.min_by(|(_, a), (_, b)| cost(a).total_cmp(&cost(b)));
    best.map_or_else(
        || "-".to_owned(),
        |(target, sample)| match target.kind {
            Kind::Peer(_) => format!("{} {}", target.name, figures(row.scenario.unit, sample)),
            Kind::Ours(..) | Kind::Blind | Kind::Damaging | Kind::None => {
                figures(row.scenario.unit, sample)
            }
        },
    )
}

fn figures(unit: Unit, sample: &Sample) -> String {
    let parts = match unit {
        Unit::Memory(_) => {
            vec![
                sample
                    .per_connection
                    .map(|bytes| format!("{:.1} KiB", bytes / 1024.0)),
            ]
        }
        Unit::Bytes(_) => vec![
            sample.rate.map(|value| report::rate(unit, value)),
            sample.cpu.map(|value| report::cpu(unit, value)),
        ],
        Unit::Cycles => vec![
            sample.rate.map(|value| report::rate(unit, value)),
            sample.cpu.map(|value| report::cpu(unit, value)),
            sample
                .p50
                .map(|value| format!("p50 {}", report::time(value))),
            sample
                .p99
                .map(|value| format!("p99 {}", report::time(value))),
        ],
    };
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(", ")
    }
}

fn ratios(results: &Results, row: &Row) -> String {
    let has_peers = results
        .targets
        .iter()
        .any(|target| target.is_peer(Layer::Http));
    let best = if has_peers {
        report::best(&results.targets, row)
    } else {
        Best::default()
    };
    let ours = row.medians().next().flatten();
    let ratio = |ours: Option<f64>, best: Option<f64>| {
        let both = ours.zip(best).filter(|(_, best)| *best > 0.0);
        report::text(both.map(|(ours, best)| ours / best), |ratio| {
            format!("{ratio:.2}")
        })
    };
    let of = |field: fn(&Sample) -> Option<f64>| ours.and_then(field);
    let cost = ratio(
        of(|sample| sample.cpu.or(sample.per_connection)),
        best.cpu.or(best.per_connection),
    );
    let stream = matches!(row.scenario.unit, Unit::Bytes(_));
    let time = |ours, best| {
        if stream {
            "-".to_owned()
        } else {
            ratio(ours, best)
        }
    };
    format!(
        "{cost} | {} | {} | {}",
        ratio(of(|sample| sample.rate), best.rate),
        time(of(|sample| sample.p50), best.p50),
        time(of(|sample| sample.p99), best.p99),
    )
}

/// What could not be measured, and wrong answers; a line for each.
pub(crate) fn faults(results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for row in &results.rows {
        for (target, outcome) in results.targets.iter().zip(&row.outcomes) {
            let place = format!("{} on {}", row.scenario.name, target.name);
            for failure in &outcome.failures {
                lines.push(format!("not measured: {place}: {failure}"));
            }
            let median = outcome.median.as_ref().filter(|median| median.errors > 0);
            lines.extend(median.map(|median| {
                let first = median.first_error.as_deref().unwrap_or_default();
                format!("{} errors: {place}: {first}", median.errors)
            }));
        }
    }
    lines
}
