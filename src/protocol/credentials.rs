//! Basic credentials (RFC 7617): made once, and never shown.
//!
//! Nobody gets the password back but SOCKS, which has a form of its own for it. `Debug` and
//! `Display` hide user and password, so that they cannot end in a log by accident.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::fields::trim_whitespace;

/// The authentication scheme, as it is written.
const SCHEME: &str = "Basic";

/// User and password, ready for `Authorization` or `Proxy-Authorization`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// `Basic` and the token, with one space between them.
    authorization: Box<str>,
    user: Box<str>,
}

impl Credentials {
    /// Any character may be in both, in UTF-8. Only a colon in `user` cannot
    /// be told from the one that ends it (RFC 7617 §2).
    pub fn basic(user: &str, password: &str) -> Self {
        let token = STANDARD.encode(format!("{user}:{password}"));
        Self {
            authorization: format!("{SCHEME} {token}").into_boxed_str(),
            user: user.into(),
        }
    }

    /// The field value.
    pub fn authorization(&self) -> &str {
        &self.authorization
    }

    /// The user: what tells apart those who share an address. Not to be shown.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// User and password, for [`super::socks`].
    pub(super) fn user_and_password(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let both = STANDARD
            .decode(token(self.authorization.as_bytes())?)
            .ok()?;
        let password = both.strip_prefix(self.user.as_bytes())?;
        let password = password.strip_prefix(b":")?.to_vec();
        Some((self.user.as_bytes().to_vec(), password))
    }

    /// Does a received field value present these credentials? The scheme may
    /// have any case. The time it takes tells the length of the token alone.
    pub fn are_presented_by(&self, field_value: &[u8]) -> bool {
        token(field_value)
            .zip(token(self.authorization.as_bytes()))
            .is_some_and(|(presented, own)| is_same_in_constant_time(presented, own))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What follows the scheme Basic and at least one space.
fn token(field_value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = field_value.split_at_checked(SCHEME.len())?;
    let is_basic = scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) && rest.starts_with(b" ");
    is_basic.then(|| trim_whitespace(rest))
}

/// User and password in a received field value of the scheme Basic; for those who ask for a token and take
/// it in this form, too.
pub fn presented_pair(field_value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut user = STANDARD.decode(token(field_value)?).ok()?;
    let colon = user.iter().position(|&byte| byte == b':')?;
    let password = user.split_off(colon + 1);
    user.truncate(colon);
    Some((user, password))
}

/// The field value of the scheme Basic that presents these, which need not be text.
pub fn basic_value(user: &[u8], password: &[u8]) -> Vec<u8> {
    let token = STANDARD.encode([user, b":", password].concat());
    format!("{SCHEME} {token}").into_bytes()
}

/// Looks at every byte, also after a difference.
pub fn is_same_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |found, (a, b)| found | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_is_the_base64_of_user_colon_password() {
        // The examples of RFC 7617 §2 and §2.1.
        for (user, password, expected) in [
            (
                "Aladdin",
                "open sesame",
                "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            ),
            ("test", "123\u{a3}", "Basic dGVzdDoxMjPCow=="),
            ("", "", "Basic Og=="),
        ] {
            assert_eq!(Credentials::basic(user, password).authorization(), expected);
        }
    }

    #[test]
    fn neither_debug_nor_display_shows_anything() {
        let credentials = Credentials::basic("Aladdin", "open sesame");
        let shown = format!("{credentials:?} {credentials:#?} {credentials}");
        for secret in ["Aladdin", "sesame", "QWxh"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn only_the_same_token_of_scheme_basic_is_accepted() {
        let credentials = Credentials::basic("Aladdin", "open sesame");
        for (value, expected) in [
            ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", true),
            ("bASIC   QWxhZGRpbjpvcGVuIHNlc2FtZQ==", true),
            ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=", false),
            ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==x", false),
            ("Basic qWxhZGRpbjpvcGVuIHNlc2FtZQ==", false),
            ("BasicQWxhZGRpbjpvcGVuIHNlc2FtZQ==", false),
            ("Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==", false),
            ("Basic", false),
            ("Basic ", false),
            ("", false),
        ] {
            assert_eq!(
                credentials.are_presented_by(value.as_bytes()),
                expected,
                "{value:?}"
            );
        }
    }
}
