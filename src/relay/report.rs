//! What is told of an exchange when it is over: the only writer of its metrics and its log line.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::access_log::{Agent, Entry};
use crate::balance::upstream::Lease;
use crate::protocol::fields::Fields;
use crate::protocol::head::RequestHead;
use crate::protocol::target::RequestTarget;

use super::Context;

/// What happened in an exchange so far.
#[derive(Debug)]
pub struct Report {
    id: u64,
    client: SocketAddr,
    begun: Instant,
    kind: Kind,
    /// Only when a log line is wanted.
    words: Option<Box<Words>>,
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
}

/// Which way a request went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RouteTaken {
    /// Nowhere: it was answered here.
    #[default]
    None,
    /// To the origin.
    Direct,
    /// To the upstream of this name.
    Upstream(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unread,
    Http,
    Connect,
}

#[derive(Debug, Default)]
struct Words {
    method: String,
    target: String,
    agent: Option<Agent>,
}

impl Report {
    /// An exchange that begins; `before` is what the client's connection had received (without what is
    /// still unread) and sent until now.
    pub fn begin(ctx: &Context, client: SocketAddr, begun: Instant, before: (u64, u64)) -> Self {
        Self {
            id: ctx.next_exchange_id(),
            client,
            begun,
            kind: Kind::Unread,
            words: None,
            status: None,
            first_byte: None,
            route: RouteTaken::None,
            attempts: 0,
            cause: None,
            before,
        }
    }

    /// Notes what was asked for. A target that cannot be parsed is shown as it came, up to the point
    /// where userinfo could be in it.
    pub fn asked(&mut self, ctx: &Context, head: &RequestHead, target: Option<&RequestTarget<'_>>) {
        self.kind = match head.method() {
            "CONNECT" => Kind::Connect,
            _ => Kind::Http,
        };
        if ctx.access_log.is_on() {
            self.words = Some(Box::new(Words {
                method: head.method().to_owned(),
                target: shown_target(head, target),
                agent: ctx.access_log.wants_agent().then(|| agent(head.fields())),
            }));
        }
    }

    /// Notes the upstream that is tried.
    pub fn tries(&mut self, lease: &Lease) {
        self.attempts += 1;
        self.route = RouteTaken::Upstream(lease.upstream().spec.name.clone());
    }

    /// Notes the first byte of the final response.
    pub fn answered(&mut self, status: u16) {
        self.status = Some(status);
        self.first_byte.get_or_insert_with(|| self.begun.elapsed());
    }

    /// How long the exchange has lasted.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The exchange is over; `after` as `before` in [`Report::begin`].
    pub fn finish(self, ctx: &Context, after: (u64, u64)) {
        let received = after.0.saturating_sub(self.before.0);
        let sent = after.1.saturating_sub(self.before.1);
        let metrics = &ctx.metrics;
        metrics.requests.increment();
        match self.kind {
            Kind::Connect => metrics.connect_requests.increment(),
            Kind::Http | Kind::Unread => metrics.http_requests.increment(),
        }
        if self.route == RouteTaken::Direct {
            metrics.direct.increment();
        }
        // How a tunnel ends is its peers' business.
        let tunneled = match (self.kind, self.status) {
            (_, Some(101)) | (Kind::Connect, Some(200..=299)) => true,
            (_, _) => false,
        };
        let gateway_error = matches!(self.status, None | Some(502..=504));
        let whole = tunneled || (self.cause.is_none() && !gateway_error);
        if whole {
            metrics.succeeded.increment();
        } else {
            metrics.failed.increment();
        }
        metrics.received.add(received);
        metrics.sent.add(sent);
        // What began before the log was turned on is not in it: it would be a line without words.
        let is_wanted = self.words.is_some() || self.kind == Kind::Unread;
        if ctx.access_log.is_on() && is_wanted {
            let words = self.words.unwrap_or_default();
            ctx.access_log.record(Entry {
                time: SystemTime::now(),
                id: self.id,
                client: self.client,
                method: words.method,
                target: words.target,
                status: self.status,
                received,
                sent,
                elapsed: self.begun.elapsed(),
                first_byte: self.first_byte,
                route: match self.route {
                    RouteTaken::None => "-".to_owned(),
                    RouteTaken::Direct => "direct".to_owned(),
                    RouteTaken::Upstream(name) => name,
                },
                attempts: self.attempts,
                cause: self.cause,
                agent: words.agent,
            });
        }
    }
}

/// The target as people may see it: parsed where it could be, and never with userinfo.
fn shown_target(head: &RequestHead, target: Option<&RequestTarget<'_>>) -> String {
    match target {
        Some(RequestTarget::Absolute(absolute)) => {
            let path = String::from_utf8_lossy(absolute.path_and_query);
            let mut authority = Vec::new();
            absolute.authority.write_as_host_field(80, &mut authority);
            format!("http://{}{path}", String::from_utf8_lossy(&authority))
        }
        Some(RequestTarget::Authority(authority)) => authority.to_string(),
        None => {
            let raw = String::from_utf8_lossy(head.target());
            match raw.rsplit_once('@') {
                Some((_userinfo, rest)) => format!("...@{rest}"),
                None => raw.into_owned(),
            }
        }
    }
}

fn agent(fields: Fields<'_>) -> Agent {
    let text = |name| {
        let value = fields.values(name).next().unwrap_or_default();
        String::from_utf8_lossy(value).into_owned()
    };
    Agent {
        referer: text("Referer"),
        user_agent: text("User-Agent"),
    }
}
