//! A request waits until an upstream has room for it (`upstream[].max_active`).
//!
//! It keeps its thread meanwhile, as one does that waits for a connection; so no more wait than there are permits
//! (`limits.workers`) and threads for what lasts.
//!
//! Not here: who is next ([`crate::balance::room`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::balance::room::Wants;
use crate::balance::upstream::Lease;
use crate::net::socket::TICK;
use crate::protocol::answer::Refusal;

use super::client::BoundTo;
use super::exchange::Exchange;
use super::failed::Failed;

/// Rings when there is room.
#[derive(Default)]
struct Bell {
    has_rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.has_rung.lock() = true;
        self.rings.notify_one();
    }

    /// Waits until it has rung since the last time, or until `limit` is over.
    fn wait(&self, limit: Duration) {
        let mut has_rung = self.has_rung.lock();
        if !*has_rung {
            self.rings.wait_for(&mut has_rung, limit);
        }
        *has_rung = false;
    }
}

impl Exchange<'_> {
    /// Nobody could be picked: waits until one of those has room that have as many requests as they may, for as
    /// long as a request may wait in the queue. None: room would not help, or there was none for another attempt.
    ///
    /// # Errors
    /// When there was none for the first attempt, or the client or the process waits no more.
    pub(super) fn wait_for_room(&mut self) -> Result<Option<Lease>, Failed> {
        let Some(wants) = self.full() else {
            return Ok(None);
        };
        decided!(
            self,
            "waits: who could serve it has as many requests as it may"
        );
        self.worker.may_block();
        let begun = Instant::now();
        let waited = self.wait_in_line(wants, begun);
        self.report.waited(begun.elapsed());
        waited
    }

    fn wait_in_line(&mut self, wants: Wants, begun: Instant) -> Result<Option<Lease>, Failed> {
        let most = begun + self.snapshot.config.limits.queue_timeout;
        let until = self.deadline().map_or(most, |whole| whole.min(most));
        let bell = Arc::<Bell>::default();
        let rings = Arc::clone(&bell);
        let in_line = self.pool().line().enter(wants, move || rings.ring());
        // There may have been room before it was in the line; and what serves may change while it waits.
        loop {
            let is_over = until <= Instant::now();
            let room = in_line.take_room();
            if let Some(lease) = self.another_upstream() {
                return Ok(Some(lease));
            }
            if let Some(room) = room {
                in_line.pass_on(&room);
            }
            if self.full().is_none() || (is_over && self.state.last.is_some()) {
                return Ok(None);
            }
            if is_over {
                return Err(Failed::Refused(Refusal::UpstreamsFull));
            }
            self.check_stage()?;
            if self.client_is_gone() {
                return Err(self.given_up());
            }
            bell.wait(until.saturating_duration_since(Instant::now()).min(TICK));
        }
    }

    /// What it waits for, if room would help.
    fn full(&self) -> Option<Wants> {
        let (pool, state) = (self.pool(), &self.state);
        if let Some(bound) = &self.client.bound
            && let BoundTo::Upstream(id) = bound.to
            && let Some(wants) = pool.full_alone(id, &state.tried)
        {
            return Some(wants);
        }
        let wanted = state.destination.wanted.as_ref();
        let wish = wanted.map(|wanted| wanted.wish(state.last));
        pool.full_for(wish.as_ref(), &state.tried)
    }
}
