//! Properties that hold for every input, checked here for the inputs in `seeds` and their neighbors.
//!
//! The same functions are the targets of the fuzzer, in `tests/fuzz`. It wants `cargo install
//! cargo-fuzz`, a C++ compiler, and either a nightly Rust or this:
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none chunked \
//!     tests/fuzz/corpus/chunked tests/properties/seeds/chunked -- -max_total_time=600
//! ```
//!
//! What it finds becomes a file in `seeds`, and a test with a name beside the code that was wrong.
//!
//! | target | property |
//! |---|---|
//! | `head` | whole, in two and byte by byte are the same; `httparse` reads what is accepted alike |
//! | `target` | host and port are what a slow second look finds; no name is an address to `inet_aton` |
//! | `framing` | a second, plain reading of RFC 9112 §6.3 agrees, on acceptance and on refusal |
//! | `chunked` | a second, slow reader written from RFC 9112 §7.1 agrees on every byte |
//! | `body` | what goes on is the same data in its new framing; bytes behind it are not touched |
//! | `rewrite` | what goes on is one message with the same meaning, and nothing of this hop |
//! | `proxy_header` | a header is the shortest one, and is known or refused at the same byte |
//! | `credentials` | nothing that does not decode to them is taken for them |
//! | `config` | every file has an answer, soon, and none acts on a terminal |
//! | `session` | a running relay between scripted peers: no byte of one exchange is in another, every request reaches an upstream as it was sent or not at all, and all counts return to zero |
#![cfg(test)]

mod checks;

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that mean something to a parser.
const TELLING: [u8; 12] = *b"\r\n\0 :,;0\x7f\xff\"\t";

/// The inputs committed for one target, by name.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/properties/seeds");
    let entries = fs::read_dir(folder.join(target)).expect("a folder of seeds");
    let mut found: Vec<(PathBuf, Vec<u8>)> = entries
        .map(|entry| entry.expect("a readable entry").path())
        .map(|path| (path.clone(), fs::read(&path).expect("a readable seed")))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{target} has no seeds");
    found
}

/// Says which input it was before the panic goes on.
struct Current<'a>(&'a Path, &'a [u8]);

impl Drop for Current<'_> {
    #[expect(clippy::print_stderr, reason = "a failing test tells the input")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the input: {} as {}",
                self.0.display(),
                self.1.escape_ascii()
            );
        }
    }
}

fn check_seeds(target: &str, check: fn(&[u8])) {
    for (path, seed) in seeds(target) {
        let _current = Current(&path, &seed);
        check(&seed);
    }
}

/// Each seed, cut at every place, and with every byte left out or replaced by a few telling ones.
fn check_neighbors(target: &str, check: fn(&[u8])) {
    for (path, seed) in seeds(target) {
        let check = |input: &[u8]| {
            let _current = Current(&path, input);
            check(input);
        };
        check(&seed);
        for at in 0..seed.len().min(400) {
            check(&seed[..at]);
            let mut changed = seed.clone();
            for byte in TELLING {
                changed[at] = byte;
                check(&changed);
            }
            changed.remove(at);
            check(&changed);
        }
    }
}

#[test]
fn head() {
    check_neighbors("head", checks::head::check);
}

#[test]
fn target() {
    check_neighbors("target", checks::target::check);
}

#[test]
fn framing() {
    check_neighbors("framing", checks::framing::check);
}

#[test]
fn chunked() {
    check_neighbors("chunked", checks::chunked::check);
}

#[test]
fn body() {
    check_neighbors("body", checks::body::check);
}

#[test]
fn rewrite() {
    check_neighbors("rewrite", checks::rewrite::check);
}

#[test]
fn proxy_header() {
    check_neighbors("proxy_header", checks::proxy_header::check);
}

#[test]
fn credentials() {
    check_neighbors("credentials", checks::credentials::check);
}

#[test]
fn config() {
    check_seeds("config", checks::config::check);
}

#[test]
fn session() {
    check_seeds("session", checks::session::check);
}
