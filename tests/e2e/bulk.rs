//! Large bodies, which go from socket to socket without being looked at: each ends where its length
//! says, and everything that can happen to a small one happens to them as well.

use http_proxy_lb::net::pipe::Pipe;

use super::harness::{Client, Hop, ProbeAnswer, Proxy, Talk, Upstream, pattern, wait_until};
use super::threads::Pump;

/// More than any buffer of the relay, and no round number.
const LENGTH: usize = 700_001;
const GET: &str = "GET http://o.test/big HTTP/1.1\r\nHost: o.test\r\n\r\n";

#[test]
fn a_large_response_arrives_whole_and_the_connections_go_on() {
    let (proxy, upstream, mut client, mut hop) = asked();
    check_download(&mut client, &mut hop);
    client.send(GET);
    hop.read_request();
    check_download(&mut client, &mut hop);
    assert_eq!(upstream.connections(), 1);
    drop((client, hop));
    proxy.expect_at_rest();
}

#[test]
fn a_large_response_arrives_whole_where_no_pipe_can_be_had() {
    let (proxy, _upstream, mut client, mut hop) = asked();
    let taken = all_pipes(&proxy);
    check_download(&mut client, &mut hop);
    drop(taken);
}

#[test]
fn what_an_upstream_sends_behind_a_large_body_reaches_nobody() {
    let (proxy, upstream, mut client, mut hop) = asked();
    let body = pattern(LENGTH);
    let mut bytes = head(LENGTH).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL");
    let sender = hop.send_in_background(bytes);
    client.expect_status(200).expect_body(&body);
    sender.join().expect("the sender").expect("all is taken");
    client.send(GET);
    let (mut next, _) = upstream.accept_and_read_request();
    next.send_ok("honest");
    client.expect_status(200).expect_body("honest");
    drop((client, hop, next));
    proxy.expect_at_rest();
}

#[test]
fn a_large_body_that_breaks_off_is_visibly_incomplete() {
    for how in [Hop::close as fn(Hop), Hop::reset] {
        let (a, b) = (Upstream::by_hand("a"), Upstream::by_hand("b"));
        let members = [a.with("priority: 1"), b.with("priority: 2")];
        let proxy = Proxy::with_yaml("mode: priority", members);
        a.answer_probes(ProbeAnswer::Close);
        let mut client = proxy.client();
        client.send(GET);
        let (mut hop, _) = a.accept_and_read_request();
        let part = pattern(LENGTH - 1);
        let mut bytes = head(LENGTH).into_bytes();
        bytes.extend_from_slice(&part);
        let sender = hop.send_in_background(bytes);
        // A reset would destroy what is still on its way.
        client.expect_head(200).expect_bytes(&part);
        sender.join().expect("the sender").expect("all is taken");
        how(hop);
        client.expect_gone();
        proxy.expect_at_rest();
        wait_until(|| !proxy.upstream("a").online);
    }
}

#[test]
fn an_upstream_that_stalls_within_a_large_body_is_given_up() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {response_idle_timeout_secs: 0.5}", [&upstream]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = upstream.accept_and_read_request();
    let part = pattern(LENGTH / 2);
    hop.send(head(LENGTH));
    let sender = hop.send_in_background(part.clone());
    client.expect_head(200).expect_truncated(&part);
    sender.join().expect("the sender").expect("all is taken");
    proxy.expect_at_rest();
}

#[test]
fn a_client_that_leaves_within_a_large_body_is_nobodys_fault() {
    let (proxy, _upstream, mut client, mut hop) = asked();
    hop.send(head(100 * LENGTH));
    let sender = hop.send_in_background(vec![b'x'; 100 * LENGTH]);
    client.expect_head(200).expect_bytes(vec![b'x'; LENGTH]);
    client.reset();
    assert!(
        sender.join().expect("the sender").is_err(),
        "nobody is left to read it"
    );
    proxy.expect_at_rest();
    proxy.expect_online("a");
}

#[test]
fn a_large_request_body_arrives_whole_and_not_a_byte_of_the_next_request_with_it() {
    for without_pipes in [false, true] {
        let upstream = Upstream::by_hand("a");
        let proxy = Proxy::over([&upstream]);
        let taken = without_pipes.then(|| all_pipes(&proxy));
        let mut client = proxy.client();
        let body = pattern(LENGTH);
        let mut bytes = post(LENGTH).into_bytes();
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(GET.as_bytes());
        let sender = client.send_in_background(bytes);
        let (mut hop, request) = upstream.accept_and_read_request();
        request.expect_body(&body);
        hop.send_ok("first");
        client.expect_status(200).expect_body("first");
        assert_eq!(hop.read_request().method(), "GET");
        hop.send_ok("second");
        client.expect_status(200).expect_body("second");
        sender.join().expect("the sender").expect("all is taken");
        drop((client, hop, taken));
        proxy.expect_at_rest();
    }
}

#[test]
fn an_answer_within_a_large_request_body_reaches_the_client() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    let rest = client
        .send(post(LENGTH))
        .send_in_background(pattern(LENGTH / 2));
    let mut hop = upstream.accept();
    hop.read_head();
    hop.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    client.expect_status(413);
    drop(rest.join().expect("the sender"));
    drop(hop);
    drop(client);
    proxy.expect_at_rest();
    proxy.expect_online("a");
}

#[test]
fn an_upstream_that_breaks_off_within_a_large_request_body_is_502_and_never_tried_again() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::by_hand("b"));
    let proxy = Proxy::with_yaml(
        "mode: priority",
        [a.with("priority: 1"), b.with("priority: 2")],
    );
    let mut client = proxy.client();
    let rest = client
        .send(post(LENGTH))
        .send_in_background(pattern(LENGTH / 2));
    let mut hop = a.accept();
    hop.read_head();
    hop.expect_bytes(pattern(LENGTH / 2));
    rest.join().expect("the sender").expect("all is taken");
    hop.reset();
    client.expect_refusal(502);
    b.expect_untouched();
}

#[test]
fn a_client_that_leaves_within_its_large_request_body_is_nobodys_fault() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    let rest = client
        .send(post(LENGTH))
        .send_in_background(pattern(LENGTH / 2));
    let mut hop = upstream.accept();
    hop.read_head();
    hop.expect_bytes(pattern(LENGTH / 2));
    rest.join().expect("the sender").expect("all is taken");
    client.reset();
    hop.expect_gone();
    proxy.expect_at_rest();
    proxy.expect_online("a");
}

#[test]
fn a_tunnel_carries_megabytes_where_no_pipe_can_be_had() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let taken = all_pipes(&proxy);
    let mut client = proxy.client();
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    let bytes = pattern(4 * LENGTH);
    let sender = hop.send_in_background(bytes.clone());
    client.expect_bytes(&bytes);
    sender.join().expect("the sender").expect("all is taken");
    drop((client, hop, taken));
    proxy.expect_at_rest();
}

#[test]
fn a_tunnel_that_was_busy_holds_no_pipe_when_it_is_quiet_and_goes_on() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    for _ in 0..2 {
        let bytes = pattern(LENGTH);
        let sender = hop.send_in_background(bytes.clone());
        client.expect_bytes(&bytes);
        sender.join().expect("the sender").expect("all is taken");
        let pipes = &proxy.server().context().pipes;
        wait_until(|| pipes.lent() == 0);
        client.send("ping");
        hop.expect_bytes("ping").send("pong");
        client.expect_bytes("pong");
    }
    client.half_close();
    hop.expect_closed();
    hop.send("last words").half_close();
    client.expect_bytes("last words").expect_closed();
    proxy.expect_at_rest();
}

/// More than there are pipes.
const MANY: usize = 40;

#[test]
fn clients_that_do_not_read_their_responses_leave_the_pipes_to_others() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 60}", [&upstream]);
    let mut held: Vec<(Client, Hop)> = Vec::new();
    for _ in 0..MANY {
        let mut client = Client::connect_narrow(proxy.address());
        client.send(GET);
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send(head(usize::MAX >> 8));
        held.push((client, hop));
    }
    let pump = Pump::start(held.iter().map(|(_, hop)| hop.stream()).collect());
    wait_until(|| pump.is_stuck());
    wait_until(|| proxy.server().context().pipes.lent() == 0);
    drop((pump, held));
}

#[test]
fn upstreams_that_do_not_take_their_requests_leave_the_pipes_to_others() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 60}", [&upstream]);
    let mut held: Vec<(Client, Hop)> = Vec::new();
    for _ in 0..MANY {
        let mut client = proxy.client();
        client.send(post(usize::MAX >> 8));
        let mut hop = upstream.accept();
        hop.read_head();
        held.push((client, hop));
    }
    let sockets = held.iter_mut().map(|(client, _)| client.socket().handle());
    let pump = Pump::start(sockets.collect());
    wait_until(|| pump.is_stuck());
    wait_until(|| proxy.server().context().pipes.lent() == 0);
    drop((pump, held));
}

#[test]
fn tunnels_that_are_not_read_from_leave_pipes_and_threads_to_others() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {io_timeout_secs: 60}", [&upstream]);
    let held: Vec<(Client, Hop)> = (0..MANY).map(|_| tunnel(&proxy, &upstream)).collect();
    let pump = Pump::start(held.iter().map(|(_, hop)| hop.stream()).collect());
    wait_until(|| pump.is_stuck());
    wait_until(|| proxy.server().context().pipes.lent() == 0);
    wait_until(|| proxy.server().context().long_threads.taken() == 0);
    let (mut client, mut hop) = tunnel(&proxy, &upstream);
    let bytes = pattern(4 * LENGTH);
    let sender = hop.send_in_background(bytes.clone());
    client.expect_bytes(&bytes);
    sender.join().expect("the sender").expect("all is taken");
    drop((pump, held));
}

fn tunnel(proxy: &Proxy, upstream: &Upstream) -> (Client, Hop) {
    let mut client = Client::connect_narrow(proxy.address());
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    (client, hop)
}

fn asked() -> (Proxy, Upstream, Client, Hop) {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send(GET);
    let (hop, _) = upstream.accept_and_read_request();
    (proxy, upstream, client, hop)
}

fn head(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")
}

fn post(length: usize) -> String {
    format!("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {length}\r\n\r\n")
}

fn check_download(client: &mut Client, hop: &mut Hop) {
    let body = pattern(LENGTH);
    let mut bytes = head(LENGTH).into_bytes();
    bytes.extend_from_slice(&body);
    let sender = hop.send_in_background(bytes);
    client.expect_status(200).expect_body(&body);
    sender.join().expect("the sender").expect("all is taken");
}

/// Takes every pipe the relay may have.
fn all_pipes(proxy: &Proxy) -> Vec<Pipe> {
    let pipes = &proxy.server().context().pipes;
    std::iter::from_fn(|| pipes.lend()).collect()
}
