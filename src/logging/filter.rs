//! Which records are written: `RUST_LOG`, or `--log-level`.
//!
//! `RUST_LOG` is a level, or more: `info,http_proxy_lb::health=debug`. Whatever no directive names stays at
//! the level that stands alone, or at the default: who wants to see more of one module does not want to
//! lose the warnings of all others.

use log::{LevelFilter, Metadata};

/// What is logged unless more or less is asked for.
const LEVEL_DEFAULT: LevelFilter = LevelFilter::Info;

/// What the paths of modules here begin with.
const OWN: &str = "http_proxy_lb";

/// Libraries that tell about each of their steps: only their warnings count, unless they are named.
const TALKATIVE: &[&str] = &["ureq", "ureq_proto"];

/// The level of each module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// For modules that are not named.
    rest: LevelFilter,
    /// For these modules and those below them; a longer path counts more, then a later one.
    modules: Vec<(String, LevelFilter)>,
    /// Parts of `RUST_LOG` that say nothing.
    pub(super) misspelled: Vec<String>,
}

impl Filter {
    /// `asked` (by `--log-level`) goes before `rust_log` (the value of `RUST_LOG`), that before the
    /// default.
    pub fn choose(asked: Option<LevelFilter>, rust_log: Option<&str>) -> Self {
        let mut filter = Self {
            rest: asked.unwrap_or(LEVEL_DEFAULT),
            modules: Vec::new(),
            misspelled: Vec::new(),
        };
        if asked.is_none() {
            let parts = rust_log.unwrap_or_default().split(',').map(str::trim);
            parts
                .filter(|part| !part.is_empty())
                .for_each(|part| filter.add(part));
        }
        let quiet = filter.rest.min(LevelFilter::Warn);
        let talkative = TALKATIVE.iter().map(|name| ((*name).to_owned(), quiet));
        filter.modules.splice(0..0, talkative);
        filter
    }

    /// One part: a level, a module, or a module with its level.
    fn add(&mut self, part: &str) {
        let (name, level) = part.split_once('=').unwrap_or((part, ""));
        // As the program is called.
        let name = name.trim().replace('-', "_");
        let is_path = name.split("::").all(|step| {
            !step.is_empty() && step.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        });
        if let Ok(level) = part.parse() {
            self.rest = level;
        } else if is_path && let Ok(level) = level.trim().parse() {
            self.modules.push((name, level));
        } else if is_path && level.is_empty() && is_at_or_below(&name, OWN) {
            self.modules.push((name, LevelFilter::Trace));
        } else {
            self.misspelled.push(part.to_owned());
        }
    }

    /// The most that is written of any module.
    pub(super) fn most(&self) -> LevelFilter {
        let levels = self.modules.iter().map(|(_, level)| *level);
        levels.fold(self.rest, Ord::max)
    }

    /// Whether a record is written.
    pub(super) fn lets_pass(&self, about: &Metadata<'_>) -> bool {
        let of_module = self
            .modules
            .iter()
            .filter(|(name, _)| is_at_or_below(about.target(), name))
            .max_by_key(|(name, _)| name.len());
        about.level() <= of_module.map_or(self.rest, |(_, level)| *level)
    }
}

fn is_at_or_below(target: &str, module: &str) -> bool {
    let rest = target.strip_prefix(module);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    fn level(filter: &Filter, target: &str) -> LevelFilter {
        let passes = |level: &Level| {
            filter.lets_pass(&Metadata::builder().level(*level).target(target).build())
        };
        let most = Level::iter().filter(passes).max();
        most.map_or(LevelFilter::Off, |level| level.to_level_filter())
    }

    #[track_caller]
    fn check(rust_log: &str, wanted: &[(&str, LevelFilter)]) {
        let filter = Filter::choose(None, Some(rust_log));
        assert_eq!(filter.misspelled, [""; 0]);
        for (target, wanted) in wanted {
            assert_eq!(level(&filter, target), *wanted, "{rust_log}: {target}");
        }
    }

    #[test]
    fn the_argument_goes_before_the_environment() {
        use LevelFilter::{Debug, Info, Off, Trace, Warn};
        let check = |asked, rust_log, wanted| {
            let filter = Filter::choose(asked, rust_log);
            assert_eq!(level(&filter, "http_proxy_lb::health"), wanted);
        };
        check(None, None, Info);
        check(None, Some(""), Info);
        check(None, Some("debug"), Debug);
        check(None, Some(" TRACE "), Trace);
        check(None, Some("off"), Off);
        check(Some(Warn), Some("debug,http_proxy_lb::health=trace"), Warn);
        check(Some(Warn), None, Warn);
    }

    #[test]
    fn a_module_has_the_level_of_the_longest_path_that_names_it() {
        use LevelFilter::{Debug, Info, Off, Trace, Warn};
        check(
            "warn, http_proxy_lb::health=debug,http_proxy_lb::health::examiner=off",
            &[
                ("http_proxy_lb::relay", Warn),
                ("http_proxy_lb::health", Debug),
                ("http_proxy_lb::health::rules", Debug),
                ("http_proxy_lb::healthy", Warn),
                ("http_proxy_lb::health::examiner", Off),
            ],
        );
        check(
            "http-proxy-lb::net",
            &[("http_proxy_lb::net::dial", Trace), ("http_proxy_lb", Info)],
        );
        check(
            "http_proxy_lb=debug,http_proxy_lb=warn",
            &[("http_proxy_lb::net", Warn)],
        );
    }

    #[test]
    fn what_is_not_understood_is_told_and_the_rest_counts() {
        let filter = Filter::choose(None, Some("loud,debug,a b=info,x=,http_proxy_lb=9,/re"));
        assert_eq!(
            filter.misspelled,
            ["loud", "a b=info", "x=", "http_proxy_lb=9", "/re"]
        );
        assert_eq!(level(&filter, "http_proxy_lb"), LevelFilter::Debug);
    }

    #[test]
    fn only_warnings_of_talkative_libraries_are_written_unless_they_are_named() {
        use LevelFilter::{Error, Trace, Warn};
        check(
            "trace",
            &[("ureq::run", Warn), ("ureq_proto", Warn), ("ureqs", Trace)],
        );
        check("error", &[("ureq::run", Error)]);
        check("ureq=trace", &[("ureq::run", Trace), ("ureq_proto", Warn)]);
    }

    #[test]
    fn the_most_that_any_module_writes_is_known() {
        let most = |rust_log| Filter::choose(None, Some(rust_log)).most();
        assert_eq!(most("off"), LevelFilter::Off);
        assert_eq!(most("error,http_proxy_lb::net=debug"), LevelFilter::Debug);
        assert_eq!(most("info,http_proxy_lb::net=off"), LevelFilter::Info);
    }
}
