//! `${NAME}` and `${NAME:-default}` in the values of the file: what the environment has for them.
//!
//! They are put in after the YAML has been read, so nothing in a variable can become a key, a
//! comment or another value. Every dollar without a brace behind it stays what it is, because
//! passwords have them; `$${` stands for `${`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// What variables may add to one file, in bytes: as much as the file itself may have. A long one
/// that is named a thousand times could otherwise fill the memory.
const FILLED_MAX: usize = 1024 * 1024;

/// Gives the value of an environment variable.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<OsString>;

/// What may be written instead of a `${` that leads nowhere.
const REMEDY: &str =
    "write `${NAME}` or `${NAME:-default}`, or `$${` for a `${` that belongs to the value";

/// The variables that a file asks for.
pub(super) struct Variables<'e> {
    environment: Environment<'e>,
    /// How many bytes may still be put in.
    left: Cell<usize>,
    /// The names of those that stand in a value, by its number in the tree.
    used: RefCell<BTreeMap<u32, String>>,
}

impl<'e> Variables<'e> {
    pub(super) fn of(environment: Environment<'e>) -> Self {
        Self {
            environment,
            left: Cell::new(FILLED_MAX),
            used: RefCell::default(),
        }
    }

    /// Which variables stand in which value, by its number in the tree.
    pub(super) fn into_used(self) -> BTreeMap<u32, String> {
        self.used.into_inner()
    }

    /// The value with this number, with the variables in it filled in; or what is wrong with them.
    /// Repeats no more of the value than the name of a variable: it may be a secret.
    pub(super) fn fill(&self, number: u32, value: &str) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = value;
        while let Some((before, behind)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                filled += before;
                filled += "${";
                rest = behind;
                continue;
            }
            let Some((inside, behind)) = behind.split_once('}') else {
                return Err(format!("a `${{` is not closed by a `}}`: {REMEDY}"));
            };
            filled += before;
            filled += &self.value_of(number, inside)?;
            rest = behind;
        }
        Ok(filled + rest)
    }

    /// What stands for the variable that is named between the braces.
    fn value_of(&self, number: u32, inside: &str) -> Result<String, String> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let name = inside.trim_start_matches(is_part);
        let (name, behind) = inside
            .split_at_checked(inside.len() - name.len())
            .unwrap_or_default();
        if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(format!(
                "no name of a variable (letters, digits and `_`) stands behind a `${{`: {REMEDY}"
            ));
        }
        let default = match behind.strip_prefix(":-") {
            Some(default) if default.contains("${") => {
                return Err(format!(
                    "the default of `{name}` has a variable in it: write a text there"
                ));
            }
            None if !behind.is_empty() => {
                return Err(format!(
                    "what stands behind `${{{name}` is not understood: {REMEDY}"
                ));
            }
            default => default,
        };
        let found = (self.environment)(name)
            .map(OsString::into_string)
            .transpose();
        let found = found
            .map_err(|_value| format!("the value of the variable `{name}` is no UTF-8 text"))?;
        let value = match (found, default) {
            // as in a shell, an empty one counts as not set where there is a default
            (Some(found), Some(_)) if !found.is_empty() => found,
            (_, Some(default)) => default.to_owned(),
            (Some(found), None) => found,
            (None, None) => {
                return Err(format!(
                    "the environment has no variable `{name}`: set it, or write \
                     `${{{name}:-default}}`; a `${{` that belongs to the value is written `$${{`"
                ));
            }
        };
        let left = self.left.get().checked_sub(value.len());
        let left = left.ok_or("the variables in the file are larger than 1 MiB together")?;
        self.left.set(left);
        let mut used = self.used.borrow_mut();
        let names = used.entry(number).or_default();
        if !names.split(", ").any(|other| other == name) {
            if !names.is_empty() {
                names.push_str(", ");
            }
            names.push_str(name);
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<OsString> {
        let value = match name {
            "HOST" => "p.test",
            "PORT" => "3128",
            "EMPTY" => "",
            "ODD" => "a: ${HOST} # $${HOST} }",
            "_a1" => "x",
            _ => return None,
        };
        Some(value.into())
    }

    fn check(written: &str, wanted: Result<&str, &str>) {
        let filled = Variables::of(&environment).fill(1, written);
        assert_eq!(
            filled.as_deref().map_err(String::as_str),
            wanted,
            "{written}"
        );
    }

    #[test]
    fn a_variable_is_put_in_where_its_name_stands() {
        check("${HOST}", Ok("p.test"));
        check("http://${HOST}:${PORT}/", Ok("http://p.test:3128/"));
        check("${_a1}${_a1}", Ok("xx"));
        check("${EMPTY}", Ok(""));
    }

    #[test]
    fn what_a_variable_holds_is_not_looked_at_again() {
        check("${ODD}", Ok("a: ${HOST} # $${HOST} }"));
    }

    #[test]
    fn a_default_stands_for_what_is_not_set_or_empty() {
        check("${NONE:-d}", Ok("d"));
        check("${EMPTY:-d}", Ok("d"));
        check("${HOST:-d}", Ok("p.test"));
        check("${NONE:-}", Ok(""));
        check("${NONE:-http://a:1/$x :- {}", Ok("http://a:1/$x :- {"));
    }

    #[test]
    fn every_other_dollar_stays_as_it_is() {
        for text in [
            "$", "$$", "$x", "pa$$word", "$HOST", "$ {HOST}", "{HOST}", "a$",
        ] {
            check(text, Ok(text));
        }
    }

    #[test]
    fn two_dollars_and_a_brace_are_a_dollar_and_a_brace() {
        check("$${HOST}", Ok("${HOST}"));
        check("a$${", Ok("a${"));
        check("$$${HOST}", Ok("$${HOST}"));
        check("$${HOST}${HOST}", Ok("${HOST}p.test"));
    }

    #[test]
    fn what_is_no_variable_is_told_what_to_write() {
        let remedy =
            "write `${NAME}` or `${NAME:-default}`, or `$${` for a `${` that belongs to the value";
        for (written, said) in [
            ("${HOST", "a `${` is not closed by a `}`: "),
            ("${", "a `${` is not closed by a `}`: "),
            (
                "${}",
                "no name of a variable (letters, digits and `_`) stands behind a `${`: ",
            ),
            (
                "${1A}",
                "no name of a variable (letters, digits and `_`) stands behind a `${`: ",
            ),
            (
                "${ HOST}",
                "no name of a variable (letters, digits and `_`) stands behind a `${`: ",
            ),
            (
                "${ä}",
                "no name of a variable (letters, digits and `_`) stands behind a `${`: ",
            ),
            (
                "${HOST-d}",
                "what stands behind `${HOST` is not understood: ",
            ),
            (
                "${HOST:?d}",
                "what stands behind `${HOST` is not understood: ",
            ),
            (
                "${HOST }",
                "what stands behind `${HOST` is not understood: ",
            ),
        ] {
            check(written, Err(&format!("{said}{remedy}")));
        }
        check(
            "${HOST:-${PORT}}",
            Err("the default of `HOST` has a variable in it: write a text there"),
        );
    }

    #[test]
    fn what_is_not_set_is_named() {
        check(
            "x${NONE}",
            Err(
                "the environment has no variable `NONE`: set it, or write `${NONE:-default}`; a `${` \
                 that belongs to the value is written `$${`",
            ),
        );
    }

    #[test]
    fn what_is_no_text_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let latin1 = |_: &str| Some(OsString::from_vec(vec![0xe9]));
        let filled = Variables::of(&latin1).fill(1, "${X}");
        assert_eq!(
            filled.unwrap_err(),
            "the value of the variable `X` is no UTF-8 text"
        );
    }

    #[test]
    fn a_long_variable_that_is_named_often_is_refused() {
        let long = |_: &str| Some(OsString::from("x".repeat(FILLED_MAX / 4)));
        let variables = Variables::of(&long);
        assert_eq!(
            variables.fill(1, "${X}${X}${X}").unwrap().len(),
            FILLED_MAX / 4 * 3
        );
        assert!(variables.fill(2, "${X}").is_ok());
        assert_eq!(
            variables.fill(3, "${X}").unwrap_err(),
            "the variables in the file are larger than 1 MiB together"
        );
    }

    #[test]
    fn the_variables_of_a_value_are_known() {
        let variables = Variables::of(&environment);
        variables.fill(4, "${HOST}:${PORT}${HOST}").unwrap();
        variables.fill(5, "$${HOST}").unwrap();
        assert_eq!(
            variables.into_used(),
            BTreeMap::from([(4, "HOST, PORT".to_owned())])
        );
    }
}
