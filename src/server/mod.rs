//! The server: which threads there are, who starts and joins them, and how it all ends.
//!
//! ```text
//!  main ── Server::start ── waits for signals ── drain ── join
//!                                       ┌── Park, Suspended ──┐
//!  lane x1 per core   accept ─ permit ─▶ poll ─ ready ─▶ leader x1 ─ session::serve ── Tunnel ─▶ tunnels
//!                                       ▲                     │ may wait for a peer: hands the lane on
//!                                       └─ inbox ◀─ follower xN ◀┘
//!  health x1   reload x1   sweeper x1   service x0..1
//! ```
//!
//! Read in this order: [`table`], [`budget`], [`inbox`], [`lane`], [`followers`], [`worker`], [`lanes`].
//!
//! The end has two stages (see [`crate::stop::Stage`]): draining finishes what is in flight, and when
//! the drain time is over, or a second signal comes, everything is cut.

mod acceptor;
mod budget;
mod checks;
mod failure;
mod followers;
mod inbox;
mod lane;
mod lanes;
mod pages;
mod pulse;
mod shared;
pub mod signals;
mod systemd;
mod table;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::admin::{Admin, DrainFile, Load, RelayView};
use crate::balance::state::Availability;
use crate::config::checked::Config;
use crate::config::listen::ListenAddress;
use crate::config::source::Source;
use crate::net::inherited::{self, InheritedSockets, ListenerOwner};
use crate::net::permits::Permits;
use crate::net::resolve::Resolver;
use crate::net::systemd_notifier::SystemdNotifier;
use crate::net::threads;
use crate::relay::Context;
use crate::reload::{self, Changes};
use crate::stop::{Notify, Stage, Woken};

use acceptor::Acceptor;
use failure::Failure;
use lanes::{Lanes, most_connections};
use systemd::{Follower, ServerView, SystemdReporter};

/// How often idle connections to upstreams and idle pipes are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long threads get to notice that everything was cut.
const CUT_TIME: Duration = Duration::from_secs(3);

/// How long connections that were accepted last get to send something before a drain closes them as
/// idle, if the next process would have served them.
const FIRST_BYTES: Duration = Duration::from_millis(500);

/// What a server needs beside its configuration.
#[derive(Debug, Default)]
pub struct Options {
    /// Asks for addresses; the system by default.
    pub resolver: Resolver,
    /// Where the configuration came from; without it there is nothing to reload.
    pub source: Option<Source>,
    /// The service manager that is told what goes on; none by default.
    pub notifier: SystemdNotifier,
    /// Sockets that are open already; none by default.
    pub passed: InheritedSockets,
    /// Where drains are kept over a restart; nowhere by default.
    pub drains: DrainFile,
}

/// A running relay.
#[derive(Debug)]
pub struct Server {
    ctx: Arc<Context>,
    address: SocketAddr,
    owner: ListenerOwner,
    lanes: Arc<Lanes>,
    connections: Arc<Permits>,
    reload_notify: Notify,
    service: Arc<SystemdReporter>,
    admin: Option<Admin>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    failure: Arc<Failure>,
}

/// What a server is doing right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Client connections, tunnels included.
    pub connections: usize,
    /// Those that wait for a request.
    pub parked: usize,
    /// Threads that lead a lane, follow, or wait for one.
    pub workers: usize,
    /// Requests at work, with a thread or without.
    pub busy: usize,
    /// Exchanges that gave up their permit because they last.
    pub long: usize,
    /// Tunnels.
    pub tunnels: usize,
    /// Clients that wait for a permit.
    pub queue: usize,
    /// Panics so far; each cost one connection.
    pub panics: u64,
}

/// An upstream as people see it.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each answers a question of its own"
)]
pub struct UpstreamReport {
    /// Its name.
    pub name: String,
    /// `http://host:port` or `socks5://host:port`.
    pub url: String,
    /// Whether it takes part: it is not offline.
    pub online: bool,
    /// Whether it is asked last until a check has decided.
    pub suspect: bool,
    /// Whether a check has come to its end, ever.
    pub was_checked: bool,
    /// Why it is offline.
    pub reason: Option<String>,
    /// What was seen last that bears on its state.
    pub evidence: String,
    /// Exchanges and tunnels it has now.
    pub active: u64,
    /// Its average time to answer.
    pub latency: Option<Duration>,
    /// Failures in a row.
    pub consecutive_failures: u64,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everything in flight was finished.
    Clean,
    /// The time was over first; this many tunnels and exchanges were cut.
    Cut(usize),
}

impl Server {
    /// Binds `listen` and starts serving.
    ///
    /// # Errors
    /// When the address cannot be bound (which, and why), the access log cannot be opened, or the
    /// system lacks descriptors or threads.
    pub fn start(config: Config, options: Options) -> io::Result<Self> {
        let (listener, owner) =
            inherited::or_listen(options.passed.proxy, "listen", &config.listen)?;
        let admin = admin_listener(options.passed.admin, &config)?;
        Acceptor::prepare(&listener)?;
        let address = listener.local_addr()?;
        let access_log = config.access_log.clone();
        let ctx = Arc::new(Context::new(config, options.resolver)?);
        ctx.access_log.configure(access_log.as_ref())?;
        options.drains.restore(&ctx.snapshot().pool);
        let service = Arc::new(SystemdReporter::new(options.notifier));
        let failure = Arc::<Failure>::default();
        let connections = Permits::new(most_connections(&ctx));
        let listener = (listener, owner);
        let (lanes, all) = Lanes::new(
            (&ctx, &failure),
            listener,
            &connections,
            service.wakes_every,
        )?;
        let observed = Observed {
            ctx: Arc::clone(&ctx),
            lanes: Arc::clone(&lanes),
            connections: Arc::clone(&connections),
            drains: options.drains,
        };
        let start = |(listener, listen)| Admin::start(listener, listen, Arc::new(observed));
        let server = Self {
            admin: admin.map(start).transpose()?,
            reload_notify: ctx.stop.subscribe(),
            ctx,
            address,
            owner,
            lanes,
            connections,
            service,
            threads: Mutex::default(),
            failure,
        };
        server.start_threads(options.source)?;
        server.lanes.start(all)?;
        server.start_service()?;
        Ok(server)
    }

    fn start_threads(&self, source: Option<Source>) -> io::Result<()> {
        for event_loop in self.ctx.tunnels.event_loops() {
            self.keep(self.essential("tunnels", event_loop)?);
        }
        let ctx = Arc::clone(&self.ctx);
        self.keep(self.essential("health", move || checks::run(ctx))?);
        let (ctx, notify) = (Arc::clone(&self.ctx), self.ctx.stop.subscribe());
        self.keep(self.essential("sweeper", move || sweep(&ctx, &notify))?);
        if let Some(source) = source {
            let (ctx, notify) = (Arc::clone(&self.ctx), self.reload_notify.clone());
            let follower = Follower {
                connections: Arc::clone(&self.connections),
                lanes: Arc::clone(&self.lanes),
                service: Arc::clone(&self.service),
            };
            let reloader = move || reload::run(&source, &ctx, &notify, &follower);
            self.keep(self.essential("reload", reloader)?);
        }
        Ok(())
    }

    /// Tells the service manager, if there is one, that this server serves, and keeps telling it.
    fn start_service(&self) -> io::Result<()> {
        if !self.service.notifier.is_there() {
            return Ok(());
        }
        let service = Arc::clone(&self.service);
        let seen = ServerView {
            ctx: Arc::clone(&self.ctx),
            lanes: Arc::clone(&self.lanes),
            connections: Arc::clone(&self.connections),
        };
        self.keep(self.essential("service", move || service.run(&seen))?);
        self.service.notifier.ready();
        Ok(())
    }

    /// Starts a thread without which the relay only looks alive: should it panic, the program ends with
    /// an error, and whoever supervises it starts it anew.
    fn essential(
        &self,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let failure = Arc::clone(&self.failure);
        threads::start(name, move || failure.essential(name, run))
    }

    fn keep(&self, thread: JoinHandle<()>) {
        self.threads.lock().push(thread);
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin server listens, if there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Says in the log what is running, for whoever reads it first.
    fn announce(&self) {
        let snapshot = self.ctx.snapshot();
        let config = &snapshot.config;
        let count = snapshot.pool.upstreams().len();
        log::info!(
            "http-proxy-lb {} listens on {}; {count} upstream{}, {}",
            env!("CARGO_PKG_VERSION"),
            self.address,
            if count == 1 { "" } else { "s" },
            config.mode
        );
        if let Some(address) = self.admin_addr() {
            log::info!("the admin endpoints are at http://{address}/");
        }
        for upstream in snapshot.pool.upstreams() {
            log::info!("upstream {} at {}", upstream.spec.name, upstream.url());
        }
    }

    /// What its parts share.
    pub fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// Looks at the configuration file now.
    pub fn reload_now(&self) {
        self.reload_notify.notify_one();
    }

    /// Puts `config` in force, as a changed file would.
    ///
    /// # Errors
    /// When its access log cannot be opened; then nothing has changed.
    pub fn reload(&self, config: Config) -> io::Result<Changes> {
        let changes = reload::apply(&self.ctx, config)?;
        self.lanes.apply_limits(&self.connections);
        Ok(changes)
    }

    /// What it is doing right now.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.connections.taken(),
            parked: self.lanes.parked(),
            workers: self.lanes.followers.count(),
            busy: self.lanes.shared.budget.taken(),
            long: self.lanes.shared.budget.lasting(),
            tunnels: self.ctx.tunnels.count(),
            queue: self.lanes.shared.queue.taken(),
            panics: self.ctx.metrics.panics.value(),
        }
    }

    /// Its upstreams.
    pub fn upstreams(&self) -> Vec<UpstreamReport> {
        let snapshot = self.ctx.snapshot();
        let report = |upstream: &Arc<crate::balance::upstream::Upstream>| {
            let vitals = upstream.vitals();
            let state = vitals.state();
            UpstreamReport {
                name: upstream.spec.name.clone(),
                url: upstream.url().to_owned(),
                online: state.availability != Availability::Offline,
                suspect: state.availability == Availability::Suspect,
                was_checked: state.last_check.is_some(),
                reason: state.reason.map(|reason| reason.to_string()),
                evidence: vitals.evidence().into(),
                active: vitals.active(),
                latency: vitals.latency(),
                consecutive_failures: vitals.consecutive_failures(),
            }
        };
        snapshot.pool.upstreams().iter().map(report).collect()
    }

    /// Stops accepting, closes idle connections, and waits for what is in flight, at most
    /// `limits.shutdown_timeout_secs`; then cuts what is left and joins every thread.
    pub fn drain(&self) -> Drained {
        let limit = self.ctx.snapshot().config.limits.shutdown_timeout;
        let deadline = Instant::now() + limit;
        self.ctx.stop.advance(Stage::Draining);
        self.service.notifier.stopping();
        self.lanes.shared.close_acceptor();
        if self.owner == ListenerOwner::ServiceManager {
            self.wait_for_first_bytes(deadline);
        }
        self.lanes.drain();
        let drained = self.wait_until_quiet(deadline);
        self.end();
        drained
    }

    /// Whoever connected last may not have sent its request yet. Where clients are refused from now on,
    /// one more does not matter; where they are promised that they are not, it gets a moment.
    fn wait_for_first_bytes(&self, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + FIRST_BYTES);
        while self.lanes.parked() > 0
            && Instant::now() < deadline
            && self.ctx.stop.stage() != Stage::Ended
        {
            self.lanes.followers.wait_a_moment(DRAIN_TICK);
        }
    }

    /// Every connection that has not had its last answer holds a permit.
    fn wait_until_quiet(&self, deadline: Instant) -> Drained {
        loop {
            let left = self.connections.taken();
            let left = left.saturating_sub(self.lanes.lingering());
            if left == 0 {
                return Drained::Clean;
            }
            if Instant::now() >= deadline || self.ctx.stop.stage() == Stage::Ended {
                return Drained::Cut(left);
            }
            self.lanes.followers.wait_a_moment(DRAIN_TICK);
        }
    }

    /// Ends the admin server, whose temporary folder must not stay behind.
    fn close_admin(&self) {
        if let Some(admin) = &self.admin {
            admin.end();
        }
    }

    /// Cuts what is left.
    fn end(&self) {
        self.ctx.stop.advance(Stage::Ended);
        self.ctx.tunnels.cut();
        self.service.finish();
        let deadline = Instant::now() + CUT_TIME;
        self.lanes.end(deadline);
        self.ctx.tunnels.wait_until_over(deadline);
        self.ctx.tunnels.finish();
        let threads = std::mem::take(&mut *self.threads.lock());
        threads.into_iter().for_each(join);
        self.close_admin();
        #[cfg(feature = "tls")]
        {
            self.ctx.snapshot().clear_idle_pools();
            crate::net::tls::finish(CUT_TIME);
        }
        self.ctx.access_log.finish(Duration::from_secs(1));
    }
}

/// What the admin server sees of a server.
struct Observed {
    ctx: Arc<Context>,
    lanes: Arc<Lanes>,
    connections: Arc<Permits>,
    drains: DrainFile,
}

impl RelayView for Observed {
    fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    fn load(&self) -> Load {
        let lanes = &self.lanes;
        Load {
            connections: self.connections.taken(),
            most_connections: self.connections.limit(),
            parked: lanes.parked(),
            lingering: lanes.lingering(),
            workers: lanes.followers.count(),
            busy: lanes.shared.budget.taken(),
            most_workers: lanes.shared.budget.limit(),
            lasting: lanes.shared.budget.lasting(),
            queue: lanes.shared.queue.taken(),
            most_queued: lanes.shared.queue.limit(),
        }
    }

    fn drains(&self) -> &DrainFile {
        &self.drains
    }
}

/// Where the admin server listens, in both spellings; `None`: nowhere.
fn admin_listener(
    passed: Option<TcpListener>,
    config: &Config,
) -> io::Result<Option<(TcpListener, ListenAddress)>> {
    let listener = match (passed, &config.admin_listen) {
        (None, None) => return Ok(None),
        (Some(listener), None) => listener,
        (passed, Some(listen)) => match inherited::or_listen(passed, "admin_listen", listen)? {
            (listener, ListenerOwner::ThisProcess) => return Ok(Some((listener, listen.clone()))),
            (listener, ListenerOwner::ServiceManager) => listener,
        },
    };
    let address = inherited::address_of(&listener)?;
    Ok(Some((listener, address)))
}

fn join(thread: JoinHandle<()>) {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    if thread.join().is_err() {
        log::error!("thread {name} had panicked");
    }
}

/// Makes a panic one line of the log; what it cost is counted where it is caught.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let what = panic.to_string().replace('\n', " ");
        log::error!("thread {name} {what}; one connection is lost");
    }));
}

/// How often a drain looks whether it is over.
const DRAIN_TICK: Duration = Duration::from_millis(20);

/// The thread that drops idle upstream connections which are too old, were closed, or lead nowhere now, and
/// pipes and configurations that are not used.
fn sweep(ctx: &Context, notify: &Notify) {
    while notify.wait(Some(SWEEP_EVERY)) != Woken::Stopped {
        ctx.snapshot().sweep_idle_pools(&ctx.upstream_names);
        ctx.pipes.sweep();
        ctx.free_retired();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::config;

    #[test]
    fn an_event_loop_of_tunnels_that_ends_ends_the_program() {
        let config = config::parse("listen: 127.0.0.1:0\nupstream: []\n", "c.yaml").unwrap();
        let server = Server::start(config, Options::default()).unwrap();
        let (said, heard) = mpsc::channel();
        let told = Box::new(move || said.send(()).unwrap());
        assert!(server.failure.told.set(told).is_ok());
        server.ctx.tunnels.break_down();
        assert_eq!(heard.recv_timeout(Duration::from_secs(30)), Ok(()));
        assert_eq!(server.failure.thread.get(), Some(&"tunnels"));
        server.drain();
    }
}
