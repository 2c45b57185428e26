//! Message framing: where a body ends (RFC 9112 §6.3).
//!
//! Two hops that disagree on this are a request-smuggling hole (§11.2), so a
//! message that can be read in two ways is refused, never repaired.

use std::fmt;

/// How the end of a body is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// The body has this many bytes (§6.2).
    Length(u64),
    /// The body is a sequence of chunks and ends with the last one (§7.1).
    Chunked,
    /// The body ends with the connection; responses only (§6.3 rule 8).
    UntilClose,
}

/// Why the framing of a message was refused.
///
/// In a request all of them are 400, save [`FramingError::CodingUnsupported`]
/// (501); in a response they are the next hop's fault (502).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FramingError {
    /// A `Content-Length` that is not a plain decimal number, or too large.
    LengthInvalid,
    /// Several `Content-Length` values that are not the same.
    LengthsDiffer,
    /// Both `Content-Length` and `Transfer-Encoding` (§6.1).
    LengthWithCoding,
    /// A transfer coding other than `chunked`.
    CodingUnsupported,
    /// A `Transfer-Encoding` that cannot be read, or names `chunked` twice.
    CodingMalformed,
    /// `Transfer-Encoding` in an HTTP/1.0 message (§6.1).
    CodingInHttp10,
    /// A body where the method leaves no room for one.
    BodyNotAllowed,
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LengthInvalid => "Content-Length is not a decimal number",
            Self::LengthsDiffer => "several Content-Length values that differ",
            Self::LengthWithCoding => "both Content-Length and Transfer-Encoding",
            Self::CodingUnsupported => "a transfer coding other than chunked",
            Self::CodingMalformed => "Transfer-Encoding is malformed",
            Self::CodingInHttp10 => "Transfer-Encoding in an HTTP/1.0 message",
            Self::BodyNotAllowed => "a body where the method allows none",
        })
    }
}

impl std::error::Error for FramingError {}
