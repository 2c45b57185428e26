//! What may be repeated when upstreams die, and what never: counted where it matters, at the origin.

use std::collections::HashMap;
use std::io;

use crate::origin::Origin;
use crate::relay::{Relay, Settings, as_upstream};
use crate::wire::{Client, host};

#[test]
#[ignore = "takes a minute; needs no package"]
fn under_random_kills_no_get_fails_early_and_no_post_arrives_twice() {
    let origin = Origin::start();
    let mut upstreams = ["one", "two", "three"].map(|name| as_upstream(name, &Settings::direct()));
    let settings = Settings::default().line("via: false").line(&format!(
        "health_check: {{url: '{}', expect_status: 200, interval_secs: 1}}",
        origin.url("/ok")
    ));
    let relay = Relay::start(&upstreams.iter().fold(settings, Settings::upstream));
    let mut fates: HashMap<String, Result<u16, String>> = HashMap::new();
    for number in 0..1000_usize {
        if number % 20 == 10 {
            upstreams[(number / 20) % 3].kill();
        }
        if number % 20 == 15 {
            upstreams[(number / 20) % 3].revive();
        }
        let method = if number % 2 == 0 { "GET" } else { "POST" };
        let name = format!("{method}-{number}");
        let url = origin.url(&format!("/once/{name}"));
        let fate = send(relay.port(), method, &url);
        fates.insert(name, fate.map_err(|error| error.to_string()));
    }
    let seen = origin.seen();
    for (name, fate) in fates {
        let times = seen.get(&name).copied().unwrap_or(0);
        if name.starts_with("GET") {
            assert_eq!(
                fate,
                Ok(200),
                "{name}, which reached the origin {times} times"
            );
        } else {
            assert!(times <= 1, "{name} arrived {times} times");
            assert!(
                fate != Ok(200) || times == 1,
                "{name} was answered but never arrived"
            );
        }
    }
}

fn send(port: u16, method: &str, url: &str) -> io::Result<u16> {
    let mut client = Client::connect(port);
    let body = if method == "POST" { "x=1" } else { "" };
    let length = if method == "POST" {
        "Content-Length: 3\r\n"
    } else {
        ""
    };
    let host = host(url);
    client.send(&format!(
        "{method} {url} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n{body}"
    ))?;
    let head = client.head()?;
    client.body(&head, |_| ())?;
    Ok(head.status())
}
