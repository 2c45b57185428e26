//! Heads: finding the end of one, and reading it (RFC 9112 §2 to §5).
//!
//! The peer decides when its bytes come and what they are. [`HeadScanner`]
//! looks at each byte once, however small the pieces are, and refuses at the
//! first one that cannot belong to a head. [`RequestHead`] and [`ResponseHead`]
//! are what is left: whole, well formed, and read a single time. What this
//! proxy is stricter about than the RFC demands (bare LF, folded lines), other
//! proxies were led astray by.
//!
//! Not here: what the target means ([`super::target`]), how long the body is
//! ([`super::framing`]).

use std::fmt;

use super::fields::{FieldSpan, Fields, Span, is_token_byte};
use super::target::Authority;

/// The longest request line, without its CRLF, in bytes.
pub const REQUEST_LINE_MAX: usize = 16 * 1024;

/// The most field lines in a head or trailer section.
pub const FIELDS_MAX: usize = 256;

/// Empty lines that may precede a request (RFC 9112 §2.2); some clients send
/// one after a body.
const EMPTY_LINES_MAX: usize = 4;

/// Every status line begins so.
const STATUS_LINE_START: &[u8] = b"HTTP/";

/// How large a head may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// The whole head with its blank line, in bytes.
    pub bytes: usize,
}

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
    /// The request line is longer than [`REQUEST_LINE_MAX`]. 414.
    RequestLineTooLong,
    /// More bytes than the limit, or more than [`FIELDS_MAX`] fields. 431.
    TooLarge,
    /// Not HTTP/1.x. 505.
    VersionUnsupported,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "malformed head: {what}"),
            Self::RequestLineTooLong => f.write_str("request line too long"),
            Self::TooLarge => f.write_str("head too large"),
            Self::VersionUnsupported => f.write_str("not HTTP/1.x"),
        }
    }
}

impl std::error::Error for HeadError {}

/// Finds the end of a head in bytes that arrive piece by piece.
///
/// `default()` expects a request. One scanner is good for one head.
#[derive(Clone, Debug)]
pub struct HeadScanner {
    section: Section,
    /// What the next byte belongs to; after an error there is nothing to go on
    /// with.
    state: Result<State, HeadError>,
    /// How many bytes have been looked at.
    at: usize,
    /// Where the start line begins, after leading empty lines. `start <= at`
    start: usize,
    /// How many field lines have begun.
    fields: usize,
}

/// What the lines to come are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Section {
    Request,
    Response,
    Trailers,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A request's first byte, or the CR of an empty line before it.
    BeforeRequest,
    EmptyLineLf,
    /// The `HTTP/` of a status line.
    StatusLineStart,
    StartLine,
    StartLineLf,
    /// The first byte of a field line, or the CR of the blank line.
    LineStart,
    Name,
    Value,
    ValueLf,
    BlankLineLf,
    Done,
}

impl Default for HeadScanner {
    fn default() -> Self {
        Self::new(Section::Request, State::BeforeRequest)
    }
}

impl HeadScanner {
    /// A scanner for the head of a response.
    pub fn for_response() -> Self {
        Self::new(Section::Response, State::StatusLineStart)
    }

    /// A scanner for a trailer section with its blank line (RFC 9112 §7.1.2).
    pub fn for_trailers() -> Self {
        Self::new(Section::Trailers, State::LineStart)
    }

    fn new(section: Section, state: State) -> Self {
        Self {
            section,
            state: Ok(state),
            at: 0,
            start: 0,
            fields: 0,
        }
    }

    /// The length of the head with its blank line, or `None` while that has
    /// not come. `received` begins with the bytes of the call before.
    ///
    /// # Errors
    ///
    /// As soon as the bytes cannot become an acceptable head, and again at
    /// every later call.
    pub fn scan(
        &mut self,
        received: &[u8],
        limits: HeadLimits,
    ) -> Result<Option<usize>, HeadError> {
        let allowed = received.get(..limits.bytes).unwrap_or(received);
        while self.state? != State::Done && self.at < allowed.len() {
            self.state = self.advance(allowed);
        }
        let state = self.state?;
        if state == State::Done {
            Ok(Some(self.at))
        } else if self.at < limits.bytes {
            Ok(None)
        } else if state == State::StartLine && self.section == Section::Request {
            Err(HeadError::RequestLineTooLong)
        } else {
            Err(HeadError::TooLarge)
        }
    }

    /// Takes a run of bytes that change nothing, or else the one that does.
    fn advance(&mut self, received: &[u8]) -> Result<State, HeadError> {
        let state = self.state?;
        let rest = received.get(self.at..).unwrap_or_default();
        let run = if matches!(state, State::StartLine | State::Value) {
            run_of(rest, |byte| !is_control(byte))
        } else if state == State::Name {
            run_of(rest, is_token_byte)
        } else {
            0
        };
        self.at += run;
        if state == State::StartLine
            && self.section == Section::Request
            && REQUEST_LINE_MAX < self.at - self.start
        {
            return Err(HeadError::RequestLineTooLong);
        }
        match rest.get(run) {
            Some(&byte) => {
                let next = self.step(state, byte, received)?;
                self.at += 1;
                Ok(next)
            }
            None => Ok(state),
        }
    }

    /// What follows `byte`, the one at `self.at`. The rows are in the order of
    /// the grammar in RFC 9112 §2.1.
    fn step(&mut self, state: State, byte: u8, received: &[u8]) -> Result<State, HeadError> {
        match (state, byte) {
            (State::BeforeRequest, b'\r') if self.at < 2 * EMPTY_LINES_MAX => {
                Ok(State::EmptyLineLf)
            }
            (State::BeforeRequest, _) if is_token_byte(byte) => {
                self.start = self.at;
                Ok(State::StartLine)
            }
            (State::BeforeRequest, _) => malformed("it does not begin with a method"),
            (State::EmptyLineLf, b'\n') => Ok(State::BeforeRequest),
            (State::StatusLineStart, _) => self.step_status_line_start(byte),
            (State::StartLine, b'\r') => Ok(State::StartLineLf),
            (State::StartLine, b'\t') if self.section == Section::Response => Ok(State::StartLine),
            (State::StartLineLf, b'\n') => self.check_start_line(received),
            (State::LineStart, b'\r') => Ok(State::BlankLineLf),
            (State::LineStart, _) => self.step_line_start(byte),
            (State::Name, b':') => Ok(State::Value),
            (State::Name, b' ' | b'\t') => malformed("whitespace after a field name"),
            (State::Name, b'\r' | b'\n') => malformed("a field line without a colon"),
            (State::Name, _) => malformed("a field name with a byte that is not allowed there"),
            (State::Value, b'\t') => Ok(State::Value),
            (State::Value, b'\r') => Ok(State::ValueLf),
            (State::ValueLf, b'\n') => Ok(State::LineStart),
            (State::BlankLineLf, b'\n') => Ok(State::Done),
            (_, b'\n') => malformed("a bare LF"),
            (State::EmptyLineLf | State::StartLineLf | State::ValueLf | State::BlankLineLf, _) => {
                malformed("a bare CR")
            }
            (State::StartLine | State::Value | State::Done, _) => malformed("a control character"),
        }
    }

    fn step_status_line_start(&self, byte: u8) -> Result<State, HeadError> {
        if STATUS_LINE_START.get(self.at) != Some(&byte) {
            return malformed("it does not begin with HTTP/");
        }
        if self.at + 1 < STATUS_LINE_START.len() {
            Ok(State::StatusLineStart)
        } else {
            Ok(State::StartLine)
        }
    }

    fn step_line_start(&mut self, byte: u8) -> Result<State, HeadError> {
        match byte {
            b' ' | b'\t' => malformed("a folded field line"),
            b':' => malformed("a field line without a name"),
            b'\n' => malformed("a bare LF"),
            _ if !is_token_byte(byte) => {
                malformed("a field name with a byte that is not allowed there")
            }
            _ if self.fields == FIELDS_MAX => Err(HeadError::TooLarge),
            _ => {
                self.fields += 1;
                Ok(State::Name)
            }
        }
    }

    /// Reads the start line as soon as it is there: a peer that speaks another
    /// protocol need not be waited for.
    fn check_start_line(&self, received: &[u8]) -> Result<State, HeadError> {
        let line = received.get(self.start..self.at - 1).unwrap_or_default();
        match self.section {
            Section::Request => RequestLine::parse(line).map(drop)?,
            Section::Response => StatusLine::parse(line).map(drop)?,
            Section::Trailers => {}
        }
        Ok(State::LineStart)
    }
}

fn malformed<T>(what: &'static str) -> Result<T, HeadError> {
    Err(HeadError::Malformed(what))
}

/// How many bytes of that kind the slice begins with.
fn run_of(bytes: &[u8], kind: impl Fn(u8) -> bool) -> usize {
    bytes
        .iter()
        .position(|&byte| !kind(byte))
        .unwrap_or(bytes.len())
}

/// The controls of US-ASCII. Bytes beyond it are obs-text (RFC 9110 §5.5).
fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// `method SP request-target SP HTTP-version` (RFC 9112 §3). No second space is
/// tolerated: it would let two readers see two targets.
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    version: Version,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, HeadError> {
        let mut words = line.split(|&byte| byte == b' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(method), Some(target), Some(version), None) => {
                if method.is_empty() || !method.iter().copied().all(is_token_byte) {
                    return malformed("a method that is not a token");
                }
                if target.is_empty() {
                    return malformed("a request line without a target");
                }
                Ok(Self {
                    method,
                    target,
                    version: parse_version(version)?,
                })
            }
            _ => malformed("a request line that is not \"METHOD target HTTP/1.1\""),
        }
    }
}

/// `HTTP-version SP status-code SP [ reason-phrase ]` (RFC 9112 §4). Without a
/// reason the second space may be missing: many servers leave it out.
struct StatusLine<'a> {
    version: Version,
    status: u16,
    reason: &'a [u8],
}

impl<'a> StatusLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, HeadError> {
        let mut words = line.splitn(3, |&byte| byte == b' ');
        let version = parse_version(words.next().unwrap_or_default())?;
        let status = match words.next() {
            Some(
                &[
                    hundreds @ b'1'..=b'9',
                    tens @ b'0'..=b'9',
                    ones @ b'0'..=b'9',
                ],
            ) => [hundreds, tens, ones]
                .iter()
                .fold(0, |number, digit| number * 10 + u16::from(digit - b'0')),
            _ => return malformed("a status that is not a number from 100 to 999"),
        };
        Ok(Self {
            version,
            status,
            reason: words.next().unwrap_or_default(),
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

/// A whole and well-formed request head.
///
/// `Debug` shows no values: they may be credentials.
#[derive(Clone)]
pub struct RequestHead {
    bytes: Vec<u8>,
    method: Span,
    target: Span,
    version: Version,
    fields: Vec<FieldSpan>,
}

impl RequestHead {
    /// Reads a head as [`HeadScanner`] found it: from the first byte to the
    /// blank line. Empty lines before it are dropped.
    ///
    /// # Errors
    ///
    /// Whatever the scanner refuses; bytes missing or left over; a `Host` that
    /// is missing in HTTP/1.1, repeated, or not a host (RFC 9112 §3.2).
    pub fn parse(mut bytes: Vec<u8>) -> Result<Self, HeadError> {
        let empty_lines = run_of(&bytes, |byte| matches!(byte, b'\r' | b'\n'));
        let scanned = scan_whole(HeadScanner::default(), &bytes)?;
        bytes.drain(..empty_lines);
        let line_length = run_of(&bytes, |byte| byte != b'\r');
        let line = RequestLine::parse(bytes.get(..line_length).unwrap_or_default())?;
        let head = Self {
            method: span_of(line.method, &bytes)?,
            target: span_of(line.target, &bytes)?,
            version: line.version,
            fields: parse_fields(&bytes, line_length + 2, scanned.fields)?,
            bytes,
        };
        head.check_host()?;
        Ok(head)
    }

    /// The method, in the case it was sent in: methods are case-sensitive.
    pub fn method(&self) -> &str {
        str::from_utf8(self.method.of(&self.bytes)).unwrap_or_default()
    }

    /// The request target as received, not empty and without spaces.
    pub fn target(&self) -> &[u8] {
        self.target.of(&self.bytes)
    }

    /// The version the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The field lines.
    pub fn fields(&self) -> Fields<'_> {
        Fields::new(&self.bytes, &self.fields)
    }

    /// The head from its first letter to its blank line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same bytes, to use their memory again.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// "A server MUST respond with a 400 status code to any HTTP/1.1 request
    /// message that lacks a Host header field and to any request message that
    /// contains more than one Host header field line or a Host header field
    /// with an invalid field value" (RFC 9112 §3.2).
    fn check_host(&self) -> Result<(), HeadError> {
        let mut hosts = self.fields().values("host");
        match (hosts.next(), hosts.next(), self.version) {
            (None, _, Version::Http10) => Ok(()),
            (None, _, Version::Http11) => malformed("HTTP/1.1 without a Host field"),
            (Some(_), Some(_), _) => malformed("more than one Host field"),
            (Some(b""), None, _) => Ok(()),
            (Some(host), None, _) if Authority::parse(host, Some(80)).is_ok() => Ok(()),
            (Some(_), None, _) => malformed("a Host field that is not a host and a port"),
        }
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method())
            .field("version", &self.version)
            .field("fields", &self.fields())
            .finish_non_exhaustive()
    }
}

/// A whole and well-formed response head.
///
/// `Debug` shows no values: they may be credentials.
#[derive(Clone)]
pub struct ResponseHead {
    bytes: Vec<u8>,
    version: Version,
    status: u16,
    reason: Span,
    fields: Vec<FieldSpan>,
}

impl ResponseHead {
    /// Reads a head as [`HeadScanner::for_response`] found it.
    ///
    /// # Errors
    ///
    /// Whatever the scanner refuses; bytes missing or left over.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, HeadError> {
        let scanned = scan_whole(HeadScanner::for_response(), &bytes)?;
        let line_length = run_of(&bytes, |byte| byte != b'\r');
        let line = StatusLine::parse(bytes.get(..line_length).unwrap_or_default())?;
        Ok(Self {
            version: line.version,
            status: line.status,
            reason: if line.reason.is_empty() {
                Span { start: 0, end: 0 }
            } else {
                span_of(line.reason, &bytes)?
            },
            fields: parse_fields(&bytes, line_length + 2, scanned.fields)?,
            bytes,
        })
    }

    /// The version the next hop speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The status code, 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase as received; may be empty.
    pub fn reason(&self) -> &[u8] {
        self.reason.of(&self.bytes)
    }

    /// The field lines.
    pub fn fields(&self) -> Fields<'_> {
        Fields::new(&self.bytes, &self.fields)
    }

    /// The head from its first letter to its blank line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same bytes, to use their memory again.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("version", &self.version)
            .field("status", &self.status)
            .field("fields", &self.fields())
            .finish_non_exhaustive()
    }
}

/// A whole and well-formed trailer section (RFC 9112 §7.1.2).
#[derive(Clone)]
pub struct Trailers {
    bytes: Vec<u8>,
    fields: Vec<FieldSpan>,
}

impl Trailers {
    /// Reads a section as [`HeadScanner::for_trailers`] found it, with its
    /// blank line.
    ///
    /// # Errors
    ///
    /// Whatever the scanner refuses; bytes missing or left over.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, HeadError> {
        let scanned = scan_whole(HeadScanner::for_trailers(), &bytes)?;
        Ok(Self {
            fields: parse_fields(&bytes, 0, scanned.fields)?,
            bytes,
        })
    }

    /// The field lines.
    pub fn fields(&self) -> Fields<'_> {
        Fields::new(&self.bytes, &self.fields)
    }
}

impl fmt::Debug for Trailers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trailers")
            .field("fields", &self.fields())
            .finish_non_exhaustive()
    }
}

/// Scans what must be one head and nothing else. Its size was limited when it
/// was received.
fn scan_whole(mut scanner: HeadScanner, bytes: &[u8]) -> Result<HeadScanner, HeadError> {
    match scanner.scan(bytes, HeadLimits { bytes: usize::MAX })? {
        Some(length) if length == bytes.len() => Ok(scanner),
        Some(_) => malformed("bytes after the blank line"),
        None => malformed("it ends before the blank line"),
    }
}

/// Splits the field lines that begin at `from`. The scanner has approved of
/// every byte; a second reader that disagrees is a reason to refuse.
fn parse_fields(bytes: &[u8], from: usize, count: usize) -> Result<Vec<FieldSpan>, HeadError> {
    let section = bytes.get(from..).unwrap_or_default();
    let mut slots = vec![httparse::EMPTY_HEADER; count];
    match httparse::parse_headers(section, &mut slots) {
        Ok(httparse::Status::Complete((length, fields)))
            if length == section.len() && fields.len() == count =>
        {
            fields
                .iter()
                .map(|field| {
                    let name = span_of(field.name.as_bytes(), bytes)?;
                    let value = span_of(field.value, bytes)?;
                    Ok(FieldSpan { name, value })
                })
                .collect()
        }
        Ok(_) | Err(_) => malformed("a field line that cannot be read"),
    }
}

/// Where `part`, which is a part of `whole`, stands in it.
fn span_of(part: &[u8], whole: &[u8]) -> Result<Span, HeadError> {
    let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    let end = start.wrapping_add(part.len());
    if whole.get(start..end) != Some(part) {
        return malformed("a part that is not in the head");
    }
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) => Ok(Span { start, end }),
        _ => Err(HeadError::TooLarge),
    }
}
