//! An origin written here, for what nginx does not do: echo, counting, endless streams, bodies
//! larger than a disk should hold, and git over HTTP (`git http-backend` as CGI).

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pattern::{Check, WINDOW};
use crate::wire::{Framed, Head};

/// How long an answer under `/slow/` takes.
const THOUGHT: Duration = Duration::from_secs(3);

/// A running origin. Its threads end with the test process.
pub(crate) struct Origin {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// How often each path under `/once/` and `/slow/` was asked for.
    seen: Mutex<HashMap<String, u32>>,
    /// The folder with the repositories for `/git/`.
    repositories: Mutex<Option<PathBuf>>,
}

impl Origin {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared::default());
        let for_threads = Arc::clone(&shared);
        let accept = move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&for_threads);
                let serve = move || drop(serve(stream, &shared));
                spawn("origin-serve", serve);
            }
        };
        spawn("origin-accept", accept);
        Self { port, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Serves the bare repositories in `folder` under `/git/`, for cloning and pushing.
    pub(crate) fn serve_repositories(&self, folder: PathBuf) {
        *self.shared.repositories.lock() = Some(folder);
    }

    /// How often each path under `/once/` and `/slow/` was asked for.
    pub(crate) fn seen(&self) -> HashMap<String, u32> {
        self.shared.seen.lock().clone()
    }
}

pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    let builder = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 * 1024);
    drop(builder.spawn(body).expect("a thread"));
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut output = stream.try_clone()?;
    let mut input = BufReader::with_capacity(WINDOW, stream);
    while let Some(head) = Head::read(&mut input)? {
        let target = head.word(1).to_owned();
        // A proxy that has become a pipe passes the absolute form on.
        let path = match target.strip_prefix("http://") {
            Some(absolute) => absolute.split_once('/').map_or("", |(_, path)| path),
            None => target.trim_start_matches('/'),
        };
        let (area, rest) = path.split_once('/').unwrap_or((path, ""));
        match area {
            "pattern" => send_pattern(&mut output, Framed::Length, rest)?,
            "pattern-chunked" => send_pattern(&mut output, Framed::Chunked, rest)?,
            "count" => count(&head, &mut input, &mut output)?,
            "echo" => {
                let body = body(&head, &mut input)?;
                answer(&mut output, "200 OK", &body)?;
            }
            "once" => {
                body(&head, &mut input)?;
                *shared.seen.lock().entry(rest.to_owned()).or_default() += 1;
                answer(&mut output, "200 OK", rest.as_bytes())?;
            }
            "slow" => {
                *shared.seen.lock().entry(rest.to_owned()).or_default() += 1;
                thread::park_timeout(THOUGHT);
                answer(&mut output, "200 OK", rest.as_bytes())?;
            }
            "endless" => return endless(&mut output),
            "git" => git(&head, &mut input, &mut output, shared)?,
            "stubborn" => send_pattern(&mut output, Framed::Chunked, "100")?,
            "own" => answer(&mut output, "200 OK", rest.as_bytes())?,
            "via" => {
                let via = head.field("via").unwrap_or("nobody");
                answer(&mut output, "200 OK", format!("{via}\n").as_bytes())?;
            }
            "late" => answer_late(&mut output)?,
            "ok" => answer(&mut output, "200 OK", b"ok\n")?,
            _ => answer(&mut output, "404 Not Found", b"no such thing\n")?,
        }
        // The stubborn ones are what a proxy must be prepared for.
        let close = head
            .field("connection")
            .is_some_and(|value| value == "close");
        if close && !["stubborn", "own", "late"].contains(&area) {
            return Ok(());
        }
    }
    Ok(())
}

fn body(head: &Head, input: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    head.read_body(input, |bytes| body.extend_from_slice(bytes))?;
    Ok(body)
}

fn answer(output: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    let mut message = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    message.extend_from_slice(body);
    output.write_all(&message)
}

/// To HEAD: the body comes all the same, a moment later.
fn answer_late(output: &mut TcpStream) -> io::Result<()> {
    output.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n")?;
    thread::park_timeout(Duration::from_millis(3));
    output.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nFOREIGN")
}

/// As many bytes of the pattern as the path says.
fn send_pattern(output: &mut TcpStream, framed: Framed, length: &str) -> io::Result<()> {
    let length = length.parse().map_err(io::Error::other)?;
    output.write_all(format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", framed.field(length)).as_bytes())?;
    framed.send(output, length)
}

/// Reads an upload of the pattern and tells its length, or what is wrong with it.
fn count(head: &Head, input: &mut BufReader<TcpStream>, output: &mut TcpStream) -> io::Result<()> {
    if head.field("expect").is_some() {
        output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut check = Check::default();
    head.read_body(input, |bytes| check.take(bytes))?;
    match check.finish() {
        Ok(length) => answer(output, "200 OK", length.to_string().as_bytes()),
        Err(complaint) => answer(output, "422 Unprocessable", complaint.as_bytes()),
    }
}

/// A few bytes every now and then, until the other side closes.
fn endless(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    while stream.read(&mut [0; 16]).is_err() {
        stream.write_all(b"5\r\ntick\n\r\n")?;
    }
    Ok(())
}

/// One request to `git http-backend`.
fn git(
    head: &Head,
    input: &mut BufReader<TcpStream>,
    output: &mut TcpStream,
    shared: &Shared,
) -> io::Result<()> {
    let body = body(head, input)?;
    let repositories = shared
        .repositories
        .lock()
        .clone()
        .expect("a repository was announced");
    let target = head.word(1).trim_start_matches("/git");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", repositories)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", head.word(0))
        .env("REMOTE_USER", "tester")
        .env(
            "CONTENT_TYPE",
            head.field("content-type").unwrap_or_default(),
        )
        .env("CONTENT_LENGTH", body.len().to_string())
        .env(
            "HTTP_CONTENT_ENCODING",
            head.field("content-encoding").unwrap_or_default(),
        )
        .env(
            "GIT_PROTOCOL",
            head.field("git-protocol").unwrap_or_default(),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("piped");
    spawn("origin-git", move || drop(stdin.write_all(&body)));
    let answered = child.wait_with_output()?.stdout;
    let end = answered
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or(0);
    let (fields, body) = answered.split_at(end);
    let fields = String::from_utf8_lossy(fields).into_owned();
    let status = fields
        .lines()
        .find_map(|line| line.strip_prefix("Status: "));
    let status = status.unwrap_or("200 OK");
    let kept: Vec<&str> = fields
        .lines()
        .filter(|line| !line.starts_with("Status:"))
        .collect();
    let body = body.get(4..).unwrap_or_default();
    let (kept, length) = (kept.join("\r\n"), body.len());
    let head = format!("HTTP/1.1 {status}\r\n{kept}\r\nContent-Length: {length}\r\n\r\n");
    output.write_all(head.as_bytes())?;
    output.write_all(body)
}
