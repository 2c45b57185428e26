//! The relay and the upstreams of a session; they live as long as the process.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http_proxy_lb::config::{self, checked::Config};
use http_proxy_lb::server::{Options, Server};
use parking_lot::Mutex;

use super::script::{self, Answer, STRAY, Then};
use super::wire::{Broken, Head, Talk};

/// How long a step may take before the relay hangs. What passes never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);

/// What hop-by-hop fields a request to an upstream never has here: there is no upgrade, and the
/// upstreams want no credentials.
const NEVER: [&str; 7] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "upgrade",
    "http2-settings",
    "proxy-authenticate",
];

/// What a request must be when it arrives.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// What is answered.
    pub(crate) answer: Answer,
    /// The body as it was sent, if the request is a good one.
    pub(crate) body: Option<Vec<u8>>,
    /// How often it came, whole.
    pub(crate) seen: u32,
}

/// The relay and what its upstreams know.
pub(crate) struct Stage {
    /// The relay.
    pub(crate) server: Server,
    addresses: [SocketAddr; 2],
}

/// What upstreams are to do, by the number of the exchange.
static EXPECTED: Mutex<Option<HashMap<u64, Expected>>> = Mutex::new(None);

/// What was wrong.
static FAULTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

static NEXT: AtomicU64 = AtomicU64::new(STRAY + 1);

/// A number that no exchange of this process had.
pub(crate) fn next_id() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Remembers that something is wrong.
pub(crate) fn fault(what: String) {
    FAULTS.lock().push(what);
}

/// Fails if anything was wrong.
pub(crate) fn expect_no_faults() {
    let faults = std::mem::take(&mut *FAULTS.lock());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What upstreams will do with this exchange.
pub(crate) fn expect(id: u64, expected: Expected) {
    EXPECTED.lock().get_or_insert_default().insert(id, expected);
}

/// Forgets all exchanges.
pub(crate) fn forget() {
    EXPECTED.lock().take();
}

/// How often a request came.
pub(crate) fn seen(id: u64) -> u32 {
    let expected = EXPECTED.lock();
    expected
        .as_ref()
        .and_then(|all| Some(all.get(&id)?.seen))
        .unwrap_or(0)
}

impl Stage {
    /// The only one.
    pub(crate) fn get() -> &'static Self {
        static STAGE: OnceLock<Stage> = OnceLock::new();
        STAGE.get_or_init(|| {
            let addresses = [start_upstream(), start_upstream()];
            let server = Server::start(configuration(addresses, 0), Options::default());
            Self {
                server: server.expect("the relay starts"),
                addresses,
            }
        })
    }

    /// Another configuration, with the same upstreams.
    pub(crate) fn reload(&self, variant: u8) {
        let applied = self.server.reload(configuration(self.addresses, variant));
        applied.expect("the configuration applies");
    }

    /// A new connection to the relay.
    pub(crate) fn connect(&self) -> Talk {
        let address = self.server.local_addr();
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
        Talk::new(stream)
    }

    /// Soon nothing is under way and nobody is connected.
    pub(crate) fn expect_deserted(&self) {
        wait_until("all counts are zero", || {
            let counts = self.server.counts();
            let leases: u64 = self.server.upstreams().iter().map(|one| one.active).sum();
            let under_way = counts.busy + counts.long + counts.tunnels + counts.queue;
            let held = counts.connections + counts.parked;
            under_way == 0 && held == 0 && leases == 0
        });
        assert_eq!(
            self.server.counts().panics,
            0,
            "a thread of the relay panicked"
        );
    }
}

/// Asks again and again, for at most [`PATIENCE`].
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it never happened: {what}");
        thread::park_timeout(Duration::from_micros(200));
    }
}

fn configuration([one, other]: [SocketAddr; 2], variant: u8) -> Config {
    let mode = ["round_robin", "best", "priority"][usize::from(variant) % 3];
    let text = format!(
        "listen: 127.0.0.1:0
mode: {mode}
health_check: {{url: 'http://probe.test/probe', interval_secs: 1, fall: 1000}}
limits: {{workers: 8, connect_timeout_secs: 10, response_timeout_secs: 10, header_timeout_secs: 10, io_timeout_secs: 10, idle_timeout_secs: 10}}
upstream: [{{url: 'http://{one}'}}, {{url: 'http://{other}', weight: {}}}]",
        1 + variant % 4
    );
    config::parse(&text, "session.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn start_upstream() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    let accept = move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            let started = thread::Builder::new().spawn(|| serve(stream));
            started.expect("a thread");
        }
    };
    thread::Builder::new().spawn(accept).expect("a thread");
    address
}

fn serve(stream: TcpStream) {
    stream.set_nodelay(true).expect("no delay");
    let mut talk = Talk::new(stream);
    loop {
        match talk.head() {
            Ok(head) => match answer(&mut talk, &head) {
                Ok(Then::Keep) => {}
                Ok(Then::Finish) => {
                    drop(talk.stream.shutdown(Shutdown::Write));
                    drop(talk.rest());
                    return;
                }
                Ok(Then::Close | Then::CloseUnanswered) => return,
                Err(Broken::Malformed(what)) => return fault(format!("to an upstream: {what}")),
                // The relay gave up, which it may.
                Err(Broken::End | Broken::Cut | Broken::Silence) => return,
            },
            Err(Broken::Malformed(what)) => return fault(format!("to an upstream: {what}")),
            Err(Broken::End | Broken::Cut | Broken::Silence) => return,
        }
    }
}

fn answer(talk: &mut Talk, head: &Head) -> Result<Then, Broken> {
    let target = head.word(1);
    // No client asks for a target in origin-form and is let through.
    let mut agents = head.values("user-agent").into_iter();
    let is_check =
        head.start == "GET / HTTP/1.1" && agents.any(|agent| agent.starts_with("http-proxy-lb/"));
    if is_check {
        send(
            talk,
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        );
        return Ok(Then::Close);
    }
    if target == "http://probe.test/probe" {
        send(
            talk,
            b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        );
        return Ok(Then::Close);
    }
    check_head(head);
    if head.word(0) == "CONNECT" {
        return tunnel(talk, head);
    }
    let id = script::number_in(target);
    if id == Some(STRAY) {
        fault(format!("a smuggled request arrived: {head:?}"));
    }
    let expected = {
        let all = EXPECTED.lock();
        id.and_then(|id| all.as_ref()?.get(&id).cloned())
    };
    let answer = match &expected {
        Some(expected) => expected.answer.clone(),
        // Of an exchange that is over, or with a target that the fuzzer changed: nobody's answer.
        None => Answer {
            bytes: b"HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n".to_vec(),
            ..Answer::plain(STRAY)
        },
    };
    for _ in 0..answer.interim {
        send(talk, b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n");
    }
    if answer.is_early && answer.then != Then::CloseUnanswered {
        send(talk, &answer.bytes);
    }
    receive(talk, head, id, expected)?;
    if answer.then == Then::CloseUnanswered {
        return Ok(Then::Close);
    }
    if !answer.is_early {
        send(talk, &answer.bytes);
    }
    Ok(answer.then)
}

/// The body of a request that leads to `id`.
fn receive(
    talk: &mut Talk,
    head: &Head,
    id: Option<u64>,
    expected: Option<Expected>,
) -> Result<(), Broken> {
    let declared = head.declared().map_err(Broken::Malformed)?;
    let body = talk.body(declared)?;
    let tags = script::tags('r', &body);
    // The fuzzer may have changed the number in the target.
    let own = id.or(tags.first().copied());
    if tags.iter().any(|other| Some(*other) != own) {
        fault(format!("the body of {tags:?} arrived in request {id:?}"));
    }
    let is_clean = expected.as_ref().is_some_and(|known| known.body.is_some());
    if is_clean && head.has("x-gone") {
        fault(format!(
            "Connection named a field of {id:?}, and it arrived"
        ));
    }
    if let Some((id, expected)) = id.zip(expected)
        && expected.body.is_some_and(|sent| sent != body)
    {
        fault(format!(
            "the body of request {id} arrived changed: {}",
            body.escape_ascii()
        ));
    }
    if let Some(id) = id {
        let mut all = EXPECTED.lock();
        if let Some(expected) = all.as_mut().and_then(|all| all.get_mut(&id)) {
            expected.seen += 1;
        }
    }
    Ok(())
}

/// Whatever the client sent, this is what a request to an upstream looks like.
fn check_head(head: &Head) {
    let mut wrong: Vec<&str> = NEVER.into_iter().filter(|name| head.has(name)).collect();
    if head.word(2) != "HTTP/1.1" || head.start.split(' ').count() != 3 {
        wrong.push("the request line");
    }
    if head.values("host").len() != 1 {
        wrong.push("host");
    }
    if !head.values("via").iter().any(|via| via.contains("hplb-")) {
        wrong.push("via");
    }
    if head.declared().is_err() {
        wrong.push("the framing");
    }
    if !wrong.is_empty() {
        fault(format!("{wrong:?} in a request to an upstream: {head:?}"));
    }
}

/// A tunnel that sends every byte back, with the tags of the other side; or a refusal.
fn tunnel(talk: &mut Talk, head: &Head) -> Result<Then, Broken> {
    let host = head.word(1).split(['.', ':']).next().unwrap_or_default();
    let Some(id) = script::number_in(host) else {
        send(talk, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
        return Ok(Then::Keep);
    };
    let banner = script::tag('s', id);
    if id % 4 == 0 {
        let text = format!(
            "HTTP/1.1 403 No\r\nContent-Length: {}\r\n\r\n{banner}",
            banner.len()
        );
        send(talk, text.as_bytes());
        return Ok(Then::Keep);
    }
    send(
        talk,
        format!("HTTP/1.1 200 Open\r\n\r\n{banner}").as_bytes(),
    );
    loop {
        let bytes = std::mem::take(&mut talk.unread);
        if script::tags('r', &bytes).iter().any(|other| *other != id) {
            fault(format!(
                "other bytes in tunnel {id}: {}",
                bytes.escape_ascii()
            ));
        }
        let back = String::from_utf8_lossy(&bytes).replace("{r", "{s");
        send(talk, back.as_bytes());
        if !talk.fill()? {
            return Ok(Then::Close);
        }
    }
}

/// The relay may have gone.
fn send(talk: &mut Talk, bytes: &[u8]) {
    drop(talk.stream.write_all(bytes));
}
