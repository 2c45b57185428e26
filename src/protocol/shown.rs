//! A head as people may see it: on one line, and without what must stay a secret.

use std::fmt::{self, Display, Formatter};

use super::fields::has_prefix;

/// What stands in the place of a secret.
const HIDDEN: &str = "(hidden)";

/// Parts of the names of fields whose values are secrets, in lower case.
const SECRETS: [&str; 7] = [
    "auth", "cookie", "key", "password", "secret", "session", "token",
];

/// Shows the head at the beginning of these bytes, and nothing of what follows it.
#[derive(Clone, Copy)]
pub struct ShownHead<'a>(pub &'a [u8]);

impl Display for ShownHead<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let lines = self.0.split(|byte| *byte == b'\n');
        let mut lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        write_visible(&without_userinfo(lines.next().unwrap_or_default()), out)?;
        for line in lines.take_while(|line| !line.is_empty()) {
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = line.split_at(colon.unwrap_or_default());
            out.write_str(" | ")?;
            write_visible(name, out)?;
            if name.is_empty() || is_secret(name) {
                write!(out, ": {HIDDEN}")?;
            } else {
                write_visible(&without_userinfo(value), out)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ShownHead<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, out)
    }
}

/// Whether the value of a field of that name is for its sender and its recipient alone.
pub(super) fn is_secret(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    has_prefix(name.as_bytes(), "proxy-") || SECRETS.iter().any(|part| name.contains(part))
}

/// The words of a text; of those in which there may be userinfo what stands behind it: nothing before the
/// last `@` can be trusted to be a path.
fn without_userinfo(text: &[u8]) -> Vec<u8> {
    let word = |word: &[u8]| match word.iter().rposition(|byte| *byte == b'@') {
        Some(at) => [b"...", word.get(at..).unwrap_or_default()].concat(),
        None => word.to_vec(),
    };
    let words: Vec<_> = text.split(|byte| *byte == b' ').map(word).collect();
    words.join(&b' ')
}

fn write_visible(text: &[u8], out: &mut Formatter<'_>) -> fmt::Result {
    Display::fmt(&text.escape_ascii(), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(head: &str) -> String {
        ShownHead(head.as_bytes()).to_string()
    }

    #[test]
    fn a_head_is_one_line_and_what_follows_is_not_shown() {
        assert_eq!(
            shown("GET http://a/b?c HTTP/1.1\r\nHost: a\r\nX: \u{1b}[2J\r\n\r\nbody: 1\r\n"),
            r"GET http://a/b?c HTTP/1.1 | Host: a | X: \x1b[2J"
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let head = "GET http://bob:hun/ter2@a/ HTTP/1.1\r\n\
            Authorization: Basic hunter2\r\nproxy-authorization: hunter2\r\nCookie: a=hunter2\r\n\
            Set-Cookie: a=hunter2\r\nCookie2: hunter2\r\nProxy-Authenticate: hunter2\r\n\
            X-Api-Key: hunter2\r\nX-Auth-Token: hunter2\r\nReferer: http://b:hunter2@c/\r\n\
            Location: //b:hun@ter2@c/\r\n hunter2 folded\r\n\r\n";
        assert_eq!(
            shown(head),
            "GET ...@a/ HTTP/1.1 | Authorization: (hidden) | proxy-authorization: (hidden) \
             | Cookie: (hidden) | Set-Cookie: (hidden) | Cookie2: (hidden) \
             | Proxy-Authenticate: (hidden) | X-Api-Key: (hidden) | X-Auth-Token: (hidden) \
             | Referer: ...@c/ | Location: ...@c/ | : (hidden)"
        );
    }
}
