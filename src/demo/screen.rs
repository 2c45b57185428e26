//! What is on the screen: what is running, what to try, and what happens.
//!
//! Every line is for copying or for reading once, so it is short, and nothing is drawn over. Standard
//! output has the demonstration, standard error the log, as an operator would see it.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::access_log::AccessEntry;
use crate::server::UpstreamReport;

use super::embedded::{Embedded, Life};
use super::{ORIGIN_NAME, RELAY_PORT, origin};

/// Said when nobody will type anything.
pub(super) const INPUT_CLOSED: &str =
    "(standard input has ended, so nothing can be typed; Ctrl-C or SIGTERM ends the demo)";

/// Prints `text` and a line end. Whoever closed the pipe (`demo | head`) has seen enough.
pub(super) fn show(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        log::debug!("nobody reads standard output: {error}");
    }
}

/// Prints an exchange that is over.
pub(super) fn exchange(entry: &AccessEntry) {
    show(&Line(entry).to_string());
}

/// One exchange in one line.
struct Line<'e>(&'e AccessEntry);

impl fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(entry) = self;
        write!(
            out,
            "{} {} ",
            Visible(&entry.method),
            Visible(&entry.target)
        )?;
        match entry.status {
            Some(status) => write!(out, "{status}")?,
            None => out.write_str("unanswered")?,
        }
        if entry.route != "-" {
            write!(out, " via {}", entry.route)?;
        }
        write!(out, " in {}", Took(entry.elapsed))?;
        if 1 < entry.attempts {
            write!(out, ", attempt {}", entry.attempts)?;
        }
        match entry.cause {
            Some(cause) => write!(out, " ({cause})"),
            None => Ok(()),
        }
    }
}

/// What a client sent, without anything that could steer a terminal.
struct Visible<'t>(&'t str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            if letter.is_ascii_graphic() {
                write!(out, "{letter}")?;
            } else {
                write!(out, "{}", letter.escape_default())?;
            }
        }
        Ok(())
    }
}

struct Took(Duration);

impl fmt::Display for Took {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds < 1.0 {
            write!(out, "{:.1} ms", seconds * 1000.0)
        } else {
            write!(out, "{seconds:.1} s")
        }
    }
}

/// The first screen.
pub(super) fn welcome(
    relay: SocketAddr,
    page: &str,
    upstreams: &[Embedded],
    origin: SocketAddr,
) -> String {
    let names = upstreams.iter().map(Embedded::name);
    let pool: Vec<_> = names.zip(upstreams.iter().map(Embedded::address)).collect();
    [
        scene(relay, &pool, origin),
        watch(page),
        requests(relay, origin.port()),
        failover(relay, origin.port()),
    ]
    .join("\n\n")
}

fn scene(relay: SocketAddr, pool: &[(String, SocketAddr)], origin: SocketAddr) -> String {
    let note = match relay.port() {
        RELAY_PORT => "the proxy that clients use".to_owned(),
        _ => format!("the proxy that clients use ({RELAY_PORT} is in use)"),
    };
    let mut lines = vec![
        "http-proxy-lb demo: a relay, three upstream proxies and an origin in one process"
            .to_owned(),
        String::new(),
        row("relay", relay, &note),
    ];
    let notes = [
        "the pool: each request goes through one of",
        "them, in turn",
    ];
    let notes = notes.into_iter().chain(std::iter::repeat(""));
    lines.extend(
        pool.iter()
            .zip(notes)
            .map(|((name, address), note)| row(name, *address, note)),
    );
    let note = format!("a web server, {ORIGIN_NAME} to the upstreams");
    lines.push(row("origin", origin, &note));
    lines.join("\n")
}

fn row(name: &str, address: SocketAddr, note: &str) -> String {
    let row = format!("  {name:<11} {:<16} {note}", address.to_string());
    row.trim_end().to_owned()
}

/// `page`: its address, with the token.
fn watch(page: &str) -> String {
    format!("See all of it in a browser (this password is good for this demo):\n\n  {page}")
}

fn requests(relay: SocketAddr, origin: u16) -> String {
    let curl = |options: &str, path: &str| {
        format!("  curl -x {relay} {options}http://{ORIGIN_NAME}:{origin}{path}")
    };
    let download = format!("{}100000000", origin::BYTES_PATH);
    [
        "Ask the origin from another terminal. It tells which way each request came:",
        "",
        &curl("", "/"),
        "",
        "Upload, download, tunnel (CONNECT) and, where there is a network, see any site:",
        "",
        &curl("-d 'any text' ", origin::ECHO_PATH),
        &curl("--limit-rate 5M -o /dev/null ", &download),
        &curl("-p ", "/"),
        &format!("  curl -x {relay} https://example.com/"),
    ]
    .join("\n")
}

fn failover(relay: SocketAddr, origin: u16) -> String {
    let curl = format!("curl -sS -x {relay} http://{ORIGIN_NAME}:{origin}/");
    [
        "Now see a failover. Leave this running in the other terminal,",
        "",
        &format!("  while sleep 0.3; do {curl}; done"),
        "",
        "and type here, each with Enter:",
        "",
        "  kill 2     upstream-2 dies: its port refuses connections, and what it was",
        "             relaying is cut. The requests go on, through the other two.",
        "  revive 2   it is back, and has its share of the requests within 2 seconds",
        "  status     what the relay knows of its upstreams",
        "  quit       ends the demo, as Ctrl-C does",
        "",
        "Each request is one line below, each change of an upstream a line of the log.",
        "",
    ]
    .join("\n")
}

/// What the relay knows of its upstreams, and what they are.
pub(super) fn status(reports: &[UpstreamReport], upstreams: &[Embedded]) -> String {
    let known = reports.iter().zip(upstreams);
    let lines: Vec<_> = known
        .map(|(report, upstream)| {
            let standing = standing(report, upstream.life());
            row(&report.name, upstream.address(), &standing)
        })
        .collect();
    lines.join("\n")
}

fn standing(report: &UpstreamReport, life: Life) -> String {
    match (&report.reason, life) {
        (None, Life::Dead) => "online, as far as the relay knows yet".to_owned(),
        (None, Life::Alive) => match report.latency {
            None => "online, not used yet".to_owned(),
            Some(latency) => format!(
                "online, answers in {}, {} open",
                Took(latency),
                report.active
            ),
        },
        (Some(reason), Life::Dead) => format!("offline: {reason}"),
        (Some(reason), Life::Alive) => {
            format!("offline: {reason}, but alive again: the next probe finds it")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::loopback;
    use super::*;

    fn entry(method: &str, target: &str) -> AccessEntry {
        AccessEntry {
            time: SystemTime::UNIX_EPOCH,
            id: 7,
            client: loopback(5000),
            method: method.to_owned(),
            target: target.to_owned(),
            status: Some(200),
            received: 120,
            sent: 1320,
            elapsed: Duration::from_micros(1_240),
            first_byte: Some(Duration::from_micros(999)),
            route: "upstream-2".to_owned(),
            attempts: 1,
            cause: None,
            agent: None,
        }
    }

    #[test]
    fn an_exchange_is_a_sentence() {
        assert_eq!(
            Line(&entry("GET", "http://origin.test:8084/")).to_string(),
            "GET http://origin.test:8084/ 200 via upstream-2 in 1.2 ms"
        );
    }

    #[test]
    fn what_went_wrong_is_told() {
        let mut second = entry("CONNECT", "a.test:443");
        second.attempts = 2;
        second.elapsed = Duration::from_millis(61_040);
        assert_eq!(
            Line(&second).to_string(),
            "CONNECT a.test:443 200 via upstream-2 in 61.0 s, attempt 2"
        );
        let mut refused = entry("GET", "http://a.test/");
        refused.status = Some(503);
        refused.route = "-".to_owned();
        refused.attempts = 0;
        refused.cause = Some("no_upstream");
        assert_eq!(
            Line(&refused).to_string(),
            "GET http://a.test/ 503 in 1.2 ms (no_upstream)"
        );
    }

    #[test]
    fn a_client_cannot_steer_the_terminal() {
        assert_eq!(
            Line(&entry("G", "/\u{1b}[31m\r\n\u{202e}")).to_string(),
            "G /\\u{1b}[31m\\r\\n\\u{202e} 200 via upstream-2 in 1.2 ms"
        );
    }

    #[test]
    fn the_first_screen_fits_a_terminal_and_its_lines_name_the_ports_in_use() {
        let port = 18_080;
        let pool: Vec<_> = (1..=3)
            .map(|n| (format!("upstream-{n}"), loopback(18_080 + n)))
            .collect();
        let text = [
            scene(loopback(port), &pool, loopback(18_084)),
            watch("http://any:0123456789abcdef0123456789abcdef@127.0.0.1:19090/"),
            requests(loopback(port), 18_084),
            failover(loopback(port), 18_084),
        ]
        .join("\n\n");
        for line in text.lines() {
            let widest = if line.contains("curl ") { 100 } else { 80 };
            assert!(line.len() <= widest && line.trim_end() == line, "{line:?}");
            if line.contains("curl ") {
                assert!(line.contains(" -x 127.0.0.1:18080 "), "{line}");
            }
        }
        assert_eq!(
            text.matches("http://origin.test:18084/").count(),
            5,
            "{text}"
        );
    }

    #[test]
    fn status_tells_what_the_relay_does_not_know_yet() {
        let mut report = UpstreamReport {
            name: "upstream-2".to_owned(),
            url: "http://127.0.0.1:8082".to_owned(),
            online: true,
            suspect: false,
            was_checked: true,
            reason: None,
            evidence: String::new(),
            active: 3,
            latency: Some(Duration::from_micros(800)),
            consecutive_failures: 0,
        };
        assert_eq!(
            standing(&report, Life::Alive),
            "online, answers in 0.8 ms, 3 open"
        );
        assert!(standing(&report, Life::Dead).starts_with("online, as far as the relay knows"));
        report.reason = Some("connection refused".to_owned());
        assert_eq!(standing(&report, Life::Dead), "offline: connection refused");
        assert!(standing(&report, Life::Alive).contains("but alive again"));
    }
}
