//! What people really put behind a proxy: wget, Python, git, apt-get and a browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::{Folder, assert_same_bytes, note, write};
use crate::nginx::{SMALL_FILES, small};
use crate::pattern;
use crate::programs::{run, tool};
use crate::relay::Relay;
use crate::stage::Stage;

/// Runs `check` with a relay in front of each kind of next hop, and a folder to work in.
fn with_every_next_hop(prepare: impl Fn(&Stage, &Path), check: impl Fn(&Stage, &Relay, &Path)) {
    let stage = Stage::start();
    let shared = Folder::new();
    prepare(&stage, shared.path());
    for (name, relay) in stage.relays() {
        let folder = Folder::new();
        note(&format!("next hop: {name}"));
        check(&stage, &relay, folder.path());
    }
}

fn nothing(_: &Stage, _: &Path) {}

#[test]
#[ignore = "needs squid, tinyproxy, nginx and wget (Debian packages squid tinyproxy nginx-light wget)"]
fn wget_fetches_over_http_and_https() {
    with_every_next_hop(nothing, |stage, relay, home| {
        let wget = || {
            let mut command = tool("wget", home);
            command.args(["--no-config", "-nv", "--tries=1", "--timeout=60"]);
            command
                .env("http_proxy", relay.url())
                .env("https_proxy", relay.url());
            command
        };
        let list: String = (0..SMALL_FILES)
            .map(|number| stage.nginx.url(&format!("/small/{number}.bin\n")))
            .collect();
        write(&home.join("list"), list);
        run(wget().args(["-i", "list"])).expect_success();
        for number in 0..SMALL_FILES {
            let body = fs::read(home.join(format!("{number}.bin"))).expect("downloaded");
            assert_same_bytes(&body, &small(number), "wget");
        }
        let authority = format!("--ca-certificate={}", stage.nginx.authority().display());
        let url = stage.nginx.tls_url("/20m.bin");
        let body = run(wget().args([&authority, "-O", "-"]).arg(url)).expect_success();
        assert_same_bytes(&body, &pattern::bytes(2, 20_000_000), "wget https");
        write(&home.join("form"), pattern::bytes(5, 70_000));
        let post = run(wget()
            .args(["--post-file=form", "-O", "-"])
            .arg(stage.origin.url("/echo")));
        assert_same_bytes(
            &post.expect_success(),
            &pattern::bytes(5, 70_000),
            "wget post",
        );
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, nginx and requests (Debian packages squid tinyproxy nginx-light python3-requests)"]
fn python_requests_keeps_a_session_streams_and_uploads() {
    with_every_next_hop(nothing, |stage, relay, home| {
        write(&home.join("script.py"), PYTHON);
        for number in 0..10 {
            write(&home.join(format!("{number}.bin")), small(number));
        }
        write(&home.join("20m.bin"), pattern::bytes(2, 20_000_000));
        let mut command = tool(python(), home);
        command.arg("script.py").arg(relay.url());
        command.args([
            stage.nginx.url(""),
            stage.nginx.tls_url(""),
            stage.origin.url("/echo"),
        ]);
        command.arg(stage.nginx.authority());
        assert_eq!(run(&mut command).expect_text().trim(), "all well");
    });
}

/// The Python that has requests: Debian's, unless another one comes first and has it, too.
pub(crate) fn python() -> &'static str {
    let has_requests = |name: &&&str| {
        let output = Command::new(name).args(["-c", "import requests"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    ["python3", "/usr/bin/python3"]
        .iter()
        .find(has_requests)
        .expect("a Python with requests")
}

const PYTHON: &str = r#"
import sys, requests

relay, plain, secure, echo, authority = sys.argv[1:]
session = requests.Session()
session.trust_env = False
session.proxies = {"http": relay, "https": relay}
session.verify = authority

for scheme in plain, secure:
    for number in range(10):
        answer = session.get(f"{scheme}/small/{number}.bin", timeout=60)
        answer.raise_for_status()
        assert answer.content == open(f"{number}.bin", "rb").read(), (scheme, number)
    wanted = open("20m.bin", "rb")
    with session.get(f"{scheme}/20m.bin", stream=True, timeout=60) as answer:
        for chunk in answer.iter_content(100_000):
            assert chunk == wanted.read(len(chunk)), scheme
    assert not wanted.read(1), "shorter than wanted"

def pieces():
    for number in range(100):
        yield b"%05d" % number * 1000

answer = session.post(echo, data=pieces(), timeout=60)
assert answer.status_code == 200, answer
assert answer.content == b"".join(pieces())
assert session.get(plain + "/nothing", timeout=60).status_code == 404
print("all well")
"#;

fn git(home: &Path) -> Command {
    let mut command = tool("git", home);
    command.args([
        "-c",
        "user.name=tester",
        "-c",
        "user.email=tester@example.org",
    ]);
    command.args([
        "-c",
        "init.defaultBranch=main",
        "-c",
        "commit.gpgsign=false",
    ]);
    command.env("GIT_TERMINAL_PROMPT", "0");
    command
}

/// A bare repository with some history below nginx's folder, served as files ("dumb") by it and
/// by `git http-backend` by the other origin.
fn make_repository(stage: &Stage, home: &Path) {
    let work = home.join("work");
    run(git(home).args(["init", "-q"]).arg(&work)).expect_success();
    for number in 0..20 {
        write(
            &work.join(format!("file{number}")),
            pattern::bytes(number, 50_000),
        );
        run(git(&work).args(["add", "."])).expect_success();
        run(git(&work).args(["commit", "-q", "-m", &format!("step {number}")])).expect_success();
    }
    let bare = stage.nginx.root().join("git/repo.git");
    fs::create_dir_all(bare.parent().expect("a folder")).expect("folder");
    run(git(home)
        .args(["clone", "-q", "--bare"])
        .arg(&work)
        .arg(&bare))
    .expect_success();
    run(git(&bare).arg("update-server-info")).expect_success();
    stage
        .origin
        .serve_repositories(stage.nginx.root().join("git"));
}

fn head_of(repository: &Path) -> String {
    run(git(repository).args(["rev-parse", "HEAD"])).expect_text()
}

#[test]
#[ignore = "needs squid, tinyproxy, nginx and git (Debian packages squid tinyproxy nginx-light git)"]
fn git_clones_over_http_and_https() {
    with_every_next_hop(make_repository, |stage, relay, home| {
        let urls = [
            ("dumb", stage.nginx.url("/git/repo.git")),
            ("sealed", stage.nginx.tls_url("/git/repo.git")),
            ("smart", stage.origin.url("/git/repo.git")),
        ];
        for (name, url) in urls {
            let mut clone = git(home);
            clone.args(["-c", &format!("http.proxy={}", relay.url())]);
            clone.arg("-c").arg(format!(
                "http.sslCAInfo={}",
                stage.nginx.authority().display()
            ));
            clone.args(["clone", "-q", &url, name]);
            run(&mut clone).expect_success();
            let copy = home.join(name);
            run(git(&copy).args(["fsck", "--strict"])).expect_success();
            assert_eq!(
                head_of(&copy),
                head_of(&stage.nginx.root().join("git/repo.git")),
                "{name}"
            );
        }
    });
}

#[test]
#[ignore = "needs squid, tinyproxy, nginx and git (Debian packages squid tinyproxy nginx-light git)"]
fn git_pushes_a_large_pack_in_chunks() {
    with_every_next_hop(make_repository, |stage, relay, home| {
        let proxy = format!("http.proxy={}", relay.url());
        let url = stage.origin.url("/git/repo.git");
        run(git(home).args(["-c", &proxy, "clone", "-q", &url, "copy"])).expect_success();
        let copy = home.join("copy");
        let name = format!("for-{}", relay.port());
        write(
            &copy.join(&name),
            pattern::bytes(u64::from(relay.port()), 4_000_000),
        );
        run(git(&copy).args(["add", "."])).expect_success();
        run(git(&copy).args(["commit", "-q", "-m", &name])).expect_success();
        run(git(&copy).args(["-c", &proxy, "push", "-q", "origin", "HEAD:main"])).expect_success();
        assert_eq!(
            head_of(&copy),
            head_of(&stage.nginx.root().join("git/repo.git"))
        );
    });
}

/// A flat apt repository made by hand, with one package in it.
fn make_apt_repository(stage: &Stage, home: &Path) {
    let package = home.join("package");
    write(
        &package.join("usr/share/relay-probe/data"),
        pattern::bytes(3, 300_000),
    );
    write(
        &package.join("DEBIAN/control"),
        "Package: relay-probe\nVersion: 1.0\nArchitecture: all\n\
         Maintainer: Tester <tester@example.org>\nDescription: came through the relay\n",
    );
    let repository = stage.nginx.root().join("apt");
    fs::create_dir_all(&repository).expect("folder");
    let deb = repository.join("relay-probe.deb");
    run(tool("dpkg-deb", home)
        .args(["--root-owner-group", "-b", "package"])
        .arg(&deb))
    .expect_success();
    let control = fs::read_to_string(package.join("DEBIAN/control")).expect("just written");
    let (size, sum) = size_and_sum(&deb, home);
    let entry = format!("{control}Filename: ./relay-probe.deb\nSize: {size}\nSHA256: {sum}\n\n");
    let index = repository.join("Packages");
    write(&index, entry);
    let (size, sum) = size_and_sum(&index, home);
    let release = format!("Suite: stable\nSHA256:\n {sum} {size} Packages\n");
    write(&repository.join("Release"), release);
}

fn size_and_sum(file: &Path, home: &Path) -> (u64, String) {
    let line = run(tool("sha256sum", home).arg(file)).expect_text();
    let sum = line.split(' ').next().expect("a sum").to_owned();
    (fs::metadata(file).expect("it exists").len(), sum)
}

#[test]
#[ignore = "needs squid, tinyproxy, nginx and apt-get (Debian packages squid tinyproxy nginx-light apt)"]
fn apt_get_updates_and_downloads_through_the_relay() {
    with_every_next_hop(make_apt_repository, |stage, relay, home| {
        let sources = format!(
            "deb [trusted=yes] {} ./\ndeb [trusted=yes] {} ./\n",
            stage.nginx.url("/apt/"),
            stage.nginx.tls_url("/apt/")
        );
        write(&home.join("etc/sources.list"), sources);
        for folder in [
            "etc/preferences.d",
            "etc/apt.conf.d",
            "lists/partial",
            "cache/partial",
        ] {
            fs::create_dir_all(home.join(folder)).expect("folder");
        }
        write(&home.join("status"), "");
        write(
            &home.join("apt.conf"),
            apt_settings(relay, &stage.nginx.authority(), home),
        );
        let apt = || {
            let mut command = tool("apt-get", home);
            command.env("APT_CONFIG", home.join("apt.conf"));
            command
        };
        let said = run(apt().arg("update")).expect_text();
        assert!(!said.contains("Err:"), "{said}");
        run(apt().args(["download", "relay-probe"])).expect_success();
        let got = fs::read(home.join("relay-probe_1.0_all.deb")).expect("downloaded");
        let wanted = fs::read(stage.nginx.root().join("apt/relay-probe.deb")).expect("made");
        assert_same_bytes(&got, &wanted, "the package");
    });
}

/// Everything apt-get reads or writes is in `home`, and nothing of the machine's apt is touched.
fn apt_settings(relay: &Relay, authority: &Path, home: &Path) -> String {
    let (relay, authority, home) = (relay.url(), authority.display(), home.display());
    format!(
        "Dir \"{home}\";\nDir::Etc \"{home}/etc\";\nDir::Etc::SourceParts \"/dev/null\";\n\
         Dir::Etc::TrustedParts \"/dev/null\";\n\
         Dir::State \"{home}\";\nDir::State::Lists \"{home}/lists\";\n\
         Dir::State::Status \"{home}/status\";\n\
         Dir::Cache \"{home}/cache\";\nDir::Cache::Archives \"{home}/cache\";\n\
         APT::Sandbox::User \"\";\nAcquire::Languages \"none\";\nAcquire::Retries \"0\";\n\
         Acquire::http::Proxy \"{relay}\";\nAcquire::https::Proxy \"{relay}\";\n\
         Acquire::https::CAInfo \"{authority}\";\n"
    )
}

#[test]
#[ignore = "needs squid, tinyproxy, nginx and chromium (Debian packages squid tinyproxy nginx-light chromium)"]
fn chromium_shows_a_page_with_many_parts() {
    with_every_next_hop(nothing, |stage, relay, home| {
        for url in [
            stage.nginx.url("/page.html"),
            stage.nginx.tls_url("/page.html"),
        ] {
            let page = run(chromium(relay, home).arg(&url));
            let page = page.expect_text();
            assert!(page.contains("fetched 25"), "{url}:\n{page}");
        }
    });
}

fn chromium(relay: &Relay, home: &Path) -> Command {
    let mut command = tool("chromium", home);
    let data: PathBuf = home.join("profile");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
    ]);
    command.args([
        "--no-first-run",
        "--disable-background-networking",
        "--disable-sync",
    ]);
    command.args(["--disable-component-update", "--disable-dev-shm-usage"]);
    command.args(["--ignore-certificate-errors", "--virtual-time-budget=20000"]);
    command.arg(format!("--user-data-dir={}", data.display()));
    command.arg(format!("--proxy-server={}", relay.url()));
    command.args(["--proxy-bypass-list=<-loopback>", "--dump-dom"]);
    command
}
