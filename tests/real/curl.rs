//! curl through every kind of next hop: Squid, tinyproxy, microsocks (SOCKS5) without and with a login, a
//! second http-proxy-lb, and directly.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::machine::{
    Folder, PATIENCE, assert_same_bytes, assert_same_file, free_port, wait_until,
};
use crate::nginx::{Nginx, small};
use crate::pattern;
use crate::programs::{run, tool};
use crate::proxies::{Login, microsocks};
use crate::relay::{Relay, Settings};
use crate::stage::Stage;
use crate::wire::Client;

/// curl as told by nobody but us: no configuration file, no exceptions for loopback.
pub(crate) fn curl(relay: &Relay, home: &Path) -> Command {
    let mut command = tool("curl", home);
    command.args([
        "-q",
        "-sS",
        "--max-time",
        "60",
        "--noproxy",
        "",
        "-x",
        &relay.url(),
    ]);
    command
}

/// Runs `check` with a relay in front of each kind of next hop, and a folder for files.
fn with_every_next_hop(check: impl Fn(&Stage, &Relay, &Path)) {
    let stage = Stage::start();
    let login = Login {
        user: "a:lice",
        password: "p:a@s/s%w0rd",
    };
    let socks = [microsocks(None), microsocks(Some(login))];
    let through_socks = socks.iter().map(|proxy| {
        let relay = Relay::start(&stage.settings().upstream(proxy));
        (proxy.name, relay)
    });
    for (name, relay) in stage.relays().into_iter().chain(through_socks) {
        let folder = Folder::new();
        crate::machine::note(&format!("next hop: {name}"));
        check(&stage, &relay, folder.path());
    }
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn get_brings_the_file() {
    with_every_next_hop(|stage, relay, home| {
        let body = run(curl(relay, home).arg(stage.nginx.url("/small/3.bin"))).expect_success();
        assert_same_bytes(&body, &small(3), "GET");
        let body = run(curl(relay, home).arg(stage.nginx.url("/20m.bin"))).expect_success();
        assert_same_bytes(&body, &pattern::bytes(2, 20_000_000), "large GET");
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn head_brings_the_length_and_no_body() {
    with_every_next_hop(|stage, relay, home| {
        let head = run(curl(relay, home)
            .arg("-I")
            .arg(stage.nginx.url("/small/3.bin")));
        let head = head.expect_text().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-length: 4096"), "{head}");
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn statuses_redirects_and_ranges_pass() {
    with_every_next_hop(|stage, relay, home| {
        let url = |path| stage.nginx.url(path);
        let status = ["-o", "/dev/null", "-w", "%{http_code}"];
        let missing = run(curl(relay, home).args(status).arg(url("/nothing"))).expect_text();
        assert_eq!(missing, "404");
        let body = run(curl(relay, home).arg("-L").arg(url("/moved"))).expect_success();
        assert_same_bytes(&body, &small(1), "redirect");
        let range = run(curl(relay, home)
            .args(["-r", "100-199"])
            .arg(url("/small/1.bin")));
        assert_same_bytes(&range.expect_success(), &small(1)[100..200], "range");
        let text = run(curl(relay, home).arg("--compressed").arg(url("/text.html")));
        let wanted = fs::read(stage.nginx.root().join("text.html")).expect("its file");
        assert_same_bytes(
            &text.expect_success(),
            &wanted,
            "gzip, chunked by the origin",
        );
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn post_brings_the_body_there_and_back() {
    with_every_next_hop(|stage, relay, home| {
        let file = home.join("form");
        fs::write(&file, pattern::bytes(7, 100_000)).expect("file");
        let data = format!("@{}", file.display());
        let echo = run(curl(relay, home)
            .args(["--data-binary", &data])
            .arg(stage.origin.url("/echo")));
        assert_same_bytes(&echo.expect_success(), &pattern::bytes(7, 100_000), "POST");
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn uploads_of_every_framing_arrive_whole() {
    with_every_next_hop(|stage, relay, home| {
        let file = home.join("upload");
        fs::write(&file, pattern::bytes(8, 8_000_000)).expect("file");
        let upload = |name: &str, options: &[&str], target: &str| {
            let url = stage.nginx.url(&format!("/up/{name}"));
            let input = fs::File::open(&file).expect("just written");
            let mut command = curl(relay, home);
            // Squid 5.7 closes without an answer when a body comes faster than it can pass it on (one
            // upload in thirteen straight to it, in blocks of 128 KiB).
            command
                .args(options)
                .args(["--limit-rate", "20M", "-f", "-T", target])
                .arg(url)
                .stdin(input);
            run(&mut command).expect_success();
            assert_same_file(&stage.nginx.root().join("up").join(name), &file);
        };
        let path = file.display().to_string();
        upload("length", &["-H", "Expect:"], &path);
        upload("chunked", &["-H", "Expect:"], "-");
        upload("asks-first", &["-H", "Expect: 100-continue"], &path);
        upload("chunked-asks-first", &["-H", "Expect: 100-continue"], "-");
        upload("old", &["--http1.0"], &path);
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn an_upload_that_the_origin_refuses_early_shows_its_answer() {
    with_every_next_hop(|stage, relay, home| {
        let file = home.join("upload");
        fs::write(&file, pattern::bytes(8, 50_000_000)).expect("file");
        let mut command = curl(relay, home);
        command.args(["-H", "Expect:", "-o", "/dev/null", "-w", "%{http_code}"]);
        command
            .arg("-T")
            .arg(&file)
            .arg(stage.nginx.url("/narrow/file"));
        let finished = run(&mut command);
        assert_eq!(
            String::from_utf8_lossy(&finished.stdout),
            "413",
            "{}",
            finished.stderr
        );
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn an_http_1_0_client_gets_the_file() {
    with_every_next_hop(|stage, relay, home| {
        let body = run(curl(relay, home)
            .arg("--http1.0")
            .arg(stage.nginx.url("/small/3.bin")));
        assert_same_bytes(&body.expect_success(), &small(3), "of known length");
        let chunked = stage.origin.url("/pattern-chunked/300000");
        let body = run(curl(relay, home).arg("--http1.0").arg(chunked)).expect_success();
        assert_same_bytes(&body, &pattern::bytes(0, 300_000), "chunked by the origin");
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn https_goes_through_a_tunnel() {
    with_every_next_hop(|stage, relay, home| {
        let secure = || {
            let mut command = curl(relay, home);
            command.arg("--cacert").arg(stage.nginx.authority());
            command
        };
        let body = run(secure().arg(stage.nginx.tls_url("/20m.bin"))).expect_success();
        assert_same_bytes(&body, &pattern::bytes(2, 20_000_000), "GET in a tunnel");
        let file = home.join("upload");
        fs::write(&file, pattern::bytes(9, 5_000_000)).expect("file");
        run(secure()
            .arg("-fT")
            .arg(&file)
            .arg(stage.nginx.tls_url("/up/sealed")))
        .expect_success();
        assert_same_file(&stage.nginx.root().join("up/sealed"), &file);
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn several_urls_share_one_connection() {
    with_every_next_hop(|stage, relay, home| {
        let urls = stage.nginx.url("/small/[0-9].bin");
        let mut command = curl(relay, home);
        command
            .args(["-o", "#1", "-w", "%{num_connects} %{http_code}\n"])
            .arg(urls);
        let lines = run(&mut command).expect_text();
        let wanted = format!("1 200\n{}", "0 200\n".repeat(9));
        assert_eq!(lines, wanted, "new connections and status per transfer");
        for number in 0..10 {
            let body = fs::read(home.join(number.to_string())).expect("downloaded");
            assert_same_bytes(&body, &small(number), "kept alive");
        }
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn squids_refusal_to_connect_is_passed_on_and_not_its_fault() {
    let stage = Stage::start();
    let folder = Folder::new();
    let settings = stage.settings().upstream(&stage.proxies[0]);
    let relay = Relay::start(&settings);
    let plain = stage.nginx.url("/small/3.bin");
    let mut through_tunnel = curl(&relay, folder.path());
    through_tunnel
        .args(["-p", "-w", "%{http_connect}"])
        .arg(&plain);
    assert!(
        run(&mut through_tunnel).stdout.ends_with(b"403"),
        "the stock rule denies this port"
    );
    let body = run(curl(&relay, folder.path()).arg(&plain)).expect_success();
    assert_same_bytes(&body, &small(3), "the only upstream is still online");
}

#[test]
#[ignore = "needs squid and nginx (Debian packages squid nginx-light curl)"]
fn an_upstream_that_refuses_our_credentials_is_left_out() {
    let stage = Stage::start();
    let folder = Folder::new();
    let wrong = format!(
        "upstream: [{{url: 'http://127.0.0.1:{}', name: stranger, username: eve, password: no}}, \
         {{url: 'http://127.0.0.1:{}', name: second}}]",
        stage.proxies[0].port(),
        stage.proxies[2].port()
    );
    let relay = Relay::start(&stage.settings().line(&wrong));
    let urls = stage.nginx.url("/small/[0-9].bin");
    let mut command = curl(&relay, folder.path());
    command.args(["-o", "#1", "-w", "%{http_code}\n"]).arg(urls);
    assert_eq!(
        run(&mut command).expect_text(),
        "200\n".repeat(10),
        "no client sees the 407"
    );
}

#[test]
#[ignore = "needs microsocks, nginx and curl (Debian packages microsocks nginx-light curl)"]
fn a_socks_server_that_refuses_the_login_is_offline_for_it() {
    let nginx = Nginx::start();
    let login = |password| {
        Some(Login {
            user: "alice",
            password,
        })
    };
    let mut proxy = microsocks(login("right"));
    proxy.login = login("wrong");
    let settings = Settings::new(&nginx.probe_url()).line("via: false");
    let relay = Relay::start(&settings.upstream(&proxy));
    let words = "auth: refused the credentials configured for it";
    wait_until(PATIENCE, "it is offline", || {
        !relay.log_lines(&[words]).is_empty()
    });
    let folder = Folder::new();
    let status = ["-o", "/dev/null", "-w", "%{http_code}"];
    let url = nginx.url("/small/1.bin");
    let status = run(curl(&relay, folder.path()).args(status).arg(url)).expect_text();
    assert!(["502", "503"].contains(&&*status), "{status}");
}

/// What many HTTP libraries send instead of CONNECT.
#[test]
#[ignore = "needs squid, tinyproxy, microsocks, nginx and curl (Debian packages squid tinyproxy microsocks nginx-light curl)"]
fn squid_serves_urls_of_other_schemes() {
    let stage = Stage::start();
    let relay = Relay::start(&stage.settings().upstream(&stage.proxies[0]));
    let mut client = Client::connect(relay.port());
    let (status, body) = client
        .get(&stage.nginx.tls_url("/small/1.bin"))
        .expect("an answer");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    assert_eq!(body, small(1));
    // Nobody listens there, and it is Squid that says so.
    let ftp = format!("ftp://127.0.0.1:{}/a", free_port());
    let (status, body) = client.get(&ftp).expect("an answer");
    let body = String::from_utf8_lossy(&body);
    assert!(status >= 500 && body.contains("squid"), "{status} {body}");
}
