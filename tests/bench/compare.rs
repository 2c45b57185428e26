//! All measurements in their order: for each scenario all rounds, in each round all targets.
//!
//! Whatever disturbs the machine for a while then disturbs all targets alike. Every other round
//! goes backwards, so that nobody always comes after the same neighbour.

use std::io;

use crate::options::Options;
use crate::process::Folder;
use crate::report;
use crate::run::{self, Sample};
use crate::scenarios::Scenario;
use crate::targets::{Kind, Obstacle, Target, Upstreams};

/// What came of one target in one scenario.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// One for each round that could be measured.
    pub(crate) samples: Vec<Sample>,
    /// Why the others could not.
    pub(crate) failures: Vec<String>,
    /// Of the samples; none where there are none.
    pub(crate) median: Option<Sample>,
}

/// One scenario with an outcome for each target.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) scenario: Scenario,
    pub(crate) outcomes: Vec<Outcome>,
}

/// Everything that was measured.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    pub(crate) targets: Vec<Target>,
    pub(crate) rows: Vec<Row>,
}

impl Row {
    pub(crate) fn medians(&self) -> impl Iterator<Item = Option<&Sample>> {
        self.outcomes.iter().map(|outcome| outcome.median.as_ref())
    }
}

impl Results {
    /// Whether this program did what it should, and the benchmark itself. What it is compared
    /// with may fail: there is a limit to threads, for instance.
    pub(crate) fn is_sound(&self) -> bool {
        self.rows.iter().all(|row| {
            let mut both = self.targets.iter().zip(&row.outcomes);
            both.all(|(target, outcome)| {
                let wrong = outcome.median.as_ref().map_or(0, |median| median.errors);
                match target.kind {
                    Kind::Peer(_) | Kind::Blind | Kind::Damaging => true,
                    Kind::Ours(..) | Kind::None => wrong == 0 && outcome.failures.is_empty(),
                }
            })
        })
    }
}

/// Measures it all and prints each row when it is complete.
pub(crate) fn all(options: &Options) -> io::Result<Results> {
    let folder = Folder::new()?;
    let mut results = Results {
        targets: options.targets.clone(),
        rows: Vec::new(),
    };
    let mut pool: Option<Upstreams> = None;
    for scenario in &options.scenarios {
        let fits = |pool: &Upstreams| pool.ports.len() == scenario.pool;
        let upstreams = match pool.take().filter(fits) {
            Some(upstreams) => upstreams,
            None => Upstreams::start(scenario.pool)?,
        };
        let row = row(scenario, options, &upstreams, &folder);
        println!("{}", report::table(&row, &options.targets));
        results.rows.push(row);
        pool = Some(upstreams);
    }
    Ok(results)
}

fn row(scenario: &Scenario, options: &Options, upstreams: &Upstreams, folder: &Folder) -> Row {
    let mut outcomes = vec![Outcome::default(); options.targets.len()];
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..options.targets.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let target = &options.targets[index];
            let outcome = &mut outcomes[index];
            match target.obstacle(scenario) {
                None => {}
                Some(Obstacle::NotItsWork) => continue,
                Some(Obstacle::Descriptors(wanted)) => {
                    let why = format!("{wanted} descriptors are more than the system allows");
                    outcome.failures.push(why);
                    continue;
                }
            }
            let ports = &upstreams.ports;
            match run::measure(scenario, target, ports, options.time, folder.path()) {
                Ok(sample) => outcome.samples.push(sample),
                Err(error) => outcome.failures.push(error.to_string()),
            }
        }
    }
    for outcome in &mut outcomes {
        outcome.median = report::median(&outcome.samples);
    }
    Row {
        scenario: scenario.clone(),
        outcomes,
    }
}
