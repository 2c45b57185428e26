//! What makes an upstream one over TLS: a server in front of it, with certificates made for these tests.
//!
//! It passes bytes on as they are, and ends as well: an orderly end of one side is one of the other, and a
//! reset of the upstream is an end without `close_notify`, as after a crash.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::proxy::Member;
use super::upstream::Upstream;
use super::{PATIENCE, spawn};

/// How much is read at a time.
const LOAD: usize = 16 * 1024;

/// A server of TLS in front of an upstream.
pub(crate) struct TlsFront {
    address: SocketAddr,
    handshakes: Arc<Mutex<Vec<Seen>>>,
}

/// What a client said in its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The name it asked for.
    pub(crate) name: Option<String>,
    /// The protocol that was agreed on.
    pub(crate) protocol: Option<Vec<u8>>,
}

/// The path of a file with certificates, as it goes into a configuration.
pub(crate) fn certificate(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/certificates");
    folder.join(format!("{name}.pem")).display().to_string()
}

impl TlsFront {
    /// Leads to this upstream, and shows the certificate of this name.
    #[track_caller]
    pub(crate) fn of(upstream: &Upstream, name: &str) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate(name)).expect("certificates");
        let chain = chain.map(|one| one.expect("a certificate")).collect();
        let key = PrivateKeyDer::from_pem_file(certificate("key")).expect("a key");
        let provider = Arc::new(rustls_graviola::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (config, to) = (Arc::new(config), upstream.address());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("the address of a listener");
        let handshakes: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let seen = Arc::clone(&handshakes);
        spawn("tls-front", move || {
            while let Ok((stream, _)) = listener.accept() {
                let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
                let seen = Arc::clone(&seen);
                spawn("tls-session", move || serve(session, stream, to, &seen));
            }
        });
        Self {
            address,
            handshakes,
        }
    }

    /// What each client said whose handshake succeeded, those of checks included.
    pub(crate) fn handshakes(&self) -> Vec<Seen> {
        self.handshakes.lock().clone()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Upstream {
    /// This upstream as it is reached over TLS, with more keys.
    #[track_caller]
    pub(crate) fn over_tls(&self, front: &TlsFront, keys: &str) -> Member {
        self.with(&format!("{{url: 'https://{}'}}", front.address))
            .with(keys)
    }
}

/// Shakes hands and passes bytes on until one side is gone. An end that is none of the test's making, as that
/// of the relay when the test is over, is nobody's fault.
fn serve(
    mut session: ServerConnection,
    mut stream: TcpStream,
    to: SocketAddr,
    seen: &Mutex<Vec<Seen>>,
) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    if session.complete_io(&mut stream).is_err() {
        return;
    }
    seen.lock().push(Seen {
        name: session.server_name().map(str::to_owned),
        protocol: session.alpn_protocol().map(<[u8]>::to_vec),
    });
    let Ok(plain) = TcpStream::connect_timeout(&to, PATIENCE) else {
        return;
    };
    stream.set_nonblocking(true).expect("a mode");
    plain.set_nonblocking(true).expect("a mode");
    let mut front = Front {
        session,
        stream: &stream,
        plain: &plain,
        waiting: Vec::new(),
        ends: (false, false),
    };
    if front.pass_on().is_err() {
        // Whoever is left sees that what came was not all.
        sockopt::set_socket_linger(&plain, Some(std::time::Duration::ZERO)).expect("a mode");
    }
}

/// A connection that is passed on.
struct Front<'f> {
    session: ServerConnection,
    stream: &'f TcpStream,
    plain: &'f TcpStream,
    /// For the upstream.
    waiting: Vec<u8>,
    /// Whether the client, and whether the upstream has ended its side.
    ends: (bool, bool),
}

impl Front<'_> {
    fn pass_on(&mut self) -> io::Result<()> {
        while self.ends != (true, true) || self.session.wants_write() || !self.waiting.is_empty() {
            let mut moved = false;
            while self.session.wants_write() {
                match soon(self.session.write_tls(&mut &*self.stream))? {
                    Some(_) => moved = true,
                    None => break,
                }
            }
            moved |= self.pass_to_upstream()?;
            moved |= self.pass_to_client()?;
            if !moved {
                self.wait()?;
            }
        }
        Ok(())
    }

    fn pass_to_upstream(&mut self) -> io::Result<bool> {
        if !self.waiting.is_empty() {
            let Some(count) = soon((&*self.plain).write(&self.waiting))? else {
                return Ok(false);
            };
            self.waiting.drain(..count);
            return Ok(true);
        }
        if self.ends.0 {
            return Ok(false);
        }
        // Something may have come with the end of the handshake.
        let read = soon(self.session.read_tls(&mut &*self.stream))?;
        let state = self
            .session
            .process_new_packets()
            .map_err(io::Error::other)?;
        let mut fresh = vec![0; state.plaintext_bytes_to_read()];
        self.session.reader().read_exact(&mut fresh)?;
        self.waiting = fresh;
        if self.waiting.is_empty() {
            // Without `close_notify` this is an error.
            if soon(self.session.reader().read(&mut [0]))? == Some(0) {
                self.ends.0 = true;
                self.plain.shutdown(Shutdown::Write)?;
            }
            return Ok(read.is_some());
        }
        Ok(true)
    }

    fn pass_to_client(&mut self) -> io::Result<bool> {
        if self.ends.1 || self.session.wants_write() {
            return Ok(false);
        }
        let mut bytes = [0; LOAD];
        match soon((&*self.plain).read(&mut bytes))? {
            None => return Ok(false),
            Some(0) => {
                self.ends.1 = true;
                self.session.send_close_notify();
            }
            Some(count) => self.session.writer().write_all(&bytes[..count])?,
        }
        Ok(true)
    }

    fn wait(&self) -> io::Result<()> {
        let flags = |reads: bool, writes: bool| {
            let read = if reads {
                PollFlags::IN
            } else {
                PollFlags::empty()
            };
            let write = if writes {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            read | write
        };
        let waits = !self.waiting.is_empty();
        let writes = self.session.wants_write();
        let client = PollFd::new(self.stream, flags(!waits && !self.ends.0, writes));
        let upstream = PollFd::new(self.plain, flags(!writes && !self.ends.1, waits));
        poll(&mut [client, upstream], None)?;
        Ok(())
    }
}

/// None: not now.
fn soon(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
