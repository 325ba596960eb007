//! Bytes of a token as words, and their MAC.

use std::net::{IpAddr, SocketAddr};

use super::{ConnectionId, FlowToken, MAC_LEN, flow_raw, form};
use crate::sip::siphash::SipHash;

/// A token before it is text: bytes as words, the first byte on top, written and read from the front. Where the compiler
/// knows what stands where, all of it lives in registers.
#[derive(Clone, Copy)]
pub struct Raw<const N: usize> {
    pub words: [u64; N],
    /// How many bytes were written or read.
    pub len: usize,
}

impl<const N: usize> Raw<N> {
    #[inline(always)]
    pub fn new() -> Self {
        Self { words: [0; N], len: 0 }
    }

    /// Appends the lowest `bytes` bytes of a value that has no others.
    #[inline(always)]
    pub fn put(&mut self, value: u64, bytes: usize) {
        let (at, used) = (self.len / 8, 8 * (self.len % 8));
        let value = value << (64 - 8 * bytes);
        self.words[at] |= value >> used;
        if used + 8 * bytes > 64 {
            self.words[at + 1] |= value << (64 - used);
        }
        self.len += bytes;
    }

    #[inline(always)]
    pub fn put_flow<const FORM: u8>(&mut self, flow: &FlowToken) {
        match (FORM, flow) {
            (form::V4, FlowToken::Ends { local, remote }) => {
                self.put_address::<false>(local);
                self.put_address::<false>(remote);
            }
            (form::V6, FlowToken::Ends { local, remote }) => {
                self.put_address::<true>(local);
                self.put_address::<true>(remote);
            }
            (form::CONNECTION, FlowToken::Connection(connection)) => self.put(connection.bits(), 8),
            // The form is the flow's own; of every form the compiler knows the length.
            _ => self.len += flow_raw(FORM),
        }
    }

    #[inline(always)]
    fn put_address<const V6: bool>(&mut self, address: &SocketAddr) {
        match (V6, address.ip()) {
            (false, IpAddr::V4(ip)) => self.put(ip.to_bits().into(), 4),
            (true, IpAddr::V6(ip)) => self.put_v6(ip.to_bits()),
            (true, IpAddr::V4(ip)) => self.put_v6(ip.to_ipv6_mapped().to_bits()),
            // A flow has two ends of one family.
            (false, IpAddr::V6(_)) => self.put(0, 4),
        }
        self.put(address.port().into(), 2);
    }

    #[inline(always)]
    fn put_v6(&mut self, ip: u128) {
        self.put((ip >> 64) as u64, 8);
        self.put(ip as u64, 8);
    }

    /// The next `bytes` bytes.
    #[inline(always)]
    pub fn take(&mut self, bytes: usize) -> u64 {
        let (at, used) = (self.len / 8, 8 * (self.len % 8));
        let mut value = self.words[at] << used;
        if used + 8 * bytes > 64 {
            value |= self.words[at + 1] >> (64 - used);
        }
        self.len += bytes;
        value >> (64 - 8 * bytes)
    }

    /// `None` where a connection's number is none.
    #[inline(always)]
    pub fn take_flow<const FORM: u8>(&mut self) -> Option<FlowToken> {
        match FORM {
            form::V4 => {
                Some(FlowToken::Ends { local: self.take_address::<false>(), remote: self.take_address::<false>() })
            }
            form::V6 => {
                Some(FlowToken::Ends { local: self.take_address::<true>(), remote: self.take_address::<true>() })
            }
            _ => ConnectionId::from_bits(self.take(8)).map(FlowToken::Connection),
        }
    }

    #[inline(always)]
    fn take_address<const V6: bool>(&mut self) -> SocketAddr {
        let ip = match V6 {
            false => IpAddr::from((self.take(4) as u32).to_be_bytes()),
            true => IpAddr::from((u128::from(self.take(8)) << 64 | u128::from(self.take(8))).to_be_bytes()),
        };
        SocketAddr::new(ip, self.take(2) as u16)
    }

    /// The MAC of what was written and of what `bind` writes behind it.
    #[inline(always)]
    fn mac(mut self, key: &SipHash, bind: impl FnOnce(&mut Self)) -> u64 {
        bind(&mut self);
        key.hash_words(&self.words, self.len)
    }

    /// Puts the MAC behind what was written.
    #[inline(always)]
    pub fn seal(&mut self, key: &SipHash, bind: impl FnOnce(&mut Self)) {
        self.put(self.mac(key, bind), MAC_LEN);
    }

    /// Whether the MAC that stands behind what was read is the right one.
    #[inline(always)]
    pub fn check_seal(mut self, key: &SipHash, bind: impl FnOnce(&mut Self)) -> bool {
        let body = self.len;
        let mac = self.take(MAC_LEN);
        self.words[body / 8] &= !(u64::MAX >> (8 * (body % 8)));
        self.words[body / 8 + 1..].fill(0);
        self.len = body;
        self.mac(key, bind) == mac
    }
}
