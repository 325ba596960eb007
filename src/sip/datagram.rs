//! What a datagram is before anybody tries to read SIP in it (RFC 5626 §8, and what phones send as keepalives).

use std::net::{IpAddr, SocketAddr};

/// The shortest datagram that is looked at as SIP: OpenSIPS refuses below 20 octets, Kamailio below 32, and no SIP
/// message that could be answered is so short.
pub const SHORTEST: usize = 20;

/// STUN's magic cookie (RFC 8489 §5).
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const STUN_HEADER: usize = 20;
const STUN_BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const STUN_BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const STUN_XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];

/// The kinds of datagrams that reach a SIP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// Worth reading as SIP.
    Sip,
    /// CRLF, NUL octets, `jaK`, blanks, nothing: keeps a NAT binding open and wants no answer.
    KeepAlive,
    /// A STUN binding request: wants to hear its own address.
    StunBinding,
    /// Other STUN, SigComp (RFC 3320, first five bits set), or too short for SIP.
    Junk,
}

/// Looks at the first octets.
#[inline]
pub fn classify(bytes: &[u8]) -> Datagram {
    match bytes.first() {
        None => Datagram::KeepAlive,
        Some(b'A'..=b'Z' | b'a'..=b'z') if bytes.len() >= SHORTEST => Datagram::Sip,
        Some(_) => classify_odd(bytes),
    }
}

#[cold]
fn classify_odd(bytes: &[u8]) -> Datagram {
    let blank = bytes.iter().all(|b| matches!(b, b'\r' | b'\n' | b' ' | b'\t' | 0));
    match bytes {
        _ if blank => Datagram::KeepAlive,
        b"jaK" | b"jaK\0" => Datagram::KeepAlive,
        [0 | 1, ..] if is_stun(bytes) && bytes[..2] == STUN_BINDING_REQUEST => Datagram::StunBinding,
        [0 | 1, ..] | [0xf8..=0xff, ..] => Datagram::Junk,
        _ if bytes.len() < SHORTEST => Datagram::Junk,
        _ => Datagram::Sip,
    }
}

/// Whether it has STUN's form (RFC 8489 §5): cookie, and a length that is right.
fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= STUN_HEADER
        && bytes[4..8] == STUN_COOKIE
        && usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) == bytes.len() - STUN_HEADER
}

/// Writes the answer to a STUN binding request from `remote` into `out` and says how long it is (RFC 8489 §14.2,
/// RFC 5626 §8). `request` must be a [`Datagram::StunBinding`].
pub fn stun_answer(request: &[u8], remote: SocketAddr, out: &mut [u8]) -> usize {
    let transaction = &request[4..STUN_HEADER];
    let port = remote.port() ^ u16::from_be_bytes([STUN_COOKIE[0], STUN_COOKIE[1]]);
    let mut attribute = [0u8; 20];
    attribute[2..4].copy_from_slice(&port.to_be_bytes());
    let octets: &mut [u8] = match remote.ip() {
        IpAddr::V4(ip) => {
            attribute[1] = 1;
            attribute[4..8].copy_from_slice(&ip.octets());
            &mut attribute[4..8]
        }
        IpAddr::V6(ip) => {
            attribute[1] = 2;
            attribute[4..20].copy_from_slice(&ip.octets());
            &mut attribute[4..20]
        }
    };
    for (octet, mask) in octets.iter_mut().zip(transaction) {
        *octet ^= mask;
    }
    let value = 4 + octets.len();
    out[..2].copy_from_slice(&STUN_BINDING_SUCCESS);
    out[2..4].copy_from_slice(&(value as u16 + 4).to_be_bytes());
    out[4..STUN_HEADER].copy_from_slice(transaction);
    out[20..22].copy_from_slice(&STUN_XOR_MAPPED_ADDRESS);
    out[22..24].copy_from_slice(&(value as u16).to_be_bytes());
    out[24..24 + value].copy_from_slice(&attribute[..value]);
    24 + value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Vec<u8> {
        [&[0, 1, 0, 0][..], &STUN_COOKIE, &[7; 12]].concat()
    }

    #[test]
    fn tells_sip_from_what_else_reaches_a_sip_port() {
        let sip = b"OPTIONS sip:a SIP/2.0\r\n\r\n";
        for (bytes, want) in [
            (&sip[..], Datagram::Sip),
            (b"\r\nOPTIONS sip:a SIP/2.0\r\n\r\n", Datagram::Sip),
            (b"", Datagram::KeepAlive),
            (b"\r\n\r\n", Datagram::KeepAlive),
            (b"\r\n", Datagram::KeepAlive),
            (b"\0\0\0\0", Datagram::KeepAlive),
            (b"\0", Datagram::KeepAlive),
            (b"jaK\0", Datagram::KeepAlive),
            (b"   ", Datagram::KeepAlive),
            (&binding(), Datagram::StunBinding),
            (&binding()[..19], Datagram::Junk),
            (b"\xf8sigcompsigcompsigcompsigcomp", Datagram::Junk),
            (b"hello", Datagram::Junk),
            (b"1234567890123456789", Datagram::Junk),
        ] {
            assert_eq!(classify(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn a_stun_answer_names_the_address_it_came_from() {
        // RFC 5769 §2.2 uses this mapped address with another transaction; the masked port and address are the same.
        let mut out = [0; 64];
        let len = stun_answer(&binding(), "192.0.2.1:32853".parse().unwrap(), &mut out);
        assert_eq!(&out[..4], [1, 1, 0, 12]);
        assert_eq!(&out[20..len], [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let len = stun_answer(&binding(), "[2001:db8::1]:1".parse().unwrap(), &mut out);
        assert_eq!((len, out[25]), (44, 2));
        assert_eq!(&out[28..32], [0x20 ^ 0x21, 0x01 ^ 0x12, 0x0d ^ 0xa4, 0xb8 ^ 0x42]);
        assert_eq!(&out[32..44], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 6]);
    }
}
