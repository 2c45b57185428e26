//! What is measured: one row of the table each.

use std::rc::Rc;

use crate::load::Group;
use crate::pattern;
use crate::script::{Script, Step};
use crate::upstreams::POOL;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Cycles: requests, tunnels, echoes.
    Cycles,
    /// So many bytes in each cycle.
    Bytes(usize),
    /// Nothing happens: the memory of so many connections.
    Memory(usize),
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// For `--only`.
    pub(crate) name: String,
    /// For the table.
    pub(crate) title: String,
    pub(crate) unit: Unit,
    pub(crate) groups: Vec<Group>,
    /// How many upstreams there are.
    pub(crate) pool: usize,
}

impl Scenario {
    /// Connections of clients at the same time.
    pub(crate) fn connections(&self) -> usize {
        self.groups.iter().map(|group| group.clients).sum()
    }
}

/// A ping through a tunnel.
const PING: usize = 64;

/// A piece of a stream through a tunnel.
const PIECE: usize = 1024 * 1024;

/// What an idle tunnel has carried before, each way: enough to have filled every buffer.
const CARRIED: usize = 128 * 1024;

fn bytes(text: impl Into<Vec<u8>>) -> Rc<[u8]> {
    text.into().into()
}

fn send(text: impl Into<Vec<u8>>) -> Step {
    Step::Send(bytes(text))
}

/// As a browser's, but short.
const FIELDS: &str = "Host: origin.test\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n";

fn get(path: &str, length: usize) -> Vec<Step> {
    vec![
        send(format!(
            "GET http://origin.test{path} HTTP/1.1\r\n{FIELDS}\r\n"
        )),
        Step::Answer(length),
    ]
}

fn get_bytes(length: usize) -> Vec<Step> {
    get(&format!("/bytes/{length}"), length)
}

fn post(length: usize) -> Vec<Step> {
    let head = format!(
        "POST http://origin.test/post HTTP/1.1\r\n{FIELDS}\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut request = head.into_bytes();
    request.extend(pattern::body(length));
    vec![send(request), Step::Answer(0)]
}

/// A tunnel to the upstreams' service of that port.
fn connect(port: u16) -> Vec<Step> {
    let head = format!(
        "CONNECT origin.test:{port} HTTP/1.1\r\nHost: origin.test:{port}\r\n\
         User-Agent: bench/1.0\r\n\r\n"
    );
    vec![Step::Open, send(head), Step::Opened]
}

fn echo(length: usize) -> Vec<Step> {
    let ping = bytes(pattern::body(length));
    vec![Step::Send(Rc::clone(&ping)), Step::Expect(ping)]
}

fn joined(parts: &[Vec<Step>]) -> Vec<Step> {
    parts.concat()
}

fn group(clients: usize, setup: Vec<Step>, cycle: Vec<Step>) -> Group {
    Group {
        clients,
        script: Rc::new(Script { setup, cycle }),
    }
}

/// Clients that keep their connection and repeat `cycle`; the first time is part of the setup.
fn keep_alive(clients: usize, cycle: Vec<Step>) -> Group {
    let mut setup = vec![Step::Open];
    setup.extend(cycle.iter().cloned());
    group(clients, setup, cycle)
}

/// Clients that did one exchange and do nothing more.
fn idle_clients(clients: usize) -> Group {
    group(
        clients,
        joined(&[vec![Step::Open], get_bytes(1024)]),
        Vec::new(),
    )
}

/// Tunnels that carried traffic and carry no more.
fn idle_tunnels(clients: usize) -> Group {
    group(clients, joined(&[connect(7), echo(CARRIED)]), Vec::new())
}

fn row(name: &str, title: &str, unit: Unit, groups: Vec<Group>) -> Scenario {
    Scenario {
        name: name.to_owned(),
        title: title.to_owned(),
        unit,
        groups,
        pool: POOL,
    }
}

/// A point of a curve, which names it.
fn point(groups: Vec<Group>) -> Scenario {
    row("", "", Unit::Cycles, groups)
}

/// So many busy clients.
pub(crate) fn busy(clients: usize) -> Scenario {
    point(vec![keep_alive(clients, get_bytes(1024))])
}

/// So many upstreams.
pub(crate) fn over_pool(pool: usize) -> Scenario {
    Scenario { pool, ..busy(32) }
}

/// So many idle clients.
pub(crate) fn beside_idle(clients: usize) -> Scenario {
    point(beside(idle_clients(clients)))
}

/// So many busy tunnels.
pub(crate) fn echoing(tunnels: usize) -> Scenario {
    point(vec![group(tunnels, connect(7), echo(PING))])
}

/// A busy group beside an idle one, which connects first.
fn beside(idle: Group) -> Vec<Group> {
    vec![idle, keep_alive(8, get_bytes(1024))]
}

const MIB: usize = 1024 * 1024;

/// What tells that a target serves.
pub(crate) fn first_exchange() -> Script {
    Script {
        setup: joined(&[vec![Step::Open], get_bytes(0)]),
        cycle: Vec::new(),
    }
}

/// Every row of the table, in its order.
pub(crate) fn all() -> Vec<Scenario> {
    let mut rows = requests();
    rows.extend(tunnels());
    rows.extend(crowds());
    rows
}

fn requests() -> Vec<Scenario> {
    let open_get = joined(&[vec![Step::Open], get_bytes(1024), vec![Step::Close]]);
    let cycles = Unit::Cycles;
    vec![
        row(
            "get-empty",
            "32 keep-alive clients, GET, empty body",
            cycles,
            vec![keep_alive(32, get_bytes(0))],
        ),
        row(
            "get-1k",
            "32 keep-alive clients, GET 1 KiB",
            cycles,
            vec![keep_alive(32, get_bytes(1024))],
        ),
        row(
            "one-client",
            "1 keep-alive client, GET 1 KiB",
            cycles,
            vec![keep_alive(1, get_bytes(1024))],
        ),
        row(
            "new-connection",
            "16 clients, a new connection per GET 1 KiB",
            cycles,
            vec![group(16, Vec::new(), open_get)],
        ),
        row(
            "post-16k",
            "16 clients, POST 16 KiB",
            cycles,
            vec![keep_alive(16, post(16 * 1024))],
        ),
        row(
            "get-1m",
            "8 clients, GET 1 MiB",
            Unit::Bytes(MIB),
            vec![keep_alive(8, get_bytes(MIB))],
        ),
        row(
            "post-1m",
            "8 clients, POST 1 MiB",
            Unit::Bytes(MIB),
            vec![keep_alive(8, post(MIB))],
        ),
        row(
            "slow-256",
            "256 clients, the upstream answers after 20 ms",
            cycles,
            vec![keep_alive(256, get("/slow/20", 0))],
        ),
    ]
}

fn tunnels() -> Vec<Scenario> {
    let open_close = joined(&[connect(7), echo(PING), vec![Step::Close]]);
    let stream = Unit::Bytes(PIECE);
    vec![
        row(
            "connect",
            "CONNECT, echo, close, 16 at a time",
            Unit::Cycles,
            vec![group(16, Vec::new(), open_close)],
        ),
        row(
            "tunnel-down",
            "4 tunnels, down",
            stream,
            vec![group(
                4,
                joined(&[connect(19), vec![send("go")]]),
                vec![Step::Drink(PIECE)],
            )],
        ),
        row(
            "tunnel-up",
            "4 tunnels, up",
            stream,
            vec![group(4, connect(9), vec![Step::Pour(PIECE)])],
        ),
        row(
            "echo-1",
            "echo through 1 tunnel",
            Unit::Cycles,
            vec![group(1, connect(7), echo(PING))],
        ),
        row(
            "echo-16",
            "echo through 16 tunnels",
            Unit::Cycles,
            vec![group(16, connect(7), echo(PING))],
        ),
    ]
}

fn crowds() -> Vec<Scenario> {
    let cycles = Unit::Cycles;
    vec![
        row(
            "idle-1000",
            "8 busy clients beside 1000 idle ones",
            cycles,
            beside(idle_clients(1000)),
        ),
        row(
            "idle-5000",
            "8 busy clients beside 5000 idle ones",
            cycles,
            beside(idle_clients(5000)),
        ),
        row(
            "idle-tunnels",
            "8 busy clients beside 2000 idle tunnels",
            cycles,
            beside(idle_tunnels(2000)),
        ),
        row(
            "memory-clients",
            "memory of an idle client (5000 of them)",
            Unit::Memory(5000),
            vec![idle_clients(5000)],
        ),
        row(
            "memory-tunnels",
            "memory of an idle tunnel (2000 of them)",
            Unit::Memory(2000),
            vec![idle_tunnels(2000)],
        ),
    ]
}
