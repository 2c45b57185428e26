//! The answers of the front itself: what is refused, and why.

use std::borrow::Cow;

use crate::protocol::answer::BodyWanted;
use crate::protocol::head::{HeadError, RequestHead};

/// Why a request gets no answer but the front's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The head cannot be used.
    Head(HeadError),
    /// The head did not come in time.
    TooSlow,
    /// The target is no path, or the framing is wrong.
    Malformed(&'static str),
    /// It has a body.
    Body,
    /// No such path.
    Unknown,
    /// There is such a path, for these methods.
    Method(&'static str),
    /// The token is missing or wrong.
    TokenWanted,
    /// No token is configured, so no client can act or see who else is here.
    NoTokenSet,
    /// Another site's page sent the browser here.
    CrossSite(&'static str),
    /// There is no server behind the front.
    Unavailable,
}

const BASIC: &str = "WWW-Authenticate: Basic realm=\"http-proxy-lb\", charset=\"UTF-8\"\r\n";
const BEARER: &str = "WWW-Authenticate: Bearer realm=\"http-proxy-lb\"\r\n";

impl Refused {
    /// The status, and what the body says.
    fn words(self) -> (&'static str, Cow<'static, str>) {
        match self {
            Self::Head(HeadError::Malformed(what)) => (
                "400 Bad Request",
                format!("The request head is malformed: {what}.").into(),
            ),
            Self::Head(HeadError::Foreign(other)) => (
                "400 Bad Request",
                format!("This port speaks HTTP, and not {other}.").into(),
            ),
            Self::Head(HeadError::RequestLineTooLong | HeadError::TooLarge) => (
                "431 Request Header Fields Too Large",
                "The request head is larger than 8 KiB.".into(),
            ),
            Self::Head(HeadError::VersionUnsupported) => (
                "505 HTTP Version Not Supported",
                "This server speaks HTTP/1.0 and HTTP/1.1.".into(),
            ),
            Self::TooSlow => (
                "408 Request Timeout",
                "The request head did not come within 5 seconds.".into(),
            ),
            Self::Unavailable => (
                "503 Service Unavailable",
                "The admin server lacks resources; the log has the details.".into(),
            ),
            Self::Malformed(what) => ("400 Bad Request", format!("Not understood: {what}.").into()),
            Self::Body => (
                "413 Content Too Large",
                "Nothing here wants a body: send the request without one.".into(),
            ),
            Self::Unknown => ("404 Not Found", "There is nothing at this path.".into()),
            Self::Method(methods) => (
                "405 Method Not Allowed",
                format!("Only {methods} here.").into(),
            ),
            Self::TokenWanted => (
                "401 Unauthorized",
                "The admin token is wanted: as Bearer token, or as the password of any user."
                    .into(),
            ),
            Self::NoTokenSet => (
                "403 Forbidden",
                "This needs a token: set admin_token or admin_token_file in the configuration."
                    .into(),
            ),
            Self::CrossSite(what) => ("403 Forbidden", format!("Refused: {what}.").into()),
        }
    }

    /// Whether it answers a token that is not the one that is wanted.
    pub(super) fn is_wrong_token(self, head: &RequestHead) -> bool {
        self == Self::TokenWanted && head.fields().contains("authorization")
    }

    /// The field lines that only this refusal has.
    fn fields(self, head: Option<&RequestHead>) -> String {
        // Basic makes a browser ask its user, again and again if a script asks. Scripts that say so ask
        // for the token themselves.
        let scripted = head.is_some_and(|head| head.fields().contains("x-requested-with"));
        if let Self::Method(methods) = self {
            format!("Allow: {methods}\r\n")
        } else if self != Self::TokenWanted {
            String::new()
        } else if scripted {
            BEARER.to_owned()
        } else {
            [BASIC, BEARER].concat()
        }
    }
}

/// The whole answer; `head` is the request it answers, if one could be read.
pub(super) fn answer(refused: Refused, head: Option<&RequestHead>) -> Vec<u8> {
    let (status, sentence) = match head {
        Some(head) if refused.is_wrong_token(head) => {
            ("401 Unauthorized", "This is not the admin token.".into())
        }
        Some(_) | None => refused.words(),
    };
    let fields = refused.fields(head);
    let length = sentence.len() + 1;
    let mut text = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nServer: {}\r\n{fields}Cache-Control: no-store\r\n\
         Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Length: {length}\r\n\r\n",
        env!("CARGO_PKG_NAME")
    );
    match head.map_or(BodyWanted::Yes, |head| BodyWanted::by_method(head.method())) {
        BodyWanted::Yes => {
            text.push_str(&sentence);
            text.push('\n');
        }
        BodyWanted::HeadRequest => {}
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::head::ResponseHead;

    #[test]
    fn every_refusal_is_a_well_formed_response_that_closes() {
        for refused in [
            Refused::Head(HeadError::Malformed("what")),
            Refused::Head(HeadError::TooLarge),
            Refused::Head(HeadError::VersionUnsupported),
            Refused::TooSlow,
            Refused::Body,
            Refused::Method("GET, HEAD"),
            Refused::TokenWanted,
            Refused::CrossSite("what"),
            Refused::Unavailable,
        ] {
            let text = answer(refused, None);
            let end = text
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
                .unwrap()
                + 4;
            let head = ResponseHead::parse(text[..end].to_vec()).unwrap();
            assert!(head.fields().has_member("connection", "close"));
            let length = (text.len() - end).to_string();
            assert!(head.fields().has_member("content-length", &length));
        }
    }

    #[test]
    fn a_browser_asks_for_the_token_unless_a_script_does() {
        let schemes = |field: &str| {
            let request = format!("GET /status HTTP/1.1\r\nHost: h\r\n{field}\r\n");
            let head = RequestHead::parse(request.into_bytes()).unwrap();
            let text = answer(Refused::TokenWanted, Some(&head));
            let text = String::from_utf8(text).unwrap();
            (text.contains("Basic realm"), text.contains("Bearer realm"))
        };
        assert_eq!(schemes(""), (true, true));
        assert_eq!(schemes("X-Requested-With: status-page\r\n"), (false, true));
    }

    #[test]
    fn a_head_request_gets_a_head_alone() {
        let head = RequestHead::parse(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()).unwrap();
        let text = answer(Refused::Unknown, Some(&head));
        assert!(text.ends_with(b"\r\n\r\n"));
    }
}
