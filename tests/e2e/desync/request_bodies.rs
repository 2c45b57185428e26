//! Requests whose chunks can be read in two ways.

use super::Case;

type Row = (u16, &'static str, &'static str, &'static str);

/// Bodies of a chunked POST.
const BODIES: [Row; 46] = [
    (
        400,
        "a chunk size with 0x",
        "Twisted CVE-2022-24801, Squid CVE-2023-46846",
        "0x2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size with a plus sign",
        "Twisted CVE-2022-24801",
        "+2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size with a minus sign",
        "nginx CVE-2013-2028, tinyproxy CVE-2026-3945",
        "-2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a space before a chunk size",
        "",
        " 2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a space behind a chunk size",
        "Squid CVE-2023-46846",
        "2 \r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a tab behind a chunk size",
        "",
        "2\t\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "an underscore in a chunk size",
        "",
        "0_2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a comma behind a chunk size",
        "",
        "2,\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "two chunk sizes in a line",
        "",
        "2 2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "no chunk size",
        "Apache CVE-2015-3183",
        "\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size that is no number",
        "Squid CVE-2023-46846",
        "x\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size in quotes",
        "",
        "\"2\"\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size of other digits",
        "",
        "\u{ef}\u{bc}\u{92}\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size of 17 digits",
        "hyper CVE-2021-32714, Tomcat CVE-2014-0075, Jetty CVE-2017-7657",
        "10000000000000002\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size of 17 digits with a zero in front",
        "",
        "00000000000000002\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size of 2^64 - 1",
        "nginx CVE-2013-2028, hyper CVE-2021-32714",
        "ffffffffffffffff\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size of 2^63",
        "tinyproxy CVE-2026-3945",
        "8000000000000000\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "a chunk size and LF alone",
        "Go CVE-2025-22871",
        "2\nhi\r\n0\r\n\r\n",
    ),
    (400, "a chunk size and CR alone", "", "2\rhi\r\n0\r\n\r\n"),
    (400, "a chunk size and two CR", "", "2\r\r\nhi\r\n0\r\n\r\n"),
    (
        400,
        "LF in an extension",
        "Kestrel CVE-2025-55315, Netty CVE-2025-58056",
        "2;\nxx\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "CR in an extension",
        "Kestrel CVE-2025-55315",
        "2;\rxx\r\nhi\r\n0\r\n\r\n",
    ),
    (400, "NUL in an extension", "", "2;a\0\r\nhi\r\n0\r\n\r\n"),
    (
        400,
        "an extension without a name",
        "Tomcat CVE-2026-24880",
        "2;\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "an extension with an empty value",
        "",
        "2;a=\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "an extension with an open quote",
        "Jetty CVE-2026-2332",
        "2;a=\"\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "an extension with CRLF in quotes",
        "Jetty CVE-2026-2332",
        "2;a=\"\r\n0\r\n\r\n\"\r\nhi\r\n0\r\n\r\n",
    ),
    (
        400,
        "an extension in the last chunk with LF",
        "Kestrel CVE-2025-55315",
        "2\r\nhi\r\n0;\n\r\n\r\n",
    ),
    (
        400,
        "no CRLF behind data",
        "h11 CVE-2025-43859",
        "2\r\nhi0\r\n\r\n",
    ),
    (
        400,
        "two other bytes behind data",
        "h11 CVE-2025-43859, Varnish CVE-2025-47905",
        "2\r\nhiXX0\r\n\r\n",
    ),
    (
        400,
        "LF alone behind data",
        "Varnish CVE-2025-47905",
        "2\r\nhi\n0\r\n\r\n",
    ),
    (
        400,
        "CR alone behind data",
        "Varnish CVE-2025-47905",
        "2\r\nhi\r0\r\n\r\n",
    ),
    (
        400,
        "data longer than its size",
        "Traffic Server CVE-2024-53868",
        "2\r\nhiho\r\n0\r\n\r\n",
    ),
    (
        400,
        "data shorter than its size",
        "Tomcat CVE-2014-0227",
        "2\r\nh\r\n0\r\n\r\n",
    ),
    (
        400,
        "LF alone behind the last chunk",
        "",
        "2\r\nhi\r\n0\n\r\n",
    ),
    (400, "LF alone as the last line", "", "2\r\nhi\r\n0\r\n\n"),
    (400, "CR alone as the last line", "", "2\r\nhi\r\n0\r\n\rX"),
    (
        400,
        "a trailer without a colon",
        "Traffic Server CVE-2024-35161, Tomcat CVE-2023-45648",
        "2\r\nhi\r\n0\r\nX\r\n\r\n",
    ),
    (
        400,
        "a trailer with a space before its colon",
        "Traffic Server CVE-2024-35161",
        "2\r\nhi\r\n0\r\nX : y\r\n\r\n",
    ),
    (
        400,
        "a trailer without a name",
        "",
        "2\r\nhi\r\n0\r\n: y\r\n\r\n",
    ),
    (
        400,
        "a first trailer that is indented",
        "",
        "2\r\nhi\r\n0\r\n X: y\r\n\r\n",
    ),
    (
        400,
        "a folded trailer",
        "",
        "2\r\nhi\r\n0\r\nX: y\r\n z\r\n\r\n",
    ),
    (
        400,
        "a trailer with LF",
        "Tomcat CVE-2023-45648",
        "2\r\nhi\r\n0\r\nX: y\n\r\n",
    ),
    (
        400,
        "a trailer with CR",
        "",
        "2\r\nhi\r\n0\r\nX: y\rZ: a\r\n\r\n",
    ),
    (
        400,
        "a trailer with NUL",
        "",
        "2\r\nhi\r\n0\r\nX: \0\r\n\r\n",
    ),
    (
        400,
        "a request for a trailer section",
        "Tomcat CVE-2023-46589",
        "2\r\nhi\r\n0\r\nGET http://smuggled.test/ HTTP/1.1\r\n\r\n",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let cases = BODIES.map(|(status, name, known, body)| {
        let head =
            "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        Case::refused(status, name, known, &format!("{head}{body}"))
    });
    let too_long = format!(
        "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n2;{}",
        "x".repeat(1025)
    );
    let known = "Node.js CVE-2024-22019, Go CVE-2023-39326";
    let endless = Case::refused(431, "an extension without an end", known, &too_long);
    cases.into_iter().chain([endless]).collect()
}
