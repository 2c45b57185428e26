//! Every key a configuration file may have, and the nearest one to a key that
//! it may not have.
//!
//! This is the only list: the reader asks it which scalars are texts, the
//! check for unknown keys asks it what is known, and a test compares
//! `config.example.yaml` with it.

/// What may stand at a place of the file.
#[derive(Debug)]
pub(super) enum Shape {
    /// A scalar that is taken letter by letter.
    Text,
    /// A number or a boolean.
    Plain,
    /// A list.
    List(&'static Shape),
    /// A block of keys.
    Map(&'static [(&'static str, Shape)]),
}

impl Shape {
    /// The shape of the elements, if this is a list.
    pub(super) fn element(&self) -> &'static Self {
        match self {
            Self::List(element) => element,
            Self::Text | Self::Plain | Self::Map(_) => &Self::Plain,
        }
    }

    /// The shape of the value of `key`.
    pub(super) fn below(&self, key: &str) -> &'static Self {
        let known = self.entries().iter().find(|(name, _)| *name == key);
        known.map_or(&Self::Plain, |(_, shape)| shape)
    }

    /// The keys of this block, empty for anything else.
    pub(super) fn entries(&self) -> &'static [(&'static str, Self)] {
        match self {
            Self::Map(entries) => entries,
            Self::Text | Self::Plain | Self::List(_) => &[],
        }
    }
}

/// The whole file.
pub(super) static ROOT: Shape = Shape::Map(&[
    ("listen", Shape::Text),
    ("admin_listen", Shape::Text),
    ("admin_token", Shape::Text),
    ("admin_token_file", Shape::Text),
    ("mode", Shape::Text),
    ("reload_interval_secs", Shape::Plain),
    ("access_log", Shape::Map(ACCESS_LOG)),
    ("via", Shape::Plain),
    ("listen_proxy_protocol", Shape::Plain),
    ("health_check", Shape::Map(HEALTH_CHECK)),
    ("limits", Shape::Map(LIMITS)),
    ("domain_policy", Shape::Map(DOMAIN_POLICY)),
    ("access", Shape::Map(ACCESS)),
    ("upstream", Shape::List(&Shape::Map(UPSTREAM))),
]);

const ACCESS_LOG: &[(&str, Shape)] = &[("format", Shape::Text), ("file", Shape::Text)];

const HEALTH_CHECK: &[(&str, Shape)] = &[
    ("interval_secs", Shape::Plain),
    ("timeout_secs", Shape::Plain),
    ("url", Shape::Text),
    ("expect_status", Shape::Plain),
    ("fall", Shape::Plain),
    ("rise", Shape::Plain),
    ("online_interval_secs", Shape::Plain),
];

const LIMITS: &[(&str, Shape)] = &[
    ("max_connections", Shape::Plain),
    ("max_connections_per_client", Shape::Plain),
    ("workers", Shape::Plain),
    ("queue", Shape::Plain),
    ("queue_timeout_secs", Shape::Plain),
    ("request_timeout_secs", Shape::Plain),
    ("response_timeout_secs", Shape::Plain),
    ("connect_timeout_secs", Shape::Plain),
    ("header_timeout_secs", Shape::Plain),
    ("idle_timeout_secs", Shape::Plain),
    ("io_timeout_secs", Shape::Plain),
    ("tunnel_idle_timeout_secs", Shape::Plain),
    ("shutdown_timeout_secs", Shape::Plain),
    ("max_header_bytes", Shape::Plain),
    ("upstream_idle_connections", Shape::Plain),
    ("upstream_idle_secs", Shape::Plain),
];

const DOMAIN_POLICY: &[(&str, Shape)] = &[
    ("mode", Shape::Text),
    ("domains", Shape::List(&Shape::Text)),
];

const ACCESS: &[(&str, Shape)] = &[
    ("allow", Shape::List(&Shape::Text)),
    ("users", Shape::List(&Shape::Map(USER))),
    ("users_file", Shape::Text),
    ("connect_ports", Shape::List(&Shape::Text)),
    ("direct_deny", Shape::List(&Shape::Text)),
    ("proxy_protocol_from", Shape::List(&Shape::Text)),
];

const USER: &[(&str, Shape)] = &[("username", Shape::Text), ("password", Shape::Text)];

const UPSTREAM: &[(&str, Shape)] = &[
    ("name", Shape::Text),
    ("url", Shape::Text),
    ("weight", Shape::Plain),
    ("priority", Shape::Plain),
    ("username", Shape::Text),
    ("password", Shape::Text),
    ("password_file", Shape::Text),
];

/// Below this likeness (0 to 1) a suggestion would only puzzle.
const LIKENESS_MIN: f64 = 0.75;
/// The same for a key of another block, which is a bolder guess.
const LIKENESS_ELSEWHERE_MIN: f64 = 0.85;

/// A shorter key is like many others, in bytes.
const LENGTH_MIN: usize = 3;

/// The key that was probably meant by `unknown`, which stands in a block of
/// `shape`: one of that block by its name, one of another block by its path
/// (`limits.workers`).
pub(super) fn nearest(shape: &Shape, unknown: &str) -> Option<String> {
    let moved = paths().into_iter().find(|path| last_of(path) == unknown);
    let here = shape
        .entries()
        .iter()
        .map(|(key, _)| (*key).to_owned())
        .collect();
    moved
        .or_else(|| most_alike(here, unknown, LIKENESS_MIN))
        .or_else(|| most_alike(paths(), unknown, LIKENESS_ELSEWHERE_MIN))
}

fn most_alike(paths: Vec<String>, unknown: &str, least: f64) -> Option<String> {
    let rated = paths
        .into_iter()
        .map(|path| (likeness(last_of(&path), unknown), path));
    let best = rated.max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(likeness, _)| least <= *likeness)
        .map(|(_, path)| path)
}

/// From 0 to 1; 1 is the same.
fn likeness(key: &str, unknown: &str) -> f64 {
    if unknown.len() < LENGTH_MIN {
        return 0.0;
    }
    let unknown = unknown.to_ascii_lowercase().replace('-', "_");
    // `idle_timeout` for `idle_timeout_secs`, `upstreams` for `upstream`
    let is_prefix = key.starts_with(&unknown) || unknown.starts_with(key);
    strsim::jaro_winkler(&unknown, key).max(if is_prefix { 0.9 } else { 0.0 })
}

/// `workers` of `limits.workers`.
fn last_of(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Every key with the keys it stands in: `upstream[].url`.
pub(super) fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    collect(&ROOT, "", &mut paths);
    paths
}

fn collect(shape: &Shape, above: &str, paths: &mut Vec<String>) {
    if let Shape::List(element) = shape {
        return collect(element, &format!("{above}[]"), paths);
    }
    for (key, below) in shape.entries() {
        let path = if above.is_empty() {
            (*key).to_owned()
        } else {
            format!("{above}.{key}")
        };
        paths.push(path.clone());
        collect(below, &path, paths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: &Shape, unknown: &str, meant: Option<&str>) {
        assert_eq!(nearest(shape, unknown).as_deref(), meant, "{unknown}");
    }

    #[test]
    fn a_mistyped_key_leads_to_the_one_meant() {
        check(&ROOT, "lisen", Some("listen"));
        check(&ROOT, "upstreams", Some("upstream"));
        check(&ROOT, "Listen", Some("listen"));
        check(&ROOT, "admin-listen", Some("admin_listen"));
        check(
            ROOT.below("limits"),
            "max_conections",
            Some("max_connections"),
        );
        check(
            ROOT.below("limits"),
            "idle_timeout",
            Some("idle_timeout_secs"),
        );
        check(ROOT.below("upstream").element(), "wieght", Some("weight"));
    }

    #[test]
    fn a_key_like_no_other_gets_no_suggestion() {
        check(&ROOT, "x-anchors", None);
        check(&ROOT, "<<", None);
        check(&ROOT, "a", None);
        check(&ROOT, "", None);
    }

    #[test]
    fn a_key_in_the_wrong_block_is_told_where_it_belongs() {
        check(&ROOT, "workers", Some("limits.workers"));
        check(&ROOT, "max_conections", Some("limits.max_connections"));
        check(ROOT.below("limits"), "weight", Some("upstream[].weight"));
        check(ROOT.below("limits"), "via", Some("via"));
    }

    #[test]
    fn paths_name_blocks_and_lists() {
        let paths = paths();
        assert!(paths.contains(&"upstream[].password_file".to_owned()));
        assert!(paths.contains(&"access.users[].username".to_owned()));
        assert!(paths.contains(&"limits".to_owned()));
    }
}
