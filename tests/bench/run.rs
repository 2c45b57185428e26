//! One measurement: a target is started, put to work for a while, looked at, and ended.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::machine::pause;
use crate::scenarios::{Scenario, Unit};
use crate::targets::Target;
use crate::usage::Usage;

/// What one measurement found. What does not apply is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Requests or bytes per second.
    pub(crate) rate: Option<f64>,
    /// Seconds of CPU per request or byte.
    pub(crate) cpu: Option<f64>,
    /// Seconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Bytes, while it works.
    pub(crate) resident: Option<f64>,
    pub(crate) threads: Option<f64>,
    /// Voluntary context switches per request.
    pub(crate) sleeps: Option<f64>,
    /// Bytes of memory that each connection adds.
    pub(crate) per_connection: Option<f64>,
}

/// Measures one scenario on one target.
pub(crate) fn measure(
    scenario: &Scenario,
    target: &Target,
    upstreams: &[u16],
    time: Duration,
    folder: &Path,
) -> io::Result<Sample> {
    let running = target.start(upstreams, folder)?;
    if let Unit::Memory(connections) = scenario.unit {
        return memory(scenario, &running.ports, running.root(), connections);
    }
    let root = running.root();
    let mut load = Load::set_up(&scenario.groups, &running.ports)?;
    load.begin()?;
    load.run((time / 3).max(Duration::from_millis(100)))?;
    load.tally.latencies.clear();
    let before = Usage::of(root);
    let elapsed = load.run(time)?;
    let after = Usage::of(root);
    let mut latencies = std::mem::take(&mut load.tally.latencies);
    load.finish()?;
    latencies.sort_unstable();
    let spent = root.map(|_| after.since(&before));
    let cycles = latencies.len() as f64;
    let units = match scenario.unit {
        Unit::Bytes(each) => cycles * each as f64,
        Unit::Cycles | Unit::Memory(_) => cycles,
    };
    let has_work = units > 0.0;
    let per_unit = |total: f64| has_work.then_some(total / units);
    Ok(Sample {
        rate: Some(units / elapsed.as_secs_f64()),
        cpu: spent.and_then(|spent| per_unit(spent.cpu.as_secs_f64())),
        p50: quantile(&latencies, 0.5),
        p99: quantile(&latencies, 0.99),
        errors: load.tally.errors,
        first_error: load.tally.first_error.take(),
        resident: root.map(|_| after.resident as f64),
        threads: root.map(|_| after.threads as f64),
        sleeps: spent
            .and_then(|spent| spent.sleeps)
            .and_then(|sleeps| has_work.then(|| sleeps as f64 / cycles)),
        per_connection: None,
    })
}

/// How long memory may take to come back after traffic.
const SETTLE: Duration = Duration::from_secs(3);

/// What idle connections hold, against the same process before they came.
fn memory(
    scenario: &Scenario,
    ports: &[u16],
    root: Option<u32>,
    connections: usize,
) -> io::Result<Sample> {
    let empty = Usage::of(root);
    let mut load = Load::set_up(&scenario.groups, ports)?;
    let end = Instant::now() + SETTLE;
    let mut full = Usage::of(root);
    while Instant::now() < end {
        pause(Duration::from_millis(250));
        let now = Usage::of(root);
        let is_steady = now.resident.abs_diff(full.resident) < 64 * 1024;
        full = now;
        if is_steady {
            break;
        }
    }
    load.finish()?;
    let added = full.anonymous as f64 - empty.anonymous as f64;
    Ok(Sample {
        errors: load.tally.errors,
        first_error: load.tally.first_error.take(),
        resident: root.map(|_| full.resident as f64),
        threads: root.map(|_| full.threads as f64),
        per_connection: root.map(|_| added / connections as f64),
        ..Sample::default()
    })
}

/// Of sorted nanoseconds, in seconds.
fn quantile(sorted: &[u32], share: f64) -> Option<f64> {
    let index = (sorted.len() as f64 * share) as usize;
    let value = sorted.get(index.min(sorted.len().checked_sub(1)?))?;
    Some(f64::from(*value) / 1e9)
}
