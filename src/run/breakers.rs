//! What control does about what it sees of servers: silent ones are checked, breakers move.

use super::Balancer;
use crate::admin::Who;
use crate::admin::journal::{Change, Kind};
use crate::net::udp::clock;
use crate::sip::token::NameHash;
use crate::state::breaker::{Step, Transition};
use crate::state::server::{Circuit, Sign};
use crate::state::watch::News;

impl Balancer {
    /// A server that answers nothing of what it gets is checked at once, whatever its interval; breakers move.
    pub(super) fn look(&mut self) {
        let (snapshot, now) = (self.setup.snapshot.load_full(), clock());
        self.setup.shared.looked.set(now.0);
        for (id, news) in self.watch.look(&snapshot, now) {
            match news {
                News::Silent => self.checks.sign(id, Sign::Silent),
                News::Breaker(Step::Moved(transition)) => self.change_breaker(id, transition),
                News::Breaker(Step::Held(why)) => {
                    let server = self.name_of(id);
                    tracing::warn!(server, reason = %why, "breaker stays closed: more than max_open of the weight would be taken away");
                }
            }
        }
    }

    /// A server's breaker moved: a new snapshot, and a line in the log.
    fn change_breaker(&mut self, id: NameHash, Transition { from, to, why }: Transition) {
        let (server, from, to_word) = (self.name_of(id), from.word(), to.word());
        match to {
            Circuit::Open => tracing::warn!(server, from, to = to_word, reason = %why, "breaker"),
            _ => tracing::info!(server, from, to = to_word, reason = %why, "breaker"),
        }
        self.journal.note(Kind::Breaker, &server, None, format!("{from} -> {to_word}: {why}"));
        self.set_state(id, |state| state.breaker = to);
    }

    /// Closes a server's breaker by hand.
    pub(super) fn reset_breaker(&mut self, who: &Who, id: NameHash) -> Result<String, String> {
        let snapshot = self.setup.snapshot.load_full();
        let transition = self.watch.reset(id, &snapshot, clock()).ok_or("This server's breaker is closed.")?;
        let server = self.name_of(id);
        tracing::info!(%who, server, "breaker closed by hand");
        let (from, to) = (transition.from.word().to_owned(), transition.to.word().to_owned());
        let change = Change { kind: Kind::Admin, of: &server, what: "breaker", from, to };
        self.journal.changed(who, &change, "breaker closed by hand".to_owned());
        self.change_breaker(id, transition);
        Ok(String::new())
    }
}
