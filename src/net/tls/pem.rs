//! What stands in PEM files: certificates with their chains and keys, and authorities.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use x509_cert::der::{DateTime, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::piece::{Fault, Text};
use super::provider;

/// Days before its end in which a certificate is spoken of; of a short-lived one the last fifth.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A certificate that is shown, for whoever watches its days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Who shows it: `frontend "sips"`, `backend "pbx"`.
    pub whose: String,
    pub file: PathBuf,
    /// Of its subjectAltName: host names in lower case, some with `*.`, and addresses.
    pub names: Vec<String>,
    /// Since 1970.
    pub not_before: Duration,
    pub not_after: Duration,
}

impl Certificate {
    /// Whole days until it expires; negative where it has.
    pub fn days_left(&self, now: UnixTime) -> i64 {
        let seconds = self.not_after.as_secs() as i64 - now.as_secs() as i64;
        seconds.div_euclid(24 * 60 * 60)
    }

    /// What its dates ask for. A call is worth more than a date: it is shown all the same.
    fn warning(&self, now: UnixTime) -> Option<String> {
        let (now, file) = (Duration::from_secs(now.as_secs()), self.file.display());
        let soon = SOON.min(self.not_after.saturating_sub(self.not_before) / 5);
        if now > self.not_after {
            let end = date(self.not_after);
            Some(format!(
                "{file}: expired on {end}, and is shown all the same: whoever looks at dates hangs up; renew it"
            ))
        } else if now < self.not_before {
            Some(format!("{file}: begins on {}: is this host's clock right?", date(self.not_before)))
        } else if now + soon > self.not_after {
            Some(format!("{file}: expires on {}: renew it", date(self.not_after)))
        } else {
            None
        }
    }
}

/// The day, as ISO 8601 has it.
pub fn date(since_1970: Duration) -> String {
    let time = DateTime::from_unix_duration(since_1970);
    time.map_or_else(|_| "?".to_owned(), |time| format!("{}-{:02}-{:02}", time.year(), time.month(), time.day()))
}

/// A chain and its key, as they are shown.
pub struct Pair {
    pub key: Arc<CertifiedKey>,
    pub certificate: Certificate,
    /// Whether every user of this host may read the key.
    open: bool,
}

impl Pair {
    /// Reads a file with both, or one with the chain and one with the key.
    pub fn read(whose: &str, texts: &[Text]) -> Result<Self, Fault> {
        let [chain, rest @ ..] = texts else { unreachable!("a pair is of one file or two") };
        if let Some(fault) = texts.iter().find_map(locked) {
            return Err(fault);
        }
        let certificates = certificates(chain)?;
        let key = rest.iter().chain([chain]).find_map(key).unwrap_or_else(|| Err(no_key(chain, rest)))?;
        let certificate = about(whose, &chain.file, &certificates[0])?;
        let certified = CertifiedKey::from_der(certificates.clone(), key.clone_key(), &provider());
        let certified = certified.map_err(|error| unfit(&error, chain, rest, &certificates, &key))?;
        let open = rest.last().unwrap_or(chain).open;
        Ok(Self { key: Arc::new(certified), certificate, open })
    }

    /// What the operator should know of it.
    pub fn warnings(&self, now: UnixTime) -> Vec<String> {
        let file = self.certificate.file.display();
        let open = format!("{file}: everybody on this host may read its key: `chmod o=` takes that away");
        let nameless = format!("{file}: has no name (subjectAltName): it is shown only where no other fits");
        let mut warnings: Vec<_> = self.certificate.warning(now).into_iter().collect();
        warnings.extend(self.open.then_some(open));
        warnings.extend(self.certificate.names.is_empty().then_some(nameless));
        warnings
    }
}

fn certificates(text: &Text) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text.bytes).collect();
    let certificates = read.map_err(|error| broken(text, &error))?;
    if certificates.is_empty() {
        let remedy = "write PEM, which begins with -----BEGIN CERTIFICATE-----; \
                      `openssl x509 -inform der -in FILE` makes it of DER";
        return Err(Fault::new(&text.file, "there is no certificate in it", remedy));
    }
    Ok(certificates)
}

/// Whether a key is there that wants a password (PKCS #8, and before it RFC 1421 §4.6.1.1).
fn locked(text: &Text) -> Option<Fault> {
    let has = |mark: &str| memchr::memmem::find(&text.bytes, mark.as_bytes()).is_some();
    let remedy = "take it off with `openssl pkey -in KEY -out NEW`, and let the file's mode protect it";
    let is_locked = has("BEGIN ENCRYPTED PRIVATE KEY") || has("Proc-Type: 4,ENCRYPTED");
    is_locked.then(|| Fault::new(&text.file, "its key has a password, and nobody is there to type it", remedy))
}

/// The key in a file, if there is one.
fn key(text: &Text) -> Option<Result<PrivateKeyDer<'static>, Fault>> {
    match PrivateKeyDer::from_pem_slice(&text.bytes) {
        Ok(key) => Some(Ok(key)),
        Err(PemError::NoItemsFound) => None,
        Err(error) => Some(Err(broken(text, &error))),
    }
}

/// Without the words of the error: they may quote what is secret.
fn broken(text: &Text, error: &PemError) -> Fault {
    let what = match error {
        PemError::MissingSectionEnd { .. } => "a part of it has no end",
        PemError::Base64Decode(_) => "a part of it is no base64",
        _ => "is no PEM",
    };
    Fault::new(&text.file, what, "copy it anew, whole, from -----BEGIN to -----END")
}

fn no_key(chain: &Text, rest: &[Text]) -> Fault {
    match rest.first() {
        Some(beside) => {
            Fault::new(&beside.file, "there is no key in it", "write the key in PEM: -----BEGIN PRIVATE KEY-----")
        }
        None => {
            let beside = chain.file.with_extension("key");
            let remedy = format!("append the key to it, or put it beside as {}", beside.display());
            Fault::new(&chain.file, "its key is not in it", remedy)
        }
    }
}

/// Why a chain and a key are no pair.
fn unfit(
    error: &Error,
    chain: &Text,
    rest: &[Text],
    certificates: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'_>,
) -> Fault {
    let key_file = &rest.first().unwrap_or(chain).file;
    let fits = |at: &usize| CertifiedKey::from_der(certificates[*at..].to_vec(), key.clone_key(), &provider()).is_ok();
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => match (1..certificates.len()).find(fits) {
            Some(at) => {
                let what = format!("the key is that of its certificate {}, and not of the first", at + 1);
                Fault::new(&chain.file, what, "put the server's own certificate first, then who signed it")
            }
            None => {
                let what = match rest.first() {
                    Some(beside) => format!("it is not the certificate of the key in {}", beside.file.display()),
                    None => "its certificate is not that of its key".to_owned(),
                };
                let remedy = "`openssl x509 -noout -pubkey -in CERTIFICATE` and `openssl pkey -pubout -in KEY` must print the same";
                Fault::new(&chain.file, what, remedy)
            }
        },
        Error::InvalidCertificate(error) => {
            let remedy = "have it made anew, as X.509 version 3 with a subjectAltName";
            Fault::new(&chain.file, format!("its certificate cannot be used: {error}"), remedy)
        }
        error => {
            let remedy = "make one for P-256, P-384, Ed25519, or RSA with 2048 to 8192 bits";
            Fault::new(key_file, format!("its key cannot be used: {error}"), remedy)
        }
    }
}

/// Names and dates of a certificate.
fn about(whose: &str, file: &Path, der: &CertificateDer<'_>) -> Result<Certificate, Fault> {
    let unread = |error: x509_cert::der::Error| {
        let remedy = "have it made anew, as X.509 version 3 with a subjectAltName";
        Fault::new(file, format!("its certificate cannot be read: {error}"), remedy)
    };
    let read = x509_cert::Certificate::from_der(der).map_err(unread)?.tbs_certificate;
    let alternatives = read.get::<SubjectAltName>().map_err(unread)?.map(|(_, names)| names.0).unwrap_or_default();
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.as_str().trim_end_matches('.').to_ascii_lowercase()),
        GeneralName::IpAddress(octets) => match octets.as_bytes() {
            v4 if v4.len() == 4 => Some(std::net::Ipv4Addr::from(<[u8; 4]>::try_from(v4).ok()?).to_string()),
            v6 => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(v6).ok()?).to_string()),
        },
        _ => None,
    };
    Ok(Certificate {
        whose: whose.to_owned(),
        file: file.to_owned(),
        names: alternatives.iter().filter_map(name).collect(),
        not_before: read.validity.not_before.to_unix_duration(),
        not_after: read.validity.not_after.to_unix_duration(),
    })
}

/// Authorities that certificates may be from.
pub struct Authorities {
    pub roots: Arc<RootCertStore>,
    file: PathBuf,
    /// Of the certificates in the file so many can be none.
    unusable: usize,
}

impl Authorities {
    /// Reads a file of them. What cannot be an authority is left out: bundles have such.
    pub fn read(texts: &[Text]) -> Result<Self, Fault> {
        let [text] = texts else { unreachable!("authorities are of one file") };
        let mut roots = RootCertStore::empty();
        let (_, unusable) = roots.add_parsable_certificates(certificates(text)?);
        if roots.is_empty() {
            let remedy = "write the certificate of the authority, not of the one that it signed for";
            return Err(Fault::new(&text.file, "no certificate in it can be an authority", remedy));
        }
        Ok(Self { roots: Arc::new(roots), file: text.file.clone(), unusable })
    }

    pub fn warning(&self) -> Option<String> {
        let what = format!("{}: {} of its certificates can be no authorities", self.file.display(), self.unusable);
        (self.unusable > 0).then_some(what)
    }
}
