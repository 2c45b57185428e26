//! HTTP/1.x as values: bytes in, bytes out (RFC 9110, RFC 9112).
//!
//! Nothing here does IO, reads a clock or blocks, so every rule of the
//! protocol is a table test. What can be read in two ways is refused and never
//! repaired: two hops that disagree about a message are a request-smuggling
//! hole (RFC 9112 §11.2).
//!
//! | module | problem | where it is settled |
//! |---|---|---|
//! | [`target`], `name` | where a request leads | RFC 9112 §3.2 |
//! | [`fields`] | field lines, lists, hop-by-hop | RFC 9110 §5, §7.6.1 |
//! | [`head`] | start line and field lines | RFC 9112 §2 to §5 |
//! | [`framing`] | where a body ends | RFC 9112 §6 |
//! | [`chunked`] | what each byte of a chunked body is | RFC 9112 §7.1 |
//! | `trailers` | which trailer fields go on | RFC 9110 §6.5 |
//! | [`body`] | which bytes of a body go on | RFC 9112 §6.3, §7.1 |
//! | [`persistence`] | does the connection go on | RFC 9112 §9 |
//! | `hop` | what a message asks of this hop | RFC 9110 §7.6.2, §7.8, §10.1.1 |
//! | [`rewrite`] | the head that goes on | RFC 9110 §7.6, RFC 9112 §3.2 |
//! | [`credentials`] | Basic authentication | RFC 7617 |
//! | [`forwarded`] | who the client is, in a field | RFC 7239 |
//! | [`proxy_header`] | who the client of a balancer is | the PROXY protocol |
//! | [`request_id`] | the name of a request | ULID |
//! | [`retry_after`] | when an answer says to come again | RFC 9110 §10.2.3 |
//! | [`shown`] | a head without its secrets | |
//! | [`socks`] | a connection through a SOCKS5 proxy | RFC 1928, RFC 1929 |
//! | `tls` (feature `tls`) | why an upstream cannot be reached over TLS | RFC 9209 |
//! | `cause` | what is said of each cause | RFC 9110 §15, RFC 9209 |
//! | [`answer`] | what this proxy says itself | RFC 9110 §15, RFC 9209 |

pub mod answer;
pub mod body;
mod cause;
pub mod chunked;
pub mod credentials;
pub mod decimal;
pub mod fields;
pub mod forwarded;
pub mod framing;
pub mod head;
mod hop;
mod name;
pub mod persistence;
pub mod proxy_header;
pub mod request_id;
pub mod retry_after;
pub mod rewrite;
pub mod shown;
pub mod socks;
mod start_line;
mod swar;
pub mod target;
#[cfg(feature = "tls")]
pub mod tls;
mod trailers;
