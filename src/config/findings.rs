//! What a check of the file found: for each thing the file, line and key it is
//! about, and what to write instead.
//!
//! A file is checked to its end, so that one reading of the messages mends it.
//! What the findings lead to (a refused start, a line in the log) is not
//! decided here.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use log::Level;

use super::raw;

/// Messages beyond this many are counted, not shown: each costs a pass over
/// the file to find its line.
const SHOWN_MAX: usize = 30;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The first release accepted it, so a running service must not stop at an
    /// upgrade: it is read as the text says, and is an error in `--check`.
    Compatibility,
    /// The file is valid; what it means may not be what was wanted.
    Advice,
}

/// How a file is judged that relies on what the first release let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// As by a start or a reload: a running service must not stop at an upgrade.
    Lenient,
    /// As by `--check`: it wants mending.
    Strict,
}

/// One thing found in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named; or the variable or option.
    pub file: String,
    /// From 1; absent where the file as a whole is meant.
    pub line: Option<usize>,
    /// The key, with the keys it stands in (`upstream[0].url`); empty where the
    /// file as a whole is meant.
    pub key: String,
    /// What is wrong and what to write instead. Holds no secret.
    pub text: String,
}

impl Notice {
    /// How loudly it is told.
    pub fn level(&self, strictness: Strictness) -> Level {
        match (self.severity, strictness) {
            (Severity::Error, _) | (Severity::Compatibility, Strictness::Strict) => Level::Error,
            (Severity::Compatibility, Strictness::Lenient) | (Severity::Advice, _) => Level::Warn,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&printable(&self.file))?;
        if let Some(line) = self.line {
            write!(out, ":{line}")?;
        }
        out.write_str(": ")?;
        if !self.key.is_empty() {
            write!(out, "{}: ", printable(&self.key))?;
        }
        out.write_str(&printable(&self.text))
    }
}

/// `text` on one line, with escapes for its control characters: keys are quoted as they stand in the
/// file, by the YAML parser, too, and must not act on the terminal where it is checked.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::new();
    for letter in text.chars() {
        if letter.is_control() {
            printable.extend(letter.escape_default());
        } else {
            printable.push(letter);
        }
    }
    printable
}

/// Why a file cannot be used, and what else must be mended in it, in the order
/// of the file. Its `Display` has one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// Never empty; no [`Severity::Advice`].
    pub errors: Vec<Notice>,
}

impl ConfigErrors {
    /// The file, or this line of it, is none that could be checked.
    pub fn about_file(file: &str, line: Option<usize>, text: String) -> Self {
        let notice = Notice {
            line,
            ..whole_file(Severity::Error, file, text)
        };
        Self {
            errors: vec![notice],
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.errors.iter().map(ToString::to_string).collect();
        out.write_str(&lines.join("\n"))
    }
}

impl Error for ConfigErrors {}

/// A place in the file, and what people call it. What is wrong there is said to it.
#[derive(Clone, Debug)]
pub(super) struct KeyPlace<'f> {
    /// What has been found so far, anywhere in the file.
    pub(super) findings: &'f Findings,
    /// Its number in the tree, which leads to its line.
    number: u32,
    /// `upstream[0].url`.
    pub(super) name: String,
}

impl KeyPlace<'_> {
    /// The entry `key` of the map at this place, with its number in the tree.
    pub(super) fn entry(&self, number: u32, key: &str) -> Self {
        Self {
            number,
            ..self.missing(key)
        }
    }

    /// The element `position` of the list at this place, with its number in the tree.
    pub(super) fn element(&self, position: usize, number: u32) -> Self {
        Self {
            number,
            name: format!("{}[{position}]", self.name),
            ..*self
        }
    }

    /// A key that is not there: its name, at the line of what should hold it.
    pub(super) fn missing(&self, key: &str) -> Self {
        let name = if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        };
        Self { name, ..*self }
    }

    /// The file of the access log is named here; others find out whether it can be opened.
    pub(super) fn names_access_log(&self) {
        self.findings.access_log.set(Some(self.number));
    }

    /// Whether a variable of the environment stands in the value.
    pub(super) fn has_variable(&self) -> bool {
        self.findings.variables.contains_key(&self.number)
    }

    /// The value cannot be used.
    pub(super) fn error(&self, text: impl Into<String>) {
        self.note(Severity::Error, text.into());
    }

    /// The first release took it; see [`Severity::Compatibility`].
    pub(super) fn compatibility(&self, text: impl Into<String>) {
        self.note(Severity::Compatibility, text.into());
    }

    /// Valid, and worth a word.
    pub(super) fn advice(&self, text: impl Into<String>) {
        self.note(Severity::Advice, text.into());
    }

    /// Whether it is a place in the file, not a variable or option.
    pub(super) fn is_in_file(&self) -> bool {
        self.number < raw::OUTSIDE
    }

    /// Something is to be said about it.
    pub(super) fn note(&self, severity: Severity, text: String) {
        let notice = Notice {
            key: self.name.clone(),
            ..whole_file(severity, "", text)
        };
        let mut found = self.findings.found.borrow_mut();
        found.push((self.number, notice));
    }
}

/// Collects what the checks find: what is wrong, and what holds.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The names of the variables in a value, by its number.
    variables: BTreeMap<u32, String>,
    /// The same by the paths of the keys that were read.
    pub(super) origins: RefCell<BTreeMap<&'static str, String>>,
    /// Each with the number of its place; file and line are not told yet.
    found: RefCell<Vec<(u32, Notice)>>,
    /// The number of the place that names the file of the access log.
    access_log: Cell<Option<u32>>,
    /// By their paths, in the words of `--check`, the values that need no more than their row to be told.
    pub(super) values: RefCell<BTreeMap<&'static str, String>>,
    /// What the places from [`raw::OUTSIDE`] on are called, each with its key.
    outside: Vec<(String, &'static str)>,
}

impl Findings {
    /// Nothing found yet, about a file with these variables in its values, by the numbers of those;
    /// `outside` is what the places from [`raw::OUTSIDE`] on are called.
    pub(super) fn of(
        variables: BTreeMap<u32, String>,
        outside: Vec<(String, &'static str)>,
    ) -> Self {
        Self {
            variables,
            outside,
            ..Self::default()
        }
    }

    /// A place outside the file, with the path of its key.
    pub(super) fn outside(&self, number: u32, key: &str) -> KeyPlace<'_> {
        KeyPlace {
            findings: self,
            number,
            name: key.to_owned(),
        }
    }

    /// Notes from which variables the value of a key came, if it did.
    pub(super) fn note_origin(&self, path: &'static str, number: u32) {
        if let Some(names) = self.variables.get(&number) {
            self.origins.borrow_mut().insert(path, names.clone());
        }
    }

    /// The file as a whole.
    pub(super) fn file(&self) -> KeyPlace<'_> {
        KeyPlace {
            findings: self,
            number: 0,
            name: String::new(),
        }
    }

    /// Whether the file is refused already.
    pub(super) fn has_error(&self) -> bool {
        let found = self.found.borrow();
        found
            .iter()
            .any(|(_, notice)| notice.severity == Severity::Error)
    }

    /// An empty error at the place that names the file of the access log, in this file with this text or
    /// outside of it.
    pub(super) fn access_log_place(&self, file: &str, text: &str) -> Option<Notice> {
        let notice = Notice {
            key: "access_log.file".to_owned(),
            ..whole_file(Severity::Error, file, "")
        };
        let number = self.access_log.get()?;
        Some(locate(&self.outside, number, notice, (file, text)))
    }

    /// Whether what is noted from now on will only be counted.
    pub(super) fn is_full(&self) -> bool {
        SHOWN_MAX <= self.found.borrow().len()
    }

    /// Looks up the lines and sorts. With an error all that must be mended comes back as one, so that
    /// the operator does not hear of the rest the next time.
    pub(super) fn conclude(self, file: &str, text: &str) -> Result<Vec<Notice>, ConfigErrors> {
        let failed = self.has_error();
        let mut found = self.found.into_inner();
        if failed {
            found.retain(|(_, notice)| notice.severity != Severity::Advice);
        }
        let beyond = found.split_off(found.len().min(SHOWN_MAX));
        let mut notices: Vec<Notice> = Vec::with_capacity(found.len());
        for (number, notice) in found {
            let said = match self.variables.get(&number) {
                Some(names) => format!("{} (from {names})", notice.text),
                None => notice.text,
            };
            let notice = Notice {
                text: said,
                ..notice
            };
            let notice = locate(&self.outside, number, notice, (file, text));
            let place = notices.partition_point(|other| other.line <= notice.line);
            notices.insert(place, notice);
        }
        if let Some(worst) = beyond.iter().map(|(_, notice)| notice.severity).min() {
            let more = format!(
                "and {} more like these; mend those above first",
                beyond.len()
            );
            notices.push(whole_file(worst, file, more));
        }
        if failed {
            Err(ConfigErrors { errors: notices })
        } else {
            Ok(notices)
        }
    }
}

/// `notice` with where it stands: a line of the file, or the name of what stands outside, which tells
/// its key, too.
fn locate(
    outside: &[(String, &'static str)],
    number: u32,
    notice: Notice,
    (file, text): (&str, &str),
) -> Notice {
    let position = number.checked_sub(raw::OUTSIDE);
    let found = position.and_then(|position| outside.get(usize::try_from(position).ok()?));
    match found {
        Some((name, key)) => Notice {
            file: name.clone(),
            key: if notice.key == *key {
                String::new()
            } else {
                notice.key
            },
            ..notice
        },
        None => Notice {
            file: file.to_owned(),
            line: raw::line_of(text, number),
            ..notice
        },
    }
}

/// A notice about the file as a whole.
pub(super) fn whole_file(severity: Severity, file: &str, text: impl Into<String>) -> Notice {
    Notice {
        severity,
        file: file.to_owned(),
        line: None,
        key: String::new(),
        text: text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_file_line_key_and_text() {
        let findings = Findings::default();
        let place = findings.file().entry(2, "limits").entry(3, "queue");
        place.error("write a number");
        let errors = findings
            .conclude("c.yaml", "a: 1\nlimits:\n  queue: x\n")
            .unwrap_err();
        assert_eq!(errors.to_string(), "c.yaml:3: limits.queue: write a number");
    }

    #[test]
    fn what_stands_in_a_key_does_not_act_on_the_terminal() {
        let findings = Findings::default();
        let place = findings
            .file()
            .entry(1, "limits")
            .entry(2, "\u{1b}[2J\tqueue");
        place.error("is unknown\r");
        let errors = findings.conclude("c.yaml", "limits: {a: 1}").unwrap_err();
        let said = errors.to_string();
        assert_eq!(said, "c.yaml:1: limits.\\u{1b}[2J\\tqueue: is unknown\\r");
    }

    #[test]
    fn warnings_do_not_drown_errors() {
        let findings = Findings::default();
        findings.file().advice("by the way");
        findings.file().error("no");
        let errors = findings.conclude("c.yaml", "").unwrap_err();
        assert_eq!(errors.to_string(), "c.yaml: no");
    }

    #[test]
    fn notices_come_in_the_order_of_the_file() {
        let findings = Findings::default();
        findings.file().entry(2, "b").advice("second");
        findings.file().entry(1, "a").advice("first");
        let notices = findings.conclude("c", "a: 1\nb: 2\n").unwrap();
        assert_eq!(
            notices.iter().map(|n| n.line).collect::<Vec<_>>(),
            [Some(1), Some(2)]
        );
    }

    #[test]
    fn a_thousand_errors_are_not_a_thousand_lines() {
        let findings = Findings::default();
        for _ in 0..1000 {
            findings.file().error("no");
        }
        let errors = findings.conclude("c", "").unwrap_err().errors;
        assert_eq!(errors.len(), SHOWN_MAX + 1);
        assert!(errors.last().unwrap().text.starts_with("and 970 more"));
    }
}
