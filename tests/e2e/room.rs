//! Upstreams that take so many requests at a time.

use super::admin::{ADMIN, ask, check, metrics};
use super::harness::{Proxy, Talk, Upstream, wait_until};

/// One request waits for an upstream to have room.
pub(super) fn waiting(proxy: &Proxy) -> bool {
    metrics(proxy).contains("\nhttp_proxy_lb_upstream_queue_length 1\n")
}

#[test]
fn a_full_upstream_is_passed_over_and_waited_for_when_all_are_full() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::by_hand("b"));
    let extra = format!("{ADMIN}mode: priority\nlimits: {{queue_timeout_secs: 60}}\n");
    let members = [
        a.with("{priority: 1, max_active: 1}"),
        b.with("{priority: 2, max_active: 1}"),
    ];
    let proxy = Proxy::with_yaml(&extra, members);
    let (mut first, mut second, mut third) = (proxy.client(), proxy.client(), proxy.client());
    first.get("http://o.test/");
    let (mut at_a, _) = a.accept_and_read_request();
    second.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n");
    let (mut at_b, _) = b.accept_and_read_request();
    at_b.send("HTTP/1.1 200 OK\r\n\r\n");
    second.expect_tunnel();
    third.get("http://o.test/");
    wait_until(|| waiting(&proxy));
    let (_, status) = ask(&proxy, "GET /status");
    assert!(status.contains("\"waiting_for_upstream\":1"), "{status}");
    // A tunnel holds its place until it ends.
    drop((second, at_b));
    let (mut again, _) = b.accept_and_read_request();
    again.send_ok("b");
    third.expect_status(200).expect_body("b");
    at_a.send_ok("a");
    first.expect_status(200).expect_body("a");
    wait_until(|| proxy.upstream("a").active + proxy.upstream("b").active == 0);
    check(
        &metrics(&proxy),
        &[
            ("upstream_queue_length", 0),
            ("upstream_max_active{upstream=\"a\"}", 1),
            ("requests_failed", 0),
        ],
    );
}

#[test]
fn a_request_that_waits_too_long_for_room_is_refused() {
    let a = Upstream::by_hand("a");
    let extra = format!("{ADMIN}limits: {{queue_timeout_secs: 0.1}}\n");
    let proxy = Proxy::with_yaml(&extra, [a.with("max_active: 1")]);
    let mut busy = proxy.client();
    busy.get("http://o.test/");
    let (mut hop, _) = a.accept_and_read_request();
    let mut client = proxy.client();
    client
        .get("http://o.test/")
        .expect_refusal(503)
        .expect_field_with("Proxy-Status", "connection_limit_reached")
        .expect_body_with("as many requests as they may");
    hop.send_ok("a");
    busy.expect_status(200);
    check(
        &metrics(&proxy),
        &[
            ("failures_total{cause=\"upstreams_full\"}", 1),
            ("upstream_queue_length", 0),
        ],
    );
    // The connection goes on.
    client.get("http://o.test/");
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_ok("again");
    client.expect_status(200).expect_body("again");
}

#[test]
fn a_client_that_leaves_while_it_waits_leaves_the_line() {
    let a = Upstream::by_hand("a");
    let extra = format!("{ADMIN}limits: {{queue_timeout_secs: 60}}\n");
    let proxy = Proxy::with_yaml(&extra, [a.with("max_active: 1")]);
    let mut busy = proxy.client();
    busy.get("http://o.test/");
    let (mut hop, _) = a.accept_and_read_request();
    let mut gone = proxy.client();
    gone.get("http://o.test/");
    wait_until(|| waiting(&proxy));
    gone.reset();
    wait_until(|| !waiting(&proxy));
    hop.send_ok("a");
    busy.expect_status(200);
    proxy.expect_at_rest();
}

#[test]
fn a_reload_changes_the_limit_and_keeps_the_count() {
    let a = Upstream::by_hand("a");
    let extra = format!("{ADMIN}limits: {{queue_timeout_secs: 0.1}}\n");
    let proxy = Proxy::with_yaml(&extra, [&a]);
    let mut busy = proxy.client();
    busy.get("http://o.test/");
    let (mut hop, _) = a.accept_and_read_request();
    proxy.reload(&extra, [a.with("max_active: 1")]);
    let mut client = proxy.client();
    client.get("http://o.test/").expect_refusal(503);
    proxy.reload(&extra, [a.with("max_active: 2")]);
    client.get("http://o.test/");
    let (mut other, _) = a.accept_and_read_request();
    for hop in [&mut hop, &mut other] {
        hop.send_ok("ok");
    }
    client.expect_status(200);
    busy.expect_status(200);
    wait_until(|| proxy.upstream("a").active == 0);
}
