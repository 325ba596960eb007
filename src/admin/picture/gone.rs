//! What those counted who have left. Sums over servers and over frontends never fall with them: Prometheus takes a smaller
//! number for a new start, and adds all of it once more.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::look::{frontend_tally, server_tally};
use super::{Causes, Tally};
use crate::sip::token::NameHash;
use crate::state::Snapshot;
use crate::state::counters::{FrontendCounters, PerWorker};
use crate::state::server::ServerLive;

/// Into which sums somebody's numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    Process,
    /// Of a backend, by their names' hashes.
    Region(NameHash, NameHash),
}

/// Everybody who is there, or was when somebody looked last.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// By who is a frontend, and by name.
    known: HashMap<(bool, NameHash), Known>,
    /// What those had counted whose counters are there no more; with what those count who are not in the snapshot.
    left: HashMap<Whose, Tally>,
    sums: HashMap<Whose, Tally>,
}

#[derive(Debug)]
struct Known {
    whose: Whose,
    counters: Counters,
    /// What they said when somebody looked last: nobody has been shown more.
    last: Tally,
    /// What `clear counters all` took off.
    cleared: Tally,
    cleared_causes: Causes,
    is_there: bool,
}

#[derive(Debug)]
enum Counters {
    Server(Weak<ServerLive>),
    Frontend(Weak<PerWorker<FrontendCounters>>),
}

impl Counters {
    fn tally(&self) -> Option<Tally> {
        match self {
            Self::Server(live) => Some(server_tally(&*live.upgrade()?)),
            Self::Frontend(live) => Some(frontend_tally(&*live.upgrade()?)),
        }
    }

    /// Whether they are the same, not only of the same name.
    fn are(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Server(one), Self::Server(other)) => one.ptr_eq(other),
            (Self::Frontend(one), Self::Frontend(other)) => one.ptr_eq(other),
            _ => false,
        }
    }
}

impl Gone {
    /// Reads the counters of all, before anybody is shown what this snapshot has.
    pub fn look(&mut self, snapshot: &Snapshot) {
        let Self { known, left, sums } = self;
        known.values_mut().for_each(|of| of.is_there = false);
        let frontends = snapshot.frontends.iter();
        let frontends =
            frontends.map(|of| (of.config.id, Whose::Process, Counters::Frontend(Arc::downgrade(&of.live))));
        let servers = snapshot.backends.iter().flat_map(|of| {
            let backend = super::second::backend_id(&of.config.name);
            of.config.servers.iter().filter_map(move |server| {
                let live = &snapshot.servers[snapshot.server(server.id)?].live;
                let region = of.config.regions.get(server.region)?.id;
                Some((server.id, Whose::Region(backend, region), Counters::Server(Arc::downgrade(live))))
            })
        });
        for (id, whose, counters) in frontends.chain(servers) {
            let (last, cleared, cleared_causes) = Default::default();
            let is = Known { whose, counters, last, cleared, cleared_causes, is_there: true };
            let key = (whose == Whose::Process, id);
            match known.get_mut(&key).filter(|was| was.counters.are(&is.counters)) {
                // Its region may be another.
                Some(was) => (was.whose, was.is_there) = (whose, true),
                None => known.insert(key, is).into_iter().for_each(|was| keep(left, &was)),
            }
        }
        known.retain(|_, of| match of.counters.tally() {
            Some(tally) => {
                of.last = tally;
                true
            }
            None => {
                keep(left, of);
                false
            }
        });
        sums.clone_from(left);
        known.values().filter(|of| !of.is_there).for_each(|of| keep(sums, of));
    }

    /// What a frontend or a server said when somebody looked last: nobody is shown another number.
    pub fn last(&self, is_frontend: bool, id: NameHash) -> Tally {
        self.known.get(&(is_frontend, id)).map(|of| of.last).unwrap_or_default()
    }

    /// What `clear counters all` took off that.
    pub fn cleared(&self, is_frontend: bool, id: NameHash) -> Tally {
        self.known.get(&(is_frontend, id)).map(|of| of.cleared).unwrap_or_default()
    }

    /// And off what a frontend dropped and refused.
    pub fn cleared_causes(&self, frontend: NameHash) -> Causes {
        self.known.get(&(true, frontend)).map(|of| of.cleared_causes).unwrap_or_default()
    }

    /// What those of whom `is` is true counted who are not in the snapshot that was looked at last.
    pub fn tally(&self, is: impl Fn(Whose) -> bool) -> Tally {
        let mut sum = Tally::default();
        self.sums.iter().filter(|(whose, _)| is(**whose)).for_each(|(_, tally)| sum += tally);
        sum
    }

    /// `clear counters all`: takes off what everybody said when somebody looked last.
    pub fn clear(&mut self) {
        self.left.clear();
        self.sums.clear();
        for of in self.known.values_mut() {
            of.cleared = of.last;
            if let Counters::Frontend(live) = &of.counters {
                of.cleared_causes = live.upgrade().map(|live| Causes::of(&live)).unwrap_or_default();
            }
        }
    }
}

fn keep(sums: &mut HashMap<Whose, Tally>, of: &Known) {
    *sums.entry(of.whose).or_default() += &of.last.since(&of.cleared);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin::picture::{Count, second::backend_id};
    use crate::config::leaving::{Stays, with_leaving};
    use crate::config::{Config, key};
    use crate::state::binds::Host;
    use crate::state::snapshot::Ingredients;

    pub const TEXT: &str = "[[frontend]]\nname = \"f\"\nbind = \"udp://10.0.0.1:5060\"\nbackend = \"b\"\n[[backend]]\nname = \"b\"\n\
                        [[backend.server]]\nname = \"one\"\naddress = \"udp://10.0.0.2:5060\"\n";
    pub const SECOND: &str = "[[backend.server]]\nname = \"two\"\naddress = \"udp://10.0.0.3:5060\"\n";

    /// What is wanted, and all that was there before and is not wanted.
    pub fn leaving(wanted: &str, before: &str) -> Snapshot {
        let stays = Stays { server: &|_| true, bind: &|_| true };
        build(&with_leaving(&Config::good(wanted), &Config::good(before), &stays), None)
    }

    pub fn snapshot(text: &str, previous: Option<&Snapshot>) -> Snapshot {
        build(&Config::good(text), previous)
    }

    fn build(config: &Config, previous: Option<&Snapshot>) -> Snapshot {
        let keys = key::parse(&key::generate(*b"golden route key", [0x22; 16])).unwrap();
        let (host, states) = (Host::default(), HashMap::new());
        Snapshot::build(&Ingredients { config, keys, host: &host, states: &states, workers: 1 }, previous)
    }

    #[test]
    fn what_was_counted_stays_and_is_counted_once() {
        let mut gone = Gone::default();
        let sum = |gone: &Gone| {
            gone.tally(|whose| matches!(whose, Whose::Region(backend, _) if backend == backend_id("b")))[Count::Sent]
        };
        let both = snapshot(&(TEXT.to_owned() + SECOND), None);
        let live = Arc::clone(&both.servers[1].live);
        live.counters.of(0).sent.add(5);
        gone.look(&both);
        assert_eq!(sum(&gone), 0, "who is there is counted there");
        let one = snapshot(TEXT, Some(&both));
        gone.look(&one);
        live.counters.of(0).sent.add(1);
        gone.look(&one);
        assert_eq!(sum(&gone), 6, "a worker may still have the snapshot before");
        gone.look(&both);
        assert_eq!(sum(&gone), 0, "it came back as it was");
        let moved = "[[backend.region]]\nname = \"lagos\"\n[[backend.server]]\nregion = \"lagos\"\n";
        let in_regions = (TEXT.to_owned() + SECOND).replacen("[[backend.server]]\n", moved, 1);
        let (head, last) = in_regions.rsplit_once("[[backend.server]]\n").unwrap();
        let moved = snapshot(&format!("{head}[[backend.server]]\nregion = \"lagos\"\n{last}"), Some(&both));
        gone.look(&moved);
        assert_eq!(sum(&gone), 0, "it is in another region, and there");
        gone.look(&one);
        gone.clear();
        assert_eq!(sum(&gone), 0);
        live.counters.of(0).sent.add(2);
        gone.look(&one);
        drop((both, moved, one, live));
        let anew = snapshot(&(TEXT.to_owned() + SECOND), None);
        anew.servers[1].live.counters.of(0).sent.add(1);
        gone.look(&anew);
        assert_eq!(sum(&gone), 2, "another of the same name begins at nothing");
        drop(anew);
        gone.look(&snapshot(TEXT, None));
        assert_eq!(sum(&gone), 3);
        assert_eq!(gone.tally(|whose| whose == Whose::Process)[Count::Sent], 0);
    }
}
