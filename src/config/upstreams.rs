//! The pool as the file has it: the list `upstream`.

use std::collections::HashMap;

use crate::balance::upstream::UpstreamSpec;
use crate::protocol::credentials::Credentials;
use crate::protocol::target::Authority;

use super::findings::{Findings, Place};
use super::keys::Shape;
use super::raw::Value;
use super::reader::{Item, Section, has_password, quote};
use super::secret::Files;
use super::urls;

/// The port of an upstream whose URL has none.
const PORT_DEFAULT: u16 = 8080;

/// The longest name, in bytes.
const NAME_MAX: usize = 128;

/// Reads the list. The second of two equal upstreams is left out.
pub(super) fn read(
    findings: &mut Findings,
    files: &mut Files,
    items: Vec<Item<'_>>,
    shape: &'static Shape,
) -> Vec<UpstreamSpec> {
    let mut specs = Vec::new();
    let mut taken = Taken::default();
    for item in items {
        let Some(block) = open(findings, item, shape) else {
            continue;
        };
        let Some(spec) = read_one(findings, files, &block) else {
            continue;
        };
        if taken.is_new(findings, &block, &spec) {
            specs.push(spec);
        }
    }
    specs
}

/// The URLs and names of the upstreams so far, each with the place it was
/// found at.
#[derive(Default)]
struct Taken {
    authorities: HashMap<Authority, String>,
    names: HashMap<String, String>,
}

impl Taken {
    fn is_new(
        &mut self,
        findings: &mut Findings,
        block: &Section<'_>,
        spec: &UpstreamSpec,
    ) -> bool {
        let here = block.place().name.clone();
        if let Some(first) = self.authorities.get(&spec.authority) {
            let text = format!("the same upstream as {first}, dropped; remove one of the two");
            findings.compatibility(&block.place_of("url"), text);
            return false;
        }
        if let Some(first) = self.names.get(&spec.name) {
            let text = format!(
                "{} is the name of {first}, too: give each upstream a name of its own",
                quote(&spec.name)
            );
            findings.error(&block.place_of("name"), text);
            return false;
        }
        self.authorities
            .insert(spec.authority.clone(), here.clone());
        self.names.insert(spec.name.clone(), here);
        true
    }
}

fn open<'v>(findings: &mut Findings, item: Item<'v>, shape: &'static Shape) -> Option<Section<'v>> {
    if let Value::Text(_) | Value::Null = item.value {
        findings.error(
            &item.place,
            "an upstream is a block of keys: write `- url: http://host:port`",
        );
        return None;
    }
    Some(Section::open(findings, item, shape))
}

fn read_one(
    findings: &mut Findings,
    files: &mut Files,
    block: &Section<'_>,
) -> Option<UpstreamSpec> {
    let weight = block.integer(findings, "weight", 0..=u32::MAX, 1);
    if weight == 0 {
        findings.advice(
            &block.place_of("weight"),
            "0 means no new requests (in the first release it meant 1): write 1 or more to use \
             this upstream",
        );
    }
    let priority = block.integer(findings, "priority", 0..=u32::MAX, 100);
    let credentials = read_credentials(findings, files, block);
    let name = read_name(findings, block);
    let authority = read_url(findings, block)?;
    let name = name.unwrap_or_else(|| authority.to_string());
    Some(UpstreamSpec {
        name,
        authority,
        credentials,
        weight,
        priority,
    })
}

fn read_url(findings: &mut Findings, block: &Section<'_>) -> Option<Authority> {
    if block.item("url").is_none() {
        let place = block.place_of("url");
        findings.error(
            &place,
            "every upstream needs one: write `url: http://host:port`",
        );
        return None;
    }
    let written = block.text(findings, "url")?;
    match parse_url(written.text) {
        Ok(Url::Whole(authority)) => Some(authority),
        Ok(Url::Schemeless(authority)) => {
            let text = format!("the scheme is missing, read as `http://{authority}`: write that");
            findings.compatibility(&written.place, text);
            Some(authority)
        }
        Err(said) => {
            findings.error(&written.place, said);
            None
        }
    }
}

/// Where an upstream is, and how that was written.
#[derive(Debug, PartialEq, Eq)]
enum Url {
    Whole(Authority),
    Schemeless(Authority),
}

fn parse_url(url: &str) -> Result<Url, String> {
    let parts = urls::split(url);
    if let Some(scheme) = parts.scheme
        && !scheme.eq_ignore_ascii_case("http")
    {
        return Err(format!(
            "{} is not spoken to upstreams, only plain HTTP is: write http://host:port",
            quote(scheme)
        ));
    }
    let authority = urls::authority(parts.authority, PORT_DEFAULT)?;
    if !matches!(parts.rest, "" | "/") {
        return Err(format!(
            "a path, query or fragment means nothing for an upstream: write `http://{authority}`"
        ));
    }
    Ok(match parts.scheme {
        Some(_) => Url::Whole(authority),
        None => Url::Schemeless(authority),
    })
}

fn read_name(findings: &mut Findings, block: &Section<'_>) -> Option<String> {
    let written = block.text(findings, "name")?;
    if written.text.is_empty()
        || NAME_MAX < written.text.len()
        || written.text.chars().any(char::is_control)
    {
        let text = format!("write 1 to {NAME_MAX} bytes without control characters");
        findings.error(&written.place, text);
        return None;
    }
    if has_password(written.text) {
        let text = "a name is shown in logs and metrics: write it without user and password";
        findings.error(&written.place, text);
        return None;
    }
    Some(written.text.to_owned())
}

fn read_credentials(
    findings: &mut Findings,
    files: &mut Files,
    block: &Section<'_>,
) -> Option<Credentials> {
    let username = block.text(findings, "username");
    let inline = block.text(findings, "password");
    let file = block.text(findings, "password_file");
    if let (Some(_), Some(file)) = (&inline, &file) {
        note_both(findings, &file.place, "password");
    }
    files.has_inline_secret |= inline.is_some();
    let password = match (inline, &file) {
        (Some(password), _) => Some(password.text.to_owned()),
        (None, Some(path)) => Some(files.secret(findings, path).unwrap_or_default()),
        (None, None) => None,
    };
    match (username, password) {
        // a password may be empty (RFC 7617 section 2)
        (Some(user), password) => {
            if user.text.contains(':') {
                findings.advice(
                    &user.place,
                    "the upstream takes what stands behind the colon for the password \
                     (RFC 7617): a user name cannot have one",
                );
            }
            Some(Credentials::basic(user.text, &password.unwrap_or_default()))
        }
        (None, Some(_)) => {
            let place = file.map_or_else(|| block.place_of("password"), |file| file.place);
            findings.compatibility(&place, "ignored without `username`: write that, too");
            None
        }
        (None, None) => None,
    }
}

/// Notes that a secret was given twice: as `key` and as `key`_file.
pub(super) fn note_both(findings: &mut Findings, place: &Place, key: &str) {
    findings.error(place, format!("`{key}` is there, too: keep one of the two"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, wanted: Result<&str, &str>) {
        match (parse_url(url), wanted) {
            (Ok(Url::Whole(authority)), Ok(wanted)) => assert_eq!(authority.to_string(), wanted),
            (Ok(Url::Schemeless(authority)), Ok(wanted)) => {
                assert_eq!(format!("schemeless {authority}"), wanted);
            }
            (Err(said), Err(part)) => assert!(said.contains(part), "{url}: {said}"),
            (got, _) => panic!("{url}: {got:?}"),
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
    fn a_missing_scheme_means_http() {
        check("p.test:3128", Ok("schemeless p.test:3128"));
        check("10.0.0.1:3128/", Ok("schemeless 10.0.0.1:3128"));
        check("p.test", Ok("schemeless p.test:8080"));
    }

    #[test]
    fn an_impossible_url_is_told_what_to_write() {
        check(
            "https://p.test:3128",
            Err("`https` is not spoken to upstreams"),
        );
        check("socks5://p.test:1080", Err("`socks5` is not spoken"));
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
