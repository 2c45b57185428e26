//! A socket with the bytes that were read too far.
//!
//! A head ends where its blank line is, but a read ends where the network pleases. What lies behind
//! the head (a body, a pipelined request, a tunnel's first bytes) stays here and goes to the next owner
//! of the connection, so that no early byte is ever lost or given to the wrong message.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Weak;
use std::time::{Duration, Instant};

use super::buffer::{Buffer, LARGE, SMALL};
use super::socket::{self, Received, TICK, Wait};

/// A connection and its unread bytes.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    buffer: Buffer,
    /// Bytes of `buffer` before this one are consumed. At most as many as there are.
    start: usize,
    read_limit: Duration,
    last: LastRead,
    received: u64,
    sent: u64,
    /// Where it is watched, if it is. Given back once the socket above is closed.
    watched: Option<WatchedSlot>,
    /// The address that was dialled.
    dialled: Option<IpAddr>,
}

/// A numbered slot in a table of watched connections; given back when dropped.
#[derive(Debug)]
pub struct WatchedSlot {
    home: usize,
    number: usize,
    table: Weak<dyn GiveBack>,
}

/// A table of watched connections.
pub trait GiveBack: Debug + Send + Sync {
    /// The connection in this slot is closed, or is watched no longer.
    fn give_back(&self, number: usize);
}

impl WatchedSlot {
    /// That of this `number` in `table`, which is the one numbered `home`.
    pub fn new((home, number): (usize, usize), table: Weak<dyn GiveBack>) -> Self {
        Self {
            home,
            number,
            table,
        }
    }
}

impl Drop for WatchedSlot {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.give_back(self.number);
        }
    }
}

/// What the last read that brought something was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastRead {
    /// It took all there was.
    TookAll,
    /// It filled the buffer: more is coming at once.
    FilledBuffer,
    /// It filled the buffer, but a look since then found nothing more.
    FilledBufferAndAll,
    /// There will be nothing more.
    End,
}

/// Why bytes could not be delivered.
#[derive(Debug)]
pub enum SendError {
    /// The peer has closed or reset the connection.
    Io(io::Error),
    /// The peer took nothing for the given time.
    Stalled,
    /// The process ends.
    Cut,
}

impl Conn {
    /// Takes over a connected, blocking socket. `read_limit` is how long one read waits.
    ///
    /// # Errors
    /// When the socket is already dead.
    pub fn new(stream: TcpStream, read_limit: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(read_limit))?;
        stream.set_write_timeout(Some(TICK))?;
        Ok(Self::prepared(stream, read_limit))
    }

    /// As [`Conn::new`] for a socket whose time limits are already so.
    pub fn prepared(stream: TcpStream, read_limit: Duration) -> Self {
        Self {
            stream,
            buffer: Buffer::default(),
            start: 0,
            read_limit,
            last: LastRead::TookAll,
            received: 0,
            sent: 0,
            watched: None,
            dialled: None,
        }
    }

    /// The address that was dialled; `None`: the other side has dialled this one.
    pub fn dialled(&self) -> Option<IpAddr> {
        self.dialled
    }

    /// Notes it.
    pub(super) fn set_dialled(&mut self, address: IpAddr) {
        self.dialled = Some(address);
    }

    /// Where it is watched, if it is: the number of the table and that of the slot in it.
    pub fn watched_as(&self) -> Option<(usize, usize)> {
        self.watched.as_ref().map(|slot| (slot.home, slot.number))
    }

    /// Notes where it is watched from now on, or that it is not.
    pub fn set_watched(&mut self, slot: Option<WatchedSlot>) {
        self.watched = slot;
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Gives the socket away; unread bytes are returned beside it.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        let unread = self.unread().to_vec();
        (self.stream, unread)
    }

    /// Whether the last read may have left something in the socket.
    pub fn may_have_more(&self) -> bool {
        match self.last {
            LastRead::TookAll | LastRead::FilledBufferAndAll => false,
            LastRead::FilledBuffer | LastRead::End => true,
        }
    }

    /// Bytes received over this connection so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes sent over this connection so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The bytes received and not yet consumed.
    pub fn unread(&self) -> &[u8] {
        self.buffer.bytes().get(self.start..).unwrap_or_default()
    }

    /// The same, to be compacted in place.
    pub fn unread_mut(&mut self) -> &mut [u8] {
        let bytes = self.buffer.bytes_mut();
        bytes.get_mut(self.start..).unwrap_or_default()
    }

    /// Marks the first `count` unread bytes as consumed.
    pub fn consume(&mut self, count: usize) {
        let there = self.buffer.bytes().len();
        self.start = self.start.saturating_add(count).min(there);
        if self.start == there {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Moves the first `count` unread bytes into `into`, replacing what was there.
    pub fn take_into(&mut self, count: usize, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(self.unread().get(..count).unwrap_or_default());
        self.consume(count);
    }

    /// Gives back the memory that unread bytes do not need: thousands of connections may be held for
    /// long, and an idle one is a socket and this struct.
    pub fn shrink(&mut self) {
        if self.buffer.size() > self.unread().len() {
            self.buffer = Buffer::holding(self.unread());
            self.start = 0;
        }
    }

    /// Forgets the unread bytes: they are not needed any more.
    pub fn forget_unread(&mut self) {
        self.consume(usize::MAX);
        self.shrink();
    }

    /// Reads into `spare` from now on, if it is room for what is unread and for more.
    pub fn borrow_memory(&mut self, spare: &mut Buffer) {
        let unread = self.unread();
        if self.buffer.size() < spare.size() && unread.len() <= spare.size() / 2 {
            let mut memory = std::mem::take(spare);
            memory.clear();
            memory.append(unread);
            self.buffer = memory;
            self.start = 0;
        }
    }

    /// Gives the memory back; what is unread keeps no more than it needs.
    pub fn release(&mut self, spare: &mut Buffer) {
        if self.buffer.size() == SMALL {
            let unread = Buffer::holding(self.unread());
            *spare = std::mem::replace(&mut self.buffer, unread);
            self.start = 0;
        }
        self.shrink();
    }

    /// Changes how long one read waits, if it is not so already. Never less than a millisecond. A dead
    /// socket shows at the read.
    pub fn limit_read(&mut self, limit: Duration) {
        let limit = limit.max(Duration::from_millis(1));
        if limit != self.read_limit && self.stream.set_read_timeout(Some(limit)).is_ok() {
            self.read_limit = limit;
        }
    }

    /// Reads once; what arrives is added to the unread bytes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn receive(&mut self, wait: Wait) -> io::Result<Received> {
        self.make_room(SMALL);
        let received = socket::receive(&self.stream, self.buffer.room(), wait)?;
        match received {
            Received::Bytes(count) => {
                self.buffer.extend(count);
                self.received += count as u64;
                self.last = if self.buffer.room().is_empty() {
                    LastRead::FilledBuffer
                } else {
                    LastRead::TookAll
                };
            }
            Received::Nothing if self.last == LastRead::FilledBuffer => {
                self.last = LastRead::FilledBufferAndAll;
            }
            Received::Nothing => {}
            Received::End => self.last = LastRead::End,
        }
        Ok(received)
    }

    /// As [`Conn::receive`] in the middle of a body: the buffer grows once bytes come in bulk.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn receive_bulk(&mut self, wait: Wait) -> io::Result<Received> {
        if self.is_in_bulk() {
            self.make_room(LARGE);
        }
        self.receive(wait)
    }

    fn make_room(&mut self, wanted: usize) {
        let unread = self.unread().len();
        let room = self.buffer.size() - unread;
        if room < wanted.min(SMALL) / 4 || self.buffer.size() < wanted {
            let mut larger = Buffer::with_room(unread + wanted);
            larger.append(self.unread());
            self.buffer = larger;
        } else if self.start > 0 {
            self.buffer.forget(self.start);
        }
        self.start = 0;
    }

    /// Whether the last read filled the buffer, and nothing of it is left: more is coming at once.
    pub fn is_in_bulk(&self) -> bool {
        let filled_buffer = match self.last {
            LastRead::FilledBuffer | LastRead::FilledBufferAndAll => true,
            LastRead::TookAll | LastRead::End => false,
        };
        filled_buffer && self.unread().is_empty()
    }

    /// Counts bytes that were received past the buffer.
    pub fn count_received(&mut self, bytes: u64) {
        self.received += bytes;
    }

    /// Counts bytes that were sent without [`Conn::send`].
    pub fn count_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// Sends as much of `parts` as the peer takes; see [`socket::send`].
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(&mut self, parts: &[IoSlice<'_>], wait: Wait) -> io::Result<usize> {
        let count = socket::send(&self.stream, parts, wait)?;
        self.sent += count as u64;
        Ok(count)
    }

    /// Sends all of `parts`. The peer may be slow, but must take something every `patience`.
    /// `look_around` is asked before each wait and may end it.
    ///
    /// # Errors
    /// See [`SendError`]; a part may have been sent.
    pub fn send_all(
        &mut self,
        parts: &mut [IoSlice<'_>],
        patience: Duration,
        look_around: &mut dyn FnMut() -> LookAround,
    ) -> Result<(), SendError> {
        let mut left = parts;
        IoSlice::advance_slices(&mut left, 0);
        let mut stalled_since: Option<Instant> = None;
        let mut wait = Wait::No;
        while !left.is_empty() {
            let count = self.send(left, wait).map_err(SendError::Io)?;
            if count > 0 {
                IoSlice::advance_slices(&mut left, count);
                stalled_since = None;
                continue;
            }
            if look_around() == LookAround::GiveUp {
                return Err(SendError::Cut);
            }
            wait = Wait::Tick;
            let since = *stalled_since.get_or_insert_with(Instant::now);
            if socket::is_overdue(since, patience, || socket::is_writable(&self.stream)) {
                return Err(SendError::Stalled);
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more will come.
    pub fn finish_sending(&self) {
        if let Err(error) = self.stream.shutdown(Shutdown::Write) {
            log::trace!("the peer was gone before the end: {error}");
        }
    }

    /// Makes the close a reset, so that the peer cannot take a part for the whole.
    pub fn reset(self) {
        socket::reset_on_close(&self.stream);
    }
}

/// What the caller of a blocking call thinks of another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookAround {
    /// Go on.
    GoOn,
    /// There is no point any more.
    GiveUp,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let far = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        (Conn::new(listener.accept().unwrap().0, TICK).unwrap(), far)
    }

    fn receive_all(conn: &mut Conn, wanted: usize) {
        while conn.unread().len() < wanted {
            assert_ne!(conn.receive(Wait::Tick).unwrap(), Received::End);
        }
    }

    #[test]
    fn bytes_behind_what_was_taken_stay_unread() {
        let (mut conn, mut far) = pair();
        far.write_all(b"head|body").unwrap();
        receive_all(&mut conn, 9);
        let mut head = Vec::new();
        conn.take_into(5, &mut head);
        assert_eq!(head, b"head|");
        assert_eq!(conn.unread(), b"body");
        assert_eq!(conn.into_parts().1, b"body");
    }

    #[test]
    fn an_emptied_buffer_can_be_given_back_and_used_again() {
        let (mut conn, mut far) = pair();
        far.write_all(b"one").unwrap();
        receive_all(&mut conn, 3);
        conn.consume(3);
        conn.shrink();
        assert_eq!(conn.buffer.size(), 0);
        far.write_all(b"two").unwrap();
        receive_all(&mut conn, 3);
        assert_eq!(conn.unread(), b"two");
        assert_eq!(conn.received(), 6);
    }

    #[test]
    fn a_held_connection_keeps_its_unread_bytes_and_no_more_memory() {
        let (mut conn, mut far) = pair();
        far.write_all(b"gone|GET htt").unwrap();
        receive_all(&mut conn, 12);
        conn.consume(5);
        conn.shrink();
        assert_eq!(conn.unread(), b"GET htt");
        assert_eq!(conn.buffer.size(), 7);
        far.write_all(b"p://").unwrap();
        receive_all(&mut conn, 11);
        assert_eq!(conn.unread(), b"GET http://");
        conn.forget_unread();
        assert_eq!((conn.unread(), conn.buffer.size()), (&b""[..], 0));
    }

    #[test]
    fn lent_memory_takes_what_is_unread_along_and_is_given_back_without_it() {
        let (mut conn, mut far) = pair();
        far.write_all(b"GET htt").unwrap();
        receive_all(&mut conn, 7);
        conn.shrink();
        let mut spare = Buffer::with_room(SMALL);
        conn.borrow_memory(&mut spare);
        assert_eq!((spare.size(), conn.buffer.size()), (0, SMALL));
        far.write_all(b"p://").unwrap();
        receive_all(&mut conn, 11);
        conn.consume(4);
        conn.release(&mut spare);
        assert_eq!((spare.size(), conn.buffer.size()), (SMALL, 7));
        assert_eq!(conn.unread(), b"http://");
    }

    #[test]
    fn memory_that_is_too_short_for_what_is_unread_is_not_borrowed() {
        let (mut conn, mut far) = pair();
        far.write_all(&vec![b'x'; SMALL]).unwrap();
        receive_all(&mut conn, SMALL);
        conn.shrink();
        let mut spare = Buffer::with_room(SMALL);
        conn.borrow_memory(&mut spare);
        assert_eq!((spare.size(), conn.unread().len()), (SMALL, SMALL));
        far.write_all(b"y").unwrap();
        receive_all(&mut conn, SMALL + 1);
        assert_eq!(conn.unread().last(), Some(&b'y'));
    }

    #[test]
    fn a_read_in_bulk_has_more_room_than_the_one_before() {
        let (mut conn, mut far) = pair();
        far.write_all(&vec![b'x'; SMALL]).unwrap();
        receive_all(&mut conn, SMALL);
        conn.consume(SMALL);
        far.write_all(b"y").unwrap();
        assert_eq!(conn.receive_bulk(Wait::Tick).unwrap(), Received::Bytes(1));
        assert_eq!(conn.buffer.size(), LARGE);
    }

    #[test]
    fn everything_can_be_consumed_behind_what_was_taken() {
        let (mut conn, mut far) = pair();
        far.write_all(b"head|body").unwrap();
        receive_all(&mut conn, 9);
        conn.consume(5);
        conn.consume(usize::MAX);
        assert_eq!(conn.unread(), b"");
    }

    #[test]
    fn several_parts_arrive_in_order_and_empty_ones_do_no_harm() {
        let (mut conn, mut far) = pair();
        let mut parts = [
            IoSlice::new(b""),
            IoSlice::new(b"ab"),
            IoSlice::new(b""),
            IoSlice::new(b"c"),
        ];
        conn.send_all(&mut parts, TICK, &mut || LookAround::GoOn)
            .unwrap();
        drop(conn);
        let mut got = String::new();
        far.read_to_string(&mut got).unwrap();
        assert_eq!(got, "abc");
    }

    #[test]
    fn a_peer_that_takes_nothing_ends_the_wait() {
        let (mut conn, _far) = pair();
        let much = vec![0; 64 << 20];
        let error = conn
            .send_all(&mut [IoSlice::new(&much)], TICK, &mut || LookAround::GiveUp)
            .unwrap_err();
        assert!(matches!(error, SendError::Cut), "{error:?}");
    }
}
