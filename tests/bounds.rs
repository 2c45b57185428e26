//! The tables of `src/bounds.rs` are true: what they name exists, and no limit is left out.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use http_proxy_lb::config::keys::KEYS;

const TABLES: &str = include_str!("../src/bounds.rs");

/// The text of every Rust file below a folder of the repository, but not of the tables.
fn sources(folder: &str) -> String {
    fn collect(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|ending| ending == "rs")
                && !path.ends_with("bounds.rs")
            {
                text.push_str(&fs::read_to_string(&path).expect("text"));
            }
        }
    }
    let mut text = String::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    collect(&root.join(folder), &mut text);
    text
}

/// The cells of each row: what, limit, set by, when reached, test.
fn rows() -> Vec<Vec<&'static str>> {
    let lines = TABLES
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "));
    let rows = lines.filter(|line| !line.starts_with("what |"));
    rows.map(|line| line.split('|').map(str::trim).collect())
        .collect()
}

/// What stands in backticks in a column.
fn named(column: usize) -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    for row in rows() {
        assert_eq!(row.len(), 6, "five cells: {row:?}");
        names.extend(row[column].split('`').skip(1).step_by(2));
    }
    names
}

fn is_constant(name: &str) -> bool {
    let mut letters = name.chars();
    letters.all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// The names of the constants in a text.
fn constants(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().map(str::trim_start);
    let declared = lines.filter_map(|line| {
        let line = line.strip_prefix("pub(super) ").unwrap_or(line);
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("const ")?.split(':').next()
    });
    declared.filter(|name| is_constant(name)).collect()
}

#[test]
fn every_key_and_constant_in_the_tables_exists() {
    let source = sources("src");
    let constants = constants(&source);
    assert!(rows().len() > 50, "{}", rows().len());
    for name in named(2) {
        let known = if is_constant(name) {
            constants.contains(name)
        } else {
            KEYS.iter().any(|key| key.path == name)
        };
        assert!(known, "{name} is neither a key nor a constant");
    }
}

#[test]
fn every_test_in_the_tables_exists() {
    let text = sources("src") + &sources("tests");
    for name in named(4) {
        let declared = format!("fn {name}()");
        assert!(text.contains(&declared), "there is no {declared}");
    }
}

#[test]
fn no_limit_is_left_out_of_the_tables() {
    let source = sources("src");
    let listed = named(2);
    for name in constants(&source) {
        let is_limit = name.ends_with("_MAX") || name.starts_with("MOST");
        assert!(
            !is_limit || listed.contains(name),
            "{name} is a limit; src/bounds.rs should tell of it"
        );
    }
    for path in KEYS.iter().map(|key| key.path) {
        assert!(
            !path.starts_with("limits.") || listed.contains(path),
            "{path} is missing in src/bounds.rs"
        );
    }
}
