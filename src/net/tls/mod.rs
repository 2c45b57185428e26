//! TLS towards upstreams, as a plain socket for everybody else. Only in builds with the feature `tls`.
//!
//! The relay reads and writes sockets: it blocks on them, polls them, watches them, moves bytes between them in
//! the kernel and lends them to tunnels. None of that shall know of TLS. So the connection to an upstream is
//! given to a thread of this module ([`start`]), and the relay gets one end of a pair of Unix sockets for it.
//! The thread, one for all, moves bytes between the other end and the connection (`carrier.rs`), without ever
//! waiting for either. It does the handshake as well: while that lasts, nobody else can send, and the end of
//! it can be waited for as for any socket ([`Handshake`]), beside other connections that are being made.
//!
//! What a socket tells of its peer, the pair tells, too:
//!
//! | the upstream | the relay sees |
//! |---|---|
//! | ends with `close_notify` | the end |
//! | closes, resets or vanishes without; sends a broken record | what came, then a reset |
//! | takes no more | a send that waits, and a reset or an error of it when it is gone |
//!
//! | the relay | the upstream sees |
//! |---|---|
//! | ends its side, or closes | what was sent, then `close_notify` |
//! | [resets](super::socket::reset_on_close), or closes with bytes unread | a reset |
//!
//! Not here: whom an upstream must prove to be ([`crate::balance::tls`]), and probes, which wait for TLS in a
//! thread of their own (`health/tls.rs`).

#[cfg(not(target_os = "linux"))]
compile_error!("the feature `tls` needs Linux, where a closed Unix socket can reset its peer");

mod carrier;
mod engine;
pub mod reasons;
pub mod resets;

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ClientConnection;

use crate::balance::tls::Tls;
use crate::protocol::tls::TlsFailure;

use super::socket::{self, Received, Wait};

use carrier::Carrier;
use resets::ResetMark;

/// A handshake that is going on.
#[derive(Debug)]
pub struct Handshake {
    /// Why it failed, if it did; known before the end of the relay's socket can be seen.
    failure: Arc<OnceLock<TlsFailure>>,
}

/// Begins TLS over a connection. Gives the socket that stands for it from now on; there is something to read
/// on it when the handshake is over.
///
/// # Errors
/// When the process has no descriptors or threads left.
pub fn start(upstream: TcpStream, tls: &Tls) -> io::Result<(TcpStream, Handshake)> {
    let session = ClientConnection::new(Arc::clone(&tls.client), tls.name.clone());
    let session = session.map_err(io::Error::other)?;
    let (near, far) = UnixStream::pair()?;
    let near = TcpStream::from(OwnedFd::from(near));
    let failure = Arc::default();
    let mark = ResetMark::of(&near)?;
    let carrier = Carrier::new(
        session,
        (far, upstream),
        (Arc::clone(&failure), mark),
        &near,
    )?;
    engine::carry(carrier)?;
    Ok((near, Handshake { failure }))
}

impl Handshake {
    /// How it ended, once there is something to read on its socket.
    ///
    /// # Errors
    /// A [`TlsFailure`].
    pub fn end(&self, near: &TcpStream) -> io::Result<()> {
        match socket::receive(near, &mut [0], Wait::No) {
            Ok(Received::Bytes(_)) => Ok(()),
            Ok(Received::End | Received::Nothing) | Err(_) => {
                let failure = self.failure.get().copied();
                Err(io::Error::other(failure.unwrap_or(TlsFailure::TlsFailed)))
            }
        }
    }
}

/// Waits until what was sent is on its way, for `limit` at most: with the process the thread ends, too.
pub fn finish(limit: Duration) {
    engine::finish(limit);
}
