//! The rules about the source itself, checked like any other behavior.
//!
//! The compiler does not know which module may use which, or that one file alone shall know the
//! HTTP parser. These tests read the source as text, so they are approximate: they look at paths
//! (`crate::x`, `std::net::y`) in code, not in comments, and not in the unit tests at the end of a
//! file. Each message gives the rule and its reason.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may import whom: a module uses only modules of the rows above its own, and of its own folder.
const LAYERS: [&[&str]; 16] = [
    &["protocol"],
    &["network", "route", "balance"],
    &["config", "metrics"],
    &["stop"],
    &["net"],
    &["access_log"],
    &["json"],
    &["logging"],
    &["relay"],
    &["health", "reload", "admin"],
    &["server"],
    &["demo", "status"],
    &["cli"],
    &["bounds"],
    &["main"],
    &["build"],
];

/// The modules of these layers do nothing but compute.
const PURE_LAYERS: usize = 2;

/// Parts of the standard library that compute nothing, but act or ask.
const IMPURE: [&str; 8] = [
    "std::net",
    "std::fs",
    "std::thread",
    "std::io",
    "std::process",
    "std::env",
    "std::os",
    "std::time::SystemTime",
];

/// How a clock is read. A moment that somebody else has read is only a value.
const CLOCKS: [&str; 2] = ["Instant::now", ".elapsed()"];

/// What of them is only a value.
const PURE: [&str; 11] = [
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddr",
    "std::net::SocketAddrV4",
    "std::net::SocketAddrV6",
    "std::net::AddrParseError",
    "std::io::Error",
    "std::io::ErrorKind",
    "std::io::Result",
    "std::io::self",
];

/// Where each dependency is used; an empty list means everywhere.
const HOMES: [(&str, &[&str]); 23] = [
    ("base64", &["protocol/credentials.rs"]),
    ("clap", &["cli"]),
    ("dlmalloc", &["main.rs"]),
    ("graviola", &["config/tls.rs"]),
    ("httparse", &["protocol/head.rs"]),
    ("log", &[]),
    ("memmap2", &["net/buffer.rs"]),
    (
        "mio",
        &[
            "net/tls/carrier.rs",
            "net/tls/engine.rs",
            "server/inbox.rs",
            "server/lane/mod.rs",
        ],
    ),
    ("parking_lot", &[]),
    ("percent_encoding", &["admin", "config/overrides.rs"]),
    ("rayon", &["health"]),
    ("rustix", &["net", "server"]),
    (
        "rustls",
        &[
            "balance/tls.rs",
            "config/tls.rs",
            "health/tls.rs",
            "net/tls/carrier.rs",
            "net/tls/mod.rs",
            "net/tls/reasons.rs",
        ],
    ),
    ("rustls_graviola", &["config/tls.rs"]),
    ("sd_listen_fds", &["net/inherited.rs"]),
    ("serde", &["config"]),
    ("serde_yaml", &["config"]),
    ("signal_hook", &["server"]),
    ("simplelog", &["logging"]),
    ("strsim", &["config"]),
    ("time", &["access_log", "logging"]),
    ("tiny_http", &["admin"]),
    ("ureq", &["health", "status"]),
];

/// What stands at the top of the repository, besides dotfiles.
const TOP_LEVEL: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "config.example.yaml",
    "packaging",
    "src",
    "tests",
];

/// One file of the repository.
struct Source {
    /// From the folder that was asked for, with `/`.
    name: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder of the repository, sorted.
fn sources(folder: &str) -> Vec<Source> {
    fn collect(folder: &Path, base: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() && !path.ends_with("target") {
                collect(&path, base, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(base).expect("below").to_string_lossy();
                let name = name.replace(std::path::MAIN_SEPARATOR, "/");
                found.push(Source {
                    name,
                    text: fs::read_to_string(&path).expect("text"),
                });
            }
        }
    }
    let mut found = Vec::new();
    let base = root().join(folder);
    collect(&base, &base, &mut found);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl Source {
    /// The module of the first level that it is, or belongs to.
    fn module(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// Its lines without comments and without the unit tests at its end.
    fn code(&self) -> String {
        if self.name.ends_with("/tests.rs") {
            return String::new();
        }
        let code = self
            .text
            .split("\n#[cfg(test)]\nmod ")
            .next()
            .unwrap_or_default();
        let without_comment = |line: &str| {
            let line = line.trim_start();
            let is_comment = line.starts_with("//");
            if is_comment {
                String::new()
            } else {
                line.split(" // ").next().unwrap_or(line).to_owned()
            }
        };
        code.lines()
            .map(without_comment)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Every path in its code that begins with `start`, with `{..}` written out.
    fn paths(&self, start: &str) -> BTreeSet<String> {
        let code = self.code();
        let begin = format!("{start}::");
        let mut found = BTreeSet::new();
        for (place, _) in code.match_indices(&begin) {
            let (before, rest) = code.split_at(place);
            let stands_alone =
                !before.ends_with(|c: char| c.is_alphanumeric() || "_:$".contains(c));
            if stands_alone {
                expand(start, rest.trim_start_matches(&begin), &mut found);
            }
        }
        found
    }
}

/// Writes out `a::{b, c::d}` behind `prefix`; gives what stands after it.
fn expand<'t>(prefix: &str, text: &'t str, found: &mut BTreeSet<String>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            let before = rest.len();
            rest = expand(prefix, rest, found);
            if rest.len() == before {
                return rest;
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*'));
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    let path = format!("{prefix}::{word}");
    if let Some(deeper) = rest.strip_prefix("::") {
        let is_path = deeper.starts_with(|c: char| c.is_alphanumeric() || "_{*".contains(c));
        if is_path {
            return expand(&path, deeper, found);
        }
    }
    found.insert(path);
    // `x as y`
    let skipped = rest.trim_start().strip_prefix("as ");
    skipped.map_or(rest, |alias| {
        alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
    })
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Fails with the rule, its reason and every place that breaks it.
fn expect_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}\n\n  {}\n", broken.join("\n  "));
}

fn is_in(path: &str, place: &str) -> bool {
    path == place || path.starts_with(&format!("{place}::"))
}

#[test]
fn every_source_file_begins_with_its_problem() {
    let bare = |source: &Source| !source.text.starts_with("//!");
    let broken: Vec<String> = sources("src")
        .into_iter()
        .filter(bare)
        .map(|s| s.name)
        .collect();
    expect_none(
        &broken,
        "every file in src begins with //! and tells its problem and what is not in it: a reader \
         decides there whether to read on",
    );
}

#[test]
fn a_module_uses_only_the_layers_above_it() {
    let mut broken = Vec::new();
    for source in sources("src")
        .iter()
        .filter(|source| source.name != "lib.rs")
    {
        let own = source.module();
        let Some(row) = layer(own) else {
            broken.push(format!(
                "{}: has no row in LAYERS of tests/tidy.rs",
                source.name
            ));
            continue;
        };
        let mut paths = source.paths("crate");
        paths.extend(source.paths("http_proxy_lb"));
        for path in paths {
            let used = path.split("::").nth(1).unwrap_or_default();
            let above = layer(used).is_some_and(|other| other < row);
            let is_module = used.starts_with(|c: char| c.is_lowercase()) || used == "*";
            if is_module && used != own && !above {
                broken.push(format!("{} (row {row}) uses {path}", source.name));
            }
        }
    }
    expect_none(
        &broken,
        "a module uses modules of the rows above its own, and of its own folder: so each row can \
         be understood and tested without what is built on it",
    );
}

/// The name of the file in `src` that is the module of this path, if one is.
fn file_of(module: &[&str], names: &BTreeSet<&str>) -> Option<String> {
    let path = module.join("/");
    let candidates = [format!("{path}.rs"), format!("{path}/mod.rs")];
    candidates
        .into_iter()
        .find(|name| names.contains(name.as_str()))
}

impl Source {
    /// Its own place in the tree of modules: `relay/reuse.rs` and `relay/mod.rs` are `relay::reuse`, `relay`.
    fn place(&self) -> Vec<&str> {
        let name = self.name.trim_end_matches(".rs").trim_end_matches("/mod");
        name.split('/').collect()
    }

    /// The files that it names: by `crate::` and `super::`, and, where modules are declared, by their names.
    fn uses(&self, names: &BTreeSet<&str>) -> BTreeSet<String> {
        let own = self.place();
        let parent = own.split_last().map_or(&own[..], |(_, parent)| parent);
        let code = self.code();
        let declared = code.lines().filter_map(|line| {
            let (_, name) = line.trim().strip_suffix(';')?.split_once("mod ")?;
            Some(name.to_owned())
        });
        let mut starts = vec![
            ("crate".to_owned(), Vec::new()),
            ("super".to_owned(), parent.to_vec()),
            ("self".to_owned(), own.clone()),
        ];
        let declared: Vec<String> = declared.collect();
        for child in &declared {
            let mut place = own.clone();
            place.push(child);
            starts.push((child.clone(), place));
        }
        let mut used = BTreeSet::new();
        for (start, place) in &starts {
            for path in self.paths(start) {
                let mut module = place.clone();
                for part in path.split("::").skip(1) {
                    if part == "super" {
                        module.pop();
                    } else {
                        module.push(part);
                    }
                }
                // What is no module is a thing inside of one.
                while !module.is_empty() && file_of(&module, names).is_none() {
                    module.pop();
                }
                used.extend(file_of(&module, names));
            }
        }
        used.remove(&self.name);
        used
    }
}

/// Every file from which a way of `uses` leads back to it, with those on the shortest such way.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in uses.keys() {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut next = vec![start.as_str()];
        while !next.is_empty() && !came_from.contains_key(start.as_str()) {
            for file in std::mem::take(&mut next) {
                for used in uses.get(file).into_iter().flatten() {
                    if !came_from.contains_key(used.as_str()) {
                        came_from.insert(used, file);
                        next.push(used);
                    }
                }
            }
        }
        let mut way = Vec::new();
        let mut at = came_from.get(start.as_str()).copied();
        while let Some(file) = at {
            way.insert(0, file.to_owned());
            at = (file != start).then(|| came_from[file]);
        }
        if !way.is_empty() {
            found.push(way);
        }
    }
    found
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources("src");
    let names: BTreeSet<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let uses = sources
        .iter()
        .filter(|source| source.name != "lib.rs" && !source.name.contains("tests"))
        .map(|source| (source.name.clone(), source.uses(&names)))
        .collect();
    let circles = circles(&uses);
    let broken: Vec<String> = circles.iter().map(|way| way.join(" -> ")).collect();
    expect_none(
        &broken,
        "no file uses, by way of others or not, one that uses it: so there is an order in which they can \
         be read, and each can be understood and tested without those above it",
    );
}

#[test]
fn a_circle_is_found_however_long_it_is() {
    let table = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"), ("e", "")];
    let uses = table.map(|(file, used)| (file.to_owned(), BTreeSet::from([used.to_owned()])));
    let found = circles(&BTreeMap::from(uses));
    let starts: Vec<_> = found.iter().map(|way| way.join(" ")).collect();
    assert_eq!(starts, ["a b c", "b c a", "c a b"]);
}

#[test]
fn the_first_layers_are_pure() {
    let mut broken = Vec::new();
    for source in sources("src") {
        if layer(source.module()).is_none_or(|row| row >= PURE_LAYERS) {
            continue;
        }
        // `use std::io;` and then `io::Read` is as impure as the whole path.
        let mut paths = source.paths("std");
        paths.extend(
            source
                .paths("io")
                .into_iter()
                .map(|path| format!("std::{path}")),
        );
        for path in paths {
            let acts = IMPURE.iter().any(|part| is_in(&path, part));
            let value = PURE.iter().any(|part| is_in(&path, part)) || path == "std::io";
            if acts && !value {
                broken.push(format!("{}: {path}", source.name));
            }
        }
        let code = source.code();
        let read = CLOCKS.iter().filter(|clock| code.contains(**clock));
        broken.extend(read.map(|clock| format!("{}: {clock}", source.name)));
    }
    expect_none(
        &broken,
        "protocol, route and balance do no input or output, read no clock and start no thread: so \
         every rule of HTTP and of balancing is a table test",
    );
}

#[test]
fn a_file_of_tests_alone_is_named_so() {
    let mut broken = Vec::new();
    for source in sources("src") {
        for rest in source.text.split("#[cfg(test)]\nmod ").skip(1) {
            let first = rest.lines().next().unwrap_or_default();
            if first.ends_with(';') && first != "tests;" {
                broken.push(format!("{}: mod {first}", source.name));
            }
        }
    }
    expect_none(
        &broken,
        "files of tests alone are named tests.rs: so what counts or reads the program leaves them out \
         by their name",
    );
}

#[test]
fn one_dependency_has_one_home() {
    let mut broken = Vec::new();
    for source in sources("src") {
        for (dependency, homes) in HOMES {
            let at_home = homes
                .iter()
                .any(|home| source.name == *home || source.module() == *home);
            if !homes.is_empty() && !at_home && !source.paths(dependency).is_empty() {
                broken.push(format!("{}: {dependency} lives in {homes:?}", source.name));
            }
        }
    }
    for dependency in dependencies() {
        if !HOMES.iter().any(|(known, _)| *known == dependency) {
            broken.push(format!(
                "Cargo.toml: {dependency} has no row in HOMES of tests/tidy.rs"
            ));
        }
    }
    expect_none(
        &broken,
        "a dependency is used by one module: so replacing it, or checking how it is used, is the \
         matter of one place",
    );
}

/// The names under `[dependencies]`, as the code spells them.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let section = manifest
        .split("\n[dependencies]\n")
        .nth(1)
        .expect("[dependencies]");
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section.lines().filter_map(|line| line.split_once('='));
    names
        .map(|(name, _)| name.trim().replace('-', "_"))
        .collect()
}

#[test]
fn the_top_level_is_as_agreed() {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "ls-files", "-z"])
        .current_dir(root());
    let Some(output) = git.output().ok().filter(|output| output.status.success()) else {
        return; // A source package is no checkout.
    };
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = listed
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(first)
        .collect();
    let names: BTreeSet<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(
        names,
        BTreeSet::from(TOP_LEVEL),
        "the top level has these names and dotfiles, nothing else: it is what a newcomer sees first"
    );
}

#[test]
fn no_source_file_is_unsafe() {
    let word = concat!("un", "safe");
    let is_word = |part: &str| part == word;
    let mut broken = Vec::new();
    for source in sources("src") {
        let code = source.code();
        if code
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .any(is_word)
        {
            broken.push(source.name);
        }
    }
    expect_none(
        &broken,
        "no file in src asks the compiler to look away: peers send us anything",
    );
}

#[test]
fn tests_say_why_they_are_ignored_and_how_they_fail() {
    let mut broken = Vec::new();
    for folder in ["src", "tests"] {
        for source in sources(folder) {
            for line in source.text.lines().map(str::trim) {
                if line.starts_with("#[should_panic") || line == "#[ignore]" {
                    broken.push(format!("{folder}/{}: {line}", source.name));
                }
            }
        }
    }
    expect_none(
        &broken,
        "#[ignore] gives its reason, which is what people without the program see; #[should_panic] \
         would pass for any panic, so compare the value instead",
    );
}

#[test]
fn tests_wait_for_things_and_not_for_time() {
    let call = concat!("thread::", "sleep(");
    let mut broken = Vec::new();
    for folder in ["src", "tests"] {
        for source in sources(folder) {
            let may_sleep = source.text.contains("fn wait_until(");
            if source.text.contains(call) && !may_sleep {
                broken.push(format!("{folder}/{}", source.name));
            }
        }
    }
    expect_none(
        &broken,
        "only wait_until sleeps, between two looks: a test that sleeps for a fixed time is slow on \
         a fast machine and fails on a slow one",
    );
}
