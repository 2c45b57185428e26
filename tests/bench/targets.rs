//! What is measured: this program, the floor below it, no proxy at all, and installed peers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::load::{Group, Load};
use crate::machine::{self, PATIENCE, pause};
use crate::peers::{Layer, Peer};
use crate::process::{Process, part};
use crate::scenarios::{self, Scenario};

/// The program this benchmark was built with.
pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_http-proxy-lb");

/// What stands between the clients and the upstreams.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A build, and more lines of its configuration.
    Ours(PathBuf, String),
    Blind,
    /// The same, but what it passes on is wrong.
    Damaging,
    None,
    Peer(Peer),
}

/// Why a target is not measured in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It does not keep connections.
    NotItsWork,
    /// The system does not let a process have so many.
    Descriptors(usize),
}

/// One column of the table.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// On how many cores it runs, if not on all. This program has as many lanes.
    pub(crate) cores: Option<usize>,
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
            Kind::Ours(..) | Kind::Blind | Kind::Damaging | Kind::None => false,
        }
    }

    /// Why it cannot do what the scenario asks for, if so.
    pub(crate) fn obstacle(&self, scenario: &Scenario) -> Option<Obstacle> {
        let (keeps, each) = match &self.kind {
            Kind::Peer(peer) => (peer.keeps_connections(), 2),
            // A relay must be able to open a connection for each connection.
            Kind::Ours(..) | Kind::Blind | Kind::Damaging => (true, 2),
            Kind::None => (true, 1),
        };
        let mut groups = scenario.groups.iter();
        if !keeps && groups.any(|group| group.script.keeps_connections()) {
            return Some(Obstacle::NotItsWork);
        }
        let wanted = scenario.connections() * each + 200;
        (wanted > machine::file_limit()).then_some(Obstacle::Descriptors(wanted))
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
            Kind::Blind => relay("--blind", upstreams)?,
            Kind::Damaging => relay("--damaging", upstreams)?,
            Kind::Ours(program, more) => {
                let start = || Running::ours(Command::new(program), more, upstreams, folder);
                return match self.cores {
                    Some(cores) => machine::on_cores(cores, start)?,
                    None => start(),
                };
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

/// One of the relays that are part of this program.
fn relay(name: &str, upstreams: &[u16]) -> io::Result<Running> {
    let mut arguments = vec![name.to_owned()];
    arguments.extend(upstreams.iter().map(u16::to_string));
    let (process, ports) = part(&arguments)?;
    Ok(Running {
        ports,
        process: Some(process),
    })
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

/// Everything as it comes, but for the address, the pool and `more`.
pub(crate) fn configuration(port: u16, upstreams: &[u16], more: &str) -> String {
    let upstreams = upstreams
        .iter()
        .map(|port| format!("  - url: http://127.0.0.1:{port}\n"));
    format!(
        "listen: 127.0.0.1:{port}\n{more}upstream:\n{}",
        upstreams.collect::<String>()
    )
}

impl Running {
    /// Starts this program by a command that only wants its arguments.
    pub(crate) fn ours(
        mut command: Command,
        more: &str,
        upstreams: &[u16],
        folder: &Path,
    ) -> io::Result<Self> {
        let port = machine::free_port();
        let config = folder.join("http-proxy-lb.yaml");
        fs::write(&config, configuration(port, upstreams, more))?;
        command.arg("--config").arg(config);
        let log = folder.join("http-proxy-lb.log");
        started(command, port, &log)?.ready("http-proxy-lb")
    }

    /// Asks it to end and gives it time to.
    pub(crate) fn terminate(self, patience: Duration) {
        if let Some(process) = self.process {
            process.terminate(patience);
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
