//! Reload: the file has another content, or the operator says so.
//!
//! The file, and those that it names, are compared by content, so that a swapped symlink or two edits within a
//! second count; and parsed only where it is another ([`Trace`]). A
//! change that was not announced must look the same twice in a row: a file that is being written may be
//! valid half-way. All of a file applies, or nothing: whatever can fail comes first. A broken file is
//! complained about once per content. So is a list in a file of its own that is empty now.

mod changes;

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::access_log;
use crate::balance::history::EventKind;
use crate::config::checked::Config;
use crate::config::findings::{ConfigErrors, Notice, Strictness};
use crate::config::source::Source;
use crate::config::trace::Trace;
use crate::logging;
use crate::metrics::ReloadState;
use crate::relay::{Context, unix_ms};
use crate::stop::{Notify, Woken};

pub use changes::Changes;

/// How long a file must look the same before an unannounced change of it counts.
const SETTLE: Duration = Duration::from_millis(200);

/// Judges `source` as a start and a reload do, and changes nothing: it is valid, maybe with warnings, and the
/// file of its access log can be opened.
///
/// # Errors
/// Every mistake in it, or why there can be no access log.
pub fn judge(source: &Source) -> Result<Config, ConfigErrors> {
    let config = source.load()?;
    let settings = config.access_log.as_ref();
    match settings.map_or(Ok(()), access_log::check) {
        Ok(()) => Ok(config),
        Err(error) => Err(no_access_log(source, config.access_log_place, &error)),
    }
}

fn no_access_log(source: &Source, place: Option<Notice>, error: &io::Error) -> ConfigErrors {
    match place {
        Some(place) => ConfigErrors {
            errors: vec![Notice {
                text: error.to_string(),
                ..place
            }],
        },
        None => ConfigErrors::about_file(&source.to_string(), None, error.to_string()),
    }
}

/// Hears how reloading goes, on the reload thread.
pub trait Watcher {
    /// Something may change from now on.
    fn begins(&self);
    /// A new configuration is in force; the limits of the server are to follow it.
    fn applied(&self);
    /// All that was to be done is done, whatever came of it.
    fn over(&self);
}

/// The thread: looks at `source` every `reload_interval_secs` and when it is notified.
pub fn run(source: &Source, ctx: &Context, notify: &Notify, watcher: &dyn Watcher) {
    let mut reloader = Reloader {
        source,
        ctx,
        watcher,
        trace: None,
        unsettled: None,
        complaint: None,
        #[cfg(test)]
        loads: 0,
    };
    loop {
        let interval = ctx.snapshot().config.reload_interval;
        let pause = reloader
            .unsettled
            .as_ref()
            .map_or(interval, |_| Some(SETTLE));
        let occasion = match notify.wait(pause) {
            Woken::Stopped => return,
            Woken::Notified => Occasion::Asked,
            Woken::TimedOut => Occasion::Interval,
        };
        // Without this thread no later file would be looked at.
        if catch_unwind(AssertUnwindSafe(|| reloader.look(occasion))).is_err() {
            ctx.metrics.panics.increment();
            reloader.trace = None;
            watcher.over();
        }
    }
}

/// Why the file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// The operator wants it now.
    Asked,
    /// It is time.
    Interval,
}

struct Reloader<'a> {
    source: &'a Source,
    ctx: &'a Context,
    watcher: &'a dyn Watcher,
    /// What was read last. None: whatever came of it is to be made anew.
    trace: Option<Trace>,
    /// What came of it, if another look must find the same before it counts.
    unsettled: Option<Result<Config, ConfigErrors>>,
    /// What was complained about last.
    complaint: Option<String>,
    /// How often the files were parsed.
    #[cfg(test)]
    loads: usize,
}

impl Reloader<'_> {
    fn look(&mut self, occasion: Occasion) {
        // a pipe, as in `--config <(command)`: looking at it again would wait for a writer
        let file_type = |file| fs::metadata(file).map(|about| about.file_type());
        let is_fifo = self.source.file().map(file_type);
        let is_fifo = is_fifo.is_some_and(|kind| kind.is_ok_and(|kind| kind.is_fifo()));
        if occasion == Occasion::Asked {
            self.unsettled = None;
            self.watcher.begins();
            if is_fifo {
                let text = "is a pipe, which can be read one time: a reload needs a file";
                let file = self.source.to_string();
                self.complain(
                    &ConfigErrors::about_file(&file, None, text.to_owned()),
                    occasion,
                );
            } else {
                let found = self.load();
                self.take(found, occasion);
            }
            self.watcher.over();
            return;
        }
        if is_fifo {
            return;
        }
        let before = self.unsettled.take();
        let trace = self.trace.as_mut();
        let settled = if trace.is_some_and(|trace| trace.unchanged(Instant::now()).is_some()) {
            // without it, all was done about these files before
            before
        } else {
            let found = self.load();
            // whether there is nothing to do about it that was not done before
            let is_known = match &found {
                Ok(config) => self.ctx.snapshot().config.fingerprint == config.fingerprint,
                Err(error) => self.complaint.as_ref() == Some(&error.to_string()),
            };
            if is_known {
                return self.take(found, occasion);
            }
            if before.as_ref().map(look) == Some(look(&found)) {
                Some(found)
            } else {
                self.unsettled = Some(found);
                None
            }
        };
        if let Some(found) = settled {
            self.watcher.begins();
            self.take(found, occasion);
            self.watcher.over();
        }
    }

    /// Reads all of it.
    fn load(&mut self) -> Result<Config, ConfigErrors> {
        #[cfg(test)]
        {
            self.loads += 1;
        }
        let (found, trace) = self.source.load_traced();
        self.trace = Some(trace);
        self.accept(found?)
    }

    /// A list that has lost all its entries is not taken: that is a download which failed, more often than a wish.
    fn accept(&self, config: Config) -> Result<Config, ConfigErrors> {
        let before = self.ctx.snapshot();
        let had = |file: &String| {
            before
                .config
                .lists
                .get(file)
                .is_some_and(|count| *count > 0)
        };
        let mut lists = config.lists.iter();
        match lists.find(|(file, count)| **count == 0 && had(file)) {
            None => Ok(config),
            Some((file, _)) => Err(ConfigErrors::about_file(
                &self.source.to_string(),
                None,
                format!(
                    "the list `{file}` is empty and was not before: no longer name it if that is meant"
                ),
            )),
        }
    }

    fn take(&mut self, found: Result<Config, ConfigErrors>, occasion: Occasion) {
        let source = self.source;
        let config = match found {
            Ok(config) => config,
            Err(errors) => return self.complain(&errors, occasion),
        };
        if config.fingerprint == self.ctx.snapshot().config.fingerprint {
            if self.complaint.take().is_some() {
                let text = format!("{source} is again what is in force");
                log::info!("{text}");
                self.note(EventKind::Reloaded, &text);
            } else if occasion == Occasion::Asked {
                log::info!("{source} has not changed");
            }
            self.ctx.metrics.last_reload.lock().failure = None;
            return;
        }
        let place = config.access_log_place.clone();
        match apply(self.ctx, config) {
            Ok(changes) => {
                self.complaint = None;
                self.watcher.applied();
                log::info!("{source} is in force");
                tell(&changes);
                let sentences = changes.made.iter().chain(&changes.waiting);
                let sentences = sentences.map(String::as_str).collect::<Vec<_>>();
                let text = format!("{source} is in force: {}", sentences.join("; "));
                self.note(EventKind::Reloaded, text.trim_end_matches(": "));
            }
            Err(error) => {
                // that is no matter of the files alone
                self.trace = None;
                self.complain(&no_access_log(source, place, &error), occasion);
            }
        }
    }

    fn complain(&mut self, errors: &ConfigErrors, occasion: Occasion) {
        let complaint = errors.to_string();
        if occasion == Occasion::Asked || self.complaint.as_ref() != Some(&complaint) {
            for notice in &errors.errors {
                log::log!(notice.level(Strictness::Lenient), "{notice}");
            }
            log::error!(
                "{} is not taken: what was in force stays in force",
                self.source
            );
            // Why it is not taken: warnings would be taken for reasons, too.
            let mut reasons = errors.clone();
            let is_reason =
                |notice: &Notice| notice.level(Strictness::Lenient) == log::Level::Error;
            reasons.errors.retain(is_reason);
            let reasons = reasons.to_string();
            let text = format!("what was in force stays in force: {reasons}");
            self.note(EventKind::ReloadFailed, &text);
            self.ctx.metrics.failed_reloads.increment();
            self.ctx.metrics.last_reload.lock().failure = Some((unix_ms(), reasons));
        }
        self.complaint = Some(complaint);
    }

    /// Keeps it for people who look later.
    fn note(&self, kind: EventKind, text: &str) {
        let snapshot = self.ctx.snapshot();
        snapshot.pool.history().add(unix_ms(), kind, None, text);
    }
}

/// What a look has found, to be compared with another: the fingerprint, or the mistakes.
fn look(found: &Result<Config, ConfigErrors>) -> Result<u64, &ConfigErrors> {
    found.as_ref().map(|config| config.fingerprint)
}

fn tell(changes: &Changes) {
    if changes.made.is_empty() && changes.waiting.is_empty() {
        log::info!("it means what it meant before");
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
    let log = ctx.access_log.prepare(config.access_log.as_ref())?;
    let before = ctx.snapshot();
    let waiting = changes::keep_listeners(&before.config, &mut config);
    let made = changes::between(&before, &config);
    let changes = Changes { made, waiting };
    logging::set_format(config.log_format);
    for notice in &config.warnings {
        log::warn!("{notice}");
    }
    ctx.access_log.install(log);
    ctx.replace(config);
    ctx.metrics.reloads.increment();
    *ctx.metrics.last_reload.lock() = ReloadState {
        succeeded_unix_ms: Some(unix_ms()),
        failure: None,
        changes: changes.made.clone(),
        needs_restart: changes.waiting.clone(),
    };
    ctx.health_notify.notify_one();
    Ok(changes)
}

#[cfg(test)]
mod tests;
