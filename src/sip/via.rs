//! One via-parm: `SIP/2.0/UDP host:port;params` (RFC 3261 §20.42, RFC 3581).

use std::net::{IpAddr, SocketAddr};

use memchr::memchr;

use wide::{u8x16, u8x32};

use super::header::{Marks, Param, Params, is_blank, number, short_number, skip_blanks, skip_token};
use super::lines::chunk_at;
use super::message::Span;
use super::name::is;
use super::{DEFAULT_PORT, text};

/// The parameters of our own Via beside the branch (see [`super::token`]).
pub const WAY_PARAM: &[u8] = b"w";
pub const TIME_PARAM: &[u8] = b"s";

/// The magic cookie of RFC 3261 §8.1.1.7 that a branch begins with.
pub const COOKIE: &[u8] = b"z9hG4bK";

/// Positions of one via-parm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
        let mut via = Self::default();
        match via.read_usual(bytes, Span::new(at, end)) {
            Some(()) => Some((via, end)),
            None => Self::parse_any(bytes, at, end),
        }
    }

    /// What nearly everybody writes: one via-parm, no blank but the one before sent-by, no quotes, no brackets. `None`
    /// says only that it is not that, and leaves something behind; what this reads, [`Via::parse_any`] reads alike. In place of
    /// an empty one.
    #[inline(never)]
    pub(super) fn read_usual(&mut self, bytes: &[u8], value: Span) -> Option<()> {
        let (at, end) = (value.start as usize, value.end as usize);
        let protocol = u64::from_le_bytes(*chunk_at(bytes, at)?);
        let transport = u32::from_le_bytes(*chunk_at(bytes, at + 8)?);
        let host = at + 12;
        if protocol != u64::from_le_bytes(*b"SIP/2.0/") || !USUAL_TRANSPORTS.contains(&transport) || host >= end {
            return None;
        }
        (self.parm, self.transport) = (value, Span::new(at + 8, at + 11));
        let mut block = host;
        let mut marks = usual_marks(bytes, block, end)?;
        let mut mark = host + marks.trailing_zeros() as usize;
        self.read_usual_sent_by(bytes, host, mark)?;
        let mut seen = 0;
        while mark != end {
            let start = mark + 1;
            marks &= marks.wrapping_sub(1);
            while marks == 0 {
                block += BLOCK;
                marks = usual_marks(bytes, block, end)?;
            }
            mark = block + marks.trailing_zeros() as usize;
            let one = self.note_usual(bytes, start, mark)?;
            if seen & one != 0 {
                return None;
            }
            seen |= one;
        }
        Some(())
    }

    /// Remembers the parameter in `start..end` if routing uses it, and says as a bit which one it is; none for another.
    /// `None` where that wants a closer look, or is too near to the message's end to be looked at by words.
    #[inline(always)]
    fn note_usual(&mut self, bytes: &[u8], start: usize, end: usize) -> Option<u8> {
        let word = u64::from_le_bytes(*chunk_at(bytes, start)?);
        let span = |from: usize| Some(Span::new(from, end));
        match () {
            () if is!(word, b"branch=") => {
                self.branch = span(start + 7);
                Some(1)
            }
            () if is!(word, b"w=") => {
                self.way = span(start + 2);
                Some(2)
            }
            () if is!(word, b"s=") => {
                self.time = span(start + 2);
                Some(4)
            }
            () if is!(word, b"rport") && end == start + 5 => {
                self.rport = Some(Param { name: Span::new(start, end), value: None });
                Some(8)
            }
            () => {
                let is_odd = start == end || matches!(bytes[start] | 0x20, b'r' | b'b' | b'w' | b's' | b'=');
                (!is_odd).then_some(0)
            }
        }
    }

    /// Reads a sent-by shorter than 32 bytes. `None` where it has more than one colon (IPv6 has), a bracket, or an equals
    /// sign.
    #[inline(always)]
    fn read_usual_sent_by(&mut self, bytes: &[u8], at: usize, end: usize) -> Option<()> {
        let inside = match end - at {
            length @ 1..32 => (1 << length) - 1,
            _ => return None,
        };
        let chunk = chunk_at::<32>(bytes, at)?;
        let is = |byte| u8x32::new(*chunk).simd_eq(u8x32::splat(byte)).to_bitmask() & inside;
        let colons = is(b':');
        if chunk[0] == b'[' || colons & 1 != 0 || colons & colons.wrapping_sub(1) != 0 || is(b'=') != 0 {
            return None;
        }
        if colons == 0 {
            (self.host, self.port) = (Span::new(at, end), None);
            return Some(());
        }
        let colon = at + colons.trailing_zeros() as usize;
        let port = match short_number(bytes, colon + 1, end) {
            Some(port) => port,
            None => number(bytes.get(colon + 1..end).filter(|digits| digits.len() <= 5)?)?,
        };
        (self.host, self.port) = (Span::new(at, colon), Some(u16::try_from(port).ok()?));
        Some(())
    }

    fn parse_any(bytes: &[u8], at: usize, end: usize) -> Option<(Self, usize)> {
        let start = skip_blanks(bytes, at, end);
        let mut marks = Marks::new(bytes, start, end);
        let (transport, at) = protocol(bytes, start, end, &mut marks)?;
        let (host, port, at) = sent_by(bytes, at, end, &mut marks)?;
        let mut via = Self { parm: Span::new(start, at), transport, host, port, ..Self::default() };
        let mut params = Params::following(bytes, marks, at, end);
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
        let id = branch.get(COOKIE.len()..).filter(|id| !id.is_empty())?;
        // As nearly everybody writes it, in one comparison.
        let start = u64::from_le_bytes(*branch.first_chunk()?);
        const USUAL: u64 = u64::from_le_bytes(*b"z9hG4bK\0");
        let is_cookie = start & (u64::MAX >> 8) == USUAL || branch[..COOKIE.len()].eq_ignore_ascii_case(COOKIE);
        is_cookie.then_some(id)
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

/// The transports that nearly all name, with the blank behind them.
const USUAL_TRANSPORTS: [u32; 3] =
    [u32::from_le_bytes(*b"UDP "), u32::from_le_bytes(*b"TCP "), u32::from_le_bytes(*b"TLS ")];

/// How many bytes are looked at at once: most vias of others are no longer behind their protocol.
const BLOCK: usize = 64;

/// The semicolons of a block and the end, as bits. `None` where a blank, a comma or a quote is before `end`, or where the
/// message ends too soon.
#[inline(always)]
fn usual_marks(bytes: &[u8], at: usize, end: usize) -> Option<u64> {
    let block: &[u8; BLOCK] = chunk_at(bytes, at)?;
    let (mut semicolons, mut odd) = (0, 0);
    for (n, chunk) in block.as_chunks().0.iter().enumerate() {
        let chunk = u8x16::new(*chunk);
        semicolons |= u64::from(chunk.simd_eq(u8x16::splat(b';')).to_bitmask()) << (16 * n);
        // Blanks, quotes and commas are not above the comma; of what else is there, only rare token characters.
        odd |= u64::from(chunk.simd_eq(chunk.min(u8x16::splat(b','))).to_bitmask()) << (16 * n);
    }
    match odd {
        0 => (end - at >= BLOCK).then_some(semicolons),
        // The first one must be what ends the value.
        _ => (at + odd.trailing_zeros() as usize == end).then_some((semicolons | odd) & (odd ^ (odd - 1))),
    }
}

/// `SIP / 2.0 / transport`, and just behind it.
#[inline]
fn protocol(bytes: &[u8], at: usize, end: usize, marks: &mut Marks<'_>) -> Option<(Span, usize)> {
    const PREFIX: &[u8] = b"SIP/2.0/";
    let at = match bytes[at..end].starts_with(PREFIX) {
        true => skip_blanks(bytes, at + PREFIX.len(), end),
        false => spaced_protocol(bytes, at, end)?,
    };
    let stop = marks.next(at);
    (stop > at && stop < end && is_blank(bytes[stop])).then(|| (Span::new(at, stop), stop))
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
fn sent_by(bytes: &[u8], at: usize, end: usize, marks: &mut Marks<'_>) -> Option<(Span, Option<u16>, usize)> {
    let at = skip_blanks(bytes, at, end);
    let mark = marks.next(at);
    let stop = match bytes[..end].get(at)? {
        b'[' => at + memchr(b']', &bytes[at..mark])? + 1,
        _ => memchr(b':', &bytes[at..mark]).map_or(mark, |colon| at + colon),
    };
    if stop == at {
        return None;
    }
    let host = Span::new(at, stop);
    let colon = skip_blanks(bytes, stop, end);
    if bytes[..end].get(colon) != Some(&b':') {
        return (stop == mark).then_some((host, None, stop));
    }
    let from = skip_blanks(bytes, colon + 1, end);
    let to = if from < mark { mark } else { marks.next(from) };
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

    proptest::proptest! {
        /// The fast way has the general one as its twin.
        #[test]
        fn what_is_read_the_usual_way_is_read_alike_the_general_way(
            host in "[a-z0-9.:=\\[]{1,20}", port in "(:[0-9]{1,6})?",
            params in proptest::collection::vec("(branch|BRANCH|rport|received|w|s|ttl|rportx|br)(=[a-zA-Z0-9.:=\\[\" ,;]{0,12})?", 0..10),
            tail in "(, SIP/2.0/UDP b)?| |[ -~]{0,40}",
        ) {
            let params: Vec<_> = params.iter().map(|param| format!(";{param}")).collect();
            let text = format!("SIP/2.0/UDP {host}{port}{}{tail}", params.concat());
            let padded = format!("{text}\r\n{}", "x".repeat(64)).into_bytes();
            let mut usual = Via::default();
            if usual.read_usual(&padded, Span::new(0, text.len())).is_some() {
                proptest::prop_assert_eq!(Via::parse_any(&padded, 0, text.len()), Some((usual, text.len())));
            }
        }
    }

    #[test]
    fn what_clients_and_we_write_is_usual() {
        for text in [
            "SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bK-524287-1---7f3a9c1d5b2e4c60;rport",
            "SIP/2.0/UDP pc33.atlanta.com;branch=z9hG4bK776asdhds",
            "SIP/2.0/UDP 203.100.113.210:5060;branch=z9hG4bKccglerkai7opwivszgngvrtacvgsbpahgm;w=ccg4ch5rzmahccqtytddgzahpibopkvm4fettk7v;s=aadqaaaaaaaaa",
        ] {
            let padded = format!("{text}\r\n{}", "x".repeat(64));
            assert!(Via::default().read_usual(padded.as_bytes(), Span::new(0, text.len())).is_some(), "{text}");
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
