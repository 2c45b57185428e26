//! Where lines go: a file, a FIFO, standard output or error, written to without being held up.
//!
//! Opening a FIFO for writing waits for a reader, and writing to a full pipe for room: for ever, if no
//! reader comes. Here both come back at once and say so. Of a file nothing is known but that it takes
//! bytes, so a disk that hangs still holds up the thread that writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::{Access, OFlags, access};
use rustix::io::Errno;

use super::socket;

/// What a pipe that has room for anything takes without waiting: `PIPE_BUF` of Linux, in bytes.
const ATOMIC: usize = 4096;

/// Something open for writing.
#[derive(Debug)]
pub struct Sink {
    file: File,
    /// It keeps what was written; anything else passes it on to its reader.
    is_file: bool,
}

impl Sink {
    /// Opens the file at `path` to append to; it is made if it is not there, for its owner to write and
    /// its group to read. `None`: it is a FIFO without a reader.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn append_to(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        match opened {
            Ok(file) => Ok(Some(Self::of(file)?)),
            Err(error) if is(&error, Errno::NXIO) && path.metadata()?.file_type().is_fifo() => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether [`Sink::append_to`] can be expected to succeed; nothing is opened or made.
    ///
    /// # Errors
    /// When the file, or the folder that it would be made in, may not be written to, or is not there.
    pub fn check_append(path: &Path) -> io::Result<()> {
        match path.metadata() {
            Ok(about) if about.is_dir() => Err(Errno::ISDIR.into()),
            Ok(_) => Ok(access(path, Access::WRITE_OK)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
            }
            Err(error) => Err(error),
        }
    }

    /// Standard output.
    ///
    /// # Errors
    /// When it is closed, or there are no file descriptors left.
    pub fn standard_output() -> io::Result<Self> {
        Self::of(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    /// Standard error.
    ///
    /// # Errors
    /// As [`Sink::standard_output`].
    pub fn standard_error() -> io::Result<Self> {
        Self::of(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    /// Something that is open already.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(file: File) -> io::Result<Self> {
        let is_file = file.metadata()?.is_file();
        Ok(Self { file, is_file })
    }

    /// Whether it keeps what was written.
    pub fn is_file(&self) -> bool {
        self.is_file
    }

    /// Waits until something can be written, at most `limit`. `false`: nothing can.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        if self.is_file {
            return Ok(true);
        }
        Ok(!socket::poll_one(&self.file, PollFlags::OUT, limit)?.is_empty())
    }

    /// Writes as much of `bytes` as is taken at once; 0 is nothing.
    ///
    /// # Errors
    /// What the system says: a full disk, a reader that left.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.wait(Duration::ZERO)? {
            return Ok(0);
        }
        // Standard output may wait for room, and must not be told otherwise: others share it.
        let part = match bytes.get(..ATOMIC) {
            Some(part) if !self.is_file => part,
            _ => bytes,
        };
        match self.file.write(part) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            written => written,
        }
    }
}

/// Lines on their way to a sink: each gets there whole, or is counted as lost. What is there of one that
/// got there in part is ended with a line feed, so that a lost line does not spoil the next.
#[derive(Debug, Default)]
pub struct LineBuffer {
    lines: Vec<u8>,
    /// How many bytes of `lines` are written.
    written: usize,
    /// The last line that is there lacks its end, and the rest of it is lost.
    is_torn: bool,
}

impl LineBuffer {
    /// Where whole lines are appended to.
    pub fn lines(&mut self) -> &mut Vec<u8> {
        &mut self.lines
    }

    /// Takes `lines` when it is empty, and gives back the memory of what it had before.
    pub fn refill(&mut self, lines: Vec<u8>) -> Vec<u8> {
        debug_assert!(self.is_empty());
        std::mem::replace(&mut self.lines, lines)
    }

    /// Whether everything is written or lost.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Writes what `sink` takes at once. `false`: it takes nothing.
    ///
    /// # Errors
    /// As [`Sink::write_some`].
    pub fn write_to(&mut self, sink: &mut Sink) -> io::Result<bool> {
        if self.is_torn {
            self.is_torn = sink.write_some(b"\n")? == 0;
            return Ok(!self.is_torn);
        }
        let count = sink.write_some(self.lines.get(self.written..).unwrap_or_default())?;
        self.written += count;
        if self.written >= self.lines.len() {
            self.clear();
        }
        Ok(count > 0)
    }

    /// Drops the lines that are not whole yet; how many they are.
    pub fn abandon(&mut self) -> u64 {
        let (written, rest) = self.lines.split_at(self.written);
        let lost = count_lines(rest);
        if let Some(last) = written.last() {
            self.is_torn = *last != b'\n';
        }
        self.clear();
        lost
    }

    /// Begins the line anew that is there in part: its reader has left, and the next one gets all of it.
    pub fn rewind(&mut self) {
        let written = self.lines.get(..self.written).unwrap_or_default();
        let end = written.iter().rposition(|byte| *byte == b'\n');
        self.written = end.map_or(0, |end| end + 1);
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.written = 0;
    }
}

/// How many lines end in `text`.
pub fn count_lines(text: &[u8]) -> u64 {
    // The last element of the split is what follows the last line feed.
    text.split(|byte| *byte == b'\n').count() as u64 - 1
}

/// Whether a reader may come back: the one of a FIFO left.
pub fn is_reader_gone(error: &io::Error) -> bool {
    is(error, Errno::PIPE)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
