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

use super::workers::Workers;

/// How often the status line is written anew, if it has changed.
const STATUS_EVERY: Duration = Duration::from_secs(3);
/// How much longer than its patience a request may wait for a worker before something is wrong.
const QUEUE_SLACK: Duration = Duration::from_secs(10);

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

    fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(last)
    }
}

/// The loops that a watchdog looks at.
#[derive(Debug, Default)]
pub(super) struct Pulses {
    /// How often they must go round; `None`: there is no watchdog.
    pub(super) every: Option<Duration>,
    pub(super) acceptor: Pulse,
    pub(super) waiter: Pulse,
}

/// Tells the service manager, on a thread of its own.
#[derive(Debug)]
pub(super) struct SystemdReporter {
    pub(super) notifier: SystemdNotifier,
    pub(super) pulses: Pulses,
    over: Notify,
}

/// What the thread looks at.
#[derive(Debug)]
pub(super) struct ServerView {
    pub(super) ctx: Arc<Context>,
    pub(super) workers: Arc<Workers>,
    pub(super) connections: Arc<Permits>,
}

impl SystemdReporter {
    pub(super) fn new(notifier: SystemdNotifier) -> Self {
        let pulses = Pulses {
            every: notifier.watchdog().map(|limit| limit / 4),
            ..Pulses::default()
        };
        Self {
            notifier,
            pulses,
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
                let trouble = server.trouble(&self.pulses, limit);
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
    pub(super) service: Arc<SystemdReporter>,
}

impl Watcher for Follower {
    fn begins(&self) {
        self.service.notifier.reloading();
    }

    fn applied(&self) {
        super::apply_limits(&self.ctx, &self.connections, &self.workers);
    }

    fn over(&self) {
        self.service.notifier.ready();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::acceptor::Acceptor;
    use super::super::waiter::Waiter;
    use super::*;
    use crate::config;
    use crate::net::inherited::ListenerOwner;
    use crate::net::resolve::Resolver;

    const LIMIT: Duration = Duration::from_secs(30);

    fn old() -> Pulse {
        Pulse {
            born: Instant::now().checked_sub(2 * LIMIT).unwrap(),
            last: AtomicU64::new(0),
        }
    }

    fn view() -> ServerView {
        let config = config::parse("listen: 127.0.0.1:0\nupstream: []\n", "c.yaml").unwrap();
        let ctx = Arc::new(Context::new(config, Resolver::default()).unwrap());
        let service = Arc::new(SystemdReporter::new(SystemdNotifier::default()));
        let waiter = Waiter::new(Arc::clone(&ctx), Arc::clone(&service)).unwrap();
        let connections = Permits::new(1);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let door = (listener, ListenerOwner::ThisProcess);
        let acceptor = Acceptor::new((&ctx, &service), &waiter, door, &connections).unwrap();
        ServerView {
            workers: Workers::new(Arc::clone(&ctx), waiter, acceptor),
            ctx,
            connections,
        }
    }

    #[test]
    fn a_loop_that_does_not_go_round_is_trouble() {
        let server = view();
        let check = |acceptor, waiter, wanted| {
            let pulses = Pulses {
                every: None,
                acceptor,
                waiter,
            };
            assert_eq!(server.trouble(&pulses, LIMIT), wanted);
            pulses.acceptor.beat();
            pulses.waiter.beat();
            assert_eq!(server.trouble(&pulses, LIMIT), None);
        };
        check(Pulse::default(), Pulse::default(), None);
        check(
            old(),
            Pulse::default(),
            Some("connections are not accepted"),
        );
        check(Pulse::default(), old(), Some("connections are not watched"));
    }

    /// The acceptor has ended by then, as it should.
    #[test]
    fn a_drain_is_no_trouble() {
        let server = view();
        let pulses = Pulses {
            every: None,
            acceptor: old(),
            waiter: Pulse::default(),
        };
        server.ctx.stop.advance(Stage::Draining);
        assert_eq!(server.trouble(&pulses, LIMIT), None);
        assert_eq!(server.status(), "stopping, 0 connections left");
    }

    #[test]
    fn the_status_is_one_line_and_names_a_failed_reload() {
        let server = view();
        assert_eq!(server.status(), "0/0 upstreams online, 0 tunnels");
        let last = &server.ctx.metrics.last_reload;
        last.lock().failure = Some((1, "c.yaml:3: mode: what\nc.yaml:4: and more".to_owned()));
        assert_eq!(
            server.status(),
            "0/0 upstreams online, 0 tunnels; reload failed: c.yaml:3: mode: what"
        );
    }
}
