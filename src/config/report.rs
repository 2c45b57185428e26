//! The text of `--check`: what a valid file means, every value with its unit.
//!
//! Secrets are said to be there or not, never shown. The values by themselves are for those who
//! compare two files.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::balance::upstream::UpstreamSpec;
use crate::route::PolicyMode;

use super::access::AccessRules;
use super::checked::{AccessLog, AccessLogFormat, Config, PolicySummary};
use super::findings::{Notice, Severity};
use super::health::{HealthCheck, ProbeTarget};
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

/// One effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The block its key stands in; empty for those at the top of the file.
    pub block: &'static str,
    /// The key; with its block where the report has no heading for that.
    pub key: &'static str,
    /// The value with its unit. Of a secret, whether there is one.
    pub text: String,
}

impl Value {
    /// The key with the block it stands in: `limits.workers`.
    pub fn path(&self) -> String {
        match self.block {
            "" => self.key.to_owned(),
            block => format!("{block}.{}", self.key),
        }
    }
}

/// Every value but the upstreams, always the same keys in the same order.
pub fn values(config: &Config) -> Vec<Value> {
    let mut rows = Rows::default();
    list_general(&mut rows, config);
    list_health(&mut rows, &config.health);
    list_limits(&mut rows, &config.limits);
    list_access(&mut rows, &config.access);
    rows.values
}

#[derive(Default)]
struct Rows {
    block: &'static str,
    values: Vec<Value>,
}

impl Rows {
    fn add(&mut self, key: &'static str, value: &dyn Display) {
        self.values.push(Value {
            block: self.block,
            key,
            text: value.to_string(),
        });
    }
}

impl Display for Report<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let config = self.config;
        let mut block = "";
        for value in values(config) {
            if value.block != block {
                block = value.block;
                heading(out, block)?;
            }
            let indent = if block.is_empty() { "" } else { "  " };
            let key = format!("{indent}{}", value.key);
            writeln!(out, "{key:KEY_WIDTH$}{}", value.text)?;
        }
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

fn list_general(rows: &mut Rows, config: &Config) {
    rows.add("listen", &config.listen);
    match &config.admin_listen {
        Some(address) => rows.add("admin_listen", address),
        None => rows.add("admin_listen", &"none (no admin endpoints)"),
    }
    rows.add("admin_token", &there(config.admin_token.as_ref()));
    rows.add("mode", &config.mode);
    match config.reload_interval {
        Some(interval) => rows.add("reload_interval_secs", &Seconds(interval)),
        None => rows.add("reload_interval_secs", &"0 (only on SIGHUP)"),
    }
    list_access_log(rows, config.access_log.as_ref());
    rows.add("via", &config.via);
    match &config.proxy_protocol {
        Some(from) => rows.add("listen_proxy_protocol", &format_args!("true, from {from}")),
        None => rows.add("listen_proxy_protocol", &false),
    }
    list_policy(rows, config.policy);
}

fn list_access_log(rows: &mut Rows, log: Option<&AccessLog>) {
    let Some(log) = log else {
        rows.add("access_log", &false);
        return;
    };
    let format = match log.format {
        AccessLogFormat::Combined => "combined",
        AccessLogFormat::Json => "json",
        AccessLogFormat::Text => "text",
    };
    match &log.file {
        Some(file) => rows.add(
            "access_log",
            &format_args!("{format}, to {}", file.display()),
        ),
        None => rows.add("access_log", &format_args!("{format}, to standard output")),
    }
}

fn list_policy(rows: &mut Rows, policy: PolicySummary) {
    let meaning = match policy.mode {
        PolicyMode::Off => "off (everything uses an upstream)",
        PolicyMode::Blacklist => "blacklist (listed domains go direct)",
        PolicyMode::Whitelist => "whitelist (only listed domains use an upstream)",
    };
    rows.add("domain_policy.mode", &meaning);
    rows.add(
        "domain_policy.domains",
        &format_args!("{} listed", policy.domains),
    );
}

fn list_health(rows: &mut Rows, health: &HealthCheck) {
    rows.block = "health_check";
    rows.add("interval_secs", &Seconds(health.interval));
    rows.add("timeout_secs", &Seconds(health.timeout));
    let (url, status): (&dyn Display, &dyn Display) = match &health.target {
        ProbeTarget::Nothing => (&"none (upstreams need only answer for themselves)", &"any"),
        ProbeTarget::Connect(_) => (&health.target, &"200 to 299, to a CONNECT"),
        ProbeTarget::Get { .. } => (&health.target, &health.expect_status),
    };
    rows.add("url", url);
    rows.add("expect_status", status);
    rows.add("fall", &format_args!("{} in a row", health.fall));
    rows.add("rise", &format_args!("{} in a row", health.rise));
    match health.online_interval {
        Some(interval) => rows.add("online_interval_secs", &Seconds(interval)),
        None => rows.add(
            "online_interval_secs",
            &"0 (online upstreams are checked when requests give reason to)",
        ),
    }
}

fn list_limits(rows: &mut Rows, limits: &Limits) {
    rows.block = "limits";
    let system = "as many as file descriptors and threads allow";
    let workers = "auto: 64 a core, between 512 and 1024";
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
            Some(limit) => rows.add(key, &format_args!("{limit} {unit}")),
            None => rows.add(key, &format_args!("0 ({none})")),
        }
    }
    match limits.request_timeout {
        Some(timeout) => rows.add("request_timeout_secs", &Seconds(timeout)),
        None => rows.add("request_timeout_secs", &"0 (none)"),
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
        rows.add(key, &Seconds(time));
    }
    let idle = limits.upstream_idle_connections;
    rows.add(
        "upstream_idle_connections",
        &format_args!("{idle} for each upstream"),
    );
    rows.add(
        "max_header_bytes",
        &format_args!("{} bytes", limits.max_header_bytes),
    );
}

fn list_access(rows: &mut Rows, access: &AccessRules) {
    let AccessRules {
        allow,
        users,
        connect_ports,
        direct_deny,
    } = access;
    rows.block = "access";
    rows.add("allow", allow);
    match users.len() {
        0 => rows.add("users", &"none (no credentials are asked for)"),
        count => rows.add("users", &format_args!("{count}")),
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
    rows.add("connect_ports", &ports);
    if direct_deny.is_empty() {
        rows.add("direct_deny", &"nothing");
    } else {
        rows.add("direct_deny", direct_deny);
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
