//! From files to what rustls shakes hands with.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};

use super::files::Files;
use super::names::Names;
use super::provider;
use crate::config::tls::{BackendTls, ClientAuth, FrontendTls, TlsVersion, Trust};

/// SIP's name in IANA's registry of ALPN. Who names no protocol is let in; who names others only is at the wrong door, but for
/// a relay, which agrees on none: what its clients and servers speak they say themselves.
const ALPN: &[u8] = b"sip/2";

const HAS_SUITES: &str = "the provider has suites for TLS 1.2 and 1.3";

/// How a frontend shakes hands; `None` where it has nothing to show, or nobody to believe.
pub fn server(wanted: &FrontendTls, files: &Files) -> Option<ServerConfig> {
    let names = Names::new(files.pairs().map(|pair| (&pair.certificate.names[..], Arc::clone(&pair.key))));
    files.pairs().next()?;
    let versions = match wanted.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).expect(HAS_SUITES);
    let builder = match &wanted.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        asked => {
            let roots = Arc::clone(&files.authorities()?.roots);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = match asked {
                ClientAuth::Optional(_) => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().expect("there are roots, and no lists of revoked ones"))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(names));
    if wanted.carries_sip {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    // Each configuration has keys of its own, in memory only, and new ones every six hours: no ticket leads from one
    // frontend to another, or past authorities that have changed. Without tickets handshakes are whole, no more.
    if let Ok(ticketer) = Ticketer::new() {
        config.ticketer = ticketer;
    }
    // A phone comes back over one connection; rustls would send two, and each has to be made.
    config.send_tls13_tickets = 1;
    Some(config)
}

/// How servers are connected to; `None` where there is nobody to believe, or nothing to show them.
pub fn client(wanted: &BackendTls, files: &Files) -> Option<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13, &TLS12]);
    let builder = builder.expect(HAS_SUITES);
    let builder = match &wanted.trust {
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider()))),
        Trust::Ca(_) => {
            let roots = Arc::clone(&files.authorities()?.roots);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
            builder.with_webpki_verifier(verifier.expect("there are roots, and no lists of revoked ones"))
        }
    };
    let config = match &wanted.own {
        None => builder.with_no_client_auth(),
        Some(_) => {
            let own = Arc::clone(&files.pairs().next()?.key);
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own)))
        }
    };
    Some(config)
}

/// Believes every certificate, and still wants to see that the server has its key.
#[derive(Debug)]
pub struct Anybody(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
