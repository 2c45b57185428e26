//! Each message through the whole relay, between a client and an upstream of literal bytes.
//!
//! Behind each comes an honest request on a new connection, which the upstream must see byte for
//! byte and the client must get the answer to: were anything left in a connection to the
//! upstream, it would see, or answer, something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::{
    Ask, Behind, Case, Fate, Outcome, SMUGGLED, Side, Then, all_requests, all_responses, bytes,
    pure,
};
use crate::harness::wire::{AtEnd, Kind, Unread, find};
use crate::harness::{Client, Hop, Message, Proxy, Talk, Upstream, latin1};

/// Failures are the subject here, so none of them takes the upstream offline; and what goes on is
/// compared byte by byte, so nothing is added that is new at every start.
const CONFIGURATION: &str = "{via: false, health_check: {fall: 1000}}";

/// How many rows are run at once: they wait, mostly.
const WORKERS: usize = 12;

const HONEST: &str = "GET http://honest.test/ HTTP/1.1\r\nHost: honest.test\r\n\r\n";

/// Behind a response of the tables, on the same connection.
const BEHIND: &str =
    "GET http://honest.test/behind HTTP/1.1\r\nHost: honest.test\r\nConnection: close\r\n\r\n";
const ANSWER_BEHIND: &str = "HTTP/1.1 200 OK\r\nContent-Length: 43\r\nConnection: close\r\n\r\n\
    GET http://honest.test/behind HTTP/1.1 \"\"\r\n";

/// Between two pieces. Whether the receiver sees them apart is up to the kernel, and the result
/// must be the same anyway.
const APART: Duration = Duration::from_micros(200);

/// The pieces of a response, and what follows them.
type Script = (Vec<Vec<u8>>, Then);

/// A relay in front of an upstream that answers each request by telling which it was, but those
/// for `o.test` by the response under test, if there is one.
struct Stand {
    proxy: Proxy,
    upstream: Upstream,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    response: Arc<Mutex<Option<Script>>>,
}

impl Stand {
    #[track_caller]
    fn new() -> Self {
        let seen = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let response = Arc::<Mutex<Option<Script>>>::default();
        let (sink, script) = (Arc::clone(&seen), Arc::clone(&response));
        let upstream = Upstream::answering("a", move |hop, request| {
            sink.lock().push(request.raw.clone());
            let script = script.lock().clone();
            match script {
                Some((pieces, then)) if !request.line.contains("honest.test") => {
                    play(hop, &pieces, then);
                }
                _ => tell(hop, request),
            }
        });
        let proxy = Proxy::with_yaml(CONFIGURATION, [&upstream]);
        Self {
            proxy,
            upstream,
            seen,
            response,
        }
    }

    /// One message, in these pieces, and an honest request.
    #[track_caller]
    fn run(&self, case: &Case, pieces: &[&[u8]]) {
        match &case.side {
            Side::Client(fate) => {
                *self.response.lock() = None;
                self.run_request(fate, case, pieces);
            }
            Side::Upstream(ask, then, outcome) => {
                let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
                *self.response.lock() = Some((pieces, *then));
                self.run_response(*ask, outcome, case);
            }
        }
        let mut honest = self.proxy.client();
        honest.send(HONEST).expect_status(200);
        honest.expect_body(told("GET http://honest.test/ HTTP/1.1", ""));
        let seen = std::mem::take(&mut *self.seen.lock());
        assert_eq!(
            show(&seen),
            [HONEST.escape_debug().to_string()],
            "behind {}",
            case.title()
        );
    }

    #[track_caller]
    fn run_request(&self, fate: &Fate, case: &Case, pieces: &[&[u8]]) {
        let mut client = self.proxy.client();
        send_apart(&mut client, pieces);
        let kind = if case.sent.starts_with(b"HEAD ") {
            Kind::ResponseWithoutBody
        } else {
            Kind::Response
        };
        let first = read_answer(&mut client, kind);
        match fate {
            Fate::Refused(status) => {
                assert_eq!(first.status(), *status, "{}", case.title());
                first.expect_field("Connection", "close");
                assert_eq!(first.values("Proxy-Status").len(), 1, "{}", case.title());
                expect_nothing_behind(&mut client, case);
                let seen = self.seen.lock();
                assert!(
                    seen.is_empty(),
                    "{} was seen for {}",
                    show(&seen).concat(),
                    case.title()
                );
            }
            Fate::Forwarded(forwarded, behind) => {
                let mut expected = vec![forwarded.escape_ascii().to_string()];
                if *behind == Behind::Request {
                    let second = read_answer(&mut client, Kind::Response);
                    second.expect_body(told("GET http://smuggled.test/ HTTP/1.1", ""));
                    expected.push(SMUGGLED.escape_debug().to_string());
                } else {
                    expect_nothing_behind(&mut client, case);
                }
                let seen = std::mem::take(&mut *self.seen.lock());
                assert_eq!(show(&seen), expected, "{}", case.title());
            }
        }
    }

    #[track_caller]
    fn run_response(&self, ask: Ask, outcome: &Outcome, case: &Case) {
        let mut client = self.proxy.client();
        client.send(bytes(&asking(ask)));
        client.socket().read_to_end();
        let got = client.socket().take_pending();
        let title = format!("{} came for {}", got.escape_ascii(), case.title());
        let behind = match ask {
            Ask::Get | Ask::Head => ANSWER_BEHIND,
            Ask::Http10 | Ask::Upgrade | Ask::Connect => "",
        };
        match outcome {
            Outcome::Passed(expected) => {
                let expected = [expected, behind.as_bytes()].concat();
                assert_eq!(latin1(&got), latin1(&expected), "{title}");
            }
            Outcome::BadGateway => {
                // Interim responses may have gone on before the one that is refused.
                let at = find(&got, b"HTTP/1.1 502 ").unwrap_or_else(|| panic!("no 502: {title}"));
                expect_bad_gateway(&got[at..], behind, &title);
                assert!(find(&got, b"EVIL").is_none(), "{title}");
            }
            // What was broken came with the head, of which nothing was sent yet.
            Outcome::BreaksOff if got.starts_with(b"HTTP/1.1 502 ") => {
                expect_bad_gateway(&got, behind, &title);
                assert!(find(&got, b"EVIL").is_none(), "{title}");
            }
            Outcome::BreaksOff => {
                let read = Message::parse(&got, Kind::Response, AtEnd::Closed);
                assert!(matches!(read, Err(Unread::Incomplete)), "complete: {title}");
                assert!(find(&got, b"EVIL").is_none(), "{title}");
            }
        }
        self.seen.lock().clear();
    }

    /// Nothing that came late either: every connection that was broken off has ended by now.
    #[track_caller]
    fn end(self, case: &Case) {
        self.proxy.expect_at_rest();
        if matches!(case.side, Side::Client(Fate::Refused(_))) {
            self.upstream.expect_never_saw("smuggled");
        }
        self.proxy.expect_online("a");
        let late = std::mem::take(&mut *self.seen.lock());
        assert!(
            late.is_empty(),
            "{} came late for {}",
            show(&late).concat(),
            case.title()
        );
    }
}

/// A whole refusal, and what is expected behind it.
#[track_caller]
fn expect_bad_gateway(got: &[u8], expected: &str, title: &str) {
    let refusal = Message::parse(got, Kind::Response, AtEnd::Closed);
    let refusal = refusal.unwrap_or_else(|_| panic!("half a refusal: {title}"));
    let behind = &got[refusal.raw.len()..];
    assert_eq!(latin1(behind), expected, "{title}");
}

fn asking(ask: Ask) -> String {
    match ask {
        Ask::Get => format!("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n{BEHIND}"),
        Ask::Head => format!("HEAD http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n{BEHIND}"),
        Ask::Http10 => "GET http://o.test/ HTTP/1.0\r\n\r\n".to_owned(),
        Ask::Upgrade => "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(),
        Ask::Connect => "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n".to_owned(),
    }
}

/// The answer that tells which request it is for.
fn tell(hop: &mut Hop, request: &Message) {
    if request.method() == "CONNECT" {
        hop.send_as_far_as_possible("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        return;
    }
    let body = told(&request.line, &latin1(&request.body));
    let length = body.len();
    let body = if request.method() == "HEAD" {
        ""
    } else {
        &body
    };
    hop.send_as_far_as_possible(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
}

fn told(line: &str, body: &str) -> String {
    format!("{line} {body:?}\r\n")
}

fn play(hop: &mut Hop, pieces: &[Vec<u8>], then: Then) {
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            thread::park_timeout(APART);
        }
        hop.send_as_far_as_possible(piece);
    }
    if then == Then::Closes {
        hop.close_then();
    }
}

fn send_apart(client: &mut Client, pieces: &[&[u8]]) {
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            thread::park_timeout(APART);
        }
        // It may be refused before it is whole.
        client.send_as_far_as_possible(piece);
    }
}

#[track_caller]
fn read_answer(client: &mut Client, kind: Kind) -> Message {
    let answer = client.socket().try_read_message(kind);
    answer.unwrap_or_else(|what| panic!("no answer: {what}"))
}

#[track_caller]
fn expect_nothing_behind(client: &mut Client, case: &Case) {
    client.socket().read_to_end();
    let behind = client.socket().take_pending();
    assert_eq!(latin1(&behind), "", "behind the answer to {}", case.title());
}

fn show(messages: &[Vec<u8>]) -> Vec<String> {
    messages
        .iter()
        .map(|bytes| bytes.escape_ascii().to_string())
        .collect()
}

/// What is sent: of a client, with a request behind it.
fn sent(case: &Case) -> Vec<u8> {
    match case.side {
        Side::Client(_) => [&case.sent, SMUGGLED.as_bytes()].concat(),
        Side::Upstream(..) => case.sent.clone(),
    }
}

#[test]
fn no_request_is_forwarded_that_can_be_read_in_two_ways() {
    for case in all_requests() {
        let stand = Stand::new();
        stand.run(&case, &[&sent(&case)]);
        stand.end(&case);
    }
}

#[test]
fn no_response_is_passed_on_that_can_be_read_in_two_ways() {
    for case in all_responses() {
        let stand = Stand::new();
        stand.run(&case, &[&case.sent]);
        stand.end(&case);
    }
}

/// Half a minute.
#[test]
#[ignore = "tens of thousands of exchanges; run by .ci/run"]
fn no_message_depends_on_how_it_is_cut() {
    let cases = Mutex::new([all_requests(), all_responses()].into_iter().flatten());
    let exchanges = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = next(&cases) {
                    exchanges.fetch_add(cut_everywhere(&case), Ordering::Relaxed);
                }
            });
        }
    });
    let exchanges = exchanges.into_inner();
    assert!(exchanges > 50_000, "only {exchanges} exchanges");
}

/// The lock is not held while the case is run.
fn next(cases: &Mutex<impl Iterator<Item = Case>>) -> Option<Case> {
    cases.lock().next()
}

/// In two pieces at every position, and byte by byte; says how often.
fn cut_everywhere(case: &Case) -> usize {
    let stand = Stand::new();
    let sent = sent(case);
    let end = end_of(case, &sent);
    for position in 1..end {
        let (first, second) = sent.split_at(position);
        stand.run(case, &[first, second]);
    }
    let (slowly, at_once) = sent.split_at(end - 1);
    let pieces: Vec<_> = slowly.chunks(1).chain([at_once]).collect();
    stand.run(case, &pieces);
    stand.end(case);
    2 * end
}

/// Where the last piece may begin.
fn end_of(case: &Case, sent: &[u8]) -> usize {
    match &case.side {
        Side::Client(_) => case.sent.len() + 1,
        // The pieces would be seen in the sizes of the chunks.
        Side::Upstream(Ask::Get, Then::Closes, Outcome::Passed(_)) => {
            find(sent, b"\r\n\r\n").expect("a head") + 4
        }
        // What comes behind a response when its connection may be in use again is an answer to
        // whoever asked then. Nobody can tell, and no upstream is kept from lying to its clients.
        Side::Upstream(ask, Then::Waits, Outcome::Passed(_)) => {
            sent.len() - pure::bytes_behind(*ask, sent)
        }
        Side::Upstream(..) => sent.len(),
    }
}
