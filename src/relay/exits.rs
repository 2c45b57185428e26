//! What a request wants of its upstream beyond what the mode says: that of its session (`sticky`), and none that
//! rests for its target (`rest`).
//!
//! All of it is made once for a request, and only where the configuration asks for it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::balance::connect::TELLING_PORT;
use crate::balance::failover::AttemptError;
use crate::balance::sticky::SessionKey;
use crate::balance::wish::{Session, Wish};
use crate::config::checked::Config;
use crate::config::exits::StickyBy;
use crate::protocol::credentials::{self, Credentials};
use crate::protocol::head::RequestHead;
use crate::protocol::target::{Authority, Host};

use super::failed::RESTS;

/// Stands in a user name before the name of a session.
const SESSION: &[u8] = b"-session-";

/// The login that a client presents. `Debug` shows nothing of it.
pub struct Login<'h> {
    /// The field's value as received, where anybody asks for it.
    received: Option<&'h [u8]>,
    session: Option<NamedSession>,
}

/// The session that a user name ends with, as in `someone-session-a1b2`.
struct NamedSession {
    /// The whole name: each user has sessions of his own.
    name: Vec<u8>,
    /// What the field's value would be without the session.
    login: Vec<u8>,
    /// Where in `name` that of the session begins.
    begins: usize,
}

/// What a request wants.
#[derive(Debug)]
pub(super) struct Wanted {
    /// To stay with the upstream of this session.
    pub(super) session: Option<Session>,
    /// Who wants it: a user, or else the address of a client. One has many sessions.
    pub(super) by: SessionKey,
    /// The host of its target, with the port where that is not the usual one: what upstreams rest for.
    pub(super) host: Arc<str>,
}

impl fmt::Debug for Login<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Login(..)")
    }
}

impl<'h> Login<'h> {
    /// That of this request.
    pub fn of(head: &'h RequestHead, config: &Config) -> Self {
        let has_sessions = config.has_sessions();
        let received = if has_sessions || !config.access.users.is_empty() {
            head.fields().values("Proxy-Authorization").next()
        } else {
            None
        };
        let session = received.filter(|_| has_sessions);
        Self {
            received,
            session: session.and_then(NamedSession::in_login),
        }
    }

    /// What the client calls its session.
    pub(super) fn session(&self) -> Option<&[u8]> {
        let session = self.session.as_ref()?;
        session.name.get(session.begins..)
    }

    /// Whether these credentials are presented. The time it takes tells no more than the lengths.
    pub fn presents(&self, credentials: &Credentials) -> bool {
        self.received
            .is_some_and(|value| credentials.are_presented_by(value))
    }

    /// The same, with a session behind the user name.
    pub fn presents_with_session(&self, credentials: &Credentials) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|it| credentials.are_presented_by(&it.login))
    }
}

impl NamedSession {
    fn in_login(field_value: &[u8]) -> Option<Self> {
        let (name, password) = credentials::presented_pair(field_value)?;
        let mut places = name.windows(SESSION.len());
        let end = places.rposition(|letters| letters == SESSION)?;
        let (user, session) = name.split_at_checked(end)?;
        let login = credentials::basic_value(user, &password);
        let is_named = session.len() > SESSION.len();
        let begins = end + SESSION.len();
        is_named.then_some(Self {
            name,
            login,
            begins,
        })
    }
}

impl Wanted {
    /// What a request to `target` wants, which comes from this address and user and presents this login.
    /// `None`: nothing.
    pub(super) fn of(
        config: &Config,
        (client, user, login): (IpAddr, Option<&str>, &Login<'_>),
        target: Target<'_>,
    ) -> Option<Box<Self>> {
        if config.sticky.is_none() && config.rest.is_empty() {
            return None;
        }
        let host = host_name(target.authority.host());
        let session = config.sticky.as_ref().and_then(|sticky| {
            let key = match sticky.by {
                StickyBy::Client => key_of_client(client),
                StickyBy::User => SessionKey::new(user?.as_bytes()),
                StickyBy::Session => SessionKey::new(&login.session.as_ref()?.name),
                StickyBy::Target => SessionKey::new(host.as_bytes()),
            };
            Some(Session {
                key,
                ttl: sticky.ttl,
                most: sticky.max_sessions,
            })
        });
        let host = target.rests_for(&host).into();
        let by = user.map_or_else(
            || key_of_client(client),
            |user| SessionKey::new(user.as_bytes()),
        );
        Some(Box::new(Self { session, by, host }))
    }

    /// The same for a pick now, after this failure: if it is an answer that began a rest, nobody who rests is asked.
    pub(super) fn wish(&self, last: Option<AttemptError>) -> Wish<'_> {
        Wish {
            session: self.session,
            host: Some(&self.host),
            only_rested: last == Some(RESTS),
            now: Instant::now(),
        }
    }
}

/// Where a request leads.
#[derive(Clone, Copy)]
pub(super) struct Target<'t> {
    pub(super) authority: &'t Authority,
    /// The port that its scheme has.
    pub(super) default_port: u16,
    /// CONNECT asks for it.
    pub(super) is_tunnel: bool,
}

impl Target<'_> {
    /// What an upstream rests for whose answer begins a rest. Upstreams refuse many ports by rules of their own, and
    /// to CONNECT more than to others: whoever asks for such a port tells nothing of the site at the usual one.
    fn rests_for(self, host: &str) -> String {
        let port = self.authority.port();
        match self.is_tunnel {
            true if port == TELLING_PORT => host.to_owned(),
            true => format!("CONNECT {host}:{port}"),
            false if port == self.default_port => host.to_owned(),
            false => format!("{host}:{port}"),
        }
    }
}

/// A client has one IPv4 address, or the first half of an IPv6 one: the rest it changes as it likes.
pub(super) fn key_of_client(address: IpAddr) -> SessionKey {
    match address.to_canonical() {
        IpAddr::V4(v4) => SessionKey::new(&v4.octets()),
        IpAddr::V6(v6) => SessionKey::new(&(v6.to_bits() >> 64).to_be_bytes()),
    }
}

/// The host of a target, as one word.
pub(super) fn host_name(target: &Host) -> String {
    let mut name = target.to_string();
    if name.ends_with('.') {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_ipv4_address_or_the_first_half_of_an_ipv6_one() {
        let key = |address: &str| key_of_client(address.parse().unwrap());
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:0:0:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    }
}
