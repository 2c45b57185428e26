//! Who may ask for what: a checked request head in, an endpoint or a refusal out. Pure.
//!
//! Nothing of a request gets past this check but what [`Call`] can hold, so whatever stands behind it sees
//! a handful of spellings. Paths are compared as a whole: `/statusfoo` is not `/status`.

use std::net::IpAddr;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::config::listen::ListenAddress;
use crate::config::secret::Secret;
use crate::protocol::answer::BodyWanted;
use crate::protocol::credentials;
use crate::protocol::framing::{self, Framing};
use crate::protocol::head::RequestHead;
use crate::protocol::target::{Authority, Host};

use super::refused::Refused;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) endpoint: Endpoint,
    pub(super) body: BodyWanted,
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Page,
    Health,
    Ready(Detail),
    Status,
    Metrics,
    /// The client connections behind the one with this number.
    Connections(u64),
    Act(ActionCall),
}

/// An action that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ActionCall {
    pub(super) action: Action,
    /// The upstream's name.
    pub(super) name: String,
    /// Who asks, in words.
    pub(super) by: String,
}

/// Whether an answer names upstreams and their troubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Shown,
    Hidden,
}

/// What can be done to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Drain,
    Enable,
    SetWeight(u32),
    Probe,
    Cut,
    ClearRests,
}

impl Action {
    /// Each with its word in the path. What one must know besides stands behind it.
    const ALL: [(&'static str, Self); 6] = [
        ("drain", Self::Drain),
        ("enable", Self::Enable),
        (WEIGHT, Self::SetWeight(0)),
        ("probe", Self::Probe),
        ("cut", Self::Cut),
        ("clear-rests", Self::ClearRests),
    ];

    fn word(self) -> &'static str {
        let is_this = |other: Self| std::mem::discriminant(&other) == std::mem::discriminant(&self);
        let mut actions = Self::ALL.into_iter();
        actions
            .find(|(_, other)| is_this(*other))
            .map_or("", |it| it.0)
    }
}

/// The word of [`Action::SetWeight`].
const WEIGHT: &str = "weight";

/// The longest name of a user that is told, in letters. Any name is taken with the token.
const MOST_USER: usize = 64;

/// What a client is told that calls this server by a name that any site can have.
const REBOUND: &str =
    "this server listens on loopback: call it localhost or by its address, or set admin_token";
/// The same where there is a token, which does not help an action: a browser keeps it for that name.
const REBOUND_ACTION: &str =
    "this server listens on loopback: for actions, call it localhost or by its address";

/// By what a request is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct AuthCheck<'a> {
    pub(super) token: Option<&'a Secret>,
    /// Where this server listens, as the file says.
    pub(super) listen: &'a ListenAddress,
    /// Where the request comes from, as far as that is known.
    pub(super) client: Option<IpAddr>,
}

/// Who may ask for everything, as far as it says who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Login {
    /// That of Basic.
    user: Option<Vec<u8>>,
}

impl AuthCheck<'_> {
    /// What the request asks for, or why it is refused.
    pub(super) fn judge(self, head: &RequestHead) -> Result<Call, Refused> {
        let target = str::from_utf8(head.target()).map_err(|_not_text| Refused::Unknown)?;
        if !target.starts_with('/') {
            let what = "this is an admin server, not a proxy: ask for a path like /status";
            return Err(Refused::Malformed(what));
        }
        let framing = framing::of_request(head)
            .map_err(|_invalid| Refused::Malformed("the framing of the request is invalid"))?;
        if framing != Framing::Empty {
            return Err(Refused::Body);
        }
        let login = self.login(head);
        let rebound = self.is_rebound(head);
        let detail = if login.is_some() && !rebound {
            Detail::Shown
        } else {
            Detail::Hidden
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let endpoint = Endpoint::of_path(path, detail);
        if !matches!(endpoint, Some(Endpoint::Health | Endpoint::Ready(_))) {
            if login.is_none() {
                return Err(Refused::TokenWanted);
            }
            if rebound {
                return Err(Refused::CrossSite(REBOUND));
            }
        }
        let mut endpoint = endpoint.ok_or(Refused::Unknown)?;
        let methods = endpoint.methods();
        if !methods.split(", ").any(|method| method == head.method()) {
            return Err(Refused::Method(methods));
        }
        match &mut endpoint {
            Endpoint::Act(_) | Endpoint::Connections(_) if self.token.is_none() => {
                return Err(Refused::NoTokenSet);
            }
            Endpoint::Act(call) => {
                check_site(head, self.listen)?;
                call.by = self.who(&login.unwrap_or_default());
                if let Action::SetWeight(weight) = &mut call.action {
                    let number = query.strip_prefix("value=").and_then(|n| n.parse().ok());
                    let what = "say which weight: ?value= and a whole number from 0 to 4294967295";
                    *weight = number.ok_or(Refused::Malformed(what))?;
                }
            }
            Endpoint::Connections(after) if !query.is_empty() => {
                let number = query.strip_prefix("after=").and_then(|n| n.parse().ok());
                let what = "the only parameter here is after, with the number of a connection";
                *after = number.ok_or(Refused::Malformed(what))?;
            }
            Endpoint::Page
            | Endpoint::Health
            | Endpoint::Ready(_)
            | Endpoint::Status
            | Endpoint::Connections(_)
            | Endpoint::Metrics => {}
        }
        let body = BodyWanted::by_method(head.method());
        Ok(Call { endpoint, body })
    }

    /// Whether a browser may have been led here by another site's name that was made to lead to
    /// loopback (DNS rebinding). Where there is a token, that site does not have it; and where this
    /// server can be reached over the network, its names are the network's.
    fn is_rebound(self, head: &RequestHead) -> bool {
        if self.token.is_some() || !self.listen.is_loopback() {
            return false;
        }
        let host = head.fields().values("host").next().unwrap_or_default();
        !host.is_empty() && !self.is_own_name(host)
    }

    /// Whether no other site can have that name: any address, `localhost`, and what the file says.
    fn is_own_name(self, host: &[u8]) -> bool {
        match Authority::parse(host, Some(80)).map(|authority| authority.host().clone()) {
            Ok(Host::V4(_) | Host::V6(_)) => true,
            Ok(Host::Name(name)) => {
                let name = name.trim_end_matches('.');
                name == "localhost"
                    || name.ends_with(".localhost")
                    || name.eq_ignore_ascii_case(&self.listen.host)
            }
            Err(_) => false,
        }
    }

    /// Without a token, every client that gets here may read.
    fn login(self, head: &RequestHead) -> Option<Login> {
        let Some(token) = self.token else {
            return Some(Login::default());
        };
        head.fields().values("authorization").find_map(|value| {
            if bearer_token(value).is_some_and(|presented| token.is(presented)) {
                return Some(Login::default());
            }
            let (user, password) = credentials::presented_pair(value)?;
            token.is(&password).then_some(Login { user: Some(user) })
        })
    }

    /// `192.0.2.1 (user bob)`.
    fn who(self, login: &Login) -> String {
        let client = self.client.map(|client| client.to_canonical().to_string());
        let client = client.unwrap_or_else(|| "an unknown address".to_owned());
        match &login.user {
            Some(user) if !user.is_empty() => {
                let user = String::from_utf8_lossy(user);
                let user: String = user.chars().take(MOST_USER).collect();
                format!("{client} (user {user})")
            }
            Some(_) | None => client,
        }
    }
}

/// What follows the scheme Bearer (RFC 6750 §2.1).
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| rest.trim_ascii())
}

/// Refuses what a page of another site makes a browser send. Other clients can send
/// what they like, but do not have the token.
fn check_site(head: &RequestHead, listen: &ListenAddress) -> Result<(), Refused> {
    let fields = head.fields();
    let cross = Err(Refused::CrossSite(
        "actions are not taken from pages of other sites",
    ));
    let host = fields.values("host").next().unwrap_or_default();
    for site in fields.values("sec-fetch-site") {
        if !matches!(site, b"same-origin" | b"none") {
            return cross;
        }
    }
    for origin in fields.values("origin") {
        let own = [&b"http://"[..], b"https://"]
            .iter()
            .any(|scheme| matches!(origin.strip_prefix(*scheme), Some(rest) if rest.eq_ignore_ascii_case(host)));
        if !own {
            return cross;
        }
    }
    if listen.is_loopback() && !names_loopback(host) {
        // Another site's name can lead here (DNS rebinding), and then it is its own origin.
        return Err(Refused::CrossSite(REBOUND_ACTION));
    }
    Ok(())
}

fn names_loopback(host: &[u8]) -> bool {
    match Authority::parse(host, Some(80)).map(|authority| authority.host().clone()) {
        Ok(Host::Name(name)) => name.trim_end_matches('.') == "localhost",
        Ok(Host::V4(address)) => address.is_loopback(),
        Ok(Host::V6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        Err(_) => false,
    }
}

impl Endpoint {
    /// The endpoint at a path without query.
    fn of_path(path: &str, detail: Detail) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/health" => Self::Health,
            "/ready" => Self::Ready(detail),
            "/status" => Self::Status,
            "/connections" => Self::Connections(0),
            "/metrics" => Self::Metrics,
            _ => {
                let (name, action) = path.strip_prefix("/upstreams/")?.split_once('/')?;
                let mut actions = Action::ALL.into_iter();
                let action = actions.find(|(word, _)| *word == action)?.1;
                Self::Act(ActionCall {
                    action,
                    name: percent_decoded(name)?,
                    by: String::new(),
                })
            }
        })
    }

    /// The methods it knows, as `Allow` lists them.
    fn methods(&self) -> &'static str {
        match self {
            Self::Page
            | Self::Health
            | Self::Ready(_)
            | Self::Status
            | Self::Connections(_)
            | Self::Metrics => "GET, HEAD",
            Self::Act(_) => "POST",
        }
    }
}

impl Call {
    /// The request line's method and target for the server behind the front.
    pub(super) fn request_line(&self) -> (&'static str, String) {
        let target = match &self.endpoint {
            Endpoint::Page => "/".to_owned(),
            Endpoint::Health => "/health".to_owned(),
            Endpoint::Ready(Detail::Shown) => "/ready?detail".to_owned(),
            Endpoint::Ready(Detail::Hidden) => "/ready".to_owned(),
            Endpoint::Status => "/status".to_owned(),
            Endpoint::Connections(after) => format!("/connections?{after}"),
            Endpoint::Metrics => "/metrics".to_owned(),
            Endpoint::Act(ActionCall { action, name, by }) => {
                let weight = if let Action::SetWeight(weight) = action {
                    format!("{weight}&")
                } else {
                    String::new()
                };
                return (
                    "POST",
                    format!(
                        "/upstreams/{}/{}?{weight}{}",
                        utf8_percent_encode(name, NON_ALPHANUMERIC),
                        action.word(),
                        utf8_percent_encode(by, NON_ALPHANUMERIC)
                    ),
                );
            }
        };
        match self.body {
            BodyWanted::Yes => ("GET", target),
            BodyWanted::HeadRequest => ("HEAD", target),
        }
    }

    /// The endpoint of a target written by [`Call::request_line`].
    pub(super) fn endpoint_of(target: &str) -> Option<Endpoint> {
        let (path, detail) = match target.split_once('?') {
            Some((path, _)) => (path, Detail::Shown),
            None => (target, Detail::Hidden),
        };
        let query = target.get(path.len() + 1..).unwrap_or_default();
        let mut endpoint = Endpoint::of_path(path, detail)?;
        match &mut endpoint {
            Endpoint::Connections(after) => *after = query.parse().ok()?,
            Endpoint::Act(call) => {
                let mut by = query;
                if let Action::SetWeight(weight) = &mut call.action {
                    let (number, rest) = query.split_once('&')?;
                    (*weight, by) = (number.parse().ok()?, rest);
                }
                call.by = percent_decoded(by)?;
            }
            Endpoint::Page
            | Endpoint::Health
            | Endpoint::Ready(_)
            | Endpoint::Status
            | Endpoint::Metrics => {}
        }
        Some(endpoint)
    }
}

/// `None`: not percent-encoded UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let is_hex = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mut escapes = text.split('%').skip(1);
    if !escapes.all(|rest| rest.get(..2).is_some_and(is_hex)) {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::credentials::Credentials;

    const TOKEN: &str = "sesame-sesame";

    fn listen(host: &str) -> ListenAddress {
        ListenAddress {
            host: host.to_owned(),
            port: 9090,
        }
    }

    fn judge(token: Option<&str>, host: &str, request: &str) -> Result<Call, Refused> {
        let text = format!("{request}\r\n\r\n");
        let head = RequestHead::parse(text.into_bytes()).expect("well formed");
        let token = token.map(Secret::new);
        let listen = listen(host);
        let check = AuthCheck {
            token: token.as_ref(),
            listen: &listen,
            client: Some(IpAddr::from([192, 0, 2, 1])),
        };
        check.judge(&head)
    }

    fn check(request: &str, expected: &Result<Endpoint, Refused>) {
        let line = format!("{request} HTTP/1.1\r\nHost: localhost:9090");
        let got = judge(None, "127.0.0.1", &line).map(|call| call.endpoint);
        assert_eq!(&got, expected, "{request}");
    }

    fn check_token(authorization: &str, request: &str, expected: Result<(), Refused>) {
        let line = format!("{request} HTTP/1.1\r\nHost: localhost\r\n{authorization}");
        let got = judge(Some(TOKEN), "127.0.0.1", line.trim_end()).map(|_| ());
        assert_eq!(got, expected, "{request} {authorization}");
    }

    fn check_site_of(host: &str, fields: &str, expected: Result<(), ()>) {
        let line = format!(
            "POST /upstreams/a/drain HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n{fields}"
        );
        let got = match judge(Some(TOKEN), host, line.trim_end()) {
            Ok(_) => Ok(()),
            Err(Refused::CrossSite(_)) => Err(()),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(got, expected, "{host} {fields}");
    }

    #[test]
    fn every_path_leads_to_its_endpoint() {
        check("GET /", &Ok(Endpoint::Page));
        check("GET /health", &Ok(Endpoint::Health));
        check("HEAD /ready", &Ok(Endpoint::Ready(Detail::Shown)));
        check("GET /status", &Ok(Endpoint::Status));
        check("GET /metrics?name=x", &Ok(Endpoint::Metrics));
    }

    #[test]
    fn a_page_of_connections_begins_behind_a_number() {
        let page = |query: &str| {
            let line = format!(
                "GET /connections{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}"
            );
            judge(Some(TOKEN), "127.0.0.1", &line).map(|call| call.endpoint)
        };
        assert_eq!(page(""), Ok(Endpoint::Connections(0)));
        assert_eq!(page("?after=7"), Ok(Endpoint::Connections(7)));
        for query in [
            "?after",
            "?after=",
            "?after=-1",
            "?after=x",
            "?limit=5",
            "?7",
        ] {
            let got = page(query);
            assert!(matches!(got, Err(Refused::Malformed(_))), "{query} {got:?}");
        }
    }

    #[test]
    fn who_acts_is_told_by_address_and_user() {
        let by = |authorization: &str| {
            let line = format!(
                "POST /upstreams/a/drain?by=mallory HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}"
            );
            match judge(Some(TOKEN), "127.0.0.1", &line).map(|call| call.endpoint) {
                Ok(Endpoint::Act(call)) => call.by,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(by(&format!("Bearer {TOKEN}")), "192.0.2.1");
        let basic = |user: &str| Credentials::basic(user, TOKEN);
        assert_eq!(by(basic("bob").authorization()), "192.0.2.1 (user bob)");
        assert_eq!(by(basic("").authorization()), "192.0.2.1");
        let long = "b".repeat(MOST_USER);
        let told = format!("192.0.2.1 (user {long})");
        assert_eq!(by(basic(&format!("{long}c")).authorization()), told);
    }

    #[test]
    fn a_weight_is_a_whole_number_that_is_said() {
        let weight = |query: &str| {
            let line = format!(
                "POST /upstreams/a/weight{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}"
            );
            match judge(Some(TOKEN), "127.0.0.1", &line).map(|call| call.endpoint) {
                Ok(Endpoint::Act(call)) => Ok(call.action),
                Err(Refused::Malformed(said)) => Err(said),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(weight("?value=0"), Ok(Action::SetWeight(0)));
        assert_eq!(weight("?value=4294967295"), Ok(Action::SetWeight(u32::MAX)));
        for query in [
            "",
            "?",
            "?value=",
            "?value=-1",
            "?value=1.5",
            "?5",
            "?value=4294967296",
        ] {
            let said = weight(query).unwrap_err();
            assert!(said.ends_with("from 0 to 4294967295"), "{query}: {said}");
        }
    }

    #[test]
    fn no_path_is_a_prefix_of_another() {
        for path in [
            "/statusfoo",
            "/status/",
            "//status",
            "/Status",
            "/stat",
            "/upstreams/a",
            "/upstreams/a/b/drain",
            "/upstreams/a/draining",
            "/upstreams/a/weight/1",
            "/upstreams/%zz/drain",
            "/upstreams/%ff/drain",
            "/%73tatus",
            "/..",
            "/metrics%00",
        ] {
            check(&format!("GET {path}"), &Err(Refused::Unknown));
        }
    }

    #[test]
    fn other_methods_are_told_which_ones_there_are() {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"] {
            check(
                &format!("{method} /status"),
                &Err(Refused::Method("GET, HEAD")),
            );
        }
        check("GET /upstreams/a/drain", &Err(Refused::Method("POST")));
    }

    #[test]
    fn a_target_that_is_no_path_is_refused() {
        for request in ["GET http://localhost/status", "OPTIONS *", "CONNECT a:1"] {
            let line = format!("{request} HTTP/1.1\r\nHost: localhost");
            let got = judge(None, "127.0.0.1", &line);
            assert!(matches!(got, Err(Refused::Malformed(_))), "{got:?}");
        }
    }

    #[test]
    fn bodies_are_refused_and_a_length_of_0_is_none() {
        let with = |field: &str| {
            let line = format!("POST /status HTTP/1.1\r\nHost: localhost\r\n{field}");
            judge(None, "127.0.0.1", &line).unwrap_err()
        };
        assert_eq!(with("Content-Length: 1"), Refused::Body);
        assert_eq!(with("Transfer-Encoding: chunked"), Refused::Body);
        assert_eq!(with("Content-Length: 0"), Refused::Method("GET, HEAD"));
        assert!(matches!(with("Content-Length: x"), Refused::Malformed(_)));
    }

    #[test]
    fn the_token_is_taken_as_bearer_and_as_basic_with_any_user() {
        // any:sesame-sesame, :sesame-sesame
        for authorization in [
            "Authorization: Bearer sesame-sesame",
            "Authorization: bearer   sesame-sesame",
            "Authorization: Basic YW55OnNlc2FtZS1zZXNhbWU=",
            "Authorization: basic OnNlc2FtZS1zZXNhbWU=",
        ] {
            check_token(authorization, "GET /status", Ok(()));
            check_token(authorization, "POST /upstreams/a/drain", Ok(()));
        }
    }

    #[test]
    fn without_the_token_nothing_but_health_and_readiness_is_told() {
        // any:sesame-sesamf
        for authorization in [
            "",
            "Authorization: Bearer sesame-sesam",
            "Authorization: Bearer sesame-sesamex",
            "Authorization: Bearer",
            "Authorization: Basic c2VzYW1lLXNlc2FtZQ==",
            "Authorization: Basic YW55OnNlc2FtZS1zZXNhbWY=",
            "Authorization: Basic !!!",
            "Authorization: sesame-sesame",
        ] {
            for request in [
                "GET /",
                "GET /status",
                "GET /metrics",
                "GET /nothing",
                "PUT /status",
            ] {
                check_token(authorization, request, Err(Refused::TokenWanted));
            }
            check_token(
                authorization,
                "POST /upstreams/a/drain",
                Err(Refused::TokenWanted),
            );
            check_token(authorization, "GET /health", Ok(()));
            check_token(authorization, "GET /ready", Ok(()));
        }
    }

    #[test]
    fn readiness_has_no_detail_without_the_token() {
        let ready = |fields: &str| {
            let line = format!("GET /ready HTTP/1.1\r\nHost: h{fields}");
            judge(Some(TOKEN), "127.0.0.1", &line).unwrap().endpoint
        };
        assert_eq!(ready(""), Endpoint::Ready(Detail::Hidden));
        let token = format!("\r\nAuthorization: Bearer {TOKEN}");
        assert_eq!(ready(&token), Endpoint::Ready(Detail::Shown));
    }

    #[test]
    fn nobody_acts_or_sees_who_is_connected_while_no_token_is_configured() {
        check("GET /connections", &Err(Refused::NoTokenSet));
        check("POST /upstreams/a/drain", &Err(Refused::NoTokenSet));
    }

    #[test]
    fn pages_of_other_sites_cannot_act() {
        for fields in [
            "Host: localhost:9090\r\nOrigin: http://evil.test",
            "Host: localhost:9090\r\nOrigin: null",
            "Host: localhost:9090\r\nOrigin: http://localhost:9091",
            "Host: localhost:9090\r\nOrigin: http://localhost:9090.evil.test",
            "Host: localhost:9090\r\nSec-Fetch-Site: cross-site",
            "Host: localhost:9090\r\nSec-Fetch-Site: same-site",
            "Host: evil.test:9090\r\nOrigin: http://evil.test:9090\r\nSec-Fetch-Site: same-origin",
            "Host: localhost.evil.test",
        ] {
            check_site_of("127.0.0.1", fields, Err(()));
        }
    }

    #[test]
    fn who_has_a_token_set_is_not_told_to_set_one() {
        let line = format!(
            "POST /upstreams/a/drain HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {TOKEN}"
        );
        let denied = judge(Some(TOKEN), "127.0.0.1", &line);
        assert_eq!(denied, Err(Refused::CrossSite(REBOUND_ACTION)));
        let denied = judge(None, "127.0.0.1", "GET / HTTP/1.1\r\nHost: relay");
        assert_eq!(denied, Err(Refused::CrossSite(REBOUND)));
    }

    #[test]
    fn nobody_reads_under_a_name_that_was_made_to_lead_to_loopback() {
        let read = |listen: &str, host: &str, path: &str| {
            let line = format!("GET {path} HTTP/1.1\r\nHost: {host}");
            judge(None, listen, &line).map(|call| call.endpoint)
        };
        for host in [
            "evil.test",
            "evil.test:9090",
            "localhost.evil.test",
            "relay",
        ] {
            for path in ["/", "/status", "/metrics"] {
                assert_eq!(
                    read("127.0.0.1", host, path),
                    Err(Refused::CrossSite(REBOUND))
                );
            }
            assert_eq!(read("127.0.0.1", host, "/health"), Ok(Endpoint::Health));
            let ready = Ok(Endpoint::Ready(Detail::Hidden));
            assert_eq!(read("127.0.0.1", host, "/ready"), ready);
            // Prometheus asks by whatever name the network has for it.
            assert_eq!(read("0.0.0.0", host, "/metrics"), Ok(Endpoint::Metrics));
        }
        for host in [
            "127.0.0.1:9090",
            "[::1]:9090",
            "192.0.2.1",
            "localhost",
            "LOCALHOST.:9090",
            "relay.localhost",
            "",
        ] {
            assert_eq!(read("::1", host, "/status"), Ok(Endpoint::Status), "{host}");
        }
        let line =
            format!("GET /status HTTP/1.1\r\nHost: evil.test\r\nAuthorization: Bearer {TOKEN}");
        assert!(judge(Some(TOKEN), "127.0.0.1", &line).is_ok());
    }

    #[test]
    fn the_own_page_and_programs_can_act() {
        for (listen, fields) in [
            ("127.0.0.1", "Host: localhost:9090"),
            ("::1", "Host: [::1]:9090"),
            (
                "127.0.0.1",
                "Host: 127.0.0.1:9090\r\nOrigin: http://127.0.0.1:9090\r\nSec-Fetch-Site: same-origin",
            ),
            (
                "0.0.0.0",
                "Host: relay.example\r\nOrigin: https://relay.example\r\nSec-Fetch-Site: none",
            ),
        ] {
            check_site_of(listen, fields, Ok(()));
        }
    }

    #[test]
    fn a_name_survives_the_way_to_the_server_behind_the_front() {
        let names = ["a", "http://x:1/", "ä%2F?#", "\"><script>", " ", "a&b=1"];
        for (name, (_, action)) in names.into_iter().zip(Action::ALL.into_iter().cycle()) {
            let call = Call {
                endpoint: Endpoint::Act(ActionCall {
                    action,
                    name: name.to_owned(),
                    by: format!("192.0.2.1 (user {name})"),
                }),
                body: BodyWanted::Yes,
            };
            let (method, target) = call.request_line();
            assert_eq!(method, "POST");
            assert!(
                target.bytes().all(|byte| byte.is_ascii_graphic()),
                "{target}"
            );
            assert_eq!(Call::endpoint_of(&target), Some(call.endpoint), "{target}");
        }
    }

    #[test]
    fn every_endpoint_survives_the_way_to_the_server_behind_the_front() {
        for endpoint in [
            Endpoint::Page,
            Endpoint::Health,
            Endpoint::Ready(Detail::Shown),
            Endpoint::Ready(Detail::Hidden),
            Endpoint::Status,
            Endpoint::Connections(0),
            Endpoint::Connections(u64::MAX),
            Endpoint::Metrics,
        ] {
            let call = Call {
                endpoint: endpoint.clone(),
                body: BodyWanted::HeadRequest,
            };
            let (method, target) = call.request_line();
            assert_eq!(
                (method, Call::endpoint_of(&target)),
                ("HEAD", Some(endpoint))
            );
        }
    }
}
