//! A load balancer for HTTP proxies.

pub mod config;
