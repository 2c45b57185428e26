//! The bytes between a CONNECT and its end: early ones, half-closes, resets, silence, and what a
//! tunnel costs. How a tunnel is opened is in `connect`.

use std::io::Write as _;
use std::time::Duration;

use super::harness::{Client, Hop, Origin, Proxy, Talk, Upstream, pattern, spawn, wait_until};

const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n";

#[test]
fn a_half_close_of_the_client_passes_and_the_other_direction_goes_on() {
    let (proxy, _upstream, mut client, mut hop) = tunnel();
    client.send("last words").half_close();
    hop.expect_bytes("last words").expect_closed();
    hop.send("still here");
    client.expect_bytes("still here");
    hop.half_close();
    client.expect_closed();
    proxy.expect_at_rest();
}

#[test]
fn a_half_close_of_the_upstream_passes_and_the_other_direction_goes_on() {
    let (proxy, _upstream, mut client, mut hop) = tunnel();
    hop.send("last words").half_close();
    client.expect_bytes("last words").expect_closed();
    client.send("still here").half_close();
    hop.expect_bytes("still here").expect_closed();
    proxy.expect_at_rest();
}

#[test]
fn a_reset_of_the_client_resets_the_upstream() {
    let (proxy, _upstream, client, mut hop) = tunnel();
    client.reset();
    hop.expect_reset();
    proxy.expect_at_rest();
    proxy.expect_online("a");
}

#[test]
fn a_reset_of_the_upstream_resets_the_client() {
    let (proxy, _upstream, mut client, hop) = tunnel();
    hop.reset();
    client.expect_reset();
    proxy.expect_at_rest();
}

#[test]
fn a_reset_after_a_half_close_still_resets() {
    let (proxy, _upstream, mut client, mut hop) = tunnel();
    hop.half_close();
    client.expect_closed();
    client.reset();
    wait_until(|| proxy.counts().tunnels == 0);
    hop.expect_reset();
}

#[test]
fn a_reset_behind_bytes_that_the_other_side_does_not_take_still_resets() {
    let (proxy, _upstream, mut client, mut hop) = tunnel();
    fill_every_buffer(&mut client);
    client.reset();
    wait_until(|| proxy.counts().tunnels == 0);
    hop.expect_reset();
}

#[test]
fn a_reset_of_a_client_that_had_closed_its_half_still_resets() {
    let (proxy, _upstream, mut client, mut hop) = tunnel();
    client.half_close();
    hop.expect_closed();
    client.reset();
    // The upstream says nothing, and has not closed its half.
    wait_until(|| proxy.counts().tunnels == 0);
    proxy.expect_at_rest();
}

#[test]
fn a_tunnel_carries_megabytes_both_ways_at_once() {
    const BYTES: usize = 4_000_000;
    let (proxy, _upstream, mut client, mut hop) = tunnel();
    let (up, down) = (pattern(BYTES), pattern(BYTES + 1));
    let senders = [
        client.send_in_background(up.clone()),
        hop.send_in_background(down.clone()),
    ];
    let reader = spawn("test-reader", move || {
        hop.expect_bytes(up);
        hop
    });
    client.expect_bytes(down);
    drop(reader.join().expect("the upstream got everything"));
    for sender in senders {
        sender
            .join()
            .expect("the sender")
            .expect("everything is sent");
    }
    drop(client);
    proxy.expect_at_rest();
}

#[test]
fn a_tunnel_that_is_idle_both_ways_is_closed() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {tunnel_idle_timeout_secs: 0.5}", [&upstream]);
    let (mut client, mut hop) = open(&proxy, &upstream);
    client.expect_gone();
    hop.expect_gone();
    proxy.expect_at_rest();
    proxy.expect_online("a");
}

#[test]
fn bytes_in_one_direction_keep_a_tunnel_open() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {tunnel_idle_timeout_secs: 1}", [&upstream]);
    let (mut client, mut hop) = open(&proxy, &upstream);
    for _ in 0..10 {
        hop.send("x");
        client.expect_bytes("x");
        // Listening for a while is also what lets the time pass.
        hop.expect_nothing_more();
    }
    client.send("y");
    hop.expect_bytes("y");
}

#[test]
fn tunnels_to_an_origin_pass_ends_and_resets_as_well() {
    let origin = Origin::by_hand("origin");
    let proxy = Proxy::direct();
    let mut client = proxy.client();
    client.open_tunnel(&origin.authority()).half_close();
    let mut end = origin.accept();
    end.expect_closed().send("still here").half_close();
    client.expect_bytes("still here").expect_closed();
    let mut client = proxy.client();
    client.open_tunnel(&origin.authority());
    origin.accept().reset();
    client.expect_reset();
    proxy.expect_at_rest();
}

#[test]
fn a_silent_tunnel_has_no_thread_reserved() {
    let (proxy, _upstream, mut client, mut hop) = tunnel();
    client.send("ping");
    hop.expect_bytes("ping").send("pong");
    client.expect_bytes("pong");
    assert_eq!(proxy.counts().tunnels, 1);
    assert_eq!(proxy.server().context().long_threads.taken(), 0);
}

#[test]
fn tunnels_hold_no_worker() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {workers: 1}", [&upstream]);
    let mut tunnels: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut tunnels {
        client.open_tunnel("o.test:443");
    }
    wait_until(|| proxy.counts().tunnels == 4 && proxy.counts().busy == 0);
    proxy.client().get("http://o.test/").expect_status(200);
    for client in &mut tunnels {
        client.send("ping").expect_bytes("ping");
    }
    drop(tunnels);
    proxy.expect_at_rest();
}

/// D5: 504 was written into the tunnel, and the active count stayed at 1 for ever.
#[test]
fn the_request_timeout_does_not_touch_an_open_tunnel() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {request_timeout_secs: 1}", [&upstream]);
    let (mut client, mut hop) = open(&proxy, &upstream);
    // Another request that nobody answers shows that the time has passed.
    proxy.client().get("http://slow.test/").expect_refusal(504);
    client.send("ping");
    hop.expect_bytes("ping").send("pong");
    client.expect_bytes("pong");
    drop(client);
    drop(hop);
    proxy.expect_at_rest();
}

/// D3d: a tunnel of two seconds made its upstream look slow.
#[test]
fn the_latency_of_a_tunnel_is_that_of_its_answer() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let (client, hop) = open(&proxy, &upstream);
    let before = proxy.upstream("a").latency;
    assert!(before.is_some(), "the answer to CONNECT is a sample");
    drop(client);
    drop(hop);
    proxy.expect_at_rest();
    assert_eq!(proxy.upstream("a").latency, before);
}

/// Sends until nobody has taken anything for a moment.
fn fill_every_buffer(client: &mut Client) {
    let stream = client.socket().handle();
    stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .expect("a write timeout");
    let block = pattern(1 << 20);
    while stream.as_ref().write(&block).is_ok() {}
}

/// An open tunnel through an upstream that is played by hand.
fn tunnel() -> (Proxy, Upstream, Client, Hop) {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let (client, hop) = open(&proxy, &upstream);
    (proxy, upstream, client, hop)
}

fn open(proxy: &Proxy, upstream: &Upstream) -> (Client, Hop) {
    let mut client = proxy.client();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    (client, hop)
}
