//! SOCKS5 (RFC 1928) with user and password (RFC 1929), from the side that asks for a connection.
//!
//! Three rounds of a message and its reply, in this order: which login is possible, the login if it is asked
//! for, and where to connect to. All of it is bytes in and bytes out. A reply is never taken before all of it
//! is there, and nothing behind it is: that belongs to whom the connection leads to.
//!
//! Not here: when to send and how long to wait (relay, health), and what a refusal is held against.

use super::credentials::Credentials;
use super::target::{Authority, Host};

const VERSION: u8 = 5;

// The methods of RFC 1928 §3.
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;

/// The version of the login itself (RFC 1929 §2).
const LOGIN_VERSION: u8 = 1;

const CONNECT: u8 = 1;

// The types of an address (RFC 1928 §5).
const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

/// A message of ours and the reply to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    /// Which logins there could be, and which one is wanted.
    Greeting,
    /// User and password, and whether they are accepted.
    Login,
    /// Where to connect to, and whether that is done.
    Request,
}

/// What follows a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// The next round.
    Round(Round),
    /// The connection leads to where it was asked to.
    Open,
}

/// Why there is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocksError {
    /// The reply is none of SOCKS5.
    NotSocks,
    /// User and password were refused, or are wanted and there are none, or something else is wanted.
    LoginRefused,
    /// The target was refused.
    Refused(Refusal),
}

/// Why a target was refused (RFC 1928 §6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// By a rule.
    NotAllowed,
    /// It did not answer in time.
    TimedOut,
    /// It cannot be connected to, for the reason given.
    Unreachable(&'static str),
}

impl Refusal {
    fn of(reply: u8) -> Self {
        match reply {
            2 => Self::NotAllowed,
            3 => Self::Unreachable("network unreachable"),
            4 => Self::Unreachable("host unreachable"),
            5 => Self::Unreachable("connection refused"),
            6 => Self::TimedOut,
            7 => Self::Unreachable("it does not know the command CONNECT"),
            8 => Self::Unreachable("it does not know this type of address"),
            _ => Self::Unreachable("general failure"),
        }
    }

    /// What an HTTP proxy would answer to CONNECT.
    pub fn status(self) -> u16 {
        match self {
            Self::NotAllowed => 403,
            Self::Unreachable(_) => 502,
            Self::TimedOut => 504,
        }
    }
}

impl Round {
    /// The message of this round. `None`: SOCKS has no room for a part of it, which may have 255 bytes.
    pub fn message(self, login: Option<&Credentials>, target: &Authority) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match (self, login) {
            (Self::Greeting, None) => out.extend([VERSION, 1, NO_LOGIN]),
            (Self::Greeting, Some(_)) => out.extend([VERSION, 2, NO_LOGIN, PASSWORD]),
            (Self::Login, None) => return None,
            (Self::Login, Some(login)) => {
                let (user, password) = login.user_and_password()?;
                out.push(LOGIN_VERSION);
                push_counted(&user, &mut out)?;
                push_counted(&password, &mut out)?;
            }
            (Self::Request, _) => {
                out.extend([VERSION, CONNECT, 0]);
                match target.host() {
                    Host::V4(address) => {
                        out.push(V4);
                        out.extend(address.octets());
                    }
                    Host::V6(address) => {
                        out.push(V6);
                        out.extend(address.octets());
                    }
                    Host::Name(name) => {
                        out.push(NAME);
                        push_counted(name.as_bytes(), &mut out)?;
                    }
                }
                out.extend(target.port().to_be_bytes());
            }
        }
        Some(out)
    }

    /// Reads the reply of this round from the beginning of `bytes`: its length, and what follows. `None`: not
    /// all of it is there.
    ///
    /// # Errors
    /// When there will be no connection. Nothing more is to be read then.
    pub fn reply(
        self,
        login: Option<&Credentials>,
        bytes: &[u8],
    ) -> Result<Option<(usize, Then)>, SocksError> {
        match (self, bytes) {
            (_, []) => Ok(None),
            // Some say the version of SOCKS where that of the login belongs.
            (Self::Login, [LOGIN_VERSION | VERSION]) => Ok(None),
            (Self::Login, [LOGIN_VERSION | VERSION, 0, ..]) => {
                Ok(Some((2, Then::Round(Self::Request))))
            }
            (Self::Login, [LOGIN_VERSION | VERSION, ..]) => Err(SocksError::LoginRefused),
            (Self::Greeting | Self::Request, [VERSION]) => Ok(None),
            (Self::Greeting, [VERSION, NO_LOGIN, ..]) => Ok(Some((2, Then::Round(Self::Request)))),
            (Self::Greeting, [VERSION, PASSWORD, ..]) if login.is_some() => {
                Ok(Some((2, Then::Round(Self::Login))))
            }
            (Self::Greeting, [VERSION, PASSWORD | NONE_ACCEPTABLE, ..]) => {
                Err(SocksError::LoginRefused)
            }
            (Self::Request, [VERSION, 0, ..]) => {
                let length = connected(bytes)?.filter(|length| *length <= bytes.len());
                Ok(length.map(|length| (length, Then::Open)))
            }
            // What stands behind a refusal is of no use, and some leave it out.
            (Self::Request, [VERSION, reply, ..]) => Err(SocksError::Refused(Refusal::of(*reply))),
            (_, _) => Err(SocksError::NotSocks),
        }
    }
}

/// The length of a reply that says yes, once that can be told: it ends with an address of the other side.
fn connected(bytes: &[u8]) -> Result<Option<usize>, SocksError> {
    let address = match bytes {
        [_, _, _, V4, ..] => 4,
        [_, _, _, V6, ..] => 16,
        [_, _, _, NAME, length, ..] => 1 + usize::from(*length),
        [_, _, _, NAME] | [] | [_] | [_, _] | [_, _, _] => return Ok(None),
        _ => return Err(SocksError::NotSocks),
    };
    Ok(Some(4 + address + 2))
}

/// Appends a text behind its length. `None`: it is too long.
fn push_counted(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.push(u8::try_from(text.len()).ok()?);
    out.extend_from_slice(text);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bob() -> Credentials {
        Credentials::basic("bob", "se:same")
    }

    fn target(text: &str) -> Authority {
        Authority::parse(text.as_bytes(), None).unwrap()
    }

    #[test]
    fn the_messages_are_those_of_the_standards() {
        let (bob, name) = (bob(), target("o.test:443"));
        for (round, login, target, expected) in [
            (Round::Greeting, None, &name, &b"\x05\x01\x00"[..]),
            (Round::Greeting, Some(&bob), &name, b"\x05\x02\x00\x02"),
            (Round::Login, Some(&bob), &name, b"\x01\x03bob\x07se:same"),
            (
                Round::Request,
                None,
                &name,
                b"\x05\x01\x00\x03\x06o.test\x01\xbb",
            ),
            (
                Round::Request,
                None,
                &target("192.0.2.7:80"),
                b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50",
            ),
            (
                Round::Request,
                Some(&bob),
                &target("[2001:db8::1]:8080"),
                b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1f\x90",
            ),
        ] {
            assert_eq!(round.message(login, target).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_user_with_a_colon_is_told_whole() {
        let login = Credentials::basic("a:b", "c");
        let message = Round::Login.message(Some(&login), &target("o.test:1"));
        assert_eq!(message.unwrap(), b"\x01\x03a:b\x01c");
    }

    #[test]
    fn what_is_too_long_for_socks_is_not_sent() {
        let (most, more) = ("x".repeat(255), "x".repeat(256));
        for (user, password, fits) in [
            (&most, &most, true),
            (&more, &most, false),
            (&most, &more, false),
        ] {
            let login = Credentials::basic(user, password);
            let message = Round::Login.message(Some(&login), &target("o.test:1"));
            assert_eq!(message.map(|message| message.len()), fits.then_some(513));
        }
    }

    /// Each reply in every piece: nothing is decided before it can be, and nothing behind it is taken.
    #[test]
    fn a_reply_is_taken_once_it_is_whole_and_no_byte_behind_it() {
        let bob = bob();
        let next = Then::Round;
        for (round, login, reply, then) in [
            (
                Round::Greeting,
                None,
                &b"\x05\x00"[..],
                next(Round::Request),
            ),
            (
                Round::Greeting,
                Some(&bob),
                b"\x05\x00",
                next(Round::Request),
            ),
            (Round::Greeting, Some(&bob), b"\x05\x02", next(Round::Login)),
            (Round::Login, Some(&bob), b"\x01\x00", next(Round::Request)),
            (Round::Login, Some(&bob), b"\x05\x00", next(Round::Request)),
            (
                Round::Request,
                None,
                b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50",
                Then::Open,
            ),
            (
                Round::Request,
                None,
                b"\x05\x00\x00\x03\x03abc\x00\x50",
                Then::Open,
            ),
            (
                Round::Request,
                None,
                b"\x05\x00\x00\x03\x00\x00\x50",
                Then::Open,
            ),
            (
                Round::Request,
                None,
                b"\x05\x00\x00\x04aaaabbbbccccdddd\x00\x50",
                Then::Open,
            ),
        ] {
            for length in 0..reply.len() {
                assert_eq!(round.reply(login, &reply[..length]), Ok(None), "{reply:?}");
            }
            let whole = Ok(Some((reply.len(), then)));
            assert_eq!(round.reply(login, reply), whole);
            let followed = [reply, b"HTTP/1.1"].concat();
            assert_eq!(round.reply(login, &followed), whole);
        }
    }

    #[test]
    fn a_login_that_is_refused_or_impossible_is_told_from_garbage() {
        let bob = bob();
        for (round, login, reply) in [
            (Round::Greeting, None, &b"\x05\xff"[..]),
            (Round::Greeting, None, b"\x05\x02"),
            (Round::Greeting, Some(&bob), b"\x05\xff"),
            (Round::Login, Some(&bob), b"\x01\x01"),
            (Round::Login, Some(&bob), b"\x01\xff"),
        ] {
            assert_eq!(round.reply(login, reply), Err(SocksError::LoginRefused));
        }
        for (round, login, reply) in [
            (Round::Greeting, None, &b"H"[..]),
            (Round::Greeting, None, b"\x04\x00"),
            (Round::Greeting, Some(&bob), b"\x05\x01"),
            (Round::Login, Some(&bob), b"\x00"),
            (Round::Request, None, b"\x00\x5a"),
            (Round::Request, None, b"\x05\x00\x00\x02"),
        ] {
            assert_eq!(round.reply(login, reply), Err(SocksError::NotSocks));
        }
    }

    #[test]
    fn a_refusal_is_read_from_its_first_two_bytes() {
        for (reply, status) in [
            (1, 502),
            (2, 403),
            (3, 502),
            (4, 502),
            (5, 502),
            (6, 504),
            (7, 502),
            (8, 502),
            (9, 502),
            (255, 502),
        ] {
            let Err(SocksError::Refused(refusal)) = Round::Request.reply(None, &[5, reply]) else {
                panic!("{reply} is a refusal");
            };
            assert_eq!(refusal.status(), status, "{reply}");
        }
    }
}
