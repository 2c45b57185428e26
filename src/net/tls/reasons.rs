//! Why a handshake failed, in the words of this program.

use std::io;

use rustls::{CertificateError, Error};

use crate::protocol::tls::TlsFailure;

/// Why the handshake failed, as far as an error of the library says.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not told apart here is told as one"
)]
pub fn of(error: &Error) -> TlsFailure {
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => TlsFailure::CertificateUntrusted,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFailure::CertificateName
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsFailure::CertificateExpired,
            _ => TlsFailure::CertificateInvalid,
        },
        Error::NoCertificatesPresented => TlsFailure::CertificateInvalid,
        Error::InvalidMessage(_) => TlsFailure::NotTls,
        Error::AlertReceived(_) => TlsFailure::TlsRefused,
        _ => TlsFailure::TlsFailed,
    }
}

/// Why the handshake failed in a call that does all of it.
pub fn of_io(error: &io::Error) -> TlsFailure {
    let inner = error.get_ref();
    let inner = inner.and_then(|inner| inner.downcast_ref::<Error>());
    inner.map_or(TlsFailure::TlsFailed, of)
}
