//! Whose fault a failure is, and what follows: offline, a probe, or nothing.

use std::thread;
use std::time::{Duration, Instant};

use super::harness::{
    Client, Hop, Message, ProbeAnswer, Proxy, Talk, Upstream, latin1, wait_until,
};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";
/// A probe comes soon after somebody wants it, and its silence is an answer soon.
const IMPATIENT: &str = "health_check: {timeout_secs: 0.2}";

#[test]
fn a_refused_connection_takes_an_upstream_offline_at_once() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    a.kill();
    proxy.client().send(GET).expect_refusal(502);
    let report = proxy.upstream("a");
    assert!(!report.online);
    assert!(report.consecutive_failures >= 1);
    let reason = report.reason.expect("a reason");
    assert!(reason.contains("connection refused"), "{reason}");
}

/// D3b: one failure decided, whatever the file said.
#[test]
fn fall_failures_in_a_row_are_needed() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml("health_check: {fall: 3, interval_secs: 60}", [&a]);
    a.kill();
    let mut client = proxy.client();
    for online_after in [true, true, false] {
        client.send(GET).expect_refusal(502);
        assert_eq!(proxy.upstream("a").online, online_after);
    }
    client.send(GET).expect_refusal(503);
}

#[test]
fn an_upstream_that_can_be_connected_to_again_ends_a_row_of_failures() {
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority\nhealth_check: {fall: 3}", members);
    let mut client = proxy.client();
    for _ in 0..3 {
        a.kill();
        client.send(POST).expect_status(200).expect_body("b");
        assert!(proxy.upstream("a").consecutive_failures >= 1);
        a.revive();
        wait_until(|| proxy.upstream("a").consecutive_failures == 0);
        proxy.expect_online("a");
    }
}

/// D3b: a single 204 decided.
#[test]
fn rise_probes_in_a_row_are_needed() {
    let a = Upstream::refusing("a");
    let checks = "health_check: {rise: 2, interval_secs: 0.1}";
    let proxy = Proxy::with_yaml(checks, [&a]);
    a.revive();
    wait_until(|| proxy.upstream("a").online);
    assert!(a.probes().len() >= 2, "{} probes", a.probes().len());
}

#[test]
fn an_upstream_that_works_again_is_used_again() {
    let a = Upstream::refusing("a");
    let proxy = Proxy::over([&a]);
    proxy.client().send(GET).expect_refusal(503);
    a.revive();
    wait_until(|| proxy.upstream("a").online);
    let report = proxy.upstream("a");
    assert_eq!((report.reason, report.consecutive_failures), (None, 0));
    proxy.client().send(GET).expect_status(200).expect_body("a");
}

#[test]
fn a_probe_is_an_absolute_form_get_with_the_credentials_of_its_upstream() {
    let (a, b) = (Upstream::refusing("a"), Upstream::refusing("b"));
    let members = [a.with("{username: user, password: 'p:@ss'}"), b.with("{}")];
    let proxy = Proxy::over(members);
    a.revive();
    b.revive();
    wait_until(|| proxy.upstream("a").online && proxy.upstream("b").online);
    a.probes()[0]
        .expect_line("GET http://probe.test/probe-generate_204 HTTP/1.1")
        .expect_field("Host", "probe.test")
        .expect_field("Proxy-Authorization", "Basic dXNlcjpwOkBzcw==");
    b.probes()[0].expect_no_field("Proxy-Authorization");
}

/// D3b: it was 502, after a while. Now it says when to come back, at once, and for any method.
#[test]
fn with_no_upstream_online_the_answer_is_503_and_when_to_come_back() {
    let upstreams = ["a", "b"].map(Upstream::refusing);
    let proxy = Proxy::over(&upstreams);
    let mut client = proxy.client();
    client
        .send(GET)
        .expect_refusal(503)
        .expect_field_with("Proxy-Status", "destination_unavailable");
    client.send(POST).expect_refusal(503);
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n");
    client.expect_refusal_and_close(503);
    for upstream in &upstreams {
        upstream.expect_untouched();
    }
}

#[test]
fn a_pool_without_members_is_503_and_says_so() {
    let proxy = Proxy::over::<&Upstream>([]);
    proxy
        .client()
        .send(GET)
        .expect_refusal(503)
        .expect_body_with("upstream")
        .expect_field_with("Proxy-Status", "proxy_configuration_error");
}

/// A network that cannot reach the target of the probe must not be cut off.
#[test]
fn a_probe_that_passes_through_nobody_is_held_against_nobody() {
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    a.answer_only_probes(ProbeAnswer::Status(403));
    b.answer_only_probes(ProbeAnswer::Silence);
    let proxy = Proxy::with_yaml(IMPATIENT, [&a, &b]);
    for upstream in [&a, &b] {
        proxy.expect_online(upstream.name());
        let evidence = proxy.upstream(upstream.name()).evidence;
        assert!(evidence.contains("not believed"), "{evidence}");
    }
    // Restarted one after the other, they are back at once all the same.
    for (first, second) in [(&a, &b), (&b, &a)] {
        first.kill();
        let mut client = proxy.client();
        for _ in 0..4 {
            client
                .send(GET)
                .expect_status(200)
                .expect_body(second.name());
        }
        first.revive();
        wait_until(|| proxy.upstream(first.name()).online);
    }
}

#[test]
fn an_upstream_through_which_the_probe_does_not_pass_is_accused_by_one_through_which_it_does() {
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    a.answer_only_probes(ProbeAnswer::Status(403));
    let proxy = Proxy::over([&a, &b]);
    let report = proxy.upstream("a");
    assert_eq!(report.reason.as_deref(), Some("probe: got 403"));
    assert_eq!(report.evidence, "the probe passes through b");
    a.answer_only_probes(ProbeAnswer::Good);
    wait_until(|| proxy.upstream("a").online);
}

#[test]
fn an_upstream_is_asked_for_itself_without_credentials_and_in_origin_form() {
    let a = Upstream::answering("a", |hop, _| hop.close_then());
    let proxy = Proxy::over([a.with("{username: user, password: secret}")]);
    proxy.client().send(GET).expect_refusal(502);
    wait_until(|| !a.checks().is_empty());
    a.checks()[0]
        .expect_line("GET / HTTP/1.1")
        .expect_field("Host", &a.address().to_string())
        .expect_no_field("Proxy-Authorization");
    proxy.expect_nobody_suspected();
    assert_eq!(a.probes().len(), 0, "a round trip is enough for this doubt");
}

#[test]
fn without_a_url_nothing_beyond_the_upstreams_is_asked_for() {
    let a = Upstream::by_hand("a");
    let checks = "health_check: {url: none, timeout_secs: 0.2}";
    let proxy = Proxy::with_yaml(checks, [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    wait_until(|| !a.checks().is_empty());
    hop.send_ok("late");
    client.expect_status(200);
    proxy.expect_online("a");
    assert_eq!(a.probes().len(), 0);
}

#[test]
fn a_probe_of_an_https_url_is_a_connect() {
    let a = Upstream::answering("a", |hop, request| {
        assert_eq!(request.line, "CONNECT probe.test:443 HTTP/1.1");
        hop.send("HTTP/1.1 200 OK\r\n\r\n");
        hop.close_then();
    });
    let proxy = Proxy::with_yaml("health_check: {url: 'https://probe.test'}", [&a]);
    assert_eq!(proxy.upstream("a").evidence, "the probe passed");
    assert_eq!(a.requests().len(), 1);
}

#[test]
fn an_upstream_that_refuses_our_credentials_stays_offline_whatever_is_tried() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send(
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n",
        );
    });
    a.answer_probes(ProbeAnswer::Status(407));
    let proxy = Proxy::over([&a]);
    let reason = proxy.upstream("a").reason.expect("a is offline");
    assert!(reason.starts_with("auth"), "{reason}");
    let mut client = proxy.client();
    client.send(GET).expect_refusal(502);
    client.send(GET).expect_refusal(503);
    assert_eq!(a.requests().len(), 1);
}

/// The first upstream that works serves again, without a probe.
#[test]
fn while_nobody_is_in_service_one_request_a_second_tries_each_upstream() {
    let upstreams = ["a", "b"].map(Upstream::refusing);
    // No check comes before the test is over.
    let proxy = Proxy::with_yaml("health_check: {rise: 1000}", &upstreams);
    let mut client = proxy.client();
    client.send(POST).expect_refusal(503);
    upstreams[1].revive();
    wait_until(|| {
        client.send(POST);
        client.read_response().status() == 200
    });
    proxy.expect_online("b");
    client.send(POST).expect_status(200).expect_body("b");
}

#[test]
fn the_status_that_a_probe_wants_can_be_chosen() {
    let a = Upstream::refusing("a");
    a.answer_probes(ProbeAnswer::Status(302));
    let proxy = Proxy::with_yaml("health_check: {expect_status: 302}", [&a]);
    a.revive();
    wait_until(|| proxy.upstream("a").online);
}

/// It is probed while the request goes on waiting, found dead, and the request goes elsewhere.
#[test]
fn a_get_that_waits_for_a_dead_upstream_is_answered_by_another() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml(&format!("mode: priority\n{IMPATIENT}"), members);
    a.answer_probes(ProbeAnswer::Silence);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    client.expect_status(200).expect_body("b");
    hop.expect_gone();
    assert!(!a.checks().is_empty());
    let reason = proxy.upstream("a").reason.expect("a is offline");
    assert_eq!(reason, "accepts connections and answers nothing");
}

#[test]
fn a_post_that_waits_for_a_dead_upstream_is_502_and_not_repeated() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml(&format!("mode: priority\n{IMPATIENT}"), members);
    a.answer_probes(ProbeAnswer::Close);
    let mut client = proxy.client();
    client.send(POST);
    let (mut hop, _) = a.accept_and_read_request();
    client.expect_refusal(502);
    hop.expect_gone();
    b.expect_untouched();
}

#[test]
fn an_upstream_that_only_thinks_is_probed_and_waited_for() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::with_yaml(IMPATIENT, [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    wait_until(|| !a.probes().is_empty());
    proxy.expect_online("a");
    hop.send_ok("thought");
    client.expect_status(200).expect_body("thought");
    proxy.expect_online("a");
}

#[test]
fn no_response_in_time_is_504_and_probed() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let extra = "mode: priority\nlimits: {response_timeout_secs: 0.3}";
    let proxy = Proxy::with_yaml(extra, members);
    let mut client = proxy.client();
    client.send(GET);
    let (_hop, _) = a.accept_and_read_request();
    client.expect_refusal(504);
    wait_until(|| !a.probes().is_empty());
    // The probe was answered well.
    proxy.expect_nobody_suspected();
    client.send("GET http://o.test/2 HTTP/1.1\r\nHost: o.test\r\n\r\n");
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_ok("again");
    client.expect_status(200);
    proxy.expect_online("a");
    b.expect_untouched();
}

/// A fast but broken upstream must not attract everything.
#[test]
fn three_gateway_errors_for_two_targets_are_looked_into() {
    for status in [502, 503, 504] {
        let a = Upstream::answering("a", move |hop, _| {
            hop.send(format!(
                "HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno"
            ));
        });
        let proxy = Proxy::over([&a]);
        a.answer_probes(ProbeAnswer::Close);
        let mut client = proxy.client();
        for _ in 0..4 {
            client
                .get("http://one.test/")
                .expect_status(status)
                .expect_body("no");
        }
        assert_eq!(
            a.probes().len(),
            0,
            "one target that is down proves nothing"
        );
        proxy.expect_online("a");
        client.get("http://two.test/").expect_status(status);
        wait_until(|| !proxy.upstream("a").online);
        assert_eq!(a.probes().len(), 1);
    }
}

/// An origin may say it as well; a probe tells. Without credentials it is never the upstream's.
#[test]
fn three_401_where_credentials_were_sent_are_looked_into() {
    let refusing = |name| {
        Upstream::answering(name, |hop, _| {
            hop.send("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n");
        })
    };
    let (a, b) = (refusing("a"), refusing("b"));
    let members = [a.with("{username: bob, password: wrong}"), b.with("{}")];
    let proxy = Proxy::over(members);
    a.answer_probes(ProbeAnswer::Status(401));
    b.answer_probes(ProbeAnswer::Status(401));
    let mut client = proxy.client();
    for round in 0..3 {
        for _ in ["a", "b"] {
            let target = format!("http://target-{round}.test/");
            client.get(&target).expect_status(401);
        }
    }
    wait_until(|| !proxy.upstream("a").online);
    for target in ["one", "two", "three"] {
        let target = format!("http://{target}.test/");
        client.get(&target).expect_status(401);
    }
    proxy.expect_online("b");
    assert_eq!(b.probes().len(), 0);
}

#[test]
fn a_good_probe_keeps_an_upstream_with_gateway_errors_online() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send("HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n");
    });
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    for target in ["one", "two", "three"] {
        client
            .get(&format!("http://{target}.test/"))
            .expect_status(502);
    }
    wait_until(|| !a.probes().is_empty());
    client.get("http://four.test/").expect_status(502);
    proxy.expect_online("a");
}

#[test]
fn gateway_errors_to_connect_count_as_well() {
    let refusing = |hop: &mut Hop, _: &Message| {
        hop.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    };
    let (a, b) = (
        Upstream::answering("a", refusing),
        Upstream::answering("b", refusing),
    );
    let proxy = Proxy::over([&a, &b]);
    a.answer_probes(ProbeAnswer::Close);
    b.answer_probes(ProbeAnswer::Close);
    for target in ["one", "two", "three"] {
        let request = format!("CONNECT {target}.test:443 HTTP/1.1\r\nHost: {target}.test\r\n\r\n");
        proxy.client().send(request).expect_status(503);
    }
    wait_until(|| !proxy.upstream("a").online && !proxy.upstream("b").online);
}

/// Such answers come from behind the upstream, or are none of anybody's fault.
#[test]
fn any_other_answer_leaves_the_upstream_online() {
    for status in [
        200, 204, 301, 400, 401, 403, 404, 408, 429, 500, 501, 505, 511,
    ] {
        let a = Upstream::answering("a", move |hop, _| {
            let length = if status == 204 {
                ""
            } else {
                "Content-Length: 0\r\n"
            };
            hop.send(format!("HTTP/1.1 {status} X\r\n{length}\r\n"));
        });
        let proxy = Proxy::over([&a]);
        let mut client = proxy.client();
        for target in ["one", "two", "three", "four"] {
            client
                .get(&format!("http://{target}.test/"))
                .expect_head(status);
        }
        proxy.expect_online("a");
        assert_eq!(proxy.upstream("a").consecutive_failures, 0, "{status}");
        assert_eq!(a.probes().len(), 0, "{status}");
    }
}

#[test]
fn a_connect_refused_with_4xx_is_the_fault_of_no_upstream() {
    for status in [400, 403, 404, 405, 429] {
        let a = Upstream::answering("a", move |hop, _| {
            hop.send(format!(
                "HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno"
            ));
        });
        let proxy = Proxy::over([&a]);
        for _ in 0..3 {
            let mut client = proxy.client();
            client.send("CONNECT o.test:22 HTTP/1.1\r\nHost: o.test\r\n\r\n");
            client.expect_status(status).expect_body("no");
        }
        proxy.expect_online("a");
        assert_eq!(proxy.upstream("a").consecutive_failures, 0);
    }
}

#[test]
fn a_truncated_body_is_a_doubt_and_the_upstream_itself_settles_it() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        hop.close_then();
    });
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send(GET).expect_head(200);
    client.expect_truncated("abc");
    wait_until(|| a.checks().len() == 1);
    proxy.expect_nobody_suspected();
    proxy.expect_online("a");
    a.answer_probes(ProbeAnswer::Close);
    let mut client = proxy.client();
    client.send(GET).expect_head(200);
    client.expect_truncated("abc");
    wait_until(|| !proxy.upstream("a").online);
    let reason = proxy.upstream("a").reason.expect("a reason");
    assert_eq!(reason, "closes connections without an answer");
}

/// A poisonous URL meets three upstreams, and takes none of them out of service.
#[test]
fn a_poisonous_url_takes_no_upstream_offline() {
    let poisoned = |hop: &mut Hop, request: &Message| {
        if request.target().ends_with("/poison") {
            hop.reset_then();
        } else {
            hop.send_ok("well");
        }
    };
    let upstreams = ["a", "b", "c", "d"].map(|name| Upstream::answering(name, poisoned));
    let proxy = Proxy::over(&upstreams);
    for _ in 0..10 {
        proxy
            .client()
            .get("http://o.test/poison")
            .expect_refusal(502);
        proxy
            .client()
            .send(GET)
            .expect_status(200)
            .expect_body("well");
    }
    proxy.expect_nobody_suspected();
    for upstream in &upstreams {
        proxy.expect_online(upstream.name());
    }
}

/// D3: a client that left, and nothing else, took upstreams offline.
#[test]
fn a_client_that_leaves_at_any_stage_is_the_fault_of_no_upstream() {
    for (stage, leave) in stages_of_a_request()
        .into_iter()
        .chain(stages_of_an_answer())
    {
        let upstreams = ["a", "b"].map(Upstream::by_hand);
        let proxy = Proxy::with_yaml(
            "mode: priority",
            [
                upstreams[0].with("priority: 1"),
                upstreams[1].with("priority: 2"),
            ],
        );
        leave(proxy.client(), &upstreams[0]);
        proxy.expect_deserted();
        for upstream in &upstreams {
            proxy.expect_online(upstream.name());
            let report = proxy.upstream(upstream.name());
            assert_eq!(report.consecutive_failures, 0, "{stage}");
            assert_eq!(upstream.probes().len(), 0, "{stage}");
        }
        upstreams[1].expect_untouched();
    }
}

type Leave = fn(Client, &Upstream);

fn stages_of_a_request() -> [(&'static str, Leave); 4] {
    [
        ("before a byte", |client, _| client.reset()),
        ("in the head", |mut client, _| {
            client.send(&GET.as_bytes()[..20]);
            client.reset();
        }),
        ("in the body", |mut client, a| {
            client.send(&POST.as_bytes()[..POST.len() - 1]);
            let mut hop = a.accept();
            hop.read_head();
            client.reset();
            hop.expect_gone_after("h");
        }),
        ("in a chunked body", |mut client, a| {
            client.send("POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\n");
            client.send("Transfer-Encoding: chunked\r\n\r\n5\r\nhe");
            let mut hop = a.accept();
            hop.read_head();
            client.half_close();
            hop.socket().read_to_end();
        }),
    ]
}

fn stages_of_an_answer() -> [(&'static str, Leave); 5] {
    [
        ("while it waits", |mut client, a| {
            client.send(GET);
            let (mut hop, _) = a.accept_and_read_request();
            client.close();
            hop.expect_gone();
        }),
        ("while it waits for a POST", |mut client, a| {
            client.send(POST);
            let (mut hop, _) = a.accept_and_read_request();
            client.reset();
            hop.expect_gone();
        }),
        ("in the response", |mut client, a| {
            client.send(GET);
            let (mut hop, _) = a.accept_and_read_request();
            hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
            client.expect_head(200);
            client.reset();
            hop.expect_gone();
        }),
        ("in a response it does not read", |mut client, a| {
            client.send(GET);
            let (mut hop, _) = a.accept_and_read_request();
            hop.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
            let sender = hop.send_in_background(vec![b'x'; 20_000_000]);
            client.expect_head(200);
            client.reset();
            assert!(sender.join().expect("the sender").is_err());
            hop.expect_gone();
        }),
        ("in a tunnel", |mut client, a| {
            client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n");
            let (mut hop, _) = a.accept_and_read_request();
            hop.send("HTTP/1.1 200 OK\r\n\r\n");
            client.expect_tunnel().send("ping");
            hop.expect_bytes("ping");
            client.reset();
            hop.expect_gone();
        }),
    ]
}

impl Hop {
    /// The connection ends, and this is all that came.
    #[track_caller]
    fn expect_gone_after(&mut self, bytes: &str) {
        self.socket().read_to_end();
        assert_eq!(latin1(self.socket().pending()), bytes);
    }
}

#[test]
fn garbage_of_a_client_is_the_fault_of_no_upstream() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    for garbage in [
        "\x16\x03\x01\x02\x00\x01\x00",
        "GET\r\n\r\n",
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
    ] {
        proxy.client().send(garbage).expect_refusal(400);
        proxy.expect_online("a");
    }
    assert_eq!(proxy.upstream("a").consecutive_failures, 0);
    proxy.expect_deserted();
}

/// D3c: only the offline ones were probed, so a dead idle one looked well until it was needed.
#[test]
fn online_upstreams_are_probed_if_the_file_says_so() {
    let a = Upstream::echo_ok("a");
    let checks = "health_check: {online_interval_secs: 0.1}";
    let proxy = Proxy::with_yaml(checks, [&a]);
    wait_until(|| a.probes().len() >= 2);
    proxy.expect_online("a");
    a.kill();
    wait_until(|| !proxy.upstream("a").online);
    a.revive();
    wait_until(|| proxy.upstream("a").online);
}

#[test]
fn online_upstreams_are_left_alone_otherwise() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    for _ in 0..20 {
        client.send(GET).expect_status(200);
    }
    assert_eq!(a.probes().len(), 0);
}

/// One that answers nothing must not hold up the return of another.
#[test]
fn probes_do_not_wait_for_each_other() {
    let silent = ["a", "b", "c"].map(Upstream::refusing);
    let good = Upstream::refusing("good");
    let proxy = Proxy::with_yaml(
        "health_check: {timeout_secs: 30}",
        silent.iter().chain([&good]),
    );
    for upstream in &silent {
        upstream.answer_probes(ProbeAnswer::Silence);
        upstream.revive();
    }
    wait_until(|| silent.iter().all(|u| !u.checks().is_empty()));
    good.revive();
    wait_until(|| proxy.upstream("good").online);
}

/// Nor must one wait for the end of another check: requests wait for some of them.
#[test]
fn the_controls_of_a_check_are_all_asked_at_once_however_many_questions_hang() {
    let upstreams = ["a", "b", "c"].map(Upstream::echo_ok);
    let [a, b, c] = &upstreams;
    let patient = "health_check: {timeout_secs: 60, url: 'http://probe.test/probe-generate_204";
    let proxy = Proxy::with_yaml(&format!("{patient}'}}"), &upstreams);
    a.answer_only_probes(ProbeAnswer::Status(403));
    b.answer_only_probes(ProbeAnswer::Silence);
    c.answer_only_probes(ProbeAnswer::Silence);
    // Another target: each is checked anew, and the probe that a answers otherwise goes to b and c, too.
    proxy.reload(&format!("{patient}?2'}}"), &upstreams);
    wait_until(|| b.probes().len() == 2 && c.probes().len() == 2);
}

/// D3c: an interval of zero gave 816 probes a second.
#[test]
fn a_tiny_interval_makes_no_storm_of_probes() {
    let a = Upstream::refusing("a");
    a.answer_probes(ProbeAnswer::Close);
    let proxy = Proxy::with_yaml("health_check: {interval_secs: 0.001}", [&a]);
    let begun = Instant::now();
    a.revive();
    wait_until(|| a.checks().len() >= 5);
    drop(proxy);
    // However fast the machine is: there are pauses.
    assert!(
        begun.elapsed() >= Duration::from_millis(300),
        "{:?}",
        begun.elapsed()
    );
}

/// D3c: the time limit applied to connecting, writing and reading each.
#[test]
fn a_probe_that_trickles_in_is_too_late_all_the_same() {
    let a = Upstream::refusing("a");
    a.answer_probes(ProbeAnswer::Trickle);
    let checks = "health_check: {timeout_secs: 0.3, interval_secs: 0.1}";
    let proxy = Proxy::with_yaml(checks, [&a]);
    a.revive();
    let reason = "accepts connections and answers nothing";
    wait_until(|| proxy.upstream("a").reason.as_deref() == Some(reason));
}

#[test]
fn a_tunnel_outlives_the_fall_of_its_upstream() {
    let a = Upstream::answering("a", |hop, request| {
        if request.method() == "CONNECT" {
            hop.send("HTTP/1.1 200 OK\r\n\r\n")
                .expect_bytes("ping")
                .send("pong");
        }
        hop.close_then();
    });
    let proxy = Proxy::over([&a]);
    a.answer_probes(ProbeAnswer::Close);
    let mut tunnel = proxy.client();
    tunnel.open_tunnel("o.test:443");
    proxy.client().send(GET).expect_refusal(502);
    wait_until(|| !proxy.upstream("a").online);
    assert_eq!(proxy.upstream("a").active, 1);
    tunnel.send("ping").expect_bytes("pong").expect_closed();
    drop(tunnel);
    proxy.expect_deserted();
}

/// A failure that was under way does not undo what a probe found later.
#[test]
fn a_late_failure_does_not_take_an_upstream_down_again() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let (mut first, mut second) = (proxy.client(), proxy.client());
    first.send(POST);
    let (one, _) = a.accept_and_read_request();
    second.send(POST);
    let (other, _) = a.accept_and_read_request();
    one.close();
    first.expect_refusal(502);
    wait_until(|| proxy.upstream("a").online);
    other.close();
    second.expect_refusal(502);
    proxy.expect_online("a");
    thread::yield_now();
}
