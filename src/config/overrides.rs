//! Settings from outside the file: environment variables, and options of the command line.
//!
//! A variable has the name of its key: `HTTP_PROXY_LB_`, then the path in capitals, with `_` for the
//! dots. So every key that is no block has one without a list of its own; the pool alone is written
//! otherwise, as URLs. The options are a few of the keys again, one row each in [`OPTIONS`].
//!
//! A setting takes the place of what the file says before anything is read from it. So it is checked
//! as a value of the file is, and what is wrong with it is told with the name of the variable or option
//! where a line of the file would be.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::path;

use percent_encoding::percent_decode_str;

use super::findings::{Findings, Notice, Severity, whole_file};
use super::keys::{KEYS, Key, KeyKind};
use super::raw::{OUTSIDE, YamlValue};
use super::urls;

/// What the name of each variable begins with.
const PREFIX: &str = "HTTP_PROXY_LB_";

/// The variable with the path of the file.
pub const CONFIG: &str = "HTTP_PROXY_LB_CONFIG";
/// The variable with the level of the log.
pub const LOG_LEVEL: &str = "HTTP_PROXY_LB_LOG_LEVEL";

/// The key of the pool, which settings write as URLs.
const POOL: &str = "upstream";
/// The variable of the pool: it has all of its URLs.
const UPSTREAMS: &str = "HTTP_PROXY_LB_UPSTREAMS";

/// An unknown variable less like a known one than this (0 to 1) is left without a suggestion.
const LIKENESS_MIN: f64 = 0.9;

/// Two ways to set one thing: either of them takes the place of both.
const ALTERNATIVES: [(&str, &str); 2] = [
    ("admin_token", "admin_token_file"),
    ("admin_token_file", "admin_token"),
];

/// An option that sets a key.
#[derive(Debug)]
pub struct KeyOption {
    /// The path of the key.
    pub key: &'static str,
    /// Without the dashes in front.
    pub name: &'static str,
    /// What the help calls its value.
    pub value_name: &'static str,
    /// What the help says of it.
    pub help: &'static str,
}

/// The keys that have an option. Others have their variable.
#[rustfmt::skip]
pub static OPTIONS: &[KeyOption] = &[
    KeyOption { key: "listen", name: "listen", value_name: "ADDRESS", help: "Where clients connect, as 127.0.0.1:8080. With --upstream no file is needed" },
    KeyOption { key: POOL, name: POOL, value_name: "URL", help: "An upstream, as http://host:port or http://user:password@host:port; once for each" },
    KeyOption { key: "mode", name: "mode", value_name: "MODE", help: "How an upstream is chosen: round_robin, best or priority" },
    KeyOption { key: "access.allow", name: "access-allow", value_name: "NETWORKS", help: "Who may use this proxy, as 10.0.0.0/8,192.0.2.7" },
    KeyOption { key: "admin_listen", name: "admin-listen", value_name: "ADDRESS", help: "Where the admin endpoints are, as 127.0.0.1:9090" },
    KeyOption { key: "admin_token_file", name: "admin-token-file", value_name: "PATH", help: "The file with the token that they want" },
];

/// One key, set outside the file.
#[derive(Clone, PartialEq, Eq)]
struct Setting {
    /// The variable or option, as messages name it.
    name: String,
    key: &'static str,
    values: Vec<String>,
}

/// What the environment and the command line set. Its `Debug` shows no value: some are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    variables: Vec<Setting>,
    options: Vec<Setting>,
    /// Variables that set nothing, and what to say of them.
    complaints: Vec<(String, Severity, String)>,
}

impl fmt::Debug for Overrides {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.names()).finish()
    }
}

impl Overrides {
    /// Takes from `environment` the variables that set a key. An empty one counts as absent, as
    /// containers are given them.
    pub fn of_environment(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut found = Self::default();
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            if !value.is_empty() && name != CONFIG && name != LOG_LEVEL {
                found.take(name, value);
            }
        }
        // in the order of the table, whatever that of the environment is
        let position = |setting: &Setting| KEYS.iter().position(|key| key.path == setting.key);
        found.variables.sort_unstable_by_key(position);
        found.complaints.sort_unstable();
        found
    }

    fn take(&mut self, name: &str, value: OsString) {
        let key = keys_set().find(|key| variable(key.path) == name);
        let (severity, said) = match (key, value.into_string()) {
            (Some(key), Ok(value)) => {
                return self.variables.push(Setting {
                    name: name.to_owned(),
                    key: key.path,
                    values: vec![value],
                });
            }
            (Some(_), Err(_)) => (Severity::Error, "is no UTF-8 text".to_owned()),
            (None, value) => {
                if value.is_ok_and(|value| is_of_kubernetes(name, &value)) {
                    return;
                }
                let said = match nearest(name) {
                    Some(near) => format!("unknown variable, ignored; did you mean {near}?"),
                    None => "unknown variable, ignored".to_owned(),
                };
                (Severity::Advice, said)
            }
        };
        self.complaints.push((name.to_owned(), severity, said));
    }

    /// Adds what an option says; it goes before a variable for the same key.
    pub fn add_option(&mut self, option: &KeyOption, values: Vec<String>) {
        self.options.push(Setting {
            name: format!("--{}", option.name),
            key: option.key,
            values,
        });
    }

    /// Whether the key with this path is set.
    pub(super) fn set(&self, key: &str) -> bool {
        self.settings().any(|setting| setting.key == key)
    }

    /// The variables and options that set something and are not set aside by an option.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let settings = self.settings().filter(|setting| !self.is_aside(setting));
        settings.map(|setting| setting.name.as_str())
    }

    /// Whether it is a variable for the key of an option.
    fn is_aside(&self, setting: &Setting) -> bool {
        let same = |option: &Setting| option.key == setting.key && option.name != setting.name;
        self.options.iter().any(same)
    }

    fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.variables.iter().chain(&self.options)
    }

    /// What a place with the number [`OUTSIDE`] plus the position is called: the variable or option,
    /// and its key.
    pub(super) fn places(&self) -> Vec<(String, &'static str)> {
        let settings = self.settings();
        let places = settings.map(|setting| (setting.name.clone(), setting.key));
        let complained = self.complaints.iter();
        places
            .chain(complained.map(|(name, ..)| (name.clone(), "")))
            .collect()
    }

    /// What is to be said of variables that set nothing, where there is no file to be checked with them.
    pub(super) fn mistaken(&self) -> impl Iterator<Item = Notice> {
        let complained = self.complaints.iter();
        complained.map(|(name, _, said)| whole_file(Severity::Error, name, said.as_str()))
    }

    /// Puts the settings into the tree of the file, and notes what is wrong with those that cannot be.
    pub(super) fn apply(&self, tree: &mut YamlValue, findings: &Findings) {
        let mut number = OUTSIDE;
        for source in [&self.variables, &self.options] {
            for setting in source {
                let other = ALTERNATIVES.iter().find(|(key, _)| *key == setting.key);
                if let (Some((_, other)), YamlValue::Map(entries)) = (other, &mut *tree) {
                    entries.retain(|(_, key, _)| key != other);
                }
            }
            for setting in source {
                if !self.is_aside(setting) {
                    let value = setting.value(number, findings);
                    put(tree, KeyKind::Block(""), setting.key, number, value);
                }
                number += 1;
            }
        }
        for (_, severity, said) in &self.complaints {
            findings.outside(number, "").note(*severity, said.clone());
            number += 1;
        }
    }
}

/// The variable that sets the key with this path.
pub fn variable(key: &str) -> String {
    if key == POOL {
        UPSTREAMS.to_owned()
    } else {
        format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
    }
}

/// The keys that have a variable: those with a value of their own, and the pool.
pub fn keys_set() -> impl Iterator<Item = &'static Key> {
    let is_value = |kind| !matches!(kind, KeyKind::Block(_) | KeyKind::Blocks(_));
    KEYS.iter()
        .filter(move |key| key.path == POOL || (is_value(key.kind) && !key.path.contains("[]")))
}

/// Whether Kubernetes sets this variable in every container, for a service of our name.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_") && name.contains(|letter: char| letter.is_ascii_digit())
        || name.ends_with("_PORT") && value.contains("://")
}

/// The variable that was probably meant.
fn nearest(unknown: &str) -> Option<String> {
    let known = keys_set().map(|key| variable(key.path));
    let known = known.chain([CONFIG.to_owned(), LOG_LEVEL.to_owned()]);
    let behind = |name: &str| name.trim_start_matches(PREFIX).to_owned();
    let rated = known.map(|name| (strsim::jaro_winkler(&behind(&name), &behind(unknown)), name));
    let best = rated.max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(likeness, _)| LIKENESS_MIN <= *likeness)
        .map(|(_, name)| name)
}

impl Setting {
    /// The value as the file would have it; every part of it has the number of the setting.
    fn value(&self, number: u32, findings: &Findings) -> YamlValue {
        let last = || self.values.last().cloned().unwrap_or_default();
        let kind = KEYS.iter().find(|key| key.path == self.key);
        match kind.map_or(KeyKind::Anything, |key| key.kind) {
            // the folder of the file is nothing that a shell knows of
            KeyKind::Text("path") => YamlValue::Text(
                path::absolute(last())
                    .map_or_else(|_empty| last(), |path| path.display().to_string()),
            ),
            KeyKind::Text(_) | KeyKind::Word(_) => YamlValue::Text(last()),
            KeyKind::Texts => {
                let texts = self.elements().map(|text| YamlValue::Text(text.to_owned()));
                YamlValue::List(texts.map(|text| (number, text)).collect())
            }
            KeyKind::Blocks(_) => {
                let upstreams = self.elements().enumerate().filter_map(|(position, url)| {
                    let upstream = upstream(url, number);
                    if upstream.is_none() {
                        findings
                            .outside(number, &format!("{POOL}[{position}].url"))
                            .error(
                                "write the `/`, `?` and `#` of a user or password as %2F, %3F and %23",
                            );
                    }
                    Some((number, upstream?))
                });
                YamlValue::List(upstreams.collect())
            }
            KeyKind::Switch
            | KeyKind::SwitchOrBlock(_)
            | KeyKind::Number(..)
            | KeyKind::Seconds(_)
            | KeyKind::Block(_)
            | KeyKind::Anything => scalar(last()),
        }
    }

    /// What stands between commas and blanks.
    fn elements(&self) -> impl Iterator<Item = &str> {
        let is_between = |letter: char| letter == ',' || letter.is_whitespace();
        let words = self
            .values
            .iter()
            .flat_map(move |text| text.split(is_between));
        words.filter(|word| !word.is_empty())
    }
}

/// A word as YAML reads it: `true`, `5`, `0.5`, or a text.
fn scalar(word: String) -> YamlValue {
    if let Ok(switch) = word.parse::<bool>() {
        YamlValue::Bool(switch)
    } else if let Ok(number) = word.parse::<i64>() {
        YamlValue::Integer(number)
    } else if let Ok(number) = word.parse::<f64>() {
        YamlValue::Float(number)
    } else {
        YamlValue::Text(word)
    }
}

/// The block of an upstream. What stands before the `@` of its URL, percent-decoded, is its `username`
/// and `password`; nothing, where an `@` stands behind the host.
fn upstream(url: &str, number: u32) -> Option<YamlValue> {
    let (scheme, authority, rest) = urls::split(url);
    if rest.contains('@') {
        return None;
    }
    let (userinfo, host) = match authority.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    let scheme = scheme
        .map(|scheme| format!("{scheme}://"))
        .unwrap_or_default();
    let mut keys = vec![("url", format!("{scheme}{host}{rest}"))];
    if let Some(userinfo) = userinfo {
        let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        keys.push(("username", decoded(username)));
        keys.push(("password", decoded(password)));
    }
    let entry = |(key, value): (&str, String)| (number, key.to_owned(), YamlValue::Text(value));
    Some(YamlValue::Map(keys.into_iter().map(entry).collect()))
}

/// `part` of a URL, percent-decoded.
pub(super) fn decoded(part: &str) -> String {
    let decoded = percent_decode_str(part).decode_utf8();
    decoded.map_or_else(|_no_text| part.to_owned(), Cow::into_owned)
}

/// Puts `value` at the place of `key` in a block of this kind, with all blocks on the way there. A switch in
/// the place of a block is replaced by one. Any other mistake there stays, for the check that tells of it:
/// it may have been meant to be a rule of access.
fn put(tree: &mut YamlValue, kind: KeyKind, key: &str, number: u32, value: YamlValue) {
    if *tree == YamlValue::Null {
        *tree = YamlValue::Map(Vec::new());
    }
    let YamlValue::Map(entries) = tree else {
        return;
    };
    let Some((block, below)) = key.split_once('.') else {
        entries.retain(|(_, name, _)| name != key);
        entries.push((number, key.to_owned(), value));
        return;
    };
    let kind = kind.below(block);
    if let KeyKind::SwitchOrBlock(_) = kind {
        entries.retain(|(_, name, value)| name != block || !matches!(value, YamlValue::Bool(_)));
    }
    if let Some((.., inner)) = entries.iter_mut().find(|(_, name, _)| name == block) {
        put(inner, kind, below, number, value);
    } else {
        let mut inner = YamlValue::Null;
        put(&mut inner, kind, below, number, value);
        entries.push((number, block.to_owned(), inner));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::ffi::OsStringExt;
    use std::path::Path;

    use super::*;
    use crate::config::checked::Config;
    use crate::config::root::{self, Given};
    use crate::config::secret::Files;
    use crate::protocol::credentials::Credentials;

    fn of(variables: &[(&str, &str)]) -> Overrides {
        let owned = |(name, value): &(&str, &str)| (name.into(), value.into());
        Overrides::of_environment(variables.iter().map(owned))
    }

    fn with_option(overrides: &mut Overrides, name: &str, values: &[&str]) {
        let option = OPTIONS.iter().find(|option| option.name == name).unwrap();
        let values = values.iter().map(|value| (*value).to_owned());
        overrides.add_option(option, values.collect());
    }

    /// What comes of a file and these settings: a configuration, and all messages.
    fn load(text: &str, overrides: &Overrides) -> (Option<Config>, String) {
        let given = Given {
            path: Path::new("c.yaml"),
            text,
            mode: Some(0o644),
            is_mounted: false,
            overrides,
            environment: &|_name| None,
        };
        match root::check(&given, &mut Files::beside(given.path)) {
            Ok(config) => {
                let said: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
                (Some(config), said.join("\n"))
            }
            Err(errors) => (None, errors.to_string()),
        }
    }

    fn clean(text: &str, overrides: &Overrides) -> Config {
        let (config, said) = load(text, overrides);
        assert_eq!(said, "");
        config.unwrap()
    }

    /// One message, which begins with this.
    fn check_said(variables: &[(&str, &str)], wanted: &str) {
        let (_, said) = load(FILE, &of(variables));
        assert!(said.starts_with(wanted), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    const FILE: &str = "listen: 127.0.0.1:1\nlimits: {workers: 5, queue: 6}\nupstream: [{url: \
                        'http://file.test', weight: 7}]\n";

    #[test]
    fn every_key_with_a_value_has_a_variable_of_its_own() {
        let names: HashSet<String> = keys_set().map(|key| variable(key.path)).collect();
        assert_eq!(names.len(), keys_set().count());
        assert!(names.contains("HTTP_PROXY_LB_LIMITS_MAX_CONNECTIONS_PER_CLIENT"));
        assert!(!names.contains(CONFIG) && !names.contains(LOG_LEVEL));
        for option in OPTIONS {
            assert!(
                keys_set().any(|key| key.path == option.key),
                "{}",
                option.key
            );
        }
    }

    #[test]
    fn an_option_goes_before_a_variable_and_that_before_the_file() {
        let mut overrides = of(&[
            ("HTTP_PROXY_LB_LISTEN", "127.0.0.1:2"),
            ("HTTP_PROXY_LB_LIMITS_WORKERS", "50"),
            ("HTTP_PROXY_LB_UPSTREAMS", "http://variable.test:1"),
        ]);
        with_option(&mut overrides, "listen", &["127.0.0.1:3"]);
        let config = clean(FILE, &overrides);
        assert_eq!(config.listen.to_string(), "127.0.0.1:3");
        assert_eq!(config.values["limits.workers"], "50 requests");
        assert_eq!(config.values["limits.queue"], "6 requests");
        let names: Vec<_> = config.upstreams.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["variable.test:1"]);
        let said: Vec<_> = overrides.names().collect();
        let wanted = [
            "HTTP_PROXY_LB_LIMITS_WORKERS",
            "HTTP_PROXY_LB_UPSTREAMS",
            "--listen",
        ];
        assert_eq!(said, wanted);
    }

    #[test]
    fn each_kind_of_value_is_read_as_in_the_file() {
        let config = clean(
            "",
            &of(&[
                ("HTTP_PROXY_LB_LISTEN", "127.0.0.1:2"),
                (
                    "HTTP_PROXY_LB_UPSTREAMS",
                    "http://a.test, http://b.test\nhttp://c.test",
                ),
                ("HTTP_PROXY_LB_ACCESS_ALLOW", "10.0.0.0/8,192.0.2.7"),
                ("HTTP_PROXY_LB_ACCESS_LOG_FORMAT", "json"),
                ("HTTP_PROXY_LB_RELOAD_INTERVAL_SECS", "0.5"),
                ("HTTP_PROXY_LB_VIA", "true"),
                ("HTTP_PROXY_LB_MODE", "best"),
                ("HTTP_PROXY_LB_ADMIN_LISTEN", ""),
            ]),
        );
        assert_eq!(config.upstreams.len(), 3);
        assert_eq!(config.access.allow.to_string(), "10.0.0.0/8, 192.0.2.7");
        assert!(config.access_log.is_some());
        assert_eq!(config.values["reload_interval_secs"], "0.5 s");
        assert_eq!(config.values["mode"], "best");
        assert!(config.admin_listen.is_none());
    }

    #[test]
    fn a_format_of_the_access_log_takes_the_place_of_a_switch() {
        let json = of(&[("HTTP_PROXY_LB_ACCESS_LOG_FORMAT", "json")]);
        let config = clean(&format!("{FILE}access_log: true\n"), &json);
        assert_eq!(config.values["access_log.format"], "json");
    }

    /// A file that is refused without the variable is refused with it: the rule would be lost.
    #[test]
    fn a_setting_below_a_mistaken_block_does_not_hide_the_mistake() {
        let ports = of(&[("HTTP_PROXY_LB_ACCESS_CONNECT_PORTS", "443")]);
        for access in [
            "10.0.0.0/8",
            "[{allow: [10.0.0.0/8]}]",
            "false",
            "'${NONE}'",
            "!include access.yaml",
        ] {
            let (config, said) = load(&format!("{FILE}access: {access}\n"), &ports);
            assert!(config.is_none(), "{access}");
            assert!(said.starts_with("c.yaml:4: access: "), "{said}");
        }
        let config = clean(&format!("{FILE}access:\n"), &ports);
        assert_eq!(config.access.connect_ports, [443..=443]);
    }

    #[test]
    fn the_user_of_a_url_is_that_of_the_upstream_and_no_message_shows_the_password() {
        let urls = "http://ann:p%40ss%2C@a.test:1,http://bob@b.test,c:d@c.test:3";
        let overrides = of(&[("HTTP_PROXY_LB_UPSTREAMS", urls)]);
        let (config, said) = load(FILE, &overrides);
        let upstreams = config.unwrap().upstreams;
        let wanted = [("ann", "p@ss,"), ("bob", ""), ("c", "d")];
        for (upstream, (user, password)) in upstreams.iter().zip(wanted) {
            assert_eq!(
                upstream.credentials,
                Some(Credentials::basic(user, password))
            );
        }
        assert_eq!(upstreams[0].name, "a.test:1");
        let wanted = "HTTP_PROXY_LB_UPSTREAMS: upstream[2].url: the scheme is missing, read as \
                      `http://c.test:3`: write that";
        assert_eq!(said, wanted);
        assert!(!format!("{overrides:?}").contains("ss"));
        let wanted =
            "HTTP_PROXY_LB_UPSTREAMS: upstream[0].url: write the `/`, `?` and `#` of a user";
        for url in ["http://a:80/x@b.test", "http://ann:pa?ss@b.test:1"] {
            check_said(&[("HTTP_PROXY_LB_UPSTREAMS", url)], wanted);
        }
    }

    #[test]
    fn a_mistake_is_told_with_the_name_of_the_variable_or_option() {
        for (name, value, said) in [
            ("LISTEN", "8080", "the address or the port is missing"),
            ("LIMITS_WORKERS", "many", "`many` is no number"),
            ("MODE", "fastest", "`fastest` is not known"),
            ("VIA", "yes", "expected `true` or `false`"),
            ("ACCESS_ALLOW", "10.0.0.0/8 x", "access.allow[1]: "),
            (
                "UPSTREAMS",
                "socks4://a.test",
                "upstream[0].url: `socks4` is not spoken",
            ),
            ("ADMIN_TOKEN", "short", ""),
            (
                "LISTN",
                "127.0.0.1:2",
                "unknown variable, ignored; did you mean HTTP_PROXY_LB_LISTEN?",
            ),
            (
                "UPSTREAM",
                "http://a.test",
                "unknown variable, ignored; did you mean HTTP_PROXY_LB_UPSTREAMS?",
            ),
            ("X", "1", "unknown variable, ignored"),
        ] {
            let name = format!("HTTP_PROXY_LB_{name}");
            let admin = ("HTTP_PROXY_LB_ADMIN_LISTEN", "127.0.0.1:9");
            check_said(&[(&name, value), admin], &format!("{name}: {said}"));
        }
        let mut overrides = Overrides::default();
        with_option(
            &mut overrides,
            "upstream",
            &["http://a.test", "socks4://b.test"],
        );
        let (_, said) = load(FILE, &overrides);
        assert!(
            said.starts_with("--upstream: upstream[1].url: `socks4` is not"),
            "{said}"
        );
    }

    #[test]
    fn a_value_that_is_no_text_is_an_error() {
        let bytes = OsString::from_vec(vec![b'x', 0xff]);
        let overrides = Overrides::of_environment([("HTTP_PROXY_LB_LISTEN".into(), bytes)]);
        let (_, said) = load(FILE, &overrides);
        assert_eq!(said, "HTTP_PROXY_LB_LISTEN: is no UTF-8 text");
    }

    #[test]
    fn what_kubernetes_says_of_a_service_of_our_name_is_not_about_us() {
        clean(
            FILE,
            &of(&[
                ("HTTP_PROXY_LB_SERVICE_HOST", "10.0.0.1"),
                ("HTTP_PROXY_LB_SERVICE_PORT_PROXY", "8080"),
                ("HTTP_PROXY_LB_PORT", "tcp://10.0.0.1:8080"),
                ("HTTP_PROXY_LB_PORT_8080_TCP_ADDR", "10.0.0.1"),
                ("HTTP_PROXY_LB_ADMIN_PORT", "tcp://10.0.0.2:9090"),
            ]),
        );
        check_said(
            &[("HTTP_PROXY_LB_PORT", "8080")],
            "HTTP_PROXY_LB_PORT: unknown variable",
        );
    }

    #[test]
    fn one_way_to_the_token_takes_the_place_of_the_other() {
        let file = format!("{FILE}admin_listen: 127.0.0.1:2\nadmin_token_file: /nonexistent\n");
        let token = ("HTTP_PROXY_LB_ADMIN_TOKEN", "0123456789abcdef");
        let config = clean(&file, &of(&[token]));
        assert!(config.admin_token.is_some());
        let (_, said) = load(
            &file,
            &of(&[token, ("HTTP_PROXY_LB_ADMIN_TOKEN_FILE", "/nonexistent")]),
        );
        let wanted = "HTTP_PROXY_LB_ADMIN_TOKEN_FILE: `admin_token` is there, too";
        assert!(said.starts_with(wanted), "{said}");
    }

    #[test]
    fn a_secret_from_outside_is_none_that_the_file_holds() {
        let url = "http://ann:secret@a.test";
        clean(FILE, &of(&[("HTTP_PROXY_LB_UPSTREAMS", url)]));
    }

    #[test]
    fn a_file_that_is_no_block_of_keys_stays_a_mistake() {
        let (_, said) = load("- a\n", &of(&[("HTTP_PROXY_LB_LISTEN", "127.0.0.1:1")]));
        assert!(
            said.starts_with("c.yaml: expected a block of keys"),
            "{said}"
        );
    }
}
