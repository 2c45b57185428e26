//! A machine that has nothing left: descriptors, threads, disk, room in a pipe or a queue. Whoever
//! asks is told so, the log says it once, the processor stays free, and afterwards all is as before.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::machine::{Folder, PATIENCE, allow_many_descriptors, connect, note, wait_until};
use crate::origin::Origin;
use crate::relay::{BINARY, Relay, Settings};
use crate::wire::{Client, host};

/// How much of one processor a relay without work may take.
const SHARE_MAX: f64 = 0.25;
/// How long that is measured.
const MEASURED: Duration = Duration::from_secs(3);
/// Lines of log about one exhaustion.
const LINES_MAX: usize = 12;
/// A user that nobody is, for limits that do not bind root.
const NOBODY: &str = "48217";

/// A shell that runs `first` and becomes the relay.
fn after(first: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first}; exec \"$0\" \"$@\""), BINARY]);
    shell
}

/// Nothing spins, although nothing can be done.
fn expect_calm(relay: &Relay, when: &str) {
    let (before, begun) = (relay.server.program.processor_time(), Instant::now());
    wait_until(PATIENCE, "the time passes", || begun.elapsed() >= MEASURED);
    let used = relay.server.program.processor_time().saturating_sub(before);
    let share = used.as_secs_f64() / begun.elapsed().as_secs_f64();
    note(&format!("{when}: {:.1} % of a processor", share * 100.0));
    assert!(share <= SHARE_MAX, "{when}: {share}");
}

/// Soon a new client is served as if nothing had been.
fn expect_recovery(relay: &Relay, origin: &Origin) {
    wait_until(PATIENCE, "a request is served again", || {
        let mut client = Client::connect(relay.port());
        matches!(client.get(&origin.url("/ok")), Ok((200, _)))
    });
    wait_until(PATIENCE, "a tunnel is opened again", || {
        matches!(tunnel(relay, origin), (_, Some(200)))
    });
}

/// The lines of the log, the access log left out, with all of `words`: a time of day, a level and a message.
fn own_lines(relay: &Relay, words: &[&str]) -> Vec<String> {
    let is_level = |word: &str| ["INFO", "WARN", "ERROR"].contains(&word);
    let mut lines = relay.log_lines(words);
    lines.retain(|line| line.split(' ').nth(1).is_some_and(is_level));
    lines
}

/// The log, the access log left out, tells of it, and not often.
fn expect_few_lines(relay: &Relay, word: &str) {
    let lines = own_lines(relay, &[word]);
    let count = lines.len();
    assert!((1..=LINES_MAX).contains(&count), "{count}: {lines:#?}");
}

/// Asks for a tunnel; what came of it, with the status of the answer if there was one.
fn tunnel(relay: &Relay, origin: &Origin) -> (Client, Option<u16>) {
    let mut client = Client::connect(relay.port());
    let authority = format!("127.0.0.1:{}", origin.port());
    let asked = client.send(&format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ));
    let head = asked.and_then(|()| client.head());
    (client, head.ok().map(|head| head.status()))
}

/// Begins an upload that it never finishes.
fn begin_upload(relay: &Relay, origin: &Origin) -> Client {
    let (mut client, url) = (Client::connect(relay.port()), origin.url("/echo/"));
    let head = format!(
        "POST {url} HTTP/1.1\r\nHost: {}\r\nContent-Length: 10\r\n\r\nabc",
        host(&url)
    );
    drop(client.send(&head)); // It may be refused already.
    client
}

#[test]
#[ignore = "measures processor time; needs no package"]
fn with_sixty_four_descriptors_it_answers_and_recovers() {
    let origin = Origin::start();
    let relay = Relay::start_by(after("ulimit -n 64"), &Settings::direct());
    for _ in 0..2 {
        let mut clients: Vec<Client> = (0..200).map(|_| Client::connect(relay.port())).collect();
        for client in &mut clients {
            let url = origin.url("/ok");
            drop(client.send(&format!(
                "GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n",
                host(&url)
            )));
        }
        expect_calm(&relay, "with 64 descriptors and 200 clients");
        let mut served = 0;
        for client in &mut clients {
            match client.head().map(|head| head.status()) {
                Ok(200) => served += 1,
                Ok(502 | 503) | Err(_) => {}
                Ok(other) => panic!("status {other}"),
            }
        }
        assert!(served > 0, "nobody was served");
        drop(clients);
        expect_recovery(&relay, &origin);
    }
    expect_few_lines(&relay, "connections");
}

#[test]
#[ignore = "needs root and setpriv, prlimit (Debian package util-linux)"]
fn with_forty_threads_it_answers_and_recovers() {
    const THREADS: u64 = 40;
    let folder = Folder::new();
    // Another user must be able to run it.
    let program = folder.path().join("http-proxy-lb");
    fs::copy(BINARY, &program).expect("a copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("permissions");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .args(["prlimit", &format!("--nproc={THREADS}")])
        .arg(&program);
    let origin = Origin::start();
    let relay = Relay::start_by(command, &Settings::direct());
    for _ in 0..2 {
        let mut held = Vec::new();
        let mut answers = Vec::new();
        for _ in 0..40 {
            let (client, status) = tunnel(&relay, &origin);
            held.push(client);
            answers.push(status);
        }
        // As many tunnels as threads are allowed: silent ones need none.
        assert_eq!(answers, [Some(200); 40]);
        held.extend((0..60).map(|_| begin_upload(&relay, &origin)));
        let threads = relay.server.program.status_number("Threads");
        assert!(threads <= THREADS, "{threads}");
        expect_calm(&relay, &format!("with {threads} of {THREADS} threads"));
        drop(held);
        expect_recovery(&relay, &origin);
    }
    let said = own_lines(&relay, &[]);
    let count = said.len();
    assert!((1..=LINES_MAX).contains(&count), "{count}: {said:#?}");
}

/// The size of a file is limited instead of the disk, which needs no rights; the relay sees the same:
/// a part of a line is taken, and then an error.
#[test]
#[ignore = "measures processor time; needs no package"]
fn a_full_disk_under_the_access_log_is_told_once_and_got_over() {
    let (origin, folder) = (Origin::start(), Folder::new());
    let log = folder.shared("log").join("access.log");
    let settings = Settings::direct().line(&format!("access_log: {{file: '{}'}}", log.display()));
    // In blocks of 512 bytes.
    let relay = Relay::start_by(after("trap '' XFSZ; ulimit -f 64"), &settings);
    let mut client = Client::connect(relay.port());
    let ask = |client: &mut Client, count: u32| {
        for _ in 0..count {
            assert_eq!(client.get(&origin.url("/ok")).expect("an answer").0, 200);
        }
    };
    ask(&mut client, 2000);
    expect_calm(&relay, "with a full disk");
    ask(&mut client, 500);
    expect_few_lines(&relay, "access log");
    let size = || fs::metadata(&log).expect("the log").len();
    assert!((16_000..=32_768).contains(&size()), "{}", size());
    // Somebody makes room, and again where lines that waited for it have taken it all.
    wait_until(PATIENCE, "lines are written again", || {
        if size() == 32_768 {
            fs::write(&log, "").expect("emptied");
        }
        ask(&mut client, 10);
        let text = fs::read_to_string(&log).expect("the log");
        text.lines().count() > 1 && text.ends_with('\n')
    });
}

#[test]
#[ignore = "measures processor time; needs no package"]
fn a_blocked_standard_error_holds_nobody_up() {
    let (origin, folder) = (Origin::start(), Folder::new());
    let fifo = folder.path().join("stderr");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .expect("a FIFO");
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let pipe = rustix::fs::open(&fifo, flags, Mode::empty()).expect("opened");
    let mut pipe = fs::File::from(pipe);
    while pipe.write(&[b'-'; 4096]).is_ok() {}
    let redirected = format!("exec 2>'{}'", fifo.display());
    let relay = Relay::start_by(after(&redirected), &Settings::direct());
    let mut client = Client::connect(relay.port());
    client.wait_at_most(Duration::from_secs(5));
    for _ in 0..20 {
        relay.server.program.signal(rustix::process::Signal::HUP);
        for _ in 0..20 {
            assert_eq!(client.get(&origin.url("/ok")).expect("an answer").0, 200);
        }
    }
    expect_calm(&relay, "with a blocked standard error");
    // Somebody reads again, and hears of what was lost.
    let mut text = Vec::new();
    wait_until(PATIENCE, "lost lines are told", || {
        relay.server.program.signal(rustix::process::Signal::HUP);
        let mut block = [0; 4096];
        while let Ok(count) = pipe.read(&mut block) {
            text.extend_from_slice(&block[..count]);
        }
        String::from_utf8_lossy(&text).contains("lines of this log are lost")
    });
    expect_recovery(&relay, &origin);
}

#[test]
#[ignore = "holds thousands of connections; needs no package"]
fn a_full_listen_queue_empties_again() {
    /// More than the relay lets wait.
    const MANY: usize = 4500;
    allow_many_descriptors();
    let origin = Origin::start();
    let relay = Relay::start(&Settings::direct());
    let url = origin.url("/ok");
    let request = format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", host(&url));
    // Nobody accepts meanwhile.
    relay.server.program.signal(rustix::process::Signal::STOP);
    let mut waiting = Vec::new();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], relay.port()));
    while waiting.len() < MANY {
        let limit = Duration::from_millis(500);
        let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, limit) else {
            break;
        };
        stream.write_all(request.as_bytes()).expect("sent");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        waiting.push(stream);
    }
    note(&format!("{} connections waited", waiting.len()));
    relay.server.program.signal(rustix::process::Signal::CONT);
    expect_recovery(&relay, &origin);
    let mut served = 0;
    for stream in &mut waiting {
        let mut start = [0; 12];
        stream.read_exact(&mut start).expect("an answer to each");
        assert!(start == *b"HTTP/1.1 200" || start == *b"HTTP/1.1 503");
        served += usize::from(start.ends_with(b"200"));
    }
    note(&format!("{served} of {} served", waiting.len()));
    assert!(served > 0);
    expect_calm(&relay, "behind a full listen queue");
    assert!(connect(relay.port()).is_ok());
}
