//! What one client provokes must not cost the others an upstream.

use crate::origin::Origin;
use crate::proxies::{Proxy, squid, tinyproxy};
use crate::relay::{Relay, Settings};
use crate::wire::Client;

/// A POST to an origin nobody can reach: Squid and tinyproxy answer before they have read the body,
/// and close. tinyproxy's page has no length, and what it did not read makes the close a reset.
fn check(proxy: &Proxy) {
    let origin = Origin::start();
    let probes = format!(
        "health_check: {{url: '{}', expect_status: 200, interval_secs: 1}}",
        origin.url("/ok")
    );
    let relay = Relay::start(&Settings::default().line(&probes).upstream(proxy));
    let body = "x".repeat(1000);
    for _ in 0..5 {
        let mut client = Client::connect(relay.port());
        let post = "POST http://nowhere.invalid/ HTTP/1.1\r\nHost: nowhere.invalid\r\n\
                    Content-Length: 1000\r\n\r\n";
        client.send(&format!("{post}{body}")).expect("sent");
        let status = client.head().expect("the upstream's answer").status();
        assert!([500, 502, 503].contains(&status), "{status}");
        let next = Client::connect(relay.port()).get(&origin.url("/ok"));
        assert_eq!(
            next.expect("an answer").0,
            200,
            "the only upstream is still online"
        );
    }
    assert_eq!(relay.log_lines(&["offline"]), Vec::<String>::new());
}

#[test]
#[ignore = "needs tinyproxy (Debian package tinyproxy)"]
fn an_unreachable_origin_does_not_take_tinyproxy_offline() {
    check(&tinyproxy());
}

#[test]
#[ignore = "needs squid (Debian package squid)"]
fn an_unreachable_origin_does_not_take_squid_offline() {
    check(&squid(443));
}
