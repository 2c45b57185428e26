//! One client connection: exchange after exchange until it is parked, closed or a tunnel.
//!
//! Whatever the client sends too early stays in its connection and is looked at in its turn; each
//! request is routed and checked on its own. This module never waits for a client: a head that is not
//! complete goes back to the waiter with what there is of it. Nor does an exchange that was asked wait
//! here for its answer, if the worker may leave it: it goes to the waiter as well ([`Asked`]), and
//! whichever worker is free goes on with it once the next hop says something.

use std::io::IoSlice;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use crate::net::conn::Conn;
use crate::net::socket::{Received, TICK, Wait};
use crate::protocol::answer::{self, AnswerContext, BodyWanted, Refusal};
use crate::protocol::framing::{self, Framing};
use crate::protocol::head::{HeadLimits, HeadScanner, RequestHead};
use crate::protocol::persistence::{self, CloseReason, Persistence};
use crate::protocol::rewrite::{self, MaxForwards};
use crate::protocol::target::RequestTarget;
use crate::route::Route;
use crate::stop::Stage;

use super::access::Asking;
use super::attempt::{Failed, Hop, look_at};
use super::exchange::{ClientEnd, Course, Done, Exchange};
use super::flow::Flow;
use super::introduction::{self, Introduction};
use super::report::{Report, RouteTaken};
use super::upload::Upload;
use super::{Arrival, Client, Context, Scratch, Snapshot, access, connect};

/// What is to become of a connection.
#[derive(Debug)]
pub enum Outcome {
    /// Idle, or its next head is incomplete: to the waiter.
    Park(Box<Client>),
    /// Its next request is here already, but it is the turn of others: to the end of the queue.
    Yield(Box<Client>),
    /// Answered for the last time; what the client still sends must be read away for a moment, or a
    /// reset would destroy the answer on its way.
    Linger(Box<Client>),
    /// Closed.
    Closed(CloseReason),
    /// Handed to the threads of a tunnel.
    Tunneled,
    /// In the middle of an exchange: to the waiter until its next hop says something, then
    /// [`go_on`].
    Asked(Box<Asked>),
}

/// An exchange whose next hop has the request, and has not said anything yet.
#[derive(Debug)]
pub struct Asked {
    snapshot: Arc<Snapshot>,
    head: RequestHead,
    aside: Box<Aside>,
}

/// What is left of a turn whose next hop has not answered yet.
#[derive(Debug)]
struct Aside {
    client: Box<Client>,
    report: Report,
    course: Course,
    hop: Hop,
}

impl Asked {
    /// The connection to the next hop.
    pub fn hop(&mut self) -> &mut Conn {
        &mut self.aside.hop.conn
    }

    /// Since when it waits for an answer.
    pub fn since(&self) -> Instant {
        let done = self.aside.course.request_done;
        done.unwrap_or_else(Instant::now)
    }

    /// When somebody is to look whether there is still a point in waiting.
    pub fn until(&self) -> Instant {
        self.aside.hop.until()
    }
}

/// Whether a session may take its next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turns {
    /// At once.
    GoOn,
    /// After those who wait: it has been served for a while.
    MakeWay,
}

/// The worker that serves a session, as far as the session is concerned.
pub trait Worker {
    /// A further exchange would begin.
    fn another_exchange(&self) -> Turns;

    /// What `client` sends from now on is waited for elsewhere (in the middle of a body, by a tunnel):
    /// nobody else is to be told of it.
    fn takes_over(&self, client: &Client);

    /// The same for what a next hop sends.
    fn takes_over_hop(&self, conn: &mut Conn);

    /// From here on the exchange at hand may wait for its peers: others who wait need another worker.
    fn may_block(&self);

    /// A connection is about to be made, which takes a moment or very long.
    fn dials(&self);

    /// Whether the exchange at hand may wait for its next hop without this worker; it has waited since
    /// `since`, which says which exchange of the session it is, too.
    fn may_set_aside(&self, since: Instant) -> bool;
}

/// Empty lines between two requests that are overlooked; more begin a request that is refused.
const EMPTY_LINES: u32 = 2;

enum NextHead {
    Complete(RequestHead),
    Incomplete,
    Ended,
    Refused(Refusal),
}

/// Serves `client` as long as it has something to say.
pub fn serve(
    ctx: &Arc<Context>,
    scratch: &mut Scratch,
    mut client: Box<Client>,
    worker: &dyn Worker,
) -> Outcome {
    client.conn.borrow_memory(&mut scratch.from_client);
    let outcome = begin(ctx, scratch, client, worker);
    lay_aside(scratch, outcome)
}

/// Goes on with an exchange whose next hop may have said something.
pub fn go_on(
    ctx: &Arc<Context>,
    scratch: &mut Scratch,
    asked: Asked,
    worker: &dyn Worker,
) -> Outcome {
    let Asked {
        snapshot,
        head,
        aside,
    } = asked;
    let Aside {
        mut client,
        report,
        course,
        mut hop,
    } = *aside;
    client.conn.borrow_memory(&mut scratch.from_client);
    hop.conn.borrow_memory(&mut scratch.from_hop);
    let turn = Turn {
        ctx,
        snapshot: &snapshot,
        worker,
        head: &head,
        report,
    };
    let next = turn.resume(client, scratch, (course, hop));
    let outcome = match settle((ctx, worker), scratch, (head, snapshot), next) {
        ControlFlow::Continue(client) => converse(ctx, scratch, client, worker),
        ControlFlow::Break(outcome) => outcome,
    };
    lay_aside(scratch, outcome)
}

/// Who waits needs no memory for what has not come yet.
fn lay_aside(scratch: &mut Scratch, mut outcome: Outcome) -> Outcome {
    match &mut outcome {
        Outcome::Park(client) => client.conn.release(&mut scratch.from_client),
        Outcome::Asked(asked) => {
            asked.aside.client.conn.release(&mut scratch.from_client);
            asked.aside.hop.conn.release(&mut scratch.from_hop);
        }
        Outcome::Yield(_) | Outcome::Linger(_) | Outcome::Closed(_) | Outcome::Tunneled => {}
    }
    outcome
}

fn begin(
    ctx: &Arc<Context>,
    scratch: &mut Scratch,
    mut client: Box<Client>,
    worker: &dyn Worker,
) -> Outcome {
    if client.arrival == Arrival::Unannounced {
        match introduction::read(&mut client, &ctx.snapshot()) {
            Introduction::Done => {}
            Introduction::Incomplete => return incomplete(ctx, client),
            Introduction::Ended => return Outcome::Closed(CloseReason::ClientGone),
            Introduction::Refused(refusal) => return refuse(ctx, client, &refusal),
        }
    }
    converse(ctx, scratch, client, worker)
}

fn converse(
    ctx: &Arc<Context>,
    scratch: &mut Scratch,
    mut client: Box<Client>,
    worker: &dyn Worker,
) -> Outcome {
    loop {
        // Taken anew for each exchange, so that a reload applies to the next.
        let snapshot = ctx.snapshot();
        let next = next_head(&mut client, snapshot.head_limits(), scratch);
        let begun = client.head_begun.unwrap_or_else(Instant::now);
        let head = match next {
            NextHead::Complete(head) => head,
            NextHead::Incomplete => return incomplete(ctx, client),
            NextHead::Ended => return Outcome::Closed(CloseReason::ClientGone),
            NextHead::Refused(refusal) => return refuse(ctx, client, &refusal),
        };
        client.head_begun = None;
        client.scanner = HeadScanner::default();
        client.served += 1;
        let (received, sent) = totals(&client);
        let received = received.saturating_sub(head.as_bytes().len() as u64);
        let turn = Turn {
            ctx,
            snapshot: &snapshot,
            worker,
            head: &head,
            report: Report::begin(ctx, client.address, begun, (received, sent)),
        };
        let next = turn.take(client, scratch);
        client = match settle((ctx, worker), scratch, (head, snapshot), next) {
            ControlFlow::Continue(same) => same,
            ControlFlow::Break(outcome) => return outcome,
        };
    }
}

/// What follows one exchange, or a part of it.
fn settle(
    (ctx, worker): (&Context, &dyn Worker),
    scratch: &mut Scratch,
    (head, snapshot): (RequestHead, Arc<Snapshot>),
    next: Next,
) -> ControlFlow<Outcome, Box<Client>> {
    let client = match next {
        Next::Again(client) => client,
        Next::Over(outcome) => {
            scratch.keep(head.into_memory());
            return ControlFlow::Break(outcome);
        }
        Next::Aside(aside) => {
            return ControlFlow::Break(Outcome::Asked(Box::new(Asked {
                snapshot,
                head,
                aside,
            })));
        }
    };
    scratch.keep(head.into_memory());
    // Whether there is more is for the waiter to say: a look at the socket would cost more than it
    // spares.
    if client.conn.unread().is_empty() && !is_stopping(ctx) {
        return ControlFlow::Break(Outcome::Park(client));
    }
    if worker.another_exchange() == Turns::MakeWay {
        return ControlFlow::Break(Outcome::Yield(client));
    }
    ControlFlow::Continue(client)
}

/// There is more to come before a request begins.
fn incomplete(ctx: &Context, client: Box<Client>) -> Outcome {
    if client.head_begun.is_none() && is_stopping(ctx) {
        return Outcome::Closed(CloseReason::Draining);
    }
    Outcome::Park(client)
}

/// Refuses a connection of which no request could be read: malformed, too many, too slow, no worker.
pub fn refuse(ctx: &Context, mut client: Box<Client>, refusal: &Refusal) -> Outcome {
    let begun = client.head_begun.unwrap_or_else(Instant::now);
    let (received, sent) = totals(&client);
    let mut report = Report::begin(ctx, client.address, begun, (received, sent));
    let context = AnswerContext {
        body: BodyWanted::Yes,
        persistence: Persistence::Close(CloseReason::RequestRefused),
        next_hop: None,
        server: ctx.via.pseudonym(),
    };
    let mut out = Vec::new();
    answer::write(refusal, &context, &mut out);
    report.cause = Some(refusal.label());
    report.answered(refusal.status());
    // What is not taken at once is not worth a thread's time.
    if let Err(error) = client.conn.send(&[IoSlice::new(&out)], Wait::No) {
        log::debug!("the client left before its refusal: {error}");
    }
    client.conn.finish_sending();
    report.finish(ctx, (client.conn.received(), client.conn.sent()));
    client.conn.forget_unread();
    Outcome::Linger(client)
}

fn is_stopping(ctx: &Context) -> bool {
    ctx.stop.stage() != Stage::Running
}

/// What the connection received for messages so far, and what it sent.
fn totals(client: &Client) -> (u64, u64) {
    let unread = client.conn.unread().len() as u64;
    (
        client.conn.received().saturating_sub(unread),
        client.conn.sent(),
    )
}

/// Reads what is there of the next head.
fn next_head(client: &mut Client, limits: HeadLimits, scratch: &mut Scratch) -> NextHead {
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
            match client.scanner.scan(client.conn.unread(), limits) {
                Ok(None) => {}
                Ok(Some(length)) => {
                    let mut memory = scratch.requests.pop().unwrap_or_default();
                    client.conn.take_into(length, &mut memory.bytes);
                    return match RequestHead::scanned(memory, &client.scanner) {
                        Ok(head) => NextHead::Complete(head),
                        Err(error) => NextHead::Refused(error.into()),
                    };
                }
                Err(error) => return NextHead::Refused(error.into()),
            }
        }
        match client.conn.receive(Wait::No) {
            Ok(Received::Bytes(_)) => {}
            Ok(Received::Nothing) => return NextHead::Incomplete,
            Ok(Received::End) | Err(_) => return NextHead::Ended,
        }
    }
}

enum Next {
    Again(Box<Client>),
    Over(Outcome),
    Aside(Box<Aside>),
}

/// One request at work.
struct Turn<'a> {
    ctx: &'a Arc<Context>,
    snapshot: &'a Snapshot,
    worker: &'a dyn Worker,
    head: &'a RequestHead,
    report: Report,
}

/// A request that passed every check.
struct Admitted<'a> {
    target: RequestTarget<'a>,
    framing: Framing,
}

/// A request that did not, and whether another may follow it.
struct Rejected {
    refusal: Refusal,
    then: Persistence,
}

impl Turn<'_> {
    fn take(mut self, client: Box<Client>, scratch: &mut Scratch) -> Next {
        let head = self.head;
        let admitted = match self.admit(&client) {
            Ok(admitted) => admitted,
            Err(Rejected { refusal, then }) => {
                return self.refuse(client, scratch, (&refusal, then));
            }
        };
        if self.ends_here(&admitted.target) {
            return self.answer_here(client, scratch, admitted.framing);
        }
        let trailers = self.snapshot.config.limits.max_header_bytes;
        let mut upload = Upload::new(admitted.framing, trailers);
        upload.borrow_memory(&mut scratch.body);
        let course = Course::new(upload, head);
        self.relay(client, scratch, &admitted.target, (course, None))
    }

    /// Goes on where [`Next::Aside`] ended.
    fn resume(
        self,
        client: Box<Client>,
        scratch: &mut Scratch,
        (course, asked): (Course, Hop),
    ) -> Next {
        match RequestTarget::parse(self.head.method(), self.head.target()) {
            Ok(target) => self.relay(client, scratch, &target, (course, Some(asked))),
            // It was parsed before.
            Err(_) => self.broken(client, CloseReason::RequestRefused, ClientEnd::Orderly),
        }
    }

    fn relay(
        mut self,
        mut client: Box<Client>,
        scratch: &mut Scratch,
        target: &RequestTarget<'_>,
        under_way: (Course, Option<Hop>),
    ) -> Next {
        let head = self.head;
        let mut exchange = self.begin(&mut client, scratch, target, under_way);
        let result = match target {
            RequestTarget::Absolute(target) => exchange.relay(target),
            RequestTarget::Authority(_) => exchange.connect(),
        };
        let end = exchange.client_end;
        let is_read = exchange.course.upload.is_finished();
        let then = match head.method() {
            "CONNECT" => Persistence::Close(CloseReason::ConnectRefused),
            _ if !is_read => Persistence::Close(CloseReason::RequestUnread),
            _ => exchange.course.persistence,
        };
        scratch.out = std::mem::take(&mut exchange.out);
        scratch.response = std::mem::take(&mut exchange.scratch_response);
        scratch.from_hop = std::mem::take(&mut exchange.from_hop);
        let mut course = exchange.course;
        if !matches!(result, Ok(Done::Asked(_))) {
            course.upload.return_memory(&mut scratch.body);
        }
        match result {
            Ok(Done::Asked(hop)) => Next::Aside(Box::new(Aside {
                client,
                report: self.report,
                course,
                hop,
            })),
            // It still sends: a close now would be a reset, and destroy the answer on its way.
            Ok(Done::Answered(_)) if !is_read => {
                self.over(client, Persistence::Close(CloseReason::RequestUnread))
            }
            Ok(Done::Answered(then)) => self.over(client, then),
            Ok(Done::Switched { mut hop, first }) => {
                self.worker.takes_over(&client);
                self.worker.takes_over_hop(&mut hop.conn);
                let (ctx, snapshot, report) = (self.ctx, self.snapshot, self.report);
                Next::Over(connect::start_tunnel(
                    (ctx, snapshot),
                    client,
                    (hop, first),
                    report,
                ))
            }
            Err(Failed::Refused(refusal)) => self.refuse(client, scratch, (&refusal, then)),
            Err(Failed::Hop(error)) => {
                self.report.cause = Some(error.failure().label());
                self.broken(client, CloseReason::ResponseTruncated, end)
            }
            Err(Failed::Closed(reason)) => {
                self.report.cause = Some(reason.label());
                self.broken(client, reason, end)
            }
        }
    }

    /// Every check that needs no next hop.
    fn admit<'h>(&mut self, client: &Client) -> Result<Admitted<'h>, Rejected>
    where
        Self: 'h,
    {
        let target = RequestTarget::parse(self.head.method(), self.head.target());
        self.report.asked(self.ctx, self.head, target.as_ref().ok());
        let closing = |refusal: Refusal| Rejected {
            refusal,
            then: Persistence::Close(CloseReason::RequestRefused),
        };
        let target = target.map_err(|error| closing(error.into()))?;
        let framing = framing::of_request(self.head).map_err(|error| closing(error.into()))?;
        let access = &self.snapshot.config.access;
        let checked = access::check(access, Asking::of(client), self.head, &target);
        let looped = self.snapshot.config.via && self.ctx.via.passes_through(self.head.fields());
        let refusal = match checked {
            Ok(()) if !looped => return Ok(Admitted { target, framing }),
            Ok(()) => Refusal::Loop,
            Err(refusal) => refusal,
        };
        Err(Rejected {
            refusal,
            then: match (framing, self.head.method()) {
                (_, "CONNECT") => Persistence::Close(CloseReason::ConnectRefused),
                (Framing::Empty, _) => persistence::of_request(self.head),
                (_, _) => Persistence::Close(CloseReason::RequestUnread),
            },
        })
    }

    /// Whether this proxy is the last recipient. Of a TRACE it is also where an upstream would get our
    /// credentials with it: whoever is the last one behind us answers with the request as it came.
    fn ends_here(&self, target: &RequestTarget<'_>) -> bool {
        match (rewrite::max_forwards(self.head), target) {
            (MaxForwards::Zero, _) => true,
            (MaxForwards::Absent | MaxForwards::Left(_), RequestTarget::Absolute(absolute)) => {
                let rules = &self.snapshot.config.rules;
                let upstreams = self.snapshot.pool.upstreams();
                self.head.method() == "TRACE"
                    && rules.route(absolute.authority.host()) == Route::ViaUpstream
                    && upstreams.iter().any(|one| one.spec.credentials.is_some())
            }
            (MaxForwards::Absent | MaxForwards::Left(_), RequestTarget::Authority(_)) => false,
        }
    }

    fn begin<'x>(
        &'x mut self,
        client: &'x mut Client,
        scratch: &mut Scratch,
        target: &'x RequestTarget<'_>,
        (course, asked): (Course, Option<Hop>),
    ) -> Exchange<'x> {
        Exchange {
            ctx: self.ctx,
            snapshot: self.snapshot,
            worker: self.worker,
            client,
            head: self.head,
            authority: match target {
                RequestTarget::Absolute(target) => &target.authority,
                RequestTarget::Authority(authority) => authority,
            },
            course,
            asked,
            report: &mut self.report,
            out: std::mem::take(&mut scratch.out),
            scratch_response: std::mem::take(&mut scratch.response),
            from_hop: std::mem::take(&mut scratch.from_hop),
            client_end: ClientEnd::Orderly,
            flow: Flow::default(),
        }
    }

    /// TRACE and OPTIONS that must go no further (RFC 9110 §7.6.2).
    fn answer_here(mut self, client: Box<Client>, scratch: &mut Scratch, framing: Framing) -> Next {
        let then = match framing {
            Framing::Empty => self.persistence_now(persistence::of_request(self.head)),
            Framing::Length(_) | Framing::Chunked | Framing::UntilClose => {
                Persistence::Close(CloseReason::RequestUnread)
            }
        };
        let context = self.answer_context(then, None);
        scratch.out.clear();
        match self.head.method() {
            "TRACE" => answer::trace(self.head, &context, &mut scratch.out),
            _ => answer::options(&context, &mut scratch.out),
        }
        self.report.answered(200);
        self.send_answer(client, &scratch.out, then)
    }

    fn refuse(
        mut self,
        client: Box<Client>,
        scratch: &mut Scratch,
        (refusal, then): (&Refusal, Persistence),
    ) -> Next {
        let then = self.persistence_now(then);
        let next_hop = match (&self.report.route, refusal) {
            (RouteTaken::Upstream(upstream), Refusal::NextHop(_)) => Some(Arc::clone(upstream)),
            _ => None,
        };
        let next_hop = next_hop
            .as_ref()
            .map(|upstream| upstream.spec.name.as_str());
        scratch.out.clear();
        answer::write(
            refusal,
            &self.answer_context(then, next_hop),
            &mut scratch.out,
        );
        self.report.cause = Some(refusal.label());
        self.report.answered(refusal.status());
        self.send_answer(client, &scratch.out, then)
    }

    fn answer_context<'x>(
        &'x self,
        persistence: Persistence,
        next_hop: Option<&'x str>,
    ) -> AnswerContext<'x> {
        AnswerContext {
            body: BodyWanted::by_method(self.head.method()),
            persistence,
            next_hop,
            server: self.ctx.via.pseudonym(),
        }
    }

    fn persistence_now(&self, then: Persistence) -> Persistence {
        match then {
            // What stands behind a refused Upgrade may be another protocol (RFC 9931).
            Persistence::KeepAlive if rewrite::requested_upgrade(self.head).is_some() => {
                Persistence::Close(CloseReason::UpgradeRefused)
            }
            Persistence::KeepAlive if is_stopping(self.ctx) => {
                Persistence::Close(CloseReason::Draining)
            }
            Persistence::KeepAlive | Persistence::Close(_) => then,
        }
    }

    fn send_answer(mut self, mut client: Box<Client>, answer: &[u8], then: Persistence) -> Next {
        let patience = self.snapshot.config.limits.io_timeout.min(TICK * 5);
        let (stop, worker) = (&self.ctx.stop, self.worker);
        let sent = client
            .conn
            .send_all(&mut [IoSlice::new(answer)], patience, &mut || {
                worker.may_block();
                look_at(stop.stage())
            });
        if sent.is_ok() {
            return self.over(client, then);
        }
        self.report
            .cause
            .get_or_insert(CloseReason::ClientGone.label());
        self.broken(client, CloseReason::ClientGone, ClientEnd::Orderly)
    }

    /// The exchange is complete.
    fn over(self, mut client: Box<Client>, then: Persistence) -> Next {
        self.report.finish(self.ctx, totals(&client));
        match then {
            Persistence::KeepAlive => Next::Again(client),
            // It will send nothing more, so nothing can hit a closed socket; but behind a body, old
            // clients send an empty line.
            Persistence::Close(reason @ (CloseReason::ClientAsked | CloseReason::Http10))
                if client.conn.unread().is_empty()
                    && matches!(framing::of_request(self.head), Ok(Framing::Empty)) =>
            {
                Next::Over(Outcome::Closed(reason))
            }
            Persistence::Close(_) => {
                client.conn.finish_sending();
                client.conn.forget_unread();
                Next::Over(Outcome::Linger(client))
            }
        }
    }

    /// The exchange ended before its end.
    fn broken(self, client: Box<Client>, reason: CloseReason, end: ClientEnd) -> Next {
        self.report.finish(self.ctx, totals(&client));
        if end == ClientEnd::Reset {
            client.conn.reset();
        }
        Next::Over(Outcome::Closed(reason))
    }
}
