//! Health checks: OPTIONS to each server, from a socket of its own, or by a connection of its own (docs/rules.md 33 to 35).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::host;
use super::stream::serve as stream;
use super::tls::Tls;
use super::udp::clock;
use crate::config::{Check, CheckKind, HttpCheck};
use crate::sip::framing::{Frame, Framing};
use crate::sip::header::number;
use crate::sip::name::Name;
use crate::sip::proxy_protocol::{self, Version};
use crate::sip::reply::Probe;
use crate::sip::token::NameHash;
use crate::sip::{MAX_MESSAGE, Message, Transport};
use crate::state::health::{self, Monitor, Outcome, Transition};
use crate::state::records::Checked;
use crate::state::server::{Health, Sign};

/// RFC 3261's T1 and its doubling, inside the check's timeout.
const RETRANSMIT: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(2000)];

/// So much of an answer of HTTP is searched for its text, and so long may its first line be.
const MOST_OF_ANSWER: usize = 64 * 1024;
const MOST_OF_STATUS_LINE: usize = 4096;

/// Signs that may wait; one of each kind is all there is between two looks.
const SIGNS: usize = 4;

/// One server to be checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub id: NameHash,
    /// "backend/server".
    pub name: String,
    pub transport: Transport,
    pub address: SocketAddr,
    /// Who it must be, where it is tls://, and the backend whose TLS is asked for.
    pub tls: Option<(ServerName<'static>, String)>,
    /// How long a connection may take.
    pub connect: Duration,
    /// Which header of the PROXY protocol it expects.
    pub send_proxy: Option<Version>,
    /// What servers see of us; used where it is on this node.
    pub inside: Option<IpAddr>,
    pub check: Check,
    /// Spreads the first checks of many servers over the interval, and makes identifiers unlike those of another node.
    pub seed: u64,
}

/// What is new of a server: a check ended, its state changed, or both.
#[derive(Clone, Copy, Debug)]
pub struct News {
    pub id: NameHash,
    pub checked: Option<Checked>,
    pub transition: Option<Transition>,
}

/// A server's running check.
pub struct Checker {
    target: watch::Sender<Target>,
    signs: mpsc::Sender<Sign>,
    task: JoinHandle<()>,
}

impl Checker {
    /// Starts checking a server that is known to be in this health; what is new goes to `news`.
    pub fn start(target: Target, health: Health, tls: Arc<Tls>, news: mpsc::Sender<News>) -> Self {
        let (signs, received) = mpsc::channel(SIGNS);
        let (target, targets) = watch::channel(target);
        let task = tokio::spawn(check(targets, health, tls, received, news));
        Self { target, signs, task }
    }

    /// Goes on with another address or other times: what is known of the server stays, its rest too.
    pub fn change(&self, target: Target) {
        self.target.send_if_modified(|before| std::mem::replace(before, target.clone()) != target);
    }

    /// A worker saw something: the server is checked at once.
    pub fn sign(&self, sign: Sign) {
        // Full means that the same was said a moment ago.
        let _ = self.signs.try_send(sign);
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks one server for ever. Checks run start to start.
async fn check(
    mut targets: watch::Receiver<Target>,
    health: Health,
    tls: Arc<Tls>,
    mut signs: mpsc::Receiver<Sign>,
    news: mpsc::Sender<News>,
) {
    let mut monitor = Monitor::new(health);
    let mut nonce = targets.borrow().seed;
    let mut told = String::new();
    let mut start = first(&targets.borrow(), health);
    loop {
        let target = targets.borrow_and_update().clone();
        let check = &target.check;
        let timeout = monitor.next(check).timeout;
        nonce = nonce.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let begin = start;
        let checked = async {
            sleep_until(begin).await;
            probe(&target, &tls, nonce, begin + timeout).await
        };
        tokio::pin!(checked);
        let mut ended = None;
        let transition = loop {
            tokio::select! {
                biased;
                changed = targets.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    start = first(&targets.borrow(), monitor.health());
                    break None;
                }
                sign = signs.recv() => {
                    let Some(sign) = sign else { return };
                    let transition = monitor.sign(sign, clock());
                    // News end a check that may wait for seconds; what is known already does not.
                    if transition.is_some() {
                        start = Instant::now() + monitor.first_check_after(sign);
                        break transition;
                    }
                }
                (outcome, why) = &mut checked => {
                    tell(&target, why, &mut told);
                    let now = clock();
                    ended = outcome.map(|outcome| Checked {
                        outcome,
                        passed: health::passes(outcome, check),
                        at: now,
                        took: begin.elapsed(),
                    });
                    let transition = outcome.and_then(|outcome| monitor.observe(outcome, check, now));
                    start = (start + monitor.next(check).after).max(Instant::now());
                    break transition;
                }
            }
        };
        let is_new = ended.is_some() || transition.is_some();
        if is_new && news.send(News { id: target.id, checked: ended, transition }).await.is_err() {
            return;
        }
    }
}

/// When a check that begins, or begins anew, is made first: within a tenth of the interval, soon but not of all servers at
/// one moment. Of a suspect it must be known.
fn first(target: &Target, health: Health) -> Instant {
    let spread = if health == Health::Suspect { 1 } else { target.check.interval.as_millis() as u64 / 10 + 1 };
    Instant::now() + Duration::from_millis(target.seed % spread)
}

/// Says what stands behind failed checks, once for as long as it is the same.
fn tell(target: &Target, why: String, told: &mut String) {
    // For how many seconds something is wrong is nothing new.
    let text = |why: &str| why.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    if !why.is_empty() && text(&why) != text(told) {
        tracing::warn!(server = target.name, address = %target.address, "check: {why}");
    }
    *told = why;
}

/// One check, and what an error says: an ICMP error, a connection that cannot be opened or that breaks, a certificate. No
/// outcome where it was not asked.
async fn probe(target: &Target, tls: &Tls, nonce: u64, until: Instant) -> (Option<Outcome>, String) {
    let asked = match target.transport {
        Transport::Udp => ask(target, nonce, until).await,
        Transport::Tcp | Transport::Tls => match timeout_at(until, ask_by_connection(target, tls, nonce)).await {
            Ok(asked) => asked,
            Err(_) => Ok(Outcome::Silent),
        },
    };
    match asked {
        Ok(outcome) => (Some(outcome), String::new()),
        // rustls says so of whatever it finds wrong.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => (Some(Outcome::Untrusted), error.to_string()),
        Err(error) if host::has_no_file(&error) => {
            (None, "this process has no open file left for it; raise LimitNOFILE= in the unit".to_owned())
        }
        Err(error) if host::had_no_port(&error) => (
            None,
            format!("this node has no port or no memory left to ask from ({error}); see net.ipv4.ip_local_port_range"),
        ),
        // Nothing that the state would not say.
        Err(_) => (Some(Outcome::Unreachable), String::new()),
    }
}

/// The address that it is asked from: `inside` where that is on this node.
fn source(target: &Target) -> IpAddr {
    let any = if target.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    target.inside.filter(|inside| host::has(*inside)).unwrap_or(any)
}

impl Target {
    fn probe(&self, local: SocketAddr, nonce: u64) -> Probe {
        let Self { transport, address: server, check, .. } = self;
        Probe { transport: *transport, server: *server, local, nonce, max_forwards: check.max_forwards }
    }
}

/// Asks and waits; an error is an ICMP error or a kernel that would not send.
async fn ask(target: &Target, nonce: u64, until: Instant) -> io::Result<Outcome> {
    let socket = UdpSocket::bind((source(target), 0)).await?;
    // Connected: only the probed address is heard, and ICMP errors come back as errors.
    socket.connect(target.address).await?;
    let probe = target.probe(socket.local_addr()?, nonce);
    let request = probe.write();
    let mut datagram = vec![0; MAX_MESSAGE];
    let mut next = Instant::now();
    for wait in RETRANSMIT.into_iter().chain(std::iter::repeat(RETRANSMIT[2])) {
        socket.send(&request).await?;
        next += wait;
        while let Ok(received) = timeout_at(next.min(until), socket.recv(&mut datagram)).await {
            if let Some(outcome) = outcome(&probe, &datagram[..received?]) {
                return Ok(outcome);
            }
        }
        if next >= until {
            break;
        }
    }
    Ok(Outcome::Silent)
}

/// What a message says about the server, if it is a final answer.
fn outcome(probe: &Probe, message: &[u8]) -> Option<Outcome> {
    let status = probe.answer(message).filter(|status| *status >= 200)?;
    Some(Outcome::Answered { status, retry_after: retry_after(message) })
}

/// The same by a connection that is opened for it: a server that lets nobody in any more is found out, too.
async fn ask_by_connection(target: &Target, tls: &Tls, nonce: u64) -> io::Result<Outcome> {
    let opened = stream::open(SocketAddr::new(source(target), 0), target.address, None);
    let mut tcp = timeout(target.connect, opened).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if let Some(version) = target.send_proxy {
        tcp.write_all(&proxy_protocol::write(version, None)).await?;
    }
    let probe = target.probe(tcp.local_addr()?, nonce);
    let Some((name, backend)) = &target.tls else { return converse(tcp, target, &probe).await };
    let config = tls.client_config(backend).ok_or(io::ErrorKind::InvalidData)?;
    let secured = TlsConnector::from(config).connect(name.clone(), tcp).await?;
    converse(secured, target, &probe).await
}

/// What is asked by a connection that is open.
async fn converse(io: impl AsyncRead + AsyncWrite + Unpin, target: &Target, probe: &Probe) -> io::Result<Outcome> {
    match &target.check.kind {
        CheckKind::Options => exchange(io, probe).await,
        CheckKind::Tcp => Ok(Outcome::Connected),
        CheckKind::Http(http) => ask_http(io, http, target.address).await,
    }
}

/// Asks, and reads the answer as far as it is needed: its status, and the text that it must hold.
async fn ask_http(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    HttpCheck { method, path, host, body, .. }: &HttpCheck,
    address: SocketAddr,
) -> io::Result<Outcome> {
    let host = host.clone().unwrap_or_else(|| address.to_string());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Trunkline\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    let mut bytes = Vec::new();
    loop {
        let ended = match io.read_buf(&mut bytes).await {
            Ok(len) => len == 0,
            // What came before a reset, or TLS without its goodbye, is an answer too.
            Err(_) if !bytes.is_empty() => true,
            Err(error) => return Err(error),
        };
        let status = http_status(&bytes);
        let has_text = body.as_ref().is_none_or(|text| memmem::find(&bytes, text.as_bytes()).is_some());
        match status {
            Some(status) if has_text || ended || bytes.len() > MOST_OF_ANSWER => {
                return Ok(Outcome::Http { status, has_text });
            }
            None if ended => return Err(io::ErrorKind::UnexpectedEof.into()),
            // Nobody who speaks HTTP.
            None if bytes.len() > MOST_OF_STATUS_LINE => return Ok(Outcome::Silent),
            _ => {}
        }
    }
}

/// `HTTP/1.1 200 OK`, once the line is whole (RFC 9112 §4).
fn http_status(bytes: &[u8]) -> Option<u16> {
    let line = bytes.strip_prefix(b"HTTP/1.")?;
    memchr::memchr(b'\n', line)?;
    number(line.get(2..5)?)?.try_into().ok()
}

async fn exchange(mut io: impl AsyncRead + AsyncWrite + Unpin, probe: &Probe) -> io::Result<Outcome> {
    io.write_all(&probe.write()).await?;
    io.flush().await?;
    let (mut framing, mut message, mut bytes) = (Framing::default(), Message::default(), Vec::new());
    loop {
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        loop {
            let len = match framing.next(&bytes, &mut message, MAX_MESSAGE) {
                Frame::Message { end } => end,
                Frame::KeepAlive { len, .. } => len,
                Frame::Incomplete => break,
                // Nobody who speaks SIP.
                Frame::TooLarge { .. } | Frame::Broken(_) | Frame::NotSip => return Ok(Outcome::Silent),
            };
            if let Some(outcome) = outcome(probe, &bytes[..len]) {
                return Ok(outcome);
            }
            bytes.drain(..len);
        }
    }
}

/// The seconds of a Retry-After header (RFC 3261 §20.33).
fn retry_after(datagram: &[u8]) -> Option<Duration> {
    let message = Message::parse(datagram).ok()?;
    let value = message.values(datagram, Name::RetryAfter).next()?.span.of(datagram);
    let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
    number(&value[..digits]).map(|seconds| Duration::from_secs(seconds.into()))
}
