//! On which line a value stands.
//!
//! The YAML reader gives positions with its errors only. So the text is read
//! once more, down to the value in question, and an error is raised there: its
//! position is the answer. That costs one pass over the file for each message
//! shown to a person, and nothing while all is well.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line, from 1, of the value that `steps` lead to: each step is the
/// position of an entry in its map or list. An entry of a map is found by its
/// key. `None` for the file as a whole and for steps that lead nowhere.
pub(super) fn line_of(text: &str, steps: &[usize]) -> Option<usize> {
    if steps.is_empty() {
        return None;
    }
    let walk = Walk { steps };
    let error = walk
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .err()?;
    error.location().map(|location| location.line())
}

/// Goes down one step; raises the error where none is left.
#[derive(Clone, Copy)]
struct Walk<'s> {
    steps: &'s [usize],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A scalar ends every way down: what is not visited here is an error at its place by itself.
impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the place looked for")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Some((&wanted, below)) = self.steps.split_first() else {
            return Err(found());
        };
        for _ in 0..wanted {
            elements.next_element::<IgnoredAny>()?;
        }
        elements.next_element_seed(Walk { steps: below })?;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((&wanted, below)) = self.steps.split_first() else {
            return Err(found());
        };
        for _ in 0..wanted {
            entries.next_entry::<IgnoredAny, IgnoredAny>()?;
        }
        if below.is_empty() {
            entries.next_key_seed(Walk { steps: below })?;
        } else {
            entries.next_key::<IgnoredAny>()?;
            entries.next_value_seed(Walk { steps: below })?;
        }
        Ok(())
    }
}

/// The error whose position is the answer.
fn found<E: de::Error>() -> E {
    E::custom("found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, steps: &[usize], line: usize) {
        assert_eq!(line_of(text, steps), Some(line), "{steps:?} in\n{text}");
    }

    #[test]
    fn a_key_of_a_block_is_found() {
        let text = "# comment\na: 1\n\nb:\n  c: 2\n  d:\n    long\n";
        check(text, &[0], 2);
        check(text, &[1], 4);
        check(text, &[1, 0], 5);
        check(text, &[1, 1], 6);
    }

    #[test]
    fn keys_inside_lists_are_found() {
        let text = "u:\n  - url: x\n    weight: 1\n  -\n    url: y\n    weight: 2\n  - z\n";
        check(text, &[0, 0], 2);
        check(text, &[0, 0, 1], 3);
        check(text, &[0, 1], 5);
        check(text, &[0, 1, 1], 6);
        check(text, &[0, 2], 7);
    }

    #[test]
    fn flow_style_is_found() {
        let text = "a: {b: 1,\n  c: [x,\n    y],\n  d: 4}\n";
        check(text, &[0, 0], 1);
        check(text, &[0, 1], 2);
        check(text, &[0, 1, 0], 2);
        check(text, &[0, 1, 1], 3);
        check(text, &[0, 2], 4);
    }

    #[test]
    fn the_second_of_two_equal_keys_is_found() {
        let text = "a: 1\nb: 2\na: 3\n";
        check(text, &[0], 1);
        check(text, &[2], 3);
    }

    #[test]
    fn scalars_of_every_kind_are_found() {
        let text = "- 1\n- -1\n- 1.5\n- true\n- ~\n- x\n- 'y'\n- |\n  z\n- 99999999999999999999\n";
        for (position, line) in [1, 2, 3, 4, 5, 6, 7, 8, 10].into_iter().enumerate() {
            check(text, &[position], line);
        }
    }

    #[test]
    fn windows_line_ends_do_not_shift_lines() {
        check("a: 1\r\n\r\nb: 2\r\n", &[1], 3);
    }

    #[test]
    fn steps_that_lead_nowhere_give_no_wrong_line() {
        assert_eq!(line_of("a: 1\n", &[]), None);
        assert_eq!(line_of("a: 1\n", &[7]), None);
    }
}
