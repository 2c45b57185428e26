//! Sockets that a service manager opened and passes to the program it starts (`sd_listen_fds(3)`).
//!
//! The manager keeps them open while this program is replaced: a client that connects in between is not
//! refused but waits in the kernel's queue. So nothing may shut such a socket down, or take what waits in it
//! without serving it; closing the own descriptor leaves both to the next process.

use std::fmt::Display;
use std::fs;
use std::io;
use std::net::TcpListener;

use rustix::net::{SocketType, sockopt};
use sd_listen_fds::OwnedFd;

use crate::config::listen::ListenAddress;

use super::socket;

/// The number of the first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: usize = 3;
/// How many there are uses for.
const MOST: usize = 2;
/// The open descriptors of this process, by their numbers, where the system shows them.
const OPEN: &str = "/proc/self/fd";

/// What was passed.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// For clients, in place of `listen`.
    pub proxy: Option<TcpListener>,
    /// For the admin endpoints, in place of `admin_listen`.
    pub admin: Option<TcpListener>,
}

/// The processes that have a listening socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerOwner {
    /// This one alone: when it closes the socket, clients are refused.
    ThisProcess,
    /// The service manager that passed it, too: what is not accepted here is accepted by the next process.
    ServiceManager,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Proxy,
    Admin,
}

impl InheritedSockets {
    /// The sockets that `LISTEN_FDS` counts, `LISTEN_FDNAMES` names and `LISTEN_PID` means for this
    /// process. To be called once, and before anything else is opened, be it the log: whatever has those
    /// numbers is taken for a socket that was passed.
    ///
    /// # Errors
    /// When a name is neither `proxy` nor `admin`, one comes twice, or a descriptor is no listening
    /// TCP socket: then the manager's configuration is not meant for this program.
    pub fn of_environment() -> io::Result<Self> {
        check_open(announced()).map_err(|said| invalid(&said))?;
        let found = sd_listen_fds::get().map_err(|error| invalid(&error))?;
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_deref()).collect();
        let uses = uses(&names).map_err(|said| invalid(&said))?;
        let mut passed = Self::default();
        for ((_, socket), purpose) in found.into_iter().zip(uses) {
            let listener = listener(socket).map_err(|error| invalid(&error))?;
            *match purpose {
                Use::Proxy => &mut passed.proxy,
                Use::Admin => &mut passed.admin,
            } = Some(listener);
        }
        Ok(passed)
    }
}

/// How many sockets are said to be there; 0 where that cannot be read, or is not meant for this process.
fn announced() -> usize {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return 0;
    }
    number("LISTEN_FDS").map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX))
}

/// Whether as many are there: a number without a descriptor is soon that of another file.
fn check_open(count: usize) -> Result<(), String> {
    if count > MOST {
        return Err(format!(
            "LISTEN_FDS is {count}, and there is no use for more than two"
        ));
    }
    if fs::metadata(OPEN).is_err() {
        return Ok(()); // The system does not show it.
    }
    match (FIRST..FIRST + count).find(|number| fs::metadata(format!("{OPEN}/{number}")).is_err()) {
        Some(number) => Err(format!(
            "LISTEN_FDS is {count}, but descriptor {number} is not open"
        )),
        None => Ok(()),
    }
}

/// What each socket is for, by its name.
fn uses(names: &[Option<&str>]) -> Result<Vec<Use>, String> {
    let mut uses = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let purpose = match (*name, index) {
            // A manager that knows no names passes them in this order.
            (Some("proxy"), _) | (None, 0) => Use::Proxy,
            (Some("admin"), _) | (None, 1) => Use::Admin,
            (Some(name), _) => {
                return Err(format!(
                    "one is called {name:?}: name it `proxy` or `admin` (FileDescriptorName= in its \
                     .socket unit)"
                ));
            }
            (None, _) => return Err("there are more than two".to_owned()),
        };
        if uses.contains(&purpose) {
            return Err(
                "two have the same name: for IPv4 and IPv6 pass one, [::]:PORT (ListenStream=, with \
                 BindIPv6Only=both)"
                    .to_owned(),
            );
        }
        uses.push(purpose);
    }
    Ok(uses)
}

/// The descriptor as what it must be: a TCP socket that listens.
fn listener(socket: OwnedFd) -> io::Result<TcpListener> {
    let socket = socket.into_std();
    let listens = sockopt::socket_type(&socket)? == SocketType::STREAM
        && sockopt::socket_acceptconn(&socket)?;
    let listener = TcpListener::from(socket);
    // Fails for one that has no IP address.
    let address = listener.local_addr()?;
    if !listens {
        let text = format!("the one at {address} does not listen (Accept=no, ListenStream=)");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(listener)
}

fn invalid(said: &dyn Display) -> io::Error {
    let text = format!("the sockets that were passed cannot be used: {said}");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// The socket that was passed, else a new one that listens where `listen` says; `key` is what the
/// file calls that.
///
/// # Errors
/// As [`socket::listen`].
pub fn or_listen(
    passed: Option<TcpListener>,
    key: &str,
    listen: &ListenAddress,
) -> io::Result<(TcpListener, ListenerOwner)> {
    let Some(listener) = passed else {
        return Ok((socket::listen(key, listen)?, ListenerOwner::ThisProcess));
    };
    let there = listener.local_addr()?;
    let meant = socket::addresses(listen).is_ok_and(|all| all.contains(&there));
    if !meant {
        log::warn!(
            "{key} is {listen}, but a socket at {there} was passed, and is used: write the same \
             address in both places"
        );
    }
    Ok((listener, ListenerOwner::ServiceManager))
}

/// Where a socket listens, as the file would say it.
///
/// # Errors
/// When it is not bound.
pub fn address_of(listener: &TcpListener) -> io::Result<ListenAddress> {
    let there = listener.local_addr()?;
    Ok(ListenAddress {
        host: there.ip().to_string(),
        port: there.port(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_known_by_name_and_else_by_their_order() {
        use Use::{Admin, Proxy};
        for (names, wanted) in [
            (&[][..], Ok(&[][..])),
            (&[None], Ok(&[Proxy])),
            (&[None, None], Ok(&[Proxy, Admin])),
            (&[None, None, None], Err("more than two")),
            (&[Some("proxy")], Ok(&[Proxy])),
            (&[Some("admin")], Ok(&[Admin])),
            (&[Some("admin"), Some("proxy")], Ok(&[Admin, Proxy])),
            (&[Some("proxy"), Some("proxy")], Err("the same name")),
            (&[Some("http-proxy-lb.socket")], Err("FileDescriptorName=")),
            (&[Some("")], Err("FileDescriptorName=")),
        ] {
            match (uses(names), wanted) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted, "{names:?}"),
                (Err(said), Err(part)) => assert!(said.contains(part), "{names:?}: {said}"),
                (got, _) => panic!("{names:?}: {got:?}"),
            }
        }
    }
}
