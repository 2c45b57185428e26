//! The built program between real upstream proxies, a real origin and real clients.
//!
//! The tests in `tests/e2e` write every byte themselves and so can only find what their author
//! thought of. Here the other ends are Squid, tinyproxy, nginx, curl, Chromium and so on, which have
//! opinions of their own. All of it runs on loopback, on free ports, in a temporary folder, and is
//! ended when the test ends.
//!
//! Every test is ignored unless asked for, because the programs have to be installed first:
//! `.ci/run` does that and then runs `cargo test --release --test real -- --ignored
//! --test-threads=1`. One at a time, because some of the tests count threads and memory.
#![cfg(test)]

/// Chromium, steered by its driver.
mod browser;
/// What every test needs of the machine: folders, free ports, connections, waiting.
mod machine;
/// A network of the test's own.
mod network;
/// Bytes whose place in a body can be told by looking at them.
mod pattern;
/// Servers that end with their test, and clients that end by themselves.
mod programs;
/// Just enough blocking HTTP for the hand-made origin and the raw client.
mod wire;

/// nginx, over plain HTTP and TLS.
mod nginx;
/// An origin written here, for what nginx does not do: echo, endless streams, git over HTTP.
mod origin;
/// Squid and tinyproxy.
mod proxies;
/// The program under test, and a second one of it as an upstream.
mod relay;
/// Everything above started together.
mod stage;

/// curl in all its moods.
mod curl;
/// What Squid is told of clients.
mod told;
/// wget, Python requests, git, apt-get and Chromium.
mod tools;

/// What one client provokes, and what upstreams are blamed for.
mod blame;
/// Networks in which nobody reaches the target of the probe.
mod closed;
/// Crowds of idle, slow and endless clients.
mod crowd;
/// A machine that has nothing left.
mod exhaustion;
/// Squid, HAProxy and nginx read what the relay lets through.
mod readers;
/// Connections to upstreams are used again, but not for the wrong origin.
mod reuse;

/// The newcomer's first command.
mod demo;
/// An upstream is killed while clients work.
mod kill;
/// Very large bodies in little memory.
mod memory;
/// A real Prometheus, its queries and its alerts.
mod monitoring;
/// The status page in a browser.
mod page;
/// GET and POST while upstreams die at random.
mod replay;
/// Sessions that stay with their exit.
mod sticky;
