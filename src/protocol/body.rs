//! A body on its way through: which bytes of it go on, and where it ends
//! (RFC 9112 §6.3, §7.1).
//!
//! A body ends exactly where its framing says; bytes behind that belong to the
//! next message and are not touched. Gigabytes go through here, so the bytes
//! stay where they were read: what must be left out is closed up in place, and
//! the few bytes that must be added stand in two small buffers beside it.
//!
//! Not in here: finding the framing of a message (`framing`), the grammar of
//! chunks (`chunked`), and which trailer fields may pass (`trailers`).

use super::chunked::{BodyError, ByteKind, ChunkScanner};
use super::framing::Framing;
use super::head::Message;
use super::trailers;

/// How a body is sent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// With the framing it has. Chunks keep their sizes and lose their
    /// extensions; without extensions they pass byte for byte.
    AsReceived,
    /// In chunks, if it would end with the connection; else as it was received.
    Chunked,
    /// Without chunks: of a chunked body only the data, and no trailers.
    Decoded,
}

/// What one call of [`BodyCoder::pass`] made of its input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PassedBytes {
    /// Bytes of the input that belong to the body. They are done with.
    pub taken: usize,
    /// Bytes at the start of the input that are to be written between
    /// [`BodyCoder::before`] and [`BodyCoder::after`]. At most `taken`.
    pub output: usize,
}

/// How far the body is.
#[derive(Debug)]
enum BodyProgress {
    Finished,
    /// Not 0.
    Length(u64),
    UntilClose(Frames),
    Chunked(ChunkScanner, Frames),
    Failed(BodyError),
}

/// What is sent on around the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frames {
    Plain,
    Chunks,
}

/// Takes one body through, in whatever pieces it comes.
///
/// # Examples
///
/// ```
/// use http_proxy_lb::protocol::body::{BodyCoder, Sent};
/// use http_proxy_lb::protocol::framing::Framing;
/// use http_proxy_lb::protocol::head::Message;
///
/// let mut input = *b"3;x=y\r\nabc\r\n0\r\n\r\nGET ";
/// let mut coder = BodyCoder::new(Message::Request, Framing::Chunked, Sent::AsReceived, 1024);
/// let passed = coder.pass(&mut input).unwrap();
/// assert!(coder.is_finished());
/// assert_eq!(&input[..passed.output], b"3\r\nabc\r\n0\r\n\r\n");
/// assert_eq!(&input[passed.taken..], b"GET ");
/// ```
#[derive(Debug)]
pub struct BodyCoder {
    progress: BodyProgress,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl BodyCoder {
    /// A coder before the first byte of the body of a `message`. A chunked one may have
    /// `trailer_limit` bytes of trailers, with the empty line behind them.
    pub fn new(message: Message, framing: Framing, sent: Sent, trailer_limit: usize) -> Self {
        let progress = match (framing, sent) {
            (Framing::Empty | Framing::Length(0), _) => BodyProgress::Finished,
            (Framing::Length(length), _) => BodyProgress::Length(length),
            (Framing::UntilClose, Sent::Chunked) => BodyProgress::UntilClose(Frames::Chunks),
            (Framing::UntilClose, Sent::AsReceived | Sent::Decoded) => {
                BodyProgress::UntilClose(Frames::Plain)
            }
            (Framing::Chunked, _) => BodyProgress::Chunked(
                ChunkScanner::new(message, trailer_limit),
                if sent == Sent::Decoded {
                    Frames::Plain
                } else {
                    Frames::Chunks
                },
            ),
        };
        Self {
            progress,
            before: Vec::new(),
            after: Vec::new(),
        }
    }

    /// Looks at `input`, the bytes that follow those taken before, and moves
    /// what goes on to its start. To be written then, in this order: `before()`,
    /// `input[..output]`, `after()`; each may be empty. Bytes from `taken` on
    /// belong to what follows the body and are as they were.
    ///
    /// Everything is taken unless the body ends within it.
    ///
    /// # Errors
    ///
    /// `Malformed` and `TooLarge` of chunked bodies; the same again at each
    /// later call. Nothing of `input` is to be written then.
    pub fn pass(&mut self, input: &mut [u8]) -> Result<PassedBytes, BodyError> {
        self.before.clear();
        self.after.clear();
        match &mut self.progress {
            BodyProgress::Finished => Ok(PassedBytes::default()),
            BodyProgress::Length(left) => {
                let length = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                // No platform of Rust has a usize of more than 64 bits.
                self.skip(length as u64);
                Ok(PassedBytes {
                    taken: length,
                    output: length,
                })
            }
            BodyProgress::UntilClose(frames) => {
                // A chunk of no bytes would end the body.
                if *frames == Frames::Chunks && !input.is_empty() {
                    push_size_line(input.len(), &mut self.before);
                    self.after.extend_from_slice(b"\r\n");
                }
                Ok(PassedBytes {
                    taken: input.len(),
                    output: input.len(),
                })
            }
            BodyProgress::Chunked(scanner, frames) => {
                let passed = pass_chunks(scanner, *frames, input, &mut self.after);
                match passed {
                    Err(error) => self.progress = BodyProgress::Failed(error),
                    Ok(_) if scanner.is_finished() => self.progress = BodyProgress::Finished,
                    Ok(_) => {}
                }
                passed
            }
            BodyProgress::Failed(error) => Err(*error),
        }
    }

    /// So many of the [`remaining`](Self::remaining) bytes went past this coder. A body whose
    /// end is not found by counting must not.
    pub fn skip(&mut self, bytes: u64) {
        if let BodyProgress::Length(left) = &mut self.progress {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.progress = BodyProgress::Finished;
            }
        }
        self.before.clear();
        self.after.clear();
    }

    /// What is to be written before the output of the last call.
    pub fn before(&self) -> &[u8] {
        &self.before
    }

    /// What is to be written behind the output of the last call; also after
    /// [`Self::end_of_input`].
    pub fn after(&self) -> &[u8] {
        &self.after
    }

    /// The connection ended. It ends the body, too, if that is the framing;
    /// [`Self::after`] then has what is still to be written. A finished body
    /// stays finished.
    ///
    /// # Errors
    ///
    /// `Truncated` if the body has not come to its end, or what was wrong
    /// with it before.
    pub fn end_of_input(&mut self) -> Result<(), BodyError> {
        self.before.clear();
        self.after.clear();
        match self.progress {
            BodyProgress::Finished => return Ok(()),
            BodyProgress::UntilClose(Frames::Chunks) => self.after.extend_from_slice(b"0\r\n\r\n"),
            BodyProgress::UntilClose(Frames::Plain) => {}
            BodyProgress::Failed(error) => return Err(error),
            BodyProgress::Length(_) | BodyProgress::Chunked(..) => {
                self.progress = BodyProgress::Failed(BodyError::Truncated);
                return Err(BodyError::Truncated);
            }
        }
        self.progress = BodyProgress::Finished;
        Ok(())
    }

    /// Whether the last byte of the body was taken. An empty body is finished
    /// from the start.
    pub fn is_finished(&self) -> bool {
        matches!(self.progress, BodyProgress::Finished)
    }

    /// Bytes of the body still to come, where that is known: 0 once it is
    /// finished, else only for a body with a length.
    pub fn remaining(&self) -> Option<u64> {
        match self.progress {
            BodyProgress::Finished => Some(0),
            BodyProgress::Length(left) => Some(left),
            BodyProgress::UntilClose(_) | BodyProgress::Chunked(..) | BodyProgress::Failed(_) => {
                None
            }
        }
    }
}

fn pass_chunks(
    scanner: &mut ChunkScanner,
    frames: Frames,
    input: &mut [u8],
    after: &mut Vec<u8>,
) -> Result<PassedBytes, BodyError> {
    let mut passed = PassedBytes::default();
    while let Some(run) = scanner.next_run(input.get(passed.taken..).unwrap_or_default())? {
        let kept = match (run.kind, frames) {
            (ByteKind::Data, _) | (ByteKind::Framing, Frames::Chunks) => run.length,
            (ByteKind::Extension | ByteKind::Trailers, _) | (ByteKind::Framing, Frames::Plain) => 0,
        };
        if kept > 0 && passed.output < passed.taken {
            input.copy_within(passed.taken..passed.taken + kept, passed.output);
        }
        passed.taken += run.length;
        passed.output += kept;
    }
    if scanner.is_finished() && !scanner.trailers().is_empty() {
        trailers::rewrite(scanner.message(), scanner.trailers(), after)?;
        // Trailers must be well formed also if they are left out.
        if frames == Frames::Plain {
            after.clear();
        }
    }
    Ok(passed)
}

/// `chunk-size CRLF`, without leading zeros.
fn push_size_line(size: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{size:x}\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything written to the next hop, and the bytes that were not taken.
    type Written = Result<(Vec<u8>, Vec<u8>), BodyError>;

    /// Takes a body through as the relay does, in these pieces; then the connection ends.
    fn send(framing: Framing, sent: Sent, pieces: &[&[u8]]) -> Written {
        let mut coder = BodyCoder::new(Message::Request, framing, sent, 1024);
        let (mut written, mut rest) = (Vec::new(), Vec::new());
        for &piece in pieces {
            let mut input = piece.to_vec();
            let passed = coder.pass(&mut input)?;
            assert!(passed.output <= passed.taken);
            assert!(
                passed.taken == input.len() || coder.is_finished(),
                "must take everything"
            );
            assert_eq!(
                input[passed.taken..],
                piece[passed.taken..],
                "must not be touched"
            );
            written.extend_from_slice(coder.before());
            written.extend_from_slice(&input[..passed.output]);
            written.extend_from_slice(coder.after());
            rest.extend_from_slice(&input[passed.taken..]);
        }
        coder.end_of_input()?;
        written.extend_from_slice(coder.before());
        written.extend_from_slice(coder.after());
        Ok((written, rest))
    }

    fn show(sent: Written) -> Result<(String, String), BodyError> {
        sent.map(|(written, rest)| {
            (
                written.escape_ascii().to_string(),
                rest.escape_ascii().to_string(),
            )
        })
    }

    /// Whole, byte by byte, and in two pieces at every position: the same is written.
    #[track_caller]
    fn check(framing: Framing, sent: Sent, body: &[u8], written: &[u8], rest: &[u8]) {
        let expected = show(Ok((written.to_vec(), rest.to_vec())));
        assert_eq!(show(send(framing, sent, &[body])), expected);
        assert_eq!(
            show(send(framing, sent, &body.chunks(1).collect::<Vec<_>>())),
            expected,
            "byte by byte"
        );
        for position in 0..=body.len() {
            let (start, end) = body.split_at(position);
            assert_eq!(
                show(send(framing, sent, &[start, end])),
                expected,
                "split at {position}"
            );
        }
    }

    #[test]
    fn an_empty_body_takes_nothing() {
        for framing in [Framing::Empty, Framing::Length(0)] {
            for sent in [Sent::AsReceived, Sent::Chunked, Sent::Decoded] {
                assert!(BodyCoder::new(Message::Request, framing, sent, 0).is_finished());
                check(framing, sent, b"GET /", b"", b"GET /");
            }
        }
    }

    #[test]
    fn a_length_is_obeyed_to_the_byte() {
        for sent in [Sent::AsReceived, Sent::Chunked, Sent::Decoded] {
            check(Framing::Length(5), sent, b"helloGET /", b"hello", b"GET /");
            check(Framing::Length(5), sent, b"0\r\n\r\n", b"0\r\n\r\n", b"");
        }
    }

    #[test]
    fn what_remains_of_a_length_is_known() {
        let mut coder = BodyCoder::new(Message::Request, Framing::Length(5), Sent::AsReceived, 0);
        assert_eq!(coder.remaining(), Some(5));
        coder.pass(&mut b"he".to_vec()).unwrap();
        assert_eq!(coder.remaining(), Some(3));
        coder.pass(&mut b"lloX".to_vec()).unwrap();
        assert_eq!(coder.remaining(), Some(0));
        assert_eq!(
            BodyCoder::new(Message::Request, Framing::Chunked, Sent::Decoded, 0).remaining(),
            None
        );
        assert_eq!(
            BodyCoder::new(Message::Request, Framing::UntilClose, Sent::Decoded, 0).remaining(),
            None
        );
    }

    #[test]
    fn a_body_until_close_passes_unchanged() {
        for sent in [Sent::AsReceived, Sent::Decoded] {
            check(Framing::UntilClose, sent, b"0\r\n\r\nX", b"0\r\n\r\nX", b"");
        }
    }

    #[test]
    fn a_body_until_close_becomes_chunks() {
        let long = vec![b'x'; 0x1a2b];
        let sent = send(
            Framing::UntilClose,
            Sent::Chunked,
            &[b"hello", b"", &long, b"!"],
        );
        let mut expected = b"5\r\nhello\r\n1a2b\r\n".to_vec();
        expected.extend_from_slice(&long);
        expected.extend_from_slice(b"\r\n1\r\n!\r\n0\r\n\r\n");
        assert_eq!(sent, Ok((expected, Vec::new())));
        assert_eq!(
            send(Framing::UntilClose, Sent::Chunked, &[]),
            Ok((b"0\r\n\r\n".to_vec(), Vec::new()))
        );
    }

    #[test]
    fn chunk_sizes_are_written_in_hexadecimal() {
        for size in [
            1,
            9,
            10,
            15,
            16,
            17,
            255,
            256,
            4095,
            4096,
            65_535,
            65_536,
            usize::MAX,
        ] {
            let mut line = Vec::new();
            push_size_line(size, &mut line);
            assert_eq!(String::from_utf8(line), Ok(format!("{size:x}\r\n")));
        }
    }

    #[test]
    fn chunks_without_extensions_pass_byte_for_byte() {
        let body = b"005\r\nhello\r\nA\r\n0\r\n\r\n12345\r\n1\r\n!\r\n000\r\n\r\n";
        for sent in [Sent::AsReceived, Sent::Chunked] {
            check(
                Framing::Chunked,
                sent,
                &[body, &b"GET /"[..]].concat(),
                body,
                b"GET /",
            );
        }
    }

    #[test]
    fn chunks_lose_their_extensions() {
        check(
            Framing::Chunked,
            Sent::AsReceived,
            b"5;a=\"b;c\"\r\nhello\r\n1 ; x\r\n!\r\n2\r\n!!\r\n0;last\r\n\r\nGET /",
            b"5\r\nhello\r\n1\r\n!\r\n2\r\n!!\r\n0\r\n\r\n",
            b"GET /",
        );
    }

    #[test]
    fn chunks_are_decoded() {
        check(
            Framing::Chunked,
            Sent::Decoded,
            b"5;a\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\nGET /",
            b"hello!",
            b"GET /",
        );
    }

    #[test]
    fn trailers_pass_unless_they_are_dangerous() {
        check(
            Framing::Chunked,
            Sent::AsReceived,
            b"1\r\nx\r\n0\r\nDigest:  \xe9 \r\nContent-Length: 5\r\nB:\r\n\r\nGET /",
            b"1\r\nx\r\n0\r\nDigest: \xe9\r\nB: \r\n\r\n",
            b"GET /",
        );
    }

    #[test]
    fn a_malformed_body_stays_malformed() {
        let mut coder = BodyCoder::new(Message::Request, Framing::Chunked, Sent::AsReceived, 0);
        let error = coder.pass(&mut b"x".to_vec());
        assert!(matches!(error, Err(BodyError::Malformed(_))));
        assert_eq!(coder.pass(&mut b"0\r\n\r\n".to_vec()), error);
        assert!(coder.end_of_input().is_err());
        assert!(!coder.is_finished());
    }

    #[test]
    fn malformed_trailers_are_refused_even_if_they_are_left_out() {
        let body = &b"0\r\nGET / HTTP/1.1\r\n\r\n"[..];
        assert!(matches!(
            send(Framing::Chunked, Sent::Decoded, &[body]),
            Err(BodyError::Malformed(_))
        ));
    }

    #[test]
    fn every_prefix_of_a_body_is_truncated() {
        let body = b"5;a\r\nhello\r\n0\r\nA: b\r\n\r\n";
        for sent in [Sent::AsReceived, Sent::Chunked, Sent::Decoded] {
            for length in 0..body.len() {
                let cut = send(Framing::Chunked, sent, &[&body[..length]]);
                assert_eq!(cut, Err(BodyError::Truncated), "after {length} bytes");
            }
            for length in 0..5 {
                let cut = send(Framing::Length(5), sent, &[&b"hello"[..length]]);
                assert_eq!(cut, Err(BodyError::Truncated), "after {length} bytes");
            }
        }
    }

    #[test]
    fn the_buffers_beside_the_body_do_not_grow() {
        let mut coder = BodyCoder::new(Message::Request, Framing::UntilClose, Sent::Chunked, 0);
        let mut input = vec![b'x'; 65_536];
        coder.pass(&mut input).unwrap();
        let (before, after) = (coder.before().as_ptr(), coder.after().as_ptr());
        for _ in 0..100 {
            coder.pass(&mut input).unwrap();
        }
        assert_eq!(
            (coder.before().as_ptr(), coder.after().as_ptr()),
            (before, after)
        );
        assert_eq!(
            (coder.before(), coder.after()),
            (&b"10000\r\n"[..], &b"\r\n"[..])
        );
    }

    /// What a slow decoder, written from the grammar and from nothing else,
    /// says about all bytes of a connection from the start of a chunked body.
    #[derive(Debug, PartialEq)]
    enum Reference {
        Complete {
            data: Vec<u8>,
            bare: Vec<u8>,
            length: usize,
        },
        Malformed,
        Incomplete,
    }

    impl Reference {
        fn of(wire: &[u8]) -> Self {
            let (mut data, mut bare, mut at) = (Vec::new(), Vec::new(), 0);
            loop {
                let Some(line) = line_at(wire, at) else {
                    return Self::Incomplete;
                };
                at += line.len() + 2;
                let digits: Vec<u8> = line
                    .iter()
                    .copied()
                    .take_while(u8::is_ascii_hexdigit)
                    .collect();
                let text = String::from_utf8(digits).unwrap();
                let Ok(size) = i64::from_str_radix(&text, 16) else {
                    return Self::Malformed;
                };
                if text.len() > 16 || !reference_extensions(&line[text.len()..]) {
                    return Self::Malformed;
                }
                bare.extend_from_slice(format!("{text}\r\n").as_bytes());
                if size == 0 {
                    break;
                }
                let Some(chunk) = usize::try_from(size)
                    .ok()
                    .and_then(|size| wire.get(at..at + size + 2))
                else {
                    return Self::Incomplete;
                };
                let Some(payload) = chunk.strip_suffix(b"\r\n") else {
                    return Self::Malformed;
                };
                data.extend_from_slice(payload);
                bare.extend_from_slice(chunk);
                at += chunk.len();
            }
            loop {
                let Some(line) = line_at(wire, at) else {
                    return Self::Incomplete;
                };
                at += line.len() + 2;
                if line.is_empty() {
                    bare.extend_from_slice(b"\r\n");
                    return Self::Complete {
                        data,
                        bare,
                        length: at,
                    };
                }
                let Some(field) = reference_field(line) else {
                    return Self::Malformed;
                };
                if !field.to_ascii_lowercase().starts_with(b"content-length:") {
                    bare.extend_from_slice(&field);
                }
            }
        }
    }

    /// The line that starts there, up to the first CRLF.
    fn line_at(wire: &[u8], at: usize) -> Option<&[u8]> {
        let rest = &wire[at..];
        let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
        Some(&rest[..length])
    }

    fn trim(bytes: &[u8]) -> &[u8] {
        let start = bytes
            .iter()
            .position(|byte| !b" \t".contains(byte))
            .unwrap_or(bytes.len());
        let end = bytes
            .iter()
            .rposition(|byte| !b" \t".contains(byte))
            .map_or(start, |last| last + 1);
        &bytes[start..end]
    }

    fn token_at(bytes: &[u8]) -> usize {
        let is_tchar =
            |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
        bytes
            .iter()
            .position(|byte| !is_tchar(byte))
            .unwrap_or(bytes.len())
    }

    fn is_text(byte: u8) -> bool {
        byte == b'\t' || byte == b' ' || byte >= 0x80 || byte.is_ascii_graphic()
    }

    fn reference_field(line: &[u8]) -> Option<Vec<u8>> {
        let name = token_at(line);
        let value = line[name..].strip_prefix(b":")?;
        (name > 0 && value.iter().all(|&byte| is_text(byte)))
            .then(|| [&line[..name], b": ", trim(value), b"\r\n"].concat())
    }

    /// Is this `*( BWS ";" BWS name [ BWS "=" BWS value ] )`, and nothing else?
    fn reference_extensions(bytes: &[u8]) -> bool {
        let skip = |bytes: &[u8]| {
            bytes
                .iter()
                .take_while(|byte| b" \t".contains(byte))
                .count()
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(marked) = rest[skip(rest)..].strip_prefix(b";") else {
                return false;
            };
            let named = &marked[skip(marked)..];
            let name = token_at(named);
            if name == 0 {
                return false;
            }
            rest = &named[name..];
            let Some(valued) = rest[skip(rest)..].strip_prefix(b"=") else {
                continue;
            };
            let value = &valued[skip(valued)..];
            let length = if value.first() == Some(&b'"') {
                quoted_at(value)
            } else {
                token_at(value)
            };
            if length == 0 {
                return false;
            }
            rest = &value[length..];
        }
        true
    }

    /// The length of the quoted string at the start, 0 if there is none.
    fn quoted_at(bytes: &[u8]) -> usize {
        let mut at = 1;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => return at + 1,
                b'\\' if bytes.get(at + 1).is_some_and(|&escaped| is_text(escaped)) => at += 2,
                b'\\' => return 0,
                _ if is_text(byte) => at += 1,
                _ => return 0,
            }
        }
        0
    }

    /// xorshift64*: the same bodies in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
            usize::try_from(high).unwrap() % end
        }

        fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
            choices[self.below(choices.len())]
        }

        fn extension(&mut self) -> &'static str {
            let all = [
                "",
                "",
                "",
                ";a",
                " ;\ta = b",
                ";a=\"b;\\\"\u{e9}\"",
                ";a;b=c ;d",
            ];
            self.of(&all)
        }

        fn body(&mut self) -> Vec<u8> {
            let mut wire = Vec::new();
            for _ in 0..self.below(7) {
                let size = if self.below(20) == 0 {
                    self.below(3000) + 1
                } else {
                    self.below(20) + 1
                };
                let zeros = "0".repeat(self.below(3));
                let digits = if self.below(2) == 0 {
                    format!("{size:x}")
                } else {
                    format!("{size:X}")
                };
                wire.extend_from_slice(
                    format!("{zeros}{digits}{}\r\n", self.extension()).as_bytes(),
                );
                wire.extend(
                    (0..size).map(|_| self.of(&[b"\r", b"\n", b"0", b"a", b";", b"\xff"])[0]),
                );
                wire.extend_from_slice(b"\r\n");
            }
            let zeros = "0".repeat(self.below(3));
            wire.extend_from_slice(format!("0{zeros}{}\r\n", self.extension()).as_bytes());
            let trailers = [
                "",
                "",
                "",
                "Sum: 5\r\n",
                "Content-Length: 5\r\n",
                "X:\t a b \t\r\nsum:\r\n",
                "Y:\u{e9}\r\n",
            ];
            wire.extend_from_slice(self.of(&trailers).as_bytes());
            wire.extend_from_slice(self.of(&trailers).as_bytes());
            wire.extend_from_slice(b"\r\n");
            wire
        }

        /// The same bytes, in pieces of sometimes 1 and sometimes many bytes.
        fn pieces<'w>(&mut self, wire: &'w [u8]) -> Vec<&'w [u8]> {
            let longest = *self.of(&[&1, &3, &20, &500, &10_000]);
            let (mut pieces, mut rest) = (Vec::new(), wire);
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at((self.below(longest) + 1).min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            pieces
        }
    }

    #[track_caller]
    fn check_against_reference(wire: &[u8], pieces: &[&[u8]]) {
        let shown = wire.escape_ascii();
        let decoded = send(Framing::Chunked, Sent::Decoded, pieces);
        let passed = send(Framing::Chunked, Sent::AsReceived, pieces);
        match Reference::of(wire) {
            Reference::Complete { data, bare, length } => {
                let rest = wire[length..].to_vec();
                assert_eq!(decoded, Ok((data.clone(), rest.clone())), "{shown}");
                assert_eq!(passed, Ok((bare.clone(), rest)), "{shown}");
                // The next hop reads the same data, to the same end.
                let again = Reference::of(&bare);
                assert_eq!(
                    again,
                    Reference::Complete {
                        data,
                        length: bare.len(),
                        bare
                    },
                    "{shown}"
                );
            }
            Reference::Malformed => {
                assert!(
                    matches!(decoded, Err(BodyError::Malformed(_))),
                    "{shown}: {decoded:?}"
                );
                assert_eq!(passed, decoded, "{shown}");
            }
            // The coder may know sooner that no line end can help.
            Reference::Incomplete => {
                assert!(decoded.is_err(), "{shown}: {decoded:?}");
                assert_eq!(passed, decoded, "{shown}");
            }
        }
    }

    #[test]
    fn generated_bodies_are_read_as_by_a_slow_decoder() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..2000 {
            let mut wire = random.body();
            wire.extend_from_slice(random.of(&[
                &b""[..],
                b"GET / HTTP/1.1\r\n\r\n",
                b"5\r\nhello",
            ]));
            assert!(matches!(Reference::of(&wire), Reference::Complete { .. }));
            check_against_reference(&wire, &[&wire]);
            check_against_reference(&wire, &random.pieces(&wire));
        }
    }

    #[test]
    fn damaged_bodies_are_judged_as_by_a_slow_decoder() {
        let mut random = Random(0x0123_4567_89ab_cdef);
        let mut verdicts = [0; 3];
        for _ in 0..20_000 {
            let mut wire = random.body();
            for _ in 0..=random.below(2) {
                let at = random.below(wire.len());
                let byte = random.of(&[
                    b"\r", b"\n", b"\0", b" ", b"\t", b";", b"\"", b"\\", b"=", b":", b"5", b"f",
                    b"G", b"\x7f",
                ])[0];
                match random.below(3) {
                    0 => wire[at] = byte,
                    1 => wire.insert(at, byte),
                    _ => drop(wire.remove(at)),
                }
            }
            wire.extend_from_slice(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            check_against_reference(&wire, &[&wire]);
            check_against_reference(&wire, &random.pieces(&wire));
            match Reference::of(&wire) {
                Reference::Complete { .. } => verdicts[0] += 1,
                Reference::Malformed => verdicts[1] += 1,
                Reference::Incomplete => verdicts[2] += 1,
            }
        }
        assert!(
            verdicts.iter().all(|&count| count > 100),
            "one-sided damage: {verdicts:?}"
        );
    }
}
