//! The queue between the workers and the thread that writes the access log, and that thread.
//!
//! Lines are made by the worker that records the last of [`TOGETHER`] entries, straight in the memory that is
//! written later: the first line of a row costs four times as much as the next, for its code has to be
//! fetched from far away. The writer makes those that are left, takes all that waits at once, and writes as
//! much as the sink takes.
//! A sink that takes nothing (a FIFO without a reader, a pipe that is full) is asked again and again while
//! the queue fills up behind it; only a change of the settings or the end makes the writer give lines up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::checked::AccessLogSettings as Settings;
use crate::metrics::Metrics;
use crate::net::sink::count_lines;

use super::entry::AccessEntry;
use super::format::{self, Clock};
use super::output::{LineOutput, Output};

/// What may wait for the writer, in bytes.
pub(super) const MOST_BYTES: usize = 8 * 1024 * 1024;
/// Lines are written together when there are so many bytes of them.
const FULL: usize = 64 * 1024;
/// Lines of so many entries are made at once.
const TOGETHER: usize = 32;
/// Memory for so many times [`FULL`] is kept for more lines: what comes while the writer rests.
const SPARE_CHUNKS: usize = 8;
/// How often a sink that takes nothing is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// How long the writer rests after it has written, so that it is not woken for each line: a thread's wake-up
/// costs more than a line.
const REST: Duration = Duration::from_millis(20);
/// How long a sink that takes nothing may hold up a change of the settings.
const GRACE: Duration = Duration::from_millis(500);

/// What is called for each entry where no lines are written.
pub type Listener = fn(&AccessEntry);

/// What workers and the writer share.
#[derive(Debug, Default)]
pub(super) struct LogQueue {
    pub(super) enabled: AtomicBool,
    pub(super) combined: AtomicBool,
    pub(super) no_query: AtomicBool,
    pub(super) state: Mutex<QueueState>,
    pub(super) wanted: Condvar,
    pub(super) idle: Condvar,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
pub(super) struct QueueState {
    /// The first `unmade` of them have no line yet; the others are memory.
    #[expect(clippy::vec_box, reason = "they are swapped for those of workers")]
    entries: Vec<Box<AccessEntry>>,
    unmade: usize,
    waiting: VecDeque<QueueItem>,
    /// How long the lines among them are, in bytes.
    pub(super) bytes: usize,
    /// Memory for more of them.
    spare: Vec<Vec<u8>>,
    pub(super) clock: Clock,
    /// Items that are no lines and have not been seen to: a writer that is stuck must move on.
    changes: usize,
    /// Since when the first of them has been held up by a sink that takes nothing.
    held_up: Option<Instant>,
    /// What lines are like, and where they go; `None`: there are none.
    pub(super) settings: Option<Settings>,
    /// Who gets the entries instead.
    pub(super) listener: Option<Listener>,
    pub(super) writer: WriterState,
    /// The writer is waited for.
    ends: bool,
}

impl QueueState {
    /// Whether the writer must not rest.
    fn is_urgent(&self) -> bool {
        self.ends || self.changes > 0 || self.bytes >= MOST_BYTES / 4
    }

    fn is_empty(&self) -> bool {
        self.unmade == 0 && self.waiting.is_empty()
    }

    /// Takes an entry in exchange for memory for another one, or makes its line. How many lines are lost.
    fn take(&mut self, entry: &mut Box<AccessEntry>) -> u64 {
        if self.is_urgent() || !entry.is_usual() {
            return self.make_lines() + u64::from(!self.append(entry));
        }
        if let Some(memory) = self.entries.get_mut(self.unmade) {
            std::mem::swap(memory, entry);
        } else {
            let memory = Box::new(AccessEntry::new(entry.id, entry.client));
            self.entries.push(std::mem::replace(entry, memory));
        }
        self.unmade += 1;
        if self.unmade < TOGETHER {
            return 0;
        }
        self.make_lines()
    }

    /// Makes the lines that are not made yet. How many are lost.
    fn make_lines(&mut self) -> u64 {
        let entries = std::mem::take(&mut self.entries);
        let unmade = entries.iter().take(std::mem::take(&mut self.unmade));
        let lost = unmade.filter(|entry| !self.append(entry)).count() as u64;
        self.entries = entries;
        lost
    }

    /// Appends the line of an entry. `false`: there is no room for it.
    fn append(&mut self, entry: &AccessEntry) -> bool {
        let Some(settings) = &self.settings else {
            return true; // Turned off a moment ago.
        };
        if !matches!(self.waiting.back(), Some(QueueItem::Lines(lines)) if lines.len() < FULL) {
            let memory = self.spare.pop();
            // Where its last line ends is not known.
            let memory = memory.unwrap_or_else(|| Vec::with_capacity(FULL + FULL / 8));
            self.waiting.push_back(QueueItem::Lines(memory));
        }
        let Some(QueueItem::Lines(lines)) = self.waiting.back_mut() else {
            return false;
        };
        let before = lines.len();
        format::write_line(entry, settings.format, &mut self.clock, lines);
        let bytes = self.bytes + lines.len() - before;
        if bytes > MOST_BYTES {
            lines.truncate(before);
            return false;
        }
        self.bytes = bytes;
        true
    }
}

#[derive(Debug)]
pub(super) enum QueueItem {
    /// Whole lines, all of one format.
    Lines(Vec<u8>),
    /// What follows goes elsewhere.
    Switch(Output),
    /// The file was moved away: what follows goes to a new one.
    Reopen,
}

impl QueueItem {
    fn lines(&self) -> u64 {
        match self {
            Self::Lines(lines) => count_lines(lines),
            Self::Switch(_) | Self::Reopen => 0,
        }
    }
}

/// How far the writer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WriterState {
    /// There is none yet.
    #[default]
    None,
    Idle,
    Busy,
    /// Told to leave.
    Stopped,
}

impl LogQueue {
    /// Puts the line of an entry into the queue, or counts it as lost. What is left in `entry` is memory.
    pub(super) fn record(&self, entry: &mut Box<AccessEntry>) {
        let mut state = self.state.lock();
        if let Some(listener) = state.listener {
            drop(state);
            return listener(entry);
        }
        self.lost(state.take(entry));
        let is_wanted = state.writer == WriterState::Idle || state.is_urgent();
        drop(state);
        if is_wanted {
            self.wanted.notify_one();
        }
    }

    fn lost(&self, lines: u64) {
        if lines > 0 {
            self.metrics.access_log_dropped.add(lines);
        }
    }

    /// Has the writer change something, if there is one, behind what was recorded until now.
    pub(super) fn change(&self, state: &mut QueueState, item: QueueItem) {
        if state.writer != WriterState::None {
            self.lost(state.make_lines());
            state.waiting.push_back(item);
            state.changes += 1;
            self.wanted.notify_one();
        }
    }

    /// Waits until the writer has nothing to do, at most `limit`, and stops it.
    pub(super) fn finish(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.state.lock();
        state.ends = true;
        self.lost(state.make_lines());
        self.wanted.notify_one();
        while state.writer == WriterState::Busy || !state.waiting.is_empty() {
            if state.writer == WriterState::None
                || self.idle.wait_until(&mut state, until).timed_out()
            {
                break;
            }
        }
        if state.writer != WriterState::None {
            state.writer = WriterState::Stopped;
        }
        drop(state);
        self.wanted.notify_one();
    }

    /// The thread: until [`LogQueue::finish`].
    pub(super) fn run(&self) {
        let mut output = Output::Nowhere;
        while let Some(batch) = self.next_batch() {
            for item in batch {
                match (item, &mut output) {
                    (QueueItem::Lines(_), Output::Nowhere) => {}
                    (QueueItem::Lines(chunk), Output::Lines(lines)) => {
                        let memory = lines.buffer.refill(chunk);
                        self.write_out(lines);
                        self.keep(memory);
                    }
                    (QueueItem::Switch(next), _) => {
                        output = next;
                        self.changed();
                    }
                    (QueueItem::Reopen, before) => {
                        if let Output::Lines(lines) = before {
                            lines.reopen();
                        }
                        self.changed();
                    }
                }
            }
        }
    }

    /// Keeps memory for more lines, if it is of the usual size.
    fn keep(&self, memory: Vec<u8>) {
        if (FULL..FULL * 2).contains(&memory.capacity()) {
            let mut state = self.state.lock();
            if state.spare.len() < SPARE_CHUNKS {
                state.spare.push(memory);
            }
        }
    }

    /// Waits for something to do. `None`: the end.
    pub(super) fn next_batch(&self) -> Option<VecDeque<QueueItem>> {
        let mut state = self.state.lock();
        let rested = Instant::now() + REST;
        while state.writer == WriterState::Busy && !state.is_urgent() {
            if self.wanted.wait_until(&mut state, rested).timed_out() {
                break;
            }
        }
        while state.is_empty() && state.writer != WriterState::Stopped {
            state.writer = WriterState::Idle;
            self.idle.notify_all();
            self.wanted.wait(&mut state);
        }
        if state.writer == WriterState::Stopped {
            let lost = state.waiting.iter().map(QueueItem::lines).sum();
            self.metrics.access_log_dropped.add(lost);
            return None;
        }
        self.lost(state.make_lines());
        state.writer = WriterState::Busy;
        state.bytes = 0;
        Some(std::mem::take(&mut state.waiting))
    }

    fn changed(&self) {
        let mut state = self.state.lock();
        state.changes -= 1;
        state.held_up = None;
    }

    /// Writes all lines, or counts them as lost.
    fn write_out(&self, lines: &mut LineOutput) {
        while !lines.buffer.is_empty() {
            let failed = match lines.write() {
                Ok(true) => continue,
                Ok(false) if !self.is_held_up() => {
                    self.rest(lines);
                    continue;
                }
                Ok(false) => None,
                Err(error) => Some(error),
            };
            let lost = lines.abandon(failed.as_ref());
            self.metrics.access_log_dropped.add(lost);
        }
    }

    /// Whether a change or the end has waited long enough for the sink that takes nothing.
    fn is_held_up(&self) -> bool {
        let mut state = self.state.lock();
        if state.writer == WriterState::Stopped || state.changes == 0 {
            return state.writer == WriterState::Stopped;
        }
        state.held_up.get_or_insert_with(Instant::now).elapsed() >= GRACE
    }

    /// Waits until the sink may take something again.
    fn rest(&self, lines: &LineOutput) {
        let limit = match lines.sink.as_ref().map(|sink| sink.wait(RETRY)) {
            Some(Ok(false)) => return, // That was the rest.
            Some(Ok(true) | Err(_)) => RETRY / 10,
            None => RETRY,
        };
        // Nothing to wait for but time; a change of the settings cuts it short.
        let mut state = self.state.lock();
        if state.changes == 0 && state.writer != WriterState::Stopped {
            self.wanted.wait_for(&mut state, limit);
        }
    }
}
