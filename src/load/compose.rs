//! Writing requests and responses (RFC 3261 §8.1.1, §8.2.6).

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::ids::BRANCH_MARK;
use crate::sip::name::Name;
use crate::sip::text::{Text, parse_ip};
use crate::sip::{Message, Method, Transport, Via};

/// The methods that are counted by name, in the order of [`method_index`].
pub const METHODS: [&str; 12] = [
    "INVITE",
    "ACK",
    "BYE",
    "CANCEL",
    "REGISTER",
    "OPTIONS",
    "SUBSCRIBE",
    "NOTIFY",
    "PUBLISH",
    "MESSAGE",
    "REFER",
    "other",
];

/// Where a method stands in [`METHODS`].
pub fn method_index(method: Method) -> usize {
    method as usize
}

/// A method's name on the wire.
pub fn method_name(method: Method) -> &'static str {
    METHODS[method_index(method)]
}

/// The header that names the server that answered.
pub const SERVER_HEADER: &[u8] = b"X-Server";

/// What a user agent says of itself in every message.
#[derive(Clone, Debug)]
pub struct Local {
    /// What its messages travel by.
    pub transport: Transport,
    /// Where it says that it is: the Via's sent-by and the Contact's host. Behind NAT not where it is.
    pub sent_by: SocketAddr,
    /// Whether its Via asks for answers to the port they came from (RFC 3581).
    pub rport: bool,
    /// The user part of its Contact.
    pub user: String,
    /// What its responses name as X-Server; clients name nothing.
    pub server: Option<String>,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: Method,
    pub uri: &'a [u8],
    /// The number in the branch.
    pub branch: u64,
    /// Whole Route lines; empty without route set.
    pub routes: &'a [u8],
    /// From's value with its tag.
    pub from: &'a [u8],
    /// To's value, with a tag inside a dialog.
    pub to: &'a [u8],
    pub call_id: &'a [u8],
    pub cseq: u32,
    /// Further whole header lines.
    pub extra: &'a [u8],
    /// An SDP body; empty for none.
    pub body: &'a [u8],
}

impl Request<'_> {
    /// The request alone.
    pub fn bytes(&self, local: &Local) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(local, &mut out);
        out
    }

    /// Writes the request behind what `out` holds.
    pub fn write(&self, local: &Local, out: &mut Vec<u8>) {
        let method = method_name(self.method);
        let rport = if local.rport { ";rport" } else { "" };
        // Writing to memory cannot fail.
        let _ = write!(out, "{method} ");
        out.extend_from_slice(self.uri);
        let (transport, sent_by, branch) = (local.transport.in_via(), local.sent_by, self.branch);
        let _ =
            write!(out, " SIP/2.0\r\nVia: SIP/2.0/{transport} {sent_by};branch={BRANCH_MARK}{branch:016x}{rport}\r\n");
        out.extend_from_slice(self.routes);
        put(out, &[b"Max-Forwards: 70\r\nFrom: ", self.from, b"\r\nTo: ", self.to, b"\r\nCall-ID: ", self.call_id]);
        let _ = write!(out, "\r\nCSeq: {} {method}\r\n", self.cseq);
        if matches!(self.method, Method::Invite | Method::Register | Method::Options) {
            write_contact(local, out);
        }
        put(out, &[b"User-Agent: trunkline-load\r\n", self.extra]);
        write_body(self.body, out);
    }
}

/// A request that came.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub bytes: &'a [u8],
    /// What was read in `bytes`.
    pub message: &'a Message,
    /// Where it came from.
    pub source: SocketAddr,
}

/// One response.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    pub status: u16,
    /// The To tag where the request has none; a 100 gets none.
    pub tag: [u8; 16],
    /// Whether it answers for a dialog: Record-Route is echoed and Contact given (RFC 3261 §12.1.1).
    pub dialog: bool,
    /// Further whole header lines.
    pub extra: &'a [u8],
    pub body: &'a [u8],
}

impl Response<'_> {
    /// One that only says its status.
    pub fn plain(status: u16, tag: [u8; 16]) -> Self {
        Self { status, tag, dialog: false, extra: &[], body: &[] }
    }

    /// Writes the answer to a request behind what `out` holds, and says where it goes (RFC 3261 §18.2.2). `None`, and
    /// nothing written, where the request lacks what an answer copies.
    pub fn write(&self, asked: Asked<'_>, local: &Local, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let Asked { bytes: request, message, source } = asked;
        let via = message.via?;
        let (from, to, call_id, cseq) = (message.from(request)?, message.to(request)?, message.call_id?, message.cseq?);
        let _ = write!(out, "SIP/2.0 {} {}\r\n", self.status, reason(self.status));
        for (n, line) in message.lines(Name::Via).enumerate() {
            match n {
                0 => stamp(request, line.span.of(request), line.span.start as usize, &via, source, out),
                _ => out.extend_from_slice(line.span.of(request)),
            }
        }
        if self.dialog {
            message.lines(Name::RecordRoute).for_each(|line| out.extend_from_slice(line.span.of(request)));
        }
        put(out, &[b"From: ", from.of(request), b"\r\nTo: ", to.of(request)]);
        if message.to_tag(request).is_none() && self.status > 100 {
            put(out, &[b";tag=", &self.tag]);
        }
        put(out, &[b"\r\nCall-ID: ", call_id.of(request), b"\r\nCSeq: "]);
        put(out, &[Text::<16>::number(cseq.number).as_bytes(), b" ", cseq.name.of(request), b"\r\n"]);
        if self.dialog && self.status > 100 {
            write_contact(local, out);
        }
        if let Some(server) = &local.server {
            put(out, &[SERVER_HEADER, b": ", server.as_bytes(), b"\r\n"]);
        }
        out.extend_from_slice(self.extra);
        write_body(self.body, out);
        Some(match local.transport {
            Transport::Udp => answer_address(&via, source),
            // Over the connection that the request came by.
            Transport::Tcp | Transport::Tls => source,
        })
    }
}

/// A session description of about `bytes` bytes, at least that of one audio stream.
pub fn sdp(bytes: usize) -> Vec<u8> {
    let mut body = b"v=0\r\no=load 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
        m=audio 49170 RTP/AVP 8 0 101\r\na=rtpmap:101 telephone-event/8000\r\n"
        .to_vec();
    if bytes > body.len() + "a=pad:\r\n".len() {
        let pad = vec![b'x'; bytes - body.len() - "a=pad:\r\n".len()];
        put(&mut body, &[b"a=pad:", &pad, b"\r\n"]);
    }
    body
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn write_contact(local: &Local, out: &mut Vec<u8>) {
    let Local { transport, sent_by, user, .. } = local;
    let _ = match transport {
        Transport::Udp => write!(out, "Contact: <sip:{user}@{sent_by}>\r\n"),
        stream => write!(out, "Contact: <sip:{user}@{sent_by};transport={}>\r\n", stream.name()),
    };
}

fn write_body(body: &[u8], out: &mut Vec<u8>) {
    if !body.is_empty() {
        out.extend_from_slice(b"Content-Type: application/sdp\r\n");
    }
    let _ = write!(out, "Content-Length: {}\r\n\r\n", body.len());
    out.extend_from_slice(body);
}

/// Copies the top Via's line with `rport` filled where asked for and `received` where the source is not sent-by
/// (RFC 3261 §18.2.1, RFC 3581 §4). `start` is where `line` begins in the request.
fn stamp(request: &[u8], line: &[u8], start: usize, via: &Via, source: SocketAddr, out: &mut Vec<u8>) {
    let (mut at, end) = (start, start + line.len());
    let asked = via.rport.filter(|rport| rport.value.is_none());
    if let Some(rport) = asked {
        put(out, &[&request[at..rport.name.end as usize], b"=", Text::<16>::number(source.port().into()).as_bytes()]);
        at = rport.name.end as usize;
    }
    let behind = via.parm.end as usize;
    out.extend_from_slice(&request[at..behind]);
    if via.received.is_none() && (asked.is_some() || !via.is_sent_by(request, source.ip())) {
        put(out, &[b";received=", Text::<48>::ip(source.ip()).as_bytes()]);
    }
    out.extend_from_slice(&request[behind..end]);
}

/// Where the answer to a datagram from `source` with this top Via goes (RFC 3261 §18.2.2, RFC 3581 §4).
fn answer_address(via: &Via, source: SocketAddr) -> SocketAddr {
    match via.rport {
        Some(_) => source,
        None => SocketAddr::new(source.ip(), via.sent_by_port()),
    }
}

/// The address that a URI's host names; `None` for a name.
pub fn address_of(bytes: &[u8], uri: &crate::sip::Uri) -> Option<SocketAddr> {
    let ip: IpAddr = parse_ip(uri.host.of(bytes))?;
    Some(SocketAddr::new(ip, uri.port_or_default(bytes)))
}

/// The reason phrase of a status; for those that are made here.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        420 => "Bad Extension",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        491 => "Request Pending",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        _ => "As Asked",
    }
}
