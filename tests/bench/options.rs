//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::peers::{self, Peer};
use crate::scenarios::{self, Scenario};
use crate::targets::{Kind, OURS, Target};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
cargo bench --bench relay -- [OPTION..]

Measures this program, the thread-per-connection relay that parses nothing (blind) and no proxy at
all (none), one after the other, with a load generator and scripted upstreams on loopback.

  --vs NAME,..       installed peers beside them, see --list
  --ours [LABEL=]PATH,..
                     these builds of http-proxy-lb instead of the one just built
  --without NAME,..  leaves out targets: blind, none
  --only NAME,..     these scenarios only; a part of a name will do
  --rounds N         rounds of every scenario, targets in alternating order (default 1)
  --seconds S        how long each is measured (default 1)
  --upstreams-pool N how many upstreams there are (default 3)
  --list             names of scenarios and peers
  --help             this text
";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) targets: Vec<Target>,
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) pool: usize,
}

/// What the arguments come to.
#[derive(Debug)]
pub(crate) enum Asked {
    Run(Box<Options>),
    Print(String),
}

/// Reads the arguments; an error is a sentence for people.
pub(crate) fn parse(arguments: &[String]) -> Result<Asked, String> {
    let mut options = Options {
        scenarios: scenarios::all(),
        targets: Vec::new(),
        rounds: 1,
        time: Duration::from_secs(1),
        pool: crate::upstreams::POOL,
    };
    let mut ours = vec![target("ours", Kind::Ours(PathBuf::from(OURS)))];
    let mut floor = vec![target("blind", Kind::Blind), target("none", Kind::None)];
    let mut peers = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{name} wants a value"));
        match name.as_str() {
            // What cargo says to every benchmark.
            "--bench" => {}
            "--help" => return Ok(Asked::Print(HELP.to_owned())),
            "--list" => return Ok(Asked::Print(list())),
            "--vs" => peers = value()?.split(',').map(peer).collect::<Result<_, _>>()?,
            "--ours" => ours = value()?.split(',').map(build).collect(),
            "--without" => {
                let without = value()?;
                floor.retain(|target| without.split(',').all(|name| name != target.name));
            }
            "--only" => options.scenarios = only(&options.scenarios, value()?)?,
            "--rounds" => options.rounds = number(name, value()?)?,
            "--upstreams-pool" => options.pool = number(name, value()?)?,
            "--seconds" => options.time = seconds(name, value()?)?,
            other => return Err(format!("{other} is no option; --help lists them")),
        }
    }
    options.targets = ours;
    options.targets.append(&mut peers);
    options.targets.append(&mut floor);
    Ok(Asked::Run(Box::new(options)))
}

fn target(name: &str, kind: Kind) -> Target {
    Target {
        name: name.to_owned(),
        kind,
    }
}

fn peer(name: &str) -> Result<Target, String> {
    let peer = Peer::named(name).ok_or(format!("{name} is no peer; --list has them"))?;
    Ok(target(peer.name(), Kind::Peer(peer)))
}

/// `LABEL=PATH`, or a path alone, which is its own label.
fn build(text: &str) -> Target {
    let (label, path) = text.split_once('=').unwrap_or((text, text));
    target(label, Kind::Ours(PathBuf::from(path)))
}

fn only(scenarios: &[Scenario], names: &str) -> Result<Vec<Scenario>, String> {
    let mut chosen = Vec::new();
    for name in names.split(',') {
        let exact = scenarios.iter().filter(|scenario| scenario.name == name);
        let mut fitting: Vec<Scenario> = exact.cloned().collect();
        if fitting.is_empty() {
            let parts = scenarios
                .iter()
                .filter(|scenario| scenario.name.contains(name));
            fitting = parts.cloned().collect();
        }
        if fitting.is_empty() {
            return Err(format!("{name} is no scenario; --list has them"));
        }
        chosen.append(&mut fitting);
    }
    Ok(chosen)
}

fn number(name: &str, value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|&number| number > 0);
    number.ok_or(format!("{name} wants a number above 0"))
}

fn seconds(name: &str, value: &str) -> Result<Duration, String> {
    let seconds = value.parse().ok().filter(|&seconds| seconds > 0.0);
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or(format!("{name} wants seconds above 0"))
}

fn list() -> String {
    let scenarios = scenarios::all();
    let rows = scenarios.iter();
    let rows = rows.map(|row| format!("  {:<16} {}\n", row.name, row.title));
    let peers = peers::ALL.iter().map(|peer| format!("  {}\n", peer.name()));
    format!(
        "scenarios\n{}peers\n{}",
        rows.collect::<String>(),
        peers.collect::<String>()
    )
}
