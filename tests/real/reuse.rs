//! A connection to an upstream may be used again only if the upstream will read the next request.
//!
//! tinyproxy does not: after the first request it passes everything on to that request's origin
//! until the response ends, and the end of a chunked one it does not see but counts on the origin
//! to close, as it asked for that. Whoever sends the next request down such a connection hands it,
//! with its cookies and tinyproxy's own password, to an origin that did not close.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{PATIENCE, note, wait_until};
use crate::origin::Origin;
use crate::proxies::{open_tinyproxy, tinyproxy};
use crate::relay::{Relay, Settings};
use crate::wire::{Client, host};

#[test]
#[ignore = "needs tinyproxy (Debian package tinyproxy)"]
fn a_request_never_reaches_the_origin_of_the_one_before() {
    let (curious, honest) = (Origin::start(), Origin::start());
    let proxy = tinyproxy();
    let relay = Relay::start(&Settings::new(&honest.url("/ok")).upstream(&proxy));
    for number in 0..20 {
        let mut client = Client::connect(relay.port());
        let answer = client.get(&curious.url("/stubborn")).expect("an answer");
        assert_eq!(answer.0, 200, "the curious origin answers");
        let name = format!("letter-{number}");
        let answer = client
            .get(&honest.url(&format!("/once/{name}")))
            .expect("an answer");
        assert_eq!(
            answer,
            (200, name.clone().into_bytes()),
            "{name} came to the wrong origin"
        );
    }
    assert_eq!(honest.seen().len(), 20);
}

/// tinyproxy passes on what an origin sends behind its answer to HEAD, whoever uses the connection then.
#[test]
#[ignore = "needs tinyproxy (Debian package tinyproxy)"]
fn a_late_body_reaches_nobody_who_asked_for_something_else() {
    let origin = Origin::start();
    let proxy = open_tinyproxy();
    let relay = Relay::start(&Settings::new(&origin.url("/ok")).upstream(&proxy));
    let (asked, foreign) = (AtomicU32::new(0), AtomicU32::new(0));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..4 {
            let (origin, port) = (&origin, relay.port());
            let (asked, foreign, is_over) = (&asked, &foreign, &is_over);
            scope.spawn(move || {
                let mut client = Client::connect(port);
                while !is_over.load(Ordering::Relaxed) {
                    let count = asked.fetch_add(1, Ordering::Relaxed);
                    let own = format!("{number}-{count}");
                    let answer = client.get(&origin.url(&format!("/own/{own}")));
                    if answer.ok() != Some((200, own.into_bytes())) {
                        foreign.fetch_add(1, Ordering::Relaxed);
                        client = Client::connect(port);
                    }
                }
            });
        }
        let url = origin.url("/late");
        for _ in 0..15 {
            let mut client = Client::connect(relay.port());
            let request = format!("HEAD {url} HTTP/1.1\r\nHost: {}\r\n\r\n", host(&url));
            client.send(&request).expect("the relay reads");
            assert_eq!(client.head().expect("an answer").status(), 200);
            let since = Instant::now();
            wait_until(PATIENCE, "a fifth of a second", || {
                since.elapsed() > Duration::from_millis(200)
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let (asked, foreign) = (asked.into_inner(), foreign.into_inner());
    note(&format!("{foreign} of {asked} got something else"));
    assert_eq!(foreign, 0, "of {asked}");
    let told = relay.log_lines(&["tinyproxy sent bytes nobody asked for"]);
    assert_eq!(told.len(), 1, "{told:?}");
}
