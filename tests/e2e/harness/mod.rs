//! What every end-to-end test stands on: a proxy, and scripts of literal bytes on both sides of it.
//!
//! ```text
//! let upstream = Upstream::by_hand("a");           // a next hop that the test plays itself
//! let proxy = Proxy::over([&upstream]);            // the real thing, in this process, on port 0
//! let mut client = proxy.client();                 // a raw TCP client
//!
//! client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n");
//! let mut hop = upstream.accept();                 // one connection the proxy opened
//! hop.read_request().expect_line("GET http://o.test/ HTTP/1.1");
//! hop.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
//! client.expect_status(200).expect_body("hi");
//! ```
//!
//! | piece | module | for |
//! |---|---|---|
//! | [`Proxy`] | `proxy` | the relay under test and its configuration |
//! | [`Client`] | `client` | requests byte by byte, answers checked field by field |
//! | [`Upstream`], [`Hop`] | `upstream`, `hop` | a member of the pool: by hand, by script, or a small server |
//! | [`Origin`] | `origin` | where a direct request ends |
//! | [`FullPort`], [`places`] | `place` | where connections hang; several addresses for one name |
//! | [`Talk`] | `socket` | what client and hop have in common: send, expect, close, reset |
//! | [`Message`] | `wire` | an HTTP parser of its own, so that no bug is on both sides |
//! | [`forwarded`], [`relayed`], [`expect_refused`], .. | `exchange` | one exchange in one line, for tables |
//! | [`journal::Journal`] | `journal` | who sent what and when; printed when a test fails |
//!
//! Nothing here sleeps in order to synchronise. A step waits for what it is about, for at most
//! [`PATIENCE`]; for everything else there is [`wait_until`].

pub(crate) mod client;
pub(crate) mod exchange;
pub(crate) mod hop;
pub(crate) mod journal;
pub(crate) mod origin;
pub(crate) mod place;
pub(crate) mod proxy;
mod selftest;
pub(crate) mod socket;
pub(crate) mod socks;
pub(crate) mod stage;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod upstream;
pub(crate) mod wire;

use std::thread;
use std::time::{Duration, Instant};

pub(crate) use client::Client;
pub(crate) use exchange::{
    expect_bad_gateway, expect_refused, expect_refused_and_closed, forwarded, forwarded_direct,
    relayed,
};
pub(crate) use hop::Hop;
pub(crate) use origin::Origin;
pub(crate) use place::{FullPort, places};
pub(crate) use proxy::{Member, Proxy, TemporaryFile, configuration_text};
pub(crate) use socket::Talk;
pub(crate) use socks::SocksReplies;
pub(crate) use stage::ProbeAnswer;
pub(crate) use upstream::Upstream;
pub(crate) use wire::{Message, latin1};

/// How long a step may take before the test has failed. Generous, because the machine may be
/// busy; a test that passes never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long [`Talk::expect_nothing_more`] listens. That nothing comes can only be waited for.
pub(crate) const QUIET: Duration = Duration::from_millis(150);

const POLL_PAUSE: Duration = Duration::from_millis(2);

/// Waits until `done` says so; fails after [`PATIENCE`].
#[track_caller]
pub(crate) fn wait_until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain");
        thread::park_timeout(POLL_PAUSE);
    }
}

/// Starts a named helper thread of a test.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .expect("a thread for the test")
}

/// Bytes that repeat nowhere within 64 KiB, so that lost or doubled blocks are seen.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .take(length)
        .collect()
}

/// This many field lines, from `X-0: 0` on.
pub(crate) fn numbered_fields(count: usize) -> String {
    (0..count)
        .map(|n| format!("X-{n}: {n}\r\n"))
        .collect::<Vec<_>>()
        .concat()
}
