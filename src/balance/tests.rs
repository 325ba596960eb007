//! The promises of the balance: shares, minimal movement, agreement between nodes, partial rebuilds that equal full
//! ones, and golden vectors so that none of it changes by accident.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const KEY: &[u8; 16] = b"golden route key";
const SPILL: SpillBelow = SpillBelow(50);

fn region(id: u32, weight: u32, servers: &[(u32, u32)]) -> Region {
    let servers: Vec<_> = servers.iter().map(|&(id, weight)| Candidate { id, weight }).collect();
    Region { id, weight, total: servers.iter().map(|server| server.weight).sum(), servers }
}

/// Lagos with three servers, Abuja and Asaba with one.
fn nigeria() -> Vec<Region> {
    vec![region(1, 70, &[(11, 100), (12, 100), (13, 100)]), region(2, 15, &[(21, 100)]), region(3, 15, &[(31, 100)])]
}

/// Well-mixed keys.
fn keys(count: u64) -> impl Iterator<Item = u64> {
    let hasher = siphasher::sip::SipHasher13::new();
    (0..count).map(move |n| hasher.hash(&n.to_be_bytes()))
}

fn picks(balance: &Balance, count: u64) -> Vec<Option<u32>> {
    keys(count).map(|key| balance.pick(key, None)).collect()
}

fn shares(picks: &[Option<u32>]) -> HashMap<u32, f64> {
    let mut shares = HashMap::new();
    for id in picks.iter().flatten() {
        *shares.entry(*id).or_insert(0.0) += 100.0 / picks.len() as f64;
    }
    shares
}

fn build(regions: &[Region]) -> Balance {
    Balance::build(KEY, Algorithm::Hash, regions, SPILL, None)
}

/// Takes a server out of its region; its weight stays in the total.
fn without(regions: &[Region], id: u32) -> Vec<Region> {
    let mut regions = regions.to_vec();
    for region in &mut regions {
        region.servers.retain(|server| server.id != id);
    }
    regions
}

#[test]
fn shares_follow_the_weights() {
    let shares = shares(&picks(&build(&nigeria()), 100_000));
    let lagos: f64 = [11, 12, 13].iter().map(|id| shares[id]).sum();
    assert!((lagos - 70.0).abs() < 0.5, "Lagos {lagos}");
    for id in [21, 31] {
        assert!((shares[&id] - 15.0).abs() < 0.5, "{id}: {}", shares[&id]);
    }
    for id in [11, 12, 13] {
        assert!((shares[&id] - 70.0 / 3.0).abs() < 1.0, "{id}: {}", shares[&id]);
    }
}

#[test]
fn any_key_splits_within_a_point() {
    for seed in 0..20u8 {
        let balance = Balance::build(&[seed; 16], Algorithm::Hash, &nigeria(), SPILL, None);
        let shares = shares(&picks(&balance, 100_000));
        let lagos: f64 = [11, 12, 13].iter().map(|id| shares[id]).sum();
        assert!((lagos - 70.0).abs() < 1.0, "key {seed}: Lagos {lagos}");
    }
}

#[test]
fn a_server_that_leaves_moves_its_own_keys_and_no_other() {
    let before = picks(&build(&nigeria()), 100_000);
    for gone in [11, 12, 13, 21, 31] {
        let after = picks(&build(&without(&nigeria(), gone)), 100_000);
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        let own = before.iter().filter(|&&id| id == Some(gone)).count();
        let strangers = before.iter().zip(&after).filter(|(b, a)| b != a && **b != Some(gone)).count();
        assert_eq!((moved, strangers), (own, 0), "server {gone}");
    }
}

#[test]
fn a_region_that_dies_leaves_its_share_to_the_others_in_proportion() {
    let dead = without(&without(&without(&nigeria(), 11), 12), 13);
    let shares = shares(&picks(&build(&dead), 100_000));
    assert!((shares[&21] - 50.0).abs() < 0.5, "{shares:?}");
    assert!((shares[&31] - 50.0).abs() < 0.5, "{shares:?}");
}

#[test]
fn a_region_keeps_its_share_until_it_spills() {
    let weak = without(&nigeria(), 11);
    let share_of_lagos = |regions: &[Region], spill| {
        let shares = shares(&picks(&Balance::build(KEY, Algorithm::Hash, regions, spill, None), 100_000));
        [11, 12, 13].iter().filter_map(|id| shares.get(id)).sum::<f64>()
    };
    // Two of three servers are more than half: the share stays. One of three is two thirds of half.
    assert!((share_of_lagos(&weak, SPILL) - 70.0).abs() < 0.5);
    let weaker = without(&weak, 12);
    let expected = 100.0 * (70.0 * 2.0 / 3.0) / (70.0 * 2.0 / 3.0 + 30.0);
    let actual = share_of_lagos(&weaker, SPILL);
    assert!((actual - expected).abs() < 0.5, "{actual}, expected {expected}");
    assert!((share_of_lagos(&weaker, SpillBelow(0)) - 70.0).abs() < 0.5);
}

#[test]
fn a_preferred_region_takes_its_clients_while_it_can() {
    let balance = build(&nigeria());
    assert!(keys(1000).all(|key| balance.pick(key, Some(2)) == Some(21)));
    let without_abuja = build(&without(&nigeria(), 21));
    assert!(keys(1000).all(|key| without_abuja.pick(key, Some(2)) == without_abuja.pick(key, None)));
}

#[test]
fn nobody_is_a_value() {
    let balance = build(&[region(1, 70, &[]), region(2, 0, &[(21, 100)]), region(3, 5, &[(31, 0)])]);
    assert!(balance.is_empty());
    assert_eq!(balance.pick(1, None), None);
}

#[test]
fn an_unchanged_table_is_shared_and_a_changed_one_is_not() {
    let before = build(&nigeria());
    let same = Balance::build(KEY, Algorithm::Hash, &nigeria(), SPILL, Some(&before));
    assert_eq!(same.shared_tables(&before), 4);
    let after = Balance::build(KEY, Algorithm::Hash, &without(&nigeria(), 12), SPILL, Some(&before));
    assert_eq!(after.shared_tables(&before), 3, "only Lagos' own table is new");
}

/// Two nodes that disagree on one row send a call to two servers: no row may change unnoticed.
#[test]
fn golden_vectors() {
    let balance = build(&nigeria());
    let first: Vec<_> = keys(32).map(|key| balance.pick(key, None).unwrap()).collect();
    assert_eq!(first, GOLDEN_PICKS);
    let mut hasher = siphasher::sip::SipHasher13::new();
    for id in picks(&balance, 100_000) {
        std::hash::Hasher::write(&mut hasher, &id.unwrap().to_be_bytes());
    }
    assert_eq!(std::hash::Hasher::finish(&hasher), GOLDEN_DIGEST);
}

/// Computed by an independent implementation with fifty-digit logarithms.
const GOLDEN_PICKS: [u32; 32] = [
    21, 12, 11, 11, 31, 21, 31, 31, 12, 13, 31, 12, 11, 11, 31, 31, 12, 13, 11, 21, 13, 21, 11, 13, 13, 21, 12, 21, 11,
    31, 12, 11,
];
const GOLDEN_DIGEST: u64 = 3_364_749_308_546_717_597;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However a configuration was reached, its tables are those of a fresh start: a node that saw every change and
    /// one that just booted agree.
    #[test]
    fn a_rebuild_equals_a_build(steps in proptest::collection::vec(
        proptest::collection::vec((1u32..8, 0u32..4), 0..7), 1..5)) {
        let mut table: Option<Arc<Table>> = None;
        for step in steps {
            let candidates: HashMap<_, _> = step.into_iter().collect();
            let candidates: Vec<_> = candidates.into_iter().map(|(id, weight)| Candidate { id, weight: weight * 50 }).collect();
            let renewed = Table::renew(KEY, b"server\0\0", &candidates, table.as_ref());
            let fresh = Table::renew(KEY, b"server\0\0", &candidates, None);
            prop_assert!(*renewed == *fresh);
            table = Some(renewed);
        }
    }
}

/// What an algorithm is by its definition: a look at every server of the key's region.
struct Naive {
    algorithm: Algorithm,
    regions: Vec<Region>,
    /// By region and seat: calls, the most calls, and when it was last chosen.
    loads: Vec<Vec<(u32, u32, u64)>>,
    turns: u64,
}

impl Naive {
    fn new(algorithm: Algorithm, regions: &[Region], max: u32) -> Self {
        let loads = regions.iter().map(|region| vec![(0, max, 0); region.servers.len()]).collect();
        Self { algorithm, regions: regions.to_vec(), loads, turns: 0 }
    }

    fn at(&self, id: u32) -> (usize, usize) {
        let seat = |region: &Region| region.servers.iter().position(|server| server.id == id);
        self.regions.iter().zip(0..).find_map(|(region, at)| Some((at, seat(region)?))).unwrap()
    }

    fn has_room(&self, id: u32) -> bool {
        let (region, seat) = self.at(id);
        let (calls, max, _) = self.loads[region][seat];
        calls < max
    }

    /// Whom it chooses in this region; `None` where the definition leaves it open.
    fn choose(&self, region: usize, candidates: &[u32]) -> Option<u32> {
        let servers = &self.regions[region].servers;
        let open = servers
            .iter()
            .zip(&self.loads[region])
            .filter(|(server, (calls, max, _))| server.weight > 0 && calls < max);
        let load = |calls: u32, weight: u32| f64::from(calls + 1) / f64::from(weight);
        match self.algorithm {
            Algorithm::First => open.map(|(server, _)| server.id).next(),
            Algorithm::LeastConn | Algorithm::LeastTransactions => open
                .min_by(|(a, (x, _, since_x)), (b, (y, _, since_y))| {
                    load(*x, a.weight).total_cmp(&load(*y, b.weight)).then(since_x.cmp(since_y))
                })
                .map(|(server, _)| server.id),
            Algorithm::Random2 => {
                let [a, b] = [candidates[0], candidates[1]].map(|id| (id, self.at(id).1));
                let of = |seat: usize| load(self.loads[region][seat].0, servers[seat].weight);
                let least = if of(b.1) < of(a.1) { b } else { a };
                Some(least.0).filter(|id| self.has_room(*id))
            }
            Algorithm::Hash | Algorithm::RoundRobin => None,
        }
    }
}

/// 100,000 calls, of which as many end as servers can have at once; every choice is compared.
fn assert_is_by_definition(algorithm: Algorithm, regions: &[Region], at_once: usize, max: u32) -> HashMap<u32, u32> {
    let balance = Balance::build(KEY, algorithm, regions, SPILL, None);
    let mut naive = Naive::new(algorithm, regions, max);
    let mut running = std::collections::VecDeque::new();
    let mut split = HashMap::new();
    for key in keys(100_000) {
        let region = regions.iter().position(|region| Some(region.id) == balance.region(key)).unwrap();
        let expected = naive.choose(region, &balance.candidates(key, None));
        let found = balance.find(key, None, true, |id| naive.has_room(id)).unwrap();
        if expected.is_some() {
            assert_eq!(Some(found), expected, "{algorithm:?}, key {key:x}");
        }
        let change = |naive: &mut Naive, id: u32, by: i32| {
            let (region, seat) = naive.at(id);
            naive.turns += 1;
            let (turn, load) = (naive.turns, &mut naive.loads[region][seat]);
            load.0 = load.0.wrapping_add_signed(by);
            load.2 = if by > 0 { turn } else { load.2 };
            // Full ones lose their place among equals.
            if load.0 >= load.1 {
                load.2 = 0;
            }
            balance.set(region, seat, (load.0 < load.1).then_some(load.0));
        };
        change(&mut naive, found, 1);
        running.push_back(found);
        *split.entry(found).or_insert(0) += 1;
        if running.len() > at_once {
            // Not in order: calls are of different lengths.
            let ended = running.swap_remove_back(key as usize % running.len()).unwrap();
            change(&mut naive, ended, -1);
        }
    }
    println!("{algorithm:?}, at most {max}: {split:?}");
    split
}

#[test]
fn every_algorithm_is_what_its_definition_says() {
    let uneven = vec![
        region(1, 70, &[(11, 100), (12, 50), (13, 7), (14, 0)]),
        region(2, 15, &[(21, 1)]),
        region(3, 15, &[(31, 3), (32, 256)]),
    ];
    for algorithm in [Algorithm::LeastConn, Algorithm::LeastTransactions, Algorithm::Random2, Algorithm::First] {
        for (at_once, max) in [(10, u32::MAX), (2_000, u32::MAX), (2_000, 700)] {
            assert_is_by_definition(algorithm, &uneven, at_once, max);
            assert_is_by_definition(algorithm, &nigeria(), at_once, max);
        }
    }
}

#[test]
fn leastconn_splits_calls_that_last_by_weight() {
    let split = assert_is_by_definition(
        Algorithm::LeastConn,
        &[region(1, 1, &[(1, 100), (2, 50), (3, 50)])],
        100_000,
        u32::MAX,
    );
    assert_eq!([1, 2, 3].map(|id| split[&id]), [50_000, 25_000, 25_000]);
}

#[test]
fn roundrobin_splits_exactly_inside_a_region() {
    let regions = [region(1, 70, &[(11, 100), (12, 50), (13, 50)]), region(2, 30, &[(21, 3), (22, 1)])];
    let balance = Balance::build(KEY, Algorithm::RoundRobin, &regions, SPILL, None);
    let mut split = HashMap::new();
    keys(100_000).for_each(|key| *split.entry(balance.find(key, None, true, |_| true).unwrap()).or_insert(0u32) += 1);
    for region in &regions {
        let all: u32 = region.servers.iter().map(|server| split[&server.id]).sum();
        for server in &region.servers {
            let share = f64::from(all) * f64::from(server.weight) / f64::from(region.total);
            assert!(
                (f64::from(split[&server.id]) - share).abs() < 1.0,
                "{split:?}: {} of {all}, not {share}",
                server.id
            );
        }
    }
    let lagos = split[&11] + split[&12] + split[&13];
    assert!((69_500..70_500).contains(&lagos), "{split:?}");
}

#[test]
fn random2_is_nearer_to_even_than_chance() {
    let servers: Vec<_> = (0..10).map(|id| (id, 100)).collect();
    let split = |algorithm| {
        let split = assert_is_by_definition(algorithm, &[region(1, 1, &servers)], 100_000, u32::MAX);
        split.values().max().unwrap() - split.values().min().unwrap()
    };
    let (chance, two) = (split(Algorithm::Hash), split(Algorithm::Random2));
    assert!(two <= 10 && chance > 100, "{two} and {chance} calls between the busiest and the idlest");
}

/// A full server's keys go to the others by weight, region by region; nobody else's key moves.
#[test]
fn what_is_full_spills_and_nothing_else_moves() {
    let balance = build(&nigeria());
    let before = picks(&balance, 100_000);
    let with_full = |full: &[u32]| -> Vec<_> {
        keys(100_000).map(|key| balance.find(key, None, true, |id| !full.contains(&id))).collect()
    };
    let after = with_full(&[12]);
    let moved: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).collect();
    assert!(moved.iter().all(|(before, after)| **before == Some(12) && [Some(11), Some(13)].contains(after)));
    let to_eleven = moved.iter().filter(|(_, after)| **after == Some(11)).count();
    assert!(
        moved.len() > 20_000 && to_eleven.abs_diff(moved.len() / 2) < moved.len() / 50,
        "{to_eleven} of {}",
        moved.len()
    );
    let lagos_full = with_full(&[11, 12, 13]);
    let to_abuja = lagos_full.iter().filter(|id| **id == Some(21)).count();
    assert!(to_abuja.abs_diff(50_000) < 1_000, "{to_abuja}");
    assert_eq!(with_full(&[11, 12, 21, 31]), vec![Some(13); 100_000], "the only one that has room is found");
    assert_eq!(with_full(&[11, 12, 13, 21, 31]), vec![None; 100_000]);
}

#[test]
fn one_of_hundreds_that_has_room_is_found() {
    let servers: Vec<_> = (0..300).map(|id| (id, 100)).collect();
    let regions = [region(7_001, 1, &servers[..250]), region(7_002, 1, &servers[250..])];
    for (_, algorithm) in Algorithm::ALL {
        let balance = Balance::build(KEY, algorithm, &regions, SPILL, None);
        for open in [0, 63, 64, 249, 250, 299] {
            for id in 0..300 {
                let (region, seat) = if id < 250 { (0, id) } else { (1, id - 250) };
                balance.set(region, seat, (id == open).then_some(5));
            }
            for key in keys(100) {
                assert_eq!(balance.find(key, None, true, |id| id as usize == open), Some(open as u32), "{algorithm:?}");
            }
        }
    }
}

#[test]
fn what_opens_no_call_is_placed_by_hash_under_leastconn() {
    let balance = Balance::build(KEY, Algorithm::LeastConn, &nigeria(), SPILL, None);
    (0..3).for_each(|seat| balance.set(0, seat, Some(10 * seat as u32)));
    assert!(keys(1_000).all(|key| balance.find(key, None, false, |_| true) == balance.pick(key, None)));
    let abuja = |key: &u64| balance.region(*key) == Some(1);
    assert!(keys(1_000).filter(abuja).all(|key| balance.find(key, None, true, |_| true) == Some(11)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Whatever is open and whoever is full: an open one is found where there is one, by every algorithm.
    #[test]
    fn somebody_with_room_is_found(
        open in proptest::collection::vec(any::<bool>(), 1..150), cut in any::<prop::sample::Index>(), seed: u64,
    ) {
        let servers: Vec<_> = (0..open.len() as u32).map(|id| (id, 1 + id % 5)).collect();
        let cut = cut.index(open.len());
        let regions = [region(7_001, 3, &servers[..cut]), region(7_002, 5, &servers[cut..])];
        for (_, algorithm) in Algorithm::ALL {
            let balance = Balance::build(KEY, algorithm, &regions, SPILL, None);
            for (at, open) in open.iter().enumerate() {
                let (region, seat) = if at < cut { (0, at) } else { (1, at - cut) };
                balance.set(region, seat, open.then_some(at as u32));
            }
            for key in keys(20).map(|key| key ^ seed) {
                let found = balance.find(key, None, true, |id| open[id as usize]);
                prop_assert_eq!(found.is_some(), open.contains(&true), "{:?}", algorithm);
                prop_assert!(found.is_none_or(|id| open[id as usize]));
            }
        }
    }
}
