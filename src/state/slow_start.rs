//! `slow_start`: a server that comes back gets new calls little by little.
//!
//! Its weight rises in ten steps, which are new snapshots; nothing is asked for a message. A server that was never seen away
//! has its whole weight at once: a balancer that starts must not hold back everybody.

use std::collections::HashMap;
use std::time::Duration;

use super::Time;
use super::server::{Health, Rest, ServerState};
use crate::config::Config;
use crate::sip::token::NameHash;

/// How many steps it has, and how much of the weight each one brings, percent.
const STEPS: u128 = 10;
const STEP: u8 = 10;

/// Which servers are away, and which have come back a while ago.
#[derive(Clone, Debug, Default)]
pub struct SlowStarts {
    servers: HashMap<NameHash, Seen>,
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    /// It takes no new calls.
    Away,
    /// Since then it does again.
    Back(Time),
}

impl SlowStarts {
    /// Notes who went and who came back, and sets how much each server is held back now. True where that changed for
    /// somebody: then a new snapshot is due.
    pub fn apply(&mut self, config: &Config, states: &mut HashMap<NameHash, ServerState>, now: Time) -> bool {
        let servers = config.backends.iter().flat_map(|backend| &backend.servers);
        let mut changed = false;
        for server in servers {
            let Some(state) = states.get_mut(&server.id) else { continue };
            if server.slow_start.is_zero() {
                self.servers.remove(&server.id);
                changed |= std::mem::take(&mut state.held_back) != 0;
                continue;
            }
            let seen = self.servers.get(&server.id).copied();
            let held_back = match (state.health, seen) {
                // A suspicion that proves wrong was no absence, nor is a 503 that may be one call's.
                (Health::Suspect | Health::Resting(Rest::Call), _) => state.held_back,
                _ if !state.takes_new() => {
                    self.servers.insert(server.id, Seen::Away);
                    0
                }
                (_, None) => 0,
                (_, Some(Seen::Away)) => {
                    self.servers.insert(server.id, Seen::Back(now));
                    held_back(Duration::ZERO, server.slow_start)
                }
                (_, Some(Seen::Back(since))) => held_back(now.since(since), server.slow_start),
            };
            if state.takes_new() && held_back == 0 {
                self.servers.remove(&server.id);
            }
            changed |= std::mem::replace(&mut state.held_back, held_back) != held_back;
        }
        changed
    }
}

/// What is held back so long after the return.
fn held_back(passed: Duration, slow_start: Duration) -> u8 {
    let step = (passed.as_nanos() * STEPS / slow_start.as_nanos().max(1)).min(STEPS - 1) as u8;
    match passed < slow_start {
        true => 100 - STEP * (step + 1),
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::server::Admin;

    const TEXT: &str = "[[frontend]]\nname = \"f\"\nbind = \"udp://1.1.1.1:5060\"\nbackend = \"b\"\n[[backend]]\nname = \"b\"\n\
        [[backend.server]]\nname = \"slow\"\naddress = \"udp://1.1.1.2\"\nslow_start = \"30s\"\n\
        [[backend.server]]\nname = \"fast\"\naddress = \"udp://1.1.1.3\"\n";

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn who_was_away_comes_back_in_ten_steps() {
        let config = Config::good(TEXT);
        let (mut starts, mut states) = (SlowStarts::default(), HashMap::new());
        let [slow, fast] = ["b/slow", "b/fast"].map(NameHash::of);
        for (id, health) in [(slow, Health::Up), (fast, Health::Up)] {
            states.insert(id, ServerState { health, ..ServerState::default() });
        }
        assert!(!starts.apply(&config, &mut states, at(0)), "nobody was away");
        for id in [slow, fast] {
            states.get_mut(&id).unwrap().admin = Admin::Maint;
        }
        assert!(!starts.apply(&config, &mut states, at(10)));
        for id in [slow, fast] {
            states.get_mut(&id).unwrap().admin = Admin::Ready;
        }
        let mut steps = Vec::new();
        for second in 20..60 {
            let due = starts.apply(&config, &mut states, at(second));
            assert_eq!(states[&fast].held_back, 0);
            if due {
                steps.push((second - 20, states[&slow].held_back));
            }
        }
        let expected: Vec<_> = (0..10).map(|n| (3 * n, 90 - 10 * n as u8)).collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn who_starts_slowly_no_more_has_its_whole_weight_and_who_goes_on_does_not_begin_again() {
        let (mut starts, slow) = (SlowStarts::default(), NameHash::of("b/slow"));
        let mut states = HashMap::from([(slow, ServerState { health: Health::Dead, ..ServerState::default() })]);
        starts.apply(&Config::good(TEXT), &mut states, at(0));
        states.get_mut(&slow).unwrap().health = Health::Up;
        starts.apply(&Config::good(TEXT), &mut states, at(1));
        let mut apply = |text: &str, second| {
            starts.apply(&Config::good(text), &mut states, at(second));
            states[&slow].held_back
        };
        assert_eq!([apply(TEXT, 16), apply(&TEXT.replace("30s", "60s"), 16)], [40, 70]);
        assert_eq!([apply(&TEXT.replace("slow_start = \"30s\"", ""), 17), apply(TEXT, 18)], [0, 0]);
    }

    #[test]
    fn who_goes_again_begins_again() {
        let config = Config::good(TEXT);
        let (mut starts, slow) = (SlowStarts::default(), NameHash::of("b/slow"));
        let mut states = HashMap::from([(slow, ServerState { health: Health::Dead, ..ServerState::default() })]);
        let mut apply = |health, second| {
            states.get_mut(&slow).unwrap().health = health;
            starts.apply(&config, &mut states, at(second));
            states[&slow].held_back
        };
        assert_eq!([apply(Health::Dead, 0), apply(Health::Up, 1), apply(Health::Up, 16)], [0, 90, 40]);
        assert_eq!([apply(Health::Suspect, 17), apply(Health::Up, 20)], [40, 30], "a suspicion is no absence");
        assert_eq!([apply(Health::Resting(Rest::Call), 20), apply(Health::Up, 20)], [30, 30], "nor one call's 503");
        assert_eq!([apply(Health::Resting(Rest::Check), 21), apply(Health::Up, 22)], [0, 90]);
    }
}
