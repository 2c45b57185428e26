//! The demonstration: everything at work, with nothing installed and no configuration.
//!
//! A newcomer should see a failover within a minute. So one process holds the whole scene: three
//! upstreams, which are this relay in direct mode; an origin behind them; and the relay in front, with
//! the configuration an operator would write. What is typed kills and revives an upstream; nothing of
//! it is simulated: a dead one has closed its port and every connection.
//!
//! In reading order: [`screen`] says what is going on, [`embedded`] is an upstream that can die,
//! [`origin`] is the web server, [`terminal`] waits for what is typed, [`ports`] are those in use.

mod embedded;
mod origin;
mod ports;
mod screen;
mod terminal;

use std::fs::File;
use std::io::{self, Read as _};
use std::net::TcpListener;
use std::sync::Arc;

use crate::net::threads;
use crate::server::signals::SignalWatcher;
use crate::server::{Options, Server};
use crate::stop::{Stage, Stop};

use embedded::{EmbeddedUpstream, ORIGIN_NAME, config_of};
use origin::EmbeddedOrigin;
use ports::{FIRST_PORT, PAGE_PORT, RELAY_PORT, free_port, loopback};
use terminal::{Input, Terminal};

/// How many upstreams there are.
const UPSTREAMS: usize = 3;
/// Runs it until a signal, or what is typed, ends it.
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
            // The second one: the end is not waited for any longer.
            Stage::Draining | Stage::Ended => over.advance(Stage::Ended),
        })?
    };
    let mut demo = Demo::start()?;
    screen::show(&demo.welcome());
    demo.relay.context().access_log.hand_to(screen::exchange);
    let mut terminal = Terminal::new(Arc::clone(&stop));
    while let Some(said) = demo.obey(terminal.next()?) {
        screen::show(&said);
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
    /// The password of the status page.
    token: String,
    upstreams: Vec<EmbeddedUpstream>,
    origin: EmbeddedOrigin,
}

impl Demo {
    fn start() -> io::Result<Self> {
        let upstreams = (1..=UPSTREAMS)
            .map(|number| free_port(FIRST_PORT, |port| EmbeddedUpstream::start(number, port)))
            .collect::<io::Result<Vec<_>>>()?;
        let origin = free_port(FIRST_PORT, EmbeddedOrigin::start)?;
        for upstream in &upstreams {
            origin.introduce(upstream);
        }
        let port = origin.address.port();
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
        let page = self.relay.admin_addr().unwrap_or(loopback(PAGE_PORT));
        let page = format!("http://any:{}@{page}/", self.token);
        let pool = self
            .upstreams
            .iter()
            .map(|one| (one.name.clone(), one.address));
        let pool: Vec<_> = pool.collect();
        screen::welcome(self.relay.local_addr(), &page, &pool, self.origin.address)
    }

    /// Does what was typed, and tells what came of it. `None`: it is over.
    fn obey(&mut self, input: Input) -> Option<String> {
        let (number, is_kill) = match input {
            Input::Kill(number) => (number, true),
            Input::Revive(number) => (number, false),
            Input::Status => {
                return Some(screen::status(&self.relay.upstreams(), &self.upstreams));
            }
            Input::Misspelled => return Some(screen::MISSPELLED.to_owned()),
            Input::Closed => return Some(screen::INPUT_CLOSED.to_owned()),
            Input::Quit => return None,
        };
        let index = number.checked_sub(1);
        let Some(upstream) = index.and_then(|index| self.upstreams.get_mut(index)) else {
            return Some(format!(
                "there is no upstream {number}: type a number from 1 to {UPSTREAMS}"
            ));
        };
        if is_kill {
            return Some(upstream.kill());
        }
        let said = upstream.revive();
        self.origin.introduce(upstream);
        Some(said)
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
fn relay(
    port: u16,
    admin: &str,
    upstreams: &[EmbeddedUpstream],
    origin: u16,
) -> io::Result<Server> {
    use std::fmt::Write as _;
    let mut text = format!(
        "listen: 127.0.0.1:{port}\n\
         {admin}\
         reload_interval_secs: 0\n\
         health_check:\n  url: http://{ORIGIN_NAME}:{origin}{}\n  interval_secs: 1\n  timeout_secs: 1\n\
         limits:\n  shutdown_timeout_secs: 0.5\n\
         upstream:\n",
        origin::PROBE_PATH,
    );
    for upstream in upstreams {
        let (name, address) = (&upstream.name, upstream.address);
        writeln!(text, "  - name: {name}\n    url: http://{address}").map_err(io::Error::other)?;
    }
    let mut config = config_of(&text)?;
    // The upstreams reach an origin on loopback only for clients of this very host, and a request with a Via
    // field may come from one behind another relay.
    config.via = false;
    Server::start(config, Options::default())
}

/// A token that cannot be guessed.
fn random_token() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_is_another_one() {
        let (one, other) = (random_token().unwrap(), random_token().unwrap());
        assert_ne!(one, other);
        assert_eq!((one.len(), other.len()), (32, 32));
    }
}
