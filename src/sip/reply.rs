//! Messages made from nothing: answers of our own (RFC 3261 §8.2.6, as a stateless server §8.2.7) and OPTIONS checks.

use std::net::SocketAddr;

use super::Transport;
use super::edit::Edits;
use super::message::{Message, Method};
use super::name::Name;
use super::text::Text;
use super::token::TAG_LEN;
use super::via::COOKIE;

/// An answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub reason: &'static str,
    /// The To tag where the request has none.
    pub tag: [u8; TAG_LEN],
    pub extra: Extra,
}

/// What an answer carries beside the headers that it copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    None,
    /// What we can do: 200 to OPTIONS (RFC 3261 §11.2).
    Capabilities,
    /// The option tags of Proxy-Require: 420 (RFC 3261 §16.3 item 5).
    Unsupported,
}

const CAPABILITIES: &[u8] = b"Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REGISTER, SUBSCRIBE, NOTIFY, PUBLISH, MESSAGE, REFER, INFO, UPDATE, PRACK\r\nAccept: application/sdp\r\n";

/// Whether a Proxy-Require asks what we do anyway. `gin` (RFC 6140): Path on the REGISTER, and its Contact untouched. `privacy`
/// (RFC 3323, RFC 3325): whoever hides the caller is the server that we bring the request to, whole.
pub fn is_understood(tag: &[u8]) -> bool {
    [&b"gin"[..], b"privacy"].iter().any(|known| tag.eq_ignore_ascii_case(known))
}

impl Answer {
    /// Writes the answer to `request` into `out`; `stamps` are the changes to its top Via (`received`, `rport`).
    /// `None` where it does not fit or the request lacks what an answer copies.
    pub fn write(&self, request: &[u8], message: &Message, stamps: &Edits, out: &mut [u8]) -> Option<usize> {
        let (from, to, call_id, cseq) =
            (message.from(request)?, message.to(request)?, message.call_id?, message.cseq_text(request)?);
        let mut out = Out { bytes: out, len: 0 };
        out.put(b"SIP/2.0 ")?.put(Text::<16>::number(u32::from(self.status)).as_bytes())?;
        out.put(b" ")?.put(self.reason.as_bytes())?.put(b"\r\n")?;
        for line in message.lines(Name::Via) {
            out.len += stamps.copy(request, line.span, &mut out.bytes[out.len..])?;
        }
        out.put(b"From: ")?.put(from.of(request))?.put(b"\r\nTo: ")?.put(to.of(request))?;
        if message.to_tag(request).is_none() {
            out.put(b";tag=")?.put(&self.tag)?;
        }
        out.put(b"\r\nCall-ID: ")?.put(call_id.of(request))?.put(b"\r\nCSeq: ")?;
        out.put(cseq.of(request))?.put(b"\r\n")?;
        match self.extra {
            Extra::None => {}
            // They are a SHOULD, and would make a reflector of us for whoever asks in fewer bytes than they have.
            Extra::Capabilities if request.len() < CAPABILITIES.len() => {}
            Extra::Capabilities => {
                out.put(CAPABILITIES)?;
            }
            Extra::Unsupported => {
                // In one line: a header for each tag would make the answer many times as long as what it answers.
                let mut before: &[u8] = b"Unsupported: ";
                let tags = message.values(request, Name::ProxyRequire).map(|tag| tag.span.of(request));
                for tag in tags.filter(|tag| !is_understood(tag)) {
                    out.put(before)?.put(tag)?;
                    before = b",";
                }
                out.put(b"\r\n")?;
            }
        }
        out.put(b"Content-Length: 0\r\n\r\n")?;
        Some(out.len)
    }
}

/// An OPTIONS check of one server (RFC 3261 §11; fresh identifiers for each check).
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub transport: Transport,
    pub server: SocketAddr,
    /// The address that it is really sent from.
    pub local: SocketAddr,
    /// Makes branch, Call-ID and tag of this probe unlike any other's.
    pub nonce: u64,
    pub max_forwards: u8,
}

impl Probe {
    /// The request. No user part: a server answers for itself.
    pub fn write(&self) -> Vec<u8> {
        let (server, local) = (Text::host_port(self.server), Text::host_port(self.local));
        let (server, local) = (String::from_utf8_lossy(server.as_bytes()), String::from_utf8_lossy(local.as_bytes()));
        let Self { nonce, max_forwards, transport, .. } = self;
        let (via, uri) = (transport.in_via(), transport.in_uri());
        let cookie = String::from_utf8_lossy(COOKIE);
        format!(
            "OPTIONS sip:{server}{uri} SIP/2.0\r\n\
             Via: SIP/2.0/{via} {local};branch={cookie}{nonce:016x};rport\r\n\
             Max-Forwards: {max_forwards}\r\n\
             From: <sip:trunkline@{local}>;tag={nonce:016x}\r\n\
             To: <sip:{server}>\r\n\
             Call-ID: {nonce:016x}@trunkline\r\n\
             CSeq: 1 OPTIONS\r\n\
             Contact: <sip:trunkline@{local}{uri}>\r\n\
             Accept: application/sdp\r\n\
             User-Agent: trunkline\r\n\
             Content-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    /// The status of a datagram if it is an answer to this probe: its Call-ID, CSeq and branch (RFC 3261 §17.1.3).
    pub fn answer(&self, datagram: &[u8]) -> Option<u16> {
        let message = Message::parse(datagram).ok()?;
        let status = message.status()?;
        let is_nonce = |text: &[u8]| text == format!("{:016x}", self.nonce).as_bytes();
        let cseq = message.cseq?;
        let ours = cseq.number == 1
            && cseq.method == Method::Options
            && message.via?.branch_id(datagram).is_some_and(is_nonce)
            && message.call_id?.of(datagram).strip_suffix(b"@trunkline").is_some_and(is_nonce);
        ours.then_some(status)
    }
}

struct Out<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Out<'_> {
    fn put(&mut self, text: &[u8]) -> Option<&mut Self> {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end)?.copy_from_slice(text);
        self.len = end;
        Some(self)
    }
}
