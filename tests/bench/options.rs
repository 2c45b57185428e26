//! The command line.

use std::fmt::Write;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::curves;
use crate::inspect::Count;
use crate::machine;
use crate::peers::{self, Peer};
use crate::scenarios::{self, Scenario};
use crate::targets::{self, Kind, OURS, Target};

const HELP: &str = "\
cargo bench --bench relay -- [OPTION..]

Measures this program, the thread-per-connection relay that looks at nothing (blind) and no proxy
at all (none), one after the other, with a load generator and scripted upstreams on loopback.

what
  --only NAME,..     these scenarios; a part of a name will do
  --curves           cost against scale instead: clients, upstreams, idle clients, tunnels
  --scale            this program alone on one core, on two, on four and so on, which is as many lanes:
                     GETs, new connections, tunnels
  --vs NAME,..       installed peers beside them, see --list; `all` for all of them
  --ours [LABEL=]PATH,..
                     these builds of http-proxy-lb instead of the one just built
  --with LABEL=LINE  the last of them once more, with this line in its configuration:
                     'log=access_log: {file: access.log}'
  --without NAME,..  leaves out targets: blind, none
how
  --rounds N         rounds of every scenario, targets in alternating order (default 1)
  --seconds S        how long each is measured (default 0.7)
  --spin             keeps the cores awake with a spinner of idle priority on each
  --smoke            everything for a moment only: are all answers right, and would
                     wrong ones be seen?
what comes out, besides tables
  --json FILE        every sample
  --svg FILE         a plot
instead of measuring
  --syscalls         system calls per cycle, counted by strace
  --allocations      allocations per cycle, counted by valgrind
  --instructions     instructions per cycle outside the kernel, counted by valgrind
  --print-config     the configurations of all targets
  --list             the names of scenarios and peers
  --help             this text
";

/// What is measured on more and more cores.
const SCALED: &str = "get-empty,get-1k,new-connection,connect";

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Compare,
    /// Only whether all answers are right.
    Smoke,
    Syscalls,
    Counted(Count),
}

/// What grows from one measurement to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grows {
    Nothing,
    /// Clients, upstreams, what is idle: the scenarios are points of curves.
    Work,
    /// Those of the targets, which are this program alone.
    Cores,
}

/// Whether the cores are kept awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spin {
    No,
    EveryCore,
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) targets: Vec<Target>,
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) spin: Spin,
    pub(crate) grows: Grows,
    pub(crate) json: Option<PathBuf>,
    pub(crate) svg: Option<PathBuf>,
}

/// What the arguments come to.
#[derive(Debug)]
pub(crate) enum Asked {
    Run(Box<Options>),
    Print(String),
}

/// The targets, before they are put in their order.
struct Targets {
    ours: Vec<Target>,
    peers: Vec<Target>,
    floor: Vec<Target>,
}

/// Reads the arguments; an error is a sentence for people.
pub(crate) fn parse(arguments: &[String]) -> Result<Asked, String> {
    let mut options = Options {
        mode: Mode::Compare,
        scenarios: Vec::new(),
        targets: Vec::new(),
        rounds: 1,
        time: Duration::from_millis(700),
        spin: Spin::No,
        grows: Grows::Nothing,
        json: None,
        svg: None,
    };
    let mut targets = Targets {
        ours: vec![target(
            "ours",
            Kind::Ours(PathBuf::from(OURS), String::new()),
        )],
        peers: Vec::new(),
        floor: vec![target("blind", Kind::Blind), target("none", Kind::None)],
    };
    let (mut names, mut wants_configurations) = (None, false);
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{name} wants a value"));
        match name.as_str() {
            // What cargo says to every benchmark.
            "--bench" => {}
            "--help" => return Ok(Asked::Print(HELP.to_owned())),
            "--list" => return Ok(Asked::Print(list())),
            "--print-config" => wants_configurations = true,
            "--with" => targets.vary(value()?)?,
            "--only" => names = Some(value()?),
            "--vs" | "--ours" | "--without" => targets.choose(name, value()?)?,
            "--rounds" => options.rounds = number(name, value()?)?,
            "--seconds" => options.time = seconds(name, value()?)?,
            "--json" => options.json = Some(PathBuf::from(value()?)),
            "--svg" => options.svg = Some(PathBuf::from(value()?)),
            other => options.switch(other)?,
        }
    }
    let Targets { ours, peers, floor } = targets;
    options.targets = match options.grows {
        Grows::Cores => ours.iter().flat_map(on_more_cores).collect(),
        Grows::Nothing | Grows::Work => [ours, peers, floor].concat(),
    };
    if wants_configurations {
        return Ok(Asked::Print(configurations(&options.targets)));
    }
    let (all, usual) = match options.grows {
        Grows::Nothing => (scenarios::all(), None),
        Grows::Work => (curves::all(), None),
        Grows::Cores => (scenarios::all(), Some(SCALED)),
    };
    let names = names.map(String::as_str).or(usual);
    options.scenarios = names.map_or_else(|| Ok(all.clone()), |names| only(&all, names))?;
    Ok(Asked::Run(Box::new(options)))
}

impl Options {
    fn switch(&mut self, name: &str) -> Result<(), String> {
        match name {
            "--curves" => self.grows = Grows::Work,
            "--scale" => self.grows = Grows::Cores,
            "--spin" => self.spin = Spin::EveryCore,
            "--smoke" => {
                self.mode = Mode::Smoke;
                self.time = Duration::from_millis(150);
            }
            "--syscalls" => self.mode = Mode::Syscalls,
            "--allocations" => self.mode = Mode::Counted(Count::Allocations),
            "--instructions" => self.mode = Mode::Counted(Count::Instructions),
            other => return Err(format!("{other} is no option; --help lists them")),
        }
        Ok(())
    }
}

impl Targets {
    fn vary(&mut self, text: &str) -> Result<(), String> {
        let (label, line) = text.split_once('=').ok_or("--with wants LABEL=LINE")?;
        let Some(Kind::Ours(program, _)) = self.ours.last().map(|last| &last.kind) else {
            return Err("--with has no build to vary".to_owned());
        };
        let kind = Kind::Ours(program.clone(), format!("{line}\n"));
        self.ours.push(target(label, kind));
        Ok(())
    }

    fn choose(&mut self, option: &str, names: &str) -> Result<(), String> {
        let names: Vec<&str> = names.split(',').collect();
        match option {
            "--ours" => self.ours = names.into_iter().map(build).collect(),
            "--without" => self
                .floor
                .retain(|target| !names.contains(&target.name.as_str())),
            _ if names == ["all"] => {
                let all = peers::ALL.into_iter();
                self.peers = all
                    .map(|peer| target(peer.name(), Kind::Peer(peer)))
                    .collect();
            }
            _ => self.peers = names.into_iter().map(peer).collect::<Result<_, _>>()?,
        }
        Ok(())
    }
}

fn target(name: &str, kind: Kind) -> Target {
    Target {
        name: name.to_owned(),
        kind,
        cores: None,
    }
}

/// This build on one core of the machine, on two, on four and so on.
fn on_more_cores(build: &Target) -> Vec<Target> {
    let all = machine::cores();
    let counts = iter::successors(Some(1), |count| {
        (*count < all).then_some(all.min(count * 2))
    });
    let on = |count| Target {
        name: format!("{} on {count}", build.name),
        cores: Some(count),
        ..build.clone()
    };
    counts.map(on).collect()
}

fn peer(name: &str) -> Result<Target, String> {
    let peer = Peer::named(name).ok_or(format!("{name} is no peer; --list has them"))?;
    Ok(target(peer.name(), Kind::Peer(peer)))
}

/// `LABEL=PATH`, or a path alone, which is its own label.
fn build(text: &str) -> Target {
    let (label, path) = text.split_once('=').unwrap_or((text, text));
    target(label, Kind::Ours(PathBuf::from(path), String::new()))
}

fn only(scenarios: &[Scenario], names: &str) -> Result<Vec<Scenario>, String> {
    let mut chosen = Vec::new();
    for name in names.split(',') {
        let exact = scenarios.iter().filter(|scenario| scenario.name == name);
        let mut fitting: Vec<Scenario> = exact.cloned().collect();
        if fitting.is_empty() {
            let parts = scenarios.iter();
            let parts = parts.filter(|scenario| scenario.name.contains(name));
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
    let line = |row: &Scenario| format!("  {:<16} {}\n", row.name, row.title);
    let rows: String = scenarios::all().iter().map(line).collect();
    let points: String = curves::all().iter().map(line).collect();
    let peers = peers::ALL.iter();
    let peers: Vec<&str> = peers.map(|peer| peer.name()).collect();
    format!(
        "scenarios\n{rows}curves\n{points}peers\n  {}",
        peers.join(", ")
    )
}

/// The configurations as they are used, but for the ports and the folder.
fn configurations(targets: &[Target]) -> String {
    const PORT: u16 = 8080;
    const UPSTREAMS: [u16; 3] = [3128, 3129, 3130];
    let mut out = String::new();
    for target in targets {
        let files = match &target.kind {
            Kind::Ours(_, more) => {
                vec![(
                    "http-proxy-lb.yaml",
                    targets::configuration(PORT, &UPSTREAMS, more),
                )]
            }
            Kind::Peer(peer) => peer.files(PORT, &UPSTREAMS, Path::new("/tmp/bench")),
            Kind::Blind | Kind::Damaging | Kind::None => Vec::new(),
        };
        for (name, text) in files {
            write!(out, "### {}: {name}\n\n{text}\n", target.name).expect("a string takes it");
        }
    }
    out
}
