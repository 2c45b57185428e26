//! System calls on sockets, each with a time limit.
//!
//! A blocking socket whose peer says nothing would hold a thread for ever, so every socket carries
//! receive and send time limits of at most one [`TICK`]. A call that comes back with nothing is not an
//! error: the caller looks whether its own deadline has passed, whether the process stops, whether the
//! other peer is still there, and calls again.
//!
//! A deadline that has passed says little by itself: the whole process may have stood still (stopped, its
//! container paused, its machine suspended), and what peers sent meanwhile lies in the sockets. So no
//! connection is given up before a look that was taken after the clock was read: [`is_overdue`].

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketType, recv, sendmsg, sockopt,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::listen::ListenAddress;

use super::port_holder;

/// The longest any call blocks before its caller looks around: 1 s.
pub const TICK: Duration = Duration::from_secs(1);

/// File descriptors beyond which no limit is raised: 2^20.
const MOST_FILES: u64 = 1 << 20;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many new bytes.
    Bytes(usize),
    /// The peer has closed its side.
    End,
    /// Nothing within the time limit, or nothing there when asked not to wait.
    Nothing,
}

/// Whether a call may wait for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Up to the socket's time limit.
    Tick,
    /// Not at all.
    No,
}

/// Writes what arrives to the beginning of `room`, of which there must be some.
///
/// # Errors
/// What the system says, interruptions and time limits excepted.
pub fn receive(stream: &TcpStream, room: &mut [u8], wait: Wait) -> io::Result<Received> {
    debug_assert!(!room.is_empty(), "no room reads as end");
    let flags = match wait {
        Wait::Tick => RecvFlags::empty(),
        Wait::No => RecvFlags::DONTWAIT,
    };
    match retry_on_intr(|| recv(stream, &mut *room, flags)) {
        Ok((_, 0)) => Ok(Received::End),
        Ok((_, count)) => Ok(Received::Bytes(count)),
        Err(Errno::AGAIN) => Ok(Received::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// Sends from `parts`, in order; `Ok(0)` means that nothing could be sent in time.
///
/// # Errors
/// What the system says, interruptions and time limits excepted.
pub fn send(stream: &TcpStream, parts: &[IoSlice<'_>], wait: Wait) -> io::Result<usize> {
    let mut flags = SendFlags::NOSIGNAL;
    if wait == Wait::No {
        flags |= SendFlags::DONTWAIT;
    }
    let mut filled = parts.iter().filter(|part| !part.is_empty());
    let only = filled.next().filter(|_| filled.next().is_none());
    let sent = retry_on_intr(|| match only {
        // What is in one piece costs less so.
        Some(part) => rustix::net::send(stream, part, flags),
        None => sendmsg(stream, parts, &mut SendAncillaryBuffer::default(), flags),
    });
    match sent {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// What there is on a connection over which nothing should come now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// Nothing.
    Quiet,
    /// Bytes that were not asked for.
    Bytes,
    /// The peer has closed or reset it.
    Ended,
}

/// Looks without waiting, and without taking anything.
pub fn peek(stream: &TcpStream) -> Peeked {
    let mut byte = [0_u8; 1];
    let flags = RecvFlags::PEEK.union(RecvFlags::DONTWAIT);
    match retry_on_intr(|| recv(stream, &mut byte, flags)) {
        Err(Errno::AGAIN) => Peeked::Quiet,
        Ok((_, 0)) | Err(_) => Peeked::Ended,
        Ok(_) => Peeked::Bytes,
    }
}

/// What is asked of one socket in [`wait_for`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing for now.
    Nothing,
    /// Data, or the end of it.
    Read,
    /// Room to send.
    Write,
    /// Either.
    ReadOrWrite,
}

/// What a socket is ready for. An error counts as both: the next call reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollReady(PollFlags);

impl PollReady {
    fn of(fd: &PollFd<'_>) -> Self {
        Self(fd.revents())
    }

    fn has(self, events: PollFlags) -> bool {
        let broken = PollFlags::ERR | PollFlags::NVAL;
        self.0.intersects(events | broken)
    }

    /// A read will not wait.
    pub fn to_read(self) -> bool {
        self.has(PollFlags::IN | PollFlags::HUP)
    }

    /// A write will not wait.
    pub fn to_write(self) -> bool {
        self.has(PollFlags::OUT)
    }
}

impl Default for PollReady {
    fn default() -> Self {
        Self(PollFlags::empty())
    }
}

/// Waits until one of two sockets is ready, at most `limit`. One from which nothing is wanted is left
/// alone: an end or a reset of it would otherwise wake the caller again and again.
///
/// # Errors
/// When the system refuses (no memory); an interruption counts as a time-out.
pub fn wait_for(
    first: (&TcpStream, Want),
    second: (&TcpStream, Want),
    limit: Duration,
) -> io::Result<(PollReady, PollReady)> {
    let mut fds = [
        PollFd::new(first.0, flags(first.1)),
        PollFd::new(second.0, flags(second.1)),
    ];
    let wanted = match (first.1, second.1) {
        (Want::Nothing, Want::Nothing) => &mut fds[..0],
        (Want::Nothing, _) => &mut fds[1..],
        (_, Want::Nothing) => &mut fds[..1],
        (_, _) => &mut fds[..],
    };
    poll_within(wanted, Some(limit))?;
    let [first, second] = &fds;
    Ok((PollReady::of(first), PollReady::of(second)))
}

/// Waits until any of many sockets is ready, at most `limit`; says of each what it is ready for.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_any(asked: &[(BorrowedFd<'_>, Want)], limit: Duration) -> io::Result<Vec<PollReady>> {
    let mut fds: Vec<_> = asked
        .iter()
        .map(|(fd, want)| PollFd::from_borrowed_fd(*fd, flags(*want)))
        .collect();
    poll_within(&mut fds, Some(limit))?;
    Ok(fds.iter().map(PollReady::of).collect())
}

/// Waits until `fd` or `wake` is readable, at most `limit` (`None`: without an end).
/// Says whether `fd` is.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_readable(
    fd: impl AsFd,
    wake: BorrowedFd<'_>,
    limit: Option<Duration>,
) -> io::Result<PollReady> {
    let mut fds = [fd.as_fd(), wake].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    poll_within(&mut fds, limit)?;
    Ok(PollReady::of(&fds[0]))
}

/// Whether a read would bring something (data, end or error) now.
pub fn is_readable(stream: &TcpStream) -> bool {
    !poll_now(stream, PollFlags::IN).is_empty()
}

/// Whether a peer has room for more, or is gone, so that a write would not wait now.
pub fn is_writable(stream: &TcpStream) -> bool {
    !poll_now(stream, PollFlags::OUT).is_empty()
}

fn poll_now(stream: &TcpStream, wanted: PollFlags) -> PollFlags {
    poll_one(stream, wanted, Duration::ZERO).unwrap_or(PollFlags::empty())
}

/// Waits until there is one of the events `wanted`, an error or an end; says which there are. An interruption
/// counts as a time-out.
pub(super) fn poll_one(
    fd: &impl AsFd,
    wanted: PollFlags,
    limit: Duration,
) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(fd, wanted)];
    poll_within(&mut fds, Some(limit))?;
    Ok(fds[0].revents())
}

/// Whether nothing has happened for `limit` since `since`, and `can_go_on`, a look at the sockets that is
/// taken only after the clock was read, says that nothing will now either.
pub fn is_overdue(since: Instant, limit: Duration, can_go_on: impl FnOnce() -> bool) -> bool {
    since.elapsed() >= limit && !can_go_on()
}

/// What a peer's end of sending means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// It still waits for its answer.
    Waits,
    /// It is gone.
    Gone,
}

/// Whether the peer has reset the connection or, if that means the same, closed its sending side, even
/// behind unread data (where the system can tell: Linux; elsewhere only a reset is seen).
pub fn is_gone(stream: &TcpStream, half_close: HalfClose) -> bool {
    let gone = match half_close {
        HalfClose::Waits => PollFlags::HUP,
        #[cfg(target_os = "linux")]
        HalfClose::Gone => PollFlags::RDHUP,
        #[cfg(not(target_os = "linux"))]
        HalfClose::Gone => PollFlags::HUP,
    };
    poll_now(stream, gone).intersects(gone | PollFlags::HUP | PollFlags::ERR)
}

/// Whether the connection is broken: reset by the peer, or the peer vanished. An orderly end, of one side
/// or of both, is none.
pub fn is_broken(stream: &TcpStream) -> bool {
    poll_now(stream, PollFlags::empty()).contains(PollFlags::ERR)
}

/// What every connection of a relay wants: no Nagle delay (a head and its body may be two segments),
/// and a peer that vanished without a word noticed within minutes.
///
/// # Errors
/// When the socket is already dead.
pub fn prepare(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(socket, 4)?;
    Ok(())
}

/// Changes how long one call on `stream` waits. Never less than a millisecond. A dead socket shows at
/// the next call.
pub fn limit(stream: &TcpStream, limit: Duration) {
    limit_read(stream, limit);
    limit_write(stream, limit);
}

/// Changes how long one read of `stream` waits. Never less than a millisecond. A dead socket shows at
/// the next call.
pub fn limit_read(stream: &TcpStream, limit: Duration) {
    if let Err(error) = stream.set_read_timeout(Some(limit.max(Duration::from_millis(1)))) {
        log::trace!("cannot set a time limit: {error}");
    }
}

/// The same for one write.
pub fn limit_write(stream: &TcpStream, limit: Duration) {
    if let Err(error) = stream.set_write_timeout(Some(limit.max(Duration::from_millis(1)))) {
        log::trace!("cannot set a time limit: {error}");
    }
}

/// Sets on a listener what its accepted sockets inherit (on Linux): [`prepare`] and both time limits.
/// That spares seven system calls per connection.
///
/// # Errors
/// When the listener is unusable.
pub fn prepare_listener(listener: &TcpListener, read: Duration, write: Duration) -> io::Result<()> {
    sockopt::set_socket_timeout(listener, sockopt::Timeout::Recv, Some(read))?;
    sockopt::set_socket_timeout(listener, sockopt::Timeout::Send, Some(write))?;
    prepare(listener)
}

/// Whether a socket is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connected {
    /// It is.
    Yes,
    /// On its way: it can be written to once it is, or has failed.
    NotYet,
}

/// Begins to connect to `address`, and waits at most `limit` for it.
///
/// # Errors
/// What the system says: refused, unreachable, no descriptors left.
pub fn connect(address: SocketAddr, limit: Duration) -> io::Result<(TcpStream, Connected)> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let stream = TcpStream::from(open(family)?);
    let connected = match connect_within(&stream, address, limit) {
        Ok(()) => Connected::Yes,
        // Interrupted, it goes on.
        Err(Errno::INPROGRESS | Errno::INTR | Errno::AGAIN) => Connected::NotYet,
        Err(error) => return Err(error.into()),
    };
    Ok((stream, connected))
}

#[cfg(target_os = "linux")]
pub(super) fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    use rustix::net::SocketFlags;
    let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// On Linux the time limit for sending is one for connecting, too: no second mode of the socket, and no
/// system call but this one where the answer comes at once.
#[cfg(target_os = "linux")]
fn connect_within(stream: &TcpStream, address: SocketAddr, limit: Duration) -> Result<(), Errno> {
    let limit = limit.max(Duration::from_millis(1));
    sockopt::set_socket_timeout(stream, sockopt::Timeout::Send, Some(limit))?;
    rustix::net::connect(stream, &address)
}

#[cfg(not(target_os = "linux"))]
fn connect_within(stream: &TcpStream, address: SocketAddr, limit: Duration) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(stream, true)?;
    let begun = rustix::net::connect(stream, &address);
    let begun = match begun {
        Err(Errno::INPROGRESS) => {
            let mut fds = [PollFd::new(stream, PollFlags::OUT)];
            match poll_within(&mut fds, Some(limit)) {
                Ok(()) if PollReady::of(&fds[0]).to_write() => sockopt::socket_error(stream)?,
                Ok(()) | Err(_) => begun,
            }
        }
        Ok(()) | Err(_) => begun,
    };
    rustix::io::ioctl_fionbio(stream, false)?;
    begun
}

/// Raises the limit of open files as far as the system lets this user, and says where it is then.
pub fn raise_file_limit() -> usize {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.unwrap_or(MOST_FILES).min(MOST_FILES);
    let current = now.current.unwrap_or(wanted);
    if current < wanted {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: now.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!("cannot raise the limit of open files beyond {current}: {error}");
            return usize::try_from(current).unwrap_or(usize::MAX);
        }
    }
    usize::try_from(current.max(wanted)).unwrap_or(usize::MAX)
}

/// Resets the connection now, also under threads that wait on it.
///
/// # Errors
/// When it is not connected any more.
pub fn reset(stream: &TcpStream) -> io::Result<()> {
    reset_on_close(stream);
    // Dissolving the association sends the reset at once; a shutdown would send an orderly end.
    if rustix::net::connect_unspec(stream).is_err() {
        stream.shutdown(Shutdown::Both)?;
    }
    Ok(())
}

/// Binds the first address of `listen` that can be bound; `key` is what the file calls it.
///
/// # Errors
/// When the name has no address or the address cannot be had; the message names key and address.
pub fn listen(key: &str, listen: &ListenAddress) -> io::Result<TcpListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{key} {listen}: {error}"));
    let addresses = addresses(listen).map_err(named)?;
    TcpListener::bind(&*addresses).map_err(|error| named(port_holder::explain(error, &addresses)))
}

/// The addresses that `listen` means.
///
/// # Errors
/// When the name has no address.
pub fn addresses(listen: &ListenAddress) -> io::Result<Vec<SocketAddr>> {
    Ok((listen.host.as_str(), listen.port)
        .to_socket_addrs()?
        .collect())
}

/// Whether the error says that this process, or the system, has no descriptors or memory left.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// Makes the coming close a reset: the peer must learn that what it got is not all.
pub fn reset_on_close(stream: &TcpStream) {
    #[cfg(feature = "tls")]
    super::tls::resets::mark(stream);
    if let Err(error) = sockopt::set_socket_linger(stream, Some(Duration::ZERO)) {
        log::debug!("cannot make a close a reset: {error}");
    }
}

fn flags(want: Want) -> PollFlags {
    match want {
        Want::Nothing => PollFlags::empty(),
        Want::Read => PollFlags::IN,
        Want::Write => PollFlags::OUT,
        Want::ReadOrWrite => PollFlags::IN | PollFlags::OUT,
    }
}

fn poll_within(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    // One that is too long for the system is without an end.
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(fds, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Both ends of a connection over loopback.
    #[expect(
        clippy::disallowed_methods,
        reason = "a listener of our own answers at once"
    )]
    pub(in crate::net) fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn whoever_can_go_on_is_not_overdue_however_late_it_is() {
        let since = Instant::now();
        assert!(is_overdue(since, Duration::ZERO, || false));
        assert!(!is_overdue(since, Duration::ZERO, || true));
        // There is no look before it is time.
        assert!(!is_overdue(since, Duration::MAX, || panic!("looked")));
    }
}
