//! The scanner of chunked bodies against the slow reader of `reference`: the same bytes are a body,
//! cannot become one, or may still become one, and it carries the same data, however they arrive.

use http_proxy_lb::protocol::chunked::{ByteKind, ChunkScanner};
use http_proxy_lb::protocol::head::Message;

use super::reference::{self, Not};
use super::tape::Tape;

/// Small, so that inputs reach it.
const TRAILER_LIMIT: usize = 300;

/// What the scanner makes of an input that comes in pieces.
fn scan(message: Message, pieces: &[&[u8]]) -> Result<(usize, Vec<u8>), Not> {
    let mut scanner = ChunkScanner::new(message, TRAILER_LIMIT);
    let (mut taken, mut data) = (0, Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        while let Some(run) = scanner.next_run(rest).or(Err(Not::Ever))? {
            let length = run.length;
            assert_ne!(length, 0, "a run of nothing would never end");
            if run.kind == ByteKind::Data {
                data.extend_from_slice(&rest[..length]);
            }
            taken += length;
            rest = &rest[length..];
        }
        assert!(rest.is_empty() || scanner.is_finished(), "bytes were left");
    }
    if scanner.is_finished() {
        Ok((taken, data))
    } else {
        Err(Not::Yet)
    }
}

/// The first byte says where the rest is split.
pub(crate) fn check(input: &[u8]) {
    let mut tape = Tape(input);
    let split = usize::from(tape.byte());
    let input = tape.0;
    for message in [Message::Request, Message::Response] {
        let expected = reference::chunked(message, input, TRAILER_LIMIT);
        let expected = expected.map(|body| (body.length, body.data));
        assert_eq!(scan(message, &[input]), expected, "at once");
        let (first, second) = input.split_at(split.min(input.len()));
        assert_eq!(scan(message, &[first, second]), expected, "in two");
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(scan(message, &bytes), expected, "byte by byte");
    }
}
