//! What the embedded origin answers to which request: a pure function.

use std::time::Duration;

use crate::protocol::framing::Framing;
use crate::protocol::persistence::Persistence;

/// Answered with 204: what probes ask for.
pub(crate) const PROBE_PATH: &str = "/generate_204";
/// Answered with so many bytes as the number behind it says.
pub(crate) const BYTES_PATH: &str = "/bytes/";
/// Answers with what it gets.
pub(crate) const ECHO_PATH: &str = "/echo";
/// Answered after so many seconds as the number behind it says.
const SLOW_PATH: &str = "/slow?";
/// The longest of these.
const SLOWEST: Duration = Duration::from_secs(60);

/// What is answered, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OriginReply {
    /// How long it takes.
    pub(super) after: Duration,
    /// Status code and reason.
    pub(super) status: &'static str,
    /// What comes with it.
    pub(super) content: Content,
}

/// What comes with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Not even a length.
    Nothing,
    /// This.
    Text(String),
    /// So many.
    Bytes(u64),
    /// The request body.
    Echo,
}

impl OriginReply {
    /// The answer to `method` and the origin-form `target`.
    pub(super) fn to(method: &str, target: &[u8], greeting: impl Fn() -> String) -> Self {
        let target = String::from_utf8_lossy(target);
        let number = |start| {
            let digits: Option<&str> = target.strip_prefix(start);
            digits.and_then(|digits| digits.parse::<u64>().ok())
        };
        match (method, &*target) {
            ("GET" | "HEAD", "/") => Self::ok(Content::Text(greeting())),
            ("POST" | "PUT", ECHO_PATH) => Self::ok(Content::Echo),
            ("GET" | "HEAD", PROBE_PATH) => Self {
                status: "204 No Content",
                ..Self::ok(Content::Nothing)
            },
            ("GET" | "HEAD", _) => match (number(BYTES_PATH), number(SLOW_PATH)) {
                (Some(count), _) => Self::ok(Content::Bytes(count)),
                (None, Some(seconds)) => Self {
                    after: Duration::from_secs(seconds).min(SLOWEST),
                    ..Self::ok(Content::Text(greeting()))
                },
                (None, None) => Self::unknown(),
            },
            (_, _) => Self::unknown(),
        }
    }

    fn ok(content: Content) -> Self {
        Self {
            after: Duration::ZERO,
            status: "200 OK",
            content,
        }
    }

    fn unknown() -> Self {
        let known = "There is GET /, /bytes/NUMBER and /slow?SECONDS, and POST /echo.\n";
        Self {
            status: "404 Not Found",
            ..Self::ok(Content::Text(known.to_owned()))
        }
    }

    /// The head, for a request with a body of that framing.
    pub(super) fn head(&self, body: Framing, persistence: Persistence) -> String {
        let length = |count: u64| format!("Content-Length: {count}\r\n");
        let framing = match &self.content {
            Content::Nothing => String::new(),
            Content::Text(text) => length(text.len() as u64),
            Content::Bytes(count) => length(*count),
            Content::Echo => match body {
                Framing::Length(count) => length(count),
                Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
                Framing::Empty | Framing::UntilClose => length(0),
            },
        };
        let connection = match persistence {
            Persistence::KeepAlive => "",
            Persistence::Close(_) => "Connection: close\r\n",
        };
        let status = self.status;
        format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n{framing}{connection}\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &str, status: &str, content: &Content) -> OriginReply {
        let (method, target) = request.split_once(' ').unwrap();
        let reply = OriginReply::to(method, target.as_bytes(), || "hello".to_owned());
        assert_eq!(
            (reply.status, &reply.content),
            (status, content),
            "{request}"
        );
        reply
    }

    #[test]
    fn each_path_does_what_its_name_says() {
        let hello = Content::Text("hello".to_owned());
        check("GET /", "200 OK", &hello);
        check("HEAD /", "200 OK", &hello);
        check("GET /generate_204", "204 No Content", &Content::Nothing);
        check(
            "GET /bytes/5000000000",
            "200 OK",
            &Content::Bytes(5_000_000_000),
        );
        check("POST /echo", "200 OK", &Content::Echo);
        let slow = check("GET /slow?3", "200 OK", &hello);
        assert_eq!(slow.after, Duration::from_secs(3));
        let slow = check("GET /slow?999999", "200 OK", &hello);
        assert_eq!(slow.after, SLOWEST);
    }

    #[test]
    fn anything_else_is_told_what_there_is() {
        for request in [
            "GET /x",
            "GET /bytes/many",
            "GET /echo",
            "DELETE /",
            "POST /",
        ] {
            let (method, target) = request.split_once(' ').unwrap();
            let reply = OriginReply::to(method, target.as_bytes(), String::new);
            assert_eq!(reply.status, "404 Not Found", "{request}");
        }
    }

    #[test]
    fn an_echo_has_the_framing_of_its_request() {
        let reply = check("POST /echo", "200 OK", &Content::Echo);
        for (framing, field) in [
            (Framing::Empty, "Content-Length: 0\r\n"),
            (Framing::Length(7), "Content-Length: 7\r\n"),
            (Framing::Chunked, "Transfer-Encoding: chunked\r\n"),
        ] {
            let head = reply.head(framing, Persistence::KeepAlive);
            assert_eq!(
                head,
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{field}\r\n")
            );
        }
    }

    #[test]
    fn no_content_has_no_length() {
        let reply = check("GET /generate_204", "204 No Content", &Content::Nothing);
        let head = reply.head(Framing::Empty, Persistence::KeepAlive);
        assert!(!head.contains("Content-Length"), "{head}");
    }
}
