//! How many of a thing may exist at once, as guards: what is not dropped is not given back, and a
//! guard is always dropped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// A bounded count.
#[derive(Debug)]
pub struct Permits {
    taken: AtomicUsize,
    limit: AtomicUsize,
}

impl Permits {
    /// At most `limit` permits at once.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
        })
    }

    /// Changes the limit; permits already taken stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How many may be taken.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Permits taken now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes `count` permits, or none at all.
    pub fn take(self: &Arc<Self>, count: usize) -> Option<Permit> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(count).filter(|after| *after <= limit)
            })
            .ok()
            .map(|_| Permit {
                permits: Arc::clone(self),
                count,
            })
    }
}

/// One permit (or several taken together); given back when dropped.
#[must_use = "a permit that is dropped at once permits nothing"]
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    count: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.taken.fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// What `address` is counted as. A client that has one IPv6 address has the 2^64 of its network, too, so all
/// of a /64 are one client; an IPv4 address is the same client however it is written.
pub fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(network.into())
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Counts of one thing per client (see [`one_client`]). Clients without any are forgotten, so the table
/// is never larger than the number of guards alive.
#[derive(Debug, Default)]
pub struct PerClient {
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl PerClient {
    /// Counts one more for `client`, unless it has `limit` already.
    pub fn take(
        self: &Arc<Self>,
        client: IpAddr,
        limit: Option<NonZeroUsize>,
    ) -> Option<ClientPermit> {
        let client = one_client(client);
        let mut counts = self.counts.lock();
        let count = counts.entry(client).or_insert(0);
        if limit.is_some_and(|limit| *count >= limit.get()) {
            return None;
        }
        *count += 1;
        Some(ClientPermit {
            owner: Arc::clone(self),
            client,
        })
    }

    /// How many addresses have a count.
    pub fn addresses(&self) -> usize {
        self.counts.lock().len()
    }
}

/// One count of one client address; given back when dropped.
#[must_use = "a permit that is dropped at once permits nothing"]
#[derive(Debug)]
pub struct ClientPermit {
    owner: Arc<PerClient>,
    client: IpAddr,
}

impl ClientPermit {
    /// One more for `client`, in the same book, unless it has `limit` already.
    pub fn of_another(&self, client: IpAddr, limit: Option<NonZeroUsize>) -> Option<Self> {
        self.owner.take(client, limit)
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let mut counts = self.owner.counts.lock();
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_given_back_when_dropped() {
        let permits = Permits::new(3);
        let pair = permits.take(2);
        assert!(pair.is_some());
        assert!(permits.take(2).is_none());
        let single = permits.take(1);
        assert!(single.is_some());
        assert_eq!(permits.taken(), 3);
        drop((pair, single));
        assert_eq!(permits.taken(), 0);
    }

    #[test]
    fn a_limit_per_client_concerns_that_client_alone() {
        let clients = Arc::new(PerClient::default());
        let one = NonZeroUsize::new(1);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = clients.take(a, one);
        assert!(first.is_some());
        assert!(clients.take(a, one).is_none());
        assert!(clients.take(b, one).is_some());
        drop(first);
        assert_eq!(clients.addresses(), 0);
    }

    #[test]
    fn all_addresses_of_an_ipv6_network_are_one_client() {
        let clients = Arc::new(PerClient::default());
        let one = NonZeroUsize::new(1);
        let take = |address: &str| clients.take(address.parse().unwrap(), one);
        let first = take("2001:db8:0:1::1");
        assert!(first.is_some());
        assert!(take("2001:db8:0:1:ffff:ffff:ffff:ffff").is_none());
        assert!(take("2001:db8:0:2::1").is_some(), "another network");
        drop(first);
        assert_eq!(clients.addresses(), 0);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_is_not_one_client_with_all_others() {
        let written = ["::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"];
        let [a, same, b] = written.map(|text| one_client(text.parse().unwrap()));
        assert_eq!(a, same);
        assert_ne!(a, b);
    }
}
