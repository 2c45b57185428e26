//! After a failed attempt: may the request be repeated, and whose fault was it?
//!
//! Two questions that must not be mixed up. Whether a request may be sent again depends on how far
//! the attempt got, on the method, for a POST that is processed twice is worse than an error, and on
//! whether an origin can cause the failure, for then it would cause it everywhere. What is held against
//! an upstream depends on what was seen of the upstream itself.
//!
//! Not here: how many attempts there are, and under which deadline (relay).

use crate::protocol::answer::HopFailure;

use super::reason::Doubt;

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
    /// CheckAnswer 502 or 504.
    GiveUp,
    /// Close the client connection, so that the client sees the truncation.
    Close,
}

/// What a failure tells about the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// It cannot be connected to, for the reason given: that is proof.
    CannotConnect(&'static str),
    /// It may be the upstream's fault; a check shall tell.
    Doubtful(Doubt),
    /// Nothing, or nothing new.
    Nothing,
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
            // An origin can make every upstream send these.
            HopFailure::Malformed(_)
            | HopFailure::Framing(_)
            | HopFailure::HeadTooLarge
            | HopFailure::BodyFramingTooLarge
            | HopFailure::TooManyInterim
            | HopFailure::SwitchUnasked
            | HopFailure::Truncated => Next::GiveUp,
            HopFailure::DnsError
            | HopFailure::DnsTimeout
            | HopFailure::ConnectRefused
            | HopFailure::ConnectTimeout
            | HopFailure::ConnectUnreachable
            | HopFailure::ConnectFailed
            | HopFailure::Closed
            | HopFailure::Reset
            | HopFailure::NotHttp
            | HopFailure::WentOffline
            | HopFailure::Stalled
            | HopFailure::LocalExhaustion
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
        | HopFailure::NotHttp
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

/// What a failure at an upstream tells about it.
pub fn evidence(failure: &HopFailure) -> Evidence {
    match failure {
        HopFailure::DnsError => Evidence::CannotConnect("its name cannot be resolved"),
        HopFailure::DnsTimeout => Evidence::CannotConnect("its name was not resolved in time"),
        HopFailure::ConnectRefused => Evidence::CannotConnect("connection refused"),
        HopFailure::ConnectTimeout => Evidence::CannotConnect("no connection in time"),
        HopFailure::ConnectUnreachable => Evidence::CannotConnect("unreachable"),
        HopFailure::ConnectFailed => Evidence::CannotConnect("the connection could not be opened"),
        HopFailure::AuthenticationRefused => Evidence::Doubtful(Doubt::Auth),
        HopFailure::Truncated => Evidence::Doubtful(Doubt::Truncated),
        HopFailure::Closed | HopFailure::Reset => Evidence::Doubtful(Doubt::Closed),
        HopFailure::NotHttp => Evidence::Doubtful(Doubt::NotHttp),
        HopFailure::Malformed(_)
        | HopFailure::Framing(_)
        | HopFailure::HeadTooLarge
        | HopFailure::BodyFramingTooLarge
        | HopFailure::TooManyInterim
        | HopFailure::SwitchUnasked => Evidence::Doubtful(Doubt::Refused),
        HopFailure::ResponseTimeout | HopFailure::SendTimeout => Evidence::Doubtful(Doubt::Silent),
        // A stream that is silent for a while may just have nothing to say.
        HopFailure::Stalled
        | HopFailure::WentOffline
        | HopFailure::LocalExhaustion
        | HopFailure::TunnelRefused => Evidence::Nothing,
    }
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
            HopFailure::NotHttp,
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
    fn what_an_origin_can_cause_is_repeated_nowhere() {
        for failure in [
            HopFailure::Malformed("x"),
            HopFailure::HeadTooLarge,
            HopFailure::BodyFramingTooLarge,
            HopFailure::TooManyInterim,
            HopFailure::SwitchUnasked,
        ] {
            let error = AttemptError::NoResponse(failure);
            check(&error, &IDEMPOTENT, Replay::Whole, Next::GiveUp);
            check(&error, &["CONNECT"], Replay::Whole, Next::GiveUp);
            assert_eq!(evidence(&failure), Evidence::Doubtful(Doubt::Refused));
        }
    }

    #[test]
    fn only_a_connection_that_cannot_be_made_is_proof() {
        let proof = evidence(&HopFailure::ConnectRefused);
        assert_eq!(proof, Evidence::CannotConnect("connection refused"));
        for (failure, doubt) in [
            (HopFailure::Closed, Doubt::Closed),
            (HopFailure::Reset, Doubt::Closed),
            (HopFailure::NotHttp, Doubt::NotHttp),
            (HopFailure::AuthenticationRefused, Doubt::Auth),
            (HopFailure::Truncated, Doubt::Truncated),
            (HopFailure::ResponseTimeout, Doubt::Silent),
        ] {
            assert_eq!(evidence(&failure), Evidence::Doubtful(doubt));
        }
    }

    #[test]
    fn what_is_known_already_tells_nothing() {
        for failure in [
            HopFailure::WentOffline,
            HopFailure::LocalExhaustion,
            HopFailure::TunnelRefused,
            HopFailure::Stalled,
        ] {
            assert_eq!(evidence(&failure), Evidence::Nothing);
        }
    }
}
