//! A member of the pool, played by the test.
//!
//! | made by | plays |
//! |---|---|
//! | [`Upstream::by_hand`] | nothing: the test takes each connection with [`Upstream::accept`] and plays it step by step |
//! | [`Upstream::script`] | a list of steps for each connection, in a thread; see [`Upstream::next_connection`] |
//! | [`Upstream::echo_ok`] | a small proxy: 200 with its own name as body; CONNECT to an address connects, to a name echoes |
//! | [`Upstream::answering`] | a function of the test for each request |
//! | [`Upstream::silent`] | takes every connection and never says a word |
//! | [`Upstream::socks`] | a SOCKS5 server; the test takes what is behind it with [`Upstream::accept`] |
//! | [`Upstream::refusing`] | a port that belongs to us and refuses connections |
//!
//! Probes are told apart by their path and answered here, so that they never disturb a script:
//! [`Upstream::answer_probes`] says how. Whatever else comes is counted and recorded:
//! [`Upstream::connections`], [`Upstream::requests`], [`Upstream::expect_never_saw`].
//!
//! [`Upstream::kill`] and [`Upstream::revive`] work on all of them; the port is kept meanwhile.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::hop::Hop;
use super::socket::{Ended, Talk};
use super::socks::SocksReplies;
use super::stage::{ProbeAnswer, Role, Stage};
use super::wire::{Message, find, latin1};
use super::{PATIENCE, spawn, wait_until};

/// How often an accepting thread looks whether it shall stop.
const ACCEPT_POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// A port of our own: accepting, or only kept so that nobody else gets it.
enum Port {
    Accepting(JoinHandle<TcpListener>),
    Kept(OwnedFd),
    Moving,
}

/// One upstream of the pool.
pub(crate) struct Upstream {
    stage: Arc<Stage>,
    address: SocketAddr,
    port: Mutex<Port>,
}

impl Upstream {
    /// Connections wait for [`Upstream::accept`].
    #[track_caller]
    pub(crate) fn by_hand(name: &str) -> Self {
        Self::start(name, Role::ByHand, &loopback())
    }

    /// Connections are played by a script that the following calls write, for example
    /// `Upstream::script("a").read_request().close()`. A connection without a script fails the
    /// test, and so does a script that was not played to its end.
    #[track_caller]
    pub(crate) fn script(name: &str) -> Self {
        Self::start(name, Role::Script, &loopback())
    }

    /// A small proxy that answers everything with 200 and its own name.
    #[track_caller]
    pub(crate) fn echo_ok(name: &str) -> Self {
        Self::start(name, Role::Server, &loopback())
    }

    /// Accepts, and then nothing, not even an answer to a probe.
    #[track_caller]
    pub(crate) fn silent(name: &str) -> Self {
        Self::start(name, Role::Silent, &loopback())
    }

    /// Answers each request by this function, one connection in one thread. The connection is kept
    /// unless [`Hop::close_then`] or [`Hop::reset_then`] is called.
    #[track_caller]
    pub(crate) fn answering(
        name: &str,
        answer: impl Fn(&mut Hop, &Message) + Send + Sync + 'static,
    ) -> Self {
        Self::start(name, Role::Answering(Box::new(answer)), &loopback())
    }

    /// A SOCKS5 server that replies like this; see [`SocksReplies`].
    #[track_caller]
    pub(crate) fn socks(name: &str, replies: SocksReplies) -> Self {
        Self::start(name, Role::Socks(replies), &loopback())
    }

    /// Refuses connections until [`Upstream::revive`], then as [`Upstream::echo_ok`].
    #[track_caller]
    pub(crate) fn refusing(name: &str) -> Self {
        let upstream = Self::start(name, Role::Server, &loopback());
        upstream.kill();
        upstream
    }

    /// A server without probes, for [`Origin`](super::Origin).
    #[track_caller]
    pub(super) fn echo_at(name: &str, address: &SocketAddr) -> Self {
        Self::start(name, Role::Server, address)
    }

    /// As [`Upstream::by_hand`], at this address.
    #[track_caller]
    pub(crate) fn by_hand_at(name: &str, address: SocketAddr) -> Self {
        Self::start(name, Role::ByHand, &address)
    }

    /// As [`Upstream::echo_ok`], at this address.
    #[track_caller]
    pub(crate) fn echo_ok_at(name: &str, address: SocketAddr) -> Self {
        Self::start(name, Role::Server, &address)
    }

    /// Reads each request at this address and closes the connection instead of answering.
    #[track_caller]
    pub(crate) fn closing_at(name: &str, address: SocketAddr) -> Self {
        let close = |hop: &mut Hop, _: &Message| hop.close_then();
        Self::start(name, Role::Answering(Box::new(close)), &address)
    }

    #[track_caller]
    fn start(name: &str, role: Role, address: &SocketAddr) -> Self {
        let stage = Arc::new(Stage::new(name, role));
        let listener = listen(keep(address).expect("a free port")).expect("a listener");
        let address = listener.local_addr().expect("the address of a listener");
        let port = Mutex::new(Port::Accepting(accept_on(&stage, listener)));
        Self {
            stage,
            address,
            port,
        }
    }

    /// The name, which is also the one in the configuration of the proxy.
    pub(crate) fn name(&self) -> &str {
        &self.stage.name
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection in order of arrival. One counts as arrived with its first byte.
    #[track_caller]
    pub(crate) fn accept(&self) -> Hop {
        let mut waiting = self.stage.waiting.lock();
        let in_vain = self
            .stage
            .arrived
            .wait_while_for(&mut waiting, |w| w.is_empty(), PATIENCE);
        assert!(!in_vain.timed_out(), "nobody connected to {}", self.name());
        waiting.pop_front().expect("one connection is waiting")
    }

    /// The next connection if one is there already.
    pub(crate) fn try_accept(&self) -> Option<Hop> {
        self.stage.waiting.lock().pop_front()
    }

    /// The next connection and the whole request that comes over it.
    #[track_caller]
    pub(crate) fn accept_and_read_request(&self) -> (Hop, Message) {
        let mut hop = self.accept();
        let request = hop.read_request();
        (hop, request)
    }

    /// How many connections came, probes left out.
    pub(crate) fn connections(&self) -> usize {
        self.stage.seen.lock().connections
    }

    /// Every complete request that was read here, in order, probes left out.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.stage.seen.lock().requests.clone()
    }

    /// What each SOCKS5 connection began with, from the greeting to the request, probes left out.
    pub(crate) fn socks_handshakes(&self) -> Vec<Vec<u8>> {
        self.stage.seen.lock().socks.clone()
    }

    /// The PROXY headers that connections began with, those of checks included.
    pub(crate) fn proxy_headers(&self) -> Vec<Vec<u8>> {
        self.stage.seen.lock().proxy_headers.clone()
    }

    /// Every probe that came.
    pub(crate) fn probes(&self) -> Vec<Message> {
        self.stage.seen.lock().probes.clone()
    }

    /// Every question that came whether it answers for itself.
    pub(crate) fn checks(&self) -> Vec<Message> {
        self.stage.seen.lock().checks.clone()
    }

    /// How checks are answered from now on; at first the probe is answered [`ProbeAnswer::Good`], and
    /// the question for the upstream itself 400. One that does not answer probes does not answer for
    /// itself, either: see [`Upstream::answer_only_probes`].
    pub(crate) fn answer_probes(&self, answer: ProbeAnswer) {
        self.answer_only_probes(answer);
        *self.stage.own_answer.lock() = match answer {
            ProbeAnswer::Good | ProbeAnswer::Status(_) => ProbeAnswer::Status(400),
            ProbeAnswer::Close | ProbeAnswer::Silence | ProbeAnswer::Trickle => answer,
        };
    }

    /// How probes are answered from now on, as their target would have it.
    pub(crate) fn answer_only_probes(&self, answer: ProbeAnswer) {
        *self.stage.probe_answer.lock() = answer;
    }

    pub(super) fn stage(&self) -> &Arc<Stage> {
        &self.stage
    }

    /// Not one connection came, probes left out.
    #[track_caller]
    pub(crate) fn expect_untouched(&self) {
        assert_eq!(self.connections(), 0, "connections to {}", self.name());
    }

    /// These bytes are in nothing that was read here.
    #[track_caller]
    pub(crate) fn expect_never_saw(&self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let seen = self.stage.seen.lock();
        let saw = seen
            .heard
            .iter()
            .any(|heard| find(&heard.lock(), bytes).is_some());
        assert!(!saw, "{} saw {:?}", self.name(), latin1(bytes));
    }

    /// Closes the listener and all connections, as the end of the process would. The port stays
    /// ours, so that nobody else answers there.
    #[track_caller]
    pub(crate) fn kill(&self) {
        let mut port = self.port.lock();
        if let Port::Accepting(thread) = std::mem::replace(&mut *port, Port::Moving) {
            self.stage.stop();
            drop(thread.join().expect("the accepting thread"));
            let mut kept = None;
            wait_until(|| {
                kept = keep(&self.address).ok();
                kept.is_some()
            });
            *port = kept.map_or(Port::Moving, Port::Kept);
            self.stage.journal.note(self.name(), "killed");
        }
    }

    /// Listens again after [`Upstream::kill`].
    #[track_caller]
    pub(crate) fn revive(&self) {
        let mut port = self.port.lock();
        if let Port::Kept(socket) = std::mem::replace(&mut *port, Port::Moving) {
            self.stage.stopping.store(false, Ordering::Relaxed);
            let listener = listen(socket).expect("to listen again");
            *port = Port::Accepting(accept_on(&self.stage, listener));
            self.stage.journal.note(self.name(), "revived");
        }
    }
}

/// The script of [`Upstream::script`]. The steps belong to the first connection until
/// [`Upstream::next_connection`]. Behind the last step the connection stays open.
impl Upstream {
    /// The steps that follow are for one more connection.
    pub(crate) fn next_connection(self) -> Self {
        self.stage.scripts.lock().push_back(Vec::new());
        self.stage.seen.lock().scripts_written += 1;
        self
    }

    /// Any step of [`Hop`] or [`Talk`].
    pub(crate) fn then(self, step: impl FnOnce(&mut Hop) + Send + 'static) -> Self {
        if self.stage.scripts.lock().is_empty() {
            return self.next_connection().then(step);
        }
        if let Some(script) = self.stage.scripts.lock().back_mut() {
            script.push(Box::new(step));
        }
        self
    }

    /// Reads a whole request.
    pub(crate) fn read_request(self) -> Self {
        self.then(|hop| {
            hop.read_request();
        })
    }

    /// The next bytes from the proxy are these.
    pub(crate) fn expect_bytes(self, bytes: &str) -> Self {
        let bytes = bytes.to_owned();
        self.then(move |hop| {
            hop.expect_bytes(bytes);
        })
    }

    /// Sends these bytes.
    pub(crate) fn send(self, bytes: &str) -> Self {
        let bytes = bytes.to_owned();
        self.then(move |hop| {
            hop.send(bytes);
        })
    }

    /// Closes the connection (FIN).
    pub(crate) fn close(self) -> Self {
        self.then(|hop| hop.ending = Some(Ended::Closed))
    }

    /// Resets the connection (RST).
    pub(crate) fn reset(self) -> Self {
        self.then(|hop| hop.ending = Some(Ended::Reset))
    }

    /// Says nothing and waits until the proxy has closed the connection.
    pub(crate) fn stall(self) -> Self {
        self.then(|hop| {
            hop.socket.read_to_end();
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stage.journal.print_if_panicking();
        if !thread::panicking() {
            self.stage.expect_scripts_played();
        }
        self.stage.stop();
        if let Port::Accepting(thread) = std::mem::replace(self.port.get_mut(), Port::Moving) {
            drop(thread.join());
        }
        let not_accepted = std::mem::take(&mut *self.stage.waiting.lock());
        drop(not_accepted);
        if !thread::panicking() {
            self.stage.journal.expect_no_failure();
        }
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Binds without listening: connections are refused, and nobody else can have the port.
pub(super) fn keep(address: &SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, address)?;
    Ok(socket)
}

fn listen(socket: OwnedFd) -> io::Result<TcpListener> {
    rustix::net::listen(&socket, 128)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Starts the thread that accepts until the stage stops; it hands the listener back.
fn accept_on(stage: &Arc<Stage>, listener: TcpListener) -> JoinHandle<TcpListener> {
    let stage = Arc::clone(stage);
    spawn(&stage.name.clone(), move || {
        while !stage.stopping.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(&listener, PollFlags::IN)];
            if poll(&mut ready, Some(&ACCEPT_POLL)).is_err() {
                continue;
            }
            if let Ok((stream, _)) = listener.accept() {
                stream
                    .set_nonblocking(false)
                    .expect("a blocking connection");
                stage.welcome(stream);
            }
        }
        listener
    })
}
