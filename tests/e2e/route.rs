//! Who goes through an upstream and who goes directly (`domain_policy`).

use std::net::IpAddr;

use http_proxy_lb::net::resolve::Resolver;
use http_proxy_lb::server::Options;

use super::harness::{Origin, Proxy, Talk, Upstream};

/// A pool of one, an origin, and names that all lead to this machine.
struct Setup {
    upstream: Upstream,
    origin: Origin,
    proxy: Proxy,
}

impl Setup {
    #[track_caller]
    fn new(policy: &str) -> Self {
        let (upstream, origin) = (Upstream::echo_ok("a"), Origin::echo_ok("origin"));
        let resolver = Resolver::asking(|_| Ok(vec![IpAddr::from([127, 0, 0, 1])]));
        let options = Options {
            resolver,
            ..Options::default()
        };
        let extra = format!("domain_policy: {policy}");
        let proxy = Proxy::with_options(&extra, [&upstream], options);
        Self {
            upstream,
            origin,
            proxy,
        }
    }

    /// Where a GET and a CONNECT for this host go: `origin` or `a`.
    #[track_caller]
    fn check(&self, host: &str, goes: &str) {
        let port = self.origin.address().port();
        let before = (self.upstream.requests().len(), self.origin.requests().len());
        self.proxy
            .client()
            .get(&format!("http://{host}:{port}/"))
            .expect_status(200)
            .expect_body(goes);
        let mut tunnel = self.proxy.client();
        tunnel.open_tunnel(&format!("{host}:{port}"));
        if goes == "origin" {
            tunnel.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            tunnel.expect_status(200).expect_body("origin");
        }
        let after = (self.upstream.requests().len(), self.origin.requests().len());
        let expected = match goes {
            "origin" => (before.0, before.1 + 2),
            _ => (before.0 + 2, before.1),
        };
        assert_eq!(
            after, expected,
            "requests at upstream and origin for {host}"
        );
    }
}

#[test]
fn without_a_policy_everything_goes_through_an_upstream() {
    let setup = Setup::new("{mode: 'off', domains: [o.test]}");
    for host in ["o.test", "x.o.test", "127.0.0.1"] {
        setup.check(host, "a");
    }
}

#[test]
fn blacklisted_domains_go_directly() {
    let domains = "['domain:exact.test', 'suffix:suf.test', '*.star.test', .dot.test, bare.test]";
    let setup = Setup::new(&format!("{{mode: blacklist, domains: {domains}}}"));
    for host in [
        "exact.test",
        "suf.test",
        "x.suf.test",
        "star.test",
        "x.y.star.test",
        "dot.test",
        "x.dot.test",
        "bare.test",
        "x.bare.test",
    ] {
        setup.check(host, "origin");
    }
    for host in [
        "x.exact.test",
        "notsuf.test",
        "abare.test",
        "test",
        "other.test",
    ] {
        setup.check(host, "a");
    }
}

#[test]
fn only_whitelisted_domains_use_an_upstream() {
    let setup = Setup::new("{mode: whitelist, domains: [in.test, '192.0.2.0/24']}");
    setup.check("in.test", "a");
    setup.check("x.in.test", "a");
    setup.check("192.0.2.7", "a");
    setup.check("out.test", "origin");
    setup.check("127.0.0.1", "origin");
}

/// D26: another spelling of the same host walked around the policy.
#[test]
fn no_spelling_of_a_host_walks_around_the_policy() {
    let setup = Setup::new("{mode: blacklist, domains: [Direct.TEST, trailing.test.]}");
    for host in [
        "direct.test",
        "DIRECT.test",
        "direct.test.",
        "x.Direct.Test.",
        "trailing.test",
        "trailing.test.",
    ] {
        setup.check(host, "origin");
    }
}

/// D26: they matched nothing.
#[test]
fn addresses_and_networks_match_addresses() {
    let setup = Setup::new("{mode: blacklist, domains: ['127.0.0.0/8', '2001:db8::/32']}");
    setup.check("127.0.0.1", "origin");
    setup.check("192.0.2.1", "a");
    setup.check("[2001:db9::1]", "a");
    // What a name leads to is nobody's business here.
    setup.check("names.test", "a");
    let setup = Setup::new("{mode: whitelist, domains: ['2001:db8::/32', '::ffff:192.0.2.0/120']}");
    setup.check("[2001:db8:1::7]", "a");
    setup.check("192.0.2.7", "a");
    setup.check("[::ffff:192.0.2.7]", "a");
    setup.check("127.0.0.1", "origin");
}

/// D26: the list was gone through one by one.
#[test]
fn a_long_list_costs_a_request_nothing() {
    let domains: Vec<String> = (0..50_000).map(|n| format!("d{n}.test")).collect();
    let setup = Setup::new(&format!(
        "{{mode: blacklist, domains: [{}]}}",
        domains.join(", ")
    ));
    for n in 0..50 {
        setup.check(&format!("x.d{n}.test"), "origin");
    }
    setup.check("other.test", "a");
}

#[test]
fn a_pool_of_nobody_does_not_matter_to_what_goes_directly() {
    let origin = Origin::echo_ok("origin");
    let a = Upstream::refusing("a");
    let policy = "domain_policy: {mode: blacklist, domains: [127.0.0.1]}";
    let proxy = Proxy::with_yaml(policy, [&a]);
    let mut client = proxy.client();
    client.get("http://o.test/").expect_refusal(503);
    client
        .get(&format!("http://{}/", origin.authority()))
        .expect_status(200);
}
