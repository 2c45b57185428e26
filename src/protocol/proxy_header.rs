//! The PROXY header, versions 1 and 2: what a balancer in front says about its client before the
//! client's first byte (proxy-protocol.txt, sections 2.1 and 2.2). It is read, and written for upstreams.
//!
//! A peer that may send it may claim any address; which peers may is decided elsewhere. Anything that cannot
//! become a header is refused with its first wrong byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::Split;

use super::decimal;

/// What a header of version 2 begins with. No request does.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// A line of version 1 with its end is not longer, in bytes.
const LINE_MAX: usize = 107;
/// The fixed part of version 2, in bytes.
const FIXED: usize = 16;
/// What may follow it, in bytes. Addresses take 216 at most; the rest are extensions, which describe a
/// TLS connection in the worst case.
const BLOCK_MAX: usize = 4096;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length in bytes; what follows is the client's.
    pub length: usize,
    /// Who the client is. `None`: the balancer does not say (`UNKNOWN`, or an address that is neither
    /// IPv4 nor IPv6), or speaks for itself (`LOCAL`).
    pub client: Option<SocketAddr>,
}

/// Reads the header at the beginning of `received`. `None`: it may become one.
///
/// # Errors
/// When it is none: what is wrong, for people.
pub fn parse(received: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    if begins(received, SIGNATURE) {
        parse_block(received)
    } else if begins(received, WORD) {
        parse_line(received)
    } else {
        Err("the connection does not begin with a PROXY header")
    }
}

/// Whether `received` begins with `wanted`, as far as it goes.
fn begins(received: &[u8], wanted: &[u8]) -> bool {
    received.iter().zip(wanted).all(|(one, other)| one == other)
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`
fn parse_line(received: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let window = received.get(..LINE_MAX).unwrap_or(received);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() == LINE_MAX {
            Err("the PROXY header is too long")
        } else {
            Ok(None)
        };
    };
    let malformed = "the line of the PROXY header is malformed";
    let line = window.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.ok_or(malformed)?;
    let text = std::str::from_utf8(line.get(WORD.len()..).unwrap_or_default())
        .ok()
        .filter(|text| {
            text.bytes()
                .all(|byte| byte == b' ' || byte.is_ascii_graphic())
        })
        .ok_or(malformed)?;
    let mut words = text.split(' ');
    let client = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(client_of::<Ipv4Addr>(words).ok_or(malformed)?),
        Some("TCP6") => Some(client_of::<Ipv6Addr>(words).ok_or(malformed)?),
        Some(_) | None => return Err(malformed),
    };
    let length = end + 1;
    Ok(Some(ProxyHeader { length, client }))
}

/// The first of two addresses and its port; all four words must be right, and no other follow.
fn client_of<A>(mut words: Split<'_, char>) -> Option<SocketAddr>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let source: A = words.next()?.parse().ok()?;
    let _to: A = words.next()?.parse().ok()?;
    let port = port(words.next()?)?;
    let _to_port = self::port(words.next()?)?;
    match words.next() {
        Some(_) => None,
        None => Some(SocketAddr::new(source.into(), port)),
    }
}

/// Decimal, without a sign or zeros in front.
fn port(text: &str) -> Option<u16> {
    let number =
        decimal::read(text.as_bytes()).filter(|_| text == "0" || !text.starts_with('0'))?;
    u16::try_from(number).ok()
}

fn parse_block(received: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let mut fixed = received.iter().skip(SIGNATURE.len());
    let is_local = match fixed.next() {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => {
            return Err("the version or command of the PROXY header is not known");
        }
    };
    let (Some(family), Some(high), Some(low)) = (fixed.next(), fixed.next(), fixed.next()) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > BLOCK_MAX {
        return Err("the PROXY header is too long");
    }
    let Some(block) = received.get(FIXED..FIXED + length) else {
        return Ok(None);
    };
    let client = if is_local {
        None
    } else {
        client_in(*family, block)?
    };
    Ok(Some(ProxyHeader {
        length: FIXED + length,
        client,
    }))
}

/// The source address of a block; extensions behind the addresses are not looked at.
fn client_in(family: u8, block: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    let short = "the addresses of the PROXY header are incomplete";
    match family {
        // Not said, or a Unix socket.
        0x00 => Ok(None),
        0x31 => block.get(..216).map(|_| None).ok_or(short),
        0x11 => {
            let (addresses, _) = block.split_first_chunk::<12>().ok_or(short)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            let port = u16::from_be_bytes([high, low]);
            Ok(Some(SocketAddr::from(([a, b, c, d], port))))
        }
        0x21 => {
            let (addresses, _) = block.split_first_chunk::<36>().ok_or(short)?;
            let [source @ .., high, low, _, _] = addresses;
            let (source, _to) = source.split_first_chunk::<16>().ok_or(short)?;
            let port = u16::from_be_bytes([*high, *low]);
            Ok(Some(SocketAddr::from((*source, port))))
        }
        _ => Err("the PROXY header is not about a stream of IPv4 or IPv6"),
    }
}

/// The version of a header to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderVersion {
    /// A line of text.
    V1,
    /// A block of bytes.
    V2,
}

/// Appends a header about the connection from `client` to `to`. `None`: we speak for ourselves.
pub fn write(version: HeaderVersion, ends: Option<(SocketAddr, SocketAddr)>, out: &mut Vec<u8>) {
    let ends = ends.map(|(client, to)| {
        (
            of_one_family(client.ip(), to.ip()),
            client.port(),
            to.port(),
        )
    });
    match (version, ends) {
        (HeaderVersion::V1, None) => out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
        (HeaderVersion::V1, Some(((client, to), from_port, to_port))) => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = format!("PROXY {family} {client} {to} {from_port} {to_port}\r\n");
            out.extend_from_slice(line.as_bytes());
        }
        (HeaderVersion::V2, None) => {
            out.extend_from_slice(SIGNATURE);
            out.extend_from_slice(&[0x20, 0x00, 0, 0]);
        }
        (HeaderVersion::V2, Some(((client, to), from_port, to_port))) => {
            out.extend_from_slice(SIGNATURE);
            out.extend_from_slice(if client.is_ipv4() {
                &[0x21, 0x11, 0, 12]
            } else {
                &[0x21, 0x21, 0, 36]
            });
            for address in [client, to] {
                match address {
                    IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
                }
            }
            out.extend_from_slice(&from_port.to_be_bytes());
            out.extend_from_slice(&to_port.to_be_bytes());
        }
    }
}

/// Both as IPv4 if they are, else both as IPv6: a header has one family. They differ where a balancer names the client.
fn of_one_family(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    let as_v6 = |address| match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => address,
    };
    match (one.to_canonical(), other.to_canonical()) {
        (one @ IpAddr::V4(_), other @ IpAddr::V4(_)) => (one, other),
        (one, other) => (as_v6(one), as_v6(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 2 with this command, family and block.
    fn block(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, block].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

    fn v6() -> Vec<u8> {
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let ports = [0xdc, 0x04, 0x01, 0xbb];
        [&address("2001:db8::1")[..], &address("2001:db8::2"), &ports].concat()
    }

    /// Whole, followed by a request, and cut at every place.
    fn check(header: &[u8], client: Option<&str>) {
        let wanted = ProxyHeader {
            length: header.len(),
            client: client.map(|client| client.parse().unwrap()),
        };
        assert_eq!(parse(header), Ok(Some(wanted)), "{header:?}");
        let followed = [header, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parse(&followed), Ok(Some(wanted)));
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "{end} bytes of {header:?}");
        }
    }

    fn check_none(header: &[u8], said: &str) {
        let error = parse(header).unwrap_err();
        assert!(error.contains(said), "{error}: {header:?}");
        // Once wrong, always wrong; and before that, only waiting.
        let mut wrong = false;
        for end in 0..=header.len() {
            match parse(&header[..end]) {
                Ok(None) => assert!(!wrong, "{end} bytes of {header:?}"),
                Ok(Some(header)) => panic!("{header:?}"),
                Err(_) => wrong = true,
            }
        }
    }

    #[test]
    fn a_line_names_the_client() {
        check(
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            Some("192.0.2.1:56324"),
        );
        check(
            b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n",
            Some("[2001:db8::1]:56324"),
        );
        check(
            b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
              ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        );
        check(b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some("0.0.0.0:0"));
    }

    #[test]
    fn an_unknown_client_is_said_to_be_so() {
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN anything at all 1 2 3\r\n", None);
        // The longest line there is.
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(longest.len(), LINE_MAX);
        check(longest.as_bytes(), None);
    }

    #[test]
    fn a_malformed_line_is_refused() {
        for line in [
            "TCP4 192.0.2.1 198.51.100.1 1 2",
            "PROXY",
            "PROXY ",
            "PROXY  TCP4 192.0.2.1 198.51.100.1 1 2",
            "PROXY TCP4",
            "PROXY TCP4 192.0.2.1",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 ",
            "PROXY TCP4 192.0.2.1  198.51.100.1 1 2",
            "PROXY TCP4 192.0.2.256 198.51.100.1 1 2",
            "PROXY TCP4 192.0.2.01 198.51.100.1 1 2",
            "PROXY TCP4 192.0.2.1 198.51.100 1 2",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 2",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 65536",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 2",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 2",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2",
            "PROXY TCP6 192.0.2.1 198.51.100.1 1 2",
            "PROXY TCP6 [2001:db8::1] 2001:db8::2 1 2",
            "PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2",
            "PROXY UDP4 192.0.2.1 198.51.100.1 1 2",
            "PROXY tcp4 192.0.2.1 198.51.100.1 1 2",
            "proxy TCP4 192.0.2.1 198.51.100.1 1 2",
            "PROXY UNKNOWN \u{e9}",
            "PROXY UNKNOWN\r",
            "PROXY UNKNOWN\0",
        ] {
            check_none(format!("{line}\r\n").as_bytes(), "PROXY header");
        }
        check_none(b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n", "malformed");
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        check_none(long.as_bytes(), "too long");
        check_none(&[WORD, &[b' '; 200]].concat(), "too long");
    }

    #[test]
    fn a_block_names_the_client() {
        check(&block(0x21, 0x11, V4), Some("192.0.2.1:56324"));
        check(&block(0x21, 0x21, &v6()), Some("[2001:db8::1]:56324"));
    }

    #[test]
    fn extensions_are_passed_over() {
        let tlv = [0x04, 0, 3, b'a', b'b', b'c'];
        check(
            &block(0x21, 0x11, &[V4, &tlv].concat()),
            Some("192.0.2.1:56324"),
        );
        check(
            &block(0x21, 0x21, &[&v6()[..], &[0; 500]].concat()),
            Some("[2001:db8::1]:56324"),
        );
        check(
            &block(0x21, 0x11, &[V4, &[0; BLOCK_MAX - 12]].concat()),
            Some("192.0.2.1:56324"),
        );
    }

    #[test]
    fn a_balancer_may_speak_for_itself_or_not_know() {
        check(&block(0x20, 0x00, b""), None);
        check(&block(0x20, 0x11, V4), None);
        check(&block(0x20, 0xff, b"whatever"), None);
        check(&block(0x21, 0x00, b""), None);
        check(&block(0x21, 0x00, b"tlv"), None);
        check(&block(0x21, 0x31, &[b'/'; 216]), None);
    }

    #[test]
    fn a_malformed_block_is_refused() {
        check_none(&block(0x22, 0x11, V4), "not known");
        check_none(&block(0x11, 0x11, V4), "not known");
        check_none(&block(0x21, 0x12, V4), "not about a stream");
        check_none(&block(0x21, 0x22, &v6()), "not about a stream");
        check_none(&block(0x21, 0x32, &[0; 216]), "not about a stream");
        check_none(&block(0x21, 0x13, V4), "not about a stream");
        check_none(&block(0x21, 0x11, &V4[..11]), "incomplete");
        check_none(&block(0x21, 0x21, &v6()[..35]), "incomplete");
        check_none(&block(0x21, 0x31, &[0; 215]), "incomplete");
        let long = u16::try_from(BLOCK_MAX + 1).unwrap().to_be_bytes();
        check_none(&[SIGNATURE, &[0x21, 0x11], &long].concat(), "too long");
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_first_wrong_byte() {
        for bytes in [&b"G"[..], b"\x16", b"\r\n\r\nG", b"PROXZ", b"\n", b"\0"] {
            check_none(bytes, "does not begin with");
        }
    }

    #[test]
    fn what_is_written_is_what_the_specification_has() {
        let tcp4 = ("192.0.2.1:56324", "198.51.100.1:443");
        let mapped = ("[::ffff:192.0.2.1]:56324", "[::ffff:198.51.100.1]:443");
        let tcp6 = ("[2001:db8::1]:56324", "[2001:db8::2]:443");
        let mixed = ("[2001:db8::1]:1", "192.0.2.1:2");
        let v6_block = block(0x21, 0x21, &v6());
        let mixed_block = block(
            0x21,
            0x21,
            b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\0\x01\0\x02",
        );
        for (ends, line, wanted) in [
            (None, "UNKNOWN", block(0x20, 0x00, &[])),
            (
                Some(tcp4),
                "TCP4 192.0.2.1 198.51.100.1 56324 443",
                block(0x21, 0x11, V4),
            ),
            (
                Some(mapped),
                "TCP4 192.0.2.1 198.51.100.1 56324 443",
                block(0x21, 0x11, V4),
            ),
            (
                Some(tcp6),
                "TCP6 2001:db8::1 2001:db8::2 56324 443",
                v6_block,
            ),
            (
                Some(mixed),
                "TCP6 2001:db8::1 ::ffff:192.0.2.1 1 2",
                mixed_block,
            ),
        ] {
            let ends = ends
                .map(|(client, to): (&str, &str)| (client.parse().unwrap(), to.parse().unwrap()));
            let (mut text, mut bytes) = (Vec::new(), Vec::new());
            write(HeaderVersion::V1, ends, &mut text);
            write(HeaderVersion::V2, ends, &mut bytes);
            assert_eq!(
                String::from_utf8(text).unwrap(),
                format!("PROXY {line}\r\n")
            );
            assert_eq!(bytes, wanted, "{line}");
        }
    }
}
