//! A small HTTP parser of its own, strict about what this proxy may emit.
//!
//! The tests must not read messages with the parser they test: a bug would be on both sides and
//! cancel out. This one takes whole messages only, knows no limits and trusts its small input.
//! Text is read as Latin-1, so that every byte is one `char` and nothing is lost: the byte E9 is
//! `'\u{e9}'`.

/// How the end of a body is found. What a response leaves open depends on its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
    /// A response that has no body whatever its fields say: to HEAD, or a 2xx to CONNECT.
    ResponseWithoutBody,
}

/// Why a message could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// More bytes are needed.
    Incomplete,
    /// No more bytes can help.
    Wrong(String),
}

/// A message as it stood on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The start line without its CRLF.
    pub(crate) line: String,
    /// Names and values of all field lines, in order.
    pub(crate) fields: Vec<(String, String)>,
    /// The content, without chunked framing.
    pub(crate) body: Vec<u8>,
    /// The body as it was framed on the wire.
    pub(crate) raw_body: Vec<u8>,
    /// Fields behind the last chunk.
    pub(crate) trailers: Vec<(String, String)>,
    /// Everything, from the first byte to the last.
    pub(crate) raw: Vec<u8>,
}

impl Message {
    /// Reads one message from the beginning of `bytes`; what follows it is left alone.
    pub(crate) fn parse(bytes: &[u8], kind: Kind, at_end: AtEnd) -> Result<Self, Unread> {
        let mut message = Self::parse_head(bytes)?;
        let after = &bytes[message.raw.len()..];
        let body = match message.framing(kind)? {
            Framing::Length(length) => {
                let raw = after.get(..length).ok_or(Unread::Incomplete)?;
                Body {
                    raw: raw.len(),
                    content: raw.to_vec(),
                    trailers: Vec::new(),
                }
            }
            Framing::Chunked => parse_chunked(after)?,
            Framing::UntilClose if at_end == AtEnd::MoreMayCome => return Err(Unread::Incomplete),
            Framing::UntilClose => Body {
                raw: after.len(),
                content: after.to_vec(),
                trailers: Vec::new(),
            },
        };
        message.raw_body = after[..body.raw].to_vec();
        message.raw.extend_from_slice(&after[..body.raw]);
        message.body = body.content;
        message.trailers = body.trailers;
        Ok(message)
    }

    /// Reads the head alone.
    pub(crate) fn parse_head(bytes: &[u8]) -> Result<Self, Unread> {
        let end = find(bytes, b"\r\n\r\n").ok_or(Unread::Incomplete)? + 4;
        let text = latin1(&bytes[..end - 4]);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(parse_field).collect::<Result<Vec<_>, _>>()?;
        let raw = bytes[..end].to_vec();
        let nothing = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            line,
            fields,
            body: nothing.0,
            raw_body: nothing.1,
            trailers: nothing.2,
            raw,
        })
    }

    fn framing(&self, kind: Kind) -> Result<Framing, Unread> {
        let codings = self.values("Transfer-Encoding");
        let lengths = self.values("Content-Length");
        if !codings.is_empty() && !lengths.is_empty() {
            return wrong("both Transfer-Encoding and Content-Length");
        }
        let bodyless = match kind {
            Kind::Request => false,
            Kind::Response => matches!(self.status(), 100..=199 | 204 | 304),
            Kind::ResponseWithoutBody => true,
        };
        match (codings.as_slice(), lengths.as_slice()) {
            _ if bodyless => Ok(Framing::Length(0)),
            ([coding], []) if coding == "chunked" => Ok(Framing::Chunked),
            ([], [length]) => match length.parse() {
                Ok(number) if is_digits(length) => Ok(Framing::Length(number)),
                _ => wrong(&format!("Content-Length: {length}")),
            },
            ([], []) if kind == Kind::Request => Ok(Framing::Length(0)),
            ([], []) => Ok(Framing::UntilClose),
            _ => wrong("more than one framing field"),
        }
    }

    /// The status of a response; 0 if this is none.
    pub(crate) fn status(&self) -> u16 {
        let code = self
            .line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        code.and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// The method of a request.
    pub(crate) fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a field, one for each field line.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        let of_name = self
            .fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| value.clone()).collect()
    }

    /// The names of all field lines in order, in lower case.
    pub(crate) fn names(&self) -> Vec<String> {
        self.fields
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect()
    }

    /// The content as text.
    pub(crate) fn text(&self) -> String {
        latin1(&self.body)
    }

    /// The start line is this one.
    #[track_caller]
    pub(crate) fn expect_line(&self, line: &str) -> &Self {
        assert_eq!(self.line, line, "start line");
        self
    }

    /// There is one line of this field, with this value.
    #[track_caller]
    pub(crate) fn expect_field(&self, name: &str, value: &str) -> &Self {
        assert_eq!(
            self.values(name),
            [value],
            "field {name} of {:?}",
            self.line
        );
        self
    }

    /// There is no line of this field.
    #[track_caller]
    pub(crate) fn expect_no_field(&self, name: &str) -> &Self {
        assert_eq!(
            self.values(name),
            [""; 0],
            "field {name} of {:?}",
            self.line
        );
        self
    }

    /// The content, without its framing, is this.
    #[track_caller]
    pub(crate) fn expect_body(&self, body: impl AsRef<[u8]>) -> &Self {
        let (body, found) = (body.as_ref(), self.body.as_slice());
        if body != found {
            let same = body.iter().zip(found).take_while(|(a, b)| a == b).count();
            let (wanted, got) = (body.len(), found.len());
            panic!(
                "body of {:?}: wanted {wanted} bytes, got {got}, equal up to {same}\n{}",
                self.line,
                super::journal::shown(found)
            );
        }
        self
    }

    /// The body with its framing is this.
    #[track_caller]
    pub(crate) fn expect_raw_body(&self, body: impl AsRef<[u8]>) -> &Self {
        assert_eq!(
            latin1(&self.raw_body),
            latin1(body.as_ref()),
            "framed body of {:?}",
            self.line
        );
        self
    }

    /// The trailer section is this, in order, as `Name: value`.
    #[track_caller]
    pub(crate) fn expect_trailers(&self, trailers: &[&str]) -> &Self {
        let lines = self
            .trailers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"));
        assert_eq!(
            lines.collect::<Vec<_>>(),
            trailers,
            "trailers of {:?}",
            self.line
        );
        self
    }
}

/// Whether the connection has ended, which completes a close-delimited body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtEnd {
    Closed,
    MoreMayCome,
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

struct Body {
    /// Bytes on the wire.
    raw: usize,
    content: Vec<u8>,
    trailers: Vec<(String, String)>,
}

/// The bytes as text, one `char` each.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// Where `needle` begins.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

fn wrong<T>(what: &str) -> Result<T, Unread> {
    Err(Unread::Wrong(what.to_owned()))
}

fn is_digits(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_field(line: &str) -> Result<(String, String), Unread> {
    match line.split_once(':') {
        Some((name, value)) if is_token(name) && !line.contains(['\r', '\n']) => {
            Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
        }
        _ => wrong(&format!("field line {line:?}")),
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn parse_chunked(bytes: &[u8]) -> Result<Body, Unread> {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let line = take_line(bytes, &mut at)?;
        let digits = line.split(';').next().unwrap_or_default();
        let Ok(size) = usize::from_str_radix(digits, 16) else {
            return wrong(&format!("chunk size {line:?}"));
        };
        if size == 0 {
            break;
        }
        content.extend_from_slice(bytes.get(at..at + size).ok_or(Unread::Incomplete)?);
        at += size;
        if !take_line(bytes, &mut at)?.is_empty() {
            return wrong("chunk data is longer than its size says");
        }
    }
    let mut trailers = Vec::new();
    loop {
        let line = take_line(bytes, &mut at)?;
        if line.is_empty() {
            return Ok(Body {
                raw: at,
                content,
                trailers,
            });
        }
        trailers.push(parse_field(&line)?);
    }
}

/// The line that begins at `at`; `at` moves behind its CRLF.
fn take_line(bytes: &[u8], at: &mut usize) -> Result<String, Unread> {
    let rest = bytes.get(*at..).ok_or(Unread::Incomplete)?;
    let end = find(rest, b"\r\n").ok_or(Unread::Incomplete)?;
    *at += end + 2;
    Ok(latin1(&rest[..end]))
}
