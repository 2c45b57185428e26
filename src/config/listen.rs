//! The addresses this program listens on.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::protocol::target::Host;

use super::reader::Located;

/// Where to listen: an address, or a name that will be resolved at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// An IPv4 or IPv6 address without brackets, or a host name.
    pub host: String,
    /// 0 lets the system choose one.
    pub port: u16,
}

impl ListenAddress {
    /// Whether only programs of this machine can reach it, as far as the
    /// spelling tells.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => self
                .host
                .trim_end_matches('.')
                .eq_ignore_ascii_case("localhost"),
        }
    }

    /// Whether it is every address of the machine (`0.0.0.0`, `[::]`).
    pub fn is_unspecified(&self) -> bool {
        self.host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_unspecified())
    }

    /// Reads `127.0.0.1:8080`, `[::1]:8080` or `name:8080`; notes what to write
    /// instead of anything else.
    pub(super) fn read(written: &Located<'_, &str>) -> Option<Self> {
        parse(written.value)
            .map_err(|said| written.place.error(said))
            .ok()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

fn parse(text: &str) -> Result<ListenAddress, &'static str> {
    if text.contains("://") || text.contains('/') {
        return Err("write address:port alone, as in 127.0.0.1:8080, without `http://` or a path");
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err("an IPv6 address needs brackets and a port: write it as [::1]:8080");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("the address or the port is missing: write address:port, as in 127.0.0.1:8080");
    };
    if host.is_empty() || host == "*" {
        return Err(
            "the address is missing: write 127.0.0.1:PORT for this machine alone, \
                    0.0.0.0:PORT for every IPv4 or [::]:PORT for every address",
        );
    }
    if !host.starts_with('[') && host.contains(':') {
        return Err("an IPv6 address needs brackets: write it as [::1]:8080");
    }
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the port is no number: write address:port, with a port from 1 to 65535");
    }
    let Ok(port) = port.parse() else {
        return Err("the port is too large: write one from 1 to 65535");
    };
    let host = match Host::parse(host.as_bytes()) {
        Ok(Host::Name(name)) => name.to_string(),
        Ok(Host::V4(address)) => address.to_string(),
        Ok(Host::V6(address)) => address.to_string(),
        Err(_) => {
            return Err(
                "this is neither an address nor a host name: write address:port, as in \
                 127.0.0.1:8080 or [::1]:8080",
            );
        }
    };
    Ok(ListenAddress { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wanted: Result<&str, &str>) {
        match (parse(text), wanted) {
            (Ok(address), Ok(wanted)) => assert_eq!(address.to_string(), wanted),
            (Err(said), Err(part)) => assert!(said.contains(part), "{text}: {said}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn addresses_and_names_are_read() {
        check("0.0.0.0:8080", Ok("0.0.0.0:8080"));
        check("[::1]:80", Ok("[::1]:80"));
        check("Proxy.Example:3128", Ok("proxy.example:3128"));
        check("127.0.0.1:0", Ok("127.0.0.1:0"));
    }

    #[test]
    fn other_spellings_are_told_what_to_write() {
        check("8080", Err("address:port"));
        check(":8080", Err("0.0.0.0:PORT"));
        check("*:8080", Err("0.0.0.0:PORT"));
        check("::1", Err("[::1]:8080"));
        check("::1:8080", Err("[::1]:8080"));
        check("host:", Err("no number"));
        check("host:http", Err("no number"));
        check("host:+80", Err("no number"));
        check("host:65536", Err("too large"));
        check("http://host:80", Err("without `http://`"));
        check("ho st:80", Err("neither"));
        check("[::1:80", Err("neither"));
    }

    #[test]
    fn loopback_is_told_from_other_addresses() {
        for (text, loopback) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("localhost:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("localhost.example:1", false),
        ] {
            assert_eq!(parse(text).unwrap().is_loopback(), loopback, "{text}");
        }
    }
}
