//! x
#![expect(dead_code, reason = "wip")]
mod findings;
mod keys;
mod locate;
mod raw;
mod reader;
