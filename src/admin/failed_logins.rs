//! Failed logins: wrong tokens are told in the log, and answered late.
//!
//! The token is enough to drain the pool, so a client that tries one after the other should be seen, and
//! should not get far. Pure: the clock and the log are the front's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long the answer to a wrong token is delayed.
pub(super) const DELAY: Duration = Duration::from_secs(1);

/// How often they are told in the log.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Wrong tokens that were presented.
#[derive(Debug, Default)]
pub(super) struct FailedLogins {
    untold: u64,
    told: Option<Instant>,
}

impl FailedLogins {
    /// One more, at this time and from there; what the log is to say of it, if anything.
    pub(super) fn add(&mut self, now: Instant, from: Option<SocketAddr>) -> Option<String> {
        self.untold += 1;
        let is_told = |told: Instant| now.saturating_duration_since(told) < TOLD_EVERY;
        if self.told.is_some_and(is_told) {
            return None;
        }
        self.told = Some(now);
        let count = std::mem::take(&mut self.untold);
        let from = from.map_or_else(|| "somewhere".to_owned(), |from| from.ip().to_string());
        Some(format!(
            "wrong admin tokens: {count} since this was last told, the last one from {from}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_once_a_minute() {
        let mut failed = FailedLogins::default();
        let from = "192.0.2.1:5".parse().ok();
        let start = Instant::now();
        let said = failed.add(start, from).expect("the first");
        assert!(
            said.contains(": 1 since") && said.ends_with("192.0.2.1"),
            "{said}"
        );
        for second in 0..60 {
            assert_eq!(failed.add(start + Duration::from_secs(second), from), None);
        }
        let said = failed
            .add(start + TOLD_EVERY, None)
            .expect("a minute later");
        assert!(said.contains(": 61 since"), "{said}");
    }
}
