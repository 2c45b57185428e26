//! The thread that writes the access log.
//!
//! It takes all that waits at once, makes lines of it, and writes as many as the sink takes. A sink that
//! takes nothing (a FIFO without a reader, a pipe that is full) is asked again and again while the queue
//! fills up behind it; only a change of the settings or the end makes the writer give lines up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::output::Output;
use super::queue::{Hurry, LogQueue, QueueItem};

/// How often a sink that takes nothing is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// How long a sink that takes nothing may hold up a change of the settings.
const GRACE: Duration = Duration::from_millis(500);

/// The writer.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<LogQueue>,
    output: Output,
    /// Since when a change of the settings has been held up.
    held_up: Option<Instant>,
}

impl Writer {
    pub(super) fn new(queue: Arc<LogQueue>) -> Self {
        Self {
            queue,
            output: Output::Nowhere,
            held_up: None,
        }
    }

    /// The thread: until [`LogQueue::finish`].
    pub(super) fn run(mut self) {
        while let Some(batch) = self.queue.next_batch() {
            for item in batch {
                match item {
                    QueueItem::Entry(entry) => match &mut self.output {
                        Output::Nowhere => {}
                        Output::Listener(listener) => listener(&entry),
                        Output::Lines(lines) => {
                            if lines.add(&entry) {
                                self.write_out();
                            }
                        }
                    },
                    QueueItem::Switch(output) => {
                        self.write_out();
                        self.output = output;
                        self.changed();
                    }
                    QueueItem::Reopen => {
                        self.write_out();
                        if let Output::Lines(lines) = &mut self.output {
                            lines.reopen();
                        }
                        self.changed();
                    }
                }
            }
            self.write_out();
        }
    }

    fn changed(&mut self) {
        self.queue.changed();
        self.held_up = None;
    }

    /// Writes all lines, or counts them as lost.
    fn write_out(&mut self) {
        let Output::Lines(lines) = &mut self.output else {
            return;
        };
        while !lines.is_empty() {
            let failed = match lines.write() {
                Ok(true) => continue,
                Ok(false) if !is_held_up(&mut self.held_up, self.queue.hurry()) => {
                    let waited = lines.sink().map(|sink| sink.wait(RETRY));
                    match waited {
                        Some(Ok(false)) => {} // That was the rest.
                        // Nothing to wait for but time.
                        Some(_) => self.queue.rest(RETRY / 10),
                        None => self.queue.rest(RETRY),
                    }
                    continue;
                }
                Ok(false) => None,
                Err(error) => Some(error),
            };
            let lost = lines.abandon(failed.as_ref());
            self.queue.metrics.access_log_dropped.add(lost);
        }
    }
}

/// Whether a change or the end has waited long enough for a sink that takes nothing.
fn is_held_up(since: &mut Option<Instant>, hurry: Hurry) -> bool {
    match hurry {
        Hurry::End => true,
        Hurry::No => {
            *since = None;
            false
        }
        Hurry::Change => since.get_or_insert_with(Instant::now).elapsed() >= GRACE,
    }
}
