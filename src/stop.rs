//! The stop signal every thread waits on, and [`Notify`]: a wait that another thread can cut short.
//!
//! A thread that sleeps can be neither joined nor told anything, so no thread here sleeps: it waits on
//! its [`Notify`], a poll loop watches [`Stop::wake_fd`], and a worker looks at [`Stop::stage`] between
//! two blocking calls, each of which has a time limit.
//!
//! The stage is kept in one place, which a wait looks at itself. So a subscription that comes beside a
//! change of the stage cannot miss it: it is either in the list that is woken, or comes after the change.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How far the process is on its way out. Stages only ever advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Accepting and serving.
    Running,
    /// No new connection; what is in flight is finished.
    Draining,
    /// The drain time is over, or a second signal came: everything is cut.
    Ended,
}

/// The stop signal: one per server, shared by all of its threads.
#[derive(Debug)]
pub struct Stop {
    stage: Arc<AtomicU8>,
    subscribers: Mutex<Vec<Notify>>,
    rest: Notify,
    wake_sender: UnixStream,
    wake_receiver: UnixStream,
}

impl Stop {
    /// A signal in stage [`Stage::Running`].
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let (wake_sender, wake_receiver) = UnixStream::pair()?;
        let rest = Notify::default();
        Ok(Self {
            stage: Arc::clone(&rest.inner.stage),
            subscribers: Mutex::new(vec![rest.clone()]),
            rest,
            wake_sender,
            wake_receiver,
        })
    }

    /// The stage reached so far.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Running,
            1 => Stage::Draining,
            _ => Stage::Ended,
        }
    }

    /// Advances to `stage` (never back) and wakes every thread that waits.
    pub fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        // The other end becomes readable (end of stream) for every poller, for good.
        if let Err(error) = self.wake_sender.shutdown(Shutdown::Both) {
            log::debug!("the wake socket was already closed: {error}");
        }
        for notify in self.subscribers.lock().iter() {
            notify.wake();
        }
    }

    /// Readable once the stage is no longer [`Stage::Running`]. Never read from it.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake_receiver.as_fd()
    }

    /// Waits for the stop, at most `limit`.
    pub fn wait(&self, limit: Duration) {
        self.rest.wait(Some(limit));
    }

    /// A new wait that this signal ends, too.
    pub fn subscribe(&self) -> Notify {
        let notify = Notify {
            inner: Arc::new(NotifyState {
                stage: Arc::clone(&self.stage),
                ..NotifyState::default()
            }),
        };
        self.subscribers.lock().push(notify.clone());
        notify
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The process drains or ends.
    Stopped,
    /// By [`Notify::notify_one`].
    Notified,
    /// The time is over.
    TimedOut,
}

/// A wait that [`Notify::notify_one`] cuts short, and [`Stop`] if it was subscribed to. A notification
/// during no wait is not lost.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    inner: Arc<NotifyState>,
}

#[derive(Debug, Default)]
struct NotifyState {
    /// That of the [`Stop`], else 0 for good.
    stage: Arc<AtomicU8>,
    is_notified: Mutex<bool>,
    changed: Condvar,
}

impl Notify {
    /// Ends the present wait, or the next one.
    pub fn notify_one(&self) {
        *self.inner.is_notified.lock() = true;
        self.inner.changed.notify_all();
    }

    /// Has the present wait look at the stage.
    fn wake(&self) {
        // It has looked and waits by now, or it looks later: between the two it holds the lock.
        drop(self.inner.is_notified.lock());
        self.inner.changed.notify_all();
    }

    /// Waits for a notification or the stop, at most `limit` (`None`: without an end).
    pub fn wait(&self, limit: Option<Duration>) -> Woken {
        let NotifyState {
            stage,
            is_notified,
            changed,
        } = &*self.inner;
        let until = limit.map(|limit| Instant::now() + limit);
        let mut is_notified = is_notified.lock();
        loop {
            if stage.load(Ordering::Acquire) != Stage::Running as u8 {
                return Woken::Stopped;
            }
            if std::mem::take(&mut *is_notified) {
                return Woken::Notified;
            }
            match until {
                None => changed.wait(&mut is_notified),
                Some(until) => {
                    if changed.wait_until(&mut is_notified, until).timed_out() {
                        return Woken::TimedOut;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_only_advance() {
        let stop = Stop::new().unwrap();
        assert_eq!(stop.stage(), Stage::Running);
        stop.advance(Stage::Ended);
        stop.advance(Stage::Draining);
        assert_eq!(stop.stage(), Stage::Ended);
    }

    #[test]
    fn a_notification_before_the_wait_is_not_lost() {
        let notify = Stop::new().unwrap().subscribe();
        notify.notify_one();
        assert_eq!(notify.wait(None), Woken::Notified);
        assert_eq!(notify.wait(Some(Duration::ZERO)), Woken::TimedOut);
    }

    #[test]
    fn a_stop_ends_every_later_wait() {
        let stop = Stop::new().unwrap();
        let early = stop.subscribe();
        stop.advance(Stage::Draining);
        assert_eq!(early.wait(None), Woken::Stopped);
        assert_eq!(stop.subscribe().wait(None), Woken::Stopped);
    }

    /// A subscription that saw the stage before the stop, and was listed after it, would wait for ever.
    #[test]
    fn a_subscription_beside_a_stop_is_told_of_it() {
        for _ in 0..5000 {
            let stop = Stop::new().unwrap();
            let both = std::sync::Barrier::new(2);
            let notify = std::thread::scope(|scope| {
                let subscribed = scope.spawn(|| {
                    both.wait();
                    stop.subscribe()
                });
                both.wait();
                stop.advance(Stage::Draining);
                subscribed.join().unwrap()
            });
            assert_eq!(notify.wait(Some(Duration::ZERO)), Woken::Stopped);
        }
    }
}
