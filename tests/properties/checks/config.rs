//! Configuration files: whatever stands in one, there is an answer, soon and in little memory; every
//! mistake is told on lines that people can read, and what is accepted can be reported.

use std::fmt::Write;

use http_proxy_lb::config::{self, report::CheckReport};

/// The whole input is the file.
pub(crate) fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    // Files that it names are looked for where there are none.
    match config::parse(&text, "/nonexistent/http-proxy-lb/config.yaml") {
        Ok(config) => {
            let report = CheckReport { config: &config };
            check_lines(&report.to_string());
        }
        Err(errors) => {
            let mut said = String::new();
            write!(said, "{errors}").expect("a string takes everything");
            assert!(!said.trim().is_empty());
            check_lines(&said);
        }
    }
}

/// Nothing in a file can act on the terminal of who reads what is wrong with it.
fn check_lines(text: &str) {
    let is_harmful = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(is_harmful), "{text:?}");
}
