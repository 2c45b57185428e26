//! Who owns a parked client connection and who holds a permit, in every order there is.
//!
//! A connection goes to and fro between the leader of its lane, its events and followers; a rare order of two
//! threads could give it two owners, or let a request of it sleep for ever. A test that starts threads
//! meets such an order by luck, and the real thing cannot be built from outside the server: so `parking`
//! is a model of that protocol, and goes through **every** state of it that can be reached. `permits` is a model
//! of the line in which clients of all lanes stand for a permit. Both take single atomic steps apart; in coarser
//! ones `src/server/lane/orders/tests.rs` goes through the states of the real lanes, with exchanges that are
//! suspended, lent to followers and brought back, and next hops that move from lane to lane.
//!
//! What is one critical section or one atomic update of one counter needs no such model: leases, idle
//! connections and the snapshot are tested where they are.
#![cfg(test)]

mod parking;
mod permits;
