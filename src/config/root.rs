//! The keys at the top of the file, and the way through all of it.

use std::collections::BTreeMap;
use std::mem;
use std::path::Path;
use std::sync::Arc;

use crate::balance::pick::BalanceMode;
use crate::balance::told::Part;
use crate::balance::upstream::UpstreamSpec;
use crate::protocol::forwarded::ForwardedField;
use crate::protocol::request_id::FieldName;

use super::access::{AccessRules, AddressList};
use super::advice;
use super::checked::{
    AccessLogFormat, AccessLogSettings, AdminAccess, Config, LogFormat, MetricsSettings,
};
use super::exits::{RestRule, Sticky};
use super::findings::{ConfigErrors, Findings};
use super::health::HealthCheck;
use super::limits::{Limits, unless_zero};
use super::listen::ListenAddress;
use super::overrides::Overrides;
use super::raw::{self, YamlValue};
use super::reader::{KeyBlock, Located, mismatch, quote};
use super::rules;
use super::secret::{self, Files, Secret};
use super::upstreams;
use super::variables::Environment;

/// A token shorter than this can be guessed, in bytes.
const TOKEN_SHORT: usize = 16;

/// What is checked.
pub(super) struct Given<'g> {
    /// The file. Other paths in it are meant from its folder on.
    pub(super) path: &'g Path,
    pub(super) text: &'g str,
    /// The permission bits, where it is a file.
    pub(super) mode: Option<u32>,
    /// Whether it is mounted by itself, without its folder.
    pub(super) is_mounted: bool,
    pub(super) overrides: &'g Overrides,
    /// Has the values of the variables that the text names.
    pub(super) environment: Environment<'g>,
}

/// Where the admin server is, and the token that it wants, as far as the file says so that may be wrong elsewhere; and
/// what is wrong. `files` are without the lists.
pub(super) fn admin(given: &Given<'_>, files: &mut Files) -> Result<AdminAccess, ConfigErrors> {
    let (_, tree, findings) = open(given)?;
    let item = Located {
        place: findings.file(),
        value: &tree,
    };
    let root = KeyBlock::open(item, "");
    let listen = read_admin_listen(&root);
    let token = read_token(&mut Files::beside(given.path), &root);
    Ok(AdminAccess {
        listen,
        token,
        mistakes: check(given, files).err(),
    })
}

/// The text, what it says with what takes the place of its values, and what to note mistakes with.
fn open<'g>(given: &Given<'g>) -> Result<(&'g str, YamlValue, Findings), ConfigErrors> {
    let file = given.path.display().to_string();
    let text = given.text.strip_prefix('\u{feff}').unwrap_or(given.text);
    let (mut tree, variables) = raw::parse(text, given.environment)
        .map_err(|error| ConfigErrors::about_file(&file, error.line, error.text))?;
    let findings = Findings::of(variables, given.overrides.places());
    given.overrides.apply(&mut tree, &findings);
    Ok((text, tree, findings))
}

/// Checks the text of a file to its end, with what takes the place of its values and the files that it names.
pub(super) fn check(given: &Given<'_>, files: &mut Files) -> Result<Config, ConfigErrors> {
    let file = given.path.display().to_string();
    let (text, tree, findings) = open(given)?;
    if given.is_mounted {
        findings.file().advice(
            "this file is mounted by itself, so an edit that puts a new file in its place is not \
             seen here: mount its folder, or restart after an edit",
        );
    }
    files.saw(text);
    let item = Located {
        place: findings.file(),
        value: &tree,
    };
    let config = read(files, &KeyBlock::open(item, ""));
    if files.has_inline_secret
        && let Some(advice) = given.mode.and_then(secret::advice_for_config)
    {
        findings.file().advice(advice);
    }
    let values = findings.values.take();
    let access_log_place = findings.access_log_place(&file, text);
    let origins = findings.origins.take();
    let warnings = findings.conclude(&file, text)?;
    match config {
        Some(config) => Ok(Config {
            access_log_place,
            values,
            origins,
            warnings,
            fingerprint: files.fingerprint(),
            lists: mem::take(&mut files.lists),
            ..config
        }),
        // whatever could not be read left an error behind
        None => Err(ConfigErrors { errors: warnings }),
    }
}

fn read(files: &mut Files, root: &KeyBlock<'_>) -> Option<Config> {
    let listen = read_listen(root);
    let admin_listen = read_admin_listen(root);
    let admin_token = read_token(files, root);
    let mode = match root.word("mode") {
        "best" => BalanceMode::Best,
        "priority" => BalanceMode::Priority,
        _ => BalanceMode::RoundRobin,
    };
    let reload_interval = unless_zero(root.seconds("reload_interval_secs"));
    let access_log = read_access_log(files, root);
    let log_format = match root.block("log").word("format") {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    };
    let request_id = read_request_id(root);
    let via = root.switch("via");
    let forwarded = read_forwarded(root);
    let health = HealthCheck::read(&root.block("health_check"));
    let limits = Limits::read(&root.block("limits"));
    let block = root.block("access");
    let access = AccessRules::read(files, &block);
    let proxy_protocol = read_proxy_protocol(root, &block);
    let sticky = Sticky::read(&root.block("sticky"), &access);
    let rest = RestRule::read(root);
    let upstreams = upstreams::read(files, root);
    let told_parts = read_told_parts(root, &upstreams, &access);
    let (rules, rule_words) = rules::read(files, root, &upstreams, &access);
    let config = Config {
        listen: listen?,
        admin_listen,
        admin_token,
        mode,
        reload_interval,
        access_log,
        access_log_place: None,
        log_format,
        request_id,
        metrics: read_metrics(root),
        via,
        forwarded,
        proxy_protocol,
        health: health?,
        limits,
        rules: Arc::new(rules),
        rule_words,
        access,
        told_parts,
        sticky,
        rest,
        upstreams,
        lists: BTreeMap::new(),
        values: BTreeMap::new(),
        origins: BTreeMap::new(),
        warnings: Vec::new(),
        fingerprint: 0,
    };
    advice::give(root, &config);
    Some(config)
}

fn read_listen(root: &KeyBlock<'_>) -> Option<ListenAddress> {
    if root.item("listen").is_none() {
        root.place_of("listen").error(
            "required: write `listen: 127.0.0.1:8080` for clients on this machine, or \
             `listen: 0.0.0.0:8080` for the network",
        );
    }
    ListenAddress::read(&root.text("listen")?)
}

fn read_admin_listen(root: &KeyBlock<'_>) -> Option<ListenAddress> {
    let written = root.text("admin_listen");
    written.and_then(|written| ListenAddress::read(&written))
}

fn read_token(files: &mut Files, root: &KeyBlock<'_>) -> Option<Secret> {
    let Located { place, value } = files.secret(root, "admin_token")?;
    let token = value?;
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        place.error("a token is sent in a header: write visible ASCII characters without spaces");
        return None;
    }
    if token.len() < TOKEN_SHORT {
        place.advice(format!(
            "shorter than {TOKEN_SHORT} characters, so it can be guessed"
        ));
    }
    Some(Secret::new(token))
}

fn read_access_log(files: &Files, root: &KeyBlock<'_>) -> Option<AccessLogSettings> {
    let item = root.item("access_log")?;
    match item.value {
        YamlValue::Bool(false) => None,
        YamlValue::Bool(true) => Some(AccessLogSettings::default()),
        YamlValue::Map(_) => {
            let block = root.block("access_log");
            let format = match block.word("format") {
                "json" => AccessLogFormat::Json,
                "combined" => AccessLogFormat::Combined,
                _ => AccessLogFormat::Text,
            };
            let file = block.text("file").map(|path| {
                path.place.names_access_log();
                files.resolve(path.value)
            });
            Some(AccessLogSettings {
                format,
                file,
                query: block.switch("query"),
            })
        }
        YamlValue::Null
        | YamlValue::Integer(_)
        | YamlValue::Float(_)
        | YamlValue::Text(_)
        | YamlValue::List(_)
        | YamlValue::Unusable(_) => {
            let wanted = "`true`, `false`, or a block like `{format: json, file: PATH}`";
            mismatch(&item.place, item.value, wanted, "");
            None
        }
    }
}

/// What user names hold: that of a user wants users.
fn read_told_parts(
    root: &KeyBlock<'_>,
    upstreams: &[UpstreamSpec],
    access: &AccessRules,
) -> Vec<Part> {
    let telling = |part| upstreams.iter().find(|one| one.told.has(part));
    if let (Some(upstream), true) = (telling(Part::User), access.users.is_empty()) {
        root.place_of("upstream").error(format!(
            "the user name for {} has `{{user}}` in it, and without `access.users` nobody is a user: list users, or \
             write `{{session}}` or `{{client}}`",
            upstream.name
        ));
    }
    let mut passing = upstreams.iter().filter(|one| one.told.passes_credentials);
    if let (Some(upstream), false) = (passing.next(), access.users.is_empty()) {
        root.place_of("upstream").error(format!(
            "the credentials of clients are for this proxy, which wants those of `access.users`, and cannot be for {}, \
             too (`credentials: client`): remove one of the two",
            upstream.name
        ));
    }
    let parts = Part::ALL.map(|(_, part)| part).into_iter();
    parts.filter(|part| telling(*part).is_some()).collect()
}

fn read_forwarded(root: &KeyBlock<'_>) -> Option<ForwardedField> {
    match root.word("forwarded") {
        "x_forwarded_for" => Some(ForwardedField::XForwardedFor),
        "forwarded" => Some(ForwardedField::Forwarded),
        _ => None,
    }
}

fn read_metrics(root: &KeyBlock<'_>) -> MetricsSettings {
    MetricsSettings {
        per_upstream: root.block("metrics").switch("per_upstream"),
    }
}

fn read_request_id(root: &KeyBlock<'_>) -> Option<FieldName> {
    let Located { place, value } = root.text("request_id")?;
    let name = FieldName::new(value);
    if name.is_none() {
        place.error(format!(
            "{} cannot carry it: write the name of a field of its own, like X-Request-Id",
            quote(value)
        ));
    }
    name
}

fn read_proxy_protocol(root: &KeyBlock<'_>, access: &KeyBlock<'_>) -> Option<AddressList> {
    let wanted = root.switch("listen_proxy_protocol");
    let from = AddressList::read(access, "proxy_protocol_from");
    match (wanted, from) {
        (true, Some(from)) if !from.is_empty() => Some(from),
        (true, _) => {
            root.place_of("listen_proxy_protocol").error(
                "whoever may send a PROXY header may claim any address: name the networks of \
                 your balancer in `access.proxy_protocol_from`",
            );
            None
        }
        (false, Some(_)) => {
            access
                .place_of("proxy_protocol_from")
                .advice("has no effect without `listen_proxy_protocol: true`");
            None
        }
        (false, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::config::findings::Severity;
    use crate::config::keys::{self, KEYS, Key, KeyKind};
    use crate::config::parse;
    use crate::protocol::credentials::Credentials;

    const SMALLEST: &str = "listen: 127.0.0.1:8080\nupstream: [{url: 'http://p.test'}]\n";

    /// The configuration of a file that has nothing to complain about.
    fn clean(text: &str) -> Config {
        let config = parse(text, "c.yaml").unwrap();
        assert_eq!(said(&config), "", "{text}");
        config
    }

    fn said(config: &Config) -> String {
        config
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Every line of `wanted` begins a line of the errors, in this order.
    fn check_errors(text: &str, wanted: &[&str]) {
        let errors = parse(text, "c.yaml").unwrap_err().to_string();
        let lines: Vec<_> = errors.lines().collect();
        assert_eq!(lines.len(), wanted.len(), "{errors}");
        for (line, wanted) in lines.iter().zip(wanted) {
            assert!(line.starts_with(wanted), "{line}");
        }
    }

    /// The file can be used; the only notice begins with `wanted`.
    fn check_notice(text: &str, severity: Severity, wanted: &str) -> Config {
        let config = parse(text, "c.yaml").unwrap();
        assert_eq!(config.warnings.len(), 1, "{}", said(&config));
        assert_eq!(config.warnings[0].severity, severity);
        assert!(said(&config).starts_with(wanted), "{}", said(&config));
        config
    }

    fn with(line: &str) -> String {
        format!("{SMALLEST}{line}\n")
    }

    #[test]
    fn the_words_of_the_yaml_parser_do_not_act_on_the_terminal() {
        check_errors(
            "listen: a:1\n\"\\e[2Jx\": [{a: b}: 1]\n",
            &[r"c.yaml:2: \u{1b}[2Jx[0]: "],
        );
    }

    #[test]
    fn two_lines_are_a_configuration_with_the_documented_defaults() {
        let config = clean(SMALLEST);
        assert_eq!(config.mode, BalanceMode::RoundRobin);
        assert_eq!(config.reload_interval, Some(Duration::from_secs(60)));
        assert_eq!(config.access_log, None);
        assert!(config.via);
        assert!(config.proxy_protocol.is_none());
        assert_eq!(config.limits.max_connections, None);
        assert_eq!(config.limits.request_timeout, None);
        assert_eq!(config.limits.response_timeout, Duration::from_secs(300));
        assert_eq!(config.limits.tunnel_idle_timeout, Duration::from_secs(3600));
        assert_eq!(
            config.limits.response_idle_timeout,
            Duration::from_secs(900)
        );
        assert_eq!(config.limits.max_header_bytes, 65_536);
        assert_eq!(config.health.interval, Duration::from_secs(30));
        assert_eq!(config.health.expect_status, 204);
        assert_eq!(config.health.online_interval, None);
        let upstream = &config.upstreams[0];
        assert_eq!(upstream.name, "p.test:8080");
        assert_eq!((upstream.weight, upstream.priority), (1, 100));
        assert!(upstream.credentials.is_none());
    }

    /// Before there was a key of its own, `io_timeout_secs` was raised for them.
    #[test]
    fn a_file_that_allows_long_silence_in_bodies_goes_on_allowing_it_in_responses() {
        let silence = |limits: &str| {
            let config = clean(&with(&format!("limits: {{{limits}}}")));
            config.limits.response_idle_timeout.as_secs()
        };
        assert_eq!(silence("io_timeout_secs: 3600"), 3600);
        assert_eq!(silence("io_timeout_secs: 30"), 900);
        assert_eq!(
            silence("io_timeout_secs: 3600, response_idle_timeout_secs: 7"),
            7
        );
    }

    #[test]
    fn every_mistake_of_a_file_is_told_in_its_order() {
        check_errors(
            "listen: 8080\nmode: random\nlimits:\n  workers: many\n  queue_timeout_secs: -1\n\
             upstream:\n  - url: socks4://p.test:1080\n  - weight: 2\n  - url: http://q.test\n    \
             weight: x\n",
            &[
                "c.yaml:1: listen: the address or the port is missing: write address:port",
                "c.yaml:2: mode: `random` is not known: write `round_robin`, `best` or `priority`",
                "c.yaml:4: limits.workers: `many` is no number: write a whole number from 0 to",
                "c.yaml:5: limits.queue_timeout_secs: -1 is out of range: write a number of",
                "c.yaml:7: upstream[0].url: `socks4` is not spoken to upstreams",
                "c.yaml:8: upstream[1].url: every upstream needs one: write `url: http",
                "c.yaml:10: upstream[2].weight: `x` is no number",
            ],
        );
    }

    #[test]
    fn an_empty_file_is_told_what_it_lacks() {
        for text in ["", "# nothing\n", "---\n", "{}"] {
            check_errors(text, &["c.yaml: listen: required: write `listen: 127"]);
        }
    }

    #[test]
    fn a_key_without_a_value_is_absent_and_has_a_line() {
        check_errors("via:\nlisten:\n", &["c.yaml:2: listen: required"]);
    }

    #[test]
    fn what_is_no_yaml_names_the_line() {
        check_errors(
            "listen: a:1\n  via: true\n",
            &["c.yaml:2: `via` is indented by 2 blanks, `listen` on line 1 not at all"],
        );
        check_errors(
            "- a\n",
            &["c.yaml: expected a block", "c.yaml: listen: required"],
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_mistake() {
        clean(&format!("\u{feff}{SMALLEST}"));
    }

    #[test]
    fn an_old_file_with_a_schemeless_upstream_starts_and_fails_the_check() {
        let text = "listen: 127.0.0.1:1\nupstream:\n  - url: p.test:3128\n";
        let config = check_notice(
            text,
            Severity::Compatibility,
            "c.yaml:3: upstream[0].url: the scheme is missing, read as `http://p.test:3128`",
        );
        assert!(config.relies_on_compatibility());
        assert_eq!(config.upstreams[0].authority.to_string(), "p.test:3128");
    }

    #[test]
    fn the_second_of_two_equal_upstreams_is_dropped() {
        let text = "listen: 127.0.0.1:1\nupstream:\n  - url: http://p.test\n  - weight: 5\n    \
                    url: http://P.test:8080/\n";
        let config = check_notice(
            text,
            Severity::Compatibility,
            "c.yaml:5: upstream[1].url: the same upstream as upstream[0], dropped",
        );
        assert_eq!(config.upstreams.len(), 1);
        assert_eq!(config.upstreams[0].weight, 1);
    }

    #[test]
    fn an_unknown_key_starts_and_fails_the_check() {
        let config = check_notice(
            &with("max_conections: 5"),
            Severity::Compatibility,
            "c.yaml:3: max_conections: unknown key, ignored; did you mean `limits.max_connections`?",
        );
        assert!(config.relies_on_compatibility());
    }

    #[test]
    fn weight_zero_is_warned_about_and_valid() {
        let text = "listen: 127.0.0.1:1\nupstream:\n  - {url: 'http://a.test', weight: 0}\n  - \
                    {url: 'http://b.test'}\n";
        let config = check_notice(
            text,
            Severity::Advice,
            "c.yaml:3: upstream[0].weight: 0 means no new requests",
        );
        assert!(!config.relies_on_compatibility());
    }

    #[test]
    fn without_upstreams_a_file_is_valid_and_warned_about() {
        for text in [
            "listen: 127.0.0.1:1\n",
            "listen: 127.0.0.1:1\nupstream: []\n",
        ] {
            let config = parse(text, "c.yaml").unwrap();
            assert!(said(&config).contains("upstream: no upstream is configured"));
            assert!(!config.relies_on_compatibility());
        }
    }

    #[test]
    fn a_pool_that_nobody_needs_may_be_empty() {
        let text = "listen: 127.0.0.1:1\ndomain_policy: {mode: whitelist}\n";
        check_notice(
            text,
            Severity::Advice,
            "c.yaml:2: domain_policy: a whitelist without domains",
        );
    }

    /// Providers sell exits as users of one gateway.
    #[test]
    fn the_users_of_one_gateway_are_upstreams_with_a_number_in_their_names() {
        let text = "listen: 127.0.0.1:1\nupstream:\n  - {url: 'http://p.test', username: ann, password: x}\n  \
                    - {url: 'http://p.test', username: bob, password: x}\n  - {url: 'http://q.test', name: \
                    'p.test:8080-3'}\n  - {url: 'http://p.test'}\n  - {url: 'http://p.test', username: bob, \
                    password: y}\n";
        let config = check_notice(
            text,
            Severity::Compatibility,
            "c.yaml:7: upstream[4].url: the same upstream as upstream[1], dropped",
        );
        let names = config.upstreams.iter().map(|spec| &*spec.name);
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                "p.test:8080",
                "p.test:8080-2",
                "p.test:8080-3",
                "p.test:8080-4"
            ]
        );
    }

    #[test]
    fn two_upstreams_cannot_share_a_name() {
        check_errors(
            "listen: 127.0.0.1:1\nupstream:\n  - {url: 'http://a.test', name: x}\n  - \
             {url: 'http://b.test', name: x}\n",
            &["c.yaml:4: upstream[1].name: `x` is the name of upstream[0], too"],
        );
    }

    #[test]
    fn a_name_is_printable_and_short() {
        for name in ["\"a\\nb\"", "\"a\\e[0m\"", "''", &"x".repeat(129)] {
            let text =
                format!("listen: a:1\nupstream:\n  - url: http://a.test\n    name: {name}\n");
            check_errors(
                &text,
                &["c.yaml:4: upstream[0].name: write 1 to 128 bytes without"],
            );
        }
    }

    #[test]
    fn a_user_without_a_password_has_an_empty_one() {
        let text = "listen: 127.0.0.1:1\nupstream: [{url: 'http://p.test', username: bob}]\n";
        let config = clean(text);
        let credentials = config.upstreams[0].credentials.as_ref().unwrap();
        assert_eq!(credentials.authorization(), "Basic Ym9iOg==");
    }

    #[test]
    fn a_password_is_taken_letter_by_letter() {
        for written in ["007", "1e5", "true", "'a@/: b'", "'~'"] {
            let text = format!(
                "listen: 127.0.0.1:1\nupstream:\n  - url: http://p.test\n    username: b\n    \
                 password: {written}\n"
            );
            let config = clean(&text);
            let wanted = Credentials::basic("b", written.trim_matches('\''));
            assert_eq!(
                config.upstreams[0].credentials.as_ref(),
                Some(&wanted),
                "{written}"
            );
        }
    }

    #[test]
    fn a_list_in_the_place_of_a_text_is_an_error_with_its_line() {
        check_errors(
            "via: true\nlisten: [a, b]\n",
            &["c.yaml:2: listen: a list stands where one text is wanted"],
        );
    }

    #[test]
    fn the_access_log_is_a_switch_or_a_block() {
        assert_eq!(clean(&with("access_log: false")).access_log, None);
        let log = clean(&with("access_log: true")).access_log.unwrap();
        assert_eq!(
            log,
            AccessLogSettings {
                format: AccessLogFormat::Text,
                file: None,
                query: true
            }
        );
        let log = clean(&with("access_log: {format: json, file: a.log}"))
            .access_log
            .unwrap();
        let file = Some(PathBuf::from("a.log"));
        assert_eq!(
            log,
            AccessLogSettings {
                format: AccessLogFormat::Json,
                file,
                query: true
            }
        );
        let log = clean(&with("access_log: {query: false}")).access_log;
        assert!(!log.unwrap().query);
        check_errors(
            &with("access_log: json"),
            &["c.yaml:3: access_log: expected `true`, `false`, or a block"],
        );
        check_errors(
            &with("access_log: {format: xml}"),
            &["c.yaml:3: access_log.format: `xml` is not known: write `text`, `json` or"],
        );
    }

    #[test]
    fn the_field_of_the_request_id_is_one_of_its_own() {
        assert_eq!(clean(&with("")).request_id, None);
        let name = clean(&with("request_id: X-Request-Id")).request_id;
        assert_eq!(name.unwrap().as_str(), "X-Request-Id");
        for name in ["Host", "x y", "''"] {
            check_errors(
                &with(&format!("request_id: {name}")),
                &["c.yaml:3: request_id: "],
            );
        }
    }

    #[test]
    fn every_word_of_the_table_has_a_meaning_of_its_own() {
        let words_of = |key: &'static Key| {
            let KeyKind::Word(words) = key.kind else {
                return None;
            };
            Some((key.path, words))
        };
        let mut compared = 0;
        for (path, words) in KEYS.iter().filter_map(words_of) {
            let meanings = words.iter().map(|word| {
                let word = keys::bare(word);
                let text = match path.split_once('.') {
                    Some(("upstream[]", key)) => {
                        format!("listen: 127.0.0.1:1\nupstream: [{{url: 'http://p.test', {key}: {word}}}]")
                    }
                    Some(("rest[]", key)) => {
                        with(&format!("rest: [{{status: [429], {key}: {word}}}]"))
                    }
                    Some((block, key)) => with(&format!("{block}: {{{key}: {word}}}")),
                    None => with(&format!("{path}: {word}")),
                };
                let config = parse(&text, "c.yaml").unwrap();
                format!(
                    "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
                    config.mode,
                    config.forwarded,
                    config.access_log,
                    config.log_format,
                    config.rules,
                    config.sticky,
                    config.rest,
                    config.upstreams[0].told
                )
            });
            assert_eq!(
                meanings.collect::<HashSet<_>>().len(),
                words.len(),
                "{path}"
            );
            compared += words.len();
        }
        assert_eq!(compared, 26);
    }

    #[test]
    fn a_proxy_header_is_trusted_from_named_networks_only() {
        check_errors(
            &with("listen_proxy_protocol: true"),
            &["c.yaml:3: listen_proxy_protocol: whoever may send a PROXY header may claim"],
        );
        let lines = "listen_proxy_protocol: true\naccess: {proxy_protocol_from: [192.0.2.0/24]}";
        let from = clean(&with(lines)).proxy_protocol.unwrap();
        assert!(from.contains("192.0.2.1".parse().unwrap()));
        check_notice(
            &with("access: {proxy_protocol_from: [192.0.2.0/24]}"),
            Severity::Advice,
            "c.yaml:3: access.proxy_protocol_from: has no effect",
        );
    }

    #[test]
    fn access_lists_are_checked() {
        check_errors(
            &with("access: {allow: [10.0.0.0/33, example.test], connect_ports: [443, x]}"),
            &[
                "c.yaml:3: access.allow[0]: `10.0.0.0/33` is not a prefix length",
                "c.yaml:3: access.allow[1]: `example.test` is not an address or network",
                "c.yaml:3: access.connect_ports[1]: `x` is no port: write 443, or a range",
            ],
        );
        check_errors(
            &with("access: {allow: []}"),
            &["c.yaml:3: access.allow: an empty list would refuse every client"],
        );
        let config = clean(&with("access: {connect_ports: [443, 8000-8999]}"));
        assert!(config.access.allows_connect_to(8500));
        assert!(!config.access.allows_connect_to(25));
    }

    #[test]
    fn users_are_named_once_and_never_nobody() {
        check_errors(
            &with("access: {users: []}"),
            &["c.yaml:3: access.users: no user in it"],
        );
        check_errors(
            &with("access: {users: [{username: a, password: x}, {username: a, password: y}]}"),
            &["c.yaml:3: access.users[1].username: the user `a` is there twice"],
        );
        check_errors(
            &with("access: {users: [{username: a}]}"),
            &["c.yaml:3: access.users[0]: a user has a `username` and a `password`"],
        );
    }

    #[test]
    fn an_open_proxy_is_warned_about_and_valid() {
        let text = "listen: 0.0.0.0:8080\nupstream: [{url: 'http://p.test'}]\n\
                    access: {allow: [0.0.0.0/0, '::/0']}\n";
        check_notice(
            text,
            Severity::Advice,
            "c.yaml:1: listen: anyone who can reach 0.0.0.0:8080 may use this proxy",
        );
    }

    #[test]
    fn an_open_admin_listener_is_warned_about() {
        check_notice(
            &with("admin_listen: 0.0.0.0:9090"),
            Severity::Advice,
            "c.yaml:3: admin_listen: anyone who can reach 0.0.0.0:9090 may read the state",
        );
        clean(&with(
            "admin_listen: 0.0.0.0:9090\nadmin_token: 0123456789abcdef",
        ));
    }

    #[test]
    fn two_listeners_cannot_share_a_port() {
        check_errors(
            &with("admin_listen: 127.0.0.1:8080"),
            &["c.yaml:3: admin_listen: `listen` is 127.0.0.1:8080 already"],
        );
        clean("listen: 127.0.0.1:0\nadmin_listen: 127.0.0.1:0\nupstream: [{url: 'http://p'}]\n");
    }

    #[test]
    fn an_upstream_that_is_this_proxy_is_warned_about() {
        check_notice(
            "listen: 127.0.0.1:8080\nupstream: [{url: 'http://127.0.0.1:8080'}]\n",
            Severity::Advice,
            "c.yaml:2: upstream: the upstream 127.0.0.1:8080 is this proxy itself",
        );
    }

    #[test]
    fn a_domain_rule_that_never_matched_does_not_stop_an_old_file() {
        check_notice(
            &with("domain_policy: {mode: blacklist, domains: [a.test, 'http://b.test/']}"),
            Severity::Compatibility,
            "c.yaml:3: domain_policy.domains[1]: `http://b.test/` is ignored: '/' is not part of a host name: \
             write the name alone",
        );
    }

    #[test]
    fn no_secret_is_in_any_message_or_debug_text() {
        let text = with(
            "admin_token: sesame-sesame-sesame\naccess: {users: [{username: u, password: sesame}]}",
        ) + "via: 5\n";
        let errors = parse(&text, "c.yaml").unwrap_err();
        assert!(!format!("{errors}{errors:?}").contains("sesame"));
        let config = parse(&text.replace("via: 5", "via: true"), "c.yaml").unwrap();
        assert!(!format!("{config:?}").contains("sesame"));
        assert!(!format!("{config:?}").contains("dTpzZXNhbWU"));
    }

    /// A URL with a password ends up in places that are made for names.
    #[test]
    fn no_userinfo_is_in_any_message() {
        let text = with(
            "domain_policy: {mode: blacklist, domains: ['http://bob:hunter2@a.test', 'bob:hunter2@b']}",
        ) + "access: {allow: ['bob:hunter2@10.0.0.0/8'], connect_ports: ['bob:hunter2@c:443']}\n"
            + "mode: 'bob:hunter2@d'\nhealth_check: {url: 'http://bob:hunter2@e.test/'}\n";
        let url = "url: 'http://p.test'";
        let text = text.replace(url, &format!("name: 'bob:hunter2@p', {url}"));
        let errors = parse(&text, "c.yaml").unwrap_err().to_string();
        assert!(!errors.contains("hunter2"), "{errors}");
        for part in [
            "`..@a.test`",
            "`..@10.0.0.0/8`",
            "upstream[0].name: a name is shown",
        ] {
            assert!(errors.contains(part), "{part} is not in {errors}");
        }
    }

    #[test]
    fn another_content_has_another_fingerprint() {
        assert_eq!(clean(SMALLEST).fingerprint, clean(SMALLEST).fingerprint);
        assert_ne!(clean(SMALLEST).fingerprint, clean(&with("# x")).fingerprint);
    }
}
