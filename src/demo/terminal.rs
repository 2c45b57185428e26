//! What is typed, and the end of the demonstration, whichever comes first.
//!
//! Reading must never be in the way of a signal, nor stop a job that was sent to the background; and
//! where nothing is typed (`< /dev/null`), the demonstration just goes on.

use std::io::{self, BufRead};
use std::sync::Arc;
use std::time::Duration;

use crate::net::socket;
use crate::server::signals;
use crate::stop::{Stage, Stop};

/// How often a job in the background looks whether it is in the foreground again.
const BACKGROUND_LOOK: Duration = Duration::from_millis(500);
/// A longer line is no command, in bytes.
const LINE_MAX: usize = 1024;

/// What was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Kill the upstream of that number.
    Kill(usize),
    /// Start it again.
    Revive(usize),
    /// Show what the relay knows.
    Status,
    /// None of it.
    Misspelled,
    /// Nothing more will be typed. Told once.
    Closed,
    /// End the demonstration: a signal says that, too.
    Quit,
}

impl Input {
    /// Reads a line; an empty one asks for nothing.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let of_number = |input: fn(usize) -> Self, word: &str| {
            let digits = word.strip_prefix("upstream-").unwrap_or(word);
            digits.parse().map_or(Self::Misspelled, input)
        };
        Some(match *words {
            [] => return None,
            ["kill", number] => of_number(Self::Kill, number),
            ["revive", number] => of_number(Self::Revive, number),
            ["status"] => Self::Status,
            ["quit" | "exit"] => Self::Quit,
            _ => Self::Misspelled,
        })
    }
}

/// Standard input, until it ends.
pub(super) struct Terminal {
    stop: Arc<Stop>,
    lines: Option<InputLines>,
}

impl Terminal {
    /// Waits for `stop`, too.
    pub(super) fn new(stop: Arc<Stop>) -> Self {
        Self {
            stop,
            lines: Some(InputLines::default()),
        }
    }

    /// Waits for the next line, or the end.
    ///
    /// # Errors
    /// When the system cannot wait.
    pub(super) fn next(&mut self) -> io::Result<Input> {
        let stdin = io::stdin();
        loop {
            if let Some(input) = self.lines.as_mut().and_then(InputLines::next) {
                return Ok(input);
            }
            if self.stop.stage() != Stage::Running {
                return Ok(Input::Quit);
            }
            let Some(lines) = &mut self.lines else {
                self.stop.subscribe().wait(None);
                continue;
            };
            if !signals::may_read(&stdin) {
                self.stop.wait(BACKGROUND_LOOK);
                continue;
            }
            let ready = socket::wait_readable(&stdin, self.stop.wake_fd(), None)?;
            // Looked at again: the job may have been sent to the background meanwhile.
            if !ready.to_read() || !signals::may_read(&stdin) {
                continue;
            }
            if !lines.read(&mut stdin.lock()) {
                self.lines = None;
                return Ok(Input::Closed);
            }
        }
    }
}

/// Lines out of what arrives in pieces.
#[derive(Debug, Default)]
struct InputLines {
    received: Vec<u8>,
}

impl InputLines {
    /// Takes what one read brings; all of it, so that the next wait knows of everything unread. `false`:
    /// it was the end.
    fn read(&mut self, input: &mut impl BufRead) -> bool {
        let count = match input.fill_buf() {
            Ok([]) => return false,
            Ok(bytes) => {
                self.received.extend_from_slice(bytes);
                bytes.len()
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            // A terminal that hung up.
            Err(_) => return false,
        };
        input.consume(count);
        true
    }

    /// What the next whole line asks for, if there is one.
    fn next(&mut self) -> Option<Input> {
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            if let Some(input) = Input::parse(&String::from_utf8_lossy(&line)) {
                return Some(input);
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

    fn check(line: &str, wanted: Option<Input>) {
        assert_eq!(Input::parse(line), wanted, "{line:?}");
    }

    #[test]
    fn the_commands_on_the_screen_are_understood() {
        check("kill 2", Some(Input::Kill(2)));
        check("  revive   3 \r", Some(Input::Revive(3)));
        check("kill upstream-1", Some(Input::Kill(1)));
        check("status", Some(Input::Status));
        check("quit", Some(Input::Quit));
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
            check(line, Some(Input::Misspelled));
        }
    }

    #[test]
    fn a_line_may_come_in_pieces_and_several_at_once() {
        let mut lines = InputLines::default();
        for (piece, wanted) in [
            ("kil", None),
            ("l 2", None),
            ("\nstatus\n\nqu", Some(Input::Kill(2))),
        ] {
            assert!(lines.read(&mut piece.as_bytes()));
            assert_eq!(lines.next(), wanted, "{piece:?}");
        }
        assert_eq!(lines.next(), Some(Input::Status));
        assert_eq!(lines.next(), None);
        assert!(!lines.read(&mut &b""[..]));
    }

    #[test]
    fn a_line_without_an_end_is_forgotten() {
        let mut lines = InputLines::default();
        lines.read(&mut vec![b'x'; LINE_MAX + 1].as_slice());
        assert_eq!(lines.next(), None);
        lines.read(&mut &b"quit\n"[..]);
        assert_eq!(lines.next(), Some(Input::Quit));
    }
}
