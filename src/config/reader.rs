//! Values taken out of the tree, each with its type and range checked.
//!
//! A wrong value is noted with what to write instead, and the default stands
//! in for it, so that the check goes on to the end of the file. Nothing built
//! from such a stand-in is ever used: an error refuses the whole file.
//!
//! What a key means is not here.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::findings::{Findings, Place};
use super::keys::{self, Shape};
use super::raw::Value;

/// The longest time a `*_secs` may hold: ten years, which stands for "never"
/// and still adds up with any clock.
const SECONDS_MAX: f64 = 315_360_000.0;

/// The longest part of a key or value that a message repeats.
const QUOTED_MAX: usize = 60;

/// The shortest time a `*_secs` may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortest {
    /// 0 has a meaning of its own, or is simply very short.
    Zero,
    /// Without any time nothing could succeed.
    Millisecond,
}

/// One value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Item<'v> {
    pub(super) place: Place,
    pub(super) value: &'v Value,
}

/// A text and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Text<'v> {
    pub(super) place: Place,
    pub(super) text: &'v str,
}

/// A block of keys. A key without a value counts as absent.
#[derive(Debug)]
pub(super) struct Section<'v> {
    place: Place,
    shape: &'static Shape,
    entries: &'v [(String, Value)],
}

impl<'v> Section<'v> {
    /// Takes `item` for a block of the keys of `shape`; notes duplicate and
    /// unknown keys.
    pub(super) fn open(findings: &mut Findings, item: Item<'v>, shape: &'static Shape) -> Self {
        let Item { place, value } = item;
        let entries: &[_] = match value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => {
                let known: Vec<_> = shape.entries().iter().map(|(key, _)| *key).collect();
                let text = format!(
                    "expected a block of keys, found {}: write `key: value` lines below it, \
                     with the keys {}",
                    value.kind(),
                    known.join(", ")
                );
                findings.error(&place, text);
                &[]
            }
        };
        let section = Self {
            place,
            shape,
            entries,
        };
        section.check_keys(findings);
        section
    }

    /// The block as a whole.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// What may stand below `key`.
    pub(super) fn shape_of(&self, key: &str) -> &'static Shape {
        self.shape.below(key)
    }

    /// Where `key` stands, or would stand.
    pub(super) fn place_of(&self, key: &str) -> Place {
        match self.position(key) {
            Some(position) => self.place.entry(position, key),
            None => self.place.missing(key),
        }
    }

    /// The value of `key`, unless it is absent.
    pub(super) fn item(&self, key: &str) -> Option<Item<'v>> {
        let position = self.position(key)?;
        let (_, value) = self.entries.get(position)?;
        let place = self.place.entry(position, key);
        (*value != Value::Null).then_some(Item { place, value })
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.entries.iter().position(|(name, _)| name == key)
    }

    /// The block below `key`; an empty one if it is absent.
    pub(super) fn section(&self, findings: &mut Findings, key: &str) -> Self {
        let absent = Item {
            place: self.place.missing(key),
            value: &Value::Null,
        };
        Section::open(
            findings,
            self.item(key).unwrap_or(absent),
            self.shape.below(key),
        )
    }

    /// The elements of the list below `key`, if there is one.
    pub(super) fn list(&self, findings: &mut Findings, key: &str) -> Option<Vec<Item<'v>>> {
        let Item { place, value } = self.item(key)?;
        let Value::List(elements) = value else {
            let found = value.kind();
            findings.error(
                &place,
                format!("expected a list, found {found}: write each element on a line of its own, after `- `"),
            );
            return None;
        };
        let items = elements.iter().enumerate();
        Some(
            items
                .map(|(i, value)| Item {
                    place: place.element(i),
                    value,
                })
                .collect(),
        )
    }

    /// The texts of the list below `key`, if there is one; others are noted.
    pub(super) fn texts(&self, findings: &mut Findings, key: &str) -> Option<Vec<Text<'v>>> {
        let items = self.list(findings, key)?;
        Some(
            items
                .into_iter()
                .filter_map(|item| text_of(findings, item))
                .collect(),
        )
    }

    /// The text of `key`, if there is one.
    pub(super) fn text(&self, findings: &mut Findings, key: &str) -> Option<Text<'v>> {
        text_of(findings, self.item(key)?)
    }

    /// One of the `words`, each standing for a value; the first is the default.
    pub(super) fn word<T: Copy>(
        &self,
        findings: &mut Findings,
        key: &str,
        words: &[(&str, T)],
        default: T,
    ) -> T {
        let Some(Text { place, text }) = self.text(findings, key) else {
            return default;
        };
        if let Some((_, meant)) = words.iter().find(|(word, _)| *word == text) {
            return *meant;
        }
        let known: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        findings.error(
            &place,
            format!("{} is not known: write {}", quote(text), one_of(&known)),
        );
        default
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, findings: &mut Findings, key: &str) -> Option<bool> {
        let Item { place, value } = self.item(key)?;
        if let Value::Bool(value) = value {
            return Some(*value);
        }
        let found = value.kind();
        findings.error(
            &place,
            format!("expected `true` or `false` without quotes, found {found}"),
        );
        None
    }

    /// A whole number within `range`.
    pub(super) fn integer(
        &self,
        findings: &mut Findings,
        key: &str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let Some(Item { place, value }) = self.item(key) else {
            return default;
        };
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let text = match value {
            Value::Integer(number) => match u32::try_from(*number) {
                Ok(number) if range.contains(&number) => return number,
                Ok(_) | Err(_) => format!("{number} is out of range: write {wanted}"),
            },
            Value::Float(number) => format!("{number} does not fit: write {wanted}"),
            Value::Text(text) => not_a_number(text, &wanted),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                format!("expected {wanted}, found {}", value.kind())
            }
        };
        findings.error(&place, text);
        default
    }

    /// A number of seconds, with or without a fraction.
    pub(super) fn seconds(
        &self,
        findings: &mut Findings,
        key: &str,
        shortest: Shortest,
        default_secs: u32,
    ) -> Duration {
        let default = Duration::from_secs(default_secs.into());
        let Some(Item { place, value }) = self.item(key) else {
            return default;
        };
        let (least, wanted) = match shortest {
            Shortest::Zero => (0.0, format!("a number of seconds from 0 to {SECONDS_MAX}")),
            Shortest::Millisecond => {
                let wanted = format!(
                    "a number of seconds from 0.001 to {SECONDS_MAX} \
                     (ten years, which is as good as never)"
                );
                (0.001, wanted)
            }
        };
        let number = match value {
            #[expect(
                clippy::cast_precision_loss,
                reason = "anything that large is out of range"
            )]
            Value::Integer(number) => *number as f64,
            Value::Float(number) => *number,
            Value::Text(text) => {
                findings.error(&place, not_a_number(text, &wanted));
                return default;
            }
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                findings.error(&place, format!("expected {wanted}, found {}", value.kind()));
                return default;
            }
        };
        if (least..=SECONDS_MAX).contains(&number) {
            // -0.0 lies within the range and is no duration
            return Duration::from_secs_f64(number.abs());
        }
        findings.error(&place, format!("{number} is out of range: write {wanted}"));
        default
    }

    fn check_keys(&self, findings: &mut Findings) {
        let mut seen = HashSet::new();
        for (position, (key, _)) in self.entries.iter().enumerate() {
            let place = self.place.entry(position, &plain(key));
            let known = self.shape.entries().iter().any(|(name, _)| name == key);
            if !seen.insert(key) {
                findings.error(
                    &place,
                    "this key stands in the same block a second time: remove one of the two",
                );
            } else if !known {
                // looking for the nearest key is slow, and nobody will read it
                let near = if findings.is_full() {
                    None
                } else {
                    keys::nearest(self.shape, key)
                };
                findings.compatibility(&place, unknown(near));
            }
        }
    }
}

fn unknown(near: Option<String>) -> String {
    match near {
        Some(near) => format!("unknown key, ignored; did you mean `{near}`?"),
        None => "unknown key, ignored; remove it (config.example.yaml lists every key)".to_owned(),
    }
}

/// Takes `item` for a text.
pub(super) fn text_of<'v>(findings: &mut Findings, item: Item<'v>) -> Option<Text<'v>> {
    let Item { place, value } = item;
    if let Value::Text(text) = value {
        return Some(Text { place, text });
    }
    findings.error(&place, format!("expected a text, found {}", value.kind()));
    None
}

fn not_a_number(text: &str, wanted: &str) -> String {
    if text.parse::<f64>().is_ok() {
        format!("{} is a text: write {wanted}, without quotes", quote(text))
    } else {
        format!("{} is no number: write {wanted}", quote(text))
    }
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn one_of(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// A value of the file in a message: in quotes, without control characters,
/// not endless, and without a password before an `@`. Never for a secret.
pub(super) fn quote(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_userinfo, rest)) if has_password(text) => format!("`..@{}`", plain(rest)),
        Some(_) | None => format!("`{}`", plain(text)),
    }
}

/// Whether `user:password@` stands in it, which does not belong anywhere.
pub(super) fn has_password(text: &str) -> bool {
    text.rsplit_once('@')
        .is_some_and(|(userinfo, _rest)| userinfo.contains(':'))
}

/// `text` without control characters, cut where it is long.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars().take(QUOTED_MAX) {
        if letter.is_control() {
            plain.extend(letter.escape_default());
        } else {
            plain.push(letter);
        }
    }
    if text.chars().nth(QUOTED_MAX).is_some() {
        plain.push_str("..");
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw;

    /// Reads `text` with `read` and gives the value with the messages.
    fn with<T>(text: &str, read: impl FnOnce(&mut Findings, &Section<'_>) -> T) -> (T, String) {
        let tree = raw::parse(text, &keys::ROOT).unwrap();
        let mut findings = Findings::default();
        let item = Item {
            place: Place::default(),
            value: &tree,
        };
        let root = Section::open(&mut findings, item, &keys::ROOT);
        let value = read(&mut findings, &root);
        let said = match findings.conclude("c", text) {
            Ok(notices) => notices
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
            Err(errors) => errors.to_string(),
        };
        (value, said)
    }

    fn check_seconds(written: &str, wanted: Result<Duration, &str>) {
        let text = format!("reload_interval_secs: {written}\n");
        let (value, said) = with(&text, |findings, root| {
            root.seconds(findings, "reload_interval_secs", Shortest::Zero, 60)
        });
        match wanted {
            Ok(wanted) => assert_eq!((value, said.as_str()), (wanted, ""), "{written}"),
            Err(part) => assert!(said.contains(part), "{written}: {said:?}"),
        }
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        check_seconds("0.25", Ok(Duration::from_millis(250)));
        check_seconds("5", Ok(Duration::from_secs(5)));
        check_seconds("0", Ok(Duration::ZERO));
        check_seconds("-0.0", Ok(Duration::ZERO));
        check_seconds("~", Ok(Duration::from_secs(60)));
    }

    #[test]
    fn seconds_out_of_range_name_the_range() {
        let range = "out of range: write a number of seconds from 0 to 315360000";
        for written in ["-1", "-0.5", "315360001", "1e300", ".inf", "-.inf", ".nan"] {
            check_seconds(written, Err(range));
        }
        check_seconds("99999999999999999999999", Err(range));
    }

    #[test]
    fn seconds_that_are_no_number_name_the_key() {
        check_seconds(
            "abc",
            Err("c:1: reload_interval_secs: `abc` is no number: write"),
        );
        check_seconds("5s", Err("`5s` is no number"));
        check_seconds("'5'", Err("without quotes"));
        check_seconds("true", Err("found true"));
        check_seconds("[1]", Err("found a list"));
    }

    #[test]
    fn whole_numbers_stay_whole() {
        let read = |written: &str| {
            let text = format!("limits: {{workers: {written}}}\n");
            with(&text, |findings, root| {
                root.section(findings, "limits")
                    .integer(findings, "workers", 0..=9, 1)
            })
        };
        assert_eq!(read("7"), (7, String::new()));
        for (written, part) in [
            (
                "10",
                "c:1: limits.workers: 10 is out of range: write a whole number from 0 to 9",
            ),
            ("-1", "-1 is out of range"),
            ("1.5", "1.5 does not fit"),
            ("abc", "`abc` is no number"),
        ] {
            assert!(read(written).1.contains(part), "{}", read(written).1);
        }
    }

    #[test]
    fn duplicate_keys_are_found_in_every_block_at_the_second_place() {
        let text = "via: true\nlimits:\n  queue: 1\n  workers: 1\n  queue: 2\nvia: false\n";
        let ((), said) = with(text, |findings, root| {
            root.section(findings, "limits");
        });
        let second = "this key stands in the same block a second time: remove one of the two";
        assert_eq!(
            said,
            format!("c:5: limits.queue: {second}\nc:6: via: {second}")
        );
    }

    #[test]
    fn unknown_keys_are_ignored_with_the_nearest_key() {
        let ((), said) = with(
            "lisen: x\nlimits:\n  mode: best\n  zzz: 1\n",
            |findings, root| {
                root.section(findings, "limits");
            },
        );
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(
            lines[0],
            "c:1: lisen: unknown key, ignored; did you mean `listen`?"
        );
        assert_eq!(
            lines[1],
            "c:3: limits.mode: unknown key, ignored; did you mean `mode`?"
        );
        assert!(lines[2].starts_with("c:4: limits.zzz: unknown key, ignored; remove it"));
    }

    #[test]
    fn control_characters_do_not_reach_a_message() {
        let ((), said) = with("\"a\\nb\\e[31m\": x\n", |_, _| ());
        assert!(said.contains("a\\nb\\u{1b}[31m: unknown"), "{said}");
    }

    #[test]
    fn a_scalar_in_the_place_of_a_block_is_an_error() {
        let ((), said) = with("limits: 5\n", |findings, root| {
            root.section(findings, "limits");
        });
        assert!(
            said.starts_with("c:1: limits: expected a block of keys, found a number"),
            "{said}"
        );
    }
}
