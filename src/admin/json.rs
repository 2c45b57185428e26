//! Writing JSON (RFC 8259): objects and lists in the order in which they are told, ASCII only.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use crate::access_log::{write_quoted, write_time};

/// A value that knows how to write itself.
pub(super) trait Value {
    fn write(&self, out: &mut String);
}

macro_rules! shown_as_is {
    ($($number:ty),*) => {
        $(impl Value for $number {
            fn write(&self, out: &mut String) {
                let written = write!(out, "{self}");
                debug_assert!(written.is_ok());
            }
        })*
    };
}

shown_as_is!(u16, u32, u64, usize, bool);

impl Value for str {
    fn write(&self, out: &mut String) {
        write_quoted(self, out);
    }
}

impl<V: Value + ?Sized> Value for &V {
    fn write(&self, out: &mut String) {
        (*self).write(out);
    }
}

impl Value for String {
    fn write(&self, out: &mut String) {
        write_quoted(self, out);
    }
}

impl<V: Value> Value for Option<V> {
    fn write(&self, out: &mut String) {
        match self {
            Some(value) => value.write(out),
            None => out.push_str("null"),
        }
    }
}

/// A duration in milliseconds, with three digits behind the point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Millis(pub(super) Duration);

impl Value for Millis {
    fn write(&self, out: &mut String) {
        let micros = self.0.as_micros();
        let written = write!(out, "{}.{:03}", micros / 1000, micros % 1000);
        debug_assert!(written.is_ok());
    }
}

/// A moment, from milliseconds since 1970, as RFC 3339 writes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub(super) u64);

impl Value for Moment {
    fn write(&self, out: &mut String) {
        out.push('"');
        // Beyond the year 9999 there is no RFC 3339.
        let at = Duration::from_millis(self.0.min(253_402_300_799_999));
        let written = write_time(UNIX_EPOCH + at, out);
        debug_assert!(written.is_ok());
        out.push('"');
    }
}

/// An object under construction.
#[derive(Debug)]
pub(super) struct Object<'a> {
    out: &'a mut String,
    members: usize,
}

/// A whole document.
pub(super) fn document(fill: impl FnOnce(&mut Object<'_>)) -> String {
    let mut out = String::new();
    braced(&mut out, fill);
    out.push('\n');
    out
}

fn braced(out: &mut String, fill: impl FnOnce(&mut Object<'_>)) {
    out.push('{');
    fill(&mut Object { out, members: 0 });
    out.push('}');
}

impl Object<'_> {
    /// One more member.
    pub(super) fn field(&mut self, name: &str, value: impl Value) {
        self.name(name);
        value.write(self.out);
    }

    /// One more member, an object.
    pub(super) fn object(&mut self, name: &str, fill: impl FnOnce(&mut Object<'_>)) {
        self.name(name);
        braced(self.out, fill);
    }

    /// One more member, a list of objects.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        fill: impl Fn(&mut Object<'_>, T),
    ) {
        self.name(name);
        self.out.push('[');
        for (place, item) in items.into_iter().enumerate() {
            if place > 0 {
                self.out.push(',');
            }
            braced(self.out, |object| fill(object, item));
        }
        self.out.push(']');
    }

    /// One more member, a list of values.
    pub(super) fn values<V: Value>(&mut self, name: &str, items: impl IntoIterator<Item = V>) {
        self.name(name);
        self.out.push('[');
        for (place, item) in items.into_iter().enumerate() {
            if place > 0 {
                self.out.push(',');
            }
            item.write(self.out);
        }
        self.out.push(']');
    }

    fn name(&mut self, name: &str) {
        if self.members > 0 {
            self.out.push(',');
        }
        self.members += 1;
        write_quoted(name, self.out);
        self.out.push(':');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_in_order_and_are_separated() {
        let text = document(|object| {
            object.field("a", 1_u64);
            object.field("b", Option::<u64>::None);
            object.object("c", |c| c.field("d", true));
            object.list("e", ["x", "y"], |e, name| e.field("n", name));
            object.values("f", ["z"]);
            object.values("g", Vec::<String>::new());
        });
        assert_eq!(
            text,
            "{\"a\":1,\"b\":null,\"c\":{\"d\":true},\"e\":[{\"n\":\"x\"},{\"n\":\"y\"}],\
             \"f\":[\"z\"],\"g\":[]}\n"
        );
    }

    #[test]
    fn texts_are_escaped_to_ascii() {
        let text = document(|object| object.field("\"", "</script>\u{0}\n\u{1f600}\u{2028}"));
        assert_eq!(
            text,
            "{\"\\\"\":\"</script>\\u0000\\u000a\\ud83d\\ude00\\u2028\"}\n"
        );
    }

    #[test]
    fn durations_and_moments_have_milliseconds() {
        let text = document(|object| {
            object.field("ms", Millis(Duration::from_micros(1_234_567)));
            object.field("at", Moment(1_700_000_000_123));
        });
        assert_eq!(
            text,
            "{\"ms\":1234.567,\"at\":\"2023-11-14T22:13:20.123Z\"}\n"
        );
    }
}
