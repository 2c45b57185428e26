//! The state of a relay as a table for a terminal.

use crate::json::Json;

/// Whether to use colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Colors,
    Plain,
}

/// The colors of ECMA-48.
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;

impl Paint {
    fn text(self, color: u8, text: &str) -> String {
        match self {
            Self::Colors => format!("\u{1b}[{color}m{text}\u{1b}[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

const TITLES: [&str; 10] = [
    "UPSTREAM", GROUP, "STATE", "SINCE", "ACTIVE", "LATENCY", "P95", "ATTEMPTS", "FAILED", "REASON",
];
/// The column that is there if any upstream is in a group.
const GROUP: &str = "GROUP";
/// The columns with numbers, which stand at the right.
const NUMBERS: std::ops::Range<usize> = 4..9;
/// The column that has a color.
const STATE: usize = 2;
/// No column is made wider; what is longer stands out of it. The answer may come from any server, and
/// one long name would be paid for in every row.
const WIDEST: usize = 64;

/// The answer of `/status` for people.
pub(super) fn render(status: &Json, paint: Paint) -> String {
    let ready = if status.get("ready").is_true() {
        paint.text(GREEN, "ready")
    } else {
        paint.text(RED, "not ready")
    };
    let reason = status.get("reason").text();
    let reason = reason.map(|reason| format!(" ({})", clean(reason)));
    let mut lines = vec![
        format!(
            "{ready}{}  version {}  up {}  mode {}",
            reason.unwrap_or_default(),
            shown(status.get("version")),
            spoken(number(status.get("uptime_seconds"))),
            shown(status.get("mode")),
        ),
        load(status),
    ];
    lines.extend(exits(status));
    let down: Vec<_> = status
        .get("groups_down")
        .elements()
        .iter()
        .map(shown)
        .collect();
    if !down.is_empty() {
        let word = paint.text(RED, "groups down");
        lines.push(format!("{word}: {}", down.join(", ")));
    }
    let target = status.get("probe_target");
    if *target.get("believed") == Json::Bool(false) {
        lines.push(format!(
            "probe: {} is {} since {}: {}",
            shown(target.get("url")),
            paint.text(YELLOW, "not believed"),
            shown(target.get("since")),
            shown(target.get("seen")),
        ));
    }
    let reload = status.get("reload");
    if let Some(error) = reload.get("error").text() {
        let since = clean(reload.get("failing_since").text().unwrap_or_default());
        let what = paint.text(RED, "the file cannot be used");
        lines.push(format!("configuration: {what} since {since}:"));
        lines.extend(error.lines().map(|mistake| format!("  {}", clean(mistake))));
    }
    let warnings = status.get("config").get("warnings");
    for (word, texts) in [
        ("configuration", reload.get("needs_restart")),
        ("warning", warnings),
    ] {
        let word = paint.text(YELLOW, word);
        let texts = texts.elements().iter();
        lines.extend(texts.map(|text| format!("{word}: {}", shown(text))));
    }
    lines.push(String::new());
    push_upstreams(&mut lines, status.get("upstreams").elements(), paint);
    lines.push(String::new());
    lines.join("\n")
}

/// What there is to do, and what was done.
fn load(status: &Json) -> String {
    format!(
        "requests {} ({} failed)  connections {}/{}  tunnels {}  workers {}/{}  queue {}/{}",
        shown(status.get("requests_total")),
        shown(status.get("requests_failed")),
        shown(status.get("active_connections")),
        shown(status.get("connections").get("limit")),
        shown(status.get("tunnels")),
        shown(status.get("workers").get("busy")),
        shown(status.get("workers").get("limit")),
        shown(status.get("queue").get("waiting")),
        shown(status.get("queue").get("limit")),
    )
}

/// Who waits for an upstream, sessions and rests; nothing where there are none.
fn exits(status: &Json) -> Option<String> {
    let (sticky, rests) = (status.get("sticky"), status.get("rests"));
    let moved = ["removed", "offline", "drained", "resting"]
        .map(|reason| number(sticky.get(&format!("moved_{reason}"))));
    let moved: u64 = moved
        .iter()
        .fold(0, |sum, count| sum.saturating_add(*count));
    let waiting = number(status.get("queue").get("waiting_for_upstream"));
    let counts = [
        ("wait for an upstream", waiting),
        ("sessions", number(sticky.get("sessions"))),
        ("moved", moved),
        ("rests", number(rests.get("count"))),
    ];
    if counts.iter().all(|(_, count)| *count == 0) {
        return None;
    }
    let mut words: Vec<_> = counts.map(|(what, count)| format!("{what} {count}")).into();
    if let [longest, ..] = rests.get("longest").elements() {
        let host = longest
            .get("host")
            .text()
            .map_or_else(String::new, |host| format!(" for {}", clean(host)));
        let (upstream, ends) = (shown(longest.get("upstream")), shown(longest.get("ends")));
        words.push(format!("the longest: {upstream}{host} until {ends}"));
    }
    Some(words.join("  "))
}

fn push_upstreams(lines: &mut Vec<String>, upstreams: &[Json], paint: Paint) {
    let rows: Vec<_> = upstreams.iter().map(row).collect();
    let has_groups = upstreams
        .iter()
        .any(|one| one.get("group").text().is_some());
    let titles = TITLES.map(|title| {
        if title == GROUP && !has_groups {
            ""
        } else {
            title
        }
    });
    let painted = |column, cell: String| match column {
        STATE => paint.text(color_of(cell.trim_end()), &cell),
        _ => cell,
    };
    push_table(lines, titles, NUMBERS, &rows, painted);
}

/// A table below its titles, without the columns that have none; the columns `numbers` stand at the right. `paint` gets the column and the cell,
/// as wide as its column.
pub(super) fn push_table<const N: usize>(
    lines: &mut Vec<String>,
    titles: [&str; N],
    numbers: std::ops::Range<usize>,
    rows: &[[String; N]],
    paint: impl Fn(usize, String) -> String,
) {
    let mut widths = titles.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count().min(WIDEST));
        }
    }
    let has_title = titles.map(|title| !title.is_empty());
    let titles = titles.map(str::to_owned);
    for (place, row) in std::iter::once(&titles).chain(rows).enumerate() {
        let mut text = String::new();
        let cells = row.iter().zip(widths).enumerate().zip(has_title);
        for ((column, (cell, width)), _) in cells.filter(|(_, has_title)| *has_title) {
            let padded = if numbers.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:width$}")
            };
            text.push_str(&match place {
                0 => padded,
                _ => paint(column, padded),
            });
            text.push_str("  ");
        }
        text.truncate(text.trim_end().len());
        lines.push(text);
    }
}

fn color_of(state: &str) -> u8 {
    match state {
        "online" => GREEN,
        "drained" | "suspect" | "suspect, drained" => YELLOW,
        _ => RED,
    }
}

fn row(upstream: &Json) -> [String; 10] {
    [
        shown(upstream.get("name")),
        shown(upstream.get("group")),
        state(upstream),
        shown(upstream.get("since")),
        active(upstream),
        millis(upstream.get("latency_us")),
        millis(upstream.get("latency_p95_us")),
        shown(upstream.get("attempts")),
        shown(upstream.get("attempts_failed")),
        why(upstream),
    ]
}

/// How many requests and tunnels it has, and may have.
fn active(upstream: &Json) -> String {
    let active = shown(upstream.get("active_connections"));
    match number(upstream.get("max_active")) {
        0 => active,
        most => format!("{active}/{most}"),
    }
}

/// What an operator has set, and what passes by itself.
fn for_now(upstream: &Json) -> Vec<String> {
    let mut told = Vec::new();
    let (weight, in_file) = (upstream.get("weight"), upstream.get("weight_in_file"));
    if in_file
        .text()
        .is_some_and(|in_file| weight.text() != Some(in_file))
    {
        told.push(format!(
            "weight {} in place of {}",
            shown(weight),
            shown(in_file)
        ));
    }
    if let Some(share) = upstream
        .get("slow_start")
        .text()
        .filter(|share| *share != "1")
    {
        told.push(format!("takes {} of its turns", clean(share)));
    }
    match number(upstream.get("resting")) {
        0 => {}
        1 => told.push("1 rest".to_owned()),
        rests => told.push(format!("{rests} rests")),
    }
    told
}

/// Its state. A relay that is older than this program says only whether it is online.
fn state(upstream: &Json) -> String {
    let state = match upstream.get("state").text() {
        Some(state) => clean(state),
        None if upstream.get("online").is_true() => "online".to_owned(),
        None => "offline".to_owned(),
    };
    match (upstream.get("drained").is_true(), state.as_str()) {
        (false, _) => state,
        (true, "online") => "drained".to_owned(),
        (true, _) => format!("{state}, drained"),
    }
}

/// What is held against it, with the evidence. Of one that is well the evidence is told without what was
/// seen of the probe's target, which is told once for all.
fn why(upstream: &Json) -> String {
    let held = upstream.get("reason").text();
    let held = held.or_else(|| upstream.get("doubt").text());
    let evidence = upstream.get("evidence").text().unwrap_or_default();
    let evidence = match (held, evidence.split_once(" (")) {
        (None, Some((told, _))) => told,
        (Some(_), _) | (None, None) => evidence,
    };
    let not_shared = upstream
        .get("distrusted_until")
        .text()
        .map(|until| format!("its connections serve one client each until {until}"));
    let no_connect = upstream.get("no_connect").is_true();
    [
        held.unwrap_or_default(),
        evidence,
        &not_shared.unwrap_or_default(),
        if no_connect {
            "has no CONNECT: others get the tunnels"
        } else {
            ""
        },
    ]
    .into_iter()
    .filter(|words| !words.is_empty())
    .map(clean)
    .chain(for_now(upstream))
    .collect::<Vec<_>>()
    .join("; ")
}

pub(super) fn shown(value: &Json) -> String {
    value.text().map_or_else(|| "-".to_owned(), clean)
}

/// Nothing that a terminal obeys.
pub(super) fn clean(text: &str) -> String {
    let is_harmless = |letter: char| {
        let directs = matches!(letter, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !letter.is_control() && !directs
    };
    let mut clean = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_harmless(letter) {
            clean.push(letter);
        } else {
            clean.extend(letter.escape_unicode());
        }
    }
    clean
}

/// Microseconds in milliseconds; 0: never measured.
fn millis(micros: &Json) -> String {
    match number(micros) {
        0 => "-".to_owned(),
        micros @ ..100_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        micros => format!("{} ms", micros / 1000),
    }
}

pub(super) fn number(value: &Json) -> u64 {
    value.text().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn spoken(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"{"ready":false,"reason":"no upstream is online","version":"0.2.0",
        "uptime_seconds":3723,"mode":"best","probe_target":{"url":"http://p.test/","believed":false,
        "since":"2026-01-01T00:00:00.000Z","seen":"one got 403, t\u001bwo got 302"},"requests_total":7,"requests_failed":2,
        "active_connections":3,"connections":{"limit":99},"tunnels":1,
        "workers":{"busy":1,"limit":128},"queue":{"waiting":0,"limit":512,"waiting_for_upstream":2},
        "sticky":{"sessions":5,"moved_removed":1,"moved_offline":2,"moved_drained":0,"moved_resting":3},
        "rests":{"count":4,"overridden":0,"longest":[{"upstream":"one","host":"x\u001b.test","ends":"2026-01-01T00:01:00.000Z"}]},
        "config":{"warnings":["c.yaml:1: x"]},
        "reload":{"error":"c.yaml:2: bad\nc.yaml:3: worse","needs_restart":["listen changed, which needs a restart"],"failing_since":"2026-01-01T00:00:00.000Z"},
        "upstreams":[
        {"name":"one","online":true,"drained":false,"since":null,"active_connections":3,
         "max_active":9,"weight":3,"weight_in_file":1,"slow_start":0.25,"resting":2,"latency_ms":12,"latency_us":12509,"latency_p95_us":100999,"attempts":6,"attempts_answered":6,"attempts_failed":0,"reason":null,
         "evidence":"it answers for itself; the probe is not believed (one got 403, three got 403)"},
        {"name":"three","online":true,"state":"suspect","drained":false,"since":null,
         "active_connections":1,"latency_ms":0,"latency_us":7,"latency_p95_us":7000,"attempts":2,"attempts_answered":2,"attempts_failed":0,
         "reason":null,"doubt":"asked for credentials","evidence":"","no_connect":true,"distrusted_until":"2026-01-02T00:00:00.000Z"},
        {"name":"four","online":false,"state":"offline","drained":true,"since":null,
         "active_connections":0,"latency_ms":0,"attempts":0,"attempts_answered":0,"attempts_failed":0,
         "reason":"probe: got 403","evidence":"the probe passes through one"},
        {"name":"t\u001b[2Jwo","online":false,"drained":false,"since":"2026-01-01T00:00:00.000Z",
         "active_connections":0,"latency_ms":0,"attempts":1,"attempts_answered":0,
         "attempts_failed":1,"reason":"cannot connect: connection refused"}]}"#;

    const PLAIN: &str = "\
not ready (no upstream is online)  version 0.2.0  up 1 h 2 min  mode best
requests 7 (2 failed)  connections 3/99  tunnels 1  workers 1/128  queue 0/512
wait for an upstream 2  sessions 5  moved 6  rests 4  the longest: one for x\\u{1b}.test until 2026-01-01T00:01:00.000Z
probe: http://p.test/ is not believed since 2026-01-01T00:00:00.000Z: one got 403, t\\u{1b}wo got 302
configuration: the file cannot be used since 2026-01-01T00:00:00.000Z:
  c.yaml:2: bad
  c.yaml:3: worse
configuration: listen changed, which needs a restart
warning: c.yaml:1: x

UPSTREAM      STATE             SINCE                     ACTIVE   LATENCY      P95  ATTEMPTS  FAILED  REASON
one           online            -                            3/9  12.50 ms   100 ms         6       0  it answers for itself; the probe is not believed; weight 3 in place of 1; takes 0.25 of its turns; 2 rests
three         suspect           -                              1   0.00 ms  7.00 ms         2       0  asked for credentials; its connections serve one client each until 2026-01-02T00:00:00.000Z; has no CONNECT: others get the tunnels
four          offline, drained  -                              0         -        -         0       0  probe: got 403; the probe passes through one
t\\u{1b}[2Jwo  offline           2026-01-01T00:00:00.000Z       0         -        -         1       1  cannot connect: connection refused
";

    #[test]
    fn everything_is_in_its_column_and_nothing_is_obeyed() {
        let status = Json::parse(STATUS).unwrap();
        assert_eq!(render(&status, Paint::Plain), PLAIN);
    }

    #[test]
    fn groups_have_a_column_and_those_that_are_down_a_line() {
        let text = r#"{"groups_down":["eu"],"upstreams":[{"name":"a","group":"eu"},{"name":"b"}]}"#;
        let shown = render(&Json::parse(text).unwrap(), Paint::Plain);
        for line in [
            "groups down: eu",
            "UPSTREAM  GROUP  STATE",
            "a         eu     offline",
            "b         -      ",
        ] {
            assert!(
                shown.lines().any(|shown| shown.starts_with(line)),
                "{line}: {shown}"
            );
        }
    }

    #[test]
    fn colors_change_nothing_but_the_color() {
        let status = Json::parse(STATUS).unwrap();
        let mut colored = render(&status, Paint::Colors);
        for code in ["\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[0m"] {
            assert!(colored.contains(code), "{code:?}");
            colored = colored.replace(code, "");
        }
        assert_eq!(colored, render(&status, Paint::Plain));
    }

    #[test]
    fn a_name_without_end_neither_ends_the_program_nor_widens_the_other_rows() {
        let name = "n".repeat(100_000);
        let text = format!(r#"{{"upstreams":[{{"name":"{name}"}},{{"name":"b"}}]}}"#);
        let shown = render(&Json::parse(&text).unwrap(), Paint::Plain);
        assert!(shown.contains(&name));
        let last = shown.lines().last().unwrap();
        assert!(last.starts_with("b ") && last.len() < 200, "{last}");
    }

    #[test]
    fn an_answer_that_says_nothing_is_shown_as_nothing() {
        let text = render(&Json::Null, Paint::Plain);
        assert!(
            text.starts_with("not ready  version -  up 0 s  mode -\n"),
            "{text}"
        );
    }
}
