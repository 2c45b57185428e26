//! `/connections` as JSON: who is connected, where to, through whom, and since when; a page at a time.

use std::time::{Duration, Instant};

use crate::json::{self, JsonText, Members, members};
use crate::relay::connections::{Connection, Connections, Work};
use crate::relay::report::RouteTaken;
use crate::relay::unix_ms;

use super::status::moment;

/// The connections with numbers above `after`, as far as one answer has room for them.
pub(super) fn page(connections: &Connections, after: u64) -> String {
    let page = connections.page(after);
    let (now, unix_ms) = (Instant::now(), unix_ms());
    let ago = |age: Duration| {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        moment(unix_ms.saturating_sub(age))
    };
    let one = |one: Connection| {
        members! {
            "id": one.id,
            "client": one.client.to_string(),
            "since": ago(one.age),
            ..work(one.work.as_deref(), &|since| ago(now.saturating_duration_since(since))),
            "bytes_received": one.received,
            "bytes_sent": one.sent,
        }
    };
    json::document(members! {
        "total": page.total,
        "connections": page.connections.into_iter().map(one).collect::<JsonText>(),
        "next": page.next,
    })
}

/// What a connection does, if it does anything.
fn work(work: Option<&Work>, moment: &dyn Fn(Instant) -> String) -> Members {
    let state = match work {
        None => "idle",
        Some(Work {
            is_tunnel: true, ..
        }) => "tunnel",
        Some(_) => "request",
    };
    let (route, upstream) = match work.map(|work| &work.route) {
        None | Some(RouteTaken::None) => (None, None),
        Some(RouteTaken::Direct) => (Some("direct"), None),
        Some(RouteTaken::Upstream(upstream)) => {
            (Some("upstream"), Some(upstream.spec.name.as_str()))
        }
    };
    members! {
        "state": state,
        "state_since": work.map(|work| moment(work.since)),
        "user": work.map(|work| work.user.as_str()).filter(|user| !user.is_empty()),
        "target": work.map(|work| work.target.as_str()),
        "route": route,
        "upstream": upstream,
    }
}
