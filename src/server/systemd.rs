//! The service manager: told what goes on, and that it does go on.
//!
//! The sign of life is for a supervisor that kills a program which hangs, so it must stop when the
//! program does. The thread that gives it does no work of its own; it looks how long ago the leader of each
//! lane went round: between two rounds it serves what was ready, so nothing waits for longer. Leaders go
//! round often enough for that only when there is a watchdog.

use std::sync::Arc;
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

/// Tells the service manager, on a thread of its own.
#[derive(Debug)]
pub(super) struct SystemdReporter {
    pub(super) notifier: SystemdNotifier,
    /// How often a lane must go round; `None`: there is no watchdog.
    pub(super) wakes_every: Option<Duration>,
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
            wakes_every: notifier.watchdog().map(|limit| limit / 4),
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
    pub(super) lanes: Arc<Lanes>,
    pub(super) connections: Arc<Permits>,
    pub(super) service: Arc<SystemdReporter>,
}

impl Watcher for Follower {
    fn begins(&self) {
        self.service.notifier.reloading();
    }

    fn applied(&self) {
        self.lanes.apply_limits(&self.connections);
    }

    fn over(&self) {
        self.service.notifier.ready();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::failure::Failure;
    use super::*;
    use crate::config;
    use crate::net::inherited::ListenerOwner;
    use crate::net::resolve::Resolver;

    const LIMIT: Duration = Duration::from_secs(30);

    fn view() -> ServerView {
        let config = config::parse("listen: 127.0.0.1:0\nupstream: []\n", "c.yaml").unwrap();
        let ctx = Arc::new(Context::new(config, Resolver::default()).unwrap());
        let connections = Permits::new(1);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let listener = (listener, ListenerOwner::ThisProcess);
        let shared = (&ctx, &Arc::<Failure>::default());
        let (lanes, _) = Lanes::new(shared, listener, &connections, None).unwrap();
        ServerView {
            ctx,
            lanes,
            connections,
        }
    }

    #[test]
    fn a_lane_that_does_not_go_round_is_trouble_until_it_does_and_at_a_drain_too() {
        let server = view();
        assert_eq!(server.trouble(LIMIT), None);
        let hangs = Some("a lane does not go round: its connections are not watched");
        let moment = Duration::from_millis(1);
        while server.lanes.oldest_pulse() <= moment {
            std::thread::yield_now();
        }
        assert_eq!(server.trouble(moment), hangs);
        server.ctx.stop.advance(Stage::Draining);
        assert_eq!(server.trouble(moment), hangs);
        for lane in &server.lanes.shared.lanes {
            lane.pulse.beat(Instant::now() + LIMIT);
        }
        assert_eq!(server.trouble(moment), None);
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
        server.ctx.stop.advance(Stage::Draining);
        assert_eq!(server.status(), "stopping, 0 connections left");
    }
}
