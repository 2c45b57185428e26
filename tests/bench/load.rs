//! The load generator: one thread, one epoll, as many clients as a scenario has.
//!
//! A closed loop: each client has one thing on its way at a time, so the rate is what the relay
//! makes of it. A single client waits inside its system calls instead, because that costs least.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::client::{Client, Pace, Stand, Tally};
use crate::machine::{self, Interest, PATIENCE, Poll, Waiting};
use crate::script::Script;

/// Reads are as large as this.
const BUFFER: usize = 256 * 1024;

/// So many clients connect at the same time, because some relays have short backlogs.
const AT_ONCE: usize = 64;

/// With so many errors, nothing that is measured means anything.
const HOPELESS: u64 = 200;

/// Some clients that do the same.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) clients: usize,
    pub(crate) script: Rc<Script>,
}

/// Clients that are connected to one target.
pub(crate) struct Load {
    poll: Poll,
    clients: Vec<Client>,
    waiting: Waiting,
    buffer: Vec<u8>,
    ready: Vec<usize>,
    pub(crate) tally: Tally,
}

impl Load {
    /// Connects all clients and lets each do what its script has first. With several ports, the
    /// clients take turns.
    pub(crate) fn set_up(groups: &[Group], ports: &[u16]) -> io::Result<Self> {
        let all: usize = groups.iter().map(|group| group.clients).sum();
        let waiting = if all == 1 {
            Waiting::InCall
        } else {
            Waiting::ByEpoll
        };
        let scripts = groups
            .iter()
            .flat_map(|group| (0..group.clients).map(|_| &group.script));
        let clients = scripts
            .zip(ports.iter().cycle())
            .map(|(script, &port)| Client::new(script, port, waiting))
            .collect();
        let mut load = Self {
            poll: Poll::new()?,
            clients,
            waiting,
            buffer: vec![0; BUFFER],
            ready: Vec::new(),
            tally: Tally::default(),
        };
        load.connect()?;
        Ok(load)
    }

    fn connect(&mut self) -> io::Result<()> {
        let mut next = 0;
        let mut busy = 0;
        let mut last_progress = Instant::now();
        loop {
            while busy < AT_ONCE && next < self.clients.len() {
                busy += 1;
                self.step(next, Pace::GoOn)?;
                busy -= usize::from(self.clients[next].is_set_up());
                next += 1;
            }
            if busy == 0 {
                return Ok(());
            }
            self.wait(Duration::from_millis(500));
            let ready = std::mem::take(&mut self.ready);
            for &token in &ready {
                if self.clients[token].is_set_up() {
                    continue;
                }
                self.step(token, Pace::GoOn)?;
                if self.clients[token].is_set_up() {
                    busy -= 1;
                    last_progress = Instant::now();
                }
            }
            self.ready = ready;
            if self.tally.errors > 0 || last_progress.elapsed() > PATIENCE {
                let why = self.tally.first_error.clone();
                let why = why.unwrap_or_else(|| "no answer".to_owned());
                return Err(io::Error::other(format!("client {next}: {why}")));
            }
        }
    }

    /// One turn of one client, and what epoll has to know after it.
    fn step(&mut self, token: usize, pace: Pace) -> io::Result<()> {
        let client = &mut self.clients[token];
        let stand = client.turn(&mut self.buffer, pace, &mut self.tally);
        if self.waiting == Waiting::InCall {
            return Ok(());
        }
        // A resting client is watched for reading: whatever comes then is an error.
        let interest = match stand {
            Stand::Wants(interest) => interest,
            Stand::Rests => Interest::Reading,
        };
        let connection = &mut client.connection;
        let Some(socket) = &connection.socket else {
            return Ok(());
        };
        match connection.registered {
            Some(before) if before == interest => {}
            Some(_) => self.poll.modify(socket, token, interest)?,
            None => self.poll.add(socket, token, interest)?,
        }
        connection.registered = Some(interest);
        Ok(())
    }

    fn wait(&mut self, limit: Duration) {
        if self.waiting == Waiting::InCall {
            self.ready.clear();
            self.ready.push(0);
        } else {
            self.poll.wait(Some(limit), &mut self.ready);
        }
    }

    /// Starts every client that has a cycle.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        for token in 0..self.clients.len() {
            if self.clients[token].has_cycle() {
                self.revive(token, Pace::GoOn)?;
            }
        }
        Ok(())
    }

    /// Lets the clients run for a time, and tells how long it really was.
    pub(crate) fn run(&mut self, time: Duration) -> io::Result<Duration> {
        let start = Instant::now();
        loop {
            let elapsed = start.elapsed();
            if elapsed >= time || self.tally.errors > HOPELESS {
                return Ok(elapsed);
            }
            self.wait(time.saturating_sub(elapsed));
            let ready = std::mem::take(&mut self.ready);
            for &token in &ready {
                if self.clients[token].has_cycle() {
                    self.revive(token, Pace::GoOn)?;
                } else {
                    self.lose(token);
                }
            }
            self.ready = ready;
        }
    }

    /// A turn, and further ones where an error or the end of the setup left a client without.
    fn revive(&mut self, token: usize, pace: Pace) -> io::Result<()> {
        self.step(token, pace)?;
        while self.clients[token].rests && pace == Pace::GoOn && self.tally.errors <= HOPELESS {
            self.step(token, pace)?;
        }
        Ok(())
    }

    /// An idle client heard something.
    fn lose(&mut self, token: usize) {
        let client = &mut self.clients[token];
        if client.connection.socket.take().is_some() {
            self.tally.errors += 1;
            let first = &mut self.tally.first_error;
            first.get_or_insert_with(|| "an idle connection was closed".to_owned());
        }
    }

    /// Lets every client finish what it has begun, so that no answer remains unchecked.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let rest = |client: &Client| client.rests || !client.has_cycle();
            let busy = self.clients.iter().filter(|client| !rest(client)).count();
            if busy == 0 || self.tally.errors > HOPELESS {
                break;
            }
            if Instant::now() > end {
                self.tally.errors += busy as u64;
                let first = &mut self.tally.first_error;
                first.get_or_insert_with(|| format!("{busy} clients got no answer"));
                break;
            }
            self.wait(Duration::from_millis(500));
            let ready = std::mem::take(&mut self.ready);
            for &token in &ready {
                let client = &self.clients[token];
                if client.has_cycle() && !client.rests {
                    self.step(token, Pace::FinishCycle)?;
                }
            }
            self.ready = ready;
        }
        let is_lost = |client: &&Client| {
            client
                .connection
                .socket
                .as_ref()
                .is_some_and(|s| !machine::is_quiet(s))
        };
        let idle = self.clients.iter().filter(|client| !client.has_cycle());
        let lost = idle.filter(is_lost).count();
        if lost > 0 {
            self.tally.errors += lost as u64;
            let first = &mut self.tally.first_error;
            first.get_or_insert_with(|| format!("{lost} idle connections were closed"));
        }
        Ok(())
    }
}
