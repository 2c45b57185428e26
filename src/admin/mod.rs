//! The admin server: what operators, Prometheus and orchestrators ask (contract: `/health`, `/ready`,
//! `/status`, `/connections`, `/metrics`, `/`, and `POST /upstreams/NAME/drain` and what else is done to one).
//!
//! ```text
//!  network ─▶ front ─ a complete head ─▶ authorization ─ a call ─▶ inner (tiny_http, Unix socket) ─▶ handler
//!                ◀────────── refused ──────────┘ ◀────────────────── the whole answer ────────────────┘
//! ```
//!
//! It must answer when the relay is in trouble, and must not be the trouble: it has two threads of its
//! own whatever comes, takes no lock that a worker holds for long, and is started anew when a part of
//! it fails. It goes on while the relay drains, so that `/ready` can say so.
//!
//! In reading order: `view` (what is seen of the relay), `front` (connections), `authorization` (who may ask
//! for what), `failed_logins`, `refused`, `inner` (the HTTP library), `handler`, `drains`, `readiness`, `rows` (every
//! number that is shown), `status` and `connections` (JSON), `families` and `exposition` (Prometheus).

mod authorization;
mod connections;
mod drains;
mod exposition;
mod failed_logins;
mod families;
mod front;
mod handler;
mod inner;
mod readiness;
mod refused;
mod rows;
mod status;
#[cfg(test)]
mod tests;
mod view;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::config::listen::ListenAddress;
use crate::net::threads;

pub use drains::DrainFile;
pub use view::{Load, RelayView};

use front::Front;
use inner::Prepare;

/// A running admin server.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    /// Shut down, it makes the thread leave.
    wake: UnixStream,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Admin {
    /// Serves the connections of `listener`, which listens where `listen` says.
    ///
    /// # Errors
    /// When there is no folder for a private socket, or no descriptor or thread left.
    pub fn start(
        listener: TcpListener,
        listen: ListenAddress,
        seen: Arc<dyn RelayView>,
    ) -> io::Result<Self> {
        Self::start_prepared(listener, listen, seen, |_| Ok(()))
    }

    fn start_prepared(
        listener: TcpListener,
        listen: ListenAddress,
        seen: Arc<dyn RelayView>,
        prepare: Prepare,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (wake, woken) = UnixStream::pair()?;
        let front = Front::start(seen, listener, listen, woken, prepare)?;
        let thread = threads::start("admin", move || front.run())?;
        Ok(Self {
            address,
            wake,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes it and waits for its thread. The folder of its private socket is gone afterwards.
    pub fn end(&self) {
        if let Err(error) = self.wake.shutdown(Shutdown::Both) {
            log::debug!("the admin server was already told to end: {error}");
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            log::error!("the admin thread had panicked");
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.end();
    }
}
