//! What goes on of a body is the same data in its new framing, in whatever pieces it comes; bytes behind
//! it are not touched; only harmless trailers pass.

use http_proxy_lb::protocol::body::{BodyCoder, Sent};
use http_proxy_lb::protocol::chunked::BodyError;
use http_proxy_lb::protocol::framing::Framing;
use http_proxy_lb::protocol::head::Message;

use super::reference::{self, Not};
use super::tape::Tape;

const TRAILER_LIMIT: usize = 300;

/// A few of the names that no trailer may carry to the next hop.
const NEVER: [&str; 10] = [
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
    "authorization",
    "proxy-authorization",
    "proxy-status",
    "cookie",
    "x-forwarded-for",
    "te",
];

/// What was sent on, and how many bytes of the input were the body.
#[derive(PartialEq, Eq, Debug)]
struct Coded {
    sent: Vec<u8>,
    taken: usize,
    ends_with_input: bool,
}

fn code(framing: Framing, sent: Sent, pieces: &[&[u8]]) -> Result<Coded, BodyError> {
    let mut coder = BodyCoder::new(Message::Response, framing, sent, TRAILER_LIMIT);
    let mut done = Coded {
        sent: Vec::new(),
        taken: 0,
        ends_with_input: false,
    };
    for piece in pieces {
        if coder.is_finished() {
            break;
        }
        let mut buffer = piece.to_vec();
        let before = coder.remaining();
        let passed = coder.pass(&mut buffer)?;
        assert!(passed.output <= passed.taken && passed.taken <= piece.len());
        assert!(
            passed.taken == piece.len() || coder.is_finished(),
            "everything is taken unless the body ends"
        );
        assert_eq!(
            buffer[passed.taken..],
            piece[passed.taken..],
            "bytes behind the body"
        );
        if let (Some(before), Some(after)) = (before, coder.remaining()) {
            assert_eq!(before - after, passed.taken as u64);
        }
        done.sent.extend_from_slice(coder.before());
        done.sent.extend_from_slice(&buffer[..passed.output]);
        done.sent.extend_from_slice(coder.after());
        done.taken += passed.taken;
    }
    if !coder.is_finished() {
        coder.end_of_input()?;
        done.sent.extend_from_slice(coder.after());
        done.ends_with_input = true;
    }
    assert!(coder.is_finished());
    Ok(done)
}

/// The first three bytes say how the body is framed, how it is sent, and where it is split.
pub(crate) fn check(input: &[u8]) {
    let mut tape = Tape(input);
    let framing = tape.byte();
    let sent = tape.pick(&[Sent::AsReceived, Sent::Chunked, Sent::Decoded]);
    let split = usize::from(tape.byte());
    let framing = match framing {
        0..=127 => Framing::Chunked,
        128..=159 => Framing::UntilClose,
        160..=191 => Framing::Empty,
        length => Framing::Length(u64::from(length - 192)),
    };
    let input = tape.0;
    let (first, second) = input.split_at(split.min(input.len()));
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    let whole = code(framing, sent, &[input]);
    for pieces in [&[first, second][..], &bytes] {
        let other = code(framing, sent, pieces);
        assert_eq!(other.is_err(), whole.is_err(), "{whole:?} {other:?}");
        if let (Ok(whole), Ok(other)) = (&whole, other) {
            assert_eq!(whole.taken, other.taken);
            check_meaning(framing, sent, input, &other);
        }
    }
    if let Ok(whole) = whole {
        check_meaning(framing, sent, input, &whole);
    }
}

fn check_meaning(framing: Framing, sent: Sent, input: &[u8], coded: &Coded) {
    let received = match framing {
        Framing::Empty => Vec::new(),
        Framing::Length(length) => input[..usize::try_from(length).expect("small")].to_vec(),
        Framing::UntilClose => input.to_vec(),
        Framing::Chunked => {
            let body = reference::chunked(Message::Response, input, TRAILER_LIMIT)
                .expect("it was accepted");
            assert_eq!(coded.taken, body.length);
            body.data
        }
    };
    assert_eq!(coded.ends_with_input, framing == Framing::UntilClose);
    let in_chunks = match (framing, sent) {
        (Framing::Chunked, Sent::AsReceived | Sent::Chunked)
        | (Framing::UntilClose, Sent::Chunked) => true,
        (_, _) => false,
    };
    if !in_chunks {
        assert_eq!(coded.sent, received, "the data and nothing else");
        return;
    }
    let again = reference::chunked(Message::Response, &coded.sent, usize::MAX);
    let again = again.unwrap_or_else(|not: Not| panic!("what is sent is no body: {not:?}"));
    assert_eq!(
        again.length,
        coded.sent.len(),
        "one body and nothing behind it"
    );
    assert_eq!(again.data, received);
    assert!(!again.is_extended, "extensions end here");
    for (name, _) in &again.trailers {
        let name = String::from_utf8_lossy(name).to_lowercase();
        assert!(!NEVER.contains(&name.as_str()), "a trailer {name}");
    }
}
