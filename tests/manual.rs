//! What is told outside the program: the manual pages and the completions of the shells name every
//! option, command and key, and none that is not there.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use http_proxy_lb::config;
use http_proxy_lb::config::keys::{KEYS, Key, KeyKind};
use http_proxy_lb::config::listen::ListenAddress;
use http_proxy_lb::metrics::exchanges::Failures;
use http_proxy_lb::protocol::persistence::CloseReason;

const COMMANDS: [&str; 4] = ["demo", "status", "init", "completions"];

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

/// What the manual calls what a key may be.
fn kind_in_manual(key: &Key) -> &'static str {
    match key.kind {
        KeyKind::Text(what) => what,
        KeyKind::Word(_) => "word",
        KeyKind::Switch => "boolean",
        KeyKind::SwitchOrBlock(_) => "boolean | block",
        KeyKind::Number(..) if key.unit == "bytes" => "bytes",
        KeyKind::Number(..) => "number",
        KeyKind::Seconds(_) => "seconds",
        KeyKind::Texts | KeyKind::Blocks(_) => "list",
        KeyKind::Block(_) => "block",
        KeyKind::Anything => panic!("{} may be anything", key.path),
    }
}

/// The line of the manual that a row of the table stands for.
fn line_in_manual(key: &Key) -> String {
    let line = format!(".It Ic {} : Ar {}", key.path, kind_in_manual(key));
    let default = match key.path {
        // too many to repeat
        "access.allow" => "loopback and private networks",
        "access.direct_deny" => "link-local and cloud metadata addresses",
        _ => key.default,
    };
    match default {
        "" | "required" => line,
        default => format!("{line} Pq default {default}"),
    }
}

#[test]
fn the_manual_explains_every_key_once_as_its_row_says_and_no_other() {
    let page = read("packaging/man/http-proxy-lb.yaml.5");
    let mut told: Vec<String> = page
        .lines()
        .filter(|line| line.starts_with(".It Ic "))
        .map(str::to_owned)
        .collect();
    let mut known: Vec<String> = KEYS.iter().map(line_in_manual).collect();
    told.sort();
    known.sort();
    assert_eq!(told, known);
}

/// What the manual says below the line of a key, on one line.
fn explanation(key: &Key) -> String {
    let page = read("packaging/man/http-proxy-lb.yaml.5");
    let line = line_in_manual(key);
    let below = page.lines().skip_while(|other| *other != line).skip(1);
    let text: Vec<&str> = below
        .take_while(|line| !line.starts_with(".It Ic ") && !line.starts_with(".Ss "))
        .collect();
    text.join(" ")
}

#[test]
fn the_manual_says_the_range_of_every_number_and_what_0_means() {
    for key in KEYS {
        let said = explanation(key);
        let is_told = key.zero.is_empty() || said.contains("0 = ");
        assert!(is_told, "{}: {said}", key.path);
        let KeyKind::Number(least, most) = key.kind else {
            continue;
        };
        let range = match (least, most) {
            (0, u32::MAX) => String::new(),
            (0, most) => format!("At most {most}."),
            (least, most) => format!("from {least} to {most}"),
        };
        assert!(said.contains(&range), "{}: {range}: {said}", key.path);
    }
    let page = read("packaging/man/http-proxy-lb.yaml.5");
    assert!(page.contains("from 0.001 to 315360000 seconds"));
}

#[test]
fn the_manual_says_which_keys_are_required_and_which_words_there_are() {
    for key in KEYS {
        let said = explanation(key);
        let is_required = key.default == "required";
        assert_eq!(said.starts_with("Required."), is_required, "{}", key.path);
        if let KeyKind::Word(words) = key.kind {
            for word in words.iter().filter_map(|word| word.split(' ').next()) {
                assert!(said.contains(word), "{}: {word}: {said}", key.path);
            }
        }
    }
}

/// The rows of the table of keys in MANUAL.md, written out: key, unit, default.
fn rows_of_the_table() -> Vec<(String, String, String)> {
    let page = read("packaging/MANUAL.md");
    let table = page.split("| key | unit | default | meaning |\n|---|---|---|---|\n");
    let rows = table.last().expect("the table").lines();
    let mut found = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<String> = row
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        let names: Vec<&str> = cells[1].split(", ").collect();
        let defaults: Vec<&str> = cells[3].split(", ").collect();
        let (block, _) = names[0].rsplit_once('.').unwrap_or_default();
        for (position, name) in names.iter().enumerate() {
            let shared = name.strip_prefix('.');
            let key = shared.map_or((*name).to_owned(), |name| format!("{block}.{name}"));
            let default = if defaults.len() == names.len() {
                defaults[position].to_owned()
            } else {
                cells[3].clone()
            };
            found.push((key, cells[2].clone(), default));
        }
    }
    found
}

#[test]
fn the_table_of_keys_has_each_with_its_default_and_its_unit() {
    // these are told with the key they stand in, or have only a heading
    let is_told_elsewhere = |key: &&Key| {
        key.path.starts_with("access_log.")
            || key.path.starts_with("access.users[]")
            || key.path == "upstream"
            || matches!(key.kind, KeyKind::Block(_))
    };
    let rows = rows_of_the_table();
    let told: BTreeSet<&str> = rows.iter().map(|(key, ..)| key.as_str()).collect();
    let known: BTreeSet<&str> = KEYS
        .iter()
        .filter(|key| !is_told_elsewhere(key))
        .map(|key| key.path)
        .collect();
    assert_eq!(told, known);
    assert_eq!(rows.len(), known.len(), "no key stands there twice");
    for (path, unit, default) in rows {
        let key = KEYS.iter().find(|key| key.path == path).expect("a row");
        let wanted = match key.path {
            "health_check.url" => "Google's generate_204",
            "access.allow" => "loopback, private",
            "access.direct_deny" => "link-local, cloud metadata",
            "domain_policy.domains" | "upstream[].password" => "none",
            _ => key.default,
        };
        let is_same = default == wanted || default.starts_with(&format!("{wanted} = "));
        assert!(is_same, "{path}: {default} instead of {wanted}");
        let is_told = |what: &str| (key.unit == what) == (unit == what);
        assert!(is_told("s") && is_told("bytes"), "{path}: {unit}");
    }
}

#[test]
fn the_table_of_causes_has_each_once() {
    let page = read("packaging/MANUAL.md");
    let table = page.split("| cause | meaning | to blame |\n|---|---|---|\n");
    let rows = table.last().expect("the table").lines();
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let told: Vec<&str> = cells
        .flat_map(|cell| cell.split(','))
        .map(|name| name.trim().trim_matches('`'))
        .collect();
    let failures = Failures::default();
    let counted = failures.all().map(|(cause, _)| cause);
    // those have no number of their own
    let logged = [
        "tunnel_reset",
        "tunnel_idle",
        CloseReason::RequestRefused.label(),
    ];
    for cause in counted.chain(logged) {
        let times = told.iter().filter(|name| **name == cause).count();
        assert_eq!(times, 1, "{cause}");
    }
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

/// The name by which a heading is linked to: small letters, `-` for blanks, no other signs.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ if letter.is_alphanumeric() => Some(letter.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

#[test]
fn what_the_pages_link_to_is_there() {
    let pages = [
        "README.md",
        "packaging/AUDIT.md",
        "packaging/CONTRIBUTING.md",
        "packaging/MANUAL.md",
        "packaging/MIGRATING.md",
        "packaging/README.md",
        "packaging/ha/README.md",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    for page in pages {
        let text = read(page);
        let targets = text.split("](").skip(1);
        for target in targets.filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (path, wanted) = target.split_once('#').unwrap_or((target, ""));
            let here = root.join(page);
            let there = match path {
                "" => here,
                path => here.parent().expect("a folder").join(path),
            };
            assert!(there.exists(), "{page}: {target}");
            if !wanted.is_empty() {
                let text = fs::read_to_string(&there).expect("text");
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let mut anchors = headings.map(|line| anchor(line.trim_start_matches(['#', ' '])));
                assert!(anchors.any(|anchor| anchor == wanted), "{page}: {target}");
            }
        }
    }
    assert!(links > 20, "{links}");
}
