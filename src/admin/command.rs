//! One line of the runtime API: what it asks for.

/// What a line asks for. Names are as written; whether there is such a server is for whoever answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Quit,
    Prompt,
    ShowInfo,
    ShowVersion,
    ShowLevel,
    ShowBackend,
    /// Of one backend, or of all.
    ShowServersState(Option<String>),
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
    DisableServer(String),
    EnableServer(String),
    /// How many calls a server has.
    ShowCalls(String),
    Reload,
    /// The idle timeout of this connection, as written.
    SetTimeout(String),
    SetSeverity(Severity),
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
const COMMANDS: [(&str, &str); 20] = [
    ("disable server <bk>/<srv>", "put a server into maintenance: no calls, not even its own"),
    ("enable server <bk>/<srv>", "make it ready again"),
    ("get weight <bk>/<srv>", "report a server's weight, and that of the file"),
    ("help", "this list"),
    ("prompt", "toggle interactive mode with a prompt"),
    ("quit", "disconnect"),
    ("reload", "read the configuration again"),
    ("set server <bk>/<srv> breaker closed", "let new calls go to it again"),
    ("set server <bk>/<srv> state <s>", "ready, drain or maint"),
    ("set server <bk>/<srv> weight <w>", "0 to 256, or a percentage of the file's"),
    ("set severity-output [none|number|string]", "set presence of a severity level in errors"),
    ("set timeout cli <delay>", "seconds until an idle connection is closed"),
    ("set weight <bk>/<srv> <w>", "the same as set server ... weight"),
    ("show backend", "list the backends"),
    ("show calls <bk>/<srv>", "how many calls a server has"),
    ("show info", "report about the process"),
    ("show servers", "the same as status"),
    ("show servers state [<backend>]", "dump the servers' states"),
    ("show version", "report the version"),
    ("status [json]", "the servers as a table, or as one JSON object"),
];

/// The longest answer to a line that is no command begins so: tools look for it.
pub const UNKNOWN: &str = "Unknown command. Please enter one of the following commands only:\n";

/// Every command with its meaning, one a line.
pub fn help() -> String {
    COMMANDS.iter().map(|(command, meaning)| format!("  {command:<41}: {meaning}\n")).collect()
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
    let word = |at: usize| words.get(at).copied().unwrap_or_default().to_owned();
    match words[..] {
        ["help", ..] => Ok(Command::Help),
        ["quit", ..] => Ok(Command::Quit),
        ["prompt", ..] => Ok(Command::Prompt),
        ["reload"] => Ok(Command::Reload),
        ["status"] => Ok(Command::Status(Style::People)),
        ["status", "json"] => Ok(Command::Status(Style::Json)),
        ["show", "info", ..] => Ok(Command::ShowInfo),
        ["show", "version"] => Ok(Command::ShowVersion),
        ["show", "cli", "level"] => Ok(Command::ShowLevel),
        ["show", "servers"] => Ok(Command::Status(Style::People)),
        ["show", "backend"] => Ok(Command::ShowBackend),
        ["show", "servers", "state", ..] => Ok(Command::ShowServersState(words.get(3).map(|name| (*name).to_owned()))),
        ["show", "calls", ..] => Ok(Command::ShowCalls(word(2))),
        ["get", "weight", ..] => Ok(Command::GetWeight(word(2))),
        ["set", "weight", ..] => Ok(Command::SetWeight { server: word(2), weight: word(3) }),
        ["set", "server", ..] => Ok(Command::SetServer { server: word(2), what: word(3), to: word(4) }),
        ["disable", "server", ..] => Ok(Command::DisableServer(word(2))),
        ["enable", "server", ..] => Ok(Command::EnableServer(word(2))),
        ["set", "timeout", "cli", ..] => Ok(Command::SetTimeout(word(3))),
        ["set", "timeout", ..] => Err("'set timeout' only supports 'cli'.".to_owned()),
        ["set", "severity-output", level] => match level {
            "none" => Ok(Command::SetSeverity(Severity::None)),
            "number" => Ok(Command::SetSeverity(Severity::Number)),
            "string" => Ok(Command::SetSeverity(Severity::String)),
            _ => Err("one of 'none', 'number', 'string' is a required argument".to_owned()),
        },
        ["set", "severity-output", ..] => Err("one of 'none', 'number', 'string' is a required argument".to_owned()),
        _ => Err(format!("{UNKNOWN}{}", help())),
    }
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
    let (digits, percent) = written.strip_suffix('%').map_or((written, false), |digits| (digits, true));
    let Ok(number) = digits.parse::<i64>() else {
        return Err("Trailing garbage in weight string".to_owned());
    };
    match (percent, number) {
        (true, ..0) => Err("Relative weight must be positive.".to_owned()),
        (true, 100) => Ok(None),
        (true, percent) => Ok(Some((i64::from(initial) * percent.min(100 * MOST) / 100).min(MOST) as u32)),
        (false, 0..=MOST) => Ok(Some(number as u32)),
        (false, _) => Err("Absolute weight can only be between 0 and 256 inclusive.".to_owned()),
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
        for line in ["", "sh ver", "SHOW VERSION", "show\\ version", "show bogus", "reload now"] {
            let said = parsed(line).remove(0).unwrap_err();
            assert!(said.starts_with("Unknown command") && said.contains("\n  show info "), "{line}: {said}");
        }
        let trailing = parsed("show version;");
        assert!(trailing[1].as_ref().unwrap_err().starts_with("Unknown command"), "{trailing:?}");
        assert!(COMMANDS.iter().all(|(command, _)| {
            let words: Vec<_> = command.split([' ', '|']).filter(|word| !word.contains(['<', '[', ']'])).collect();
            parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
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
        ] {
            assert_eq!(weight(written, 70), Err(said.to_owned()), "{written}");
        }
    }
}
