//! Thousands of broken clients in one thread, which gives way to all others.
//!
//! Each connection has a part to play and a time at which it goes on. One that is closed comes back
//! after a moment, so that there are always about as many of each kind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};

use crate::garbage::{Random, garbage};
use crate::pass;

/// How many there are of each. The relay soon ends what is garbage, so more of those than are to be
/// there at once.
const CROWD: [(Part, usize); 4] = [
    (Part::Idle, 500),
    (Part::SlowHead, 200),
    (Part::Stalled, 100),
    (Part::Garbage, 6000),
];
/// With so many connections the crowd is complete.
const FULL: usize = 5000;
/// The crowd gathers within this time.
const GATHER: Duration = Duration::from_secs(3);
/// How long that may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// From one byte of a slow head to the next, about.
const SLOW_PACE: Duration = Duration::from_millis(500);
/// From the connection to the first piece of garbage, at most.
const SILENT_AT_FIRST: Duration = Duration::from_secs(8);
/// From one piece of garbage to the next, about.
const GARBAGE_PACE: Duration = Duration::from_secs(3);
/// From the end of one connection to the next, about.
const RETURN: Duration = Duration::from_millis(500);
/// How often it is looked whether all is over.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For those who do nothing more.
const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Says nothing.
    Idle,
    /// Sends a head, a byte at a time.
    SlowHead,
    /// Asks for much and reads nothing.
    Stalled,
    /// Says whatever comes to mind.
    Garbage,
}

struct Actor {
    part: Part,
    socket: Option<OwnedFd>,
    script: Vec<u8>,
    said: usize,
    /// Stands in [`Stage::due`].
    is_due: bool,
}

/// What happened so far, for people.
#[derive(Default)]
struct Done {
    connected: AtomicUsize,
    opened: AtomicUsize,
    ended: AtomicUsize,
    bytes: AtomicUsize,
}

pub(crate) struct Attack {
    over: Arc<AtomicBool>,
    done: Arc<Done>,
    thread: JoinHandle<()>,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let (opened, ended) = (number(&self.opened), number(&self.ended));
        let kib = number(&self.bytes) / 1024;
        write!(
            f,
            "{opened} hostile connections open, {ended} ended by the relay, {kib} KiB said"
        )
    }
}

/// A head that takes longer than anybody waits for it.
const SLOW: &str = "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX-Slow: ";
const STREAM: &str = "GET http://origin.test/stream HTTP/1.1\r\nHost: origin.test\r\n\r\n";

impl Attack {
    pub(crate) fn start(relay: SocketAddr, seed: u64) -> Self {
        let (over, done) = (Arc::<AtomicBool>::default(), Arc::<Done>::default());
        let (told, tells) = (Arc::clone(&over), Arc::clone(&done));
        let thread = thread::Builder::new().name("attack".to_owned());
        let thread = thread.spawn(move || {
            give_way();
            Stage::new(relay, seed, &tells).play(&told);
        });
        Self {
            over,
            done,
            thread: thread.expect("a thread"),
        }
    }

    /// Nearly all are there; garbage comes and goes.
    pub(crate) fn wait_until_full(&self) {
        let begun = Instant::now();
        while self.done.connected.load(Ordering::Relaxed) < FULL {
            assert!(
                begun.elapsed() < PATIENCE,
                "only {} came",
                self.done.connected.load(Ordering::Relaxed)
            );
            pass(Duration::from_millis(20));
        }
    }

    pub(crate) fn end(self) -> String {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
        self.done.to_string()
    }
}

struct Stage<'d> {
    relay: SocketAddr,
    random: Random,
    poll: OwnedFd,
    actors: Vec<Actor>,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    done: &'d Done,
}

impl<'d> Stage<'d> {
    fn new(relay: SocketAddr, seed: u64, done: &'d Done) -> Self {
        let mut stage = Self {
            relay,
            random: Random::new(seed),
            poll: epoll::create(CreateFlags::CLOEXEC).expect("epoll"),
            actors: Vec::new(),
            due: BinaryHeap::new(),
            done,
        };
        for (part, count) in CROWD {
            for _ in 0..count {
                stage.actors.push(Actor {
                    part,
                    socket: None,
                    script: Vec::new(),
                    said: 0,
                    is_due: false,
                });
                stage.plan(stage.actors.len() - 1, Duration::ZERO, GATHER);
            }
        }
        stage
    }

    /// The actor goes on between `least` and `least + more` from now, if not earlier.
    fn plan(&mut self, number: usize, least: Duration, more: Duration) {
        let millis = usize::try_from(more.as_millis()).expect("a short time");
        let more = Duration::from_millis(self.random.below(millis) as u64);
        if !std::mem::replace(&mut self.actors[number].is_due, true) {
            self.due
                .push(Reverse((Instant::now() + least + more, number)));
        }
    }

    fn play(&mut self, over: &AtomicBool) {
        let mut events = Vec::with_capacity(1024);
        while !over.load(Ordering::Relaxed) {
            let now = Instant::now();
            while let Some(Reverse((at, number))) = self.due.peek().copied()
                && at <= now
            {
                self.due.pop();
                self.actors[number].is_due = false;
                self.act(number);
            }
            events.clear();
            // Each at its own time: thousands of attackers do not act in step.
            let due = self.due.peek().map(|Reverse((at, _))| *at);
            let left = due.map_or(LOOK_EVERY, |at| at.saturating_duration_since(now));
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(left.min(LOOK_EVERY).subsec_nanos()),
            };
            let room = rustix::buffer::spare_capacity(&mut events);
            if epoll::wait(&self.poll, room, Some(&timeout)).is_err() {
                continue;
            }
            for event in &events {
                self.listen(usize::try_from(event.data.u64()).expect("an index"));
            }
        }
    }

    /// An actor's time has come.
    fn act(&mut self, number: usize) {
        let Some(socket) = self.actors[number].socket.take() else {
            return self.enter(number);
        };
        let (most, pause) = match self.actors[number].part {
            Part::Idle | Part::Stalled => (usize::MAX, LONG),
            Part::SlowHead => (1, SLOW_PACE),
            Part::Garbage => (1 + self.random.below(700), GARBAGE_PACE),
        };
        let actor = &mut self.actors[number];
        let rest = &actor.script[actor.said..];
        let piece = &rest[..most.min(rest.len())];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match send(&socket, piece, flags) {
            Err(Errno::AGAIN) => Ok(0),
            sent if piece.is_empty() && actor.part == Part::Garbage => sent.and(Err(Errno::PIPE)),
            sent => sent,
        };
        actor.socket = Some(socket);
        let Ok(sent) = sent else {
            return self.exit(number);
        };
        actor.said += sent;
        self.done.bytes.fetch_add(sent, Ordering::Relaxed);
        self.plan(number, pause / 4, pause);
    }

    fn enter(&mut self, number: usize) {
        let part = self.actors[number].part;
        match part {
            Part::Garbage => self.plan(number, Duration::ZERO, SILENT_AT_FIRST),
            Part::Idle | Part::SlowHead | Part::Stalled => self.plan(number, RETURN / 4, RETURN),
        }
        let Ok(socket) = connect(self.relay, part, number) else {
            return;
        };
        let flags = match part {
            // What comes is of no interest to it.
            Part::Stalled => EventFlags::ET,
            Part::Idle | Part::SlowHead | Part::Garbage => {
                EventFlags::IN | EventFlags::RDHUP | EventFlags::ET
            }
        };
        let data = EventData::new_u64(number as u64);
        epoll::add(&self.poll, &socket, data, flags).expect("watched");
        let actor = &mut self.actors[number];
        actor.script = match part {
            Part::Idle => Vec::new(),
            Part::SlowHead => [SLOW.as_bytes(), &[b'x'; 4000]].concat(),
            Part::Stalled => STREAM.as_bytes().to_vec(),
            Part::Garbage => garbage(&mut self.random),
        };
        (actor.socket, actor.said) = (Some(socket), 0);
        self.done.opened.fetch_add(1, Ordering::Relaxed);
        self.done.connected.fetch_add(1, Ordering::Relaxed);
    }

    /// The actor leaves, in one of the ways there are, and comes back later.
    fn exit(&mut self, number: usize) {
        if let Some(socket) = self.actors[number].socket.take() {
            if self.random.below(4) == 0 {
                sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).expect("SO_LINGER");
            }
            self.done.connected.fetch_sub(1, Ordering::Relaxed);
        }
        self.plan(number, RETURN / 4, RETURN);
    }

    /// Something came: nobody cares what, but the end of it is an end.
    fn listen(&mut self, number: usize) {
        let Some(socket) = &self.actors[number].socket else {
            return;
        };
        let mut block = [0; 16 * 1024];
        loop {
            match recv(socket, &mut block[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) if count > 0 => {}
                Err(Errno::AGAIN) => return,
                Ok(_) | Err(_) => break,
            }
        }
        self.done.ended.fetch_add(1, Ordering::Relaxed);
        // Some go on all the same, and find out when they send.
        if self.random.below(2) == 0 {
            self.exit(number);
        }
    }
}

/// From now on this thread runs only when nobody else wants to: real attackers have processors of their
/// own, and the client that behaves is to wait for the relay alone.
fn give_way() {
    let thread = fs::read_link("/proc/thread-self").expect("on Linux");
    let thread = thread.file_name().expect("its number");
    let chrt = Command::new("chrt")
        .args(["--idle", "--pid", "0"])
        .arg(thread)
        .status();
    assert!(chrt.expect("chrt of util-linux").success());
}

/// A connection on its way, from an address that others of its kind share.
fn connect(relay: SocketAddr, part: Part, number: usize) -> Result<OwnedFd, Errno> {
    let host = u8::try_from(2 + number % 16).expect("a small number");
    let source = Ipv4Addr::new(127, 0, 1 + part as u8, host);
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0))?;
    if part == Part::Stalled {
        sockopt::set_socket_recv_buffer_size(&socket, 4096)?;
    }
    match rustix::net::connect(&socket, &relay) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}
