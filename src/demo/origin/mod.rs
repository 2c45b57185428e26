//! The embedded origin: a small HTTP/1.1 server, so that the demonstration needs no network.
//!
//! It tells by way of which upstream a request came (from `Via`, RFC 9110 §7.6.3), and it can be slow,
//! send much, or send back what it gets. One thread a connection, no more than a few hundred; it stands
//! behind the embedded upstreams and is no server for anything else.
//!
//! Here are its threads; `guest` is one connection, `reply` what is answered.

mod guest;
mod reply;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::net::socket::{self, TICK};
use crate::net::threads;
use crate::protocol::rewrite::Via;
use crate::stop::{Stage, Stop};

use super::embedded::EmbeddedUpstream;
use super::ports::loopback;

use guest::{Guest, OriginState, hang_up};

pub(super) use reply::{BYTES_PATH, ECHO_PATH, PROBE_PATH};

/// Connections at a time.
const MOST_CONNECTIONS: usize = 256;

/// The running server.
pub(super) struct EmbeddedOrigin {
    /// Where it listens.
    pub(super) address: SocketAddr,
    shared: Arc<OriginState>,
    acceptor: JoinHandle<()>,
}

impl EmbeddedOrigin {
    /// Starts it on that port of the loopback address.
    pub(super) fn start(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(loopback(port))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(OriginState {
            stop: Stop::new()?,
            upstreams: Mutex::default(),
        });
        Ok(Self {
            address: listener.local_addr()?,
            acceptor: {
                let shared = Arc::clone(&shared);
                let accept = move || accept(&listener, &shared);
                threads::start("origin", accept)?
            },
            shared,
        })
    }

    /// Makes the present name of `upstream` in `Via` known.
    pub(super) fn introduce(&self, upstream: &EmbeddedUpstream) {
        if let Some(pseudonym) = upstream.pseudonym() {
            let known = (Via::new(pseudonym), upstream.name.clone());
            self.shared.upstreams.lock().push(known);
        }
    }

    /// Stops it and cuts its connections.
    pub(super) fn end(self) {
        self.shared.stop.advance(Stage::Ended);
        if self.acceptor.join().is_err() {
            log::error!("the origin had panicked");
        }
    }
}

/// The thread that accepts, and owns the threads that serve.
fn accept(listener: &TcpListener, shared: &Arc<OriginState>) {
    let mut guests: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
    while shared.stop.stage() == Stage::Running {
        let accepted = listener.accept();
        guests.retain(|(_, thread)| !thread.is_finished());
        match accepted {
            Ok((stream, _)) if guests.len() < MOST_CONNECTIONS => match welcome(stream, shared) {
                Ok(guest) => guests.push(guest),
                Err(error) => log::warn!("origin: a connection is lost: {error}"),
            },
            Ok(_) => log::warn!("origin: more than {MOST_CONNECTIONS} connections"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let wake = shared.stop.wake_fd();
                if socket::wait_readable(listener, wake, None).is_err() {
                    shared.stop.wait(TICK);
                }
            }
            Err(error) => {
                log::warn!("origin: cannot accept: {error}");
                shared.stop.wait(TICK);
            }
        }
    }
    for (stream, thread) in guests {
        hang_up(&stream);
        if thread.join().is_err() {
            log::error!("a thread of the origin had panicked");
        }
    }
}

fn welcome(
    stream: TcpStream,
    shared: &Arc<OriginState>,
) -> io::Result<(TcpStream, JoinHandle<()>)> {
    // On some systems it is as the listener is.
    stream.set_nonblocking(false)?;
    socket::prepare(&stream)?;
    let guest = Guest::new(stream.try_clone()?, Arc::clone(shared))?;
    let thread = threads::start("origin-guest", move || guest.stay())?;
    Ok((stream, thread))
}
