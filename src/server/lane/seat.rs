//! A thread that serves: the leader of a lane, and once it may have to wait for a peer, a follower.

use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::net::conn::Conn;
use crate::relay::outcome::{Outcome, Suspended};
use crate::relay::session;
use crate::relay::worker::Worker;
use crate::relay::{Client, Scratch};

use super::super::lanes::Lanes;
use super::super::table::Slot;
use super::inbox::{Handle, Mail};
use super::{Back, Lane, Task};

/// Leads `lane` until it has ended, or was handed on.
pub(super) fn lead(mut lane: Box<Lane>, scratch: &mut Scratch) {
    let (lanes, handle) = (Arc::clone(&lane.lanes), Arc::clone(&lane.handle));
    if lanes.pins {
        let mut set = rustix::thread::CpuSet::new();
        set.set(handle.number);
        drop(rustix::thread::sched_setaffinity(None, &set));
    }
    while let Some(task) = lane.next_task() {
        let seat = Seat {
            lanes: &lanes,
            handle: &handle,
            lane: Cell::new(Some(lane)),
            slot: Cell::new(task.slot),
            body_from: Cell::new(None),
            may_suspend: task.may_suspend,
        };
        let back = seat.serve(task, scratch);
        match seat.lane.into_inner() {
            Some(same) => lane = same,
            None => return return_to(&lanes, &handle, back),
        }
        lane.settle(back);
    }
    lane.end();
}

/// Brings what a follower has served back to its lane.
fn return_to(lanes: &Lanes, handle: &Handle, back: Back) {
    if let Err(Mail::Back(back)) = handle.post(Mail::Back(back)) {
        back.is_over(lanes);
    }
}

/// The place of a thread while it serves one task.
struct Seat<'a> {
    lanes: &'a Arc<Lanes>,
    handle: &'a Arc<Handle>,
    /// While this thread leads.
    lane: Cell<Option<Box<Lane>>>,
    /// That of the client.
    slot: Cell<Option<Slot>>,
    /// The client, while the body of its request is read.
    body_from: Cell<Option<RawFd>>,
    may_suspend: bool,
}

impl Seat<'_> {
    /// Serves one client until it is somebody else's business. A panic costs that client.
    fn serve(&self, task: Task, scratch: &mut Scratch) -> Back {
        let ctx = &self.lanes.ctx;
        let Task { work, permit, .. } = task;
        let served = catch_unwind(AssertUnwindSafe(|| match work {
            super::Work::Begin(client) => session::serve(ctx, scratch, client, self),
            super::Work::Resume(suspended) => session::resume(ctx, scratch, *suspended, self),
        }));
        let outcome = served.unwrap_or_else(|_panic| {
            ctx.metrics.panics.increment();
            Outcome::Closed
        });
        let permit = matches!(outcome, Outcome::Suspended(_)).then_some(permit);
        Back {
            outcome,
            slot: self.slot.get(),
            permit,
        }
    }

    /// The client's slot is free for another.
    fn leave(&self) {
        let Some(slot) = self.slot.take() else { return };
        match self.lane.take() {
            Some(mut lane) => {
                lane.leave(slot);
                self.lane.set(Some(lane));
            }
            None => drop(self.handle.put(Mail::Left(slot))),
        }
    }
}

impl Worker for Seat<'_> {
    /// The others of this lane are next.
    fn may_go_on(&self) -> bool {
        false
    }

    fn reads_body(&self, client: &Client) {
        if self.slot.get().is_some() {
            self.body_from.set(Some(client.conn.stream().as_raw_fd()));
        }
    }

    fn takes_over(&self, client: &Client) {
        if self.slot.get().is_some() {
            self.handle.unwatch(client.conn.stream().as_raw_fd());
            self.leave();
        }
    }

    fn takes_over_hop(&self, conn: &mut Conn) {
        self.lanes.unwatch_hop(conn);
    }

    fn may_block(&self) {
        let Some(mut lane) = self.lane.take() else {
            return;
        };
        if let Some(fd) = self.body_from.take() {
            self.handle.unwatch(fd);
            lane.forget(self.slot.take());
        }
        if let Err(same) = self.lanes.followers.hand_on(lane) {
            self.lane.set(Some(same));
        }
    }

    fn may_suspend(&self, _since: Instant) -> bool {
        self.may_suspend
    }

    fn home(&self) -> usize {
        self.handle.number
    }
}

/// Who ends an exchange that is cut.
struct Last;

impl Worker for Last {
    fn may_go_on(&self) -> bool {
        false
    }

    fn reads_body(&self, _client: &Client) {}

    fn takes_over(&self, _client: &Client) {}

    fn takes_over_hop(&self, _conn: &mut Conn) {}

    fn may_block(&self) {}

    fn may_suspend(&self, _since: Instant) -> bool {
        false
    }

    fn home(&self) -> usize {
        0
    }
}

/// Ends an exchange for which there is no lane left.
pub(super) fn cut(lanes: &Lanes, suspended: Suspended) {
    let mut scratch = Scratch::default();
    drop(catch_unwind(AssertUnwindSafe(|| {
        session::resume(&lanes.ctx, &mut scratch, suspended, &Last)
    })));
}
