//! What others know of a lane: its inbox, its poll, its numbers.
//!
//! The inbox is the only way into a lane. Who puts something there wakes the leader if it sleeps; a leader
//! that is awake looks before it sleeps.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mio::unix::SourceFd;
use mio::{Poll, Registry, Waker};
use parking_lot::Mutex;

use crate::net::conn::{Conn, GiveBack};
use crate::relay::Client;

use super::super::budget::WorkPermit;
use super::super::systemd::Pulse;
use super::super::table::Slot;
use super::{Back, WAKE};

/// What comes to a lane from elsewhere.
#[derive(Debug)]
pub(in crate::server) enum Mail {
    /// A new client.
    Came(Box<Client>),
    /// A follower is done.
    Back(Back),
    /// For a client from this address.
    Permit(IpAddr, WorkPermit),
    /// This client is not watched any more.
    Left(Slot),
    /// The same of a next hop.
    HopLeft(Slot),
    /// Idle connections are closed from now on.
    Drain,
    /// Everything is cut.
    End,
}

/// A lane, seen from outside.
#[derive(Debug)]
pub(in crate::server) struct Handle {
    /// Which lane it is.
    pub(in crate::server) number: usize,
    registry: Registry,
    waker: Waker,
    inbox: Mutex<Inbox>,
    has_mail: AtomicBool,
    sleeps: AtomicBool,
    /// When its leader last went round.
    pub(in crate::server) pulse: Pulse,
    /// Client connections it has, more or less.
    pub(in crate::server) load: AtomicUsize,
    /// Those that wait for a request or the rest of one.
    pub(in crate::server) parked: AtomicUsize,
    /// Those that are about to be closed and still hold their permits.
    pub(in crate::server) lingering: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inbox {
    mail: Vec<Mail>,
    is_closed: bool,
}

impl GiveBack for Handle {
    fn give_back(&self, number: usize) {
        drop(self.put(Mail::HopLeft(Slot(number))));
    }
}

impl Handle {
    /// That of the lane which watches with `poll`.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub(super) fn new(number: usize, poll: &Poll) -> std::io::Result<Self> {
        Ok(Self {
            number,
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKE)?,
            inbox: Mutex::default(),
            has_mail: AtomicBool::new(false),
            sleeps: AtomicBool::new(false),
            pulse: Pulse::default(),
            load: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
        })
    }

    /// As [`Handle::post`], for the next round: nobody waits for it.
    pub(super) fn put(&self, mail: Mail) -> Result<(), Mail> {
        let mut inbox = self.inbox.lock();
        if inbox.is_closed {
            return Err(mail);
        }
        inbox.mail.push(mail);
        self.has_mail.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Puts something into the inbox. It comes back when the lane has ended.
    pub(in crate::server) fn post(&self, mail: Mail) -> Result<(), Mail> {
        self.put(mail)?;
        self.wake();
        Ok(())
    }

    /// Ends the wait of the leader, or the next one.
    pub(in crate::server) fn wake(&self) {
        self.has_mail.store(true, Ordering::SeqCst);
        if self.sleeps.swap(false, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            log::error!("a lane cannot be woken: {error}");
        }
    }

    /// The leader is about to wait. `false`: it should not.
    pub(super) fn falls_asleep(&self) -> bool {
        self.sleeps.store(true, Ordering::SeqCst);
        !self.has_mail.load(Ordering::SeqCst)
    }

    /// The leader waits no more.
    pub(super) fn is_awake(&self) {
        self.sleeps.store(false, Ordering::SeqCst);
    }

    /// Takes all mail; `into` is empty.
    pub(in crate::server) fn read(&self, into: &mut Vec<Mail>) {
        if self.has_mail.load(Ordering::SeqCst) {
            let mut inbox = self.inbox.lock();
            self.has_mail.store(false, Ordering::SeqCst);
            std::mem::swap(into, &mut inbox.mail);
        }
    }

    /// Takes all mail; there will be none from now on.
    pub(super) fn close(&self) -> Vec<Mail> {
        let mut inbox = self.inbox.lock();
        inbox.is_closed = true;
        std::mem::take(&mut inbox.mail)
    }

    /// From now on the lane's poll has nothing to do with this socket.
    pub(in crate::server) fn unwatch(&self, fd: RawFd) {
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            log::debug!("a connection was not watched: {error}");
        }
    }

    /// The same for a next hop, which leaves its slot.
    pub(in crate::server) fn unwatch_hop(&self, conn: &mut Conn) {
        self.unwatch(conn.stream().as_raw_fd());
        conn.set_watched(None);
    }
}
