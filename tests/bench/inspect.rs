//! What a cycle is made of: system calls, counted by strace, and allocations, counted by valgrind.
//!
//! Both slow the target down a lot, so nothing is timed here.

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

/// Prints, for each scenario and each build of this program, the allocations per cycle.
pub(crate) fn allocations(options: &Options) -> io::Result<ExitCode> {
    println!("| work | build | allocations per cycle | bytes per cycle |\n|---|---|---|---|");
    let folder = Folder::new()?;
    for scenario in works(options) {
        let upstreams = Upstreams::start(scenario.pool)?;
        for target in &options.targets {
            let Kind::Ours(program) = &target.kind else {
                continue;
            };
            let mut found = Vec::new();
            for cycles in CYCLES {
                found.push(counted(
                    scenario,
                    program,
                    &upstreams.ports,
                    cycles,
                    &folder,
                )?);
            }
            let per_cycle = |of: fn(&Counted) -> u64| {
                let (few, many) = (&found[0], &found[1]);
                let cycles = many.cycles.saturating_sub(few.cycles).max(1);
                (of(many) as f64 - of(few) as f64) / cycles as f64
            };
            println!(
                "| {} | {} | {:.2} | {:.0} |",
                scenario.title,
                target.name,
                per_cycle(|counted| counted.blocks),
                per_cycle(|counted| counted.bytes)
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a whole life of the program took from the heap.
struct Counted {
    cycles: usize,
    blocks: u64,
    bytes: u64,
}

fn counted(
    scenario: &Scenario,
    program: &PathBuf,
    upstreams: &[u16],
    cycles: usize,
    folder: &Folder,
) -> io::Result<Counted> {
    let log = folder.path().join("valgrind");
    let mut command = Command::new("valgrind");
    command.args(["--tool=dhat", "--dhat-out-file=/dev/null"]);
    command.arg(format!("--log-file={}", log.display()));
    command.arg(program);
    let running = Running::ours(command, upstreams, folder.path())?;
    let mut load = Load::set_up(&scenario.groups, &running.ports)?;
    load.begin()?;
    let end = Instant::now() + PATIENCE * 10;
    while load.tally.latencies.len() < cycles && Instant::now() < end {
        load.run(Duration::from_millis(20))?;
    }
    load.finish()?;
    let cycles = load.tally.latencies.len();
    drop(load);
    running.terminate(PATIENCE * 2);
    let text = fs::read_to_string(&log)?;
    // "==7== Total:     1,234 bytes in 56 blocks"
    let line = text.lines().find(|line| line.contains("Total:"));
    let line = line.ok_or_else(|| io::Error::other(format!("valgrind said: {text}")))?;
    let words = line.replace(',', "");
    let mut numbers = words.split_whitespace().skip(1);
    let mut number = || numbers.find_map(|word| word.parse::<u64>().ok());
    let (bytes, blocks) = (number(), number());
    Ok(Counted {
        cycles,
        blocks: blocks.unwrap_or_default(),
        bytes: bytes.unwrap_or_default(),
    })
}
