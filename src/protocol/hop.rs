//! What the fields of a message ask of this hop, beside its framing.
//!
//! Hop-by-hop fields and expectations are easily half understood: a substring
//! of `Connection`, an `Upgrade` in HTTP/1.0, an empty `Max-Forwards`. Each
//! question has one function and one answer here.
//!
//! Not in here: whether the connection persists (`persistence`), and acting on
//! the answers.

use super::decimal;
use super::fields::{Fields, is_token_byte, split_before};
use super::head::{RequestHead, Version};

/// The protocols a client offers to switch to, ready for the `Upgrade` field
/// of the next hop; `None` if there are none left that may pass.
///
/// "A server MUST ignore an Upgrade header field that is received in an
/// HTTP/1.0 request" (RFC 9110 §7.8), and one that `Connection` does not name
/// was meant for another hop. HTTP/2 is never offered on: the requests in it
/// would go past every rule of this proxy (`h2c` smuggling).
pub fn requested_upgrade(head: &RequestHead) -> Option<Vec<u8>> {
    if head.version() == Version::Http10 || !head.fields().has_member("connection", "upgrade") {
        return None;
    }
    let protocols: Vec<&[u8]> = head
        .fields()
        .members("upgrade")
        .filter(|protocol| may_upgrade_to(protocol))
        .collect();
    (!protocols.is_empty()).then(|| protocols.join(&b", "[..]))
}

/// A well-formed `protocol-name ["/" protocol-version]` other than HTTP.
fn may_upgrade_to(protocol: &[u8]) -> bool {
    let mut parts = protocol.split(|&byte| byte == b'/');
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let is_token = |part: &[u8]| !part.is_empty() && part.iter().all(|&byte| is_token_byte(byte));
    let is_http = matches!(&*name, b"http" | b"h2" | b"h3" | b"h2c") || name.starts_with(b"h2c-");
    is_token(&name) && parts.next().is_none_or(is_token) && parts.next().is_none() && !is_http
}

/// Whether the client waits for `100 Continue` before it sends the body.
/// Never in HTTP/1.0 (RFC 9110 §10.1.1).
pub fn expects_continue(head: &RequestHead) -> bool {
    head.version() == Version::Http11 && head.fields().has_member("expect", "100-continue")
}

/// What `Max-Forwards` says (RFC 9110 §7.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MaxForwards {
    /// Nothing, or nothing that has a meaning: another method than TRACE and
    /// OPTIONS, no number, or more than one.
    Absent,
    /// This proxy is the last recipient and answers itself.
    Zero,
    /// What the next hop is told: one less than what this one was.
    Left(u64),
}

/// Whether the request may go on, and how often from there.
pub fn max_forwards(head: &RequestHead) -> MaxForwards {
    if !matches!(head.method(), "TRACE" | "OPTIONS") {
        return MaxForwards::Absent;
    }
    let mut values = head.fields().values("max-forwards");
    let (Some(value), None) = (values.next(), values.next()) else {
        return MaxForwards::Absent;
    };
    match decimal::read(value).map(|received| received.checked_sub(1)) {
        None => MaxForwards::Absent,
        Some(None) => MaxForwards::Zero,
        Some(Some(left)) => MaxForwards::Left(left),
    }
}

/// Whether the message authenticates its connection and not itself: NTLM or
/// Negotiate, on either side. The next client on such a connection would act
/// in the name of the first one.
pub fn binds_connection(fields: Fields<'_>) -> bool {
    [
        "authorization",
        "proxy-authorization",
        "www-authenticate",
        "proxy-authenticate",
    ]
    .iter()
    .flat_map(|name| fields.members(name))
    .any(|challenge| {
        let (scheme, _) = split_before(challenge, |byte| matches!(byte, b' ' | b'\t'));
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method_and_version: (&str, &str), fields: &str) -> RequestHead {
        let (method, version) = method_and_version;
        let text = format!("{method} http://a/ {version}\r\nHost: a\r\n{fields}\r\n");
        RequestHead::parse(text.into_bytes()).expect("well formed")
    }

    #[track_caller]
    fn check_upgrade(version: &str, fields: &str, expected: Option<&str>) {
        let upgrade = requested_upgrade(&request(("GET", version), fields));
        assert_eq!(
            upgrade.as_deref(),
            expected.map(str::as_bytes),
            "{version} {fields:?}"
        );
    }

    #[test]
    fn an_upgrade_that_connection_names_is_offered_on() {
        let fields = "Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n";
        check_upgrade("HTTP/1.1", fields, Some("websocket"));
        check_upgrade(
            "HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: WebSocket, foo/2\r\nUpgrade: bar\r\n",
            Some("WebSocket, foo/2, bar"),
        );
    }

    #[test]
    fn an_upgrade_for_another_hop_is_not_offered_on() {
        let fields = "Connection: upgrade\r\nUpgrade: websocket\r\n";
        check_upgrade("HTTP/1.0", fields, None);
        check_upgrade("HTTP/1.1", "Upgrade: websocket\r\n", None);
        check_upgrade(
            "HTTP/1.1",
            "Connection: xupgrade\r\nUpgrade: websocket\r\n",
            None,
        );
        check_upgrade("HTTP/1.1", "Connection: upgrade\r\n", None);
    }

    #[test]
    fn http_2_is_not_offered_on() {
        for protocols in [
            "h2c", "H2C", "h2c-14", "HTTP/2.0", "h2", "h2c, h2c", "h2c/1",
        ] {
            let fields = format!("Connection: upgrade, http2-settings\r\nUpgrade: {protocols}\r\n");
            check_upgrade("HTTP/1.1", &fields, None);
        }
        let fields = "Connection: upgrade\r\nUpgrade: h2c, websocket\r\n";
        check_upgrade("HTTP/1.1", fields, Some("websocket"));
    }

    #[test]
    fn protocols_that_are_no_tokens_are_not_offered_on() {
        for protocols in [
            "web socket",
            "a/b/c",
            "/",
            "a/",
            "/1",
            "\"websocket\"",
            "\u{e9}",
        ] {
            let fields = format!("Connection: upgrade\r\nUpgrade: {protocols}\r\n");
            check_upgrade("HTTP/1.1", &fields, None);
        }
    }

    #[test]
    fn only_http_1_1_expects_to_continue() {
        let fields = "Expect: 100-Continue\r\n";
        assert!(expects_continue(&request(("POST", "HTTP/1.1"), fields)));
        assert!(!expects_continue(&request(("POST", "HTTP/1.0"), fields)));
        assert!(!expects_continue(&request(
            ("POST", "HTTP/1.1"),
            "Expect: 100-continued\r\n"
        )));
        assert!(!expects_continue(&request(("POST", "HTTP/1.1"), "")));
    }

    #[track_caller]
    fn check_max_forwards(method: &str, fields: &str, expected: MaxForwards) {
        let head = request((method, "HTTP/1.1"), fields);
        assert_eq!(max_forwards(&head), expected, "{method} {fields:?}");
    }

    #[test]
    fn forwards_are_counted_down() {
        for method in ["TRACE", "OPTIONS"] {
            check_max_forwards(method, "", MaxForwards::Absent);
            check_max_forwards(method, "Max-Forwards: 0\r\n", MaxForwards::Zero);
            check_max_forwards(method, "Max-Forwards: 00\r\n", MaxForwards::Zero);
            check_max_forwards(method, "max-forwards: 10\r\n", MaxForwards::Left(9));
        }
    }

    #[test]
    fn forwards_without_a_meaning_are_not_counted() {
        check_max_forwards("GET", "Max-Forwards: 0\r\n", MaxForwards::Absent);
        check_max_forwards("options", "Max-Forwards: 0\r\n", MaxForwards::Absent);
        for value in ["", "-1", "+1", "1.0", "x", "1, 1", "18446744073709551616"] {
            let fields = format!("Max-Forwards: {value}\r\n");
            check_max_forwards("TRACE", &fields, MaxForwards::Absent);
        }
        let twice = "Max-Forwards: 0\r\nMax-Forwards: 0\r\n";
        check_max_forwards("TRACE", twice, MaxForwards::Absent);
    }

    #[track_caller]
    fn check_binds(fields: &str) -> bool {
        binds_connection(request(("GET", "HTTP/1.1"), fields).fields())
    }

    #[test]
    fn ntlm_and_negotiate_bind_the_connection() {
        for fields in [
            "Authorization: NTLM TlRM\r\n",
            "Authorization: negotiate YII=\r\n",
            "Proxy-Authorization: Ntlm\tTlRM\r\n",
            "WWW-Authenticate: Basic realm=\"a\", Negotiate\r\n",
            "WWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: NTLM\r\n",
            "Proxy-Authenticate: Negotiate\r\n",
        ] {
            assert!(check_binds(fields), "{fields:?}");
        }
    }

    #[test]
    fn other_credentials_bind_nothing() {
        for fields in [
            "",
            "Authorization: Basic TlRMOk5UTE0=\r\n",
            "Authorization: Bearer NTLM\r\n",
            "Authorization: NTLMv3 x\r\n",
            "WWW-Authenticate: Basic realm=\"x, NTLM\"\r\n",
            "X-Authorization: NTLM\r\n",
        ] {
            assert!(!check_binds(fields), "{fields:?}");
        }
    }
}
