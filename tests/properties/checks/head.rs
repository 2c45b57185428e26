//! Heads of requests and responses: the same verdict in whatever pieces they come; what is accepted is
//! read in the same way by another parser, and holds no byte that another reader could stumble over.

use http_proxy_lb::protocol::fields::Fields;
use http_proxy_lb::protocol::head::{
    FIELDS_MAX, HeadError, HeadLimits, HeadScanner, Message, RequestHead, ResponseHead, Version,
};

use super::reference::is_token;
use super::tape::Tape;

/// The first two bytes choose what is expected, the limit and where the rest is split.
pub(crate) fn check(input: &[u8]) {
    let mut tape = Tape(input);
    let choice = tape.byte();
    let split = usize::from(tape.byte());
    let limits = HeadLimits {
        bytes: if choice & 2 == 0 { 65_536 } else { 64 },
    };
    let input = tape.0;
    let scanner = if choice & 1 == 0 {
        HeadScanner::default()
    } else {
        HeadScanner::for_response()
    };
    let whole = scan(scanner.clone(), limits, input, [input.len()]);
    let in_two = scan(
        scanner.clone(),
        limits,
        input,
        [split.min(input.len()), input.len()],
    );
    let bytewise = scan(scanner, limits, input, 0..=input.len());
    assert_eq!(whole, in_two, "in two pieces");
    assert_eq!(whole, bytewise, "byte by byte");
    let Ok(Some(length)) = whole else {
        return;
    };
    assert!(length <= limits.bytes);
    assert!(input[..length].ends_with(b"\r\n\r\n"));
    if choice & 1 == 0 {
        if let Ok(head) = RequestHead::parse(input[..length].to_vec()) {
            check_request(&head);
        }
    } else {
        let head = ResponseHead::parse(input[..length].to_vec());
        check_response(&head.expect("the scanner reads the status line, too"));
    }
}

fn scan(
    mut scanner: HeadScanner,
    limits: HeadLimits,
    input: &[u8],
    ends: impl IntoIterator<Item = usize>,
) -> Result<Option<usize>, HeadError> {
    let mut found = Ok(None);
    for end in ends {
        found = scanner.scan(&input[..end], limits);
        if found != Ok(None) {
            break;
        }
    }
    found
}

fn check_request(head: &RequestHead) {
    let mut slots = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut other = httparse::Request::new(&mut slots);
    let parsed = other.parse(head.as_bytes());
    // The other parser wants UTF-8 in the target, and not every byte of it, and knows no later 1.x.
    if !matches!(
        parsed,
        Err(httparse::Error::Token | httparse::Error::Version)
    ) {
        assert_eq!(
            parsed,
            Ok(httparse::Status::Complete(head.as_bytes().len()))
        );
        assert_eq!(other.method, Some(head.method()));
        assert_eq!(other.path.map(str::as_bytes), Some(head.target()));
        check_fields(head.fields(), other.headers);
    }
    assert!(head.method().bytes().all(is_token) && !head.method().is_empty());
    assert!(
        head.target()
            .iter()
            .all(|byte| *byte > b' ' && *byte != 0x7f)
    );
    let hosts = head.fields().values("host").count();
    assert!(hosts == 1 || (hosts == 0 && head.version() == Version::Http10));
    check_bytes(head.fields(), Message::Request);
    let again = RequestHead::parse(head.as_bytes().to_vec()).expect("it was accepted");
    assert_eq!(again.as_bytes(), head.as_bytes());
}

fn check_response(head: &ResponseHead) {
    let mut slots = vec![httparse::EMPTY_HEADER; head.fields().iter().count()];
    let mut other = httparse::Response::new(&mut slots);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    let parsed = config.parse_response(&mut other, head.as_bytes());
    // The other parser knows no controls in a value, and no `ICY`.
    let is_odd = |byte: &u8| byte.is_ascii_control() && !b"\r\n\t".contains(byte);
    if !head.as_bytes().iter().any(is_odd)
        && !head.as_bytes().starts_with(b"ICY")
        && parsed != Err(httparse::Error::Version)
    {
        assert_eq!(
            parsed,
            Ok(httparse::Status::Complete(head.as_bytes().len()))
        );
        assert_eq!(other.code, Some(head.status()));
        check_fields(head.fields(), other.headers);
    }
    assert!((100..=999).contains(&head.status()));
    assert!(!head.reason().iter().any(|byte| b"\r\n\0".contains(byte)));
    check_bytes(head.fields(), Message::Response);
}

fn check_fields(ours: Fields<'_>, others: &[httparse::Header<'_>]) {
    assert_eq!(ours.iter().count(), others.len());
    for (our, other) in ours.iter().zip(others) {
        assert_eq!(our.name, other.name.as_bytes());
        assert_eq!(our.value, other.value);
    }
}

fn check_bytes(fields: Fields<'_>, message: Message) {
    for field in fields.iter() {
        assert!(!field.name.is_empty() && field.name.iter().copied().all(is_token));
        let is_refused = |byte: &u8| match message {
            Message::Request => *byte != b'\t' && byte.is_ascii_control(),
            Message::Response => b"\r\n\0".contains(byte),
        };
        assert!(!field.value.iter().any(is_refused));
    }
}
