//! Which clients may ask the system for names, and in which order: shares of what is limited, and lines.
//!
//! Clients choose names, and a name server that says nothing holds the thread that asks it for as long as it likes.
//! So no client may have all of the threads, nor all places in the queue: each client, and each domain, may
//! have only as much as leaves some for the next ([`admits`]). Each client has a line of its own,
//! and the lines take turns.
//!
//! Not here: threads, clocks, and what became of a look-up ([`super::resolve`]).

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// Look-ups at a time. Those that take very long have as many places of their own.
const MOST_LOOK_UPS: usize = 64;
/// Names that wait for one of those places.
const MOST_WAITING: usize = 1024;
/// The names of one domain may take a third of what a client may take.
const DOMAIN_SHARE: usize = 3;

/// Who asks, by [`super::permits::one_client`]; `None`: this program itself.
pub(super) type ClientOrSelf = Option<IpAddr>;

/// A name, shared by all who know it.
pub(super) type HostName = Arc<str>;

/// Whether a client that has `of_asker` of `most`, for a domain that has `of_domain`, may have one more when
/// all together have `held`. What one has is never more than what is left free, so alone one gets half, two
/// get a third each, and there is always something left for the next; a domain gets a quarter.
fn admits(most: usize, held: usize, (of_asker, of_domain): (usize, usize)) -> bool {
    let free = most.saturating_sub(held);
    of_asker < free && of_domain * DOMAIN_SHARE < free
}

/// The last two labels of a name: mostly one name server answers for all names that end so.
fn domain(name: &str) -> &str {
    let mut dots = name.trim_end_matches('.').rmatch_indices('.').skip(1);
    dots.next()
        .and_then(|(at, _)| name.get(at + 1..))
        .unwrap_or(name)
}

/// Look-ups under way, counted by whom and what they are for.
#[derive(Debug, Default)]
pub(super) struct Shares<'n> {
    held: usize,
    of_askers: HashMap<ClientOrSelf, usize>,
    of_domains: HashMap<&'n str, usize>,
}

impl<'n> Shares<'n> {
    /// Whether one more may begin.
    pub(super) fn admits(&self, asker: ClientOrSelf, name: &str) -> bool {
        let of_asker = self.of_askers.get(&asker).copied().unwrap_or(0);
        let of_domain = self.of_domains.get(domain(name)).copied().unwrap_or(0);
        admits(MOST_LOOK_UPS, self.held, (of_asker, of_domain))
    }

    /// Counts one.
    pub(super) fn add(&mut self, asker: ClientOrSelf, name: &'n str) {
        self.held += 1;
        *self.of_askers.entry(asker).or_insert(0) += 1;
        *self.of_domains.entry(domain(name)).or_insert(0) += 1;
    }
}

/// The names that wait, in a line for each client. A name may stand in several.
#[derive(Debug, Default)]
pub(super) struct WaitingNames {
    /// None of them is empty. The first has its turn next.
    lines: Vec<(ClientOrSelf, VecDeque<HostName>)>,
}

/// What is to become of a name that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineTurn {
    /// It is its turn.
    Now,
    /// Others are to be first.
    Later,
    /// It is not wanted any more.
    Never,
}

impl WaitingNames {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lines.iter().map(|(_, names)| names.len()).sum()
    }

    /// Whether no name waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether `asker` may have another name wait. Our own names are as many as the file says.
    pub(super) fn has_room(&self, asker: ClientOrSelf, name: &str) -> bool {
        if asker.is_none() {
            return true;
        }
        let line = self.lines.iter().find(|(other, _)| *other == asker);
        let of_asker = line.map_or(0, |(_, names)| names.len());
        let waiting = self.lines.iter().flat_map(|(_, names)| names);
        let of_domain = waiting.filter(|other| domain(other) == domain(name));
        admits(MOST_WAITING, self.len(), (of_asker, of_domain.count()))
    }

    /// Puts a name at the end of the line of `asker`, if it does not stand there.
    pub(super) fn push(&mut self, asker: ClientOrSelf, name: &HostName) {
        let name = Arc::clone(name);
        match self.lines.iter_mut().find(|(other, _)| *other == asker) {
            Some((_, names)) if names.contains(&name) => {}
            Some((_, names)) => names.push_back(name),
            None => self.lines.push((asker, VecDeque::from([name]))),
        }
    }

    /// Takes out the name whose turn it is, by the order of the lines and by what `turn` says. Those whose
    /// turn will never come are dropped on the way.
    pub(super) fn take(
        &mut self,
        mut turn: impl FnMut(ClientOrSelf, &str) -> LineTurn,
    ) -> Option<(ClientOrSelf, HostName)> {
        let mut taken = None;
        for (asker, names) in &mut self.lines {
            names.retain(|name| {
                let turn = if taken.is_none() {
                    turn(*asker, name)
                } else {
                    LineTurn::Later
                };
                if turn == LineTurn::Now {
                    taken = Some((*asker, Arc::clone(name)));
                }
                turn == LineTurn::Later
            });
        }
        self.lines.retain(|(_, names)| !names.is_empty());
        let mut lines = self.lines.iter();
        let served = taken.as_ref().map(|(served, _)| *served);
        if let Some(place) = lines.position(|(asker, _)| Some(*asker) == served) {
            // That line is the last now; the order of the others stays.
            let line = self.lines.remove(place);
            self.lines.push(line);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// How many look-ups begin of as many as `askers` want, each in a domain of its own or all in one.
    fn begun(askers: &[ClientOrSelf], zone: Option<&str>) -> usize {
        let names: Vec<String> = (0..1000)
            .map(|number| match zone {
                Some(zone) => format!("n{number}.{zone}"),
                None => format!("n{number}.test"),
            })
            .collect();
        let mut shares = Shares::default();
        for (number, name) in names.iter().enumerate() {
            let asker = askers[number % askers.len()];
            if shares.admits(asker, name) {
                shares.add(asker, name);
            }
        }
        shares.held
    }

    #[test]
    fn one_who_asks_gets_half_and_there_is_always_something_left_for_the_next() {
        assert_eq!(begun(&[Some(address(1))], None), 32);
        assert_eq!(begun(&[Some(address(1)), Some(address(2))], None), 43);
        let many: Vec<ClientOrSelf> = (0..20).map(|last| Some(address(last))).collect();
        assert_eq!(begun(&many, None), 61);
    }

    #[test]
    fn one_domain_gets_a_quarter_however_many_ask() {
        assert_eq!(begun(&[Some(address(1))], Some("silent.test")), 16);
        let many: Vec<ClientOrSelf> = (0..200).map(|last| Some(address(last))).collect();
        assert_eq!(begun(&many, Some("a.silent.test")), 16);
    }

    #[test]
    fn a_domain_is_the_last_two_labels() {
        for (name, expected) in [
            ("a.b.example.com", "example.com"),
            ("example.com", "example.com"),
            ("localhost", "localhost"),
            ("a.b.example.com.", "example.com."),
        ] {
            assert_eq!(domain(name), expected);
        }
    }

    fn lines(waiting: &[(u8, &str)]) -> WaitingNames {
        let mut lines = WaitingNames::default();
        for (asker, name) in waiting {
            lines.push(Some(address(*asker)), &HostName::from(*name));
        }
        lines
    }

    fn take_all(
        lines: &mut WaitingNames,
        mut turn: impl FnMut(ClientOrSelf, &str) -> LineTurn,
    ) -> Vec<String> {
        let taken = std::iter::from_fn(|| lines.take(&mut turn));
        taken.map(|(_, name)| name.to_string()).collect()
    }

    #[test]
    fn the_lines_take_turns_however_long_they_are() {
        let mut lines = lines(&[(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1")]);
        assert_eq!(
            take_all(&mut lines, |_, _| LineTurn::Now),
            ["a1", "b1", "c1", "a2", "a3"]
        );
        assert!(lines.is_empty());
    }

    #[test]
    fn whoever_has_a_share_waits_and_holds_nobody_up() {
        let mut lines = lines(&[(1, "a1"), (2, "hangs"), (2, "b2")]);
        let turn = |asker, name: &str| match (asker == Some(address(1)), name) {
            (true, _) | (_, "hangs") => LineTurn::Later,
            (false, _) => LineTurn::Now,
        };
        assert_eq!(take_all(&mut lines, turn), ["b2"]);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn what_nobody_wants_any_more_takes_no_place() {
        let mut lines = lines(&[(1, "a1"), (1, "a2"), (2, "b1")]);
        assert_eq!(take_all(&mut lines, |_, _| LineTurn::Never), [""; 0]);
        assert_eq!(lines.len(), 0);
    }

    #[test]
    fn a_name_stands_once_in_a_line_and_in_as_many_as_want_it() {
        assert_eq!(lines(&[(1, "a"), (1, "a"), (2, "a")]).len(), 2);
    }

    #[test]
    fn nobody_has_all_places_in_the_queue() {
        let fill = |askers: u8, name: &dyn Fn(usize) -> String| {
            let mut lines = WaitingNames::default();
            for number in 0..2 * MOST_WAITING {
                let last = (number % usize::from(askers)).to_le_bytes()[0];
                let asker = Some(address(last));
                let name = HostName::from(name(number));
                if lines.has_room(asker, &name) {
                    lines.push(asker, &name);
                }
            }
            lines.len()
        };
        assert_eq!(fill(1, &|number| format!("n{number}.test")), 512);
        assert_eq!(fill(100, &|number| format!("n{number}.silent.test")), 256);
    }
}
