//! Clients that speak another protocol to the port: a setting is wrong somewhere, and whoever reads the log
//! can tell where.

use std::net::IpAddr;

use crate::net::log_limiter::LogLimiter;
use crate::protocol::answer::Refusal;

static TLS: LogLimiter = LogLimiter::new();
static SOCKS: LogLimiter = LogLimiter::new();

/// Tells the operator what such a client should have been told. The client itself cannot read our answer.
pub(super) fn tell(client: IpAddr, refusal: &Refusal) {
    let limiter = if *refusal == Refusal::TlsToPlainPort {
        &TLS
    } else if *refusal == Refusal::SocksToHttpPort {
        &SOCKS
    } else {
        return;
    };
    if let Some(suppressed) = limiter.allow() {
        log::warn!("{client}: {}{suppressed}", refusal.sentence());
    }
}
