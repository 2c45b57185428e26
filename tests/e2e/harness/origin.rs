//! Where a direct request ends: a server, or raw TCP, without a proxy before it.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;

use super::journal::Journal;
use super::socket::{Socket, Talk};
use super::upstream::Upstream;
use super::{PATIENCE, wait_until};

/// An origin that answers every request with 200 and its name.
pub(crate) struct Origin(Upstream);

impl Origin {
    /// On a free port of 127.0.0.1.
    #[track_caller]
    pub(crate) fn echo_ok(name: &str) -> Self {
        Self(Upstream::echo_at(
            name,
            &SocketAddr::from(([127, 0, 0, 1], 0)),
        ))
    }

    /// On a free port of `::1`; `None` on a machine without IPv6.
    #[track_caller]
    pub(crate) fn on_ipv6(name: &str) -> Option<Self> {
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        TcpListener::bind(address)
            .ok()
            .map(|_| Self(Upstream::echo_at(name, &address)))
    }

    /// Raw TCP, played by the test: it may speak first.
    #[track_caller]
    pub(crate) fn by_hand(name: &str) -> ByHand {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
        listener
            .set_nonblocking(true)
            .expect("a listener that does not block");
        ByHand {
            listener,
            name: name.to_owned(),
            journal: Journal::of_this_test(),
        }
    }

    /// `host:port` of this origin.
    pub(crate) fn authority(&self) -> String {
        self.address().to_string()
    }
}

impl Deref for Origin {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        &self.0
    }
}

/// An origin whose connections are taken by [`ByHand::accept`].
pub(crate) struct ByHand {
    listener: TcpListener,
    name: String,
    journal: Journal,
}

impl ByHand {
    /// `host:port` of this origin.
    pub(crate) fn authority(&self) -> String {
        self.listener
            .local_addr()
            .expect("the address of a listener")
            .to_string()
    }

    /// The next connection, before any byte of it.
    #[track_caller]
    pub(crate) fn accept(&self) -> OriginEnd {
        let mut accepted = None;
        wait_until(|| {
            accepted = self.listener.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.expect("waited for it");
        self.end(stream)
    }

    fn end(&self, stream: TcpStream) -> OriginEnd {
        stream
            .set_nonblocking(false)
            .expect("a blocking connection");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a read timeout");
        let name = format!("{} #{}", self.name, self.journal.number());
        self.journal.note(&name, "accepted");
        OriginEnd(Socket::new(stream, name, self.journal.clone()))
    }
}

/// One connection at an origin.
pub(crate) struct OriginEnd(Socket);

impl Talk for OriginEnd {
    fn socket(&mut self) -> &mut Socket {
        &mut self.0
    }
}
