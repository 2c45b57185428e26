//! The PROXY header at the beginning of a connection, where the configuration asks for one
//! (`listen_proxy_protocol`): from then on the client is who the balancer in front says.
//!
//! It is believed from the networks of `access.proxy_protocol_from` alone; other addresses are refused,
//! with or without a header. No client behind a balancer is on this host, whatever address it
//! names: `127.0.0.1` is the balancer's own host there.

use std::time::Instant;

use crate::net::log_limiter::LogLimiter;
use crate::net::socket::{Received, Wait};
use crate::protocol::answer::Refusal;
use crate::protocol::proxy_header::{self, ProxyHeader};

use super::client::{Arrival, Client};
use super::failed::NoRequest;
use super::snapshot::Snapshot;

/// What is said when a client has too many connections.
static COMPLAINT: LogLimiter = LogLimiter::new();

/// Reads the header of `client`, which has to have one. Never waits.
pub(super) fn read(client: &mut Client, snapshot: &Snapshot) -> Result<(), NoRequest> {
    let trusted = snapshot.config.proxy_protocol.as_ref();
    if !trusted.is_some_and(|networks| networks.contains(client.address.ip())) {
        return Err(NoRequest::Refused(Refusal::Forbidden));
    }
    loop {
        if !client.conn.unread().is_empty() {
            client.head_begun.get_or_insert_with(Instant::now);
        }
        match proxy_header::parse(client.conn.unread()) {
            Ok(Some(header)) => return accept(client, snapshot, header),
            Ok(None) => {}
            Err(error) => return Err(NoRequest::Refused(Refusal::MalformedHead(error))),
        }
        match client.conn.receive(Wait::No) {
            Ok(Received::Bytes(_)) => {}
            Ok(Received::Nothing) => return Err(NoRequest::Incomplete),
            Ok(Received::End) | Err(_) => return Err(NoRequest::Ended),
        }
    }
}

fn accept(client: &mut Client, snapshot: &Snapshot, header: ProxyHeader) -> Result<(), NoRequest> {
    client.conn.consume(header.length);
    client.arrival = Arrival::ThroughBalancer;
    if client.conn.unread().is_empty() {
        // Its first request may take its time.
        client.head_begun = None;
    }
    let Some(address) = header.client else {
        return Ok(());
    };
    client.address = address;
    client.listed.is_from(address);
    let limit = snapshot.config.limits.max_connections_per_client;
    if client.counts_for(address.ip(), limit) {
        Ok(())
    } else {
        if let Some(more) = COMPLAINT.allow() {
            log::warn!(
                "{} has all the connections that one client may have: one more is refused; see \
                 limits.max_connections_per_client{more}",
                address.ip()
            );
        }
        Err(NoRequest::Refused(Refusal::ClientConnectionLimit))
    }
}
