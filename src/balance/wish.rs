//! What one exchange wants of the upstream that is picked for it, and which ones its next attempt may go to.
//!
//! Not here: the choice among those ([`super::pool`]), and what of a request makes its wish (the relay says so).

use std::time::{Duration, Instant};

use super::rests::RestsForHost;
use super::sticky::SessionKey;
use super::tried::Tried;
use super::upstream::Upstream;

/// What a request wants of the upstream that is picked for it, beyond what the mode says.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'w> {
    /// It belongs to a session.
    pub session: Option<Session>,
    /// Where it goes to: not through an upstream that rests for that host, if possible.
    pub host: Option<&'w str>,
    /// Rather none than one that rests.
    pub only_rested: bool,
    /// When it is made.
    pub now: Instant,
}

/// A session that keeps its upstream.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Which one.
    pub key: SessionKey,
    /// For how long after its last request.
    pub ttl: Duration,
    /// How many sessions are remembered; beyond, the one that was not used for longest is forgotten.
    pub most: usize,
}

/// Which upstreams an attempt may go to, as far as its exchange is concerned.
#[derive(Clone, Copy)]
pub(super) struct Filter<'f> {
    pub(super) tried: &'f Tried,
    pub(super) rests: Option<&'f RestsForHost>,
    /// It is for a tunnel, at this time.
    pub(super) tunnel_at: Option<Instant>,
}

impl Filter<'_> {
    pub(super) fn passes(self, upstream: &Upstream) -> bool {
        self.may_try(upstream) && !self.rests(upstream)
    }

    /// As [`Filter::passes`], be it that it rests.
    pub(super) fn may_try(self, upstream: &Upstream) -> bool {
        let is_capable = |at| upstream.vitals().may_be_asked_for_tunnel(at);
        self.tried.may_try(upstream) && self.tunnel_at.is_none_or(is_capable)
    }

    pub(super) fn rests(self, upstream: &Upstream) -> bool {
        self.rests
            .is_some_and(|rests| rests.until(upstream.id()).is_some())
    }
}
