//! What a new configuration changes, in words.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use crate::balance::succession;
use crate::balance::upstream::UpstreamSpec;
use crate::config::checked::Config;
use crate::config::report::values;
use crate::relay::Snapshot;

/// Names in one line; more are counted.
const NAMES_MAX: usize = 10;
/// A longer value is not shown, only its key, in bytes.
const VALUE_MAX: usize = 60;

/// What a new configuration changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// One sentence for each kind of change; empty where only the look of the file is new. Holds no
    /// secret.
    pub made: Vec<String>,
    /// One sentence for each key whose new value has to wait for a restart.
    pub waiting: Vec<String>,
}

/// Compares what is in force with what shall be; `before` still has what `after` replaces.
/// One sentence for each kind of change.
pub(super) fn between(before: &Snapshot, after: &Config) -> Vec<String> {
    let mut made = upstreams(before, after);
    made.extend(sentence("keys changed", &keys(&before.config, after)));
    made
}

/// Gives `after` the values of those keys that cannot change while the program runs, and says which
/// these are.
pub(super) fn keep_listeners(before: &Config, after: &mut Config) -> Vec<String> {
    let mut waiting = Vec::new();
    if before.listen != after.listen {
        waiting.push(restart("listen", &before.listen, &after.listen));
        after.listen.clone_from(&before.listen);
    }
    if before.admin_listen != after.admin_listen {
        let shown = |config: &Config| {
            let address = config.admin_listen.as_ref();
            address.map_or_else(|| "none".to_owned(), ToString::to_string)
        };
        waiting.push(restart("admin_listen", &shown(before), &shown(after)));
        after.admin_listen.clone_from(&before.admin_listen);
    }
    let (was, is) = (
        before.proxy_protocol.is_some(),
        after.proxy_protocol.is_some(),
    );
    if was != is {
        waiting.push(restart("listen_proxy_protocol", &was, &is));
        after.proxy_protocol.clone_from(&before.proxy_protocol);
    }
    waiting
}

fn restart(key: &str, was: &dyn fmt::Display, is: &dyn fmt::Display) -> String {
    format!("{key} changed, which needs a restart: {was} stays until then, instead of {is}")
}

fn upstreams(before: &Snapshot, after: &Config) -> Vec<String> {
    let upstreams = before.pool.upstreams().iter();
    let old: Vec<_> = upstreams.map(|upstream| &upstream.spec).collect();
    let mut left: BTreeMap<usize, _> = (0..).zip(&old).collect();
    let (mut added, mut changed) = (Vec::new(), Vec::new());
    let same = succession::predecessors(&old, &after.upstreams);
    for (spec, place) in after.upstreams.iter().zip(same) {
        match place.and_then(|place| left.remove(&place)) {
            None => added.push(spec.name.clone()),
            Some(old) => changed.extend(difference(old, spec)),
        }
    }
    let removed: Vec<_> = left.values().map(|spec| spec.name.clone()).collect();
    let mut made = Vec::new();
    for (what, names) in [("added", added), ("removed", removed), ("changed", changed)] {
        made.extend(sentence(&format!("upstreams {what}"), &names));
    }
    made
}

/// `NAME (what is different)`.
fn difference(old: &UpstreamSpec, new: &UpstreamSpec) -> Option<String> {
    let most = |spec: &UpstreamSpec| spec.max_active.map_or(0, NonZeroU32::get);
    let mut parts = Vec::new();
    if old.name != new.name {
        parts.push(format!("was called {}", old.name));
    }
    for (key, was, is) in [
        ("weight", old.weight, new.weight),
        ("priority", old.priority, new.priority),
        ("max_active", most(old), most(new)),
    ] {
        if was != is {
            parts.push(format!("{key} {was} -> {is}"));
        }
    }
    if old.group != new.group {
        let name = |spec: &UpstreamSpec| spec.group.as_deref().unwrap_or("none").to_owned();
        parts.push(format!("group {} -> {}", name(old), name(new)));
    }
    let login = |spec: &UpstreamSpec| (spec.told.username.clone(), spec.told.passes_credentials);
    if old.credentials != new.credentials || login(old) != login(new) {
        parts.push("credentials".to_owned());
    }
    if old.told.proxy_header != new.told.proxy_header {
        parts.push("proxy_protocol".to_owned());
    }
    (!parts.is_empty()).then(|| format!("{} ({})", new.name, parts.join(", ")))
}

/// `KEY OLD -> NEW` for each key with another value.
fn keys(before: &Config, after: &Config) -> Vec<String> {
    let mut changed: Vec<String> = values(before)
        .into_iter()
        .zip(values(after))
        .filter(|(old, new)| old != new)
        .map(|((path, was), (_, is))| {
            if was.len().max(is.len()) > VALUE_MAX {
                path.to_owned()
            } else {
                format!("{path} {was} -> {is}")
            }
        })
        .collect();
    // What a value does not show: secrets, and lists by their length.
    let token = |config: &Config| {
        let token = config.admin_token.as_ref();
        token.map(|token| token.expose().to_owned())
    };
    let has_rules = |config: &Config| !config.rule_words.is_empty();
    let rules = if has_rules(before) || has_rules(after) {
        "rules"
    } else {
        "domain_policy.domains"
    };
    for (key, is_same) in [
        ("admin_token", token(before) == token(after)),
        (rules, before.rules.rules == after.rules.rules),
        ("access.users", before.access.users == after.access.users),
    ] {
        if !is_same && !changed.iter().any(|line| line.starts_with(key)) {
            changed.push(key.to_owned());
        }
    }
    changed
}

/// `WHAT: a, b, c`, or nothing.
fn sentence(what: &str, names: &[String]) -> Option<String> {
    let (shown, more) = names.split_at_checked(NAMES_MAX).unwrap_or((names, &[]));
    let more = match more.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    (!names.is_empty()).then(|| format!("{what}: {}{more}", shown.join(", ")))
}
