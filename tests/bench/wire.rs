//! Just enough HTTP to be cheap: heads are looked at once, line by line.

/// Whether a connection is used again after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Keep,
    Close,
}

/// What an upstream has to know of a request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) is_connect: bool,
    /// Of the target; only of CONNECT.
    pub(crate) port: u16,
    pub(crate) path: &'a [u8],
    pub(crate) length: usize,
    pub(crate) after: After,
}

/// The length of a head, when it is whole.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let place = from + bytes.get(from..)?.iter().position(|&byte| byte == b'\r')?;
        if bytes.get(place..place + 4)? == b"\r\n\r\n" {
            return Some(place + 4);
        }
        from = place + 1;
    }
}

/// Decimal digits, nothing else.
pub(crate) fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.trim().parse().ok()
}

/// The value of a field of a head, if the head has it.
pub(crate) fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| value.trim_ascii())
    })
}

/// Reads a request head; chunked bodies are not for this benchmark.
pub(crate) fn request(head: &[u8]) -> Option<Request<'_>> {
    let line = head.split(|&byte| byte == b'\r').next()?;
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    if field(head, "transfer-encoding").is_some() {
        return None;
    }
    let connection = field(head, "connection").unwrap_or_default();
    let closes = connection.eq_ignore_ascii_case(b"close")
        || (version == b"HTTP/1.0" && !connection.eq_ignore_ascii_case(b"keep-alive"));
    let is_connect = method == b"CONNECT";
    let port = target.rsplit(|&byte| byte == b':').next()?;
    let after_scheme = target.strip_prefix(b"http://").unwrap_or(target);
    let path = after_scheme.iter().position(|&byte| byte == b'/');
    Some(Request {
        is_connect,
        port: if is_connect {
            u16::try_from(number(port)?).ok()?
        } else {
            0
        },
        path: &after_scheme[path.unwrap_or(after_scheme.len())..],
        length: field(head, "content-length").map_or(Some(0), number)?,
        after: if closes { After::Close } else { After::Keep },
    })
}

/// The status of a response head.
pub(crate) fn status(head: &[u8]) -> Option<u16> {
    let digits = head.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    u16::try_from(number(digits)?).ok()
}
