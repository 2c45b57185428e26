//! Framing: a second, plain reading of RFC 9112 §6.3 never finds another length in a message that is
//! accepted, and finds fault with every message that is refused.

use http_proxy_lb::protocol::fields::Fields;
use http_proxy_lb::protocol::framing::{self, Framing};
use http_proxy_lb::protocol::head::{RequestHead, ResponseHead, Version};

use super::reference::trimmed;
use super::tape::Tape;

/// What the framing fields say, read with suspicion: `Err` where two readers may disagree.
fn declared(version: Version, fields: Fields<'_>) -> Result<Option<Framing>, ()> {
    let named = |wanted: &str| {
        let lines = fields
            .iter()
            .filter(move |field| field.name.to_ascii_lowercase() == wanted.as_bytes());
        lines.map(|field| field.value.to_vec()).collect::<Vec<_>>()
    };
    let is_look_alike = |name: &str| !named(name).is_empty();
    if is_look_alike("content_length") || is_look_alike("transfer_encoding") {
        return Err(());
    }
    let (lengths, codings) = (named("content-length"), named("transfer-encoding"));
    if !codings.is_empty() {
        let all = codings.join(&b","[..]).to_ascii_lowercase();
        let is_plain = trimmed(&all) == b"chunked";
        return if is_plain && lengths.is_empty() && version == Version::Http11 {
            Ok(Some(Framing::Chunked))
        } else {
            Err(())
        };
    }
    if lengths.is_empty() {
        return Ok(None);
    }
    let all = lengths.join(&b","[..]);
    let mut values = all.split(|byte| *byte == b',').map(|value| {
        let digits = std::str::from_utf8(trimmed(value)).map_err(drop)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // Leading zeros are digits, too.
        let significant = digits.trim_start_matches('0');
        let value: i64 = match significant {
            "" => 0,
            digits => digits.parse().map_err(drop)?,
        };
        is_number.then_some(value).ok_or(())
    });
    let first = values.next().ok_or(())??;
    for other in values {
        if other? != first {
            return Err(());
        }
    }
    Ok(Some(Framing::Length(u64::try_from(first).map_err(drop)?)))
}

fn expected_of_request(head: &RequestHead) -> Result<Framing, ()> {
    let framing = declared(head.version(), head.fields())?.unwrap_or(Framing::Empty);
    let is_old = head.version() == Version::Http10;
    match (head.method(), framing) {
        (_, Framing::Empty | Framing::Length(0)) => Ok(Framing::Empty),
        ("CONNECT" | "TRACE", _) => Err(()),
        ("GET" | "HEAD" | "DELETE", _) if is_old => Err(()),
        (_, framing) => Ok(framing),
    }
}

fn expected_of_response(method: &str, head: &ResponseHead) -> Result<Framing, ()> {
    let status = head.status();
    if status < 200 || status == 204 || (method == "CONNECT" && status < 300) {
        return Ok(Framing::Empty);
    }
    let framing = declared(head.version(), head.fields())?;
    if method == "HEAD" || status == 304 {
        return Ok(Framing::Empty);
    }
    Ok(framing.unwrap_or(Framing::UntilClose))
}

/// The first byte chooses what the rest is: a request, or a response to one of these methods.
pub(crate) fn check(input: &[u8]) {
    let mut tape = Tape(input);
    let method = tape.pick(&["", "GET", "HEAD", "CONNECT", "POST"]);
    if method.is_empty() {
        if let Ok(head) = RequestHead::parse(tape.0.to_vec()) {
            let found = framing::of_request(&head).map_err(drop);
            assert_eq!(found, expected_of_request(&head));
        }
    } else if let Ok(head) = ResponseHead::parse(tape.0.to_vec()) {
        let found = framing::of_response(method, &head).map_err(drop);
        assert_eq!(found, expected_of_response(method, &head));
    }
}
