//! Which upstream of a new configuration is which one of the old.
//!
//! Providers sell exits as users of one gateway: so an upstream is known by where it is and by its user. One that is
//! alone where it is stays the same, too, when its user changes.
//!
//! Not here: what one that stays keeps ([`super::pool`]), and what is told of the others ([`crate::reload`]).

use std::collections::HashMap;

use super::upstream::{UpstreamProtocol, UpstreamSpec};
use crate::protocol::target::Authority;

/// For each of `after`, the place in `before` of the one that it was.
pub fn predecessors(before: &[&UpstreamSpec], after: &[UpstreamSpec]) -> Vec<Option<usize>> {
    let known: HashMap<_, usize> = before.iter().map(|spec| spec.identity()).zip(0..).collect();
    let (was, is) = (only(before.iter().copied()), only(after.iter()));
    let alone = |spec: &UpstreamSpec| {
        let _ = (*is.get(&spec.place())?)?;
        *was.get(&spec.place())?
    };
    let predecessor = |spec: &UpstreamSpec| known.get(&spec.identity()).copied();
    after
        .iter()
        .map(|spec| predecessor(spec).or_else(|| alone(spec)))
        .collect()
}

/// Which upstream is where; none: several are there.
fn only<'s>(
    specs: impl Iterator<Item = &'s UpstreamSpec>,
) -> HashMap<(UpstreamProtocol, &'s Authority), Option<usize>> {
    let mut found = HashMap::new();
    for (number, spec) in specs.enumerate() {
        found
            .entry(spec.place())
            .and_modify(|only| *only = None)
            .or_insert(Some(number));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::credentials::Credentials;

    /// `a/ann`: host a.test, as the user ann.
    fn specs(text: &str) -> Vec<UpstreamSpec> {
        let spec = |word: &str| {
            let (host, user) = word.split_once('/').unwrap_or((word, ""));
            UpstreamSpec {
                name: word.into(),
                credentials: (!user.is_empty()).then(|| Credentials::basic(user, "x")),
                ..UpstreamSpec::new(
                    UpstreamProtocol::Http,
                    Authority::parse(format!("{host}.test:80").as_bytes(), None).unwrap(),
                )
            }
        };
        text.split_whitespace().map(spec).collect()
    }

    #[test]
    fn an_upstream_is_known_by_its_user_or_by_being_alone_where_it_is() {
        for (before, after, expected) in [
            ("a/ann a/bob", "a/bob a/ann", "10"),
            ("a/ann a/bob", "a/carl a/bob", "-1"),
            ("a/ann a/bob", "a/carl", "-"),
            ("a/ann", "a/bob a/ann", "-0"),
            ("a/ann", "a/bob", "0"),
            ("b a", "a/ann", "1"),
            ("a/ann b", "a b/ann c", "01-"),
        ] {
            let (before, after) = (specs(before), specs(after));
            let before: Vec<_> = before.iter().collect();
            let found: String = predecessors(&before, &after)
                .iter()
                .map(|place| place.map_or("-".to_owned(), |place| place.to_string()))
                .collect();
            assert_eq!(found, expected, "{after:?}");
        }
    }
}
