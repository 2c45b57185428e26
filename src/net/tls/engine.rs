//! The thread that carries all connections over TLS. It starts with the first of them.
//!
//! Each socket is told of once when it changes, so what has more to move than its turn allows is remembered
//! here.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::{Condvar, Mutex, const_mutex};

use crate::net::threads;

use super::carrier::{Carrier, LOAD, Moved};

/// What the inbox says that something is in it with.
const WAKE: Token = Token(usize::MAX);
/// How often those that have a deadline are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most events taken at once.
const EVENTS: usize = 256;

/// The one there is, if its thread runs.
static ENGINE: Mutex<Option<Arc<Engine>>> = const_mutex(None);

/// What others share with the thread.
#[derive(Debug)]
struct Engine {
    waker: Waker,
    inbox: Mutex<Vec<Carrier>>,
    /// How many connections there are, those of the inbox included.
    count: Mutex<usize>,
    changed: Condvar,
}

/// What the thread has.
struct Carriers {
    engine: Arc<Engine>,
    poll: Poll,
    all: HashMap<usize, Carrier>,
    next: usize,
    /// Those that had more to move than their turn allowed.
    busy: BTreeSet<usize>,
    /// Those that have a deadline.
    leaving: BTreeSet<usize>,
}

/// Carries a connection until it is over.
pub(super) fn carry(carrier: Carrier) -> io::Result<()> {
    let mut running = ENGINE.lock();
    let engine = match &*running {
        Some(engine) => Arc::clone(engine),
        None => Arc::clone(running.insert(begin()?)),
    };
    *engine.count.lock() += 1;
    engine.inbox.lock().push(carrier);
    engine.waker.wake()
}

/// Waits until there is no connection any more.
pub(super) fn finish(limit: Duration) {
    let Some(engine) = ENGINE.lock().clone() else {
        return;
    };
    let deadline = Instant::now() + limit;
    let mut count = engine.count.lock();
    while *count > 0 && !engine.changed.wait_until(&mut count, deadline).timed_out() {}
}

fn begin() -> io::Result<Arc<Engine>> {
    let poll = Poll::new()?;
    let engine = Arc::new(Engine {
        waker: Waker::new(poll.registry(), WAKE)?,
        inbox: Mutex::default(),
        count: Mutex::default(),
        changed: Condvar::new(),
    });
    let mut carriers = Carriers {
        engine: Arc::clone(&engine),
        poll,
        all: HashMap::new(),
        next: 0,
        busy: BTreeSet::new(),
        leaving: BTreeSet::new(),
    };
    drop(threads::start("tls", move || {
        let _running = Running;
        carriers.run();
    })?);
    Ok(engine)
}

/// Says so when the thread ends, which only a failure of the system or a defect brings about: all connections
/// are cut then, and the next one starts another thread.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        *ENGINE.lock() = None;
    }
}

impl Carriers {
    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; LOAD];
        loop {
            match self.poll.poll(&mut events, self.limit()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    log::error!("cannot wait for connections over TLS: {error}");
                    return;
                }
                Ok(()) | Err(_) => {}
            }
            let mut ready = std::mem::take(&mut self.busy);
            for event in &events {
                if event.token() == WAKE {
                    self.take_inbox(&mut ready);
                    continue;
                }
                let Token(token) = event.token();
                let number = token / 2;
                if let Some(carrier) = self.all.get_mut(&number)
                    && token % 2 == 0
                {
                    carrier.note(event);
                }
                ready.insert(number);
            }
            for number in ready {
                self.advance(number, &mut buffer);
            }
            self.drop_late();
        }
    }

    /// How long nothing may be ready.
    fn limit(&self) -> Option<Duration> {
        if !self.busy.is_empty() {
            return Some(Duration::ZERO);
        }
        (!self.leaving.is_empty()).then_some(LOOK_EVERY)
    }

    fn take_inbox(&mut self, ready: &mut BTreeSet<usize>) {
        let new = std::mem::take(&mut *self.engine.inbox.lock());
        for carrier in new {
            let number = self.next;
            self.next = (number + 1) % (usize::MAX / 4);
            if let Err(error) = self.watch(&carrier, number) {
                log::debug!("cannot watch a connection over TLS: {error}");
                drop(carrier);
                self.count_one_less();
                continue;
            }
            self.all.insert(number, carrier);
            ready.insert(number);
        }
    }

    fn watch(&self, carrier: &Carrier, number: usize) -> io::Result<()> {
        let (relay, upstream) = carrier.sockets();
        let both = Interest::READABLE | Interest::WRITABLE;
        for (socket, token) in [
            (relay.as_raw_fd(), 2 * number),
            (upstream.as_raw_fd(), 2 * number + 1),
        ] {
            let registry = self.poll.registry();
            registry.register(&mut SourceFd(&socket), Token(token), both)?;
        }
        Ok(())
    }

    /// A panic costs this one connection.
    fn advance(&mut self, number: usize, buffer: &mut [u8]) {
        let Some(carrier) = self.all.get_mut(&number) else {
            return;
        };
        let moved = catch_unwind(AssertUnwindSafe(|| carrier.advance(buffer)));
        if carrier.deadline().is_some() {
            self.leaving.insert(number);
        }
        match moved.unwrap_or(Moved::Over) {
            Moved::All => {}
            Moved::Some => {
                self.busy.insert(number);
            }
            Moved::Over => self.end(number),
        }
    }

    fn end(&mut self, number: usize) {
        self.leaving.remove(&number);
        if let Some(over) = self.all.remove(&number) {
            drop(over);
            self.count_one_less();
        }
    }

    fn count_one_less(&self) {
        let mut count = self.engine.count.lock();
        *count = count.saturating_sub(1);
        self.engine.changed.notify_all();
    }

    fn drop_late(&mut self) {
        let now = Instant::now();
        let is_late = |number: &&usize| {
            let deadline = self.all.get(number).and_then(Carrier::deadline);
            deadline.is_none_or(|deadline| deadline <= now)
        };
        let late: Vec<usize> = self.leaving.iter().filter(is_late).copied().collect();
        for number in late {
            self.end(number);
        }
    }
}
