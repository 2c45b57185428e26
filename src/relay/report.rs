//! What is told of an exchange when it is over: the only writer of its metrics and its log line.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::access_log::{AccessEntry, Agent, Try, TryEnd};
use crate::balance::state::{Epoch, is_gateway_error};
use crate::balance::upstream::{Lease, Upstream};
use crate::balance::vitals::{Cuts, Vitals};
use crate::config::access::User;
use crate::metrics::Metrics;
use crate::metrics::exchanges::{MethodClass, RELAYED_GATEWAY_ERROR, RouteClass, UNANSWERED};
use crate::net::tunnel::{Age, Direction, Meter, TunnelEnd, TunnelTotals};
use crate::protocol::answer::HopFailure;
use crate::protocol::answer::Refusal;
use crate::protocol::fields::Fields;
use crate::protocol::head::RequestHead;
use crate::protocol::persistence::CloseReason;
use crate::protocol::request_id::{FieldName, RequestId};
use crate::protocol::target::RequestTarget;

use super::client::Client;
use super::context::{Context, unix_ms};
use super::failed::{Failed, RESTS};
use super::scratch::Scratch;

pub use super::route_taken::RouteTaken;

/// What happened in an exchange so far.
#[derive(Debug)]
pub struct Report {
    /// Its number in this process.
    number: u64,
    /// Its name, once somebody has asked for it.
    id: OnceCell<RequestId>,
    client: SocketAddr,
    begun: Instant,
    /// How long it waited for a permit from then on, and for an upstream to have room.
    queued: Duration,
    kind: MethodClass,
    /// What the access log is told; only when a line of it is wanted, and once a head was read.
    entry: Option<Box<AccessEntry>>,
    /// The status sent to the client.
    pub status: Option<u16>,
    /// When the first byte of the final response went out.
    pub first_byte: Option<Duration>,
    /// Which way the request went.
    pub route: RouteTaken,
    /// Next hops tried.
    pub attempts: u32,
    /// What went wrong.
    pub cause: Option<&'static str>,
    /// Bytes of the client's connection that belong to other messages.
    before: (u64, u64),
    /// The tunnel that it became, once that is over.
    tunnel: Option<TunnelTotals>,
}

impl Report {
    /// An exchange of `client` that begins; `before` is what its connection had received (without what is
    /// still unread) and sent until now.
    pub fn begin(ctx: &Context, client: &mut Client, before: (u64, u64)) -> Self {
        let queued = std::mem::take(&mut client.queued);
        Self {
            number: ctx.next_exchange_number(),
            id: OnceCell::new(),
            client: client.address,
            begun: client.head_begun.take().unwrap_or_else(Instant::now),
            queued,
            kind: MethodClass::Unread,
            entry: None,
            status: None,
            first_byte: None,
            route: RouteTaken::None,
            attempts: 0,
            cause: None,
            before,
            tunnel: None,
        }
    }

    /// Notes what was asked for. A target that cannot be parsed is shown as it came, up to the point
    /// where userinfo could be in it.
    pub fn asked(
        &mut self,
        (ctx, scratch): (&Context, &mut Scratch),
        head: &RequestHead,
        target: Option<&RequestTarget<'_>>,
    ) {
        self.kind = MethodClass::of(head.method());
        if ctx.access_log.is_on() {
            let mut entry = match scratch.entries.pop() {
                Some(mut used) => {
                    used.reset(self.number, self.client);
                    used
                }
                None => Box::new(AccessEntry::new(self.number, self.client)),
            };
            entry.method.push_str(head.method());
            show_target(head, target, &mut entry.target);
            if ctx.access_log.wants_agent() {
                show_agent(head.fields(), &mut entry.agent);
            }
            if !ctx.access_log.wants_query() {
                leave_queries_out(&mut entry);
            }
            self.entry = Some(entry);
        }
    }

    /// What the request is called. The same for as long as it lasts.
    pub fn id(&self, ctx: &Context) -> &RequestId {
        self.id
            .get_or_init(|| ctx.request_id(SystemTime::now(), self.begun.elapsed(), self.number))
    }

    /// Takes over what the client calls its request, if it does so soundly in the field `name`.
    pub fn called(&mut self, head: &RequestHead, name: &FieldName) {
        if let Some(id) = RequestId::of_client(head.fields(), name) {
            self.id = OnceCell::from(id);
        }
    }

    /// Notes who the client has shown to be.
    pub fn asked_by(&mut self, user: Option<&User>) {
        if let Some(entry) = &mut self.entry {
            entry.user = user.map(|user| user.username.clone());
        }
    }

    /// Whether it had to wait, be it for a permit or for an upstream to have room.
    pub fn has_waited(&self) -> bool {
        !self.queued.is_zero()
    }

    /// Notes that it has waited so long for an upstream to have room.
    pub fn waited(&mut self, time: Duration) {
        self.queued += time;
    }

    /// Notes that the connection which is used took so long to make, or was there already.
    pub fn connected(&mut self, took: Option<Duration>) {
        if let Some(entry) = &mut self.entry {
            entry.connected = took;
        }
    }

    /// Notes what came of an attempt at the upstream of `lease`, or at the origin, that began at `begun`.
    pub fn tried(&mut self, ctx: &Context, lease: Option<&Lease>, begun: Instant, end: TryEnd) {
        let hop = lease.map_or("direct", |lease| &lease.upstream().spec.name);
        log::debug!(
            "{}: {hop}: {end} after {:.1?}",
            self.id(ctx),
            begun.elapsed()
        );
        if let Some(entry) = &mut self.entry {
            entry.tries.push(Try {
                hop,
                end,
                elapsed: begun.elapsed(),
            });
        }
    }

    /// Notes the upstream that is tried.
    pub fn tries(&mut self, lease: &Lease) {
        if self.attempts > 0 {
            count(&lease.upstream().vitals().counters.retries, 1);
        }
        self.attempts += 1;
        self.route = RouteTaken::Upstream(Arc::clone(lease.upstream()));
    }

    /// Notes who of those that were tried has the connection that is used.
    pub fn goes_to(&mut self, lease: &Lease) {
        self.route = RouteTaken::Upstream(Arc::clone(lease.upstream()));
    }

    /// Notes the first byte of the final response.
    pub fn answered(&mut self, status: u16) {
        self.status = Some(status);
        self.first_byte.get_or_insert_with(|| self.begun.elapsed());
    }

    /// Notes the answer of this proxy's own that takes the place of a response.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.cause = Some(refusal.label());
        self.answered(refusal.status());
    }

    /// Notes how its tunnel ended.
    pub fn tunneled(&mut self, totals: TunnelTotals) {
        self.cause = match totals.end {
            TunnelEnd::Finished => None,
            TunnelEnd::Reset => Some("tunnel_reset"),
            TunnelEnd::Idle => Some("tunnel_idle"),
            TunnelEnd::Cut => Some(CloseReason::Draining.label()),
            TunnelEnd::HopCut => Some(HopFailure::UpstreamCut.label()),
        };
        self.tunnel = Some(totals);
    }

    /// The exchange is over; `after` as `before` in [`Report::begin`].
    pub fn finish(&mut self, ctx: &Context, after: (u64, u64)) {
        let received = after.0.saturating_sub(self.before.0);
        let sent = after.1.saturating_sub(self.before.1);
        let elapsed = self.begun.elapsed();
        self.count(&ctx.metrics, elapsed, (received, sent));
        log::debug!(
            "{}: over after {elapsed:.1?}: {}",
            self.id(ctx),
            self.failure().or(self.cause).unwrap_or("complete")
        );
        // What began before the log was turned on is not in it: it would be a line without words.
        if !ctx.access_log.is_on() {
            return;
        }
        let mut entry = match self.entry.take() {
            Some(entry) => entry,
            None if self.kind == MethodClass::Unread => {
                Box::new(AccessEntry::new(self.number, self.client))
            }
            None => return,
        };
        let now = SystemTime::now();
        entry.time = now;
        entry.status = self.status;
        (entry.received, entry.sent) = (received, sent);
        entry.elapsed = elapsed;
        entry.first_byte = self.first_byte;
        entry.route.push_str(match &self.route {
            RouteTaken::None => "-",
            RouteTaken::Direct => "direct",
            RouteTaken::Upstream(upstream) => &upstream.spec.name,
        });
        entry.attempts = self.attempts;
        entry.cause = self.failure().or(self.cause);
        let id = || ctx.request_id(now, elapsed, self.number);
        entry.request_id = self.id.get_or_init(id).clone();
        entry.queued = self.queued;
        ctx.access_log.record(&mut entry);
        self.entry = Some(entry);
    }

    /// The memory of what the access log was told.
    pub(super) fn into_entry(self) -> Option<Box<AccessEntry>> {
        self.entry
    }

    fn count(&self, metrics: &Metrics, elapsed: Duration, (received, sent): (u64, u64)) {
        metrics.requests.increment();
        match self.kind {
            MethodClass::Connect => metrics.connect_requests.increment(),
            MethodClass::Unread | MethodClass::Safe | MethodClass::Other => {
                metrics.http_requests.increment();
            }
        }
        let route = match self.route {
            RouteTaken::None => RouteClass::None,
            RouteTaken::Direct => RouteClass::Direct,
            RouteTaken::Upstream(_) => RouteClass::Upstream,
        };
        if route == RouteClass::Direct {
            metrics.direct.increment();
        }
        metrics.exchanges.count(route, self.kind, self.status);
        match self.failure() {
            None => metrics.succeeded.increment(),
            Some(cause) => {
                metrics.failed.increment();
                metrics.failures.count(cause);
            }
        }
        if let Some(first_byte) = self.first_byte {
            metrics.times.first_byte.observe(first_byte);
        }
        // The bytes of a tunnel were counted while they flowed.
        let flowed = match self.tunnel {
            None => {
                metrics.times.exchange.observe(elapsed);
                (0, 0)
            }
            Some(totals) => {
                metrics.times.tunnel.observe(elapsed);
                let ends = &metrics.tunnel_ends;
                match totals.end {
                    TunnelEnd::Finished => ends.finished.increment(),
                    TunnelEnd::Reset => ends.reset.increment(),
                    TunnelEnd::Idle => ends.idle.increment(),
                    TunnelEnd::Cut => ends.cut.increment(),
                    TunnelEnd::HopCut => ends.upstream_cut.increment(),
                }
                (totals.to_hop, totals.to_client)
            }
        };
        metrics.received.add(received.saturating_sub(flowed.0));
        metrics.sent.add(sent.saturating_sub(flowed.1));
    }

    /// Why it counts as failed, if it does. How a tunnel ends is its peers' business.
    fn failure(&self) -> Option<&'static str> {
        if self.tunnel.is_some() {
            return None;
        }
        self.cause.or(match self.status {
            None => Some(UNANSWERED),
            Some(status) if is_gateway_error(status) => Some(RELAYED_GATEWAY_ERROR),
            Some(_) => None,
        })
    }
}

/// Counts the bytes of one tunnel while they flow.
#[derive(Debug)]
pub struct TunnelMeter {
    metrics: Arc<Metrics>,
    /// The upstream, and when its attempt began.
    upstream: Option<(Arc<Upstream>, Epoch, Cuts)>,
}

impl TunnelMeter {
    /// For a tunnel through the upstream of `lease`, or directly.
    pub fn new(ctx: &Context, lease: Option<&Lease>) -> Self {
        Self {
            metrics: Arc::clone(&ctx.metrics),
            upstream: lease
                .map(|lease| (Arc::clone(lease.upstream()), lease.began(), lease.cuts())),
        }
    }
}

impl Meter for TunnelMeter {
    fn moved(&self, direction: Direction, age: Age, bytes: u64) {
        let (sent, received) = match (direction, age) {
            (Direction::ToHop, _) => {
                self.metrics.received.add(bytes);
                (bytes, 0)
            }
            (Direction::ToClient, age) => {
                self.metrics.sent.add(bytes);
                // What the upstream sent early was counted when it was read.
                match age {
                    Age::Early => (0, 0),
                    Age::Fresh => (0, bytes),
                }
            }
        };
        if let Some((upstream, began, _)) = &self.upstream {
            count_upstream_bytes(upstream.vitals(), sent, received);
            if received > 0
                && let Some(change) = upstream.vitals().good(*began, unix_ms)
            {
                upstream.tell(change, "bytes came through a tunnel", unix_ms());
            }
        }
    }

    fn is_cut(&self) -> bool {
        let upstream = self.upstream.as_ref();
        upstream.is_some_and(|(upstream, _, cuts)| upstream.vitals().cuts() != *cuts)
    }
}

/// Counts bytes sent to and received from an upstream.
pub fn count_upstream_bytes(vitals: &Vitals, sent: u64, received: u64) {
    count(&vitals.counters.bytes_sent, sent);
    count(&vitals.counters.bytes_received, received);
}

/// Counts an attempt at an upstream by how it ended.
pub fn count_attempt<T>(vitals: &Vitals, result: &Result<T, Failed>) {
    let counters = &vitals.counters;
    let counter = match result {
        Ok(_) | Err(Failed::Hop(RESTS)) => &counters.attempts_answered,
        Err(Failed::Hop(_)) => &counters.attempts_failed,
        Err(Failed::Refused(_) | Failed::Closed(_)) => &counters.attempts_given_up,
    };
    count(counter, 1);
}

/// Counts an attempt whose connection was not waited for, because another was there sooner or none was
/// wanted any more.
pub fn count_given_up(lease: &Lease) {
    count(&lease.upstream().vitals().counters.attempts_given_up, 1);
}

/// Counts a new connection to an upstream.
pub fn count_connection(lease: &Lease) {
    count(&lease.upstream().vitals().counters.connections_opened, 1);
}

/// Counts how long it took to connect since `begun`, or to find out that it cannot be; says it, too.
pub fn dialled(ctx: &Context, begun: Instant) -> Duration {
    let took = begun.elapsed();
    ctx.metrics.times.connect.observe(took);
    took
}

pub(super) fn count(counter: &AtomicU64, more: u64) {
    if more > 0 {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// The target as people may see it: parsed where it could be, and never with userinfo.
fn show_target(head: &RequestHead, target: Option<&RequestTarget<'_>>, shown: &mut String) {
    let mut bytes = std::mem::take(shown).into_bytes();
    match target {
        Some(RequestTarget::Absolute(absolute)) => absolute.write_shown(&mut bytes),
        Some(RequestTarget::Authority(authority)) => authority.write(&mut bytes),
        None => match head.target().rsplit(|byte| *byte == b'@').next() {
            Some(rest) if rest.len() < head.target().len() => {
                bytes.extend_from_slice(b"...@");
                bytes.extend_from_slice(rest);
            }
            _ => bytes.extend_from_slice(head.target()),
        },
    }
    *shown = String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
}

fn show_agent(fields: Fields<'_>, agent: &mut Agent) {
    let value = |name| String::from_utf8_lossy(fields.values(name).next().unwrap_or_default());
    show_without_userinfo(&value("Referer"), &mut agent.referer);
    agent.user_agent.push_str(&value("User-Agent"));
}

/// Queries carry what nobody else is to see: of the target, and of the page that led there, which had been a
/// target before.
fn leave_queries_out(entry: &mut AccessEntry) {
    for url in [&mut entry.target, &mut entry.agent.referer] {
        if let Some(end) = url.find('?') {
            url.truncate(end);
        }
    }
}

/// Appends a URL as people may see it. Browsers leave userinfo out of `Referer`, programs do not.
fn show_without_userinfo(url: &str, shown: &mut String) {
    let (scheme, rest) = url.split_once("//").unwrap_or((url, ""));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    match authority.rsplit_once('@') {
        Some((_userinfo, host)) => {
            for part in [scheme, "//", host, path] {
                shown.push_str(part);
            }
        }
        None => shown.push_str(url),
    }
}
