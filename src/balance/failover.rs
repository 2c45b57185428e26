//! After a failed attempt: may the request be repeated, and whose fault was it?
//!
//! Two questions that must not be mixed up. Whether a request may be sent again depends on how far
//! the attempt got and on the method, for a POST that is processed twice is worse than an error.
//! Whether an upstream is taken offline depends on what was seen of it.
//!
//! Not here: how many attempts there are, and under which deadline (relay).

use crate::protocol::answer::HopFailure;

use super::reason::OfflineReason;

/// How far an attempt got before it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttemptError {
    /// No byte of the request left this proxy.
    NotSent(HopFailure),
    /// Some of the request left, and the client has nothing of a response.
    NoResponse(HopFailure),
    /// The client already has a part of the response.
    Truncated(HopFailure),
}

/// Whether the body of a request can be sent once more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay {
    /// It is empty or wholly buffered.
    Whole,
    /// Some of it is no longer here.
    Gone,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Try another upstream.
    Failover,
    /// Answer 502 or 504.
    GiveUp,
    /// Close the client connection, so that the client sees the truncation.
    Close,
}

/// Whose fault a failure is, seen alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// The upstream's.
    Upstream(OfflineReason),
    /// Probably the upstream's; but the request may be a poisonous one.
    LikelyUpstream(OfflineReason),
    /// Unknown; a probe can tell.
    Probe,
    /// Not the upstream's, or known already.
    Nobody,
}

/// What a failure means for the upstream, seen together with those before it in the exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Counts towards `fall`: [`super::upstream::Lease::failed`].
    Failed(OfflineReason),
    /// Counts, and a probe shall tell: [`super::vitals::Vitals::failed_softly`], then
    /// [`super::vitals::Vitals::suspect`].
    FailedSoftly,
    /// A probe shall tell: [`super::vitals::Vitals::suspect`].
    Suspect,
    /// Nothing.
    Acquitted,
}

/// Judges the failures of one exchange: by a fault that may be the request's own, it takes at most
/// one upstream offline, else one poisonous URL would empty the pool.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Judge {
    /// Nobody was blamed yet on likelihood.
    #[default]
    Strict,
    /// Somebody was.
    Lenient,
}

impl AttemptError {
    /// What went wrong.
    pub fn failure(&self) -> &HopFailure {
        match self {
            Self::NotSent(failure) | Self::NoResponse(failure) | Self::Truncated(failure) => {
                failure
            }
        }
    }
}

impl Judge {
    /// The verdict on the next failure of the exchange.
    pub fn judge(&mut self, failure: &HopFailure) -> Verdict {
        match (blame(failure), *self) {
            (Blame::Upstream(reason), _) => Verdict::Failed(reason),
            (Blame::LikelyUpstream(reason), Self::Strict) => {
                *self = Self::Lenient;
                Verdict::Failed(reason)
            }
            (Blame::LikelyUpstream(_), Self::Lenient) => Verdict::FailedSoftly,
            (Blame::Probe, _) => Verdict::Suspect,
            (Blame::Nobody, _) => Verdict::Acquitted,
        }
    }
}

/// What may follow a failed attempt. A request of which nothing was sent can go elsewhere. One that
/// was sent can if it is idempotent (RFC 9110 §9.2.2) and still whole here; after a 407, which
/// proves that nothing was processed, its method does not count. One that got no answer in time
/// has used up the time that all attempts share.
pub fn next(error: &AttemptError, method: &str, body: Replay) -> Next {
    match (error, body) {
        (AttemptError::NotSent(_), _) => Next::Failover,
        (AttemptError::Truncated(_), _) => Next::Close,
        (AttemptError::NoResponse(_), Replay::Gone) => Next::GiveUp,
        (AttemptError::NoResponse(failure), Replay::Whole) => match failure {
            HopFailure::AuthenticationRefused | HopFailure::TunnelRefused => Next::Failover,
            HopFailure::ResponseTimeout => Next::GiveUp,
            HopFailure::DnsError
            | HopFailure::DnsTimeout
            | HopFailure::ConnectRefused
            | HopFailure::ConnectTimeout
            | HopFailure::ConnectUnreachable
            | HopFailure::ConnectFailed
            | HopFailure::Closed
            | HopFailure::Reset
            | HopFailure::Malformed(_)
            | HopFailure::Framing(_)
            | HopFailure::HeadTooLarge
            | HopFailure::BodyFramingTooLarge
            | HopFailure::WentOffline
            | HopFailure::Truncated
            | HopFailure::Stalled
            | HopFailure::LocalExhaustion
            | HopFailure::TooManyInterim
            | HopFailure::SwitchUnasked
            | HopFailure::SendTimeout => {
                if is_repeatable(method) {
                    Next::Failover
                } else {
                    Next::GiveUp
                }
            }
        },
    }
}

/// Whether the attempt came to no connection: then it is none that counts.
pub fn is_unreached(error: &AttemptError) -> bool {
    let AttemptError::NotSent(failure) = error else {
        return false;
    };
    match failure {
        HopFailure::DnsError
        | HopFailure::DnsTimeout
        | HopFailure::ConnectRefused
        | HopFailure::ConnectTimeout
        | HopFailure::ConnectUnreachable
        | HopFailure::ConnectFailed
        | HopFailure::LocalExhaustion => true,
        HopFailure::Closed
        | HopFailure::Reset
        | HopFailure::AuthenticationRefused
        | HopFailure::TunnelRefused
        | HopFailure::ResponseTimeout
        | HopFailure::Malformed(_)
        | HopFailure::Framing(_)
        | HopFailure::HeadTooLarge
        | HopFailure::BodyFramingTooLarge
        | HopFailure::WentOffline
        | HopFailure::Truncated
        | HopFailure::Stalled
        | HopFailure::TooManyInterim
        | HopFailure::SwitchUnasked
        | HopFailure::SendTimeout => false,
    }
}

/// Whether a request of this method may be sent again although it may have arrived: an idempotent one,
/// and CONNECT, of which nothing but an address has left this proxy before its answer.
pub fn is_repeatable(method: &str) -> bool {
    is_idempotent(method) || method == "CONNECT"
}

/// Whether a request of this method has the same effect when it is made twice (RFC 9110 §9.2.2).
/// An unknown method has not. Methods are case-sensitive.
pub fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

/// Whose fault a failure at an upstream is.
pub fn blame(failure: &HopFailure) -> Blame {
    match failure {
        HopFailure::DnsError => connect_failed("its name cannot be resolved"),
        HopFailure::DnsTimeout => connect_failed("its name was not resolved in time"),
        HopFailure::ConnectRefused => connect_failed("connection refused"),
        HopFailure::ConnectTimeout => connect_failed("no connection in time"),
        HopFailure::ConnectUnreachable => connect_failed("unreachable"),
        HopFailure::ConnectFailed => connect_failed("the connection could not be opened"),
        HopFailure::AuthenticationRefused => Blame::Upstream(OfflineReason::Auth),
        HopFailure::Truncated => Blame::Upstream(OfflineReason::Truncated),
        HopFailure::Closed | HopFailure::Reset => Blame::LikelyUpstream(OfflineReason::Closed),
        HopFailure::Malformed(_)
        | HopFailure::Framing(_)
        | HopFailure::HeadTooLarge
        | HopFailure::BodyFramingTooLarge
        | HopFailure::TooManyInterim
        | HopFailure::SwitchUnasked => Blame::LikelyUpstream(OfflineReason::Malformed),
        // A stream that is silent for a while may just have nothing to say, and the silence may be that
        // of what lies beyond.
        HopFailure::ResponseTimeout | HopFailure::SendTimeout | HopFailure::Stalled => Blame::Probe,
        HopFailure::WentOffline | HopFailure::LocalExhaustion | HopFailure::TunnelRefused => {
            Blame::Nobody
        }
    }
}

fn connect_failed(what: &'static str) -> Blame {
    Blame::Upstream(OfflineReason::ConnectFailed(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
    const OTHERS: [&str; 5] = ["POST", "PATCH", "PURGE", "get", ""];

    fn check(error: &AttemptError, methods: &[&str], body: Replay, expected: Next) {
        for method in methods {
            assert_eq!(
                next(error, method, body),
                expected,
                "{method} {error:?} {body:?}"
            );
        }
    }

    #[test]
    fn what_was_not_sent_is_sent_elsewhere() {
        for failure in [
            HopFailure::ConnectRefused,
            HopFailure::DnsError,
            HopFailure::Reset,
        ] {
            let error = AttemptError::NotSent(failure);
            for body in [Replay::Whole, Replay::Gone] {
                check(&error, &IDEMPOTENT, body, Next::Failover);
                check(&error, &OTHERS, body, Next::Failover);
            }
        }
    }

    #[test]
    fn what_came_to_no_connection_is_no_attempt() {
        for failure in [
            HopFailure::ConnectRefused,
            HopFailure::ConnectTimeout,
            HopFailure::DnsError,
        ] {
            assert!(is_unreached(&AttemptError::NotSent(failure)));
        }
        assert!(!is_unreached(&AttemptError::NotSent(HopFailure::Reset)));
        assert!(!is_unreached(&AttemptError::NoResponse(HopFailure::Closed)));
    }

    #[test]
    fn only_an_idempotent_request_is_sent_twice() {
        for failure in [
            HopFailure::Closed,
            HopFailure::Reset,
            HopFailure::Malformed("x"),
            HopFailure::WentOffline,
        ] {
            let error = AttemptError::NoResponse(failure);
            check(&error, &IDEMPOTENT, Replay::Whole, Next::Failover);
            check(&error, &OTHERS, Replay::Whole, Next::GiveUp);
        }
    }

    #[test]
    fn a_connect_without_an_answer_goes_elsewhere() {
        let error = AttemptError::NoResponse(HopFailure::Closed);
        check(&error, &["CONNECT"], Replay::Whole, Next::Failover);
    }

    #[test]
    fn what_is_no_longer_whole_is_not_sent_twice() {
        for failure in [HopFailure::Closed, HopFailure::AuthenticationRefused] {
            let error = AttemptError::NoResponse(failure);
            check(&error, &IDEMPOTENT, Replay::Gone, Next::GiveUp);
            check(&error, &OTHERS, Replay::Gone, Next::GiveUp);
        }
    }

    #[test]
    fn after_a_407_any_whole_request_is_sent_elsewhere() {
        let error = AttemptError::NoResponse(HopFailure::AuthenticationRefused);
        check(&error, &IDEMPOTENT, Replay::Whole, Next::Failover);
        check(&error, &OTHERS, Replay::Whole, Next::Failover);
    }

    #[test]
    fn no_response_in_time_is_the_end() {
        let error = AttemptError::NoResponse(HopFailure::ResponseTimeout);
        check(&error, &IDEMPOTENT, Replay::Whole, Next::GiveUp);
    }

    #[test]
    fn what_the_client_has_seen_is_never_repeated() {
        let error = AttemptError::Truncated(HopFailure::Truncated);
        check(&error, &IDEMPOTENT, Replay::Whole, Next::Close);
        check(&error, &OTHERS, Replay::Gone, Next::Close);
    }

    #[test]
    fn one_exchange_takes_one_upstream_offline_on_likelihood() {
        let mut judge = Judge::default();
        assert_eq!(
            judge.judge(&HopFailure::Closed),
            Verdict::Failed(OfflineReason::Closed)
        );
        assert_eq!(judge.judge(&HopFailure::Reset), Verdict::FailedSoftly);
        assert_eq!(
            judge.judge(&HopFailure::Malformed("x")),
            Verdict::FailedSoftly
        );
    }

    #[test]
    fn a_certain_fault_counts_each_time() {
        let mut judge = Judge::default();
        let refused = Verdict::Failed(OfflineReason::ConnectFailed("connection refused"));
        assert_eq!(judge.judge(&HopFailure::ConnectRefused), refused);
        assert_eq!(
            judge.judge(&HopFailure::Closed),
            Verdict::Failed(OfflineReason::Closed)
        );
        assert_eq!(judge.judge(&HopFailure::ConnectRefused), refused);
        let auth = Verdict::Failed(OfflineReason::Auth);
        assert_eq!(judge.judge(&HopFailure::AuthenticationRefused), auth);
    }

    #[test]
    fn silence_is_looked_into_and_blamed_on_nobody() {
        let mut judge = Judge::default();
        assert_eq!(judge.judge(&HopFailure::ResponseTimeout), Verdict::Suspect);
        assert_eq!(judge.judge(&HopFailure::WentOffline), Verdict::Acquitted);
        assert_eq!(judge, Judge::Strict);
    }
}
