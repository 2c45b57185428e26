//! The program with sockets that somebody else opened, played by this test, and keeps open.
#![cfg(test)]
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Its answer is made by the relay itself.
const REQUEST: &[u8] = b"OPTIONS http://o.test/ HTTP/1.1\r\nHost: o.test\r\nMax-Forwards: 0\r\n\
    Connection: close\r\n\r\n";

/// A running program.
struct Relay {
    folder: PathBuf,
    program: Child,
    log: Vec<String>,
}

impl Relay {
    /// Starts it with up to two sockets as descriptors 3 and 4, and waits until it listens. The
    /// standard library passes only the first three descriptors, so a shell moves them.
    fn start(config: &str, names: Option<&str>, sockets: Vec<&TcpListener>) -> Self {
        let mut relay = Self::spawn(config, names, sockets);
        relay.wait_for("http-proxy-lb ");
        relay
    }

    fn spawn(config: &str, names: Option<&str>, sockets: Vec<&TcpListener>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("http-proxy-lb-activation-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(unique);
        fs::create_dir(&folder).expect("a folder");
        let file = folder.join("c.yaml");
        fs::write(&file, config).expect("written");
        let moved = match sockets.len() {
            1 => "exec 3<&0",
            _ => "exec 3<&0 4<&1",
        };
        let script =
            format!("{moved} </dev/null >/dev/null; LISTEN_PID=$$ exec \"$0\" --config \"$1\"");
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
            .arg(env!("CARGO_BIN_EXE_http-proxy-lb"))
            .arg(&file)
            .env("LISTEN_FDS", sockets.len().to_string())
            .env_remove("LISTEN_FDNAMES")
            .stderr(Stdio::piped());
        if let Some(names) = names {
            command.env("LISTEN_FDNAMES", names);
        }
        let mut sockets = sockets.into_iter().map(|socket| {
            let copy = socket.try_clone().expect("a descriptor");
            Stdio::from(OwnedFd::from(copy))
        });
        command.stdin(sockets.next().expect("a socket"));
        if let Some(second) = sockets.next() {
            command.stdout(second);
        }
        drop(sockets);
        Self {
            folder,
            program: command.spawn().expect("a shell"),
            log: Vec::new(),
        }
    }

    /// Reads the log up to a line with this text.
    fn wait_for(&mut self, text: &str) {
        let stderr = self.program.stderr.as_mut().expect("it is a pipe");
        // A line at a time: what is read too far would be lost.
        let mut line = Vec::new();
        let mut byte = [0];
        while stderr.read(&mut byte).expect("readable") == 1 {
            if byte != *b"\n" {
                line.push(byte[0]);
                continue;
            }
            let whole = String::from_utf8(std::mem::take(&mut line)).expect("text");
            self.log.push(whole);
            if self.log.last().is_some_and(|line| line.contains(text)) {
                return;
            }
        }
        panic!("no line with {text:?}:\n{}", self.log.join("\n"));
    }

    fn terminate(&self) {
        let id = i32::try_from(self.program.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(id.expect("a process"), Signal::TERM).expect("it lives");
    }

    /// Its exit code and its whole log.
    fn end(mut self) -> (Option<i32>, String) {
        let stderr = self.program.stderr.take().expect("it is a pipe");
        let rest = BufReader::new(stderr)
            .lines()
            .map(|line| line.expect("text"));
        self.log.extend(rest);
        let status = self.program.wait().expect("it ends");
        (status.code(), self.log.join("\n"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.program.kill());
        drop(self.program.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

#[expect(clippy::disallowed_methods, reason = "loopback answers at once")]
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The whole answer to a request on a connection of its own.
fn ask(address: SocketAddr, request: &[u8]) -> io::Result<String> {
    let mut stream = connect(address)?;
    stream.write_all(request)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

#[test]
fn passed_sockets_are_used_by_their_names_in_place_of_listen() {
    let ((proxy, proxy_address), (admin, admin_address)) = (listener(), listener());
    let config = "listen: 127.0.0.1:0\nupstream: []\n";
    let relay = Relay::start(config, Some("admin:proxy"), vec![&admin, &proxy]);
    let answer = ask(proxy_address, REQUEST).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let request = b"GET /health HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let answer = ask(admin_address, request).expect("an answer");
    assert!(answer.contains("{\"status\":\"ok\"}"), "{answer}");
    relay.terminate();
    let (code, log) = relay.end();
    assert_eq!(code, Some(0), "{log}");
    let said = format!("listen is 127.0.0.1:0, but a socket at {proxy_address} was passed");
    assert!(log.contains(&said), "{log}");
}

#[test]
fn a_socket_of_the_configured_address_is_used_without_a_word() {
    let (proxy, address) = listener();
    let config = format!("listen: {address}\nupstream: []\n");
    let relay = Relay::start(&config, None, vec![&proxy]);
    let answer = ask(address, REQUEST).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    relay.terminate();
    let (code, log) = relay.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("was passed"), "{log}");
}

#[test]
fn a_socket_of_another_name_is_an_error_that_says_what_to_write() {
    let (other, _) = listener();
    let config = "listen: 127.0.0.1:0\nupstream: []\n";
    let relay = Relay::spawn(config, Some("other"), vec![&other]);
    let (code, log) = relay.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("FileDescriptorName="), "{log}");
}

#[test]
fn a_socket_that_is_announced_and_not_there_is_an_error_that_is_said() {
    let unique = format!("http-proxy-lb-announced-{}.yaml", std::process::id());
    let file = std::env::temp_dir().join(unique);
    fs::write(&file, "listen: 127.0.0.1:0\nupstream: []\n").expect("written");
    for (count, said) in [
        ("1", "descriptor 3 is not open"),
        ("2", "descriptor 3 is not open"),
        ("99999", "no use for more than two"),
        ("one", "malformed"),
    ] {
        let script = "LISTEN_PID=$$ exec \"$0\" --config \"$1\" 3<&-";
        let output = Command::new("/bin/sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_http-proxy-lb")])
            .arg(&file)
            .env("LISTEN_FDS", count)
            .env_remove("LISTEN_FDNAMES")
            .output()
            .expect("a shell");
        let log = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{count}: {log}");
        assert!(log.contains(said), "{count}: {log}");
    }
    drop(fs::remove_file(&file));
}

/// Who passed the socket may have closed it: then nobody would serve who connects during the drain.
#[test]
fn a_drain_closes_a_passed_socket() {
    let (proxy, address) = listener();
    let config = "listen: 127.0.0.1:0\nupstream: []\n";
    let relay = Relay::start(config, None, vec![&proxy]);
    drop(proxy);
    let mut client = connect(address).expect("it listens");
    let (begin, rest) = REQUEST.split_at(10);
    client.write_all(begin).expect("sent");
    // It is served in turn, so the one before it is known by then.
    ask(address, REQUEST).expect("an answer");
    relay.terminate();
    let deadline = Instant::now() + PATIENCE;
    while connect(address).is_ok() {
        assert!(Instant::now() < deadline, "it still listens");
    }
    client.write_all(rest).expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(relay.end().0, Some(0));
}

/// It is the last to be accepted here, so nobody else can serve it. It has half a second for its first
/// byte, which a busy machine may need: one of many tries is enough.
#[test]
fn who_connected_last_is_no_idle_client() {
    let (proxy, address) = listener();
    let config = format!("listen: {address}\nupstream: []\n");
    let is_served = || {
        let mut relay = Relay::start(&config, Some("proxy"), vec![&proxy]);
        let mut client = connect(address).expect("it listens");
        // It is accepted after the one before it.
        ask(address, REQUEST).expect("an answer");
        relay.terminate();
        relay.wait_for("stopping");
        // What closes idle connections does so now.
        client
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("set");
        let is_open = client
            .read(&mut [0])
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        client.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut answer = String::new();
        let answered = client
            .write_all(REQUEST)
            .and_then(|()| client.read_to_string(&mut answer));
        is_open && answered.is_ok() && answer.starts_with("HTTP/1.1 200 ")
    };
    assert!((0..20).any(|_| is_served()));
}

#[test]
fn a_restart_under_load_refuses_and_loses_nobody() {
    const RESTARTS: usize = 4;
    const CLIENTS: usize = 4;
    /// Answers between two restarts.
    const ANSWERS: usize = 100;
    let (proxy, address) = listener();
    let config = format!("listen: {address}\nupstream: []\n");
    let start = || Relay::start(&config, Some("proxy"), vec![&proxy]);
    let (answers, answered) = mpsc::channel::<io::Result<String>>();
    let over = AtomicBool::new(false);
    let wait_for_answers = || {
        for _ in 0..ANSWERS {
            match answered.recv_timeout(PATIENCE) {
                Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200 ") => {}
                other => {
                    over.store(true, Ordering::Relaxed);
                    panic!("{other:?}");
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (answers, over) = (answers.clone(), &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // The test is over where nobody takes it.
                    drop(answers.send(ask(address, REQUEST)));
                }
            });
        }
        drop(answers);
        for _ in 0..RESTARTS {
            let relay = start();
            wait_for_answers();
            relay.terminate();
            assert_eq!(relay.end().0, Some(0));
        }
        let relay = start();
        wait_for_answers();
        over.store(true, Ordering::Relaxed);
        for answer in &answered {
            assert!(answer.expect("an answer").starts_with("HTTP/1.1 200 "));
        }
        relay.terminate();
        assert_eq!(relay.end().0, Some(0));
    });
}
