//! The connections that are watched, each at its slot, and their deadlines.
//!
//! A connection keeps its slot, and its registration with the system, while a worker serves it: a
//! request costs two visits to this table and no system call. What the system says of a connection
//! that is being served is remembered as `EntryState::Away` until it comes back.
//!
//! A deadline is entered once and looked at when it passes: mostly the connection was busy since, and
//! has a later one. So a request does not touch the order of the deadlines.
//!
//! The lowest vacant slot is given away first, so that the table gets short again, and gives its memory
//! back, once a crowd has left.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Instant;

use crate::net::conn::Conn;
use crate::relay::Client;

use super::pages::Pages;

/// Room for more vacant slots than this, and for four times as many as there are slots, is given back.
const ROOM: usize = 1024;

/// Where a connection stands in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) usize);

/// A connection from which nothing can be read yet.
#[derive(Debug)]
pub(super) enum Parked {
    /// Idle, or its next head is incomplete.
    Client(Box<Client>),
    /// Answered for the last time.
    Lingering { client: Box<Client>, left: u64 },
    /// Refused without a permit.
    Uncounted { conn: Box<Conn>, left: u64 },
}

impl Parked {
    /// Its connection.
    pub(super) fn conn(&self) -> &Conn {
        match self {
            Self::Client(client) | Self::Lingering { client, .. } => &client.conn,
            Self::Uncounted { conn, .. } => conn,
        }
    }

    /// Whether it is a client that has not begun a request.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Client(client) => client.head_begun.is_none(),
            Self::Lingering { .. } | Self::Uncounted { .. } => false,
        }
    }

    /// Whether it is a client that has sent a part of a head.
    pub(super) fn is_unfinished(&self) -> bool {
        match self {
            Self::Client(client) => client.head_begun.is_some(),
            Self::Lingering { .. } | Self::Uncounted { .. } => false,
        }
    }
}

/// What an event says beside that there is something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketEvent {
    /// Nothing.
    Readable,
    /// The peer will send nothing more: no event follows, so whoever reads must read to the end.
    ReadClosed,
}

#[derive(Debug)]
enum EntryState<W> {
    Vacant,
    /// Somebody else has the connection.
    Away(PendingEvent),
    Waiting {
        what: W,
        until: Instant,
    },
}

/// What happened on a connection while it was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PendingEvent {
    None,
    Readable,
    /// More came, and the client has ended: who takes the one has not seen the other.
    ReadClosed,
}

#[derive(Debug)]
struct TableEntry<W> {
    state: EntryState<W>,
    /// Its entry among the deadlines; never later than the true one.
    alarm: Option<Instant>,
}

/// The table.
#[derive(Debug)]
pub(super) struct SlotTable<W> {
    /// The last one is not vacant.
    entries: Pages<TableEntry<W>>,
    /// Those before the end of `entries`, and some beyond it.
    vacant: BinaryHeap<Reverse<usize>>,
    deadlines: BTreeSet<(Instant, Slot)>,
    /// Slots that are not vacant.
    occupied: usize,
    /// How many wait, by kind.
    counts: [usize; KINDS],
}

/// Kinds of what waits.
const KINDS: usize = 3;

/// What can wait in a table.
pub(super) trait Waits {
    /// Which kind it is, less than [`KINDS`].
    fn kind(&self) -> usize;
}

impl<W> Default for SlotTable<W> {
    fn default() -> Self {
        Self {
            entries: Pages::default(),
            vacant: BinaryHeap::new(),
            deadlines: BTreeSet::new(),
            occupied: 0,
            counts: [0; KINDS],
        }
    }
}

impl<W: Waits> SlotTable<W> {
    /// A slot for a connection that is about to be watched; it is away until it waits.
    pub(super) fn admit(&mut self) -> Slot {
        self.occupied += 1;
        let entry = TableEntry {
            state: EntryState::Away(PendingEvent::None),
            alarm: None,
        };
        let lowest = self.vacant.pop().map(|Reverse(index)| index);
        let index = lowest.unwrap_or(usize::MAX).min(self.entries.len());
        if index == self.entries.len() {
            // The others would come again when the table has grown beyond them.
            self.vacant.clear();
        }
        if let Some(old) = self.entries.get_mut(index) {
            *old = entry;
        } else {
            self.entries.push(entry);
        }
        Slot(index)
    }

    /// The connection comes back to its slot and waits, until something happens or `until`.
    ///
    /// # Errors
    /// It does not wait: something has happened already.
    pub(super) fn wait(&mut self, slot: Slot, what: W, until: Instant) -> Result<(), W> {
        let Some(entry) = self.entries.get_mut(slot.0) else {
            return Err(what);
        };
        let left = match entry.state {
            EntryState::Away(PendingEvent::ReadClosed) => Some(PendingEvent::Readable),
            EntryState::Away(PendingEvent::Readable) => Some(PendingEvent::None),
            EntryState::Away(PendingEvent::None)
            | EntryState::Vacant
            | EntryState::Waiting { .. } => None,
        };
        if let Some(left) = left {
            entry.state = EntryState::Away(left);
            return Err(what);
        }
        if let Some(count) = self.counts.get_mut(what.kind()) {
            *count += 1;
        }
        entry.state = EntryState::Waiting { what, until };
        if entry.alarm.is_none_or(|at| until < at) {
            if let Some(at) = entry.alarm.replace(until) {
                self.deadlines.remove(&(at, slot));
            }
            self.deadlines.insert((until, slot));
        }
        Ok(())
    }

    /// Something happened on a connection: it is returned if it was waiting.
    pub(super) fn on_event(&mut self, slot: Slot, event: SocketEvent) -> Option<(W, Instant)> {
        let entry = self.entries.get_mut(slot.0)?;
        match &mut entry.state {
            EntryState::Vacant => None,
            EntryState::Away(pending) => {
                match event {
                    SocketEvent::ReadClosed => *pending = PendingEvent::ReadClosed,
                    SocketEvent::Readable if *pending == PendingEvent::ReadClosed => {}
                    SocketEvent::Readable => *pending = PendingEvent::Readable,
                }
                None
            }
            EntryState::Waiting { .. } => self.take(
                slot,
                match event {
                    SocketEvent::Readable => PendingEvent::None,
                    SocketEvent::ReadClosed => PendingEvent::Readable,
                },
            ),
        }
    }

    fn take(&mut self, slot: Slot, pending: PendingEvent) -> Option<(W, Instant)> {
        let entry = self.entries.get_mut(slot.0)?;
        match std::mem::replace(&mut entry.state, EntryState::Away(pending)) {
            EntryState::Waiting { what, until } => {
                if let Some(count) = self.counts.get_mut(what.kind()) {
                    *count -= 1;
                }
                Some((what, until))
            }
            other @ (EntryState::Vacant | EntryState::Away(_)) => {
                entry.state = other;
                None
            }
        }
    }

    /// The connection will not come back.
    pub(super) fn leave(&mut self, slot: Slot) -> Option<W> {
        let waited = self.take(slot, PendingEvent::None);
        let entry = self.entries.get_mut(slot.0)?;
        if let Some(at) = entry.alarm.take() {
            self.deadlines.remove(&(at, slot));
        }
        if !matches!(entry.state, EntryState::Vacant) {
            entry.state = EntryState::Vacant;
            self.occupied -= 1;
            self.vacant.push(Reverse(slot.0));
            self.shorten();
        }
        waited.map(|(what, _)| what)
    }

    /// Gives back the memory of slots at the end that are vacant.
    fn shorten(&mut self) {
        let is_vacant = |entry: &TableEntry<W>| matches!(entry.state, EntryState::Vacant);
        while self.entries.pop_if(|entry| is_vacant(entry)).is_some() {}
        let held = self.entries.len();
        let room = self.vacant.capacity();
        if room > ROOM && room / 4 > held {
            self.vacant.retain(|Reverse(index)| *index < held);
            self.vacant.shrink_to(2 * held);
        }
    }

    /// One whose deadline has passed at `now`; its slot still is its own.
    pub(super) fn late(&mut self, now: Instant) -> Option<(W, Slot)> {
        while let Some((at, slot)) = self.deadlines.first().copied() {
            if at > now {
                return None;
            }
            self.deadlines.pop_first();
            let Some(entry) = self.entries.get_mut(slot.0) else {
                continue;
            };
            entry.alarm = None;
            match entry.state {
                EntryState::Waiting { until, .. } if until <= now => {
                    return self
                        .take(slot, PendingEvent::None)
                        .map(|(what, _)| (what, slot));
                }
                EntryState::Waiting { until, .. } => {
                    entry.alarm = Some(until);
                    self.deadlines.insert((until, slot));
                }
                // It gets another when it comes back.
                EntryState::Away(_) | EntryState::Vacant => {}
            }
        }
        None
    }

    /// Those that are `chosen` wait until `last` at most.
    pub(super) fn shorten_deadlines(&mut self, chosen: impl Fn(&W) -> bool, last: Instant) {
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let EntryState::Waiting { what, until } = &mut entry.state else {
                continue;
            };
            if !chosen(what) {
                continue;
            }
            *until = last.min(*until);
            let slot = Slot(index);
            if let Some(at) = entry.alarm.replace(*until) {
                self.deadlines.remove(&(at, slot));
            }
            self.deadlines.insert((*until, slot));
        }
    }

    /// When to look for late ones again.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes out all that wait and are `chosen`.
    pub(super) fn take_all(&mut self, chosen: impl Fn(&W) -> bool) -> Vec<W> {
        let slots: Vec<Slot> = self
            .waiting()
            .filter(|(_, what)| chosen(what))
            .map(|(slot, _)| slot)
            .collect();
        let taken = slots.into_iter().filter_map(|slot| self.leave(slot));
        taken.collect()
    }

    /// All that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Slot, &W)> {
        let all = self.entries.iter().enumerate();
        all.filter_map(|(index, entry)| match &entry.state {
            EntryState::Waiting { what, .. } => Some((Slot(index), what)),
            EntryState::Vacant | EntryState::Away(_) => None,
        })
    }

    /// All that wait.
    pub(super) fn waiting_mut(&mut self) -> impl Iterator<Item = &mut W> {
        self.entries
            .iter_mut()
            .filter_map(|entry| match &mut entry.state {
                EntryState::Waiting { what, .. } => Some(what),
                EntryState::Vacant | EntryState::Away(_) => None,
            })
    }

    /// How many slots there are, vacant ones included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is remembered at each slot.
    #[cfg(test)]
    pub(super) fn shape(&self) -> String {
        let entries = self.entries.iter().map(|entry| match entry.state {
            EntryState::Vacant => '-',
            EntryState::Away(PendingEvent::None) => 'a',
            EntryState::Away(PendingEvent::Readable) => 'r',
            EntryState::Away(PendingEvent::ReadClosed) => 'c',
            EntryState::Waiting { .. } => 'w',
        });
        entries.collect()
    }

    /// How many wait, by kind.
    pub(super) fn counts(&self) -> [usize; KINDS] {
        self.counts
    }

    /// Slots that are not vacant.
    pub(super) fn occupied(&self) -> usize {
        self.occupied
    }
}

impl Waits for Parked {
    fn kind(&self) -> usize {
        match self {
            Self::Client(_) => 0,
            Self::Lingering { .. } => 1,
            Self::Uncounted { .. } => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::net::socket::TICK;

    fn what() -> Parked {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let conn = Box::new(Conn::prepared(stream, TICK));
        Parked::Uncounted { conn, left: 1 }
    }

    #[test]
    fn what_happens_while_a_connection_is_away_is_not_lost() {
        let (mut table, now) = (SlotTable::default(), Instant::now());
        let slot = table.admit();
        assert!(table.on_event(slot, SocketEvent::Readable).is_none());
        let back = table.wait(slot, what(), now).unwrap_err();
        assert!(table.wait(slot, back, now).is_ok(), "event once");
        assert!(table.on_event(slot, SocketEvent::Readable).is_some());
    }

    #[test]
    fn an_end_that_came_with_data_is_told_again_when_the_connection_comes_back() {
        let (mut table, now) = (SlotTable::default(), Instant::now());
        let slot = table.admit();
        assert!(table.wait(slot, what(), now).is_ok());
        let (what, _) = table.on_event(slot, SocketEvent::ReadClosed).unwrap();
        assert!(table.wait(slot, what, now).is_err());
    }

    #[test]
    fn an_end_that_came_with_data_while_the_connection_was_away_is_told_twice() {
        let (mut table, now) = (SlotTable::default(), Instant::now());
        let slot = table.admit();
        assert!(table.on_event(slot, SocketEvent::ReadClosed).is_none());
        assert!(table.on_event(slot, SocketEvent::Readable).is_none());
        let for_data = table.wait(slot, what(), now).unwrap_err();
        let for_end = table.wait(slot, for_data, now).unwrap_err();
        assert!(table.wait(slot, for_end, now).is_ok());
    }

    #[test]
    fn a_deadline_moves_with_every_wait_and_counts_only_while_waiting() {
        let (mut table, start) = (SlotTable::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let slot = table.admit();
        assert!(table.wait(slot, what(), at(10)).is_ok());
        let (away, _) = table.on_event(slot, SocketEvent::Readable).unwrap();
        assert!(table.late(at(11)).is_none(), "it is being served");
        assert!(table.wait(slot, away, at(20)).is_ok());
        assert_eq!(table.first_deadline(), Some(at(20)));
        assert!(table.late(at(19)).is_none());
        assert!(table.late(at(20)).is_some());
        assert_eq!(table.first_deadline(), None);
        assert_eq!(table.counts(), [0; KINDS]);
    }

    #[test]
    fn an_earlier_deadline_replaces_a_later_one() {
        let (mut table, start) = (SlotTable::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let slot = table.admit();
        assert!(table.wait(slot, what(), at(60)).is_ok());
        let (away, _) = table.on_event(slot, SocketEvent::Readable).unwrap();
        assert!(table.wait(slot, away, at(15)).is_ok());
        assert!(table.late(at(15)).is_some());
        assert_eq!(table.first_deadline(), None);
    }

    #[test]
    fn what_waits_can_be_told_to_wait_no_longer_than_so_long() {
        let (mut table, start) = (SlotTable::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let slots = [60, 3].map(|until| {
            let slot = table.admit();
            assert!(table.wait(slot, what(), at(until)).is_ok());
            slot
        });
        table.shorten_deadlines(|_| true, at(5));
        let late = |table: &mut SlotTable<Parked>, now| table.late(now).map(|(_, slot)| slot);
        assert_eq!(late(&mut table, at(4)), Some(slots[1]));
        assert_eq!(late(&mut table, at(4)), None);
        assert_eq!(late(&mut table, at(5)), Some(slots[0]));
        assert_eq!(table.first_deadline(), None);
    }

    #[test]
    fn a_place_that_was_left_is_given_to_the_next() {
        let (mut table, now) = (SlotTable::default(), Instant::now());
        let slot = table.admit();
        assert!(table.wait(slot, what(), now).is_ok());
        assert!(table.leave(slot).is_some());
        assert!(
            table.on_event(slot, SocketEvent::Readable).is_none(),
            "a late event"
        );
        assert_eq!(table.first_deadline(), None);
        assert_eq!(table.admit(), slot);
    }

    #[test]
    fn a_table_gets_short_again_when_a_crowd_has_left() {
        let mut table = SlotTable::<Parked>::default();
        let slots: Vec<Slot> = (0..10_000).map(|_| table.admit()).collect();
        let (stay, leave) = slots.split_at(10);
        for slot in leave {
            assert!(table.leave(*slot).is_none());
        }
        assert_eq!(table.entries.len(), 10);
        assert!(table.vacant.capacity() <= ROOM);
        table.leave(stay[3]);
        assert_eq!(table.admit(), stay[3], "the lowest");
        assert_eq!([table.admit(), table.admit()], [Slot(10), Slot(11)]);
    }
}
