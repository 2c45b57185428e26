//! Installed programs that do the same job, and how each is run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peer_files;

/// A program of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    HaProxy,
    Squid,
    Tinyproxy,
    TrafficServer,
    NginxStream,
    HaProxyTcp,
}

/// All of them, in the order of the table.
pub(crate) const ALL: [Peer; 6] = [
    Peer::HaProxy,
    Peer::Squid,
    Peer::Tinyproxy,
    Peer::TrafficServer,
    Peer::NginxStream,
    Peer::HaProxyTcp,
];

/// What a peer understands of what it relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Http,
    /// Copies bytes, so it could neither balance requests nor fail over.
    Bytes,
}

impl Peer {
    /// As it is named on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HaProxy => "haproxy",
            Self::Squid => "squid",
            Self::Tinyproxy => "tinyproxy",
            Self::TrafficServer => "trafficserver",
            Self::NginxStream => "nginx-stream",
            Self::HaProxyTcp => "haproxy-tcp",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|peer| peer.name() == name)
    }

    pub(crate) fn layer(self) -> Layer {
        match self {
            Self::HaProxy | Self::Squid | Self::Tinyproxy | Self::TrafficServer => Layer::Http,
            Self::NginxStream | Self::HaProxyTcp => Layer::Bytes,
        }
    }

    /// Whether a client's connection serves more than one request; where not, the rows that
    /// need it have no figure.
    pub(crate) fn keeps_connections(self) -> bool {
        match self {
            Self::Tinyproxy => false,
            Self::HaProxy
            | Self::Squid
            | Self::TrafficServer
            | Self::NginxStream
            | Self::HaProxyTcp => true,
        }
    }

    /// For plots.
    pub(crate) fn color(self) -> &'static str {
        match self {
            Self::HaProxy => "#3b82f6",
            Self::Squid => "#a855f7",
            Self::Tinyproxy => "#d4a017",
            Self::TrafficServer => "#f97316",
            Self::NginxStream => "#22a55e",
            Self::HaProxyTcp => "#7aa7f0",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::HaProxy | Self::HaProxyTcp => "haproxy",
            Self::Squid => "squid",
            Self::Tinyproxy => "tinyproxy",
            Self::TrafficServer => "traffic_server",
            Self::NginxStream => "nginx",
        }
    }

    /// Its configuration files, as name and text; the first one is the main one.
    pub(crate) fn files(
        self,
        port: u16,
        upstreams: &[u16],
        folder: &Path,
    ) -> Vec<(&'static str, String)> {
        match self {
            Self::HaProxy => vec![("haproxy.cfg", peer_files::haproxy(port, upstreams))],
            Self::HaProxyTcp => {
                vec![("haproxy-tcp.cfg", peer_files::haproxy_tcp(port, upstreams))]
            }
            Self::Squid => vec![("squid.conf", peer_files::squid(port, upstreams))],
            Self::Tinyproxy => vec![("tinyproxy.conf", peer_files::tinyproxy(port, upstreams))],
            Self::TrafficServer => peer_files::trafficserver(port, upstreams, folder),
            Self::NginxStream => {
                vec![("nginx.conf", peer_files::nginx(port, upstreams, folder))]
            }
        }
    }

    /// Writes the configuration and tells how to run the program in the foreground.
    pub(crate) fn command(
        self,
        port: u16,
        upstreams: &[u16],
        folder: &Path,
    ) -> io::Result<Command> {
        let folder = folder.join(self.name());
        fs::create_dir_all(&folder)?;
        let files = self.files(port, upstreams, &folder);
        for (name, text) in &files {
            fs::write(folder.join(name), text)?;
        }
        let main = folder.join(files.first().map_or("", |(name, _)| name));
        let mut command = Command::new(program(self.program())?);
        match self {
            Self::HaProxy | Self::HaProxyTcp => command.arg("-db").arg("-f").arg(main),
            Self::Squid => command.arg("-N").arg("-f").arg(main),
            Self::Tinyproxy => command.arg("-d").arg("-c").arg(main),
            Self::TrafficServer => {
                let argument = format!("--run-root={}", main.display());
                command.arg(argument)
            }
            Self::NginxStream => command.arg("-c").arg(main).arg("-e").arg("stderr"),
        };
        Ok(command)
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
