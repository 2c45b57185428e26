//! The service manager: told what goes on, and that it does go on.
//!
//! The sign of life is for a supervisor that kills a program which hangs, so it must stop when the
//! program does. The thread that gives it does no work of its own; it looks how long ago the acceptor
//! and the waiter went round their loops, and how long the oldest request has waited for a worker. Both
//! loops go round often enough for that only when there is a watchdog.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::net::permits::Permits;
use crate::net::systemd_notifier::SystemdNotifier;
use crate::relay::Context;
use crate::reload::Watcher;
use crate::stop::{Notify, Stage, Woken};

use super::lanes::Lanes;

/// How often the status line is written anew, if it has changed.
const STATUS_EVERY: Duration = Duration::from_secs(3);

/// How much later than it should this thread may wake up; later, the whole process stood still.
const SLACK: Duration = Duration::from_millis(250);

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

    pub(super) fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(last)
    }
}

/// Tells the service manager, on a thread of its own.
#[derive(Debug)]
pub(super) struct SystemdReporter {
    pub(super) notifier: SystemdNotifier,
    /// How often a lane must go round; `None`: there is no watchdog.
    pub(super) every: Option<Duration>,
    over: Notify,
}

/// What the thread looks at.
#[derive(Debug)]
pub(super) struct ServerView {
    pub(super) ctx: Arc<Context>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) connections: Arc<Permits>,
}

impl SystemdReporter {
    pub(super) fn new(notifier: SystemdNotifier) -> Self {
        Self {
            every: notifier.watchdog().map(|limit| limit / 4),
            notifier,
            over: Notify::default(),
        }
    }

    /// Ends the thread.
    pub(super) fn finish(&self) {
        self.over.notify_one();
    }

    /// The thread: until [`SystemdReporter::finish`].
    pub(super) fn run(&self, server: &ServerView) {
        let watchdog = self.notifier.watchdog();
        let pause = watchdog.map_or(STATUS_EVERY, |limit| STATUS_EVERY.min(limit / 2));
        let mut told = String::new();
        let mut hangs = None;
        let mut stood_still = false;
        loop {
            let status = server.status();
            if status != told {
                self.notifier.status(&status);
                told = status;
            }
            if let Some(limit) = watchdog {
                let trouble = server.trouble(limit);
                // Then no loop went round, and none of them is to blame.
                let trouble = trouble.filter(|_| !stood_still);
                match trouble {
                    None => self.notifier.alive(),
                    Some(what) if hangs != trouble => {
                        log::error!("{what}: the service manager gets no sign of life");
                    }
                    Some(_) => {}
                }
                hangs = trouble;
            }
            let begun = Instant::now();
            if self.over.wait(Some(pause)) != Woken::TimedOut {
                return;
            }
            stood_still = begun.elapsed() > pause + SLACK;
        }
    }
}

impl ServerView {
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
        if let Some((_, error)) = &self.ctx.metrics.last_reload.lock().failure {
            status.push_str("; reload failed: ");
            status.push_str(error.lines().next().unwrap_or_default());
        }
        status
    }

    /// Which part makes no progress, if one does not.
    fn trouble(&self, limit: Duration) -> Option<&'static str> {
        let hangs = self.lanes.oldest_pulse() > limit;
        (hangs && self.ctx.stop.stage() != Stage::Ended)
            .then_some("a lane does not go round: its connections are not watched")
    }
}

/// What follows a reload in this server.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) ctx: Arc<Context>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) connections: Arc<Permits>,
    pub(super) service: Arc<SystemdReporter>,
}

impl Watcher for Follower {
    fn begins(&self) {
        self.service.notifier.reloading();
    }

    fn applied(&self) {
        super::apply_limits(&self.ctx, &self.connections, &self.lanes);
    }

    fn over(&self) {
        self.service.notifier.ready();
    }
}
