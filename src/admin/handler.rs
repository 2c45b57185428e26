//! What each endpoint answers. A panic here costs one answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::balance::history::EventKind;
use crate::balance::upstream::Upstream;
use crate::relay::{Context, Snapshot, unix_ms};

use super::authorization::{Action, ActionCall, Call, Endpoint};
use super::rows::ServerNow;
use super::view::RelayView;
use super::{connections, families, status};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page needs nothing but itself and this server: its one style and its one script are known by
/// their hashes, and text cannot become markup.
const PAGE_POLICY: &str = include_str!("page_policy.txt");

/// An answer before it is framed.
#[derive(Debug)]
pub(super) struct AdminReply {
    pub(super) status: u16,
    media_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl AdminReply {
    fn new(status: u16, media_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            media_type,
            body: body.into(),
        }
    }

    /// Its fields, framing left out.
    pub(super) fn fields(&self) -> [(&'static str, &'static str); 5] {
        [
            ("Content-Type", self.media_type),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", PAGE_POLICY.trim_ascii_end()),
            ("Server", env!("CARGO_PKG_NAME")),
        ]
    }
}

/// The answer to a target that [`Call::request_line`] wrote.
pub(super) fn reply(seen: &dyn RelayView, target: &str) -> AdminReply {
    let Some(endpoint) = Call::endpoint_of(target) else {
        return AdminReply::new(404, TEXT, "There is nothing here.\n");
    };
    catch_unwind(AssertUnwindSafe(|| answer(seen, &endpoint))).unwrap_or_else(|_panic| {
        seen.context().metrics.panics.increment();
        AdminReply::new(500, TEXT, "This is a defect; the log has the details.\n")
    })
}

fn answer(seen: &dyn RelayView, endpoint: &Endpoint) -> AdminReply {
    let ctx = seen.context();
    let tell = |write: fn(&ServerNow<'_>) -> String| {
        write(&ServerNow::new(ctx, &ctx.snapshot(), &seen.load()))
    };
    match endpoint {
        Endpoint::Page => {
            let page = include_str!("page.html");
            AdminReply::new(200, "text/html; charset=utf-8", page)
        }
        Endpoint::Health => AdminReply::new(200, JSON, "{\"status\":\"ok\"}\n"),
        Endpoint::Ready(detail) => {
            let (is_ready, body) = status::ready(ctx, *detail);
            let code = if is_ready { 200 } else { 503 };
            AdminReply::new(code, JSON, body)
        }
        Endpoint::Status => AdminReply::new(200, JSON, tell(status::status)),
        Endpoint::Metrics => {
            let media_type = "text/plain; version=0.0.4; charset=utf-8";
            AdminReply::new(200, media_type, tell(families::metrics))
        }
        Endpoint::Connections(after) => {
            AdminReply::new(200, JSON, connections::page(&ctx.connections, *after))
        }
        Endpoint::Act(call) => act(seen, call),
    }
}

fn act(seen: &dyn RelayView, call: &ActionCall) -> AdminReply {
    let ctx = seen.context();
    let snapshot = ctx.snapshot();
    let Some(upstream) = snapshot.pool.find(&call.name) else {
        return AdminReply::new(404, TEXT, "There is no upstream of this name.\n");
    };
    let (name, by) = (&upstream.spec.name, &call.by);
    let (kind, level, text) = match call.action {
        Action::Drain => {
            upstream.vitals().drain();
            seen.drains().keep(&snapshot.pool);
            let text = format!("upstream {name} is drained by {by}: it gets no new requests");
            (EventKind::Drained, log::Level::Info, text)
        }
        Action::Enable => {
            upstream.vitals().enable();
            seen.drains().keep(&snapshot.pool);
            let text = format!("upstream {name} is enabled by {by}");
            if upstream.weight() == 0 {
                let but = ", but its weight is 0: it gets no requests";
                (EventKind::Enabled, log::Level::Warn, text + but)
            } else {
                (EventKind::Enabled, log::Level::Info, text)
            }
        }
        Action::SetWeight(weight) => {
            upstream.set_weight(weight);
            let in_file = upstream.spec.weight;
            let text = format!(
                "upstream {name} is given weight {weight} by {by} (in the file: {in_file})"
            );
            (EventKind::WeightSet, log::Level::Info, text)
        }
        Action::Probe => {
            upstream.vitals().want_check();
            ctx.health_notify.notify_one();
            let text = format!("upstream {name} is checked now, as {by} wants");
            (EventKind::CheckWanted, log::Level::Info, text)
        }
        Action::Cut => {
            let count = cut(ctx, &snapshot, upstream);
            let text = format!("upstream {name} is cut by {by}; {}", ends(count));
            (EventKind::Cut, log::Level::Warn, text)
        }
        Action::ClearRests => {
            let count = snapshot.pool.rests().clear(upstream.id());
            let text = match count {
                1 => format!("1 rest of upstream {name} is ended by {by}"),
                _ => format!("{count} rests of upstream {name} are ended by {by}"),
            };
            (EventKind::RestsCleared, log::Level::Info, text)
        }
    };
    log::log!(level, "{text}");
    let history = snapshot.pool.history();
    history.add(unix_ms(), kind, Some(name), &text);
    // What a check finds, and what is cut, is to be seen a moment later.
    let code = match call.action {
        Action::Probe | Action::Cut => 202,
        Action::Drain | Action::Enable | Action::SetWeight(_) | Action::ClearRests => 200,
    };
    AdminReply::new(code, JSON, status::acted(upstream))
}

/// That so many requests and tunnels end.
fn ends(count: u64) -> String {
    match count {
        1 => "1 request or tunnel ends".to_owned(),
        _ => format!("{count} requests and tunnels end"),
    }
}

/// Ends what goes through an upstream. Gives its number.
fn cut(ctx: &Context, snapshot: &Snapshot, upstream: &Upstream) -> u64 {
    let count = upstream.vitals().active();
    upstream.vitals().cut();
    ctx.tunnels.end_marked();
    if let Some(idle_pool) = snapshot.idle_pool(upstream) {
        idle_pool.clear();
    }
    count
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::PAGE_POLICY;

    const PAGE: &str = include_str!("page.html");

    /// What stands between the tags `<name>` and `</name>`, of which there is one each.
    fn inside(name: &str) -> &'static str {
        let (_, rest) = PAGE.split_once(&format!("<{name}>")).expect("begins");
        let (text, after) = rest.split_once(&format!("</{name}>")).expect("ends");
        assert!(!after.contains(&format!("<{name}")), "one {name}");
        text
    }

    /// As a policy names it (CSP 3, section 2.3.1). SHA-256 is the business of coreutils.
    fn source(text: &str) -> String {
        let mut child = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let said = child.wait_with_output().unwrap().stdout;
        let digits: Vec<u8> = said[..64]
            .iter()
            .map(|digit| u8::try_from(char::from(*digit).to_digit(16).unwrap()).unwrap())
            .collect();
        let hash: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair[0] * 16 + pair[1])
            .collect();
        format!("'sha256-{}'", STANDARD.encode(hash))
    }

    #[test]
    fn the_policy_allows_the_script_and_the_style_of_the_page_and_no_others() {
        assert_eq!(
            PAGE_POLICY.trim_ascii_end(),
            format!(
                "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; \
                 form-action 'none'; base-uri 'none'; frame-ancestors 'none'; \
                 require-trusted-types-for 'script'; trusted-types 'none'",
                source(inside("style")),
                source(inside("script"))
            ),
            "what is right belongs into page_policy.txt"
        );
    }

    #[test]
    fn the_page_is_small_and_has_no_way_to_make_markup_of_text() {
        assert!(PAGE.len() < 45_000, "{} bytes", PAGE.len());
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "DOMParser",
            " style=",
            " onclick=",
            "//cdn",
            "@import",
            "src=",
        ] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }
}
