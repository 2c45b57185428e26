//! What is asked of the kernel: sockets that do not block, ports, descriptors, a patient poll.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, set_tcp_nodelay};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// As many pending connections as the kernel allows: a burst must not become a wait of a second.
const BACKLOG: i32 = 4096;

/// Addresses of clients; a multiple of them is counted in a byte.
const SOURCES: u8 = 32;

/// Longer silence than this is an error of whatever is measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// How a socket waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// The kernel puts the thread to sleep: cheapest when there is one socket.
    InCall,
    /// Never: readiness comes from epoll.
    ByEpoll,
}

/// What a read or a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// So many bytes; none at the end of a stream.
    Bytes(usize),
    /// Nothing yet.
    NotNow,
}

/// What the largest scenario needs of a relay that opens a connection for each connection.
const FILES: u64 = 40_000;

/// Lets this process, and those it starts, hold as many descriptors as it takes; root may go
/// beyond the limit it was given.
pub(crate) fn raise_file_limit() {
    let hard = getrlimit(Resource::Nofile).maximum;
    let wanted = [hard.unwrap_or(FILES).max(FILES), hard.unwrap_or(FILES)];
    let raised = wanted.into_iter().any(|limit| {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(Resource::Nofile, limit).is_ok()
    });
    if !raised {
        eprintln!("bench: the limit of descriptors stays at {}", file_limit());
    }
}

/// How many descriptors this process may have, and those it starts.
pub(crate) fn file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// How many cores this process may use.
pub(crate) fn cores() -> usize {
    sched_getaffinity(None).map_or(1, |cores| cores.count() as usize)
}

/// Does something that starts a process, which may use so many cores of this one's from its first moment on.
pub(crate) fn on_cores<T>(count: usize, start: impl FnOnce() -> T) -> io::Result<T> {
    let all = sched_getaffinity(None)?;
    let mut some = CpuSet::new();
    let usable = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
    usable.take(count).for_each(|core| some.set(core));
    sched_setaffinity(None, &some)?;
    let started = start();
    sched_setaffinity(None, &all)?;
    Ok(started)
}

/// A listener on a free port of loopback.
pub(crate) fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The port a listener got.
pub(crate) fn port_of(listener: &OwnedFd) -> u16 {
    let name = rustix::net::getsockname(listener).expect("a bound socket");
    SocketAddr::try_from(name).expect("an IP socket").port()
}

/// A port that nobody listens on, for programs that cannot choose one themselves.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

/// Accepts one connection, if there is one.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match rustix::net::accept_with(listener, flags) {
        Ok(socket) => {
            set_tcp_nodelay(&socket, true)?;
            Ok(Some(socket))
        }
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The next client's address. A connection that was closed keeps its port for a minute, and who looks for one
/// of the few that are left finds it slowly; so there are several addresses.
fn source() -> SocketAddrV4 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let host = 1 + NEXT.fetch_add(1, Ordering::Relaxed) % SOURCES;
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0)
}

/// Begins a connection to a port of loopback.
pub(crate) fn open(port: u16, waiting: Waiting) -> io::Result<OwnedFd> {
    let flags = match waiting {
        Waiting::InCall => SocketFlags::CLOEXEC,
        Waiting::ByEpoll => SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    set_tcp_nodelay(&socket, true)?;
    if waiting == Waiting::InCall {
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    }
    rustix::net::bind(&socket, &source())?;
    match rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Reads once.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Moved> {
    match rustix::net::recv(socket, buffer, RecvFlags::empty()) {
        Ok((count, _)) => Ok(Moved::Bytes(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::NotNow),
        Err(error) => Err(error.into()),
    }
}

/// Writes once.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<Moved> {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(count) => Ok(Moved::Bytes(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::NotNow),
        Err(error) => Err(error.into()),
    }
}

/// Whether an idle connection is still open and nobody has said anything on it.
pub(crate) fn is_quiet(socket: &OwnedFd) -> bool {
    let mut byte = [0];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(
        rustix::net::recv(socket, &mut byte, flags),
        Err(Errno::AGAIN)
    )
}

/// What to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Reading,
    Writing,
}

/// Level-triggered epoll: one call per batch, and no reads that only find nothing.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(256),
        })
    }

    fn flags(interest: Interest) -> EventFlags {
        match interest {
            Interest::Reading => EventFlags::IN,
            Interest::Writing => EventFlags::OUT,
        }
    }

    /// Watches a socket from now on, until it is closed.
    pub(crate) fn add(
        &self,
        socket: &impl AsFd,
        token: usize,
        interest: Interest,
    ) -> io::Result<()> {
        let data = EventData::new_u64(token as u64);
        Ok(epoll::add(
            &self.epoll,
            socket,
            data,
            Self::flags(interest),
        )?)
    }

    /// Watches it for something else.
    pub(crate) fn modify(
        &self,
        socket: &impl AsFd,
        token: usize,
        interest: Interest,
    ) -> io::Result<()> {
        let data = EventData::new_u64(token as u64);
        Ok(epoll::modify(
            &self.epoll,
            socket,
            data,
            Self::flags(interest),
        )?)
    }

    /// The tokens that are ready, after at most `limit`.
    pub(crate) fn wait(&mut self, limit: Option<Duration>, ready: &mut Vec<usize>) {
        ready.clear();
        self.events.clear();
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        if epoll::wait(&self.epoll, buffer, limit.as_ref()).is_err() {
            return;
        }
        for event in self.events.drain(..) {
            ready.push(usize::try_from(event.data.u64()).unwrap_or(usize::MAX));
        }
    }
}

/// Waits without doing anything: for a program to start, for memory to come back.
pub(crate) fn pause(time: Duration) {
    let limit = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    // Nothing is asked for, so this ends by time; or by a signal, which is no harm.
    poll(&mut [], Some(&limit)).unwrap_or_default();
}
