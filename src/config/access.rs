//! Who may use this proxy, and for what: the block `access`.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::protocol::credentials::Credentials;
use crate::route::networks::{Network, Networks};

use super::findings::{Findings, Place};
use super::reader::{Section, Text, quote};
use super::secret::Files;

/// Loopback, RFC 1918, RFC 6598, IPv6 unique-local and link-local.
const ALLOW_DEFAULT: &[&str] = &[
    "127.0.0.0/8",
    "::1",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
    "fe80::/10",
];

/// Link-local, where clouds keep the credentials of a machine, and the
/// addresses outside of it that serve the same: AWS and Google over IPv6,
/// Alibaba, Azure, Oracle.
const DIRECT_DENY_DEFAULT: &[&str] = &[
    "169.254.0.0/16",
    "fe80::/10",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
];

/// The block `access`.
#[derive(Clone, Debug)]
pub struct AccessRules {
    /// Where clients may come from.
    pub allow: AddressList,
    /// Who they must be, if anybody in particular. Empty: no credentials are
    /// asked for.
    pub users: Vec<User>,
    /// Ports that CONNECT may reach. Empty: all.
    pub connect_ports: Vec<RangeInclusive<u16>>,
    /// Where the direct route never goes.
    pub direct_deny: AddressList,
}

/// A client that may use this proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// Without colon and control characters (RFC 7617 §2).
    pub username: String,
    /// What the client must present, the name included.
    pub credentials: Credentials,
}

/// A set of addresses with the spelling of the file, for people.
#[derive(Clone, Debug, Default)]
pub struct AddressList {
    set: Networks,
    spelled: Vec<String>,
}

impl AddressList {
    /// Whether `address` is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.set.contains(address)
    }

    /// Whether every IPv4 or every IPv6 address is in the set.
    pub fn holds_everything(&self) -> bool {
        self.spelled.iter().any(|network| network.ends_with("/0"))
    }

    /// Whether no address is in the set.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    fn of(texts: &[&str]) -> Self {
        let mut spelled = Vec::new();
        let mut networks = Vec::new();
        for text in texts {
            if let Ok(network) = Network::parse(text) {
                networks.push(network);
                spelled.push((*text).to_owned());
            }
        }
        Self {
            set: networks.into_iter().collect(),
            spelled,
        }
    }

    /// Reads the list `key`; elements that are no networks are noted.
    pub(super) fn read(findings: &mut Findings, block: &Section<'_>, key: &str) -> Option<Self> {
        let texts = block.texts(findings, key)?;
        for Text { place, text } in &texts {
            if let Err(error) = Network::parse(text) {
                findings.error(place, format!("{} is {error}", quote(text)));
            }
        }
        Some(Self::of(
            &texts.iter().map(|text| text.text).collect::<Vec<_>>(),
        ))
    }
}

impl fmt::Display for AddressList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.spelled.join(", "))
    }
}

impl AccessRules {
    /// Reads the block; the defaults stand for absent keys.
    pub(super) fn read(findings: &mut Findings, files: &mut Files, block: &Section<'_>) -> Self {
        let allow = AddressList::read(findings, block, "allow");
        if allow.as_ref().is_some_and(AddressList::is_empty) {
            let text = "an empty list would refuse every client: name networks, or remove the key \
                        to allow private ones";
            findings.error(&block.place_of("allow"), text);
        }
        let direct_deny = AddressList::read(findings, block, "direct_deny");
        if direct_deny.as_ref().is_some_and(AddressList::is_empty) {
            let text = "with an empty list the direct route reaches the metadata service of a \
                        cloud, too: remove the key to deny that";
            findings.advice(&block.place_of("direct_deny"), text);
        }
        Self {
            allow: allow.unwrap_or_else(|| AddressList::of(ALLOW_DEFAULT)),
            users: read_users(findings, files, block),
            connect_ports: read_ports(findings, block),
            direct_deny: direct_deny.unwrap_or_else(|| AddressList::of(DIRECT_DENY_DEFAULT)),
        }
    }

    /// Whether CONNECT may reach `port`.
    pub fn allows_connect_to(&self, port: u16) -> bool {
        self.connect_ports.is_empty()
            || self.connect_ports.iter().any(|ports| ports.contains(&port))
    }
}

fn read_ports(findings: &mut Findings, block: &Section<'_>) -> Vec<RangeInclusive<u16>> {
    let texts = block.texts(findings, "connect_ports").unwrap_or_default();
    let mut ports = Vec::new();
    for Text { place, text } in &texts {
        match parse_ports(text) {
            Some(range) => ports.push(range),
            None => findings.error(
                place,
                format!(
                    "{} is no port: write 443, or a range like 8000-8999",
                    quote(text)
                ),
            ),
        }
    }
    ports
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    (first <= last).then_some(first..=last)
}

fn parse_port(text: &str) -> Option<u16> {
    let text = text.trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn read_users(findings: &mut Findings, files: &mut Files, block: &Section<'_>) -> Vec<User> {
    let listed = block.list(findings, "users");
    let file = block.text(findings, "users_file");
    let asked_for = listed.is_some() || file.is_some();
    let mut users = Users::default();
    for item in listed.unwrap_or_default() {
        files.has_inline_secret = true;
        let shape = block.shape_of("users").element();
        let user = Section::open(findings, item, shape);
        let (name, password) = (
            user.text(findings, "username"),
            user.text(findings, "password"),
        );
        if let (Some(name), Some(password)) = (name, password) {
            users.add(findings, &name.place, (name.text, password.text));
        } else {
            let text = "a user has a `username` and a `password`: write both";
            findings.error(user.place(), text);
        }
    }
    if let Some(path) = &file
        && let Some(content) = files.content(findings, path)
    {
        for (number, line) in content.lines().enumerate() {
            users.add_line(findings, path, (number + 1, line));
        }
    }
    if asked_for && users.list.is_empty() && !findings.has_error() {
        let place = file.map_or_else(|| block.place_of("users"), |file| file.place);
        let text = "no user in it: name one, or remove the key to ask nobody for credentials";
        findings.error(&place, text);
    }
    users.list
}

#[derive(Default)]
struct Users {
    list: Vec<User>,
    names: HashSet<String>,
}

impl Users {
    /// One line of a users file: `user:password`, a comment or nothing.
    fn add_line(&mut self, findings: &mut Findings, path: &Text<'_>, line: (usize, &str)) {
        let (number, line) = line;
        if line.trim().is_empty() || line.starts_with('#') {
            return;
        }
        match line.split_once(':') {
            Some((name, password)) => self.add(findings, &path.place, (name, password)),
            None => findings.error(
                &path.place,
                format!(
                    "line {number} of {} has no colon: write user:password",
                    quote(path.text)
                ),
            ),
        }
    }

    fn add(&mut self, findings: &mut Findings, place: &Place, user: (&str, &str)) {
        let (name, password) = user;
        if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) {
            let text = "a user name has no colon and no control characters, and is not empty \
                        (RFC 7617)";
            findings.error(place, text);
        } else if self.names.insert(name.to_owned()) {
            self.list.push(User {
                username: name.to_owned(),
                credentials: Credentials::basic(name, password),
            });
        } else {
            findings.error(
                place,
                format!("the user {} is there twice: remove one", quote(name)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_and_ranges() {
        assert_eq!(parse_ports("443"), Some(443..=443));
        assert_eq!(parse_ports("8000-8999"), Some(8000..=8999));
        assert_eq!(parse_ports("8000 - 8999"), Some(8000..=8999));
        for text in [
            "", "0", "-", "1-", "-1", "65536", "9-8", "https", "+443", "1-2-3",
        ] {
            assert_eq!(parse_ports(text), None, "{text}");
        }
    }

    #[test]
    fn every_default_network_is_read() {
        for defaults in [ALLOW_DEFAULT, DIRECT_DENY_DEFAULT] {
            let list = AddressList::of(defaults);
            assert_eq!(list.spelled, defaults);
        }
    }

    #[test]
    fn private_clients_are_allowed_and_public_ones_are_not() {
        let allow = AddressList::of(ALLOW_DEFAULT);
        for (address, allowed) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
            ("192.168.9.9", true),
            ("100.127.0.1", true),
            ("169.254.0.1", false),
            ("8.8.8.8", false),
            ("::1", true),
            ("fd12::1", true),
            ("fe80::1", true),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(
                allow.contains(address.parse().unwrap()),
                allowed,
                "{address}"
            );
        }
    }
}
