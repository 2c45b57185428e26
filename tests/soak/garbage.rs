//! What broken clients say: the same for the same seed.

/// Random numbers that can be had again (`SplitMix64`).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("a small number");
        usize::try_from(self.next() % limit).expect("a small number")
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// What is bent until it breaks.
const SOUND: [&str; 8] = [
    "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nX: y\r\n\r\n",
    "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 30\r\n\r\n0123456789",
    "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: v\r\n\r\n",
    "CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n\r\n\x16\x03\x01\x00\x05hello",
    "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: origin.test\r\nMax-Forwards: 0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    "PUT http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64",
];

/// What stands in malformed messages more often than in others.
const ODD: [&[u8]; 12] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"HTTP/1.1",
    b"ffffffffffffffff\r\n",
    b"\xff\xfe",
    b"Host: a, b\r\n",
];

/// All that one connection says.
pub(crate) fn garbage(random: &mut Random) -> Vec<u8> {
    match random.below(8) {
        0 => {
            let count = 1 + random.below(2000);
            random.bytes(count)
        }
        // A TLS client that was sent to the wrong port.
        1 => [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
            &random.bytes(508),
        ]
        .concat(),
        2 => flood(random),
        _ => bent(random),
    }
}

/// A head of many fields, or of one long one.
fn flood(random: &mut Random) -> Vec<u8> {
    let mut text = b"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n".to_vec();
    if random.below(2) == 0 {
        for number in 0..random.below(400) {
            text.extend(format!("X-{number}: {number}\r\n").bytes());
        }
    } else {
        text.extend(b"X: ");
        text.resize(text.len() + random.below(80_000), b'x');
    }
    text
}

/// A sound message with some damage, or with none: then it breaks off.
fn bent(random: &mut Random) -> Vec<u8> {
    let mut text = SOUND[random.below(SOUND.len())].as_bytes().to_vec();
    for _ in 0..random.below(6) {
        let at = random.below(text.len());
        match random.below(4) {
            0 => text[at] = random.next().to_le_bytes()[0],
            1 => drop(text.remove(at)),
            2 => {
                let odd = ODD[random.below(ODD.len())];
                drop(text.splice(at..at, odd.iter().copied()));
            }
            _ => {
                let part = text[at..].to_vec();
                text.extend(part);
            }
        }
        if text.is_empty() {
            text.push(b'G');
        }
    }
    let kept = 1 + random.below(text.len());
    if random.below(3) == 0 {
        text.truncate(kept);
    }
    text
}
