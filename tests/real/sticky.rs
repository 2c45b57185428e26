//! Sessions that stay with their exit: curl and Python requests with the session in the user name, over
//! Squid and tinyproxy with users, and microsocks (SOCKS5) with a login.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::curl::curl;
use crate::machine::{Folder, PATIENCE, wait_until, write};
use crate::nginx::Nginx;
use crate::origin::Origin;
use crate::programs::{run, tool};
use crate::proxies::{Login, Proxy, microsocks, squid, tinyproxy};
use crate::relay::{Relay, Settings};
use crate::tools::python;

const NAMES: [&str; 3] = ["squid", "tinyproxy", "microsocks"];

/// So many that each exit has some: which are whose depends on the ports.
const SESSIONS: usize = 40;

/// Three exits, and a relay that knows one user.
struct Exits {
    nginx: Nginx,
    origin: Origin,
    proxies: Vec<Proxy>,
    relay: Relay,
    folder: Folder,
}

impl Exits {
    fn start() -> Self {
        let (nginx, origin) = (Nginx::start(), Origin::start());
        let login = Login {
            user: "carol",
            password: "p:a@s/s%w0rd",
        };
        let proxies = vec![
            squid(nginx.tls_port()),
            tinyproxy(),
            microsocks(Some(login)),
        ];
        let settings = Settings::new(&nginx.probe_url())
            .line("via: false")
            .line("sticky: {by: session}")
            .line("access: {users: [{username: someone, password: secret}]}");
        let relay = Relay::start(&proxies.iter().fold(settings, Settings::upstream));
        Self {
            nginx,
            origin,
            proxies,
            relay,
            folder: Folder::new(),
        }
    }

    fn home(&self) -> &Path {
        self.folder.path()
    }

    /// The exits of `count` requests of this session over one connection, as the origin sees them.
    fn by_curl(&self, session: &str, count: usize) -> BTreeSet<&'static str> {
        let mut command = curl(&self.relay, self.home());
        command.args(["-f", "-U", &format!("someone-session-{session}:secret")]);
        command.arg(self.origin.url(&format!("/via/[1-{count}]")));
        let lines = run(&mut command).expect_text();
        assert_eq!(lines.lines().count(), count, "{lines}");
        lines.lines().map(exit).collect()
    }

    /// The exit of each session, which has only one.
    fn of_all(&self) -> BTreeMap<String, &'static str> {
        let of = |session: String| {
            let exits = self.by_curl(&session, 5);
            assert_eq!(exits.len(), 1, "{session}: {exits:?}");
            (session, *exits.first().expect("just counted"))
        };
        sessions().map(of).collect()
    }

    fn tunnels(&self) -> [usize; 3] {
        NAMES.map(|name| self.relay.log_lines(&["CONNECT", name]).len())
    }
}

fn sessions() -> impl Iterator<Item = String> {
    (0..SESSIONS).map(|number| format!("x{number}"))
}

/// Whose entry in the field Via reached the origin; microsocks makes none.
fn exit(via: &str) -> &'static str {
    let mut http = NAMES.into_iter().take(2);
    http.find(|name| via.contains(name)).unwrap_or("microsocks")
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn a_session_of_curl_keeps_its_exit_until_that_is_gone() {
    let mut exits = Exits::start();
    let before = exits.of_all();
    let used: BTreeSet<_> = before.values().copied().collect();
    assert_eq!(used.len(), NAMES.len(), "{before:?}");
    assert_eq!(exits.of_all(), before, "over new connections");
    exits.proxies[0].kill();
    wait_until(PATIENCE, "it is offline", || {
        // Each is served, but maybe here and there until then.
        sessions().for_each(|session| drop(exits.by_curl(&session, 1)));
        !exits
            .relay
            .log_lines(&["upstream squid", "offline"])
            .is_empty()
    });
    let after = exits.of_all();
    for (session, exit) in &before {
        let (moved, was_there) = (after[session] != *exit, *exit == "squid");
        assert_eq!(moved, was_there, "{session}");
    }
    exits.proxies[0].revive();
    wait_until(PATIENCE, "it is back", || {
        !exits
            .relay
            .log_lines(&["upstream squid", "online"])
            .is_empty()
    });
    assert_eq!(exits.of_all(), after, "who has moved stays there");
}

/// Through tunnels, too, and for another program of the same session.
#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx, curl and requests (Debian packages squid tinyproxy microsocks nginx-light curl python3-requests)"]
fn a_session_of_python_requests_has_the_exit_that_curl_has() {
    let exits = Exits::start();
    let by_curl = exits.of_all();
    write(&exits.home().join("script.py"), PYTHON);
    let mut command = tool(python(), exits.home());
    command.arg("script.py");
    command.arg(exits.relay.port().to_string());
    command.args([
        exits.origin.url("/via/a"),
        exits.nginx.tls_url("/small/1.bin"),
    ]);
    command.arg(exits.nginx.authority());
    command.args(by_curl.keys());
    let text = run(&mut command).expect_text();
    let by_python = text.lines().map(|line| {
        let (session, via) = line.split_once(' ').expect("a session and its exit");
        (session.to_owned(), exit(via))
    });
    assert_eq!(by_python.collect::<BTreeMap<_, _>>(), by_curl);
    let tunnels =
        NAMES.map(|name| TUNNELS * by_curl.values().filter(|exit| **exit == name).count());
    wait_until(PATIENCE, "a line for each tunnel", || {
        exits.tunnels().iter().sum::<usize>() == TUNNELS * SESSIONS
    });
    assert_eq!(exits.tunnels(), tunnels, "of {by_curl:?}");
}

/// What the script opens for each session.
const TUNNELS: usize = 3;

const PYTHON: &str = r#"
import sys, requests

port, plain, secure, authority, *names = sys.argv[1:]
for name in names:
    relay = f"http://someone-session-{name}:secret@127.0.0.1:{port}"
    seen = set()
    for _ in range(3):
        session = requests.Session()
        session.trust_env = False
        session.proxies = {"http": relay, "https": relay}
        session.verify = authority
        for _ in range(5):
            answer = session.get(plain, timeout=60)
            answer.raise_for_status()
            seen.add(answer.text.strip())
        for _ in range(2):
            session.get(secure, timeout=60).raise_for_status()
    assert len(seen) == 1, (name, seen)
    print(name, seen.pop())
"#;
