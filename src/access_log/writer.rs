//! The thread that writes the access log.
//!
//! It takes all that waits at once, makes lines of it, and writes as many as the sink takes. A sink that
//! takes nothing (a FIFO without a reader, a pipe that is full) is asked again and again while the queue
//! fills up behind it; only a change of the settings or the end makes the writer give lines up. What a
//! full disk cut in the middle of a line is ended with a line feed, so that one lost line does not
//! spoil the next.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::config::checked::AccessLogSettings as Settings;
use crate::net::sink::{self, Sink};

use super::format::write_line;
use super::{Item, Output, Shared, Stage};

/// Lines are written when there are so many bytes of them.
const FULL: usize = 64 * 1024;
/// How often a sink that takes nothing is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// How long a sink that takes nothing may hold up a change of the settings.
const GRACE: Duration = Duration::from_millis(500);
/// How often a sink that fails is complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Opens what `settings` name. `None`: a FIFO that nobody reads.
pub(super) fn open(settings: &Settings) -> io::Result<Option<Sink>> {
    let Some(path) = &settings.file else {
        return Sink::standard_output().map(Some);
    };
    Sink::append_to(path).map_err(|error| {
        let text = format!("access log {}: {error}", path.display());
        io::Error::new(error.kind(), text)
    })
}

/// Lines on their way to their sink.
#[derive(Debug, Default)]
struct Pen {
    output: Output,
    lines: String,
    /// How many bytes of `lines` are written.
    written: usize,
    tail: Tail,
    /// Since when a change of the settings has been held up.
    held_up: Option<Instant>,
    complained: Option<Instant>,
}

/// The last line in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tail {
    #[default]
    Whole,
    /// It lacks its end.
    Torn,
    /// The same, and the lines at hand begin with a line feed for it.
    Mending,
}

/// What became of an effort to write.
enum Effort {
    /// All is written, or lost and counted.
    Done,
    /// The sink takes nothing now.
    Stuck,
}

impl Shared {
    /// The thread: until [`super::AccessLog::finish`].
    pub(super) fn run(&self) {
        let mut pen = Pen::default();
        while let Some(batch) = self.next_batch() {
            for item in batch {
                match item {
                    Item::Entry(entry) => match &pen.output {
                        Output::Nowhere => {}
                        Output::Listener(listener) => listener(&entry),
                        Output::Lines(settings, _) => {
                            write_line(&entry, settings.format, &mut pen.lines);
                            if pen.lines.len() >= FULL {
                                self.write_out(&mut pen);
                            }
                        }
                    },
                    Item::Switch(output) => {
                        self.write_out(&mut pen);
                        pen.begin(output);
                        self.changed(&mut pen);
                    }
                    Item::Reopen => {
                        self.write_out(&mut pen);
                        pen.reopen();
                        self.changed(&mut pen);
                    }
                }
            }
            self.write_out(&mut pen);
        }
    }

    /// Waits for something to do. `None`: the end.
    fn next_batch(&self) -> Option<VecDeque<Item>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && state.writer != Stage::Stopped {
            state.writer = Stage::Idle;
            self.idle.notify_all();
            self.wanted.wait(&mut state);
        }
        if state.writer == Stage::Stopped {
            let lost = state.waiting.len().saturating_sub(state.changes);
            self.metrics.access_log_dropped.add(lost as u64);
            return None;
        }
        state.writer = Stage::Busy;
        state.bytes = 0;
        Some(std::mem::take(&mut state.waiting))
    }

    fn changed(&self, pen: &mut Pen) {
        let mut state = self.state.lock();
        state.changes -= 1;
        pen.held_up = None;
    }

    /// Writes all lines, or counts them as lost.
    fn write_out(&self, pen: &mut Pen) {
        while !pen.lines.is_empty() {
            match pen.write() {
                Ok(Effort::Done) => {}
                Ok(Effort::Stuck) if self.is_held_up(pen) => {
                    self.give_up(pen);
                }
                Ok(Effort::Stuck) => self.rest(pen),
                Err(error) => {
                    let lost = self.give_up(pen);
                    if pen
                        .complained
                        .is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY)
                    {
                        pen.complained = Some(Instant::now());
                        log::error!("access log: {lost} lines lost: {error}");
                    }
                }
            }
        }
    }

    /// Whether somebody has waited long enough for the sink that takes nothing.
    fn is_held_up(&self, pen: &mut Pen) -> bool {
        let state = self.state.lock();
        if state.writer == Stage::Stopped {
            return true;
        }
        if state.changes == 0 {
            pen.held_up = None;
            return false;
        }
        let since = *pen.held_up.get_or_insert_with(Instant::now);
        since.elapsed() >= GRACE
    }

    fn rest(&self, pen: &Pen) {
        let limit = match &pen.output {
            Output::Lines(_, Some(sink)) => match sink.wait(RETRY) {
                Ok(false) => return, // That was the rest.
                Ok(true) | Err(_) => RETRY / 10,
            },
            Output::Nowhere | Output::Listener(_) | Output::Lines(_, None) => RETRY,
        };
        // Nothing to wait for but time; a change of the settings cuts it short.
        let mut state = self.state.lock();
        if state.changes == 0 && state.writer != Stage::Stopped {
            self.wanted.wait_for(&mut state, limit);
        }
    }

    fn give_up(&self, pen: &mut Pen) -> u64 {
        let lost = pen.abandon();
        self.metrics.access_log_dropped.add(lost);
        lost
    }
}

impl Pen {
    /// What follows goes to `output`.
    fn begin(&mut self, output: Output) {
        self.output = output;
        self.tail = Tail::Whole;
        self.complained = None;
    }

    /// Opens the file anew. If that cannot be, the one that was moved away is better than none.
    fn reopen(&mut self) {
        let Output::Lines(settings, sink) = &mut self.output else {
            return;
        };
        match open(settings) {
            Ok(opened) => {
                *sink = opened;
                self.tail = Tail::Whole;
            }
            Err(error) => log::error!("the access log stays where it is: {error}"),
        }
    }

    /// Writes what the sink takes at once.
    fn write(&mut self) -> io::Result<Effort> {
        let Output::Lines(settings, sink) = &mut self.output else {
            self.lines.clear();
            return Ok(Effort::Done);
        };
        if sink.is_none() {
            *sink = open(settings)?;
        }
        let Some(open) = sink else {
            return Ok(Effort::Stuck);
        };
        if self.tail == Tail::Torn {
            self.lines.insert(0, '\n');
            self.tail = Tail::Mending;
        }
        let rest = self
            .lines
            .as_bytes()
            .get(self.written..)
            .unwrap_or_default();
        match open.write_some(rest) {
            Ok(0) => Ok(Effort::Stuck),
            Ok(count) => {
                self.written += count;
                if self.written >= self.lines.len() {
                    self.tail = Tail::Whole;
                    self.clear();
                }
                Ok(Effort::Done)
            }
            Err(error) if settings.file.is_some() && sink::is_reader_gone(&error) => {
                // The next reader gets the line that this one has seen a part of.
                let whole = self
                    .lines
                    .as_bytes()
                    .get(..self.written)
                    .unwrap_or_default();
                let end = whole.iter().rposition(|byte| *byte == b'\n');
                self.written = end.map_or(0, |end| end + 1);
                *sink = None;
                Ok(Effort::Stuck)
            }
            Err(error) => Err(error),
        }
    }

    /// Drops the lines that are not whole yet; how many they are.
    fn abandon(&mut self) -> u64 {
        let (written, rest) = self.lines.as_bytes().split_at(self.written);
        // The last element of the split is what follows the last line feed.
        let mut lost = rest.split(|byte| *byte == b'\n').count() as u64 - 1;
        if self.tail == Tail::Mending && written.is_empty() {
            lost -= 1;
        }
        if let Output::Lines(_, sink) = &mut self.output
            && sink.as_ref().is_some_and(Sink::keeps_parts)
        {
            self.tail = match (written.last(), self.tail) {
                (Some(b'\n'), _) | (None, Tail::Whole) => Tail::Whole,
                (Some(_), _) | (None, Tail::Torn | Tail::Mending) => Tail::Torn,
            };
            // The file may be another one by then: on a disk mounted anew.
            *sink = None;
        }
        self.clear();
        lost
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.written = 0;
    }
}
