//! One line for each exchange and tunnel, whatever it carried and however it ended.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use super::admin::ADMIN;
use super::harness::{Client, Origin, Proxy, Talk, TemporaryFile, Upstream, spawn, wait_until};
use super::room::waiting;

const GET: &str = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n";
const POST: &str =
    "POST http://o.test/p HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\n\r\nhello";
const CONNECT: &str = "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n";

/// A log of this test alone, and the line of configuration that turns it on.
pub(super) struct Log(TemporaryFile);

impl Log {
    pub(super) fn new() -> Self {
        Self(TemporaryFile::new("access.log"))
    }

    pub(super) fn yaml(&self, format: &str) -> String {
        format!(
            "access_log: {{format: {format}, file: '{}'}}\n",
            self.0.path()
        )
    }

    /// Waits until there are so many lines; and there are no more.
    #[track_caller]
    pub(super) fn lines(&self, count: usize) -> Vec<String> {
        wait_until(|| {
            let text = self.0.text();
            text.ends_with('\n') && text.lines().count() >= count
        });
        let text = self.0.text();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), count, "{text}");
        lines
    }

    /// The only line, by its keys; `time` is what stands before the first.
    #[track_caller]
    fn fields(&self) -> HashMap<String, String> {
        fields(&self.lines(1)[0])
    }
}

/// The words of a line; no value of these tests has a blank in it.
fn fields(line: &str) -> HashMap<String, String> {
    let (time, rest) = line.split_once(' ').expect("a line of several words");
    let mut fields = HashMap::from([("time".to_owned(), time.to_owned())]);
    for word in rest.split(' ') {
        let (key, value) = word.split_once('=').expect("key=value");
        assert!(
            fields.insert(key.to_owned(), value.to_owned()).is_none(),
            "{key} twice"
        );
    }
    fields
}

#[track_caller]
fn check(fields: &HashMap<String, String>, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(fields[*key], *value, "{key} of {fields:?}");
    }
}

/// D24: upstream, bytes and cause were missing.
#[test]
fn a_line_tells_everything_of_an_exchange() {
    let (log, a) = (Log::new(), Upstream::echo_ok("a"));
    let proxy = Proxy::with_yaml(&log.yaml("text"), [&a]);
    let mut client = proxy.client();
    client.send(POST).expect_status(200);
    let sent = client.message().raw.len().to_string();
    let fields = log.fields();
    let address = client
        .socket()
        .handle()
        .local_addr()
        .expect("an address")
        .to_string();
    check(
        &fields,
        &[
            ("client", &address),
            ("method", "POST"),
            ("target", "http://o.test/p"),
            ("status", "200"),
            ("in", &POST.len().to_string()),
            ("out", &sent),
            ("route", "a"),
            ("attempts", "1"),
            ("cause", "-"),
        ],
    );
    let time = &fields["time"];
    assert!(
        time.len() == 24 && time.ends_with('Z') && time.contains('T'),
        "{time}"
    );
    assert!(fields["id"].parse::<u64>().is_ok());
    let (whole, first): (f64, f64) = (number(&fields["ms"]), number(&fields["ttfb_ms"]));
    assert!(first <= whole, "{fields:?}");
    assert_eq!(fields["user"], "-");
    assert_eq!(fields["request_id"].len(), 26, "{fields:?}");
    let (queued, connect) = (number(&fields["queue_ms"]), number(&fields["connect_ms"]));
    assert!(queued <= first && connect <= first, "{fields:?}");
    assert!(fields["tries"].starts_with("a:200:"), "{fields:?}");
    assert_eq!(fields.len(), 18, "{fields:?}");
}

fn number(text: &str) -> f64 {
    text.parse().expect("a number")
}

/// The upstream has not taken it.
#[test]
fn the_time_of_an_attempt_begins_when_the_upstream_has_room_for_it() {
    let (log, a) = (Log::new(), Upstream::by_hand("a"));
    let yaml = format!("{ADMIN}{}", log.yaml("text"));
    let proxy = Proxy::with_yaml(&yaml, [a.with("max_active: 1")]);
    let (mut busy, mut client) = (proxy.client(), proxy.client());
    busy.get("http://o.test/");
    let (mut hop, _) = a.accept_and_read_request();
    client.get("http://other.test/");
    wait_until(|| waiting(&proxy));
    hop.expect_nothing_more().send_ok("ok");
    busy.expect_status(200);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send_ok("ok");
    client.expect_status(200);
    let fields = fields(&log.lines(2)[1]);
    let (whole, queued) = (number(&fields["ms"]), number(&fields["queue_ms"]));
    let attempt = fields["tries"].strip_prefix("a:200:").expect("one attempt");
    let attempt = number(attempt.trim_end_matches("ms"));
    assert!(queued > 1.0, "{fields:?}");
    // Its milliseconds have one place behind the point.
    assert!(queued + attempt <= whole + 0.1, "{fields:?}");
}

#[test]
fn each_request_of_a_connection_has_its_line_and_its_number() {
    let (log, a) = (Log::new(), Upstream::echo_ok("a"));
    let proxy = Proxy::with_yaml(&log.yaml("text"), [&a]);
    let mut client = proxy.client();
    client.send([GET, POST, GET].concat());
    for _ in 0..3 {
        client.expect_status(200);
    }
    let lines: Vec<_> = log.lines(3).iter().map(|line| fields(line)).collect();
    let ids: Vec<u64> = lines
        .iter()
        .map(|line| line["id"].parse().expect("a number"))
        .collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let received: Vec<_> = lines.iter().map(|line| line["in"].clone()).collect();
    let lengths = [GET, POST, GET].map(|request| request.len().to_string());
    assert_eq!(received, lengths, "each has its own bytes");
}

#[test]
fn the_way_and_the_attempts_are_told() {
    let (log, origin) = (Log::new(), Origin::echo_ok("origin"));
    let (a, b) = (Upstream::echo_ok("a"), Upstream::echo_ok("b"));
    let policy = "mode: priority\ndomain_policy: {mode: blacklist, domains: [127.0.0.1]}\n";
    let members = [a.with("priority: 1"), b.with("priority: 2")];
    let proxy = Proxy::with_yaml(&(log.yaml("text") + policy), members);
    a.kill();
    let mut client = proxy.client();
    client.send(GET).expect_status(200);
    client
        .get(&format!("http://{}/x", origin.authority()))
        .expect_status(200);
    client.get("/").expect_refusal(400);
    let lines: Vec<_> = log.lines(3).iter().map(|line| fields(line)).collect();
    check(
        &lines[0],
        &[("route", "b"), ("attempts", "2"), ("cause", "-")],
    );
    check(&lines[1], &[("route", "direct"), ("attempts", "1")]);
    let refused = [
        ("route", "-"),
        ("attempts", "0"),
        ("cause", "target_origin_form"),
    ];
    check(&lines[2], &refused);
}

/// One line at its end, with all its bytes (D25: a tunnel that was reset counted none).
#[test]
fn a_tunnel_has_one_line_however_it_ends() {
    let early = "early";
    let close: fn(Client) = Client::close;
    for (end, cause) in [(close, "-"), (Client::reset, "tunnel_reset")] {
        let (log, a) = (Log::new(), Upstream::echo_ok("a"));
        let proxy = Proxy::with_yaml(&log.yaml("text"), [&a]);
        let mut client = proxy.client();
        client.send([CONNECT, early].concat()).expect_tunnel();
        let head = client.message().raw.len();
        client.send("ping").expect_bytes("earlyping");
        assert_eq!(log.0.text(), "", "a tunnel is told when it is over");
        end(client);
        let fields = log.fields();
        check(
            &fields,
            &[
                ("method", "CONNECT"),
                ("target", "o.test:443"),
                ("status", "200"),
                ("in", &(CONNECT.len() + 9).to_string()),
                ("out", &(head + 9).to_string()),
                ("route", "a"),
                ("attempts", "1"),
                ("cause", cause),
            ],
        );
    }
}

/// D24: final failures, 408 and refusals had no line.
#[test]
fn every_refusal_has_a_line_and_its_cause() {
    let log = Log::new();
    let a = Upstream::echo_ok("a");
    let extra = log.yaml("text") + "limits: {header_timeout_secs: 0.2}\n";
    let proxy = Proxy::with_yaml(&extra, [&a]);
    a.kill();
    let requests = [
        (GET, 502, "connect_refused"),
        (GET, 503, "no_upstream_online"),
        (CONNECT, 503, "no_upstream_online"),
        ("x\r\n\r\n", 400, "malformed_head"),
        (
            "\x16\x03\x01\x02\0\x01\0\x01\u{7f}\x03\x03",
            400,
            "tls_to_plain_port",
        ),
        ("\x05\x01\0", 400, "socks_to_http_port"),
        ("\x04\x01\0\x50\x7f\0\0\x01\0", 400, "socks_to_http_port"),
        (
            "GET http://o.test/ HTTP/3.0\r\n\r\n",
            505,
            "version_unsupported",
        ),
        ("GET ", 408, "head_timeout"),
        (
            "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
            "coding_unsupported",
        ),
    ];
    for (at, (request, status, cause)) in requests.into_iter().enumerate() {
        proxy.client().send(request).expect_refusal(status);
        let line = log.lines(at + 1).pop().expect("a line");
        check(
            &fields(&line),
            &[("status", &status.to_string()), ("cause", cause)],
        );
    }
}

#[test]
fn what_broke_off_has_a_line_and_its_cause() {
    let (log, a) = (Log::new(), Upstream::by_hand("a"));
    let proxy = Proxy::with_yaml(&log.yaml("text"), [&a]);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    client.expect_head(200);
    client.reset();
    hop.expect_gone();
    check(
        &log.fields(),
        &[("status", "200"), ("route", "a"), ("cause", "client_gone")],
    );
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    hop.close();
    client.expect_head(200).expect_truncated("abc");
    let line = fields(&log.lines(2)[1]);
    check(&line, &[("status", "200"), ("cause", "response_truncated")]);
    wait_until(|| proxy.upstream("a").online);
    let mut client = proxy.client();
    client.send(GET);
    let (mut hop, _) = a.accept_and_read_request();
    client.close();
    hop.expect_gone();
    let line = fields(&log.lines(3)[2]);
    check(
        &line,
        &[("status", "-"), ("ttfb_ms", "-"), ("cause", "client_gone")],
    );
}

/// D23: `http://bob:hunter2@...` stood there.
#[test]
fn userinfo_is_never_shown() {
    for format in ["text", "json", "combined"] {
        let (log, a) = (Log::new(), Upstream::echo_ok("a"));
        let members = [a.with("{username: upstreamuser, password: upstreampw}")];
        let proxy = Proxy::with_yaml(&log.yaml(format), members);
        for target in [
            "http://bob:hunter2@o.test/",
            "http://bob:hunter2@o.test:99999/",
            "http://bob:hunter2@/",
            "http://bob:hun@ter2@o.test/",
            "http://bob:hunter2/x@o.test/",
            "https://bob:hunter2@o.test/",
            "bob:hunter2@o.test:443",
        ] {
            for method in ["GET", "CONNECT"] {
                let mut client = proxy.client();
                client.send(format!(
                    "{method} {target} HTTP/1.1\r\nHost: o.test\r\n\r\n"
                ));
                client.read_head();
            }
        }
        let referer = "http://bob:hunter2@o.test/b@c";
        let get = "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nReferer:";
        let mut client = proxy.client();
        client.send(format!("{get} {referer}\r\n\r\n"));
        client.expect_status(200);
        let text = log.lines(15).concat();
        let shown = text.contains("\"http://o.test/b@c\"");
        assert_eq!(shown, format == "combined", "{text}");
        for secret in [
            "bob",
            "hunter2",
            "hun",
            "upstreamuser",
            "upstreampw",
            "dXBzdHJlYW",
        ] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

/// Whatever bytes came: one exchange is one line, and no escape sequence reaches a terminal.
#[test]
fn hostile_bytes_are_escaped() {
    for format in ["text", "json", "combined"] {
        let (log, a) = (Log::new(), Upstream::echo_ok("a"));
        let proxy = Proxy::with_yaml(&log.yaml(format), [&a]);
        let hostile: [&[u8]; 4] = [
            b"GET http://o.test/\"\\x=y HTTP/1.1\r\nHost: o.test\r\n\r\n",
            b"GET http://o.test/\xe9\xff\xc2\x85\xe2\x80\xae HTTP/1.1\r\nHost: o.test\r\n\r\n",
            b"GET http://o.test/\x1b[31m HTTP/1.1\r\nHost: o.test\r\n\r\n",
            b"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\
              Referer: \"\xff\xc2\x85\r\nUser-Agent: \\\" status=999\r\n\r\n",
        ];
        for request in hostile {
            proxy.client().send(request).read_head();
        }
        let lines = log.lines(4);
        for line in &lines {
            let plain = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            assert!(plain, "{format}: {line:?}");
        }
        assert!(!lines[2].contains("[31m") || !lines[2].contains('\u{1b}'));
    }
}

#[test]
fn a_line_can_be_json() {
    let (log, a) = (Log::new(), Upstream::echo_ok("a"));
    let proxy = Proxy::with_yaml(&log.yaml("json"), [&a]);
    proxy.client().send(POST).expect_status(200);
    let line = log.lines(1).remove(0);
    // Every JSON object of this kind is YAML, too.
    let value: serde_yaml::Value = serde_yaml::from_str(&line).expect("JSON");
    let expected = [
        ("method", "POST"),
        ("target", "http://o.test/p"),
        ("route", "a"),
    ];
    for (key, text) in expected {
        assert_eq!(value[key].as_str(), Some(text), "{line}");
    }
    assert_eq!(value["status"].as_u64(), Some(200));
    assert_eq!(value["in"].as_u64(), Some(POST.len() as u64));
    assert_eq!(value["attempts"].as_u64(), Some(1));
    assert!(value["cause"].is_null());
    let tried = &value["tries"][0];
    assert_eq!(tried["route"].as_str(), Some("a"), "{line}");
    assert_eq!(tried["status"].as_u64(), Some(200), "{line}");
    for key in [
        "time",
        "id",
        "client",
        "out",
        "ms",
        "ttfb_ms",
        "request_id",
        "queue_ms",
        "connect_ms",
    ] {
        assert!(!value[key].is_null(), "{key} in {line}");
    }
}

#[test]
fn a_line_can_be_in_the_combined_format() {
    let (log, a) = (Log::new(), Upstream::echo_ok("a"));
    let proxy = Proxy::with_yaml(&log.yaml("combined"), [&a]);
    let request = GET.replace(
        "\r\n\r\n",
        "\r\nReferer: http://r/\r\nUser-Agent: curl/8\r\n\r\n",
    );
    proxy.client().send(request).expect_status(200);
    let line = log.lines(1).remove(0);
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(
        line.contains(" +0000] \"GET http://o.test/ HTTP/1.1\" 200 "),
        "{line}"
    );
    assert!(
        line.contains(" \"http://r/\" \"curl/8\" \"a\" \"-\" "),
        "{line}"
    );
}

/// What a search engine or a login puts there is nobody's business; `Referer` has what had been a target.
#[test]
fn queries_can_be_left_out() {
    for format in ["text", "json", "combined"] {
        let (log, a) = (Log::new(), Upstream::echo_ok("a"));
        let extra = log.yaml(format).replace("format:", "query: false, format:");
        let proxy = Proxy::with_yaml(&extra, [&a]);
        let mut client = proxy.client();
        client.send(
            "GET http://o.test/find?token=secret HTTP/1.1\r\nHost: o.test\r\n\
             Referer: http://o.test/page?token=secret\r\n\r\n",
        );
        client.expect_status(200);
        client.get("/own?token=secret").expect_refusal(400);
        let text = log.lines(2).concat();
        assert!(
            text.contains("http://o.test/find") && text.contains("/own"),
            "{text}"
        );
        assert_eq!(
            text.contains("\"http://o.test/page\""),
            format == "combined",
            "{text}"
        );
        assert!(!text.contains("secret") && !text.contains('?'), "{text}");
    }
}

#[test]
fn who_asked_is_told_once_the_password_was_right() {
    let (log, a) = (Log::new(), Upstream::echo_ok("a"));
    let users = "access: {users: [{username: bob, password: hunter2}]}\n";
    let proxy = Proxy::with_yaml(&(log.yaml("text") + users), [&a]);
    let mut client = proxy.client();
    for (token, status, user) in [
        ("Ym9iOmh1bnRlcjI=", 200, "bob"),
        ("Ym9iOmh1bnRlcjM=", 407, "-"),
    ] {
        let field = format!("\r\nProxy-Authorization: Basic {token}\r\n\r\n");
        client.send(GET.replace("\r\n\r\n", &field));
        client.read_head();
        let line = log.lines(client_lines(status)).pop().expect("a line");
        check(
            &fields(&line),
            &[("status", &status.to_string()), ("user", user)],
        );
    }
}

/// The first request is let in, the second is not.
fn client_lines(status: u16) -> usize {
    if status == 200 { 1 } else { 2 }
}

#[test]
fn a_rotated_file_is_opened_anew_when_told() {
    let (log, rotated) = (Log::new(), TemporaryFile::new("rotated.log"));
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(&log.yaml("text"), [&a]);
    proxy.client().send(GET).expect_status(200);
    log.lines(1);
    std::fs::rename(log.0.path(), rotated.path()).expect("to rotate");
    proxy.server().context().access_log.reopen();
    wait_until(|| Path::new(&log.0.path()).exists());
    proxy.client().send(GET).expect_status(200);
    log.lines(1);
    assert_eq!(rotated.text().lines().count(), 1);
}

#[test]
fn a_reload_turns_the_log_on_and_off() {
    let (log, a) = (Log::new(), Upstream::echo_ok("a"));
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send(GET).expect_status(200);
    proxy.reload(&log.yaml("text"), [&a]);
    client.send(GET).expect_status(200);
    log.lines(1);
    proxy.reload("{}", [&a]);
    client.send(GET).expect_status(200);
    proxy.reload(&log.yaml("text"), [&a]);
    client.send(POST).expect_status(200);
    assert!(log.lines(2)[1].contains("POST"));
}

/// A FIFO nobody reads: requests go on, and what finds no place is counted.
#[test]
fn a_stuck_sink_never_stops_the_relay() {
    // More than the queue and the pipe take.
    const REQUESTS: usize = 40_000;
    const ONE: &str = "OPTIONS http://o.test/ HTTP/1.1\r\nHost: o.test\r\nMax-Forwards: 0\r\n\r\n";
    let log = Log::new();
    fifo(&log.0.path());
    let a = Upstream::echo_ok("a");
    let proxy = Proxy::with_yaml(&log.yaml("text"), [&a]);
    let mut client = proxy.client();
    client.send(GET).expect_status(200);
    let stream = client.socket().handle();
    let reader = spawn("reader", move || {
        let mut answers = 0;
        let mut block = vec![0; 64 * 1024];
        let mut tail = Vec::new();
        while answers < REQUESTS {
            let count = stream.as_ref().read(&mut block).expect("answers");
            assert!(count > 0, "closed after {answers} answers");
            tail.extend_from_slice(&block[..count]);
            let status = b"HTTP/1.1 200";
            answers += tail
                .windows(status.len())
                .filter(|window| window == status)
                .count();
            // What may be the beginning of the next one.
            tail.drain(..tail.len().saturating_sub(status.len() - 1));
        }
    });
    client.send(ONE.repeat(REQUESTS));
    reader.join().expect("all answers");
    let dropped = &proxy.server().context().metrics.access_log_dropped;
    wait_until(|| dropped.value() > 0);
    // Somebody reads at last: what was kept comes out, and then what is new.
    let path = log.0.path();
    let reader = spawn("late-reader", move || {
        let mut file = std::fs::File::open(path).expect("the FIFO");
        let mut text = String::new();
        let mut block = vec![0; 64 * 1024];
        while !text.contains("target=http://o.test/last") {
            let count = file.read(&mut block).expect("lines");
            text.push_str(&String::from_utf8_lossy(&block[..count]));
        }
        text.lines().count()
    });
    wait_until(|| {
        proxy.client().get("http://o.test/last").expect_status(200);
        reader.is_finished()
    });
    let lines = reader.join().expect("the lines");
    assert!(
        lines as u64 + dropped.value() >= REQUESTS as u64,
        "{lines} lines"
    );
}

fn fifo(path: &str) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
}
