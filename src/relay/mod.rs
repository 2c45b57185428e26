//! Relaying: the only place where protocol, balancing and sockets meet.
//!
//! In reading order:
//! - [`session`]: one client connection, exchange after exchange
//! - `introduction`: who the client of a balancer in front is
//! - [`exchange`]: one request: access, route, attempts, failover
//! - `next_hop`: connections to where it goes, several against each other
//! - [`upload`]: the request body, and what of it can be sent again
//! - [`attempt`]: one try at one next hop, up to its final response head
//! - [`respond`]: the final response, from the next hop to the client
//! - [`duplex`]: the same while the request body still comes
//! - `reuse`: idle connections of next hops, and whether they can be trusted
//! - `bulk`: bodies from socket to socket without a copy
//! - `flow`: whether bodies are waited for
//! - [`connect`]: CONNECT, and the start of every tunnel
//! - `evidence`: what an exchange tells about its upstream
//! - [`access`]: who may use this proxy, and where the direct route may go
//! - [`report`]: what is told of an exchange when it is over
//!
//! Nothing here knows of queues, workers or the waiter: [`session::serve`] *returns* what is to become
//! of the connection, and the server does it.

pub mod access;
pub mod attempt;
mod bulk;
pub mod connect;
pub mod duplex;
mod evidence;
pub mod exchange;
mod flow;
mod introduction;
mod next_hop;
pub mod report;
pub mod respond;
mod reuse;
pub mod session;
#[cfg(test)]
mod tests;
pub mod upload;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;

use crate::access_log::AccessLog;
use crate::balance::pool::Pool;
use crate::balance::upstream::Upstream;
use crate::balance::vitals::UpstreamId;
use crate::config::checked::Config;
use crate::metrics::Metrics;
use crate::net::addresses::AddressBook;
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::permits::{ClientPermit, Permit};
use crate::net::pipe::Pipes;
use crate::net::resolve::Resolver;
use crate::net::shelf::{ClientId, Shelf};
use crate::net::socket;
use crate::net::threads::LongThreads;
use crate::net::tunnel::Tunnels;
use crate::protocol::head::{HeadLimits, HeadMemory, HeadScanner};
use crate::protocol::rewrite::Via;
use crate::protocol::target::Host;
use crate::stop::{Alarm, Stop};

/// What every worker shares.
#[derive(Debug)]
pub struct Context {
    snapshot: RwLock<Arc<Snapshot>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// One line per exchange.
    pub access_log: AccessLog,
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
    /// All tunnels.
    pub tunnels: Arc<Tunnels>,
    /// Threads for busy tunnels and long exchanges.
    pub long_threads: LongThreads,
    /// Wakes the health thread when an upstream is suspect or went offline.
    pub health_alarm: Alarm,
    /// When this instance began.
    pub started: Instant,
    /// Tells targets apart, in a way nobody outside can predict.
    pub target_hasher: RandomState,
    next_exchange: AtomicU64,
}

impl Context {
    /// A context that relays by `config`.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new(config: Config, resolver: Resolver) -> io::Result<Self> {
        let metrics = Arc::<Metrics>::default();
        let stop = Arc::new(Stop::new()?);
        let health_alarm = stop.alarm();
        let pipes = Pipes::for_files(socket::raise_file_limit());
        let long_threads = LongThreads::within_system_limits();
        let upstream_names = resolver.apart();
        let snapshot = Snapshot::new(config, None);
        upstream_names.keep(snapshot.upstream_names());
        Ok(Self {
            access_log: AccessLog::new(Arc::clone(&metrics)),
            snapshot: RwLock::new(Arc::new(snapshot)),
            metrics,
            stop,
            upstream_names,
            origin_names: resolver,
            via: Via::new(pseudonym()),
            tunnels: Tunnels::new(Arc::clone(&pipes), long_threads.clone())?,
            pipes,
            long_threads,
            health_alarm,
            started: Instant::now(),
            target_hasher: RandomState::new(),
            next_exchange: AtomicU64::new(1),
        })
    }

    /// The configuration in force. Taken once per exchange, so that pool, rules and limits change
    /// together or not at all.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Puts `config` in force for every exchange that begins from now on. Upstreams matched by URL keep
    /// their state, statistics and idle connections.
    pub fn replace(&self, config: Config) {
        let mut current = self.snapshot.write();
        *current = Arc::new(Snapshot::new(config, Some(&current)));
        self.upstream_names.keep(current.upstream_names());
    }

    fn next_exchange_id(&self) -> u64 {
        self.next_exchange.fetch_add(1, Ordering::Relaxed)
    }
}

/// One configuration and the state that goes with it.
#[derive(Debug)]
pub struct Snapshot {
    /// What the file says; its list of upstreams is in `pool`.
    pub config: Config,
    /// The upstreams.
    pub pool: Arc<Pool>,
    ways: BTreeMap<UpstreamId, Arc<Ways>>,
}

/// The ways to an upstream, which outlive a reload like its vitals.
#[derive(Debug, Default)]
struct Ways {
    shelf: Shelf,
    addresses: AddressBook,
}

impl Snapshot {
    fn new(mut config: Config, before: Option<&Self>) -> Self {
        let specs = std::mem::take(&mut config.upstreams);
        let pool = match before {
            None => Pool::new(specs),
            Some(before) => before.pool.succeeded_by(specs),
        };
        let ways = pool
            .upstreams()
            .iter()
            .map(|upstream| {
                let id = upstream.id();
                let kept = before.and_then(|before| before.ways.get(&id));
                (id, kept.map(Arc::clone).unwrap_or_default())
            })
            .collect();
        Self {
            config,
            pool: Arc::new(pool),
            ways,
        }
    }

    /// The idle connections to `upstream`; none once it left the pool.
    pub fn shelf(&self, upstream: &Upstream) -> Option<&Shelf> {
        self.ways.get(&upstream.id()).map(|ways| &ways.shelf)
    }

    /// What is remembered of the addresses of `upstream`; nothing once it left the pool.
    pub fn addresses(&self, upstream: &Upstream) -> Option<&AddressBook> {
        self.ways.get(&upstream.id()).map(|ways| &ways.addresses)
    }

    /// Whether this connection leads to an address that is none of the upstream's any more.
    fn leads_astray(&self, upstream: &Upstream, conn: &Conn) -> bool {
        let book = self.addresses(upstream);
        book.zip(conn.dialled())
            .is_some_and(|(book, address)| book.has_left(address))
    }

    /// Drops all idle connections: their file descriptors are needed.
    pub fn clear_shelves(&self) {
        for ways in self.ways.values() {
            ways.shelf.clear();
        }
    }

    /// Drops idle connections that are too old, closed, or lead to an upstream that gets no requests or
    /// to an address that `names` does not know for it any more.
    pub fn sweep_shelves(&self, names: &Resolver) {
        for upstream in self.pool.upstreams() {
            if let Some(ways) = self.ways.get(&upstream.id())
                && let Host::Name(name) = upstream.spec.authority.host()
                && let Some(known) = names.known(name)
            {
                ways.addresses.learn(&known);
                ways.shelf.keep_only(&known);
            }
            if let Some(shelf) = self.shelf(upstream) {
                if !upstream.vitals().is_offline() && upstream.is_in_service() {
                    reuse::sweep(upstream, shelf, &self.config.limits);
                } else {
                    shelf.clear();
                }
            }
        }
    }

    fn upstream_names(&self) -> impl Iterator<Item = &str> {
        let upstreams = self.pool.upstreams().iter();
        upstreams.filter_map(|upstream| match upstream.spec.authority.host() {
            Host::Name(name) => Some(&**name),
            Host::V4(_) | Host::V6(_) => None,
        })
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits {
            bytes: self.config.limits.max_header_bytes,
        }
    }
}

/// One client's connection between and during its exchanges.
#[derive(Debug)]
pub struct Client {
    /// Which connection this is.
    pub id: ClientId,
    /// The socket and its unread bytes.
    pub conn: Conn,
    /// Who it is.
    pub address: SocketAddr,
    /// How it came here.
    pub arrival: Arrival,
    /// How far the head that is coming in has been looked at.
    pub scanner: HeadScanner,
    /// When the first byte of that head came.
    pub head_begun: Option<Instant>,
    /// Exchanges so far.
    pub served: u64,
    /// A connection to a next hop that belongs to this client alone (NTLM, Negotiate). Boxed, because few
    /// have one, and thousands of clients wait.
    pub bound: Option<Box<attempt::Bound>>,
    /// Whether it has ever used such a scheme: then its connections are never shared again.
    pub binds: bool,
    permits: (Permit, ClientPermit),
}

/// How a client came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// By itself; its address is that of the connection.
    Direct,
    /// Its connection must begin with a PROXY header that says who it is.
    Unannounced,
    /// Through a balancer that has said who it is.
    ThroughBalancer,
}

impl Client {
    /// A new connection that counts for `permits`.
    pub fn new(
        conn: Conn,
        (address, arrival): (SocketAddr, Arrival),
        permits: (Permit, ClientPermit),
    ) -> Self {
        Self {
            id: ClientId::next(),
            conn,
            address,
            arrival,
            scanner: HeadScanner::default(),
            head_begun: None,
            served: 0,
            bound: None,
            binds: false,
            permits,
        }
    }

    /// Lets the connection count for `address` from now on. `false`: that has `limit` already.
    fn counts_for(&mut self, address: IpAddr, limit: Option<NonZeroUsize>) -> bool {
        match self.permits.1.of_another(address, limit) {
            Some(permit) => {
                self.permits.1 = permit;
                true
            }
            None => false,
        }
    }

    /// When the waiter must give up on what it waits for, counted from `now`.
    pub fn deadline(&self, snapshot: &Snapshot, now: Instant) -> Instant {
        let limits = &snapshot.config.limits;
        match self.head_begun {
            // Whoever asks for short requests does not want to wait longer for a head alone.
            Some(begun) => {
                let whole = limits.request_timeout.unwrap_or(limits.header_timeout);
                begun + limits.header_timeout.min(whole)
            }
            None => now + limits.idle_timeout,
        }
    }
}

/// Memory for so many heads is kept by a worker.
const SPARE_HEADS: usize = 32;
/// What most heads fit into, in bytes.
const USUAL_HEAD: usize = 4096;

/// Buffers a worker uses again and again.
#[derive(Debug, Default)]
pub struct Scratch {
    /// For heads of requests: more than one while exchanges are set aside.
    pub requests: Vec<HeadMemory>,
    /// The head of the response at hand.
    pub response: HeadMemory,
    /// What is about to be sent.
    pub out: Vec<u8>,
    /// For what is read from the client.
    pub from_client: Buffer,
    /// For the body of a request.
    pub body: Vec<u8>,
    /// For what is read from the next hop.
    pub from_hop: Buffer,
}

impl Scratch {
    /// Keeps memory for the head of another request, if it is of a usual size.
    fn keep(&mut self, memory: HeadMemory) {
        if self.requests.len() < SPARE_HEADS && memory.bytes.capacity() <= USUAL_HEAD {
            self.requests.push(memory);
        }
    }
}

/// Milliseconds since 1970, for what people see.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `hplb-<8 hex>`, random per start, so that a request that comes back is known.
fn pseudonym() -> String {
    let random = RandomState::new().hash_one(unix_ms());
    format!("hplb-{:08x}", random & 0xffff_ffff)
}
