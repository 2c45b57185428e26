//! One connection that the proxy opened, in the hands of a test or of a script.

use std::net::TcpStream;
use std::sync::Arc;

use super::socket::{Ended, Socket, Talk};
use super::stage::Stage;
use super::wire::{Kind, Message, latin1};

/// One connection that the proxy opened, seen from the next hop.
pub(crate) struct Hop {
    pub(super) socket: Socket,
    stage: Arc<Stage>,
    /// How a script wants the connection to end; `None` leaves it open.
    pub(super) ending: Option<Ended>,
}

impl Talk for Hop {
    fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Hop {
    pub(super) fn new(socket: Socket, stage: Arc<Stage>) -> Self {
        Self {
            socket,
            stage,
            ending: None,
        }
    }

    /// Reads a whole request and records it.
    #[track_caller]
    pub(crate) fn read_request(&mut self) -> Message {
        self.try_read_request()
            .unwrap_or_else(|what| panic!("no request: {what}"))
    }

    /// Reads the head of a request; its body stays to be read.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> Message {
        let head = self.socket.try_read_head();
        head.unwrap_or_else(|what| panic!("no request head: {what}"))
    }

    /// Sends a 200 with this body.
    #[track_caller]
    pub(crate) fn send_ok(&mut self, body: &str) -> &mut Self {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// The same, and says that the connection is kept, so that it may serve anybody next.
    #[track_caller]
    pub(crate) fn send_kept(&mut self, body: &str) -> &mut Self {
        let length = body.len();
        self.send(format!(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// The connection itself, for whoever writes to many of them.
    pub(crate) fn stream(&self) -> Arc<TcpStream> {
        self.socket.handle()
    }

    /// Closes the connection (FIN) when the script is over.
    pub(crate) fn close_then(&mut self) {
        self.ending = Some(Ended::Closed);
    }

    /// Resets the connection (RST) when the script is over.
    pub(crate) fn reset_then(&mut self) {
        self.ending = Some(Ended::Reset);
    }

    /// The request never becomes complete: the proxy ends the connection after `body`, the bytes
    /// behind the head that was read before.
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

    pub(super) fn try_read_request(&mut self) -> Result<Message, String> {
        let request = self.socket.try_read_message(Kind::Request)?;
        self.stage.seen.lock().requests.push(request.clone());
        Ok(request)
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        if self.ending == Some(Ended::Reset) {
            self.socket.reset_when_dropped();
        }
    }
}
