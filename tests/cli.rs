//! The program as a person meets it: what it prints, where, and how it ends.
//!
//! Expected texts are in `tests/expected/`. `UPDATE_EXPECTED=1 cargo test
//! --test cli` writes them anew; read the difference before committing it.
#![cfg(test)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

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
access_log: {format: json, file: /var/log/access.log, query: false}
request_id: X-Request-Id
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

/// An upstream that is asked twice: it answers `GET /` itself, and the probe with `status`.
fn upstream(status: &'static str) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::Builder::new().spawn(move || {
        for (line, answer) in [
            ("GET / HTTP/1.1\r\n", "400 Bad Request"),
            ("GET http://probe.test/x HTTP/1.1\r\n", status),
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head).unwrap() > 0 {}
            assert!(head.starts_with(line), "{head}");
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    (port, thread.unwrap())
}

/// What `--check --probe` says after the report, and its exit code.
fn probe(test: &str, ports: &[u16]) -> (String, Option<i32>) {
    let folder = folder(test);
    let upstreams: Vec<String> = ports
        .iter()
        .zip(["one", "two"])
        .map(|(port, name)| format!("{{url: 'http://127.0.0.1:{port}', name: {name}}}"))
        .collect();
    let config = format!(
        "listen: 127.0.0.1:0\n\
         health_check: {{url: 'http://probe.test/x', timeout_secs: 60}}\n\
         upstream: [{}]\n",
        upstreams.join(", ")
    );
    fs::write(folder.join("config.yaml"), config).unwrap();
    let output = run(&folder, &["--check", "--probe"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let (_, told) = printed.split_once("\nconfig.yaml: valid\n").unwrap();
    (told.to_owned(), output.status.code())
}

#[test]
fn a_probe_says_what_each_upstream_answered_and_who_would_serve() {
    let ((one, first), (two, second)) = (upstream("204 No Content"), upstream("403 Forbidden"));
    let told = "\nprobe (http://probe.test/x, wants 204)\n  \
                one: online; answers for itself with 400; the probe got 204\n  \
                two: offline; answers for itself with 400; the probe got 403\n\n\
                the probe passes through 1 of 2 upstreams\n\
                a relay would serve through these; where the others work, set health_check.url to \
                something that is reached through them, too, or to none\n";
    assert_eq!(probe("probe", &[one, two]), (told.to_owned(), Some(0)));
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn a_probe_that_passes_nowhere_ends_with_1_and_names_the_remedy() {
    let ((one, first), (two, second)) = (upstream("403 Forbidden"), upstream("302 Found"));
    let told = "\nprobe (http://probe.test/x, wants 204)\n  \
                one: online; answers for itself with 400; the probe got 403\n  \
                two: online; answers for itself with 400; the probe got 302\n\n\
                the probe passes through none of 2 upstreams: http://probe.test/x is at fault, or the \
                way to it\n\
                a relay would serve all the same, through 2 of 2 upstreams, and not believe the probe\n\
                set health_check.url to something that is reached through them, or to none\n";
    assert_eq!(probe("probe-none", &[one, two]), (told.to_owned(), Some(1)));
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn a_probe_of_a_file_that_is_not_valid_asks_nobody() {
    let folder = folder("probe-broken");
    fs::write(folder.join("config.yaml"), OLD).unwrap();
    let output = run(&folder, &["--check", "--probe"]);
    check(&output, 78, &expected("check_old.txt", &output.stdout), "");
    let output = run(&folder, &["--probe"]);
    assert_eq!(output.status.code(), Some(2));
}

fn private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running relay, ended at the end of its test.
struct Running {
    child: Child,
    admin: String,
}

impl Running {
    /// Starts the program with a configuration that has `admin_listen: 127.0.0.1:0`; at most
    /// `files` may be open in it.
    fn start(folder: &Path, config: &str, files: u32) -> Self {
        fs::write(folder.join("config.yaml"), config).unwrap();
        private(&folder.join("config.yaml"));
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -n \"$1\" && exec \"$0\""])
            .arg(env!("CARGO_BIN_EXE_http-proxy-lb"))
            .arg(files.to_string())
            .current_dir(folder)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let says_where = |line: String| {
            let (_, rest) = line.split_once("the admin endpoints are at ")?;
            Some(rest.trim().to_owned())
        };
        let admin = log.by_ref().find_map(|line| says_where(line.unwrap()));
        // Nobody reads on, so nobody may be made to wait for a reader.
        thread::Builder::new()
            .spawn(move || log.for_each(drop))
            .unwrap();
        Self {
            child,
            admin: admin.expect("the log says where the admin server is"),
        }
    }

    fn status(&self, folder: &Path, arguments: &[&str]) -> Output {
        let arguments = [&["status", "--admin", &self.admin], arguments].concat();
        run(folder, &arguments)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // In order, so that it takes its temporary folder along.
        let process = self.child.id().to_string();
        let told = Command::new("kill").arg(process).status();
        if told.is_ok_and(|status| status.success()) {
            self.child.wait().unwrap();
        } else {
            self.child.kill().unwrap();
        }
    }
}

/// A configuration with an upstream that passes every probe.
fn observed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It serves as long as the relay asks; that ends with the test.
    thread::Builder::new()
        .spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 1024];
                if stream.read(&mut head).is_ok_and(|length| length > 0) {
                    drop(stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"));
                }
            }
        })
        .unwrap();
    format!(
        "listen: 127.0.0.1:0\nadmin_listen: 127.0.0.1:0\nhealth_check: {{url: 'http://probe.test/'}}\n\
         upstream:\n  - {{url: 'http://127.0.0.1:{port}', name: one}}\n"
    )
}

#[test]
fn the_state_of_a_running_relay_is_shown() {
    let folder = folder("status");
    let relay = Running::start(&folder, &observed(), 1024);
    let output = relay.status(&folder, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("ready  version "), "{text}");
    assert!(text.contains("\none       online "), "{text}");
    let output = relay.status(&folder, &["--live"]);
    check(&output, 0, "live\n", "");
    let output = relay.status(&folder, &["--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("{\"uptime_seconds\":"), "{text}");
}

#[test]
fn a_relay_without_upstreams_is_not_ready() {
    let folder = folder("status-not-ready");
    let config = "listen: 127.0.0.1:0\nadmin_listen: 127.0.0.1:0\nupstream: []\n";
    let relay = Running::start(&folder, config, 1024);
    let output = relay.status(&folder, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.starts_with("not ready (no upstream is configured)  "),
        "{text}"
    );
    check(&relay.status(&folder, &["--live"]), 0, "live\n", "");
}

#[test]
fn the_token_is_read_from_a_file_and_wanted_where_there_is_one() {
    let folder = folder("status-token");
    let config = format!("{}admin_token: sesame-sesame-sesame\n", observed());
    let relay = Running::start(&folder, &config, 1024);
    let output = relay.status(&folder, &[]);
    let url = relay.admin.trim_end_matches('/');
    let wanted =
        format!("{url}: the admin token is wanted: name a file that holds it with --token-file\n");
    check(&output, 1, "", &wanted);
    fs::write(folder.join("token"), "sesame-sesame-sesame\n").unwrap();
    let token = folder.join("token");
    let with_mode = |mode: u32| {
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        let output = relay.status(&folder, &["--token-file", "token"]);
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    assert_eq!(with_mode(0o600), (Some(0), String::new()));
    let advice = "--token-file token: everybody may read it: chmod o-rwx it\n";
    assert_eq!(with_mode(0o644), (Some(0), advice.to_owned()));
    let refused =
        "--token-file token: everybody may write to it, so it is no secret: chmod o-rwx it\n";
    assert_eq!(with_mode(0o666), (Some(1), refused.to_owned()));
    fs::write(&token, vec![b'x'; (1 << 20) + 1]).unwrap();
    let too_large = "--token-file token: is larger than 1 MiB\n";
    assert_eq!(with_mode(0o600), (Some(1), too_large.to_owned()));
}

#[test]
fn who_cannot_be_asked_is_told_and_the_end_is_1() {
    let folder = folder("status-nobody");
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}");
    let output = run(&folder, &["status", "--admin", &url]);
    let said = format!("{url}: the connection is refused: is the relay running?\n");
    check(&output, 1, "", &said);
    fs::write(folder.join("config.yaml"), OLD).unwrap();
    let output = run(&folder, &["status"]);
    let said = "config.yaml: admin_listen is not set, so nobody can be asked: set it and restart, or \
                name a server with --admin URL\n";
    check(&output, 1, "", said);
}

#[test]
fn the_admin_server_survives_the_exhaustion_of_descriptors() {
    let folder = folder("exhaustion");
    let relay = Running::start(&folder, &observed(), 40);
    let address: SocketAddr = relay
        .admin
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .unwrap();
    for _ in 0..3 {
        let silent: Vec<_> = (0..100)
            .map(|_| TcpStream::connect_timeout(&address, PATIENCE).unwrap())
            .collect();
        check(&relay.status(&folder, &["--live"]), 0, "live\n", "");
        drop(silent);
        check(&relay.status(&folder, &["--live"]), 0, "live\n", "");
    }
}
