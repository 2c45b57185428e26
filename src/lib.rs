//! A load balancer for HTTP proxies.

pub mod protocol;

pub mod balance;
pub mod route;
