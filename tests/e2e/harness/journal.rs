//! The transcript of one test: every byte both sides sent and received, in order of time.
//!
//! A failing test says what it expected; why that did not come stands in what went before, often
//! on the other side of the proxy. So client and upstream write into the same journal, and
//! whatever is dropped first while the test panics prints it.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

/// Longer runs of bytes are cut in the middle: a transcript is for people.
const SHOWN_HEAD: usize = 1200;
const SHOWN_TAIL: usize = 200;

thread_local! {
    /// Each test runs in a thread of its own, so this is the journal of the test.
    static CURRENT: RefCell<Weak<Inner>> = const { RefCell::new(Weak::new()) };
}

/// Which way bytes went, seen from the one who writes the line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Received,
    Sent,
}

#[derive(Debug)]
struct Inner {
    started: Instant,
    lines: Mutex<Vec<String>>,
    failures: Mutex<Vec<String>>,
    printed: AtomicBool,
    names: AtomicUsize,
}

/// A handle to the transcript of this test. Clones write into the same one.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Inner>);

impl Journal {
    /// The journal of the test that runs in this thread, made on first use.
    pub(crate) fn of_this_test() -> Self {
        CURRENT.with_borrow_mut(|current| {
            let inner = current.upgrade().unwrap_or_else(|| {
                let inner = Arc::new(Inner {
                    started: Instant::now(),
                    lines: Mutex::default(),
                    failures: Mutex::default(),
                    printed: AtomicBool::new(false),
                    names: AtomicUsize::new(0),
                });
                *current = Arc::downgrade(&inner);
                inner
            });
            Self(inner)
        })
    }

    /// A number that no other part of this test has.
    pub(crate) fn number(&self) -> usize {
        self.0.names.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Something that is worth knowing and is no bytes: accepted, closed, reset.
    pub(crate) fn note(&self, who: &str, what: &str) {
        let elapsed = self.0.started.elapsed().as_secs_f64();
        self.0
            .lines
            .lock()
            .push(format!("{elapsed:7.3} {who:<12} {what}"));
    }

    /// Bytes that `who` sent (`>`) or received (`<`).
    pub(crate) fn bytes(&self, who: &str, way: Way, bytes: &[u8]) {
        let arrow = match way {
            Way::Received => '<',
            Way::Sent => '>',
        };
        self.note(who, &format!("{arrow} {}", shown(bytes)));
    }

    /// A failure on a thread that is not the test's own; [`Journal::expect_no_failure`] brings
    /// it there.
    pub(crate) fn fail(&self, who: &str, what: &str) {
        self.note(who, &format!("FAILED: {what}"));
        self.0.failures.lock().push(format!("{who}: {what}"));
    }

    /// Fails the test if a script failed.
    #[track_caller]
    pub(crate) fn expect_no_failure(&self) {
        let failures = std::mem::take(&mut *self.0.failures.lock());
        if !failures.is_empty() {
            self.print();
            panic!("{}", failures.join("\n"));
        }
    }

    /// Prints the transcript if the test is failing right now; called by `Drop`.
    pub(crate) fn print_if_panicking(&self) {
        if thread::panicking() {
            self.print();
        }
    }

    #[expect(clippy::print_stderr, reason = "a failing test shows its transcript")]
    fn print(&self) {
        if self.0.printed.swap(true, Ordering::Relaxed) {
            return;
        }
        eprintln!("transcript (> sent, < received, by the one named):");
        for line in self.0.lines.lock().iter() {
            eprintln!("{line}");
        }
    }
}

/// Bytes as a person can read them: escaped, a new line after each line feed.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const INDENT: &str = "\n                       ";
    if SHOWN_HEAD + SHOWN_TAIL < bytes.len() {
        let (head, tail) = (&bytes[..SHOWN_HEAD], &bytes[bytes.len() - SHOWN_TAIL..]);
        let left_out = bytes.len() - head.len() - tail.len();
        return format!(
            "{}{INDENT}[{left_out} bytes]{INDENT}{}",
            shown(head),
            shown(tail)
        );
    }
    let mut text = String::new();
    for (at, &byte) in bytes.iter().enumerate() {
        write!(text, "{}", byte.escape_ascii()).expect("writing to a String");
        if byte == b'\n' && at + 1 < bytes.len() {
            text.push_str(INDENT);
        }
    }
    text
}
