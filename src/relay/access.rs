//! Who may use this proxy, and where the direct route may go.
//!
//! A relay on a company machine stands where its clients do not: next to services that listen on
//! loopback only, and near the metadata address of its cloud. So clients are admitted by network and,
//! if wanted, by credentials, before a byte is forwarded; and an address the direct route must not
//! reach is refused at the moment it would be connected to.

use std::net::IpAddr;

use crate::config::access::{AccessRules, User};
use crate::protocol::answer::Refusal;
use crate::protocol::head::RequestHead;
use crate::protocol::target::{Host, RequestTarget};
use crate::route::reach::{is_this_host, reached};

use super::client::{Arrival, Client};
use super::exits::Login;

/// Who the client has shown to be, where users are asked for, and the refusal of what `access` does not allow.
pub fn check<'a>(
    access: &'a AccessRules,
    client: Requester,
    head: &RequestHead,
    target: &RequestTarget<'_>,
    login: &Login<'_>,
) -> (Option<&'a User>, Result<(), Refusal>) {
    match authenticate(access, client, login) {
        Ok(user) => (user, check_target(access, client, head, target)),
        Err(refusal) => (None, Err(refusal)),
    }
}

fn authenticate<'a>(
    access: &'a AccessRules,
    client: Requester,
    login: &Login<'_>,
) -> Result<Option<&'a User>, Refusal> {
    if !access.allow.contains(client.ip) {
        return Err(Refusal::Forbidden);
    }
    if access.users.is_empty() {
        return Ok(None);
    }
    // No early exit: how long this takes must not tell which user is known. Whose name ends as that of a session
    // does is himself, and no session of another with the same password, wherever both stand in the list.
    let users = access.users.iter();
    let (known, of_session) = users.fold((None, None), |(known, of_session), user| {
        let is_user = login.presents(&user.credentials);
        let is_session = login.presents_with_session(&user.credentials);
        let known = if is_user { Some(user) } else { known };
        (known, if is_session { Some(user) } else { of_session })
    });
    let user = known.or(of_session);
    user.map(Some).ok_or(Refusal::CredentialsWanted)
}

fn check_target(
    access: &AccessRules,
    client: Requester,
    head: &RequestHead,
    target: &RequestTarget<'_>,
) -> Result<(), Refusal> {
    let authority = match target {
        RequestTarget::Absolute(absolute) => &absolute.authority,
        RequestTarget::Authority(authority) => {
            if !access.allows_connect_to(authority.port()) {
                return Err(Refusal::PortForbidden);
            }
            authority
        }
    };
    if is_literal_loopback(authority.host()) && !client.is_local(head) {
        return Err(Refusal::TargetForbidden);
    }
    Ok(())
}

/// The client as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requester {
    /// Its address.
    pub ip: IpAddr,
    /// How it came here.
    pub arrival: Arrival,
}

impl Requester {
    /// What is known of `client`.
    pub fn of(client: &Client) -> Self {
        Self {
            ip: client.address.ip(),
            arrival: client.arrival,
        }
    }

    /// Whether the client is on this host, and asks for itself: a loopback address that a balancer names is
    /// on the balancer's host, and a request that came through another relay is from elsewhere.
    pub fn is_local(self, head: &RequestHead) -> bool {
        let fields = head.fields();
        self.arrival == Arrival::Direct
            && self.ip.to_canonical().is_loopback()
            && !fields.contains("Via")
            && !fields.contains("Forwarded")
    }
}

/// Whether the direct route may connect to `address` for this request of `client`.
pub fn allows_origin(
    access: &AccessRules,
    client: Requester,
    head: &RequestHead,
    address: IpAddr,
) -> bool {
    let reached: Vec<IpAddr> = reached(address).collect();
    if !client.is_local(head) && reached.iter().copied().any(is_this_host) {
        return false;
    }
    // A rule may be about either spelling: `64:ff9b::/96` denies a whole translator.
    !reached
        .iter()
        .any(|address| access.direct_deny.contains(*address))
}

/// `localhost` and what is below it (RFC 6761 §6.3), 127/8, `::1`, the unspecified addresses, and
/// IPv4 in IPv6 clothes. Number spellings like `0x7f.1` are no valid host in the first place.
fn is_literal_loopback(host: &Host) -> bool {
    let is_loopback = |ip: IpAddr| reached(ip).any(is_this_host);
    match host {
        Host::V4(ip) => is_loopback(IpAddr::V4(*ip)),
        Host::V6(ip) => is_loopback(IpAddr::V6(*ip)),
        Host::Name(name) => {
            let name = name.as_bytes();
            let name = name.strip_suffix(b".").unwrap_or(name);
            name == b"localhost" || name.ends_with(b".localhost")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::config::checked::Config;

    fn config_of(yaml: &str) -> Config {
        let text = format!("listen: 127.0.0.1:0\nupstream: []\n{yaml}");
        config::parse(&text, "test.yaml").unwrap()
    }

    fn rules(yaml: &str) -> AccessRules {
        config_of(yaml).access
    }

    fn directly(client: &str) -> Requester {
        Requester {
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
        let config = config_of(yaml);
        let login = Login::of(&head, &config);
        let (_, result) = check(&config.access, directly(client), &head, &target, &login);
        result.err().map(|refusal| refusal.status())
    }

    const LOCAL: &str = "127.0.0.1";
    const REMOTE: &str = "10.0.0.1";

    /// Whether the direct route may go there for a client that asks for itself.
    fn may_reach(rules: &AccessRules, client: &str, ip: &str) -> bool {
        let head = request("http://a.test/", "");
        allows_origin(rules, directly(client), &head, ip.parse().unwrap())
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

    /// `2002:7f00:1::1` comes over the network, and a neighbour can make itself a route for it.
    #[test]
    fn a_client_is_not_at_the_address_that_its_own_merely_carries() {
        for client in ["2002:7f00:1::1", "64:ff9b::a00:1", "::10.0.0.1"] {
            let refused = check_request("", client, "http://a.test/", "");
            assert_eq!(refused, Some(403), "{client}");
        }
        let plain = request("http://a.test/", "");
        let carried = directly("2002:7f00:1::1").is_local(&plain);
        assert!(!carried);
        let mapped = directly("::ffff:127.0.0.1").is_local(&plain);
        assert!(mapped);
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
    fn who_is_called_like_a_session_of_another_is_himself_wherever_he_is_listed() {
        for order in [
            ["someone", "someone-session-b"],
            ["someone-session-b", "someone"],
        ] {
            let users = order.map(|name| format!("{{username: {name}, password: x}}"));
            let yaml = format!(
                "sticky: {{by: session}}\naccess: {{users: [{}]}}",
                users.join(",")
            );
            let config = config_of(&yaml);
            for (login, wanted) in [
                // someone-session-b:x
                ("c29tZW9uZS1zZXNzaW9uLWI6eA==", "someone-session-b"),
                // someone-session-a:x
                ("c29tZW9uZS1zZXNzaW9uLWE6eA==", "someone"),
                // someone-session-b-session-a:x
                (
                    "c29tZW9uZS1zZXNzaW9uLWItc2Vzc2lvbi1hOng=",
                    "someone-session-b",
                ),
            ] {
                let fields = format!("Proxy-Authorization: Basic {login}\r\n");
                let head = request("http://a.test/", &fields);
                let login = Login::of(&head, &config);
                let user = authenticate(&config.access, directly(LOCAL), &login);
                let name = user.unwrap().map(|user| &*user.username);
                assert_eq!(name, Some(wanted), "{order:?}");
            }
        }
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
            "http://[::127.0.0.1]/",
            "http://[::ffff:0:127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[64:ff9b:1::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[::]/",
            "http://0.0.0.0/",
            "localhost:22",
            "LOCALHOST.:22",
            "[0:0:0:0:0:0:0:1]:22",
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
        let allows = |client, ip| may_reach(&rules, client, ip);
        for ip in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "::ffff:0:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:12a9:fe:a9fe::",
            "64:ff9b:1:1234:a9:fea9:fe00:0",
            "64:ff9b:1:1234:5678:9abc:a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2001:0:4136:e378:8000:63bf:5601:5601",
            "fe80::5efe:a9fe:a9fe",
        ] {
            assert!(!allows(LOCAL, ip), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "::ffff:127.0.0.1",
            "2002:7f00:1::",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::127.0.0.1",
            "64:ff9b:1:7f00:0:100::",
        ] {
            assert!(allows(LOCAL, ip), "{ip}");
            assert!(!allows(REMOTE, ip), "{ip}");
        }
        for ip in [
            "10.0.0.1",
            "2001:db8::1",
            "64:ff9b::192.0.2.1",
            "64:ff9b:1::192.0.2.1",
            "64:ff9b:1:1234::192.0.2.1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        ] {
            assert!(allows(REMOTE, ip), "{ip}");
        }
    }

    #[test]
    fn loopback_can_be_denied_to_everybody() {
        let rules = rules("access:\n  direct_deny: ['127.0.0.0/8']\n");
        for ip in ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"] {
            let allowed = may_reach(&rules, LOCAL, ip);
            assert!(!allowed, "{ip}");
        }
    }

    #[test]
    fn a_denied_network_is_denied_also_where_its_addresses_carry_others() {
        let rules = rules("access:\n  direct_deny: ['64:ff9b::/96', '2002::/16']\n");
        for ip in ["64:ff9b::c000:201", "2002:c000:201::1"] {
            assert!(!may_reach(&rules, LOCAL, ip), "{ip}");
        }
        assert!(may_reach(&rules, LOCAL, "192.0.2.1"));
    }

    #[test]
    fn a_request_that_came_through_another_relay_is_not_from_this_host() {
        let local = directly("127.0.0.1");
        let plain = request("http://a.test/", "");
        let relayed = request("http://a.test/", "Via: 1.1 other\r\n");
        assert!(local.is_local(&plain));
        assert!(!local.is_local(&relayed));
    }

    /// An upstream on this host would take it for one of this host, too.
    #[test]
    fn loopback_by_name_is_refused_on_every_route_to_whoever_is_behind_another_relay() {
        for fields in ["Via: 1.1 other\r\n", "Forwarded: for=192.0.2.1\r\n"] {
            for target in ["http://localhost/", "http://127.0.0.1/", "localhost:22"] {
                let refused = check_request("", "127.0.0.1", target, fields);
                assert_eq!(refused, Some(403), "{target} {fields}");
            }
        }
    }

    /// The loopback address is that of the balancer, or the balancer itself.
    #[test]
    fn nobody_behind_a_balancer_is_on_this_host() {
        let behind = Requester {
            arrival: Arrival::ThroughBalancer,
            ..directly("127.0.0.1")
        };
        assert!(!behind.is_local(&request("http://a.test/", "")));
        let head = request("http://localhost/", "");
        let target = RequestTarget::parse(head.method(), head.target()).unwrap();
        let config = config_of("");
        let login = Login::of(&head, &config);
        let result = |client| check(&config.access, client, &head, &target, &login).1;
        let refused = result(behind);
        assert_eq!(refused, Err(Refusal::TargetForbidden));
        assert_eq!(result(directly("127.0.0.1")), Ok(()));
    }
}
