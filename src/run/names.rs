//! Servers that are written with a name: their answers become servers by the door that a reload uses.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Balancer;
use super::control::LOOK;
use crate::config::difference::difference;
use crate::config::names::{Answers, Query, Refused, expand, is_own};
use crate::config::{Backend, Config};
use crate::net::host;
use crate::net::resolve::{Question, Resolved, Watch};
use crate::net::udp::clock;
use crate::state::Snapshot;

/// Answers that may wait for the one who writes snapshots.
const ANSWERS: usize = 64;

/// The names that are being asked for, and their last good answers.
pub(super) struct Names {
    running: HashMap<Query, Watch>,
    /// Of these nothing was heard yet.
    waiting: HashSet<Query>,
    answers: Answers,
    /// The last answers, whether they could be used or not.
    last: Answers,
    /// What the log has said.
    refused: HashSet<Refused>,
    seed: u64,
    sender: mpsc::Sender<Resolved>,
    receiver: mpsc::Receiver<Resolved>,
}

impl Names {
    /// None yet.
    pub(super) fn new(seed: u64) -> Self {
        let (sender, receiver) = mpsc::channel(ANSWERS);
        Self {
            running: HashMap::new(),
            waiting: HashSet::new(),
            answers: Answers::new(),
            last: Answers::new(),
            refused: HashSet::new(),
            seed,
            sender,
            receiver,
        }
    }

    /// Asks for the names that a configuration has, and no others.
    pub(super) fn ask(&mut self, file: &Config) {
        self.begin(file);
        self.running.retain(|query, _| file.queries().any(|other| other == query));
        let running = &self.running;
        self.waiting.retain(|query| running.contains_key(query));
        self.answers.retain(|query, _| running.contains_key(query));
        // What was refused may be good for another configuration.
        self.last.clear();
    }

    /// Asks for new names; until when their first answers are waited for.
    fn begin(&mut self, file: &Config) -> Instant {
        for query in file.queries() {
            let question = Question { query: query.clone(), dns: file.dns.clone(), families: file.families() };
            if self.running.get(query).is_some_and(|watch| *watch.question() == question) {
                continue;
            }
            self.seed = self.seed.wrapping_add(1);
            let known = self.answers.get(query).cloned().unwrap_or_default();
            let watch = Watch::start(question, known, self.seed, self.sender.clone());
            self.running.insert(query.clone(), watch);
            if !self.answers.contains_key(query) {
                self.waiting.insert(query.clone());
            }
        }
        // A service, then its hosts: two look-ups; whoever says nothing even then is not waited for.
        Instant::now() + file.dns.timeout * 3
    }

    /// One of the first answers, or failures, to new names; false where none is waited for any more.
    async fn first(&mut self, file: &Config, previous: Option<&Snapshot>, until: Instant) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        // It may be dropped while it waits: nothing is taken yet.
        match timeout_at(until, self.receiver.recv()).await {
            Ok(Some(resolved)) => {
                self.take(resolved, file, previous);
            }
            _ => self.waiting.clear(),
        }
        true
    }

    /// The configuration with the addresses of its names, for a start: their first answers are waited for, as long as
    /// look-ups may take.
    pub(super) async fn resolve(&mut self, file: &Config) -> Config {
        let until = self.begin(file);
        while self.first(file, None, until).await {}
        self.expanded(file, None)
    }

    fn expanded(&mut self, file: &Config, previous: Option<&Snapshot>) -> Config {
        let (config, refused) = self.expand(file, previous, &self.answers);
        self.tell(refused);
        config
    }

    /// The next answer.
    pub(super) async fn next(&mut self) -> Option<Resolved> {
        self.receiver.recv().await
    }

    fn expand(&self, file: &Config, previous: Option<&Snapshot>, answers: &Answers) -> (Config, Vec<Refused>) {
        let here = host::interfaces();
        let bound = |address: &SocketAddr| previous.is_some_and(|snapshot| snapshot.is_own(address));
        let own = |address: SocketAddr| is_own(file, &here, address) || bound(&address);
        expand(file, answers, &own)
    }

    /// Takes an answer, if there is anything in it that can be used: the last good one stays otherwise. True where it
    /// was taken.
    fn take(&mut self, Resolved { query, members }: Resolved, file: &Config, previous: Option<&Snapshot>) -> bool {
        self.waiting.remove(&query);
        let Some(members) = members else { return false };
        let is_new = self.last.get(&query) != Some(&members);
        if !is_new && !self.is_refused(&query) {
            return false;
        }
        self.last.insert(query.clone(), members);
        if self.put(&query, file, previous) {
            // What another name was refused may have been this one's until now.
            let refused: Vec<_> = self.last.keys().filter(|other| self.is_refused(other)).cloned().collect();
            refused.iter().for_each(|other| _ = self.put(other, file, previous));
            return true;
        }
        if is_new && file.queries().any(|other| *other == query) {
            tracing::warn!(name = %query, "every address of the answer was refused: the last good ones stay");
        }
        false
    }

    /// Whether the last answer is not the one that is in force.
    fn is_refused(&self, query: &Query) -> bool {
        self.answers.get(query) != self.last.get(query)
    }

    /// Puts the last answer into force, if any address of it can be used.
    fn put(&mut self, query: &Query, file: &Config, previous: Option<&Snapshot>) -> bool {
        let mut answers = self.answers.clone();
        answers.extend(self.last.get(query).map(|members| (query.clone(), members.clone())));
        let (config, refused) = self.expand(file, previous, &answers);
        let is_used =
            |backend: &Backend| backend.names.iter().any(|named| named.query == *query && named.has_servers(backend));
        let usable = config.backends.iter().any(is_used);
        self.tell(refused);
        if usable {
            self.answers = answers;
        }
        usable
    }

    /// Says what was refused, once.
    fn tell(&mut self, refused: Vec<Refused>) {
        for refused in refused.iter().filter(|refused| !self.refused.contains(refused)) {
            tracing::warn!(server = refused.server, addresses = %refused, "not a server: {}", refused.why);
        }
        self.refused = refused.into_iter().collect();
    }

    /// An answer could not be put into force, and stands in no other's way: it is tried again when it comes again.
    fn forget(&mut self, query: &Query, before: Answers) {
        self.last.remove(query);
        self.answers = before;
    }
}

/// The configuration with the addresses that its names have now. Call it inside a tokio runtime.
pub async fn with_addresses(file: &Config) -> Config {
    Names::new(0).resolve(file).await
}

impl Balancer {
    /// The configuration with the addresses of its names. The first answers to new ones are waited for, and what checks
    /// find meanwhile counts at once.
    pub(super) async fn resolve(&mut self, file: &Config) -> Config {
        let previous = self.setup.snapshot.load_full();
        let until = self.names.begin(file);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                more = self.names.first(file, Some(&previous), until) => if !more { break },
                // Whoever falls silent meanwhile is found out all the same.
                _ = look.tick() => self.look(),
                Some(news) = self.news.recv() => self.take(news),
                () = self.setup.woken.notified() => self.pass_signs_on(),
            }
        }
        self.names.expanded(file, Some(&previous))
    }

    /// A name was asked for: where its servers are others now, so are those of the next snapshot.
    pub(super) async fn resolved(&mut self, resolved: Resolved) {
        let (query, previous) = (resolved.query.clone(), self.setup.snapshot.load_full());
        let (file, before) = (self.basis.file.clone(), self.names.answers.clone());
        if !self.names.take(resolved, &file, Some(&previous)) {
            return;
        }
        let wanted = self.names.expanded(&file, Some(&previous));
        if wanted == self.basis.wanted {
            return;
        }
        let lines = difference(&self.basis.wanted, &wanted);
        let mut leaving = self.basis.leaving.clone();
        leaving.note(&wanted, &self.basis.config, &self.basis.states, clock());
        match self.apply(self.basis.next(file, wanted, self.basis.keys.clone(), leaving), None).await {
            Ok(moved) => {
                lines.iter().chain(&moved).for_each(|line| tracing::info!(name = %query, "resolved: {line}"));
            }
            Err(error) => {
                tracing::warn!(name = %query, "its new addresses cannot be used: {error}");
                self.names.forget(&query, before);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::names::Member;

    const TEXT: &str = "[[frontend]]\nname = \"f\"\nbind = \"udp://203.0.113.10:5060\"\ninside = \"10.0.1.10\"\nbackend = \"x\"\n\
        [[backend]]\nname = \"x\"\n\
        [[backend.server]]\nname = \"a\"\naddress = \"udp://a.example.ng:5060\"\n\
        [[backend.server]]\nname = \"b\"\naddress = \"udp://b.example.ng:5060\"\n";

    /// Two hosts change places, and one of the answers comes first: what the other name still holds is refused, and only
    /// until that one's answer is there.
    #[test]
    fn two_names_may_change_their_addresses() {
        let file = Config::good(TEXT);
        let queries: Vec<_> = file.queries().cloned().collect();
        let answer = |name: usize, host: u8| {
            let member = Member { address: ([10, 0, 10, host], 5060).into(), host: String::new(), srv: None };
            Resolved { query: queries[name].clone(), members: Some(vec![member]) }
        };
        for first in [0, 1] {
            let mut names = Names::new(0);
            assert!(names.take(answer(0, 1), &file, None) && names.take(answer(1, 2), &file, None));
            let swapped = |name: usize| answer(name, 2 - name as u8);
            names.take(swapped(first), &file, None);
            assert!(names.take(swapped(1 - first), &file, None));
            let servers = names.expanded(&file, None).backends[0].servers.clone();
            let of = |name: &str| servers.iter().find(|server| server.of_name() == Some(name)).map(|of| of.address);
            assert_eq!(of("a"), Some(([10, 0, 10, 2], 5060).into()), "b first: {}", first == 1);
            assert_eq!(of("b"), Some(([10, 0, 10, 1], 5060).into()), "b first: {}", first == 1);
            assert!(!names.take(swapped(0), &file, None) && !names.take(swapped(1), &file, None), "nothing new");
        }
    }
}
