//! A load balancer for HTTP proxies: one port in front of a pool of upstream proxies.
//!
//! This text is the architecture. `README.md` and `packaging/MANUAL.md` say what the program does for its
//! users; each module begins with its own problem.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | client | the program that connects to us |
//! | upstream | one proxy of the pool |
//! | origin | the server named by the target, when we go there directly |
//! | next hop | the upstream or origin of *this* request |
//! | head | start line and field lines |
//! | framing | how the end of a body is found |
//! | exchange | one request and its final response |
//! | attempt | one try at one next hop within an exchange |
//! | session | all exchanges of one client connection |
//! | lane | what one core serves: a poll, and the connections that it watches |
//! | leader | the thread that has a lane: it polls, and serves what is ready |
//! | follower | a thread that has handed its lane on because its exchange waits for a peer, or that waits for a lane |
//! | parked | held by a lane: idle, or its next head is incomplete |
//! | suspended | an exchange held by a lane: the next hop was asked and has not answered yet |
//! | lasting | an exchange that has given up its permit of `limits.workers` to others |
//! | tunnel | bytes after a successful CONNECT or a 101 |
//! | refusal | an answer that says why this proxy does not serve a request |
//! | lease | one thing open on an upstream |
//! | request id | what all logs call one request, and `Proxy-Status` to its client |
//! | event | what happened to an upstream or to the configuration, kept for operators |
//!
//! # Layers
//!
//! A module imports only from rows above it, or from inside its own folder, and no files import each other
//! in a circle (`tests/tidy.rs` checks both).
//!
//! | layer | modules | does |
//! |---|---|---|
//! | 0 | [`protocol`] | HTTP/1.x as pure functions: bytes and values in, bytes and values out |
//! | 1 | [`route`], [`balance`] | which way, which upstream; no IO, no clock |
//! | 2 | [`config`], [`metrics`] | the file, the counters |
//! | 3 | [`stop`], [`net`], [`access_log`], [`json`], [`logging`] | sockets, threads, time limits, files, JSON |
//! | 4 | [`relay`] | the only place where protocol, balancing and sockets meet |
//! | 5 | [`health`], [`reload`], [`admin`] | checks of upstreams; the file again; what operators ask |
//! | 6 | [`server`] | which threads there are, who starts and joins them |
//! | 7 | [`demo`], [`status`], [`cli`] | what a person types |
//!
//! # Threads
//!
//! ```text
//!  main ── Server::start ── waits for signals ── drain ── join
//!                                       ┌── Park, Suspended ──┐
//!  lane x1 per core   accept ─ permit ─▶ poll ─ ready ─▶ leader x1 ─ session::serve ── Tunnel ─▶ tunnels x1 per 2 cores
//!                                       ▲                     │ may wait for a peer: hands the lane on
//!                                       └─ inbox ◀─ follower xN ◀┘
//!  tunnel x0..2 each, while it is busy
//!  health x1 (+ probe x0..32)   reload x1   sweeper x1   access-log x1   resolver x0..64 (more while they hang)
//!  tls x0..1 (feature `tls`: carries all connections to upstreams over TLS)
//!  admin x1   admin-handler x1 (+ those of tiny_http)   service x0..1 (tells a service manager)
//! ```
//!
//! The leader of a lane polls, accepts, and serves what is ready itself, on its own stack: no other thread
//! touches what its lane has, so there is no lock and nobody to wake. What a request on kept connections needs of
//! what lanes share (permits, the turn of an upstream among equals, counters) is atomic. An exchange whose next hop
//! has not answered is suspended in the lane. So a leader has to wait only for a body, a connection that is being made,
//! or a peer that does not take what it is sent; before it does, it hands the lane to an idle thread, which
//! leads from then on (`server/followers.rs`), and brings the client back through the lane's inbox when it is
//! done. Threads start when a lane is handed on and none is idle, and leave after ten seconds.
//!
//! A new connection goes to the lane that has the fewest, and what waits for too long in one lane to another
//! that has nothing to do. A request is worked at with a permit of `limits.workers` (`server/budget.rs`), with
//! a thread or without. An exchange that lasts longer than a second gives its permit up as soon as others wait
//! for one; it then counts against the same budget as the threads of busy tunnels.
//!
//! # A request walks
//!
//! `GET http://origin.test/a` through an upstream:
//!
//! 1. The leader of a lane sees a connection come; `server/acceptor.rs` accepts it and takes a permit of the
//!    program and one of its client (else 503).
//! 2. The leader serves it ([`relay::session::serve`]); if it says nothing yet, it is parked until the leader
//!    sees its first byte.
//! 3. The session reads the head, and goes on once there is a permit for the request; [`protocol::head`] parses it once, [`protocol::target`] and
//!    [`protocol::framing`] say where it leads and where its body ends, [`relay::access`] whether it may.
//!    What is wrong with a request is a [`protocol::answer::Refusal`]; whoever speaks TLS or SOCKS to the
//!    port gets one, too (`relay/foreign.rs` tells the log).
//! 4. The session asks [`route`] once, and [`relay::exits`] whether the request wants an upstream of its own:
//!    that of its session, or none that rests for its target. `relay/forward.rs` gets an upstream from `relay/upstreams.rs`, which
//!    asks [`balance::pool`] for a lease, and its connection from [`net::idle_pool`] (`relay/reuse.rs`) or
//!    [`net::dial`] (`relay/next_hop.rs`). If that is not there soon, the next upstream is dialled beside
//!    it, and its lease may be the one that counts. Where all that it may use have as many requests as they
//!    may, it waits in line (`relay/waiting.rs`, [`balance::room`]).
//!    A connection over TLS (feature `tls`) is a socket like any other from here on: `net/tls`.
//!    A SOCKS5 upstream is asked for a connection to the origin first (`relay/socks.rs`), which is waited for
//!    as an answer is.
//! 5. [`relay::attempt`] sends the head written by [`protocol::rewrite`] and the body
//!    ([`relay::upload`]); what an upstream is told of the client `relay/told.rs` says. Until the next hop answers,
//!    the exchange is suspended ([`relay::outcome::Suspended`]); then the leader goes on with it
//!    ([`relay::session::resume`]) and reads the
//!    head of the final response.
//! 6. [`relay::respond`] passes it and its body on ([`protocol::body`]): by a copy, a large one from socket to
//!    socket (`relay/bulk.rs`), one that comes before the request body has gone beside that
//!    (`relay/duplex.rs`). If the attempt failed before
//!    that, [`balance::failover`] says whether another upstream is tried. An answer may let its upstream rest
//!    (`relay/resting.rs`).
//! 7. [`relay::report`] counts the exchange and writes its line of the access log; nothing else does. While
//!    it goes on, the entry of its connection in [`relay::connections`] says what it is at, if anybody can
//!    look; and its decisions go to the log at `debug`, under its request id ([`protocol::request_id`]).
//! 8. The session goes on with the next request, or makes way for others that wait, or the connection is
//!    parked, closed or lingers.
//!
//! `CONNECT origin.test:443`: as 1 to 3; [`relay::connect`] dials or asks an upstream, and both
//! connections, with every byte read too far, become a [`net::tunnel`]: an event loop carries it while little
//! moves, and each direction that is busy has a thread until it is quiet again.
//!
//! # An upstream is judged
//!
//! 1. [`balance::failover`] says what the end of an attempt is evidence of, and `relay/evidence.rs` tells the
//!    upstream's [`balance::vitals`]. Only what no one else can cause is proof; everything else is a
//!    [`balance::reason::Doubt`], which makes a suspect and notifies the prober.
//! 2. The prober ([`health`]) has the suspect checked. Its examiner, a pure state machine, decides which
//!    question is asked of whom, and what the answers mean.
//! 3. The verdict goes to the state machine of the upstream ([`balance::state`]). An answer that came in the
//!    meantime, from traffic, is better evidence and outranks it.
//! 4. A probe that passes through no upstream at all accuses its target: [`balance::belief`].
//! 5. An upstream that fails far more often than all others is ejected for a while (`health/outliers.rs`).
//! 6. One that refuses the tunnels that others open gets everything else: [`balance::connect`].
//! 7. How fast it answers is measured at the first byte of each response: a mean for `best` in its vitals,
//!    and the p95 in [`balance::latency`].
//! 8. One that came back gets its share little by little, if the file says so ([`balance::pool::Pool::warm_up`]).
//! 9. What changed is an event, with reason and evidence: [`balance::history`].
//!
//! A *probe* is one question to one upstream, a *check* all questions until its verdict. The prober is the
//! thread, the examiner its rules, a *survey* what `--check --probe` does once.
//!
//! # A configuration is read
//!
//! 1. [`config::source`] knows where it comes from, for every time it is read: a file, the environment, the
//!    command line. [`config::overrides`] makes variables and options values of the same keys.
//! 2. `config/raw.rs` reads the YAML into a tree, `variables.rs` fills in `${NAME}`, and `syntax.rs` says in
//!    the words of who wrote it what is no YAML.
//! 3. [`config::keys`] says of each key what it may be; `reader.rs` takes it out of the tree, and
//!    [`config::findings`] collects every mistake with file, line and remedy.
//! 4. `root.rs` and a module for each block make a [`config::checked::Config`] of it, which needs no second
//!    look; `advice.rs` says what is valid and may surprise, [`config::report`] what all of it means.
//! 5. At a start [`cli`] gives it to [`server`]; later, once a file is another ([`config::trace`]), [`reload`] puts a
//!    new [`relay::Snapshot`] in place.
//!
//! # One row each
//!
//! | new | row in | and |
//! |---|---|---|
//! | key of the file | [`config::keys`] | the line that reads it |
//! | option that sets a key (its variable needs no row) | [`config::overrides`] | manual, completions |
//! | cause of a refusal, failure of a next hop | [`protocol::answer`] | the reason phrase of a status that is new; for a failure what it means: [`balance::failover`]; the table of causes in the manual, and the alert on errors in `packaging/monitoring/rules.yml` unless clients are to blame |
//! | reason why a client's connection closes | [`protocol::persistence`] | where it is the cause of a failure: [`metrics::exchanges::Failures`], and manual and alert as above |
//! | way in which a tunnel ends | [`net::tunnel::TunnelEnd`] | its cause in the log: [`relay::report`]; its number in `admin/rows.rs`; the manual |
//! | number in `/status` and `/metrics` | `admin/rows.rs` (`LOAD`, `UPSTREAM`) | the counter it reads |
//! | kind of event that operators see later | [`balance::history`] | the line that logs it |
//! | thing a peer can make grow | [`bounds`] | the test that its row names |
//!
//! # Limits
//!
//! What a peer can make grow, wait or repeat has a limit, and [`bounds`] lists all of them.
//!
//! # Invariants
//!
//! 1. Layers 0 and 1 do no IO, read no clock and cannot block. *So every rule of HTTP and of balancing
//!    is a table test.*
//! 2. A dependency is used where `HOMES` in `tests/tidy.rs` says, most of them in one module. *So replacing
//!    one is a change of few files.*
//! 3. A head is parsed once; log, route, rewrite and framing see the same value. *Two parsers are a
//!    smuggling hole.*
//! 4. A socket is blocking; a single call may be told not to wait. *So one thread can watch two peers
//!    without a second mode of the socket.*
//! 5. No thread waits for a client between two requests, nor for an answer to a request that was sent whole:
//!    connection or exchange is left to its lane, and waited for together with all others. *So idle clients and
//!    slow upstreams cost a file descriptor and a small struct, no thread.* Only where the system cannot watch
//!    a connection, a thread waits itself.
//! 6. A tunnel never holds a permit of `limits.workers`, and neither does an exchange that lasts once others wait.
//!    *So neither streams nor slow readers can stop the relay.*
//! 7. Every blocking call on a socket ends within a second, or within the idle limit of its tunnel.
//!    *So deadlines, vanished clients and the end of the process are noticed.*
//! 8. An exchange takes one [`relay::Snapshot`] at its start. *Pool, rules, mode and limits change
//!    together or not at all.*
//! 9. [`balance::vitals::Vitals`] outlive a reload. *A lease taken before ends on the same counter.*
//! 10. What must be given back is a guard: leases, permits. *No early return can leak a count.*
//! 11. A panic costs one connection: it is caught where a thread serves a client, and its request is counted and
//!     logged as `panicked`. *So the release profile keeps unwinding.*
//! 12. No peer is given up by the clock before a look at the sockets that was taken after the clock was read
//!     ([`net::socket::is_overdue`]). *So the whole process may stand still (stopped, its container paused,
//!     its machine suspended) and no request pays for it.*

pub mod protocol;

pub mod balance;
pub mod route;

pub mod config;
pub mod metrics;

pub mod access_log;
pub mod json;
pub mod logging;
pub mod net;
pub mod stop;

pub mod relay;

pub mod admin;
pub mod health;
pub mod reload;

pub mod server;

pub mod demo;
pub mod status;

pub mod cli;

pub mod bounds;
