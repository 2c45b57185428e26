//! The answers of the front itself: what is refused, and why.

use crate::protocol::answer::BodyWanted;
use crate::protocol::head::{HeadError, RequestHead};

use super::gate::Denied;

/// Why the front answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The head cannot be used.
    Head(HeadError),
    /// The head did not come in time.
    TooSlow,
    /// The request must not pass.
    Denied(Denied),
    /// There is no server behind the front.
    Unavailable,
}

struct Row {
    status: &'static str,
    /// A field line or nothing.
    field: String,
    sentence: String,
}

fn row(status: &'static str, sentence: impl Into<String>) -> Row {
    Row {
        status,
        field: String::new(),
        sentence: sentence.into(),
    }
}

impl Refused {
    fn row(self) -> Row {
        match self {
            Self::Head(HeadError::Malformed(what)) => {
                let sentence = format!("The request head is malformed: {what}.");
                row("400 Bad Request", sentence)
            }
            Self::Head(HeadError::RequestLineTooLong | HeadError::TooLarge) => row(
                "431 Request Header Fields Too Large",
                "The request head is larger than 8 KiB.",
            ),
            Self::Head(HeadError::VersionUnsupported) => row(
                "505 HTTP Version Not Supported",
                "This server speaks HTTP/1.0 and HTTP/1.1.",
            ),
            Self::TooSlow => row(
                "408 Request Timeout",
                "The request head did not come within 5 seconds.",
            ),
            Self::Denied(denied) => denied_row(denied),
            Self::Unavailable => row(
                "503 Service Unavailable",
                "The admin server lacks resources; the log has the details.",
            ),
        }
    }
}

fn denied_row(denied: Denied) -> Row {
    match denied {
        Denied::Malformed(what) => row("400 Bad Request", format!("Not understood: {what}.")),
        Denied::Body => row(
            "413 Content Too Large",
            "Nothing here wants a body: send the request without one.",
        ),
        Denied::Unknown => row("404 Not Found", "There is nothing at this path."),
        Denied::Method(methods) => Row {
            field: format!("Allow: {methods}\r\n"),
            ..row("405 Method Not Allowed", format!("Only {methods} here."))
        },
        Denied::TokenWanted => Row {
            field: "WWW-Authenticate: Basic realm=\"http-proxy-lb\", charset=\"UTF-8\"\r\n\
                    WWW-Authenticate: Bearer realm=\"http-proxy-lb\"\r\n"
                .to_owned(),
            ..row(
                "401 Unauthorized",
                "The admin token is wanted: as Bearer token, or as the password of any user.",
            )
        },
        Denied::ActionsOff => row(
            "403 Forbidden",
            "Actions need a token: set admin_token or admin_token_file in the configuration.",
        ),
        Denied::CrossSite(what) => row("403 Forbidden", format!("Refused: {what}.")),
    }
}

/// The whole answer; `head` is the request it answers, if one could be read.
pub(super) fn answer(refused: Refused, head: Option<&RequestHead>) -> Vec<u8> {
    let Row {
        status,
        field,
        sentence,
    } = refused.row();
    let length = sentence.len() + 1;
    let mut text = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nServer: {}\r\n{field}Cache-Control: no-store\r\n\
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
            Refused::Denied(Denied::Body),
            Refused::Denied(Denied::Method("GET, HEAD")),
            Refused::Denied(Denied::TokenWanted),
            Refused::Denied(Denied::CrossSite("what")),
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
    fn a_head_request_gets_a_head_alone() {
        let head = RequestHead::parse(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()).unwrap();
        let text = answer(Refused::Denied(Denied::Unknown), Some(&head));
        assert!(text.ends_with(b"\r\n\r\n"));
    }
}
