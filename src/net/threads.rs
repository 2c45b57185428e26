//! Named threads within the process's budget.
//!
//! A thread that cannot be had is an answer to give (503), not a panic. Tunnels and long exchanges
//! come and go with their peers, so they share one [`Permits`] budget; the threads of the server itself
//! do not count.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use rustix::process::{Resource, getrlimit};

use super::permits::{Permit, Permits};

/// Stack of every thread, in bytes. The deepest path (a request through head parsing, 256 fields of
/// httparse on the stack included) takes about a tenth of it; only what is touched is ever resident.
pub const STACK: usize = 256 * 1024;

/// The most threads tunnels and long exchanges may use when the system names no lower limit.
const MOST_LONG_THREADS: usize = 16_384;

/// Starts a named thread.
///
/// # Errors
/// When the system has no thread left (a limit of the user, of the cgroup, or memory).
pub fn start<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(run)
}

/// Threads for what lasts: two a tunnel, one a long exchange.
#[derive(Clone, Debug)]
pub struct LongThreads {
    permits: Arc<Permits>,
}

impl LongThreads {
    /// A budget of three quarters of what the system allows this user, at most 16384.
    pub fn within_system_limits() -> Self {
        let allowed = getrlimit(Resource::Nproc).current.unwrap_or(u64::MAX);
        let allowed = allowed.min(cgroup_limit().unwrap_or(u64::MAX));
        let budget = usize::try_from(allowed / 4 * 3).unwrap_or(usize::MAX);
        Self {
            permits: Permits::new(budget.min(MOST_LONG_THREADS)),
        }
    }

    /// Takes `count` threads out of the budget, or none.
    pub fn take(&self, count: usize) -> Option<Permit> {
        self.permits.take(count)
    }

    /// Threads taken now.
    pub fn taken(&self) -> usize {
        self.permits.taken()
    }
}

/// The most tasks this process's cgroup may hold (Linux, cgroup v2).
fn cgroup_limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = std::fs::read_to_string(format!("/sys/fs/cgroup{path}/pids.max")).ok()?;
    limit.trim().parse().ok()
}
