//! The laws of the house, held against the sources: floors, purity, sizes. A breach is a bug, or it has a comment that
//! says why at the place that is listed here.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders and their floors; a folder imports only from floors below its own. The roof is everything else.
const FLOORS: [(&str, u8); 8] =
    [("sip", 1), ("balance", 1), ("config", 2), ("state", 3), ("proxy", 4), ("net", 5), ("admin", 6), ("load", 6)];

/// The highest floor below the line: deterministic, no I/O, no clock.
const LINE: u8 = 4;

/// What nobody below the line may name.
const IMPURE: [&str; 14] = [
    "tokio",
    "socket2",
    "nix::",
    "libc::",
    "tracing",
    "clap",
    "getrandom",
    "UdpSocket",
    "TcpStream",
    "std::fs",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "unsafe ",
];

/// Where `unsafe` may stand.
const UNSAFE_ROOMS: [&str; 2] = ["net/inherit.rs", "net/mmsg.rs"];

const FILE_EDGE: usize = 600;
const FUNCTION_EDGE: usize = 70;

struct Source {
    /// Below `src`, with slashes.
    name: String,
    /// Without comments, and without what only tests see.
    code: String,
}

impl Source {
    fn room(&self) -> &str {
        self.name.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    fn floor(&self) -> Option<u8> {
        floor(self.room())
    }
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(path).unwrap();
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        Source { name, code: without_tests(&code) }
    };
    let sources: Vec<_> = files.iter().filter(|path| !path.ends_with("tests.rs")).map(read).collect();
    assert!(sources.len() > 30, "the sources were found");
    sources
}

/// A test module is the end of its file; of another item the lines that are indented like its attribute are its first and last.
fn without_tests(code: &str) -> String {
    let mut lines = code.lines();
    let mut kept = String::new();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept += line;
            kept.push('\n');
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let first = lines.next().unwrap_or_default();
        if first.starts_with("mod tests") {
            break;
        }
        if first.ends_with('{') {
            lines.find(|line| line.len() - line.trim_start().len() == indent && line.trim_start().starts_with('}'));
        }
    }
    kept
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
}

/// Every room that a source names by a `crate::` path, braces included.
fn rooms_named(code: &str) -> Vec<String> {
    let word =
        |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut rooms = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(inside) => {
                let inside = inside.split("};").next().unwrap_or_default();
                rooms.extend(inside.split([',', '{']).map(word));
            }
            None => rooms.push(word(rest)),
        }
    }
    rooms
}

#[test]
fn imports_go_downward_only() {
    let mut breaches = Vec::new();
    for source in sources() {
        let Some(own) = source.floor() else { continue };
        for room in rooms_named(&source.code).iter().filter(|room| *room != source.room()) {
            let roof = ["run", "cli", "demo", "main", "privilege"].contains(&room.as_str());
            if roof || floor(room).is_some_and(|other| other >= own) {
                breaches.push(format!("{} (floor {own}) reaches {room}", source.name));
            }
        }
    }
    assert_eq!(breaches, [""; 0]);
}

#[test]
fn below_the_line_nothing_does_io_or_asks_a_clock() {
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|source| source.floor().is_some_and(|floor| floor <= LINE)) {
        breaches.extend(
            IMPURE.iter().filter(|name| source.code.contains(**name)).map(|name| format!("{}: {name}", source.name)),
        );
    }
    assert_eq!(breaches, [""; 0]);
}

#[test]
fn unsafe_lives_in_its_rooms() {
    let has = |source: &&Source| {
        source.code.contains("unsafe {") || source.code.contains("unsafe fn") || source.code.contains("unsafe impl")
    };
    let rooms: Vec<_> = sources().iter().filter(has).map(|source| source.name.clone()).collect();
    assert_eq!(rooms, UNSAFE_ROOMS);
}

#[test]
fn files_and_functions_keep_their_size() {
    let mut breaches = Vec::new();
    for source in sources() {
        let lines: Vec<_> = source.code.lines().collect();
        if lines.len() > FILE_EDGE {
            breaches.push(format!("{}: {} lines", source.name, lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            let declares = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("const ");
            if !declares.starts_with("fn ") && !declares.starts_with("async fn ") {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            let closes =
                |line: &&str| line.len() - line.trim_start().len() == indent && line.trim_start().starts_with('}');
            let length = lines[start..].iter().position(closes).unwrap_or(0) + 1;
            if length > FUNCTION_EDGE {
                breaches.push(format!("{}:{}: {length} lines: {}", source.name, start + 1, line.trim()));
            }
        }
    }
    assert_eq!(breaches, [""; 0]);
}

#[test]
fn the_scan_sees_what_it_should_see() {
    assert_eq!(rooms_named("use crate::sip::{Message, Span};\nlet x = crate::state::Time(1);"), ["sip", "state"]);
    assert_eq!(rooms_named("use crate::{sip::Via, net::udp};"), ["sip", "net"]);
    let code = "struct S {\n    #[cfg(test)]\n    reads: usize,\n    seen: usize,\n}\n#[cfg(test)]\nimpl S {\n    fn f() {\n    }\n}\n\
                fn g() {\n    #[cfg(test)]\n    {\n        h();\n    }\n    i();\n}\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(without_tests(code), "struct S {\n    seen: usize,\n}\nfn g() {\n    i();\n}\n");
}
