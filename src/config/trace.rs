//! What a configuration was read from, to know later whether anything is new without reading it again.
//!
//! Files are looked at again and again, and a list of a million names costs a second of CPU to parse. So of each file
//! that was read this keeps a digest of its content, and a stamp: what the system says of a file without opening it.
//!
//! The same content and permissions as before mean the same as before. The same stamp means the same content only
//! where no change can have left it as it was. The time of the last change (ctime) is part of it, which no program can
//! set; but the clock that it is taken from goes in steps, so that a second change may get the time of the first, and
//! may be that of another machine. So a stamp stands for a content that was read when the stamp was known for longer
//! than any such step: whatever changes after that reading gets another time. Until then the content is read again,
//! which costs milliseconds where parsing costs a second.
//!
//! What changes without a new ctime is seen when somebody asks for a reload, which reads everything: a change through a
//! mapping of memory that was made before, or on a file system that keeps no such time.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::text_file::{self, Stamp};

/// Longer than the steps of the clocks of file systems; those of FAT are the longest, of 2 s.
const CLOCK_STEP: Duration = Duration::from_secs(3);

/// All files that a configuration was read from.
#[derive(Debug, Default)]
pub struct Trace {
    files: Vec<Seen>,
    /// One of them could not be read: why is not asked again, so it may be another reason by now.
    has_unread: bool,
}

/// One file as it was read.
#[derive(Debug)]
struct Seen {
    path: PathBuf,
    /// It was read up to this size.
    most: u64,
    digest: u64,
    stamp: Stamp,
    /// When the stamp was known.
    since: Instant,
    /// Whether the stamp stands for the content.
    is_settled: bool,
}

impl Trace {
    /// A file was read just now, up to `most` bytes, and had this content when its stamp was taken or later.
    pub(super) fn read(&mut self, path: &Path, most: u64, (content, stamp): (&str, Stamp)) {
        self.files.push(Seen {
            path: path.to_owned(),
            most,
            digest: digest(content),
            stamp,
            since: Instant::now(),
            is_settled: false,
        });
    }

    /// A file could not be read.
    pub(super) fn failed(&mut self) {
        self.has_unread = true;
    }

    /// Whether all files are `now` as they were. Gives how many had to be read to know it; none: something is
    /// different, or may be.
    pub fn unchanged(&mut self, now: Instant) -> Option<usize> {
        if self.has_unread {
            return None;
        }
        let mut read = 0;
        for file in &mut self.files {
            read += usize::from(file.unchanged(now)? == Look::Read);
        }
        Some(read)
    }
}

/// How it was found out that a file is as it was.
#[derive(PartialEq, Eq)]
enum Look {
    Stamp,
    Read,
}

impl Seen {
    fn unchanged(&mut self, now: Instant) -> Option<Look> {
        let about = fs::metadata(&self.path).ok()?;
        let stamp = Stamp::of(&about);
        if self.is_settled && stamp == self.stamp {
            return Some(Look::Stamp);
        }
        // opening what became a FIFO would wait for a writer
        if !about.is_file() || !stamp.may_be_as(&self.stamp) {
            return None;
        }
        let file = File::open(&self.path).ok()?;
        let (content, stamp) = text_file::read(file, self.most).ok()?;
        if !stamp.may_be_as(&self.stamp) || digest(&content) != self.digest {
            return None;
        }
        if stamp == self.stamp {
            self.is_settled = self.since + CLOCK_STEP <= now;
        } else {
            (self.stamp, self.since, self.is_settled) = (stamp, Instant::now(), false);
        }
        Some(Look::Read)
    }
}

fn digest(content: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use super::*;
    use crate::config::tests::TestFolder;

    /// A trace of these files.
    fn trace(files: &[&Path]) -> Trace {
        let mut trace = Trace::default();
        for path in files {
            let (content, stamp) = text_file::read(File::open(path).unwrap(), 100).unwrap();
            trace.read(path, 100, (&content, stamp));
        }
        trace
    }

    fn settled(files: &[&Path]) -> (Trace, Instant) {
        let (mut trace, later) = (trace(files), Instant::now() + CLOCK_STEP);
        assert_eq!(trace.unchanged(later), Some(files.len()));
        (trace, later)
    }

    #[test]
    fn a_file_is_not_read_again_once_its_stamp_stands_for_it() {
        let folder = TestFolder::new();
        let a = folder.write("a", "a", 0o600);
        let b = folder.write("b", "b", 0o600);
        let (mut trace, now) = (trace(&[&a, &b]), Instant::now());
        assert_eq!(trace.unchanged(now), Some(2), "the clock goes in steps");
        assert_eq!(trace.unchanged(now), Some(2));
        assert_eq!(trace.unchanged(now + CLOCK_STEP), Some(2));
        assert_eq!(trace.unchanged(now + CLOCK_STEP), Some(0));
        // a new stamp for the same content
        let file = File::options().append(true).open(&b).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(trace.unchanged(now + CLOCK_STEP), Some(1));
        let later = Instant::now() + CLOCK_STEP;
        assert_eq!(trace.unchanged(later), Some(1));
        assert_eq!(trace.unchanged(later), Some(0));
    }

    #[test]
    fn another_content_is_seen_though_its_length_and_time_are_the_same() {
        let folder = TestFolder::new();
        let time = SystemTime::now();
        let write = |content: &str| {
            let path = folder.write("a", content, 0o600);
            let file = File::options().append(true).open(&path).unwrap();
            file.set_modified(time).unwrap();
            path
        };
        // as soon after the first as the clock allows, and long after
        for _ in 0..100 {
            let mut trace = trace(&[&write("a")]);
            write("b");
            assert_eq!(trace.unchanged(Instant::now() + CLOCK_STEP), None);
        }
        let (mut trace, now) = settled(&[&write("a")]);
        assert_eq!(trace.unchanged(now), Some(0));
        // ctime has to move, by a step of this machine
        let written = || {
            let about = folder.write("other", "", 0o600).metadata().unwrap();
            about.modified().unwrap()
        };
        let before = written();
        while written() == before {}
        write("b");
        assert_eq!(trace.unchanged(now), None);
    }

    #[test]
    fn a_file_that_is_replaced_by_its_copy_is_as_it_was() {
        let folder = TestFolder::new();
        let path = folder.write("a", "a", 0o600);
        let (mut trace, now) = settled(&[&path]);
        fs::rename(folder.write("b", "a", 0o600), &path).unwrap();
        assert_eq!(trace.unchanged(now), Some(1));
    }

    #[test]
    fn a_file_of_another_length_or_with_other_permissions_or_that_is_gone_is_not_as_it_was() {
        let folder = TestFolder::new();
        let path = folder.write("a", "a", 0o600);
        let (mut trace, now) = settled(&[&path]);
        fs::set_permissions(&path, Permissions::from_mode(0o602)).unwrap();
        assert_eq!(trace.unchanged(now), None);
        let (mut trace, now) = settled(&[&path]);
        folder.write("a", "aa", 0o602);
        assert_eq!(trace.unchanged(now), None);
        let (mut trace, now) = settled(&[&path]);
        fs::remove_file(&path).unwrap();
        assert_eq!(trace.unchanged(now), None);
        fs::create_dir(&path).unwrap();
        assert_eq!(trace.unchanged(now), None);
    }

    #[test]
    fn what_could_not_be_read_is_read_again() {
        let folder = TestFolder::new();
        let (mut trace, now) = settled(&[&folder.write("a", "a", 0o600)]);
        trace.failed();
        assert_eq!(trace.unchanged(now), None);
    }
}
