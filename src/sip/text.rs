//! Addresses and numbers as text and back. Own code because core's formatting machinery costs several hundred
//! instructions for one address, a tenth of what a whole message may cost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Room for the longest text of an address (IPv6 in brackets with a port: 47), and for numbers that are written as ten
/// bytes whatever their length.
const LONGEST: usize = 64;

/// A short text on the stack. What lies behind its end means nothing: it is copied whole, which costs less than copying
/// as much as there is.
#[derive(Clone, Copy)]
pub struct Text<const N: usize = LONGEST> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Text<N> {
    /// These texts, one behind the other. Together they must not be longer than `N`.
    pub fn join(parts: &[&[u8]]) -> Self {
        let mut text = Self { bytes: [0; N], len: 0 };
        for part in parts {
            text.push(part);
        }
        text
    }

    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    /// The text with what lies behind it, and its length.
    #[inline]
    pub fn whole(&self) -> (&[u8; N], usize) {
        (&self.bytes, self.len as usize)
    }

    /// A number of one byte: written at once.
    #[inline]
    pub fn octet(value: u8) -> Self {
        let mut text = Self { bytes: [0; N], len: OCTET_LENS[value as usize] };
        text.bytes[..4].copy_from_slice(&OCTETS[value as usize]);
        text
    }

    /// A decimal number.
    #[inline]
    pub fn number(value: u32) -> Self {
        let mut text = Self { bytes: [0; N], len: 0 };
        text.push_number(value);
        text
    }

    /// A port: five digits, of which the zeros that lead are shifted out.
    #[inline]
    pub fn port(value: u16) -> Self {
        let pair = |value: u16| u64::from(u16::from_le_bytes(PAIRS[usize::from(value % 100)]));
        let first = u64::from(b'0') + u64::from(value / 10_000);
        let digits = first | pair(value / 100) << 8 | pair(value) << 24;
        let len = [10, 100, 1_000, 10_000].iter().fold(1, |len, least| len + u8::from(value >= *least));
        let mut text = Self { bytes: [0; N], len };
        text.bytes[..8].copy_from_slice(&(digits >> (40 - 8 * len)).to_le_bytes());
        text
    }

    #[inline]
    fn push_number(&mut self, mut value: u32) {
        const DIGITS: usize = 10;
        // Twice as long, so that whatever was written is copied as ten bytes.
        let mut digits = [0; 2 * DIGITS];
        let mut at = DIGITS;
        while value >= 100 {
            at -= 2;
            digits[at..at + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
            value /= 100;
        }
        digits[at - 2..at].copy_from_slice(&PAIRS[value as usize]);
        at -= if value < 10 { 1 } else { 2 };
        let len = self.len as usize;
        self.bytes[len..len + DIGITS].copy_from_slice(&digits[at..at + DIGITS]);
        self.len += (DIGITS - at) as u8;
    }

    fn push(&mut self, bytes: &[u8]) {
        let len = self.len as usize;
        self.bytes[len..len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }
}

impl<const N: usize> PartialEq for Text<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const N: usize> Eq for Text<N> {}

impl<const N: usize> std::fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

/// The numbers of one byte with a dot behind them.
static OCTETS: [[u8; 4]; 256] = {
    let mut octets = [[b'.'; 4]; 256];
    let mut n = 0;
    while n < 256 {
        let digits = [b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
        let skip = 3 - octet_len(n as u8);
        let mut at = skip;
        while at < 3 {
            octets[n][at - skip] = digits[at];
            at += 1;
        }
        n += 1;
    }
    octets
};

/// How many digits the number of one byte has.
const fn octet_len(octet: u8) -> usize {
    1 + (octet >= 10) as usize + (octet >= 100) as usize
}

static OCTET_LENS: [u8; 256] = {
    let mut lens = [0; 256];
    let mut n = 0;
    while n < 256 {
        lens[n] = octet_len(n as u8) as u8;
        n += 1;
    }
    lens
};

/// The numbers of two digits.
static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

impl<const N: usize> Text<N> {
    /// An address without brackets, as `received` wants it (RFC 3261 §25.1 `via-received`); 45 bytes at most.
    #[inline]
    pub fn ip(ip: IpAddr) -> Self {
        let mut text = Self { bytes: [0; N], len: 0 };
        match ip {
            IpAddr::V4(ip) => text.push_v4(ip),
            IpAddr::V6(ip) => text.push_v6(ip),
        }
        text
    }

    #[inline]
    fn push_v4(&mut self, ip: Ipv4Addr) {
        let mut at = self.len as usize;
        for octet in ip.octets() {
            self.bytes[at..at + 4].copy_from_slice(&OCTETS[octet as usize]);
            at += OCTET_LENS[octet as usize] as usize + 1;
        }
        // The last dot is none of it.
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

impl Text {
    /// `host:port`, an IPv6 host in brackets: sent-by and the host part of a URI.
    #[inline]
    pub fn host_port(address: SocketAddr) -> Self {
        let mut text = Self { bytes: [0; LONGEST], len: 0 };
        match address.ip() {
            IpAddr::V4(ip) => text.push_v4(ip),
            IpAddr::V6(ip) => {
                text.push(b"[");
                text.push_v6(ip);
                text.push(b"]");
            }
        }
        text.push(b":");
        text.push_number(u32::from(address.port()));
        text
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
            prop_assert_eq!(parse_ip(Text::<48>::ip(ip).as_bytes()), Some(ip));
        }

        #[test]
        fn any_text_is_read_as_core_reads_it(text in "[0-9a-f.:]{0,20}") {
            prop_assert_eq!(parse_ip(text.as_bytes()), text.parse().ok());
        }

        #[test]
        fn numbers_are_core_s(value: u32) {
            let text = value.to_string();
            prop_assert!(Text::<16>::number(value).as_bytes() == text.as_bytes());
            let text = (value as u16).to_string();
            prop_assert!(Text::<16>::port(value as u16).as_bytes() == text.as_bytes());
            let text = (value as u8).to_string();
            prop_assert!(Text::<16>::octet(value as u8).as_bytes() == text.as_bytes());
        }
    }
}
