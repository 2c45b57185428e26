//! Request targets: host and port are the ones a slow second look finds, they survive being written
//! and read again, and no name is a number that resolvers take for an address.

use http_proxy_lb::protocol::target::{Authority, Host, RequestTarget};

/// The first byte says whether the rest is the target of CONNECT.
pub(crate) fn check(input: &[u8]) {
    let Some((choice, target)) = input.split_first() else {
        return;
    };
    let method = if choice & 1 == 0 { "GET" } else { "CONNECT" };
    match RequestTarget::parse(method, target) {
        Err(_) => {}
        Ok(RequestTarget::Authority(authority)) => {
            assert_eq!(method, "CONNECT");
            check_authority(&authority, target);
            let written = authority.to_string();
            assert_eq!(Authority::from_connect(written.as_bytes()), Ok(authority));
        }
        Ok(RequestTarget::Absolute(absolute)) => {
            assert_ne!(method, "CONNECT");
            let before = target.windows(3).position(|part| part == b"://");
            let (scheme, rest) = target.split_at(before.expect("a scheme"));
            assert!(
                scheme
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
            );
            assert_eq!(
                absolute.scheme.is_http(),
                scheme.eq_ignore_ascii_case(b"http")
            );
            let rest = &rest[3..];
            let path = absolute.path_and_query;
            assert!(rest.ends_with(path));
            assert!(matches!(path, [] | [b'/' | b'?', ..]));
            let before_path = &rest[..rest.len() - path.len()];
            assert!(!before_path.iter().any(|byte| b"/?#\\".contains(byte)));
            let after_userinfo = before_path.rsplit(|byte| *byte == b'@').next();
            check_authority(&absolute.authority, after_userinfo.unwrap_or_default());
            let mut shown = Vec::new();
            absolute.write_shown(&mut shown);
            let lower = scheme.to_ascii_lowercase();
            assert!(shown.starts_with(&lower) && shown.ends_with(path));
            match RequestTarget::parse(method, &shown) {
                Ok(RequestTarget::Absolute(again)) => {
                    assert_eq!(again.authority, absolute.authority);
                    assert_eq!(again.path_and_query, path);
                }
                other => panic!("what is shown is another target: {other:?}"),
            }
        }
    }
}

/// `received` is `host[:port]` as it came.
fn check_authority(authority: &Authority, received: &[u8]) {
    assert_ne!(authority.port(), 0);
    let text = std::str::from_utf8(received).expect("ASCII").to_lowercase();
    let end_of_host = text
        .rfind(']')
        .map_or_else(|| text.find(':'), |at| Some(at + 1));
    let (host, port) = text.split_at(end_of_host.unwrap_or(text.len()));
    let port = port.trim_start_matches(':');
    if !port.is_empty() {
        assert_eq!(port.parse(), Ok(authority.port()));
    }
    match authority.host() {
        Host::V6(address) => {
            let inner = host
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            assert_eq!(inner.map(str::parse), Some(Ok(*address)));
        }
        Host::V4(address) => assert_eq!(host.parse(), Ok(*address)),
        Host::Name(name) => {
            assert_eq!(**name, *host);
            assert!(!name.is_empty() && name.len() <= 254);
            let is_fine =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_~".contains(c);
            assert!(name.chars().all(is_fine), "{name}");
            assert!(!is_address_to_resolvers(name), "{name}");
        }
    }
}

/// Whether `inet_aton` would take it: one to four numbers, decimal, octal or hexadecimal.
fn is_address_to_resolvers(name: &str) -> bool {
    let parts: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let is_number = |part: &&str| match part.strip_prefix("0x") {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()),
    };
    parts.len() <= 4 && parts.iter().all(is_number)
}
