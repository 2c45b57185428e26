//! One upstream: what the file says about it, and its vitals.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::credentials::Credentials;
use crate::protocol::target::Authority;

use super::history::{EventKind, History};
use super::room::{Line, Slot};
use super::state::{Availability, Change, Epoch, Health};
use super::sticky;
#[cfg(feature = "tls")]
use super::tls::Tls;
use super::told::Told;
use super::vitals::{Cuts, UpstreamId, Vitals};

/// The priority of one whose file says none.
const PRIORITY_DEFAULT: u32 = 100;

/// What an upstream speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum UpstreamProtocol {
    /// It is an HTTP proxy.
    #[default]
    Http,
    /// It is a SOCKS5 proxy: what goes through it is for the origin.
    Socks5,
    /// It is an HTTP proxy that is reached over TLS.
    #[cfg(feature = "tls")]
    Https,
}

impl UpstreamProtocol {
    /// The scheme of its URL.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Socks5 => "socks5",
            #[cfg(feature = "tls")]
            Self::Https => "https",
        }
    }
}

/// An upstream as it is configured.
#[derive(Clone, Debug)]
pub struct UpstreamSpec {
    /// What logs, metrics and actions call it.
    pub name: String,
    /// What it speaks.
    pub protocol: UpstreamProtocol,
    /// Where it listens.
    pub authority: Authority,
    /// The user and password it is told, to HTTP proxies in `Proxy-Authorization`; those for checks, if requests have
    /// others.
    pub credentials: Option<Credentials>,
    /// What it is told of the client.
    pub told: Told,
    /// Its share among others; 0 = no new requests.
    pub weight: u32,
    /// Lower is preferred.
    pub priority: u32,
    /// The name of the group that it is in.
    pub group: Option<Box<str>>,
    /// How many requests and tunnels it gets at a time.
    pub max_active: Option<NonZeroU32>,
    /// How it is known over TLS, if it is reached so.
    #[cfg(feature = "tls")]
    pub tls: Option<Arc<Tls>>,
}

impl UpstreamSpec {
    /// One of which nothing more is said: its name is `host:port`.
    pub fn new(protocol: UpstreamProtocol, authority: Authority) -> Self {
        Self {
            name: authority.to_string(),
            protocol,
            authority,
            credentials: None,
            told: Told::default(),
            weight: 1,
            priority: PRIORITY_DEFAULT,
            group: None,
            max_active: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// `http://host:port` or `socks5://host:port`, without credentials.
    pub fn url(&self) -> String {
        format!("{}://{}", self.protocol.scheme(), self.authority)
    }

    /// Where it is.
    pub fn place(&self) -> (UpstreamProtocol, &Authority) {
        (self.protocol, &self.authority)
    }

    /// What tells it from other upstreams: where it is, and as whom we are there.
    pub fn identity(&self) -> (UpstreamProtocol, &Authority, Option<&str>) {
        let user = self.credentials.as_ref().map(Credentials::user);
        (self.protocol, &self.authority, user)
    }

    /// Whether it is a SOCKS5 proxy.
    pub fn is_socks(&self) -> bool {
        self.protocol == UpstreamProtocol::Socks5
    }
}

/// A member of a [`super::pool::Pool`].
#[derive(Debug)]
pub struct Upstream {
    /// What the file says.
    pub spec: UpstreamSpec,
    url: Box<str>,
    /// Of its URL and its user: what sessions are shared out by.
    hash: u64,
    vitals: Arc<Vitals>,
    history: Arc<History>,
    /// Who waits until it has room.
    line: Arc<Line>,
}

/// One attempt or tunnel on an upstream; counted as active until it is dropped.
#[must_use = "the upstream counts as free when the lease is dropped"]
#[derive(Debug)]
pub struct Lease {
    upstream: Arc<Upstream>,
    began: Epoch,
    /// [`Vitals::times_given_up`] when it began.
    given_up: u64,
    /// [`Vitals::cuts`] when it began.
    cuts: Cuts,
    /// Whether it is a request to one that is offline, to see whether it works.
    is_trial: bool,
}

impl Upstream {
    pub(super) fn new(
        spec: UpstreamSpec,
        vitals: Arc<Vitals>,
        (history, line): (Arc<History>, Arc<Line>),
    ) -> Self {
        let url = spec.url().into_boxed_str();
        vitals.limit(spec.max_active);
        let known_by = match &spec.credentials {
            Some(credentials) => Cow::Owned(format!("{url} {}", credentials.user())),
            None => Cow::Borrowed(&*url),
        };
        Self {
            hash: sticky::hash(known_by.as_bytes()),
            spec,
            url,
            vitals,
            history,
            line,
        }
    }

    /// What is known about it.
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// As [`UpstreamSpec::url`].
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What sessions are shared out by, the same on every relay.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The group that it is in: it is compared with the others of that one, which get the same requests.
    pub fn group(&self) -> Option<&str> {
        self.spec.group.as_deref()
    }

    /// Its identity, over reloads.
    pub fn id(&self) -> UpstreamId {
        self.vitals.id()
    }

    /// Gives it another weight at run time; that of the file, if it is the same.
    pub fn set_weight(&self, weight: u32) {
        if weight == self.spec.weight {
            self.vitals.forget_weight();
        } else {
            self.vitals.set_weight(weight);
        }
    }

    /// Its share among others: that of the file, unless another one was set at run time.
    pub fn weight(&self) -> u32 {
        self.vitals.weight_set().unwrap_or(self.spec.weight)
    }

    /// Whether it may get new requests while it is online: neither drained at run time nor by a
    /// weight of 0.
    pub fn is_in_service(&self) -> bool {
        self.weight() != 0 && !self.vitals.is_drained()
    }

    /// Whether it gets requests now: in service, and not offline.
    pub fn serves(&self) -> bool {
        self.is_in_service() && !self.vitals.is_offline()
    }

    /// Logs a change of state and the evidence for it, and keeps both for people to look at. The thread that
    /// gets the change tells it, so that each is told one time. `now_unix_ms`: milliseconds since 1970.
    pub fn tell(&self, change: Change, evidence: &str, now_unix_ms: u64) {
        self.vitals.set_evidence(evidence);
        let (level, kind) = match change.to {
            Health::Offline(_) => (log::Level::Warn, EventKind::Offline),
            Health::Online if change.from == Availability::Offline => {
                (log::Level::Info, EventKind::Online)
            }
            // Any client can bring about as many of these as it likes.
            Health::Online => (log::Level::Debug, EventKind::Cleared),
            Health::Suspect(_) => (log::Level::Debug, EventKind::Suspect),
        };
        let sentence = sentence(&self.name_for(change), change, evidence);
        log::log!(level, "{sentence}");
        self.history
            .add(now_unix_ms, kind, Some(&self.spec.name), &sentence);
    }

    /// What a line about a change calls it: with its address where that is the mistake.
    fn name_for(&self, change: Change) -> Cow<'_, str> {
        let UpstreamSpec {
            name, authority, ..
        } = &self.spec;
        match change.to {
            Health::Offline(reason) if reason.is_about_name() && *name != authority.to_string() => {
                Cow::Owned(format!("{name} ({authority})"))
            }
            Health::Offline(_) | Health::Online | Health::Suspect(_) => Cow::Borrowed(name),
        }
    }

    /// It opened a tunnel at `now`. Logs it if it was thought to have no CONNECT.
    pub fn opened_tunnel(&self, now: Instant) {
        if self.vitals.opened_tunnel(now) {
            let name = &self.spec.name;
            log::info!("upstream {name} has CONNECT: it has opened a tunnel");
        }
    }

    /// It refused by `now`, with `status`, a tunnel that another upstream opened; `target_hash` tells targets
    /// apart. Logs it if this shows that it has no CONNECT.
    pub fn refused_tunnel(&self, status: u16, target_hash: u64, now: Instant) {
        if self.vitals.refused_tunnel(target_hash, now) {
            let name = &self.spec.name;
            log::warn!(
                "upstream {name} has no CONNECT: it answered {status} to what others opened; they get the \
                 tunnels, and it gets everything else"
            );
        }
    }
}

impl Lease {
    /// None: the upstream has as many as it may.
    pub(super) fn take(upstream: &Arc<Upstream>) -> Option<Self> {
        let has_room = upstream.vitals.begin();
        has_room.then(|| Self {
            upstream: Arc::clone(upstream),
            began: upstream.vitals.epoch(),
            given_up: upstream.vitals.times_given_up(),
            cuts: upstream.vitals.cuts(),
            is_trial: false,
        })
    }

    /// For a trial that begins at `now`.
    pub(super) fn trial(upstream: &Arc<Upstream>, now: Instant) -> Option<Self> {
        let mut lease = Self::take(upstream)?;
        upstream.vitals.trial_begins(now);
        lease.is_trial = true;
        Some(lease)
    }

    /// The upstream that was picked.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// When the attempt began, as far as the state of the upstream goes.
    pub fn began(&self) -> Epoch {
        self.began
    }

    /// Whether a check has shown since the pick that an answer is waited for in vain: the upstream does
    /// not answer for itself, or passes nothing that others pass. What other exchanges met there does not
    /// count; that may be their own doing.
    pub fn is_lost(&self) -> bool {
        let vitals = &self.upstream.vitals;
        vitals.is_offline() && vitals.times_given_up() != self.given_up
    }

    /// [`Vitals::cuts`] when it began.
    pub fn cuts(&self) -> Cuts {
        self.cuts
    }

    /// Whether an operator has cut the upstream since the pick.
    pub fn is_cut(&self) -> bool {
        self.upstream.vitals.cuts() != self.cuts
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_trial {
            self.upstream.vitals.trial_ends();
        }
        let Upstream { vitals, line, .. } = &*self.upstream;
        if vitals.is_limited() {
            line.offer(Slot::of_lease(vitals));
        } else {
            vitals.end();
        }
    }
}

/// A change of state as one line for the log.
fn sentence(name: &str, change: Change, evidence: &str) -> String {
    // A suspicion is part of the time in service.
    let was = match change.from {
        Availability::Online | Availability::Suspect => "online",
        Availability::Offline => "offline",
    };
    let is = match change.to {
        Health::Online if change.from == Availability::Offline => "online again".to_owned(),
        Health::Online => "no longer a suspect".to_owned(),
        Health::Suspect(doubt) => format!("a suspect: {doubt}"),
        Health::Offline(reason) => format!("offline: {reason}"),
    };
    let because = if evidence.is_empty() { "" } else { "; " };
    let time = match (change.after, change.to) {
        (Some(after), _) => format!(" (was {was} for {})", two_units(after)),
        (None, Health::Offline(_)) => format!(" (was {was} since the start)"),
        (None, Health::Online | Health::Suspect(_)) => String::new(),
    };
    format!("upstream {name} is {is}{because}{evidence}{time}")
}

/// A duration in its two largest units.
fn two_units(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10 => format!("{:.1} s", duration.as_secs_f64()),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::reason::{Doubt, NO_NAME, OfflineReason};
    use crate::balance::state::{CheckVerdict, Thresholds};

    /// Without a user the hash is that of the URL, which relays must agree on.
    #[test]
    fn sessions_are_shared_out_among_the_users_of_one_gateway() {
        let hash = |user: Option<&str>| {
            let spec = UpstreamSpec {
                credentials: user.map(|user| Credentials::basic(user, "x")),
                ..upstream().spec.clone()
            };
            Upstream::new(spec, Arc::default(), Default::default()).hash()
        };
        assert_eq!(hash(None), sticky::hash(b"http://a.test:3128"));
        assert!(hash(None) != hash(Some("ann")) && hash(Some("ann")) != hash(Some("bob")));
    }

    fn upstream() -> Arc<Upstream> {
        let spec = UpstreamSpec {
            name: "a".into(),
            credentials: Some(Credentials::basic("bob", "hunter2")),
            ..UpstreamSpec::new(
                UpstreamProtocol::Http,
                Authority::parse(b"a.test:3128", None).unwrap(),
            )
        };
        Arc::new(Upstream::new(spec, Arc::default(), Default::default()))
    }

    const ONCE: Thresholds = Thresholds { fall: 1, rise: 1 };

    fn check_line(change: Change, evidence: &str, line: &str) {
        assert_eq!(sentence("a", change, evidence), line);
    }

    #[test]
    fn the_url_shows_no_credentials() {
        assert_eq!(upstream().url(), "http://a.test:3128");
    }

    #[test]
    fn debug_shows_no_credentials() {
        let lease = Lease::take(&upstream()).unwrap();
        let shown = format!("{lease:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("Ym9iOmh1bnRlcjI"),
            "{shown}"
        );
    }

    #[test]
    fn a_lease_counts_until_it_is_dropped() {
        let upstream = upstream();
        let (first, second) = (
            Lease::take(&upstream).unwrap(),
            Lease::take(&upstream).unwrap(),
        );
        assert_eq!(upstream.vitals().active(), 2);
        drop(first);
        assert_eq!(upstream.vitals().active(), 1);
        drop(second);
        assert_eq!(upstream.vitals().active(), 0);
    }

    fn check_fails(upstream: &Upstream, reason: OfflineReason) {
        let (began, _) = upstream.vitals().check_begins();
        let verdict = CheckVerdict::Fails(reason);
        upstream.vitals().check_ended(began, verdict, ONCE, 0);
    }

    #[test]
    fn a_check_that_shows_it_dead_ends_the_leases_that_wait() {
        let upstream = upstream();
        let lease = Lease::take(&upstream).unwrap();
        check_fails(&upstream, OfflineReason::Silent);
        assert!(!lease.is_lost(), "not all that takes it offline does");
        upstream.vitals().give_up_waiting();
        assert!(lease.is_lost());
        assert!(
            !Lease::take(&upstream).unwrap().is_lost(),
            "a trial waits anew"
        );
    }

    #[test]
    fn an_attempt_that_cannot_connect_ends_no_other_lease() {
        let upstream = upstream();
        let lease = Lease::take(&upstream).unwrap();
        upstream.vitals().give_up_waiting();
        upstream
            .vitals()
            .cannot_connect(lease.began(), "connection refused", 1, 0);
        assert!(upstream.vitals().is_offline());
        assert!(!lease.is_lost());
    }

    #[test]
    fn a_recovery_ends_no_lease() {
        let upstream = upstream();
        let lease = Lease::take(&upstream).unwrap();
        check_fails(&upstream, OfflineReason::Silent);
        upstream.vitals().give_up_waiting();
        let (began, depth) = upstream.vitals().check_begins();
        let verdict = CheckVerdict::Works(depth);
        upstream.vitals().check_ended(began, verdict, ONCE, 0);
        assert!(!lease.is_lost());
    }

    #[test]
    fn a_name_that_leads_nowhere_is_told() {
        let change = |reason| Change {
            from: Availability::Online,
            to: Health::Offline(OfflineReason::CannotConnect(reason)),
            after: None,
        };
        let upstream = upstream();
        assert_eq!(upstream.name_for(change(NO_NAME)), "a (a.test:3128)");
        assert_eq!(upstream.name_for(change("connection refused")), "a");
    }

    #[test]
    fn a_change_that_is_told_is_in_the_history_with_the_same_words() {
        let upstream = upstream();
        let began = upstream.vitals().epoch();
        let change = upstream.vitals().doubt(began, Doubt::Truncated).unwrap();
        upstream.tell(change, "", 7);
        let change = upstream.vitals().good(began, || 8).unwrap();
        upstream.tell(change, "it answered a request", 8);
        let change = upstream
            .vitals()
            .cannot_connect(began, "connection refused", 1, 9)
            .unwrap();
        upstream.tell(change, "", 9);
        let told = upstream.history.events().into_iter();
        let told: Vec<_> = told
            .map(|event| (event.unix_ms, event.kind, event.text.to_string()))
            .collect();
        let words = |text: &str| format!("upstream a is {text}");
        let offline = "offline: cannot connect: connection refused (was online since the start)";
        let cleared = "no longer a suspect; it answered a request";
        let suspect = "a suspect: a response was cut short";
        assert_eq!(
            told,
            [
                (9, EventKind::Offline, words(offline)),
                (8, EventKind::Cleared, words(cleared)),
                (7, EventKind::Suspect, words(suspect)),
            ]
        );
    }

    #[test]
    fn a_change_is_told_with_its_evidence_and_the_time_before_it() {
        let offline = Health::Offline(OfflineReason::ProbeStatus(403));
        let change = |from, to, after| Change { from, to, after };
        let (online, was_offline) = (Availability::Online, Availability::Offline);
        let seconds = |n| Some(Duration::from_secs(n));
        check_line(
            change(online, offline, None),
            "the probe passed through b",
            "upstream a is offline: probe: got 403; the probe passed through b (was online since the start)",
        );
        check_line(
            change(Availability::Suspect, offline, seconds(7_320)),
            "",
            "upstream a is offline: probe: got 403 (was online for 2 h 2 min)",
        );
        check_line(
            change(
                was_offline,
                Health::Online,
                Some(Duration::from_millis(1_240)),
            ),
            "the probe passed",
            "upstream a is online again; the probe passed (was offline for 1.2 s)",
        );
        check_line(
            change(was_offline, Health::Online, seconds(61)),
            "",
            "upstream a is online again (was offline for 1 min 1 s)",
        );
        check_line(
            change(was_offline, Health::Online, seconds(90_000)),
            "",
            "upstream a is online again (was offline for 1 d 1 h)",
        );
        check_line(
            change(online, Health::Suspect(Doubt::Truncated), None),
            "",
            "upstream a is a suspect: a response was cut short",
        );
    }
}
