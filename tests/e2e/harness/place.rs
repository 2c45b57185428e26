//! Addresses of this machine: several with the same port, and ports at which connections hang.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};

use super::Member;
use super::upstream::keep;

/// Addresses of one name, as an upstream has them: 127.0.0.11 and so on, all with one port that is free.
#[track_caller]
pub(crate) fn places<const N: usize>() -> [SocketAddr; N] {
    for _ in 0..100 {
        let first = keep(&SocketAddr::from((ip(0), 0))).expect("a free port");
        let first = TcpListener::from(first);
        let port = first.local_addr().expect("the address").port();
        let all: [_; N] = std::array::from_fn(|n| SocketAddr::from((ip(n), port)));
        if all.iter().skip(1).all(|place| keep(place).is_ok()) {
            return all;
        }
    }
    panic!("no port is free at {N} addresses");
}

fn ip(number: usize) -> Ipv4Addr {
    let last = u8::try_from(number + 11).expect("a few addresses");
    Ipv4Addr::new(127, 0, 0, last)
}

/// A port at which connections neither succeed nor fail: its queue is full.
pub(crate) struct FullPort {
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl FullPort {
    /// Somewhere on 127.0.0.1.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// At this address.
    #[track_caller]
    pub(crate) fn at(place: SocketAddr) -> Self {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
        let socket = socket.expect("a socket");
        rustix::net::bind(&socket, &place).expect("a free port");
        rustix::net::listen(&socket, 0).expect("a listener");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("the address of a listener");
        let limit = Duration::from_millis(200);
        let connect = || TcpStream::connect_timeout(&address, limit).ok();
        let waiting = std::iter::from_fn(connect).take(16).collect();
        Self {
            listener,
            _waiting: waiting,
        }
    }

    /// Where nobody is let in.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener
            .local_addr()
            .expect("the address of a listener")
    }

    /// As an upstream of this name.
    #[track_caller]
    pub(crate) fn member(&self, name: &str) -> Member {
        Member::at(name, self.address())
    }

    /// The same with more keys, for example `priority: 3`.
    #[track_caller]
    pub(crate) fn with(&self, name: &str, keys: &str) -> Member {
        self.member(name).with(keys)
    }
}
