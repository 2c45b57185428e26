//! An upstream is killed while clients work: who notices, and who must not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::curl::curl;
use crate::machine::{Folder, PATIENCE, assert_same_bytes, assert_same_file, note, wait_until};
use crate::nginx::{SMALL_FILES, small};
use crate::pattern;
use crate::programs::{Finished, run};
use crate::relay::Relay;
use crate::stage::{NAMES, SetAtTheEnd, Stage};

const LONG_BYTES: usize = 200_000_000;
/// As in `Settings::new`.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs squid, tinyproxy, nginx and curl (Debian packages squid tinyproxy nginx-light curl)"]
fn killing_squid_breaks_only_what_it_had_begun() {
    kill_under_load("squid");
}

#[test]
#[ignore = "needs squid, tinyproxy, nginx and curl (Debian packages squid tinyproxy nginx-light curl)"]
fn killing_tinyproxy_breaks_only_what_it_had_begun() {
    kill_under_load("tinyproxy");
}

#[test]
#[ignore = "needs squid, tinyproxy, nginx and curl (Debian packages squid tinyproxy nginx-light curl)"]
fn killing_the_second_relay_breaks_only_what_it_had_begun() {
    kill_under_load("second");
}

/// Eight clients fetch small files in a loop beside four long downloads while the upstream
/// `victim` is killed and, later, started again.
fn kill_under_load(victim: &str) {
    let mut stage = Stage::start();
    stage
        .nginx
        .publish("slow/long.bin", &pattern::bytes(1, LONG_BYTES));
    let relay = stage.relay();
    let (long_home, loop_homes) = (Folder::new(), [(); 8].map(|()| Folder::new()));
    let (long_url, small_urls) = (
        stage.nginx.url("/slow/long.bin"),
        stage.nginx.url("/small/[0-24].bin"),
    );
    let original = stage.nginx.root().join("slow/long.bin");
    let loops = Loops::default();
    thread::scope(|scope| {
        let _stop = SetAtTheEnd(&loops.stop);
        let long: Vec<Long<'_>> = (0..4)
            .map(|number| {
                let file = long_home.path().join(number.to_string());
                let url = format!("{long_url}?number={number}");
                let mut command = curl(&relay, long_home.path());
                command
                    .arg("-o")
                    .arg(&file)
                    .args(["-w", "%{http_code}"])
                    .arg(url);
                let thread = scope.spawn(move || run(&mut command));
                // One after another, so that each upstream gets at least one.
                wait_until(PATIENCE, "the long download has begun", || file.exists());
                Long {
                    mark: format!("number={number}"),
                    file,
                    thread,
                }
            })
            .collect();
        for home in &loop_homes {
            let (loops, relay, urls) = (&loops, &relay, &small_urls);
            let command = || fetch_all_small(relay, home.path(), urls);
            scope.spawn(move || loops.run(command, home.path()));
        }
        loops.wait_for_more(4);
        let position = stage.proxies.iter().position(|proxy| proxy.name == victim);
        let proxy = &mut stage.proxies[position.expect("one of the stage")];
        proxy.kill();
        note(&format!(
            "{victim} killed after {} rounds of small files",
            loops.done()
        ));
        loops.wait_for(Duration::from_secs(8));
        proxy.revive();
        note(&format!(
            "{victim} is back {}",
            used_again_after(&relay, victim)
        ));
        judge_long_downloads(long, &relay, victim, &original);
    });
    loops.judge();
}

/// One curl for all small files: a line for each with status, length and curl's own code.
fn fetch_all_small(relay: &Relay, home: &Path, urls: &str) -> Command {
    let mut command = curl(relay, home);
    command
        .args([
            "-o",
            "#1",
            "-w",
            "%{http_code} %{size_download} %{exitcode}\n",
        ])
        .arg(urls);
    command
}

/// A long download on its way.
struct Long<'scope> {
    mark: String,
    file: PathBuf,
    thread: ScopedJoinHandle<'scope, Finished>,
}

/// Those through the victim must end short and with curl's code for that; the others whole.
fn judge_long_downloads(long: Vec<Long<'_>>, relay: &Relay, victim: &str, original: &Path) {
    let mut broken = 0;
    for Long { mark, file, thread } in long {
        let finished = thread.join().expect("its thread only runs curl");
        let upstream = relay.upstream_of(&mark, &NAMES);
        let length = fs::metadata(&file).expect("begun").len();
        note(&format!(
            "{mark} through {upstream}: {length} bytes, curl {:?}",
            finished.code
        ));
        if upstream == victim {
            broken += 1;
            assert_eq!(
                finished.code,
                Some(18),
                "{mark} through {victim}: {}",
                finished.stderr
            );
            assert!(length < LONG_BYTES as u64, "{mark}: {length} bytes");
        } else {
            finished.expect_success();
            assert_same_file(&file, original);
        }
    }
    assert!(
        (1..4).contains(&broken),
        "{broken} of 4 long downloads went through {victim}"
    );
}

/// How long a revived upstream waited for its first request; fails if that was too long.
fn used_again_after(relay: &Relay, name: &str) -> String {
    let before = relay.log_lines(&["/small/", name]).len();
    let start = Instant::now();
    wait_until(
        PROBE_INTERVAL,
        "the upstream that came back is used again",
        || relay.log_lines(&["/small/", name]).len() > before,
    );
    format!("and used again after {:?}", start.elapsed())
}

/// What the clients that fetch small files share.
#[derive(Default)]
struct Loops {
    stop: AtomicBool,
    rounds: AtomicUsize,
    requests: AtomicUsize,
    cut_after_the_head: AtomicUsize,
    failed: parking_lot::Mutex<Vec<String>>,
}

impl Loops {
    /// One client, until it is told to stop.
    fn run(&self, command: impl Fn() -> Command, home: &Path) {
        while !self.stop.load(Ordering::Relaxed) {
            let finished = run(&mut command());
            let lines = String::from_utf8_lossy(&finished.stdout).into_owned();
            for (number, line) in lines.lines().enumerate() {
                self.requests.fetch_add(1, Ordering::Relaxed);
                self.look_at(number, line, home, &finished);
            }
            assert_eq!(lines.lines().count(), SMALL_FILES, "{}", finished.stderr);
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn look_at(&self, number: usize, line: &str, home: &Path, finished: &Finished) {
        if line == "200 4096 0" {
            let body = fs::read(home.join(number.to_string())).expect("downloaded");
            assert_same_bytes(&body, &small(number), line);
        } else if line.starts_with("200 ") && !line.ends_with(" 0") {
            self.cut_after_the_head.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failed
                .lock()
                .push(format!("{line}: {}", finished.stderr));
        }
    }

    fn done(&self) -> usize {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Until this many more rounds by every client are done.
    fn wait_for_more(&self, rounds: usize) {
        let goal = self.done() + rounds * 8;
        wait_until(PATIENCE, "the clients get on", || self.done() >= goal);
    }

    /// For a time in which the clients go on.
    fn wait_for(&self, time: Duration) {
        let start = Instant::now();
        wait_until(time * 2, "time passes", || start.elapsed() >= time);
        self.wait_for_more(1);
    }

    fn judge(&self) {
        let requests = self.requests.load(Ordering::Relaxed);
        let cut = self.cut_after_the_head.load(Ordering::Relaxed);
        let failed = self.failed.lock();
        note(&format!(
            "{requests} small requests: {} failed, {cut} cut after the head",
            failed.len()
        ));
        assert!(
            failed.is_empty(),
            "failed before their response began: {failed:#?}"
        );
    }
}
