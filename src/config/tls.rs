//! TLS as it is asked for: which certificates a frontend shows and whose it wants to see, and how servers prove who they
//! are. Files are only named here; `net::tls` reads them.

use std::net::IpAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use super::fault::Faults;
use super::file::FrontendSection;
use super::names::Named;
use super::read::{At, Read, Section};
use super::{Mode, Server};
use crate::sip::Transport;

/// The authorities of the `ca-certificates` package, where Debian and its kin have them.
pub const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What a frontend shows to clients and asks of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendTls {
    /// A folder of PEM files, or one file.
    pub certificates: PathBuf,
    pub min_version: TlsVersion,
    pub client_auth: ClientAuth,
    /// What clients over TLS are told of us in the place of an address, lower-case: one of the names in our certificates.
    pub name: Option<String>,
    /// Whether what goes over it is SIP, and not a relay's own business.
    pub carries_sip: bool,
}

impl FrontendTls {
    /// What it names, and the key that may stand beside a certificate.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let beside = self.certificates.with_extension("key");
        [Some(self.certificates.clone()), Some(beside), self.client_auth.ca().cloned()].into_iter().flatten()
    }
}

/// The longest name that we are told by: it stands in texts of a fixed size ([`crate::sip::side::Side`]).
const LONGEST_NAME: usize = 44;

/// The lowest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Whether clients show a certificate, and the file of the authorities that it must be from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    /// Who shows none is let in; who shows one from elsewhere is not.
    Optional(PathBuf),
    Required(PathBuf),
}

impl ClientAuth {
    /// The file of the authorities.
    pub fn ca(&self) -> Option<&PathBuf> {
        match self {
            Self::None => None,
            Self::Optional(ca) | Self::Required(ca) => Some(ca),
        }
    }
}

/// What servers of a backend must show, and what they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    pub trust: Trust,
    pub own: Option<OwnCertificate>,
}

impl Default for BackendTls {
    fn default() -> Self {
        Self { trust: Trust::Ca(SYSTEM_CA.into()), own: None }
    }
}

impl BackendTls {
    /// What it names, and the key that may stand beside a certificate; not what Debian brings.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let ca = match &self.trust {
            Trust::Ca(ca) if ca.as_os_str() != SYSTEM_CA => Some(ca.clone()),
            _ => None,
        };
        let own = self.own.iter().flat_map(|own| {
            let key = own.key.clone().unwrap_or_else(|| own.certificate.with_extension("key"));
            [own.certificate.clone(), key]
        });
        ca.into_iter().chain(own)
    }
}

/// Whom a server's certificate must be from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// One of the authorities of this file.
    Ca(PathBuf),
    /// Anybody: the wire is secret, but nobody knows with whom.
    Anybody,
}

/// What we show to servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// With its chain, and with its key unless there is `key`.
    pub certificate: PathBuf,
    pub key: Option<PathBuf>,
}

/// A path from the root: nobody knows in which directory a service runs.
struct Absolute(PathBuf);

impl Read for Absolute {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let path = value.as_str().filter(|path| path.starts_with('/') && !path.contains('\0'));
        path.map(|path| Self(path.into())).ok_or_else(|| "a path from / on".into())
    }
}

fn path(section: &Section<'_, '_>, key: &'static str) -> Option<At<PathBuf>> {
    section.optional::<Absolute>(key).map(|path| At { value: path.value.0, at: path.at })
}

/// Reads `[frontend.tls]`.
pub fn frontend(section: Section<'_, '_>) -> At<FrontendTls> {
    type Asked = fn(PathBuf) -> ClientAuth;
    const ASKED: [(&str, Option<Asked>); 3] =
        [("none", None), ("optional", Some(ClientAuth::Optional)), ("required", Some(ClientAuth::Required))];
    let certificates = section.required::<Absolute>("certificates", "\"/etc/trunkline/certs\"");
    let min_version =
        section.word("min_version", TlsVersion::V1_2, &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)]);
    let (asked, ca) = (section.word("client_auth", None, &ASKED), path(&section, "client_ca"));
    let client_auth = match (asked, ca) {
        (None, None) => ClientAuth::None,
        (Some(asked), Some(ca)) => asked(ca.value),
        (None, Some(ca)) => {
            let remedy = "write `client_auth = \"optional\"` or `\"required\"`, or remove it";
            section.fault(ca.at, "`client_ca`, and clients are not asked for certificates", remedy);
            ClientAuth::None
        }
        (Some(_), None) => {
            let at = section.place("client_auth").unwrap_or(section.at());
            // A faulty one has been told.
            if section.place("client_ca").is_none() {
                let remedy = "add `client_ca = \"/etc/trunkline/client-ca.pem\"`";
                section.fault(at, "`client_auth` without the authorities that certificates may be from", remedy);
            }
            ClientAuth::None
        }
    };
    let certificates = certificates.map_or_else(PathBuf::new, |path| path.value.0);
    let name = section.optional::<String>("name").map(|name| {
        let is_host = name.value.parse::<IpAddr>().is_err() && is_tls_name(&name.value);
        if !is_host || name.value.len() > LONGEST_NAME {
            let remedy = format!("write a host name that your certificates have, of at most {LONGEST_NAME} characters");
            section.fault(name.at, format!("clients cannot be told \"{}\"", name.value), remedy);
        }
        name.value.to_ascii_lowercase()
    });
    let tls = FrontendTls { certificates, min_version, client_auth, name, carries_sip: true };
    let read = At { value: tls, at: section.at() };
    section.finish(&[]);
    read
}

/// Reads `[backend.tls]`.
pub fn backend(section: Section<'_, '_>) -> At<BackendTls> {
    let ca = path(&section, "ca");
    let trust = match (section.or("verify", true), ca) {
        (true, ca) => Trust::Ca(ca.map_or_else(|| SYSTEM_CA.into(), |ca| ca.value)),
        (false, None) => Trust::Anybody,
        (false, Some(ca)) => {
            section.fault(ca.at, "`ca` means nothing where `verify` is false", "remove `verify`");
            Trust::Anybody
        }
    };
    let (certificate, key) = (path(&section, "certificate"), path(&section, "key"));
    if let (None, Some(key), None) = (&certificate, &key, section.place("certificate")) {
        section.fault(key.at, "`key` without `certificate`", "add `certificate`: the file of what the key is for");
    }
    let own = certificate.map(|path| OwnCertificate { certificate: path.value, key: key.map(|key| key.value) });
    let read = At { value: BackendTls { trust, own }, at: section.at() };
    section.finish(&[]);
    read
}

/// A tls:// bind needs certificates, and certificates need a tls:// bind.
pub fn judge_frontend(section: &FrontendSection, faults: &mut Faults) {
    if let Some(tls) = section.tls.as_ref().filter(|tls| tls.value.name.is_some() && section.mode != Mode::Proxy) {
        let what = "`name` of [frontend.tls] means nothing in mode \"relay\": no message is written there";
        faults.push(tls.at, what, "remove it");
    }
    // What a relay of datagrams may have is judged there.
    if matches!(section.mode, Mode::Relay(_)) {
        return;
    }
    let name = &section.name.value;
    match (&section.tls, section.binds.iter().find(|bind| bind.value.transport == Transport::Tls)) {
        (None, Some(bind)) => faults.push(
            bind.at,
            format!("a tls:// bind, and frontend \"{name}\" has no certificates"),
            "add [frontend.tls] with `certificates = \"/etc/trunkline/certs\"`",
        ),
        (Some(tls), None) => faults.push(
            tls.at,
            format!("[frontend.tls], and frontend \"{name}\" has no tls:// bind"),
            "add \"tls://0.0.0.0:5061\" to `bind`, or remove the section",
        ),
        _ => {}
    }
}

/// What servers must show means nothing where none of them speaks TLS.
pub fn judge_backend(
    name: &str,
    section: Option<&At<BackendTls>>,
    (servers, named): (&[Server], &[Named]),
    faults: &mut Faults,
) {
    let mut transports = servers.iter().map(|s| s.transport).chain(named.iter().map(|n| n.query.transport));
    if let Some(tls) = section.filter(|_| !transports.any(|transport| transport == Transport::Tls)) {
        let what = format!("[backend.tls], and no server of \"{name}\" is tls://");
        faults.push(tls.at, what, "write `address = \"tls://...\"` for those that speak TLS, or remove the section");
    }
}

/// The name that a server's certificate must be for: what is written, else `host`, at `at`. `None` without TLS.
pub fn name(
    written: Option<&At<String>>,
    transport: Transport,
    (host, at): (&str, usize),
    faults: &mut Faults,
) -> Option<String> {
    if transport != Transport::Tls {
        if let Some(name) = written {
            let what = format!("`tls_name` of a server that is {}://", transport.name());
            faults.push(name.at, what, "remove it, or write `address = \"tls://...\"`");
        }
        return None;
    }
    let (name, at) = written.map_or((host, at), |name| (name.value.as_str(), name.at));
    if !is_tls_name(name) {
        let what = format!("no certificate can be for \"{name}\"");
        faults.push(at, what, "write `tls_name`: the host name, or the address, in the server's certificate");
    }
    Some(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
}

/// An address, or a host name whose labels neither begin nor end with a hyphen (RFC 1123 §2.1).
fn is_tls_name(text: &str) -> bool {
    let host = text.strip_suffix('.').unwrap_or(text);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    let number = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    text.parse::<IpAddr>().is_ok() || (host.len() <= 253 && host.split('.').all(label) && !number)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const GOOD: &str = r#"
[[frontend]]
name = "sips"
bind = ["udp://10.0.1.10:5060", "tls://10.0.1.10:5061"]
backend = "pbx"

[frontend.tls]
certificates = "/etc/trunkline/certs"
min_version = "1.3"
client_auth = "required"
client_ca = "/etc/trunkline/client-ca.pem"
name = "Sip.example.ng"

[[backend]]
name = "pbx"

[backend.tls]
ca = "/etc/trunkline/ca.pem"
certificate = "/etc/trunkline/own.pem"
key = "/etc/trunkline/own.key"

[[backend.server]]
name = "by-address"
address = "tls://10.0.10.11:5061"

[[backend.server]]
name = "by-word"
address = "tls://[2001:db8::5]:5061"
tls_name = "PBX-2.Example.NG."

[[backend.server]]
name = "by-host"
address = "tls://Pbx.Example.ng"

[[backend.server]]
name = "plain"
address = "udp://10.0.10.12:5060"
"#;

    fn read(text: &str) -> Config {
        Config::parse(text).unwrap_or_else(|faults| panic!("{}", faults.render("f", text)))
    }

    #[test]
    fn every_key_arrives() {
        let config = read(&GOOD.replace("bind = [", "inside = \"2001:db8::1\"\nbind = ["));
        let tls = config.frontends[0].tls.as_ref().unwrap();
        let required = ClientAuth::Required("/etc/trunkline/client-ca.pem".into());
        assert_eq!((&tls.certificates, tls.min_version), (&"/etc/trunkline/certs".into(), TlsVersion::V1_3));
        assert_eq!((&tls.client_auth, tls.name.as_deref()), (&required, Some("sip.example.ng")));
        assert_eq!(config.frontends[0].aliases, ["sip.example.ng"]);
        let pbx = &config.backends[0];
        let own =
            OwnCertificate { certificate: "/etc/trunkline/own.pem".into(), key: Some("/etc/trunkline/own.key".into()) };
        assert_eq!(pbx.tls, BackendTls { trust: Trust::Ca("/etc/trunkline/ca.pem".into()), own: Some(own) });
        let names: Vec<_> = pbx.servers.iter().map(|server| server.tls_name.as_deref()).collect();
        assert_eq!(names, [Some("10.0.10.11"), Some("pbx-2.example.ng"), None]);
        assert_eq!(pbx.names[0].tls_name.as_deref(), Some("pbx.example.ng"));
        assert!(pbx.has_tls() && config.frontends[0].has_tls());
    }

    #[test]
    fn what_is_not_written_has_a_default() {
        let config = read(
            "[[frontend]]\nname = \"f\"\nbind = \"tls://10.0.1.10:5061\"\nbackend = \"b\"\n\
             tls = { certificates = \"/c\", client_auth = \"optional\", client_ca = \"/d\" }\n\
             [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"tls://10.0.1.11:5061\"\n",
        );
        let tls = config.frontends[0].tls.as_ref().unwrap();
        assert_eq!((tls.min_version, &tls.client_auth), (TlsVersion::V1_2, &ClientAuth::Optional("/d".into())));
        assert_eq!(config.backends[0].tls, BackendTls { trust: Trust::Ca(SYSTEM_CA.into()), own: None });
    }

    #[test]
    fn a_relay_tells_nobody_a_name() {
        let text = "[[frontend]]\nname = \"f\"\nmode = \"relay\"\nbind = \"tls://10.0.1.10:443\"\nbackend = \"b\"\n\
                    tls = { certificates = \"/c\", name = \"a.example\" }\n\
                    [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"tcp://10.0.1.11:80\"\n";
        let told = Config::parse(text).unwrap_err().render("f", text).to_string();
        assert!(told.contains("`name` of [frontend.tls] means nothing in mode \"relay\""), "{told}");
        read(&text.replace(", name = \"a.example\"", ""));
    }

    /// What is changed in the good file, to what; what is wrong then, and what to do.
    const FAULTY: &[[&str; 4]] = &[
        [
            ", \"tls://10.0.1.10:5061\"]",
            "]",
            "[frontend.tls], and frontend \"sips\" has no tls:// bind",
            "add \"tls://",
        ],
        [
            "[frontend.tls]\ncertificates",
            "[frontend.limits]\ncertificates",
            "a tls:// bind, and frontend \"sips\" has no certificates",
            "add [frontend.tls] with",
        ],
        ["certificates = ", "certs = ", "[frontend.tls] has no `certificates`", "add `certificates = "],
        ["\"/etc/trunkline/certs\"", "\"certs\"", "`certificates` is not a path from / on", "write a path"],
        ["\"/etc/trunkline/certs\"", "[\"/a\"]", "`certificates` is not a path from / on", "write a path"],
        ["\"1.3\"", "\"1.1\"", "`min_version` cannot be \"1.1\"", "did you mean \"1.2\""],
        ["\"required\"", "\"yes\"", "`client_auth` cannot be \"yes\"", "\"none\", \"optional\", \"required\""],
        ["\"required\"", "\"none\"", "`client_ca`, and clients are not asked", "write `client_auth = "],
        ["client_ca = ", "# ", "`client_auth` without the authorities", "add `client_ca = "],
        ["\"Sip.example.ng\"", "\"203.0.113.10\"", "clients cannot be told \"203.0.113.10\"", "write a host name"],
        ["\"Sip.", "\"a.name.of.more.than.forty-four.characters.", "clients cannot be told \"a.name", "of at most 44"],
        ["ca = \"/etc/trunkline/ca.pem\"", "ca = \"/x\"\nverify = false", "`ca` means nothing", "remove `verify`"],
        ["certificate = ", "# ", "`key` without `certificate`", "add `certificate`"],
        ["\nkey = ", "\nkeys = ", "unknown key `keys` in [backend.tls]", "did you mean `key`?"],
        ["5060\"\n", "5060\"\ntls_name = \"a\"\n", "`tls_name` of a server that is udp://", "remove it"],
        ["PBX-2.Example.NG.", "pbx 2", "no certificate can be for \"pbx 2\"", "the host name, or the address"],
        ["PBX-2.Example.NG.", "-pbx", "no certificate can be for \"-pbx\"", "in the server's certificate"],
        [
            "tls://Pbx.Example.ng",
            "tls://pbx-.example.ng",
            "no certificate can be for \"pbx-.example.ng\"",
            "`tls_name`",
        ],
        ["\"sips\"\n", "\"sips\"\nmode = \"relay\"\n", "`tls` is about connections", "write a tcp:// or tls://"],
        ["\"sips\"\n", "\"sips\"\nmode = \"relay\"\n", "this relay is of datagrams, by its first bind", "its own"],
        ["\"sips\"\n", "\"sips\"\nmode = \"relay\"\n", "relays datagrams, and server \"by", "udp://"],
    ];

    #[test]
    fn what_makes_no_sense_is_told() {
        let good = GOOD.replace("bind = [", "inside = \"2001:db8::1\"\nbind = [");
        for [from, to, what, remedy] in FAULTY {
            assert!(good.contains(from), "{from}");
            let text = good.replacen(from, to, 1);
            let found =
                Config::parse(&text).map_or_else(|faults| faults.render("f", &text).to_string(), |_| String::new());
            let fault = found.split("f:").find(|fault| fault.contains(what));
            assert!(fault.is_some_and(|fault| fault.contains(remedy)), "{to}: {what}: {remedy}\n{found}");
        }
        let tls = ["tls://10.0.10.11:5061", "tls://[2001:db8::5]:5061", "tls://Pbx.Example.ng"];
        let udp = tls.iter().fold(good, |text, tls| text.replace(tls, &tls.replace("tls", "udp")));
        let udp = udp.replace("tls_name = \"PBX-2.Example.NG.\"", "");
        let found = Config::parse(&udp).unwrap_err().render("f", &udp).to_string();
        assert!(found.contains("[backend.tls], and no server of \"pbx\" is tls://"), "{found}");
        assert_eq!(found.matches(": error: ").count(), 1, "{found}");
    }
}
