//! The configuration as the program uses it: nothing here needs a second look.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::pick::BalanceMode;
use crate::balance::told::Part;
use crate::balance::upstream::UpstreamSpec;
use crate::protocol::forwarded::ForwardedField;
use crate::protocol::request_id::FieldName;
use crate::route::Rules;

use super::access::{AccessRules, AddressList};
use super::exits::{RestRule, Sticky, StickyBy};
use super::findings::{ConfigErrors, Notice, Severity};
use super::health::HealthCheck;
use super::limits::Limits;
use super::listen::ListenAddress;
use super::secret::Secret;

/// How the relay with a configuration is asked, whatever else is wrong with the file.
#[derive(Clone, Debug)]
pub struct AdminAccess {
    /// Where the admin endpoints are, if that can be read.
    pub listen: Option<ListenAddress>,
    /// What they want, if that can be read.
    pub token: Option<Secret>,
    /// What is wrong, but for lists in files of their own.
    pub mistakes: Option<ConfigErrors>,
}

/// One configuration, valid as a whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: ListenAddress,
    /// Where the admin endpoints are. `None`: nowhere.
    pub admin_listen: Option<ListenAddress>,
    /// What the admin endpoints want from a client that does more than look: visible
    /// ASCII. `None`: reading is open, actions are refused.
    pub admin_token: Option<Secret>,
    /// How an upstream is chosen.
    pub mode: BalanceMode,
    /// How often the file is looked at. `None`: only on SIGHUP.
    pub reload_interval: Option<Duration>,
    /// One line per request, and where to. `None`: not written.
    pub access_log: Option<AccessLogSettings>,
    /// An error without words at the place that names the file of the access log, for whoever finds out that
    /// it cannot be opened.
    pub access_log_place: Option<Notice>,
    /// What lines on standard error look like.
    pub log_format: LogFormat,
    /// The field in which upstreams and clients are told what a request is called. `None`: they are not.
    pub request_id: Option<FieldName>,
    /// What `/metrics` tells.
    pub metrics: MetricsSettings,
    /// Whether messages carry `Via`, and loops are found by it.
    pub via: bool,
    /// The field in which HTTP proxies are told who the client is. `None`: they are not.
    pub forwarded: Option<ForwardedField>,
    /// Networks from which every connection must begin with a PROXY header;
    /// connections from elsewhere are refused. `None`: no PROXY header.
    pub proxy_protocol: Option<AddressList>,
    /// When and how upstreams are checked.
    pub health: HealthCheck,
    /// How much and how long.
    pub limits: Limits,
    /// Which way requests go.
    pub rules: Arc<Rules>,
    /// The rules in words, each in a line.
    pub rule_words: Vec<String>,
    /// Who may use this proxy, and for what.
    pub access: AccessRules,
    /// Which requests keep their upstream. `None`: none.
    pub sticky: Option<Sticky>,
    /// What upstreams are told of requests in user names; each part once.
    pub told_parts: Vec<Part>,
    /// Which answers let an upstream rest.
    pub rest: Vec<RestRule>,
    /// The pool; each with a name and an authority of its own.
    pub upstreams: Vec<UpstreamSpec>,
    /// How many entries each list in a file of its own has.
    pub lists: BTreeMap<String, usize>,
    /// By their paths, in the words of `--check`, the values that need no more than their row in
    /// [`super::keys`] to be told.
    pub values: BTreeMap<&'static str, String>,
    /// By their paths, the names of the variables in the values of keys.
    pub origins: BTreeMap<&'static str, String>,
    /// What an operator should know. No [`Severity::Error`] among them.
    pub warnings: Vec<Notice>,
    /// Another number when the file, or a secret file it names, has another
    /// content.
    pub fingerprint: u64,
}

impl Config {
    /// Whether a client's user name may end with that of a session.
    pub fn has_sessions(&self) -> bool {
        let is_sticky_by_session =
            || matches!(&self.sticky, Some(sticky) if sticky.by == StickyBy::Session);
        self.told_parts.contains(&Part::Session) || is_sticky_by_session()
    }

    /// Whether `--check` must fail although the file can be used: it relies on
    /// what the first release let pass.
    pub fn relies_on_compatibility(&self) -> bool {
        self.warnings
            .iter()
            .any(|notice| notice.severity == Severity::Compatibility)
    }
}

/// What `/metrics` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Whether it has numbers of each upstream.
    pub per_upstream: bool,
}

/// What the access log looks like, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogSettings {
    /// The form of a line.
    pub format: AccessLogFormat,
    /// A file to append to. `None`: standard output.
    pub file: Option<PathBuf>,
    /// Whether URLs have their query.
    pub query: bool,
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self {
            format: AccessLogFormat::default(),
            file: None,
            query: true,
        }
    }
}

/// The form of a line of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// The Combined Log Format of Apache.
    Combined,
    /// One JSON object.
    Json,
    /// `key=value` pairs.
    #[default]
    Text,
}

/// The form of a line of the log of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people, or a journal.
    #[default]
    Text,
    /// One JSON object.
    Json,
}
