//! Which upstreams an exchange has tried.
//!
//! Not here: which one it tries next ([`super::pool`]), and whether it may ([`super::failover`]).

use std::sync::Arc;

use super::upstream::Upstream;
use super::vitals::UpstreamId;

/// The upstreams an exchange has tried. Mostly there is but one, which asks for no memory.
#[derive(Clone, Default, Debug)]
pub struct Tried {
    first: Option<UpstreamId>,
    more: Vec<UpstreamId>,
    leaves_out_socks: bool,
    /// Those it has not, once that is the shorter list; the next one last.
    pub(super) rest: Option<Vec<Arc<Upstream>>>,
}

impl Tried {
    /// Remembers one more.
    pub fn insert(&mut self, id: UpstreamId) {
        if self.first.is_none() {
            self.first = Some(id);
        } else if self.rest.is_some() || !self.contains(id) {
            self.more.push(id);
        }
    }

    /// Lets no SOCKS5 upstream be tried: what is asked for only an HTTP proxy knows.
    pub fn leave_out_socks(&mut self) {
        self.leaves_out_socks = true;
    }

    /// Whether some are left out whether they were tried or not.
    pub(super) fn is_choosy(&self) -> bool {
        self.leaves_out_socks
    }

    /// Whether it may be tried, and was not yet.
    pub fn may_try(&self, upstream: &Upstream) -> bool {
        let is_left_out = self.leaves_out_socks && upstream.spec.is_socks();
        !is_left_out && !self.contains(upstream.id())
    }

    /// Whether it was tried.
    pub fn contains(&self, id: UpstreamId) -> bool {
        self.first == Some(id) || self.more.contains(&id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = UpstreamId> {
        self.first.into_iter().chain(self.more.iter().copied())
    }

    /// How many were tried.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// Whether none was tried.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}
