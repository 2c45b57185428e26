//! What Squid is told of clients, as its own access log has it: users, addresses, handshakes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::curl::curl;
use crate::machine::{Folder, PATIENCE, assert_same_bytes, free_port, wait_until};
use crate::nginx::{Nginx, small};
use crate::programs::{Server, run, tool};
use crate::proxies::Proxy;
use crate::relay::{Relay, Settings};

/// A Squid, and the log in which each request has a line: user, client, `X-Forwarded-For`, status, URL.
struct Squid {
    proxy: Proxy,
    log: PathBuf,
}

impl Squid {
    /// `port_options` stand behind its port, `lines` before its rules; these users have the password x.
    fn start(port_options: &str, lines: &str, users: &[&str]) -> Self {
        let folder = Folder::new();
        let (state, port) = (folder.shared("squid"), free_port());
        let hash = run(tool("openssl", folder.path()).args(["passwd", "-apr1", "x"])).expect_text();
        let line = |user: &&str| format!("{user}:{}\n", hash.trim());
        let known = users.iter().map(line).collect::<Vec<_>>().concat();
        let (known, place) = (folder.write("users", known), state.display());
        let lines = lines.replace("USERS", &known.display().to_string());
        let config = format!(
            "http_port 127.0.0.1:{port} {port_options}\npid_filename none\ncache_log {place}/cache.log\n\
             logformat told %un %>a %{{X-Forwarded-For}}>h %>Hs %ru\naccess_log stdio:{place}/told.log told\n\
             coredump_dir {place}\ncache deny all\npinger_enable off\nforwarded_for transparent\nstrip_query_terms off\n\
             {lines}\nhttp_access deny all\n"
        );
        let config = folder.write("squid.conf", config);
        let output = folder.path().join("output");
        let proxy = Proxy::new("squid", None, folder, move || {
            let mut command = Command::new("squid");
            command.arg("-N").arg("-f").arg(&config);
            Server::start(&mut command, output.clone(), port)
        });
        let log = state.join("told.log");
        Self { proxy, log }
    }

    fn settings(&self, nginx: &Nginx, keys: &str) -> Settings {
        let port = self.proxy.port();
        let line = format!("upstream: [{{url: 'http://127.0.0.1:{port}', name: squid, {keys}}}]");
        Settings::new(&nginx.probe_url()).line(&line)
    }

    /// Waits for a line of its log that begins so and has `mark` in its URL.
    #[track_caller]
    fn expect_line(&self, beginning: &str, mark: &str) {
        wait_until(PATIENCE, &format!("{beginning} for {mark}"), || {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            text.lines()
                .any(|line| line.starts_with(beginning) && line.contains(mark))
        });
    }
}

const BASIC: &str = "auth_param basic program /usr/lib/squid/basic_ncsa_auth USERS\n\
                     auth_param basic realm real\nacl known proxy_auth REQUIRED\nhttp_access allow known";

/// `%{http_code}` of a request to the URL, or of the CONNECT where that is refused.
fn status(relay: &Relay, folder: &Folder, arguments: &[&str], url: &str) -> String {
    let mut command = curl(relay, folder.path());
    command.args([
        "-k",
        "-o",
        "/dev/null",
        "-w",
        "%{http_connect} %{http_code}",
    ]);
    String::from_utf8(run(command.args(arguments).arg(url)).stdout).expect("text")
}

#[test]
#[ignore = "needs squid, nginx, openssl and curl (Debian packages squid nginx-light openssl curl)"]
fn squid_knows_each_session_by_a_user_name_of_its_own() {
    let (nginx, folder) = (Nginx::start(), Folder::new());
    let users = ["x-sessid-a1", "x-sessid-b_2d2", "x-sessid-probe"];
    let squid = Squid::start("", BASIC, &users);
    let keys = "username: 'x-sessid-{session}', password: x";
    let relay = Relay::start(&squid.settings(&nginx, keys));
    for (session, told) in [("a1", users[0]), ("b-2", users[1])] {
        let login = format!("someone-session-{session}:anything");
        let url = nginx.url(&format!("/small/3.bin?{session}"));
        let body = run(curl(&relay, folder.path()).args(["-U", &login, &url])).expect_success();
        assert_same_bytes(&body, &small(3), session);
        squid.expect_line(&format!("{told} "), &format!("?{session}"));
    }
    let url = nginx.url("/small/3.bin?c3");
    let refused = status(&relay, &folder, &["-U", "someone-session-c3:x"], &url);
    assert_eq!(refused, "000 502", "Squid does not know that user");
    let known = status(&relay, &folder, &["-U", "someone-session-a1:x"], &url);
    assert_eq!(known, "000 200", "which is nobody's fault");
}

#[test]
#[ignore = "needs squid, nginx, openssl and curl (Debian packages squid nginx-light openssl curl)"]
fn squid_knows_the_client_by_a_proxy_header_and_a_field() {
    let (nginx, folder) = (Nginx::start(), Folder::new());
    let rules = "proxy_protocol_access allow all\nhttp_access allow all";
    for version in ["v1", "v2"] {
        let squid = Squid::start("require-proxy-header", rules, &[]);
        let keys = format!("proxy_protocol: {version}");
        let settings = squid
            .settings(&nginx, &keys)
            .line("forwarded: x_forwarded_for");
        let relay = Relay::start(&settings);
        for client in ["127.0.0.5", "127.0.0.6"] {
            let source = ["--interface", client, "-H", "X-Forwarded-For: 192.0.2.1"];
            let url = nginx.url(&format!("/small/3.bin?{client}"));
            assert_eq!(status(&relay, &folder, &source, &url), "000 200");
            let told = format!("- {client} 192.0.2.1,%20{client} 200");
            squid.expect_line(&told, &format!("?{client}"));
            let url = nginx.tls_url("/small/3.bin");
            assert_eq!(status(&relay, &folder, &source, &url), "200 200");
        }
    }
}

#[test]
#[ignore = "needs squid, nginx, openssl and curl (Debian packages squid nginx-light openssl curl)"]
fn squid_asks_clients_for_their_own_credentials() {
    let (nginx, folder) = (Nginx::start(), Folder::new());
    let squid = Squid::start("", BASIC, &["alice"]);
    let relay = Relay::start(&squid.settings(&nginx, "credentials: client"));
    let (plain, tls) = (
        nginx.url("/small/3.bin?alice"),
        nginx.tls_url("/small/3.bin"),
    );
    for _ in 0..3 {
        assert_eq!(status(&relay, &folder, &[], &plain), "000 407");
        assert_eq!(status(&relay, &folder, &["-U", "eve:x"], &tls), "407 000");
        assert_eq!(
            status(&relay, &folder, &["-U", "alice:x"], &plain),
            "000 200"
        );
        let asked_first = ["-U", "alice:x", "--proxy-anyauth"];
        assert_eq!(status(&relay, &folder, &asked_first, &plain), "000 200");
        assert_eq!(status(&relay, &folder, &["-U", "alice:x"], &tls), "200 200");
    }
    squid.expect_line("alice ", "?alice");
}

#[test]
#[ignore = "needs squid, nginx, openssl and curl (Debian packages squid nginx-light openssl curl)"]
fn a_handshake_of_ntlm_with_squid_goes_through() {
    let (nginx, folder) = (Nginx::start(), Folder::new());
    let rules = "auth_param ntlm program /usr/lib/squid/ntlm_fake_auth\nauth_param ntlm children 2\n\
                 acl known proxy_auth REQUIRED\nhttp_access allow known";
    let squid = Squid::start("", rules, &[]);
    let relay = Relay::start(&squid.settings(&nginx, "credentials: client"));
    let ntlm = ["--proxy-ntlm", "-U", "alice:x"];
    for _ in 0..3 {
        let plain = nginx.url("/small/3.bin");
        assert_eq!(status(&relay, &folder, &ntlm, &plain), "000 200");
        let tls = nginx.tls_url("/small/3.bin");
        assert_eq!(status(&relay, &folder, &ntlm, &tls), "200 200");
    }
}
