//! Heads that go on: what is written is read again as exactly one message with the same meaning and the
//! same framing, without a field that belongs to this hop.

use http_proxy_lb::protocol::credentials::Credentials;
use http_proxy_lb::protocol::fields::Fields;
use http_proxy_lb::protocol::framing::{self, Framing};
use http_proxy_lb::protocol::head::{RequestHead, ResponseHead, Version};
use http_proxy_lb::protocol::persistence::{CloseReason, Persistence};
use http_proxy_lb::protocol::rewrite::{
    self, Form, KeepAlive, MaxForwards, RequestRewrite, ResponseRewrite, SentFraming, Switch, Via,
};
use http_proxy_lb::protocol::target::{AbsoluteForm, RequestTarget};

use super::tape::Tape;

/// What never goes further than one hop (RFC 9110 §7.6.1 and §11.7), unless this proxy says it itself.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What may say something else than before: it is written anew.
const ANEW: [&str; 6] = [
    "host",
    "content-length",
    "via",
    "max-forwards",
    "expect",
    "trailer",
];

/// The first three bytes are the decisions; the rest is the head that came in.
pub(crate) fn check(input: &[u8]) {
    let mut tape = Tape(input);
    let (kind, how, more) = (tape.byte(), tape.byte(), tape.byte());
    let head = tape.0.to_vec();
    if kind & 1 == 1 {
        if let Ok(head) = ResponseHead::parse(head) {
            check_response(&head, how, more);
        }
        return;
    }
    let Ok(head) = RequestHead::parse(head) else {
        return;
    };
    let Ok(framing) = framing::of_request(&head) else {
        return;
    };
    match RequestTarget::parse(head.method(), head.target()) {
        Ok(RequestTarget::Absolute(target)) => {
            let form = if how & 1 == 0 {
                Form::for_upstream(target.scheme)
            } else {
                Form::Origin
            };
            check_request(&head, &target, (form, framing), how);
        }
        Ok(RequestTarget::Authority(authority)) => {
            let credentials = Credentials::basic("own", "secret");
            let via = Via::new("hplb-0123abcd");
            let mut out = Vec::new();
            rewrite::connect(
                &head,
                &authority,
                (Some(credentials.authorization().as_bytes()), None),
                (Some(&via), None),
                &mut out,
            );
            let again = RequestHead::parse(out).expect("one well-formed head");
            assert_eq!(again.method(), "CONNECT");
            assert_eq!(again.target(), authority.to_string().as_bytes());
            assert_eq!(framing::of_request(&again), Ok(Framing::Empty));
            check_credentials(again.fields(), credentials.authorization().as_bytes());
            check_end_to_end(head.fields(), again.fields(), &["proxy-authorization"]);
        }
        Err(_) => {}
    }
}

fn check_request(
    head: &RequestHead,
    target: &AbsoluteForm<'_>,
    (form, framing): (Form, Framing),
    how: u8,
) {
    let credentials = Credentials::basic("own", "secret");
    let via = Via::new("hplb-0123abcd");
    let upgrade = rewrite::requested_upgrade(head);
    let rewritten = RequestRewrite {
        form,
        authority: &target.authority,
        default_port: target.scheme.default_port(),
        path_and_query: target.path_and_query,
        framing,
        credentials: (how & 2 == 0).then_some(credentials.authorization().as_bytes()),
        forwarded: None,
        via: (how & 4 == 0).then_some(&via),
        upgrade: upgrade.as_deref().filter(|_| how & 8 == 0),
        max_forwards: match rewrite::max_forwards(head) {
            MaxForwards::Left(left) => Some(left),
            MaxForwards::Absent | MaxForwards::Zero => None,
        },
        id: None,
    };
    let mut out = Vec::new();
    rewrite::request(head, &rewritten, &mut out);
    let again = RequestHead::parse(out).expect("one well-formed head");
    assert_eq!(again.method(), head.method());
    assert_eq!(again.version(), Version::Http11);
    assert_eq!(
        framing::of_request(&again),
        Ok(framing),
        "the framing it is sent with"
    );
    check_target(&again, target, form);
    let mut host = Vec::new();
    target
        .authority
        .write_as_host_field(target.scheme.default_port(), &mut host);
    let hosts: Vec<_> = again.fields().values("host").collect();
    assert_eq!(hosts, [&host[..]]);
    if let Some(own) = rewritten.credentials {
        check_credentials(again.fields(), own);
    }
    let mut said = vec!["transfer-encoding"];
    said.extend(rewritten.credentials.map(|_| "proxy-authorization"));
    said.extend(rewritten.upgrade.map(|_| "upgrade"));
    if rewritten.upgrade.is_some() {
        said.push("connection");
    }
    check_end_to_end(head.fields(), again.fields(), &said);
    assert!(!again.fields().has_member("connection", "close"));
    if let Some(via) = rewritten.via {
        assert!(via.passes_through(again.fields()), "it knows itself again");
    }
    for protocol in again.fields().members("upgrade") {
        let lower = String::from_utf8_lossy(protocol).to_lowercase();
        let name = lower.split('/').next().unwrap_or_default();
        assert!(!["http", "h2", "h2c", "h3"].contains(&name), "{name}");
        assert!(!name.starts_with("h2c-"), "{name}");
    }
}

fn check_target(again: &RequestHead, target: &AbsoluteForm<'_>, form: Form) {
    let path = target.path_and_query;
    let asks_for_server = again.method() == "OPTIONS" && path.is_empty();
    let mut whole = Vec::new();
    if !path.starts_with(b"/") && !asks_for_server {
        whole.push(b'/');
    }
    whole.extend_from_slice(path);
    match form {
        Form::Origin if asks_for_server => assert_eq!(again.target(), b"*"),
        Form::Origin => assert_eq!(again.target(), whole),
        Form::AsReceived => {
            let seen = RequestTarget::parse(again.method(), again.target());
            assert_eq!(seen, Ok(RequestTarget::Absolute(target.clone())));
        }
        Form::Absolute => match RequestTarget::parse(again.method(), again.target()) {
            Ok(RequestTarget::Absolute(seen)) => {
                assert_eq!(seen.authority, target.authority);
                assert_eq!(seen.path_and_query, whole);
            }
            other => panic!("another target: {other:?}"),
        },
    }
}

fn check_credentials(fields: Fields<'_>, own: &[u8]) {
    let presented: Vec<&[u8]> = fields.values("proxy-authorization").collect();
    assert_eq!(presented, [own]);
}

/// `said` is what this proxy may say in a hop-by-hop field of its own.
fn check_end_to_end(before: Fields<'_>, after: Fields<'_>, said: &[&str]) {
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    let named: Vec<String> = before.members("connection").map(lower).collect();
    for field in after.iter() {
        let name = lower(field.name);
        let is_allowed = said.contains(&name.as_str());
        assert!(is_allowed || !HOP_BY_HOP.contains(&name.as_str()), "{name}");
        // Whatever Connection named is gone, or is one of those that nobody can have removed.
        let is_kept = before.end_to_end().any(|kept| kept.name == field.name);
        let is_anew = is_allowed || ANEW.contains(&name.as_str());
        assert!(is_kept || is_anew, "{name} was not there before");
        assert!(
            !named.contains(&name) || is_kept || is_anew,
            "{name} was named"
        );
    }
    // All others pass in their order, byte for byte.
    let others = |fields: Fields<'_>| {
        let all = fields.end_to_end();
        let kept = all.filter(|field| !ANEW.contains(&lower(field.name).as_str()));
        let pairs = kept.map(|field| (field.name.to_vec(), field.value.to_vec()));
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(others(before), others(after));
}

fn check_response(head: &ResponseHead, how: u8, more: u8) {
    let method = ["GET", "HEAD", "CONNECT"][usize::from(how & 3) % 3];
    let Ok(framing) = framing::of_response(method, head) else {
        return;
    };
    let to_old_client = how & 4 != 0;
    // As the relay sends them on.
    let sent = match framing {
        Framing::Empty if method == "HEAD" || head.status() == 304 => SentFraming::AsDeclared,
        Framing::Empty => SentFraming::None,
        Framing::Length(length) => SentFraming::Length(length),
        Framing::Chunked | Framing::UntilClose if to_old_client => SentFraming::UntilClose,
        Framing::Chunked | Framing::UntilClose => SentFraming::Chunked,
    };
    let persistence = if how & 8 == 0 && sent != SentFraming::UntilClose {
        Persistence::KeepAlive
    } else {
        Persistence::Close(CloseReason::ClientAsked)
    };
    let via = Via::new("hplb-0123abcd");
    let rewritten = ResponseRewrite {
        framing: sent,
        persistence,
        keep_alive: if more & 1 == 0 {
            KeepAlive::Implied
        } else {
            KeepAlive::Said
        },
        via: (more & 2 == 0).then_some(&via),
        upgrade: if head.status() == 101 {
            Switch::Switches
        } else {
            Switch::Stays
        },
        passes_challenge: false,
        id: None,
    };
    let mut out = Vec::new();
    rewrite::response(head, &rewritten, &mut out);
    let again = ResponseHead::parse(out).expect("one well-formed head");
    check_response_meaning(method, head, &rewritten, &again);
    let mut said = vec!["connection", "transfer-encoding"];
    if head.status() == 101 {
        said.push("upgrade");
    }
    check_end_to_end(head.fields(), again.fields(), &said);
}

fn check_response_meaning(
    method: &str,
    head: &ResponseHead,
    how: &ResponseRewrite<'_>,
    again: &ResponseHead,
) {
    let is_interim = head.status() < 200;
    assert_eq!(
        (again.status(), again.reason()),
        (head.status(), head.reason())
    );
    assert_eq!(again.version(), Version::Http11);
    let expected = match how.framing {
        SentFraming::None | SentFraming::AsDeclared => Framing::Empty,
        SentFraming::Length(length) => Framing::Length(length),
        SentFraming::Chunked => Framing::Chunked,
        SentFraming::UntilClose => Framing::UntilClose,
    };
    assert_eq!(framing::of_response(method, again), Ok(expected));
    let declares =
        again.fields().contains("content-length") || again.fields().contains("transfer-encoding");
    assert!(
        !declares || !(is_interim || head.status() == 204),
        "RFC 9110 §8.6"
    );
    let closes = again.fields().has_member("connection", "close");
    assert_eq!(
        closes,
        how.persistence != Persistence::KeepAlive && !is_interim,
        "what becomes of the connection"
    );
}
