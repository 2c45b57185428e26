//! Which upstream gets a request, which one is out of use, and what may follow a failure.
//!
//! Everything here is a decision over values: no IO, no clock (time is an argument), no thread. So
//! each rule is a table test, and a picture of the pool can be taken at any moment without waiting.
//!
//! Read in this order: [`reason`] and [`state`] (one upstream: online, suspect or offline), [`vitals`]
//! (the same, shared between threads, with load, latency and errors), [`latency`] (the last ones), `majority` (whose errors they are), [`upstream`]
//! (with what the configuration says), [`told`] (what it is told of clients), `tls` (how it is known over TLS, with the feature `tls`), [`pick`] (the choice), [`sticky`] and [`rests`] (what may change it),
//! [`wish`] and [`tried`] (what one exchange wants and has had), [`groups`] and [`pool`] (all of them), [`succession`] (who stays over a reload), [`belief`] (in the target of the probe), [`failover`] (after a failure),
//! [`history`] (what happened, for people).
//!
//! Not here: connecting, probing ([`crate::health`]), and the counting of requests as a whole.

pub mod belief;
pub mod connect;
pub mod failover;
pub mod groups;
pub mod history;
pub mod latency;
mod majority;
pub mod pick;
pub mod pool;
pub mod reason;
pub mod rests;
pub mod room;
pub mod state;
pub mod sticky;
pub mod succession;
#[cfg(feature = "tls")]
pub mod tls;
pub mod told;
pub mod tried;
pub mod upstream;
pub mod vitals;
pub mod wish;

#[cfg(test)]
mod tests;
