//! Request targets: where a request leads (RFC 9112 §3.2, RFC 3986 §3.2).
//!
//! Routing, policy, log and the next hop must all see the same host, so a
//! target that different readers take differently (userinfo tricks, numbers
//! that are spelled-out addresses, escapes in names) is refused. A host and a
//! port that got through here need no second look.
//!
//! Not here: whether a client may go there.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::cause::causes;
use super::decimal;
use super::fields::split_before;
use super::swar::find_no_target;

pub use super::name::DnsName;

const ABSOLUTE_FORM_WANTED: &str =
    "Send an absolute-form request target such as http://example.com/.";
const HOST_AND_PORT_WANTED: &str = "Send host:port, for example CONNECT example.com:443.";

causes! {
    /// Why a request target was refused.
    TargetError:
    /// `/path` or `*`: meant for an origin, not for a proxy.
    OriginForm = 400, "target_origin_form", "http_request_error",
        "this is an HTTP proxy, not a web server",
        "Configure it as your client's proxy, or send an absolute-form request target such as \
         http://example.com/.";
    /// A URI of another scheme than `http`, which an upstream may serve, but not this proxy itself.
    SchemeUnsupported = 400, "target_scheme_unsupported", "http_request_error",
        "this proxy connects to that host itself, and does so for http:// URLs only",
        "For everything else, https:// too, the client opens a tunnel with CONNECT.";
    /// No host before the port or the path.
    HostMissing = 400, "target_host_missing", "http_request_error",
        "the request target has no host", ABSOLUTE_FORM_WANTED;
    /// Neither a DNS name, nor an IPv4 address, nor an IPv6 address in brackets.
    HostInvalid = 400, "target_host_invalid", "http_request_error",
        "the request target has an invalid host",
        "Use a DNS name, an IPv4 address, or an IPv6 address in brackets.";
    PortMissing = 400, "target_port_missing", "http_request_error",
        "the CONNECT target has no port", HOST_AND_PORT_WANTED;
    PortInvalid = 400, "target_port_invalid", "http_request_error",
        "the request target has an invalid port", "A port is a number from 1 to 65535.";
    /// `user@`.
    UserinfoInConnect = 400, "target_userinfo_in_connect", "http_request_error",
        "the CONNECT target has userinfo", HOST_AND_PORT_WANTED;
    /// No URI at all, or one with bytes that may not stand in it.
    Malformed = 400, "target_malformed", "http_request_error",
        "the request target is malformed", ABSOLUTE_FORM_WANTED;
}

/// A host by name or by address. `Display` is the `uri-host` of RFC 9110 §4.1:
/// IPv6 addresses in brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// A DNS name.
    Name(DnsName),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
}

impl Host {
    /// Reads a `uri-host`.
    ///
    /// # Errors
    ///
    /// [`TargetError::HostMissing`] for an empty one, else
    /// [`TargetError::HostInvalid`]. Among those are numbers that are not
    /// dotted quads, such as `2130706433` or `0x7f.1`: resolvers take them for
    /// addresses, rules would take them for names.
    pub fn parse(text: &[u8]) -> Result<Self, TargetError> {
        if text.is_empty() {
            return Err(TargetError::HostMissing);
        }
        if let Some(literal) = text.strip_prefix(b"[") {
            return literal
                .strip_suffix(b"]")
                .and_then(address)
                .map(Self::V6)
                .ok_or(TargetError::HostInvalid);
        }
        // No other text is an address; to look for one costs more than this.
        if text.first().is_some_and(u8::is_ascii_digit)
            && let Some(address) = address(text)
        {
            return Ok(Self::V4(address));
        }
        DnsName::parse(text)
            .map(Self::Name)
            .ok_or(TargetError::HostInvalid)
    }

    /// Appends what `Display` shows.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Name(name) => out.extend_from_slice(name.as_bytes()),
            Self::V4(address) => decimal::write_address(*address, out),
            Self::V6(_) => out.extend_from_slice(self.to_string().as_bytes()),
        }
    }
}

fn address<A: std::str::FromStr>(text: &[u8]) -> Option<A> {
    str::from_utf8(text).ok()?.parse().ok()
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// Where a request leads: the `uri-host ":" port` of RFC 9112 §3.2.3.
///
/// Invariant: `port` is not 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authority {
    host: Host,
    port: u16,
}

impl Authority {
    /// `None` for port 0.
    pub fn new(host: Host, port: u16) -> Option<Self> {
        (port != 0).then_some(Self { host, port })
    }

    /// Reads the target of CONNECT (authority-form, RFC 9112 §3.2.3). There is
    /// no default port: "a server MUST reject a CONNECT request that targets an
    /// empty or invalid port number" (RFC 9110 §9.3.6).
    ///
    /// # Errors
    ///
    /// Anything but `host:port`.
    pub fn from_connect(target: &[u8]) -> Result<Self, TargetError> {
        if target.contains(&b'@') {
            return Err(TargetError::UserinfoInConnect);
        }
        Self::parse(target, None)
    }

    /// Reads `uri-host [ ":" port ]`. A missing or empty port is the default.
    ///
    /// # Errors
    ///
    /// Host or port are missing or invalid; userinfo makes the host invalid.
    pub fn parse(text: &[u8], default_port: Option<u16>) -> Result<Self, TargetError> {
        let host_length = match text {
            // Colons between the brackets belong to the address.
            [b'[', ..] => text
                .iter()
                .position(|&byte| byte == b']')
                .map_or(text.len(), |at| at + 1),
            _ => text
                .iter()
                .position(|&byte| byte == b':')
                .unwrap_or(text.len()),
        };
        let (host, port) = text
            .split_at_checked(host_length)
            .ok_or(TargetError::Malformed)?;
        let host = Host::parse(host)?;
        let port = match port {
            [] | [b':'] => default_port.ok_or(TargetError::PortMissing)?,
            // An IPv6 address without its brackets.
            [b':', port @ ..] if port.contains(&b':') => return Err(TargetError::HostInvalid),
            [b':', port @ ..] => parse_port(port)?,
            _ => return Err(TargetError::HostInvalid),
        };
        Self::new(host, port).ok_or(TargetError::PortInvalid)
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, not 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Appends what a `Host` field says: without the port where that is the
    /// default of the scheme (RFC 9110 §4.2.3).
    pub fn write_as_host_field(&self, default_port: u16, out: &mut Vec<u8>) {
        self.host.write(out);
        if self.port != default_port {
            self.write_port(out);
        }
    }

    /// Appends host and port, as `Display` shows them.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.host.write(out);
        self.write_port(out);
    }

    fn write_port(&self, out: &mut Vec<u8>) {
        out.push(b':');
        decimal::write(u64::from(self.port), out);
    }
}

/// Done for each request, so with no more than two pieces; the second one has always the same size.
impl Hash for Authority {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let kind = match &self.host {
            Host::Name(name) => {
                state.write(name.as_bytes());
                0
            }
            Host::V4(address) => {
                state.write(&address.octets());
                1
            }
            Host::V6(address) => {
                state.write(&address.octets());
                2
            }
        };
        state.write_u32(kind << 16 | u32::from(self.port));
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One to five digits: no sign, no space. Port 0 is left to [`Authority::new`].
fn parse_port(digits: &[u8]) -> Result<u16, TargetError> {
    decimal::read(digits)
        .filter(|_| digits.len() <= 5)
        .and_then(|number| u16::try_from(number).ok())
        .ok_or(TargetError::PortInvalid)
}

/// The default port of `http`, and of schemes of which nothing is known.
const HTTP_PORT: u16 = 80;

/// The default ports of other schemes that proxies know.
const DEFAULT_PORTS: [(&[u8], u16); 6] = [
    (b"https", 443),
    (b"ftp", 21),
    (b"ftps", 990),
    (b"wss", 443),
    (b"gopher", 70),
    (b"whois", 43),
];

/// The scheme of a URI, in the case it came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scheme<'h>(&'h [u8]);

impl Scheme<'_> {
    /// `http` itself.
    pub const HTTP: Self = Self(b"http");

    /// Whether it is `http`, the only one this proxy serves itself.
    pub fn is_http(self) -> bool {
        self.0.eq_ignore_ascii_case(b"http")
    }

    /// The port where a URI names none.
    pub fn default_port(self) -> u16 {
        if self.is_http() {
            return HTTP_PORT;
        }
        DEFAULT_PORTS
            .iter()
            .find(|(name, _)| self.0.eq_ignore_ascii_case(name))
            .map_or(HTTP_PORT, |(_, port)| *port)
    }
}

/// The target of a request to a proxy (RFC 9112 §3.2.2), split.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbsoluteForm<'h> {
    /// `http`, or what an upstream may know.
    pub scheme: Scheme<'h>,
    /// Host and port, the scheme's own where the URI names none. Userinfo is left out: it is never
    /// logged, and never forwarded for `http`.
    pub authority: Authority,
    /// The rest as received, from the path on: may be empty or begin with `?`.
    pub path_and_query: &'h [u8],
}

/// What a request to a proxy may ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestTarget<'h> {
    /// `scheme://host/path`: every method but CONNECT.
    Absolute(AbsoluteForm<'h>),
    /// `host:port`: CONNECT.
    Authority(Authority),
}

impl AbsoluteForm<'_> {
    /// Appends it as people may see it: without userinfo.
    pub fn write_shown(&self, out: &mut Vec<u8>) {
        out.extend(self.scheme.0.iter().map(u8::to_ascii_lowercase));
        out.extend_from_slice(b"://");
        let default_port = self.scheme.default_port();
        self.authority.write_as_host_field(default_port, out);
        out.extend_from_slice(self.path_and_query);
    }
}

impl<'h> RequestTarget<'h> {
    /// Reads the request target of a method.
    ///
    /// # Errors
    ///
    /// CONNECT with anything but authority-form; another method with anything
    /// but an absolute URI that names a host.
    pub fn parse(method: &str, target: &'h [u8]) -> Result<Self, TargetError> {
        if method == "CONNECT" {
            return Authority::from_connect(target).map(Self::Authority);
        }
        if matches!(target, [b'/', ..] | b"*") {
            return Err(TargetError::OriginForm);
        }
        // A fragment is not sent; readers disagree on where the path ends.
        if find_no_target(target).is_some() {
            return Err(TargetError::Malformed);
        }
        let (scheme, after_scheme) = split_scheme(target)?;
        let (authority, path_and_query) =
            split_before(after_scheme, |byte| matches!(byte, b'/' | b'?'));
        let authority = Authority::parse(strip_userinfo(authority)?, Some(scheme.default_port()))?;
        Ok(Self::Absolute(AbsoluteForm {
            scheme,
            authority,
            path_and_query,
        }))
    }
}

/// What stands before `://`, and behind it.
fn split_scheme(target: &[u8]) -> Result<(Scheme<'_>, &[u8]), TargetError> {
    if let Some((b"http://", rest)) = target.split_at_checked(b"http://".len()) {
        return Ok((Scheme::HTTP, rest));
    }
    let (scheme, rest) = split_before(target, |byte| byte == b':');
    let rest = rest.strip_prefix(b"://").ok_or(TargetError::Malformed)?;
    let well_formed = matches!(scheme, [first, ..] if first.is_ascii_alphabetic())
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if well_formed {
        Ok((Scheme(scheme), rest))
    } else {
        Err(TargetError::Malformed)
    }
}

/// Removes `user:password@` (RFC 3986 §3.2.1). A second `@` or a backslash in
/// it makes some readers see another host, so they are refused.
fn strip_userinfo(authority: &[u8]) -> Result<&[u8], TargetError> {
    let Some(userinfo_length) = authority.iter().rposition(|&byte| byte == b'@') else {
        return Ok(authority);
    };
    let (userinfo, host) = authority
        .split_at_checked(userinfo_length)
        .ok_or(TargetError::Malformed)?;
    let well_formed = userinfo
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%:!$&'()*+,;=".contains(byte));
    if well_formed {
        Ok(host.get(1..).unwrap_or_default())
    } else {
        Err(TargetError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn connect(target: &str) -> Result<String, TargetError> {
        match RequestTarget::parse("CONNECT", target.as_bytes())? {
            RequestTarget::Authority(authority) => Ok(authority.to_string()),
            RequestTarget::Absolute(_) => panic!("CONNECT never has absolute-form"),
        }
    }

    /// Authority and rest of a GET, with a space between them.
    fn get(target: &[u8]) -> Result<String, TargetError> {
        match RequestTarget::parse("GET", target)? {
            RequestTarget::Absolute(form) => Ok(format!(
                "{} {}",
                form.authority,
                form.path_and_query.escape_ascii()
            )),
            RequestTarget::Authority(_) => panic!("GET never has authority-form"),
        }
    }

    fn check_connect(table: &[(&str, Result<&str, TargetError>)]) {
        for (target, expected) in table {
            assert_eq!(
                connect(target).as_deref(),
                expected.as_ref().copied(),
                "{target:?}"
            );
        }
    }

    fn check_get(table: &[(&str, Result<&str, TargetError>)]) {
        for (target, expected) in table {
            let got = get(target.as_bytes());
            assert_eq!(got.as_deref(), expected.as_ref().copied(), "{target:?}");
        }
    }

    #[test]
    fn connect_takes_a_host_and_a_port() {
        check_connect(&[
            ("example.com:443", Ok("example.com:443")),
            ("EXAMPLE.com.:443", Ok("example.com.:443")),
            ("my_host~1-a:1", Ok("my_host~1-a:1")),
            ("192.0.2.1:65535", Ok("192.0.2.1:65535")),
            ("[2001:DB8::1]:8443", Ok("[2001:db8::1]:8443")),
            ("[::ffff:192.0.2.1]:1", Ok("[::ffff:192.0.2.1]:1")),
            ("[::1]:00080", Ok("[::1]:80")),
        ]);
    }

    #[test]
    fn an_authority_is_written_as_it_is_shown() {
        for text in ["a.test:1", "10.200.0.99:65535", "[2001:db8::1]:80"] {
            let authority = Authority::from_connect(text.as_bytes()).unwrap();
            let mut out = Vec::new();
            authority.write(&mut out);
            assert_eq!(out, text.as_bytes());
            assert_eq!(authority.to_string(), text);
        }
    }

    #[test]
    fn an_authority_counts_as_the_same_however_it_is_spelled_and_as_no_other() {
        let set = |all: &[&str]| -> HashSet<Authority> {
            let read = |text: &&str| Authority::from_connect(text.as_bytes()).unwrap();
            all.iter().map(read).collect()
        };
        assert_eq!(set(&["ORIGIN.test:80", "origin.TEST:0080"]).len(), 1);
        assert_eq!(set(&["[::1]:1", "[0:0::1]:1"]).len(), 1);
        assert_eq!(
            set(&["a:1", "a:2", "b:1", "1.2.3.4:1", "[::1.2.3.4]:1"]).len(),
            5
        );
    }

    #[test]
    fn connect_wants_a_port() {
        check_connect(&[
            ("example.com", Err(TargetError::PortMissing)),
            ("example.com:", Err(TargetError::PortMissing)),
            ("[::1]", Err(TargetError::PortMissing)),
            ("[::1]:", Err(TargetError::PortMissing)),
        ]);
    }

    #[test]
    fn a_port_is_a_number_from_1_to_65535() {
        for port in [
            "0", "00000", "65536", "99999", "+1", "-1", " 1", "1 ", "p", "0x50", "000443",
        ] {
            let target = format!("h:{port}");
            assert_eq!(
                connect(&target),
                Err(TargetError::PortInvalid),
                "{target:?}"
            );
        }
    }

    #[test]
    fn connect_takes_nothing_else() {
        check_connect(&[
            ("", Err(TargetError::HostMissing)),
            (":443", Err(TargetError::HostMissing)),
            ("bob:secret@h:443", Err(TargetError::UserinfoInConnect)),
            ("@h:443", Err(TargetError::UserinfoInConnect)),
            ("http://h:443/", Err(TargetError::HostInvalid)),
            ("h:443/", Err(TargetError::PortInvalid)),
            ("/h:443", Err(TargetError::HostInvalid)),
            ("*", Err(TargetError::HostInvalid)),
            ("h?:443", Err(TargetError::HostInvalid)),
        ]);
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets_and_has_no_zone() {
        for target in [
            "::1:443",
            "2001:db8::1:443",
            "[::1",
            "[]:443",
            "[::1]x:443",
            "[::1]443",
            "[[::1]]:443",
            "[fe80::1%eth0]:443",
            "[fe80::1%25eth0]:443",
            "[v1.a]:443",
            "[127.0.0.1]:443",
            "[example.com]:443",
            "x[::1]:443",
            "::1]:443",
        ] {
            let refused = matches!(
                connect(target),
                Err(TargetError::HostInvalid | TargetError::HostMissing)
            );
            assert!(refused, "{target:?}: {:?}", connect(target));
        }
    }

    #[test]
    fn a_name_has_only_letters_digits_hyphen_underscore_and_tilde() {
        let label = "a".repeat(64);
        let name = ["a".repeat(63).as_str(); 4].join(".");
        for host in [
            ".", "..", ".a", "a..b", "a..", "a b", "a%2e", "a\\b", "a!b", "a,b", "a*", "h\u{e9}",
            "a\0", "a\t", &label, &name,
        ] {
            assert_eq!(
                Host::parse(host.as_bytes()),
                Err(TargetError::HostInvalid),
                "{host:?}"
            );
        }
        assert!(Host::parse("a".repeat(63).as_bytes()).is_ok());
        assert!(Host::parse(b"1.2.3.4.example").is_ok());
        assert!(Host::parse(b"0xg").is_ok());
    }

    #[test]
    fn an_address_has_one_spelling() {
        for host in [
            "2130706433",
            "127.1",
            "0x7f000001",
            "0X7F.1",
            "017700000001",
            "127.0.0.01",
            "127.0.0.256",
            "127.0.0.1.",
            "1.2.3.4.5",
            "0x",
            "example.1",
            "a.0x1",
        ] {
            assert_eq!(
                Host::parse(host.as_bytes()),
                Err(TargetError::HostInvalid),
                "{host:?}"
            );
        }
        assert_eq!(Host::parse(b"127.0.0.1"), Ok(Host::V4(Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn absolute_form_is_split_before_the_path() {
        check_get(&[
            ("http://example.com/", Ok("example.com:80 /")),
            ("http://example.com", Ok("example.com:80 ")),
            ("http://example.com?x=1", Ok("example.com:80 ?x=1")),
            (
                "http://example.com:8080?x=/@y",
                Ok("example.com:8080 ?x=/@y"),
            ),
            ("HTTP://Example.COM:81/A?B", Ok("example.com:81 /A?B")),
            ("http://h:/a", Ok("h:80 /a")),
            ("http://[::1]/a:b@c", Ok("[::1]:80 /a:b@c")),
            ("http://[::1]:8080//x", Ok("[::1]:8080 //x")),
            ("http://h/http://g/", Ok("h:80 /http://g/")),
            (
                "http://h/a|b\"<>\\^`{}%zz",
                Ok("h:80 /a|b\\\"<>\\\\^`{}%zz"),
            ),
        ]);
    }

    #[test]
    fn a_path_keeps_bytes_that_are_not_ascii_and_a_host_has_none() {
        assert_eq!(get(b"http://h/caf\xe9"), Ok("h:80 /caf\\xe9".to_owned()));
        assert_eq!(get(b"http://caf\xe9/"), Err(TargetError::HostInvalid));
        assert_eq!(get(b"http://caf\xc3\xa9/"), Err(TargetError::HostInvalid));
    }

    #[test]
    fn userinfo_is_dropped_from_absolute_form() {
        check_get(&[
            ("http://bob:hunter2@h/x", Ok("h:80 /x")),
            ("http://bob@h:81", Ok("h:81 ")),
            ("http://@h/", Ok("h:80 /")),
            ("http://b%40:p@h/", Ok("h:80 /")),
        ]);
    }

    #[test]
    fn an_authority_that_two_readers_take_for_two_hosts_is_refused() {
        check_get(&[
            ("http://a@b@c/", Err(TargetError::Malformed)),
            ("http://good.test\\@evil.test/", Err(TargetError::Malformed)),
            (
                "http://good.test\\evil.test/",
                Err(TargetError::HostInvalid),
            ),
            ("http://good.test#@evil.test/", Err(TargetError::Malformed)),
            (
                "http://good.test%2f@evil.test:80:81/",
                Err(TargetError::HostInvalid),
            ),
            ("http://good.test;evil.test/", Err(TargetError::HostInvalid)),
            ("http://[::1]@evil.test/", Err(TargetError::Malformed)),
        ]);
    }

    #[test]
    fn absolute_form_wants_a_host_and_a_valid_port() {
        check_get(&[
            ("http://", Err(TargetError::HostMissing)),
            ("http:///x", Err(TargetError::HostMissing)),
            ("http://?x", Err(TargetError::HostMissing)),
            ("http://:80/", Err(TargetError::HostMissing)),
            ("http://bob@/", Err(TargetError::HostMissing)),
            ("http://h:0/", Err(TargetError::PortInvalid)),
            ("http://h:65536/", Err(TargetError::PortInvalid)),
            ("http://h:+1/", Err(TargetError::PortInvalid)),
            ("http://h:p/", Err(TargetError::PortInvalid)),
        ]);
    }

    #[test]
    fn each_scheme_has_its_default_port() {
        check_get(&[
            ("https://h/a", Ok("h:443 /a")),
            ("HTTPS://h:443", Ok("h:443 ")),
            ("https://h:80/", Ok("h:80 /")),
            ("ftp://bob:hunter2@h/a;type=i", Ok("h:21 /a;type=i")),
            ("wss://h?x", Ok("h:443 ?x")),
            ("ws+x://h/", Ok("h:80 /")),
            ("httpx://h:1/", Ok("h:1 /")),
        ]);
    }

    #[test]
    fn a_target_is_shown_without_userinfo_and_default_port() {
        for (target, expected) in [
            ("http://bob:hunter2@h:80/a?b", "http://h/a?b"),
            ("FTP://bob:hunter2@H:21/a", "ftp://h/a"),
            ("https://h:80", "https://h:80"),
        ] {
            let mut shown = Vec::new();
            match RequestTarget::parse("GET", target.as_bytes()) {
                Ok(RequestTarget::Absolute(form)) => form.write_shown(&mut shown),
                other => panic!("{other:?}"),
            }
            assert_eq!(shown, expected.as_bytes());
        }
    }

    #[test]
    fn a_target_that_names_no_scheme_and_host_is_refused() {
        check_get(&[
            ("https:///x", Err(TargetError::HostMissing)),
            ("ftp://a@b@c/", Err(TargetError::Malformed)),
            ("https://h\\@evil.test/", Err(TargetError::Malformed)),
            ("urn:a:b", Err(TargetError::Malformed)),
            ("h_x://h/", Err(TargetError::Malformed)),
            ("1http://h/", Err(TargetError::Malformed)),
            ("://h/", Err(TargetError::Malformed)),
            ("http:/h/", Err(TargetError::Malformed)),
            ("http:h", Err(TargetError::Malformed)),
            ("h:443", Err(TargetError::Malformed)),
            ("h", Err(TargetError::Malformed)),
            ("", Err(TargetError::Malformed)),
        ]);
    }

    #[test]
    fn a_fragment_a_space_and_a_control_are_refused() {
        for byte in (0..=b' ').chain([0x7f, b'#']) {
            let target = [&b"http://h/"[..], &[byte], b"x"].concat();
            assert_eq!(get(&target), Err(TargetError::Malformed), "{byte:#x}");
        }
    }

    #[test]
    fn origin_form_and_asterisk_form_are_for_origins() {
        check_get(&[
            ("/", Err(TargetError::OriginForm)),
            ("/x?y", Err(TargetError::OriginForm)),
            ("//h/x", Err(TargetError::OriginForm)),
            ("*", Err(TargetError::OriginForm)),
        ]);
    }

    #[test]
    fn only_the_method_connect_in_this_case_takes_authority_form() {
        assert_eq!(
            RequestTarget::parse("connect", b"h:443"),
            Err(TargetError::Malformed)
        );
    }

    #[test]
    fn a_host_field_leaves_the_default_port_out() {
        for (text, expected) in [
            ("h:80", "h"),
            ("h:8080", "h:8080"),
            ("[::1]:80", "[::1]"),
            ("192.0.2.1:81", "192.0.2.1:81"),
        ] {
            let mut out = Vec::new();
            let authority = Authority::parse(text.as_bytes(), None).expect("valid");
            authority.write_as_host_field(80, &mut out);
            assert_eq!(out, expected.as_bytes());
        }
    }

    #[test]
    fn port_0_is_no_authority() {
        assert_eq!(Authority::new(Host::V4(Ipv4Addr::LOCALHOST), 0), None);
        assert_eq!(
            Authority::parse(b"h", Some(0)),
            Err(TargetError::PortInvalid)
        );
    }
}
