//! What the relay sends on of a message, by its own protocol; `tests/e2e/desync` shows that it does so.

use http_proxy_lb::protocol::body::{BodyCoder, Sent};
use http_proxy_lb::protocol::framing::{self, Framing};
use http_proxy_lb::protocol::head::{HeadLimits, HeadScanner, Message, RequestHead, ResponseHead};
use http_proxy_lb::protocol::persistence::Persistence;
use http_proxy_lb::protocol::rewrite::{
    self, Form, KeepAlive, RequestRewrite, ResponseRewrite, SentFraming, Switch,
};
use http_proxy_lb::protocol::target::RequestTarget;

const LIMIT: usize = 64 * 1024;

/// The head at the beginning, and what is behind it.
fn head(mut scanner: HeadScanner, bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let length = scanner.scan(bytes, HeadLimits { bytes: LIMIT }).ok()??;
    let (head, rest) = bytes.split_at(length);
    Some((head.to_vec(), rest))
}

/// Appends what goes on of a body that ends, at the latest, with its connection.
fn body(
    message: Message,
    framing: Framing,
    sent: Sent,
    rest: &[u8],
    out: &mut Vec<u8>,
) -> Option<()> {
    let mut coder = BodyCoder::new(message, framing, sent, LIMIT);
    let mut input = rest.to_vec();
    let passed = coder.pass(&mut input).ok()?;
    out.extend_from_slice(coder.before());
    out.extend_from_slice(&input[..passed.output]);
    out.extend_from_slice(coder.after());
    if !coder.is_finished() {
        coder.end_of_input().ok()?;
        out.extend_from_slice(coder.after());
    }
    Some(())
}

/// What an upstream gets of a request that is not CONNECT; `None`: it is refused, or not whole.
pub(super) fn request(received: &[u8]) -> Option<Vec<u8>> {
    let (bytes, rest) = head(HeadScanner::default(), received)?;
    let head = RequestHead::parse(bytes).ok()?;
    let RequestTarget::Absolute(target) =
        RequestTarget::parse(head.method(), head.target()).ok()?
    else {
        return None;
    };
    let framing = framing::of_request(&head).ok()?;
    let upgrade = rewrite::requested_upgrade(&head);
    let how = RequestRewrite {
        id: None,
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
    };
    let mut out = Vec::new();
    rewrite::request(&head, &how, &mut out);
    body(Message::Request, framing, Sent::AsReceived, rest, &mut out)?;
    Some(out)
}

/// What a client of HTTP/1.1 gets of the response to this method; `None`: it is refused, or not whole.
pub(super) fn response(method: &str, received: &[u8]) -> Option<Vec<u8>> {
    let (bytes, rest) = head(HeadScanner::for_response(), received)?;
    let head = ResponseHead::parse(bytes).ok()?;
    let framing = framing::of_response(method, &head).ok()?;
    let (sent, declared) = match (framing, head.status()) {
        // nginx takes interim responses for final ones, whatever is in them; and what a 407 asks of this
        // proxy is no matter of reading.
        (_, 100..=199 | 407) => return None,
        (_, 204) => (Sent::AsReceived, SentFraming::None),
        (Framing::Empty, _) => (Sent::AsReceived, SentFraming::AsDeclared),
        (Framing::Length(length), _) => (Sent::AsReceived, SentFraming::Length(length)),
        (Framing::Chunked | Framing::UntilClose, _) => (Sent::Chunked, SentFraming::Chunked),
    };
    let how = ResponseRewrite {
        id: None,
        framing: declared,
        persistence: Persistence::KeepAlive,
        keep_alive: KeepAlive::Implied,
        via: None,
        upgrade: Switch::Stays,
        passes_challenge: false,
    };
    let mut out = Vec::new();
    rewrite::response(&head, &how, &mut out);
    body(Message::Response, framing, sent, rest, &mut out)?;
    Some(out)
}
