//! What the peers of a session do, decided by the tape.
//!
//! Each exchange has a number of its own, and everything that belongs to it carries a tag with that
//! number twice, so that no change of the bytes makes one tag out of another.

use super::tape::Tape;

/// Of what must never reach a client.
pub(crate) const STRAY: u64 = 0;

/// What the fuzzer has made of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Quality {
    /// Nothing.
    Clean,
    /// Something that may be malformed.
    Changed,
}

/// What a client sends for one exchange.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The number of the exchange.
    pub(crate) id: u64,
    /// The method.
    pub(crate) method: &'static str,
    /// The message on the wire.
    pub(crate) bytes: Vec<u8>,
    /// What its body carries.
    pub(crate) body: Vec<u8>,
    /// Whether the bytes are what a good client sends.
    pub(crate) quality: Quality,
    /// Whether the client is HTTP/1.0, or asks for the connection to be closed.
    pub(crate) is_last: bool,
}

/// What an upstream does with one exchange.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// So many 103 come first.
    pub(crate) interim: u8,
    /// The final message on the wire, and behind its end what is stray, which comes with it.
    pub(crate) bytes: Vec<u8>,
    /// Its status.
    pub(crate) status: u16,
    /// What its body carries.
    pub(crate) body: Vec<u8>,
    /// Whether the bytes are what a good server sends.
    pub(crate) quality: Quality,
    /// Whether it is sent before the body of the request was read.
    pub(crate) is_early: bool,
    /// What becomes of the connection.
    pub(crate) then: Then,
}

/// What an upstream does after its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    /// Waits for the next request.
    Keep,
    /// Closes.
    Close,
    /// Sends nothing more, and reads until the end.
    Finish,
    /// Does not answer at all, but closes.
    CloseUnanswered,
}

/// The mark of a request or response of this number.
pub(crate) fn tag(side: char, id: u64) -> String {
    format!("{{{side}{id}-{id}}}")
}

/// The numbers of all whole tags of that side.
pub(crate) fn tags(side: char, bytes: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(bytes);
    let parts = text.split('{').skip(1);
    let inner = parts.filter_map(|part| part.split_once('}')?.0.strip_prefix(side));
    inner.filter_map(twice).collect()
}

/// The number in `12-12`.
fn twice(text: &str) -> Option<u64> {
    let (first, second) = text.split_once('-')?;
    (first == second).then(|| first.parse().ok())?
}

/// The number in a target.
pub(crate) fn number_in(target: &str) -> Option<u64> {
    let mut parts = target.split('/').filter_map(|part| part.strip_prefix('x'));
    parts.find_map(twice)
}

/// Bytes that replace some of a message. They can make no tag.
fn mutate(tape: &mut Tape<'_>, message: &mut Vec<u8>) -> Quality {
    let raw: Vec<u8> = tape.bytes(40).to_vec();
    let raw: Vec<u8> = raw
        .into_iter()
        .map(|byte| if byte == b'{' { b'(' } else { byte })
        .collect();
    let place = usize::from(tape.byte()) * message.len() / 256;
    let replaced = usize::from(tape.byte() & 0x1f).min(message.len() - place);
    if raw.is_empty() && replaced == 0 {
        return Quality::Clean;
    }
    message.splice(place..place + replaced, raw);
    Quality::Changed
}

fn chunked(tape: &mut Tape<'_>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let extension = tape.pick(&["", "", ";a", ";a=b", " ; q=\"0\\\"\""]);
    // Not so many that their extensions are too much.
    let size = usize::from(tape.byte()) + 1 + body.len() / 100;
    for chunk in body.chunks(size) {
        out.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    let trailers = tape.pick(&["", "", "X-Sum: 1\r\n", "Content-Length: 3\r\nX-B: 2\r\n"]);
    out.extend(format!("0\r\n{trailers}\r\n").bytes());
    out
}

fn body_of(tape: &mut Tape<'_>, side: char, id: u64) -> Vec<u8> {
    let times = tape.pick(&[0, 1, 2, 3, 40, 3000]);
    tag(side, id).repeat(times).into_bytes()
}

/// How a body is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    OnePiece,
    Chunks,
}

/// A whole request behind its head, which lacks its framing and its empty line.
fn framed(tape: &mut Tape<'_>, head: &str, body: &[u8], sent: In) -> Vec<u8> {
    if body.is_empty() {
        format!("{head}\r\n").into_bytes()
    } else if sent == In::Chunks {
        let mut bytes = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        bytes.extend(chunked(tape, body));
        bytes
    } else {
        let length = body.len();
        let mut bytes = format!("{head}Content-Length: {length}\r\n\r\n").into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}

/// A request in which another one hides from half of all readers.
fn ambiguous(head: &str, kind: u8) -> Vec<u8> {
    let smuggled = "GET http://o.test/x0-0/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
    let (framing, inner) = match kind {
        11 => (
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
        ),
        12 => ("Content-Length: 0\r\nContent-Length: 60", ""),
        13 => ("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
        14 => ("Transfer-Encoding : chunked", "0\r\n\r\n"),
        _ => ("Content-Length: +0", ""),
    };
    format!("{head}{framing}\r\n\r\n{inner}{smuggled}").into_bytes()
}

impl Request {
    /// The next one on the tape. Its target leads to `/x<id>-<id>/`.
    pub(crate) fn next(tape: &mut Tape<'_>, id: u64) -> Self {
        let method = tape.pick(&[
            "GET", "POST", "GET", "HEAD", "PUT", "OPTIONS", "DELETE", "POST",
        ]);
        let is_old = tape.byte().is_multiple_of(8);
        let mut body = if matches!(method, "POST" | "PUT") {
            body_of(tape, 'r', id)
        } else {
            Vec::new()
        };
        let version = if is_old { "1.0" } else { "1.1" };
        let mark = tag('r', id);
        let mut head = format!(
            "{method} http://o.test/x{id}-{id}/ HTTP/{version}\r\nHost: o.test\r\nX-Mark: {mark}\r\n"
        );
        let mut is_last = is_old;
        head += match tape.byte() % 8 {
            1 => {
                is_last = true;
                "Connection: close\r\n"
            }
            2 => "Connection: X-Gone\r\nX-Gone: 1\r\n",
            3 => "Proxy-Connection: keep-alive\r\nKeep-Alive: 5\r\nTE: trailers\r\n",
            4 => "Proxy-Authorization: Basic Y2xpZW50OnM=\r\n",
            _ => "",
        };
        let sent = match tape.byte() & 1 {
            1 if !is_old => In::Chunks,
            _ => In::OnePiece,
        };
        let mut bytes = framed(tape, &head, &body, sent);
        // Messages that two readers may read in two ways, and those of the fuzzer.
        let quality = match tape.byte() % 16 {
            0..=9 => Quality::Clean,
            10 => mutate(tape, &mut bytes),
            kind => {
                bytes = ambiguous(&head, kind);
                body.clear();
                Quality::Changed
            }
        };
        Self {
            id,
            method,
            bytes,
            body,
            quality,
            is_last,
        }
    }

    /// A tunnel to another host.
    pub(crate) fn connect(id: u64) -> Self {
        let mark = tag('r', id);
        let head = format!(
            "CONNECT x{id}-{id}.test:443 HTTP/1.1\r\nHost: x{id}-{id}.test:443\r\nX-Mark: {mark}\r\n\r\n"
        );
        Self {
            id,
            method: "CONNECT",
            bytes: head.into_bytes(),
            body: Vec::new(),
            quality: Quality::Clean,
            is_last: true,
        }
    }
}

/// Bytes behind the end of an answer.
fn stray(kind: u8) -> Vec<u8> {
    let smuggled = tag('s', STRAY);
    let text = match kind % 16 {
        1 => {
            format!("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Mark: {smuggled}\r\n\r\n{smuggled}")
        }
        2 => smuggled,
        3 => "\r\n".to_owned(),
        _ => String::new(),
    };
    text.into_bytes()
}

/// What may become of an answer.
fn distort(tape: &mut Tape<'_>, bytes: &mut Vec<u8>, then: &mut Then) -> Quality {
    match tape.byte() % 8 {
        1 => mutate(tape, bytes),
        2 => {
            let length = usize::from(tape.byte()) * bytes.len() / 256;
            bytes.truncate(length);
            Quality::Changed
        }
        3 => {
            *then = Then::CloseUnanswered;
            Quality::Clean
        }
        _ => Quality::Clean,
    }
}

impl Answer {
    /// To what nobody foresaw.
    pub(crate) fn plain(id: u64) -> Self {
        let mut none = Tape(&[]);
        Self::next(&mut none, id, "GET")
    }

    /// The next one on the tape.
    pub(crate) fn next(tape: &mut Tape<'_>, id: u64, method: &str) -> Self {
        let interim = tape.byte().saturating_sub(253);
        let status = tape.pick(&[200, 200, 404, 204, 304, 503, 201, 302]);
        let mut body = body_of(tape, 's', id);
        let has_body = method != "HEAD" && status != 204 && status != 304;
        if !has_body {
            body.clear();
        }
        let mark = tag('s', id);
        let mut head = format!("HTTP/1.1 {status} Fine\r\nX-Mark: {mark}\r\n");
        let mut then = tape.pick(&[Then::Keep, Then::Keep, Then::Keep, Then::Close]);
        if then == Then::Close && tape.byte() & 1 == 0 {
            head += "Connection: close\r\n";
        }
        let framing = tape.byte() % 4;
        let mut bytes = match framing {
            _ if !has_body => format!("{head}\r\n").into_bytes(),
            0 | 1 => {
                let length = body.len();
                format!("{head}Content-Length: {length}\r\n\r\n").into_bytes()
            }
            2 => format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(),
            _ => {
                then = Then::Close;
                format!("{head}\r\n").into_bytes()
            }
        };
        if framing == 2 && has_body {
            bytes.extend(chunked(tape, &body));
        } else {
            bytes.extend_from_slice(&body);
        }
        // Only what comes with the end of the answer can be told from the answer to what follows.
        let may_stray = framing != 3 && bytes.len() <= 4000;
        let stray = if may_stray {
            stray(tape.byte())
        } else {
            Vec::new()
        };
        let quality = distort(tape, &mut bytes, &mut then);
        if quality == Quality::Clean {
            bytes.extend(stray);
        } else if then == Then::Keep {
            then = Then::Finish;
        }
        Self {
            interim,
            bytes,
            status,
            body,
            quality,
            is_early: tape.byte() % 8 == 1,
            then,
        }
    }
}
