//! The forms of a line of the access log.
//!
//! Everything a client can choose is escaped, so that one exchange is one line of printable ASCII
//! whatever bytes it carried. What is new stands at the end, for those who read by position.

use std::fmt::{self, Display, Formatter, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use crate::config::checked::AccessLogFormat;

use super::entry::{AccessEntry, Try, TryEnd};

/// The second at hand as text: to tell it anew for each line would cost more than the rest of the line.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    /// As [`write_time`].
    fn write(&mut self, time: SystemTime, out: &mut String) -> fmt::Result {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            self.text.clear();
            write_time(time, &mut self.text)?;
            self.text.truncate("2026-11-22T17:15:19".len());
        }
        write!(out, "{}.{:03}Z", self.text, since.subsec_millis())
    }
}

/// Appends the line of `entry` with its line feed.
pub(super) fn write_line(
    entry: &AccessEntry,
    format: AccessLogFormat,
    clock: &mut Clock,
    out: &mut String,
) {
    // Writing to a String cannot fail.
    let written = match format {
        AccessLogFormat::Text => write_text(entry, clock, out),
        AccessLogFormat::Json => write_json(entry, clock, out),
        AccessLogFormat::Combined => write_combined(entry, out),
    };
    debug_assert!(written.is_ok());
    out.push('\n');
}

fn write_text(entry: &AccessEntry, clock: &mut Clock, out: &mut String) -> fmt::Result {
    clock.write(entry.time, out)?;
    let (id, client, attempts) = (entry.id, entry.client, entry.attempts);
    let (method, target, route) = (Word(&entry.method), Word(&entry.target), Word(&entry.route));
    let (status, cause) = (Or(entry.status, "-"), Or(entry.cause, "-"));
    let (received, sent, ms) = (entry.received, entry.sent, InMillis(entry.elapsed));
    let ttfb = Or(entry.first_byte.map(InMillis), "-");
    write!(
        out,
        " id={id} client={client} method={method} target={target} status={status} in={received} \
         out={sent} ms={ms} ttfb_ms={ttfb} route={route} attempts={attempts} cause={cause}"
    )?;
    let user = Word(entry.user.as_deref().unwrap_or_default());
    let (request_id, queued) = (&entry.request_id, InMillis(entry.queued));
    let connected = Or(entry.connected.map(InMillis), "-");
    write!(
        out,
        " user={user} request_id={request_id} queue_ms={queued} connect_ms={connected}"
    )?;
    write!(out, " tries={}", Word(&tries(entry)))
}

fn write_json(entry: &AccessEntry, clock: &mut Clock, out: &mut String) -> fmt::Result {
    out.push_str(r#"{"time":""#);
    clock.write(entry.time, out)?;
    let (id, client, attempts) = (entry.id, entry.client, entry.attempts);
    let (method, target) = (Quoted(&entry.method), Quoted(&entry.target));
    let (route, cause) = (Quoted(&entry.route), entry.cause.map(Quoted));
    let (status, cause) = (Or(entry.status, "null"), Or(cause, "null"));
    let (received, sent, ms) = (entry.received, entry.sent, InMillis(entry.elapsed));
    let ttfb = Or(entry.first_byte.map(InMillis), "null");
    write!(
        out,
        r#"","id":{id},"client":"{client}","method":{method},"target":{target}"#
    )?;
    write!(
        out,
        r#","route":{route},"status":{status},"in":{received},"out":{sent},"ms":{ms}"#
    )?;
    write!(
        out,
        r#","ttfb_ms":{ttfb},"attempts":{attempts},"cause":{cause}"#
    )?;
    let user = Or(entry.user.as_deref().map(Quoted), "null");
    let (request_id, queued) = (&entry.request_id, InMillis(entry.queued));
    let connected = Or(entry.connected.map(InMillis), "null");
    write!(
        out,
        r#","user":{user},"request_id":"{request_id}","queue_ms":{queued},"connect_ms":{connected}"#
    )?;
    out.push_str(r#","tries":["#);
    for (position, one) in entry.tries.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        let (hop, ms) = (Quoted(&one.hop), InMillis(one.elapsed));
        match one.end {
            TryEnd::Status(status) => write!(
                out,
                r#"{comma}{{"route":{hop},"status":{status},"cause":null,"ms":{ms}}}"#
            )?,
            TryEnd::Word(label) => write!(
                out,
                r#"{comma}{{"route":{hop},"status":null,"cause":"{label}","ms":{ms}}}"#
            )?,
        }
    }
    out.push_str("]}");
    Ok(())
}

/// The Apache format of that name; the proxy's own facts follow: route and cause in quotes, milliseconds in
/// all, the request's id, milliseconds in the queue and to connect, and the tries in quotes.
fn write_combined(entry: &AccessEntry, out: &mut String) -> fmt::Result {
    let at = OffsetDateTime::from(entry.time);
    let month = at.month().to_string();
    write!(
        out,
        "{} - {} [{:02}/{month:.3}/{:04}:{:02}:{:02}:{:02} +0000] {} {} {}",
        entry.client.ip(),
        Bare(entry.user.as_deref().unwrap_or("-")),
        at.day(),
        at.year(),
        at.hour(),
        at.minute(),
        at.second(),
        Quoted(&format!("{} {} HTTP/1.1", entry.method, entry.target)),
        Or(entry.status, "-"),
        entry.sent,
    )?;
    let (referer, user_agent) = match &entry.agent {
        Some(agent) => (&*agent.referer, &*agent.user_agent),
        None => ("", ""),
    };
    for text in [
        referer,
        user_agent,
        &entry.route,
        entry.cause.unwrap_or_default(),
    ] {
        let text = if text.is_empty() { "-" } else { text };
        write!(out, " {}", Quoted(text))?;
    }
    write!(
        out,
        " {} {} {} {} {}",
        InMillis(entry.elapsed),
        entry.request_id,
        InMillis(entry.queued),
        Or(entry.connected.map(InMillis), "-"),
        Quoted(&tries(entry))
    )
}

/// What was tried: `tiny:connect_refused:0.4ms,squid:200:11003.2ms`, or `-`.
fn tries(entry: &AccessEntry) -> String {
    let mut text = String::with_capacity(64);
    for Try { hop, end, elapsed } in &entry.tries {
        let comma = if text.is_empty() { "" } else { "," };
        let tenths = elapsed.as_micros() / 100;
        // Writing to a String cannot fail.
        let written = write!(text, "{comma}{hop}:{end}:{}.{}ms", tenths / 10, tenths % 10);
        debug_assert!(written.is_ok());
    }
    if text.is_empty() {
        text.push('-');
    }
    text
}

/// RFC 3339, UTC, milliseconds.
///
/// # Errors
/// When `out` cannot be written to, which a `String` always can.
pub fn write_time(time: SystemTime, out: &mut String) -> fmt::Result {
    let at = OffsetDateTime::from(time);
    write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// A JSON string, as [`Quoted`].
pub fn write_quoted(text: &str, out: &mut String) {
    let written = write!(out, "{}", Quoted(text));
    debug_assert!(written.is_ok());
}

/// Milliseconds with three decimals.
struct InMillis(Duration);

impl Display for InMillis {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
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

impl<T: Display> Display for Or<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str(self.1),
        }
    }
}

/// A value of the text format: bare if it cannot be misread, else quoted.
struct Word<'t>(&'t str);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("-")
        } else if self.0.bytes().all(|byte| byte != b' ' && is_plain(byte)) {
            f.write_str(self.0)
        } else {
            Quoted(self.0).fmt(f)
        }
    }
}

/// A word without quotes: blanks and whatever is not printable in it are escaped.
struct Bare<'t>(&'t str);

impl Display for Bare<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            if letter.is_ascii_graphic() && !matches!(letter, '"' | '\\') {
                f.write_char(letter)?;
            } else {
                write_escaped(letter, f)?;
            }
        }
        Ok(())
    }
}

fn write_escaped(letter: char, f: &mut Formatter<'_>) -> fmt::Result {
    for unit in letter.encode_utf16(&mut [0; 2]) {
        write!(f, "\\u{unit:04x}")?;
    }
    Ok(())
}

/// A JSON string in ASCII. Control characters and everything beyond ASCII are escaped, so that no
/// terminal or line reader can be fooled.
struct Quoted<'t>(&'t str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.bytes().all(is_plain) {
            return write!(f, "\"{}\"", self.0);
        }
        f.write_char('"')?;
        for letter in self.0.chars() {
            match letter {
                '"' | '\\' => write!(f, "\\{letter}")?,
                ' '..='~' => f.write_char(letter)?,
                _ => write_escaped(letter, f)?,
            }
        }
        f.write_char('"')
    }
}

/// Whether a byte stands for itself in quotes.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::entry::Agent;
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
            agent: None,
            user: Some("bob".to_owned()),
            request_id: RequestId::new(1_700_000_000_123, 0, 7),
            queued: Duration::from_micros(10),
            connected: Some(Duration::from_micros(412)),
            tries: vec![
                tried("tiny", TryEnd::Word("connect_refused"), 437),
                tried("squid-1", TryEnd::Status(200), 11_003_250),
            ],
        }
    }

    fn tried(hop: &str, end: TryEnd, micros: u64) -> Try {
        Try {
            hop: hop.to_owned(),
            end,
            elapsed: Duration::from_micros(micros),
        }
    }

    fn line(entry: &AccessEntry, format: AccessLogFormat) -> String {
        let mut out = String::new();
        write_line(entry, format, &mut Clock::default(), &mut out);
        out
    }

    #[test]
    fn the_second_is_told_anew_when_it_is_another() {
        let (mut clock, mut out) = (Clock::default(), String::new());
        for ms in [0, 7, 1_700_000_000_999, 1_700_000_001_000, 5] {
            clock
                .write(UNIX_EPOCH + Duration::from_millis(ms), &mut out)
                .unwrap();
            out.push(' ');
        }
        assert_eq!(
            out,
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
        refused.tries.clear();
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
                hostile.tries[0].hop.clone_from(&text);
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
        hostile.tries[0].hop = "\u{1b}[2J".to_owned();
        hostile.user = Some("\u{202e} \n".to_owned());
        hostile.agent = Some(Agent {
            referer: "\r\n".to_owned(),
            user_agent: "\" \\".to_owned(),
        });
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
