//! Every key a configuration file may have: one row each.
//!
//! This is the only list. The parser asks it which scalars are texts, the reader which range a
//! number has and what holds where it is absent, the check for unknown keys what is known, `--check`
//! in which words to tell of a value; and tests compare the man page, MANUAL.md and
//! `config.example.yaml` with it. A new key is a row here, and a line where its value is read.

use KeyKind::{Block, Blocks, Number, Seconds, Switch, SwitchOrBlock, Text, Texts, Word};

/// One key of the file.
#[derive(Debug)]
pub struct Key {
    /// With the keys it stands in: `upstream[].url`.
    pub path: &'static str,
    /// What its value may be.
    pub kind: KeyKind,
    /// What holds where the key is absent: as it would be written, or in words. Empty for blocks.
    pub default: &'static str,
    /// What stands behind a number in the report of `--check`.
    pub unit: &'static str,
    /// What 0 means, where it is more than a small number.
    pub zero: &'static str,
}

/// What may stand at a place of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyKind {
    /// A scalar that is taken letter by letter, and what the manual calls it.
    Text(&'static str),
    /// One of these words; behind some of them, in brackets, what they mean.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Switch,
    /// A whole number: the least and the most.
    Number(u32, u32),
    /// A time in seconds, with or without a fraction: the least.
    Seconds(f64),
    /// A list of texts.
    Texts,
    /// A block of keys, whose paths begin with this.
    Block(&'static str),
    /// `true`, `false`, or a block of keys.
    SwitchOrBlock(&'static str),
    /// A list of blocks of keys.
    Blocks(&'static str),
    /// What stands below a key that is not known.
    Anything,
}

/// Makes rows: path, kind, default, unit, what 0 means; the last two where there are some.
macro_rules! rows {
    ($($path:literal: $kind:expr, $default:literal $(, $unit:literal $(, $zero:literal)?)?;)*) => {
        &[$(Key {
            path: $path,
            kind: $kind,
            default: $default,
            unit: concat!($($unit)?),
            zero: concat!($($($zero)?)?),
        }),*]
    };
}

/// The table, in the order in which messages list the keys.
#[rustfmt::skip]
pub static KEYS: &[Key] = rows! {
    "listen":                            Text("address"),             "required";
    "admin_listen":                      Text("address"),             "none";
    "admin_token":                       Text("text"),                "none";
    "admin_token_file":                  Text("path"),                "none";
    "mode":                              Word(MODES),                 "round_robin";
    "reload_interval_secs":              Seconds(0.0),                "60", "s", "only on SIGHUP";
    "access_log":                        SwitchOrBlock("access_log"), "false";
    "access_log.format":                 Word(FORMATS),               "text";
    "access_log.file":                   Text("path"),                "standard output";
    "access_log.query":                  Switch,                      "true";
    "request_id":                        Text("field"),               "none";
    "log":                               Block("log"),                "";
    "log.format":                        Word(LOG_FORMATS),           "text";
    "metrics":                           Block("metrics"),            "";
    "metrics.per_upstream":              Switch,                      "true";
    "via":                               Switch,                      "true";
    "forwarded":                         Word(FORWARDED),             "off";
    "listen_proxy_protocol":             Switch,                      "false";
    "health_check":                      Block("health_check"),       "";
    "health_check.interval_secs":        Seconds(0.001),              "30", "s";
    "health_check.timeout_secs":         Seconds(0.001),              "5", "s";
    // It answers 204 from almost anywhere, and was fixed in the first release.
    "health_check.url":                  Text("url"),                 "http://connectivitycheck.gstatic.com/generate_204";
    "health_check.expect_status":        Number(200, 599),            "204";
    "health_check.fall":                 Number(1, 1000),             "1", "in a row";
    "health_check.rise":                 Number(1, 1000),             "1", "in a row";
    "health_check.online_interval_secs": Seconds(0.0),                "0", "s", "online upstreams are checked when requests give reason to";
    "health_check.slow_start_secs":      Seconds(0.0),                "0", "s", "all of its share at once";
    "limits":                            Block("limits"),             "";
    "limits.max_connections":            Number(0, u32::MAX),         "0", "connections", "as many as file descriptors allow";
    "limits.max_connections_per_client": Number(0, u32::MAX),         "0", "connections", "no limit";
    // More threads are no help.
    "limits.workers":                    Number(0, 16_384),           "0", "requests", "auto: 64 a core, between 512 and 1024";
    // More requests cannot be waiting in memory.
    "limits.queue":                      Number(0, 1_048_576),        "0", "requests", "auto: 4 for each worker";
    "limits.queue_timeout_secs":         Seconds(0.0),                "5", "s";
    "limits.request_timeout_secs":       Seconds(0.0),                "0", "s", "none";
    "limits.response_timeout_secs":      Seconds(0.001),              "300", "s";
    "limits.connect_timeout_secs":       Seconds(0.001),              "5", "s";
    "limits.header_timeout_secs":        Seconds(0.001),              "15", "s";
    "limits.idle_timeout_secs":          Seconds(0.001),              "60", "s";
    "limits.io_timeout_secs":            Seconds(0.001),              "60", "s";
    "limits.response_idle_timeout_secs": Seconds(0.001),              "900", "s";
    "limits.tunnel_idle_timeout_secs":   Seconds(0.001),              "3600", "s";
    "limits.tunnel_half_closed_secs":    Seconds(0.001),              "300", "s";
    "limits.shutdown_timeout_secs":      Seconds(0.0),                "30", "s";
    // The smallest still holds a request.
    "limits.max_header_bytes":           Number(1024, 1_048_576),     "65536", "bytes";
    // For more an upstream has no ports.
    "limits.upstream_idle_connections":  Number(0, 65_535),           "64", "for each upstream";
    "limits.upstream_idle_secs":         Seconds(0.0),                "30", "s";
    "domain_policy":                     Block("domain_policy"),      "";
    "domain_policy.mode":                Word(POLICIES),              "off";
    "domain_policy.domains":             Texts,                       "[]";
    "rules":                             Blocks("rules[]"),           "none";
    "rules[].domains":                   Texts,                       "none";
    "rules[].domains_file":              Text("path"),                "none";
    "rules[].users":                     Texts,                       "none";
    "rules[].ports":                     Texts,                       "none";
    "rules[].clients":                   Texts,                       "none";
    "rules[].use":                       Text("way"),                 "required";
    "rules[].fallback":                  Texts,                       "none";
    "default":                           Text("way"),                 "any";
    "access":                            Block("access"),             "";
    // Loopback, RFC 1918, RFC 6598, IPv6 unique-local and link-local.
    "access.allow":                      Texts,                       "127.0.0.0/8, ::1, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fc00::/7, fe80::/10";
    "access.users":                      Blocks("access.users[]"),    "none";
    "access.users[].username":           Text("text"),                "required";
    "access.users[].password":           Text("text"),                "required";
    "access.users_file":                 Text("path"),                "none";
    "access.connect_ports":              Texts,                       "[]";
    // Link-local, where clouds keep the credentials of a machine, and the addresses outside of it
    // that serve the same: AWS and Google over IPv6, Alibaba, Azure, Oracle.
    "access.direct_deny":                Texts,                       "169.254.0.0/16, fe80::/10, fd00:ec2::254, fd20:ce::254, 100.100.100.200, 168.63.129.16, 192.0.0.192";
    "access.proxy_protocol_from":        Texts,                       "none";
    "sticky":                            Block("sticky"),             "";
    "sticky.by":                         Word(STICKY),                "none";
    "sticky.ttl_secs":                   Seconds(0.001),              "600", "s";
    "sticky.max_sessions":               Number(1, 16_777_216),       "65536", "sessions";
    "rest":                              Blocks("rest[]"),            "none";
    "rest[].status":                     Texts,                       "required";
    "rest[].secs":                       Seconds(0.001),              "60", "s";
    "rest[].scope":                      Word(SCOPES),                "host";
    "rest[].retry":                      Switch,                      "false";
    "upstream_files":                    Texts,                       "none";
    "upstream":                          Blocks("upstream[]"),        "";
    "upstream[].name":                   Text("text"),                "host:port";
    "upstream[].url":                    Text("url"),                 "required";
    "upstream[].group":                  Text("text"),                "none";
    "upstream[].weight":                 Number(0, u32::MAX),         "1";
    "upstream[].max_active":             Number(0, u32::MAX),         "0", "requests and tunnels", "no limit";
    "upstream[].priority":               Number(0, u32::MAX),         "100";
    "upstream[].username":               Text("text"),                "none";
    "upstream[].password":               Text("text"),                "empty";
    "upstream[].password_file":          Text("path"),                "none";
    "upstream[].credentials":            Word(CREDENTIALS),           "own";
    "upstream[].proxy_protocol":         Word(PROXY_HEADERS),         "none";
    "upstream[].ca_file":                Text("path"),                "the system's store";
    "upstream[].server_name":            Text("name"),                "the host of its URL";
};

const MODES: &[&str] = &["round_robin", "best", "priority"];

const FORMATS: &[&str] = &["text", "json", "combined"];

const STICKY: &[&str] = &[
    "none",
    "client (its address; of IPv6 the first 64 bits)",
    "user (that the client has authenticated as)",
    "session (what stands behind -session- in the user name)",
    "target (its host)",
];

const FORWARDED: &[&str] = &[
    "off (upstreams are not told who the client is)",
    "x_forwarded_for (they are told in X-Forwarded-For)",
    "forwarded (they are told in Forwarded, RFC 7239)",
];

const CREDENTIALS: &[&str] = &[
    "own (it is told `username` and `password`)",
    "client (what the client presents is passed on, and its answer back)",
];

const PROXY_HEADERS: &[&str] = &[
    "none",
    "v1 (a line of text says who the client is)",
    "v2 (a block of bytes says so)",
];

const SCOPES: &[&str] = &[
    "host (the upstream rests for the host that answered so)",
    "upstream (it rests for all)",
];

const LOG_FORMATS: &[&str] = &["text", "json"];

const POLICIES: &[&str] = &[
    "off (everything uses an upstream)",
    "blacklist (listed domains go direct)",
    "whitelist (only listed domains use an upstream)",
];

/// The key of a block that takes in the keys of others.
pub(super) const MERGE: &str = "<<";

impl Key {
    /// The path of the block it stands in and its name there.
    pub fn split(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }

    /// A number with its unit, or what 0 means.
    pub(super) fn in_words(&self, number: f64) -> String {
        if number == 0.0 && !self.zero.is_empty() {
            format!("0 ({})", self.zero)
        } else if self.unit.is_empty() {
            number.to_string()
        } else {
            format!("{number} {}", self.unit)
        }
    }
}

impl KeyKind {
    /// The kind of the elements of this list.
    pub(super) fn element(self) -> Self {
        if let Blocks(block) | Block(block) | SwitchOrBlock(block) = self {
            // a list of blocks, or one of blocks to merge
            Block(block)
        } else if self == Texts {
            Text("text")
        } else {
            Self::Anything
        }
    }

    /// The kind of the value of `name` in this block.
    pub(super) fn below(self, name: &str) -> Self {
        let (Block(block) | SwitchOrBlock(block)) = self else {
            return Self::Anything;
        };
        if name == MERGE {
            return Block(block);
        }
        find(block, name).map_or(Self::Anything, |key| key.kind)
    }
}

/// The word itself of one of [`KeyKind::Word`].
pub(super) fn bare(word: &str) -> &str {
    word.split_once(' ').map_or(word, |(word, _meaning)| word)
}

/// The keys of a block, by its path; those at the top for an empty one.
pub(super) fn in_block(block: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.split().0 == block)
}

/// The key `name` of a block.
pub(super) fn find(block: &str, name: &str) -> Option<&'static Key> {
    in_block(block).find(|key| key.split().1 == name)
}

/// Names that other programs have for what is meant here, by the block they are written in, and what
/// to write. Those that lead to a key are not told apart from a misspelling.
const HABITS: [(&str, &[&str], &str); 9] = [
    (
        "upstream[]",
        &["user", "login", "user_name"],
        "did you mean `username`?",
    ),
    (
        "upstream[]",
        &["pass", "passwd", "pwd"],
        "did you mean `password`?",
    ),
    (
        "upstream[]",
        &["port"],
        "a port belongs into the URL: write `url: http://host:port`",
    ),
    (
        "upstream[]",
        &[
            "host", "hostname", "address", "addr", "ip", "server", "proxy", "uri",
        ],
        "write host and port as `url: http://host:port`",
    ),
    (
        "access.users[]",
        &["user", "login", "name", "user_name"],
        "did you mean `username`?",
    ),
    (
        "access.users[]",
        &["pass", "passwd", "pwd"],
        "did you mean `password`?",
    ),
    (
        "access",
        &["user", "username", "pass", "password"],
        "users are a list: write `users:`, and below it `- username: ..` and `password: ..`",
    ),
    (
        "",
        &["port", "host", "address", "bind"],
        "write address and port as `listen: 127.0.0.1:8080`",
    ),
    (
        "",
        &["proxies", "parents", "servers", "backends", "pool"],
        "did you mean `upstream`?",
    ),
];

/// What to ask who wrote a timeout that could be each of these.
const WHICH_TIMEOUT: &str = "which wait do you mean: to connect (`limits.connect_timeout_secs`), for an \
    answer (`limits.response_timeout_secs` of one attempt, `limits.request_timeout_secs` of all), for \
    more of a body (`limits.io_timeout_secs`), for the next request (`limits.idle_timeout_secs`), in a \
    tunnel (`limits.tunnel_idle_timeout_secs`), for a check (`health_check.timeout_secs`)?";

/// What to write instead of the key `unknown` of `block`, in words.
pub(super) fn meant(block: &str, unknown: &str) -> String {
    let is_habit =
        |(place, names, _): &&(&str, &[&str], &str)| *place == block && names.contains(&unknown);
    if let Some((.., remedy)) = HABITS.iter().find(is_habit) {
        return (*remedy).to_owned();
    }
    let near = nearest(block, unknown);
    let (_, name) = near
        .and_then(|path| path.rsplit_once('.'))
        .unwrap_or(("", near.unwrap_or("")));
    let is_any =
        matches!(unknown, "timeout" | "timeouts" | "timeout_secs") && find(block, name).is_none();
    let is_close = name.contains("timeout") && LIKENESS_SURE <= likeness(name, unknown);
    if unknown.contains("timeout") && (is_any || !is_close) {
        // each could be meant, and a wrong guess would be believed
        return WHICH_TIMEOUT.to_owned();
    }
    match near.map(|path| (path, path.rsplit_once('.'))) {
        Some((path, Some((place, key)))) if key == unknown && !place.contains('[') => {
            format!(
                "did you mean `{path}`? It stands in the block `{place}`, indented below `{place}:`"
            )
        }
        Some((path, _)) => format!("did you mean `{path}`?"),
        None => "remove it (config.example.yaml lists every key)".to_owned(),
    }
}

/// From this likeness (0 to 1) on a timeout is a misspelling of that one, not another.
const LIKENESS_SURE: f64 = 0.88;

/// Below this likeness (0 to 1) a suggestion would only puzzle.
const LIKENESS_MIN: f64 = 0.75;
/// The same for a key of another block, which is a bolder guess.
const LIKENESS_ELSEWHERE_MIN: f64 = 0.85;

/// A shorter key is like many others, in bytes.
const LENGTH_MIN: usize = 3;

/// The key that was probably meant by `unknown`, which stands in `block`: one of that block by its
/// name, one of another block by its path (`limits.workers`).
fn nearest(block: &str, unknown: &str) -> Option<&'static str> {
    let moved = KEYS.iter().find(|key| key.split().1 == unknown);
    moved
        .map(|key| key.path)
        .or_else(|| {
            let here = most_alike(in_block(block), unknown, LIKENESS_MIN)?;
            Some(here.split().1)
        })
        .or_else(|| Some(most_alike(KEYS.iter(), unknown, LIKENESS_ELSEWHERE_MIN)?.path))
}

fn most_alike(
    keys: impl Iterator<Item = &'static Key>,
    unknown: &str,
    least: f64,
) -> Option<&'static Key> {
    let rated = keys.map(|key| (likeness(key.split().1, unknown), key));
    let best = rated.max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(likeness, _)| least <= *likeness)
        .map(|(_, key)| key)
}

/// From 0 to 1; 1 is the same.
fn likeness(key: &str, unknown: &str) -> f64 {
    if unknown.len() < LENGTH_MIN {
        return 0.0;
    }
    let unknown = unknown.to_ascii_lowercase().replace('-', "_");
    // `idle_timeout` for `idle_timeout_secs`, `upstreams` for `upstream`
    let is_prefix = key.starts_with(&unknown) || unknown.starts_with(key);
    strsim::jaro_winkler(&unknown, key).max(if is_prefix { 0.9 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn check(block: &str, unknown: &str, meant: Option<&str>) {
        assert_eq!(nearest(block, unknown), meant, "{unknown}");
    }

    #[test]
    fn a_mistyped_key_leads_to_the_one_meant() {
        check("", "lisen", Some("listen"));
        check("", "upstreams", Some("upstream"));
        check("", "Listen", Some("listen"));
        check("", "admin-listen", Some("admin_listen"));
        check("limits", "max_conections", Some("max_connections"));
        check("limits", "idle_timeout", Some("idle_timeout_secs"));
        check("upstream[]", "wieght", Some("weight"));
    }

    #[test]
    fn a_key_like_no_other_gets_no_suggestion() {
        check("", "x-anchors", None);
        check("", "<<", None);
        check("", "a", None);
        check("", "", None);
    }

    #[test]
    fn a_key_in_the_wrong_block_is_told_where_it_belongs() {
        check("", "workers", Some("limits.workers"));
        check("", "max_conections", Some("limits.max_connections"));
        check("limits", "weight", Some("upstream[].weight"));
        check("limits", "via", Some("via"));
    }

    #[test]
    fn the_timeouts_that_are_asked_about_are_keys() {
        let named: Vec<_> = WHICH_TIMEOUT.split('`').skip(1).step_by(2).collect();
        assert_eq!(named.len(), 7);
        for name in named {
            assert!(KEYS.iter().any(|key| key.path == name), "{name}");
        }
    }

    #[test]
    fn a_key_has_one_row_and_stands_in_a_block_that_has_one() {
        let paths: HashSet<_> = KEYS.iter().map(|key| key.path).collect();
        assert_eq!(paths.len(), KEYS.len());
        let blocks: HashSet<_> = KEYS
            .iter()
            .filter_map(|key| match key.kind {
                Block(block) | SwitchOrBlock(block) | Blocks(block) => Some(block),
                Text(_)
                | Word(_)
                | Switch
                | Number(..)
                | Seconds(_)
                | Texts
                | KeyKind::Anything => None,
            })
            .collect();
        for key in KEYS {
            let (block, _) = key.split();
            assert!(block.is_empty() || blocks.contains(block), "{}", key.path);
        }
        for block in blocks {
            assert!(paths.contains(block.trim_end_matches("[]")), "{block}");
            assert!(in_block(block).next().is_some(), "{block}");
        }
    }

    #[test]
    fn a_default_is_one_of_the_values_that_may_be_written() {
        for Key {
            path,
            kind,
            default,
            ..
        } in KEYS
        {
            let fits = match kind {
                Number(least, most) => (*least..=*most).contains(&default.parse().unwrap()),
                Seconds(least) => *least <= default.parse().unwrap(),
                Switch | SwitchOrBlock(_) => default.parse::<bool>().is_ok(),
                Word(words) => words.iter().any(|word| bare(word) == *default),
                Texts | Text(_) | Blocks(_) | Block(_) => true,
                KeyKind::Anything => false,
            };
            assert!(fits, "{path}: {default}");
        }
    }
}
