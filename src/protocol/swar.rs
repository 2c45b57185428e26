//! Finding a byte of some kind, eight at a time: SIMD within a register (SWAR).
//!
//! Most of what a head costs is to look at its bytes. Eight of them are looked at together as the lanes of
//! one word, with a few additions that leave a bit in the lane of the byte that is wanted.

/// So many bytes are looked at together, as one word of 64 bits.
const LANES: usize = 8;

/// A word with this byte in each lane.
const fn splat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; LANES])
}

/// The highest bit of the lanes that hold this byte. Those behind the first of them may be wrong: what is
/// borrowed goes that way.
#[inline]
const fn lanes_with(word: u64, byte: u8) -> u64 {
    let differing = word ^ splat(byte);
    differing.wrapping_sub(splat(1)) & !differing & splat(0x80)
}

/// The same for bytes below this one, which is at most 0x80.
#[inline]
const fn lanes_below(word: u64, byte: u8) -> u64 {
    word.wrapping_sub(splat(byte)) & !word & splat(0x80)
}

/// Where the first byte of a kind stands. `mark` finds it among [`LANES`] of them: the lowest bit it
/// leaves is in that byte's lane.
#[inline]
fn find_kind(bytes: &[u8], mark: impl Fn(u64) -> u64) -> Option<usize> {
    let (blocks, rest) = bytes.as_chunks::<LANES>();
    // The first byte in the lowest lane.
    let first =
        |block: &[u8; LANES]| mark(u64::from_le_bytes(*block)).trailing_zeros() as usize / 8;
    for (place, block) in blocks.iter().enumerate() {
        let found = first(block);
        if found < LANES {
            return Some(place * LANES + found);
        }
    }
    let mut last = [0; LANES];
    for (place, byte) in last.iter_mut().zip(rest) {
        *place = *byte;
    }
    let found = first(&last);
    (found < rest.len()).then_some(bytes.len() - rest.len() + found)
}

/// Where this byte stands for the first time.
pub(super) fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    find_kind(bytes, |word| lanes_with(word, wanted))
}

/// Where the first control of US-ASCII stands. Bytes beyond it are obs-text (RFC 9110 §5.5).
pub(super) fn find_control(bytes: &[u8]) -> Option<usize> {
    find_kind(bytes, |word| {
        lanes_below(word, 0x20) | lanes_with(word, 0x7f)
    })
}

/// Where the first byte stands that cannot be in a request target: a space, a control, or the `#` of a fragment.
pub(super) fn find_no_target(bytes: &[u8]) -> Option<usize> {
    find_kind(bytes, |word| {
        lanes_below(word, b' ' + 1) | lanes_with(word, 0x7f) | lanes_with(word, b'#')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte at every place of pieces of every small length, behind and before others.
    #[test]
    fn many_bytes_at_once_are_looked_at_as_one_after_the_other() {
        type Find = fn(&[u8]) -> Option<usize>;
        type IsWanted = fn(u8) -> bool;
        let table: [(Find, IsWanted); 4] = [
            (|bytes| find(bytes, b' '), |byte| byte == b' '),
            (|bytes| find(bytes, 0xff), |byte| byte == 0xff),
            (find_control, |byte| byte.is_ascii_control()),
            (find_no_target, |byte| {
                matches!(byte, 0..=b' ' | 0x7f | b'#')
            }),
        ];
        for (find, is_wanted) in table {
            for other in [b'a', b'~', b'!', 0x80, 0xfe] {
                for length in 0..20 {
                    for (place, byte) in (0..length).flat_map(|p| (0..=255).map(move |b| (p, b))) {
                        let mut bytes = vec![other; length];
                        bytes[place] = byte;
                        let expected = bytes.iter().position(|&byte| is_wanted(byte));
                        assert_eq!(find(&bytes), expected, "{}", bytes.escape_ascii());
                        bytes.extend([byte.wrapping_add(1), byte, 0]);
                        let expected = bytes.iter().position(|&byte| is_wanted(byte));
                        assert_eq!(find(&bytes), expected, "{}", bytes.escape_ascii());
                    }
                }
            }
        }
    }
}
