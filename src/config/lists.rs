//! Lists in files of their own: one entry a line, `#` begins a comment.
//!
//! Such a list is often made by others, and much longer than what a person writes. So a line that cannot be used is
//! named and skipped when the file is read, and an error in `--check`. One without a good line is no list: a download
//! that failed leaves such a file.

use std::net::IpAddr;

use crate::route::domains::Pattern;

use super::reader::{Located, quote};
use super::secret::Files;

/// Bad lines of a list that are named; more are counted.
const NAMED_MAX: usize = 5;

/// Hands each line that has an entry to `take`; notes those of which it says what is wrong. Gives how many it took, and
/// the permission bits of the file. `None`: it is no list, as was noted.
pub(super) fn read(
    files: &mut Files,
    path: &Located<'_, &str>,
    mut take: impl FnMut(usize, &str) -> Result<(), String>,
) -> Option<(usize, u32)> {
    let (content, mode) = files.list(path)?;
    let (mut good, mut bad) = (0, 0_usize);
    let content = content.strip_prefix('\u{feff}').unwrap_or(&content);
    let lines = (1_usize..).zip(content.lines().map(entry));
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let Err(said) = take(number, line) else {
            good += 1;
            continue;
        };
        bad += 1;
        if bad <= NAMED_MAX {
            let file = quote(path.value);
            let text = format!("line {number} of {file} is skipped: {said}");
            path.place.compatibility(text);
        }
    }
    if let Some(more @ 1..) = bad.checked_sub(NAMED_MAX) {
        let text = format!("{more} more lines of {} are skipped", quote(path.value));
        path.place.compatibility(text);
    }
    files.lists.insert(path.value.to_owned(), good);
    match (good, bad) {
        (0, 0) => path.place.advice(format!("{} is empty", quote(path.value))),
        (0, _) => {
            path.place.error(format!(
                "no line of {} can be used, so it is no list of this kind: put the right file there",
                quote(path.value)
            ));
            return None;
        }
        (_, _) => {}
    }
    Some((good, mode))
}

/// A line without blanks around it, and without a comment: a `#` where the line begins, or behind a blank.
fn entry(line: &str) -> &str {
    let mut hashes = line.match_indices('#').map(|(at, _)| at);
    let begins = |at: &usize| {
        line.get(..*at)
            .is_some_and(|before| before.trim_end().len() < *at || *at == 0)
    };
    let end = hashes.find(begins).unwrap_or(line.len());
    line.get(..end).unwrap_or(line).trim()
}

/// The patterns of a line: one as `domains` has it, or the names behind the address of a hosts file, each alone.
/// Names of a hosts file that have no dot are those of the machine itself, and left out.
pub(super) fn patterns(line: &str, found: &mut Vec<Pattern>) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or_default();
    let mut names = words.peekable();
    if names.peek().is_none() {
        found.push(Pattern::parse(first).map_err(|error| error.to_string())?);
        return Ok(());
    }
    let address = first.split('%').next().unwrap_or_default();
    if address.parse::<IpAddr>().is_err() {
        return Err(
            "write one name a line, or an address and names as a hosts file has them".to_owned(),
        );
    }
    for name in names.filter(|name| name.contains('.') && name.parse::<IpAddr>().is_err()) {
        found.push(Pattern::exact(name).map_err(|error| error.to_string())?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_begins_the_line_or_stands_behind_a_blank() {
        for (line, wanted) in [
            ("a.test", "a.test"),
            ("  a.test\t", "a.test"),
            ("# a.test", ""),
            ("a.test # b.test", "a.test"),
            ("a.test\t#", "a.test"),
            ("host:1:user:pa#ss", "host:1:user:pa#ss"),
            ("host:1:user:pa#ss # x", "host:1:user:pa#ss"),
            ("", ""),
        ] {
            assert_eq!(entry(line), wanted, "{line}");
        }
    }

    #[test]
    fn a_line_is_a_pattern_or_one_of_a_hosts_file() {
        let one = |pattern: &str| vec![Pattern::parse(pattern).unwrap()];
        for (line, wanted) in [
            ("a.test", one("a.test")),
            ("*.a.test", one("a.test")),
            ("domain:A.test", one("domain:a.test")),
            ("10.0.0.0/8", one("10.0.0.0/8")),
            ("0.0.0.0 A.test", one("domain:a.test")),
            ("127.0.0.1\tlocalhost a.test", one("domain:a.test")),
            ("fe80::1%lo0 localhost", Vec::new()),
            ("0.0.0.0 0.0.0.0", Vec::new()),
        ] {
            let mut found = Vec::new();
            assert_eq!(patterns(line, &mut found), Ok(()), "{line}");
            assert_eq!(found, wanted, "{line}");
        }
        for line in [
            "a.test b.test",
            "0.0.0.0 a..test",
            "||ads.test^",
            "http://a.test/",
        ] {
            assert!(patterns(line, &mut Vec::new()).is_err(), "{line}");
        }
    }
}
