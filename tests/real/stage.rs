//! Everything started together: both origins, three upstream proxies, and relays in front; and
//! stopped together.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::nginx::Nginx;
use crate::origin::Origin;
use crate::proxies::{Proxy, squid, tinyproxy};
use crate::relay::{Relay, Settings, as_upstream};

/// Both origins and the three upstream proxies.
pub(crate) struct Stage {
    pub(crate) nginx: Nginx,
    pub(crate) origin: Origin,
    pub(crate) proxies: Vec<Proxy>,
}

/// The names of the upstreams of a `Stage`, as the access log tells them.
pub(crate) const NAMES: [&str; 3] = ["squid", "tinyproxy", "second"];

impl Stage {
    pub(crate) fn start() -> Self {
        let nginx = Nginx::start();
        let second = as_upstream("second", &Settings::direct());
        let proxies = vec![squid(nginx.tls_port()), tinyproxy(), second];
        Self {
            nginx,
            origin: Origin::start(),
            proxies,
        }
    }

    /// Settings that every relay in front of these upstreams has. There is no Via, because the
    /// second http-proxy-lb rightly does not serve its own loopback to those whom another relay
    /// has brought, and all origins here are on loopback.
    pub(crate) fn settings(&self) -> Settings {
        Settings::new(&self.nginx.probe_url()).line("via: false")
    }

    /// A relay over all three.
    pub(crate) fn relay(&self) -> Relay {
        let settings = self
            .proxies
            .iter()
            .fold(self.settings(), Settings::upstream);
        Relay::start(&settings)
    }

    /// A relay for each upstream alone and one that goes to the origins itself, with names.
    pub(crate) fn relays(&self) -> Vec<(&'static str, Relay)> {
        let alone = |proxy: &Proxy| (proxy.name, Relay::start(&self.settings().upstream(proxy)));
        let mut relays: Vec<_> = self.proxies.iter().map(alone).collect();
        relays.push(("direct", Relay::start(&Settings::direct())));
        relays
    }
}

/// Tells threads to stop when their scope is left, also by a panic, as else it would wait for ever.
pub(crate) struct SetAtTheEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
