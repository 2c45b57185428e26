//! Lists of names and networks that stand for targets.
//!
//! The answer must not depend on how a host is spelled, else a rule can be walked around:
//! case and a trailing dot do not count, and an address is compared as an address. A list may have
//! a hundred thousand names, so a request costs one look-up per label, not one per name.
//!
//! Not here: resolving names (an address does not match a name that leads to it).

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use crate::protocol::target::Host;

use super::networks::{Network, NetworkError, Networks};
use super::reach::reached;

/// The longest name DNS can carry (RFC 1035 §2.3.4, without the root label).
const NAME_MAX: usize = 253;

/// A list of names and networks, ready to be asked.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Domains {
    /// Names that match alone.
    exact: HashSet<Box<str>>,
    /// Names that match with everything below them.
    suffixes: HashSet<Box<str>>,
    networks: Networks,
}

/// Why an expression is no pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatternError {
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

/// One expression of a list, read.
#[derive(PartialEq, Eq, Debug)]
pub enum Pattern {
    /// That name alone, in lower case.
    Exact(Box<str>),
    /// That name and every name below.
    Suffix(Box<str>),
    /// Addresses.
    Network(Network),
}

impl Domains {
    /// Whether `host` is listed. Allocates nothing.
    pub fn contains(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => self.contains_name(name),
            Host::V4(address) => self.networks.contains(IpAddr::V4(*address)),
            Host::V6(address) => self.networks.contains(IpAddr::V6(*address)),
        }
    }

    /// The same, or whether an IPv4 address is listed that `host` carries and may lead to.
    pub fn contains_in_disguise(&self, host: &Host) -> bool {
        match host {
            Host::V6(address) => reached(IpAddr::V6(*address)).any(|it| self.networks.contains(it)),
            Host::V4(_) | Host::Name(_) => self.contains(host),
        }
    }

    /// About how many bytes of memory the list takes.
    pub fn bytes(&self) -> usize {
        let names = || self.exact.iter().chain(&self.suffixes);
        // An allocation takes whole pieces of 16 bytes, with its length before it.
        let texts: usize = names()
            .map(|name| (name.len() + 8).next_multiple_of(16))
            .sum();
        let slots = self.exact.capacity() + self.suffixes.capacity();
        // A table has a byte beside each slot, and is an eighth larger than what it holds.
        let slots = slots / 7 * 8 * (size_of::<Box<str>>() + 1);
        texts + slots + self.networks.len() * size_of::<Network>()
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty() && self.networks.is_empty()
    }

    /// `name` is lower case and of at most 127 labels already.
    fn contains_name(&self, name: &str) -> bool {
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

impl FromIterator<Pattern> for Domains {
    fn from_iter<I: IntoIterator<Item = Pattern>>(patterns: I) -> Self {
        let mut domains = Self::default();
        let mut networks = Vec::new();
        for pattern in patterns {
            match pattern {
                Pattern::Exact(name) => drop(domains.exact.insert(name)),
                Pattern::Suffix(name) => drop(domains.suffixes.insert(name)),
                Pattern::Network(network) => networks.push(network),
            }
        }
        domains.networks = networks.into_iter().collect();
        domains
    }
}

impl std::error::Error for PatternError {}

impl fmt::Display for PatternError {
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

impl Pattern {
    /// That name alone.
    ///
    /// # Errors
    /// When it is none.
    pub fn exact(name: &str) -> Result<Self, PatternError> {
        parse_host(name, Self::Exact)
    }

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
    pub fn parse(expression: &str) -> Result<Self, PatternError> {
        let expression = expression.trim();
        if let Some(name) = strip_word(expression, "domain:") {
            return Self::exact(name);
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

fn parse_host(name: &str, rule: fn(Box<str>) -> Pattern) -> Result<Pattern, PatternError> {
    if let Some((before, _)) = name.split_once('/') {
        let is_name = |c: char| !c.is_ascii_hexdigit() && !".:[]".contains(c);
        return Network::parse(name)
            .map(Pattern::Network)
            .map_err(|error| match error {
                // A URL, or a part of one.
                NetworkError::AddressInvalid if before.contains(is_name) => {
                    PatternError::Character('/')
                }
                NetworkError::AddressInvalid | NetworkError::PrefixInvalid => {
                    PatternError::Network(error)
                }
            });
    }
    if let Ok(address) = Network::parse(name) {
        return Ok(Pattern::Network(address));
    }
    check_name(name.strip_suffix('.').unwrap_or(name)).map(rule)
}

fn check_name(name: &str) -> Result<Box<str>, PatternError> {
    if name.is_empty() {
        return Err(PatternError::Empty);
    }
    if NAME_MAX < name.len() {
        return Err(PatternError::TooLong);
    }
    for character in name.chars() {
        match character {
            '*' => return Err(PatternError::Wildcard),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '~' | '.' => {}
            other => return Err(PatternError::Character(other)),
        }
    }
    if name.split('.').any(str::is_empty) {
        return Err(PatternError::LabelEmpty);
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

    /// `+` marks the hosts that must be listed.
    fn check(patterns: &[&str], hosts: &str) {
        let domains: Domains = patterns
            .iter()
            .map(|pattern| Pattern::parse(pattern).unwrap())
            .collect();
        for word in hosts.split_whitespace() {
            let (is_listed, name) = match word.strip_prefix('+') {
                Some(name) => (true, name),
                None => (false, word),
            };
            let found = domains.contains(&host(name));
            assert_eq!(found, is_listed, "{name} and {patterns:?}");
        }
    }

    fn check_error(expression: &str, error: PatternError) {
        assert_eq!(Pattern::parse(expression), Err(error), "{expression}");
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
    fn what_is_no_pattern_is_refused_with_the_reason() {
        check_error("", PatternError::Empty);
        check_error("domain:", PatternError::Empty);
        check_error(".", PatternError::Empty);
        check_error("*", PatternError::Wildcard);
        check_error("a.*.test", PatternError::Wildcard);
        check_error("a..test", PatternError::LabelEmpty);
        check_error("..test", PatternError::LabelEmpty);
        check_error("a.test:80", PatternError::Character(':'));
        check_error("b\u{fc}cher.test", PatternError::Character('\u{fc}'));
        check_error("regex: x", PatternError::Character(':'));
        check_error(&"a".repeat(254), PatternError::TooLong);
        check_error("http://a.test/", PatternError::Character('/'));
        check_error("a.test/b", PatternError::Character('/'));
        check_error(
            "300.0.0.0/8",
            PatternError::Network(NetworkError::AddressInvalid),
        );
        check_error(
            "10.0.0.0/40",
            PatternError::Network(NetworkError::PrefixInvalid),
        );
    }
}
