//! The command line of the load: options as people write them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::answerer::AnswererOptions;
use super::crowd::Habits;
use super::flood::FloodOptions;
use super::generator::GeneratorOptions;
use super::lossy::Weather;
use super::plan::{Mix, Timers};
use super::server::Manner;

pub use super::command::run;

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
    /// Client sockets, each with an address and port of its own.
    #[arg(long, default_value_t = 8)]
    pub sockets: usize,
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

impl CallArgs {
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
            weather: Weather { lose: self.lose, duplicate: self.duplicate, reorder: self.reorder },
            seed: self.seed,
        }
    }
}

/// `trunkline load answer`
#[derive(Clone, Debug, Args)]
pub struct AnswerArgs {
    /// A server: its name and address; once for each.
    #[arg(long = "server", value_name = "NAME=ADDRESS:PORT", required = true, value_parser = server)]
    pub servers: Vec<(String, SocketAddr)>,
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
                limit: self.max_calls,
            },
            timers: self.timers.timers(),
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

/// Reads "500ms", "10s", "2m" or "1h".
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || format!("`{text}` is no time; write 500ms, 10s, 2m or 1h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wanted)?;
    let number: u64 = text[..digits].parse().map_err(|_| wanted())?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wanted()),
    };
    let total = number.checked_mul(millis).filter(|total| *total <= 366 * 24 * 3_600_000).ok_or_else(wanted)?;
    Ok(Duration::from_millis(total))
}

/// Reads a percentage as a share.
fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim_end_matches('%').parse().ok();
    let share = number.filter(|number| (0.0..=100.0).contains(number)).map(|number| number / 100.0);
    share.ok_or_else(|| format!("`{text}` is no percentage; write a number from 0 to 100"))
}

pub(crate) fn call_rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (0.0..=100_000.0).contains(rate))
        .ok_or_else(|| format!("`{text}` is no rate; write calls per second, from 0 to 100000"))
}

fn server(text: &str) -> Result<(String, SocketAddr), String> {
    let wanted = || format!("`{text}` is no server; write NAME=ADDRESS:PORT such as lagos-1=127.0.3.1:5060");
    let (name, address) = text.split_once('=').ok_or_else(wanted)?;
    // The name stands in a header and in a URI's user part.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(format!("`{name}` is no server name; use letters, digits, - _ and ., at most 64"));
    }
    Ok((name.to_owned(), address.parse().map_err(|_| wanted())?))
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
        assert_eq!(answer.options().servers[1], ("b".into(), "[::1]:5062".parse().unwrap()));
        let Ok(LoadCommand::Flood(flood)) = read("flood --sink 127.0.0.1:0 --for 2m") else { panic!("a flood") };
        assert_eq!((flood.to, flood.options().duration), (None, Duration::from_secs(120)));
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
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(taught), "{line}: {error}");
        }
    }
}
