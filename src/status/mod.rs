//! The command `status`: asks a running relay how it is, and shows it in the terminal.

mod client;
mod connections;
mod table;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::findings::ConfigErrors;
use crate::config::listen::ListenAddress;
use crate::config::secret::{self, Secret};
use crate::config::source::Source;
use crate::json::Json;
use crate::protocol::target::Authority;
use crate::stop::Stop;

use table::Paint;

/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Answers of `/connections` that are asked for; each holds a thousand.
const MOST_PAGES: usize = 100;
/// Clears a terminal.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRequest {
    /// Which relay is asked.
    pub of: StatusOf,
    /// A file with the admin token, instead of the one of the configuration.
    pub token_file: Option<PathBuf>,
    /// What is shown.
    pub shown: Shown,
    /// Whether it is asked again and again, until an interrupt.
    pub again: bool,
}

/// Which relay is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusOf {
    /// The one with this configuration.
    Config(Source),
    /// The one whose admin server is at this URL.
    Admin(String),
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Everything, as a table.
    Table,
    /// Everything, as the relay says it.
    Json,
    /// Who is connected, as a table.
    Connections,
    /// Who is connected, as the relay says it: a line for each of its answers.
    ConnectionsJson,
    /// Whether it lives.
    Life,
}

/// Why no relay could be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusError {
    /// The configuration cannot be used.
    Config(ConfigErrors),
    /// There is no server to ask, or no token; in words.
    Other(String),
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(
                f,
                "{error}\nA relay that runs all the same can be asked with --admin URL, and --token-file FILE if \
                 it has a token."
            ),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for StatusError {}

/// An admin server, and what is asked of it.
struct AskedServer {
    address: Authority,
    token: Option<Secret>,
    shown: Shown,
    /// What is wrong with the file that says whom to ask: the relay may run all the same, as it was before.
    mistakes: Option<ConfigErrors>,
}

/// Asks, and shows the answer on standard output, or on standard error why there is none. Says whether the
/// relay is ready, or lives, if that was asked.
///
/// # Errors
/// When no relay can be asked.
pub fn run(request: &StatusRequest) -> Result<bool, StatusError> {
    let server = AskedServer::new(request)?;
    if !request.again {
        return Ok(server.ask(&mut io::stdout()));
    }
    let pause = Stop::new().map_err(|error| StatusError::Other(error.to_string()))?;
    loop {
        let mut shown = Vec::new();
        if io::stdout().is_terminal() {
            shown.extend_from_slice(CLEAR.as_bytes());
        }
        let is_good = server.ask(&mut shown);
        if io::stdout().write_all(&shown).is_err() {
            return Ok(is_good); // The reader has left.
        }
        pause.wait(LOOK_AGAIN);
    }
}

impl AskedServer {
    fn new(request: &StatusRequest) -> Result<Self, StatusError> {
        let (address, token, mistakes) = match &request.of {
            StatusOf::Admin(url) => (authority_of(url)?, None, None),
            StatusOf::Config(source) => {
                let access = source.admin().map_err(StatusError::Config)?;
                let Some(listen) = access.listen else {
                    let text = format!(
                        "{source}: admin_listen is not set, so nobody can be asked: set it and restart, or \
                         name a server with --admin URL"
                    );
                    let other = StatusError::Other(text);
                    return Err(access.mistakes.map_or(other, StatusError::Config));
                };
                (reachable(&listen)?, access.token, access.mistakes)
            }
        };
        let token = match &request.token_file {
            Some(file) => Some(read_token(file)?),
            None => token,
        };
        Ok(Self {
            address,
            token,
            shown: request.shown,
            mistakes,
        })
    }

    /// Asks once, and says whether the answer is good news.
    fn ask(&self, out: &mut dyn Write) -> bool {
        match self.answer() {
            Ok((text, is_good)) => {
                let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                // A reader that closes the pipe has seen enough.
                is_good && printed.map_or_else(|e| e.kind() == io::ErrorKind::BrokenPipe, |()| true)
            }
            Err(said) => {
                let mistakes = self.told_mistakes();
                let printed = writeln!(io::stderr(), "{mistakes}http://{}: {said}", self.address);
                drop(printed); // The exit code says it, too.
                false
            }
        }
    }

    /// What is wrong with the file, each mistake in a line.
    fn told_mistakes(&self) -> String {
        let told = |errors: &ConfigErrors| format!("{errors}\n");
        self.mistakes.as_ref().map_or_else(String::new, told)
    }

    /// What to show, and whether it is good news.
    fn answer(&self) -> Result<(String, bool), String> {
        match self.shown {
            Shown::Life => {
                self.get("/health")?;
                Ok(("live\n".to_owned(), true))
            }
            Shown::Table => {
                let (_, status) = self.document("/status")?;
                let shown = self.told_mistakes() + &table::render(&status, paint());
                Ok((shown, status.get("ready").is_true()))
            }
            Shown::Json => {
                let (text, status) = self.document("/status")?;
                Ok((for_terminals(&text), status.get("ready").is_true()))
            }
            Shown::Connections => {
                let pages = self.connections()?.into_iter();
                let pages: Vec<_> = pages.map(|(_, page)| page).collect();
                Ok((connections::render(&pages), true))
            }
            Shown::ConnectionsJson => {
                let pages = self.connections()?.into_iter();
                let shown = pages.map(|(text, _)| for_terminals(&text)).collect();
                Ok((shown, true))
            }
        }
    }

    /// What is at `path`.
    fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        match client::get(&self.address, path, self.token.as_ref())? {
            (200, body) => Ok(body),
            (401, _) if self.token.is_some() => {
                Err("the relay has another admin token: name a file that \
                                                     holds it with --token-file"
                    .to_owned())
            }
            (401, _) => Err("the admin token is wanted: name a file that holds it with \
                             --token-file"
                .to_owned()),
            (403, body) => {
                let said = String::from_utf8_lossy(&body);
                let said = said.lines().next().unwrap_or_default();
                Err(table::clean(said))
            }
            (400, _) => Err("answered with status 400: is it the port of `listen`?".to_owned()),
            (code, _) => Err(format!("answered with status {code}")),
        }
    }

    /// The JSON at `path`, as text and as what it means.
    fn document(&self, path: &str) -> Result<(String, Json), String> {
        let not_understood = || client::NOT_UNDERSTOOD.to_owned();
        let text = String::from_utf8(self.get(path)?).map_err(|_not_text| not_understood())?;
        let json = Json::parse(&text).ok_or_else(not_understood)?;
        Ok((text, json))
    }

    /// All connections, page by page. Whoever answers can make it neither endless nor go round in circles.
    fn connections(&self) -> Result<Vec<(String, Json)>, String> {
        let (mut pages, mut after) = (Vec::new(), 0);
        while pages.len() < MOST_PAGES {
            let page = self.document(&format!("/connections?after={after}"))?;
            let next = page.1.get("next").text().and_then(|next| next.parse().ok());
            pages.push(page);
            match next {
                Some(next) if next > after => after = next,
                Some(_) | None => break,
            }
        }
        Ok(pages)
    }
}

/// The same document without the controls that JSON allows in a text as they are (DEL and C1), and some
/// terminals obey. They stand nowhere else, so their escapes mean the same.
fn for_terminals(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\u{7f}'..='\u{9f}' => shown.extend(["\\u00", &format!("{:02x}", u32::from(letter))]),
            _ => shown.push(letter),
        }
    }
    shown
}

/// Colors on a terminal, unless `NO_COLOR` says otherwise (no-color.org).
fn paint() -> Paint {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !refused {
        Paint::Colors
    } else {
        Paint::Plain
    }
}

fn authority_of(url: &str) -> Result<Authority, StatusError> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    Authority::parse(rest.as_bytes(), Some(80)).map_err(|_malformed| {
        StatusError::Other(format!(
            "--admin {url:?} is no address: write it as http://127.0.0.1:9090"
        ))
    })
}

/// Where a server of this machine is reached that listens there.
fn reachable(listen: &ListenAddress) -> Result<Authority, StatusError> {
    let mut place = listen.clone();
    if place.is_unspecified() {
        let host = if place.host.contains(':') {
            "::1"
        } else {
            "127.0.0.1"
        };
        host.clone_into(&mut place.host);
    }
    Authority::parse(place.to_string().as_bytes(), None).map_err(|_port_zero| {
        StatusError::Other(format!(
            "admin_listen is {listen}, which is no address to ask at: name it with --admin URL"
        ))
    })
}

fn read_token(file: &Path) -> Result<Secret, StatusError> {
    let said = |what: &dyn fmt::Display| {
        StatusError::Other(format!("--token-file {}: {what}", file.display()))
    };
    let (token, advice) = secret::in_file(file).map_err(|error| said(&error))?;
    let text = token.expose();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(said(
            &"holds no token: visible ASCII characters on one line",
        ));
    }
    if let Some(advice) = advice {
        let printed = writeln!(io::stderr(), "{}", said(&advice));
        drop(printed); // Advice that cannot be printed is no failure.
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// The head of a request.
    pub(super) fn read_head(stream: &mut TcpStream) -> Vec<u8> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        head
    }

    fn check(listen: (&str, u16), expected: Option<&str>) {
        let listen = ListenAddress {
            host: listen.0.to_owned(),
            port: listen.1,
        };
        let found = reachable(&listen).ok().map(|server| server.to_string());
        assert_eq!(found.as_deref(), expected);
    }

    fn asked(address: &str, shown: Shown) -> AskedServer {
        AskedServer {
            address: Authority::parse(address.as_bytes(), None).unwrap(),
            token: None,
            shown,
            mistakes: None,
        }
    }

    #[test]
    fn a_relay_that_never_ends_its_pages_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = move || {
            let mut asked = 0;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = read_head(&mut stream);
                if head.starts_with(b"GET /end ") {
                    return asked;
                }
                asked += 1;
                let body = format!("{{\"connections\":[],\"next\":{asked}}}");
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
            }
            asked
        };
        let serving = thread::Builder::new().spawn(serve).unwrap();
        let server = asked(&address, Shown::Connections);
        assert_eq!(server.connections().unwrap().len(), MOST_PAGES);
        drop(server.get("/end"));
        assert_eq!(serving.join().unwrap(), MOST_PAGES);
    }

    #[test]
    fn who_asks_the_port_of_the_proxy_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_head(&mut stream);
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).unwrap();
        };
        let serving = thread::Builder::new().spawn(serve).unwrap();
        let server = asked(&address, Shown::Table);
        let said = server.get("/status").unwrap_err();
        assert_eq!(
            said,
            "answered with status 400: is it the port of `listen`?"
        );
        serving.join().unwrap();
    }

    #[test]
    fn every_address_of_the_machine_is_asked_on_loopback() {
        check(("0.0.0.0", 9090), Some("127.0.0.1:9090"));
        check(("::", 9090), Some("[::1]:9090"));
        check(("10.0.0.1", 9090), Some("10.0.0.1:9090"));
        check(("2001:db8::1", 9090), Some("[2001:db8::1]:9090"));
        check(("localhost", 9090), Some("localhost:9090"));
        check(("127.0.0.1", 0), None);
    }

    #[test]
    fn json_is_printed_without_what_a_terminal_obeys_and_means_the_same() {
        let text = "{\"name\":\"\u{e4}\u{9b}31m\u{7f}\"}";
        let shown = for_terminals(text);
        assert_eq!(shown, "{\"name\":\"\u{e4}\\u009b31m\\u007f\"}");
        assert_eq!(Json::parse(&shown), Json::parse(text));
    }

    #[test]
    fn a_url_is_read_with_and_without_its_ornaments() {
        for url in ["http://h:9090", "http://h:9090/", "h:9090"] {
            assert_eq!(authority_of(url).unwrap().to_string(), "h:9090");
        }
        for url in ["https://h:9090", "http://h/x", "http://u@h", "", "h:0"] {
            assert!(authority_of(url).is_err(), "{url}");
        }
    }
}
