//! Named threads within the process's budget.
//!
//! A thread that cannot be had is no reason to panic. Those of busy tunnels and of long exchanges come and
//! go with their peers, so they share one [`Permits`] budget; the threads of the server itself
//! do not count.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};
use std::thread::{self, Builder, JoinHandle};

use rustix::process::{Resource, getrlimit};

use super::permits::{ClientPermit, PerClient, Permit, Permits};

/// Stack of every thread but those that look names up, in bytes. The deepest path (a request through head
/// parsing) takes about a fortieth of it, and `relay/tests.rs` walks it on an eighth. Only what is touched is ever resident; but of threads that left, the C library keeps stacks of
/// 40 MiB in all for the next ones, with what was touched of them, so larger ones are fewer.
pub const STACK: usize = 1024 * 1024;

/// The most threads tunnels and long exchanges may use when the system names no lower limit.
const MOST_LONG_THREADS: usize = 16_384;

/// Cores that this process may use; asked of the system once.
static CORES: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(2, usize::from));

/// How many cores this process may use.
pub fn cores() -> usize {
    *CORES
}

/// Starts a named thread.
///
/// # Errors
/// When the system has no thread left (a limit of the user, of the cgroup, or memory).
pub fn start<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    start_with_stack(STACK, name, run)
}

/// The same with a stack of so many bytes.
///
/// # Errors
/// As [`start`].
pub(super) fn start_with_stack<T: Send + 'static>(
    stack: usize,
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new()
        .name(name.to_owned())
        .stack_size(stack)
        .spawn(run)
}

/// Threads for what lasts: one for each busy direction of a tunnel, one for a long exchange.
#[derive(Clone, Debug)]
pub struct LongThreads {
    permits: Arc<Permits>,
    shares: Arc<PerClient>,
}

impl LongThreads {
    /// A budget of three quarters of what the system allows this user, at most 16384.
    pub fn within_system_limits() -> Self {
        let allowed = getrlimit(Resource::Nproc).current.unwrap_or(u64::MAX);
        let allowed = allowed.min(cgroup_limit().unwrap_or(u64::MAX));
        let budget = usize::try_from(allowed / 4 * 3).unwrap_or(usize::MAX);
        Self::of(budget.min(MOST_LONG_THREADS))
    }

    /// A budget of so many.
    pub(super) fn of(budget: usize) -> Self {
        Self {
            permits: Permits::new(budget),
            shares: Arc::default(),
        }
    }

    /// Counts one more thread that works for `client`, unless too few are left: the last eighth is for
    /// clients that have less than half of the budget.
    pub fn share(&self, client: IpAddr) -> Option<ClientPermit> {
        let budget = self.permits.limit();
        let most = if self.permits.taken() >= budget - budget / 8 {
            NonZeroUsize::new(budget / 2)
        } else {
            None
        };
        self.shares.take(client, most)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_all_threads_for_tunnels() {
        let threads = LongThreads::of(32);
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let all = |client| -> Vec<_> {
            std::iter::from_fn(|| Some((threads.share(client)?, threads.take(1)?))).collect()
        };
        let many = all(greedy);
        assert_eq!((many.len(), threads.taken()), (28, 28));
        let few = all(other);
        assert_eq!((few.len(), threads.taken()), (4, 32));
        drop((many, few));
        assert_eq!(threads.taken(), 0);
    }
}
