//! What is held against an upstream, for people (a sentence) and for machines (a label).
//!
//! Two kinds, kept apart by their types. An [`OfflineReason`] is proof: only what was seen of the
//! upstream itself. A [`Doubt`] may as well be the work of an origin, a client or the target of the
//! probe; it asks for a check and takes no upstream out of service.

use std::fmt;

/// Why there is no connection to an upstream: there is no such name.
pub const NO_NAME: &str = "its name cannot be resolved";
/// The same: no name server answers.
pub const NO_NAME_IN_TIME: &str = "its name was not resolved in time";

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
    /// What it answers to a SOCKS5 greeting is something else.
    NotSocks,
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
    /// It sent something that is not SOCKS5.
    NotSocks,
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Depth {
    /// Whether the upstream answers for itself.
    #[default]
    Itself,
    /// Whether it passes the probe, too.
    Probe,
}

impl OfflineReason {
    /// Label, badness, words.
    fn row(self) -> (&'static str, u8, &'static str) {
        match self {
            Self::Outlier => ("outlier", 0, "fails what others serve"),
            Self::ProbeStatus(_) => ("probe_status", 1, "probe: got"),
            Self::ProbeUnanswered => ("probe_timeout", 2, "probe: no answer"),
            Self::CannotConnect(_) => ("connect", 3, "cannot connect:"),
            Self::NotHttp => ("malformed", 4, "answers something that is not HTTP"),
            Self::NotSocks => ("not_socks", 4, "answers something that is not SOCKS5"),
            Self::Closes => ("closed", 5, "closes connections without an answer"),
            Self::Auth => ("auth", 6, "auth: refused the credentials configured for it"),
            Self::Silent => ("silent", 7, "accepts connections and answers nothing"),
        }
    }

    /// Short and stable, for metrics and JSON.
    pub fn label(self) -> &'static str {
        self.row().0
    }

    /// Whether it is the name that leads nowhere.
    pub(super) fn is_about_name(self) -> bool {
        matches!(self, Self::CannotConnect(NO_NAME | NO_NAME_IN_TIME))
    }

    /// The order of trials while no upstream is in service: the least bad reason first. One that refuses
    /// connections costs a trial nothing; one that answers nothing costs it the whole wait.
    pub(super) fn badness(self) -> u8 {
        self.row().1
    }
}

impl Doubt {
    /// Label, depth, words.
    fn row(self) -> (&'static str, Depth, &'static str) {
        use Depth::{Itself, Probe};
        match self {
            Self::Closed => ("closed", Itself, "closed a connection before a response"),
            Self::NotHttp => ("malformed", Itself, "sent something that is not HTTP"),
            Self::NotSocks => ("not_socks", Itself, "sent something that is not SOCKS5"),
            Self::Refused => (
                "refused",
                Itself,
                "sent a response that cannot be passed on",
            ),
            Self::Truncated => ("truncated", Itself, "a response was cut short"),
            Self::CannotConnect => ("connect", Itself, "could not be connected to"),
            Self::Silent => (
                "silent",
                Probe,
                "silent for half of health_check.timeout_secs",
            ),
            Self::Auth => ("auth", Probe, "asked for credentials"),
            Self::GatewayErrors => (
                "gateway_errors",
                Probe,
                "answered 502, 503 or 504 three times in a row",
            ),
        }
    }

    /// Short and stable, for metrics and JSON.
    pub fn label(self) -> &'static str {
        self.row().0
    }

    /// What a check must find out to end it. A response that was cut, malformed or missing says
    /// nothing about what lies beyond the upstream, so a round trip to the upstream itself decides.
    pub fn depth(self) -> Depth {
        self.row().1
    }
}

impl fmt::Display for OfflineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, _, words) = self.row();
        match self {
            Self::CannotConnect(what) => write!(f, "{words} {what}"),
            Self::ProbeStatus(status) => write!(f, "{words} {status}"),
            Self::Silent
            | Self::Closes
            | Self::NotHttp
            | Self::NotSocks
            | Self::Auth
            | Self::ProbeUnanswered
            | Self::Outlier => f.write_str(words),
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().2)
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
            OfflineReason::NotSocks,
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
            Doubt::NotSocks,
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
