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
//! A line is what its reader needs: time, level and message; to a journal, which knows the time, the
//! priority and the message; for programs a JSON object. The module is told where it helps: from debug on.
//! `simplelog` writes the time and the lines. It puts a level in brackets and knows neither priorities nor
//! JSON, so the rest of a line is put together here.
//!
//! One line for each request is another matter, and not here.

mod filter;

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, LineWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};
use parking_lot::Mutex;
use simplelog::{Config, ConfigBuilder, WriteLogger};

use crate::access_log::write_time;
use crate::config::checked::LogFormat;
use crate::json::{JsonText, members};
use crate::net::sink::{LineBuffer, Sink};

pub use filter::Filter;

/// A longer message is cut, in bytes.
const MESSAGE_MAX: usize = 8 * 1024;

/// The longest line: a message of which every byte is escaped in JSON, the time, the level and the module.
const LINE_MAX: usize = 6 * MESSAGE_MAX + 1024;

/// How long a line waits for room; the next ones do not wait until there was
/// some again.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where a service manager says which file leads to its journal (`systemd.exec(5)`).
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// Whether lines are JSON. The process has one log, and so one format.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Sends the log of this process to standard error from now on.
///
/// # Errors
///
/// The process has a log already.
pub fn start(filter: Filter) -> Result<(), SetLoggerError> {
    let most = filter.most();
    let misspelled = filter.misspelled.clone();
    let reader = Reader::of_standard_error();
    let sink: Box<dyn Write + Send> = match Sink::standard_error() {
        Ok(sink) => Box::new(Impatient::new(sink, reader)),
        Err(_no_descriptor) => Box::new(io::stderr()),
    };
    log::set_boxed_logger(Box::new(ProcessLog {
        filter,
        lines: LineWriters::to(sink),
        reader,
    }))?;
    log::set_max_level(most);
    for part in misspelled {
        log::warn!(
            "RUST_LOG: `{part}` is ignored: write off, error, warn, info, debug, trace, or module=level"
        );
    }
    Ok(())
}

/// What lines look like from now on.
pub fn set_format(format: LogFormat) {
    IS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

fn format() -> LogFormat {
    if IS_JSON.load(Ordering::Relaxed) {
        LogFormat::Json
    } else {
        LogFormat::Text
    }
}

/// A line about what a command found, for standard error.
pub fn finding(level: Level, text: &str) -> String {
    let word = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info | Level::Debug | Level::Trace => "note",
    };
    match Reader::of_standard_error() {
        Reader::Journal => format!("<{}>{text}\n", priority(level)),
        Reader::Person => format!("{word}: {text}\n"),
    }
}

/// Who reads what is written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A person, maybe later and from a file.
    Person,
    /// The journal of systemd.
    Journal,
}

impl Reader {
    fn of_standard_error() -> Self {
        match std::env::var(JOURNAL_STREAM) {
            Ok(file) if is_file(&file, io::stderr()) => Self::Journal,
            Ok(_) | Err(_) => Self::Person,
        }
    }
}

/// Whether `open` is the file that `named` names, as device:inode. A child that has its output elsewhere
/// inherits the name, too.
fn is_file(named: &str, open: impl AsFd) -> bool {
    let about = open
        .as_fd()
        .try_clone_to_owned()
        .and_then(|copy| File::from(copy).metadata());
    about.is_ok_and(|about| named == format!("{}:{}", about.dev(), about.ino()))
}

/// The number that a journal knows a level by (`sd-daemon(3)`).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Gives lines up rather than waiting for a reader that does not read.
#[derive(Debug)]
struct Impatient {
    sink: Sink,
    reader: Reader,
    lines: LineBuffer,
    /// Lines given up since the last one that was not.
    lost: u64,
}

impl Impatient {
    fn new(sink: Sink, reader: Reader) -> Self {
        Self {
            sink,
            reader,
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
        self.lines.lines().extend_from_slice(line.as_bytes());
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
        if self.lost > 0 {
            let told = format_args!("{} lines of this log are lost", self.lost);
            let line = put_together(
                (self.reader, format()),
                (Level::Warn, module_path!()),
                &told,
            );
            if self.put(&(line + "\n")) {
                self.lost = 0;
            }
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

/// A sink for more than one writer of whole lines.
#[derive(Clone)]
struct Shared(Arc<Mutex<Box<dyn Write + Send>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
    }
}

/// What writes lines that are put together but for the time of day.
struct LineWriters {
    /// Begins each with the time of day, in UTC.
    timed: Box<WriteLogger<LineWriter<Shared>>>,
    bare: Box<WriteLogger<LineWriter<Shared>>>,
}

impl LineWriters {
    fn to(sink: Box<dyn Write + Send>) -> Self {
        let sink = Shared(Arc::new(Mutex::new(sink)));
        let writer = |config: Config| {
            let sink = LineWriter::with_capacity(LINE_MAX, sink.clone());
            // What is written is decided by the filter.
            WriteLogger::new(LevelFilter::Trace, config, sink)
        };
        let mut config = ConfigBuilder::new();
        config.set_max_level(LevelFilter::Off);
        config.set_target_level(LevelFilter::Off);
        config.set_thread_level(LevelFilter::Off);
        config.set_location_level(LevelFilter::Off);
        let bare = writer(config.set_time_level(LevelFilter::Off).build());
        let timed = writer(config.set_time_level(LevelFilter::Error).build());
        Self { timed, bare }
    }
}

/// The log: filters, puts lines together, and has them written.
struct ProcessLog {
    filter: Filter,
    lines: LineWriters,
    reader: Reader,
}

impl Log for ProcessLog {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        self.filter.lets_pass(about)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = record.level();
        let (reader, format) = (self.reader, format());
        let writer = match (reader, format) {
            (Reader::Person, LogFormat::Text) => &self.lines.timed,
            (Reader::Person, LogFormat::Json) | (Reader::Journal, _) => &self.lines.bare,
        };
        let line = put_together((reader, format), (level, record.target()), record.args());
        let args = format_args!("{line}");
        writer.log(&Record::builder().level(level).args(args).build());
    }

    fn flush(&self) {
        self.lines.bare.flush();
        self.lines.timed.flush();
    }
}

/// A line as its reader wants it, but for the time of day.
fn put_together(
    (reader, format): (Reader, LogFormat),
    (level, module): (Level, &str),
    words: &fmt::Arguments<'_>,
) -> String {
    let begin = match (reader, format) {
        (Reader::Journal, _) => format!("<{}>", priority(level)),
        (Reader::Person, LogFormat::Json) => String::new(),
        (Reader::Person, LogFormat::Text) => format!("{level} "),
    };
    let message = message(words, format);
    begin
        + &match format {
            LogFormat::Json => json(level, module, message),
            LogFormat::Text if level > Level::Info => format!("{module}: {message}"),
            LogFormat::Text => message,
        }
}

/// A record as a JSON object.
fn json(level: Level, module: &str, message: String) -> String {
    let mut time = String::new();
    let written = write_time(SystemTime::now(), &mut time);
    debug_assert!(written.is_ok());
    let object = members! {
        "time": time,
        "level": level.as_str().to_ascii_lowercase(),
        "module": module,
        "message": message,
    };
    JsonText::from(object).0
}

/// The words of a record as the format has them, which may escape what they hold later; they are cut where
/// there are too many.
fn message(words: &fmt::Arguments<'_>, format: LogFormat) -> String {
    let mut message = Message {
        text: String::new(),
        format,
    };
    if write!(message, "{words}").is_err() {
        message.text.push_str(" .. (cut)");
    }
    message.text
}

/// Collects a message; an error once it is too long.
struct Message {
    text: String,
    format: LogFormat,
}

impl fmt::Write for Message {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for letter in part.chars() {
            if MESSAGE_MAX <= self.text.len() {
                return Err(fmt::Error);
            }
            if self.format == LogFormat::Text && is_harmful(letter) {
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
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

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

    /// A log that keeps its lines, and what it keeps.
    fn log_to_memory(reader: Reader) -> (ProcessLog, Writes) {
        let writes = Writes::default();
        let log = ProcessLog {
            filter: Filter::choose(Some(LevelFilter::Trace), None),
            lines: LineWriters::to(Box::new(writes.clone())),
            reader,
        };
        (log, writes)
    }

    /// What is written for one message, each write by itself.
    fn written(reader: Reader, level: Level, message: &str) -> Vec<String> {
        let (log, writes) = log_to_memory(reader);
        log.log(
            &Record::builder()
                .target("http_proxy_lb::reload")
                .level(level)
                .args(format_args!("{message}"))
                .build(),
        );
        let writes = writes.0.lock();
        writes.clone()
    }

    /// The one line that is written for a message, without the time.
    #[track_caller]
    fn check(level: Level, message: &str, wanted: &str) {
        let writes = written(Reader::Person, level, message);
        assert_eq!(writes.len(), 1, "{writes:?}");
        let (time, rest) = writes[0].split_once(' ').unwrap();
        assert_eq!(rest, wanted);
        let digits = time.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(digits, "00:00:00");
    }

    #[test]
    fn a_record_is_one_line_in_one_write_with_time_level_and_message() {
        check(Level::Error, "it is so", "ERROR it is so\n");
        check(Level::Warn, "it is so", "WARN it is so\n");
        check(Level::Info, "it is so", "INFO it is so\n");
    }

    #[test]
    fn from_debug_on_the_module_is_told() {
        let (debug, trace) = (
            "DEBUG http_proxy_lb::reload: x\n",
            "TRACE http_proxy_lb::reload: x\n",
        );
        check(Level::Debug, "x", debug);
        check(Level::Trace, "x", trace);
        let writes = written(Reader::Journal, Level::Debug, "x");
        assert_eq!(writes, ["<7>http_proxy_lb::reload: x\n"]);
    }

    #[test]
    fn a_journal_gets_the_priority_and_no_second_time() {
        for (level, wanted) in [
            (Level::Error, "<3>it is so\n"),
            (Level::Warn, "<4>it is so\n"),
            (Level::Info, "<6>it is so\n"),
        ] {
            assert_eq!(written(Reader::Journal, level, "it is so"), [wanted]);
        }
    }

    #[test]
    fn a_line_of_json_is_an_object_whatever_is_in_the_message() {
        let text = json(
            Level::Warn,
            "http_proxy_lb::reload",
            "a\r\n\"b\"\u{202e}".to_owned(),
        );
        let (_, rest) = text.split_once(r#"Z","#).unwrap();
        assert!(text.starts_with(r#"{"time":"20"#), "{text}");
        let wanted = r#""level":"warn","module":"http_proxy_lb::reload","message":"a\u000d\u000a\"b\"\u202e"}"#;
        assert_eq!(rest, wanted);
        let longest = message(&format_args!("{}", "\n".repeat(100_000)), LogFormat::Json);
        assert!(longest.ends_with("\n .. (cut)"));
        assert!(json(Level::Error, "http_proxy_lb", longest).len() < LINE_MAX);
    }

    #[test]
    fn standard_error_is_a_journal_only_if_it_is_the_file_that_is_named() {
        let (_reader, writer) = io::pipe().unwrap();
        let (_other_reader, other) = io::pipe().unwrap();
        let about = File::from(OwnedFd::from(writer.try_clone().unwrap()))
            .metadata()
            .unwrap();
        let named = format!("{}:{}", about.dev(), about.ino());
        assert!(is_file(&named, &writer));
        assert!(!is_file(&named, &other));
        for misspelled in ["", ":", "1", &format!("{named} ")] {
            assert!(!is_file(misspelled, &writer), "{misspelled}");
        }
    }

    #[test]
    fn control_characters_cannot_forge_a_line() {
        check(
            Level::Info,
            "a\r\n2026 ERROR b\x1b[31m\u{202e}\u{85}",
            "INFO a\\r\\n2026 ERROR b\\u{1b}[31m\\u{202e}\\u{85}\n",
        );
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up() {
        let (mut reader, writer) = io::pipe().unwrap();
        let file = File::from(OwnedFd::from(writer));
        let mut log = Impatient::new(Sink::of(file).unwrap(), Reader::Journal);
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
        let end = format!("x\n<4>{lost} lines of this log are lost\nagain\n");
        assert!(text.ends_with(&end));
    }

    #[test]
    fn letters_beyond_ascii_stay_readable() {
        check(Level::Info, "Grüße", "INFO Grüße\n");
    }

    #[test]
    fn a_long_message_is_cut_and_still_one_write() {
        let writes = written(Reader::Person, Level::Info, &"\n".repeat(100_000));
        assert_eq!(writes.len(), 1);
        assert!(writes[0].ends_with(" .. (cut)\n"));
        assert!(writes[0].len() <= LINE_MAX);
    }
}
