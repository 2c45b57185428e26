//! `packaging/AUDIT.md` is true: its tables are what Cargo and the source say.
//!
//! The parts between `<!-- generated: NAME -->` and `<!-- end -->` are written by
//! `AUDIT=write cargo test --test audit`; the tests here fail when they are not as they would be written,
//! so neither a new dependency nor a new place that touches the system comes in unseen.
#![cfg(test)]
#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;

/// What the packages that Cargo.toml names are for.
const PURPOSES: [(&str, &str); 20] = [
    ("base64", "Basic credentials"),
    ("clap", "the command line"),
    (
        "dlmalloc",
        "one heap for all threads, which does not keep what a crowd needed",
    ),
    (
        "httparse",
        "the field lines of requests, behind our own scanner",
    ),
    ("log", "the interface of the log"),
    (
        "memmap2",
        "buffers of 20 and 128 KiB from the system itself, given back at once",
    ),
    ("mio", "waiting for many idle connections (epoll)"),
    ("parking_lot", "locks"),
    (
        "percent-encoding",
        "names of upstreams in paths of the admin endpoints, users and passwords in URLs",
    ),
    ("rayon", "probes of many upstreams at once"),
    (
        "rustix",
        "system calls without `unsafe` of our own: sockets, limits, signals' ends",
    ),
    (
        "sd-listen-fds",
        "sockets that the service manager passes on",
    ),
    ("serde", "the configuration file, as values"),
    ("signal-hook", "SIGTERM, SIGINT, SIGHUP"),
    ("simplelog", "lines of the log"),
    ("strsim", "\"did you mean\" for misspelled keys"),
    ("time", "timestamps"),
    (
        "tiny_http",
        "answers of the admin endpoints, behind the admin front",
    ),
    (
        "ureq",
        "requests of health probes, and of the command `status`",
    ),
    ("yaml_serde", "the configuration file, as YAML"),
];

/// Advisories that exist for a package, and what they are to us.
const ADVISORIES: [(&str, &str); 13] = [
    ("ascii", "RUSTSEC-2023-0015: fixed in 0.9.3"),
    ("bytes", "RUSTSEC-2026-0007: fixed in 1.11.1"),
    ("crossbeam-deque", "RUSTSEC-2021-0093: fixed in 0.8.1"),
    ("crossbeam-epoch", "RUSTSEC-2026-0204: fixed in 0.9.20"),
    ("crossbeam-utils", "RUSTSEC-2022-0041: fixed in 0.8.7"),
    ("hashbrown", "RUSTSEC-2024-0402: fixed in 0.15.1"),
    ("http", "RUSTSEC-2019-0033, -0034: fixed in 0.1.20"),
    (
        "libyaml-rs",
        "RUSTSEC-2023-0075 of its ancestor `unsafe-libyaml`: fixed before the fork",
    ),
    ("lock_api", "RUSTSEC-2020-0070: fixed in 0.4.2"),
    ("mio", "RUSTSEC-2024-0019 (Windows): fixed in 0.8.11"),
    ("smallvec", "RUSTSEC-2021-0003: fixed in 1.6.1"),
    (
        "time",
        "RUSTSEC-2020-0071: fixed in 0.2.23; RUSTSEC-2026-0009: fixed in 0.3.47",
    ),
    (
        "tiny_http",
        "**two are open: see below**; RUSTSEC-2020-0031: fixed in 0.8.0",
    ),
];

/// What in the source touches the system, and what that is called in the table.
const TOUCHES: [(&str, &str); 23] = [
    ("File::open(", "reads a file"),
    ("fs::read_to_string(", "reads a file"),
    ("fs::metadata(", "looks at a file"),
    ("fs::read_dir(", "lists a folder"),
    ("OpenOptions::new(", "opens a file to write"),
    ("File::create(", "makes a file"),
    ("fs::write(", "writes a file"),
    ("fs::rename(", "renames a file"),
    ("fs::remove_file(", "removes a file"),
    ("openat(", "looks at a file"),
    ("unlinkat(", "removes a file"),
    ("DirBuilder::new(", "makes a folder"),
    ("fs::remove_dir_all(", "removes a folder"),
    ("TcpListener::bind(", "listens on TCP"),
    ("UnixListener::bind(", "listens on a Unix socket"),
    ("TcpStream::connect", "connects by TCP"),
    ("UnixStream::connect(", "connects to a Unix socket"),
    ("SocketAddrUnix::new(", "connects to a Unix socket"),
    ("UnixDatagram::unbound(", "sends to a Unix socket"),
    (".to_socket_addrs()", "asks for addresses (DNS)"),
    ("env::var", "reads an environment variable"),
    ("env::temp_dir(", "reads an environment variable"),
    ("process::Command", "starts a program"),
];

/// One package of the program.
#[derive(Default)]
struct Package {
    version: String,
    licence: String,
    is_macro: bool,
    users: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .output();
    let output = output.expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// What is in the program, or in what builds it, on Linux.
fn packages() -> BTreeMap<String, Package> {
    let tree = cargo(&[
        "tree",
        "--offline",
        "--locked",
        "--edges=normal,build",
        "--target=x86_64-unknown-linux-gnu",
        "--prefix=depth",
        "--format={p}|{l}",
    ]);
    let mut found: BTreeMap<String, Package> = BTreeMap::new();
    let mut path: Vec<String> = Vec::new();
    for line in tree.lines() {
        let digits = line.find(|c: char| !c.is_ascii_digit()).expect("a package");
        let (depth, rest) = line.split_at(digits);
        let depth: usize = depth.parse().expect("a depth");
        let (package, licence) = rest.split_once('|').expect("a licence");
        let mut words = package.split(' ');
        let name = words.next().unwrap_or_default().to_owned();
        let version = words.next().unwrap_or_default().trim_start_matches('v');
        path.truncate(depth);
        if let Some(user) = path.last() {
            let entry = found.entry(name.clone()).or_default();
            version.clone_into(&mut entry.version);
            licence
                .trim_end_matches(" (*)")
                .clone_into(&mut entry.licence);
            entry.is_macro |= package.contains("(proc-macro)");
            entry.users.insert(user.clone());
        }
        path.push(name);
    }
    found
}

/// Where the sources of the packages are.
fn sources() -> BTreeMap<String, PathBuf> {
    let metadata = cargo(&[
        "metadata",
        "--offline",
        "--locked",
        "--format-version=1",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]);
    let manifests = metadata.split("\"manifest_path\":\"").skip(1);
    let folders = manifests.filter_map(|rest| {
        let folder = Path::new(rest.split('"').next()?).parent()?;
        let name = folder.file_name()?.to_string_lossy().into_owned();
        Some((name, folder.to_owned()))
    });
    folders.collect()
}

/// How often the word stands in the code below a folder, comments left out.
fn unsafe_words(folder: &Path) -> usize {
    let word = concat!("un", "safe");
    let mut count = 0;
    for path in rust_files(folder) {
        let text = fs::read(&path).expect("a readable file");
        let text = String::from_utf8_lossy(&text);
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let is_part = |c: char| !(c.is_alphanumeric() || c == '_');
        count += code
            .flat_map(|line| line.split(is_part))
            .filter(|part| *part == word)
            .count();
    }
    count
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn dependencies() -> String {
    let (packages, sources) = (packages(), sources());
    let own = env!("CARGO_PKG_NAME");
    let mut out = String::new();
    let direct = packages
        .values()
        .filter(|package| package.users.contains(own))
        .count();
    let licences: BTreeSet<&str> = packages.values().map(|one| one.licence.as_str()).collect();
    writeln!(
        out,
        "{} packages, {direct} of them named in `Cargo.toml`; {} spellings of their licences.\n",
        packages.len(),
        licences.len()
    )
    .expect("a string");
    out += "| package | version | licence | `unsafe` | for | advisories |\n|---|---|---|---|---|---|\n";
    for (name, package) in &packages {
        let version = &package.version;
        let folder = sources.get(&format!("{name}-{version}"));
        let folder = folder.unwrap_or_else(|| panic!("no source of {name} {version}"));
        let count = unsafe_words(&folder.join("src"));
        let purpose = PURPOSES.iter().find(|(known, _)| known == name);
        let mut users: Vec<&str> = package.users.iter().map(String::as_str).collect();
        users.retain(|user| *user != own);
        let purpose = match purpose {
            Some((_, purpose)) => format!("**{purpose}**"),
            None => users.join(", "),
        };
        let purpose = if package.is_macro {
            format!("{purpose} (while compiling)")
        } else {
            purpose
        };
        let advisory = ADVISORIES.iter().find(|(known, _)| known == name);
        let advisory = advisory.map_or("", |(_, advisory)| advisory);
        let licence = &package.licence;
        writeln!(
            out,
            "| {name} | {version} | {licence} | {count} | {purpose} | {advisory} |"
        )
        .expect("a string");
    }
    out
}

/// Every place of the source that touches files, sockets, the environment or other programs.
fn touches() -> String {
    let mut out = "| source | does |\n|---|---|\n".to_owned();
    for path in rust_files(&root().join("src")) {
        let name = path
            .strip_prefix(root())
            .expect("below")
            .display()
            .to_string();
        let text = fs::read_to_string(&path).expect("a readable file");
        if name.ends_with("tests.rs") {
            continue;
        }
        let code = text
            .split("\n#[cfg(test)]\nmod ")
            .next()
            .unwrap_or_default();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let code: Vec<&str> = code.lines().filter(is_code).collect();
        let mut does = Vec::new();
        for (call, meaning) in TOUCHES {
            let is_there = code.iter().any(|line| line.contains(call));
            if is_there && !does.contains(&meaning) {
                does.push(meaning);
            }
        }
        if !does.is_empty() {
            writeln!(out, "| `{name}` | {} |", does.join(", ")).expect("a string");
        }
    }
    out
}

/// Two tests must not write at once.
static WRITING: Mutex<()> = Mutex::new(());

/// Compares what stands in the page with what should, or writes it.
fn check(name: &str, expected: &str) {
    let _alone = WRITING.lock();
    let path = root().join("packaging/AUDIT.md");
    let page = fs::read_to_string(&path).expect("packaging/AUDIT.md");
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = page.split_once(&begin).expect("the mark before the block");
    let (written, after) = rest.split_once("<!-- end -->").expect("the mark behind it");
    if std::env::var_os("AUDIT").is_some_and(|wanted| wanted == "write") {
        let page = format!("{before}{begin}{expected}<!-- end -->{after}");
        fs::write(&path, page).expect("a writable page");
        return;
    }
    assert!(
        written == expected,
        "packaging/AUDIT.md is not true any more ({name}). Look at what has changed and why, then \
         write it anew with: AUDIT=write cargo test --test audit\n\n{expected}"
    );
}

#[test]
fn the_list_of_dependencies_is_true() {
    check("dependencies", &dependencies());
}

#[test]
fn the_list_of_places_that_touch_the_system_is_true() {
    check("touches", &touches());
}

#[test]
fn every_dependency_of_ours_has_a_purpose_and_every_note_a_package() {
    let packages = packages();
    let own = env!("CARGO_PKG_NAME");
    for (name, package) in &packages {
        let is_known = PURPOSES.iter().any(|(known, _)| known == name);
        assert_eq!(package.users.contains(own), is_known, "PURPOSES and {name}");
    }
    for (name, _) in ADVISORIES {
        assert!(
            packages.contains_key(name),
            "ADVISORIES has {name}, which is gone"
        );
    }
}
