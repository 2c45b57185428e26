//! Which trailer fields go on to the next hop (RFC 9110 §6.5).
//!
//! A recipient may merge trailers into the head, long after this proxy looked
//! at the head. So what frames, routes, guards or describes the message passes
//! there or not at all: a trailer with such a name is dropped, as §6.5.1
//! allows, and the rest of the section goes on.
//!
//! Not in here: the grammar and the size of the section (`head`).

use super::chunked::BodyError;
use super::fields::{Field, MEANT_FOR_HEAD, NameList, has_prefix, write_field};
use super::head::{HeadMemory, Message};

/// Names that mean nothing good in a trailer section, beside those of [`MEANT_FOR_HEAD`] and those that are
/// hop-by-hop anyway (RFC 9110 §6.5.1, which lists kinds, not names).
static REFUSED: NameList = NameList::new(&[
    // Conditions of a request.
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    // What decides how a response is used.
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "content-security-policy",
    "expires",
    "refresh",
    "retry-after",
    "strict-transport-security",
    // How the content is to be read.
    "content-disposition",
    "trailer",
]);

/// Families of names, refused for the same reasons.
const REFUSED_PREFIXES: [&str; 3] = ["proxy-", "x-forwarded-", "sec-"];

/// Appends what may pass of the whole trailer section of a message, with the empty line
/// behind it. Values stay byte for byte as they were received.
///
/// # Errors
///
/// `Malformed` or `TooLarge` if the section is not well formed.
pub(super) fn rewrite(
    message: Message,
    section: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), BodyError> {
    let trailers = HeadMemory::of_trailers(message, section.to_vec())?;
    for field in trailers.fields().end_to_end().filter(passes) {
        write_field(field.name, field.value, out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn passes(field: &Field<'_>) -> bool {
    let has_prefix = |prefix: &&str| has_prefix(field.name, prefix);
    !MEANT_FOR_HEAD.has(field.name)
        && !REFUSED.has(field.name)
        && !REFUSED_PREFIXES.iter().any(has_prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(section: &[u8], expected: &[u8]) {
        let mut out = Vec::new();
        rewrite(Message::Request, section, &mut out).expect("well formed");
        assert_eq!(
            out.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    #[test]
    fn harmless_trailers_keep_order_case_and_bytes() {
        check(
            b"Digest: sha-256=x\r\nX-caf:  \xe9 \r\nempty:\r\nDigest: 2\r\n\r\n",
            b"Digest: sha-256=x\r\nX-caf: \xe9\r\nempty: \r\nDigest: 2\r\n\r\n",
        );
    }

    #[test]
    fn trailers_that_frame_route_or_guard_a_message_are_dropped() {
        for name in [
            "Content-Length",
            "TRANSFER-ENCODING",
            "Host",
            "Content-Encoding",
            "Content-Type",
            "Content-Range",
            "Authorization",
            "Set-Cookie",
            "Cookie",
            "Expect",
            "Max-Forwards",
            "Cache-Control",
            "TE",
            "Trailer",
            "Proxy-Authorization",
            "Proxy-Anything",
            "Via",
            "Connection",
            "Keep-Alive",
            "Upgrade",
            "X-Forwarded-For",
            "If-None-Match",
        ] {
            check(
                format!("A: 1\r\n{name}: 5\r\nB: 2\r\n\r\n").as_bytes(),
                b"A: 1\r\nB: 2\r\n\r\n",
            );
        }
    }

    #[test]
    fn what_is_odd_in_the_trailers_of_a_response_passes_without_the_blank() {
        let section = b"Note : a\x01b\r\nContent-Length : 5\r\n\r\n";
        let mut out = Vec::new();
        assert!(rewrite(Message::Request, section, &mut out).is_err());
        rewrite(Message::Response, section, &mut out).expect("odd, and well formed");
        assert_eq!(out, b"Note: a\x01b\r\n\r\n");
    }

    #[test]
    fn a_section_of_refused_trailers_leaves_the_empty_line() {
        check(b"Content-Length: 5\r\n\r\n", b"\r\n");
    }

    #[test]
    fn malformed_sections_are_refused() {
        for section in [
            &b"GET /x HTTP/1.1\r\n\r\n"[..],
            b"A : 1\r\n\r\n",
            b": 1\r\n\r\n",
            b"A: 1\r\n b\r\n\r\n",
            b"A: \x00\r\n\r\n",
            b"A: 1\n\r\n",
            b"A: 1\r\n",
        ] {
            let mut out = Vec::new();
            assert!(
                rewrite(Message::Request, section, &mut out).is_err(),
                "{}",
                section.escape_ascii()
            );
            assert!(out.is_empty());
        }
    }
}
