//! Which way a request went: what its log line, its metrics and its connection's entry say.

use std::sync::Arc;

use crate::balance::upstream::Upstream;

/// Which way a request went.
#[derive(Clone, Debug, Default)]
pub enum RouteTaken {
    /// Nowhere: it was answered here.
    #[default]
    None,
    /// To the origin.
    Direct,
    /// To this upstream.
    Upstream(Arc<Upstream>),
}
