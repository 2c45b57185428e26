//! What happened to the upstreams and to the configuration, for people who look later: the last events, kept
//! over a reload.
//!
//! Suspicions can be brought about by any client, as many as it likes. They have a share of their own, so
//! they displace each other and nothing else.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Events kept, suspicions left out.
const MOST_EVENTS: usize = 150;
/// Suspicions kept.
const MOST_SUSPICIONS: usize = 50;
/// The longest text of an event, in bytes; the rest is cut off.
const MOST_TEXT: usize = 1024;

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// A number that grows from event to event.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Of which kind it is.
    pub kind: EventKind,
    /// The name of the upstream that it is about, if it is about one.
    pub upstream: Option<Box<str>>,
    /// The same sentence that the log has.
    pub text: Box<str>,
}

/// A kind of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// This instance began.
    Started,
    /// An upstream went offline.
    Offline,
    /// An upstream came back.
    Online,
    /// An upstream became a suspect.
    Suspect,
    /// A suspect is none any more.
    Cleared,
    /// An operator drained an upstream.
    Drained,
    /// An operator enabled an upstream.
    Enabled,
    /// An operator gave an upstream another weight.
    WeightSet,
    /// An operator asked for a check of an upstream.
    CheckWanted,
    /// An operator cut what went through an upstream.
    Cut,
    /// An operator ended the rests of an upstream.
    RestsCleared,
    /// The probe passes through no upstream, so its target is not believed.
    ProbeNotBelieved,
    /// The probe passes again.
    ProbeBelieved,
    /// A configuration came in force.
    Reloaded,
    /// The configuration file could not be used.
    ReloadFailed,
}

impl EventKind {
    /// Its name in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Offline => "offline",
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Cleared => "cleared",
            Self::Drained => "drained",
            Self::Enabled => "enabled",
            Self::WeightSet => "weight_set",
            Self::CheckWanted => "check_wanted",
            Self::Cut => "cut",
            Self::RestsCleared => "rests_cleared",
            Self::ProbeNotBelieved => "probe_not_believed",
            Self::ProbeBelieved => "probe_believed",
            Self::Reloaded => "reloaded",
            Self::ReloadFailed => "reload_failed",
        }
    }
}

/// The last events.
#[derive(Default, Debug)]
pub struct History {
    kept: Mutex<Kept>,
}

#[derive(Default, Debug)]
struct Kept {
    next: u64,
    events: VecDeque<Event>,
    suspicions: VecDeque<Event>,
}

impl History {
    /// Notes what happened at `unix_ms` (milliseconds since 1970) to this upstream, or to all.
    pub fn add(&self, unix_ms: u64, kind: EventKind, upstream: Option<&str>, text: &str) {
        let ends = text
            .char_indices()
            .map(|(at, letter)| at + letter.len_utf8());
        let end = ends.take_while(|end| *end <= MOST_TEXT).last();
        let cut = text.get(..end.unwrap_or(0)).unwrap_or_default();
        let mut kept = self.kept.lock();
        let id = kept.next;
        kept.next += 1;
        let (events, most) = if matches!(kind, EventKind::Suspect | EventKind::Cleared) {
            (&mut kept.suspicions, MOST_SUSPICIONS)
        } else {
            (&mut kept.events, MOST_EVENTS)
        };
        if events.len() == most {
            events.pop_front();
        }
        events.push_back(Event {
            id,
            unix_ms,
            kind,
            upstream: upstream.map(Box::from),
            text: cut.into(),
        });
    }

    /// All that are kept, the latest first.
    pub fn events(&self) -> Vec<Event> {
        let kept = self.kept.lock();
        let mut events: Vec<_> = kept
            .events
            .iter()
            .chain(&kept.suspicions)
            .cloned()
            .collect();
        drop(kept);
        events.sort_by_key(|event| std::cmp::Reverse(event.id));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(history: &History) -> Vec<String> {
        let events = history.events();
        events.iter().map(|event| event.text.to_string()).collect()
    }

    #[test]
    fn events_of_all_kinds_come_in_one_order_the_latest_first() {
        let history = History::default();
        history.add(1, EventKind::Started, None, "one");
        history.add(2, EventKind::Suspect, Some("a"), "two");
        history.add(2, EventKind::Offline, Some("a"), "three");
        assert_eq!(texts(&history), ["three", "two", "one"]);
    }

    #[test]
    fn the_oldest_event_leaves_for_a_new_one() {
        let history = History::default();
        for number in 0..=MOST_EVENTS {
            history.add(0, EventKind::Online, None, &number.to_string());
        }
        let texts = texts(&history);
        assert_eq!(texts.len(), MOST_EVENTS);
        assert_eq!(texts.last().map(String::as_str), Some("1"));
    }

    #[test]
    fn a_flood_of_suspicions_displaces_nothing_else() {
        let history = History::default();
        history.add(0, EventKind::Offline, Some("a"), "proof");
        for _ in 0..10_000 {
            history.add(0, EventKind::Suspect, Some("b"), "doubt");
            history.add(0, EventKind::Cleared, Some("b"), "none");
        }
        let texts = texts(&history);
        assert_eq!(texts.len(), 1 + MOST_SUSPICIONS);
        assert_eq!(texts.last().map(String::as_str), Some("proof"));
    }

    #[test]
    fn a_long_text_is_cut_between_two_letters() {
        let history = History::default();
        // Of two bytes each, behind one of one byte.
        let text = |letters| format!("x{}", "\u{e4}".repeat(letters));
        history.add(0, EventKind::ReloadFailed, None, &text(MOST_TEXT));
        assert_eq!(texts(&history), [text(MOST_TEXT / 2 - 1)]);
    }
}
