//! Domain rules: does a request go to its origin directly, or through an upstream?
//!
//! The answer must not depend on how a host is spelled, else the policy can be walked around:
//! case and a trailing dot do not count, and an address is compared as an address. A list may have
//! a hundred thousand names, so a request costs one look-up per label, not one per rule.
//!
//! Not here: resolving names (a rule for an address does not match a name that leads to it), and
//! which upstream it will be ([`crate::balance`]).

pub mod networks;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use crate::protocol::target::Host;

use self::networks::{Network, NetworkError, Networks};

/// The longest name DNS can carry (RFC 1035 §2.3.4, without the root label).
const NAME_MAX: usize = 253;

/// What the list of domains means.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PolicyMode {
    /// The list is ignored; everything uses an upstream.
    #[default]
    Off,
    /// Listed domains go direct.
    Blacklist,
    /// Only listed domains use an upstream.
    Whitelist,
}

/// The kind of next hop of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// To the origin itself.
    Direct,
    /// Through an upstream of the pool.
    ViaUpstream,
}

/// The domain policy, ready to be asked.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rules {
    mode: PolicyMode,
    /// Names that match alone.
    exact: HashSet<Box<str>>,
    /// Names that match with everything below them.
    suffixes: HashSet<Box<str>>,
    networks: Networks,
}

/// Why an expression is not a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleError {
    /// Nothing is left of it.
    Empty,
    /// A star somewhere else than in a leading `*.`.
    Wildcard,
    /// A character that no host name has.
    Character(char),
    /// Two dots in a row.
    LabelEmpty,
    /// More than 253 characters.
    TooLong,
    /// It has a slash, and is no CIDR block.
    Network(NetworkError),
}

/// One expression of `domain_policy.domains`, read.
#[derive(PartialEq, Eq, Debug)]
pub enum Rule {
    /// That name alone, in lower case.
    Exact(Box<str>),
    /// That name and every name below.
    Suffix(Box<str>),
    /// Addresses.
    Network(Network),
}

impl Rules {
    /// A policy of these rules.
    pub fn new(mode: PolicyMode, rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut policy = Self {
            mode,
            ..Self::default()
        };
        let mut networks = Vec::new();
        for rule in rules {
            match rule {
                Rule::Exact(name) => drop(policy.exact.insert(name)),
                Rule::Suffix(name) => drop(policy.suffixes.insert(name)),
                Rule::Network(network) => networks.push(network),
            }
        }
        policy.networks = networks.into_iter().collect();
        policy
    }

    /// Where requests for `host` go. Allocates nothing.
    pub fn route(&self, host: &Host) -> Route {
        let goes_direct = match self.mode {
            PolicyMode::Off => false,
            PolicyMode::Blacklist => self.lists(host),
            PolicyMode::Whitelist => !self.lists(host),
        };
        if goes_direct {
            Route::Direct
        } else {
            Route::ViaUpstream
        }
    }

    /// What the list means.
    pub fn mode(&self) -> PolicyMode {
        self.mode
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty() && self.networks.is_empty()
    }

    /// Whether any request can need an upstream. If not, an empty pool is fine.
    pub fn needs_upstream(&self) -> bool {
        self.mode != PolicyMode::Whitelist || !self.is_empty()
    }

    fn lists(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => self.lists_name(name),
            Host::V4(address) => self.networks.contains(IpAddr::V4(*address)),
            Host::V6(address) => self.networks.contains(IpAddr::V6(*address)),
        }
    }

    /// `name` is lower case and of at most 127 labels already.
    fn lists_name(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if self.exact.contains(name) {
            return true;
        }
        if self.suffixes.is_empty() {
            return false;
        }
        let mut tail = Some(name);
        while let Some(rest) = tail {
            if self.suffixes.contains(rest) {
                return true;
            }
            tail = rest.split_once('.').map(|(_, below)| below);
        }
        false
    }
}

impl std::error::Error for RuleError {}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty: write a domain, an address or a CIDR block"),
            Self::Wildcard => {
                f.write_str("a star stands only at the beginning, as in *.example.com")
            }
            Self::Character(character) if character.is_ascii() => {
                write!(
                    f,
                    "{character:?} is not part of a host name: write the name alone"
                )
            }
            Self::Character(character) => {
                write!(f, "{character:?} is not ASCII: write the name's xn-- form")
            }
            Self::LabelEmpty => f.write_str("two dots in a row"),
            Self::TooLong => write!(f, "longer than {NAME_MAX} characters"),
            Self::Network(error) => error.fmt(f),
        }
    }
}

impl Rule {
    /// Reads an expression:
    ///
    /// | expression | matches |
    /// |---|---|
    /// | `domain:x` | x |
    /// | `suffix:x`, `*.x`, `.x`, `x` | x and every name below |
    /// | an address, an IPv6 address in brackets, a CIDR block | addresses |
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(expression: &str) -> Result<Self, RuleError> {
        let expression = expression.trim();
        if let Some(name) = strip_word(expression, "domain:") {
            return parse_host(name, Self::Exact);
        }
        let name = strip_word(expression, "suffix:").unwrap_or(expression);
        let name = name
            .strip_prefix("*.")
            .or_else(|| name.strip_prefix('.'))
            .unwrap_or(name);
        parse_host(name, Self::Suffix)
    }
}

fn strip_word<'e>(expression: &'e str, word: &str) -> Option<&'e str> {
    let (head, rest) = expression.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word).then(|| rest.trim_start())
}

fn parse_host(name: &str, rule: fn(Box<str>) -> Rule) -> Result<Rule, RuleError> {
    if let Some((before, _)) = name.split_once('/') {
        let is_name = |c: char| !c.is_ascii_hexdigit() && !".:[]".contains(c);
        return Network::parse(name)
            .map(Rule::Network)
            .map_err(|error| match error {
                // A URL, or a part of one.
                NetworkError::AddressInvalid if before.contains(is_name) => {
                    RuleError::Character('/')
                }
                NetworkError::AddressInvalid | NetworkError::PrefixInvalid => {
                    RuleError::Network(error)
                }
            });
    }
    if let Ok(address) = Network::parse(name) {
        return Ok(Rule::Network(address));
    }
    check_name(name.strip_suffix('.').unwrap_or(name)).map(rule)
}

fn check_name(name: &str) -> Result<Box<str>, RuleError> {
    if name.is_empty() {
        return Err(RuleError::Empty);
    }
    if NAME_MAX < name.len() {
        return Err(RuleError::TooLong);
    }
    for character in name.chars() {
        match character {
            '*' => return Err(RuleError::Wildcard),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '~' | '.' => {}
            other => return Err(RuleError::Character(other)),
        }
    }
    if name.split('.').any(str::is_empty) {
        return Err(RuleError::LabelEmpty);
    }
    Ok(name.to_ascii_lowercase().into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => Host::V4(address),
            Ok(IpAddr::V6(address)) => Host::V6(address),
            Err(_) => Host::Name(text.into()),
        }
    }

    fn rules(mode: PolicyMode, domains: &[&str]) -> Rules {
        Rules::new(
            mode,
            domains.iter().map(|domain| Rule::parse(domain).unwrap()),
        )
    }

    /// `+` marks the hosts that must be listed.
    fn check(domains: &[&str], hosts: &str) {
        let black = rules(PolicyMode::Blacklist, domains);
        let white = rules(PolicyMode::Whitelist, domains);
        for word in hosts.split_whitespace() {
            let (listed, name) = match word.strip_prefix('+') {
                Some(name) => (true, name),
                None => (false, word),
            };
            let (in_black, in_white) = if listed {
                (Route::Direct, Route::ViaUpstream)
            } else {
                (Route::ViaUpstream, Route::Direct)
            };
            assert_eq!(
                black.route(&host(name)),
                in_black,
                "{name} and blacklist {domains:?}"
            );
            assert_eq!(
                white.route(&host(name)),
                in_white,
                "{name} and whitelist {domains:?}"
            );
        }
    }

    fn check_error(expression: &str, error: RuleError) {
        assert_eq!(Rule::parse(expression), Err(error), "{expression}");
    }

    #[test]
    fn a_domain_rule_matches_that_name_alone() {
        check(
            &["domain:example.com"],
            "+example.com www.example.com example.org com",
        );
    }

    #[test]
    fn a_suffix_rule_matches_the_name_and_what_is_below() {
        for rule in [
            "suffix:example.com",
            "*.example.com",
            ".example.com",
            "suffix:.example.com",
        ] {
            check(
                &[rule],
                "+example.com +www.example.com +a.b.example.com example.com.evil.test",
            );
        }
    }

    #[test]
    fn a_plain_name_matches_itself_and_what_is_below() {
        check(
            &["example.com"],
            "+example.com +www.example.com com example",
        );
    }

    #[test]
    fn a_suffix_ends_at_a_label_border() {
        check(
            &["example.com"],
            "notexample.com -example.com +not.example.com",
        );
    }

    #[test]
    fn a_top_level_domain_is_a_suffix_too() {
        check(&[".test"], "+test +a.test test.example atest");
    }

    #[test]
    fn case_does_not_count() {
        check(
            &["DOMAIN:Example.COM", "Suffix:Below.Test"],
            "+example.com +a.below.test",
        );
    }

    #[test]
    fn a_trailing_dot_does_not_count() {
        check(
            &["domain:a.test.", "b.test."],
            "+a.test +a.test. +b.test. +x.b.test. x.a.test.",
        );
    }

    #[test]
    fn spaces_around_an_expression_do_not_count() {
        check(&[" domain: a.test "], "+a.test b.a.test");
    }

    #[test]
    fn address_rules_match_addresses() {
        check(
            &[
                "192.0.2.1",
                "10.0.0.0/8",
                "[2001:db8::1]",
                "fd00::/8",
                "domain:198.51.100.1",
            ],
            "+192.0.2.1 192.0.2.2 +10.9.9.9 +2001:db8::1 2001:db8::2 +fd12::1 +198.51.100.1",
        );
    }

    #[test]
    fn an_ipv4_mapped_address_is_no_way_around_an_ipv4_rule() {
        check(&["10.0.0.0/8"], "+::ffff:10.0.0.1 ::ffff:11.0.0.1");
    }

    #[test]
    fn a_name_rule_never_matches_an_address() {
        check(&["suffix:1", "2.1"], "192.0.2.1 +3.2.1.x.1");
    }

    #[test]
    fn without_a_policy_everything_uses_an_upstream() {
        let rules = rules(PolicyMode::Off, &["example.com", "0.0.0.0/0"]);
        assert_eq!(rules.route(&host("example.com")), Route::ViaUpstream);
        assert_eq!(rules.route(&host("192.0.2.1")), Route::ViaUpstream);
    }

    #[test]
    fn only_an_empty_whitelist_needs_no_upstream() {
        let needs = |mode, list: &[&str]| rules(mode, list).needs_upstream();
        assert!(!needs(PolicyMode::Whitelist, &[]));
        assert!(needs(PolicyMode::Whitelist, &["a.test"]));
        assert!(needs(PolicyMode::Whitelist, &["10.0.0.0/8"]));
        assert!(needs(PolicyMode::Blacklist, &[]));
        assert!(needs(PolicyMode::Off, &[]));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_reason() {
        check_error("", RuleError::Empty);
        check_error("domain:", RuleError::Empty);
        check_error(".", RuleError::Empty);
        check_error("*", RuleError::Wildcard);
        check_error("a.*.test", RuleError::Wildcard);
        check_error("a..test", RuleError::LabelEmpty);
        check_error("..test", RuleError::LabelEmpty);
        check_error("a.test:80", RuleError::Character(':'));
        check_error("b\u{fc}cher.test", RuleError::Character('\u{fc}'));
        check_error("regex: x", RuleError::Character(':'));
        check_error(&"a".repeat(254), RuleError::TooLong);
        check_error("http://a.test/", RuleError::Character('/'));
        check_error("a.test/b", RuleError::Character('/'));
        check_error(
            "300.0.0.0/8",
            RuleError::Network(NetworkError::AddressInvalid),
        );
        check_error(
            "10.0.0.0/40",
            RuleError::Network(NetworkError::PrefixInvalid),
        );
    }
}
