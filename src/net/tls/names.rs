//! Which certificate a client is shown: the one for the name that it asks for (SNI, RFC 6066 §3).

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Things that have names, some of them with `*` for the first label (RFC 9525 §6.3).
#[derive(Debug)]
pub struct Names<T> {
    exact: HashMap<String, Vec<T>>,
    /// By what follows `*.`.
    wildcards: HashMap<String, Vec<T>>,
    /// In their order.
    all: Vec<T>,
}

impl<T: Clone> Names<T> {
    /// `named` has each thing with its names, in lower case.
    pub fn new<'a>(named: impl Iterator<Item = (&'a [String], T)>) -> Self {
        let mut names = Self { exact: HashMap::new(), wildcards: HashMap::new(), all: Vec::new() };
        for (own, thing) in named {
            for name in own {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut names.wildcards, parent),
                    None => (&mut names.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(thing.clone());
            }
            names.all.push(thing);
        }
        names
    }

    /// Those with this name; else those with a wildcard for it; else all, in their order.
    pub fn find(&self, name: Option<&str>) -> &[T] {
        let Some(name) = name else { return &self.all };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let wildcard = || self.wildcards.get(name.split_once('.')?.1);
        self.exact.get(&name).or_else(wildcard).unwrap_or(&self.all)
    }
}

impl ResolvesServerCert for Names<Arc<CertifiedKey>> {
    /// Of several the first with a key that the client can verify: a name may have one of RSA and one of ECDSA.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = self.find(hello.server_name());
        let verifiable = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        found.iter().find(verifiable).or(found.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(named: &[(&[&str], u32)]) -> Names<u32> {
        let named: Vec<(Vec<String>, u32)> =
            named.iter().map(|(own, thing)| (own.iter().map(|name| (*name).to_owned()).collect(), *thing)).collect();
        Names::new(named.iter().map(|(own, thing)| (own.as_slice(), *thing)))
    }

    #[test]
    fn exact_before_wildcard_before_the_first() {
        let names = names(&[
            (&["one.example.ng"], 1),
            (&["*.example.ng", "example.ng"], 2),
            (&["sip.example.ng"], 3),
            (&["sip.example.ng"], 4),
            (&[], 5),
        ]);
        for (asked, found) in [
            (Some("sip.example.ng"), &[3, 4][..]),
            (Some("SIP.Example.NG."), &[3, 4]),
            (Some("pbx.example.ng"), &[2]),
            (Some("example.ng"), &[2]),
            // The star is one label, and not none.
            (Some("a.b.example.ng"), &[1, 2, 3, 4, 5]),
            (Some("ng"), &[1, 2, 3, 4, 5]),
            (Some("*.example.ng"), &[2]),
            (None, &[1, 2, 3, 4, 5]),
        ] {
            assert_eq!(names.find(asked), found, "{asked:?}");
        }
    }

    /// RFC 9525 §6.3, word by word.
    fn matches(pattern: &str, name: &str) -> bool {
        let (pattern, name): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), name.split('.').collect());
        match pattern[0] {
            "*" => pattern.len() == name.len() && pattern[1..] == name[1..],
            _ => pattern == name,
        }
    }

    proptest! {
        #[test]
        fn whatever_is_found_is_what_a_plain_search_finds(
            named in prop::collection::vec(prop::collection::vec("(\\*\\.)?[ab](\\.[ab]){0,2}", 0..3), 0..6),
            asked in "[ab](\\.[ab]){0,3}",
        ) {
            let names = Names::new(named.iter().enumerate().map(|(at, own)| (own.as_slice(), at)));
            let search = |wild: bool| {
                let of = |own: &Vec<String>| own.iter().filter(|own| own.starts_with('*') == wild && matches(own, &asked)).count();
                named.iter().enumerate().flat_map(|(at, own)| vec![at; of(own)]).collect::<Vec<_>>()
            };
            let all: Vec<_> = (0..named.len()).collect();
            let expected = [search(false), search(true), all].into_iter().find(|found| !found.is_empty());
            prop_assert_eq!(names.find(Some(&asked)), expected.unwrap_or_default());
        }
    }
}
