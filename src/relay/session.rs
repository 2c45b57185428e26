//! One client connection: exchange after exchange until it is parked, closed or a tunnel.
//!
//! Whatever the client sends too early stays in its connection and is looked at in its turn; each
//! request is routed and checked on its own. This module never waits for a client: a head that is not
//! complete goes back to the waiter with what there is of it.

use std::time::Instant;

use crate::balance::failover::Judge;
use crate::net::socket::{Received, Wait};
use crate::protocol::answer::{self, AnswerContext, BodyWanted, Refusal};
use crate::protocol::framing::{self, Framing};
use crate::protocol::head::RequestHead;
use crate::protocol::persistence::{self, CloseReason, Persistence};
use crate::protocol::rewrite::{self, MaxForwards};
use crate::protocol::target::RequestTarget;
use crate::stop::Stage;

use super::attempt::Failed;
use super::connect;
use super::exchange::{Done, Exchange, close_reason};
use super::report::{Report, RouteTaken};
use super::upload::Upload;
use super::{Client, Context, Scratch, Snapshot, access};

/// What is to become of a connection.
#[derive(Debug)]
pub enum Outcome {
    /// Idle, or its next head is incomplete: to the waiter.
    Park(Client),
    /// Answered for the last time; what the client still sends must be read away for a moment, or a
    /// reset would destroy the answer on its way.
    Linger(Client),
    /// Closed.
    Closed(CloseReason),
    /// Handed to the threads of a tunnel.
    Tunneled,
}

/// Whether a worker may wait a moment for the next request of a connection it has just served.
pub trait MayLinger {
    /// Nobody needs this worker now.
    fn may_linger(&self) -> bool;
}

enum NextHead {
    Complete(RequestHead),
    Incomplete,
    Ended,
    Refused(Refusal),
}

/// Serves `client` as long as it has something to say.
pub fn serve(
    ctx: &Context,
    scratch: &mut Scratch,
    mut client: Client,
    worker: &dyn MayLinger,
) -> Outcome {
    loop {
        let snapshot = ctx.snapshot();
        let next = next_head(&mut client, &snapshot, scratch, worker);
        let begun = client.head_begun.unwrap_or_else(Instant::now);
        let head = match next {
            NextHead::Complete(head) => head,
            NextHead::Incomplete if ctx.stop.stage() != Stage::Running && client.head_begun.is_none() => {
                return Outcome::Closed(CloseReason::Draining);
            }
            NextHead::Incomplete => return Outcome::Park(client),
            NextHead::Ended => return Outcome::Closed(CloseReason::ClientGone),
            NextHead::Refused(refusal) => {
                let report = Report::begin(ctx, client.address, begun, before(&client));
                return refuse_unread(ctx, client, report, &refusal);
            }
        };
        client.head_begun = None;
        client.scanner = Default::default();
        client.served += 1;
        let report = Report::begin(ctx, client.address, begun, (before(&client).0 - head_length(&head), client.conn.sent()));
        match exchange(ctx, &snapshot, scratch, client, head, report) {
            Next::Again(same) => client = same,
            Next::Over(outcome) => return outcome,
        }
    }
}

/// Refuses a connection before anything of it was read to the end: too many, too slow, draining.
pub fn refuse(ctx: &Context, client: Client, refusal: &Refusal) -> Outcome {
    let begun = client.head_begun.unwrap_or_else(Instant::now);
    let report = Report::begin(ctx, client.address, begun, (0, client.conn.sent()));
    refuse_unread(ctx, client, report, refusal)
}

enum Next {
    Again(Client),
    Over(Outcome),
}

/// What the connection received for messages so far, and what it sent.
fn before(client: &Client) -> (u64, u64) {
    let unread = client.conn.unread().len() as u64;
    (client.conn.received() - unread, client.conn.sent())
}

fn head_length(head: &RequestHead) -> u64 {
    head.as_bytes().len() as u64
}
