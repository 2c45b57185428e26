//! The YAML file as it is spelled: a tree of values, not yet believed.
//!
//! A derived `Deserialize` stops at the first wrong key and reads `007` as a
//! number where a password was meant. An operator with three typing errors
//! wants to hear of three, so the file is read into a tree first, led by the
//! [`KeyKind`] of each key: where a text is expected, a scalar keeps every
//! character (`password: 1e5` is `1e5`), elsewhere YAML's own rules decide.
//!
//! The YAML reader gives positions with its errors only. So each key and each element of a list has a
//! number in the tree; to find its line, the text is read once more up to it, and an error is raised
//! there. That costs one pass over the file for each message shown to a person, and nothing while all
//! is well.
//!
//! What a value means, its range and its default are not here.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::keys::KeyKind;

/// More values than this are refused: aliases could otherwise unfold a file of
/// 1 MiB into more than the memory holds.
const VALUES_MAX: u32 = 500_000;

/// More brackets than this open at a time are refused: the parser's time grows
/// with their square, and a file of 1 MiB of them would hold it for minutes.
const BRACKETS_MAX: usize = 1000;

/// One value of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum YamlValue {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number that fits.
    Integer(i64),
    /// A number with a fraction or an exponent, or one too large for `Integer`.
    Float(f64),
    /// Any other scalar; where a text is expected, every scalar.
    Text(String),
    /// A sequence: each element with its number, for [`line_of`].
    List(Vec<(u32, YamlValue)>),
    /// A mapping, in the order of the file, duplicate keys included: each key with its number.
    Map(Vec<(u32, String, YamlValue)>),
}

impl YamlValue {
    /// What the value is, for a sentence like "expected .., found ..". Never
    /// the content of a text: it may be a secret.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a block of keys",
        }
    }
}

/// The file is not YAML, or a block stands where a text belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// From 1; absent where the parser does not know.
    pub(super) line: Option<usize>,
    /// What the parser said, without the position.
    pub(super) text: String,
}

/// Reads `text` as one YAML document.
///
/// # Errors
///
/// [`SyntaxError`] for anything that is not YAML, two documents, nesting
/// beyond 128 levels, and a list or block of keys in the place of a text.
pub(super) fn parse(text: &str) -> Result<YamlValue, SyntaxError> {
    if let Some(line) = line_of_too_many_brackets(text) {
        let text = format!("more than {BRACKETS_MAX} brackets are open: close them");
        return Err(SyntaxError {
            line: Some(line),
            text,
        });
    }
    read(text, None).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let said = error.to_string();
        let text = said
            .rsplit_once(" at line ")
            .map_or(said.as_str(), |(text, _)| text);
        let remedy = REMEDIES.iter().find(|(mistake, _)| text.contains(mistake));
        let text = match remedy {
            Some((_, remedy)) => format!("{text}: {remedy}"),
            None => text.to_owned(),
        };
        SyntaxError { line, text }
    })
}

/// The line, from 1, of the key or element with this number. `None` for the file as a whole, which is
/// number 0, and for a number that none has.
pub(super) fn line_of(text: &str, number: u32) -> Option<usize> {
    let error = read(text, Some(number).filter(|number| 0 < *number)).err()?;
    error.location().map(|location| location.line())
}

fn read(text: &str, wanted: Option<u32>) -> Result<YamlValue, serde_yaml::Error> {
    let node = Node {
        kind: Some(KeyKind::Block("")),
        values: &Cell::new(0),
        wanted,
    };
    node.deserialize(serde_yaml::Deserializer::from_str(text))
}

/// What to write instead of what the parser does not understand, by what it says.
const REMEDIES: [(&str, &str); 4] = [
    (
        "found character that cannot start any token",
        "indent with spaces, not with a tab, and write a text that begins with @, ` or % in 'quotes'",
    ),
    (
        "mapping values are not allowed in this context",
        "write a text with a colon and a space in it in 'quotes', and keys of one block below one another",
    ),
    (
        "unknown anchor",
        "write a text that begins with * in 'quotes'",
    ),
    (
        "found unexpected end of stream",
        "a quote is not closed, maybe far above",
    ),
];

/// Counts brackets, wherever they stand but in lines of comment: a text with a
/// thousand of them would be a wonder.
fn line_of_too_many_brackets(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if BRACKETS_MAX < open {
                return Some(number + 1);
            }
        }
    }
    None
}

/// Reads one value, or the name of a key.
#[derive(Clone, Copy)]
struct Node<'c> {
    /// What may stand there; `None`: the name of a key.
    kind: Option<KeyKind>,
    /// How many values were read. It numbers the next one, and the key before that.
    values: &'c Cell<u32>,
    /// The number whose line is looked for.
    wanted: Option<u32>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = YamlValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlValue, D::Error> {
        let number = self.values.get();
        if self.wanted == Some(number) {
            return deserializer.deserialize_any(Refusal);
        }
        let Some(kind) = self.kind else {
            // nothing is a text, too
            return deserializer.deserialize_str(self);
        };
        if VALUES_MAX <= number {
            return Err(de::Error::custom("too many values (500000 at most)"));
        }
        self.values.set(number + 1);
        if let KeyKind::Text(_) | KeyKind::Word(_) = kind {
            deserializer.deserialize_option(self)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = YamlValue;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.kind {
            None | Some(KeyKind::Text(_) | KeyKind::Word(_)) => "one word, or a text in quotes",
            Some(_) => "a YAML value",
        })
    }

    fn visit_none<E: de::Error>(self) -> Result<YamlValue, E> {
        Ok(YamlValue::Null)
    }

    /// Of a text, with all its characters, whatever YAML takes it for.
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlValue, D::Error> {
        deserializer.deserialize_str(self)
    }

    fn visit_unit<E: de::Error>(self) -> Result<YamlValue, E> {
        Ok(YamlValue::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<YamlValue, E> {
        Ok(YamlValue::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<YamlValue, E> {
        Ok(YamlValue::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<YamlValue, E> {
        Ok(i64::try_from(value).map_or(YamlValue::Float(f64::INFINITY), YamlValue::Integer))
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<YamlValue, E> {
        Ok(YamlValue::Float(f64::INFINITY))
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<YamlValue, E> {
        Ok(YamlValue::Float(f64::NEG_INFINITY))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<YamlValue, E> {
        Ok(YamlValue::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<YamlValue, E> {
        Ok(YamlValue::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<YamlValue, A::Error> {
        let kind = self.kind.map(KeyKind::element);
        let mut list = Vec::new();
        let mut number = self.values.get();
        while let Some(value) = elements.next_element_seed(Node { kind, ..self })? {
            list.push((number, value));
            number = self.values.get();
        }
        Ok(YamlValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<YamlValue, A::Error> {
        let name = Node { kind: None, ..self };
        let mut map = Vec::new();
        while let Some(YamlValue::Text(key)) = entries.next_key_seed(name)? {
            let number = self.values.get();
            let kind = self.kind.map(|kind| kind.below(&key));
            let value = entries.next_value_seed(Node { kind, ..self })?;
            map.push((number, key, value));
        }
        Ok(YamlValue::Map(map))
    }
}

/// Takes nothing, so what it is shown is an error at its place.
struct Refusal;

impl Visitor<'_> for Refusal {
    type Value = YamlValue;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the place looked for")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str, key: &str) -> YamlValue {
        let tree = parse(text).unwrap();
        let YamlValue::Map(entries) = tree else {
            panic!("{tree:?} is no map")
        };
        entries
            .into_iter()
            .find(|(_, name, _)| name == key)
            .unwrap()
            .2
    }

    fn check_error(text: &str, line: Option<usize>, said: &str) {
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, line, "{error:?}");
        assert!(error.text.contains(said), "{error:?}");
    }

    #[test]
    fn a_text_keeps_every_character_of_an_unquoted_scalar() {
        for text in ["007", "1e5", "0x1F", "1.10", "true", ".inf"] {
            let file = format!("admin_token: {text}\n");
            assert_eq!(
                entry(&file, "admin_token"),
                YamlValue::Text(text.to_owned())
            );
        }
    }

    #[test]
    fn nothing_is_nothing_and_quoted_nothing_is_an_empty_text() {
        assert_eq!(entry("listen:\n", "listen"), YamlValue::Null);
        assert_eq!(entry("listen: ~\n", "listen"), YamlValue::Null);
        assert_eq!(
            entry("listen: ''\n", "listen"),
            YamlValue::Text(String::new())
        );
        assert_eq!(
            entry("listen: '~'\n", "listen"),
            YamlValue::Text("~".to_owned())
        );
    }

    #[test]
    fn numbers_and_booleans_are_read_by_the_rules_of_yaml() {
        assert_eq!(
            entry("reload_interval_secs: 5", "reload_interval_secs"),
            YamlValue::Integer(5)
        );
        assert_eq!(
            entry("reload_interval_secs: 0.5", "reload_interval_secs"),
            YamlValue::Float(0.5)
        );
        assert_eq!(entry("via: true", "via"), YamlValue::Bool(true));
        assert_eq!(
            entry("via: 99999999999999999999", "via"),
            YamlValue::Float(f64::INFINITY)
        );
    }

    #[test]
    fn duplicate_keys_are_kept_for_the_check_that_names_them() {
        let tree = parse("via: true\nvia: false\n").unwrap();
        let via = |number, value| (number, "via".to_owned(), YamlValue::Bool(value));
        assert_eq!(tree, YamlValue::Map(vec![via(1, true), via(2, false)]));
    }

    #[test]
    fn syntax_errors_carry_the_line() {
        check_error("listen: a:1\n\tvia: true\n", Some(2), "");
        check_error("listen: 'a:1\nvia: true\n", Some(3), "quoted scalar");
        check_error(
            "via: true\nlisten: [a]\n",
            Some(2),
            "listen: invalid type: sequence",
        );
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let level = |level: u32| match level {
            0 => "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(),
            _ => format!(
                "a{level}: &a{level} [{}]\n",
                vec![format!("*a{}", level - 1); 10].join(", ")
            ),
        };
        let bomb: String = (0..9).map(level).collect();
        assert!(parse(&bomb).is_err());
    }

    #[test]
    fn brackets_without_end_are_refused_before_the_parser_sees_them() {
        let said = "more than 1000 brackets are open";
        check_error(&format!("# x\na: {}", "[".repeat(1_000_000)), Some(2), said);
        check_error(&format!("a:\n{}", "  - {\n".repeat(1001)), Some(1002), said);
        check_error(
            &format!("a: {}", "[".repeat(1000)),
            Some(1),
            "recursion limit exceeded",
        );
    }

    #[test]
    fn two_documents_are_refused() {
        check_error(
            "via: true\n---\nvia: true\n",
            None,
            "more than one document",
        );
    }

    /// Each step is the position of an entry in its map or list.
    fn check_line(text: &str, steps: &[usize], line: usize) {
        let mut value = parse(text).unwrap();
        let mut number = 0;
        for step in steps {
            (number, value) = match value {
                YamlValue::List(mut elements) => elements.swap_remove(*step),
                YamlValue::Map(mut entries) => {
                    let (number, _, value) = entries.swap_remove(*step);
                    (number, value)
                }
                YamlValue::Null
                | YamlValue::Bool(_)
                | YamlValue::Integer(_)
                | YamlValue::Float(_)
                | YamlValue::Text(_) => panic!("no step {step} in {text}"),
            };
        }
        assert_eq!(line_of(text, number), Some(line), "{steps:?} in\n{text}");
    }

    #[test]
    fn a_key_of_a_block_is_found() {
        let text = "# comment\na: 1\n\nb:\n  c: 2\n  d:\n    long\n";
        check_line(text, &[0], 2);
        check_line(text, &[1], 4);
        check_line(text, &[1, 0], 5);
        check_line(text, &[1, 1], 6);
    }

    #[test]
    fn keys_inside_lists_are_found() {
        let text = "u:\n  - url: x\n    weight: 1\n  -\n    url: y\n    weight: 2\n  - z\n";
        check_line(text, &[0, 0], 2);
        check_line(text, &[0, 0, 1], 3);
        check_line(text, &[0, 1], 5);
        check_line(text, &[0, 1, 1], 6);
        check_line(text, &[0, 2], 7);
    }

    #[test]
    fn flow_style_is_found() {
        let text = "a: {b: 1,\n  c: [x,\n    y],\n  d: 4}\n";
        check_line(text, &[0, 0], 1);
        check_line(text, &[0, 1], 2);
        check_line(text, &[0, 1, 0], 2);
        check_line(text, &[0, 1, 1], 3);
        check_line(text, &[0, 2], 4);
    }

    #[test]
    fn the_second_of_two_equal_keys_is_found() {
        let text = "a: 1\nb: 2\na: 3\n";
        check_line(text, &[0], 1);
        check_line(text, &[2], 3);
    }

    #[test]
    fn scalars_of_every_kind_are_found() {
        let text = "- 1\n- -1\n- 1.5\n- true\n- ~\n- x\n- 'y'\n- |\n  z\n- 99999999999999999999\n";
        for (position, line) in [1, 2, 3, 4, 5, 6, 7, 8, 10].into_iter().enumerate() {
            check_line(text, &[position], line);
        }
    }

    #[test]
    fn windows_line_ends_do_not_shift_lines() {
        check_line("a: 1\r\n\r\nb: 2\r\n", &[1], 3);
    }

    #[test]
    fn a_number_that_none_has_gives_no_wrong_line() {
        assert_eq!(line_of("a: 1\n", 0), None);
        assert_eq!(line_of("a: 1\n", 7), None);
    }
}
