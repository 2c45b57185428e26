//! Answers this proxy gives itself: the table of causes, each with its status, its
//! label, its error type (RFC 9209 §2.3) and words a person can act on; and the
//! bytes that are made of it.
//!
//! A cause is one row and nothing is told from a status code: metrics, log,
//! `Proxy-Status` and body say the same thing. Nothing of a request is
//! repeated in an answer but what TRACE asks for.
//!
//! Not here: whether to refuse, and whether the connection goes on.

use std::borrow::Cow;

use super::cause::causes;
use super::chunked::BodyError;
use super::fields::{is_token_byte, write_field};
use super::framing::FramingError;
use super::head::{Foreign, HeadError, RequestHead, Version};
use super::persistence::Persistence;
use super::request_id::{FieldName, IdField, RequestId};
use super::shown::is_secret;
use super::target::{RequestTarget, TargetError};
#[cfg(feature = "tls")]
use super::tls::TlsFailure;

/// How long a client should wait after a 503, in seconds.
const RETRY_AFTER_SECS: u32 = 5;

/// What a 407 asks for.
const PROXY_AUTHENTICATE: &str =
    "Proxy-Authenticate: Basic realm=\"http-proxy-lb\", charset=\"UTF-8\"\r\n";

/// A 200 that no next hop had a part in.
const OWN_ANSWER: (u16, &str) = (200, "proxy_internal_response");

// Advice that several causes share.
const INVALID_HTTP_SENT: &str = "The client, or a proxy before this one, sends invalid HTTP.";
const FEWER_FIELDS: &str = "Send fewer or smaller fields (cookies, mostly).";
const AGAIN: &str = "Send the request again.";
const UPSTREAM_NAME: &str = "It is not the URL: the administrator must check the address of the upstream and the name server.";
const IN_A_FEW_SECONDS: &str = "Try again in a few seconds.";

causes! {
    /// Why this proxy answers a request itself.
    Refusal:
    MalformedHead(what: &'static str = "what") = 400, "malformed_head", "http_request_error",
        "the request head is malformed: {what}", INVALID_HTTP_SENT;
    TlsToPlainPort = 400, "tls_to_plain_port", "http_request_error",
        "a client speaks TLS to the plain port",
        "Write http://, not https://, before the proxy's address.";
    SocksToHttpPort = 400, "socks_to_http_port", "http_request_error",
        "a client speaks SOCKS to the HTTP port",
        "Set this address as its HTTP proxy, not as its SOCKS proxy.";
    RequestLineTooLong = 414, "request_line_too_long", "http_request_error",
        "the request line is too long", "Use a shorter URL.";
    /// Too many bytes or too many fields.
    HeadTooLarge = 431, "head_too_large", "http_request_error",
        "the request head is too large", FEWER_FIELDS;
    HeadTimeout = 408, "head_timeout", "http_request_error",
        "the request head did not come in time", AGAIN;
    VersionUnsupported = 505, "version_unsupported", "http_request_error",
        "this proxy speaks HTTP/1.0 and HTTP/1.1 only", "Use HTTP/1.1 towards this proxy.";
    BodyMalformed = 400, "body_malformed", "http_request_error",
        "the chunked body of the request is malformed", INVALID_HTTP_SENT;
    BodyFramingTooLarge = 431, "body_framing_too_large", "http_request_error",
        "the trailers or chunk extensions are too large", FEWER_FIELDS;
    BodyTimeout = 408, "body_timeout", "http_request_error",
        "the request body did not come in time", AGAIN;
    Forbidden = 403, "client_forbidden", "http_request_denied",
        "your address may not use this proxy",
        "The administrator can add its network to access.allow.";
    PortForbidden = 403, "port_forbidden", "http_request_denied",
        "this proxy does not open tunnels to that port",
        "The administrator can add it to access.connect_ports.";
    TargetForbidden = 403, "target_forbidden", "destination_ip_prohibited",
        "this proxy does not connect to that destination",
        "Ask the administrator if you need it.";
    RefusedByRule = 403, "refused_by_rule", "http_request_denied",
        "a rule of this proxy refuses this request",
        "Ask the administrator if you need it; the rules are in the configuration file.";
    /// The client's credentials for this proxy are missing or wrong.
    CredentialsWanted = 407, "credentials_wanted", "http_request_denied",
        "this proxy wants valid credentials",
        "Set user and password for the proxy in your client.";
    Loop = 508, "loop", "proxy_loop_detected",
        "the request has been at this proxy before",
        "Check that no upstream leads back to this proxy.";
    NoUpstream = 503, "no_upstream_online", "destination_unavailable",
        "no upstream proxy is online", IN_A_FEW_SECONDS;
    NoUpstreamResolved = 503, "no_upstream_resolved", "dns_error",
        "no upstream proxy is online, for their names cannot be resolved", UPSTREAM_NAME;
    /// Others are, but no rule sends it to them.
    GroupNotInService = 503, "group_not_in_service", "destination_unavailable",
        "no upstream of the group that this request needs is in service", IN_A_FEW_SECONDS;
    /// Each for as long as a request may wait in the queue.
    UpstreamsFull = 503, "upstreams_full", "connection_limit_reached",
        "all upstream proxies have as many requests as they may",
        "Try again in a few seconds, or raise upstream[].max_active.";
    AllDrained = 503, "all_upstreams_drained", "destination_unavailable",
        "all upstreams are drained", "The administrator can enable one.";
    NoUpstreamConfigured = 503, "no_upstream_configured", "proxy_configuration_error",
        "no upstream proxy is configured",
        "Add one under \"upstream\" in the configuration file.";
    ConnectionLimit = 503, "connection_limit", "connection_limit_reached",
        "this proxy has as many connections as it may",
        "Try again in a few seconds, or raise limits.max_connections.";
    ClientConnectionLimit = 503, "client_connection_limit", "connection_limit_reached",
        "your address has as many connections as it may",
        "Close some, or raise limits.max_connections_per_client.";
    QueueFull = 503, "queue_full", "proxy_internal_response",
        "too many requests are waiting at this proxy", IN_A_FEW_SECONDS;
    QueueTimeout = 503, "queue_timeout", "proxy_internal_response",
        "the request waited too long at this proxy", IN_A_FEW_SECONDS;
    /// Not given since tunnels need no thread of their own; the label stays for those who watch it.
    ThreadLimit = 503, "thread_limit", "proxy_internal_response",
        "this proxy has no resources left for a tunnel", IN_A_FEW_SECONDS;
    Draining = 503, "draining", "proxy_internal_response",
        "this proxy is shutting down", "Try again; another instance may answer.";
    /// A defect in this proxy.
    Internal = 500, "internal_error", "proxy_internal_error",
        "an internal error of this proxy", "The log of the proxy has the details.";
    + Target(error: TargetError) = "{error}";
    + Framing(error: FramingError) = "the framing of the request is refused: {error}";
    // No other next hop could be used, either.
    + NextHop(failure: HopFailure) = "{failure}";
}

const LATER: &str = "Try again later.";
const EFFECT_UNKNOWN: &str = "It is unknown whether the request was acted upon.";
const MORE_BYTES: &str = "The administrator can raise limits.max_header_bytes.";
const SERVER_WRONG: &str = "The server, or a proxy on the way, must be corrected.";

causes! {
    /// Why a next hop could not be used: what failed, seen from this proxy.
    HopFailure:
    /// Also: the name has no address.
    DnsError = 502, "dns_error", "dns_error",
        "the name of the next hop cannot be resolved", "Check the spelling of the host.";
    DnsTimeout = 504, "dns_timeout", "dns_timeout",
        "the name of the next hop was not resolved in time", LATER;
    /// Of an upstream, whatever the request asks for.
    UpstreamDnsError = 502, "upstream_dns_error", "dns_error",
        "the name of the upstream proxy cannot be resolved", UPSTREAM_NAME;
    UpstreamDnsTimeout = 504, "upstream_dns_timeout", "dns_timeout",
        "the name of the upstream proxy was not resolved in time", UPSTREAM_NAME;
    ConnectRefused = 502, "connect_refused", "connection_refused",
        "the next hop refused the connection", LATER;
    ConnectTimeout = 504, "connect_timeout", "connection_timeout",
        "the next hop did not take the connection in time", LATER;
    /// There is no way to its address.
    ConnectUnreachable = 502, "connect_unreachable", "destination_ip_unroutable",
        "the next hop cannot be reached", LATER;
    /// For a reason that is none of those above.
    ConnectFailed = 502, "connect_failed", "destination_unavailable",
        "no connection to the next hop could be opened", LATER;
    SendTimeout = 504, "send_timeout", "connection_write_timeout",
        "the next hop did not take the request in time", EFFECT_UNKNOWN;
    /// Not a byte of a response had come.
    Closed = 502, "closed", "connection_terminated",
        "the next hop closed the connection without a response", EFFECT_UNKNOWN;
    /// Not a byte of a response had come.
    Reset = 502, "reset", "connection_terminated",
        "the next hop reset the connection without a response", EFFECT_UNKNOWN;
    ResponseTimeout = 504, "response_timeout", "http_response_timeout",
        "the next hop did not answer in time", EFFECT_UNKNOWN;
    /// A probe found so while the request waited.
    WentOffline = 502, "went_offline", "destination_unavailable",
        "the next hop went offline while it was waited for", EFFECT_UNKNOWN;
    /// An operator wants the upstream free of requests, now.
    UpstreamCut = 502, "upstream_cut", "connection_terminated",
        "the administrator of this proxy has cut what went through the upstream", EFFECT_UNKNOWN;
    NotHttp = 502, "response_not_http", "http_protocol_error",
        "the next hop sent something that is not HTTP", SERVER_WRONG;
    NotSocks = 502, "response_not_socks", "destination_unavailable",
        "the upstream proxy sent something that is not SOCKS5",
        "The administrator must check the scheme of the upstream's URL.";
    /// Its head breaks the grammar.
    Malformed(what: &'static str = "what") = 502, "response_malformed", "http_protocol_error",
        "the response is malformed: {what}", SERVER_WRONG;
    /// Where its body ends is unclear.
    Framing(error: FramingError = FramingError::LengthInvalid) =
        502, "response_framing", "http_protocol_error",
        "the framing of the response is refused: {error}", SERVER_WRONG;
    HeadTooLarge = 502, "response_head_too_large", "http_response_header_section_size",
        "the response head is larger than limits.max_header_bytes", MORE_BYTES;
    BodyFramingTooLarge = 502, "response_body_framing_too_large", "http_response_transfer_coding",
        "the trailers of the response are larger than limits.max_header_bytes, or its chunk extensions \
         than 16 KiB", MORE_BYTES;
    Truncated = 502, "response_truncated", "http_response_incomplete",
        "the next hop ended the response too early", EFFECT_UNKNOWN;
    Stalled = 504, "response_stalled", "connection_read_timeout",
        "the next hop stopped in the middle of the response", EFFECT_UNKNOWN;
    /// Also: no ports are left.
    LocalExhaustion = 502, "local_exhaustion", "proxy_internal_error",
        "this proxy has no sockets left", LATER;
    /// It answered CONNECT with 502, 503 or 504, or as one that has none; another upstream may open the tunnel.
    TunnelRefused = 502, "tunnel_refused", "destination_unavailable",
        "the upstream proxy could not open the tunnel", LATER;
    /// Its answer began a rest (`rest`); another upstream is asked now.
    UpstreamRests = 502, "upstream_rests", "destination_unavailable",
        "the upstream proxy rests for the destination", LATER;
    /// A SOCKS5 upstream has a rule against it.
    TargetNotAllowed = 403, "target_not_allowed", "destination_ip_prohibited",
        "the upstream proxy does not connect to that destination",
        "Ask the administrator of the upstream if you need it.";
    /// A SOCKS5 upstream could not connect; another one may.
    TargetUnreachable(why: &'static str = "host unreachable") =
        502, "target_unreachable", "destination_unavailable",
        "the upstream proxy could not connect to the destination: {why}", LATER;
    /// The same, as nothing came from there.
    TargetTimeout = 504, "target_timeout", "connection_timeout",
        "the upstream proxy could not connect to the destination in time", LATER;
    /// More 1xx than any server needs.
    TooManyInterim = 502, "too_many_interim", "http_protocol_error",
        "the next hop sent too many interim responses", SERVER_WRONG;
    /// 101 that was not asked for, or to another protocol.
    SwitchUnasked = 502, "switch_unasked", "http_upgrade_failed",
        "the next hop switched protocols unasked", SERVER_WRONG;
    /// With 407, 401 to CONNECT, or as SOCKS5 says it.
    AuthenticationRefused = 502, "authentication_refused", "proxy_configuration_error",
        "the upstream proxy refused this proxy's credentials",
        "The administrator must correct username and password of the upstream.";
    + #[cfg(feature = "tls")] Tls(failure: TlsFailure) = "{failure}";
}

impl Refusal {
    /// The status code of the answer.
    pub fn status(&self) -> u16 {
        self.row().status
    }

    /// The name of the cause in metrics and logs.
    pub fn label(&self) -> &'static str {
        self.row().label
    }

    /// What is wrong and what to do: one or two sentences for people.
    pub fn sentence(&self) -> String {
        let what = self.to_string();
        let mut letters = what.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        let what: String = first.into_iter().chain(letters).collect();
        format!("{what}. {}", self.row().advice)
    }
}

impl HopFailure {
    /// The name of the failure in metrics and logs.
    pub fn label(&self) -> &'static str {
        self.row().label
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(what) => Self::MalformedHead(what),
            HeadError::RequestLineTooLong => Self::RequestLineTooLong,
            HeadError::TooLarge => Self::HeadTooLarge,
            HeadError::VersionUnsupported => Self::VersionUnsupported,
            HeadError::Foreign(Foreign::Tls) => Self::TlsToPlainPort,
            HeadError::Foreign(Foreign::Socks) => Self::SocksToHttpPort,
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Malformed(_) | BodyError::Truncated => Self::BodyMalformed,
            BodyError::TooLarge => Self::BodyFramingTooLarge,
        }
    }
}

impl From<HeadError> for HopFailure {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(what) => Self::Malformed(what),
            HeadError::TooLarge | HeadError::RequestLineTooLong => Self::HeadTooLarge,
            HeadError::VersionUnsupported => Self::Malformed("a version that is not HTTP/1.x"),
            HeadError::Foreign(_) => Self::NotHttp,
        }
    }
}

impl From<BodyError> for HopFailure {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Malformed(what) => Self::Malformed(what),
            BodyError::TooLarge => Self::BodyFramingTooLarge,
            BodyError::Truncated => Self::Truncated,
        }
    }
}

impl From<FramingError> for HopFailure {
    fn from(error: FramingError) -> Self {
        Self::Framing(error)
    }
}

/// Does the client expect the body of an answer?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyWanted {
    /// Every method but HEAD.
    Yes,
    /// HEAD: fields alone (RFC 9110 §9.3.2).
    HeadRequest,
}

impl BodyWanted {
    /// What a request with this method expects.
    pub fn by_method(method: &str) -> Self {
        if method == "HEAD" {
            Self::HeadRequest
        } else {
            Self::Yes
        }
    }
}

/// What an answer has to know besides its cause.
#[derive(Clone, Copy, Debug)]
pub struct AnswerContext<'a> {
    /// Is the body sent?
    pub body: BodyWanted,
    /// What becomes of the client connection.
    pub persistence: Persistence,
    /// The name of the upstream or the host of the origin, where one was tried.
    pub next_hop: Option<&'a str>,
    /// Who says so in `Proxy-Status`: this instance's name.
    pub server: &'a str,
    /// What the request is called, there too. `None`: none was read.
    pub request_id: Option<&'a RequestId>,
    /// The field that says it once more, if there is to be one.
    pub id_field: Option<&'a FieldName>,
}

impl AnswerContext<'_> {
    fn id(&self) -> Option<IdField<'_>> {
        let (id, name) = (self.request_id?, self.id_field?);
        Some(IdField { name, id })
    }
}

/// Appends the whole answer to `out`.
pub fn write(refusal: &Refusal, context: &AnswerContext<'_>, out: &mut Vec<u8>) {
    let next_hop = context
        .next_hop
        .map_or_else(String::new, |name| format!("; next-hop={}", quoted(name)));
    let details = quoted(&refusal.to_string());
    let error = format!("{}{next_hop}; details={details}", refusal.row().proxy_error);
    start_answer((refusal.status(), &error), context, out);
    match refusal.status() {
        503 => push(&format!("Retry-After: {RETRY_AFTER_SECS}\r\n"), out),
        407 => push(PROXY_AUTHENTICATE, out),
        _ => {}
    }
    // 414 and 501 may be stored without a word to the contrary (RFC 9110 §15.1).
    push("Cache-Control: no-store\r\n", out);
    let body = refusal.sentence() + "\n";
    finish_answer("text/plain; charset=utf-8", body.as_bytes(), context, out);
}

/// Appends the answer to TRACE with `Max-Forwards: 0`: the request head as it
/// came (RFC 9110 §9.3.8), without what a script must not learn from it.
pub fn trace(head: &RequestHead, context: &AnswerContext<'_>, out: &mut Vec<u8>) {
    let mut echo = Vec::with_capacity(head.as_bytes().len());
    push(head.method(), &mut echo);
    echo.push(b' ');
    match RequestTarget::parse(head.method(), head.target()) {
        Ok(RequestTarget::Absolute(form)) => form.write_shown(&mut echo),
        Ok(RequestTarget::Authority(_)) | Err(_) => echo.extend_from_slice(head.target()),
    }
    let version = match head.version() {
        Version::Http10 => " HTTP/1.0\r\n",
        Version::Http11 => " HTTP/1.1\r\n",
    };
    push(version, &mut echo);
    for field in head.fields().iter().filter(|field| !is_secret(field.name)) {
        write_field(field.name, field.value, &mut echo);
    }
    push("\r\n", &mut echo);
    start_answer(OWN_ANSWER, context, out);
    finish_answer("message/http", &echo, context, out);
}

/// Appends the answer to OPTIONS with `Max-Forwards: 0` (RFC 9110 §9.3.7).
pub fn options(context: &AnswerContext<'_>, out: &mut Vec<u8>) {
    start_answer(OWN_ANSWER, context, out);
    push("Content-Length: 0\r\n\r\n", out);
}

/// Appends the answer that opens a tunnel: without framing fields, which have
/// no meaning there (RFC 9110 §9.3.6).
pub fn tunnel_opened(id: Option<IdField<'_>>, out: &mut Vec<u8>) {
    push("HTTP/1.1 200 Connection established\r\n", out);
    if let Some(id) = id {
        id.write(out);
    }
    push("\r\n", out);
}

/// Status and error type, with what describes the error more closely. The request's id is a parameter of its
/// own in `Proxy-Status`: `details` is for people, and recipients pass over parameters that they do not know.
fn start_answer((status, error): (u16, &str), context: &AnswerContext<'_>, out: &mut Vec<u8>) {
    let connection = match context.persistence {
        Persistence::KeepAlive => "",
        Persistence::Close(_) => "Connection: close\r\n",
    };
    let request_id = context.request_id.map_or_else(String::new, |id| {
        format!("; request-id={}", quoted(&id.to_string()))
    });
    let head = format!(
        "HTTP/1.1 {status} {}\r\n{connection}Proxy-Status: {}; error={error}{request_id}\r\n",
        reason_phrase(status),
        item(context.server),
    );
    push(&head, out);
    if let Some(id) = context.id() {
        id.write(out);
    }
}

fn finish_answer(media_type: &str, body: &[u8], context: &AnswerContext<'_>, out: &mut Vec<u8>) {
    let length = body.len();
    let fields = format!("Content-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n");
    push(&fields, out);
    match context.body {
        BodyWanted::Yes => out.extend_from_slice(body),
        BodyWanted::HeadRequest => {}
    }
}

fn push(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
}

/// The reason phrases of RFC 9110 §15, RFC 6585 and RFC 5842, as far as they
/// are used here.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "",
    }
}

/// A token where it is one, else a string (RFC 9651 §3.3.3, §3.3.4).
fn item(text: &str) -> Cow<'_, str> {
    let is_token = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*')
        && text
            .bytes()
            .all(|byte| is_token_byte(byte) || matches!(byte, b':' | b'/'));
    if is_token {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(quoted(text))
    }
}

/// A string of RFC 9651 §3.3.3: printable US-ASCII; the rest becomes `?`.
fn quoted(text: &str) -> String {
    let mut string = String::with_capacity(text.len() + 2);
    string.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => string.extend(['\\', letter]),
            ' '..='~' => string.push(letter),
            _ => string.push('?'),
        }
    }
    string.push('"');
    string
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::head::ResponseHead;
    use super::super::persistence::CloseReason;
    use super::*;

    /// RFC 9209 §2.3.
    const REGISTERED: [&str; 32] = [
        "dns_timeout",
        "dns_error",
        "destination_not_found",
        "destination_unavailable",
        "destination_ip_prohibited",
        "destination_ip_unroutable",
        "connection_refused",
        "connection_terminated",
        "connection_timeout",
        "connection_read_timeout",
        "connection_write_timeout",
        "connection_limit_reached",
        "tls_protocol_error",
        "tls_certificate_error",
        "tls_alert_received",
        "http_request_error",
        "http_request_denied",
        "http_response_incomplete",
        "http_response_header_section_size",
        "http_response_header_size",
        "http_response_body_size",
        "http_response_trailer_section_size",
        "http_response_trailer_size",
        "http_response_transfer_coding",
        "http_response_content_coding",
        "http_response_timeout",
        "http_upgrade_failed",
        "http_protocol_error",
        "proxy_internal_response",
        "proxy_internal_error",
        "proxy_configuration_error",
        "proxy_loop_detected",
    ];

    static ID: RequestId = RequestId::Own(7);

    fn context() -> AnswerContext<'static> {
        AnswerContext {
            body: BodyWanted::Yes,
            persistence: Persistence::KeepAlive,
            next_hop: None,
            server: "hplb-0123abcd",
            request_id: Some(&ID),
            id_field: None,
        }
    }

    fn answer(refusal: Refusal, context: &AnswerContext<'_>) -> String {
        let mut out = Vec::new();
        write(&refusal, context, &mut out);
        String::from_utf8(out).expect("answers are text")
    }

    fn request(text: &str) -> RequestHead {
        RequestHead::parse(text.as_bytes().to_vec()).expect("well formed")
    }

    #[test]
    fn every_cause_has_a_label_of_its_own() {
        let labels: HashSet<_> = Refusal::all().iter().map(Refusal::label).collect();
        assert_eq!(labels.len(), Refusal::all().len());
        for label in labels {
            let snake =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(label.bytes().all(snake), "{label}");
        }
    }

    #[test]
    fn every_cause_has_a_known_status_and_a_registered_error_type() {
        for refusal in Refusal::all() {
            assert!(!reason_phrase(refusal.status()).is_empty(), "{refusal:?}");
            assert!(
                REGISTERED.contains(&refusal.row().proxy_error),
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn every_cause_is_told_in_whole_sentences() {
        for refusal in Refusal::all() {
            let sentence = refusal.sentence();
            assert!(sentence.is_ascii() && sentence.ends_with('.'), "{sentence}");
            assert!(
                sentence.starts_with(|first: char| first.is_ascii_uppercase()),
                "{sentence}"
            );
            assert!(!refusal.to_string().ends_with('.'), "{refusal}");
        }
    }

    #[test]
    fn every_answer_is_a_well_formed_response_with_a_body_of_its_length() {
        for refusal in Refusal::all() {
            let text = answer(
                refusal,
                &AnswerContext {
                    next_hop: Some("a\r\n\"b"),
                    ..context()
                },
            );
            let (head, body) = text.split_once("\r\n\r\n").expect("a blank line");
            let head = ResponseHead::parse(format!("{head}\r\n\r\n").into_bytes());
            let head = head.expect("well formed");
            assert_eq!(head.status(), refusal.status());
            let length = body.len().to_string();
            assert!(
                head.fields().has_member("content-length", &length),
                "{text}"
            );
            assert_eq!(
                head.fields().contains("retry-after"),
                refusal.status() == 503
            );
        }
    }

    #[test]
    fn statuses_are_those_promised_to_users() {
        for (refusal, status) in [
            (Refusal::Target(TargetError::OriginForm), 400),
            (Refusal::Framing(FramingError::LengthWithCoding), 400),
            (Refusal::Framing(FramingError::CodingUnsupported), 501),
            (Refusal::VersionUnsupported, 505),
            (Refusal::RequestLineTooLong, 414),
            (Refusal::HeadTooLarge, 431),
            (Refusal::HeadTimeout, 408),
            (Refusal::Forbidden, 403),
            (Refusal::CredentialsWanted, 407),
            (Refusal::Loop, 508),
            (Refusal::NoUpstream, 503),
            (Refusal::QueueTimeout, 503),
            (
                HopFailure::Framing(FramingError::CodingUnsupported).into(),
                502,
            ),
            (HopFailure::ConnectRefused.into(), 502),
            (HopFailure::ConnectTimeout.into(), 504),
            (HopFailure::ResponseTimeout.into(), 504),
        ] {
            assert_eq!(refusal.status(), status, "{refusal:?}");
        }
    }

    #[test]
    fn an_origin_form_request_is_told_that_this_is_a_proxy() {
        let persistence = Persistence::Close(CloseReason::RequestRefused);
        let text = answer(
            Refusal::Target(TargetError::OriginForm),
            &AnswerContext {
                persistence,
                ..context()
            },
        );
        let expected = "HTTP/1.1 400 Bad Request\r\n\
            Connection: close\r\n\
            Proxy-Status: hplb-0123abcd; error=http_request_error; \
            details=\"this is an HTTP proxy, not a web server\"; \
            request-id=\"00000000000000000000000007\"\r\n\
            Cache-Control: no-store\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 147\r\n\
            \r\n\
            This is an HTTP proxy, not a web server. Configure it as your client's proxy, \
            or send an absolute-form request target such as http://example.com/.\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_failed_next_hop_is_named() {
        let refusal = Refusal::NextHop(HopFailure::Malformed("a bare LF"));
        let text = answer(
            refusal,
            &AnswerContext {
                next_hop: Some("up-1:3128"),
                ..context()
            },
        );
        let expected = "\r\nProxy-Status: hplb-0123abcd; error=http_protocol_error; \
            next-hop=\"up-1:3128\"; details=\"the response is malformed: a bare LF\"; \
            request-id=\"00000000000000000000000007\"\r\n";
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("Connection:"), "{text}");
    }

    #[test]
    fn wanted_credentials_are_asked_for() {
        let text = answer(Refusal::CredentialsWanted, &context());
        let expected =
            "\r\nProxy-Authenticate: Basic realm=\"http-proxy-lb\", charset=\"UTF-8\"\r\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn head_gets_the_same_fields_and_no_body() {
        let whole = answer(Refusal::NoUpstream, &context());
        let body = BodyWanted::by_method("HEAD");
        let fields = answer(Refusal::NoUpstream, &AnswerContext { body, ..context() });
        assert!(fields.ends_with("\r\n\r\n"));
        assert!(whole.starts_with(&fields) && fields.len() < whole.len());
        assert_eq!(BodyWanted::by_method("head"), BodyWanted::Yes);
    }

    #[test]
    fn structured_fields_are_escaped() {
        assert_eq!(quoted("a\"b\\c\r\n\u{e9}~"), "\"a\\\"b\\\\c???~\"");
        assert_eq!(item("http-proxy-lb"), "http-proxy-lb");
        assert_eq!(item("1st"), "\"1st\"");
        assert_eq!(item("a b"), "\"a b\"");
        assert_eq!(item(""), "\"\"");
    }

    #[test]
    fn trace_shows_the_request_without_credentials() {
        let head = request(
            "TRACE http://bob:hunter2@h:80/a?b HTTP/1.1\r\nHost: h\r\nX-A:\t1\r\nAUTHORIZATION: s\r\n\
             Cookie: s\r\nCookie2: s\r\nProxy-Authorization: s\r\nproxy-x: s\r\nVia: 1.1 p\r\n\r\n",
        );
        let mut out = Vec::new();
        trace(&head, &context(), &mut out);
        let expected = "HTTP/1.1 200 OK\r\n\
            Proxy-Status: hplb-0123abcd; error=proxy_internal_response; \
            request-id=\"00000000000000000000000007\"\r\n\
            Content-Type: message/http\r\n\
            Content-Length: 60\r\n\
            \r\n\
            TRACE http://h/a?b HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nVia: 1.1 p\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn options_are_answered_without_a_body() {
        let mut out = Vec::new();
        let persistence = Persistence::Close(CloseReason::ClientAsked);
        options(
            &AnswerContext {
                persistence,
                ..context()
            },
            &mut out,
        );
        let expected = "HTTP/1.1 200 OK\r\nConnection: close\r\n\
            Proxy-Status: hplb-0123abcd; error=proxy_internal_response; \
            request-id=\"00000000000000000000000007\"\r\n\
            Content-Length: 0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
