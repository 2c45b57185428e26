//! The whole process stands still (stopped, its container paused, its machine suspended) and goes on: what
//! came meanwhile is read before anybody is judged by the clock.
//!
//! The standstill is longer than every limit in the file. It is what is tested, and nobody waits for it
//! in order to synchronise.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::harness::{Client, Hop, Member, Talk, Upstream, spawn, wait_until};
use super::process::Process;

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";

/// Longer than every limit of [`LIMITS`].
const STANDSTILL: Duration = Duration::from_millis(2500);
/// Long enough for what happens before the standstill.
const LIMITS: &str = "limits: {idle_timeout_secs: 2, header_timeout_secs: 2, response_timeout_secs: 2, \
                      io_timeout_secs: 2, tunnel_idle_timeout_secs: 2, queue_timeout_secs: 2, \
                      connect_timeout_secs: 2}";

/// Lets `process` stand still for longer than all limits; `meanwhile` is what its peers do.
fn stand_still(process: &Process, meanwhile: impl FnOnce()) {
    process.stop();
    let begun = Instant::now();
    meanwhile();
    wait_until(|| begun.elapsed() >= STANDSTILL);
    process.go_on();
}

/// As many tunnels, from the clients to the hops.
fn tunnels(process: &Process, upstream: &Upstream, count: usize) -> Vec<(Client, Hop)> {
    let open = |_| {
        let mut client = process.client();
        client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n");
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send("HTTP/1.1 200 OK\r\n\r\n");
        client.expect_tunnel();
        (client, hop)
    };
    (0..count).map(open).collect()
}

#[test]
fn tunnels_with_bytes_to_carry_are_alive_and_carry_them_both_ways() {
    let a = Upstream::by_hand("a");
    let process = Process::start(LIMITS, [&a]);
    let mut tunnels = tunnels(&process, &a, 20);
    stand_still(&process, || {
        for (number, (client, hop)) in tunnels.iter_mut().enumerate() {
            // One way is enough to show that a tunnel is alive.
            if number % 3 != 0 {
                client.send("up");
            }
            if number % 3 != 1 {
                hop.send("down");
            }
        }
    });
    for (number, (client, hop)) in tunnels.iter_mut().enumerate() {
        if number % 3 != 0 {
            hop.expect_bytes("up");
        }
        if number % 3 != 1 {
            client.expect_bytes("down");
        }
    }
}

/// More than the system tells of at once.
#[test]
fn hundreds_of_tunnels_are_all_served_before_one_is_judged() {
    let a = Upstream::by_hand("a");
    let process = Process::start(LIMITS, [&a]);
    let mut tunnels = tunnels(&process, &a, 300);
    stand_still(&process, || {
        for (client, _) in &mut tunnels {
            client.send("up");
        }
    });
    for (client, hop) in &mut tunnels {
        hop.expect_bytes("up").send("down");
        client.expect_bytes("down");
    }
}

#[test]
fn a_tunnel_that_is_silent_is_still_closed() {
    let a = Upstream::by_hand("a");
    let process = Process::start(LIMITS, [&a]);
    let mut tunnels = tunnels(&process, &a, 1);
    stand_still(&process, || {});
    for (client, hop) in &mut tunnels {
        client.expect_closed();
        hop.expect_closed();
    }
}

#[test]
fn clients_that_have_sent_their_requests_are_answered() {
    let a = Upstream::echo_ok("a");
    let process = Process::start(LIMITS, [&a]);
    let (head, rest) = GET.split_at(20);
    let mut halves: Vec<Client> = (0..10).map(|_| process.client()).collect();
    let mut idle: Vec<Client> = (0..10).map(|_| process.client()).collect();
    for client in &mut halves {
        client.send(head);
    }
    for client in &mut idle {
        client.send(GET).expect_status(200);
    }
    stand_still(&process, || {
        for client in &mut halves {
            client.send(rest);
        }
        for client in &mut idle {
            client.send(GET);
        }
    });
    for client in halves.iter_mut().chain(&mut idle) {
        client.expect_status(200);
    }
}

#[test]
fn clients_that_have_sent_nothing_are_still_told() {
    let a = Upstream::echo_ok("a");
    let process = Process::start(LIMITS, [&a]);
    let (mut half, mut idle) = (process.client(), process.client());
    half.send("GET ");
    idle.send(GET).expect_status(200);
    stand_still(&process, || {});
    half.expect_refusal_and_close(408);
    idle.expect_closed();
}

#[test]
fn a_request_whose_answer_has_come_is_answered() {
    let a = Upstream::by_hand("a");
    let process = Process::start(LIMITS, [&a]);
    let mut waiting: Vec<(Client, Hop)> = (0..10)
        .map(|_| {
            let mut client = process.client();
            client.send(GET);
            (client, a.accept_and_read_request().0)
        })
        .collect();
    stand_still(&process, || {
        for (_, hop) in &mut waiting {
            hop.send_ok("late");
        }
    });
    for (client, _) in &mut waiting {
        client.expect_status(200).expect_body("late");
    }
}

#[test]
fn bodies_that_move_are_completed() {
    let a = Upstream::by_hand("a");
    let process = Process::start(LIMITS, [&a]);
    let (mut uploads, mut downloads) = (process.client(), process.client());
    uploads.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 10\r\n\r\nfirst");
    let mut takes = a.accept();
    takes.read_head();
    takes.expect_bytes("first");
    downloads.send(GET);
    let (mut gives, _) = a.accept_and_read_request();
    gives.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
    downloads.expect_head(200).expect_bytes("first");
    stand_still(&process, || {
        uploads.send("-last");
        gives.send("-last");
    });
    takes.expect_bytes("-last").send_ok("taken");
    uploads.expect_status(200).expect_body("taken");
    downloads.expect_bytes("-last");
}

#[test]
fn requests_that_waited_for_a_worker_are_not_refused_for_it() {
    let a = Upstream::by_hand("a");
    let limits = "limits: {workers: 1, queue: 100, queue_timeout_secs: 1.5}";
    let process = Process::start(limits, [&a]);
    // It lasts a second before others get a worker of their own.
    let mut works = process.client();
    works.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\n1");
    let mut takes = a.accept();
    takes.read_head();
    takes.expect_bytes("1");
    let before = process.descriptors();
    let mut waiting: Vec<Client> = (0..10)
        .map(|_| {
            let mut client = process.client();
            client.send(GET);
            client
        })
        .collect();
    // All are taken in.
    wait_until(|| process.descriptors() >= before + waiting.len());
    stand_still(&process, || {
        works.send("2");
    });
    let served = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    takes.expect_bytes("2").send(served);
    works.expect_status(200);
    for _ in &waiting {
        a.accept_and_read_request().0.send(served);
    }
    for client in &mut waiting {
        client.expect_status(200);
    }
}

/// More than the system tells of at once.
#[test]
fn a_crowd_is_looked_at_before_one_of_it_is_judged() {
    http_proxy_lb::net::socket::raise_file_limit();
    let a = Upstream::echo_ok("a");
    let process = Process::start(LIMITS, [&a]);
    let (head, rest) = GET.split_at(20);
    let mut halves: Vec<Client> = (0..1500).map(|_| process.client()).collect();
    for client in &mut halves {
        client.send(head);
    }
    stand_still(&process, || {
        for client in &mut halves {
            client.send(rest);
        }
    });
    for client in &mut halves {
        client.expect_status(200);
    }
}

/// An upstream that answers a probe only once it is told to; a probe is a GET for it like any other.
struct Hesitant {
    address: SocketAddr,
    answers: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Hesitant {
    fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (answers, asked) = (
            Arc::new(AtomicBool::new(true)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (may_answer, count) = (Arc::clone(&answers), Arc::clone(&asked));
        drop(spawn("hesitant", move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else {
                    return;
                };
                let (may_answer, count) = (Arc::clone(&may_answer), Arc::clone(&count));
                drop(spawn("hesitant", move || {
                    let mut head = [0; 4096];
                    if !matches!(stream.read(&mut head), Ok(1..)) {
                        return;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    wait_until(|| may_answer.load(Ordering::Relaxed));
                    // Nobody may be there any more.
                    drop(stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"));
                }));
            }
        }));
        Self {
            address,
            answers,
            asked,
        }
    }
}

#[test]
fn nobody_goes_offline_by_a_probe_under_way() {
    let upstreams = [(); 3].map(|()| Hesitant::new());
    let members = ["a", "b", "c"].iter().zip(&upstreams);
    let members = members.map(|(name, upstream)| Member::at(name, upstream.address));
    let extra = "health_check: {timeout_secs: 4, online_interval_secs: 0.2}";
    let process = Process::start(extra, members);
    let asked = |more: usize| {
        let count = |upstream: &Hesitant| upstream.asked.load(Ordering::Relaxed);
        let before = upstreams.each_ref().map(count);
        for (upstream, before) in upstreams.iter().zip(before) {
            wait_until(|| count(upstream) >= before + more);
        }
    };
    asked(1);
    for upstream in &upstreams {
        upstream.answers.store(false, Ordering::Relaxed);
    }
    // Whoever is asked now has not answered when everything stops.
    asked(1);
    stand_still(&process, || {
        for upstream in &upstreams {
            upstream.answers.store(true, Ordering::Relaxed);
        }
    });
    asked(3);
    assert!(!process.has_logged("offline"));
}
