//! Which sockets were reset by the relay: of a pair of Unix sockets the other end cannot see it.
//!
//! The system numbers all sockets; those that stand for TLS are known here by their number until the
//! connection is over.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, const_mutex};
use rustix::net::sockopt::socket_cookie;

static MARKS: Mutex<Option<HashMap<u64, Arc<AtomicBool>>>> = const_mutex(None);

/// Whether the relay has reset its end; forgotten when dropped.
#[derive(Debug)]
pub(super) struct ResetMark {
    number: u64,
    is_reset: Arc<AtomicBool>,
}

impl ResetMark {
    /// That of the relay's end.
    pub(super) fn of(near: &TcpStream) -> io::Result<Self> {
        let (number, is_reset) = (socket_cookie(near)?, Arc::default());
        let mut marks = MARKS.lock();
        marks
            .get_or_insert_default()
            .insert(number, Arc::clone(&is_reset));
        Ok(Self { number, is_reset })
    }

    /// Whether it has.
    pub(super) fn is_set(&self) -> bool {
        self.is_reset.load(Ordering::Acquire)
    }
}

impl Drop for ResetMark {
    fn drop(&mut self) {
        if let Some(marks) = &mut *MARKS.lock() {
            marks.remove(&self.number);
        }
    }
}

/// Notes that the coming close of `stream` is a reset, if it stands for TLS.
pub fn mark(stream: &TcpStream) {
    if let Some(marks) = &*MARKS.lock()
        && !marks.is_empty()
        && let Ok(number) = socket_cookie(stream)
        && let Some(is_reset) = marks.get(&number)
    {
        is_reset.store(true, Ordering::Release);
    }
}
