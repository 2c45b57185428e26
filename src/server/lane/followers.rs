//! Threads that lead a lane, or wait to.
//!
//! A leader that may have to wait for a peer hands its lane on to one of those that wait here, and comes here
//! itself when it is done. The one that came last is the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::net::log_limiter::LogLimiter;
use crate::net::threads;
use crate::relay::Scratch;

use super::Lane;
use super::seat::lead;

/// How long a thread without a lane stays.
const LEAVE_AFTER: Duration = Duration::from_secs(10);

/// What is said when there is no thread.
static NO_THREAD: LogLimiter = LogLimiter::new();

/// The threads of all lanes.
#[derive(Default)]
pub(in crate::server) struct Followers {
    state: Mutex<State>,
    /// A thread left.
    left: Condvar,
}

impl std::fmt::Debug for Followers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Followers").field(&self.count()).finish()
    }
}

#[derive(Default)]
struct State {
    idle: Vec<Arc<Follower>>,
    threads: usize,
    is_closing: bool,
}

/// Where one thread finds its next lane.
#[derive(Default)]
struct Follower {
    order: Mutex<Order>,
    given: Condvar,
}

/// What a thread that waits is to do.
#[derive(Default)]
enum Order {
    #[default]
    Wait,
    Lead(Box<Lane>),
    Leave,
}

/// Counts a thread out when dropped.
struct Leaves<'a>(&'a Followers);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.state.lock().threads -= 1;
        self.0.left.notify_all();
    }
}

impl Follower {
    fn gets(&self, order: Order) {
        *self.order.lock() = order;
        self.given.notify_one();
    }
}

impl Followers {
    /// Has another thread lead `lane`. It comes back when there is none.
    pub(in crate::server) fn hand_on(self: &Arc<Self>, lane: Box<Lane>) -> Result<(), Box<Lane>> {
        let mut state = self.state.lock();
        if let Some(idle) = state.idle.pop() {
            drop(state);
            idle.gets(Order::Lead(lane));
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        self.start(lane)
    }

    fn start(self: &Arc<Self>, lane: Box<Lane>) -> Result<(), Box<Lane>> {
        let failure = Arc::clone(&lane.lanes.failure);
        let own = Arc::<Follower>::default();
        *own.order.lock() = Order::Lead(lane);
        let (followers, follower) = (Arc::clone(self), Arc::clone(&own));
        let started = threads::start("worker", move || {
            let leaves = Leaves(&followers);
            failure.essential("worker", || followers.stay(&follower));
            drop(leaves);
        });
        let Err(error) = started else { return Ok(()) };
        drop(Leaves(self));
        if let Some(more) = NO_THREAD.allow() {
            log::error!("no thread to serve others with while one waits: {error}{more}");
        }
        match std::mem::take(&mut *own.order.lock()) {
            Order::Lead(lane) => Err(lane),
            Order::Wait | Order::Leave => Ok(()),
        }
    }

    fn stay(&self, own: &Arc<Follower>) {
        let mut scratch = Scratch::default();
        while let Some(lane) = self.next_lane(own) {
            lead(lane, &mut scratch);
            let mut state = self.state.lock();
            if state.is_closing {
                return;
            }
            state.idle.push(Arc::clone(own));
        }
    }

    fn next_lane(&self, own: &Arc<Follower>) -> Option<Box<Lane>> {
        let mut order = own.order.lock();
        loop {
            match std::mem::take(&mut *order) {
                Order::Lead(lane) => return Some(lane),
                Order::Leave => return None,
                Order::Wait => {}
            }
            let waited = own.given.wait_for(&mut order, LEAVE_AFTER);
            if waited.timed_out() && matches!(*order, Order::Wait) {
                drop(order);
                let mut state = self.state.lock();
                let place = state.idle.iter().position(|idle| Arc::ptr_eq(idle, own));
                if let Some(place) = place {
                    state.idle.remove(place);
                    return None;
                }
                // It was taken off the list: an order is about to come.
                drop(state);
                order = own.order.lock();
            }
        }
    }

    /// Threads there are.
    pub(in crate::server) fn count(&self) -> usize {
        self.state.lock().threads
    }

    /// Lets go of the threads that have nothing to do, from now on.
    pub(in crate::server) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closing = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        for follower in idle {
            follower.gets(Order::Leave);
        }
    }

    /// Waits until a thread leaves, at most `limit`.
    pub(in crate::server) fn wait_a_moment(&self, limit: Duration) {
        self.left.wait_for(&mut self.state.lock(), limit);
    }

    /// Waits until no thread is left, until `deadline`.
    pub(in crate::server) fn wait_until_over(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.threads > 0 {
            if self.left.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}
