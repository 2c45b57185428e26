//! The newcomer's first command: `http-proxy-lb demo`, and the lines it prints.

use std::fs;
use std::process::{Command, Stdio};

use crate::machine::{Folder, PATIENCE, wait_until};
use crate::programs::{Spawned, run, tool};

#[test]
#[ignore = "needs curl (Debian package curl)"]
fn the_lines_that_the_demo_prints_work_as_they_stand() {
    let folder = Folder::new();
    let output = folder.path().join("output");
    let mut command = Command::new(env!("CARGO_BIN_EXE_http-proxy-lb"));
    command
        .arg("demo")
        .current_dir(folder.path())
        .stdin(Stdio::null());
    let mut demo = Spawned::start(&mut command, output.clone());
    let mut lines = Vec::new();
    wait_until(PATIENCE, "the demo prints curl lines", || {
        demo.assert_running();
        let text = fs::read_to_string(&output).unwrap_or_default();
        lines = curl_lines(&text);
        !lines.is_empty()
    });
    for line in &lines {
        // Lines for other sites need a network, which a test machine may not have.
        if line.contains("127.0.0.1") && !line.contains("example.") {
            run(tool("sh", folder.path())
                .arg("-c")
                .arg(format!("{line} --fail -sS")))
            .expect_success();
        }
    }
    assert!(demo.stop().success(), "SIGTERM ends it well");
}

fn curl_lines(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches("$ "));
    lines
        .filter(|line| line.starts_with("curl "))
        .map(str::to_owned)
        .collect()
}
