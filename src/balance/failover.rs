//! After a failed attempt: may the request be repeated, and whose fault was it?
//!
//! Two questions that must not be mixed up. Whether a request may be sent again depends on how far
//! the attempt got, on the method, for a POST that is processed twice is worse than an error, and on
//! whether an origin can cause the failure, for then it would cause it everywhere. What is held against
//! an upstream depends on what was seen of the upstream itself.
//!
//! Not here: how many attempts there are, and under which deadline (relay).

use crate::protocol::answer::HopFailure;

use super::reason::{Doubt, NO_NAME, NO_NAME_IN_TIME};

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

/// How far a request came before its attempt failed in this way, at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// There was no connection.
    Nowhere,
    /// It may be at the next hop, or beyond.
    Sent,
}

/// Whether a request that was sent may be sent to another upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Elsewhere {
    /// Whatever its method is: nothing was processed.
    Always,
    /// If its method may be repeated.
    IfRepeatable,
    /// An origin can make every upstream fail so, or the time that all attempts share is used up.
    Never,
}

/// Whether a failure may be due to what happened on the connection before, while it was idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Idleness {
    /// Yes: it had ended, or what came belongs to an exchange before.
    Explains,
    /// The same, and it shows bytes that are the answer to nothing.
    ExplainsStray,
    /// No.
    IsNoReason,
}

/// The table of all failures, one row each; the functions below read its columns.
fn row(failure: &HopFailure) -> (Reach, Evidence, Elsewhere, Idleness) {
    use Elsewhere::{Always, IfRepeatable, Never};
    use Evidence::{CannotConnect, Doubtful, Nothing};
    use HopFailure as Failure;
    use Idleness::{Explains, ExplainsStray, IsNoReason};
    use Reach::{Nowhere, Sent};
    let refused = Doubtful(Doubt::Refused);
    let proof = |words| (Nowhere, CannotConnect(words), IfRepeatable, IsNoReason);
    match failure {
        Failure::DnsError | Failure::UpstreamDnsError => proof(NO_NAME),
        Failure::DnsTimeout | Failure::UpstreamDnsTimeout => proof(NO_NAME_IN_TIME),
        Failure::ConnectRefused => proof("connection refused"),
        Failure::ConnectTimeout => proof("no connection in time"),
        Failure::ConnectUnreachable => proof("unreachable"),
        Failure::ConnectFailed => proof("the connection could not be opened"),
        #[cfg(feature = "tls")]
        Failure::Tls(failure) => proof(failure.of_upstream()),
        Failure::LocalExhaustion => (Nowhere, Nothing, IfRepeatable, IsNoReason),
        Failure::Closed => (Sent, Doubtful(Doubt::Closed), IfRepeatable, Explains),
        Failure::Reset => (Sent, Doubtful(Doubt::Closed), IfRepeatable, Explains),
        Failure::NotHttp => (Sent, Doubtful(Doubt::NotHttp), IfRepeatable, ExplainsStray),
        Failure::NotSocks => (Sent, Doubtful(Doubt::NotSocks), Always, IsNoReason),
        Failure::Malformed(_) => (Sent, refused, Never, ExplainsStray),
        Failure::Framing(_) => (Sent, refused, Never, ExplainsStray),
        Failure::HeadTooLarge => (Sent, refused, Never, ExplainsStray),
        Failure::BodyFramingTooLarge => (Sent, refused, Never, Explains),
        Failure::TooManyInterim => (Sent, refused, Never, Explains),
        Failure::SwitchUnasked => (Sent, refused, Never, Explains),
        Failure::Truncated => (Sent, Doubtful(Doubt::Truncated), Never, Explains),
        Failure::ResponseTimeout => (Sent, Doubtful(Doubt::Silent), Never, IsNoReason),
        Failure::SendTimeout => (Sent, Doubtful(Doubt::Silent), IfRepeatable, IsNoReason),
        Failure::AuthenticationRefused => (Sent, Doubtful(Doubt::Auth), Always, IsNoReason),
        Failure::TunnelRefused => (Sent, Nothing, Always, IsNoReason),
        Failure::UpstreamRests => (Sent, Nothing, IfRepeatable, IsNoReason),
        // Weighed as the answer that it is, and what is not allowed is the answer to the request.
        Failure::TargetUnreachable(_) | Failure::TargetTimeout => {
            (Sent, Nothing, Always, IsNoReason)
        }
        Failure::TargetNotAllowed => (Sent, Nothing, Never, IsNoReason),
        // A stream that is silent for a while may just have nothing to say.
        Failure::Stalled => (Sent, Nothing, IfRepeatable, IsNoReason),
        Failure::WentOffline => (Sent, Nothing, IfRepeatable, IsNoReason),
        Failure::UpstreamCut => (Sent, Nothing, IfRepeatable, IsNoReason),
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
        (AttemptError::NoResponse(failure), Replay::Whole) => match row(failure) {
            (_, _, Elsewhere::Always, _) => Next::Failover,
            (_, _, Elsewhere::IfRepeatable, _) if is_repeatable(method) => Next::Failover,
            (_, _, Elsewhere::IfRepeatable | Elsewhere::Never, _) => Next::GiveUp,
        },
    }
}

/// Whether a request of this method may be sent again although it may have arrived: an idempotent one,
/// which has the same effect when it is made twice (RFC 9110 §9.2.2), and CONNECT, of which nothing but an
/// address has left this proxy before its answer. An unknown method may not. Methods are case-sensitive.
pub fn is_repeatable(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE" | "CONNECT"
    )
}

/// What a failure at an upstream tells about it.
pub fn evidence(failure: &HopFailure) -> Evidence {
    let (_, evidence, ..) = row(failure);
    evidence
}

/// Whether a SOCKS5 upstream could not connect to the target: the word of a second upstream is enough then.
pub fn is_about_target(error: &AttemptError) -> bool {
    matches!(
        error.failure(),
        HopFailure::TargetUnreachable(_) | HopFailure::TargetTimeout
    )
}

/// Whether the attempt came to no connection: then it is none that counts.
pub fn is_unreached(error: &AttemptError) -> bool {
    matches!(error, AttemptError::NotSent(failure) if row(failure).0 == Reach::Nowhere)
}

/// Whether a failure may be due to what happened on the connection while it was idle: then the upstream is
/// not to blame, and a fresh one may do.
pub fn is_explained_by_idleness(error: &AttemptError) -> bool {
    match error {
        AttemptError::NotSent(failure) | AttemptError::NoResponse(failure) => {
            row(failure).3 != Idleness::IsNoReason
        }
        AttemptError::Truncated(_) => false,
    }
}

/// Whether a failure on a connection that was idle shows bytes that are the answer to nothing.
pub fn shows_stray_bytes(failure: &HopFailure) -> bool {
    row(failure).3 == Idleness::ExplainsStray
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
            HopFailure::TargetUnreachable("x"),
            HopFailure::TargetTimeout,
            HopFailure::TargetNotAllowed,
            HopFailure::Stalled,
        ] {
            assert_eq!(evidence(&failure), Evidence::Nothing);
        }
    }
}
