//! A load balancer for HTTP proxies.

pub mod protocol;

pub mod balance;
pub mod route;

pub mod config;
pub mod metrics;

pub mod access_log;
pub mod logging;
pub mod net;
pub mod stop;

pub mod relay;

pub mod health;
pub mod reload;

pub mod server;

pub mod demo;

pub mod cli;
