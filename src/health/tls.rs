//! The way of a question to an upstream over TLS. Only in builds with the feature `tls`.
//!
//! A probe has a thread to wait with, so it speaks TLS itself, under the time limit that ureq keeps.
//!
//! Not here: whom the upstream must prove to be ([`crate::balance::tls`]).

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::{ClientConnection, StreamOwned};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

use crate::balance::tls::Tls;
use crate::net::tls::reasons;
use crate::protocol::tls::TlsFailure;

/// What an upstream is to prove, if it is reached over TLS.
#[derive(Clone, Default, Debug)]
pub(super) struct TlsWay(pub(super) Option<Arc<Tls>>);

/// A connection over TLS.
pub(super) struct TlsTransport<T: Transport> {
    stream: StreamOwned<ClientConnection, TransportAdapter<T>>,
    buffers: LazyBuffers,
}

/// Why the handshake failed, if this is what failed, and for another reason than time.
pub(super) fn failure_of(error: &ureq::Error) -> Option<TlsFailure> {
    let ureq::Error::Io(error) = error else {
        return None;
    };
    error.get_ref()?.downcast_ref().copied()
}

fn open<T: Transport>(
    tls: &Tls,
    (inner, details): (T, &ConnectionDetails<'_>),
) -> Result<TlsTransport<T>, ureq::Error> {
    let session = ClientConnection::new(Arc::clone(&tls.client), tls.name.clone());
    let mut session = session.map_err(io::Error::other)?;
    let mut wire = TransportAdapter::new(inner, Arc::clone(&details.current_time));
    wire.set_timeout(details.timeout);
    if let Err(error) = session.complete_io(&mut wire) {
        let failure = reasons::of_io(&error);
        let error = ureq::Error::from(error);
        let is_late = matches!(error, ureq::Error::Timeout(_));
        return Err(if is_late {
            error
        } else {
            io::Error::other(failure).into()
        });
    }
    let config = details.config;
    Ok(TlsTransport {
        stream: StreamOwned::new(session, wire),
        buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
    })
}

impl<In: Transport> Connector<In> for TlsWay {
    type Out = Either<In, TlsTransport<In>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        match (&self.0, chained) {
            (Some(tls), Some(inner)) => Ok(Some(Either::B(open(tls, (inner, details))?))),
            (_, chained) => Ok(chained.map(Either::A)),
        }
    }
}

impl<T: Transport> Transport for TlsTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let count = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }
}

impl<T: Transport> fmt::Debug for TlsTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport(..)")
    }
}
