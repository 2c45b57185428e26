//! The program's run: from a valid configuration to the exit, steered by signals.
//!
//! SIGTERM and SIGINT drain, a second one ends at once; SIGHUP has the file looked at; SIGUSR1 reopens
//! the access log. SIGPIPE is ignored from the start (by the standard library).

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};

use crate::admin::DrainFile;
use crate::config::checked::Config;
use crate::config::source::Source;
use crate::net::inherited::InheritedSockets;
use crate::net::systemd_notifier::SystemdNotifier;
use crate::net::threads;

use super::{Drained, Options, Server};

/// Relays until it is told to stop. `source` is where `config` came from; the sockets in `passed` are used
/// in place of new ones.
///
/// # Errors
/// When the server cannot start.
pub fn run(config: Config, source: Source, passed: InheritedSockets) -> io::Result<()> {
    // Before the first thread and the first client: no signal may find its default action.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    let done = signals.handle();
    super::log_panics();
    let options = Options {
        source: Some(source),
        notifier: SystemdNotifier::of_environment(),
        drains: DrainFile::of_environment(),
        passed,
        ..Options::default()
    };
    let server = Arc::new(Server::start(config, options)?);
    let failed = done.clone();
    // It was not set before.
    drop(server.failure.told.set(Box::new(move || failed.close())));
    server.announce();
    let mut is_draining = false;
    for signal in signals.forever() {
        match signal {
            SIGHUP => server.reload_now(),
            SIGUSR1 => server.context().access_log.reopen(),
            _ if is_draining => {
                log::warn!("second signal: ending now");
                server.close_admin();
                return Ok(());
            }
            _ => {
                log::info!("stopping: no new connections; a second signal ends at once");
                is_draining = true;
                let (own, own_done) = (Arc::clone(&server), done.clone());
                let thread = threads::start("drain", move || drain(&own, &own_done));
                if let Err(error) = thread {
                    log::warn!("no thread to drain on: a second signal has no effect: {error}");
                    drain(&server, &done);
                }
            }
        }
    }
    match server.failure.thread.get() {
        None => Ok(()),
        Some(thread) => Err(io::Error::other(format!("thread {thread} panicked"))),
    }
}

/// Drains, and then ends the wait for signals.
fn drain(server: &Server, done: &Handle) {
    match server.drain() {
        Drained::Clean => log::info!("stopped"),
        Drained::Cut(1) => log::warn!("stopped; one connection was cut"),
        Drained::Cut(left) => log::warn!("stopped; {left} connections were cut"),
    }
    done.close();
}

/// Watches for SIGTERM and SIGINT until it is dropped.
#[must_use = "the signals have no effect once this is dropped"]
#[derive(Debug)]
pub struct SignalWatcher {
    signals: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalWatcher {
    /// Calls `told` for each of these signals from now on, on a thread of its own.
    ///
    /// # Errors
    /// When there is no thread or no file descriptor for it.
    pub fn start(mut told: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let handle = signals.handle();
        let thread = threads::start("signals", move || signals.forever().for_each(|_| told()))?;
        Ok(Self {
            signals: handle,
            thread: Some(thread),
        })
    }
}

impl Drop for SignalWatcher {
    fn drop(&mut self) {
        self.signals.close();
        if let Some(thread) = self.thread.take() {
            super::join(thread);
        }
    }
}

/// Whether a read from `input` would not be answered with SIGTTIN, which stops a job that runs in the
/// background of a terminal. Anything but a terminal may be read at any time.
pub fn may_read(input: impl AsFd) -> bool {
    rustix::termios::tcgetpgrp(input)
        .map_or(true, |foreground| foreground == rustix::process::getpgrp())
}
