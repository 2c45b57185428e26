//! Sockets: the only layer below the server that does IO.
//!
//! - [`socket`]: system calls with a time limit, and waiting for two sockets at once
//! - [`addresses`]: which address of a name comes next
//! - [`buffer`]: memory for bytes on their way
//! - [`conn`]: a socket with the bytes read too far
//! - [`dial`]: an authority to a connected socket, several against each other
//! - [`folder`]: a private folder for Unix sockets
//! - [`idle_pool`]: idle connections to one upstream, kept for reuse
//! - [`inherited`]: sockets that the service manager opened
//! - [`log_limiter`]: lines of the log that come once in a while
//! - [`permits`]: how many of a thing may exist, as guards
//! - [`pipe`]: bytes from socket to socket without a copy
//! - `port_holder`: who has a port that cannot be listened on
//! - [`process`]: what the system says about this process
//! - [`readiness`]: which of many sockets are ready
//! - [`resolve`]: names to addresses, off the workers, under a deadline
//! - `shares`: which clients may ask for names, and in which order
//! - [`sink`]: files and pipes for lines, written to without being held up
//! - [`systemd_notifier`]: what the service manager is told
//! - [`thread_pool`]: threads kept for the next job
//! - [`threads`]: named threads within the process's budget
//! - `tls`: upstreams that are reached over TLS, in builds with that feature
//! - [`tunnel`]: what follows a CONNECT or an Upgrade
//!
//! Every socket is blocking; single calls are made non-blocking by a flag where two peers must be
//! watched at once. Nothing here knows HTTP.

pub mod addresses;
pub mod buffer;
pub mod conn;
pub mod dial;
pub mod folder;
pub mod idle_pool;
pub mod inherited;
pub mod log_limiter;
pub mod permits;
pub mod pipe;
mod port_holder;
pub mod process;
pub mod readiness;
pub mod resolve;
mod shares;
pub mod sink;
pub mod socket;
pub mod systemd_notifier;
pub mod thread_pool;
pub mod threads;
#[cfg(feature = "tls")]
pub mod tls;
pub mod tunnel;
