//! Whether an upstream has CONNECT.
//!
//! Some proxies have none, and answer it with 400, 405 or 501. Every tunnel that is asked of such a one costs
//! a round trip, for it is then asked of another; so once this is known, the others get the tunnels.
//!
//! Clients choose what they ask for, and a proxy that has CONNECT may refuse one target or one port in the
//! same words. So a refusal counts only at the port that every proxy opens which has CONNECT, and only if
//! another upstream opened the same tunnel; it takes two targets; and one that has opened a tunnel lately
//! is above suspicion. Whoever is thought to have none is asked again now and then, with a client's request
//! that loses a round trip at most, and the first tunnel that it opens clears it. So a stranger can keep
//! tunnels only from an upstream through which nobody has got one for a while, until the turn of another
//! client comes; and others serve meanwhile.

use std::time::{Duration, Instant};

/// The port of HTTPS: a proxy that opens tunnels at all opens them there.
pub const TELLING_PORT: u16 = 443;

/// One that has opened a tunnel has CONNECT for at least so long.
const PROVEN_FOR: Duration = Duration::from_secs(600);

/// How often one that is thought to have no CONNECT is asked for a tunnel all the same.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Whether a status may say that there is no CONNECT.
pub fn may_lack_connect(status: u16) -> bool {
    matches!(status, 400 | 405 | 501)
}

/// What was seen of CONNECT at one upstream.
#[derive(Default, Debug)]
pub(super) struct ConnectRecord {
    /// When it last opened a tunnel.
    opened: Option<Instant>,
    /// The first target that it refused since, and another upstream opened.
    refused: Option<u64>,
    /// When it was last asked, if it is thought to have no CONNECT.
    asked: Option<Instant>,
}

impl ConnectRecord {
    /// It opened a tunnel at `now`. Says whether it was thought to have no CONNECT.
    pub(super) fn opened(&mut self, now: Instant) -> bool {
        self.opened = Some(now);
        self.refused = None;
        self.asked.take().is_some()
    }

    /// It refused the tunnel to `target` by `now`, and another upstream opened it. Says whether it is thought
    /// to have no CONNECT from now on.
    pub(super) fn refused(&mut self, target: u64, now: Instant) -> bool {
        let is_proven = |at: Instant| now.saturating_duration_since(at) < PROVEN_FOR;
        if self.asked.is_some() || self.opened.is_some_and(is_proven) {
            return false;
        }
        if *self.refused.get_or_insert(target) == target {
            return false;
        }
        self.asked = Some(now);
        true
    }

    /// Whether it is thought to have no CONNECT.
    pub(super) fn is_lacking(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether it may be asked for a tunnel at `now` as others are.
    pub(super) fn may_be_asked(&self, now: Instant) -> bool {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= ASKED_AGAIN_AFTER;
        self.asked.is_none_or(is_due)
    }

    /// It is asked at `now`.
    pub(super) fn ask(&mut self, now: Instant) {
        if let Some(asked) = &mut self.asked {
            *asked = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_nanos(1);

    /// Just before `time` has passed since `from`.
    fn almost(from: Instant, time: Duration) -> Instant {
        from + time.saturating_sub(MOMENT)
    }

    #[test]
    fn two_targets_that_another_opened_show_that_it_has_none() {
        let (mut record, now) = (ConnectRecord::default(), Instant::now());
        assert!(!record.refused(1, now) && !record.refused(1, now));
        assert!(!record.is_lacking() && record.may_be_asked(now));
        assert!(record.refused(2, now), "told one time");
        assert!(!record.refused(3, now));
        assert!(record.is_lacking());
    }

    #[test]
    fn one_that_opened_a_tunnel_lately_is_above_suspicion() {
        let (mut record, now) = (ConnectRecord::default(), Instant::now());
        record.opened(now);
        let later = almost(now, PROVEN_FOR);
        assert!(!record.refused(1, later) && !record.refused(2, later));
        let later = now + PROVEN_FOR;
        assert!(!record.refused(1, later), "what came before does not count");
        assert!(record.refused(2, later));
    }

    #[test]
    fn a_tunnel_between_two_refusals_makes_them_nothing() {
        let (mut record, now) = (ConnectRecord::default(), Instant::now());
        record.refused(1, now);
        assert!(!record.opened(now));
        assert!(!record.refused(2, now + PROVEN_FOR));
    }

    #[test]
    fn it_is_asked_again_now_and_then_by_one_request() {
        let (mut record, now) = (ConnectRecord::default(), Instant::now());
        record.refused(1, now);
        record.refused(2, now);
        assert!(!record.may_be_asked(almost(now, ASKED_AGAIN_AFTER)));
        let later = now + ASKED_AGAIN_AFTER;
        assert!(record.may_be_asked(later));
        record.ask(later);
        assert!(
            !record.may_be_asked(later),
            "the others are not to wait for its answer"
        );
        assert!(record.is_lacking());
    }

    #[test]
    fn the_first_tunnel_clears_it() {
        let (mut record, now) = (ConnectRecord::default(), Instant::now());
        record.refused(1, now);
        record.refused(2, now);
        assert!(record.opened(now));
        assert!(!record.is_lacking() && record.may_be_asked(now));
    }
}
