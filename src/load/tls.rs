//! What handshakes of the load need: from files to rustls, for one certificate and one authority.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::connections::ClientTls;
use crate::net::tls::{Anybody, provider};

const HAS_VERSIONS: &str = "the provider has suites for TLS 1.2 and 1.3";

/// A server's certificate with its chain, and its key: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    pub certificate: PathBuf,
    /// `None`: the key is in the same file.
    pub key: Option<PathBuf>,
}

/// How clients shake hands with this address, and who must be there.
///
/// # Errors
/// What is wrong with the file or the name.
pub fn client(wanted: &ClientTls, to: IpAddr) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let name = match &wanted.name {
        None => ServerName::from(to),
        Some(name) => ServerName::try_from(name.clone()).map_err(|_| format!("`{name}` is no name; write a host"))?,
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect(HAS_VERSIONS);
    let config = match &wanted.ca {
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider()))),
        Some(file) => builder.with_root_certificates(authorities(file)?),
    };
    Ok((Arc::new(config.with_no_client_auth()), name))
}

/// How a server shakes hands.
///
/// # Errors
/// What is wrong with its files.
pub fn server(wanted: &ServerTls) -> Result<Arc<ServerConfig>, String> {
    let key_file = wanted.key.as_ref().unwrap_or(&wanted.certificate);
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| unread(key_file, "key", &error))?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect(HAS_VERSIONS).with_no_client_auth();
    let config = builder.with_single_cert(certificates(&wanted.certificate)?, key);
    config.map(Arc::new).map_err(|error| format!("{}: {error}", wanted.certificate.display()))
}

fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(unread(file, "certificate", &"there is none in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unread(file, "certificate", &error)),
    }
}

fn unread(file: &Path, what: &str, error: &dyn std::fmt::Display) -> String {
    format!("{}: no {what} can be read: {error}; write a PEM file", file.display())
}
