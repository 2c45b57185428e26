//! One line per exchange and tunnel, written by a thread of its own.
//!
//! A disk that is full or a pipe nobody reads must not stop the relay: a worker puts the entry into a
//! bounded queue and goes on; what does not fit is counted and lost. Everything a client can choose is
//! escaped, so that one exchange is one line whatever bytes it carried.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use time::OffsetDateTime;

use crate::config::checked::{AccessLog as Settings, AccessLogFormat};
use crate::metrics::Metrics;
use crate::net::threads;

/// Entries that may wait for the writer.
const MOST_WAITING: usize = 16 * 1024;
/// How often a sink that fails is complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What is told of one exchange or tunnel.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it ended.
    pub time: SystemTime,
    /// Its number in this process.
    pub id: u64,
    /// The client.
    pub client: SocketAddr,
    /// The method; empty when no head could be read.
    pub method: String,
    /// The target without userinfo; empty when no head could be read.
    pub target: String,
    /// The status sent to the client, if any was.
    pub status: Option<u16>,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// From the first byte of the request to the last of the response.
    pub elapsed: Duration,
    /// From the first byte of the request to the first of the final response.
    pub first_byte: Option<Duration>,
    /// The upstream's name, `direct`, or `-`.
    pub route: String,
    /// Next hops tried.
    pub attempts: u32,
    /// What went wrong, if anything.
    pub cause: Option<&'static str>,
    /// The `Referer` and `User-Agent` fields, for the combined format.
    pub agent: Option<Agent>,
}

/// What only the combined format shows.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// The `Referer` field.
    pub referer: String,
    /// The `User-Agent` field.
    pub user_agent: String,
}

/// What is called for each entry where no lines are written.
pub type Listener = fn(&Entry);

/// The log: a queue, and the thread that empties it.
#[derive(Clone, Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    enabled: AtomicBool,
    combined: AtomicBool,
    state: Mutex<State>,
    wanted: Condvar,
    idle: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    settings: Option<Settings>,
    /// Hears of the entries instead of the sink.
    listener: Option<Listener>,
    /// The sink must be opened anew: the settings changed, or the file was rotated.
    reopen: bool,
    writer: Writer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Writer {
    #[default]
    None,
    Idle,
    Busy,
    /// Told to leave.
    Stopped,
}

impl AccessLog {
    /// A log that is off.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            shared: Arc::new(Shared {
                enabled: AtomicBool::new(false),
                combined: AtomicBool::new(false),
                state: Mutex::default(),
                wanted: Condvar::new(),
                idle: Condvar::new(),
                metrics,
            }),
        }
    }

    /// Turns the log on, off, or elsewhere.
    ///
    /// # Errors
    /// When the file cannot be opened, or there is no thread to write it. The log is off then.
    pub fn configure(&self, settings: Option<&Settings>) -> io::Result<()> {
        let shared = &self.shared;
        shared.enabled.store(false, Ordering::Relaxed);
        // Opening a FIFO waits for its reader: that is for the writer alone.
        if let Some(settings) = settings.filter(|settings| !is_fifo(settings)) {
            drop(Sink::open(settings)?);
        }
        let mut state = shared.state.lock();
        if settings.is_some() {
            start_writer(shared, &mut state)?;
        }
        state.listener = None;
        if state.settings.as_ref() != settings {
            state.settings = settings.cloned();
            state.reopen = true;
        }
        let combined = settings.is_some_and(|set| set.format == AccessLogFormat::Combined);
        shared.combined.store(combined, Ordering::Relaxed);
        shared.enabled.store(settings.is_some(), Ordering::Relaxed);
        Ok(())
    }

    /// Calls `listener` for each entry, on the writer's thread, instead of writing a line.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn hand_to(&self, listener: Listener) -> io::Result<()> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        start_writer(shared, &mut state)?;
        state.listener = Some(listener);
        shared.enabled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Opens the file anew before the next line (after a rotation).
    pub fn reopen(&self) {
        self.shared.state.lock().reopen = true;
        self.shared.wanted.notify_one();
    }

    /// Whether an entry is worth making.
    pub fn is_on(&self) -> bool {
        self.shared.enabled.load(Ordering::Relaxed)
    }

    /// Whether an entry needs an [`Agent`].
    pub fn wants_agent(&self) -> bool {
        self.shared.combined.load(Ordering::Relaxed)
    }

    /// Hands an entry to the writer; never blocks on the sink.
    pub fn record(&self, entry: Entry) {
        let mut state = self.shared.state.lock();
        if state.waiting.len() >= MOST_WAITING {
            drop(state);
            self.shared.metrics.access_log_dropped.increment();
            return;
        }
        state.waiting.push_back(entry);
        let idle = state.writer == Writer::Idle;
        drop(state);
        if idle {
            self.shared.wanted.notify_one();
        }
    }

    /// Waits until everything recorded so far is written, at most `limit`, and stops the writer.
    pub fn finish(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.shared.state.lock();
        while state.writer == Writer::Busy || !state.waiting.is_empty() {
            if state.writer == Writer::None
                || self.shared.idle.wait_until(&mut state, until).timed_out()
            {
                break;
            }
        }
        if state.writer != Writer::None {
            state.writer = Writer::Stopped;
        }
        drop(state);
        self.shared.wanted.notify_one();
    }
}

fn start_writer(shared: &Arc<Shared>, state: &mut State) -> io::Result<()> {
    if state.writer == Writer::None {
        let writer = Arc::clone(shared);
        drop(threads::start("access-log", move || writer.run())?);
        state.writer = Writer::Idle;
    }
    Ok(())
}

impl Shared {
    /// The writer: takes all that waits, writes it at once, and waits again.
    fn run(&self) {
        let mut sink: Option<Sink> = None;
        let mut batch = VecDeque::new();
        let mut lines = String::new();
        let mut complaint: Option<Instant> = None;
        let mut state = self.state.lock();
        loop {
            while state.waiting.is_empty() && !state.reopen && state.writer != Writer::Stopped {
                state.writer = Writer::Idle;
                self.idle.notify_all();
                self.wanted.wait(&mut state);
            }
            if state.writer == Writer::Stopped {
                return;
            }
            state.writer = Writer::Busy;
            std::mem::swap(&mut batch, &mut state.waiting);
            let settings = state.settings.clone();
            let listener = state.listener;
            if std::mem::take(&mut state.reopen) {
                sink = None;
            }
            drop(state);
            if let Some(listener) = listener {
                for entry in batch.drain(..) {
                    listener(&entry);
                }
                state = self.state.lock();
                continue;
            }
            let format = settings
                .as_ref()
                .map_or(AccessLogFormat::Text, |set| set.format);
            let count = batch.len() as u64;
            lines.clear();
            for entry in batch.drain(..) {
                write_line(&entry, format, &mut lines);
            }
            if let Err(error) = write_out(&mut sink, settings.as_ref(), &lines) {
                sink = None;
                self.metrics.access_log_dropped.add(count);
                if complaint.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
                    complaint = Some(Instant::now());
                    log::error!("access log: {count} lines lost: {error}");
                }
            }
            state = self.state.lock();
        }
    }
}

fn write_out(sink: &mut Option<Sink>, settings: Option<&Settings>, lines: &str) -> io::Result<()> {
    let Some(settings) = settings else {
        return Ok(()); // Turned off after these were recorded.
    };
    if sink.is_none() {
        *sink = Some(Sink::open(settings)?);
    }
    match sink {
        Some(Sink::File(file)) => file.write_all(lines.as_bytes()),
        Some(Sink::Stdout) => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(lines.as_bytes())?;
            stdout.flush()
        }
        None => Ok(()),
    }
}

fn is_fifo(settings: &Settings) -> bool {
    let path = settings.file.as_deref();
    path.and_then(|path| path.metadata().ok())
        .is_some_and(|found| found.file_type().is_fifo())
}

enum Sink {
    File(File),
    Stdout,
}

impl Sink {
    fn open(settings: &Settings) -> io::Result<Self> {
        let Some(path) = &settings.file else {
            return Ok(Self::Stdout);
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("access log {}: {error}", path.display()),
                )
            })?;
        Ok(Self::File(file))
    }
}

fn write_line(entry: &Entry, format: AccessLogFormat, out: &mut String) {
    // Writing to a String cannot fail.
    let written = match format {
        AccessLogFormat::Text => write_text(entry, out),
        AccessLogFormat::Json => write_json(entry, out),
        AccessLogFormat::Combined => write_combined(entry, out),
    };
    debug_assert!(written.is_ok());
    out.push('\n');
}

fn write_text(entry: &Entry, out: &mut String) -> std::fmt::Result {
    write_time(entry.time, out)?;
    write!(out, " id={} client={}", entry.id, entry.client)?;
    for (name, value) in [("method", &entry.method), ("target", &entry.target)] {
        write!(out, " {name}=")?;
        write_word(value, out);
    }
    out.push_str(" status=");
    match entry.status {
        Some(status) => write!(out, "{status}")?,
        None => out.push('-'),
    }
    write!(out, " in={} out={}", entry.received, entry.sent)?;
    write!(out, " ms={}", Millis(entry.elapsed))?;
    out.push_str(" ttfb_ms=");
    match entry.first_byte {
        Some(elapsed) => write!(out, "{}", Millis(elapsed))?,
        None => out.push('-'),
    }
    out.push_str(" route=");
    write_word(&entry.route, out);
    write!(
        out,
        " attempts={} cause={}",
        entry.attempts,
        entry.cause.unwrap_or("-")
    )
}

fn write_json(entry: &Entry, out: &mut String) -> std::fmt::Result {
    out.push_str("{\"time\":\"");
    write_time(entry.time, out)?;
    write!(
        out,
        "\",\"id\":{},\"client\":\"{}\"",
        entry.id, entry.client
    )?;
    for (name, value) in [
        ("method", &entry.method),
        ("target", &entry.target),
        ("route", &entry.route),
    ] {
        write!(out, ",\"{name}\":")?;
        write_quoted(value, out);
    }
    match entry.status {
        Some(status) => write!(out, ",\"status\":{status}")?,
        None => out.push_str(",\"status\":null"),
    }
    write!(out, ",\"in\":{},\"out\":{}", entry.received, entry.sent)?;
    write!(out, ",\"ms\":{}", Millis(entry.elapsed))?;
    match entry.first_byte {
        Some(elapsed) => write!(out, ",\"ttfb_ms\":{}", Millis(elapsed))?,
        None => out.push_str(",\"ttfb_ms\":null"),
    }
    write!(out, ",\"attempts\":{},\"cause\":", entry.attempts)?;
    match entry.cause {
        Some(cause) => write_quoted(cause, out),
        None => out.push_str("null"),
    }
    out.push('}');
    Ok(())
}

/// The Apache format of that name; the proxy's own facts follow as two more quoted fields.
fn write_combined(entry: &Entry, out: &mut String) -> std::fmt::Result {
    let at = OffsetDateTime::from(entry.time);
    write!(
        out,
        "{} - - [{:02}/{}/{:04}:{:02}:{:02}:{:02} +0000] ",
        entry.client.ip(),
        at.day(),
        month(at.month()),
        at.year(),
        at.hour(),
        at.minute(),
        at.second()
    )?;
    write_quoted(&format!("{} {} HTTP/1.1", entry.method, entry.target), out);
    match entry.status {
        Some(status) => write!(out, " {status}")?,
        None => out.push_str(" -"),
    }
    write!(out, " {}", entry.sent)?;
    let agent = entry.agent.clone().unwrap_or_default();
    let dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    for text in [
        dash(&agent.referer),
        dash(&agent.user_agent),
        dash(&entry.route),
        dash(entry.cause.unwrap_or_default()),
    ] {
        out.push(' ');
        write_quoted(&text, out);
    }
    Ok(())
}

fn month(month: time::Month) -> String {
    month.to_string().chars().take(3).collect()
}

/// RFC 3339, UTC, milliseconds.
///
/// # Errors
/// When `out` cannot be written to, which a `String` always can.
pub fn write_time(time: SystemTime, out: &mut String) -> std::fmt::Result {
    let at = OffsetDateTime::from(time);
    write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

/// A value of the text format: bare if it cannot be misread, else quoted.
fn write_word(text: &str, out: &mut String) {
    let bare = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    if text.is_empty() {
        out.push('-');
    } else if text.chars().all(bare) {
        out.push_str(text);
    } else {
        write_quoted(text, out);
    }
}

/// A JSON string in ASCII. Control characters and everything beyond ASCII are escaped, so that no
/// terminal or line reader can be fooled.
pub fn write_quoted(text: &str, out: &mut String) {
    out.push('"');
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte @ (b'"' | b'\\')) => {
                out.push('\\');
                out.push(char::from(byte));
            }
            Ok(byte) if byte == b' ' || byte.is_ascii_graphic() => out.push(char::from(byte)),
            _ => {
                let escaped = write!(out, "\\u{unit:04x}");
                debug_assert!(escaped.is_ok());
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn entry(target: &str) -> Entry {
        Entry {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            id: 7,
            client: SocketAddr::from(([192, 0, 2, 1], 5000)),
            method: "GET".to_owned(),
            target: target.to_owned(),
            status: Some(200),
            received: 120,
            sent: 1320,
            elapsed: Duration::from_micros(12_345),
            first_byte: Some(Duration::from_micros(999)),
            route: "squid-1".to_owned(),
            attempts: 1,
            cause: None,
            agent: None,
        }
    }

    fn line(entry: &Entry, format: AccessLogFormat) -> String {
        let mut out = String::new();
        write_line(entry, format, &mut out);
        out
    }

    #[test]
    fn a_listener_hears_of_every_entry() {
        static HEARD: AtomicU64 = AtomicU64::new(0);
        let log = AccessLog::new(Arc::default());
        log.hand_to(|entry| {
            HEARD.fetch_add(entry.id, Ordering::Relaxed);
        })
        .unwrap();
        assert!(log.is_on());
        log.record(entry("http://a.test/"));
        log.record(entry("http://b.test/"));
        log.finish(Duration::from_secs(10));
        assert_eq!(HEARD.load(Ordering::Relaxed), 14);
    }

    #[test]
    fn a_text_line_names_every_fact() {
        assert_eq!(
            line(&entry("http://a.test/"), AccessLogFormat::Text),
            "2023-11-14T22:13:20.123Z id=7 client=192.0.2.1:5000 method=GET target=http://a.test/ \
             status=200 in=120 out=1320 ms=12.345 ttfb_ms=0.999 route=squid-1 attempts=1 cause=-\n"
        );
    }

    #[test]
    fn what_a_client_sends_cannot_start_a_new_line_or_field() {
        let hostile = entry("http://a.test/\r\nstatus=200 \"\u{1b}[31m\u{fffd}");
        let text = line(&hostile, AccessLogFormat::Text);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(
            text.contains(r#"target="http://a.test/\u000d\u000astatus=200 \"\u001b[31m\ufffd" "#),
            "{text}"
        );
    }

    #[test]
    fn a_json_line_is_one_object() {
        let mut failed = entry("http://a.test/\"\\\u{1F600}");
        failed.status = None;
        failed.cause = Some("client_gone");
        assert_eq!(
            line(&failed, AccessLogFormat::Json),
            "{\"time\":\"2023-11-14T22:13:20.123Z\",\"id\":7,\"client\":\"192.0.2.1:5000\",\
             \"method\":\"GET\",\"target\":\"http://a.test/\\\"\\\\\\ud83d\\ude00\",\
             \"route\":\"squid-1\",\"status\":null,\"in\":120,\"out\":1320,\"ms\":12.345,\
             \"ttfb_ms\":0.999,\"attempts\":1,\"cause\":\"client_gone\"}\n"
        );
    }

    #[test]
    fn a_combined_line_is_what_log_analyzers_expect() {
        assert_eq!(
            line(&entry("http://a.test/"), AccessLogFormat::Combined),
            "192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] \"GET http://a.test/ HTTP/1.1\" 200 1320 \
             \"-\" \"-\" \"squid-1\" \"-\"\n"
        );
    }
}
