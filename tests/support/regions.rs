//! The production deployment on the loopback: one balancer, five servers in three regions, clients beside them. Each
//! test has a network of its own there, so that tests run side by side.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use trunkline::load::{
    AnswerReport, Answerer, AnswererOptions, CallReport, GeneratorOptions, Habits, Manner, Mix, ServerView, Timers,
    Weather,
};

use super::process::{Balancer, wait_for};
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

const WORKERS: usize = 4;

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
        let at = self.free(1);
        let mut config = format!(
            "[[frontend]]\nname = \"sip\"\nbind = \"udp://{at}\"\ninside = \"{}\"\naliases = [\"{DOMAIN}\"]\n\
             send_to = [\"{}\"]\nsource_header = \"X-Trunkline-Source\"\nbackend = \"pbx\"\n\
             [[backend]]\nname = \"pbx\"\n{backend}\n",
            self.ip(2),
            self.clients()
        );
        for (name, weight) in REGIONS {
            config += &format!("[[backend.region]]\nname = \"{name}\"\nweight = {weight}\n");
        }
        for ((name, region), address) in SERVERS.iter().zip(servers) {
            config += &format!(
                "[[backend.server]]\nname = \"{name}\"\nregion = \"{region}\"\naddress = \"udp://{address}\"\n{each}\n"
            );
        }
        (Balancer::start(WORKERS, &config), at)
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
            weather: Weather::default(),
            seed: 1,
        }
    }
}

/// Servers of ours on these addresses.
pub fn answer(servers: &[(&str, SocketAddr)], timers: Timers) -> Answerer {
    let servers = servers.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
    Answerer::start(&AnswererOptions { servers, manner: Manner::default(), timers }).unwrap()
}

/// Ends the servers when their last call has ended: a client is done when its BYE is sent, its server a moment later.
pub fn stop(servers: Answerer) -> AnswerReport {
    let open = || servers.servers().iter().map(|server| server.counters.dialogs.get()).sum::<u64>();
    wait_for("the last calls to end at their servers", || open() == 0);
    servers.stop().unwrap()
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
