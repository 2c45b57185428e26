//! Which requests keep their upstream, and which answers let an upstream rest: the blocks `sticky` and `rest`.

use std::fmt::{self, Formatter};
use std::time::Duration;

use super::access::AccessRules;
use super::reader::{KeyBlock, Located, quote};

/// Requests that keep their upstream: the block `sticky`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// What a session is known by.
    pub by: StickyBy,
    /// For how long after its last request a session keeps its upstream.
    pub ttl: Duration,
    /// How many sessions are remembered.
    pub max_sessions: usize,
}

/// What a session is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StickyBy {
    /// The client's address; of IPv6 the first 64 bits.
    Client,
    /// The user that the client has authenticated as.
    User,
    /// What stands behind `-session-` in the user name that the client presents.
    Session,
    /// The host of the target.
    Target,
}

/// Which answers let an upstream rest, and for how long: one of the list `rest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestRule {
    /// Statuses that begin a rest.
    pub statuses: Vec<u16>,
    /// For how long, unless the answer says `Retry-After`.
    pub rest: Duration,
    /// For what.
    pub scope: RestScope,
    /// Whether another upstream is asked now.
    pub retry: bool,
}

/// For what an upstream rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestScope {
    /// The host that answered so.
    Host,
    /// All hosts.
    Upstream,
}

impl Sticky {
    /// Reads the block. `None`: no request keeps its upstream.
    pub(super) fn read(block: &KeyBlock<'_>, access: &AccessRules) -> Option<Self> {
        let by = match block.word("by") {
            "client" => Some(StickyBy::Client),
            "user" => Some(StickyBy::User),
            "session" => Some(StickyBy::Session),
            "target" => Some(StickyBy::Target),
            _ => None,
        };
        if by == Some(StickyBy::User) && access.users.is_empty() {
            block.place_of("by").advice(
                "without `access.users` nobody is a user, and no request is sticky: list users, or write another word",
            );
        }
        let (ttl, max_sessions) = (block.seconds("ttl_secs"), block.size("max_sessions"));
        Some(Self {
            by: by?,
            ttl,
            max_sessions,
        })
    }
}

impl RestRule {
    /// Reads the list.
    pub(super) fn read(root: &KeyBlock<'_>) -> Vec<Self> {
        let items = root.list("rest").unwrap_or_default().into_iter();
        let rules: Vec<_> = items
            .map(|item| {
                let block = KeyBlock::open(item, "rest[]");
                let scope = match block.word("scope") {
                    "upstream" => RestScope::Upstream,
                    _ => RestScope::Host,
                };
                Self {
                    statuses: read_statuses(&block),
                    rest: block.seconds("secs"),
                    scope,
                    retry: block.switch("retry"),
                }
            })
            .collect();
        let told: Vec<_> = rules.iter().map(ToString::to_string).collect();
        let told = Some(told.join("; ")).filter(|told| !told.is_empty());
        root.hold("rest", told.unwrap_or_else(|| "none".to_owned()));
        rules
    }
}

impl fmt::Display for RestRule {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let statuses: Vec<_> = self.statuses.iter().map(u16::to_string).collect();
        let scope = match self.scope {
            RestScope::Host => "for the host",
            RestScope::Upstream => "for all hosts",
        };
        let retry = if self.retry {
            ", and others are asked"
        } else {
            ""
        };
        let (statuses, rest) = (statuses.join(", "), self.rest.as_secs_f64());
        write!(out, "{statuses}: {rest} s {scope}{retry}")
    }
}

fn read_statuses(block: &KeyBlock<'_>) -> Vec<u16> {
    let listed = block.texts("status");
    let is_no_list = listed.is_none() && block.item("status").is_some();
    let listed = listed.unwrap_or_default();
    if listed.is_empty() && !is_no_list {
        let place = block.place_of("status");
        place.error("name the answers that begin a rest: write `status: [429, 403]`");
    }
    let status = |Located { place, value }: Located<'_, &str>| {
        let status = value.trim().parse().ok();
        let status = status.filter(|status| (300..600).contains(status));
        if status.is_none() {
            place.error(format!(
                "{} is no status that an upstream can rest for: write a number from 300 to 599",
                quote(value)
            ));
        }
        status
    };
    listed.into_iter().filter_map(status).collect()
}

#[cfg(test)]
mod tests {
    use crate::config;

    fn parse(text: &str) -> Result<config::checked::Config, String> {
        let text = format!("listen: 127.0.0.1:0\nupstream: []\n{text}");
        config::parse(&text, "test.yaml").map_err(|errors| errors.to_string())
    }

    #[test]
    fn rests_are_told_in_words() {
        let rules = "rest: [{status: [429, 403]}, {status: [503], secs: 0.5, scope: upstream, retry: true}]";
        let config = parse(rules).unwrap();
        assert_eq!(
            config.values["rest"],
            "429, 403: 60 s for the host; 503: 0.5 s for all hosts, and others are asked"
        );
    }

    #[test]
    fn a_rest_without_a_status_or_for_a_success_is_refused() {
        for (rule, said) in [
            ("{secs: 5}", "name the answers"),
            ("{status: 429}", "status: "),
            ("{status: []}", "name the answers"),
            ("{status: [200]}", "from 300 to 599"),
            ("{status: [many]}", "from 300 to 599"),
        ] {
            let errors = parse(&format!("rest: [{rule}]")).unwrap_err();
            assert!(errors.contains(said), "{rule}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{rule}: {errors}");
        }
    }

    #[test]
    fn who_wants_users_to_be_sticky_is_told_where_there_are_none() {
        let warned = |text: &str| {
            let warnings = parse(text).unwrap().warnings;
            warnings
                .iter()
                .any(|one| one.to_string().contains("no request is sticky"))
        };
        assert!(warned("sticky: {by: user}"));
        assert!(!warned(
            "sticky: {by: user}\naccess: {users: [{username: a, password: x}]}"
        ));
        assert!(!warned("sticky: {by: client}"));
    }
}
