//! What is no YAML, in the words of who wrote it: which line is to be changed, and how.
//!
//! The YAML parser says where it gave up, which is often a line below the mistake, and why, in terms
//! of its own states. So what it says is looked up in a table, after a look at the text: an
//! indentation, a tab, a second document and letters that only look like a blank are told by
//! themselves. What the text means is not known here.

use super::keys::KEYS;

/// Letters that look like a blank, or like nothing, and are none to YAML.
const INVISIBLE: [(char, &str); 9] = [
    ('\u{a0}', "a no-break space"),
    ('\u{202f}', "a narrow no-break space"),
    ('\u{2007}', "a figure space"),
    ('\u{2009}', "a thin space"),
    ('\u{3000}', "an ideographic space"),
    ('\u{ad}', "a soft hyphen"),
    ('\u{200b}', "a zero-width space"),
    ('\u{2060}', "a word joiner"),
    ('\u{feff}', "a byte order mark"),
];

/// Quotes of a word processor, which are letters like others to YAML.
const CURLY: [char; 7] = ['“', '”', '„', '‘', '’', '«', '»'];

/// What to write instead of what the parser does not understand, by what it says. The first that fits
/// counts.
const REMEDIES: [(&str, &str); 13] = [
    (
        "found character that cannot start any token",
        "write a text that begins with @, ` or % in 'quotes'",
    ),
    (
        "found unknown escape character",
        "a backslash in \"double quotes\" begins an escape, and this one is unknown: write the text in \
         'single quotes'",
    ),
    (
        "scanning a quoted scalar",
        "the quote that begins here is not closed: close it, or write the whole text in the other quotes",
    ),
    (
        "scanning an alias",
        "write a text that begins with * in 'quotes'",
    ),
    (
        "scanning an anchor",
        "write a text that begins with & in 'quotes'",
    ),
    (
        "unknown anchor",
        "no `&name` above it marks what this `*name` stands for; write a text that begins with * in \
         'quotes'",
    ),
    (
        "parsing a flow",
        "the bracket that begins here is not closed, or a comma is missing: in brackets write a text \
         with brackets in it, as `${NAME}` has them, in 'quotes'",
    ),
    (
        "mapping values are not allowed in this context",
        "a colon with a blank behind it stands where no key can begin: write a text with one in 'quotes', \
         and keys of one block below one another",
    ),
    (
        "invalid type: sequence",
        "a list stands where one text is wanted: write a text that begins with [ in 'quotes'",
    ),
    (
        "invalid type: map",
        "a block of keys stands where one text is wanted: write the text behind the colon, and one that \
         begins with { in 'quotes'",
    ),
    (
        "recursion limit exceeded",
        "recursion limit exceeded: more than 128 blocks stand in one another, or an alias (`*name`) in what \
         it stands for",
    ),
    (
        "repetition limit exceeded",
        "aliases (`*name`) unfold to more than a configuration can be: write it out",
    ),
    (
        "did not find expected",
        "what stands here does not go on with what stands before it: keys of one block begin in the same \
         column, so do the elements of a list, and nothing stands behind a closed quote",
    ),
];

/// The line of the mistake, as far as it is known, and what to say of it, by what the parser `said`
/// of `text` and the line it named.
pub(super) fn explain(text: &str, said: &str, line: Option<usize>) -> (Option<usize>, String) {
    if said.contains("more than one document") {
        return second_document(text);
    }
    if let Some(found) = control_character(text).filter(|_| said.contains("control characters")) {
        return found;
    }
    let (problem, context) = said.split_once(", while ").unwrap_or((said, ""));
    let problem = problem.split(" at line ").next().unwrap_or(problem);
    let lines: Vec<&str> = text.lines().collect();
    let above = line.and_then(|line| previous(&lines, line));
    if let Some(line) = line
        && !problem.contains("invalid type")
    {
        let here = lines.get(line - 1).copied().unwrap_or_default();
        let seen = tab(here)
            .map(|said| (line, said))
            .or_else(|| invisible_in_line(line, here))
            .or_else(|| above.and_then(|(line, text)| invisible_in_line(line, text)))
            .or_else(|| conflict(&lines, line))
            .or_else(|| above.and_then(|(line, text)| no_key(line, text)))
            .or_else(|| Some((line, indentation(&lines, line)?)));
        if let Some((line, said)) = seen {
            return (Some(line), said);
        }
    }
    if let Some((line, _)) = above.filter(|_| problem.contains("could not find expected ':'")) {
        let said = "no `key: value` stands here: write a colon and a blank behind the key";
        return (Some(line), said.to_owned());
    }
    let remedy = REMEDIES.iter().find(|(mistake, _)| said.contains(mistake));
    let Some((mistake, remedy)) = remedy else {
        return (line, problem.to_owned());
    };
    // where the quote or bracket was opened
    let opened = context.rsplit_once(" at line ").and_then(|(_, place)| {
        let (line, _column) = place.split_once(' ')?;
        line.parse().ok()
    });
    let opens = mistake.starts_with("parsing a flow") || mistake.starts_with("scanning a quoted");
    let line = opened.filter(|_| opens).or(line);
    // of which key, where the parser knows it
    let key = problem
        .split_once(": invalid type")
        .map_or("", |(key, _)| key);
    if key.is_empty() {
        (line, (*remedy).to_owned())
    } else {
        (line, format!("{key}: {remedy}"))
    }
}

/// What to say of a value or name in which a letter only looks like a blank or a quote.
pub(super) fn lookalike(text: &str) -> Option<String> {
    if let Some((_, letter)) = invisible(text) {
        return Some(format!(
            "{letter} stands in it: write a blank, or nothing, instead"
        ));
    }
    let is_quoted = text.starts_with(CURLY) || text.ends_with(CURLY);
    is_quoted
        .then(|| "curly quotes are part of the text, not quotes: write \" or ' instead".to_owned())
}

/// The column of the first letter that is not seen, from 1, and what it is.
fn invisible(text: &str) -> Option<(usize, String)> {
    (1..).zip(text.chars()).find_map(|(column, letter)| {
        let (_, name) = INVISIBLE.iter().find(|(known, _)| *known == letter)?;
        Some((column, format!("{name} (U+{:04X})", u32::from(letter))))
    })
}

fn invisible_in_line(line: usize, text: &str) -> Option<(usize, String)> {
    let (column, letter) = invisible(text.split(" #").next().unwrap_or(text))?;
    let said = format!("{letter} stands in column {column}: write a blank, or nothing, instead");
    Some((line, said))
}

/// Counts from the marks between documents, which mean that everywhere but in a comment.
fn second_document(text: &str) -> (Option<usize>, String) {
    let lines: Vec<&str> = text.lines().collect();
    let is_mark = |line: &str, mark: &str| {
        let behind = line.strip_prefix(mark);
        behind.is_some_and(|behind| behind.is_empty() || behind.starts_with([' ', '\t']))
    };
    let content = |line: &&str| !is_empty(line) && !line.starts_with('%');
    let mut has_begun = false;
    let mut first = None;
    for (number, here) in (1..).zip(&lines) {
        if !content(here) {
            continue;
        }
        let is_end = is_mark(here, "...");
        let is_begin = is_mark(here, "---");
        if (has_begun || first.is_some()) && (is_end || is_begin) {
            let mark = if is_end { "..." } else { "---" };
            let said = format!(
                "`{mark}` ends the configuration, and more stands below it: a file holds one, so remove \
                 this line, or the part that is not meant"
            );
            return (Some(number), said);
        }
        has_begun |= is_begin;
        if is_begin {
            continue;
        }
        let (first_line, first_depth) = *first.get_or_insert((number, depth(here)));
        if depth(here) < first_depth {
            let said = format!(
                "{} is indented {}, {} on line {number} {}: begin all keys of the file in its first column",
                named(lines.get(first_line - 1).unwrap_or(&"")),
                by(first_depth),
                named(here),
                by(depth(here)),
            );
            return (Some(first_line), said);
        }
    }
    let said =
        "what stands in it is more than one document: write `key: value` lines, and nothing else";
    (None, said.to_owned())
}

/// A character that no text has, with its line.
fn control_character(text: &str) -> Option<(Option<usize>, String)> {
    let is_control =
        |letter: char| letter.is_control() && !matches!(letter, '\t' | '\n' | '\r' | '\u{85}');
    let (before, _) = text.split_once(is_control)?;
    let letter = text.chars().nth(before.chars().count())?;
    let line = before.matches('\n').count() + 1;
    let said = if letter == '\0' {
        "NUL characters stand in it, as in UTF-16: save it as UTF-8".to_owned()
    } else {
        let code = u32::from(letter);
        format!("a control character (U+{code:04X}) stands in it: remove it")
    };
    Some((Some(line), said))
}

fn tab(here: &str) -> Option<String> {
    let content = here.trim_start_matches([' ', '\t', '-', '\u{feff}']);
    let (indentation, _) = here.split_at_checked(here.len() - content.len())?;
    indentation
        .contains('\t')
        .then(|| match known_key(content) {
            Some(key) => format!("a tab stands before `{key}`: indent with blanks"),
            None => "a tab stands in the indentation: indent with blanks".to_owned(),
        })
}

/// What version control leaves behind where two changes met.
fn conflict(lines: &[&str], line: usize) -> Option<(usize, String)> {
    let numbered = (1..).zip(lines).take(line);
    let mut marks = numbered.filter(|(_, text)| text.starts_with("<<<<<<< "));
    let (line, _) = marks.next()?;
    Some((
        line,
        "a conflict between two versions of this file begins here: keep one of them".to_owned(),
    ))
}

/// A line that was meant to be `key: value`.
fn no_key(line: usize, text: &str) -> Option<(usize, String)> {
    let text = text.trim_start_matches([' ', '-']);
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')?;
    let (key, behind) = text.split_at_checked(end)?;
    let is_known = KEYS.iter().any(|row| row.split().1 == key);
    let behind = behind.trim_start();
    let is_separated = behind.starts_with(": ") || behind == ":";
    // the rest is not repeated: it may be a secret
    (is_known && behind.starts_with([':', '=']) && !is_separated).then(|| {
        (
            line,
            format!("a colon and a blank stand between a key and its value: write `{key}: ..`"),
        )
    })
}

/// A key or element that stands in no column of the blocks around it.
fn indentation(lines: &[&str], line: usize) -> Option<String> {
    let here = lines.get(line - 1)?;
    let (column, _) = places(here).next()?;
    let is_element = is_element(here);
    let mut open: Vec<(usize, bool, usize)> = Vec::new();
    for (number, above) in (1..line).zip(lines) {
        for (column, is_element) in places(above) {
            open.retain(|(other, was_element, _)| {
                *other < column || (*other == column && *was_element && !is_element)
            });
            open.push((column, is_element, number));
        }
    }
    if open
        .iter()
        .any(|(other, kind, _)| (*other, *kind) == (column, is_element))
    {
        return None;
    }
    // of two that are equally near the deeper one
    let alike = open.iter().filter(|(_, kind, _)| *kind == is_element);
    let (wanted, _, number) =
        alike.min_by_key(|(other, ..)| (other.abs_diff(column), usize::MAX - other))?;
    let above = *lines.get(number - 1)?;
    let rule = if is_element {
        "the elements of one list begin in the same column"
    } else {
        "keys of one block begin in the same column"
    };
    let (here, above) = if is_element {
        ("this `-`".to_owned(), "the one".to_owned())
    } else {
        (named(here), named(above))
    };
    let (by_here, by_above) = (by(column), by(*wanted));
    Some(format!(
        "{here} is indented {by_here}, {above} on line {number} {by_above}: {rule}"
    ))
}

/// The columns, from 0, in which an element and a key of this line begin.
fn places(line: &str) -> impl Iterator<Item = (usize, bool)> {
    let content = line.trim_start_matches(' ');
    let key = content.trim_start_matches(['-', ' ']);
    let is_key = !is_empty(line) && (key.contains(": ") || key.trim_end().ends_with(':'));
    let element = is_element(line).then_some((line.len() - content.len(), true));
    element
        .into_iter()
        .chain(is_key.then_some((line.len() - key.len(), false)))
}

fn is_element(line: &str) -> bool {
    let content = line.trim_start_matches(' ');
    content.starts_with("- ") || content.trim_end() == "-"
}

/// Whether nothing stands on the line but maybe a comment.
fn is_empty(line: &str) -> bool {
    let content = line.trim_start();
    content.is_empty() || content.starts_with('#')
}

/// How many blanks the line begins with.
fn depth(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// The line before this one that says something.
fn previous<'t>(lines: &[&'t str], line: usize) -> Option<(usize, &'t str)> {
    let mut above = (1..line).zip(lines).filter(|(_, text)| !is_empty(text));
    above.next_back().map(|(number, text)| (number, *text))
}

/// The key of a line, for a message: only one that is known, as a line may be a piece of a secret.
fn named(line: &str) -> String {
    known_key(line).map_or_else(|| "what stands".to_owned(), |key| format!("`{key}`"))
}

fn known_key(line: &str) -> Option<&'static str> {
    let content = line.trim_start_matches([' ', '\t', '-']);
    let key = content.split(':').next().unwrap_or(content);
    let mut names = KEYS.iter().map(|row| row.split().1);
    names.find(|name| *name == key)
}

fn by(depth: usize) -> String {
    match depth {
        0 => "not at all".to_owned(),
        1 => "by 1 blank".to_owned(),
        _ => format!("by {depth} blanks"),
    }
}
