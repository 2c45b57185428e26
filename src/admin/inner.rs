//! The HTTP server behind the front: `tiny_http` on a private Unix socket.
//!
//! It has no time limits, no limits of size, and dies silently of several things, so it only ever sees
//! requests written here, one at a time; what it does not answer in time, or at all, is answered by a
//! new one. Its two kinds of threads of its own have no names; they end when it is dropped.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tiny_http::{Header, Method, Request, Response, Server, StatusCode};

use crate::net::folder::SocketFolder;
use crate::net::log_limiter::LogLimiter;
use crate::net::threads;

use super::authorization::Call;
use super::handler::{self, AdminReply};
use super::view::RelayView;

/// How long the server may say nothing; rendering ten thousand upstreams takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer, in bytes.
const MOST: u64 = 64 * 1024 * 1024;

/// As much of an answer as surely has its first line, in bytes.
const START: u64 = 4096;

/// What is said of a server that failed.
static RESTARTED: LogLimiter = LogLimiter::new();

/// What a new server's listener goes through first: tests make it fail here.
pub(super) type Prepare = fn(&UnixListener) -> io::Result<()>;

/// The server, made anew whenever it fails.
pub(super) struct Inner {
    seen: Arc<dyn RelayView>,
    prepare: Prepare,
    folder: SocketFolder,
    sockets: u64,
    running: Option<Running>,
}

struct Running {
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

impl Inner {
    /// A running server.
    ///
    /// # Errors
    /// When there is no folder for its socket, or no descriptor or thread left.
    pub(super) fn start(seen: Arc<dyn RelayView>, prepare: Prepare) -> io::Result<Self> {
        let folder = folder()?;
        folder.tidy();
        let mut inner = Self {
            seen,
            prepare,
            folder,
            sockets: 0,
            running: None,
        };
        inner.run()?;
        Ok(inner)
    }

    /// Makes sure that a server runs, and says where.
    fn run(&mut self) -> io::Result<PathBuf> {
        if !self.folder.is_ours() {
            // Temporary folders are cleaned up by other programs, and another user may have the name by now.
            self.running = None;
            self.folder = folder()?;
        }
        if let Some(running) = &self.running {
            return Ok(running.socket.clone());
        }
        self.sockets += 1;
        let socket = self.folder.socket(self.sockets);
        let listener = UnixListener::bind(&socket)?;
        (self.prepare)(&listener)?;
        let server = Server::from_listener(listener, None).map_err(io::Error::other)?;
        let server = Arc::new(server);
        let (serving, seen) = (Arc::clone(&server), Arc::clone(&self.seen));
        let thread = threads::start("admin-handler", move || serve(&serving, &*seen))?;
        self.running = Some(Running {
            server,
            thread: Some(thread),
            socket: socket.clone(),
        });
        Ok(socket)
    }

    /// The whole answer to a call, as bytes for the wire.
    ///
    /// # Errors
    /// When no server could be had that answers; the next call tries again.
    pub(super) fn answer(&mut self, call: &Call) -> io::Result<Vec<u8>> {
        let asked = self.run().and_then(|socket| ask(&socket, call));
        match asked {
            Err(error) if !crate::net::socket::is_exhaustion(&error) => {
                if let Some(more) = RESTARTED.allow() {
                    log::warn!("the admin server is started anew: {error}{more}");
                }
                self.running = None;
                self.run().and_then(|socket| ask(&socket, call))
            }
            answered_or_exhausted => answered_or_exhausted,
        }
        .inspect_err(|_| self.running = None)
    }
}

fn folder() -> io::Result<SocketFolder> {
    SocketFolder::make().map_err(|error| {
        let text = format!("admin_listen: no temporary folder for a private socket: {error}");
        io::Error::new(error.kind(), text)
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.unblock();
        // A thread that is in the middle of an answer ends after it; it is not waited for.
        if let Some(thread) = self.thread.take()
            && thread.is_finished()
            && thread.join().is_err()
        {
            log::error!("the admin handler had panicked");
        }
    }
}

/// The handler thread: until it is told to leave, or the accept thread failed.
fn serve(server: &Server, seen: &dyn RelayView) {
    while let Ok(request) = server.recv() {
        let reply = handler::reply(seen, request.url());
        if let Err(error) = respond(request, &reply) {
            log::debug!("an admin answer was not taken: {error}");
        }
    }
}

fn respond(request: Request, reply: &AdminReply) -> io::Result<()> {
    let fields = reply.fields();
    let mut response = Response::empty(StatusCode(reply.status))
        .with_data(io::empty(), Some(reply.body.len()))
        .with_chunked_threshold(usize::MAX);
    for (name, value) in fields {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    let has_body = *request.method() != Method::Head;
    let version = request.http_version().clone();
    let mut writer = request.into_writer();
    response.raw_print(&mut writer, version, &[], true, None)?;
    if has_body {
        // `tiny_http` would copy it in pieces of 8 KiB, each of which wakes the reader.
        writer.write_all(&reply.body)?;
    }
    writer.flush()
}

/// One request over one connection.
fn ask(socket: &Path, call: &Call) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (method, target) = call.request_line();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut start = Vec::new();
    Read::by_ref(&mut stream)
        .take(START)
        .read_to_end(&mut start)?;
    let length = announced(&start);
    // Before there is much to make room in.
    let mut answer = closing(start)?;
    answer.reserve(length);
    stream.take(MOST).read_to_end(&mut answer)?;
    if answer.len() as u64 > MOST {
        return Err(io::Error::other("the answer is too large"));
    }
    Ok(answer)
}

/// How many bytes the answer that begins like this has about, as far as that is no more than it may have. A buffer that
/// grows to megabytes is copied again and again.
fn announced(start: &[u8]) -> usize {
    let text = String::from_utf8_lossy(start);
    let mut lines = text.lines();
    let length = lines.find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    usize::try_from(MOST).map_or(0, |most| length.unwrap_or(0).min(most))
}

/// The beginning of an answer with a word that the connection ends after it, which `tiny_http` cannot say.
fn closing(mut answer: Vec<u8>) -> io::Result<Vec<u8>> {
    let line_end = answer.windows(2).position(|pair| pair == b"\r\n");
    match line_end {
        Some(place) if answer.starts_with(b"HTTP/1.1 ") => {
            let field = b"\r\nConnection: close".iter().copied();
            drop(answer.splice(place..place, field));
            Ok(answer)
        }
        Some(_) | None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
