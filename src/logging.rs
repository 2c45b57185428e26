//! The log of the process: what happened to it, not what passes through it.
//!
//! One line for each record, in one write, so that the lines of two processes
//! on one terminal or pipe do not mix. Names from clients and upstreams end up
//! in messages; a line feed or an escape sequence in one of them must not forge
//! a line or reach the terminal, so control characters are written as escapes.
//! Every thread writes here, so a pipe without a reader must not hold them up:
//! what it does not take is lost, and told once it takes something again.
//! No colors: the log is read by journals and files more than by people.
//!
//! One line for each request is another matter, and not here.

use std::fmt::{self, Write as _};
use std::io::{self, LineWriter, Write};
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};
use simplelog::{ConfigBuilder, LevelPadding, WriteLogger};

use crate::net::sink::{LineBuffer, Sink};

/// A longer message is cut, in bytes.
const MESSAGE_MAX: usize = 8 * 1024;

/// The longest line: a message of which every byte is cut or fits, the time,
/// the level and the target.
const LINE_MAX: usize = MESSAGE_MAX + 512;

/// How long a line waits for room; the next ones do not wait until there was
/// some again.
const PATIENCE: Duration = Duration::from_millis(500);

/// Libraries that tell about each of their steps: only their warnings count.
const TALKATIVE: &[&str] = &["ureq", "ureq_proto"];

/// Which records are written, and why those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it was asked for, or the default.
    Chosen(LevelFilter),
    /// The default, because `RUST_LOG` does not say a level.
    Misspelled(LevelFilter),
}

/// What is logged unless more or less is asked for.
pub const LEVEL_DEFAULT: LevelFilter = LevelFilter::Info;

impl Level {
    /// `asked` (by `--log-level`) goes before `rust_log` (the value of
    /// `RUST_LOG`), that before the default. An empty `RUST_LOG` counts as
    /// absent.
    pub fn choose(asked: Option<LevelFilter>, rust_log: Option<&str>) -> Self {
        match (asked, rust_log.map(str::trim)) {
            (Some(level), _) => Self::Chosen(level),
            (None, None | Some("")) => Self::Chosen(LEVEL_DEFAULT),
            (None, Some(word)) => word
                .parse()
                .map_or(Self::Misspelled(LEVEL_DEFAULT), Self::Chosen),
        }
    }
}

/// Sends the log of this process to standard error from now on.
///
/// # Errors
///
/// The process has a log already.
pub fn start(level: Level) -> Result<(), SetLoggerError> {
    let (Level::Chosen(filter) | Level::Misspelled(filter)) = level;
    let logger: Box<dyn Log> = match Sink::standard_error() {
        Ok(sink) => Box::new(ProcessLog::to(Impatient::new(sink))),
        Err(_no_descriptor) => Box::new(ProcessLog::to(io::stderr())),
    };
    log::set_boxed_logger(logger)?;
    log::set_max_level(filter);
    if let Level::Misspelled(used) = level {
        log::warn!(
            "RUST_LOG is no level: write error, warn, info, debug or trace; {used} is used instead"
        );
    }
    Ok(())
}

/// Gives lines up rather than waiting for a reader that does not read.
#[derive(Debug)]
struct Impatient {
    sink: Sink,
    lines: LineBuffer,
    /// Lines given up since the last one that was not.
    lost: u64,
}

impl Impatient {
    fn new(sink: Sink) -> Self {
        Self {
            sink,
            lines: LineBuffer::default(),
            lost: 0,
        }
    }

    /// Writes all of `line`. `false`: not all, and the rest is given up.
    fn put(&mut self, line: &str) -> bool {
        let patience = if self.lost == 0 {
            PATIENCE
        } else {
            Duration::ZERO
        };
        self.lines.lines().push_str(line);
        while !self.lines.is_empty() {
            // An interruption of the wait is no room, which the write finds out.
            let waited = self.sink.wait(patience).map(|_room| ());
            let written = waited.and_then(|()| self.lines.write_to(&mut self.sink));
            if !written.unwrap_or(false) {
                self.lines.abandon();
                return false;
            }
        }
        true
    }
}

impl Write for Impatient {
    /// Takes everything: what it cannot write is lost, and no failure of the thread that logs.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.lost > 0 && self.put(&format!("{} lines of this log are lost\n", self.lost)) {
            self.lost = 0;
        }
        if self.lost > 0 || !self.put(&String::from_utf8_lossy(bytes)) {
            self.lost += 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log: escapes, filters and lets [`WriteLogger`] write.
struct ProcessLog<W: Write + Send + 'static> {
    lines: Box<WriteLogger<LineWriter<W>>>,
}

impl<W: Write + Send + 'static> ProcessLog<W> {
    fn to(sink: W) -> Self {
        let mut config = ConfigBuilder::new();
        config.set_time_format_rfc3339();
        config.set_level_padding(LevelPadding::Right);
        config.set_target_level(LevelFilter::Error);
        config.set_thread_level(LevelFilter::Off);
        config.set_location_level(LevelFilter::Off);
        let sink = LineWriter::with_capacity(LINE_MAX, sink);
        // the level is steered by `log::set_max_level`, which can change
        Self {
            lines: WriteLogger::new(LevelFilter::Trace, config.build(), sink),
        }
    }
}

impl<W: Write + Send + 'static> Log for ProcessLog<W> {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        let library = about.target().split("::").next().unwrap_or_default();
        about.level() <= LevelFilter::Warn || !TALKATIVE.contains(&library)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut message = Escaped::default();
        if write!(message, "{}", record.args()).is_err() {
            message.text.push_str(" .. (cut)");
        }
        self.lines.log(
            &Record::builder()
                .metadata(record.metadata().clone())
                .args(format_args!("{}", message.text))
                .build(),
        );
    }

    fn flush(&self) {
        self.lines.flush();
    }
}

/// Collects a message with its control characters escaped; an error once it is
/// too long.
#[derive(Default)]
struct Escaped {
    text: String,
}

impl fmt::Write for Escaped {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for letter in part.chars() {
            if MESSAGE_MAX <= self.text.len() {
                return Err(fmt::Error);
            }
            if is_harmful(letter) {
                self.text.extend(letter.escape_default());
            } else {
                self.text.push(letter);
            }
        }
        Ok(())
    }
}

/// Controls, the line ends of Unicode, and marks that turn the direction of
/// writing round: what they hide looks like something else.
fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::time::Instant;

    use parking_lot::Mutex;

    use super::*;

    /// Keeps what each write was given.
    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<String>>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written for one message, each write by itself.
    fn written(target: &str, level: log::Level, message: &str) -> Vec<String> {
        let writes = Writes::default();
        ProcessLog::to(writes.clone()).log(
            &Record::builder()
                .target(target)
                .level(level)
                .args(format_args!("{message}"))
                .build(),
        );
        let writes = writes.0.lock();
        writes.clone()
    }

    #[test]
    fn a_record_is_one_line_in_one_write() {
        let writes = written("http_proxy_lb::reload", log::Level::Warn, "it is so");
        assert_eq!(writes.len(), 1, "{writes:?}");
        let (time, rest) = writes[0].split_once(' ').unwrap();
        assert_eq!(rest, "[WARN ] http_proxy_lb::reload: it is so\n");
        assert!(
            time.starts_with("20") && time.contains('T') && time.ends_with('Z'),
            "{time}"
        );
    }

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let writes = written(
            "x",
            log::Level::Info,
            "a\r\n2026 [ERROR] b\x1b[31m\u{202e}\u{85}",
        );
        assert!(
            writes[0].ends_with(" x: a\\r\\n2026 [ERROR] b\\u{1b}[31m\\u{202e}\\u{85}\n"),
            "{writes:?}"
        );
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up() {
        let (mut reader, writer) = io::pipe().unwrap();
        let file = File::from(OwnedFd::from(writer));
        let mut log = Impatient::new(Sink::of(file).unwrap());
        let line = [&[b'x'; 5000][..], b"\n"].concat();
        let begun = Instant::now();
        for _ in 0..1000 {
            log.write_all(&line).unwrap();
        }
        assert!(begun.elapsed() < PATIENCE * 20, "{:?}", begun.elapsed());
        let lost = log.lost;
        assert!(lost > 0);
        // All of that is read at once, and makes room.
        let mut there = vec![0; 1 << 20];
        let count = reader.read(&mut there).unwrap();
        log.write_all(b"again\n").unwrap();
        drop(log);
        there.truncate(count);
        reader.read_to_end(&mut there).unwrap();
        let text = String::from_utf8(there).unwrap();
        let end = format!("x\n{lost} lines of this log are lost\nagain\n");
        assert!(text.ends_with(&end));
    }

    #[test]
    fn letters_beyond_ascii_stay_readable() {
        assert!(written("x", log::Level::Info, "Grüße")[0].ends_with("Grüße\n"));
    }

    #[test]
    fn a_long_message_is_cut_and_still_one_write() {
        let writes = written("x", log::Level::Info, &"\n".repeat(100_000));
        assert_eq!(writes.len(), 1);
        assert!(writes[0].ends_with(" .. (cut)\n"));
        assert!(writes[0].len() <= LINE_MAX);
    }

    #[test]
    fn only_warnings_of_talkative_libraries_are_written() {
        assert!(written("ureq::run", log::Level::Debug, "step").is_empty());
        assert!(written("ureq_proto::client", log::Level::Info, "step").is_empty());
        assert_eq!(written("ureq::run", log::Level::Warn, "odd").len(), 1);
        assert_eq!(written("ureqs", log::Level::Debug, "step").len(), 1);
    }

    #[test]
    fn the_argument_goes_before_the_environment() {
        let check = |asked, rust_log, level| assert_eq!(Level::choose(asked, rust_log), level);
        check(None, None, Level::Chosen(LevelFilter::Info));
        check(None, Some(""), Level::Chosen(LevelFilter::Info));
        check(None, Some("debug"), Level::Chosen(LevelFilter::Debug));
        check(None, Some(" TRACE "), Level::Chosen(LevelFilter::Trace));
        check(None, Some("loud"), Level::Misspelled(LevelFilter::Info));
        check(
            Some(LevelFilter::Warn),
            Some("debug"),
            Level::Chosen(LevelFilter::Warn),
        );
    }
}
