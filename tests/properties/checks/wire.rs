//! What the scripted peers know of HTTP: as little as possible, and nothing from the relay.

use std::io::{self, Read};
use std::net::TcpStream;

use http_proxy_lb::protocol::head::Message;

use super::reference::{self, Not};

/// A head, split at its line ends.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The first line.
    pub(crate) start: String,
    /// Names in lower case, values trimmed.
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    /// The values of one field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Whether it is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }

    /// The word of the first line at this place.
    pub(crate) fn word(&self, place: usize) -> &str {
        self.start.split(' ').nth(place).unwrap_or_default()
    }

    /// The framing that its fields declare; `Err` if that is not plain.
    pub(crate) fn declared(&self) -> Result<Option<Declared>, String> {
        let lengths = self.values("content-length");
        let codings = self.values("transfer-encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => Ok(None),
            ([length], []) => length
                .parse()
                .map(|length| Some(Declared::Length(length)))
                .map_err(|error| format!("Content-Length {length:?}: {error}")),
            ([], ["chunked"]) => Ok(Some(Declared::Chunked)),
            _ => Err(format!("framing fields {lengths:?} {codings:?}")),
        }
    }
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Declared {
    /// After so many bytes.
    Length(usize),
    /// With its last chunk.
    Chunked,
}

/// One end of a connection, with the bytes read too far.
pub(crate) struct Talk {
    /// The socket.
    pub(crate) stream: TcpStream,
    /// What was read and belongs to no message yet.
    pub(crate) unread: Vec<u8>,
}

/// What came instead of a message.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The end, at the beginning of one.
    End,
    /// The end, within one.
    Cut,
    /// Something that is none.
    Malformed(String),
    /// Nothing, for longer than any step may take.
    Silence,
}

impl Talk {
    /// A connection on which nothing was read.
    pub(crate) fn new(stream: TcpStream) -> Self {
        let unread = Vec::new();
        Self { stream, unread }
    }

    /// Reads what is there; `false` at the end.
    pub(crate) fn fill(&mut self) -> Result<bool, Broken> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.unread.extend_from_slice(&buffer[..count]);
                    return Ok(true);
                }
                // The fuzzer has a clock that interrupts.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Broken::Silence);
                }
                Err(_) => return Ok(false),
            }
        }
    }

    fn more(&mut self) -> Result<(), Broken> {
        if self.fill()? {
            Ok(())
        } else {
            Err(Broken::Cut)
        }
    }

    /// One head.
    pub(crate) fn head(&mut self) -> Result<Head, Broken> {
        loop {
            let end = self.unread.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                let bytes: Vec<u8> = self.unread.drain(..end + 4).collect();
                return parse(&bytes[..end]).map_err(Broken::Malformed);
            }
            let is_empty = self.unread.is_empty();
            match self.more() {
                Err(Broken::Cut) if is_empty => return Err(Broken::End),
                other => other?,
            }
        }
    }

    /// The body behind a head.
    pub(crate) fn body(&mut self, declared: Option<Declared>) -> Result<Vec<u8>, Broken> {
        loop {
            match declared {
                None => return Ok(Vec::new()),
                Some(Declared::Length(length)) if self.unread.len() >= length => {
                    return Ok(self.unread.drain(..length).collect());
                }
                Some(Declared::Length(_)) => {}
                Some(Declared::Chunked) => {
                    match reference::chunked(Message::Response, &self.unread, usize::MAX) {
                        Ok(body) => {
                            self.unread.drain(..body.length);
                            return Ok(body.data);
                        }
                        Err(Not::Yet) => {}
                        Err(Not::Ever) => {
                            let bytes = self.unread.escape_ascii().to_string();
                            return Err(Broken::Malformed(format!("no chunks: {bytes}")));
                        }
                    }
                }
            }
            self.more()?;
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Result<Vec<u8>, Broken> {
        while self.fill()? {}
        Ok(std::mem::take(&mut self.unread))
    }
}

fn parse(bytes: &[u8]) -> Result<Head, String> {
    let text: String = bytes.iter().copied().map(char::from).collect();
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or(format!("a field line {line:?}"))?;
        if name.is_empty() || !name.bytes().all(reference::is_token) {
            return Err(format!("a field name {name:?}"));
        }
        fields.push((
            name.to_lowercase(),
            value.trim_matches([' ', '\t']).to_owned(),
        ));
    }
    if text.contains('\0') || text.replace("\r\n", "").contains(['\r', '\n']) {
        return Err(format!("a stray control byte in {text:?}"));
    }
    Ok(Head { start, fields })
}
