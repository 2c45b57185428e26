//! The bytes of every body: which place a byte came from can be told by looking at it.
//!
//! The period is a prime, so that no buffer size of a relay divides it: a chunk that is lost,
//! doubled or exchanged is seen at once. Comparing is one `memcmp` per read.

use std::sync::OnceLock;

/// After so many bytes the pattern begins anew.
pub(crate) const PERIOD: usize = 65_521;

/// The longest stretch that [`at`] can give.
pub(crate) const LONGEST: usize = PERIOD * 5;

fn bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        let once: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        once.repeat(6)
    })
}

/// `length` bytes of a body, from the byte `offset` on; at most [`LONGEST`].
pub(crate) fn at(offset: usize, length: usize) -> &'static [u8] {
    let start = offset % PERIOD;
    &bytes()[start..start + length.min(LONGEST)]
}

/// Whether these are the bytes of a body from `offset` on.
pub(crate) fn is_at(offset: usize, received: &[u8]) -> bool {
    let mut offset = offset;
    received.chunks(LONGEST).all(|chunk| {
        let fits = chunk == at(offset, chunk.len());
        offset += chunk.len();
        fits
    })
}

/// A whole body.
pub(crate) fn body(length: usize) -> Vec<u8> {
    let whole = bytes()[..PERIOD].iter().copied();
    whole.cycle().take(length).collect()
}
