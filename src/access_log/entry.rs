//! What the access log is told of one exchange or tunnel.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::protocol::request_id::RequestId;

/// What is told of one exchange or tunnel.
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
    pub agent: Option<Agent>,
    /// Who the client has shown to be.
    pub user: Option<String>,
    /// What the request is called, here and elsewhere.
    pub request_id: RequestId,
    /// How long it waited for a worker; part of `elapsed`.
    pub queued: Duration,
    /// How long it took to make the connection that was used, if it was made for this request.
    pub connected: Option<Duration>,
    /// What was tried, in the order in which it ended. Not longer than the pool, each twice.
    pub tries: Vec<Try>,
}

/// What came of one next hop.
#[derive(Clone, Debug)]
pub struct Try {
    /// The upstream's name, or `direct`.
    pub hop: String,
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
            agent: None,
            user: None,
            request_id: RequestId::Own(0),
            queued: Duration::ZERO,
            connected: None,
            tries: Vec::new(),
        }
    }

    /// The memory it takes, in bytes.
    pub(super) fn size(&self) -> usize {
        let agent = self.agent.as_ref();
        let agent = agent.map_or(0, |agent| agent.referer.len() + agent.user_agent.len());
        let tries = self
            .tries
            .iter()
            .map(|one| size_of::<Try>() + one.hop.len());
        let id = match &self.request_id {
            RequestId::Own(_) => 0,
            RequestId::OfClient(text) => text.len(),
        };
        size_of::<Self>()
            + [&self.method, &self.target, &self.route]
                .map(String::len)
                .iter()
                .sum::<usize>()
            + self.user.as_ref().map_or(0, String::len)
            + tries.sum::<usize>()
            + agent
            + id
    }
}
