//! When and how upstreams are checked: the block `health_check`.

use std::fmt;
use std::time::Duration;

use crate::protocol::target::Authority;

use super::limits::unless_zero;
use super::reader::{KeyBlock, quote};
use super::urls;

/// The block `health_check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The longest pause between two checks of an offline upstream.
    pub interval: Duration,
    /// The time in which an upstream that does not work is found out. Half of it for each question of a
    /// check; a request that is not answered for half of it asks for one.
    pub timeout: Duration,
    /// What a probe asks for.
    pub target: ProbeTarget,
    /// The status it must be answered with: 200 to 599. A CONNECT wants any of 2xx.
    pub expect_status: u16,
    /// Failures in a row, to connect or of checks, that take an upstream offline: 1 to 1000.
    pub fall: u32,
    /// Checks in a row that bring it back: 1 to 1000.
    pub rise: u32,
    /// The pause between two checks of an online upstream. `None`: only where requests give reason to.
    pub online_interval: Option<Duration>,
    /// For how long the share of an upstream grows that came back online; zero: it has all of it at once.
    pub slow_start: Duration,
}

/// The URL of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// `none`: nothing beyond the upstream is asked for.
    Nothing,
    /// `http://host/path`: a GET.
    Get {
        /// Its host and port.
        authority: Authority,
        /// Begins with `/`; visible ASCII only.
        path_and_query: String,
    },
    /// `https://host`: a CONNECT.
    Connect(Authority),
}

impl fmt::Display for ProbeTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority, default_port, path) = match self {
            Self::Nothing => return out.write_str("none"),
            Self::Get {
                authority,
                path_and_query,
            } => ("http", authority, 80, path_and_query.as_str()),
            Self::Connect(authority) => ("https", authority, 443, ""),
        };
        write!(out, "{scheme}://{}", authority.host())?;
        // the default port is left out, as in the request itself
        if authority.port() != default_port {
            write!(out, ":{}", authority.port())?;
        }
        out.write_str(path)
    }
}

impl HealthCheck {
    /// Whether a probe that was answered with this status has passed.
    pub fn passes(&self, status: u16) -> bool {
        match self.target {
            ProbeTarget::Nothing => true,
            ProbeTarget::Get { .. } => status == self.expect_status,
            ProbeTarget::Connect(_) => (200..300).contains(&status),
        }
    }

    /// Reads the block.
    pub(super) fn read(block: &KeyBlock<'_>) -> Option<Self> {
        let interval = block.seconds("interval_secs");
        let timeout = block.seconds("timeout_secs");
        let online = block.seconds("online_interval_secs");
        let slow_start = block.seconds("slow_start_secs");
        let status = block.number("expect_status");
        let fall = block.number("fall");
        let rise = block.number("rise");
        let written = block.text("url");
        let url = written
            .as_ref()
            .map_or(block.default_of("url"), |url| url.value);
        let target = parse_target(url).map_err(|said| block.place_of("url").error(said));
        Some(Self {
            interval,
            timeout,
            target: target.ok()?,
            expect_status: u16::try_from(status).ok()?,
            fall,
            rise,
            online_interval: unless_zero(online),
            slow_start,
        })
    }
}

fn parse_target(url: &str) -> Result<ProbeTarget, String> {
    let example = "write http://host/path, https://host or none";
    if url == "none" {
        return Ok(ProbeTarget::Nothing);
    }
    let (scheme, authority, path) = urls::split(url);
    let scheme = scheme.ok_or_else(|| format!("the scheme is missing: {example}"))?;
    let is_https = scheme.eq_ignore_ascii_case("https");
    if !is_https && !scheme.eq_ignore_ascii_case("http") {
        return Err(format!(
            "{} cannot be probed, a probe is an HTTP request or a CONNECT: {example}",
            quote(scheme)
        ));
    }
    let authority = urls::authority(authority, if is_https { 443 } else { 80 })?;
    if is_https {
        return match path {
            "" | "/" => Ok(ProbeTarget::Connect(authority)),
            _ => Err(
                "a CONNECT asks for no path: write https://host or https://host:port".to_owned(),
            ),
        };
    }
    if path.contains('#') {
        return Err("a fragment (`#`) is never sent: remove it".to_owned());
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "the path has a space or a letter beyond ASCII: write it percent-encoded".to_owned(),
        );
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(ProbeTarget::Get {
        authority,
        path_and_query: format!("{slash}{path}"),
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
    fn a_probe_may_be_a_connect_or_none() {
        check("https://a.test", Ok("https://a.test"));
        check("https://a.test:8443/", Ok("https://a.test:8443"));
        check("none", Ok("none"));
    }

    #[test]
    fn other_urls_are_told_what_to_write() {
        check("ftp://a.test/", Err("`ftp` cannot be probed"));
        check("https://a.test/x", Err("asks for no path"));
        check("a.test/x", Err("the scheme is missing"));
        check("http://u:p@a.test/", Err("user"));
        check("http://a.test:0/", Err("port"));
        check("http:///x", Err("host is missing"));
        check("http://a.test/x#y", Err("fragment"));
        check("http://a.test/\u{e9}", Err("percent-encoded"));
        check("http://a.test/\r\nX: y", Err("percent-encoded"));
    }
}
