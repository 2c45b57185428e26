//! The head that goes on: to the next hop, and back to the client
//! (RFC 9110 §7.6, RFC 9112 §3.2).
//!
//! A head is not edited but written anew, from values that were parsed once.
//! So what decides over the message (start line, `Host`, framing, `Connection`)
//! says what this proxy means, and cannot be said twice; all other end-to-end
//! fields pass in their order and byte for byte.
//!
//! Not in here: deciding any of it. The framing comes from `framing`, the
//! target from `target`, what the fields of a head ask of this hop from `hop`.

use super::decimal;
use super::fields::{Field, Fields, NameList, write_field};
use super::forwarded::ForwardedFor;
use super::framing::{Framing, declared_length};
use super::head::{RequestHead, ResponseHead, Version};
use super::persistence::Persistence;
use super::request_id::IdField;
use super::target::{Authority, Scheme};

pub use super::hop::{
    MaxForwards, binds_connection, expects_continue, max_forwards, requested_upgrade,
};

/// Fields that are written anew, or not at all.
static REWRITTEN: NameList = NameList::new(&["host", "content-length", "transfer-encoding"]);

/// What a proxy says about the credentials for itself (RFC 9110 §11.7).
static CHALLENGE: NameList = NameList::new(&["proxy-authenticate", "proxy-authentication-info"]);

/// The name under which this proxy stands in `Via` (RFC 9110 §7.6.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Via {
    pseudonym: Box<str>,
}

impl Via {
    /// `pseudonym` is a token that no other proxy has, such as `hplb-0123abcd`.
    pub fn new(pseudonym: impl Into<Box<str>>) -> Self {
        Self {
            pseudonym: pseudonym.into(),
        }
    }

    /// The name itself.
    pub fn pseudonym(&self) -> &str {
        &self.pseudonym
    }

    /// Whether a message with these fields was here before: whether the
    /// received-by of any member of `Via` is this very name.
    pub fn passes_through(&self, fields: Fields<'_>) -> bool {
        fields.members("via").any(|member| {
            let mut words = member
                .split(|&byte| matches!(byte, b' ' | b'\t'))
                .filter(|word| !word.is_empty());
            words.nth(1) == Some(self.pseudonym.as_bytes())
        })
    }

    fn write(&self, received: Version, out: &mut Vec<u8>) {
        out.extend_from_slice(match received {
            Version::Http10 => b"Via: 1.0 ",
            Version::Http11 => b"Via: 1.1 ",
        });
        out.extend_from_slice(self.pseudonym.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// How the target stands in the request line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `http://host/path`: to an upstream, which is a proxy (RFC 9112 §3.2.2).
    Absolute,
    /// As it came, userinfo included: a URI of another scheme, to an upstream that may know what it means.
    AsReceived,
    /// `/path`, or `*` for OPTIONS: to the origin (§3.2.1, §3.2.4).
    Origin,
}

impl Form {
    /// How a URI of this scheme is written for an upstream.
    pub fn for_upstream(scheme: Scheme<'_>) -> Self {
        if scheme.is_http() {
            Self::Absolute
        } else {
            Self::AsReceived
        }
    }
}

/// How a request goes on.
#[derive(Clone, Copy, Debug)]
pub struct RequestRewrite<'a> {
    /// Depends on who the next hop is.
    pub form: Form,
    /// Where this request leads; also what `Host` will say.
    pub authority: &'a Authority,
    /// The port of its scheme, which `Host` leaves out.
    pub default_port: u16,
    /// The rest of its target, from [`AbsoluteForm::path_and_query`](super::target::AbsoluteForm).
    pub path_and_query: &'a [u8],
    /// The framing the body is sent with.
    pub framing: Framing,
    /// For the upstream: the value of `Proxy-Authorization`. The client's own is for us, and never passes by itself.
    pub credentials: Option<&'a [u8]>,
    /// What an upstream is told of the client.
    pub forwarded: Option<ForwardedFor>,
    /// `None`: no `Via` is added.
    pub via: Option<&'a Via>,
    /// The protocols to offer, from [`requested_upgrade`].
    pub upgrade: Option<&'a [u8]>,
    /// Replaces `Max-Forwards`; from [`MaxForwards::Left`].
    pub max_forwards: Option<u64>,
    /// Names the request.
    pub id: Option<IdField<'a>>,
}

/// Appends the head of a request for the next hop. Not for CONNECT.
pub fn request(head: &RequestHead, how: &RequestRewrite<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method().as_bytes());
    out.push(b' ');
    write_target(head, how, out);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    how.authority.write_as_host_field(how.default_port, out);
    out.extend_from_slice(b"\r\n");
    let kept = |field: &Field<'_>| {
        !(REWRITTEN.has(field.name)
            || field.is("trailer") && how.framing != Framing::Chunked
            || field.is("max-forwards") && how.max_forwards.is_some()
            // "A server that receives a 100-continue expectation in an HTTP/1.0
            // request MUST ignore that expectation" (RFC 9110 §10.1.1), but the
            // next hop would see it in a 1.1 request.
            || field.is("expect") && head.version() == Version::Http10
            || how.forwarded.is_some_and(|told| told.replaces(field))
            || how.id.is_some_and(|id| id.replaces(field)))
    };
    head.fields().write_end_to_end(kept, out);
    match how.framing {
        Framing::Empty if head.fields().contains("content-length") => write_length(0, out),
        Framing::Empty => {}
        Framing::Length(length) => write_length(length, out),
        // A request cannot end with its connection.
        Framing::Chunked | Framing::UntilClose => write_chunked(out),
    }
    if let Some(left) = how.max_forwards {
        write_number(b"Max-Forwards", left, out);
    }
    if let Some(told) = how.forwarded {
        told.write(head.fields(), out);
    }
    write_hop(head.version(), how.via, how.credentials, how.id, out);
    // A connection that is kept needs no word in HTTP/1.1.
    if let Some(protocols) = how.upgrade {
        write_field(b"Connection", b"Upgrade", out);
        write_field(b"Upgrade", protocols, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a CONNECT request to an upstream, with the end-to-end
/// fields of the client's.
pub fn connect(
    head: &RequestHead,
    authority: &Authority,
    (credentials, forwarded): (Option<&[u8]>, Option<ForwardedFor>),
    (via, id): (Option<&Via>, Option<IdField<'_>>),
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"CONNECT ");
    authority.write(out);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    authority.write(out);
    out.extend_from_slice(b"\r\n");
    // There is no content (§9.3.6), so there is nothing to expect or to frame.
    let kept = |field: &Field<'_>| {
        !(REWRITTEN.has(field.name)
            || field.is("expect")
            || field.is("trailer")
            || forwarded.is_some_and(|told| told.replaces(field))
            || id.is_some_and(|id| id.replaces(field)))
    };
    head.fields().write_end_to_end(kept, out);
    if let Some(told) = forwarded {
        told.write(head.fields(), out);
    }
    write_hop(head.version(), via, credentials, id, out);
    out.extend_from_slice(b"\r\n");
}

/// How the end of a response body is found by the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SentFraming {
    /// Nothing is declared: 1xx, 204, and 2xx to CONNECT.
    None,
    /// After this many bytes. Also for empty bodies, with 0: without any
    /// framing the client would wait for the end of the connection.
    Length(u64),
    /// In chunks.
    Chunked,
    /// With the connection, which must be closed then.
    UntilClose,
    /// For HEAD and 304: the length that the next hop declared for the body
    /// that is not sent, if it did.
    AsDeclared,
}

/// Whether the connection changes its protocol behind this response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// It stays with HTTP; `Upgrade` is dropped.
    Stays,
    /// 101 (RFC 9110 §15.2.2): `Upgrade` passes, named by `Connection`.
    Switches,
}

/// Whether a kept connection is worth a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepAlive {
    /// In HTTP/1.1 it is not.
    Implied,
    /// To a proxy it is: it trusts the connection with other targets only then.
    Said,
}

impl KeepAlive {
    /// A request with `Via` came from a proxy.
    pub fn towards(head: &RequestHead) -> Self {
        if head.fields().contains("via") {
            Self::Said
        } else {
            Self::Implied
        }
    }
}

/// How a response goes on to the client.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRewrite<'a> {
    /// The framing the body is sent with.
    pub framing: SentFraming,
    /// What the client is told about its connection; not said in a 1xx.
    pub persistence: Persistence,
    /// Whether a client whose connection is kept is told so.
    pub keep_alive: KeepAlive,
    /// `None`: no `Via` is added.
    pub via: Option<&'a Via>,
    /// Of a response to a request that went on with `Upgrade`.
    pub upgrade: Switch,
    /// Whether what a proxy says about credentials is for the client.
    pub passes_challenge: bool,
    /// Names the request.
    pub id: Option<IdField<'a>>,
}

/// Appends the head of a response for the client; always HTTP/1.1, whose
/// number is this proxy's own (RFC 9110 §2.5).
pub fn response(head: &ResponseHead, how: &ResponseRewrite<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal::write(u64::from(head.status()), out);
    out.push(b' ');
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
    let has_trailers = matches!(how.framing, SentFraming::Chunked | SentFraming::AsDeclared);
    // `Host` means nothing in a response.
    let kept = |field: &Field<'_>| {
        !(REWRITTEN.has(field.name)
            || field.is("trailer") && !has_trailers
            || how.id.is_some_and(|id| id.replaces(field)))
    };
    head.fields().write_end_to_end(kept, out);
    if how.passes_challenge {
        for field in head
            .fields()
            .iter()
            .filter(|field| CHALLENGE.has(field.name))
        {
            write_field(field.name, field.value, out);
        }
    }
    let is_interim = head.status() < 200;
    // "A server MUST NOT send a Content-Length header field in any response
    // with a status code of 1xx (Informational) or 204 (No Content)" (RFC 9110
    // §8.6), nor a Transfer-Encoding (RFC 9112 §6.1).
    if !is_interim && head.status() != 204 {
        write_sent_framing(how.framing, head, out);
    }
    write_hop(head.version(), how.via, None, how.id, out);
    match (how.upgrade, how.persistence) {
        (Switch::Switches, _) => {
            write_field(b"Connection", b"Upgrade", out);
            for protocols in head.fields().values("upgrade") {
                write_field(b"Upgrade", protocols, out);
            }
        }
        (Switch::Stays, Persistence::Close(_)) if !is_interim => {
            write_field(b"Connection", b"close", out);
        }
        (Switch::Stays, Persistence::KeepAlive)
            if !is_interim && how.keep_alive == KeepAlive::Said =>
        {
            write_field(b"Connection", b"keep-alive", out);
        }
        (Switch::Stays, Persistence::KeepAlive | Persistence::Close(_)) => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn write_sent_framing(framing: SentFraming, head: &ResponseHead, out: &mut Vec<u8>) {
    match framing {
        SentFraming::None | SentFraming::UntilClose => {}
        SentFraming::Length(length) => write_length(length, out),
        SentFraming::Chunked => write_chunked(out),
        SentFraming::AsDeclared => {
            if let Ok(Some(length)) = declared_length(head.fields()) {
                write_length(length, out);
            }
        }
    }
}

fn write_target(head: &RequestHead, how: &RequestRewrite<'_>, out: &mut Vec<u8>) {
    let (method, path) = (head.method(), how.path_and_query);
    if how.form == Form::Absolute {
        out.extend_from_slice(b"http://");
        how.authority.write_as_host_field(how.default_port, out);
    }
    match (path, how.form) {
        (_, Form::AsReceived) => out.extend_from_slice(head.target()),
        // "If a proxy receives an OPTIONS request with an absolute-form of
        // request-target in which the URI has an empty path and no query
        // component, then the last proxy on the request chain MUST send a
        // request-target of "*"" (RFC 9112 §3.2.4).
        ([], Form::Origin) if method == "OPTIONS" => out.push(b'*'),
        ([], Form::Absolute) if method == "OPTIONS" => {}
        ([b'/', ..], _) => out.extend_from_slice(path),
        (_, _) => {
            out.push(b'/');
            out.extend_from_slice(path);
        }
    }
}

fn write_length(length: u64, out: &mut Vec<u8>) {
    write_number(b"Content-Length", length, out);
}

fn write_number(name: &[u8], number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    decimal::write(number, out);
    out.extend_from_slice(b"\r\n");
}

fn write_chunked(out: &mut Vec<u8>) {
    write_field(b"Transfer-Encoding", b"chunked", out);
}

/// What this hop adds about itself.
fn write_hop(
    received: Version,
    via: Option<&Via>,
    credentials: Option<&[u8]>,
    id: Option<IdField<'_>>,
    out: &mut Vec<u8>,
) {
    if let Some(id) = id {
        id.write(out);
    }
    if let Some(via) = via {
        via.write(received, out);
    }
    if let Some(credentials) = credentials {
        write_field(b"Proxy-Authorization", credentials, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::credentials::Credentials;
    use super::super::persistence::CloseReason;
    use super::super::request_id::{FieldName, RequestId};
    use super::super::target::{AbsoluteForm, RequestTarget};
    use super::*;

    fn request_head(text: &[u8]) -> RequestHead {
        RequestHead::parse(text.to_vec()).expect("well formed")
    }

    fn absolute(head: &RequestHead) -> AbsoluteForm<'_> {
        match RequestTarget::parse(head.method(), head.target()).expect("well formed") {
            RequestTarget::Absolute(target) => target,
            RequestTarget::Authority(_) => panic!("not for CONNECT"),
        }
    }

    fn plain<'a>(target: &'a AbsoluteForm<'a>, form: Form) -> RequestRewrite<'a> {
        RequestRewrite {
            form,
            authority: &target.authority,
            default_port: target.scheme.default_port(),
            path_and_query: target.path_and_query,
            framing: Framing::Empty,
            credentials: None,
            forwarded: None,
            via: None,
            upgrade: None,
            max_forwards: None,
            id: None,
        }
    }

    /// Rewrites for an origin, after `change` of how.
    #[track_caller]
    fn check(received: &[u8], change: impl Fn(&mut RequestRewrite<'_>), expected: &[u8]) {
        let head = request_head(received);
        let target = absolute(&head);
        let mut how = plain(&target, Form::Origin);
        change(&mut how);
        let mut out = Vec::new();
        request(&head, &how, &mut out);
        assert_eq!(
            out.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
        // Whatever is written can be read, and is framed as it was meant.
        if how.form == Form::Absolute {
            let written = request_head(&out);
            assert_eq!(super::super::framing::of_request(&written), Ok(how.framing));
        }
    }

    #[test]
    fn the_target_takes_the_form_the_next_hop_wants() {
        for (line, origin, upstream, host) in [
            ("GET http://a/b?c", "/b?c", "http://a/b?c", "a"),
            ("GET HTTP://A:80/", "/", "http://a/", "a"),
            ("GET http://a", "/", "http://a/", "a"),
            ("GET http://a:81?x", "/?x", "http://a:81/?x", "a:81"),
            ("GET http://u:p@a//b", "//b", "http://a//b", "a"),
            (
                "GET http://[::1]:8080/",
                "/",
                "http://[::1]:8080/",
                "[::1]:8080",
            ),
            ("OPTIONS http://a", "*", "http://a", "a"),
            ("OPTIONS http://a:81", "*", "http://a:81", "a:81"),
            ("OPTIONS http://a/", "/", "http://a/", "a"),
            ("OPTIONS http://a?x", "/?x", "http://a/?x", "a"),
            ("options http://a", "/", "http://a/", "a"),
        ] {
            let received = format!("{line} HTTP/1.1\r\nHost: other\r\n\r\n");
            let method = line.split(' ').next().unwrap();
            for (form, target) in [(Form::Origin, origin), (Form::Absolute, upstream)] {
                let expected = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
                check(
                    received.as_bytes(),
                    |how| how.form = form,
                    expected.as_bytes(),
                );
            }
        }
    }

    #[test]
    fn a_target_of_another_scheme_goes_to_an_upstream_as_it_came() {
        for (target, host) in [
            ("https://a/b?c", "a"),
            ("HTTPS://A:443", "a"),
            ("https://a:80/", "a:80"),
            ("ftp://bob:hunter2@a/b;type=i", "a"),
            ("ws+x://[::1]:81?x", "[::1]:81"),
        ] {
            let received = format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n");
            let expected = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            check(
                received.as_bytes(),
                |how| how.form = Form::AsReceived,
                expected.as_bytes(),
            );
        }
    }

    #[test]
    fn end_to_end_fields_pass_byte_for_byte_and_in_order() {
        check(
            b"GET http://a/ HTTP/1.1\r\nX-Z:  1\t2 \r\nHost: b\r\nx-a: \xe9\xff\r\nX-Z:\r\nCookie: c\r\n\r\n",
            |_| {},
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Z: 1\t2\r\nx-a: \xe9\xff\r\nX-Z: \r\nCookie: c\r\n\r\n",
        );
    }

    #[test]
    fn what_belongs_to_this_hop_stays_here() {
        check(
            b"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close, X-Foo, Host, Via\r\nX-Foo: 1\r\n\
              Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nTE: trailers\r\nVia: 1.1 b\r\n\
              Upgrade: websocket\r\nKeep-Alive: 5\r\nTrailer: A\r\nHTTP2-Settings: A\r\nB: 1\r\n\r\n",
            |_| {},
            b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 b\r\nB: 1\r\n\r\n",
        );
    }

    #[test]
    fn the_framing_is_written_anew() {
        let received =
            b"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\nX: y\r\ncontent-length: 5, 5\r\n\r\n";
        let upstream = |framing| {
            move |how: &mut RequestRewrite<'_>| {
                how.form = Form::Absolute;
                how.framing = framing;
            }
        };
        check(
            received,
            upstream(Framing::Length(5)),
            b"POST http://a/ HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 5\r\n\r\n",
        );
        check(
            b"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\nTrailer: B\r\n\r\n",
            upstream(Framing::Chunked),
            b"POST http://a/ HTTP/1.1\r\nHost: a\r\nTrailer: B\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
    }

    #[test]
    fn a_length_of_nothing_is_said_if_the_client_said_it() {
        check(
            b"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            |_| {},
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        );
        check(
            b"POST http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            |_| {},
            b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        );
    }

    #[test]
    fn this_hop_adds_its_own_fields_at_the_end() {
        let (via, credentials) = (Via::new("hplb-01234567"), Credentials::basic("u", "p"));
        let head = request_head(
            b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\nMax-Forwards: 5\r\nVia: 1.0 x\r\n\r\n",
        );
        let target = absolute(&head);
        let how = RequestRewrite {
            credentials: Some(credentials.authorization().as_bytes()),
            via: Some(&via),
            max_forwards: Some(4),
            ..plain(&target, Form::Absolute)
        };
        let mut out = b"before ".to_vec();
        request(&head, &how, &mut out);
        assert_eq!(
            out.escape_ascii().to_string(),
            b"before OPTIONS http://a HTTP/1.1\r\nHost: a\r\nVia: 1.0 x\r\nMax-Forwards: 4\r\n\
              Via: 1.1 hplb-01234567\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
                .escape_ascii()
                .to_string()
        );
    }

    #[test]
    fn an_upgrade_is_offered_on() {
        let received =
            b"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\
              Sec-WebSocket-Key: x\r\n\r\n";
        check(
            received,
            |how| how.upgrade = Some(b"websocket"),
            b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: x\r\nConnection: Upgrade\r\n\
              Upgrade: websocket\r\n\r\n",
        );
    }

    #[test]
    fn an_expectation_of_http_1_0_stays_here() {
        check(
            b"POST http://a/ HTTP/1.0\r\nExpect: 100-continue\r\nX: y\r\n\r\n",
            |_| {},
            b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
        );
        check(
            b"POST http://a/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            |_| {},
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        );
    }

    #[test]
    fn via_names_the_version_that_was_received() {
        let head = request_head(b"GET http://a/ HTTP/1.0\r\n\r\n");
        let (target, via) = (absolute(&head), Via::new("hplb-01234567"));
        let how = RequestRewrite {
            via: Some(&via),
            ..plain(&target, Form::Origin)
        };
        let mut out = Vec::new();
        request(&head, &how, &mut out);
        assert_eq!(
            out,
            b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.0 hplb-01234567\r\n\r\n"
        );
    }

    #[test]
    fn a_message_that_was_here_is_recognized() {
        let via = Via::new("hplb-01234567");
        for (fields, expected) in [
            ("", false),
            ("Via: 1.1 hplb-01234567\r\n", true),
            ("Via: 1.0 a, HTTP/1.1 \t hplb-01234567 (comment)\r\n", true),
            ("Via: 1.1 a\r\nvia: 1.1 b,1.1 hplb-01234567\r\n", true),
            ("Via: 1.1 hplb-01234568\r\n", false),
            ("Via: 1.1 hplb-012345678\r\n", false),
            ("Via: 1.1 xhplb-01234567\r\n", false),
            ("Via: 1.1 a (hplb-01234567)\r\n", false),
            ("Via: hplb-01234567\r\n", false),
            ("X-Via: 1.1 hplb-01234567\r\n", false),
        ] {
            let text = format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let head = request_head(text.as_bytes());
            assert_eq!(via.passes_through(head.fields()), expected, "{fields:?}");
        }
    }

    #[test]
    fn connect_goes_on_with_its_authority() {
        let head = request_head(
            b"CONNECT A.test:443 HTTP/1.1\r\nHost: b\r\nUser-Agent: c\r\nContent-Length: 0\r\n\
              Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nExpect: 100-continue\r\n\r\n",
        );
        let authority = Authority::from_connect(head.target()).unwrap();
        let (via, credentials) = (Via::new("hplb-01234567"), Credentials::basic("u", "p"));
        let mut out = Vec::new();
        connect(
            &head,
            &authority,
            (Some(credentials.authorization().as_bytes()), None),
            (Some(&via), None),
            &mut out,
        );
        assert_eq!(
            out.escape_ascii().to_string(),
            b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nUser-Agent: c\r\n\
              Via: 1.1 hplb-01234567\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
                .escape_ascii()
                .to_string()
        );
        out.clear();
        connect(&head, &authority, (None, None), (None, None), &mut out);
        assert_eq!(
            out,
            b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nUser-Agent: c\r\n\r\n"
        );
    }

    /// In every head that goes on, and never twice.
    #[test]
    fn the_field_that_names_the_request_takes_the_place_of_any_other() {
        let name = FieldName::new("X-Request-Id").expect("a name");
        let number = RequestId::Own(7);
        let id = Some(IdField {
            name: &name,
            id: &number,
        });
        let head = request_head(
            b"GET http://a/ HTTP/1.1\r\nHost: a\r\nx-request-id: x\r\nX-Request-Id: y\r\nA: b\r\n\r\n",
        );
        let target = absolute(&head);
        let how = RequestRewrite {
            id,
            ..plain(&target, Form::Origin)
        };
        let mut out = Vec::new();
        request(&head, &how, &mut out);
        assert_eq!(
            out,
            b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\
              X-Request-Id: 00000000000000000000000007\r\n\r\n"
        );
        let head = request_head(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nX-REQUEST-ID: x\r\n\r\n");
        let authority = Authority::from_connect(head.target()).unwrap();
        out.clear();
        connect(&head, &authority, (None, None), (None, id), &mut out);
        assert_eq!(
            out,
            b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\
              X-Request-Id: 00000000000000000000000007\r\n\r\n"
        );
        check_response(
            b"HTTP/1.1 204 No Content\r\nX-Request-Id: the origin's own\r\n\r\n",
            &ResponseRewrite {
                id,
                ..back(SentFraming::None)
            },
            b"HTTP/1.1 204 No Content\r\nX-Request-Id: 00000000000000000000000007\r\n\r\n",
        );
    }

    fn back(framing: SentFraming) -> ResponseRewrite<'static> {
        ResponseRewrite {
            framing,
            persistence: Persistence::KeepAlive,
            keep_alive: KeepAlive::Implied,
            via: None,
            upgrade: Switch::Stays,
            passes_challenge: false,
            id: None,
        }
    }

    #[track_caller]
    fn check_response(received: &[u8], how: &ResponseRewrite<'_>, expected: &[u8]) {
        let head = ResponseHead::parse(received.to_vec()).expect("well formed");
        let mut out = Vec::new();
        response(&head, how, &mut out);
        assert_eq!(
            out.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    #[test]
    fn a_response_is_http_1_1_and_keeps_status_and_reason() {
        for (received, expected) in [
            (
                &b"HTTP/1.0 200 Fine \xe9\r\n\r\n"[..],
                &b"HTTP/1.1 200 Fine \xe9\r\n\r\n"[..],
            ),
            (b"HTTP/1.1 404 \r\n\r\n", b"HTTP/1.1 404 \r\n\r\n"),
            (b"HTTP/1.1 999\r\n\r\n", b"HTTP/1.1 999 \r\n\r\n"),
        ] {
            check_response(received, &back(SentFraming::None), expected);
        }
    }

    #[test]
    fn what_belongs_to_the_next_hop_stays_there() {
        check_response(
            b"HTTP/1.1 200 OK\r\nConnection: close, X-Foo, Set-Cookie\r\nX-Foo: 1\r\nSet-Cookie: a\r\n\
              Keep-Alive: 5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: close\r\nUpgrade: h2c\r\n\
              Transfer-Encoding: chunked\r\nset-cookie: \xe9\r\nTrailer: A\r\nHost: a\r\n\r\n",
            &back(SentFraming::Length(5)),
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: \xe9\r\nContent-Length: 5\r\n\r\n",
        );
    }

    #[test]
    fn the_framing_of_a_response_is_written_anew() {
        let received =
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTrailer: A\r\nContent-Length: 05\r\n\r\n";
        for (framing, expected) in [
            (SentFraming::None, ""),
            (SentFraming::UntilClose, ""),
            (SentFraming::Length(0), "Content-Length: 0\r\n"),
            (
                SentFraming::Chunked,
                "Trailer: A\r\nTransfer-Encoding: chunked\r\n",
            ),
            (
                SentFraming::AsDeclared,
                "Trailer: A\r\nContent-Length: 5\r\n",
            ),
        ] {
            let expected = format!("HTTP/1.1 200 OK\r\n{expected}\r\n");
            check_response(received, &back(framing), expected.as_bytes());
        }
        check_response(
            b"HTTP/1.1 304 X\r\nTransfer-Encoding: chunked\r\n\r\n",
            &back(SentFraming::AsDeclared),
            b"HTTP/1.1 304 X\r\n\r\n",
        );
    }

    #[test]
    fn responses_that_cannot_have_a_body_declare_none() {
        for status in [100, 103, 204] {
            let received = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n"
            );
            let expected = format!("HTTP/1.1 {status} X\r\nA: b\r\n\r\n");
            for framing in [
                SentFraming::None,
                SentFraming::Length(5),
                SentFraming::Chunked,
                SentFraming::AsDeclared,
            ] {
                check_response(received.as_bytes(), &back(framing), expected.as_bytes());
            }
        }
    }

    #[test]
    fn the_client_is_told_that_its_connection_ends() {
        let via = Via::new("hplb-01234567");
        let how = ResponseRewrite {
            persistence: Persistence::Close(CloseReason::ClientAsked),
            keep_alive: KeepAlive::Implied,
            via: Some(&via),
            ..back(SentFraming::None)
        };
        check_response(
            b"HTTP/1.0 200 OK\r\n\r\n",
            &how,
            b"HTTP/1.1 200 OK\r\nVia: 1.0 hplb-01234567\r\nConnection: close\r\n\r\n",
        );
        // An interim response ends nothing.
        check_response(
            b"HTTP/1.1 103 Early Hints\r\n\r\n",
            &how,
            b"HTTP/1.1 103 Early Hints\r\nVia: 1.1 hplb-01234567\r\n\r\n",
        );
    }

    #[test]
    fn a_switch_of_protocols_is_passed_on() {
        let how = ResponseRewrite {
            upgrade: Switch::Switches,
            passes_challenge: false,
            ..back(SentFraming::None)
        };
        check_response(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade, X-A\r\nX-A: 1\r\n\
              Sec-WebSocket-Accept: x\r\n\r\n",
            &how,
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nConnection: Upgrade\r\n\
              Upgrade: websocket\r\n\r\n",
        );
    }
}
