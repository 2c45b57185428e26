//! The program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    http_proxy_lb::cli::run(std::env::args_os())
}
