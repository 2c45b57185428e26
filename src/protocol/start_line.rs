//! Start lines: the first line of a request or a response, split into its
//! words (RFC 9112 §3, §4). Versions and refusals are named here, below `head`,
//! which reads the rest and uses both.

use std::fmt;

use super::decimal;
use super::fields::{Span, is_token_byte};
use super::swar::find;

/// The versions this proxy speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, and every later 1.x, which must be compatible (RFC 9110 §2.5).
    Http11,
}

/// Why a head was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadError {
    /// It breaks the grammar: where, for people to read. 400.
    Malformed(&'static str),
    /// The request line is longer than `REQUEST_LINE_MAX`. 414.
    RequestLineTooLong,
    /// More bytes than the limit, or more than `FIELDS_MAX` fields in a request. 431.
    TooLarge,
    /// A client that speaks another protocol. 400.
    Foreign(Foreign),
    /// Not HTTP/1.x. 505.
    VersionUnsupported,
}

/// What a client may speak to a port where HTTP is spoken, by mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Foreign {
    /// A TLS handshake begins.
    Tls,
    /// The greeting of SOCKS 4 or 5.
    Socks,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "TLS",
            Self::Socks => "SOCKS",
        })
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "malformed head: {what}"),
            Self::RequestLineTooLong => f.write_str("request line too long"),
            Self::TooLarge => f.write_str("head too large"),
            Self::Foreign(other) => write!(f, "{other}, not HTTP"),
            Self::VersionUnsupported => f.write_str("not HTTP/1.x"),
        }
    }
}

impl std::error::Error for HeadError {}

pub(super) fn malformed<T>(what: &'static str) -> Result<T, HeadError> {
    Err(HeadError::Malformed(what))
}

/// `method SP request-target SP HTTP-version` (RFC 9112 §3). No second space is
/// tolerated: it would let two readers see two targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RequestLine {
    pub(super) method: Span,
    pub(super) target: Span,
    pub(super) version: Version,
}

impl RequestLine {
    pub(super) fn parse(line: &[u8]) -> Result<Self, HeadError> {
        let words = first_word(line).and_then(|(method, rest)| {
            let (target, version) = first_word(rest)?;
            Some((method, target, version))
        });
        let words = words.filter(|(_, _, version)| !version.contains(&b' '));
        let Some((method, target, version)) = words else {
            return malformed("a request line that is not \"METHOD target HTTP/1.1\"");
        };
        if method.is_empty() || !method.iter().copied().all(is_token_byte) {
            return malformed("a method that is not a token");
        }
        if is_look_alike(method) {
            return malformed("a method that others take for CONNECT, HEAD or TRACE");
        }
        if target.is_empty() {
            return malformed("a request line without a target");
        }
        Ok(Self {
            method: span(0, method.len())?,
            target: span(method.len() + 1, target.len())?,
            version: parse_version(version)?,
        })
    }
}

/// What stands before the first space and behind it.
fn first_word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (word, rest) = text.split_at_checked(find(text, b' ')?)?;
    Some((word, rest.get(1..)?))
}

/// A part of a head, which has less than 4 GiB.
pub(super) fn span(start: usize, length: usize) -> Result<Span, HeadError> {
    Span::new(start, length).ok_or(HeadError::TooLarge)
}

/// Methods are case-sensitive (RFC 9110 §9.1), but not to every next hop: Squid makes `head` a HEAD, and
/// answers `trace` with our credentials in the request it shows. These three decide where a message
/// ends, or what it may hold.
fn is_look_alike(method: &[u8]) -> bool {
    [&b"CONNECT"[..], b"HEAD", b"TRACE"]
        .iter()
        .any(|known| method != *known && method.eq_ignore_ascii_case(known))
}

/// `HTTP-version SP status-code SP [ reason-phrase ]` (RFC 9112 §4). Without a
/// reason the second space may be missing: many servers leave it out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StatusLine {
    pub(super) version: Version,
    pub(super) status: u16,
    pub(super) reason: Span,
}

impl StatusLine {
    pub(super) fn parse(line: &[u8]) -> Result<Self, HeadError> {
        let mut words = line.splitn(3, |&byte| byte == b' ');
        let version = match words.next().unwrap_or_default() {
            // What SHOUTcast and its kin say to a request that they answer as HTTP/1.0 does.
            b"ICY" => Version::Http10,
            word => parse_version(word)?,
        };
        let status = words.next().filter(|status| status.len() == 3);
        let status = status.and_then(decimal::read).map(u16::try_from);
        let Some(Ok(status @ 100..)) = status else {
            return malformed("a status that is not a number from 100 to 999");
        };
        let reason = words.next().unwrap_or_default().len();
        Ok(Self {
            version,
            status,
            reason: span(line.len() - reason, reason)?,
        })
    }
}

/// `HTTP/` DIGIT `.` DIGIT, in this case (RFC 9112 §2.3).
fn parse_version(word: &[u8]) -> Result<Version, HeadError> {
    match word {
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            Err(HeadError::VersionUnsupported)
        }
        _ => malformed("an HTTP version that is not HTTP/1.1 or HTTP/1.0"),
    }
}
