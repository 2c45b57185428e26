//! One exchange in one line, for tests that are tables.
//!
//! | question | function |
//! |---|---|
//! | what does the next hop get when a client sends this? | [`forwarded`], [`forwarded_direct`] |
//! | what does a client get when an upstream answers this? | [`relayed`] |
//! | is this request refused, without a trace at the upstream? | [`expect_refused`], [`expect_refused_and_closed`] |
//! | is this answer of an upstream refused? | [`expect_bad_gateway`] |
//! | how is it written? | [`get`], [`connect`], [`basic`] |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::wire::latin1;
use super::{Client, Message, Origin, Proxy, Talk, Upstream};

/// What an upstream gets when a client sends this request, which is answered with 200.
#[track_caller]
pub(crate) fn forwarded(request: impl AsRef<[u8]>) -> Message {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    proxy.client().send(request).expect_head(200);
    upstream
        .requests()
        .pop()
        .expect("a request at the upstream")
}

/// What an origin gets when a client sends this request on the direct route. `{origin}` in it
/// stands for the authority of the origin.
#[track_caller]
pub(crate) fn forwarded_direct(request: &str) -> Message {
    let origin = Origin::echo_ok("origin");
    let proxy = Proxy::direct();
    proxy
        .client()
        .send(request.replace("{origin}", &origin.authority()))
        .expect_head(200);
    origin.requests().pop().expect("a request at the origin")
}

/// What a client gets for a `GET` that the upstream answers with these bytes and then closes.
#[track_caller]
pub(crate) fn relayed(response: impl AsRef<[u8]>) -> Message {
    let upstream = Upstream::by_hand("a");
    let proxy = Proxy::over([&upstream]);
    let mut client = proxy.client();
    client.get("http://o.test/");
    let (mut hop, _) = upstream.accept_and_read_request();
    hop.send(response).half_close();
    client.read_response().clone()
}

/// Each of these requests, alone on its connection, is refused with this status. The upstream
/// sees nothing of them, and an honest client is served afterwards.
#[track_caller]
pub(crate) fn expect_refused<R: AsRef<[u8]>>(status: u16, requests: impl IntoIterator<Item = R>) {
    each_refused(requests, |client| {
        client.expect_refusal(status);
        if client.message().values("Connection") == ["close"] {
            client.expect_closed();
        }
    });
}

/// As [`expect_refused`], for requests after which nothing on the connection can be trusted: it
/// is closed.
#[track_caller]
pub(crate) fn expect_refused_and_closed<R: AsRef<[u8]>>(
    status: u16,
    requests: impl IntoIterator<Item = R>,
) {
    each_refused(requests, |client| {
        client.expect_refusal_and_close(status);
    });
}

#[track_caller]
fn each_refused<R: AsRef<[u8]>>(
    requests: impl IntoIterator<Item = R>,
    expect: impl Fn(&mut Client),
) {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    for request in requests {
        let mut client = proxy.client();
        client.send_as_far_as_possible(request.as_ref());
        expect(&mut client);
        let leaked = upstream.requests();
        assert!(leaked.is_empty(), "forwarded: {}", latin1(&leaked[0].raw));
    }
    upstream.expect_untouched();
    proxy.expect_honest_request_works();
}

/// Each of these answers of the only upstream becomes a 502 with none of its bytes, and an honest
/// exchange works afterwards. `EVIL` in an answer must never reach the client.
#[track_caller]
pub(crate) fn expect_bad_gateway<R: AsRef<[u8]>>(responses: impl IntoIterator<Item = R>) {
    for response in responses {
        let upstream = Upstream::by_hand("a");
        let proxy = Proxy::over([&upstream]);
        let mut client = proxy.client();
        client.get("http://o.test/");
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send_as_far_as_possible(response.as_ref()).half_close();
        client.expect_refusal(502);
        let answer = latin1(&client.message().raw);
        assert!(!answer.contains("EVIL"), "the answer leaks: {answer}");
        drop(hop);

        let mut honest = proxy.client();
        super::wait_until(|| proxy.upstream("a").online);
        honest.get("http://honest.test/");
        let (mut hop, _) = upstream.accept_and_read_request();
        hop.send_ok("honest");
        honest.expect_status(200).expect_body("honest");
    }
}

/// A request for the root of this host.
pub(crate) fn get(host: &str, fields: &str) -> String {
    format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
}

/// A request for a tunnel.
pub(crate) fn connect(authority: &str, fields: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n")
}

/// What a login looks like on the wire.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
