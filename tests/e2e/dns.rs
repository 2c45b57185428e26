//! Names: asked for off the workers, under a deadline, and not again and again.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_proxy_lb::net::resolve::Resolver;
use http_proxy_lb::server::Options;
use parking_lot::{Condvar, Mutex};

use super::harness::{Client, Member, Origin, Proxy, Talk, Upstream, wait_until};

const HERE: [u8; 4] = [127, 0, 0, 1];
const HERE_AT_9: ([u8; 4], u16) = (HERE, 9);

/// Holds look-ups until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock();
        while !*open {
            self.opened.wait(&mut open);
        }
    }

    fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Opens the gate at the end of the test, however it ends.
struct Opener(Arc<Gate>);

fn resolving(ask: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Options {
    Options {
        resolver: Resolver::asking(ask),
        ..Options::default()
    }
}

const DIRECT: &str = "domain_policy: {mode: whitelist, domains: []}\n";

/// D27: every connection asked the system, on a worker.
#[test]
fn a_name_is_asked_for_once() {
    let origin = Origin::echo_ok("origin");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let options = resolving(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(vec![HERE.into()])
    });
    let proxy = Proxy::with_options::<Member>(DIRECT, [], options);
    let port = origin.address().port();
    for _ in 0..5 {
        let mut client = proxy.client();
        client
            .get(&format!("http://Name.test:{port}/"))
            .expect_status(200);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_look_up_that_hangs_is_504_and_holds_nobody_else() {
    let origin = Origin::echo_ok("origin");
    let gate = Arc::new(Gate::default());
    let _opener = Opener(Arc::clone(&gate));
    let held = Arc::clone(&gate);
    let options = resolving(move |name| {
        if name == "hangs.test" {
            held.pass();
        }
        Ok(vec![HERE.into()])
    });
    let extra = format!("{DIRECT}limits: {{connect_timeout_secs: 0.5}}");
    let proxy = Proxy::with_options::<Member>(&extra, [], options);
    let port = origin.address().port();
    let mut hanging = proxy.client();
    hanging.get(&format!("http://hangs.test:{port}/"));
    wait_until(|| gate.waiting.load(Ordering::Relaxed) == 1);
    let mut other = proxy.client();
    other
        .get(&format!("http://works.test:{port}/"))
        .expect_status(200);
    hanging
        .expect_refusal(504)
        .expect_field_with("Proxy-Status", "dns_timeout");
    proxy
        .client()
        .send("CONNECT hangs.test:443 HTTP/1.1\r\nHost: hangs.test\r\n\r\n")
        .expect_refusal_and_close(504);
    // Its answer is taken when it comes.
    gate.open();
    wait_until(|| {
        hanging.get(&format!("http://hangs.test:{port}/"));
        hanging.read_response().status() == 200
    });
}

/// A dead name server must not cost a thread for each name.
#[test]
fn many_look_ups_that_hang_leave_addresses_and_known_names_alone() {
    let origin = Origin::echo_ok("origin");
    let gate = Arc::new(Gate::default());
    let _opener = Opener(Arc::clone(&gate));
    let held = Arc::clone(&gate);
    let options = resolving(move |name| {
        if name != "known.test" {
            held.pass();
        }
        Ok(vec![HERE.into()])
    });
    let extra = format!("{DIRECT}limits: {{connect_timeout_secs: 2}}");
    let proxy = Proxy::with_options::<Member>(&extra, [], options);
    let port = origin.address().port();
    let known = format!("http://known.test:{port}/");
    proxy.client().get(&known).expect_status(200);
    let mut hanging: Vec<_> = (0..30).map(|_| proxy.client()).collect();
    for (n, client) in hanging.iter_mut().enumerate() {
        client.get(&format!("http://h{n}.test:{port}/"));
    }
    wait_until(|| proxy.counts().busy == 30);
    proxy.client().get(&known).expect_status(200);
    let literal = format!("http://{}/", origin.authority());
    proxy.client().get(&literal).expect_status(200);
    assert!(
        gate.waiting.load(Ordering::Relaxed) <= 32,
        "threads that ask for one client"
    );
    for client in &mut hanging {
        client.expect_refusal(504);
    }
}

/// A proxy and an origin; every name that begins with `silent` hangs until the end of the test.
fn with_silent_names() -> (Proxy, Origin, Opener) {
    let origin = Origin::echo_ok("origin");
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let options = resolving(move |name| {
        if name.starts_with("silent") {
            held.pass();
        }
        Ok(vec![HERE.into()])
    });
    let proxy = Proxy::with_options::<Member>(DIRECT, [], options);
    (proxy, origin, Opener(gate))
}

/// 20 names that nobody has asked for yet are all answered, for clients at `address`.
fn expect_twenty_of_twenty(proxy: &Proxy, origin: &Origin, address: Ipv4Addr) {
    let port = origin.address().port();
    for number in 0..20 {
        Client::connect_from(address, proxy.address())
            .get(&format!("http://works{number}.test:{port}/"))
            .expect_status(200);
    }
}

/// With as many as there were threads, nobody else's new name was looked up any more.
#[test]
fn a_client_that_asks_for_silent_names_keeps_nobody_else_waiting() {
    let (proxy, origin, gate) = with_silent_names();
    let greedy: Vec<_> = (0..100)
        .map(|number| {
            let mut client = proxy.client();
            client.get(&format!("http://silent{number}.test/"));
            client
        })
        .collect();
    wait_until(|| proxy.counts().busy == 100 && gate.0.waiting.load(Ordering::Relaxed) == 32);
    expect_twenty_of_twenty(&proxy, &origin, Ipv4Addr::new(127, 0, 0, 2));
    drop((gate, greedy));
}

#[test]
fn a_few_silent_names_do_not_keep_the_client_itself_waiting() {
    let (proxy, origin, gate) = with_silent_names();
    let hanging: Vec<_> = (0..20)
        .map(|number| {
            let mut client = proxy.client();
            client.get(&format!("http://silent{number}.test/"));
            client
        })
        .collect();
    wait_until(|| gate.0.waiting.load(Ordering::Relaxed) == 20);
    expect_twenty_of_twenty(&proxy, &origin, Ipv4Addr::LOCALHOST);
    drop((gate, hanging));
}

#[test]
fn a_silent_zone_that_many_clients_ask_for_keeps_nobody_waiting() {
    let (proxy, origin, gate) = with_silent_names();
    let greedy: Vec<_> = (0..100)
        .map(|number| {
            let address = Ipv4Addr::new(127, 0, 1, number);
            let mut client = Client::connect_from(address, proxy.address());
            client.get(&format!("http://silent{number}.zone.test/"));
            client
        })
        .collect();
    wait_until(|| proxy.counts().busy == 100 && gate.0.waiting.load(Ordering::Relaxed) == 16);
    for last in [1, 2] {
        let address = Ipv4Addr::new(127, 0, last, 1);
        expect_twenty_of_twenty(&proxy, &origin, address);
    }
    drop((gate, greedy));
}

#[test]
fn a_name_without_an_address_is_502() {
    let options = resolving(|name| match name {
        "none.test" => Ok(Vec::new()),
        _ => Err(io::Error::other("no such name")),
    });
    let proxy = Proxy::with_options::<Member>(DIRECT, [], options);
    for name in ["none.test", "fails.test"] {
        proxy
            .client()
            .get(&format!("http://{name}/"))
            .expect_refusal(502)
            .expect_field_with("Proxy-Status", "dns_error");
    }
}

#[test]
fn every_address_of_a_name_is_tried() {
    let origin = Origin::echo_ok("origin");
    // Nothing listens at that port of the first two.
    let options = resolving(|_| {
        Ok(vec![
            [127, 0, 0, 9].into(),
            [127, 0, 0, 8].into(),
            HERE.into(),
        ])
    });
    let proxy = Proxy::with_options::<Member>(DIRECT, [], options);
    let port = origin.address().port();
    proxy
        .client()
        .get(&format!("http://three.test:{port}/"))
        .expect_status(200);
}

#[test]
fn an_upstream_whose_name_leads_nowhere_is_offline_and_passed_over() {
    let b = Upstream::echo_ok("b");
    let options = resolving(|_| Err(io::Error::other("no such name")));
    let nowhere = b.with("{name: nowhere, url: 'http://nowhere.test:3128', priority: 1}");
    let proxy = Proxy::with_options("mode: priority", [nowhere, b.with("{}")], options);
    let post = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nhi";
    proxy
        .client()
        .send(post)
        .expect_status(200)
        .expect_body("b");
    let report = proxy.upstream("nowhere");
    assert!(!report.online);
    assert!(report.reason.is_some_and(|reason| reason.contains("name")));
}

/// A client was told to check the spelling of its URL.
#[test]
fn a_name_of_an_upstream_that_leads_nowhere_is_not_blamed_on_the_url() {
    let options = resolving(|_| Err(io::Error::other("no such name")));
    let nowhere = Member::at("nowhere", HERE_AT_9.into()).with("url: 'http://nowhere.test:3128'");
    let proxy = Proxy::with_options("{}", [nowhere], options);
    wait_until(|| !proxy.upstream("nowhere").online);
    for request in [
        "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
        "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n",
    ] {
        let mut client = proxy.client();
        client.send(request).expect_refusal(503);
        client
            .expect_field_with("Proxy-Status", "dns_error")
            .expect_body_with("their names cannot be resolved. It is not the URL");
    }
}

/// The same while another upstream is thought to be online.
#[test]
fn a_request_that_fails_for_the_name_of_its_upstream_says_so() {
    let b = Upstream::by_hand("b");
    let options = resolving(|_| Err(io::Error::other("no such name")));
    let nowhere = b.with("{name: nowhere, url: 'http://nowhere.test:3128', priority: 2}");
    let proxy = Proxy::with_options(
        "{mode: priority, health_check: {fall: 1000}}",
        [b.with("priority: 1"), nowhere],
        options,
    );
    let mut client = proxy.client();
    client.get("http://o.test/");
    b.accept_and_read_request().0.close();
    client
        .expect_refusal(502)
        .expect_field_with("Proxy-Status", "next-hop=\"nowhere\"")
        .expect_field_with("Proxy-Status", "dns_error")
        .expect_body_with("name of the upstream proxy cannot be resolved. It is not the URL");
}

/// A name that leads elsewhere a moment later gains nothing: what was allowed is connected to.
#[test]
fn a_name_that_leads_to_a_forbidden_address_is_refused() {
    let options = resolving(|_| Ok(vec![[169, 254, 169, 254].into()]));
    let proxy = Proxy::with_options::<Member>(DIRECT, [], options);
    proxy
        .client()
        .get("http://metadata.test/latest")
        .expect_refusal(403)
        .expect_field_with("Proxy-Status", "destination_ip_prohibited");
    proxy
        .client()
        .send("CONNECT metadata.test:80 HTTP/1.1\r\nHost: metadata.test\r\n\r\n")
        .expect_refusal_and_close(403);
}

/// Upstreams look up what they are asked for themselves.
#[test]
fn the_name_of_a_target_is_none_of_our_business_when_an_upstream_gets_it() {
    let a = Upstream::echo_ok("a");
    let options = resolving(|_| Err(io::Error::other("nobody asks")));
    let proxy = Proxy::with_options("{}", [&a], options);
    proxy
        .client()
        .get("http://unknown.test/")
        .expect_status(200);
    proxy.client().open_tunnel("unknown.test:443");
}
