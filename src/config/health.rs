//! When and how upstreams are probed: the block `health_check`.

use std::fmt;
use std::time::Duration;

use crate::protocol::target::{Authority, Host};

use super::findings::Findings;
use super::limits::unless_zero;
use super::reader::{Section, Shortest, quote};
use super::urls;

/// What a probe asks for unless the file says otherwise: it answers 204 from
/// almost anywhere, and was fixed in the first release.
const PROBE_HOST: &str = "connectivitycheck.gstatic.com";
/// The path of the same.
const PROBE_PATH: &str = "/generate_204";

/// The block `health_check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The longest pause between two probes of an offline upstream.
    pub interval: Duration,
    /// The time for one whole probe.
    pub timeout: Duration,
    /// What a probe asks for.
    pub target: ProbeTarget,
    /// The status it must be answered with: 200 to 599.
    pub expect_status: u16,
    /// Failures in a row that take an upstream offline: at least 1.
    pub fall: u32,
    /// Successes in a row that bring it back: at least 1.
    pub rise: u32,
    /// The pause between two probes of an online upstream. `None`: not probed.
    pub online_interval: Option<Duration>,
}

/// The URL of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Its host and port.
    pub authority: Authority,
    /// Begins with `/`; visible ASCII only.
    pub path_and_query: String,
}

impl fmt::Display for ProbeTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the default port is left out, as in the request itself
        match (self.authority.port(), self.authority.host()) {
            (80, host) => write!(out, "http://{host}{}", self.path_and_query),
            (port, host) => write!(out, "http://{host}:{port}{}", self.path_and_query),
        }
    }
}

impl HealthCheck {
    /// Reads the block; the defaults stand for absent keys.
    pub(super) fn read(findings: &mut Findings, block: &Section<'_>) -> Option<Self> {
        let interval = block.seconds(findings, "interval_secs", Shortest::Millisecond, 30);
        let timeout = block.seconds(findings, "timeout_secs", Shortest::Millisecond, 5);
        let online = block.seconds(findings, "online_interval_secs", Shortest::Zero, 0);
        let status = block.integer(findings, "expect_status", 200..=599, 204);
        let fall = block.integer(findings, "fall", 1..=1000, 1);
        let rise = block.integer(findings, "rise", 1..=1000, 1);
        Some(Self {
            interval,
            timeout,
            target: read_target(findings, block)?,
            expect_status: u16::try_from(status).ok()?,
            fall,
            rise,
            online_interval: unless_zero(online),
        })
    }
}

fn read_target(findings: &mut Findings, block: &Section<'_>) -> Option<ProbeTarget> {
    let Some(written) = block.text(findings, "url") else {
        let authority = Authority::new(Host::Name(PROBE_HOST.into()), 80)?;
        return Some(ProbeTarget {
            authority,
            path_and_query: PROBE_PATH.to_owned(),
        });
    };
    parse_target(written.text)
        .map_err(|said| findings.error(&written.place, said))
        .ok()
}

fn parse_target(url: &str) -> Result<ProbeTarget, String> {
    let example = "write http://host/path";
    let parts = urls::split(url);
    match parts.scheme {
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => {}
        Some(scheme) => {
            let scheme = quote(scheme);
            return Err(format!(
                "{scheme} cannot be probed, a probe is a plain HTTP request: {example}"
            ));
        }
        None => return Err(format!("the scheme is missing: {example}")),
    }
    let authority = urls::authority(parts.authority, 80)?;
    if parts.rest.contains('#') {
        return Err("a fragment (`#`) is never sent: remove it".to_owned());
    }
    if !parts.rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "the path has a space or a letter beyond ASCII: write it percent-encoded".to_owned(),
        );
    }
    let slash = if parts.rest.starts_with('/') { "" } else { "/" };
    Ok(ProbeTarget {
        authority,
        path_and_query: format!("{slash}{}", parts.rest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, wanted: Result<&str, &str>) {
        match (parse_target(url), wanted) {
            (Ok(target), Ok(wanted)) => assert_eq!(target.to_string(), wanted),
            (Err(said), Err(part)) => assert!(said.contains(part), "{url}: {said}"),
            (got, _) => panic!("{url}: {got:?}"),
        }
    }

    #[test]
    fn a_probe_asks_for_any_plain_http_url() {
        check("http://a.test", Ok("http://a.test/"));
        check("HTTP://A.test:80/x?y=1", Ok("http://a.test/x?y=1"));
        check("http://a.test:8080?y", Ok("http://a.test:8080/?y"));
        check("http://[2001:db8::1]/", Ok("http://[2001:db8::1]/"));
    }

    #[test]
    fn other_urls_are_told_what_to_write() {
        check("https://a.test/", Err("`https` cannot be probed"));
        check("a.test/x", Err("the scheme is missing"));
        check("http://u:p@a.test/", Err("user"));
        check("http://a.test:0/", Err("port"));
        check("http:///x", Err("host is missing"));
        check("http://a.test/x#y", Err("fragment"));
        check("http://a.test/\u{e9}", Err("percent-encoded"));
        check("http://a.test/\r\nX: y", Err("percent-encoded"));
    }
}
