//! What the service manager is told: the datagrams of `sd_notify(3)`, to the socket it names.
//!
//! Without such a socket nothing is told, and nothing here fails: a program started by hand has no
//! service manager.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a manager that does not read may hold up the thread that tells it something.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct SystemdNotifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl SystemdNotifier {
    /// The one that `NOTIFY_SOCKET` names, with the watchdog of `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn of_environment() -> Self {
        Self::of_variables(&|name| std::env::var_os(name))
    }

    fn of_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let meant = match variable("WATCHDOG_PID") {
            None => true,
            Some(_) => number("WATCHDOG_PID") == Some(u64::from(std::process::id())),
        };
        let watchdog = number("WATCHDOG_USEC").filter(|micros| meant && *micros > 0);
        match Self::at(&name, watchdog.map(Duration::from_micros)) {
            Ok(notifier) => notifier,
            Err(error) => {
                let name = name.display();
                log::warn!("the service manager at NOTIFY_SOCKET={name} is not told: {error}");
                Self::default()
            }
        }
    }

    /// The one that listens at `name`: a path, or `@` and an abstract name. `watchdog` is after how
    /// long without a sign of life it acts.
    ///
    /// # Errors
    /// When the name is neither, or there are no file descriptors left.
    pub fn at(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket: Some((socket, address(name)?)),
            watchdog,
        })
    }

    /// Whether there is a manager to tell.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// After how long without [`SystemdNotifier::alive`] it acts.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The start, or a reload, is complete.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The configuration is about to be looked at; [`SystemdNotifier::ready`] is the end of that.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// One line for people.
    pub fn status(&self, line: &str) {
        self.tell(&format!("STATUS={}", line.replace('\n', " ")));
    }

    /// The program makes progress.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            log::debug!("the service manager was not told {message:?}: {error}");
        }
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().split_first() {
        Some((b'/', _)) => SocketAddr::from_pathname(name),
        #[cfg(target_os = "linux")]
        Some((b'@', rest)) => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(rest)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "not a path and not an abstract name",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> SystemdNotifier {
        let found = |name: &str| pairs.iter().find(|(key, _)| *key == name);
        SystemdNotifier::of_variables(&|name| found(name).map(|(_, value)| value.into()))
    }

    #[test]
    fn without_a_socket_nobody_is_told() {
        for pairs in [
            &[][..],
            &[("WATCHDOG_USEC", "1000000")],
            &[("NOTIFY_SOCKET", ""), ("WATCHDOG_USEC", "1000000")],
            &[("NOTIFY_SOCKET", "relative")],
            &[("NOTIFY_SOCKET", "vsock:2:1")],
        ] {
            let notifier = of(pairs);
            assert!(!notifier.is_there() && notifier.watchdog().is_none());
            notifier.ready();
        }
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_is_named() {
        let own = std::process::id().to_string();
        let check = |usec: &str, pid: Option<&str>, wanted| {
            let mut pairs = vec![("NOTIFY_SOCKET", "/nowhere"), ("WATCHDOG_USEC", usec)];
            pairs.extend(pid.map(|pid| ("WATCHDOG_PID", pid)));
            assert_eq!(of(&pairs).watchdog(), wanted, "{usec} {pid:?}");
        };
        let second = Some(Duration::from_secs(1));
        check("1000000", None, second);
        check("1000000", Some(&own), second);
        check("1000000", Some("1"), None);
        check("1000000", Some(""), None);
        check("1000000", Some("x"), None);
        check("0", None, None);
        check("-1", None, None);
        check("1s", None, None);
    }

    #[test]
    fn both_kinds_of_names_are_reached() {
        let unique = format!("http-proxy-lb-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&unique);
        let socket = UnixDatagram::bind(&path).unwrap();
        check(&socket, path.as_os_str());
        std::fs::remove_file(path).unwrap();
        #[cfg(target_os = "linux")]
        {
            use std::os::linux::net::SocketAddrExt;
            let address = SocketAddr::from_abstract_name(&unique).unwrap();
            check(
                &UnixDatagram::bind_addr(&address).unwrap(),
                OsStr::new(&format!("@{unique}")),
            );
        }
    }

    #[track_caller]
    fn check(socket: &UnixDatagram, name: &OsStr) {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let notifier = SystemdNotifier::at(name, None).unwrap();
        let read = || {
            let mut buffer = [0; 256];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        notifier.ready();
        assert_eq!(read(), "READY=1");
        notifier.reloading();
        let text = read();
        let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(micros.parse::<u64>().unwrap() > 0, "{text}");
        notifier.status("1/1 upstreams online\nREADY=1");
        assert_eq!(read(), "STATUS=1/1 upstreams online READY=1");
        notifier.alive();
        assert_eq!(read(), "WATCHDOG=1");
        notifier.stopping();
        assert_eq!(read(), "STOPPING=1");
    }

    /// No one reads the socket, and the teller goes on.
    #[test]
    fn a_manager_that_went_away_is_no_failure() {
        let notifier = SystemdNotifier::at(OsStr::new("/nonexistent/notify"), None).unwrap();
        notifier.ready();
        notifier.stopping();
    }
}
