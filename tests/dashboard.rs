//! What is shipped for monitoring speaks of metrics that exist: the dashboard, the alert rules and the
//! table in packaging/MANUAL.md, against `/metrics` of a relay in this process.
//!
//! Whether the alerts fire is for `promtool` to say, see `tests/real/monitoring.rs`.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use http_proxy_lb::config;
use http_proxy_lb::server::{Options, Server};
use serde_yaml::Value;

const DASHBOARD: &str = include_str!("../packaging/monitoring/dashboard.json");
const RULES: &str = include_str!("../packaging/monitoring/rules.yml");
const MANUAL: &str = include_str!("../packaging/MANUAL.md");

/// How long the relay may take to answer before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

const CONFIGURATION: &str = "
listen: 127.0.0.1:0
admin_listen: 127.0.0.1:0
upstream:
  - {name: a, url: 'http://127.0.0.1:9'}
";

/// `/metrics` of a relay with one upstream, that has just started.
fn exposition() -> String {
    let config = config::parse(CONFIGURATION, "config.yaml").expect("valid");
    let server = Server::start(config, Options::default()).expect("it starts");
    let address = server.admin_addr().expect("an admin server");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    drop(server);
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    body.to_owned()
}

/// What series there are: by name, the values of each label.
#[derive(Default)]
struct Known(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Known {
    fn of(exposition: &str) -> Self {
        let mut known = Self::default();
        for line in exposition.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let values = known.0.entry(name.to_owned()).or_default();
            for matcher in matchers(labels.trim_end_matches('}')) {
                let of_label = values.entry(matcher.label).or_default();
                of_label.insert(matcher.value);
            }
        }
        known
    }

    /// What a selector asks for that cannot be there. `job` and `instance` are given by Prometheus.
    fn complaint(&self, selector: &Selector) -> Option<String> {
        let name = &selector.name;
        let Some(labels) = self.0.get(name) else {
            return Some(format!("{name}: no such metric"));
        };
        for matcher in &selector.matchers {
            let label = &matcher.label;
            if ["job", "instance"].contains(&label.as_str()) {
                continue;
            }
            let Some(values) = labels.get(label) else {
                return Some(format!("{name}: no label {label}"));
            };
            let missing = matcher.value.split('|').find(|wanted| {
                let prefix = wanted.strip_suffix(".*");
                !values
                    .iter()
                    .any(|value| prefix.map_or(value == wanted, |prefix| value.starts_with(prefix)))
            });
            if let Some(missing) = missing {
                return Some(format!("{name}: {label} is never {missing}"));
            }
        }
        None
    }
}

/// `label="value"`, or with another operator.
struct Matcher {
    label: String,
    value: String,
}

/// A metric as an expression names it.
struct Selector {
    name: String,
    matchers: Vec<Matcher>,
}

/// Of the text between braces. No value here has a comma or a quote.
fn matchers(text: &str) -> Vec<Matcher> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let matcher = |part: &str| {
        let (label, value) = part.split_once('=').expect("label=value");
        Matcher {
            label: label.trim().trim_end_matches('!').to_owned(),
            value: value.trim_matches(['~', '"']).to_owned(),
        }
    };
    parts.map(matcher).collect()
}

/// Every metric of this program in a text, with what follows it in braces.
fn selectors(text: &str) -> Vec<Selector> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find(is_part) {
        let (_, from_here) = rest.split_at(begin);
        let end = from_here.find(|letter| !is_part(letter));
        let (word, after) = from_here.split_at(end.unwrap_or(from_here.len()));
        rest = after;
        if word.starts_with("http_proxy_lb_") || word.starts_with("process_") {
            let braces = after
                .strip_prefix('{')
                .and_then(|text| text.split_once('}'));
            found.push(Selector {
                name: word.to_owned(),
                matchers: matchers(braces.map_or("", |(inside, _)| inside)),
            });
        }
    }
    found
}

/// Every text in a document, keys left out.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Sequence(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Mapping(entries) => entries.values().for_each(|value| texts(value, found)),
        Value::Tagged(tagged) => texts(&tagged.value, found),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// JSON is YAML, too.
fn parsed(text: &str) -> Value {
    serde_yaml::from_str(text).expect("well-formed")
}

#[track_caller]
fn check_metrics_of(document: &str, at_least: usize) {
    let known = Known::of(&exposition());
    let mut found = Vec::new();
    texts(&parsed(document), &mut found);
    let named: Vec<Selector> = found.iter().flat_map(|text| selectors(text)).collect();
    assert!(named.len() >= at_least, "only {} found", named.len());
    let complaints: Vec<String> = named
        .iter()
        .filter_map(|selector| known.complaint(selector))
        .collect();
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn the_dashboard_shows_metrics_that_exist() {
    check_metrics_of(DASHBOARD, 70);
}

#[test]
fn the_alert_rules_watch_metrics_that_exist() {
    check_metrics_of(RULES, 20);
}

#[test]
fn a_metric_a_label_or_a_value_that_does_not_exist_is_noticed() {
    let known = Known::of("http_proxy_lb_x_total{cause=\"closed\",to=\"a\"} 1\n");
    let check = |text: &str, complaint: Option<&str>| {
        let selectors = selectors(text);
        assert_eq!(selectors.len(), 1, "{text}");
        let got = known.complaint(&selectors[0]);
        assert_eq!(got.as_deref(), complaint, "{text}");
    };
    let x = "http_proxy_lb_x_total";
    check(&format!("rate({x}{{job=\"$job\"}}[5m])"), None);
    check(&format!("{x}{{cause=~\"clo.*|closed\",to!=\"a\"}}"), None);
    check("process_y > 0", Some("process_y: no such metric"));
    check(
        &format!("{x}{{why=\"closed\"}}"),
        Some("http_proxy_lb_x_total: no label why"),
    );
    check(
        &format!("{x}{{cause=~\"closed|open\"}}"),
        Some("http_proxy_lb_x_total: cause is never open"),
    );
    check(
        &format!("{x}{{cause=~\"op.*\"}}"),
        Some("http_proxy_lb_x_total: cause is never op.*"),
    );
}

#[test]
fn panels_have_their_own_number_and_place() {
    let dashboard = parsed(DASHBOARD);
    let panels = dashboard["panels"].as_sequence().expect("panels");
    let mut numbers = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let number = panel["id"].as_u64().expect("a number");
        assert!(numbers.insert(number), "{title}: number {number} again");
        let place = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        let columns = place("x")..place("x") + place("w");
        assert!(columns.end <= 24, "{title} is too wide");
        for column in columns {
            for line in place("y")..place("y") + place("h") {
                assert!(taken.insert((column, line)), "{title} covers another one");
            }
        }
    }
}

#[test]
fn panels_ask_the_data_source_that_was_chosen_and_say_what_they_show() {
    let dashboard = parsed(DASHBOARD);
    let panels = dashboard["panels"].as_sequence().expect("panels");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().expect("a title");
        let said = panel["description"].as_str().expect("a description");
        assert!(said.len() > 4, "{title}: what does it show?");
        let targets = panel["targets"].as_sequence().expect("targets");
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let expression = target["expr"].as_str().expect("an expression");
            for selector in selectors(expression) {
                let labels: Vec<_> = selector.matchers.iter().map(|m| m.label.as_str()).collect();
                assert_eq!(labels.get(..2), Some(&["job", "instance"][..]), "{title}");
            }
        }
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let rules = parsed(RULES);
    let rules = rules["groups"][0]["rules"].as_sequence().expect("rules");
    for rule in rules {
        let name = rule["alert"].as_str().expect("a name");
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}"
        );
        let note = |key: &str| rule["annotations"][key].as_str().unwrap_or_default().len();
        assert!(note("summary") > 20 && note("description") > 60, "{name}");
    }
}

#[test]
fn the_manual_lists_the_metrics_that_exist_with_their_types() {
    let exposition = exposition();
    let types = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '));
    let types: BTreeMap<&str, &str> = types
        .map(|(name, kind)| (name.trim_start_matches("http_proxy_lb_"), kind))
        .collect();
    let (_, table) = MANUAL
        .split_once("| metric | type |")
        .expect("the table of metrics");
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let mut listed = BTreeMap::new();
    for row in rows.skip(1) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        for name in cells[1].split('`').skip(1).step_by(2) {
            assert_eq!(listed.insert(name, cells[2]), None, "{name} again");
        }
    }
    assert_eq!(listed, types);
}
