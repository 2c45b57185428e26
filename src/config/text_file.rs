//! A file of text, read whole unless it is too large. What it is for is not known here.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;

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

/// The content of `file`, of `most` bytes, with its permission bits: those of the file that was
/// opened, not of whatever has its name by then.
pub(super) fn read(file: File, most: u64) -> Result<(String, u32), Unread> {
    let about = file.metadata().map_err(Unread::Failed)?;
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
        Ok(text) => Ok((text, about.permissions().mode())),
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
