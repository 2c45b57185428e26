//! Chromium, steered by its own driver (WebDriver, a W3C standard: JSON over HTTP).

use std::fmt::Write as _;
use std::process::Command;

use serde_yaml::Value;

use crate::machine::{Folder, PATIENCE, free_port, wait_until};
use crate::programs::Server;
use crate::wire::Client;

/// A browser with one window.
pub(crate) struct Browser {
    driver: Server,
    session: String,
    // After the driver, so that it goes away after it.
    folder: Folder,
}

/// What people set their screens to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let folder = Folder::new();
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command
            .arg(format!("--port={port}"))
            .env("HOME", folder.path())
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        for scheme in ["http", "https", "all", "no"] {
            let name = format!("{scheme}_proxy");
            command.env_remove(name.to_uppercase()).env_remove(name);
        }
        let driver = Server::start(&mut command, folder.path().join("output"), port);
        let mut browser = Self {
            driver,
            session: String::new(),
            folder,
        };
        let profile = browser.folder.path().join("profile");
        let profile = format!("--user-data-dir={}", profile.display());
        let arguments: Vec<_> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            &profile,
        ]
        .map(quoted)
        .into();
        let wanted = format!(
            "{{\"capabilities\":{{\"alwaysMatch\":{{\"goog:loggingPrefs\":{{\"browser\":\"ALL\"}},\
             \"goog:chromeOptions\":{{\"args\":[{}]}}}}}}}}",
            arguments.join(",")
        );
        let answer = browser.ask("POST", "/session", &wanted);
        let session = answer["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("/session/{session}");
        browser
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let mut client = Client::connect(self.driver.port());
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        client.send(&request).expect("sent");
        let head = client.head().expect("an answer");
        let mut answer = Vec::new();
        client
            .body(&head, |bytes| answer.extend_from_slice(bytes))
            .expect("a whole answer");
        let answer = String::from_utf8(answer).expect("text");
        assert_eq!(head.status(), 200, "{method} {path} {body}\n{answer}");
        // JSON is YAML.
        let mut answer: Value = serde_yaml::from_str(&answer).expect("JSON");
        std::mem::take(&mut answer["value"])
    }

    fn command(&self, path: &str, body: &str) -> Value {
        self.ask("POST", &format!("{}{path}", self.session), body)
    }

    pub(crate) fn open(&self, url: &str) {
        self.command("/url", &format!("{{\"url\":{}}}", quoted(url)));
    }

    /// What a JavaScript expression is, as text.
    pub(crate) fn text(&self, expression: &str) -> String {
        let script = quoted(&format!("return String({expression})"));
        let body = format!("{{\"script\":{script},\"args\":[]}}");
        let value = self.command("/execute/sync", &body);
        value.as_str().expect("a text").to_owned()
    }

    /// Waits until a JavaScript expression is `wanted`, or contains it.
    #[track_caller]
    pub(crate) fn sees(&self, expression: &str, wanted: &str) {
        wait_until(PATIENCE, &format!("{expression} is {wanted}"), || {
            self.text(expression).contains(wanted)
        });
    }

    pub(crate) fn prefer(&self, scheme: Scheme) {
        let word = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let body = format!(
            "{{\"cmd\":\"Emulation.setEmulatedMedia\",\"params\":{{\"features\":\
             [{{\"name\":\"prefers-color-scheme\",\"value\":\"{word}\"}}]}}}}"
        );
        self.command("/goog/cdp/execute", &body);
    }

    /// Sets the width of the window, in CSS pixels.
    pub(crate) fn resize(&self, width: u32) {
        let body = format!(
            "{{\"cmd\":\"Emulation.setDeviceMetricsOverride\",\"params\":{{\"width\":{width},\
             \"height\":800,\"deviceScaleFactor\":1,\"mobile\":false}}}}"
        );
        self.command("/goog/cdp/execute", &body);
    }

    /// Types into the field that `selector` finds.
    pub(crate) fn type_into(&self, selector: &str, text: &str) {
        let find = format!(
            "{{\"using\":\"css selector\",\"value\":{}}}",
            quoted(selector)
        );
        let found = self.command("/element", &find);
        let mut ids = found.as_mapping().expect("an element").values();
        let id = ids.find_map(Value::as_str).expect("its name");
        let body = format!("{{\"text\":{}}}", quoted(text));
        self.command(&format!("/element/{id}/value"), &body);
    }

    /// What the page complained about since the last time: scripts, policies, requests.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.command("/se/log", "{\"type\":\"browser\"}");
        let entries = log.as_sequence().expect("a list").iter();
        entries
            .filter_map(|entry| Some(entry["message"].as_str()?.to_owned()))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser; killing the driver alone would leave it behind.
        if !self.session.is_empty() {
            let mut client = Client::connect(self.driver.port());
            let request = format!(
                "DELETE {} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                self.session
            );
            drop(client.send(&request));
            drop(client.head());
        }
    }
}

/// As JSON and JavaScript write a text.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => {
                write!(out, "\\u{:04x}", u32::from(letter)).expect("memory");
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}
