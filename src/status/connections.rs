//! The client connections of a relay as a table for a terminal.

use crate::json::Json;

use super::table::{clean, number, push_table, shown};

const TITLES: [&str; 8] = [
    "CLIENT", "USER", "STATE", "SINCE", "TARGET", "THROUGH", "RECEIVED", "SENT",
];
const NUMBERS: std::ops::Range<usize> = 6..8;

/// The answers of `/connections` for people.
pub(super) fn render(pages: &[Json]) -> String {
    let total = pages.first().map_or(0, |page| number(page.get("total")));
    let rows: Vec<_> = pages
        .iter()
        .flat_map(|page| page.get("connections").elements())
        .map(row)
        .collect();
    let mut lines = vec![
        format!(
            "{total} connections, the oldest first; {} shown",
            rows.len()
        ),
        String::new(),
    ];
    push_table(&mut lines, TITLES, NUMBERS, &rows, |_, padded| padded);
    lines.push(String::new());
    lines.join("\n")
}

fn row(connection: &Json) -> [String; 8] {
    let of = |name| connection.get(name);
    let state_since = of("state_since").text().or(of("since").text());
    [
        shown(of("client")),
        shown(of("user")),
        shown(of("state")),
        state_since.map_or_else(|| "-".to_owned(), clean),
        shown(of("target")),
        match of("route").text() {
            Some("direct") => "directly".to_owned(),
            _ => shown(of("upstream")),
        },
        shown(of("bytes_received")),
        shown(of("bytes_sent")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: [&str; 2] = [
        r#"{"total":3,"connections":[
        {"id":1,"client":"192.0.2.1:5000","since":"2026-01-01T00:00:00.000Z","state":"idle",
         "state_since":null,"user":null,"target":null,"route":null,"upstream":null,
         "bytes_received":0,"bytes_sent":0},
        {"id":2,"client":"[2001:db8::1]:80","since":"2026-01-01T00:00:00.000Z","state":"tunnel",
         "state_since":"2026-01-02T00:00:00.000Z","user":"b\u001bob","target":"a.test:443",
         "route":"upstream","upstream":"squid-1","bytes_received":120,"bytes_sent":1000000}],"next":2}"#,
        r#"{"total":3,"connections":[
        {"id":3,"client":"192.0.2.2:1","since":"2026-01-01T00:00:00.000Z","state":"request",
         "state_since":"2026-01-03T00:00:00.000Z","user":null,"target":"b.test:80",
         "route":"direct","upstream":null,"bytes_received":7,"bytes_sent":0}],"next":null}"#,
    ];

    const PLAIN: &str = "\
3 connections, the oldest first; 3 shown

CLIENT            USER       STATE    SINCE                     TARGET      THROUGH   RECEIVED     SENT
192.0.2.1:5000    -          idle     2026-01-01T00:00:00.000Z  -           -                0        0
[2001:db8::1]:80  b\\u{1b}ob  tunnel   2026-01-02T00:00:00.000Z  a.test:443  squid-1        120  1000000
192.0.2.2:1       -          request  2026-01-03T00:00:00.000Z  b.test:80   directly         7        0
";

    #[test]
    fn each_connection_is_a_row_whatever_page_it_came_on() {
        let pages = PAGES.map(|page| Json::parse(page).unwrap());
        let shown = render(&pages);
        assert_eq!(shown, PLAIN);
    }
}
