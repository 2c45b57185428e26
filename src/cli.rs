//! The command line: arguments in, exit code out.
//!
//! What is printed here is for the person who typed the command; what happens
//! later goes to the log. Running is the business of other modules.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::checked::Config;
use crate::config::findings::{ConfigErrors, Notice, Strictness};
use crate::config::overrides::{CONFIG, LOG_LEVEL, OPTIONS, Overrides};
use crate::config::report::CheckReport;
use crate::config::source::Source;
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

/// The version, with the commit, where that is known, and the target.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILT_FROM"), ")");

/// Where the packages put the configuration.
const INSTALLED: &str = "/etc/http-proxy-lb/config.yaml";
/// The admin server that `status` asks where no configuration names one.
const ADMIN_DEFAULT: &str = "http://127.0.0.1:9090";

/// What `init` prints.
const STARTER: &str = include_str!("../packaging/starter.yaml");

/// The shells, each with what `completions` prints.
const COMPLETIONS: [(&str, &str); 3] = [
    (
        "bash",
        include_str!("../packaging/completions/http-proxy-lb.bash"),
    ),
    (
        "zsh",
        include_str!("../packaging/completions/_http-proxy-lb"),
    ),
    (
        "fish",
        include_str!("../packaging/completions/http-proxy-lb.fish"),
    ),
];

/// What the environment says.
#[derive(Debug, Default)]
struct Environment {
    /// The configuration file.
    config: Option<PathBuf>,
    overrides: Overrides,
}

/// What the command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    /// Relay until a signal.
    Run(Source),
    /// Say what the configuration means; with a probe, whether its upstreams work, too.
    Check {
        source: Source,
        strictness: Strictness,
        probe: bool,
    },
    /// Show everything without a configuration.
    Demo,
    /// Ask a running relay how it is.
    Status(StatusRequest),
    /// Print this text, which is part of the program.
    Print(&'static str),
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
    let environment = Environment {
        config: variable(CONFIG).map(PathBuf::from),
        overrides: Overrides::of_environment(std::env::vars_os()),
    };
    let ended = match wish(&matches, environment) {
        Wish::Check {
            source,
            strictness,
            probe: asks,
        } => check(&source, strictness).map(|config| {
            if asks {
                probe(&config)
            } else {
                ExitCode::SUCCESS
            }
        }),
        Wish::Run(source) => {
            // Before the log has a descriptor, which would be taken for one that was passed.
            let passed = InheritedSockets::of_environment();
            start_log(&matches);
            relay(source, passed)
        }
        Wish::Demo => {
            start_log(&matches);
            Ok(ended(demo::run()))
        }
        Wish::Status(question) => Ok(ask(&question)),
        Wish::Print(text) => Ok(printed(io::stdout().write_all(text.as_bytes()), 0)),
    };
    ended.unwrap_or_else(|code| code)
}

fn config_argument() -> Arg {
    Arg::new("config")
        .short('c')
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// An option for each row of its table.
fn key_options() -> impl Iterator<Item = Arg> {
    OPTIONS.iter().map(|option| {
        Arg::new(option.name)
            .long(option.name)
            .value_name(option.value_name)
            .value_parser(NonEmptyStringValueParser::new())
            .action(ArgAction::Append)
            .help(option.help)
    })
}

fn status_command() -> Command {
    let admin = Arg::new("admin")
        .long("admin")
        .value_name("URL")
        .conflicts_with("config")
        .help(
            "The admin server to ask, instead of the one in FILE [default without a file: \
             http://127.0.0.1:9090]",
        );
    let token_file = Arg::new("token-file")
        .long("token-file")
        .value_name("F")
        .value_parser(value_parser!(PathBuf))
        .help("A file with the admin token, instead of the one in FILE");
    Command::new("status")
        .about("Show the state of a running relay")
        .after_help("Exit codes: 0 if it is ready (with --live: if it lives), 1 if not.")
        .args([
            config_argument().help(
                "The configuration of that relay [default: HTTP_PROXY_LB_CONFIG, \
                 /etc/http-proxy-lb/config.yaml, or config.yaml]",
            ),
            admin,
            token_file,
            flag("json", "Print what the relay says, for programs"),
            flag(
                "connections",
                "Show who is connected, where to and through whom",
            ),
            flag("live", "Ask only whether it lives").conflicts_with_all(["json", "connections"]),
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
        .help("How much is logged to standard error [default: HTTP_PROXY_LB_LOG_LEVEL, RUST_LOG, or info]");
    let demo = Command::new("demo").about(
        "Show everything with nothing installed: the relay with upstream proxies and an origin of \
         its own, on loopback ports",
    );
    let init =
        Command::new("init").about("Print a configuration to begin with: init > config.yaml");
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .required(true)
        .value_parser(PossibleValuesParser::new(
            COMPLETIONS.map(|(shell, _)| shell),
        ))
        .help("The shell that completes the words");
    let completions = Command::new("completions")
        .about("Print what a shell needs to complete options and commands")
        .arg(shell);
    let config = config_argument()
        .help("The configuration file [default: HTTP_PROXY_LB_CONFIG, or config.yaml]");
    Command::new(env!("CARGO_PKG_NAME"))
        .version(VERSION)
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .after_help(
            "Each key of the file that stands in no list has a variable in the environment, too: limits.workers is \
             HTTP_PROXY_LB_LIMITS_WORKERS, and HTTP_PROXY_LB_UPSTREAMS has the URLs of all upstreams. \
             An option wins over a variable, a variable over the file.\n\n\
             Exit codes: 0 after a clean stop, 1 if it cannot start or fails, or no upstream passes \
             --probe, 2 for a misspelled command, 78 for a configuration that cannot be used.",
        )
        .args([config, check, lenient.requires("check")])
        .args([probe.requires("check"), log_level])
        .args(key_options())
        .subcommands([demo, status_command(), init, completions])
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
}

fn wish(matches: &ArgMatches, environment: Environment) -> Wish {
    match matches.subcommand() {
        Some(("status", asked)) => return Wish::Status(question(asked, environment)),
        Some(("init", _)) => return Wish::Print(STARTER),
        Some(("completions", asked)) => return Wish::Print(completions(asked)),
        Some(_) => return Wish::Demo,
        None => {}
    }
    let mut overrides = environment.overrides;
    for option in OPTIONS {
        if let Some(values) = matches.get_many::<String>(option.name) {
            overrides.add_option(option, values.cloned().collect());
        }
    }
    let named = matches.get_one::<PathBuf>("config").cloned();
    let source = Source::new(named.or(environment.config), overrides);
    if !matches.get_flag("check") {
        return Wish::Run(source);
    }
    Wish::Check {
        source,
        strictness: if matches.get_flag("lenient") {
            Strictness::Lenient
        } else {
            Strictness::Strict
        },
        probe: matches.get_flag("probe"),
    }
}

fn completions(asked: &ArgMatches) -> &'static str {
    let wanted = asked.get_one::<String>("shell");
    let found = COMPLETIONS
        .iter()
        .find(|(shell, _)| wanted.is_some_and(|wanted| wanted == shell));
    found.map_or("", |(_, text)| text)
}

fn question(asked: &ArgMatches, environment: Environment) -> StatusRequest {
    let named = asked.get_one::<PathBuf>("config").cloned();
    StatusRequest {
        of: match asked.get_one::<String>("admin") {
            Some(url) => StatusOf::Admin(url.clone()),
            None => of_configuration(named, environment, Path::new(INSTALLED)),
        },
        token_file: asked.get_one::<PathBuf>("token-file").cloned(),
        shown: match (asked.get_flag("connections"), asked.get_flag("json")) {
            (true, true) => Shown::ConnectionsJson,
            (true, false) => Shown::Connections,
            (false, true) => Shown::Json,
            (false, false) if asked.get_flag("live") => Shown::Life,
            (false, false) => Shown::Table,
        },
        again: asked.get_flag("watch"),
    }
}

/// The relay with the configuration that was `named`, or that is found. That of a service is often
/// not for everybody to read: then its default address is asked, as where there is none.
fn of_configuration(
    named: Option<PathBuf>,
    environment: Environment,
    installed: &Path,
) -> StatusOf {
    let named = named.or(environment.config);
    let is_named = named.is_some();
    let found = || File::open(installed).is_ok().then(|| installed.to_owned());
    let source = Source::new(named.or_else(found), environment.overrides);
    if is_named || source.is_there() {
        StatusOf::Config(source)
    } else {
        StatusOf::Admin(ADMIN_DEFAULT.to_owned())
    }
}

/// `--check`: what it means goes to standard output, what is wrong with it to standard error.
///
/// # Errors
/// The exit code, if that is all there is to do.
fn check(source: &Source, strictness: Strictness) -> Result<Config, ExitCode> {
    let config = reload::judge(source).map_err(|errors| refuse(&errors, strictness))?;
    let is_refused = strictness == Strictness::Strict && config.relies_on_compatibility();
    let verdict = if is_refused {
        "not valid; a start or a reload takes it with warnings (--check --lenient)"
    } else {
        "valid"
    };
    let meant = writeln!(io::stdout(), "{}", CheckReport { config: &config });
    let found = tell(&config.warnings, strictness);
    let judged = writeln!(io::stdout(), "{source}: {verdict}");
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

fn relay(source: Source, passed: io::Result<InheritedSockets>) -> Result<ExitCode, ExitCode> {
    let config = reload::judge(&source).map_err(|errors| refuse(&errors, Strictness::Lenient))?;
    logging::set_format(config.log_format);
    if source.has_overrides() {
        log::info!("configured by {source}");
    }
    for notice in &config.warnings {
        log::warn!("{notice}");
    }
    Ok(ended(passed.and_then(|passed| {
        server::signals::run(config, source, passed)
    })))
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
    let own = variable(LOG_LEVEL).and_then(|word| word.into_string().ok());
    let asked = matches.get_one::<String>("log-level");
    let asked = asked.or(own.as_ref()).and_then(|word| word.parse().ok());
    let from_environment = std::env::var(RUST_LOG).ok();
    if let Err(error) = logging::start(Filter::choose(asked, from_environment.as_deref())) {
        // a log is there, else this would not have failed
        log::warn!("{error}");
    }
}

/// A variable of the environment; an empty one counts as absent.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
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

    fn source(config: &str) -> Source {
        Source::from(PathBuf::from(config))
    }

    fn wish_of(arguments: &str, environment: Environment) -> Wish {
        let words = std::iter::once("http-proxy-lb").chain(arguments.split_whitespace());
        let matches = command().try_get_matches_from(words).unwrap();
        wish(&matches, environment)
    }

    fn check_wish(arguments: &str, wanted: &Wish) {
        let got = wish_of(arguments, Environment::default());
        assert_eq!(&got, wanted, "{arguments}");
    }

    #[test]
    fn the_command_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn without_a_word_the_relay_runs_with_the_default_file() {
        check_wish("", &Wish::Run(source("config.yaml")));
        check_wish("-c x.yaml", &Wish::Run(source("x.yaml")));
        check_wish(
            "--config=x.yaml --log-level debug",
            &Wish::Run(source("x.yaml")),
        );
        let (strict, lenient) = (Strictness::Strict, Strictness::Lenient);
        let check_with = |config: &str, strictness, probe| Wish::Check {
            source: source(config),
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
        let config = |file: &str| StatusOf::Config(source(file));
        let asked = question(config("x"), Shown::Json);
        check_wish("status -c x --json", &Wish::Status(asked));
        let asked = question(config("x"), Shown::Connections);
        check_wish("status -c x --connections", &Wish::Status(asked));
        let asked = question(config("x"), Shown::ConnectionsJson);
        check_wish("status -c x --json --connections", &Wish::Status(asked));
        let asked = question(StatusOf::Admin("http://h:1".to_owned()), Shown::Life);
        check_wish("status --admin http://h:1 --live", &Wish::Status(asked));
        let asked = StatusRequest {
            token_file: Some("f".into()),
            again: true,
            ..question(config("x"), Shown::Table)
        };
        check_wish("status -c x --watch --token-file f", &Wish::Status(asked));
    }

    #[test]
    fn the_file_is_that_of_the_option_or_of_the_environment() {
        let environment = || Environment {
            config: Some("e.yaml".into()),
            ..Environment::default()
        };
        let wanted = Wish::Run(source("e.yaml"));
        assert_eq!(wish_of("", environment()), wanted);
        let wanted = Wish::Run(source("x.yaml"));
        assert_eq!(wish_of("-c x.yaml", environment()), wanted);
        let Wish::Status(asked) = wish_of("status", environment()) else {
            panic!("no question");
        };
        assert_eq!(asked.of, StatusOf::Config(source("e.yaml")));
    }

    #[test]
    fn who_names_nobody_asks_the_installed_relay_or_the_default_address() {
        let ask =
            |installed: &str| of_configuration(None, Environment::default(), Path::new(installed));
        let there = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/config.yaml");
        assert_eq!(ask(there), StatusOf::Config(source(there)));
        // and there is no config.yaml where the tests run
        let default = StatusOf::Admin("http://127.0.0.1:9090".to_owned());
        assert_eq!(ask("/nonexistent/config.yaml"), default);
    }

    #[test]
    fn a_text_that_is_asked_for_is_printed() {
        check_wish("init", &Wish::Print(STARTER));
        let Wish::Print(text) = wish_of("completions fish", Environment::default()) else {
            panic!("no text");
        };
        assert!(text.starts_with("# fish completion"));
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
            "status --live --connections",
            "status --admin http://h:1 -c x",
            "status --check",
            "--probe",
            "--lenient",
            "demo --probe",
            "init --check",
            "--listen 127.0.0.1:1 status",
            "--upstream= --listen 127.0.0.1:1",
            "completions",
            "completions csh",
        ] {
            let words = std::iter::once("http-proxy-lb").chain(arguments.split_whitespace());
            let error = command().try_get_matches_from(words).unwrap_err();
            assert!(error.use_stderr(), "{arguments}");
        }
    }
}
