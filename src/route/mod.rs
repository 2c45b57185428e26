//! Rules: does a request go to its origin directly, through an upstream of some group, or nowhere?
//!
//! The first rule that matches decides, so a list of rules reads from the exception to what is common. A rule
//! asks where a request leads, who sends it and from where; what it does not ask about does not matter to it.
//! The policy for domains of older files is such a list, too.
//!
//! Not here: what a group is and which of its upstreams it will be ([`crate::balance`]).

pub mod domains;
pub mod networks;
pub mod reach;

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::protocol::target::Host;

use self::domains::Domains;
use self::networks::Networks;

/// The way of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// To the origin itself.
    Direct,
    /// Nowhere: a rule refuses it.
    Refused,
    /// Through an upstream of the group at this place; of the whole pool where there is none.
    ViaUpstream(Option<usize>),
}

/// What a rule says of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ways {
    /// Its way.
    pub first: Route,
    /// The ways to take instead, in this order, while nobody is in service on those before.
    pub fallback: Vec<Route>,
}

/// One rule. What is `None` does not matter to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Where the request leads.
    pub domains: Option<Domains>,
    /// To which port there.
    pub ports: Option<Vec<RangeInclusive<u16>>>,
    /// As whom the client has authenticated.
    pub users: Option<HashSet<Box<str>>>,
    /// Where the client is.
    pub clients: Option<Networks>,
    /// What becomes of such a request.
    pub ways: Ways,
}

/// What rules want to know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Where it leads.
    pub host: &'a Host,
    /// To which port there.
    pub port: u16,
    /// As whom the client has authenticated, if it has.
    pub user: Option<&'a str>,
    /// Where the client is.
    pub client: IpAddr,
}

/// All rules, and what holds where none matches.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rules {
    /// The first that matches decides.
    pub rules: Vec<Rule>,
    /// What becomes of all other requests.
    pub default: Ways,
}

impl Default for Ways {
    /// Through an upstream of the pool.
    fn default() -> Self {
        Self::only(Route::ViaUpstream(None))
    }
}

impl Ways {
    /// This way or none.
    pub fn only(first: Route) -> Self {
        Self {
            first,
            fallback: Vec::new(),
        }
    }

    /// The first way on which somebody `serves`; the very first where nobody does on any of them.
    pub fn now(&self, serves: impl Fn(Option<usize>) -> bool) -> Route {
        if self.fallback.is_empty() {
            return self.first;
        }
        self.open(serves).unwrap_or(self.first)
    }

    /// The first way that is open: one through upstreams is while somebody `serves` there.
    pub fn open(&self, serves: impl Fn(Option<usize>) -> bool) -> Option<Route> {
        let is_open = |route: &Route| match route {
            Route::ViaUpstream(group) => serves(*group),
            Route::Direct | Route::Refused => true,
        };
        self.all().find(is_open)
    }

    fn all(&self) -> impl Iterator<Item = Route> {
        std::iter::once(self.first).chain(self.fallback.iter().copied())
    }
}

impl Rule {
    /// Whether it asks nothing, so it decides about whatever comes to it.
    fn matches_all(&self) -> bool {
        self.domains.is_none()
            && self.ports.is_none()
            && self.users.is_none()
            && self.clients.is_none()
    }

    fn matches(&self, asked: Asked<'_>) -> bool {
        let Asked {
            host,
            port,
            user,
            client,
        } = asked;
        let ports = self.ports.as_ref();
        let users = self.users.as_ref();
        // What costs least is asked first.
        ports.is_none_or(|ports| ports.iter().any(|ports| ports.contains(&port)))
            && users.is_none_or(|users| user.is_some_and(|user| users.contains(user)))
            && (self.clients.as_ref()).is_none_or(|clients| clients.contains(client))
            && (self.domains.as_ref()).is_none_or(|domains| match self.ways.first {
                // Nobody gets round it by another spelling of an address; and none opens a way.
                Route::Refused => domains.contains_in_disguise(host),
                Route::Direct | Route::ViaUpstream(_) => domains.contains(host),
            })
    }
}

impl Rules {
    /// The place of the rule that decides about a request, for [`Self::ways`]. Allocates nothing, but where a rule
    /// refuses and the target is an IPv6 address that carries another.
    pub fn decides(&self, asked: Asked<'_>) -> usize {
        let mut rules = self.rules.iter();
        let place = rules.position(|rule| rule.matches(asked));
        place.unwrap_or(self.rules.len())
    }

    /// What the rule at this place says.
    pub fn ways(&self, place: usize) -> &Ways {
        self.rules
            .get(place)
            .map_or(&self.default, |rule| &rule.ways)
    }

    /// What becomes of requests that no condition of a rule catches: what a rule without conditions says, else the
    /// default.
    pub fn ways_of_others(&self) -> &Ways {
        let rule = self.rules.iter().find(|rule| rule.matches_all());
        rule.map_or(&self.default, |rule| &rule.ways)
    }

    /// Whether any request can need an upstream. If not, an empty pool is fine.
    pub fn needs_upstream(&self) -> bool {
        let rules = self.rules.iter().map(|rule| &rule.ways);
        let mut ways = rules.chain([&self.default]).flat_map(Ways::all);
        ways.any(|route| matches!(route, Route::ViaUpstream(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::domains::Pattern;
    use super::networks::Network;
    use super::*;

    /// Conditions as text, each a word: `=NAME` a domain, `:PORT`, `@USER`, `<NETWORK`.
    fn rule(text: &str, first: Route) -> Rule {
        let all = |mark: char| {
            let words = text.split_whitespace();
            let words: Vec<_> = words.filter_map(|word| word.strip_prefix(mark)).collect();
            (!words.is_empty()).then_some(words)
        };
        let domain = |word: &str| Pattern::parse(word).unwrap();
        let network = |word: &str| Network::parse(word).unwrap();
        let port = |word: &str| word.parse().map(|port: u16| port..=port).unwrap();
        Rule {
            domains: all('=').map(|words| words.into_iter().map(domain).collect()),
            ports: all(':').map(|words| words.into_iter().map(port).collect()),
            users: all('@').map(|words| words.into_iter().map(Box::from).collect()),
            clients: all('<').map(|words| words.into_iter().map(network).collect()),
            ways: Ways::only(first),
        }
    }

    #[test]
    fn the_first_rule_all_of_whose_conditions_hold_decides() {
        let group = |place| Route::ViaUpstream(Some(place));
        let rules = Rules {
            rules: vec![
                rule("=intranet.test =10.0.0.0/8", Route::Direct),
                rule("=ads.test", Route::Refused),
                rule("@batch :443", group(0)),
                rule("<10.1.0.0/16 <fd00::/8 =b.test", group(1)),
                rule("@ann @bob", group(2)),
            ],
            default: Ways::only(group(3)),
        };
        for (host, port, user, client, wanted) in [
            (
                "intranet.test",
                443,
                Some("batch"),
                "10.1.0.1",
                Route::Direct,
            ),
            ("x.intranet.test", 80, None, "192.0.2.1", Route::Direct),
            ("10.9.9.9", 80, None, "192.0.2.1", Route::Direct),
            ("ads.test", 443, Some("batch"), "192.0.2.1", Route::Refused),
            ("a.test", 443, Some("batch"), "192.0.2.1", group(0)),
            ("a.test", 80, Some("batch"), "192.0.2.1", group(3)),
            ("a.test", 443, None, "192.0.2.1", group(3)),
            ("b.test", 80, None, "10.1.2.3", group(1)),
            ("b.test", 80, None, "::ffff:10.1.2.3", group(1)),
            ("b.test", 80, None, "fd12::1", group(1)),
            ("b.test", 80, Some("bob"), "10.2.2.3", group(2)),
            ("a.test", 80, Some("ann"), "10.1.2.3", group(2)),
            ("a.test", 80, Some("Ann"), "10.1.2.3", group(3)),
        ] {
            let host = match host.parse() {
                Ok(address) => Host::V4(address),
                Err(_) => Host::Name(host.into()),
            };
            let asked = Asked {
                host: &host,
                port,
                user,
                client: client.parse().unwrap(),
            };
            let ways = rules.ways(rules.decides(asked));
            assert_eq!(ways.first, wanted, "{asked:?}");
        }
    }

    #[test]
    fn who_refuses_a_network_refuses_it_in_every_spelling_and_no_other_rule_matches_more() {
        let rules = |first| Rules {
            rules: vec![rule("=10.0.0.0/8", first)],
            default: Ways::default(),
        };
        let way = |first, host: &str| {
            let rules = rules(first);
            let asked = Asked {
                host: &Host::V6(host.parse().unwrap()),
                port: 80,
                user: None,
                client: IpAddr::from([127, 0, 0, 1]),
            };
            rules.ways(rules.decides(asked)).first
        };
        let default = Ways::default().first;
        for host in [
            "::ffff:0:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2002:a00:1::",
        ] {
            assert_eq!(way(Route::Refused, host), Route::Refused, "{host}");
            assert_eq!(way(Route::Direct, host), default, "{host}");
        }
        assert_eq!(way(Route::Refused, "::ffff:10.0.0.1"), Route::Refused);
        assert_eq!(way(Route::Direct, "::ffff:10.0.0.1"), Route::Direct);
        assert_eq!(way(Route::Refused, "64:ff9b::b00:1"), default);
    }

    #[test]
    fn a_fallback_is_taken_while_nobody_before_it_serves() {
        let group = |place| Route::ViaUpstream(Some(place));
        let ways = |fallback: &[Route]| Ways {
            first: group(0),
            fallback: fallback.to_vec(),
        };
        for (fallback, serving, wanted) in [
            (&[] as &[Route], &[] as &[usize], group(0)),
            (&[], &[1], group(0)),
            (&[group(1)], &[0, 1], group(0)),
            (&[group(1)], &[1], group(1)),
            (&[group(1)], &[], group(0)),
            (&[group(1), Route::Direct], &[], Route::Direct),
            (&[group(1), Route::Direct], &[1], group(1)),
        ] {
            let serves = |group: Option<usize>| group.is_some_and(|place| serving.contains(&place));
            assert_eq!(
                ways(fallback).now(serves),
                wanted,
                "{fallback:?} {serving:?}"
            );
        }
    }

    #[test]
    fn a_pool_is_needed_where_any_way_leads_through_it() {
        let via = Route::ViaUpstream(None);
        let needs = |first, fallback: &[Route], default| {
            let mut rule = rule(":80", first);
            rule.ways.fallback = fallback.to_vec();
            let (rules, default) = (vec![rule], Ways::only(default));
            Rules { rules, default }.needs_upstream()
        };
        assert!(Rules::default().needs_upstream());
        assert!(needs(via, &[], Route::Direct));
        assert!(needs(Route::Direct, &[via], Route::Direct));
        assert!(needs(Route::Direct, &[], via));
        assert!(!needs(Route::Refused, &[], Route::Direct));
    }
}
