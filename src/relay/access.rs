//! Who may use this proxy, and where the direct route may go.
//!
//! A relay on a company machine stands where its clients do not: next to services that listen on
//! loopback only, and near the metadata address of its cloud. So clients are admitted by network and,
//! if wanted, by credentials, before a byte is forwarded; and an address the direct route must not
//! reach is refused at the moment it would be connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::access::AccessRules;
use crate::protocol::answer::Refusal;
use crate::protocol::head::RequestHead;
use crate::protocol::target::{Host, RequestTarget};

use super::{Arrival, Client};

/// Refuses what `access` does not allow.
///
/// # Errors
/// The answer for the client.
pub fn check(
    access: &AccessRules,
    client: Asking,
    head: &RequestHead,
    target: &RequestTarget<'_>,
) -> Result<(), Refusal> {
    if !access.allow.contains(canonical(client.ip)) {
        return Err(Refusal::Forbidden);
    }
    if !access.users.is_empty() {
        let presented = head.fields().values("Proxy-Authorization").next();
        let known = presented.is_some_and(|presented| {
            // No early exit: how long this takes must not tell which user is known.
            access.users.iter().fold(false, |known, user| {
                known | user.credentials.are_presented_by(presented)
            })
        });
        if !known {
            return Err(Refusal::CredentialsWanted);
        }
    }
    let authority = match target {
        RequestTarget::Absolute(absolute) => &absolute.authority,
        RequestTarget::Authority(authority) => {
            if !access.allows_connect_to(authority.port()) {
                return Err(Refusal::PortForbidden);
            }
            authority
        }
    };
    if is_literal_loopback(authority.host()) && !client.is_on_this_host() {
        return Err(Refusal::TargetForbidden);
    }
    Ok(())
}

/// The client as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Its address.
    pub ip: IpAddr,
    /// How it came here.
    pub arrival: Arrival,
}

impl Asking {
    /// What is known of `client`.
    pub fn of(client: &Client) -> Self {
        Self {
            ip: client.address.ip(),
            arrival: client.arrival,
        }
    }

    /// A loopback address that a balancer names is on the balancer's host.
    fn is_on_this_host(self) -> bool {
        self.arrival == Arrival::Direct && canonical(self.ip).is_loopback()
    }
}

/// On whose behalf an origin is dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client on this host, itself.
    Local,
    /// Anybody else, or somebody behind another relay on this host.
    Remote,
}

impl Asker {
    /// Whoever is behind `client`.
    pub fn new(client: Asking, head: &RequestHead) -> Self {
        let fields = head.fields();
        let relayed = fields.contains("Via") || fields.contains("Forwarded");
        if client.is_on_this_host() && !relayed {
            Self::Local
        } else {
            Self::Remote
        }
    }
}

/// Whether the direct route may connect to `address`.
pub fn allows_origin(access: &AccessRules, asker: Asker, address: IpAddr) -> bool {
    let address = canonical(address);
    if address.is_unspecified() || address.is_loopback() {
        // Connecting to the unspecified address reaches this host, too.
        return asker == Asker::Local;
    }
    !access.direct_deny.contains(address)
}

/// `localhost` and what is below it (RFC 6761 §6.3), 127/8, `::1`, the unspecified addresses, and
/// IPv4 in IPv6 clothes. Number spellings like `0x7f.1` are no valid host in the first place.
fn is_literal_loopback(host: &Host) -> bool {
    let is_local = |ip: IpAddr| {
        let ip = canonical(ip);
        ip.is_loopback() || ip.is_unspecified()
    };
    match host {
        Host::V4(ip) => is_local(IpAddr::V4(*ip)),
        Host::V6(ip) => is_local(IpAddr::V6(*ip)),
        Host::Name(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// IPv4 addresses embedded in IPv6 ones (mapped, compatible, 6to4, NAT64) as what they reach.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    if v6 == Ipv6Addr::LOCALHOST || v6 == Ipv6Addr::UNSPECIFIED {
        return address;
    }
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn rules(yaml: &str) -> AccessRules {
        let text = format!("listen: 127.0.0.1:0\nupstream: []\n{yaml}");
        config::parse(&text, "test.yaml").unwrap().access
    }

    fn directly(client: &str) -> Asking {
        Asking {
            ip: client.parse().unwrap(),
            arrival: Arrival::Direct,
        }
    }

    fn request(target: &str, fields: &str) -> RequestHead {
        let method = if target.starts_with("http") {
            "GET"
        } else {
            "CONNECT"
        };
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
        RequestHead::parse(bytes.into_bytes()).unwrap()
    }

    fn check_request(yaml: &str, client: &str, target: &str, fields: &str) -> Option<u16> {
        let head = request(target, fields);
        let target = RequestTarget::parse(head.method(), head.target()).unwrap();
        check(&rules(yaml), directly(client), &head, &target)
            .err()
            .map(|refusal| refusal.status())
    }

    #[test]
    fn private_networks_may_use_the_proxy_and_the_internet_may_not() {
        for client in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.9",
            "100.64.0.1",
            "::1",
            "fd00::1",
        ] {
            assert_eq!(
                check_request("", client, "http://a.test/", ""),
                None,
                "{client}"
            );
        }
        for client in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            assert_eq!(
                check_request("", client, "http://a.test/", ""),
                Some(403),
                "{client}"
            );
        }
    }

    #[test]
    fn a_mapped_address_counts_as_the_one_it_maps() {
        assert_eq!(
            check_request("", "::ffff:10.0.0.1", "http://a.test/", ""),
            None
        );
    }

    #[test]
    fn only_a_listed_user_with_the_right_password_passes() {
        let yaml = "access:\n  users:\n    - username: bob\n      password: hunter2\n";
        let right = "Proxy-Authorization: Basic Ym9iOmh1bnRlcjI=\r\n";
        let wrong = "Proxy-Authorization: Basic Ym9iOmh1bnRlcjM=\r\n";
        assert_eq!(
            check_request(yaml, "127.0.0.1", "http://a.test/", right),
            None
        );
        assert_eq!(
            check_request(yaml, "127.0.0.1", "http://a.test/", wrong),
            Some(407)
        );
        assert_eq!(
            check_request(yaml, "127.0.0.1", "http://a.test/", ""),
            Some(407)
        );
    }

    #[test]
    fn connect_reaches_only_listed_ports() {
        let yaml = "access:\n  connect_ports: [443]\n";
        assert_eq!(check_request(yaml, "127.0.0.1", "a.test:443", ""), None);
        assert_eq!(check_request(yaml, "127.0.0.1", "a.test:25", ""), Some(403));
    }

    #[test]
    fn loopback_by_name_or_number_is_for_clients_of_this_host() {
        for target in [
            "http://localhost/",
            "http://LocalHost./",
            "http://x.localhost/",
            "http://127.1.2.3/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://0.0.0.0/",
            "localhost:22",
        ] {
            assert_eq!(
                check_request("", "10.0.0.1", target, ""),
                Some(403),
                "{target}"
            );
            assert_eq!(check_request("", "127.0.0.1", target, ""), None, "{target}");
        }
    }

    #[test]
    fn the_direct_route_never_reaches_metadata_and_reaches_loopback_only_for_its_own_host() {
        let rules = rules("");
        let allows = |asker, ip: &str| allows_origin(&rules, asker, ip.parse().unwrap());
        for ip in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert!(!allows(Asker::Local, ip), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "::ffff:127.0.0.1",
            "2002:7f00:1::",
        ] {
            assert!(allows(Asker::Local, ip), "{ip}");
            assert!(!allows(Asker::Remote, ip), "{ip}");
        }
        assert!(allows(Asker::Remote, "10.0.0.1"));
    }

    #[test]
    fn a_request_that_came_through_another_relay_is_not_from_this_host() {
        let local = directly("127.0.0.1");
        let plain = request("http://a.test/", "");
        let relayed = request("http://a.test/", "Via: 1.1 other\r\n");
        assert_eq!(Asker::new(local, &plain), Asker::Local);
        assert_eq!(Asker::new(local, &relayed), Asker::Remote);
    }

    /// The loopback address is that of the balancer, or the balancer itself.
    #[test]
    fn nobody_behind_a_balancer_is_on_this_host() {
        let behind = Asking {
            arrival: Arrival::ThroughBalancer,
            ..directly("127.0.0.1")
        };
        assert_eq!(
            Asker::new(behind, &request("http://a.test/", "")),
            Asker::Remote
        );
        let head = request("http://localhost/", "");
        let target = RequestTarget::parse(head.method(), head.target()).unwrap();
        let refused = check(&rules(""), behind, &head, &target);
        assert_eq!(refused, Err(Refusal::TargetForbidden));
        assert_eq!(
            check(&rules(""), directly("127.0.0.1"), &head, &target),
            Ok(())
        );
    }
}
