//! What an upstream is told of the client: a user name that is another for each session, a PROXY header.
//!
//! Who sells exits keeps an exit for a session that is named in the user name of the login: with
//! `customer-x-sessid-{session}` that session is the client's own. Clients choose such names, and what else stands in a
//! user name is a contract with the provider. So a value has nothing in it but letters, digits and `_`, different
//! values stay different, and none is longer than a provider takes.
//!
//! Not here: what a request is known by (`relay/told.rs`).

use std::fmt::{self, Write};

use crate::protocol::credentials::Credentials;
use crate::protocol::proxy_header::HeaderVersion;

use super::sticky;

/// What stands for each part when a check asks.
const PROBE: &str = "probe";

/// The longest value, in bytes; a hash stands for what would be longer.
const PART_MAX: usize = 64;

/// What an upstream is told of the client.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Told {
    /// Its user name, where that depends on the request.
    pub username: Option<UserTemplate>,
    /// The PROXY header that its connections begin with.
    pub proxy_header: Option<HeaderVersion>,
    /// Whether the credentials it wants are the client's, and not ours.
    pub passes_credentials: bool,
}

/// A user name with places for parts of the request, and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct UserTemplate {
    /// In front of each part stands a text.
    parts: Vec<(Box<str>, Part)>,
    rest: Box<str>,
    password: Box<str>,
}

/// What a place in a user name is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The session of the request.
    Session,
    /// The user that the client has authenticated as.
    User,
    /// The address of the client.
    Client,
}

/// The parts of one request, each as [`safe`] makes it.
#[derive(Debug)]
pub struct Parts {
    /// Of [`Part::Session`].
    pub session: String,
    /// Whether other requests have the same session.
    pub is_session_shared: bool,
    /// Of [`Part::User`].
    pub user: String,
    /// Of [`Part::Client`].
    pub client: String,
}

impl Told {
    /// Whether it is told the same of all clients.
    pub fn is_nothing(&self) -> bool {
        self.username.is_none() && !self.is_one_clients()
    }

    /// Whether it takes all that comes on a connection for that of one client.
    pub fn is_one_clients(&self) -> bool {
        self.proxy_header.is_some() || self.passes_credentials
    }

    /// Whether the user name has a place for this part.
    pub fn has(&self, part: Part) -> bool {
        let username = self.username.as_ref();
        username.is_some_and(|username| username.has(part))
    }
}

impl Part {
    /// All of them, as they are written.
    pub const ALL: [(&'static str, Self); 3] = [
        ("{session}", Self::Session),
        ("{user}", Self::User),
        ("{client}", Self::Client),
    ];
}

/// What stands in braces in this user name as a part does, and is none: a mistyped one; with the part that it
/// resembles.
pub fn mistyped(username: &str) -> Option<(String, &'static str)> {
    let words = username.split('{').skip(1);
    let words = words.filter_map(|behind| Some(format!("{{{}}}", behind.split_once('}')?.0)));
    let mut mistyped = words.filter_map(|word| {
        let resembles = |part: &str| part.get(..2) == word.get(..2);
        let mut parts = Part::ALL.iter().map(|(part, _)| *part);
        let is_word = word.len() <= 12
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || b"{}".contains(&byte));
        let part = parts.find(|part| is_word && resembles(part))?;
        (part != word).then_some((word, part))
    });
    mistyped.next()
}

impl UserTemplate {
    /// The template of this user name. `None`: it is the same for all requests.
    pub fn parse(username: &str, password: &str) -> Option<Self> {
        let (mut parts, mut rest) = (Vec::new(), username);
        while let Some((before, part, behind)) = next_part(rest) {
            parts.push((before.into(), part));
            rest = behind;
        }
        let (rest, password) = (rest.into(), password.into());
        let has_parts = !parts.is_empty();
        has_parts.then_some(Self {
            parts,
            rest,
            password,
        })
    }

    fn has(&self, part: Part) -> bool {
        self.parts.iter().any(|(_, its)| *its == part)
    }

    /// The credentials for a request of these parts.
    pub fn fill(&self, of: &Parts) -> Credentials {
        self.with(|part| match part {
            Part::Session => &of.session,
            Part::User => &of.user,
            Part::Client => &of.client,
        })
    }

    /// Those for a check.
    pub fn for_probe(&self) -> Credentials {
        self.with(|_| PROBE)
    }

    /// The longest user name that it can make, in bytes.
    pub fn length_max(&self) -> usize {
        let texts = self.parts.iter().map(|(text, _)| text.len() + PART_MAX);
        texts.sum::<usize>() + self.rest.len()
    }

    /// As in the file, but the parts alone: what stands between them may be secret.
    pub fn shown(&self) -> String {
        let used = Part::ALL.into_iter().filter(|(_, part)| self.has(*part));
        let used: Vec<_> = used.map(|(written, _)| written).collect();
        used.join(", ")
    }

    fn with<'v>(&self, value: impl Fn(Part) -> &'v str) -> Credentials {
        let mut user = String::new();
        for (text, part) in &self.parts {
            user.push_str(text);
            user.push_str(value(*part));
        }
        user.push_str(&self.rest);
        Credentials::basic(&user, &self.password)
    }
}

impl fmt::Debug for UserTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserTemplate({})", self.shown())
    }
}

/// The text before the first part in `text`, that part, and what is behind it.
fn next_part(text: &str) -> Option<(&str, Part, &str)> {
    let first = |(written, part)| Some((text.find(written)?, written, part));
    let found = Part::ALL.into_iter().filter_map(first);
    let (at, written, part): (usize, &str, Part) = found.min_by_key(|(at, ..)| *at)?;
    let (before, behind) = text.split_at_checked(at)?;
    Some((before, part, behind.strip_prefix(written)?))
}

/// A value as a user name may have it: letters and digits stay, `_` and two digits stand for every other byte, and `__`
/// and a hash for the whole where that is too long. So no two values are the same afterwards.
pub fn safe(value: &[u8]) -> String {
    let mut safe = String::new();
    for byte in value.iter().take(PART_MAX + 1) {
        if byte.is_ascii_alphanumeric() {
            safe.push(char::from(*byte));
        } else {
            // A `String` takes whatever is written to it.
            let _always = write!(safe, "_{byte:02x}");
        }
    }
    if safe.len() <= PART_MAX {
        return safe;
    }
    let (one, other) = (sticky::hash(value), sticky::hash(&[b"_", value].concat()));
    format!("__{one:016x}{other:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts {
            session: "a1".to_owned(),
            is_session_shared: true,
            user: "ann".to_owned(),
            client: "c0000201".to_owned(),
        }
    }

    #[test]
    fn a_mistyped_part_is_known_by_how_it_begins() {
        for (username, wanted) in [
            ("a-{sesion}", Some(("{sesion}", "{session}"))),
            ("a-{session}-{usr}", Some(("{usr}", "{user}"))),
            ("{clients}", Some(("{clients}", "{client}"))),
            ("{session}{user}{client}", None),
            ("a{b", None),
            ("{x}", None),
            ("{s3cret}", None),
            ("{}", None),
        ] {
            let found = mistyped(username);
            let found = found.as_ref().map(|(word, part)| (&**word, *part));
            assert_eq!(found, wanted, "{username}");
        }
    }

    #[test]
    fn a_user_name_is_filled_with_what_the_request_is_known_by() {
        for (username, filled, for_probe) in [
            ("x-sessid-{session}", "x-sessid-a1", "x-sessid-probe"),
            ("{session}", "a1", "probe"),
            (
                "{client}{user}-{session}-z",
                "c0000201ann-a1-z",
                "probeprobe-probe-z",
            ),
            ("{session}{session}", "a1a1", "probeprobe"),
            ("{{user}}{sessions}", "{ann}{sessions}", "{probe}{sessions}"),
        ] {
            let template = UserTemplate::parse(username, "pw").unwrap();
            assert_eq!(template.fill(&parts()), Credentials::basic(filled, "pw"));
            assert_eq!(template.for_probe(), Credentials::basic(for_probe, "pw"));
        }
    }

    #[test]
    fn a_user_name_without_a_part_is_none_of_them() {
        for username in ["", "someone", "a{b}c", "{Session}", "session}", "{session"] {
            assert_eq!(UserTemplate::parse(username, "pw"), None, "{username}");
        }
    }

    #[test]
    fn what_a_client_names_adds_nothing_to_a_user_name_but_itself() {
        for (value, wanted) in [
            ("a1B2", "a1B2"),
            ("a-country-us", "a_2dcountry_2dus"),
            ("a:b", "a_3ab"),
            ("a_3ab", "a_5f3ab"),
            ("\u{e9}\r\n", "_c3_a9_0d_0a"),
            ("", ""),
        ] {
            assert_eq!(safe(value.as_bytes()), wanted);
        }
    }

    #[test]
    fn a_value_that_is_too_long_becomes_a_hash() {
        let longest = "x".repeat(64);
        assert_eq!(safe(longest.as_bytes()), longest);
        let (one, other) = (
            safe("x".repeat(65).as_bytes()),
            safe("x".repeat(66).as_bytes()),
        );
        assert_eq!((one.len(), other.len()), (34, 34));
        assert!(one.starts_with("__"), "{one}");
        assert_ne!(one, other);
        assert_eq!(safe("-".repeat(21).as_bytes()).len(), 63);
        assert_eq!(safe("-".repeat(22).as_bytes()).len(), 34);
        // Several relays must say the same.
        assert_eq!(one, "__21673e365902a304cdcdfe27dc60290a");
    }

    #[test]
    fn the_longest_user_name_is_known_before() {
        let template = UserTemplate::parse("abc{session}-{user}", "").unwrap();
        assert_eq!(template.length_max(), 4 + 2 * 64);
    }

    #[test]
    fn debug_shows_neither_name_nor_password() {
        let template = UserTemplate::parse("bob-{user}{session}", "hunter2");
        let shown = format!("{template:?}");
        assert_eq!(shown, "Some(UserTemplate({session}, {user}))");
    }
}
