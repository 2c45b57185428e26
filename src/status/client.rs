//! One GET to the admin server of a running relay.

use std::io;
use std::time::Duration;

use ureq::{Error, Timeout};

use crate::config::secret::Secret;
use crate::protocol::target::Authority;

const USER_AGENT: &str = concat!("http-proxy-lb/", env!("CARGO_PKG_VERSION"));

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for the name and the connection, so that it is told which of them did not come.
const PATIENCE_TO_CONNECT: Duration = Duration::from_millis(9_999);
/// The largest head that is read, in bytes.
const HEAD: usize = 64 * 1024;
/// The largest body that is read, in bytes.
const MOST: u64 = 64 * 1024 * 1024;

/// Why there is no answer when something else came, or too much.
pub(super) const NOT_UNDERSTOOD: &str = "the answer is no HTTP: is this the admin server?";
const NO_ADDRESS: &str = "the name cannot be resolved";
const REFUSED: &str = "the connection is refused: is the relay running, with this `admin_listen`?";
const NOT_TAKEN: &str = "nobody answers";
const UNREACHABLE: &str = "it cannot be reached";
const BROKEN: &str = "the connection ended before the answer";

/// The status and the body of what `server` has at `path`, or in words why there is no answer.
pub(super) fn get(
    server: &Authority,
    path: &str,
    token: Option<&Secret>,
) -> Result<(u16, Vec<u8>), String> {
    // What the environment says of proxies, and redirects, would lead the token elsewhere.
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_resolve(Some(PATIENCE_TO_CONNECT))
        .timeout_connect(Some(PATIENCE_TO_CONNECT))
        .timeout_global(Some(PATIENCE))
        .max_response_header_size(HEAD)
        .user_agent(USER_AGENT)
        .build();
    let mut request = ureq::Agent::new_with_config(config)
        .get(format!("http://{server}{path}"))
        .header("Connection", "close");
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {}", token.expose()));
    }
    let response = request.call().map_err(|error| why(&error))?;
    let status = response.status().as_u16();
    let body = response.into_body().into_with_config().limit(MOST);
    let body = body.read_to_vec().map_err(|error| why(&error))?;
    Ok((status, body))
}

fn why(error: &Error) -> String {
    let words = if let Error::Timeout(Timeout::Resolve) | Error::HostNotFound = error {
        NO_ADDRESS
    } else if let Error::Timeout(Timeout::Connect) = error {
        NOT_TAKEN
    } else if let Error::Timeout(_) = error {
        return format!("no answer within {} s", PATIENCE.as_secs());
    } else if let Error::Io(error) = error {
        failed(error)
    } else {
        NOT_UNDERSTOOD
    };
    words.to_owned()
}

/// What an error of a socket means, or of looking a name up, which is none of the system's numbers.
fn failed(error: &io::Error) -> &'static str {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let kind = error.kind();
    if kind == io::ErrorKind::ConnectionRefused {
        REFUSED
    } else if [
        UnexpectedEof,
        ConnectionReset,
        ConnectionAborted,
        BrokenPipe,
    ]
    .contains(&kind)
    {
        BROKEN
    } else if error.raw_os_error().is_some() {
        UNREACHABLE
    } else {
        NO_ADDRESS
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::thread;

    use super::super::tests::read_head;
    use super::*;

    /// What becomes of a request that is answered with this, and what was sent.
    fn answered_with(answer: &'static str) -> (Result<(u16, Vec<u8>), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = move || {
            let (mut stream, _) = listener.accept().unwrap();
            let head = read_head(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(head).unwrap()
        };
        let serving = thread::Builder::new().spawn(serve).unwrap();
        let server = Authority::parse(address.as_bytes(), None).unwrap();
        let got = get(&server, "/status", Some(&Secret::new("sesame")));
        (got, serving.join().unwrap())
    }

    fn check(answer: &'static str, expected: Result<(u16, &str), &str>) {
        let expected = expected
            .map(|(status, body)| (status, body.as_bytes().to_vec()))
            .map_err(str::to_owned);
        assert_eq!(answered_with(answer).0, expected, "{answer}");
    }

    #[test]
    fn a_response_is_taken_whole_or_not_at_all() {
        check("HTTP/1.1 200 OK\r\n\r\n{}", Ok((200, "{}")));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        check(chunked, Ok((200, "{}")));
        check("", Err(BROKEN));
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            Err(BROKEN),
        );
        check("SSH-2.0-OpenSSH\r\n", Err(NOT_UNDERSTOOD));
    }

    #[test]
    fn a_redirect_is_not_followed() {
        let answer =
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        check(answer, Ok((302, "")));
    }

    #[test]
    fn the_token_is_sent_to_the_server_that_was_named() {
        let (_, head) = answered_with("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert!(head.starts_with("GET /status HTTP/1.1\r\n"), "{head}");
        let field = "\r\nauthorization: bearer sesame\r\n";
        assert!(head.to_lowercase().contains(field), "{head}");
    }

    #[test]
    fn each_failure_has_its_words() {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, Other};
        for (error, expected) in [
            (Error::Timeout(Timeout::Resolve), NO_ADDRESS),
            (Error::Timeout(Timeout::Connect), NOT_TAKEN),
            (Error::Timeout(Timeout::Global), "no answer within 10 s"),
            (Error::Io(ConnectionRefused.into()), REFUSED),
            (Error::Io(ConnectionReset.into()), BROKEN),
            (Error::Io(Other.into()), NO_ADDRESS),
            (Error::BodyExceedsLimit(MOST), NOT_UNDERSTOOD),
        ] {
            assert_eq!(why(&error), expected, "{error:?}");
        }
        // ENETUNREACH
        let unreachable = Error::Io(io::Error::from_raw_os_error(101));
        assert_eq!(why(&unreachable), UNREACHABLE);
    }
}
