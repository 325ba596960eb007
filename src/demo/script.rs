//! What happens on the stage, and when: keys that are pressed, or a script.

use std::time::Duration;

use super::stage::REGIONS;
use crate::load::args::duration;

/// Something that happens to a region (its position in [`REGIONS`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Kill(usize),
    Revive(usize),
}

/// Events in the order of their times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(Vec<(Duration, Event)>);

impl Script {
    /// What is shown where nobody can press a key: the largest region dies and comes back.
    pub const USUAL: &'static str = "3s kill lagos, 6s revive lagos";

    /// Reads `3s kill lagos, 6s revive lagos`.
    ///
    /// # Errors
    /// Which part is wrong and how it is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut events = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wanted = || {
                let names = REGIONS.map(|region| region.name).join(", ");
                format!("`{part}`: write TIME kill|revive REGION, as in `{}`; the regions are {names}", Self::USUAL)
            };
            let mut words = part.split_whitespace();
            let mut word = || words.next().ok_or_else(wanted);
            let (time, what, name) = (duration(word()?)?, word()?, word()?);
            let region = REGIONS.iter().position(|region| region.name == name).ok_or_else(wanted)?;
            let event = match what {
                "kill" => Event::Kill(region),
                "revive" => Event::Revive(region),
                _ => return Err(wanted()),
            };
            if words.next().is_some() {
                return Err(wanted());
            }
            events.push((time, event));
        }
        events.sort_by_key(|(time, _)| *time);
        Ok(Self(events))
    }

    /// Takes what is due.
    pub fn due(&mut self, elapsed: Duration) -> impl Iterator<Item = Event> + use<> {
        let count = self.0.partition_point(|(time, _)| *time <= elapsed);
        self.0.drain(..count).map(|(_, event)| event).collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_their_times() {
        let mut script = Script::parse("6s revive lagos,500ms kill asaba, 3s kill lagos").unwrap();
        assert_eq!(script.due(Duration::from_millis(499)).next(), None);
        let due: Vec<_> = script.due(Duration::from_secs(3)).collect();
        assert_eq!(due, [Event::Kill(2), Event::Kill(0)]);
        assert_eq!(script.due(Duration::from_secs(60)).collect::<Vec<_>>(), [Event::Revive(0)]);
        assert!(Script::parse(Script::USUAL).is_ok());
    }

    #[test]
    fn a_fault_names_its_part_and_the_words() {
        for wrong in ["kill lagos", "3s kill", "3s stop lagos", "3s kill kano", "3s kill lagos now", "3 kill lagos"] {
            let error = Script::parse(&format!("1s kill abuja, {wrong}")).unwrap_err();
            assert!(error.contains(wrong.split(' ').next().unwrap()), "{error}");
        }
    }
}
