//! An upstream proxy that can die and come back: this relay in direct mode.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};

use crate::config;
use crate::config::checked::Config;
use crate::net::resolve::Resolver;
use crate::server::{Options, Server};
use crate::stop::Stage;

/// The name of the origin. Only the embedded upstreams know it, so a request for it cannot bypass the
/// relay because of `NO_PROXY=localhost,127.0.0.1`, which many environments have.
pub(super) const ORIGIN_NAME: &str = "origin.test";

/// One of them.
#[derive(Debug)]
pub(super) struct EmbeddedUpstream {
    /// What the relay calls it.
    pub(super) name: String,
    /// Where it listens, or would.
    pub(super) address: SocketAddr,
    /// `None` while it is dead.
    server: Option<Server>,
}

/// What it is really, whatever the relay knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It serves.
    Alive,
    /// It was killed.
    Dead,
}

impl EmbeddedUpstream {
    /// Starts the upstream of that number (from 1).
    pub(super) fn start(number: usize, port: u16) -> io::Result<Self> {
        let server = server(port)?;
        Ok(Self {
            name: format!("upstream-{number}"),
            address: server.local_addr(),
            server: Some(server),
        })
    }

    /// Whether it is alive.
    pub(super) fn life(&self) -> Life {
        match self.server {
            Some(_) => Life::Alive,
            None => Life::Dead,
        }
    }

    /// What it calls itself in `Via`: another name in each life.
    pub(super) fn pseudonym(&self) -> Option<&str> {
        let server = self.server.as_ref()?;
        Some(server.context().via.pseudonym())
    }

    /// Kills it as a crash would, and tells what that means.
    pub(super) fn kill(&mut self) -> String {
        if self.life() == Life::Dead {
            return format!("{} is dead already", self.name);
        }
        self.end();
        let (name, port) = (&self.name, self.address.port());
        format!("{name} is dead: port {port} refuses connections, what it relayed was cut")
    }

    /// Starts it again where it was, and tells what came of it.
    pub(super) fn revive(&mut self) -> String {
        let (name, port) = (&self.name, self.address.port());
        if self.life() == Life::Alive {
            return format!("{name} is alive already");
        }
        match server(port) {
            Ok(server) => {
                self.server = Some(server);
                format!("{name} is alive: it listens on port {port} again; a probe will find it")
            }
            Err(error) => format!("{name} stays dead: {error}"),
        }
    }

    /// Cuts everything without waiting for the end.
    pub(super) fn cut(&self) {
        if let Some(server) = &self.server {
            server.context().stop.advance(Stage::Ended);
        }
    }

    /// Cuts everything and closes its port.
    pub(super) fn end(&mut self) {
        self.cut();
        if let Some(server) = self.server.take() {
            server.drain();
        }
    }
}

/// A relay without upstreams: the list of the domains that need one is empty.
fn server(port: u16) -> io::Result<Server> {
    let text = format!(
        "listen: 127.0.0.1:{port}\n\
         domain_policy:\n  mode: whitelist\n  domains: []\n\
         upstream: []\n"
    );
    let options = Options {
        resolver: Resolver::asking(|name| {
            if name == ORIGIN_NAME {
                return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
            }
            Ok((name, 0)
                .to_socket_addrs()?
                .map(|found| found.ip())
                .collect())
        }),
        ..Options::default()
    };
    Server::start(config_of(&text)?, options)
}

/// What the configuration `text` means.
pub(super) fn config_of(text: &str) -> io::Result<Config> {
    config::parse(text, "demo").map_err(io::Error::other)
}
