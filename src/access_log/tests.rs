//! The log as a whole: with its thread, against files, pipes and devices.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::writer::MOST_BYTES;
use super::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("http-proxy-lb-access-log-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn fifo(&self) -> PathBuf {
        let path = self.file("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn to(path: &Path) -> Settings {
    Settings {
        format: AccessLogFormat::Json,
        file: Some(path.to_owned()),
        query: true,
    }
}

fn log_to(path: &Path) -> (AccessLogger, Arc<Metrics>) {
    let metrics = Arc::<Metrics>::default();
    let log = AccessLogger::new(Arc::clone(&metrics));
    log.configure(Some(&to(path))).unwrap();
    (log, metrics)
}

fn entry(id: u64) -> Box<AccessEntry> {
    Box::new(AccessEntry {
        method: "GET".to_owned(),
        target: "http://a.test/".to_owned(),
        status: Some(200),
        received: 1,
        sent: 2,
        route: "a".to_owned(),
        attempts: 1,
        ..AccessEntry::new(id, SocketAddr::from(([192, 0, 2, 1], 5000)))
    })
}

fn record(log: &AccessLogger, ids: std::ops::Range<u64>) {
    for id in ids {
        log.record(&mut entry(id));
    }
}

/// The numbers of whole lines in a text, in order.
fn ids(text: &str) -> Vec<u64> {
    let number = |line: &str| {
        let (_, rest) = line.split_once("\"id\":")?;
        line.ends_with('}')
            .then(|| rest.split_once(',')?.0.parse().ok())?
    };
    text.lines().filter_map(number).collect()
}

fn ids_in(path: &Path) -> Vec<u64> {
    ids(&fs::read_to_string(path).unwrap_or_default())
}

#[track_caller]
fn wait_until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited in vain");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_rotation_loses_no_line() {
    let folder = Folder::new();
    let path = folder.file("access.log");
    let (log, metrics) = log_to(&path);
    let writer = {
        let log = log.clone();
        threads::start("test", move || {
            for id in 0..6000 {
                log.record(&mut entry(id));
                if id % 64 == 0 {
                    std::thread::yield_now();
                }
            }
        })
        .unwrap()
    };
    let mut rotated = Vec::new();
    for turn in 0..20 {
        let old = folder.file(&format!("access.log.{turn}"));
        wait_until(|| path.exists());
        fs::rename(&path, &old).unwrap();
        log.reopen();
        rotated.push(old);
    }
    writer.join().unwrap();
    log.finish(PATIENCE);
    rotated.push(path);
    let all: Vec<u64> = rotated.iter().flat_map(|path| ids_in(path)).collect();
    assert_eq!(all, (0..6000).collect::<Vec<_>>());
    assert_eq!(metrics.access_log_dropped.value(), 0);
}

/// The folder of the file is gone: what was moved away is better than nothing.
#[test]
fn a_file_that_cannot_be_opened_anew_is_kept() {
    let folder = Folder::new();
    let (inner, moved) = (folder.file("logs"), folder.file("moved"));
    fs::create_dir(&inner).unwrap();
    let (log, metrics) = log_to(&inner.join("access.log"));
    fs::rename(&inner, &moved).unwrap();
    log.reopen();
    record(&log, 0..3);
    log.finish(PATIENCE);
    assert_eq!(ids_in(&moved.join("access.log")), [0, 1, 2]);
    assert_eq!(metrics.access_log_dropped.value(), 0);
}

#[test]
fn what_was_recorded_before_a_change_goes_where_it_belongs() {
    let folder = Folder::new();
    let (first, second) = (folder.file("first"), folder.file("second"));
    let (log, _) = log_to(&first);
    record(&log, 0..500);
    log.configure(Some(&to(&second))).unwrap();
    record(&log, 500..1000);
    log.configure(None).unwrap();
    log.finish(PATIENCE);
    assert_eq!(ids_in(&first), (0..500).collect::<Vec<_>>());
    assert_eq!(ids_in(&second), (500..1000).collect::<Vec<_>>());
}

/// Its line is made at once, for its entry is too big to be kept; theirs are made later.
#[test]
fn a_long_line_stands_behind_those_recorded_before_it() {
    let folder = Folder::new();
    let path = folder.file("access.log");
    let (log, metrics) = log_to(&path);
    record(&log, 0..3);
    let mut lengthy = entry(3);
    lengthy.target = "x".repeat(10_000);
    log.record(&mut lengthy);
    record(&log, 4..6);
    log.finish(PATIENCE);
    assert_eq!(ids_in(&path), (0..6).collect::<Vec<_>>());
    assert_eq!(metrics.access_log_dropped.value(), 0);
}

#[test]
fn each_format_has_its_own_words_for_the_same_second() {
    let folder = Folder::new();
    let (first, second) = (folder.file("first"), folder.file("second"));
    let (log, _) = log_to(&first);
    record(&log, 0..1);
    let combined = Settings {
        format: AccessLogFormat::Combined,
        ..to(&second)
    };
    log.configure(Some(&combined)).unwrap();
    record(&log, 1..2);
    log.finish(PATIENCE);
    for (path, start) in [
        (first, r#"{"time":"1970-01-01T00:00:00.000Z","#),
        (second, "192.0.2.1 - - [01/Jan/1970:00:00:00 +0000] "),
    ] {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with(start), "{text}");
    }
}

#[test]
fn a_file_that_cannot_be_opened_changes_nothing() {
    let folder = Folder::new();
    let path = folder.file("access.log");
    let (log, _) = log_to(&path);
    let error = log
        .configure(Some(&to(&folder.file("no/such/folder"))))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no/such/folder cannot be opened: No such file"),
        "{error}"
    );
    assert!(log.is_on());
    record(&log, 0..1);
    log.finish(PATIENCE);
    assert_eq!(ids_in(&path), [0]);
}

#[test]
fn a_full_disk_costs_lines_that_are_counted() {
    let (log, metrics) = log_to(Path::new("/dev/full"));
    record(&log, 0..1000);
    wait_until(|| metrics.access_log_dropped.value() == 1000);
    log.finish(PATIENCE);
}

/// What is in the pipe when its reader leaves is lost; a line that it has seen a part of comes again.
#[test]
fn a_fifo_waits_for_readers_as_they_come_and_go() {
    let folder = Folder::new();
    let path = folder.fifo();
    // There is no reader yet, and nothing waits for one.
    let (log, metrics) = log_to(&path);
    record(&log, 0..2000);
    let mut lines = BufReader::new(File::open(&path).unwrap()).lines();
    for id in 0..2000 {
        assert_eq!(ids(&lines.next().unwrap().unwrap()), [id]);
    }
    drop(lines);
    record(&log, 2000..2010);
    let mut lines = BufReader::new(File::open(&path).unwrap()).lines();
    for id in 2000..2010 {
        assert_eq!(ids(&lines.next().unwrap().unwrap()), [id]);
    }
    assert_eq!(metrics.access_log_dropped.value(), 0);
    log.finish(PATIENCE);
}

#[test]
fn behind_a_reader_that_stalls_the_queue_fills_and_the_rest_is_counted() {
    const MANY: u64 = 60_000;
    let folder = Folder::new();
    let path = folder.fifo();
    let (log, metrics) = log_to(&path);
    // Opened for both, so that neither side waits for the other.
    let mut reader = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    record(&log, 0..MANY);
    let dropped = metrics.access_log_dropped.value();
    assert!(dropped > 0);
    // The stalled reader goes on: what was kept comes whole and in order.
    let read = threads::start("test", move || {
        let (mut text, mut block) = (String::new(), vec![0; 65536]);
        while ids(text.lines().last().unwrap_or_default()) != [MANY] {
            let count = reader.read(&mut block).unwrap();
            text.push_str(std::str::from_utf8(&block[..count]).unwrap());
        }
        ids(&text)
    })
    .unwrap();
    wait_until(|| {
        let before = metrics.access_log_dropped.value();
        log.record(&mut entry(MANY));
        before == metrics.access_log_dropped.value()
    });
    let last_tries = metrics.access_log_dropped.value() - dropped;
    let read = read.join().unwrap();
    assert!(read.is_sorted());
    assert_eq!(
        read.len() as u64 + dropped,
        MANY + 1,
        "{last_tries} tries for the last one"
    );
    log.finish(PATIENCE);
}

/// Else a reload could not get away from a pipe without a reader.
#[test]
fn a_sink_that_takes_nothing_does_not_hold_up_a_change() {
    let folder = Folder::new();
    let (path, next) = (folder.fifo(), folder.file("next"));
    let (log, metrics) = log_to(&path);
    record(&log, 0..100);
    log.configure(Some(&to(&next))).unwrap();
    record(&log, 100..110);
    wait_until(|| ids_in(&next).len() == 10);
    assert_eq!(metrics.access_log_dropped.value(), 100);
    // Nor does it hold up the end.
    log.configure(Some(&to(&path))).unwrap();
    record(&log, 0..7);
    log.finish(Duration::ZERO);
    wait_until(|| metrics.access_log_dropped.value() == 107);
}

#[test]
fn a_new_file_can_be_read_by_its_owner_and_group_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let path = folder.file("access.log");
    let (log, _) = log_to(&path);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
    log.finish(PATIENCE);
}

#[test]
fn a_listener_hears_of_every_entry() {
    static HEARD: AtomicU64 = AtomicU64::new(0);
    let log = AccessLogger::new(Arc::default());
    log.hand_to(|entry| {
        HEARD.fetch_add(entry.id, Ordering::Relaxed);
    });
    assert!(log.is_on());
    record(&log, 3..5);
    log.finish(PATIENCE);
    assert_eq!(HEARD.load(Ordering::Relaxed), 7);
}

/// A client chooses how long a line is.
#[test]
fn long_lines_that_wait_take_a_bounded_amount_of_memory() {
    let folder = Folder::new();
    let (log, metrics) = log_to(&folder.fifo()); // It has no reader.
    let lengthy = Box::new(AccessEntry {
        target: "x".repeat(MOST_BYTES / 8),
        ..*entry(1)
    });
    // As many again may be with the writer.
    for _ in 0..32 {
        log.record(&mut lengthy.clone());
        assert!(log.queue.state.lock().bytes <= MOST_BYTES);
    }
    assert!(metrics.access_log_dropped.value() >= 16);
}
