//! The text of `--check`: what a valid file means, every value with its unit. What was found in it is
//! told elsewhere.
//!
//! Secrets are said to be there or not, never shown. The values by themselves are for those who
//! compare two files.

use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;

use crate::balance::upstream::UpstreamSpec;
use crate::protocol::proxy_header::HeaderVersion;

use super::access::AccessRules;
use super::checked::Config;
use super::health::ProbeTarget;
use super::keys::KEYS;

/// The width of the first column, in characters.
const KEY_WIDTH: usize = 36;

/// What the report tells before its place in the table of keys: right before this other key.
const EARLIER: [(&str, &str); 13] = [
    ("domain_policy.mode", "health_check.interval_secs"),
    ("domain_policy.domains", "health_check.interval_secs"),
    ("upstream_files", "health_check.interval_secs"),
    ("default", "health_check.interval_secs"),
    ("rest", "health_check.interval_secs"),
    ("log.format", "health_check.interval_secs"),
    ("metrics.per_upstream", "health_check.interval_secs"),
    ("sticky.by", "health_check.interval_secs"),
    ("sticky.ttl_secs", "health_check.interval_secs"),
    ("sticky.max_sessions", "health_check.interval_secs"),
    ("limits.request_timeout_secs", "limits.queue_timeout_secs"),
    ("limits.upstream_idle_secs", "limits.max_header_bytes"),
    (
        "limits.upstream_idle_connections",
        "limits.max_header_bytes",
    ),
];

/// Its `Display` is the report about a configuration.
#[derive(Clone, Copy, Debug)]
pub struct CheckReport<'c> {
    /// What to tell about.
    pub config: &'c Config,
}

/// The path of every key but those of the upstreams, always in the same order, and its effective
/// value with its unit. Of a secret, whether there is one.
pub fn values(config: &Config) -> Vec<(&'static str, String)> {
    let mut paths: Vec<_> = KEYS.iter().map(|key| key.path).collect();
    for (path, before) in EARLIER {
        paths.retain(|other| *other != path);
        let place = paths.iter().position(|other| *other == before);
        paths.insert(place.unwrap_or(paths.len()), path);
    }
    let told = paths
        .into_iter()
        .filter_map(|path| Some((path, value(config, path)?)));
    told.collect()
}

/// The value of a key in words; nothing where it is told with that of another key, or in a list.
fn value(config: &Config, path: &str) -> Option<String> {
    let access = &config.access;
    Some(match path {
        "listen" => config.listen.to_string(),
        "admin_listen" => match &config.admin_listen {
            Some(address) => address.to_string(),
            None => "none (no admin endpoints)".to_owned(),
        },
        "admin_token" => there(config.admin_token.as_ref()).to_owned(),
        "access_log" => access_log(config).unwrap_or_else(|| "false".to_owned()),
        "access_log.format" | "access_log.query" => return None,
        "request_id" => match &config.request_id {
            Some(name) => name.as_str().to_owned(),
            None => "none".to_owned(),
        },
        "listen_proxy_protocol" => match &config.proxy_protocol {
            Some(from) => format!("true, from {from}"),
            None => "false".to_owned(),
        },
        "health_check.url" => match &config.health.target {
            ProbeTarget::Nothing => "none (upstreams need only answer for themselves)".to_owned(),
            target @ (ProbeTarget::Get { .. } | ProbeTarget::Connect(_)) => target.to_string(),
        },
        "health_check.expect_status" => match &config.health.target {
            ProbeTarget::Nothing => "any".to_owned(),
            ProbeTarget::Connect(_) => "200 to 299, to a CONNECT".to_owned(),
            ProbeTarget::Get { .. } => config.health.expect_status.to_string(),
        },
        "access.allow" => access.allow.to_string(),
        "access.users" => match access.users.len() {
            0 => "none (no credentials are asked for)".to_owned(),
            count => count.to_string(),
        },
        "access.connect_ports" => connect_ports(access),
        "access.direct_deny" if access.direct_deny.is_empty() => "nothing".to_owned(),
        "access.direct_deny" => access.direct_deny.to_string(),
        _ => return config.values.get(path).cloned(),
    })
}

fn access_log(config: &Config) -> Option<String> {
    let settings = config.access_log.as_ref()?;
    let format = config.values.get("access_log.format");
    let format = format.map_or("text", String::as_str);
    let query = if settings.query {
        ""
    } else {
        ", without queries"
    };
    Some(match &settings.file {
        Some(file) => format!("{format}{query}, to {}", file.display()),
        None => format!("{format}{query}, to standard output"),
    })
}

fn connect_ports(access: &AccessRules) -> String {
    if access.connect_ports.is_empty() {
        return "all".to_owned();
    }
    let spelled: Vec<_> = access.connect_ports.iter().map(spelled).collect();
    spelled.join(", ")
}

/// Ports as the file has them.
pub(super) fn spelled(ports: &RangeInclusive<u16>) -> String {
    match (ports.start(), ports.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

impl Display for CheckReport<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let config = self.config;
        let mut above = "";
        for (path, value) in values(config) {
            let (block, key) = match path.rsplit_once('.') {
                // which has no heading of its own
                None | Some(("domain_policy", _)) => ("", path.to_owned()),
                Some((block, key)) => (block, format!("  {key}")),
            };
            if block != above {
                above = block;
                heading(out, block)?;
            }
            write!(out, "{key:KEY_WIDTH$}{value}")?;
            if let Some(names) = config.origins.get(path) {
                write!(out, " (from {names})")?;
            }
            writeln!(out)?;
        }
        if !config.rule_words.is_empty() {
            heading(out, &format!("rules ({})", config.rule_words.len()))?;
        }
        for rule in &config.rule_words {
            writeln!(out, "  {rule}")?;
        }
        write_upstreams(out, &config.upstreams)
    }
}

fn write_upstreams(out: &mut Formatter<'_>, upstreams: &[UpstreamSpec]) -> fmt::Result {
    heading(out, &format!("upstream ({})", upstreams.len()))?;
    for upstream in upstreams {
        writeln!(
            out,
            "  {}: {}, weight {}, priority {}, credentials: {}{}{}{}",
            upstream.name,
            upstream.url(),
            upstream.weight,
            upstream.priority,
            credentials(upstream),
            proxy_header(upstream),
            match &upstream.group {
                Some(name) => format!(", group {name}"),
                None => String::new(),
            },
            match upstream.max_active {
                Some(most) => format!(", at most {most} at a time"),
                None => String::new(),
            }
        )?;
    }
    Ok(())
}

fn credentials(upstream: &UpstreamSpec) -> String {
    if upstream.told.passes_credentials {
        return "the client's".to_owned();
    }
    let there = there(upstream.credentials.as_ref());
    match &upstream.told.username {
        Some(username) => format!("{there}, with {}", username.shown()),
        None => there.to_owned(),
    }
}

fn proxy_header(upstream: &UpstreamSpec) -> &'static str {
    match upstream.told.proxy_header {
        Some(HeaderVersion::V1) => ", PROXY header v1",
        Some(HeaderVersion::V2) => ", PROXY header v2",
        None => "",
    }
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
