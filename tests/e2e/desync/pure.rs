//! Each message through the parsers alone: whole, byte by byte, and in two pieces at every
//! position. How the bytes come must not matter to what they mean.

use http_proxy_lb::protocol::answer::Refusal;
use http_proxy_lb::protocol::body::{BodyCoder, Sent};
use http_proxy_lb::protocol::chunked::BodyError;
use http_proxy_lb::protocol::framing::{self, Framing};
use http_proxy_lb::protocol::head::{HeadLimits, HeadScanner, Message, RequestHead};
use http_proxy_lb::protocol::head::{ResponseHead, Version};
use http_proxy_lb::protocol::persistence::{CloseReason, Persistence};
use http_proxy_lb::protocol::rewrite::{self, Form, KeepAlive, RequestRewrite};
use http_proxy_lb::protocol::rewrite::{ResponseRewrite, SentFraming, Switch};
use http_proxy_lb::protocol::target::RequestTarget;

use super::{Ask, Case, Fate, Outcome, SMUGGLED, Side, Then, all_requests, all_responses};

const LIMIT: usize = 64 * 1024;

/// What the parsers make of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reading {
    /// Answered with this status.
    Refused(u16),
    /// It breaks off: what goes on is not a whole message.
    BreaksOff,
    /// What goes on, and the bytes behind the message.
    Whole(String, Vec<u8>),
}

#[test]
fn no_request_depends_on_how_it_is_cut() {
    for case in all_requests() {
        let Side::Client(fate) = &case.side else {
            panic!("{} is no request", case.name);
        };
        let expected = match fate {
            Fate::Refused(status) => Reading::Refused(*status),
            Fate::Forwarded(seen, _) => Reading::Whole(show(seen), SMUGGLED.as_bytes().to_vec()),
        };
        let sent = [&case.sent, SMUGGLED.as_bytes()].concat();
        check(&case, &sent, &expected, read_request);
    }
}

#[test]
fn no_response_depends_on_how_it_is_cut() {
    for case in all_responses() {
        let Side::Upstream(ask, then, outcome) = &case.side else {
            panic!("{} is no response", case.name);
        };
        if *ask == Ask::Connect || case.sent.starts_with(b"HTTP/1.1 101") {
            continue; // What follows is a tunnel, which has no framing to be understood.
        }
        let read = |pieces: &[&[u8]]| match read_response(*ask, *then, pieces) {
            Reading::Whole(seen, _) => Reading::Whole(seen, Vec::new()),
            other @ (Reading::Refused(_) | Reading::BreaksOff) => other,
        };
        let expected = match outcome {
            Outcome::BadGateway => Reading::Refused(502),
            Outcome::BreaksOff => Reading::BreaksOff,
            Outcome::Passed(seen) => Reading::Whole(show(seen), Vec::new()),
        };
        if *then == Then::Closes && matches!(outcome, Outcome::Passed(_)) {
            // Of one that ends with its connection, the chunks are as large as the pieces are.
            assert_eq!(read(&[&case.sent]), expected, "{}", case.title());
            continue;
        }
        check(&case, &case.sent, &expected, read);
    }
}

#[track_caller]
fn check(case: &Case, sent: &[u8], expected: &Reading, read: impl Fn(&[&[u8]]) -> Reading) {
    let title = case.title();
    assert_eq!(&read(&[sent]), expected, "{title}");
    let bytes: Vec<_> = sent.chunks(1).collect();
    assert_eq!(&read(&bytes), expected, "byte by byte: {title}");
    for position in 1..sent.len() {
        let (first, second) = sent.split_at(position);
        assert_eq!(
            &read(&[first, second]),
            expected,
            "cut at {position}: {title}"
        );
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// What comes from one side, in pieces, and goes on to the other.
struct Flow<'a> {
    pieces: std::slice::Iter<'a, &'a [u8]>,
    received: Vec<u8>,
    sent: Vec<u8>,
}

impl<'a> Flow<'a> {
    fn new(pieces: &'a [&'a [u8]]) -> Self {
        Self {
            pieces: pieces.iter(),
            received: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Whether there was another piece.
    fn receive(&mut self) -> bool {
        let piece = self.pieces.next();
        piece
            .inspect(|piece| self.received.extend_from_slice(piece))
            .is_some()
    }

    /// The next head, as soon as it is there; `Ok(None)`: it never will be.
    fn head(&mut self, mut scanner: HeadScanner) -> Result<Option<Vec<u8>>, Refusal> {
        let limits = HeadLimits { bytes: LIMIT };
        loop {
            if let Some(length) = scanner.scan(&self.received, limits)? {
                return Ok(Some(self.received.drain(..length).collect()));
            }
            if !self.receive() {
                return Ok(None);
            }
        }
    }

    fn body(&mut self, message: Message, framing: Framing, sent: Sent) -> Result<(), BodyError> {
        let mut coder = BodyCoder::new(message, framing, sent, LIMIT);
        while !coder.is_finished() {
            let mut input = std::mem::take(&mut self.received);
            let passed = coder.pass(&mut input)?;
            self.sent.extend_from_slice(coder.before());
            self.sent.extend_from_slice(&input[..passed.output]);
            self.sent.extend_from_slice(coder.after());
            self.received = input.split_off(passed.taken);
            if !coder.is_finished() && !self.receive() {
                coder.end_of_input()?;
                self.sent.extend_from_slice(coder.after());
            }
        }
        Ok(())
    }

    fn whole(mut self) -> Reading {
        while self.receive() {}
        Reading::Whole(show(&self.sent), self.received)
    }
}

fn read_request(pieces: &[&[u8]]) -> Reading {
    let mut flow = Flow::new(pieces);
    match forward_request(&mut flow) {
        Ok(true) => flow.whole(),
        Ok(false) => Reading::BreaksOff,
        Err(refusal) => Reading::Refused(refusal.status()),
    }
}

/// As the relay does it, without a relay. `false`: the head is not whole.
fn forward_request(flow: &mut Flow<'_>) -> Result<bool, Refusal> {
    let Some(bytes) = flow.head(HeadScanner::default())? else {
        return Ok(false);
    };
    let head = RequestHead::parse(bytes)?;
    let target = RequestTarget::parse(head.method(), head.target())?;
    let framing = framing::of_request(&head)?;
    let upgrade = rewrite::requested_upgrade(&head);
    match &target {
        RequestTarget::Authority(authority) => {
            rewrite::connect(&head, authority, (None, None), (None, None), &mut flow.sent);
        }
        RequestTarget::Absolute(target) => {
            let how = RequestRewrite {
                form: Form::for_upstream(target.scheme),
                authority: &target.authority,
                default_port: target.scheme.default_port(),
                path_and_query: target.path_and_query,
                framing,
                credentials: None,
                forwarded: None,
                via: None,
                upgrade: upgrade.as_deref(),
                max_forwards: None,
                id: None,
            };
            rewrite::request(&head, &how, &mut flow.sent);
        }
    }
    flow.body(Message::Request, framing, Sent::AsReceived)?;
    Ok(true)
}

/// How many bytes an upstream sends behind its response.
pub(super) fn bytes_behind(ask: Ask, sent: &[u8]) -> usize {
    match read_response(ask, Then::Waits, &[sent]) {
        Reading::Whole(_, behind) => behind.len(),
        Reading::Refused(_) | Reading::BreaksOff => 0,
    }
}

fn read_response(ask: Ask, then: Then, pieces: &[&[u8]]) -> Reading {
    let mut flow = Flow::new(pieces);
    for _ in 0..=32 {
        let head = match flow.head(HeadScanner::for_response()) {
            Ok(Some(bytes)) => ResponseHead::parse(bytes),
            Ok(None) | Err(_) => return Reading::Refused(502),
        };
        let Ok(head) = head else {
            return Reading::Refused(502);
        };
        match head.status() {
            101 => return Reading::Refused(502),
            100..=199 if ask == Ask::Http10 => {}
            100..=199 => {
                write_response(&head, SentFraming::None, Persistence::KeepAlive, &mut flow);
            }
            // What a 407 asks of this proxy is no matter of reading.
            407 => return Reading::Refused(502),
            _ => return pass_response(ask, then, &head, flow),
        }
    }
    Reading::Refused(502)
}

fn pass_response(ask: Ask, then: Then, head: &ResponseHead, mut flow: Flow<'_>) -> Reading {
    let method = match ask {
        Ask::Head => "HEAD",
        Ask::Connect => "CONNECT",
        Ask::Get | Ask::Http10 | Ask::Upgrade => "GET",
    };
    let version = if ask == Ask::Http10 {
        Version::Http10
    } else {
        Version::Http11
    };
    let Ok(framing) = framing::of_response(method, head) else {
        return Reading::Refused(502);
    };
    let (sent, declared) = match (framing, version) {
        (Framing::Empty, _) => (Sent::AsReceived, SentFraming::AsDeclared),
        (Framing::Length(length), _) => (Sent::AsReceived, SentFraming::Length(length)),
        (Framing::Chunked, Version::Http11) => (Sent::AsReceived, SentFraming::Chunked),
        (Framing::Chunked, Version::Http10) => (Sent::Decoded, SentFraming::UntilClose),
        (Framing::UntilClose, Version::Http11) => (Sent::Chunked, SentFraming::Chunked),
        (Framing::UntilClose, Version::Http10) => (Sent::AsReceived, SentFraming::UntilClose),
    };
    assert!(
        framing != Framing::UntilClose || then == Then::Closes,
        "it would never end"
    );
    let persistence = match ask {
        Ask::Http10 => Persistence::Close(CloseReason::Http10),
        Ask::Upgrade => Persistence::Close(CloseReason::UpgradeRefused),
        Ask::Get | Ask::Head | Ask::Connect => Persistence::KeepAlive,
    };
    write_response(head, declared, persistence, &mut flow);
    match flow.body(Message::Response, framing, sent) {
        Ok(()) => flow.whole(),
        Err(_) => Reading::BreaksOff,
    }
}

fn write_response(
    head: &ResponseHead,
    framing: SentFraming,
    persistence: Persistence,
    flow: &mut Flow<'_>,
) {
    let how = ResponseRewrite {
        framing,
        persistence,
        keep_alive: KeepAlive::Implied,
        via: None,
        upgrade: Switch::Stays,
        passes_challenge: false,
        id: None,
    };
    rewrite::response(head, &how, &mut flow.sent);
}
