//! Bytes whose place in a body can be told by looking at them.
//!
//! The pattern repeats after a prime number of bytes, so that a block that was lost, doubled or put
//! in the wrong place by any power of two shows as a difference.

use std::sync::LazyLock;

const PERIOD: usize = 1_048_573;
/// How many bytes `at` gives.
pub(crate) const WINDOW: usize = 256 * 1024;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let mut bytes: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
    bytes.extend_from_within(..WINDOW);
    bytes
});

/// The `WINDOW` bytes that stand at `position` of a body.
pub(crate) fn at(position: u64) -> &'static [u8] {
    let start = usize::try_from(position % PERIOD as u64).expect("below PERIOD");
    &BYTES[start..start + WINDOW]
}

/// The first `length` bytes of the pattern, moved by `seed` so that files differ.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let window = at(seed * 7919 + bytes.len() as u64);
        bytes.extend_from_slice(&window[..WINDOW.min(length - bytes.len())]);
    }
    bytes
}

/// Checks a body while it arrives.
#[derive(Default)]
pub(crate) struct Check {
    position: u64,
    wrong_at: Option<u64>,
}

impl Check {
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(WINDOW));
            if self.wrong_at.is_none() && now != &at(self.position)[..now.len()] {
                self.wrong_at = Some(self.position);
            }
            self.position += now.len() as u64;
            bytes = later;
        }
    }

    /// The length, if every byte was where it belongs.
    pub(crate) fn finish(&self) -> Result<u64, String> {
        match self.wrong_at {
            None => Ok(self.position),
            Some(place) => Err(format!("wrong byte at or after {place}")),
        }
    }
}
