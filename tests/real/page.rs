//! The status page in a real browser: it tells what `/status` tells, and does what its buttons say.

use serde_yaml::Value;

use crate::browser::{Browser, Scheme, quoted};
use crate::machine::free_port;
use crate::origin::Origin;
use crate::proxies::Proxy;
use crate::relay::{Relay, Settings, as_upstream};
use crate::wire::Client;

const TOKEN: &str = "sesame-sesame-sesame";
/// The password is the token, the user anybody.
const BASIC: &str = "Basic YW55OnNlc2FtZS1zZXNhbWUtc2VzYW1l";
const HOSTILE: &str = "<img src=x onerror=document.title=1>";

/// A relay with an admin server, and a browser to look at it.
struct Scene {
    origin: Origin,
    upstreams: Vec<Proxy>,
    relay: Relay,
    admin: u16,
    browser: Browser,
}

impl Scene {
    fn start(names: &[&'static str], more: &str) -> Self {
        Self::probing(names, more, 200)
    }

    /// The probe is answered 200, and wants `status`.
    fn probing(names: &[&'static str], more: &str, status: u16) -> Self {
        let origin = Origin::start();
        let upstreams: Vec<_> = names
            .iter()
            .map(|name| as_upstream(name, &Settings::direct()))
            .collect();
        let admin = free_port();
        let settings = Settings::default()
            .line("via: false")
            .line(&format!("admin_listen: '127.0.0.1:{admin}'\n{more}"))
            .line(&format!(
                "health_check: {{url: '{}', expect_status: {status}, interval_secs: 1}}",
                origin.url("/ok")
            ));
        let settings = if upstreams.is_empty() {
            settings.line("domain_policy: {mode: whitelist}\nupstream: []")
        } else {
            upstreams.iter().fold(settings, Settings::upstream)
        };
        Self {
            relay: Relay::start(&settings),
            origin,
            upstreams,
            admin,
            browser: Browser::start(),
        }
    }

    /// Opens the page as the demonstration tells it to newcomers.
    fn open(&self) {
        let address = format!("http://any:{TOKEN}@127.0.0.1:{}/", self.admin);
        self.browser.open(&address);
        self.browser
            .sees("document.getElementById('contact').textContent", "live");
    }

    fn request(&self, times: usize) {
        for _ in 0..times {
            let answer = Client::connect(self.relay.port()).get(&self.origin.url("/ok"));
            assert_eq!(answer.expect("an answer").0, 200);
        }
    }

    fn status(&self) -> Value {
        let mut client = Client::connect(self.admin);
        let request =
            format!("GET /status HTTP/1.1\r\nHost: localhost\r\nAuthorization: {BASIC}\r\n\r\n");
        client.send(&request).expect("sent");
        let head = client.head().expect("an answer");
        let mut body = Vec::new();
        client
            .body(&head, |bytes| body.extend_from_slice(bytes))
            .expect("a whole answer");
        serde_yaml::from_slice(&body).expect("JSON")
    }

    fn attempts(&self, name: &str) -> u64 {
        let status = self.status();
        let upstreams = status["upstreams"].as_sequence().expect("a list");
        let mine = upstreams
            .iter()
            .find(|upstream| upstream["name"].as_str() == Some(name));
        let attempts = mine.and_then(|upstream| upstream["attempts"].as_u64());
        attempts.expect("a number")
    }
}

/// What is in a cell of the row of an upstream.
fn cell(name: &str, label: &str) -> String {
    let name = quoted(name);
    format!(
        "[...document.querySelectorAll('#rows tr')].find(row => row.dataset.name === {name})\
         .querySelector('td[data-label^=\"{label}\"]').textContent"
    )
}

fn tile(name: &str) -> String {
    let name = quoted(name);
    format!(
        "[...document.querySelectorAll('.tile')].find(tile => \
         tile.querySelector('dt').textContent === {name}).textContent"
    )
}

fn press(scene: &Scene, name: &str) {
    let name = quoted(name);
    scene.browser.text(&format!(
        "[...document.querySelectorAll('#rows tr')].find(row => row.dataset.name === {name})\
         .querySelector('button').click()"
    ));
}

/// What is asked before the last upstream in service is drained, and an answer to it.
const ASKED: &str = "document.getElementById('sure').open";

fn answer(scene: &Scene, which: &str) {
    scene.browser.sees(ASKED, "true");
    let which = quoted(which);
    let button = format!("document.querySelector('#sure button[value=' + {which} + ']')");
    scene.browser.text(&format!("{button}.click()"));
}

const SENTENCE: &str = "document.getElementById('sentence').textContent";

/// The least contrast of text and what is behind it, of all texts of the page (WCAG 2, 1.4.3).
const CONTRAST: &str = r"(() => {
    const parse = color => (color.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    const light = ([r, g, b]) => [[r, .2126], [g, .7152], [b, .0722]].reduce((sum, [part, weight]) => {
        part /= 255;
        return sum + weight * (part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
    }, 0);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const color = parse(getComputedStyle(node).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    let least = 21, which = '';
    for (const node of document.querySelectorAll('#all *')) {
        const own = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
        if (!own || !node.checkVisibility()) continue;
        const pair = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
        const contrast = (pair[0] + .05) / (pair[1] + .05);
        if (contrast < least) { least = contrast; which = node.outerHTML.slice(0, 100); }
    }
    return least >= 4.5 ? 'enough' : `${least} ${which}`;
})()";

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn the_numbers_of_the_page_are_those_of_the_status() {
    let scene = Scene::start(&["one", "two", HOSTILE], &format!("admin_token: {TOKEN}"));
    scene.request(12);
    scene.open();
    scene.browser.sees(SENTENCE, "All 3 upstreams are online.");
    scene.browser.sees(&tile("Requests"), "12 since the start");
    assert_eq!(scene.status()["requests_total"].as_u64(), Some(12));
    scene.request(6);
    scene.browser.sees(&tile("Requests"), "18 since the start");
    for name in ["one", "two", HOSTILE] {
        let attempts = scene.attempts(name).to_string();
        assert_eq!(scene.browser.text(&cell(name, "Attempts")), attempts);
        scene.browser.sees(&cell(name, "Share"), "33 %");
    }
    let name = scene.browser.text(&cell(HOSTILE, "Upstream"));
    assert!(name.starts_with(HOSTILE), "a name is text: {name}");
    assert_eq!(scene.browser.text("document.images.length"), "0");
    assert_eq!(scene.browser.complaints(), Vec::<String>::new());
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn a_killed_upstream_turns_red_with_its_reason_in_both_colour_schemes() {
    let mut scene = Scene::start(&["well", "doomed"], &format!("admin_token: {TOKEN}"));
    scene.open();
    scene.browser.sees(SENTENCE, "All 2 upstreams are online.");
    scene.upstreams[1].kill();
    scene.request(4);
    scene
        .browser
        .sees(SENTENCE, "1 of 2 upstreams is offline: doomed, ");
    scene.browser.sees(SENTENCE, "connection refused, since ");
    scene
        .browser
        .sees(&cell("doomed", "State"), "connection refused, since ");
    let live = "document.getElementById('live').textContent";
    scene
        .browser
        .sees(live, "1 of 2 upstreams is offline: doomed, ");
    for (scheme, red) in [
        (Scheme::Light, "rgb(196, 30, 45)"),
        (Scheme::Dark, "rgb(255, 133, 124)"),
    ] {
        scene.browser.prefer(scheme);
        let color = "getComputedStyle(document.querySelector('#rows .tag.bad')).color";
        assert_eq!(scene.browser.text(color), red);
        for width in [1280, 390] {
            scene.browser.resize(width);
            assert_eq!(scene.browser.text(CONTRAST), "enough", "{scheme:?}");
            let fits = "document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(scene.browser.text(fits), "true", "{width} pixels");
        }
    }
    scene.upstreams[1].revive();
    scene.browser.sees(SENTENCE, "All 2 upstreams are online.");
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn a_probe_that_passes_nowhere_is_told_with_what_each_upstream_got() {
    let scene = Scene::probing(&["one", "two"], &format!("admin_token: {TOKEN}"), 204);
    scene.open();
    let target = "document.getElementById('target').innerText";
    for told in [
        "The probe is not believed",
        "/ok (health_check.url), and passes through no upstream, since ",
        "one got 200",
        "two got 200",
        "or to none",
    ] {
        scene.browser.sees(target, told);
    }
    scene.browser.sees(SENTENCE, "All 2 upstreams are online.");
    scene.browser.sees(
        &cell("one", "State"),
        "Onlineit answers for itself; the probe is not believed",
    );
    for (scheme, width) in [(Scheme::Light, 1280), (Scheme::Dark, 390)] {
        scene.browser.prefer(scheme);
        scene.browser.resize(width);
        assert_eq!(scene.browser.text(CONTRAST), "enough", "{scheme:?}");
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(scene.browser.text(fits), "true", "{width} pixels");
    }
    assert_eq!(scene.browser.complaints(), Vec::<String>::new());
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn a_drained_upstream_gets_no_requests_until_it_is_enabled() {
    let scene = Scene::start(&["one", HOSTILE], &format!("admin_token: {TOKEN}"));
    scene.request(4);
    scene.open();
    press(&scene, HOSTILE);
    scene.browser.sees(&cell(HOSTILE, "State"), "Drained");
    scene
        .browser
        .sees(SENTENCE, "1 of 2 upstreams is drained: ");
    let before = scene.attempts(HOSTILE);
    scene.request(10);
    assert_eq!(scene.attempts(HOSTILE), before);
    scene.browser.sees(&cell(HOSTILE, "Action"), "Enable");
    press(&scene, HOSTILE);
    scene.browser.sees(&cell(HOSTILE, "State"), "Online");
    scene.request(10);
    assert_eq!(scene.attempts(HOSTILE), before + 5);
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn the_last_one_in_service_is_drained_when_that_is_confirmed_and_the_history_outlives_the_page() {
    let scene = Scene::start(&["one", "two"], &format!("admin_token: {TOKEN}"));
    scene.open();
    press(&scene, "one");
    scene.browser.sees(&cell("one", "State"), "Drained");
    assert_eq!(scene.browser.text(ASKED), "false");
    press(&scene, "two");
    answer(&scene, "no");
    assert!(
        scene
            .browser
            .text(&cell("two", "Action"))
            .starts_with("Drain")
    );
    press(&scene, "two");
    answer(&scene, "yes");
    scene
        .browser
        .sees(SENTENCE, "No request is served: all upstreams are drained.");
    scene.open();
    let history = "document.getElementById('log').textContent";
    for told in [
        "Upstream two is drained by 127.0.0.1 (user any): it gets no new requests",
        "Upstream one is drained by 127.0.0.1 (user any)",
        "Started, version ",
    ] {
        scene.browser.sees(history, told);
    }
    assert_eq!(scene.browser.complaints(), Vec::<String>::new());
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn on_a_phone_the_upstreams_come_first() {
    let scene = Scene::start(&["one"], &format!("admin_token: {TOKEN}"));
    scene.open();
    let top = |id: &str| format!("document.getElementById('{id}').getBoundingClientRect().top");
    let is_first = format!("{} < {}", top("rows"), top("tiles"));
    for (width, expected) in [(1280, "false"), (400, "true"), (320, "true")] {
        scene.browser.resize(width);
        assert_eq!(scene.browser.text(&is_first), expected, "{width} pixels");
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(scene.browser.text(fits), "true", "{width} pixels");
    }
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn lost_contact_is_told_and_old_numbers_are_not_live() {
    let mut scene = Scene::start(&["one"], &format!("admin_token: {TOKEN}"));
    scene.request(3);
    scene.open();
    scene.browser.sees(&tile("Requests"), "3 since the start");
    scene.relay.server.program.kill();
    scene.browser.sees(SENTENCE, "No contact for ");
    scene.browser.sees(SENTENCE, "Numbers are from ");
    let class = "document.getElementById('all').className";
    assert!(scene.browser.text(class).contains("stale"));
    let contact = "document.getElementById('contact').textContent";
    assert_eq!(scene.browser.text(contact), "not live");
    assert_eq!(
        scene.browser.text("document.title"),
        "(!) http-proxy-lb: no contact"
    );
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn without_a_token_in_the_configuration_the_page_says_why_it_cannot_act() {
    let scene = Scene::start(&["one"], "");
    scene.open();
    press(&scene, "one");
    answer(&scene, "yes");
    let said = "document.getElementById('said').textContent";
    scene.browser.sees(
        said,
        "one was not drained. This needs a token: set admin_token",
    );
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn a_token_that_becomes_necessary_is_asked_for_once() {
    let mut scene = Scene::start(&["one"], "reload_interval_secs: 1");
    scene
        .browser
        .open(&format!("http://127.0.0.1:{}/", scene.admin));
    scene.browser.sees(SENTENCE, "one is online.");
    scene.relay.append(&format!("admin_token: {TOKEN}\n"));
    let open = "document.getElementById('token').open";
    scene.browser.sees(open, "true");
    scene
        .browser
        .type_into("#token-input", &format!("{TOKEN}\n"));
    scene.browser.sees(SENTENCE, "one is online.");
    press(&scene, "one");
    answer(&scene, "yes");
    scene.browser.sees(&cell("one", "State"), "Drained");
    assert_eq!(scene.browser.text(open), "false");
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn what_a_reload_changed_and_what_waits_for_a_restart_is_shown() {
    let mut scene = Scene::start(&["one"], "reload_interval_secs: 1");
    scene.open();
    let more = "mode: best\nlisten_proxy_protocol: true\n\
        access: {proxy_protocol_from: [127.0.0.1]}\n";
    scene.relay.append(more);
    let config = "document.getElementById('config').textContent";
    scene.browser.sees(config, "It changed");
    scene.browser.sees(config, "mode");
    scene.browser.sees(
        config,
        "listen_proxy_protocol changed, which needs a restart",
    );
    assert_eq!(scene.browser.complaints(), Vec::<String>::new());
}

#[test]
#[ignore = "needs chromium (Debian packages chromium and chromium-driver)"]
fn an_empty_pool_is_no_trouble_when_everything_goes_direct() {
    let scene = Scene::start(&[], "");
    scene.request(2);
    scene.open();
    scene.browser.sees(
        SENTENCE,
        "No upstream is configured: everything goes to its origin directly.",
    );
    scene.browser.sees(&tile("Requests"), "2 since the start");
    assert_eq!(scene.browser.complaints(), Vec::<String>::new());
}
