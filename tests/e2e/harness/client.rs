//! A client of the proxy: raw TCP, literal requests, answers checked field by field.
//!
//! The checks that follow a response (`expect_field`, `expect_body`, ..) look at the one that was
//! read last.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::PATIENCE;
use super::journal::Journal;
use super::socket::{Socket, Talk};
use super::wire::{Kind, Message, latin1};

/// A connection to the proxy.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
    last: Option<Message>,
}

impl Talk for Client {
    fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Client {
    /// Connects to any address; [`Proxy::client`](super::Proxy::client) is the usual way.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let journal = Journal::of_this_test();
        let name = format!("client {}", journal.number());
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a client connection");
        journal.note(&name, "connected");
        Self {
            socket: Socket::new(stream, name, journal),
            last: None,
        }
    }

    /// As [`Client::connect`], from this address of the machine, for example 127.0.0.2.
    #[track_caller]
    pub(crate) fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = new_socket();
        let source = SocketAddr::from((source, 0));
        rustix::net::bind(&socket, &source).expect("an address of this machine");
        Self::connect_with(socket, address, &format!("connected from {source}"))
    }

    /// As [`Client::connect`], with a receive buffer of a few kilobytes, so that the other side
    /// soon cannot send any more.
    #[track_caller]
    pub(crate) fn connect_narrow(address: SocketAddr) -> Self {
        let socket = new_socket();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("SO_RCVBUF");
        Self::connect_with(socket, address, "connected with a small buffer")
    }

    #[track_caller]
    fn connect_with(socket: OwnedFd, address: SocketAddr, how: &str) -> Self {
        rustix::net::connect(&socket, &address).expect("a client connection");
        let journal = Journal::of_this_test();
        let name = format!("client {}", journal.number());
        journal.note(&name, how);
        Self {
            socket: Socket::new(TcpStream::from(socket), name, journal),
            last: None,
        }
    }

    /// Sends a plain `GET` for this absolute URL.
    #[track_caller]
    pub(crate) fn get(&mut self, url: &str) -> &mut Self {
        let authority = url.trim_start_matches("http://").split(['/', '?']).next();
        let host = authority
            .and_then(|text| text.rsplit('@').next())
            .unwrap_or_default();
        self.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// Sends `CONNECT` for this authority and waits for the answer that opens the tunnel.
    #[track_caller]
    pub(crate) fn open_tunnel(&mut self, authority: &str) -> &mut Self {
        self.send(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        ));
        self.expect_tunnel()
    }

    /// A 2xx head comes that opens a tunnel: no framing fields, and what follows is the tunnel.
    #[track_caller]
    pub(crate) fn expect_tunnel(&mut self) -> &mut Self {
        let head = self.read(Kind::ResponseWithoutBody);
        assert!(
            (200..300).contains(&head.status()),
            "no tunnel: {}",
            latin1(&head.raw)
        );
        head.expect_no_field("Content-Length")
            .expect_no_field("Transfer-Encoding");
        self.last = Some(head);
        self
    }

    /// A whole response comes, whatever its status.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> &Message {
        let response = self.read(Kind::Response);
        self.last.insert(response)
    }

    /// A whole response, or `None` if the connection ends before one.
    pub(crate) fn try_read_response(&mut self) -> Option<Message> {
        self.socket.try_read_message(Kind::Response).ok()
    }

    /// A whole response comes, with this status.
    #[track_caller]
    pub(crate) fn expect_status(&mut self, status: u16) -> &mut Self {
        let response = self.read(Kind::Response);
        self.check_status(response, status)
    }

    /// A response head comes, with this status; its body, if any, stays to be read. For answers
    /// to HEAD, for interim responses, and for bodies that are still being sent.
    #[track_caller]
    pub(crate) fn expect_head(&mut self, status: u16) -> &mut Self {
        let head = self.read_head().clone();
        self.check_status(head, status)
    }

    /// As [`Client::expect_head`], whatever its status.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> &Message {
        let head = self.socket.try_read_head();
        self.last
            .insert(head.unwrap_or_else(|what| panic!("no response head: {what}")))
    }

    /// An answer that the proxy makes itself: a short text, `Proxy-Status`, complete framing.
    #[track_caller]
    pub(crate) fn expect_refusal(&mut self, status: u16) -> &mut Self {
        self.expect_status(status);
        let answer = self.message();
        assert_eq!(answer.values("Content-Type"), ["text/plain; charset=utf-8"]);
        assert_eq!(
            answer.values("Content-Length"),
            [answer.body.len().to_string()]
        );
        assert_eq!(
            answer.values("Proxy-Status").len(),
            1,
            "{}",
            latin1(&answer.raw)
        );
        assert!(!answer.body.is_empty(), "a refusal says why");
        if status == 503 {
            assert_eq!(
                answer.values("Retry-After").len(),
                1,
                "{}",
                latin1(&answer.raw)
            );
        }
        self
    }

    /// As [`Client::expect_refusal`], and then the connection ends, as the answer said.
    #[track_caller]
    pub(crate) fn expect_refusal_and_close(&mut self, status: u16) -> &mut Self {
        self.expect_refusal(status)
            .expect_field("Connection", "close")
            .expect_closed()
    }

    /// The last response has one line of this field, with this value.
    #[track_caller]
    pub(crate) fn expect_field(&mut self, name: &str, value: &str) -> &mut Self {
        self.message().expect_field(name, value);
        self
    }

    /// The last response has no line of this field.
    #[track_caller]
    pub(crate) fn expect_no_field(&mut self, name: &str) -> &mut Self {
        self.message().expect_no_field(name);
        self
    }

    /// The value of this field contains `part`.
    #[track_caller]
    pub(crate) fn expect_field_with(&mut self, name: &str, part: &str) -> &mut Self {
        let value = self.message().values(name).join(", ");
        assert!(value.contains(part), "{name}: {value:?} lacks {part:?}");
        self
    }

    /// The content of the last response is this.
    #[track_caller]
    pub(crate) fn expect_body(&mut self, body: impl AsRef<[u8]>) -> &mut Self {
        self.message().expect_body(body);
        self
    }

    /// The text of the last response contains `part`.
    #[track_caller]
    pub(crate) fn expect_body_with(&mut self, part: &str) -> &mut Self {
        let text = self.message().text();
        assert!(text.contains(part), "body {text:?} lacks {part:?}");
        self
    }

    /// The connection ends before the response whose head was read last is complete: `body` is
    /// what came of it, with its framing.
    #[track_caller]
    pub(crate) fn expect_truncated(&mut self, body: impl AsRef<[u8]>) -> &mut Self {
        self.socket.read_to_end();
        assert_eq!(
            latin1(self.socket.pending()),
            latin1(body.as_ref()),
            "the truncated body"
        );
        self
    }

    /// Whether something came that was not read yet, be it the end; does not wait.
    pub(crate) fn has_answer(&self) -> bool {
        self.socket.has_something()
    }

    /// The response that was read last.
    #[track_caller]
    pub(crate) fn message(&self) -> &Message {
        self.last.as_ref().expect("a response was read before")
    }

    #[track_caller]
    fn read(&mut self, kind: Kind) -> Message {
        let message = self.socket.try_read_message(kind);
        message.unwrap_or_else(|what| panic!("no response: {what}"))
    }

    #[track_caller]
    fn check_status(&mut self, response: Message, status: u16) -> &mut Self {
        assert_eq!(
            response.status(),
            status,
            "status of {}",
            latin1(&response.raw)
        );
        self.last = Some(response);
        self
    }
}

fn new_socket() -> OwnedFd {
    rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket")
}
