//! The command line of the load: options as people write them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::answerer::{AnswererOptions, Listen};
use super::connections::{Carrier, ClientTls, Sharing, StreamOptions};
use super::crowd::Habits;
use super::flood::FloodOptions;
use super::generator::GeneratorOptions;
use super::lossy::Weather;
use super::plan::{Mix, Timers};
use super::server::Manner;
use super::tls::ServerTls;
use super::values::{percent, server, sharing, transport};
use crate::sip::Transport;

pub use super::command::run;
pub(crate) use super::values::{call_rate, duration};

/// The three parts of the load.
#[derive(Clone, Debug, Subcommand)]
pub enum LoadCommand {
    /// Call: clients that start calls, registrations and requests at a fixed rate.
    Call(CallArgs),
    /// Answer: one or many servers, until SIGINT or SIGTERM.
    Answer(AnswerArgs),
    /// Flood: as many OPTIONS as one core can send, with echo servers beside.
    Flood(FloodArgs),
}

impl LoadCommand {
    /// What is wrong with options that do not fit each other; the parser has judged each by itself.
    ///
    /// # Errors
    /// What to write instead.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Call(args) => args.check(),
            Self::Answer(_) | Self::Flood(_) => Ok(()),
        }
    }
}

/// RFC 3261's timers, quicker where a test shall be.
#[derive(Clone, Copy, Debug, Args)]
pub struct TimerArgs {
    /// First interval of a retransmission; answers are waited for 64 times as long.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub t1: Duration,
    /// Longest interval of a retransmission [default: 8 times T1].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub t2: Option<Duration>,
    /// How long a call may ring [default: 64 times T1].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub patience: Option<Duration>,
}

impl TimerArgs {
    fn timers(&self) -> Timers {
        let timers = Timers::from_t1(self.t1.max(Duration::from_millis(1)));
        Timers { t2: self.t2.unwrap_or(timers.t2), patience: self.patience.unwrap_or(timers.patience), ..timers }
    }
}

/// `trunkline load call`
#[derive(Clone, Debug, Args)]
pub struct CallArgs {
    /// Where requests without a route go: the balancer.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub to: SocketAddr,
    /// Starts per second; their times are fixed in advance, whatever the answers do.
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,
    /// How long to start new ones.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// End the starts after this many, even before the time.
    #[arg(long, value_name = "STARTS")]
    pub count: Option<u64>,
    /// Scenarios and weights: call, server-bye, reinvite, server-reinvite, cancel, options, message, register, phone.
    #[arg(long, value_name = "NAME=WEIGHT,...", default_value = "call", value_parser = Mix::parse)]
    pub mix: Mix,
    /// From the establishment of a call to its BYE.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub hold: Duration,
    /// Addresses that the clients send from, in turn.
    #[arg(long, value_name = "NETWORK", default_value = "127.0.0.1/32")]
    pub clients: IpNet,
    /// Client sockets, each with an address and port of its own; with TCP and TLS the sources of connections.
    #[arg(long, default_value_t = 8)]
    pub sockets: usize,
    /// What messages travel by: udp, tcp or tls.
    #[arg(long, value_name = "TRANSPORT", default_value = "udp", value_parser = transport)]
    pub transport: Transport,
    /// With TCP and TLS: connections of each source, shared by its calls; or `per-call`, one for each, closed after it.
    #[arg(long, value_name = "NUMBER|per-call", default_value = "1", value_parser = sharing)]
    pub connections: Sharing,
    /// Open shared connections that break again; else their calls end with them.
    #[arg(long)]
    pub reconnect: bool,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Clients behind NAT: private addresses in Via and Contact, and rport.
    #[arg(long)]
    pub nat: bool,
    /// Host of Request-URIs and addresses of record [default: that of --to].
    #[arg(long, value_name = "HOST")]
    pub domain: Option<String>,
    /// Size of an INVITE's body in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..60_000))]
    pub body: u16,
    /// From a phone's registration to the call that it asks for.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub call_back_after: Duration,
    #[command(flatten)]
    pub timers: TimerArgs,
    /// Share of the datagrams, sent and received, that get lost.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    pub lose: f64,
    /// Share that arrives twice.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    pub duplicate: f64,
    /// Share that is overtaken by later ones.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    pub reorder: f64,
    /// What losses, duplicates and delays follow from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Most calls at a time, those of the last half minute included.
    #[arg(long, value_name = "CALLS", default_value_t = 200_000)]
    pub max_calls: usize,
    /// Print the result as one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Whom to believe over TLS.
#[derive(Clone, Debug, Args)]
pub struct TrustArgs {
    /// With TLS: the PEM file of the authorities that the other end's certificate must be from.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca: Option<PathBuf>,
    /// With TLS: believe whatever certificate is shown.
    #[arg(long)]
    pub insecure: bool,
    /// With TLS: the name that is asked for and that the certificate must have [default: the address].
    #[arg(long, value_name = "HOST")]
    pub sni: Option<String>,
}

impl TrustArgs {
    fn tls(&self) -> ClientTls {
        ClientTls { ca: self.ca.clone(), name: self.sni.clone() }
    }
}

impl CallArgs {
    fn check(&self) -> Result<(), String> {
        let TrustArgs { ca, insecure, sni } = &self.trust;
        match self.transport {
            Transport::Tls if ca.is_none() && !insecure => {
                Err("--transport tls: whom shall it believe? write --ca FILE, or --insecure for anybody".into())
            }
            Transport::Udp | Transport::Tcp if ca.is_some() || *insecure || sni.is_some() => {
                Err("--ca, --insecure and --sni are for --transport tls".into())
            }
            Transport::Udp if self.connections != Sharing::Shared(1) || self.reconnect => {
                Err("--connections and --reconnect are for --transport tcp and tls".into())
            }
            _ => Ok(()),
        }
    }

    fn carrier(&self) -> Carrier {
        let stream = |tls| Carrier::Stream(StreamOptions { sharing: self.connections, reconnect: self.reconnect, tls });
        match self.transport {
            Transport::Udp => Carrier::Udp,
            Transport::Tcp => stream(None),
            Transport::Tls => stream(Some(self.trust.tls())),
        }
    }

    /// What the generator is told.
    pub fn options(&self) -> GeneratorOptions {
        GeneratorOptions {
            habits: Habits {
                to: self.to,
                domain: self.domain.clone().unwrap_or_else(|| self.to.to_string()),
                mix: self.mix.clone(),
                hold: self.hold,
                nat: self.nat,
                body: self.body.into(),
                call_back_after: self.call_back_after,
                limit: self.max_calls,
            },
            timers: self.timers.timers(),
            rate: self.rate,
            count: self.count.unwrap_or(u64::MAX),
            duration: self.duration,
            clients: self.clients,
            sockets: self.sockets,
            carrier: self.carrier(),
            weather: Weather { lose: self.lose, duplicate: self.duplicate, reorder: self.reorder },
            seed: self.seed,
        }
    }
}

/// `trunkline load answer`
#[derive(Clone, Debug, Args)]
pub struct AnswerArgs {
    /// A server: its name and address, with tcp:// or tls:// before the address for those; once for each.
    #[arg(long = "server", value_name = "NAME=[TRANSPORT://]ADDRESS:PORT", required = true, value_parser = server)]
    pub servers: Vec<(String, Listen)>,
    /// What tls:// servers show: a PEM file with certificate and chain, and with the key unless there is --key.
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its key, a PEM file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// The PEM file of the authorities of whom tls:// servers call [default: they call anybody].
    #[arg(long, value_name = "FILE", requires = "sni")]
    pub ca: Option<PathBuf>,
    /// The name in the certificate of whom they call.
    #[arg(long, value_name = "HOST")]
    pub sni: Option<String>,
    /// End after this time [default: at SIGINT or SIGTERM].
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Answer every INVITE with 100 at once.
    #[arg(long)]
    pub trying: bool,
    /// From an INVITE to its 180.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub ring_after: Duration,
    /// From an INVITE to its 200.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub answer_after: Duration,
    /// Share of the calls of other clients than `load call` in which the server rings off.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    pub bye_share: f64,
    /// Share of those calls in which the server sends a re-INVITE.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    pub reinvite_share: f64,
    /// How long those calls, and calls to phones, are held.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub hold: Duration,
    /// Calls per second from each server to the phones that are registered there.
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = call_rate)]
    pub call_back: f64,
    /// Over TCP and TLS: send what goes to the host that a call came from over its connection [default: where the route says].
    #[arg(long)]
    pub reuse: bool,
    #[command(flatten)]
    pub timers: TimerArgs,
    /// Most calls of one server, those of the last half minute included; and most registrations.
    #[arg(long, value_name = "CALLS", default_value_t = 200_000)]
    pub max_calls: usize,
    /// Take orders from stdin, one a line: NAME normal, silent, closed, only100, no-calls, a status, or call-back COUNT; `all` names every server.
    #[arg(long)]
    pub control: bool,
    /// Print the result as one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

impl AnswerArgs {
    /// What the answerer is told.
    pub fn options(&self) -> AnswererOptions {
        AnswererOptions {
            servers: self.servers.clone(),
            manner: Manner {
                trying: self.trying,
                ring_after: self.ring_after,
                answer_after: self.answer_after,
                bye_share: self.bye_share,
                reinvite_share: self.reinvite_share,
                hold: self.hold,
                call_back_rate: self.call_back,
                reuse: self.reuse,
                limit: self.max_calls,
            },
            timers: self.timers.timers(),
            certificate: self.cert.clone().map(|certificate| ServerTls { certificate, key: self.key.clone() }),
            trust: ClientTls { ca: self.ca.clone(), name: self.sni.clone() },
        }
    }
}

/// `trunkline load flood`
#[derive(Clone, Debug, Args)]
pub struct FloodArgs {
    /// Where the requests go: the balancer. Without it only the sinks run.
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present = "sinks")]
    pub to: Option<SocketAddr>,
    /// An echo server in the same thread; once for each.
    #[arg(long = "sink", value_name = "ADDRESS:PORT")]
    pub sinks: Vec<SocketAddr>,
    /// Requests per second [default: as many as are answered].
    #[arg(long)]
    pub rate: Option<f64>,
    /// Without --rate: requests without answer at any time.
    #[arg(long, default_value_t = 256)]
    pub outstanding: u32,
    /// How long.
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub duration: Duration,
    /// Client sockets.
    #[arg(long, default_value_t = 16)]
    pub sockets: usize,
    /// Addresses that the client sockets are bound to, in turn.
    #[arg(long, value_name = "NETWORK", default_value_t = IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST)))]
    pub clients: IpNet,
    /// Size of a request in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 600)]
    pub size: usize,
    /// Print the result as one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

impl FloodArgs {
    /// What the flood is told.
    pub fn options(&self) -> FloodOptions {
        FloodOptions {
            sinks: self.sinks.clone(),
            sockets: self.sockets,
            clients: self.clients,
            rate: self.rate,
            outstanding: self.outstanding,
            size: self.size,
            duration: self.duration,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: LoadCommand,
    }

    fn read(line: &str) -> Result<LoadCommand, String> {
        let words = std::iter::once("load").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_understood() {
        let Ok(LoadCommand::Call(call)) = read("call --to 127.0.0.1:5060 --mix call=3,phone --t1 20ms --lose 2.5%")
        else {
            panic!("a call")
        };
        let options = call.options();
        assert_eq!((options.timers.t1, options.timers.t2), (Duration::from_millis(20), Duration::from_millis(160)));
        assert_eq!((options.weather.lose, options.habits.domain.as_str()), (0.025, "127.0.0.1:5060"));
        let Ok(LoadCommand::Answer(answer)) = read("answer --server a=127.0.0.1:5061 --server b=[::1]:5062") else {
            panic!("two servers")
        };
        assert_eq!(answer.options().servers[1], ("b".into(), Listen::udp("[::1]:5062".parse().unwrap())));
        let Ok(LoadCommand::Answer(answer)) = read("answer --server a=tls://127.0.0.1:5061 --cert c.pem") else {
            panic!("a server of TLS")
        };
        assert_eq!(answer.options().servers[0].1.to_string(), "tls://127.0.0.1:5061");
        assert_eq!(answer.options().certificate, Some(ServerTls { certificate: "c.pem".into(), key: None }));
        let Ok(LoadCommand::Flood(flood)) = read("flood --sink 127.0.0.1:0 --for 2m") else { panic!("a flood") };
        assert_eq!((flood.to, flood.options().duration), (None, Duration::from_secs(120)));
    }

    #[test]
    fn the_transport_and_what_belongs_to_it() {
        let call = |line: &str| match read(&format!("call --to 127.0.0.1:5060 {line}")) {
            Ok(LoadCommand::Call(call)) => call.check().map(|()| call.options().carrier),
            _ => panic!("{line}"),
        };
        let stream = |sharing, reconnect, tls| Ok(Carrier::Stream(StreamOptions { sharing, reconnect, tls }));
        assert_eq!(call(""), Ok(Carrier::Udp));
        assert_eq!(call("--transport tcp"), stream(Sharing::Shared(1), false, None));
        assert_eq!(call("--transport tcp --connections 7 --reconnect"), stream(Sharing::Shared(7), true, None));
        assert_eq!(call("--transport tcp --connections per-call"), stream(Sharing::PerCall, false, None));
        let anybody = ClientTls { ca: None, name: Some("a".into()) };
        assert_eq!(call("--transport tls --insecure --sni a"), stream(Sharing::Shared(1), false, Some(anybody)));
        for (wrong, taught) in [
            ("--transport tls", "write --ca FILE"),
            ("--transport tcp --insecure", "are for --transport tls"),
            ("--connections per-call", "are for --transport tcp and tls"),
            ("--reconnect", "are for --transport tcp and tls"),
        ] {
            assert!(call(wrong).unwrap_err().contains(taught), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_value_is_met_with_what_to_write() {
        for (line, taught) in [
            ("call --to 127.0.0.1:5060 --for 10", "write 500ms, 10s, 2m or 1h"),
            ("call --to 127.0.0.1:5060 --lose 101", "from 0 to 100"),
            ("call --to 127.0.0.1:5060 --mix ring", "there are call, server-bye"),
            ("call", "--to"),
            ("answer --server 127.0.0.1:5060", "lagos-1=127.0.3.1:5060"),
            ("answer", "--server"),
            ("flood", "--to"),
            ("call --to 127.0.0.1:5060 --transport sctp", "write udp, tcp or tls"),
            ("call --to 127.0.0.1:5060 --connections 0", "1 to 60000, or per-call"),
            ("call --to 127.0.0.1:5060 --transport tls --ca a --insecure", "cannot be used with"),
            ("answer --server a=sctp://127.0.0.1:5060", "write udp, tcp or tls"),
            ("answer --server a=127.0.0.1:5060 --key k", "--cert"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(taught), "{line}: {error}");
        }
    }
}
