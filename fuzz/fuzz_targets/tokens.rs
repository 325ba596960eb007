//! Tokens: what was sealed opens as it was; what opens, whatever was done to it, is what sealing it again gives.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use trunkline::sip::token::{
    BRANCH_LEN, Branch, RawBranch, Direction, Keys, NameHash, SEALED_LEN_MAX, SealKey, Sealed, SealedIn, SendTime,
    WAY_LEN_MAX, Way,
};
use trunkline::sip::{ConnectionId, FlowToken};

/// Bytes that become values; zeros where they end.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let len = self.0.len().min(N);
        taken[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn address(&mut self, v6: bool) -> SocketAddr {
        let ip: IpAddr = if v6 { self.take::<16>().into() } else { self.take::<4>().into() };
        SocketAddr::new(ip, u16::from_be_bytes(self.take()))
    }

    fn flow(&mut self, connection: bool, v6: bool) -> FlowToken {
        match ConnectionId::from_bits(u64::from_be_bytes(self.take())).filter(|_| connection) {
            Some(connection) => FlowToken::Connection(connection),
            None => FlowToken::Ends { local: self.address(v6), remote: self.address(v6) },
        }
    }

    fn name(&mut self) -> NameHash {
        NameHash(u32::from_be_bytes(self.take()))
    }
}

/// Changes the text as the source says; what is left of the source is no part of it.
fn damage(text: &[u8], source: &mut Source<'_>) -> Vec<u8> {
    let mut text = text.to_vec();
    for _ in 0..source.byte() % 4 {
        let [at, with] = source.take();
        let at = usize::from(at) % (text.len() + 1);
        match with % 4 {
            0 if at < text.len() => text[at] = with,
            1 if at < text.len() => text[at] ^= 0x20,
            2 => text.truncate(at),
            _ => text.insert(at, b'a' + with % 26),
        }
    }
    text
}

fn keys() -> Keys {
    Keys::new([7; 16], &[SealKey { id: 3, secret: [9; 16] }], 3).expect("the key is there")
}

/// Says what the branch's text says, for the way beside it.
fn branch(source: &mut Source<'_>, keys: &Keys) -> RawBranch {
    let direction = if source.byte() % 2 == 0 { Direction::ToServer } else { Direction::ToClient };
    let branch = Branch { direction, server: source.name(), transaction: u64::from_be_bytes(source.take()) };
    let call = u64::from_be_bytes(source.take());
    let (text, mac) = branch.seal(call, keys);
    assert_eq!(Branch::open(&text, call, keys), Ok((branch, mac)));
    assert!(Branch::open(&text, call ^ 1, keys).is_err());
    let damaged = damage(&text, source);
    if let Ok((opened, _)) = Branch::open(&damaged, call, keys) {
        assert!(damaged.len() == BRANCH_LEN && opened.seal(call, keys).0.eq_ignore_ascii_case(&damaged));
        assert!(damaged.eq_ignore_ascii_case(&text), "nobody forges a MAC in four steps");
    }
    mac
}

fn way(source: &mut Source<'_>, keys: &Keys, mac: RawBranch) {
    let flags = source.byte();
    let v6 = flags & 1 != 0;
    let stick = (flags & 2 != 0).then(|| u64::from_be_bytes(source.take()));
    let way = Way { frontend: source.name(), flow: source.flow(flags & 4 != 0, v6), stick };
    let seal = |way: &Way| {
        let mut text = [0; WAY_LEN_MAX];
        let len = way.seal(&mac, keys, &mut text);
        text[..len].to_vec()
    };
    assert_eq!(Way::open(&seal(&way), &mac, keys), Ok(way));
    let damaged = damage(&seal(&way), source);
    if let Ok(opened) = Way::open(&damaged, &mac, keys) {
        assert!(seal(&opened).eq_ignore_ascii_case(&damaged) && opened == way);
    }
}

fn sealed(source: &mut Source<'_>, keys: &Keys) {
    let (flags, call) = (source.byte(), u64::from_be_bytes(source.take()));
    let v6 = flags & 1 != 0;
    let sealed = Sealed {
        stands_in: if flags & 2 == 0 { SealedIn::RecordRoute } else { SealedIn::Path },
        nat: flags & 4 != 0,
        server: source.name(),
        frontend: source.name(),
        flow: source.flow(flags & 8 != 0, v6),
    };
    let seal = |sealed: &Sealed| {
        let mut text = [0; SEALED_LEN_MAX];
        let len = sealed.seal(call, keys, &mut text);
        text[..len].to_vec()
    };
    assert_eq!(Sealed::open(&seal(&sealed), call, keys), Ok(sealed));
    let other = Sealed::open(&seal(&sealed), call ^ 1, keys);
    assert_eq!(other.is_ok(), sealed.stands_in == SealedIn::Path);
    let damaged = damage(&seal(&sealed), source);
    if let Ok(opened) = Sealed::open(&damaged, call, keys) {
        assert!(seal(&opened).eq_ignore_ascii_case(&damaged) && opened == sealed);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let keys = keys();
    let mut source = Source(bytes);
    let mac = branch(&mut source, &keys);
    way(&mut source, &keys, mac);
    sealed(&mut source, &keys);
    let [opens] = source.take();
    let (node, micros) = (u16::from_be_bytes(source.take()), u64::from_be_bytes(source.take()) >> 17);
    let time = SendTime { node, opens: opens & 1 == 1, micros };
    assert_eq!(SendTime::read(&time.write()), Some(time));
    // And any text, as it came.
    for text in [bytes, source.0] {
        let _ = (Branch::open(text, 0, &keys), Way::open(text, &mac, &keys), Sealed::open(text, 0, &keys));
        if let Some(time) = SendTime::read(text) {
            assert!(time.write().eq_ignore_ascii_case(text));
        }
    }
});
