//! How an upstream is known over TLS: which name its certificate must have, and who may have signed it. Only
//! in builds with the feature `tls`.
//!
//! Not here: the file ([`crate::config`]), the connections ([`crate::net::tls`]).

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

/// What a connection to an upstream begins with.
#[derive(Clone)]
pub struct Tls {
    /// Trusts some authorities, and speaks HTTP/1.1 alone.
    pub client: Arc<ClientConfig>,
    /// The name that is sent and that its certificate must have; an address is not sent.
    pub name: ServerName<'static>,
    /// A number that is another one when other authorities are trusted.
    pub trusted: u64,
}

/// Whether a connection that was opened as one would be opened as the other, too.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.trusted) == (&other.name, other.trusted)
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
