//! Responses that nobody gets: 502, or a body that visibly breaks off.

use super::{Ask, Case, Outcome, Side, Then, bytes};

type Row = (&'static str, &'static str, &'static str);

/// Status lines, with an honest rest behind them.
const LINES: [Row; 22] = [
    (
        "another protocol in a status line",
        "Squid CVE-2009-2622",
        "ICE 200 OK",
    ),
    ("a status of two digits", "", "HTTP/1.1 20 OK"),
    ("a status of four digits", "", "HTTP/1.1 2000 OK"),
    ("a status with a zero in front", "", "HTTP/1.1 020 OK"),
    (
        "a status with a sign",
        "Squid CVE-2009-2622",
        "HTTP/1.1 +20 OK",
    ),
    (
        "a status that is none",
        "Squid CVE-2009-2622",
        "HTTP/1.1 OK",
    ),
    ("no status", "Squid CVE-2009-2622", "HTTP/1.1"),
    ("no space before the status", "", "HTTP/1.1200 OK"),
    ("no space behind the status", "", "HTTP/1.1 200OK"),
    ("two spaces before the status", "", "HTTP/1.1  200 OK"),
    ("a tab before the status", "", "HTTP/1.1\t200 OK"),
    ("a space before the status line", "", " HTTP/1.1 200 OK"),
    (
        "an empty line before the status line",
        "",
        "\r\nHTTP/1.1 200 OK",
    ),
    (
        "a version of a response in lower case",
        "",
        "http/1.1 200 OK",
    ),
    ("HTTP/2.0 in a status line", "", "HTTP/2.0 200 OK"),
    ("HTTP/0.9 in a status line", "", "HTTP/0.9 200 OK"),
    ("a response version of two digits", "", "HTTP/1.10 200 OK"),
    (
        "CR in the reason",
        "Node.js CVE-2016-5325",
        "HTTP/1.1 200 OK\rSet-Cookie: EVIL",
    ),
    (
        "LF in the reason",
        "Node.js CVE-2016-5325",
        "HTTP/1.1 200 OK\nSet-Cookie: EVIL",
    ),
    (
        "NUL in the reason",
        "Varnish CVE-2022-38150",
        "HTTP/1.1 200 O\0K",
    ),
    (
        "HTML for a response",
        "Jetty CVE-2017-7656",
        "<html>EVIL</html>",
    ),
    (
        "a request for a response",
        "",
        "GET http://o.test/ HTTP/1.1",
    ),
];

/// Fields of a 200, with a second response behind the head.
const FIELDS: [Row; 44] = [
    (
        "both framings in a response",
        "Traffic Server CVE-2018-8004",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ),
    (
        "both framings in a response, the other way round",
        "",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    ),
    (
        "two lengths in a response",
        "Squid CVE-2005-0174, Varnish CVE-2015-8852",
        "Content-Length: 0\r\nContent-Length: 44\r\n",
    ),
    (
        "two lengths in one line of a response",
        "",
        "Content-Length: 0, 44\r\n",
    ),
    (
        "an empty length in a response",
        "HAProxy CVE-2023-40225",
        "Content-Length:\r\n",
    ),
    (
        "a length with a plus sign in a response",
        "hyper CVE-2021-32715",
        "Content-Length: +0\r\n",
    ),
    (
        "a length with a minus sign in a response",
        "",
        "Content-Length: -1\r\n",
    ),
    (
        "a hexadecimal length in a response",
        "",
        "Content-Length: 0x0\r\n",
    ),
    (
        "two words of digits in a response",
        "Node.js CVE-2016-2086",
        "Content-Length: 0 0\r\n",
    ),
    (
        "a length beyond 64 bits in a response",
        "Tomcat CVE-2014-0099",
        "Content-Length: 18446744073709551616\r\n",
    ),
    (
        "an underscore in the length of a response",
        "",
        "Content_Length: 0\r\n",
    ),
    (
        "xchunked in a response",
        "Squid CVE-2020-15811",
        "Transfer-Encoding: xchunked\r\n",
    ),
    (
        "identity in a response",
        "",
        "Transfer-Encoding: identity\r\n",
    ),
    (
        "gzip, chunked in a response",
        "",
        "Transfer-Encoding: gzip, chunked\r\n",
    ),
    (
        "chunked, identity in a response",
        "Node.js CVE-2022-32213",
        "Transfer-Encoding: chunked, identity\r\n",
    ),
    (
        "chunked twice in a response",
        "Node.js CVE-2020-8287",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ),
    (
        "an empty coding in a response",
        "",
        "Transfer-Encoding:\r\n",
    ),
    (
        "chunked with a parameter in a response",
        "",
        "Transfer-Encoding: chunked;a=b\r\n",
    ),
    (
        "a vertical tab before chunked in a response",
        "HAProxy CVE-2019-18277",
        "Transfer-Encoding: \u{b}chunked\r\n",
    ),
    (
        "a blank and no colon in a response",
        "",
        "Content-Length \r\n",
    ),
    (
        "a form feed before a colon in a response",
        "",
        "Content-Length\u{c}: 0\r\n",
    ),
    (
        "a length and another behind a blank in a response",
        "Go CVE-2019-16276",
        "Content-Length: 0\r\nContent-Length : 1\r\n",
    ),
    (
        "a length, and chunked behind a blank in a response",
        "Go CVE-2019-16276",
        "Content-Length: 0\r\nTransfer-Encoding : chunked\r\n",
    ),
    (
        "DEL in a length of a response",
        "",
        "Content-Length: 0\u{7f}\r\n",
    ),
    (
        "a space within a name of a response",
        "",
        "Content Length: 0\r\n",
    ),
    (
        "an empty name in a response",
        "HAProxy CVE-2023-25725",
        ": x\r\n",
    ),
    (
        "no colon in a response",
        "Netty CVE-2019-20444",
        "Content-Length\r\n",
    ),
    (
        "a folded line in a response",
        "Node.js CVE-2022-32215",
        "X-A: b\r\n Content-Length: 0\r\n",
    ),
    (
        "a first line of a response that is indented",
        "Apache CVE-2016-8743",
        " Content-Length: 0\r\n",
    ),
    (
        "a byte beyond ASCII in a name of a response",
        "",
        "Content-Length\u{a0}: 0\r\n",
    ),
    (
        "LF for CRLF in a response",
        "",
        "Content-Length: 0\nX-A: b\n",
    ),
    (
        "LF within a value of a response",
        "Apache CVE-2023-38709, Apache CVE-2024-24795, Apache CVE-2024-42516",
        "Location: /\nSet-Cookie: EVIL\r\n",
    ),
    (
        "CR within a value of a response",
        "Apache CVE-2023-38709, Squid CVE-2005-0175",
        "Location: /\rSet-Cookie: EVIL\r\n",
    ),
    ("two CR in a response", "", "X-A: b\r\r\n"),
    (
        "CR and another byte for the last line end of a response",
        "Node.js CVE-2025-23167",
        "X-A: b\r\n\rX",
    ),
    (
        "NUL in a value of a response",
        "Apache CVE-2022-37436, Apache CVE-2023-27522",
        "X-A: b\0\r\n",
    ),
    (
        "a control character in a name of a response",
        "Apache CVE-2022-37436, Apache CVE-2023-27522",
        "X\u{1}A: b\r\n",
    ),
    ("a status line among the fields", "", "HTTP/1.1 200 OK\r\n"),
    (
        "a length in letters of a response",
        "",
        "Content-Length: zero\r\n",
    ),
    (
        "a length in quotes of a response",
        "",
        "Content-Length: \"0\"\r\n",
    ),
    (
        "a length and a comma in a response",
        "",
        "Content-Length: 0,\r\n",
    ),
    (
        "a length with a fraction in a response",
        "",
        "Content-Length: 0.0\r\n",
    ),
    (
        "a name in quotes in a response",
        "",
        "\"Content-Length\": 0\r\n",
    ),
    (
        "another underscore in a response",
        "",
        "Transfer_Encoding: chunked\r\n",
    ),
];

/// Whole answers to a GET, behind which the upstream waits.
const WHOLE: [Row; 12] = [
    (
        "ICY with chunks",
        "",
        "ICY 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n",
    ),
    (
        "chunked in an HTTP/1.0 response",
        "Tomcat CVE-2021-33037",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n",
    ),
    (
        "101 that nobody asked for",
        "Apache CVE-2019-17567",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nEVIL",
    ),
    (
        "101 that names no protocol",
        "Apache CVE-2019-17567",
        "HTTP/1.1 101 Switching Protocols\r\n\r\nEVIL",
    ),
    (
        "a body behind 100",
        "Go CVE-2024-24791",
        "HTTP/1.1 100 Continue\r\nContent-Length: 4\r\n\r\nEVILHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "chunks behind 103",
        "",
        "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "304 with both framings",
        "",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nEVIL",
    ),
    (
        "304 with two lengths",
        "",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nEVIL",
    ),
    (
        "a head of LF alone",
        "",
        "HTTP/1.1 200 OK\nContent-Length: 4\n\nEVIL",
    ),
    (
        "a malformed head behind 100",
        "",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-A: \0\r\nContent-Length: 4\r\n\r\nEVIL",
    ),
    (
        "both framings behind 100",
        "",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nEVIL",
    ),
    (
        "a 407 of the upstream",
        "",
        "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"EVIL\"\r\nContent-Length: 4\r\n\r\nEVIL",
    ),
];

/// Heads that end too early: the upstream closes behind them.
const ENDED: [Row; 4] = [
    ("half a status line", "", "HTTP/1."),
    ("a status line alone", "", "HTTP/1.1 200 OK\r\n"),
    (
        "a head without its last line",
        "Apache CVE-2022-37436",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n",
    ),
    (
        "a head that ends in CR",
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r",
    ),
];

/// Chunks of a 200. The head may be on its way to the client already.
const CHUNKS: [Row; 28] = [
    (
        "a chunk size of a response with 0x",
        "Squid CVE-2023-46846",
        "0x2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "a chunk size of a response with a plus sign",
        "",
        "+2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "a chunk size of a response with a minus sign",
        "nginx CVE-2013-2070",
        "-2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "a space before a chunk size of a response",
        "",
        " 2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "a space behind a chunk size of a response",
        "",
        "2 \r\nhi\r\n0\r\n\r\n",
    ),
    ("no chunk size in a response", "", "\r\nhi\r\n0\r\n\r\n"),
    (
        "an underscore in a chunk size of a response",
        "",
        "0_2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "a chunk size of 17 digits in a response",
        "hyper CVE-2021-32714",
        "10000000000000002\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "a chunk size of 2^64 - 1 in a response",
        "nginx CVE-2013-2070",
        "ffffffffffffffff\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "a chunk size of a response and LF alone",
        "Go CVE-2025-22871",
        "2\nhi\r\n0\r\n\r\n",
    ),
    (
        "a chunk size of a response and CR alone",
        "",
        "2\rhi\r\n0\r\n\r\n",
    ),
    (
        "LF in an extension of a response",
        "Netty CVE-2025-58056",
        "2;\nxx\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "CR in an extension of a response",
        "",
        "2;\rxx\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "an extension of a response with CRLF in quotes",
        "Jetty CVE-2026-2332",
        "2;a=\"\r\n0\r\n\r\n\"\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "no CRLF behind data of a response",
        "h11 CVE-2025-43859",
        "2\r\nhi0\r\n\r\n",
    ),
    (
        "two other bytes behind data of a response",
        "Varnish CVE-2025-47905",
        "2\r\nhiXX0\r\n\r\n",
    ),
    (
        "LF alone behind data of a response",
        "",
        "2\r\nhi\n0\r\n\r\n",
    ),
    (
        "CR alone behind data of a response",
        "",
        "2\r\nhi\r0\r\n\r\n",
    ),
    (
        "data of a response longer than its size",
        "Traffic Server CVE-2024-53868",
        "2\r\nhiho\r\n0\r\n\r\n",
    ),
    (
        "data of a response shorter than its size",
        "",
        "2\r\nh\r\n0\r\n\r\n",
    ),
    (
        "LF alone behind the last chunk of a response",
        "",
        "2\r\nhi\r\n0\n\r\n",
    ),
    (
        "LF alone as the last line of a response",
        "",
        "2\r\nhi\r\n0\r\n\n",
    ),
    (
        "CR alone as the last line of a response",
        "",
        "2\r\nhi\r\n0\r\n\rX",
    ),
    (
        "a trailer of a response without a colon",
        "Traffic Server CVE-2024-35161",
        "2\r\nhi\r\n0\r\nX\r\n\r\n",
    ),
    (
        "NUL in a trailer of a response",
        "",
        "2\r\nhi\r\n0\r\nX: \0\r\n\r\n",
    ),
    (
        "a folded trailer of a response",
        "",
        "2\r\nhi\r\n0\r\nX: y\r\n z\r\n\r\n",
    ),
    (
        "a trailer of a response with LF",
        "",
        "2\r\nhi\r\n0\r\nX: y\nZ: a\r\n\r\n",
    ),
    (
        "a status line for a trailer section",
        "",
        "2\r\nhi\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n",
    ),
];

/// Bodies that end too early: the upstream closes behind them.
const TRUNCATED: [Row; 6] = [
    (
        "a body shorter than its length",
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
    ),
    (
        "a body that ends before it begins",
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
    ),
    (
        "chunks that end within data",
        "",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhi",
    ),
    (
        "chunks that end behind a chunk",
        "",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
    ),
    (
        "chunks that end within the last chunk",
        "",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n",
    ),
    (
        "chunks that end within the trailers",
        "",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n",
    ),
];

/// A second response, for whoever reads the first one to another end.
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";

fn case(
    (name, known, sent): (&'static str, &'static str, &str),
    then: Then,
    outcome: Outcome,
) -> Case {
    Case {
        name,
        known,
        sent: bytes(sent),
        side: Side::Upstream(Ask::Get, then, outcome),
    }
}

pub(super) fn cases() -> Vec<Case> {
    let lines = LINES.iter().map(|&(name, known, line)| {
        let sent = format!("{line}\r\nContent-Length: 4\r\n\r\nEVIL");
        case((name, known, &sent), Then::Waits, Outcome::BadGateway)
    });
    let fields = FIELDS.iter().map(|&(name, known, fields)| {
        let sent = format!("HTTP/1.1 200 OK\r\n{fields}\r\n{EVIL}");
        case((name, known, &sent), Then::Waits, Outcome::BadGateway)
    });
    let whole = WHOLE.map(|row| case(row, Then::Waits, Outcome::BadGateway));
    let ended = ENDED.map(|row| case(row, Then::Closes, Outcome::BadGateway));
    let chunks = CHUNKS.iter().map(|&(name, known, chunks)| {
        let sent = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{EVIL}");
        case((name, known, &sent), Then::Waits, Outcome::BreaksOff)
    });
    let truncated = TRUNCATED.map(|row| case(row, Then::Closes, Outcome::BreaksOff));
    let flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(33) + EVIL;
    let flood = ("a flood of interim responses", "", flood.as_str());
    let flood = Case {
        name: flood.0,
        known: flood.1,
        sent: bytes(flood.2),
        side: Side::Upstream(Ask::Http10, Then::Waits, Outcome::BadGateway),
    };
    let heads = lines.chain(fields).chain(whole).chain(ended);
    heads
        .chain(chunks)
        .chain(truncated)
        .chain([flood])
        .collect()
}
