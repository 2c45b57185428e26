//! The stop signal every thread waits on, and alarms: waits that somebody can cut short.
//!
//! A thread that sleeps can be neither joined nor told anything, so nobody here sleeps: a thread waits
//! on its [`Alarm`], a poll loop watches [`Stop::wake_fd`], and a worker looks at [`Stop::stage`]
//! between two blocking calls, each of which has a time limit.

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
    /// The drain time is over, or somebody insisted: everything is cut.
    Ended,
}

/// The stop signal: one per server, shared by all of its threads.
#[derive(Debug)]
pub struct Stop {
    stage: AtomicU8,
    alarms: Mutex<Vec<Arc<Bell>>>,
    rest: Alarm,
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
        let bell = Arc::<Bell>::default();
        Ok(Self {
            stage: AtomicU8::new(0),
            alarms: Mutex::new(vec![Arc::clone(&bell)]),
            rest: Alarm { bell },
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

    /// Advances to `stage` (never back) and wakes everybody who waits.
    pub fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        // The other end becomes readable (end of stream) for every poller, for good.
        if let Err(error) = self.wake_sender.shutdown(Shutdown::Both) {
            log::debug!("the wake socket was already closed: {error}");
        }
        for bell in self.alarms.lock().iter() {
            bell.state.lock().stopped = true;
            bell.changed.notify_all();
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

    /// A new alarm that this signal also wakes.
    pub fn alarm(&self) -> Alarm {
        let bell = Arc::new(Bell::default());
        bell.state.lock().stopped = self.stage() != Stage::Running;
        self.alarms.lock().push(Arc::clone(&bell));
        Alarm { bell }
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The process drains or ends.
    Stopped,
    /// Somebody rang.
    Rung,
    /// The time is over.
    TimedOut,
}

/// A wait that [`Alarm::ring`] cuts short, and [`Stop`] if it gave it. A ring during no wait is not lost.
#[derive(Clone, Debug, Default)]
pub struct Alarm {
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Bell {
    state: Mutex<BellState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct BellState {
    stopped: bool,
    rings: u64,
    heard: u64,
}

impl Alarm {
    /// Ends the present wait, or the next one.
    pub fn ring(&self) {
        self.bell.state.lock().rings += 1;
        self.bell.changed.notify_all();
    }

    /// Waits for a ring or the stop, at most `limit` (`None`: without an end).
    pub fn wait(&self, limit: Option<Duration>) -> Woken {
        let until = limit.map(|limit| Instant::now() + limit);
        let mut state = self.bell.state.lock();
        loop {
            if state.stopped {
                return Woken::Stopped;
            }
            if state.rings > state.heard {
                state.heard = state.rings;
                return Woken::Rung;
            }
            match until {
                None => self.bell.changed.wait(&mut state),
                Some(until) => {
                    if self.bell.changed.wait_until(&mut state, until).timed_out() {
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
    fn a_ring_before_the_wait_is_not_lost() {
        let alarm = Stop::new().unwrap().alarm();
        alarm.ring();
        assert_eq!(alarm.wait(None), Woken::Rung);
        assert_eq!(alarm.wait(Some(Duration::ZERO)), Woken::TimedOut);
    }

    #[test]
    fn a_stop_ends_every_later_wait() {
        let stop = Stop::new().unwrap();
        let early = stop.alarm();
        stop.advance(Stage::Draining);
        assert_eq!(early.wait(None), Woken::Stopped);
        assert_eq!(stop.alarm().wait(None), Woken::Stopped);
    }
}
