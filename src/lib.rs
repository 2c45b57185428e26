//! A load balancer for HTTP proxies.

pub mod protocol;

pub mod balance;
pub mod route;

pub mod config;

pub mod logging;

pub mod health;

pub mod cli;

/// Stands in until the relay itself is here.
pub mod server {
    use std::io;
    use std::path::Path;

    use crate::config::checked::Config;

    /// Runs the relay until it is told to stop.
    ///
    /// # Errors
    ///
    /// Always, as there is no relay yet.
    pub fn run(config: Config, path: &Path) -> io::Result<()> {
        let told = format!(
            "{} is fine, but there is no relay at {} yet",
            path.display(),
            config.listen
        );
        drop(config);
        Err(io::Error::other(told))
    }
}

/// Stands in until the demonstration is here.
pub mod demo {
    use std::io;

    /// Runs the demonstration until it is told to stop.
    ///
    /// # Errors
    ///
    /// Always, as there is nothing to show yet.
    pub fn run() -> io::Result<()> {
        Err(io::Error::other("there is no demonstration yet"))
    }
}
