//! DNS names: which bytes are one, and a place for it.
//!
//! Each request leads to a host, mostly to one with a short name. Such a name stands in the value
//! itself, so that a target can be read again and again without asking for memory.

use std::fmt;
use std::ops::Deref;

/// The longest name DNS can carry, without a trailing dot, in bytes.
const NAME_MAX: usize = 253;

/// The longest label of a name, in bytes (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

/// Names of so many bytes need no memory of their own.
const SHORT: usize = 54;

/// A DNS name in lower case, perhaps with a dot at its end.
#[derive(Clone, PartialEq, Eq)]
pub struct DnsName(Stored);

#[derive(Clone, PartialEq, Eq)]
enum Stored {
    /// The first `length` bytes are the name, the others 0. `length <= SHORT`
    Short { length: u8, bytes: [u8; SHORT] },
    /// Longer than [`SHORT`].
    Long(Box<[u8]>),
}

impl DnsName {
    /// Reads a name in any case. `None`: it is none.
    ///
    /// It has labels of letters, digits and `-_~` between dots, the last one not a number (RFC 3696 §2).
    /// RFC 3986 allows more in a `reg-name`, DNS does not.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        is_name(text).then(|| Self::stored(text))
    }

    #[inline]
    fn stored(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match u8::try_from(text.len()) {
            Ok(length) if text.len() <= SHORT => {
                for (place, byte) in bytes.iter_mut().zip(text) {
                    *place = byte.to_ascii_lowercase();
                }
                Self(Stored::Short { length, bytes })
            }
            _ => Self(Stored::Long(text.to_ascii_lowercase().into_boxed_slice())),
        }
    }

    /// The name as bytes, all of them US-ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Stored::Short { length, bytes } => {
                bytes.get(..usize::from(*length)).unwrap_or_default()
            }
            Stored::Long(bytes) => bytes,
        }
    }
}

/// Whatever the text is: to be used for what is known to be a name.
impl From<&str> for DnsName {
    fn from(text: &str) -> Self {
        Self::stored(text.as_bytes())
    }
}

impl Deref for DnsName {
    type Target = str;

    fn deref(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

fn is_name(text: &[u8]) -> bool {
    let name = text.strip_suffix(b".").unwrap_or(text);
    let mut label = 0;
    for &byte in name {
        if is_label_byte(byte) && label < LABEL_MAX {
            label += 1;
        } else if byte == b'.' && label > 0 {
            label = 0;
        } else {
            return false;
        }
    }
    let last = name.get(name.len() - label..).unwrap_or_default();
    label > 0 && name.len() <= NAME_MAX && !is_number(last)
}

fn is_label_byte(byte: u8) -> bool {
    LABEL.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Letters, digits and `-_~`: looked up for every byte of a name.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static LABEL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
        byte += 1;
    }
    table
};

/// Would `inet_aton` take this label for a part of an address?
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        _ => label.iter().all(u8::is_ascii_digit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_length_is_kept_in_lower_case() {
        for length in [1, 2, SHORT - 1, SHORT, SHORT + 1, LABEL_MAX] {
            let name = DnsName::parse("A".repeat(length).as_bytes()).unwrap();
            assert_eq!(*name, *"a".repeat(length));
        }
        let longest = ["a".repeat(LABEL_MAX).as_str(); 4].join(".");
        let name = DnsName::parse(&longest.as_bytes()[2..]).unwrap();
        assert_eq!(name.len(), NAME_MAX);
    }

    #[test]
    fn names_of_the_same_letters_are_the_same() {
        for text in ["origin.test".to_owned(), ["label"; 20].join(".")] {
            let upper = DnsName::parse(text.to_ascii_uppercase().as_bytes()).unwrap();
            let lower = DnsName::from(text.as_str());
            assert_eq!(upper, lower);
            assert_ne!(upper, DnsName::from("other.test"));
        }
    }
}
