//! The acceptor: takes connections from the listener and refuses those for which there is no room.
//!
//! Whoever watches the parked connections (see [`super::waiter`]) is told of new ones, too, takes them in
//! and serves the first itself. Their requests are mostly there by then, so that a new connection wakes
//! one thread, once. The acceptor's own thread only sees to what cannot be done in passing.
//!
//! When the process runs out of file descriptors, accepting fails at once and for as long as they are
//! used, so that thread then waits, longer each time, and says so once in a while; a descriptor held in
//! reserve lets it tell at least one client after the other.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::inherited::ListenerOwner;
use crate::net::log_limiter::LogLimiter;
use crate::net::permits::{PerClient, Permits};
use crate::net::socket::{self, Received, TICK, Wait};
use crate::protocol::answer::{self, AnswerContext, BodyWanted, Refusal};
use crate::protocol::persistence::{CloseReason, Persistence};
use crate::relay::{Arrival, Client, Context};
use crate::stop::{Notify, Stage};

use super::systemd::SystemdReporter;
use super::waiter::{ReadyClient, Waiter};
use super::workers::Workers;

/// Connections that may wait to be accepted; the system may allow fewer.
const BACKLOG: u16 = 4096;
/// The first and the longest pause when there are no descriptors.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Connections taken at once by a thread that has other things to do.
const BATCH: u16 = 32;

/// Accepts connections until the stop signal.
#[derive(Debug)]
pub(super) struct Acceptor {
    ctx: Arc<Context>,
    /// None: it was closed.
    listener: RwLock<Option<TcpListener>>,
    owner: ListenerOwner,
    waiter: Arc<Waiter>,
    connections: Arc<Permits>,
    clients: Arc<PerClient>,
    service: Arc<SystemdReporter>,
    complaints: Complaints,
    /// There is something for the thread to see to.
    notify: Notify,
}

/// What is left in the listener's queue.
#[derive(Debug)]
enum Left {
    Nothing,
    /// Maybe something.
    Some,
    /// What cannot be accepted for now.
    Stuck(io::Error),
}

/// What is said when somebody is turned away.
#[derive(Debug, Default)]
struct Complaints {
    no_files: LogLimiter,
    too_many: LogLimiter,
    too_many_of_one: LogLimiter,
}

impl Acceptor {
    /// An acceptor of whose `listener` whoever watches is told from now on.
    ///
    /// # Errors
    /// When the system has no memory left for it.
    pub(super) fn new(
        (ctx, service): (&Arc<Context>, &Arc<SystemdReporter>),
        waiter: &Arc<Waiter>,
        (listener, owner): (TcpListener, ListenerOwner),
        connections: &Arc<Permits>,
    ) -> io::Result<Arc<Self>> {
        waiter.watch_door(&listener)?;
        Ok(Arc::new(Self {
            ctx: Arc::clone(ctx),
            listener: RwLock::new(Some(listener)),
            owner,
            waiter: Arc::clone(waiter),
            connections: Arc::clone(connections),
            clients: Arc::default(),
            service: Arc::clone(service),
            complaints: Complaints::default(),
            notify: ctx.stop.subscribe(),
        }))
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

    /// Takes in who has come; adds those who have said something already to `ready`.
    pub(super) fn take_in(&self, ready: &mut Vec<ReadyClient>) {
        // Held until all are parked: whoever closes the listener can rely on that.
        let listener = self.listener.read();
        let (Some(listener), Stage::Running) = (&*listener, self.ctx.stop.stage()) else {
            return; // What is left is for the thread, or for the next process.
        };
        let mut memory = Buffer::default();
        let mut welcome = |mut client: Box<Client>| {
            client.conn.borrow_memory(&mut memory);
            let said = client.conn.receive(Wait::No);
            client.conn.release(&mut memory);
            match said {
                Ok(Received::Nothing) => ready.extend(self.waiter.park(client, None)),
                // What has ended shows again.
                Ok(Received::Bytes(_) | Received::End) | Err(_) => ready.push((client, None)),
            }
        };
        match self.accept(listener, BATCH, &mut welcome) {
            Left::Nothing => {}
            Left::Some => self.waiter.ring(),
            Left::Stuck(_) => self.notify.notify_one(),
        }
    }

    fn accept(
        &self,
        listener: &TcpListener,
        most: u16,
        welcome: &mut dyn FnMut(Box<Client>),
    ) -> Left {
        for _ in 0..most {
            match listener.accept() {
                Ok((stream, address)) => {
                    if let Some(client) = self.admit(stream, address) {
                        welcome(client);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Left::Nothing,
                Err(error) if socket::is_exhaustion(&error) => return Left::Stuck(error),
                // The client gave up before it was accepted (ECONNABORTED and the like).
                Err(error) => log::debug!("a connection was lost before it was accepted: {error}"),
            }
        }
        Left::Some
    }

    /// The thread.
    pub(super) fn run(&self, workers: &Workers) {
        let mut reserve = File::open("/dev/null").ok();
        let mut pause = PAUSES.0;
        let wakes_every = self.service.pulses.every;
        let mut welcome = |client| {
            if let Some(ready) = self.waiter.park(client, None) {
                workers.submit(ready);
            }
        };
        while let Some(listener) = &*self.listener.read()
            && self.ctx.stop.stage() == Stage::Running
        {
            self.service.pulses.acceptor.beat();
            match self.accept(listener, BATCH, &mut welcome) {
                Left::Some => pause = PAUSES.0,
                Left::Nothing => {
                    pause = PAUSES.0;
                    self.notify.wait(wakes_every);
                }
                Left::Stuck(error) => {
                    self.make_way(listener, &error, &mut reserve);
                    self.ctx.stop.wait(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
        let Some(listener) = self.listener.write().take() else {
            return;
        };
        self.waiter.forget_door(&listener);
        // What is in the queue already would get a reset when the listener closes. No more than fits into
        // it, or clients that keep coming would keep it open. Or else it stays for the next process.
        if self.owner == ListenerOwner::ThisProcess {
            self.accept(&listener, BACKLOG, &mut welcome);
        }
    }

    /// There are no descriptors left: tells one client, with the one in `reserve`.
    fn make_way(&self, listener: &TcpListener, error: &io::Error, reserve: &mut Option<File>) {
        if let Some(more) = self.complaints.no_files.allow() {
            log::error!(
                "cannot accept connections: {error}; raise the limit of open files or lower \
                 limits.max_connections{more}"
            );
        }
        drop(reserve.take());
        if let Ok((stream, _)) = listener.accept() {
            self.ctx.metrics.refused.increment();
            self.refuse(stream, &Refusal::ConnectionLimit);
        }
        *reserve = File::open("/dev/null").ok();
    }

    /// Makes a client of a connection, or refuses it.
    fn admit(&self, stream: TcpStream, address: SocketAddr) -> Option<Box<Client>> {
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
            self.refuse(stream, &Refusal::ConnectionLimit);
            return None;
        };
        let snapshot = self.ctx.snapshot();
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
            self.refuse(stream, &Refusal::ClientConnectionLimit);
            return None;
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
        Some(Box::new(client))
    }

    /// Tells a client that there is no room for it, without a permit and without waiting for it.
    fn refuse(&self, stream: TcpStream, refusal: &Refusal) {
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
        if conn.send(&[IoSlice::new(&out)], Wait::No).is_ok() {
            conn.finish_sending();
            self.waiter.linger_uncounted(conn);
        }
    }
}
