//! What all lanes share.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::net::conn::Conn;
use crate::net::permits::Permits;
use crate::relay::Context;

use super::acceptor::Acceptor;
use super::budget::Budget;
use super::inbox::{LaneHandle, Mail};

/// So many more connections than the emptiest lane has another may have before it gives a new one away.
const UNEVEN: usize = 1;

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ctx: Arc<Context>,
    pub(super) acceptor: Acceptor,
    /// How many requests may be at work.
    pub(super) budget: Arc<Budget>,
    /// How many may wait for that.
    pub(super) queue: Arc<Permits>,
    /// Connections refused without a permit that may linger, in each lane.
    pub(super) most_uncounted: usize,
    /// How often a lane must go round; `None`: there is no watchdog.
    pub(super) wakes_every: Option<Duration>,
    pub(super) lanes: Vec<Arc<LaneHandle>>,
}

impl Shared {
    /// Has every leader go round.
    pub(super) fn wake(&self) {
        self.lanes.iter().for_each(|lane| lane.wake());
    }

    /// Tells every lane.
    pub(super) fn tell(&self, what: impl Fn() -> Mail) {
        for lane in &self.lanes {
            drop(lane.post(what()));
        }
    }

    /// The lane that gets a new client, if that is not `own`; it counts there from now on.
    pub(super) fn emptiest(&self, own: &LaneHandle) -> Option<&Arc<LaneHandle>> {
        let load = |lane: &LaneHandle| lane.load.load(Ordering::Relaxed);
        let emptiest = self.lanes.iter().min_by_key(|lane| load(lane))?;
        let stays = load(own) <= load(emptiest) + UNEVEN;
        let takes = if stays { own } else { &**emptiest };
        takes.load.fetch_add(1, Ordering::Relaxed);
        (!stays).then_some(emptiest)
    }

    /// A lane that has nothing to do.
    pub(super) fn idle_lane(&self) -> Option<&Arc<LaneHandle>> {
        self.lanes.iter().find(|lane| lane.is_asleep())
    }

    /// From now on no lane has anything to do with the events of a next hop.
    pub(super) fn unwatch_hop(&self, conn: &mut Conn) {
        if let Some((home, _)) = conn.watched_as()
            && let Some(lane) = self.lanes.get(home)
        {
            lane.unwatch(conn.stream().as_raw_fd());
            conn.set_watched(None);
        }
    }

    /// Closes the listener. Clients that are left in its queue come in.
    pub(super) fn close_acceptor(&self) {
        let mut lanes = self.lanes.iter().cycle();
        let mut welcome = |newcomer| {
            if let Some(lane) = lanes.next() {
                drop(lane.post(Mail::Newcomer(newcomer)));
            }
        };
        self.acceptor.close(&mut welcome, |listener| {
            self.lanes
                .iter()
                .for_each(|lane| lane.unwatch(listener.as_raw_fd()));
        });
    }
}
