//! A lane in which no thread leads.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use super::*;
use crate::config;
use crate::net::inherited::ListenerOwner;
use crate::net::permits::{PerClient, Permits};
use crate::net::resolve::Resolver;
use crate::net::socket::TICK;
use crate::relay::connections::Connections;
use crate::relay::{Arrival, Context};
use crate::server::acceptor::Acceptor;
use crate::server::budget::Budget;

/// As many lanes of a server that may work at `workers` requests, in which no thread leads.
fn lanes<const COUNT: usize>(workers: usize) -> [Lane; COUNT] {
    let config = config::parse("listen: 127.0.0.1:0\nupstream: []\n", "c.yaml").unwrap();
    let ctx = Arc::new(Context::new(config, Resolver::default()).unwrap());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    Acceptor::prepare(&listener).unwrap();
    let listener = (listener, ListenerOwner::ThisProcess);
    let polls: Vec<_> = (0..COUNT).map(|n| LaneHandle::new(n).unwrap()).collect();
    let shared = Arc::new(Shared {
        acceptor: Acceptor::new(&ctx, listener, &Permits::new(100)),
        budget: Budget::new(workers, ctx.long_threads.clone()),
        queue: Permits::new(100),
        most_uncounted: 1,
        wakes_every: Some(Duration::ZERO),
        lanes: polls.iter().map(|(_, lane)| Arc::clone(lane)).collect(),
        ctx,
    });
    let lanes = polls.into_iter();
    let lanes = lanes.map(|(poll, handle)| Lane::new(&shared, poll, &handle).unwrap());
    let lanes: Vec<_> = lanes.collect();
    lanes.try_into().unwrap()
}

/// Both ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let far = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
    (listener.accept().unwrap().0, far)
}

/// A client, and its own end.
fn client() -> (Box<Client>, TcpStream) {
    let (near, far) = pair();
    let address = far.local_addr().unwrap();
    let one = Permits::new(1).take(1).unwrap();
    let of_client = Arc::<PerClient>::default();
    let of_client = of_client.take(IpAddr::from([127, 0, 0, 1]), None).unwrap();
    let conn = Conn::new(near, TICK).unwrap();
    let permits = (one, of_client);
    let client = Client::new(
        conn,
        (address, Arrival::Direct),
        permits,
        &Connections::off(),
    );
    (Box::new(client), far)
}

/// A client whose head should have come long ago, and its own end.
fn late_client() -> (Box<Client>, TcpStream) {
    let (mut client, far) = client();
    client.head_begun = Instant::now().checked_sub(Duration::from_secs(3600));
    (client, far)
}

/// As it happens when the system has told of so many that this one is left for the next time.
#[test]
fn a_client_that_has_sent_something_is_not_late_though_no_event_came() {
    let [mut lane] = lanes(1);
    let (client, mut far) = late_client();
    lane.park(client, None);
    far.write_all(b"\r\n").unwrap();
    while !lane
        .events
        .iter()
        .any(|event| event.token() == Token(FIRST))
    {
        lane.poll.poll(&mut lane.events, None).unwrap();
    }
    lane.give_up_late(Instant::now());
    assert!(matches!(lane.ready.pop_front(), Some(Ready::Begin(..))));
}

#[test]
fn a_client_that_has_sent_nothing_more_is_late() {
    let [mut lane] = lanes(1);
    let (client, _far) = late_client();
    lane.park(client, None);
    assert!(lane.round());
    assert!(lane.ready.is_empty());
    let [_, lingering, _] = lane.clients.counts();
    assert_eq!(lingering, 1);
}

#[test]
fn a_client_that_waits_for_a_permit_is_refused_in_time_unless_the_whole_process_stood_still() {
    let [mut lane] = lanes(0);
    let (client, _far) = client();
    lane.let_wait(client, None);
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    lane.waiting.front_mut().unwrap().since = long_ago;
    lane.pass_begun = long_ago;
    lane.excuse(Instant::now(), Some(LOOK_EVERY));
    lane.give_up_late(Instant::now());
    assert_eq!(lane.waiting.len(), 1);
    lane.waiting.front_mut().unwrap().since = long_ago;
    lane.give_up_late(Instant::now());
    assert!(lane.waiting.is_empty());
    assert!(!lane.shared.budget.is_wanted());
}

#[test]
fn what_is_ready_and_late_goes_to_a_lane_that_has_nothing_to_do() {
    let [mut busy, mut idle] = lanes(1);
    let (clients, _far): (Vec<_>, Vec<_>) = (0..3).map(|_| client()).unzip();
    for client in clients {
        // Watched already, as a client between two requests is.
        let slot = busy.slot(&client.conn, None);
        busy.ready.push_back(Ready::Begin(client, slot, None));
    }
    busy.give_away();
    assert_eq!(busy.ready.len(), 3, "the other is awake");
    assert!(idle.handle.falls_asleep());
    busy.give_away();
    assert_eq!((busy.ready.len(), busy.clients.occupied()), (2, 2));
    idle.read_mail();
    assert!(matches!(
        idle.ready.pop_front(),
        Some(Ready::Begin(_, None, None))
    ));
}

#[test]
fn a_permit_that_is_given_back_brings_the_client_that_waits_for_it() {
    let [mut lane, _other] = lanes(1);
    let permit = lane.shared.budget.take().unwrap();
    let (client, _far) = client();
    lane.let_wait(client, None);
    assert!(lane.round() && lane.ready.is_empty());
    drop(permit);
    assert!(lane.round());
    assert!(matches!(
        lane.ready.pop_front(),
        Some(Ready::Begin(_, _, Some(_)))
    ));
}

/// A next hop has sent so many bytes before it waits.
fn suspended(lane: &mut Lane, bytes: usize) -> (Awaiting, TcpStream, TcpStream) {
    let ((client, near), (hop, mut far)) = (client(), pair());
    far.write_all(&vec![b'x'; bytes]).unwrap();
    let mut conn = Conn::new(hop, TICK).unwrap();
    let Received::Bytes(_) = conn.receive(Wait::Tick).unwrap() else {
        panic!("nothing came");
    };
    conn.consume(usize::MAX);
    let ctx = &lane.shared.ctx;
    let suspended = Suspended::asked(ctx, client, conn, Duration::from_secs(3600));
    let awaiting = Awaiting {
        suspended: Box::new(suspended),
        slot: None,
        held: None,
        may_suspend: true,
    };
    (awaiting, near, far)
}

/// No event tells of the rest.
#[test]
fn an_exchange_whose_next_hop_may_have_sent_more_does_not_wait_for_an_event() {
    let [mut lane] = lanes(1);
    let (all_read, _near, _far) = suspended(&mut lane, 1);
    lane.suspend(all_read);
    assert!(lane.ready.is_empty());
    let (more, _near, _far) = suspended(&mut lane, 256 * 1024);
    lane.suspend(more);
    assert!(matches!(lane.ready.pop_front(), Some(Ready::Resume(_))));
}

#[test]
fn the_table_of_next_hops_is_short_again_when_a_crowd_of_them_is_closed() {
    let [mut lane] = lanes(1);
    // Any socket does.
    let socket = || UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let hop = || Conn::prepared(OwnedFd::from(socket()).into(), TICK);
    let mut crowd: Vec<Conn> = (0..500).map(|_| hop()).collect();
    for conn in &mut crowd {
        lane.slot_of_hop(conn).unwrap();
    }
    let mut last = crowd.pop().unwrap();
    drop(crowd);
    lane.shared.unwatch_hop(&mut last);
    lane.read_mail();
    assert_eq!(lane.hops.len(), 0);
}
