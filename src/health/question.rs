//! One question to an upstream: whether it answers for itself, or whether the probe passes through it.
//!
//! The whole of it, from the look-up of the upstream's name to the last byte of the response head,
//! has one deadline. The environment is ignored: a probe that goes through `http_proxy` would tell
//! about that proxy.
//!
//! Not here: when to ask ([`super::schedule`]), what follows from an answer ([`super::rules`]).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Connector, TcpConnector};

use crate::balance::reason::{NO_NAME, NO_NAME_IN_TIME};
use crate::balance::upstream::UpstreamSpec;
use crate::config::health::{HealthCheck, ProbeTarget};
use crate::net::dial;
use crate::protocol::proxy_header;
use crate::protocol::socks::SocksError;

use super::socks::{Goal, SocksWay, WayEnd};
#[cfg(feature = "tls")]
use super::tls;
use super::transport::{KnownAddresses, PreparedHead};

/// What ureq is told to ask for. Nothing of it is sent.
const PLACEHOLDER: &str = "http://probe.invalid/";

const USER_AGENT: &str = concat!("http-proxy-lb/", env!("CARGO_PKG_VERSION"));

/// A failure that comes so late proves nothing: the whole process stood still meanwhile.
const LATE: Duration = Duration::from_millis(250);

/// What is asked of an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CheckQuestion {
    /// Whether it answers for itself.
    Itself,
    /// Whether the probe passes through it.
    Probe,
}

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CheckAnswer {
    /// This status.
    Status(u16),
    /// No connection could be made, for the reason given.
    CannotConnect(&'static str),
    /// Nothing in time.
    Unanswered,
    /// The end of the connection.
    Closed,
    /// Something that is not HTTP.
    NotHttp,
    /// Of a SOCKS5 proxy: its greeting, and that it takes the credentials if there are any.
    Greeting,
    /// Of a SOCKS5 proxy: that it does not take the credentials, or wants some.
    LoginRefused,
    /// Of a SOCKS5 proxy: something that is not SOCKS5.
    NotSocks,
    /// This process could not ask, which proves nothing.
    NotAsked,
}

/// Finds the addresses of an upstream until the deadline.
pub(super) type Resolve<'r> = &'r dyn Fn(&UpstreamSpec, Instant) -> io::Result<Vec<SocketAddr>>;

/// How long an answer may take: each question gets half of the time of a check.
pub(super) fn limit(health: &HealthCheck) -> Duration {
    health.timeout / 2
}

/// Asks an upstream. Blocks for at most `limit`.
pub(super) fn ask(
    spec: &UpstreamSpec,
    (question, target): (CheckQuestion, &ProbeTarget),
    limit: Duration,
    resolve: Resolve<'_>,
) -> CheckAnswer {
    let begun = Instant::now();
    let deadline = begun + limit;
    let answer = match resolve(spec, deadline) {
        Ok(addresses) => {
            let left = deadline.saturating_duration_since(Instant::now());
            let prepared = prepare(spec, (question, target), deadline);
            #[cfg(feature = "tls")]
            let prepared = prepared.over(spec.tls.clone());
            send(addresses, &prepared, left)
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            CheckAnswer::CannotConnect(NO_NAME_IN_TIME)
        }
        Err(_) => CheckAnswer::CannotConnect(NO_NAME),
    };
    let has_answered = matches!(answer, CheckAnswer::Status(_) | CheckAnswer::Greeting);
    if !has_answered && begun.elapsed() > limit + LATE {
        // An answer may lie unread: this process did not run when it should have.
        return CheckAnswer::NotAsked;
    }
    answer
}

/// What is sent, and how far the way is to be opened before, if the upstream speaks SOCKS5.
fn prepare(
    spec: &UpstreamSpec,
    (question, target): (CheckQuestion, &ProbeTarget),
    deadline: Instant,
) -> PreparedHead {
    let goal = match (question, target) {
        (CheckQuestion::Itself, _) | (CheckQuestion::Probe, ProbeTarget::Nothing) => Goal::Itself,
        (CheckQuestion::Probe, ProbeTarget::Get { authority, .. }) => Goal::Beyond(authority),
        (CheckQuestion::Probe, ProbeTarget::Connect(authority)) => Goal::Target(authority),
    };
    let way = spec.is_socks().then(|| SocksWay::new(spec, goal, deadline));
    let mut first = Vec::new();
    if let (Some(version), false) = (spec.told.proxy_header, spec.is_socks()) {
        proxy_header::write(version, None, &mut first);
    }
    first.extend(head(spec, question, target));
    PreparedHead::new(first, way)
}

/// What is sent over the connection. To ask whether an upstream answers for itself, a request in origin-form to its own
/// address, which no forward proxy passes on; for the probe, one in absolute-form, or a CONNECT. Through a
/// SOCKS5 proxy it is the target itself that is asked.
fn head(spec: &UpstreamSpec, question: CheckQuestion, target: &ProbeTarget) -> Vec<u8> {
    let credentials = spec.credentials.as_ref();
    let (line, authority, default_port, credentials) = match (question, target) {
        (CheckQuestion::Itself, _) | (CheckQuestion::Probe, ProbeTarget::Nothing) => {
            ("GET /".to_owned(), &spec.authority, 80, None)
        }
        (
            CheckQuestion::Probe,
            ProbeTarget::Get {
                authority,
                path_and_query,
            },
        ) if spec.is_socks() => (format!("GET {path_and_query}"), authority, 80, None),
        (CheckQuestion::Probe, ProbeTarget::Get { authority, .. }) => {
            (format!("GET {target}"), authority, 80, credentials)
        }
        (CheckQuestion::Probe, ProbeTarget::Connect(authority)) => {
            (format!("CONNECT {authority}"), authority, 443, credentials)
        }
    };
    let mut head = format!("{line} HTTP/1.1\r\nHost: ").into_bytes();
    authority.write_as_host_field(default_port, &mut head);
    head.extend(format!("\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\n").bytes());
    if let Some(credentials) = credentials {
        let value = credentials.authorization();
        head.extend(format!("Proxy-Authorization: {value}\r\n").bytes());
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

/// Sends a head to the first address that takes it.
fn send(addresses: Vec<SocketAddr>, prepared: &PreparedHead, left: Duration) -> CheckAnswer {
    if left.is_zero() {
        return CheckAnswer::Unanswered;
    }
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .timeout_global(Some(left))
        .max_redirects(0)
        .http_status_as_error(false)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        .output_buffer_size(prepared.len().max(4096))
        .build();
    let connector = ().chain(TcpConnector::default());
    #[cfg(feature = "tls")]
    let connector = connector.chain(prepared.tls.clone());
    let connector = connector.chain(prepared.clone());
    let agent = ureq::Agent::with_parts(config, connector, KnownAddresses(addresses));
    match agent.get(PLACEHOLDER).call() {
        Ok(response) => CheckAnswer::Status(response.status().as_u16()),
        Err(error) => match prepared.way_end() {
            Some(end) => what_socks_said(end),
            None if prepared.is_connected() => no_answer(&error),
            None => no_connection(&error),
        },
    }
}

/// A target that is refused has the status with which an HTTP proxy would answer CONNECT.
fn what_socks_said(end: WayEnd) -> CheckAnswer {
    match end {
        WayEnd::Greeting => CheckAnswer::Greeting,
        WayEnd::Open => CheckAnswer::Status(200),
        WayEnd::Failed(SocksError::NotSocks) => CheckAnswer::NotSocks,
        WayEnd::Failed(SocksError::LoginRefused) => CheckAnswer::LoginRefused,
        WayEnd::Failed(SocksError::Refused(refusal)) => CheckAnswer::Status(refusal.status()),
    }
}

fn no_answer(error: &ureq::Error) -> CheckAnswer {
    match (error, io_kind(error)) {
        // The whole process was stopped meanwhile.
        (_, Some(io::ErrorKind::Interrupted)) => CheckAnswer::NotAsked,
        (_, Some(_)) => CheckAnswer::Closed,
        (ureq::Error::Timeout(_), None) => CheckAnswer::Unanswered,
        (_, None) => CheckAnswer::NotHttp,
    }
}

fn no_connection(error: &ureq::Error) -> CheckAnswer {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable};
    #[cfg(feature = "tls")]
    if let Some(failure) = tls::failure_of(error) {
        return CheckAnswer::CannotConnect(failure.of_upstream());
    }
    CheckAnswer::CannotConnect(match (error, io_kind(error)) {
        (_, Some(Interrupted)) => return CheckAnswer::NotAsked,
        (ureq::Error::Io(error), _) if dial::is_exhaustion(error) => return CheckAnswer::NotAsked,
        (_, Some(ConnectionRefused)) => "connection refused",
        (_, Some(HostUnreachable | NetworkUnreachable)) => "unreachable",
        (ureq::Error::Timeout(_), None) => "no connection in time",
        (ureq::Error::HostNotFound, None) => NO_NAME,
        (_, _) => "the connection could not be opened",
    })
}

fn io_kind(error: &ureq::Error) -> Option<io::ErrorKind> {
    if let ureq::Error::Io(error) = error {
        Some(error.kind())
    } else {
        None
    }
}

/// What an upstream did with a question, behind its name.
impl fmt::Display for CheckAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "got {status}"),
            Self::CannotConnect(what) => write!(f, "cannot be connected to: {what}"),
            Self::Unanswered => f.write_str("got no answer"),
            Self::Closed => f.write_str("closed the connection"),
            Self::NotHttp => f.write_str("got something that is not HTTP"),
            Self::Greeting => f.write_str("greeted"),
            Self::LoginRefused => f.write_str("got its credentials refused"),
            Self::NotSocks => f.write_str("got something that is not SOCKS5"),
            Self::NotAsked => f.write_str("could not be asked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread::{self, JoinHandle};

    use crate::balance::upstream::UpstreamProtocol;
    use crate::protocol::credentials::Credentials;
    use crate::protocol::target::Authority;

    use super::*;

    /// Long enough for any machine; no test waits for it.
    const AMPLE: Duration = Duration::from_secs(60);

    /// Short, for tests that wait for it.
    const SHORT: Duration = Duration::from_millis(300);

    const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

    fn spec(address: SocketAddr, credentials: Option<Credentials>) -> UpstreamSpec {
        UpstreamSpec {
            name: "a".into(),
            credentials,
            ..UpstreamSpec::new(
                UpstreamProtocol::Http,
                Authority::parse(address.to_string().as_bytes(), None).unwrap(),
            )
        }
    }

    fn target(url: &str) -> ProbeTarget {
        let (authority, path) = url.split_once('/').unwrap();
        ProbeTarget::Get {
            authority: Authority::parse(authority.as_bytes(), Some(80)).unwrap(),
            path_and_query: format!("/{path}"),
        }
    }

    /// Reads up to the blank line.
    fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    /// An upstream that takes one connection, reads a head and does what it is told; gives the
    /// head.
    fn upstream(act: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::Builder::new().spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let head = read_head(&mut stream);
            act(stream);
            head
        });
        (address, thread.unwrap())
    }

    fn run(spec: &UpstreamSpec, target: &ProbeTarget, limit: Duration) -> CheckAnswer {
        let address = spec.authority.to_string().parse().unwrap();
        ask(spec, (CheckQuestion::Probe, target), limit, &|_, _| {
            Ok(vec![address])
        })
    }

    fn check_answer(answer: &'static [u8], expected: CheckAnswer) {
        let (address, thread) = upstream(move |mut stream| stream.write_all(answer).unwrap());
        let result = run(
            &spec(address, None),
            &target("probe.test/generate_204"),
            AMPLE,
        );
        assert_eq!(result, expected, "{}", String::from_utf8_lossy(answer));
        thread.join().unwrap();
    }

    fn check_head(
        (question, target): (CheckQuestion, &ProbeTarget),
        credentials: Option<Credentials>,
        expected: &str,
    ) {
        let (address, thread) = upstream(|mut stream| stream.write_all(NO_CONTENT).unwrap());
        let spec = spec(address, credentials);
        let answer = ask(&spec, (question, target), AMPLE, &|_, _| Ok(vec![address]));
        assert_eq!(answer, CheckAnswer::Status(204));
        let expected = expected
            .replace("VERSION", env!("CARGO_PKG_VERSION"))
            .replace("OWN", &address.to_string());
        assert_eq!(thread.join().unwrap(), expected);
    }

    /// Asks a SOCKS5 proxy that says `replies`, each behind as many bytes as stand before it; gives the answer
    /// and all that it was told.
    fn ask_socks(
        (question, target): (CheckQuestion, &ProbeTarget),
        credentials: Option<Credentials>,
        replies: Vec<(usize, &'static [u8])>,
    ) -> (CheckAnswer, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::Builder::new().spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut told = Vec::new();
            for (length, reply) in replies {
                let mut message = vec![0; length];
                stream.read_exact(&mut message).unwrap();
                told.extend(message);
                stream.write_all(reply).unwrap();
            }
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream.read_to_end(&mut told).unwrap();
            told
        });
        let spec = UpstreamSpec {
            protocol: UpstreamProtocol::Socks5,
            ..spec(address, credentials)
        };
        let answer = ask(&spec, (question, target), AMPLE, &|_, _| Ok(vec![address]));
        (answer, server.unwrap().join().unwrap())
    }

    #[test]
    fn a_socks5_proxy_answers_for_itself_by_its_greeting_and_its_login() {
        let target = target("probe.test/");
        let ask = |credentials, replies| {
            ask_socks((CheckQuestion::Itself, &target), credentials, replies)
        };
        let bob = || Some(Credentials::basic("bob", "se"));
        let (greeting, login) = (
            b"\x05\x01\x00".to_vec(),
            b"\x05\x02\x00\x02\x01\x03bob\x02se",
        );
        assert_eq!(
            ask(None, vec![(3, &b"\x05\x00"[..])]),
            (CheckAnswer::Greeting, greeting.clone())
        );
        assert_eq!(
            ask(bob(), vec![(4, &b"\x05\x02"[..]), (8, b"\x01\x00")]),
            (CheckAnswer::Greeting, login.to_vec())
        );
        assert_eq!(
            ask(bob(), vec![(4, &b"\x05\x02"[..]), (8, b"\x01\x01")]).0,
            CheckAnswer::LoginRefused
        );
        let refused = (CheckAnswer::LoginRefused, greeting.clone());
        assert_eq!(ask(None, vec![(3, &b"\x05\xff"[..])]), refused);
        let odd = (CheckAnswer::NotSocks, greeting.clone());
        assert_eq!(
            ask(None, vec![(3, &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..])]),
            odd
        );
        assert_eq!(
            ask(None, vec![(3, &b""[..])]),
            (CheckAnswer::Closed, greeting)
        );
    }

    #[test]
    fn a_probe_goes_through_a_socks5_proxy_to_its_target() {
        let target = target("probe.test/x?y");
        let ask = |replies| ask_socks((CheckQuestion::Probe, &target), None, replies);
        let opened = &b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"[..];
        let (answer, told) = ask(vec![(3, &b"\x05\x00"[..]), (17, opened), (1, NO_CONTENT)]);
        assert_eq!(answer, CheckAnswer::Status(204));
        let head = format!(
            "GET /x?y HTTP/1.1\r\nHost: probe.test\r\nUser-Agent: {USER_AGENT}\r\n\
             Accept: */*\r\nConnection: close\r\n\r\n"
        );
        let way = b"\x05\x01\x00\x05\x01\x00\x03\x0aprobe.test\x00\x50";
        assert_eq!(told, [way, head.as_bytes()].concat());
        let (answer, told) = ask(vec![(3, &b"\x05\x00"[..]), (17, b"\x05\x02")]);
        assert_eq!((answer, told), (CheckAnswer::Status(403), way.to_vec()));
        let (answer, _) = ask(vec![(3, &b"\x05\x00"[..]), (17, opened)]);
        assert_eq!(answer, CheckAnswer::Closed);
    }

    #[test]
    fn a_probe_of_an_https_target_is_what_a_socks5_proxy_says_to_it() {
        let target = ProbeTarget::Connect(Authority::parse(b"probe.test:443", None).unwrap());
        let ask = |reply| {
            let (answer, told) = ask_socks((CheckQuestion::Probe, &target), None, reply);
            assert_eq!(told, b"\x05\x01\x00\x05\x01\x00\x03\x0aprobe.test\x01\xbb");
            answer
        };
        let opened = ask(vec![
            (3, &b"\x05\x00"[..]),
            (17, b"\x05\x00\x00\x03\x01a\x00\x00"),
        ]);
        assert_eq!(opened, CheckAnswer::Status(200));
        for (replies, status) in [
            (vec![(3, &b"\x05\x00"[..]), (17, &b"\x05\x04"[..])], 502),
            (vec![(3, &b"\x05\x00"[..]), (17, b"\x05\x06")], 504),
        ] {
            assert_eq!(ask(replies), CheckAnswer::Status(status));
        }
    }

    /// No forward proxy passes it on.
    #[test]
    fn the_question_for_the_upstream_itself_is_in_origin_form_and_without_credentials() {
        check_head(
            (CheckQuestion::Itself, &target("probe.test/")),
            Some(Credentials::basic("user", "p@ss")),
            "GET / HTTP/1.1\r\n\
             Host: OWN\r\n\
             User-Agent: http-proxy-lb/VERSION\r\n\
             Accept: */*\r\n\
             Connection: close\r\n\r\n",
        );
    }

    #[test]
    fn a_probe_of_an_https_target_is_a_connect() {
        let authority = Authority::parse(b"probe.test:443", None).unwrap();
        check_head(
            (CheckQuestion::Probe, &ProbeTarget::Connect(authority)),
            Some(Credentials::basic("user", "p@ss")),
            "CONNECT probe.test:443 HTTP/1.1\r\n\
             Host: probe.test\r\n\
             User-Agent: http-proxy-lb/VERSION\r\n\
             Accept: */*\r\n\
             Proxy-Authorization: Basic dXNlcjpwQHNz\r\n\
             Connection: close\r\n\r\n",
        );
    }

    #[test]
    fn a_probe_is_a_get_in_absolute_form_with_the_credentials_of_the_upstream() {
        check_head(
            (
                CheckQuestion::Probe,
                &target("connectivity.test/generate_204?x=1"),
            ),
            Some(Credentials::basic("user", "p@ss")),
            "GET http://connectivity.test/generate_204?x=1 HTTP/1.1\r\n\
             Host: connectivity.test\r\n\
             User-Agent: http-proxy-lb/VERSION\r\n\
             Accept: */*\r\n\
             Proxy-Authorization: Basic dXNlcjpwQHNz\r\n\
             Connection: close\r\n\r\n",
        );
    }

    #[test]
    fn without_credentials_none_are_sent_and_a_port_is_told() {
        check_head(
            (CheckQuestion::Probe, &target("[2001:db8::1]:8080/")),
            None,
            "GET http://[2001:db8::1]:8080/ HTTP/1.1\r\n\
             Host: [2001:db8::1]:8080\r\n\
             User-Agent: http-proxy-lb/VERSION\r\n\
             Accept: */*\r\n\
             Connection: close\r\n\r\n",
        );
    }

    #[test]
    fn a_long_path_is_sent_whole() {
        let path = "x".repeat(200_000);
        let (address, thread) = upstream(|mut stream| stream.write_all(NO_CONTENT).unwrap());
        let target = target(&format!("probe.test/{path}"));
        let answer = run(&spec(address, None), &target, AMPLE);
        assert_eq!(answer, CheckAnswer::Status(204));
        assert!(
            thread
                .join()
                .unwrap()
                .starts_with(&format!("GET http://probe.test/{path} HTTP"))
        );
    }

    #[test]
    fn the_environment_names_no_proxy_for_probes() {
        let name = "a_probe_is_a_get_in_absolute_form_with_the_credentials_of_the_upstream";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([
            &format!("health::question::tests::{name}"),
            "--exact",
            "--color=never",
        ]);
        for variable in [
            "http_proxy",
            "HTTP_PROXY",
            "https_proxy",
            "all_proxy",
            "ALL_PROXY",
        ] {
            child.env(variable, "http://127.0.0.1:1");
        }
        let output = child.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && told.contains("1 passed"),
            "{told}"
        );
    }

    #[test]
    fn the_status_is_told_in_any_version() {
        check_answer(NO_CONTENT, CheckAnswer::Status(204));
        check_answer(b"HTTP/1.0 204 OK\r\n\r\n", CheckAnswer::Status(204));
        check_answer(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            CheckAnswer::Status(204),
        );
    }

    #[test]
    fn another_status_is_told_and_a_redirect_is_not_followed() {
        let got = CheckAnswer::Status;
        check_answer(
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
            got(302),
        );
        check_answer(
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            got(403),
        );
        check_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", got(200));
        check_answer(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", got(502));
    }

    #[test]
    fn what_is_not_http_is_malformed() {
        check_answer(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", CheckAnswer::NotHttp);
        check_answer(b"HTTP/1.1 abc\r\n\r\n", CheckAnswer::NotHttp);
    }

    #[test]
    fn an_end_before_the_whole_head_is_told() {
        check_answer(b"", CheckAnswer::Closed);
        check_answer(b"HTTP/1.1 204 No Cont", CheckAnswer::Closed);
    }

    #[test]
    fn a_silent_upstream_has_the_timeout_and_no_more() {
        let (release, held) = mpsc::channel::<()>();
        let (address, thread) = upstream(move |stream| {
            held.recv().unwrap_err();
            drop(stream);
        });
        let result = run(&spec(address, None), &target("probe.test/"), SHORT);
        assert_eq!(result, CheckAnswer::Unanswered);
        drop(release);
        thread.join().unwrap();
    }

    #[test]
    fn an_upstream_that_drips_has_the_timeout_and_no_more() {
        let (release, held) = mpsc::channel::<()>();
        let (address, thread) = upstream(move |mut stream| {
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\nX-Drip: ")
                .unwrap();
            while held.recv_timeout(SHORT / 10) == Err(mpsc::RecvTimeoutError::Timeout) {
                if stream.write_all(b"x").is_err() {
                    break;
                }
            }
        });
        let result = run(&spec(address, None), &target("probe.test/"), SHORT);
        assert_eq!(result, CheckAnswer::Unanswered);
        drop(release);
        thread.join().unwrap();
    }

    #[test]
    fn an_endless_head_of_an_answer_fails_the_probe() {
        let endless = [
            b"HTTP/1.1 204 No Content\r\n".as_slice(),
            &b"X-Field: x\r\n".repeat(50_000),
        ];
        let endless = endless.concat();
        // It is not all taken.
        let (address, thread) = upstream(move |mut stream| drop(stream.write_all(&endless)));
        let result = run(
            &spec(address, None),
            &target("probe.test/generate_204"),
            AMPLE,
        );
        assert_eq!(result, CheckAnswer::NotHttp);
        thread.join().unwrap();
    }

    #[test]
    fn a_refused_connection_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let result = run(&spec(address, None), &target("probe.test/"), AMPLE);
        assert_eq!(result, CheckAnswer::CannotConnect("connection refused"));
    }

    #[test]
    fn a_second_address_is_tried_when_the_first_refuses() {
        let (address, thread) = upstream(|mut stream| stream.write_all(NO_CONTENT).unwrap());
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = vec![closed.local_addr().unwrap(), address];
        drop(closed);
        let result = ask(
            &spec(address, None),
            (CheckQuestion::Probe, &target("probe.test/")),
            AMPLE,
            &|_, _| Ok(addresses.clone()),
        );
        assert_eq!(result, CheckAnswer::Status(204));
        thread.join().unwrap();
    }

    #[test]
    fn a_name_that_cannot_be_resolved_is_told() {
        let spec = spec("192.0.2.1:80".parse().unwrap(), None);
        let target = target("probe.test/");
        let resolving =
            |resolve: Resolve<'_>| ask(&spec, (CheckQuestion::Probe, &target), AMPLE, resolve);
        let failed = |kind: io::ErrorKind| resolving(&|_, _| Err(kind.into()));
        let told = CheckAnswer::CannotConnect;
        assert_eq!(
            failed(io::ErrorKind::TimedOut),
            told("its name was not resolved in time")
        );
        assert_eq!(
            failed(io::ErrorKind::NotFound),
            told("its name cannot be resolved")
        );
        let nowhere = resolving(&|_, _| Ok(Vec::new()));
        assert_eq!(nowhere, told("its name cannot be resolved"));
    }

    #[test]
    fn resolving_and_asking_share_one_deadline() {
        let spec = spec("192.0.2.1:80".parse().unwrap(), None);
        let target = target("probe.test/");
        let result = ask(
            &spec,
            (CheckQuestion::Probe, &target),
            Duration::ZERO,
            &|_, _| Ok(vec!["192.0.2.1:80".parse().unwrap()]),
        );
        assert_eq!(result, CheckAnswer::Unanswered);
    }

    /// The whole process may have been stopped meanwhile, with the answer in the socket.
    #[test]
    fn a_time_out_that_comes_late_proves_nothing() {
        let spec = spec("192.0.2.1:80".parse().unwrap(), None);
        let stopped = |_: &UpstreamSpec, _| {
            thread::park_timeout(LATE + SHORT);
            Err(io::ErrorKind::TimedOut.into())
        };
        let target = target("probe.test/");
        let result = ask(
            &spec,
            (CheckQuestion::Probe, &target),
            Duration::ZERO,
            &stopped,
        );
        assert_eq!(result, CheckAnswer::NotAsked);
    }

    #[test]
    fn ureq_is_told_neither_target_nor_credentials() {
        let prepared =
            PreparedHead::new(b"GET http://secret.test/ HTTP/1.1\r\n\r\n".to_vec(), None);
        assert!(!format!("{prepared:?}").contains("secret"));
        assert!(!PLACEHOLDER.contains("secret"));
    }
}
