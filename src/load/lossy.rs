//! A bad network between the generator and everybody else: loses, doubles and delays datagrams as a seed says.

use std::collections::VecDeque;
use std::time::Duration;

use crate::state::Time;

/// How bad the network is: shares of all datagrams, each from 0 to 1, drawn one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    pub lose: f64,
    pub duplicate: f64,
    /// Share that is held back for up to [`LONGEST_DELAY`], so that later ones overtake it.
    pub reorder: f64,
}

impl Weather {
    /// Whether every datagram arrives once and in time.
    pub fn is_fair(&self) -> bool {
        *self == Self::default()
    }
}

/// The longest that a datagram is held back.
pub const LONGEST_DELAY: Duration = Duration::from_millis(30);

/// The most datagrams that are held back at once; beyond it they pass.
const HELD: usize = 4096;

/// What was done to datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    pub lost: u64,
    pub duplicated: u64,
    pub delayed: u64,
}

impl Damage {
    /// Adds the damage of another direction.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.delayed += other.delayed;
    }
}

/// One direction of the bad network, for datagrams of type `T`.
#[derive(Debug)]
pub struct Lossy<T> {
    weather: Weather,
    state: u64,
    held: VecDeque<(Time, T)>,
    pub damage: Damage,
}

impl<T: Clone> Lossy<T> {
    /// A direction whose fates follow from the seed alone.
    pub fn new(weather: Weather, seed: u64) -> Self {
        Self { weather, state: seed, held: VecDeque::new(), damage: Damage::default() }
    }

    /// What becomes of a datagram now: how many of it pass at once. One that is delayed comes out of
    /// [`Lossy::released`].
    pub fn pass(&mut self, now: Time, datagram: impl FnOnce() -> T) -> usize {
        if self.weather.is_fair() {
            return 1;
        }
        if self.chance() < self.weather.lose {
            self.damage.lost += 1;
            return 0;
        }
        if self.chance() < self.weather.duplicate {
            self.damage.duplicated += 1;
            return 2;
        }
        if self.chance() < self.weather.reorder && self.held.len() < HELD {
            self.damage.delayed += 1;
            let delay = LONGEST_DELAY.mul_f64(self.chance());
            self.held.push_back((now + delay, datagram()));
            return 0;
        }
        1
    }

    /// A datagram whose delay is over. Call it until it says `None`.
    pub fn released(&mut self, now: Time) -> Option<T> {
        let at = self.held.iter().position(|(until, _)| *until <= now)?;
        self.held.remove(at).map(|(_, datagram)| datagram)
    }

    /// Whether some are held back still.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// A number from 0 to less than 1 (SplitMix64).
    fn chance(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Time = Time(5_000_000_000);

    #[test]
    fn the_same_seed_gives_the_same_weather() {
        let weather = Weather { lose: 0.1, duplicate: 0.1, reorder: 0.1 };
        let fates = |seed| {
            let mut lossy = Lossy::new(weather, seed);
            let fates: Vec<_> = (0..2000).map(|n| lossy.pass(T0, || n)).collect();
            (fates, lossy.damage)
        };
        assert_eq!(fates(3), fates(3));
        assert_ne!(fates(3), fates(4));
        let damage = fates(3).1;
        let near = |count: u64, want: u64| count.abs_diff(want) < 60;
        assert!(near(damage.lost, 200) && near(damage.duplicated, 180) && near(damage.delayed, 162), "{damage:?}");
        let mut late = Lossy::new(Weather { reorder: 1.0, ..Weather::default() }, 1);
        assert_eq!((late.pass(T0, || 'x'), late.released(T0 + LONGEST_DELAY)), (0, Some('x')));
        assert!(!late.is_holding());
    }
}
