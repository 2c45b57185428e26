//! Requests whose head is no head: the bytes between two lines, names, `Host`, the request line.

use super::Case;

type Row = (&'static str, &'static str, &'static str);

/// Request lines of an otherwise honest request.
const LINES: [Row; 41] = [
    (
        "two spaces before the target",
        "Apache CVE-2016-8743",
        "GET  http://o.test/ HTTP/1.1",
    ),
    (
        "two spaces behind the target",
        "",
        "GET http://o.test/  HTTP/1.1",
    ),
    (
        "tabs for spaces",
        "Apache CVE-2016-8743",
        "GET\thttp://o.test/\tHTTP/1.1",
    ),
    (
        "a space behind the version",
        "",
        "GET http://o.test/ HTTP/1.1 ",
    ),
    (
        "a space before the method",
        "",
        " GET http://o.test/ HTTP/1.1",
    ),
    (
        "a vertical tab behind the version",
        "Apache CVE-2016-8743",
        "GET http://o.test/ HTTP/1.1\u{b}",
    ),
    (
        "a space in the target",
        "nginx CVE-2013-4547, Tomcat CVE-2016-6816, Squid CVE-2020-25097, Apache CVE-2023-25690",
        "GET http://o.test/a b HTTP/1.1",
    ),
    (
        "a request line in the target",
        "Node.js CVE-2018-12116",
        "GET http://o.test/ HTTP/1.1 GET http://x/ HTTP/1.1",
    ),
    (
        "a method with a space",
        "HAProxy CVE-2021-39241, Apache CVE-2021-33193",
        "GET /x POST http://o.test/ HTTP/1.1",
    ),
    (
        "a HEAD in lower case",
        "Squid makes it a HEAD, whose response has no body",
        "head http://o.test/ HTTP/1.1",
    ),
    (
        "a TRACE in lower case",
        "Squid makes it a TRACE, and shows our credentials: CVE-2025-62168",
        "trace http://o.test/ HTTP/1.1",
    ),
    (
        "a CONNECT in mixed case",
        "Squid makes it a CONNECT",
        "Connect http://o.test/ HTTP/1.1",
    ),
    (
        "a method that is no token",
        "Tomcat CVE-2016-6816",
        "G\"T http://o.test/ HTTP/1.1",
    ),
    (
        "a method beyond ASCII",
        "",
        "G\u{c9}T http://o.test/ HTTP/1.1",
    ),
    (
        "NUL in the target",
        "Envoy CVE-2019-9900",
        "GET http://o.test/\0 HTTP/1.1",
    ),
    ("DEL in the target", "", "GET http://o.test/\u{7f} HTTP/1.1"),
    (
        "CR in the target",
        "Node.js CVE-2018-12116",
        "GET http://o.test/\rX: y HTTP/1.1",
    ),
    (
        "LF in the target",
        "Node.js CVE-2018-12116",
        "GET http://o.test/\nX: y HTTP/1.1",
    ),
    (
        "a fragment in the target",
        "HAProxy CVE-2023-45539, Traffic Server CVE-2021-27577",
        "GET http://o.test/#/../a HTTP/1.1",
    ),
    ("origin-form", "", "GET / HTTP/1.1"),
    ("a target with two slashes", "", "GET //o.test/ HTTP/1.1"),
    ("a target without slashes", "", "GET http:o.test/ HTTP/1.1"),
    ("a target without a host", "", "GET http:///a HTTP/1.1"),
    (
        "a scheme with another byte in it",
        "HAProxy CVE-2021-39240",
        "GET ht_tp://o.test/ HTTP/1.1",
    ),
    (
        "another scheme and two hosts",
        "",
        "GET ftp://o.test\\@evil.test/ HTTP/1.1",
    ),
    ("another scheme and no host", "", "GET https:///a HTTP/1.1"),
    ("ICY for a version", "", "GET http://o.test/ ICY"),
    (
        "a port beyond 65535",
        "tinyproxy CVE-2025-63938",
        "GET http://o.test:65616/ HTTP/1.1",
    ),
    ("a port with a sign", "", "GET http://o.test:+80/ HTTP/1.1"),
    ("two ports", "", "GET http://o.test:80:81/ HTTP/1.1"),
    (
        "a backslash in the host",
        "",
        "GET http://o.test\\@evil.test/ HTTP/1.1",
    ),
    (
        "percent-encoding in the host",
        "",
        "GET http://o%2etest/ HTTP/1.1",
    ),
    ("a lower-case version", "", "GET http://o.test/ http/1.1"),
    (
        "a version with two digits",
        "",
        "GET http://o.test/ HTTP/1.10",
    ),
    (
        "a version with a zero in front",
        "",
        "GET http://o.test/ HTTP/01.1",
    ),
    ("a version with a comma", "", "GET http://o.test/ HTTP/1,1"),
    (
        "a version that ends with a dot",
        "",
        "GET http://o.test/ HTTP/1.",
    ),
    (
        "another protocol's name",
        "",
        "GET http://o.test/ HTTPS/1.1",
    ),
    (
        "no version: HTTP/0.9",
        "Jetty CVE-2017-7656",
        "GET http://o.test/",
    ),
    ("a CONNECT without a port", "", "CONNECT o.test HTTP/1.1"),
    (
        "a CONNECT in absolute-form",
        "",
        "CONNECT http://o.test:443/ HTTP/1.1",
    ),
];

/// Fields behind an honest request line.
const FIELDS: [Row; 42] = [
    ("no Host", "", "X-A: b\r\n"),
    (
        "Host twice, the same",
        "Squid CVE-2016-4554",
        "Host: o.test\r\nHost: o.test\r\n",
    ),
    (
        "Host twice, different",
        "Squid CVE-2016-4554",
        "Host: o.test\r\nHost: evil.test\r\n",
    ),
    (
        "Host twice, one indented",
        "Squid CVE-2016-4554",
        "Host: o.test\r\n Host: evil.test\r\n",
    ),
    ("Host as a list", "", "Host: o.test, evil.test\r\n"),
    ("Host with a space", "", "Host: o.test evil.test\r\n"),
    ("Host with userinfo", "", "Host: o.test@evil.test\r\n"),
    (
        "Host with a path",
        "Go CVE-2023-29406",
        "Host: o.test/a\r\n",
    ),
    ("Host with a port that is none", "", "Host: o.test:8x\r\n"),
    (
        "Host in disguise",
        "",
        "Host: o.test\r\nHost : evil.test\r\n",
    ),
    (
        "a space before the colon",
        "Go CVE-2019-16276, Netty CVE-2019-16869, Squid CVE-2019-18678, Node.js CVE-2021-22959",
        "Host: o.test\r\nTransfer-Encoding : chunked\r\n",
    ),
    (
        "a tab before the colon",
        "Squid CVE-2020-15810",
        "Host: o.test\r\nTransfer-Encoding\t: chunked\r\n",
    ),
    (
        "CR before the colon",
        "Squid CVE-2020-15810",
        "Host: o.test\r\nTransfer-Encoding\r: chunked\r\n",
    ),
    (
        "a space within a name",
        "Go CVE-2015-5739, Squid CVE-2005-0174",
        "Host: o.test\r\nContent Length: 5\r\n",
    ),
    (
        "CR within a name",
        "Node.js CVE-2020-8201",
        "Host: o.test\r\nTransfer\rEncoding: chunked\r\n",
    ),
    (
        "NUL within a name",
        "Netty CVE-2021-43797",
        "Host: o.test\r\nTransfer-Encoding\0: chunked\r\n",
    ),
    (
        "a control character before a name",
        "Netty CVE-2021-43797",
        "Host: o.test\r\n\u{1f}Transfer-Encoding: chunked\r\n",
    ),
    (
        "a byte beyond ASCII in a name",
        "Traffic Server CVE-2023-38522",
        "Host: o.test\r\nTransfer-Encoding\u{a0}: chunked\r\n",
    ),
    (
        "a delimiter in a name",
        "Traffic Server CVE-2023-38522",
        "Host: o.test\r\nTransfer-Encoding(: chunked\r\n",
    ),
    (
        "quotes around a name",
        "",
        "Host: o.test\r\n\"Transfer-Encoding\": chunked\r\n",
    ),
    (
        "an empty name",
        "HAProxy CVE-2023-25725",
        "Host: o.test\r\n: x\r\nTransfer-Encoding: chunked\r\n",
    ),
    (
        "an empty name before Host",
        "HAProxy CVE-2023-25725",
        ":\r\nHost: o.test\r\n",
    ),
    (
        "no colon",
        "Netty CVE-2019-20444",
        "Host: o.test\r\nTransfer-Encoding\r\n",
    ),
    (
        "no colon but an equals sign",
        "Netty CVE-2019-20444",
        "Host: o.test\r\nTransfer-Encoding=chunked\r\n",
    ),
    (
        "a folded line",
        "Node.js CVE-2022-32215",
        "Host: o.test\r\nX-A: b\r\n Transfer-Encoding: chunked\r\n",
    ),
    (
        "a folded line with a tab",
        "",
        "Host: o.test\r\nX-A: b\r\n\tc\r\n",
    ),
    (
        "a folded Expect",
        "Akamai CVE-2025-32094",
        "Host: o.test\r\nExpect:\r\n 100-continue\r\nX-A: b\r\n",
    ),
    (
        "a first line that is indented",
        "Node.js CVE-2024-27982, Apache CVE-2016-8743",
        " Content-Length: 30\r\nHost: o.test\r\n",
    ),
    (
        "LF for CRLF",
        "Waitress CVE-2019-16785, Puma CVE-2021-41136, Traffic Server CVE-2021-37147",
        "Host: o.test\nX-A: b\n",
    ),
    (
        "LF within a value",
        "Node.js CVE-2022-35256, hyper CVE-2017-18587",
        "Host: o.test\r\nX-A: b\nTransfer-Encoding: chunked\r\n",
    ),
    ("LF before CRLF", "", "Host: o.test\r\nX-A: b\n\r\n"),
    (
        "CR for CRLF",
        "Varnish CVE-2015-8852, Node.js CVE-2023-30589",
        "Host: o.test\r\nX-A: b\rTransfer-Encoding: chunked\r\n",
    ),
    (
        "CR within a value",
        "Squid CVE-2005-0174, Node.js CVE-2022-32214",
        "Host: o.test\r\nX-A: b\rc\r\n",
    ),
    ("two CR", "", "Host: o.test\r\nX-A: b\r\r\n"),
    (
        "CR and another byte for the last line end",
        "Node.js CVE-2025-23167",
        "Host: o.test\r\n\rX",
    ),
    (
        "an empty line that is LF alone",
        "",
        "Host: o.test\r\n\nX-A: b\r\n",
    ),
    (
        "NUL in a value",
        "Envoy CVE-2019-9900",
        "Host: o.test\r\nX-A: b\0c\r\n",
    ),
    (
        "a vertical tab in a value",
        "HAProxy CVE-2019-18277",
        "Host: o.test\r\nTransfer-Encoding: \u{b}chunked\r\n",
    ),
    (
        "a form feed in a value",
        "",
        "Host: o.test\r\nTransfer-Encoding: \u{c}chunked\r\n",
    ),
    (
        "a backspace in a value",
        "",
        "Host: o.test\r\nX-A: b\u{8}\r\n",
    ),
    ("DEL in a value", "", "Host: o.test\r\nX-A: b\u{7f}\r\n"),
    (
        "a field that looks like a request",
        "",
        "Host: o.test\r\nGET http://smuggled.test/ HTTP/1.1\r\n",
    ),
];

/// Requests of which nothing is honest.
const WHOLE: [Row; 6] = [
    (
        "an empty line of LF alone before a request",
        "",
        "\nGET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
    ),
    (
        "a CR alone before a request",
        "",
        "\r\r\nGET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
    ),
    (
        "a request line of LF alone",
        "",
        "GET http://o.test/ HTTP/1.1\nHost: o.test\n\n",
    ),
    (
        "a space before the first field",
        "",
        "GET http://o.test/ HTTP/1.1\r\n X: y\r\nHost: o.test\r\n\r\n",
    ),
    (
        "HTTP/1.0 with Host twice",
        "",
        "GET http://o.test/ HTTP/1.0\r\nHost: o.test\r\nHost: evil.test\r\n\r\n",
    ),
    (
        "NUL before a request",
        "",
        "\0GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
    ),
];

/// Another version, and another protocol.
const VERSIONS: [Row; 3] = [
    (
        "HTTP/2.0 in a request line",
        "",
        "GET http://o.test/ HTTP/2.0\r\nHost: o.test\r\n\r\n",
    ),
    (
        "the preface of HTTP/2",
        "",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ),
    (
        "HTTP/0.9 by number",
        "",
        "GET http://o.test/ HTTP/0.9\r\n\r\n",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let lines = LINES.map(|(name, known, line)| {
        let request = format!("{line}\r\nHost: o.test\r\n\r\n");
        Case::refused(400, name, known, &request)
    });
    let fields = FIELDS.map(|(name, known, fields)| {
        let request = format!("GET http://o.test/ HTTP/1.1\r\n{fields}\r\n0\r\n\r\n");
        Case::refused(400, name, known, &request)
    });
    let whole = WHOLE.map(|(name, known, request)| Case::refused(400, name, known, request));
    let versions = VERSIONS.map(|(name, known, request)| Case::refused(505, name, known, request));
    let tables = [
        &mut lines.into_iter() as &mut dyn Iterator<Item = Case>,
        &mut fields.into_iter(),
    ];
    tables
        .into_iter()
        .flatten()
        .chain(whole)
        .chain(versions)
        .collect()
}
