//! One connection to the embedded origin: requests in, answers out.
//!
//! What cannot be read is not answered: it is the upstream in between that deals with whatever clients
//! send.

use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::net::conn::{Conn, LookAround, SendError};
use crate::net::socket::{Received, TICK, Wait};
use crate::protocol::body::{BodyCoder, Sent};
use crate::protocol::fields::Fields;
use crate::protocol::framing::{self, Framing};
use crate::protocol::head::{HeadLimits, HeadScanner, Message, RequestHead};
use crate::protocol::persistence::{self, Persistence};
use crate::protocol::rewrite::{self, Via};
use crate::stop::Stop;

use super::reply::{Content, OriginReply};

/// How many ticks a peer may do nothing.
const PATIENCE: u32 = 60;
/// The largest head, and the largest trailer section, in bytes.
const HEAD_MAX: usize = 64 * 1024;
/// What many bytes consist of.
const LINE: &[u8; 32] = b"thirty-two bytes of the origin.\n";
/// How many of them are sent at once.
const LINES_AT_ONCE: usize = 2048;

/// What all connections share.
pub(super) struct OriginState {
    pub(super) stop: Stop,
    /// The upstreams by what they call themselves in `Via`.
    pub(super) upstreams: Mutex<Vec<(Via, String)>>,
}

impl OriginState {
    /// Says by way of which upstream the request came.
    fn greeting(&self, fields: Fields<'_>) -> String {
        let upstreams = self.upstreams.lock();
        let by_way_of = upstreams.iter().find(|(via, _)| via.passes_through(fields));
        match by_way_of {
            Some((_, name)) => format!("Hello from the origin, by way of {name}.\n"),
            None => "Hello from the origin. No upstream left its name, so this is a tunnel or a \
                     direct visit.\n"
                .to_owned(),
        }
    }
}

/// A connection.
pub(super) struct Guest {
    conn: Conn,
    shared: Arc<OriginState>,
}

/// Where a request body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyGoes {
    Nowhere,
    Back,
}

impl Guest {
    /// The peer at the other end of `stream`.
    pub(super) fn new(stream: TcpStream, shared: Arc<OriginState>) -> io::Result<Self> {
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
        let reply = OriginReply::to(head.method(), head.target(), || {
            self.shared.greeting(head.fields())
        });
        if rewrite::expects_continue(&head) {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if reply.content != Content::Echo {
            self.pass_body(body, BodyGoes::Nowhere)?;
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
                Content::Echo => self.pass_body(body, BodyGoes::Back)?,
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
    fn pass_body(&mut self, framing: Framing, to: BodyGoes) -> io::Result<()> {
        let mut coder = BodyCoder::new(Message::Request, framing, Sent::AsReceived, HEAD_MAX);
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
            if to == BodyGoes::Back {
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
        let mut parts = [IoSlice::new(bytes)];
        let sent = self
            .conn
            .send_all(&mut parts, TICK * PATIENCE, &mut || LookAround::GoOn);
        sent.map_err(|error| match error {
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

/// Ends a connection in both directions.
pub(super) fn hang_up(stream: &TcpStream) {
    if let Err(error) = stream.shutdown(Shutdown::Both) {
        log::trace!("origin: the peer was gone before: {error}");
    }
}
