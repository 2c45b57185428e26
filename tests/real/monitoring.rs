//! A real Prometheus, and its own judge of rules, `promtool`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_yaml::Value;

use crate::curl::curl;
use crate::machine::{Folder, PATIENCE, free_port, note, wait_until};
use crate::origin::Origin;
use crate::programs::{Server, run, tool};
use crate::relay::{Relay, Settings, as_upstream};

const TOKEN: &str = "sesame-sesame-sesame";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/monitoring")
        .join(name)
}

#[test]
#[ignore = "needs promtool (Debian package prometheus)"]
fn promtool_has_nothing_to_say_against_the_alert_rules() {
    let home = Folder::new();
    let mut command = tool("promtool", home.path());
    command
        .args(["check", "rules", "--lint=all", "--lint-fatal"])
        .arg(shipped("rules.yml"));
    note(run(&mut command).expect_text().trim());
}

#[test]
#[ignore = "needs promtool (Debian package prometheus)"]
fn each_alert_fires_when_it_should_and_only_then() {
    let home = Folder::new();
    let mut command = tool("promtool", home.path());
    command
        .args(["test", "rules"])
        .arg(shipped("rules_test.yml"));
    run(&mut command).expect_success();
}

#[test]
#[ignore = "needs promtool (Debian package prometheus)"]
fn promtool_understands_every_expression_of_the_dashboard() {
    let home = Folder::new();
    let dashboard = std::fs::read_to_string(shipped("dashboard.json")).expect("the dashboard");
    let dashboard = json(&dashboard);
    let panels = dashboard["panels"].as_sequence().expect("panels");
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_sequence())
        .flatten();
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (number, target) in targets.enumerate() {
        // Grafana puts a time in the place of this variable.
        let expression = target["expr"].as_str().expect("an expression");
        let expression = expression.replace("$__rate_interval", "5m");
        let rule = format!("  - record: panel:{number}\n    expr: >-\n      {expression}\n");
        rules.push_str(&rule);
    }
    let file = home.write("dashboard.yml", rules);
    let mut command = tool("promtool", home.path());
    command.args(["check", "rules", "--lint=none"]).arg(file);
    note(run(&mut command).expect_text().trim());
}

/// JSON is YAML, too.
fn json(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A running Prometheus that scrapes a relay and evaluates the shipped rules, every second.
struct Prometheus {
    // Before the folder, so that it goes away before it.
    server: Server,
    home: Folder,
}

impl Prometheus {
    fn start(admin_port: u16) -> Self {
        let home = Folder::new();
        let rules = shipped("rules.yml");
        let config = home.write(
            "prometheus.yml",
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
                 rule_files: ['{}']\n\
                 scrape_configs:\n  - job_name: http-proxy-lb\n    \
                 authorization: {{credentials: {TOKEN}}}\n    \
                 static_configs: [{{targets: ['127.0.0.1:{admin_port}']}}]\n",
                rules.display()
            ),
        );
        let port = free_port();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                home.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let server = Server::start(&mut command, home.path().join("output"), port);
        Self { server, home }
    }

    /// The `data` that its HTTP API answers; `None` as long as it is starting.
    fn ask(&self, path: &str, parameters: &[&str]) -> Option<Value> {
        let mut command = tool("curl", self.home.path());
        command.args(["-q", "-sS", "--max-time", "10", "--get"]);
        for parameter in parameters {
            command.args(["--data-urlencode", parameter]);
        }
        command.arg(format!(
            "http://127.0.0.1:{}/api/v1/{path}",
            self.server.port()
        ));
        let text = run(&mut command).expect_text();
        if text.trim() == "Service Unavailable" {
            return None;
        }
        let answer = json(&text);
        assert_eq!(answer["status"], "success", "{text}");
        Some(answer["data"].clone())
    }

    /// The value of an expression that has one.
    fn value(&self, expression: &str) -> Option<String> {
        let data = self.ask("query", &[&format!("query={expression}")])?;
        let result = data["result"].as_sequence().expect("series").clone();
        assert!(result.len() < 2, "{expression}: {result:?}");
        Some(result.first()?["value"][1].as_str()?.to_owned())
    }

    #[track_caller]
    fn expect(&self, expression: &str, wanted: &str) {
        let mut got = None;
        wait_until(PATIENCE, &format!("{expression} is {wanted}"), || {
            let new = self.value(expression);
            if new != got {
                note(&format!("{expression}: {new:?}"));
                got = new;
            }
            got.as_deref() == Some(wanted)
        });
    }

    /// The alerts sorted by name, once they are these. All of them have to last before they fire.
    #[track_caller]
    fn expect_pending(&self, wanted: &[&str]) -> Vec<Value> {
        let mut alerts = Vec::new();
        wait_until(PATIENCE, &format!("alerts are {wanted:?}"), || {
            let data = self.ask("alerts", &[]).expect("it has started");
            alerts = data["alerts"].as_sequence().expect("alerts").clone();
            alerts.sort_by(|a, b| name_of(a).cmp(name_of(b)));
            alerts.iter().map(name_of).eq(wanted.iter().copied())
        });
        for alert in &alerts {
            assert_eq!(alert["state"], "pending", "{}", name_of(alert));
        }
        alerts
    }
}

fn name_of(alert: &Value) -> &str {
    alert["labels"]["alertname"].as_str().unwrap_or_default()
}

#[test]
#[ignore = "needs prometheus (Debian package prometheus) and curl"]
fn a_real_prometheus_counts_what_clients_did_and_notices_a_dead_upstream() {
    const REQUESTS: usize = 25;
    let origin = Origin::start();
    let mut first = as_upstream("first", &Settings::direct());
    let second = as_upstream("second", &Settings::direct());
    let admin_port = free_port();
    let relay = Relay::start(
        &Settings::default()
            .line("via: false")
            .line(&format!(
                "health_check: {{url: '{}', expect_status: 200, interval_secs: 5}}",
                origin.url("/ok")
            ))
            .line(&format!("admin_listen: '127.0.0.1:{admin_port}'"))
            .line(&format!("admin_token: {TOKEN}"))
            .upstream(&first)
            .upstream(&second),
    );
    let prometheus = Prometheus::start(admin_port);
    prometheus.expect("up", "1");
    // Before the first request, as they are there from the start.
    prometheus.expect("sum(http_proxy_lb_exchanges_total)", "0");

    let home = Folder::new();
    let get_one = || {
        let mut command = curl(&relay, home.path());
        command.arg(origin.url("/ok"));
        assert_eq!(run(&mut command).expect_text(), "ok\n");
    };
    (0..REQUESTS).for_each(|_| get_one());
    let all = REQUESTS.to_string();
    let answered = "http_proxy_lb_exchanges_total{route='upstream',method='safe',status='2xx'}";
    prometheus.expect(answered, &all);
    prometheus.expect("http_proxy_lb_requests_total", &all);
    prometheus.expect("http_proxy_lb_request_duration_seconds_count", &all);
    let attempts = "sum(http_proxy_lb_upstream_attempts_total{outcome='answered'})";
    prometheus.expect(attempts, &all);
    prometheus.expect("sum(http_proxy_lb_failures_total)", "0");
    prometheus.expect("count(http_proxy_lb_upstream_up == 1)", "2");
    // `via: false` is worth a warning.
    prometheus.expect_pending(&["HttpProxyLbConfigWarnings"]);

    first.kill();
    // One of any two meets it, and is served by the other.
    (0..2).for_each(|_| get_one());
    prometheus.expect("http_proxy_lb_upstream_up{upstream='first'}", "0");
    let alerts =
        prometheus.expect_pending(&["HttpProxyLbConfigWarnings", "HttpProxyLbUpstreamOffline"]);
    let alert = &alerts[1];
    let summary = format!("Upstream first of http-proxy-lb on 127.0.0.1:{admin_port} is offline");
    assert_eq!(alert["annotations"]["summary"], summary.as_str());
    let problems = prometheus.ask("rules", &[]).expect("it has started");
    let unhealthy: Vec<_> = problems["groups"][0]["rules"]
        .as_sequence()
        .expect("rules")
        .iter()
        .filter(|rule| rule["health"] != "ok")
        .collect();
    assert!(unhealthy.is_empty(), "{unhealthy:?}");
}
