//! Which way requests go: the list `rules`, the key `default`, and the block `domain_policy` of older files.

use std::cell::Cell;
use std::collections::HashMap;

use crate::balance::groups;
use crate::balance::upstream::UpstreamSpec;
use crate::route::domains::{Domains, Pattern};
use crate::route::{Route, Rule, Rules, Ways};

use super::access::{AccessRules, AddressList, read_ports};
use super::lists;
use super::reader::{KeyBlock, Located, quote};
use super::secret::{Files, NoUpstreams};

/// The ways that need no group.
const WAYS: [(&str, Route); 3] = [
    ("direct", Route::Direct),
    ("refuse", Route::Refused),
    ("any", Route::ViaUpstream(None)),
];

/// What a rule may ask about.
const CONDITIONS: [&str; 5] = ["domains", "domains_file", "users", "ports", "clients"];

/// What rules may name.
struct Names<'n> {
    groups: HashMap<&'n str, usize>,
    access: &'n AccessRules,
    /// Why groups may lack their upstreams, if they may.
    without_upstreams: Option<NoUpstreams>,
    /// Whether a rule names a group that may be one of those.
    misses_group: Cell<bool>,
}

/// Whether a group may have this name.
pub(super) fn is_group_name(name: &str) -> bool {
    !name.is_empty() && WAYS.iter().all(|(way, _)| *way != name)
}

/// Reads all of it. Gives the rules also in words, for people.
pub(super) fn read(
    files: &mut Files,
    root: &KeyBlock<'_>,
    upstreams: &[UpstreamSpec],
    access: &AccessRules,
) -> (Rules, Vec<String>) {
    let names = Names {
        groups: groups::names(upstreams.iter())
            .into_iter()
            .zip(0..)
            .collect(),
        access,
        without_upstreams: files.without_upstreams.clone(),
        misses_group: Cell::new(false),
    };
    let policy = read_policy(root);
    let listed = root.list("rules").unwrap_or_default();
    let last = listed.len();
    let mut words = Vec::new();
    let rules = listed.into_iter().zip(1_usize..).filter_map(|(item, number)| {
        let block = KeyBlock::open(item, "rules[]");
        let (rule, said) = read_rule(files, &block, &names)?;
        let asks = CONDITIONS.iter().any(|key| block.has(key));
        if !asks && number < last {
            let text = "matches every request, so the rules below have no effect: it belongs at the end";
            block.place.advice(text);
        }
        words.push(said);
        Some(rule)
    });
    let rules = rules.collect();
    let written = root.text("default");
    let default = written.as_ref().map(|written| names.way(written));
    let said = written.map_or(root.default_of("default"), |written| written.value);
    root.hold("default", said.to_owned());
    let default = Ways::only(default.unwrap_or(Route::ViaUpstream(None)));
    if let (true, Some(NoUpstreams::Empty(file))) =
        (names.misses_group.get(), &names.without_upstreams)
    {
        root.place_of("upstream_files").error(format!(
            "{file} is empty, so groups that rules name have no upstream"
        ));
    }
    (policy.unwrap_or(Rules { rules, default }), words)
}

fn read_rule(files: &mut Files, block: &KeyBlock<'_>, names: &Names<'_>) -> Option<(Rule, String)> {
    for key in CONDITIONS {
        if block.has(key) && block.item(key).is_none() {
            let text = "has no value, so the rule would match every request: list something, or remove the key";
            block.place_of(key).error(text);
        }
    }
    let mut said = Vec::new();
    let domains = read_domains(files, block, &mut said);
    let users = block.texts("users").map(|users| {
        let spelled: Vec<_> = users.iter().map(|user| user.value).collect();
        said.push(format!("users: {}", spelled.join(", ")));
        users.iter().map(|user| names.user(user)).collect()
    });
    let ports = block.has("ports").then(|| {
        let ports = read_ports(block, "ports");
        let spelled: Vec<_> = ports.iter().map(super::report::spelled).collect();
        said.push(format!("ports: {}", spelled.join(", ")));
        ports
    });
    let clients = AddressList::read(block, "clients").map(|clients| {
        said.push(format!("clients: {clients}"));
        clients.into_set()
    });
    let Some(written) = block.text("use") else {
        let text =
            "every rule needs one: write `use: direct`, `use: refuse` or a group of upstreams";
        block.place_of("use").error(text);
        return None;
    };
    let first = names.way(&written);
    let fallback = block.texts("fallback").unwrap_or_default();
    said.push(format!("use {}", written.value));
    if let Some(place) = fallback.first().map(|way| &way.place) {
        if !matches!(first, Route::ViaUpstream(_)) {
            place.error("it is for when nobody in a group is in service: `use` is no group");
        }
        let spelled: Vec<_> = fallback.iter().map(|way| way.value).collect();
        said.push(format!("fallback {}", spelled.join(", ")));
    }
    let fallback = fallback.iter().map(|way| names.way(way)).collect();
    let rule = Rule {
        domains,
        ports,
        users,
        clients,
        ways: Ways { first, fallback },
    };
    Some((rule, said.join("; ")))
}

/// The targets of a rule, from its list and its file. `None`: it has neither.
fn read_domains(
    files: &mut Files,
    block: &KeyBlock<'_>,
    said: &mut Vec<String>,
) -> Option<Domains> {
    let mut patterns = Vec::new();
    let listed = block.texts("domains");
    for Located { place, value } in listed.iter().flatten() {
        match Pattern::parse(value) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => place.error(format!("{} is no domain: {error}", quote(value))),
        }
    }
    if listed.is_some() {
        said.push(format!("domains: {} listed", patterns.len()));
    }
    let path = block.text("domains_file");
    let read = path
        .as_ref()
        .and_then(|path| lists::read(files, path, |_, line| lists::patterns(line, &mut patterns)));
    let lines = read.map_or(0, |(lines, _)| lines);
    if listed.is_none() && path.is_none() {
        return None;
    }
    let domains: Domains = patterns.into_iter().collect();
    if let Some(path) = path {
        let kib = domains.bytes().div_ceil(1024);
        let file = quote(path.value);
        said.push(format!(
            "domains_file: {lines} lines of {file}, about {kib} KiB of memory"
        ));
    }
    Some(domains)
}

impl Names<'_> {
    /// The way of that name; an error stands for one that there is not. Where the list that may have its upstreams has
    /// none, that is the mistake.
    fn way(&self, written: &Located<'_, &str>) -> Route {
        let name = written.value;
        let known = WAYS.iter().find(|(way, _)| *way == name);
        let known = known.map(|(_, route)| *route);
        let group = || {
            let place = self.groups.get(name);
            place.map(|place| Route::ViaUpstream(Some(*place)))
        };
        known.or_else(group).unwrap_or_else(|| {
            if self.without_upstreams.is_some() {
                self.misses_group.set(true);
            } else {
                written.place.error(format!(
                    "no upstream has the group {}: write `direct`, `refuse`, `any` (any upstream), or the \
                     `group` of an upstream",
                    quote(name)
                ));
            }
            Route::ViaUpstream(None)
        })
    }

    fn user(&self, written: &Located<'_, &str>) -> Box<str> {
        let mut users = self.access.users.iter();
        if !users.any(|user| user.username == written.value) {
            let text =
                "nobody authenticates by this name, so it matches no request: see `access.users`";
            written.place.advice(text);
        }
        written.value.into()
    }
}

/// The domains of the policy. All are read, also where the mode is off: a mistake shall not wait for the day on
/// which the policy is switched on.
fn policy_domains(policy: &KeyBlock<'_>) -> Domains {
    let domains = policy.texts("domains").unwrap_or_default().into_iter();
    let patterns: Vec<_> = domains
        .filter_map(|Located { place, value }| {
            // The first release took anything and matched nothing by it.
            Pattern::parse(value)
                .map_err(|error| {
                    place.compatibility(format!("{} is ignored: {error}", quote(value)));
                })
                .ok()
        })
        .collect();
    policy.hold("domains", format!("{} listed", patterns.len()));
    patterns.into_iter().collect()
}

/// The policy for domains as rules. `None`: it is off.
fn read_policy(root: &KeyBlock<'_>) -> Option<Rules> {
    let block = root.block("domain_policy");
    let mode = block.word("mode");
    let domains = policy_domains(&block);
    let any = Route::ViaUpstream(None);
    let (listed, others, written) = match mode {
        "blacklist" => (
            Route::Direct,
            any,
            "`rules: [{domains: [..], use: direct}]`",
        ),
        "whitelist" => (
            any,
            Route::Direct,
            "`rules: [{domains: [..], use: any}]` with `default: direct`",
        ),
        _ => {
            if !domains.is_empty() {
                let text = "the domains have no effect while the mode is off";
                block.place.advice(text);
            }
            return None;
        }
    };
    for key in ["rules", "default"] {
        if root.item(key).is_some() {
            root.place_of(key).error(format!(
                "`domain_policy` says which way requests go, too: keep one of the two; in the words of this \
                 one, that is {written}"
            ));
        }
    }
    let is_idle = mode == "whitelist" && domains.is_empty();
    if is_idle {
        let text = "a whitelist without domains: every request goes to its origin directly, no \
                    upstream is used";
        block.place.advice(text);
    }
    let rule = Rule {
        domains: Some(domains),
        ports: None,
        users: None,
        clients: None,
        ways: Ways::only(listed),
    };
    Some(Rules {
        rules: if is_idle { Vec::new() } else { vec![rule] },
        default: Ways::only(others),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::checked::Config;
    use crate::config::parse;

    const POOL: &str = "listen: 127.0.0.1:1\naccess: {users: [{username: ann, password: x}]}\n\
        upstream: [{url: 'http://a', group: eu}, {url: 'http://b', group: us}]\n";

    fn config(lines: &str) -> Config {
        let config = parse(&format!("{POOL}{lines}\n"), "c.yaml").unwrap();
        assert_eq!(config.warnings, [], "{lines}");
        config
    }

    /// What is said of these lines begins so, one for each message.
    fn check_said(lines: &str, wanted: &[&str]) {
        let said = match parse(&format!("{POOL}{lines}\n"), "c.yaml") {
            Ok(config) => config.warnings,
            Err(errors) => errors.errors,
        };
        let said: Vec<_> = said.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), wanted.len(), "{said:?}");
        for (said, wanted) in said.iter().zip(wanted) {
            assert!(said.starts_with(wanted), "{said}");
        }
    }

    #[test]
    fn rules_are_told_in_words() {
        let config = config(
            "rules:\n- {domains: [a.test, 10.0.0.0/8], use: direct}\n\
             - {users: [ann], ports: [443, 8000-8999], clients: [10.0.0.0/8], use: us, fallback: [eu, direct]}\n\
             - {use: eu}",
        );
        assert_eq!(
            config.rule_words,
            [
                "domains: 2 listed; use direct",
                "users: ann; ports: 443, 8000-8999; clients: 10.0.0.0/8; use us; fallback eu, direct",
                "use eu",
            ]
        );
    }

    #[test]
    fn the_policy_for_domains_is_the_same_as_its_rules() {
        for (policy, rules) in [
            (
                "{mode: blacklist, domains: [a.test]}",
                "rules: [{domains: [a.test], use: direct}]",
            ),
            (
                "{mode: whitelist, domains: [a.test]}",
                "rules: [{domains: [a.test], use: any}]\ndefault: direct",
            ),
            ("{mode: 'off'}", "default: any"),
        ] {
            let policy = config(&format!("domain_policy: {policy}"));
            assert_eq!(policy.rules, config(rules).rules);
        }
    }

    #[test]
    fn both_at_once_is_an_error_that_says_how_to_write_one_as_the_other() {
        check_said(
            "domain_policy: {mode: whitelist, domains: [a.test]}\nrules: [{use: eu}]\ndefault: us",
            &[
                "c.yaml:5: rules: `domain_policy` says which way requests go, too: keep one of the two; in the \
                 words of this one, that is `rules: [{domains: [..], use: any}]` with `default: direct`",
                "c.yaml:6: default: `domain_policy` says",
            ],
        );
        check_said("domain_policy: {mode: 'off'}\nrules: [{use: eu}]", &[]);
    }

    #[test]
    fn a_mistake_in_a_rule_never_makes_it_match_more() {
        for (rule, wanted) in [
            (
                "{domain: [a.test], use: direct}",
                "domain: unknown key; did you mean `domains`?",
            ),
            (
                "{domains: , use: direct}",
                "domains: has no value, so the rule would match every",
            ),
            (
                "{domains: ['a b'], use: direct}",
                "domains[0]: `a b` is no domain: ' ' is not part",
            ),
            (
                "{ports: [x], use: direct}",
                "ports[0]: `x` is no port: write 443, or a range",
            ),
            (
                "{clients: [x], use: direct}",
                "clients[0]: `x` is not an address or network",
            ),
            (
                "{domains: [a.test]}",
                "use: every rule needs one: write `use: direct`",
            ),
            (
                "{use: asia}",
                "use: no upstream has the group `asia`: write `direct`, `refuse`, `any`",
            ),
            (
                "{use: asia, fallback: [eu]}",
                "use: no upstream has the group `asia`",
            ),
            (
                "{use: eu, fallback: [asia]}",
                "fallback[0]: no upstream has the group `asia`",
            ),
            (
                "{use: direct, fallback: [eu]}",
                "fallback[0]: it is for when nobody in a group is in",
            ),
            (
                "{users: [bob], use: eu}",
                "users[0]: nobody authenticates by this name",
            ),
        ] {
            check_said(
                &format!("rules: [{rule}]"),
                &[&format!("c.yaml:4: rules[0].{wanted}")],
            );
        }
        check_said(
            "rules: [{use: eu}, {ports: [80], use: us}]",
            &["c.yaml:4: rules[0]: matches every request, so the rules below have no effect"],
        );
        check_said(
            "default: asia",
            &["c.yaml:4: default: no upstream has the group `asia`"],
        );
    }

    #[test]
    fn a_group_is_a_word_that_is_no_way() {
        for group in ["direct", "refuse", "any", "'a b'", "''"] {
            let text = format!("listen: a:1\nupstream:\n  - url: http://a\n    group: {group}\n");
            let said = parse(&text, "c.yaml").unwrap_err().to_string();
            assert!(
                said.starts_with("c.yaml:4: upstream[0].group: a group is a word of"),
                "{said}"
            );
        }
    }

    #[test]
    fn whoever_needs_no_upstream_may_have_none() {
        let text =
            "listen: 127.0.0.1:1\nrules: [{domains: [ads.test], use: refuse}]\ndefault: direct\n";
        assert_eq!(parse(text, "c.yaml").unwrap().warnings, []);
    }
}
