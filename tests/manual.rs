//! What is told outside the program: the manual pages and the completions of the shells name every
//! option, command and key, and none that is not there.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use http_proxy_lb::config;
use http_proxy_lb::config::listen::ListenAddress;

const COMMANDS: [&str; 2] = ["demo", "status"];

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The options that `command` tells of in its help: `-c` and `--config`.
fn options(command: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_http-proxy-lb"))
        .args(command)
        .arg("--help")
        .output()
        .expect("it runs");
    let help = String::from_utf8(output.stdout).expect("text");
    let lines = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'));
    let found: BTreeSet<String> = lines
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches(','))
        .filter(|word| is_option(word))
        .map(str::to_owned)
        .collect();
    assert!(found.contains("--help"), "{help}");
    found
}

fn is_option(word: &str) -> bool {
    let name = word.trim_start_matches('-');
    word.starts_with('-') && name.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// The options of all commands together.
fn all_options() -> BTreeSet<String> {
    let mut all = options(&[]);
    for command in COMMANDS {
        all.extend(options(&[command]));
    }
    all
}

/// The options that a list of the manual explains: the `Fl` of its `.It` lines.
fn explained() -> BTreeSet<String> {
    let page = read("packaging/man/http-proxy-lb.1");
    let items = page.lines().filter_map(|line| line.strip_prefix(".It Fl "));
    items
        .flat_map(|item| item.split(" , Fl "))
        .filter_map(|option| option.split_whitespace().next())
        .map(|name| format!("-{name}"))
        .collect()
}

#[test]
fn the_manual_explains_every_option_and_no_other() {
    assert_eq!(explained(), all_options());
}

#[test]
fn the_manual_explains_every_command() {
    let page = read("packaging/man/http-proxy-lb.1");
    let told: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix(".Ss The command "))
        .collect();
    assert_eq!(told, BTreeSet::from(COMMANDS));
    let help = read("tests/expected/help.txt");
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(listed, COMMANDS);
}

#[test]
fn the_manual_explains_every_exit_code() {
    let page = read("packaging/man/http-proxy-lb.1");
    let section = page.split(".Sh EXIT STATUS").nth(1).expect("the section");
    let section = section.split("\n.Sh ").next().expect("its text");
    let codes: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix(".It "))
        .collect();
    assert_eq!(codes, ["0", "1", "2", "78"]);
}

/// The items of the manual about the file: each key with its default, if it has one.
fn keys() -> Vec<(String, Option<String>)> {
    let page = read("packaging/man/http-proxy-lb.yaml.5");
    let items = page.lines().filter_map(|line| line.strip_prefix(".It Ic "));
    items
        .map(|item| {
            let key = item.split(' ').next().expect("a key").to_owned();
            let default = item.split_once(" Pq default ");
            (key, default.map(|(_, value)| value.to_owned()))
        })
        .collect()
}

#[test]
fn the_manual_explains_every_key_once_and_no_other() {
    let mut told: Vec<String> = keys().into_iter().map(|(key, _)| key).collect();
    let mut known = config::key_paths();
    told.sort();
    known.sort();
    assert_eq!(told, known);
}

/// What the example sets, and so what the defaults are: another test compares those.
fn set_in_example() -> Vec<(String, String)> {
    let text = read("config.example.yaml");
    let mut block = String::new();
    let mut found = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
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
fn the_manual_has_the_defaults_of_the_example() {
    let keys = keys();
    let mut compared = 0;
    for (key, value) in set_in_example() {
        let told = keys.iter().find(|(name, _)| *name == key);
        // what is required has no default, and `access.allow` too many to repeat
        let Some((_, Some(default))) = told else {
            continue;
        };
        assert_eq!(*default, value, "{key}");
        compared += 1;
    }
    assert!(25 < compared, "{compared} defaults were compared");
}

#[test]
fn the_manual_names_the_keys_that_want_a_restart() {
    let page = read("packaging/man/http-proxy-lb.yaml.5");
    let sentence = "except\n.Ic listen , admin_listen\nand\n.Ic listen_proxy_protocol ,";
    assert!(page.contains(sentence));
}

/// How a completion writes an option.
fn names(text: &str, option: &str, fish: &str) -> bool {
    let ends = |after: Option<char>| after.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-');
    let stands = |wanted: &str| {
        let mut behind = text.split(wanted).skip(1);
        behind.any(|rest| ends(rest.chars().next()))
    };
    stands(option) || stands(fish)
}

#[test]
fn the_completions_name_every_option_and_command() {
    let long = |option: &String| option.starts_with("--");
    for file in ["http-proxy-lb.bash", "_http-proxy-lb", "http-proxy-lb.fish"] {
        let text = read(&format!("packaging/completions/{file}"));
        for option in all_options().iter().filter(|option| long(option)) {
            let fish = format!(" -l {}", option.trim_start_matches('-'));
            assert!(names(&text, option, &fish), "{file}: {option} is missing");
        }
        for command in COMMANDS {
            assert!(names(&text, command, command), "{file}: {command}");
        }
        for level in ["error", "warn", "info", "debug", "trace"] {
            assert!(names(&text, level, level), "{file}: {level}");
        }
    }
}

#[test]
fn the_completions_name_no_option_that_is_not_there() {
    let all = all_options();
    for file in ["http-proxy-lb.bash", "_http-proxy-lb", "http-proxy-lb.fish"] {
        let text = read(&format!("packaging/completions/{file}"));
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let options = words.filter(|word| word.len() > 3 && word.starts_with("--"));
        for option in options {
            assert!(all.contains(option), "{file}: {option}");
        }
    }
}

#[test]
fn the_configuration_of_the_packages_is_safe_and_starts() {
    let text = read("packaging/config.yaml");
    let config = config::parse(&text, "config.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    assert!(config.listen.is_loopback());
    let admin = config.admin_listen.as_ref();
    assert!(admin.is_some_and(ListenAddress::is_loopback));
    assert!(!config.relies_on_compatibility());
    assert!(!config.access.allow.holds_everything());
}
