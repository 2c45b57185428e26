//! An authority to a connected socket, within a deadline; or one of several, whichever is there first.
//!
//! All addresses of a name are tried, each but the first a moment after the one before it, or as soon as
//! that one failed (RFC 8305 §5): the first that answers is taken. Where nothing is remembered of them, they
//! come in the system's order but with the families taking turns (§4); else the [`AddressBook`] says which
//! comes next, and learns which failed. A guard sees every address before it is connected to, and the
//! address it allowed is the one connected to: a name that resolves differently a moment later (DNS
//! rebinding) gains nothing.
//!
//! A [`Race`] is all of this for several goals at once, in one thread: its owner says when another one
//! joins, and what becomes of those that come in second. Waiting for the address of a name counts like
//! waiting for a connection.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

#[cfg(feature = "tls")]
use crate::balance::tls::Tls;
use crate::protocol::answer::HopFailure;
use crate::protocol::target::{Authority, Host};

use super::addresses::AddressBook;
use super::conn::{Conn, LookAround};
use super::resolve::{Addresses, ResolveError, Resolver};
use super::socket::{self, Connected, TICK, Want};
#[cfg(feature = "tls")]
use super::tls::{self, Handshake};

/// How long a connection is waited for before another is tried beside it (RFC 8305 §5), unless it usually
/// takes longer.
pub const STAGGER: Duration = Duration::from_millis(250);
/// How long an attempt is waited for while others are on their way.
const AT_ONCE: Duration = Duration::from_millis(1);
/// How often names are looked after while sockets are waited for as well.
const GLANCE: Duration = Duration::from_millis(10);
/// While so many connections of a race are on their way, no further address of a name is tried.
const MOST_BESIDE: usize = 4;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// None of the addresses may be connected to.
    Forbidden,
    /// What failed.
    Failed(HopFailure),
    /// It is not wanted any more.
    GivenUp,
}

impl From<HopFailure> for DialError {
    fn from(failure: HopFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Where a connection is wanted to.
pub trait Goal {
    /// Name or address, and port.
    fn authority(&self) -> &Authority;

    /// Whether this address of it may be connected to.
    fn allows(&self, _address: IpAddr) -> bool {
        true
    }

    /// What is remembered of its addresses.
    fn book(&self) -> Option<&AddressBook> {
        None
    }

    /// How it is known over TLS, if it is reached so.
    #[cfg(feature = "tls")]
    fn tls(&self) -> Option<&Tls> {
        None
    }
}

impl Goal for &Authority {
    fn authority(&self) -> &Authority {
        self
    }
}

/// Connects to `goal`. `look` is asked whether that is still wanted, before it is waited for and once in a
/// while then.
///
/// # Errors
/// What failed at the last address tried.
pub fn dial<G: Goal>(
    goal: G,
    resolver: &Resolver,
    deadline: Instant,
    look: &mut dyn FnMut() -> LookAround,
) -> Result<Conn, DialError> {
    let mut race = Race::new(resolver);
    race.enter(goal, deadline);
    match race.next(None, look) {
        RaceEvent::Made(_, conn) => Ok(conn),
        RaceEvent::Failed(_, error) => Err(error),
        RaceEvent::Late | RaceEvent::GivenUp => Err(DialError::GivenUp),
    }
}

/// Connections to several goals that are being made; mostly it is one.
#[derive(Debug)]
pub struct Race<'r, G> {
    names: &'r Resolver,
    runners: Vec<Runner<G>>,
    /// When to look whether it is still wanted: before the first wait, and once in a while.
    look_at: Instant,
}

/// A goal, and how far it is from being reached.
#[derive(Debug)]
pub struct Runner<G> {
    /// Where it leads.
    pub goal: G,
    /// When it must be there.
    pub deadline: Instant,
    /// When it began to be looked for.
    pub begun: Instant,
    /// How long each of its connections is waited for before there is another beside it.
    patience: Duration,
    /// Not tried yet; `None`: the name's addresses are not known yet.
    waiting: Option<VecDeque<IpAddr>>,
    running: Vec<Attempt>,
    /// When the next one of `waiting` is due.
    next_at: Instant,
    /// What failed last.
    error: HopFailure,
}

/// One address that is being connected to.
#[derive(Debug)]
struct Attempt {
    stream: TcpStream,
    address: SocketAddr,
    begun: Instant,
    /// The time limit that the socket has.
    limit: Duration,
    progress: AttemptProgress,
    /// What shows that it is settled.
    awaits: Want,
    /// What is going on once there is a connection, if it is to be one over TLS.
    #[cfg(feature = "tls")]
    handshake: Option<Handshake>,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttemptProgress {
    OnItsWay,
    /// It was made, or has failed.
    Settled,
    Made,
}

/// What happened in a race.
#[derive(Debug)]
pub enum RaceEvent<G> {
    /// There is a connection.
    Made(Runner<G>, Conn),
    /// There will be none to this goal.
    Failed(Runner<G>, DialError),
    /// The time that was given is over, or none takes part any more.
    Late,
    /// The caller looked around, and does not want to go on.
    GivenUp,
}

impl<'r, G: Goal> Race<'r, G> {
    /// One without a goal yet. `names` knows the addresses.
    pub fn new(names: &'r Resolver) -> Self {
        Self {
            names,
            runners: Vec::new(),
            look_at: Instant::now(),
        }
    }

    /// One more takes part. Returns from when on it is late, so that others may join.
    pub fn enter(&mut self, goal: G, deadline: Instant) -> Instant {
        let begun = Instant::now();
        let usual = goal.book().map(AddressBook::usual_time);
        let patience = (usual.unwrap_or_default() * 2).max(STAGGER);
        self.runners.push(Runner {
            goal,
            deadline,
            begun,
            patience,
            waiting: None,
            running: Vec::new(),
            next_at: begun,
            error: HopFailure::ConnectTimeout,
        });
        begun + patience
    }

    /// How many take part.
    pub fn len(&self) -> usize {
        self.runners.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.runners.is_empty()
    }

    /// Where those lead who take part.
    pub fn goals(&self) -> impl Iterator<Item = &G> {
        self.runners.iter().map(|runner| &runner.goal)
    }

    /// Waits until something happens, but not beyond `until`. A goal that is reached or fails takes part
    /// no longer.
    pub fn next(
        &mut self,
        until: Option<Instant>,
        look: &mut dyn FnMut() -> LookAround,
    ) -> RaceEvent<G> {
        loop {
            if let Some(event) = self.advance(until) {
                return event;
            }
            let now = Instant::now();
            if self.is_empty() || until.is_some_and(|until| until <= now) {
                return RaceEvent::Late;
            }
            if now >= self.look_at {
                self.look_at = now + TICK;
                if look() == LookAround::GiveUp {
                    return RaceEvent::GivenUp;
                }
            }
            if let Err(error) = self.wait(now, until)
                && let Some(runner) = self.runners.pop()
            {
                return RaceEvent::Failed(runner, failed(&error).into());
            }
        }
    }

    /// Ends the race: gives those that were still on their way, with the connections of those that have
    /// arrived as well.
    pub fn finish(mut self) -> Vec<(Runner<G>, Option<Conn>)> {
        if self.is_empty() {
            return Vec::new();
        }
        if let Err(error) = self.watch_sockets(Duration::ZERO) {
            log::debug!("cannot see who arrived: {error}");
        }
        let now = Instant::now();
        let settle = |mut runner: Runner<G>| {
            let conn = runner.arrived(now);
            runner.note_late(now);
            (runner, conn)
        };
        self.runners.into_iter().map(settle).collect()
    }

    fn on_their_way(&self) -> usize {
        self.runners.iter().map(|runner| runner.running.len()).sum()
    }

    /// Begins what is due, and takes in what has come.
    fn advance(&mut self, until: Option<Instant>) -> Option<RaceEvent<G>> {
        for at in 0..self.runners.len() {
            let beside = self.beside();
            let is_alone = self.runners.len() == 1;
            let runner = self.runners.get_mut(at)?;
            let on_the_spot = is_alone.then(|| until.unwrap_or(runner.deadline));
            match runner.step(self.names, beside, on_the_spot) {
                Ok(None) => {}
                Ok(Some(conn)) => return Some(RaceEvent::Made(self.runners.swap_remove(at), conn)),
                Err(error) => return Some(RaceEvent::Failed(self.runners.swap_remove(at), error)),
            }
        }
        None
    }

    /// How many connections a further address of a name would be tried beside; a goal that runs alone may
    /// have as many as it has addresses.
    fn beside(&self) -> usize {
        match self.runners.len() {
            1 => 0,
            _ => self.on_their_way(),
        }
    }

    /// Waits until a connection is settled or a name is known, or something is due.
    fn wait(&mut self, now: Instant, until: Option<Instant>) -> io::Result<()> {
        let beside = self.beside();
        let dues = self.runners.iter().map(|runner| runner.due_at(beside));
        let next = dues.chain(until).min();
        let next = next.map_or(self.look_at, |at| at.min(self.look_at));
        let limit = next.saturating_duration_since(now);
        let mut unknown = self.runners.iter().filter_map(Runner::unknown_name);
        match (unknown.next(), unknown.next(), self.on_their_way()) {
            (None, _, _) => self.watch_sockets(limit),
            (Some(name), None, 0) => {
                // If it is known by now, the runner asks for it in its turn.
                drop(self.names.addresses_by(name, next));
                Ok(())
            }
            (Some(_), _, _) => self.watch_sockets(limit.min(GLANCE)),
        }
    }

    /// Waits for those on their way.
    fn watch_sockets(&mut self, limit: Duration) -> io::Result<()> {
        let attempts = || self.runners.iter().flat_map(|runner| &runner.running);
        let asked: Vec<_> = attempts()
            .map(|attempt| (attempt.stream.as_fd(), attempt.awaits))
            .collect();
        let seen = socket::wait_any(&asked, limit)?;
        drop(asked);
        let attempts = self.runners.iter_mut();
        let attempts = attempts.flat_map(|runner| &mut runner.running);
        for (attempt, ready) in attempts.zip(seen) {
            if ready.to_read() || ready.to_write() {
                attempt.progress = AttemptProgress::Settled;
            }
        }
        Ok(())
    }
}

impl<G: Goal> Runner<G> {
    /// Whether it takes longer than usual.
    pub fn is_late(&self) -> bool {
        self.begun.elapsed() >= self.patience
    }

    /// Begins what is due, and takes in what has come. While it runs alone, an attempt is waited for
    /// `on_the_spot`, until then at most, which spares system calls.
    fn step(
        &mut self,
        names: &Resolver,
        beside: usize,
        on_the_spot: Option<Instant>,
    ) -> Result<Option<Conn>, DialError> {
        if self.waiting.is_none() && !self.look_up(names)? {
            return Ok(None);
        }
        let mut has_tried = false;
        loop {
            let now = Instant::now();
            if let Some(conn) = self.arrived(now) {
                return Ok(Some(conn));
            }
            if now >= self.deadline {
                self.note_those(|_| true, now);
                return Err(HopFailure::ConnectTimeout.into());
            }
            // What refused may have taken its time: the race looks whether another try is wanted.
            if has_tried && on_the_spot.is_some() && self.running.is_empty() && self.has_more() {
                return Ok(None);
            }
            let is_due = self.running.is_empty() || (beside < MOST_BESIDE && now >= self.next_at);
            let waiting = self.waiting.iter_mut();
            let next = waiting.filter(|_| is_due).find_map(VecDeque::pop_front);
            let Some(address) = next else {
                return if self.running.is_empty() {
                    Err(self.error.into())
                } else {
                    Ok(None)
                };
            };
            self.begin(address, now, on_the_spot);
            has_tried = true;
        }
    }

    /// Whether its addresses are known now.
    fn look_up(&mut self, names: &Resolver) -> Result<bool, DialError> {
        let now = Instant::now();
        let authority = self.goal.authority();
        let found = match authority.host() {
            Host::V4(address) => vec![IpAddr::V4(*address)],
            Host::V6(address) => vec![IpAddr::V6(*address)],
            Host::Name(name) => match (names.addresses_by(name, now), self.goal.book()) {
                (None, _) if now < self.deadline => return Ok(false),
                (None, _) => return Err(HopFailure::DnsTimeout.into()),
                (Some(Err(error)), _) => return Err(unresolved(error).into()),
                (Some(Ok(addresses)), Some(book)) => book.take_turn(&addresses, now),
                (Some(Ok(addresses)), None) => taking_turns(&addresses),
            },
        };
        let allowed = found.into_iter().filter(|ip| self.goal.allows(*ip));
        let allowed: VecDeque<_> = allowed.collect();
        if allowed.is_empty() {
            return Err(DialError::Forbidden);
        }
        self.waiting = Some(allowed);
        Ok(true)
    }

    fn unknown_name(&self) -> Option<&str> {
        match self.goal.authority().host() {
            Host::Name(name) if self.waiting.is_none() => Some(name),
            Host::Name(_) | Host::V4(_) | Host::V6(_) => None,
        }
    }

    /// Whether there is an address that was not tried yet.
    fn has_more(&self) -> bool {
        self.waiting.as_ref().is_some_and(|more| !more.is_empty())
    }

    /// When there is something to do, whatever happens.
    fn due_at(&self, beside: usize) -> Instant {
        if self.has_more() && beside < MOST_BESIDE {
            self.next_at.min(self.deadline)
        } else {
            self.deadline
        }
    }

    /// Starts an attempt, which may be settled at once.
    fn begin(&mut self, address: IpAddr, now: Instant, on_the_spot: Option<Instant>) {
        self.next_at = now + self.patience;
        let limit = match on_the_spot {
            Some(until) if self.running.is_empty() => {
                let due = self.due_at(0).min(until);
                due.saturating_duration_since(now).min(AT_ONCE)
            }
            Some(_) | None => AT_ONCE,
        };
        let to = SocketAddr::new(address, self.goal.authority().port());
        match socket::connect(to, limit) {
            Ok((stream, connected)) => self.running.push(Attempt {
                stream,
                address: to,
                begun: now,
                limit,
                progress: match connected {
                    Connected::Yes => AttemptProgress::Made,
                    Connected::NotYet => AttemptProgress::OnItsWay,
                },
                awaits: Want::Write,
                #[cfg(feature = "tls")]
                handshake: None,
            }),
            Err(error) => self.note_failure(address, now, &error),
        }
    }

    /// The connection that was made first, if one was.
    fn arrived(&mut self, now: Instant) -> Option<Conn> {
        let is_over = |attempt: &Attempt| attempt.progress != AttemptProgress::OnItsWay;
        while let Some(at) = self.running.iter().position(is_over) {
            let attempt = self.running.swap_remove(at);
            let (address, begun) = (attempt.address.ip(), attempt.begun);
            #[cfg(feature = "tls")]
            let attempt = match self.goal.tls() {
                Some(tls) if attempt.handshake.is_none() => {
                    match over_tls(attempt, tls) {
                        Ok(attempt) => self.running.push(attempt),
                        Err(error) => self.note_failure(address, begun, &error),
                    }
                    continue;
                }
                Some(_) | None => attempt,
            };
            match ready(attempt) {
                Ok(conn) => {
                    if let Some(book) = self.goal.book() {
                        book.connected(now.saturating_duration_since(begun));
                    }
                    self.note_late(now);
                    return Some(conn);
                }
                Err(error) => self.note_failure(address, begun, &error),
            }
        }
        None
    }

    /// An address failed. The next one is not held up by it (RFC 8305 §5).
    fn note_failure(&mut self, address: IpAddr, begun: Instant, error: &io::Error) {
        let now = Instant::now();
        self.error = failed(error);
        self.next_at = now;
        if let (Some(book), false) = (self.goal.book(), is_exhaustion(error)) {
            book.failed(address, begun, now);
        }
    }

    /// It is over: an address that had its time and is not connected to is passed over for a while.
    fn note_late(&self, now: Instant) {
        self.note_those(|attempt| attempt.begun + self.patience <= now, now);
    }

    fn note_those(&self, have_failed: impl Fn(&Attempt) -> bool, now: Instant) {
        let Some(book) = self.goal.book() else {
            return;
        };
        for attempt in self.running.iter().filter(|attempt| have_failed(attempt)) {
            book.failed(attempt.address.ip(), attempt.begun, now);
        }
    }
}

/// The handshake on a connection that was made, as an attempt that is on its way.
#[cfg(feature = "tls")]
fn over_tls(attempt: Attempt, tls: &Tls) -> io::Result<Attempt> {
    let (address, begun) = (attempt.address, attempt.begun);
    let (connection, _) = ready(attempt)?.into_parts();
    let (stream, handshake) = tls::start(connection, tls)?;
    Ok(Attempt {
        stream,
        address,
        begun,
        limit: AT_ONCE,
        progress: AttemptProgress::OnItsWay,
        awaits: Want::Read,
        handshake: Some(handshake),
    })
}

/// What every connection to a next hop needs, if this is one.
fn ready(attempt: Attempt) -> io::Result<Conn> {
    let Attempt {
        stream,
        address,
        limit,
        progress,
        begun: _,
        awaits: _,
        #[cfg(feature = "tls")]
        handshake,
    } = attempt;
    #[cfg(feature = "tls")]
    if let Some(handshake) = handshake {
        handshake.end(&stream)?;
        let mut conn = Conn::new(stream, TICK)?;
        conn.set_dialled(address.ip());
        return Ok(conn);
    }
    if progress != AttemptProgress::Made
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    if stream.local_addr()? == address {
        // Linux lets a socket connect to itself when the port it was given is the one it asked for.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    socket::prepare(&stream)?;
    let mut conn = if limit == TICK {
        // What limited the attempt limits every write.
        stream.set_read_timeout(Some(TICK))?;
        Conn::prepared(stream, TICK)
    } else {
        Conn::new(stream, TICK)?
    };
    conn.set_dialled(address.ip());
    Ok(conn)
}

/// The addresses of `host`, without asking for any where it is one, in the order of `book`.
///
/// # Errors
/// When there is none, or none in time.
pub fn addresses(
    host: &Host,
    resolver: &Resolver,
    book: Option<&AddressBook>,
    deadline: Instant,
) -> Result<Vec<IpAddr>, HopFailure> {
    match host {
        Host::V4(address) => Ok(vec![IpAddr::V4(*address)]),
        Host::V6(address) => Ok(vec![IpAddr::V6(*address)]),
        Host::Name(name) => {
            let addresses = resolver.addresses(name, deadline).map_err(unresolved)?;
            Ok(match book {
                Some(book) => book.order(&addresses, Instant::now()),
                None => addresses.to_vec(),
            })
        }
    }
}

fn unresolved(error: ResolveError) -> HopFailure {
    match error {
        ResolveError::NoAddress => HopFailure::DnsError,
        ResolveError::TimedOut => HopFailure::DnsTimeout,
    }
}

/// The same addresses, but the families take turns for as long as there are any of both.
fn taking_turns(addresses: &Addresses) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) = addresses
        .iter()
        .copied()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut turns = Vec::with_capacity(preferred.len() + others.len());
    let mut others = others.into_iter();
    for address in preferred {
        turns.push(address);
        turns.extend(others.next());
    }
    turns.extend(others);
    turns
}

fn failed(error: &io::Error) -> HopFailure {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut, WouldBlock};
    #[cfg(feature = "tls")]
    if let Some(failure) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return HopFailure::Tls(*failure);
    }
    let kind = error.kind();
    if is_exhaustion(error) {
        HopFailure::LocalExhaustion
    } else if matches!(kind, TimedOut | WouldBlock) {
        HopFailure::ConnectTimeout
    } else if matches!(kind, ConnectionRefused | ConnectionReset) {
        HopFailure::ConnectRefused
    } else {
        HopFailure::ConnectUnreachable
    }
}

/// Whether it is this process (or machine) that has nothing left: the next hop is not to blame.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    socket::is_exhaustion(error) || matches!(errno, Some(Errno::ADDRNOTAVAIL | Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;

    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn go_on() -> LookAround {
        LookAround::GoOn
    }

    struct Forbidden(Authority);

    impl Goal for Forbidden {
        fn authority(&self) -> &Authority {
            &self.0
        }

        fn allows(&self, _address: IpAddr) -> bool {
            false
        }
    }

    fn authority(text: &str) -> Authority {
        Authority::from_connect(text.as_bytes()).unwrap()
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // Nothing listens on that port of the first address.
        let resolver = Resolver::asking(|_| Ok(vec![[127, 0, 0, 9].into(), [127, 0, 0, 1].into()]));
        let target = authority(&format!("two.test:{port}"));
        let conn = dial(&target, &resolver, deadline(), &mut go_on).unwrap();
        assert_eq!(
            conn.stream().peer_addr().unwrap(),
            listener.local_addr().unwrap()
        );
    }

    /// A port of 127.0.0.9 that does not answer: its queue of connections is full.
    fn silent_port(holding: &mut Vec<TcpStream>) -> (OwnedFd, u16) {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 9], 0))).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let address = rustix::net::getsockname(&socket).unwrap();
        let address = SocketAddr::try_from(address).unwrap();
        loop {
            let (stream, connected) = socket::connect(address, AT_ONCE).unwrap();
            holding.push(stream);
            if connected == Connected::NotYet {
                return (socket, address.port());
            }
        }
    }

    #[test]
    fn an_address_that_does_not_answer_does_not_hold_up_the_next() {
        let mut holding = Vec::new();
        let (_silent, port) = silent_port(&mut holding);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let resolver = Resolver::asking(|_| Ok(vec![[127, 0, 0, 9].into(), [127, 0, 0, 1].into()]));
        let target = authority(&format!("two.test:{port}"));
        let conn = dial(&target, &resolver, deadline(), &mut go_on).unwrap();
        let reached = conn.stream().peer_addr().unwrap();
        assert_eq!(reached, listener.local_addr().unwrap());
    }

    /// An authority whose addresses are remembered.
    struct Remembered<'b>(Authority, &'b AddressBook);

    impl Goal for Remembered<'_> {
        fn authority(&self) -> &Authority {
            &self.0
        }

        fn book(&self) -> Option<&AddressBook> {
            Some(self.1)
        }
    }

    #[test]
    fn an_address_that_does_not_answer_is_remembered_and_so_is_one_that_refuses() {
        let mut holding = Vec::new();
        let (_silent, port) = silent_port(&mut holding);
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        // No listener is at 127.0.0.8.
        let all: Addresses = [9, 8, 1].map(|last| IpAddr::from([127, 0, 0, last])).into();
        let answer = all.to_vec();
        let resolver = Resolver::asking(move |_| Ok(answer.clone()));
        let book = AddressBook::default();
        let name = authority(&format!("three.test:{port}"));
        for _ in 0..2 {
            let goal = Remembered(name.clone(), &book);
            let conn = dial(goal, &resolver, deadline(), &mut go_on).unwrap();
            assert_eq!(conn.dialled(), Some(all[2]));
        }
        // Both rest, the one that failed last for longer.
        let order = book.order(&all, Instant::now());
        assert_eq!(order.first(), Some(&all[2]));
    }

    #[test]
    fn who_arrives_at_the_same_moment_is_handed_over_and_who_does_not_is_told() {
        let mut holding = Vec::new();
        let (silent, port) = silent_port(&mut holding);
        let silent = TcpListener::from(silent);
        let mut never = Vec::new();
        let (_never, never_port) = silent_port(&mut never);
        let resolver = Resolver::default();
        let mut race = Race::new(&resolver);
        let slow = authority(&format!("127.0.0.9:{port}"));
        let slower = authority(&format!("127.0.0.9:{never_port}"));
        race.enter(&slow, deadline());
        let late_at = race.enter(&slower, deadline());
        assert!(matches!(
            race.next(Some(late_at), &mut go_on),
            RaceEvent::Late
        ));
        // There is room now, and the system asks for it again within a few seconds: the connection is made,
        // and the race has not looked.
        silent.set_nonblocking(true).unwrap();
        let attempt = &race.runners[0].running[0];
        let asked = [(attempt.stream.as_fd(), Want::Write)];
        let is_made = || socket::wait_any(&asked, STAGGER).unwrap()[0].to_write();
        while !is_made() {
            assert!(attempt.begun.elapsed() < Duration::from_secs(60));
            drop(silent.accept());
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let quick = authority(&listener.local_addr().unwrap().to_string());
        race.enter(&quick, deadline());
        let RaceEvent::Made(winner, _conn) = race.next(None, &mut go_on) else {
            panic!("nobody won");
        };
        assert_eq!(*winner.goal, quick);
        let others: Vec<_> = race.finish().into_iter().collect();
        let arrived = |goal: &Authority| {
            let other = others.iter().find(|(other, _)| other.goal == goal).unwrap();
            assert!(other.0.is_late());
            other.1.is_some()
        };
        assert!(arrived(&slow));
        assert!(!arrived(&slower));
    }

    #[test]
    fn nobody_goes_on_who_is_not_wanted_any_more() {
        let mut holding = Vec::new();
        let (_silent, port) = silent_port(&mut holding);
        let target = authority(&format!("127.0.0.9:{port}"));
        let given_up = dial(&target, &Resolver::default(), deadline(), &mut || {
            LookAround::GiveUp
        });
        assert_eq!(given_up.err(), Some(DialError::GivenUp));
    }

    /// After the first second it was polled for until the deadline, and nothing else was looked at.
    #[test]
    fn whether_a_connection_is_still_wanted_is_asked_again_and_again_while_it_is_made() {
        let mut holding = Vec::new();
        let (_silent, port) = silent_port(&mut holding);
        let target = authority(&format!("127.0.0.9:{port}"));
        let mut looks = 0;
        let far_off = Instant::now() + Duration::from_secs(3600);
        let given_up = dial(&target, &Resolver::default(), far_off, &mut || {
            looks += 1;
            match looks {
                2 => LookAround::GiveUp,
                _ => LookAround::GoOn,
            }
        });
        assert_eq!(given_up.err(), Some(DialError::GivenUp));
    }

    /// All addresses were tried in one go, each for up to [`STAGGER`].
    #[test]
    fn whether_a_connection_is_still_wanted_is_asked_between_two_addresses_that_refuse() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // No listener is at the first address.
        let resolver = Resolver::asking(|_| Ok(vec![[127, 0, 0, 9].into(), [127, 0, 0, 1].into()]));
        let name = "two.test";
        assert!(resolver.addresses(name, deadline()).is_ok());
        let target = authority(&format!("{name}:{port}"));
        let mut race = Race::new(&resolver);
        race.enter(&target, deadline());
        let event = race.next(None, &mut || LookAround::GiveUp);
        assert!(matches!(event, RaceEvent::GivenUp), "{event:?}");
    }

    #[test]
    fn a_name_that_is_not_found_in_time_keeps_nobody_from_overtaking() {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let hold = parking_lot::Mutex::new(hold);
        let resolver = Resolver::asking(move |_| {
            assert!(hold.lock().recv().is_err());
            Ok(Vec::new())
        });
        let mut race = Race::new(&resolver);
        let hangs = authority("hangs.test:1");
        let late_at = race.enter(&hangs, deadline());
        assert!(matches!(
            race.next(Some(late_at), &mut go_on),
            RaceEvent::Late
        ));
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let quick = authority(&listener.local_addr().unwrap().to_string());
        race.enter(&quick, deadline());
        assert!(matches!(race.next(None, &mut go_on), RaceEvent::Made(..)));
        drop(release);
    }

    #[test]
    fn others_may_join_later_where_connections_usually_take_longer() {
        let book = AddressBook::default();
        for _ in 0..50 {
            book.connected(Duration::from_secs(1));
        }
        let resolver = Resolver::default();
        let mut race = Race::new(&resolver);
        let target = authority("127.0.0.1:1");
        let after = |late_at: Instant| late_at.saturating_duration_since(Instant::now());
        let usual = after(race.enter(Remembered(target.clone(), &book), deadline()));
        assert!(usual > Duration::from_millis(1500), "{usual:?}");
        let unknown = AddressBook::default();
        let usual = after(race.enter(Remembered(target, &unknown), deadline()));
        assert!(usual <= STAGGER, "{usual:?}");
    }

    #[test]
    fn a_connection_that_is_not_answered_in_time_is_too_late() {
        let mut holding = Vec::new();
        let (_silent, port) = silent_port(&mut holding);
        let target = authority(&format!("127.0.0.9:{port}"));
        let soon = Instant::now() + Duration::from_millis(50);
        let late = dial(&target, &Resolver::default(), soon, &mut go_on);
        let expected = DialError::Failed(HopFailure::ConnectTimeout);
        assert_eq!(late.err(), Some(expected));
    }

    #[test]
    fn families_take_turns_beginning_with_the_one_the_system_prefers() {
        let check = |system: &[&str], turns: &[&str]| {
            let parsed = |texts: &[&str]| -> Vec<IpAddr> {
                texts.iter().map(|text| text.parse().unwrap()).collect()
            };
            assert_eq!(taking_turns(&parsed(system).into()), parsed(turns));
        };
        check(
            &["::1", "::2", "::3", "1.1.1.1"],
            &["::1", "1.1.1.1", "::2", "::3"],
        );
        check(
            &["1.1.1.1", "::1", "::2", "2.2.2.2"],
            &["1.1.1.1", "::1", "2.2.2.2", "::2"],
        );
        check(&[], &[]);
    }

    #[test]
    fn an_address_the_guard_refuses_is_never_connected_to() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let target = authority(&listener.local_addr().unwrap().to_string());
        let refused = dial(
            Forbidden(target),
            &Resolver::default(),
            deadline(),
            &mut go_on,
        );
        assert!(matches!(refused, Err(DialError::Forbidden)));
        listener.set_nonblocking(true).unwrap();
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn a_port_on_which_nobody_listens_refuses() {
        let reserved = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let target = authority(&reserved.local_addr().unwrap().to_string());
        drop(reserved);
        let refused = dial(&target, &Resolver::default(), deadline(), &mut go_on);
        assert!(
            matches!(refused, Err(DialError::Failed(HopFailure::ConnectRefused))),
            "{refused:?}"
        );
    }
}
