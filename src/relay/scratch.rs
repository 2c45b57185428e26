//! Buffers that a worker uses again and again.

use crate::access_log::AccessEntry;
use crate::net::buffer::Buffer;
use crate::protocol::head::HeadMemory;

use super::connections::Work;

/// Memory for so many heads is kept by a worker.
const SPARE_HEADS: usize = 32;
/// What most heads fit into, in bytes.
const USUAL_HEAD: usize = 4096;

/// Buffers a worker uses again and again.
#[derive(Debug, Default)]
pub struct Scratch {
    /// For heads of requests: more than one while exchanges are set aside.
    pub requests: Vec<HeadMemory>,
    /// The head of the response at hand.
    pub response: HeadMemory,
    /// What is about to be sent.
    pub out: Vec<u8>,
    /// For what is read from the client.
    pub from_client: Buffer,
    /// For the body of a request.
    pub body: Vec<u8>,
    /// For what is read from the next hop.
    pub from_hop: Buffer,
    /// For what the access log is told of a request.
    #[expect(clippy::vec_box, reason = "they go from request to request")]
    pub(super) entries: Vec<Box<AccessEntry>>,
    /// For what operators see of a request.
    pub(super) work: Option<Box<Work>>,
}

impl Scratch {
    /// Keeps memory for the head of another request, if it is of a usual size.
    pub(super) fn keep(&mut self, memory: HeadMemory) {
        if self.requests.len() < SPARE_HEADS && memory.bytes.capacity() <= USUAL_HEAD {
            self.requests.push(memory);
        }
    }

    /// As [`Scratch::keep`], for the access log.
    pub(super) fn keep_entry(&mut self, entry: Box<AccessEntry>) {
        if self.entries.len() < SPARE_HEADS && entry.is_usual() {
            self.entries.push(entry);
        }
    }
}
