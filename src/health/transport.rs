//! A ureq transport that sends a head of our own.
//!
//! ureq speaks to a proxy by CONNECT alone, and writes origin-form elsewhere; a forward proxy wants
//! absolute-form (RFC 9112 §3.2.2). So ureq is given a request without meaning, and this transport
//! sends the prepared head in its place. ureq keeps what it is good at: one deadline over connect,
//! write and read, and a response parser that is not the relay's own. It knows neither the target
//! nor the credentials, so its log cannot tell them.
//!
//! Not here: what the head says and what an answer means ([`super::question`], [`super::rules`]).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

#[cfg(feature = "tls")]
use crate::balance::tls::Tls;

use super::socks::{SocksWay, WayEnd};
#[cfg(feature = "tls")]
use super::tls::TlsWay;

/// What one probe sends, and whether it came to a connection.
#[derive(Clone)]
pub(super) struct PreparedHead {
    head: Arc<[u8]>,
    /// What comes before it, if the upstream speaks SOCKS5.
    way: Option<SocksWay>,
    connected: Arc<AtomicBool>,
    /// What comes before both, if the upstream is reached over TLS.
    #[cfg(feature = "tls")]
    pub(super) tls: TlsWay,
}

/// The addresses found before, whatever the URI says.
#[derive(Debug)]
pub(super) struct KnownAddresses(pub(super) Vec<SocketAddr>);

/// A connection on which the prepared head is sent.
pub(super) struct PreparedTransport<T> {
    inner: T,
    /// None: it is sent.
    head: Option<Arc<[u8]>>,
}

impl PreparedHead {
    pub(super) fn new(head: Vec<u8>, way: Option<SocksWay>) -> Self {
        Self {
            head: head.into(),
            way,
            connected: Arc::new(AtomicBool::new(false)),
            #[cfg(feature = "tls")]
            tls: TlsWay::default(),
        }
    }

    /// The same over TLS, if there is any.
    #[cfg(feature = "tls")]
    pub(super) fn over(self, tls: Option<Arc<Tls>>) -> Self {
        let tls = TlsWay(tls);
        Self { tls, ..self }
    }

    /// The length of the head in bytes, which the output buffer must hold.
    pub(super) fn len(&self) -> usize {
        self.head.len()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Where the way ended before the head was sent, if it did.
    pub(super) fn way_end(&self) -> Option<WayEnd> {
        self.way.as_ref()?.end()
    }
}

impl<In: Transport> Connector<In> for PreparedHead {
    type Out = PreparedTransport<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        self.connected.store(chained.is_some(), Ordering::Relaxed);
        let head = Some(Arc::clone(&self.head));
        let opened = match (&self.way, chained) {
            (Some(way), Some(inner)) => way.open(inner, details)?,
            (_, chained) => chained,
        };
        Ok(opened.map(|inner| PreparedTransport { inner, head }))
    }
}

impl Resolver for KnownAddresses {
    fn resolve(
        &self,
        _uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        if self.0.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        let mut addresses = self.empty();
        // More than this many do not fit, and would not be tried in time either.
        for address in self.0.iter().take(16) {
            addresses.push(*address);
        }
        Ok(addresses)
    }
}

impl<T: Transport> Transport for PreparedTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    /// Whatever ureq wrote is the head of a request without body, or the rest of one: the first
    /// time it is replaced, after that dropped.
    fn transmit_output(&mut self, _amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let Some(head) = self.head.take() else {
            return Ok(());
        };
        let output = self.inner.buffers().output();
        let Some(place) = output.get_mut(..head.len()) else {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
        };
        place.copy_from_slice(&head);
        self.inner.transmit_output(head.len(), timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

impl fmt::Debug for PreparedHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreparedHead(..)")
    }
}

impl<T> fmt::Debug for PreparedTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreparedTransport(..)")
    }
}
