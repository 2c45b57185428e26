//! A running relay between scripted peers: two clients, two upstreams, and what each does is in the
//! input.
//!
//! - No byte of one exchange is in another, whoever lies about where a message ends.
//! - A request arrives as it was sent, or not at all; a POST that was answered or not arrives once.
//! - A good answer to a good request arrives whole, or the relay says itself why not, or closes.
//! - All counts return to zero, and an honest client is served.

use std::io::Write;
use std::net::Shutdown;

use super::script::{self, Answer, Quality, Request, Then};
use super::stage::{self, Expected, Stage, fault};
use super::tape::Tape;
use super::wire::{Broken, Declared, Head, Talk};

/// Steps of one session, at most.
const STEPS: usize = 12;

/// One client; it connects when it has something to say.
#[derive(Default)]
struct Player {
    talk: Option<Talk>,
    /// Exchanges on this connection.
    own: Vec<u64>,
}

/// The input is a list of decisions, see `tape`.
pub(crate) fn check(input: &[u8]) {
    let mut tape = Tape(input);
    let stage = Stage::get();
    let mut players = [Player::default(), Player::default()];
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        let what = tape.byte();
        let player = &mut players[usize::from(what & 1)];
        match what >> 1 & 15 {
            0..=8 => exchange(stage, player, &mut tape, 1),
            9 | 10 => exchange(stage, player, &mut tape, 2),
            11 => leave(stage, player, &mut tape),
            12 | 13 => tunnel(stage, player, &mut tape),
            14 => stage.reload(tape.byte()),
            _ => *player = Player::default(),
        }
    }
    drop(players);
    honest(stage);
    honest(stage);
    stage.expect_deserted();
    stage::forget();
    stage::expect_no_faults();
}

/// What came back for one request.
struct Received {
    head: Head,
    body: Vec<u8>,
    is_last: bool,
}

/// So many requests at once, and then their answers in order.
fn exchange(stage: &Stage, player: &mut Player, tape: &mut Tape<'_>, count: usize) {
    let mut requests = Vec::new();
    for _ in 0..count {
        let (request, answer) = prepare(tape);
        let goes_on = (request.quality == Quality::Clean) && !request.is_last;
        requests.push((request, answer));
        if !goes_on {
            break;
        }
    }
    let talk = player.talk.get_or_insert_with(|| stage.connect());
    player
        .own
        .extend(requests.iter().map(|(request, _)| request.id));
    let bytes: Vec<u8> = requests
        .iter()
        .flat_map(|(request, _)| request.bytes.clone())
        .collect();
    let is_clean = requests
        .iter()
        .all(|(request, _)| request.quality == Quality::Clean);
    let split = usize::from(tape.byte()) * bytes.len() / 256;
    let (first, second) = bytes.split_at(split);
    // The relay may answer and close before it has all of it.
    let sent = talk
        .stream
        .write_all(first)
        .and_then(|()| talk.stream.write_all(second));
    if !is_clean || sent.is_err() {
        // Nothing more comes, so it must make up its mind.
        drop(talk.stream.shutdown(Shutdown::Write));
        let bytes = finish(talk);
        check_tags(&bytes, &player.own);
        *player = Player::default();
        return;
    }
    for (request, answer) in &requests {
        let Some(received) = receive(talk, request) else {
            if count == 1 && player.own.len() == 1 {
                expect_excused(request, answer);
            }
            *player = Player::default();
            return;
        };
        check_exchange(request, answer, &received);
        if received.is_last {
            let rest = finish(talk);
            if !rest.is_empty() {
                fault(format!(
                    "bytes behind the last answer: {}",
                    rest.escape_ascii()
                ));
            }
            *player = Player::default();
            return;
        }
    }
    if !talk.unread.is_empty() {
        fault(format!(
            "bytes behind an answer: {}",
            talk.unread.escape_ascii()
        ));
    }
}

/// The connection was closed without an answer, or within one: was that so?
fn expect_excused(request: &Request, answer: &Answer) {
    let is_excused = answer.quality == Quality::Changed
        || answer.is_early
        || answer.then == Then::CloseUnanswered
        || request.method == "POST";
    if !is_excused {
        let (sent, answered) = (request.bytes.escape_ascii(), answer.bytes.escape_ascii());
        fault(format!(
            "a good answer never came: {sent} {answered} {:?}",
            answer.then
        ));
    }
}

fn prepare(tape: &mut Tape<'_>) -> (Request, Answer) {
    let id = stage::next_id();
    let request = Request::next(tape, id);
    let mut answer = Answer::next(tape, id, request.method);
    if request.quality == Quality::Changed && answer.then == Then::Keep {
        // It may have another method now, with which this answer ends only with its connection.
        answer.then = Then::Finish;
    }
    let body = (request.quality == Quality::Clean).then(|| request.body.clone());
    let expected = Expected {
        answer: answer.clone(),
        body,
        seen: 0,
    };
    stage::expect(id, expected);
    (request, answer)
}

/// Sends a part of a request and goes away.
fn leave(stage: &Stage, player: &mut Player, tape: &mut Tape<'_>) {
    let (request, _) = prepare(tape);
    let talk = player.talk.get_or_insert_with(|| stage.connect());
    let part = usize::from(tape.byte()) * request.bytes.len() / 255;
    drop(talk.stream.write_all(&request.bytes[..part]));
    *player = Player::default();
}

/// The next final answer with its body; `None` if the connection ended before its end.
fn receive(talk: &mut Talk, request: &Request) -> Option<Received> {
    let broken = |broken: Broken| match broken {
        Broken::Malformed(what) => fault(format!("to a client: {what}")),
        Broken::Silence => fault(format!("the relay hangs with {request:?}")),
        Broken::End | Broken::Cut => {}
    };
    let head = loop {
        let head = talk.head().map_err(broken).ok()?;
        check_tags(head.start.as_bytes(), &[request.id]);
        if !head.word(1).starts_with('1') {
            break head;
        }
    };
    let has_body = request.method != "HEAD" && !matches!(head.word(1), "204" | "304");
    let declared = match head.declared() {
        Ok(declared) => declared,
        Err(what) => {
            fault(format!("to a client: {what}"));
            return None;
        }
    };
    let is_old = request.bytes.windows(10).any(|part| part == b" HTTP/1.0\r");
    if is_old && declared == Some(Declared::Chunked) {
        fault(format!("chunks for HTTP/1.0: {head:?}"));
    }
    let ends_with_connection = has_body && declared.is_none();
    let body = match declared {
        _ if !has_body => Vec::new(),
        None => talk.rest().map_err(broken).ok()?,
        Some(_) => talk.body(declared).map_err(broken).ok()?,
    };
    let is_last = ends_with_connection || head.values("connection").contains(&"close");
    Some(Received {
        head,
        body,
        is_last,
    })
}

fn check_exchange(request: &Request, answer: &Answer, received: &Received) {
    let id = request.id;
    let fields = received.head.fields.iter().map(|(_, value)| value.as_str());
    let fields: Vec<u8> = fields.flat_map(str::bytes).collect();
    check_tags(&fields, &[id]);
    check_tags(&received.body, &[id]);
    if received.head.has("proxy-status") {
        return;
    }
    let status = received.head.word(1);
    if answer.quality == Quality::Changed {
        return;
    }
    if status != answer.status.to_string() {
        fault(format!("{id} was answered {status}, not {}", answer.status));
    }
    // Where the connection ends the body, a client cannot tell the whole from a part.
    let is_whole = received.body == answer.body;
    let may_be_part = received.is_last && answer.body.starts_with(&received.body);
    if !is_whole && !may_be_part {
        let body = received.body.escape_ascii();
        fault(format!("the body of answer {id} arrived changed: {body}"));
    }
    let times = stage::seen(id);
    if request.method == "POST" && times > 1 {
        fault(format!("POST {id} arrived {times} times"));
    }
}

/// Everything until the relay closes.
fn finish(talk: &mut Talk) -> Vec<u8> {
    match talk.rest() {
        Ok(rest) => rest,
        Err(broken) => {
            fault(format!("the relay keeps a connection open: {broken:?}"));
            Vec::new()
        }
    }
}

/// All that a client gets belongs to exchanges of its own.
fn check_tags(bytes: &[u8], own: &[u64]) {
    let tags = script::tags('s', bytes);
    if let Some(other) = tags.iter().find(|id| !own.contains(id)) {
        let bytes = bytes.escape_ascii();
        fault(format!(
            "bytes of {other} reached a client that has {own:?}: {bytes}"
        ));
    }
}

/// CONNECT, a few bytes each way, and the end from either side.
fn tunnel(stage: &Stage, player: &mut Player, tape: &mut Tape<'_>) {
    *player = Player::default();
    let id = stage::next_id();
    let request = Request::connect(id);
    let mut talk = stage.connect();
    let early = tape.byte() & 1 == 1;
    let mark = script::tag('r', id);
    let mut bytes = request.bytes.clone();
    if early {
        bytes.extend(mark.bytes());
    }
    if talk.stream.write_all(&bytes).is_err() {
        return fault("CONNECT could not be sent".to_owned());
    }
    let head = match talk.head() {
        Ok(head) => head,
        Err(broken) => return fault(format!("no answer to CONNECT {id}: {broken:?}")),
    };
    if head.word(1) == "200" {
        if !early {
            drop(talk.stream.write_all(mark.as_bytes()));
        }
        let wanted = script::tag('s', id).repeat(2);
        while talk.unread.len() < wanted.len() {
            match talk.fill() {
                Ok(true) => {}
                end => return fault(format!("tunnel {id} ended early: {end:?}")),
            }
        }
        if talk.unread != wanted.as_bytes() {
            fault(format!("tunnel {id}: {}", talk.unread.escape_ascii()));
        }
        talk.unread.clear();
    }
    let is_refused = head.word(1) != "200";
    if tape.byte() & 1 == 0 || is_refused {
        drop(talk.stream.shutdown(Shutdown::Write));
        let rest = finish(&mut talk);
        check_tags(&rest, &[id]);
    }
}

/// A client that does everything right is served, whatever happened before.
fn honest(stage: &Stage) {
    stage::wait_until("an upstream is online", || {
        stage
            .server
            .upstreams()
            .iter()
            .any(|upstream| upstream.online)
    });
    let id = stage::next_id();
    let body = script::tag('s', id).into_bytes();
    let mut answer = Answer::plain(id);
    let head = format!(
        "HTTP/1.1 200 Fine\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    answer.bytes = [head.as_bytes(), &body].concat();
    answer.body = body;
    let mut request = Request::next(&mut Tape(&[0, 1]), id);
    request.is_last = false;
    let expected = Expected {
        answer: answer.clone(),
        body: Some(Vec::new()),
        seen: 0,
    };
    stage::expect(id, expected);
    let mut talk = stage.connect();
    talk.stream.write_all(&request.bytes).expect("it listens");
    match receive(&mut talk, &request) {
        None => fault(format!("honest request {id} got no answer")),
        Some(received) => {
            check_exchange(&request, &answer, &received);
            if received.head.word(1) != "200" {
                fault(format!("honest request {id}: {:?}", received.head));
            }
        }
    }
}
