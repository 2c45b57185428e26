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

use crate::machine::{self, Interest, Moved, Poll};
use crate::pattern;
use crate::wire::{self, After, Request};

/// How many upstreams there are unless the scale is what is measured.
pub(crate) const POOL: usize = 3;

const BUFFER: usize = 256 * 1024;

/// What a connection is doing.
#[derive(Clone, Copy, Debug)]
enum Doing {
    /// Waits for the rest of a head.
    Head,
    /// Takes a body: bytes still to come, and where in the pattern they are from.
    Body {
        left: usize,
        offset: usize,
    },
    /// Waits for the time to answer.
    Slow,
    /// Waits for the word to send for ever.
    Asked,
    /// Sends pattern bytes; `left` is none for a stream without an end.
    Sending {
        left: Option<usize>,
        offset: usize,
    },
    Echo,
    Discard {
        offset: usize,
    },
}

struct Connection {
    socket: OwnedFd,
    doing: Doing,
    after: After,
    /// Not yet a whole head.
    unread: Vec<u8>,
    /// Could not be written yet.
    unsent: Vec<u8>,
    interest: Interest,
}

/// The connection is to be closed.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

struct Upstreams {
    poll: Poll,
    listeners: Vec<OwnedFd>,
    connections: Vec<Option<Connection>>,
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
            self.connections[slot] = Some(Connection {
                socket,
                doing: Doing::Head,
                after: After::Keep,
                unread: Vec::new(),
                unsent: Vec::new(),
                interest: Interest::Reading,
            });
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
            let waiting = connection.filter(|c| matches!(c.doing, Doing::Slow));
            if let Some(connection) = waiting {
                connection.doing = Doing::Head;
                let result = connection.answer(200, 0);
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

impl Connection {
    fn wants(&self) -> Interest {
        if self.unsent.is_empty() && !matches!(self.doing, Doing::Sending { .. }) {
            Interest::Reading
        } else {
            Interest::Writing
        }
    }

    /// The time until the answer to the request just read, if it is a slow one.
    fn wants_delay(&mut self) -> Option<Duration> {
        if !matches!(self.doing, Doing::Slow) || self.unread.is_empty() {
            return None;
        }
        let delay = wire::number(&self.unread)?;
        self.unread.clear();
        Some(Duration::from_millis(delay as u64))
    }

    fn take(&mut self, received: &[u8]) -> Result<(), Over> {
        match self.doing {
            Doing::Head => self.take_head(received),
            Doing::Body { left, offset } => self.take_body(left, offset, received),
            // Nobody may send before the answer, or while it comes.
            Doing::Slow | Doing::Sending { .. } => Err(Over),
            Doing::Asked => {
                self.doing = Doing::Sending {
                    left: None,
                    offset: 0,
                };
                self.flush()
            }
            Doing::Echo => self.write(received),
            Doing::Discard { offset } => {
                self.doing = Doing::Discard {
                    offset: (offset + received.len()) % pattern::PERIOD,
                };
                if pattern::is_at(offset, received) {
                    Ok(())
                } else {
                    Err(Over)
                }
            }
        }
    }

    fn take_head(&mut self, received: &[u8]) -> Result<(), Over> {
        let joined;
        let seen = if self.unread.is_empty() {
            received
        } else {
            self.unread.extend_from_slice(received);
            joined = std::mem::take(&mut self.unread);
            &joined
        };
        let Some(end) = wire::end_of_head(seen) else {
            if seen.len() > 16 * 1024 {
                return Err(Over);
            }
            self.unread = seen.to_vec();
            return Ok(());
        };
        let (head, rest) = seen.split_at(end);
        let request = wire::request(head).ok_or(Over)?;
        self.after = request.after;
        self.begin(&request, rest)
    }

    fn begin(&mut self, request: &Request<'_>, rest: &[u8]) -> Result<(), Over> {
        if request.is_connect {
            self.doing = match request.port {
                7 => Doing::Echo,
                9 => Doing::Discard { offset: 0 },
                19 => Doing::Asked,
                _ => return self.answer(403, 0),
            };
            self.write(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            return if rest.is_empty() {
                self.flush()
            } else {
                self.take(rest)
            };
        }
        if request.path == b"/post" {
            return self.take_body(request.length, 0, rest);
        }
        if !rest.is_empty() || request.length != 0 {
            return Err(Over);
        }
        if let Some(count) = request.path.strip_prefix(b"/bytes/") {
            let count = wire::number(count).ok_or(Over)?;
            return self.answer(200, count);
        }
        let delay = request.path.strip_prefix(b"/slow/").ok_or(Over)?;
        self.doing = Doing::Slow;
        self.unread = delay.to_vec();
        Ok(())
    }

    fn take_body(&mut self, left: usize, offset: usize, received: &[u8]) -> Result<(), Over> {
        if received.len() > left || !pattern::is_at(offset, received) {
            // The sender shall see that its bytes did not arrive as they were.
            self.after = After::Close;
            return self.answer(400, 0);
        }
        let left = left - received.len();
        if left == 0 {
            self.doing = Doing::Head;
            return self.answer(200, 0);
        }
        self.doing = Doing::Body {
            left,
            offset: (offset + received.len()) % pattern::PERIOD,
        };
        Ok(())
    }

    /// Head and as much of the body as fits, in one write.
    fn answer(&mut self, status: u16, count: usize) -> Result<(), Over> {
        let first = count.min(64 * 1024);
        let mut out = Vec::with_capacity(256 + first);
        let close = match self.after {
            After::Keep => "",
            After::Close => "Connection: close\r\n",
        };
        write!(
            out,
            "HTTP/1.1 {status} Scripted\r\nContent-Type: application/octet-stream\r\n\
             Cache-Control: no-store\r\n{close}Content-Length: {count}\r\n\r\n"
        )?;
        out.extend_from_slice(pattern::at(0, first));
        self.doing = if count > first {
            Doing::Sending {
                left: Some(count - first),
                offset: first,
            }
        } else {
            Doing::Head
        };
        self.write(&out)?;
        if self.unsent.is_empty() {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes what it can and keeps the rest.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let mut written = 0;
        if self.unsent.is_empty() {
            while written < bytes.len() {
                match machine::send(&self.socket, &bytes[written..])? {
                    Moved::Bytes(count) => written += count,
                    Moved::NotNow => break,
                }
            }
        }
        self.unsent.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    /// Goes on where the socket was full, and ends the answer.
    fn flush(&mut self) -> Result<(), Over> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.write(&unsent)?;
        }
        // A bounded piece, so that other connections get their turn.
        for _ in 0..4 {
            let Doing::Sending { left, offset } = self.doing else {
                break;
            };
            let piece = left.unwrap_or(BUFFER).min(BUFFER);
            let Moved::Bytes(count) = machine::send(&self.socket, pattern::at(offset, piece))?
            else {
                return Ok(());
            };
            let left = left.map(|left| left - count);
            let offset = (offset + count) % pattern::PERIOD;
            self.doing = match left {
                Some(0) => Doing::Head,
                Some(_) | None => Doing::Sending { left, offset },
            };
        }
        let is_answered = self.unsent.is_empty() && matches!(self.doing, Doing::Head);
        if is_answered && self.after == After::Close {
            return Err(Over);
        }
        Ok(())
    }
}
