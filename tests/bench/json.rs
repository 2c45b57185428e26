//! Every sample of a run as JSON, for other plots and for comparison with later runs.

use std::fmt::Write;

use crate::compare::{Outcome, Results, Row};
use crate::options::Options;
use crate::run::Sample;
use crate::scenarios::Unit;
use crate::summary;

fn string(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control < ' ' => {
                write!(out, "\\u{:04x}", u32::from(control)).expect("a string takes it");
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn number(value: Option<f64>) -> String {
    let finite = value.filter(|value| value.is_finite());
    finite.map_or_else(|| "null".to_owned(), |value| format!("{value:e}"))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn sample(sample: &Sample) -> String {
    format!(
        "{{\"rate\": {}, \"cpu_seconds\": {}, \"p50_seconds\": {}, \"p99_seconds\": {}, \
         \"resident_bytes\": {}, \"threads\": {}, \"sleeps\": {}, \
         \"bytes_per_connection\": {}, \"errors\": {}}}",
        number(sample.rate),
        number(sample.cpu),
        number(sample.p50),
        number(sample.p99),
        number(sample.resident),
        number(sample.threads),
        number(sample.sleeps),
        number(sample.per_connection),
        sample.errors,
    )
}

fn outcome(name: &str, outcome: &Outcome) -> String {
    let median = outcome.median.as_ref();
    format!(
        "        {{\"target\": {}, \"median\": {}, \"rounds\": {}, \"failures\": {}}}",
        string(name),
        median.map_or_else(|| "null".to_owned(), sample),
        list(outcome.samples.iter().map(sample)),
        list(outcome.failures.iter().map(|failure| string(failure))),
    )
}

fn row(results: &Results, row: &Row) -> String {
    // What a rate counts, and what CPU is divided by.
    let unit = match row.scenario.unit {
        Unit::Cycles => "cycle",
        Unit::Bytes(_) => "byte",
        Unit::Memory(_) => "connection",
    };
    let both = results.targets.iter().zip(&row.outcomes);
    let outcomes: Vec<String> = both
        .map(|(target, found)| outcome(&target.name, found))
        .collect();
    format!(
        "    {{\n      \"name\": {}, \"title\": {}, \"per\": {}, \"upstreams\": {},\n      \
         \"targets\": [\n{}\n      ]\n    }}",
        string(&row.scenario.name),
        string(&row.scenario.title),
        string(unit),
        row.scenario.pool,
        outcomes.join(",\n")
    )
}

/// The whole document.
pub(crate) fn text(results: &Results, options: &Options) -> String {
    let rows: Vec<String> = results
        .rows
        .iter()
        .map(|found| row(results, found))
        .collect();
    format!(
        "{{\n  \"circumstances\": {},\n  \"scenarios\": [\n{}\n  ]\n}}\n",
        string(&summary::circumstances(options)),
        rows.join(",\n")
    )
}
