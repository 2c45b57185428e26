//! Which of many sockets can be read: `epoll(7)`, on Linux. Elsewhere there is none, and who wants
//! to wait for many sockets needs a thread for each.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

pub use system::Readiness;

/// The most sockets told of at once.
const EVENTS: usize = 128;

#[cfg(target_os = "linux")]
mod system {
    use std::os::fd::OwnedFd;

    use rustix::buffer::spare_capacity;
    use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
    use rustix::io::Errno;

    use super::{Duration, EVENTS, TcpStream, io};

    /// What [`Readiness::wake`] says.
    const WAKE: u64 = u64::MAX;

    /// A set of sockets, each with a number of the caller's.
    #[derive(Debug)]
    pub struct Readiness {
        epoll: OwnedFd,
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
            Ok(Self { epoll, wake })
        }

        /// Adds a socket, which stays until [`Readiness::forget`] or its close. `number` is any but the
        /// highest there is.
        ///
        /// # Errors
        /// When the system can watch no more.
        pub fn watch(&self, stream: &TcpStream, number: u64) -> io::Result<()> {
            let data = epoll::EventData::new_u64(number);
            epoll::add(&self.epoll, stream, data, epoll::EventFlags::IN)?;
            Ok(())
        }

        /// Takes a socket out.
        pub fn forget(&self, stream: &TcpStream) {
            if let Err(error) = epoll::delete(&self.epoll, stream) {
                log::debug!("this socket was not watched: {error}");
            }
        }

        /// Waits until sockets can be read, until [`Readiness::wake`], or for `limit`. The numbers of
        /// those that can (data, an end or an error) replace what is in `ready`.
        ///
        /// # Errors
        /// What the system says; an interruption counts as a time-out.
        pub fn wait(&self, ready: &mut Vec<u64>, limit: Option<Duration>) -> io::Result<()> {
            ready.clear();
            // One that is too long for the system is without an end.
            let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
            let mut events = Vec::with_capacity(EVENTS);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events {
                match event.data.u64() {
                    WAKE => {
                        let mut count = [0; 8];
                        if let Err(error) = rustix::io::read(&self.wake, &mut count) {
                            log::trace!("the wake-up was taken before: {error}");
                        }
                    }
                    number => ready.push(number),
                }
            }
            Ok(())
        }

        /// Ends the wait in progress, or the next one.
        pub fn wake(&self) {
            if let Err(error) = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
                log::trace!("a wake-up is pending already: {error}");
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Duration, TcpStream, io};

    /// There is none.
    #[derive(Debug)]
    pub enum Readiness {}

    impl Readiness {
        /// Cannot be had.
        ///
        /// # Errors
        /// Always.
        pub fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        /// Never called: there is none.
        ///
        /// # Errors
        /// None.
        pub fn watch(&self, _stream: &TcpStream, _number: u64) -> io::Result<()> {
            match *self {}
        }

        /// Never called: there is none.
        pub fn forget(&self, _stream: &TcpStream) {
            match *self {}
        }

        /// Never called: there is none.
        ///
        /// # Errors
        /// None.
        pub fn wait(&self, _ready: &mut Vec<u64>, _limit: Option<Duration>) -> io::Result<()> {
            match *self {}
        }

        /// Never called: there is none.
        pub fn wake(&self) {
            match *self {}
        }
    }
}
