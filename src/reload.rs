//! Reload: the file has another content, or somebody says so.
//!
//! The file is compared by content, so that a swapped symlink or two edits within a second count. A
//! broken file changes nothing and is complained about once per content.

use std::path::Path;

use crate::config::checked::Config;
use crate::config::{self, ConfigError};
use crate::relay::{Context, unix_ms};
use crate::stop::{Alarm, Woken};

/// The thread: looks at `file` every `reload_interval_secs` and when the alarm rings. `applied` is
/// called after each change.
pub fn run(file: &Path, ctx: &Context, alarm: &Alarm, applied: &dyn Fn(&Context)) {
    let mut complaint: Option<ConfigError> = None;
    loop {
        let interval = ctx.snapshot().config.reload_interval;
        let asked = match alarm.wait(interval) {
            Woken::Stopped => return,
            Woken::Rung => true,
            Woken::TimedOut => false,
        };
        match config::load(file) {
            Ok(config) => {
                complaint = None;
                ctx.metrics.last_reload.unchanged();
                let same = config.fingerprint == ctx.snapshot().config.fingerprint;
                if same && asked {
                    log::info!("{} has not changed", file.display());
                }
                if !same {
                    apply(ctx, config);
                    applied(ctx);
                    log::info!("{} is in force", file.display());
                }
            }
            Err(error) => {
                if asked || complaint.as_ref() != Some(&error) {
                    log::error!("the running configuration stays in force: {error}");
                    ctx.metrics.failed_reloads.increment();
                    ctx.metrics.last_reload.failed(unix_ms(), error.to_string());
                }
                complaint = Some(error);
            }
        }
    }
}

/// Puts `config` in force for every exchange that begins from now on.
pub fn apply(ctx: &Context, config: Config) {
    let before = ctx.snapshot();
    for (key, changed) in [
        ("listen", before.config.listen != config.listen),
        (
            "admin_listen",
            before.config.admin_listen != config.admin_listen,
        ),
    ] {
        if changed {
            log::warn!("{key} changed: that needs a restart");
        }
    }
    for notice in &config.warnings {
        log::warn!("{notice}");
    }
    if let Err(error) = ctx.access_log.configure(config.access_log.as_ref()) {
        log::error!("the access log is off: {error}");
    }
    ctx.replace(config);
    ctx.metrics.reloads.increment();
    ctx.metrics.last_reload.succeeded(unix_ms());
    ctx.health_alarm.ring();
}
