//! Reloading while the relay works: nobody may notice, and nothing may be left behind.
#![cfg(test)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dlmalloc::GlobalDlmalloc;
use http_proxy_lb::config;
use http_proxy_lb::config::source::Source;
use http_proxy_lb::server::{Options, Server, UpstreamReport};

/// That of the program: what is measured here is what that keeps.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const GET: &[u8] = b"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const CONNECT: &[u8] = b"CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";

#[track_caller]
fn wait_until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited in vain");
        thread::park_timeout(Duration::from_millis(2));
    }
}

fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let thread = thread::Builder::new().stack_size(256 * 1024);
    thread.spawn(body).expect("a thread")
}

/// A proxy that answers every request with 200, and echoes in tunnels.
struct Upstream(SocketAddr);

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                spawn(move || serve(stream));
            }
        });
        Self(address)
    }
}

/// Ends with its connection.
fn serve(mut stream: TcpStream) -> Option<()> {
    loop {
        let head = read_head(&mut stream)?;
        if head.starts_with("CONNECT ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
            let mut block = [0; 4096];
            loop {
                let count = stream.read(&mut block).ok().filter(|count| *count > 0)?;
                stream.write_all(&block[..count]).ok()?;
            }
        }
        let status = if head.contains("generate_204") {
            "204 No Content\r\n\r\n"
        } else {
            "200 OK\r\nContent-Length: 2\r\n\r\nok"
        };
        stream
            .write_all(format!("HTTP/1.1 {status}").as_bytes())
            .ok()?;
    }
}

/// Up to and with the empty line; nothing is sent behind it here.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut block = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut block).ok().filter(|count| *count > 0)?;
        head.extend_from_slice(&block[..count]);
    }
    String::from_utf8(head).ok()
}

/// A client's connection.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        #[expect(clippy::disallowed_methods, reason = "loopback answers at once")]
        let stream = TcpStream::connect(address).expect("the relay accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream.set_nodelay(true).expect("an option");
        Self(stream)
    }

    /// One request; whether it went as it should.
    fn get(&mut self) -> Result<(), String> {
        self.0.write_all(GET).map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        let mut block = [0; 4096];
        while !answer.ends_with(b"\r\n\r\nok") {
            match self.0.read(&mut block) {
                Ok(count) if count > 0 => answer.extend_from_slice(&block[..count]),
                ended => return Err(format!("{ended:?} after {answer:?}")),
            }
        }
        if answer.starts_with(b"HTTP/1.1 200 ") {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&answer).into_owned())
        }
    }

    fn tunnel(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        client.0.write_all(CONNECT).expect("sent");
        let head = read_head(&mut client.0).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        client
    }

    fn echo(&mut self, text: &[u8]) {
        self.0.write_all(text).expect("the tunnel is open");
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back).expect("the tunnel is open");
        assert_eq!(back, text);
    }
}

/// A relay that reads its configuration from a file in a folder of its own.
struct Setup {
    folder: PathBuf,
    file: PathBuf,
    upstreams: [Upstream; 3],
    server: Option<Server>,
}

impl Setup {
    /// `place` makes the file of a text: in the simplest case, writes it.
    fn with(interval: &str, place: impl Fn(&Path, &str) -> PathBuf) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("http-proxy-lb-reloads-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a folder");
        let mut setup = Self {
            file: PathBuf::new(),
            folder,
            upstreams: [Upstream::start(), Upstream::start(), Upstream::start()],
            server: None,
        };
        let text = setup.text(&[0, 1], interval);
        setup.file = place(&setup.folder, &text);
        let config = config::load(&setup.file).expect("a valid file");
        let options = Options {
            source: Some(Source::from(setup.file.clone())),
            ..Options::default()
        };
        setup.server = Some(Server::start(config, options).expect("the relay starts"));
        setup
    }

    fn new() -> Self {
        Self::with("reload_interval_secs: 0", |folder, text| {
            let file = folder.join("c.yaml");
            fs::write(&file, text).expect("written");
            file
        })
    }

    /// A valid file with these upstreams.
    fn text(&self, members: &[usize], lines: &str) -> String {
        let one = |member: &usize| {
            let address = self.upstreams[*member].0;
            format!("  - {{url: 'http://{address}', name: u{member}}}\n")
        };
        let upstreams: Vec<_> = members.iter().map(one).collect();
        format!(
            "listen: 127.0.0.1:0\nlimits: {{shutdown_timeout_secs: 1, upstream_idle_secs: 1}}\nupstream:\n{}{lines}\n",
            upstreams.concat()
        )
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    fn address(&self) -> SocketAddr {
        self.server().local_addr()
    }

    fn names(&self) -> Vec<String> {
        let upstreams = self.server().upstreams().into_iter();
        upstreams.map(|upstream| upstream.name).collect()
    }

    fn reloads(&self) -> u64 {
        self.server().context().metrics.reloads.value()
    }

    fn failed(&self) -> u64 {
        self.server().context().metrics.failed_reloads.value()
    }

    /// Nothing is under way, and every count is back at nothing.
    #[track_caller]
    fn expect_at_rest(&self) {
        wait_until(|| {
            let counts = self.server().counts();
            let leases: u64 = self.server().upstreams().iter().map(|u| u.active).sum();
            (counts.connections, counts.tunnels, counts.busy, leases) == (0, 0, 0, 0)
        });
        assert_eq!(self.server().counts().panics, 0);
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.drain();
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// `c.yaml -> ..data/c.yaml`, `..data -> ..N`: a volume of Kubernetes is changed by swapping `..data`.
#[test]
fn a_volume_of_kubernetes_is_followed() {
    let put = |folder: &Path, version: &str, text: &str| {
        fs::create_dir(folder.join(version)).expect("a folder");
        fs::write(folder.join(version).join("c.yaml"), text).expect("written");
        symlink(version, folder.join("..data_tmp")).expect("a link");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("swapped");
    };
    let setup = Setup::with("reload_interval_secs: 0.02", |folder, text| {
        put(folder, "..1", text);
        symlink("..data/c.yaml", folder.join("c.yaml")).expect("a link");
        folder.join("c.yaml")
    });
    for (version, members) in [("..2", &[2][..]), ("..3", &[0, 1, 2])] {
        put(
            &setup.folder,
            version,
            &setup.text(members, "reload_interval_secs: 0.02"),
        );
        wait_until(|| setup.names().len() == members.len());
    }
    // The old version is removed last.
    fs::remove_dir_all(setup.folder.join("..2")).expect("removed");
    Client::connect(setup.address()).get().expect("an answer");
    assert_eq!((setup.reloads(), setup.failed()), (2, 0));
}

/// As editors and tools for deployment write.
#[test]
fn a_file_that_is_renamed_into_place_is_followed() {
    let setup = Setup::with("reload_interval_secs: 0.02", |folder, text| {
        fs::write(folder.join("c.yaml"), text).expect("written");
        folder.join("c.yaml")
    });
    for member in [2, 0, 1] {
        let next = setup.folder.join("next");
        fs::write(&next, setup.text(&[member], "reload_interval_secs: 0.02")).expect("written");
        fs::rename(&next, &setup.file).expect("renamed");
        wait_until(|| setup.names() == [format!("u{member}")]);
    }
    assert_eq!((setup.reloads(), setup.failed()), (3, 0));
}

#[test]
fn ten_thousand_upstreams_come_and_go_while_requests_pass() {
    let setup = Setup::new();
    let mut client = Client::connect(setup.address());
    client.get().expect("an answer");
    let many = |from: usize| {
        let mut text = setup.text(&[0], "mode: priority");
        let line = |number: usize| {
            let (high, low) = (number / 250, number % 250);
            format!("  - {{url: 'http://10.9.{high}.{low}', priority: 200}}\n")
        };
        let lines: Vec<_> = (from..from + 10_000).map(line).collect();
        text = text.replace("upstream:\n", &format!("upstream:\n{}", lines.concat()));
        text
    };
    for (turn, from) in [0, 5_000, 20_000].into_iter().enumerate() {
        fs::write(&setup.file, many(from)).expect("written");
        setup.server().reload_now();
        wait_until(|| setup.reloads() == turn as u64 + 1);
        assert_eq!(setup.names().len(), 10_001);
        client.get().expect("an answer");
    }
    fs::write(&setup.file, setup.text(&[1], "")).expect("written");
    setup.server().reload_now();
    wait_until(|| setup.names() == ["u1"]);
    client.get().expect("an answer");
    drop(client);
    setup.expect_at_rest();
}

/// Clients that ask one request after the other until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(AtomicU64::new(0));
        let clients = (0..clients).map(|_| {
            let (stop, requests) = (Arc::clone(&stop), Arc::clone(&requests));
            spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::connect(address);
                    for _ in 0..50 {
                        client.get()?;
                        requests.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            requests,
        }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// None of them failed.
    #[track_caller]
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let ended = client.join().expect("no panic");
            assert_eq!(ended, Ok(()));
        }
        self.requests.load(Ordering::Relaxed)
    }
}

/// Files that differ in everything that may change, and some that are broken; the `turn`th.
fn variety(setup: &Setup, turn: u64) -> (String, bool) {
    // xorshift: the same order in each run.
    let mut random = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    random ^= random >> 29;
    random = random.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    random ^= random >> 32;
    let members = [&[0][..], &[1], &[2], &[0, 1], &[2, 1], &[2, 0, 1]];
    let pick = |of: usize, shift: u32| usize::try_from(random >> shift).unwrap_or(0) % of;
    let mode = ["round_robin", "best", "priority"][pick(3, 8)];
    let lines = [
        format!("reload_interval_secs: 0\nmode: {mode}\n"),
        format!(
            "reload_interval_secs: 0\nvia: false\nhealth_check: {{fall: {}}}\n",
            pick(5, 12) + 1
        ),
        format!(
            "reload_interval_secs: 0\naccess_log: {{file: log-{}}}\n",
            pick(2, 16)
        ),
        "reload_interval_secs: 0\nadmin_listen: 127.0.0.1:1\ndomain_policy: {mode: blacklist, \
         domains: [x.test, 10.0.0.0/8]}\n"
            .to_owned(),
    ];
    let text = setup.text(
        members[pick(members.len(), 20)],
        &lines[pick(lines.len(), 24)],
    );
    let broken = [
        "listen: [".to_owned(),
        format!("{text}mode: random\n"),
        format!("{text}limits: {{workers: -1}}\n"),
        format!("{text}access_log: {{file: no/such/folder/log}}\n"),
        String::new(),
        "\u{0}\u{1}".to_owned(),
    ];
    if pick(3, 28) == 0 {
        (
            broken[pick(broken.len(), 32)].clone() + &format!("# {turn}"),
            false,
        )
    } else {
        (text + &format!("# {turn}\n"), true)
    }
}

/// Replaces the file and waits until the relay has seen it.
fn reload(setup: &Setup, turn: u64) {
    let (text, valid) = variety(setup, turn);
    let before = (setup.reloads(), setup.failed());
    let next = setup.folder.join("next");
    fs::write(&next, text).expect("written");
    fs::rename(&next, &setup.file).expect("renamed");
    setup.server().reload_now();
    wait_until(|| setup.reloads() + setup.failed() > before.0 + before.1);
    let wanted = if valid {
        (before.0 + 1, before.1)
    } else {
        (before.0, before.1 + 1)
    };
    assert_eq!((setup.reloads(), setup.failed()), wanted, "turn {turn}");
}

#[test]
fn reloads_under_load_fail_no_request_and_cut_no_tunnel() {
    let setup = Setup::new();
    let mut tunnels: Vec<_> = (0..8).map(|_| Client::tunnel(setup.address())).collect();
    let load = Load::start(setup.address(), 4);
    for turn in 0..150 {
        reload(&setup, turn);
        let requests = load.requests();
        if turn % 10 == 0 {
            for tunnel in &mut tunnels {
                tunnel.echo(b"still here");
            }
            wait_until(|| load.requests() > requests);
        }
    }
    assert_eq!(setup.server().counts().tunnels, 8);
    assert!(load.end() > 100);
    for tunnel in &mut tunnels {
        tunnel.echo(b"to the end");
    }
    drop(tunnels);
    setup.expect_at_rest();
}

/// Memory in RAM and open descriptors of this process.
fn usage() -> (u64, usize) {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib = kib.and_then(|kib| kib.parse().ok()).expect("a number");
    (kib, fs::read_dir("/proc/self/fd").expect("Linux").count())
}

#[test]
#[ignore = "soak: 20 s of 100 reloads per second under load"]
fn a_storm_of_reloads_leaves_nothing_behind() {
    const WARM_UP: u64 = 2000;
    const TURNS: u64 = 2000;
    const EVERY: Duration = Duration::from_millis(10);
    /// What the allocator keeps for itself, in KiB: less than one for each reload.
    const SLACK: u64 = 1536;
    let setup = Setup::new();
    // What carries tunnels comes with the first one and stays.
    Client::tunnel(setup.address()).echo(b"the first");
    setup.expect_at_rest();
    let (_, files) = usage();
    // What the allocator keeps levels off after some thousand turns.
    let tunnels: Vec<_> = (0..8).map(|_| Client::tunnel(setup.address())).collect();
    let load = Load::start(setup.address(), 4);
    for turn in 0..WARM_UP {
        reload(&setup, turn);
    }
    load.end();
    drop(tunnels);
    setup.expect_at_rest();
    let (memory, _) = usage();
    let tunnels: Vec<_> = (0..8).map(|_| Client::tunnel(setup.address())).collect();
    let load = Load::start(setup.address(), 4);
    let begun = Instant::now();
    let mut due = begun;
    for turn in WARM_UP..WARM_UP + TURNS {
        reload(&setup, turn);
        due += EVERY;
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
    }
    let elapsed = begun.elapsed();
    let mut tunnels = tunnels;
    for tunnel in &mut tunnels {
        tunnel.echo(b"still here");
    }
    let requests = load.end();
    drop(tunnels);
    setup.expect_at_rest();
    // Idle connections to upstreams are kept for a while, and so are idle workers. The file of the
    // access log may be open, and threads that had just started open one of their own.
    wait_until(|| usage().1 <= files + 3);
    let (memory_after, files_after) = usage();
    let told = format!(
        "{TURNS} reloads in {elapsed:.1?} ({} applied, {} refused), {requests} requests, none \
         failed; memory {memory} -> {memory_after} KiB, descriptors {files} -> {files_after}",
        setup.reloads(),
        setup.failed()
    );
    // Straight to standard output: the figures are wanted although the test passes.
    writeln!(std::io::stdout(), "{told}").expect("standard output");
    assert!(memory_after <= memory + SLACK, "{told}");
}

/// How long each of `count` requests takes, of which one is due every `every`, sorted; counted from when it is due, so
/// that what one waits for is held against those behind it, too. Some come by a new connection.
fn ask_quietly(address: SocketAddr, count: u32, every: Duration) -> Result<Vec<Duration>, String> {
    let mut client = Client::connect(address);
    let mut took = Vec::new();
    let mut due = Instant::now();
    for number in 0..count {
        due += every;
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        if number % 8 == 0 {
            client = Client::connect(address);
        }
        client.get()?;
        took.push(due.elapsed());
    }
    took.sort_unstable();
    Ok(took)
}

/// Prints it, and gives the p99.9.
fn told(when: &str, took: &[Duration]) -> Duration {
    let [median, p99, most] = [500, 990, 999].map(|share| took[took.len() * share / 1000]);
    let longest = took[took.len() - 1];
    let figures =
        format!("p50 {median:.2?}, p99 {p99:.2?}, p99.9 {most:.2?}, longest {longest:.2?}");
    writeln!(std::io::stdout(), "{when}: {figures}").expect("standard output");
    most
}

impl Setup {
    /// Puts a file in its place, as it is deployed.
    fn put(&self, name: &str, text: &str) {
        fs::write(self.folder.join("next"), text).expect("written");
        fs::rename(self.folder.join("next"), self.folder.join(name)).expect("renamed");
    }

    /// Has the file read again; gives how long that took.
    fn reload(&self) -> Duration {
        let (begun, before) = (Instant::now(), self.reloads());
        self.server().reload_now();
        wait_until(|| self.reloads() > before);
        begun.elapsed()
    }
}

#[test]
#[ignore = "measures: 20 s of requests, half of them during reloads of 10,000 upstreams and 100,000 names"]
fn a_quiet_client_hardly_notices_reloads_of_large_lists() {
    const REQUESTS: u32 = 5000;
    const EVERY: Duration = Duration::from_millis(2);
    let setup = Setup::new();
    let exit = |number: usize| format!("{}:user{number}:x\n", setup.upstreams[0].0);
    let name = |number: usize| format!("0.0.0.0 host{number}.ads.test\n");
    let texts = [0, 1].map(|first| {
        let exits: String = (first..first + 10_000).map(exit).collect();
        let ads: String = (first..first + 100_000).map(name).collect();
        (exits, ads)
    });
    let lists = |turn: usize| {
        let (exits, ads) = &texts[turn % 2];
        setup.put("exits.txt", exits);
        setup.put("ads.txt", ads);
    };
    lists(0);
    setup.put(
        "c.yaml",
        "listen: 127.0.0.1:0\nreload_interval_secs: 0\nlimits: {upstream_idle_connections: 0}\n\
         health_check: {url: none}\nupstream_files: [exits.txt]\n\
         rules: [{domains_file: ads.txt, use: refuse}]\n",
    );
    setup.reload();
    let address = setup.address();
    let is_checked = |upstreams: Vec<UpstreamReport>| upstreams.iter().all(|one| one.was_checked);
    wait_until(|| is_checked(setup.server().upstreams()));
    ask_quietly(address, REQUESTS / 5, EVERY).expect("answers");
    let calm = ask_quietly(address, REQUESTS, EVERY).expect("answers");
    let client = spawn(move || ask_quietly(address, REQUESTS, EVERY));
    let mut reloads = Vec::new();
    while !client.is_finished() {
        lists(reloads.len() + 1);
        reloads.push(setup.reload());
    }
    let during = client.join().expect("no panic").expect("answers");
    assert_eq!(setup.names().len(), 10_000);
    let ratio = told("during reloads", &during).as_secs_f64() / told("calm", &calm).as_secs_f64();
    let (count, longest) = (reloads.len(), reloads.iter().max().expect("one"));
    let figures =
        format!("{count} reloads, the longest of {longest:.2?}; p99.9 {ratio:.2} times calm");
    writeln!(std::io::stdout(), "{figures}").expect("standard output");
}
