//! Passwords and tokens: kept out of every message, and read from files that
//! other users cannot change.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use crate::protocol::credentials::is_same_in_constant_time;

use super::reader::{KeyBlock, Located, quote};
use super::text_file::{self, FILE_MAX, LIST_MAX, Stamp, Unread};
use super::trace::Trace;

/// The permission bit that lets everybody write.
const OTHERS_WRITE: u32 = 0o002;
/// The permission bit that lets everybody read.
const OTHERS_READ: u32 = 0o004;
/// The permission bit that lets the members of the file's group write.
const GROUP_WRITE: u32 = 0o020;

/// A text that no `Debug` shows. It has no `Display` and no `==`: comparing
/// with what a client sent must take the same time for every guess.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself. Not for messages.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `presented` is it. The time it takes tells the length alone.
    pub fn is(&self, presented: &[u8]) -> bool {
        is_same_in_constant_time(self.0.as_bytes(), presented)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(..)")
    }
}

/// The secret in the file at `path`: its content without the line end behind it, and what to say
/// about who else may read or change it.
///
/// # Errors
/// When it cannot be read, is no secret, too large or no text; in words.
pub fn in_file(path: &Path) -> Result<(Secret, Option<String>), String> {
    let (content, stamp) = read(path, FILE_MAX)?;
    let advice = judge_mode("it", stamp.mode)?;
    Ok((Secret::new(content.trim_end_matches(['\r', '\n'])), advice))
}

/// The files a configuration refers to, and a trace of what was read.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    seen: DefaultHasher,
    /// The files themselves.
    pub(super) trace: Trace,
    /// Whether the configuration file itself holds a secret.
    pub(super) has_inline_secret: bool,
    /// How many entries each list has.
    pub(super) lists: BTreeMap<String, usize>,
    /// Whether a list of upstreams has none, so groups may lack theirs.
    pub(super) without_upstreams: Option<NoUpstreams>,
    /// The largest list that is read, in bytes. `None`: none is read.
    list_max: Option<u64>,
}

/// Why a list of upstreams has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoUpstreams {
    /// The list of that name is empty.
    Empty(String),
    /// It was not to be read, or for a reason that was noted.
    Noted,
}

impl Files {
    /// `config` is the configuration file: other paths are meant from its
    /// folder on.
    pub(super) fn beside(config: &Path) -> Self {
        let folder = config.parent().map(Path::to_path_buf).unwrap_or_default();
        Self {
            folder,
            seen: DefaultHasher::new(),
            trace: Trace::default(),
            has_inline_secret: false,
            lists: BTreeMap::new(),
            without_upstreams: None,
            list_max: Some(LIST_MAX),
        }
    }

    /// The same, where nobody needs what lists hold.
    pub(super) fn without_lists(config: &Path) -> Self {
        Self {
            list_max: None,
            ..Self::beside(config)
        }
    }

    /// Where a path of the configuration leads.
    pub(super) fn resolve(&self, written: &str) -> PathBuf {
        self.folder.join(written)
    }

    /// Adds to what [`Self::fingerprint`] is made of.
    pub(super) fn saw(&mut self, content: &str) {
        content.hash(&mut self.seen);
    }

    /// A number that is another one when any content was.
    pub(super) fn fingerprint(&self) -> u64 {
        self.seen.finish()
    }

    /// The secret `key` of a block with its place: written there, or alone in the file that `key`_file
    /// names, without the line end behind it. No value: there is no secret in that file, as was noted.
    pub(super) fn secret<'v>(
        &mut self,
        block: &KeyBlock<'v>,
        key: &str,
    ) -> Option<Located<'v, Option<String>>> {
        let inline = block.text(key);
        let file = block.text(&format!("{key}_file"));
        if let (Some(_), Some(file)) = (&inline, &file) {
            file.place
                .error(format!("`{key}` is there, too: keep one of the two"));
        }
        if let Some(Located { place, value }) = inline {
            self.has_inline_secret |= place.is_in_file() && !place.has_variable();
            let value = Some(value.to_owned());
            return Some(Located { place, value });
        }
        let path = file?;
        let mut value = self.content(&path);
        if let Some(content) = &mut value {
            content.truncate(content.trim_end_matches(['\r', '\n']).len());
        }
        if value.as_ref().is_some_and(String::is_empty) {
            path.place.error(format!("{} is empty", quote(path.value)));
            value = None;
        }
        let place = path.place;
        Some(Located { place, value })
    }

    /// The content of a list, with its permission bits. `None` also where lists are not read.
    pub(super) fn list(&mut self, path: &Located<'_, &str>) -> Option<(String, u32)> {
        self.read(path, self.list_max?)
    }

    fn read(&mut self, path: &Located<'_, &str>, most: u64) -> Option<(String, u32)> {
        let file = self.resolve(path.value);
        match read(&file, most) {
            Ok((content, stamp)) => {
                self.saw(&content);
                self.trace.read(&file, most, (&content, stamp));
                Some((content, stamp.mode))
            }
            Err(said) => {
                self.trace.failed();
                path.place.error(format!("{}: {said}", quote(path.value)));
                None
            }
        }
    }

    /// Tells of the permission bits of a file with secrets in it. None: it may not be used.
    pub(super) fn judge(path: &Located<'_, &str>, mode: u32) -> Option<()> {
        let judged = judge_mode(&quote(path.value), mode);
        if let Some(advice) = judged.map_err(|said| path.place.error(said)).ok()? {
            path.place.advice(advice);
        }
        Some(())
    }

    /// The content of a secret file.
    pub(super) fn content(&mut self, path: &Located<'_, &str>) -> Option<String> {
        let (content, mode) = self.read(path, FILE_MAX)?;
        Self::judge(path, mode)?;
        Some(content)
    }
}

/// Reads a secret file, or a file of users, or a list, of `most` bytes, with its stamp.
fn read(path: &Path, most: u64) -> Result<(String, Stamp), String> {
    let failed = |error: io::Error| format!("cannot be read: {error}");
    if !path.metadata().map_err(failed)?.is_file() {
        // opening a FIFO would wait for a writer
        return Err("is not a file".to_owned());
    }
    let file = File::open(path).map_err(failed)?;
    text_file::read(file, most).map_err(|why| match why {
        Unread::Failed(error) => failed(error),
        Unread::TooLarge => format!("is larger than {} MiB", most >> 20),
        Unread::Utf16 | Unread::NoText { .. } => "is not UTF-8 text".to_owned(),
    })
}

/// What to say about a secret file of that name with these permission bits; an error: others can change
/// it, so it must not be used.
fn judge_mode(name: &str, mode: u32) -> Result<Option<String>, String> {
    if mode & OTHERS_WRITE != 0 {
        return Err(format!(
            "everybody may write to {name}, so it is no secret: chmod o-rwx it"
        ));
    }
    Ok(if mode & OTHERS_READ != 0 {
        Some(format!("everybody may read {name}: chmod o-rwx it"))
    } else if mode & GROUP_WRITE != 0 {
        Some(format!("its group may write to {name}: chmod g-w it"))
    } else {
        None
    })
}

/// What to say about a configuration file with secrets in it and these
/// permission bits.
pub(super) fn advice_for_config(mode: u32) -> Option<&'static str> {
    if mode & OTHERS_WRITE != 0 {
        Some("everybody may write to this file, which holds secrets: chmod o-rwx it")
    } else if mode & OTHERS_READ != 0 {
        Some("everybody may read this file, which holds secrets: chmod o-rwx it")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_mode(mode: u32, expected: Result<Option<&str>, &str>) {
        let judged = judge_mode("it", mode);
        let got = match &judged {
            Ok(advice) => Ok(advice.as_deref()),
            Err(said) => Err(said.as_str()),
        };
        assert_eq!(got, expected, "{mode:o}");
    }

    #[test]
    fn a_file_that_others_can_change_is_no_secret() {
        check_mode(0o100_600, Ok(None));
        check_mode(0o100_640, Ok(None));
        check_mode(0o100_644, Ok(Some("everybody may read it: chmod o-rwx it")));
        check_mode(
            0o100_660,
            Ok(Some("its group may write to it: chmod g-w it")),
        );
        let refused = Err("everybody may write to it, so it is no secret: chmod o-rwx it");
        check_mode(0o100_602, refused);
        check_mode(0o100_666, refused);
    }

    #[test]
    fn debug_does_not_show_a_secret() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(..)");
    }
}
