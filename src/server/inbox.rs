//! What is known of a lane outside of it: its inbox, its poll, its numbers.
//!
//! The inbox is the only way into a lane. A sender wakes the leader if that sleeps; a leader that is awake
//! looks into the inbox before it sleeps.

use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Poll, Registry, Token, Waker};
use parking_lot::Mutex;

use crate::net::conn::GiveBack;
use crate::relay::outcome::Outcome;

use super::acceptor::Newcomer;
use super::budget::{Held, Waiting, WaitsForPermits, WorkPermit};
use super::pulse::Pulse;
use super::table::Slot;

/// The token of the waker.
const WAKE: Token = Token(0);

/// What comes to a lane from elsewhere.
#[derive(Debug)]
pub(super) enum Mail {
    /// A connection that this lane serves from now on.
    Newcomer(Newcomer),
    /// A follower is done.
    Done(Served),
    /// A permit of `limits.workers`, for the client of this lane that has waited longest of those from this address.
    Permit(IpAddr, WorkPermit),
    /// This client is not watched any more.
    ClientLeft(Slot),
    /// The same of a next hop.
    HopLeft(Slot),
    /// Idle connections are closed from now on.
    Drain,
    /// Everything is cut.
    End,
}

/// What has become of a client that was served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) outcome: Outcome,
    /// That of the client.
    pub(super) slot: Option<Slot>,
    /// The permit of an exchange that is not over.
    pub(super) held: Option<Held>,
    /// As its lane knew it while a follower served it.
    pub(super) lent: Option<Arc<Lent>>,
}

/// An exchange that a follower serves, as its lane knows it.
#[derive(Debug)]
pub(super) struct Lent {
    since: Instant,
    held: Mutex<Option<Held>>,
}

impl Lent {
    pub(super) fn new(held: Option<Held>) -> Arc<Self> {
        Arc::new(Self {
            since: Instant::now(),
            held: Mutex::new(held),
        })
    }

    /// Gives a permit up that others want, if this exchange lasts.
    pub(super) fn lasts(&self, now: Instant) {
        if let Some(held) = &mut *self.held.lock() {
            held.lasts(self.since, now, Waiting::WithThread);
        }
    }

    pub(super) fn take(&self) -> Option<Held> {
        self.held.lock().take()
    }
}

/// A lane, seen from outside.
#[derive(Debug)]
pub(super) struct LaneHandle {
    /// Which lane it is.
    pub(super) number: usize,
    registry: Registry,
    waker: Waker,
    inbox: Mutex<Inbox>,
    has_mail: AtomicBool,
    is_asleep: AtomicBool,
    /// When its leader last went round.
    pub(super) pulse: Pulse,
    /// Client connections it has, more or less.
    pub(super) load: AtomicUsize,
    /// Those that wait for a request or the rest of one.
    pub(super) parked: AtomicUsize,
    /// Those that are about to be closed and still hold their permits.
    pub(super) lingering: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inbox {
    mail: Vec<Mail>,
    is_closed: bool,
}

impl GiveBack for LaneHandle {
    fn give_back(&self, number: usize) {
        drop(self.put(Mail::HopLeft(Slot(number))));
    }
}

impl WaitsForPermits for LaneHandle {
    fn permit_came(&self, client: IpAddr, permit: WorkPermit) {
        // A lane that has ended gives it back.
        drop(self.post(Mail::Permit(client, permit)));
    }
}

impl LaneHandle {
    /// A poll, and the lane that watches with it.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub(super) fn new(number: usize) -> io::Result<(Poll, Arc<Self>)> {
        let poll = Poll::new()?;
        let handle = Self {
            number,
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKE)?,
            inbox: Mutex::default(),
            has_mail: AtomicBool::new(false),
            is_asleep: AtomicBool::new(false),
            pulse: Pulse::default(),
            load: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
        };
        Ok((poll, Arc::new(handle)))
    }

    /// As [`LaneHandle::post`], for the next round, whenever that is.
    ///
    /// # Errors
    /// The lane has ended.
    pub(super) fn put(&self, mail: Mail) -> Result<(), Mail> {
        let mut inbox = self.inbox.lock();
        if inbox.is_closed {
            return Err(mail);
        }
        inbox.mail.push(mail);
        self.has_mail.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Puts something into the inbox.
    ///
    /// # Errors
    /// The lane has ended.
    pub(super) fn post(&self, mail: Mail) -> Result<(), Mail> {
        self.put(mail)?;
        self.wake();
        Ok(())
    }

    /// Ends the sleep of the leader, or the next one.
    pub(super) fn wake(&self) {
        self.has_mail.store(true, Ordering::SeqCst);
        if self.is_asleep.swap(false, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            log::error!("a lane cannot be woken: {error}");
        }
    }

    /// Whether its leader waits for something to happen.
    pub(super) fn is_asleep(&self) -> bool {
        self.is_asleep.load(Ordering::Relaxed)
    }

    /// The leader is about to sleep. `false`: it should not.
    pub(super) fn falls_asleep(&self) -> bool {
        self.is_asleep.store(true, Ordering::SeqCst);
        !self.has_mail.load(Ordering::SeqCst)
    }

    /// The leader sleeps no more.
    pub(super) fn awakes(&self) {
        self.is_asleep.store(false, Ordering::SeqCst);
    }

    /// Takes all mail; `into` is empty.
    pub(super) fn read(&self, into: &mut Vec<Mail>) {
        if self.has_mail.load(Ordering::SeqCst) {
            let mut inbox = self.inbox.lock();
            self.has_mail.store(false, Ordering::SeqCst);
            std::mem::swap(into, &mut inbox.mail);
        }
    }

    /// Looks at the mail, and at whether there is said to be some.
    #[cfg(test)]
    pub(super) fn peek<T>(&self, look: impl FnOnce(&[Mail], bool) -> T) -> T {
        let says = self.has_mail.load(Ordering::SeqCst);
        look(&self.inbox.lock().mail, says)
    }

    /// Takes all mail; there will be none from now on.
    pub(super) fn close(&self) -> Vec<Mail> {
        let mut inbox = self.inbox.lock();
        inbox.is_closed = true;
        std::mem::take(&mut inbox.mail)
    }

    /// From now on the lane's poll has nothing to do with this socket.
    pub(super) fn unwatch(&self, fd: RawFd) {
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            log::debug!("a connection was not watched: {error}");
        }
    }
}
