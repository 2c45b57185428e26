//! Bodies larger than memory pass in little of it.

use crate::machine::note;
use crate::origin::Origin;
use crate::pattern::Check;
use crate::relay::{Relay, Settings, as_upstream};
use crate::wire::{Client, Framed};

/// One byte more than 32 bits count.
const BYTES: u64 = (4 << 30) + 1;
const MOST_KIB: u64 = 32 * 1024;

/// Runs `transfer` through a relay and an upstream that is this program, too; both stay small.
fn check(what: &str, transfer: impl FnOnce(&mut Client, &Origin)) {
    let origin = Origin::start();
    let upstream = as_upstream("second", &Settings::direct());
    let relay = Relay::start(
        &Settings::new(&origin.url("/ok"))
            .line("via: false")
            .upstream(&upstream),
    );
    let mut client = Client::connect(relay.port());
    transfer(&mut client, &origin);
    for (name, server) in [("relay", &relay.server), ("upstream", upstream.server())] {
        let most = server.program.status_number("VmHWM");
        note(&format!(
            "{what}: at most {most} KiB resident in the {name}"
        ));
        assert!(most < MOST_KIB, "{what}: {most} KiB in the {name}");
    }
}

fn download(client: &mut Client, url: &str) {
    client
        .send(&format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\n"))
        .expect("sent");
    let head = client.head().expect("a response");
    assert_eq!(head.status(), 200);
    let mut check = Check::default();
    client
        .body(&head, |bytes| check.take(bytes))
        .expect("a whole body");
    assert_eq!(check.finish(), Ok(BYTES));
}

fn upload(client: &mut Client, url: &str, framed: Framed) {
    let framing = framed.field(BYTES);
    client
        .send(&format!(
            "PUT {url} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n"
        ))
        .expect("sent");
    framed.send(client.stream(), BYTES).expect("taken");
    let head = client.head().expect("a response");
    let mut answer = Vec::new();
    client
        .body(&head, |bytes| answer.extend_from_slice(bytes))
        .expect("a whole body");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert_eq!((head.status(), answer), (200, BYTES.to_string()));
}

fn open_tunnel(client: &mut Client, origin: &Origin) {
    let authority = format!("127.0.0.1:{}", origin.port());
    client
        .send(&format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        ))
        .expect("sent");
    assert_eq!(client.head().expect("a response").status(), 200);
}

#[test]
#[ignore = "moves 4 GiB; needs no package"]
fn a_long_download_needs_little_memory() {
    check("download", |client, origin| {
        download(client, &origin.url(&format!("/pattern/{BYTES}")));
    });
}

#[test]
#[ignore = "moves 4 GiB; needs no package"]
fn a_long_chunked_download_needs_little_memory() {
    let path = format!("/pattern-chunked/{BYTES}");
    check("chunked download", |client, origin| {
        download(client, &origin.url(&path));
    });
}

#[test]
#[ignore = "moves 4 GiB; needs no package"]
fn a_long_upload_needs_little_memory() {
    check("upload", |client, origin| {
        upload(client, &origin.url("/count/"), Framed::Length);
    });
}

#[test]
#[ignore = "moves 4 GiB; needs no package"]
fn a_long_chunked_upload_needs_little_memory() {
    check("chunked upload", |client, origin| {
        upload(client, &origin.url("/count/"), Framed::Chunked);
    });
}

#[test]
#[ignore = "moves 4 GiB; needs no package"]
fn a_long_download_in_a_tunnel_needs_little_memory() {
    check("download in a tunnel", |client, origin| {
        open_tunnel(client, origin);
        download(client, &format!("/pattern/{BYTES}"));
    });
}

#[test]
#[ignore = "moves 4 GiB; needs no package"]
fn a_long_upload_in_a_tunnel_needs_little_memory() {
    check("upload in a tunnel", |client, origin| {
        open_tunnel(client, origin);
        upload(client, "/count/", Framed::Length);
    });
}
