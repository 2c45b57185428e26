//! How much is taken on, and what is said to those for whom there is no room.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use super::harness::{Client, Proxy, Talk, Upstream, pattern, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";

#[test]
fn a_connection_too_many_is_told_so_and_closed() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {max_connections: 2}", [&a]);
    let mut first = proxy.client();
    first.send(GET).expect_status(200);
    let second = proxy.client();
    wait_until(|| proxy.counts().connections == 2);
    proxy
        .client()
        .expect_refusal_and_close(503)
        .expect_field_with("Proxy-Status", "connection_limit_reached");
    first.send(GET).expect_status(200);
    drop(second);
    wait_until(|| proxy.counts().connections == 1);
    proxy.client().send(GET).expect_status(200);
}

/// D27: it was answered without a look at what the client was sending, and a reset could eat the
/// answer.
#[test]
fn the_answer_reaches_a_client_that_is_sending() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {max_connections: 1}", [&a]);
    let _first = proxy.client();
    wait_until(|| proxy.counts().connections == 1);
    for _ in 0..5 {
        let mut client = proxy.client();
        client.send_as_far_as_possible(
            "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 300000\r\n\r\n",
        );
        client.send_as_far_as_possible(pattern(300_000));
        client.expect_refusal_and_close(503);
    }
}

#[test]
fn tunnels_and_silent_connections_count_as_connections() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {max_connections: 2}", [&a]);
    let mut tunnel = proxy.client();
    tunnel.send(CONNECT).expect_tunnel();
    let silent = proxy.client();
    wait_until(|| proxy.counts().connections == 2);
    proxy.client().expect_refusal_and_close(503);
    drop((tunnel, silent));
    proxy.expect_deserted();
    proxy.client().send(GET).expect_status(200);
}

#[test]
fn one_address_cannot_take_all_connections() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {max_connections_per_client: 2}", [&a]);
    let mut clients = [proxy.client(), proxy.client()];
    for client in &mut clients {
        client.send(GET).expect_status(200);
    }
    proxy
        .client()
        .expect_refusal_and_close(503)
        .expect_body_with("max_connections_per_client");
    let mut other = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), proxy.address());
    other.send(GET).expect_status(200);
    drop(clients);
    wait_until(|| proxy.counts().connections == 1);
    proxy.client().send(GET).expect_status(200);
}

#[test]
fn more_waiting_requests_than_the_queue_holds_are_refused() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {workers: 1, queue: 1}", [&a]);
    let mut busy = proxy.client();
    busy.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    // One may wait; once in a while a worker is set free for it, so more than two come.
    let mut waiting: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.send(GET);
    }
    let mut refused = 0;
    wait_until(|| {
        refused = waiting.iter().filter(|client| client.has_answer()).count();
        refused >= 10
    });
    for client in waiting.iter_mut().filter(|client| client.has_answer()) {
        client
            .expect_refusal_and_close(503)
            .expect_body_with("oo many requests are waiting");
    }
    hop.send_ok("done");
    busy.expect_status(200).expect_body("done");
    drop(waiting);
    drop(hop);
}

#[test]
fn a_request_that_waits_too_long_for_a_worker_is_refused() {
    let a = Upstream::by_hand("a");
    let extra = "limits: {workers: 1, queue_timeout_secs: 0.1}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    let mut busy = proxy.client();
    busy.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    proxy
        .client()
        .send(GET)
        .expect_refusal_and_close(503)
        .expect_body_with("waited too long");
    hop.send_ok("done");
    busy.expect_status(200);
    assert_eq!(a.connections(), 1);
}

#[test]
fn the_request_of_a_client_that_left_while_it_waited_goes_nowhere() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {workers: 1, queue_timeout_secs: 60}", [&a]);
    let mut busy = proxy.client();
    busy.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    let mut gone = proxy.client();
    gone.get("http://gone.test/");
    wait_until(|| proxy.counts().queue == 1);
    drop(gone);
    let mut client = proxy.client();
    client.get("http://there.test/");
    wait_until(|| proxy.counts().queue == 2);
    hop.send_ok("done");
    busy.expect_status(200);
    let (mut hop, request) = a.accept_and_read_request();
    assert!(request.raw.starts_with(b"GET http://there.test/ "));
    hop.send_ok("there");
    client.expect_status(200).expect_body("there");
    proxy.expect_at_rest();
}

#[test]
fn a_client_that_has_sent_all_its_requests_may_half_close_while_it_waits() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {workers: 1, queue_timeout_secs: 60}", [&a]);
    let mut busy = proxy.client();
    busy.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    let mut client = proxy.client();
    let last = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n";
    client.send(format!("{GET}{last}")).half_close();
    wait_until(|| proxy.counts().queue == 1);
    hop.send_ok("done");
    busy.expect_status(200);
    let mut hop = a.accept();
    for body in ["first", "last"] {
        hop.read_request();
        hop.send_ok(body);
        client.expect_status(200).expect_body(body);
    }
    client.expect_closed();
}

/// As long as somebody waits, nobody holds more than half of the workers.
#[test]
fn one_address_cannot_take_all_workers() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {workers: 4, queue: 100}", [&a]);
    let mut greedy: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    for client in &mut greedy {
        client.get("http://greedy.test/");
    }
    let mut hops: Vec<_> = (0..4).map(|_| a.accept()).collect();
    let mut modest = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), proxy.address());
    modest.get("http://modest.test/");
    // It goes before four others: whoever has more than half gives two places up, one is for it. On a
    // machine so slow that exchanges last meanwhile, those give up theirs, too.
    let mut others = Vec::new();
    let mut hop = loop {
        let (hop, request) = a.accept_and_read_request();
        if request.target() == "http://modest.test/" {
            break hop;
        }
        others.push(hop);
        assert!(
            others.len() < 2 || proxy.counts().long > 2,
            "the modest one"
        );
    };
    hop.send_ok("served");
    modest.expect_status(200).expect_body("served");
    for hop in &mut hops {
        hop.read_request();
        hop.send_ok("served");
    }
    drop(greedy);
    drop((hops, others));
}

#[test]
fn half_a_head_is_told_408() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {header_timeout_secs: 0.3}", [&a]);
    for part in [
        b"G".as_slice(),
        b"GET http://o.test/ HTTP/1.1\r\n",
        &GET.as_bytes()[..GET.len() - 1],
    ] {
        proxy.client().send(part).expect_refusal_and_close(408);
    }
    // Between two requests as well.
    let mut client = proxy.client();
    client.send(GET).expect_status(200).send("GET ");
    client.expect_refusal_and_close(408);
    drop(client);
    proxy.expect_deserted();
}

/// A slow head is slow, however often something of it comes (slowloris, D19b).
#[test]
fn a_head_that_trickles_in_is_told_408() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {header_timeout_secs: 0.3}", [&a]);
    let mut client = proxy.client();
    client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n");
    wait_until(|| {
        client.send_as_far_as_possible("X: y\r\n");
        thread::park_timeout(Duration::from_millis(20));
        client.has_answer()
    });
    client.expect_status(408);
    a.expect_untouched();
}

/// D19b: a short request timeout covers the head, too.
#[test]
fn the_request_timeout_shortens_the_time_for_a_head() {
    let a = Upstream::echo_ok("a");
    let extra = "limits: {header_timeout_secs: 60, request_timeout_secs: 0.3}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    proxy.client().send("GET ").expect_refusal_and_close(408);
}

#[test]
fn a_connection_without_a_byte_is_closed_without_a_word() {
    let a = Upstream::echo_ok("a");
    let extra = "limits: {idle_timeout_secs: 0.3, header_timeout_secs: 0.1}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    proxy.client().expect_closed();
    // Empty lines before a request are part of it, though.
    proxy.client().send("\r\n").expect_refusal_and_close(408);
    proxy.expect_deserted();
}

/// The time for a head begins with its first byte.
#[test]
fn a_client_may_take_its_time_before_the_first_byte() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {header_timeout_secs: 0.1}", [&a]);
    let mut client = proxy.client();
    for _ in 0..2 {
        // A request on another connection times out meanwhile.
        proxy.client().send("G").expect_refusal(408);
        client.send(GET).expect_status(200);
    }
}

#[test]
fn a_body_that_stops_is_told_408_and_blamed_on_no_upstream() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 0.3}", [&a]);
    let mut client = proxy.client();
    client.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 10\r\n\r\nabc");
    let mut hop = a.accept();
    hop.read_head();
    client.expect_refusal_and_close(408);
    hop.expect_truncated("abc");
    proxy.expect_online("a");
    assert_eq!(proxy.upstream("a").consecutive_failures, 0);
    drop(client);
    proxy.expect_deserted();
}

#[test]
fn the_size_of_a_head_can_be_limited() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {max_header_bytes: 2048}", [&a]);
    let filled = |bytes: usize| {
        let start = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
    };
    proxy.client().send(filled(2048)).expect_status(200);
    proxy
        .client()
        .send(filled(2049))
        .expect_refusal_and_close(431);
}

#[test]
fn a_request_line_of_more_than_16_kib_is_told_414() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send_as_far_as_possible(format!("GET http://o.test/{}", "x".repeat(17 * 1024)));
    client.expect_refusal_and_close(414);
    a.expect_untouched();
}

/// Refusals give their place back, too.
#[test]
fn refused_connections_leave_nothing_behind() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {max_connections: 4}", [&a]);
    for request in [
        "GET / HTTP/1.1\r\nHost: o.test\r\n\r\n",
        "x y\r\n\r\n",
        "\0",
        CONNECT,
    ] {
        for _ in 0..8 {
            let mut client = proxy.client();
            client.send(request);
            client.read_head();
            drop(client);
            proxy.expect_deserted();
        }
    }
    proxy.client().send(GET).expect_status(200);
}
