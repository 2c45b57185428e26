//! Permits and leases: what is counted is what is held, and in the end nothing is.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use http_proxy_lb::balance::pick::BalanceMode;
use http_proxy_lb::balance::pool::{Pool, Tried};
use http_proxy_lb::balance::upstream::{Lease, UpstreamSpec};
use http_proxy_lb::net::permits::{ClientPermit, PerClient, Permit, Permits};
use http_proxy_lb::protocol::target::Authority;

use super::explorer::{explore, orders_of};

struct Counted {
    permits: Arc<Permits>,
    held: [Option<(Permit, usize)>; 3],
}

impl Counted {
    fn take(&mut self, thread: usize, count: usize) {
        self.held[thread] = self.permits.take(count).map(|permit| (permit, count));
    }
}

#[test]
fn permits_taken_are_permits_held_and_never_more_than_the_limit() {
    let new = || Counted {
        permits: Permits::new(2),
        held: [None, None, None],
    };
    let orders = explore(
        new,
        &[
            &[|w| w.take(0, 1), |w| w.held[0] = None],
            &[|w| w.take(1, 1), |w| w.held[1] = None],
            &[|w| w.take(2, 2), |w| w.held[2] = None],
            // A reload lowers the limit and raises it again.
            &[|w| w.permits.set_limit(1), |w| w.permits.set_limit(2)],
        ],
        |w| {
            let held: usize = w.held.iter().flatten().map(|(_, count)| count).sum();
            assert_eq!(w.permits.taken(), held);
            assert!(held <= 2);
            if w.held.iter().all(Option::is_none) {
                assert_eq!(w.permits.taken(), 0);
            }
        },
    );
    assert_eq!(orders, orders_of(&[2, 2, 2, 2]));
}

struct Clients {
    book: Arc<PerClient>,
    held: [Option<ClientPermit>; 3],
    names: [Option<IpAddr>; 3],
}

/// Two connections of one address are the limit.
const LIMIT: Option<NonZeroUsize> = NonZeroUsize::new(2);

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

impl Clients {
    fn take(&mut self, thread: usize, last: u8) {
        self.held[thread] = self.book.take(address(last), LIMIT);
        self.names[thread] = self.held[thread].as_ref().map(|_| address(last));
    }

    /// As when a balancer in front says who the client is.
    fn rename(&mut self, thread: usize, last: u8) {
        let renamed = self.held[thread]
            .as_ref()
            .and_then(|permit| permit.of_another(address(last), LIMIT));
        if renamed.is_some() {
            self.held[thread] = renamed;
            self.names[thread] = Some(address(last));
        }
    }

    fn drop(&mut self, thread: usize) {
        self.held[thread] = None;
        self.names[thread] = None;
    }
}

#[test]
fn the_book_of_clients_has_those_that_are_connected_and_nobody_else() {
    let new = || Clients {
        book: Arc::default(),
        held: [None, None, None],
        names: [None; 3],
    };
    let orders = explore(
        new,
        &[
            &[|w| w.take(0, 1), |w| w.rename(0, 2), |w| w.drop(0)],
            &[|w| w.take(1, 2), |w| w.drop(1)],
            &[|w| w.take(2, 2), |w| w.rename(2, 1), |w| w.drop(2)],
        ],
        |w| {
            let mut names: Vec<IpAddr> = w.names.iter().flatten().copied().collect();
            let of = |name| names.iter().filter(|other| **other == name).count();
            assert!(of(address(1)) <= 2 && of(address(2)) <= 2);
            names.sort();
            names.dedup();
            assert_eq!(w.book.addresses(), names.len());
        },
    );
    assert_eq!(orders, orders_of(&[3, 2, 3]));
}

struct Balanced {
    /// The pool in force first, those before behind it.
    pools: Vec<Pool>,
    leases: [Option<Lease>; 3],
}

fn specs(names: &[&str]) -> Vec<UpstreamSpec> {
    let spec = |name: &&str| UpstreamSpec {
        name: (*name).to_owned(),
        authority: Authority::parse(name.as_bytes(), Some(80)).expect("a host"),
        credentials: None,
        weight: 1,
        priority: 100,
    };
    names.iter().map(spec).collect()
}

impl Balanced {
    fn pick(&mut self, thread: usize) {
        self.leases[thread] = self.pools[0].pick(BalanceMode::Best, &mut Tried::default());
    }

    fn fail(&mut self, thread: usize) {
        if let Some(lease) = &self.leases[thread] {
            let vitals = lease.upstream().vitals();
            vitals.cannot_connect(lease.began(), "connection refused", 1, 0);
        }
    }

    fn reload(&mut self, names: &[&str]) {
        let next = self.pools[0].succeeded_by(specs(names));
        self.pools.insert(0, next);
    }

    fn check(&self) {
        for upstream in self.pools.iter().flat_map(Pool::upstreams) {
            let leases = self.leases.iter().flatten();
            let own = leases.filter(|lease| lease.upstream().id() == upstream.id());
            assert_eq!(upstream.vitals().active(), own.count() as u64);
        }
        let online = self.pools[0].upstreams().iter();
        let online = online.filter(|upstream| !upstream.vitals().is_offline());
        assert_eq!(self.pools[0].online_count(), online.count());
    }
}

#[test]
fn a_lease_counts_on_its_upstream_until_it_ends_whatever_is_reloaded_or_fails_meanwhile() {
    let new = || Balanced {
        pools: vec![Pool::new(specs(&["a.test", "b.test"]))],
        leases: [None, None, None],
    };
    let orders = explore(
        new,
        &[
            &[|w| w.pick(0), |w| w.leases[0] = None],
            &[|w| w.pick(1), |w| w.fail(1), |w| w.leases[1] = None],
            &[|w| w.pick(2), |w| w.leases[2] = None],
            // One leaves the pool and comes back, as another upstream to the counts.
            &[
                |w| w.reload(&["b.test"]),
                |w| w.reload(&["a.test", "b.test"]),
            ],
        ],
        Balanced::check,
    );
    assert_eq!(orders, orders_of(&[2, 3, 2, 2]));
}
