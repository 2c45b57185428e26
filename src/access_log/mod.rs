//! One line per exchange and tunnel, written by a thread of its own.
//!
//! A disk that is full or a pipe without a reader must not stop the relay: a worker puts its line into a
//! bounded queue and goes on; what does not fit is counted and lost. A change of the file, and a file to
//! be opened anew after a rotation, stand in the same queue, so that each line gets to where it
//! belongs.
//!
//! - `entry`: what is told of an exchange
//! - `format`: what a line looks like
//! - `output`: where lines go
//! - `writer`: the queue and the thread

mod entry;
mod format;
mod output;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::checked::{AccessLogFormat, AccessLogSettings as Settings};
use crate::metrics::Metrics;
use crate::net::sink::Sink;
use crate::net::threads;

pub use entry::{AccessEntry, Agent, Tries, Try, TryEnd};
pub use format::{write_quoted, write_time};
pub use writer::Listener;

use format::Clock;
use output::{LineOutput, Output};
use writer::{LogQueue, QueueItem, WriterState};

/// The log: a queue, and the thread that empties it.
#[derive(Clone, Debug)]
pub struct AccessLogger {
    queue: Arc<LogQueue>,
}

/// Settings that can be put in force: the file is open, and there is a thread.
#[must_use = "nothing changes until it is installed"]
#[derive(Debug)]
pub struct PreparedOutput {
    settings: Option<Settings>,
    sink: Option<Sink>,
}

impl AccessLogger {
    /// A log that is off.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            queue: Arc::new(LogQueue {
                metrics,
                ..LogQueue::default()
            }),
        }
    }

    /// Turns the log on, off, or elsewhere.
    ///
    /// # Errors
    /// As [`AccessLogger::prepare`]; then it goes on as before.
    pub fn configure(&self, settings: Option<&Settings>) -> io::Result<()> {
        self.install(self.prepare(settings)?);
        Ok(())
    }

    /// Makes sure that `settings` can be put in force, and changes nothing yet. A FIFO without a
    /// reader is no error: one may come later.
    ///
    /// # Errors
    /// When the file cannot be opened (which, and why), or there is no thread to write it.
    pub fn prepare(&self, settings: Option<&Settings>) -> io::Result<PreparedOutput> {
        let in_force = self.queue.state.lock().settings.clone();
        let sink = match settings {
            None => None,
            // What is open stays open, also where it was moved to.
            Some(settings) if in_force.as_ref() == Some(settings) => None,
            Some(settings) => {
                self.start_writer()?;
                output::open(settings)?
            }
        };
        Ok(PreparedOutput {
            settings: settings.cloned(),
            sink,
        })
    }

    /// Puts in force what was prepared. Lines of what was recorded before still go where they belong.
    pub fn install(&self, prepared: PreparedOutput) {
        let PreparedOutput { settings, sink } = prepared;
        let is = |format| settings.as_ref().is_some_and(|set| set.format == format);
        let combined = is(AccessLogFormat::Combined);
        let query = settings.as_ref().is_none_or(|set| set.query);
        let enabled = settings.is_some();
        let mut state = self.queue.state.lock();
        if state.settings != settings {
            let output = settings.clone().map_or(Output::Nowhere, |settings| {
                Output::Lines(LineOutput::new(settings, sink))
            });
            self.queue.change(&mut state, QueueItem::Switch(output));
            state.settings = settings;
            state.listener = None;
            state.clock = Clock::default(); // Each format has its own words for a second.
        }
        self.queue.combined.store(combined, Ordering::Relaxed);
        self.queue.no_query.store(!query, Ordering::Relaxed);
        self.queue.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Calls `listener` for each entry, in the thread that records it, instead of writing a line.
    pub fn hand_to(&self, listener: Listener) {
        let mut state = self.queue.state.lock();
        state.settings = None;
        state.listener = Some(listener);
        self.queue.enabled.store(true, Ordering::Relaxed);
    }

    /// Opens the file anew (after a rotation) for everything recorded from now on.
    pub fn reopen(&self) {
        self.queue
            .change(&mut self.queue.state.lock(), QueueItem::Reopen);
    }

    /// Whether an entry is worth making.
    pub fn is_on(&self) -> bool {
        self.queue.enabled.load(Ordering::Relaxed)
    }

    /// Whether an entry needs an [`Agent`].
    pub fn wants_agent(&self) -> bool {
        self.queue.combined.load(Ordering::Relaxed)
    }

    /// Whether an entry has the query of its URLs.
    pub fn wants_query(&self) -> bool {
        !self.queue.no_query.load(Ordering::Relaxed)
    }

    /// Hands the line of `entry` to the writer; never blocks on the sink. What is left in it is memory for
    /// another one.
    pub fn record(&self, entry: &mut Box<AccessEntry>) {
        self.queue.record(entry);
    }

    /// Waits until everything recorded so far is written, at most `limit`, and stops the writer.
    pub fn finish(&self, limit: Duration) {
        self.queue.finish(limit);
    }

    fn start_writer(&self) -> io::Result<()> {
        let mut state = self.queue.state.lock();
        if state.writer == WriterState::None {
            let writer = Arc::clone(&self.queue);
            drop(threads::start("access-log", move || writer.run())?);
            state.writer = WriterState::Idle;
        }
        Ok(())
    }
}

/// Whether the file that `settings` name can be opened, without doing it.
///
/// # Errors
/// When it cannot (which, and why).
pub fn check(settings: &Settings) -> io::Result<()> {
    output::check(settings)
}

#[cfg(test)]
mod tests;
