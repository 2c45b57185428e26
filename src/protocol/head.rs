//! Heads: finding the end of one, and reading it (RFC 9112 §2 to §5).
//!
//! The peer decides when its bytes come and what they are. [`HeadScanner`]
//! looks at each byte once, however small the pieces are, and refuses at the
//! first one that cannot belong to a head. [`RequestHead`] and [`ResponseHead`]
//! are what is left: whole, well formed, and read a single time, in a request by `httparse`
//! where the scanner found field lines. What this proxy is stricter about than
//! the RFC demands (bare LF, folded lines), other proxies were led astray by.
//!
//! A response may be odd where that gives nobody another reading: white space before a colon, which does
//! not go on (RFC 9112 §5.1), control bytes within a value or reason, `ICY` for HTTP/1.0, any number of
//! fields. Its client did not write it, and is not helped by a 502. A request is refused for each of these.
//!
//! Not here: what the target means ([`super::target`]), how long the body is
//! ([`super::framing`]).

use std::fmt;

use super::fields::{FieldSpan, Fields, Span, Summary, is_token_byte, trim_whitespace};
use super::start_line::{RequestLine, StatusLine, malformed, span};
use super::swar::{find, find_control};
use super::target::Authority;

pub use super::start_line::{Foreign, HeadError, Version};

/// The longest request line, without its CRLF, in bytes.
pub const REQUEST_LINE_MAX: usize = 16 * 1024;

/// The most field lines in the head or trailer section of a request. Those of a response are limited by
/// its bytes alone.
pub const FIELDS_MAX: usize = 256;

/// Empty lines that may precede a request (RFC 9112 §2.2); some clients send
/// one after a body.
const EMPTY_LINES_MAX: usize = 4;

/// Every status line begins in one of these ways.
const STATUS_LINE_STARTS: [&[u8]; 2] = [b"HTTP/", b"ICY "];

/// So many field lines of a request are read without memory of their own.
const FIELDS_USUAL: usize = 32;

/// The first byte of a TLS record with a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// The first byte of a greeting is the version of SOCKS (RFC 1928 §3).
const SOCKS_4: u8 = 4;
const SOCKS_5: u8 = 5;

/// What a head or a trailer section is a part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// Everything odd is refused.
    Request,
    /// Some of what is odd is accepted: see the beginning of this file.
    Response,
}

/// How large a head may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// The whole head with its blank line, in bytes.
    pub bytes: usize,
}

/// Finds the end of a head in bytes that arrive piece by piece.
///
/// `default()` expects a request. One scanner is good for one head.
#[derive(Clone, Debug)]
pub struct HeadScanner {
    message: Message,
    first_line: FirstLine,
    /// What the next byte belongs to; after an error there is nothing to go on
    /// with.
    part: Result<Part, HeadError>,
    /// How many bytes have been looked at.
    at: usize,
    /// Where the start line begins, after leading empty lines. `start <= at`
    start: usize,
    /// Where the field lines begin.
    fields_start: usize,
    /// How many of them have begun.
    fields: usize,
}

/// What the first line is, and what it says once it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FirstLine {
    Request(Option<RequestLine>),
    Status(Option<StatusLine>),
    /// None: trailers are field lines alone.
    Field,
}

/// The parts a head is scanned by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// A request's first byte, or the CR of an empty line before it.
    BeforeRequest,
    EmptyLineLf,
    /// The `HTTP/` or `ICY ` of a status line.
    StatusLineStart,
    StartLine,
    StartLineLf,
    /// The first byte of a field line, or the CR of the blank line.
    LineStart,
    Name,
    /// White space between a name and its colon.
    BeforeColon,
    Value,
    ValueLf,
    BlankLineLf,
    Done,
}

impl Default for HeadScanner {
    fn default() -> Self {
        Self::new(
            Message::Request,
            FirstLine::Request(None),
            Part::BeforeRequest,
        )
    }
}

impl HeadScanner {
    /// A scanner for the head of a response.
    pub fn for_response() -> Self {
        Self::new(
            Message::Response,
            FirstLine::Status(None),
            Part::StatusLineStart,
        )
    }

    /// A scanner for the trailer section of a message, with its blank line (RFC 9112 §7.1.2).
    pub fn for_trailers(message: Message) -> Self {
        Self::new(message, FirstLine::Field, Part::LineStart)
    }

    fn new(message: Message, first_line: FirstLine, part: Part) -> Self {
        Self {
            message,
            first_line,
            part: Ok(part),
            at: 0,
            start: 0,
            fields_start: 0,
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
        while self.part? != Part::Done && self.at < allowed.len() {
            if self.part == Ok(Part::LineStart) {
                self.take_lines(allowed);
            }
            self.part = self.advance(allowed);
        }
        let part = self.part?;
        if part == Part::Done {
            Ok(Some(self.at))
        } else if self.at < limits.bytes {
            Ok(None)
        } else if part == Part::StartLine && self.expects_request() {
            Err(HeadError::RequestLineTooLong)
        } else {
            Err(HeadError::TooLarge)
        }
    }

    fn expects_request(&self) -> bool {
        matches!(self.first_line, FirstLine::Request(_))
    }

    fn fields_max(&self) -> usize {
        match self.message {
            Message::Request => FIELDS_MAX,
            Message::Response => usize::MAX,
        }
    }

    /// Takes field lines that are here from their first byte to their last, and as plain as nearly all
    /// are. [`Self::step`] would take them in the same way, only not at once.
    fn take_lines(&mut self, received: &[u8]) {
        while self.fields < self.fields_max() {
            let line = received.get(self.at..).unwrap_or_default();
            let name = run_of(line, is_token_byte);
            let Some((b':', value)) = line.get(name..).and_then(<[u8]>::split_first) else {
                return;
            };
            let length = run_without_controls(value);
            if name == 0 || value.get(length..length + 2) != Some(b"\r\n") {
                return;
            }
            self.at += name + 1 + length + 2;
            self.fields += 1;
        }
    }

    /// Takes a run of bytes that change nothing, or else the one that does.
    fn advance(&mut self, received: &[u8]) -> Result<Part, HeadError> {
        let part = self.part?;
        let rest = received.get(self.at..).unwrap_or_default();
        let run = if matches!(part, Part::StartLine | Part::Value) {
            run_without_controls(rest)
        } else if part == Part::Name {
            run_of(rest, is_token_byte)
        } else {
            0
        };
        self.at += run;
        if part == Part::StartLine
            && self.expects_request()
            && REQUEST_LINE_MAX < self.at - self.start
        {
            return Err(HeadError::RequestLineTooLong);
        }
        match rest.get(run) {
            Some(&byte) => {
                let next = self.step(part, byte, received)?;
                self.at += 1;
                Ok(next)
            }
            None => Ok(part),
        }
    }

    /// What follows `byte`, the one at `self.at`. The rows are in the order of
    /// the grammar in RFC 9112 §2.1.
    fn step(&mut self, part: Part, byte: u8, received: &[u8]) -> Result<Part, HeadError> {
        match (part, byte) {
            (Part::BeforeRequest, b'\r') if self.at < 2 * EMPTY_LINES_MAX => Ok(Part::EmptyLineLf),
            (Part::BeforeRequest, _) if is_token_byte(byte) => {
                self.start = self.at;
                Ok(Part::StartLine)
            }
            (Part::BeforeRequest, TLS_HANDSHAKE) => Err(HeadError::Foreign(Foreign::Tls)),
            (Part::BeforeRequest, SOCKS_4 | SOCKS_5) => Err(HeadError::Foreign(Foreign::Socks)),
            (Part::BeforeRequest, _) => malformed("it does not begin with a method"),
            (Part::EmptyLineLf, b'\n') => Ok(Part::BeforeRequest),
            (Part::StatusLineStart, _) => self.step_status_line_start(received),
            (Part::StartLine, b'\r') => Ok(Part::StartLineLf),
            (Part::StartLine, b'\t') if !self.expects_request() => Ok(Part::StartLine),
            (Part::StartLineLf, b'\n') => self.read_start_line(received),
            (Part::LineStart, b'\r') => Ok(Part::BlankLineLf),
            (Part::LineStart, _) => self.step_line_start(byte),
            (Part::Name | Part::BeforeColon, b':') => Ok(Part::Value),
            (Part::Name | Part::BeforeColon, b' ' | b'\t') => match self.message {
                Message::Request => malformed("whitespace after a field name"),
                Message::Response => Ok(Part::BeforeColon),
            },
            (Part::Name | Part::BeforeColon, b'\r' | b'\n') => {
                malformed("a field line without a colon")
            }
            (Part::Name | Part::BeforeColon, _) => {
                malformed("a field name with a byte that is not allowed there")
            }
            (Part::Value, b'\t') => Ok(Part::Value),
            (Part::Value, b'\r') => Ok(Part::ValueLf),
            (Part::ValueLf, b'\n') => Ok(Part::LineStart),
            (Part::BlankLineLf, b'\n') => Ok(Part::Done),
            (_, b'\n') => malformed("a bare LF"),
            (Part::EmptyLineLf | Part::StartLineLf | Part::ValueLf | Part::BlankLineLf, _) => {
                malformed("a bare CR")
            }
            // Whoever reads it sees the same value: a line ends at none of them, and only NUL ends a text.
            (Part::StartLine | Part::Value, 1..) if self.message == Message::Response => Ok(part),
            (Part::StartLine | Part::Value | Part::Done, _) => malformed("a control character"),
        }
    }

    fn step_status_line_start(&self, received: &[u8]) -> Result<Part, HeadError> {
        let so_far = received.get(..=self.at).unwrap_or_default();
        if STATUS_LINE_STARTS.contains(&so_far) {
            Ok(Part::StartLine)
        } else if is_begun(so_far) {
            Ok(Part::StatusLineStart)
        } else {
            malformed("it does not begin with HTTP/")
        }
    }

    fn step_line_start(&mut self, byte: u8) -> Result<Part, HeadError> {
        match byte {
            b' ' | b'\t' => malformed("a folded field line"),
            b':' => malformed("a field line without a name"),
            b'\n' => malformed("a bare LF"),
            _ if !is_token_byte(byte) => {
                malformed("a field name with a byte that is not allowed there")
            }
            _ if self.fields == self.fields_max() => Err(HeadError::TooLarge),
            _ => {
                self.fields += 1;
                Ok(Part::Name)
            }
        }
    }

    /// Reads the start line as soon as it is there: a peer that speaks another
    /// protocol need not be waited for.
    fn read_start_line(&mut self, received: &[u8]) -> Result<Part, HeadError> {
        let line = received.get(self.start..self.at - 1).unwrap_or_default();
        self.fields_start = self.at + 1;
        self.first_line = match self.first_line {
            FirstLine::Request(_) => FirstLine::Request(Some(RequestLine::parse(line)?)),
            FirstLine::Status(_) => FirstLine::Status(Some(StatusLine::parse(line)?)),
            FirstLine::Field => FirstLine::Field,
        };
        Ok(Part::LineStart)
    }
}

/// Whether these bytes are the beginning of a status line, as far as it is there.
fn is_begun(received: &[u8]) -> bool {
    STATUS_LINE_STARTS
        .iter()
        .any(|start| start.iter().zip(received).all(|(a, b)| a == b))
}

/// Whether what came in place of a response is at least the beginning of one.
pub fn begins_as_response(received: &[u8]) -> bool {
    STATUS_LINE_STARTS
        .iter()
        .any(|start| received.starts_with(start))
}

/// How many bytes of that kind the slice begins with.
#[inline]
fn run_of(bytes: &[u8], kind: impl Fn(u8) -> bool) -> usize {
    bytes
        .iter()
        .position(|&byte| !kind(byte))
        .unwrap_or(bytes.len())
}

/// How many bytes at the beginning are no controls.
fn run_without_controls(bytes: &[u8]) -> usize {
    find_control(bytes).unwrap_or(bytes.len())
}

/// The memory of a head, to be used for one after the other.
///
/// `Debug` shows no values: they may be credentials.
#[derive(Clone, Default)]
pub struct HeadMemory {
    /// The head, from its first byte to its blank line.
    pub bytes: Vec<u8>,
    /// Where the fields are; none before the head is read.
    spans: Vec<FieldSpan>,
    /// Which fields there may be.
    summary: Summary,
}

impl HeadMemory {
    fn with(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// Reads the trailer section (RFC 9112 §7.1.2) of a message as [`HeadScanner::for_trailers`] found it,
    /// with its blank line.
    ///
    /// # Errors
    ///
    /// Whatever the scanner refuses; bytes missing or left over.
    pub(super) fn of_trailers(message: Message, bytes: Vec<u8>) -> Result<Self, HeadError> {
        let scanner = scan_whole(HeadScanner::for_trailers(message), &bytes)?;
        Self::with(bytes).read(&scanner)
    }

    /// The field lines.
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields::new(&self.bytes, &self.spans, self.summary)
    }

    /// Notes where the fields are of the head that `scanner` has seen, and drops empty lines before it. The
    /// scanner has approved of every byte; if other field lines are read than it saw, that is a reason to
    /// refuse.
    fn read(mut self, scanner: &HeadScanner) -> Result<Self, HeadError> {
        if scanner.part? != Part::Done || scanner.at != self.bytes.len() {
            return malformed("it is not what was looked at");
        }
        self.bytes.drain(..scanner.start);
        let start = scanner.fields_start - scanner.start;
        match scanner.message {
            Message::Request => self.note_fields_of_request(start, scanner.fields)?,
            Message::Response => self.note_fields_of_response(start, scanner.fields)?,
        }
        Ok(self)
    }

    /// By `httparse`, which is as strict as the scanner.
    fn note_fields_of_request(&mut self, start: usize, count: usize) -> Result<(), HeadError> {
        let lines = self.bytes.get(start..).unwrap_or_default();
        let (mut usual, mut many);
        let slots = if count <= FIELDS_USUAL {
            usual = [httparse::EMPTY_HEADER; FIELDS_USUAL];
            usual.get_mut(..count).unwrap_or_default()
        } else {
            many = vec![httparse::EMPTY_HEADER; count];
            &mut many[..]
        };
        match httparse::parse_headers(lines, slots) {
            Ok(httparse::Status::Complete((length, fields)))
                if length == lines.len() && fields.len() == count =>
            {
                for field in fields {
                    self.summary.note(field.name.as_bytes());
                    self.spans.push(FieldSpan {
                        name: span_of(field.name.as_bytes(), &self.bytes)?,
                        value: span_of(field.value, &self.bytes)?,
                    });
                }
                Ok(())
            }
            Ok(_) | Err(_) => malformed("a field line that cannot be read"),
        }
    }

    /// By its colon and its CR, for `httparse` has no controls in a value.
    fn note_fields_of_response(&mut self, start: usize, count: usize) -> Result<(), HeadError> {
        let mut rest = self.bytes.get(start..).unwrap_or_default();
        for _ in 0..count {
            let (name, behind) = split_at_byte(rest, b':')?;
            let (value, behind) = split_at_byte(behind, b'\r')?;
            let name = trim_whitespace(name);
            self.summary.note(name);
            self.spans.push(FieldSpan {
                name: span_of(name, &self.bytes)?,
                value: span_of(trim_whitespace(value), &self.bytes)?,
            });
            rest = behind.get(1..).unwrap_or_default();
        }
        if rest == b"\r\n" {
            Ok(())
        } else {
            malformed("a field line that cannot be read")
        }
    }

    /// For the next head.
    fn cleared(mut self) -> Self {
        self.spans.clear();
        self.spans.shrink_to(FIELDS_MAX);
        self.summary = Summary::default();
        self
    }
}

impl fmt::Debug for HeadMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields().fmt(f)
    }
}

/// What stands before the first such byte, and behind it.
fn split_at_byte(bytes: &[u8], wanted: u8) -> Result<(&[u8], &[u8]), HeadError> {
    find(bytes, wanted)
        .and_then(|at| Some((bytes.get(..at)?, bytes.get(at + 1..)?)))
        .map_or_else(|| malformed("a field line that cannot be read"), Ok)
}

/// Where `part`, which is a part of `whole`, stands in it.
fn span_of(part: &[u8], whole: &[u8]) -> Result<Span, HeadError> {
    let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    if whole.get(start..start.wrapping_add(part.len())).is_none() {
        return malformed("a part that is not in the head");
    }
    span(start, part.len())
}

/// A whole and well-formed request head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    memory: HeadMemory,
    line: RequestLine,
}

impl RequestHead {
    /// Reads a head as [`HeadScanner`] found it: from the first byte to the
    /// blank line. Empty lines before it are dropped.
    ///
    /// # Errors
    ///
    /// Whatever the scanner refuses; bytes missing or left over; a `Host` that
    /// is missing in HTTP/1.1, repeated, or not a host (RFC 9112 §3.2).
    pub fn parse(bytes: Vec<u8>) -> Result<Self, HeadError> {
        let scanner = scan_whole(HeadScanner::default(), &bytes)?;
        Self::scanned(HeadMemory::with(bytes), &scanner)
    }

    /// Reads the head in `memory`, of which `scanner` has seen exactly these bytes.
    ///
    /// # Errors
    ///
    /// As [`RequestHead::parse`].
    pub fn scanned(memory: HeadMemory, scanner: &HeadScanner) -> Result<Self, HeadError> {
        let FirstLine::Request(Some(line)) = scanner.first_line else {
            return malformed("it is not what was looked at");
        };
        let memory = memory.read(scanner)?;
        let head = Self { memory, line };
        head.check_host()?;
        Ok(head)
    }

    /// The method, in the case it was sent in: methods are case-sensitive.
    pub fn method(&self) -> &str {
        str::from_utf8(self.line.method.of(&self.memory.bytes)).unwrap_or_default()
    }

    /// The request target as received, not empty and without spaces.
    pub fn target(&self) -> &[u8] {
        self.line.target.of(&self.memory.bytes)
    }

    /// The version the client speaks.
    pub fn version(&self) -> Version {
        self.line.version
    }

    /// The field lines.
    pub fn fields(&self) -> Fields<'_> {
        self.memory.fields()
    }

    /// The head from its first letter to its blank line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.memory.bytes
    }

    /// Its memory, to be used again.
    pub fn into_memory(self) -> HeadMemory {
        self.memory.cleared()
    }

    /// "A server MUST respond with a 400 status code to any HTTP/1.1 request
    /// message that lacks a Host header field and to any request message that
    /// contains more than one Host header field line or a Host header field
    /// with an invalid field value" (RFC 9112 §3.2).
    fn check_host(&self) -> Result<(), HeadError> {
        let mut hosts = self.fields().values("host");
        match (hosts.next(), hosts.next(), self.line.version) {
            (None, _, Version::Http10) => Ok(()),
            (None, _, Version::Http11) => malformed("HTTP/1.1 without a Host field"),
            (Some(_), Some(_), _) => malformed("more than one Host field"),
            (Some(b""), None, _) => Ok(()),
            (Some(host), None, _) if Authority::parse(host, Some(80)).is_ok() => Ok(()),
            (Some(_), None, _) => malformed("a Host field that is not a host and a port"),
        }
    }
}

/// A whole and well-formed response head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    memory: HeadMemory,
    line: StatusLine,
}

impl ResponseHead {
    /// Reads a head as [`HeadScanner::for_response`] found it.
    ///
    /// # Errors
    ///
    /// Whatever the scanner refuses; bytes missing or left over.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, HeadError> {
        let scanner = scan_whole(HeadScanner::for_response(), &bytes)?;
        Self::scanned(HeadMemory::with(bytes), &scanner)
    }

    /// Reads the head in `memory`, of which `scanner` has seen exactly these bytes.
    ///
    /// # Errors
    ///
    /// As [`ResponseHead::parse`].
    pub fn scanned(memory: HeadMemory, scanner: &HeadScanner) -> Result<Self, HeadError> {
        let FirstLine::Status(Some(line)) = scanner.first_line else {
            return malformed("it is not what was looked at");
        };
        let memory = memory.read(scanner)?;
        Ok(Self { memory, line })
    }

    /// The version the next hop speaks.
    pub fn version(&self) -> Version {
        self.line.version
    }

    /// The status code, 100 to 999.
    pub fn status(&self) -> u16 {
        self.line.status
    }

    /// The reason phrase as received; may be empty.
    pub fn reason(&self) -> &[u8] {
        self.line.reason.of(&self.memory.bytes)
    }

    /// The field lines.
    pub fn fields(&self) -> Fields<'_> {
        self.memory.fields()
    }

    /// The head from its first letter to its blank line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.memory.bytes
    }

    /// Its memory, to be used again.
    pub fn into_memory(self) -> HeadMemory {
        self.memory.cleared()
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024 };

    /// Scans at once, in two pieces at every position, and byte by byte; all
    /// must agree.
    fn scan(new: fn() -> HeadScanner, bytes: &[u8], limits: HeadLimits) -> Scan {
        let whole = new().scan(bytes, limits);
        for split in 0..bytes.len() {
            let mut scanner = new();
            let first = scanner.scan(&bytes[..split], limits);
            if first == Ok(None) {
                assert_eq!(scanner.scan(bytes, limits), whole, "split at {split}");
            } else {
                assert_eq!(first, whole, "decided at {split}");
                assert_eq!(scanner.scan(bytes, limits), whole, "asked again");
            }
        }
        let mut scanner = new();
        let last = (0..=bytes.len())
            .map(|end| scanner.scan(&bytes[..end], limits))
            .last();
        assert_eq!(last, Some(whole), "byte by byte");
        whole
    }

    fn trailers_of_a_request() -> HeadScanner {
        HeadScanner::for_trailers(Message::Request)
    }

    fn trailers_of_a_response() -> HeadScanner {
        HeadScanner::for_trailers(Message::Response)
    }

    type Scan = Result<Option<usize>, HeadError>;

    fn scan_request(bytes: &[u8]) -> Scan {
        scan(HeadScanner::default, bytes, LIMITS)
    }

    fn scan_response(bytes: &[u8]) -> Scan {
        scan(HeadScanner::for_response, bytes, LIMITS)
    }

    fn is_malformed(result: Scan) -> bool {
        matches!(result, Err(HeadError::Malformed(_)))
    }

    fn check_request_refused(table: &[&[u8]]) {
        for bytes in table {
            assert!(
                is_malformed(scan_request(bytes)),
                "{}",
                bytes.escape_ascii()
            );
            assert!(
                RequestHead::parse(bytes.to_vec()).is_err(),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    fn check_response_refused(table: &[&[u8]]) {
        for bytes in table {
            assert!(
                is_malformed(scan_response(bytes)),
                "{}",
                bytes.escape_ascii()
            );
            assert!(
                ResponseHead::parse(bytes.to_vec()).is_err(),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    /// How many bytes of a refused request it takes to refuse it.
    fn refused_after(bytes: &[u8]) -> usize {
        let mut scanner = HeadScanner::default();
        (0..=bytes.len())
            .find(|&end| scanner.scan(&bytes[..end], LIMITS).is_err())
            .expect("a request that is refused")
    }

    fn request(text: &str) -> RequestHead {
        assert_eq!(scan_request(text.as_bytes()), Ok(Some(text.len())));
        RequestHead::parse(text.as_bytes().to_vec()).expect("well formed")
    }

    fn response(bytes: &[u8]) -> ResponseHead {
        assert_eq!(scan_response(bytes), Ok(Some(bytes.len())));
        ResponseHead::parse(bytes.to_vec()).expect("well formed")
    }

    #[test]
    fn a_head_ends_with_its_blank_line() {
        let head = b"GET http://h/ HTTP/1.1\r\nHost: h\r\nA:b\r\n\r\n";
        let with_body = [&head[..], b"\r\nGET x"].concat();
        assert_eq!(scan_request(&with_body), Ok(Some(head.len())));
        assert_eq!(scan_request(b""), Ok(None));
        assert_eq!(scan_request(&head[..head.len() - 1]), Ok(None));
        assert_eq!(scan_request(b"GET / HTTP/1.0\r\n\r\n"), Ok(Some(18)));
    }

    #[test]
    fn a_request_is_read_as_it_was_sent() {
        let text = "gEt http://h/a?b HTTP/1.1\r\nHost: h\r\nX-A:\t b c \t\r\nx-a:\r\n\r\n";
        let head = request(text);
        assert_eq!(head.method(), "gEt");
        assert_eq!(head.target(), b"http://h/a?b");
        assert_eq!(head.version(), Version::Http11);
        let fields: Vec<_> = head
            .fields()
            .iter()
            .map(|field| (field.name, field.value))
            .collect();
        assert_eq!(
            fields,
            [(&b"Host"[..], &b"h"[..]), (b"X-A", b"b c"), (b"x-a", b"")]
        );
        assert_eq!(head.as_bytes(), text.as_bytes());
        assert_eq!(head.into_memory().bytes, text.as_bytes());
    }

    #[test]
    fn methods_that_others_take_for_those_that_frame_are_refused() {
        for (method, accepted) in [
            ("CONNECT", true),
            ("HEAD", true),
            ("TRACE", true),
            ("Connect", false),
            ("head", false),
            ("tRACE", false),
            ("get", true),
            ("patch", true),
            ("HEADS", true),
        ] {
            let text = format!("{method} http://h/ HTTP/1.1\r\nHost: h\r\n\r\n");
            let parsed = RequestHead::parse(text.into_bytes());
            assert_eq!(parsed.is_ok(), accepted, "{method}");
        }
    }

    #[test]
    fn a_few_empty_lines_before_a_request_are_skipped() {
        let head = request("\r\n\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n");
        assert_eq!(head.method(), "GET");
        assert_eq!(head.as_bytes(), b"GET / HTTP/1.0\r\n\r\n");
        check_request_refused(&[
            b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n",
            b"\nGET / HTTP/1.0\r\n\r\n",
            b"\rGET / HTTP/1.0\r\n\r\n",
            b"\r\r\nGET / HTTP/1.0\r\n\r\n",
            b" GET / HTTP/1.0\r\n\r\n",
        ]);
    }

    #[test]
    fn a_bare_lf_or_cr_is_refused_everywhere() {
        check_request_refused(&[
            b"GET / HTTP/1.0\n\r\n",
            b"GET / HTTP/1.0\r\r\n\r\n",
            b"GET\n/ HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.0\r\n\n",
            b"GET / HTTP/1.0\r\n\r\r\n",
            b"GET / HTTP/1.0\r\nA: b\n\r\n",
            b"GET / HTTP/1.0\r\nA: b\nC: d\r\n\r\n",
            b"GET / HTTP/1.0\r\nA: b\rC: d\r\n\r\n",
            b"GET / HTTP/1.0\r\nA: b\r\n\nC: d\r\n\r\n",
            b"GET / HTTP/1.0\r\nA\n: b\r\n\r\n",
        ]);
    }

    #[test]
    fn a_control_character_is_refused_everywhere_in_a_request() {
        for byte in (0..0x20).chain([0x7f]) {
            let control = [byte];
            let in_target = [b"GET /", &control[..], b" HTTP/1.0\r\n\r\n"].concat();
            let in_name = [b"GET / HTTP/1.0\r\nA", &control[..], b": b\r\n\r\n"].concat();
            check_request_refused(&[&in_target, &in_name]);
            if byte != b'\t' {
                let in_value = [b"GET / HTTP/1.0\r\nA: b", &control[..], b"c\r\n\r\n"].concat();
                check_request_refused(&[&in_value]);
            }
        }
    }

    #[test]
    fn bytes_beyond_ascii_pass_in_values_and_targets_only() {
        let bytes = b"GET http://h/\xe9 HTTP/1.0\r\nA: \xff\x80\r\n\r\n";
        assert_eq!(scan_request(bytes), Ok(Some(bytes.len())));
        let head = RequestHead::parse(bytes.to_vec()).expect("well formed");
        assert_eq!(head.target(), b"http://h/\xe9");
        assert_eq!(head.fields().values("a").next(), Some(&b"\xff\x80"[..]));
        check_request_refused(&[
            b"G\xc9T / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.0\r\n\xc9: a\r\n\r\n",
            b"GET / HTTP/1.0\r\nA\xa0: a\r\n\r\n",
        ]);
    }

    #[test]
    fn a_request_line_is_three_words_with_one_space_between_them() {
        check_request_refused(&[
            b"GET / HTTP/1.0 \r\n\r\n",
            b"GET  / HTTP/1.0\r\n\r\n",
            b"GET /  HTTP/1.0\r\n\r\n",
            b"GET  HTTP/1.0\r\n\r\n",
            b"GET\t/\tHTTP/1.0\r\n\r\n",
            b"GET / x HTTP/1.0\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET\r\n\r\n",
            b"G(T / HTTP/1.0\r\n\r\n",
            b"GET: / HTTP/1.0\r\n\r\n",
        ]);
    }

    #[test]
    fn only_http_1_is_spoken() {
        for (word, expected) in [
            ("HTTP/1.0", Ok(Version::Http10)),
            ("HTTP/1.1", Ok(Version::Http11)),
            ("HTTP/1.2", Ok(Version::Http11)),
            ("HTTP/1.9", Ok(Version::Http11)),
            ("HTTP/2.0", Err(HeadError::VersionUnsupported)),
            ("HTTP/0.9", Err(HeadError::VersionUnsupported)),
        ] {
            let text = format!("GET http://h/ {word}\r\nHost: h\r\n\r\n");
            let head = RequestHead::parse(text.clone().into_bytes());
            assert_eq!(head.map(|head| head.version()), expected, "{word}");
            assert_eq!(
                scan_request(text.as_bytes()).err(),
                expected.err(),
                "{word}"
            );
        }
        for word in [
            "http/1.1",
            "HTTP/1",
            "HTTP/1.",
            "HTTP/1.10",
            "HTTP/01.1",
            "HTTP/11.1",
            "HTTP/1,1",
            "HTTP/+1.1",
            "HTTPS/1.1",
            "HTTP /1.1",
            "",
            "x",
        ] {
            check_request_refused(&[format!("GET / {word}\r\nHost: h\r\n\r\n").as_bytes()]);
        }
    }

    #[test]
    fn folded_lines_and_odd_names_are_refused() {
        check_request_refused(&[
            b"GET / HTTP/1.0\r\nA: b\r\n c\r\n\r\n",
            b"GET / HTTP/1.0\r\nA: b\r\n\tc\r\n\r\n",
            b"GET / HTTP/1.0\r\n A: b\r\n\r\n",
            b"GET / HTTP/1.0\r\nA : b\r\n\r\n",
            b"GET / HTTP/1.0\r\nA\t: b\r\n\r\n",
            b"GET / HTTP/1.0\r\n: b\r\n\r\n",
            b"GET / HTTP/1.0\r\nA\r\n\r\n",
            b"GET / HTTP/1.0\r\nA B: c\r\n\r\n",
            b"GET / HTTP/1.0\r\nA(: c\r\n\r\n",
            b"GET / HTTP/1.0\r\n\"A\": c\r\n\r\n",
        ]);
    }

    #[test]
    fn a_client_that_speaks_tls_or_socks_is_known_by_its_first_byte() {
        for (greeting, foreign) in [
            (
                &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
                Foreign::Tls,
            ),
            (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", Foreign::Socks),
            (b"\x05\x01\x00", Foreign::Socks),
        ] {
            assert_eq!(scan_request(greeting), Err(HeadError::Foreign(foreign)));
            assert_eq!(refused_after(greeting), 1);
        }
    }

    #[test]
    fn what_cannot_become_a_request_is_refused_at_its_first_wrong_byte() {
        assert_eq!(refused_after(b"\x17\x03\x01"), 1);
        assert_eq!(refused_after(b"GET / HTTP/1.0\0"), 15);
        assert_eq!(refused_after(b"GET / HTTP/1.0\n"), 15);
        assert_eq!(
            refused_after(b"SSH-2.0-OpenSSH_9.9\r\n..."),
            21,
            "the line is judged when whole"
        );
        assert_eq!(
            refused_after(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            16,
            "the HTTP/2 preface"
        );
        assert_eq!(refused_after(b"GET /\r\n..."), 7, "HTTP/0.9");
    }

    #[test]
    fn what_cannot_become_a_response_is_refused_at_its_first_wrong_byte() {
        for bytes in [
            &b"<"[..],
            b"HX",
            b"HTTP1",
            b"\r",
            b"\n",
            b"http/",
            b"ICX",
            b"ICY\r",
            b"icy 200",
            b"ICYHTTP/",
        ] {
            assert!(
                is_malformed(scan_response(bytes)),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(scan_response(b"HTTP"), Ok(None));
        assert_eq!(scan_response(b"ICY"), Ok(None));
    }

    #[test]
    fn a_request_line_has_at_most_16_kib() {
        let line = |length: usize| {
            let path = "a".repeat(length - "GET / HTTP/1.0".len());
            format!("GET /{path} HTTP/1.0\r\n\r\n").into_bytes()
        };
        let mut longest = b"\r\n".to_vec();
        longest.extend(line(REQUEST_LINE_MAX));
        assert_eq!(
            HeadScanner::default().scan(&longest, LIMITS),
            Ok(Some(longest.len()))
        );
        let too_long = line(REQUEST_LINE_MAX + 1);
        let refused = Err(HeadError::RequestLineTooLong);
        assert_eq!(HeadScanner::default().scan(&too_long, LIMITS), refused);
        assert_eq!(refused_after(&too_long), REQUEST_LINE_MAX + 1);
        let within_less = scan(HeadScanner::default, &line(40), HeadLimits { bytes: 39 });
        assert_eq!(within_less, refused);
    }

    #[test]
    fn a_head_has_at_most_the_given_bytes() {
        let head = b"GET / HTTP/1.0\r\nA: b\r\n\r\n";
        let exact = HeadLimits { bytes: head.len() };
        assert_eq!(
            scan(HeadScanner::default, head, exact),
            Ok(Some(head.len()))
        );
        for bytes in 16..head.len() {
            let scanned = scan(HeadScanner::default, head, HeadLimits { bytes });
            assert_eq!(scanned, Err(HeadError::TooLarge), "{bytes}");
        }
        let response = b"HTTP/1.1 200 A very long reason\r\n\r\n";
        let scanned = scan(
            HeadScanner::for_response,
            response,
            HeadLimits { bytes: 20 },
        );
        assert_eq!(scanned, Err(HeadError::TooLarge));
    }

    #[test]
    fn a_head_has_at_most_256_fields() {
        let head = |fields: usize| format!("GET / HTTP/1.0\r\n{}\r\n", "a:\r\n".repeat(fields));
        let most = request(&head(FIELDS_MAX));
        assert_eq!(most.fields().iter().count(), FIELDS_MAX);
        assert_eq!(
            scan_request(head(FIELDS_MAX + 1).as_bytes()),
            Err(HeadError::TooLarge)
        );
    }

    #[test]
    fn http_1_1_wants_one_host_and_http_1_0_takes_one_at_most() {
        for (version, fields, accepted) in [
            ("1.1", "", false),
            ("1.1", "Host: h\r\n", true),
            ("1.1", "Host:\r\n", true),
            ("1.1", "host: [::1]:80\r\n", true),
            ("1.1", "Host: h:\r\n", true),
            ("1.1", "Host: h\r\nHost: h\r\n", false),
            ("1.1", "Host: h\r\nA: b\r\nHOST:\r\n", false),
            ("1.1", "Host: h, g\r\n", false),
            ("1.1", "Host: h g\r\n", false),
            ("1.1", "Host: u@h\r\n", false),
            ("1.1", "Host: h:x\r\n", false),
            ("1.1", "Host: h/\r\n", false),
            ("1.1", "Host: http://h\r\n", false),
            ("1.0", "", true),
            ("1.0", "Host: h\r\n", true),
            ("1.0", "Host: h\r\nHost: g\r\n", false),
            ("1.0", "Host: h/\r\n", false),
        ] {
            let text = format!("GET http://h/ HTTP/{version}\r\n{fields}\r\n");
            let parsed = RequestHead::parse(text.into_bytes());
            assert_eq!(parsed.is_ok(), accepted, "{version} {fields:?}");
        }
    }

    /// Every byte of two heads is replaced by every other one. The scanner and
    /// the reader of fields behind it must never disagree.
    #[test]
    fn what_the_scanner_accepts_can_be_read() {
        let unreadable = Some(HeadError::Malformed("a field line that cannot be read"));
        let request = b"GET http://h/ HTTP/1.1\r\nHost: h\r\nA-b:\t c d \r\nE:\r\n\r\n";
        let response = b"HTTP/1.1 200 OK\r\nA-b:\t c d \r\nE:\r\n\r\n";
        for value in 0..=255 {
            for at in 0..request.len() {
                let mut bytes = request.to_vec();
                bytes[at] = value;
                assert_ne!(
                    RequestHead::parse(bytes).err(),
                    unreadable,
                    "{value:#x} at {at}"
                );
            }
            for at in 0..response.len() {
                let mut bytes = response.to_vec();
                bytes[at] = value;
                let accepted = HeadScanner::for_response().scan(&bytes, LIMITS);
                let is_whole = accepted == Ok(Some(bytes.len()));
                assert_eq!(
                    ResponseHead::parse(bytes).is_ok(),
                    is_whole,
                    "{value:#x} at {at}"
                );
            }
        }
    }

    #[test]
    fn a_head_is_parsed_whole_and_alone() {
        let head = b"GET / HTTP/1.0\r\nA: b\r\n\r\n";
        for end in 0..head.len() {
            assert!(RequestHead::parse(head[..end].to_vec()).is_err(), "{end}");
        }
        assert!(RequestHead::parse([&head[..], b"x"].concat()).is_err());
        assert!(ResponseHead::parse(b"HTTP/1.1 200 OK\r\n\r\nx".to_vec()).is_err());
    }

    #[test]
    fn a_response_is_read_as_it_was_sent() {
        let head = response(b"HTTP/1.0 404 Not \xe9 \tFound \r\nA: b\r\n\r\n");
        assert_eq!(head.version(), Version::Http10);
        assert_eq!(head.status(), 404);
        assert_eq!(head.reason(), b"Not \xe9 \tFound ");
        assert_eq!(head.fields().values("A").next(), Some(&b"b"[..]));
    }

    #[test]
    fn a_response_needs_no_reason() {
        for bytes in [&b"HTTP/1.1 200\r\n\r\n"[..], b"HTTP/1.1 200 \r\n\r\n"] {
            let head = response(bytes);
            assert_eq!((head.status(), head.reason()), (200, &b""[..]));
            assert_eq!(head.into_memory().bytes, bytes);
        }
    }

    #[test]
    fn a_status_is_three_digits() {
        assert_eq!(response(b"HTTP/1.1 100 Continue\r\n\r\n").status(), 100);
        assert_eq!(response(b"HTTP/1.1 999 x\r\n\r\n").status(), 999);
        check_response_refused(&[
            b"HTTP/1.1 099 x\r\n\r\n",
            b"HTTP/1.1 000 x\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 +20 OK\r\n\r\n",
            b"HTTP/1.1 200OK\r\n\r\n",
            b"HTTP/1.1  200 OK\r\n\r\n",
            b"HTTP/1.1\t200 OK\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HTTP/1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\nA: b\r\n\r\n",
            b"HTTP/1.1\x01200 OK\r\n\r\n",
            b"HTTP/1.1 200\x0bOK\r\n\r\n",
            b"ICY\t200 OK\r\n\r\n",
            b"ICY 2000 OK\r\n\r\n",
            b"ICY/1.0 200 OK\r\n\r\n",
            b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        ]);
    }

    #[test]
    fn white_space_before_the_colon_is_no_part_of_a_name_in_a_response() {
        let head = response(b"HTTP/1.1 200 OK\r\nX-Note : v\r\nB\t \t:w\r\nC \t : \r\n\r\n");
        let fields: Vec<_> = head.fields().iter().map(|f| (f.name, f.value)).collect();
        assert_eq!(
            fields,
            [(&b"X-Note"[..], &b"v"[..]), (b"B", b"w"), (b"C", b"")]
        );
        assert!(head.fields().contains("x-note"));
        check_response_refused(&[
            b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA B: c\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA \r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA \r\n : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA\x0b: b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\r\n\tc\r\n\r\n",
        ]);
    }

    #[test]
    fn a_control_in_a_value_or_a_reason_of_a_response_stays_unless_it_ends_a_line_or_a_text() {
        for byte in (0..b' ').chain([0x7f]) {
            let value = [&b"HTTP/1.1 200 OK\r\nA: b"[..], &[byte], b"c\r\n\r\n"].concat();
            let reason = [&b"HTTP/1.1 200 b"[..], &[byte], b"c\r\nA: b\r\n\r\n"].concat();
            if b"\0\r\n".contains(&byte) {
                check_response_refused(&[&value, &reason]);
                continue;
            }
            let expected = [b'b', byte, b'c'];
            let head = response(&value);
            assert_eq!(head.fields().values("a").next(), Some(&expected[..]));
            assert_eq!(response(&reason).reason(), expected);
        }
    }

    #[test]
    fn icy_is_read_as_http_1_0() {
        let head = response(b"ICY 200 OK\r\nicy-name: radio\r\n\r\n");
        assert_eq!(
            (head.version(), head.status(), head.reason()),
            (Version::Http10, 200, &b"OK"[..])
        );
        check_request_refused(&[b"GET / ICY\r\n\r\n", b"ICY 200 OK\r\n\r\n"]);
    }

    #[test]
    fn a_response_has_as_many_fields_as_its_bytes_allow() {
        let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:\r\n".repeat(10_000));
        let head = ResponseHead::parse(head.into_bytes()).expect("well formed");
        assert_eq!(head.fields().iter().count(), 10_000);
        let memory = head.into_memory();
        assert!(memory.spans.capacity() <= FIELDS_MAX, "what is kept of it");
    }

    #[test]
    fn a_response_of_another_version_is_refused() {
        let refused = Err(HeadError::VersionUnsupported);
        assert_eq!(scan_response(b"HTTP/2.0 200 OK\r\n\r\n"), refused);
    }

    #[test]
    fn trailers_are_fields_and_a_blank_line() {
        let section = b"A: b\r\nC: d\r\n\r\nrest";
        assert_eq!(scan(trailers_of_a_request, section, LIMITS), Ok(Some(14)));
        assert_eq!(scan(trailers_of_a_request, b"\r\n", LIMITS), Ok(Some(2)));
        let trailers =
            HeadMemory::of_trailers(Message::Request, section[..14].to_vec()).expect("well formed");
        assert_eq!(trailers.fields().values("c").next(), Some(&b"d"[..]));
        for refused in [
            &b"A b\r\n\r\n"[..],
            b" A: b\r\n\r\n",
            b"A: b\n\r\n",
            b"\n",
            b"A: \0\r\n\r\n",
        ] {
            for new in [trailers_of_a_request, trailers_of_a_response] {
                let scanned = scan(new, refused, LIMITS);
                assert!(is_malformed(scanned), "{}", refused.escape_ascii());
            }
        }
        for odd in [&b"A : b\r\n\r\n"[..], b"A: \x01\r\n\r\n"] {
            assert!(is_malformed(scan(trailers_of_a_request, odd, LIMITS)));
            assert_eq!(
                scan(trailers_of_a_response, odd, LIMITS),
                Ok(Some(odd.len()))
            );
        }
        let many = format!("{}\r\n", "a:\r\n".repeat(FIELDS_MAX + 1)).into_bytes();
        let refused = Err(HeadError::TooLarge);
        assert_eq!(trailers_of_a_request().scan(&many, LIMITS), refused);
        let passed = trailers_of_a_response().scan(&many, LIMITS);
        assert_eq!(passed, Ok(Some(many.len())));
    }

    #[test]
    fn debug_shows_no_field_values() {
        let text = "GET http://u:hunter2@h/ HTTP/1.0\r\nProxy-Authorization: Basic hunter2\r\n\r\n";
        let head = request(text);
        let shown = format!("{head:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("Proxy-Authorization"), "{shown}");
    }
}
