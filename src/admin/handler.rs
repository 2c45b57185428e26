//! What each endpoint answers. A panic here costs one answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Surroundings;
use super::families;
use super::gate::{Action, Call, Endpoint};
use super::status;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page needs nothing but itself and this server.
const PAGE_POLICY: &str = include_str!("page_policy.txt");

/// An answer before it is framed.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    media_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, media_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            media_type,
            body: body.into(),
        }
    }

    /// Its fields, framing left out.
    pub(super) fn fields(&self) -> [(&'static str, &'static str); 5] {
        [
            ("Content-Type", self.media_type),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", PAGE_POLICY.trim_ascii_end()),
            ("Server", env!("CARGO_PKG_NAME")),
        ]
    }
}

/// Answers calls that passed the gate.
pub(super) struct Handler {
    seen: Arc<dyn Surroundings>,
}

impl Handler {
    pub(super) fn new(seen: Arc<dyn Surroundings>) -> Self {
        Self { seen }
    }

    /// The answer to a target that [`Call::request_line`] wrote.
    pub(super) fn reply(&self, target: &str) -> Reply {
        let Some(endpoint) = Call::endpoint_of(target) else {
            return Reply::new(404, TEXT, "There is nothing here.\n");
        };
        catch_unwind(AssertUnwindSafe(|| self.answer(&endpoint))).unwrap_or_else(|_panic| {
            self.seen.context().metrics.panics.increment();
            Reply::new(500, TEXT, "This is a defect; the log has the details.\n")
        })
    }

    fn answer(&self, endpoint: &Endpoint) -> Reply {
        let ctx = self.seen.context();
        match endpoint {
            Endpoint::Page => {
                let page = include_str!("page.html");
                Reply::new(200, "text/html; charset=utf-8", page)
            }
            Endpoint::Health => Reply::new(200, JSON, status::HEALTH),
            Endpoint::Ready(detail) => {
                let (readiness, body) = status::ready(ctx, *detail);
                let code = if readiness.is_ready() { 200 } else { 503 };
                Reply::new(code, JSON, body)
            }
            Endpoint::Status => Reply::new(200, JSON, status::status(ctx, &self.seen.load())),
            Endpoint::Metrics => {
                let text = families::metrics(ctx, &self.seen.load());
                Reply::new(200, "text/plain; version=0.0.4; charset=utf-8", text)
            }
            Endpoint::Act(action, name) => self.act(*action, name),
        }
    }

    fn act(&self, action: Action, name: &str) -> Reply {
        let snapshot = self.seen.context().snapshot();
        let Some(upstream) = snapshot.pool.find(name) else {
            return Reply::new(404, TEXT, "There is no upstream of this name.\n");
        };
        let vitals = upstream.vitals();
        match action {
            Action::Drain => vitals.drain(),
            Action::Enable => vitals.enable(),
        }
        let name = &upstream.spec.name;
        match (action, upstream.spec.weight) {
            (Action::Drain, _) => {
                log::info!("upstream {name} is drained: it gets no new requests");
            }
            (Action::Enable, 0) => log::warn!(
                "upstream {name} is enabled, but its weight in the file is 0: it gets no requests"
            ),
            (Action::Enable, _) => log::info!("upstream {name} is enabled"),
        }
        Reply::new(200, JSON, status::acted(upstream))
    }
}
