//! Crowds: clients that are idle, slow, or never done must not cost a thread each, and must not
//! keep others from being served.

use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{PATIENCE, allow_many_descriptors, note, wait_until};
use crate::origin::Origin;
use crate::relay::{Relay, Settings};
use crate::stage::SetAtTheEnd;
use crate::wire::{Client, host};

/// Far more than an answer from loopback takes, far less than anybody waits.
const AT_ONCE: Duration = Duration::from_secs(2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A new client, from two addresses, gets its answer at once.
fn expect_answer(relay: &Relay, origin: &Origin) {
    for source in [NEIGHBOUR, Ipv4Addr::LOCALHOST] {
        let mut client = Client::connect_from(source, relay.port());
        client.wait_at_most(AT_ONCE);
        let answer = client.get(&origin.url("/ok"));
        let (status, body) = answer.unwrap_or_else(|error| panic!("from {source}: {error}"));
        assert_eq!(
            (status, body.as_slice()),
            (200, b"ok\n".as_slice()),
            "from {source}"
        );
    }
}

#[test]
#[ignore = "holds thousands of connections; needs no package"]
fn idle_and_half_sent_clients_cost_no_threads() {
    allow_many_descriptors();
    let origin = Origin::start();
    let limits = "limits: {header_timeout_secs: 300, idle_timeout_secs: 300}";
    let relay = Relay::start(&Settings::direct().line(limits));
    let mut idle: Vec<Client> = (0..2000).map(|_| Client::connect(relay.port())).collect();
    for client in &mut idle {
        assert_eq!(client.get(&origin.url("/ok")).expect("an answer").0, 200);
    }
    let mut half: Vec<Client> = (0..200).map(|_| Client::connect(relay.port())).collect();
    for client in &mut half {
        let begun = format!("GET {} HTTP/1.1\r\nHo", origin.url("/ok"));
        client.send(&begun).expect("sent");
    }
    expect_answer(&relay, &origin);
    let mut threads = 0;
    wait_until(PATIENCE, "at most 40 threads", || {
        threads = relay.server.program.status_number("Threads");
        threads <= 40
    });
    let memory = relay.server.program.status_number("VmRSS");
    note(&format!(
        "2000 idle and 200 half-sent: {threads} threads, {memory} KiB resident"
    ));
    expect_answer(&relay, &origin);
    for client in idle.iter_mut().step_by(50) {
        assert_eq!(
            client.get(&origin.url("/ok")).expect("still connected").0,
            200
        );
    }
    let rest = format!("st: {}\r\n\r\n", host(&origin.url("/ok")));
    for client in half.iter_mut().step_by(20) {
        client.send(&rest).expect("still connected");
        assert_eq!(client.head().expect("an answer").status(), 200);
    }
}

#[test]
#[ignore = "holds hundreds of streams for a minute; needs no package"]
fn endless_streams_and_stalled_readers_do_not_stop_others() {
    allow_many_descriptors();
    let origin = Origin::start();
    let relay = Relay::start(&Settings::direct());
    let (held, stop, refused) = (
        AtomicUsize::new(0),
        AtomicBool::new(false),
        AtomicUsize::new(0),
    );
    thread::scope(|scope| {
        let _stop = SetAtTheEnd(&stop);
        for number in 0..400_usize {
            let path = if number < 300 {
                "/endless"
            } else {
                "/pattern/4000000000"
            };
            let (url, relay, held, stop, refused) =
                (origin.url(path), &relay, &held, &stop, &refused);
            scope.spawn(move || hold(relay, &url, held, refused, stop));
        }
        wait_until(PATIENCE, "streams begin", || {
            held.load(Ordering::Relaxed) >= 50
        });
        note_wait(&relay, &origin, "while the streams were still coming");
        wait_until(PATIENCE * 6, "all streams are open", || {
            held.load(Ordering::Relaxed) == 400
        });
        expect_answer(&relay, &origin);
        let threads = relay.server.program.status_number("Threads");
        let refused = refused.load(Ordering::Relaxed);
        note(&format!(
            "300 streams, 100 stalled: {threads} threads, {refused} asked again"
        ));
        for _ in 0..20 {
            expect_answer(&relay, &origin);
        }
    });
}

/// Another client's request at the busiest moment: it may wait, but it is answered.
fn note_wait(relay: &Relay, origin: &Origin, when: &str) {
    let start = Instant::now();
    let mut client = Client::connect_from(NEIGHBOUR, relay.port());
    let (status, _) = client.get(&origin.url("/ok")).expect("an answer");
    note(&format!(
        "{when} another client waited {:?} for its {status}",
        start.elapsed()
    ));
}

/// Opens one stream, asking again while the relay is too busy, and holds it.
fn hold(relay: &Relay, url: &str, held: &AtomicUsize, refused: &AtomicUsize, stop: &AtomicBool) {
    let mut client = loop {
        let mut client = Client::connect(relay.port());
        client
            .send(&format!(
                "GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n",
                host(url)
            ))
            .expect("sent");
        match client.head().map(|head| head.status()) {
            Ok(200) => break client,
            Ok(503) if !stop.load(Ordering::Relaxed) => refused.fetch_add(1, Ordering::Relaxed),
            other if stop.load(Ordering::Relaxed) => return drop(other),
            other => panic!("{url}: {other:?}"),
        };
    };
    held.fetch_add(1, Ordering::Relaxed);
    let stalled = !url.ends_with("/endless");
    client.wait_at_most(Duration::from_millis(500));
    while !stop.load(Ordering::Relaxed) {
        if stalled {
            thread::park_timeout(Duration::from_millis(500));
        } else if matches!(client.stream().read(&mut [0; 4096]), Ok(0)) {
            panic!("an endless stream ended");
        }
    }
}
