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

const BASIC: &str = "WWW-Authenticate: Basic realm=\"http-proxy-lb\", charset=\"UTF-8\"\r\n";
const BEARER: &str = "WWW-Authenticate: Bearer realm=\"http-proxy-lb\"\r\n";

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
            field: format!("{BASIC}{BEARER}"),
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
    // Basic makes a browser ask its user, again and again if a script asks. Scripts that say so ask
    // for the token themselves.
    let scripted = head.is_some_and(|head| head.fields().contains("x-requested-with"));
    let field = if scripted {
        field.replace(BASIC, "")
    } else {
        field
    };
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
    fn a_browser_asks_for_the_token_unless_a_script_does() {
        let schemes = |field: &str| {
            let request = format!("GET /status HTTP/1.1\r\nHost: h\r\n{field}\r\n");
            let head = RequestHead::parse(request.into_bytes()).unwrap();
            let text = answer(Refused::Denied(Denied::TokenWanted), Some(&head));
            let text = String::from_utf8(text).unwrap();
            (text.contains("Basic realm"), text.contains("Bearer realm"))
        };
        assert_eq!(schemes(""), (true, true));
        assert_eq!(schemes("X-Requested-With: status-page\r\n"), (false, true));
    }

    #[test]
    fn a_head_request_gets_a_head_alone() {
        let head = RequestHead::parse(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()).unwrap();
        let text = answer(Refused::Denied(Denied::Unknown), Some(&head));
        assert!(text.ends_with(b"\r\n\r\n"));
    }
}
