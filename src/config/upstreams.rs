//! The pool as the file has it: the list `upstream`.

use std::collections::HashMap;

use crate::balance::upstream::UpstreamSpec;
use crate::protocol::credentials::Credentials;
use crate::protocol::target::Authority;

use super::raw::YamlValue;
use super::reader::{KeyBlock, Located, has_password, quote};
use super::secret::Files;
use super::urls;

/// The port of an upstream whose URL has none.
const PORT_DEFAULT: u16 = 8080;

/// The longest name, in bytes.
const NAME_MAX: usize = 128;

/// Reads the list. The second of two equal upstreams is left out.
pub(super) fn read(files: &mut Files, root: &KeyBlock<'_>) -> Vec<UpstreamSpec> {
    let mut specs = Vec::new();
    let mut taken = Taken::default();
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
        if let Some(spec) = read_one(files, &block)
            && taken.is_new(&block, &spec)
        {
            specs.push(spec);
        }
    }
    specs
}

/// What stands for an upstream in the place of its block, as its URL for a message: an example where it
/// is none, or has a password in it.
fn as_url(written: &str) -> String {
    match parse_url(written) {
        Ok((_, authority)) => format!("http://{authority}"),
        Err(_) => "http://host:port".to_owned(),
    }
}

/// The URLs and names of the upstreams so far, each with the place it was
/// found at.
#[derive(Default)]
struct Taken {
    authorities: HashMap<Authority, String>,
    names: HashMap<String, String>,
}

impl Taken {
    fn is_new(&mut self, block: &KeyBlock<'_>, spec: &UpstreamSpec) -> bool {
        let here = block.place.name.clone();
        if let Some(first) = self.authorities.get(&spec.authority) {
            block.place_of("url").compatibility(format!(
                "the same upstream as {first}, dropped; remove one of the two"
            ));
            return false;
        }
        if let Some(first) = self.names.get(&spec.name) {
            block.place_of("name").error(format!(
                "{} is the name of {first}, too: give each upstream a name of its own",
                quote(&spec.name)
            ));
            return false;
        }
        self.authorities
            .insert(spec.authority.clone(), here.clone());
        self.names.insert(spec.name.clone(), here);
        true
    }
}

fn read_one(files: &mut Files, block: &KeyBlock<'_>) -> Option<UpstreamSpec> {
    let weight = block.number("weight");
    if weight == 0 {
        block.place_of("weight").advice(
            "0 means no new requests (in the first release it meant 1): write 1 or more to use \
             this upstream",
        );
    }
    let priority = block.number("priority");
    let credentials = read_credentials(files, block);
    let name = read_name(block);
    let authority = read_url(block)?;
    Some(UpstreamSpec {
        name: name.unwrap_or_else(|| authority.to_string()),
        authority,
        credentials,
        weight,
        priority,
    })
}

fn read_url(block: &KeyBlock<'_>) -> Option<Authority> {
    let place = block.place_of("url");
    if block.item("url").is_none() {
        place.error("every upstream needs one: write `url: http://host:port`");
        return None;
    }
    let url = parse_url(block.text("url")?.value);
    let (scheme, authority) = url.map_err(|said| place.error(said)).ok()?;
    if scheme.is_none() {
        place.compatibility(format!(
            "the scheme is missing, read as `http://{authority}`: write that"
        ));
    }
    Some(authority)
}

/// The scheme of an upstream, if it was written, and where it is.
fn parse_url(url: &str) -> Result<(Option<&str>, Authority), String> {
    let (scheme, authority, rest) = urls::split(url);
    if let Some(scheme) = scheme
        && !scheme.eq_ignore_ascii_case("http")
    {
        let remedy = if scheme.eq_ignore_ascii_case("https") {
            "write http:// (requests for https:// sites go through such an upstream as well), with the \
             port on which it speaks plain HTTP"
        } else if scheme.to_ascii_lowercase().starts_with("socks") {
            "SOCKS is not supported; if the upstream speaks HTTP, too, write http:// and that port"
        } else {
            "write http://host:port"
        };
        return Err(format!(
            "{} is not spoken to upstreams, only plain HTTP is: {remedy}",
            quote(scheme)
        ));
    }
    let authority = urls::authority(authority, PORT_DEFAULT)?;
    if !matches!(rest, "" | "/") {
        return Err(format!(
            "a path, query or fragment means nothing for an upstream: write `http://{authority}`"
        ));
    }
    Ok((scheme, authority))
}

fn read_name(block: &KeyBlock<'_>) -> Option<String> {
    let Located { place, value } = block.text("name")?;
    if value.is_empty() || NAME_MAX < value.len() || value.chars().any(char::is_control) {
        place.error(format!(
            "write 1 to {NAME_MAX} bytes without control characters"
        ));
        return None;
    }
    if has_password(value) {
        place.error("a name is shown in logs and metrics: write it without user and password");
        return None;
    }
    Some(value.to_owned())
}

fn read_credentials(files: &mut Files, block: &KeyBlock<'_>) -> Option<Credentials> {
    let username = block.text("username");
    let password = files.secret(block, "password");
    match (username, password) {
        // a password may be empty (RFC 7617 section 2)
        (Some(user), password) => {
            if user.value.contains(':') {
                user.place.advice(
                    "the upstream takes what stands behind the colon for the password (RFC 7617): \
                     a user name cannot have one",
                );
            }
            if password.is_none() && block.has("password") && block.item("password").is_none() {
                block.place_of("password").advice(
                    "has no value, so the password is empty (` #` begins a comment): write one that \
                     begins with # in 'quotes', and an empty one as ''",
                );
            }
            let password = password.map(|password| password.value.unwrap_or_default());
            Some(Credentials::basic(
                user.value,
                &password.unwrap_or_default(),
            ))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, wanted: Result<&str, &str>) {
        match (parse_url(url), wanted) {
            (Ok((Some(_), authority)), Ok(wanted)) => assert_eq!(authority.to_string(), wanted),
            (Ok((None, authority)), Ok(wanted)) => {
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
