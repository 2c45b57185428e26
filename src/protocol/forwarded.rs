//! Who the client is, for the next hop: `Forwarded` (RFC 7239) or `X-Forwarded-For`.
//!
//! A request may have come through others, and whoever sends it writes in such a field what it likes. So what is
//! there stays in front, in one list with our own member at its end, and in one line: a reader that takes but one
//! line of several must not miss it. What was received cannot swallow it: a value whose quotes are not closed is
//! no list, and left out.

use std::net::IpAddr;

use super::fields::{Field, Fields};

/// The field that tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardedField {
    /// `X-Forwarded-For: 2001:db8::1`
    XForwardedFor,
    /// `Forwarded: for="[2001:db8::1]"`
    Forwarded,
}

/// What is told of a request's client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardedFor {
    /// In which field.
    pub field: ForwardedField,
    /// Its address.
    pub client: IpAddr,
}

impl ForwardedFor {
    fn name(self) -> &'static str {
        match self.field {
            ForwardedField::XForwardedFor => "X-Forwarded-For",
            ForwardedField::Forwarded => "Forwarded",
        }
    }

    /// Whether it takes the place of `field`, whose value it has in it.
    pub(super) fn replaces(self, field: &Field<'_>) -> bool {
        field.is(self.name())
    }

    /// Appends the line, for a request that was received with these fields.
    pub(super) fn write(self, received: Fields<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name().as_bytes());
        out.extend_from_slice(b": ");
        let lists = received.values(self.name());
        for list in lists.filter(|list| !list.is_empty() && closes_its_quotes(list)) {
            out.extend_from_slice(list);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(self.member().as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn member(self) -> String {
        match (self.field, self.client.to_canonical()) {
            (ForwardedField::XForwardedFor, client) => client.to_string(),
            (ForwardedField::Forwarded, IpAddr::V4(v4)) => format!("for={v4}"),
            // What has colons and brackets is no token (RFC 7239 §6).
            (ForwardedField::Forwarded, IpAddr::V6(v6)) => format!("for=\"[{v6}]\""),
        }
    }
}

/// Whether every quoted string in it ends (RFC 9110 §5.6.4).
fn closes_its_quotes(list: &[u8]) -> bool {
    let mut is_quoted = false;
    let mut bytes = list.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\\' if is_quoted && bytes.next().is_none() => return false,
            _ => {}
        }
    }
    !is_quoted
}

#[cfg(test)]
mod tests {
    use super::super::head::RequestHead;
    use super::*;

    #[track_caller]
    fn check(field: ForwardedField, client: &str, received: &str, expected: &str) {
        let text = format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{received}\r\n");
        let head = RequestHead::parse(text.into_bytes()).unwrap();
        let told = ForwardedFor {
            field,
            client: client.parse().unwrap(),
        };
        let mut out = Vec::new();
        told.write(head.fields(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn an_address_is_written_as_each_field_wants_it() {
        use ForwardedField::{Forwarded, XForwardedFor};
        for (client, list, forwarded) in [
            ("192.0.2.1", "192.0.2.1", "for=192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1", "for=192.0.2.1"),
            ("2001:db8::1", "2001:db8::1", "for=\"[2001:db8::1]\""),
        ] {
            check(
                XForwardedFor,
                client,
                "",
                &format!("X-Forwarded-For: {list}\r\n"),
            );
            check(
                Forwarded,
                client,
                "",
                &format!("Forwarded: {forwarded}\r\n"),
            );
        }
    }

    #[test]
    fn our_member_is_the_last_of_one_line() {
        check(
            ForwardedField::XForwardedFor,
            "192.0.2.1",
            "x-forwarded-for: 198.51.100.1, unknown\r\nX-Forwarded-For:\r\nX-Forwarded-For: \"\r\nX-FORWARDED-FOR: x\r\n",
            "X-Forwarded-For: 198.51.100.1, unknown, x, 192.0.2.1\r\n",
        );
        check(
            ForwardedField::Forwarded,
            "192.0.2.1",
            "Forwarded: for=_a;by=\"x\\\", y\"\r\nX-Forwarded-For: z\r\nforwarded: for=\"[::1]:4711\"\r\n",
            "Forwarded: for=_a;by=\"x\\\", y\", for=\"[::1]:4711\", for=192.0.2.1\r\n",
        );
    }

    #[test]
    fn a_quote_that_is_not_closed_does_not_swallow_our_member() {
        for value in ["for=\"", "for=\"a\\\"", "a\"b\"c\"", "\"\\"] {
            let received = format!("Forwarded: {value}\r\n");
            let expected = "Forwarded: for=192.0.2.1\r\n";
            check(ForwardedField::Forwarded, "192.0.2.1", &received, expected);
        }
    }
}
