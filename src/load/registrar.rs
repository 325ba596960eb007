//! Who can be called, and by which way (RFC 3261 §10.3, RFC 3327 §5.3). Bounded.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::compose::{Asked, address_of};
use super::dialog::{first_hop, write_route};
use super::ids::hash;
use crate::sip::header::{Address, Param, Values, number};
use crate::sip::name::Name;
use crate::sip::{Message, Uri};
use crate::state::Time;
use crate::state::lookup::{Map, hasher};

/// How long a registration lasts where it does not say, and at most: an hour and a day.
const EXPIRES: u32 = 3600;
const LONGEST: u32 = 86_400;

/// One registered phone.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The address of record, a URI.
    pub aor: String,
    /// The Contact's URI as registered: may be private.
    pub contact: Vec<u8>,
    /// The stored Path as whole Route lines, top first.
    pub routes: Vec<u8>,
    /// Where a request to it goes: the top Path's host, else where the REGISTER came from.
    pub next_hop: SocketAddr,
    /// Where the REGISTER came from.
    pub source: SocketAddr,
    expires: Time,
}

/// Bindings by the hash of their address of record.
#[derive(Debug)]
pub struct Registrar {
    bindings: Map<u64, Binding>,
    /// The keys in turn, for calls to all of them one after the other.
    turn: Vec<u64>,
    next: usize,
    limit: usize,
}

/// What a REGISTER is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The key of the binding; `None` where it was removed.
    pub key: Option<u64>,
    /// Header lines of the 200.
    pub lines: Vec<u8>,
}

impl Registrar {
    /// One that keeps at most `limit` bindings.
    pub fn new(limit: usize) -> Self {
        Self { bindings: Map::with_hasher(hasher()), turn: Vec::new(), next: 0, limit }
    }

    /// How many are registered; those that have expired count until somebody looks for them.
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    /// Stores or removes a binding.
    ///
    /// # Errors
    /// The status of the refusal: 400, 420 for a Path that the phone is not known to understand (as Kamailio does), 503
    /// where the table is full.
    pub fn register(&mut self, asked: Asked<'_>, now: Time) -> Result<Registered, u16> {
        let Asked { bytes, message, source } = asked;
        let aor = message.to(bytes).and_then(|to| Address::parse(bytes, to)).ok_or(400u16)?.uri.of(bytes);
        let paths: Vec<&[u8]> = paths(bytes, message).collect();
        if !paths.is_empty() && !supports_path(bytes, message) {
            return Err(420);
        }
        let value = message.values(bytes, Name::Contact).next().ok_or(400u16)?;
        let contact = Address::parse(bytes, value.span).ok_or(400u16)?;
        let seconds = expires(bytes, message, &contact).unwrap_or(EXPIRES).min(LONGEST);
        let key = hash(aor);
        if seconds == 0 {
            self.remove(key);
            return Ok(Registered { key: None, lines: Vec::new() });
        }
        let mut routes = Vec::new();
        paths.iter().for_each(|path| write_route(path, &mut routes));
        let lines = answer_lines(contact.uri.of(bytes), seconds, &paths);
        self.store(
            key,
            Binding {
                aor: String::from_utf8(aor.to_vec()).map_err(|_| 400u16)?,
                contact: contact.uri.of(bytes).to_vec(),
                next_hop: first_hop(&routes).or(direct_hop(bytes, message, source)).unwrap_or(source),
                routes,
                source,
                expires: now + Duration::from_secs(seconds.into()),
            },
        )?;
        Ok(Registered { key: Some(key), lines })
    }

    /// The binding with this key, unless it has expired.
    pub fn get(&self, key: u64, now: Time) -> Option<&Binding> {
        self.bindings.get(&key).filter(|binding| binding.expires > now)
    }

    /// The key of the next registered phone, each in turn; drops those that have expired.
    pub fn next(&mut self, now: Time) -> Option<u64> {
        loop {
            let key = *self.turn.get(self.next).or(self.turn.first())?;
            if self.get(key, now).is_some() {
                self.next = if self.next + 1 < self.turn.len() { self.next + 1 } else { 0 };
                return Some(key);
            }
            self.remove(key);
        }
    }

    fn store(&mut self, key: u64, binding: Binding) -> Result<(), u16> {
        if !self.bindings.contains_key(&key) {
            if self.bindings.len() >= self.limit {
                return Err(503);
            }
            self.turn.push(key);
        }
        self.bindings.insert(key, binding);
        Ok(())
    }

    fn remove(&mut self, key: u64) {
        self.bindings.remove(&key);
        self.turn.retain(|other| *other != key);
        if self.next >= self.turn.len() {
            self.next = 0;
        }
    }
}

/// The values of all Path headers, top first.
fn paths<'a>(bytes: &'a [u8], message: &'a Message) -> impl Iterator<Item = &'a [u8]> {
    message.lines_named(bytes, b"Path").flat_map(|line| Values::of_line(bytes, line)).map(|value| value.span.of(bytes))
}

fn supports_path(bytes: &[u8], message: &Message) -> bool {
    message.values(bytes, Name::Supported).any(|value| value.span.of(bytes).eq_ignore_ascii_case(b"path"))
}

/// `expires` of the Contact, else the Expires header (RFC 3261 §10.2.1.1).
fn expires(bytes: &[u8], message: &Message, contact: &Address) -> Option<u32> {
    let param: Option<Param> = contact.param(bytes, b"expires");
    let own = param.and_then(|param| number(param.value?.of(bytes)));
    let header = || {
        let line = message.lines_named(bytes, b"Expires").next()?;
        number(Values::of_line(bytes, line).next()?.span.of(bytes))
    };
    own.or_else(header)
}

/// Without Path: the Contact of a phone that came through somebody; one that came itself is called where it came from.
fn direct_hop(bytes: &[u8], message: &Message, source: SocketAddr) -> Option<SocketAddr> {
    if message.next_via.is_none() {
        return Some(source);
    }
    let contact = super::dialog::contact(bytes, message)?;
    address_of(bytes, &Uri::parse(bytes, contact)?)
}

fn answer_lines(contact: &[u8], seconds: u32, paths: &[&[u8]]) -> Vec<u8> {
    let mut lines = b"Contact: <".to_vec();
    lines.extend_from_slice(contact);
    // Writing to memory cannot fail.
    let _ = write!(lines, ">;expires={seconds}\r\n");
    for path in paths {
        lines.extend_from_slice(b"Path: ");
        lines.extend_from_slice(path);
        lines.extend_from_slice(b"\r\n");
    }
    lines.extend_from_slice(b"Supported: path\r\n");
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Time = Time(5_000_000_000);

    fn at(millis: u64) -> Time {
        T0 + Duration::from_millis(millis)
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn register(registrar: &mut Registrar, user: &str, extra: &str, now: Time) -> Result<Option<u64>, u16> {
        let text = format!(
            "REGISTER sip:h SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK2\nVia: SIP/2.0/UDP 192.168.1.2;branch=z9hG4bK1\nFrom: <sip:{user}@h>;tag=1\nTo: <sip:{user}@h>\nCall-ID: r\nCSeq: 1 REGISTER\n{extra}\nContent-Length: 0"
        );
        let bytes = format!("{text}\n\n").replace('\n', "\r\n").into_bytes();
        let message = Message::parse(&bytes).unwrap();
        let asked = Asked { bytes: &bytes, message: &message, source: addr("192.0.2.9:5060") };
        registrar.register(asked, now).map(|registered| registered.key)
    }

    #[test]
    fn the_registrar_keeps_contact_and_path_for_as_long_as_was_said() {
        let mut registrar = Registrar::new(2);
        let contact = "Contact: <sip:bob@192.168.1.20:5062>;expires=60";
        let path = "Path: <sip:p1@192.0.2.9:5070;lr>, <sip:p2@192.0.2.8;lr>\nSupported: path";
        assert_eq!(register(&mut registrar, "bob", "", T0), Err(400), "without Contact there is nothing to store");
        let unsupported = format!("{contact}\n{}", path.replace("Supported: path", "Supported: other"));
        assert_eq!(register(&mut registrar, "bob", &unsupported, T0), Err(420));
        let bob = register(&mut registrar, "bob", &format!("{contact}\n{path}"), T0).unwrap().unwrap();
        let binding = registrar.get(bob, at(59_000)).unwrap();
        assert_eq!(binding.contact, b"sip:bob@192.168.1.20:5062");
        assert_eq!(binding.routes, b"Route: <sip:p1@192.0.2.9:5070;lr>\r\nRoute: <sip:p2@192.0.2.8;lr>\r\n");
        assert_eq!((binding.next_hop, binding.aor.as_str()), (addr("192.0.2.9:5070"), "sip:bob@h"));
        assert!(registrar.get(bob, at(61_000)).is_none(), "expired");

        let ann =
            register(&mut registrar, "ann", "Contact: <sip:ann@192.168.1.21>\nExpires: 3000", T0).unwrap().unwrap();
        assert_eq!(register(&mut registrar, "eve", contact, T0), Err(503), "full");
        assert_eq!([registrar.next(T0), registrar.next(T0), registrar.next(T0)], [Some(bob), Some(ann), Some(bob)]);
        assert_eq!([registrar.next(at(61_000)), registrar.next(at(61_000))], [Some(ann), Some(ann)], "bob is dropped");
        assert_eq!(register(&mut registrar, "ann", "Contact: <sip:ann@192.168.1.21>\nExpires: 0", T0), Ok(None));
        assert_eq!((registrar.next(T0), registrar.len()), (None, 0));
    }
}
