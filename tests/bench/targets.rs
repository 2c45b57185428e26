//! What is measured: this program, the floor below it, no proxy at all, and installed peers.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::load::{Group, Load};
use crate::machine::{self, PATIENCE, pause};
use crate::peers::{Layer, Peer};
use crate::scenarios::{self, Scenario};

/// The program this benchmark was built with.
pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_http-proxy-lb");

/// What stands between the clients and the upstreams.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Ours(PathBuf),
    Blind,
    None,
    Peer(Peer),
}

/// One column of the table.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// A child process that is asked to end, and then made to, when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

/// A target that serves.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where the clients connect, in turn.
    pub(crate) ports: Vec<u16>,
    process: Option<Process>,
}

/// The scripted upstreams.
#[derive(Debug)]
pub(crate) struct Upstreams {
    pub(crate) ports: Vec<u16>,
    _process: Process,
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

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end as somebody at the terminal would, and gives it time to.
    pub(crate) fn interrupt(self, patience: Duration) {
        self.signal(Signal::INT, patience);
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
fn part(arguments: &[String]) -> io::Result<(Process, Vec<u16>)> {
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

impl Upstreams {
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let (process, ports) = part(&["--upstreams".to_owned(), count.to_string()])?;
        Ok(Self {
            ports,
            _process: process,
        })
    }
}

impl Target {
    /// Whether it is an installed program of that kind.
    pub(crate) fn is_peer(&self, layer: Layer) -> bool {
        match &self.kind {
            Kind::Peer(peer) => peer.layer() == layer,
            Kind::Ours(_) | Kind::Blind | Kind::None => false,
        }
    }

    /// Whether it can do what the scenario asks for.
    pub(crate) fn does(&self, scenario: &Scenario) -> bool {
        let keeps = match &self.kind {
            Kind::Peer(peer) => peer.keeps_connections(),
            Kind::Ours(_) | Kind::Blind | Kind::None => true,
        };
        let mut groups = scenario.groups.iter();
        let is_asked = groups.any(|group| group.script.keeps_connections());
        // Those that know nothing of requests open a connection for each connection.
        let each = match &self.kind {
            Kind::Peer(_) | Kind::Blind => 2,
            Kind::Ours(_) | Kind::None => 1,
        };
        let descriptors = scenario.connections() * each + 200;
        (keeps || !is_asked) && descriptors < machine::file_limit()
    }

    /// Starts it in front of these upstreams and waits until it has relayed a request.
    pub(crate) fn start(&self, upstreams: &[u16], folder: &Path) -> io::Result<Running> {
        // The port may be taken by somebody else between its choice and its use.
        let again = |_| self.attempt(upstreams, folder);
        self.attempt(upstreams, folder).or_else(again)
    }

    fn attempt(&self, upstreams: &[u16], folder: &Path) -> io::Result<Running> {
        let running = match &self.kind {
            Kind::None => Running {
                ports: upstreams.to_vec(),
                process: None,
            },
            Kind::Blind => {
                let mut arguments = vec!["--blind".to_owned()];
                arguments.extend(upstreams.iter().map(u16::to_string));
                let (process, ports) = part(&arguments)?;
                Running {
                    ports,
                    process: Some(process),
                }
            }
            Kind::Ours(program) => {
                return Running::ours(Command::new(program), upstreams, folder);
            }
            Kind::Peer(peer) => {
                let port = machine::free_port();
                let command = peer.command(port, upstreams, folder)?;
                started(command, port, &folder.join(format!("{}.log", peer.name())))?
            }
        };
        running.ready(&self.name)
    }
}

fn started(mut command: Command, port: u16, log: &Path) -> io::Result<Running> {
    let log = fs::File::create(log)?;
    command.stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    Ok(Running {
        ports: vec![port],
        process: Some(Process::start(&mut command)?),
    })
}

/// Everything as it comes, but for the address and the pool.
pub(crate) fn configuration(port: u16, upstreams: &[u16]) -> String {
    let upstreams = upstreams
        .iter()
        .map(|port| format!("  - url: http://127.0.0.1:{port}\n"));
    format!(
        "listen: 127.0.0.1:{port}\nupstream:\n{}",
        upstreams.collect::<String>()
    )
}

impl Running {
    /// Starts this program by a command that only wants its arguments.
    pub(crate) fn ours(mut command: Command, upstreams: &[u16], folder: &Path) -> io::Result<Self> {
        let port = machine::free_port();
        let config = folder.join("http-proxy-lb.yaml");
        fs::write(&config, configuration(port, upstreams))?;
        command.arg("--config").arg(config);
        let log = folder.join("http-proxy-lb.log");
        started(command, port, &log)?.ready("http-proxy-lb")
    }

    /// Asks it to end and gives it time to.
    pub(crate) fn terminate(self, patience: Duration) {
        if let Some(process) = self.process {
            process.signal(Signal::TERM, patience);
        }
    }

    /// The process to account for; none where there is no proxy.
    pub(crate) fn root(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    fn ready(mut self, name: &str) -> io::Result<Self> {
        let script = scenarios::first_exchange();
        let group = [Group {
            clients: 1,
            script: Rc::new(script),
        }];
        let end = Instant::now() + PATIENCE;
        loop {
            let Err(error) = Load::set_up(&group, &self.ports) else {
                return Ok(self);
            };
            let has_ended = self
                .process
                .as_mut()
                .is_some_and(|process| !process.is_running());
            if has_ended || Instant::now() > end {
                return Err(io::Error::other(format!("{name} does not serve: {error}")));
            }
            pause(Duration::from_millis(10));
        }
    }
}
