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
//! A block may take in others (`<<`, the merge key of YAML 1.1): `*name` stands for the values of an
//! anchor, which are read where they are used, with the kinds that are wanted there. So a merge only
//! moves what was read and counted already.
//!
//! What a value means, its range and its default are not here.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::keys::{KeyKind, MERGE};
use super::syntax;
use super::variables::{Environment, Variables};

/// More values than this are refused: aliases could otherwise unfold a file of
/// 1 MiB into more than the memory holds.
const VALUES_MAX: u32 = 500_000;

/// From this number on things stand outside the file, see [`super::overrides`].
pub(super) const OUTSIDE: u32 = VALUES_MAX + 1;

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
    /// Behind them what was merged.
    Map(Vec<(u32, String, YamlValue)>),
    /// A value that cannot be used, and why, for people.
    Unusable(String),
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
            Self::Unusable(_) => "what cannot be used",
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

/// Reads `text` as one YAML document, with the variables in it from `environment`. Gives also which
/// variables stand in which value, by its number.
///
/// # Errors
///
/// [`SyntaxError`] for anything that is not YAML, two documents, nesting
/// beyond 128 levels, and a list or block of keys in the place of a text.
pub(super) fn parse(
    text: &str,
    environment: Environment<'_>,
) -> Result<(YamlValue, BTreeMap<u32, String>), SyntaxError> {
    if let Some(line) = line_of_too_many_brackets(text) {
        let text = format!("more than {BRACKETS_MAX} brackets are open: close them");
        return Err(SyntaxError {
            line: Some(line),
            text,
        });
    }
    let variables = Variables::of(environment);
    match read(text, None, &variables) {
        Ok(tree) => Ok((tree, variables.into_used())),
        Err(error) => {
            let line = error.location().map(|location| location.line());
            let (line, text) = syntax::explain(text, &error.to_string(), line);
            Err(SyntaxError { line, text })
        }
    }
}

/// The line, from 1, of the key or element with this number. `None` for the file as a whole, which is
/// number 0, and for a number that none has.
pub(super) fn line_of(text: &str, number: u32) -> Option<usize> {
    let wanted = Some(number).filter(|number| 0 < *number);
    let error = read(text, wanted, &Variables::of(&|_| None)).err()?;
    error.location().map(|location| location.line())
}

fn read(
    text: &str,
    wanted: Option<u32>,
    variables: &Variables<'_>,
) -> Result<YamlValue, serde_yaml::Error> {
    let node = Node {
        kind: Some(KeyKind::Block("")),
        values: &Cell::new(0),
        wanted,
        variables,
    };
    node.deserialize(serde_yaml::Deserializer::from_str(text))
}

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
    /// What stands for a `${NAME}`.
    variables: &'c Variables<'c>,
}

impl Node<'_> {
    /// What a text stands for. One with a variable in it is read as what the key wants: the letters
    /// of a variable have no type.
    fn filled(self, text: &str) -> YamlValue {
        match self.kind {
            None | Some(KeyKind::Anything) => return YamlValue::Text(text.to_owned()),
            Some(_) if !text.contains("${") => return YamlValue::Text(text.to_owned()),
            Some(_) => {}
        }
        let number = self.values.get().saturating_sub(1);
        match (self.variables.fill(number, text), self.kind) {
            (Err(said), _) => YamlValue::Unusable(said),
            (
                Ok(text),
                Some(
                    KeyKind::Number(..)
                    | KeyKind::Seconds(_)
                    | KeyKind::Switch
                    | KeyKind::SwitchOrBlock(_),
                ),
            ) => scalar(text),
            (Ok(text), _) => YamlValue::Text(text),
        }
    }
}

/// A number or switch, where the text is one.
fn scalar(text: String) -> YamlValue {
    let trimmed = text.trim();
    if let Ok(is_on) = trimmed.parse::<bool>() {
        YamlValue::Bool(is_on)
    } else if let Ok(number) = trimmed.parse::<i64>() {
        YamlValue::Integer(number)
    } else if let Some(number) = trimmed
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
    {
        YamlValue::Float(number)
    } else {
        YamlValue::Text(text)
    }
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
            // which tells of a tag, and leaves to `Untagged` how the text is read
            deserializer.deserialize_enum("", &[], self)
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

    /// A text without a tag, or anything with one.
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<YamlValue, A::Error> {
        let (value, tagged) = access.variant_seed(Untagged(self))?;
        if let Some(value) = value {
            return Ok(value);
        }
        tagged.newtype_variant::<IgnoredAny>()?;
        Ok(YamlValue::Unusable(TAGGED.to_owned()))
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
        Ok(self.filled(value))
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
        merge(&mut map);
        Ok(YamlValue::Map(map))
    }
}

/// Puts the keys of the blocks that `<<` names behind the others; a key that is there already wins. A
/// `<<` that names none stays where it is, for the check that tells of it.
fn merge(map: &mut Vec<(u32, String, YamlValue)>) {
    let is_map = |value: &YamlValue| matches!(value, YamlValue::Map(_));
    let is_mergeable = |value: &YamlValue| {
        if let YamlValue::List(blocks) = value {
            blocks.iter().all(|(_, block)| is_map(block))
        } else {
            is_map(value)
        }
    };
    let named = map
        .iter()
        .position(|(_, key, value)| key == MERGE && is_mergeable(value));
    let Some(named) = named else {
        return;
    };
    let blocks = match map.remove(named) {
        (_, _, YamlValue::List(blocks)) => blocks.into_iter().map(|(_, block)| block).collect(),
        (_, _, block) => vec![block],
    };
    let mut known: HashSet<_> = map.iter().map(|(_, key, _)| key.clone()).collect();
    for block in blocks {
        if let YamlValue::Map(entries) = block {
            let new = entries
                .into_iter()
                .filter(|(_, key, _)| known.insert(key.clone()));
            map.extend(new);
        }
    }
}

/// What is said of `!include` and other tags. Repeats nothing: a password may begin with `!`.
const TAGGED: &str = "a word behind a `!` is a tag of YAML, and none is known here (no file is \
                      included): write the value itself, or `${NAME}` for one of the environment; a \
                      text that begins with ! in 'quotes'";

/// The seed of a text that was asked for as if it were an enum: what it is, or nothing where it has a
/// tag, which is shown in its place.
struct Untagged<'c>(Node<'c>);

impl<'de> DeserializeSeed<'de> for Untagged<'_> {
    type Value = Option<YamlValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Untagged<'_> {
    type Value = Option<YamlValue>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(out)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Some(YamlValue::Null))
    }

    /// A text with all its characters, whatever YAML takes it for.
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self.0).map(Some)
    }

    fn visit_str<E: de::Error>(self, _tag: &str) -> Result<Self::Value, E> {
        Ok(None)
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

    fn tree(text: &str) -> YamlValue {
        parse(text, &|_| None).unwrap().0
    }

    fn entry(text: &str, key: &str) -> YamlValue {
        let tree = tree(text);
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
        let error = parse(text, &|_| None).unwrap_err();
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
        let tree = tree("via: true\nvia: false\n");
        let via = |number, value| (number, "via".to_owned(), YamlValue::Bool(value));
        assert_eq!(tree, YamlValue::Map(vec![via(1, true), via(2, false)]));
    }

    #[test]
    fn syntax_errors_carry_the_line() {
        check_error("listen: a:1\n\tvia: true\n", Some(2), "");
        check_error(
            "via: true\nlisten: 'a:1\nvia: true\n",
            Some(2),
            "the quote that begins here",
        );
        check_error(
            "via: true\nlisten: [a]\n",
            Some(2),
            "listen: a list stands where one text is wanted",
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
        assert!(parse(&bomb, &|_| None).is_err());
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
            Some(2),
            "ends the configuration",
        );
    }

    /// Each step is the position of an entry in its map or list.
    fn check_line(text: &str, steps: &[usize], line: usize) {
        let mut value = tree(text);
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
                | YamlValue::Text(_)
                | YamlValue::Unusable(_) => panic!("no step {step} in {text}"),
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
