//! What a session leaves: the connection, or an exchange that waits for its next hop.

use std::sync::Arc;
use std::time::Instant;

use crate::net::conn::Conn;
use crate::protocol::head::RequestHead;

use super::client::Client;
use super::exchange::ExchangeState;
use super::hop::Hop;
use super::report::Report;
use super::snapshot::Snapshot;

/// What is to become of a connection.
#[derive(Debug)]
pub enum Outcome {
    /// Idle, or its next head is incomplete: to its lane.
    Park(Box<Client>),
    /// Its next request is here, and must wait until it may be worked at.
    Wait(Box<Client>),
    /// Its next request is here already, but it is the turn of others: to the end of the queue.
    Yield(Box<Client>),
    /// Answered for the last time; what the client still sends must be read away for a moment, or a
    /// reset would destroy the answer on its way.
    Linger(Box<Client>),
    /// Closed.
    Closed,
    /// A tunnel now: an event loop has it.
    Tunneled,
    /// In the middle of an exchange: to its lane until its next hop says something, then
    /// [`super::session::resume`].
    Suspended(Box<Suspended>),
}

/// A request, from its head to its report.
#[derive(Debug)]
pub(super) struct RequestScope {
    /// The configuration it is relayed by.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) client: Box<Client>,
    pub(super) head: RequestHead,
    pub(super) report: Report,
}

/// An exchange whose next hop has the request and has not begun its final response; interim responses (1xx)
/// may have come.
#[derive(Debug)]
pub struct Suspended {
    pub(super) request: RequestScope,
    pub(super) state: ExchangeState,
    pub(super) hop: Hop,
}

impl Suspended {
    /// The connection to the next hop.
    pub fn hop(&mut self) -> &mut Conn {
        &mut self.hop.conn
    }

    /// When its request was whole, which stays so over all attempts; the present if it is not yet.
    pub fn since(&self) -> Instant {
        self.state.request_done.unwrap_or_else(Instant::now)
    }

    /// When to look whether there is still a point in waiting.
    pub fn until(&self) -> Instant {
        self.hop.until()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Context;
    use super::super::exchange::Destination;
    use super::super::hop::{HopOrigin, ResponseWait};
    use super::super::upload::Upload;
    use super::*;
    use crate::protocol::framing::Framing;
    use crate::protocol::target::RequestTarget;

    /// For tests of whatever holds exchanges that are suspended.
    impl Suspended {
        /// `client` has asked for something, and `conn` leads to who may wait with the answer for `patience`.
        pub(crate) fn asked(
            ctx: &Context,
            mut client: Box<Client>,
            conn: Conn,
            patience: Duration,
        ) -> Self {
            let snapshot = ctx.snapshot();
            let head = b"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n";
            let head = RequestHead::parse(head.to_vec()).unwrap();
            let target = RequestTarget::parse(head.method(), head.target()).unwrap();
            let asker = (client.address.ip(), None);
            let destination = Destination::of(target, asker, &snapshot);
            let report = Report::begin(ctx, &mut client, (0, 0));
            let mut state = ExchangeState::new(Upload::new(Framing::Empty, 0), &head, destination);
            let now = Instant::now();
            state.request_done = Some(now);
            let mut hop = Hop::new(conn, None, now, HopOrigin::Fresh);
            hop.waiting = Some(ResponseWait {
                suspended_until: Some(now + patience),
                ..ResponseWait::default()
            });
            let request = RequestScope {
                snapshot,
                client,
                head,
                report,
            };
            Self {
                request,
                state,
                hop,
            }
        }

        /// Who has asked.
        pub(crate) fn client(&self) -> &Client {
            &self.request.client
        }

        /// Client and next hop are free again.
        pub(crate) fn over(self) -> (Box<Client>, Conn) {
            (self.request.client, self.hop.conn)
        }
    }
}
