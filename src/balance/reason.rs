//! What is held against an upstream, for people (a sentence) and for machines (a label).
//!
//! Two kinds, kept apart by their types. An [`OfflineReason`] is proof: only what was seen of the
//! upstream itself. A [`Doubt`] may as well be the work of an origin, a client or the target of the
//! probe; it asks for a check and takes nobody out of service.

use std::fmt;

/// Why an upstream is offline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OfflineReason {
    /// No connection could be made, for the reason given.
    CannotConnect(&'static str),
    /// It accepts connections and answers nothing.
    Silent,
    /// It closes each connection without an answer, to the check as well.
    Closes,
    /// What it answers to the check is not HTTP.
    NotHttp,
    /// It answered the probe with 407 (or 401, where credentials were sent).
    Auth,
    /// The probe got this status through it, and passed through another upstream.
    ProbeStatus(u16),
    /// The probe was not answered through it, and passed through another upstream.
    ProbeUnanswered,
    /// While no probe could tell: it answered with gateway errors what others served.
    Outlier,
}

/// What makes an upstream a suspect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// It closed or reset a fresh connection before a byte of the response.
    Closed,
    /// It sent something that is not HTTP.
    NotHttp,
    /// It sent a response that cannot be passed on.
    Refused,
    /// A response was cut short.
    Truncated,
    /// It has not answered a complete request, or does not take a body, for half the time of a check.
    Silent,
    /// It asked for credentials.
    Auth,
    /// It answered 502, 503 or 504 three times in a row, for at least two targets.
    GatewayErrors,
    /// It could not be connected to, fewer times in a row than `health_check.fall`.
    CannotConnect,
}

/// How much a check has to find out. Ordered: who knows the second, knows the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Depth {
    /// Whether the upstream answers for itself.
    Itself,
    /// Whether it passes the probe, too.
    Probe,
}

impl OfflineReason {
    /// Short and stable, for metrics and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::CannotConnect(_) => "connect",
            Self::Silent => "silent",
            Self::Closes => "closed",
            Self::NotHttp => "malformed",
            Self::Auth => "auth",
            Self::ProbeStatus(_) => "probe_status",
            Self::ProbeUnanswered => "probe_timeout",
            Self::Outlier => "outlier",
        }
    }

    /// The order of trials while nobody is in service: the least bad reason first. One that refuses
    /// connections costs a trial nothing; one that answers nothing costs it the whole wait.
    pub(super) fn badness(self) -> u8 {
        match self {
            Self::Outlier => 0,
            Self::ProbeStatus(_) => 1,
            Self::ProbeUnanswered => 2,
            Self::CannotConnect(_) => 3,
            Self::NotHttp => 4,
            Self::Closes => 5,
            Self::Auth => 6,
            Self::Silent => 7,
        }
    }
}

impl Doubt {
    /// Short and stable, for metrics and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::NotHttp => "malformed",
            Self::Refused => "refused",
            Self::Truncated => "truncated",
            Self::Silent => "silent",
            Self::Auth => "auth",
            Self::GatewayErrors => "gateway_errors",
            Self::CannotConnect => "connect",
        }
    }

    /// What a check must find out to end it. A response that was cut, malformed or missing says
    /// nothing about what lies beyond the upstream, so a round trip to the upstream itself decides.
    pub fn depth(self) -> Depth {
        match self {
            Self::Closed
            | Self::NotHttp
            | Self::Refused
            | Self::Truncated
            | Self::CannotConnect => Depth::Itself,
            Self::Silent | Self::Auth | Self::GatewayErrors => Depth::Probe,
        }
    }
}

impl fmt::Display for OfflineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotConnect(what) => write!(f, "cannot connect: {what}"),
            Self::Silent => f.write_str("accepts connections and answers nothing"),
            Self::Closes => f.write_str("closes connections without an answer"),
            Self::NotHttp => f.write_str("answers something that is not HTTP"),
            Self::Auth => f.write_str("auth: refused the credentials configured for it"),
            Self::ProbeStatus(status) => write!(f, "probe: got {status}"),
            Self::ProbeUnanswered => f.write_str("probe: no answer"),
            Self::Outlier => f.write_str("fails what others serve"),
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed a connection before a response",
            Self::NotHttp => "sent something that is not HTTP",
            Self::Refused => "sent a response that cannot be passed on",
            Self::Truncated => "a response was cut short",
            Self::Silent => "silent for half of health_check.timeout_secs",
            Self::Auth => "asked for credentials",
            Self::GatewayErrors => "answered 502, 503 or 504 three times in a row",
            Self::CannotConnect => "could not be connected to",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_a_sentence_without_credentials_or_line_breaks() {
        for reason in [
            OfflineReason::CannotConnect("connection refused"),
            OfflineReason::Silent,
            OfflineReason::Closes,
            OfflineReason::NotHttp,
            OfflineReason::Auth,
            OfflineReason::ProbeStatus(403),
            OfflineReason::ProbeUnanswered,
            OfflineReason::Outlier,
        ] {
            let (words, label) = (reason.to_string(), reason.label());
            assert!(
                !words.contains('\n') && words.len() > label.len(),
                "{words}"
            );
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }

    #[test]
    fn what_an_origin_can_do_to_a_response_is_settled_by_a_round_trip() {
        for doubt in [
            Doubt::Closed,
            Doubt::NotHttp,
            Doubt::Refused,
            Doubt::Truncated,
        ] {
            assert_eq!(doubt.depth(), Depth::Itself, "{doubt}");
        }
        for doubt in [Doubt::Silent, Doubt::Auth, Doubt::GatewayErrors] {
            assert_eq!(doubt.depth(), Depth::Probe, "{doubt}");
        }
    }
}
