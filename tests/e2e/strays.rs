//! Bytes that nobody asked for, on connections that are used again: whom they reach, and what follows.
//!
//! An upstream that passes bytes on as they come (tinyproxy does) sends what its origins send, when they
//! send it. Whoever uses the connection next takes it for the answer.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http_proxy_lb::net::idle_pool::IdlePool;
use parking_lot::Mutex;

use super::harness::{Client, Hop, Message, PATIENCE, Proxy, Talk, Upstream, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const HEAD: &str = "HEAD http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";
const KEPT_HEAD: &str = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\n";

/// How far behind an answer the bytes come that do not belong to it.
const BEHIND: Duration = Duration::from_millis(3);

/// The most exchanges that may get bytes of others before the upstream is known for it.
const MOST_FOREIGN: usize = 3;

/// Clients that ask for pages of their own while another provokes stray bytes.
const OTHERS: usize = 4;

/// Pages each of them asks for once the upstream is known for its strays.
const MORE: usize = 50;

/// The idle connections of the only upstream.
#[track_caller]
fn of_pool<T>(proxy: &Proxy, of: impl FnOnce(&IdlePool) -> T) -> T {
    let snapshot = proxy.server().context().snapshot();
    let idle_pool = snapshot.idle_pool(&snapshot.pool.upstreams()[0]);
    of(idle_pool.expect("every upstream has one"))
}

#[track_caller]
fn is_distrusted(proxy: &Proxy) -> bool {
    of_pool(proxy, |idle_pool| {
        idle_pool.distrusted_until(Instant::now())
    })
    .is_some()
}

/// Answers with the path that was asked for, and says that the connection is kept.
fn own_page(hop: &mut Hop, request: &Message) {
    hop.send_kept(request.target());
}

/// One client makes requests that `a` answers with something behind, others ask for pages of their own.
/// Those must get them, but for so many of them.
#[track_caller]
fn expect_own_pages(provoking: &str, a: &Upstream, most_foreign: usize) {
    let proxy = Proxy::over([a]);
    let (before, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking: Vec<_> = (0..OTHERS)
            .map(|number| {
                let (proxy, before, after) = (&proxy, &before, &after);
                scope.spawn(move || {
                    let mut client = proxy.client();
                    let (mut asked, mut left) = (0, MORE);
                    let since = Instant::now();
                    while left > 0 {
                        assert!(since.elapsed() < PATIENCE, "no stray byte was noticed");
                        let is_known = is_distrusted(proxy);
                        let url = format!("http://o.test/{number}/{asked}");
                        asked += 1;
                        let page = client.get(&url).read_response().clone();
                        assert_eq!(page.status(), 200);
                        if page.text() != url {
                            let count = if is_known { after } else { before };
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        left -= usize::from(is_known);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let mut client = proxy.client();
                client.send(provoking);
                client.read_head();
            }
        });
        let asked: Vec<_> = asking
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        is_over.store(true, Ordering::Relaxed);
        for one in asked {
            one.expect("a client that was served");
        }
    });
    let (before, after) = (before.into_inner(), after.into_inner());
    assert!(before <= most_foreign, "{before} got pages of others");
    assert_eq!(after, 0, "got pages of others after that was known");
    proxy.expect_online("a");
}

/// Answers HEAD with `head`, and a moment later sends `behind`.
fn late(head: &'static str, behind: &'static str) -> Upstream {
    Upstream::answering("a", move |hop, request| {
        if request.target().ends_with("/late") {
            hop.send_as_far_as_possible(head);
            thread::park_timeout(BEHIND);
            hop.send_as_far_as_possible(behind);
        } else {
            own_page(hop, request);
        }
    })
}

const ANOTHER_ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nFOREIGN";
const ASKS_HEAD: &str = "HEAD http://o.test/late HTTP/1.1\r\nHost: o.test\r\n\r\n";
const ASKS: &str = "GET http://o.test/late HTTP/1.1\r\nHost: o.test\r\n\r\n";

#[test]
fn late_bodies_behind_answers_without_one_reach_no_other_client() {
    for behind in ["late", ANOTHER_ANSWER] {
        expect_own_pages(ASKS_HEAD, &late(KEPT_HEAD, behind), MOST_FOREIGN);
        for head in [
            "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nConnection: keep-alive\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ] {
            expect_own_pages(ASKS, &late(head, behind), MOST_FOREIGN);
        }
    }
}

#[test]
fn a_late_second_answer_reaches_few_and_nobody_once_it_was_noticed() {
    let head = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    expect_own_pages(ASKS, &late(head, ANOTHER_ANSWER), MOST_FOREIGN);
}

#[test]
fn a_second_answer_in_one_piece_with_the_first_reaches_nobody() {
    let a = Upstream::answering("a", |hop, request| {
        if request.target().ends_with("/late") {
            hop.send_as_far_as_possible(format!(
                "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok{ANOTHER_ANSWER}"
            ));
        } else {
            own_page(hop, request);
        }
    });
    expect_own_pages(ASKS, &a, 0);
}

#[test]
fn garbage_on_kept_connections_costs_no_request_and_nobody_is_blamed() {
    for garbage in ["x", "\r\n", "garbage\r\n\r\n", ANOTHER_ANSWER] {
        let a = Upstream::answering("a", move |hop, request| {
            own_page(hop, request);
            thread::park_timeout(Duration::from_millis(1));
            hop.send_as_far_as_possible(garbage);
        });
        let proxy = Proxy::over([&a]);
        let mut clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
        for number in 0..80 {
            let client = &mut clients[number % 4];
            client.get("http://o.test/").expect_status(200);
        }
        proxy.expect_online("a");
        assert_eq!(proxy.upstream("a").consecutive_failures, 0);
    }
}

#[test]
fn of_requests_that_cannot_be_repeated_one_is_lost_to_an_upstream_that_closes_under_them() {
    let known = Mutex::new(HashSet::new());
    let a = Upstream::answering("a", move |hop, request| {
        let name = hop.stream().peer_addr().expect("the name of a connection");
        if known.lock().insert(name) {
            own_page(hop, request);
        } else {
            hop.close_then();
        }
    });
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    let statuses = (0..12).map(|_| client.send(POST).read_response().status());
    let served = statuses.filter(|status| *status == 200).count();
    assert!(served >= 11, "{served} of 12");
    proxy.expect_online("a");
}

#[test]
fn a_client_uses_the_connection_of_its_own_head_at_once() {
    let (a, proxy) = by_hand();
    let mut client = proxy.client();
    client.send(HEAD);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send(KEPT_HEAD);
    client.expect_head(200);
    client.send(GET);
    hop.read_request();
    hop.send_kept("mine");
    client.expect_status(200).expect_body("mine");
}

#[test]
fn another_client_uses_it_after_twenty_milliseconds_and_not_before() {
    let (a, proxy) = by_hand();
    let mut was_fast = false;
    // Unless this machine takes that long for one request each time.
    wait_until(|| {
        let (first, other) = (&mut proxy.client(), &mut proxy.client());
        let since = Instant::now();
        first.send(HEAD);
        let (mut hop, _) = a.accept_and_read_request();
        hop.send(KEPT_HEAD);
        first.expect_head(200);
        other.send(GET);
        let (mut fresh, _) = a.accept_and_read_request();
        was_fast = since.elapsed() < Duration::from_millis(20);
        fresh.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        other.expect_status(200);
        let idle_since = Instant::now();
        wait_until(|| idle_since.elapsed() > Duration::from_millis(25));
        other.send(GET);
        hop.read_request();
        hop.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        other.expect_status(200);
        was_fast
    });
}

/// Its connections serve one client each, however long they were silent; what is under way ends.
#[test]
fn an_upstream_that_sent_a_stray_byte_has_a_connection_for_each_client() {
    let (a, proxy) = by_hand();
    let (mut first, mut second) = (proxy.client(), proxy.client());
    first.send(GET);
    let (mut before, _) = a.accept_and_read_request();
    second.send(GET);
    let (mut straying, _) = a.accept_and_read_request();
    straying.send(format!("{KEPT_HEAD}pageX"));
    second.expect_status(200).expect_body("page");
    straying.expect_gone();
    wait_until(|| is_distrusted(&proxy));
    before.send_kept("page");
    first.expect_status(200).expect_body("page");
    before.expect_gone();
    let mut hops: Vec<_> = [&mut first, &mut second]
        .into_iter()
        .map(|client| {
            client.send(GET);
            let (mut hop, _) = a.accept_and_read_request();
            hop.send_kept("page");
            client.expect_status(200).expect_body("page");
            proxy.expect_at_rest();
            hop
        })
        .collect();
    let idle_since = Instant::now();
    wait_until(|| idle_since.elapsed() > Duration::from_millis(25));
    for (client, hop) in [&mut first, &mut second].into_iter().zip(&mut hops) {
        client.send(GET);
        hop.read_request();
        hop.send_kept("own");
        client.expect_status(200).expect_body("own");
    }
    let mut third = proxy.client();
    third.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_kept("third");
    third.expect_status(200).expect_body("third");
    assert_eq!(a.connections(), 5);
}

/// Bytes that were on their way when the trust was lost may be anybody's.
#[test]
fn an_answer_on_a_shared_connection_is_not_believed_once_the_upstream_has_strayed() {
    let (a, proxy) = by_hand();
    let (mut first, mut second) = (proxy.client(), proxy.client());
    let mut shared = kept((&proxy, &a), &mut first);
    second.send(GET);
    shared.read_request();
    first.send(GET);
    let (mut straying, _) = a.accept_and_read_request();
    straying.send(format!("{KEPT_HEAD}pageX"));
    first.expect_status(200);
    wait_until(|| is_distrusted(&proxy));
    shared.send(ANOTHER_ANSWER);
    let (mut fresh, _) = a.accept_and_read_request();
    fresh.send_kept("own page");
    second.expect_status(200).expect_body("own page");
    proxy.expect_online("a");
}

#[test]
fn bytes_behind_an_answer_that_closes_its_connection_do_not_matter() {
    let (a, proxy) = by_hand();
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\npageX");
    client.expect_status(200).expect_body("page");
    hop.expect_gone();
    assert!(!is_distrusted(&proxy));
}

#[test]
fn the_end_of_an_idle_connection_is_no_stray_byte() {
    let (a, proxy) = by_hand();
    let mut client = proxy.client();
    let hop = kept((&proxy, &a), &mut client);
    wait_until(|| of_pool(&proxy, IdlePool::len) == 1);
    hop.close();
    wait_until(|| of_pool(&proxy, IdlePool::is_empty));
    assert!(!is_distrusted(&proxy));
}

/// Whatever comes instead of an answer on a connection that was used before.
#[test]
fn a_request_whose_reused_connection_fails_is_sent_over_a_fresh_one_of_the_same_upstream() {
    let storm = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(40);
    let broken_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n";
    for (nonsense, is_stray) in [
        ("garbage\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", true),
        (broken_chunk, true),
        (storm.as_str(), false),
        ("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", false),
        ("", false),
    ] {
        let (a, proxy) = by_hand();
        let mut client = proxy.client();
        let mut hop = kept((&proxy, &a), &mut client);
        // An HTTP/1.0 client gets no interim answers.
        let mut old = proxy.client();
        old.send("GET http://o.test/ HTTP/1.0\r\n\r\n");
        hop.read_request();
        hop.send_as_far_as_possible(nonsense);
        drop(hop);
        let (mut fresh, _) = a.accept_and_read_request();
        fresh.send_kept("sound");
        old.expect_status(200).expect_body("sound");
        assert_eq!(is_distrusted(&proxy), is_stray, "{nonsense}");
        let report = proxy.upstream("a");
        assert!(report.online, "{nonsense}: {:?}", report.reason);
        assert_eq!(report.consecutive_failures, 0, "{nonsense}");
        assert_eq!(a.probes().len(), 0, "{nonsense}");
    }
}

#[test]
fn what_cannot_be_repeated_is_told_so_and_nobody_is_blamed() {
    let (a, proxy) = by_hand();
    let mut client = proxy.client();
    let mut hop = kept((&proxy, &a), &mut client);
    client.send(POST);
    hop.read_request();
    hop.send("garbage\r\n\r\n");
    client.expect_refusal(502);
    proxy.expect_online("a");
    assert_eq!(proxy.upstream("a").consecutive_failures, 0);
}

/// Of whichever request the connection broke; others still take an idle one.
#[test]
fn after_a_reused_connection_broke_a_post_gets_a_fresh_one() {
    let (a, proxy) = by_hand();
    let mut client = proxy.client();
    let mut hop = kept((&proxy, &a), &mut client);
    client.send(GET);
    hop.read_request();
    hop.reset();
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_kept("again");
    client.expect_status(200).expect_body("again");
    client.send(POST);
    let (mut fresh, _) = a.accept_and_read_request();
    fresh.send_kept("posted");
    client.expect_status(200).expect_body("posted");
    client.send(GET);
    fresh.read_request();
    fresh.send_kept("got");
    client.expect_status(200).expect_body("got");
}

/// Of a client that authenticates its connection; the same by the direct route.
#[test]
fn a_bound_connection_that_carries_something_else_is_replaced() {
    let ntlm = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nAuthorization: NTLM x\r\n\r\n";
    let (a, proxy) = by_hand();
    let mut client = proxy.client();
    client.send(ntlm);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_kept("1");
    client.expect_status(200);
    client.send(GET);
    hop.read_request();
    hop.send("garbage\r\n\r\n");
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_kept("2");
    client.expect_status(200).expect_body("2");
    proxy.expect_online("a");
}

fn by_hand() -> (Upstream, Proxy) {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    (a, proxy)
}

/// A connection over which the client has got an answer, and that is idle now.
#[track_caller]
fn kept((proxy, a): (&Proxy, &Upstream), client: &mut Client) -> Hop {
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_kept("kept");
    client.expect_status(200).expect_body("kept");
    // A connection is kept a moment after its response has arrived.
    wait_until(|| proxy.counts().busy == 0);
    hop
}
