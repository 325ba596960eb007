//! Values that are written as words: durations, rates, addresses, networks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::names::Query;
use super::read::Read;
use super::{Bind, Ports};
use crate::sip::Transport;

/// 255 octets on the wire (RFC 1035 §3.1.2) are 253 characters; `_sip._udp.` takes ten of them.
const LONGEST_NAME: usize = 243;

impl Read for Duration {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "a duration such as \"500ms\", \"10s\", \"2m\" or \"2h\"";
        let text = value.as_str().ok_or(wanted)?;
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or(wanted)?;
        let number: u64 = text[..digits].parse().map_err(|_| wanted)?;
        let millis = match &text[digits..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            "d" => 24 * 60 * 60 * 1000,
            _ => return Err(wanted.into()),
        };
        // A year is more than any timer here may be, and keeps arithmetic on nanoseconds far from its end.
        let total = number.checked_mul(millis).filter(|&ms| ms <= 366 * 24 * 60 * 60 * 1000);
        total.map(Self::from_millis).ok_or_else(|| wanted.into())
    }
}

/// Events per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub events: u32,
    pub per: Duration,
}

impl Rate {
    /// Nanoseconds between two events.
    pub fn interval(self) -> u64 {
        self.per.as_nanos() as u64 / u64::from(self.events)
    }
}

impl Read for Rate {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "a rate such as \"200/s\" or \"60/m\"";
        let (events, per) = value.as_str().and_then(|text| text.split_once('/')).ok_or(wanted)?;
        let per = match per {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            _ => return Err(wanted.into()),
        };
        // A million a second is one a microsecond: beyond it a limit limits nothing.
        let events = events.parse().ok().filter(|events| (1..=1_000_000).contains(events)).ok_or(wanted)?;
        Ok(Self { events, per })
    }
}

impl Read for IpAddr {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "an IP address";
        value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| wanted.into())
    }
}

impl Read for SocketAddr {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "an address with its port such as \"192.0.2.9:9060\"";
        value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| wanted.into())
    }
}

/// A network, or a single address. Host bits are tolerated and cleared.
impl Read for IpNet {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "a network such as \"10.0.0.0/16\" or an address";
        let text = value.as_str().ok_or(wanted)?;
        let net = text.parse::<Self>().or_else(|_| text.parse::<IpAddr>().map(Self::from));
        net.map(|net| net.trunc()).map_err(|_| wanted.into())
    }
}

/// Splits `udp://rest`.
fn transport(text: &str) -> Result<(Transport, &str), String> {
    let wanted = "an address such as \"udp://10.0.10.11:5060\"";
    let (scheme, rest) = text.split_once("://").ok_or(wanted)?;
    match scheme {
        "udp" => Ok((Transport::Udp, rest)),
        "tcp" => Ok((Transport::Tcp, rest)),
        "tls" => Ok((Transport::Tls, rest)),
        "sips" | "ssl" => Err("an address such as \"tls://10.0.10.11:5061\"".into()),
        _ => Err(wanted.into()),
    }
}

impl Read for Bind {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "an address such as \"udp://0.0.0.0:5060\"";
        let (transport, rest) = transport(value.as_str().ok_or(wanted)?)?;
        let (first, last) = rest.rsplit_once('-').map_or((rest, None), |(first, last)| (first, Some(last)));
        if let Ok(ip) = rest.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            let address = SocketAddr::new(ip, transport.default_port());
            return Err(format!("an address with its port, such as \"{}://{address}\"", transport.name()));
        }
        let address: SocketAddr = first.parse().map_err(|_| wanted)?;
        socket_takes(address.ip())?;
        let last = last.map_or(Ok(address.port()), |last| last.parse()).map_err(|_| wanted)?;
        if address.port() == 0 {
            return Err(format!("{wanted} with a port of its own"));
        }
        if last < address.port() {
            return Err(format!("{wanted}, or a range such as \"udp://0.0.0.0:10000-10199\", the lower port first"));
        }
        Ok(Self { transport, address, ports: Ports { first: address.port(), last } })
    }
}

impl Read for Ports {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "ports such as \"10000-10099\", the lower one first";
        let text = value.as_str().ok_or(wanted)?;
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else { return Err(wanted.into()) };
        if first == 0 || last < first { Err(wanted.into()) } else { Ok(Self { first, last }) }
    }
}

/// Where a server listens, or the name that the DNS is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    Address {
        transport: Transport,
        address: SocketAddr,
        /// Whether the port was written, not supplied.
        has_port: bool,
    },
    Name(Query),
}

impl Read for ServerAddress {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "an address such as \"udp://10.0.10.11:5060\" or a name such as \"udp://pbx.example.ng\"";
        let (transport, rest) = transport(value.as_str().ok_or(wanted)?)?;
        let parsed = rest.parse();
        let has_port = parsed.is_ok();
        let parsed = parsed.or_else(|_| {
            let host = rest.trim_start_matches('[').trim_end_matches(']');
            host.parse().map(|ip: IpAddr| SocketAddr::new(ip, transport.default_port()))
        });
        match parsed {
            Ok(address) if address.port() == 0 || !is_one_host(address.ip()) => {
                Err(format!("{wanted} of one host, with a port"))
            }
            Ok(address) => socket_takes(address.ip()).map(|()| Self::Address { transport, address, has_port }),
            Err(_) => name(transport, rest).map(Self::Name).ok_or_else(|| wanted.into()),
        }
    }
}

/// Addresses that say not enough, or in a way that no socket takes: of a link-local one the interface, and IPv4 in IPv6, for every
/// socket here is of one family.
///
/// # Errors
/// What is wanted instead.
pub fn socket_takes(ip: IpAddr) -> Result<(), String> {
    let IpAddr::V6(ip) = ip else { return Ok(()) };
    match ip.to_ipv4_mapped() {
        Some(v4) => Err(format!("an address that a socket can have: {v4} instead of {ip}")),
        None if ip.is_unicast_link_local() => {
            Err("an address beyond one link: which interface a link-local one is on cannot be said".to_owned())
        }
        None => Ok(()),
    }
}

/// Whether an address can be that of one host: "this network", multicast, and what is reserved, the limited broadcast with
/// it, cannot (RFC 1122 §3.2.1.3, RFC 1112 §4).
#[inline]
pub fn is_one_host(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !matches!(ip.octets()[0], 0 | 224..),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    }
}

/// A host name (RFC 1123 §2.1), with a port if one is written. Its last part is no number: `10.0.10` is a slip.
fn name(transport: Transport, text: &str) -> Option<Query> {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port > 0)?)),
        None => (text, None),
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // `_sip._udp.` is put before it where no port is written.
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(plain);
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    let good = host.len() <= LONGEST_NAME
        && !host.starts_with('_')
        && host.split('.').all(label)
        && !host.rsplit('.').next().is_some_and(number);
    good.then_some(Query { transport, host, port })
}

/// A nameserver: port 53 where none is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nameserver(pub SocketAddr);

impl Read for Nameserver {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "the address of a nameserver such as \"10.0.0.53\" or \"10.0.0.53:5353\"";
        let text = value.as_str().ok_or(wanted)?;
        let parsed = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53)));
        let usable = |address: &SocketAddr| address.port() != 0 && is_one_host(address.ip());
        parsed.ok().filter(usable).map(Self).ok_or_else(|| wanted.into())
    }
}

/// What a server sends from: a network or an address, with a port if it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub net: IpNet,
    pub port: Option<u16>,
    /// It was written, not supplied: then it counts for datagrams and for streams.
    pub written: bool,
}

impl Source {
    /// What nobody writes: a server sends datagrams from where it listens, and opens connections from any port there.
    pub fn of(transport: Transport, address: SocketAddr) -> Self {
        let port = (transport == Transport::Udp).then_some(address.port());
        Self { net: address.ip().into(), port, written: false }
    }

    /// Whether a server that speaks `own` sends from it over datagrams or over streams: what nobody wrote counts for its own
    /// transport alone, because from an address without a port anybody there could send a datagram.
    #[inline]
    pub fn counts_for(&self, own: Transport, streams: bool) -> bool {
        self.written || streams == (own != Transport::Udp)
    }

    /// Where a server that speaks `own` is known by it: over streams (`true`), over datagrams, or over both.
    pub fn places(self, own: Transport) -> impl Iterator<Item = (bool, IpNet, Option<u16>)> {
        let kinds = [false, true].into_iter().filter(move |streams| self.counts_for(own, *streams));
        kinds.map(move |streams| (streams, self.net, self.port))
    }

    /// The one address that it is, where it is one with a port.
    pub fn address(&self) -> Option<SocketAddr> {
        let host = self.net.prefix_len() == self.net.max_prefix_len();
        self.port.filter(|_| host).map(|port| SocketAddr::new(self.net.addr(), port))
    }
}

impl Read for Source {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        if let Some(address) = value.as_str().and_then(|text| text.parse::<SocketAddr>().ok()) {
            return Ok(Self { net: address.ip().into(), port: Some(address.port()), written: true });
        }
        let wanted = "an address, an address with port, or a network";
        IpNet::read(value).map(|net| Self { net, port: None, written: true }).map_err(|_| wanted.into())
    }
}

/// A percentage in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u32);

impl Read for Percent {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let digits = value.as_str().and_then(|text| text.strip_suffix('%'));
        let percent = digits.and_then(|digits| digits.parse().ok()).filter(|&percent: &u32| percent <= 100);
        percent.map(Self).ok_or_else(|| "a percentage from \"0%\" to \"100%\"".into())
    }
}

/// A differentiated services code point, by name (RFC 2474, RFC 2597, RFC 3246) or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dscp(pub u8);

impl Read for Dscp {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "a code point: \"cs0\" to \"cs7\", \"af11\" to \"af43\", \"ef\", or 0 to 63";
        if let Some(number) = value.as_integer() {
            return u8::from_str_radix(number.as_str(), number.radix())
                .ok()
                .filter(|n| *n < 64)
                .map(Self)
                .ok_or_else(|| wanted.into());
        }
        let point = match value.as_str().map(str::as_bytes) {
            Some(b"ef") => 46,
            Some([b'c', b's', n @ b'0'..=b'7']) => (n - b'0') * 8,
            Some([b'a', b'f', class @ b'1'..=b'4', drop @ b'1'..=b'3']) => (class - b'0') * 8 + (drop - b'0') * 2,
            _ => return Err(wanted.into()),
        };
        Ok(Self(point))
    }
}
