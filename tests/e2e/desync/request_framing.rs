//! Requests whose fields leave open where the body ends.

use super::Case;

type Row = (u16, &'static str, &'static str, &'static str);

/// Fields of a POST whose body is an end of chunks in one reading, and nothing in another.
const FIELDS: [Row; 69] = [
    (
        400,
        "Content-Length and Transfer-Encoding",
        "Apache CVE-2005-2088, Jetty CVE-2017-7658, Node.js CVE-2019-15605, tinyproxy CVE-2026-54387, Traffic Server CVE-2018-8004",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
    ),
    (
        400,
        "Transfer-Encoding and Content-Length",
        "Apache CVE-2005-2088, Netty CVE-2019-20445, Traffic Server CVE-2020-1944, Twisted CVE-2020-10109",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ),
    (
        400,
        "Content-Length 0 and Transfer-Encoding",
        "",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
    ),
    (
        400,
        "both in other cases",
        "",
        "content-length: 5\r\ntransfer-encoding: CHUNKED",
    ),
    (
        400,
        "Transfer-Encoding, another field and Content-Length",
        "",
        "Transfer-Encoding: chunked\r\nX-A: b\r\nContent-Length: 5",
    ),
    (
        400,
        "Content-Length and a coding nobody knows",
        "HAProxy CVE-2019-18277, Go CVE-2022-1705",
        "Content-Length: 5\r\nTransfer-Encoding: cow",
    ),
    (
        400,
        "Content-Length and identity",
        "Tomcat CVE-2021-33037",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
    ),
    (
        400,
        "Content-Length and an empty Transfer-Encoding",
        "",
        "Content-Length: 5\r\nTransfer-Encoding:",
    ),
    (
        400,
        "Content-Length that Connection names, and Transfer-Encoding",
        "",
        "Connection: Content-Length\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
    ),
    (
        400,
        "Content-Length and Transfer-Encoding that Connection names",
        "",
        "Connection: Transfer-Encoding\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
    ),
    (
        501,
        "xchunked",
        "Squid CVE-2020-15811",
        "Transfer-Encoding: xchunked",
    ),
    (501, "chunkedx", "", "Transfer-Encoding: chunkedx"),
    (501, "chunk", "", "Transfer-Encoding: chunk"),
    (
        501,
        "identity",
        "Tomcat CVE-2021-33037, Waitress CVE-2019-16786",
        "Transfer-Encoding: identity",
    ),
    (501, "gzip", "", "Transfer-Encoding: gzip"),
    (501, "gzip, chunked", "", "Transfer-Encoding: gzip, chunked"),
    (
        501,
        "identity, chunked",
        "Tomcat CVE-2020-1935",
        "Transfer-Encoding: identity, chunked",
    ),
    (
        501,
        "two codings in two lines",
        "hyper CVE-2021-21299, Node.js CVE-2020-8287",
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    ),
    (
        400,
        "chunked, then another coding in another line",
        "hyper CVE-2021-21299, Node.js CVE-2020-8287",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    ),
    (
        501,
        "chunked within another word",
        "Squid CVE-2020-15811",
        "Transfer-Encoding: a chunked b",
    ),
    (
        400,
        "chunked, identity",
        "Node.js CVE-2022-32213, Gunicorn CVE-2024-1135",
        "Transfer-Encoding: chunked, identity",
    ),
    (400, "chunked, gzip", "", "Transfer-Encoding: chunked, gzip"),
    (
        400,
        "chunked twice in one line",
        "Waitress CVE-2019-16786",
        "Transfer-Encoding: chunked, chunked",
    ),
    (
        400,
        "chunked twice in two lines",
        "Node.js CVE-2020-8287, Pound CVE-2016-10711",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    (
        400,
        "a comma before chunked",
        "",
        "Transfer-Encoding: ,chunked",
    ),
    (
        400,
        "a comma behind chunked",
        "",
        "Transfer-Encoding: chunked,",
    ),
    (
        400,
        "a semicolon behind chunked",
        "",
        "Transfer-Encoding: chunked;",
    ),
    (
        400,
        "a parameter of chunked",
        "",
        "Transfer-Encoding: chunked;q=1",
    ),
    (
        400,
        "chunked in quotes",
        "",
        "Transfer-Encoding: \"chunked\"",
    ),
    (
        400,
        "chunked in half a quote",
        "",
        "Transfer-Encoding: 'chunked'\"",
    ),
    (400, "an empty Transfer-Encoding", "", "Transfer-Encoding:"),
    (
        400,
        "a comma alone as Transfer-Encoding",
        "",
        "Transfer-Encoding: ,",
    ),
    (
        400,
        "a vertical tab before chunked",
        "HAProxy CVE-2019-18277, Waitress CVE-2019-16789",
        "Transfer-Encoding: \u{b}chunked",
    ),
    (
        400,
        "a vertical tab behind chunked",
        "",
        "Transfer-Encoding: chunked\u{b}",
    ),
    (
        400,
        "a byte beyond ASCII behind chunked",
        "",
        "Transfer-Encoding: chunked\u{a0}",
    ),
    (
        400,
        "a byte order mark before chunked",
        "",
        "Transfer-Encoding: \u{ef}\u{bb}\u{bf}chunked",
    ),
    (
        400,
        "NUL before chunked",
        "",
        "Transfer-Encoding: \0chunked",
    ),
    (
        400,
        "a folded chunked",
        "Node.js CVE-2022-32215",
        "Transfer-Encoding:\r\n chunked",
    ),
    (
        400,
        "a folded coding behind chunked",
        "Node.js CVE-2022-32215",
        "Transfer-Encoding: chunked\r\n , identity",
    ),
    (400, "LF before chunked", "", "Transfer-Encoding:\n chunked"),
    (
        400,
        "an underscore in Transfer-Encoding",
        "",
        "Transfer_Encoding: chunked",
    ),
    (
        400,
        "an underscore in Content-Length",
        "",
        "Content_Length: 5",
    ),
    (
        400,
        "two lengths",
        "Squid CVE-2005-0174, Tomcat CVE-2005-2090, Go CVE-2015-5740, Twisted CVE-2020-10108, Traffic Server CVE-2021-32565",
        "Content-Length: 5\r\nContent-Length: 0",
    ),
    (
        400,
        "two lengths, the first 0",
        "Varnish CVE-2015-8852, Pound CVE-2016-10711",
        "Content-Length: 0\r\nContent-Length: 5",
    ),
    (
        400,
        "two lengths in one line",
        "Jetty CVE-2017-7658",
        "Content-Length: 5, 0",
    ),
    (
        400,
        "a length, and a list with another one",
        "",
        "Content-Length: 5\r\nContent-Length: 5, 0",
    ),
    (400, "a comma alone as a length", "", "Content-Length: ,"),
    (400, "a length that is a word", "", "Content-Length: five"),
    (
        400,
        "a space before the colon of a length",
        "",
        "Content-Length : 5",
    ),
    (
        400,
        "a length with an empty member",
        "",
        "Content-Length: 5,",
    ),
    (
        400,
        "a length and an empty one",
        "HAProxy CVE-2023-40225",
        "Content-Length: 5\r\nContent-Length:",
    ),
    (
        400,
        "an empty length",
        "HAProxy CVE-2023-40225",
        "Content-Length:",
    ),
    (
        400,
        "a length with a plus sign",
        "hyper CVE-2021-32715, Jetty CVE-2023-40167, Squid CVE-2020-15049, Twisted CVE-2022-24801",
        "Content-Length: +5",
    ),
    (
        400,
        "a length with a minus sign",
        "Squid CVE-2020-15049",
        "Content-Length: -5",
    ),
    (400, "minus zero", "", "Content-Length: -0"),
    (400, "a hexadecimal length", "", "Content-Length: 0x5"),
    (
        400,
        "two words of digits",
        "Node.js CVE-2016-2086",
        "Content-Length: 5 5",
    ),
    (
        400,
        "a length and a letter",
        "Tomcat CVE-2022-42252",
        "Content-Length: 5a",
    ),
    (400, "a length with a fraction", "", "Content-Length: 5.0"),
    (400, "a length with an exponent", "", "Content-Length: 5e0"),
    (
        400,
        "a length with an underscore",
        "aiohttp CVE-2023-47627",
        "Content-Length: 0_5",
    ),
    (400, "a length in quotes", "", "Content-Length: \"5\""),
    (
        400,
        "a length with a parameter",
        "",
        "Content-Length: 5;a=b",
    ),
    (
        400,
        "a length of other digits",
        "",
        "Content-Length: \u{ef}\u{bc}\u{95}",
    ),
    (
        400,
        "a length with a vertical tab",
        "Squid CVE-2020-15049",
        "Content-Length: \u{b}5",
    ),
    (
        400,
        "a length of 2^63",
        "",
        "Content-Length: 9223372036854775808",
    ),
    (
        400,
        "a length of 2^64 + 5",
        "Tomcat CVE-2014-0099",
        "Content-Length: 18446744073709551621",
    ),
    (
        400,
        "a length of 40 digits",
        "",
        "Content-Length: 1000000000000000000000000000000000000005",
    ),
    (400, "a folded length", "", "Content-Length: 5\r\n 5"),
];

/// Requests of which the method or the version leaves no room for a body.
const NO_ROOM: [Row; 12] = [
    (
        400,
        "chunked in HTTP/1.0",
        "Tomcat CVE-2021-33037, Pingora CVE-2026-2835",
        "POST http://o.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "both in HTTP/1.0",
        "Tomcat CVE-2021-33037",
        "POST http://o.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "chunked in HTTP/1.0 with keep-alive",
        "",
        "POST http://o.test/ HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "GET with a body in HTTP/1.0",
        "hyper CVE-2020-35863",
        "GET http://o.test/ HTTP/1.0\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "HEAD with a body in HTTP/1.0",
        "",
        "HEAD http://o.test/ HTTP/1.0\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "DELETE with a body in HTTP/1.0",
        "",
        "DELETE http://o.test/ HTTP/1.0\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "TRACE with a body",
        "",
        "TRACE http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "TRACE with chunks",
        "",
        "TRACE http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "CONNECT with a body",
        "",
        "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "CONNECT with chunks",
        "",
        "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "CONNECT with both",
        "",
        "CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "GET with both",
        "hyper CVE-2020-35863",
        "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let fields = FIELDS.map(|(status, name, known, fields)| {
        let head = "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\n";
        let request = format!("{head}{fields}\r\n\r\n0\r\n\r\n");
        Case::refused(status, name, known, &request)
    });
    let no_room =
        NO_ROOM.map(|(status, name, known, request)| Case::refused(status, name, known, request));
    fields.into_iter().chain(no_room).collect()
}
