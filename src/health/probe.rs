//! One probe: a GET through an upstream, and what its answer means.
//!
//! The whole probe, from the look-up of the upstream's name to the last byte of the response head,
//! has one deadline. The environment is ignored: a probe that goes through `http_proxy` would tell
//! about that proxy.
//!
//! Not here: when to probe ([`super::schedule`]), what follows (the state machine of
//! [`crate::balance::state`]).

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Connector, TcpConnector};

use crate::balance::reason::OfflineReason;
use crate::balance::upstream::UpstreamSpec;
use crate::config::health::{HealthCheck, ProbeTarget};
use crate::net::dial;
use crate::protocol::credentials::Credentials;

use super::transport::{Known, Prepared};

/// What ureq is told to ask for. Nothing of it is sent.
const PLACEHOLDER: &str = "http://probe.invalid/";

const USER_AGENT: &str = concat!("http-proxy-lb/", env!("CARGO_PKG_VERSION"));

/// How much later than it should a probe may end; later, the whole process stood still meanwhile.
const SLACK: Duration = Duration::from_millis(250);

/// Finds the addresses of an upstream until the deadline.
pub(super) type Resolve<'r> = &'r dyn Fn(&UpstreamSpec, Instant) -> io::Result<Vec<SocketAddr>>;

/// Why a probe did not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// It is the upstream's doing.
    Upstream(OfflineReason),
    /// This process had no file descriptor or port left to ask with, or stood still while it waited, which
    /// proves nothing.
    NotAsked,
}

impl From<OfflineReason> for Failure {
    fn from(reason: OfflineReason) -> Self {
        Self::Upstream(reason)
    }
}

/// Probes an upstream. Blocks for at most `health.timeout`.
///
/// # Errors
/// Why the upstream did not pass.
pub(super) fn probe(
    spec: &UpstreamSpec,
    health: &HealthCheck,
    resolve: Resolve<'_>,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let result = run(spec, health, resolve, begun + health.timeout);
    // An answer may lie unread: this process did not run when it should have.
    let stood_still = begun.elapsed() > health.timeout + SLACK;
    result.map_err(|failure| {
        if stood_still {
            Failure::NotAsked
        } else {
            failure
        }
    })
}

fn run(
    spec: &UpstreamSpec,
    health: &HealthCheck,
    resolve: Resolve<'_>,
    deadline: Instant,
) -> Result<(), Failure> {
    let addresses = resolve(spec, deadline).map_err(|error| name_failure(&error))?;
    let left = deadline.saturating_duration_since(Instant::now());
    let head = head(&health.target, spec.credentials.as_ref());
    match (ask(addresses, head, left)?, health.expect_status) {
        (status, expected) if status == expected => Ok(()),
        (407, _) => Err(OfflineReason::Auth.into()),
        (status, _) => Err(OfflineReason::ProbeStatus(status).into()),
    }
}

/// The head of a probe, in absolute-form.
fn head(target: &ProbeTarget, credentials: Option<&Credentials>) -> Vec<u8> {
    let mut authority = Vec::new();
    target.authority.write_as_host_field(80, &mut authority);
    let mut head = Vec::new();
    for part in [
        b"GET http://",
        &authority[..],
        target.path_and_query.as_bytes(),
        b" HTTP/1.1\r\nHost: ",
        &authority[..],
        b"\r\nUser-Agent: ",
        USER_AGENT.as_bytes(),
        b"\r\nAccept: */*\r\n",
    ] {
        head.extend_from_slice(part);
    }
    if let Some(credentials) = credentials {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(credentials.authorization().as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

/// Sends a head to the first address that takes it, and gives the status of the answer.
fn ask(addresses: Vec<SocketAddr>, head: Vec<u8>, left: Duration) -> Result<u16, Failure> {
    if left.is_zero() {
        return Err(OfflineReason::ProbeTimeout.into());
    }
    let prepared = Prepared::new(head);
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .timeout_global(Some(left))
        .max_redirects(0)
        .http_status_as_error(false)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        .output_buffer_size(prepared.len().max(4096))
        .build();
    let connector = ().chain(TcpConnector::default()).chain(prepared.clone());
    let agent = ureq::Agent::with_parts(config, connector, Known(addresses));
    match agent.get(PLACEHOLDER).call() {
        Ok(response) => Ok(response.status().as_u16()),
        // As by a stop and its end: whoever limits the time of a read gets it back so (signal(7)).
        Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {
            Err(Failure::NotAsked)
        }
        Err(error) if prepared.is_connected() => Err(answer_failure(&error).into()),
        Err(ureq::Error::Io(error)) if dial::is_exhaustion(&error) => Err(Failure::NotAsked),
        Err(error) => Err(connect_failure(&error).into()),
    }
}

fn name_failure(error: &io::Error) -> OfflineReason {
    OfflineReason::ProbeConnect(if error.kind() == io::ErrorKind::TimedOut {
        "its name was not resolved in time"
    } else {
        "its name cannot be resolved"
    })
}

fn connect_failure(error: &ureq::Error) -> OfflineReason {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let kind = if let ureq::Error::Io(error) = error {
        Some(error.kind())
    } else {
        None
    };
    OfflineReason::ProbeConnect(if matches!(error, ureq::Error::Timeout(_)) {
        "no connection in time"
    } else if matches!(error, ureq::Error::HostNotFound) {
        "its name cannot be resolved"
    } else if kind == Some(ConnectionRefused) {
        "connection refused"
    } else if matches!(kind, Some(HostUnreachable | NetworkUnreachable)) {
        "unreachable"
    } else {
        "the connection could not be opened"
    })
}

fn answer_failure(error: &ureq::Error) -> OfflineReason {
    if matches!(error, ureq::Error::Timeout(_)) {
        OfflineReason::ProbeTimeout
    } else if matches!(error, ureq::Error::Io(_)) {
        OfflineReason::ProbeClosed
    } else {
        OfflineReason::ProbeMalformed
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread::{self, JoinHandle};

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
            authority: Authority::parse(address.to_string().as_bytes(), None).unwrap(),
            credentials,
            weight: 1,
            priority: 100,
        }
    }

    fn health(url: &str, timeout: Duration) -> HealthCheck {
        let (authority, path) = url.split_once('/').unwrap();
        HealthCheck {
            interval: AMPLE,
            timeout,
            target: ProbeTarget {
                authority: Authority::parse(authority.as_bytes(), Some(80)).unwrap(),
                path_and_query: format!("/{path}"),
            },
            expect_status: 204,
            fall: 1,
            rise: 1,
            online_interval: None,
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

    /// These tests have descriptors enough.
    fn probe(
        spec: &UpstreamSpec,
        health: &HealthCheck,
        resolve: Resolve<'_>,
    ) -> Result<(), OfflineReason> {
        super::probe(spec, health, resolve).map_err(|failure| match failure {
            Failure::Upstream(reason) => reason,
            Failure::NotAsked => panic!("nobody was asked"),
        })
    }

    fn run(spec: &UpstreamSpec, health: &HealthCheck) -> Result<(), OfflineReason> {
        let address = spec.authority.to_string().parse().unwrap();
        probe(spec, health, &|_, _| Ok(vec![address]))
    }

    fn check_answer(answer: &'static [u8], expected: Result<(), OfflineReason>) {
        let (address, thread) = upstream(move |mut stream| stream.write_all(answer).unwrap());
        let result = run(
            &spec(address, None),
            &health("probe.test/generate_204", AMPLE),
        );
        assert_eq!(result, expected, "{}", String::from_utf8_lossy(answer));
        thread.join().unwrap();
    }

    fn check_head(url: &str, credentials: Option<Credentials>, expected: &str) {
        let (address, thread) = upstream(|mut stream| stream.write_all(NO_CONTENT).unwrap());
        assert_eq!(
            run(&spec(address, credentials), &health(url, AMPLE)),
            Ok(())
        );
        let expected = expected.replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(thread.join().unwrap(), expected);
    }

    #[test]
    fn a_probe_is_a_get_in_absolute_form_with_the_credentials_of_the_upstream() {
        check_head(
            "connectivity.test/generate_204?x=1",
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
            "[2001:db8::1]:8080/",
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
        let health = health(&format!("probe.test/{path}"), AMPLE);
        assert_eq!(run(&spec(address, None), &health), Ok(()));
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
            &format!("health::probe::tests::{name}"),
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
    fn the_status_wanted_passes_in_any_version() {
        check_answer(NO_CONTENT, Ok(()));
        check_answer(b"HTTP/1.0 204 OK\r\n\r\n", Ok(()));
        check_answer(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            Ok(()),
        );
    }

    #[test]
    fn another_status_is_told_and_a_redirect_is_not_followed() {
        let got = |status| Err(OfflineReason::ProbeStatus(status));
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
    fn a_407_is_about_the_credentials() {
        let answer = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
        check_answer(answer, Err(OfflineReason::Auth));
    }

    #[test]
    fn what_is_not_http_is_malformed() {
        check_answer(
            b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
            Err(OfflineReason::ProbeMalformed),
        );
        check_answer(b"HTTP/1.1 abc\r\n\r\n", Err(OfflineReason::ProbeMalformed));
    }

    #[test]
    fn an_end_before_the_whole_head_is_told() {
        check_answer(b"", Err(OfflineReason::ProbeClosed));
        check_answer(b"HTTP/1.1 204 No Cont", Err(OfflineReason::ProbeClosed));
    }

    #[test]
    fn a_silent_upstream_has_the_timeout_and_no_more() {
        let (release, held) = mpsc::channel::<()>();
        let (address, thread) = upstream(move |stream| {
            held.recv().unwrap_err();
            drop(stream);
        });
        let result = run(&spec(address, None), &health("probe.test/", SHORT));
        assert_eq!(result, Err(OfflineReason::ProbeTimeout));
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
        let result = run(&spec(address, None), &health("probe.test/", SHORT));
        assert_eq!(result, Err(OfflineReason::ProbeTimeout));
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
        let health = health("probe.test/generate_204", AMPLE);
        let result = run(&spec(address, None), &health);
        assert_eq!(result, Err(OfflineReason::ProbeMalformed));
        thread.join().unwrap();
    }

    #[test]
    fn a_refused_connection_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let result = run(&spec(address, None), &health("probe.test/", AMPLE));
        assert_eq!(
            result,
            Err(OfflineReason::ProbeConnect("connection refused"))
        );
    }

    #[test]
    fn a_second_address_is_tried_when_the_first_refuses() {
        let (address, thread) = upstream(|mut stream| stream.write_all(NO_CONTENT).unwrap());
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = vec![closed.local_addr().unwrap(), address];
        drop(closed);
        let health = health("probe.test/", AMPLE);
        let result = probe(&spec(address, None), &health, &|_, _| Ok(addresses.clone()));
        assert_eq!(result, Ok(()));
        thread.join().unwrap();
    }

    #[test]
    fn a_name_that_cannot_be_resolved_is_told() {
        let spec = spec("192.0.2.1:80".parse().unwrap(), None);
        let health = health("probe.test/", AMPLE);
        let failed = |kind: io::ErrorKind| probe(&spec, &health, &|_, _| Err(kind.into()));
        let told = |what| Err(OfflineReason::ProbeConnect(what));
        assert_eq!(
            failed(io::ErrorKind::TimedOut),
            told("its name was not resolved in time")
        );
        assert_eq!(
            failed(io::ErrorKind::NotFound),
            told("its name cannot be resolved")
        );
        let nowhere = probe(&spec, &health, &|_, _| Ok(Vec::new()));
        assert_eq!(nowhere, told("its name cannot be resolved"));
    }

    #[test]
    fn resolving_and_asking_share_one_deadline() {
        let spec = spec("192.0.2.1:80".parse().unwrap(), None);
        let health = health("probe.test/", Duration::ZERO);
        let result = probe(&spec, &health, &|_, _| {
            Ok(vec!["192.0.2.1:80".parse().unwrap()])
        });
        assert_eq!(result, Err(OfflineReason::ProbeTimeout));
    }

    #[test]
    fn ureq_is_told_neither_target_nor_credentials() {
        let prepared = Prepared::new(b"GET http://secret.test/ HTTP/1.1\r\n\r\n".to_vec());
        assert!(!format!("{prepared:?}").contains("secret"));
        assert!(!PLACEHOLDER.contains("secret"));
    }
}
