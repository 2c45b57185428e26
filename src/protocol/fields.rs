//! Fields of a parsed head: looking them up, reading lists, and telling
//! hop-by-hop from end-to-end (RFC 9110 §5, §7.6.1).
//!
//! Names and values are bytes and stay as they were received: a value that is
//! not UTF-8 reaches the next hop unharmed. Whether the bytes are well formed
//! was settled by [`super::head`]; what a particular field means is not
//! decided here.

use std::cmp::Ordering;
use std::fmt;

/// Fields that belong to one connection (RFC 9110 §7.6.1, §11.7; RFC 7540
/// §3.2.1). `Trailer` is not among them: trailers pass, so its announcement does.
static HOP_BY_HOP: NameList = NameList::new(&[
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
]);

/// Fields that frame, route, guard or describe the message. They pass although `Connection` names them: a
/// client that had them removed here would make the next hop see another request than we do. And they
/// pass in the head or not at all: never as trailers.
pub(super) static MEANT_FOR_HEAD: NameList = NameList::new(&[
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "set-cookie",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-real-ip",
]);

/// More fields that pass although `Connection` names them.
static NEVER_NAMED: NameList = NameList::new(&["proxy-status", "x-forwarded"]);

/// The family of `X-Forwarded-For` and its kin, never named either.
const NEVER_NAMED_PREFIX: &str = "x-forwarded-";

/// The members of nearly every `Connection`; none of them names a field that
/// the fixed list would not remove anyway.
static CONNECTION_OPTIONS: NameList = NameList::new(&["close", "keep-alive", "upgrade"]);

/// One field line. `Debug` shows the name alone: values may be credentials.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// A token, in the case it was sent in.
    pub name: &'a [u8],
    /// Without the optional whitespace around it; may be empty.
    pub value: &'a [u8],
}

impl Field<'_> {
    /// Compares the name as RFC 9110 §5.1 wants it: without regard to case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ..", self.name.escape_ascii())
    }
}

/// Where a field stands in the bytes of its head.
///
/// Invariant: both ranges lie within the bytes they were made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldSpan {
    pub(super) name: Span,
    pub(super) value: Span,
}

impl FieldSpan {
    fn field(self, bytes: &[u8]) -> Field<'_> {
        Field {
            name: self.name.of(bytes),
            value: self.value.of(bytes),
        }
    }

    /// The whole line, if it is what [`write_field`] would write.
    fn plain_line(self, bytes: &[u8]) -> Option<Span> {
        let between = Span {
            start: self.name.end,
            end: self.value.start,
        };
        let behind = Span {
            start: self.value.end,
            end: self.value.end.checked_add(2)?,
        };
        (between.of(bytes) == b": " && behind.of(bytes) == b"\r\n").then_some(Span {
            start: self.name.start,
            end: behind.end,
        })
    }
}

/// Appends a field line.
pub(super) fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A range of bytes in a head. Heads are far below 4 GiB, so half the size of
/// a `Range<usize>` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// `None` beyond 4 GiB.
    pub(super) fn new(start: usize, length: usize) -> Option<Self> {
        Some(Self {
            start: u32::try_from(start).ok()?,
            end: u32::try_from(start.checked_add(length)?).ok()?,
        })
    }

    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// Which names a head may have: one bit for each kind of name in it. Most of what is asked for is not
/// there, and this says so without a look at the fields.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Summary(u64);

impl Summary {
    /// Notes a name.
    pub(super) fn note(&mut self, name: &[u8]) {
        self.0 |= Self::bit(name);
    }

    #[inline]
    fn may_have(self, name: &[u8]) -> bool {
        self.0 & Self::bit(name) != 0
    }

    /// The same for names that differ in case alone.
    #[inline]
    const fn bit(name: &[u8]) -> u64 {
        let first = match name {
            [first, ..] => (*first | 0x20) as usize,
            [] => 0,
        };
        1 << ((name.len() * 5 + first) % 64)
    }
}

/// Names that each field of a head is compared with. Most fields are none of them, and that is found out
/// without a look at the names.
pub(super) struct NameList {
    names: &'static [&'static str],
    summary: Summary,
}

impl NameList {
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
    pub(super) const fn new(names: &'static [&'static str]) -> Self {
        let mut summary = Summary(0);
        let mut place = 0;
        while place < names.len() {
            summary.0 |= Summary::bit(names[place].as_bytes());
            place += 1;
        }
        Self { names, summary }
    }

    /// Whether it is one of them, in whatever case.
    #[inline]
    pub(super) fn has(&self, name: &[u8]) -> bool {
        let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
        self.summary.may_have(name) && self.names.iter().any(is)
    }
}

/// The fields of a head, in the order they were received.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    spans: &'a [FieldSpan],
    summary: Summary,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8], spans: &'a [FieldSpan], summary: Summary) -> Self {
        Self {
            bytes,
            spans,
            summary,
        }
    }

    /// Every field line.
    pub fn iter(self) -> impl Iterator<Item = Field<'a>> {
        self.spans.iter().map(move |span| span.field(self.bytes))
    }

    /// The value of each field line with this name.
    pub fn values(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let spans = if self.summary.may_have(name.as_bytes()) {
            self.spans
        } else {
            &[]
        };
        Self { spans, ..self }
            .iter()
            .filter(move |field| field.is(name))
            .map(|field| field.value)
    }

    /// Is there at least one field line with this name?
    pub fn contains(self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// The members of a comma-separated list, over all lines of that name
    /// (RFC 9110 §5.6.1): trimmed, without empty ones. A comma inside a quoted
    /// string does not separate.
    pub fn members(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name).flat_map(list_members)
    }

    /// Is this exact token, without regard to case, a member of that list?
    /// A member with parameters is another member.
    pub fn has_member(self, name: &str, token: &str) -> bool {
        self.members(name)
            .any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The fields that travel on to the next hop: all but the hop-by-hop ones
    /// and those that `Connection` names (RFC 9110 §7.6.1).
    ///
    /// Fields that frame, route or guard the message pass even when named.
    pub fn end_to_end(self) -> impl Iterator<Item = Field<'a>> {
        self.passing().map(|(_, field)| field)
    }

    fn passing(self) -> impl Iterator<Item = (FieldSpan, Field<'a>)> {
        let named = NamedByConnection::of(self);
        let fields = self
            .spans
            .iter()
            .map(move |span| (*span, span.field(self.bytes)));
        fields.filter(move |(_, field)| !HOP_BY_HOP.has(field.name) && !named.contains(field.name))
    }

    /// Appends those of [`Fields::end_to_end`] that are `kept`. Lines that stand as they are to be
    /// written, and behind each other, are copied together.
    pub(super) fn write_end_to_end(self, kept: impl Fn(&Field<'_>) -> bool, out: &mut Vec<u8>) {
        let mut lines = Span { start: 0, end: 0 };
        for (span, field) in self.passing().filter(|(_, field)| kept(field)) {
            match span.plain_line(self.bytes) {
                Some(line) if line.start == lines.end => lines.end = line.end,
                Some(line) => {
                    out.extend_from_slice(lines.of(self.bytes));
                    lines = line;
                }
                None => {
                    out.extend_from_slice(lines.of(self.bytes));
                    lines = Span { start: 0, end: 0 };
                    write_field(field.name, field.value, out);
                }
            }
        }
        out.extend_from_slice(lines.of(self.bytes));
    }
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Whether a name begins so, in whatever case.
pub(super) fn has_prefix(name: &[u8], prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// The field names that `Connection` takes away.
///
/// Sorted: a client may name thousands and send hundreds of fields, and the
/// product of the two must not be the work to do. Usually it is empty.
struct NamedByConnection<'a>(Vec<&'a [u8]>);

impl<'a> NamedByConnection<'a> {
    fn of(fields: Fields<'a>) -> Self {
        let mut names: Vec<&[u8]> = fields
            .members("connection")
            .filter(|name| !CONNECTION_OPTIONS.has(name))
            .filter(|name| !is_never_named(name))
            .collect();
        names.sort_unstable_by(|a, b| compare_names(a, b));
        Self(names)
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.0
            .binary_search_by(|known| compare_names(known, name))
            .is_ok()
    }
}

/// Whether a field of that name frames, routes, guards or describes its message, on this hop or beyond.
pub(super) fn is_about_messages(name: &[u8]) -> bool {
    HOP_BY_HOP.has(name) || is_never_named(name) || name.eq_ignore_ascii_case(b"trailer")
}

/// Asked for other options than [`CONNECTION_OPTIONS`] only.
fn is_never_named(name: &[u8]) -> bool {
    MEANT_FOR_HEAD.has(name) || NEVER_NAMED.has(name) || has_prefix(name, NEVER_NAMED_PREFIX)
}

fn compare_names(a: &[u8], b: &[u8]) -> Ordering {
    let a = a.iter().map(u8::to_ascii_lowercase);
    let b = b.iter().map(u8::to_ascii_lowercase);
    a.cmp(b)
}

/// The members of one list, as [`Fields::members`] has them.
pub(super) fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        loop {
            let list = rest?;
            let end = member_end(list);
            rest = list.get(end + 1..);
            let member = trim_whitespace(list.get(..end).unwrap_or_default());
            if !member.is_empty() {
                return Some(member);
            }
        }
    })
}

/// Where the first member of a list ends: at the first comma outside a quoted
/// string. A quoted string that never ends swallows the rest.
fn member_end(list: &[u8]) -> usize {
    enum At {
        Plain,
        Quoted,
        Escaped,
    }
    let mut at = At::Plain;
    for (index, byte) in list.iter().enumerate() {
        at = match (at, byte) {
            (At::Plain, b',') => return index,
            (At::Plain, b'"') | (At::Escaped, _) => At::Quoted,
            (At::Plain, _) | (At::Quoted, b'"') => At::Plain,
            (At::Quoted, b'\\') => At::Escaped,
            (At::Quoted, _) => At::Quoted,
        };
    }
    list.len()
}

/// Removes the optional whitespace of RFC 9110 §5.6.3 (space and tab only).
pub(super) fn trim_whitespace(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// What stands before the first such byte, and the rest from there on.
pub(super) fn split_before(bytes: &[u8], is_end: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let length = bytes.iter().position(|&byte| is_end(byte));
    length
        .and_then(|length| bytes.split_at_checked(length))
        .unwrap_or((bytes, &[]))
}

/// Is this a `tchar` of RFC 9110 §5.6.2?
#[inline]
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Looked up once for every byte of a field name.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
                | b'`' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z'
        );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::super::head::ResponseHead;

    fn head(fields: &str) -> ResponseHead {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        ResponseHead::parse(text.into_bytes()).expect("well formed")
    }

    fn members(fields: &str) -> Vec<String> {
        let head = head(fields);
        head.fields()
            .members("list")
            .map(|member| String::from_utf8_lossy(member).into_owned())
            .collect()
    }

    fn check_end_to_end(fields: &str, left: &[&str]) {
        let head = head(fields);
        let names: Vec<_> = head
            .fields()
            .end_to_end()
            .map(|field| String::from_utf8_lossy(field.name).into_owned())
            .collect();
        assert_eq!(names, left, "{fields:?}");
    }

    #[test]
    fn names_are_compared_without_case() {
        let head = head("X-Foo: 1\r\nother: 2\r\nx-fOO: 3\r\n");
        let values: Vec<_> = head.fields().values("x-foo").collect();
        assert_eq!(values, [b"1", b"3"]);
        assert!(head.fields().contains("OTHER"));
        assert!(!head.fields().contains("x-fo"));
    }

    #[test]
    fn values_are_trimmed_and_kept_byte_for_byte() {
        let bytes = b"HTTP/1.1 200 OK\r\nA: \t caf\xe9 \t\r\nB:\r\n\r\n".to_vec();
        let head = ResponseHead::parse(bytes).expect("well formed");
        let values: Vec<_> = head.fields().iter().map(|field| field.value).collect();
        assert_eq!(values, [&b"caf\xe9"[..], b""]);
    }

    #[test]
    fn a_list_goes_over_all_lines_and_skips_empty_members() {
        assert_eq!(
            members("List: a , ,b\r\nX: y\r\nlist: ,c,\r\nList:\r\n"),
            ["a", "b", "c"]
        );
    }

    #[test]
    fn a_comma_in_a_quoted_string_does_not_separate() {
        assert_eq!(
            members("List: a=\"x, \\\", y\", b\r\n"),
            ["a=\"x, \\\", y\"", "b"]
        );
    }

    #[test]
    fn a_quoted_string_without_an_end_takes_the_rest() {
        assert_eq!(
            members("List: a, \"b, c\r\nList: d\r\n"),
            ["a", "\"b, c", "d"]
        );
    }

    #[test]
    fn a_member_is_a_whole_token() {
        let head = head("Connection: X-close, keep-alive\r\nTransfer-Encoding: Chunked;a=b\r\n");
        assert!(head.fields().has_member("connection", "Keep-Alive"));
        assert!(!head.fields().has_member("connection", "close"));
        assert!(!head.fields().has_member("transfer-encoding", "chunked"));
    }

    #[test]
    fn hop_by_hop_fields_stay_here() {
        check_end_to_end(
            "Connection: close\r\nKEEP-ALIVE: 5\r\nProxy-Connection: a\r\nTE: trailers\r\nTrailer: A\r\n\
             Transfer-Encoding: chunked\r\nUpgrade: x\r\nProxy-Authenticate: Basic\r\n\
             Proxy-Authorization: Basic\r\nProxy-Authentication-Info: a\r\nHTTP2-Settings: b\r\nZ: 1\r\n",
            &["Trailer", "Z"],
        );
    }

    #[test]
    fn fields_named_by_connection_stay_here() {
        check_end_to_end(
            "X-Foo: 1\r\nConnection: close, x-foo\r\nX-Fo: 2\r\nx-FOO: 3\r\n",
            &["X-Fo"],
        );
        check_end_to_end(
            "A: 1\r\nB: 1\r\nC: 1\r\nConnection: c\r\nconnection: A,\r\n",
            &["B"],
        );
    }

    #[test]
    fn fields_that_frame_route_or_guard_a_message_pass_although_named() {
        for name in [
            "Host",
            "Content-Length",
            "Via",
            "Authorization",
            "Cookie",
            "X-Forwarded-Host",
        ] {
            check_end_to_end(&format!("{name}: 1\r\nConnection: {name}\r\n"), &[name]);
        }
    }

    #[test]
    fn lines_are_written_alike_whether_they_are_copied_or_made() {
        for (fields, written) in [
            ("A: 1\r\nB: 2\r\nC: 3\r\n", "A: 1\r\nB: 2\r\nC: 3\r\n"),
            (
                "A: 1\r\nB:2\r\nC: 3\r\nD: 4\r\n",
                "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n",
            ),
            ("A: 1\r\nTE: 2\r\nC: 3\r\nX: 4\r\n", "A: 1\r\nC: 3\r\n"),
            (
                "A: \t1\r\nB: 2 \r\nC:\t3\r\nD: 4\r\n",
                "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n",
            ),
            ("A: \r\nB:\r\nC:  \r\n", "A: \r\nB: \r\nC: \r\n"),
            ("X: 1\r\n", ""),
            ("", ""),
        ] {
            let head = head(fields);
            let mut out = b"before".to_vec();
            head.fields()
                .write_end_to_end(|field| !field.is("x"), &mut out);
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out.strip_prefix("before"), Some(written), "{fields:?}");
        }
    }

    #[test]
    fn naming_a_hop_by_hop_field_does_not_save_it() {
        check_end_to_end(
            "Connection: te, upgrade, connection\r\nTE: a\r\nUpgrade: b\r\n",
            &[],
        );
    }
}
