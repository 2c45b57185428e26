//! What one client does, as a list of steps: what to do once, and what to do over and over.

use std::rc::Rc;

/// One thing a client does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Connects.
    Open,
    /// Writes these bytes.
    Send(Rc<[u8]>),
    /// Reads a response with status 200 and so many bytes of pattern.
    Answer(usize),
    /// Reads the head that opens a tunnel; what follows it belongs to the stream.
    Opened,
    /// Reads exactly these bytes.
    Expect(Rc<[u8]>),
    /// Reads so much of the stream, which goes on with the pattern.
    Drink(usize),
    /// Writes so much of the stream.
    Pour(usize),
    /// Closes.
    Close,
}

/// What a client does once, and then over and over; nothing more, when `cycle` is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) setup: Vec<Step>,
    pub(crate) cycle: Vec<Step>,
}

impl Script {
    /// Whether it wants more of a connection than one request or one tunnel.
    pub(crate) fn keeps_connections(&self) -> bool {
        let has = |wanted: fn(&Step) -> bool| self.setup.iter().chain(&self.cycle).any(wanted);
        has(|step| matches!(step, Step::Answer(_))) && !has(|step| matches!(step, Step::Close))
    }
}

impl Step {
    /// Whether it waits for bytes.
    pub(crate) fn reads(&self) -> bool {
        matches!(
            self,
            Self::Answer(_) | Self::Opened | Self::Expect(_) | Self::Drink(_)
        )
    }

    /// For messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Open => "connecting",
            Self::Send(_) | Self::Pour(_) => "sending",
            Self::Answer(_) | Self::Opened => "the answer",
            Self::Expect(_) => "the echo",
            Self::Drink(_) => "the stream",
            Self::Close => "closing",
        }
    }
}
