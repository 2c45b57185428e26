//! A second reader of chunked bodies, slow and plain, written from RFC 9112 §7.1 alone.
//!
//! It shares no code and no idea with the scanner: it looks at the whole input again and again, one
//! production of the grammar after the other, and keeps what it finds. The limits are the relay's.
//!
//! ```text
//! chunked-body   = *chunk last-chunk trailer-section CRLF
//! chunk          = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
//! chunk-size     = 1*HEXDIG
//! last-chunk     = 1*("0") [ chunk-ext ] CRLF
//! chunk-ext      = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
//! chunk-ext-val  = token / quoted-string
//! quoted-string  = DQUOTE *( qdtext / quoted-pair ) DQUOTE
//! trailer-section = *( field-line CRLF )
//! ```

use http_proxy_lb::protocol::chunked::{EXTENSION_LINE_MAX, EXTENSIONS_MAX};
use http_proxy_lb::protocol::head::{FIELDS_MAX, Message};

/// Name and value, trimmed.
pub(crate) type Field = (Vec<u8>, Vec<u8>);

/// What a chunked body is found to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Body {
    /// Its length on the wire.
    pub(crate) length: usize,
    /// What it carries.
    pub(crate) data: Vec<u8>,
    /// The trailer fields, values trimmed.
    pub(crate) trailers: Vec<Field>,
    /// Whether any chunk had an extension.
    pub(crate) is_extended: bool,
}

/// Why there is no body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Not {
    /// What is there may become one.
    Yet,
    /// It can never.
    Ever,
}

/// Reads the chunked body at the start of `input`. `trailer_limit` is that of the trailer section with
/// the empty line behind it, if it has any field. In a response, the section may be odd.
pub(crate) fn chunked(message: Message, input: &[u8], trailer_limit: usize) -> Result<Body, Not> {
    let mut at = Reader {
        is_odd_accepted: message == Message::Response,
        input,
        place: 0,
        extensions: 0,
    };
    let mut data = Vec::new();
    loop {
        let size = at.chunk_size()?;
        at.chunk_extensions()?;
        at.literal(b"\r\n")?;
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).or(Err(Not::Yet))?;
        let end = at.place.checked_add(size).ok_or(Not::Yet)?;
        data.extend_from_slice(input.get(at.place..end).ok_or(Not::Yet)?);
        at.place = end;
        at.literal(b"\r\n")?;
    }
    let trailers = at.trailers(trailer_limit)?;
    Ok(Body {
        length: at.place,
        data,
        trailers,
        is_extended: at.extensions > 0,
    })
}

struct Reader<'a> {
    is_odd_accepted: bool,
    input: &'a [u8],
    place: usize,
    extensions: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Result<u8, Not> {
        self.input.get(self.place).copied().ok_or(Not::Yet)
    }

    fn literal(&mut self, wanted: &[u8]) -> Result<(), Not> {
        for &byte in wanted {
            if self.peek()? != byte {
                return Err(Not::Ever);
            }
            self.place += 1;
        }
        Ok(())
    }

    fn chunk_size(&mut self) -> Result<u64, Not> {
        let start = self.place;
        let mut size: u64 = 0;
        // At least one digit, at most 16 (leading zeros count), and never more than 2^63 - 1.
        while let Some(digit) = char::from(self.peek()?).to_digit(16) {
            let larger = u128::from(size) * 16 + u128::from(digit);
            if self.place - start >= 16 || larger > 0x7fff_ffff_ffff_ffff {
                return Err(Not::Ever);
            }
            size = u64::try_from(larger).or(Err(Not::Ever))?;
            self.place += 1;
        }
        if self.place == start {
            return Err(Not::Ever);
        }
        Ok(size)
    }

    /// Everything between a size and its CRLF.
    fn chunk_extensions(&mut self) -> Result<(), Not> {
        let start = self.place;
        let parsed = self.extension_list();
        let so_far = self.place - start;
        self.extensions += so_far;
        if so_far > EXTENSION_LINE_MAX || self.extensions > EXTENSIONS_MAX {
            return Err(Not::Ever);
        }
        parsed
    }

    fn extension_list(&mut self) -> Result<(), Not> {
        loop {
            let blanks = self.blanks();
            match self.peek()? {
                b';' => self.place += 1,
                _ if blanks == 0 => return Ok(()),
                _ => return Err(Not::Ever),
            }
            self.blanks();
            self.token()?;
            let before_blanks = self.place;
            self.blanks();
            if self.peek()? != b'=' {
                // Those blanks belong to the next extension, if there is one.
                self.place = before_blanks;
                continue;
            }
            self.place += 1;
            self.blanks();
            if self.peek()? == b'"' {
                self.quoted_string()?;
            } else {
                self.token()?;
            }
        }
    }

    /// BWS: how many there were.
    fn blanks(&mut self) -> usize {
        let start = self.place;
        while matches!(self.peek(), Ok(b' ' | b'\t')) {
            self.place += 1;
        }
        self.place - start
    }

    fn token(&mut self) -> Result<(), Not> {
        let start = self.place;
        while is_token(self.peek()?) {
            self.place += 1;
        }
        if self.place == start {
            return Err(Not::Ever);
        }
        Ok(())
    }

    fn quoted_string(&mut self) -> Result<(), Not> {
        self.place += 1;
        loop {
            let byte = self.peek()?;
            let is_text = byte == b'\t' || (b' '..=b'~').contains(&byte) || byte >= 0x80;
            if !is_text {
                return Err(Not::Ever);
            }
            self.place += 1;
            if byte == b'"' {
                return Ok(());
            }
            if byte == b'\\' {
                let escaped = self.peek()?;
                if escaped != b'\t' && (escaped < b' ' || escaped == 0x7f) {
                    return Err(Not::Ever);
                }
                self.place += 1;
            }
        }
    }

    fn trailers(&mut self, limit: usize) -> Result<Vec<Field>, Not> {
        let start = self.place;
        let mut fields = Vec::new();
        // Without fields there is no section that could be too long.
        if self.peek()? == b'\r' {
            return self.literal(b"\r\n").map(|()| fields);
        }
        let whole = self.input;
        self.input = whole.get(..start.saturating_add(limit)).unwrap_or(whole);
        let is_cut = self.input.len() < whole.len();
        let most = if self.is_odd_accepted {
            usize::MAX
        } else {
            FIELDS_MAX
        };
        let end = loop {
            match self.field_or_end() {
                Ok(Some(_)) if fields.len() == most => break Err(Not::Ever),
                Ok(Some(field)) => fields.push(field),
                Ok(None) => break Ok(fields),
                Err(Not::Yet) if fields.len() == most && self.place_begins_a_field() => {
                    break Err(Not::Ever);
                }
                // At the limit there is no "yet".
                Err(Not::Yet) if is_cut || whole.len() == start.saturating_add(limit) => {
                    break Err(Not::Ever);
                }
                Err(not) => break Err(not),
            }
        };
        self.input = whole;
        end
    }

    fn place_begins_a_field(&self) -> bool {
        let rest = &self.input[self.line_start()..];
        rest.first().is_some_and(|byte| is_token(*byte))
    }

    fn line_start(&self) -> usize {
        let before = &self.input[..self.place];
        before
            .windows(2)
            .rposition(|pair| pair == b"\r\n")
            .map_or(0, |at| at + 2)
    }

    /// One `field-line CRLF`, or the CRLF that ends the section.
    fn field_or_end(&mut self) -> Result<Option<Field>, Not> {
        if self.peek()? == b'\r' {
            return self.literal(b"\r\n").map(|()| None);
        }
        let start = self.place;
        self.token()?;
        let name = self.input[start..self.place].to_vec();
        if self.is_odd_accepted {
            self.blanks();
        }
        self.literal(b":")?;
        let start = self.place;
        while match self.peek()? {
            b'\r' | b'\n' | 0 => false,
            b'\t' | b' '..=b'~' | 0x80.. => true,
            _ => self.is_odd_accepted,
        } {
            self.place += 1;
        }
        let value = self.input[start..self.place].to_vec();
        self.literal(b"\r\n")?;
        Ok(Some((name, trimmed(&value).to_vec())))
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Without spaces and tabs at both ends.
pub(crate) fn trimmed(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte));
    let end = value.iter().rposition(|byte| !is_blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &value[start..=end],
        _ => b"",
    }
}
