//! What a request is called: one name in the log, at the upstream, at the client and in `Proxy-Status`.

use super::harness::{Message, Proxy, Talk, TemporaryFile, Upstream, wait_until};

const FIELD: &str = "request_id: X-Request-Id\n";

/// The names in a log of so many lines.
#[track_caller]
fn logged(log: &TemporaryFile, count: usize) -> Vec<String> {
    wait_until(|| log.text().lines().count() >= count);
    let text = log.text();
    let name = |line: &str| {
        let (_, rest) = line.split_once(" request_id=").expect("a name");
        rest.split(' ').next().expect("its end").to_owned()
    };
    text.lines().map(name).collect()
}

#[track_caller]
fn of(message: &Message) -> String {
    let values = message.values("X-Request-Id");
    assert_eq!(values.len(), 1, "one name in {message:?}");
    values[0].clone()
}

#[test]
fn a_request_has_one_name_in_the_log_at_the_upstream_and_at_the_client() {
    let (log, a) = (TemporaryFile::new("access.log"), Upstream::by_hand("a"));
    let extra = format!("{FIELD}access_log: {{file: '{}'}}\n", log.path());
    let proxy = Proxy::with_yaml(&extra, [&a]);
    let mut client = proxy.client();
    client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n");
    let mut hop = a.accept();
    let sent = of(&hop.read_request());
    hop.send("HTTP/1.1 200 OK\r\nX-Request-Id: the-origins\r\nContent-Length: 0\r\n\r\n");
    client.expect_status(200);
    assert_eq!(of(client.message()), sent);
    client.send("CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n");
    let mut hop = a.accept();
    let tunnel = of(&hop.read_request());
    hop.send("HTTP/1.1 200 OK\r\n\r\n");
    client.expect_tunnel();
    assert_eq!(of(client.message()), tunnel);
    client.close();
    hop.close();
    assert_eq!(logged(&log, 2), [sent.as_str(), &tunnel]);
    assert!(sent.len() == 26 && sent < tunnel, "{sent} {tunnel}");
}

#[test]
fn a_clients_own_name_is_kept_if_it_is_sound() {
    let (log, a) = (TemporaryFile::new("access.log"), Upstream::by_hand("a"));
    let extra = format!("{FIELD}access_log: {{file: '{}'}}\n", log.path());
    let proxy = Proxy::with_yaml(&extra, [&a]);
    let mut client = proxy.client();
    for (own, is_kept) in [
        ("X-Request-ID: f81d4fae-7dec\r\n", true),
        ("X-Request-ID: a\r\nX-Request-ID: a\r\n", false),
        ("X-Request-ID: \"a b\"\r\n", false),
    ] {
        client.send(format!(
            "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n{own}\r\n"
        ));
        let (mut hop, request) = a.accept_and_read_request();
        let sent = of(&request);
        assert_eq!(sent == "f81d4fae-7dec", is_kept, "{sent}");
        hop.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        client.expect_status(200);
        assert_eq!(of(client.message()), sent);
    }
    assert_eq!(logged(&log, 3)[0], "f81d4fae-7dec");
}

#[test]
fn an_answer_of_our_own_names_its_request() {
    for field in ["", FIELD] {
        let (log, a) = (TemporaryFile::new("access.log"), Upstream::echo_ok("a"));
        let extra = format!("{field}access_log: {{file: '{}'}}\n", log.path());
        let proxy = Proxy::with_yaml(&extra, [&a]);
        let mut client = proxy.client();
        client.get("/").expect_refusal(400);
        let status = client.message().values("Proxy-Status")[0].clone();
        let named = format!("; request-id=\"{}\"", logged(&log, 1)[0]);
        assert!(status.ends_with(&named), "{status}");
        let fields = client.message().values("X-Request-Id").len();
        assert_eq!(fields, usize::from(field == FIELD));
    }
}

/// What a client sends is an end-to-end field then.
#[test]
fn without_the_key_nothing_is_added_and_nothing_taken() {
    let a = Upstream::by_hand("a");
    let proxy = Proxy::over([&a]);
    let mut client = proxy.client();
    client.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nX-Request-Id: a b\r\n\r\n");
    let (mut hop, request) = a.accept_and_read_request();
    assert_eq!(of(&request), "a b");
    hop.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    client.expect_status(200);
    assert!(client.message().values("X-Request-Id").is_empty());
}
