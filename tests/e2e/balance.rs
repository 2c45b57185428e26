//! Who gets the next request (contract: shares by weight, the lowest score, the lowest priority).

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use super::harness::{Client, Hop, Proxy, Talk, Upstream, wait_until};

const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";

#[test]
fn six_hundred_requests_are_shared_by_weight_to_the_last_one() {
    let (a, b, c) = three();
    let proxy = Proxy::over([
        a.with("weight: 1"),
        b.with("weight: 2"),
        c.with("weight: 3"),
    ]);
    let names = answers(&mut proxy.client(), 600);
    let counts = ["a", "b", "c"].map(|name| names.iter().filter(|n| *n == name).count());
    assert_eq!(counts, [100, 200, 300]);
    let arrived = [&a, &b, &c].map(|upstream| upstream.requests().len());
    assert_eq!(arrived, [100, 200, 300]);
}

#[test]
fn the_heavy_upstream_is_not_served_in_one_go() {
    let (a, b, c) = three();
    let proxy = Proxy::over([
        a.with("weight: 1"),
        b.with("weight: 2"),
        c.with("weight: 3"),
    ]);
    let names = answers(&mut proxy.client(), 60).concat();
    assert!(!names.contains("ccc"), "{names}");
    for cycle in names.as_bytes().chunks(6) {
        let of = |name: u8| cycle.split(|&n| n == name).count() - 1;
        assert_eq!([of(b'a'), of(b'b'), of(b'c')], [1, 2, 3], "{names}");
    }
}

#[test]
fn shares_hold_for_the_others_when_one_is_offline() {
    let (a, b, c) = three();
    let proxy = Proxy::over([
        a.with("weight: 1"),
        b.with("weight: 2"),
        c.with("weight: 3"),
    ]);
    b.kill();
    let mut client = proxy.client();
    // Two of the first six picks are at b, so it is seen offline within them.
    answers(&mut client, 6);
    assert!(!proxy.upstream("b").online);
    let names = answers(&mut client, 40);
    let counts = ["a", "b", "c"].map(|name| names.iter().filter(|n| *n == name).count());
    assert_eq!(counts, [10, 0, 30]);
}

/// D5c: weights were expanded into a list, one entry per unit; 0 meant 1.
#[test]
fn a_huge_weight_costs_nothing_and_none_gets_nothing() {
    let (a, b, c) = three();
    let proxy = Proxy::over([
        a.with("weight: 4294967295"),
        b.with("weight: 4294967295"),
        c.with("weight: 0"),
    ]);
    let names = answers(&mut proxy.client(), 20);
    let counts = ["a", "b", "c"].map(|name| names.iter().filter(|n| *n == name).count());
    assert_eq!(counts, [10, 10, 0]);
    c.expect_untouched();
}

#[test]
fn priority_uses_the_lowest_value_and_shares_among_equals() {
    let (a, b, c) = three();
    let proxy = Proxy::with_yaml(
        "mode: priority",
        [
            a.with("priority: 20"),
            b.with("{priority: 10, weight: 1}"),
            c.with("{priority: 10, weight: 3}"),
        ],
    );
    let names = answers(&mut proxy.client(), 40);
    let counts = ["a", "b", "c"].map(|name| names.iter().filter(|n| *n == name).count());
    assert_eq!(counts, [0, 10, 30]);
    a.expect_untouched();
}

#[test]
fn priority_falls_back_and_returns() {
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    assert_eq!(answers(&mut client, 3).concat(), "aaa");
    a.kill();
    assert_eq!(answers(&mut client, 3).concat(), "bbb");
    a.revive();
    wait_until(|| proxy.upstream("a").online);
    assert_eq!(answers(&mut client, 3).concat(), "aaa");
}

#[test]
fn best_prefers_the_one_that_answers_sooner() {
    let slow = Upstream::answering("slow", |hop, _| {
        thread::park_timeout(Duration::from_millis(150));
        hop.send_ok("slow");
    });
    let fast = Upstream::echo_ok("fast");
    let proxy = Proxy::with_yaml("mode: best", [&slow, &fast]);
    let mut client = proxy.client();
    let mut first = answers(&mut client, 2);
    first.sort();
    assert_eq!(first, ["fast", "slow"], "one never measured counts 0");
    let names = answers(&mut client, 20);
    assert!(names.iter().all(|name| name == "fast"), "{names:?}");
}

/// D3e: what had not been answered did not count, and all went to the same upstream.
#[test]
fn best_counts_what_is_under_way_from_the_moment_it_is_picked() {
    let upstreams = ["a", "b", "c"].map(Upstream::by_hand);
    let proxy = Proxy::with_yaml("mode: best", &upstreams);
    let pending: Vec<Client> = (0..6)
        .map(|_| {
            let mut client = proxy.client();
            let before = active(&proxy);
            client.send(CONNECT);
            wait_until(|| active(&proxy) == before + 1);
            client
        })
        .collect();
    for upstream in &upstreams {
        assert_eq!(proxy.upstream(upstream.name()).active, 2);
    }
    drop(pending);
    proxy.expect_deserted();
}

/// D3e: ties went by position, six of six requests to the first.
#[test]
fn ties_rotate() {
    let failing = |hop: &mut Hop, _: &_| {
        hop.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    };
    let upstreams = ["a", "b", "c"].map(|name| Upstream::answering(name, failing));
    let proxy = Proxy::with_yaml("mode: best", &upstreams);
    let mut client = proxy.client();
    for _ in 0..6 {
        // Each fails as fast as the others.
        client.get("http://o.test/").expect_status(500);
    }
    let counts = upstreams
        .each_ref()
        .map(|upstream| upstream.requests().len());
    assert_eq!(counts, [2, 2, 2]);
}

/// D3d: a big download looked like a slow upstream.
#[test]
fn latency_ends_with_the_first_byte_of_the_response() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    client.expect_head(200);
    let latency = proxy.upstream("a").latency;
    assert!(latency.is_some());
    thread::park_timeout(Duration::from_millis(50));
    hop.send("hello");
    client.expect_bytes("hello");
    proxy.expect_at_rest();
    assert_eq!(proxy.upstream("a").latency, latency);
}

/// D3d: the time before the request body was sent was not counted.
#[test]
fn latency_begins_with_the_attempt() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\n");
    let mut hop = upstream.accept();
    hop.read_head();
    thread::park_timeout(Duration::from_millis(120));
    client.send("hi");
    hop.expect_bytes("hi").send_ok("done");
    client.expect_status(200);
    let latency = proxy.upstream("a").latency.expect("a sample");
    assert!(latency >= Duration::from_millis(100), "{latency:?}");
}

#[test]
fn latency_is_finer_than_a_millisecond() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    // Not every one of these is a whole number of milliseconds.
    wait_until(|| {
        client.get("http://o.test/").expect_status(200);
        let latency = proxy.upstream("a").latency.expect("a sample");
        !latency.as_micros().is_multiple_of(1000)
    });
}

#[test]
fn a_failed_attempt_is_a_sample_of_the_time_it_took() {
    let upstream = Upstream::answering("a", |hop, _| {
        thread::park_timeout(Duration::from_millis(60));
        hop.close_then();
    });
    let proxy = Proxy::over([&upstream]);
    proxy.client().get("http://o.test/").expect_refusal(502);
    let latency = proxy.upstream("a").latency.expect("a sample");
    assert!(latency >= Duration::from_millis(50), "{latency:?}");
}

#[test]
fn an_exchange_is_active_until_the_end_of_its_body() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    assert_eq!(proxy.upstream("a").active, 1);
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
    client.expect_head(200);
    assert_eq!(proxy.upstream("a").active, 1);
    hop.send("llo");
    client.expect_bytes("hello");
    wait_until(|| proxy.upstream("a").active == 0);
}

#[test]
fn concurrent_clients_share_by_weight_too() {
    let (a, b, c) = three();
    let proxy = Proxy::over([
        a.with("weight: 1"),
        b.with("weight: 2"),
        c.with("weight: 3"),
    ]);
    let counts = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| proxy.client())
            .map(|mut client| scope.spawn(move || answers(&mut client, 60)))
            .collect();
        let mut counts = HashMap::<String, usize>::new();
        for name in clients
            .into_iter()
            .flat_map(|c| c.join().expect("a client"))
        {
            *counts.entry(name).or_default() += 1;
        }
        ["a", "b", "c"].map(|name| counts[name])
    });
    assert_eq!(counts, [40, 80, 120]);
    proxy.expect_deserted();
}

fn three() -> (Upstream, Upstream, Upstream) {
    (
        Upstream::echo_ok("a"),
        Upstream::echo_ok("b"),
        Upstream::echo_ok("c"),
    )
}

/// The bodies of so many answers, one after the other.
#[track_caller]
fn answers(client: &mut Client, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| {
            client.get("http://o.test/").expect_status(200);
            client.message().text()
        })
        .collect()
}

fn active(proxy: &Proxy) -> u64 {
    proxy.server().upstreams().iter().map(|u| u.active).sum()
}
