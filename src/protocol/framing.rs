//! Message framing: where a body ends (RFC 9112 §6.3).
//!
//! Two hops that disagree on this are a request-smuggling hole (§11.2), so a
//! message that can be read in two ways is refused, never repaired. The RFC
//! lets a recipient ignore an empty list member, prefer `Transfer-Encoding` to
//! `Content-Length`, or read a request without a usable coding to its end;
//! each of these has been an attack, and none is done here.
//!
//! Not in here: the body itself (`body`), and writing the framing fields for
//! the next hop (`rewrite`).

use super::cause::causes;
use super::decimal;
use super::fields::{Fields, is_token_byte, split_before, trim_whitespace};
use super::head::{RequestHead, ResponseHead, Version};

/// How the end of a body is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// The body has this many bytes (§6.2).
    Length(u64),
    /// The body is a sequence of chunks and ends with the last one (§7.1).
    Chunked,
    /// The body ends with the connection; responses only (§6.3 rule 8).
    UntilClose,
}

const AMBIGUOUS: &str =
    "A message that can be read in two ways is not forwarded; correct the client.";

causes! {
    /// Why the framing of a message was refused. The table is about requests; in a response all of them
    /// are the next hop's fault (502).
    FramingError:
    /// Or it is too large.
    LengthInvalid = 400, "length_invalid", "http_request_error",
        "Content-Length is not a decimal number", AMBIGUOUS;
    LengthsDiffer = 400, "lengths_differ", "http_request_error",
        "several Content-Length values that differ", AMBIGUOUS;
    /// §6.1.
    LengthWithCoding = 400, "length_with_coding", "http_request_error",
        "both Content-Length and Transfer-Encoding", AMBIGUOUS;
    CodingUnsupported = 501, "coding_unsupported", "http_request_error",
        "a transfer coding other than chunked",
        "Send the body with Content-Length or chunked.";
    /// It cannot be read, or names `chunked` twice.
    CodingMalformed = 400, "coding_malformed", "http_request_error",
        "Transfer-Encoding is malformed", AMBIGUOUS;
    /// §6.1.
    CodingInHttp10 = 400, "coding_in_http10", "http_request_error",
        "Transfer-Encoding in an HTTP/1.0 message", AMBIGUOUS;
    BodyNotAllowed = 400, "body_not_allowed", "http_request_error",
        "a body where the method allows none", "Send it without a body, or use another method.";
}

/// The framing of a request body; never [`Framing::UntilClose`].
///
/// A declared length of 0 is [`Framing::Empty`].
///
/// # Errors
///
/// See [`FramingError`]. The connection cannot go on: where the next request
/// begins is unknown.
pub fn of_request(head: &RequestHead) -> Result<Framing, FramingError> {
    let framing = match declared(head.version(), head.fields())? {
        None | Some(Framing::Length(0)) => return Ok(Framing::Empty),
        Some(framing) => framing,
    };
    match (head.method(), head.version()) {
        // Content there means one thing to us and another to the next hop:
        // the tunnel may have begun (RFC 9110 §9.3.6), or "a client MUST NOT
        // send content in a TRACE request" (§9.3.8).
        ("CONNECT" | "TRACE", _) => Err(FramingError::BodyNotAllowed),
        // Such bodies were unheard of in HTTP/1.0, so who forwards for a 1.0
        // client may take them for the next request.
        ("GET" | "HEAD" | "DELETE", Version::Http10) => Err(FramingError::BodyNotAllowed),
        (_, _) => Ok(framing),
    }
}

/// The framing of a response body, which depends on the method of the request.
///
/// [`Framing::Empty`] says that there cannot be a body: a HEAD request, 1xx,
/// 204, 304, or a 2xx that opens a tunnel (§6.3 rules 1 and 2). A declared
/// length of 0 is `Length(0)`, so that it can be declared again.
///
/// # Errors
///
/// See [`FramingError`]: the next hop answered nonsense.
pub fn of_response(request_method: &str, head: &ResponseHead) -> Result<Framing, FramingError> {
    match (request_method, head.status()) {
        // These declare nothing: framing fields in them have no meaning, and
        // are never passed on.
        (_, 100..=199 | 204) | ("CONNECT", 200..=299) => return Ok(Framing::Empty),
        (_, _) => {}
    }
    // HEAD and 304 declare the body of another response. It is not here, yet
    // it is told to the client, so it must make sense.
    let declared = declared(head.version(), head.fields())?;
    match (request_method, head.status()) {
        ("HEAD", _) | (_, 304) => Ok(Framing::Empty),
        (_, _) => Ok(declared.unwrap_or(Framing::UntilClose)),
    }
}

/// What the framing fields say, if there are any.
fn declared(version: Version, fields: Fields<'_>) -> Result<Option<Framing>, FramingError> {
    refuse_look_alikes(fields)?;
    let length = declared_length(fields);
    if !fields.contains("transfer-encoding") {
        return length.map(|known| known.map(Framing::Length));
    }
    if fields.contains("content-length") {
        return Err(FramingError::LengthWithCoding);
    }
    // "A server or client that receives an HTTP/1.0 message containing a
    // Transfer-Encoding header field MUST treat the message as if the framing
    // is faulty" (§6.1).
    if version == Version::Http10 {
        return Err(FramingError::CodingInHttp10);
    }
    check_codings(fields)?;
    Ok(Some(Framing::Chunked))
}

/// The one length that the `Content-Length` fields declare, if there are any.
///
/// If "all values in the list are valid, and all values in the list are the
/// same", they count as one (§6.3 rule 5).
///
/// # Errors
///
/// `LengthInvalid` for anything but digits or a number beyond 2^63 - 1 (who
/// reads that into a signed integer reads something else); `LengthsDiffer`.
pub(super) fn declared_length(fields: Fields<'_>) -> Result<Option<u64>, FramingError> {
    let mut known = None;
    let members = fields
        .values("content-length")
        .flat_map(|value| value.split(|&byte| byte == b','));
    for member in members {
        let length = decimal::read(trim_whitespace(member))
            .filter(|length| *length <= i64::MAX.unsigned_abs())
            .ok_or(FramingError::LengthInvalid)?;
        if known.is_some_and(|before| before != length) {
            return Err(FramingError::LengthsDiffer);
        }
        known = Some(length);
    }
    Ok(known)
}

/// `chunked`, one time and alone, or an error.
fn check_codings(fields: Fields<'_>) -> Result<(), FramingError> {
    let mut unsupported = false;
    let mut chunked = false;
    let members = fields
        .values("transfer-encoding")
        .flat_map(|value| value.split(|&byte| byte == b','));
    for member in members {
        let coding = trim_whitespace(member);
        let (name, parameters) = split_before(coding, |byte| !is_token_byte(byte));
        // An empty member, a control byte or a quote; or a coding on top of
        // chunked: "the message is not chunked, then" and "it is, for it says
        // so" are both what others answer.
        if name.is_empty() || !matches!(parameters, [] | [b';' | b' ' | b'\t', ..]) || chunked {
            return Err(FramingError::CodingMalformed);
        }
        if !name.eq_ignore_ascii_case(b"chunked") {
            unsupported = true;
        } else if parameters.is_empty() {
            chunked = true;
        } else {
            return Err(FramingError::CodingMalformed);
        }
    }
    if unsupported {
        return Err(FramingError::CodingUnsupported);
    }
    Ok(())
}

/// Refuses `Content_Length` and `Transfer_Encoding`: gateways that turn names
/// into variables (CGI, WSGI) read them as the real ones, and no honest
/// client sends them.
fn refuse_look_alikes(fields: Fields<'_>) -> Result<(), FramingError> {
    const LENGTH: &str = "content_length";
    const CODING: &str = "transfer_encoding";
    if !(fields.contains(LENGTH) || fields.contains(CODING)) {
        return Ok(());
    }
    for field in fields.iter() {
        if field.is(LENGTH) {
            return Err(FramingError::LengthInvalid);
        }
        if field.is(CODING) {
            return Err(FramingError::CodingMalformed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str, fields: &[u8]) -> RequestHead {
        let bytes = [line.as_bytes(), b"\r\nHost: a\r\n", fields, b"\r\n"].concat();
        RequestHead::parse(bytes).expect("well formed")
    }

    fn response(line: &str, fields: &[u8]) -> ResponseHead {
        let bytes = [line.as_bytes(), b"\r\n", fields, b"\r\n"].concat();
        ResponseHead::parse(bytes).expect("well formed")
    }

    /// The same fields in a request and in a response that may have bodies.
    #[track_caller]
    fn check(fields: &str, expected: Result<Framing, FramingError>) {
        check_bytes(fields.as_bytes(), expected);
    }

    #[track_caller]
    fn check_bytes(fields: &[u8], expected: Result<Framing, FramingError>) {
        let shown = fields.escape_ascii();
        let head = request("POST http://a/ HTTP/1.1", fields);
        let of_request = match expected {
            Ok(Framing::Length(0) | Framing::UntilClose) => Ok(Framing::Empty),
            Ok(_) | Err(_) => expected,
        };
        assert_eq!(super::of_request(&head), of_request, "request with {shown}");
        let head = response("HTTP/1.1 200 OK", fields);
        assert_eq!(
            of_response("POST", &head),
            expected,
            "response with {shown}"
        );
    }

    #[test]
    fn no_framing_fields_mean_no_body_or_one_until_close() {
        check("", Ok(Framing::UntilClose));
        check(
            "Trailer: Content-Length\r\nTE: chunked\r\n",
            Ok(Framing::UntilClose),
        );
    }

    #[test]
    fn a_length_is_a_decimal_number() {
        check("Content-Length: 0\r\n", Ok(Framing::Length(0)));
        check("content-LENGTH:5\r\n", Ok(Framing::Length(5)));
        check("Content-Length: \t 0005 \t\r\n", Ok(Framing::Length(5)));
        check(
            "Content-Length: 9223372036854775807\r\n",
            Ok(Framing::Length(9_223_372_036_854_775_807)),
        );
    }

    #[test]
    fn anything_else_is_not_a_length() {
        for value in [
            "",
            " ",
            "+5",
            "-5",
            "-0",
            "0x5",
            "5 5",
            "5;",
            "5.0",
            "5e0",
            "1_0",
            "five",
            "\"5\"",
            "5,",
            ",5",
            ",",
            "5,,5",
            "5, ",
            "5;a",
            "\u{ff15}",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "18446744073709551621",
            "99999999999999999999999999999999999999999999",
        ] {
            let fields = format!("Content-Length: {value}\r\n");
            check(&fields, Err(FramingError::LengthInvalid));
        }
        check_bytes(
            b"Content-Length: 5\xa0\r\n",
            Err(FramingError::LengthInvalid),
        );
        check(
            "Content-Length: 5\r\nContent-Length:\r\n",
            Err(FramingError::LengthInvalid),
        );
        check(
            "Content-Length:\r\nContent-Length: 5\r\n",
            Err(FramingError::LengthInvalid),
        );
    }

    #[test]
    fn the_same_length_again_counts_once() {
        check("Content-Length: 5, 5\r\n", Ok(Framing::Length(5)));
        check(
            "Content-Length: 5\r\nX: y\r\nContent-length: 5,5\r\n",
            Ok(Framing::Length(5)),
        );
    }

    #[test]
    fn lengths_that_differ_are_refused() {
        check("Content-Length: 5, 6\r\n", Err(FramingError::LengthsDiffer));
        check(
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            Err(FramingError::LengthsDiffer),
        );
        check(
            "Content-Length: 0\r\nContent-Length: 5\r\n",
            Err(FramingError::LengthsDiffer),
        );
    }

    #[test]
    fn chunked_is_recognized_in_any_case() {
        for value in ["chunked", "Chunked", "CHUNKED", " \tchunKed\t "] {
            let fields = format!("Transfer-Encoding:{value}\r\n");
            check(&fields, Ok(Framing::Chunked));
        }
    }

    #[test]
    fn a_length_with_a_coding_is_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length:\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
            "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
            "Transfer-Encoding:\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n",
            "Connection: Content-Length\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        ] {
            check(fields, Err(FramingError::LengthWithCoding));
        }
    }

    #[test]
    fn other_codings_are_not_supported() {
        for value in [
            "gzip",
            "identity",
            "xchunked",
            "chunkedx",
            "x-chunked",
            "chunke",
            "gzip, chunked",
            "identity, chunked",
            "gzip;q=1, chunked",
            "trailers",
            "chunk ed",
            "gzip chunked",
        ] {
            let fields = format!("Transfer-Encoding: {value}\r\n");
            check(&fields, Err(FramingError::CodingUnsupported));
        }
        check(
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            Err(FramingError::CodingUnsupported),
        );
    }

    #[test]
    fn chunked_in_disguise_is_refused() {
        for value in [
            "",
            " ",
            ",",
            ",chunked",
            "chunked,",
            "chunked,,",
            "chunked, chunked",
            "chunked,chunked",
            "chunked, identity",
            "chunked, gzip",
            "gzip, chunked, chunked",
            "\"chunked\"",
            "'chunked'\"",
            "chunked;",
            "chunked;q=1",
            "chunked ;a",
            "chunked gzip",
            "chunked\"",
            "chunked\u{a0}",
            "\u{feff}chunked",
            "chun\u{212a}ed",
            "(a)chunked",
            "chunked=1",
            "@chunked",
            "chunked/1",
            "gzip,",
            "a=\", chunked\"",
        ] {
            let fields = format!("Transfer-Encoding: {value}\r\n");
            check(&fields, Err(FramingError::CodingMalformed));
        }
        check_bytes(
            b"Transfer-Encoding: chunked\xa0\r\n",
            Err(FramingError::CodingMalformed),
        );
        for fields in [
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
            "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
        ] {
            check(fields, Err(FramingError::CodingMalformed));
        }
    }

    #[test]
    fn disguises_that_are_no_field_lines_do_not_reach_the_framing() {
        for fields in [
            &b"Transfer-Encoding: \x0bchunked\r\n"[..],
            b"Transfer-Encoding: \x0cchunked\r\n",
            b"Transfer-Encoding: chunked\0\r\n",
            b" Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding:\r\n chunked\r\n",
            b"Transfer-Encoding:\n chunked\r\n",
            b"X: y\nTransfer-Encoding: chunked\r\n",
            b"X: y\rTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\r\n",
            b"Transfer-Encoding\x80: chunked\r\n",
            b"Content-Length: \x0b5\r\n",
            b"Content-Length: 5\n\r\n",
            b"\0Content-Length: 5\r\n",
        ] {
            let shown = fields.escape_ascii();
            let bytes = [b"POST http://a/ HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n"].concat();
            assert!(RequestHead::parse(bytes).is_err(), "{shown}");
            let bytes = [b"HTTP/1.1 200 OK\r\n", fields, b"\r\n"].concat();
            let framing = ResponseHead::parse(bytes).map(|head| of_response("GET", &head));
            assert!(!matches!(framing, Ok(Ok(_))), "{shown}");
        }
    }

    /// A reader that takes the blank for a part of the name is none that RFC 9112 §5.1 allows.
    #[test]
    fn a_blank_behind_the_name_of_a_framing_field_hides_it_in_no_response() {
        for (fields, expected) in [
            ("Content-Length : 5\r\n", Ok(Framing::Length(5))),
            ("Transfer-Encoding\t: chunked\r\n", Ok(Framing::Chunked)),
            (
                "Content-Length: 4\r\nContent-Length : 5\r\n",
                Err(FramingError::LengthsDiffer),
            ),
            (
                "Content-Length: 5\r\nTransfer-Encoding : chunked\r\n",
                Err(FramingError::LengthWithCoding),
            ),
        ] {
            let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes();
            let head = ResponseHead::parse(bytes).expect("odd, and well formed");
            assert_eq!(of_response("GET", &head), expected, "{fields}");
            let bytes = format!("POST http://a/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert!(RequestHead::parse(bytes.into_bytes()).is_err(), "{fields}");
        }
    }

    #[test]
    fn names_that_gateways_take_for_framing_fields_are_refused() {
        check("Content_Length: 5\r\n", Err(FramingError::LengthInvalid));
        check(
            "Content-Length: 5\r\ntransfer_encoding: chunked\r\n",
            Err(FramingError::CodingMalformed),
        );
        check("X_Content_Length: 5\r\n", Ok(Framing::UntilClose));
    }

    #[track_caller]
    fn check_request(line: &str, fields: &str, expected: Result<Framing, FramingError>) {
        let head = request(line, fields.as_bytes());
        assert_eq!(of_request(&head), expected, "{line} with {fields:?}");
    }

    #[test]
    fn http_1_0_has_no_codings() {
        let fields = "Transfer-Encoding: chunked\r\n";
        check_request(
            "POST http://a/ HTTP/1.0",
            fields,
            Err(FramingError::CodingInHttp10),
        );
        let head = response("HTTP/1.0 200 OK", fields.as_bytes());
        assert_eq!(of_response("GET", &head), Err(FramingError::CodingInHttp10));
        let head = response("HTTP/1.0 200 OK", b"Content-Length: 5\r\n");
        assert_eq!(of_response("GET", &head), Ok(Framing::Length(5)));
    }

    #[test]
    fn http_1_0_has_no_body_where_none_is_expected() {
        for method in ["GET", "HEAD", "DELETE"] {
            let line = format!("{method} http://a/ HTTP/1.0");
            check_request(
                &line,
                "Content-Length: 5\r\n",
                Err(FramingError::BodyNotAllowed),
            );
            check_request(&line, "Content-Length: 0\r\n", Ok(Framing::Empty));
            let line = format!("{method} http://a/ HTTP/1.1");
            check_request(&line, "Content-Length: 5\r\n", Ok(Framing::Length(5)));
            check_request(
                &line,
                "Transfer-Encoding: chunked\r\n",
                Ok(Framing::Chunked),
            );
        }
        check_request(
            "POST http://a/ HTTP/1.0",
            "Content-Length: 5\r\n",
            Ok(Framing::Length(5)),
        );
    }

    #[test]
    fn connect_and_trace_have_no_body() {
        for line in ["CONNECT a:1 HTTP/1.1", "TRACE http://a/ HTTP/1.1"] {
            check_request(line, "", Ok(Framing::Empty));
            check_request(line, "Content-Length: 0\r\n", Ok(Framing::Empty));
            check_request(
                line,
                "Content-Length: 5\r\n",
                Err(FramingError::BodyNotAllowed),
            );
            check_request(
                line,
                "Transfer-Encoding: chunked\r\n",
                Err(FramingError::BodyNotAllowed),
            );
        }
    }

    #[track_caller]
    fn check_response(
        method: &str,
        status: u16,
        fields: &str,
        expected: Result<Framing, FramingError>,
    ) {
        let head = response(&format!("HTTP/1.1 {status} X"), fields.as_bytes());
        assert_eq!(
            of_response(method, &head),
            expected,
            "{method}: {status} with {fields:?}"
        );
    }

    #[test]
    fn responses_that_cannot_have_a_body_have_none() {
        for fields in [
            "",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
        ] {
            check_response("HEAD", 200, fields, Ok(Framing::Empty));
            check_response("HEAD", 404, fields, Ok(Framing::Empty));
            for status in [100, 101, 103, 199, 204, 304] {
                check_response("GET", status, fields, Ok(Framing::Empty));
            }
            check_response("CONNECT", 200, fields, Ok(Framing::Empty));
            check_response("CONNECT", 299, fields, Ok(Framing::Empty));
        }
    }

    #[test]
    fn a_refused_connect_has_a_body() {
        check_response(
            "CONNECT",
            407,
            "Content-Length: 5\r\n",
            Ok(Framing::Length(5)),
        );
        check_response("CONNECT", 502, "", Ok(Framing::UntilClose));
        check_response(
            "connect",
            200,
            "Content-Length: 5\r\n",
            Ok(Framing::Length(5)),
        );
    }

    #[test]
    fn what_head_and_304_declare_must_make_sense() {
        let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
        for (method, status) in [("HEAD", 200), ("GET", 304)] {
            check_response(method, status, both, Err(FramingError::LengthWithCoding));
            let lengths = "Content-Length: 5, 6\r\n";
            check_response(method, status, lengths, Err(FramingError::LengthsDiffer));
        }
    }

    #[test]
    fn a_205_is_framed_as_any_other() {
        check_response("GET", 205, "Content-Length: 0\r\n", Ok(Framing::Length(0)));
        check_response("GET", 205, "", Ok(Framing::UntilClose));
    }
}
