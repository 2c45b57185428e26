//! What a connection to an [`Upstream`](super::Upstream) meets: the threads behind it.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::hop::Hop;
use super::journal::Journal;
use super::socket::{Socket, Talk};
use super::socks::SocksReplies;
use super::wire::{Kind, Message, find};
use super::{PATIENCE, POLL_PAUSE, spawn};

/// In the target of a probe, and nowhere else.
const PROBE_PATH: &[u8] = b"/probe-generate_204";

/// Between two bytes of [`ProbeAnswer::Trickle`].
const TRICKLE_PAUSE: Duration = Duration::from_millis(50);

/// How a question of a check begins that is for the upstream itself, and who sends it: nobody else sends
/// origin-form to an upstream, but origins are played here as well.
const OWN_LINE: &[u8] = b"GET / ";
const OWN_AGENT: &[u8] = b"\r\nUser-Agent: http-proxy-lb/";

/// What becomes of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeAnswer {
    /// 204: the upstream is well.
    Good,
    /// Another status.
    Status(u16),
    /// The connection is closed without an answer.
    Close,
    /// No answer at all.
    Silence,
    /// The answer comes byte by byte and takes seconds.
    Trickle,
}

pub(super) type Step = Box<dyn FnOnce(&mut Hop) + Send>;

/// What an accepted connection meets.
pub(super) enum Role {
    ByHand,
    Script,
    Server,
    /// Each request is answered by the function of a test.
    Answering(Box<Answer>),
    Silent,
    /// A SOCKS5 server.
    Socks(SocksReplies),
}

/// Plays what follows one request; the connection goes on unless it says otherwise.
pub(super) type Answer = dyn Fn(&mut Hop, &Message) + Send + Sync;

/// What is shared with the threads that accept and serve.
pub(super) struct Stage {
    pub(super) name: String,
    pub(super) journal: Journal,
    role: Role,
    pub(super) probe_answer: Mutex<ProbeAnswer>,
    /// What becomes of the question whether it answers for itself.
    pub(super) own_answer: Mutex<ProbeAnswer>,
    pub(super) scripts: Mutex<VecDeque<Vec<Step>>>,
    pub(super) waiting: Mutex<VecDeque<Hop>>,
    pub(super) arrived: Condvar,
    pub(super) seen: Mutex<Seen>,
    pub(super) open: Mutex<Vec<Weak<TcpStream>>>,
    pub(super) stopping: AtomicBool,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) connections: usize,
    pub(super) requests: Vec<Message>,
    pub(super) probes: Vec<Message>,
    pub(super) checks: Vec<Message>,
    /// What SOCKS5 connections began with, from the greeting to the request.
    pub(super) socks: Vec<Vec<u8>>,
    /// PROXY headers that connections began with, those of checks included.
    pub(super) proxy_headers: Vec<Vec<u8>>,
    /// What came over each connection, probes included.
    pub(super) heard: Vec<Arc<Mutex<Vec<u8>>>>,
    pub(super) scripts_played: usize,
    pub(super) scripts_written: usize,
}

impl Stage {
    pub(super) fn new(name: &str, role: Role) -> Self {
        let (probe, own) = match role {
            Role::Silent => (ProbeAnswer::Silence, ProbeAnswer::Silence),
            Role::ByHand | Role::Script | Role::Server | Role::Answering(_) | Role::Socks(_) => {
                (ProbeAnswer::Good, ProbeAnswer::Status(400))
            }
        };
        Self {
            name: name.to_owned(),
            journal: Journal::of_this_test(),
            role,
            probe_answer: Mutex::new(probe),
            own_answer: Mutex::new(own),
            scripts: Mutex::default(),
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            seen: Mutex::default(),
            open: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Ends all connections; whoever reads one sees its end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for stream in self
            .open
            .lock()
            .drain(..)
            .filter_map(|stream| stream.upgrade())
        {
            if let Err(error) = stream.shutdown(Shutdown::Both) {
                self.journal
                    .note(&self.name, &format!("already closed: {error}"));
            }
        }
    }

    /// Waits for scripts that are still being played.
    #[track_caller]
    pub(super) fn expect_scripts_played(&self) {
        let started = Instant::now();
        let played = || {
            let seen = self.seen.lock();
            seen.scripts_played == seen.scripts_written
        };
        while !played() && started.elapsed() < PATIENCE {
            thread::park_timeout(POLL_PAUSE);
        }
        if !played() {
            self.journal
                .fail(&self.name, "the script was not played to its end");
        }
    }

    /// Takes a new connection and serves it in a thread of its own.
    pub(super) fn welcome(self: &Arc<Self>, stream: TcpStream) {
        let number = self.journal.number();
        let name = format!("{} #{number}", self.name);
        self.journal.note(&name, "accepted");
        let socket = Socket::new(stream, name.clone(), self.journal.clone());
        self.open.lock().push(Arc::downgrade(&socket.handle()));
        self.seen.lock().heard.push(socket.heard());
        let hop = Hop::new(socket, Arc::clone(self));
        let stage = Arc::clone(self);
        drop(spawn(&name, move || stage.meet(hop)));
    }

    /// What came of checks so far is forgotten.
    pub(super) fn forget_checks(&self) {
        let mut seen = self.seen.lock();
        seen.probes.clear();
        seen.checks.clear();
    }

    /// Looks at the first line to tell a check from the rest.
    fn meet(&self, mut hop: Hop) {
        self.take_proxy_header(&mut hop);
        if let Role::Socks(replies) = self.role {
            return self.meet_socks(hop, replies);
        }
        while !hop.socket.pending().contains(&b'\n') && matches!(hop.socket.fill(), Ok(true)) {}
        let line = hop
            .socket
            .pending()
            .split(|&byte| byte == b'\n')
            .next()
            .unwrap_or_default();
        if line.starts_with(b"GET ") && find(line, PROBE_PATH).is_some() {
            self.answer_probe(&mut hop);
            return;
        }
        if line.starts_with(OWN_LINE) {
            let is_whole = |hop: &Hop| find(hop.socket.pending(), b"\r\n\r\n").is_some();
            while !is_whole(&hop) && matches!(hop.socket.fill(), Ok(true)) {}
            if find(hop.socket.pending(), OWN_AGENT).is_some() {
                self.answer_for_itself(&mut hop);
                return;
            }
        }
        if hop.socket.pending().is_empty() {
            return;
        }
        self.seen.lock().connections += 1;
        match self.role {
            Role::ByHand => {
                self.waiting.lock().push_back(hop);
                self.arrived.notify_all();
            }
            Role::Script => self.play(hop),
            Role::Server => self.serve(&mut hop),
            Role::Answering(ref answer) => {
                while hop.ending.is_none() {
                    match hop.try_read_request() {
                        Ok(request) => answer(&mut hop, &request),
                        Err(what) => return self.expect_not_malformed(&what),
                    }
                }
            }
            Role::Silent | Role::Socks(_) => self.until_closed(&mut hop),
        }
    }

    /// Takes a PROXY header from the beginning of a connection, if there is one.
    fn take_proxy_header(&self, hop: &mut Hop) {
        loop {
            let pending = hop.socket.pending();
            let begins =
                |wanted: &[u8]| pending.iter().zip(wanted).all(|(one, other)| one == other);
            let length = if begins(b"PROXY ") {
                find(pending, b"\r\n").map(|end| end + 2)
            } else if begins(b"\r\n\r\n\0\r\nQUIT\n") {
                let block = pending.get(14..16).map(|length| (length[0], length[1]));
                block.map(|(high, low)| 16 + usize::from(u16::from_be_bytes([high, low])))
            } else {
                return;
            };
            if let Some(header) = length.and_then(|length| pending.get(..length)) {
                self.seen.lock().proxy_headers.push(header.to_vec());
                return hop.socket.drop_pending(header.len());
            }
            if !matches!(hop.socket.fill(), Ok(true)) {
                return;
            }
        }
    }

    fn answer_for_itself(&self, hop: &mut Hop) {
        match hop.socket.try_read_message(Kind::Request) {
            Ok(check) => self.seen.lock().checks.push(check),
            Err(what) => return self.journal.fail(&self.name, &format!("no check: {what}")),
        }
        let answer = *self.own_answer.lock();
        self.answer_check(hop, answer);
    }

    pub(super) fn answer_probe(&self, hop: &mut Hop) {
        match hop.socket.try_read_message(Kind::Request) {
            Ok(probe) => self.seen.lock().probes.push(probe),
            Err(what) => return self.journal.fail(&self.name, &format!("no probe: {what}")),
        }
        let answer = *self.probe_answer.lock();
        self.answer_check(hop, answer);
    }

    fn answer_check(&self, hop: &mut Hop, answer: ProbeAnswer) {
        let status = match answer {
            ProbeAnswer::Good => 204,
            ProbeAnswer::Status(status) => status,
            ProbeAnswer::Close => return,
            ProbeAnswer::Silence => return self.until_closed(hop),
            ProbeAnswer::Trickle => {
                for byte in b"HTTP/1.1 204 Probed\r\nConnection: close\r\n\r\n".chunks(1) {
                    hop.send_as_far_as_possible(byte);
                    thread::park_timeout(TRICKLE_PAUSE);
                }
                return;
            }
        };
        let length = if status == 204 {
            ""
        } else {
            "Content-Length: 0\r\n"
        };
        hop.send_as_far_as_possible(format!(
            "HTTP/1.1 {status} Probed\r\n{length}Connection: close\r\n\r\n"
        ));
    }

    fn play(&self, mut hop: Hop) {
        let Some(script) = self.scripts.lock().pop_front() else {
            return self
                .journal
                .fail(&self.name, "a connection that no script is for");
        };
        let played = catch_unwind(AssertUnwindSafe(|| {
            for step in script {
                step(&mut hop);
            }
        }));
        if let Err(payload) = played {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            self.journal
                .fail(&self.name, text.unwrap_or("a step of the script failed"));
        }
        let held = hop.ending.is_none().then(|| hop.socket.handle());
        drop(hop);
        self.seen.lock().scripts_played += 1;
        // An open end: the connection lives as long as the upstream.
        while held.is_some() && !self.stopping.load(Ordering::Relaxed) {
            thread::park_timeout(POLL_PAUSE);
        }
    }

    fn serve(&self, hop: &mut Hop) {
        loop {
            let request = match hop.try_read_request() {
                Ok(request) => request,
                Err(what) => return self.expect_not_malformed(&what),
            };
            if request.method() == "CONNECT" {
                hop.send_as_far_as_possible("HTTP/1.1 200 Connected\r\n\r\n");
                return match request.target().parse() {
                    Ok(address) => self.relay(hop, &address),
                    Err(_) => echo(hop),
                };
            }
            let body = if request.method() == "HEAD" {
                ""
            } else {
                &self.name
            };
            let length = self.name.len();
            hop.send_as_far_as_possible(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            if request
                .values("Connection")
                .iter()
                .any(|value| value == "close")
            {
                return;
            }
        }
    }

    /// A request may break off, but nothing malformed may come from the proxy.
    fn expect_not_malformed(&self, what: &str) {
        if what.starts_with("malformed") {
            self.journal.fail(&self.name, what);
        }
    }

    /// A tunnel to a real address.
    fn relay(&self, hop: &mut Hop, address: &SocketAddr) {
        let Ok(target) = TcpStream::connect_timeout(address, PATIENCE) else {
            return;
        };
        let early = hop.socket.take_pending();
        let (here, there) = (hop.socket.handle(), Arc::new(target));
        let (back_from, back_to) = (Arc::clone(&there), Arc::clone(&here));
        let back = spawn(&self.name, move || copy(&[], &back_from, &back_to));
        copy(&early, &here, &there);
        drop(back.join());
    }

    pub(super) fn until_closed(&self, hop: &mut Hop) {
        loop {
            match hop.socket.fill() {
                Ok(false) => return,
                Err(_) if self.stopping.load(Ordering::Relaxed) => return,
                Ok(true) | Err(_) => {}
            }
        }
    }
}

fn echo(hop: &mut Hop) {
    loop {
        let bytes = hop.socket.take_pending();
        if !bytes.is_empty() {
            hop.send_as_far_as_possible(bytes);
        }
        if !matches!(hop.socket.fill(), Ok(true)) {
            return;
        }
    }
}

/// Copies until the end, then passes the FIN on.
fn copy(early: &[u8], from: &TcpStream, to: &TcpStream) {
    let (mut from, mut writer) = (from, to);
    let early = io::Write::write_all(&mut writer, early);
    if early
        .and_then(|()| io::copy(&mut from, &mut writer))
        .is_err()
    {
        return;
    }
    drop(to.shutdown(Shutdown::Write));
}
