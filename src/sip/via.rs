//! One via-parm: `SIP/2.0/UDP host:port;params` (RFC 3261 §20.42, RFC 3581).

use std::net::{IpAddr, SocketAddr};

use super::header::{Param, Params, number, skip_blanks, skip_token, skip_value};
use super::message::Span;
use super::{DEFAULT_PORT, text};

/// The parameters of our own Via beside the branch (see [`super::token`]).
pub const WAY_PARAM: &[u8] = b"w";
pub const TIME_PARAM: &[u8] = b"s";

/// The magic cookie of RFC 3261 §8.1.1.7 that a branch begins with.
pub const COOKIE: &[u8] = b"z9hG4bK";

/// Positions of one via-parm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// The whole via-parm, no blanks around it.
    pub parm: Span,
    pub transport: Span,
    /// sent-by's host, an IPv6 address in brackets.
    pub host: Span,
    /// sent-by's port where one is written.
    pub port: Option<u16>,
    pub branch: Option<Span>,
    pub received: Option<Param>,
    pub rport: Option<Param>,
    pub way: Option<Span>,
    pub time: Option<Span>,
}

impl Via {
    /// Reads the via-parm that begins at or behind `at`; also says where it ends: at a comma or at `end`.
    ///
    /// `None` where the grammar is broken in a way that routing would suffer from: protocol, sent-by, a branch,
    /// `received` or `rport` written twice (two parsers could take different ones), a parameter without name, or garbage
    /// behind it.
    pub fn parse(bytes: &[u8], at: usize, end: usize) -> Option<(Self, usize)> {
        let start = skip_blanks(bytes, at, end);
        let (transport, at) = protocol(bytes, start, end)?;
        let (host, port, at) = sent_by(bytes, at, end)?;
        let mut via = Self {
            parm: Span::new(start, at),
            transport,
            host,
            port,
            branch: None,
            received: None,
            rport: None,
            way: None,
            time: None,
        };
        let mut params = Params::new(bytes, at, end);
        for param in params.by_ref() {
            via.note(bytes, param)?;
        }
        via.parm.end = params.at as u16;
        let at = skip_blanks(bytes, params.at, end);
        (at == end || bytes[at] == b',').then_some((via, at))
    }

    /// Remembers a parameter that routing uses.
    #[inline]
    fn note(&mut self, bytes: &[u8], param: Param) -> Option<()> {
        let name = param.name.of(bytes);
        let twice = match name.len() {
            0 => return None,
            1 if name.eq_ignore_ascii_case(WAY_PARAM) => std::mem::replace(&mut self.way, param.value).is_some(),
            1 if name.eq_ignore_ascii_case(TIME_PARAM) => std::mem::replace(&mut self.time, param.value).is_some(),
            5 if name.eq_ignore_ascii_case(b"rport") => self.rport.replace(param).is_some(),
            6 if name.eq_ignore_ascii_case(b"branch") => std::mem::replace(&mut self.branch, param.value).is_some(),
            8 if name.eq_ignore_ascii_case(b"received") => self.received.replace(param).is_some(),
            _ => false,
        };
        (!twice).then_some(())
    }

    /// The branch behind the magic cookie; `None` for the branch of an RFC 2543 client and for a cookie with nothing
    /// behind it (RFC 4475 §3.1.1.14 "badbranch"), which identify nothing.
    #[inline]
    pub fn branch_id<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let branch = self.branch?.of(bytes);
        let (cookie, id) = branch.split_at_checked(COOKIE.len())?;
        (cookie.eq_ignore_ascii_case(COOKIE) && !id.is_empty()).then_some(id)
    }

    /// The port that sent-by means (RFC 3261 §18.2.2).
    pub fn sent_by_port(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// Where a response goes by what is written here (RFC 3261 §18.2.2, RFC 3581 §4): `received` with `rport`, else
    /// with sent-by's port, else sent-by itself if it is an address. `maddr` is not followed: anyone could make us
    /// send anywhere with it.
    pub fn response_address(&self, bytes: &[u8]) -> Option<SocketAddr> {
        let value = |param: Option<Param>| Some(param?.value?.of(bytes));
        let host = value(self.received).unwrap_or(self.host.of(bytes));
        let port = match value(self.rport) {
            Some(digits) => u16::try_from(number(digits)?).ok()?,
            None => self.sent_by_port(),
        };
        Some(SocketAddr::new(text::parse_ip(host)?, port))
    }

    /// Whether sent-by's host is this address. A name is none.
    pub fn is_sent_by(&self, bytes: &[u8], ip: IpAddr) -> bool {
        text::parse_ip(self.host.of(bytes)) == Some(ip)
    }
}

/// `SIP / 2.0 / transport`, and just behind it.
#[inline]
fn protocol(bytes: &[u8], at: usize, end: usize) -> Option<(Span, usize)> {
    const PREFIX: &[u8] = b"SIP/2.0/";
    let at = match bytes[at..end].starts_with(PREFIX) {
        true => skip_blanks(bytes, at + PREFIX.len(), end),
        false => spaced_protocol(bytes, at, end)?,
    };
    let stop = skip_token(bytes, at, end);
    (stop > at && stop < end && super::header::is_blank(bytes[stop])).then(|| (Span::new(at, stop), stop))
}

/// The protocol in other case, of another version (who speaks it must get its 505), or with blanks around its slashes:
/// where the transport begins.
#[cold]
fn spaced_protocol(bytes: &[u8], at: usize, end: usize) -> Option<usize> {
    let stop = skip_token(bytes, at, end);
    let slash = skip_blanks(bytes, stop, end);
    let version = skip_blanks(bytes, slash + 1, end);
    let version_stop = skip_token(bytes, version, end);
    let second = skip_blanks(bytes, version_stop, end);
    let right = bytes[at..stop].eq_ignore_ascii_case(b"SIP")
        && bytes[..end].get(slash) == Some(&b'/')
        && version < version_stop
        && bytes[..end].get(second) == Some(&b'/');
    right.then(|| skip_blanks(bytes, second + 1, end))
}

/// `host [":" port]` with blanks around the colon, and just behind it.
#[inline]
fn sent_by(bytes: &[u8], at: usize, end: usize) -> Option<(Span, Option<u16>, usize)> {
    let at = skip_blanks(bytes, at, end);
    let stop = match bytes[..end].get(at)? {
        b'[' => at + memchr::memchr(b']', &bytes[at..end])? + 1,
        _ => skip_token(bytes, at, end),
    };
    // A comma or a quote in the brackets would end the via-parm for others.
    if stop == at || skip_value(bytes, at, stop) != stop {
        return None;
    }
    let host = Span::new(at, stop);
    let colon = skip_blanks(bytes, stop, end);
    if bytes[..end].get(colon) != Some(&b':') {
        return Some((host, None, stop));
    }
    let from = skip_blanks(bytes, colon + 1, end);
    let to = from + bytes[from..end].iter().take_while(|b| b.is_ascii_digit()).count();
    let port = u16::try_from(number(&bytes[from..to])?).ok()?;
    Some((host, Some(port), to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Option<(Via, usize)> {
        Via::parse(text, 0, text.len())
    }

    #[test]
    fn reads_what_clients_write() {
        let text = b" SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bKa1;rport ";
        let (via, end) = parse(text).unwrap();
        assert_eq!(via.parm.of(text), b"SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bKa1;rport");
        assert_eq!((via.host.of(text), via.port), (&b"192.168.1.20"[..], Some(5060)));
        assert_eq!(via.branch_id(text), Some(&b"a1"[..]));
        assert_eq!(via.rport.unwrap().value, None);
        assert_eq!(end, text.len());
    }

    #[test]
    fn tolerates_blanks_folds_and_case() {
        let text =
            b"sip / 2.0 / udp [2001:db8::1] : 5062 ; Branch = z9hG4bKx\r\n ;RPORT=7;received=[2001:db8::2], next";
        let (via, end) = parse(text).unwrap();
        assert_eq!(via.transport.of(text), b"udp");
        assert_eq!((via.host.of(text), via.port), (&b"[2001:db8::1]"[..], Some(5062)));
        assert_eq!(via.response_address(text), Some("[2001:db8::2]:7".parse().unwrap()));
        assert_eq!(&text[end..], b", next");
    }

    #[test]
    fn responses_go_by_received_then_sent_by() {
        for (text, want) in [
            (&b"SIP/2.0/UDP h;received=1.2.3.4;rport=9"[..], Some("1.2.3.4:9")),
            (b"SIP/2.0/UDP h:77;received=1.2.3.4", Some("1.2.3.4:77")),
            (b"SIP/2.0/UDP 1.2.3.4", Some("1.2.3.4:5060")),
            (b"SIP/2.0/UDP 1.2.3.4;maddr=9.9.9.9;rport", Some("1.2.3.4:5060")),
            (b"SIP/2.0/UDP host.example", None),
        ] {
            let (via, _) = parse(text).unwrap();
            assert_eq!(
                via.response_address(text),
                want.map(|w| w.parse().unwrap()),
                "{}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn refuses_what_two_parsers_could_read_differently() {
        for text in [
            &b"SIP/2.0/UDP a;branch=1;branch=2"[..],
            b"SIP/2.0/UDP a;received=1.1.1.1;received=2.2.2.2",
            b"SIP/2.0/UDP a;rport;rport=1",
            b"SIP/2.0/UDP a;x=\"open",
            b"SIP/2.0/UDP a;x=1 junk",
            b"SIP/2.0/UDP a:99999",
            b"SIP/2.0/UDP a:",
            b"SIP/2.0/UDP",
            b"SIP/2.0/UDP ",
            b"SIP//UDP a",
            b"HTTP/2.0/UDP a",
            b"",
            b"SIP",
            b"SIP/",
            b"SIP /2.0",
        ] {
            assert_eq!(parse(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_branch_without_cookie_or_without_rest_identifies_nothing() {
        for (text, want) in [
            (&b"SIP/2.0/UDP a;branch=z9hG4bK"[..], None),
            (b"SIP/2.0/UDP a;branch=1", None),
            (b"SIP/2.0/UDP a", None),
            (b"SIP/2.0/UDP a;branch=Z9HG4BKq", Some(&b"q"[..])),
        ] {
            let (via, _) = parse(text).unwrap();
            assert_eq!(via.branch_id(text), want);
        }
    }
}
