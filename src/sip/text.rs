//! Addresses and numbers as text and back. Own code because core's formatting machinery costs several hundred
//! instructions for one address, a tenth of what a whole message may cost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest text of [`Text`]: a bracketed IPv6 address with port.
const LONGEST: usize = 48;

/// A short text on the stack.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; LONGEST],
    len: u8,
}

impl Text {
    /// An address without brackets, as `received` wants it (RFC 3261 §25.1 `via-received`).
    pub fn ip(ip: IpAddr) -> Self {
        let mut text = Self { bytes: [0; LONGEST], len: 0 };
        text.push_ip(ip);
        text
    }

    /// `host:port`, an IPv6 host in brackets: sent-by and the host part of a URI.
    pub fn host_port(address: SocketAddr) -> Self {
        let mut text = Self { bytes: [0; LONGEST], len: 0 };
        match address.ip() {
            IpAddr::V4(_) => text.push_ip(address.ip()),
            IpAddr::V6(_) => {
                text.push(b"[");
                text.push_ip(address.ip());
                text.push(b"]");
            }
        }
        text.push(b":");
        text.push(Self::number(u32::from(address.port())).as_bytes());
        text
    }

    /// A decimal number.
    pub fn number(mut value: u32) -> Self {
        let mut digits = [0; 10];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        let mut text = Self { bytes: [0; LONGEST], len: 0 };
        text.push(&digits[at..]);
        text
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    fn push(&mut self, bytes: &[u8]) {
        let len = self.len as usize;
        self.bytes[len..len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    fn push_ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.push_v4(ip),
            IpAddr::V6(ip) => self.push_v6(ip),
        }
    }

    fn push_v4(&mut self, ip: Ipv4Addr) {
        let mut at = self.len as usize;
        for octet in ip.octets() {
            if octet >= 100 {
                self.bytes[at] = b'0' + octet / 100;
                at += 1;
            }
            if octet >= 10 {
                self.bytes[at] = b'0' + octet / 10 % 10;
                at += 1;
            }
            self.bytes[at] = b'0' + octet % 10;
            self.bytes[at + 1] = b'.';
            at += 2;
        }
        self.len = (at - 1) as u8;
    }

    /// The canonical text of RFC 5952 is core's business; IPv6 may cost what it costs.
    fn push_v6(&mut self, ip: Ipv6Addr) {
        use std::io::Write;
        let len = self.len as usize;
        let mut rest = &mut self.bytes[len..];
        let before = rest.len();
        // Never fails: the longest text of an IPv6 address is 45 bytes and at most one byte stands before it.
        let _ = write!(rest, "{ip}");
        self.len += (before - rest.len()) as u8;
    }
}

/// Reads an address, IPv6 with or without brackets (RFC 5118 §4.5); `None` for a name.
pub fn parse_ip(host: &[u8]) -> Option<IpAddr> {
    match host.first()? {
        b'[' => {
            let inner = host.strip_prefix(b"[")?.strip_suffix(b"]")?;
            parse_v6(inner).map(IpAddr::V6)
        }
        b'0'..=b'9' if let Some(ip) = parse_v4(host) => Some(IpAddr::V4(ip)),
        b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' | b':' => parse_v6(host).map(IpAddr::V6),
        _ => None,
    }
}

/// Four decimal octets. Leading zeros are refused: some parsers read them as octal, and then two disagree.
fn parse_v4(text: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut index = 0;
    let mut digits = 0;
    let mut value: u16 = 0;
    for &byte in text {
        match byte {
            b'0'..=b'9' => {
                if digits > 0 && value == 0 {
                    return None;
                }
                value = value * 10 + u16::from(byte - b'0');
                digits += 1;
                if value > 255 {
                    return None;
                }
            }
            b'.' if digits > 0 && index < 3 => {
                octets[index] = value as u8;
                (index, digits, value) = (index + 1, 0, 0);
            }
            _ => return None,
        }
    }
    octets[3] = value as u8;
    (index == 3 && digits > 0).then(|| Ipv4Addr::from(octets))
}

fn parse_v6(text: &[u8]) -> Option<Ipv6Addr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_no_address() {
        for text in [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "01.2.3.4",
            "1..2.3",
            "1.2.3.",
            "a.b.c.d",
            "[1.2.3.4]",
            "[::1",
            "pbx1",
        ] {
            assert_eq!(parse_ip(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_of_an_address_is_core_s_text_and_reads_back(ip: IpAddr, port: u16) {
            let address = SocketAddr::new(ip, port);
            let text = Text::host_port(address);
            prop_assert_eq!(std::str::from_utf8(text.as_bytes()).unwrap(), address.to_string());
            prop_assert_eq!(parse_ip(Text::ip(ip).as_bytes()), Some(ip));
        }

        #[test]
        fn any_text_is_read_as_core_reads_it(text in "[0-9a-f.:]{0,20}") {
            prop_assert_eq!(parse_ip(text.as_bytes()), text.parse().ok());
        }

        #[test]
        fn numbers_are_core_s(value: u32) {
            let text = value.to_string();
            prop_assert!(Text::number(value).as_bytes() == text.as_bytes());
        }
    }
}
