//! Answers this proxy gives itself: every cause with its status, its label,
//! its error type (RFC 9209 §2.3) and words a person can act on.
//!
//! A cause is one variant and nothing is told from a status code: metrics,
//! log, `Proxy-Status` and body say the same thing. Nothing of a request is
//! repeated in an answer but what TRACE asks for.
//!
//! Not here: whether to refuse, and whether the connection goes on.

use std::borrow::Cow;
use std::fmt;

use super::body::BodyError;
use super::fields::{Field, is_token_byte};
use super::framing::FramingError;
use super::head::{HeadError, RequestHead, Version};
use super::persistence::Persistence;
use super::target::{RequestTarget, TargetError};

/// How long a client should wait after a 503, in seconds.
const RETRY_AFTER_SECS: u32 = 5;

/// Why this proxy answers a request itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The head breaks the grammar: where, for people to read. 400.
    MalformedHead(&'static str),
    /// The request line is too long. 414.
    RequestLineTooLong,
    /// The head has too many bytes or too many fields. 431.
    HeadTooLarge,
    /// The head did not come in time. 408.
    HeadTimeout,
    /// Not HTTP/1.x. 505.
    VersionUnsupported,
    /// The target leads nowhere this proxy can go. 400.
    Target(TargetError),
    /// Where the body ends is unclear. 400, or 501 for an unknown coding.
    Framing(FramingError),
    /// The chunks or trailers of the body are malformed. 400.
    BodyMalformed,
    /// The chunk extensions or trailers of the body are too large. 431.
    BodyFramingTooLarge,
    /// The body did not come in time. 408.
    BodyTimeout,
    /// The client's address is not allowed. 403.
    Forbidden,
    /// CONNECT to a port that is not allowed. 403.
    PortForbidden,
    /// A destination that is not allowed. 403.
    TargetForbidden,
    /// The client's own credentials for this proxy are missing or wrong. 407.
    CredentialsWanted,
    /// The request has been here before. 508.
    Loop,
    /// No upstream is online. 503.
    NoUpstream,
    /// The configuration names no upstream. 503.
    NoUpstreamConfigured,
    /// Too many client connections. 503.
    ConnectionLimit,
    /// Too many connections of this client. 503.
    ClientConnectionLimit,
    /// Too many requests wait for a worker. 503.
    QueueFull,
    /// The request waited too long for a worker. 503.
    QueueTimeout,
    /// No threads can be had for a tunnel. 503. Not given any more: the event loops carry a tunnel for which
    /// there is none. Its label stays for those who watch it.
    ThreadLimit,
    /// This proxy is shutting down. 503.
    Draining,
    /// A defect in this proxy. 500.
    Internal,
    /// The next hop could not be used, and no other one could. 502 or 504.
    NextHop(HopFailure),
}

/// Why a next hop could not be used: what failed, seen from this proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HopFailure {
    /// Its name has no address. 502.
    DnsError,
    /// Its name was not resolved in time. 504.
    DnsTimeout,
    /// It refused the connection. 502.
    ConnectRefused,
    /// It did not take the connection in time. 504.
    ConnectTimeout,
    /// There is no way to its address. 502.
    ConnectUnreachable,
    /// The connection could not be opened for another reason. 502.
    ConnectFailed,
    /// It did not take the request in time. 504.
    SendTimeout,
    /// It closed the connection before a byte of the response. 502.
    Closed,
    /// It reset the connection before a byte of the response. 502.
    Reset,
    /// It did not answer in time. 504.
    ResponseTimeout,
    /// A probe found it offline while the request waited. 502.
    WentOffline,
    /// What it sent is not HTTP. 502.
    NotHttp,
    /// The head of its response breaks the grammar: where. 502.
    Malformed(&'static str),
    /// Where the body of its response ends is unclear. 502.
    Framing(FramingError),
    /// The head of its response is too large. 502.
    HeadTooLarge,
    /// The trailers or chunk extensions of its response are too large. 502.
    BodyFramingTooLarge,
    /// It ended its response too early. 502.
    Truncated,
    /// It stopped in the middle of its response. 504.
    Stalled,
    /// This machine has no sockets or ports left. 502.
    LocalExhaustion,
    /// It could not open the tunnel (502, 503 or 504), and another one may. 502.
    TunnelRefused,
    /// More interim (1xx) responses than any server needs. 502.
    TooManyInterim,
    /// It switched protocols (101) unasked, or to another one. 502.
    SwitchUnasked,
    /// It does not accept this proxy's credentials (its 407, or 401 to CONNECT). 502.
    AuthenticationRefused,
}

/// What `Proxy-Status` and metrics say about a cause.
struct Row {
    status: u16,
    label: &'static str,
    /// An error type of the registry of RFC 9209 §2.3.
    proxy_error: &'static str,
}

/// A row of the tables below; they are read column by column.
const fn row(status: u16, label: &'static str, proxy_error: &'static str) -> Row {
    Row {
        status,
        label,
        proxy_error,
    }
}

impl Refusal {
    /// The status code of the answer.
    pub fn status(&self) -> u16 {
        self.row().status
    }

    /// The name of the cause in metrics and logs: snake case, one each.
    pub fn label(&self) -> &'static str {
        self.row().label
    }

    /// One of each cause, in no order, for whoever counts them.
    pub fn all() -> Vec<Self> {
        let mut all = OWN.to_vec();
        all.extend(TARGET_ERRORS.map(Self::Target));
        all.extend(FRAMING_ERRORS.map(Self::Framing));
        all.extend(HOP_FAILURES.map(Self::NextHop));
        all
    }

    /// The error type for `Proxy-Status`, of the registry of RFC 9209 §2.3.
    pub fn proxy_error(&self) -> &'static str {
        self.row().proxy_error
    }

    /// What is wrong and what to do: one or two sentences for the body.
    pub fn sentence(&self) -> String {
        let what = self.to_string();
        let mut letters = what.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        let what: String = first.into_iter().chain(letters).collect();
        format!("{what}. {}", self.advice())
    }

    fn row(&self) -> Row {
        match self {
            Self::MalformedHead(_) => row(400, "malformed_head", "http_request_error"),
            Self::RequestLineTooLong => row(414, "request_line_too_long", "http_request_error"),
            Self::HeadTooLarge => row(431, "head_too_large", "http_request_error"),
            Self::HeadTimeout => row(408, "head_timeout", "http_request_error"),
            Self::VersionUnsupported => row(505, "version_unsupported", "http_request_error"),
            Self::Target(error) => row(400, target_label(*error), "http_request_error"),
            Self::Framing(error) => framing_row(*error),
            Self::BodyMalformed => row(400, "body_malformed", "http_request_error"),
            Self::BodyFramingTooLarge => row(431, "body_framing_too_large", "http_request_error"),
            Self::BodyTimeout => row(408, "body_timeout", "http_request_error"),
            Self::Forbidden => row(403, "client_forbidden", "http_request_denied"),
            Self::PortForbidden => row(403, "port_forbidden", "http_request_denied"),
            Self::TargetForbidden => row(403, "target_forbidden", "destination_ip_prohibited"),
            Self::CredentialsWanted => row(407, "credentials_wanted", "http_request_denied"),
            Self::Loop => row(508, "loop", "proxy_loop_detected"),
            Self::NoUpstream => row(503, "no_upstream_online", "destination_unavailable"),
            Self::NoUpstreamConfigured => {
                row(503, "no_upstream_configured", "proxy_configuration_error")
            }
            Self::ConnectionLimit => row(503, "connection_limit", "connection_limit_reached"),
            Self::ClientConnectionLimit => {
                row(503, "client_connection_limit", "connection_limit_reached")
            }
            Self::QueueFull => row(503, "queue_full", "proxy_internal_response"),
            Self::QueueTimeout => row(503, "queue_timeout", "proxy_internal_response"),
            Self::ThreadLimit => row(503, "thread_limit", "proxy_internal_response"),
            Self::Draining => row(503, "draining", "proxy_internal_response"),
            Self::Internal => row(500, "internal_error", "proxy_internal_error"),
            Self::NextHop(failure) => failure.row(),
        }
    }

    /// What the reader of the body can do about it.
    fn advice(&self) -> &'static str {
        match self {
            Self::MalformedHead(_) | Self::BodyMalformed => {
                "The client, or a proxy before this one, sends invalid HTTP."
            }
            Self::RequestLineTooLong => "Use a shorter URL.",
            Self::HeadTooLarge | Self::BodyFramingTooLarge => {
                "Send fewer or smaller fields (cookies, mostly)."
            }
            Self::HeadTimeout | Self::BodyTimeout => "Send the request again.",
            Self::VersionUnsupported => "Use HTTP/1.1 towards this proxy.",
            Self::Target(error) => target_advice(*error),
            Self::Framing(error) => framing_advice(*error),
            Self::Forbidden => "The administrator can add its network to access.allow.",
            Self::PortForbidden => "The administrator can add it to access.connect_ports.",
            Self::TargetForbidden => "Ask the administrator if you need it.",
            Self::CredentialsWanted => "Set user and password for the proxy in your client.",
            Self::Loop => "Check that no upstream leads back to this proxy.",
            Self::NoUpstream | Self::QueueFull | Self::QueueTimeout | Self::ThreadLimit => {
                "Try again in a few seconds."
            }
            Self::NoUpstreamConfigured => "Add one under \"upstream\" in the configuration file.",
            Self::ConnectionLimit => "Try again in a few seconds, or raise limits.max_connections.",
            Self::ClientConnectionLimit => {
                "Close some, or raise limits.max_connections_per_client."
            }
            Self::Draining => "Try again; another instance may answer.",
            Self::Internal => "The log of the proxy has the details.",
            Self::NextHop(failure) => failure.advice(),
        }
    }
}

/// The cause in a few words: for logs and the details of `Proxy-Status`.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MalformedHead(what) => return write!(f, "the request head is malformed: {what}"),
            Self::RequestLineTooLong => "the request line is too long",
            Self::HeadTooLarge => "the request head is too large",
            Self::HeadTimeout => "the request head did not come in time",
            Self::VersionUnsupported => "this proxy speaks HTTP/1.0 and HTTP/1.1 only",
            Self::Target(error) => target_words(*error),
            Self::Framing(error) => {
                return write!(f, "the framing of the request is refused: {error}");
            }
            Self::BodyMalformed => "the chunked body of the request is malformed",
            Self::BodyFramingTooLarge => "the trailers or chunk extensions are too large",
            Self::BodyTimeout => "the request body did not come in time",
            Self::Forbidden => "your address may not use this proxy",
            Self::PortForbidden => "this proxy does not open tunnels to that port",
            Self::TargetForbidden => "this proxy does not connect to that destination",
            Self::CredentialsWanted => "this proxy wants valid credentials",
            Self::Loop => "the request has been at this proxy before",
            Self::NoUpstream => "no upstream proxy is online",
            Self::NoUpstreamConfigured => "no upstream proxy is configured",
            Self::ConnectionLimit => "this proxy has as many connections as it may",
            Self::ClientConnectionLimit => "your address has as many connections as it may",
            Self::QueueFull => "too many requests are waiting at this proxy",
            Self::QueueTimeout => "the request waited too long at this proxy",
            Self::ThreadLimit => "this proxy has no resources left for a tunnel",
            Self::Draining => "this proxy is shutting down",
            Self::Internal => "an internal error of this proxy",
            Self::NextHop(failure) => return failure.fmt(f),
        })
    }
}

impl std::error::Error for Refusal {}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(what) => Self::MalformedHead(what),
            HeadError::RequestLineTooLong => Self::RequestLineTooLong,
            HeadError::TooLarge => Self::HeadTooLarge,
            HeadError::VersionUnsupported => Self::VersionUnsupported,
        }
    }
}

impl From<TargetError> for Refusal {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

impl From<FramingError> for Refusal {
    fn from(error: FramingError) -> Self {
        Self::Framing(error)
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

impl From<HopFailure> for Refusal {
    fn from(failure: HopFailure) -> Self {
        Self::NextHop(failure)
    }
}

fn target_label(error: TargetError) -> &'static str {
    match error {
        TargetError::OriginForm => "target_origin_form",
        TargetError::SchemeUnsupported => "target_scheme_unsupported",
        TargetError::HostMissing => "target_host_missing",
        TargetError::HostInvalid => "target_host_invalid",
        TargetError::PortMissing => "target_port_missing",
        TargetError::PortInvalid => "target_port_invalid",
        TargetError::UserinfoInConnect => "target_userinfo_in_connect",
        TargetError::Malformed => "target_malformed",
    }
}

fn target_words(error: TargetError) -> &'static str {
    match error {
        TargetError::OriginForm => "this is an HTTP proxy, not a web server",
        TargetError::SchemeUnsupported => "this proxy forwards http:// URLs only",
        TargetError::HostMissing => "the request target has no host",
        TargetError::HostInvalid => "the request target has an invalid host",
        TargetError::PortMissing => "the CONNECT target has no port",
        TargetError::PortInvalid => "the request target has an invalid port",
        TargetError::UserinfoInConnect => "the CONNECT target has userinfo",
        TargetError::Malformed => "the request target is malformed",
    }
}

fn target_advice(error: TargetError) -> &'static str {
    match error {
        TargetError::OriginForm => {
            "Configure it as your client's proxy, or send an absolute-form request target such as \
             http://example.com/."
        }
        TargetError::SchemeUnsupported => {
            "For everything else, https:// too, the client opens a tunnel with CONNECT."
        }
        TargetError::HostMissing | TargetError::Malformed => {
            "Send an absolute-form request target such as http://example.com/."
        }
        TargetError::HostInvalid => {
            "Use a DNS name, an IPv4 address, or an IPv6 address in brackets."
        }
        TargetError::PortMissing | TargetError::UserinfoInConnect => {
            "Send host:port, for example CONNECT example.com:443."
        }
        TargetError::PortInvalid => "A port is a number from 1 to 65535.",
    }
}

fn framing_row(error: FramingError) -> Row {
    match error {
        FramingError::LengthInvalid => row(400, "length_invalid", "http_request_error"),
        FramingError::LengthsDiffer => row(400, "lengths_differ", "http_request_error"),
        FramingError::LengthWithCoding => row(400, "length_with_coding", "http_request_error"),
        FramingError::CodingUnsupported => row(501, "coding_unsupported", "http_request_error"),
        FramingError::CodingMalformed => row(400, "coding_malformed", "http_request_error"),
        FramingError::CodingInHttp10 => row(400, "coding_in_http10", "http_request_error"),
        FramingError::BodyNotAllowed => row(400, "body_not_allowed", "http_request_error"),
    }
}

fn framing_advice(error: FramingError) -> &'static str {
    match error {
        FramingError::CodingUnsupported => "Send the body with Content-Length or chunked.",
        FramingError::BodyNotAllowed => "Send it without a body, or use another method.",
        FramingError::LengthInvalid
        | FramingError::LengthsDiffer
        | FramingError::LengthWithCoding
        | FramingError::CodingMalformed
        | FramingError::CodingInHttp10 => {
            "A message that can be read in two ways is not forwarded; correct the client."
        }
    }
}

impl HopFailure {
    /// The status code of the answer, 502 or 504.
    pub fn status(&self) -> u16 {
        self.row().status
    }

    /// The name of the failure in metrics and logs: snake case, one each.
    pub fn label(&self) -> &'static str {
        self.row().label
    }

    fn row(&self) -> Row {
        match self {
            Self::DnsError => row(502, "dns_error", "dns_error"),
            Self::DnsTimeout => row(504, "dns_timeout", "dns_timeout"),
            Self::ConnectRefused => row(502, "connect_refused", "connection_refused"),
            Self::ConnectTimeout => row(504, "connect_timeout", "connection_timeout"),
            Self::ConnectUnreachable => {
                row(502, "connect_unreachable", "destination_ip_unroutable")
            }
            Self::ConnectFailed => row(502, "connect_failed", "destination_unavailable"),
            Self::SendTimeout => row(504, "send_timeout", "connection_write_timeout"),
            Self::Closed => row(502, "closed", "connection_terminated"),
            Self::Reset => row(502, "reset", "connection_terminated"),
            Self::ResponseTimeout => row(504, "response_timeout", "http_response_timeout"),
            Self::WentOffline => row(502, "went_offline", "destination_unavailable"),
            Self::NotHttp => row(502, "response_not_http", "http_protocol_error"),
            Self::Malformed(_) => row(502, "response_malformed", "http_protocol_error"),
            Self::Framing(_) => row(502, "response_framing", "http_protocol_error"),
            Self::HeadTooLarge => row(
                502,
                "response_head_too_large",
                "http_response_header_section_size",
            ),
            Self::BodyFramingTooLarge => row(
                502,
                "response_body_framing_too_large",
                "http_response_transfer_coding",
            ),
            Self::Truncated => row(502, "response_truncated", "http_response_incomplete"),
            Self::Stalled => row(504, "response_stalled", "connection_read_timeout"),
            Self::LocalExhaustion => row(502, "local_exhaustion", "proxy_internal_error"),
            Self::TunnelRefused => row(502, "tunnel_refused", "destination_unavailable"),
            Self::TooManyInterim => row(502, "too_many_interim", "http_protocol_error"),
            Self::SwitchUnasked => row(502, "switch_unasked", "http_upgrade_failed"),
            Self::AuthenticationRefused => {
                row(502, "authentication_refused", "proxy_configuration_error")
            }
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::DnsError => "Check the spelling of the host.",
            Self::AuthenticationRefused => {
                "The administrator must correct username and password of the upstream."
            }
            Self::DnsTimeout
            | Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectUnreachable
            | Self::ConnectFailed
            | Self::LocalExhaustion
            | Self::TunnelRefused => "Try again later.",
            Self::SendTimeout
            | Self::Closed
            | Self::Reset
            | Self::ResponseTimeout
            | Self::WentOffline
            | Self::Truncated
            | Self::Stalled => "It is unknown whether the request was acted upon.",
            Self::NotHttp
            | Self::Malformed(_)
            | Self::Framing(_)
            | Self::HeadTooLarge
            | Self::BodyFramingTooLarge
            | Self::TooManyInterim
            | Self::SwitchUnasked => "The server, or a proxy on the way, must be corrected.",
        }
    }
}

/// What failed in a few words: for logs and the details of `Proxy-Status`.
impl fmt::Display for HopFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DnsError => "the name of the next hop cannot be resolved",
            Self::DnsTimeout => "the name of the next hop was not resolved in time",
            Self::ConnectRefused => "the next hop refused the connection",
            Self::ConnectTimeout => "the next hop did not take the connection in time",
            Self::ConnectUnreachable => "the next hop cannot be reached",
            Self::ConnectFailed => "no connection to the next hop could be opened",
            Self::SendTimeout => "the next hop did not take the request in time",
            Self::Closed => "the next hop closed the connection without a response",
            Self::Reset => "the next hop reset the connection without a response",
            Self::ResponseTimeout => "the next hop did not answer in time",
            Self::WentOffline => "the next hop went offline while it was waited for",
            Self::NotHttp => "the next hop sent something that is not HTTP",
            Self::Malformed(what) => return write!(f, "the response is malformed: {what}"),
            Self::Framing(error) => {
                return write!(f, "the framing of the response is refused: {error}");
            }
            Self::HeadTooLarge => "the response head is too large",
            Self::BodyFramingTooLarge => {
                "the trailers or chunk extensions of the response are too large"
            }
            Self::Truncated => "the next hop ended the response too early",
            Self::Stalled => "the next hop stopped in the middle of the response",
            Self::LocalExhaustion => "this proxy has no sockets left",
            Self::TunnelRefused => "the upstream proxy could not open the tunnel",
            Self::TooManyInterim => "the next hop sent too many interim responses",
            Self::SwitchUnasked => "the next hop switched protocols unasked",
            Self::AuthenticationRefused => "the upstream proxy refused this proxy's credentials",
        })
    }
}

impl std::error::Error for HopFailure {}

impl From<HeadError> for HopFailure {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(what) => Self::Malformed(what),
            HeadError::TooLarge | HeadError::RequestLineTooLong => Self::HeadTooLarge,
            HeadError::VersionUnsupported => Self::Malformed("a version that is not HTTP/1.x"),
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
}

/// Appends the whole answer to `out`.
pub fn write(refusal: &Refusal, context: &AnswerContext<'_>, out: &mut Vec<u8>) {
    let body = refusal.sentence() + "\n";
    start_answer(refusal.status(), context.persistence, out);
    push_all(out, &["Proxy-Status: ", &item(context.server)]);
    push_all(out, &["; error=", refusal.proxy_error()]);
    if let Some(name) = context.next_hop {
        push_all(out, &["; next-hop=", &quoted(name)]);
    }
    push_all(out, &["; details=", &quoted(&refusal.to_string()), "\r\n"]);
    if refusal.status() == 503 {
        push_all(
            out,
            &["Retry-After: ", &RETRY_AFTER_SECS.to_string(), "\r\n"],
        );
    }
    if refusal.status() == 407 {
        out.extend_from_slice(
            b"Proxy-Authenticate: Basic realm=\"http-proxy-lb\", charset=\"UTF-8\"\r\n",
        );
    }
    // 414 and 501 may be stored without a word to the contrary (RFC 9110 §15.1).
    out.extend_from_slice(b"Cache-Control: no-store\r\n");
    finish_answer(
        "text/plain; charset=utf-8",
        body.as_bytes(),
        context.body,
        out,
    );
}

/// Appends the answer to TRACE with `Max-Forwards: 0`: the request head as it
/// came (RFC 9110 §9.3.8), without what a script must not learn from it.
pub fn trace(head: &RequestHead, context: &AnswerContext<'_>, out: &mut Vec<u8>) {
    let mut echo = Vec::with_capacity(head.as_bytes().len());
    push_all(&mut echo, &[head.method(), " "]);
    match RequestTarget::parse(head.method(), head.target()) {
        Ok(RequestTarget::Absolute(form)) => {
            echo.extend_from_slice(b"http://");
            form.authority.write_as_host_field(80, &mut echo);
            echo.extend_from_slice(form.path_and_query);
        }
        Ok(RequestTarget::Authority(_)) | Err(_) => echo.extend_from_slice(head.target()),
    }
    echo.extend_from_slice(match head.version() {
        Version::Http10 => b" HTTP/1.0\r\n",
        Version::Http11 => b" HTTP/1.1\r\n",
    });
    for field in head.fields().iter().filter(|field| !is_secret(field)) {
        for part in [field.name, b": ", field.value, b"\r\n"] {
            echo.extend_from_slice(part);
        }
    }
    echo.extend_from_slice(b"\r\n");
    start_own_answer(context, out);
    finish_answer("message/http", &echo, context.body, out);
}

/// Appends the answer to OPTIONS with `Max-Forwards: 0` (RFC 9110 §9.3.7).
pub fn options(context: &AnswerContext<'_>, out: &mut Vec<u8>) {
    start_own_answer(context, out);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// Appends the answer that opens a tunnel: without framing fields, which have
/// no meaning there (RFC 9110 §9.3.6).
pub fn tunnel_opened(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
}

/// Credentials, which TRACE must not show (RFC 9110 §9.3.8).
fn is_secret(field: &Field<'_>) -> bool {
    let is_proxy_field = field
        .name
        .get(..6)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"proxy-"));
    is_proxy_field
        || ["authorization", "cookie", "cookie2"]
            .iter()
            .any(|name| field.is(name))
}

/// A 200 that no next hop had a part in.
fn start_own_answer(context: &AnswerContext<'_>, out: &mut Vec<u8>) {
    start_answer(200, context.persistence, out);
    push_all(
        out,
        &[
            "Proxy-Status: ",
            &item(context.server),
            "; error=proxy_internal_response\r\n",
        ],
    );
}

fn start_answer(status: u16, persistence: Persistence, out: &mut Vec<u8>) {
    push_all(
        out,
        &[
            "HTTP/1.1 ",
            &status.to_string(),
            " ",
            reason_phrase(status),
            "\r\n",
        ],
    );
    match persistence {
        Persistence::KeepAlive => {}
        Persistence::Close(_) => out.extend_from_slice(b"Connection: close\r\n"),
    }
}

fn finish_answer(media_type: &str, body: &[u8], wanted: BodyWanted, out: &mut Vec<u8>) {
    push_all(out, &["Content-Type: ", media_type, "\r\n"]);
    push_all(
        out,
        &["Content-Length: ", &body.len().to_string(), "\r\n\r\n"],
    );
    match wanted {
        BodyWanted::Yes => out.extend_from_slice(body),
        BodyWanted::HeadRequest => {}
    }
}

fn push_all(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
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

/// Every way in which a target can be refused.
const TARGET_ERRORS: [TargetError; 8] = [
    TargetError::OriginForm,
    TargetError::SchemeUnsupported,
    TargetError::HostMissing,
    TargetError::HostInvalid,
    TargetError::PortMissing,
    TargetError::PortInvalid,
    TargetError::UserinfoInConnect,
    TargetError::Malformed,
];

/// Every way in which a framing can be refused.
const FRAMING_ERRORS: [FramingError; 7] = [
    FramingError::LengthInvalid,
    FramingError::LengthsDiffer,
    FramingError::LengthWithCoding,
    FramingError::CodingUnsupported,
    FramingError::CodingMalformed,
    FramingError::CodingInHttp10,
    FramingError::BodyNotAllowed,
];

/// Every way in which a next hop can fail; what differs in words alone is one.
const HOP_FAILURES: [HopFailure; 23] = [
    HopFailure::DnsError,
    HopFailure::DnsTimeout,
    HopFailure::ConnectRefused,
    HopFailure::ConnectTimeout,
    HopFailure::ConnectUnreachable,
    HopFailure::ConnectFailed,
    HopFailure::SendTimeout,
    HopFailure::Closed,
    HopFailure::Reset,
    HopFailure::ResponseTimeout,
    HopFailure::WentOffline,
    HopFailure::NotHttp,
    HopFailure::Malformed("what"),
    HopFailure::Framing(FramingError::LengthInvalid),
    HopFailure::HeadTooLarge,
    HopFailure::BodyFramingTooLarge,
    HopFailure::Truncated,
    HopFailure::TooManyInterim,
    HopFailure::Stalled,
    HopFailure::LocalExhaustion,
    HopFailure::TunnelRefused,
    HopFailure::SwitchUnasked,
    HopFailure::AuthenticationRefused,
];

/// Every other cause.
const OWN: [Refusal; 22] = [
    Refusal::MalformedHead("what"),
    Refusal::RequestLineTooLong,
    Refusal::HeadTooLarge,
    Refusal::HeadTimeout,
    Refusal::VersionUnsupported,
    Refusal::BodyMalformed,
    Refusal::BodyFramingTooLarge,
    Refusal::BodyTimeout,
    Refusal::Forbidden,
    Refusal::PortForbidden,
    Refusal::TargetForbidden,
    Refusal::CredentialsWanted,
    Refusal::Loop,
    Refusal::NoUpstream,
    Refusal::NoUpstreamConfigured,
    Refusal::ConnectionLimit,
    Refusal::ClientConnectionLimit,
    Refusal::QueueFull,
    Refusal::QueueTimeout,
    Refusal::ThreadLimit,
    Refusal::Draining,
    Refusal::Internal,
];

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

    fn context() -> AnswerContext<'static> {
        AnswerContext {
            body: BodyWanted::Yes,
            persistence: Persistence::KeepAlive,
            next_hop: None,
            server: "hplb-0123abcd",
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
            assert!(REGISTERED.contains(&refusal.proxy_error()), "{refusal:?}");
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
            details=\"this is an HTTP proxy, not a web server\"\r\n\
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
            next-hop=\"up-1:3128\"; details=\"the response is malformed: a bare LF\"\r\n";
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
            Proxy-Status: hplb-0123abcd; error=proxy_internal_response\r\n\
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
            Proxy-Status: hplb-0123abcd; error=proxy_internal_response\r\n\
            Content-Length: 0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
