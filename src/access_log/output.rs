//! Where lines go, and what becomes of lines that do not get there.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::config::checked::AccessLogSettings as Settings;
use crate::net::log_limiter::LogLimiter;
use crate::net::sink::{self, LineBuffer, Sink};

/// How often a sink that fails is complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Where lines go.
#[derive(Debug, Default)]
pub(super) enum Output {
    #[default]
    Nowhere,
    Lines(LineOutput),
}

/// Lines on their way to where the settings say.
#[derive(Debug)]
pub(super) struct LineOutput {
    settings: Settings,
    /// `None`: to be opened, or a FIFO without a reader.
    pub(super) sink: Option<Sink>,
    pub(super) buffer: LineBuffer,
    failures: LogLimiter,
}

/// Opens what `settings` name. `None`: a FIFO without a reader.
pub(super) fn open(settings: &Settings) -> io::Result<Option<Sink>> {
    let Some(path) = &settings.file else {
        return Sink::standard_output().map(Some);
    };
    Sink::append_to(path).map_err(|error| cannot_open(path, &error))
}

/// Whether [`open`] can be expected to succeed.
pub(super) fn check(settings: &Settings) -> io::Result<()> {
    let Some(path) = &settings.file else {
        return Ok(());
    };
    Sink::check_append(path).map_err(|error| cannot_open(path, &error))
}

fn cannot_open(path: &Path, error: &io::Error) -> io::Error {
    let text = format!(
        "the access log {} cannot be opened: {error}",
        path.display()
    );
    io::Error::new(error.kind(), text)
}

impl LineOutput {
    /// `sink` is what [`open`] gave.
    pub(super) fn new(settings: Settings, sink: Option<Sink>) -> Self {
        Self {
            settings,
            sink,
            buffer: LineBuffer::default(),
            failures: LogLimiter::every(COMPLAIN_EVERY),
        }
    }

    /// Writes what the sink takes at once. `false`: it takes nothing.
    pub(super) fn write(&mut self) -> io::Result<bool> {
        if self.sink.is_none() {
            self.sink = open(&self.settings)?;
        }
        let Some(sink) = &mut self.sink else {
            return Ok(false);
        };
        match self.buffer.write_to(sink) {
            Err(error) if self.settings.file.is_some() && sink::is_reader_gone(&error) => {
                self.buffer.rewind();
                self.sink = None;
                Ok(false)
            }
            written => written,
        }
    }

    /// Gives up the lines that are not whole yet, and says so if that is because of an error; how many they
    /// are.
    pub(super) fn abandon(&mut self, because: Option<&io::Error>) -> u64 {
        let lost = self.buffer.abandon();
        // The file may be another one by the next time: on a disk mounted anew.
        self.sink.take_if(|sink| sink.is_file());
        if let Some(error) = because
            && let Some(more) = self.failures.allow()
        {
            log::error!("access log: {lost} lines lost: {error}{more}");
        }
        lost
    }

    /// Opens the file anew. If that cannot be, the one that was moved away is better than none.
    pub(super) fn reopen(&mut self) {
        match open(&self.settings) {
            Ok(opened) => {
                self.sink = opened;
                self.buffer = LineBuffer::default();
            }
            Err(error) => log::error!("the access log stays where it is: {error}"),
        }
    }
}
