//! The text of `--check`: what a valid file means, every value with its unit.
//!
//! Secrets are said to be there or not, never shown.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::balance::upstream::UpstreamSpec;
use crate::route::PolicyMode;

use super::access::AccessRules;
use super::checked::{AccessLog, AccessLogFormat, Config, PolicySummary};
use super::findings::{Notice, Severity};
use super::health::HealthCheck;
use super::limits::Limits;

/// The width of the first column, in characters.
const KEY_WIDTH: usize = 36;

/// Its `Display` is the report about a configuration.
#[derive(Clone, Copy, Debug)]
pub struct Report<'c> {
    /// What to tell about.
    pub config: &'c Config,
    /// The file it came from, as it was named.
    pub file: &'c str,
}

impl Display for Report<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let config = self.config;
        write_general(out, config)?;
        write_health(out, &config.health)?;
        write_limits(out, &config.limits)?;
        write_access(out, config)?;
        write_upstreams(out, &config.upstreams)?;
        write_notices(out, "warnings", config, Severity::Advice)?;
        write_notices(
            out,
            "errors here, warnings at a start",
            config,
            Severity::Compatibility,
        )?;
        let verdict = if config.relies_on_compatibility() {
            "not valid"
        } else {
            "valid"
        };
        writeln!(out, "\n{}: {verdict}", self.file)
    }
}

fn write_general(out: &mut Formatter<'_>, config: &Config) -> fmt::Result {
    row(out, "listen", &config.listen)?;
    match &config.admin_listen {
        Some(address) => row(out, "admin_listen", address)?,
        None => row(out, "admin_listen", &"none (no admin endpoints)")?,
    }
    row(out, "admin_token", &there(config.admin_token.as_ref()))?;
    row(out, "mode", &config.mode)?;
    match config.reload_interval {
        Some(interval) => row(out, "reload_interval_secs", &Seconds(interval))?,
        None => row(out, "reload_interval_secs", &"0 (only on SIGHUP)")?,
    }
    write_access_log(out, config.access_log.as_ref())?;
    row(out, "via", &config.via)?;
    match &config.proxy_protocol {
        Some(from) => row(
            out,
            "listen_proxy_protocol",
            &format_args!("true, from {from}"),
        )?,
        None => row(out, "listen_proxy_protocol", &false)?,
    }
    write_policy(out, config.policy)
}

fn write_access_log(out: &mut Formatter<'_>, log: Option<&AccessLog>) -> fmt::Result {
    let Some(log) = log else {
        return row(out, "access_log", &false);
    };
    let format = match log.format {
        AccessLogFormat::Combined => "combined",
        AccessLogFormat::Json => "json",
        AccessLogFormat::Text => "text",
    };
    match &log.file {
        Some(file) => row(
            out,
            "access_log",
            &format_args!("{format}, to {}", file.display()),
        ),
        None => row(
            out,
            "access_log",
            &format_args!("{format}, to standard output"),
        ),
    }
}

fn write_policy(out: &mut Formatter<'_>, policy: PolicySummary) -> fmt::Result {
    let meaning = match policy.mode {
        PolicyMode::Off => "off (everything uses an upstream)",
        PolicyMode::Blacklist => "blacklist (listed domains go direct)",
        PolicyMode::Whitelist => "whitelist (only listed domains use an upstream)",
    };
    row(out, "domain_policy.mode", &meaning)?;
    row(
        out,
        "domain_policy.domains",
        &format_args!("{} listed", policy.domains),
    )
}

fn write_health(out: &mut Formatter<'_>, health: &HealthCheck) -> fmt::Result {
    heading(out, "health_check")?;
    row(out, "  interval_secs", &Seconds(health.interval))?;
    row(out, "  timeout_secs", &Seconds(health.timeout))?;
    row(out, "  url", &health.target)?;
    row(out, "  expect_status", &health.expect_status)?;
    row(out, "  fall", &format_args!("{} in a row", health.fall))?;
    row(out, "  rise", &format_args!("{} in a row", health.rise))?;
    match health.online_interval {
        Some(interval) => row(out, "  online_interval_secs", &Seconds(interval)),
        None => row(
            out,
            "  online_interval_secs",
            &"0 (online upstreams are not probed)",
        ),
    }
}

fn write_limits(out: &mut Formatter<'_>, limits: &Limits) -> fmt::Result {
    heading(out, "limits")?;
    let system = "as many as file descriptors and threads allow";
    let workers = "auto: 64 a core, between 128 and 1024";
    for (key, limit, unit, none) in [
        (
            "max_connections",
            limits.max_connections,
            "connections",
            system,
        ),
        (
            "max_connections_per_client",
            limits.max_connections_per_client,
            "connections",
            "no limit",
        ),
        ("workers", limits.workers, "threads", workers),
        ("queue", limits.queue, "requests", "auto: 4 for each worker"),
    ] {
        match limit {
            Some(limit) => row(out, &format!("  {key}"), &format_args!("{limit} {unit}"))?,
            None => row(out, &format!("  {key}"), &format_args!("0 ({none})"))?,
        }
    }
    match limits.request_timeout {
        Some(timeout) => row(out, "  request_timeout_secs", &Seconds(timeout))?,
        None => row(out, "  request_timeout_secs", &"0 (none)")?,
    }
    for (key, time) in [
        ("queue_timeout_secs", limits.queue_timeout),
        ("response_timeout_secs", limits.response_timeout),
        ("connect_timeout_secs", limits.connect_timeout),
        ("header_timeout_secs", limits.header_timeout),
        ("idle_timeout_secs", limits.idle_timeout),
        ("io_timeout_secs", limits.io_timeout),
        ("tunnel_idle_timeout_secs", limits.tunnel_idle_timeout),
        ("shutdown_timeout_secs", limits.shutdown_timeout),
        ("upstream_idle_secs", limits.upstream_idle),
    ] {
        row(out, &format!("  {key}"), &Seconds(time))?;
    }
    let idle = limits.upstream_idle_connections;
    row(
        out,
        "  upstream_idle_connections",
        &format_args!("{idle} for each upstream"),
    )?;
    row(
        out,
        "  max_header_bytes",
        &format_args!("{} bytes", limits.max_header_bytes),
    )
}

fn write_access(out: &mut Formatter<'_>, config: &Config) -> fmt::Result {
    let AccessRules {
        allow,
        users,
        connect_ports,
        direct_deny,
    } = &config.access;
    heading(out, "access")?;
    row(out, "  allow", allow)?;
    match users.len() {
        0 => row(out, "  users", &"none (no credentials are asked for)")?,
        count => row(out, "  users", &format_args!("{count}"))?,
    }
    let ports: Vec<_> = connect_ports
        .iter()
        .map(|ports| match (ports.start(), ports.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        })
        .collect();
    let ports = if ports.is_empty() {
        "all".to_owned()
    } else {
        ports.join(", ")
    };
    row(out, "  connect_ports", &ports)?;
    if direct_deny.is_empty() {
        row(out, "  direct_deny", &"nothing")
    } else {
        row(out, "  direct_deny", direct_deny)
    }
}

fn write_upstreams(out: &mut Formatter<'_>, upstreams: &[UpstreamSpec]) -> fmt::Result {
    heading(out, &format!("upstream ({})", upstreams.len()))?;
    for upstream in upstreams {
        writeln!(
            out,
            "  {}: http://{}, weight {}, priority {}, credentials: {}",
            upstream.name,
            upstream.authority,
            upstream.weight,
            upstream.priority,
            there(upstream.credentials.as_ref())
        )?;
    }
    Ok(())
}

fn write_notices(
    out: &mut Formatter<'_>,
    title: &str,
    config: &Config,
    severity: Severity,
) -> fmt::Result {
    let of_kind = |notice: &&Notice| notice.severity == severity;
    let notices: Vec<_> = config.warnings.iter().filter(of_kind).collect();
    if notices.is_empty() {
        return Ok(());
    }
    heading(out, &format!("{title} ({})", notices.len()))?;
    for notice in notices {
        writeln!(out, "  {notice}")?;
    }
    Ok(())
}

fn heading(out: &mut Formatter<'_>, title: &str) -> fmt::Result {
    writeln!(out, "\n{title}")
}

fn row(out: &mut Formatter<'_>, key: &str, value: &dyn Display) -> fmt::Result {
    writeln!(out, "{key:KEY_WIDTH$}{value}")
}

/// Whether a secret is there; which one it is stays out of every text.
fn there<T>(secret: Option<&T>) -> &'static str {
    match secret {
        Some(_) => "yes",
        None => "no",
    }
}

/// A time with its unit.
struct Seconds(Duration);

impl Display for Seconds {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{} s", self.0.as_secs_f64())
    }
}
