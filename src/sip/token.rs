//! Tokens: what we write into messages so that whoever sees the answer, or the next request of the dialog, can bring
//! it home without a table. A second node with the same `cluster.key` reads what the first one wrote.
//!
//! | where | what it says | sealed with |
//! |---|---|---|
//! | branch of our Via | direction, server, transaction | key derived from the `route` secret, and the Call-ID |
//! | `w` beside it | the way back of the response | the same, and the whole branch: who knows this one good needs no other |
//! | `s` beside it | when the request left, by which node, whether it opened something | nothing: a wrong one spoils a time sample |
//! | Record-Route | server and client flow of a dialog | a `seal` key, and the Call-ID |
//! | Path | server and client flow of a registration | a `seal` key |
//!
//! The branch is a function of the transaction alone: nothing in it comes from port, connection, worker or node, so a
//! retransmission, the CANCEL and the ACK to a non-2xx carry the same one whoever forwards them (RFC 3261 §16.11).
//! Servers and frontends are named by [`NameHash`], never by position: a reload cannot misdirect a token.
//!
//! The text is lower-case base32: tokens are compared without case (RFC 3261 §7.3.1) and base64 is not permissible in
//! a branch (§16.6 step 8). The MAC is SipHash-1-3 with 64 bits; what it covers is filled with
//! zeros to whole words of eight bytes (its length is known from its first bytes).

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::{SipHasher13, SipHasher24};
use siphasher::sip128;

use super::base32::{decode, decode_trusted, encode, encode_groups, raw_len, text_len};
use super::{Flow, Transport};

/// A stable 32-bit name of a server ("backend/server"), region or frontend. The configuration refuses two names with
/// one hash. Unkeyed on purpose: it is no secret, and it must not change with the cluster key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameHash(pub u32);

impl NameHash {
    pub fn of(name: &str) -> Self {
        let hasher = SipHasher13::new_with_key(b"trunkline names\0");
        Self(hasher.hash(name.as_bytes()) as u32)
    }
}

/// One key that seals Record-Route and Path tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealKey {
    pub id: u8,
    pub secret: [u8; 16],
}

/// Every key derived from one `cluster.key`.
#[derive(Clone)]
pub struct Keys {
    branch: SipHasher13,
    way: SipHasher13,
    transaction: SipHasher13,
    tag: SipHasher13,
    calls: SipHasher13,
    sources: SipHasher13,
    rendezvous: [u8; 16],
    seals: Vec<(u8, SipHasher13)>,
    seal_with: usize,
    fingerprint: u64,
}

impl Keys {
    /// Derives all keys from the `route` secret; tokens are sealed with the seal key `seal_with` and accepted under
    /// each of `seals`. `None` where `seal_with` is none of them.
    pub fn new(route: [u8; 16], seals: &[SealKey], seal_with: u8) -> Option<Self> {
        use sip128::Hasher128;
        let derive = |label: &str| {
            let mut hasher = sip128::SipHasher24::new_with_key(&route);
            hasher.write(label.as_bytes());
            hasher.finish128().as_bytes()
        };
        let mut fingerprint = SipHasher24::new_with_key(&derive("fingerprint"));
        for seal in seals {
            fingerprint.write(&[seal.id]);
            fingerprint.write(&seal.secret);
        }
        Some(Self {
            branch: SipHasher13::new_with_key(&derive("branch")),
            way: SipHasher13::new_with_key(&derive("way")),
            transaction: SipHasher13::new_with_key(&derive("transaction")),
            tag: SipHasher13::new_with_key(&derive("tag")),
            calls: SipHasher13::new_with_key(&derive("calls")),
            sources: SipHasher13::new_with_key(&derive("sources")),
            rendezvous: derive("rendezvous"),
            seals: seals.iter().map(|seal| (seal.id, SipHasher13::new_with_key(&seal.secret))).collect(),
            seal_with: seals.iter().position(|seal| seal.id == seal_with)?,
            fingerprint: fingerprint.finish(),
        })
    }

    /// The hash of a stick key (a Call-ID, an address, a user, a header): what balancing and the tables work on.
    /// Keyed, so that nobody outside can aim at a server or a bucket.
    #[inline]
    pub fn call(&self, key: &[u8]) -> u64 {
        self.calls.hash(key)
    }

    /// The hash of a source address in the tables of limits and source stickiness.
    #[inline]
    pub fn source(&self, ip: IpAddr) -> u64 {
        match ip {
            IpAddr::V4(ip) => self.sources.hash(&ip.octets()),
            IpAddr::V6(ip) => self.sources.hash(&ip.octets()),
        }
    }

    /// The key of rendezvous hashing.
    pub fn rendezvous(&self) -> &[u8; 16] {
        &self.rendezvous
    }

    /// Names a transaction by what its retransmissions, its CANCEL and the ACK to its non-2xx share (RFC 3261 §9.1,
    /// §17.1.1.3), and no other transaction does, even where two clients chose one branch.
    #[inline]
    pub fn transaction(&self, of: &Transaction<'_>) -> u64 {
        // The lengths come first, so that no field can run into its neighbour.
        let lengths =
            (of.from_tag.len() as u64) << 48 | (of.branch.len() as u64) << 32 | (of.sent_by.len() as u64) << 16;
        let mut fixed = [0; 24];
        fixed[..8].copy_from_slice(&of.call.to_be_bytes());
        fixed[8..16].copy_from_slice(&(lengths | u64::from(of.sent_by_port)).to_be_bytes());
        fixed[16..].copy_from_slice(&u64::from(of.cseq).to_be_bytes());
        // In one piece where it fits: a stream of pieces that end within words costs twice as much.
        let mut input = [0; 256];
        if let Some(len) = join(&mut input, &[&fixed, of.branch, of.from_tag, of.sent_by, of.uri]) {
            return self.transaction.hash(&input[..len]);
        }
        let mut hasher = self.transaction;
        for field in [&fixed, of.branch, of.from_tag, of.sent_by, of.uri] {
            hasher.write(field);
        }
        hasher.finish()
    }

    /// The To tag of our own answers to a transaction: the same each time, so that a stateless server answers a
    /// retransmission alike and knows the ACK (RFC 3261 §8.2.7).
    pub fn tag(&self, transaction: u64) -> [u8; TAG_LEN] {
        let mut text = [0; TAG_LEN];
        encode(&self.tag.hash(&transaction.to_be_bytes()).to_be_bytes(), &mut text);
        text
    }

    /// A number that two nodes can compare to see whether they hold the same file; says nothing about the secrets.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// The fields that name a transaction ([`Keys::transaction`]).
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    /// [`Keys::call`] of the Call-ID.
    pub call: u64,
    /// The received branch behind its cookie; empty for an RFC 2543 client.
    pub branch: &'a [u8],
    pub sent_by: &'a [u8],
    pub sent_by_port: u16,
    pub cseq: u32,
    /// Not the To tag: the ACK to a 2543 client's INVITE has one that the INVITE had not.
    pub from_tag: &'a [u8],
    /// The Request-URI as received.
    pub uri: &'a [u8],
}

/// Writes the fields one behind the other and says how long they are together; `None` where they do not fit.
#[inline]
fn join(out: &mut [u8], fields: &[&[u8]; 5]) -> Option<usize> {
    let mut len = 0;
    for field in fields {
        out.get_mut(len..len + field.len())?.copy_from_slice(field);
        len += field.len();
    }
    Some(len)
}

/// Why a text is no token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It has not the form of one.
    Foreign,
    /// It has the form, under a seal key that we do not hold (any more).
    UnknownKey,
    /// It has the form, and the MAC is wrong.
    Forged,
}

const VERSION: u8 = 1 << 4;
const MAC_LEN: usize = 8;

/// Length of a To tag of ours.
pub const TAG_LEN: usize = text_len(8);

/// Which way a request went, so which way its responses come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// What the branch of our Via says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    pub direction: Direction,
    /// The server that the request went to, or that sent it.
    pub server: NameHash,
    pub transaction: u64,
}

const BRANCH_BODY: usize = 1 + 4 + 8;
const BRANCH_RAW: usize = BRANCH_BODY + MAC_LEN;
/// Length of the token in a branch, behind the magic cookie.
pub const BRANCH_LEN: usize = text_len(BRANCH_RAW);

/// What a branch's text says, its MAC included, and the call that it is of: what the parameters beside it are sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawBranch {
    raw: [u8; BRANCH_RAW],
    call: u64,
}

impl RawBranch {
    /// Whether the branch's own MAC is right.
    #[inline]
    pub fn is_sealed(&self, keys: &Keys) -> bool {
        self.raw[BRANCH_BODY..] == branch_mac(keys, &self.raw, self.call)
    }
}

#[inline]
fn branch_mac(keys: &Keys, raw: &[u8; BRANCH_RAW], call: u64) -> [u8; MAC_LEN] {
    const WORDS: usize = BRANCH_BODY.next_multiple_of(8);
    let mut input = [0; WORDS + 8];
    input[..BRANCH_BODY].copy_from_slice(&raw[..BRANCH_BODY]);
    input[WORDS..].copy_from_slice(&call.to_be_bytes());
    keys.branch.hash(&input).to_be_bytes()
}

impl Branch {
    /// Writes the token. `call` is [`Keys::call`] of the request's Call-ID.
    #[inline]
    pub fn seal(&self, call: u64, keys: &Keys) -> ([u8; BRANCH_LEN], RawBranch) {
        let mut raw = [0; BRANCH_RAW];
        raw[0] = VERSION | matches!(self.direction, Direction::ToClient) as u8;
        raw[1..5].copy_from_slice(&self.server.0.to_be_bytes());
        raw[5..BRANCH_BODY].copy_from_slice(&self.transaction.to_be_bytes());
        let mac = branch_mac(keys, &raw, call);
        raw[BRANCH_BODY..].copy_from_slice(&mac);
        let mut text = [0; BRANCH_LEN];
        encode(&raw, &mut text);
        (text, RawBranch { raw, call })
    }

    /// Reads what stands behind the cookie of a branch.
    ///
    /// # Errors
    /// [`TokenError::Foreign`] or [`TokenError::Forged`].
    #[inline]
    pub fn open(text: &[u8], call: u64, keys: &Keys) -> Result<(Self, RawBranch), TokenError> {
        let (branch, raw) = Self::read(text, call).ok_or(TokenError::Foreign)?;
        if raw.is_sealed(keys) { Ok((branch, raw)) } else { Err(TokenError::Forged) }
    }

    /// Reads what stands behind the cookie of a branch without looking at its MAC: for who opens the way that is sealed
    /// to it. `None` where it has not the form.
    #[inline]
    pub fn read(text: &[u8], call: u64) -> Option<(Self, RawBranch)> {
        let text: &[u8; BRANCH_LEN] = text.try_into().ok()?;
        let mut raw = [0; BRANCH_RAW];
        if !decode(text, &mut raw) {
            return None;
        }
        let direction = match raw[0] ^ VERSION {
            0 => Direction::ToServer,
            1 => Direction::ToClient,
            _ => return None,
        };
        let branch = Self { direction, server: NameHash(be32(&raw[1..])), transaction: be64(&raw[5..]) };
        Some((branch, RawBranch { raw, call }))
    }
}

/// The way back of a response: the value of the `w` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub frontend: NameHash,
    /// The address that the request came to: the response leaves from there (RFC 3581 §4).
    pub local: SocketAddr,
    /// Where the response goes.
    pub remote: SocketAddr,
    /// Key of the entry in the backend's stick table that a 2xx confirms, where the backend has one.
    pub stick: Option<u64>,
}

const WAY_V6: u8 = 1;
const WAY_STICK: u8 = 2;
const WAY_RAW_MAX: usize = 1 + 4 + 2 * 18 + 8 + MAC_LEN;
/// Room for the longest text of a way, which is written eight characters at a time.
pub const WAY_LEN_MAX: usize = text_len(WAY_RAW_MAX).next_multiple_of(8);

impl Way {
    /// Writes the token that stands beside this branch into `text` and says how long it is.
    #[inline]
    pub fn seal(&self, branch: &RawBranch, keys: &Keys, text: &mut [u8; WAY_LEN_MAX]) -> usize {
        let mut raw = Writer::<{ WAY_RAW_MAX + BRANCH_RAW + 8 }>::new();
        let v6 = if self.remote.is_ipv6() { WAY_V6 } else { 0 };
        let stick = if self.stick.is_some() { WAY_STICK } else { 0 };
        raw.put([VERSION | v6 | stick]);
        raw.put(self.frontend.0.to_be_bytes());
        raw.put_address(self.local);
        raw.put_address(self.remote);
        if let Some(stick) = self.stick {
            raw.put(stick.to_be_bytes());
        }
        let body = raw.len;
        raw.put(branch.raw);
        raw.put(branch.call.to_be_bytes());
        let mac = raw.mac(&keys.way);
        raw.finish(body, mac, text)
    }

    /// Reads the token that stands beside this branch.
    ///
    /// # Errors
    /// [`TokenError::Foreign`] or [`TokenError::Forged`].
    #[inline]
    pub fn open(text: &[u8], branch: &RawBranch, keys: &Keys) -> Result<Self, TokenError> {
        let mut raw = [0; WAY_RAW_MAX + BRANCH_RAW + 8];
        let len = raw_len(text.len());
        let decoded = raw.get_mut(..len).filter(|_| len <= WAY_RAW_MAX).is_some_and(|raw| decode(text, raw));
        let flags = raw[0] ^ VERSION;
        if !decoded || flags & !(WAY_V6 | WAY_STICK) != 0 {
            return Err(TokenError::Foreign);
        }
        let v6 = flags & WAY_V6 != 0;
        let mut reader = Reader { bytes: &raw, at: 1 };
        let frontend = NameHash(u32::from_be_bytes(reader.take()));
        let (local, remote) = (reader.address(v6), reader.address(v6));
        let stick = (flags & WAY_STICK != 0).then(|| u64::from_be_bytes(reader.take()));
        let body = reader.at;
        if len != body + MAC_LEN {
            return Err(TokenError::Foreign);
        }
        let mac: [u8; MAC_LEN] = reader.take();
        let mut input = Writer { bytes: raw, len: body };
        input.put(branch.raw);
        input.put(branch.call.to_be_bytes());
        if input.mac(&keys.way) != mac {
            return Err(TokenError::Forged);
        }
        Ok(Self { frontend, local, remote, stick })
    }
}

/// When a request left: the value of the `s` parameter. Clocks are per node, so it counts only where it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendTime {
    pub node: u16,
    /// Whether the request opened something, rather than belonging to a dialog.
    pub opens: bool,
    /// Microseconds on the node's clock, modulo 2^47 (four years).
    pub micros: u64,
}

/// Where `opens` stands; the microseconds are below it.
const TIME_OPENS: u32 = 47;
const TIME_MICROS: u64 = (1 << TIME_OPENS) - 1;

/// Length of a send time's text.
pub const TIME_LEN: usize = text_len(8);

impl SendTime {
    #[inline]
    pub fn write(self) -> [u8; TIME_LEN] {
        let mut text = [0; TIME_LEN];
        let flags = u64::from(self.node) << 48 | u64::from(self.opens) << TIME_OPENS;
        encode(&(flags | self.micros & TIME_MICROS).to_be_bytes(), &mut text);
        text
    }

    /// Microseconds from then to `micros` on the same clock. One that lies ahead is years ago.
    #[inline]
    pub fn age(self, micros: u64) -> u64 {
        micros.wrapping_sub(self.micros) & TIME_MICROS
    }

    /// Reads what [`SendTime::write`] wrote. What somebody else wrote is read as any time of any node: nothing seals it.
    #[inline]
    pub fn read(text: &[u8]) -> Option<Self> {
        let text: &[u8; TIME_LEN] = text.try_into().ok()?;
        let value = decode_trusted(text.first_chunk()?) << 24 | decode_trusted(text.last_chunk()?) >> 1 & 0xff_ffff;
        Some(Self { node: (value >> 48) as u16, opens: value >> TIME_OPENS & 1 == 1, micros: value & TIME_MICROS })
    }
}

/// Where a sealed token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedIn {
    RecordRoute,
    Path,
}

/// A dialog's or a registration's server and client flow: the user part of our Record-Route and Path URIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub stands_in: SealedIn,
    pub server: NameHash,
    pub frontend: NameHash,
    pub flow: Flow,
    /// Whether the client is behind NAT: then only the flow reaches it, whatever its Contact says.
    pub nat: bool,
}

const SEAL_PATH: u8 = 1;
const SEAL_V6: u8 = 1;
const SEAL_NAT: u8 = 2;
const SEAL_TRANSPORT: u32 = 2;
const SEALED_RAW_V4: usize = 3 + 4 + 4 + 2 * 6 + MAC_LEN;
const SEALED_RAW_V6: usize = 3 + 4 + 4 + 2 * 18 + MAC_LEN;
/// The longest text of a sealed token.
pub const SEALED_LEN_MAX: usize = text_len(SEALED_RAW_V6);

impl Sealed {
    /// Writes the token into `text` and says how long it is. `call` is [`Keys::call`] of the dialog's Call-ID; a Path
    /// token serves many calls and is not bound to one.
    #[inline]
    pub fn seal(&self, call: u64, keys: &Keys, text: &mut [u8; SEALED_LEN_MAX]) -> usize {
        let (id, key) = &keys.seals[keys.seal_with];
        let v6 = if self.flow.remote.is_ipv6() { SEAL_V6 } else { 0 };
        let nat = if self.nat { SEAL_NAT } else { 0 };
        let transport = (self.flow.transport as u8) << SEAL_TRANSPORT;
        let path = if self.stands_in == SealedIn::Path { SEAL_PATH } else { 0 };
        let mut raw = Writer::<{ SEALED_RAW_V6 + 8 }>::new();
        raw.put([VERSION | path, *id, v6 | nat | transport]);
        raw.put(self.server.0.to_be_bytes());
        raw.put(self.frontend.0.to_be_bytes());
        raw.put_address(self.flow.local);
        raw.put_address(self.flow.remote);
        let body = raw.len;
        raw.put(bound_to(self.stands_in, call).to_be_bytes());
        let mac = raw.mac(key);
        raw.finish(body, mac, text)
    }

    /// Reads the user part of a Route or Path URI.
    ///
    /// # Errors
    /// All of [`TokenError`].
    pub fn open(text: &[u8], call: u64, keys: &Keys) -> Result<Self, TokenError> {
        let mut raw = [0; SEALED_RAW_V6 + 8];
        let len = match text.len() {
            len if len == text_len(SEALED_RAW_V4) => SEALED_RAW_V4,
            len if len == text_len(SEALED_RAW_V6) => SEALED_RAW_V6,
            _ => return Err(TokenError::Foreign),
        };
        if !decode(text, &mut raw[..len]) {
            return Err(TokenError::Foreign);
        }
        let stands_in = match raw[0] ^ VERSION {
            0 => SealedIn::RecordRoute,
            SEAL_PATH => SealedIn::Path,
            _ => return Err(TokenError::Foreign),
        };
        let v6 = raw[2] & SEAL_V6 != 0;
        let transport = match raw[2] >> SEAL_TRANSPORT {
            0 => Transport::Udp,
            1 => Transport::Tcp,
            2 => Transport::Tls,
            _ => return Err(TokenError::Foreign),
        };
        if len != if v6 { SEALED_RAW_V6 } else { SEALED_RAW_V4 } {
            return Err(TokenError::Foreign);
        }
        let key = keys.seals.iter().find(|(id, _)| *id == raw[1]).ok_or(TokenError::UnknownKey)?;
        let mut reader = Reader { bytes: &raw, at: 3 };
        let (server, frontend) = (u32::from_be_bytes(reader.take()), u32::from_be_bytes(reader.take()));
        let flow = Flow { transport, local: reader.address(v6), remote: reader.address(v6) };
        let body = reader.at;
        let mac: [u8; MAC_LEN] = reader.take();
        let mut input = Writer { bytes: raw, len: body };
        input.put(bound_to(stands_in, call).to_be_bytes());
        if input.mac(&key.1) != mac {
            return Err(TokenError::Forged);
        }
        let (server, frontend) = (NameHash(server), NameHash(frontend));
        Ok(Self { stands_in, server, frontend, flow, nat: raw[2] & SEAL_NAT != 0 })
    }
}

/// The call that a token's MAC covers: a Path token serves many.
fn bound_to(stands_in: SealedIn, call: u64) -> u64 {
    if stands_in == SealedIn::Path { 0 } else { call }
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().unwrap_or(&[0; 4]))
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().unwrap_or(&[0; 8]))
}

/// Fixed bytes, filled from the front.
struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    #[inline(always)]
    fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    #[inline(always)]
    fn put<const M: usize>(&mut self, bytes: [u8; M]) {
        self.bytes[self.len..self.len + M].copy_from_slice(&bytes);
        self.len += M;
    }

    #[inline(always)]
    fn put_address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.put(ip.octets()),
            IpAddr::V6(ip) => self.put(ip.octets()),
        }
        self.put(address.port().to_be_bytes());
    }

    /// The MAC of what was written, filled with zeros to whole words.
    #[inline(always)]
    fn mac(&mut self, key: &SipHasher13) -> [u8; MAC_LEN] {
        let end = self.len.next_multiple_of(8).min(N);
        self.bytes[self.len..end].fill(0);
        key.hash(&self.bytes[..end]).to_be_bytes()
    }

    /// Puts the MAC behind the body, writes both as text and says how long that is.
    #[inline(always)]
    fn finish<const T: usize>(mut self, body: usize, mac: [u8; MAC_LEN], text: &mut [u8; T]) -> usize {
        self.len = body;
        self.put(mac);
        let len = self.len;
        // What the last group of five bytes lacks.
        self.put([0; 4]);
        encode_groups(&self.bytes, text, len.div_ceil(5));
        text_len(len)
    }
}

/// Fixed bytes, read from the front.
struct Reader<'a, const N: usize> {
    bytes: &'a [u8; N],
    at: usize,
}

impl<const N: usize> Reader<'_, N> {
    #[inline(always)]
    fn take<const M: usize>(&mut self) -> [u8; M] {
        let taken = self.bytes[self.at..].first_chunk().copied().unwrap_or([0; M]);
        self.at += M;
        taken
    }

    #[inline(always)]
    fn address(&mut self, v6: bool) -> SocketAddr {
        let ip = if v6 { IpAddr::from(self.take::<16>()) } else { IpAddr::from(self.take::<4>()) };
        SocketAddr::new(ip, u16::from_be_bytes(self.take()))
    }
}

#[cfg(test)]
mod tests;
