//! What a check of the file found: for each thing the file, line and key it is
//! about, and what to write instead.
//!
//! A file is checked to its end, so that one reading of the messages mends it.
//! What the findings lead to (a refused start, a line in the log) is not
//! decided here.

use std::error::Error;
use std::fmt::{self, Write};

use super::locate;

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

/// One thing found in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named.
    pub file: String,
    /// From 1; absent where the file as a whole is meant.
    pub line: Option<usize>,
    /// The key, with the keys it stands in (`upstream[0].url`); empty where the
    /// file as a whole is meant.
    pub key: String,
    /// What is wrong and what to write instead. Holds no secret.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.file).fmt(out)?;
        if let Some(line) = self.line {
            write!(out, ":{line}")?;
        }
        out.write_str(": ")?;
        if !self.key.is_empty() {
            write!(out, "{}: ", Printable(&self.key))?;
        }
        Printable(&self.text).fmt(out)
    }
}

/// A text on one line, with escapes for its control characters: keys are quoted as they stand in the
/// file, by the YAML parser, too, and must not act on the terminal of whoever checks it.
struct Printable<'t>(&'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            if letter.is_control() {
                write!(out, "{}", letter.escape_default())?;
            } else {
                out.write_char(letter)?;
            }
        }
        Ok(())
    }
}

/// Why a file cannot be used, and what else must be mended in it, in the order
/// of the file. Its `Display` has one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// Never empty; no [`Severity::Advice`].
    pub errors: Vec<Notice>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.errors.iter().enumerate() {
            if position > 0 {
                out.write_str("\n")?;
            }
            write!(out, "{error}")?;
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}

/// A place in the file: how to get there, and what people call it.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// The position of the entry in each map and list on the way.
    pub(super) steps: Vec<usize>,
    /// `upstream[0].url`.
    pub(super) name: String,
}

impl Place {
    /// The entry `key`, `position`th of the map at this place.
    pub(super) fn entry(&self, position: usize, key: &str) -> Self {
        Self {
            steps: self.steps_to(position),
            name: self.name_of(key),
        }
    }

    /// The element `position` of the list at this place.
    pub(super) fn element(&self, position: usize) -> Self {
        Self {
            steps: self.steps_to(position),
            name: format!("{}[{position}]", self.name),
        }
    }

    /// A key that is not there: its name, at the line of what should hold it.
    pub(super) fn missing(&self, key: &str) -> Self {
        Self {
            steps: self.steps.clone(),
            name: self.name_of(key),
        }
    }

    fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn steps_to(&self, position: usize) -> Vec<usize> {
        let mut steps = self.steps.clone();
        steps.push(position);
        steps
    }
}

/// Collects what the checks find.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<(Severity, Place, String)>,
}

impl Findings {
    /// The value cannot be used.
    pub(super) fn error(&mut self, place: &Place, text: impl Into<String>) {
        self.found
            .push((Severity::Error, place.clone(), text.into()));
    }

    /// The first release took it; see [`Severity::Compatibility`].
    pub(super) fn compatibility(&mut self, place: &Place, text: impl Into<String>) {
        self.found
            .push((Severity::Compatibility, place.clone(), text.into()));
    }

    /// Valid, and worth a word.
    pub(super) fn advice(&mut self, place: &Place, text: impl Into<String>) {
        self.found
            .push((Severity::Advice, place.clone(), text.into()));
    }

    /// Whether the file is refused already.
    pub(super) fn has_error(&self) -> bool {
        self.found
            .iter()
            .any(|(severity, ..)| *severity == Severity::Error)
    }

    /// Whether what is noted from now on will only be counted.
    pub(super) fn is_full(&self) -> bool {
        SHOWN_MAX <= self.found.len()
    }

    /// Looks up the lines and sorts. With an error all that must be mended
    /// comes back as one: nobody wants to hear of the rest the next time.
    pub(super) fn conclude(mut self, file: &str, text: &str) -> Result<Vec<Notice>, ConfigErrors> {
        let failed = self.has_error();
        if failed {
            self.found
                .retain(|(severity, ..)| *severity != Severity::Advice);
        }
        let beyond = self.found.split_off(self.found.len().min(SHOWN_MAX));
        let mut notices: Vec<Notice> = self
            .found
            .into_iter()
            .map(|found| locate(file, text, found))
            .collect();
        notices.sort_by_key(|notice| notice.line);
        if let Some(worst) = beyond.iter().map(|(severity, ..)| *severity).min() {
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

/// A notice about the file as a whole.
pub(super) fn whole_file(severity: Severity, file: &str, text: impl Into<String>) -> Notice {
    let (file, text) = (file.to_owned(), text.into());
    Notice {
        severity,
        file,
        line: None,
        key: String::new(),
        text,
    }
}

fn locate(file: &str, text: &str, found: (Severity, Place, String)) -> Notice {
    let (severity, place, said) = found;
    let line = locate::line_of(text, &place.steps);
    Notice {
        severity,
        file: file.to_owned(),
        line,
        key: place.name,
        text: said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_file_line_key_and_text() {
        let mut findings = Findings::default();
        let place = Place::default().entry(1, "limits").entry(0, "queue");
        findings.error(&place, "write a number");
        let errors = findings
            .conclude("c.yaml", "a: 1\nlimits:\n  queue: x\n")
            .unwrap_err();
        assert_eq!(errors.to_string(), "c.yaml:3: limits.queue: write a number");
    }

    #[test]
    fn what_stands_in_a_key_does_not_act_on_the_terminal() {
        let mut findings = Findings::default();
        let place = Place::default()
            .entry(0, "limits")
            .entry(0, "\u{1b}[2J\tqueue");
        findings.error(&place, "is unknown\r");
        let errors = findings.conclude("c.yaml", "limits: {a: 1}").unwrap_err();
        let said = errors.to_string();
        assert_eq!(said, "c.yaml:1: limits.\\u{1b}[2J\\tqueue: is unknown\\r");
    }

    #[test]
    fn warnings_do_not_drown_errors() {
        let mut findings = Findings::default();
        findings.advice(&Place::default(), "by the way");
        findings.error(&Place::default(), "no");
        let errors = findings.conclude("c.yaml", "").unwrap_err();
        assert_eq!(errors.to_string(), "c.yaml: no");
    }

    #[test]
    fn notices_come_in_the_order_of_the_file() {
        let mut findings = Findings::default();
        findings.advice(&Place::default().entry(1, "b"), "second");
        findings.advice(&Place::default().entry(0, "a"), "first");
        let notices = findings.conclude("c", "a: 1\nb: 2\n").unwrap();
        assert_eq!(
            notices.iter().map(|n| n.line).collect::<Vec<_>>(),
            [Some(1), Some(2)]
        );
    }

    #[test]
    fn a_thousand_errors_are_not_a_thousand_lines() {
        let mut findings = Findings::default();
        for _ in 0..1000 {
            findings.error(&Place::default(), "no");
        }
        let errors = findings.conclude("c", "").unwrap_err().errors;
        assert_eq!(errors.len(), SHOWN_MAX + 1);
        assert!(errors.last().unwrap().text.starts_with("and 970 more"));
    }
}
