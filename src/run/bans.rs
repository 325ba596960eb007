//! Bans in the log, and ended by hand.

use std::net::IpAddr;

use super::Balancer;
use crate::admin::Who;
use crate::admin::journal::{Change, Kind};
use crate::net::udp::clock;

/// Lines a minute: of a flood from forged sources the log and the events have the beginning, and how many there were.
const TOLD: usize = 5;

impl Balancer {
    /// Says who is banned since the last look, and forgets whose time is over.
    pub(super) fn tell_bans(&mut self) {
        let new = self.setup.shared.bans.sweep(clock());
        let snapshot = self.setup.snapshot.load();
        for (frontend, source, ban) in new {
            self.told.bans += 1;
            if self.told.bans > TOLD {
                continue;
            }
            let Some(frontend) = snapshot.frontend_name(frontend) else { continue };
            let (why, seconds) = (ban.why.word(), ban.until.since(ban.since).as_secs());
            tracing::warn!(frontend, %source, why, seconds, "banned: it opens nothing new");
            self.journal.note(Kind::Ban, frontend, None, format!("{source} banned for {seconds} s: {why}"));
        }
    }

    /// Once a minute: how many more there were.
    pub(super) fn sum_up_bans(&mut self) {
        let more = std::mem::take(&mut self.told.bans).saturating_sub(TOLD);
        if more > 0 {
            tracing::warn!(more, "banned: others; `sip show bans` lists them");
            self.journal.note(Kind::Ban, "", None, format!("{more} others banned"));
        }
    }

    /// Ends the bans of a source.
    pub(super) fn unban(&self, who: &Who, source: IpAddr) -> Result<String, String> {
        let lifted = self.setup.shared.bans.lift(source);
        if lifted == 0 {
            return Err(format!("{source} is not banned."));
        }
        tracing::info!(%who, %source, "ban ended by hand");
        let (from, to) = (format!("{source} banned"), format!("{source} not banned"));
        let change = Change { kind: Kind::Admin, of: "", what: "ban", from, to };
        self.journal.changed(who, &change, format!("the ban of {source} ended by hand"));
        Ok(String::new())
    }
}
