//! `config.example.yaml` is the reference of the configuration: it loads, is
//! what the defaults are, and names every key.
#![cfg(test)]

use http_proxy_lb::config;
use http_proxy_lb::config::checked::Config;
use http_proxy_lb::config::keys::{KEYS, KeyKind};
use http_proxy_lb::config::report::CheckReport;

const EXAMPLE: &str = include_str!("../config.example.yaml");

fn load(text: &str) -> Config {
    config::parse(text, "config.example.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn report(config: &Config) -> String {
    CheckReport { config }.to_string()
}

/// The example with every key set: the `#` before a key is taken away where no
/// space follows it.
fn all_keys_set() -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut in_example = false;
    for line in EXAMPLE.lines() {
        let inner = line.trim_start();
        let indent = line.strip_suffix(inner).unwrap_or_default();
        let commented = inner.strip_prefix('#');
        let starts = commented.is_some_and(|key| key.starts_with(|c: char| c.is_ascii_lowercase()));
        // the lines below such a key go with it
        in_example = starts || in_example && commented.is_some_and(|key| key.starts_with("  "));
        match commented {
            Some(example) if in_example => {
                let key = example.split(':').next().unwrap_or_default();
                lines.retain(|other| !starts || *other != format!("{indent}{key}: []"));
                lines.push(format!("{indent}{example}"));
            }
            Some(_) | None => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

#[test]
fn it_loads_and_only_the_empty_pool_is_worth_a_word() {
    let config = load(EXAMPLE);
    let said: Vec<_> = config
        .warnings
        .iter()
        .map(|notice| notice.text.as_str())
        .collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("no upstream is configured"), "{said:?}");
    assert!(!config.relies_on_compatibility());
}

#[test]
fn it_is_safe_as_it_stands() {
    let config = load(EXAMPLE);
    assert!(config.listen.is_loopback());
    assert!(config.admin_listen.is_none());
    assert!(!config.access.allow.holds_everything());
    assert!(!config.access.direct_deny.is_empty());
}

#[test]
fn it_says_what_the_defaults_are() {
    let smallest = "listen: 127.0.0.1:8080\nupstream: []\n";
    let (example, smallest) = (report(&load(EXAMPLE)), report(&load(smallest)));
    let without_lines = |report: &str| {
        let rows = report
            .lines()
            .filter(|line| !line.contains("no upstream is configured"));
        rows.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_lines(&example), without_lines(&smallest));
}

#[test]
fn it_names_every_key() {
    for path in KEYS.iter().map(|key| key.path) {
        let key = path.rsplit('.').next().unwrap_or(path);
        let is_named = EXAMPLE.lines().any(|line| {
            let line = line.trim_start_matches([' ', '#', '-']);
            line.starts_with(&format!("{key}:"))
        });
        assert!(is_named, "{path} is missing");
    }
}

/// What it sets: path and value.
fn set() -> Vec<(String, String)> {
    let mut block = String::new();
    let mut found = Vec::new();
    let is_comment = |line: &&str| line.trim_start().starts_with('#');
    for line in EXAMPLE.lines().filter(|line| !is_comment(line)) {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match (key.strip_prefix("  "), value.trim()) {
            (None, "") => key.clone_into(&mut block),
            (None, value) => found.push((key.to_owned(), value.to_owned())),
            (Some(_), "") => {}
            (Some(key), value) => found.push((format!("{block}.{key}"), value.to_owned())),
        }
    }
    found
}

#[test]
fn what_it_sets_is_the_default_of_the_row_of_the_key() {
    let set = set();
    let keys = KEYS
        .iter()
        .filter(|key| !matches!(key.kind, KeyKind::Blocks(_)) && key.default != "required");
    let mut compared = 0;
    for key in keys {
        if let Some((_, value)) = set.iter().find(|(path, _)| path == key.path) {
            assert_eq!(value, key.default, "{}", key.path);
            compared += 1;
        } else {
            let is_measured = matches!(key.kind, KeyKind::Number(..) | KeyKind::Seconds(_));
            let in_list = key.path.contains("[]");
            assert!(in_list || !is_measured, "{} is not set", key.path);
        }
    }
    assert!(25 < compared, "{compared} defaults were compared");
}

/// As the head of the file says.
#[test]
fn its_times_are_in_seconds() {
    for key in KEYS {
        let is_time = matches!(key.kind, KeyKind::Seconds(_));
        assert_eq!(key.path.ends_with("secs"), is_time, "{}", key.path);
        assert_eq!(key.unit == "s", is_time, "{}", key.path);
    }
}

#[test]
fn its_examples_are_examples_of_valid_keys() {
    let text = all_keys_set()
        .replace("admin_token_file: /etc/http-proxy-lb/admin-token", "")
        .replace("users_file: /etc/http-proxy-lb/users", "")
        .replace("password_file: proxy2-password", "password: x")
        .replace("domains_file: ads.txt", "domains: [ads.example]")
        .replace("upstream_files: [exits.txt]", "");
    let config = load(&text);
    let said: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(config.upstreams.len(), 3, "{text}");
    assert_eq!(config.access.users.len(), 1);
    assert!(config.admin_token.is_some());
    assert!(!config.relies_on_compatibility(), "{said:?}");
}
