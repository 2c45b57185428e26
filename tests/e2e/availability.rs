//! How much of a pool others can cost: clients, origins and upstreams that poison it, and what everybody
//! else loses by that. (Nothing; an upstream leaves by proof alone.)
//!
//! What the rules say is tested in `health`, `failover` and `balance`. Here there is traffic all the time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::harness::{
    Hop, Member, Message, ProbeAnswer, Proxy, Talk, Upstream, numbered_fields, wait_until,
};

/// How long a load goes on: long enough for what it does to become visible.
const LOAD: Duration = Duration::from_secs(3);
/// Between two requests of one who asks all the time, and between two looks at the pool.
const BREATH: Duration = Duration::from_millis(5);

/// Says again and again whether the load goes on, with a pause after each time.
fn load(pause: Duration) -> impl Iterator<Item = usize> {
    let begun = Instant::now();
    (0..).take_while(move |_| {
        thread::park_timeout(pause);
        begun.elapsed() < LOAD
    })
}

/// One who asks all the time, over new and kept connections by turns.
#[derive(Default)]
struct Others {
    is_over: AtomicBool,
    asked: AtomicUsize,
    lost: AtomicUsize,
}

impl Others {
    fn run(&self, proxy: &Proxy) {
        let mut client = proxy.client();
        while !self.is_over.load(Ordering::Relaxed) {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            if number.is_multiple_of(2) {
                client = proxy.client();
            }
            client.get("http://honest.test/");
            let status = client.try_read_response().map(|answer| answer.status());
            if status != Some(200) {
                self.lost.fetch_add(1, Ordering::Relaxed);
                client = proxy.client();
            }
            thread::park_timeout(BREATH);
        }
    }

    /// Nobody but whoever is behind the load lost anything.
    #[track_caller]
    fn expect_nothing_lost(&self) {
        let (asked, lost) = (&self.asked, &self.lost);
        let (asked, lost) = (asked.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
        assert!(asked > 20, "only {asked} requests were made");
        assert_eq!(lost, 0, "of {asked} requests of others");
    }
}

/// Ends what runs beside a test, also when that panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An upstream behind which there is one origin that serves and others that do what their name says.
fn poisoned(hop: &mut Hop, request: &Message) {
    let target = request.target();
    if target.contains("cut") {
        hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        hop.close_then();
    } else if target.contains("407") {
        hop.send(
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n",
        );
    } else if target.contains("close") {
        hop.close_then();
    } else if target.contains("fields") {
        let fields = numbered_fields(300);
        hop.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n"
        ));
    } else {
        hop.send_ok("served");
    }
}

#[test]
fn a_client_that_asks_for_poison_costs_others_nothing_and_keeps_nobody_out() {
    let upstreams = ["a", "b", "c", "d"].map(|name| Upstream::answering(name, poisoned));
    let proxy = Proxy::over(&upstreams);
    let others = Others::default();
    let mean = thread::scope(|scope| {
        let _over = Over(&others.is_over);
        scope.spawn(|| others.run(&proxy));
        scope.spawn(|| {
            // Ten a second.
            for number in load(Duration::from_millis(100)) {
                let kind = ["cut", "407", "close", "fields"][number % 4];
                let mut client = proxy.client();
                client.get(&format!("http://{kind}.test/{number}"));
                drop(client.try_read_response());
            }
        });
        mean_online(&proxy)
    });
    proxy.note(&format!("of 4 upstreams {mean} were online on average"));
    assert!(mean >= 3.8, "{mean} of 4 were online");
    others.expect_nothing_lost();
    proxy.expect_nobody_suspected();
    for upstream in &upstreams {
        proxy.expect_online(upstream.name());
    }
}

/// How many upstreams are online and no suspects, as long as the load goes on.
#[expect(clippy::cast_precision_loss, reason = "some thousands at most")]
fn mean_online(proxy: &Proxy) -> f64 {
    let well = |_| {
        let all = proxy.server().upstreams();
        all.iter().filter(|one| one.online && !one.suspect).count()
    };
    let looks: Vec<usize> = load(BREATH).map(well).collect();
    looks.iter().sum::<usize>() as f64 / looks.len() as f64
}

/// It must not look fast because it fails fast.
#[test]
fn best_gives_no_more_than_its_share_to_one_that_only_refuses() {
    for status in [403, 429, 500, 503] {
        let refuse = move |hop: &mut Hop, _: &Message| {
            hop.send(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n"));
        };
        let serve = |hop: &mut Hop, request: &Message| {
            thread::park_timeout(Duration::from_millis(5));
            if request.method() == "CONNECT" {
                hop.send("HTTP/1.1 200 OK\r\n\r\n");
                hop.close_then();
            } else {
                hop.send_ok("served");
            }
        };
        let upstreams = || {
            [
                Upstream::answering("bad", refuse),
                Upstream::answering("b", serve),
                Upstream::answering("c", serve),
            ]
        };
        let pool = upstreams();
        let proxy = Proxy::with_yaml("mode: best", &pool);
        for number in 0..40 {
            let mut client = proxy.client();
            client.get(&format!("http://target-{number}.test/"));
            client.read_response();
        }
        let asked = pool[0].requests().len();
        assert!(asked <= 13, "{status}: {asked} of 40 GETs");

        let pool = upstreams();
        let proxy = Proxy::with_yaml("mode: best", &pool);
        for number in 0..60 {
            let mut client = proxy.client();
            client.send(format!("CONNECT t{number}.test:443 HTTP/1.1\r\n\r\n"));
            client.read_head();
        }
        let asked = pool[0].requests().len();
        assert!(asked <= 20, "{status}: {asked} of 60 CONNECTs");
    }
}

/// The only one in service is not given up for what an origin does: those that are out of service are
/// nobody to turn to.
#[test]
fn beside_members_out_of_service_broken_downloads_cost_others_nothing() {
    let (a, b) = (
        Upstream::answering("a", poisoned),
        Upstream::answering("b", poisoned),
    );
    let proxy = Proxy::over([a.with("weight: 1"), b.with("weight: 0")]);
    let others = Others::default();
    thread::scope(|scope| {
        let _over = Over(&others.is_over);
        scope.spawn(|| others.run(&proxy));
        // Three a second.
        for number in load(Duration::from_millis(333)) {
            let mut client = proxy.client();
            client.get(&format!("http://cut.test/{number}"));
            client.expect_head(200).expect_truncated("abc");
        }
    });
    others.expect_nothing_lost();
    b.expect_untouched();
}

/// It accepts and reads nothing; no time of inactivity has to pass for that.
#[test]
fn an_upload_to_an_upstream_that_hangs_ends_with_the_time_of_a_check() {
    const LENGTH: usize = 16 << 20;
    // By hand, and nobody lends one.
    let a = Upstream::by_hand("a");
    // Far longer than the test may take.
    let times = "limits: {io_timeout_secs: 600, response_timeout_secs: 600}";
    let checks = "health_check: {timeout_secs: 0.4}";
    let proxy = Proxy::with_yaml(&format!("{checks}\n{times}"), [&a]);
    a.answer_probes(ProbeAnswer::Silence);
    let mut client = proxy.client();
    client.send(format!(
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    let sender = client.send_in_background(vec![b'x'; LENGTH]);
    client.expect_refusal(502);
    drop(sender.join());
    let reason = proxy.upstream("a").reason.expect("a is offline");
    assert_eq!(reason, "accepts connections and answers nothing");
}

/// What others have in flight at an upstream goes on when one origin behind it says 407.
#[test]
fn a_407_of_an_origin_disturbs_nobody_who_waits_at_the_same_upstream() {
    let upstreams = ["a", "b"].map(|name| {
        Upstream::answering(name, |hop, request| {
            if !request.target().contains("407") {
                thread::park_timeout(Duration::from_millis(300));
            }
            poisoned(hop, request);
        })
    });
    let proxy = Proxy::over(&upstreams);
    let waiting: Vec<_> = (0..9)
        .map(|number| {
            let mut client = proxy.client();
            client.get(&format!("http://slow.test/{number}"));
            client
        })
        .collect();
    let asked = || -> Vec<_> { upstreams.iter().flat_map(Upstream::requests).collect() };
    wait_until(|| asked().len() == 9);
    proxy.client().get("http://407.test/").expect_refusal(502);
    for mut client in waiting {
        client.expect_status(200).expect_body("served");
    }
    let mut times = HashMap::new();
    for request in asked() {
        *times.entry(request.target().to_owned()).or_insert(0) += 1;
    }
    for number in 0..9 {
        assert_eq!(times[&format!("http://slow.test/{number}")], 1);
    }
    proxy.expect_nobody_suspected();
    proxy.expect_online("a");
    proxy.expect_online("b");
}

/// A pool of any size says soon that nobody is there.
#[test]
fn ten_thousand_upstreams_that_refuse_are_answered_for() {
    let member = |number: u16| {
        let [high, low] = number.to_be_bytes();
        // The discard service, which nobody has there.
        Member::at(&format!("u{number}"), ([127, 1, high, low], 9).into())
    };
    let proxy = Proxy::over((0..10_000).map(member));
    let mut client = proxy.client();
    client.get("http://o.test/");
    let status = client.read_response().status();
    assert!([502, 503].contains(&status), "{status}");
    wait_until(|| proxy.server().upstreams().iter().all(|one| !one.online));
    let mut refused = 0;
    for _ in 0..20 {
        client.get("http://o.test/");
        refused += usize::from(client.read_response().status() == 503);
    }
    proxy.note(&format!("{refused} of 20 were refused without a trial"));
}

/// It cost the cube of their number, and the first requests waited for most of a minute.
#[test]
fn thousands_of_upstreams_that_refuse_are_gone_through_once() {
    let member = |number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        Member::at(
            &format!("u{number}"),
            SocketAddr::from(([127, 2, high, low], 9)),
        )
    };
    let proxy = Proxy::over((0..4_000).map(member));
    let mut client = proxy.client();
    client.get("http://o.test/");
    // Whether a check was there before.
    let status = client.read_response().status();
    assert!([502, 503].contains(&status), "{status}");
    let online = || proxy.server().upstreams().iter().any(|one| one.online);
    assert!(!online(), "each was tried");
    client.get("http://o.test/").expect_refusal(503);
}
