//! One line of the runtime API: what it asks for.

use std::cmp::Ordering;

use super::haproxy::dump::Format;
use super::haproxy::stat::Wanted;

/// How a number has to compare with another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    how: &'static [Ordering],
    with: u64,
}

impl Compared {
    pub fn fits(&self, number: usize) -> bool {
        self.how.contains(&(number as u64).cmp(&self.with))
    }
}

/// Which entries of a table somebody wants: an entry has nothing but its server.
fn compared(data: &str, how: Option<&str>, with: Option<&str>) -> Result<Compared, &'static str> {
    use Ordering::{Equal, Greater, Less};
    if data != "data.server_id" {
        return Err("Data type not stored in this table");
    }
    let how: &[Ordering] = match how {
        Some("eq") => &[Equal],
        Some("ne") => &[Less, Greater],
        Some("le") => &[Less, Equal],
        Some("ge") => &[Equal, Greater],
        Some("lt") => &[Less],
        Some("gt") => &[Greater],
        _ => return Err("Require and operator among \"eq\", \"ne\", \"le\", \"ge\", \"lt\", \"gt\""),
    };
    let with = with.and_then(|with| with.parse().ok()).ok_or("Require a valid integer value to compare against")?;
    Ok(Compared { how, with })
}

/// What a line asks for. Names are as written; whether there is such a server is for whoever answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Those that contain a word, or all.
    Help(Option<String>),
    Quit,
    Prompt,
    ShowInfo(Format),
    /// `None` where a proxy was named: it is looked up by whoever answers.
    ShowStat {
        proxy: Option<String>,
        wanted: Wanted,
        format: Format,
    },
    ShowVersion,
    ShowLevel,
    ShowBackend,
    /// Of one backend, or of all.
    ShowServersState(Option<String>),
    ShowServersConn(Option<String>),
    /// A table, or a list of them; with a key one entry, with a number those of that server.
    ShowTable {
        table: Option<String>,
        key: Option<String>,
        server: Option<Result<Compared, &'static str>>,
    },
    /// Of all proxies, or of one.
    ShowErrors(Option<String>),
    ShowSessions,
    ShowActivity,
    ShowPeers,
    ShowResolvers,
    ShowSockets,
    ShowEnvironment,
    ShowSchema,
    /// Lists that HAProxy has and that are always empty here: what is there of them.
    ShowNothing(&'static str),
    ClearCounters {
        all: bool,
    },
    Status(Style),
    GetWeight(String),
    SetWeight {
        server: String,
        weight: String,
    },
    /// `set server`: what of it, and to what.
    SetServer {
        server: String,
        what: String,
        to: String,
    },
    /// `set maxconn server`: as written.
    SetMaxCalls {
        server: String,
        most: String,
    },
    /// A stick table's entries, or that of a key.
    ClearTable {
        table: String,
        key: Option<String>,
    },
    /// Whether it is checked.
    SetCheck {
        server: String,
        on: bool,
    },
    DisableServer(String),
    EnableServer(String),
    /// HAProxy knows it and it is not done here: why, and what to do instead. What it is about is looked up before.
    Elsewhere {
        about: About,
        why: &'static str,
    },
    /// What is asked for is so already, if there is such a server.
    Already(String),
    /// `drain`, `ready`, `maint`, as the command line says it: the answer warns of what is lost.
    Put {
        server: String,
        state: &'static str,
    },
    CloseBreaker(String),
    /// An address, as written.
    Unban(String),
    /// How many calls a server has.
    ShowCalls(String),
    Calls,
    Split,
    Bans,
    Breakers,
    /// A call's messages as they pass, by its Call-ID.
    Trace(String),
    /// What happened after this event.
    Events {
        after: u64,
        style: Style,
    },
    Reload,
    /// The idle timeout of this connection, as written.
    SetTimeout(String),
    SetSeverity(Severity),
    Lower(Level),
}

/// What a command is about that is not done here, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Process,
    Frontend(String),
    Server(String),
    Table(String),
}

/// Who may say what, as HAProxy has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    User,
    Operator,
    #[default]
    Admin,
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl Command {
    /// The level that it needs.
    pub fn level(&self) -> Level {
        match self {
            Self::ShowErrors(_)
            | Self::ShowSessions
            | Self::ShowEnvironment
            | Self::ClearCounters { all: false }
            | Self::Trace(_) => Level::Operator,
            // As there: a lower one is not had back.
            Self::Lower(level) => *level,
            // A table's is HAProxy's only where there is one.
            Self::Elsewhere { about: About::Table(_), .. } | Self::ClearTable { .. } => Level::User,
            Self::ClearCounters { all: true }
            | Self::SetWeight { .. }
            | Self::SetServer { .. }
            | Self::SetMaxCalls { .. }
            | Self::SetCheck { .. }
            | Self::DisableServer(_)
            | Self::EnableServer(_)
            | Self::Elsewhere { .. }
            | Self::Already(_)
            | Self::Put { .. }
            | Self::CloseBreaker(_)
            | Self::Unban(_)
            | Self::Reload => Level::Admin,
            _ => Level::User,
        }
    }
}

/// For whom a status is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    People,
    Json,
}

/// How an error shows how grave it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Severity {
    #[default]
    None,
    Number,
    String,
}

/// What `help` prints, and every line that is no command.
const COMMANDS: &[(&str, &str)] = &[
    ("clear counters [all]", "clear max statistics counters, or all of them"),
    ("clear table <table> [key <key>]", "forget to whom keys stick; calls keep their servers"),
    ("disable health <bk>/<srv>", "check it no more: its health stays as it is"),
    ("disable server <bk>/<srv>", "put a server into maintenance: no calls, not even its own"),
    ("enable health <bk>/<srv>", "check it again"),
    ("enable server <bk>/<srv>", "make it ready again"),
    ("get weight <bk>/<srv>", "report a server's weight, and that of the file"),
    ("help [<command>]", "list matching or all commands"),
    ("operator", "lower the level of this connection to operator"),
    ("prompt", "toggle interactive mode with a prompt"),
    ("quit", "disconnect"),
    ("reload", "read the configuration again"),
    ("set maxconn server <bk>/<srv> <n>", "its max_calls, until the file has another one; 0: no limit"),
    ("set server <bk>/<srv> breaker closed", "the same as sip reset breaker"),
    ("set server <bk>/<srv> health <h>", "up, stopping or down, until a check says otherwise"),
    ("set server <bk>/<srv> state <s>", "ready, drain or maint"),
    ("set server <bk>/<srv> weight <w>", "0 to 256, or a percentage of the file's"),
    ("set severity-output [none|number|string]", "set presence of a severity level in errors"),
    ("set timeout cli <delay>", "seconds until an idle connection is closed"),
    ("set weight <bk>/<srv> <w>", "the same as set server ... weight"),
    ("show activity", "report about the workers"),
    ("show backend", "list the backends"),
    ("show calls <bk>/<srv>", "how many calls a server has"),
    ("show cli level", "the level of this connection"),
    ("show cli sockets", "list the sockets that take commands"),
    ("show env", "the environment of the process, without values"),
    ("show errors", "the last messages that could not be read"),
    ("show events [<after>] [json]", "what happened, and who did it"),
    ("show info [typed|json]", "report about the process"),
    ("show peers", "other nodes"),
    ("show resolvers", "nameservers"),
    ("show schema json", "what the JSON looks like"),
    ("show servers", "the same as status"),
    ("show servers conn [<backend>]", "connections to servers"),
    ("show servers state [<backend>]", "dump the servers' states"),
    ("show sess", "the calls, by server"),
    ("show stat [{<iid>|<proxy>} <type> <sid>] [typed|json|no-maint|up]", "report counters"),
    ("show table [<table> [key <key>]]", "list the stick tables, or what is in one"),
    ("show version", "report the version"),
    ("sip drain|ready|maint <bk>/<srv>", "put a server into this state, and say what it costs"),
    ("sip reset breaker <bk>/<srv>", "let new calls go to it again"),
    ("sip show bans", "who is banned or was refused lately, and why"),
    ("sip show breakers", "the breakers, and what they count"),
    ("sip show calls", "the calls of each server"),
    ("sip show split", "each region's part of the calls, beside what it should have"),
    ("sip trace call-id <Call-ID>", "a call's messages as they pass, until a key is pressed"),
    ("sip unban <address>", "let a source open something new again"),
    ("status [json]", "the servers as a table, or as one JSON object"),
    ("user", "lower the level of this connection to user"),
];

/// The answer to a line that is no command begins so: tools look for it.
pub const UNKNOWN: &str = "Unknown command";

/// What is said to words that are no command: those that begin alike, or all.
fn unknown(words: &[&str]) -> String {
    let alike = |command: &str| words.first().is_some_and(|word| command.split(' ').next() == Some(*word));
    match words {
        [] => format!("{UNKNOWN}. Please enter one of the following commands only:\n{}", list(|_| true)),
        _ if COMMANDS.iter().any(|(command, _)| alike(command)) => {
            format!("{UNKNOWN}, but maybe one of the following ones is a better match:\n{}", list(alike))
        }
        _ => format!("{UNKNOWN}, but maybe one of the following ones is a better match:\n{}", list(|_| true)),
    }
}

/// Every command that contains this word, with its meaning, one a line.
pub fn help(word: Option<&str>) -> String {
    let wanted = list(|command| word.is_none_or(|word| command.contains(word)));
    format!("The following commands are valid at this level:\n{wanted}")
}

fn list(wanted: impl Fn(&str) -> bool) -> String {
    let wanted = COMMANDS.iter().filter(|(command, _)| wanted(command));
    wanted.map(|(command, meaning)| format!("  {command:<41}: {meaning}\n")).collect()
}

/// A line's commands: `;` parts them, `\` takes the meaning from what follows it.
pub fn split(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut letters = line.trim_end_matches(['\r', '\n']).chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.get_or_insert_default().extend(letters.next()),
            ' ' | '\t' => words.extend(word.take()),
            ';' => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    commands.push(words);
    commands
}

/// What the words of one command ask for.
///
/// # Errors
/// What to say instead, in HAProxy's words.
pub fn parse(words: &[String]) -> Result<Command, String> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let parsed = match words.first().copied() {
        Some("show") => show(&words[1..]),
        Some("set") => set(&words[1..]),
        Some("sip") => sip(&words[1..]).map(Ok),
        Some("enable" | "disable" | "shutdown" | "add" | "del") => switch(&words),
        _ => plain(&words),
    };
    parsed.unwrap_or_else(|| Err(unknown(&words)))
}

fn plain(words: &[&str]) -> Option<Result<Command, String>> {
    let word = |at: usize| words.get(at).copied().unwrap_or_default().to_owned();
    Some(Ok(match words {
        ["help"] => Command::Help(None),
        ["help", which @ ..] => Command::Help(Some(which.join(" "))),
        ["quit", ..] => Command::Quit,
        ["prompt", ..] => Command::Prompt,
        ["reload"] => Command::Reload,
        ["operator", ..] => Command::Lower(Level::Operator),
        ["user", ..] => Command::Lower(Level::User),
        ["status"] => Command::Status(Style::People),
        ["status", "json"] => Command::Status(Style::Json),
        ["get", "weight", ..] => Command::GetWeight(word(2)),
        ["clear", "counters", ..] => Command::ClearCounters { all: word(2) == "all" },
        ["clear", "table"] => {
            let needs = "<table> \"data.<store_data_type>\" <operator> <value> or <table> key <key>";
            return Some(Err(format!("Required arguments: {needs}")));
        }
        ["clear", "table", _] => Command::ClearTable { table: word(2), key: None },
        ["clear", "table", _, "key", _, ..] => Command::ClearTable { table: word(2), key: Some(word(4)) },
        ["clear", "table", table, ..] => Command::Elsewhere {
            about: About::Table((*table).to_owned()),
            why: "Entries have no data but their server: clear table <table> [key <key>].",
        },
        _ => return None,
    }))
}

/// What is switched on and off, added and taken away.
fn switch(words: &[&str]) -> Option<Result<Command, String>> {
    const FILE: &str = "Servers are added and removed in the configuration; a reload loses nothing.";
    let word = |at: usize| words.get(at).copied().unwrap_or_default().to_owned();
    let (about, why) = match words {
        ["disable", "server", ..] => return Some(Ok(Command::DisableServer(word(2)))),
        ["enable", "server", ..] => return Some(Ok(Command::EnableServer(word(2)))),
        ["disable", "agent", ..] => return Some(Ok(Command::Already(word(2)))),
        ["enable", "agent", ..] => (About::Server(word(2)), "Agent was not configured on this server, cannot enable."),
        [on @ ("enable" | "disable"), "health", ..] => {
            return Some(Ok(Command::SetCheck { server: word(2), on: *on == "enable" }));
        }
        ["enable", "frontend", ..] => (About::Frontend(word(2)), "All sockets are already enabled."),
        ["disable" | "shutdown", "frontend", ..] => {
            (About::Frontend(word(2)), "Frontends are added and removed in the configuration; a reload loses nothing.")
        }
        // HAProxy reads a pointer: it is named by nothing else.
        ["shutdown", "session", id, ..] if id.starts_with("0x") => {
            (About::Process, "No such session (use 'show sess').")
        }
        ["shutdown", "session", ..] => (About::Process, "Session pointer expected (use 'show sess')."),
        ["shutdown", "sessions", "server", ..] => (
            About::Server(word(3)),
            "Calls end at their ends; 'set server <srv> state maint' sends what follows elsewhere.",
        ),
        ["add", "server", name, ..] if name.contains('/') => (About::Process, FILE),
        ["add", "server", ..] => (About::Process, "Require 'backend/server'."),
        ["del", "server", ..] => (About::Server(word(2)), FILE),
        _ => return None,
    };
    Some(Ok(Command::Elsewhere { about, why }))
}

fn show(words: &[&str]) -> Option<Result<Command, String>> {
    let some = |at: usize| words.get(at).map(|word| (*word).to_owned());
    Some(Ok(match words {
        ["info", options @ ..] => Command::ShowInfo(format(options)),
        ["stat", options @ ..] => stat(options),
        ["version", ..] => Command::ShowVersion,
        ["cli", "level", ..] => Command::ShowLevel,
        ["cli", "sockets", ..] => Command::ShowSockets,
        ["servers"] => Command::Status(Style::People),
        ["backend", ..] => Command::ShowBackend,
        ["servers", "state", ..] => Command::ShowServersState(some(2)),
        ["servers", "conn", ..] => Command::ShowServersConn(some(2)),
        ["table", ..] => {
            let key = words.iter().position(|word| *word == "key").and_then(|at| some(at + 1));
            let data = words.get(2).filter(|word| word.starts_with("data."));
            // That there is such a table is asked first.
            let server = data.map(|data| compared(data, some(3).as_deref(), some(4).as_deref()));
            Command::ShowTable { table: some(1), key, server }
        }
        ["errors", ..] => Command::ShowErrors(some(1)),
        ["events"] => Command::Events { after: 0, style: Style::People },
        ["events", "json"] => Command::Events { after: 0, style: Style::Json },
        ["events", after, style @ ..] => match after.parse() {
            Ok(after) => Command::Events { after, style: if style == ["json"] { Style::Json } else { Style::People } },
            Err(_) => return Some(Err("No such event sink".to_owned())),
        },
        ["sess", ..] => Command::ShowSessions,
        ["activity", ..] => Command::ShowActivity,
        ["peers", _, ..] => return Some(Err("No such peers".to_owned())),
        ["peers"] => Command::ShowPeers,
        ["resolvers"] | ["resolvers", "default", ..] => Command::ShowResolvers,
        ["resolvers", ..] => return Some(Err("Can't find that resolvers section".to_owned())),
        ["env", ..] => Command::ShowEnvironment,
        ["schema", "json", ..] => Command::ShowSchema,
        ["map", _, ..] => {
            return Some(Err("Unknown map identifier. Please use #<id> or <file>.".to_owned()));
        }
        ["acl", _, ..] => {
            return Some(Err("Unknown ACL identifier. Please use #<id> or <file>.".to_owned()));
        }
        ["map" | "acl"] => Command::ShowNothing("# id (file) description\n"),
        ["tls-keys", ..] => Command::ShowNothing("# id (file)\n"),
        ["pools", ..] => Command::ShowNothing("Dumping pools usage. Use SIGQUIT to flush them.\n"),
        ["startup-logs", ..] => Command::ShowNothing("\n"),
        ["cache", ..] | ["ssl", _, ..] => Command::ShowNothing(""),
        ["calls", ..] => Command::ShowCalls(some(1).unwrap_or_default()),
        _ => return None,
    }))
}

fn set(words: &[&str]) -> Option<Result<Command, String>> {
    let word = |at: usize| words.get(at).copied().unwrap_or_default().to_owned();
    let set = match words {
        ["weight", ..] => Command::SetWeight { server: word(1), weight: word(2) },
        ["server", ..] => Command::SetServer { server: word(1), what: word(2), to: word(3) },
        ["timeout", "cli"] => return Some(Err("Expects an integer value.".to_owned())),
        ["timeout", "cli", ..] => Command::SetTimeout(word(2)),
        ["timeout", ..] => return Some(Err("'set timeout' only supports 'cli'.".to_owned())),
        ["severity-output", "none"] => Command::SetSeverity(Severity::None),
        ["severity-output", "number"] => Command::SetSeverity(Severity::Number),
        ["severity-output", "string"] => Command::SetSeverity(Severity::String),
        ["severity-output", ..] => {
            return Some(Err("one of 'none', 'number', 'string' is a required argument".to_owned()));
        }
        ["maxconn" | "rate-limit", ..] => return limit(words),
        ["table"] => {
            let needs = "<table> key <key> [data.<store_data_type> <value>]*";
            return Some(Err(format!("Required arguments: {needs}")));
        }
        ["table", table, ..] => Command::Elsewhere {
            about: About::Table((*table).to_owned()),
            why: "Entries of a stick table are made by calls alone.",
        },
        _ => return None,
    };
    Some(Ok(set))
}

/// `set maxconn`, `set rate-limit`: what is missing is said as HAProxy says it.
fn limit(words: &[&str]) -> Option<Result<Command, String>> {
    let why = "Limits are set in the configuration: max_calls, max_rate, [frontend.limits]; then reload.";
    let (about, why) = match words {
        ["maxconn", "frontend"] => (About::Frontend(String::new()), why),
        ["maxconn", "frontend", name] => (About::Frontend((*name).to_owned()), "Integer value expected."),
        ["maxconn", "frontend", name, ..] => (About::Frontend((*name).to_owned()), why),
        ["maxconn", "server"] => (About::Server(String::new()), why),
        ["maxconn", "server", name] => (About::Server((*name).to_owned()), "Require <maxconn>."),
        ["maxconn", "server", name, most, ..] => {
            return Some(Ok(Command::SetMaxCalls { server: (*name).to_owned(), most: (*most).to_owned() }));
        }
        ["maxconn", "global"] => (About::Process, "Expects an integer value."),
        ["maxconn", "global", ..] => (About::Process, why),
        ["rate-limit", "connections" | "sessions" | "ssl-sessions" | "http-compression", "global"] => {
            (About::Process, "Expects an integer value.")
        }
        ["rate-limit", ..] => (About::Process, why),
        _ => return None,
    };
    Some(Ok(Command::Elsewhere { about, why }))
}

/// Ours beside HAProxy's.
fn sip(words: &[&str]) -> Option<Command> {
    let server = || words.last().copied().unwrap_or_default().to_owned();
    Some(match words {
        ["show", "calls" | "stickies"] => Command::Calls,
        ["show", "bans"] => Command::Bans,
        ["show", "split"] => Command::Split,
        ["show", "breakers"] => Command::Breakers,
        ["trace", "call-id", _] => Command::Trace(server()),
        ["unban", _] => Command::Unban(server()),
        ["reset", "breaker", _] => Command::CloseBreaker(server()),
        ["drain", _] => Command::Put { server: server(), state: "drain" },
        ["ready", _] => Command::Put { server: server(), state: "ready" },
        ["maint", _] => Command::Put { server: server(), state: "maint" },
        _ => return None,
    })
}

/// Of several the last counts.
fn format(options: &[&str]) -> Format {
    let format = options.iter().rev().find_map(|option| match *option {
        "typed" => Some(Format::Typed),
        "json" => Some(Format::Json),
        _ => None,
    });
    format.unwrap_or_default()
}

/// `show stat`: a proxy by number or name, HAProxy's bits, a server by number, then what is left out.
fn stat(options: &[&str]) -> Command {
    let has = |word: &str| options.contains(&word);
    let mut wanted = Wanted { up: has("up"), no_maint: has("no-maint"), ..Wanted::default() };
    let words = ["typed", "json", "no-maint", "up", "desc"];
    let chosen: Vec<_> = options.iter().take_while(|word| !words.contains(word)).collect();
    let mut proxy = None;
    // As there: only where all three are given.
    if let [name, kinds, sid] = chosen[..] {
        let number = |text: &str| text.parse::<i64>().unwrap_or_default();
        match name.parse::<i64>() {
            Ok(-1) => {}
            Ok(iid) => wanted.iid = Some(usize::try_from(iid).unwrap_or_default()),
            Err(_) => proxy = Some((*name).to_owned()),
        }
        wanted.kinds = Some(number(kinds)).filter(|bits| *bits != -1);
        wanted.sid = Some(number(sid)).filter(|sid| *sid != -1).map(|sid| usize::try_from(sid).unwrap_or_default());
    }
    let format = format(options);
    Command::ShowStat { proxy, wanted, format }
}

/// A weight as `set weight` has it, beside that of the file; `None` for exactly that one.
///
/// # Errors
/// In HAProxy's words.
pub fn weight(written: &str, initial: u32) -> Result<Option<u32>, String> {
    /// HAProxy's largest weight.
    const MOST: i64 = 256;
    if written.is_empty() {
        return Err("Require <weight> or <weight%>.".to_owned());
    }
    // As strtol reads it: a sign, digits, and what stands behind them.
    let signs = usize::from(written.starts_with(['-', '+']));
    let digits = written[signs..].bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Err("Empty weight string empty or preceded by garbage".to_owned());
    }
    let (number, rest) = written.split_at(signs + digits);
    // What is too long for a number is too large for a weight.
    let number = number.parse().unwrap_or(if number.starts_with('-') { i64::MIN } else { i64::MAX });
    match (rest, number) {
        ("%", ..0) => Err("Relative weight must be positive.".to_owned()),
        ("%", 100) => Ok(None),
        ("%", percent) => Ok(Some((i64::from(initial) * percent.min(100 * MOST) / 100).min(MOST) as u32)),
        (_, ..0 | 257..) => Err("Absolute weight can only be between 0 and 256 inclusive.".to_owned()),
        ("", weight) => Ok(Some(weight as u32)),
        _ => Err("Trailing garbage in weight string".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(line: &str) -> Vec<Result<Command, String>> {
        split(line).iter().map(|words| parse(words)).collect()
    }

    fn one(line: &str) -> Command {
        let mut all = parsed(line);
        assert_eq!(all.len(), 1, "{line}");
        all.remove(0).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    proptest! {
        /// Whatever comes, it is read; and words that are written as words come out as they went in.
        #[test]
        fn any_line_is_read(line in ".{0,80}", words in proptest::collection::vec("[a-z/;\\\\ %]{1,8}", 1..6)) {
            split(&line).iter().for_each(|words| { let _ = parse(words); });
            let escaped = |word: &String| word.chars().flat_map(|letter| ['\\', letter]).collect::<String>();
            let line = words.iter().map(escaped).collect::<Vec<_>>().join(" ") + "\n";
            prop_assert_eq!(split(&line), [words]);
        }
    }

    #[test]
    fn a_line_is_read_as_haproxy_reads_it() {
        assert_eq!(one("   show    version  \r\n"), Command::ShowVersion);
        assert_eq!(one("show servers state pbx"), Command::ShowServersState(Some("pbx".into())));
        assert_eq!(one("show servers state"), Command::ShowServersState(None));
        let set = |to: &str| Command::SetServer { server: "pbx/one".into(), what: "state".into(), to: to.into() };
        assert_eq!(one("set server pbx/one state drain"), set("drain"));
        assert_eq!(one("set server pbx/one state"), set(""), "what is missing is for whoever answers");
        assert_eq!(
            one("set server pbx/o\\ ne weight 5%"),
            Command::SetServer { server: "pbx/o ne".into(), what: "weight".into(), to: "5%".into() }
        );
        assert_eq!(parsed("prompt;show version"), [Ok(Command::Prompt), Ok(Command::ShowVersion)]);
    }

    #[test]
    fn what_is_no_command_is_told_what_there_is() {
        for line in ["", "sh ver", "SHOW VERSION", "show\\ version", "show bogus", "reload now", "enable", "del"] {
            let said = parsed(line).remove(0).unwrap_err();
            assert!(said.starts_with("Unknown command") && said.contains("\n  "), "{line}: {said}");
        }
        let trailing = parsed("show version;");
        assert!(trailing[1].as_ref().unwrap_err().starts_with("Unknown command"), "{trailing:?}");
        assert!(COMMANDS.iter().all(|(command, _)| {
            let (needed, _) = command.split_once(" [").unwrap_or((command, ""));
            let word = |word: &str| word.split('|').next().unwrap_or_default().replace(['<', '>'], "");
            parse(&needed.split(' ').map(word).collect::<Vec<_>>())
                .map_or_else(|error| !error.starts_with("Unknown"), |_| true)
        }));
    }

    #[test]
    fn weights_are_absolute_or_parts_of_the_file_s() {
        assert_eq!(weight("0", 70), Ok(Some(0)));
        assert_eq!(weight("256", 70), Ok(Some(256)));
        assert_eq!(weight("50%", 70), Ok(Some(35)));
        assert_eq!(weight("900%", 70), Ok(Some(256)));
        assert_eq!(weight("99999999999%", 70), Ok(Some(256)));
        assert_eq!(weight("100%", 70), Ok(None));
        for (written, said) in [
            ("300", "Absolute weight can only be between 0 and 256 inclusive."),
            ("-1", "Absolute weight can only be between 0 and 256 inclusive."),
            ("-1%", "Relative weight must be positive."),
            ("", "Require <weight> or <weight%>."),
            ("5x", "Trailing garbage in weight string"),
            ("5%x", "Trailing garbage in weight string"),
            ("300x", "Absolute weight can only be between 0 and 256 inclusive."),
            ("99999999999999999999", "Absolute weight can only be between 0 and 256 inclusive."),
            ("x", "Empty weight string empty or preceded by garbage"),
            ("-", "Empty weight string empty or preceded by garbage"),
        ] {
            assert_eq!(weight(written, 70), Err(said.to_owned()), "{written}");
        }
    }
}
