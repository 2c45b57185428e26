//! What operators do to an upstream at run time.

use super::admin::{ADMIN, ask, check, metrics};
use super::harness::{Hop, Proxy, Talk, Upstream, wait_until};

#[track_caller]
fn act(proxy: &Proxy, action: &str, expected: u16) -> String {
    let (status, text) = ask(proxy, &format!("POST /upstreams/{action}"));
    assert_eq!(status, expected, "{text}");
    text
}

#[track_caller]
fn expect_event(proxy: &Proxy, event: &str, text: &str) {
    let (_, status) = ask(proxy, "GET /status");
    let told = format!("\"event\":\"{event}\",\"upstream\":\"a\",\"text\":\"upstream a {text}");
    assert!(status.contains(&told), "{told} in {status}");
}

/// How many of so many requests `upstream` gets.
fn share(proxy: &Proxy, upstream: &Upstream, count: usize) -> usize {
    let before = upstream.requests().len();
    for _ in 0..count {
        proxy.client().get("http://o.test/").expect_status(200);
    }
    upstream.requests().len() - before
}

#[test]
fn a_weight_that_is_set_lasts_until_the_one_in_the_file_is_changed() {
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let proxy = Proxy::with_yaml(ADMIN, [&a, &b]);
    assert_eq!(share(&proxy, &a, 8), 4);
    let answer = act(&proxy, "a/weight?value=3", 200);
    assert!(answer.contains("\"weight\":3"), "{answer}");
    expect_event(
        &proxy,
        "weight_set",
        "is given weight 3 by 127.0.0.1 (in the file: 1)",
    );
    assert_eq!(share(&proxy, &a, 8), 6);
    let (_, status) = ask(&proxy, "GET /status");
    assert!(
        status.contains("\"weight\":3,\"weight_in_file\":1,"),
        "{status}"
    );
    // Another change of the file leaves it alone.
    proxy.reload(&format!("{ADMIN}via: false\n"), [&a, &b]);
    assert_eq!(share(&proxy, &a, 8), 6);
    proxy.reload(ADMIN, [a.with("weight: 7"), b.with("weight: 1")]);
    assert_eq!(share(&proxy, &a, 8), 7);
    act(&proxy, "a/weight?value=0", 200);
    assert_eq!(share(&proxy, &a, 4), 0);
    act(&proxy, "a/weight?value=7", 200);
    assert_eq!(share(&proxy, &a, 8), 7);
    act(&proxy, "a/weight?value=x", 400);
}

#[test]
fn a_check_that_is_asked_for_is_made_and_told() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(ADMIN, [&a]);
    let before = a.probes().len();
    act(&proxy, "a/probe", 202);
    expect_event(&proxy, "check_wanted", "is checked now, as 127.0.0.1 wants");
    wait_until(|| a.probes().len() == before + 1);
    wait_until(|| {
        let (_, status) = ask(&proxy, "GET /status");
        status.contains("\"probes_succeeded\":2")
            && status.contains("\"works\":true,\"reason\":null}")
    });
    a.kill();
    act(&proxy, "a/probe", 202);
    wait_until(|| {
        let (_, status) = ask(&proxy, "GET /status");
        let told = "\"works\":false,\"reason\":\"cannot connect: connection refused\"}";
        status.contains(told)
    });
}

fn open(proxy: &Proxy, upstream: &Upstream) -> (super::harness::Client, Hop) {
    let mut client = proxy.client();
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n");
    let mut hop = upstream.accept();
    hop.read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    (client, hop)
}

#[test]
fn a_cut_ends_the_tunnels_of_that_upstream_alone() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::by_hand("b"));
    let proxy = Proxy::with_yaml(
        &format!("{ADMIN}mode: priority\n"),
        [a.with("priority: 1"), b.with("priority: 2")],
    );
    let (mut gone, mut cut) = open(&proxy, &a);
    act(&proxy, "a/drain", 200);
    let (mut stays, mut hop) = open(&proxy, &b);
    act(&proxy, "a/cut", 202);
    expect_event(
        &proxy,
        "cut",
        "is cut by 127.0.0.1; 1 request or tunnel ends",
    );
    gone.expect_closed();
    cut.expect_closed();
    stays.send("still here");
    hop.expect_bytes("still here");
    let numbers: &[(&str, u64)] = &[
        ("tunnels_ended_total{end=\"upstream_cut\"}", 1),
        ("tunnels", 1),
        ("upstream_active{upstream=\"a\"}", 0),
    ];
    wait_until(|| proxy.upstream("a").active == 0);
    check(&metrics(&proxy), numbers);
    // What begins afterwards is not cut.
    act(&proxy, "a/enable", 200);
    let (mut later, mut again) = open(&proxy, &a);
    later.send("new");
    again.expect_bytes("new");
}

#[test]
fn a_cut_sends_what_may_be_repeated_elsewhere_and_ends_the_rest() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let extra = format!("{ADMIN}mode: priority\nlimits: {{io_timeout_secs: 60}}\n");
    let proxy = Proxy::with_yaml(&extra, [a.with("priority: 1"), b.with("priority: 2")]);
    let post = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";
    let (mut waits, mut once, mut reads) = (proxy.client(), proxy.client(), proxy.client());
    waits.get("http://o.test/");
    let (_first, _) = a.accept_and_read_request();
    once.send(post);
    let (_second, _) = a.accept_and_read_request();
    reads.get("http://o.test/");
    let (mut third, _) = a.accept_and_read_request();
    third.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    reads.read_head();
    reads.expect_bytes("half");
    // A body that the client does not send on.
    let mut sends = proxy.client();
    sends.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 9\r\n\r\npart");
    let mut fourth = a.accept();
    fourth.read_head();
    act(&proxy, "a/cut", 202);
    waits.expect_status(200).expect_body("b");
    once.expect_refusal(502).expect_body_with("has cut");
    sends.expect_refusal(502).expect_body_with("has cut");
    reads.expect_closed();
    wait_until(|| proxy.upstream("a").active == 0);
    proxy.expect_online("a");
    check(
        &metrics(&proxy),
        &[("failures_total{cause=\"upstream_cut\"}", 3)],
    );
}
