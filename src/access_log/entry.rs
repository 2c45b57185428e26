//! What the access log is told of one exchange or tunnel.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::protocol::request_id::RequestId;

/// What most texts of a client fit into, in bytes.
const USUAL: usize = 4096;

/// What is told of one exchange or tunnel. Its memory serves for another one: see [`AccessEntry::reset`].
#[derive(Clone, Debug)]
pub struct AccessEntry {
    /// When it ended.
    pub time: SystemTime,
    /// Its number in this process.
    pub id: u64,
    /// The client.
    pub client: SocketAddr,
    /// The method; empty when no head could be read.
    pub method: String,
    /// The target without userinfo; empty when no head could be read.
    pub target: String,
    /// The status sent to the client, if any was.
    pub status: Option<u16>,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// From the first byte of the request to the last of the response.
    pub elapsed: Duration,
    /// From the first byte of the request to the first of the final response.
    pub first_byte: Option<Duration>,
    /// The upstream's name, `direct`, or `-`.
    pub route: String,
    /// Next hops tried.
    pub attempts: u32,
    /// What went wrong, if anything.
    pub cause: Option<&'static str>,
    /// The `Referer` and `User-Agent` fields, for the combined format.
    pub agent: Agent,
    /// Who the client has shown to be.
    pub user: Option<String>,
    /// What the request is called, here and elsewhere.
    pub request_id: RequestId,
    /// How long it waited for a permit and for an upstream to have room; part of `elapsed`.
    pub queued: Duration,
    /// How long it took to make the connection that was used, if it was made for this request.
    pub connected: Option<Duration>,
    /// What was tried, in the order in which it ended. Not more than the pool, each twice.
    pub tries: Tries,
}

/// What came of one next hop.
#[derive(Clone, Copy, Debug)]
pub struct Try<'e> {
    /// The upstream's name, or `direct`.
    pub hop: &'e str,
    /// How it ended.
    pub end: TryEnd,
    /// From its beginning to the head of its answer, or to its failure.
    pub elapsed: Duration,
}

/// How a try at a next hop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryEnd {
    /// With an answer of this status.
    Status(u16),
    /// Without: why.
    Word(&'static str),
}

/// What came of each next hop.
#[derive(Clone, Debug, Default)]
pub struct Tries {
    /// All their names in one piece of memory.
    hops: String,
    /// How long each name is, and what else is known.
    ends: Vec<(usize, TryEnd, Duration)>,
}

/// What only the combined format shows.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// The `Referer` field.
    pub referer: String,
    /// The `User-Agent` field.
    pub user_agent: String,
}

impl AccessEntry {
    /// Of exchange `id` of `client`, of which nothing more is known yet.
    pub fn new(id: u64, client: SocketAddr) -> Self {
        Self {
            time: SystemTime::UNIX_EPOCH,
            id,
            client,
            method: String::new(),
            target: String::new(),
            status: None,
            received: 0,
            sent: 0,
            elapsed: Duration::ZERO,
            first_byte: None,
            route: String::new(),
            attempts: 0,
            cause: None,
            agent: Agent::default(),
            user: None,
            request_id: RequestId::Own(0),
            queued: Duration::ZERO,
            connected: None,
            tries: Tries::default(),
        }
    }

    /// Makes it [`AccessEntry::new`], but for its memory.
    pub fn reset(&mut self, id: u64, client: SocketAddr) {
        let Self {
            mut method,
            mut target,
            mut route,
            mut agent,
            mut tries,
            ..
        } = std::mem::replace(self, Self::new(id, client));
        for text in [&mut method, &mut target, &mut route] {
            text.clear();
        }
        agent.referer.clear();
        agent.user_agent.clear();
        tries.hops.clear();
        tries.ends.clear();
        (self.method, self.target, self.route) = (method, target, route);
        (self.agent, self.tries) = (agent, tries);
    }

    /// Whether none of the texts that a client chooses takes more memory than most do: then it may be kept.
    pub fn is_usual(&self) -> bool {
        [&self.target, &self.agent.referer, &self.agent.user_agent]
            .iter()
            .all(|text| text.capacity() <= USUAL)
    }
}

impl Tries {
    /// Adds one.
    pub fn push(&mut self, one: Try<'_>) {
        self.hops.push_str(one.hop);
        self.ends.push((one.hop.len(), one.end, one.elapsed));
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Try<'_>> {
        let mut rest = &*self.hops;
        self.ends.iter().map(move |(length, end, elapsed)| {
            let (hop, others) = rest.split_at_checked(*length).unwrap_or((rest, ""));
            rest = others;
            Try {
                hop,
                end: *end,
                elapsed: *elapsed,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_an_entry_serves_for_the_next_one_and_tells_nothing_of_it() {
        let client = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let text = || "x".repeat(100);
        let mut tries = Tries::default();
        tries.push(Try {
            hop: "a",
            end: TryEnd::Status(200),
            elapsed: Duration::ZERO,
        });
        let mut used = AccessEntry {
            method: text(),
            target: text(),
            status: Some(200),
            route: text(),
            attempts: 1,
            cause: Some("x"),
            agent: Agent {
                referer: text(),
                user_agent: text(),
            },
            user: Some(text()),
            request_id: RequestId::Own(7),
            tries,
            ..AccessEntry::new(1, client(1))
        };
        used.reset(2, client(2));
        let new = AccessEntry::new(2, client(2));
        assert_eq!(format!("{used:?}"), format!("{new:?}"));
        assert!(used.target.capacity() >= 100 && used.agent.user_agent.capacity() >= 100);
        assert!(used.tries.ends.capacity() > 0);
    }
}
