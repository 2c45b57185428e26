//! Installed programs that do the same job, each with a configuration its documentation suggests
//! for speed: as many threads as cores, connections kept, no cache, no log per request.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    HaProxy,
    HaProxyTcp,
}

/// All of them, as they are named on the command line.
pub(crate) const ALL: [Peer; 2] = [Peer::HaProxy, Peer::HaProxyTcp];

/// What a peer understands of what it relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Http,
    /// Copies bytes, so it could neither balance requests nor fail over.
    Bytes,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HaProxy => "haproxy",
            Self::HaProxyTcp => "haproxy-tcp",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|peer| peer.name() == name)
    }

    pub(crate) fn layer(self) -> Layer {
        match self {
            Self::HaProxy => Layer::Http,
            Self::HaProxyTcp => Layer::Bytes,
        }
    }

    /// The text of its configuration.
    pub(crate) fn configuration(self, port: u16, upstreams: &[u16], _folder: &Path) -> String {
        match self {
            Self::HaProxy => haproxy("http", "  http-reuse always\n", port, upstreams),
            Self::HaProxyTcp => haproxy("tcp", "", port, upstreams),
        }
    }

    /// Writes the configuration and tells how to run the program in the foreground.
    pub(crate) fn command(
        self,
        port: u16,
        upstreams: &[u16],
        folder: &Path,
    ) -> io::Result<Command> {
        let file = folder.join(format!("{}.conf", self.name()));
        fs::write(&file, self.configuration(port, upstreams, folder))?;
        let mut command = Command::new(program(self.program())?);
        match self {
            Self::HaProxy | Self::HaProxyTcp => command.arg("-db").arg("-f").arg(file),
        };
        Ok(command)
    }

    fn program(self) -> &'static str {
        match self {
            Self::HaProxy | Self::HaProxyTcp => "haproxy",
        }
    }
}

/// Debian keeps servers where the path of an ordinary user does not lead.
fn program(name: &str) -> io::Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/bin"]);
    let mut places = folders.map(|folder| Path::new(folder).join(name));
    let found = places.find(|place| place.is_file());
    found.ok_or_else(|| io::Error::other(format!("{name} is not installed")))
}

fn haproxy(mode: &str, backend: &str, port: u16, upstreams: &[u16]) -> String {
    let mut text = format!(
        "global
  nbthread 2
defaults
  mode {mode}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend clients
  bind 127.0.0.1:{port}
  default_backend upstreams
backend upstreams
  balance roundrobin
{backend}"
    );
    for (index, port) in upstreams.iter().enumerate() {
        writeln!(text, "  server u{index} 127.0.0.1:{port}").expect("a string takes it");
    }
    text
}
