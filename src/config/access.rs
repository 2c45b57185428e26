//! Who may use this proxy, and for what: the block `access`.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::protocol::credentials::Credentials;
use crate::route::networks::{Network, Networks};

use super::findings::KeyPlace;
use super::raw::YamlValue;
use super::reader::{KeyBlock, Located, quote};
use super::secret::Files;

/// The block `access`.
#[derive(Clone, Debug)]
pub struct AccessRules {
    /// Where clients may come from.
    pub allow: AddressList,
    /// Who they must be, if not just anyone. Empty: no credentials are
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

    /// The set by itself.
    pub(super) fn into_set(self) -> Networks {
        self.set
    }

    fn of(listed: impl Iterator<Item = (Network, String)>) -> Self {
        let (networks, spelled): (Vec<_>, _) = listed.unzip();
        Self {
            set: networks.into_iter().collect(),
            spelled,
        }
    }

    /// What its row has for a list that is absent, with commas in between.
    fn of_default(texts: &str) -> Self {
        let texts = texts.split(", ");
        Self::of(texts.filter_map(|text| Some((Network::parse(text).ok()?, text.to_owned()))))
    }

    /// Reads the list `key`; elements that are no networks are noted.
    pub(super) fn read(block: &KeyBlock<'_>, key: &str) -> Option<Self> {
        let texts = block.texts(key)?.into_iter();
        Some(Self::of(texts.filter_map(|Located { place, value }| {
            let network = Network::parse(value)
                .map_err(|error| place.error(format!("{} is {error}", quote(value))));
            Some((network.ok()?, value.to_owned()))
        })))
    }
}

impl fmt::Display for AddressList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.spelled.join(", "))
    }
}

impl AccessRules {
    /// Reads the block.
    pub(super) fn read(files: &mut Files, block: &KeyBlock<'_>) -> Self {
        let allow = AddressList::read(block, "allow");
        // Where all of its elements are mistakes, these are told.
        let lists_nothing = |item: Located<'_, &YamlValue>| matches!(item.value, YamlValue::List(all) if all.is_empty());
        if block.item("allow").is_some_and(lists_nothing) {
            block.place_of("allow").error(
                "an empty list would refuse every client: name networks, or remove the key to \
                 allow private ones",
            );
        }
        let direct_deny = AddressList::read(block, "direct_deny");
        if direct_deny.as_ref().is_some_and(AddressList::is_empty) {
            block.place_of("direct_deny").advice(
                "with an empty list the direct route reaches the metadata service of a cloud, \
                 too: remove the key to deny that",
            );
        }
        let default = |key| AddressList::of_default(block.default_of(key));
        Self {
            allow: allow.unwrap_or_else(|| default("allow")),
            users: read_users(files, block),
            connect_ports: read_ports(block, "connect_ports"),
            direct_deny: direct_deny.unwrap_or_else(|| default("direct_deny")),
        }
    }

    /// Whether CONNECT may reach `port`.
    pub fn allows_connect_to(&self, port: u16) -> bool {
        self.connect_ports.is_empty()
            || self.connect_ports.iter().any(|ports| ports.contains(&port))
    }
}

/// Reads the list `key`; elements that are no ports are noted.
pub(super) fn read_ports(block: &KeyBlock<'_>, key: &str) -> Vec<RangeInclusive<u16>> {
    let mut ports = Vec::new();
    for Located { place, value } in block.texts(key).unwrap_or_default() {
        match parse_ports(value) {
            Some(range) => ports.push(range),
            None => place.error(format!(
                "{} is no port: write 443, or a range like 8000-8999",
                quote(value)
            )),
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

fn read_users(files: &mut Files, block: &KeyBlock<'_>) -> Vec<User> {
    let listed = block.list("users");
    let file = block.text("users_file");
    let asked_for = listed.is_some() || file.is_some();
    let mut users = Users::default();
    for item in listed.unwrap_or_default() {
        let user = KeyBlock::open(item, "access.users[]");
        if let (Some(name), Some(password)) = (user.text("username"), user.text("password")) {
            files.has_inline_secret |= !password.place.has_variable();
            users.add(&name.place, name.value, password.value);
        } else {
            user.place
                .error("a user has a `username` and a `password`: write both, in 'quotes' where one begins with #");
        }
    }
    if let Some(path) = &file
        && let Some(content) = files.content(path)
    {
        let is_user = |line: &str| !(line.trim().is_empty() || line.starts_with('#'));
        let lines = (1_usize..).zip(content.lines());
        for (number, line) in lines.filter(|(_, line)| is_user(line)) {
            match line.split_once(':') {
                Some((name, password)) => users.add(&path.place, name, password),
                None => path.place.error(format!(
                    "line {number} of {} has no colon: write user:password",
                    quote(path.value)
                )),
            }
        }
    }
    if asked_for && users.list.is_empty() && !block.place.findings.has_error() {
        let place = file.map_or_else(|| block.place_of("users"), |file| file.place);
        place.error("no user in it: name one, or remove the key to ask nobody for credentials");
    }
    users.list
}

#[derive(Default)]
struct Users {
    list: Vec<User>,
    names: HashSet<String>,
}

impl Users {
    fn add(&mut self, place: &KeyPlace<'_>, name: &str, password: &str) {
        if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) {
            place.error(
                "a user name has no colon and no control characters, and is not empty (RFC 7617)",
            );
        } else if self.names.insert(name.to_owned()) {
            self.list.push(User {
                username: name.to_owned(),
                credentials: Credentials::basic(name, password),
            });
        } else {
            place.error(format!(
                "the user {} is there twice: remove one",
                quote(name)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    fn default_of(key: &str) -> &'static str {
        keys::find("access", key).unwrap().default
    }

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
        for key in ["allow", "direct_deny"] {
            let defaults = default_of(key);
            let list = AddressList::of_default(defaults);
            assert_eq!(list.spelled, defaults.split(", ").collect::<Vec<_>>());
        }
    }

    #[test]
    fn private_clients_are_allowed_and_public_ones_are_not() {
        let allow = AddressList::of_default(default_of("allow"));
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
