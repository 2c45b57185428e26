//! An upstream that answers whatever gets through to it, in one thread.
//!
//! Probes get 204, targets below `/stream` a body that does not end, CONNECT a tunnel that echoes, and
//! all else a short 200. A request with a body is answered at once, and its connection then closed: what
//! garbage says about bodies is not to be waited for.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// Marks the listener among the events.
const LISTENER: u64 = u64::MAX;

pub(crate) struct Upstream(SocketAddr);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Requests,
    /// Everything comes back.
    Echo,
    /// The body does not end.
    Stream,
    /// The connection ends behind the answer.
    Ending,
    /// The answer is out, and the end of the other side is awaited.
    Ended,
}

struct Peer {
    stream: TcpStream,
    read: Vec<u8>,
    to_write: Vec<u8>,
    mode: Mode,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        rustix::net::listen(&listener, 4096).expect("a long queue");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("an address");
        let thread = thread::Builder::new().name("upstream".to_owned());
        drop(thread.spawn(move || serve(&listener)).expect("a thread"));
        Self(address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0
    }
}

/// Ends with the process.
fn serve(listener: &TcpListener) {
    let poll = epoll::create(CreateFlags::CLOEXEC).expect("epoll");
    let data = EventData::new_u64(LISTENER);
    epoll::add(&poll, listener, data, EventFlags::IN).expect("watched");
    let mut peers: HashMap<u64, Peer> = HashMap::new();
    let mut next = 0;
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        let waited = epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None);
        if waited.is_err() {
            continue;
        }
        for event in &events {
            let key = event.data.u64();
            if key == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).expect("nonblocking");
                    stream.set_nodelay(true).expect("an option");
                    let data = EventData::new_u64(next);
                    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                    epoll::add(&poll, &stream, data, flags).expect("watched");
                    peers.insert(next, Peer::new(stream));
                    next += 1;
                }
            } else if peers.get_mut(&key).is_some_and(|peer| !peer.goes_on()) {
                peers.remove(&key);
            }
        }
    }
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
            to_write: Vec::new(),
            mode: Mode::Requests,
        }
    }

    /// Reads and writes as much as there is. `false`: it is over.
    fn goes_on(&mut self) -> bool {
        let mut block = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut block) {
                Ok(0) => return false,
                Ok(count) => self.take(&block[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        self.write()
    }

    fn take(&mut self, bytes: &[u8]) {
        match self.mode {
            Mode::Requests => {
                self.read.extend_from_slice(bytes);
                self.answer();
            }
            Mode::Echo => self.to_write.extend_from_slice(bytes),
            Mode::Stream | Mode::Ending | Mode::Ended => {}
        }
    }

    fn answer(&mut self) {
        while self.mode == Mode::Requests
            && let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head: Vec<u8> = self.read.drain(..end + 4).collect();
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let has_body = head.contains("\r\ntransfer-encoding:")
                || head.contains("\r\ncontent-length:")
                    && !head.contains("\r\ncontent-length: 0\r");
            let answer = if head.starts_with("connect ") {
                self.mode = Mode::Echo;
                "HTTP/1.1 200 OK\r\n\r\n"
            } else if head.contains("/stream") {
                self.mode = Mode::Stream;
                "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
            } else if has_body {
                self.mode = Mode::Ending;
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
            } else if head.contains("generate_204") {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else if head.starts_with("head ") {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            };
            self.to_write.extend_from_slice(answer.as_bytes());
        }
        if self.mode == Mode::Echo {
            self.to_write.append(&mut self.read);
        }
    }

    fn write(&mut self) -> bool {
        loop {
            if self.to_write.is_empty() {
                if self.mode != Mode::Stream {
                    break;
                }
                self.to_write.resize(64 * 1024, b'x');
            }
            match self.stream.write(&self.to_write) {
                Ok(count) => drop(self.to_write.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        if self.mode == Mode::Ending {
            // Once: each time is an event of its own.
            self.mode = Mode::Ended;
            return self.stream.shutdown(std::net::Shutdown::Write).is_ok();
        }
        true
    }
}
