//! Why an upstream is offline, for people (a sentence) and for machines (a label).

use std::fmt;

/// What took an upstream offline, or keeps it there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OfflineReason {
    /// No connection could be made, for the reason given.
    ConnectFailed(&'static str),
    /// It closed or reset the connection before the first byte of a response.
    Closed,
    /// What it sent is not an HTTP/1.x response.
    Malformed,
    /// It answered 407, or 401 to CONNECT: the credentials configured for it are wrong or missing.
    Auth,
    /// A response body ended before its framing says so.
    Truncated,
    /// A probe was not answered in time.
    ProbeTimeout,
    /// A probe could not connect, for the reason given.
    ProbeConnect(&'static str),
    /// The connection of a probe was closed before a whole response head.
    ProbeClosed,
    /// The answer to a probe is not an HTTP/1.x response.
    ProbeMalformed,
    /// A probe was answered with this status, which is neither the one wanted nor 407.
    ///
    /// The upstream works; perhaps it cannot reach the target of the probe. So it serves as a last
    /// resort while nothing is online.
    ProbeStatus(u16),
}

impl OfflineReason {
    /// Short and stable, for metrics and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::ConnectFailed(_) => "connect",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::Auth => "auth",
            Self::Truncated => "truncated",
            Self::ProbeTimeout => "probe_timeout",
            Self::ProbeConnect(_) => "probe_connect",
            Self::ProbeClosed => "probe_closed",
            Self::ProbeMalformed => "probe_malformed",
            Self::ProbeStatus(_) => "probe_status",
        }
    }

    /// Whether a probe can have found this.
    pub fn is_from_probe(self) -> bool {
        match self {
            Self::Auth
            | Self::ProbeTimeout
            | Self::ProbeConnect(_)
            | Self::ProbeClosed
            | Self::ProbeMalformed
            | Self::ProbeStatus(_) => true,
            Self::ConnectFailed(_) | Self::Closed | Self::Malformed | Self::Truncated => false,
        }
    }

    /// Whether a request (or its origin) could bring this about at a healthy upstream. Most upstreams
    /// pass on a 407 that comes from the origin.
    pub fn may_be_the_requests(self) -> bool {
        matches!(
            self,
            Self::Closed | Self::Malformed | Self::Truncated | Self::Auth
        )
    }

    /// Whether an upstream that is offline for this reason may be used while nothing is online.
    pub fn allows_last_resort(self) -> bool {
        match self {
            Self::ProbeStatus(_) => true,
            Self::ConnectFailed(_)
            | Self::Closed
            | Self::Malformed
            | Self::Auth
            | Self::Truncated
            | Self::ProbeTimeout
            | Self::ProbeConnect(_)
            | Self::ProbeClosed
            | Self::ProbeMalformed => false,
        }
    }
}

impl fmt::Display for OfflineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectFailed(what) => write!(f, "cannot connect: {what}"),
            Self::Closed => f.write_str("closed the connection before a response"),
            Self::Malformed => f.write_str("malformed response"),
            Self::Auth => f.write_str("auth: refused the credentials configured for it"),
            Self::Truncated => f.write_str("response body cut short"),
            Self::ProbeTimeout => f.write_str("probe: no answer in time"),
            Self::ProbeConnect(what) => write!(f, "probe: cannot connect: {what}"),
            Self::ProbeClosed => f.write_str("probe: closed the connection before a response"),
            Self::ProbeMalformed => f.write_str("probe: malformed response"),
            Self::ProbeStatus(status) => write!(f, "probe: got {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_with_another_status_says_which() {
        assert_eq!(
            OfflineReason::ProbeStatus(403).to_string(),
            "probe: got 403"
        );
    }

    #[test]
    fn only_another_status_allows_the_last_resort() {
        assert!(OfflineReason::ProbeStatus(302).allows_last_resort());
        for reason in [
            OfflineReason::ConnectFailed("connection refused"),
            OfflineReason::Auth,
            OfflineReason::ProbeTimeout,
            OfflineReason::ProbeClosed,
        ] {
            assert!(!reason.allows_last_resort(), "{reason}");
        }
    }
}
