//! Entries and changes on their way from the workers to the writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::checked::AccessLog as Settings;
use crate::metrics::Metrics;

use super::entry::AccessEntry;
use super::output::Output;

/// Entries that may wait for the writer.
const MOST_WAITING: usize = 16 * 1024;
/// The memory they may take, in bytes: what clients send may be long.
pub(super) const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What workers and the writer share.
#[derive(Debug, Default)]
pub(super) struct LogQueue {
    pub(super) enabled: AtomicBool,
    pub(super) combined: AtomicBool,
    pub(super) state: Mutex<QueueState>,
    wanted: Condvar,
    idle: Condvar,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
pub(super) struct QueueState {
    waiting: VecDeque<QueueItem>,
    /// What the entries among them take, in bytes.
    pub(super) bytes: usize,
    /// Items that are no entries and have not been seen to: a writer that is stuck must move on.
    changes: usize,
    pub(super) settings: Option<Settings>,
    pub(super) writer: WriterState,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are entries")]
pub(super) enum QueueItem {
    Entry(AccessEntry),
    /// What follows goes elsewhere.
    Switch(Output),
    /// The file was moved away: what follows goes to a new one.
    Reopen,
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
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }

    /// Puts an entry into the queue, or counts it as lost.
    pub(super) fn record(&self, entry: AccessEntry) {
        let size = entry.size();
        let mut state = self.state.lock();
        if state.waiting.len() >= MOST_WAITING || state.bytes + size > MOST_BYTES {
            drop(state);
            self.metrics.access_log_dropped.increment();
            return;
        }
        state.bytes += size;
        state.waiting.push_back(QueueItem::Entry(entry));
        let idle = state.writer == WriterState::Idle;
        drop(state);
        if idle {
            self.wanted.notify_one();
        }
    }

    /// Has the writer change something, if there is one.
    pub(super) fn change(&self, state: &mut QueueState, item: QueueItem) {
        if state.writer != WriterState::None {
            state.waiting.push_back(item);
            state.changes += 1;
            self.wanted.notify_one();
        }
    }

    /// Waits until the writer has nothing to do, at most `limit`, and stops it.
    pub(super) fn finish(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.state.lock();
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

    /// Waits for something to do. `None`: the end.
    pub(super) fn next_batch(&self) -> Option<VecDeque<QueueItem>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && state.writer != WriterState::Stopped {
            state.writer = WriterState::Idle;
            self.idle.notify_all();
            self.wanted.wait(&mut state);
        }
        if state.writer == WriterState::Stopped {
            let lost = state.waiting.len().saturating_sub(state.changes);
            self.metrics.access_log_dropped.add(lost as u64);
            return None;
        }
        state.writer = WriterState::Busy;
        state.bytes = 0;
        Some(std::mem::take(&mut state.waiting))
    }

    /// A change has been seen to.
    pub(super) fn changed(&self) {
        self.state.lock().changes -= 1;
    }

    /// What the writer must not keep waiting for long.
    pub(super) fn hurry(&self) -> Hurry {
        let state = self.state.lock();
        match (state.writer, state.changes) {
            (WriterState::Stopped, _) => Hurry::End,
            (_, 0) => Hurry::No,
            (_, _) => Hurry::Change,
        }
    }

    /// Lets time pass, at most `limit`; a change or the end cuts it short.
    pub(super) fn rest(&self, limit: Duration) {
        let mut state = self.state.lock();
        if state.changes == 0 && state.writer != WriterState::Stopped {
            self.wanted.wait_for(&mut state, limit);
        }
    }
}

/// What waits for the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hurry {
    /// Entries at most.
    No,
    /// A change of the settings.
    Change,
    /// The end of the process.
    End,
}
