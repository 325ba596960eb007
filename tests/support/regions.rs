//! The production deployment on the loopback: one balancer, five servers in three regions, clients beside them. Each
//! test has a network of its own there, so that tests run side by side.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use trunkline::load::{
    AnswerReport, Answerer, AnswererOptions, CallReport, Carrier, GeneratorOptions, Habits, Listen, Mix, ServerView,
    Timers, Weather,
};
use trunkline::sip::Transport;

use super::process::{Balancer, DEADLINE, wait_for, within};
use super::workers::free_port;

/// The servers and their regions.
pub const SERVERS: [(&str, &str); 5] =
    [("lagos-1", "lagos"), ("lagos-2", "lagos"), ("lagos-3", "lagos"), ("abuja-1", "abuja"), ("asaba-1", "asaba")];

/// The regions and their shares of new calls, percent.
pub const REGIONS: [(&str, f64); 3] = [("lagos", 70.0), ("abuja", 15.0), ("asaba", 15.0)];

/// The name that clients use.
pub const DOMAIN: &str = "sip.example.ng";

/// Of a round of starts eight are calls, one of them cancelled, and two are phones that are called.
pub const MIX: &str = "call=3,server-bye=2,reinvite=1,server-reinvite=1,cancel=1,phone=2,options=1,register=1";
pub const ROUND: u64 = 12;

pub const WORKERS: usize = 4;

/// What the balancer speaks, and what is written into its configuration beside that.
#[derive(Clone, Copy)]
pub struct Edge<'a> {
    /// Its transports towards clients, all at one address.
    pub outside: &'a [&'a str],
    /// Its transport towards servers.
    pub inside: &'a str,
    /// The last lines of the frontend, and of the backend; tables of theirs may follow.
    pub frontend: &'a str,
    pub backend: &'a str,
    /// Lines of each server.
    pub each: &'a str,
}

impl Default for Edge<'_> {
    fn default() -> Self {
        Self { outside: &["udp"], inside: "udp", frontend: "", backend: "", each: "" }
    }
}

/// 127.0.N.0/24.
pub struct Net(pub u8);

impl Net {
    /// An address in it.
    pub fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, self.0, host)
    }

    /// An address in it with a port that is free there.
    pub fn free(&self, host: u8) -> SocketAddr {
        let ip = self.ip(host);
        (ip, free_port(&ip.to_string())).into()
    }

    /// Where each server may listen.
    pub fn servers(&self) -> [SocketAddr; 5] {
        [11, 12, 13, 14, 15].map(|host| self.free(host))
    }

    /// The upper half of the network: where clients are.
    pub fn clients(&self) -> String {
        format!("127.0.{}.128/25", self.0)
    }

    /// Starts the balancer before these servers, and returns where clients find it. Their Contacts are loopback
    /// addresses, which servers may not be made to call unless `send_to` says so.
    pub fn balance(&self, servers: &[SocketAddr; 5], backend: &str) -> (Balancer, SocketAddr) {
        self.balance_with(servers, backend, "")
    }

    /// The same with these lines in the section of each server.
    pub fn balance_with(&self, servers: &[SocketAddr; 5], backend: &str, each: &str) -> (Balancer, SocketAddr) {
        self.balance_as(servers, &Edge { backend, each, ..Edge::default() })
    }

    /// The same with these transports towards clients and servers, and with lines in the sections of the frontend, the
    /// backend and each server.
    pub fn balance_by(
        &self,
        [outside, inside]: [&str; 2],
        servers: &[SocketAddr; 5],
        [frontend, backend, each]: [&str; 3],
    ) -> (Balancer, SocketAddr) {
        self.balance_as(servers, &Edge { outside: &[outside], inside, frontend, backend, each })
    }

    /// The same for an edge of any kind.
    pub fn balance_as(&self, servers: &[SocketAddr; 5], edge: &Edge<'_>) -> (Balancer, SocketAddr) {
        let (config, at) = self.config(servers, edge);
        (Balancer::start(WORKERS, &config), at)
    }

    /// The configuration of one, without its head, and where clients find it.
    pub fn config(&self, servers: &[SocketAddr; 5], edge: &Edge<'_>) -> (String, SocketAddr) {
        let Edge { outside, inside, frontend, backend, each } = edge;
        let at = self.free(1);
        let binds: Vec<_> = outside.iter().map(|transport| format!("{transport}://{at}")).collect();
        let mut config = format!(
            "[[frontend]]\nname = \"sip\"\nbind = {binds:?}\ninside = \"{}\"\naliases = [\"{DOMAIN}\"]\n\
             send_to = [\"{}\"]\nsource_header = \"X-Trunkline-Source\"\nbackend = \"pbx\"\n{frontend}\n\
             [[backend]]\nname = \"pbx\"\n{backend}\n",
            self.ip(2),
            self.clients()
        );
        for (name, weight) in REGIONS {
            config += &format!("[[backend.region]]\nname = \"{name}\"\nweight = {weight}\n");
        }
        for ((name, region), address) in SERVERS.iter().zip(servers) {
            config += &format!(
                "[[backend.server]]\nname = \"{name}\"\nregion = \"{region}\"\naddress = \"{inside}://{address}\"\n{each}\n"
            );
        }
        (config, at)
    }

    /// Clients of ours that call, register and are called, [`MIX`], from many ports.
    pub fn callers(&self, to: SocketAddr, count: u64, rate: f64) -> GeneratorOptions {
        GeneratorOptions {
            habits: Habits {
                to,
                domain: DOMAIN.into(),
                mix: Mix::parse(MIX).unwrap(),
                hold: Duration::from_millis(500),
                nat: false,
                body: 300,
                call_back_after: Duration::from_millis(100),
                limit: 50_000,
            },
            timers: Timers::default(),
            rate,
            count,
            // The count ends the starts; a process that gets no time may need longer for them.
            duration: Duration::from_secs(120),
            clients: self.clients().parse().unwrap(),
            sockets: 100,
            carrier: Carrier::Udp,
            weather: Weather::default(),
            seed: 1,
        }
    }
}

/// These addresses with the names of [`SERVERS`].
pub fn named(servers: &[SocketAddr; 5]) -> Vec<(&'static str, SocketAddr)> {
    SERVERS.iter().zip(servers).map(|((name, _), address)| (*name, *address)).collect()
}

/// Servers of ours on these addresses.
pub fn answer(servers: &[(&str, SocketAddr)], timers: Timers) -> Answerer {
    answer_over(Transport::Udp, servers, AnswererOptions { timers, ..AnswererOptions::default() })
}

/// The same over another transport.
pub fn answer_over(transport: Transport, servers: &[(&str, SocketAddr)], options: AnswererOptions) -> Answerer {
    let listen = |address: &SocketAddr| Listen { transport, address: *address };
    let servers: Vec<_> = servers.iter().map(|(name, address)| (*name, listen(address))).collect();
    answer_as(&servers, options)
}

/// The same, each over its own.
pub fn answer_as(servers: &[(&str, Listen)], options: AnswererOptions) -> Answerer {
    let servers = servers.iter().map(|(name, listen)| ((*name).to_owned(), *listen)).collect();
    let options = AnswererOptions { servers, ..options };
    let is_taken = |why: &String| why.contains("another process has") || why.contains("already in use");
    let mut answerer = Answerer::start(&options);
    // A process that is just beginning may have the sockets that tried the ports.
    wait_for("the ports of the servers", || {
        if answerer.as_ref().is_err_and(is_taken) {
            answerer = Answerer::start(&options);
        }
        !answerer.as_ref().is_err_and(is_taken)
    });
    answerer.unwrap()
}

/// Ends the servers when their last call has ended: a client is done when its BYE is sent, its server a moment later.
pub fn stop(servers: Answerer) -> AnswerReport {
    let open = || servers.servers().iter().map(|server| server.counters.dialogs.get()).sum::<u64>();
    let ended = within(DEADLINE, || open() == 0);
    let report = servers.stop().unwrap();
    assert!(ended, "calls that do not end at their servers:\n{report}");
    report
}

/// Checks that all of [`MIX`] that was started came to its end at the server where it began, and that each region had
/// its share. How many calls the servers saw cancelled is left to the caller.
pub fn assert_kept(reports: &[CallReport], answered: &AnswerReport, starts: u64) {
    for report in reports {
        assert!(report.succeeded() && report.total().answered == starts, "{report}\n{answered}");
        assert_eq!((report.misdirected, report.moved, report.not_sent), (0, 0, 0), "{report}");
    }
    assert!(answered.succeeded() && answered.misdirected() == 0, "{answered}");
    // A call that began at two servers would be more than one in these books.
    let rounds = starts * reports.len() as u64 / ROUND;
    let (incoming, to_phones) = answered.totals();
    let booked = (incoming.answered, incoming.unfinished, to_phones.started, to_phones.answered);
    assert_eq!(booked, (rounds * 7, 0, rounds * 2, rounds * 2), "{answered}");
    let calls = |server: &Arc<ServerView>| (server.name.clone(), server.books().incoming.answered);
    assert_shares(&answered.servers.iter().map(calls).collect::<Vec<_>>());
}

/// Checks that each region has its share of these counts by server, and each server its share of the region.
pub fn assert_shares(counts: &[(String, u64)]) {
    let count_of = |wanted: &str| counts.iter().find(|(name, _)| name == wanted).map_or(0, |(_, count)| *count);
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let assert_share = |name: &str, count: u64, share: f64| {
        // Five standard deviations of a binomial distribution: not by chance.
        let (expected, deviation) = (share * total as f64, (share * (1.0 - share) * total as f64).sqrt());
        let off = (count as f64 - expected).abs();
        assert!(off <= 5.0 * deviation, "{name} has {count} of {total}, not about {expected:.0}: {counts:?}");
    };
    for (region, percent) in REGIONS {
        let here: Vec<_> = SERVERS.iter().filter(|(_, of)| *of == region).map(|(name, _)| *name).collect();
        assert_share(region, here.iter().map(|name| count_of(name)).sum(), percent / 100.0);
        for name in &here {
            assert_share(name, count_of(name), percent / 100.0 / here.len() as f64);
        }
    }
}
