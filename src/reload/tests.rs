//! Looks at a file, one by one and without the thread.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::balance::pick::BalanceMode;
use crate::config;
use crate::config::overrides::Overrides;
use crate::net::resolve::Resolver;

const BASE: &str = "listen: 127.0.0.1:0\nupstream: [{url: 'http://a.test', name: a}]\n";

/// A configuration file in a folder of its own, and what was put in force from it.
struct Setup {
    folder: PathBuf,
    file: PathBuf,
    source: Source,
    ctx: Context,
    begun: AtomicUsize,
    over: AtomicUsize,
}

impl Watcher for Setup {
    fn begins(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    fn applied(&self) {}

    fn over(&self) {
        self.over.fetch_add(1, Ordering::Relaxed);
    }
}

impl Setup {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("http-proxy-lb-reload-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let file = folder.join("c.yaml");
        fs::write(&file, BASE).unwrap();
        let config = config::load(&file).unwrap();
        Self {
            folder,
            source: Source::from(file.clone()),
            file,
            ctx: Context::new(config, Resolver::default()).unwrap(),
            begun: AtomicUsize::new(0),
            over: AtomicUsize::new(0),
        }
    }

    fn write(&self, text: impl AsRef<[u8]>) {
        fs::write(&self.file, text).unwrap();
    }

    /// From now on read with a variable.
    fn set(&mut self, variable: &str, value: &str) {
        let overrides = Overrides::of_environment([(variable.into(), value.into())]);
        self.source = Source::new(Some(self.file.clone()), overrides);
    }

    fn reloader(&self) -> Reloader<'_> {
        Reloader {
            source: &self.source,
            ctx: &self.ctx,
            watcher: self,
            trace: None,
            unsettled: None,
            complaint: None,
            loads: 0,
        }
    }

    fn names(&self) -> Vec<String> {
        let snapshot = self.ctx.snapshot();
        let upstreams = snapshot.pool.upstreams().iter();
        upstreams
            .map(|upstream| upstream.spec.name.clone())
            .collect()
    }

    /// Reloads made, and failed.
    fn counts(&self) -> (u64, u64) {
        let metrics = &self.ctx.metrics;
        (metrics.reloads.value(), metrics.failed_reloads.value())
    }

    fn failure(&self) -> Option<String> {
        let state = self.ctx.metrics.last_reload.lock().clone();
        state.failure.map(|(_, text)| text)
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn pool(names: &[&str]) -> String {
    let one = |name: &&str| format!("  - {{url: 'http://{name}.test', name: {name}}}\n");
    let all: Vec<_> = names.iter().map(one).collect();
    format!("listen: 127.0.0.1:0\nupstream:\n{}", all.concat())
}

#[test]
fn only_what_keeps_a_file_from_being_taken_is_the_reason() {
    let setup = Setup::new();
    setup.write("listen: 127.0.0.1:0\nlisen: x\nmode: fast\n");
    setup.reloader().look(Occasion::Asked);
    let failure = setup.failure().unwrap();
    assert!(failure.contains("mode: `fast`"), "{failure}");
    assert!(!failure.contains("lisen"), "{failure}");
}

/// A download that failed leaves such files.
#[test]
fn a_list_that_is_broken_or_has_become_empty_is_not_taken() {
    let setup = Setup::new();
    let list = setup.folder.join("exits.txt");
    fs::write(&list, "b.test:1\n").unwrap();
    setup.write("listen: 127.0.0.1:0\nupstream_files: [exits.txt]\n");
    let mut reloader = setup.reloader();
    reloader.look(Occasion::Asked);
    assert_eq!(setup.names(), ["b.test:1"]);
    for (content, said) in [
        ("", "the list `exits.txt` is empty and was not before"),
        ("<html>502</html>", "no line of `exits.txt` can be used"),
    ] {
        fs::write(&list, content).unwrap();
        for occasion in [Occasion::Asked, Occasion::Interval, Occasion::Interval] {
            reloader.look(occasion);
            let failure = setup.failure().unwrap();
            assert!(failure.contains(said), "{failure}");
        }
        assert_eq!(setup.names(), ["b.test:1"]);
    }
    assert_eq!(setup.counts(), (1, 2));
    fs::write(&list, "c.test:1\n").unwrap();
    reloader.look(Occasion::Asked);
    assert_eq!(setup.names(), ["c.test:1"]);
    assert_eq!(setup.failure(), None);
}

/// The list is cut where it is still valid: it would have emptied half of the pool.
#[test]
fn a_half_written_file_is_not_taken() {
    let setup = Setup::new();
    let mut reloader = setup.reloader();
    let whole = pool(&["b", "c"]);
    let half = pool(&["b"]);
    assert!(whole.starts_with(&half));
    for half in [&*half, "", "listen: 127.0.0.1:0\n"] {
        setup.write(half);
        reloader.look(Occasion::Interval);
        assert_eq!(
            (setup.names(), setup.counts()),
            (vec!["a".to_owned()], (0, 0))
        );
    }
    setup.write(&whole);
    reloader.look(Occasion::Interval);
    assert_eq!(setup.counts(), (0, 0));
    reloader.look(Occasion::Interval);
    assert_eq!(setup.names(), ["b", "c"]);
    assert_eq!(setup.counts(), (1, 0));
}

#[test]
fn files_that_are_as_they_were_are_not_parsed_again() {
    let setup = Setup::new();
    let list = setup.folder.join("exits.txt");
    let mut reloader = setup.reloader();
    let mut looks = |loads: usize, names: &[&str]| {
        let before = reloader.loads;
        for _ in 0..5 {
            reloader.look(Occasion::Interval);
        }
        assert_eq!(reloader.loads - before, loads);
        assert_eq!(setup.names(), names);
    };
    looks(1, &["a"]);
    looks(0, &["a"]);
    // one that has to look the same twice
    fs::write(&list, "b.test:1\n").unwrap();
    setup.write("listen: 127.0.0.1:0\nupstream_files: [exits.txt]\n");
    looks(1, &["b.test:1"]);
    fs::write(&list, "c.test:1\n").unwrap();
    looks(1, &["c.test:1"]);
    // the same in other files
    fs::write(setup.folder.join("next"), "c.test:1\n").unwrap();
    fs::rename(setup.folder.join("next"), &list).unwrap();
    setup.write("listen: 127.0.0.1:0\nupstream_files: [exits.txt]\n");
    looks(0, &["c.test:1"]);
    // and a mistake
    fs::write(&list, "<html>502</html>").unwrap();
    looks(1, &["c.test:1"]);
    looks(0, &["c.test:1"]);
    assert_eq!(setup.counts(), (2, 1));
    reloader.look(Occasion::Asked);
    reloader.look(Occasion::Asked);
    assert_eq!((reloader.loads, setup.counts()), (6, (2, 3)));
}

#[test]
fn what_the_environment_sets_stays_as_the_file_changes() {
    let mut setup = Setup::new();
    setup.set("HTTP_PROXY_LB_UPSTREAMS", "http://kept.test");
    let mut reloader = setup.reloader();
    setup.write("listen: 127.0.0.1:0\nmode: best\nupstream: [{url: 'http://b.test'}]\n");
    reloader.look(Occasion::Asked);
    assert_eq!(setup.names(), ["kept.test:8080"]);
    assert_eq!(setup.ctx.snapshot().config.mode, BalanceMode::Best);
    assert_eq!(setup.counts(), (1, 0));
}

#[test]
fn who_asks_does_not_wait_for_a_second_look() {
    let setup = Setup::new();
    setup.write(pool(&["b"]));
    setup.reloader().look(Occasion::Asked);
    assert_eq!(setup.names(), ["b"]);
}

#[test]
fn reloads_and_what_came_of_them_are_in_the_history() {
    let setup = Setup::new();
    let mut reloader = setup.reloader();
    setup.write(pool(&["b"]));
    reloader.look(Occasion::Asked);
    setup.write("mode: random\n");
    reloader.look(Occasion::Asked);
    setup.write(pool(&["b"]));
    reloader.look(Occasion::Asked);
    let snapshot = setup.ctx.snapshot();
    let events = snapshot.pool.history().events();
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    let expected = [
        EventKind::Reloaded,
        EventKind::ReloadFailed,
        EventKind::Reloaded,
        EventKind::Started,
    ];
    assert_eq!(kinds, expected);
    let file = setup.file.display();
    for (event, words) in events.iter().zip([
        format!("{file} is again what is in force"),
        format!("what was in force stays in force: {file}:"),
        format!("{file} is in force: "),
    ]) {
        assert!(event.text.starts_with(&words), "{event:?}");
    }
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_once_with_its_line() {
    let setup = Setup::new();
    let mut reloader = setup.reloader();
    setup.write("listen: 127.0.0.1:0\nmode: random\n");
    for _ in 0..5 {
        reloader.look(Occasion::Interval);
    }
    assert_eq!(
        (setup.names(), setup.counts()),
        (vec!["a".to_owned()], (0, 1))
    );
    let failure = setup.failure().unwrap();
    assert!(
        failure.contains("c.yaml:2: mode: `random` is not known"),
        "{failure}"
    );
    // As often as the operator asks.
    reloader.look(Occasion::Asked);
    reloader.look(Occasion::Asked);
    assert_eq!(setup.counts(), (0, 3));
    // Another mistake is another complaint.
    setup.write("listen: 127.0.0.1:0\nmode: last\n");
    for _ in 0..3 {
        reloader.look(Occasion::Interval);
    }
    assert_eq!(setup.counts(), (0, 4));
    assert!(setup.failure().unwrap().contains("`last`"));
}

#[test]
fn a_file_that_is_put_right_clears_the_failure() {
    let setup = Setup::new();
    let mut reloader = setup.reloader();
    setup.write("listen: [");
    reloader.look(Occasion::Asked);
    assert!(setup.failure().is_some());
    setup.write(BASE);
    reloader.look(Occasion::Interval);
    assert_eq!((setup.failure(), setup.counts()), (None, (0, 1)));
}

#[test]
fn a_deleted_file_changes_nothing_until_it_is_back() {
    let setup = Setup::new();
    let mut reloader = setup.reloader();
    fs::remove_file(&setup.file).unwrap();
    for _ in 0..3 {
        reloader.look(Occasion::Interval);
    }
    assert_eq!(
        (setup.names(), setup.counts()),
        (vec!["a".to_owned()], (0, 1))
    );
    assert!(setup.failure().unwrap().contains("no such file"));
    setup.write(pool(&["b"]));
    reloader.look(Occasion::Interval);
    reloader.look(Occasion::Interval);
    assert_eq!(
        (setup.names(), setup.counts()),
        (vec!["b".to_owned()], (1, 1))
    );
}

/// All or nothing: the rest of such a file must not apply.
#[test]
fn a_file_whose_access_log_cannot_be_opened_changes_nothing() {
    let setup = Setup::new();
    let mut reloader = setup.reloader();
    let log = setup.folder.join("logs/access.log");
    let text = pool(&["b"]) + &format!("access_log: {{file: '{}'}}\n", log.display());
    setup.write(&text);
    for _ in 0..4 {
        reloader.look(Occasion::Interval);
    }
    assert_eq!(
        (setup.names(), setup.counts()),
        (vec!["a".to_owned()], (0, 1))
    );
    assert!(!setup.ctx.access_log.is_on());
    let failure = setup.failure().unwrap();
    assert!(
        failure.contains("c.yaml:4: access_log.file: ") && failure.contains("logs/access.log"),
        "{failure}"
    );
    // The same file is right once the folder is there.
    fs::create_dir(log.parent().unwrap()).unwrap();
    reloader.look(Occasion::Interval);
    reloader.look(Occasion::Interval);
    assert_eq!(
        (setup.names(), setup.counts()),
        (vec!["b".to_owned()], (1, 1))
    );
    assert!(setup.ctx.access_log.is_on() && log.exists());
    setup.ctx.access_log.finish(Duration::from_secs(10));
}

#[test]
fn a_pipe_is_not_waited_for() {
    let setup = Setup::new();
    fs::remove_file(&setup.file).unwrap();
    mknodat(CWD, &setup.file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut reloader = setup.reloader();
    reloader.look(Occasion::Interval);
    assert_eq!(setup.counts(), (0, 0));
    reloader.look(Occasion::Asked);
    assert_eq!(setup.counts(), (0, 1));
    assert!(setup.failure().unwrap().contains("a reload needs a file"));
}

#[test]
fn each_beginning_that_is_told_has_its_end() {
    let setup = Setup::new();
    let mut reloader = setup.reloader();
    let told = || {
        (
            setup.begun.load(Ordering::Relaxed),
            setup.over.load(Ordering::Relaxed),
        )
    };
    reloader.look(Occasion::Interval);
    assert_eq!(told(), (0, 0), "nothing is new and nobody asked");
    reloader.look(Occasion::Asked);
    assert_eq!(told(), (1, 1), "who asks gets an answer");
    setup.write("listen: [");
    reloader.look(Occasion::Asked);
    assert_eq!(told(), (2, 2));
    setup.write(pool(&["b"]));
    reloader.look(Occasion::Interval);
    assert_eq!(told(), (2, 2));
    reloader.look(Occasion::Interval);
    assert_eq!(told(), (3, 3));
}

/// What a change from `before` to `after` is said to be.
fn changes(before: &str, after: &str) -> Changes {
    let config = |text: &str| config::parse(text, "c.yaml").unwrap();
    let ctx = Context::new(config(before), Resolver::default()).unwrap();
    let changes = apply(&ctx, config(after)).unwrap();
    let state = ctx.metrics.last_reload.lock().clone();
    assert_eq!(
        (&state.changes, &state.needs_restart),
        (&changes.made, &changes.waiting)
    );
    changes
}

#[track_caller]
fn check(before: &str, after: &str, wanted: &[&str]) {
    let changes = changes(before, after);
    assert_eq!(changes.made, wanted);
    assert_eq!(changes.waiting, [""; 0]);
}

#[test]
fn upstreams_that_come_go_and_change_are_named() {
    let line = |url: &str, keys: &str| format!("  - {{url: 'http://{url}'{keys}}}\n");
    let head = "listen: 127.0.0.1:0\nupstream:\n";
    let before = [
        line("a", ""),
        line("b", ", name: b"),
        line("c", ", weight: 2"),
    ]
    .concat();
    let after = [
        line("d", ", name: new"),
        line("c", ", weight: 5, priority: 1"),
        line("b", ", name: two, username: u, password: secret"),
    ];
    check(
        &format!("{head}{before}"),
        &format!("{head}{}", after.concat()),
        &[
            "upstreams added: new",
            "upstreams removed: a:8080",
            "upstreams changed: c:8080 (weight 2 -> 5, priority 100 -> 1), \
             two (was called b, credentials)",
        ],
    );
}

#[test]
fn keys_that_change_are_named_with_both_values_where_these_are_short() {
    let with = |lines: &str| format!("{BASE}{lines}\n");
    check(
        &with("mode: best"),
        &with("limits: {workers: 8}\nhealth_check: {interval_secs: 2.5}"),
        &[
            "keys changed: mode best -> round_robin, health_check.interval_secs 30 s -> 2.5 s, \
           limits.workers 0 (auto: 64 a core, between 512 and 1024) -> 8 requests",
        ],
    );
    check(
        BASE,
        &with("access: {allow: [10.0.0.0/8]}"),
        &["keys changed: access.allow"],
    );
    let domains = |of: &str| {
        with(&format!(
            "domain_policy: {{mode: blacklist, domains: [{of}]}}"
        ))
    };
    check(
        &domains("a.test"),
        &domains("b.test"),
        &["keys changed: domain_policy.domains"],
    );
}

#[test]
fn rules_and_groups_that_change_are_named() {
    let with = |group: &str, lines: &str| {
        format!(
            "listen: 127.0.0.1:0\nupstream:\n  - {{url: 'http://a', group: eu}}\n  \
             - {{url: 'http://b', group: {group}}}\n{lines}\n"
        )
    };
    check(
        &with("us", "default: eu"),
        &with("eu", "default: eu"),
        &["upstreams changed: b:8080 (group us -> eu)"],
    );
    check(
        &with("us", "default: eu"),
        &with("us", "default: us"),
        &["keys changed: default eu -> us"],
    );
    check(
        &with("us", "rules: [{ports: [80], use: eu}]"),
        &with("us", "rules: [{ports: [80], use: us}]"),
        &["keys changed: rules"],
    );
}

#[test]
fn a_changed_secret_is_named_and_not_shown() {
    let with = |secret: &str| {
        format!(
            "{BASE}admin_listen: 127.0.0.1:0\nadmin_token: {secret}-{secret}\n\
             access: {{users: [{{username: u, password: {secret}}}]}}\n"
        )
    };
    check(
        &with("sesame-one"),
        &with("sesame-two"),
        &["keys changed: admin_token, access.users"],
    );
}

#[test]
fn comments_and_order_change_nothing() {
    check(BASE, &format!("# a comment\n{BASE}"), &[]);
    check(&pool(&["a", "b"]), &pool(&["b", "a"]), &[]);
}

#[test]
fn many_names_are_counted() {
    let names: Vec<_> = (0..10_000).map(|number| format!("u{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    check(
        &pool(&names[..5000]),
        &pool(&names[5000..]),
        &[
            "upstreams added: u5000, u5001, u5002, u5003, u5004, u5005, u5006, u5007, u5008, u5009 \
             and 4990 more",
            "upstreams removed: u0, u1, u2, u3, u4, u5, u6, u7, u8, u9 and 4990 more",
        ],
    );
}

/// What runs is compared with the file each time, so that a key that is put back is not named.
#[test]
fn keys_that_need_a_restart_are_named_and_keep_their_values() {
    let with =
        |lines: &str| format!("upstream: [{{url: 'http://a.test'}}]\nlisten: 127.0.0.1:{lines}\n");
    let proxy = "listen_proxy_protocol: true\naccess: {proxy_protocol_from: [192.0.2.1]}";
    let config = |text: &str| config::parse(text, "c.yaml").unwrap();
    let ctx = Context::new(config(&with("1")), Resolver::default()).unwrap();
    let after = with(&format!(
        "2\nadmin_listen: 127.0.0.1:3\nvia: false\n{proxy}"
    ));
    for more in ["", "# again\n"] {
        let changes = apply(&ctx, config(&format!("{after}{more}"))).unwrap();
        assert_eq!(
            changes.waiting,
            [
                "listen changed, which needs a restart: 127.0.0.1:1 stays until then, instead of \
                 127.0.0.1:2",
                "admin_listen changed, which needs a restart: none stays until then, instead of \
                 127.0.0.1:3",
                "listen_proxy_protocol changed, which needs a restart: false stays until then, \
                 instead of true",
            ]
        );
        let snapshot = ctx.snapshot();
        assert_eq!(snapshot.config.listen.port, 1);
        assert!(snapshot.config.admin_listen.is_none() && snapshot.config.proxy_protocol.is_none());
        assert!(!snapshot.config.via, "everything else applies");
    }
    let changes = apply(&ctx, config(&with("1"))).unwrap();
    assert_eq!(changes.waiting, [""; 0]);
}
