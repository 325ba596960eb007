//! SIP over TLS by the real process: what `openssl s_client` is shown, and what its messages meet.

mod support;

use std::fs;
use std::net::SocketAddr;

use nix::sys::signal::Signal;
use support::pki::Pki;
use support::process::{Balancer, global};
use support::regions::{Net, SERVERS, answer, stop};
use support::tls_peers::Client;
use trunkline::load::{Answerer, Timers};

const WORKERS: usize = 4;

/// Five servers behind a frontend that speaks TLS alone.
struct Stage {
    balancer: Balancer,
    at: SocketAddr,
    servers: Answerer,
    pki: Pki,
}

impl Stage {
    fn new(net: &Net) -> Self {
        Self::with(net, "")
    }

    /// With more of `[frontend.tls]`.
    fn with(net: &Net, tls: &str) -> Self {
        let (pki, addresses, at) = (Pki::new(), net.servers(), net.free(1));
        let folder = pki.path("certs");
        fs::create_dir(&folder).unwrap();
        pki.put(&folder.join("sip.pem"), &pki.pem("sip", "DNS:sip.example.ng"));
        pki.put(&folder.join("voice.pem"), &pki.pem("voice", "DNS:voice.example.ng"));
        let mut config = format!(
            "[[frontend]]\nname = \"sips\"\nbind = \"tls://{at}\"\ninside = \"{}\"\nbackend = \"pbx\"\n\
             [frontend.tls]\ncertificates = {folder:?}\n{tls}[[backend]]\nname = \"pbx\"\n",
            net.ip(2)
        );
        for ((name, _), address) in SERVERS.iter().zip(addresses) {
            config += &format!("[[backend.server]]\nname = \"{name}\"\naddress = \"udp://{address}\"\n");
        }
        let named: Vec<_> = SERVERS.iter().zip(addresses).map(|((name, _), address)| (*name, address)).collect();
        let servers = answer(&named, Timers::default());
        Self { balancer: Balancer::start(WORKERS, &config), at, servers, pki }
    }

    fn client(&self, name: &str, options: &[&str]) -> Client {
        Client::start(self.at, &[&["-servername", name, "-crlf", "-quiet"], options].concat())
    }

    fn end(self) {
        self.balancer.stop();
        stop(self.servers);
    }
}

/// OPTIONS, which any server answers.
fn options(call: &str) -> String {
    format!(
        "OPTIONS sip:sip.example.ng SIP/2.0\nVia: SIP/2.0/TLS 192.168.1.2:5061;branch=z9hG4bK{call}\n\
         From: <sip:a@sip.example.ng>;tag={call}\nTo: <sip:sip.example.ng>\nCall-ID: {call}\nCSeq: 1 OPTIONS\n\
         Max-Forwards: 70\nContent-Length: 0\n"
    )
}

fn ask(client: &mut Client, call: &str) {
    client.say(&options(call));
    client.hear("SIP/2.0 200 OK");
    client.hear(&format!("Call-ID: {call}"));
}

#[test]
fn new_certificates_are_shown_by_a_reload_while_old_connections_go_on() {
    let mut stage = Stage::new(&Net(56));
    let shown = |stage: &Stage, name: &str, version: &str| {
        // The client would not even ask for 1.1 by itself.
        let old = ["-cipher", "ALL:@SECLEVEL=0"];
        let mut client = Client::start(stage.at, &[&["-servername", name, version, "-crlf"], &old[..]].concat());
        client.say("Q");
        client.rest()
    };
    assert!(shown(&stage, "voice.example.ng", "-tls1_2").contains("subject=CN = voice\n"));
    assert!(shown(&stage, "sip.example.ng", "-tls1_3").contains("subject=CN = sip\n"));
    let refused = shown(&stage, "sip.example.ng", "-tls1_1");
    assert!(refused.contains("alert") && refused.contains("New, (NONE)"), "{refused}");
    let mut old = stage.client("sip.example.ng", &[]);
    ask(&mut old, "one");
    stage.pki.put(&stage.pki.path("certs/sip.pem"), &stage.pki.pem("renewed", "DNS:sip.example.ng"));
    stage.balancer.process.signal(Signal::SIGHUP);
    stage.balancer.process.line_with("reloaded");
    assert!(shown(&stage, "sip.example.ng", "-tls1_3").contains("subject=CN = renewed\n"));
    ask(&mut old, "two");
    drop(old);
    stage.end();
}

/// A frontend that loses its TLS address by reload goes on serving those that are connected until they have left, or 32 s.
#[test]
fn a_reload_to_another_address_costs_no_connection() {
    let mut stage = Stage::new(&Net(57));
    let mut client = stage.client("sip.example.ng", &[]);
    ask(&mut client, "before");
    let file = stage.balancer.folder.path().join("trunkline.toml");
    let other = Net(57).free(1);
    let text = fs::read_to_string(&file).unwrap().replace(&stage.at.to_string(), &other.to_string());
    assert!(text.starts_with(&global(&stage.balancer.folder, WORKERS)));
    fs::write(&file, text).unwrap();
    stage.balancer.process.signal(Signal::SIGHUP);
    stage.balancer.process.line_with("reloaded");
    ask(&mut client, "after");
    stage.at = other;
    ask(&mut stage.client("sip.example.ng", &[]), "there");
    drop(client);
    stage.end();
}

/// Who looks for the name that he was told in our certificate finds it, and a Route with it is ours.
#[test]
fn clients_are_told_the_name_that_the_certificate_has() {
    let stage = Stage::with(&Net(119), "name = \"SIP.example.ng\"\n");
    let told = format!("sip.example.ng:{};transport=tls", stage.at.port());
    let mut client = stage.client("sip.example.ng", &[]);
    let contact = "Contact: <sip:a@192.168.1.2:5061;transport=tls>\nMax-Forwards";
    client.say(&options("named").replace("OPTIONS", "INVITE").replace("Max-Forwards", contact));
    client.hear("SIP/2.0 200 OK");
    let route = client.hear(&format!("@{told};lr>"));
    let route = route.strip_prefix("Record-Route: ").unwrap();
    let to = client.hear("To: <sip:sip.example.ng>;tag=");
    client.hear("Call-ID: named");
    let within = |cseq: &str, branch: &str| {
        let (_, method) = cseq.split_once(' ').unwrap();
        let request = options("named").replace("1 OPTIONS", cseq).replace("OPTIONS", method);
        let routed = format!("{to}\nRoute: {route}");
        request.replace("To: <sip:sip.example.ng>", &routed).replace("z9hG4bKnamed", branch)
    };
    client.say(&within("1 ACK", "z9hG4bKack"));
    client.say(&within("2 BYE", "z9hG4bKbye"));
    client.hear("SIP/2.0 200 OK");
    // For us, and nobody at us.
    client.say(&options("us").replace("OPTIONS sip:sip.example.ng ", &format!("OPTIONS sip:{told} ")));
    client.hear("Allow: INVITE, ACK");
    drop(client);
    stage.end();
}
