//! One connection to the embedded origin: requests in, answers out.
//!
//! What cannot be read is not answered: it is the upstream in between that deals with whatever clients
//! send.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::sync::Arc;

use crate::net::conn::{Conn, LookAround, SendError};
use crate::net::socket::{Received, TICK, Wait};
use crate::protocol::body::{BodyCoder, Sent};
use crate::protocol::framing::{self, Framing};
use crate::protocol::head::{HeadLimits, HeadScanner, RequestHead};
use crate::protocol::persistence::{self, Persistence};
use crate::protocol::rewrite;

use super::reply::{Content, Reply};
use super::{Shared, hang_up};

/// How many ticks a peer may do nothing.
const PATIENCE: u32 = 60;
/// The largest head, and the largest trailer section, in bytes.
const HEAD_MAX: usize = 64 * 1024;
/// What many bytes consist of.
const LINE: &[u8; 32] = b"thirty-two bytes of the origin.\n";
/// How many of them are sent at once.
const LINES_AT_ONCE: usize = 2048;

/// A connection.
pub(super) struct Guest {
    conn: Conn,
    shared: Arc<Shared>,
}

/// Where a request body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Nowhere,
    Back,
}

impl Guest {
    /// Whoever is at the other end of `stream`.
    pub(super) fn new(stream: TcpStream, shared: Arc<Shared>) -> io::Result<Self> {
        let conn = Conn::new(stream, TICK)?;
        Ok(Self { conn, shared })
    }

    /// Serves until the connection ends.
    pub(super) fn stay(mut self) {
        while self
            .serve()
            .is_ok_and(|next| next == Persistence::KeepAlive)
        {}
        // The acceptor has the same socket, so dropping this one closes nothing.
        hang_up(self.conn.stream());
    }

    /// One request and its answer.
    fn serve(&mut self) -> io::Result<Persistence> {
        let head = self.read_head()?;
        let body = framing::of_request(&head).map_err(io::Error::other)?;
        let persistence = persistence::of_request(&head);
        let reply = Reply::to(head.method(), head.target(), || {
            self.shared.greeting(head.fields())
        });
        if rewrite::expects_continue(&head) {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if reply.content != Content::Echo {
            self.pass_body(body, Destination::Nowhere)?;
        }
        if !reply.after.is_zero() {
            self.shared.stop.wait(reply.after);
        }
        self.send(reply.head(body, persistence).as_bytes())?;
        if head.method() != "HEAD" {
            match reply.content {
                Content::Nothing => {}
                Content::Text(text) => self.send(text.as_bytes())?,
                Content::Bytes(count) => self.send_bytes(count)?,
                Content::Echo => self.pass_body(body, Destination::Back)?,
            }
        }
        Ok(persistence)
    }

    fn read_head(&mut self) -> io::Result<RequestHead> {
        let mut scanner = HeadScanner::default();
        let limits = HeadLimits { bytes: HEAD_MAX };
        loop {
            if let Some(length) = scanner
                .scan(self.conn.unread(), limits)
                .map_err(io::Error::other)?
            {
                let mut head = Vec::new();
                self.conn.take_into(length, &mut head);
                return RequestHead::parse(head).map_err(io::Error::other);
            }
            self.receive()?;
        }
    }

    /// Reads the whole body.
    fn pass_body(&mut self, framing: Framing, to: Destination) -> io::Result<()> {
        let mut coder = BodyCoder::new(framing, Sent::AsReceived, HEAD_MAX);
        let mut out = Vec::new();
        while !coder.is_finished() {
            if self.conn.unread().is_empty() {
                self.receive()?;
            }
            let input = self.conn.unread_mut();
            let passed = coder.pass(input).map_err(io::Error::other)?;
            out.clear();
            out.extend_from_slice(coder.before());
            out.extend_from_slice(input.get(..passed.output).unwrap_or_default());
            out.extend_from_slice(coder.after());
            self.conn.consume(passed.taken);
            if to == Destination::Back {
                self.send(&out)?;
            }
        }
        Ok(())
    }

    /// Waits for more.
    fn receive(&mut self) -> io::Result<()> {
        for _ in 0..PATIENCE {
            match self.conn.receive_bulk(Wait::Tick)? {
                Received::Bytes(_) => return Ok(()),
                Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Received::Nothing => {}
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_all(&mut [IoSlice::new(bytes)])
    }

    fn send_all(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.conn
            .send_all(parts, TICK * PATIENCE, &mut || LookAround::GoOn)
            .map_err(|error| match error {
                SendError::Io(error) => error,
                SendError::Stalled | SendError::Cut => io::ErrorKind::TimedOut.into(),
            })
    }

    fn send_bytes(&mut self, count: u64) -> io::Result<()> {
        let page = LINE.repeat(LINES_AT_ONCE);
        let mut left = count;
        while left > 0 {
            let now = usize::try_from(left).map_or(page.len(), |left| left.min(page.len()));
            self.send(page.get(..now).unwrap_or_default())?;
            left -= now as u64;
        }
        Ok(())
    }
}
