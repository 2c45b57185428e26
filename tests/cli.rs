//! The program as a person meets it: what it prints, where, and how it ends.
//!
//! Expected texts are in `tests/expected/`. `UPDATE_EXPECTED=1 cargo test
//! --test cli` writes them anew; read the difference before committing it.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder for one test, empty at its start.
fn folder(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    path
}

/// Runs the program in `folder`.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_http-proxy-lb"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn check(output: &Output, code: i32, stdout: &str, stderr: &str) {
    assert_eq!(
        (
            String::from_utf8_lossy(&output.stdout).as_ref(),
            String::from_utf8_lossy(&output.stderr).as_ref(),
            output.status.code()
        ),
        (stdout, stderr, Some(code))
    );
}

/// The content of a file in `tests/expected/`; `now` becomes it when asked so.
fn expected(name: &str, now: &[u8]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/expected")
        .join(name);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, now).unwrap();
    }
    fs::read_to_string(path).unwrap()
}

const VALID: &str = "\
listen: 0.0.0.0:8080
admin_listen: 127.0.0.1:9090
admin_token: sesame-sesame-sesame
mode: priority
reload_interval_secs: 0
access_log: {format: json, file: /var/log/access.log}
limits: {max_connections: 1000, request_timeout_secs: 2.5, queue_timeout_secs: 0.25}
domain_policy: {mode: blacklist, domains: [intranet.example, 10.0.0.0/8]}
access:
  users: [{username: ann, password: sesame}]
  connect_ports: [443, 8000-8999]
upstream:
  - url: http://one.example:3128
    username: bob
    password: sesame
  - {url: 'http://[2001:db8::2]', name: two, weight: 0, priority: 5}
";

const BROKEN: &str = "\
listen: 8080
mode: fastest
max_conections: 7
limits:
  workers: many
  idle_timeout_secs: -1
  workers: 4
upstream:
  - url: socks5://bob:sesame@one.example:1080
  - url: http://two.example:99999
    weight: 1.5
  - http://three.example
";

const OLD: &str = "\
listen: 127.0.0.1:8080
lisen: 127.0.0.1:8080
upstream:
  - url: one.example:3128
  - url: http://one.example:3128
  - url: http://two.example:3128
    weight: 0
";

#[test]
fn help_is_printed_and_no_failure() {
    let output = run(&folder("help"), &["--help"]);
    check(&output, 0, &expected("help.txt", &output.stdout), "");
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = run(&folder("version"), &["--version"]);
    let wanted = format!("http-proxy-lb {}\n", env!("CARGO_PKG_VERSION"));
    check(&output, 0, &wanted, "");
}

#[test]
fn a_misspelled_command_ends_with_2() {
    let output = run(&folder("usage"), &["--chek"]);
    check(&output, 2, "", &expected("usage.txt", &output.stderr));
}

#[test]
fn a_missing_file_is_one_line_that_suggests_the_demo() {
    for arguments in [&["--check"][..], &[]] {
        let output = run(&folder(&format!("missing{}", arguments.len())), arguments);
        check(
            &output,
            78,
            "",
            "config.yaml: no such file; name another one with --config FILE, or try \
             `http-proxy-lb demo`, which needs none\n",
        );
    }
}

#[test]
fn a_valid_file_is_explained_value_by_value() {
    let folder = folder("valid");
    fs::write(folder.join("config.yaml"), VALID).unwrap();
    private(&folder.join("config.yaml"));
    let output = run(&folder, &["--check"]);
    check(&output, 0, &expected("check_valid.txt", &output.stdout), "");
}

#[test]
fn the_example_passes_the_check() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml");
    let folder = folder("example");
    fs::copy(example, folder.join("config.example.yaml")).unwrap();
    let output = run(&folder, &["--check", "--config", "config.example.yaml"]);
    check(
        &output,
        0,
        &expected("check_example.txt", &output.stdout),
        "",
    );
}

#[test]
fn every_mistake_is_told_and_the_end_is_78() {
    let folder = folder("broken");
    fs::write(folder.join("config.yaml"), BROKEN).unwrap();
    for arguments in [&["--check"][..], &[]] {
        let output = run(&folder, arguments);
        check(
            &output,
            78,
            "",
            &expected("check_broken.txt", &output.stderr),
        );
    }
}

#[test]
fn what_the_first_release_let_pass_fails_the_check() {
    let folder = folder("old");
    fs::write(folder.join("config.yaml"), OLD).unwrap();
    let output = run(&folder, &["--check"]);
    check(&output, 78, &expected("check_old.txt", &output.stdout), "");
}

#[test]
fn no_secret_is_printed() {
    let folder = folder("secrets");
    for text in [VALID, BROKEN] {
        fs::write(folder.join("config.yaml"), text).unwrap();
        let output = run(&folder, &["--check", "--log-level", "trace"]);
        for stream in [output.stdout, output.stderr] {
            let text = String::from_utf8(stream).unwrap();
            assert!(!text.contains("sesame"), "{text}");
            assert!(!text.contains("Basic "), "{text}");
        }
    }
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
