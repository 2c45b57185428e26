//! The lanes of a server, one for each core.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::config::limits::Limits;
use crate::net::inherited::ListenerOwner;
use crate::net::permits::Permits;
use crate::net::socket;
use crate::net::threads;
use crate::relay::Context;

use super::acceptor::Acceptor;
use super::budget::Budget;
use super::failure::Failure;
use super::followers::Followers;
use super::inbox::{LaneHandle, Mail};
use super::lane::Lane;
use super::shared::Shared;

/// File descriptors that connections may not use: files, probes, the resolver, reserves.
const RESERVED_FILES: usize = 32;
/// Connections refused without a permit that may linger at once, if there are file descriptors
/// enough; more are closed at once.
const MOST_UNCOUNTED: usize = 256;
/// The share of all file descriptors that those may use: they come out of the reserve.
const UNCOUNTED_SHARE: usize = 16;

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) shared: Arc<Shared>,
    pub(super) followers: Arc<Followers<Lane>>,
}

/// How many requests may be at work, and how many may wait.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    workers: usize,
    queue: usize,
}

impl Bounds {
    /// What `limits` says, and for what it leaves open what this machine suggests.
    fn of(limits: &Limits) -> Self {
        let auto = (64 * threads::cores()).clamp(512, 1024);
        let workers = limits.workers.map_or(auto, usize::from);
        Self {
            workers,
            queue: limits.queue.map_or(4 * workers, usize::from),
        }
    }
}

/// `limits.max_connections`, but never more than file descriptors allow: each connection may need one
/// more to its next hop.
pub(super) fn most_connections(ctx: &Context) -> usize {
    let files = socket::raise_file_limit();
    let reserved = RESERVED_FILES.max((files / 8).min(256));
    let possible = (files.saturating_sub(reserved) / 2).max(1);
    match ctx.snapshot().config.limits.max_connections {
        None => possible,
        Some(wanted) if wanted.get() > possible => {
            log::warn!(
                "limits.max_connections is {wanted}, but the limit of open files ({files}) allows \
                 only {possible}"
            );
            possible
        }
        Some(wanted) => wanted.get(),
    }
}

impl Lanes {
    /// A lane for each core; nothing is served before [`Lanes::start`].
    ///
    /// # Errors
    /// When the process has no file descriptors or no memory left.
    pub(super) fn new(
        (ctx, failure): (&Arc<Context>, &Arc<Failure>),
        listener: (TcpListener, ListenerOwner),
        connections: &Arc<Permits>,
        wakes_every: Option<Duration>,
    ) -> io::Result<(Arc<Self>, Vec<Lane>)> {
        let polls = (0..threads::cores()).map(LaneHandle::new);
        let polls: Vec<_> = polls.collect::<io::Result<_>>()?;
        let bounds = Bounds::of(&ctx.snapshot().config.limits);
        let uncounted = (socket::raise_file_limit() / UNCOUNTED_SHARE).min(MOST_UNCOUNTED);
        let shared = Arc::new(Shared {
            ctx: Arc::clone(ctx),
            acceptor: Acceptor::new(ctx, listener, connections),
            budget: Budget::new(bounds.workers, ctx.long_threads.clone()),
            queue: Permits::new(bounds.queue),
            most_uncounted: (uncounted / polls.len()).max(1),
            wakes_every,
            lanes: polls.iter().map(|(_, lane)| Arc::clone(lane)).collect(),
        });
        let polls = polls.into_iter();
        let all = polls.map(|(poll, handle)| Lane::new(&shared, poll, &handle));
        let all = all.collect::<io::Result<_>>()?;
        let followers = Followers::new(failure);
        Ok((Arc::new(Self { shared, followers }), all))
    }

    /// Serves from now on.
    ///
    /// # Errors
    /// When there are no threads.
    pub(super) fn start(&self, lanes: Vec<Lane>) -> io::Result<()> {
        for lane in lanes {
            let started = self.followers.hand_on(Box::new(lane));
            started.map_err(|_lane| io::Error::other("there is no thread for a lane"))?;
        }
        Ok(())
    }

    /// What a change of the configuration changes here; what is beyond its limits is left alone.
    pub(super) fn apply_limits(&self, connections: &Permits) {
        let ctx = &self.shared.ctx;
        connections.set_limit(most_connections(ctx));
        let bounds = Bounds::of(&ctx.snapshot().config.limits);
        self.shared.budget.set_limit(bounds.workers);
        self.shared.queue.set_limit(bounds.queue);
        // Each of them lets go of the configuration that was.
        self.shared.wake();
    }

    /// How many connections wait for a request or the rest of one.
    pub(super) fn parked(&self) -> usize {
        self.sum(|lane| &lane.parked)
    }

    /// How many are about to be closed and still hold their permits.
    pub(super) fn lingering(&self) -> usize {
        self.sum(|lane| &lane.lingering)
    }

    fn sum(&self, number: impl Fn(&LaneHandle) -> &AtomicUsize) -> usize {
        let numbers = self.shared.lanes.iter().map(|lane| number(lane));
        numbers.map(|number| number.load(Ordering::Relaxed)).sum()
    }

    /// How long ago the leader went round that has not for longest.
    pub(super) fn oldest_pulse(&self) -> Duration {
        let ages = self.shared.lanes.iter().map(|lane| lane.pulse.age());
        ages.max().unwrap_or_default()
    }

    /// Closes idle connections from now on. What already sent something is still served.
    pub(super) fn drain(&self) {
        self.shared.tell(|| Mail::Drain);
    }

    /// Cuts everything, and lets the threads go.
    pub(super) fn end(&self, deadline: Instant) {
        self.shared.tell(|| Mail::End);
        self.followers.close();
        self.followers.wait_until_over(deadline);
    }
}
