//! A thread that serves: the leader of a lane, and once it may have to wait for a peer, a follower.

use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::net::conn::Conn;
use crate::relay::outcome::{Outcome, Suspended};
use crate::relay::session;
use crate::relay::worker::Worker;
use crate::relay::{Client, Scratch};

use super::super::budget::Held;
use super::super::lanes::Lanes;
use super::super::table::Slot;
use super::inbox::{Handle, Mail};
use super::{Back, Lane, Work};

/// Leads `lane` until it has ended, or was handed on.
pub(super) fn lead(mut lane: Box<Lane>, scratch: &mut Scratch) {
    let (lanes, handle) = (Arc::clone(&lane.lanes), Arc::clone(&lane.handle));
    lanes.cores.bind(handle.number);
    while let Some(task) = lane.next_task() {
        let seat = Seat {
            lanes: &lanes,
            handle: &handle,
            lane: Cell::new(Some(lane)),
            slot: Cell::new(task.slot),
            held: Cell::new(task.held),
            away: Cell::new(None),
            body_from: Cell::new(None),
            may_suspend: task.may_suspend,
        };
        let back = seat.serve(task.work, scratch);
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
    /// The permit of its exchange, while this thread leads.
    held: Cell<Option<Held>>,
    /// The same once it follows: its lane knows of it.
    away: Cell<Option<Arc<Away>>>,
    /// The client, while the body of its request is read.
    body_from: Cell<Option<RawFd>>,
    may_suspend: bool,
}

/// An exchange that a follower serves, as its lane knows it.
#[derive(Debug)]
pub(super) struct Away {
    since: Instant,
    held: Mutex<Option<Held>>,
}

impl Away {
    /// Gives a permit up that others want, if this exchange lasts.
    pub(super) fn gives_up(&self, now: Instant) {
        if let Some(held) = &mut *self.held.lock() {
            held.lasts(self.since, now);
        }
    }

    fn take(&self) -> Option<Held> {
        self.held.lock().take()
    }
}

impl Seat<'_> {
    /// Serves one client until it is somebody else's business. A panic costs that client.
    fn serve(&self, work: Work, scratch: &mut Scratch) -> Back {
        let ctx = &self.lanes.ctx;
        let served = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Begin(client) => session::serve(ctx, scratch, client, self),
            Work::Resume(suspended) => session::resume(ctx, scratch, *suspended, self),
        }));
        let outcome = served.unwrap_or_else(|_panic| {
            ctx.metrics.panics.increment();
            Outcome::Closed
        });
        let away = self.away.take();
        let held = match &away {
            Some(away) => away.take(),
            None => self.held.take(),
        };
        Back {
            held: held.filter(|_| matches!(outcome, Outcome::Suspended(_))),
            outcome,
            slot: self.slot.get(),
            away,
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
    fn may_begin(&self, _client: &Client) -> bool {
        let held = self.held.take();
        let held = held.or_else(|| self.lanes.budget.take().map(Held::Work));
        let may = held.is_some();
        self.held.set(held);
        may
    }

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
        let away = Arc::new(Away {
            since: Instant::now(),
            held: Mutex::new(self.held.take()),
        });
        lane.lends(&away);
        match self.lanes.followers.hand_on(lane) {
            Ok(()) => {
                self.away.set(Some(away));
                self.lanes.cores.unbind();
            }
            Err(mut same) => {
                same.is_back(&away);
                self.held.set(away.take());
                self.lane.set(Some(same));
            }
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
    fn may_begin(&self, _client: &Client) -> bool {
        false
    }

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
