//! Run by cargo before the program is built: finds out what `--version` says besides the version.
//!
//! That is the commit, the target, and whether the feature `tls` is in it. The commit is that of `SOURCE_COMMIT`, of the archive that git made
//! these sources into, or of the checkout they are; its files are read, so there need be no git. Where
//! none of them is there, only the target is told. A debug build has no commit: it would be compiled
//! anew for each.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What `git archive` replaces, as `.gitattributes` says.
const ARCHIVED: &str = "$Format:%H$";

/// As many digits as `git` itself needs in the largest repositories.
const DIGITS: usize = 12;

fn main() -> io::Result<()> {
    let mut cargo = io::stdout();
    writeln!(cargo, "cargo::rerun-if-changed=src/build.rs")?;
    writeln!(cargo, "cargo::rerun-if-env-changed=SOURCE_COMMIT")?;
    let mut words = Vec::new();
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let git = folder_of_git();
        // they change with each commit, and when another is checked out
        for file in ["HEAD", "logs/HEAD"].map(|name| git.join(name)) {
            if file.exists() {
                writeln!(cargo, "cargo::rerun-if-changed={}", file.display())?;
            }
        }
        let given = env::var("SOURCE_COMMIT").ok();
        let archived = || Some(ARCHIVED.to_owned()).filter(|text| is_commit(text));
        let commit = given.filter(|text| is_commit(text)).or_else(archived);
        words.extend(commit.or_else(|| checked_out(&git)));
    }
    for commit in &mut words {
        commit.truncate(DIGITS);
    }
    words.extend(env::var("TARGET"));
    if env::var_os("CARGO_FEATURE_TLS").is_some() {
        words.push("with TLS".to_owned());
    }
    writeln!(cargo, "cargo::rustc-env=BUILT_FROM={}", words.join(", "))
}

fn is_commit(text: &str) -> bool {
    DIGITS <= text.len() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The folder `.git`, or the one that a file of this name leads to, as in a worktree.
fn folder_of_git() -> PathBuf {
    let file = fs::read_to_string(".git").unwrap_or_default();
    let leads_to = file.trim().strip_prefix("gitdir: ");
    PathBuf::from(leads_to.unwrap_or(".git"))
}

/// The commit that is checked out.
fn checked_out(git: &Path) -> Option<String> {
    let read = |file: PathBuf| {
        let text = fs::read_to_string(file).ok()?;
        Some(text.trim().to_owned())
    };
    let head = read(git.join("HEAD"))?;
    let commit = match head.strip_prefix("ref: ") {
        None => head,
        Some(branch) => {
            let common = read(git.join("commondir")).map(|path| git.join(path));
            let common = common.unwrap_or_else(|| git.to_owned());
            let packed = || {
                let refs = read(common.join("packed-refs"))?;
                let mut lines = refs.lines().filter_map(|line| line.split_once(' '));
                Some(lines.find(|(_, name)| *name == branch)?.0.to_owned())
            };
            read(common.join(branch)).or_else(packed)?
        }
    };
    Some(commit).filter(|text| is_commit(text))
}
