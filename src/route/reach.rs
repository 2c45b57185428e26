//! What a connection to an address may reach: IPv4 addresses travel in IPv6 clothes, and whoever denies a host
//! means it in all of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Connecting to the unspecified address reaches this host, too.
pub fn is_this_host(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// Whatever a connection to `address` may reach: itself, or the IPv4 address that it carries and that
/// a translator or tunnel on the way connects to. For targets alone: a client that comes from such
/// an address is not at the one it carries.
pub fn reached(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let carried = match address {
        IpAddr::V6(v6) if !is_this_host(address) => carried(v6),
        IpAddr::V6(_) | IpAddr::V4(_) => Vec::new(),
    };
    let itself = Some(address).filter(|_| carried.is_empty() || !is_mapped(address));
    itself
        .into_iter()
        .chain(carried.into_iter().map(IpAddr::V4))
}

/// Whether it is an IPv4 address in all but spelling.
fn is_mapped(address: IpAddr) -> bool {
    address.to_canonical() != address
}

/// The IPv4 addresses in an IPv6 one: mapped and compatible (RFC 4291 §2.5.5), translated (RFC 2765
/// §2.1), NAT64 (RFC 6052 §2.2), 6to4 (RFC 3056 §2), Teredo (RFC 4380 §4), ISATAP (RFC 5214 §6.1).
fn carried(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0xfe80, 0, 0, 0, 0 | 0x200, 0x5efe, high, low] => vec![v4(high, low)],
        // Whose network it is decides how long the prefix is, and so where the address stands.
        [0x64, 0xff9b, 1, a, b, c, high, low] => {
            let [_, b_low] = b.to_be_bytes();
            let [c_high, _] = c.to_be_bytes();
            let behind_48 = v4(a, u16::from_be_bytes([b_low, c_high]));
            let [_, a_low] = a.to_be_bytes();
            let behind_56 = v4(u16::from_be_bytes([a_low, b_low]), c);
            let [high_high, _] = high.to_be_bytes();
            let [_, c_low] = c.to_be_bytes();
            let behind_64 = v4(
                u16::from_be_bytes([b_low, c_high]),
                u16::from_be_bytes([c_low, high_high]),
            );
            let all = [behind_48, behind_56, behind_64, v4(high, low)];
            // Nothing but zeros is the rest of a longer prefix.
            all.into_iter().filter(|v4| !v4.is_unspecified()).collect()
        }
        [0x2002, high, low, ..] => vec![v4(high, low)],
        [0x2001, 0, _, _, _, _, high, low] => vec![v4(!high, !low)],
        _ => Vec::new(),
    }
}
