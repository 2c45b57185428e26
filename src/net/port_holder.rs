//! Why a port cannot be listened on, in words that help: who has it, and what to do.
//!
//! Linux shows which socket listens where, and, within the rights of this process, who has it open.
//! Elsewhere, and of the processes of others, nobody is named.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Ports below this one want a right.
const FIRST_FREE_PORT: u16 = 1024;
/// The state of a socket that listens, in the tables of Linux.
const LISTENS: &str = "0A";

/// What to say about `error`, with which none of `addresses` could be listened on.
pub(super) fn explain(error: io::Error, addresses: &[SocketAddr]) -> io::Error {
    let Some(address) = addresses.first() else {
        return error;
    };
    let (port, kind) = (address.port(), error.kind());
    let text = if kind == io::ErrorKind::AddrInUse {
        match addresses.iter().find_map(|at| holder(*at)) {
            Some(who) => format!("the port is in use by {who}: stop that, or choose another port"),
            None => format!(
                "the port is in use (`ss -ltnp sport = :{port}` says by whom, if root asks): stop that, \
                 or choose another port"
            ),
        }
    } else if kind == io::ErrorKind::PermissionDenied && port < FIRST_FREE_PORT {
        format!(
            "ports below {FIRST_FREE_PORT} want a right: let systemd open it (http-proxy-lb.socket), give \
             the right (AmbientCapabilities=CAP_NET_BIND_SERVICE in a unit, or `setcap \
             cap_net_bind_service=+ep` on the program), or choose a port from {FIRST_FREE_PORT} on"
        )
    } else if kind == io::ErrorKind::AddrNotAvailable {
        "this machine does not have that address: write one that `ip address` shows, or 0.0.0.0 for all"
            .to_owned()
    } else {
        return error;
    };
    io::Error::new(kind, text)
}

/// The command and number of a process that listens there, or so that nobody else can; of several the
/// oldest.
fn holder(address: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    let sockets: Vec<OsString> = tables
        .flat_map(|table| sockets_at(address, &table))
        .map(|number| format!("socket:[{number}]").into())
        .collect();
    if sockets.is_empty() {
        return None;
    }
    let names = fs::read_dir("/proc").ok()?.flatten();
    let mut processes: Vec<u32> = names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    processes.sort_unstable();
    let has_it = |process: &u32| {
        let open = fs::read_dir(format!("/proc/{process}/fd"));
        open.into_iter()
            .flatten()
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|link| sockets.contains(&link.into())))
    };
    let process = processes.into_iter().find(has_it)?;
    let command = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some(format!("{} (process {process})", command.trim_end()))
}

/// The numbers of the sockets in a table that listen at `address`, or in its way.
fn sockets_at(address: SocketAddr, table: &str) -> Vec<u64> {
    let lines = table.lines().skip(1);
    let found = lines.filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state, number) = (fields.next()?, fields.nth(1)?, fields.nth(5)?);
        let (ip, port) = local.split_once(':')?;
        let (ip, port) = (parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
        let own = address.ip().to_canonical();
        let clashes = ip == own || ip.is_unspecified() || own.is_unspecified();
        let is_it = state == LISTENS && port == address.port() && clashes;
        is_it.then(|| number.parse().ok())?
    });
    found.collect()
}

/// An address as words of 32 bits in the byte order of this machine, each a number in hexadecimal digits.
fn parse_ip(digits: &str) -> Option<IpAddr> {
    let words = digits.as_bytes().chunks(8).map(|word| {
        let number = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        Some(number.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    if let Ok(bytes) = <[u8; 4]>::try_from(&*bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    let bytes = <[u8; 16]>::try_from(&*bytes).ok()?;
    Some(Ipv6Addr::from(bytes).to_canonical())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    use std::net::TcpListener;

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn who_listens_is_found_in_the_tables() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 634 1 0\n\
            \x20  1: 0100007F:1F90 0100007F:8DDE 01 00000000:00000000 00:00000000 00000000     0        0 635 1 0\n\
            \x20  2: 0200007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 636 1 0\n\
            \x20  3: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 637 1 0\n\
            \x20  4: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 \
            00:00000000 00000000     0        0 638 1 0\n\
            \x20  5: 00000000000000000000000000000000:1F92 00000000000000000000000000000000:0000 0A 00000000:00000000 \
            00:00000000 00000000     0        0 639 1 0\nx\n 6: 1:2 3 0A\n";
        for (address, wanted) in [
            ("127.0.0.1:8080", &[634][..]),
            ("127.0.0.2:8080", &[636]),
            ("0.0.0.0:8080", &[634, 636, 638]),
            ("[::1]:8080", &[638]),
            ("10.0.0.1:8081", &[637]),
            ("127.0.0.1:8082", &[639]),
            ("127.0.0.1:8083", &[]),
        ] {
            let found = sockets_at(address.parse().unwrap(), table);
            assert_eq!(found, wanted, "{address}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_has_a_port_is_named_with_a_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let said = explain(TcpListener::bind(address).unwrap_err(), &[address]);
        let own = format!(
            "(process {}): stop that, or choose another port",
            std::process::id()
        );
        assert!(
            said.to_string().starts_with("the port is in use by "),
            "{said}"
        );
        assert!(said.to_string().ends_with(&own), "{said}");
    }

    #[test]
    fn what_cannot_be_had_is_told_with_a_remedy() {
        let check = |kind: io::ErrorKind, address: &str, part: &str| {
            let said = explain(kind.into(), &[address.parse().unwrap()]);
            assert!(said.to_string().contains(part), "{said}");
            assert_eq!(said.kind(), kind);
        };
        check(
            PermissionDenied,
            "0.0.0.0:80",
            "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        );
        check(
            PermissionDenied,
            "0.0.0.0:1023",
            "or choose a port from 1024 on",
        );
        check(PermissionDenied, "0.0.0.0:1024", "permission denied");
        // Nobody listens on this one.
        check(
            AddrInUse,
            "127.0.0.1:0",
            "`ss -ltnp sport = :0` says by whom",
        );
        check(
            AddrNotAvailable,
            "192.0.2.1:8080",
            "this machine does not have that address",
        );
    }
}
