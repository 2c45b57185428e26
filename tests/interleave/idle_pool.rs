//! The idle pool: an idle connection has one owner, a closed one has none.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use http_proxy_lb::net::conn::Conn;
use http_proxy_lb::net::idle_pool::{
    ClientId, IdlePool, LastUse, Leftover, TakenConn, UseFor, Wanted,
};
use http_proxy_lb::net::socket::TICK;

use super::explorer::{Step, explore, orders_of};

const LONG: Duration = Duration::from_secs(3600);

/// The two ends of a connection.
type Pair = (TcpStream, TcpStream);

struct World {
    idle_pool: IdlePool,
    client: ClientId,
    now: Instant,
    /// What each thread has taken.
    owned: [Option<Conn>; 3],
    /// The far ends; one that is closed is gone.
    peers: Vec<Option<TcpStream>>,
    all: usize,
    most: usize,
}

fn pair(listener: &TcpListener) -> Pair {
    let address = listener.local_addr().expect("its address");
    let near = TcpStream::connect_timeout(&address, Duration::from_secs(10)).expect("one end");
    let (far, _) = listener.accept().expect("the other end");
    (near, far)
}

/// Another descriptor of the same connections.
fn again(pairs: &[Pair]) -> Vec<Pair> {
    let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
    pairs
        .iter()
        .map(|(near, far)| (clone(near), clone(far)))
        .collect()
}

fn conn(stream: TcpStream) -> Conn {
    Conn::prepared(stream, TICK)
}

/// The first `kept` of them are in the idle pool, the next one belongs to the last thread.
fn world(pairs: Vec<Pair>, kept: usize, most: usize) -> World {
    let mut world = World {
        idle_pool: IdlePool::default(),
        client: ClientId::next(),
        now: Instant::now(),
        owned: [None, None, None],
        peers: Vec::new(),
        all: pairs.len(),
        most,
    };
    for (index, (near, far)) in pairs.into_iter().enumerate() {
        world.peers.push(Some(far));
        if index < kept {
            world.put(conn(near), UseFor::Target(index as u64 % 2));
        } else {
            world.owned[2] = Some(conn(near));
        }
    }
    world
}

impl World {
    /// Whatever is taken is open at that moment.
    fn take(&mut self, thread: usize, target: u64) {
        let wanted = Wanted {
            target,
            client: self.client,
            within: LONG,
            is_repeatable: true,
        };
        self.owned[thread] = match self.idle_pool.take(&wanted, self.now) {
            TakenConn::Idle(conn, _) => Some(conn),
            TakenConn::Nothing => None,
            TakenConn::Stray => panic!("nobody sends anything"),
        };
        if let Some(taken) = &self.owned[thread] {
            let name = taken.stream().local_addr().expect("its address");
            let peers = self.peers.iter().flatten();
            let is_open = peers
                .filter_map(|peer| peer.peer_addr().ok())
                .any(|far| far == name);
            assert!(is_open, "it was closed");
        }
    }

    fn keep(&mut self, thread: usize) {
        if let Some(conn) = self.owned[thread].take() {
            self.put(conn, UseFor::Anything);
        }
    }

    fn put(&self, conn: Conn, use_for: UseFor) {
        let last_use = LastUse {
            use_for,
            client: self.client,
            begun: self.now,
            leftover: Leftover::Nothing,
        };
        self.idle_pool.keep(conn, last_use, self.most, self.now);
    }

    fn sweep(&self) {
        assert!(!self.idle_pool.sweep(LONG, self.most, self.now));
    }

    fn check(&self) {
        let names = self
            .owned
            .iter()
            .flatten()
            .map(|conn| conn.stream().local_addr().expect("its address"));
        let mut names: Vec<SocketAddr> = names.collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "two threads have one connection");
        assert!(self.idle_pool.len() <= self.most);
        assert!(
            self.idle_pool.len() + count <= self.all,
            "there is one too many"
        );
    }
}

#[test]
fn an_idle_connection_has_one_owner_in_every_order_of_take_keep_sweep_and_clear() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let pairs: Vec<Pair> = (0..3).map(|_| pair(&listener)).collect();
    let threads: [&[Step<World>]; 5] = [
        &[|w| w.take(0, 0), |w| w.keep(0)],
        &[|w| w.take(1, 1), |w| w.keep(1)],
        &[|w| w.keep(2), |w| w.take(2, 0)],
        &[|w| w.sweep()],
        &[|w| w.idle_pool.clear()],
    ];
    let orders = explore(|| world(again(&pairs), 2, 2), &threads, World::check);
    assert_eq!(orders, orders_of(&[2, 2, 2, 1, 1]));
}

#[test]
fn a_connection_that_its_upstream_closed_is_never_taken() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let threads: [&[Step<World>]; 4] = [
        &[|w| w.take(0, 0), |w| w.keep(0)],
        &[|w| w.take(1, 1)],
        &[|w| w.peers[0] = None],
        &[|w| w.sweep()],
    ];
    let new = || world((0..2).map(|_| pair(&listener)).collect(), 2, 2);
    let orders = explore(new, &threads, World::check);
    assert_eq!(orders, orders_of(&[2, 1, 1, 1]));
}
