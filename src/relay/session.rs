//! One client connection: its next request, and what becomes of it then.
//!
//! Whatever the client sends too early stays in its connection and is looked at in its turn; each
//! request is routed and checked on its own. This module never waits for a client: a head that is not
//! complete goes back to its lane with what there is of it. Nor does an exchange whose next hop has the
//! request wait here for its answer, if the worker may leave it: it is suspended and goes to the lane as
//! well ([`Suspended`]), which resumes it once the next hop says something.

use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::net::socket::{Received, TICK, Wait};
use crate::protocol::answer::{self, AnswerContext, BodyWanted, Refusal};
use crate::protocol::framing::{self, Framing};
use crate::protocol::head::{HeadLimits, HeadScanner, RequestHead};
use crate::protocol::persistence::{self, CloseReason, Persistence};
use crate::protocol::rewrite::{self, MaxForwards};
use crate::protocol::shown::ShownHead;
use crate::protocol::target::{RequestTarget, TargetError};
use crate::route::Route;
use crate::stop::Stage;

use super::access::{self, Requester};
use super::client::{Arrival, Client};
use super::connect;
use super::context::Context;
use super::exchange::{ClientEnd, Destination, Done, Exchange, ExchangeState};
use super::exits::{Login, Wanted};
use super::failed::{Failed, NoRequest};
use super::foreign;
use super::hop::{Hop, look_at};
use super::introduction;
use super::outcome::{Outcome, RequestScope, Suspended};
use super::report::{Report, RouteTaken};
use super::scratch::Scratch;
use super::told;
use super::upload::Upload;
use super::worker::Worker;

/// Empty lines between two requests that are overlooked; more begin a request that is refused.
const EMPTY_LINES: u32 = 2;

/// What serves a client.
struct Session<'a> {
    ctx: &'a Arc<Context>,
    scratch: &'a mut Scratch,
    worker: &'a dyn Worker,
}

/// How the work at a request ended.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum RequestEnd {
    /// It is complete.
    Complete(Persistence),
    /// It ended before its end.
    Broken(ClientEnd),
    /// Not yet: the answer of this next hop is to be waited for without a worker.
    Suspended(ExchangeState, Hop),
    /// With a tunnel to this next hop; the bytes go to the client before anything else.
    Tunnel(Hop, Vec<u8>),
}

/// Serves the next request of `client`, if it is there.
pub fn serve(
    ctx: &Arc<Context>,
    scratch: &mut Scratch,
    mut client: Box<Client>,
    worker: &dyn Worker,
) -> Outcome {
    client.conn.borrow_memory(&mut scratch.from_client);
    let mut session = Session {
        ctx,
        scratch,
        worker,
    };
    let outcome = session.begin(client);
    session.release_memory(outcome)
}

/// Goes on with an exchange whose next hop may have said something.
pub fn resume(
    ctx: &Arc<Context>,
    scratch: &mut Scratch,
    suspended: Suspended,
    worker: &dyn Worker,
) -> Outcome {
    let Suspended {
        mut request,
        state,
        mut hop,
    } = suspended;
    let conn = &mut request.client.conn;
    conn.borrow_memory(&mut scratch.from_client);
    hop.conn.borrow_memory(&mut scratch.from_hop);
    let mut session = Session {
        ctx,
        scratch,
        worker,
    };
    let outcome = session.work(request, |session, request| {
        session.relay(request, state, Some(hop))
    });
    session.release_memory(outcome)
}

/// Refuses a connection of which no request could be read: malformed, too many, too slow, no worker. It may
/// linger.
pub fn refuse(ctx: &Context, mut client: Box<Client>, refusal: &Refusal) -> Box<Client> {
    let snapshot = ctx.snapshot();
    let before = client.totals();
    let mut report = Report::begin(ctx, &mut client, before);
    let context = AnswerContext {
        body: BodyWanted::Yes,
        persistence: Persistence::Close(CloseReason::RequestRefused),
        next_hop: None,
        server: ctx.via.pseudonym(),
        request_id: Some(report.id(ctx)),
        id_field: snapshot.config.request_id.as_ref(),
    };
    let mut out = Vec::new();
    answer::write(refusal, &context, &mut out);
    log::debug!("{}: {}: refused: {refusal}", report.id(ctx), client.address);
    report.refused(refusal);
    // What is not taken at once is not worth a thread's time.
    if let Err(error) = client.conn.send(&[IoSlice::new(&out)], Wait::No) {
        log::debug!("the client left before its refusal: {error}");
    }
    client.conn.finish_sending();
    report.finish(ctx, (client.conn.received(), client.conn.sent()));
    client.conn.forget_unread();
    client
}

impl Session<'_> {
    fn begin(&mut self, mut client: Box<Client>) -> Outcome {
        if client.arrival == Arrival::Unannounced
            && let Err(why) = introduction::read(&mut client, &self.ctx.snapshot())
        {
            return self.without_request(client, &why);
        }
        // Taken anew for each exchange, so that a reload applies to the next.
        let snapshot = self.worker.snapshot(self.ctx);
        let head = match self.next_head(&mut client, snapshot.head_limits()) {
            Ok(head) => head,
            Err(why) => return self.without_request(client, &why),
        };
        client.scanner = HeadScanner::default();
        client.served += 1;
        let (received, sent) = client.totals();
        let received = received.saturating_sub(head.as_bytes().len() as u64);
        let request = RequestScope {
            snapshot,
            head,
            report: Report::begin(self.ctx, &mut client, (received, sent)),
            client,
        };
        self.work(request, Self::take)
    }

    /// A connection that waits needs no memory for what has not come yet.
    fn release_memory(&mut self, mut outcome: Outcome) -> Outcome {
        match &mut outcome {
            Outcome::Park(client) | Outcome::Wait(client) => {
                client.conn.release(&mut self.scratch.from_client);
            }
            Outcome::Suspended(suspended) => {
                let Suspended { request, hop, .. } = &mut **suspended;
                let conn = &mut request.client.conn;
                conn.release(&mut self.scratch.from_client);
                hop.conn.release(&mut self.scratch.from_hop);
            }
            Outcome::Yield(_) | Outcome::Linger(_) | Outcome::Closed | Outcome::Tunneled => {}
        }
        outcome
    }

    fn without_request(&self, client: Box<Client>, why: &NoRequest) -> Outcome {
        match why {
            NoRequest::Ended => Outcome::Closed,
            NoRequest::Refused(refusal) => {
                foreign::tell(client.address.ip(), refusal);
                Outcome::Linger(refuse(self.ctx, client, refusal))
            }
            NoRequest::Incomplete if client.head_begun.is_none() && self.is_stopping() => {
                Outcome::Closed
            }
            NoRequest::Incomplete => Outcome::Park(client),
            NoRequest::NotYet => Outcome::Wait(client),
        }
    }

    fn is_stopping(&self) -> bool {
        self.ctx.stop.stage() != Stage::Running
    }

    /// Reads what is there of the next head.
    fn next_head(
        &mut self,
        client: &mut Client,
        limits: HeadLimits,
    ) -> Result<RequestHead, NoRequest> {
        let mut empty_lines = EMPTY_LINES;
        loop {
            // Old clients send an empty line behind a body; it begins no request (RFC 9112 §2.2).
            let between = client.served > 0 && client.head_begun.is_none();
            while between && empty_lines > 0 && client.conn.unread().starts_with(b"\r\n") {
                client.conn.consume(2);
                empty_lines -= 1;
            }
            if !client.conn.unread().is_empty() {
                client.head_begun.get_or_insert_with(Instant::now);
                let scanned = client.scanner.scan(client.conn.unread(), limits);
                if let Some(length) = scanned.map_err(NoRequest::from)? {
                    if !self.worker.may_begin() {
                        client.scanner = HeadScanner::default();
                        return Err(NoRequest::NotYet);
                    }
                    let mut memory = self.scratch.requests.pop().unwrap_or_default();
                    client.conn.take_into(length, &mut memory.bytes);
                    return RequestHead::scanned(memory, &client.scanner).map_err(NoRequest::from);
                }
            }
            match client.conn.receive(Wait::No) {
                Ok(Received::Bytes(_)) => {}
                Ok(Received::Nothing) => return Err(NoRequest::Incomplete),
                Ok(Received::End) | Err(_) => return Err(NoRequest::Ended),
            }
        }
    }

    /// Does `step` of the work at a request, and says what follows. A request that panics is reported, too.
    fn work(
        &mut self,
        mut request: RequestScope,
        step: impl FnOnce(&mut Self, &mut RequestScope) -> RequestEnd,
    ) -> Outcome {
        let ended = catch_unwind(AssertUnwindSafe(|| step(self, &mut request)));
        let end = ended.unwrap_or_else(|panic| {
            request.report.cause = Some(CloseReason::Panicked.label());
            request.report.finish(self.ctx, request.client.totals());
            resume_unwind(panic)
        });
        match end {
            RequestEnd::Complete(then) => self.complete(request, then),
            RequestEnd::Broken(client_end) => {
                let client = self.finish(request);
                if client_end == ClientEnd::Reset {
                    client.conn.reset();
                }
                Outcome::Closed
            }
            RequestEnd::Suspended(state, hop) => Outcome::Suspended(Box::new(Suspended {
                request,
                state,
                hop,
            })),
            RequestEnd::Tunnel(hop, first) => {
                let RequestScope {
                    snapshot,
                    client,
                    head,
                    report,
                } = request;
                self.scratch.keep(head.into_memory());
                let config = (self.ctx, &*snapshot);
                connect::start_tunnel(config, client, (hop, first), report)
            }
        }
    }

    /// Reports a request, of which nothing but its client is left then.
    fn finish(&mut self, request: RequestScope) -> Box<Client> {
        let RequestScope {
            client,
            head,
            mut report,
            ..
        } = request;
        report.finish(self.ctx, client.totals());
        client.listed.ends(client.totals(), &mut self.scratch.work);
        self.scratch.keep(head.into_memory());
        if let Some(entry) = report.into_entry() {
            self.scratch.keep_entry(entry);
        }
        client
    }

    /// What follows a request that is complete.
    fn complete(&mut self, request: RequestScope, then: Persistence) -> Outcome {
        if let Persistence::Close(reason) = then {
            // It will send nothing more, so nothing can hit a closed socket; but behind a body, old
            // clients send an empty line.
            let is_last = matches!(reason, CloseReason::ClientAsked | CloseReason::Http10)
                && request.client.conn.unread().is_empty()
                && matches!(framing::of_request(&request.head), Ok(Framing::Empty));
            let mut client = self.finish(request);
            if is_last {
                return Outcome::Closed;
            }
            client.conn.finish_sending();
            client.conn.forget_unread();
            return Outcome::Linger(client);
        }
        let client = self.finish(request);
        // Whether there is more is for the lane to say: a look at the socket would cost more than it
        // spares.
        if client.conn.unread().is_empty() && !self.is_stopping() {
            Outcome::Park(client)
        } else {
            Outcome::Yield(client)
        }
    }

    /// Begins the work at a request.
    fn take(&mut self, request: &mut RequestScope) -> RequestEnd {
        let (destination, framing) = match self.admit(request) {
            Ok(admitted) => admitted,
            Err((refusal, then)) => return self.refuse(request, &refusal, then),
        };
        if ends_here(request, destination.route) {
            return self.answer_here(request, framing);
        }
        let trailers = request.snapshot.config.limits.max_header_bytes;
        let mut upload = Upload::new(framing, trailers);
        upload.borrow_memory(&mut self.scratch.body);
        let state = ExchangeState::new(upload, &request.head, destination);
        self.relay(request, state, None)
    }

    /// Does what a request asks for; `resumed` is the next hop of one that was suspended.
    fn relay(
        &mut self,
        request: &mut RequestScope,
        state: ExchangeState,
        resumed: Option<Hop>,
    ) -> RequestEnd {
        let is_connect = request.head.method() == "CONNECT";
        let mut exchange = Exchange {
            ctx: self.ctx,
            snapshot: &request.snapshot,
            worker: self.worker,
            scratch: self.scratch,
            client: &mut request.client,
            head: &request.head,
            state,
            resumed,
            report: &mut request.report,
            client_end: ClientEnd::Orderly,
            wait: Wait::No,
            moved: 0,
        };
        let result = if exchange.has_left_the_line() {
            Err(exchange.given_up())
        } else if is_connect {
            exchange.connect()
        } else {
            exchange.relay()
        };
        let client_end = exchange.client_end;
        let mut state = exchange.state;
        if !matches!(result, Ok(Done::Suspended(_))) {
            state.upload.return_memory(&mut self.scratch.body);
        }
        let is_read = state.upload.is_finished();
        match result {
            // It still sends: a close now would be a reset, and destroy the answer on its way.
            Ok(Done::Answered(_)) if !is_read => {
                RequestEnd::Complete(Persistence::Close(CloseReason::RequestUnread))
            }
            Ok(Done::Answered(then)) => RequestEnd::Complete(then),
            Ok(Done::Suspended(hop)) => RequestEnd::Suspended(state, hop),
            Ok(Done::Switched { mut hop, first }) => {
                self.worker.takes_over(&request.client);
                self.worker.takes_over_hop(&mut hop.conn);
                RequestEnd::Tunnel(hop, first)
            }
            Err(Failed::Refused(refusal)) => {
                let then = match is_read {
                    _ if is_connect => Persistence::Close(CloseReason::ConnectRefused),
                    false => Persistence::Close(CloseReason::RequestUnread),
                    true => state.persistence,
                };
                self.refuse(request, &refusal, then)
            }
            Err(Failed::Hop(error)) => {
                request.report.cause = Some(error.failure().label());
                RequestEnd::Broken(client_end)
            }
            Err(Failed::Closed(reason)) => {
                request.report.cause = Some(reason.label());
                RequestEnd::Broken(client_end)
            }
        }
    }

    /// Every check that needs no next hop. Returns where the request goes and how its body ends, or why it
    /// does not and whether another may follow it.
    fn admit(
        &mut self,
        request: &mut RequestScope,
    ) -> Result<(Destination, Framing), (Refusal, Persistence)> {
        let (head, config) = (&request.head, &request.snapshot.config);
        let target = RequestTarget::parse(head.method(), head.target());
        let place = (&**self.ctx, &mut *self.scratch);
        request.report.asked(place, head, target.as_ref().ok());
        if let Some(name) = &config.request_id {
            request.report.called(head, name);
        }
        let closing = Persistence::Close(CloseReason::RequestRefused);
        let target = target.map_err(|error| (error.into(), closing))?;
        let framing = framing::of_request(head).map_err(|error| (error.into(), closing))?;
        passes!(request.report, self.ctx, "from the client", head.as_bytes());
        let requester = Requester::of(&request.client);
        let login = Login::of(head, config);
        let (user, allowed) = access::check(&config.access, requester, head, &target, &login);
        request.report.asked_by(user);
        let refusal = match allowed {
            Ok(()) if config.via && self.ctx.via.passes_through(head.fields()) => Refusal::Loop,
            Ok(()) => {
                let name = user.map(|user| &*user.username);
                let mut destination =
                    Destination::of(target, (requester.ip, name), &request.snapshot);
                if destination.route == Route::Refused {
                    Refusal::RefusedByRule
                } else if destination.is_unknown_here(&request.snapshot.pool) {
                    Refusal::Target(TargetError::SchemeUnsupported)
                } else {
                    log::debug!(
                        "{}: {} asks with {} for {}, which goes {}",
                        request.report.id(self.ctx),
                        request.client.address,
                        head.method(),
                        destination.authority,
                        match destination.route {
                            Route::Direct => "there directly",
                            Route::ViaUpstream(_) => "through an upstream",
                            Route::Refused => "nowhere",
                        }
                    );
                    let user = user.map_or("", |user| &user.username);
                    let (listed, spare) = (&request.client.listed, &mut self.scratch.work);
                    listed.begins(&destination.authority, user, spare);
                    if let Route::ViaUpstream(_) = destination.route {
                        let asker = (requester.ip, name, &login);
                        destination.wanted = Wanted::of(config, asker, destination.target(head));
                        let place = (&**self.ctx, &*request.client);
                        let host = destination.authority.host();
                        destination.parts = told::parts(config, place, asker, host);
                    }
                    return Ok((destination, framing));
                }
            }
            Err(refusal) => refusal,
        };
        let then = match (framing, head.method()) {
            (_, "CONNECT") => Persistence::Close(CloseReason::ConnectRefused),
            (Framing::Empty, _) => persistence::of_request(head),
            (_, _) => Persistence::Close(CloseReason::RequestUnread),
        };
        Err((refusal, then))
    }

    /// TRACE and OPTIONS that must go no further (RFC 9110 §7.6.2).
    fn answer_here(&mut self, request: &mut RequestScope, framing: Framing) -> RequestEnd {
        let head = &request.head;
        let then = match framing {
            Framing::Empty => self.persistence_now(head, persistence::of_request(head)),
            Framing::Length(_) | Framing::Chunked | Framing::UntilClose => {
                Persistence::Close(CloseReason::RequestUnread)
            }
        };
        let context = answer_context(self.ctx, request, then, None);
        let out = &mut self.scratch.out;
        out.clear();
        match head.method() {
            "TRACE" => answer::trace(head, &context, out),
            _ => answer::options(&context, out),
        }
        request.report.answered(200);
        self.send_answer(request, then)
    }

    fn refuse(
        &mut self,
        request: &mut RequestScope,
        refusal: &Refusal,
        then: Persistence,
    ) -> RequestEnd {
        let then = self.persistence_now(&request.head, then);
        let next_hop = match (&request.report.route, refusal) {
            (RouteTaken::Upstream(upstream), Refusal::NextHop(_)) => Some(&*upstream.spec.name),
            _ => None,
        };
        let context = answer_context(self.ctx, request, then, next_hop);
        let out = &mut self.scratch.out;
        out.clear();
        answer::write(refusal, &context, out);
        log::debug!("{}: refused: {refusal}", request.report.id(self.ctx));
        request.report.refused(refusal);
        self.send_answer(request, then)
    }

    fn persistence_now(&self, head: &RequestHead, then: Persistence) -> Persistence {
        match then {
            // What stands behind a refused Upgrade may be another protocol (RFC 9931).
            Persistence::KeepAlive if rewrite::requested_upgrade(head).is_some() => {
                Persistence::Close(CloseReason::UpgradeRefused)
            }
            Persistence::KeepAlive if self.is_stopping() => {
                Persistence::Close(CloseReason::Draining)
            }
            Persistence::KeepAlive | Persistence::Close(_) => then,
        }
    }

    /// Sends the answer in `scratch.out`.
    fn send_answer(&self, request: &mut RequestScope, then: Persistence) -> RequestEnd {
        passes!(request.report, self.ctx, "to the client", &self.scratch.out);
        let limits = &request.snapshot.config.limits;
        let answer = &mut [IoSlice::new(&self.scratch.out)];
        let patience = limits.io_timeout.min(TICK * 5);
        let sent = request.client.conn.send_all(answer, patience, &mut || {
            self.worker.may_block();
            look_at(self.ctx.stop.stage())
        });
        if sent.is_ok() {
            return RequestEnd::Complete(then);
        }
        let gone = CloseReason::ClientGone.label();
        request.report.cause.get_or_insert(gone);
        RequestEnd::Broken(ClientEnd::Orderly)
    }
}

/// Whether this proxy is the last recipient. Of a TRACE it is also where an upstream would get our
/// credentials with it: the last recipient behind us answers with the request as it came.
fn ends_here(request: &RequestScope, route: Route) -> bool {
    let upstreams = request.snapshot.pool.upstreams();
    rewrite::max_forwards(&request.head) == MaxForwards::Zero
        || (request.head.method() == "TRACE"
            && matches!(route, Route::ViaUpstream(_))
            && upstreams.iter().any(|one| one.spec.credentials.is_some()))
}

fn answer_context<'x>(
    ctx: &'x Context,
    request: &'x RequestScope,
    persistence: Persistence,
    next_hop: Option<&'x str>,
) -> AnswerContext<'x> {
    AnswerContext {
        body: BodyWanted::by_method(request.head.method()),
        persistence,
        next_hop,
        server: ctx.via.pseudonym(),
        request_id: Some(request.report.id(ctx)),
        id_field: request.snapshot.config.request_id.as_ref(),
    }
}
