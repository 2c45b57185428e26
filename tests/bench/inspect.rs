//! What a cycle is made of: system calls, counted by strace, and allocations and instructions, counted
//! by valgrind.
//!
//! They slow the target down a lot, so nothing is timed here.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::machine::{PATIENCE, pause};
use crate::options::Options;
use crate::process::{Folder, Process};
use crate::scenarios::{Scenario, Unit};
use crate::targets::{Kind, Running, Target, Upstreams};
use crate::usage;

/// The most frequent system calls that are shown.
const SHOWN: usize = 8;

/// Prints, for each scenario and target, the system calls per cycle.
pub(crate) fn system_calls(options: &Options) -> io::Result<ExitCode> {
    let folder = Folder::new()?;
    for scenario in works(options) {
        let upstreams = Upstreams::start(scenario.pool)?;
        println!("\n### {}: {}\n", scenario.name, scenario.title);
        println!("| target | system calls per cycle | the most frequent |\n|---|---|---|");
        let has_process = |target: &&Target| !matches!(target.kind, Kind::None);
        for target in options.targets.iter().filter(has_process) {
            if target.obstacle(scenario).is_none() {
                let running = target.start(&upstreams.ports, folder.path())?;
                let line = traced(scenario, &running, options.time, folder.path())?;
                println!("| {} | {line} |", target.name);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn works(options: &Options) -> impl Iterator<Item = &Scenario> {
    let scenarios = options.scenarios.iter();
    scenarios.filter(|scenario| !matches!(scenario.unit, Unit::Memory(_)))
}

fn traced(
    scenario: &Scenario,
    running: &Running,
    time: Duration,
    folder: &Path,
) -> io::Result<String> {
    let mut load = Load::set_up(&scenario.groups, &running.ports)?;
    load.begin()?;
    load.run(Duration::from_millis(200))?;
    let output = folder.join("strace");
    let processes = running.root().map_or_else(Vec::new, usage::tree);
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(&output);
    for process in &processes {
        command.arg("-p").arg(process.to_string());
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let strace = Process::start(&mut command)?;
    let end = Instant::now() + PATIENCE;
    while !processes.iter().all(|&process| usage::is_traced(process)) && Instant::now() < end {
        pause(Duration::from_millis(20));
    }
    load.tally.latencies.clear();
    load.run(time)?;
    let cycles = load.tally.latencies.len() as f64;
    strace.interrupt(PATIENCE);
    let counts = calls(&fs::read_to_string(&output)?);
    let total: u64 = counts.iter().map(|(count, _)| count).sum();
    let mut line = format!("{:.1} |", total as f64 / cycles);
    for (count, name) in counts.iter().take(SHOWN) {
        let each = *count as f64 / cycles;
        write!(line, " {name} {each:.2},").expect("a string takes it");
    }
    Ok(line.trim_end_matches(',').to_owned())
}

/// The table that strace writes: the number is in the fourth column, the name in the last.
fn calls(table: &str) -> Vec<(u64, String)> {
    let lines = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let name = columns.last().filter(|name| **name != "total")?;
        Some((columns.get(3)?.parse().ok()?, (*name).to_owned()))
    });
    let mut counts: Vec<(u64, String)> = lines.collect();
    counts.sort_by(|a, b| b.cmp(a));
    counts
}

/// The difference between these two counts is what is divided.
const CYCLES: [usize; 2] = [1000, 4000];

/// What valgrind counts in the whole life of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Allocations,
    /// Those of the program itself, not the kernel's.
    Instructions,
}

impl Count {
    /// The tool, and the word behind which it says the numbers.
    fn tool(self) -> (&'static str, &'static str) {
        match self {
            Self::Allocations => ("--tool=dhat", "Total"),
            Self::Instructions => ("--tool=callgrind", "Collected"),
        }
    }

    /// The names of the numbers, in their order.
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Allocations => &["bytes", "allocations"],
            Self::Instructions => &["instructions"],
        }
    }
}

/// Prints, for each scenario and each build of this program, what valgrind counts per cycle.
pub(crate) fn by_valgrind(options: &Options, count: Count) -> io::Result<ExitCode> {
    let columns = count.columns().join(" per cycle | ");
    let rule = "---|".repeat(count.columns().len());
    println!("| work | build | {columns} per cycle |\n|---|---|{rule}");
    let folder = Folder::new()?;
    for scenario in works(options) {
        let upstreams = Upstreams::start(scenario.pool)?;
        for target in &options.targets {
            let Kind::Ours(program, more) = &target.kind else {
                continue;
            };
            let mut found = Vec::new();
            for cycles in CYCLES {
                let life = Life {
                    program: (program, more),
                    count,
                    cycles,
                };
                found.push(life.lived(scenario, &upstreams.ports, &folder)?);
            }
            let (few, many) = (&found[0], &found[1]);
            let cycles = many.cycles.saturating_sub(few.cycles).max(1) as f64;
            let numbers = few.numbers.iter().zip(&many.numbers);
            let per_cycle = numbers.map(|(few, many)| (*many as f64 - *few as f64) / cycles);
            let shown: Vec<String> = per_cycle.map(|number| format!("{number:.2}")).collect();
            println!(
                "| {} | {} | {} |",
                scenario.title,
                target.name,
                shown.join(" | ")
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One life of the program under valgrind.
struct Life<'a> {
    /// With more lines of its configuration.
    program: (&'a PathBuf, &'a str),
    count: Count,
    cycles: usize,
}

/// What a whole life came to.
struct Counted {
    cycles: usize,
    /// In the order of [`Count::columns`].
    numbers: Vec<u64>,
}

impl Life<'_> {
    fn lived(
        &self,
        scenario: &Scenario,
        upstreams: &[u16],
        folder: &Folder,
    ) -> io::Result<Counted> {
        let log = folder.path().join("valgrind");
        let (tool, word) = self.count.tool();
        let mut command = Command::new("valgrind");
        command
            .arg(tool)
            .arg(format!("--log-file={}", log.display()));
        let (program, more) = self.program;
        command.arg(program).current_dir(folder.path());
        let running = Running::ours(command, more, upstreams, folder.path())?;
        let mut load = Load::set_up(&scenario.groups, &running.ports)?;
        load.begin()?;
        let end = Instant::now() + PATIENCE * 10;
        while load.tally.latencies.len() < self.cycles && Instant::now() < end {
            load.run(Duration::from_millis(20))?;
        }
        load.finish()?;
        let cycles = load.tally.latencies.len();
        drop(load);
        running.terminate(PATIENCE * 2);
        let text = fs::read_to_string(&log)?;
        // "==7== Total:     1,234 bytes in 56 blocks", "==7== Collected : 123456"
        let line = text.lines().find_map(|line| line.split_once(word));
        let (_, line) = line.ok_or_else(|| io::Error::other(format!("valgrind said: {text}")))?;
        let line = line.replace(',', "");
        let numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
        let numbers: Vec<u64> = numbers.collect();
        if numbers.len() != self.count.columns().len() {
            return Err(io::Error::other(format!("valgrind said: {text}")));
        }
        Ok(Counted { cycles, numbers })
    }
}
