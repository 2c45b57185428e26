//! Malformed and ambiguous messages, as tables: requests of clients and responses of upstreams.
//!
//! Desynchronisation is one party taking for the end of a message what another takes for its
//! middle (RFC 9112 §11.2). So each message here is either refused, or goes on in the one reading
//! this proxy has of it, written anew: never as it came, for the next hop to make its own sense
//! of. Many rows name what other programs made of such a message.
//!
//! | module | holds |
//! |---|---|
//! | `request_heads`, `request_framing`, `request_bodies` | requests that are refused |
//! | `request_readings` | requests that have one reading, and which |
//! | `responses`, `response_readings` | the same of responses |
//! | `pure` | each row through the parsers alone, in two pieces at every position |
//! | `relay` | each row through the whole relay; behind each, an honest request |
//!
//! The run through the relay at every position takes its time and is done by `.ci/run`.

mod pure;
mod relay;
mod request_bodies;
mod request_framing;
mod request_heads;
mod request_readings;
mod response_readings;
mod responses;

use std::collections::BTreeSet;

/// Behind every request of the tables: what an attacker wants to be taken for a request where it
/// is none, and not to be taken for one where it is. A request of its own, if anything.
const SMUGGLED: &str = "GET http://smuggled.test/ HTTP/1.1\r\nHost: smuggled.test\r\n\r\n";

/// A message and what must become of it.
struct Case {
    /// What is wrong or odd about it.
    name: &'static str,
    /// Published vulnerabilities of other programs with such a message.
    known: &'static str,
    /// The message, and what its sender wants the next hop to see behind it.
    sent: Vec<u8>,
    side: Side,
}

/// Who sends the message.
enum Side {
    /// Followed by [`SMUGGLED`].
    Client(Fate),
    /// In answer to this request.
    Upstream(Ask, Then, Outcome),
}

/// What becomes of a request.
enum Fate {
    /// Answered with this status, then the connection is closed; the next hop sees no request.
    Refused(u16),
    /// The next hop sees these bytes, and what follows is, or is not, another request.
    Forwarded(Vec<u8>, Behind),
}

/// What becomes of the bytes behind a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behind {
    /// They are a request of their own.
    Request,
    /// They are nobody's: the connection is closed behind the answer.
    Nothing,
}

/// The request that a response of the tables answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ask {
    Get,
    Head,
    Http10,
    Upgrade,
    Connect,
}

/// What the upstream does behind its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Waits,
    Closes,
}

/// What becomes of a response.
enum Outcome {
    /// 502 with none of its bytes.
    BadGateway,
    /// The client gets these bytes and nothing else of it.
    Passed(Vec<u8>),
    /// The client gets the beginning, and sees that it is no more than that; or 502 with none of its
    /// bytes, if what is wrong is seen before any of them was passed on.
    BreaksOff,
}

/// A `char` is a byte: nothing in the tables is meant as UTF-8.
fn bytes(text: &str) -> Vec<u8> {
    let byte = |c| u8::try_from(u32::from(c)).expect("a byte");
    text.chars().map(byte).collect()
}

impl Case {
    fn refused(status: u16, name: &'static str, known: &'static str, sent: &str) -> Self {
        Self {
            name,
            known,
            sent: bytes(sent),
            side: Side::Client(Fate::Refused(status)),
        }
    }

    /// How the row is named when it fails.
    fn title(&self) -> String {
        format!("{}: {}", self.name, self.sent.escape_ascii())
    }
}

fn all_requests() -> Vec<Case> {
    let tables = [
        request_heads::cases(),
        request_framing::cases(),
        request_bodies::cases(),
        request_readings::cases(),
    ];
    tables.into_iter().flatten().collect()
}

fn all_responses() -> Vec<Case> {
    let tables = [responses::cases(), response_readings::cases()];
    tables.into_iter().flatten().collect()
}

/// The tables are what the documentation says of them.
#[test]
fn the_tables_cover_the_known_vulnerabilities() {
    let (requests, responses) = (all_requests(), all_responses());
    let distinct: BTreeSet<_> = requests
        .iter()
        .chain(&responses)
        .map(|case| case.name)
        .collect();
    assert_eq!(distinct.len(), requests.len() + responses.len(), "names");
    let known: Vec<_> = requests
        .iter()
        .chain(&responses)
        .map(|case| case.known)
        .collect();
    let known = known.join(", ");
    for program in [
        "Squid CVE-",
        "HAProxy CVE-",
        "tinyproxy CVE-",
        "Traffic Server CVE-",
        "Apache CVE-",
        "nginx CVE-",
        "hyper CVE-",
        "Node.js CVE-",
        "Go CVE-",
        "Jetty CVE-",
        "Tomcat CVE-",
        "Varnish CVE-",
        "Pound CVE-",
        "lighttpd CVE-",
    ] {
        assert!(known.contains(program), "{program}");
    }
}
