//! End-to-end tests.
#![cfg(test)]
mod harness;
