//! Just enough blocking HTTP/1.1 for the hand-made origin and the raw client.
//!
//! Not strict at all: strictness is the relay's business and is tested in `tests/e2e`.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::machine;
use crate::pattern::{self, WINDOW};

/// A start line and the fields after it.
pub(crate) struct Head {
    pub(crate) start: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Reads one head; `None` if the other side has closed instead.
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let start = line.trim_end().to_owned();
        let mut fields = Vec::new();
        loop {
            line.clear();
            if from.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) => {
                    fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
                None => return Ok(Some(Self { start, fields })),
            }
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|field| field.0 == name)
            .map(|field| field.1.as_str())
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> u16 {
        self.word(1)
            .parse()
            .unwrap_or_else(|_| panic!("not a response: {}", self.start))
    }

    /// A word of the start line.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.start.split(' ').nth(index).unwrap_or_default()
    }

    fn is_chunked(&self) -> bool {
        self.field("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    /// Reads the body that belongs to this head, piece by piece.
    pub(crate) fn read_body(
        &self,
        from: &mut impl BufRead,
        mut sink: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        if !self.is_chunked() {
            let length = self.field("content-length").unwrap_or("0");
            let length = length.parse().map_err(io::Error::other)?;
            return pass(from, length, &mut sink);
        }
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let size = line.split(';').next().unwrap_or_default().trim_end();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size > 0 {
                pass(from, size, &mut sink)?;
                pass(from, 2, &mut |_| ())?;
                continue;
            }
            return skip_trailers(from);
        }
    }
}

fn skip_trailers(from: &mut impl BufRead) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        from.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            return Ok(());
        }
    }
}

fn pass(from: &mut impl BufRead, mut left: u64, sink: &mut impl FnMut(&[u8])) -> io::Result<()> {
    while left > 0 {
        let here = from.fill_buf()?;
        if here.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let now = here.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        sink(&here[..now]);
        from.consume(now);
        left -= now as u64;
    }
    Ok(())
}

/// How a body is framed when it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framed {
    Length,
    Chunked,
}

impl Framed {
    /// The field that announces it.
    pub(crate) fn field(self, length: u64) -> String {
        match self {
            Self::Length => format!("Content-Length: {length}"),
            Self::Chunked => "Transfer-Encoding: chunked".to_owned(),
        }
    }

    /// Sends the first `length` bytes of the pattern.
    pub(crate) fn send(self, to: &mut impl Write, length: u64) -> io::Result<()> {
        let mut position = 0;
        while position < length {
            let window = pattern::at(position);
            let left = usize::try_from(length - position).unwrap_or(WINDOW);
            let piece = &window[..WINDOW.min(left)];
            match self {
                Self::Length => to.write_all(piece)?,
                Self::Chunked => {
                    write!(to, "{:x}\r\n", piece.len())?;
                    to.write_all(piece)?;
                    to.write_all(b"\r\n")?;
                }
            }
            position += piece.len() as u64;
        }
        match self {
            Self::Length => Ok(()),
            Self::Chunked => to.write_all(b"0\r\n\r\n"),
        }
    }
}

/// A client that writes what it is told and reads answers.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// From 127.0.0.1.
    pub(crate) fn connect(port: u16) -> Self {
        Self::over(machine::connect(port).expect("the relay accepts"))
    }

    /// From another loopback address, which the relay takes for another client.
    pub(crate) fn connect_from(source: Ipv4Addr, port: u16) -> Self {
        Self::over(machine::connect_from(source, port).expect("the relay accepts"))
    }

    fn over(stream: TcpStream) -> Self {
        let client = Self {
            reader: BufReader::with_capacity(WINDOW, stream),
        };
        client.wait_at_most(machine::PATIENCE);
        client
    }

    /// For each single read and write from now on.
    pub(crate) fn wait_at_most(&self, limit: Duration) {
        let stream = self.reader.get_ref();
        stream.set_read_timeout(Some(limit)).expect("not zero");
        stream.set_write_timeout(Some(limit)).expect("not zero");
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    pub(crate) fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream().write_all(text.as_bytes())
    }

    /// The next response head.
    pub(crate) fn head(&mut self) -> io::Result<Head> {
        Head::read(&mut self.reader)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    pub(crate) fn body(&mut self, head: &Head, sink: impl FnMut(&[u8])) -> io::Result<()> {
        head.read_body(&mut self.reader, sink)
    }

    /// A whole GET in absolute-form: status and body.
    pub(crate) fn get(&mut self, url: &str) -> io::Result<(u16, Vec<u8>)> {
        self.send(&format!(
            "GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n",
            host(url)
        ))?;
        let head = self.head()?;
        let mut body = Vec::new();
        self.body(&head, |bytes| body.extend_from_slice(bytes))?;
        Ok((head.status(), body))
    }
}

/// The authority of a URL.
pub(crate) fn host(url: &str) -> &str {
    url.split('/').nth(2).unwrap_or_default()
}
