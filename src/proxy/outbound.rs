//! Requests that servers send: to the client whose flow our token names, else to where the request says (docs/rules.md 20).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::sip::token::{Branch, Direction, Sealed, SealedIn, Way};
use crate::sip::{Flow, Side, Transport, Uri};
use crate::state::Reason;
use crate::state::binds::Bind;

use super::request::Identity;
use super::route::Routed;
use super::{Case, Hop, Passage, Verdict, may_send_to, stamp, unspecified};

/// Where a server's request goes.
struct Target {
    /// Position of the frontend that it leaves from.
    frontend: usize,
    hop: Hop,
    nat: bool,
}

impl Case<'_> {
    /// A server's request to a client. Only a configured server comes here: nobody else makes us send to other places.
    pub(super) fn forward_to_client(
        &mut self,
        identity: &Identity<'_>,
        routed: &Routed,
        server: usize,
    ) -> Result<Verdict, Reason> {
        let (received, snapshot) = (self.received, self.snapshot);
        let sender = &snapshot.servers[server];
        let target = self.target(routed)?;
        let home = stamp::home(identity.via, &identity.source, false);
        let frontend = &snapshot.frontends[target.frontend];
        // What a client was told of another client's address is nobody's business.
        if let Some(name) = &frontend.config.source_header {
            // Where a client takes another line end than we do, it has seen no more than its server sent.
            let _ = stamp::cut_source_header(self.edits, received.bytes, received.message, name);
        }
        let outside = snapshot.outer_side(target.hop.bind, target.hop.local);
        self.edits.insert(received.message.head);
        let own_via = stamp::OwnVia {
            branch: Branch { direction: Direction::ToClient, server: sender.id, transaction: identity.transaction },
            call: identity.call,
            way: Way { frontend: self.frontend.config.id, local: received.flow.local, remote: home, stick: None },
            time: self.send_time(),
        };
        own_via.put(self.edits, &outside, &snapshot.keys);
        if frontend.config.record_route && self.wants_record_route() {
            let sealed = Sealed {
                stands_in: SealedIn::RecordRoute,
                server: sender.id,
                frontend: frontend.config.id,
                flow: Flow { transport: Transport::Udp, local: target.hop.local, remote: target.hop.remote },
                nat: target.nat,
            };
            let inside = match frontend.egress(server) {
                Some(egress) => Cow::Borrowed(&egress.side),
                None => Cow::Owned(Side::of(received.flow.local)),
            };
            stamp::record_route(self.edits, &sealed, identity.call, &snapshot.keys, &outside, &inside);
        }
        stamp::count_hop(self.edits, received.message);
        stamp::receive_via(self.edits, identity.via, &identity.source, false);
        self.fits()?;
        self.own_call(identity.call, server);
        Ok(Verdict::Forward {
            to: target.hop,
            end: received.message.end as usize,
            passage: Passage::RequestToClient { server },
        })
    }

    /// The sender owns a call that it opens; one that is another server's stays there (it came to the sender through
    /// that one, and the caller's CANCEL must find it).
    fn own_call(&mut self, call: u64, server: usize) {
        let id = self.snapshot.servers[server].id;
        match self.memory.shared.pins.look(call, self.now) {
            (Some(pin), _) if pin.server != id => {}
            (Some(pin), _) if pin.confirmed => self.touch_pin(pin),
            (pin, seen) => self.open_pin(call, Some(seen), server, pin.is_none(), false),
        }
    }

    /// The next hop: the flow in our token where only the flow reaches the client, else the next Route or the
    /// Request-URI.
    fn target(&self, routed: &Routed) -> Result<Target, Reason> {
        let (bytes, snapshot) = (self.received.bytes, self.snapshot);
        let uri = Uri::parse(bytes, routed.next.unwrap_or(routed.request_uri)).ok_or(Reason::UnknownTarget);
        let written = uri.as_ref().ok().and_then(|uri| stamp::target(bytes, uri));
        // A name, or ourselves, says nothing about where the client is.
        let elsewhere = written.filter(|address| *address != self.received.flow.local && !snapshot.is_own(address));
        if let Some(token) = routed.token {
            let frontend = snapshot
                .frontend(token.frontend)
                .or_else(|| self.first_frontend(token.flow.remote))
                .ok_or(Reason::NoSocket)?;
            let remote = match elsewhere {
                Some(address) if !token.nat => self.allowed(address, frontend)?,
                _ => token.flow.remote,
            };
            let hop = match self.hop(frontend, token.flow.local, remote) {
                // A Contact of a family that we do not speak: the flow reaches the client nevertheless.
                Err(Reason::NoSocket) => self.hop(frontend, token.flow.local, token.flow.remote),
                found => found,
            }?;
            return Ok(Target { frontend, hop, nat: token.nat });
        }
        uri?;
        let address = written.ok_or(Reason::UnknownTarget)?;
        let frontend = self.first_frontend(address).ok_or(Reason::NoSocket)?;
        let remote = self.allowed(address, frontend)?;
        let local = SocketAddr::new(unspecified(remote), 0);
        Ok(Target { frontend, hop: self.hop(frontend, local, remote)?, nat: false })
    }

    /// The first frontend with a bind of the family.
    fn first_frontend(&self, remote: SocketAddr) -> Option<usize> {
        let bind = self.snapshot.binds.iter().find(|bind| bind.address.is_ipv4() == remote.is_ipv4())?;
        Some(bind.frontend as usize)
    }

    /// Leaves from `local` where we have it, else from the frontend's first bind of the family.
    fn hop(&self, frontend: usize, local: SocketAddr, remote: SocketAddr) -> Result<Hop, Reason> {
        let snapshot = self.snapshot;
        if !may_send_to(&remote, snapshot) {
            return Err(Reason::BadDestination);
        }
        let like = |bind: &Bind| bind.address.is_ipv4() == remote.is_ipv4();
        let at = snapshot
            .bind_for(frontend, Transport::Udp, &local)
            .filter(|at| like(&snapshot.binds[*at]))
            .or_else(|| snapshot.binds.iter().position(|bind| bind.frontend as usize == frontend && like(bind)));
        let at = at.ok_or(Reason::NoSocket)?;
        let bind = &snapshot.binds[at];
        let local = match (bind.is_wildcard(), bind.serves(Transport::Udp, &local)) {
            (false, _) => bind.address,
            (true, true) => local,
            (true, false) => bind.host.unwrap_or(bind.address),
        };
        Ok(Hop { bind: at, local, remote })
    }

    /// Whether what a message says may be followed: a registered Contact must not turn us against the inside.
    fn allowed(&self, address: SocketAddr, frontend: usize) -> Result<SocketAddr, Reason> {
        // ::ffff:127.0.0.1 is 127.0.0.1 to whoever receives it.
        let ip = address.ip().to_canonical();
        let local_only = match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
        };
        let inside = local_only || ip.is_multicast() || self.snapshot.is_own_ip(ip) || self.snapshot.is_server_ip(ip);
        match inside && !self.snapshot.frontends[frontend].send_to.contains(ip) {
            true => Err(Reason::ForbiddenTarget),
            false => Ok(address),
        }
    }
}
