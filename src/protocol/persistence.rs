//! Persistence: whether a connection goes on after an exchange, and if not,
//! why (RFC 9112 §9.3, §9.6).
//!
//! Here is what the messages say about it. What else ends a connection (a
//! body that was not read, a time limit, a shutdown) is found out elsewhere
//! and named by the same [`CloseReason`].

use std::fmt;

use super::fields::Fields;
use super::head::{RequestHead, ResponseHead, Version};

/// What becomes of a client connection after an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// Another request may follow.
    KeepAlive,
    /// The connection is closed after the response.
    Close(CloseReason),
}

/// What a next hop makes of its connection after a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextHopPersistence {
    /// It says that it keeps it.
    Keeps,
    /// It says nothing, which in HTTP/1.1 means that it keeps it (RFC 9112 §9.3). There are proxies
    /// that do so by turning into a blind pipe to the origin of this one response (tinyproxy after a
    /// chunked one), so the connection is good for the same target only.
    KeepsUnsaid,
    /// It closes it.
    Closes,
}

/// Makes an enum of reasons from a table, so that none can lack its label, its
/// sentence or its place in `ALL`.
macro_rules! close_reasons {
    ($($(#[$doc:meta])* $reason:ident $label:literal $sentence:literal,)*) => {
        /// Why a client connection is closed. Where that ends an exchange early, it is the exchange's
        /// cause in log and metrics.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum CloseReason {
            $($(#[$doc])* $reason,)*
        }

        impl CloseReason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            /// The name in metrics and logs: snake case.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$reason => $label,)*
                }
            }
        }

        impl fmt::Display for CloseReason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$reason => $sentence,)*
                })
            }
        }
    };
}

close_reasons! {
    /// `Connection: close` or `Proxy-Connection: close`.
    ClientAsked "client_asked" "the client asked for it",
    /// "A proxy server MUST NOT maintain a persistent connection with an
    /// HTTP/1.0 client" (RFC 9112 §9.3).
    Http10 "http10" "the client speaks HTTP/1.0",
    /// The response body ends with the connection (RFC 9112 §6.3 rule 8).
    BodyUntilClose "body_until_close" "the end of the body is the end of the connection",
    /// The request was refused, so where the next one begins is unknown.
    RequestRefused "request_refused" "the request was refused",
    /// The response is complete, the request body is not: the rest of it must
    /// not be read as a request.
    RequestUnread "request_unread" "the request body was not read to its end",
    /// Bytes meant for the tunnel may have come already (RFC 9931).
    ConnectRefused "connect_refused" "the tunnel was refused",
    /// Bytes of the other protocol may have come already (RFC 9931).
    UpgradeRefused "upgrade_refused" "the upgrade was refused",
    /// The next hop ended a response too early; only a closed connection tells
    /// the client.
    ResponseTruncated "response_truncated" "the response was cut short",
    /// The client closed or reset the connection.
    ClientGone "client_gone" "the client went away",
    /// The client neither sent nor took bytes for too long.
    ClientTooSlow "client_too_slow" "the client was too slow",
    /// This proxy is shutting down.
    Draining "draining" "the proxy is shutting down",
    /// A defect in this proxy.
    Panicked "panicked" "an internal error",
}

/// What the client wants and may have.
pub fn of_request(head: &RequestHead) -> Persistence {
    match head.version() {
        Version::Http10 => Persistence::Close(CloseReason::Http10),
        Version::Http11 if says(head.fields(), "close") => {
            Persistence::Close(CloseReason::ClientAsked)
        }
        Version::Http11 => Persistence::KeepAlive,
    }
}

/// What the next hop will do after this response (RFC 9112 §9.3). HTTP/1.0
/// closes unless it says otherwise.
pub fn next_hop_keeps(head: &ResponseHead) -> NextHopPersistence {
    let fields = head.fields();
    let says_so = says(fields, "keep-alive");
    match (says(fields, "close"), says_so, head.version()) {
        (true, _, _) | (false, false, Version::Http10) => NextHopPersistence::Closes,
        (false, true, _) => NextHopPersistence::Keeps,
        (false, false, Version::Http11) => NextHopPersistence::KeepsUnsaid,
    }
}

/// `Proxy-Connection` is no standard, yet clients say `close` in it and mean it.
fn says(fields: Fields<'_>, option: &str) -> bool {
    fields.has_member("connection", option) || fields.has_member("proxy-connection", option)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_client_connection_persists_only_in_http_1_1_and_without_close() {
        const ASKED: Persistence = Persistence::Close(CloseReason::ClientAsked);
        const OLD: Persistence = Persistence::Close(CloseReason::Http10);
        for (version, fields, expected) in [
            ("1.1", "", Persistence::KeepAlive),
            ("1.1", "Connection: keep-alive\r\n", Persistence::KeepAlive),
            ("1.1", "Connection: close\r\n", ASKED),
            ("1.1", "Connection: keep-alive, Close\r\n", ASKED),
            ("1.1", "Connection: a\r\nConnection: close\r\n", ASKED),
            ("1.1", "Proxy-Connection: close\r\n", ASKED),
            ("1.1", "Connection: X-close\r\n", Persistence::KeepAlive),
            ("1.1", "Connection: not close\r\n", Persistence::KeepAlive),
            ("1.0", "", OLD),
            ("1.0", "Connection: keep-alive\r\n", OLD),
            ("1.0", "Connection: close\r\n", OLD),
        ] {
            let text = format!("GET http://h/ HTTP/{version}\r\nHost: h\r\n{fields}\r\n");
            let head = RequestHead::parse(text.into_bytes()).expect("well formed");
            assert_eq!(of_request(&head), expected, "{version} {fields:?}");
        }
    }

    #[test]
    fn a_next_hop_keeps_by_default_in_http_1_1_and_by_request_in_http_1_0() {
        use NextHopPersistence::{Closes, Keeps, KeepsUnsaid};
        for (version, fields, expected) in [
            ("1.1", "", KeepsUnsaid),
            ("1.1", "Connection: keep-alive\r\n", Keeps),
            ("1.1", "Connection: close\r\n", Closes),
            ("1.1", "Proxy-Connection: close\r\n", Closes),
            ("1.1", "Connection: enclosed\r\n", KeepsUnsaid),
            ("1.0", "", Closes),
            ("1.0", "Connection: Keep-Alive\r\n", Keeps),
            ("1.0", "Proxy-Connection: keep-alive\r\n", Keeps),
            ("1.0", "Keep-Alive: timeout=5\r\n", Closes),
            ("1.0", "Connection: keep-alive, close\r\n", Closes),
        ] {
            let text = format!("HTTP/{version} 200 OK\r\n{fields}\r\n");
            let head = ResponseHead::parse(text.into_bytes()).expect("well formed");
            assert_eq!(next_hop_keeps(&head), expected, "{version} {fields:?}");
        }
    }

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let labels: HashSet<_> = CloseReason::ALL
            .iter()
            .map(|reason| reason.label())
            .collect();
        assert_eq!(labels.len(), CloseReason::ALL.len());
        for label in labels {
            let snake =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(label.bytes().all(snake), "{label}");
        }
    }
}
