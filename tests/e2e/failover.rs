//! What is repeated at another upstream, and what never is.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::harness::{
    Client, Hop, Message, ProbeAnswer, Proxy, Talk, Upstream, pattern, wait_until,
};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";
const ITS_407: &str = "HTTP/1.1 407 Credentials\r\n\
    Proxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 2\r\n\r\nno";

/// The contract of the pool, under fire: what may be repeated never fails while one upstream
/// lives, and what may not be is never carried out twice.
#[test]
fn a_thousand_requests_survive_random_kills_and_no_post_arrives_twice() {
    const CLIENTS: usize = 4;
    const EACH: usize = 250;
    const KILLS: usize = 30;
    let upstreams = ["a", "b", "c"].map(Upstream::echo_ok);
    let proxy = Proxy::over(&upstreams);
    let (kills, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let enough = || KILLS <= kills.load(Ordering::Relaxed);
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let killer = scope.spawn(|| kill_and_revive(&proxy, &upstreams, (&kills, &over)));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| (number, proxy.client()))
            .map(|(number, client)| {
                scope.spawn(move || mixed_requests(client, number, (EACH, &enough)))
            })
            .collect();
        let tallies = clients.into_iter().map(thread::ScopedJoinHandle::join);
        let tallies = tallies.collect::<Vec<_>>();
        over.store(true, Ordering::Relaxed);
        killer.join().expect("the killer");
        let well = tallies
            .into_iter()
            .map(|tally| tally.expect("a client that was well served"));
        well.collect()
    });
    let mut arrivals = HashMap::<String, usize>::new();
    for request in upstreams.iter().flat_map(Upstream::requests) {
        if request.method() == "POST" {
            *arrivals.entry(request.target().to_owned()).or_default() += 1;
        }
    }
    let twice: Vec<_> = arrivals.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "arrived more than once: {twice:?}");
    let answered: usize = tallies.iter().map(|tally| tally.posts - tally.failed).sum();
    assert!(answered <= arrivals.len(), "answered but never arrived");
    proxy.expect_deserted();
}

struct Tally {
    posts: usize,
    failed: usize,
}

/// GET and POST in turn, so many and on until it is enough. A POST may end in a 502, a GET not.
fn mixed_requests(
    mut client: Client,
    number: usize,
    (count, enough): (usize, &dyn Fn() -> bool),
) -> Tally {
    let mut tally = Tally {
        posts: 0,
        failed: 0,
    };
    for n in (0..).take_while(|n| *n < count || !enough()) {
        let url = format!("http://o.test/{number}/{n}");
        if n % 2 == 0 {
            client.get(&url);
            let answer = client.read_response();
            assert_eq!(answer.status(), 200, "{url}: {}", answer.text());
            continue;
        }
        client.send(format!(
            "POST {url} HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\n\r\nhello"
        ));
        tally.posts += 1;
        match client.read_response().status() {
            200 => {}
            502 => tally.failed += 1,
            other => panic!("{url}: {other}"),
        }
    }
    tally
}

/// At any time one upstream is there and known to be.
fn kill_and_revive(
    proxy: &Proxy,
    upstreams: &[Upstream; 3],
    (kills, over): (&AtomicUsize, &AtomicBool),
) {
    let mut dice = Dice(20_260_115);
    let mut alive = [true; 3];
    while !over.load(Ordering::Relaxed) {
        let at = dice.below(3);
        let serves = |i: usize| alive[i] && proxy.upstream(upstreams[i].name()).online;
        if !alive[at] {
            upstreams[at].revive();
            alive[at] = true;
        } else if (0..3).any(|other| other != at && serves(other)) {
            upstreams[at].kill();
            alive[at] = false;
            kills.fetch_add(1, Ordering::Relaxed);
        }
        let pause = Duration::from_millis(u64::try_from(dice.below(30)).expect("a small number"));
        thread::park_timeout(pause);
    }
}

#[test]
fn a_refused_connection_sends_any_request_to_the_next_upstream() {
    for request in [GET, POST] {
        let (a, b) = (Upstream::refusing("a"), Upstream::echo_ok("b"));
        let proxy = in_order([&a, &b]);
        proxy
            .client()
            .send(request)
            .expect_status(200)
            .expect_body("b");
        assert!(!proxy.upstream("a").online, "refused");
    }
}

#[test]
fn only_idempotent_methods_are_repeated_after_they_were_sent() {
    for (method, repeated) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("PURGE", false),
        ("get", false),
    ] {
        let (a, b) = (closing("a"), Upstream::echo_ok("b"));
        let proxy = in_order([&a, &b]);
        let mut client = proxy.client();
        client.send(format!(
            "{method} http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n"
        ));
        client.expect_head(if repeated { 200 } else { 502 });
        let arrived = (a.requests().len(), b.requests().len());
        assert_eq!(arrived, (1, usize::from(repeated)), "{method}");
    }
}

#[test]
fn every_way_to_break_off_before_a_response_sends_a_get_to_the_next_upstream() {
    let ways: [fn(&mut Hop); 5] = [
        Hop::close_then,
        Hop::reset_then,
        |hop| half_an_answer(hop, "HTTP/1.1 200 O"),
        |hop| half_an_answer(hop, "SSH-2.0-OpenSSH\r\n"),
        |hop| half_an_answer(hop, "HTTP/1.1 100 Continue\r\n\r\n"),
    ];
    for way in ways {
        let a = Upstream::answering("a", move |hop, _| way(hop));
        let b = Upstream::echo_ok("b");
        let proxy = in_order([&a, &b]);
        let mut client = proxy.client();
        client.send(GET);
        while client.read_head().status() == 100 {}
        client.expect_bytes("b");
        assert!(proxy.upstream("a").suspect || proxy.upstream("a").online);
    }
}

#[test]
fn an_upstream_that_left_its_port_to_another_program_is_passed_over() {
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let proxy = in_order([&a, &b]);
    let mut client = proxy.client();
    client.send(GET).expect_status(200).expect_body("a");
    a.kill();
    for _ in 0..3 {
        client.send(GET).expect_status(200).expect_body("b");
        client.send(POST).expect_status(200).expect_body("b");
    }
}

/// Each at another upstream, and not more than three.
#[test]
fn a_request_is_tried_at_three_upstreams_at_most() {
    let upstreams = ["a", "b", "c", "d", "e"].map(closing);
    let proxy = Proxy::over(&upstreams);
    proxy.client().send(GET).expect_refusal(502);
    let counts = upstreams.each_ref().map(|u| u.requests().len());
    assert_eq!(counts.iter().sum::<usize>(), 3, "{counts:?}");
    assert!(counts.iter().all(|count| *count <= 1), "{counts:?}");
}

#[test]
fn no_upstream_is_tried_twice_by_one_request() {
    let upstreams = ["a", "b"].map(closing);
    let proxy = Proxy::over(&upstreams);
    proxy.client().send(GET).expect_refusal(502);
    assert_eq!(upstreams.each_ref().map(|u| u.requests().len()), [1, 1]);
}

#[test]
fn connections_refused_at_once_cost_no_attempt() {
    for request in [GET, POST] {
        let refusing = ["a", "b", "c", "d"].map(Upstream::refusing);
        let last = Upstream::echo_ok("e");
        let proxy = in_order(refusing.iter().chain([&last]));
        proxy
            .client()
            .send(request)
            .expect_status(200)
            .expect_body("e");
    }
}

/// It proves that nothing was processed, so not even a POST need fail.
#[test]
fn a_407_of_an_upstream_sends_any_method_to_the_next_one_and_takes_it_offline() {
    for method in ["GET", "POST", "PATCH"] {
        let a = Upstream::answering("a", |hop, _| {
            hop.send(ITS_407);
        });
        let b = Upstream::echo_ok("b");
        let proxy = in_order([&a, &b]);
        a.answer_probes(ProbeAnswer::Status(407));
        let body = pattern(60_000);
        let head = format!("{method} http://o.test/ HTTP/1.1\r\nHost: o.test\r\n");
        let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
        let mut client = proxy.client();
        client.send([head.as_bytes(), &body].concat());
        client.expect_status(200).expect_body("b");
        b.requests()[0].expect_body(&body);
        wait_until(|| !proxy.upstream("a").online);
        let reason = proxy.upstream("a").reason.expect("a is offline");
        assert!(reason.starts_with("auth"), "{reason}");
    }
}

#[test]
fn the_client_never_sees_the_407_of_an_upstream() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send(ITS_407);
    });
    let proxy = Proxy::over([&a]);
    a.answer_probes(ProbeAnswer::Status(407));
    proxy
        .client()
        .send(POST)
        .expect_refusal(502)
        .expect_no_field("Proxy-Authenticate");
    wait_until(|| !proxy.upstream("a").online);
    // The next one tries it; nobody else within a second.
    proxy.client().send(GET).expect_refusal(502);
    proxy.client().send(GET).expect_refusal(503);
}

/// Most upstreams pass on what an origin says, and anybody can have such an origin.
#[test]
fn a_407_of_an_origin_takes_nobody_offline_and_is_asked_for_at_two_upstreams() {
    let answering = |name| {
        Upstream::answering(name, |hop, request| {
            if request.line.contains("poison") {
                hop.send(ITS_407);
            } else {
                hop.send_ok("fine");
            }
        })
    };
    let pool = ["a", "b", "c"].map(answering);
    let proxy = Proxy::over(&pool);
    for _ in 0..20 {
        let mut client = proxy.client();
        client.get("http://poison.test/").expect_refusal(502);
        client.get("http://o.test/").expect_status(200);
    }
    for upstream in &pool {
        proxy.expect_online(upstream.name());
    }
    let poisonous = |request: &Message| request.line.contains("poison");
    let asked = pool.iter().flat_map(Upstream::requests);
    assert_eq!(asked.filter(poisonous).count(), 40);
}

#[test]
fn a_407_after_a_body_that_is_gone_is_502() {
    const LENGTH: usize = 200_000;
    let a = Upstream::answering("a", |hop, _| {
        hop.send(ITS_407);
    });
    let b = Upstream::echo_ok("b");
    let proxy = in_order([&a, &b]);
    let mut client = proxy.client();
    client.send(format!(
        "PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    let sender = client.send_in_background(pattern(LENGTH));
    client.expect_refusal(502);
    drop(sender.join().expect("the sender"));
    b.expect_untouched();
}

#[test]
fn a_chunked_body_is_repeated_whole() {
    let (a, b) = (closing("a"), Upstream::echo_ok("b"));
    let proxy = in_order([&a, &b]);
    proxy
        .client()
        .send("PUT http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .send("5\r\nhello\r\n")
        .send("6\r\n world\r\n0\r\nX: y\r\n\r\n")
        .expect_status(200)
        .expect_body("b");
    a.requests()[0]
        .expect_body("hello world")
        .expect_trailers(&["X: y"]);
    b.requests()[0]
        .expect_body("hello world")
        .expect_trailers(&["X: y"]);
}

#[test]
fn a_connect_that_got_no_answer_is_tried_elsewhere() {
    let (a, b) = (closing("a"), Upstream::echo_ok("b"));
    let proxy = in_order([&a, &b]);
    proxy
        .client()
        .open_tunnel("o.test:443")
        .send("ping")
        .expect_bytes("ping");
    assert_eq!(a.requests().len(), 1);
}

/// Nothing is repeated behind the first byte of a response (D4).
#[test]
fn a_response_that_has_begun_is_never_repeated() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        hop.close_then();
    });
    let b = Upstream::echo_ok("b");
    let proxy = in_order([&a, &b]);
    let mut client = proxy.client();
    client.send(GET).expect_head(200);
    client.expect_truncated("abc");
    b.expect_untouched();
}

/// It would make every upstream send the same, and each of them a suspect.
#[test]
fn what_an_origin_can_cause_is_repeated_nowhere_and_takes_nobody_offline() {
    let fields = "X: y\r\n".repeat(20_000);
    let cookies = "Set-Cookie: a=b\r\n".repeat(70_000 / 17);
    for broken in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nEVIL\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n z\r\n\r\n",
        "ICY 200 OK\r\nX: \0\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\n{fields}\r\n"),
        &format!("HTTP/1.1 200 OK\r\n{cookies}\r\n"),
    ] {
        let answer = broken.to_owned();
        let a = Upstream::answering("a", move |hop, _| {
            hop.send_as_far_as_possible(&answer);
            hop.close_then();
        });
        let b = Upstream::echo_ok("b");
        let proxy = in_order([&a, &b]);
        proxy.client().send(GET).expect_refusal(502);
        b.expect_untouched();
        proxy.expect_nobody_suspected();
        proxy.expect_online("a");
    }
}

/// What is merely odd is delivered, so no other upstream is asked, and nobody is held responsible.
#[test]
fn what_is_odd_in_a_response_is_no_reason_to_ask_another_upstream() {
    for odd in ["X-Note : v", "X-Note: \u{1}v\u{7f}"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{odd}\r\nContent-Length: 2\r\n\r\nhi");
        let a = Upstream::answering("a", move |hop, _| {
            hop.send(&answer);
        });
        let b = Upstream::echo_ok("b");
        let proxy = in_order([&a, &b]);
        proxy
            .client()
            .send(GET)
            .expect_status(200)
            .expect_body("hi");
        b.expect_untouched();
        proxy.expect_nobody_suspected();
    }
}

/// D5b: what was tried was remembered by position, so a reload made it exclude somebody else.
#[test]
fn a_reload_between_two_attempts_excludes_nobody_else() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let proxy = in_order([&a, &b]);
    let mut client = proxy.client();
    client.send(GET);
    let (hop, _) = a.accept_and_read_request();
    a.answer_probes(ProbeAnswer::Close);
    proxy.reload(
        "mode: priority",
        [b.with("priority: 1"), a.with("priority: 2")],
    );
    hop.close();
    client.expect_status(200).expect_body("b");
    assert_eq!(a.connections(), 1);
    // D5b: the failure went to an entry that nobody looked at any more.
    wait_until(|| !proxy.upstream("a").online);
}

/// D3: it was retried for a client that was gone.
#[test]
fn nothing_is_repeated_for_a_client_that_is_gone() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let proxy = in_order([&a, &b]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    client.reset();
    hop.expect_gone();
    proxy.expect_deserted();
    b.expect_untouched();
    proxy.expect_online("a");
}

/// D24: the client got the end of the connection.
#[test]
fn a_request_that_failed_everywhere_is_answered() {
    let upstreams = ["a", "b", "c"].map(closing);
    let proxy = Proxy::over(&upstreams);
    proxy
        .client()
        .send(GET)
        .expect_refusal(502)
        .expect_field_with("Proxy-Status", "error=connection_terminated");
    let refusing = ["a", "b", "c"].map(Upstream::echo_ok);
    let proxy = Proxy::over(&refusing);
    refusing.iter().for_each(Upstream::kill);
    proxy
        .client()
        .send(POST)
        .expect_refusal(502)
        .expect_field_with("Proxy-Status", "error=connection_refused");
}

#[test]
fn a_client_whose_request_failed_may_go_on() {
    let a = Upstream::answering("a", |hop, request: &Message| {
        if request.target().ends_with("/bad") {
            hop.close_then();
        } else {
            hop.send_ok("a");
        }
    });
    let b = Upstream::echo_ok("b");
    let proxy = in_order([&a, &b]);
    let mut client = proxy.client();
    client
        .send("POST http://o.test/bad HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi")
        .expect_refusal(502);
    client.send(GET).expect_status(200);
    let ids: HashSet<_> = a.requests().iter().map(|r| r.line.clone()).collect();
    assert!(ids.contains("POST http://o.test/bad HTTP/1.1"));
}

/// Each is preferred to the next.
fn in_order<'u, I: IntoIterator<Item = &'u Upstream>>(upstreams: I) -> Proxy {
    let member = |(at, upstream): (usize, &Upstream)| upstream.with(&format!("priority: {at}"));
    let members = upstreams.into_iter().enumerate().map(member);
    Proxy::with_yaml("mode: priority", members.collect::<Vec<_>>())
}

/// Reads each request and closes.
fn closing(name: &str) -> Upstream {
    Upstream::answering(name, |hop, _| hop.close_then())
}

fn half_an_answer(hop: &mut Hop, answer: &str) {
    hop.send(answer);
    hop.close_then();
}

/// The same numbers at every run (an LCG of Knuth).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % limit
    }
}
