//! One end of a TCP connection and what can be done with it: send, expect, close, reset.
//!
//! [`Client`](super::Client) and [`Hop`](super::Hop) are such ends; [`Talk`] is what they have in
//! common, so that a test says `send` and `expect_bytes` on both sides of the proxy.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use super::journal::{Journal, Way, shown};
use super::wire::{AtEnd, Kind, Message, Unread, find, latin1};
use super::{PATIENCE, QUIET, spawn};

/// A connection end with the bytes that came and were not looked at yet.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Shared for the time of a call only: a connection closes when its last owner is gone.
    stream: Arc<TcpStream>,
    received: Vec<u8>,
    /// All that ever came.
    heard: Arc<Mutex<Vec<u8>>>,
    ended: Option<Ended>,
    name: String,
    journal: Journal,
}

/// How the other side's bytes came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// A FIN.
    Closed,
    /// A RST.
    Reset,
}

impl Socket {
    /// Takes over a connected stream; every read and write has [`PATIENCE`].
    pub(crate) fn new(stream: TcpStream, name: String, journal: Journal) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a read timeout");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("a write timeout");
        let (stream, heard) = (Arc::new(stream), Arc::default());
        Self {
            stream,
            received: Vec::new(),
            heard,
            ended: None,
            name,
            journal,
        }
    }

    /// Bytes that were received and not taken yet.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.received
    }

    /// Takes all of them.
    pub(crate) fn take_pending(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Takes the first of them.
    pub(crate) fn drop_pending(&mut self, count: usize) {
        self.received.drain(..count);
    }

    /// Everything that comes over this connection, as it comes.
    pub(crate) fn heard(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.heard)
    }

    /// Dropping it will send a RST.
    pub(crate) fn reset_when_dropped(&self) {
        self.note("> (reset)");
        sockopt::set_socket_linger(self.stream.as_ref(), Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// A second handle, to close the connection from elsewhere.
    pub(crate) fn handle(&self) -> Arc<TcpStream> {
        Arc::clone(&self.stream)
    }

    pub(crate) fn note(&self, what: &str) {
        self.journal.note(&self.name, what);
    }

    /// Waits for more bytes; says whether there were any before the end.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        if self.ended.is_some() {
            return Ok(false);
        }
        let mut block = vec![0; 64 * 1024];
        match self.stream.as_ref().read(&mut block) {
            Ok(0) => self.end(Ended::Closed),
            Ok(count) => {
                self.journal
                    .bytes(&self.name, Way::Received, &block[..count]);
                self.received.extend_from_slice(&block[..count]);
                self.heard.lock().extend_from_slice(&block[..count]);
                return Ok(true);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return self.fill(),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.end(Ended::Reset),
            Err(error) => return Err(error),
        }
        Ok(false)
    }

    fn end(&mut self, how: Ended) {
        self.note(match how {
            Ended::Closed => "< (closed)",
            Ended::Reset => "< (reset)",
        });
        self.ended = Some(how);
    }

    /// Reads until the end; what came stays in [`Socket::pending`].
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> Ended {
        while self.read_more() {}
        self.ended.expect("read until the end")
    }

    /// As [`Socket::fill`], but a timeout fails the test.
    #[track_caller]
    fn read_more(&mut self) -> bool {
        match self.fill() {
            Ok(more) => more,
            Err(error) => panic!("{}: nothing came: {error}", self.name),
        }
    }

    /// Reads one message; `Err` says what came instead.
    pub(crate) fn try_read_message(&mut self, kind: Kind) -> Result<Message, String> {
        loop {
            let at_end = if self.ended.is_some() {
                AtEnd::Closed
            } else {
                AtEnd::MoreMayCome
            };
            match Message::parse(&self.received, kind, at_end) {
                Ok(message) => return Ok(self.taken(message)),
                Err(Unread::Wrong(what)) => return Err(format!("malformed: {what}")),
                Err(Unread::Incomplete) => self.fill_or_say_why()?,
            }
        }
    }

    /// Reads one head; `Err` says what came instead.
    pub(crate) fn try_read_head(&mut self) -> Result<Message, String> {
        loop {
            match Message::parse_head(&self.received) {
                Ok(message) => return Ok(self.taken(message)),
                Err(Unread::Wrong(what)) => return Err(format!("malformed: {what}")),
                Err(Unread::Incomplete) => self.fill_or_say_why()?,
            }
        }
    }

    fn taken(&mut self, message: Message) -> Message {
        self.received.drain(..message.raw.len());
        message
    }

    /// Waits for more; a body that ends with the connection is complete at its FIN only.
    fn fill_or_say_why(&mut self) -> Result<(), String> {
        let ended_before = self.ended.is_some();
        match self.fill() {
            Ok(true) => Ok(()),
            Ok(false) if self.ended == Some(Ended::Closed) && !ended_before => Ok(()),
            Ok(false) => Err(format!("{:?} after {}", self.ended, shown(&self.received))),
            Err(error) => Err(format!("{error} after {}", shown(&self.received))),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.journal.print_if_panicking();
    }
}

/// What both ends of a conversation can do. Every method returns the one it was called on, so
/// that a script reads from left to right.
pub(crate) trait Talk: Sized {
    /// The connection itself.
    fn socket(&mut self) -> &mut Socket;

    /// Sends these bytes in one write.
    #[track_caller]
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        let socket = self.socket();
        socket.journal.bytes(&socket.name, Way::Sent, bytes);
        if let Err(error) = socket.stream.as_ref().write_all(bytes) {
            panic!("{}: cannot send: {error}", socket.name);
        }
        self
    }

    /// Sends what the other side takes, which may close before it has seen everything.
    fn send_as_far_as_possible(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let socket = self.socket();
        socket
            .journal
            .bytes(&socket.name, Way::Sent, bytes.as_ref());
        if let Err(error) = socket.stream.as_ref().write_all(bytes.as_ref()) {
            socket.note(&format!("could not send all: {error}"));
        }
        self
    }

    /// Sends each of these in a write of its own.
    #[track_caller]
    fn send_in_pieces<P: AsRef<[u8]>>(&mut self, pieces: impl IntoIterator<Item = P>) -> &mut Self {
        for piece in pieces {
            self.send(piece);
            // Gives the receiver a chance to see the pieces apart.
            thread::yield_now();
        }
        self
    }

    /// Sends one byte at a time.
    #[track_caller]
    fn send_byte_by_byte(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.send_in_pieces(bytes.as_ref().chunks(1))
    }

    /// Sends from another thread, for more bytes than fit into the buffers on the way.
    fn send_in_background(&mut self, bytes: Vec<u8>) -> JoinHandle<io::Result<()>> {
        let socket = self.socket();
        socket.journal.bytes(&socket.name, Way::Sent, &bytes);
        let stream = socket.handle();
        spawn("test-sender", move || stream.as_ref().write_all(&bytes))
    }

    /// The next bytes are these.
    #[track_caller]
    fn expect_bytes(&mut self, expected: impl AsRef<[u8]>) -> &mut Self {
        let expected = expected.as_ref();
        let socket = self.socket();
        while socket.received.len() < expected.len() && expected.starts_with(&socket.received) {
            if !socket.read_more() {
                break;
            }
        }
        if socket.received.starts_with(expected) {
            socket.received.drain(..expected.len());
            return self;
        }
        let same = socket
            .received
            .iter()
            .zip(expected)
            .take_while(|(a, b)| a == b)
            .count();
        panic!(
            "{}: expected {} bytes, got {}, equal up to {same}\nexpected {}\n     got {}",
            socket.name,
            expected.len(),
            socket.received.len(),
            shown(expected),
            shown(&socket.received)
        );
    }

    /// Takes everything up to and including `end`.
    #[track_caller]
    fn read_until(&mut self, end: impl AsRef<[u8]>) -> String {
        let end = end.as_ref();
        let socket = self.socket();
        loop {
            if let Some(at) = find(&socket.received, end) {
                let taken: Vec<u8> = socket.received.drain(..at + end.len()).collect();
                return latin1(&taken);
            }
            assert!(
                socket.read_more(),
                "{}: ended before {:?}, after {}",
                socket.name,
                latin1(end),
                shown(&socket.received)
            );
        }
    }

    /// The other side closes now, cleanly (FIN), and says nothing more before.
    #[track_caller]
    fn expect_closed(&mut self) -> &mut Self {
        let socket = self.socket();
        let ended = socket.read_to_end();
        assert_eq!(
            latin1(&socket.received),
            "",
            "{}: bytes before the end",
            socket.name
        );
        assert_eq!(
            ended,
            Ended::Closed,
            "{}: how the connection ended",
            socket.name
        );
        self
    }

    /// The other side resets the connection (RST).
    #[track_caller]
    fn expect_reset(&mut self) -> &mut Self {
        let socket = self.socket();
        let ended = socket.read_to_end();
        assert_eq!(
            ended,
            Ended::Reset,
            "{}: how the connection ended",
            socket.name
        );
        self
    }

    /// The connection ends, no matter how, and without another byte.
    #[track_caller]
    fn expect_gone(&mut self) -> &mut Self {
        let socket = self.socket();
        socket.read_to_end();
        assert_eq!(
            latin1(&socket.received),
            "",
            "{}: bytes before the end",
            socket.name
        );
        self
    }

    /// Nothing comes, not even an end, for [`QUIET`]. Where possible let another step prove the
    /// absence instead: an answer on the same connection has nothing before it.
    #[track_caller]
    fn expect_nothing_more(&mut self) -> &mut Self {
        let socket = self.socket();
        assert_eq!(
            latin1(&socket.received),
            "",
            "{}: unexpected bytes",
            socket.name
        );
        let heard = socket.listen_for(QUIET);
        assert!(
            heard.is_none(),
            "{}: unexpected {heard:?} {}",
            socket.name,
            shown(&socket.received)
        );
        self
    }

    /// Sends a FIN; reading goes on.
    fn half_close(&mut self) -> &mut Self {
        let socket = self.socket();
        socket.note("> (half-closed)");
        if let Err(error) = socket.stream.shutdown(Shutdown::Write) {
            socket.note(&format!("could not half-close: {error}"));
        }
        self
    }

    /// Closes cleanly.
    fn close(mut self) {
        self.socket().note("> (closed)");
    }

    /// Sends a RST.
    fn reset(mut self) {
        self.socket().reset_when_dropped();
    }
}

impl Socket {
    /// Whether bytes or the end of them are there, without waiting.
    pub(crate) fn has_something(&self) -> bool {
        let mut ready = [PollFd::new(self.stream.as_ref(), PollFlags::IN)];
        let polled = poll(&mut ready, Some(&Timespec::default()));
        !self.received.is_empty() || polled.is_ok_and(|count| count > 0)
    }

    /// What comes within this time: `Some(true)` bytes, `Some(false)` the end, `None` nothing.
    fn listen_for(&mut self, time: Duration) -> Option<bool> {
        self.stream
            .set_read_timeout(Some(time))
            .expect("a read timeout");
        let heard = self.fill().ok();
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a read timeout");
        heard
    }
}
