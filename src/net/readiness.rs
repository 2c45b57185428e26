//! Which of many sockets can be read from or written to: `epoll(7)` on Linux, elsewhere `poll(2)`, which is
//! slow with thousands of sockets, and needs another descriptor for each.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use super::socket::Want;

pub use system::Readiness;

#[cfg(target_os = "linux")]
mod system {
    use std::os::fd::OwnedFd;

    use rustix::buffer::spare_capacity;
    use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
    use rustix::io::Errno;

    use super::{Duration, TcpStream, Want, io};

    /// The most sockets told of at once.
    const EVENTS: usize = 128;
    /// What [`Readiness::wake`] says.
    const WAKE: u64 = u64::MAX;
    /// Some of `writers` are ready.
    const WRITERS: u64 = u64::MAX - 1;

    /// A set of sockets, each with a number of the caller's.
    #[derive(Debug)]
    pub struct Readiness {
        epoll: OwnedFd,
        /// Those to be written to: a socket can be in a set only once, and another may want to read from it.
        writers: OwnedFd,
        wake: OwnedFd,
    }

    impl Readiness {
        /// An empty set.
        ///
        /// # Errors
        /// When the process has no file descriptors left.
        pub fn new() -> io::Result<Self> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let data = epoll::EventData::new_u64(WAKE);
            epoll::add(&epoll, &wake, data, epoll::EventFlags::IN)?;
            let writers = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let data = epoll::EventData::new_u64(WRITERS);
            epoll::add(&epoll, &writers, data, epoll::EventFlags::IN)?;
            Ok(Self {
                epoll,
                writers,
                wake,
            })
        }

        /// Adds a socket, which stays until [`Readiness::forget`] or its close. `want` is to read or to write;
        /// `number` is any but the two highest there are.
        ///
        /// # Errors
        /// When the system can watch no more.
        pub fn watch(&self, stream: &TcpStream, want: Want, number: u64) -> io::Result<()> {
            let (set, flags) = self.set_for(want);
            let data = epoll::EventData::new_u64(number);
            Ok(epoll::add(set, stream, data, flags)?)
        }

        /// Takes a socket out.
        pub fn forget(&self, stream: &TcpStream, want: Want) {
            if let Err(error) = epoll::delete(self.set_for(want).0, stream) {
                log::debug!("this socket was not watched: {error}");
            }
        }

        fn set_for(&self, want: Want) -> (&OwnedFd, epoll::EventFlags) {
            match want {
                Want::Write => (&self.writers, epoll::EventFlags::OUT),
                Want::Nothing | Want::Read | Want::ReadOrWrite => {
                    (&self.epoll, epoll::EventFlags::IN)
                }
            }
        }

        /// Waits until sockets are ready, until [`Readiness::wake`], or for `limit`. The numbers of those that
        /// are (an end or an error counts, too) replace what is in `ready`.
        ///
        /// # Errors
        /// What the system says; an interruption counts as a time-out.
        pub fn wait(&self, ready: &mut Vec<u64>, limit: Option<Duration>) -> io::Result<()> {
            ready.clear();
            collect(&self.epoll, ready, limit)?;
            let before = ready.len();
            ready.retain(|number| *number != WRITERS);
            if ready.len() < before {
                collect(&self.writers, ready, Some(Duration::ZERO))?;
            }
            let before = ready.len();
            ready.retain(|number| *number != WAKE);
            if ready.len() < before
                && let Err(error) = rustix::io::read(&self.wake, &mut [0; 8])
            {
                log::trace!("another thread took the wake-up: {error}");
            }
            Ok(())
        }

        /// Ends the present wait, or the next one.
        pub fn wake(&self) {
            if let Err(error) = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
                log::trace!("a wake-up is pending already: {error}");
            }
        }
    }

    /// Adds the numbers of those of `set` that are ready.
    fn collect(set: &OwnedFd, ready: &mut Vec<u64>, limit: Option<Duration>) -> io::Result<()> {
        // One that is too long for the system is without an end.
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut events = Vec::with_capacity(EVENTS);
        match epoll::wait(set, spare_capacity(&mut events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.extend(events.iter().map(|event| event.data.u64()));
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::collections::HashMap;
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, AsRawFd, RawFd};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::super::socket;
    use super::{Duration, TcpStream, Want, io};

    /// The longest wait.
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

    /// A set of sockets, each with a number of the caller's.
    #[derive(Debug)]
    pub struct Readiness {
        watched: Mutex<HashMap<(RawFd, bool), (Arc<TcpStream>, Want, u64)>>,
        wake: UnixStream,
        woken: UnixStream,
    }

    impl Readiness {
        /// An empty set.
        ///
        /// # Errors
        /// When the process has no file descriptors left.
        pub fn new() -> io::Result<Self> {
            let (wake, woken) = UnixStream::pair()?;
            wake.set_nonblocking(true)?;
            woken.set_nonblocking(true)?;
            Ok(Self {
                watched: Mutex::default(),
                wake,
                woken,
            })
        }

        /// Adds a socket, which stays until [`Readiness::forget`]. `want` is to read or to write.
        ///
        /// # Errors
        /// When the process has no file descriptors left.
        pub fn watch(&self, stream: &TcpStream, want: Want, number: u64) -> io::Result<()> {
            let own = Arc::new(stream.try_clone()?);
            let key = (stream.as_raw_fd(), want == Want::Write);
            self.watched.lock().insert(key, (own, want, number));
            self.wake();
            Ok(())
        }

        /// Takes a socket out.
        pub fn forget(&self, stream: &TcpStream, want: Want) {
            let key = (stream.as_raw_fd(), want == Want::Write);
            self.watched.lock().remove(&key);
        }

        /// Waits until sockets are ready, until [`Readiness::wake`], or for `limit`. The numbers of those that
        /// are (an end or an error counts, too) replace what is in `ready`.
        ///
        /// # Errors
        /// What the system says; an interruption counts as a time-out.
        pub fn wait(&self, ready: &mut Vec<u64>, limit: Option<Duration>) -> io::Result<()> {
            ready.clear();
            let watched: Vec<_> = self.watched.lock().values().cloned().collect();
            let sockets = watched
                .iter()
                .map(|(stream, want, _)| (stream.as_fd(), *want));
            let mut asked: Vec<_> = sockets.collect();
            asked.push((self.woken.as_fd(), Want::Read));
            let said = socket::wait_any(&asked, limit.unwrap_or(LONGEST))?;
            let numbers = watched.iter().map(|(_, _, number)| *number).zip(said);
            ready.extend(
                numbers
                    .filter(|(_, said)| said.to_read() || said.to_write())
                    .map(|(number, _)| number),
            );
            while (&self.woken)
                .read(&mut [0; 64])
                .is_ok_and(|count| count > 0)
            {}
            Ok(())
        }

        /// Ends the present wait, or the next one.
        pub fn wake(&self) {
            if let Err(error) = (&self.wake).write(&[0]) {
                log::trace!("a wake-up is pending already: {error}");
            }
        }
    }
}
