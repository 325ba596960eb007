//! What changes while something is on its way: a balancer in this process whose loop stands still.

use std::net::{SocketAddr, UdpSocket};

use super::*;
use crate::admin::roles::{self, State};
use crate::config::leaving::has_server;
use crate::config::{Config, key};
use crate::net::worker::Workers;
use crate::state::Time;
use crate::state::health::{Outcome, Why};
use crate::state::server::Rest;

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

async fn start(text: &str) -> Balancer {
    let keys = key::parse(&key::generate(*b"golden route key", [0x22; 16])).unwrap();
    Balancer::start(Config::good(text), keys, None).await.unwrap()
}

/// What a reload of this text does.
async fn take(balancer: &mut Balancer, text: &str) -> Result<(), String> {
    let (wanted, basis) = (Config::good(text), &balancer.basis);
    let mut leaving = basis.leaving.clone();
    leaving.note(&wanted, &basis.config, &basis.states, clock());
    let next = basis.next(wanted.clone(), wanted, basis.keys.clone(), leaving);
    balancer.apply(next, None).await.map(|_| ())
}

#[tokio::test]
async fn a_removed_server_stays_out_of_new_calls_through_maintenance() {
    let text = text(&[free("127.0.2.201")], "");
    let mut balancer = start(&text).await;
    let two = balancer.basis.config.backends[0].servers[1].id;
    take(&mut balancer, &without_two(&text)).await.unwrap();
    assert_eq!(balancer.basis.states[&two].admin, Admin::Leaving);
    for admin in [Admin::Ready, Admin::Drain] {
        let error = balancer.set_admin(&WHO, two, admin).await.unwrap_err();
        assert!(error.contains("removed from the configuration") && error.contains("reload"), "{error}");
    }
    let error = balancer.set_weight(&WHO, two, Some(100)).unwrap_err();
    assert!(error.contains("removed from the configuration"), "{error}");
    assert_eq!((balancer.basis.states[&two].admin, balancer.basis.states[&two].weight), (Admin::Leaving, None));
    balancer.set_admin(&WHO, two, Admin::Maint).await.unwrap();
    assert_eq!(balancer.set_admin(&WHO, two, Admin::Ready).await.unwrap_err(), "No such server.");
    take(&mut balancer, &text).await.unwrap();
    balancer.set_admin(&WHO, two, Admin::Ready).await.unwrap();
    balancer.set_weight(&WHO, two, Some(50)).unwrap();
    balancer.stop().await;
}

#[tokio::test]
async fn what_a_check_found_is_forgotten_with_the_check() {
    let text = text(&[free("127.0.2.202")], "");
    let mut balancer = start(&text).await;
    let (one, two) = (balancer.basis.config.backends[0].servers[0].id, balancer.basis.config.backends[0].servers[1].id);
    let (sender, changes) = mpsc::channel(4);
    balancer.news = changes;
    let found = |id, to| {
        let why = Why::Check(Outcome::Unreachable);
        News { id, checked: None, transition: Some(Transition { from: Health::Up, to, why, checks: 3 }) }
    };
    sender.try_send(found(one, Health::Dead)).unwrap();
    take(&mut balancer, &text).await.unwrap();
    assert_eq!(balancer.basis.states[&one].health, Health::Dead, "who is still checked is what was found");
    sender.try_send(found(two, Health::Suspect)).unwrap();
    take(&mut balancer, &text.replace("check = {", "check = { type = \"none\",")).await.unwrap();
    // One that was under way when its check ended.
    balancer.take(found(one, Health::Dead));
    let health = [one, two].map(|id| balancer.basis.states[&id].health);
    assert_eq!(health, [Health::Up; 2], "nobody would take it back");
    balancer.stop().await;
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
    balancer.stop().await;
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
    balancer.apply(next, None).await.unwrap();
    assert_eq!(seen(&balancer), second.port());
    balancer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_transactions_is_forgotten_once_a_second() {
    let text = text(&[free("127.0.2.210")], "").replace("check =", "balance = \"leasttransactions\"\ncheck =");
    let mut balancer = start(&text).await;
    let live = Arc::clone(&balancer.setup.snapshot.load().servers[0].live);
    live.transactions.add(32);
    let _ = tokio::time::timeout(Duration::from_millis(3_500), balancer.serve()).await;
    assert_eq!(live.transactions.get(), 32 - 2 - 1 - 1 - 1, "at once, and after one, two and three seconds");
    balancer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whether_servers_are_looked_at_is_said_until_nobody_has_to() {
    let mut balancer = start(&text(&[free("127.0.2.213")], "")).await;
    let shared = Arc::clone(&balancer.setup.shared);
    let _ = tokio::time::timeout(Duration::from_secs(1), balancer.serve()).await;
    let looked = shared.looked.get();
    assert!((1..=clock().0).contains(&looked), "{looked}");
    balancer.stop().await;
    assert_eq!(clock().since(Time(shared.looked.get())), Duration::ZERO);
}

#[tokio::test]
async fn who_is_removed_and_in_maintenance_leaves_its_address_to_the_next() {
    let text = text(&[free("127.0.2.206")], "");
    let renamed = text.replace("name = \"two\"", "name = \"next\"");
    for removed_first in [true, false] {
        let mut balancer = start(&text).await;
        let two = balancer.basis.config.backends[0].servers[1].clone();
        if removed_first {
            take(&mut balancer, &without_two(&text)).await.unwrap();
        }
        balancer.set_admin(&WHO, two.id, Admin::Maint).await.unwrap();
        take(&mut balancer, &renamed).await.unwrap();
        let snapshot = balancer.setup.snapshot.load();
        let name = |at: Option<usize>| at.map(|at| snapshot.servers[at].name.as_str());
        assert_eq!(name(snapshot.server_at(&two.address, false)), Some("b/next"), "removed first: {removed_first}");
        assert_eq!(name(snapshot.server_reached_at(&two.address)), Some("b/next"));
        assert_eq!(snapshot.server(two.id), None);
        drop(snapshot);
        balancer.stop().await;
    }
}

/// The servers of [`text`], the first of them at this address and checked all the time.
fn checked(at: SocketAddr, other: &str) -> String {
    let text = text(&[free("127.0.2.207")], "").replace("127.0.3.201:5060", &at.to_string());
    text.replace("{ interval = \"60s\" }", &format!("{{ interval = \"300ms\", fast_interval = \"100ms\", {other} }}"))
}

/// Answers a check.
async fn answer(server: &tokio::net::UdpSocket, status: &str) {
    let mut request = [0; 4096];
    let asked = tokio::time::timeout(Duration::from_secs(20), server.recv_from(&mut request));
    let (length, from) = asked.await.expect("a check in time").unwrap();
    let head = String::from_utf8_lossy(&request[..length]).split_once("\r\n").unwrap().1.to_owned();
    server.send_to(format!("SIP/2.0 {status}\r\n{head}").as_bytes(), from).await.unwrap();
}

async fn next_change(balancer: &mut Balancer) -> Transition {
    loop {
        let news = tokio::time::timeout(Duration::from_secs(20), balancer.news.recv());
        let news = news.await.expect("a change in time").unwrap();
        balancer.take(news);
        if let Some(transition) = news.transition {
            return transition;
        }
    }
}

#[tokio::test]
async fn a_changed_check_lets_a_server_have_its_rest() {
    let server = tokio::net::UdpSocket::bind("127.0.3.203:0").await.unwrap();
    let text = checked(server.local_addr().unwrap(), "rise = 2").replace("127.0.3.202:5060", "127.0.3.203:9");
    let mut balancer = start(&without_two(&text)).await;
    answer(&server, "503 Busy\r\nRetry-After: 40").await;
    assert_eq!(next_change(&mut balancer).await.to, Health::Resting(Rest::Check));
    for check in ["350ms", "400ms"] {
        take(&mut balancer, &without_two(&text.replace("300ms", check))).await.unwrap();
        // When the next check begins it is known what the one before has changed.
        answer(&server, "200 OK").await;
        answer(&server, "200 OK").await;
        let news = std::iter::from_fn(|| balancer.news.try_recv().ok());
        assert_eq!(news.filter_map(|news| news.transition).count(), 0, "it rests still");
    }
    balancer.stop().await;
}

#[tokio::test]
async fn a_changed_check_goes_on_counting() {
    let server = tokio::net::UdpSocket::bind("127.0.3.204:0").await.unwrap();
    let text = checked(server.local_addr().unwrap(), "fall = 5, rise = 5");
    let mut balancer = start(&without_two(&text)).await;
    let one = balancer.basis.config.backends[0].servers[0].id;
    for (status, to) in [("500 Broken", Health::Down), ("200 OK", Health::Up)] {
        let mut rounds = 0;
        while balancer.basis.states.get(&one).is_none_or(|state| state.health != to) {
            rounds += 1;
            assert!(rounds < 20, "{status}: so many checks, and nobody counts them");
            // Never five checks between two reloads.
            answer(&server, status).await;
            answer(&server, status).await;
            let changed = without_two(&text.replace("300ms", &format!("{}ms", 300 + rounds)));
            take(&mut balancer, &changed).await.unwrap();
            balancer.take_all();
        }
    }
    balancer.stop().await;
}

#[tokio::test]
async fn a_refused_reload_makes_nobody_start_slowly() {
    let slow = |text: &str| text.replace("202:5060\"\n", "202:5060\"\nslow_start = \"60s\"\n");
    let (own, taken) = (free("127.0.2.208"), UdpSocket::bind("127.0.2.208:0").unwrap());
    let good = slow(&text(&[own], ""));
    let mut balancer = start(&good).await;
    let two = balancer.basis.config.backends[0].servers[1].id;
    take(&mut balancer, &good).await.unwrap();
    let faulty = slow(&text(&[own, taken.local_addr().unwrap()], ""));
    let error = take(&mut balancer, &without_two(&faulty)).await.unwrap_err();
    assert!(error.contains("nothing was changed"), "{error}");
    balancer.keep_calls();
    assert_eq!(balancer.basis.states[&two].held_back, 0, "it was never away");
    balancer.stop().await;
}

/// Calls of the other node come by tokens, and no pin knows them.
#[tokio::test]
async fn who_becomes_master_keeps_what_is_removed_for_the_calls_of_the_other_node() {
    let text = text(&[free("127.0.2.209")], "");
    let mut balancer = start(&text).await;
    let two = balancer.basis.config.backends[0].servers[1].id;
    // As if it had run for as long as a pin lives.
    balancer.basis.leaving = Default::default();
    let folder = tempfile::TempDir::new().unwrap();
    balancer.follow_roles(folder.path().into());
    for (state, kept) in [(State::Backup, false), (State::Master, true)] {
        roles::write(folder.path(), "VI_1", state).unwrap();
        balancer.read_roles();
        take(&mut balancer, &without_two(&text)).await.unwrap();
        balancer.count_calls_of_leaving();
        let counted = balancer.walks.join_next().await.unwrap().unwrap();
        balancer.let_go(counted).await;
        assert_eq!(has_server(&balancer.basis.config, two), kept, "{state:?}");
        take(&mut balancer, &text).await.unwrap();
    }
    balancer.stop().await;
}

/// A walk of the calls says nothing of who was removed while it went on: a call may have come to him since.
#[tokio::test]
async fn who_was_removed_behind_a_walk_stays_for_the_next() {
    let text = text(&[free("127.0.2.212")], "");
    let mut balancer = start(&text).await;
    let two = balancer.basis.config.backends[0].servers[1].id;
    // As if it had run for as long as a pin lives.
    balancer.basis.leaving = Default::default();
    let before = (clock(), Default::default());
    take(&mut balancer, &without_two(&text)).await.unwrap();
    balancer.let_go(before).await;
    assert!(has_server(&balancer.basis.config, two));
    balancer.let_go((clock(), Default::default())).await;
    assert!(!has_server(&balancer.basis.config, two));
    balancer.stop().await;
}

/// What was asked of an address that the DNS takes away and brings back holds, whatever other names leave the file meanwhile.
#[tokio::test]
async fn an_address_that_comes_back_is_what_it_was_asked_to_be() {
    let name =
        |name: &str| format!("[[backend.server]]\nname = \"{name}\"\naddress = \"udp://{name}.example.ng:5060\"\n");
    let (text, at) = (text(&[free("127.0.2.211")], ""), "127.0.3.203:5060".parse().unwrap());
    let both = Config::good(&(text.clone() + &name("pbx") + &name("other")));
    let one = Config::good(&(text.clone() + &name("pbx")));
    let mut balancer = start(&text).await;
    let with = |file: &Config| {
        let member = crate::config::names::Member { address: at, host: String::new(), srv: None };
        let query = file.queries().next().unwrap().clone();
        crate::config::names::expand(file, &[(query, vec![member])].into(), &|_| false).0
    };
    let next = |balancer: &Balancer, file: &Config, wanted: Config| {
        balancer.basis.next(file.clone(), wanted, balancer.basis.keys.clone(), balancer.basis.leaving.clone())
    };
    balancer.basis = next(&balancer, &both, with(&both));
    let id = NameHash::of("b/pbx@127.0.3.203:5060");
    let asked = ServerState { admin: Admin::Maint, weight: Some(10), max_calls: Some(5), ..ServerState::default() };
    balancer.basis.states.insert(id, asked);
    balancer.basis = next(&balancer, &both, both.clone());
    balancer.basis = next(&balancer, &one, one.clone());
    balancer.basis = next(&balancer, &one, with(&one));
    let of = |state: ServerState| (state.admin, state.weight, state.max_calls);
    assert_eq!(of(balancer.basis.states[&id]), of(asked), "somebody put it out, and made it weak");
    balancer.basis = next(&balancer, &one, one.clone());
    let mut heavier = with(&one);
    heavier.backends[0].servers.iter_mut().for_each(|server| server.weight = 200);
    balancer.basis = next(&balancer, &one, heavier);
    assert_eq!(of(balancer.basis.states[&id]), (Admin::Maint, None, Some(5)), "the file has another weight");
    let none = Config::good(&text);
    balancer.basis = next(&balancer, &none, none.clone());
    balancer.basis = next(&balancer, &one, with(&one));
    assert_eq!(balancer.basis.states[&id].admin, Admin::Ready, "its own name had left the file");
    balancer.stop().await;
}
