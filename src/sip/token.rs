//! Tokens: what we write into messages so that whoever sees the answer, or the next request of the dialog, can bring
//! it home without a table. A second node with the same `cluster.key` reads what the first one wrote.
//!
//! | where | what it says | sealed with |
//! |---|---|---|
//! | branch of our Via | direction, server, transaction | key derived from the `route` secret, and the Call-ID |
//! | `w` beside it | the way back of the response | the same, and the branch |
//! | `s` beside it | when the request left, by which node | nothing: a wrong one spoils a time sample |
//! | Record-Route | server and client flow of a dialog | a `seal` key, and the Call-ID |
//! | Path | server and client flow of a registration | a `seal` key |
//!
//! The branch is a function of the transaction alone: nothing in it comes from port, connection, worker or node, so a
//! retransmission, the CANCEL and the ACK to a non-2xx carry the same one whoever forwards them (RFC 3261 §16.11).
//! Its MAC covers the Call-ID, which a response carries too: an answer to one call is none to another, and whoever was
//! once called through us can confirm no pins for calls that nobody made.
//! Servers and frontends are named by [`NameHash`], never by position: a reload cannot misdirect a token.
//!
//! The text is lower-case base32: tokens are compared without case (RFC 3261 §7.3.1) and base64 is not permissible in
//! a branch (§16.6 step 8). The MAC is SipHash-2-4 with 64 bits.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::{SipHasher13, SipHasher24};
use siphasher::sip128;

use super::base32::{decode, encode, raw_len, text_len};
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
    branch: SipHasher24,
    way: SipHasher24,
    transaction: SipHasher13,
    tag: SipHasher13,
    calls: SipHasher13,
    sources: SipHasher13,
    rendezvous: [u8; 16],
    seals: Vec<(u8, SipHasher24)>,
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
            branch: SipHasher24::new_with_key(&derive("branch")),
            way: SipHasher24::new_with_key(&derive("way")),
            transaction: SipHasher13::new_with_key(&derive("transaction")),
            tag: SipHasher13::new_with_key(&derive("tag")),
            calls: SipHasher13::new_with_key(&derive("calls")),
            sources: SipHasher13::new_with_key(&derive("sources")),
            rendezvous: derive("rendezvous"),
            seals: seals.iter().map(|seal| (seal.id, SipHasher24::new_with_key(&seal.secret))).collect(),
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
        let mut hasher = self.transaction;
        hasher.write(&fixed);
        hasher.write(of.branch);
        hasher.write(of.from_tag);
        hasher.write(of.sent_by);
        hasher.write(of.uri);
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

const BRANCH_RAW: usize = 1 + 4 + 8 + MAC_LEN;
/// Length of the token in a branch, behind the magic cookie.
pub const BRANCH_LEN: usize = text_len(BRANCH_RAW);

/// A branch's MAC: what seals the parameters beside it to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchMac([u8; MAC_LEN]);

impl Branch {
    /// Writes the token. `call` is [`Keys::call`] of the request's Call-ID.
    #[inline]
    pub fn seal(&self, call: u64, keys: &Keys) -> ([u8; BRANCH_LEN], BranchMac) {
        let mut raw = [0; BRANCH_RAW];
        raw[0] = VERSION | matches!(self.direction, Direction::ToClient) as u8;
        raw[1..5].copy_from_slice(&self.server.0.to_be_bytes());
        raw[5..13].copy_from_slice(&self.transaction.to_be_bytes());
        let mac = branch_mac(keys, &raw, call);
        raw[13..].copy_from_slice(&mac);
        let mut text = [0; BRANCH_LEN];
        encode(&raw, &mut text);
        (text, BranchMac(mac))
    }

    /// Reads what stands behind the cookie of a branch.
    ///
    /// # Errors
    /// [`TokenError::Foreign`] or [`TokenError::Forged`].
    #[inline]
    pub fn open(text: &[u8], call: u64, keys: &Keys) -> Result<(Self, BranchMac), TokenError> {
        let mut raw = [0; BRANCH_RAW];
        if text.len() != BRANCH_LEN || !decode(text, &mut raw) {
            return Err(TokenError::Foreign);
        }
        let direction = match raw[0] ^ VERSION {
            0 => Direction::ToServer,
            1 => Direction::ToClient,
            _ => return Err(TokenError::Foreign),
        };
        let mac = branch_mac(keys, &raw, call);
        if raw[13..] != mac {
            return Err(TokenError::Forged);
        }
        let branch = Self { direction, server: NameHash(be32(&raw[1..])), transaction: be64(&raw[5..]) };
        Ok((branch, BranchMac(mac)))
    }
}

/// `raw` holds the MAC or room for it; that part does not count.
#[inline]
fn branch_mac(keys: &Keys, raw: &[u8; BRANCH_RAW], call: u64) -> [u8; MAC_LEN] {
    let mut input = *raw;
    input[BRANCH_RAW - MAC_LEN..].copy_from_slice(&call.to_be_bytes());
    keys.branch.hash(&input).to_be_bytes()
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
/// The longest text of a way.
pub const WAY_LEN_MAX: usize = text_len(WAY_RAW_MAX);

impl Way {
    /// Writes the token into `text` and says how long it is.
    #[inline]
    pub fn seal(&self, branch: BranchMac, keys: &Keys, text: &mut [u8; WAY_LEN_MAX]) -> usize {
        let mut raw = Writer::<{ WAY_RAW_MAX + MAC_LEN }>::new();
        let v6 = if self.remote.is_ipv6() { WAY_V6 } else { 0 };
        let stick = if self.stick.is_some() { WAY_STICK } else { 0 };
        raw.put(&[VERSION | v6 | stick]);
        raw.put(&self.frontend.0.to_be_bytes());
        raw.put_address(self.local);
        raw.put_address(self.remote);
        if let Some(stick) = self.stick {
            raw.put(&stick.to_be_bytes());
        }
        let mac = way_mac(keys, raw.written(), branch);
        raw.put(&mac);
        let len = text_len(raw.len);
        encode(raw.written(), &mut text[..len]);
        len
    }

    /// Reads the token that stands beside the branch with this MAC.
    ///
    /// # Errors
    /// [`TokenError::Foreign`] or [`TokenError::Forged`].
    #[inline]
    pub fn open(text: &[u8], branch: BranchMac, keys: &Keys) -> Result<Self, TokenError> {
        let mut raw = [0; WAY_RAW_MAX];
        let len = raw_len(text.len());
        let Some(raw) = raw.get_mut(..len) else { return Err(TokenError::Foreign) };
        if !decode(text, raw) {
            return Err(TokenError::Foreign);
        }
        let mut reader = Reader { rest: raw };
        let flags = reader.byte().ok_or(TokenError::Foreign)? ^ VERSION;
        if flags & !(WAY_V6 | WAY_STICK) != 0 {
            return Err(TokenError::Foreign);
        }
        let v6 = flags & WAY_V6 != 0;
        let read = |reader: &mut Reader<'_>| {
            let frontend = NameHash(be32(reader.take(4)?));
            let (local, remote) = (reader.address(v6)?, reader.address(v6)?);
            let stick = if flags & WAY_STICK != 0 { Some(be64(reader.take(8)?)) } else { None };
            Some(Self { frontend, local, remote, stick })
        };
        let way = read(&mut reader).filter(|_| reader.rest.len() == MAC_LEN).ok_or(TokenError::Foreign)?;
        if way_mac(keys, &raw[..len - MAC_LEN], branch) != raw[len - MAC_LEN..] {
            return Err(TokenError::Forged);
        }
        Ok(way)
    }
}

#[inline]
fn way_mac(keys: &Keys, raw: &[u8], branch: BranchMac) -> [u8; MAC_LEN] {
    let mut input = [0; WAY_RAW_MAX];
    input[..raw.len()].copy_from_slice(raw);
    input[raw.len()..raw.len() + MAC_LEN].copy_from_slice(&branch.0);
    keys.way.hash(&input[..raw.len() + MAC_LEN]).to_be_bytes()
}

/// When a request left: the value of the `s` parameter. Clocks are per node, so it counts only where it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendTime {
    pub node: u16,
    /// Microseconds on the node's clock, modulo 2^48 (nine years).
    pub micros: u64,
}

/// Length of a send time's text.
pub const TIME_LEN: usize = text_len(8);

impl SendTime {
    #[inline]
    pub fn write(self) -> [u8; TIME_LEN] {
        let mut text = [0; TIME_LEN];
        encode(&(u64::from(self.node) << 48 | self.micros & ((1 << 48) - 1)).to_be_bytes(), &mut text);
        text
    }

    pub fn read(text: &[u8]) -> Option<Self> {
        let mut raw = [0; 8];
        (text.len() == TIME_LEN && decode(text, &mut raw)).then(|| {
            let value = u64::from_be_bytes(raw);
            Self { node: (value >> 48) as u16, micros: value & ((1 << 48) - 1) }
        })
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
        raw.put(&[VERSION | path, *id, v6 | nat | transport]);
        raw.put(&self.server.0.to_be_bytes());
        raw.put(&self.frontend.0.to_be_bytes());
        raw.put_address(self.flow.local);
        raw.put_address(self.flow.remote);
        let mac = seal_mac(key, raw.written(), self.stands_in, call);
        raw.put(&mac);
        let len = text_len(raw.len);
        encode(raw.written(), &mut text[..len]);
        len
    }

    /// Reads the user part of a Route or Path URI.
    ///
    /// # Errors
    /// All of [`TokenError`].
    pub fn open(text: &[u8], call: u64, keys: &Keys) -> Result<Self, TokenError> {
        let mut raw = [0; SEALED_RAW_V6];
        let raw = match text.len() {
            len if len == text_len(SEALED_RAW_V4) => &mut raw[..SEALED_RAW_V4],
            len if len == text_len(SEALED_RAW_V6) => &mut raw[..],
            _ => return Err(TokenError::Foreign),
        };
        if !decode(text, raw) {
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
        let expected = if v6 { SEALED_RAW_V6 } else { SEALED_RAW_V4 };
        if raw.len() != expected {
            return Err(TokenError::Foreign);
        }
        let key = keys.seals.iter().find(|(id, _)| *id == raw[1]).ok_or(TokenError::UnknownKey)?;
        let body = raw.len() - MAC_LEN;
        if seal_mac(&key.1, &raw[..body], stands_in, call) != raw[body..] {
            return Err(TokenError::Forged);
        }
        let mut reader = Reader { rest: &raw[3..body] };
        let read = |reader: &mut Reader<'_>| {
            let (server, frontend) = (NameHash(be32(reader.take(4)?)), NameHash(be32(reader.take(4)?)));
            let flow = Flow { transport, local: reader.address(v6)?, remote: reader.address(v6)? };
            Some(Self { stands_in, server, frontend, flow, nat: raw[2] & SEAL_NAT != 0 })
        };
        read(&mut reader).ok_or(TokenError::Foreign)
    }
}

#[inline]
fn seal_mac(key: &SipHasher24, raw: &[u8], stands_in: SealedIn, call: u64) -> [u8; MAC_LEN] {
    let mut input = [0; SEALED_RAW_V6];
    input[..raw.len()].copy_from_slice(raw);
    let bound = if stands_in == SealedIn::Path { 0 } else { call };
    input[raw.len()..raw.len() + 8].copy_from_slice(&bound.to_be_bytes());
    key.hash(&input[..raw.len() + 8]).to_be_bytes()
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from(be32(bytes)) << 32 | u64::from(be32(&bytes[4..]))
}

/// Fixed bytes, filled from the front.
struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    #[inline]
    fn put_address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.put(&ip.octets()),
            IpAddr::V6(ip) => self.put(&ip.octets()),
        }
        self.put(&address.port().to_be_bytes());
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    #[inline]
    fn address(&mut self, v6: bool) -> Option<SocketAddr> {
        let ip = match v6 {
            true => IpAddr::from(<[u8; 16]>::try_from(self.take(16)?).ok()?),
            false => IpAddr::from(<[u8; 4]>::try_from(self.take(4)?).ok()?),
        };
        let port = self.take(2)?;
        Some(SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
    }
}

#[cfg(test)]
mod tests;
