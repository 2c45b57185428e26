//! Bytes from one socket to another without a copy: `splice(2)` through a pipe, on Linux.
//!
//! What a socket received is moved into the pipe by reference and from there into the other socket, so
//! bulk costs a fraction of reading and writing. A pipe costs two descriptors and counts against a limit
//! of pages per user; so there are few, lent to a connection only while much moves on it. One that gets
//! none copies through a buffer: nothing here ever fails for want of a pipe. Elsewhere than on Linux
//! there is none.
//!
//! A pipe that is not empty belongs to its transfer alone and is closed, never lent again.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::PollFlags;

use super::buffer::{self, Buffer, LARGE};
use super::socket;

use system::PipeEnds;

pub use system::{drain, drain_within_limit, fill, into_buffer};

/// How long a pipe is held while nothing comes or nothing is taken.
pub const QUIET: Duration = Duration::from_millis(20);

/// The most pipes at once. With what they hold, half of what Linux lets a user have by default.
const MOST_PIPES: usize = 32;
/// One pipe for so many descriptors that this process may have.
const FILES_PER_PIPE: usize = 64;
/// The most idle pipes.
const SPARE_PIPES: usize = 8;
/// What a pipe should hold, in bytes: as much as Linux lets a user have by default. The fewer times a
/// sender and a receiver are woken for the same bytes, the better.
const PIPE_BYTES: usize = 1024 * 1024;
/// What a pipe must hold: less is worse than a copy. Past its user's limit a new one holds a page or two.
const LEAST: usize = 64 * 1024;

/// How long the system is not asked for another pipe after it refused one.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The pipes of this process.
#[derive(Debug)]
pub struct Pipes {
    most: usize,
    open: AtomicUsize,
    spare: Mutex<SparePipes>,
    /// When there was none to be had.
    refused: Mutex<Option<Instant>>,
}

/// Idle pipes, the last used one last.
#[derive(Debug, Default)]
struct SparePipes {
    ends: Vec<PipeEnds>,
    /// So many of them, the first ones, were not used since the last sweep.
    unused: usize,
}

impl Pipes {
    /// As many as suit a process that may have `files` descriptors.
    pub fn for_files(files: usize) -> Arc<Self> {
        Self::at_most((files / FILES_PER_PIPE).min(MOST_PIPES))
    }

    /// At most `most` at once.
    pub fn at_most(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: AtomicUsize::new(0),
            spare: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// An empty pipe, as long as there is one.
    pub fn lend(self: &Arc<Self>) -> Option<Pipe> {
        let ends = match self.take_spare() {
            Some(ends) => ends,
            None => self.open()?,
        };
        Some(Pipe {
            ends: Some(ends),
            held: 0,
            owner: Arc::clone(self),
        })
    }

    fn take_spare(&self) -> Option<PipeEnds> {
        let mut spare = self.spare.lock();
        let ends = spare.ends.pop();
        spare.unused = spare.unused.min(spare.ends.len());
        ends
    }

    /// Closes the idle pipes that were not used since the last call.
    pub fn sweep(&self) {
        let mut spare = self.spare.lock();
        let unused = spare.unused;
        let closed: Vec<PipeEnds> = spare.ends.drain(..unused).collect();
        spare.unused = spare.ends.len();
        drop(spare);
        for ends in closed {
            self.close(ends);
        }
    }

    fn open(&self) -> Option<PipeEnds> {
        if self
            .refused
            .lock()
            .is_some_and(|at| at.elapsed() < ASK_AGAIN)
        {
            return None;
        }
        let below = |open: usize| (open < self.most).then_some(open + 1);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
            .ok()?;
        let opened = system::open();
        if opened.is_none() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            *self.refused.lock() = Some(Instant::now());
        }
        opened
    }

    /// Pipes open now, lent or spare.
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Pipes lent now.
    pub fn lent(&self) -> usize {
        let spare = self.spare.lock().ends.len();
        self.count().saturating_sub(spare)
    }

    fn take_back(&self, ends: PipeEnds) {
        let mut spare = self.spare.lock();
        if spare.ends.len() < SPARE_PIPES {
            spare.ends.push(ends);
        } else {
            drop(spare);
            self.close(ends);
        }
    }

    fn close(&self, ends: PipeEnds) {
        drop(ends);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pipe on loan; goes back when dropped, if it is empty.
#[derive(Debug)]
pub struct Pipe {
    ends: Option<PipeEnds>,
    /// Bytes in it.
    held: usize,
    owner: Arc<Pipes>,
}

impl Pipe {
    /// Bytes in it.
    pub fn held(&self) -> usize {
        self.held
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take() {
            if self.held == 0 {
                self.owner.take_back(ends);
            } else {
                self.owner.close(ends);
            }
        }
    }
}

/// What became of an attempt to fill a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes are in it.
    Bytes(usize),
    /// Nothing came within the socket's time limit.
    Nothing,
    /// Nothing can come this way: the peer's end, or bytes that only a read can take (urgent data).
    /// A read tells which.
    ReadInstead,
}

/// Waits until `to` can take more of what is in a pipe, for a moment at most. Says whether it can.
pub fn takes_soon(to: &TcpStream) -> bool {
    socket::poll_one(to, PollFlags::OUT, QUIET).is_ok_and(|seen| !seen.is_empty())
}

#[cfg(target_os = "linux")]
mod system {
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;

    use rustix::io::{Errno, retry_on_intr};
    use rustix::pipe::{
        PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
    };

    use super::{Buffer, Filled, LARGE, LEAST, PIPE_BYTES, Pipe, buffer, io};

    #[derive(Debug)]
    pub(super) struct PipeEnds {
        read: OwnedFd,
        write: OwnedFd,
        capacity: usize,
    }

    /// Opens a pipe, if it can be a large one.
    pub(super) fn open() -> Option<PipeEnds> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        let capacity = fcntl_setpipe_size(&write, PIPE_BYTES)
            .or_else(|_limited| fcntl_getpipe_size(&write))
            .ok()?;
        let ends = PipeEnds {
            read,
            write,
            capacity,
        };
        (capacity >= LEAST).then_some(ends)
    }

    /// Moves at most `most` bytes that `from` received into the empty `pipe`, waiting for them up to
    /// the socket's time limit.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn fill(pipe: &mut Pipe, from: &TcpStream, most: u64) -> io::Result<Filled> {
        let Some(ends) = pipe.ends.as_ref().filter(|_| pipe.held == 0) else {
            return Ok(Filled::ReadInstead);
        };
        let room = if buffer::may_be_long() {
            ends.capacity
        } else {
            LARGE
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(room);
        let moved =
            retry_on_intr(|| splice(from, None, &ends.write, None, most, SpliceFlags::MOVE));
        match moved {
            Ok(0) | Err(Errno::INVAL) => Ok(Filled::ReadInstead),
            Ok(count) => {
                pipe.held = count;
                Ok(Filled::Bytes(count))
            }
            Err(Errno::AGAIN) => Ok(Filled::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves what `to` takes at once out of `pipe`; `Ok(0)` means that it takes nothing.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn drain(pipe: &mut Pipe, to: &TcpStream) -> io::Result<usize> {
        // There is no flag for it: SPLICE_F_NONBLOCK is about the pipe.
        to.set_nonblocking(true)?;
        let sent = drain_within_limit(pipe, to);
        to.set_nonblocking(false)?;
        sent
    }

    /// Moves what `to` takes within the socket's time limit out of `pipe`; `Ok(0)` means that it takes nothing.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn drain_within_limit(pipe: &mut Pipe, to: &TcpStream) -> io::Result<usize> {
        let Some(ends) = pipe.ends.as_ref().filter(|_| pipe.held > 0) else {
            return Ok(0);
        };
        let moved =
            retry_on_intr(|| splice(&ends.read, None, to, None, pipe.held, SpliceFlags::MOVE));
        match moved {
            Ok(count) => {
                pipe.held -= count.min(pipe.held);
                Ok(count)
            }
            Err(Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what is in `pipe`, which others may have then.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub fn into_buffer(mut pipe: Pipe) -> io::Result<Buffer> {
        let mut buffer = Buffer::with_room(pipe.held);
        while let Some(ends) = pipe.ends.as_ref().filter(|_| pipe.held > 0) {
            let count = retry_on_intr(|| rustix::io::read(&ends.read, buffer.room()))?;
            buffer.extend(count);
            pipe.held -= count.clamp(1, pipe.held);
        }
        Ok(buffer)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::net::TcpStream;

    use super::{Buffer, Filled, Pipe, io};

    /// There are none.
    pub(super) type PipeEnds = std::convert::Infallible;

    /// Opens none.
    pub(super) fn open() -> Option<PipeEnds> {
        None
    }

    /// Nothing can be moved: read instead.
    ///
    /// # Errors
    /// None.
    pub fn fill(_pipe: &mut Pipe, _from: &TcpStream, _most: u64) -> io::Result<Filled> {
        Ok(Filled::ReadInstead)
    }

    /// Nothing is in it.
    ///
    /// # Errors
    /// None.
    pub fn into_buffer(_pipe: Pipe) -> io::Result<Buffer> {
        Ok(Buffer::default())
    }

    /// Nothing is in it.
    ///
    /// # Errors
    /// None.
    pub fn drain(_pipe: &mut Pipe, _to: &TcpStream) -> io::Result<usize> {
        Ok(0)
    }

    /// Nothing is in it.
    ///
    /// # Errors
    /// None.
    pub fn drain_within_limit(_pipe: &mut Pipe, _to: &TcpStream) -> io::Result<usize> {
        Ok(0)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{Read, Write};

    use rustix::net::sockopt;

    use super::*;
    use crate::net::socket::tests::pair;
    use crate::net::threads;

    #[test]
    fn no_byte_more_than_asked_for_is_moved() {
        let pipes = Pipes::at_most(1);
        let mut pipe = pipes.lend().unwrap();
        let ((from, mut sender), (to, mut receiver)) = (pair(), pair());
        sender.write_all(b"bodyNEXT").unwrap();
        assert_eq!(fill(&mut pipe, &from, 4).unwrap(), Filled::Bytes(4));
        assert_eq!(drain(&mut pipe, &to).unwrap(), 4);
        drop(to);
        let mut got = String::new();
        receiver.read_to_string(&mut got).unwrap();
        assert_eq!(got, "body");
        let mut rest = [0; 8];
        let count = (&from).read(&mut rest).unwrap();
        assert_eq!(rest[..count], *b"NEXT");
    }

    #[test]
    fn an_end_is_for_a_read_to_find() {
        let pipes = Pipes::at_most(1);
        let mut pipe = pipes.lend().unwrap();
        let (from, sender) = pair();
        drop(sender);
        assert_eq!(fill(&mut pipe, &from, 4).unwrap(), Filled::ReadInstead);
    }

    #[test]
    fn silence_ends_with_the_time_limit_of_the_socket() {
        let pipes = Pipes::at_most(1);
        let mut pipe = pipes.lend().unwrap();
        let (from, _sender) = pair();
        from.set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        assert_eq!(fill(&mut pipe, &from, 4).unwrap(), Filled::Nothing);
    }

    #[test]
    fn what_a_receiver_does_not_take_at_once_stays_in_the_pipe() {
        const BULK: usize = 64 * 1024;
        let pipes = Pipes::at_most(1);
        let mut pipe = pipes.lend().unwrap();
        let ((from, mut sender), (to, mut receiver)) = (pair(), pair());
        // Little is on its way, so little can become free by itself.
        sockopt::set_socket_send_buffer_size(&to, BULK / 16).unwrap();
        to.set_nonblocking(true).unwrap();
        let mut full = 0;
        while let Ok(sent) = (&to).write(&vec![b'x'; BULK]) {
            full += sent;
        }
        to.set_nonblocking(false).unwrap();
        let writes = threads::start("test-sender", move || sender.write_all(&[b'y'; BULK / 4]));
        let Filled::Bytes(held) = fill(&mut pipe, &from, BULK as u64).unwrap() else {
            panic!("nothing came");
        };
        let sent = drain(&mut pipe, &to).unwrap();
        assert!(sent < held && pipe.held() == held - sent);
        let reads = threads::start("test-receiver", move || {
            let mut all = Vec::new();
            receiver.read_to_end(&mut all).map(|_length| all)
        });
        while pipe.held() > 0 {
            if drain(&mut pipe, &to).unwrap() == 0 {
                takes_soon(&to);
            }
        }
        drop(to);
        writes.unwrap().join().unwrap().unwrap();
        let all = reads.unwrap().join().unwrap().unwrap();
        assert_eq!(all.len(), full + held);
        assert!(all.ends_with(&vec![b'y'; held]));
    }

    #[test]
    fn an_idle_pipe_that_was_not_used_between_two_sweeps_is_closed() {
        let pipes = Pipes::at_most(2);
        drop([pipes.lend(), pipes.lend()]);
        pipes.sweep();
        assert_eq!(pipes.count(), 2);
        drop(pipes.lend());
        pipes.sweep();
        assert_eq!(pipes.count(), 1, "one of the two was in use");
        pipes.sweep();
        assert_eq!(pipes.count(), 0);
        assert!(pipes.lend().is_some());
    }

    #[test]
    fn an_empty_pipe_is_lent_again_and_one_with_bytes_in_it_never() {
        let pipes = Pipes::at_most(1);
        let mut pipe = pipes.lend().unwrap();
        assert!(pipes.lend().is_none(), "there is only one");
        let (from, mut sender) = pair();
        sender.write_all(b"left over").unwrap();
        fill(&mut pipe, &from, 4).unwrap();
        assert_eq!(pipe.held(), 4);
        drop(pipe);
        assert_eq!(pipes.count(), 0);
        drop(pipes.lend().unwrap());
        assert_eq!(pipes.count(), 1);
        assert!(pipes.lend().is_some());
    }

    #[test]
    fn what_is_in_a_pipe_can_be_read_again() {
        let pipes = Pipes::at_most(1);
        let mut pipe = pipes.lend().unwrap();
        let (from, mut sender) = pair();
        sender.write_all(b"left over").unwrap();
        fill(&mut pipe, &from, 4).unwrap();
        assert_eq!(into_buffer(pipe).unwrap().bytes(), b"left");
        assert_eq!(pipes.lent(), 0);
    }

    #[test]
    fn while_much_waits_for_receivers_less_is_moved_at_a_time() {
        let pipes = Pipes::at_most(1);
        let mut pipe = pipes.lend().unwrap();
        let waiting: Vec<Buffer> = std::iter::repeat_with(|| Buffer::with_room(LARGE + 1))
            .take(buffer::MOST_LONG)
            .collect();
        let (from, mut sender) = pair();
        let writes = threads::start("test-sender", move || {
            sender.write_all(&vec![b'x'; 1 << 20])
        });
        let mut left = 1 << 20;
        while left > 0 {
            let Filled::Bytes(held) = fill(&mut pipe, &from, u64::MAX).unwrap() else {
                panic!("nothing came");
            };
            assert!(held <= LARGE, "{held}");
            left -= held;
            drop(into_buffer(pipe).unwrap());
            pipe = pipes.lend().unwrap();
        }
        writes.unwrap().join().unwrap().unwrap();
        drop(waiting);
    }

    #[test]
    fn where_no_pipe_may_be_had_none_is_lent() {
        assert!(Pipes::at_most(0).lend().is_none());
        assert!(Pipes::for_files(63).lend().is_none());
        assert!(Pipes::for_files(64).lend().is_some());
    }
}
