//! A new configuration: all of it at once, between requests, and nothing lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use http_proxy_lb::config::source::Source;
use http_proxy_lb::server::Options;

use super::harness::{
    Client, Origin, ProbeAnswer, Proxy, Talk, TemporaryFile, Upstream, configuration_text,
    wait_until,
};

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";

/// D13: only the list of upstreams was taken.
#[test]
fn all_of_a_new_configuration_applies_at_once() {
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let origin = Origin::echo_ok("origin");
    let log = TemporaryFile::new("access.log");
    let proxy = Proxy::over([&a, &b]);
    let mut client = proxy.client();
    client.send(GET).expect_status(200);
    let everything = format!(
        "mode: priority\nvia: false\naccess_log: {{file: '{}'}}\n\
         domain_policy: {{mode: blacklist, domains: [127.0.0.1]}}\n\
         limits: {{max_header_bytes: 1024, header_timeout_secs: 0.2}}\n\
         health_check: {{fall: 2}}",
        log.path()
    );
    let with_password = "{priority: 1, username: user, password: secret}";
    proxy.reload(&everything, [b.with(with_password), a.with("priority: 2")]);
    // Mode, credentials, via.
    for _ in 0..4 {
        client
            .send(GET)
            .expect_status(200)
            .expect_body("b")
            .expect_no_field("Via");
    }
    let request = b.requests().pop().expect("a request");
    request
        .expect_field("Proxy-Authorization", "Basic dXNlcjpzZWNyZXQ=")
        .expect_no_field("Via");
    // Policy.
    client
        .get(&format!("http://{}/", origin.authority()))
        .expect_body_of(200, "origin");
    // Access log.
    wait_until(|| log.text().lines().count() >= 5);
    // Limits, for heads that begin from now on.
    proxy.client().send("GET ").expect_refusal(408);
    client.send(GET.replace("\r\n\r\n", &format!("\r\nX: {}\r\n\r\n", "x".repeat(1100))));
    client.expect_refusal(431);
    // Health: one failure is not enough any more.
    b.kill();
    let mut client = proxy.client();
    client.send(GET).expect_status(200).expect_body("a");
    proxy.expect_online("b");
    // The check of the suspect may have been the second.
    client.send(GET).expect_status(200).expect_body("a");
    wait_until(|| !proxy.upstream("b").online);
}

impl Client {
    #[track_caller]
    fn expect_body_of(&mut self, status: u16, body: &str) {
        self.expect_status(status).expect_body(body);
    }
}

#[test]
fn the_number_of_connections_follows_the_file() {
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::over([&a]);
    let mut first = proxy.client();
    first.send(GET).expect_status(200);
    proxy.reload("limits: {max_connections: 1}", [&a]);
    proxy.client().expect_refusal_and_close(503);
    first.send(GET).expect_status(200);
    proxy.reload("limits: {max_connections: 2}", [&a]);
    proxy.client().send(GET).expect_status(200);
}

#[test]
fn upstreams_that_stay_keep_their_state_whatever_they_are_called() {
    let (a, b) = (Upstream::refusing("a"), Upstream::echo_ok("b"));
    let slow = "health_check: {interval_secs: 600, timeout_secs: 30}";
    let proxy = Proxy::with_yaml(slow, [&a, &b]);
    a.answer_probes(ProbeAnswer::Silence);
    let mut client = proxy.client();
    for _ in 0..4 {
        client.send(GET).expect_status(200);
    }
    let (before, other) = (proxy.upstream("a"), proxy.upstream("b"));
    assert!(!before.online);
    proxy.reload(slow, [b.with("name: renamed"), a.with("weight: 7")]);
    let after = proxy.upstream("a");
    assert_eq!((after.online, after.reason), (false, before.reason));
    assert_eq!(proxy.upstream("renamed").latency, other.latency);
    for _ in 0..4 {
        client.send(GET).expect_status(200).expect_body("b");
    }
}

/// D5b: the count was copied, and stayed at 1 for ever.
#[test]
fn a_lease_that_outlives_a_reload_ends_on_the_same_count() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut tunnel = proxy.client();
    tunnel.send(CONNECT);
    let (mut far, _) = a.accept_and_read_request();
    far.send("HTTP/1.1 200 OK\r\n\r\n");
    tunnel.expect_tunnel();
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    assert_eq!(proxy.upstream("a").active, 2);
    for mode in ["best", "priority", "round_robin"] {
        proxy.reload(&format!("mode: {mode}"), [&a]);
        assert_eq!(proxy.upstream("a").active, 2);
    }
    hop.send_ok("done");
    client.expect_status(200).expect_body("done");
    wait_until(|| proxy.upstream("a").active == 1);
    tunnel.send("ping");
    far.expect_bytes("ping");
    drop(tunnel);
    far.expect_gone();
    drop(far);
    wait_until(|| proxy.upstream("a").active == 0);
}

/// Idle before the reload, and given back after it by an exchange that began before.
#[test]
fn connections_to_an_upstream_that_stays_serve_after_a_reload() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_kept("before");
    client.expect_status(200).expect_body("before");
    proxy.reload("mode: best", [&a]);
    client.send(GET);
    hop.read_request();
    proxy.reload("mode: priority", [&a]);
    hop.send_kept("meanwhile");
    client.expect_status(200).expect_body("meanwhile");
    client.send(GET);
    hop.read_request();
    hop.send_kept("after");
    client.expect_status(200).expect_body("after");
}

#[test]
fn what_is_under_way_at_a_removed_upstream_finishes() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let proxy = Proxy::over([&a]);
    let (mut waiting, mut tunnel) = (proxy.client(), proxy.client());
    tunnel.send(CONNECT);
    let (mut far, _) = a.accept_and_read_request();
    far.send("HTTP/1.1 200 OK\r\n\r\n");
    tunnel.expect_tunnel();
    waiting.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    proxy.reload("{}", [&b]);
    proxy.client().send(GET).expect_status(200).expect_body("b");
    hop.send_ok("from a");
    waiting.expect_status(200).expect_body("from a");
    waiting.send(GET).expect_status(200).expect_body("b");
    tunnel.send("ping");
    far.expect_bytes("ping").send("pong");
    tunnel.expect_bytes("pong");
    drop((tunnel, waiting));
    far.expect_gone();
    drop(far);
    proxy.expect_deserted();
    // One that comes back begins anew.
    proxy.reload("{}", [&a, &b]);
    assert_eq!(proxy.upstream("a").active, 0);
}

#[test]
fn a_weight_of_zero_drains_an_upstream() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    proxy.reload("{}", [a.with("weight: 0"), b.with("{}")]);
    for _ in 0..4 {
        proxy.client().send(GET).expect_status(200).expect_body("b");
    }
    hop.send_ok("from a");
    client.expect_status(200).expect_body("from a");
    client.send(GET).expect_status(200).expect_body("b");
    proxy.expect_online("a");
}

/// One request never sees two configurations.
#[test]
fn a_request_that_has_begun_keeps_its_configuration() {
    let (a, b) = (Upstream::by_hand("a"), Upstream::echo_ok("b"));
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml("mode: priority", members);
    let mut client = proxy.client();
    client.send(GET);
    let (hop, _) = a.accept_and_read_request();
    // b is not there any more, but it was when this request began.
    proxy.reload("mode: priority", [a.with("priority: 1")]);
    hop.close();
    client.expect_status(200).expect_body("b");
}

#[test]
fn a_new_password_is_tried_at_once() {
    let a = Upstream::answering("a", |hop, _| {
        hop.send("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
    });
    a.answer_probes(ProbeAnswer::Status(407));
    let never = "health_check: {interval_secs: 600}";
    let proxy = Proxy::with_yaml(never, [a.with("{username: u, password: wrong}")]);
    proxy.client().send(GET).expect_refusal(502);
    wait_until(|| !a.probes().is_empty());
    proxy.reload(never, [a.with("{username: u, password: right}")]);
    wait_until(|| {
        let probes = a.probes();
        let mut sent = probes
            .iter()
            .map(|probe| probe.values("Proxy-Authorization"));
        sent.any(|values| values == ["Basic dTpyaWdodA=="])
    });
    a.answer_probes(ProbeAnswer::Good);
    wait_until(|| proxy.upstream("a").online);
}

/// The file is looked at by its content.
struct FromFile {
    file: TemporaryFile,
    a: Upstream,
    proxy: Proxy,
}

impl FromFile {
    #[track_caller]
    fn looked_at_every(seconds: &str) -> Self {
        let (file, a) = (TemporaryFile::new("config.yaml"), Upstream::echo_ok("a"));
        let extra = format!("reload_interval_secs: {seconds}");
        let text = configuration_text(&extra, [&a]);
        file.write(&text);
        let options = Options {
            source: Some(Source::from(PathBuf::from(file.path()))),
            ..Options::default()
        };
        let proxy = Proxy::with_options(&extra, [&a], options);
        Self { file, a, proxy }
    }

    fn text(&self, extra: &str) -> String {
        configuration_text(extra, [&self.a])
    }

    fn has_via(&self) -> bool {
        let mut client = self.proxy.client();
        client.send(GET).expect_status(200);
        !client.message().values("Via").is_empty()
    }

    fn reloads(&self) -> u64 {
        self.proxy.server().context().metrics.reloads.value()
    }

    fn failed(&self) -> u64 {
        self.proxy.server().context().metrics.failed_reloads.value()
    }
}

#[test]
fn a_changed_file_is_seen_without_being_told() {
    let setup = FromFile::looked_at_every("0.05");
    assert!(setup.has_via());
    // Two edits within a second, of the same length: only the content tells.
    for (via, has) in [("no ", false), ("yes", true), ("no ", false)] {
        let value = if via == "yes" { "true " } else { "false" };
        setup
            .file
            .write(setup.text("reload_interval_secs: 0.05") + "via: " + value + "\n");
        wait_until(|| setup.has_via() == has);
    }
}

#[test]
fn with_an_interval_of_zero_the_file_is_read_when_somebody_says_so() {
    let setup = FromFile::looked_at_every("0");
    setup
        .file
        .write(setup.text("{reload_interval_secs: 0, via: false}"));
    assert!(setup.has_via());
    setup.proxy.server().reload_now();
    wait_until(|| !setup.has_via());
    wait_until(|| setup.reloads() == 1);
    // Nothing has changed since.
    let before = setup.reloads();
    setup.proxy.server().reload_now();
    setup.file.write("listen: [");
    setup.proxy.server().reload_now();
    wait_until(|| setup.failed() >= 1);
    assert_eq!(setup.reloads(), before);
}

/// D13: a file half written was taken, and a bad one complained about for ever.
#[test]
fn a_broken_file_changes_nothing_and_is_told_once() {
    let setup = FromFile::looked_at_every("0.02");
    for (at, broken) in ["listen: [", "", "listen: 127.0.0.1:0\nupstream: 7\n"]
        .iter()
        .enumerate()
    {
        setup.file.write(broken);
        wait_until(|| setup.failed() == at as u64 + 1);
        assert!(setup.has_via(), "{broken}");
    }
    fs::remove_file(setup.file.path()).expect("the file is there");
    wait_until(|| setup.failed() == 4);
    // A good one shows that several looks were taken meanwhile, all silent.
    setup
        .file
        .write(setup.text("{reload_interval_secs: 0.02, via: false}"));
    wait_until(|| !setup.has_via());
    assert_eq!((setup.failed(), setup.reloads()), (4, 1));
}

#[test]
fn a_swapped_symlink_counts() {
    let setup = FromFile::looked_at_every("0.05");
    let (link, other) = (setup.file.path(), TemporaryFile::new("other.yaml"));
    other.write(setup.text("{reload_interval_secs: 0.05, via: false}"));
    let next = TemporaryFile::new("next");
    symlink(other.path(), next.path()).expect("a symlink");
    fs::rename(next.path(), link).expect("to swap the file");
    wait_until(|| !setup.has_via());
}

#[test]
fn an_address_that_needs_a_restart_changes_nothing_else() {
    let setup = FromFile::looked_at_every("0.05");
    let text = setup.text("{reload_interval_secs: 0.05, via: false}");
    setup
        .file
        .write(text.replace("listen: 127.0.0.1:0", "listen: 127.0.0.1:1"));
    wait_until(|| !setup.has_via());
}
