//! The demonstration: everything at work, with nothing installed and no configuration.
//!
//! A newcomer should see a failover within a minute. So one process holds the whole scene: three
//! upstreams, which are this relay in direct mode; an origin behind them; and the relay in front, with
//! the configuration an operator would write. What is typed kills and revives an upstream; nothing of
//! it is simulated: a dead one has closed its port and every connection.
//!
//! In reading order: [`screen`] says what is going on, [`embedded`] is an upstream that can die,
//! [`origin`] is the web server, [`terminal`] waits for what is typed.

mod embedded;
mod origin;
mod screen;
mod terminal;

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use crate::config;
use crate::net::threads;
use crate::server::{Options, Server, SignalWatcher};
use crate::stop::{Stage, Stop};

use embedded::Embedded;
use origin::Origin;
use terminal::{Command, Event, Terminal};

/// Where the relay listens, if that port is free.
const RELAY_PORT: u16 = 8080;
/// Where the status page is, if that port is free.
const PAGE_PORT: u16 = 9090;
/// The first port that is tried for everything behind it. Below the ports that systems give to outgoing
/// connections, so that none of those can take the port of an upstream that is dead for a while.
const FIRST_PORT: u16 = 8081;
/// How many ports are tried before any will do.
const PORTS_TRIED: u16 = 200;
/// How many upstreams there are.
const UPSTREAMS: usize = 3;
/// The name of the origin. Only the embedded upstreams know it, so a request for it cannot bypass the
/// relay because of `NO_PROXY=localhost,127.0.0.1`, which many environments have.
const ORIGIN_NAME: &str = "origin.test";

/// Runs it until somebody ends it.
///
/// # Errors
/// When there are no free ports, threads or file descriptors for it.
pub fn run() -> io::Result<()> {
    let (stop, over) = (Arc::new(Stop::new()?), Arc::new(Stop::new()?));
    // Before the first thread: no signal may find its default action.
    let signals = {
        let (stop, over) = (Arc::clone(&stop), Arc::clone(&over));
        SignalWatcher::start(move || match stop.stage() {
            Stage::Running => stop.advance(Stage::Draining),
            // The second one: nobody waits for the end any longer.
            Stage::Draining | Stage::Ended => over.advance(Stage::Ended),
        })?
    };
    let mut demo = Demo::start()?;
    screen::show(&demo.welcome());
    demo.relay.context().access_log.hand_to(screen::exchange)?;
    let mut terminal = Terminal::new(Arc::clone(&stop));
    loop {
        match terminal.next()? {
            Event::Typed(Ok(Command::Quit)) | Event::Stopped => break,
            Event::Typed(Ok(command)) => screen::show(&demo.obey(command)),
            Event::Typed(Err(misspelled)) => screen::show(&misspelled.to_string()),
            Event::Closed => screen::show(screen::INPUT_CLOSED),
        }
    }
    stop.advance(Stage::Draining);
    log::info!("stopping; a second signal ends at once");
    let end = over.subscribe();
    threads::start("drain", move || {
        demo.end();
        over.advance(Stage::Ended);
    })?;
    end.wait(None);
    drop(signals);
    Ok(())
}

/// The scene.
struct Demo {
    relay: Server,
    /// What the status page wants to hear.
    token: String,
    upstreams: Vec<Embedded>,
    origin: Origin,
}

impl Demo {
    fn start() -> io::Result<Self> {
        let upstreams = (1..=UPSTREAMS)
            .map(|number| free_port(FIRST_PORT, |port| Embedded::start(number, port)))
            .collect::<io::Result<Vec<_>>>()?;
        let origin = free_port(FIRST_PORT, Origin::start)?;
        for upstream in &upstreams {
            origin.introduce(upstream);
        }
        let port = origin.address().port();
        let token = random_token()?;
        // Its own first, so that a port in use is not taken for the one of the relay.
        let page = free_port(PAGE_PORT, |port| TcpListener::bind(loopback(port)))?.local_addr()?;
        let admin = format!("admin_listen: {page}\nadmin_token: {token}\n");
        let relay = free_port(RELAY_PORT, |listen| relay(listen, &admin, &upstreams, port))?;
        Ok(Self {
            relay,
            token,
            upstreams,
            origin,
        })
    }

    fn welcome(&self) -> String {
        let relay = self.relay.local_addr();
        let page = self.relay.admin_addr().unwrap_or(loopback(PAGE_PORT));
        let page = format!("http://any:{}@{page}/", self.token);
        screen::welcome(relay, &page, &self.upstreams, self.origin.address())
    }

    /// Does what was typed, and tells what came of it.
    fn obey(&mut self, command: Command) -> String {
        let number = match command {
            Command::Kill(number) | Command::Revive(number) => number,
            Command::Status => return screen::status(&self.relay.upstreams(), &self.upstreams),
            Command::Quit => return String::new(),
        };
        let index = number.checked_sub(1);
        let Some(upstream) = index.and_then(|index| self.upstreams.get_mut(index)) else {
            return format!("there is no upstream {number}: type a number from 1 to {UPSTREAMS}");
        };
        if command == Command::Kill(number) {
            return upstream.kill();
        }
        let said = upstream.revive();
        self.origin.introduce(upstream);
        said
    }

    /// Ends everything, front to back, so that what is in flight can be finished.
    fn end(mut self) {
        self.relay.drain();
        for upstream in &self.upstreams {
            upstream.cut();
        }
        for upstream in &mut self.upstreams {
            upstream.end();
        }
        self.origin.end();
    }
}

/// The relay in front: what an operator would configure, in short intervals.
fn relay(port: u16, admin: &str, upstreams: &[Embedded], origin: u16) -> io::Result<Server> {
    use std::fmt::Write as _;
    let mut text = format!(
        "listen: 127.0.0.1:{port}\n\
         {admin}\
         # The upstreams reach an origin on loopback only for clients of this very host, and a request\n\
         # with a Via field may come from one behind another relay.\n\
         via: false\n\
         reload_interval_secs: 0\n\
         health_check:\n  url: http://{ORIGIN_NAME}:{origin}{}\n  interval_secs: 1\n  timeout_secs: 1\n\
         limits:\n  shutdown_timeout_secs: 0.5\n\
         upstream:\n",
        origin::PROBE_PATH,
    );
    for upstream in upstreams {
        let (name, address) = (upstream.name(), upstream.address());
        writeln!(text, "  - name: {name}\n    url: http://{address}").map_err(io::Error::other)?;
    }
    serve(&text, Options::default())
}

/// Starts a relay with the configuration `text`.
fn serve(text: &str, options: Options) -> io::Result<Server> {
    let config = config::parse(text, "demo").map_err(io::Error::other)?;
    Server::start(config, options)
}

/// What `start` makes of the first port from `first` on that is not in use.
fn free_port<T>(first: u16, start: impl Fn(u16) -> io::Result<T>) -> io::Result<T> {
    for port in first..first.saturating_add(PORTS_TRIED) {
        match start(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    start(0)
}

/// A token that nobody guesses.
fn random_token() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_in_use_is_passed_over() {
        let first = TcpListener::bind(loopback(0)).unwrap();
        let taken = first.local_addr().unwrap().port();
        let next = free_port(taken, |port| TcpListener::bind(loopback(port))).unwrap();
        assert_ne!(next.local_addr().unwrap().port(), taken);
    }

    #[test]
    fn each_token_is_another_one() {
        let (one, other) = (random_token().unwrap(), random_token().unwrap());
        assert_ne!(one, other);
        assert_eq!((one.len(), other.len()), (32, 32));
    }

    #[test]
    fn other_failures_to_start_are_told() {
        let failed = free_port(1, |_| Err::<(), _>(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
