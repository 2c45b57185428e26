//! Idle connections to upstreams: who gets one, and who must not. What a client notices of reuse
//! is in `persistence`.

use std::thread;
use std::time::{Duration, Instant};

use super::harness::{Client, Hop, Proxy, Talk, Upstream, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn clients_share_idle_connections() {
    let a = keeping("a");
    let proxy = Proxy::over([&a]);
    for _ in 0..10 {
        proxy.client().send(GET).expect_status(200);
        proxy.expect_at_rest();
    }
    assert_eq!(a.connections(), 1);
}

#[test]
fn two_requests_at_once_use_two_connections() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut pairs = open(&proxy, &a, 2);
    for (client, hop) in &mut pairs {
        hop.send_ok("done");
        client.expect_status(200);
    }
    assert_eq!(a.connections(), 2);
}

/// A restart of an upstream costs nobody anything, whatever was kept.
#[test]
fn stale_connections_are_no_failure_of_an_upstream() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let pairs = finished(&proxy, open(&proxy, &a, 8));
    drop(pairs);
    // Each is closed as soon as the next request is on its way.
    let (mut client, mut hop) = finished(&proxy, open(&proxy, &a, 1)).remove(0);
    for n in 0..4 {
        client.send(GET);
        hop.read_request();
        hop.reset();
        let (mut fresh, _) = a.accept_and_read_request();
        fresh.send_ok(&n.to_string());
        client.expect_status(200).expect_body(n.to_string());
        hop = fresh;
    }
    proxy.expect_online("a");
    assert_eq!(proxy.upstream("a").consecutive_failures, 0);
    assert_eq!(a.probes().len(), 0);
}

#[test]
fn a_stale_connection_costs_no_attempt() {
    let stale = ["a", "b", "c"].map(Upstream::by_hand);
    let proxy = Proxy::over(&stale);
    // One idle connection to each, in the order of turns.
    let mut client = proxy.client();
    let mut hops = Vec::new();
    for _ in 0..3 {
        client.send(GET);
        let (at, mut hop) = whoever(&stale);
        hop.send_ok("first");
        client.expect_status(200);
        hops.push((at, hop));
    }
    // The next breaks when it is used, and the same upstream is asked again.
    client.send(GET);
    let (at, mut hop) = hops.remove(0);
    hop.read_request();
    hop.reset();
    let (mut fresh, _) = stale[at].accept_and_read_request();
    fresh.send_ok("again");
    client.expect_status(200).expect_body("again");
    assert!(
        stale
            .iter()
            .all(|u| proxy.upstream(u.name()).consecutive_failures == 0)
    );
}

/// What could not be repeated wants a connection that was in use a moment ago.
#[test]
fn a_post_takes_a_fresh_idle_connection_and_no_old_one() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    // Unless this machine takes a second between two lines, one of them finds it fresh.
    wait_until(|| {
        let before = a.connections();
        client.send(GET).expect_status(200);
        client.send(POST).expect_status(200);
        before > 0 && a.connections() == before
    });
    let before = a.connections();
    proxy.expect_at_rest();
    let idle_since = Instant::now();
    wait_until(|| idle_since.elapsed() > Duration::from_millis(1050));
    client.send(POST).expect_status(200);
    assert_eq!(a.connections(), before + 1, "the old one was not trusted");
}

#[test]
fn a_get_takes_an_old_idle_connection() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send(GET).expect_status(200);
    let idle_since = Instant::now();
    wait_until(|| idle_since.elapsed() > Duration::from_millis(1050));
    client.send(GET).expect_status(200);
    assert_eq!(a.connections(), 1);
}

#[test]
fn an_idle_connection_is_closed_when_its_time_is_over() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {upstream_idle_secs: 0.2}", [&a]);
    for (_, mut hop) in finished(&proxy, open(&proxy, &a, 2)) {
        hop.expect_closed();
    }
}

#[test]
fn of_more_idle_connections_than_the_file_says_the_oldest_leave() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {upstream_idle_connections: 2}", [&a]);
    let mut pairs = Vec::new();
    for (before, pair) in open(&proxy, &a, 4).into_iter().enumerate() {
        pairs.push(answered(pair));
        // The answer may be here before the connection has found its place, or none.
        wait_until(|| proxy.upstream("a").active == 3 - before as u64);
    }
    // The first two made way.
    for (_, hop) in &mut pairs[..2] {
        hop.expect_closed();
    }
    // The last two did not.
    let mut again: Vec<Client> = pairs.drain(..2).map(|(client, _)| client).collect();
    for client in &mut again {
        client.send(GET);
    }
    for (_, kept) in &mut pairs {
        kept.read_request();
        kept.send_ok("kept");
    }
    for client in &mut again {
        client.expect_status(200).expect_body("kept");
    }
}

#[test]
fn zero_turns_reuse_off() {
    for limit in ["upstream_idle_connections: 0", "upstream_idle_secs: 0"] {
        let a = Upstream::by_hand("a");
        let proxy = Proxy::with_yaml(&format!("limits: {{{limit}}}"), [&a]);
        for (_, mut hop) in finished(&proxy, open(&proxy, &a, 2)) {
            hop.expect_closed();
        }
    }
}

/// They would be taken for the answer to the next request (D11).
#[test]
fn bytes_behind_a_response_poison_its_connection() {
    for behind in ["EVIL", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"] {
        let a = Upstream::by_hand("a");
        let proxy = Proxy::over([&a]);
        let mut client = proxy.client();
        client.send(GET);
        let (mut hop, _) = a.accept_and_read_request();
        hop.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{behind}"
        ));
        client.expect_status(200).expect_body("ok");
        hop.expect_gone();
        client.send(GET);
        let (mut hop, _) = a.accept_and_read_request();
        hop.send_ok("clean");
        client.expect_status(200).expect_body("clean");
    }
}

#[test]
fn an_answer_to_an_unfinished_request_ends_its_connection() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 10\r\n\r\nabc");
    let mut hop = a.accept();
    hop.read_head();
    hop.send("HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno");
    client.expect_status(413).expect_body("no");
    hop.socket().read_to_end();
}

#[test]
fn idle_connections_end_with_the_fall_of_their_upstream() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut pairs = finished(&proxy, open(&proxy, &a, 2));
    a.answer_probes(super::harness::ProbeAnswer::Close);
    let mut client = proxy.client();
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n");
    let (hop, _) = a.accept_and_read_request();
    hop.close();
    client.expect_refusal(502);
    for (_, hop) in &mut pairs {
        hop.expect_closed();
    }
}

#[test]
fn idle_connections_end_when_their_upstream_leaves_the_file() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let proxy = Proxy::over([&a]);
    let mut pairs = finished(&proxy, open(&proxy, &a, 2));
    proxy.reload("{}", [&b]);
    for (_, hop) in &mut pairs {
        hop.expect_closed();
    }
}

/// By an action or by the file; what was under way is not kept either.
#[test]
fn idle_connections_end_when_their_upstream_is_drained() {
    type Drain = fn(&Proxy, &Upstream);
    let by_an_action: Drain = |proxy, _| {
        let pool = &proxy.server().context().snapshot().pool;
        pool.upstreams()[0].vitals().drain();
    };
    let by_the_file: Drain = |proxy, a| proxy.reload("{}", [a.with("weight: 0")]);
    for drain in [by_an_action, by_the_file] {
        let a = Upstream::by_hand("a");
        let proxy = Proxy::over([&a]);
        let mut idle = open(&proxy, &a, 4);
        let busy = idle.split_off(2);
        let mut idle: Vec<_> = idle.into_iter().map(answered).collect();
        wait_until(|| proxy.upstream("a").active == 2);
        drain(&proxy, &a);
        let mut busy = finished(&proxy, busy);
        for (client, hop) in idle.iter_mut().chain(&mut busy) {
            hop.expect_closed();
            client.send(GET).expect_refusal(503);
        }
    }
}

#[test]
fn idle_connections_survive_a_reload() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send(GET).expect_status(200);
    proxy.reload("mode: best", [a.with("weight: 3")]);
    client.send(GET).expect_status(200);
    assert_eq!(a.connections(), 1);
}

/// Same upstream and same socket, whoever's turn it is.
#[test]
fn a_bound_client_stays_at_its_upstream() {
    let upstreams = ["a", "b", "c"].map(Upstream::by_hand);
    let proxy = Proxy::over(&upstreams);
    let mut client = proxy.client();
    let ntlm = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nAuthorization: NTLM abc\r\n\r\n";
    client.send(ntlm);
    let (_, mut bound) = whoever(&upstreams);
    bound.send_ok("1");
    client.expect_status(200);
    for n in 0..5 {
        client.send(if n == 2 { POST } else { GET });
        bound.read_request();
        bound.send_ok("more");
        client.expect_status(200);
    }
    let connections: usize = upstreams.iter().map(Upstream::connections).sum();
    assert_eq!(connections, 1);
}

#[test]
fn a_client_that_authenticates_itself_gets_no_connection_of_others() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut pairs = finished(&proxy, open(&proxy, &a, 1));
    let mut client = proxy.client();
    client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nAuthorization: NTLM x\r\n\r\n");
    // It may begin on an idle one; from then on nobody else may have it.
    let idle = &mut pairs[0].1;
    idle.read_request();
    idle.send_ok("mine");
    client.expect_status(200).expect_body("mine");
    let mut stranger = proxy.client();
    stranger.send(GET);
    let (mut other, _) = a.accept_and_read_request();
    other.send_ok("other");
    stranger.expect_status(200).expect_body("other");
}

/// Its authentication is lost, which the client learns from the upstream, but no answer is.
#[test]
fn a_bound_connection_that_broke_is_replaced() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nAuthorization: NTLM x\r\n\r\n");
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_ok("1");
    client.expect_status(200);
    hop.close();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_ok("2");
    client.expect_status(200).expect_body("2");
    proxy.expect_online("a");
}

/// Says of every connection that it is kept.
fn keeping(name: &str) -> Upstream {
    let body = name.to_owned();
    Upstream::answering(name, move |hop, _| {
        hop.send_kept(&body);
    })
}

/// So many exchanges at once, each up to the request at the upstream.
#[track_caller]
fn open(proxy: &Proxy, upstream: &Upstream, count: usize) -> Vec<(Client, Hop)> {
    let pairs = (0..count).map(|_| {
        let mut client = proxy.client();
        client.send(GET);
        let (hop, _) = upstream.accept_and_read_request();
        (client, hop)
    });
    pairs.collect()
}

/// The same, answered.
#[track_caller]
fn finished(proxy: &Proxy, pairs: Vec<(Client, Hop)>) -> Vec<(Client, Hop)> {
    let pairs = pairs.into_iter().map(answered).collect();
    // A connection is kept a moment after its response has arrived.
    wait_until(|| proxy.counts().busy == 0);
    pairs
}

fn answered((mut client, mut hop): (Client, Hop)) -> (Client, Hop) {
    hop.send_kept("done");
    client.expect_status(200).expect_body("done");
    (client, hop)
}

/// The next connection at any of them, its request read.
#[track_caller]
fn whoever(upstreams: &[Upstream]) -> (usize, Hop) {
    let mut found = None;
    wait_until(|| {
        found = upstreams.iter().enumerate().find_map(|(at, upstream)| {
            let (hop, _) = upstream.try_accept().map(|mut hop| {
                let request = hop.read_request();
                (hop, request)
            })?;
            Some((at, hop))
        });
        found.is_some()
    });
    thread::yield_now();
    found.expect("waited for it")
}
