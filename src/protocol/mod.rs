//! HTTP/1.x as values: bytes in, bytes out (RFC 9110, RFC 9112).
//!
//! Nothing here does IO, reads a clock or blocks, so every rule of the
//! protocol is a table test. What can be read in two ways is refused and never
//! repaired: two hops that disagree about a message are a request-smuggling
//! hole (RFC 9112 §11.2).

pub mod fields;
pub mod framing;
pub mod head;
mod start_line;
pub mod target;
