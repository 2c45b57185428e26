//! What is typed, and the end of the demonstration, whichever comes first.
//!
//! Reading must never be in the way of a signal, nor stop a job that was sent to the background; and
//! where there is nobody who types (`< /dev/null`), the demonstration just goes on.

use std::fmt;
use std::io::{self, BufRead};
use std::sync::Arc;
use std::time::Duration;

use crate::net::socket;
use crate::server;
use crate::stop::{Stage, Stop};

/// How often a job in the background looks whether it is in the foreground again.
const BACKGROUND_LOOK: Duration = Duration::from_millis(500);
/// A longer line is no command, in bytes.
const LINE_MAX: usize = 1024;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Kill the upstream of that number.
    Kill(usize),
    /// Start it again.
    Revive(usize),
    /// Show what the relay knows.
    Status,
    /// End the demonstration.
    Quit,
}

/// What was typed is none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misspelled;

impl fmt::Display for Misspelled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("type kill 2, revive 2, status or quit; curl belongs in another terminal")
    }
}

impl Command {
    /// Reads a line; an empty one asks for nothing.
    fn parse(line: &str) -> Option<Result<Self, Misspelled>> {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        let number = |word: Option<&str>| {
            let word = word.ok_or(Misspelled)?;
            let digits = word.strip_prefix("upstream-").unwrap_or(word);
            digits.parse::<usize>().or(Err(Misspelled))
        };
        let command = match first {
            "kill" => number(words.next()).map(Self::Kill),
            "revive" => number(words.next()).map(Self::Revive),
            "status" => Ok(Self::Status),
            "quit" | "exit" => Ok(Self::Quit),
            _ => Err(Misspelled),
        };
        let rest = words.next();
        Some(command.and_then(|command| rest.map_or(Ok(command), |_| Err(Misspelled))))
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody typed a line.
    Typed(Result<Command, Misspelled>),
    /// Nothing more will be typed. Told once.
    Closed,
    /// The demonstration is told to end.
    Stopped,
}

/// Standard input, until it ends.
pub(super) struct Terminal {
    stop: Arc<Stop>,
    lines: Option<Lines>,
}

impl Terminal {
    /// Waits for `stop`, too.
    pub(super) fn new(stop: Arc<Stop>) -> Self {
        Self {
            stop,
            lines: Some(Lines::default()),
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// When the system cannot wait.
    pub(super) fn next(&mut self) -> io::Result<Event> {
        let stdin = io::stdin();
        loop {
            if let Some(command) = self.lines.as_mut().and_then(Lines::next) {
                return Ok(Event::Typed(command));
            }
            if self.stop.stage() != Stage::Running {
                return Ok(Event::Stopped);
            }
            let Some(lines) = &mut self.lines else {
                self.stop.subscribe().wait(None);
                continue;
            };
            if !server::may_read(&stdin) {
                self.stop.wait(BACKGROUND_LOOK);
                continue;
            }
            let ready = socket::wait_readable(&stdin, self.stop.wake_fd(), None)?;
            // Looked at again: the job may have been sent to the background meanwhile.
            if !ready.to_read() || !server::may_read(&stdin) {
                continue;
            }
            if lines.read(&mut stdin.lock()) == Input::Ended {
                self.lines = None;
                return Ok(Event::Closed);
            }
        }
    }
}

/// Lines out of what arrives in pieces.
#[derive(Debug, Default)]
struct Lines {
    received: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    GoesOn,
    Ended,
}

impl Lines {
    /// Takes what one read brings; all of it, so that the next wait knows of everything unread.
    fn read(&mut self, input: &mut impl BufRead) -> Input {
        let count = match input.fill_buf() {
            Ok([]) => return Input::Ended,
            Ok(bytes) => {
                self.received.extend_from_slice(bytes);
                bytes.len()
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            // A terminal that hung up.
            Err(_) => return Input::Ended,
        };
        input.consume(count);
        Input::GoesOn
    }

    /// The command of the next whole line, if there is one.
    fn next(&mut self) -> Option<Result<Command, Misspelled>> {
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            if let Some(command) = Command::parse(&String::from_utf8_lossy(&line)) {
                return Some(command);
            }
        }
        if LINE_MAX < self.received.len() {
            self.received.clear();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, wanted: Option<Result<Command, Misspelled>>) {
        assert_eq!(Command::parse(line), wanted, "{line:?}");
    }

    #[test]
    fn the_commands_on_the_screen_are_understood() {
        check("kill 2", Some(Ok(Command::Kill(2))));
        check("  revive   3 \r", Some(Ok(Command::Revive(3))));
        check("kill upstream-1", Some(Ok(Command::Kill(1))));
        check("status", Some(Ok(Command::Status)));
        check("quit", Some(Ok(Command::Quit)));
    }

    #[test]
    fn an_empty_line_asks_for_nothing() {
        check("", None);
        check(" \r", None);
    }

    #[test]
    fn anything_else_is_told_what_to_type() {
        for line in [
            "kill", "kill two", "kill 1 2", "kill -1", "help", "quit now",
        ] {
            check(line, Some(Err(Misspelled)));
        }
    }

    #[test]
    fn a_line_may_come_in_pieces_and_several_at_once() {
        let mut lines = Lines::default();
        for (piece, wanted) in [
            ("kil", None),
            ("l 2", None),
            ("\nstatus\n\nqu", Some(Ok(Command::Kill(2)))),
        ] {
            assert_eq!(lines.read(&mut piece.as_bytes()), Input::GoesOn);
            assert_eq!(lines.next(), wanted, "{piece:?}");
        }
        assert_eq!(lines.next(), Some(Ok(Command::Status)));
        assert_eq!(lines.next(), None);
        assert_eq!(lines.read(&mut &b""[..]), Input::Ended);
    }

    #[test]
    fn a_line_without_an_end_is_forgotten() {
        let mut lines = Lines::default();
        lines.read(&mut vec![b'x'; LINE_MAX + 1].as_slice());
        assert_eq!(lines.next(), None);
        lines.read(&mut &b"quit\n"[..]);
        assert_eq!(lines.next(), Some(Ok(Command::Quit)));
    }
}
