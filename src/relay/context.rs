//! What all exchanges share, however long each of them lasts.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};

use crate::access_log::AccessLogger;
use crate::balance::history::EventKind;
use crate::config::checked::Config;
use crate::metrics::Metrics;
use crate::net::pipe::Pipes;
use crate::net::resolve::Resolver;
use crate::net::socket;
use crate::net::threads::LongThreads;
use crate::net::tunnel::Tunnels;
use crate::protocol::request_id::RequestId;
use crate::protocol::rewrite::Via;
use crate::stop::{Notify, Stop};

use super::connections::Connections;
use super::snapshot::Snapshot;

/// What every worker shares.
#[derive(Debug)]
pub struct Context {
    snapshot: RwLock<Arc<Snapshot>>,
    /// That of `snapshot`.
    generation: AtomicU64,
    /// What was in force before and may be in use. To free thousands of upstreams and names takes milliseconds, which
    /// no request is to wait for: whoever lets go of one last leaves that to [`Self::free_retired`].
    retired: Mutex<Vec<Arc<Snapshot>>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// One line per exchange.
    pub access_log: AccessLogger,
    /// The way out.
    pub stop: Arc<Stop>,
    /// Addresses of upstreams.
    pub upstream_names: Resolver,
    /// Addresses of origins, which clients choose.
    pub origin_names: Resolver,
    /// This instance's name in `Via`.
    pub via: Via,
    /// Ways for bulk.
    pub pipes: Arc<Pipes>,
    /// All client connections, where somebody can look at them.
    pub connections: Arc<Connections>,
    /// All tunnels.
    pub tunnels: Arc<Tunnels>,
    /// Threads for busy tunnels and long exchanges.
    pub long_threads: LongThreads,
    /// Wakes the health thread when an upstream is suspect or went offline.
    pub health_notify: Notify,
    /// When this instance began.
    pub started: Instant,
    /// Tells targets apart, in a way that no client can predict.
    pub target_hasher: RandomState,
    next_exchange: AtomicU64,
    /// Random bits for the names of requests: those of no other process.
    request_ids: u64,
}

impl Context {
    /// A context that relays by `config`.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new(config: Config, resolver: Resolver) -> io::Result<Self> {
        let metrics = Arc::<Metrics>::default();
        let stop = Arc::new(Stop::new()?);
        let health_notify = stop.subscribe();
        let pipes = Pipes::for_files(socket::raise_file_limit());
        let long_threads = LongThreads::within_system_limits();
        let upstream_names = resolver.apart();
        let connections = match config.admin_listen {
            Some(_) => Connections::on(),
            None => Connections::off(),
        };
        let snapshot = Snapshot::new(config, None);
        upstream_names.keep(snapshot.upstream_names());
        let text = concat!("started, version ", env!("CARGO_PKG_VERSION"));
        let history = snapshot.pool.history();
        history.add(unix_ms(), EventKind::Started, None, text);
        Ok(Self {
            access_log: AccessLogger::new(Arc::clone(&metrics)),
            generation: AtomicU64::new(snapshot.generation),
            snapshot: RwLock::new(Arc::new(snapshot)),
            retired: Mutex::default(),
            connections,
            metrics,
            stop,
            upstream_names,
            origin_names: resolver,
            via: Via::new(pseudonym()),
            tunnels: Tunnels::new(Arc::clone(&pipes), long_threads.clone())?,
            pipes,
            long_threads,
            health_notify,
            started: Instant::now(),
            target_hasher: RandomState::new(),
            next_exchange: AtomicU64::new(1),
            request_ids: RandomState::new().hash_one(unix_ms()),
        })
    }

    /// The configuration in force. Taken once per exchange, so that pool, rules and limits change
    /// together or not at all.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Replaces `held` by the configuration in force if it is another. Mostly it is the same, and then this
    /// takes no lock.
    pub fn refresh(&self, held: &mut Arc<Snapshot>) {
        if self.generation.load(Ordering::Acquire) != held.generation {
            *held = self.snapshot();
        }
    }

    /// Puts `config` in force for every exchange that begins from now on. Upstreams matched by URL keep
    /// their state, statistics and idle connections.
    pub fn replace(&self, config: Config) {
        self.free_retired();
        // also sees to it that there is one successor
        let mut retired = self.retired.lock();
        let before = self.snapshot();
        // without the lock that requests need
        let next = Arc::new(Snapshot::new(config, Some(&before)));
        *self.snapshot.write() = Arc::clone(&next);
        self.generation.store(next.generation, Ordering::Release);
        self.upstream_names.keep(next.upstream_names());
        retired.push(before);
    }

    /// Frees those configurations that are not in force and no longer in use.
    pub fn free_retired(&self) {
        // nobody can get at one that is here alone
        let is_in_use = |one: &Arc<Snapshot>| Arc::strong_count(one) > 1;
        self.retired.lock().retain(is_in_use);
    }

    pub(super) fn next_exchange_number(&self) -> u64 {
        self.next_exchange.fetch_add(1, Ordering::Relaxed)
    }

    /// The name of exchange `number`, which began so long before `now`.
    pub(super) fn request_id(&self, now: SystemTime, ago: Duration, number: u64) -> RequestId {
        let begun = now.checked_sub(ago).unwrap_or(UNIX_EPOCH);
        RequestId::new(in_unix_ms(begun), self.request_ids, number)
    }
}

/// Milliseconds since 1970, for what people see.
pub fn unix_ms() -> u64 {
    in_unix_ms(SystemTime::now())
}

fn in_unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `hplb-<8 hex>`, random per start, so that a request that comes back is known.
fn pseudonym() -> String {
    let random = RandomState::new().hash_one(unix_ms());
    format!("hplb-{:08x}", random & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_was_in_force_is_freed_by_nobody_who_relays() {
        let config = || config::parse("listen: 127.0.0.1:0\nupstream: []\n", "c.yaml").unwrap();
        let ctx = Context::new(config(), Resolver::default()).unwrap();
        let mut held = ctx.snapshot();
        let before = Arc::downgrade(&held);
        ctx.replace(config());
        ctx.free_retired();
        assert_eq!(held.generation, 0);
        ctx.refresh(&mut held);
        assert_eq!((held.generation, before.strong_count()), (1, 1));
        ctx.free_retired();
        assert_eq!(before.strong_count(), 0);
    }
}
