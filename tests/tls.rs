//! TLS with a peer that is not ours: what `openssl s_client` is shown and refused, and what becomes of connections when
//! certificates change.

mod support;

use std::path::Path;
use std::sync::Arc;

use support::core::config;
use support::pki::{ECDSA, Pki, RSA, Wanted};
use support::tls_peers::{Client, Door, Seen, Server, looked};
use trunkline::net::tls::{News, Tls};

/// A frontend with these lines in [frontend.tls].
fn frontend(lines: &str) -> String {
    format!(
        "[[frontend]]\nname = \"sips\"\nbind = \"tls://127.0.0.1:5061\"\nbackend = \"b\"\n[frontend.tls]\n{lines}\n\
         [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"udp://127.0.0.2:5060\"\n"
    )
}

fn load(lines: &str) -> Arc<Tls> {
    let text = frontend(lines);
    Arc::new(Tls::load(&config(&text)).unwrap_or_else(|faults| panic!("{faults}")))
}

fn load_folder(folder: &Path) -> Arc<Tls> {
    load(&format!("certificates = {folder:?}"))
}

/// A folder inside the PKI's.
fn folder(pki: &Pki) -> std::path::PathBuf {
    let folder = pki.path("certs");
    std::fs::create_dir(&folder).unwrap();
    folder
}

fn taken(news: &[News], text: &str) -> bool {
    news.iter().any(|news| matches!(news, News::Taken(what) if what.contains(text)))
}

#[test]
fn a_client_sees_the_whole_chain_of_the_name_that_it_asks_for() {
    let pki = Pki::new();
    pki.authority("between", Some("root"));
    let folder = folder(&pki);
    pki.put(&folder.join("a-first.pem"), &pki.pem("first", "DNS:first.example.ng"));
    pki.put(&folder.join("b-wild.crt"), &pki.pem("wild", "DNS:*.example.ng,DNS:Example.NG"));
    let wanted = Wanted { authority: "between", names: "DNS:sip.example.ng", key: ECDSA, days: "30" };
    let (leaf, key) = pki.certificate("sip", &wanted);
    let between = std::fs::read_to_string(pki.path("between.ca")).unwrap();
    // Chain and key apart.
    pki.put(&folder.join("sip.pem"), &(leaf + &between));
    pki.put(&folder.join("sip.key"), &key);
    let door = Door::open(&load_folder(&folder), "sips");
    let root = pki.path("root.ca");
    let verify = ["-CAfile", root.to_str().unwrap(), "-verify_return_error"];
    for (name, subject, certificates) in [
        (Some("sip.example.ng"), "sip", 2),
        (Some("SIP.EXAMPLE.NG"), "sip", 2),
        (Some("pbx.example.ng"), "wild", 1),
        (Some("example.ng"), "wild", 1),
        (Some("first.example.ng"), "first", 1),
        // Nobody's: the first in the order of the files.
        (Some("a.b.example.ng"), "first", 1),
        (Some("sip.example.com"), "first", 1),
        (None, "first", 1),
    ] {
        let asked = name.map_or(vec!["-noservername"], |name| vec!["-servername", name]);
        let (said, seen) = door.visit(&[&asked[..], &verify].concat());
        assert!(said.contains(&format!("subject=CN = {subject}\n")), "{name:?}: {said}");
        assert!(said.contains("Verification: OK") && said.contains("welcome"), "{name:?}: {said}");
        assert_eq!(said.matches("BEGIN CERTIFICATE").count(), certificates, "{name:?}: {said}");
        assert_eq!(seen, Ok(Seen::default()));
    }
}

#[test]
fn only_tls_1_2_and_1_3_with_forward_secrecy() {
    let pki = Pki::new();
    let folder = folder(&pki);
    let wanted = Wanted { authority: "root", names: "DNS:sip.example.ng", key: RSA, days: "30" };
    let (chain, key) = pki.certificate("rsa", &wanted);
    pki.put(&folder.join("rsa.pem"), &(chain + &key));
    let old = |version| [version, "-cipher", "ALL:@SECLEVEL=0"];
    let lines = format!("certificates = {folder:?}\n");
    let door = Door::open(&load(&lines), "sips");
    // A server that speaks all of them: the client can, and it is ours that refuses.
    let weak = Server::start(&pki.path("rsa"), &pki.path("rsa.key"), &["-cipher", "ALL:@SECLEVEL=0"]);
    for (version, name) in [("-tls1", "New, TLSv1.0"), ("-tls1_1", "New, TLSv1.0"), ("-tls1_2", "New, TLSv1.2")] {
        Client::start(weak.address, &old(version)).hear(name);
    }
    for version in ["-tls1", "-tls1_1"] {
        let (said, seen) = door.visit(&old(version));
        assert!(said.contains("alert") && said.contains("New, (NONE)"), "{version}: {said}");
        assert!(seen.is_err(), "{version}");
    }
    let (said, seen) = door.visit(&["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA:ECDHE-RSA-AES128-SHA"]);
    assert!(said.contains("handshake failure") && seen.is_err(), "no RSA key exchange, no CBC: {said}");
    let (said, _) = door.visit(&["-tls1_2"]);
    assert!(said.contains("New, TLSv1.2, Cipher is ECDHE-RSA-AES"), "{said}");
    let (said, _) = door.visit(&["-tls1_3"]);
    assert!(said.contains("New, TLSv1.3, Cipher is TLS_AES"), "{said}");

    let door = Door::open(&load(&(lines + "min_version = \"1.3\"")), "sips");
    let (said, seen) = door.visit(&["-tls1_2"]);
    assert!(said.contains("tlsv1 alert protocol version") && seen.is_err(), "{said}");
    let (said, seen) = door.visit(&[]);
    assert!(said.contains("New, TLSv1.3") && seen.is_ok(), "{said}");
}

#[test]
fn of_two_certificates_of_a_name_each_client_sees_the_one_that_it_can_verify() {
    let pki = Pki::new();
    let folder = folder(&pki);
    for (name, key) in [("ecdsa", ECDSA), ("rsa", RSA)] {
        let wanted = Wanted { authority: "root", names: "DNS:sip.example.ng", key, days: "30" };
        let (chain, key) = pki.certificate(name, &wanted);
        pki.put(&folder.join(format!("{name}.pem")), &(chain + &key));
    }
    let tls = load_folder(&folder);
    assert_eq!(tls.warnings(), [""; 0], "this is no accident");
    let door = Door::open(&tls, "sips");
    for (algorithms, subject) in [("ECDSA+SHA256:RSA-PSS+SHA256", "ecdsa"), ("RSA-PSS+SHA256:RSA+SHA256", "rsa")] {
        let (said, _) = door.visit(&["-servername", "sip.example.ng", "-sigalgs", algorithms]);
        assert!(said.contains(&format!("subject=CN = {subject}\n")), "{algorithms}: {said}");
    }
}

#[test]
fn clients_show_certificates_where_they_are_asked_to() {
    let pki = Pki::new();
    let folder = folder(&pki);
    pki.authority("stranger", None);
    pki.put(&folder.join("sip.pem"), &pki.pem("sip", "DNS:sip.example.ng"));
    for (name, authority) in [("friend", "root"), ("foe", "stranger")] {
        let wanted = Wanted { authority, names: "DNS:phone.example.ng", key: ECDSA, days: "30" };
        let (chain, key) = pki.certificate(name, &wanted);
        pki.put(&pki.path(&format!("{name}.pem")), &(chain + &key));
    }
    let certificate = |name| vec!["-cert".to_owned(), pki.path(name).to_str().unwrap().to_owned()];
    let clients = [vec![], certificate("friend.pem"), certificate("foe.pem")];
    let ca = pki.path("root.ca");
    for (lines, expected) in [
        (String::new(), [Ok(0), Ok(0), Ok(0)]),
        (format!("client_auth = \"optional\"\nclient_ca = {ca:?}"), [Ok(0), Ok(1), Err(())]),
        (format!("client_auth = \"required\"\nclient_ca = {ca:?}"), [Err(()), Ok(1), Err(())]),
    ] {
        let door = Door::open(&load(&format!("certificates = {folder:?}\n{lines}")), "sips");
        for version in ["-tls1_2", "-tls1_3"] {
            for (client, expected) in clients.iter().zip(expected) {
                let options: Vec<_> = [version].into_iter().chain(client.iter().map(String::as_str)).collect();
                let (said, seen) = door.visit(&options);
                let chain = seen.as_ref().map(|seen| seen.chain).map_err(|_| ());
                assert_eq!(chain, expected, "{lines} {options:?}: {seen:?} {said}");
                assert_eq!(said.contains("welcome"), expected.is_ok(), "{lines} {options:?}: {said}");
            }
        }
    }
}

#[test]
fn sip_is_the_only_protocol_and_need_not_be_named() {
    let pki = Pki::new();
    let folder = folder(&pki);
    pki.put(&folder.join("sip.pem"), &pki.pem("sip", "DNS:sip.example.ng"));
    let door = Door::open(&load_folder(&folder), "sips");
    let sip = Ok(Seen { alpn: Some("sip/2".into()), chain: 0 });
    assert_eq!(door.visit(&["-alpn", "sip/2"]).1, sip);
    assert_eq!(door.visit(&["-alpn", "h2,sip/2"]).1, sip);
    assert_eq!(door.visit(&[]).1, Ok(Seen::default()));
    let (said, seen) = door.visit(&["-alpn", "http/1.1"]);
    assert!(said.contains("no application protocol") && seen.is_err(), "{said}");
}

#[test]
fn who_comes_back_shakes_hands_by_ticket_but_not_past_another_door_or_authority() {
    let pki = Pki::new();
    let folder = folder(&pki);
    pki.put(&folder.join("sip.pem"), &pki.pem("sip", "DNS:sip.example.ng"));
    pki.authority("other", None);
    let ca = pki.path("client.ca");
    pki.put(&ca, &std::fs::read_to_string(pki.path("root.ca")).unwrap());
    let optional = format!("certificates = {folder:?}\nclient_auth = \"optional\"\nclient_ca = {ca:?}");
    let (tls, ticket) = (load(&optional), pki.path("ticket"));
    let (door, other) = (Door::open(&tls, "sips"), Door::open(&load(&optional), "sips"));
    let ticket = ticket.to_str().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let (first, _) = door.visit(&[version, "-sess_out", ticket]);
        assert!(first.contains("New, TLSv1"), "{first}");
        let back = |door: &Door| door.visit(&[version, "-sess_in", ticket]).0;
        assert!(back(&door).contains("Reused, TLSv1"), "{version}");
        assert!(back(&other).contains("New, TLSv1"), "{version}: another configuration's ticket means nothing");
    }
    let (_, _) = door.visit(&["-tls1_2", "-sess_out", ticket]);
    pki.put(&ca, &std::fs::read_to_string(pki.path("other.ca")).unwrap());
    assert!(taken(&looked(&tls), "client.ca replaced"));
    let (said, _) = door.visit(&["-tls1_2", "-sess_in", ticket]);
    assert!(said.contains("New, TLSv1.2"), "whom the old authorities let in is asked again: {said}");
}

#[test]
fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_none() {
    let pki = Pki::new();
    let folder = folder(&pki);
    let (one, two) = (folder.join("one.pem"), folder.join("two.pem"));
    let good = pki.pem("one-old", "DNS:one.example.ng");
    pki.put(&one, &good);
    pki.put(&two, &pki.pem("two-old", "DNS:two.example.ng"));
    let tls = load_folder(&folder);
    let door = Door::open(&tls, "sips");
    let shown = |name: &str| {
        let (said, _) = door.visit(&["-servername", name]);
        said.lines().find_map(|line| line.strip_prefix("subject=CN = ")).unwrap_or_default().to_owned()
    };
    let mut old = Client::start(door.address, &["-servername", "one.example.ng"]);
    old.hear("subject=CN = one-old");
    old.hear("welcome");
    door.handshake().unwrap();
    assert_eq!(looked(&tls), [], "nothing has changed");

    pki.put(&one, &pki.pem("one-new", "DNS:one.example.ng"));
    assert_eq!(shown("one.example.ng"), "one-old", "nobody has looked");
    let news = looked(&tls);
    assert!(news.len() == 1 && taken(&news, "one.pem replaced: for one.example.ng, until 2"), "{news:?}");
    assert_eq!([shown("one.example.ng"), shown("two.example.ng")], ["one-new", "two-old"]);
    old.say("hello");
    old.hear("again hello");

    // One is broken and keeps what it had; the other is renewed nevertheless.
    pki.put(&one, "-----BEGIN CERTIFICATE-----\nhalf of it");
    pki.put(&two, &pki.pem("two-new", "DNS:two.example.ng"));
    let news = looked(&tls);
    let [News::Taken(renewed), News::Kept(fault)] = &news[..] else { panic!("{news:?}") };
    assert!(renewed.contains("two.pem replaced") && fault.file == one, "{news:?}");
    assert_eq!([shown("one.example.ng"), shown("two.example.ng")], ["one-new", "two-new"]);
    assert_eq!(looked(&tls), [], "it is told once");
    // So it is when it is touched, and when the folder changes beside it.
    pki.put(&one, "-----BEGIN CERTIFICATE-----\nhalf of it");
    assert_eq!(looked(&tls), []);
    pki.put(&folder.join("three.pem"), &pki.pem("three", "DNS:three.example.ng"));
    let news = looked(&tls);
    assert!(news.len() == 1 && taken(&news, "three.pem added: for three.example.ng"), "{news:?}");
    assert_eq!([shown("one.example.ng"), shown("three.example.ng")], ["one-new", "three"]);

    // What was good is good again, and what is gone is gone.
    pki.put(&one, &good);
    std::fs::remove_file(&two).unwrap();
    let news = looked(&tls);
    assert!(news.len() == 2 && taken(&news, "one.pem replaced") && taken(&news, "two.pem removed"), "{news:?}");
    assert_eq!([shown("one.example.ng"), shown("two.example.ng")], ["one-old", "one-old"]);

    // Without a folder everything stays.
    std::fs::rename(&folder, pki.path("away")).unwrap();
    let news = looked(&tls);
    assert!(matches!(&news[..], [News::Kept(fault)] if fault.what == "is not there"), "{news:?}");
    assert_eq!([shown("one.example.ng"), shown("three.example.ng")], ["one-old", "three"]);
    std::fs::rename(pki.path("away"), &folder).unwrap();
    assert_eq!(looked(&tls), []);
    old.say("still");
    old.hear("again still");
    old.say("end");
    assert!(old.rest().contains("closed"), "in order");
}

/// Kubernetes and others mount a folder of links to a folder that is swapped whole.
#[test]
fn links_are_followed_when_what_they_lead_to_is_another() {
    let pki = Pki::new();
    let folder = folder(&pki);
    for version in ["old", "new"] {
        std::fs::create_dir(folder.join(format!("..{version}"))).unwrap();
        pki.put(&folder.join(format!("..{version}/tls.crt")), &pki.pem(version, "DNS:sip.example.ng"));
    }
    std::os::unix::fs::symlink("..old", folder.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/tls.crt", folder.join("tls.crt")).unwrap();
    let tls = load_folder(&folder);
    assert_eq!((tls.certificates().len(), looked(&tls)), (1, vec![]));
    std::os::unix::fs::symlink("..new", folder.join("..next")).unwrap();
    std::fs::rename(folder.join("..next"), folder.join("..data")).unwrap();
    assert!(taken(&looked(&tls), "tls.crt replaced"));
    let (said, _) = Door::open(&tls, "sips").visit(&[]);
    assert!(said.contains("subject=CN = new"), "{said}");
}

#[test]
fn a_certificate_that_has_expired_is_shown_and_spoken_of() {
    let pki = Pki::new();
    let folder = folder(&pki);
    let wanted = |days| Wanted { authority: "root", names: "DNS:sip.example.ng,IP:127.0.0.1", key: ECDSA, days };
    let (chain, key) = pki.certificate("old", &wanted("-1"));
    pki.put(&folder.join("old.pem"), &(chain + &key));
    // Of a life of two days the last fifth has not begun.
    let (chain, key) = pki.certificate("short", &Wanted { names: "DNS:short.example.ng", ..wanted("2") });
    pki.put(&folder.join("short.pem"), &(chain + &key));
    pki.put(&folder.join("twice.pem"), &pki.pem("twice", "DNS:sip.example.ng"));
    pki.put(&folder.join("nameless.pem"), &pki.pem("nameless", ""));
    let open = folder.join("open.pem");
    std::fs::write(&open, pki.pem("open", "DNS:open.example.ng")).unwrap();
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    for strange in ["README", "stray.key", "server.cert"] {
        pki.put(&folder.join(strange), "");
    }
    std::fs::create_dir(folder.join("folder.pem")).unwrap();
    let tls = load_folder(&folder);
    let (said, seen) = Door::open(&tls, "sips").visit(&["-servername", "sip.example.ng"]);
    assert!(said.contains("subject=CN = old") && said.contains("certificate has expired") && seen.is_ok(), "{said}");
    let certificates = tls.certificates();
    let old = certificates.iter().find(|certificate| certificate.file.ends_with("old.pem")).unwrap();
    let now = rustls::pki_types::UnixTime::now();
    // A day ago, and the seconds since.
    assert!(old.names == ["sip.example.ng", "127.0.0.1"] && (-2..=-1).contains(&old.days_left(now)), "{old:?}");
    assert!((old.whose == "frontend \"sips\"") && certificates.len() == 5);
    let warnings = tls.warnings();
    for (file, what) in [
        ("old.pem", "expired on 2"),
        ("short.pem", ""),
        ("twice.pem", "sip.example.ng is in "),
        ("nameless.pem", "has no name"),
        ("open.pem", "everybody on this host may read its key"),
        ("README", "is not read"),
        ("stray.key", "there is no certificate of that name"),
        ("server.cert", "certificates are files that end in .pem or .crt"),
        ("folder.pem", "is not read"),
    ] {
        let of = warnings.iter().filter(|warning| warning.starts_with(&format!("{}: ", folder.join(file).display())));
        let of: Vec<_> = of.collect();
        assert!(
            of.len() == usize::from(!what.is_empty()) && of.iter().all(|of| of.contains(what)),
            "{file}: {warnings:#?}"
        );
    }
}
