//! `Upgrade` and 101: a request that becomes a tunnel (RFC 9110 §7.8).

use super::harness::{
    Client, Hop, Origin, Proxy, Talk, Upstream, expect_bad_gateway, forwarded, wait_until,
};

const UPGRADE: &str = "GET http://o.test/ws HTTP/1.1\r\nHost: o.test\r\n\
                       Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[test]
fn the_wish_to_upgrade_is_passed_on() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(UPGRADE);
    let (_hop, request) = upstream.accept_and_read_request();
    request
        .expect_line("GET http://o.test/ws HTTP/1.1")
        .expect_field("Upgrade", "websocket");
    request.expect_field("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let connection = request.values("Connection").concat().to_ascii_lowercase();
    assert_eq!(connection, "upgrade");
}

/// D9: the 101 was relayed, and then the upstream was dropped.
#[test]
fn a_101_opens_a_tunnel() {
    let (_proxy, _upstream, mut client, mut hop) = switched();
    client.expect_field("Upgrade", "websocket");
    client.expect_field("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let connection = client
        .message()
        .values("Connection")
        .concat()
        .to_ascii_lowercase();
    assert_eq!(connection, "upgrade");
    client.send(b"\x81\x85masked");
    hop.expect_bytes(b"\x81\x85masked").send(b"\x81\x05hello");
    client.expect_bytes(b"\x81\x05hello");
}

#[test]
fn an_origin_may_switch_as_well() {
    let origin = Origin::by_hand("origin");
    let proxy = Proxy::direct();
    let mut client = proxy.client();
    client.send(UPGRADE.replace("o.test", &origin.authority()));
    let mut end = origin.accept();
    end.read_until("\r\n\r\n");
    end.send(SWITCHING);
    client.expect_head(101).send("ping");
    end.expect_bytes("ping").send("pong");
    client.expect_bytes("pong");
}

#[test]
fn bytes_that_come_with_the_101_reach_the_client() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(UPGRADE);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(format!("{SWITCHING}first frame"));
    client.expect_head(101).expect_bytes("first frame");
}

#[test]
fn an_interim_response_may_come_before_the_101() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(UPGRADE);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{SWITCHING}frame"));
    client
        .expect_head(103)
        .expect_head(101)
        .expect_bytes("frame");
}

#[test]
fn bytes_the_client_sends_early_reach_the_tunnel() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(format!("{UPGRADE}early"));
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(SWITCHING).expect_bytes("early");
    client.expect_head(101);
}

#[test]
fn a_request_with_a_body_may_ask_for_an_upgrade() {
    let (_proxy, upstream, mut client) = one_upstream();
    let post = UPGRADE
        .replace("GET", "POST")
        .replace("Upgrade: w", "Content-Length: 2\r\nUpgrade: w");
    client.send(format!("{post}hi"));
    let (mut hop, request) = upstream.accept_and_read_request();
    request
        .expect_body("hi")
        .expect_field("Upgrade", "websocket");
    hop.send(SWITCHING);
    client.expect_head(101).send("ping");
    hop.expect_bytes("ping");
}

/// What came early was meant for the other protocol. As requests it would be smuggled.
#[test]
fn a_refused_upgrade_is_relayed_and_then_the_connection_ends() {
    for answer in ["200 OK", "400 Bad Request", "426 Upgrade Required"] {
        let (proxy, upstream, mut client) = one_upstream();
        client.send(format!(
            "{UPGRADE}GET http://smuggled.test/ HTTP/1.1\r\nHost: smuggled.test\r\n\r\n"
        ));
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send(format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nno"));
        client
            .read_head()
            .expect_line(&format!("HTTP/1.1 {answer}"));
        client
            .expect_field("Connection", "close")
            .expect_bytes("no")
            .expect_gone();
        drop(hop);
        proxy.expect_at_rest();
        upstream.expect_never_saw("smuggled");
        assert_eq!(upstream.connections(), 1);
    }
}

#[test]
fn a_101_that_nobody_asked_for_is_502() {
    expect_bad_gateway([format!("{SWITCHING}EVIL")]);
}

#[test]
fn a_switch_to_another_protocol_than_asked_for_is_502() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(UPGRADE);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(SWITCHING.replace("websocket", "evil/1"));
    client.expect_refusal(502);
}

/// The same where the answer is made here.
#[test]
fn after_an_upgrade_that_failed_here_the_connection_ends() {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(format!(
        "{UPGRADE}GET http://smuggled.test/ HTTP/1.1\r\nHost: smuggled.test\r\n\r\n"
    ));
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(SWITCHING.replace("websocket", "evil/1"));
    client
        .expect_refusal(502)
        .expect_field("Connection", "close");
    client.expect_gone();
    drop(hop);
    proxy.expect_at_rest();
    upstream.expect_never_saw("smuggled");
}

#[test]
fn an_upgrade_to_h2c_is_dropped() {
    let with = |fields| {
        forwarded(format!(
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{fields}\r\n\r\n"
        ))
    };
    let request =
        with("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM");
    request
        .expect_no_field("Upgrade")
        .expect_no_field("HTTP2-Settings");
    request.expect_no_field("Connection");
    with("Connection: Upgrade\r\nUpgrade: H2C").expect_no_field("Upgrade");
}

#[test]
fn the_other_protocols_stay_beside_h2c() {
    let (_proxy, upstream, mut client) = one_upstream();
    client.send(UPGRADE.replace("Upgrade: websocket", "Upgrade: h2c, websocket"));
    let (_hop, request) = upstream.accept_and_read_request();
    request.expect_field("Upgrade", "websocket");
}

#[test]
fn upgrade_without_the_connection_option_is_dropped() {
    forwarded("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nUpgrade: websocket\r\n\r\n")
        .expect_no_field("Upgrade")
        .expect_no_field("Connection");
}

#[test]
fn http_1_0_cannot_upgrade() {
    forwarded("GET http://o.test/ HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .expect_no_field("Upgrade")
        .expect_no_field("Connection");
}

#[test]
fn a_half_close_passes_and_the_other_direction_goes_on() {
    let (proxy, _upstream, mut client, mut hop) = switched();
    client.send("last words").half_close();
    hop.expect_bytes("last words").expect_closed();
    hop.send("still here").half_close();
    client.expect_bytes("still here").expect_closed();
    proxy.expect_at_rest();
}

#[test]
fn a_reset_passes() {
    let (proxy, _upstream, client, mut hop) = switched();
    client.reset();
    hop.expect_reset();
    proxy.expect_at_rest();
    let (proxy, _upstream, mut client, hop) = switched();
    hop.reset();
    client.expect_reset();
    proxy.expect_at_rest();
}

#[test]
fn an_upgraded_connection_holds_no_worker_and_counts_as_a_tunnel() {
    let (proxy, _upstream, mut client, mut hop) = switched();
    wait_until(|| proxy.counts().tunnels == 1 && proxy.counts().busy == 0);
    assert_eq!(proxy.upstream("a").active, 1);
    hop.send("x");
    client.expect_bytes("x");
}

fn one_upstream() -> (Proxy, Upstream, Client) {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let client = proxy.client();
    (proxy, upstream, client)
}

/// A connection whose client has just read the 101.
fn switched() -> (Proxy, Upstream, Client, Hop) {
    let (proxy, upstream, mut client) = one_upstream();
    client.send(UPGRADE);
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(SWITCHING);
    client.expect_head(101);
    (proxy, upstream, client, hop)
}
