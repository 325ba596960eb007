//! The files of one frontend or backend: which there are, what they became, and what is to be told of them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::UnixTime;

use super::News;
use super::pem::{Authorities, Certificate, Pair, date};
use super::piece::{Fault, Piece};
use crate::config::tls::{BackendTls, FrontendTls, Trust};

/// Certificates in one folder: each costs 10 KB, and all of them are looked at every half minute.
const MOST: usize = 4_096;

/// What ends the name of a file with a certificate.
const CERTIFICATES: [&str; 2] = ["pem", "crt"];

pub struct Files {
    /// `frontend "sips"`.
    whose: String,
    /// In the order of their files.
    pairs: Vec<Arc<Piece<Pair>>>,
    authorities: Option<Arc<Piece<Authorities>>>,
    /// Of the folder.
    fault: Option<Fault>,
    /// Files of the folder that mean nothing to us.
    strange: Vec<String>,
}

impl Files {
    /// Reads those of a frontend that have changed.
    pub fn of_frontend(name: &str, wanted: &FrontendTls, before: Option<&Self>) -> Self {
        let (whose, of_ca) = (format!("frontend \"{name}\""), format!("`client_ca` of frontend \"{name}\""));
        let listed = list(&wanted.certificates, &format!("`certificates` of {whose}"));
        let (listed, strange, fault) = match listed {
            Ok(Listed { files, strange }) => (Some(files), strange, None),
            Err(fault) => (None, Vec::new(), Some(fault)),
        };
        let before_of: HashMap<_, _> = pieces(before).map(|piece| (piece.file(), piece)).collect();
        let pair = |files: Vec<PathBuf>| {
            let before = files.first().and_then(|file| before_of.get(file.as_path()).copied());
            Piece::read(&files, &whose, before, |texts| Pair::read(&whose, texts))
        };
        let pairs = match listed {
            Some(files) => files.into_iter().map(pair).collect(),
            None => pieces(before).cloned().collect(),
        };
        let authorities = wanted.client_auth.ca().map(|ca| authorities(ca, &of_ca, before));
        Self { whose, pairs, authorities, fault, strange }
    }

    /// Reads those of a backend that have changed.
    pub fn of_backend(name: &str, wanted: &BackendTls, before: Option<&Self>) -> Self {
        let whose = format!("backend \"{name}\"");
        let pairs = wanted.own.iter().map(|own| {
            let files = match &own.key {
                Some(key) => vec![own.certificate.clone(), key.clone()],
                None => with_key(own.certificate.clone()),
            };
            let of = format!("`certificate` and `key` of {whose}");
            Piece::read(&files, &of, pieces(before).next(), |texts| Pair::read(&whose, texts))
        });
        let authorities = match &wanted.trust {
            Trust::Ca(ca) => Some(authorities(ca, &format!("`ca` of {whose}"), before)),
            Trust::Anybody => None,
        };
        Self { pairs: pairs.collect(), authorities, fault: None, strange: Vec::new(), whose }
    }

    /// The pairs that can be shown, in the order of their files.
    pub fn pairs(&self) -> impl Iterator<Item = &Arc<Pair>> {
        self.pairs.iter().filter_map(|piece| piece.good())
    }

    pub fn authorities(&self) -> Option<&Arc<Authorities>> {
        self.authorities.as_ref().and_then(|piece| piece.good())
    }

    pub fn certificates(&self) -> impl Iterator<Item = Certificate> {
        self.pairs().map(|pair| pair.certificate.clone())
    }

    /// Whether both became the same.
    pub fn are_same(&self, other: &Self) -> bool {
        let authorities = match (&self.authorities, &other.authorities) {
            (Some(one), Some(other)) => one.is_same(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let pairs = || self.pairs.iter().zip(&other.pairs);
        authorities && self.pairs.len() == other.pairs.len() && pairs().all(|(one, other)| one.is_same(other))
    }

    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        let authorities = self.authorities.iter().filter_map(|piece| piece.fault());
        self.fault.iter().chain(self.pairs.iter().filter_map(|piece| piece.fault())).chain(authorities)
    }

    pub fn warnings(&self, now: UnixTime) -> Vec<String> {
        let mut warnings = self.strange.clone();
        let mut first: HashMap<(&str, _), &Path> = HashMap::new();
        for pair in self.pairs() {
            warnings.extend(pair.warnings(now));
            let file = pair.certificate.file.as_path();
            for name in &pair.certificate.names {
                // One of RSA and one of ECDSA are no accident.
                let other = *first.entry((name, u8::from(pair.key.key.algorithm()))).or_insert(file);
                if other != file {
                    let (file, other) = (file.display(), other.display());
                    warnings
                        .push(format!("{file}: {name} is in {other}, too, which comes first: this one is not shown"));
                }
            }
        }
        warnings.extend(self.authorities().and_then(|authorities| authorities.warning()));
        warnings
    }

    /// What has become other than it was before.
    pub fn news(&self, before: &Self) -> Vec<News> {
        let whose = &self.whose;
        let old: HashMap<_, _> = before.pairs.iter().map(|piece| (piece.file(), piece)).collect();
        let mut news = Vec::new();
        for piece in &self.pairs {
            let Some(pair) = piece.good() else { continue };
            let word = match old.get(piece.file()) {
                Some(old) if old.is_same(piece) => continue,
                Some(old) if old.good().is_some() => "replaced",
                _ => "added",
            };
            let Certificate { file, names, not_after, .. } = &pair.certificate;
            let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
            let (file, until) = (file.display(), date(*not_after));
            news.push(News::Taken(format!("{whose}: {file} {word}: for {names}, until {until}")));
        }
        let is_gone = |piece: &&Arc<Piece<Pair>>| self.pairs.iter().all(|other| other.file() != piece.file());
        let gone = before.pairs.iter().filter(is_gone).map(|piece| piece.file().display());
        news.extend(gone.map(|file| News::Taken(format!("{whose}: {file} removed"))));
        if let (Some(old), Some(new)) = (&before.authorities, &self.authorities)
            && !new.is_same(old)
        {
            news.push(News::Taken(format!("{whose}: {} replaced", new.file().display())));
        }
        let told: Vec<_> = before.faults().collect();
        news.extend(self.faults().filter(|fault| !told.contains(fault)).cloned().map(News::Kept));
        news
    }
}

fn pieces(files: Option<&Files>) -> impl Iterator<Item = &Arc<Piece<Pair>>> {
    files.into_iter().flat_map(|files| &files.pairs)
}

fn authorities(file: &Path, whose: &str, before: Option<&Files>) -> Arc<Piece<Authorities>> {
    let before = before.and_then(|files| files.authorities.as_ref());
    Piece::read(&[file.to_owned()], whose, before, Authorities::read)
}

/// A certificate's file, and that of its key where it is beside it.
fn with_key(file: PathBuf) -> Vec<PathBuf> {
    let key = file.with_extension("key");
    if key.exists() { vec![file, key] } else { vec![file] }
}

/// The certificates of a folder, each with the file of its key where there is one, in the order of their names.
struct Listed {
    files: Vec<Vec<PathBuf>>,
    strange: Vec<String>,
}

fn list(path: &Path, whose: &str) -> Result<Listed, Fault> {
    let unread = |error| Fault::unread(path, &error, whose);
    if !fs::metadata(path).map_err(unread)?.is_dir() {
        return Ok(Listed { files: vec![with_key(path.to_owned())], strange: Vec::new() });
    }
    let entries: Result<Vec<_>, _> = fs::read_dir(path).map_err(unread)?.map(|entry| Ok(entry?.path())).collect();
    let mut entries = entries.map_err(unread)?;
    entries.sort_unstable();
    let ends_in = |file: &Path, of: &[&str]| file.extension().is_some_and(|end| of.iter().any(|other| end == *other));
    let (mut files, mut strange) = (Vec::new(), Vec::new());
    for file in entries {
        let is_hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let name = file.display();
        if is_hidden {
            // Editors, and mounts that are swapped whole, keep such.
        } else if ends_in(&file, &CERTIFICATES) && !file.is_dir() {
            files.push(with_key(file));
        } else if !ends_in(&file, &["key"]) {
            strange.push(format!("{name}: is not read: certificates are files that end in .pem or .crt"));
        } else if CERTIFICATES.iter().all(|end| !file.with_extension(end).exists()) {
            strange.push(format!("{name}: is not read: there is no certificate of that name, ending in .pem or .crt"));
        }
    }
    match files.len() {
        0 => {
            let remedy =
                format!("{whose}: put a PEM file with certificate, chain and key there, such as sip.example.ng.pem");
            Err(Fault::new(path, "there is no certificate in it", remedy))
        }
        count if count > MOST => {
            let remedy = format!("{whose}: keep at most {MOST}; one certificate may have many names, or a `*`");
            Err(Fault::new(path, format!("there are {count} certificates in it"), remedy))
        }
        _ => Ok(Listed { files, strange }),
    }
}
