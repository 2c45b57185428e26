//! Three upstream proxies that answer themselves: a process of its own, one thread, one epoll.
//!
//! They say what the path of a request asks for: `/bytes/N` is answered with N bytes, `/slow/MS`
//! with nothing after so many milliseconds, `/post` takes a body and checks it. A CONNECT is a
//! tunnel to the classic service of its port: 7 sends back, 9 takes and checks, 19 sends for ever,
//! once it has been told to: not every relay passes on what comes together with the answer.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::hop::{BUFFER, Hop, Over};
use crate::machine::{self, Interest, Moved, Poll};

/// How many upstreams there are unless the scale is what is measured.
pub(crate) const POOL: usize = 3;

struct Upstreams {
    poll: Poll,
    listeners: Vec<OwnedFd>,
    connections: Vec<Option<Hop>>,
    free: Vec<usize>,
    slow: VecDeque<(Instant, usize)>,
    buffer: Vec<u8>,
}

/// Listens, prints the ports on one line, and serves until standard input ends.
pub(crate) fn serve(count: usize) -> io::Result<()> {
    machine::raise_file_limit();
    let poll = Poll::new()?;
    let listeners: Vec<OwnedFd> = (0..count)
        .map(|_| machine::listen())
        .collect::<io::Result<_>>()?;
    for (index, listener) in listeners.iter().enumerate() {
        poll.add(listener, index, Interest::Reading)?;
    }
    let ports: Vec<String> = listeners
        .iter()
        .map(|l| machine::port_of(l).to_string())
        .collect();
    println!("{}", ports.join(" "));
    io::stdout().flush()?;
    // Ends with the process that started it, whatever happens to that one.
    let stdin = listeners.len();
    poll.add(&io::stdin(), stdin, Interest::Reading)?;
    let mut upstreams = Upstreams {
        poll,
        listeners,
        connections: Vec::new(),
        free: Vec::new(),
        slow: VecDeque::new(),
        buffer: vec![0; BUFFER],
    };
    let mut ready = Vec::new();
    loop {
        let limit = upstreams.answer_slow();
        upstreams.poll.wait(limit, &mut ready);
        for &token in &ready {
            match token.cmp(&stdin) {
                Ordering::Less => upstreams.accept(token),
                Ordering::Equal => return Ok(()),
                Ordering::Greater => upstreams.turn(token - stdin - 1),
            }
        }
    }
}

impl Upstreams {
    fn token(&self, slot: usize) -> usize {
        self.listeners.len() + 1 + slot
    }

    fn accept(&mut self, listener: usize) {
        // A few at a time, so that a crowd of new connections does not starve the old ones.
        for _ in 0..16 {
            let Ok(Some(socket)) = machine::accept(&self.listeners[listener]) else {
                return;
            };
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let added = self.poll.add(&socket, self.token(slot), Interest::Reading);
            if added.is_err() {
                self.free.push(slot);
                continue;
            }
            self.connections[slot] = Some(Hop::new(socket));
        }
    }

    /// Answers what has waited long enough; tells how long the next one still has to.
    fn answer_slow(&mut self) -> Option<Duration> {
        while let Some(&(due, slot)) = self.slow.front() {
            let now = Instant::now();
            if due > now {
                return Some(due - now);
            }
            self.slow.pop_front();
            let connection = self.connections[slot].as_mut();
            if let Some(result) = connection.map(Hop::answer_late) {
                self.settle(slot, result);
            }
        }
        None
    }

    fn turn(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let result = match connection.interest {
            Interest::Writing => connection.flush(),
            Interest::Reading => match machine::receive(&connection.socket, &mut self.buffer) {
                Ok(Moved::NotNow) => Ok(()),
                Ok(Moved::Bytes(0)) | Err(_) => Err(Over),
                Ok(Moved::Bytes(count)) => connection.take(&self.buffer[..count]),
            },
        };
        if let Some(wait) = connection.wants_delay() {
            self.slow.push_back((Instant::now() + wait, slot));
        }
        self.settle(slot, result);
    }

    fn settle(&mut self, slot: usize, result: Result<(), Over>) {
        let token = self.token(slot);
        let Some(connection) = self.connections[slot].as_mut() else {
            return;
        };
        let wants = connection.wants();
        let asked = result.and_then(|()| {
            if wants != connection.interest {
                self.poll.modify(&connection.socket, token, wants)?;
                connection.interest = wants;
            }
            Ok(())
        });
        if asked.is_err() {
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}
