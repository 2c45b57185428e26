//! One connection over TLS: what has come is moved on, in both directions, and nothing is waited for.
//!
//! The pair of sockets has a trick to it. A Unix socket that is closed with something unread in it resets its
//! peer, behind what was sent to that: just what the relay shall see of a connection that was cut. So the first
//! byte in [`Carrier::relay`] is never read, from the one that [`Carrier::new`] puts there on; of what follows
//! the last one always stays in its place, looked at and passed on already. Only where the relay has
//! seen an orderly end, nothing is left in it when it is closed.

use std::io::{self, BufRead, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mio::event::Event;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::ClientConnection;

use crate::net::socket;
use crate::protocol::tls::TlsFailure;

use super::reasons;
use super::resets::ResetMark;

/// What is taken from the relay at a time, in bytes: two records.
pub(super) const LOAD: usize = 32 * 1024;

/// How many times each direction may move something before others have their turn.
const ROUNDS: usize = 16;

/// How long an upstream may take nothing of the rest that it is sent.
const FLUSH_TIME: Duration = Duration::from_secs(60);

/// A connection over TLS and the pair's end that stands for its owner.
pub(super) struct Carrier {
    session: ClientConnection,
    /// Where plain bytes come from and go to; never blocks.
    relay: UnixStream,
    /// The connection itself; never blocks.
    upstream: TcpStream,
    /// Where it is told why the handshake failed. None: it is over.
    handshake: Option<Arc<OnceLock<TlsFailure>>>,
    mark: ResetMark,
    from_relay: Sending,
    from_upstream: Sending,
    /// Since when only what the relay has sent is left to be moved, and nothing of it was.
    leaving: Option<Instant>,
    /// Whether the upstream takes nothing more.
    is_upstream_deaf: bool,
}

/// How far one side is with sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    GoesOn,
    /// Nothing more will come, or be believed, and something may be left to pass on.
    Ends,
    /// All was passed on, and the end of it.
    Ended,
}

/// What a carrier does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It waits for its sockets.
    All,
    /// It could go on at once.
    Some,
    /// It is over; it is to be dropped.
    Over,
}

/// How a connection ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The relay must see that what came was not all.
    ByUpstream,
    /// The upstream must see it.
    ByRelay,
}

impl Carrier {
    /// `near` is the relay's end.
    pub(super) fn new(
        session: ClientConnection,
        (relay, upstream): (UnixStream, TcpStream),
        (failure, mark): (Arc<OnceLock<TlsFailure>>, ResetMark),
        near: &TcpStream,
    ) -> io::Result<Self> {
        relay.set_nonblocking(true)?;
        upstream.set_nonblocking(true)?;
        send(near, &[0], SendFlags::NOSIGNAL)?;
        Ok(Self {
            session,
            relay,
            upstream,
            handshake: Some(failure),
            mark,
            from_relay: Sending::GoesOn,
            from_upstream: Sending::GoesOn,
            leaving: None,
            is_upstream_deaf: false,
        })
    }

    /// Its sockets: the relay's, then the upstream's.
    pub(super) fn sockets(&self) -> (&UnixStream, &TcpStream) {
        (&self.relay, &self.upstream)
    }

    /// Notes what there is to know of the relay's socket beside its bytes.
    pub(super) fn note(&mut self, event: &Event) {
        if event.is_read_closed() && self.from_relay == Sending::GoesOn {
            self.from_relay = Sending::Ends;
        }
        if event.is_write_closed() {
            self.leaving.get_or_insert_with(Instant::now);
        }
    }

    /// Until when it may go on, if that is limited.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.leaving.map(|since| since + FLUSH_TIME)
    }

    /// Moves what can be moved, with `buffer` for what comes from the relay.
    pub(super) fn advance(&mut self, buffer: &mut [u8]) -> Moved {
        for _ in 0..ROUNDS {
            match self.round(buffer) {
                Ok(true) => {}
                Ok(false) if self.is_over() => {
                    self.empty();
                    return Moved::Over;
                }
                Ok(false) => return Moved::All,
                Err(cut) => {
                    self.cut(cut);
                    return Moved::Over;
                }
            }
        }
        Moved::Some
    }

    /// Moves something in each direction. Says whether anything was moved.
    fn round(&mut self, buffer: &mut [u8]) -> Result<bool, Cut> {
        if self.from_relay != Sending::GoesOn {
            if self.handshake.is_some() || self.was_reset() {
                return Err(Cut::ByRelay);
            }
            if self.from_upstream == Sending::Ended {
                self.leaving.get_or_insert_with(Instant::now);
            }
        }
        let mut moved = false;
        // A record comes in several pieces, and not each has something for the relay.
        for _ in 0..ROUNDS {
            if !self.take_records()? {
                break;
            }
            moved = true;
        }
        moved |= self.finish_handshake()?;
        moved |= self.give_to_relay()?;
        moved |= self.take_from_relay(buffer)?;
        moved |= self.give_records();
        Ok(moved)
    }

    fn was_reset(&self) -> bool {
        self.mark.is_set() || !matches!(self.relay.take_error(), Ok(None))
    }

    /// Whether there is nothing left to do.
    fn is_over(&self) -> bool {
        let is_sent = self.is_upstream_deaf || !self.session.wants_write();
        self.leaving.is_some() && self.from_relay == Sending::Ended && is_sent
    }

    /// Leaves nothing unread, so that the coming close is none but an end.
    fn empty(&self) {
        let mut rest = [0; 1024];
        let mut read = || retry_on_intr(|| recv(&self.relay, &mut rest, RecvFlags::DONTWAIT));
        while read().is_ok_and(|(_, count)| count > 0) {}
    }

    /// Reads from the upstream, unless the relay has not taken what came before.
    fn take_records(&mut self) -> Result<bool, Cut> {
        let has_more = matches!(self.session.reader().fill_buf(), Ok(bytes) if !bytes.is_empty());
        if has_more || self.from_upstream != Sending::GoesOn || self.leaving.is_some() {
            return Ok(false);
        }
        match self.session.read_tls(&mut self.upstream) {
            Ok(0) if self.handshake.is_some() => return Err(self.fails(TlsFailure::TlsFailed)),
            // Whether that was an orderly end is told behind the last byte.
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if is_temporary(&error) => return Ok(false),
            Err(_) if self.handshake.is_some() => return Err(self.fails(TlsFailure::TlsFailed)),
            Err(_) => return Err(Cut::ByUpstream),
        }
        if let Err(error) = self.session.process_new_packets() {
            // The upstream is told why, if it can be.
            self.give_records();
            if self.handshake.is_some() {
                return Err(self.fails(reasons::of(&error)));
            }
            log::debug!("a connection over TLS is broken: {error}");
            self.from_upstream = Sending::Ends;
        }
        Ok(true)
    }

    /// The handshake is over, and in vain.
    fn fails(&mut self, failure: TlsFailure) -> Cut {
        if let Some(told) = self.handshake.take() {
            told.get_or_init(|| failure);
        }
        Cut::ByUpstream
    }

    /// Tells whoever waits for the end of the handshake.
    fn finish_handshake(&mut self) -> Result<bool, Cut> {
        if self.handshake.is_none() || self.session.is_handshaking() {
            return Ok(false);
        }
        self.handshake = None;
        send_now(&self.relay, &[0]).map_err(|_gone| Cut::ByRelay)?;
        Ok(true)
    }

    /// Passes on what was decrypted, and the end of it.
    fn give_to_relay(&mut self) -> Result<bool, Cut> {
        let is_over = self.from_upstream == Sending::Ended || self.leaving.is_some();
        if self.handshake.is_some() || is_over {
            return Ok(false);
        }
        let mut reader = self.session.reader();
        let given = match reader.fill_buf() {
            Ok([]) => {
                self.from_upstream = Sending::Ended;
                self.relay.shutdown(Shutdown::Write)
            }
            Ok(bytes) => {
                let sent = send_now(&self.relay, bytes);
                sent.map(|count| reader.consume(count))
            }
            Err(error) if is_temporary(&error) && self.from_upstream == Sending::GoesOn => {
                return Ok(false);
            }
            Err(_) => return Err(Cut::ByUpstream),
        };
        // That it takes nothing more is told by its socket, too.
        Ok(given.is_ok())
    }

    /// Encrypts what the relay sends, unless the upstream has not taken what was sent before.
    fn take_from_relay(&mut self, buffer: &mut [u8]) -> Result<bool, Cut> {
        if self.handshake.is_some() || self.from_relay == Sending::Ended {
            return Ok(false);
        }
        if self.is_upstream_deaf {
            self.from_relay = Sending::Ended;
            return Ok(true);
        }
        if self.session.wants_write() {
            return Ok(false);
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let Ok((_, seen)) = retry_on_intr(|| recv(&self.relay, &mut *buffer, flags)) else {
            return Err(Cut::ByRelay);
        };
        // The first one was passed on before.
        let fresh = buffer.get(1..seen).unwrap_or_default();
        if fresh.is_empty() {
            if self.from_relay == Sending::GoesOn {
                return Ok(false);
            }
            self.from_relay = Sending::Ended;
            self.session.send_close_notify();
            return Ok(true);
        }
        let taken = self.session.writer().write(fresh);
        let taken = taken.map_err(|_broken| Cut::ByUpstream)?;
        let mut left = taken;
        while left > 0 {
            let room = buffer.get_mut(..left).unwrap_or_default();
            match retry_on_intr(|| recv(&self.relay, &mut *room, RecvFlags::DONTWAIT)) {
                Ok((_, count @ 1..)) => left = left.saturating_sub(count),
                Ok(_) | Err(_) => return Err(Cut::ByRelay),
            }
        }
        Ok(taken > 0)
    }

    /// Sends what was encrypted.
    fn give_records(&mut self) -> bool {
        let mut moved = false;
        while self.session.wants_write() && !self.is_upstream_deaf {
            match self.session.write_tls(&mut self.upstream) {
                Ok(_) => {
                    moved = true;
                    self.leaving = self.leaving.map(|_| Instant::now());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    // It may have answered before it closed: the relay learns when it sends, and can read on.
                    self.is_upstream_deaf = true;
                    moved |= self.relay.shutdown(Shutdown::Read).is_ok();
                }
            }
        }
        moved
    }

    fn cut(&self, cut: Cut) {
        match cut {
            // There is a byte left in its socket.
            Cut::ByUpstream => {}
            Cut::ByRelay => socket::reset_on_close(&self.upstream),
        }
    }
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carrier")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

fn send_now(to: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(retry_on_intr(|| send(to, bytes, flags))?)
}

/// Whether a call may do another time what it did not now.
fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    ) || Errno::from_io_error(error) == Some(Errno::AGAIN)
}
