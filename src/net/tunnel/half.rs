//! One direction of a tunnel, wherever it is carried.
//!
//! A [`Half`] has one owner at a time: the ferry while little moves, a thread of the crew while much
//! does. A thread keeps it until nothing came for a moment, and gives it back with empty hands: pipes
//! and buffers are held only while bytes are in them.

use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::crew::Job;
use crate::net::memory::{LARGE, Memory};
use crate::net::permits::Permit;
use crate::net::pipe::{self, Filled, Pipe};
use crate::net::socket::{self, Ready, Received, TICK, Wait, Want};

use super::{Age, Direction, Meter, OnEnd, TunnelEnd, TunnelTotals, Tunnels};

/// A busy half from which nothing came for so long is not busy any more.
const QUIET: Duration = Duration::from_millis(20);
/// What a half that has to wait on its own thread reads into, in bytes.
const SMALL: usize = 4 * 1024;

/// What both halves of a tunnel share.
pub(super) struct Tunnel {
    pub(super) id: u64,
    pub(super) client: TcpStream,
    pub(super) hop: TcpStream,
    pub(super) begun: Instant,
    pub(super) idle_limit: Duration,
    pub(super) meter: Arc<dyn Meter>,
    /// Milliseconds after `begun` at which bytes last moved.
    pub(super) moved: AtomicU64,
    pub(super) to_hop: Way,
    pub(super) to_client: Way,
    /// Halves not over yet.
    pub(super) halves: AtomicUsize,
    pub(super) closing: Mutex<Closing>,
}

/// What both halves know of one direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Bytes delivered.
    delivered: AtomicU64,
    /// Bytes may have been read that are not delivered yet.
    is_loaded: AtomicBool,
}

pub(super) struct Closing {
    pub(super) end: TunnelEnd,
    pub(super) on_end: Option<OnEnd>,
    pub(super) _threads: Permit,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("client", &self.client)
            .field("hop", &self.hop)
            .finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Sees to it that no write waits longer than the tunnel may be idle.
    pub(super) fn prepare(&self) {
        if self.idle_limit < TICK {
            for stream in [&self.client, &self.hop] {
                socket::limit(stream, self.idle_limit);
            }
        }
    }

    /// The socket from which bytes of this direction come.
    pub(super) fn from(&self, direction: Direction) -> &TcpStream {
        match direction {
            Direction::ToHop => &self.client,
            Direction::ToClient => &self.hop,
        }
    }

    /// The socket to which they go.
    pub(super) fn to(&self, direction: Direction) -> &TcpStream {
        match direction {
            Direction::ToHop => &self.hop,
            Direction::ToClient => &self.client,
        }
    }

    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::ToHop => &self.to_hop,
            Direction::ToClient => &self.to_client,
        }
    }

    fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.fetch_max(now, Ordering::Relaxed);
    }

    /// How much longer nothing may move; zero when the tunnel is to be closed.
    pub(super) fn patience_left(&self) -> Duration {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        let silent = self.begun.elapsed().saturating_sub(moved);
        self.idle_limit.saturating_sub(silent)
    }

    /// Whether the half in `direction`, which is not over, or the other one has something to carry now. What
    /// came while the whole process stood still is in the sockets: see [`socket::is_overdue`].
    pub(super) fn can_go_on(&self, direction: Direction) -> bool {
        let both = |stream| (stream, Want::ReadOrWrite);
        let (from, to) = (both(self.from(direction)), both(self.to(direction)));
        let Ok((from, to)) = socket::wait_for(from, to, Duration::ZERO) else {
            return false;
        };
        let moves = |from: Ready, to: Ready, direction| {
            if self.way(direction).is_loaded.load(Ordering::Relaxed) {
                to.to_write()
            } else {
                from.to_read()
            }
        };
        let is_last = self.halves.load(Ordering::Acquire) == 1;
        moves(from, to, direction) || (!is_last && moves(to, from, direction.other()))
    }

    /// Ends both halves; the first reason is the one told.
    pub(super) fn stop(&self, end: TunnelEnd) {
        {
            let mut closing = self.closing.lock();
            if closing.end == TunnelEnd::Finished {
                closing.end = end;
            }
        }
        for stream in [&self.client, &self.hop] {
            let closed = match end {
                TunnelEnd::Reset => socket::reset(stream),
                TunnelEnd::Finished | TunnelEnd::Idle | TunnelEnd::Cut => {
                    stream.shutdown(Shutdown::Both)
                }
            };
            if let Err(error) = closed {
                log::trace!("this side was gone already: {error}");
            }
        }
    }
}

/// Bytes read and not delivered yet.
#[derive(Debug)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    age: Age,
}

impl Pending {
    /// Read before the tunnel stood.
    pub(super) fn early(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            age: Age::Early,
        }
    }

    /// Read by the tunnel.
    fn fresh(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            age: Age::Fresh,
        }
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// What a half does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Waits for more.
    Wait,
    /// Needs a thread.
    Busy(Pending),
    /// Has ended.
    Over(Result<(), TunnelEnd>),
}

/// Why a thread is done with a half for now.
enum Copied {
    /// The sender ended.
    End,
    /// Nothing comes.
    Quiet,
}

/// One direction of a tunnel. One that is dropped takes its tunnel with it.
#[derive(Debug)]
pub(super) struct Half {
    owner: Arc<Tunnels>,
    tunnel: Arc<Tunnel>,
    direction: Direction,
    is_over: bool,
}

impl Half {
    pub(super) fn new(owner: &Arc<Tunnels>, tunnel: &Arc<Tunnel>, direction: Direction) -> Self {
        Self {
            owner: Arc::clone(owner),
            tunnel: Arc::clone(tunnel),
            direction,
            is_over: false,
        }
    }

    pub(super) fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }

    pub(super) fn direction(&self) -> Direction {
        self.direction
    }

    pub(super) fn from(&self) -> &TcpStream {
        self.tunnel.from(self.direction)
    }

    /// Whether the other half is over already, so that both sockets are closed with this one.
    pub(super) fn is_last(&self) -> bool {
        self.tunnel.halves.load(Ordering::Acquire) == 1
    }

    fn to(&self) -> &TcpStream {
        self.tunnel.to(self.direction)
    }

    /// Sends what there is already, and finds somebody to carry the rest.
    ///
    /// # Errors
    /// When there is nobody.
    pub(super) fn launch(self, early: Pending) -> Result<(), (Self, io::Error)> {
        match self.pass_on(early.bytes, early.age) {
            Step::Wait => self.park(),
            Step::Busy(pending) => {
                let owner = Arc::clone(&self.owner);
                self.haul(pending)
                    .or_else(|(haul, error)| owner.ferries.keep(haul).map_err(|haul| (haul, error)))
                    .map_err(|(haul, error)| (haul.half, error))
            }
            Step::Over(result) => {
                self.end(result);
                Ok(())
            }
        }
    }

    /// Gives the half to the ferry, or to a thread where there is none.
    fn park(self) -> Result<(), (Self, io::Error)> {
        let owner = Arc::clone(&self.owner);
        match owner.ferries.take(self) {
            Ok(()) => Ok(()),
            Err(half) => half
                .haul(Pending::fresh(Vec::new()))
                .map_err(|(haul, error)| (haul.half, error)),
        }
    }

    /// Gives the half to a thread.
    ///
    /// # Errors
    /// When there is none: it comes back as it was to be given.
    pub(super) fn haul(self, pending: Pending) -> Result<(), (Haul, io::Error)> {
        let owner = Arc::clone(&self.owner);
        owner.crew.give(self.with(pending))
    }

    /// The half together with what it has to deliver first.
    pub(super) fn with(self, pending: Pending) -> Haul {
        let is_loaded = !pending.is_empty();
        self.is_loaded().store(is_loaded, Ordering::Relaxed);
        Haul {
            half: self,
            pending,
        }
    }

    /// Carries what can be carried without waiting. `buffer` is empty before and after.
    pub(super) fn ferry(&self, buffer: &mut Vec<u8>) -> Step {
        let step = match socket::receive(self.from(), buffer, Wait::No) {
            Ok(Received::Nothing) => Step::Wait,
            Ok(Received::End) => Step::Over(Ok(())),
            Err(_) => Step::Over(Err(TunnelEnd::Reset)),
            Ok(Received::Bytes(_)) => match self.send_now(buffer, Age::Fresh) {
                Err(end) => Step::Over(Err(end)),
                // A full buffer says that there is more where it came from.
                Ok(sent) if sent < buffer.len() || buffer.len() == buffer.capacity() => {
                    let rest = buffer.get(sent..).unwrap_or_default();
                    Step::Busy(Pending::fresh(rest.to_vec()))
                }
                Ok(_) => Step::Wait,
            },
        };
        buffer.clear();
        step
    }

    /// Sends what can be sent without waiting.
    fn pass_on(&self, mut bytes: Vec<u8>, age: Age) -> Step {
        match self.send_now(&bytes, age) {
            Err(end) => Step::Over(Err(end)),
            Ok(sent) if sent < bytes.len() => {
                bytes.drain(..sent);
                Step::Busy(Pending { bytes, age })
            }
            Ok(_) => Step::Wait,
        }
    }

    fn send_now(&self, bytes: &[u8], age: Age) -> Result<usize, TunnelEnd> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let sent = socket::send(self.to(), &[IoSlice::new(bytes)], Wait::No);
        let sent = sent.map_err(|_broken| TunnelEnd::Reset)?;
        self.count(age, sent);
        Ok(sent)
    }

    /// Ends this half; the last one tells.
    pub(super) fn end(mut self, result: Result<(), TunnelEnd>) {
        self.is_over = true;
        if let Err(end) = result {
            self.tunnel.stop(end);
        }
        if self.tunnel.halves.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Both sockets are closed with the tunnel: that passes the end on.
            self.finish();
        } else if result.is_ok() {
            if let Err(error) = self.to().shutdown(Shutdown::Write) {
                log::trace!("this side was gone before the end: {error}");
            }
            self.owner.ferries.look_after(&self.tunnel);
        }
    }

    fn finish(&self) {
        let (end, on_end) = {
            let mut closing = self.tunnel.closing.lock();
            (closing.end, closing.on_end.take())
        };
        let totals = TunnelTotals {
            to_hop: self.tunnel.to_hop.delivered.load(Ordering::Relaxed),
            to_client: self.tunnel.to_client.delivered.load(Ordering::Relaxed),
            end,
        };
        // Whatever becomes of who is told, the tunnel is over. No guard on the stack: this may be the drop
        // that a panic began, and a second one would end the process.
        let told = catch_unwind(AssertUnwindSafe(|| {
            if let Some(on_end) = on_end {
                on_end(totals);
            }
        }));
        if told.is_err() {
            log::error!("the end of a tunnel could not be told");
        }
        self.owner.forget(self.tunnel.id);
    }

    /// Lets go of a tunnel that never began: nobody is told.
    pub(super) fn disown(mut self) {
        self.is_over = true;
        self.owner.forget(self.tunnel.id);
    }

    /// Moves bytes until the sender's end, or until none came for a moment.
    fn copy(&self, pending: Pending) -> Result<Copied, TunnelEnd> {
        self.is_loaded().store(true, Ordering::Relaxed);
        let copied = self.copy_loaded(pending);
        self.is_loaded().store(false, Ordering::Relaxed);
        copied
    }

    fn is_loaded(&self) -> &AtomicBool {
        &self.tunnel.way(self.direction).is_loaded
    }

    fn copy_loaded(&self, pending: Pending) -> Result<Copied, TunnelEnd> {
        self.deliver(&pending.bytes, pending.age)?;
        drop(pending);
        socket::limit_read(self.from(), QUIET);
        if let Some(mut pipe) = self.owner.pipes.lend()
            && let Some(copied) = self.copy_through(&mut pipe)?
        {
            return Ok(copied);
        }
        self.copy_with(&mut Memory::with_room(LARGE))
    }

    /// `None`: a read has to tell what there is.
    fn copy_through(&self, pipe: &mut Pipe) -> Result<Option<Copied>, TunnelEnd> {
        loop {
            match pipe::fill(pipe, self.from(), u64::MAX) {
                Ok(Filled::Nothing) => return Ok(Some(Copied::Quiet)),
                Ok(Filled::ReadInstead) => return Ok(None),
                Ok(Filled::Bytes(_)) => {}
                Err(_) => return Err(TunnelEnd::Reset),
            }
            while pipe.held() > 0 {
                match pipe::drain(pipe, self.to()) {
                    Ok(0) if pipe::takes_soon(self.to()) => {}
                    Ok(0) => self.check_patience()?,
                    Ok(sent) => self.count(Age::Fresh, sent),
                    Err(_) => return Err(TunnelEnd::Reset),
                }
            }
        }
    }

    fn copy_with(&self, buffer: &mut Memory) -> Result<Copied, TunnelEnd> {
        loop {
            buffer.clear();
            match socket::receive_into(self.from(), buffer.room(), Wait::Tick) {
                Ok(Received::Bytes(count)) => {
                    buffer.extend(count);
                    self.deliver(buffer.bytes(), Age::Fresh)?;
                }
                Ok(Received::Nothing) => return Ok(Copied::Quiet),
                Ok(Received::End) => return Ok(Copied::End),
                Err(_) => return Err(TunnelEnd::Reset),
            }
        }
    }

    fn deliver(&self, bytes: &[u8], age: Age) -> Result<(), TunnelEnd> {
        let mut left = bytes;
        while !left.is_empty() {
            match socket::send(self.to(), &[IoSlice::new(left)], Wait::Tick) {
                Ok(0) => self.check_patience()?,
                Ok(sent) => {
                    left = left.get(sent..).unwrap_or_default();
                    self.count(age, sent);
                }
                Err(_) => return Err(TunnelEnd::Reset),
            }
        }
        Ok(())
    }

    /// Waits on this thread for the next bytes. `None`: the sender's end.
    fn await_bytes(&self) -> Result<Option<Vec<u8>>, TunnelEnd> {
        let mut bytes = Vec::with_capacity(SMALL);
        loop {
            socket::limit_read(self.from(), self.tunnel.patience_left());
            match socket::receive(self.from(), &mut bytes, Wait::Tick) {
                Ok(Received::Bytes(_)) => return Ok(Some(bytes)),
                Ok(Received::End) => return Ok(None),
                Ok(Received::Nothing) => self.check_patience()?,
                Err(_) => return Err(TunnelEnd::Reset),
            }
        }
    }

    fn count(&self, age: Age, bytes: usize) {
        let bytes = bytes as u64;
        let way = self.tunnel.way(self.direction);
        way.delivered.fetch_add(bytes, Ordering::Relaxed);
        self.tunnel.meter.moved(self.direction, age, bytes);
        self.tunnel.touch();
    }

    fn check_patience(&self) -> Result<(), TunnelEnd> {
        if self.tunnel.patience_left().is_zero() && !self.tunnel.can_go_on(self.direction) {
            return Err(TunnelEnd::Idle);
        }
        // While the receiver takes nothing, nobody reads from the sender.
        if socket::is_broken(self.from()) {
            return Err(TunnelEnd::Reset);
        }
        Ok(())
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // A panic must not leave the other half, or the count of tunnels, waiting for this one.
        if !self.is_over {
            self.tunnel.stop(TunnelEnd::Reset);
            if self.tunnel.halves.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.finish();
            }
        }
    }
}

/// A half on its way to, and with, a thread of its own.
#[derive(Debug)]
pub(super) struct Haul {
    half: Half,
    pending: Pending,
}

impl Haul {
    /// Whether everything is delivered that was read.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The half, once nothing is pending.
    pub(super) fn into_half(self) -> Half {
        self.half
    }

    /// The tunnel it is part of.
    pub(super) fn tunnel(&self) -> &Tunnel {
        &self.half.tunnel
    }

    /// Ends it.
    pub(super) fn end(self, end: TunnelEnd) {
        self.half.end(Err(end));
    }

    /// Delivers what can be delivered without waiting.
    pub(super) fn try_again(&mut self) -> Result<(), TunnelEnd> {
        let Pending { bytes, age } = &mut self.pending;
        match self.half.send_now(bytes, *age)? {
            0 if !bytes.is_empty() => self.half.check_patience(),
            sent => {
                bytes.drain(..sent);
                let is_loaded = !bytes.is_empty();
                self.half.is_loaded().store(is_loaded, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl Job for Haul {
    fn run(self) {
        let Self { half, mut pending } = self;
        let mut half = half;
        loop {
            match half.copy(pending) {
                Ok(Copied::Quiet) => {}
                Ok(Copied::End) => return half.end(Ok(())),
                Err(end) => return half.end(Err(end)),
            }
            let owner = Arc::clone(&half.owner);
            half = match owner.ferries.take(half) {
                Ok(()) => return,
                Err(half) => half,
            };
            pending = match half.await_bytes() {
                Ok(Some(bytes)) => Pending::fresh(bytes),
                Ok(None) => return half.end(Ok(())),
                Err(end) => return half.end(Err(end)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;
    use crate::net::permits::Permits;

    struct Nobody;

    impl Meter for Nobody {
        fn moved(&self, _direction: Direction, _age: Age, _bytes: u64) {}
    }

    #[expect(clippy::disallowed_methods, reason = "loopback answers at once")]
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, far)
    }

    /// A tunnel that nobody carries and that was idle for too long, and its two ends.
    fn idle_tunnel() -> (Tunnel, TcpStream, TcpStream) {
        let ((client, far_client), (hop, far_hop)) = (pair(), pair());
        let tunnel = Tunnel {
            id: 0,
            client,
            hop,
            begun: Instant::now(),
            idle_limit: Duration::ZERO,
            meter: Arc::new(Nobody),
            moved: AtomicU64::new(0),
            to_hop: Way::default(),
            to_client: Way::default(),
            halves: AtomicUsize::new(2),
            closing: Mutex::new(Closing {
                end: TunnelEnd::Finished,
                on_end: None,
                _threads: Permits::new(2).take(2).unwrap(),
            }),
        };
        assert!(tunnel.patience_left().is_zero());
        (tunnel, far_client, far_hop)
    }

    const BOTH: [Direction; 2] = [Direction::ToHop, Direction::ToClient];

    #[test]
    fn a_tunnel_goes_on_while_either_side_has_sent_something() {
        let (tunnel, mut far_client, _far_hop) = idle_tunnel();
        assert_eq!(BOTH.map(|one| tunnel.can_go_on(one)), [false, false]);
        far_client.write_all(b"x").unwrap();
        tunnel.client.peek(&mut [0]).unwrap();
        assert_eq!(BOTH.map(|one| tunnel.can_go_on(one)), [true, true]);
        // That half is over: what its side sends, and be it the end, is nobody's business any more.
        tunnel.halves.store(1, Ordering::Relaxed);
        assert_eq!(BOTH.map(|one| tunnel.can_go_on(one)), [true, false]);
    }

    #[test]
    fn a_tunnel_with_bytes_in_hand_goes_on_only_if_somebody_takes_them() {
        let (tunnel, mut far_client, _far_hop) = idle_tunnel();
        tunnel.to_hop.is_loaded.store(true, Ordering::Relaxed);
        assert!(tunnel.can_go_on(Direction::ToHop));
        let much = vec![0; 1 << 20];
        while socket::send(&tunnel.hop, &[IoSlice::new(&much)], Wait::No).unwrap() > 0 {}
        far_client.write_all(b"x").unwrap();
        tunnel.client.peek(&mut [0]).unwrap();
        assert_eq!(BOTH.map(|one| tunnel.can_go_on(one)), [false, false]);
    }
}
