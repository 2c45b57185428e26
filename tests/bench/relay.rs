//! The benchmark: what a request, a tunnel and a byte cost, here and in other proxies.
//!
//! `cargo bench` measures this program beside a relay that looks at nothing and no proxy at all;
//! `cargo bench --bench relay -- --vs haproxy` adds installed peers, `-- --help` tells the rest.
//! The program under test is the release binary in a process of its own; so are the scripted
//! upstreams, which are this program, too. Every answer is checked: its status, its length and
//! each byte of its body.
//!
//! | file | what is in it |
//! |---|---|
//! | `scenarios`, `curves` | what is measured |
//! | `targets`, `process`, `peers`, `peer_files` | what stands between client and upstream |
//! | `script`, `client`, `connection`, `load` | the clients |
//! | `upstreams`, `hop`, `blind`, `wire`, `pattern` | the other end, and the floor |
//! | `run`, `usage`, `spin`, `compare` | one measurement, its cost, and the order of all |
//! | `report`, `summary`, `json`, `plot` | what comes out |
//! | `inspect` | system calls, allocations, instructions |
//! | `selftest` | whether damage is seen |
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

#[cfg(not(target_os = "linux"))]
compile_error!("the accounting is that of Linux");

mod blind;
mod client;
mod compare;
mod connection;
mod curves;
mod hop;
mod inspect;
mod json;
mod load;
mod machine;
mod options;
mod pattern;
mod peer_files;
mod peers;
mod plot;
mod process;
mod report;
mod run;
mod scenarios;
mod script;
mod selftest;
mod spin;
mod summary;
mod targets;
mod upstreams;
mod usage;
mod wire;

use std::fs;
use std::io;
use std::process::ExitCode;

use blind::Honesty;
use options::{Asked, Grows, Mode, Options};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        // `cargo test --benches` wants to know that it builds, and has no minutes to spare.
        None | Some("--test") => Ok(ExitCode::SUCCESS),
        Some("--upstreams" | "--blind" | "--damaging" | "--spinner") => part(&arguments),
        Some(_) => asked(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bench: {error}");
        ExitCode::FAILURE
    })
}

/// The parts that run in processes of their own.
fn part(arguments: &[String]) -> io::Result<ExitCode> {
    let numbers = arguments
        .iter()
        .filter_map(|argument| argument.parse().ok());
    let numbers: Vec<u16> = numbers.collect();
    match arguments.first().map(String::as_str) {
        Some("--upstreams") => upstreams::serve(numbers.first().copied().unwrap_or(1).into())?,
        Some("--blind") => blind::serve(&numbers, Honesty::Passes)?,
        Some("--damaging") => blind::serve(&numbers, Honesty::Damages)?,
        Some(_) | None => spin::serve()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn asked(arguments: &[String]) -> io::Result<ExitCode> {
    match options::parse(arguments).map_err(io::Error::other)? {
        Asked::Print(text) => {
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Asked::Run(options) => run(&options),
    }
}

fn run(options: &Options) -> io::Result<ExitCode> {
    machine::raise_file_limit();
    match options.mode {
        Mode::Compare => {}
        Mode::Smoke => selftest::damage_is_seen(options.time)?,
        Mode::Syscalls => return inspect::system_calls(options),
        Mode::Counted(count) => return inspect::by_valgrind(options, count),
    }
    let spinners = spin::start(options.spin)?;
    println!("{}", summary::circumstances(options));
    let results = compare::all(options)?;
    drop(spinners);
    if options.grows != Grows::Cores {
        println!("{}", summary::table(&results));
    }
    for line in summary::faults(&results) {
        println!("{line}");
    }
    if let Some(path) = &options.json {
        fs::write(path, json::text(&results, options))?;
    }
    if let Some(path) = &options.svg {
        fs::write(path, plot::text(&results))?;
    }
    Ok(if results.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
