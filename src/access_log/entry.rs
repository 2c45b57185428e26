//! What the access log is told of one exchange or tunnel.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

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
    /// The memory it takes, in bytes.
    pub(super) fn size(&self) -> usize {
        let agent = self.agent.as_ref();
        let agent = agent.map_or(0, |agent| agent.referer.len() + agent.user_agent.len());
        size_of::<Self>() + self.method.len() + self.target.len() + self.route.len() + agent
    }
}
