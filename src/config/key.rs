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
//! `[[seal]]` is added on every node first, then `seal_with` names it; old ones stay valid until they are removed.

use std::cell::RefCell;
use std::fmt::Write;

use toml::de::DeTable;

use super::fault::Faults;
use super::read::Section;
use crate::sip::token::{Keys, SealKey};

/// A secret that somebody makes up loses every running call.
const RESTORE: &str = "restore the file from its backup or from the other node";

/// Reads the text of a key file.
///
/// # Errors
/// Every fault of the text. No fault quotes a secret.
pub fn parse(text: &str) -> Result<Keys, Faults> {
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
    let keys = route.and_then(|route| Keys::new(route, &seals, seal_with));
    if keys.is_none() && faults.is_empty() {
        faults.push(
            at,
            format!("`seal_with` is {seal_with}, and no [[seal]] has this id"),
            "name a seal key that the file holds",
        );
    }
    keys.filter(|_| faults.is_empty()).ok_or(faults)
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

/// The text of a new key file.
pub fn generate(route: [u8; 16], seal: [u8; 16]) -> String {
    let hex = |bytes: [u8; 16]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    format!(
        "# Trunkline's cluster key. Copy it to every node of a pair; whoever holds it can steer calls.\n\
         # `route` must never change. Seal keys rotate in two steps: add a new [[seal]] on every node and reload,\n\
         # then set `seal_with` to its id on every node and reload.\n\
         route = \"{}\"\n\
         seal_with = 1\n\n\
         [[seal]]\n\
         id = 1\n\
         secret = \"{}\"\n",
        hex(route),
        hex(seal)
    )
}
