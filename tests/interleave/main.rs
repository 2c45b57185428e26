//! What several threads do at once, in every order there is.
//!
//! Where counts and ownership change hands (permits, leases, the snapshot, idle connections to
//! upstreams, parked client connections), a rare order of two threads could leak a count, give one
//! connection to two owners, or let a request sleep for ever. A test that starts threads meets such an
//! order by luck. So here nothing runs at once: each thread is a list of steps, one test goes through
//! **every** interleaving of them, each from the start, and looks after each step whether all is well.
//!
//! **Why by hand and not `loom`.** A step here is one operation of the real type, and each of them
//! touches what is shared in one critical section or one atomic read-modify-write, so that orders
//! *within* an operation add nothing: `Permits::take` and the drop of a permit are one update of one
//! counter each, `PerClient` and `IdlePool` hold their lock, the snapshot is a value behind a lock, a lease
//! counts in one update. Each counter stands for itself and guards no other memory, so the weak orders
//! of memory, which `loom` would go through, too, cannot tell on it (`Relaxed` keeps the total order of
//! one variable). And `loom` would have its own types in the place of every lock and atomic of `src`, and
//! bring two dozen packages into the lock file that auditors read.
//!
//! What belongs to the server alone (a parked connection: the waiter, its events, the workers) cannot be
//! built from outside; `parking` has a model of that protocol, and goes through all of its states.
#![cfg(test)]

mod counts;
mod explorer;
mod idle_pool;
mod parking;
mod snapshot;
