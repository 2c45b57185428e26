//! Relaying: the only place where protocol, balancing and sockets meet.
//!
//! In reading order:
//! - [`session`]: one client connection, request after request
//! - `introduction`: who the client of a balancer in front is
//! - `foreign`: clients that do not speak HTTP
//! - `forward`: a request, through upstreams or directly
//! - [`connect`]: the same for CONNECT, and the start of every tunnel
//! - `next_hop`: connections to where it goes, several against each other
//! - `socks`: what a SOCKS5 upstream wants before the request
//! - `reuse`: idle connections of next hops, and whether they can be trusted
//! - `upstreams`: which upstream is tried next, and `waiting`: until one has room
//! - [`attempt`]: one try at one next hop, up to its final response head
//! - [`respond`]: the final response, from the next hop to the client
//! - [`duplex`]: the same while the request body still comes
//! - `resting`: answers that let their upstream rest
//! - `bulk`: bodies from socket to socket without a copy
//! - `evidence`: what an exchange tells about its upstream
//!
//! All of these are steps of the same thing, and stand on what it is:
//! - [`exchange`]: one request under way
//! - [`outcome`]: what a session leaves, and [`worker`]: what it asks of the thread that serves it
//! - [`hop`]: the connection to a next hop, and [`failed`]: why it brought no response
//! - [`upload`]: the request body, and what of it can be sent again
//! - [`access`]: who may use this proxy, and where the direct route may go
//! - [`exits`]: what a request wants of its upstream, and `told`: what that is told of the client
//! - [`report`]: what is told of an exchange when it is over
//! - [`connections`]: who is connected, for operators
//! - [`client`], `route_taken`, `scratch`, `snapshot`, `context`: who asks, and what there is to serve him with
//!
//! Nothing here knows of lanes and their threads: [`session::serve`] *returns* what is to become
//! of the connection, and the server does it.

/// Tells the log what was decided about a request, by its name: whoever has two words of it has all.
macro_rules! decided {
    ($exchange:expr, $($words:tt)+) => {
        log::debug!("{}: {}", $exchange.report.id($exchange.ctx), format_args!($($words)+))
    };
}

/// Tells the log a head of a request's exchange, without its secrets.
macro_rules! passes {
    ($report:expr, $ctx:expr, $way:literal, $head:expr) => {
        log::trace!("{}: {}: {}", $report.id($ctx), $way, ShownHead($head))
    };
}

pub mod access;
pub mod attempt;
mod bulk;
pub mod client;
pub mod connect;
pub mod connections;
mod context;
pub mod duplex;
mod evidence;
pub mod exchange;
pub mod exits;
pub mod failed;
mod foreign;
mod forward;
pub mod hop;

mod introduction;
mod next_hop;
pub mod outcome;
pub mod report;
pub mod respond;
mod resting;
mod reuse;
mod route_taken;
mod scratch;
pub mod session;
mod snapshot;
mod socks;
#[cfg(test)]
mod tests;
mod told;
pub mod upload;
mod upstreams;
mod waiting;
pub mod worker;

pub use client::{Arrival, Client};
pub use context::{Context, unix_ms};
pub use scratch::Scratch;
pub use snapshot::Snapshot;
