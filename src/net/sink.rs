//! Where lines go: a file, a FIFO or standard output, written to without being held up.
//!
//! Opening a FIFO for writing waits for a reader, and writing to a full pipe for room: for ever, if
//! nobody reads. Here both come back at once and say so. Of a file nothing is known but that it takes
//! bytes, so a disk that hangs still holds up its writer, who must be a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// What a pipe that has room for anything takes without waiting: `PIPE_BUF` of Linux, in bytes.
const ATOMIC: usize = 4096;

/// Something open for writing.
#[derive(Debug)]
pub struct Sink {
    file: File,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Keeps what was written.
    File,
    /// Passes it on to whoever reads.
    Stream,
}

impl Sink {
    /// Opens the file at `path` to append to; it is made if it is not there, for its owner to write and
    /// its group to read. `None`: it is a FIFO that nobody reads.
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

    /// Standard output.
    ///
    /// # Errors
    /// When it is closed, or there are no file descriptors left.
    pub fn standard_output() -> io::Result<Self> {
        Self::of(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    fn of(file: File) -> io::Result<Self> {
        let kind = if file.metadata()?.is_file() {
            Kind::File
        } else {
            Kind::Stream
        };
        Ok(Self { file, kind })
    }

    /// Whether what was written of an unfinished line stays there.
    pub fn keeps_parts(&self) -> bool {
        self.kind == Kind::File
    }

    /// Waits until something can be written, at most `limit`. `false`: nothing can.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        if self.kind == Kind::File {
            return Ok(true);
        }
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut asked = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut asked, Some(&limit)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes as much of `bytes` as is taken at once; 0 is nothing.
    ///
    /// # Errors
    /// What the system says: a full disk, a reader that left.
    pub fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.wait(Duration::ZERO)? {
            return Ok(0);
        }
        // Standard output may wait for room, and must not be told otherwise: others share it.
        let most = match self.kind {
            Kind::File => bytes.len(),
            Kind::Stream => bytes.len().min(ATOMIC),
        };
        let part = bytes.get(..most).unwrap_or(bytes);
        match self.file.write(part) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            written => written,
        }
    }
}

/// Whether a reader may come back: the one of a FIFO left.
pub fn is_reader_gone(error: &io::Error) -> bool {
    is(error, Errno::PIPE)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
