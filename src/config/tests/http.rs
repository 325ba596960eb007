//! `[admin]`: its defaults, and what is refused.

use std::net::SocketAddr;

use super::super::admin::{Identity, Role, Serves};
use super::{Config, GOOD, faults};
use crate::config::difference::difference;
use crate::config::warnings;

/// What `trunkline hash-password` made of `secret`.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$eIyjyZD2/ybQ5VcO2KkLmw$9PGnQxH1g2h0J1p7k4kE1oOR7BlJ6mHN3AStn2HQ1nE";

fn with(lines: &str) -> String {
    format!("[admin]\n{lines}\n{GOOD}")
}

fn user(keys: &str) -> String {
    format!("[[admin.users]]\n{keys}")
}

#[test]
fn nothing_listens_without_the_section_and_three_usual_places_with_it() {
    assert_eq!(Config::good(GOOD).http, None);
    let http = Config::good(&with("")).http.unwrap();
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!((http.stats, http.health, http.metrics), (Some(at(8404)), Some(at(8405)), Some(at(9101))));
    assert_eq!((http.users.len(), http.identity), (0, Identity::Haproxy));
    let off = Config::good(&with("stats = \"off\"\nhealth = \"\"\nmetrics = \"off\"")).http.unwrap();
    assert_eq!(off.listeners().len(), 0);
    let one = Config::good(&with("stats = \"10.0.0.1:8404\"\nmetrics = \"10.0.0.1:8404\"")).http.unwrap();
    let listeners: Vec<_> = one.listeners().into_iter().collect();
    let page = Serves { stats: true, metrics: true, health: false };
    assert!(listeners.contains(&("10.0.0.1:8404".parse().unwrap(), page)) && listeners.len() == 2, "{listeners:?}");
}

#[test]
fn users_have_a_name_a_hash_and_a_role() {
    let text = with(&format!(
        "compat = {{ identity = \"native\" }}\nusers = [{{ name = \"ada\", password_hash = \"{HASH}\", role = \"admin\" }},\
         {{ name = \"tv\", password_hash = \"{HASH}\" }}]"
    ));
    let http = Config::good(&text).http.unwrap();
    assert_eq!(http.identity, Identity::Native);
    assert_eq!(http.users.iter().map(|user| user.role).collect::<Vec<_>>(), [Role::Admin, Role::Viewer]);
    assert_eq!(http.users[0].password_hash, HASH);
}

#[test]
fn what_is_no_hash_is_told_how_to_make_one_and_never_shown() {
    let hash = |hash: &str| user(&format!("name = \"ada\"\npassword_hash = \"{hash}\""));
    let none = "`password_hash` is not the argon2id hash of a password";
    for wrong in [
        "hunter2",
        "",
        "$2y$10$abcdefghijklmnopqrstuv",
        &HASH.replace("argon2id", "argon2i"),
        &HASH.replace("m=19456", "m=4000000"),
        &HASH.replace("t=2", "t=99"),
        &HASH.replace("m=19456,t=2,p=1", "m=16,t=2,p=4"),
        &HASH.replace("eIyjyZD2/", ""),
        &HASH.replace("HQ1nE", "HQ1nF"),
    ] {
        let text = format!("{}\n{GOOD}", hash(wrong));
        let shown = Config::parse(&text).expect_err(wrong).render("f", &text).to_string();
        assert!(shown.contains(none) && shown.contains("run `trunkline hash-password`"), "{wrong}: {shown}");
        assert!(wrong.is_empty() || !shown.contains(wrong), "{shown}");
    }
    for text in [
        with("users = [{ name = \"ada\", password = \"hunter2\" }]"),
        with(&format!("users = [{{ name = \"ada\", password_hash = \"{HASH}\", rolle = \"admin\" }}]")),
        format!("[[admin.users]]\nname = \"ada\"\npassword_hash = hunter2\n{GOOD}"),
    ] {
        let shown = Config::parse(&text).unwrap_err().render("f", &text).to_string();
        assert!(!shown.contains("hunter2") && !shown.contains("$argon2id$v"), "{shown}");
    }
}

#[test]
fn faults_of_admin_teach() {
    let ada = format!("name = \"ada\"\npassword_hash = \"{HASH}\"");
    for (lines, what) in [
        ("stats = 8404".to_owned(), "`stats` is not an address with its port"),
        ("stats = \"127.0.0.1\"".to_owned(), "`stats` is not an address with its port"),
        ("stats = \"127.0.0.1:0\"".to_owned(), "`stats` is not an address with its port"),
        ("stats = \"0.0.0.0:8405\"".to_owned(), "`stats` and `health` have one port at addresses that meet"),
        ("state = \"off\"".to_owned(), "unknown key `state` in [admin]"),
        ("refresh = \"10s\"".to_owned(), "unknown key `refresh` in [admin]"),
        ("compat = { identity = \"nginx\" }".to_owned(), "`identity` cannot be \"nginx\""),
        (user("name = \"ada\""), "[[admin.users]] has no `password_hash`"),
        (user(&format!("{ada}\nrole = \"root\"")), "`role` cannot be \"root\""),
        (user(&ada.replace("ada", "a:b")), "this is no name for a user"),
        (user(&ada.replace("ada", "")), "this is no name for a user"),
        (user(&format!("{ada}\n[[admin.users]]\n{ada}")), "there are two users \"ada\""),
        (
            user(&ada).repeat(0)
                + &(0..101).map(|n| user(&ada.replace("ada", &format!("u{n}"))) + "\n").collect::<String>(),
            "more than 100 users",
        ),
    ] {
        let found = faults(&with(&lines));
        assert!(found.len() == 1 && found[0].contains(what), "{lines}: {found:?}");
    }
    let stream = with("stats = \"127.0.0.1:5060\"").replace("udp://0.0.0.0:5060", "tcp://0.0.0.0:5060");
    let found = faults(&stream);
    assert!(
        found.len() == 1 && found[0].contains("127.0.0.1:5060 of [admin] is bound by frontend \"sip\" too"),
        "{found:?}"
    );
}

#[test]
fn an_open_page_is_warned_of_and_a_reload_says_what_changed_without_hashes() {
    let read = |lines: &str| Config::good(&with(lines));
    let ada = user(&format!("name = \"ada\"\npassword_hash = \"{HASH}\""));
    let open = warnings::of_config(&read("stats = \"0.0.0.0:8404\""));
    assert!(open.len() == 1 && open[0].contains("whoever reaches 0.0.0.0:8404 sees the stats page"), "{open:?}");
    assert_eq!(warnings::of_config(&read("")), [""; 0]);
    assert_eq!(warnings::of_config(&read(&format!("stats = \"0.0.0.0:8404\"\n{ada}"))), [""; 0]);
    let lines = difference(&read("health = \"off\""), &read(&format!("stats = \"[::1]:8404\"\n{ada}")));
    let expected =
        ["admin: stats 127.0.0.1:8404 -> [::1]:8404", "admin: health off -> 127.0.0.1:8405", "admin: users changed"];
    assert_eq!(lines, expected);
    let lines = difference(&read(""), &read("compat = { identity = \"native\" }"));
    assert_eq!(lines, ["admin: compat changed"]);
}
