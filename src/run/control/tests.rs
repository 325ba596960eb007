//! What changes while something is on its way: a balancer in this process whose loop stands still.

use std::net::{SocketAddr, UdpSocket};

use super::*;
use crate::config::{Config, key};
use crate::net::worker::Workers;
use crate::state::health::{Outcome, Transition, Why};

const WHO: Who = Who::Signal("test");

/// A port of this address that nobody has.
fn free(ip: &str) -> SocketAddr {
    UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// Two servers at addresses where nobody is, behind these addresses.
fn text(binds: &[SocketAddr], inside: &str) -> String {
    let binds: Vec<_> = binds.iter().map(|bind| format!("\"udp://{bind}\"")).collect();
    let binds = binds.join(", ");
    format!(
        "[global]\nworkers = 1\n[[frontend]]\nname = \"f\"\nbind = [{binds}]\n{inside}\nbackend = \"b\"\n\
         [[backend]]\nname = \"b\"\ncheck = {{ interval = \"60s\" }}\n\
         [[backend.server]]\nname = \"one\"\naddress = \"udp://127.0.3.201:5060\"\n\
         [[backend.server]]\nname = \"two\"\naddress = \"udp://127.0.3.202:5060\"\n"
    )
}

fn without_two(text: &str) -> String {
    text[..text.rfind("[[backend.server]]").unwrap()].to_owned()
}

fn config(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|faults| panic!("{}", faults.render("t", text)))
}

async fn start(text: &str) -> Balancer {
    let keys = key::parse(&key::generate(*b"golden route key", [0x22; 16])).unwrap();
    Balancer::start(config(text), keys, None).await.unwrap()
}

/// What a reload of this text does.
async fn take(balancer: &mut Balancer, text: &str) -> Result<(), String> {
    let (wanted, basis) = (config(text), &balancer.basis);
    let mut leaving = basis.leaving.clone();
    leaving.note(&wanted, &basis.config, &basis.states, clock());
    let next = basis.next(wanted.clone(), wanted, basis.keys.clone(), leaving);
    balancer.apply(next).await.map(|_| ())
}

#[tokio::test]
async fn a_removed_server_stays_out_of_new_calls_through_maintenance() {
    let text = text(&[free("127.0.2.201")], "");
    let mut balancer = start(&text).await;
    let two = balancer.basis.config.backends[0].servers[1].id;
    take(&mut balancer, &without_two(&text)).await.unwrap();
    assert_eq!(balancer.basis.states[&two].admin, Admin::Leaving);
    balancer.set_admin(&WHO, two, Admin::Maint).unwrap();
    for admin in [Admin::Ready, Admin::Drain] {
        let error = balancer.set_admin(&WHO, two, admin).unwrap_err();
        assert!(error.contains("removed from the configuration") && error.contains("reload"), "{error}");
    }
    let error = balancer.set_weight(&WHO, two, Some(100)).unwrap_err();
    assert!(error.contains("removed from the configuration"), "{error}");
    assert_eq!((balancer.basis.states[&two].admin, balancer.basis.states[&two].weight), (Admin::Maint, None));
    take(&mut balancer, &text).await.unwrap();
    balancer.set_admin(&WHO, two, Admin::Ready).unwrap();
    balancer.set_weight(&WHO, two, Some(50)).unwrap();
    balancer.stop();
}

#[tokio::test]
async fn what_a_check_found_is_forgotten_with_the_check() {
    let text = text(&[free("127.0.2.202")], "");
    let mut balancer = start(&text).await;
    let (one, two) = (balancer.basis.config.backends[0].servers[0].id, balancer.basis.config.backends[0].servers[1].id);
    let (sender, changes) = mpsc::channel(4);
    balancer.changes = changes;
    let found = |id, to| {
        let why = Why::Check(Outcome::Unreachable);
        Changed { id, transition: Transition { from: Health::Up, to, why, checks: 3 } }
    };
    sender.try_send(found(one, Health::Dead)).unwrap();
    take(&mut balancer, &text).await.unwrap();
    assert_eq!(balancer.basis.states[&one].health, Health::Dead, "who is still checked is what was found");
    sender.try_send(found(two, Health::Suspect)).unwrap();
    take(&mut balancer, &text.replace("check = {", "check = { type = \"none\",")).await.unwrap();
    // One that was under way when its check ended.
    balancer.change(found(one, Health::Dead));
    let health = [one, two].map(|id| balancer.basis.states[&id].health);
    assert_eq!(health, [Health::Up; 2], "nobody would take it back");
    balancer.stop();
}

#[tokio::test]
async fn a_worker_that_has_ended_keeps_no_snapshot() {
    let mut balancer = start(&text(&[free("127.0.2.203")], "")).await;
    let none = Workers::start(&balancer.setup, Vec::new()).unwrap();
    std::mem::replace(&mut balancer.workers, none).stop();
    for _ in 0..10 {
        balancer.renew();
        balancer.drop_retired();
    }
    assert_eq!(balancer.retired.len(), 0);
    balancer.stop();
}

#[tokio::test]
async fn servers_see_one_address_for_as_long_as_a_bind_has_its_port() {
    let (first, second) = (free("127.0.2.204"), free("127.0.2.204"));
    let text = |binds: &[SocketAddr]| text(binds, "inside = \"127.0.2.205\"");
    let mut balancer = start(&text(&[first, second])).await;
    let seen = |balancer: &Balancer| {
        let snapshot = balancer.setup.snapshot.load();
        snapshot.frontends[0].egress(0).unwrap().local.port()
    };
    assert_eq!(seen(&balancer), first.port());
    take(&mut balancer, &text(&[second, first])).await.unwrap();
    assert_eq!(seen(&balancer), first.port(), "the order has changed");
    take(&mut balancer, &text(&[second])).await.unwrap();
    assert_eq!(seen(&balancer), first.port(), "the removed address is still served");
    let Basis { file, wanted, keys, .. } = &balancer.basis;
    let next = balancer.basis.next(file.clone(), wanted.clone(), keys.clone(), Default::default());
    balancer.apply(next).await.unwrap();
    assert_eq!(seen(&balancer), second.port());
    balancer.stop();
}
