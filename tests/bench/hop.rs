//! One connection to a scripted upstream: reads requests, answers them, is a tunnel.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::machine::{self, Interest, Moved};
use crate::pattern;
use crate::wire::{self, After, Request};

/// No write is larger.
pub(crate) const BUFFER: usize = 256 * 1024;

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

/// One connection that was accepted.
pub(crate) struct Hop {
    pub(crate) socket: OwnedFd,
    doing: Doing,
    after: After,
    /// Not yet a whole head.
    unread: Vec<u8>,
    /// Could not be written yet.
    unsent: Vec<u8>,
    pub(crate) interest: Interest,
}

/// The connection is to be closed.
pub(crate) struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Hop {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            doing: Doing::Head,
            after: After::Keep,
            unread: Vec::new(),
            unsent: Vec::new(),
            interest: Interest::Reading,
        }
    }

    /// Answers a request that was to be answered late.
    pub(crate) fn answer_late(&mut self) -> Result<(), Over> {
        if !matches!(self.doing, Doing::Slow) {
            return Ok(());
        }
        self.doing = Doing::Head;
        self.answer(200, 0)
    }

    /// What it has to be woken for.
    pub(crate) fn wants(&self) -> Interest {
        if self.unsent.is_empty() && !matches!(self.doing, Doing::Sending { .. }) {
            Interest::Reading
        } else {
            Interest::Writing
        }
    }

    /// The time until the answer to the request just read, if it is a slow one.
    pub(crate) fn wants_delay(&mut self) -> Option<Duration> {
        if !matches!(self.doing, Doing::Slow) || self.unread.is_empty() {
            return None;
        }
        let delay = wire::number(&self.unread)?;
        self.unread.clear();
        Some(Duration::from_millis(delay as u64))
    }

    /// Takes what was read.
    pub(crate) fn take(&mut self, received: &[u8]) -> Result<(), Over> {
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
    pub(crate) fn flush(&mut self) -> Result<(), Over> {
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
