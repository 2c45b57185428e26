//! Groups of upstreams, and the rules that say which of them a request uses, if any.

use std::net::IpAddr;

use http_proxy_lb::net::resolve::Resolver;
use http_proxy_lb::server::Options;

use super::harness::exchange::{connect, get};
use super::harness::{Origin, Proxy, Talk, Upstream, wait_until};

/// `a` and `c` are in the group eu, `b` is in us, `d` in none.
struct Setup {
    upstreams: [Upstream; 4],
    proxy: Proxy,
}

impl Setup {
    #[track_caller]
    fn new(extra: &str) -> Self {
        let upstreams = ["a", "b", "c", "d"].map(Upstream::echo_ok);
        let [a, b, c, d] = &upstreams;
        let members = [
            a.with("group: eu"),
            b.with("group: us"),
            c.with("group: eu"),
            d.with("{}"),
        ];
        let resolver = Resolver::asking(|_| Ok(vec![IpAddr::from([127, 0, 0, 1])]));
        let options = Options {
            resolver,
            ..Options::default()
        };
        let proxy = Proxy::with_options(extra, members, options);
        Self { upstreams, proxy }
    }

    /// Kills an upstream, which is known to the relay.
    #[track_caller]
    fn kill(&self, name: &str) {
        let mut all = self.upstreams.iter();
        all.find(|one| one.name() == name).unwrap().kill();
    }

    /// Whose answers so many requests get, one after the other.
    #[track_caller]
    fn answers(&self, request: &str, count: usize) -> String {
        let mut client = self.proxy.client();
        let answer = |_| {
            let message = client.send(request).read_response();
            assert_eq!(message.status(), 200);
            String::from_utf8(message.body.clone()).unwrap()
        };
        (0..count).map(answer).collect()
    }
}

#[test]
fn the_first_rule_that_matches_says_which_group_a_request_uses() {
    let setup = Setup::new(
        "access: {users: [{username: batch, password: x}, {username: ann, password: x}]}\n\
         rules: [{domains: [eu.test], use: eu}, {users: [batch], ports: [80], use: us}]\n\
         default: any",
    );
    let (batch, ann) = ("YmF0Y2g6eA==", "YW5uOng=");
    let by = |user: &str| format!("Proxy-Authorization: Basic {user}\r\n");
    assert_eq!(setup.answers(&get("x.eu.test", &by(batch)), 4), "acac");
    assert_eq!(setup.answers(&get("o.test", &by(batch)), 2), "bb");
    assert_eq!(setup.answers(&get("o.test", &by(ann)), 4), "abcd");
    assert_eq!(setup.answers(&get("o.test:81", &by(batch)), 4), "abcd");
}

#[test]
fn the_default_is_a_group_or_a_refusal() {
    let setup = Setup::new("default: us");
    assert_eq!(setup.answers(&get("o.test", ""), 3), "bbb");
    let setup = Setup::new("{rules: [{domains: [in.test], use: us}], default: refuse}");
    assert_eq!(setup.answers(&get("in.test", ""), 1), "b");
    setup
        .proxy
        .client()
        .send(get("o.test", ""))
        .expect_refusal(403);
}

#[test]
fn what_a_rule_refuses_is_told_so_and_reaches_nobody() {
    let setup = Setup::new("rules: [{domains: [ads.test], use: refuse}]");
    let mut client = setup.proxy.client();
    client
        .send(get("ads.test", ""))
        .expect_refusal(403)
        .expect_field_with("Proxy-Status", "http_request_denied")
        .expect_body(
            "A rule of this proxy refuses this request. Ask the administrator if you need it; the rules \
             are in the configuration file.\n",
        );
    client.send(get("o.test", "")).expect_status(200);
    let mut tunnel = setup.proxy.client();
    tunnel
        .send(connect("x.ADS.test:443", ""))
        .expect_refusal_and_close(403);
    let asked: usize = setup.upstreams.iter().map(|one| one.requests().len()).sum();
    assert_eq!(asked, 1);
}

#[test]
fn a_group_that_is_down_is_503_whoever_else_is_up() {
    let setup = Setup::new("default: us");
    setup.kill("b");
    setup.proxy.client().send(get("o.test", ""));
    wait_until(|| !setup.proxy.upstream("b").online);
    let mut client = setup.proxy.client();
    client
        .send(get("o.test", ""))
        .expect_refusal(503)
        .expect_body_with("No upstream of the group that this request needs is in service.");
    for name in ["a", "c", "d"] {
        let mut all = setup.upstreams.iter();
        all.find(|one| one.name() == name)
            .unwrap()
            .expect_untouched();
    }
}

#[test]
fn the_request_that_finds_its_group_down_already_uses_the_fallback() {
    let setup = Setup::new("rules: [{use: us, fallback: [eu, direct]}]");
    setup.kill("b");
    // The first request of all had tried another: its second attempt is not charged to anybody's turn.
    assert_eq!(setup.answers(&get("o.test", ""), 3), "aac");
    let mut tunnel = setup.proxy.client();
    tunnel.open_tunnel("o.test:443");
    let [a, ..] = &setup.upstreams;
    assert_eq!(a.requests().last().unwrap().method(), "CONNECT");
}

#[test]
fn requests_go_directly_while_all_groups_before_are_down() {
    let origin = Origin::echo_ok("origin");
    let port = origin.address().port();
    let setup = Setup::new("rules: [{use: us, fallback: [direct]}]");
    setup.kill("b");
    setup.proxy.client().send(get("o.test", ""));
    wait_until(|| !setup.proxy.upstream("b").online);
    let request = get(&format!("o.test:{port}"), "");
    assert_eq!(setup.answers(&request, 1), "origin");
}

#[test]
fn a_reload_moves_upstreams_between_groups() {
    let setup = Setup::new("default: us");
    assert_eq!(setup.answers(&get("o.test", ""), 1), "b");
    let [a, b, c, d] = &setup.upstreams;
    let members = [
        a.with("group: us"),
        b.with("group: eu"),
        c.with("{}"),
        d.with("group: us"),
    ];
    setup.proxy.reload("default: us", members);
    assert_eq!(setup.answers(&get("o.test", ""), 4), "adad");
}
