//! The service manager: told what goes on, and that it does go on.
//!
//! The sign of life is for a supervisor that kills a program which hangs, so it must stop when the
//! program does. The thread that gives it does no work of its own; it looks how long ago the acceptor
//! and the waiter went round their loops, and how long the oldest request has waited for a worker. Both
//! loops go round often enough for that only when there is a watchdog.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::net::notify::Manager;
use crate::net::permits::Permits;
use crate::relay::Context;
use crate::reload::Watcher;
use crate::stop::Stage;

use super::workers::Workers;

/// How often the status line is written anew, if it has changed.
const STATUS_EVERY: Duration = Duration::from_secs(3);
/// How much longer than its patience a request may wait for a worker before something is wrong.
const QUEUE_SLACK: Duration = Duration::from_secs(10);

/// When a loop last went round.
#[derive(Debug)]
pub(super) struct Pulse {
    born: Instant,
    /// Milliseconds after `born`.
    last: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// The loop goes round.
    pub(super) fn beat(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(last)
    }
}

/// The loops that a watchdog looks at.
#[derive(Debug, Default)]
pub(super) struct Pulses {
    /// How often they must go round; `None`: nobody looks.
    pub(super) every: Option<Duration>,
    pub(super) acceptor: Pulse,
    pub(super) waiter: Pulse,
}

/// The service manager and its thread.
#[derive(Debug)]
pub(super) struct Service {
    manager: Manager,
    pub(super) pulses: Pulses,
    over: Mutex<bool>,
    changed: Condvar,
}

/// What the thread looks at.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) ctx: Arc<Context>,
    pub(super) workers: Arc<Workers>,
    pub(super) connections: Arc<Permits>,
}

impl Service {
    pub(super) fn new(manager: Manager) -> Self {
        let pulses = Pulses {
            every: manager.watchdog().map(|limit| limit / 4),
            ..Pulses::default()
        };
        Self {
            manager,
            pulses,
            over: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Whether there is anybody to tell.
    pub(super) fn is_wanted(&self) -> bool {
        self.manager.is_there()
    }

    /// The start is complete.
    pub(super) fn ready(&self) {
        self.manager.ready();
    }

    /// The end begins.
    pub(super) fn stopping(&self) {
        self.manager.stopping();
    }

    /// Ends the thread.
    pub(super) fn finish(&self) {
        *self.over.lock() = true;
        self.changed.notify_all();
    }

    /// The thread: until [`Service::finish`].
    pub(super) fn run(&self, seen: &Seen) {
        let watchdog = self.manager.watchdog();
        let pause = watchdog.map_or(STATUS_EVERY, |limit| STATUS_EVERY.min(limit / 2));
        let mut told = String::new();
        let mut hangs = None;
        while !*self.over.lock() {
            let status = seen.status();
            if status != told {
                self.manager.status(&status);
                told = status;
            }
            if let Some(limit) = watchdog {
                let trouble = seen.trouble(&self.pulses, limit);
                match trouble {
                    None => self.manager.alive(),
                    Some(what) if hangs != trouble => {
                        log::error!("{what}: the service manager gets no sign of life");
                    }
                    Some(_) => {}
                }
                hangs = trouble;
            }
            let mut over = self.over.lock();
            if !*over {
                self.changed.wait_for(&mut over, pause);
            }
        }
    }
}

impl Seen {
    /// `2/3 upstreams online, 14 tunnels`.
    fn status(&self) -> String {
        if self.ctx.stop.stage() != Stage::Running {
            return format!("stopping, {} connections left", self.connections.taken());
        }
        let snapshot = self.ctx.snapshot();
        let mut status = format!(
            "{}/{} upstreams online, {} tunnels",
            snapshot.pool.online_count(),
            snapshot.pool.upstreams().len(),
            self.ctx.tunnels.count()
        );
        if let Some((_, error)) = self.ctx.metrics.last_reload.state().failure {
            status.push_str("; reload failed: ");
            status.push_str(error.lines().next().unwrap_or_default());
        }
        status
    }

    /// Which part makes no progress, if one does not.
    fn trouble(&self, pulses: &Pulses, limit: Duration) -> Option<&'static str> {
        let stage = self.ctx.stop.stage();
        if stage == Stage::Ended {
            return None;
        }
        let patience = self.ctx.snapshot().config.limits.queue_timeout;
        if stage == Stage::Running && pulses.acceptor.age() > limit {
            Some("connections are not accepted")
        } else if pulses.waiter.age() > limit {
            Some("connections are not watched")
        } else if self.workers.oldest_wait() > patience + QUEUE_SLACK {
            Some("requests wait and no worker takes them")
        } else {
            None
        }
    }
}

/// What follows a reload in this server.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) ctx: Arc<Context>,
    pub(super) workers: Arc<Workers>,
    pub(super) connections: Arc<Permits>,
    pub(super) service: Arc<Service>,
}

impl Watcher for Follower {
    fn begins(&self) {
        self.service.manager.reloading();
    }

    fn applied(&self) {
        super::apply_limits(&self.ctx, &self.connections, &self.workers);
    }

    fn over(&self) {
        self.service.manager.ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_go_round_ages() {
        let pulse = Pulse {
            born: Instant::now() - Duration::from_secs(60),
            last: AtomicU64::new(0),
        };
        assert!(pulse.age() >= Duration::from_secs(60));
        pulse.beat();
        assert!(pulse.age() < Duration::from_secs(60));
    }
}
