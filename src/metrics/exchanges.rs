//! Exchanges by route, method and status, and failures by cause: tables of counters that exist from the
//! start, so that counting is one addition, and a rate is right from the first event on.

use std::collections::BTreeMap;

use crate::protocol::answer::Refusal;
use crate::protocol::persistence::CloseReason;

use super::counter::Counter;

/// Which way an exchange went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteClass {
    /// It was answered here.
    None,
    /// To the origin.
    Direct,
    /// To an upstream.
    Upstream,
}

/// What kind of method a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodClass {
    /// No request could be read.
    Unread,
    /// A tunnel is wanted.
    Connect,
    /// It only asks (RFC 9110 §9.2.1): GET, HEAD, OPTIONS, TRACE.
    Safe,
    /// Every other one.
    Other,
}

/// Labels of [`RouteClass`], in its order.
pub const ROUTE_LABELS: [&str; 3] = ["none", "direct", "upstream"];
/// Labels of [`MethodClass`], in its order.
pub const METHOD_LABELS: [&str; 4] = ["unread", "connect", "safe", "other"];
/// Labels of the classes of status codes; the first one is for exchanges without a status.
pub const STATUS_LABELS: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl MethodClass {
    /// The class of a method.
    pub fn of(method: &str) -> Self {
        match method {
            "CONNECT" => Self::Connect,
            "GET" | "HEAD" | "OPTIONS" | "TRACE" => Self::Safe,
            _ => Self::Other,
        }
    }
}

/// Exchanges that ended, by route, method and status.
#[derive(Debug, Default)]
pub struct Exchanges {
    counters: [[[Counter; 6]; 4]; 3],
}

impl Exchanges {
    /// Counts one.
    pub fn count(&self, route: RouteClass, method: MethodClass, status: Option<u16>) {
        let class = status.map_or(0, |status| usize::from(status / 100));
        // A status beyond 599 is an upstream's invention; what it means is a failure.
        let counter = self
            .counters
            .get(route as usize)
            .and_then(|methods| methods.get(method as usize))
            .and_then(|statuses| statuses.get(class.min(STATUS_LABELS.len() - 1)));
        if let Some(counter) = counter {
            counter.increment();
        }
    }

    /// Every combination with its labels (route, method, status) and its number.
    pub fn all(&self) -> impl Iterator<Item = ([&'static str; 3], u64)> {
        let routes = ROUTE_LABELS.into_iter().zip(&self.counters);
        routes.flat_map(|(route, methods)| {
            let methods = METHOD_LABELS.into_iter().zip(methods);
            methods.flat_map(move |(method, statuses)| {
                let statuses = STATUS_LABELS.into_iter().zip(statuses);
                statuses.map(move |(status, counter)| ([route, method, status], counter.value()))
            })
        })
    }
}

/// The cause of an exchange whose response came from the next hop whole, but is 502, 503 or 504.
pub const RELAYED_GATEWAY_ERROR: &str = "relayed_gateway_error";
/// The cause of an exchange that ended without an answer for no other cause.
pub const UNANSWERED: &str = "unanswered";

/// Failed exchanges by cause. Each has exactly one.
#[derive(Debug)]
pub struct Failures(BTreeMap<&'static str, Counter>);

impl Default for Failures {
    fn default() -> Self {
        let closed = [
            CloseReason::ClientGone,
            CloseReason::ClientTooSlow,
            CloseReason::Draining,
            CloseReason::ResponseTruncated,
            CloseReason::Panicked,
        ];
        let refused = Refusal::all();
        let causes = refused.iter().map(Refusal::label);
        let causes = causes.chain(closed.map(CloseReason::label));
        let causes = causes.chain([RELAYED_GATEWAY_ERROR, UNANSWERED]);
        let mut counters = BTreeMap::new();
        // not `collect`, which sorts first: each sort makes the program 8 KB larger
        counters.extend(causes.map(|cause| (cause, Counter::default())));
        Self(counters)
    }
}

impl Failures {
    /// Counts one with this cause.
    pub fn count(&self, cause: &str) {
        if let Some(counter) = self.0.get(cause).or_else(|| self.0.get(UNANSWERED)) {
            counter.increment();
        }
    }

    /// Every cause with its number, sorted.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0
            .iter()
            .map(|(cause, counter)| (*cause, counter.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_counted_once_where_it_belongs() {
        let exchanges = Exchanges::default();
        exchanges.count(RouteClass::Direct, MethodClass::Safe, Some(204));
        let counted: Vec<_> = exchanges.all().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(["direct", "safe", "2xx"], 1)]);
        assert_eq!(exchanges.all().count(), 72);
    }

    #[test]
    fn no_status_and_strange_ones_have_a_place() {
        let exchanges = Exchanges::default();
        for status in [None, Some(999)] {
            exchanges.count(RouteClass::None, MethodClass::Unread, status);
        }
        let counted: Vec<_> = exchanges.all().filter(|(_, count)| *count > 0).collect();
        assert_eq!(
            counted,
            [
                (["none", "unread", "none"], 1),
                (["none", "unread", "5xx"], 1)
            ]
        );
    }

    #[test]
    fn the_labels_stand_in_the_order_of_their_places() {
        for (route, label) in [
            (RouteClass::None, "none"),
            (RouteClass::Direct, "direct"),
            (RouteClass::Upstream, "upstream"),
        ] {
            assert_eq!(ROUTE_LABELS[route as usize], label);
        }
        for (method, label) in [
            (MethodClass::Unread, "unread"),
            (MethodClass::Connect, "connect"),
            (MethodClass::Safe, "safe"),
            (MethodClass::Other, "other"),
        ] {
            assert_eq!(METHOD_LABELS[method as usize], label);
        }
    }

    #[test]
    fn every_refusal_has_a_counter_of_its_own() {
        let failures = Failures::default();
        let refusals = Refusal::all();
        for refusal in &refusals {
            failures.count(refusal.label());
        }
        for refusal in &refusals {
            let counted = failures.all().find(|(label, _)| *label == refusal.label());
            assert_eq!(counted.map(|(_, count)| count), Some(1), "{refusal:?}");
        }
    }

    #[test]
    fn an_unknown_cause_is_not_lost() {
        let failures = Failures::default();
        failures.count("no such cause");
        let sum: u64 = failures.all().map(|(_, count)| count).sum();
        assert_eq!(sum, 1);
    }
}
