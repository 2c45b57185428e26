//! The way of a question through a SOCKS5 upstream: as far as the question needs it opened.
//!
//! Whether it answers for itself is told by its greeting, and where there are credentials by whether it
//! takes them. A CONNECT is what it says to the target. Only a GET goes on from there, to the target.
//!
//! Not here: the question itself ([`super::question`]), and who reads the answer to a GET
//! ([`super::transport`]).

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{ConnectionDetails, NextTimeout, Transport, TransportAdapter};

use crate::balance::upstream::UpstreamSpec;
use crate::protocol::credentials::Credentials;
use crate::protocol::proxy_header::{self, HeaderVersion};
use crate::protocol::socks::{Round, SocksError, Then};
use crate::protocol::target::Authority;

/// How far the way is to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal<'a> {
    /// The upstream is to answer for itself.
    Itself,
    /// It is to connect to this target.
    Target(&'a Authority),
    /// The same, and the target is to be asked something.
    Beyond(&'a Authority),
}

/// Where the way ended before there was anything to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WayEnd {
    /// The upstream has answered for itself, as it was to.
    Greeting,
    /// It has connected to the target, as it was to.
    Open,
    /// It has not, for this reason.
    Failed(SocksError),
}

/// One way, not opened yet.
#[derive(Clone)]
pub(super) struct SocksWay {
    credentials: Option<Credentials>,
    proxy_header: Option<HeaderVersion>,
    target: Authority,
    last: Round,
    goes_on: bool,
    deadline: Instant,
    end: Arc<OnceLock<WayEnd>>,
}

impl SocksWay {
    /// The way through `spec` to `goal`, to be opened by the deadline.
    pub(super) fn new(spec: &UpstreamSpec, goal: Goal<'_>, deadline: Instant) -> Self {
        let (target, last, goes_on) = match goal {
            Goal::Itself => (&spec.authority, Round::Greeting, false),
            Goal::Target(target) => (target, Round::Request, false),
            Goal::Beyond(target) => (target, Round::Request, true),
        };
        Self {
            credentials: spec.credentials.clone(),
            proxy_header: spec.told.proxy_header,
            target: target.clone(),
            last,
            goes_on,
            deadline,
            end: Arc::default(),
        }
    }

    /// Where it ended, if it did.
    pub(super) fn end(&self) -> Option<WayEnd> {
        self.end.get().copied()
    }

    /// Opens it over a connection to the upstream. `None`: this is the end of it.
    ///
    /// # Errors
    /// When the upstream closes the connection, or says nothing in time.
    pub(super) fn open<T: Transport>(
        &self,
        transport: T,
        details: &ConnectionDetails<'_>,
    ) -> Result<Option<T>, ureq::Error> {
        let mut wire = TransportAdapter::new(transport, Arc::clone(&details.current_time));
        let left = self.deadline.saturating_duration_since(Instant::now());
        wire.set_timeout(NextTimeout {
            after: left.max(Duration::from_millis(1)).into(),
            ..details.timeout
        });
        let end = match self.negotiate(&mut wire)? {
            Ok(()) if self.goes_on => return Ok(Some(wire.into_inner())),
            Ok(()) if self.last == Round::Greeting => WayEnd::Greeting,
            Ok(()) => WayEnd::Open,
            Err(error) => WayEnd::Failed(error),
        };
        self.end.get_or_init(|| end);
        Ok(None)
    }

    fn negotiate(&self, wire: &mut (impl Read + Write)) -> io::Result<Result<(), SocksError>> {
        let credentials = self.credentials.as_ref();
        let mut round = Round::Greeting;
        let mut out = Vec::new();
        if let Some(version) = self.proxy_header {
            proxy_header::write(version, None, &mut out);
        }
        loop {
            let message = round.message(credentials, &self.target);
            out.extend(message.ok_or(io::ErrorKind::InvalidInput)?);
            wire.write_all(&out)?;
            out.clear();
            let mut reply = Vec::new();
            let then = loop {
                match round.reply(credentials, &reply) {
                    Ok(Some((_, then))) => break then,
                    // One by one, as those behind the reply are not for us.
                    Ok(None) => {
                        let mut byte = [0];
                        wire.read_exact(&mut byte)?;
                        reply.extend(byte);
                    }
                    Err(error) => return Ok(Err(error)),
                }
            };
            match then {
                Then::Round(Round::Request) if self.last == Round::Greeting => return Ok(Ok(())),
                Then::Round(next) => round = next,
                Then::Open => return Ok(Ok(())),
            }
        }
    }
}

impl fmt::Debug for SocksWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SocksWay(..)")
    }
}
