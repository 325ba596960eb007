//! Health checks: OPTIONS to each server, from a socket of its own (docs/rules.md 33 to 35).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::host;
use super::udp::clock;
use crate::config::Check;
use crate::sip::header::number;
use crate::sip::name::Name;
use crate::sip::reply::Probe;
use crate::sip::token::NameHash;
use crate::sip::{MAX_MESSAGE, Message};
use crate::state::health::{Monitor, Outcome, Transition};
use crate::state::server::{Health, Sign};

/// RFC 3261's T1 and its doubling, inside the check's timeout.
const RETRANSMIT: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(2000)];

/// Signs that may wait; one of each kind is all there is between two looks.
const SIGNS: usize = 4;

/// One server to be checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub id: NameHash,
    pub address: SocketAddr,
    /// What servers see of us; used where it is on this node.
    pub inside: Option<IpAddr>,
    pub check: Check,
    /// Spreads the first checks of many servers over the interval, and makes identifiers unlike those of another node.
    pub seed: u64,
}

/// A state change of a server.
#[derive(Clone, Copy, Debug)]
pub struct Changed {
    pub id: NameHash,
    pub transition: Transition,
}

/// A server's running check.
pub struct Checker {
    target: Target,
    signs: mpsc::Sender<Sign>,
    task: JoinHandle<()>,
}

impl Checker {
    /// Starts checking a server that is known to be in this health; state changes go to `changes`.
    pub fn start(target: Target, health: Health, changes: mpsc::Sender<Changed>) -> Self {
        let (signs, received) = mpsc::channel(SIGNS);
        let task = tokio::spawn(watch(target.clone(), health, received, changes));
        Self { target, signs, task }
    }

    /// What is checked.
    pub fn target(&self) -> &Target {
        &self.target
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
async fn watch(target: Target, health: Health, mut signs: mpsc::Receiver<Sign>, changes: mpsc::Sender<Changed>) {
    let check = &target.check;
    let mut monitor = Monitor::new(health);
    let mut nonce = target.seed;
    // A tenth of the interval: soon after start, but not all servers at one moment. Of a suspect it must be known.
    let spread = if health == Health::Suspect { 1 } else { check.interval.as_millis() as u64 / 10 + 1 };
    let mut start = Instant::now() + Duration::from_millis(target.seed % spread);
    loop {
        let timeout = monitor.next(check).timeout;
        nonce = nonce.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let begin = start;
        let checked = async {
            sleep_until(begin).await;
            probe(&target, nonce, begin + timeout).await
        };
        tokio::pin!(checked);
        let transition = loop {
            tokio::select! {
                biased;
                sign = signs.recv() => {
                    let Some(sign) = sign else { return };
                    let transition = monitor.sign(sign, clock());
                    // News end a check that may wait for seconds; what is known already does not.
                    if transition.is_some() {
                        start = Instant::now() + monitor.first_check_after(sign);
                        break transition;
                    }
                }
                outcome = &mut checked => {
                    let transition = monitor.observe(outcome, check, clock());
                    start = (start + monitor.next(check).after).max(Instant::now());
                    break transition;
                }
            }
        };
        if let Some(transition) = transition
            && changes.send(Changed { id: target.id, transition }).await.is_err()
        {
            return;
        }
    }
}

/// One check.
async fn probe(target: &Target, nonce: u64, until: Instant) -> Outcome {
    match ask(target, nonce, until).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Unreachable,
    }
}

/// Asks and waits; an error is an ICMP error or a kernel that would not send.
async fn ask(target: &Target, nonce: u64, until: Instant) -> io::Result<Outcome> {
    let any: IpAddr =
        if target.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = target.inside.filter(|inside| host::has(*inside)).unwrap_or(any);
    let socket = UdpSocket::bind((source, 0)).await?;
    // Connected: only the probed address is heard, and ICMP errors come back as errors.
    socket.connect(target.address).await?;
    let probe =
        Probe { server: target.address, local: socket.local_addr()?, nonce, max_forwards: target.check.max_forwards };
    let request = probe.write();
    let mut datagram = vec![0; MAX_MESSAGE];
    let mut next = Instant::now();
    for wait in RETRANSMIT.into_iter().chain(std::iter::repeat(RETRANSMIT[2])) {
        socket.send(&request).await?;
        next += wait;
        while let Ok(received) = timeout_at(next.min(until), socket.recv(&mut datagram)).await {
            let datagram = &datagram[..received?];
            if let Some(status) = probe.answer(datagram).filter(|status| *status >= 200) {
                return Ok(Outcome::Answered { status, retry_after: retry_after(datagram) });
            }
        }
        if next >= until {
            break;
        }
    }
    Ok(Outcome::Silent)
}

/// The seconds of a Retry-After header (RFC 3261 §20.33).
fn retry_after(datagram: &[u8]) -> Option<Duration> {
    let message = Message::parse(datagram).ok()?;
    let value = message.values(datagram, Name::RetryAfter).next()?.span.of(datagram);
    let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
    number(&value[..digits]).map(|seconds| Duration::from_secs(seconds.into()))
}
