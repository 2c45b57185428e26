//! Whether this instance can serve, and if not, why.

use crate::relay::{Context, Snapshot};
use crate::stop::Stage;

/// Why requests are not served now. `None`: they are.
pub(super) fn why_not_ready(ctx: &Context, snapshot: &Snapshot) -> Option<&'static str> {
    if ctx.stop.stage() != Stage::Running {
        return Some("draining");
    }
    let pool = &snapshot.pool;
    if pool.serving().next().is_some() {
        let served = snapshot.serves_others();
        (!served).then_some("nobody of the group that requests use by default is in service")
    } else if !snapshot.config.rules.needs_upstream() {
        None
    } else if pool.upstreams().is_empty() {
        Some("no upstream is configured")
    } else if pool.is_drained() {
        Some("all upstreams are drained")
    } else if pool.online_count() > 0 {
        Some("every upstream that is online is drained")
    } else {
        Some("no upstream is online")
    }
}
