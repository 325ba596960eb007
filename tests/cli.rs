//! The command line as a person or a script uses it: what it prints, where, and with which exit code.

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::process::{Balancer, Process, global, output, program, spawn};
use support::workers::free_port;
use tempfile::TempDir;

fn run(arguments: &[&str]) -> Output {
    output(Command::new(program()).args(arguments))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn conf(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name).to_string_lossy().into_owned()
}

const GOOD: &str = "[[frontend]]\nname = \"f\"\nbind = \"udp://127.0.0.1:5060\"\nbackend = \"b\"\n\
                    [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"udp://127.0.0.2:5060\"\n";

/// A folder with a configuration that has a key of its own.
fn folder(config: &str) -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("trunkline.toml");
    std::fs::write(&file, global(&folder, 1) + config).unwrap();
    let key = trunkline::config::key::generate(*b"golden route key", [0x11; 16]);
    std::fs::write(folder.path().join("cluster.key"), key).unwrap();
    (folder, file.to_string_lossy().into_owned())
}

#[test]
fn the_shipped_configurations_are_good() {
    for name in ["trunkline.toml", "default.toml", "minimal.toml", "single-site.toml", "loopback.toml", "media.toml"] {
        let output = run(&["check", "-c", &conf(name)]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), String::new()), "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains("good"), "{}", stderr(&output));
    }
    // Of this one nothing is wrong but that its certificates are not here.
    let output = run(&["check", "-c", &conf("tls.toml")]);
    let said = stderr(&output);
    let faults: Vec<_> = said.lines().filter(|line| line.contains("error")).collect();
    assert_eq!(output.status.code(), Some(1));
    assert!(faults.iter().all(|fault| fault.contains("is not there") || fault.ends_with(": 2 errors")), "{said}");
    let text = std::fs::read_to_string(conf("trunkline.toml")).unwrap();
    let production = support::core::config(&text);
    let weights: Vec<_> =
        production.backends[0].regions.iter().map(|region| (region.name.as_str(), region.weight)).collect();
    assert_eq!(weights, [("lagos", 70), ("abuja", 15), ("asaba", 15)]);
    assert_eq!(production.backends[0].servers.len(), 5);
}

#[test]
fn check_says_everything_that_is_wrong_and_run_will_not_start() {
    let (_folder, file) = folder(&GOOD.replace("backend = \"b\"", "backend = \"bb\"\nwrokers = 1"));
    let check = run(&["check", "-c", &file]);
    let said = stderr(&check);
    assert_eq!(check.status.code(), Some(1));
    assert!(
        said.contains(&format!("{file}:9:11: error: there is no backend \"bb\""))
            && said.contains("did you mean \"b\"?"),
        "{said}"
    );
    assert!(said.contains("unknown key `wrokers`") && said.contains(": 2 errors\n"), "{said}");
    let run = run(&["run", "-c", &file]);
    assert_eq!((run.status.code(), stderr(&run).contains("2 errors")), (Some(78), true), "{}", stderr(&run));
}

#[test]
fn a_missing_file_and_a_wrong_usage_are_told_apart() {
    let missing = run(&["check", "-c", "/nowhere/trunkline.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = stderr(&missing);
    assert!(said.contains("/nowhere/trunkline.toml: No such file") && said.contains("with -c"), "{said}");
    let directory = run(&["check", "-c", "/etc"]);
    assert_eq!(stderr(&directory), "/etc: it is a directory; name a file in it\n");
    assert_eq!(run(&["run", "-c", "/nowhere/trunkline.toml"]).status.code(), Some(78));
    assert_eq!(run(&["fly"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
    assert_eq!(stdout(&run(&["version"])), format!("trunkline {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn route_names_the_server_on_stdout_and_the_reasons_on_stderr() {
    let text = std::fs::read_to_string(conf("trunkline.toml")).unwrap();
    let (folder, file) = folder("");
    let key = folder.path().join("cluster.key");
    std::fs::write(&file, text.replace("/etc/trunkline/cluster.key", &key.to_string_lossy())).unwrap();
    let output = run(&["route", "-c", &file, "--call-id", "a84b4c76e66710@pc33.atlanta.com"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // Golden, computed by an independent implementation: the same on every machine and in every version.
    assert_eq!(stdout(&output), "opensips/lagos-2\n", "{}", stderr(&output));
    assert!(stderr(&output).contains("region lagos by weight (lagos 70, abuja 15, asaba 15)"), "{}", stderr(&output));
    let text = std::fs::read_to_string(&file).unwrap().replace("\"hash\" ", "\"leastconn\" ");
    std::fs::write(
        &file,
        text.replacen("address = \"udp://10.0.10.12", "max_calls = 7\naddress = \"udp://10.0.10.12", 1),
    )
    .unwrap();
    let least = run(&["route", "-c", &file, "--call-id", "a84b4c76e66710@pc33.atlanta.com"]);
    assert!(stdout(&least).starts_with("opensips/lagos-"), "the region is the key's: {}", stdout(&least));
    let rule = "balance leastconn: the fewest calls for its weight among opensips/lagos-1 (weight 100), \
                opensips/lagos-2 (weight 100, max_calls 7), opensips/lagos-3 (weight 100)";
    assert!(stderr(&least).contains(rule), "{}", stderr(&least));
    let unknown = run(&["route", "-c", &file, "--call-id", "x", "--backend", "opensip"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("the backends are opensips"), "{}", stderr(&unknown));
    let text =
        std::fs::read_to_string(&file).unwrap().replacen("\"leastconn\" ", "\"hash\"\nstick = { on = \"source\" } ", 1);
    std::fs::write(&file, text.replace("stick = { on = \"call-id\" }", "")).unwrap();
    let source = ["route", "-c", &file, "--source", "203.0.113.77"];
    let by_source = run(&source);
    let both = run(&[&source[..], &["--call-id", "a84b4c76e66710@pc33.atlanta.com"]].concat());
    assert!(stderr(&both).contains("of source 203.0.113.77"), "{}", stderr(&both));
    assert_eq!(stdout(&both), stdout(&by_source), "a new call goes where its source's go, whatever its Call-ID");
    let alone = run(&["route", "-c", &file, "--call-id", "x"]);
    assert!(stderr(&alone).contains("give --source"), "{}", stderr(&alone));
    std::fs::remove_file(key).unwrap();
    let without_key = run(&["route", "-c", &file, "--call-id", "x"]);
    assert!(stderr(&without_key).contains("there is no cluster key"), "{}", stderr(&without_key));
}

#[test]
fn a_key_is_made_once_with_the_owner_s_eyes_only_and_a_broken_one_is_not_shown() {
    use std::os::unix::fs::PermissionsExt;
    let port = free_port("127.0.2.31");
    let (folder, file) = folder(&GOOD.replace("127.0.0.1:5060", &format!("127.0.2.31:{port}")));
    let key = folder.path().join("cluster.key");
    std::fs::remove_file(&key).unwrap();
    let mut fingerprints = Vec::new();
    for _ in 0..2 {
        let mut process = Process::start(Command::new(program()).args(["run", "-c", &file]));
        fingerprints.push(process.line_with("started").split("key=").nth(1).unwrap().to_owned());
        process.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(process.end().0, Some(0));
    }
    assert_eq!(fingerprints[0], fingerprints[1], "the second start finds the first one's key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&key).unwrap();
    let secret =
        text.lines().find_map(|line| line.strip_prefix("route = \"")).unwrap().trim_end_matches('"').to_owned();
    std::fs::write(&key, text.replace("seal_with = 1", "seal_with = 9")).unwrap();
    let broken = run(&["run", "-c", &file]);
    assert_eq!(broken.status.code(), Some(78));
    assert!(
        stderr(&broken).contains("no [[seal]] has this id") && !stderr(&broken).contains(&secret),
        "{}",
        stderr(&broken)
    );
}

#[test]
fn an_address_in_use_is_told_with_the_way_to_find_who_has_it() {
    let port = free_port("127.0.2.32");
    let config = GOOD.replace("127.0.0.1:5060", &format!("127.0.2.32:{port}"));
    let first = Balancer::start(2, &config);
    let (_folder, file) = folder(&config);
    let second = run(&["run", "-c", &file]);
    assert_eq!(second.status.code(), Some(1), "two would share the calls in silence: SO_REUSEPORT lets them");
    assert!(stderr(&second).contains("another process listens there: `ss -lnpu"), "{}", stderr(&second));
    first.stop();
}

#[test]
fn the_log_is_text_without_colour_for_a_pipe_and_json_on_request() {
    let port = free_port("127.0.2.33");
    let (_folder, file) = folder(&GOOD.replace("127.0.0.1:5060", &format!("127.0.2.33:{port}")));
    for (arguments, wanted) in [
        (&["run", "-c", &file][..], "INFO started workers=1"),
        (&["run", "--log", "json", "-c", &file], "\"message\":\"started\""),
    ] {
        let mut process = Process::start(Command::new(program()).args(arguments));
        let line = process.line_with("started");
        assert!(line.contains(wanted) && !line.contains('\u{1b}'), "{line}");
        process.signal(nix::sys::signal::Signal::SIGTERM);
        process.line_with("stopped");
        assert_eq!(process.end().0, Some(0));
    }
}

#[test]
fn a_password_becomes_a_hash_that_verifies_and_is_not_shown() {
    use argon2::password_hash::{PasswordVerifier, phc::PasswordHash};
    let hash = |input: &str| {
        let mut command = Command::new(program());
        command.arg("hash-password").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&mut command).unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = hash("correct horse\n");
    let text = stdout(&output);
    let parsed = PasswordHash::new(text.trim()).unwrap();
    assert!(
        text.starts_with("$argon2id$") && argon2::Argon2::default().verify_password(b"correct horse", &parsed).is_ok()
    );
    assert!(!stderr(&output).contains("horse"));
    let empty = hash("\n");
    assert_eq!(empty.status.code(), Some(1));
    assert!(stderr(&empty).contains("the password is empty"), "{}", stderr(&empty));
}

#[test]
fn what_may_be_a_slip_is_warned_of_with_its_line() {
    let (folder, file) = folder(
        &(GOOD.replace("127.0.0.1:5060", "203.0.113.77:5060")
            + "[backend.check]\ninterval = \"2s\"\nfast_interval = \"1s\"\ntimeout = \"3s\"\n\
               [[frontend]]\nname = \"g\"\nbind = \"udp://127.0.0.1:5062\"\nbackend = \"b\"\n\
               [[frontend.route]]\nmethods = [\"REGISTR\", \"INVITE\", \"UPDATE\"]\n\
               clients = [\"127.0.0.1/8\", \"10.0.0.0/8\", \"10.0.0.1\"]\nbackend = \"b\"\n"),
    );
    std::fs::set_permissions(folder.path().join("cluster.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    let check = run(&["check", "-c", &file]);
    let said = stderr(&check);
    let warnings: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    assert_eq!((check.status.code(), warnings.len()), (Some(0), 5), "{said}");
    for warning in [
        "method \"REGISTR\"",
        "127.0.0.1/8 has bits behind its prefix: 127.0.0.0/8 is meant",
        "a check of \"b\" may take longer (3s) than until the next (2s)",
        "cluster.key: others may read it",
        "203.0.113.77",
    ] {
        assert!(warnings.iter().any(|line| line.contains(warning)), "{warning}\n{said}");
    }
    assert!(said.contains(":25:12: 127.0.0.1/8"), "the line is told: {said}");
}

#[test]
fn a_key_that_cannot_be_made_is_warned_of_and_a_broken_one_is_to_be_restored() {
    let (folder, file) = folder(GOOD);
    let key = folder.path().join("cluster.key");
    for broken in ["", "seal_with = 1\n", "route = \"00\"\n[[seal]]\nid = 1\n"] {
        std::fs::write(&key, broken).unwrap();
        let said = stderr(&run(&["check", "-c", &file]));
        assert!(said.contains("restore the file from its backup or from the other node"), "{broken}: {said}");
        assert!(!said.contains("add `"), "a new secret loses every call: {said}");
    }
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(key.to_str().unwrap(), "/nowhere/cluster.key")).unwrap();
    let said = stderr(&run(&["check", "-c", &file]));
    assert!(said.contains("warning: /nowhere/cluster.key: there is no cluster key"), "{said}");
}

#[test]
fn help_says_how_a_password_becomes_what_a_user_has() {
    let help = stdout(&run(&["--help"]));
    assert!(help.contains("status") && help.contains("hash-password") && help.contains("`password_hash`"), "{help}");
}

/// Ports that only the privileged have must be said before a start fails for them; and where a command lacks a word.
#[test]
fn what_is_missing_is_said() {
    let (_folder, file) = folder(&GOOD.replace("udp://127.0.0.1:5060", "udp://127.0.0.1:443"));
    let first: u16 =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap().trim().parse().unwrap();
    let said = stderr(&run(&["check", "-c", &file]));
    assert_eq!(
        said.contains("port 443 is for the privileged") && said.contains("CAP_NET_BIND_SERVICE"),
        first > 443,
        "{said}"
    );
    let drained = run(&["drain", "lagos-1", "-c", &file]);
    assert!(stderr(&drained).contains("\"lagos-1\" is no server's name: write BACKEND/SERVER"), "{}", stderr(&drained));
    let unknown = run(&["role", "INSTANCE", "VI_1", "MISTER", "--socket", &file]);
    assert!(stderr(&unknown).contains("\"MISTER\" is no state: MASTER"), "{}", stderr(&unknown));
    let anybody = run(&["load", "call", "--to", "127.0.0.1:5060", "--transport", "tls"]);
    assert!(stderr(&anybody).contains("write --ca FILE"), "{}", stderr(&anybody));
    assert_eq!(
        [drained, unknown, anybody].map(|wrong| wrong.status.code()),
        [Some(2); 3],
        "a wrong word is no refusal"
    );
    let lonely = run(&["role", "INSTANCE", "--socket", &file]);
    assert!(lonely.status.code() == Some(2) && stderr(&lonely).contains("<NAME>"), "{}", stderr(&lonely));
    let nothing = run(&["role", "--socket", &file]);
    assert_eq!((nothing.status.code(), stdout(&nothing).as_str()), (Some(0), ""));
    assert!(stderr(&nothing).contains("nothing was told yet"), "{}", stderr(&nothing));
}

/// What HAProxy is told becomes a configuration that is accepted; what is left to do has its line, and an exit code of its own.
#[test]
fn haproxy_cfg_is_imported_and_what_is_left_is_said() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let whole = "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 2m\n  timeout server 5m\nlisten api\n  \
                 bind 203.0.113.10:8443\n  balance leastconn\n  server a 10.0.0.1:8443 check inter 5s\n  \
                 server b 10.0.0.2:8443 check inter 5s backup\n";
    for (text, code) in [(whole.to_owned(), 0), (format!("{whole}  compression algo gzip\n"), 3)] {
        std::fs::write(path("haproxy.cfg"), text).unwrap();
        let imported = run(&["import", &path("haproxy.cfg")]);
        assert_eq!(imported.status.code(), Some(code), "{}", stderr(&imported));
        assert_eq!(stderr(&imported).contains("haproxy.cfg:11: by hand: compression algo gzip"), code == 3);
        std::fs::write(path("trunkline.toml"), stdout(&imported)).unwrap();
        let checked = run(&["check", "-c", &path("trunkline.toml")]);
        assert_eq!(checked.status.code(), Some(0), "{}\n{}", stderr(&checked), stdout(&imported));
    }
    assert_eq!(run(&["import", &path("none")]).status.code(), Some(1));
}

/// What --help lists below "Commands:".
fn commands(of: &[&str]) -> Vec<String> {
    let help = stdout(&run(&[of, &["--help"]].concat()));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_has_a_manual_page_and_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    let written = run(&["man", folder.path().to_str().unwrap()]);
    assert!(written.status.success(), "{}", stderr(&written));
    let top = commands(&[]);
    assert!(top.len() > 10 && top.iter().any(|name| name == "load"), "{top:?}");
    let below = ["load", "cluster-key"]
        .into_iter()
        .flat_map(|group| commands(&[group]).into_iter().map(move |name| format!("{group}-{name}")));
    let pages: Vec<_> = top.iter().cloned().chain(below).map(|name| format!("trunkline-{name}.8")).collect();
    for page in pages.iter().chain([&"trunkline.8".to_owned()]) {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME") && text.contains(env!("CARGO_PKG_VERSION")), "{page}: {text}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), pages.len() + 1, "and none of a hidden command");
    for shell in ["bash", "zsh", "fish"] {
        let completions = stdout(&run(&["completions", shell]));
        for word in top.iter().map(String::as_str).chain(["call-id", "watch"]) {
            assert!(completions.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn manual_pages_without_a_folder_are_told_as_such() {
    let written = run(&["man", "/nowhere"]);
    assert_eq!(written.status.code(), Some(1));
    assert!(stderr(&written).starts_with("/nowhere: no manual pages: No such file"), "{}", stderr(&written));
}

/// As the unit does: the directory as systemd/tmpfiles.d makes it, and a user who is not root.
#[test]
fn a_service_s_user_makes_its_key_beside_what_it_cannot_change() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    const USER: u32 = 64_321;
    let at = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let unit = std::fs::read_to_string(at("systemd/trunkline.service")).unwrap();
    for line in ["User=trunkline", "Group=trunkline", "ReadWritePaths=/etc/trunkline"] {
        assert!(unit.lines().any(|of_unit| of_unit == line), "{line}");
    }
    assert!(!unit.contains("DynamicUser"), "its key would be nobody's after a restart");
    let made = std::fs::read_to_string(at("systemd/tmpfiles.d/trunkline.conf")).unwrap();
    let mode = made.lines().find_map(|line| line.strip_prefix("d /etc/trunkline ")?.split(' ').next()).unwrap();
    let port = free_port("127.0.2.36");
    let (folder, file) = folder(&GOOD.replace("127.0.0.1:5060", &format!("127.0.2.36:{port}")));
    let (path, key) = (folder.path(), folder.path().join("cluster.key"));
    std::fs::remove_file(&key).unwrap();
    let set = |path: &Path, mode: u32| {
        chown(path, Some(0), Some(USER)).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    set(Path::new(&file), 0o640);
    // A directory that root alone may write to is warned of.
    set(path, 0o750);
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.args(arguments).args(["-c", &file]).uid(USER).gid(USER);
        command
    };
    let check = output(&mut as_user(&["check"]));
    assert!(stderr(&check).contains("this user may make none in"), "{}", stderr(&check));
    set(path, u32::from_str_radix(mode, 8).unwrap());
    let check = output(&mut as_user(&["check"]));
    assert!(!stderr(&check).contains("warning"), "{}", stderr(&check));
    let mut process = Process::start(&mut as_user(&["run"]));
    process.line_with("started");
    let found = std::fs::metadata(&key).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (USER, 0o600));
    let remove = output(Command::new("rm").arg("-f").arg(&file).uid(USER).gid(USER)).status;
    assert!(!remove.success() && Path::new(&file).exists(), "the configuration is root's");
}
