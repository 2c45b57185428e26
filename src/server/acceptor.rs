//! The acceptor: takes connections from the listener and refuses those for which there is no room.
//!
//! When the process runs out of file descriptors, accepting fails at once and for as long as they are
//! used, so the acceptor then waits, longer each time, and says so once in a while; a descriptor held in
//! reserve lets it tell at least one client after the other.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::net::conn::Conn;
use crate::net::passed::Holder;
use crate::net::permits::{PerClient, Permits};
use crate::net::seldom::Seldom;
use crate::net::socket::{self, TICK, Wait};
use crate::protocol::answer::{self, AnswerContext, BodyWanted, Refusal};
use crate::protocol::persistence::{CloseReason, Persistence};
use crate::relay::{Arrival, Client, Context};
use crate::stop::Stage;

use super::service::Service;
use super::waiter::Waiter;
use super::workers::Hold;

/// How long a worker waits for the next request of a connection it has just served. Sockets round it
/// up to the kernel's tick, 4 ms mostly.
const LINGER: Duration = Duration::from_millis(8);
/// Connections that may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 4096;
/// The first and the longest pause when there are no descriptors.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Accepts connections until the stop signal.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) ctx: Arc<Context>,
    pub(super) listener: TcpListener,
    pub(super) holder: Holder,
    pub(super) waiter: Arc<Waiter>,
    pub(super) connections: Arc<Permits>,
    pub(super) clients: Arc<PerClient>,
    pub(super) service: Arc<Service>,
    pub(super) complaints: Complaints,
}

/// What is said when somebody is turned away.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    no_files: Seldom,
    too_many: Seldom,
    too_many_of_one: Seldom,
}

impl Acceptor {
    /// Sets what accepted sockets inherit, where they do.
    ///
    /// # Errors
    /// When the listener is unusable.
    pub(super) fn prepare(listener: &TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        // The 128 of the standard library overflow in a burst, and whoever finds the queue full tries
        // again only after a second.
        rustix::net::listen(listener, BACKLOG)?;
        if cfg!(target_os = "linux") {
            socket::prepare_listener(listener, LINGER, TICK)?;
        }
        Ok(())
    }

    /// The thread.
    pub(super) fn run(self) {
        let mut reserve = File::open("/dev/null").ok();
        let mut pause = PAUSES.0;
        let wakes_every = self.service.pulses.every;
        while self.ctx.stop.stage() == Stage::Running {
            self.service.pulses.acceptor.beat();
            match self.listener.accept() {
                Ok((stream, address)) => {
                    pause = PAUSES.0;
                    self.admit(stream, address);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(wakes_every),
                Err(error) if socket::is_exhaustion(&error) => {
                    if let Some(more) = self.complaints.no_files.says() {
                        log::error!(
                            "cannot accept connections: {error}; raise the limit of open files or \
                             lower limits.max_connections{more}"
                        );
                    }
                    drop(reserve.take());
                    if let Ok((stream, _)) = self.listener.accept() {
                        self.ctx.metrics.refused.increment();
                        self.refuse(stream, &Refusal::ConnectionLimit);
                    }
                    reserve = File::open("/dev/null").ok();
                    // Not the listener: it stays readable.
                    self.ctx.stop.wait(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
                // The client gave up before it was accepted (ECONNABORTED and the like).
                Err(error) => log::debug!("a connection was lost before it was accepted: {error}"),
            }
        }
        // It stays in the queue for the next process.
        if self.holder == Holder::Manager {
            return;
        }
        // What is in the queue already would get a reset when the listener closes. No more than fits into
        // it, or clients that keep coming would keep it open.
        for _ in 0..BACKLOG {
            match self.listener.accept() {
                Ok((stream, address)) => self.admit(stream, address),
                Err(_) => return,
            }
        }
    }

    fn wait(&self, limit: Option<Duration>) {
        let wake = self.ctx.stop.wake_fd();
        if let Err(error) = socket::wait_readable(&self.listener, wake, limit) {
            log::error!("waiting for connections failed: {error}");
            self.ctx.stop.wait(PAUSES.1);
        }
    }

    fn admit(&self, stream: TcpStream, address: SocketAddr) {
        self.ctx.metrics.accepted.increment();
        let Some(connection) = self.connections.take(1) else {
            self.ctx.metrics.refused.increment();
            if let Some(more) = self.complaints.too_many.says() {
                log::warn!(
                    "{} connections are all there may be: {address} is refused; see \
                     limits.max_connections{more}",
                    self.connections.limit()
                );
            }
            return self.refuse(stream, &Refusal::ConnectionLimit);
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
            if let Some(more) = self.complaints.too_many_of_one.says() {
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
                .and_then(|()| stream.set_read_timeout(Some(LINGER)))
                .and_then(|()| stream.set_write_timeout(Some(TICK)));
            if prepared.is_err() {
                return; // It is gone already.
            }
        }
        let conn = Conn::prepared(stream, LINGER);
        self.waiter
            .park(Client::new(conn, (address, arrival), (connection, client)));
    }

    /// Tells a client that there is no room for it, without a permit and without waiting for it.
    fn refuse(&self, stream: TcpStream, refusal: &Refusal) {
        let context = AnswerContext {
            body: BodyWanted::Yes,
            persistence: Persistence::Close(CloseReason::RequestRefused),
            next_hop: None,
            server: self.ctx.via.pseudonym(),
        };
        let mut out = Vec::new();
        answer::write(refusal, &context, &mut out);
        let mut conn = Conn::prepared(stream, LINGER);
        if conn.send(&[IoSlice::new(&out)], Wait::No).is_ok() {
            conn.finish_sending();
            self.waiter.linger_uncounted(conn);
        }
    }
}
