//! Which connections stay and which are closed (RFC 9112 §9), on both sides of the relay.

use super::harness::{Client, Hop, Member, Origin, ProbeAnswer, Proxy, Talk, Upstream, wait_until};

const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn one_connection_serves_one_request_after_the_other() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    for n in 0..5 {
        client
            .get(&format!("http://o.test/{n}"))
            .expect_status(200)
            .expect_no_field("Connection");
    }
    assert_eq!(upstream.requests().len(), 5);
    wait_until(|| proxy.counts().connections == 1);
}

#[test]
fn an_idle_connection_is_parked_and_goes_on() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/").expect_status(200);
    wait_until(|| proxy.counts().parked == 1 && proxy.counts().busy == 0);
    client.get("http://o.test/").expect_status(200);
    wait_until(|| proxy.counts().parked == 1);
    client.send_byte_by_byte(POST).expect_status(200);
    drop(client);
    wait_until(|| proxy.counts().connections == 0);
}

/// Nothing more is told of a connection that ended together with its request.
#[test]
fn a_client_that_leaves_right_behind_its_request_is_not_held_for_its_idle_limit() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {idle_timeout_secs: 3600}", [&upstream]);
    for _ in 0..20 {
        let mut client = proxy.client();
        client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n");
        drop(client);
    }
    wait_until(|| proxy.counts().connections == 0);
}

/// Requests that come while another is served are noticed, however they fall on reads.
#[test]
fn what_a_client_sends_while_it_is_served_is_served_next() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send("GET http://o.test/1 HTTP/1.1\r\nHost: o.test\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    client.send("GET http://o.test/2 HTTP/1.1\r\nHost: o.test\r\n\r\n");
    hop.send_ok("one");
    client.expect_status(200).expect_body("one");
    hop.read_head();
    hop.send_ok("two");
    client.expect_status(200).expect_body("two");
}

/// A slow head costs no thread: what came of it waits with the connection.
#[test]
fn an_unfinished_head_is_parked_and_goes_on() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    let parked = || wait_until(|| proxy.counts().parked == 1 && proxy.counts().busy == 0);
    for piece in [
        "PO",
        "ST http://o.test/ HTTP/1.1\r\nHost: ",
        "o.test\r\nContent-Length: 2\r\n",
    ] {
        client.send(piece);
        parked();
    }
    client
        .send("\r\nhiGET http://o.test/next HTTP/1.1\r\nHo")
        .expect_status(200);
    parked();
    client.send("st: o.test\r\n\r\n").expect_status(200);
    upstream.requests()[0].expect_body("hi");
    upstream.requests()[1].expect_line("GET http://o.test/next HTTP/1.1");
    client.send("GET http://o.test/ne");
    parked();
    client.close();
    wait_until(|| proxy.counts().connections == 0);
}

#[test]
fn hundreds_of_pipelined_requests_are_answered() {
    const REQUESTS: usize = 500;
    let (upstream, _proxy, mut client) = echoing();
    let requests = (0..REQUESTS)
        .map(|n| format!("GET http://o.test/{n} HTTP/1.1\r\nHost: o.test\r\n\r\n"))
        .collect::<Vec<_>>()
        .concat();
    let sender = client.send_in_background(requests.into_bytes());
    for _ in 0..REQUESTS {
        client.expect_status(200);
    }
    sender
        .join()
        .expect("the sender")
        .expect("everything is sent");
    for (n, request) in upstream.requests().iter().enumerate() {
        request.expect_line(&format!("GET http://o.test/{n} HTTP/1.1"));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    let get = |n| format!("GET http://o.test/{n} HTTP/1.1\r\nHost: o.test\r\n\r\n");
    client.send([get(1).as_str(), POST, &get(2), POST, &get(3)].concat());
    for _ in 0..5 {
        client.expect_status(200).expect_body("a");
    }
    let targets: Vec<_> = upstream
        .requests()
        .iter()
        .map(|r| r.target().to_owned())
        .collect();
    let all = [
        "http://o.test/1",
        "http://o.test/",
        "http://o.test/2",
        "http://o.test/",
        "http://o.test/3",
    ];
    assert_eq!(targets, all);
}

/// D11b: the second request went to the upstream of the first, whatever the rules said.
#[test]
fn each_pipelined_request_goes_its_own_way() {
    let upstream = Upstream::echo_ok("a");
    let origin = Origin::echo_ok("origin");
    let rules = "domain_policy: {mode: blacklist, domains: [127.0.0.1]}";
    let proxy = Proxy::with_yaml(rules, [&upstream]);
    let authority = origin.authority();
    let direct = format!("GET http://{authority}/x HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let mut client = proxy.client();
    client.send([POST, &direct, POST, &direct].concat());
    for name in ["a", "origin", "a", "origin"] {
        client.expect_status(200).expect_body(name);
    }
    upstream.expect_never_saw(&authority);
    origin.expect_never_saw("o.test");
}

#[test]
fn a_client_that_asks_to_close_is_told_so_and_closed() {
    for field in [
        "Connection: close",
        "connection: Close",
        "Connection: x, close",
        "Proxy-Connection: close",
    ] {
        let (_upstream, _proxy, mut client) = echoing();
        client.send(format!(
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{field}\r\n\r\n"
        ));
        client
            .expect_status(200)
            .expect_field("Connection", "close")
            .expect_closed();
    }
}

/// D11c: it was looked for as a substring.
#[test]
fn an_option_that_only_resembles_close_closes_nothing() {
    for field in [
        "Connection: closed",
        "Connection: x-close",
        "Connection: \"close\"",
        "X: close",
    ] {
        let (_upstream, _proxy, mut client) = echoing();
        client.send(format!(
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{field}\r\n\r\n"
        ));
        client.expect_status(200).expect_no_field("Connection");
        client.get("http://o.test/").expect_status(200);
    }
}

#[test]
fn nothing_behind_a_request_that_closes_is_served() {
    let (upstream, _proxy, mut client) = echoing();
    client.send(
        "GET http://o.test/1 HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n\
         GET http://o.test/2 HTTP/1.1\r\nHost: o.test\r\n\r\n",
    );
    client.expect_status(200).expect_gone();
    upstream.expect_never_saw("/2");
}

#[test]
fn a_refusal_after_a_well_framed_request_does_not_cost_the_connection() {
    let proxy = Proxy::over::<Member>([]);
    let mut client = proxy.client();
    for _ in 0..2 {
        client
            .get("http://o.test/")
            .expect_refusal(503)
            .expect_no_field("Connection");
    }
}

#[test]
fn a_client_may_leave_between_requests() {
    let (_upstream, proxy, mut client) = echoing();
    client
        .get("http://o.test/")
        .expect_status(200)
        .half_close()
        .expect_closed();
    wait_until(|| proxy.counts().connections == 0);
    let silent = proxy.client();
    wait_until(|| proxy.counts().connections == 1);
    silent.close();
    wait_until(|| proxy.counts().connections == 0);
}

/// A FIN of an HTTP/1.1 client means that it has gone; nobody is to blame.
#[test]
fn a_client_that_leaves_while_the_upstream_thinks_is_noticed() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    client.close();
    hop.expect_gone();
    proxy.expect_at_rest();
    proxy.expect_online("a");
    assert_eq!(proxy.upstream("a").consecutive_failures, 0);
}

/// D3: the reset of one client took both upstreams offline.
#[test]
fn a_client_that_resets_is_the_fault_of_no_upstream() {
    let (first, second) = (Upstream::by_hand("a"), Upstream::by_hand("b"));
    let members = [first.with("priority: 1"), second.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = first.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome");
    client.expect_head(200).expect_bytes("some");
    client.reset();
    let rest = hop.send_in_background(vec![b'x'; 999_996]);
    drop(rest.join().expect("the sender"));
    proxy.expect_at_rest();
    for name in ["a", "b"] {
        proxy.expect_online(name);
        assert_eq!(proxy.upstream(name).consecutive_failures, 0);
    }
    second.expect_untouched();
}

#[test]
fn a_client_that_said_close_may_half_close_and_still_gets_its_answer() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nConnection: close\r\n\r\n");
    client.half_close();
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.expect_nothing_more().send_ok("hi");
    client.expect_status(200).expect_body("hi").expect_closed();
}

#[test]
fn an_upstream_connection_is_used_again() {
    let (upstream, _proxy, mut client) = echoing();
    client.get("http://o.test/1").expect_status(200);
    client.send(POST).expect_status(200);
    client.get("http://o.test/2").expect_status(200);
    assert_eq!(upstream.connections(), 1);
}

/// tinyproxy says nothing and turns into a pipe to the origin of a chunked response.
#[test]
fn an_upstream_connection_about_which_nothing_was_said_serves_no_other_target() {
    let (upstream, proxy, mut client) = echoing();
    client.get("http://o.test/1").expect_status(200);
    client.get("http://other.test/").expect_status(200);
    assert_eq!(upstream.connections(), 2);
    proxy.expect_at_rest();
}

#[test]
fn an_upstream_connection_that_is_said_to_be_kept_serves_every_target() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n");
    client.expect_status(200);
    client.send("GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n");
    hop.read_request();
    hop.send_ok("hi");
    client.expect_status(200).expect_body("hi");
}

#[test]
fn reuse_can_be_turned_off() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("limits: {upstream_idle_connections: 0}", [&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/1").expect_status(200);
    client.get("http://o.test/2").expect_status(200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn an_upstream_that_closes_is_not_used_again_and_the_client_stays() {
    let closing = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nProxy-Connection: close\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    ];
    for response in closing {
        let (_proxy, upstream, mut client) = by_hand();
        client.get("http://o.test/1");
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send(response);
        client
            .expect_status(200)
            .expect_body("hi")
            .expect_no_field("Connection");
        hop.expect_closed();
        client.get("http://o.test/2");
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send_ok("again");
        client.expect_status(200).expect_body("again");
    }
}

#[test]
fn an_http_1_0_upstream_that_keeps_the_connection_is_used_again() {
    let (_proxy, upstream, mut client) = by_hand();
    client.get("http://o.test/1");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi");
    client.expect_status(200).get("http://o.test/2");
    hop.read_request();
    hop.send_ok("again");
    client.expect_status(200).expect_body("again");
}

/// Stale ones are the everyday of reuse: nobody failed.
#[test]
fn a_stale_upstream_connection_costs_nothing() {
    for request in ["GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n", POST] {
        let (proxy, upstream, mut client) = by_hand();
        client.get("http://o.test/1");
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send_ok("first");
        client.expect_status(200);
        hop.close();
        client.send(request);
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send_ok("second");
        client.expect_status(200).expect_body("second");
        proxy.expect_online("a");
        assert_eq!(proxy.upstream("a").consecutive_failures, 0);
    }
}

/// An answer nobody asked for would be taken for the next one.
#[test]
fn an_upstream_connection_with_unasked_bytes_is_not_used_again() {
    let (_proxy, upstream, mut client) = by_hand();
    client.get("http://o.test/1");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_ok("first");
    client.expect_status(200).expect_body("first");
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL");
    client.get("http://o.test/2");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_ok("second");
    client.expect_status(200).expect_body("second");
}

/// D1: such a request may have been carried out.
#[test]
fn a_post_whose_reused_connection_breaks_is_not_repeated() {
    let (_proxy, upstream, mut client) = by_hand();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_ok("first");
    client.expect_status(200).send(POST);
    hop.read_request().expect_body("hi");
    hop.reset();
    client.expect_refusal(502);
    assert_eq!(upstream.connections(), 1);
}

/// NTLM authenticates the connection, not the request: whoever shared it would be someone else.
#[test]
fn a_connection_that_was_authenticated_belongs_to_one_client() {
    for scheme in ["NTLM TlRMTVNTUAAB", "Negotiate YIIB"] {
        let (proxy, upstream, mut client) = by_hand();
        client.send(format!(
            "GET http://o.test/1 HTTP/1.1\r\nHost: o.test\r\nAuthorization: {scheme}\r\n\r\n"
        ));
        let (mut bound, _) = upstream.accept_and_read_request();
        bound.send_ok("1");
        client.expect_status(200).expect_body("1");
        check_bound(&proxy, &upstream, &mut client, bound);
    }
}

#[test]
fn a_connection_that_is_asked_to_authenticate_belongs_to_one_client() {
    for scheme in ["NTLM", "Negotiate", "Basic realm=\"x\", NTLM"] {
        let (proxy, upstream, mut client) = by_hand();
        client.get("http://o.test/1");
        let (mut bound, _) = upstream.accept_and_read_request();
        bound.send(format!(
            "HTTP/1.1 401 Who\r\nWWW-Authenticate: {scheme}\r\nContent-Length: 0\r\n\r\n"
        ));
        client.expect_status(401);
        check_bound(&proxy, &upstream, &mut client, bound);
    }
}

#[test]
fn a_bound_connection_ends_with_its_client() {
    let (_proxy, upstream, mut client) = by_hand();
    client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nAuthorization: NTLM x\r\n\r\n");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send_ok("1");
    client.expect_status(200);
    drop(client);
    hop.expect_gone();
}

/// D5: they got an unasked 408 after their last answer.
#[test]
fn an_idle_client_is_closed_without_a_word() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(
        "limits: {idle_timeout_secs: 0.5, request_timeout_secs: 0.5}",
        [&upstream],
    );
    let mut client = proxy.client();
    client
        .get("http://o.test/")
        .expect_status(200)
        .expect_closed();
    proxy.client().expect_closed();
}

/// D24: the client got the end of the connection and no answer.
#[test]
fn an_upstream_that_closes_without_an_answer_is_502() {
    let (proxy, upstream, mut client) = by_hand();
    upstream.answer_probes(ProbeAnswer::Close);
    client.send(POST);
    let (hop, _) = upstream.accept_and_read_request();
    hop.close();
    client
        .expect_refusal(502)
        .expect_field_with("Proxy-Status", "a");
    // The last one online: the probe decides.
    wait_until(|| !proxy.upstream("a").online);
}

fn echoing() -> (Upstream, Proxy, Client) {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    let client = proxy.client();
    (upstream, proxy, client)
}

fn by_hand() -> (Proxy, Upstream, Client) {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let client = proxy.client();
    (proxy, upstream, client)
}

/// Another client gets a connection of its own, and this one its old one again.
#[track_caller]
fn check_bound(proxy: &Proxy, upstream: &Upstream, client: &mut Client, mut bound: Hop) {
    let mut stranger = proxy.client();
    stranger.get("http://o.test/stranger");
    let (mut other, request) = upstream.accept_and_read_request();
    request.expect_line("GET http://o.test/stranger HTTP/1.1");
    other.send_ok("other");
    stranger.expect_status(200).expect_body("other");
    client.get("http://o.test/2");
    bound
        .read_request()
        .expect_line("GET http://o.test/2 HTTP/1.1");
    bound.send_ok("2");
    client.expect_status(200).expect_body("2");
}
