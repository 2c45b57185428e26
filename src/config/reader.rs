//! Values taken out of the tree, each with its type and range checked.
//!
//! A wrong value is noted with what to write instead and read as absent, so
//! that the check goes on to the end of the file. An error refuses the whole
//! file. What the first release let pass (unknown keys) is noted, too, and all
//! the rest is used.
//!
//! Which range and which default a key has says its row in `keys.rs`; what it
//! means is not here.

use std::collections::HashSet;
use std::time::Duration;

use super::findings::{KeyPlace, printable};
use super::keys::{self, KeyKind, MERGE};
use super::raw::YamlValue;
use super::syntax;

/// The longest time a `*_secs` may hold: ten years, which stands for "never"
/// and still adds up with any clock.
const SECONDS_MAX: f64 = 315_360_000.0;

/// What a key at the top begins with that others may have for themselves, as in a compose file: a place
/// for blocks that are taken in elsewhere.
const EXTENSION: &str = "x-";

/// The longest part of a key or value that a message repeats.
const QUOTED_MAX: usize = 60;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Located<'v, T> {
    pub(super) place: KeyPlace<'v>,
    pub(super) value: T,
}

/// A block of keys. A key without a value counts as absent.
#[derive(Debug)]
pub(super) struct KeyBlock<'v> {
    /// The block as a whole.
    pub(super) place: KeyPlace<'v>,
    /// What the paths of its keys begin with: `upstream[]`.
    path: &'static str,
    entries: &'v [(u32, String, YamlValue)],
}

impl<'v> KeyBlock<'v> {
    /// Takes `item` for the block `path`; notes duplicate and unknown keys.
    pub(super) fn open(item: Located<'v, &'v YamlValue>, path: &'static str) -> Self {
        let Located { place, value } = item;
        let mut entries: &[_] = &[];
        if let YamlValue::Map(written) = value {
            entries = written;
        } else if *value != YamlValue::Null {
            let known: Vec<_> = keys::in_block(path).map(|key| key.split().1).collect();
            mismatch(
                &place,
                value,
                "a block of keys",
                &format!(
                    ": write `key: value` lines below it, with a blank behind the colon and the keys {}",
                    known.join(", ")
                ),
            );
        }
        let block = Self {
            place,
            path,
            entries,
        };
        block.check_keys();
        block
    }

    /// Where `key` stands, or would stand.
    pub(super) fn place_of(&self, key: &str) -> KeyPlace<'v> {
        match self.entries.iter().find(|(_, name, _)| name == key) {
            Some((number, ..)) => self.place.entry(*number, key),
            None => self.place.missing(key),
        }
    }

    /// The value of `key`, unless it is absent.
    pub(super) fn item(&self, key: &str) -> Option<Located<'v, &'v YamlValue>> {
        let (number, _, value) = self.entries.iter().find(|(_, name, _)| name == key)?;
        let place = self.place_of(key);
        if let Some(row) = keys::find(self.path, key) {
            place.findings.note_origin(row.path, *number);
        }
        (*value != YamlValue::Null).then_some(Located { place, value })
    }

    /// Whether `key` is written, with or without a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(_, name, _)| name == key)
    }

    /// Refuses every file: the program reads a key as what its row says it is not.
    fn misread<T: Default>(&self, key: &str) -> T {
        let place = self.place_of(key);
        place.error("is read as what its row in `keys.rs` does not say");
        T::default()
    }

    fn kind_of(&self, key: &str) -> KeyKind {
        KeyKind::Block(self.path).below(key)
    }

    /// Says what holds for `key`, for the report; elements of lists have one of their own.
    pub(super) fn hold(&self, key: &str, value: String) {
        if let Some(row) = keys::find(self.path, key)
            && !self.path.ends_with("[]")
        {
            let mut values = self.place.findings.values.borrow_mut();
            values.insert(row.path, value);
        }
    }

    fn hold_number(&self, key: &str, number: f64) {
        if let Some(row) = keys::find(self.path, key) {
            self.hold(key, row.in_words(number));
        }
    }

    /// The block below `key`; an empty one if it is absent.
    pub(super) fn block(&self, key: &str) -> Self {
        let path = if let KeyKind::Block(path) | KeyKind::SwitchOrBlock(path) = self.kind_of(key) {
            path
        } else {
            self.misread(key)
        };
        let absent = Located {
            place: self.place.missing(key),
            value: &YamlValue::Null,
        };
        Self::open(self.item(key).unwrap_or(absent), path)
    }

    /// The elements of the list below `key`, if there is one.
    pub(super) fn list(&self, key: &str) -> Option<Vec<Located<'v, &'v YamlValue>>> {
        let Located { place, value } = self.item(key)?;
        let YamlValue::List(elements) = value else {
            mismatch(
                &place,
                value,
                "a list",
                ": write each element on a line of its own, after `-` and a blank",
            );
            return None;
        };
        let located = |(position, (number, value)): (usize, &'v (u32, YamlValue))| Located {
            place: place.element(position, *number),
            value,
        };
        Some(elements.iter().enumerate().map(located).collect())
    }

    /// The texts of the list below `key`, if there is one; others are noted.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<Located<'v, &'v str>>> {
        let kind = self.kind_of(key);
        let texts = self
            .list(key)?
            .into_iter()
            .filter_map(|item| text_of(item, kind));
        Some(texts.collect())
    }

    /// The text of `key`, if there is one.
    pub(super) fn text(&self, key: &str) -> Option<Located<'v, &'v str>> {
        text_of(self.item(key)?, self.kind_of(key))
    }

    /// What holds where `key` is absent, as it would be written.
    pub(super) fn default_of(&self, key: &str) -> &'static str {
        keys::find(self.path, key).map_or_else(|| self.misread(key), |row| row.default)
    }

    /// One of the words of its row.
    pub(super) fn word(&self, key: &str) -> &'static str {
        let KeyKind::Word(words) = self.kind_of(key) else {
            return self.misread(key);
        };
        let written = self.text(key);
        let wanted = written
            .as_ref()
            .map_or(self.default_of(key), |written| written.value);
        if let Some(word) = words.iter().find(|word| keys::bare(word) == wanted) {
            self.hold(key, (*word).to_owned());
            return keys::bare(word);
        }
        let known: Vec<_> = words
            .iter()
            .map(|word| format!("`{}`", keys::bare(word)))
            .collect();
        let known = match &*known {
            [most @ .., last] => format!("{} or {last}", most.join(", ")),
            [] => String::new(),
        };
        self.place_of(key)
            .error(format!("{} is not known: write {known}", quote(wanted)));
        self.default_of(key)
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, key: &str) -> bool {
        if self.kind_of(key) != KeyKind::Switch {
            return self.misread(key);
        }
        let mut is_on = self.default_of(key) == "true";
        if let Some(Located { place, value }) = self.item(key) {
            if let YamlValue::Bool(written) = value {
                is_on = *written;
            } else {
                mismatch(&place, value, "`true` or `false` without quotes", "");
            }
        }
        self.hold(key, is_on.to_string());
        is_on
    }

    /// A whole number within the range of its row; a number of bytes also with a unit.
    pub(super) fn number(&self, key: &str) -> u32 {
        let KeyKind::Number(least, most) = self.kind_of(key) else {
            return self.misread(key);
        };
        let is_size = keys::find(self.path, key).is_some_and(|row| row.unit == "bytes");
        let written = self.item(key).and_then(|Located { place, value }| {
            let size = if let YamlValue::Text(text) = value
                && is_size
            {
                bytes_in(text).map(YamlValue::Integer)
            } else {
                None
            };
            let value = size.as_ref().unwrap_or(value);
            if let YamlValue::Integer(number) = value
                && let Ok(number) = u32::try_from(*number)
                && (least..=most).contains(&number)
            {
                return Some(number);
            }
            let mut wanted = format!("a whole number from {least} to {most}");
            if is_size {
                wanted.push_str(", or one of KiB or MiB, as in 64KiB");
            }
            if let YamlValue::Float(number) = value {
                place.error(format!("{number} does not fit: write {wanted}"));
            } else {
                unfit(&place, value, &wanted);
            }
            None
        });
        let number = written.unwrap_or_else(|| self.default_of(key).parse().unwrap_or_default());
        self.hold_number(key, number.into());
        number
    }

    /// The same in the type of a size.
    pub(super) fn size(&self, key: &str) -> usize {
        usize::try_from(self.number(key)).unwrap_or(usize::MAX)
    }

    /// A number of seconds, with or without a fraction; or a time with a unit.
    pub(super) fn seconds(&self, key: &str) -> Duration {
        self.seconds_or(key, Duration::ZERO)
    }

    /// The same; where the key is absent, the default of its row or `other`, whichever is longer.
    pub(super) fn seconds_or(&self, key: &str, other: Duration) -> Duration {
        let KeyKind::Seconds(least) = self.kind_of(key) else {
            return self.misread(key);
        };
        let written = self.item(key).and_then(|Located { place, value }| {
            #[expect(
                clippy::cast_precision_loss,
                reason = "anything that large is out of range"
            )]
            let seconds = if let YamlValue::Integer(number) = value {
                Some(*number as f64)
            } else if let YamlValue::Text(text) = value {
                seconds_in(text)
            } else {
                None
            };
            let value = &seconds.map_or_else(|| value.clone(), YamlValue::Float);
            if let YamlValue::Float(number) = value
                && (least..=SECONDS_MAX).contains(number)
            {
                // -0.0 lies within the range and is no duration
                return Some(Duration::from_secs_f64(number.abs()));
            }
            let mut wanted = format!("a number of seconds from {least} to {SECONDS_MAX}");
            if 0.0 < least {
                wanted.push_str(" (ten years, which is as good as never)");
            }
            wanted.push_str(", or a time with a unit (ms, s, m, h or d), as in 500ms");
            unfit(&place, value, &wanted);
            None
        });
        let default = || self.default_of(key).parse().unwrap_or_default();
        let time = written.unwrap_or_else(|| Duration::from_secs(default()).max(other));
        self.hold_number(key, time.as_secs_f64());
        time
    }

    fn check_keys(&self) {
        let mut seen = HashSet::new();
        for (number, key, _) in self.entries {
            let place = self.place.entry(*number, &cut(key));
            if key == MERGE {
                place.error(
                    "takes in the keys of another block, once in a block: write `<<: *name`, or \
                     `<<: [*one, *other]`, where `&name` marks that block above",
                );
            } else if self.path.is_empty() && key.starts_with(EXTENSION) {
                // not for this program, or what anchors of others are in
            } else if !seen.insert(key) {
                place.error(
                    "this key stands in the same block a second time: remove one of the two",
                );
            } else if keys::find(self.path, key).is_none() {
                // looking for the right key is slow, and no message will show it
                let remedy = if place.findings.is_full() {
                    String::new()
                } else {
                    syntax::lookalike(key).unwrap_or_else(|| keys::meant(self.path, key))
                };
                if self.path == "rules[]" {
                    // What a rule does not ask about does not matter to it, so it would match more than was meant.
                    place.error(format!("unknown key; {remedy}"));
                } else {
                    place.compatibility(format!("unknown key, ignored; {remedy}"));
                }
            }
        }
    }
}

/// Takes `item` for a text.
fn text_of<'v>(item: Located<'v, &'v YamlValue>, kind: KeyKind) -> Option<Located<'v, &'v str>> {
    let Located { place, value } = item;
    let YamlValue::Text(value) = value else {
        mismatch(&place, value, "a text", "");
        return None;
    };
    if let Some(said) = syntax::lookalike(value) {
        if kind == KeyKind::Text("text") {
            // what may be any text is what people say it is
            place.advice(said);
        } else if kind == KeyKind::Texts {
            // its reader has an answer of its own, which may not show what is not seen
            place.compatibility(said);
        } else {
            place.error(said);
            return None;
        }
    }
    Some(Located { place, value })
}

/// Says that the value is not what is wanted there, or what is wrong with it anyway.
pub(super) fn mismatch(place: &KeyPlace<'_>, value: &YamlValue, wanted: &str, remedy: &str) {
    if let YamlValue::Unusable(said) = value {
        place.error(said);
    } else {
        place.error(format!("expected {wanted}, found {}{remedy}", value.kind()));
    }
}

/// The seconds of `500ms`, `30s`, `2m`, `1h` or `7d`; with a fraction or a blank before the unit, too.
fn seconds_in(text: &str) -> Option<f64> {
    let (number, unit) = with_unit(text)?;
    let number: f64 = number.parse().ok()?;
    Some(match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => return None,
    })
}

/// The bytes of `64KiB` or `1MiB`; `64k` and `1m` are the same, as in other proxies.
fn bytes_in(text: &str) -> Option<i64> {
    let (number, unit) = with_unit(text)?;
    let number: i64 = number.parse().ok()?;
    let factor = match unit {
        "KiB" | "k" | "K" => 1024,
        "MiB" | "m" | "M" => 1024 * 1024,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A number and the letters behind it.
fn with_unit(text: &str) -> Option<(&str, &str)> {
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at_checked(unit)?;
    Some((number.trim_end(), unit))
}

/// Says that a value is not the number that is `wanted`.
fn unfit(place: &KeyPlace<'_>, value: &YamlValue, wanted: &str) {
    place.error(match value {
        YamlValue::Integer(number) => format!("{number} is out of range: write {wanted}"),
        YamlValue::Float(number) => format!("{number} is out of range: write {wanted}"),
        YamlValue::Text(text) if text.parse::<f64>().is_ok() => {
            format!("{} is a text: write {wanted}, without quotes", quote(text))
        }
        YamlValue::Text(text) if text.is_empty() => format!("nothing stands here: write {wanted}"),
        YamlValue::Text(text) => match syntax::lookalike(text) {
            Some(said) => said,
            None => format!("{} is no number: write {wanted}", quote(text)),
        },
        YamlValue::Unusable(said) => said.clone(),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::List(_) | YamlValue::Map(_) => {
            format!("expected {wanted}, found {}", value.kind())
        }
    });
}

/// A value of the file in a message: in quotes, without control characters,
/// not endless, and without a password before an `@`. Never for a secret.
pub(super) fn quote(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_userinfo, rest)) if has_password(text) => format!("`..@{}`", cut(rest)),
        Some(_) | None => format!("`{}`", cut(text)),
    }
}

/// Whether `user:password@` stands in it, which does not belong anywhere.
pub(super) fn has_password(text: &str) -> bool {
    text.rsplit_once('@')
        .is_some_and(|(userinfo, _rest)| userinfo.contains(':'))
}

/// `text` without control characters, cut where it is long.
fn cut(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => printable(text.get(..end).unwrap_or_default()) + "..",
        None => printable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::findings::Findings;
    use crate::config::raw;

    /// Reads `text` with `read` and gives the value with the messages.
    fn with<T>(text: &str, read: impl FnOnce(&KeyBlock<'_>) -> T) -> (T, String) {
        let (tree, origins) = raw::parse(text, &|_| None).unwrap();
        let findings = Findings::of(origins, Vec::new());
        let item = Located {
            place: findings.file(),
            value: &tree,
        };
        let root = KeyBlock::open(item, "");
        let value = read(&root);
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
        let (value, said) = with(&text, |root| root.seconds("reload_interval_secs"));
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
        check_seconds("5x", Err("`5x` is no number"));
        check_seconds("'5'", Err("without quotes"));
        check_seconds("true", Err("found true"));
        check_seconds("[1]", Err("found a list"));
    }

    #[test]
    fn whole_numbers_stay_whole() {
        let read = |written: &str| {
            let text = format!("limits: {{workers: {written}}}\n");
            with(&text, |root| root.block("limits").number("workers"))
        };
        assert_eq!(read("7"), (7, String::new()));
        for (written, part) in [
            (
                "16385",
                "c:1: limits.workers: 16385 is out of range: write a whole number from 0 to 16384",
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
        let ((), said) = with(text, |root| {
            root.block("limits");
        });
        let second = "this key stands in the same block a second time: remove one of the two";
        assert_eq!(
            said,
            format!("c:5: limits.queue: {second}\nc:6: via: {second}")
        );
    }

    #[test]
    fn unknown_keys_are_ignored_with_the_nearest_key() {
        let ((), said) = with("lisen: x\nlimits:\n  mode: best\n  zzz: 1\n", |root| {
            root.block("limits");
        });
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
        let ((), said) = with("\"a\\nb\\e[31m\": x\n", |_| ());
        assert!(said.contains("a\\nb\\u{1b}[31m: unknown"), "{said}");
    }

    #[test]
    fn a_key_that_is_read_as_what_it_is_not_refuses_every_file() {
        for key in ["via", "workers"] {
            let (number, said) = with("listen: a:1\n", |root| root.number(key));
            assert_eq!(number, 0);
            assert!(said.contains(&format!("{key}: is read as")), "{said}");
        }
    }

    #[test]
    fn a_scalar_in_the_place_of_a_block_is_an_error() {
        let ((), said) = with("limits: 5\n", |root| {
            root.block("limits");
        });
        assert!(
            said.starts_with("c:1: limits: expected a block of keys, found a number"),
            "{said}"
        );
    }
}
