//! The connections that are watched, each at its place, and their deadlines.
//!
//! A connection keeps its place, and its registration with the system, while a worker serves it: a
//! request costs two visits to this table and no system call. What the system says of a connection
//! that is being served is remembered as `State::Away` until it comes back.
//!
//! A deadline is entered once and looked at when it passes: mostly the connection was busy since, and
//! has a later one. So a request does not touch the order of the deadlines.
//!
//! The lowest vacant place is given away first, so that the table gets short again, and gives its memory
//! back, once a crowd has left.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Instant;

use crate::net::conn::Conn;
use crate::relay::Client;

use super::pages::Pages;

/// Room for more vacant places than this, and for four times as many as there are places, is given back.
const ROOM: usize = 1024;

/// Where a connection stands in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) usize);

/// A connection from which nothing can be read yet.
#[derive(Debug)]
pub(super) enum What {
    /// Idle, or its next head is incomplete.
    Client(Box<Client>),
    /// Answered for the last time.
    Lingering { client: Box<Client>, left: u64 },
    /// Refused without a permit.
    Uncounted { conn: Box<Conn>, left: u64 },
}

impl What {
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
pub(super) enum Told {
    /// Nothing.
    Data,
    /// The client will send nothing more: no event follows, so whoever reads must read to the end.
    End,
}

#[derive(Debug)]
enum State<W> {
    Vacant,
    /// Somebody else has the connection.
    Away(Meanwhile),
    Waiting {
        what: W,
        until: Instant,
    },
}

/// What happened on a connection while it was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    Something,
    /// More came, and the client has ended: who takes the one has not seen the other.
    Ended,
}

#[derive(Debug)]
struct Entry<W> {
    state: State<W>,
    /// Its entry among the deadlines; never later than the true one.
    alarm: Option<Instant>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Table<W> {
    /// The last one is not vacant.
    entries: Pages<Entry<W>>,
    /// Those before the end of `entries`, and some beyond it.
    vacant: BinaryHeap<Reverse<usize>>,
    deadlines: BTreeSet<(Instant, Place)>,
    uncounted: usize,
}

/// What can wait in a table.
pub(super) trait Waits {
    /// Whether it holds no permit.
    fn is_uncounted(&self) -> bool;
}

impl<W> Default for Table<W> {
    fn default() -> Self {
        Self {
            entries: Pages::default(),
            vacant: BinaryHeap::new(),
            deadlines: BTreeSet::new(),
            uncounted: 0,
        }
    }
}

impl<W: Waits> Table<W> {
    /// A place for a connection that is about to be watched; it is away until it waits.
    pub(super) fn admit(&mut self) -> Place {
        let entry = Entry {
            state: State::Away(Meanwhile::Nothing),
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
        Place(index)
    }

    /// The place of a connection that has it by nature; what happens there is noted from now on.
    pub(super) fn open(&mut self, place: Place) {
        while self.entries.len() <= place.0 {
            self.entries.push(Entry {
                state: State::Away(Meanwhile::Nothing),
                alarm: None,
            });
        }
        if let Some(entry) = self.entries.get_mut(place.0) {
            // Another connection had it before.
            entry.state = State::Away(Meanwhile::Nothing);
        }
    }

    /// The connection comes back to its place and waits, until something happens or `until`.
    ///
    /// # Errors
    /// It does not wait: something has happened already.
    pub(super) fn wait(&mut self, place: Place, what: W, until: Instant) -> Result<(), W> {
        let Some(entry) = self.entries.get_mut(place.0) else {
            return Err(what);
        };
        let left = match entry.state {
            State::Away(Meanwhile::Ended) => Some(Meanwhile::Something),
            State::Away(Meanwhile::Something) => Some(Meanwhile::Nothing),
            State::Away(Meanwhile::Nothing) | State::Vacant | State::Waiting { .. } => None,
        };
        if let Some(left) = left {
            entry.state = State::Away(left);
            return Err(what);
        }
        self.uncounted += usize::from(what.is_uncounted());
        entry.state = State::Waiting { what, until };
        if entry.alarm.is_none_or(|at| until < at) {
            if let Some(at) = entry.alarm.replace(until) {
                self.deadlines.remove(&(at, place));
            }
            self.deadlines.insert((until, place));
        }
        Ok(())
    }

    /// Something happened on a connection: it is returned if it was waiting.
    pub(super) fn stir(&mut self, place: Place, told: Told) -> Option<(W, Instant)> {
        let entry = self.entries.get_mut(place.0)?;
        match &mut entry.state {
            State::Vacant => None,
            State::Away(meanwhile) => {
                match told {
                    Told::End => *meanwhile = Meanwhile::Ended,
                    Told::Data if *meanwhile == Meanwhile::Ended => {}
                    Told::Data => *meanwhile = Meanwhile::Something,
                }
                None
            }
            State::Waiting { .. } => self.take(
                place,
                match told {
                    Told::Data => Meanwhile::Nothing,
                    Told::End => Meanwhile::Something,
                },
            ),
        }
    }

    fn take(&mut self, place: Place, meanwhile: Meanwhile) -> Option<(W, Instant)> {
        let entry = self.entries.get_mut(place.0)?;
        match std::mem::replace(&mut entry.state, State::Away(meanwhile)) {
            State::Waiting { what, until } => {
                self.uncounted -= usize::from(what.is_uncounted());
                Some((what, until))
            }
            other @ (State::Vacant | State::Away(_)) => {
                entry.state = other;
                None
            }
        }
    }

    /// The connection will not come back.
    pub(super) fn leave(&mut self, place: Place) -> Option<W> {
        let waited = self.take(place, Meanwhile::Nothing);
        let entry = self.entries.get_mut(place.0)?;
        if let Some(at) = entry.alarm.take() {
            self.deadlines.remove(&(at, place));
        }
        if !matches!(entry.state, State::Vacant) {
            entry.state = State::Vacant;
            self.vacant.push(Reverse(place.0));
            self.shorten();
        }
        waited.map(|(what, _)| what)
    }

    /// Gives back the memory of places at the end that are vacant.
    fn shorten(&mut self) {
        let is_vacant = |entry: &Entry<W>| matches!(entry.state, State::Vacant);
        while self.entries.pop_if(|entry| is_vacant(entry)).is_some() {}
        let held = self.entries.len();
        let room = self.vacant.capacity();
        if room > ROOM && room / 4 > held {
            self.vacant.retain(|Reverse(index)| *index < held);
            self.vacant.shrink_to(2 * held);
        }
    }

    /// One whose deadline has passed at `now`; its place still is its own.
    pub(super) fn late(&mut self, now: Instant) -> Option<(W, Place)> {
        while let Some((at, place)) = self.deadlines.first().copied() {
            if at > now {
                return None;
            }
            self.deadlines.pop_first();
            let Some(entry) = self.entries.get_mut(place.0) else {
                continue;
            };
            entry.alarm = None;
            match entry.state {
                State::Waiting { until, .. } if until <= now => {
                    return self
                        .take(place, Meanwhile::Nothing)
                        .map(|(what, _)| (what, place));
                }
                State::Waiting { until, .. } => {
                    entry.alarm = Some(until);
                    self.deadlines.insert((until, place));
                }
                // It gets another when it comes back.
                State::Away(_) | State::Vacant => {}
            }
        }
        None
    }

    /// Those that are `chosen` wait until `last` at most.
    pub(super) fn hasten(&mut self, chosen: impl Fn(&W) -> bool, last: Instant) {
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let State::Waiting { what, until } = &mut entry.state else {
                continue;
            };
            if !chosen(what) {
                continue;
            }
            *until = last.min(*until);
            let place = Place(index);
            if let Some(at) = entry.alarm.replace(*until) {
                self.deadlines.remove(&(at, place));
            }
            self.deadlines.insert((*until, place));
        }
    }

    /// When to look for late ones again.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes out all that wait and are `chosen`.
    pub(super) fn take_all(&mut self, chosen: impl Fn(&W) -> bool) -> Vec<W> {
        let places: Vec<Place> = self
            .waiting()
            .filter(|(_, what)| chosen(what))
            .map(|(place, _)| place)
            .collect();
        let taken = places.into_iter().filter_map(|place| self.leave(place));
        taken.collect()
    }

    /// All that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Place, &W)> {
        let all = self.entries.iter().enumerate();
        all.filter_map(|(index, entry)| match &entry.state {
            State::Waiting { what, .. } => Some((Place(index), what)),
            State::Vacant | State::Away(_) => None,
        })
    }

    /// How many wait that hold no permit.
    pub(super) fn uncounted(&self) -> usize {
        self.uncounted
    }
}

impl Waits for What {
    fn is_uncounted(&self) -> bool {
        match self {
            Self::Client(_) | Self::Lingering { .. } => false,
            Self::Uncounted { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::net::socket::TICK;

    fn what() -> What {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let conn = Box::new(Conn::prepared(stream, TICK));
        What::Uncounted { conn, left: 1 }
    }

    #[test]
    fn what_happens_while_a_connection_is_away_is_not_lost() {
        let (mut table, now) = (Table::default(), Instant::now());
        let place = table.admit();
        assert!(table.stir(place, Told::Data).is_none());
        let back = table.wait(place, what(), now).unwrap_err();
        assert!(table.wait(place, back, now).is_ok(), "told once");
        assert!(table.stir(place, Told::Data).is_some());
    }

    #[test]
    fn an_end_that_came_with_data_is_told_again_when_the_connection_comes_back() {
        let (mut table, now) = (Table::default(), Instant::now());
        let place = table.admit();
        assert!(table.wait(place, what(), now).is_ok());
        let (what, _) = table.stir(place, Told::End).unwrap();
        assert!(table.wait(place, what, now).is_err());
    }

    #[test]
    fn an_end_that_came_with_data_while_the_connection_was_away_is_told_twice() {
        let (mut table, now) = (Table::default(), Instant::now());
        let place = table.admit();
        assert!(table.stir(place, Told::End).is_none());
        assert!(table.stir(place, Told::Data).is_none());
        let for_data = table.wait(place, what(), now).unwrap_err();
        let for_end = table.wait(place, for_data, now).unwrap_err();
        assert!(table.wait(place, for_end, now).is_ok());
    }

    #[test]
    fn a_deadline_moves_with_every_wait_and_counts_only_while_waiting() {
        let (mut table, start) = (Table::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let place = table.admit();
        assert!(table.wait(place, what(), at(10)).is_ok());
        let (away, _) = table.stir(place, Told::Data).unwrap();
        assert!(table.late(at(11)).is_none(), "it is being served");
        assert!(table.wait(place, away, at(20)).is_ok());
        assert_eq!(table.first_deadline(), Some(at(20)));
        assert!(table.late(at(19)).is_none());
        assert!(table.late(at(20)).is_some());
        assert_eq!(table.first_deadline(), None);
        assert_eq!(table.uncounted(), 0);
    }

    #[test]
    fn an_earlier_deadline_replaces_a_later_one() {
        let (mut table, start) = (Table::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let place = table.admit();
        assert!(table.wait(place, what(), at(60)).is_ok());
        let (away, _) = table.stir(place, Told::Data).unwrap();
        assert!(table.wait(place, away, at(15)).is_ok());
        assert!(table.late(at(15)).is_some());
        assert_eq!(table.first_deadline(), None);
    }

    #[test]
    fn what_waits_can_be_told_to_wait_no_longer_than_so_long() {
        let (mut table, start) = (Table::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let places = [60, 3].map(|until| {
            let place = table.admit();
            assert!(table.wait(place, what(), at(until)).is_ok());
            place
        });
        table.hasten(|_| true, at(5));
        let late = |table: &mut Table<What>, now| table.late(now).map(|(_, place)| place);
        assert_eq!(late(&mut table, at(4)), Some(places[1]));
        assert_eq!(late(&mut table, at(4)), None);
        assert_eq!(late(&mut table, at(5)), Some(places[0]));
        assert_eq!(table.first_deadline(), None);
    }

    #[test]
    fn a_place_that_was_left_is_given_to_the_next() {
        let (mut table, now) = (Table::default(), Instant::now());
        let place = table.admit();
        assert!(table.wait(place, what(), now).is_ok());
        assert!(table.leave(place).is_some());
        assert!(table.stir(place, Told::Data).is_none(), "a late event");
        assert_eq!(table.first_deadline(), None);
        assert_eq!(table.admit(), place);
    }

    #[test]
    fn a_table_gets_short_again_when_a_crowd_has_left() {
        let mut table = Table::<What>::default();
        let places: Vec<Place> = (0..10_000).map(|_| table.admit()).collect();
        let (stay, leave) = places.split_at(10);
        for place in leave {
            assert!(table.leave(*place).is_none());
        }
        assert_eq!(table.entries.len(), 10);
        assert!(table.vacant.capacity() <= ROOM);
        table.leave(stay[3]);
        assert_eq!(table.admit(), stay[3], "the lowest");
        assert_eq!([table.admit(), table.admit()], [Place(10), Place(11)]);
    }
}
