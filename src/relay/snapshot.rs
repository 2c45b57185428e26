//! One configuration, with the ways to its upstreams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::balance::pool::Pool;
#[cfg(feature = "tls")]
use crate::balance::tls::Tls;
use crate::balance::upstream::Upstream;
use crate::balance::vitals::UpstreamId;
use crate::config::checked::Config;
use crate::net::addresses::AddressBook;
use crate::net::conn::Conn;
use crate::net::idle_pool::{IdlePool, REMEMBERED, Sender};
use crate::net::resolve::Resolver;
use crate::protocol::head::HeadLimits;
use crate::protocol::target::Host;
use crate::route::Route;

/// One configuration and the state that goes with it.
#[derive(Debug)]
pub struct Snapshot {
    /// What the file says; its list of upstreams is in `pool`.
    pub config: Config,
    /// The upstreams.
    pub pool: Arc<Pool>,
    /// How many there were before it.
    pub(super) generation: u64,
    ways: BTreeMap<UpstreamId, Arc<Ways>>,
}

/// The ways to an upstream, which outlive a reload like its vitals.
#[derive(Debug)]
struct Ways {
    idle_pool: IdlePool,
    addresses: AddressBook,
    /// How the connections were opened: those of other rules of trust are no way to it.
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
}

impl Snapshot {
    pub(super) fn new(mut config: Config, before: Option<&Self>) -> Self {
        let specs = std::mem::take(&mut config.upstreams);
        let pool = match before {
            None => Pool::new(specs),
            Some(before) => before.pool.succeeded_by(specs),
        };
        let mut ways = BTreeMap::new();
        for upstream in pool.upstreams() {
            let id = upstream.id();
            let kept = before.and_then(|before| before.ways.get(&id));
            #[cfg(feature = "tls")]
            let kept = kept.filter(|kept| kept.tls == upstream.spec.tls);
            let new = || {
                Arc::new(Ways {
                    idle_pool: IdlePool::default(),
                    addresses: AddressBook::default(),
                    #[cfg(feature = "tls")]
                    tls: upstream.spec.tls.clone(),
                })
            };
            ways.insert(id, kept.map_or_else(new, Arc::clone));
        }
        Self {
            config,
            pool: Arc::new(pool),
            generation: before.map_or(0, |before| before.generation + 1),
            ways,
        }
    }

    /// The idle connections to `upstream`; none once it left the pool.
    pub fn idle_pool(&self, upstream: &Upstream) -> Option<&IdlePool> {
        self.ways.get(&upstream.id()).map(|ways| &ways.idle_pool)
    }

    /// The way that the rule at this place says, as long as upstreams are as they are now.
    pub(super) fn route_now(&self, rule: usize) -> Route {
        let ways = self.config.rules.ways(rule);
        ways.now(|group| self.serves(group))
    }

    /// Whether requests that no condition of a rule catches are served.
    pub fn serves_others(&self) -> bool {
        let ways = self.config.rules.ways_of_others();
        ways.open(|group| self.serves(group)).is_some()
    }

    /// Whether anybody of this group is in service.
    fn serves(&self, group: Option<usize>) -> bool {
        self.pool.group(group).serving().next().is_some()
    }

    /// What is remembered of the addresses of `upstream`; nothing once it left the pool.
    pub fn addresses(&self, upstream: &Upstream) -> Option<&AddressBook> {
        self.ways.get(&upstream.id()).map(|ways| &ways.addresses)
    }

    /// Whether this connection leads to an address that is none of the upstream's any more.
    pub(super) fn leads_astray(&self, upstream: &Upstream, conn: &Conn) -> bool {
        let book = self.addresses(upstream);
        book.zip(conn.dialled())
            .is_some_and(|(book, address)| book.has_left(address))
    }

    /// Drops all idle connections: their file descriptors are needed.
    pub fn clear_idle_pools(&self) {
        for ways in self.ways.values() {
            ways.idle_pool.clear();
        }
    }

    /// Drops idle connections that are too old, closed, or lead to an upstream that gets no requests or
    /// to an address that `names` does not know for it any more.
    pub fn sweep_idle_pools(&self, names: &Resolver) {
        for upstream in self.pool.upstreams() {
            if let Some(ways) = self.ways.get(&upstream.id())
                && let Host::Name(name) = upstream.spec.authority.host()
                && let Some(known) = names.known(name)
            {
                ways.addresses.learn(&known);
                ways.idle_pool.keep_only(&known);
            }
            if let Some(idle_pool) = self.idle_pool(upstream) {
                if !upstream.vitals().is_offline() && upstream.is_in_service() {
                    let limits = &self.config.limits;
                    let most = limits.upstream_idle_connections;
                    for sender in idle_pool.sweep(limits.upstream_idle, most, Instant::now()) {
                        self.strayed(upstream, sender);
                    }
                } else {
                    idle_pool.clear();
                }
            }
        }
    }

    /// A byte came from `upstream` that was not asked for: connections to who sent it are no longer shared.
    pub(super) fn strayed(&self, upstream: &Upstream, sender: Sender) {
        let Some(idle_pool) = self.idle_pool(upstream) else {
            return;
        };
        let is_first = idle_pool.distrust(sender, Instant::now());
        let name = &upstream.spec.name;
        if let Sender::Origin(_) = sender {
            log::debug!("an origin behind upstream {name} sent bytes nobody asked for");
            return;
        }
        let strays = &upstream.vitals().counters.strays;
        strays.fetch_add(1, Ordering::Relaxed);
        if is_first {
            log::warn!(
                "upstream {name} sent bytes nobody asked for: its connections are not shared between clients \
                 for {} minutes",
                REMEMBERED.as_secs() / 60
            );
        }
    }

    pub(super) fn upstream_names(&self) -> impl Iterator<Item = &str> {
        let upstreams = self.pool.upstreams().iter();
        upstreams.filter_map(|upstream| match upstream.spec.authority.host() {
            Host::Name(name) => Some(&**name),
            Host::V4(_) | Host::V6(_) => None,
        })
    }

    pub(super) fn head_limits(&self) -> HeadLimits {
        HeadLimits {
            bytes: self.config.limits.max_header_bytes,
        }
    }
}
