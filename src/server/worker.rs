//! The thread that serves a client: the leader of its lane, and a follower once it may have to wait for a peer.

use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crate::net::conn::Conn;
use crate::relay::outcome::{Outcome, Suspended};
use crate::relay::session;
use crate::relay::worker::Worker;
use crate::relay::{Client, Context, Scratch, Snapshot};

use super::budget::Held;
use super::followers::{Followers, Led};
use super::inbox::{LaneHandle, Lent, Mail, Served};
use super::lane::{Lane, Task, Work};
use super::shared::Shared;
use super::table::Slot;

impl Led for Lane {
    fn lead(self: Box<Self>, followers: &Arc<Followers<Self>>, scratch: &mut Scratch) {
        let mut lane = self;
        let (shared, handle) = lane.outside();
        let hand_on = |lane| followers.hand_on(lane);
        while let Some(task) = lane.next_task() {
            let (worker, work) = LaneWorker::new((&shared, &handle), &hand_on, lane, task);
            let outcome = worker.serve(work, scratch);
            match worker.finish(outcome) {
                (served, Some(same)) => {
                    lane = same;
                    lane.settle(served);
                }
                (served, None) => return bring_back(&shared.ctx, &handle, served),
            }
        }
        for suspended in lane.end() {
            cut(&shared.ctx, suspended);
        }
    }
}

/// Brings what a follower has served back to its lane.
fn bring_back(ctx: &Arc<Context>, handle: &LaneHandle, served: Served) {
    if let Err(Mail::Done(served)) = handle.post(Mail::Done(served))
        && let Outcome::Suspended(suspended) = served.outcome
    {
        cut(ctx, *suspended);
    }
}

/// Has another thread lead a lane; an error if there is none.
type HandOn<'a> = &'a dyn Fn(Box<Lane>) -> Result<(), Box<Lane>>;

/// A thread while it serves one task.
pub(super) struct LaneWorker<'a> {
    shared: &'a Arc<Shared>,
    handle: &'a Arc<LaneHandle>,
    hand_on: HandOn<'a>,
    /// While this thread leads.
    lane: Cell<Option<Box<Lane>>>,
    /// That of the client.
    slot: Cell<Option<Slot>>,
    /// The permit of its exchange, while this thread leads.
    held: Cell<Option<Held>>,
    /// The same once it follows: its lane knows of it.
    lent: Cell<Option<Arc<Lent>>>,
    /// The client, while the body of its request is read.
    body_from: Cell<Option<RawFd>>,
    may_suspend: bool,
}

impl<'a> LaneWorker<'a> {
    /// One that leads `lane`, and what it is to serve.
    pub(super) fn new(
        (shared, handle): (&'a Arc<Shared>, &'a Arc<LaneHandle>),
        hand_on: HandOn<'a>,
        lane: Box<Lane>,
        task: Task,
    ) -> (Self, Work) {
        let worker = Self {
            shared,
            handle,
            hand_on,
            lane: Cell::new(Some(lane)),
            slot: Cell::new(task.slot),
            held: Cell::new(task.held),
            lent: Cell::new(None),
            body_from: Cell::new(None),
            may_suspend: task.may_suspend,
        };
        (worker, task.work)
    }

    /// Serves one client until it has to wait, or is done. A panic costs that client.
    fn serve(&self, work: Work, scratch: &mut Scratch) -> Outcome {
        let ctx = &self.shared.ctx;
        let served = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Begin(client) => session::serve(ctx, scratch, client, self),
            Work::Resume(suspended) => session::resume(ctx, scratch, *suspended, self),
        }));
        served.unwrap_or_else(|_panic| {
            ctx.metrics.panics.increment();
            Outcome::Closed
        })
    }

    /// What has become of the client, and the lane if this thread still leads it.
    pub(super) fn finish(self, outcome: Outcome) -> (Served, Option<Box<Lane>>) {
        let lent = self.lent.take();
        let held = match &lent {
            Some(lent) => lent.take(),
            None => self.held.take(),
        };
        let served = Served {
            held: held.filter(|_| matches!(outcome, Outcome::Suspended(_))),
            outcome,
            slot: self.slot.get(),
            lent,
        };
        (served, self.lane.into_inner())
    }

    /// Does something with the lane, while this thread leads it.
    pub(super) fn with_lane<T>(&self, act: impl FnOnce(&mut Lane) -> T) -> Option<T> {
        let mut lane = self.lane.take()?;
        let done = act(&mut lane);
        self.lane.set(Some(lane));
        Some(done)
    }
}

impl Worker for LaneWorker<'_> {
    fn snapshot(&self, ctx: &Context) -> Arc<Snapshot> {
        self.with_lane(Lane::snapshot)
            .unwrap_or_else(|| ctx.snapshot())
    }

    fn may_begin(&self) -> bool {
        let held = self.held.take();
        let held = held.or_else(|| self.shared.budget.take().map(Held::Work));
        let may = held.is_some();
        self.held.set(held);
        may
    }

    fn reads_body(&self, client: &Client) {
        if self.slot.get().is_some() {
            self.body_from.set(Some(client.conn.stream().as_raw_fd()));
        }
    }

    fn takes_over(&self, client: &Client) {
        if let Some(slot) = self.slot.take() {
            self.handle.unwatch(client.conn.stream().as_raw_fd());
            if self.with_lane(|lane| lane.forget(Some(slot))).is_none() {
                drop(self.handle.put(Mail::ClientLeft(slot)));
            }
        }
    }

    fn takes_over_hop(&self, conn: &mut Conn) {
        self.shared.unwatch_hop(conn);
    }

    fn may_block(&self) {
        let Some(mut lane) = self.lane.take() else {
            return;
        };
        if let Some(fd) = self.body_from.take() {
            self.handle.unwatch(fd);
            lane.forget(self.slot.take());
        }
        let lent = Lent::new(self.held.take());
        lane.lends(&lent);
        match (self.hand_on)(lane) {
            Ok(()) => {
                self.lent.set(Some(lent));
                // The new leader may be queued for this very core: others wait for it, and for nobody here.
                thread::yield_now();
            }
            Err(mut same) => {
                same.is_back(&lent);
                self.held.set(lent.take());
                self.lane.set(Some(same));
            }
        }
    }

    fn may_suspend(&self) -> bool {
        self.may_suspend
    }

    fn home(&self) -> usize {
        self.handle.number
    }
}

/// Who ends an exchange that is cut.
struct Last;

impl Worker for Last {
    fn may_begin(&self) -> bool {
        false
    }

    fn may_block(&self) {}

    fn may_suspend(&self) -> bool {
        false
    }
}

/// Ends an exchange for which there is no lane left.
fn cut(ctx: &Arc<Context>, suspended: Suspended) {
    let mut scratch = Scratch::default();
    drop(catch_unwind(AssertUnwindSafe(|| {
        session::resume(ctx, &mut scratch, suspended, &Last)
    })));
}
