//! The pool as the file has it: the list `upstream`.

use std::collections::HashMap;
use std::num::NonZeroU32;

use crate::balance::told::{self, Told, UserTemplate};
use crate::balance::upstream::{UpstreamProtocol, UpstreamSpec};
use crate::protocol::credentials::Credentials;
use crate::protocol::proxy_header::HeaderVersion;
use crate::protocol::target::Authority;

use super::lists;
use super::overrides::decoded;
use super::raw::YamlValue;
use super::reader::{KeyBlock, Located, has_password, quote};
use super::rules;
use super::secret::{Files, NoUpstreams};
#[cfg(feature = "tls")]
use super::tls::Authorities;
use super::urls;

/// The port of an HTTP proxy whose URL has none.
const HTTP_PORT: u16 = 8080;

/// That of a SOCKS5 proxy (RFC 1928 §3).
const SOCKS_PORT: u16 = 1080;

/// The longest user and the longest password of a SOCKS5 proxy, in bytes (RFC 1929 §2).
const SOCKS_LOGIN_MAX: usize = 255;

/// That of an HTTP proxy that is reached over TLS.
#[cfg(feature = "tls")]
const HTTPS_PORT: u16 = 443;

/// What upstreams are spoken to, and what is to be done about `https`.
#[cfg(feature = "tls")]
const SPOKEN: (&str, &str) = ("HTTP, HTTPS and SOCKS5", "");
#[cfg(not(feature = "tls"))]
const SPOKEN: (&str, &str) = (
    "plain HTTP and SOCKS5",
    "write http:// (requests for https:// sites go through such an upstream as well), with the port on which it \
     speaks plain HTTP; or build with `--features tls`",
);

/// The longest name, in bytes.
const NAME_MAX: usize = 128;

/// Reads the list, and those in files. The second of two equal upstreams is left out.
pub(super) fn read(files: &mut Files, root: &KeyBlock<'_>) -> Vec<UpstreamSpec> {
    let mut specs = Vec::new();
    let mut taken = Taken::default();
    #[cfg(feature = "tls")]
    let mut authorities = Authorities::default();
    if let Some(Located {
        place,
        value: YamlValue::Text(written),
    }) = root.item("upstream")
    {
        // several are often separated by commas
        let first = written.split(',').next().unwrap_or_default();
        place.error(format!(
            "expected a list, found a text: write a line for each upstream below it, as in `- url: {}`",
            as_url(first)
        ));
        return specs;
    }
    for item in root.list("upstream").unwrap_or_default() {
        if let YamlValue::Text(_) | YamlValue::Null = item.value {
            let written = if let YamlValue::Text(written) = item.value {
                written
            } else {
                ""
            };
            item.place.error(format!(
                "an upstream is a block of keys: write `- url: {}`",
                as_url(written)
            ));
            continue;
        }
        if let YamlValue::Unusable(said) = item.value {
            item.place.error(said);
            continue;
        }
        let block = KeyBlock::open(item, "upstream[]");
        if let Some(mut spec) = read_one(files, &block)
            && taken.is_new(&block, &mut spec)
        {
            #[cfg(feature = "tls")]
            authorities.read(files, &block, &mut spec);
            specs.push(spec);
        }
    }
    read_lists(files, root, (&mut specs, &mut taken));
    #[cfg(feature = "tls")]
    authorities.read_rest(files, &root.place_of("upstream_files"), &mut specs);
    specs
}

/// Says of keys for TLS that this build has none.
#[cfg(not(feature = "tls"))]
fn refuse_tls(block: &KeyBlock<'_>) {
    for key in ["ca_file", "server_name"]
        .into_iter()
        .filter(|key| block.has(key))
    {
        let text = "this program was built without TLS towards upstreams: build it with `--features tls`, or remove \
                    this key";
        block.place_of(key).error(text);
    }
}

/// What stands for an upstream in the place of its block, as its URL for a message: an example where it
/// is none, or has a password in it.
fn as_url(written: &str) -> String {
    match parse_url(written) {
        Ok((_, authority)) => format!("http://{authority}"),
        Err(_) => "http://host:port".to_owned(),
    }
}

/// What the upstreams so far are known by, and their names, each with the place it was found at.
#[derive(Default)]
struct Taken {
    upstreams: HashMap<(UpstreamProtocol, Authority, Option<Box<str>>), String>,
    names: HashMap<String, String>,
    /// The last number in a name of those that have none of their own.
    numbers: HashMap<Authority, usize>,
}

/// What an upstream shares with one before it, and what that is called.
enum Clash<'t> {
    Identity(&'t str),
    Name(&'t str),
}

impl Taken {
    fn is_new(&mut self, block: &KeyBlock<'_>, spec: &mut UpstreamSpec) -> bool {
        match self.take(spec, || block.place.name.clone()) {
            Ok(()) => return true,
            Err(Clash::Identity(first)) => block.place_of("url").compatibility(format!(
                "the same upstream as {first}, dropped; remove one of the two"
            )),
            Err(Clash::Name(first)) => block.place_of("name").error(format!(
                "{} is the name of {first}, too: give each upstream a name of its own",
                quote(&spec.name)
            )),
        }
        false
    }

    fn take(
        &mut self,
        spec: &mut UpstreamSpec,
        here: impl Fn() -> String,
    ) -> Result<(), Clash<'_>> {
        let (protocol, authority, user) = spec.identity();
        let identity = (protocol, authority.clone(), user.map(Into::into));
        if self.upstreams.contains_key(&identity) {
            let first = self.upstreams.get(&identity);
            return Err(Clash::Identity(first.map_or("", String::as_str)));
        }
        if spec.name == spec.authority.to_string() {
            self.number(spec);
        }
        if self.names.contains_key(&spec.name) {
            let first = self.names.get(&spec.name);
            return Err(Clash::Name(first.map_or("", String::as_str)));
        }
        self.upstreams.insert(identity, here());
        self.names.insert(spec.name.clone(), here());
        Ok(())
    }

    /// Appends a number to the name `host:port` if it is taken: `gate.example:8000-2`.
    fn number(&mut self, spec: &mut UpstreamSpec) {
        let count = self.numbers.entry(spec.authority.clone()).or_insert(1);
        while self.names.contains_key(&spec.name) {
            *count += 1;
            spec.name = format!("{}-{count}", spec.authority);
        }
    }
}

/// Adds the upstreams of the lists that `upstream_files` names.
fn read_lists(
    files: &mut Files,
    root: &KeyBlock<'_>,
    (specs, taken): (&mut Vec<UpstreamSpec>, &mut Taken),
) {
    let mut told = Vec::new();
    for path in root.texts("upstream_files").unwrap_or_default() {
        let file = quote(path.value);
        let (mut has_secret, mut mistyped) = (false, None);
        let read = lists::read(files, &path, |number, line| {
            let mut spec = read_line(line)?;
            has_secret |= spec.credentials.is_some();
            // One is told of: others are like it.
            let word = mistyped_user(line).filter(|_| mistyped.is_none());
            mistyped = mistyped
                .take()
                .or(word.map(|said| format!("line {number} of {file}: {said}")));
            match taken.take(&mut spec, || format!("line {number} of {file}")) {
                Ok(()) => specs.push(spec),
                Err(Clash::Identity(first)) => return Err(format!("the same upstream as {first}")),
                Err(Clash::Name(first)) => return Err(format!("its name is that of {first}, too")),
            }
            Ok(())
        });
        let Some((count, mode)) = read else {
            files.without_upstreams = Some(NoUpstreams::Noted);
            continue;
        };
        if count == 0 {
            let empty = || NoUpstreams::Empty(file.clone());
            files.without_upstreams.get_or_insert_with(empty);
        }
        if has_secret {
            Files::judge(&path, mode);
        }
        if let Some(said) = mistyped {
            path.place.advice(said);
        }
        told.push(format!("{count} of {file}"));
    }
    let told = Some(told.join(", ")).filter(|told| !told.is_empty());
    root.hold("upstream_files", told.unwrap_or_else(|| "none".to_owned()));
}

/// Reads a line of a list: where the upstream is, then what else is said of it. No message repeats any of it: it may
/// hold a password.
fn read_line(line: &str) -> Result<UpstreamSpec, String> {
    let mut words = line.split_whitespace();
    let (protocol, authority, credentials) = read_address(words.next().unwrap_or_default())?;
    if let Some((user, password)) = &credentials
        && protocol == UpstreamProtocol::Socks5
    {
        check_socks_login(user, password)?;
    }
    let (credentials, told) = credentials
        .map(|(user, password)| login(&user, &password))
        .unzip();
    let (mut name, mut group, mut weight) = (authority.to_string(), None, 1);
    for word in words {
        match word.split_once('=') {
            Some(("name", value)) => value.clone_into(&mut name),
            Some(("group", value)) => group = Some(check_group(value)?.into()),
            Some(("weight", value)) => {
                let number = value.parse().ok();
                weight = number.ok_or("a weight is a whole number")?;
            }
            _ => return Err("behind the address stands `weight=`, `group=` or `name=`".to_owned()),
        }
    }
    check_name(&name)?;
    Ok(UpstreamSpec {
        name,
        credentials,
        told: told.unwrap_or_default(),
        weight,
        group,
        ..UpstreamSpec::new(protocol, authority)
    })
}

/// Says how to write an address whose parts are those of another order, or too few.
const REVERSED: &str = "it may be host:port:user:password or user:password:host:port: write \
                        http://user:password@host:port";

/// What is wrong with parts between colons that are no address, where that can be told.
fn misplaced(text: &str) -> Option<&'static str> {
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port != 0);
    let parts: Vec<_> = text.split(':').collect();
    match *parts {
        [_, _, _, port] if is_port(port) => Some(REVERSED),
        [_, port, _] if is_port(port) => {
            Some("the password is missing: write host:port:user:password")
        }
        _ => None,
    }
}

/// What is said of the user name in a line, if a part of it is mistyped.
fn mistyped_user(line: &str) -> Option<String> {
    let address = line.split_whitespace().next()?;
    let (_, _, login) = read_address(Some(address).filter(|it| it.contains('{'))?).ok()?;
    let (word, part) = told::mistyped(&login?.0)?;
    Some(stands_for_nothing(&word, part))
}

/// A user and a password.
type Login = (String, String);

/// Reads `host:port`, `http://user:password@host:port` (or `socks5://`) with or without the scheme, or
/// `host:port:user:password`.
fn read_address(text: &str) -> Result<(UpstreamProtocol, Authority, Option<Login>), String> {
    if let Some((host, user, password)) = four_parts(text) {
        if may_be_reversed(host, user, password) {
            return Err(REVERSED.to_owned());
        }
        let (protocol, authority) = parse_url(host)?;
        let login = (user.to_owned(), password.to_owned());
        return Ok((protocol.unwrap_or_default(), authority, Some(login)));
    }
    let Some((before, host)) = text.rsplit_once('@') else {
        let parsed = parse_url(text);
        let (protocol, authority) =
            parsed.map_err(|said| misplaced(text).map_or(said, str::to_owned))?;
        return Ok((protocol.unwrap_or_default(), authority, None));
    };
    let (scheme, userinfo) = match before.split_once("://") {
        Some((scheme, userinfo)) => (format!("{scheme}://"), userinfo),
        None => (String::new(), before),
    };
    let (protocol, authority) = parse_url(&format!("{scheme}{host}"))?;
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let login = (decoded(user), decoded(password));
    Ok((protocol.unwrap_or_default(), authority, Some(login)))
}

/// `host:port`, user and password of `host:port:user:password`. The colons of an address in brackets separate
/// nothing, and those of the password neither.
fn four_parts(text: &str) -> Option<(&str, &str, &str)> {
    let bracket = text.find(']').filter(|_| text.starts_with('['));
    let colons = text.match_indices(':').map(|(at, _)| at);
    let mut colons = colons.filter(|at| bracket.is_none_or(|bracket| bracket < *at));
    let (port, user, password) = (colons.next()?, colons.next()?, colons.next()?);
    let digits = text.get(port + 1..user)?;
    let is_port = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_port.then_some((
        text.get(..user)?,
        text.get(user + 1..password)?,
        text.get(password + 1..)?,
    ))
}

/// Whether the four parts may be `user:password:host:port`, with a password that looks like a port. It would be taken
/// for the port and shown. Only of the two that stand for a host can be told which is one: it has a dot or is in
/// brackets.
fn may_be_reversed(host: &str, user: &str, password: &str) -> bool {
    let is_port = password.parse::<u16>().is_ok_and(|port| port != 0);
    let is_plainly_host = |text: &str| text.contains('.') || text.starts_with('[');
    is_port && (!is_plainly_host(host) || is_plainly_host(user))
}

fn read_one(files: &mut Files, block: &KeyBlock<'_>) -> Option<UpstreamSpec> {
    #[cfg(not(feature = "tls"))]
    refuse_tls(block);
    let weight = block.number("weight");
    if weight == 0 {
        block.place_of("weight").advice(
            "0 means no new requests (in the first release it meant 1): write 1 or more to use \
             this upstream",
        );
    }
    let priority = block.number("priority");
    let max_active = NonZeroU32::new(block.number("max_active"));
    let url = read_url(block);
    let protocol = url
        .as_ref()
        .map_or_else(UpstreamProtocol::default, |url| url.0);
    let (credentials, told) = read_credentials(files, block, protocol).unzip();
    let told = Told {
        proxy_header: read_proxy_header(block),
        passes_credentials: reads_client(block, protocol),
        ..told.unwrap_or_default()
    };
    let name = read_name(block);
    let group = read_group(block);
    let (protocol, authority) = url?;
    let name = name.unwrap_or_else(|| authority.to_string());
    Some(UpstreamSpec {
        name,
        credentials,
        told,
        weight,
        priority,
        group,
        max_active,
        ..UpstreamSpec::new(protocol, authority)
    })
}

/// Whether the credentials are the client's.
fn reads_client(block: &KeyBlock<'_>, protocol: UpstreamProtocol) -> bool {
    let is_clients = block.word("credentials") == "client";
    let place = block.place_of("credentials");
    if is_clients && protocol == UpstreamProtocol::Socks5 {
        place.error(
            "clients have no credentials of SOCKS5 to pass on: write `username` and `password` for this upstream",
        );
    }
    if is_clients && block.has("username") {
        place.error(
            "the client's credentials are passed on, so those of `username` would never be: remove one of the two",
        );
    }
    is_clients
}

fn read_proxy_header(block: &KeyBlock<'_>) -> Option<HeaderVersion> {
    match block.word("proxy_protocol") {
        "v1" => Some(HeaderVersion::V1),
        "v2" => Some(HeaderVersion::V2),
        _ => None,
    }
}

fn read_group(block: &KeyBlock<'_>) -> Option<Box<str>> {
    let Located { place, value } = block.text("group")?;
    match check_group(value) {
        Ok(group) => Some(group.into()),
        Err(said) => {
            place.error(format!("{said}; not {}", quote(value)));
            None
        }
    }
}

/// A name as rules can write it in a list.
fn check_group(name: &str) -> Result<&str, String> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if rules::is_group_name(name) && name.len() <= NAME_MAX && name.chars().all(is_word) {
        Ok(name)
    } else {
        let text = "a group is a word of letters, digits, `-`, `_` and `.`, and none of `direct`, `refuse` and `any`, \
                    which are ways of their own";
        Err(text.to_owned())
    }
}

fn read_url(block: &KeyBlock<'_>) -> Option<(UpstreamProtocol, Authority)> {
    let place = block.place_of("url");
    if block.item("url").is_none() {
        place.error("every upstream needs one: write `url: http://host:port`");
        return None;
    }
    let url = parse_url(block.text("url")?.value);
    let (protocol, authority) = url.map_err(|said| place.error(said)).ok()?;
    if protocol.is_none() {
        place.compatibility(format!(
            "the scheme is missing, read as `http://{authority}`: write that"
        ));
    }
    Some((protocol.unwrap_or_default(), authority))
}

/// What an upstream speaks, if that was written, and where it is.
fn parse_url(url: &str) -> Result<(Option<UpstreamProtocol>, Authority), String> {
    let (scheme, authority, rest) = urls::split(url);
    let spoken = [
        (UpstreamProtocol::Http, HTTP_PORT),
        (UpstreamProtocol::Socks5, SOCKS_PORT),
        #[cfg(feature = "tls")]
        (UpstreamProtocol::Https, HTTPS_PORT),
    ];
    let known = |scheme: &str| {
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
        if !scheme.chars().all(is_word) {
            // It may hold a password, which no message repeats.
            return Err("what stands before `://` is no scheme: write http://host:port".to_owned());
        }
        let is_it =
            |(protocol, _): &&(UpstreamProtocol, _)| scheme.eq_ignore_ascii_case(protocol.scheme());
        spoken.iter().find(is_it).ok_or_else(|| {
            let (spoken, of_https) = SPOKEN;
            let remedy = if scheme.eq_ignore_ascii_case("https") {
                of_https
            } else if scheme.to_ascii_lowercase().starts_with("socks") {
                "write socks5://host:port (it resolves names itself)"
            } else {
                "write http://host:port"
            };
            format!(
                "{} is not spoken to upstreams, only {spoken} are: {remedy}",
                quote(scheme)
            )
        })
    };
    let written = scheme.map(known).transpose()?;
    let port = written.map_or(HTTP_PORT, |(_, port)| *port);
    let protocol = written.map(|(protocol, _)| *protocol);
    let authority = urls::authority(authority, port)?;
    if !matches!(rest, "" | "/") {
        let scheme = protocol.unwrap_or_default().scheme();
        return Err(format!(
            "a path, query or fragment means nothing for an upstream: write `{scheme}://{authority}`"
        ));
    }
    Ok((protocol, authority))
}

fn read_name(block: &KeyBlock<'_>) -> Option<String> {
    let Located { place, value } = block.text("name")?;
    match check_name(value) {
        Ok(()) => Some(value.to_owned()),
        Err(said) => {
            place.error(said);
            None
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || NAME_MAX < name.len() || name.chars().any(char::is_control) {
        return Err(format!(
            "write 1 to {NAME_MAX} bytes without control characters"
        ));
    }
    if has_password(name) {
        let text = "a name is shown in logs and metrics: write it without user and password";
        return Err(text.to_owned());
    }
    Ok(())
}

fn read_credentials(
    files: &mut Files,
    block: &KeyBlock<'_>,
    protocol: UpstreamProtocol,
) -> Option<(Credentials, Told)> {
    let username = block.text("username");
    let password = files.secret(block, "password");
    match (username, password) {
        // a password may be empty (RFC 7617 section 2)
        (Some(user), password) => {
            if protocol != UpstreamProtocol::Socks5 && user.value.contains(':') {
                user.place.advice(
                    "the upstream takes what stands behind the colon for the password (RFC 7617): \
                     a user name cannot have one",
                );
            }
            if let Some((word, part)) = told::mistyped(user.value) {
                user.place.advice(stands_for_nothing(&word, part));
            }
            if password.is_none() && block.has("password") && block.item("password").is_none() {
                block.place_of("password").advice(
                    "has no value, so the password is empty (` #` begins a comment): write one that \
                     begins with # in 'quotes', and an empty one as ''",
                );
            }
            let password = password.map(|password| password.value.unwrap_or_default());
            let password = password.unwrap_or_default();
            if protocol == UpstreamProtocol::Socks5
                && let Err(said) = check_socks_login(user.value, &password)
            {
                user.place.error(said);
            }
            Some(login(user.value, &password))
        }
        (None, Some(_)) => {
            let file = block.item("password_file").map(|file| file.place);
            file.unwrap_or_else(|| block.place_of("password"))
                .compatibility("ignored without `username`: write that, too");
            None
        }
        (None, None) => None,
    }
}

fn stands_for_nothing(word: &str, part: &str) -> String {
    format!("`{word}` stands for nothing: did you mean `{part}`?")
}

/// What an upstream of this login is told by checks, and by requests.
fn login(user: &str, password: &str) -> (Credentials, Told) {
    let username = UserTemplate::parse(user, password);
    let fixed = || Credentials::basic(user, password);
    let for_checks = username
        .as_ref()
        .map_or_else(fixed, UserTemplate::for_probe);
    let told = Told {
        username,
        ..Told::default()
    };
    (for_checks, told)
}

fn check_socks_login(user: &str, password: &str) -> Result<(), String> {
    let longest = UserTemplate::parse(user, password).map(|it| it.length_max());
    let fits = |length: usize| (1..=SOCKS_LOGIN_MAX).contains(&length);
    if fits(longest.unwrap_or(user.len())) && fits(password.len()) {
        return Ok(());
    }
    Err(format!(
        "a SOCKS5 proxy takes a user and a password of 1 to {SOCKS_LOGIN_MAX} bytes each (RFC 1929): write \
         both, or none"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::told::Part;

    #[test]
    fn parts_in_another_order_or_too_few_are_told_so() {
        for (line, said) in [
            ("u:p:10.0.0.1:8080", "it may be host:port:user:password or"),
            ("10.0.0.1:8000:user", "the password is missing: write"),
        ] {
            let told = read_line(line).unwrap_err();
            assert!(told.starts_with(said), "{told}");
        }
    }

    fn check(url: &str, wanted: Result<&str, &str>) {
        match (parse_url(url), wanted) {
            (Ok((Some(UpstreamProtocol::Http), authority)), Ok(wanted)) => {
                assert_eq!(authority.to_string(), wanted);
            }
            (Ok((Some(UpstreamProtocol::Socks5), authority)), Ok(wanted)) => {
                assert_eq!(format!("SOCKS {authority}"), wanted);
            }
            (Ok((None, authority)), Ok(wanted)) => {
                assert_eq!(format!("schemeless {authority}"), wanted);
            }
            (Err(said), Err(part)) => assert!(said.contains(part), "{url}: {said}"),
            (got, _) => panic!("{url}: {got:?}"),
        }
    }

    #[test]
    fn a_line_of_a_list_is_an_address_as_providers_write_it() {
        let basic = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        for (line, authority, credentials) in [
            ("p.test:1", "p.test:1", None),
            ("http://p.test:1", "p.test:1", None),
            ("p.test", "p.test:8080", None),
            ("[::1]:1", "[::1]:1", None),
            ("p.test:1:ann:x", "p.test:1", basic("ann", "x")),
            ("p.test:1:ann:a@b", "p.test:1", basic("ann", "a@b")),
            (
                "p.test:1:ann-session-1:a:b#c",
                "p.test:1",
                basic("ann-session-1", "a:b#c"),
            ),
            ("[::1]:1:ann:x", "[::1]:1", basic("ann", "x")),
            ("p.test:1:ann:54321", "p.test:1", basic("ann", "54321")),
            ("[::1]:1:ann:54321", "[::1]:1", basic("ann", "54321")),
            ("gate:1:ann:5432x", "gate:1", basic("ann", "5432x")),
            ("http://ann:x@p.test:1", "p.test:1", basic("ann", "x")),
            ("ann:a%40b@p.test:1", "p.test:1", basic("ann", "a@b")),
            ("http://ann@p.test:1", "p.test:1", basic("ann", "")),
        ] {
            match read_address(line) {
                Ok((_, got, user)) => {
                    assert_eq!(
                        (&*got.to_string(), user),
                        (authority, credentials),
                        "{line}"
                    );
                }
                Err(said) => assert_eq!(authority, "", "{line}: {said}"),
            }
        }
    }

    #[test]
    fn a_line_of_a_list_says_name_group_and_weight() {
        let spec = read_line("p.test:1:ann:x  weight=3 group=eu name=one").unwrap();
        assert_eq!(
            (&*spec.name, spec.group.as_deref(), spec.weight),
            ("one", Some("eu"), 3)
        );
        let spec = read_line("socks5://ann:x@p.test").unwrap();
        assert_eq!(spec.url(), "socks5://p.test:1080");
        let spec = read_line("p.test:1:ann:x").unwrap();
        assert_eq!(
            (&*spec.name, spec.group.as_deref(), spec.weight),
            ("p.test:1", None, 1)
        );
    }

    #[test]
    fn a_bad_line_is_told_without_its_password() {
        for line in [
            "p.test:x:ann:hunter2",
            "p.test:1:hunter2",
            "ann:hunter2://p.test:1",
            "ann:hunter2://bob:x@p.test:1",
            "socks4://ann:hunter2@p.test:1",
            "socks5://:hunter2@p.test:1",
            "https://p.test:1:ann:hunter2",
            "p.test:1:ann:hunter2 hunter2",
            "p.test:1:ann:hunter2 weight=hunter2",
            "p.test:1:ann:hunter2 name=hunter2:x@y",
            "p.test:1:ann:hunter2 group=direct",
            "p.test:1:ann:x group=eu/hunter2",
            "ann:hunter2:p.test:1",
            "ann:hunter2@",
            "ann:hunter2@p.test/hunter2",
        ] {
            let said = read_line(line).map(|_| ()).unwrap_err();
            assert!(!said.contains("hunter2"), "{line}: {said}");
        }
    }

    /// The password would be the port of an upstream, and shown as that.
    #[test]
    fn a_line_that_may_have_the_login_first_is_refused_with_the_form_that_cannot_be_misread() {
        for line in [
            "ann:54321:p.test:8000",
            "ann:54321:gate:8000",
            "a.b:54321:p.test:8000",
        ] {
            let said = read_line(line).map(|_| ()).unwrap_err();
            assert!(
                said.contains("write http://user:password@host:port"),
                "{said}"
            );
            assert!(!said.contains("54321"), "{said}");
        }
    }

    #[test]
    fn an_upstream_is_a_host_with_a_port() {
        check("http://p.test:3128", Ok("p.test:3128"));
        check("http://p.test:3128/", Ok("p.test:3128"));
        check("HTTP://P.Test", Ok("p.test:8080"));
        check("http://[::1]:8080", Ok("[::1]:8080"));
        check("http://[::1]", Ok("[::1]:8080"));
    }

    #[test]
    fn a_login_for_socks5_has_1_to_255_bytes_in_each_part() {
        let (most, more) = ("x".repeat(255), "x".repeat(256));
        for (user, password, fits) in [
            (&*most, &*most, true),
            (&*more, "x", false),
            ("x", &*more, false),
            ("x", "", false),
        ] {
            let line = |scheme| read_line(&format!("{scheme}://{user}:{password}@p.test"));
            assert_eq!(
                line("socks5").is_ok(),
                fits,
                "{} {}",
                user.len(),
                password.len()
            );
            assert!(line("http").is_ok());
        }
    }

    #[test]
    fn a_login_for_socks5_has_room_for_the_longest_session() {
        let line = |scheme, length| {
            let text = "x".repeat(length);
            read_line(&format!("{scheme}://{text}{{session}}:x@p.test"))
        };
        assert!(line("socks5", 255 - 64).is_ok());
        assert!(line("socks5", 256 - 64).is_err());
        assert!(line("http", 256 - 64).is_ok());
    }

    #[test]
    fn a_line_of_a_list_may_have_a_session_in_its_user() {
        for line in ["p.test:1:x-{session}:pw", "x-%7bsession%7d:pw@p.test:1"] {
            let spec = read_line(line).unwrap();
            assert!(spec.told.has(Part::Session), "{line}");
            let for_checks = Credentials::basic("x-probe", "pw");
            assert_eq!(spec.credentials, Some(for_checks), "{line}");
        }
    }

    #[test]
    fn a_socks5_proxy_has_a_port_of_its_own() {
        check("socks5://p.test:3128", Ok("SOCKS p.test:3128"));
        check("SOCKS5://p.test/", Ok("SOCKS p.test:1080"));
        check("socks5://[::1]", Ok("SOCKS [::1]:1080"));
        check("socks5://p.test/path", Err("write `socks5://p.test:1080`"));
        check(
            "socks5://bob:hunter2@p.test",
            Err("`username` and `password`"),
        );
    }

    #[test]
    fn a_missing_scheme_means_http() {
        check("p.test:3128", Ok("schemeless p.test:3128"));
        check("10.0.0.1:3128/", Ok("schemeless 10.0.0.1:3128"));
        check("p.test", Ok("schemeless p.test:8080"));
    }

    #[test]
    fn an_impossible_url_is_told_what_to_write() {
        #[cfg(not(feature = "tls"))]
        check(
            "https://p.test:3128",
            Err("`https` is not spoken to upstreams"),
        );
        check("socks4://p.test:1080", Err("`socks4` is not spoken"));
        check("socks5h://p.test:1080", Err("socks5://host:port"));
        check("http://p.test:3128/path", Err("write `http://p.test:3128`"));
        check("http://p.test:3128?x", Err("write `http://p.test:3128`"));
        check(
            "http://bob:hunter2@p.test",
            Err("`username` and `password`"),
        );
        check("bob:hunter2@p.test:1", Err("`username` and `password`"));
        for port in ["0", "65536", "99999", "notaport", "+1", "-1"] {
            check(&format!("http://p.test:{port}"), Err("from 1 to 65535"));
        }
        check("http://", Err("the host is missing"));
        check("http://:8080", Err("the host is missing"));
        check("http://a b:80", Err("this is no host"));
        check("http://::1:8080", Err(""));
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        let said = parse_url("http://bob:hunter2@p.test").unwrap_err();
        assert!(!said.contains("hunter2"), "{said}");
    }
}
