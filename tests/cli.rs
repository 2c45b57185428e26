//! The program as a person meets it: what it prints, where, and how it ends.
//!
//! Expected texts are in `tests/expected/`. `UPDATE_EXPECTED=1 cargo test
//! --test cli` writes them anew; read the difference before committing it.
#![cfg(test)]

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
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
  - url: https://bob:sesame@one.example:1080
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
fn the_version_is_that_of_the_package_with_what_it_was_built_from() {
    let output = run(&folder("version"), &["--version"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let wanted = format!("http-proxy-lb {} (", env!("CARGO_PKG_VERSION"));
    assert!(said.starts_with(&wanted) && said.ends_with(")\n"), "{said}");
    assert!(said.contains(std::env::consts::ARCH), "{said}");
}

#[test]
fn a_misspelled_command_ends_with_2() {
    let output = run(&folder("usage"), &["--chek"]);
    check(&output, 2, "", &expected("usage.txt", &output.stderr));
}

#[test]
fn a_missing_file_is_one_line_that_suggests_what_to_do() {
    for arguments in [&["--check"][..], &[]] {
        let output = run(&folder(&format!("missing{}", arguments.len())), arguments);
        check(
            &output,
            78,
            "",
            "error: config.yaml: no such file: write one with `http-proxy-lb init > config.yaml`, name \
             another with --config FILE, do without by --listen 127.0.0.1:8080 --upstream \
             http://host:port, or look around first with `http-proxy-lb demo`\n",
        );
    }
}

#[test]
fn a_valid_file_is_explained_value_by_value() {
    let folder = folder("valid");
    fs::write(folder.join("config.yaml"), VALID).unwrap();
    private(&folder.join("config.yaml"));
    let output = run(&folder, &["--check"]);
    let meaning = expected("check_valid.txt", &output.stdout);
    let found = expected("check_valid_found.txt", &output.stderr);
    check(&output, 0, &meaning, &found);
}

#[test]
fn what_init_prints_is_a_configuration_without_a_fault() {
    let folder = folder("init");
    let output = run(&folder, &["init"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    fs::write(folder.join("config.yaml"), &output.stdout).unwrap();
    let checked = run(&folder, &["--check"]);
    let found = String::from_utf8_lossy(&checked.stderr);
    assert_eq!((checked.status.code(), &*found), (Some(0), ""));
}

#[test]
fn completions_are_printed_for_each_shell() {
    for (shell, file) in [
        ("bash", "http-proxy-lb.bash"),
        ("zsh", "_http-proxy-lb"),
        ("fish", "http-proxy-lb.fish"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completions");
        let wanted = fs::read_to_string(path.join(file)).unwrap();
        let output = run(
            &folder(&format!("completions-{shell}")),
            &["completions", shell],
        );
        check(&output, 0, &wanted, "");
    }
}

#[test]
fn without_a_file_options_and_variables_are_checked_and_told_by_their_names() {
    let folder = folder("overrides");
    let checked = |upstreams: &str, options: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_http-proxy-lb"))
            .args(["--check", "--listen", "127.0.0.1:8080"])
            .args(options)
            .env("HTTP_PROXY_LB_UPSTREAMS", upstreams)
            .env("HTTP_PROXY_LB_LIMITS_QUEUE", "7")
            .current_dir(&folder)
            .output()
            .unwrap()
    };
    let good = checked("http://ann:sesame@one.example:3128 http://two.example", &[]);
    let said = String::from_utf8_lossy(&good.stdout);
    assert_eq!(good.status.code(), Some(0), "{said}");
    for line in [
        "  queue                             7 requests",
        "  one.example:3128: http://one.example:3128, weight 1, priority 100, credentials: yes",
        "HTTP_PROXY_LB_LIMITS_QUEUE, HTTP_PROXY_LB_UPSTREAMS, --listen: valid",
    ] {
        assert!(said.lines().any(|other| other == line), "{said}");
    }
    assert!(!said.contains("sesame"), "{said}");
    let bad = checked("https://ann:sesame@one.example", &[]);
    let said = "error: HTTP_PROXY_LB_UPSTREAMS: upstream[0].url: `https` is not spoken to upstreams, only \
                plain HTTP and SOCKS5 are: write http:// (requests for https:// sites go through such an \
                upstream as well), with the port on which it speaks plain HTTP; or build with `--features \
                tls`\n";
    check(&bad, 78, "", said);
    // what an option sets is not asked of the environment
    let good = checked("https://one.example", &["--upstream", "http://two.example"]);
    assert_eq!(good.status.code(), Some(0));
    let bad = checked("http://one.example", &["--listen", "8080"]);
    let said = "error: --listen: the address or the port is missing: write address:port, as in 127.0.0.1:8080\n";
    check(&bad, 78, "", said);
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
        &expected("check_example_found.txt", &output.stderr),
    );
}

#[test]
fn every_mistake_is_told_and_the_end_is_78() {
    let folder = folder("broken");
    fs::write(folder.join("config.yaml"), BROKEN).unwrap();
    for (arguments, name) in [
        (&["--check"][..], "check_broken.txt"),
        (&["--check", "--lenient"], "check_broken_leniently.txt"),
        (&[], "check_broken_leniently.txt"),
    ] {
        let output = run(&folder, arguments);
        check(&output, 78, "", &expected(name, &output.stderr));
    }
}

#[test]
fn what_the_first_release_let_pass_fails_the_check() {
    let folder = folder("old");
    fs::write(folder.join("config.yaml"), OLD).unwrap();
    let output = run(&folder, &["--check"]);
    let meaning = expected("check_old.txt", &output.stdout);
    let found = expected("check_old_found.txt", &output.stderr);
    check(&output, 78, &meaning, &found);
    // The same, with another verdict.
    let output = run(&folder, &["--check", "--lenient"]);
    let verdict =
        "config.yaml: not valid; a start or a reload takes it with warnings (--check --lenient)";
    assert!(meaning.ends_with(&format!("\n{verdict}\n")), "{meaning}");
    let meaning = meaning.replace(verdict, "config.yaml: valid");
    check(&output, 0, &meaning, &found.replace("error: ", "warning: "));
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
    let meaning = expected("check_old.txt", &output.stdout);
    let found = expected("check_old_found.txt", &output.stderr);
    check(&output, 78, &meaning, &found);
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
fn a_relay_is_asked_though_its_file_is_broken_meanwhile() {
    let folder = folder("status-broken");
    let relay = Running::start(&folder, &observed(), 1024);
    let admin = relay
        .admin
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let broken = format!(
        "listen: 127.0.0.1:0\nadmin_listen: {admin}\nmode: fast\nupstream_files: [absent]\ndefault: eu\n"
    );
    fs::write(folder.join("broken.yaml"), broken).unwrap();
    let output = run(&folder, &["status", "-c", "broken.yaml"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let (mistake, table) = text.split_once('\n').unwrap();
    assert!(mistake.starts_with("broken.yaml:3: mode: `fast`"), "{text}");
    assert!(table.starts_with("ready  version "), "{text}");
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
    let said = format!(
        "{url}: the connection is refused: is the relay running, with this \
                        `admin_listen`?\n"
    );
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

/// The program with a file, and what it says on standard error.
struct Logging {
    child: Child,
    lines: Lines<BufReader<PipeReader>>,
}

impl Logging {
    fn start(folder: &Path, config: impl AsRef<[u8]>, environment: &[(&str, &str)]) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        Self::start_with(folder, config, environment, (reader, writer))
    }

    fn start_with(
        folder: &Path,
        config: impl AsRef<[u8]>,
        environment: &[(&str, &str)],
        (reader, writer): (PipeReader, PipeWriter),
    ) -> Self {
        fs::write(folder.join("config.yaml"), config).unwrap();
        private(&folder.join("config.yaml"));
        let child = Command::new(env!("CARGO_BIN_EXE_http-proxy-lb"))
            .current_dir(folder)
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stderr(writer)
            .spawn()
            .unwrap();
        let lines = BufReader::new(reader).lines();
        Self { child, lines }
    }

    /// What it says until a line has one of these parts, or until it ends.
    fn says_until(&mut self, ends: &[&str]) -> Vec<String> {
        let mut said = Vec::new();
        for line in self.lines.by_ref() {
            said.push(line.unwrap());
            if ends.iter().any(|end| said.last().unwrap().contains(end)) {
                break;
            }
        }
        said
    }

    /// Writes its file anew and has it read; what it says of that.
    fn reload(&mut self, folder: &Path, config: impl AsRef<[u8]>) -> Vec<String> {
        fs::write(folder.join("config.yaml"), config).unwrap();
        self.signal("HUP");
        self.judges()
    }

    fn judges(&mut self) -> Vec<String> {
        self.says_until(&["is in force", "stays in force"])
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-s", name, &id]).status();
        assert!(told.unwrap().success());
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const SMALLEST: &str = "listen: 127.0.0.1:0\nupstream: []\n";

/// A file, and how it is judged: what a refusal names, and whether `--check` takes what a start takes.
struct Judged {
    text: &'static [u8],
    refused: Option<&'static str>,
    is_strictly_valid: bool,
}

const fn taken(text: &'static str) -> Judged {
    Judged {
        text: text.as_bytes(),
        refused: None,
        is_strictly_valid: true,
    }
}

const fn taken_with_a_warning(text: &'static str) -> Judged {
    Judged {
        is_strictly_valid: false,
        ..taken(text)
    }
}

const fn refused(text: &'static [u8], named: &'static str) -> Judged {
    Judged {
        text,
        refused: Some(named),
        is_strictly_valid: false,
    }
}

const JUDGED: &[Judged] = &[
    taken("listen: 127.0.0.1:0\n"),
    taken("listen: 127.0.0.1:0\nupstream: [{url: 'http://a.test', weight: 0}]\n"),
    taken("listen: 127.0.0.1:0\nadmin_token_file: readable\nupstream: []\n"),
    taken("listen: 127.0.0.1:0\naccess_log: {file: access.log}\n"),
    taken("listen: 127.0.0.1:0\nlog: {format: text}\n"),
    taken_with_a_warning("listen: 127.0.0.1:0\nlisen: x\n"),
    taken_with_a_warning("listen: 127.0.0.1:0\nupstream: [{url: 'a.test:3128'}]\n"),
    taken_with_a_warning(
        "listen: 127.0.0.1:0\nupstream: [{url: 'http://a.test'}, {url: 'http://a.test'}]\n",
    ),
    taken_with_a_warning(
        "listen: 127.0.0.1:0\ndomain_policy: {mode: blacklist, domains: ['http://a.test/']}\n",
    ),
    refused(b"", "config.yaml: listen: required"),
    refused(b"listen: [", "config.yaml:"),
    refused(
        b"listen: 127.0.0.1:0\n# \xe9\n",
        "config.yaml:2: is not UTF-8",
    ),
    refused(
        b"listen: 127.0.0.1:0\nmode: fast\n",
        "config.yaml:2: mode: `fast`",
    ),
    refused(
        b"listen: 127.0.0.1:0\nvia: true\nvia: true\n",
        "config.yaml:3: via: ",
    ),
    refused(
        b"listen: 127.0.0.1:0\nlimits:\n  workers: -1\n",
        "config.yaml:3: limits.workers: -1",
    ),
    refused(
        b"listen: 127.0.0.1:0\nlisen: x\nlog: {format: xml}\n",
        "config.yaml:3: log.format: `xml`",
    ),
    refused(
        b"listen: 127.0.0.1:0\nupstream:\n  - url: https://a.test\n",
        "config.yaml:3: upstream[0].url: `https`",
    ),
    refused(
        b"listen: 127.0.0.1:0\nadmin_token_file: absent\n",
        "config.yaml:2: admin_token_file: `absent`: cannot be read",
    ),
    refused(
        b"listen: 127.0.0.1:0\nadmin_token_file: writable\n",
        "config.yaml:2: admin_token_file: everybody may write to `writable`",
    ),
    refused(
        b"listen: 127.0.0.1:0\naccess_log:\n  file: no/such/folder/access.log\n",
        "config.yaml:3: access_log.file: the access log no/such/folder/access.log cannot be opened",
    ),
    refused(
        b"listen: 127.0.0.1:0\naccess_log: {file: .}\n",
        "config.yaml:2: access_log.file: the access log . cannot be opened",
    ),
];

/// What each way to judge a file says about it.
fn said_by_each(folder: &Path, text: &[u8]) -> [Vec<String>; 3] {
    let start = |config: &[u8]| {
        let mut program = Logging::start(folder, config, &[]);
        let said = program.says_until(&["listens on"]);
        (program, said)
    };
    let (mut program, by_start) = start(text);
    let is_there = by_start.iter().any(|line| line.contains("listens on"));
    assert!(is_there || program.child.wait().unwrap().code() == Some(78));
    let before = format!("{SMALLEST}reload_interval_secs: 0\n");
    let by_reload = start(before.as_bytes()).0.reload(folder, text);
    let before = format!("{SMALLEST}reload_interval_secs: 0.05\n");
    let (mut program, _) = start(before.as_bytes());
    fs::write(folder.join("config.yaml"), text).unwrap();
    let by_poll = program.judges();
    [by_start, by_reload, by_poll]
}

/// What a check says on standard error, and whether the file is valid to it.
fn found(folder: &Path, text: &[u8], arguments: &[&str]) -> (Vec<String>, bool) {
    fs::write(folder.join("config.yaml"), text).unwrap();
    let output = run(folder, arguments);
    let is_valid = output.status.code() == Some(0);
    assert!(is_valid || output.status.code() == Some(78));
    let found = String::from_utf8(output.stderr).unwrap();
    (found.lines().map(str::to_owned).collect(), is_valid)
}

#[test]
fn a_start_a_reload_a_poll_and_a_lenient_check_judge_alike() {
    let folder = folder("judged");
    for (name, mode) in [("readable", 0o644), ("writable", 0o666)] {
        fs::write(folder.join(name), "sesame-sesame-sesame").unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for judged in JUDGED {
        let (found_leniently, is_taken) = found(&folder, judged.text, &["--check", "--lenient"]);
        assert_eq!(is_taken, judged.refused.is_none(), "{found_leniently:#?}");
        let named = judged.refused.unwrap_or("config.yaml");
        let is_refusal = |line: &String| {
            (line.contains(" ERROR ") || line.starts_with("error: ")) && line.contains(named)
        };
        let told = said_by_each(&folder, judged.text);
        for said in told.iter().chain([&found_leniently]) {
            let is_refused = said.iter().any(is_refusal);
            assert_eq!(is_refused, judged.refused.is_some(), "{said:#?}");
        }
        let (_, is_valid) = found(&folder, judged.text, &["--check"]);
        assert_eq!(is_valid, judged.is_strictly_valid, "{named}");
    }
    assert!(folder.join("access.log").exists());
}

#[test]
fn a_lenient_check_makes_no_file() {
    let folder = folder("lenient");
    let config = format!("{SMALLEST}access_log: {{file: access.log}}\n");
    fs::write(folder.join("config.yaml"), config).unwrap();
    let output = run(&folder, &["--check", "--lenient"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!folder.join("access.log").exists());
}

#[test]
fn the_log_is_json_or_text_as_the_file_says_also_after_a_reload() {
    let folder = folder("json");
    let json = format!("{SMALLEST}log: {{format: json}}\n");
    let mut program = Logging::start(&folder, &json, &[]);
    let is_json = |line: &String| {
        line.starts_with("{\"time\":\"20")
            && line.ends_with("\"}")
            && line.contains("\"module\":\"http_proxy_lb")
    };
    let said = program.says_until(&["listens on"]);
    assert!(said.len() > 1 && said.iter().all(is_json), "{said:#?}");
    assert!(said[0].contains("\"level\":\"warn\""), "{said:#?}");
    let said = program.reload(&folder, SMALLEST);
    assert!(!is_json(said.last().unwrap()), "{said:#?}");
    let said = program.says_until(&["log.format json -> text"]);
    assert!(
        said.last().unwrap().contains(" INFO keys changed: "),
        "{said:#?}"
    );
    let said = program.reload(&folder, &json);
    assert!(is_json(said.last().unwrap()), "{said:#?}");
}

/// A pipe, and its name as that of a journal.
fn journal() -> ((PipeReader, PipeWriter), String) {
    let (reader, writer) = std::io::pipe().unwrap();
    let file = fs::File::from(OwnedFd::from(writer.try_clone().unwrap()));
    let about = file.metadata().unwrap();
    ((reader, writer), format!("{}:{}", about.dev(), about.ino()))
}

#[test]
fn a_journal_gets_priorities_and_others_get_words() {
    let folder = folder("journal");
    let text = format!("{SMALLEST}lisen: x\n");
    let (pipe, name) = journal();
    let mut program = Logging::start_with(&folder, &text, &[("JOURNAL_STREAM", &name)], pipe);
    let said = program.says_until(&["listens on"]);
    assert!(
        said[0].starts_with("<4>config.yaml:2: upstream: "),
        "{said:#?}"
    );
    assert!(
        said.last().unwrap().starts_with("<6>http-proxy-lb "),
        "{said:#?}"
    );
    // A mistake in the file is an error there.
    let (pipe, name) = journal();
    let mut program = Logging::start_with(&folder, "via: 7\n", &[("JOURNAL_STREAM", &name)], pipe);
    let said = program.says_until(&[]);
    assert!(said[0].starts_with("<3>config.yaml: listen: "), "{said:#?}");
    // It is named, and standard error leads elsewhere.
    let mut program = Logging::start(&folder, &text, &[("JOURNAL_STREAM", &name)]);
    let said = program.says_until(&["listens on"]);
    assert!(
        said.iter()
            .all(|line| line.contains(" WARN ") || line.contains(" INFO ")),
        "{said:#?}"
    );
}

#[test]
fn rust_log_says_how_much_of_each_module_is_logged() {
    let folder = folder("rust-log");
    let levels = ("RUST_LOG", "off,http_proxy_lb::server=info,loud");
    let text = format!("{SMALLEST}lisen: x\n");
    let mut program = Logging::start(&folder, &text, &[levels]);
    let said = program.says_until(&["listens on"]);
    assert_eq!(said.len(), 1, "{said:#?}");
    let mut program = Logging::start(&folder, &text, &[("RUST_LOG", "warn,loud")]);
    let said = program.says_until(&["lisen"]);
    assert!(
        said[0].contains(" WARN RUST_LOG: `loud` is ignored: write off, error, "),
        "{said:#?}"
    );
}
