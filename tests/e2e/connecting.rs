//! Connections to upstreams: all addresses of a name, races against slow ones, and who gives up.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http_proxy_lb::net::resolve::Resolver;
use http_proxy_lb::server::{Drained, Options};
use parking_lot::{Condvar, Mutex};

use super::harness::{FullPort, Member, Proxy, Talk, Upstream, places, wait_until};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const POST: &str = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";
/// Every request dials.
const FRESH: &str = "limits: {upstream_idle_connections: 0}";
/// Whoever waited for the time limit of a connection would fail the test.
const NO_HURRY: &str = "mode: priority\nlimits: {connect_timeout_secs: 60}";

/// `NAME.test` has the addresses of these places.
fn named(names: &'static [&'static str], places: &[&[SocketAddr]]) -> Options {
    let addresses: Vec<Vec<IpAddr>> = places
        .iter()
        .map(|places| places.iter().map(SocketAddr::ip).collect())
        .collect();
    let ask = move |asked: &str| {
        let mut known = names.iter().zip(&addresses);
        let found = known.find(|(name, _)| asked == format!("{name}.test"));
        let found = found.map(|(_, addresses)| addresses.clone());
        found.ok_or_else(|| io::Error::other("no such name"))
    };
    Options {
        resolver: Resolver::asking(ask),
        ..Options::default()
    }
}

/// The only upstream, `many`, has these addresses.
fn with_addresses(extra: &str, places: &[SocketAddr]) -> Proxy {
    let member = Member::named("many", places[0].port());
    Proxy::with_options(extra, [member], named(&["many"], &[places]))
}

#[test]
fn connections_take_turns_over_the_addresses_of_a_name() {
    let places = places::<3>();
    let all = ["a", "b", "c"];
    let all: Vec<_> = (0..3)
        .map(|n| Upstream::echo_ok_at(all[n], places[n]))
        .collect();
    let proxy = with_addresses(FRESH, &places);
    let mut client = proxy.client();
    for _ in 0..60 {
        client.send(GET).expect_status(200);
    }
    for upstream in &all {
        assert_eq!(upstream.requests().len(), 20, "{}", upstream.name());
    }
    proxy.expect_at_rest();
}

/// The request's rule says which those are.
#[test]
fn only_others_of_its_group_are_connected_to_beside_a_slow_one() {
    let places = places::<3>();
    let _full = FullPort::at(places[0]);
    let (b, c) = (
        Upstream::echo_ok_at("b", places[1]),
        Upstream::echo_ok_at("c", places[2]),
    );
    let slow = || Member::at("a", places[0]).with("{group: eu, priority: 1}");
    let yaml = |secs: &str| {
        format!("mode: priority\nlimits: {{connect_timeout_secs: {secs}}}\ndefault: eu")
    };
    let other = || b.with("{group: us, priority: 2}");
    let proxy = Proxy::with_yaml(
        &yaml("60"),
        [slow(), other(), c.with("{group: eu, priority: 3}")],
    );
    let mut client = proxy.client();
    client.send(GET).expect_status(200).expect_body("c");
    let proxy = Proxy::with_yaml(&yaml("0.5"), [slow(), other()]);
    let mut client = proxy.client();
    client.send(GET);
    client.read_response();
    assert!([503, 504].contains(&client.message().status()));
    b.expect_untouched();
}

#[test]
fn an_address_without_an_answer_holds_up_no_more_than_a_connection() {
    let places = places::<2>();
    let _full = FullPort::at(places[0]);
    let _b = Upstream::echo_ok_at("b", places[1]);
    let proxy = with_addresses(
        "limits: {upstream_idle_connections: 0, connect_timeout_secs: 60}",
        &places,
    );
    let mut client = proxy.client();
    for _ in 0..20 {
        client.send(GET).expect_status(200).expect_body("b");
    }
    proxy.expect_online("many");
    assert_eq!(proxy.upstream("many").consecutive_failures, 0);
    proxy.expect_at_rest();
}

#[test]
fn an_address_that_closes_is_passed_over_for_the_same_request_and_for_the_next_ones() {
    for request in [GET, "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n"] {
        let places = places::<2>();
        let a = Upstream::closing_at("a", places[0]);
        let _b = Upstream::echo_ok_at("b", places[1]);
        let proxy = with_addresses(FRESH, &places);
        for _ in 0..40 {
            proxy.client().send(request).expect_head(200);
        }
        // It is asked again when its rest is over.
        assert!((1..20).contains(&a.connections()), "{}", a.connections());
        proxy.expect_online("many");
        assert_eq!(proxy.upstream("many").consecutive_failures, 0);
        proxy.expect_at_rest();
    }
}

#[test]
fn a_request_that_cannot_be_repeated_fails_at_an_address_that_closes_and_the_next_one_does_not() {
    let places = places::<2>();
    let _a = Upstream::closing_at("a", places[0]);
    let _b = Upstream::echo_ok_at("b", places[1]);
    let proxy = with_addresses(FRESH, &places);
    proxy.client().send(POST).expect_refusal(502);
    proxy.expect_online("many");
    let mut client = proxy.client();
    client.send(POST).expect_status(200).expect_body("b");
}

#[test]
fn if_all_addresses_close_the_request_fails_as_at_any_upstream() {
    let places = places::<3>();
    let all = ["a", "b", "c"];
    let all: Vec<_> = (0..3)
        .map(|n| Upstream::closing_at(all[n], places[n]))
        .collect();
    let proxy = with_addresses(FRESH, &places);
    proxy.client().send(GET).expect_refusal(502);
    let asked: usize = all.iter().map(Upstream::connections).sum();
    assert_eq!(asked, 2, "addresses that were tried");
}

#[test]
fn probes_pass_over_what_requests_pass_over() {
    let places = places::<2>();
    let a = Upstream::closing_at("a", places[0]);
    let b = Upstream::echo_ok_at("b", places[1]);
    let extra = format!("{FRESH}\nhealth_check: {{online_interval_secs: 0.05}}");
    let proxy = with_addresses(&extra, &places);
    wait_until(|| !a.probes().is_empty());
    assert_eq!(b.probes().len(), 0, "the first address answers");
    wait_until(|| {
        proxy.client().send(GET).expect_status(200);
        !b.probes().is_empty()
    });
}

/// A name whose addresses change.
#[derive(Clone, Default)]
struct Moving(Arc<Mutex<Vec<IpAddr>>>);

impl Moving {
    fn to(place: SocketAddr) -> Self {
        let name = Self::default();
        name.moves_to(place);
        name
    }

    fn moves_to(&self, place: SocketAddr) {
        *self.0.lock() = vec![place.ip()];
    }

    /// The only upstream, `many`, is at this name, which is renewed all the time.
    fn proxy(&self, port: u16) -> Proxy {
        let name = self.clone();
        let resolver = Resolver::asking(move |_| Ok(name.0.lock().clone()));
        let options = Options {
            resolver: resolver.renewing_after(Duration::from_millis(20)),
            ..Options::default()
        };
        Proxy::with_options("{}", [Member::named("many", port)], options)
    }
}

/// It stayed at the old address for as long as there were requests.
#[test]
fn a_name_that_changes_is_followed_and_what_was_idle_is_closed() {
    let places = places::<2>();
    let a = Upstream::by_hand_at("a", places[0]);
    let _b = Upstream::echo_ok_at("b", places[1]);
    let name = Moving::to(places[0]);
    let proxy = name.proxy(places[0].port());
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_ok("a");
    client.expect_status(200);
    name.moves_to(places[1]);
    hop.expect_gone();
    client.send(GET).expect_status(200).expect_body("b");
}

#[test]
fn a_connection_that_was_busy_when_the_name_changed_is_not_kept() {
    let places = places::<2>();
    let a = Upstream::by_hand_at("a", places[0]);
    let b = Upstream::by_hand_at("b", places[1]);
    let name = Moving::to(places[0]);
    let proxy = name.proxy(places[0].port());
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    name.moves_to(places[1]);
    // Another is at the new address by now.
    let mut other = proxy.client();
    let context = proxy.server().context();
    let there = [places[1].ip()];
    wait_until(|| context.upstream_names.known("many.test").as_deref() == Some(&there[..]));
    other.send(GET);
    let (mut new, _) = b.accept_and_read_request();
    hop.send_ok("a");
    client.expect_status(200).expect_body("a");
    client.send(GET);
    let (mut newer, _) = b.accept_and_read_request();
    hop.expect_gone();
    new.send_ok("b");
    other.expect_status(200).expect_body("b");
    newer.send_ok("b");
    client.expect_status(200).expect_body("b");
}

/// The first three in line neither accept nor refuse. It took 15 s, and was a 504.
#[test]
fn upstreams_that_swallow_connections_cost_a_moment() {
    let connect = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";
    for request in [GET, POST, connect] {
        let full: Vec<_> = (0..3).map(|_| FullPort::new()).collect();
        let (d, e) = (Upstream::echo_ok("d"), Upstream::echo_ok("e"));
        let members = [
            full[0].with("a", "priority: 1"),
            full[1].with("b", "priority: 2"),
            full[2].with("c", "priority: 3"),
            d.with("priority: 4"),
            e.with("priority: 5"),
        ];
        let proxy = Proxy::with_yaml(NO_HURRY, members);
        for _ in 0..2 {
            proxy.client().send(request).expect_head(200);
        }
        e.expect_untouched();
        proxy.expect_at_rest();
    }
}

/// Connections that are not made cost no attempt, but a large pool is not gone through to its end.
#[test]
fn a_request_waits_for_connections_as_long_as_for_those_of_three_attempts() {
    let full: Vec<_> = (0..40).map(|_| FullPort::new()).collect();
    let names: Vec<_> = (0..40).map(|number| format!("u{number}")).collect();
    let members = full
        .iter()
        .zip(&names)
        .map(|(full, name)| full.with(name, "{}"));
    // The checks find out nothing before the test is over.
    let extra = "limits: {connect_timeout_secs: 0.2}\nhealth_check: {timeout_secs: 60}";
    let proxy = Proxy::with_yaml(extra, members);
    proxy.client().send(GET).expect_refusal(504);
    let untried = |report: &http_proxy_lb::server::UpstreamReport| report.online;
    assert!(proxy.server().upstreams().iter().any(untried));
    proxy.expect_at_rest();
}

/// They are not blamed, for nobody waited for them to the end; a probe tells.
#[test]
fn upstreams_that_swallow_connections_are_looked_into() {
    let full = FullPort::new();
    let b = Upstream::echo_ok("b");
    let members = [full.with("a", "priority: 1"), b.with("priority: 2")];
    let extra = format!("{NO_HURRY}\nhealth_check: {{timeout_secs: 0.5}}");
    let proxy = Proxy::with_yaml(&extra, members);
    proxy.client().send(GET).expect_status(200).expect_body("b");
    wait_until(|| !proxy.upstream("a").online);
}

#[test]
fn who_joins_a_race_uses_an_idle_connection() {
    let full = FullPort::new();
    let b = Upstream::echo_ok("b");
    let proxy = Proxy::with_yaml(NO_HURRY, [&b]);
    let mut client = proxy.client();
    client.send(GET).expect_status(200).expect_body("b");
    let members = [full.with("a", "priority: 1"), b.with("priority: 2")];
    proxy.reload(NO_HURRY, members);
    client.send(GET).expect_status(200).expect_body("b");
    assert_eq!(b.connections(), 1);
    proxy.expect_at_rest();
}

#[test]
fn what_the_report_shows_is_who_was_there_first() {
    let full = FullPort::new();
    let b = Upstream::echo_ok("b");
    let members = [full.with("a", "priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml(NO_HURRY, members);
    proxy.client().send(GET).expect_status(200);
    let counters = |name: &str| {
        let snapshot = proxy.server().context().snapshot();
        let upstream = snapshot.pool.find(name).expect("a member");
        let counters = &upstream.vitals().counters;
        [
            &counters.attempts_answered,
            &counters.attempts_failed,
            &counters.attempts_given_up,
        ]
        .map(|counter| counter.load(std::sync::atomic::Ordering::Relaxed))
    };
    proxy.expect_at_rest();
    assert_eq!(counters("a"), [0, 0, 1]);
    assert_eq!(counters("b"), [1, 0, 0]);
}

/// Three attempts was all there was.
#[test]
fn upstreams_that_cannot_be_connected_to_cost_no_attempt() {
    let last = Upstream::echo_ok("last");
    let nowhere = ["a", "b", "c", "d"];
    let members = nowhere.map(|name| Member::named(name, 3128).with("priority: 1"));
    let members = members.into_iter().chain([last.with("priority: 2")]);
    let proxy = Proxy::with_options("mode: priority", members, named(&[], &[]));
    proxy.client().send(POST).expect_status(200);
}

/// Holds look-ups until it is dropped.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let (open, opened) = &*self.0;
        let mut open = open.lock();
        while !*open {
            opened.wait(&mut open);
        }
    }
}

struct Opener(Gate);

impl Drop for Opener {
    fn drop(&mut self) {
        let (open, opened) = &*self.0.0;
        *open.lock() = true;
        opened.notify_all();
    }
}

fn hanging(gate: &Gate) -> Options {
    let gate = gate.clone();
    Options {
        resolver: Resolver::asking(move |_| {
            gate.pass();
            Err(io::Error::other("too late"))
        }),
        ..Options::default()
    }
}

#[test]
fn an_upstream_whose_name_is_not_found_costs_a_moment() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let b = Upstream::echo_ok("b");
    let members = [
        Member::named("a", 3128).with("priority: 1"),
        Member::named("c", 3128).with("priority: 2"),
        b.with("priority: 3"),
    ];
    let proxy = Proxy::with_options(NO_HURRY, members, hanging(&gate));
    proxy
        .client()
        .send(POST)
        .expect_status(200)
        .expect_body("b");
    proxy.expect_at_rest();
}

#[test]
fn a_client_that_leaves_while_a_connection_is_made_is_noticed_and_nobody_blamed() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let (full, other) = (FullPort::new(), FullPort::new());
    let alone = || vec![full.member("a")];
    let several = || vec![full.member("a"), other.member("b")];
    let unknown = || vec![Member::named("a", 3128)];
    for members in [alone(), several(), unknown()] {
        let proxy = Proxy::with_options(NO_HURRY, members, hanging(&gate));
        let mut client = proxy.client();
        client.send(GET);
        wait_until(|| proxy.upstream("a").active == 1);
        drop(client);
        proxy.expect_deserted();
        proxy.expect_online("a");
        assert_eq!(proxy.upstream("a").consecutive_failures, 0);
    }
}

#[test]
fn a_client_that_leaves_while_its_origin_is_connected_to_is_noticed() {
    let full = FullPort::new();
    let proxy = Proxy::direct_with(NO_HURRY);
    for method in ["GET http://{}/", "CONNECT {}"] {
        let target = method.replace("{}", &full.address().to_string());
        let mut client = proxy.client();
        client.send(format!("{target} HTTP/1.1\r\nHost: o.test\r\n\r\n"));
        wait_until(|| proxy.counts().busy == 1);
        drop(client);
        proxy.expect_deserted();
    }
}

/// Such a client will not send another request, and waits for its answer.
#[test]
fn a_client_that_closed_its_side_only_still_gets_its_answer() {
    let full = FullPort::new();
    let proxy = Proxy::with_yaml("limits: {connect_timeout_secs: 3}", [full.member("a")]);
    let mut client = proxy.client();
    client.send("GET http://o.test/ HTTP/1.0\r\n\r\n");
    client.half_close();
    client.expect_refusal(504);
}

#[test]
fn the_end_does_not_wait_for_a_connection_that_is_made() {
    let full = FullPort::new();
    let extra = "limits: {connect_timeout_secs: 60, shutdown_timeout_secs: 0.2}";
    let proxy = Proxy::with_yaml(extra, [full.member("a")]);
    let mut client = proxy.client();
    client.send(GET);
    wait_until(|| proxy.upstream("a").active == 1);
    thread::scope(|scope| {
        let drained = scope.spawn(|| proxy.server().drain());
        wait_until(|| drained.is_finished());
        let drained = drained.join().expect("the drain");
        assert_ne!(drained, Drained::Clean, "it was cut");
    });
    proxy.expect_online("a");
    assert_eq!(proxy.upstream("a").active, 0);
}
