//! What the relay is made of while it works: threads, connections, leases. Nothing may use up the
//! workers, and nothing may stay counted once it is over.

use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::harness::{Client, Hop, ProbeAnswer, Proxy, Talk, Upstream, latin1, spawn, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";
const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";

#[test]
fn idle_connections_and_half_sent_heads_hold_no_thread() {
    const IDLE: usize = 2000;
    const HALVES: usize = 200;
    /// Workers that a burst of requests has left behind for a while; no matter how many are held.
    const MORE: usize = 128;
    let a = Upstream::echo_ok("a");
    let extra = "limits: {header_timeout_secs: 60, idle_timeout_secs: 60, max_connections: 0}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    let mut idle: Vec<Client> = (0..IDLE).map(|_| proxy.client()).collect();
    for client in &mut idle {
        client.send(GET).expect_status(200);
    }
    let mut halves: Vec<Client> = (0..HALVES).map(|_| proxy.client()).collect();
    for (sent, client) in halves.iter_mut().enumerate() {
        client.send(&GET.as_bytes()[..30]);
        if sent % 8 == 7 {
            // Not all at once: that would want many workers for a moment.
            wait_until(|| proxy.counts().busy == 0 && proxy.counts().queue == 0);
        }
    }
    wait_until(|| proxy.counts().parked == IDLE + HALVES && proxy.counts().busy == 0);
    let counts = proxy.counts();
    assert_eq!(counts.connections, IDLE + HALVES);
    assert!(counts.workers <= counts.busy + MORE, "{counts:?}");
    assert_eq!(counts.long, 0);
    proxy.client().send(GET).expect_status(200);
    // All of them still are what they were.
    for client in idle.iter_mut().step_by(97) {
        client.send(GET).expect_status(200);
    }
    for client in halves.iter_mut().step_by(13) {
        client.send(&GET.as_bytes()[30..]).expect_status(200);
    }
    let counts = proxy.counts();
    assert!(counts.workers <= counts.busy + MORE, "{counts:?}");
    drop((idle, halves));
    proxy.expect_deserted();
}

#[test]
fn endless_streams_and_stalled_readers_do_not_use_up_the_workers() {
    const STREAMS: usize = 300;
    const STALLED: usize = 100;
    let a = Upstream::by_hand("a");
    let b = Upstream::echo_ok("b");
    // Fewer workers than there are streams. The other upstream comes later: who is slow to accept so many
    // connections at once is raced.
    let extra = "mode: priority\n\
        limits: {workers: 200, io_timeout_secs: 60, response_timeout_secs: 60}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    let mut clients: Vec<Client> = (0..STREAMS).map(|_| proxy.client()).collect();
    clients.extend((0..STALLED).map(|_| Client::connect_narrow(proxy.address())));
    for (number, client) in clients.iter_mut().enumerate() {
        client.get(&format!("http://o.test/{number}"));
    }
    // More than there are workers: the first are let go on so that the others come in.
    let mut hops = Vec::new();
    while hops.len() < clients.len() {
        let (mut hop, request) = a.accept_and_read_request();
        hop.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        let number = request.target().rsplit('/').next().unwrap_or_default();
        hops.push((number.parse::<usize>().expect("a number"), hop));
    }
    hops.sort_by_key(|(number, _)| *number);
    let mut hops: Vec<Hop> = hops.into_iter().map(|(_, hop)| hop).collect();
    for client in &mut clients {
        client.expect_head(200).expect_bytes("5\r\nhello\r\n");
    }
    let stalled = hops.split_off(STREAMS);
    let pump = Pump::start(stalled.iter().map(Hop::stream).collect());
    wait_until(|| pump.is_stuck());
    // A normal request, of the same client and of another, is answered by the other upstream.
    proxy.reload(extra, [a.with("priority: 2"), b.with("priority: 1")]);
    for _ in 0..20 {
        proxy.client().send(GET).expect_status(200).expect_body("b");
        let other = Ipv4Addr::new(127, 0, 0, 2);
        let mut other = Client::connect_from(other, proxy.address());
        other.send(GET).expect_status(200).expect_body("b");
    }
    // And the streams are alive.
    for (client, hop) in clients.iter_mut().zip(&mut hops).step_by(29) {
        hop.send("3\r\nhey\r\n");
        client.expect_bytes("3\r\nhey\r\n");
    }
    drop(pump);
    drop((clients, hops, stalled));
    proxy.expect_deserted();
}

/// Writes chunks to all of them as long as anybody takes any.
pub(super) struct Pump {
    stuck: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Pump {
    pub(super) fn start(streams: Vec<Arc<TcpStream>>) -> Self {
        let (stuck, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (is_stuck, is_over) = (Arc::clone(&stuck), Arc::clone(&over));
        drop(spawn("pump", move || {
            let block = [b"10000\r\n".as_slice(), &vec![b'x'; 0x10000], b"\r\n"].concat();
            for stream in &streams {
                stream
                    .set_nonblocking(true)
                    .expect("a stream that does not block");
            }
            while !is_over.load(Ordering::Relaxed) {
                // The framing does not matter once a block was cut: nobody reads on.
                let moved = streams
                    .iter()
                    .filter(|stream| took_some(stream, &block))
                    .count();
                is_stuck.store(moved == 0, Ordering::Relaxed);
                thread::park_timeout(Duration::from_millis(10));
            }
        }));
        Self { stuck, over }
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn took_some(mut stream: &TcpStream, block: &[u8]) -> bool {
    match stream.write(block) {
        Ok(count) if count == block.len() => true,
        // Only whole blocks are chunks; the rest of this one follows until it is through.
        Ok(count) => {
            let mut rest = &block[count..];
            while let Ok(count) = stream.write(rest) {
                rest = &rest[count..];
                if rest.is_empty() {
                    break;
                }
            }
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            false
        }
    }
}

type Ending = fn(&Proxy, &Upstream);

/// However an exchange or a tunnel ends, nothing stays counted.
#[test]
fn counts_return_to_zero_after_every_kind_of_ending() {
    let a = Upstream::by_hand("a");
    let extra = "limits: {response_timeout_secs: 1.5, upstream_idle_secs: 0}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    let endings = by_itself().into_iter().chain(by_the_client());
    for (what, end) in endings.chain(by_the_upstream()).chain(of_tunnels()) {
        wait_until(|| proxy.upstream("a").online);
        end(&proxy, &a);
        proxy.expect_deserted();
        // A client that left at once may not even have been taken in yet.
        proxy.note(&format!("nothing may be left after {what}"));
        wait_until(|| {
            let counts = proxy.counts();
            let served = counts.busy + counts.tunnels + counts.queue;
            let left = counts.connections + counts.parked + served;
            left == 0 && proxy.upstream("a").active == 0
        });
    }
}

fn by_itself() -> [(&'static str, Ending); 3] {
    [
        ("an answer", |proxy, a| {
            let (mut client, mut hop) = asked(proxy, a, GET);
            hop.send_ok("done");
            client.expect_status(200);
        }),
        ("a request after another", |proxy, a| {
            let (mut client, mut hop) = asked(proxy, a, GET);
            hop.send_ok("done");
            client.expect_status(200).send(POST);
            let (mut hop, _) = a.accept_and_read_request();
            hop.send_ok("done");
            client.expect_status(200);
        }),
        ("a refusal", |proxy, _| {
            proxy.client().get("/").expect_refusal(400);
        }),
    ]
}

fn by_the_client() -> [(&'static str, Ending); 5] {
    [
        ("a client that leaves before its head", |proxy, _| {
            proxy.client().reset();
        }),
        ("a client that leaves in its head", |proxy, _| {
            let mut client = proxy.client();
            client.send(&GET.as_bytes()[..20]);
            client.close();
        }),
        ("a client that leaves in its body", |proxy, a| {
            let mut client = proxy.client();
            client.send(&POST.as_bytes()[..POST.len() - 1]);
            let mut hop = a.accept();
            hop.read_head();
            client.reset();
            hop.socket().read_to_end();
        }),
        ("a client that leaves while it waits", |proxy, a| {
            let (client, mut hop) = asked(proxy, a, GET);
            client.reset();
            hop.expect_gone();
        }),
        ("a client that leaves in the response", |proxy, a| {
            let (mut client, mut hop) = asked(proxy, a, GET);
            hop.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
            client.expect_head(200);
            client.reset();
            hop.expect_gone();
        }),
    ]
}

fn by_the_upstream() -> [(&'static str, Ending); 3] {
    [
        ("an upstream that closes", |proxy, a| {
            let (mut client, hop) = asked(proxy, a, POST);
            hop.close();
            client.expect_refusal(502);
        }),
        ("an upstream that resets in its response", |proxy, a| {
            let (mut client, mut hop) = asked(proxy, a, GET);
            hop.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
            client.expect_head(200).expect_bytes("he");
            hop.reset();
            client.expect_gone();
        }),
        ("an answer that does not come", |proxy, a| {
            let (mut client, _hop) = asked(proxy, a, GET);
            client.expect_refusal(504);
        }),
    ]
}

fn of_tunnels() -> [(&'static str, Ending); 5] {
    [
        ("a tunnel", |proxy, a| {
            let (mut client, mut hop) = tunnel(proxy, a);
            client.half_close();
            hop.expect_closed().half_close();
            client.expect_closed();
        }),
        ("a client that resets its tunnel", |proxy, a| {
            let (client, mut hop) = tunnel(proxy, a);
            client.reset();
            hop.expect_gone();
        }),
        ("an upstream that resets a tunnel", |proxy, a| {
            let (mut client, hop) = tunnel(proxy, a);
            hop.reset();
            client.expect_gone();
        }),
        ("a refused tunnel", |proxy, a| {
            let (mut client, mut hop) = asked(proxy, a, CONNECT);
            hop.send("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
            client.expect_status(403);
        }),
        ("a client that leaves before its tunnel", |proxy, a| {
            let (client, mut hop) = asked(proxy, a, CONNECT);
            client.reset();
            hop.expect_gone();
        }),
    ]
}

#[track_caller]
fn asked(proxy: &Proxy, upstream: &Upstream, request: &str) -> (Client, Hop) {
    let mut client = proxy.client();
    client.send(request);
    let (hop, _) = upstream.accept_and_read_request();
    (client, hop)
}

#[track_caller]
fn tunnel(proxy: &Proxy, upstream: &Upstream) -> (Client, Hop) {
    let (mut client, mut hop) = asked(proxy, upstream, CONNECT);
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel().send("ping");
    hop.expect_bytes("ping");
    (client, hop)
}

/// A log that panics when a worker tells that the upstream of this name went offline: a defect
/// somewhere below an exchange, made to order.
struct PanickingLog;

const CURSED: &str = "cursed-upstream";

impl log::Log for PanickingLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let in_worker = thread::current().name() == Some("worker");
        let line = record.args().to_string();
        assert!(
            !(in_worker && line.starts_with(&format!("upstream {CURSED}"))),
            "as the test wants it: {line}"
        );
    }

    fn flush(&self) {}
}

#[test]
fn a_panic_costs_one_connection_and_leaves_nothing_counted() {
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        log::set_logger(&PanickingLog).expect("the only log of these tests");
        log::set_max_level(log::LevelFilter::Debug);
    });
    let a = Upstream::by_hand(CURSED);
    a.answer_probes(ProbeAnswer::Good);
    let b = Upstream::echo_ok("b");
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    proxy.will_panic(3);
    for panics in 1..=3 {
        wait_until(|| proxy.upstream(CURSED).online);
        let (mut client, hop) = asked(&proxy, &a, POST);
        let mut bystander = proxy.client();
        hop.close();
        client.socket().read_to_end();
        assert_eq!(latin1(client.socket().pending()), "", "no half an answer");
        wait_until(|| proxy.counts().panics == panics);
        wait_until(|| proxy.counts().connections == 1);
        assert_eq!(proxy.upstream(CURSED).active, 0);
        proxy.expect_nobody_suspected();
        bystander.send(GET);
        let (mut hop, _) = a.accept_and_read_request();
        hop.send_ok("served");
        bystander.expect_status(200).expect_body("served");
        drop(bystander);
        drop(client);
        proxy.expect_deserted();
    }
}

#[test]
fn a_worker_that_has_nothing_to_do_is_used_before_another_is_started() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    for _ in 0..50 {
        proxy.client().send(GET).expect_status(200);
        wait_until(|| proxy.counts().busy == 0);
    }
    // One that serves and one that watches meanwhile, and some more where the machine is so busy that
    // neither comes to it for a while.
    assert!(proxy.counts().workers <= 4, "{:?}", proxy.counts());
}

#[test]
fn requests_that_wait_for_their_upstream_need_no_thread() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut asked = Vec::new();
    for text in [GET, POST].repeat(30) {
        let mut client = proxy.client();
        client.send(text);
        asked.push((client, a.accept_and_read_request().0));
    }
    wait_until(|| proxy.counts().busy == asked.len());
    let threads = proxy.counts().workers;
    assert!(threads < asked.len() / 2, "{threads} threads");
    for (client, hop) in &mut asked {
        hop.send_ok("done");
        client.expect_status(200);
    }
}

#[test]
fn requests_that_wait_for_an_upstream_count_as_workers() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {workers: 3, queue: 1}", [&a]);
    let asked: Vec<_> = (0..3)
        .map(|_| {
            let mut client = proxy.client();
            client.send(GET);
            (client, a.accept_and_read_request().0)
        })
        .collect();
    let mut waits = proxy.client();
    waits.send(GET);
    wait_until(|| proxy.counts().queue == 1);
    proxy.client().send(GET).expect_refusal(503);
    for (mut client, mut hop) in asked {
        hop.send_ok("done");
        client.expect_status(200);
    }
    a.accept_and_read_request().0.send_ok("done");
    waits.expect_status(200);
}

#[test]
fn never_more_workers_are_started_than_the_file_says() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {workers: 3, queue: 100}", [&a]);
    let mut clients: Vec<Client> = (0..12).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    let mut served = 0;
    while served < clients.len() {
        let (mut hop, _) = a.accept_and_read_request();
        assert!(proxy.counts().workers <= 3, "{:?}", proxy.counts());
        hop.send_ok("done");
        served += 1;
    }
    for client in &mut clients {
        client.expect_status(200);
    }
}
