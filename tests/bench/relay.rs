//! The benchmark: what a request, a tunnel and a byte cost, here and in other proxies.
//!
//! `cargo bench` measures this program beside a relay that looks at nothing and no proxy at all;
//! `cargo bench -- --vs haproxy` adds installed peers, `-- --help` tells the rest. The program
//! under test is the release binary in a process of its own; so are the scripted upstreams, which
//! are this program, too. Every answer is checked, and an error makes the run fail.
#![cfg(test)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for the terminal"
)]
#![expect(
    clippy::exit,
    reason = "a part of it ends when its standard input does"
)]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "statistics, far below the limits of f64"
)]

mod blind;
mod load;
mod machine;
mod options;
mod pattern;
mod peer_files;
mod peers;
mod report;
mod run;
mod scenarios;
mod script;
mod targets;
mod upstreams;
mod usage;
mod wire;

use std::io;
use std::process::ExitCode;

use options::{Asked, Options};
use run::Sample;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match go(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn go(arguments: &[String]) -> Result<ExitCode, String> {
    let told = |error: io::Error| error.to_string();
    let numbers = || {
        arguments
            .iter()
            .filter_map(|argument| argument.parse().ok())
    };
    match arguments.first().map(String::as_str) {
        // `cargo test --benches` only wants to know that it builds.
        None | Some("--test") => return Ok(ExitCode::SUCCESS),
        Some("--upstreams") => {
            let count = numbers().next().unwrap_or(1);
            upstreams::serve(count.into()).map_err(told)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some("--blind") => {
            let ports: Vec<u16> = numbers().collect();
            blind::serve(&ports).map_err(told)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(_) => {}
    }
    match options::parse(arguments)? {
        Asked::Print(text) => println!("{text}"),
        Asked::Run(options) => return compare(&options).map_err(told),
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures everything that was asked for, one target after the other in each round.
fn compare(options: &Options) -> io::Result<ExitCode> {
    machine::raise_file_limit();
    let folder = targets::Folder::new()?;
    let upstreams = targets::Upstreams::start(options.pool)?;
    let mut errors = 0;
    for scenario in &options.scenarios {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); options.targets.len()];
        for round in 0..options.rounds {
            let mut order: Vec<usize> = (0..options.targets.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let target = &options.targets[index];
                if !target.does(scenario) {
                    continue;
                }
                let ports = &upstreams.ports;
                match run::measure(scenario, target, ports, options.time, folder.path()) {
                    Ok(sample) => samples[index].push(sample),
                    Err(error) => {
                        eprintln!("bench: {} on {}: {error}", scenario.name, target.name);
                        errors += 1;
                    }
                }
            }
        }
        let medians: Vec<Option<Sample>> = samples
            .iter()
            .map(|samples| (!samples.is_empty()).then(|| report::median(samples)))
            .collect();
        errors += medians
            .iter()
            .flatten()
            .map(|sample| sample.errors)
            .sum::<u64>();
        println!("{}", report::table(scenario, &options.targets, &medians));
    }
    if errors > 0 {
        eprintln!("bench: {errors} errors");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
