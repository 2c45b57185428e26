//! JSON (RFC 8259): what the admin server writes and the command `status` reads.
//!
//! Objects and lists keep the order in which they are told, and what is written is ASCII. The answer that
//! is read may come from any server, so nesting and the number of values are bounded, and nothing is
//! looked at twice.

use std::borrow::Cow;

use crate::access_log::write_quoted;

/// The deepest nesting that is read.
const DEEPEST: usize = 16;
/// The most values in a document: about 40 for each upstream, of which a configuration of 1 MiB has
/// 50 thousand at most. A byte of text can be a value of 32 bytes in memory, and more in the table.
const MOST_VALUES: usize = 4_000_000;

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`, and what is not there.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it is spelled.
    Number(String),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object: names and values, in order.
    Object(Vec<(String, Self)>),
}

/// A value as it is written. What it is made of is written first, so no tree of a large document is ever
/// kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(pub String);

/// The members of an object that is written, in order.
pub type Members = Vec<(Cow<'static, str>, JsonText)>;

/// The members of an object: `members! { "name": value, ..others, "name": value, .. }`.
macro_rules! members {
    ($($(..$others:expr,)* $name:literal: $value:expr),* $(,)?) => {{
        let mut members = $crate::json::Members::new();
        $($(members.extend($others);)*
        members.extend([(std::borrow::Cow::Borrowed($name), $crate::json::JsonText::from($value))]);)*
        members
    }};
}
pub(crate) use members;

macro_rules! from {
    ($($kind:ty: $value:ident => $text:expr;)*) => {
        $(impl From<$kind> for JsonText {
            fn from($value: $kind) -> Self {
                Self($text)
            }
        })*
    };
}

from! {
    bool: value => value.to_string();
    u32: value => value.to_string();
    u64: value => value.to_string();
    u128: value => value.to_string();
    usize: value => value.to_string();
    &str: value => quoted(value);
    String: value => quoted(&value);
}

impl From<Members> for JsonText {
    fn from(members: Members) -> Self {
        let mut out = String::from('{');
        for (place, (name, value)) in members.into_iter().enumerate() {
            out.push_str(if place == 0 { "" } else { "," });
            quote(&name, &mut out);
            out.push(':');
            out.push_str(&value.0);
        }
        out.push('}');
        Self(out)
    }
}

impl<V: Into<Self>> From<Option<V>> for JsonText {
    fn from(value: Option<V>) -> Self {
        value.map_or_else(|| Self("null".to_owned()), Into::into)
    }
}

impl<V: Into<Self>> FromIterator<V> for JsonText {
    fn from_iter<I: IntoIterator<Item = V>>(values: I) -> Self {
        let mut out = String::from('[');
        for (place, value) in values.into_iter().enumerate() {
            out.push_str(if place == 0 { "" } else { "," });
            out.push_str(&value.into().0);
        }
        out.push(']');
        Self(out)
    }
}

/// A whole document: an object as a line.
pub fn document(members: Members) -> String {
    JsonText::from(members).0 + "\n"
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quote(text, &mut out);
    out
}

/// Appends a text. Mostly there is nothing to escape.
fn quote(text: &str, out: &mut String) {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if !text.bytes().all(is_plain) {
        return write_quoted(text, out);
    }
    out.push('"');
    out.push_str(text);
    out.push('"');
}

impl Json {
    /// Reads a whole document; `None`: it is not JSON.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_within(text, MOST_VALUES)
    }

    fn parse_within(text: &str, most_values: usize) -> Option<Self> {
        let mut reader = Reader {
            rest: text,
            depth: 0,
            left: most_values,
        };
        let value = reader.value()?;
        reader.skip_space();
        reader.rest.is_empty().then_some(value)
    }

    /// The member of this name; `Null` if there is none.
    pub fn get(&self, name: &str) -> &Self {
        let Self::Object(members) = self else {
            return &Self::Null;
        };
        let member = members.iter().find(|(key, _)| key == name);
        member.map_or(&Self::Null, |(_, value)| value)
    }

    /// The elements of a list; none of anything else.
    pub fn elements(&self) -> &[Self] {
        let Self::List(elements) = self else {
            return &[];
        };
        elements
    }

    /// Whether it is `true`.
    pub fn is_true(&self) -> bool {
        *self == Self::Bool(true)
    }

    /// A text, or a number as it is spelled; `None` of anything else.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) | Self::Number(text) = self {
            Some(text)
        } else {
            None
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
    /// How many values may still come.
    left: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut letters = self.rest.chars();
        let next = letters.next();
        self.rest = letters.as_str();
        next
    }

    fn take(&mut self, wanted: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(wanted)?;
        Some(())
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn value(&mut self) -> Option<Json> {
        self.left = self.left.checked_sub(1)?;
        self.skip_space();
        match self.peek()? {
            'n' => self.take("null").map(|()| Json::Null),
            't' => self.take("true").map(|()| Json::Bool(true)),
            'f' => self.take("false").map(|()| Json::Bool(false)),
            '"' => self.text().map(Json::Text),
            '[' => self.nested(|reader| {
                let mut elements = Vec::new();
                reader.items(']', |reader| {
                    elements.push(reader.value()?);
                    Some(())
                })?;
                Some(Json::List(elements))
            }),
            '{' => self.nested(|reader| {
                let mut members = Vec::new();
                reader.items('}', |reader| {
                    reader.skip_space();
                    let name = reader.text()?;
                    reader.skip_space();
                    reader.take(":")?;
                    members.push((name, reader.value()?));
                    Some(())
                })?;
                Some(Json::Object(members))
            }),
            '-' | '0'..='9' => self.number(),
            _ => None,
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Option<Json>) -> Option<Json> {
        self.next();
        self.depth += 1;
        let value = (self.depth <= DEEPEST).then(|| read(self))?;
        self.depth -= 1;
        value
    }

    /// Items separated by commas, up to `end`.
    fn items(&mut self, end: char, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.skip_space();
        if self.peek()? == end {
            self.next();
            return Some(());
        }
        loop {
            item(self)?;
            self.skip_space();
            match self.next()? {
                ',' => {}
                last if last == end => return Some(()),
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<Json> {
        let is_part = |letter| matches!(letter, '0'..='9' | '-' | '+' | '.' | 'e' | 'E');
        let after = self.rest.trim_start_matches(is_part);
        let spelled = self.rest.strip_suffix(after)?;
        self.rest = after;
        spelled.parse::<f64>().ok()?;
        Some(Json::Number(spelled.to_owned()))
    }

    fn text(&mut self) -> Option<String> {
        self.take("\"")?;
        let mut units: Vec<u16> = Vec::new();
        loop {
            let letter = match self.next()? {
                '"' => return String::from_utf16(&units).ok(),
                '\\' => match self.next()? {
                    letter @ ('"' | '\\' | '/') => letter,
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        units.push(self.hex()?);
                        continue;
                    }
                    _ => return None,
                },
                letter if letter < ' ' => return None,
                letter => letter,
            };
            units.extend(letter.encode_utf16(&mut [0; 2]).iter());
        }
    }

    /// Four digits: a unit of UTF-16.
    fn hex(&mut self) -> Option<u16> {
        let mut unit = 0_u16;
        for _ in 0..4 {
            let digit = self.next()?.to_digit(16)?;
            unit = unit << 4 | u16::try_from(digit).ok()?;
        }
        Some(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&Json>) {
        assert_eq!(Json::parse(text).as_ref(), expected, "{text}");
    }

    fn text(text: &str) -> Json {
        Json::Text(text.to_owned())
    }

    #[test]
    fn every_kind_of_value_is_read() {
        check(" null ", Some(&Json::Null));
        check("true", Some(&Json::Bool(true)));
        check("-1.5e3", Some(&Json::Number("-1.5e3".to_owned())));
        check("[]", Some(&Json::List(Vec::new())));
        check("{ }", Some(&Json::Object(Vec::new())));
        let list = Json::List(vec![Json::Bool(false), text("b")]);
        let object = Json::Object(vec![("a".to_owned(), list)]);
        check("{\"a\" : [false, \"b\"]}\n", Some(&object));
    }

    #[test]
    fn escapes_are_read() {
        check(
            r#""\"\\\/\n\u00e4\ud83d\ude00ä""#,
            Some(&text("\"\\/\n\u{e4}\u{1f600}\u{e4}")),
        );
    }

    #[test]
    fn what_is_no_json_is_not_read() {
        for text in [
            "",
            "nul",
            "truefalse",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{a:1}",
            "{\"a\":1,}",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud83d\"",
            "\"\n\"",
            "1 2",
            "--1",
            "[",
            "<html>",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn endless_nesting_is_not_followed() {
        check(&"[".repeat(100_000), None);
        assert!(Json::parse(&format!("{}{}", "[".repeat(16), "]".repeat(16))).is_some());
        check(&format!("{}{}", "[".repeat(17), "]".repeat(17)), None);
    }

    #[test]
    fn endless_lists_are_not_kept() {
        let text = "[0,[],{\"a\":null}]";
        assert!(Json::parse_within(text, 5).is_some());
        assert!(Json::parse_within(text, 4).is_none());
    }

    #[test]
    fn members_are_found_by_name() {
        let json = Json::parse("{\"a\":{\"b\":[1]},\"c\":true}").unwrap();
        assert_eq!(json.get("a").get("b").elements()[0].text(), Some("1"));
        assert!(json.get("c").is_true());
        assert_eq!(json.get("x").get("y"), &Json::Null);
    }

    #[test]
    fn members_come_in_order_and_are_separated() {
        let more = members! { "e": ["x", "y"].iter().map(|name| members! { "n": *name }).collect::<JsonText>() };
        let text = document(members! {
            "a": 1_u64,
            "b": Option::<u64>::None,
            "c": members! { "d": true },
            ..more,
            "f": JsonText::from_iter(["z"]),
            "g": JsonText::from_iter(Vec::<String>::new()),
        });
        assert_eq!(
            text,
            "{\"a\":1,\"b\":null,\"c\":{\"d\":true},\"e\":[{\"n\":\"x\"},{\"n\":\"y\"}],\
             \"f\":[\"z\"],\"g\":[]}\n"
        );
    }

    #[test]
    fn texts_are_escaped_to_ascii() {
        assert_eq!(
            document(members! { "\"": "</script>\u{0}\n\u{1f600}\u{2028}" }),
            "{\"\\\"\":\"</script>\\u0000\\u000a\\ud83d\\ude00\\u2028\"}\n"
        );
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let written = document(members! {
            "a": "\u{1f600}\u{e4}\\\"\u{7f}\n",
            "b": JsonText::from_iter([Some(1_u64), None]),
            "c": Members::new(),
        });
        let one = Json::Number("1".to_owned());
        let object = Json::Object(vec![
            ("a".to_owned(), text("\u{1f600}\u{e4}\\\"\u{7f}\n")),
            ("b".to_owned(), Json::List(vec![one, Json::Null])),
            ("c".to_owned(), Json::Object(Vec::new())),
        ]);
        assert_eq!(Json::parse(&written), Some(object));
    }
}
