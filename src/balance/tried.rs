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

    /// Remembers many more, none of which was tried before: it costs no look at all others for each.
    pub fn extend(&mut self, ids: impl IntoIterator<Item = UpstreamId>) {
        let mut ids = ids.into_iter();
        if self.first.is_none() {
            self.first = ids.next();
        }
        self.more.extend(ids);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::vitals::Vitals;

    #[test]
    fn many_at_once_are_remembered_like_one_after_the_other() {
        let ids: Vec<_> = (0..5).map(|_| Vitals::default().id()).collect();
        let (mut tried, mut one_by_one) = (Tried::default(), Tried::default());
        tried.extend(ids[..4].iter().copied());
        tried.extend([ids[4]]);
        for id in &ids {
            one_by_one.insert(*id);
        }
        assert_eq!(
            tried.ids().collect::<Vec<_>>(),
            one_by_one.ids().collect::<Vec<_>>()
        );
        assert!(ids.iter().all(|id| tried.contains(*id)));
    }
}
