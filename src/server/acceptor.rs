//! Takes connections from the listener and refuses those for which there is no room.
//!
//! A lane that is told of new connections takes them in; on Linux one that sleeps is enough, elsewhere all are told.
//!
//! When the process runs out of file descriptors, accepting fails at once and for as long as they are
//! used, so a lane then pauses, and says so once in a while; a descriptor held in reserve lets it tell at
//! least one client after the other.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::net::conn::Conn;
use crate::net::inherited::ListenerOwner;
use crate::net::log_limiter::LogLimiter;
use crate::net::permits::{PerClient, Permits};
use crate::net::socket::{self, TICK, Wait};
use crate::protocol::answer::{self, AnswerContext, BodyWanted, Refusal};
use crate::protocol::persistence::{CloseReason, Persistence};
use crate::relay::{Arrival, Client, Context, Snapshot};

/// Connections that may wait to be accepted; the system may allow fewer.
const BACKLOG: u16 = 4096;
/// Connections taken at once by a thread that has other things to do.
const BATCH: u16 = 32;

/// The listener.
#[derive(Debug)]
pub(super) struct Acceptor {
    ctx: Arc<Context>,
    /// None: it was closed.
    listener: RwLock<Option<TcpListener>>,
    owner: ListenerOwner,
    connections: Arc<Permits>,
    clients: Arc<PerClient>,
    complaints: Complaints,
    reserve: Mutex<Option<File>>,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) enum Newcomer {
    Client(Box<Client>),
    /// Told that there is no room; it may linger.
    Refused(Box<Conn>),
}

/// What is left in the listener's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// Maybe something.
    Some,
    /// What cannot be accepted for now.
    Stuck,
}

/// What is said when somebody is turned away.
#[derive(Debug, Default)]
struct Complaints {
    no_files: LogLimiter,
    too_many: LogLimiter,
    too_many_of_one: LogLimiter,
}

impl Acceptor {
    pub(super) fn new(
        ctx: &Arc<Context>,
        (listener, owner): (TcpListener, ListenerOwner),
        connections: &Arc<Permits>,
    ) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            listener: RwLock::new(Some(listener)),
            owner,
            connections: Arc::clone(connections),
            clients: Arc::default(),
            complaints: Complaints::default(),
            reserve: Mutex::new(File::open("/dev/null").ok()),
        }
    }

    /// Sets what accepted sockets inherit, where they do.
    ///
    /// # Errors
    /// When the listener is unusable.
    pub(super) fn prepare(listener: &TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        // The 128 of the standard library overflow in a burst, and whoever finds the queue full tries
        // again only after a second.
        rustix::net::listen(listener, BACKLOG.into())?;
        if cfg!(target_os = "linux") {
            socket::prepare_listener(listener, TICK, TICK)?;
        }
        Ok(())
    }

    /// Does something with the listener, if it is still open.
    pub(super) fn with<T>(&self, act: impl FnOnce(&TcpListener) -> T) -> Option<T> {
        self.listener.read().as_ref().map(act)
    }

    /// Takes in some connections, as this configuration has it.
    pub(super) fn take_in(&self, snapshot: &Snapshot, welcome: &mut dyn FnMut(Newcomer)) -> Left {
        // Held until all are welcome: a drain that has closed the listener relies on that.
        self.with(|listener| self.accept((listener, snapshot), BATCH, welcome))
            .unwrap_or(Left::Nothing)
    }

    /// Closes the listener after a last word to it. What is in its queue already would get a reset then, so
    /// it comes in; no more than fits into it, or clients that keep coming would keep it open. A listener
    /// of the service manager keeps its queue for the next process.
    pub(super) fn close(&self, welcome: &mut dyn FnMut(Newcomer), last: impl FnOnce(&TcpListener)) {
        let Some(listener) = self.listener.write().take() else {
            return;
        };
        last(&listener);
        if self.owner == ListenerOwner::ThisProcess {
            self.accept((&listener, &self.ctx.snapshot()), BACKLOG, welcome);
        }
    }

    fn accept(
        &self,
        (listener, snapshot): (&TcpListener, &Snapshot),
        most: u16,
        welcome: &mut dyn FnMut(Newcomer),
    ) -> Left {
        for _ in 0..most {
            match listener.accept() {
                Ok((stream, address)) => {
                    if let Some(newcomer) = self.admit(stream, address, snapshot) {
                        welcome(newcomer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Left::Nothing,
                Err(error) if socket::is_exhaustion(&error) => {
                    if let Some(refused) = self.make_way(listener, &error) {
                        welcome(refused);
                    }
                    return Left::Stuck;
                }
                // The client gave up before it was accepted (ECONNABORTED and the like).
                Err(error) => log::debug!("a connection was lost before it was accepted: {error}"),
            }
        }
        Left::Some
    }

    /// There are no descriptors left: tells one client, with the one in reserve.
    fn make_way(&self, listener: &TcpListener, error: &io::Error) -> Option<Newcomer> {
        if let Some(more) = self.complaints.no_files.allow() {
            log::error!(
                "cannot accept connections: {error}; raise the limit of open files or lower \
                 limits.max_connections{more}"
            );
        }
        let mut reserve = self.reserve.lock();
        drop(reserve.take());
        let accepted = listener.accept().ok();
        let refused = accepted.and_then(|(stream, _)| {
            self.ctx.metrics.refused.increment();
            self.refuse(stream, &Refusal::ConnectionLimit)
        });
        *reserve = File::open("/dev/null").ok();
        refused
    }

    /// Makes a client of a connection, or refuses it.
    fn admit(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        snapshot: &Snapshot,
    ) -> Option<Newcomer> {
        self.ctx.metrics.accepted.increment();
        let Some(connection) = self.connections.take(1) else {
            self.ctx.metrics.refused.increment();
            if let Some(more) = self.complaints.too_many.allow() {
                log::warn!(
                    "{} connections are all there may be: {address} is refused; see \
                     limits.max_connections{more}",
                    self.connections.limit()
                );
            }
            return self.refuse(stream, &Refusal::ConnectionLimit);
        };
        let (arrival, limit) = match snapshot.config.proxy_protocol {
            None => (
                Arrival::Direct,
                snapshot.config.limits.max_connections_per_client,
            ),
            // Who it counts for is said in its header.
            Some(_) => (Arrival::Unannounced, None),
        };
        let Some(client) = self.clients.take(address.ip(), limit) else {
            self.ctx.metrics.refused_for_client.increment();
            if let Some(more) = self.complaints.too_many_of_one.allow() {
                log::warn!(
                    "{} has all the connections that one client may have: one more is refused; see \
                     limits.max_connections_per_client{more}",
                    address.ip()
                );
            }
            return self.refuse(stream, &Refusal::ClientConnectionLimit);
        };
        if !cfg!(target_os = "linux") {
            let prepared = stream
                .set_nonblocking(false)
                .and_then(|()| socket::prepare(&stream))
                .and_then(|()| stream.set_read_timeout(Some(TICK)))
                .and_then(|()| stream.set_write_timeout(Some(TICK)));
            if prepared.is_err() {
                return None; // It is gone already.
            }
        }
        let conn = Conn::prepared(stream, TICK);
        let permits = (connection, client);
        let client = Client::new(conn, (address, arrival), permits, &self.ctx.connections);
        Some(Newcomer::Client(Box::new(client)))
    }

    /// Tells a client that there is no room for it, without a permit and without waiting for it.
    fn refuse(&self, stream: TcpStream, refusal: &Refusal) -> Option<Newcomer> {
        let context = AnswerContext {
            body: BodyWanted::Yes,
            persistence: Persistence::Close(CloseReason::RequestRefused),
            next_hop: None,
            server: self.ctx.via.pseudonym(),
            request_id: None,
            id_field: None,
        };
        let mut out = Vec::new();
        answer::write(refusal, &context, &mut out);
        let mut conn = Conn::prepared(stream, TICK);
        conn.send(&[IoSlice::new(&out)], Wait::No).ok()?;
        conn.finish_sending();
        Some(Newcomer::Refused(Box::new(conn)))
    }
}
