//! Why there is no TLS with an upstream: the table of causes. Only in builds with the feature `tls`.
//!
//! Each is found before anything of a request was sent, so it is a connection that could not be made.
//!
//! Not here: who finds them ([`crate::net::tls`]).

use super::cause::causes;

const NOT_OURS: &str =
    "The administrator must check upstream[].ca_file, or who answers at its address.";

causes! {
    /// Why an upstream could not be reached over TLS.
    TlsFailure:
    CertificateUntrusted = 502, "certificate_untrusted", "tls_certificate_error",
        "no trusted authority has signed the certificate of the upstream proxy", NOT_OURS;
    CertificateName = 502, "certificate_name", "tls_certificate_error",
        "the certificate of the upstream proxy is for another name",
        "The administrator must check the host of its URL, or set upstream[].server_name.";
    /// Or is not valid yet.
    CertificateExpired = 502, "certificate_expired", "tls_certificate_error",
        "the certificate of the upstream proxy is not valid at this time",
        "It must be renewed, or the clock of this proxy is wrong.";
    /// For a reason that is none of those above.
    CertificateInvalid = 502, "certificate_invalid", "tls_certificate_error",
        "the certificate of the upstream proxy is invalid", NOT_OURS;
    NotTls = 502, "not_tls", "tls_protocol_error",
        "the upstream proxy sent something that is not TLS",
        "The administrator must check scheme and port of the upstream's URL.";
    /// With an alert: it may want a certificate of ours, or know no such server name.
    TlsRefused = 502, "tls_refused", "tls_alert_received",
        "the upstream proxy refused the TLS handshake", "Its log has the reason.";
    /// It closed the connection, or has no version or cipher suite in common with us.
    TlsFailed = 502, "tls_failed", "tls_protocol_error",
        "the TLS handshake with the upstream proxy failed", "Its log may have the reason.";
}

impl TlsFailure {
    /// The same, said of an upstream that is offline for it.
    pub fn of_upstream(self) -> &'static str {
        match self {
            Self::CertificateUntrusted => "no trusted authority has signed its certificate",
            Self::CertificateName => "its certificate is for another name",
            Self::CertificateExpired => "its certificate is not valid at this time",
            Self::CertificateInvalid => "its certificate is invalid",
            Self::NotTls => "it sent something that is not TLS",
            Self::TlsRefused => "it refused the TLS handshake",
            Self::TlsFailed => "the TLS handshake failed",
        }
    }
}
