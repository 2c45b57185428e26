//! Why there is no request, and why an attempt, or the exchange with it, brought no response.

use crate::balance::failover::AttemptError;
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::head::HeadError;
use crate::protocol::persistence::CloseReason;

/// Why a connection has brought no request.
#[derive(Debug)]
pub enum NoRequest {
    /// The rest is still to come.
    Incomplete,
    /// It is there, and must wait until it may be worked at.
    NotYet,
    /// The connection ended before.
    Ended,
    /// What came is none, or not from where it may come.
    Refused(Refusal),
}

/// An answer began a rest: another upstream is asked.
pub(super) const RESTS: AttemptError = AttemptError::NoResponse(HopFailure::UpstreamRests);

impl From<HeadError> for NoRequest {
    fn from(error: HeadError) -> Self {
        Self::Refused(error.into())
    }
}

/// Why an attempt brought no response.
#[derive(Debug)]
pub enum Failed {
    /// The next hop; another may do.
    Hop(AttemptError),
    /// The client's request cannot be completed.
    Refused(Refusal),
    /// The client cannot be answered.
    Closed(CloseReason),
}

impl Failed {
    /// Its name in the log.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Hop(error) => error.failure().label(),
            Self::Refused(refusal) => refusal.label(),
            Self::Closed(reason) => reason.label(),
        }
    }

    pub(super) fn no_response(failure: HopFailure) -> Self {
        Self::Hop(AttemptError::NoResponse(failure))
    }
}

pub(super) fn truncated(failure: HopFailure) -> Failed {
    Failed::Hop(AttemptError::Truncated(failure))
}

/// The same failure once the client has something of the response.
pub(super) fn begun(failed: Failed) -> Failed {
    match failed {
        Failed::Hop(AttemptError::NoResponse(failure)) => truncated(failure),
        Failed::Hop(_) | Failed::Refused(_) | Failed::Closed(_) => failed,
    }
}

/// The same, but the client has nothing of the response yet: what came with its head was broken.
pub(super) fn unsent(failed: Failed) -> Failed {
    match failed {
        Failed::Hop(AttemptError::Truncated(failure)) => Failed::no_response(failure),
        Failed::Hop(_) | Failed::Refused(_) | Failed::Closed(_) => failed,
    }
}

/// What a client is told when no other next hop is tried. After the first byte of the response there
/// is nothing left to tell.
pub(super) fn refused(failed: Failed) -> Failed {
    match failed {
        Failed::Hop(AttemptError::NotSent(failure) | AttemptError::NoResponse(failure)) => {
            Failed::Refused(Refusal::NextHop(failure))
        }
        Failed::Hop(AttemptError::Truncated(_)) | Failed::Refused(_) | Failed::Closed(_) => failed,
    }
}
