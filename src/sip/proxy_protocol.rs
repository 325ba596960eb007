//! HAProxy's PROXY protocol, versions 1 and 2: the first bytes of a connection, by which a balancer tells whom it speaks for
//! (haproxy.org, doc/proxy-protocol.txt). Who reads it believes it; so it is read only of those who are trusted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The longest line of version 1, and the longest header of version 2 that is taken: addresses have 36 bytes, the rest may
/// be what somebody says of a TLS session.
const LONGEST_LINE: usize = 107;
pub const LONGEST: usize = 4096;

const LINE: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// Which of both is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// More must come before it is known.
    Incomplete,
    /// So many bytes. `None` where whoever sent it speaks for himself, as in a check, or for nobody who has an address here.
    Whole { len: usize, proxied: Option<Proxied> },
    /// It begins like one and is none.
    Broken,
    /// It does not begin like one.
    Absent,
}

/// Looks at the first bytes of a connection.
pub fn read(bytes: &[u8]) -> Header {
    let may_be = |with: &[u8]| bytes.starts_with(with) || with.starts_with(bytes);
    match () {
        () if may_be(SIGNATURE) => read_v2(bytes),
        () if may_be(LINE) => read_v1(bytes),
        () => Header::Absent,
    }
}

/// Whether this begins like one, however it goes on. `None`: it is too short to say.
pub fn begins(bytes: &[u8]) -> Option<bool> {
    let both = [SIGNATURE, LINE];
    let short = both.iter().any(|with| with.starts_with(bytes) && bytes.len() < with.len());
    (!short).then(|| both.iter().any(|with| bytes.starts_with(with)))
}

fn read_v1(bytes: &[u8]) -> Header {
    let head = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = memchr::memchr(b'\n', head) else {
        return if head.len() < LONGEST_LINE { Header::Incomplete } else { Header::Broken };
    };
    let line = head[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(&line[LINE.len()..]).ok());
    let whole = |proxied| Header::Whole { len: end + 1, proxied };
    let Some(line) = line else { return Header::Broken };
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return whole(None);
    }
    addresses(line).map_or(Header::Broken, |proxied| whole(Some(proxied.canonical())))
}

/// `TCP4 192.0.2.1 203.0.113.10 40000 443`
fn addresses(line: &str) -> Option<Proxied> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let ip = |word: &str| match family {
        "TCP4" => word.parse().ok().map(IpAddr::V4),
        "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let (source, destination) = (ip(words.next()?)?, ip(words.next()?)?);
    // As it would be written: no sign, no leading zero.
    let port = |word: &str| word.parse::<u16>().ok().filter(|port| port.to_string() == word);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then(|| Proxied {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

fn read_v2(bytes: &[u8]) -> Header {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const TCP_4: u8 = 0x11;
    const TCP_6: u8 = 0x21;
    let Some(fixed) = bytes.get(..FIXED) else { return Header::Incomplete };
    let len = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let (command, family) = (fixed[12], fixed[13]);
    if !matches!(command, LOCAL | PROXY) || len > LONGEST {
        return Header::Broken;
    }
    let Some(addresses) = bytes.get(FIXED..len) else { return Header::Incomplete };
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&addresses[at..at + 4]).unwrap_or_default());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&addresses[at..at + 16]).unwrap_or_default());
    let proxied = match (command, family, addresses.len()) {
        (PROXY, TCP_4, 12..) => {
            Some(Proxied { source: (v4(0), port(8)).into(), destination: (v4(4), port(10)).into() })
        }
        (PROXY, TCP_6, 36..) => {
            Some(Proxied { source: (v6(0), port(32)).into(), destination: (v6(16), port(34)).into() })
        }
        (PROXY, TCP_4 | TCP_6, _) => return Header::Broken,
        // For itself, or for a kind of address that a connection here cannot have.
        _ => None,
    };
    Header::Whole { len, proxied: proxied.map(Proxied::canonical) }
}

impl Proxied {
    /// IPv4 as such, though it was sent in the form of IPv6: lists of networks know it so.
    fn canonical(self) -> Self {
        let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        Self { source: plain(self.source), destination: plain(self.destination) }
    }
}

/// The header of a connection for somebody; `None`: for ourselves.
pub fn write(version: Version, proxied: Option<Proxied>) -> Vec<u8> {
    // One family for both: an IPv4 address has a form in IPv6.
    let same = proxied.map(|Proxied { source, destination }| match source.is_ipv4() == destination.is_ipv4() {
        true => (source, destination),
        false => (in_v6(source), in_v6(destination)),
    });
    match version {
        Version::V1 => match same {
            None => b"PROXY UNKNOWN\r\n".to_vec(),
            Some((source, destination)) => {
                let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
                let (ip, to, port, to_port) = (source.ip(), destination.ip(), source.port(), destination.port());
                format!("PROXY {family} {ip} {to} {port} {to_port}\r\n").into_bytes()
            }
        },
        Version::V2 => {
            let mut addresses = Vec::new();
            if let Some((source, destination)) = same {
                for address in [source, destination] {
                    match address.ip() {
                        IpAddr::V4(ip) => addresses.extend(ip.octets()),
                        IpAddr::V6(ip) => addresses.extend(ip.octets()),
                    }
                }
                addresses.extend(source.port().to_be_bytes());
                addresses.extend(destination.port().to_be_bytes());
            }
            let kind = match same {
                None => [0x20, 0x00],
                Some((source, _)) if source.is_ipv4() => [0x21, 0x11],
                Some(_) => [0x21, 0x21],
            };
            [SIGNATURE, &kind, &(addresses.len() as u16).to_be_bytes(), &addresses].concat()
        }
    }
}

fn in_v6(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
        (ip, any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        /// What is written is read, whatever follows; and of what is cut anywhere nothing is known yet.
        #[test]
        fn what_is_written_is_read(
            source in address(), destination in address(), v2 in any::<bool>(), rest in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let version = if v2 { Version::V2 } else { Version::V1 };
            let written = write(version, Some(Proxied { source, destination }));
            let whole = Header::Whole { len: written.len(), proxied: Some(Proxied { source, destination }.canonical()) };
            prop_assert_eq!(read(&[&written[..], &rest].concat()), whole);
            for cut in 0..written.len() {
                prop_assert_eq!(read(&written[..cut]), Header::Incomplete);
            }
        }

        #[test]
        fn nothing_makes_it_panic_and_no_more_is_taken_than_there_is(mut bytes in prop::collection::vec(any::<u8>(), 0..300), how in 0..3usize) {
            let begin: &[u8] = [&b""[..], LINE, SIGNATURE][how];
            bytes.splice(..0, begin.iter().copied());
            if let Header::Whole { len, .. } = read(&bytes) {
                prop_assert!(len <= bytes.len() && len <= LONGEST);
            }
        }
    }

    /// From doc/proxy-protocol.txt, and against it.
    #[test]
    fn lines_are_read_as_they_are_specified() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let line = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        let proxied = Proxied { source: at("192.168.0.1:56324"), destination: at("192.168.0.11:443") };
        let whole = Header::Whole { len: line.len(), proxied: Some(proxied) };
        assert_eq!(read(format!("{line}GET / HTTP/1.1\r\n").as_bytes()), whole);
        let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(read(longest.as_bytes()), Header::Whole { len: 107, proxied: None });
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), Header::Whole { len: 15, proxied: None });
        for broken in [
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 1\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 +56324 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 056324 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 66324 443\r\n",
            "PROXY TCP4 192.168.0.01 192.168.0.11 56324 443\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.168.0.1 192.168.0.11 56324 443\r\n",
            "PROXY UDP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            "PROXY TCP4  192.168.0.1 192.168.0.11 56324 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
            "PROXY UNKNOWNX\r\n",
        ] {
            assert_eq!(read(broken.as_bytes()), Header::Broken, "{broken}");
        }
        assert_eq!(read(&[LINE, &[b'1'; 200]].concat()), Header::Broken, "no end");
        assert_eq!(read(b"INVITE sip:100@sip.example.ng SIP/2.0\r\n"), Header::Absent);
        assert_eq!(read(b"\r\n\r\nINVITE"), Header::Absent, "a keepalive, then a message");
    }

    #[test]
    fn headers_of_version_2_are_read_as_they_are_specified() {
        let made = |command: u8, family: u8, len: u16, rest: &[u8]| {
            [SIGNATURE, &[command, family], &len.to_be_bytes(), rest].concat()
        };
        let v4 = [192, 0, 2, 1, 203, 0, 113, 10, 0x9c, 0x40, 1, 0xbb];
        let proxied = Proxied { source: ([192, 0, 2, 1], 40_000).into(), destination: ([203, 0, 113, 10], 443).into() };
        let more = [&v4[..], &[4, 0, 3, 0, 0, 0]].concat();
        assert_eq!(read(&made(0x21, 0x11, 12, &v4)), Header::Whole { len: 28, proxied: Some(proxied) });
        assert_eq!(read(&made(0x21, 0x11, 18, &more)), Header::Whole { len: 34, proxied: Some(proxied) }, "with a TLV");
        for nobody in
            [made(0x20, 0x11, 12, &v4), made(0x20, 0, 0, &[]), made(0x21, 0, 0, &[]), made(0x21, 0x12, 12, &v4)]
        {
            assert_eq!(read(&nobody), Header::Whole { len: nobody.len(), proxied: None });
        }
        for broken in [
            made(0x22, 0x11, 12, &v4),
            made(0x11, 0x11, 12, &v4),
            made(0x21, 0x11, 8, &v4),
            made(0x21, 0x21, 12, &v4),
            made(0x21, 0, 5000, &[]),
        ] {
            assert_eq!(read(&broken), Header::Broken, "{broken:?}");
        }
    }
}
