//! `sip:` and `sips:` URIs, as far as routing reads them (RFC 3261 §19.1).

use std::net::IpAddr;

use super::header::{Param, number};
use super::lines::find;
use super::message::Span;
use super::{DEFAULT_PORT, text};

/// Positions of a SIP URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Whether the scheme is `sips`.
    pub secure: bool,
    /// The part before `@`, with a password if one is there.
    pub user: Option<Span>,
    /// An IPv6 address in its brackets.
    pub host: Span,
    pub port: Option<u16>,
    /// Where `host[:port]` ends and parameters begin.
    pub params: usize,
    /// Where the URI ends.
    pub end: usize,
}

impl Uri {
    /// Reads the URI in `span`; `None` where it is no SIP URI or its host or port cannot be read.
    pub fn parse(bytes: &[u8], span: Span) -> Option<Self> {
        let (at, end) = (span.start as usize, span.end as usize);
        let (secure, at) = match &bytes[at..end] {
            [b's' | b'S', b'i' | b'I', b'p' | b'P', b':', ..] => (false, at + 4),
            [b's' | b'S', b'i' | b'I', b'p' | b'P', b's' | b'S', b':', ..] => (true, at + 5),
            _ => return None,
        };
        Self::behind_scheme(bytes, at, end, secure)
    }

    /// Reads what stands behind the scheme and its colon; for other schemes that name a host the same way.
    pub fn behind_scheme(bytes: &[u8], at: usize, end: usize, secure: bool) -> Option<Self> {
        // A user part may hold `;` and `?`, a host may not hold `@`: the user ends at the only `@`.
        let user_end = find(bytes, at, end, b'@');
        let host = user_end.map_or(at, |n| n + 1);
        let host_end = match bytes[..end].get(host)? {
            b'[' => host + memchr::memchr(b']', &bytes[host..end])? + 1,
            _ => host + bytes[host..end].iter().take_while(|b| is_host(**b)).count(),
        };
        if host_end == host {
            return None;
        }
        let (port, params) = match bytes[..end].get(host_end) {
            Some(b':') => {
                let digits = bytes[host_end + 1..end].iter().take_while(|b| b.is_ascii_digit()).count();
                let stop = host_end + 1 + digits;
                (Some(u16::try_from(number(&bytes[host_end + 1..stop])?).ok()?), stop)
            }
            _ => (None, host_end),
        };
        if !matches!(bytes[..end].get(params), None | Some(b';' | b'?')) {
            return None;
        }
        Some(Self {
            secure,
            user: user_end.map(|n| Span::new(at, n)),
            host: Span::new(host, host_end),
            port,
            params,
            end,
        })
    }

    /// A URI parameter, its name compared without case. What is in the others is not judged: they may hold more than a
    /// token does (RFC 3261 §25.1 `param-unreserved`).
    pub fn param(&self, bytes: &[u8], name: &[u8]) -> Option<Param> {
        let mut at = self.params;
        while at < self.end && bytes[at] == b';' {
            let (start, rest) = (at + 1, &bytes[at + 1..self.end]);
            at = memchr::memchr2(b';', b'?', rest).map_or(self.end, |n| start + n);
            let stop = memchr::memchr(b'=', &bytes[start..at]).map_or(at, |n| start + n);
            if bytes[start..stop].eq_ignore_ascii_case(name) {
                let value = (stop < at).then(|| Span::new(stop + 1, at));
                return Some(Param { name: Span::new(start, stop), value });
            }
        }
        None
    }

    /// The host as an address; `None` for a name.
    pub fn ip(&self, bytes: &[u8]) -> Option<IpAddr> {
        text::parse_ip(self.host.of(bytes))
    }

    /// The port that it means (RFC 3261 §19.1.2).
    pub fn port_or_default(&self, bytes: &[u8]) -> u16 {
        self.port.unwrap_or_else(|| if self.is_tls(bytes) { DEFAULT_PORT + 1 } else { DEFAULT_PORT })
    }

    /// Whether it wants TLS: by its scheme, or by its `transport`.
    pub fn is_tls(&self, bytes: &[u8]) -> bool {
        let written = || self.param(bytes, b"transport")?.value;
        self.secure || written().is_some_and(|value| value.of(bytes).eq_ignore_ascii_case(b"tls"))
    }
}

/// Whether a byte may be in a host's name or address.
#[inline]
fn is_host(byte: u8) -> bool {
    const HOST: [bool; 256] = {
        let mut host = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            let b = byte as u8;
            host[byte] = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            byte += 1;
        }
        host
    };
    HOST[byte as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Uri> {
        Uri::parse(text.as_bytes(), Span::new(0, text.len()))
    }

    #[test]
    fn reads_user_host_port_and_parameters() {
        let text = "sips:a;b?c:pw@[2001:db8::1]:99;lr;maddr=1.2.3.4?h=v";
        let uri = parse(text).unwrap();
        let bytes = text.as_bytes();
        assert!(uri.secure);
        assert_eq!(uri.user.unwrap().of(bytes), b"a;b?c:pw");
        assert_eq!((uri.ip(bytes), uri.port_or_default(bytes)), (Some("2001:db8::1".parse().unwrap()), 99));
        assert!(uri.param(bytes, b"LR").is_some());
        assert_eq!(uri.param(bytes, b"maddr").unwrap().value.unwrap().of(bytes), b"1.2.3.4");
        let port = |text: &str| parse(text).unwrap().port_or_default(text.as_bytes());
        assert_eq!((port("SIP:host.example"), port("sips:h")), (5060, 5061));
        assert_eq!((port("sip:h;Transport=TLS"), port("sip:h;transport=tcp")), (5061, 5060));
    }

    #[test]
    fn refuses_what_it_cannot_route_by() {
        for text in [
            "",
            "sip:",
            "sip:@",
            "sip:a@",
            "tel:+123",
            "http://h",
            "sip:h:",
            "sip:h:70000",
            "sip:h x",
            "sip:[::1",
            "sip:h<",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
