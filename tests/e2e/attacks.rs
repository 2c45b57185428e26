//! Peers that never come to an end, or bring more than anybody wants: each is stopped at a limit, and
//! an honest client beside it is served. `src/bounds.rs` has the list of all limits.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::harness::{Client, Proxy, Talk, Upstream, spawn, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const POST_IN_CHUNKS: &str =
    "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n";
const OK_IN_CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Says `part` for ever, until the other side has had enough; that is what the caller waits for.
fn says_for_ever(
    mut talk: impl Talk + Send + 'static,
    part: &'static str,
) -> thread::JoinHandle<()> {
    spawn("endless", move || {
        let block = part.repeat(64 * 1024 / part.len());
        let stream = talk.socket().handle();
        while std::io::Write::write_all(&mut stream.as_ref(), block.as_bytes()).is_ok() {}
    })
}

/// An endless request body whose end `part` puts off is refused; nobody is blamed.
#[track_caller]
fn check_endless_upload(begin: &str, part: &'static str) {
    let a = Upstream::by_hand("a");
    let b = Upstream::echo_ok("b");
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send(POST_IN_CHUNKS.to_owned() + begin);
    let endless = says_for_ever(client, part);
    // It ends because the relay refuses to go on.
    endless.join().expect("no panic");
    drop(a.try_accept());
    proxy.expect_online("a");
    proxy.expect_deserted();
    proxy.reload("mode: priority", [b.with("priority: 1")]);
    proxy.expect_honest_request_works();
}

#[test]
fn endless_trailers_of_a_request_are_refused() {
    check_endless_upload("5\r\nhello\r\n0\r\n", "X-Trailer: x\r\n");
    check_endless_upload("5\r\nhello\r\n0\r\nX: ", "x");
}

#[test]
fn endless_chunk_extensions_of_a_request_are_refused() {
    check_endless_upload("5", ";a=b");
    // None of the lines is long.
    check_endless_upload("", "1;name=value-of-the-extension\r\nx\r\n");
}

/// An endless response whose end `part` puts off breaks off at the client, or is 502 if it is too much
/// at once.
#[track_caller]
fn check_endless_response(begin: &str, part: &'static str) {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("health_check: {fall: 9}", [&a]);
    let mut client = proxy.client();
    client.send(GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    let (mut hop, _) = a.accept_and_read_request();
    hop.send(OK_IN_CHUNKS.to_owned() + begin);
    let endless = says_for_ever(hop, part);
    client.socket().read_to_end();
    let got = client.socket().take_pending();
    // With the line end before it: our name in `Via`, with which the head ends, may end with a 0, too.
    assert!(!got.ends_with(b"\r\n0\r\n\r\n"), "it looks complete");
    endless.join().expect("no panic");
    drop(client);
    proxy.expect_deserted();
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_ok("honest");
    client.expect_status(200).expect_body("honest");
}

#[test]
fn endless_trailers_of_a_response_break_it_off() {
    check_endless_response("5\r\nhello\r\n0\r\n", "X-Trailer: x\r\n");
}

#[test]
fn endless_chunk_extensions_of_a_response_break_it_off() {
    check_endless_response("5", ";a=b");
    check_endless_response("", "1;name=value-of-the-extension\r\nx\r\n");
}

#[test]
fn a_response_head_without_an_end_is_502() {
    for (begin, part) in [
        ("HTTP/1.1 200 OK\r\n", "X-Field: x\r\n"),
        ("HTTP/1.1 200 OK\r\nX: ", "x"),
        ("HTTP/1.1 200 ", "OK"),
    ] {
        let a = Upstream::by_hand("a");
        let proxy = Proxy::with_yaml("health_check: {fall: 9}", [&a]);
        let mut client = proxy.client();
        client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 0\r\n\r\n");
        let (mut hop, _) = a.accept_and_read_request();
        hop.send(begin);
        let endless = says_for_ever(hop, part);
        client.expect_refusal(502);
        endless.join().expect("no panic");
    }
}

/// Each is answered in its turn, and none of them is kept.
#[test]
fn ten_thousand_pipelined_requests_are_answered_in_order() {
    const REQUESTS: usize = 10_000;
    let a = Upstream::answering("a", |hop, request| {
        let number = request.target().rsplit('/').next().unwrap_or_default();
        hop.send_ok(number);
    });
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    let one = |number| format!("GET http://o.test/{number} HTTP/1.1\r\nHost: o.test\r\n\r\n");
    let all: Vec<String> = (0..REQUESTS).map(one).collect();
    let all = all.concat();
    let sender = client.send_in_background(all.into_bytes());
    for number in 0..REQUESTS {
        client.expect_status(200).expect_body(number.to_string());
        if number % 1000 == 0 {
            // Whoever else comes need not wait for the rest.
            proxy.client().send(GET).expect_status(200);
            assert!(proxy.counts().queue <= 1, "{:?}", proxy.counts());
        }
    }
    sender.join().expect("the sender").expect("all was taken");
    wait_until(|| proxy.counts().connections == 1);
}

/// Its next request is always there already, and none of them lasts.
#[test]
fn an_endless_pipeline_makes_way_for_whoever_waits() {
    let a = Upstream::by_hand("a");
    let extra = "limits: {workers: 1, queue_timeout_secs: 60, upstream_idle_connections: 0}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    let mut endless = proxy.client();
    endless.send(GET.repeat(100));
    for _ in 0..3 {
        let (mut hop, _) = a.accept_and_read_request();
        let seen = a.connections();
        let mut other = proxy.client();
        other.get("http://o.test/other");
        let since = Instant::now();
        wait_until(|| {
            let is_there = proxy.counts().queue == 1 || a.connections() > seen;
            is_there && since.elapsed() > Duration::from_millis(50)
        });
        hop.send_ok("one of many");
        endless.expect_status(200);
        let (mut hop, next) = a.accept_and_read_request();
        assert_eq!(next.target(), "http://o.test/other");
        hop.send_ok("other");
        other.expect_status(200).expect_body("other");
    }
}

/// One that sends ten thousand and reads no answer is cut, with what it sent unread.
#[test]
fn a_pipeline_whose_answers_nobody_reads_is_cut() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send_ok(&"x".repeat(64 * 1024));
    });
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 0.5, workers: 2}", [&a]);
    let mut client = Client::connect_narrow(proxy.address());
    let sender = client.send_in_background(GET.repeat(10_000).into_bytes());
    wait_until(|| proxy.counts().connections == 1);
    proxy.expect_deserted();
    drop(client);
    drop(sender.join().expect("no panic"));
    proxy.expect_honest_request_works();
}

#[test]
fn a_flood_of_fields_is_431_and_others_are_served() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    for part in ["X-Field: x\r\n", "a:\r\n", "X: xxxxxxxxxxxxxxxxxxxxxxxx"] {
        let mut client = proxy.client();
        client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n");
        client.send_as_far_as_possible(part.repeat(100_000 / part.len()));
        client.expect_refusal_and_close(431);
        proxy.expect_honest_request_works();
    }
}

/// An upstream that is never silent for long, and never done.
#[test]
fn an_upstream_that_drips_its_head_is_504() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {response_timeout_secs: 1.2}", [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nX: ");
    wait_until(|| {
        hop.send_as_far_as_possible("x");
        thread::park_timeout(Duration::from_millis(20));
        client.has_answer()
    });
    client.expect_refusal(504);
}

/// The client that waits for it may leave, too.
#[test]
fn a_client_that_leaves_while_an_upstream_drips_is_noticed() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nX: ");
    client.close();
    wait_until(|| {
        hop.send_as_far_as_possible("x");
        thread::park_timeout(Duration::from_millis(20));
        proxy.counts().connections == 0
    });
    proxy.expect_online("a");
}

/// Bytes of a response head are no progress of a body that has stopped.
#[test]
fn an_upstream_that_drips_does_not_keep_a_stopped_upload_alive() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 0.5}", [&a]);
    let mut client = proxy.client();
    client.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 10\r\n\r\nabc");
    let mut hop = a.accept();
    hop.read_head();
    hop.send("HTTP/1.1 200 OK\r\nX: ");
    wait_until(|| {
        hop.send_as_far_as_possible("x");
        thread::park_timeout(Duration::from_millis(20));
        client.has_answer()
    });
    client.expect_refusal(408);
    proxy.expect_online("a");
}

/// A next hop that takes nothing must not hide that nobody waits for it any more.
#[test]
fn a_client_that_leaves_while_its_request_is_not_taken_is_noticed() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 100000000\r\n\r\n");
    let hop = a.accept();
    let sender = client.send_in_background(vec![b'x'; 100_000_000]);
    wait_until(|| proxy.counts().busy + proxy.counts().long == 1);
    client.reset_and_wait(&proxy);
    drop(sender.join().expect("no panic"));
    drop(hop);
    proxy.expect_online("a");
}

impl Client {
    /// Resets the connection under a thread that still sends on it.
    fn reset_and_wait(mut self, proxy: &Proxy) {
        let stream = self.socket().handle();
        http_proxy_lb::net::socket::reset(&stream).expect("it is connected");
        wait_until(|| proxy.counts().connections == 0);
    }
}

/// Slow bodies take threads, but not those that others need.
#[test]
fn slow_bodies_leave_the_workers_to_others() {
    const SLOW: usize = 12;
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {workers: 4, io_timeout_secs: 60}", [&a]);
    let over = Arc::<AtomicBool>::default();
    let mut slow: Vec<Client> = (0..SLOW)
        .map(|_| Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), proxy.address()))
        .collect();
    for client in &mut slow {
        client
            .send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 100000\r\n\r\n");
    }
    let told = Arc::clone(&over);
    let pump = spawn("slow", move || {
        while !told.load(Ordering::Relaxed) {
            for client in &mut slow {
                client.send_as_far_as_possible("x");
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        slow
    });
    wait_until(|| proxy.counts().busy + proxy.counts().long >= 4);
    for _ in 0..10 {
        proxy.client().send(GET).expect_status(200).expect_body("a");
    }
    over.store(true, Ordering::Relaxed);
    drop(pump.join().expect("no panic"));
    proxy.expect_deserted();
}

/// What already waits to be accepted is served, but nobody can keep the door open by knocking.
#[test]
fn clients_that_keep_coming_do_not_keep_a_stop_from_beginning() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    let over = Arc::<AtomicBool>::default();
    let knocking: Vec<_> = (0..2)
        .map(|_| {
            let (told, address) = (Arc::clone(&over), proxy.address());
            spawn("knocks", move || {
                let limit = Duration::from_secs(1);
                while !told.load(Ordering::Relaxed)
                    && std::net::TcpStream::connect_timeout(&address, limit).is_ok()
                {
                }
            })
        })
        .collect();
    wait_until(|| proxy.server().context().metrics.accepted.value() > 100);
    drop(proxy); // Drains and joins.
    over.store(true, Ordering::Relaxed);
    for thread in knocking {
        thread.join().expect("no panic");
    }
}
