//! The snapshot: pool, limits and idle pools of an exchange are of one configuration, and what it took from
//! an old one is given back to where the new one finds it.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_proxy_lb::balance::pool::Tried;
use http_proxy_lb::balance::upstream::Lease;
use http_proxy_lb::config::{self, checked::Config};
use http_proxy_lb::net::conn::Conn;
use http_proxy_lb::net::idle_pool::{ClientId, IdlePool, LastUse, Leftover, UseFor};
use http_proxy_lb::net::resolve::Resolver;
use http_proxy_lb::net::socket::TICK;
use http_proxy_lb::relay::{Context, Snapshot};

use super::explorer::{explore, orders_of};

/// The size of a head tells the configurations apart.
const TWO: &str = "listen: a:1\nlimits: {max_header_bytes: 10000}\n\
    upstream: [{url: 'http://a.test:80'}, {url: 'http://b.test:80'}]";
const ONE: &str =
    "listen: a:1\nlimits: {max_header_bytes: 20000}\nupstream: [{url: 'http://b.test:80'}]";

const IN_BOTH: &str = "http://b.test:80";

struct World {
    ctx: Context,
    two: Config,
    one: Config,
    exchanges: [Exchange; 2],
    stream: TcpStream,
    /// For the upstream that is in both.
    kept: usize,
}

#[derive(Default)]
struct Exchange {
    snapshot: Option<Arc<Snapshot>>,
    lease: Option<Lease>,
}

fn parsed(text: &str) -> Config {
    config::parse(text, "test.yaml").expect("a configuration")
}

fn snapshot_is_whole(snapshot: &Snapshot) {
    let expected = match snapshot.config.limits.max_header_bytes {
        10_000 => 2,
        _ => 1,
    };
    assert_eq!(snapshot.pool.upstreams().len(), expected);
    for upstream in snapshot.pool.upstreams() {
        assert!(
            snapshot.idle_pool(upstream).is_some(),
            "every upstream has one"
        );
    }
}

impl World {
    fn begin(&mut self, thread: usize) {
        self.exchanges[thread].snapshot = Some(self.ctx.snapshot());
    }

    fn pick(&mut self, thread: usize) {
        let exchange = &mut self.exchanges[thread];
        let snapshot = exchange.snapshot.as_ref().expect("it has begun");
        exchange.lease = snapshot
            .pool
            .pick(snapshot.config.mode, &mut Tried::default());
    }

    /// Its connection goes to the idle pool of the configuration that is in force now, if that has one.
    fn end(&mut self, thread: usize) {
        let exchange = std::mem::take(&mut self.exchanges[thread]);
        let lease = exchange.lease.expect("somebody is online");
        if let Some(idle_pool) = self.ctx.snapshot().idle_pool(lease.upstream()) {
            let stream = self.stream.try_clone().expect("a descriptor");
            let now = Instant::now();
            let last_use = LastUse {
                use_for: UseFor::Anything,
                client: ClientId::next(),
                begun: now,
                leftover: Leftover::Nothing,
            };
            idle_pool.keep(Conn::prepared(stream, TICK), last_use, 64, now);
            self.kept += usize::from(lease.upstream().url() == IN_BOTH);
        }
    }

    fn check(&self) {
        let now = self.ctx.snapshot();
        snapshot_is_whole(&now);
        let old = self
            .exchanges
            .iter()
            .filter_map(|one| one.snapshot.as_ref());
        for snapshot in old.chain([&now]) {
            snapshot_is_whole(snapshot);
            for upstream in snapshot.pool.upstreams() {
                let leases = self.exchanges.iter().filter_map(|one| one.lease.as_ref());
                let own = leases.filter(|lease| lease.upstream().id() == upstream.id());
                assert_eq!(upstream.vitals().active(), own.count() as u64);
            }
        }
    }
}

#[test]
fn an_exchange_has_one_configuration_and_what_it_gives_back_is_found_in_the_next() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).expect("one");
    let (two, one) = (parsed(TWO), parsed(ONE));
    let new = || World {
        ctx: Context::new(two.clone(), Resolver::default()).expect("descriptors"),
        two: two.clone(),
        one: one.clone(),
        exchanges: [Exchange::default(), Exchange::default()],
        stream: stream.try_clone().expect("a descriptor"),
        kept: 0,
    };
    let orders = explore(
        new,
        &[
            &[|w| w.begin(0), |w| w.pick(0), |w| w.end(0)],
            &[|w| w.begin(1), |w| w.pick(1), |w| w.end(1)],
            &[
                |w| w.ctx.replace(w.one.clone()),
                |w| w.ctx.replace(w.two.clone()),
            ],
        ],
        |w| {
            w.check();
            let now = w.ctx.snapshot();
            let of_b = now.pool.upstreams().iter().find(|one| one.url() == IN_BOTH);
            let idle_pool = of_b.and_then(|upstream| now.idle_pool(upstream));
            assert_eq!(
                idle_pool.map(IdlePool::len),
                Some(w.kept),
                "one is lost or strange"
            );
        },
    );
    assert_eq!(orders, orders_of(&[3, 3, 2]));
}
