//! The command line: arguments in, exit code out.
//!
//! What is printed here is for the person who typed the command; what happens
//! later goes to the log. Running is the business of other modules.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config;
use crate::config::checked::Config;
use crate::config::findings::{ConfigErrors, Notice, Strictness};
use crate::config::report::CheckReport;
use crate::health::survey;
use crate::logging::{self, Filter};
use crate::net::inherited::InheritedSockets;
use crate::status::{self, Shown, StatusError, StatusOf, StatusRequest};
use crate::{demo, reload, server};

/// The program could not start, or failed while it ran.
const EXIT_FAILURE: u8 = 1;
/// The command was misspelled.
const EXIT_USAGE: u8 = 2;
/// The configuration cannot be used (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;

/// The environment variable with the levels of the log.
const RUST_LOG: &str = "RUST_LOG";

/// What the command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    /// Relay until a signal.
    Run { config: PathBuf },
    /// Say what the configuration means; with a probe, whether its upstreams work, too.
    Check {
        config: PathBuf,
        strictness: Strictness,
        probe: bool,
    },
    /// Show everything without a configuration.
    Demo,
    /// Ask a running relay how it is.
    Status(StatusRequest),
}

/// Does what the arguments say; the first one is the name of the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        // help and version come as errors, too, and go to standard output
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            return printed(error.print(), code);
        }
    };
    let ended = match wish(&matches) {
        Wish::Check {
            config,
            strictness,
            probe: asks,
        } => check(&config, strictness).map(|config| {
            if asks {
                probe(&config)
            } else {
                ExitCode::SUCCESS
            }
        }),
        Wish::Run { config } => {
            // Before the log has a descriptor, which would be taken for one that was passed.
            let passed = InheritedSockets::of_environment();
            start_log(&matches);
            relay(&config, passed)
        }
        Wish::Demo => {
            start_log(&matches);
            Ok(ended(demo::run()))
        }
        Wish::Status(question) => Ok(ask(&question)),
    };
    ended.unwrap_or_else(|code| code)
}

fn config_argument() -> Arg {
    Arg::new("config")
        .short('c')
        .long("config")
        .value_name("FILE")
        .default_value("config.yaml")
        .value_parser(value_parser!(PathBuf))
        .help("The configuration file")
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

fn status_command() -> Command {
    let admin = Arg::new("admin")
        .long("admin")
        .value_name("URL")
        .conflicts_with("config")
        .help("The admin server to ask, like http://127.0.0.1:9090, instead of the one in FILE");
    let token_file = Arg::new("token-file")
        .long("token-file")
        .value_name("F")
        .value_parser(value_parser!(PathBuf))
        .help("A file with the admin token, instead of the one in FILE");
    Command::new("status")
        .about("Show the state of a running relay")
        .after_help("Exit codes: 0 if it is ready (with --live: if it lives), 1 if not.")
        .args([
            config_argument(),
            admin,
            token_file,
            flag("json", "Print what the relay says, for programs"),
            flag("live", "Ask only whether it lives").conflicts_with("json"),
            flag("watch", "Show it again every two seconds").conflicts_with("live"),
        ])
}

fn command() -> Command {
    let check = flag("check", "Check FILE, print what it means and start nothing");
    let probe = flag(
        "probe",
        "With --check ask every upstream once, too, and say what each answered",
    );
    let lenient = flag(
        "lenient",
        "With --check judge as a start or a reload does, which take some mistakes with a warning",
    );
    let levels = PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"]);
    let log_level = Arg::new("log-level")
        .long("log-level")
        .value_name("LEVEL")
        .global(true)
        .value_parser(levels)
        .help("How much is logged to standard error [default: RUST_LOG, or info]");
    let demo = Command::new("demo").about(
        "Show everything with nothing installed: the relay with upstream proxies and an origin of \
         its own, on loopback ports",
    );
    Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .after_help(
            "Exit codes: 0 after a clean stop, 1 if it cannot start or fails, or no upstream passes \
             --probe, 2 for a misspelled command, 78 for a configuration that cannot be used.",
        )
        .args([config_argument(), check, lenient.requires("check")])
        .args([probe.requires("check"), log_level])
        .subcommands([demo, status_command()])
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
}

fn wish(matches: &ArgMatches) -> Wish {
    match matches.subcommand() {
        Some(("status", asked)) => return Wish::Status(question(asked)),
        Some(_) => return Wish::Demo,
        None => {}
    }
    let config = matches
        .get_one::<PathBuf>("config")
        .cloned()
        .unwrap_or_default();
    if !matches.get_flag("check") {
        return Wish::Run { config };
    }
    Wish::Check {
        config,
        strictness: if matches.get_flag("lenient") {
            Strictness::Lenient
        } else {
            Strictness::Strict
        },
        probe: matches.get_flag("probe"),
    }
}

fn question(asked: &ArgMatches) -> StatusRequest {
    let config = asked.get_one::<PathBuf>("config").cloned();
    StatusRequest {
        of: match asked.get_one::<String>("admin") {
            Some(url) => StatusOf::Admin(url.clone()),
            None => StatusOf::Config(config.unwrap_or_default()),
        },
        token_file: asked.get_one::<PathBuf>("token-file").cloned(),
        shown: match (asked.get_flag("live"), asked.get_flag("json")) {
            (true, _) => Shown::Life,
            (false, true) => Shown::Json,
            (false, false) => Shown::Table,
        },
        again: asked.get_flag("watch"),
    }
}

/// `--check`: what it means goes to standard output, what is wrong with it to standard error.
///
/// # Errors
/// The exit code, if that is all there is to do.
fn check(path: &Path, strictness: Strictness) -> Result<Config, ExitCode> {
    let judged = match strictness {
        Strictness::Lenient => reload::judge(path),
        Strictness::Strict => config::load(path),
    };
    let config = judged.map_err(|errors| refuse(&errors, strictness))?;
    let is_refused = strictness == Strictness::Strict && config.relies_on_compatibility();
    let verdict = if is_refused {
        "not valid; a start or a reload takes it with warnings (--check --lenient)"
    } else {
        "valid"
    };
    let meant = writeln!(io::stdout(), "{}", CheckReport { config: &config });
    let found = tell(&config.warnings, strictness);
    let judged = writeln!(io::stdout(), "{}: {verdict}", path.display());
    let told = meant.and(found).and(judged);
    if is_refused {
        Err(printed(told, EXIT_CONFIG))
    } else if told.is_err() {
        Err(printed(told, 0))
    } else {
        Ok(config)
    }
}

/// `--probe`: whether there is an upstream that serves, if one is needed.
fn probe(config: &Config) -> ExitCode {
    let survey = survey::survey(config);
    let is_good = survey.has_passed() || !config.rules.needs_upstream();
    let code = if is_good { 0 } else { EXIT_FAILURE };
    printed(write!(io::stdout(), "{survey}"), code)
}

fn relay(path: &Path, passed: io::Result<InheritedSockets>) -> Result<ExitCode, ExitCode> {
    let config = reload::judge(path).map_err(|errors| refuse(&errors, Strictness::Lenient))?;
    logging::set_format(config.log_format);
    for notice in &config.warnings {
        log::warn!("{notice}");
    }
    Ok(ended(
        passed.and_then(|passed| server::run(config, path, passed)),
    ))
}

/// `status`: the answer goes to standard output, errors to standard error.
fn ask(question: &StatusRequest) -> ExitCode {
    match status::run(question) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILURE),
        Err(StatusError::Config(errors)) => refuse(&errors, Strictness::Lenient),
        Err(error @ StatusError::Other(_)) => {
            printed(writeln!(io::stderr(), "{error}"), EXIT_FAILURE)
        }
    }
}

fn start_log(matches: &ArgMatches) {
    let asked = matches
        .get_one::<String>("log-level")
        .and_then(|word| word.parse().ok());
    let from_environment = std::env::var(RUST_LOG).ok();
    if let Err(error) = logging::start(Filter::choose(asked, from_environment.as_deref())) {
        // a log is there, else this would not have failed
        log::warn!("{error}");
    }
}

fn refuse(errors: &ConfigErrors, strictness: Strictness) -> ExitCode {
    printed(tell(&errors.errors, strictness), EXIT_CONFIG)
}

fn tell(found: &[Notice], strictness: Strictness) -> io::Result<()> {
    found.iter().try_for_each(|notice| {
        let line = logging::finding(notice.level(strictness), &notice.to_string());
        io::stderr().write_all(line.as_bytes())
    })
}

fn ended(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// `code`, unless printing failed. A reader that closes the pipe (`--check | head`)
/// has seen enough, which is no failure.
fn printed(result: io::Result<()>, code: u8) -> ExitCode {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(EXIT_FAILURE),
        Ok(()) | Err(_) => ExitCode::from(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(config: &str) -> Wish {
        Wish::Run {
            config: config.into(),
        }
    }

    fn check_wish(arguments: &str, wanted: &Wish) {
        let words = std::iter::once("http-proxy-lb").chain(arguments.split_whitespace());
        let matches = command().try_get_matches_from(words).unwrap();
        assert_eq!(&wish(&matches), wanted, "{arguments}");
    }

    #[test]
    fn the_command_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn without_a_word_the_relay_runs_with_the_default_file() {
        check_wish("", &run_with("config.yaml"));
        check_wish("-c x.yaml", &run_with("x.yaml"));
        check_wish("--config=x.yaml --log-level debug", &run_with("x.yaml"));
        let (strict, lenient) = (Strictness::Strict, Strictness::Lenient);
        let check_with = |config: &str, strictness, probe| Wish::Check {
            config: config.into(),
            strictness,
            probe,
        };
        check_wish("--check", &check_with("config.yaml", strict, false));
        check_wish("--check -c x", &check_with("x", strict, false));
        check_wish("--check --probe -c x", &check_with("x", strict, true));
        check_wish("--check --lenient -c x", &check_with("x", lenient, false));
        check_wish(
            "--lenient --check --probe -c x",
            &check_with("x", lenient, true),
        );
        check_wish("demo", &Wish::Demo);
        check_wish("demo --log-level trace", &Wish::Demo);
    }

    #[test]
    fn a_question_says_whom_and_what() {
        let question = |of: StatusOf, shown: Shown| StatusRequest {
            of,
            token_file: None,
            shown,
            again: false,
        };
        let config = |file: &str| StatusOf::Config(file.into());
        let asked = question(config("config.yaml"), Shown::Table);
        check_wish("status", &Wish::Status(asked));
        let asked = question(config("x"), Shown::Json);
        check_wish("status -c x --json", &Wish::Status(asked));
        let asked = question(StatusOf::Admin("http://h:1".to_owned()), Shown::Life);
        check_wish("status --admin http://h:1 --live", &Wish::Status(asked));
        let asked = StatusRequest {
            token_file: Some("f".into()),
            again: true,
            ..question(config("config.yaml"), Shown::Table)
        };
        check_wish("status --watch --token-file f", &Wish::Status(asked));
    }

    #[test]
    fn a_misspelled_command_is_an_error() {
        for arguments in [
            "--confg x",
            "run",
            "-c",
            "--log-level loud",
            "demo --check",
            "-c x demo",
            "status --live --json",
            "status --admin http://h:1 -c x",
            "status --check",
            "--probe",
            "--lenient",
            "demo --probe",
        ] {
            let words = std::iter::once("http-proxy-lb").chain(arguments.split_whitespace());
            let error = command().try_get_matches_from(words).unwrap_err();
            assert!(error.use_stderr(), "{arguments}");
        }
    }
}
