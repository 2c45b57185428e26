//! The name of one request, for whoever follows it through logs: of its own making, or the client's.
//!
//! Its own is a ULID: 48 bits of time in milliseconds, 48 random bits of the process, 32 bits that count.
//! So names are unique over restarts and machines, sort by time, and show when the request came. A client's
//! name is as good, if it is one: it ends up in logs and fields, so it is short, and of characters that mean
//! nothing in any of them.

use std::fmt;
use std::sync::Arc;

use super::fields::{Field, Fields, has_prefix, is_about_messages, is_token_byte};

/// The longest name that is taken from a client, in bytes.
const ID_MAX: usize = 128;

/// The digits of base 32 that cannot be mistaken for each other, as ULIDs have them; in their order.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The name of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// Given here.
    Own(u128),
    /// What the client calls it.
    OfClient(Arc<str>),
}

impl RequestId {
    /// That of request number `count` of a process, which came at `unix_ms`.
    pub fn new(unix_ms: u64, process: u64, count: u64) -> Self {
        let (time, process) = (u128::from(unix_ms), u128::from(process));
        let low = |number: u128, bits: u32| number & ((1_u128 << bits) - 1);
        Self::Own((low(time, 48) << 80) | (low(process, 48) << 32) | low(u128::from(count), 32))
    }

    /// What a client calls its request in the field `name`, if it says so once, and it is sound.
    pub fn of_client(fields: Fields<'_>, name: &FieldName) -> Option<Self> {
        let mut values = fields.values(name.as_str());
        let (value, None) = (values.next()?, values.next()) else {
            return None;
        };
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=:@".contains(byte);
        let is_sound = (1..=ID_MAX).contains(&value.len()) && value.iter().all(is_plain);
        let text = std::str::from_utf8(value).ok().filter(|_| is_sound)?;
        Some(Self::OfClient(text.into()))
    }

    /// Appends what `Display` shows.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Own(number) => out.extend_from_slice(&digits_of(*number)),
            Self::OfClient(text) => out.extend_from_slice(text.as_bytes()),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(number) => {
                out.write_str(std::str::from_utf8(&digits_of(*number)).unwrap_or_default())
            }
            Self::OfClient(text) => out.write_str(text),
        }
    }
}

fn digits_of(number: u128) -> [u8; 26] {
    let mut digits = [b'0'; 26];
    // As many at a time as a word of the machine has.
    for (place, word) in digits.rchunks_mut(12).enumerate() {
        // 12 digits of 5 bits.
        let mut rest = ((number >> (60 * place)) & 0xfff_ffff_ffff_ffff) as u64;
        for digit in word.iter_mut().rev() {
            let least = (rest % 32) as usize;
            *digit = DIGITS.get(least).copied().unwrap_or_default();
            rest /= 32;
        }
    }
    digits
}

/// The name of the field that carries a [`RequestId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName(Arc<str>);

impl FieldName {
    /// `None`: it is no name of a field, or the field says something about the message itself.
    pub fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        let is_token =
            (1..=ID_MAX).contains(&bytes.len()) && bytes.iter().all(|b| is_token_byte(*b));
        let means_more = is_about_messages(bytes)
            || ["accept", "content-", "if-", "proxy-", "sec-"]
                .iter()
                .any(|prefix| has_prefix(bytes, prefix));
        (is_token && !means_more).then(|| Self(name.into()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A field that names the request, in a head that goes on: instead of any of that name.
#[derive(Clone, Copy, Debug)]
pub struct IdField<'a> {
    /// The name of the field.
    pub name: &'a FieldName,
    /// Its value.
    pub id: &'a RequestId,
}

impl IdField<'_> {
    /// Whether it takes the place of `field`.
    pub(super) fn replaces(self, field: &Field<'_>) -> bool {
        field.is(self.name.as_str())
    }

    /// Appends the line.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        self.id.write(out);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::RequestHead;
    use super::*;

    #[test]
    fn a_name_is_a_ulid_and_sorts_by_time_then_process_then_count() {
        let shown = |ms, process, count| RequestId::new(ms, process, count).to_string();
        // The example of the ULID specification has this time.
        assert_eq!(shown(1_469_918_176_385, 0, 0), "01ARYZ6S410000000000000000");
        assert_eq!(
            shown((1 << 48) - 1, u64::MAX, u64::MAX),
            "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
        );
        let sorted = [
            shown(1, 0, 0),
            shown(1, 0, 1),
            shown(1, 1, 0),
            shown(2, 0, 0),
        ];
        assert!(sorted.is_sorted_by(|a, b| a < b), "{sorted:?}");
    }

    fn of_client(fields: &str) -> Option<String> {
        let text = format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = RequestHead::parse(text.into_bytes()).expect("well formed");
        let name = FieldName::new("X-Request-Id").expect("a name");
        RequestId::of_client(head.fields(), &name).map(|id| id.to_string())
    }

    #[test]
    fn a_clients_name_is_taken_if_it_is_said_once_and_is_short_and_plain() {
        for sound in [
            "7",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "Root=1-67891233-abcdef012345678912345678",
            "AbC+/_.~@:",
        ] {
            let field = format!("x-request-ID: {sound}\r\n");
            assert_eq!(of_client(&field).as_deref(), Some(sound));
        }
        let long = "a".repeat(ID_MAX + 1);
        for unsound in [
            "", "a b", "a\"", "a\\", "a,b", "a;b", "\u{e9}", "<a>", &long,
        ] {
            assert_eq!(of_client(&format!("X-Request-Id: {unsound}\r\n")), None);
        }
        assert_eq!(of_client("X-Request-Id: a\r\nX-Request-Id: a\r\n"), None);
        assert_eq!(of_client(""), None);
    }

    #[test]
    fn a_field_that_says_something_else_cannot_carry_it() {
        for name in [
            "X-Request-Id",
            "request-id",
            "x-correlation-id",
            "Traceparent",
        ] {
            assert_eq!(FieldName::new(name).expect(name).as_str(), name);
        }
        for name in [
            "",
            "a b",
            "a:",
            "Host",
            "content-length",
            "Content-MD5",
            "connection",
            "Via",
            "Proxy-Status",
            "X-Forwarded-For",
            "Cookie",
            "Accept",
            "If-None-Match",
            "TE",
            "Transfer-Encoding",
            "Trailer",
            "Sec-WebSocket-Key",
            "Range",
        ] {
            assert_eq!(FieldName::new(name), None, "{name}");
        }
    }
}
