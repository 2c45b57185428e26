//! The relay under test: started in this process through the library, on port 0.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use http_proxy_lb::config::{self, checked::Config};
use http_proxy_lb::server::{Counts, Options, Server, UpstreamReport};
use serde_yaml::{Mapping, Value};

use super::client::Client;
use super::journal::Journal;
use super::stage::Stage;
use super::upstream::Upstream;
use super::wait_until;

/// What every test begins with; the `extra` text of a test is merged over it, key by key.
///
/// Times are shorter than those of the program where a failing test would otherwise hang, and
/// longer than a busy machine needs. The end of a test does not wait for its connections.
const CONFIGURATION: &str = "
listen: 127.0.0.1:0
health_check: {url: 'http://probe.test/probe-generate_204', interval_secs: 1, timeout_secs: 5}
limits:
  connect_timeout_secs: 5
  response_timeout_secs: 8
  header_timeout_secs: 8
  io_timeout_secs: 8
  response_idle_timeout_secs: 8
  shutdown_timeout_secs: 0.5
";

/// Sends everything to origins.
const ALL_DIRECT: &str = "domain_policy: {mode: whitelist, domains: []}";

/// An upstream as it stands in the file, and where it is played, if it is by this test.
pub(crate) struct Member {
    keys: Mapping,
    stage: Option<Arc<Stage>>,
}

impl From<&Upstream> for Member {
    fn from(upstream: &Upstream) -> Self {
        upstream.with("{}")
    }
}

impl Upstream {
    /// This upstream as a SOCKS5 proxy, with more keys.
    #[track_caller]
    pub(crate) fn as_socks(&self, keys: &str) -> Member {
        let url = format!("{{url: 'socks5://{}'}}", self.address());
        self.with(&url).with(keys)
    }

    /// This upstream with more keys, for example `weight: 3`.
    #[track_caller]
    pub(crate) fn with(&self, keys: &str) -> Member {
        let member = Member::at(self.name(), self.address()).with(keys);
        Member {
            stage: Some(Arc::clone(self.stage())),
            ..member
        }
    }
}

impl Member {
    /// Whatever listens there.
    #[track_caller]
    pub(crate) fn at(name: &str, address: SocketAddr) -> Self {
        let keys = mapping(&format!("{{name: {name}, url: 'http://{address}'}}"));
        Self { keys, stage: None }
    }

    /// At a host name, whose addresses a resolver of the test knows.
    #[track_caller]
    pub(crate) fn named(name: &str, port: u16) -> Self {
        let keys = mapping(&format!(
            "{{name: {name}, url: 'http://{name}.test:{port}'}}"
        ));
        Self { keys, stage: None }
    }

    /// The same with more keys.
    #[track_caller]
    pub(crate) fn with(self, keys: &str) -> Self {
        let keys = merged(self.keys, mapping(keys));
        Self { keys, ..self }
    }
}

/// A running relay. Dropping it stops it, and fails the test if a thread of it panicked.
pub(crate) struct Proxy {
    server: Option<Server>,
    journal: Journal,
    expected_panics: AtomicU64,
}

impl Proxy {
    /// In front of these upstreams.
    #[track_caller]
    pub(crate) fn over<M: Into<Member>>(upstreams: impl IntoIterator<Item = M>) -> Self {
        Self::with_yaml("{}", upstreams)
    }

    /// In front of these upstreams, with more configuration, which is merged over the usual one:
    /// `Proxy::with_yaml("limits: {workers: 1}", [&a, &b])`.
    #[track_caller]
    pub(crate) fn with_yaml<M: Into<Member>>(
        extra: &str,
        upstreams: impl IntoIterator<Item = M>,
    ) -> Self {
        Self::with_options(extra, upstreams, Options::default())
    }

    /// As [`Proxy::with_yaml`], with a resolver of the test or a file to reload from.
    #[track_caller]
    pub(crate) fn with_options<M: Into<Member>>(
        extra: &str,
        upstreams: impl IntoIterator<Item = M>,
        options: Options,
    ) -> Self {
        let members: Vec<Member> = upstreams.into_iter().map(Into::into).collect();
        let stages: Vec<_> = members.iter().filter_map(|one| one.stage.clone()).collect();
        let is_played = |report: &UpstreamReport| stages.iter().any(|one| one.name == report.name);
        let server = Server::start(configuration(extra, members), options);
        let server = server.expect("the relay starts");
        let journal = Journal::of_this_test();
        journal.note("proxy", &format!("listens on {}", server.local_addr()));
        // What a test sees begins when every upstream has been checked once.
        wait_until(|| {
            let all = server.upstreams();
            all.iter()
                .filter(|one| is_played(one))
                .all(|one| one.was_checked)
        });
        for stage in &stages {
            stage.forget_checks();
        }
        Self {
            server: Some(server),
            journal,
            expected_panics: AtomicU64::new(0),
        }
    }

    /// A thread of it will panic so many times, as the test wants it.
    pub(crate) fn will_panic(&self, times: u64) {
        self.expected_panics.store(times, Ordering::Relaxed);
    }

    /// Without upstreams: every request goes to its origin.
    #[track_caller]
    pub(crate) fn direct() -> Self {
        Self::direct_with("{}")
    }

    /// As [`Proxy::direct`], with more configuration.
    #[track_caller]
    pub(crate) fn direct_with(extra: &str) -> Self {
        let extra = serde_yaml::to_string(&merged(mapping(ALL_DIRECT), mapping(extra)));
        Self::with_yaml::<Member>(&extra.expect("YAML"), [])
    }

    /// Replaces the whole configuration, as a reload does.
    #[track_caller]
    pub(crate) fn reload<M: Into<Member>>(
        &self,
        extra: &str,
        upstreams: impl IntoIterator<Item = M>,
    ) {
        let applied = self.server().reload(configuration(extra, upstreams));
        applied.expect("the configuration applies");
        self.journal.note("proxy", "reloaded");
    }

    /// A new connection to it.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server().local_addr()
    }

    /// The library's own handle, for what this harness has no word for.
    pub(crate) fn server(&self) -> &Server {
        self.server
            .as_ref()
            .expect("the relay runs until the test ends")
    }

    /// The counters of this moment.
    pub(crate) fn counts(&self) -> Counts {
        self.server().counts()
    }

    /// What it knows about the upstream of this name.
    #[track_caller]
    pub(crate) fn upstream(&self, name: &str) -> UpstreamReport {
        let all = self.server().upstreams();
        let found = all.into_iter().find(|report| report.name == name);
        found.unwrap_or_else(|| panic!("the relay has no upstream {name}"))
    }

    /// It believes that this upstream is online.
    #[track_caller]
    pub(crate) fn expect_online(&self, name: &str) {
        let report = self.upstream(name);
        assert!(report.online, "{name} is offline: {:?}", report.reason);
    }

    /// Soon every check has come to its end, and nobody is a suspect.
    #[track_caller]
    pub(crate) fn expect_nobody_suspected(&self) {
        wait_until(|| self.server().upstreams().iter().all(|one| !one.suspect));
    }

    /// A new client is served as usual: what happened before has not hurt the relay. Waits for
    /// upstreams that a probe has to bring back.
    #[track_caller]
    pub(crate) fn expect_honest_request_works(&self) {
        wait_until(|| {
            let all = self.server().upstreams();
            all.is_empty() || all.iter().any(|upstream| upstream.online)
        });
        self.client().get("http://honest.test/").expect_status(200);
    }

    /// Soon nothing is under way any more: no exchange, no tunnel, no lease on an upstream.
    #[track_caller]
    pub(crate) fn expect_at_rest(&self) {
        wait_until(|| {
            let counts = self.counts();
            let leases: u64 = self.server().upstreams().iter().map(|u| u.active).sum();
            let at_work = counts.tunnels + counts.busy + counts.long + counts.queue;
            at_work == 0 && leases == 0
        });
    }

    /// Tells whoever reads the transcript.
    pub(crate) fn note(&self, what: &str) {
        self.journal.note("test", what);
    }

    /// As [`Proxy::expect_at_rest`], and no client connection is left: they all have gone.
    #[track_caller]
    pub(crate) fn expect_deserted(&self) {
        wait_until(|| self.counts().connections == 0);
        self.expect_at_rest();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.journal.print_if_panicking();
        let Some(server) = self.server.take() else {
            return;
        };
        let panics = server.counts().panics;
        let drained = server.drain();
        self.journal.note("proxy", &format!("{drained:?}"));
        if !thread::panicking() {
            let expected = self.expected_panics.load(Ordering::Relaxed);
            assert_eq!(panics, expected, "panics of the relay's threads");
        }
    }
}

/// A file of this test alone; removed when dropped.
pub(crate) struct TemporaryFile(PathBuf);

impl TemporaryFile {
    /// A path in the directory for temporary files at which nothing is yet.
    pub(crate) fn new(name: &str) -> Self {
        let number = Journal::of_this_test().number();
        let (process, thread) = (std::process::id(), thread::current().id());
        let file = format!("http-proxy-lb-{process}-{thread:?}-{number}-{name}");
        Self(std::env::temp_dir().join(file.replace(['(', ')'], "")))
    }

    /// The path as it goes into a configuration.
    pub(crate) fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// Replaces what stands in it.
    #[track_caller]
    pub(crate) fn write(&self, text: impl AsRef<[u8]>) {
        std::fs::write(&self.0, text).expect("a temporary file can be written");
    }

    /// What stands in it; nothing if it is not there.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

#[track_caller]
fn configuration<M: Into<Member>>(extra: &str, upstreams: impl IntoIterator<Item = M>) -> Config {
    let text = configuration_text(extra, upstreams);
    match config::parse(&text, "test.yaml") {
        Ok(config) => config,
        Err(errors) => panic!("the configuration of the test is wrong: {errors}\n{text}"),
    }
}

/// The configuration of [`Proxy::with_yaml`] as the text of a file.
#[track_caller]
pub(crate) fn configuration_text<M: Into<Member>>(
    extra: &str,
    upstreams: impl IntoIterator<Item = M>,
) -> String {
    let upstreams = upstreams
        .into_iter()
        .map(|upstream| Value::Mapping(upstream.into().keys));
    let mut file = merged(mapping(CONFIGURATION), mapping(extra));
    file.insert(
        Value::from("upstream"),
        Value::Sequence(upstreams.collect()),
    );
    serde_yaml::to_string(&file).expect("YAML")
}

#[track_caller]
fn mapping(text: &str) -> Mapping {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("not a YAML mapping: {error}\n{text}"))
}

/// The keys of both; where both have one, mappings are merged and other values taken from `over`.
fn merged(mut under: Mapping, over: Mapping) -> Mapping {
    for (key, value) in over {
        let value = match (under.remove(&key), value) {
            (Some(Value::Mapping(old)), Value::Mapping(new)) => Value::Mapping(merged(old, new)),
            (_, value) => value,
        };
        under.insert(key, value);
    }
    under
}
