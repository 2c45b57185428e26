//! The admin server: what operators, Prometheus and orchestrators ask (contract: `/health`, `/ready`,
//! `/status`, `/metrics`, `/`, and `POST /upstreams/NAME/drain` and `/enable`).
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
//! for what), `failed_logins`, `refused`, `inner` (the HTTP library), `handler`, `readiness`, `rows` (every
//! number that is shown), `status` (JSON), `families` and `exposition` (Prometheus).

mod authorization;
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
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::listen::ListenAddress;
use crate::net::socket::{self, Want};
use crate::net::threads;

pub use view::{Load, RelayView};

use front::Front;
use handler::Handler;
use inner::{Inner, Prepare};

/// The pause before a front that failed is started anew.
const PAUSE: Duration = Duration::from_millis(100);

/// A running admin server.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    /// Shut down, it makes the thread leave.
    wake: UnixStream,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the supervising thread owns.
struct Supervisor {
    seen: Arc<dyn RelayView>,
    listen: ListenAddress,
    listener: TcpListener,
    wake: UnixStream,
    inner: Inner,
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
        let handler = Arc::new(Handler::new(Arc::clone(&seen)));
        let supervisor = Supervisor {
            inner: Inner::start(handler, prepare)?,
            seen,
            listen,
            listener,
            wake: woken,
        };
        let thread = threads::start("admin", move || supervisor.run())?;
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

impl Supervisor {
    /// The thread: a front, and another one should that ever fail.
    fn run(mut self) {
        loop {
            let ctx = Arc::clone(self.seen.context());
            let doors = (&self.listener, &self.wake);
            let mut front = Front::new(&ctx, &self.listen, doors, &mut self.inner);
            match catch_unwind(AssertUnwindSafe(|| front.run())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => log::error!("the admin server is started anew: {error}"),
                Err(_panic) => ctx.metrics.panics.increment(),
            }
            let told = socket::wait_any(&[(self.wake.as_fd(), Want::Read)], PAUSE);
            if told.is_ok_and(|ready| ready.first().is_some_and(|wake| wake.to_read())) {
                return;
            }
        }
    }
}
