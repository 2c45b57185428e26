//! Processes that end with their owner, and the folder for their files.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::machine::pause;

/// A child process that is asked to end, and then made to, when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

/// A folder that goes away with its owner.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> io::Result<Self> {
        let name = format!("http-proxy-lb-bench-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().to_string_lossy();
            io::Error::other(format!("cannot run {program}: {error}"))
        })?;
        Ok(Self { child })
    }

    /// For accounting.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end as somebody at the terminal would, and gives it time to.
    pub(crate) fn interrupt(self, patience: Duration) {
        self.signal(Signal::INT, patience);
    }

    /// Asks it to end as an administrator would, and gives it time to.
    pub(crate) fn terminate(self, patience: Duration) {
        self.signal(Signal::TERM, patience);
    }

    fn signal(mut self, signal: Signal, patience: Duration) {
        self.send(signal);
        self.ended_within(patience);
    }

    fn send(&mut self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id.filter(|_| self.is_running()) {
            kill_process(id, signal).unwrap_or_default();
        }
    }

    fn ended_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while self.is_running() {
            if Instant::now() > end {
                return false;
            }
            pause(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.send(Signal::TERM);
        if !self.ended_within(Duration::from_secs(1)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Runs this program again in another part, and reads the ports it prints.
pub(crate) fn part(arguments: &[String]) -> io::Result<(Process, Vec<u16>)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    let output = process.child.stdout.take();
    let ports = output.map_or_else(Vec::new, ports);
    if ports.is_empty() {
        return Err(io::Error::other(format!("{arguments:?} did not start")));
    }
    Ok((process, ports))
}

fn ports(output: ChildStdout) -> Vec<u16> {
    let mut line = String::new();
    drop(BufReader::new(output).read_line(&mut line));
    let numbers = line.split_whitespace();
    numbers.filter_map(|number| number.parse().ok()).collect()
}
