//! The built program, as a user would start it: a YAML file and a command line.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::machine::{Folder, PATIENCE, free_port, wait_until};
use crate::programs::Server;
use crate::proxies::Proxy;

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_http-proxy-lb");

/// A running http-proxy-lb.
pub(crate) struct Relay {
    pub(crate) server: Server,
    // After the server, so that it goes away after it.
    folder: Folder,
}

/// What goes into its configuration file, after `listen` and `access_log`.
#[derive(Default)]
pub(crate) struct Settings {
    upstreams: String,
    lines: String,
}

impl Settings {
    /// Probes ask for `probe_url`; offline upstreams at least every `interval_secs`.
    pub(crate) fn new(probe_url: &str) -> Self {
        Self::default().line(&format!(
            "health_check: {{url: '{probe_url}', interval_secs: 5}}"
        ))
    }

    /// Nobody uses an upstream: an empty list of those who shall.
    pub(crate) fn direct() -> Self {
        Self::default()
            .line("domain_policy: {mode: whitelist}")
            .line("upstream: []")
    }

    /// One more line of YAML.
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }

    /// One more upstream.
    pub(crate) fn upstream(mut self, proxy: &Proxy) -> Self {
        let (scheme, port, name) = (proxy.scheme, proxy.port(), proxy.name);
        let upstreams = &mut self.upstreams;
        write!(
            upstreams,
            "  - {{url: '{scheme}://127.0.0.1:{port}', name: {name}"
        )
        .expect("memory");
        if let Some(login) = proxy.login {
            let (user, password) = (login.user, login.password);
            write!(upstreams, ", username: {user}, password: '{password}'").expect("memory");
        }
        upstreams.push_str("}\n");
        self
    }

    fn yaml(&self, port: u16) -> String {
        let mut text = format!(
            "listen: '127.0.0.1:{port}'\n{}{}",
            if self.lines.contains("access_log:") {
                ""
            } else {
                "access_log: true\n"
            },
            self.lines
        );
        if !self.upstreams.is_empty() {
            text.push_str("upstream:\n");
            text.push_str(&self.upstreams);
        }
        text
    }
}

impl Relay {
    pub(crate) fn start(settings: &Settings) -> Self {
        let folder = Folder::new();
        let port = free_port();
        let config = folder.write_secret("config.yaml", settings.yaml(port));
        let server = start(Command::new(BINARY), &config, port);
        Self { server, folder }
    }

    /// By a command that becomes the program, of whatever user.
    pub(crate) fn start_by(command: Command, settings: &Settings) -> Self {
        let folder = Folder::new();
        let port = free_port();
        let config = folder.write("config.yaml", settings.yaml(port));
        let server = start(command, &config, port);
        Self { server, folder }
    }

    /// Adds lines to its configuration file, which it reads again in its own time.
    pub(crate) fn append(&mut self, lines: &str) {
        let path = self.folder.path().join("config.yaml");
        let text = fs::read_to_string(&path).expect("its configuration");
        fs::write(&path, text + lines).expect("its configuration");
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    /// As clients want to be told it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The lines of its log, the access log among them, that have all of `words`.
    pub(crate) fn log_lines(&self, words: &[&str]) -> Vec<String> {
        let text = fs::read(self.server.program.output()).expect("its output");
        let text = String::from_utf8_lossy(&text);
        let wanted = |line: &&str| words.iter().all(|word| has_word(line, word));
        text.lines().filter(wanted).map(str::to_owned).collect()
    }

    /// Which of `names` is the upstream that the access log tells for the request with `mark` in its
    /// target. Waits for that line, as it is written after the exchange.
    pub(crate) fn upstream_of<'n>(&self, mark: &str, names: &[&'n str]) -> &'n str {
        let mut found = None;
        wait_until(PATIENCE, &format!("an access log line for {mark}"), || {
            found = names
                .iter()
                .find(|name| !self.log_lines(&[mark, name]).is_empty())
                .copied();
            found.is_some()
        });
        found.expect("just seen")
    }
}

/// Whether `word` stands in `line`, and if it begins or ends with a letter or digit, with no other
/// next to that.
fn has_word(line: &str, word: &str) -> bool {
    let parts: Vec<&str> = line.split(word).collect();
    parts.windows(2).any(|around| {
        let (before, after) = (around[0].chars().next_back(), around[1].chars().next());
        let goes_on = |own: Option<char>, next: Option<char>| {
            [own, next]
                .iter()
                .all(|c| c.is_some_and(char::is_alphanumeric))
        };
        !goes_on(word.chars().next(), before) && !goes_on(word.chars().next_back(), after)
    })
}

fn start(mut command: Command, config: &Path, port: u16) -> Server {
    command.arg("--config").arg(config).env("RUST_LOG", "info");
    Server::start(&mut command, config.with_extension("output"), port)
}

/// A second http-proxy-lb as an upstream: everything that comes to it goes to the origin directly.
pub(crate) fn as_upstream(name: &'static str, settings: &Settings) -> Proxy {
    let folder = Folder::new();
    let port = free_port();
    let config = folder.write_secret("config.yaml", settings.yaml(port));
    Proxy::new(name, None, folder, move || {
        start(Command::new(BINARY), &config, port)
    })
}
