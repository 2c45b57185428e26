//! Where a request leads: the request target and what becomes of it at the next hop
//! (RFC 9112 §3.2).

use super::harness::{
    Hop, Message, Origin, Proxy, Talk, TemporaryFile, Upstream, expect_refused, forwarded,
    forwarded_direct, wait_until,
};

#[test]
fn an_upstream_gets_absolute_form() {
    forwarded("GET http://o.test/a/b?c=d HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .expect_line("GET http://o.test/a/b?c=d HTTP/1.1")
        .expect_field("Host", "o.test");
}

#[test]
fn an_origin_gets_origin_form() {
    let origin = Origin::echo_ok("origin");
    let proxy = Proxy::direct();
    let authority = origin.authority();
    proxy
        .client()
        .get(&format!("http://{authority}/a/b?c=d"))
        .expect_status(200);
    origin.requests()[0]
        .expect_line("GET /a/b?c=d HTTP/1.1")
        .expect_field("Host", &authority);
}

/// D12b.
#[test]
fn the_scheme_is_read_in_any_case() {
    forwarded("GET HTTP://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .expect_line("GET http://o.test/ HTTP/1.1");
    forwarded_direct("GET HtTp://{origin}/x HTTP/1.1\r\nHost: {origin}\r\n\r\n")
        .expect_line("GET /x HTTP/1.1");
}

#[test]
fn the_host_is_read_in_any_case() {
    forwarded("GET http://O.Test/Path HTTP/1.1\r\nHost: O.TEST\r\n\r\n")
        .expect_line("GET http://o.test/Path HTTP/1.1")
        .expect_field("Host", "o.test");
}

/// D12b: the field would otherwise choose another site than the one the rules were asked about.
#[test]
fn host_is_replaced_by_the_authority_of_the_target() {
    forwarded("GET http://o.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n")
        .expect_field("Host", "o.test");
    let request = "GET http://{origin}/ HTTP/1.1\r\nHost: other.test\r\n\r\n";
    let host = forwarded_direct(request).values("Host").concat();
    assert!(host.starts_with("127.0.0.1:"), "Host: {host}");
}

/// The rules and the route must see the same value.
#[test]
fn the_rules_are_asked_about_the_target_and_not_about_host() {
    let upstream = Upstream::echo_ok("a");
    let origin = Origin::echo_ok("origin");
    let rules = "domain_policy: {mode: blacklist, domains: [127.0.0.1]}";
    let proxy = Proxy::with_yaml(rules, [&upstream]);
    let authority = origin.authority();
    proxy
        .client()
        .send(format!(
            "GET http://o.test/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"
        ))
        .expect_status(200)
        .expect_body("a");
    proxy
        .client()
        .send(format!(
            "GET http://{authority}/ HTTP/1.1\r\nHost: o.test\r\n\r\n"
        ))
        .expect_status(200)
        .expect_body("origin");
}

#[test]
fn an_empty_host_is_replaced_as_well() {
    forwarded("GET http://o.test/ HTTP/1.1\r\nHost:\r\n\r\n").expect_field("Host", "o.test");
}

#[test]
fn the_default_port_is_left_out_of_host_and_any_other_stays() {
    forwarded("GET http://o.test:80/ HTTP/1.1\r\nHost: o.test:80\r\n\r\n")
        .expect_field("Host", "o.test");
    forwarded("GET http://o.test:8080/ HTTP/1.1\r\nHost: o.test:8080\r\n\r\n")
        .expect_line("GET http://o.test:8080/ HTTP/1.1")
        .expect_field("Host", "o.test:8080");
}

#[test]
fn an_empty_port_is_the_default_one() {
    forwarded("GET http://o.test:/ HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .expect_line("GET http://o.test/ HTTP/1.1")
        .expect_field("Host", "o.test");
}

#[test]
fn an_empty_path_becomes_a_slash() {
    forwarded("GET http://o.test HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .expect_line("GET http://o.test/ HTTP/1.1");
    forwarded_direct("GET http://{origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n")
        .expect_line("GET / HTTP/1.1");
}

/// D12b.
#[test]
fn a_query_without_a_path_gets_one() {
    forwarded("GET http://o.test:81?x=1 HTTP/1.1\r\nHost: o.test:81\r\n\r\n")
        .expect_line("GET http://o.test:81/?x=1 HTTP/1.1");
    forwarded_direct("GET http://{origin}?x=1 HTTP/1.1\r\nHost: {origin}\r\n\r\n")
        .expect_line("GET /?x=1 HTTP/1.1");
}

#[test]
fn path_and_query_pass_byte_for_byte() {
    let path = "/%7e/%2F/../a//b/./?q=http://x/?&;=%00";
    forwarded(format!(
        "GET http://o.test{path} HTTP/1.1\r\nHost: o.test\r\n\r\n"
    ))
    .expect_line(&format!("GET http://o.test{path} HTTP/1.1"));
    forwarded(b"GET http://o.test/caf\xe9 HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .expect_line("GET http://o.test/caf\u{e9} HTTP/1.1");
}

#[test]
fn a_method_is_passed_on_even_if_nobody_knows_it() {
    for method in ["PURGE", "get", "M-SEARCH", "X!"] {
        forwarded(format!(
            "{method} http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n"
        ))
        .expect_line(&format!("{method} http://o.test/ HTTP/1.1"));
    }
}

/// D12.
#[test]
fn an_ipv6_literal_keeps_its_brackets() {
    forwarded("GET http://[2001:DB8::1]:8080/ HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n")
        .expect_line("GET http://[2001:db8::1]:8080/ HTTP/1.1")
        .expect_field("Host", "[2001:db8::1]:8080");
    forwarded("GET http://[::1]/ HTTP/1.1\r\nHost: [::1]\r\n\r\n").expect_field("Host", "[::1]");
}

/// D12.
#[test]
fn an_origin_on_ipv6_is_reached() {
    let Some(origin) = Origin::on_ipv6("origin") else {
        return;
    };
    let proxy = Proxy::direct();
    let authority = origin.authority();
    proxy
        .client()
        .get(&format!("http://{authority}/"))
        .expect_status(200)
        .expect_body("origin");
    origin.requests()[0].expect_field("Host", &authority);
}

#[test]
fn an_origin_is_reached_by_name() {
    let origin = Origin::echo_ok("origin");
    let proxy = Proxy::direct();
    let authority = format!("localhost:{}", origin.address().port());
    proxy
        .client()
        .get(&format!("http://{authority}/"))
        .expect_status(200)
        .expect_body("origin");
    origin.requests()[0].expect_field("Host", &authority);
}

/// D16.
#[test]
fn origin_form_is_told_that_this_is_a_proxy() {
    let upstream = Upstream::echo_ok("a");
    let proxy = Proxy::over([&upstream]);
    proxy
        .client()
        .send("GET / HTTP/1.1\r\nHost: o.test\r\n\r\n")
        .expect_refusal(400)
        .expect_body_with("proxy");
    upstream.expect_untouched();
}

/// D16: on the direct route, too.
#[test]
fn origin_form_is_not_sent_to_the_host_it_names() {
    let origin = Origin::echo_ok("origin");
    let proxy = Proxy::direct();
    let authority = origin.authority();
    proxy
        .client()
        .send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n"))
        .expect_refusal(400);
    origin.expect_untouched();
}

#[test]
fn the_asterisk_and_the_authority_alone_are_refused() {
    expect_refused(
        400,
        [
            "GET * HTTP/1.1\r\nHost: o.test\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: o.test\r\n\r\n",
            "GET o.test:80 HTTP/1.1\r\nHost: o.test\r\n\r\n",
            "GET //o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
        ],
    );
}

/// The parent may serve them.
#[test]
fn a_target_of_another_scheme_goes_to_an_upstream_as_it_came() {
    for (target, host) in [
        ("https://o.test/a?b", "o.test"),
        ("https://o.test:443/", "o.test"),
        ("HTTPS://O.test:8443", "o.test:8443"),
        ("ftp://o.test/pub/;type=d", "o.test"),
        ("ftp://bob:secret@o.test:21/", "o.test"),
        ("ws://o.test/", "o.test"),
    ] {
        forwarded(format!("GET {target} HTTP/1.1\r\nHost: other.test\r\n\r\n"))
            .expect_line(&format!("GET {target} HTTP/1.1"))
            .expect_field("Host", host);
    }
}

/// D12b: it was sent to port 80 in clear text.
#[test]
fn a_target_of_another_scheme_is_refused_on_the_direct_way_and_told_to_use_connect() {
    let origin = Origin::echo_ok("origin");
    let proxy = Proxy::direct();
    let mut client = proxy.client();
    let authority = origin.authority();
    for scheme in ["https", "ftp", "ws"] {
        let request = format!("GET {scheme}://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        client
            .send(request)
            .expect_refusal(400)
            .expect_body_with("CONNECT");
    }
    assert!(origin.requests().is_empty());
    client
        .get(&format!("http://{authority}/"))
        .expect_status(200);
}

#[test]
fn the_rules_hold_for_every_scheme() {
    let upstream = Upstream::echo_ok("a");
    let yaml = "domain_policy: {mode: blacklist, domains: [direct.test]}";
    let proxy = Proxy::with_yaml(yaml, [&upstream]);
    let get = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: o.test\r\n{fields}\r\n")
    };
    // A client that is behind another proxy is not on this host.
    let via = "Via: 1.1 other\r\n";
    let mut client = proxy.client();
    client
        .send(get("https://localhost/", via))
        .expect_refusal(403);
    client
        .send(get("ftp://127.0.0.1/", via))
        .expect_refusal(403);
    client
        .send(get("https://www.direct.test/", ""))
        .expect_refusal(400);
    upstream.expect_untouched();
    client.send(get("https://o.test/", "")).expect_status(200);
}

#[test]
fn a_request_of_another_scheme_is_repeated_if_its_method_may_be() {
    for (method, status, times) in [("GET", 200, 1), ("POST", 502, 0)] {
        let a = Upstream::answering("a", |hop: &mut Hop, _: &Message| hop.close_then());
        let b = Upstream::echo_ok("b");
        let members = [a.with("priority: 1"), b.with("priority: 2")];
        let proxy = Proxy::with_yaml("mode: priority", members);
        let line = format!("{method} https://o.test/ HTTP/1.1");
        proxy
            .client()
            .send(format!(
                "{line}\r\nHost: o.test\r\nContent-Length: 0\r\n\r\n"
            ))
            .expect_status(status);
        assert_eq!(b.requests().len(), times, "{method}");
    }
}

#[test]
fn a_target_without_scheme_or_slashes_is_refused() {
    check_refused(&[
        "http:/o.test/",
        "http:o.test/",
        "https:o.test/",
        "://o.test/",
    ]);
}

/// D12: bad ports became another port silently.
#[test]
fn a_port_that_is_none_is_refused() {
    check_refused(&[
        "http://o.test:0/",
        "http://o.test:65536/",
        "http://o.test:99999/",
        "http://o.test:+80/",
        "http://o.test:-1/",
        "http://o.test:p/",
        "http://o.test:8 0/",
        "http://o.test:80:80/",
    ]);
}

#[test]
fn a_host_that_is_none_is_refused() {
    check_refused(&[
        "http:///",
        "http://:80/",
        "http://?x",
        "http://a..b/",
        "http://.o.test/",
        "http://o%2etest/",
        "http://o_test,x/",
        "http://o.test\\@evil.test/",
        "http://[::1/",
        "http://::1/",
        "http://[::1]x/",
        "http://[fe80::1%25eth0]/",
        "http://[v1.x]/",
        "http://[127.0.0.1]/",
    ]);
}

#[test]
fn a_fragment_is_refused() {
    check_refused(&["http://o.test/#top", "http://o.test#", "http://o.test?#x"]);
}

/// D23: the user's password went to the origin, through the upstream.
#[test]
fn userinfo_is_never_forwarded() {
    let request = forwarded("GET http://bob:hunter2@o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n");
    request
        .expect_line("GET http://o.test/ HTTP/1.1")
        .expect_field("Host", "o.test");
    request
        .expect_no_field("Authorization")
        .expect_no_field("Proxy-Authorization");
}

/// A host that looks like one may hide behind the userinfo.
#[test]
fn the_host_is_what_stands_behind_the_userinfo() {
    forwarded("GET http://trusted.test@evil.test/ HTTP/1.1\r\nHost: trusted.test\r\n\r\n")
        .expect_line("GET http://evil.test/ HTTP/1.1")
        .expect_field("Host", "evil.test");
}

/// D23.
#[test]
fn userinfo_is_not_in_the_access_log() {
    let log = TemporaryFile::new("access.log");
    let upstream = Upstream::echo_ok("a");
    let extra = format!("access_log: {{format: text, file: '{}'}}", log.path());
    let proxy = Proxy::with_yaml(&extra, [&upstream]);
    proxy
        .client()
        .get("http://bob:hunter2@o.test/logged")
        .expect_status(200);
    wait_until(|| log.text().contains("/logged"));
    assert!(!log.text().contains("hunter2"), "{}", log.text());
}

/// Each of these targets of a GET is answered with 400 and not forwarded.
#[track_caller]
fn check_refused(targets: &[&str]) {
    let request = |target| format!("GET {target} HTTP/1.1\r\nHost: o.test\r\n\r\n");
    expect_refused(400, targets.iter().map(request));
}
