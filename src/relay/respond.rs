//! The final response, from the next hop to the client.
//!
//! Once its first byte is out there is no way back: whatever fails from here on closes the client's
//! connection, in a way that cannot be taken for the end of the body.

use std::io::IoSlice;
use std::time::Instant;

use crate::balance::failover::AttemptError;
use crate::balance::upstream::Lease;
use crate::net::socket::{self, Received, TICK};
use crate::protocol::answer::{HopFailure, Refusal};
use crate::protocol::body::{BodyCoder, Sent};
use crate::protocol::framing::{self, Framing};
use crate::protocol::head::{Message, ResponseHead, Version};
use crate::protocol::persistence::{CloseReason, Persistence};
use crate::protocol::rewrite::{self, KeepAlive, ResponseRewrite, SentFraming, Switch};
use crate::protocol::shown::ShownHead;
use crate::stop::Stage;

use super::evidence;
use super::exchange::{ClientEnd, Exchange};
use super::failed::{Failed, truncated, unsent};
use super::hop::Hop;
use super::reuse::After;

/// How the body of a response travels on, and which framing the client gets (RFC 9112 §6): the same if it can
/// have it, chunks for a body that ends with the connection, and for an HTTP/1.0 client the other way round.
fn body_plan(received: Framing, head: &ResponseHead, client: Version) -> (Sent, SentFraming) {
    match (received, client) {
        (Framing::Empty, _) if head.status() < 200 || head.status() == 204 => {
            (Sent::AsReceived, SentFraming::None)
        }
        (Framing::Empty, _) => (Sent::AsReceived, SentFraming::AsDeclared),
        (Framing::Length(length), _) => (Sent::AsReceived, SentFraming::Length(length)),
        (Framing::Chunked, Version::Http11) => (Sent::AsReceived, SentFraming::Chunked),
        (Framing::Chunked, Version::Http10) => (Sent::Decoded, SentFraming::UntilClose),
        (Framing::UntilClose, Version::Http11) => (Sent::Chunked, SentFraming::Chunked),
        (Framing::UntilClose, Version::Http10) => (Sent::AsReceived, SentFraming::UntilClose),
    }
}

impl Exchange<'_> {
    /// Checks what an answer says about its next hop, before anything of it is passed on.
    ///
    /// # Errors
    /// When the answer cannot be passed on; another next hop may do.
    pub(super) fn examine(&mut self, hop: &Hop, head: &ResponseHead) -> Result<Framing, Failed> {
        let framing = framing::of_response(self.head.method(), head)
            .map_err(|error| Failed::no_response(HopFailure::from(error)))?;
        if hop.is_clients_matter(head.status()) {
            return Ok(framing);
        }
        if self.is_about_our_credentials(hop, head.status()) {
            // The client's answer to it would be another's password. Through SOCKS5 the origin says it.
            let failure = HopFailure::AuthenticationRefused;
            return Err(match &hop.lease {
                Some(lease) if lease.upstream().spec.is_socks() => {
                    Failed::Refused(Refusal::NextHop(failure))
                }
                Some(_) | None => Failed::no_response(failure),
            });
        }
        if let Some(lease) = &hop.lease {
            self.weigh_answer(lease, hop.begun.elapsed(), head.status());
        }
        Ok(framing)
    }

    /// Whether a next hop with this answer refuses us, not the client's request. No origin is asked with
    /// CONNECT, so a 401 is the upstream's, too: see
    /// [`evidence::has_sent_credentials`].
    fn is_about_our_credentials(&self, hop: &Hop, status: u16) -> bool {
        match status {
            407 => true,
            401 if self.head.method() == "CONNECT" => {
                let lease = hop.lease.as_ref();
                lease.is_some_and(evidence::has_sent_credentials)
            }
            _ => false,
        }
    }

    /// Passes the response on. Returns whether the client's connection goes on.
    ///
    /// # Errors
    /// When the response could not be completed, with the lease. The client's connection must be closed,
    /// unless the error says that nothing of it was sent.
    pub(super) fn respond(
        &mut self,
        mut hop: Hop,
        head: ResponseHead,
        framing: Framing,
    ) -> Result<Persistence, (Failed, Option<Lease>)> {
        let (sent, declared) = body_plan(framing, &head, self.head.version());
        let persistence = self.persistence_after(declared);
        let mut out = std::mem::take(&mut self.scratch.out);
        let how = ResponseRewrite {
            framing: declared,
            persistence,
            keep_alive: KeepAlive::towards(self.head),
            via: self.via(),
            upgrade: Switch::Stays,
            passes_challenge: hop.passes_credentials(),
            id: self.id_field(),
        };
        out.clear();
        rewrite::response(&head, &how, &mut out);
        passes!(self.report, self.ctx, "to the client", &out);
        self.report.answered(head.status());
        let trailers = self.snapshot.config.limits.max_header_bytes;
        let mut coder = BodyCoder::new(Message::Response, framing, sent, trailers);
        let copied = self.copy_response(&mut hop, &mut coder, &mut out);
        self.scratch.out = out;
        hop.count_bytes();
        if let Err(error) = copied {
            if matches!(error, Failed::Hop(AttemptError::NoResponse(_))) {
                self.report.status = None;
            } else if declared == SentFraming::UntilClose {
                // An orderly end would look like the end of the body.
                self.client_end = ClientEnd::Reset;
            }
            return Err((error, hop.lease));
        }
        self.state.binds |= rewrite::binds_connection(head.fields());
        let after = After::of(self.head.method(), &head);
        self.scratch.response = head.into_memory();
        if framing != Framing::UntilClose && self.state.upload.is_delivered() {
            self.keep(hop, after);
        }
        Ok(persistence)
    }

    fn persistence_after(&self, declared: SentFraming) -> Persistence {
        if let Persistence::Close(reason) = self.state.persistence {
            return Persistence::Close(reason);
        }
        if declared == SentFraming::UntilClose {
            return Persistence::Close(CloseReason::BodyUntilClose);
        }
        if !self.state.upload.is_finished() {
            return Persistence::Close(CloseReason::RequestUnread);
        }
        if self.state.upgrade.is_some() {
            // What the client sent behind the refused Upgrade may be another protocol (RFC 9931).
            return Persistence::Close(CloseReason::UpgradeRefused);
        }
        if self.ctx.stop.stage() != Stage::Running {
            return Persistence::Close(CloseReason::Draining);
        }
        Persistence::KeepAlive
    }

    /// Copies the head, which is in `out`, and the body; the head goes out together with what there is of
    /// the body.
    fn copy_response(
        &mut self,
        hop: &mut Hop,
        coder: &mut BodyCoder,
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let mut is_begun = self.state.upload.is_open();
        if is_begun {
            self.copy_both_ways(hop, coder, out)?;
        }
        let mut first = out.as_slice();
        loop {
            if is_begun {
                self.check_response(hop)?;
            } else {
                self.check_hop(hop)?;
            }
            let passed = coder.pass(hop.conn.unread_mut()).map_err(|error| {
                let failed = truncated(HopFailure::from(error));
                if is_begun { failed } else { unsent(failed) }
            })?;
            let data = hop.conn.unread().get(..passed.output).unwrap_or_default();
            let mut parts = [
                IoSlice::new(first),
                IoSlice::new(if data.is_empty() { b"" } else { coder.before() }),
                IoSlice::new(data),
                IoSlice::new(coder.after()),
            ];
            self.send_to_client(hop, &mut parts)?;
            (first, is_begun) = (b"", true);
            hop.conn.consume(passed.taken);
            self.has_moved(passed.taken as u64);
            if !coder.is_finished() {
                self.worker.takes_over_hop(&mut hop.conn);
                self.splice_response(hop, coder)?;
            }
            if coder.is_finished() {
                return Ok(());
            }
            if hop.conn.unread().is_empty() && !self.receive_body(hop)? {
                coder
                    .end_of_input()
                    .map_err(|error| truncated(HopFailure::from(error)))?;
                let mut last = [IoSlice::new(coder.after())];
                return self.send_to_client(hop, &mut last);
            }
        }
    }

    /// Waits for more of the body, which may be long in coming: an event stream is silent while nothing
    /// happens. `false`: the next hop has ended.
    fn receive_body(&mut self, hop: &mut Hop) -> Result<bool, Failed> {
        let patience = self.snapshot.config.limits.response_idle_timeout;
        let since = Instant::now();
        hop.conn.limit_read(patience.min(TICK));
        loop {
            match hop.conn.receive_bulk(self.wait) {
                Ok(Received::Bytes(_)) => return Ok(true),
                Ok(Received::End) => return Ok(false),
                Ok(Received::Nothing) if self.begins_to_wait() => {}
                Ok(Received::Nothing) => {
                    self.check_response(hop)?;
                    if self.client_is_gone() {
                        return Err(Failed::Closed(CloseReason::ClientGone));
                    }
                    let has_come = || socket::is_readable(hop.conn.stream());
                    if socket::is_overdue(since, patience, has_come) {
                        return Err(truncated(HopFailure::Stalled));
                    }
                }
                Err(_) => return Err(truncated(HopFailure::Truncated)),
            }
        }
    }
}
