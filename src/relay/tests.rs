//! What an exchange asks of its worker: how deep its stack gets, and when it says that it waits.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use super::connections::Connections;
use super::outcome::Outcome;
use super::session;
use super::worker::Worker;
use super::{Arrival, Client, Context, Scratch};
use crate::access_log::AccessEntry;
use crate::config;
use crate::net::conn::Conn;
use crate::net::permits::{PerClient, Permits};
use crate::net::resolve::Resolver;
use crate::net::socket::TICK;
use crate::net::threads::{self, STACK};

const PATIENCE: Duration = Duration::from_secs(20);
const TRAILER: &str = "X-Last: x\r\n\r\n";

/// A worker that says when it is told that it may have to wait, be it for a connection.
struct Alone<'a>(&'a dyn Fn());

impl Worker for Alone<'_> {
    fn may_begin(&self) -> bool {
        true
    }

    fn may_block(&self) {
        self.0();
    }

    fn may_suspend(&self) -> bool {
        true
    }
}

/// As many fields as there may be, in about as many bytes.
fn fields() -> String {
    let value = "x".repeat(230);
    let more = (0..245).map(|number| format!("X-Field-{number}: {value}\r\n"));
    more.collect()
}

/// An upstream that reads one request and gives one answer.
fn upstream(answer: String) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = threads::start("test-upstream", move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_to(&mut stream, TRAILER);
        stream.write_all(answer.as_bytes()).unwrap();
    });
    (address, thread.unwrap())
}

fn read_to(stream: &mut TcpStream, end: &str) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut read, mut piece) = (Vec::new(), [0; 4096]);
    while !read.ends_with(end.as_bytes()) {
        let count = stream.read(&mut piece).unwrap();
        assert_ne!(count, 0, "the end came before {end:?}");
        read.extend_from_slice(piece.get(..count).unwrap());
    }
    read
}

/// Serves what the client says until nothing can follow.
fn serve(ctx: &Arc<Context>, client: Box<Client>) {
    serve_with(ctx, client, &Alone(&|| {}));
}

fn serve_with(ctx: &Arc<Context>, mut client: Box<Client>, worker: &dyn Worker) {
    let mut scratch = Scratch::default();
    loop {
        let mut outcome = session::serve(ctx, &mut scratch, client, worker);
        while let Outcome::Suspended(suspended) = outcome {
            outcome = session::resume(ctx, &mut scratch, *suspended, worker);
        }
        client = match outcome {
            Outcome::Park(client) | Outcome::Yield(client) => client,
            Outcome::Wait(_)
            | Outcome::Linger(_)
            | Outcome::Closed
            | Outcome::Tunneled
            | Outcome::Suspended(_) => {
                return;
            }
        };
        // Nothing for a while is as good: it is suspended again.
        drop(client.conn.stream().peek(&mut [0]));
    }
}

fn context(text: &str) -> Arc<Context> {
    let config = config::parse(text, "test.yaml").unwrap();
    Arc::new(Context::new(config, Resolver::default()).unwrap())
}

/// A client's own end, and the client.
fn client() -> (TcpStream, Box<Client>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let near = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    let (far, address) = listener.accept().unwrap();
    far.set_read_timeout(Some(TICK)).unwrap();
    let permit = Permits::new(1).take(1).unwrap();
    let share = Arc::new(PerClient::default()).take(address.ip(), None);
    let permits = (permit, share.unwrap());
    let conn = Conn::prepared(far, TICK);
    let client = Client::new(
        conn,
        (address, Arrival::Direct),
        permits,
        &Connections::off(),
    );
    (near, Box::new(client))
}

/// An overflow ends the process, so this is tried on an eighth of the stack that workers have; and what is
/// compiled for tests needs more of it than a release.
#[test]
fn the_deepest_request_needs_less_than_an_eighth_of_a_stack() {
    let fields = fields();
    let (deaf, first) = upstream(String::new());
    let chunked = format!("Transfer-Encoding: chunked\r\n{fields}\r\n5\r\nhello\r\n0\r\n{TRAILER}");
    let (good, second) = upstream(format!("HTTP/1.1 200 OK\r\n{chunked}"));
    let text = format!(
        "listen: '127.0.0.1:0'\nmode: priority\n\
         upstream: [{{url: 'http://{deaf}', priority: 1}}, {{url: 'http://{good}', priority: 2}}]"
    );
    let ctx = context(&text);
    let (mut near, client) = client();
    let worker = thread::Builder::new().stack_size(STACK / 8);
    let worker = worker.spawn(move || serve(&ctx, client)).unwrap();
    near.write_all(format!("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{chunked}").as_bytes())
        .unwrap();
    let answer = read_to(&mut near, TRAILER);
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    near.write_all(format!("GET / HTTP/1.1\r\nHost: o.test\r\n{fields}\r\n").as_bytes())
        .unwrap();
    let refusal = read_to(&mut near, "\n");
    assert!(refusal.starts_with(b"HTTP/1.1 400 "));
    drop(near);
    for thread in [worker, first, second] {
        thread.join().unwrap();
    }
}

/// Longer than one read, and short enough for all buffers.
const BODY: usize = 40 * 1024;

/// Passes on a response of which `first` bytes of the body are there before anybody looks, and the others
/// come when its worker says that it waits. Says how often it did.
fn waits_for_a_body_of_which_are_there(first: usize) -> usize {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let hop = listener.local_addr().unwrap();
    let ctx = context(&format!(
        "listen: '127.0.0.1:0'\nupstream: [{{url: 'http://{hop}'}}]"
    ));
    let (mut near, client) = client();
    near.write_all(b"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .unwrap();
    let mut scratch = Scratch::default();
    let begun = session::serve(&ctx, &mut scratch, client, &Alone(&|| {}));
    let Outcome::Suspended(mut suspended) = begun else {
        panic!("not suspended, but {begun:?}");
    };
    let (mut upstream, _) = listener.accept().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
    let body = "x".repeat(BODY);
    let answer = [head.as_bytes(), &body.as_bytes()[..first]].concat();
    upstream.write_all(&answer).unwrap();
    let mut there = vec![0; BODY * 2];
    while suspended.hop().stream().peek(&mut there).unwrap() < answer.len() {
        thread::yield_now();
    }
    let waits = Cell::new(0);
    let upstream = RefCell::new(upstream);
    let tells = || {
        waits.set(waits.get() + 1);
        let rest = &body.as_bytes()[first..];
        upstream.borrow_mut().write_all(rest).unwrap();
    };
    let outcome = session::resume(&ctx, &mut scratch, *suspended, &Alone(&tells));
    assert!(matches!(outcome, Outcome::Park(_)), "{outcome:?}");
    let answer = read_to(&mut near, &body);
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    waits.get()
}

#[test]
fn a_body_that_is_there_is_passed_on_without_a_word() {
    assert_eq!(waits_for_a_body_of_which_are_there(BODY), 0);
}

#[test]
fn whoever_waits_for_the_rest_of_a_body_says_so_once_and_before() {
    assert_eq!(waits_for_a_body_of_which_are_there(BODY - 1), 1);
    assert_eq!(waits_for_a_body_of_which_are_there(1), 1);
}

#[test]
fn a_request_whose_worker_panics_is_counted_and_logged_as_panicked() {
    static LOGGED: Mutex<Vec<AccessEntry>> = Mutex::new(Vec::new());
    // Its worker panics when it has to wait for the body.
    const REQUEST: &str =
        "PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 1\r\n\r\n";
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let hop = listener.local_addr().unwrap();
    let ctx = context(&format!(
        "listen: '127.0.0.1:0'\nupstream: [{{url: 'http://{hop}'}}]"
    ));
    ctx.access_log
        .hand_to(|entry| LOGGED.lock().push(entry.clone()));
    let (mut near, client) = client();
    near.write_all(REQUEST.as_bytes()).unwrap();
    let clumsy = Alone(&|| panic!("a test wants this worker to panic"));
    let served = panic::catch_unwind(AssertUnwindSafe(|| serve_with(&ctx, client, &clumsy)));
    assert!(served.is_err());
    ctx.access_log.finish(PATIENCE);
    let [entry] = &LOGGED.lock()[..] else {
        panic!("not one entry");
    };
    assert_eq!(entry.cause, Some("panicked"));
    assert_eq!(entry.target, "http://o.test/");
    assert_eq!(entry.received, REQUEST.len() as u64);
    assert_eq!(ctx.metrics.requests.value(), 1);
    let mut failures = ctx.metrics.failures.all();
    assert!(failures.any(|failure| failure == ("panicked", 1)));
}
