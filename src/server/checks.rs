//! What the health thread sees of this server.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::pool::Pool;
use crate::balance::state::CheckVerdict;
use crate::config::health::HealthCheck;
use crate::health::{self, ProberHost};
use crate::protocol::target::Authority;
use crate::relay::Context;
use crate::stop::Woken;

/// The health thread: until the stop signal.
pub(super) fn run(ctx: Arc<Context>) {
    health::run(Arc::new(ServerProberHost(ctx)));
}

struct ServerProberHost(Arc<Context>);

impl ProberHost for ServerProberHost {
    fn current(&self) -> (Arc<Pool>, HealthCheck) {
        let snapshot = self.0.snapshot();
        (Arc::clone(&snapshot.pool), snapshot.config.health.clone())
    }

    fn resolve(&self, upstream: &Authority, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
        let names = &self.0.upstream_names;
        let snapshot = self.0.snapshot();
        let members = snapshot.pool.upstreams();
        let member = members.iter().find(|one| one.spec.authority == *upstream);
        // What requests pass over, a probe tries last, too.
        let book = member.and_then(|member| snapshot.addresses(member));
        health::addresses(upstream, names, book, deadline)
    }

    fn checked(&self, verdict: CheckVerdict) {
        self.0.metrics.probes.increment();
        match verdict {
            CheckVerdict::Works(_) => self.0.metrics.probes_succeeded.increment(),
            CheckVerdict::Fails(_) => {}
        }
    }

    fn wait(&self, limit: Duration) -> ControlFlow<()> {
        match self.0.health_notify.wait(Some(limit)) {
            Woken::Stopped => ControlFlow::Break(()),
            Woken::Notified | Woken::TimedOut => ControlFlow::Continue(()),
        }
    }

    fn wake(&self) {
        self.0.health_notify.notify_one();
    }
}
