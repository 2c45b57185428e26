//! CONNECT (RFC 9110 §9.3.6): what opens a tunnel and what does not, through an upstream and
//! directly. What then happens in it is in `tunnel`.

use super::harness::{
    Client, Message, Origin, ProbeAnswer, Proxy, Talk, Upstream, expect_refused, numbered_fields,
    pattern, wait_until,
};

const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\r\n";

#[test]
fn connect_goes_to_an_upstream_as_connect() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (mut hop, request) = upstream.accept_and_read_request();
    request
        .expect_line("CONNECT o.test:443 HTTP/1.1")
        .expect_field("Host", "o.test:443");
    request
        .expect_no_field("Content-Length")
        .expect_no_field("Transfer-Encoding");
    hop.send("HTTP/1.1 200 Connection established\r\n\r\n");
    client.expect_tunnel().send("ping");
    hop.expect_bytes("ping").send("pong");
    client.expect_bytes("pong");
}

#[test]
fn connect_goes_directly_to_an_origin() {
    let origin = Origin::by_hand("origin");
    let proxy = Proxy::direct();
    let mut client = proxy.client();
    client.open_tunnel(&origin.authority()).send("ping");
    let mut end = origin.accept();
    end.expect_bytes("ping").send("pong");
    client.expect_bytes("pong");
}

/// D19: only 200 counted as success.
#[test]
fn any_2xx_opens_the_tunnel() {
    for answer in [
        "200 OK",
        "201 Created",
        "204 No Content",
        "299 Whatever",
        "200 ",
    ] {
        let (_proxy, upstream, mut client) = one_upstream();
        client.send(CONNECT);
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send(format!("HTTP/1.1 {answer}\r\n\r\n"));
        client.expect_tunnel().send("ping");
        hop.expect_bytes("ping").send("pong");
        client.expect_bytes("pong");
    }
}

#[test]
fn an_http_1_0_answer_opens_the_tunnel() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.0 200 Connection established\r\nProxy-agent: old\r\n\r\n");
    client.expect_tunnel().send("ping");
    hop.expect_bytes("ping");
}

/// What follows a 2xx is the tunnel, whatever its fields say (RFC 9112 §6.3).
#[test]
fn framing_fields_of_a_2xx_are_ignored() {
    for fields in [
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        "Connection: close",
    ] {
        let (_proxy, upstream, mut client) = one_upstream();
        client.send(CONNECT);
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nbanner"));
        client.expect_tunnel().expect_bytes("banner").send("ping");
        hop.expect_bytes("ping");
    }
}

/// D19.
#[test]
fn bytes_the_client_sends_with_connect_reach_the_tunnel() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(format!("{CONNECT}early")).send(" bird");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n")
        .expect_bytes("early bird");
    client.expect_tunnel();
}

#[test]
fn many_bytes_sent_with_connect_reach_the_tunnel() {
    let (_proxy, upstream, mut client) = one_upstream();
    let early = pattern(500_000);
    let sender = client.send_in_background([CONNECT.as_bytes(), &early].concat());
    let (mut hop, _) = upstream.accept_and_read_request();
    let late = pattern(300_000);
    let answerer = hop.send_in_background([b"HTTP/1.1 200 OK\r\n\r\n", &late[..]].concat());
    hop.expect_bytes(early);
    client.expect_tunnel().expect_bytes(late);
    for sender in [sender, answerer] {
        sender
            .join()
            .expect("the sender")
            .expect("everything is sent");
    }
}

/// D19: on the direct route, too.
#[test]
fn bytes_the_client_sends_with_connect_reach_the_origin() {
    let origin = Origin::by_hand("origin");
    let proxy = Proxy::direct();
    let authority = origin.authority();
    let mut client = proxy.client();
    client.send(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\nearly"
    ));
    origin.accept().expect_bytes("early");
    client.expect_tunnel();
}

/// D19: SMTP and SSH servers speak first, and their banner came with the answer.
#[test]
fn bytes_the_upstream_sends_with_its_answer_reach_the_client() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\n\r\n220 ready\r\n");
    client.expect_tunnel().expect_bytes("220 ready\r\n");
}

#[test]
fn an_origin_may_speak_first() {
    let origin = Origin::by_hand("origin");
    let proxy = Proxy::direct();
    let authority = origin.authority();
    let mut client = proxy.client();
    client.send(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    origin.accept().send("220 ready\r\n").half_close();
    client
        .expect_tunnel()
        .expect_bytes("220 ready\r\n")
        .expect_closed();
}

#[test]
fn head_and_answer_may_come_byte_by_byte() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send_byte_by_byte(format!("{CONNECT}early"));
    let (mut hop, request) = upstream.accept_and_read_request();
    request.expect_line("CONNECT o.test:443 HTTP/1.1");
    hop.send_byte_by_byte("HTTP/1.1 200 OK\r\nX: y\r\n\r\nbanner")
        .expect_bytes("early");
    client.expect_tunnel().expect_bytes("banner");
}

/// D18: more than 16 fields took the upstream offline.
#[test]
fn an_answer_with_many_fields_opens_the_tunnel() {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    let fields = numbered_fields(200);
    hop.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\nbanner"));
    client.expect_tunnel().expect_bytes("banner");
    proxy.expect_online("a");
}

/// D9: a 1xx is not the answer.
#[test]
fn an_interim_response_does_not_open_the_tunnel() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    hop.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    while client.read_response().status() < 200 {}
    assert_eq!(client.message().status(), 403);
    client.expect_body("no").expect_closed();
}

#[test]
fn the_credentials_of_the_upstream_are_sent_and_those_of_the_client_are_not() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([upstream.with("{username: bob, password: 'hunter:2'}")]);
    let mut client = proxy.client();
    client.send(
        "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n\
         Proxy-Authorization: Basic Y2xpZW50OnNlY3JldA==\r\nProxy-Connection: keep-alive\r\n\r\n",
    );
    let (_hop, request) = upstream.accept_and_read_request();
    request.expect_field("Proxy-Authorization", "Basic Ym9iOmh1bnRlcjoy");
    request.expect_no_field("Proxy-Connection");
}

/// D19: fields and body of a refusal were dropped.
#[test]
fn a_refusal_of_the_upstream_is_relayed_with_its_fields_and_body() {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 403 No Way\r\nX-Reason: policy\r\nContent-Length: 4\r\n\r\nnope");
    client
        .expect_status(403)
        .expect_field("X-Reason", "policy")
        .expect_body("nope");
    client.expect_field("Connection", "close").expect_closed();
    proxy.expect_online("a");
    proxy.expect_at_rest();
}

#[test]
fn a_refusal_with_a_body_of_any_framing_is_relayed() {
    let refusals = [
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnope\r\n0\r\n\r\n",
        "HTTP/1.0 404 Not Found\r\n\r\nnope",
    ];
    for refusal in refusals {
        let (_proxy, upstream, mut client) = one_upstream();
        client.send(CONNECT);
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send(refusal).half_close();
        client
            .expect_status(404)
            .expect_body("nope")
            .expect_closed();
    }
}

/// What came early was meant for the tunnel. As requests it would be smuggled.
#[test]
fn early_bytes_of_a_refused_connect_go_nowhere() {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(format!(
        "{CONNECT}GET http://smuggled.test/ HTTP/1.1\r\nHost: smuggled.test\r\n\r\n"
    ));
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    client.expect_status(403).expect_closed();
    drop(hop);
    proxy.expect_at_rest();
    upstream.expect_never_saw("smuggled");
    assert_eq!(upstream.connections(), 1);
}

/// D19: the client was shown a 407 that it cannot answer, and got its share of them for ever.
#[test]
fn a_407_of_an_upstream_sends_connect_to_the_next_one() {
    let (first, second) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let members = [first.with("priority: 1"), second.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send(format!("{CONNECT}early"));
    let (mut hop, _) = first.accept_and_read_request();
    first.answer_probes(ProbeAnswer::Status(407));
    hop.send(
        "HTTP/1.1 407 Proxy Authentication Required\r\n\
         Proxy-Authenticate: Basic realm=\"a\"\r\nContent-Length: 0\r\n\r\n",
    );
    client.expect_tunnel().expect_bytes("early");
    wait_until(|| !proxy.upstream("a").online);
    let reason = proxy.upstream("a").reason.expect("a reason");
    assert!(reason.contains("auth"), "{reason}");
    first.expect_never_saw("early");
}

/// So tinyproxy answers wrong credentials; missing ones it answers with 407.
#[test]
fn a_401_to_connect_is_about_the_credentials_if_any_were_sent() {
    const ITS_401: &str = "HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"\r\n\
         Content-Length: 0\r\n\r\n";
    let (first, second) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let members = [
        first.with("{priority: 1, username: bob, password: wrong}"),
        second.with("priority: 2"),
    ];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send(format!("{CONNECT}early"));
    let (mut hop, _) = first.accept_and_read_request();
    first.answer_probes(ProbeAnswer::Status(401));
    hop.send(ITS_401);
    client.expect_tunnel().expect_bytes("early");
    wait_until(|| !proxy.upstream("a").online);
    first.expect_never_saw("early");

    let (proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(ITS_401);
    client.expect_status(401).expect_closed();
    proxy.expect_online("a");
}

/// D19.
#[test]
fn a_407_of_the_only_upstream_is_502() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(
        "HTTP/1.1 407 Proxy Authentication Required\r\n\
         Proxy-Authenticate: Basic realm=\"a\"\r\nContent-Length: 0\r\n\r\n",
    );
    client
        .expect_refusal(502)
        .expect_no_field("Proxy-Authenticate");
}

#[test]
fn a_gateway_error_is_tried_on_one_other_upstream_and_the_last_answer_relayed() {
    let [first, second, third] = ["a", "b", "c"].map(Upstream::by_hand);
    let members = [
        first.with("priority: 1"),
        second.with("priority: 2"),
        third.with("priority: 3"),
    ];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send(CONNECT);
    let (mut hop, _) = first.accept_and_read_request();
    hop.send("HTTP/1.1 503 Full\r\nContent-Length: 1\r\n\r\na");
    let (mut hop, _) = second.accept_and_read_request();
    hop.send("HTTP/1.1 504 Late\r\nContent-Length: 1\r\n\r\nb");
    client.expect_status(504).expect_body("b").expect_closed();
    third.expect_untouched();
    proxy.expect_online("a");
    proxy.expect_online("b");
}

#[test]
fn a_gateway_error_of_one_upstream_does_not_cost_the_tunnel() {
    let (first, second) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let members = [first.with("priority: 1"), second.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send(format!("{CONNECT}early"));
    let (mut hop, _) = first.accept_and_read_request();
    hop.send("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 1\r\n\r\na");
    client.expect_tunnel().expect_bytes("early");
    first.expect_never_saw("early");
}

/// It opens tunnels to what begins with `good`.
fn picky(name: &str, status: u16) -> Upstream {
    Upstream::answering(name, move |hop, request| {
        if request.method() == "CONNECT" && request.target().starts_with("good") {
            hop.send("HTTP/1.1 200 OK\r\n\r\n").close_then();
        } else if request.method() == "CONNECT" {
            hop.send(format!(
                "HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno"
            ));
        } else {
            hop.send_ok("plain");
        }
    })
}

fn tunnels_asked_of(upstream: &Upstream) -> usize {
    let requests = upstream.requests();
    let is_connect = |request: &&Message| request.method() == "CONNECT";
    requests.iter().filter(is_connect).count()
}

/// Half of all HTTPS failed with one in the pool.
#[test]
fn an_upstream_without_connect_costs_no_tunnel_soon_gets_none_and_serves_everything_else() {
    for status in [400, 405, 501] {
        let (a, b) = (picky("a", status), Upstream::echo_ok("b"));
        let proxy = Proxy::over([&a, &b]);
        for n in 0..8 {
            proxy.client().open_tunnel(&format!("o{n}.test:443"));
        }
        assert_eq!(tunnels_asked_of(&a), 2, "{status}");
        proxy.expect_online("a");
        let mut client = proxy.client();
        for _ in 0..4 {
            client.get("http://o.test/").expect_status(200);
        }
        assert_eq!(a.requests().len(), 4, "every second request goes there");
    }
}

/// An upstream that has CONNECT may refuse a target in the same words, and a client knows which.
#[test]
fn a_client_that_asks_for_what_an_upstream_refuses_keeps_no_tunnels_from_it() {
    let (a, b) = (picky("a", 405), Upstream::echo_ok("b"));
    let proxy = Proxy::over([&a, &b]);
    proxy.client().open_tunnel("good.test:443");
    for n in 0..8 {
        proxy.client().open_tunnel(&format!("bad{n}.test:443"));
    }
    let before = tunnels_asked_of(&a);
    for n in 0..4 {
        proxy.client().open_tunnel(&format!("good{n}.test:443"));
    }
    assert_eq!(tunnels_asked_of(&a), before + 2);
}

#[test]
fn what_an_upstream_says_of_other_ports_or_of_one_target_does_not_show_that_it_has_no_connect() {
    // Every second one goes there first.
    for targets in [["o.test:25", "p.test:25", "q.test:25"], ["o.test:443"; 3]] {
        let (a, b) = (picky("a", 405), Upstream::echo_ok("b"));
        let proxy = Proxy::over([&a, &b]);
        for target in targets.iter().cycle().take(8) {
            proxy.client().open_tunnel(target);
        }
        assert_eq!(tunnels_asked_of(&a), 4);
    }
}

#[test]
fn if_no_upstream_has_connect_the_client_sees_the_first_answer() {
    let [a, b] = [405, 501].map(|status| picky(&status.to_string(), status));
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    for n in 0..4 {
        let mut client = proxy.client();
        client.send(format!(
            "CONNECT o{n}.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n"
        ));
        client.expect_status(405).expect_body("no").expect_closed();
    }
    assert_eq!((tunnels_asked_of(&a), tunnels_asked_of(&b)), (4, 4));
}

/// It knows better than one that cannot know.
#[test]
fn a_gateway_error_is_told_rather_than_the_answer_of_one_without_connect() {
    let [first, second, third] = [405, 502, 405].map(|status| picky(&status.to_string(), status));
    let members = [
        first.with("{name: a, priority: 1}"),
        second.with("{name: b, priority: 2}"),
        third.with("{name: c, priority: 3}"),
    ];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send(CONNECT);
    client.expect_status(502).expect_body("no").expect_closed();
    assert_eq!(tunnels_asked_of(&third), 1);
}

/// D12.
#[test]
fn an_ipv6_literal_keeps_its_brackets() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n\r\n");
    let (_hop, request) = upstream.accept_and_read_request();
    request.expect_line("CONNECT [2001:db8::1]:8443 HTTP/1.1");
    request.expect_field("Host", "[2001:db8::1]:8443");
}

/// D12: a bad port silently became 443.
#[test]
fn a_target_without_a_valid_port_is_refused() {
    check_refused(&[
        "o.test",
        "o.test:",
        "o.test:0",
        "o.test:65536",
        "o.test:99999",
        "o.test:notaport",
        "o.test:+443",
        "o.test:-1",
        "o.test:443x",
        "2001:db8::1",
        "[2001:db8::1]",
    ]);
}

#[test]
fn a_target_that_is_no_authority_is_refused() {
    check_refused(&[
        ":443",
        "bob:hunter2@o.test:443",
        "bob@o.test:443",
        "http://o.test:443/",
        "https://o.test:443",
        "/",
        "*",
        "o.test:443/",
        "o.test:443?x",
        "o.test:443#x",
        "[::1:443",
        "[::1]x:443",
        "[fe80::1%25eth0]:443",
        "a..b:443",
        "a,b:443",
    ]);
}

#[test]
fn host_of_connect_is_replaced_by_the_target() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("CONNECT O.Test:443 HTTP/1.1\r\nHost: other.test\r\n\r\n");
    let (_hop, request) = upstream.accept_and_read_request();
    request
        .expect_line("CONNECT o.test:443 HTTP/1.1")
        .expect_field("Host", "o.test:443");
}

#[test]
fn connect_with_a_body_is_refused() {
    let connect =
        |field| format!("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\n{field}\r\n\r\n");
    expect_refused(
        400,
        ["Content-Length: 5", "Transfer-Encoding: chunked"].map(connect),
    );
}

#[test]
fn connect_with_an_empty_body_is_a_tunnel() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test:443\r\nContent-Length: 0\r\n\r\n");
    let (mut hop, request) = upstream.accept_and_read_request();
    request.expect_no_field("Content-Length");
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel().send("ping");
    hop.expect_bytes("ping");
}

#[test]
fn an_origin_that_refuses_is_502() {
    let nobody = Upstream::refusing("nobody");
    let authority = nobody.address().to_string();
    let proxy = Proxy::direct();
    proxy
        .client()
        .send(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        ))
        .expect_refusal(502)
        .expect_field_with("Proxy-Status", "connection_refused");
}

#[test]
fn an_upstream_that_closes_instead_of_answering_is_502() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (hop, _) = upstream.accept_and_read_request();
    hop.close();
    client.expect_refusal(502);
}

/// D19b: there was no limit at all.
#[test]
fn an_answer_that_does_not_come_in_time_is_504() {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml("limits: {response_timeout_secs: 0.3}", [&upstream]);
    let mut client = proxy.client();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    client.expect_refusal(504);
    hop.expect_gone();
}

/// D3e: five pending ones showed 0, and all of them went to the same upstream.
#[test]
fn a_pending_connect_counts_as_active() {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(CONNECT);
    let (mut hop, _) = upstream.accept_and_read_request();
    assert_eq!(proxy.upstream("a").active, 1);
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    assert_eq!(proxy.upstream("a").active, 1);
    drop(client);
    drop(hop);
    proxy.expect_at_rest();
}

fn one_upstream() -> (Proxy, Upstream, Client) {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let client = proxy.client();
    (proxy, upstream, client)
}

/// CONNECT to each of these is answered with 400 and reaches nobody.
#[track_caller]
fn check_refused(targets: &[&str]) {
    let request = |target| format!("CONNECT {target} HTTP/1.1\r\nHost: o.test\r\n\r\n");
    expect_refused(400, targets.iter().map(request));
}
