//! Basic credentials: the right ones are admitted, and nothing that does not decode to them is.

use http_proxy_lb::protocol::credentials::{Credentials, is_same_in_constant_time, presented_pair};

use super::tape::Tape;

/// User and password come first, each behind its length; the rest is what a client presents.
pub(crate) fn check(input: &[u8]) {
    let mut tape = Tape(input);
    let user = String::from_utf8_lossy(tape.bytes(20)).replace(':', "");
    let password = String::from_utf8_lossy(tape.bytes(20)).into_owned();
    let presented = tape.0;
    let own = Credentials::basic(&user, &password);
    assert!(own.are_presented_by(own.authorization().as_bytes()));
    assert!(!format!("{own:?}{own}").contains(own.authorization()));
    let pair = Some((user.into_bytes(), password.into_bytes()));
    assert_eq!(presented_pair(own.authorization().as_bytes()), pair);
    if own.are_presented_by(presented) {
        assert!(presented[..5].eq_ignore_ascii_case(b"basic"));
        assert_eq!(presented_pair(presented), pair);
    }
    let token = own.authorization().as_bytes();
    assert_eq!(
        is_same_in_constant_time(token, presented),
        token == presented
    );
}
