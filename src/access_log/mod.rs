//! One line per exchange and tunnel, written by a thread of its own.
//!
//! A disk that is full or a pipe nobody reads must not stop the relay: a worker puts the entry into a
//! bounded queue and goes on; what does not fit is counted and lost. A change of the file, and a file to
//! be opened anew after a rotation, stand in the same queue, so that each line gets to where it
//! belongs.
//!
//! - `format`: what a line looks like
//! - `writer`: the thread

mod format;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use crate::config::checked::{AccessLogFormat, AccessLogSettings as Settings};
use crate::metrics::Metrics;
use crate::net::sink::Sink;
use crate::net::threads;

pub use format::{write_quoted, write_time};

/// Entries that may wait for the writer.
const MOST_WAITING: usize = 16 * 1024;
/// The memory they may take, in bytes: what clients send may be long.
const MOST_BYTES: usize = 16 * 1024 * 1024;

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

impl Entry {
    /// The memory it takes, in bytes.
    fn size(&self) -> usize {
        let agent = self.agent.as_ref();
        let agent = agent.map_or(0, |agent| agent.referer.len() + agent.user_agent.len());
        size_of::<Self>() + self.method.len() + self.target.len() + self.route.len() + agent
    }
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
    waiting: VecDeque<Item>,
    /// What the entries among them take, in bytes.
    bytes: usize,
    /// Items that are no entries and have not been seen to: a writer that is stuck must move on.
    changes: usize,
    settings: Option<Settings>,
    writer: Stage,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are entries")]
enum Item {
    Entry(Entry),
    /// What follows goes elsewhere.
    Switch(Output),
    /// The file was moved away: what follows goes to a new one.
    Reopen,
}

#[derive(Debug, Default)]
enum Output {
    #[default]
    Nowhere,
    Lines(Settings, Option<Sink>),
    Listener(Listener),
}

/// How far the writer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// There is none yet.
    #[default]
    None,
    Idle,
    Busy,
    /// Told to leave.
    Stopped,
}

/// Settings that can be put in force: the file is open, and there is a thread.
#[must_use = "nothing changes until it is installed"]
#[derive(Debug)]
pub struct Prepared {
    settings: Option<Settings>,
    sink: Option<Sink>,
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
    /// As [`AccessLog::prepare`]; then it goes on as before.
    pub fn configure(&self, settings: Option<&Settings>) -> io::Result<()> {
        self.install(self.prepare(settings)?);
        Ok(())
    }

    /// Makes sure that `settings` can be put in force, and changes nothing yet. A FIFO that nobody
    /// reads is no error: its reader may come later.
    ///
    /// # Errors
    /// When the file cannot be opened (which, and why), or there is no thread to write it.
    pub fn prepare(&self, settings: Option<&Settings>) -> io::Result<Prepared> {
        let in_force = self.shared.state.lock().settings.clone();
        let sink = match settings {
            None => None,
            // What is open stays open, also where it was moved to.
            Some(settings) if in_force.as_ref() == Some(settings) => None,
            Some(settings) => {
                self.shared.start_writer()?;
                writer::open(settings)?
            }
        };
        Ok(Prepared {
            settings: settings.cloned(),
            sink,
        })
    }

    /// Puts in force what was prepared. Lines of what was recorded before still go where they belong.
    pub fn install(&self, prepared: Prepared) {
        let Prepared { settings, sink } = prepared;
        let is = |format| settings.as_ref().is_some_and(|set| set.format == format);
        let combined = is(AccessLogFormat::Combined);
        let enabled = settings.is_some();
        let mut state = self.shared.state.lock();
        if state.settings != settings {
            state.settings.clone_from(&settings);
            let output = settings.map_or(Output::Nowhere, |settings| Output::Lines(settings, sink));
            self.shared.change(&mut state, Item::Switch(output));
        }
        self.shared.combined.store(combined, Ordering::Relaxed);
        self.shared.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Calls `listener` for each entry, on the writer's thread, instead of writing a line.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn hand_to(&self, listener: Listener) -> io::Result<()> {
        self.shared.start_writer()?;
        let mut state = self.shared.state.lock();
        state.settings = None;
        self.shared
            .change(&mut state, Item::Switch(Output::Listener(listener)));
        self.shared.enabled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Opens the file anew (after a rotation) for everything recorded from now on.
    pub fn reopen(&self) {
        self.shared
            .change(&mut self.shared.state.lock(), Item::Reopen);
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
        let size = entry.size();
        let mut state = self.shared.state.lock();
        if state.waiting.len() >= MOST_WAITING || state.bytes + size > MOST_BYTES {
            drop(state);
            self.shared.metrics.access_log_dropped.increment();
            return;
        }
        state.bytes += size;
        state.waiting.push_back(Item::Entry(entry));
        let idle = state.writer == Stage::Idle;
        drop(state);
        if idle {
            self.shared.wanted.notify_one();
        }
    }

    /// Waits until everything recorded so far is written, at most `limit`, and stops the writer.
    pub fn finish(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.shared.state.lock();
        while state.writer == Stage::Busy || !state.waiting.is_empty() {
            if state.writer == Stage::None
                || self.shared.idle.wait_until(&mut state, until).timed_out()
            {
                break;
            }
        }
        if state.writer != Stage::None {
            state.writer = Stage::Stopped;
        }
        drop(state);
        self.shared.wanted.notify_one();
    }
}

impl Shared {
    fn start_writer(self: &Arc<Self>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.writer == Stage::None {
            let writer = Arc::clone(self);
            drop(threads::start("access-log", move || writer.run())?);
            state.writer = Stage::Idle;
        }
        Ok(())
    }

    fn change(&self, state: &mut State, item: Item) {
        if state.writer != Stage::None {
            state.waiting.push_back(item);
            state.changes += 1;
            self.wanted.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
