//! The format of `cluster.key`, which the nodes of a pair share.
//!
//! ```toml
//! route = "00112233445566778899aabbccddeeff"
//! seal_with = 1
//!
//! [[seal]]
//! id = 1
//! secret = "ffeeddccbbaa99887766554433221100"
//! ```
//!
//! `route` never changes: transactions, pins and the choice of servers hang on it. Seal keys rotate in two steps: a new
//! `[[seal]]` is added on every node first, at the end, then `seal_with` names it; old ones stay valid until they are removed.

use std::cell::RefCell;
use std::fmt::Write;

use toml::de::DeTable;

use super::fault::Faults;
use super::read::Section;
use crate::sip::token::{Keys, SealKey};

/// A secret that somebody makes up loses every running call.
const RESTORE: &str = "restore the file from its backup or from the other node";

/// What a key file holds.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyFile {
    pub route: [u8; 16],
    /// The id of one of the seals.
    pub seal_with: u8,
    /// In the order of the file: what comes behind the one in use is not used yet.
    pub seals: Vec<SealKey>,
}

/// Reads the text of a key file.
///
/// # Errors
/// Every fault of the text. No fault quotes a secret.
pub fn parse(text: &str) -> Result<Keys, Faults> {
    KeyFile::parse(text).map(|key| key.keys())
}

impl KeyFile {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// Every fault of the text. No fault quotes a secret.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let faults = RefCell::new(Faults::default());
        for error in errors {
            faults.borrow_mut().push(error.span().map_or(0, |span| span.start), "not TOML", RESTORE);
        }
        let top = Section::new(&faults, &table, "the key file");
        let route = secret(&top, "route");
        let seal_with = top.number("seal_with", 1, 0..=255) as u8;
        let mut seals: Vec<SealKey> = Vec::new();
        for section in top.sections("seal", "[[seal]]") {
            let (id, secret) = (section.number("id", 0, 0..=255) as u8, secret(&section, "secret"));
            if seals.iter().any(|seal| seal.id == id) {
                section.fault(section.at(), format!("two seal keys have the id {id}"), "give each its own");
            }
            seals.extend(secret.map(|secret| SealKey { id, secret }));
            section.finish_unquoted();
        }
        let at = top.at();
        top.finish_unquoted();
        let mut faults = faults.into_inner();
        if faults.is_empty() && seals.iter().all(|seal| seal.id != seal_with) {
            faults.push(
                at,
                format!("`seal_with` is {seal_with}, and no [[seal]] has this id"),
                "name a seal key that the file holds",
            );
        }
        route.filter(|_| faults.is_empty()).map(|route| Self { route, seal_with, seals }).ok_or(faults)
    }

    /// What is derived from it.
    pub fn keys(&self) -> Keys {
        Keys::new(self.route, &self.seals, self.seal_with).expect("`seal_with` is one of the seals")
    }

    /// The number by which two nodes see whether they hold the same file; `trunkline check` and the log show it.
    pub fn fingerprint(&self) -> u64 {
        self.keys().fingerprint()
    }

    /// The position of the seal that is used.
    pub fn used(&self) -> usize {
        self.seals.iter().position(|seal| seal.id == self.seal_with).unwrap_or(0)
    }

    /// Adds a seal that is not used yet, and says its id.
    ///
    /// # Errors
    /// Where one is waiting to be used, or there are as many as there are ids.
    pub fn add(&mut self, secret: [u8; 16]) -> Result<u8, String> {
        if let Some(waiting) = self.seals[self.used() + 1..].last() {
            return Err(format!("seal {} is not used yet: `rotate --use` is the next step", waiting.id));
        }
        let largest = self.seals.iter().map(|seal| seal.id).max().unwrap_or(0);
        let mut ids = (largest..=u8::MAX).skip(1).chain(0..largest);
        let id = ids.find(|id| self.seals.iter().all(|seal| seal.id != *id));
        let id = id.ok_or("there are 256 seals, and no id for one more: `rotate --prune` removes the old ones")?;
        self.seals.push(SealKey { id, secret });
        Ok(id)
    }

    /// Uses the newest seal, and says its id.
    ///
    /// # Errors
    /// Where it is used already.
    pub fn use_newest(&mut self) -> Result<u8, String> {
        let newest = self.seals.last().map_or(self.seal_with, |seal| seal.id);
        if newest == self.seal_with {
            return Err(format!("seal {newest} is the newest and used already: `rotate` adds one"));
        }
        self.seal_with = newest;
        Ok(newest)
    }

    /// Removes the seals that were used before the one in use, and says their ids.
    ///
    /// # Errors
    /// Where there are none.
    pub fn prune(&mut self) -> Result<Vec<u8>, String> {
        let used = self.used();
        let gone: Vec<_> = self.seals.drain(..used).map(|seal| seal.id).collect();
        if gone.is_empty() { Err("there is no seal from before the one in use".to_owned()) } else { Ok(gone) }
    }

    /// Whether calls go on where this takes the place of another.
    ///
    /// # Errors
    /// Why they do not.
    pub fn may_follow(&self, before: &Self) -> Result<(), String> {
        if self.route != before.route {
            return Err("its `route` secret is another one, and every running call hangs on the old one".to_owned());
        }
        // The other node may use one that is only accepted here, and calls outlive the seal that they began under.
        match before.seals.iter().find(|seal| !self.seals.contains(seal)) {
            Some(seal) => Err(format!("it has not seal {} of the one here: running calls may hang on it", seal.id)),
            None => Ok(()),
        }
    }

    /// The text of its file.
    pub fn text(&self) -> String {
        let mut text = format!(
            "# Trunkline's cluster key. Copy it to every node of a pair; whoever holds it can steer calls.\n\
             # `route` must never change. Seal keys rotate in two steps: `trunkline cluster-key rotate` adds a new [[seal]],\n\
             # which every node must have taken before `trunkline cluster-key rotate --use` writes its id to `seal_with`.\n\
             route = \"{}\"\n\
             seal_with = {}\n",
            hex(self.route),
            self.seal_with
        );
        for SealKey { id, secret } in &self.seals {
            let _ = write!(text, "\n[[seal]]\nid = {id}\nsecret = \"{}\"\n", hex(*secret));
        }
        text
    }
}

/// Names a secret and says nothing about it: two nodes can compare it.
pub fn fingerprint(secret: &[u8; 16]) -> u64 {
    use siphasher::sip128::{Hasher128, SipHasher24 as Derive};
    let mut key = Derive::new_with_key(secret);
    std::hash::Hasher::write(&mut key, b"fingerprint");
    std::hash::Hasher::finish(&siphasher::sip::SipHasher24::new_with_key(&key.finish128().as_bytes()))
}

/// Sixteen bytes in hexadecimal.
fn secret(section: &Section<'_, '_>, key: &'static str) -> Option<[u8; 16]> {
    let text = section.required_or::<String>(key, RESTORE)?;
    let digits = text.value.as_bytes();
    let digit = |at: usize| char::from(digits[at]).to_digit(16);
    let mut bytes = [0; 16];
    let whole = digits.len() == 32
        && bytes.iter_mut().enumerate().all(|(at, byte)| match (digit(2 * at), digit(2 * at + 1)) {
            (Some(high), Some(low)) => {
                *byte = (high << 4 | low) as u8;
                true
            }
            _ => false,
        });
    if !whole {
        section.fault(text.at, format!("`{key}` is not 32 hexadecimal digits"), RESTORE);
    }
    whole.then_some(bytes)
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The text of a new key file.
pub fn generate(route: [u8; 16], seal: [u8; 16]) -> String {
    KeyFile { route, seal_with: 1, seals: vec![SealKey { id: 1, secret: seal }] }.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_added_then_used_and_what_was_before_goes_last() {
        let mut key = KeyFile::parse(&generate([7; 16], [8; 16])).unwrap_or_else(|_| panic!("it is good"));
        assert!(key.use_newest().is_err() && key.clone().prune().is_err(), "nothing is new, nothing is old");
        assert_eq!(key.add([9; 16]), Ok(2));
        assert_eq!((key.seal_with, key.used()), (1, 0), "it is accepted only");
        assert!(key.add([10; 16]).unwrap_err().contains("seal 2 is not used yet"));
        let first = key.clone();
        assert_eq!((key.use_newest(), key.seal_with), (Ok(2), 2));
        assert!(KeyFile::parse(&key.text()).is_ok_and(|read| read == key), "what is written is read");
        assert!(key.may_follow(&first).is_ok());
        assert_eq!((key.prune(), key.seals.len(), key.seal_with), (Ok(vec![1]), 1, 2));
        assert!(key.may_follow(&first).unwrap_err().contains("has not seal 1"), "calls may be under it");
        let other = KeyFile { route: [1; 16], ..key.clone() };
        assert!(other.may_follow(&key).unwrap_err().contains("`route`"));
        // Ids begin anew.
        key.seals = vec![SealKey { id: 0, secret: [1; 16] }, SealKey { id: 255, secret: [2; 16] }];
        key.seal_with = 255;
        assert_eq!(key.add([3; 16]), Ok(1));
    }

    #[test]
    fn fingerprints_differ_and_show_no_secret() {
        let [one, other] = [[1; 16], [2; 16]].map(|secret| fingerprint(&secret));
        assert_ne!(one, other);
        assert_eq!(one, fingerprint(&[1; 16]));
        assert_ne!(one, u64::from_be_bytes([1; 8]));
    }
}
