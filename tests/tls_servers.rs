//! TLS towards servers, with `openssl s_server` for one: who is believed, and what is shown to whom.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use support::core::config;
use support::pki::{ECDSA, Pki, Wanted};
use support::tls_peers::{Server, connect, looked};
use trunkline::config::Config;
use trunkline::net::tls::{News, Tls};

/// A backend of one tls:// server, with these lines of its own and in [backend.tls].
fn backend(server: &str, lines: &str) -> Config {
    config(&format!(
        "[[frontend]]\nname = \"f\"\nbind = \"udp://127.0.0.1:5060\"\nbackend = \"b\"\n[[backend]]\nname = \"b\"\n\
         [backend.tls]\n{lines}\n[[backend.server]]\nname = \"s\"\naddress = \"tls://127.0.0.1:5061\"\n{server}\n"
    ))
}

fn load(config: &Config) -> Tls {
    Tls::load(config).unwrap_or_else(|faults| panic!("{faults}"))
}

/// Makes NAME with its key in NAME.key.
fn certificate(pki: &Pki, name: &str, authority: &str, names: &str) {
    pki.certificate(name, &Wanted { authority, names, key: ECDSA, days: "30" });
}

fn start(pki: &Pki, name: &str, options: &[&str]) -> Server {
    Server::start(&pki.path(name), &pki.path(&format!("{name}.key")), options)
}

fn ca(pki: &Pki, name: &str) -> String {
    format!("ca = {:?}", pki.path(name))
}

/// What came of it, in a word.
fn word(outcome: &Result<(), String>) -> &str {
    let words = ["UnknownIssuer", "not valid for name", "Expired", "expired", "CaUsedAsEndEntity"];
    match outcome {
        Ok(()) => "good",
        Err(error) => words.into_iter().find(|word| error.contains(word)).unwrap_or(error),
    }
}

#[test]
fn a_server_is_believed_for_its_authority_and_its_name() {
    let pki = Pki::new();
    pki.authority("stranger", None);
    certificate(&pki, "good", "root", "DNS:pbx-1.example.ng,IP:127.0.0.1");
    certificate(&pki, "wild", "root", "DNS:*.example.ng");
    certificate(&pki, "foe", "stranger", "DNS:pbx-1.example.ng,IP:127.0.0.1");
    let (root, both) = (ca(&pki, "root.ca"), pki.path("both.ca"));
    let [one, other] = ["root.ca", "stranger.ca"].map(|name| std::fs::read_to_string(pki.path(name)).unwrap());
    pki.put(&both, &(one + &other));
    let both = format!("ca = {both:?}");
    let (named, other) = ("tls_name = \"PBX-1.example.ng.\"", "tls_name = \"pbx-2.example.ng\"");
    for (shown, server, lines, expected) in [
        ("good", "", &root[..], "good"),
        ("good", named, &root, "good"),
        ("good", other, &root, "not valid for name"),
        ("wild", other, &root, "good"),
        ("wild", "", &root, "not valid for name"),
        ("foe", named, &root, "UnknownIssuer"),
        ("foe", named, &both, "good"),
        // The system's authorities know neither.
        ("good", named, "", "UnknownIssuer"),
        ("foe", other, "verify = false", "good"),
    ] {
        let config = backend(server, lines);
        let peer = start(&pki, shown, &[]);
        let tls = load(&config);
        let outcome = connect(&tls, &config, 0, peer.address);
        assert_eq!(word(&outcome), expected, "{shown} {server} {lines}");
        assert_eq!(tls.warnings().is_empty(), lines != "verify = false", "{:?}", tls.warnings());
    }
}

#[test]
fn whoever_verifies_nobody_is_told_so() {
    let config = backend("", "verify = false");
    let warnings = load(&config).warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("backend \"b\": `verify = false`: whoever gets between"));
}

/// A server that shows a certificate and signs with another key: what was recorded from a server is no server.
fn impostor(shown: &Path, key: &Path, version: &'static SupportedProtocolVersion) -> SocketAddr {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(shown).unwrap().collect::<Result<_, _>>().unwrap();
    let key = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
    let pair = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let config = Arc::new(config.with_no_client_auth().with_cert_resolver(pair));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut session = ServerConnection::new(config).unwrap();
        while session.is_handshaking() && session.complete_io(&mut tcp).is_ok() {}
    });
    address
}

#[test]
fn a_server_without_the_key_of_what_it_shows_is_believed_by_nobody() {
    let pki = Pki::new();
    certificate(&pki, "shown", "root", "IP:127.0.0.1");
    certificate(&pki, "other", "root", "IP:127.0.0.1");
    for lines in ["verify = false".to_owned(), ca(&pki, "root.ca")] {
        for version in [&TLS12, &TLS13] {
            let config = backend("", &lines);
            let address = impostor(&pki.path("shown"), &pki.path("other.key"), version);
            let outcome = connect(&load(&config), &config, 0, address);
            assert!(outcome.as_ref().is_err_and(|error| error.contains("BadSignature")), "{lines}: {outcome:?}");
        }
    }
}

#[test]
fn servers_that_want_to_know_us_are_shown_our_certificate() {
    let pki = Pki::new();
    certificate(&pki, "good", "root", "IP:127.0.0.1");
    certificate(&pki, "own", "root", "DNS:edge.example.ng");
    let (own, key) = (pki.path("own"), pki.path("own.key"));
    let [text, key_text] = [&own, &key].map(|file| std::fs::read_to_string(file).unwrap());
    pki.put(&pki.path("both.pem"), &(text + &key_text));
    let root = ca(&pki, "root.ca");
    let authority = pki.path("root.ca");
    for version in ["-tls1_2", "-tls1_3"] {
        let peer = start(&pki, "good", &[version, "-Verify", "2", "-CAfile", authority.to_str().unwrap()]);
        for (lines, is_known) in [
            (root.clone(), false),
            (format!("{root}\ncertificate = {own:?}\nkey = {key:?}"), true),
            (format!("{root}\ncertificate = {:?}", pki.path("both.pem")), true),
        ] {
            let config = backend("", &lines);
            let outcome = connect(&load(&config), &config, 0, peer.address);
            assert_eq!(outcome.is_ok(), is_known, "{version} {lines}: {outcome:?}");
        }
    }
}

#[test]
fn a_self_signed_certificate_that_is_no_authority_can_be_written_as_ca() {
    let pki = Pki::new();
    let make = |name: &str, is_ca: &str| {
        let [config, to, key] =
            ["openssl.cnf", name, &format!("{name}.key")].map(|name| pki.path(name).to_str().unwrap().to_owned());
        let constraint = format!("basicConstraints=critical,CA:{is_ca}");
        let fixed = ["req", "-config", &config, "-x509", "-nodes", "-days", "30", "-subj", "/CN=x", "-out", &to];
        let own = ["-keyout", &key, "-addext", "subjectAltName=IP:127.0.0.1", "-addext", &constraint, "-newkey"];
        support::pki::openssl(&[&fixed[..], &own, ECDSA].concat());
    };
    make("leaf", "FALSE");
    make("authority", "TRUE");
    for (name, expected) in [("leaf", "good"), ("authority", "CaUsedAsEndEntity")] {
        let config = backend("", &ca(&pki, name));
        let peer = start(&pki, name, &[]);
        assert_eq!(word(&connect(&load(&config), &config, 0, peer.address)), expected, "{name}");
    }
}

#[test]
fn new_authorities_and_an_own_new_certificate_count_for_the_next_connection() {
    let pki = Pki::new();
    pki.authority("next", None);
    certificate(&pki, "good", "root", "IP:127.0.0.1");
    certificate(&pki, "renewed", "next", "IP:127.0.0.1");
    let copy = |from: &str, to: &Path| pki.put(to, &std::fs::read_to_string(pki.path(from)).unwrap());
    let file = pki.path("servers.ca");
    copy("root.ca", &file);
    let config = backend("", &format!("ca = {file:?}"));
    let tls = load(&config);
    let outcomes = |tls: &Tls| {
        ["good", "renewed"].map(|name| word(&connect(tls, &config, 0, start(&pki, name, &[]).address)).to_owned())
    };
    assert_eq!(outcomes(&tls), ["good", "UnknownIssuer"]);
    copy("next.ca", &file);
    assert_eq!(outcomes(&tls), ["good", "UnknownIssuer"], "nobody has looked");
    assert_eq!(looked(&tls), [News::Taken(format!("backend \"b\": {} replaced", file.display()))]);
    assert_eq!(outcomes(&tls), ["UnknownIssuer", "good"]);
    pki.put(&file, "nothing");
    assert!(matches!(&looked(&tls)[..], [News::Kept(fault)] if fault.what == "there is no certificate in it"));
    assert_eq!(outcomes(&tls), ["UnknownIssuer", "good"], "whom we believe is never nobody, nor everybody");
}
