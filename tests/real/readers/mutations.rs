//! Messages, good and odd ones, and what becomes of them if a few bytes change. Always the same.

/// What responses are made of, and the method they answer.
const RESPONSES: [(&str, &str); 13] = [
    (
        "GET",
        "HTTP/1.1 200 OK\r\nX-T: a\r\nContent-Length: 5\r\n\r\nhello",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nX-T : a\r\nContent-Length : 5\r\n\r\nhello",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nX-T\t: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 200 \u{1}\u{b}\r\nX-T: a\u{1}\u{b}\u{c}\u{1b}\u{7f}b\r\nContent-Length: 5\r\n\r\nhello",
    ),
    (
        "GET",
        "HTTP/1.1 200\r\nX-T: a\u{8}\r\nX-T2: \u{7f}\r\nTransfer-Encoding : chunked\r\n\r\n5\r\nhello\r\n0\r\nX-U : \u{1}\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 404 Not there\r\nX-T: a\r\nContent-Length: 9\r\n\r\nHTTP/1.1 ",
    ),
    ("GET", "ICY 200 OK\r\nX-T: a\r\n\r\nhello"),
    (
        "GET",
        "ICY 200 OK\r\nX-T : a\u{1}\r\nContent-Length: 5\r\n\r\nhello",
    ),
    (
        "GET",
        "HTTP/1.0 200 OK\r\nX-T: a\r\nSet-Cookie: a=b\r\n\r\nhello",
    ),
    ("GET", "HTTP/1.1 204 None\r\nX-T : a\r\n\r\n"),
    (
        "GET",
        "HTTP/1.1 503 \r\nX-T: a\r\nConnection : X-T3\r\nX-T3: b\r\nContent-Length: 5, 5\r\n\r\nhello",
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\r\nX-T : a\r\nContent-Length: 5\r\n\r\n",
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-T:a\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nX-U: v\r\n\r\n",
    ),
];

/// What requests are made of.
const REQUESTS: [&str; 12] = [
    "GET http://o.test/a?b HTTP/1.1\r\nHost: o.test\r\nX-T: a\r\n\r\n",
    "GET https://o.test/a HTTP/1.1\r\nHost: o.test\r\nX-T: a\r\n\r\n",
    "GET https://O.test:443/a HTTP/1.1\r\nHost: x\r\nX-T:\ta\r\n\r\n",
    "GET ftp://bob:pass@o.test/a HTTP/1.1\r\nHost: o.test\r\n\r\n",
    "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nX-T: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST https://o.test:8443 HTTP/1.1\r\nHost: o.test\r\nContent-Length: 5\r\n\r\nhello",
    "POST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-U: v\r\n\r\n",
    "PUT http://o.test:81/a HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    "DELETE http://o.test/a HTTP/1.1\r\nHost: o.test\r\nConnection: X-T, close\r\nX-T: a\r\n\r\n",
    "HEAD http://o.test/a HTTP/1.1\r\nHost: o.test\r\nX-T: a\r\n\r\n",
    "GET http://bob:pass@o.test?q HTTP/1.0\r\nX-T: a\u{e9}\r\n\r\n",
    "\r\nPOST http://o.test/ HTTP/1.1\r\nHost: o.test\r\nContent-Length: 19\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
];

/// What means something to a reader.
const PIECES: [&[u8]; 26] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"5",
    b"\x01",
    b"\x0b",
    b"\x0c",
    b"\x7f",
    b"\x85",
    b"\xff",
    b"\"",
    b"x",
    b"X-T4 : c\r\n",
    b"X-T5: \x01\x0b\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length : 3\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"0\r\n\r\n",
];

/// xorshift64*, from a seed of its own.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits") % end.max(1)
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Changes one to three places: a piece is put there, or in place of a byte, or a byte is left out.
    fn mutate(&mut self, text: &str) -> Vec<u8> {
        let byte = |c| u8::try_from(u32::from(c)).expect("a byte");
        let mut bytes: Vec<u8> = text.chars().map(byte).collect();
        for _ in 0..=self.below(3) {
            let mut at = self.below(bytes.len());
            let piece = self.pick(&PIECES);
            if piece.len() > 2 {
                // A whole line stands at the beginning of one.
                let line = bytes[..at].windows(2).rposition(|pair| pair == b"\r\n");
                at = line.map_or(0, |end| end + 2);
            }
            let replaced = usize::from(piece.len() == 1 && self.below(2) == 0);
            let put = if self.below(8) == 0 { &b""[..] } else { piece };
            drop(bytes.splice(at..at + replaced, put.iter().copied()));
        }
        bytes
    }
}

pub(super) fn responses() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let mut dice = Dice(0x5eed_0001);
    std::iter::repeat_with(move || {
        let (method, text) = dice.pick(&RESPONSES);
        (method, dice.mutate(text))
    })
}

pub(super) fn requests() -> impl Iterator<Item = Vec<u8>> {
    let mut dice = Dice(0x5eed_0002);
    std::iter::repeat_with(move || {
        let text = dice.pick(&REQUESTS);
        dice.mutate(text)
    })
}
