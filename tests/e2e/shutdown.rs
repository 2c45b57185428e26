//! The end: nothing new, what is under way finishes, and what takes too long is cut.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use http_proxy_lb::server::Drained;

use super::harness::{Proxy, Talk, Upstream, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";
/// Long enough that no test gets there.
const PATIENT: &str = "limits: {shutdown_timeout_secs: 30}";

/// Drains while `meanwhile` goes on; returns how it ended.
#[track_caller]
fn drain(proxy: &Proxy, meanwhile: impl FnOnce()) -> Drained {
    let address = proxy.address();
    thread::scope(|scope| {
        let drained = scope.spawn(|| proxy.server().drain());
        // D15: clients could connect and hung.
        wait_until(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err());
        meanwhile();
        drained.join().expect("the drain")
    })
}

#[test]
fn a_relay_without_work_stops_at_once() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(PATIENT, [&a]);
    proxy.client().send(GET).expect_status(200);
    assert_eq!(drain(&proxy, || {}), Drained::Clean);
    let counts = proxy.counts();
    assert_eq!(
        (counts.connections, counts.workers, counts.parked),
        (0, 0, 0)
    );
}

/// D15: they held up the exit for the whole time.
#[test]
fn idle_connections_are_closed_at_once() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(PATIENT, [&a]);
    let (mut used, mut fresh) = (proxy.client(), proxy.client());
    used.send(GET).expect_status(200);
    wait_until(|| proxy.counts().parked == 2);
    assert_eq!(
        drain(&proxy, || {
            used.expect_closed();
            fresh.expect_closed();
        }),
        Drained::Clean
    );
}

#[test]
fn a_download_finishes() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml(PATIENT, [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    client.expect_head(200);
    let drained = drain(&proxy, || {
        hop.send("world");
        client.expect_bytes("helloworld").expect_closed();
    });
    assert_eq!(drained, Drained::Clean);
    assert_eq!(proxy.counts().connections, 0);
    assert_eq!(proxy.upstream("a").active, 0);
}

#[test]
fn a_request_that_waits_for_its_answer_gets_it_and_the_connection_ends() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml(PATIENT, [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    let drained = drain(&proxy, || {
        hop.send_ok("done");
        client
            .expect_status(200)
            .expect_field("Connection", "close")
            .expect_body("done")
            .expect_closed();
    });
    assert_eq!(drained, Drained::Clean);
}

#[test]
fn an_upload_finishes() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml(PATIENT, [&a]);
    let mut client = proxy.client();
    client.send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 10\r\n\r\nhello");
    let mut hop = a.accept();
    hop.read_head();
    let drained = drain(&proxy, || {
        client.send("world");
        hop.expect_bytes("helloworld").send_ok("done");
        client.expect_status(200).expect_closed();
    });
    assert_eq!(drained, Drained::Clean);
}

#[test]
fn a_head_that_has_begun_may_be_completed() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(PATIENT, [&a]);
    let mut client = proxy.client();
    client.send(&GET.as_bytes()[..10]);
    wait_until(|| proxy.counts().parked == 1 && proxy.counts().workers > 0);
    wait_until(|| proxy.counts().busy == 0);
    let drained = drain(&proxy, || {
        client
            .send(&GET.as_bytes()[10..])
            .expect_status(200)
            .expect_field("Connection", "close");
        client.expect_closed();
    });
    assert_eq!(drained, Drained::Clean);
}

/// Else whoever sends half a head holds up every stop for as long as a head may take.
#[test]
fn a_head_that_stays_incomplete_does_not_hold_up_the_stop() {
    let a = Upstream::echo_ok("a");
    let extra = "limits: {shutdown_timeout_secs: 3600, header_timeout_secs: 3600}";
    let proxy = Proxy::with_yaml(extra, [&a]);
    let mut client = proxy.client();
    client.send(&GET.as_bytes()[..10]);
    wait_until(|| proxy.counts().parked == 1 && proxy.counts().workers > 0);
    wait_until(|| proxy.counts().busy == 0);
    let drained = drain(&proxy, || {
        client
            .expect_refusal_and_close(503)
            .expect_field_with("Proxy-Status", "shutting down");
    });
    assert_eq!(drained, Drained::Clean);
    a.expect_untouched();
}

#[test]
fn a_tunnel_may_finish() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml(PATIENT, [&a]);
    let mut client = proxy.client();
    client.send(CONNECT);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    let drained = drain(&proxy, || {
        client.send("ping");
        hop.expect_bytes("ping").send("pong").half_close();
        client.expect_bytes("pong").expect_closed().half_close();
        hop.expect_closed();
    });
    assert_eq!(drained, Drained::Clean);
    assert_eq!(proxy.counts().tunnels, 0);
}

#[test]
fn what_takes_longer_than_the_drain_time_is_cut_visibly() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {shutdown_timeout_secs: 0.2}", [&a]);
    let mut download = proxy.client();
    download.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    download.expect_head(200);
    let mut waiting = proxy.client();
    waiting.send(GET);
    let (mut other, _) = a.accept_and_read_request();
    let mut tunnel = proxy.client();
    tunnel.send(CONNECT);
    let (mut far, _) = a.accept_and_read_request();
    far.send("HTTP/1.1 200 OK\r\n\r\n");
    tunnel.expect_tunnel();
    assert_eq!(drain(&proxy, || {}), Drained::Cut(3));
    download.expect_truncated("5\r\nhello\r\n");
    waiting.expect_gone();
    tunnel.expect_gone();
    for hop in [&mut hop, &mut other, &mut far] {
        hop.expect_gone();
    }
    let counts = proxy.counts();
    assert_eq!(
        (counts.connections, counts.workers, counts.tunnels),
        (0, 0, 0)
    );
    assert_eq!(proxy.upstream("a").active, 0);
}

/// A body that ends with the connection must not look whole.
#[test]
fn a_download_without_a_length_is_cut_by_a_reset() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {shutdown_timeout_secs: 0.2}", [&a]);
    let mut client = proxy.client();
    client.send("GET http://o.test/ HTTP/1.0\r\nHost: o.test\r\n\r\n");
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.0 200 OK\r\n\r\nhello");
    client.expect_head(200).expect_bytes("hello");
    assert_eq!(drain(&proxy, || {}), Drained::Cut(1));
    client.expect_reset();
}

/// What waits for a worker when the drain begins is served, too.
#[test]
fn what_waits_in_the_queue_is_served() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {shutdown_timeout_secs: 30, workers: 1}", [&a]);
    let (mut first, mut second) = (proxy.client(), proxy.client());
    first.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    second.send(GET);
    wait_until(|| proxy.counts().queue == 1 || a.connections() == 2);
    let drained = drain(&proxy, || {
        hop.send_kept("first");
        first.expect_status(200);
        let mut hop = if a.connections() == 2 {
            a.accept()
        } else {
            hop
        };
        hop.read_request();
        hop.send_ok("second");
        second.expect_status(200).expect_body("second");
    });
    assert_eq!(drained, Drained::Clean);
}
