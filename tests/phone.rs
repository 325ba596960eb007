//! Real phones (baresip) that register over TLS, are called over the connections that they opened, and call.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use support::netns::Namespace;
use support::pki::Pki;
use support::process::{Balancer, Process, is_bound, wait_for};
use support::regions::{DOMAIN, Net, SERVERS, answer_over, stop};
use tempfile::TempDir;
use trunkline::load::{AnswerReport, Answerer, AnswererOptions, Manner};
use trunkline::sip::Transport;

const WORKERS: usize = 4;
const PHONES: usize = 4;

/// Five servers and the balancer on one host, the phones on another.
struct Stage {
    home: Namespace,
    at: SocketAddr,
    servers: Answerer,
    balancer: Balancer,
    pki: Pki,
    // The hosts go last: in them everything else runs.
    _edge: Namespace,
}

impl Stage {
    fn new(name: &str, inside: Transport, manner: Manner) -> Self {
        let home = Namespace::new(&format!("{name}-home"), &[]);
        let link = format!("link add eth0 type veth peer name eth0 netns {}", home.name);
        let edge =
            Namespace::new(&format!("{name}-edge"), &[&link, "addr add 10.0.0.1/24 dev eth0", "link set eth0 up"]);
        home.ip("addr add 10.0.0.9/24 dev eth0");
        home.ip("link set eth0 up");
        let (net, pki, at) = (Net(63), Pki::new(), "10.0.0.1:5061".parse().unwrap());
        pki.put(&pki.path("sip.pem"), &pki.pem("sip", &format!("DNS:{DOMAIN}")));
        let (servers, balancer) = edge.enter(|| {
            let addresses = net.servers();
            let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
            let servers = answer_over(inside, &named, AnswererOptions { manner, ..AnswererOptions::default() });
            let mut config = format!(
                "[[frontend]]\nname = \"sips\"\nbind = \"tls://{at}\"\ninside = \"{}\"\naliases = [\"{DOMAIN}\"]\n\
                 backend = \"pbx\"\n[frontend.tls]\ncertificates = {:?}\n[[backend]]\nname = \"pbx\"\n",
                net.ip(2),
                pki.path("sip.pem")
            );
            for (name, address) in &named {
                let address = format!("{}://{address}", inside.name());
                config += &format!("[[backend.server]]\nname = \"{name}\"\naddress = \"{address}\"\n");
            }
            (servers, Balancer::start(WORKERS, &config))
        });
        Self { home, at, servers, balancer, pki, _edge: edge }
    }

    fn registrations(&self) -> u64 {
        self.servers.servers().iter().map(|server| server.counters.registrations.get()).sum()
    }

    /// Phones that believe our authority, all of them registered.
    fn phones(&self) -> Vec<Phone> {
        let phones = (0..PHONES).map(|number| Phone::start(self, number, &self.pki.path("root.ca"))).collect();
        wait_for("the phones to register", || self.registrations() == PHONES as u64);
        phones
    }

    fn end(self) -> AnswerReport {
        let answered = stop(self.servers);
        self.balancer.stop();
        answered
    }
}

/// A baresip without sound card, which answers at once.
struct Phone {
    process: Process,
    /// What it is told to do, and what it says of it: JSON in netstrings.
    control: TcpStream,
    unread: Vec<u8>,
    heard: Vec<String>,
    _folder: TempDir,
}

impl Phone {
    fn start(stage: &Stage, number: usize, authority: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let control = SocketAddr::from(([127, 0, 0, 1], 4440 + number as u16));
        write(
            "config",
            &format!(
                "sip_listen 10.0.0.9:0\nsip_cafile {}\nctrl_tcp_listen {control}\nmodule_path /usr/lib/baresip/modules\n\
                 audio_player aubridge,call\naudio_source aubridge,call\naudio_alert aubridge,alert\n\
                 module g711.so\nmodule aubridge.so\nmodule_app account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n",
                authority.display()
            ),
        );
        let proxy = format!("outbound=\"sip:{};transport=tls\"", stage.at);
        let account =
            format!("<sip:phone-{number}@{DOMAIN};transport=tls>;{proxy};auth_pass=none;answermode=auto;regint=600\n");
        write("accounts", &account);
        write("contacts", "");
        // Version 1.0 believes whoever it meets: it reads the authority and never asks OpenSSL to verify.
        write("openssl.cnf", "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nVerifyMode = Peer\n");
        let mut command = stage.home.command("baresip");
        command.arg("-4").arg("-f").arg(folder.path()).env("OPENSSL_CONF", folder.path().join("openssl.cnf"));
        let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let control = stage.home.enter(|| {
            wait_for("baresip to listen", || is_bound(control));
            TcpStream::connect(control).unwrap()
        });
        control.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        Self { process, control, unread: Vec::new(), heard: Vec::new(), _folder: folder }
    }

    fn tell(&mut self, command: &str, params: &str) {
        let json = format!("{{\"command\":\"{command}\",\"params\":\"{params}\"}}");
        write!(self.control, "{}:{json},", json.len()).unwrap();
    }

    /// How often it has said something with this text.
    fn count(&mut self, text: &str) -> usize {
        let mut room = [0; 4096];
        match self.control.read(&mut room) {
            Ok(read) => self.unread.extend_from_slice(&room[..read]),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}"),
        }
        while let Some(colon) = self.unread.iter().position(|byte| *byte == b':') {
            let length: usize = std::str::from_utf8(&self.unread[..colon]).unwrap().parse().unwrap();
            let whole = colon + 1 + length + 1;
            if self.unread.len() < whole {
                break;
            }
            let json = self.unread.drain(..whole).collect::<Vec<_>>();
            self.heard.push(String::from_utf8_lossy(&json[colon + 1..whole - 1]).into_owned());
        }
        self.heard.iter().filter(|heard| heard.contains(text)).count()
    }

    /// Talks until one of both rings off.
    fn talk(&mut self, calls: usize, phone_rings_off: bool) {
        wait_for("the call to be established", || self.count(ESTABLISHED) == calls);
        if phone_rings_off {
            self.tell("hangup", "");
        }
        wait_for("the call to end", || self.count(CLOSED) == calls);
        let end = self.heard.iter().rfind(|heard| heard.contains(CLOSED)).unwrap();
        let by = if phone_rings_off { "reset by user" } else { "reset by peer" };
        assert!(end.contains(by), "not {by}: {end}");
    }

    /// Connections that were opened and accepted on the phones' host.
    fn connections(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(format!("/proc/{}/net/snmp", self.process.child.id())).unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let value = |wanted: &str| names.clone().zip(values.clone()).find(|(name, _)| *name == wanted).unwrap().1;
        (value("ActiveOpens").parse().unwrap(), value("PassiveOpens").parse().unwrap())
    }

    /// Ends it in order.
    fn quit(mut self) {
        self.tell("quit", "");
        assert_eq!(self.process.end().0, Some(0));
    }
}

const ESTABLISHED: &str = "\"type\":\"CALL_ESTABLISHED\"";
const CLOSED: &str = "\"type\":\"CALL_CLOSED\"";

/// Each phone is called twice, one call after the other: a server rings off its first call, the phone the next, and so on.
/// Then each phone calls. All of it takes the connections that the phones opened, although they listen.
fn phones_are_called_and_call(name: &str, inside: Transport, server_rings_off: bool) {
    let manner = Manner {
        hold: Duration::from_millis(300),
        bye_share: if server_rings_off { 1.0 } else { 0.0 },
        ..Manner::default()
    };
    let stage = Stage::new(name, inside, manner);
    let mut phones = stage.phones();
    let mut talks = [0; PHONES];
    for server in stage.servers.servers() {
        for call in 0..2 * server.counters.registrations.get() {
            server.call_back(1);
            let mut called = None;
            wait_for("a phone to be called", || {
                let mut each = phones.iter_mut().zip(talks);
                called = each.position(|(phone, before)| phone.count(ESTABLISHED) > before);
                called.is_some()
            });
            let called = called.unwrap();
            talks[called] += 1;
            phones[called].talk(talks[called], call % 2 == 1);
        }
    }
    assert_eq!(talks, [2; PHONES]);
    for phone in &mut phones {
        phone.tell("dial", &format!("sip:service@{DOMAIN}"));
        phone.talk(3, !server_rings_off);
    }
    // One of each phone to the balancer, and one of each that we control it by.
    assert_eq!(phones[0].connections(), (2 * PHONES as u64, PHONES as u64));
    phones.into_iter().for_each(Phone::quit);
    wait_for("the phones to unregister", || stage.registrations() == 0);
    let answered = stage.end();
    assert!(answered.succeeded(), "{answered}");
    let (incoming, call_backs) = answered.totals();
    let all = PHONES as u64;
    assert_eq!((incoming.answered, call_backs.started, call_backs.answered), (all, 2 * all, 2 * all), "{answered}");
}

#[test]
fn phones_over_tls_before_udp_servers() {
    phones_are_called_and_call("phone-udp", Transport::Udp, false);
}

#[test]
fn phones_over_tls_before_tcp_servers() {
    phones_are_called_and_call("phone-tcp", Transport::Tcp, true);
}

#[test]
fn a_phone_that_does_not_believe_our_certificate_does_not_register() {
    let stage = Stage::new("phone-wary", Transport::Udp, Manner::default());
    stage.pki.authority("other", None);
    let mut wary = Phone::start(&stage, PHONES, &stage.pki.path("other.ca"));
    let phones = stage.phones();
    wait_for("the wary one to give up", || {
        wary.tell("reginfo", "");
        wary.count("ERR") > 0
    });
    assert_eq!(stage.registrations(), PHONES as u64);
    phones.into_iter().for_each(Phone::quit);
    drop(wary);
    stage.end();
}
