//! All lanes, and what they share.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::config::limits::Limits;
use crate::net::conn::Conn;
use crate::net::inherited::ListenerOwner;
use crate::net::permits::Permits;
use crate::net::socket;
use crate::relay::Context;

use super::Failure;
use super::budget::Budget;
use super::cores::Cores;
use super::door::{Arrivals, Door};
use super::lane::followers::Followers;
use super::lane::inbox::{Handle, Mail};
use super::lane::{self, Lane};
use super::systemd::SystemdReporter;

/// Connections refused without a permit that may linger at once, if there are file descriptors
/// enough; more are closed at once.
const MOST_UNCOUNTED: usize = 256;
/// The share of all file descriptors that those may use: they come out of the reserve.
const UNCOUNTED_SHARE: usize = 16;
/// So many more connections than the emptiest lane has another may have before it gives a new one away.
const UNEVEN: usize = 1;

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) ctx: Arc<Context>,
    pub(super) service: Arc<SystemdReporter>,
    pub(super) door: Door,
    /// How many requests may be at work.
    pub(super) budget: Arc<Budget>,
    /// How many may wait for that.
    pub(super) queue: Arc<Permits>,
    pub(super) followers: Arc<Followers>,
    pub(super) failure: Arc<Failure>,
    /// For each lane.
    pub(super) most_uncounted: usize,
    pub(super) cores: Cores,
    handles: Vec<Arc<Handle>>,
}

/// How many requests may be at work, and how many may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    workers: usize,
    queue: usize,
}

impl Bounds {
    /// What `limits` says, and for what it leaves open what this machine suggests.
    pub(super) fn of(limits: &Limits) -> Self {
        let auto = (64 * cores()).clamp(512, 1024);
        let workers = limits.workers.map_or(auto, usize::from);
        Self {
            workers,
            queue: limits.queue.map_or(4 * workers, usize::from),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

impl Lanes {
    /// A lane for each core; nothing is served before [`Lanes::start`].
    ///
    /// # Errors
    /// When the process has no file descriptors or no memory left.
    pub(super) fn new(
        (ctx, service, failure): (&Arc<Context>, &Arc<SystemdReporter>, &Arc<Failure>),
        listener: (TcpListener, ListenerOwner),
        connections: &Arc<Permits>,
    ) -> io::Result<(Arc<Self>, Vec<Box<Lane>>)> {
        let count = std::env::var("HPLB_LANES")
            .ok()
            .and_then(|n| n.parse().ok());
        let polls: Vec<_> = (0..count.unwrap_or_else(cores))
            .map(lane::poll)
            .collect::<io::Result<_>>()?;
        let bounds = Bounds::of(&ctx.snapshot().config.limits);
        let uncounted = (socket::raise_file_limit() / UNCOUNTED_SHARE).min(MOST_UNCOUNTED);
        let lanes = Arc::new(Self {
            ctx: Arc::clone(ctx),
            service: Arc::clone(service),
            door: Door::new(ctx, listener, connections),
            budget: Budget::new(bounds.workers, ctx.long_threads.clone()),
            queue: Permits::new(bounds.queue),
            followers: Arc::default(),
            failure: Arc::clone(failure),
            cores: Cores::new(),
            most_uncounted: (uncounted / polls.len()).max(1),
            handles: polls.iter().map(|(_, handle)| Arc::clone(handle)).collect(),
        });
        let polls = polls.into_iter();
        let all = polls.map(|(poll, handle)| Lane::new(&lanes, poll, &handle));
        let all = all.collect::<io::Result<_>>()?;
        Ok((lanes, all))
    }

    /// Serves from now on.
    ///
    /// # Errors
    /// When there are no threads.
    pub(super) fn start(&self, lanes: Vec<Box<Lane>>) -> io::Result<()> {
        for lane in lanes {
            self.followers
                .hand_on(lane)
                .map_err(|_lane| io::Error::other("there is no thread for a lane"))?;
        }
        Ok(())
    }

    /// Puts other bounds in force; what is beyond them is left alone.
    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.budget.set_limit(bounds.workers);
        self.queue.set_limit(bounds.queue);
        // Each of them lets go of the configuration that was.
        self.wake();
    }

    /// Has every leader go round.
    pub(super) fn wake(&self) {
        self.handles.iter().for_each(|lane| lane.wake());
    }

    /// The lane that gets a new client, if that is not `own`; it counts there from now on.
    pub(super) fn emptiest(&self, own: &Arc<Handle>) -> Option<&Arc<Handle>> {
        let load = |lane: &Handle| lane.load.load(Ordering::Relaxed);
        let emptiest = self.handles.iter().min_by_key(|lane| load(lane))?;
        if load(own) <= load(emptiest) + UNEVEN {
            own.load.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        emptiest.load.fetch_add(1, Ordering::Relaxed);
        Some(emptiest)
    }

    /// From now on no lane has anything to do with the events of a next hop.
    pub(super) fn unwatch_hop(&self, conn: &mut Conn) {
        if let Some((home, _)) = conn.watched_as()
            && let Some(handle) = self.handles.get(home)
        {
            handle.unwatch_hop(conn);
        }
    }

    /// How many connections wait for a request or the rest of one.
    pub(super) fn parked(&self) -> usize {
        self.sum(|lane| &lane.parked)
    }

    /// How many are about to be closed and still hold their permits.
    pub(super) fn lingering(&self) -> usize {
        self.sum(|lane| &lane.lingering)
    }

    fn sum(&self, number: impl Fn(&Handle) -> &AtomicUsize) -> usize {
        let numbers = self.handles.iter().map(|lane| number(lane));
        numbers.map(|number| number.load(Ordering::Relaxed)).sum()
    }

    /// How long ago the leader went round that has not for longest.
    pub(super) fn oldest_pulse(&self) -> Duration {
        let ages = self.handles.iter().map(|lane| lane.pulse.age());
        ages.max().unwrap_or_default()
    }

    fn tell(&self, what: impl Fn() -> Mail) {
        for lane in &self.handles {
            drop(lane.post(what()));
        }
    }

    /// Closes the door.
    pub(super) fn close_door(&self) {
        self.door.with(|listener| {
            for lane in &self.handles {
                lane.unwatch(listener.as_raw_fd());
            }
        });
        let mut arrivals = Arrivals::default();
        self.door.close(&mut arrivals);
        for (client, lane) in arrivals
            .clients
            .into_iter()
            .zip(self.handles.iter().cycle())
        {
            drop(lane.post(Mail::Came(client)));
        }
    }

    /// Closes idle connections from now on. What already sent something is still served.
    pub(super) fn drain(&self) {
        self.tell(|| Mail::Drain);
    }

    /// Cuts everything, and lets the threads go.
    pub(super) fn end(&self, deadline: Instant) {
        self.tell(|| Mail::End);
        self.followers.close();
        self.followers.wait_until_over(deadline);
    }
}
