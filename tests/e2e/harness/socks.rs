//! A SOCKS5 server whose replies are literal bytes.
//!
//! It reads what a client of SOCKS5 sends, with a parser of its own, and says what the test has written. The
//! probe gets to its target whatever the test says; everything else is recorded, and behind a reply that says
//! yes the connection is in the hands of the test, as the target it leads to.

use super::hop::Hop;
use super::socket::Talk;
use super::stage::Stage;
use super::wire::find;

/// What it says. Nothing: it stays silent until the relay ends the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocksReplies {
    /// To the greeting.
    pub(crate) greeting: &'static [u8],
    /// To user and password.
    pub(crate) login: &'static [u8],
    /// To the request; the second byte is 0 if the connection goes on.
    pub(crate) request: &'static [u8],
}

impl Default for SocksReplies {
    /// Without a login, to everywhere.
    fn default() -> Self {
        Self {
            greeting: b"\x05\x00",
            login: b"\x01\x00",
            request: b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
        }
    }
}

impl Stage {
    /// Plays one connection.
    pub(super) fn meet_socks(&self, mut hop: Hop, replies: SocksReplies) {
        let Some(mut said) = message(&mut hop, |bytes| Some(2 + usize::from(*bytes.get(1)?)))
        else {
            return;
        };
        if !self.replies(&mut hop, replies.greeting) {
            return;
        }
        match replies.greeting {
            [5, 0] => {}
            [5, 2] => {
                let length = |bytes: &[u8]| {
                    let user = usize::from(*bytes.get(1)?);
                    Some(3 + user + usize::from(*bytes.get(2 + user)?))
                };
                let Some(login) = message(&mut hop, length) else {
                    return;
                };
                said.extend(login);
                if !self.replies(&mut hop, replies.login) || replies.login != b"\x01\x00" {
                    return;
                }
            }
            _ => return,
        }
        let length = |bytes: &[u8]| match bytes.get(3)? {
            1 => Some(10),
            4 => Some(22),
            _ => Some(7 + usize::from(*bytes.get(4)?)),
        };
        let Some(request) = message(&mut hop, length) else {
            return;
        };
        if find(&request, b"probe.test").is_some() {
            self.replies(&mut hop, SocksReplies::default().request);
            while find(hop.socket.pending(), b"\r\n\r\n").is_none() {
                if !matches!(hop.socket.fill(), Ok(true)) {
                    return;
                }
            }
            return self.answer_probe(&mut hop);
        }
        said.extend(request);
        let mut seen = self.seen.lock();
        seen.connections += 1;
        seen.socks.push(said);
        drop(seen);
        if self.replies(&mut hop, replies.request) && replies.request.get(1) == Some(&0) {
            self.waiting.lock().push_back(hop);
            self.arrived.notify_all();
        }
    }

    /// Says something; `false`: it was to say nothing, and the other side has gone since.
    fn replies(&self, hop: &mut Hop, reply: &[u8]) -> bool {
        if reply.is_empty() {
            self.until_closed(hop);
            return false;
        }
        hop.send_as_far_as_possible(reply);
        true
    }
}

/// Reads a message whose length is told by its first bytes, and nothing behind it.
fn message(hop: &mut Hop, length: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
    loop {
        let pending = hop.socket.pending();
        match length(pending) {
            Some(length) if length <= pending.len() => {
                let message = pending.get(..length).map(<[u8]>::to_vec);
                hop.socket.drop_pending(length);
                return message;
            }
            _ => {}
        }
        if !matches!(hop.socket.fill(), Ok(true)) {
            return None;
        }
    }
}
