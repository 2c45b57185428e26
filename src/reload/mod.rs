//! Reload: the file has another content, or somebody says so.
//!
//! The file is compared by content, so that a swapped symlink or two edits within a second count. A
//! change that nobody announced must look the same twice in a row: a file that is being written may be
//! valid half-way. All of a file applies, or nothing: whatever can fail comes first. A broken file is
//! complained about once per content.

mod changes;

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::config::checked::Config;
use crate::config::{self, ConfigError};
use crate::relay::{Context, unix_ms};
use crate::stop::{Notify, Woken};

pub use changes::Changes;

/// How long a file must look the same before an unannounced change of it counts.
const SETTLE: Duration = Duration::from_millis(200);

/// Hears how reloading goes, on the reload thread.
pub trait Watcher {
    /// Something may change from now on.
    fn begins(&self);
    /// A new configuration is in force; the limits of the server are to follow it.
    fn applied(&self);
    /// All that was to be done is done, whatever came of it.
    fn over(&self);
}

/// The thread: looks at `file` every `reload_interval_secs` and when it is notified.
pub fn run(file: &Path, ctx: &Context, notify: &Notify, watcher: &dyn Watcher) {
    let mut reloader = Reloader {
        file,
        ctx,
        watcher,
        unsettled: None,
        complaint: None,
    };
    loop {
        let interval = ctx.snapshot().config.reload_interval;
        let pause = reloader
            .unsettled
            .as_ref()
            .map_or(interval, |_| Some(SETTLE));
        let asked = match notify.wait(pause) {
            Woken::Stopped => return,
            Woken::Notified => Asked::Yes,
            Woken::TimedOut => Asked::No,
        };
        // Without this thread no later file would be looked at.
        if catch_unwind(AssertUnwindSafe(|| reloader.look(asked))).is_err() {
            ctx.metrics.panics.increment();
            watcher.over();
        }
    }
}

/// Whether somebody wants the file to be looked at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Yes,
    No,
}

/// What a look at the file found.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Content(u64),
    Broken(ConfigError),
}

struct Reloader<'a> {
    file: &'a Path,
    ctx: &'a Context,
    watcher: &'a dyn Watcher,
    /// What the last look found, if another one must find the same before it counts.
    unsettled: Option<Look>,
    /// What was complained about last.
    complaint: Option<String>,
}

impl Reloader<'_> {
    fn look(&mut self, asked: Asked) {
        let is_fifo = is_fifo(self.file);
        if asked == Asked::Yes {
            self.unsettled = None;
            self.watcher.begins();
            if is_fifo {
                let text = "is a pipe, which can be read one time: a reload needs a file";
                self.complain(format!("{}: {text}", self.file.display()), asked);
            } else {
                self.take(config::load(self.file), asked);
            }
            self.watcher.over();
            return;
        }
        if is_fifo {
            return;
        }
        let found = config::load(self.file);
        let look = match &found {
            Ok(config) => Look::Content(config.fingerprint),
            Err(error) => Look::Broken(error.clone()),
        };
        if self.is_known(&look) {
            self.unsettled = None;
            self.take(found, asked);
        } else if self.unsettled.as_ref() == Some(&look) {
            self.unsettled = None;
            self.watcher.begins();
            self.take(found, asked);
            self.watcher.over();
        } else {
            self.unsettled = Some(look);
        }
    }

    /// Whether there is nothing to do about it that was not done before.
    fn is_known(&self, look: &Look) -> bool {
        match look {
            Look::Content(fingerprint) => self.ctx.snapshot().config.fingerprint == *fingerprint,
            Look::Broken(error) => self.complaint.as_deref() == Some(&*error.to_string()),
        }
    }

    fn take(&mut self, found: Result<Config, ConfigError>, asked: Asked) {
        let file = self.file.display();
        let config = match found {
            Ok(config) => config,
            Err(error) => return self.complain(error.to_string(), asked),
        };
        if config.fingerprint == self.ctx.snapshot().config.fingerprint {
            if asked == Asked::Yes {
                log::info!("{file} has not changed");
            }
            if self.complaint.take().is_some() {
                log::info!("{file} is again as it is in force");
            }
            self.ctx.metrics.last_reload.unchanged();
            return;
        }
        match apply(self.ctx, config) {
            Ok(changes) => {
                self.complaint = None;
                self.watcher.applied();
                log::info!("{file} is in force");
                tell(&changes);
            }
            Err(error) => self.complain(format!("{file}: {error}"), asked),
        }
    }

    fn complain(&mut self, complaint: String, asked: Asked) {
        if asked == Asked::Yes || self.complaint.as_ref() != Some(&complaint) {
            log::error!("the running configuration stays in force: {complaint}");
            self.ctx.metrics.failed_reloads.increment();
            self.ctx
                .metrics
                .last_reload
                .failed(unix_ms(), complaint.clone());
        }
        self.complaint = Some(complaint);
    }
}

/// Whether it is a pipe, as in `--config <(command)`: looking at it again would wait for a writer.
fn is_fifo(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|about| about.file_type().is_fifo())
}

fn tell(changes: &Changes) {
    if changes.made.is_empty() && changes.waiting.is_empty() {
        log::info!("nothing that it means is new");
    }
    for sentence in &changes.made {
        log::info!("{sentence}");
    }
    for sentence in &changes.waiting {
        log::warn!("{sentence}");
    }
}

/// Puts `config` in force for every exchange that begins from now on.
///
/// # Errors
/// When its access log cannot be opened; then nothing has changed.
pub fn apply(ctx: &Context, mut config: Config) -> io::Result<Changes> {
    let log = ctx
        .access_log
        .prepare(config.access_log.as_ref())
        .map_err(|error| io::Error::new(error.kind(), format!("access_log: {error}")))?;
    let before = ctx.snapshot();
    let waiting = changes::keep_listeners(&before.config, &mut config);
    let changes = Changes {
        waiting,
        ..changes::between(&before, &config)
    };
    for notice in &config.warnings {
        log::warn!("{notice}");
    }
    ctx.access_log.install(log);
    ctx.replace(config);
    ctx.metrics.reloads.increment();
    ctx.metrics
        .last_reload
        .succeeded(unix_ms(), &changes.made, &changes.waiting);
    ctx.health_notify.notify_one();
    Ok(changes)
}

#[cfg(test)]
mod tests;
