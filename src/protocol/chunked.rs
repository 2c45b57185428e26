//! What each byte of a chunked body is (RFC 9112 §7.1).
//!
//! Chunked bodies are where two parsers like to disagree: about the end of a
//! size line, about what may stand behind a size, about the two bytes behind
//! the data. Every such disagreement lets one message hide in another. So the
//! scanner accepts the grammar of the RFC and nothing beside it, and says
//! which bytes are size lines, extensions, data and trailers; it keeps no
//! data, and it goes over data by its length, not byte by byte.
//!
//! Not in here: what is passed on of all this (`body`), and what a trailer
//! field may say (`trailers`).

use std::fmt;

use super::fields::is_token_byte;
use super::head::{HeadError, HeadLimits, HeadScanner, Message};

/// Longest chunk size, in hexadecimal digits: what 64 bits hold.
pub const SIZE_DIGITS_MAX: u8 = 16;
/// Most bytes of extensions on one size line.
pub const EXTENSION_LINE_MAX: usize = 1024;
/// Most bytes of extensions in one body, whatever its length: otherwise one
/// byte of data costs a kilobyte of input for ever (CVE-2023-39326).
pub const EXTENSIONS_MAX: usize = 16 * 1024;

/// Why a body cannot go on. There is no way to go on behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyError {
    /// It breaks the grammar of RFC 9112 §7.1: where, for people to read.
    Malformed(&'static str),
    /// Extensions or trailers beyond their limits.
    TooLarge,
    /// The connection ended before the body.
    Truncated,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "malformed body: {what}"),
            Self::TooLarge => f.write_str("chunk extensions or trailers are too large"),
            Self::Truncated => f.write_str("connection ended before the body"),
        }
    }
}

impl std::error::Error for BodyError {}

impl From<HeadError> for BodyError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(what) => Self::Malformed(what),
            HeadError::TooLarge => Self::TooLarge,
            HeadError::RequestLineTooLong
            | HeadError::VersionUnsupported
            | HeadError::Foreign(_) => Self::Malformed("trailer section is malformed"),
        }
    }
}

/// What a byte of a chunked body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteKind {
    /// Of a chunk size, or of a line end around sizes and data.
    Framing,
    /// Of an extension, or of the white space in front of it; without the line end.
    Extension,
    /// Data.
    Data,
    /// Of the trailer fields with the empty line that ends them. A body without
    /// trailer fields has none: its last line end is `Framing`.
    Trailers,
}

/// A run of bytes that are all of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// What they are.
    pub kind: ByteKind,
    /// How many they are; never 0.
    pub length: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ChunkState {
    /// A chunk size of which so many digits are known.
    Size(u8),
    /// Behind a size, before the end of its line.
    Extension(Extension),
    /// The LF of a size line.
    SizeLf,
    /// Data; `left` is not 0.
    Data,
    /// The CR behind the data of a chunk.
    DataCr,
    /// The LF behind the data of a chunk.
    DataLf,
    /// A trailer field, or the CR of the empty line.
    AfterLastChunk,
    /// Within the trailer section.
    Trailers,
    /// The LF of the empty line that ends a body without trailer fields.
    LastLf,
    /// Nothing: the body is complete.
    Finished,
}

/// Finds out what the bytes of one chunked body are, in whatever pieces they come.
#[derive(Debug)]
pub struct ChunkScanner {
    state: ChunkState,
    /// Value of the size line being read, then bytes of data to come in this chunk.
    left: u64,
    /// Bytes of extensions on this size line.
    extension_line: usize,
    /// Bytes of extensions in this body.
    extensions: usize,
    /// The trailer section as received, as far as it is known.
    trailers: Vec<u8>,
    message: Message,
    trailer_scanner: HeadScanner,
    trailer_limits: HeadLimits,
}

impl ChunkScanner {
    /// A scanner before the first byte of the body of a `message` whose trailer section may have at most
    /// `trailer_limit` bytes.
    pub fn new(message: Message, trailer_limit: usize) -> Self {
        Self {
            state: ChunkState::Size(0),
            left: 0,
            extension_line: 0,
            extensions: 0,
            trailers: Vec::new(),
            message,
            trailer_scanner: HeadScanner::for_trailers(message),
            trailer_limits: HeadLimits {
                bytes: trailer_limit,
            },
        }
    }

    /// Whether the last byte of the body was seen.
    pub fn is_finished(&self) -> bool {
        self.state == ChunkState::Finished
    }

    /// What the body is a part of.
    pub fn message(&self) -> Message {
        self.message
    }

    /// The trailer section as received, with its empty line; empty if there
    /// are no trailer fields. Complete once [`Self::is_finished`].
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// The next run at the start of `input`, or `None` if that is empty or the
    /// body is finished. Each call goes on where the run before it ended.
    ///
    /// # Errors
    ///
    /// `Malformed` at the first byte that the grammar of RFC 9112 §7.1 does not
    /// allow, `TooLarge` for extensions or trailers beyond their limits. There
    /// is no way to go on after an error.
    pub fn next_run(&mut self, input: &[u8]) -> Result<Option<Run>, BodyError> {
        let Some(kind) = input.first().and_then(|&byte| self.kind(byte)) else {
            return Ok(None);
        };
        let length = match kind {
            ByteKind::Data => self.data(input.len()),
            ByteKind::Trailers => self.trailers_run(input)?,
            ByteKind::Framing | ByteKind::Extension => {
                let mut length = 0;
                for &byte in input {
                    if self.kind(byte) != Some(kind) {
                        break;
                    }
                    self.state = self.step(byte)?;
                    length += 1;
                }
                length
            }
        };
        Ok((length > 0).then_some(Run { kind, length }))
    }

    fn data(&mut self, available: usize) -> usize {
        let length = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(available);
        // No platform of Rust has a usize of more than 64 bits.
        self.left = self.left.saturating_sub(length as u64);
        if self.left == 0 {
            self.state = ChunkState::DataCr;
        }
        length
    }

    fn trailers_run(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        self.state = ChunkState::Trailers;
        let before = self.trailers.len();
        let room = self.trailer_limits.bytes.saturating_sub(before);
        self.trailers.extend(input.iter().take(room));
        if let Some(length) = self
            .trailer_scanner
            .scan(&self.trailers, self.trailer_limits)?
        {
            self.trailers.truncate(length);
            self.state = ChunkState::Finished;
        }
        Ok(self.trailers.len() - before)
    }

    /// What `byte`, the next one, is if the grammar allows it here; `None` behind the body.
    fn kind(&self, byte: u8) -> Option<ByteKind> {
        match self.state {
            ChunkState::Size(_) if matches!(byte, b' ' | b'\t' | b';') => Some(ByteKind::Extension),
            ChunkState::Extension(_) if byte != b'\r' => Some(ByteKind::Extension),
            ChunkState::AfterLastChunk if byte != b'\r' => Some(ByteKind::Trailers),
            ChunkState::Size(_)
            | ChunkState::Extension(_)
            | ChunkState::SizeLf
            | ChunkState::DataCr
            | ChunkState::DataLf
            | ChunkState::AfterLastChunk
            | ChunkState::LastLf => Some(ByteKind::Framing),
            ChunkState::Data => Some(ByteKind::Data),
            ChunkState::Trailers => Some(ByteKind::Trailers),
            ChunkState::Finished => None,
        }
    }

    fn step(&mut self, byte: u8) -> Result<ChunkState, BodyError> {
        match (self.state, byte) {
            (ChunkState::Size(digits), _) => self.size(digits, byte),
            (ChunkState::Extension(place), b'\r') if place.may_end() => Ok(ChunkState::SizeLf),
            (ChunkState::Extension(place), _) => self.extension(place, byte),
            (ChunkState::SizeLf, b'\n') => Ok(self.size_line_end()),
            (ChunkState::DataCr, b'\r') => Ok(ChunkState::DataLf),
            (ChunkState::DataLf, b'\n') => Ok(ChunkState::Size(0)),
            (ChunkState::DataCr | ChunkState::DataLf, _) => {
                Err(BodyError::Malformed("chunk data is not followed by CRLF"))
            }
            (ChunkState::AfterLastChunk, b'\r') => Ok(ChunkState::LastLf),
            (ChunkState::LastLf, b'\n') => Ok(ChunkState::Finished),
            (ChunkState::SizeLf | ChunkState::LastLf, _) => {
                Err(BodyError::Malformed("bare CR in chunked framing"))
            }
            // `kind` sends none of these here.
            (
                ChunkState::AfterLastChunk
                | ChunkState::Data
                | ChunkState::Trailers
                | ChunkState::Finished,
                _,
            ) => Ok(self.state),
        }
    }

    fn size(&mut self, digits: u8, byte: u8) -> Result<ChunkState, BodyError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if digits > 0 => return Ok(ChunkState::SizeLf),
            b' ' | b'\t' | b';' if digits > 0 => {
                return self.extension(Extension::BeforeMark, byte);
            }
            b'\n' => return Err(BodyError::Malformed("bare LF in chunked framing")),
            _ => {
                return Err(BodyError::Malformed(
                    "chunk size is not a hexadecimal number",
                ));
            }
        };
        if digits >= SIZE_DIGITS_MAX {
            return Err(BodyError::Malformed("chunk size has more than 16 digits"));
        }
        self.left = (self.left << 4) | u64::from(digit);
        // Bit 63 is a sign to those who read sizes into signed integers.
        if self.left > i64::MAX.unsigned_abs() {
            return Err(BodyError::Malformed("chunk size is out of range"));
        }
        Ok(ChunkState::Size(digits + 1))
    }

    fn extension(&mut self, place: Extension, byte: u8) -> Result<ChunkState, BodyError> {
        self.extension_line += 1;
        self.extensions += 1;
        if self.extension_line > EXTENSION_LINE_MAX || self.extensions > EXTENSIONS_MAX {
            return Err(BodyError::TooLarge);
        }
        place
            .next(byte)
            .map(ChunkState::Extension)
            .ok_or(BodyError::Malformed("chunk extension is malformed"))
    }

    fn size_line_end(&mut self) -> ChunkState {
        self.extension_line = 0;
        if self.left == 0 {
            ChunkState::AfterLastChunk
        } else {
            ChunkState::Data
        }
    }
}

/// Where in `*( BWS ";" BWS name [ BWS "=" BWS value ] )` the last byte was.
///
/// The extensions are left out of what is passed on, yet their grammar
/// matters: a quoted string that is still open at the end of the line, or a
/// lone LF, is where parsers disagree about where that end is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extension {
    /// White space that only a `;` may follow.
    BeforeMark,
    /// Behind a `;`, before the name.
    BeforeName,
    Name,
    /// White space behind a name.
    AfterName,
    /// Behind a `=`, before the value.
    BeforeValue,
    Value,
    Quoted,
    /// Behind a backslash within quotes.
    Escaped,
    /// Behind the closing quote.
    QuotedEnd,
}

impl Extension {
    /// Whether the line may end here.
    fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Value | Self::QuotedEnd)
    }

    /// The place after `byte`, or `None` if that may not stand here.
    fn next(self, byte: u8) -> Option<Self> {
        let blank = matches!(byte, b' ' | b'\t');
        match self {
            Self::BeforeMark | Self::Value | Self::QuotedEnd if blank => Some(Self::BeforeMark),
            Self::Name | Self::AfterName if blank => Some(Self::AfterName),
            Self::BeforeName | Self::BeforeValue if blank => Some(self),
            Self::BeforeMark | Self::Name | Self::AfterName | Self::Value | Self::QuotedEnd
                if byte == b';' =>
            {
                Some(Self::BeforeName)
            }
            Self::Name | Self::AfterName if byte == b'=' => Some(Self::BeforeValue),
            Self::BeforeName | Self::Name if is_token_byte(byte) => Some(Self::Name),
            Self::BeforeValue | Self::Value if is_token_byte(byte) => Some(Self::Value),
            Self::BeforeValue if byte == b'"' => Some(Self::Quoted),
            Self::Quoted if byte == b'"' => Some(Self::QuotedEnd),
            Self::Quoted if byte == b'\\' => Some(Self::Escaped),
            Self::Quoted | Self::Escaped if byte == b'\t' || (byte >= b' ' && byte != 0x7f) => {
                Some(Self::Quoted)
            }
            Self::BeforeMark
            | Self::BeforeName
            | Self::Name
            | Self::AfterName
            | Self::BeforeValue
            | Self::Value
            | Self::Quoted
            | Self::Escaped
            | Self::QuotedEnd => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of a body, and how many bytes it has on the wire if it is complete.
    type Read = Result<(Vec<u8>, Option<usize>), BodyError>;

    fn read(pieces: &[&[u8]]) -> Read {
        let mut scanner = ChunkScanner::new(Message::Request, 1024);
        let mut data = Vec::new();
        let mut seen = 0;
        for mut piece in pieces.iter().copied() {
            while let Some(run) = scanner.next_run(piece)? {
                let (bytes, rest) = piece.split_at(run.length);
                if run.kind == ByteKind::Data {
                    data.extend_from_slice(bytes);
                }
                seen += run.length;
                piece = rest;
            }
            assert!(
                piece.is_empty() || scanner.is_finished(),
                "left over: {piece:?}"
            );
        }
        Ok((data, scanner.is_finished().then_some(seen)))
    }

    /// Reads the body whole, byte by byte and in two pieces at every position.
    #[track_caller]
    fn check(body: &[u8], expected: &Read) {
        let shown = body.escape_ascii();
        assert_eq!(&read(&[body]), expected, "{shown}");
        assert_eq!(
            &read(&body.chunks(1).collect::<Vec<_>>()),
            expected,
            "{shown} byte by byte"
        );
        for position in 0..=body.len() {
            let (start, end) = body.split_at(position);
            assert_eq!(
                &read(&[start, end]),
                expected,
                "{shown} split at {position}"
            );
        }
    }

    #[track_caller]
    fn check_accepted(body: &[u8], data: &[u8]) {
        check(body, &Ok((data.to_vec(), Some(body.len()))));
        let mut with_next = body.to_vec();
        with_next.extend_from_slice(b"0\r\n\r\n");
        check(&with_next, &Ok((data.to_vec(), Some(body.len()))));
    }

    #[track_caller]
    fn check_malformed(body: &[u8]) {
        let shown = body.escape_ascii();
        let pieces: Vec<_> = (0..=body.len())
            .map(|position| body.split_at(position))
            .collect();
        let malformed = |read: Read| matches!(read, Err(BodyError::Malformed(_)));
        assert!(malformed(read(&[body])), "{shown}");
        assert!(
            malformed(read(&body.chunks(1).collect::<Vec<_>>())),
            "{shown} byte by byte"
        );
        for (start, end) in pieces {
            assert!(
                malformed(read(&[start, end])),
                "{shown} split at {}",
                start.len()
            );
        }
    }

    #[test]
    fn well_formed_bodies_are_read() {
        check_accepted(b"0\r\n\r\n", b"");
        check_accepted(b"5\r\nhello\r\n0\r\n\r\n", b"hello");
        check_accepted(b"5\r\nhello\r\n1\r\n!\r\n000\r\n\r\n", b"hello!");
        check_accepted(
            b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
            b"01234567890123456789a",
        );
        check_accepted(
            b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n",
            b"hello",
        );
        check_accepted(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n");
    }

    #[test]
    fn extensions_are_read_by_their_grammar() {
        for extension in [
            ";a",
            ";a=b",
            ";a;b=c;d",
            " ; a = b \t;\tc",
            ";a=\"\"",
            ";a=\"b;c, \\\"d\\\\\"",
            ";a=\"b\" ;c",
            ";a=\"\t\u{e9}\"",
        ] {
            let body = format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n");
            check_accepted(body.as_bytes(), b"hello");
        }
    }

    #[test]
    fn trailers_belong_to_the_body() {
        check_accepted(b"1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\n", b"x");
        check_accepted(b"0;a\r\nA: 0\r\n\r\n", b"");
    }

    #[test]
    fn sizes_are_plain_hexadecimal_numbers() {
        for size in [
            "",
            "+5",
            "-5",
            "0x5",
            "0X5",
            "5h",
            "x",
            "g",
            " 5",
            "\t5",
            "\x0b5",
            "5\x0b",
            "5\x0c",
            "5.0",
            "5,5",
            "5_",
            "1_0",
            "5 5",
            "\u{feff}5",
            "\u{ff15}",
            "\"5\"",
            "%35",
            "5\0",
            "\x005",
            // White space is only allowed before an extension.
            "5 ",
            "5\t",
            "5 \t ",
        ] {
            check_malformed(format!("{size}\r\nhello\r\n0\r\n\r\n").as_bytes());
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        for size in [
            "00000000000000005",
            "10000000000000005",
            "100000000000000000000000000000005",
            "ffffffffffffffff",
            "8000000000000000",
            "fffffffffffffffb",
        ] {
            check_malformed(format!("{size}\r\nhello\r\n0\r\n\r\n").as_bytes());
        }
    }

    #[test]
    fn the_largest_size_is_awaited() {
        check(b"7fffffffffffffff\r\nhello", &Ok((b"hello".to_vec(), None)));
    }

    #[test]
    fn size_lines_end_with_crlf_alone() {
        for body in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\rhello\r\n0\r\n\r\n",
            b"5\r\rhello\r\n0\r\n\r\n",
            b"5\r\r\nhello\r\n0\r\n\r\n",
            b"5\n\nhello\r\n0\r\n\r\n",
            b"5\n\rhello\r\n0\r\n\r\n",
            b"5\r\0\nhello\r\n0\r\n\r\n",
            b"\r\n5\r\nhello\r\n0\r\n\r\n",
            b"0\n\r\n",
            b"0\r\n\n",
            b"0\r\n\r\r\n",
            b"0\r\n\rX",
            b"0\n\n",
        ] {
            check_malformed(body);
        }
    }

    #[test]
    fn lines_cannot_end_in_an_extension_in_two_ways() {
        for extension in [
            // TERM.EXT: one parser ends the line at the lone LF or CR.
            ";\n",
            ";a\n",
            ";a=b\n",
            ";a\nX",
            ";a=\"\n\"",
            ";\r",
            ";a\rX",
            ";a=\"\r\"",
            " \n",
            " ;\n5",
            // EXT.TERM: one parser reads on to the closing quote.
            ";a=\"",
            ";a=\"b",
            ";a=\"b\\",
            ";a=\"b\\\"",
            // Not the grammar: nothing behind the mark.
            ";",
            "; ",
            ";a=",
            ";a= ",
            ";=a",
            ";a;",
            ";a ",
            ";a=b ",
            ";;a",
            ";a==b",
            ";a=b=c",
            ";a b",
            ";a=b c",
            ";a=\"b\"c",
            ";a=b\"c\"",
            ";\"a\"",
            ";a,b",
            ";a=b,c",
            ";(a)",
            " a",
            // Controls.
            ";\0",
            ";a\0",
            ";a=\0",
            ";a=\"\0\"",
            ";a=\"\\\0\"",
            ";a\x0b",
            ";a=\x7f",
            ";a=\"\x7f\"",
            ";a=\x1b",
            ";\u{e9}",
            ";a=\u{e9}",
        ] {
            check_malformed(format!("5{extension}\r\nhello\r\n0\r\n\r\n").as_bytes());
        }
    }

    #[test]
    fn data_is_followed_by_crlf_alone() {
        for body in [
            // TERM.SPILL, ONE.TWO and TWO.TERM: one or two other bytes there.
            &b"5\r\nhello0\r\n\r\n"[..],
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r0\r\n\r\n",
            b"5\r\nhello\n\r0\r\n\r\n",
            b"5\r\nhello\n\n0\r\n\r\n",
            b"5\r\nhelloXX0\r\n\r\n",
            b"5\r\nhello\r\r\n0\r\n\r\n",
            b"5\r\nhello \r\n0\r\n\r\n",
            b"5\r\nhello\r\n\r\n0\r\n\r\n",
            // A size that is one too small or too large.
            b"4\r\nhello\r\n0\r\n\r\n",
            b"6\r\nhello\r\n0\r\n\r\n",
        ] {
            check_malformed(body);
        }
    }

    #[test]
    fn trailer_sections_are_strict() {
        for body in [
            // TE.0: what follows the last chunk is another request to the next hop.
            &b"0\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"0\r\nA\r\n\r\n",
            b"0\r\n: a\r\n\r\n",
            b"0\r\n A: b\r\n\r\n",
            b"0\r\nA: b\r\n c\r\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA: b\r\n\n",
            b"0\r\nA: b\rX\r\n\r\n",
            b"0\r\nA: \0\r\n\r\n",
            b"0\r\nA: b\r\n\rX",
        ] {
            check_malformed(body);
        }
    }

    #[test]
    fn extensions_of_one_line_are_bounded() {
        let body = |length: usize| format!("0;{}\r\n\r\n", "a".repeat(length - 1)).into_bytes();
        assert!(read(&[&body(EXTENSION_LINE_MAX)[..]]).is_ok());
        assert_eq!(
            read(&[&body(EXTENSION_LINE_MAX + 1)[..]]),
            Err(BodyError::TooLarge)
        );
        assert_eq!(
            read(&body(EXTENSION_LINE_MAX + 1).chunks(1).collect::<Vec<_>>()),
            Err(BodyError::TooLarge)
        );
    }

    #[test]
    fn extensions_of_one_body_are_bounded() {
        let chunk = format!("1;{}\r\nx\r\n", "a".repeat(1023));
        let body = chunk.repeat(EXTENSIONS_MAX / 1024);
        assert!(read(&[body.as_bytes()]).is_ok());
        assert_eq!(read(&[body.as_bytes(), b"1;a"]), Err(BodyError::TooLarge));
    }

    #[test]
    fn trailers_are_bounded() {
        let body =
            |length: usize| format!("0\r\nA:{}\r\n\r\n", "b".repeat(length - 6)).into_bytes();
        assert!(read(&[&body(1024)[..]]).is_ok());
        assert!(read(&body(1024).chunks(1).collect::<Vec<_>>()).is_ok());
        assert_eq!(read(&[&body(1025)[..]]), Err(BodyError::TooLarge));
        assert_eq!(
            read(&body(1025).chunks(1).collect::<Vec<_>>()),
            Err(BodyError::TooLarge)
        );
    }
}
