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
//! a branch (§16.6 step 8). The MAC is SipHash-1-3 with 64 bits, and stands at the end. It is that of what stands before
//! it and, behind that, of what the token is bound to (its length is known from its first byte).

mod raw;

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::{SipHasher13, SipHasher24};
use siphasher::sip128;

use super::base32::{decode, encode, room_len, text_len};
use super::siphash::SipHash;
use super::{ConnectionId, FlowToken};
use raw::Raw;

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
    branch: SipHash,
    way: SipHash,
    transaction: SipHash,
    tag: SipHash,
    calls: SipHash,
    sources: SipHash,
    rendezvous: [u8; 16],
    seals: Vec<(u8, SipHash)>,
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
            branch: SipHash::new(&derive("branch")),
            way: SipHash::new(&derive("way")),
            transaction: SipHash::new(&derive("transaction")),
            tag: SipHash::new(&derive("tag")),
            calls: SipHash::new(&derive("calls")),
            sources: SipHash::new(&derive("sources")),
            rendezvous: derive("rendezvous"),
            seals: seals.iter().map(|seal| (seal.id, SipHash::new(&seal.secret))).collect(),
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
        let lengths = (of.branch.len() as u64) << 48 | (of.sent_by.len() as u64) << 32 | (of.uri.len() as u64) << 16;
        let hash = self.transaction.word(of.call).word(lengths | u64::from(of.sent_by_port));
        let hash = hash.text(of.branch).text(of.sent_by).text(of.uri).text(of.from_tag);
        hash.finish((of.from_tag.len() as u64) << 32 | u64::from(of.cseq))
    }

    /// The To tag of our own answers to a transaction: the same each time, so that a stateless server answers a
    /// retransmission alike and knows the ACK (RFC 3261 §8.2.7).
    pub fn tag(&self, transaction: u64) -> [u8; TAG_LEN] {
        tag_text(self.tag.hash(&transaction.to_be_bytes()))
    }

    /// The ids of the seal keys that are accepted, and the one of them that is used.
    pub fn seals(&self) -> (impl Iterator<Item = u8> + '_, u8) {
        (self.seals.iter().map(|(id, _)| *id), self.seals[self.seal_with].0)
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
    /// Empty where there is a branch (RFC 3261 §16.11). Not the To tag: the ACK to a 2543 client's INVITE has one that
    /// the INVITE had not.
    pub from_tag: &'a [u8],
    /// The Request-URI as received.
    pub uri: &'a [u8],
}

/// Eight bytes as text, which a To tag and a send time are.
#[inline(always)]
fn tag_text(raw: u64) -> [u8; TAG_LEN] {
    let mut text = [0; room_len(8)];
    encode(&[raw], &mut text);
    *text.first_chunk().unwrap_or(&[0; TAG_LEN])
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
    raw: [u64; BRANCH_RAW.div_ceil(8)],
    call: u64,
}

impl RawBranch {
    /// Whether the branch's own MAC is right.
    #[inline]
    pub fn is_sealed(&self, keys: &Keys) -> bool {
        Raw { words: self.raw, len: BRANCH_BODY }.check_seal(&keys.branch, |bound| bound.put(self.call, 8))
    }
}

impl Branch {
    /// Writes the token. `call` is [`Keys::call`] of the request's Call-ID.
    #[inline(always)]
    pub fn seal(&self, call: u64, keys: &Keys) -> ([u8; BRANCH_LEN], RawBranch) {
        let mut raw = Raw::new();
        raw.put((VERSION | matches!(self.direction, Direction::ToClient) as u8).into(), 1);
        raw.put(self.server.0.into(), 4);
        raw.put(self.transaction, 8);
        raw.seal(&keys.branch, |bound| bound.put(call, 8));
        let mut text = [0; room_len(BRANCH_RAW)];
        encode(&raw.words, &mut text);
        (*text.first_chunk().unwrap_or(&[0; BRANCH_LEN]), RawBranch { raw: raw.words, call })
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
        let (words, _) = decode(text)?;
        let mut raw = Raw { words, len: 0 };
        let direction = match raw.take(1) as u8 ^ VERSION {
            0 => Direction::ToServer,
            1 => Direction::ToClient,
            _ => return None,
        };
        let branch = Self { direction, server: NameHash(raw.take(4) as u32), transaction: raw.take(8) };
        Some((branch, RawBranch { raw: words, call }))
    }
}

/// The way back of a response: the value of the `w` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub frontend: NameHash,
    /// Where the response goes: over the connection, or from the address that the request came to (RFC 3581 §4).
    pub flow: FlowToken,
    /// Key of the entry in the backend's stick table that a 2xx confirms, where the backend has one.
    pub stick: Option<u64>,
}

/// What a token keeps of a flow, as it stands in its flags: two IPv4 addresses, two of IPv6, or a connection.
mod form {
    pub const V4: u8 = 0;
    pub const V6: u8 = 1;
    pub const CONNECTION: u8 = 4;
}

impl FlowToken {
    /// Which of the forms it has.
    #[inline(always)]
    fn form(&self) -> u8 {
        match self {
            Self::Ends { remote, .. } if remote.is_ipv6() => form::V6,
            Self::Ends { .. } => form::V4,
            Self::Connection(_) => form::CONNECTION,
        }
    }
}

/// Length of what a token of this form keeps of a flow.
const fn flow_raw(form: u8) -> usize {
    match form {
        form::V4 => 2 * 6,
        form::V6 => 2 * 18,
        _ => 8,
    }
}

const WAY_STICK: u8 = 2;

/// Length of a way before it is text.
const fn way_raw(form: u8, stick: bool) -> usize {
    1 + 4 + flow_raw(form) + (if stick { 8 } else { 0 }) + MAC_LEN
}

/// A way's first byte.
const fn way_first(form: u8, stick: bool) -> u8 {
    VERSION | form | if stick { WAY_STICK } else { 0 }
}

/// Words of a way with what it is bound to in place of its MAC.
const WAY_WORDS: usize = (way_raw(form::V6, true) + BRANCH_RAW).div_ceil(8);
/// Room for the text of any way.
pub const WAY_LEN_MAX: usize = room_len(way_raw(form::V6, true));

impl Way {
    /// Writes the token that stands beside this branch into `text` and says how long it is.
    #[inline]
    pub fn seal(&self, branch: &RawBranch, keys: &Keys, text: &mut [u8; WAY_LEN_MAX]) -> usize {
        match (self.flow.form(), self.stick.is_some()) {
            // Of each form the compiler knows what stands where.
            (form::V4, false) => self.seal_as::<{ form::V4 }, false>(branch, keys, text),
            (form::V4, true) => self.seal_as::<{ form::V4 }, true>(branch, keys, text),
            (form::V6, false) => self.seal_as::<{ form::V6 }, false>(branch, keys, text),
            (form::V6, true) => self.seal_as::<{ form::V6 }, true>(branch, keys, text),
            (_, false) => self.seal_as::<{ form::CONNECTION }, false>(branch, keys, text),
            (_, true) => self.seal_as::<{ form::CONNECTION }, true>(branch, keys, text),
        }
    }

    #[inline]
    fn seal_as<const FORM: u8, const STICK: bool>(
        &self,
        branch: &RawBranch,
        keys: &Keys,
        text: &mut [u8; WAY_LEN_MAX],
    ) -> usize {
        let mut raw = Raw::<WAY_WORDS>::new();
        raw.put(way_first(FORM, STICK).into(), 1);
        raw.put(self.frontend.0.into(), 4);
        raw.put_flow::<FORM>(&self.flow);
        if STICK {
            raw.put(self.stick.unwrap_or_default(), 8);
        }
        raw.seal(&keys.way, |bound| put_branch(bound, branch));
        let len = way_raw(FORM, STICK);
        encode(&raw.words, &mut text[..room_len(len)]);
        text_len(len)
    }

    /// Reads the token that stands beside this branch.
    ///
    /// # Errors
    /// [`TokenError::Foreign`] or [`TokenError::Forged`].
    #[inline]
    pub fn open(text: &[u8], branch: &RawBranch, keys: &Keys) -> Result<Self, TokenError> {
        const V4: usize = text_len(way_raw(form::V4, false));
        const V4_STICK: usize = text_len(way_raw(form::V4, true));
        const V6: usize = text_len(way_raw(form::V6, false));
        const V6_STICK: usize = text_len(way_raw(form::V6, true));
        const CONNECTION: usize = text_len(way_raw(form::CONNECTION, false));
        const CONNECTION_STICK: usize = text_len(way_raw(form::CONNECTION, true));
        match text.len() {
            V4 => Self::open_as::<{ form::V4 }, false, V4>(text, branch, keys),
            V4_STICK => Self::open_as::<{ form::V4 }, true, V4_STICK>(text, branch, keys),
            V6 => Self::open_as::<{ form::V6 }, false, V6>(text, branch, keys),
            V6_STICK => Self::open_as::<{ form::V6 }, true, V6_STICK>(text, branch, keys),
            CONNECTION => Self::open_as::<{ form::CONNECTION }, false, CONNECTION>(text, branch, keys),
            CONNECTION_STICK => Self::open_as::<{ form::CONNECTION }, true, CONNECTION_STICK>(text, branch, keys),
            _ => Err(TokenError::Foreign),
        }
    }

    #[inline]
    fn open_as<const FORM: u8, const STICK: bool, const LEN: usize>(
        text: &[u8],
        branch: &RawBranch,
        keys: &Keys,
    ) -> Result<Self, TokenError> {
        let text: &[u8; LEN] = text.try_into().map_err(|_| TokenError::Foreign)?;
        let (words, _) = decode::<WAY_WORDS>(text).ok_or(TokenError::Foreign)?;
        let mut raw = Raw { words, len: 0 };
        if raw.take(1) as u8 != way_first(FORM, STICK) {
            return Err(TokenError::Foreign);
        }
        let frontend = NameHash(raw.take(4) as u32);
        let flow = raw.take_flow::<FORM>();
        let stick = STICK.then(|| raw.take(8));
        match flow.filter(|_| raw.check_seal(&keys.way, |bound| put_branch(bound, branch))) {
            Some(flow) => Ok(Self { frontend, flow, stick }),
            None => Err(TokenError::Forged),
        }
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
    #[inline(always)]
    pub fn write(self) -> [u8; TIME_LEN] {
        tag_text(u64::from(self.node) << 48 | u64::from(self.opens) << TIME_OPENS | self.micros & TIME_MICROS)
    }

    /// Microseconds from then to `micros` on the same clock. One that lies ahead is years ago.
    #[inline]
    pub fn age(self, micros: u64) -> u64 {
        micros.wrapping_sub(self.micros) & TIME_MICROS
    }

    /// Reads what [`SendTime::write`] wrote. Nothing seals it: it may be anybody's.
    #[inline]
    pub fn read(text: &[u8]) -> Option<Self> {
        let ([value, _], _) = decode(text).filter(|_| text.len() == TIME_LEN)?;
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
    pub flow: FlowToken,
    /// Whether the client is behind NAT: then only the flow reaches it, whatever its Contact says.
    pub nat: bool,
}

const SEAL_PATH: u8 = 1;
const SEAL_NAT: u8 = 2;

/// Length of a sealed token before it is text.
const fn sealed_raw(form: u8) -> usize {
    3 + 4 + 4 + flow_raw(form) + MAC_LEN
}

/// Length of the shortest sealed token's text, that of a connection.
pub const SEALED_LEN_MIN: usize = text_len(sealed_raw(form::CONNECTION));
const SEALED_V4: usize = text_len(sealed_raw(form::V4));
const SEALED_V6: usize = text_len(sealed_raw(form::V6));
/// Room for the text of any sealed token.
pub const SEALED_LEN_MAX: usize = room_len(sealed_raw(form::V6));
/// Words of a sealed token: the call that it is bound to is as long as its MAC.
const SEALED_WORDS: usize = sealed_raw(form::V6).div_ceil(8);

impl Sealed {
    /// Writes the token into `text` and says how long it is. `call` is [`Keys::call`] of the dialog's Call-ID; a Path
    /// token serves many calls and is not bound to one.
    #[inline]
    pub fn seal(&self, call: u64, keys: &Keys, text: &mut [u8; SEALED_LEN_MAX]) -> usize {
        match self.flow.form() {
            form::V4 => self.seal_as::<{ form::V4 }>(call, keys, text),
            form::V6 => self.seal_as::<{ form::V6 }>(call, keys, text),
            _ => self.seal_as::<{ form::CONNECTION }>(call, keys, text),
        }
    }

    #[inline]
    fn seal_as<const FORM: u8>(&self, call: u64, keys: &Keys, text: &mut [u8; SEALED_LEN_MAX]) -> usize {
        let (id, key) = &keys.seals[keys.seal_with];
        let path = if self.stands_in == SealedIn::Path { SEAL_PATH } else { 0 };
        let flags = FORM | if self.nat { SEAL_NAT } else { 0 };
        let mut raw = Raw::<SEALED_WORDS>::new();
        raw.put(u32::from_be_bytes([0, VERSION | path, *id, flags]).into(), 3);
        raw.put(self.server.0.into(), 4);
        raw.put(self.frontend.0.into(), 4);
        raw.put_flow::<FORM>(&self.flow);
        raw.seal(key, |bound| bound.put(bound_to(self.stands_in, call), 8));
        let len = sealed_raw(FORM);
        encode(&raw.words, &mut text[..room_len(len)]);
        text_len(len)
    }

    /// Reads the user part of a Route or Path URI.
    ///
    /// # Errors
    /// All of [`TokenError`].
    #[inline]
    pub fn open(text: &[u8], call: u64, keys: &Keys) -> Result<Self, TokenError> {
        match text.len() {
            SEALED_V4 => Self::open_as::<{ form::V4 }, SEALED_V4>(text, call, keys),
            SEALED_V6 => Self::open_as::<{ form::V6 }, SEALED_V6>(text, call, keys),
            SEALED_LEN_MIN => Self::open_as::<{ form::CONNECTION }, SEALED_LEN_MIN>(text, call, keys),
            _ => Err(TokenError::Foreign),
        }
    }

    fn open_as<const FORM: u8, const LEN: usize>(text: &[u8], call: u64, keys: &Keys) -> Result<Self, TokenError> {
        let text: &[u8; LEN] = text.try_into().map_err(|_| TokenError::Foreign)?;
        let (words, _) = decode::<SEALED_WORDS>(text).ok_or(TokenError::Foreign)?;
        let mut raw = Raw { words, len: 0 };
        let [_, first, id, flags] = (raw.take(3) as u32).to_be_bytes();
        let stands_in = match first ^ VERSION {
            0 => SealedIn::RecordRoute,
            SEAL_PATH => SealedIn::Path,
            _ => return Err(TokenError::Foreign),
        };
        if flags & !SEAL_NAT != FORM {
            return Err(TokenError::Foreign);
        }
        let (_, key) = keys.seals.iter().find(|(other, _)| *other == id).ok_or(TokenError::UnknownKey)?;
        let (server, frontend) = (NameHash(raw.take(4) as u32), NameHash(raw.take(4) as u32));
        let flow = raw.take_flow::<FORM>();
        match flow.filter(|_| raw.check_seal(key, |bound| bound.put(bound_to(stands_in, call), 8))) {
            Some(flow) => Ok(Self { stands_in, server, frontend, flow, nat: flags & SEAL_NAT != 0 }),
            None => Err(TokenError::Forged),
        }
    }
}

/// The call that a token's MAC covers: a Path token serves many.
fn bound_to(stands_in: SealedIn, call: u64) -> u64 {
    if stands_in == SealedIn::Path { 0 } else { call }
}

/// What a way is bound to.
#[inline(always)]
fn put_branch<const N: usize>(raw: &mut Raw<N>, branch: &RawBranch) {
    const REST: usize = BRANCH_RAW - 16;
    let [first, second, rest] = branch.raw;
    raw.put(first, 8);
    raw.put(second, 8);
    raw.put(rest >> (64 - 8 * REST), REST);
    raw.put(branch.call, 8);
}

#[cfg(test)]
mod tests;
