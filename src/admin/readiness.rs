//! Whether this instance can serve, and if not, why.

use crate::relay::{Context, Snapshot};
use crate::stop::Stage;

/// Whether requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Yes.
    Ready,
    /// No: it is about to end.
    Draining,
    /// No: the file names no upstream.
    NoUpstreamConfigured,
    /// No: none is online.
    NoUpstreamOnline,
    /// No: none that is online takes requests.
    AllDrained,
}

impl Readiness {
    /// How it is now.
    pub(super) fn of(ctx: &Context, snapshot: &Snapshot) -> Self {
        if ctx.stop.stage() != Stage::Running {
            return Self::Draining;
        }
        let pool = &snapshot.pool;
        if pool.serving().next().is_some() || !snapshot.config.rules.needs_upstream() {
            Self::Ready
        } else if pool.upstreams().is_empty() {
            Self::NoUpstreamConfigured
        } else if pool.online_count() > 0 {
            Self::AllDrained
        } else {
            Self::NoUpstreamOnline
        }
    }

    /// Whether requests are served.
    pub(super) fn is_ready(self) -> bool {
        match self {
            Self::Ready => true,
            Self::Draining
            | Self::NoUpstreamConfigured
            | Self::NoUpstreamOnline
            | Self::AllDrained => false,
        }
    }

    /// What is not as it should be.
    pub(super) fn reason(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::Draining => Some("draining"),
            Self::NoUpstreamConfigured => Some("no upstream is configured"),
            Self::NoUpstreamOnline => Some("no upstream is online"),
            Self::AllDrained => Some("every upstream that is online is drained"),
        }
    }
}
