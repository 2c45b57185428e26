//! What an upstream is told of the client of a request: a user name of its own, a field with its address, a PROXY
//! header.
//!
//! Some proxies take whoever has authenticated on a connection for who asks from then on. So a connection that was used
//! in one name serves no request that goes in another.

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::net::IpAddr;

use crate::balance::told::{Part, Parts, safe};
use crate::balance::upstream::Upstream;
use crate::config::checked::Config;
use crate::config::exits::StickyBy;
use crate::net::idle_pool::SharedBy;
use crate::protocol::credentials::Credentials;
use crate::protocol::forwarded::ForwardedFor;
use crate::protocol::proxy_header;
use crate::protocol::target::Host;

use super::client::Client;
use super::context::Context;
use super::exchange::Exchange;
use super::exits::{Login, host_name};
use super::hop::{Hop, HopOrigin};

/// What a request is known by, if there is an upstream that is told so. The session is what the client calls it; else
/// what the request is sticky by; else one for this request alone.
pub(super) fn parts(
    config: &Config,
    (ctx, client): (&Context, &Client),
    (address, user, login): (IpAddr, Option<&str>, &Login<'_>),
    target: &Host,
) -> Option<Box<Parts>> {
    if config.told_parts.is_empty() {
        return None;
    }
    let (client_part, user) = (
        address_part(address),
        user.map(|user| safe(user.as_bytes())),
    );
    let by = config.sticky.as_ref().map(|sticky| sticky.by);
    let session = match (login.session(), by) {
        (Some(session), _) => Some(safe(session)),
        (None, Some(StickyBy::Client)) => Some(client_part.clone()),
        (None, Some(StickyBy::User)) => user.clone(),
        (None, Some(StickyBy::Target)) => Some(safe(host_name(target).as_bytes())),
        (None, Some(StickyBy::Session) | None) => None,
    };
    let once = || {
        let request = (client.id.number(), client.served);
        format!("{:016x}", ctx.target_hasher.hash_one(request))
    };
    Some(Box::new(Parts {
        is_session_shared: session.is_some(),
        session: session.unwrap_or_else(once),
        user: user.unwrap_or_default(),
        client: client_part,
    }))
}

/// An IPv4 address, or the first half of an IPv6 one, in hexadecimal digits.
fn address_part(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("{:08x}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{:016x}", v6.to_bits() >> 64),
    }
}

impl<'a> Exchange<'a> {
    /// The credentials that `upstream` is told with this request.
    pub(super) fn credentials<'u>(&self, upstream: &'u Upstream) -> Option<Cow<'u, Credentials>> {
        let username = upstream.spec.told.username.as_ref();
        match username.zip(self.state.destination.parts.as_ref()) {
            Some((username, parts)) => Some(Cow::Owned(username.fill(parts))),
            None => upstream.spec.credentials.as_ref().map(Cow::Borrowed),
        }
    }

    /// What an HTTP proxy is told in `Proxy-Authorization`.
    pub(super) fn authorization<'u>(&self, upstream: &'u Upstream) -> Option<Cow<'u, [u8]>>
    where
        'a: 'u,
    {
        if upstream.spec.told.passes_credentials {
            let mut received = self.head.fields().values("Proxy-Authorization");
            return received.next().map(Cow::Borrowed);
        }
        Some(match self.credentials(upstream)? {
            Cow::Borrowed(fixed) => Cow::Borrowed(fixed.authorization().as_bytes()),
            Cow::Owned(filled) => Cow::Owned(filled.authorization().as_bytes().to_vec()),
        })
    }

    /// What an HTTP proxy is told of the client in a field of its own.
    pub(super) fn forwarded(&self) -> Option<ForwardedFor> {
        let field = self.snapshot.config.forwarded?;
        let client = self.client.address.ip();
        Some(ForwardedFor { field, client })
    }

    /// Appends the PROXY header with which a connection to the upstream of `hop` begins, if it begins here.
    pub(super) fn write_proxy_header(&self, hop: &Hop, out: &mut Vec<u8>) {
        let lease = hop.lease.as_ref();
        let version = lease.and_then(|lease| lease.upstream().spec.told.proxy_header);
        if let (Some(version), HopOrigin::Fresh) = (version, hop.origin) {
            let to = self.client.conn.stream().local_addr().ok();
            let ends = to.map(|to| (self.client.address, to));
            proxy_header::write(version, ends, out);
        }
    }

    /// With which other requests this one shares connections to `upstream`. `None`: with none.
    pub(super) fn shared_by(&self, upstream: &Upstream) -> Option<SharedBy> {
        let (spec, told) = (&upstream.spec, &upstream.spec.told);
        // A SOCKS5 proxy is told the login once a connection, which is of no use any more once that is another.
        let has_login = spec.is_socks() && spec.credentials.is_some();
        if told.is_nothing() && !has_login {
            return Some(SharedBy::All);
        }
        let parts = self.state.destination.parts.as_ref();
        let has_own = parts.is_some_and(|parts| !parts.is_session_shared);
        if told.has(Part::Session) && has_own {
            return None;
        }
        // The upstream takes all that comes on the connection for this client's.
        let client = told.is_one_clients().then(|| self.client.id.number());
        let told = (self.credentials(upstream), client);
        Some(SharedBy::Alike(self.ctx.target_hasher.hash_one(told)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_in_digits() {
        for (address, wanted) in [
            ("192.0.2.1", "c0000201"),
            ("::ffff:192.0.2.1", "c0000201"),
            ("2001:db8::1", "20010db800000000"),
            ("2001:db8::ffff:0:0:2", "20010db800000000"),
            ("::1", "0000000000000000"),
        ] {
            assert_eq!(address_part(address.parse().unwrap()), wanted, "{address}");
        }
    }
}
