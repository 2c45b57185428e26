//! What one client provokes must not cost the others an upstream.

use std::net::TcpListener;

use crate::machine::{PATIENCE, wait_until};
use crate::network::{alone, own_address};
use crate::origin::Origin;
use crate::proxies::{Proxy, forwarding_nginx, open_tinyproxy, squid, tinyproxy};
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

/// Half of all HTTPS failed with it in the pool.
#[test]
#[ignore = "needs nginx and tinyproxy (Debian packages nginx, tinyproxy), and root"]
fn nginx_which_has_no_connect_gets_no_tunnels_and_everything_else() {
    alone(|| {
        let hosts = ["198.51.100.1", "198.51.100.2"];
        let listeners = hosts.map(|host| {
            own_address(host);
            TcpListener::bind((host, 443)).expect("a port of an own network")
        });
        let origin = Origin::start();
        let (nginx, tinyproxy) = (forwarding_nginx(), open_tinyproxy());
        let settings = Settings::default().line("health_check: {url: none}");
        let relay = Relay::start(&settings.upstream(&nginx).upstream(&tinyproxy));
        for host in hosts.iter().flat_map(|host| [host; 4]) {
            let mut client = Client::connect(relay.port());
            let connect = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
            client.send(&connect).expect("sent");
            assert_eq!(client.head().expect("an answer").status(), 200);
        }
        let told = || relay.log_lines(&["nginx has no CONNECT"]).len();
        wait_until(PATIENCE, "the line about nginx", || told() > 0);
        assert_eq!(told(), 1);
        for _ in 0..4 {
            let answer = Client::connect(relay.port()).get(&origin.url("/ok"));
            assert_eq!(answer.expect("an answer").0, 200);
        }
        wait_until(PATIENCE, "its share of the others", || {
            relay.log_lines(&["method=GET", "route=nginx"]).len() == 2
        });
        drop(listeners);
    });
}
