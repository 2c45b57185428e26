//! What may be repeated when upstreams die, and what never: counted where it matters, at the origin.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::machine::{PATIENCE, note, wait_until};
use crate::origin::Origin;
use crate::proxies::Proxy;
use crate::relay::{Relay, Settings, as_upstream};
use crate::stage::SetAtTheEnd;
use crate::wire::{Client, host};

const CLIENTS: usize = 8;
const KILLS: usize = 12;
const REQUESTS: usize = 1000;

#[test]
#[ignore = "takes half a minute; needs no package"]
fn under_random_kills_no_get_fails_early_and_no_post_arrives_twice() {
    let origin = Origin::start();
    let mut upstreams = ["one", "two", "three"].map(|name| as_upstream(name, &Settings::direct()));
    let settings = Settings::default().line("via: false").line(&format!(
        "health_check: {{url: '{}', expect_status: 200, interval_secs: 1}}",
        origin.url("/ok")
    ));
    let relay = Relay::start(&upstreams.iter().fold(settings, Settings::upstream));
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let fates: Mutex<Vec<(String, Fate)>> = Mutex::default();
    thread::scope(|scope| {
        let _stop = SetAtTheEnd(&stop);
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let method = if number % 2 == 0 { "GET" } else { "POST" };
                    let name = format!("{method}-{number}");
                    let fate = send(relay.port(), method, &origin.url(&format!("/once/{name}")));
                    fates.lock().push((name, fate));
                }
            });
        }
        for number in 0..KILLS {
            // Uneven pauses, counted in requests.
            let goal = next.load(Ordering::Relaxed) + 50 + number * 37 % 100;
            wait_until(PATIENCE, "requests go on", || {
                next.load(Ordering::Relaxed) >= goal
            });
            kill_and_revive(&mut upstreams[number * 2 % 3], &relay, number + 1);
        }
        wait_until(PATIENCE, "enough requests", || {
            next.load(Ordering::Relaxed) >= REQUESTS
        });
    });
    judge(&fates.into_inner(), &origin);
}

/// Returns when the relay has noticed both, so that two others are always there.
fn kill_and_revive(upstream: &mut Proxy, relay: &Relay, times: usize) {
    upstream.kill();
    wait_until(PATIENCE, "the relay notices", || {
        relay.log_lines(&["upstream", "is offline"]).len() == times
    });
    upstream.revive();
    wait_until(PATIENCE, "the relay comes back to it", || {
        relay.log_lines(&["upstream", "is online again"]).len() == times
    });
}

/// How a request ended, as its client saw it.
enum Fate {
    Answered(u16),
    CutAfterTheHead,
    FailedBefore(io::Error),
}

fn send(port: u16, method: &str, url: &str) -> Fate {
    let mut client = Client::connect(port);
    let content = if method == "POST" {
        "Content-Length: 3\r\n\r\nx=1"
    } else {
        "\r\n"
    };
    let sent = client.send(&format!(
        "{method} {url} HTTP/1.1\r\nHost: {}\r\n{content}",
        host(url)
    ));
    match sent.and_then(|()| client.head()) {
        Err(error) => Fate::FailedBefore(error),
        Ok(head) => match client.body(&head, |_| ()) {
            Ok(()) => Fate::Answered(head.status()),
            Err(_) => Fate::CutAfterTheHead,
        },
    }
}

fn judge(fates: &[(String, Fate)], origin: &Origin) {
    let seen = origin.seen();
    let (mut cut, mut failed) = (0, 0);
    for (name, fate) in fates {
        let times = seen.get(name).copied().unwrap_or(0);
        let is_get = name.starts_with("GET");
        assert!(is_get || times <= 1, "{name} arrived {times} times");
        match fate {
            Fate::Answered(200) => assert!(times >= 1, "{name} was answered but never arrived"),
            Fate::CutAfterTheHead => cut += 1,
            Fate::Answered(502) if !is_get => failed += 1,
            Fate::Answered(status) => panic!("{name}: {status}, arrived {times} times"),
            Fate::FailedBefore(error) => panic!("{name}: {error}, arrived {times} times"),
        }
    }
    let all = fates.len();
    note(&format!(
        "{all} requests, {KILLS} kills: {failed} POST got 502, {cut} cut after the head"
    ));
}
