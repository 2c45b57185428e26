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

use super::failure::Failure;

/// How long a thread without a lane stays.
const LEAVE_AFTER: Duration = Duration::from_secs(10);

/// What is said when there is no thread.
static NO_THREAD: LogLimiter = LogLimiter::new();

/// What a thread leads.
pub(super) trait Led: Send + Sized + 'static {
    /// Leads it on this thread until it has ended, or was handed on.
    fn lead(self: Box<Self>, followers: &Arc<Followers<Self>>, scratch: &mut Scratch);
}

/// The threads of all lanes.
pub(super) struct Followers<L> {
    state: Mutex<State<L>>,
    /// A thread left.
    left: Condvar,
    failure: Arc<Failure>,
}

impl<L> std::fmt::Debug for Followers<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let threads = self.state.lock().threads;
        f.debug_tuple("Followers").field(&threads).finish()
    }
}

struct State<L> {
    idle: Vec<Arc<Follower<L>>>,
    threads: usize,
    is_closing: bool,
}

/// Where one thread finds its next lane.
struct Follower<L> {
    order: Mutex<Order<L>>,
    given: Condvar,
}

/// What a thread that waits is to do.
enum Order<L> {
    Wait,
    Lead(Box<L>),
    Leave,
}

/// Counts a thread out when dropped.
struct Leaves<'a, L>(&'a Followers<L>);

impl<L> Drop for Leaves<'_, L> {
    fn drop(&mut self) {
        self.0.state.lock().threads -= 1;
        self.0.left.notify_all();
    }
}

impl<L> Follower<L> {
    fn new(order: Order<L>) -> Arc<Self> {
        Arc::new(Self {
            order: Mutex::new(order),
            given: Condvar::new(),
        })
    }

    fn give(&self, order: Order<L>) {
        *self.order.lock() = order;
        self.given.notify_one();
    }

    fn take(&self) -> Order<L> {
        std::mem::replace(&mut self.order.lock(), Order::Wait)
    }

    /// The next order; [`Order::Wait`]: none came in time.
    fn wait(&self) -> Order<L> {
        let mut order = self.order.lock();
        if matches!(*order, Order::Wait) {
            self.given.wait_while_for(
                &mut order,
                |order| matches!(order, Order::Wait),
                LEAVE_AFTER,
            );
        }
        std::mem::replace(&mut order, Order::Wait)
    }
}

impl<L: Led> Followers<L> {
    /// No threads; they come with the lanes.
    pub(super) fn new(failure: &Arc<Failure>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                idle: Vec::new(),
                threads: 0,
                is_closing: false,
            }),
            left: Condvar::new(),
            failure: Arc::clone(failure),
        })
    }

    /// Has another thread lead `lane`.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn hand_on(self: &Arc<Self>, lane: Box<L>) -> Result<(), Box<L>> {
        let mut state = self.state.lock();
        if let Some(idle) = state.idle.pop() {
            drop(state);
            idle.give(Order::Lead(lane));
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let (followers, own) = (Arc::clone(self), Follower::new(Order::Lead(lane)));
        let follower = Arc::clone(&own);
        let started = threads::start("worker", move || {
            let leaves = Leaves(&followers);
            let stay = || followers.stay(&follower);
            followers.failure.essential("worker", stay);
            drop(leaves);
        });
        let Err(error) = started else { return Ok(()) };
        drop(Leaves(self));
        if let Some(more) = NO_THREAD.allow() {
            log::error!("no thread to serve others with while one waits: {error}{more}");
        }
        match own.take() {
            Order::Lead(lane) => Err(lane),
            Order::Wait | Order::Leave => Ok(()),
        }
    }

    fn stay(self: &Arc<Self>, own: &Arc<Follower<L>>) {
        let mut scratch = Scratch::default();
        loop {
            match own.wait() {
                Order::Lead(lane) => lane.lead(self, &mut scratch),
                Order::Leave => return,
                Order::Wait => {
                    let mut state = self.state.lock();
                    let place = state.idle.iter().position(|idle| Arc::ptr_eq(idle, own));
                    if let Some(place) = place {
                        state.idle.remove(place);
                        return;
                    }
                    // It was taken off the list: an order is about to come.
                    continue;
                }
            }
            let mut state = self.state.lock();
            if state.is_closing {
                return;
            }
            state.idle.push(Arc::clone(own));
        }
    }

    /// Threads there are.
    pub(super) fn count(&self) -> usize {
        self.state.lock().threads
    }

    /// Lets go of the threads that have nothing to do, from now on.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closing = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        for follower in idle {
            follower.give(Order::Leave);
        }
    }

    /// Waits until a thread leaves, at most `limit`.
    pub(super) fn wait_a_moment(&self, limit: Duration) {
        self.left.wait_for(&mut self.state.lock(), limit);
    }

    /// Waits until no thread is left, until `deadline`.
    pub(super) fn wait_until_over(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.threads > 0 {
            if self.left.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{self, ThreadId};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Says who leads it, and goes on once it is told to.
    struct Lane(Sender<ThreadId>, Receiver<()>);

    impl Led for Lane {
        fn lead(self: Box<Self>, _followers: &Arc<Followers<Self>>, _scratch: &mut Scratch) {
            self.0.send(thread::current().id()).unwrap();
            assert!(self.1.recv().is_err());
        }
    }

    fn lane() -> (Box<Lane>, Receiver<ThreadId>, Sender<()>) {
        let (tell, told) = channel();
        let (go, gone) = channel();
        (Box::new(Lane(tell, gone)), told, go)
    }

    #[test]
    fn a_thread_that_is_done_leads_the_next_lane_and_a_busy_one_does_not() {
        let followers = Followers::new(&Arc::default());
        let (first, told, go) = lane();
        assert!(followers.hand_on(first).is_ok());
        let one = told.recv_timeout(PATIENCE).unwrap();
        let (second, told, _stay) = lane();
        assert!(followers.hand_on(second).is_ok());
        let two = told.recv_timeout(PATIENCE).unwrap();
        assert_ne!(one, two);
        drop(go);
        while followers.state.lock().idle.is_empty() {
            thread::yield_now();
        }
        let (third, told, _stay) = lane();
        assert!(followers.hand_on(third).is_ok());
        assert_eq!(told.recv_timeout(PATIENCE), Ok(one));
        assert_eq!(followers.count(), 2);
    }

    /// Breaks down as a lane would whose own code is wrong: what a session does is caught elsewhere.
    struct Broken;

    impl Led for Broken {
        fn lead(self: Box<Self>, _followers: &Arc<Followers<Self>>, _scratch: &mut Scratch) {
            panic!("a lane breaks down");
        }
    }

    #[test]
    fn a_lane_that_breaks_down_ends_the_program() {
        let failure = Arc::<Failure>::default();
        let (tell, told) = channel();
        let tell = Box::new(move || tell.send(()).unwrap());
        assert!(failure.told.set(tell).is_ok());
        let followers = Followers::new(&failure);
        assert!(followers.hand_on(Box::new(Broken)).is_ok());
        assert_eq!(told.recv_timeout(PATIENCE), Ok(()));
        assert_eq!(failure.thread.get(), Some(&"worker"));
    }

    #[test]
    fn all_threads_leave_once_it_is_closed() {
        let followers = Followers::new(&Arc::default());
        let (first, _told, busy) = lane();
        let (second, _told, idle) = lane();
        assert!(followers.hand_on(first).is_ok() && followers.hand_on(second).is_ok());
        drop(idle);
        while followers.state.lock().idle.is_empty() {
            thread::yield_now();
        }
        followers.close();
        drop(busy);
        followers.wait_until_over(Instant::now() + PATIENCE);
        assert_eq!(followers.count(), 0);
    }
}
