//! What is wrong with certificates is said before anything starts: all of it at once, with what to do.

mod support;

use std::path::Path;
use std::process::Command;

use support::core::config;
use support::pki::{ECDSA, Pki, Wanted, openssl};
use support::process::{global, output, program};
use support::tls_peers::looked;
use tempfile::TempDir;
use trunkline::config::Config;
use trunkline::net::tls::{News, Tls};
use trunkline::sip::token::NameHash;

/// A frontend "sips", and a backend "b" of a tls:// server, with these lines in their sections.
fn text(frontend: &str, backend: &str) -> String {
    format!(
        "[[frontend]]\nname = \"sips\"\nbind = \"tls://127.0.0.1:5061\"\nbackend = \"b\"\n[frontend.tls]\n{frontend}\n\
         [[backend]]\nname = \"b\"\n[backend.tls]\n{backend}\n\
         [[backend.server]]\nname = \"s\"\naddress = \"tls://127.0.0.2:5061\"\n"
    )
}

fn faults(config: &Config) -> String {
    Tls::load(config).err().map(|faults| faults.to_string()).unwrap_or_default()
}

/// A certificate in a folder, with what is wrong with it.
struct Broken {
    file: &'static str,
    text: String,
    /// What stands beside, in a file that ends in .key.
    key: Option<String>,
    what: &'static str,
    remedy: &'static str,
}

/// Everything that can be wrong with one, each in a file of its own.
fn broken(pki: &Pki) -> Vec<Broken> {
    let make = |name: &str| {
        pki.certificate(name, &Wanted { authority: "root", names: "DNS:sip.example.ng", key: ECDSA, days: "30" })
    };
    let ((chain, key), (other, other_key)) = (make("one"), make("two"));
    let key_file = pki.path("one.key");
    let key_file = key_file.to_str().unwrap();
    let locked = openssl(&["pkey", "-in", key_file, "-aes128", "-passout", "pass:secret"]);
    let legacy = openssl(&["ec", "-in", key_file, "-aes128", "-passout", "pass:secret"]);
    let weak = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    let of = |file, text: &str, key: Option<&str>, what, remedy| Broken {
        file,
        text: text.to_owned(),
        key: key.map(str::to_owned),
        what,
        remedy,
    };
    vec![
        of("empty", "", None, "there is no certificate in it", "BEGIN CERTIFICATE"),
        of("key-only", &key, None, "there is no certificate in it", "`openssl x509 -inform der"),
        of("chain-only", &chain, None, "its key is not in it", "chain-only.key"),
        of("cut", &(chain[..chain.len() - 40].to_owned() + &key), None, "", "from -----BEGIN to -----END"),
        of("garbled", &(chain.replacen("MII", "?II", 1) + &key), None, "no base64", "copy it anew"),
        of("cut-key", &chain, Some(&key[..key.len() - 30]), "", "copy it anew"),
        of("no-key-beside", &chain, Some("nothing"), "there is no key in it", "BEGIN PRIVATE KEY"),
        of("locked", &chain, Some(&locked), "its key has a password", "`openssl pkey"),
        of("legacy-locked", &(chain.clone() + &legacy), None, "its key has a password", "`openssl pkey"),
        of(
            "another-s",
            &(chain.clone() + &other_key),
            None,
            "its certificate is not that of its key",
            "must print the same",
        ),
        of(
            "disordered",
            &(other + &chain + &key),
            None,
            "the key is that of its certificate 2",
            "own certificate first",
        ),
        of("weak", &chain, Some(&weak), "", ""),
        of(
            "no-x509",
            &format!("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n{key}"),
            None,
            "its certificate cannot be ",
            "version 3",
        ),
    ]
}

#[test]
fn everything_that_is_wrong_with_a_folder_is_said_at_once_with_what_to_do() {
    let pki = Pki::new();
    let folder = pki.path("certs");
    std::fs::create_dir(&folder).unwrap();
    pki.put(&folder.join("good.pem"), &pki.pem("good", "DNS:good.example.ng"));
    let broken = broken(&pki);
    for Broken { file, text, key, .. } in &broken {
        pki.put(&folder.join(format!("{file}.pem")), text);
        if let Some(key) = key {
            pki.put(&folder.join(format!("{file}.key")), key);
        }
    }
    let away = pki.path("away.pem");
    let lines = format!("certificates = {folder:?}\nclient_auth = \"required\"\nclient_ca = {away:?}");
    let own = format!("ca = {folder:?}\ncertificate = {:?}\nkey = {away:?}", pki.path("good"));
    let said = faults(&config(&text(&lines, &own)));
    let of = |file: &Path| {
        let parts = said.split_inclusive("\n    = ").collect::<Vec<_>>();
        let head = format!("{}: error: ", file.display());
        parts.windows(2).filter(|two| two[0].contains(&head)).map(<[_]>::concat).collect::<Vec<_>>()
    };
    for Broken { file, what, remedy, key, .. } in &broken {
        let all = [of(&folder.join(format!("{file}.pem"))), of(&folder.join(format!("{file}.key")))].concat();
        assert!(all.len() == 1 && all[0].contains(what) && all[0].contains(remedy), "{file} {key:?}: {all:#?}\n{said}");
    }
    assert_eq!(of(&folder.join("good.pem")), [""; 0]);
    assert!(!of(&away).is_empty() && said.contains("away.pem: error: is not there"), "{said}");
    assert!(said.contains("`client_ca` of frontend \"sips\" needs it"), "{said}");
    assert!(said.contains(&format!("{}: error: is no file", folder.display())), "{said}");
    let secrets =
        broken.iter().flat_map(|broken| broken.text.lines().chain(broken.key.iter().flat_map(|key| key.lines())));
    for secret in secrets.filter(|line| line.len() > 20 && !line.starts_with("-----")) {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
    assert!(said.matches(": error: ").count() >= broken.len() + 3, "{said}");
}

#[test]
fn a_folder_may_be_missing_empty_or_too_full() {
    let pki = Pki::new();
    let folder = pki.path("certs");
    let found = |pki: &Pki| {
        faults(&config(&text(&format!("certificates = {folder:?}"), &format!("ca = {:?}", pki.path("root.ca")))))
    };
    assert!(found(&pki).contains("certs: error: is not there\n    = `certificates` of frontend \"sips\" needs it"));
    std::fs::create_dir(&folder).unwrap();
    assert!(found(&pki).contains("certs: error: there is no certificate in it"), "{}", found(&pki));
    for at in 0..=4096 {
        std::fs::write(folder.join(format!("{at}.pem")), "").unwrap();
    }
    let said = found(&pki);
    assert!(said.contains("there are 4097 certificates in it") && said.matches("error").count() == 1, "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
    let long = std::fs::File::create(&folder).unwrap();
    long.set_len((4 << 20) + 1).unwrap();
    assert!(found(&pki).contains("certs: error: is longer than 4 MB"), "{}", found(&pki));
}

/// What `trunkline check` says, and its exit code.
fn check(folder: &TempDir, text: &str) -> (Option<i32>, String) {
    let file = folder.path().join("trunkline.toml");
    std::fs::write(&file, global(folder, 1) + text).unwrap();
    let output = output(Command::new(program()).args(["check", "-c"]).arg(&file));
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn check_reads_certificates_and_says_their_faults_with_the_others() {
    let pki = Pki::new();
    let pem = pki.path("sip.pem");
    let work = TempDir::new().unwrap();
    std::fs::write(work.path().join("cluster.key"), "nothing").unwrap();
    let (code, said) = check(&work, &text(&format!("certificates = {pem:?}"), "verify = false"));
    assert_eq!(code, Some(1));
    assert!(said.contains("cluster.key:1:1: error: ") && said.contains("sip.pem: error: is not there"), "{said}");
    pki.put(&pem, &pki.pem("sip", "DNS:sip.example.ng"));
    let (_, said) = check(&work, &text(&format!("certificates = {pem:?}"), "verify = false"));
    assert!(said.contains("warning: backend \"b\": `verify = false`") && !said.contains("sip.pem"), "{said}");
    let (_, said) = check(&work, &text("certificates = \"certs\"", "verify = false"));
    assert!(said.contains("`certificates` is not a path from / on"), "{said}");
}

/// The door of a reload: all or nothing, and what leaves keeps what it has.
#[test]
fn another_configuration_is_read_before_anything_is_touched() {
    let pki = Pki::new();
    let [one, two] = ["one.pem", "two.pem"].map(|name| pki.path(name));
    pki.put(&one, &pki.pem("one", "DNS:one.example.ng"));
    pki.put(&two, &pki.pem("two", "DNS:two.example.ng"));
    let lines = |file: &Path| format!("certificates = {file:?}");
    let before = config(&text(&lines(&one), "verify = false"));
    let (tls, sips) = (Tls::load(&before).unwrap(), NameHash::of("sips"));
    let names =
        |tls: &Tls| tls.certificates().into_iter().flat_map(|certificate| certificate.names).collect::<Vec<_>>();
    let (server, client) = (tls.server_config(sips).unwrap(), tls.client_config("b").unwrap());

    assert!(tls.prepare(&config(&text(&lines(&pki.path("away")), "verify = false"))).is_err());
    let material = tls.prepare(&before).unwrap();
    assert_eq!(tls.put(Some(material), &before), []);
    assert!(std::sync::Arc::ptr_eq(&server, &tls.server_config(sips).unwrap()), "tickets live on");
    assert!(std::sync::Arc::ptr_eq(&client, &tls.client_config("b").unwrap()));

    let after = config(&text(&lines(&two), "verify = false"));
    let material = tls.prepare(&after).unwrap();
    assert_eq!(names(&tls), ["one.example.ng"], "nothing is touched yet");
    let news = tls.put(Some(material), &after);
    assert!(
        matches!(&news[..], [News::Taken(added), News::Taken(gone)] if added.contains("two.pem added") && gone.contains("one.pem removed")),
        "{news:?}"
    );
    assert_eq!(names(&tls), ["two.example.ng"]);

    // Wanted no more, and still served: its files may be gone.
    std::fs::remove_file(&two).unwrap();
    let plain = config(
        &text(&lines(&two), "verify = false").replace("\"sips\"", "\"other\"").replace(&lines(&two), &lines(&one)),
    );
    let material = tls.prepare(&plain).unwrap();
    let mut leaving = plain.clone();
    leaving.frontends.push(after.frontends[0].clone());
    tls.put(Some(material), &leaving);
    assert!(tls.server_config(sips).is_some() && tls.server_config(NameHash::of("other")).is_some());
    tls.put(tls.prepare(&plain).ok(), &plain);
    assert!(tls.server_config(sips).is_none(), "it is gone");

    // The same where nothing is read because only what left is gone; and what was looked at before says nothing of it.
    tls.put(tls.prepare(&plain).ok(), &leaving);
    tls.put(Some(tls.prepare(&before).unwrap()), &before);
    let (look, mut both) = (tls.look(), before.clone());
    both.frontends.extend(plain.frontends.iter().cloned());
    tls.put(tls.prepare(&plain).ok(), &both);
    assert!(tls.server_config(sips).is_some() && tls.server_config(NameHash::of("other")).is_some());
    tls.put(None, &plain);
    assert!(tls.server_config(sips).is_none() && tls.server_config(NameHash::of("other")).is_some());
    assert_eq!((tls.take(look), names(&tls)), (vec![], vec!["one.example.ng".to_owned()]));
    assert!(tls.server_config(sips).is_none(), "what left does not come back");
}

/// Who reads it would wait for whoever writes it, for ever, and with it everything else.
#[test]
fn what_is_no_file_is_not_waited_for() {
    let pki = Pki::new();
    let folder = pki.path("certs");
    std::fs::create_dir(&folder).unwrap();
    pki.put(&folder.join("a.pem"), &pki.pem("a", "DNS:a.example.ng"));
    let config = config(&text(&format!("certificates = {folder:?}"), "verify = false"));
    let tls = Tls::load(&config).unwrap();
    nix::unistd::mkfifo(&folder.join("z.pem"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let news = looked(&tls);
    assert!(matches!(&news[..], [News::Kept(fault)] if fault.what == "is no file"), "{news:?}");
    assert!(faults(&config).contains("z.pem: error: is no file"), "{}", faults(&config));
}
