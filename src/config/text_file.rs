//! A file of text, read whole unless it is too large. What it is for is not known here.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

/// The largest file that is read unless it is a list, in bytes: the YAML parser takes memory and
/// time in proportion before any other limit holds.
pub(super) const FILE_MAX: u64 = 1024 * 1024;

/// The largest list, in bytes.
pub(super) const LIST_MAX: u64 = 64 * FILE_MAX;

/// Why there is no text.
#[derive(Debug)]
pub(super) enum Unread {
    /// The system said so.
    Failed(io::Error),
    /// It is larger than it may be.
    TooLarge,
    /// It begins as UTF-16 does.
    Utf16,
    /// It is no UTF-8 on this line, from 1.
    NoText { line: usize },
}

/// What the system says of a file, as far as it tells one content from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    /// The permission bits.
    pub(super) mode: u32,
    size: u64,
    /// Which file it is.
    inode: (u64, u64),
    /// When its content changed, in seconds and nanoseconds, as programs may set it.
    modified: (i64, i64),
    /// When anything of it changed.
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(about: &Metadata) -> Self {
        Self {
            mode: about.mode(),
            size: about.size(),
            inode: (about.dev(), about.ino()),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }

    /// Whether the content and the permissions may be those of `other`.
    pub(super) fn may_be_as(&self, other: &Self) -> bool {
        (self.mode, self.size) == (other.mode, other.size)
    }
}

/// The content of `file`, of `most` bytes, with the stamp that it had before: that of the file that was
/// opened, not of whatever has its name by then.
pub(super) fn read(file: File, most: u64) -> Result<(String, Stamp), Unread> {
    let stamp = Stamp::of(&file.metadata().map_err(Unread::Failed)?);
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(Unread::Failed)?;
    if most < bytes.len() as u64 {
        return Err(Unread::TooLarge);
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Unread::Utf16);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((text, stamp)),
        Err(error) => {
            let valid = error
                .as_bytes()
                .iter()
                .take(error.utf8_error().valid_up_to());
            let lines = valid.filter(|byte| **byte == b'\n').count();
            Err(Unread::NoText { line: lines + 1 })
        }
    }
}
