//! What is on the screen: what is running, what to try, and what happens.
//!
//! Every line is for copying or for reading once, so it is short, and nothing is drawn over. Standard
//! output has the demonstration, standard error the log, as an operator would see it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::access_log::AccessEntry;
use crate::server::UpstreamReport;

use super::embedded::{EmbeddedUpstream, Life, ORIGIN_NAME};
use super::origin::{BYTES_PATH, ECHO_PATH};
use super::ports::RELAY_PORT;

/// Said when nothing more will be typed.
pub(super) const INPUT_CLOSED: &str =
    "(standard input has ended, so nothing can be typed; Ctrl-C or SIGTERM ends the demo)";

/// Said when what was typed is no command.
pub(super) const MISSPELLED: &str =
    "type kill 2, revive 2, status or quit; curl belongs in another terminal";

/// Prints `text` and a line end. A reader that closed the pipe (`demo | head`) has seen enough.
pub(super) fn show(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        log::debug!("nobody reads standard output: {error}");
    }
}

/// Prints an exchange that is over.
pub(super) fn exchange(entry: &AccessEntry) {
    show(&sentence(entry));
}

fn sentence(entry: &AccessEntry) -> String {
    let (method, target) = (visible(&entry.method), visible(&entry.target));
    let status = entry.status.map(|status| status.to_string());
    let status = status.as_deref().unwrap_or("unanswered");
    let via = match &*entry.route {
        "-" => String::new(),
        route => format!(" via {route}"),
    };
    let took = took(entry.elapsed);
    let attempt = match entry.attempts {
        0 | 1 => String::new(),
        attempt => format!(", attempt {attempt}"),
    };
    let cause = entry.cause.map(|cause| format!(" ({cause})"));
    let cause = cause.unwrap_or_default();
    format!("{method} {target} {status}{via} in {took}{attempt}{cause}")
}

/// What a client sent, without anything that could steer a terminal.
fn visible(text: &str) -> String {
    let mut visible = String::new();
    for letter in text.chars() {
        if letter.is_ascii_graphic() {
            visible.push(letter);
        } else {
            visible.extend(letter.escape_default());
        }
    }
    visible
}

fn took(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1000.0)
    } else {
        format!("{seconds:.1} s")
    }
}

/// The first screen. `page`: the address of the status page, with the token.
pub(super) fn welcome(
    relay: SocketAddr,
    page: &str,
    pool: &[(String, SocketAddr)],
    origin: SocketAddr,
) -> String {
    let used = match relay.port() {
        RELAY_PORT => "the proxy that clients use".to_owned(),
        _ => format!("the proxy that clients use ({RELAY_PORT} is in use)"),
    };
    let notes = [
        "the pool: each request goes through one of",
        "them, in turn",
    ];
    let notes = notes.into_iter().chain(std::iter::repeat(""));
    let mut rows = vec![row("relay", relay, &used)];
    rows.extend(
        pool.iter()
            .zip(notes)
            .map(|((name, address), note)| row(name, *address, note)),
    );
    let note = format!("a web server, {ORIGIN_NAME} to the upstreams");
    rows.push(row("origin", origin, &note));
    let rows = rows.join("\n");
    let url = format!("http://{ORIGIN_NAME}:{}", origin.port());
    format!(
        "\
http-proxy-lb demo: a relay, three upstream proxies and an origin in one process

{rows}

See all of it in a browser (this password is good for this demo):

  {page}

Ask the origin from another terminal. It tells which way each request came:

  curl -x {relay} {url}/

Upload, download, tunnel (CONNECT) and, where there is a network, see any site:

  curl -x {relay} -d 'any text' {url}{ECHO_PATH}
  curl -x {relay} --limit-rate 5M -o /dev/null {url}{BYTES_PATH}100000000
  curl -x {relay} -p {url}/
  curl -x {relay} https://example.com/

Now see a failover. Leave this running in the other terminal,

  while sleep 0.3; do curl -sS -x {relay} {url}/; done

and type here, each with Enter:

  kill 2     upstream-2 dies: its port refuses connections, and what it was
             relaying is cut. The requests go on, through the other two.
  revive 2   it is back, and has its share of the requests within 2 seconds
  status     what the relay knows of its upstreams
  quit       ends the demo, as Ctrl-C does

Each request is one line below, each change of an upstream a line of the log.
"
    )
}

fn row(name: &str, address: SocketAddr, note: &str) -> String {
    let row = format!("  {name:<11} {:<16} {note}", address.to_string());
    row.trim_end().to_owned()
}

/// What the relay knows of its upstreams, and what they are.
pub(super) fn status(reports: &[UpstreamReport], upstreams: &[EmbeddedUpstream]) -> String {
    let known = reports.iter().zip(upstreams);
    let rows = known.map(|(report, upstream)| {
        let standing = standing(report, upstream.life());
        row(&report.name, upstream.address, &standing)
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn standing(report: &UpstreamReport, life: Life) -> String {
    match (&report.reason, life) {
        (None, Life::Dead) => "online, as far as the relay knows yet".to_owned(),
        (None, Life::Alive) => match report.latency {
            None => "online, not used yet".to_owned(),
            Some(latency) => {
                let (latency, active) = (took(latency), report.active);
                format!("online, answers in {latency}, {active} open")
            }
        },
        (Some(reason), Life::Dead) => format!("offline: {reason}"),
        (Some(reason), Life::Alive) => {
            format!("offline: {reason}, but alive again: the next probe finds it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ports::loopback;
    use super::*;

    fn entry(method: &str, target: &str) -> AccessEntry {
        AccessEntry {
            method: method.to_owned(),
            target: target.to_owned(),
            status: Some(200),
            received: 120,
            sent: 1320,
            elapsed: Duration::from_micros(1_240),
            first_byte: Some(Duration::from_micros(999)),
            route: "upstream-2".to_owned(),
            attempts: 1,
            ..AccessEntry::new(7, loopback(5000))
        }
    }

    #[test]
    fn an_exchange_is_a_sentence() {
        assert_eq!(
            sentence(&entry("GET", "http://origin.test:8084/")),
            "GET http://origin.test:8084/ 200 via upstream-2 in 1.2 ms"
        );
    }

    #[test]
    fn what_went_wrong_is_told() {
        let mut second = entry("CONNECT", "a.test:443");
        second.attempts = 2;
        second.elapsed = Duration::from_millis(61_040);
        assert_eq!(
            sentence(&second),
            "CONNECT a.test:443 200 via upstream-2 in 61.0 s, attempt 2"
        );
        let mut refused = entry("GET", "http://a.test/");
        refused.status = Some(503);
        refused.route = "-".to_owned();
        refused.attempts = 0;
        refused.cause = Some("no_upstream");
        assert_eq!(
            sentence(&refused),
            "GET http://a.test/ 503 in 1.2 ms (no_upstream)"
        );
    }

    #[test]
    fn a_client_cannot_steer_the_terminal() {
        assert_eq!(
            sentence(&entry("G", "/\u{1b}[31m\r\n\u{202e}")),
            "G /\\u{1b}[31m\\r\\n\\u{202e} 200 via upstream-2 in 1.2 ms"
        );
    }

    #[test]
    fn the_first_screen_fits_a_terminal_and_its_lines_name_the_ports_in_use() {
        let port = 18_080;
        let pool = [1, 2, 3].map(|n| (format!("upstream-{n}"), loopback(18_080 + n)));
        let text = welcome(
            loopback(port),
            "http://any:0123456789abcdef0123456789abcdef@127.0.0.1:19090/",
            &pool,
            loopback(18_084),
        );
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
