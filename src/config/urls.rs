//! The parts of a URL in the file, and what is wrong with its host and port.

use crate::protocol::target::{Authority, TargetError};

/// Takes a URL apart at its delimiters, without a check: the scheme before `://`, if that is there;
/// the authority up to the first `/`, `?` or `#`; the rest from there on, which may be empty.
pub(super) fn split(url: &str) -> (Option<&str>, &str, &str) {
    let (scheme, behind) = match url.split_once("://") {
        Some((scheme, behind)) => (Some(scheme), behind),
        None => (None, url),
    };
    let end = behind.find(['/', '?', '#']).unwrap_or(behind.len());
    let (authority, rest) = behind.split_at_checked(end).unwrap_or((behind, ""));
    (scheme, authority, rest)
}

/// Reads `host[:port]`, or says what to write instead. The text is not
/// repeated: it may hold a password.
pub(super) fn authority(text: &str, default_port: u16) -> Result<Authority, &'static str> {
    if text.contains('@') {
        return Err(
            "a user or password does not belong into a URL: remove what stands up to the \
                    `@` (an upstream has the keys `username` and `password` for it)",
        );
    }
    Authority::parse(text.as_bytes(), Some(default_port)).map_err(|error| match error {
        TargetError::HostMissing => "the host is missing: write http://host:port",
        TargetError::PortInvalid | TargetError::PortMissing => {
            "the port is invalid: write a number from 1 to 65535 behind the colon"
        }
        TargetError::HostInvalid
        | TargetError::OriginForm
        | TargetError::SchemeUnsupported
        | TargetError::UserinfoInConnect
        | TargetError::Malformed => {
            "this is no host: write a name, an IPv4 address, or an IPv6 address in brackets, \
             as in http://[2001:db8::1]:8080"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_cut_at_its_delimiters() {
        for (url, scheme, authority, rest) in [
            ("http://a:1/x?y", Some("http"), "a:1", "/x?y"),
            ("a:1", None, "a:1", ""),
            ("http://a?y", Some("http"), "a", "?y"),
            ("http://", Some("http"), "", ""),
            ("", None, "", ""),
        ] {
            assert_eq!(split(url), (scheme, authority, rest), "{url}");
        }
    }
}
