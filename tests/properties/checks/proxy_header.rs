//! The PROXY header: what is one is the shortest beginning that is one, whatever follows; what cannot
//! become one is refused at the same byte however it arrives.

use http_proxy_lb::protocol::proxy_header::{self, ProxyHeader};

/// The whole input is what a connection begins with.
pub(crate) fn check(input: &[u8]) {
    let mut piecewise = Ok(None);
    for end in 0..=input.len() {
        piecewise = proxy_header::parse(&input[..end]);
        match piecewise {
            Ok(None) => {}
            Ok(Some(header)) => {
                assert_eq!(header.length, end, "it is known with its last byte");
                break;
            }
            Err(_) => break,
        }
    }
    let whole = proxy_header::parse(input);
    assert_eq!(whole.is_err(), piecewise.is_err());
    if let Ok(header) = whole {
        assert_eq!(Ok(header), piecewise);
        if let Some(header) = header {
            check_meaning(header, &input[..header.length]);
        }
    } else {
        assert!(!input.is_empty());
    }
}

fn check_meaning(header: ProxyHeader, bytes: &[u8]) {
    let Some(line) = bytes.strip_prefix(b"PROXY ") else {
        assert!(bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
        let length = u16::from_be_bytes([bytes[14], bytes[15]]);
        assert_eq!(bytes.len(), 16 + usize::from(length));
        assert!(
            header.client.is_none() || bytes[12] == 0x21,
            "LOCAL names nobody"
        );
        return;
    };
    let line = std::str::from_utf8(line)
        .expect("ASCII")
        .trim_end_matches("\r\n");
    let words: Vec<&str> = line.split(' ').collect();
    match header.client {
        None => assert_eq!(words[0], "UNKNOWN"),
        Some(client) => {
            assert_eq!(words.len(), 5);
            assert_eq!(words[0], if client.is_ipv4() { "TCP4" } else { "TCP6" });
            assert_eq!(words[1].parse(), Ok(client.ip()));
            assert_eq!(words[3], client.port().to_string());
        }
    }
}
