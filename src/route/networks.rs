//! Sets of addresses: single ones and CIDR blocks (RFC 4632 §3.1, RFC 4291 §2.3).
//!
//! A list may have thousands of blocks and is asked for every request, so it is kept as sorted
//! ranges without overlap and searched by halving. An IPv4-mapped IPv6 address
//! (`::ffff:192.0.2.1`) is the IPv4 address it carries: else it would be a second spelling that no
//! rule matches. What a set means (who may connect, what goes direct) is the business of its owner.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// One address or one CIDR block: all from the first to the last, both of the same family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is not a [`Network`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetworkError {
    /// The part before the slash is not an IPv4 or IPv6 address.
    AddressInvalid,
    /// The part behind the slash is not a number, or larger than the address has bits.
    PrefixInvalid,
}

/// A set of addresses, sorted and without overlap, so that at most one block can hold an address.
/// Asking costs O(log blocks).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Networks(Vec<Network>);

impl Network {
    /// Reads `192.0.2.1`, `192.0.2.0/24`, `2001:db8::1`, `[2001:db8::1]` or `2001:db8::/32`.
    ///
    /// Bits behind the prefix are ignored: `10.1.2.3/8` is `10.0.0.0/8`.
    ///
    /// # Errors
    /// What is wrong with the text. Names and zone ids are not addresses.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address = parse_address(address).ok_or(NetworkError::AddressInvalid)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) => parse_prefix(digits, bits).ok_or(NetworkError::PrefixInvalid)?,
            None => bits,
        };
        let (base, host_bits) = match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 32 - prefix),
            IpAddr::V6(v6) => (v6, 128 - prefix),
        };
        let host = !u128::MAX.checked_shl(host_bits.into()).unwrap_or(0);
        let first = Ipv6Addr::from(u128::from(base) & !host);
        let last = Ipv6Addr::from(u128::from(base) | host);
        // Within `::ffff:0:0/96` it is the IPv4 block that the IPv6 block carries. A larger block
        // that only ends there does not begin there.
        Ok(if first.to_ipv4_mapped().is_some() {
            let (first, last) = (first.to_canonical(), last.to_canonical());
            Self { first, last }
        } else {
            let (first, last) = (first.into(), last.into());
            Self { first, last }
        })
    }
}

impl Networks {
    /// Whether `address`, or the IPv4 address it carries, is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let behind = self.0.partition_point(|block| block.first <= address);
        behind
            .checked_sub(1)
            .and_then(|at| self.0.get(at))
            .is_some_and(|block| address <= block.last)
    }

    /// How many blocks are left of those that were put in.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no address is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let mut blocks: Vec<_> = networks.into_iter().collect();
        // every IPv4 address is less than every IPv6 address
        blocks.sort_unstable_by_key(|block| block.first);
        let mut merged: Vec<Network> = Vec::with_capacity(blocks.len());
        for block in blocks {
            match merged.last_mut() {
                Some(before) if block.first <= before.last => {
                    before.last = before.last.max(block.last);
                }
                Some(_) | None => merged.push(block),
            }
        }
        Self(merged)
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressInvalid => {
                "not an address or network: write it as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32"
            }
            Self::PrefixInvalid => {
                "not a prefix length: write 0 to 32 behind an IPv4 and 0 to 128 behind an IPv6 address"
            }
        })
    }
}

impl std::error::Error for NetworkError {}

fn parse_address(text: &str) -> Option<IpAddr> {
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inside) => inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// Digits only: `u8::from_str` alone would take `+8`.
fn parse_prefix(digits: &str, bits: u8) -> Option<u8> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|prefix| *prefix <= bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `listed` and `asked` are separated by spaces; `+` marks what must be in the set.
    fn check(listed: &str, asked: &str) {
        let set: Networks = listed
            .split_whitespace()
            .map(|n| Network::parse(n).unwrap())
            .collect();
        for word in asked.split_whitespace() {
            let (expected, address) = match word.strip_prefix('+') {
                Some(address) => (true, address),
                None => (false, word),
            };
            assert_eq!(
                set.contains(address.parse().unwrap()),
                expected,
                "{address} in {listed}"
            );
        }
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        check("192.0.2.7", "192.0.2.6 +192.0.2.7 192.0.2.8 ::7");
        check("[2001:db8::7]", "2001:db8::6 +2001:db8::7 2001:db8::8");
    }

    #[test]
    fn a_block_holds_its_first_and_its_last_address() {
        check(
            "10.0.0.0/8",
            "9.255.255.255 +10.0.0.0 +10.255.255.255 11.0.0.0",
        );
        check("2001:db8::/32", "+2001:db8:ffff::1 2001:db9::");
    }

    #[test]
    fn bits_behind_the_prefix_are_ignored() {
        check("10.1.2.3/8", "+10.200.0.1 11.0.0.1");
    }

    #[test]
    fn the_shortest_and_the_longest_prefix_work() {
        check("0.0.0.0/0", "+0.0.0.0 +255.255.255.255 2001:db8::1");
        check("::/0", "+2001:db8::1 +:: 192.0.2.1");
        check(
            "192.0.2.1/32 2001:db8::1/128",
            "+192.0.2.1 +2001:db8::1 192.0.2.2 2001:db8::2",
        );
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        check("192.0.2.0/24", "+::ffff:192.0.2.9 ::ffff:192.0.3.9");
        check("::ffff:192.0.2.0/120", "+192.0.2.9 192.0.3.9");
        check("::ffff:192.0.2.9", "+192.0.2.9 +::ffff:192.0.2.9");
        check("::ffff:0:0/95", "192.0.2.9 +::fffe:1:1");
    }

    #[test]
    fn overlapping_and_nested_blocks_are_one() {
        check(
            "10.0.0.0/8 10.1.0.0/16 10.0.0.1",
            "+10.0.0.1 +10.1.0.1 +10.255.0.1 11.0.0.0",
        );
        check(
            "10.0.0.0/9 10.64.0.0/10 10.128.0.0/9",
            "+10.127.255.255 +10.128.0.0",
        );
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "example.test",
            "10.0.0",
            "010.0.0.1",
            "fe80::1%eth0",
            "[10.0.0.1]",
            "[::1",
        ] {
            assert_eq!(
                Network::parse(text),
                Err(NetworkError::AddressInvalid),
                "{text}"
            );
        }
        for text in [
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "::/256",
        ] {
            assert_eq!(
                Network::parse(text),
                Err(NetworkError::PrefixInvalid),
                "{text}"
            );
        }
    }

    #[test]
    fn an_empty_set_holds_nothing() {
        check("", "0.0.0.0 ::");
        assert!(Networks::default().is_empty());
    }
}
