//! The forms of a line of the access log.
//!
//! Everything a client can choose is escaped, so that one exchange is one line of printable ASCII
//! whatever bytes it carried. What is new stands at the end, for those who read by position.
//!
//! Workers do this, for each request, so nothing goes through `std::fmt` that is part of every line: that
//! would cost more than all the rest.

use std::fmt::{self, Display, Formatter, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use crate::config::checked::AccessLogFormat;
use crate::protocol::decimal;
use crate::protocol::request_id::RequestId;

use super::entry::{AccessEntry, Try, TryEnd};

/// What can be a piece of a line.
trait Show {
    fn show(&self, out: &mut Vec<u8>);
}

/// Appends pieces to a line.
macro_rules! append {
    ($out:expr; $($piece:expr),+ $(,)?) => {{
        $(Show::show(&$piece, $out);)+
    }};
}

/// The second at hand as text: to tell it anew for each line would cost more than the rest of the line.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    /// The second of `time` as `tell` writes it.
    fn second(
        &mut self,
        time: SystemTime,
        tell: fn(SystemTime, &mut String) -> fmt::Result,
    ) -> &str {
        let second = time
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        if self.text.is_empty() || self.second != second {
            self.second = second;
            self.text.clear();
            // Writing to a String cannot fail.
            let written = tell(time, &mut self.text);
            debug_assert!(written.is_ok());
        }
        &self.text
    }

    /// As [`write_time`].
    fn write(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        self.second(time, write_second).show(out);
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        append!(out; '.', Thousandths(since.subsec_millis().into()), 'Z');
    }
}

/// Appends the line of `entry` with its line feed.
pub(super) fn write_line(
    entry: &AccessEntry,
    format: AccessLogFormat,
    clock: &mut Clock,
    out: &mut Vec<u8>,
) {
    match format {
        AccessLogFormat::Text => write_text(entry, clock, out),
        AccessLogFormat::Json => write_json(entry, clock, out),
        AccessLogFormat::Combined => write_combined(entry, clock, out),
    }
    out.push(b'\n');
}

fn write_text(entry: &AccessEntry, clock: &mut Clock, out: &mut Vec<u8>) {
    clock.write(entry.time, out);
    append!(
        out;
        " id=", entry.id,
        " client=", entry.client,
        " method=", Word(&entry.method),
        " target=", Word(&entry.target),
        " status=", Or(entry.status, "-"),
        " in=", entry.received,
        " out=", entry.sent,
        " ms=", InMillis(entry.elapsed),
        " ttfb_ms=", Or(entry.first_byte.map(InMillis), "-"),
        " route=", Word(&entry.route),
        " attempts=", u64::from(entry.attempts),
        " cause=", Or(entry.cause, "-"),
        " user=", Word(entry.user.as_deref().unwrap_or_default()),
        " request_id=", entry.request_id,
        " queue_ms=", InMillis(entry.queued),
        " connect_ms=", Or(entry.connected.map(InMillis), "-"),
        " tries=",
    );
    let hops_are_bare = entry.tries.iter().all(|one| is_all(one.hop, is_bare));
    write_tries(entry, if hops_are_bare { "" } else { "\"" }, out);
}

fn write_json(entry: &AccessEntry, clock: &mut Clock, out: &mut Vec<u8>) {
    append!(out; r#"{"time":""#);
    clock.write(entry.time, out);
    append!(
        out;
        r#"","id":"#, entry.id,
        r#","client":""#, entry.client,
        r#"","method":"#, Quoted(&entry.method),
        r#","target":"#, Quoted(&entry.target),
        r#","route":"#, Quoted(&entry.route),
        r#","status":"#, Or(entry.status, "null"),
        r#","in":"#, entry.received,
        r#","out":"#, entry.sent,
        r#","ms":"#, InMillis(entry.elapsed),
        r#","ttfb_ms":"#, Or(entry.first_byte.map(InMillis), "null"),
        r#","attempts":"#, u64::from(entry.attempts),
        r#","cause":"#, Or(entry.cause.map(Quoted), "null"),
        r#","user":"#, Or(entry.user.as_deref().map(Quoted), "null"),
        r#","request_id":""#, entry.request_id,
        r#"","queue_ms":"#, InMillis(entry.queued),
        r#","connect_ms":"#, Or(entry.connected.map(InMillis), "null"),
        r#","tries":["#,
    );
    for (place, Try { hop, end, elapsed }) in entry.tries.iter().enumerate() {
        let (status, cause) = match end {
            TryEnd::Status(status) => (Some(status), None),
            TryEnd::Word(label) => (None, Some(label)),
        };
        append!(
            out;
            if place == 0 { "" } else { "," },
            r#"{"route":"#, Quoted(hop),
            r#","status":"#, Or(status, "null"),
            r#","cause":"#, Or(cause.map(Quoted), "null"),
            r#","ms":"#, InMillis(elapsed),
            '}',
        );
    }
    append!(out; "]}");
}

/// The Apache format of that name; the proxy's own facts follow: route and cause in quotes, milliseconds in
/// all, the request's id, milliseconds in the queue and to connect, and the tries in quotes.
fn write_combined(entry: &AccessEntry, clock: &mut Clock, out: &mut Vec<u8>) {
    let or_dash = |text| Quoted(if str::is_empty(text) { "-" } else { text });
    append!(
        out;
        entry.client.ip(),
        " - ", Bare(entry.user.as_deref().unwrap_or("-")),
        " [", clock.second(entry.time, write_apache_second),
        " +0000] \"", Escaped(&entry.method),
        ' ', Escaped(&entry.target),
        " HTTP/1.1\" ", Or(entry.status, "-"),
        ' ', entry.sent,
        ' ', or_dash(&entry.agent.referer),
        ' ', or_dash(&entry.agent.user_agent),
        ' ', or_dash(&entry.route),
        ' ', or_dash(entry.cause.unwrap_or_default()),
        ' ', InMillis(entry.elapsed),
        ' ', entry.request_id,
        ' ', InMillis(entry.queued),
        ' ', Or(entry.connected.map(InMillis), "-"),
        ' ',
    );
    write_tries(entry, "\"", out);
}

/// What was tried: `tiny:connect_refused:0.4ms,squid:200:11003.2ms`, or `-`.
fn write_tries(entry: &AccessEntry, quote: &str, out: &mut Vec<u8>) {
    append!(out; quote);
    let mut comma = "";
    for Try { hop, end, elapsed } in entry.tries.iter() {
        append!(out; comma, Escaped(hop), ':');
        match end {
            TryEnd::Status(status) => status.show(out),
            TryEnd::Word(label) => label.show(out),
        }
        let tenths = in_micros(elapsed) / 100;
        append!(out; ':', tenths / 10, '.', tenths % 10, "ms");
        comma = ",";
    }
    append!(out; if comma.is_empty() { "-" } else { "" }, quote);
}

/// RFC 3339, UTC, milliseconds.
///
/// # Errors
/// When `out` cannot be written to, which a `String` always can.
pub fn write_time(time: SystemTime, out: &mut String) -> fmt::Result {
    write_second(time, out)?;
    write!(out, ".{:03}Z", OffsetDateTime::from(time).millisecond())
}

/// RFC 3339, without a fraction and the zone.
fn write_second(time: SystemTime, out: &mut String) -> fmt::Result {
    let at = OffsetDateTime::from(time);
    let (month, day) = (u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    let year = at.year();
    write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
    )
}

/// As Apache writes it, without the zone: `14/Nov/2023:22:13:20`.
fn write_apache_second(time: SystemTime, out: &mut String) -> fmt::Result {
    let at = OffsetDateTime::from(time);
    let (day, month, year) = (at.day(), at.month().to_string(), at.year());
    let (hour, minute, second) = at.to_hms();
    write!(
        out,
        "{day:02}/{month:.3}/{year:04}:{hour:02}:{minute:02}:{second:02}"
    )
}

/// A JSON string, as [`Quoted`].
pub fn write_quoted(text: &str, out: &mut String) {
    let mut quoted = Vec::with_capacity(text.len() + 2);
    Quoted(text).show(&mut quoted);
    out.push_str(std::str::from_utf8(&quoted).unwrap_or_default());
}

fn in_micros(time: Duration) -> u64 {
    time.as_secs() * 1_000_000 + u64::from(time.subsec_micros())
}

impl Show for str {
    fn show(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl Show for &str {
    fn show(&self, out: &mut Vec<u8>) {
        str::show(self, out);
    }
}

/// One of US-ASCII.
impl Show for char {
    fn show(&self, out: &mut Vec<u8>) {
        debug_assert!(self.is_ascii());
        out.push(*self as u8);
    }
}

impl Show for u64 {
    fn show(&self, out: &mut Vec<u8>) {
        decimal::write(*self, out);
    }
}

impl Show for u16 {
    fn show(&self, out: &mut Vec<u8>) {
        decimal::write(u64::from(*self), out);
    }
}

impl Show for RequestId {
    fn show(&self, out: &mut Vec<u8>) {
        self.write(out);
    }
}

impl Show for IpAddr {
    fn show(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(address) => decimal::write_address(*address, out),
            Self::V6(_) => self.to_string().as_str().show(out),
        }
    }
}

impl Show for SocketAddr {
    fn show(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(address) => append!(out; IpAddr::V4(*address.ip()), ':', address.port()),
            Self::V6(_) => self.to_string().as_str().show(out),
        }
    }
}

/// Three digits.
struct Thousandths(u64);

impl Show for Thousandths {
    fn show(&self, out: &mut Vec<u8>) {
        for unit in [100, 10, 1] {
            // Below 10, so nothing is lost.
            out.push(b'0' + (self.0 / unit % 10) as u8);
        }
    }
}

/// Milliseconds with three decimals.
struct InMillis(Duration);

impl Show for InMillis {
    fn show(&self, out: &mut Vec<u8>) {
        let micros = in_micros(self.0);
        append!(out; micros / 1000, '.', Thousandths(micros % 1000));
    }
}

impl Display for TryEnd {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.fmt(f),
            Self::Word(label) => f.write_str(label),
        }
    }
}

/// A value, or what stands for one that is not there.
struct Or<T>(Option<T>, &'static str);

impl<T: Show> Show for Or<T> {
    fn show(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Some(value) => value.show(out),
            None => self.1.show(out),
        }
    }
}

/// A value of the text format: bare if it cannot be misread, else quoted.
struct Word<'t>(&'t str);

impl Show for Word<'_> {
    fn show(&self, out: &mut Vec<u8>) {
        if self.0.is_empty() {
            out.push(b'-');
        } else if is_all(self.0, is_bare) {
            self.0.show(out);
        } else {
            Quoted(self.0).show(out);
        }
    }
}

/// A word without quotes: blanks and whatever is not printable in it are escaped.
struct Bare<'t>(&'t str);

impl Show for Bare<'_> {
    fn show(&self, out: &mut Vec<u8>) {
        for letter in self.0.chars() {
            if letter.is_ascii_graphic() && !matches!(letter, '"' | '\\') {
                letter.show(out);
            } else {
                write_escaped(letter, out);
            }
        }
    }
}

fn write_escaped(letter: char, out: &mut Vec<u8>) {
    for unit in letter.encode_utf16(&mut [0; 2]) {
        append!(out; "\\u", format!("{unit:04x}").as_str());
    }
}

/// A JSON string in ASCII. Control characters and everything beyond ASCII are escaped, so that no
/// terminal or line reader can be fooled.
struct Quoted<'t>(&'t str);

impl Show for Quoted<'_> {
    fn show(&self, out: &mut Vec<u8>) {
        append!(out; '"', Escaped(self.0), '"');
    }
}

/// What stands between the quotes.
struct Escaped<'t>(&'t str);

impl Show for Escaped<'_> {
    fn show(&self, out: &mut Vec<u8>) {
        if is_all(self.0, is_plain) {
            return self.0.show(out);
        }
        for letter in self.0.chars() {
            match letter {
                '"' | '\\' => append!(out; '\\', letter),
                ' '..='~' => letter.show(out),
                _ => write_escaped(letter, out),
            }
        }
    }
}

/// Whether all bytes are such. All are looked at, for that is many at a time.
fn is_all(text: &str, such: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(true, |all, byte| all & such(byte))
}

/// Whether a byte stands for itself without quotes.
fn is_bare(byte: u8) -> bool {
    byte != b' ' && is_plain(byte)
}

/// Whether a byte stands for itself in quotes.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::entry::{Agent, Tries};
    use super::*;
    use crate::protocol::request_id::RequestId;

    fn entry(target: &str) -> AccessEntry {
        AccessEntry {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            id: 7,
            client: SocketAddr::from(([192, 0, 2, 1], 5000)),
            method: "GET".to_owned(),
            target: target.to_owned(),
            status: Some(200),
            received: 120,
            sent: 1320,
            elapsed: Duration::from_micros(12_345),
            first_byte: Some(Duration::from_micros(999)),
            route: "squid-1".to_owned(),
            attempts: 1,
            cause: None,
            agent: Agent::default(),
            user: Some("bob".to_owned()),
            request_id: RequestId::new(1_700_000_000_123, 0, 7),
            queued: Duration::from_micros(10),
            connected: Some(Duration::from_micros(412)),
            tries: tries("tiny"),
        }
    }

    /// A failure of `first`, and an answer.
    fn tries(first: &str) -> Tries {
        let mut tries = Tries::default();
        for (hop, end, micros) in [
            (first, TryEnd::Word("connect_refused"), 437),
            ("squid-1", TryEnd::Status(200), 11_003_250),
        ] {
            let elapsed = Duration::from_micros(micros);
            tries.push(Try { hop, end, elapsed });
        }
        tries
    }

    fn line(entry: &AccessEntry, format: AccessLogFormat) -> String {
        let mut out = Vec::new();
        write_line(entry, format, &mut Clock::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_second_is_told_anew_when_it_is_another() {
        let (mut clock, mut out) = (Clock::default(), Vec::new());
        for ms in [0, 7, 1_700_000_000_999, 1_700_000_001_000, 5] {
            clock.write(UNIX_EPOCH + Duration::from_millis(ms), &mut out);
            out.push(b' ');
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1970-01-01T00:00:00.000Z 1970-01-01T00:00:00.007Z 2023-11-14T22:13:20.999Z \
             2023-11-14T22:13:21.000Z 1970-01-01T00:00:00.005Z "
        );
    }

    #[test]
    fn a_text_line_names_every_fact() {
        assert_eq!(
            line(&entry("http://a.test/"), AccessLogFormat::Text),
            "2023-11-14T22:13:20.123Z id=7 client=192.0.2.1:5000 method=GET target=http://a.test/ \
             status=200 in=120 out=1320 ms=12.345 ttfb_ms=0.999 route=squid-1 attempts=1 cause=- \
             user=bob request_id=01HF7YAT3V0000000000000007 queue_ms=0.010 connect_ms=0.412 \
             tries=tiny:connect_refused:0.4ms,squid-1:200:11003.2ms\n"
        );
    }

    #[test]
    fn what_a_client_sends_cannot_start_a_new_line_or_field() {
        let hostile = entry("http://a.test/\r\nstatus=200 \"\u{1b}[31m\u{fffd}");
        let text = line(&hostile, AccessLogFormat::Text);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(
            text.contains(r#"target="http://a.test/\u000d\u000astatus=200 \"\u001b[31m\ufffd" "#),
            "{text}"
        );
    }

    #[test]
    fn a_json_line_is_one_object() {
        let mut failed = entry("http://a.test/\"\\\u{1F600}");
        failed.status = None;
        failed.cause = Some("client_gone");
        assert_eq!(
            line(&failed, AccessLogFormat::Json),
            "{\"time\":\"2023-11-14T22:13:20.123Z\",\"id\":7,\"client\":\"192.0.2.1:5000\",\
             \"method\":\"GET\",\"target\":\"http://a.test/\\\"\\\\\\ud83d\\ude00\",\
             \"route\":\"squid-1\",\"status\":null,\"in\":120,\"out\":1320,\"ms\":12.345,\
             \"ttfb_ms\":0.999,\"attempts\":1,\"cause\":\"client_gone\",\"user\":\"bob\",\
             \"request_id\":\"01HF7YAT3V0000000000000007\",\"queue_ms\":0.010,\"connect_ms\":0.412,\
             \"tries\":[{\"route\":\"tiny\",\"status\":null,\"cause\":\"connect_refused\",\"ms\":0.437},\
             {\"route\":\"squid-1\",\"status\":200,\"cause\":null,\"ms\":11003.250}]}\n"
        );
    }

    #[test]
    fn what_was_not_is_a_dash_or_null() {
        let mut refused = entry("http://a.test/");
        (refused.user, refused.connected) = (None, None);
        refused.tries = Tries::default();
        let text = line(&refused, AccessLogFormat::Text);
        assert!(text.contains(" user=- request_id=") && text.ends_with(" connect_ms=- tries=-\n"));
        let json = line(&refused, AccessLogFormat::Json);
        assert!(json.contains(",\"user\":null,"), "{json}");
        assert!(
            json.ends_with(",\"connect_ms\":null,\"tries\":[]}\n"),
            "{json}"
        );
        let combined = line(&refused, AccessLogFormat::Combined);
        assert!(combined.starts_with("192.0.2.1 - - [") && combined.ends_with(" - \"-\"\n"));
    }

    /// Who reads the log splits it at blanks.
    #[test]
    fn a_user_is_one_word_of_a_combined_line() {
        let mut named = entry("http://a.test/");
        named.user = Some("b o\"b\u{e9}".to_owned());
        let combined = line(&named, AccessLogFormat::Combined);
        let start = r"192.0.2.1 - b\u0020o\u0022b\u00e9 [14/Nov/2023:";
        assert!(combined.starts_with(start), "{combined}");
    }

    #[test]
    fn a_combined_line_is_what_log_analyzers_expect() {
        assert_eq!(
            line(&entry("http://a.test/"), AccessLogFormat::Combined),
            "192.0.2.1 - bob [14/Nov/2023:22:13:20 +0000] \"GET http://a.test/ HTTP/1.1\" 200 1320 \
             \"-\" \"-\" \"squid-1\" \"-\" 12.345 01HF7YAT3V0000000000000007 0.010 0.412 \
             \"tiny:connect_refused:0.4ms,squid-1:200:11003.2ms\"\n"
        );
    }

    /// Reads one JSON value (RFC 8259) and gives back what follows it; strict, and ASCII only.
    fn json(text: &[u8]) -> Option<&[u8]> {
        match text.first()? {
            b'{' => json_object(&text[1..]),
            b'[' => json_array(&text[1..]),
            b'"' => json_string(&text[1..]),
            b'n' => text.strip_prefix(b"null"),
            _ => json_number(text),
        }
    }

    fn json_object(mut text: &[u8]) -> Option<&[u8]> {
        loop {
            text = json_string(text.strip_prefix(b"\"")?)?;
            text = json(text.strip_prefix(b":")?)?;
            match text.split_first()? {
                (b',', rest) => text = rest,
                (b'}', rest) => return Some(rest),
                (_, _) => return None,
            }
        }
    }

    fn json_array(mut text: &[u8]) -> Option<&[u8]> {
        loop {
            text = json(text)?;
            match text.split_first()? {
                (b',', rest) => text = rest,
                (b']', rest) => return Some(rest),
                (_, _) => return None,
            }
        }
    }

    fn json_string(mut text: &[u8]) -> Option<&[u8]> {
        loop {
            let (first, rest) = text.split_first()?;
            text = match first {
                b'"' => return Some(rest),
                b'\\' => match rest.split_first()? {
                    (b'u', rest) => {
                        let digits = rest.get(..4)?;
                        if !digits.iter().all(u8::is_ascii_hexdigit) {
                            return None;
                        }
                        &rest[4..]
                    }
                    (b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', rest) => rest,
                    (_, _) => return None,
                },
                b' '..=b'~' => rest,
                _ => return None,
            };
        }
    }

    fn json_number(text: &[u8]) -> Option<&[u8]> {
        let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
        let whole = digits(text);
        if whole == 0 || (whole > 1 && text[0] == b'0') {
            return None;
        }
        let rest = &text[whole..];
        match rest.strip_prefix(b".") {
            None => Some(rest),
            Some(fraction) => Some(fraction)
                .filter(|f| digits(f) > 0)
                .map(|f| &f[digits(f)..]),
        }
    }

    #[test]
    fn the_reader_of_these_tests_is_strict() {
        for wrong in [
            "",
            "{",
            "{}",
            "\"\u{1}\"",
            "\"\\x\"",
            "\"\\u12\"",
            "01",
            "1.",
            "{\"a\":1,}",
            "[1,]",
            "[1 2]",
        ] {
            assert_eq!(json(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(
            json(br#"{"a":"\u0001\"","b":1.5,"c":null,"d":[{"e":0},1]}"#),
            Some(&b""[..])
        );
    }

    /// Every byte, alone and in company, in everything a client can choose.
    #[test]
    fn a_json_line_can_be_read_whatever_bytes_a_client_sends() {
        for byte in 0..=u8::MAX {
            for bytes in [
                vec![byte],
                vec![b'\\', byte, b'"'],
                vec![0xe2, 0x80, byte],
                vec![byte; 9],
            ] {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let mut hostile = entry(&text);
                hostile.method.clone_from(&text);
                hostile.tries = tries(&text);
                hostile.user = Some(text.clone());
                hostile.route = text;
                let line = line(&hostile, AccessLogFormat::Json);
                let rest = json(line.as_bytes());
                assert_eq!(rest, Some(&b"\n"[..]), "{bytes:?}: {line}");
            }
        }
    }

    #[test]
    fn every_format_makes_one_line_of_printable_characters() {
        let mut hostile = entry("\u{0}\r\n\u{85}\u{2028}\u{202e}\u{7f}\"\\");
        hostile.method = "\n".to_owned();
        hostile.route = "\u{1b}[2J".to_owned();
        hostile.tries = tries("\u{1b}[2J");
        hostile.user = Some("\u{202e} \n".to_owned());
        hostile.agent = Agent {
            referer: "\r\n".to_owned(),
            user_agent: "\" \\".to_owned(),
        };
        for format in [
            AccessLogFormat::Text,
            AccessLogFormat::Json,
            AccessLogFormat::Combined,
        ] {
            let line = line(&hostile, format);
            let body = line.strip_suffix('\n').unwrap();
            assert!(
                body.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{line}"
            );
        }
    }
}
