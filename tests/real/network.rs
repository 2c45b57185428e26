//! A network of the test's own, with one machine and no way out: everything that leaves it is lost.
//!
//! It is a network namespace, and the thread of the test moves into it. Whatever that thread starts, be it
//! a program or another thread, is in there as well, so that all helpers of these tests work as they do
//! outside, with a loopback that is theirs alone.

use std::fs::File;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::machine::note;
use crate::programs::run;

/// Runs `body` in a network of its own; only says so where nobody may make one.
pub(crate) fn alone(body: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        note("SKIPPED: only root may make a network of its own");
        return;
    }
    let network = Network::new();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            network.enter();
            body();
        });
        if let Err(panic) = inside.join() {
            resume_unwind(panic);
        }
    });
}

/// Has a name until it is dropped, and lives on while somebody is in it.
struct Network {
    name: String,
}

impl Network {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hplb-real-{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        Self { name }
    }

    /// Moves this thread into it.
    fn enter(&self) {
        let path = PathBuf::from("/run/netns").join(&self.name);
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter it");
        ip(&["link", "set", "lo", "up"]);
        // The way out leads back to where nobody forwards.
        ip(&["route", "add", "default", "dev", "lo"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let finished = run(Command::new("ip").args(["netns", "delete", &self.name]));
        if finished.code != Some(0) {
            note(&format!("cannot remove {}: {}", self.name, finished.stderr));
        }
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments)).expect_success();
}

/// The network's only machine has this address, too.
pub(crate) fn own_address(address: &str) {
    ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]);
}

/// Name servers of this machine that take every question and answer none, as long as this is kept. Those
/// elsewhere are out of reach anyway.
pub(crate) fn silent_name_server() -> UdpSocket {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53)).expect("a port of an own network")
}
