//! TLS: who we are, whom we believe, and both anew where files change.
//!
//! [`Tls`] is what frontends and backends need of files, ready for handshakes. Each new connection asks it, so what is
//! replaced counts from the next handshake on, and connections that are there go on untouched:
//!
//! ```no_run
//! # async fn example(tls: &trunkline::net::tls::Tls, frontend: trunkline::sip::token::NameHash, tcp: tokio::net::TcpStream,
//! #     backend: &trunkline::config::Backend, server: &trunkline::config::Server, to_server: tokio::net::TcpStream) -> std::io::Result<()> {
//! use tokio_rustls::{TlsAcceptor, TlsConnector};
//! use trunkline::net::tls::server_name;
//!
//! // A client. The handshake needs a deadline of its own, and a limit of how many are under way.
//! let config = tls.server_config(frontend).expect("a tls:// bind has certificates");
//! let client = TlsAcceptor::from(config).accept(tcp).await?;
//!
//! // A server.
//! let config = tls.client_config(&backend.name).expect("a backend with tls:// servers has a configuration");
//! let name = server_name(server).expect("a tls:// server has a name");
//! let stream = TlsConnector::from(config).connect(name, to_server).await?;
//! # Ok(()) }
//! ```
//! `names` chooses the certificate by SNI, `pem` reads files, `piece` tells whether they changed, `files` says which there are.

mod files;
mod make;
mod names;
mod pem;
mod piece;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ServerConfig};

use crate::config::tls::{BackendTls, FrontendTls, Trust};
use crate::config::{Config, Server};
use crate::sip::token::NameHash;
use files::Files;

pub use make::Anybody;
pub use pem::{Certificate, date};
pub use piece::Fault;

/// The one library that makes and checks signatures and keys: X25519, P-256, P-384 and ML-KEM; no key exchange without
/// forward secrecy, no CBC.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// Who a tls:// server must be; `None` where it is not tls://.
pub fn server_name(server: &Server) -> Option<ServerName<'static>> {
    ServerName::try_from(server.tls_name.clone()?).ok()
}

/// Everything that is wrong with the files of a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(pub BTreeSet<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| fault.fmt(f))
    }
}

impl std::error::Error for Faults {}

/// What a look at the files found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// New handshakes have it.
    Taken(String),
    /// It is broken, and what was there before stays in force.
    Kept(Fault),
    Warning(String),
}

/// What one frontend or backend wants, its files, and what they make.
struct Section<W, C> {
    name: String,
    wanted: W,
    files: Files,
    made: Option<Arc<C>>,
}

impl<W: Clone + PartialEq, C> Section<W, C> {
    /// Reads what is wanted; of `before` stays what it was where neither the wish nor the files have changed.
    fn read(
        (name, wanted): (&str, &W),
        before: Option<&Arc<Self>>,
        read: impl FnOnce(&str, &W, Option<&Files>) -> Files,
        make: impl FnOnce(&W, &Files) -> Option<C>,
    ) -> Arc<Self> {
        let before = before.filter(|before| before.wanted == *wanted);
        let files = read(name, wanted, before.map(|before| &before.files));
        let made = match before.filter(|before| before.files.are_same(&files)) {
            Some(same) => same.made.clone(),
            None => make(wanted, &files).map(Arc::new),
        };
        Arc::new(Self { name: name.to_owned(), wanted: wanted.clone(), files, made })
    }
}

type Frontend = Section<FrontendTls, ServerConfig>;
type Backend = Section<BackendTls, ClientConfig>;

/// All that a configuration needs of files, as it was at one moment.
#[derive(Default)]
pub struct Material {
    frontends: BTreeMap<NameHash, Arc<Frontend>>,
    backends: BTreeMap<String, Arc<Backend>>,
    /// What the operator should know.
    warnings: BTreeSet<String>,
}

impl Material {
    /// Reads what a configuration names, where it is not as it was `before`.
    fn read(config: &Config, before: &Self) -> Self {
        let mut material = Self::default();
        for (frontend, wanted) in config.frontends.iter().filter_map(|of| Some((of, of.tls.as_ref()?))) {
            material.read_frontend(frontend.id, (&frontend.name, wanted), before);
        }
        for backend in config.backends.iter().filter(|backend| backend.has_tls()) {
            material.read_backend((&backend.name, &backend.tls), before);
        }
        material.with_warnings()
    }

    /// The same, read again where files have changed.
    fn again(&self) -> Self {
        let mut material = Self::default();
        for (id, section) in &self.frontends {
            material.read_frontend(*id, (&section.name, &section.wanted), self);
        }
        for section in self.backends.values() {
            material.read_backend((&section.name, &section.wanted), self);
        }
        material.with_warnings()
    }

    fn read_frontend(&mut self, id: NameHash, wanted: (&str, &FrontendTls), before: &Self) {
        let section = Section::read(wanted, before.frontends.get(&id), Files::of_frontend, make::server);
        self.frontends.insert(id, section);
    }

    fn read_backend(&mut self, wanted: (&str, &BackendTls), before: &Self) {
        let section = Section::read(wanted, before.backends.get(wanted.0), Files::of_backend, make::client);
        self.backends.insert(wanted.0.to_owned(), section);
    }

    fn with_warnings(mut self) -> Self {
        let now = UnixTime::now();
        self.warnings = self.files().flat_map(|files| files.warnings(now)).chain(self.unverified()).collect();
        self
    }

    fn files(&self) -> impl Iterator<Item = &Files> {
        self.frontends
            .values()
            .map(|section| &section.files)
            .chain(self.backends.values().map(|section| &section.files))
    }

    /// A line for each backend whose servers may be anybody.
    fn unverified(&self) -> impl Iterator<Item = String> {
        let sections = self.backends.values().filter(|section| section.wanted.trust == Trust::Anybody);
        sections.map(|section| {
            format!(
                "backend \"{}\": `verify = false`: whoever gets between us and its servers can read and change every \
                 call; write `ca` instead",
                section.name
            )
        })
    }

    /// Itself, if nothing is wrong with its files.
    fn judged(self) -> Result<Self, Faults> {
        let faults = Faults(self.files().flat_map(Files::faults).cloned().collect());
        if faults.0.is_empty() { Ok(self) } else { Err(faults) }
    }

    fn news(&self, before: &Self) -> Vec<News> {
        let frontends =
            self.frontends.iter().filter_map(|(id, is)| Some((&is.files, &before.frontends.get(id)?.files)));
        let backends = self.backends.iter().filter_map(|(id, is)| Some((&is.files, &before.backends.get(id)?.files)));
        let warnings = self.warnings.difference(&before.warnings).cloned().map(News::Warning);
        frontends.chain(backends).flat_map(|(is, was)| is.news(was)).chain(warnings).collect()
    }
}

/// What was there, and the same read again.
pub struct Look {
    before: Arc<Material>,
    next: Material,
}

/// What handshakes need, for all threads. One thread alone replaces it.
pub struct Tls {
    current: ArcSwap<Material>,
}

impl Tls {
    /// Reads all that a configuration names.
    ///
    /// # Errors
    /// Everything that is wrong with its files.
    pub fn load(config: &Config) -> Result<Self, Faults> {
        let material = Material::read(config, &Material::default()).judged()?;
        Ok(Self { current: ArcSwap::from_pointee(material) })
    }

    /// How a frontend shakes hands now; `None` where it has no tls:// bind.
    pub fn server_config(&self, frontend: NameHash) -> Option<Arc<ServerConfig>> {
        self.current.load().frontends.get(&frontend)?.made.clone()
    }

    /// How servers of a backend are connected to now; `None` where none of them is tls://.
    pub fn client_config(&self, backend: &str) -> Option<Arc<ClientConfig>> {
        self.current.load().backends.get(backend)?.made.clone()
    }

    /// All certificates that are shown, to clients and to servers.
    pub fn certificates(&self) -> Vec<Certificate> {
        self.current.load().files().flat_map(Files::certificates).collect()
    }

    /// What the operator should know of them.
    pub fn warnings(&self) -> Vec<String> {
        self.current.load().warnings.iter().cloned().collect()
    }

    /// What another configuration needs. Nothing is changed until it is [`Tls::put`].
    ///
    /// # Errors
    /// Everything that is wrong with its files.
    pub fn prepare(&self, config: &Config) -> Result<Material, Faults> {
        Material::read(config, &self.current.load()).judged()
    }

    /// Puts it into force, and says what is other than it was. What `config` serves and the material has not keeps what it
    /// has: it leaves, or nothing was read. What it does not serve is forgotten.
    pub fn put(&self, material: Option<Material>, config: &Config) -> Vec<News> {
        let before = self.current.load_full();
        // What the log was told of is not told again, and what it was not will be by the next look.
        let told = || Material { warnings: before.warnings.clone(), ..Material::default() };
        let mut material = material.unwrap_or_else(told);
        for frontend in config.frontends.iter().filter(|frontend| frontend.has_tls()) {
            if let Some(section) = before.frontends.get(&frontend.id) {
                material.frontends.entry(frontend.id).or_insert_with(|| Arc::clone(section));
            }
        }
        for backend in config.backends.iter().filter(|backend| backend.has_tls()) {
            if let Some(section) = before.backends.get(&backend.name) {
                material.backends.entry(backend.name.clone()).or_insert_with(|| Arc::clone(section));
            }
        }
        self.replace(material)
    }

    /// Looks whether files have changed. It takes as long as their disk does, and changes nothing.
    pub fn look(&self) -> Look {
        let before = self.current.load_full();
        Look { next: before.again(), before }
    }

    /// Takes what is good of what a look found. What is broken is told once. Nothing where something was put into force
    /// meanwhile: the next look begins with that.
    pub fn take(&self, look: Look) -> Vec<News> {
        let is_old = !Arc::ptr_eq(&look.before, &self.current.load());
        if is_old { Vec::new() } else { self.replace(look.next) }
    }

    fn replace(&self, next: Material) -> Vec<News> {
        let next = Arc::new(next);
        let before = self.current.swap(Arc::clone(&next));
        next.news(&before)
    }
}
