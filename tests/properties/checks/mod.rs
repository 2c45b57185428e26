//! One property each: `check(input)` panics if the relay does not hold it for these bytes.

pub(crate) mod body;
pub(crate) mod chunked;
pub(crate) mod config;
pub(crate) mod credentials;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod proxy_header;
mod reference;
pub(crate) mod rewrite;
mod script;
pub(crate) mod session;
mod stage;
mod tape;
pub(crate) mod target;
mod wire;
