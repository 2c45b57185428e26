//! Decimal numbers: read without mercy, and written without asking for memory.

use std::net::Ipv4Addr;

/// As many digits as 64 bits can need.
const DIGITS: usize = 20;

/// Appends `number` without leading zeros.
pub fn write(number: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; DIGITS];
    let mut first = DIGITS;
    let mut rest = number;
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        // Below 10, so nothing is lost.
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        first = place;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(first..).unwrap_or_default());
}

/// Appends the dotted quad.
pub fn write_address(address: Ipv4Addr, out: &mut Vec<u8>) {
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            out.push(b'.');
        }
        write(u64::from(octet), out);
    }
}

/// `1*DIGIT` of at most 64 bits: no sign, no space, no separator, and not nothing.
pub(super) fn read(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_alone_and_fit_into_64_bits() {
        assert_eq!(read(b"0"), Some(0));
        assert_eq!(read(b"0042"), Some(42));
        assert_eq!(read(b"18446744073709551615"), Some(u64::MAX));
        for text in [
            "",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1_0",
            "0x1",
            "1.0",
            "\u{ff11}",
            "18446744073709551616",
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_of_any_length_are_written_as_people_write_them() {
        for number in [
            0,
            1,
            9,
            10,
            99,
            100,
            206,
            65_535,
            1 << 32,
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut out = b"x".to_vec();
            write(number, &mut out);
            assert_eq!(out, format!("x{number}").into_bytes());
        }
    }

    #[test]
    fn addresses_are_dotted_quads() {
        let mut out = Vec::new();
        write_address(Ipv4Addr::new(192, 0, 2, 255), &mut out);
        assert_eq!(out, b"192.0.2.255");
    }
}
