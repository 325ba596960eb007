//! What those who keep this process running are told, and what they say: systemd hears that we are ready, how it is, that
//! the event loops turn, and which sockets to keep (where nobody asks, by `NOTIFY_SOCKET`, nothing is said); keepalived
//! says which addresses of the pair are here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState::{self, Ready, Status, Stopping, Watchdog};
use socket2::Socket;
use tokio::time::{Instant, interval, sleep};

use super::Balancer;
use crate::admin::journal::Kind;
use crate::admin::roles::{self, State};
use crate::admin::{View, local};
use crate::net::inherit::{self, Inherited};
use crate::net::socket::Port;
use crate::net::udp::clock;
use crate::sip::Transport;
use crate::state::Snapshot;
use crate::state::binds::Bind;

/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(100);

/// A watchdog of no time at all must not keep us from everything else.
const SHORTEST_FEED: Duration = Duration::from_millis(1);

/// So long the addresses of the pair may take to leave: two checks of keepalived, and a node that is slow.
const LONGEST_LEAVE: Duration = Duration::from_secs(5);

fn say(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "systemd could not be told how it is");
    }
}

/// Calls are taken from now on.
pub(super) fn ready() {
    say(&[Ready]);
}

/// Lets systemd know for as long as this process lives that all event loops turn, as often as it wants; one whose loops hang is
/// ended by it and started anew. A task of its own: a reload that waits for the DNS is no reason to end anything.
pub(super) fn feed_watchdog(view: View) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        // Halved, as sd_watchdog_enabled(3) advises.
        let mut tick = interval((within / 2).max(SHORTEST_FEED));
        loop {
            tick.tick().await;
            let faults = local::faults(&view);
            match faults.is_empty() {
                true => say(&[Watchdog]),
                false => tracing::error!("the watchdog is not fed: {}", faults.concat().trim_end().replace('\n', ", ")),
            }
        }
    });
}

/// The sockets of the process before us.
pub(super) fn inherited() -> Inherited {
    Inherited::take().unwrap_or_else(|error| {
        tracing::warn!(%error, "systemd handed over sockets that cannot be had: what waits in them is lost");
        Inherited::default()
    })
}

/// What of it nobody took goes: addresses that the configuration has no more, and sockets of workers that are no more.
pub(super) fn let_go(inherited: Inherited) {
    for address in inherited.forget() {
        tracing::warn!(%address, "a socket of the process before is not needed any more: what waited in it is lost");
    }
}

/// Lets systemd keep new sockets: those of `binds`, by worker, and those of relays.
pub(super) fn keep(binds: &[Bind], sockets: &[Vec<Socket>], ports: &[Vec<Port>]) {
    for (at, bind) in binds.iter().enumerate() {
        let of_bind: Vec<_> = sockets.iter().map(|of_worker| &of_worker[at]).collect();
        inherit::keep(bind.transport, bind.address, &of_bind);
    }
    for Port { socket, bound, .. } in ports.iter().flatten() {
        inherit::keep(Transport::Udp, *bound, &[socket]);
    }
}

/// Says where systemd keeps fewer sockets than there are: it says nothing itself.
pub(super) fn tell_too_many(sockets: usize) {
    /// Of the package's unit. From systemd 254 on it says how many it keeps.
    const USUAL: usize = 4_096;
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let most = std::env::var("FDSTORE").ok().and_then(|most| most.parse().ok()).unwrap_or(USUAL);
    if sockets > most {
        tracing::warn!(
            sockets,
            most,
            "systemd keeps no more than `most` sockets: a restart loses what waits in the others, unless \
             FileDescriptorStoreMax= in the unit is raised"
        );
    }
}

/// Lets systemd close what a reload closes: these binds, and the ports of relays that the next snapshot has not.
pub(super) fn forget(binds: &[Bind], previous: &Snapshot, next: &Snapshot) {
    let ports = previous.relays.iter().flat_map(|relay| relay.ports.iter().map(|port| SocketAddr::new(relay.ip, port)));
    let gone = ports.filter(|bound| next.relay_at(*bound).is_none()).map(|bound| (Transport::Udp, bound));
    let gone = gone.chain(binds.iter().map(|bind| (bind.transport, bind.address)));
    gone.for_each(|(transport, address)| inherit::forget(transport, address));
}

impl Balancer {
    /// Looks from now on into the folder where keepalived's notify says what this node is.
    pub fn follow_roles(&mut self, folder: PathBuf) {
        self.roles = Some(folder);
        self.read_roles();
    }

    /// Once a second.
    pub(super) fn read_roles(&mut self) {
        let Some(folder) = &self.roles else { return };
        let (before, now) = (self.shown.roles(), roles::read(folder));
        for role in now.iter().filter(|role| !before.contains(role)) {
            let (instance, state) = (role.instance.as_str(), role.state.word());
            if role.state == State::Master {
                self.basis.takes_over(clock());
            }
            tracing::info!(instance, state, "role");
            self.journal.note(Kind::Role, "", None, format!("{instance} is {state}"));
        }
        if *before != now {
            self.shown.set_roles(now);
        }
    }

    /// For `systemctl status`: the verdict, where it is another one.
    pub(super) fn tell_sentence(&mut self) {
        if std::env::var_os("NOTIFY_SOCKET").is_none() || self.shown.is_stopping() {
            return;
        }
        let sentence = self.shown.sentence();
        if sentence != self.sentence {
            say(&[Status(&sentence)]);
            self.sentence = sentence;
        }
    }
}

/// Says that calls should come elsewhere (`/ready`, `check-local`), and waits until the addresses of the pair have left this
/// node. Whoever serves goes on doing so meanwhile.
pub async fn leave(shown: &View) {
    shown.stop();
    say(&[Stopping, Status("stopping")]);
    let has_address = || shown.roles().iter().any(|role| role.state == State::Master);
    if !has_address() {
        return;
    }
    tracing::info!("waiting for the addresses of the pair to leave this node");
    let until = Instant::now() + LONGEST_LEAVE;
    while has_address() && Instant::now() < until {
        sleep(LOOK).await;
    }
    if has_address() {
        let seconds = LONGEST_LEAVE.as_secs();
        tracing::warn!(
            "they are here after {seconds} s; does keepalived run `trunkline check-local`? What comes now is lost"
        );
    }
}
