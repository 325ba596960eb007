//! Authorities and certificates, made by `openssl`: nothing of them is stored.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use super::process::spawn;

/// A folder with everything that was made.
pub struct Pki {
    pub folder: TempDir,
}

/// Who signs, and what it is for.
pub struct Wanted<'a> {
    pub authority: &'a str,
    /// subjectAltName, such as `DNS:sip.example.ng,IP:127.0.0.1`; empty: none.
    pub names: &'a str,
    /// The options of `openssl req -newkey`.
    pub key: &'a [&'a str],
    pub days: &'a str,
}

pub const ECDSA: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
pub const RSA: &[&str] = &["rsa:2048"];

/// Runs `openssl` and returns what it wrote to stdout.
pub fn openssl(arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn(&mut command).expect("openssl is there: tests/setup installs it");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

impl Pki {
    /// With one authority, `root`.
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        // Nothing of the system's own configuration.
        std::fs::write(folder.path().join("openssl.cnf"), "[req]\ndistinguished_name = dn\n[dn]\n").unwrap();
        let pki = Self { folder };
        pki.authority("root", None);
        pki
    }

    /// What a client goes by that believes `root`.
    pub fn trusting(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("root.ca")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Makes an authority: NAME.ca and NAME.ca.key.
    pub fn authority(&self, name: &str, above: Option<&str>) {
        let wanted = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"];
        self.request(&format!("{name}.ca"), above, ECDSA, &wanted);
    }

    fn request(&self, name: &str, authority: Option<&str>, key: &[&str], more: &[&str]) {
        let [config, to, to_key] = ["openssl.cnf", name, &format!("{name}.key")].map(|name| self.text(name));
        let signer =
            authority.map(|name| [format!("{name}.ca"), format!("{name}.ca.key")].map(|name| self.text(&name)));
        let signer: Vec<_> = signer.iter().flat_map(|[ca, key]| ["-CA", ca, "-CAkey", key]).collect();
        let subject = format!("/CN={}", name.trim_end_matches(".ca"));
        let fixed = ["req", "-config", &config, "-x509", "-nodes", "-days", "30", "-subj", &subject, "-out", &to];
        let own = ["-keyout", &to_key, "-newkey"];
        openssl(&[&fixed[..], &own, key, &signer, more].concat());
    }

    /// Makes a certificate called `name` and returns it and its key, both as PEM.
    pub fn certificate(&self, name: &str, wanted: &Wanted<'_>) -> (String, String) {
        let names = format!("subjectAltName={}", wanted.names);
        let names: &[&str] = if wanted.names.is_empty() { &[] } else { &["-addext", &names] };
        let end =
            ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth,clientAuth"];
        self.request(name, Some(wanted.authority), wanted.key, &[names, &end].concat());
        let key = std::fs::read_to_string(self.path(&format!("{name}.key"))).unwrap();
        if wanted.days == "30" {
            return (std::fs::read_to_string(self.path(name)).unwrap(), key);
        }
        // `req` makes none that has expired; `x509` signs what is asked for with any date.
        let request = self.text(&format!("{name}.csr"));
        let [config, own_key, ca, ca_key] = [
            "openssl.cnf".to_owned(),
            format!("{name}.key"),
            format!("{}.ca", wanted.authority),
            format!("{}.ca.key", wanted.authority),
        ]
        .map(|name| self.text(&name));
        let subject = format!("/CN={name}");
        let asked = ["req", "-config", &config, "-new", "-key", &own_key, "-subj", &subject, "-out", &request];
        openssl(&[&asked[..], names, &end].concat());
        let signed = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-copy_extensions", "copyall"];
        (openssl(&[&signed[..], &["-days", wanted.days]].concat()), key)
    }

    /// The same by a root for a host name with a key for ECDSA, as one text: what a folder holds.
    pub fn pem(&self, name: &str, names: &str) -> String {
        let (chain, key) = self.certificate(name, &Wanted { authority: "root", names, key: ECDSA, days: "30" });
        chain + &key
    }

    /// Writes it where nobody sees half of it, as a renewal should: beside, then renamed. Not readable for everybody.
    pub fn put(&self, to: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let beside = to.with_file_name(".new");
        std::fs::write(&beside, text).unwrap();
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&beside, to).unwrap();
    }
}
