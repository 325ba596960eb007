//! Well-formed SIP messages in every spelling the grammar allows, made from dice, and what each of them means.

/// A source of decisions: any bytes. Where they end every roll is zero, and zero is always the plainest choice, so
/// fewer and smaller bytes make a simpler message.
pub struct Dice<'a> {
    bytes: std::slice::Iter<'a, u8>,
}

impl<'a> Dice<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter() }
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        usize::from(*self.bytes.next().unwrap_or(&0)) % sides
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }

    /// True once in so many times.
    pub fn once_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == sides - 1
    }

    pub fn number(&mut self, below: u32) -> u32 {
        let value = (0..4).fold(0, |value, _| value << 8 | self.roll(256) as u32);
        value % below
    }

    /// A word of one to eight of these letters.
    pub fn word(&mut self, letters: &str) -> String {
        let letters: Vec<_> = letters.chars().collect();
        (0..=self.roll(8)).map(|_| self.pick(&letters)).collect()
    }
}

const TOKEN: &str = "abcXYZ019-.!%*_+`'~";
const CALL_ID: &str = "abcXYZ019-.!%*_+`'~()<>:\\\"/[]?{}";
const QUOTED: [&str; 8] = ["A B", "", "a, b", "<sip:no@no.example>;tag=no", "\\\"", "x\\\\", "\\,;tag=1", "Zoë"];
const HOSTS: [&str; 6] =
    ["192.168.1.20", "phone.example", "198.51.100.7", "[2001:db8::1]", "[::ffff:192.0.2.9]", "p-1.a.example"];

/// One via-parm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeVia {
    pub transport: String,
    pub host: String,
    pub port: Option<u16>,
    pub branch: Option<String>,
    /// `Some(None)`: the parameter without value.
    pub rport: Option<Option<String>>,
    pub received: Option<String>,
}

/// A message, and what every field of it means.
#[derive(Clone, Debug)]
pub struct Made {
    pub bytes: Vec<u8>,
    pub method: String,
    /// Of a request.
    pub uri: Option<String>,
    pub status: Option<u16>,
    pub vias: Vec<MadeVia>,
    /// Values with single blanks.
    pub routes: Vec<String>,
    pub call_id: String,
    pub cseq: u32,
    pub from_tag: Option<String>,
    pub to_tag: Option<String>,
    pub max_forwards: Option<u8>,
    /// Whether Content-Length is there; only then something may follow the body.
    pub has_length: bool,
    pub body: Vec<u8>,
    /// Octets behind the message.
    pub junk: usize,
}

/// What a test wants of its messages beside what the dice say.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Methods to choose from; any where there are none.
    pub methods: &'static [&'static str],
    /// A Max-Forwards that is there is at least this.
    pub least_hops: u8,
    /// Header lines, anywhere among the others, in this order where they have one name.
    pub lines: Vec<(&'static str, String)>,
    /// No Route of its own.
    pub no_routes: bool,
}

const METHODS: [&str; 14] = [
    "INVITE",
    "OPTIONS",
    "REGISTER",
    "BYE",
    "ACK",
    "CANCEL",
    "SUBSCRIBE",
    "NOTIFY",
    "PUBLISH",
    "MESSAGE",
    "REFER",
    "UPDATE",
    "!odd.Method*'~",
    "invite",
];
const URIS: [&str; 8] = [
    "sip:100@example.org",
    "sips:1;x=y?z:pw@[2001:db8::9]:5070;lr",
    "sip:example.org",
    "tel:+2348012345",
    "SIP:a%20b@192.0.2.77;transport=udp;maddr=192.0.2.1",
    "soap.beep://192.0.2.103:3002",
    "opaque:anything;goes,here",
    "sip:u@h_1.example;method=INVITE",
];

/// A request.
pub fn request(dice: &mut Dice<'_>, wish: &Wish) -> Made {
    let methods = if wish.methods.is_empty() { &METHODS[..] } else { wish.methods };
    let (method, uri) = (dice.pick(methods), dice.pick(&URIS));
    let version = if dice.once_in(9) { "sip/2.0" } else { "SIP/2.0" };
    let mut made = fields(dice, wish, method);
    made.uri = Some(uri.to_owned());
    finish(dice, made, &format!("{method} {uri} {version}"), wish)
}

/// A response.
pub fn response(dice: &mut Dice<'_>, wish: &Wish) -> Made {
    let methods = if wish.methods.is_empty() { &METHODS[..] } else { wish.methods };
    let (method, status) = (dice.pick(methods), 100 + dice.number(600) as u16);
    let phrase = dice.pick(&[" OK", " ", "", " Not \u{416}", "  two  blanks "]);
    let mut made = fields(dice, wish, method);
    made.status = Some(status);
    finish(dice, made, &format!("SIP/2.0 {status}{phrase}"), wish)
}

fn fields(dice: &mut Dice<'_>, wish: &Wish, method: &str) -> Made {
    let has_length = !dice.once_in(4);
    let tag = |dice: &mut Dice<'_>| (!dice.once_in(3)).then(|| dice.word(TOKEN));
    Made {
        bytes: Vec::new(),
        method: method.to_owned(),
        uri: None,
        status: None,
        vias: (0..=dice.roll(4)).map(|_| via(dice)).collect(),
        routes: (0..if wish.no_routes { 0 } else { dice.roll(5).saturating_sub(1) }).map(|_| route(dice)).collect(),
        call_id: dice.word(CALL_ID) + dice.pick(&["", "@phone.example", "@[2001:db8::1]"]),
        cseq: dice.number(1 << 31),
        from_tag: tag(dice),
        to_tag: tag(dice),
        max_forwards: (!dice.once_in(4)).then(|| (dice.roll(256) as u8).max(wish.least_hops)),
        has_length,
        body: dice.pick(&[&b""[..], b"v=0\r\n", b"\r\n\r\nINVITE sip:x SIP/2.0\r\n", b"\0\xff\n"]).to_vec(),
        junk: if has_length && dice.once_in(5) { dice.roll(40) } else { 0 },
    }
}

fn via(dice: &mut Dice<'_>) -> MadeVia {
    let number = |dice: &mut Dice<'_>| dice.pick(&["7", "5060", "65535"]).to_owned();
    MadeVia {
        transport: dice.pick(&["UDP", "TCP", "TLS-SCTP", "udp", "X.y"]).to_owned(),
        host: dice.pick(&HOSTS).to_owned(),
        port: dice.once_in(2).then(|| 1 + dice.number(65_535) as u16),
        branch: match dice.roll(5) {
            0 => Some("z9hG4bK".to_owned() + &dice.word(TOKEN)),
            1 => None,
            2 => Some("z9hG4bK".to_owned()),
            3 => Some(dice.word(TOKEN)),
            _ => Some("Z9HG4bk".to_owned() + &dice.word(TOKEN)),
        },
        rport: match dice.roll(4) {
            0 => Some(None),
            1 => Some(Some(number(dice))),
            _ => None,
        },
        received: dice.once_in(4).then(|| dice.pick(&["192.0.2.66", "2001:db8::66", "[2001:db8::66]"]).to_owned()),
    }
}

fn display_name(dice: &mut Dice<'_>) -> String {
    match dice.roll(4) {
        0 => String::new(),
        1 => format!("\"{}\"", dice.pick(&QUOTED)),
        2 => format!("\"{}\" ", dice.pick(&QUOTED)),
        _ => "Plain Name ".to_owned(),
    }
}

fn route(dice: &mut Dice<'_>) -> String {
    let name = display_name(dice);
    let host = dice.pick(&HOSTS);
    format!("{name}<sip:{host};lr{}>{}", dice.pick(&["", ";a=b,c", ";x=\""]), dice.pick(&["", ";r=\"1,2\""]))
}

/// Blanks that may stand between two parts of a value.
fn gap<'a>(dice: &mut Dice<'_>, eol: &str, or: &'a str) -> std::borrow::Cow<'a, str> {
    match dice.roll(8) {
        0..=4 => or.into(),
        5 => " ".into(),
        6 => "\t  ".into(),
        _ => format!("{eol} ").into(),
    }
}

fn spell_via(dice: &mut Dice<'_>, eol: &str, via: &MadeVia) -> String {
    let sip = dice.pick(&["SIP", "sip", "Sip"]);
    let mut text = sip.to_owned() + &gap(dice, eol, "") + "/" + &gap(dice, eol, "") + "2.0";
    text = text + &gap(dice, eol, "") + "/" + &gap(dice, eol, "") + &via.transport + &gap(dice, eol, " ") + &via.host;
    if let Some(port) = via.port {
        text = text + &gap(dice, eol, "") + ":" + &gap(dice, eol, "") + &port.to_string();
    }
    let mut params = vec![("x".to_owned() + &dice.word(TOKEN), Some("\"q;,\\\"\"".to_owned()))];
    params.truncate(dice.roll(2));
    params.extend(dice.once_in(3).then(|| ("ttl".to_owned(), Some("1".to_owned()))));
    params.extend(via.branch.clone().map(|branch| (dice.pick(&["branch", "Branch"]).to_owned(), Some(branch))));
    params.extend(via.rport.clone().map(|rport| (dice.pick(&["rport", "RPORT"]).to_owned(), rport)));
    params.extend(via.received.clone().map(|ip| ("received".to_owned(), Some(ip))));
    let by = dice.roll(params.len().max(1));
    params.rotate_left(by);
    for (name, value) in params {
        text = text + &gap(dice, eol, "") + ";" + &gap(dice, eol, "") + &name;
        if let Some(value) = value {
            text = text + &gap(dice, eol, "") + "=" + &gap(dice, eol, "") + &value;
        }
    }
    text
}

/// From or To with this tag.
fn spell_party(dice: &mut Dice<'_>, eol: &str, tag: Option<&str>) -> String {
    let mut text = match dice.roll(4) {
        0 => "sip:bob@example.org".to_owned(),
        1 => display_name(dice) + "<sip:bob@example.org;tag=no>",
        2 => display_name(dice) + "< tel:+1234 >",
        _ => display_name(dice) + "<sip:a,b@[2001:db8::5]:5061>",
    };
    if dice.once_in(3) {
        text = text + &gap(dice, eol, "") + ";x=\";tag=no\"";
    }
    if let Some(tag) = tag {
        let name = dice.pick(&["tag", "Tag", "TAG"]);
        text = text + &gap(dice, eol, "") + ";" + &gap(dice, eol, "") + name;
        text = text + &gap(dice, eol, "") + "=" + &gap(dice, eol, "") + tag;
    }
    text + if dice.once_in(4) { ";y" } else { "" }
}

/// The lines of one header, whose order among themselves matters: values one by one or joined by commas.
fn lines_of(dice: &mut Dice<'_>, eol: &str, values: Vec<String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for value in values {
        match lines.last_mut() {
            Some(line) if dice.once_in(2) => {
                *line = line.clone() + &gap(dice, eol, "") + "," + &gap(dice, eol, " ") + &value
            }
            _ => lines.push(value),
        }
    }
    lines
}

fn finish(dice: &mut Dice<'_>, mut made: Made, start: &str, wish: &Wish) -> Made {
    let eol = dice.pick(&["\r\n", "\r\n", "\n"]);
    let vias: Vec<_> = made.vias.iter().map(|via| spell_via(dice, eol, via)).collect();
    let zeros = dice.pick(&["", "0", "000"]);
    let cseq = format!("{zeros}{}{}{}", made.cseq, gap(dice, eol, " "), made.method);
    let length = format!("{zeros}{}", made.body.len());
    let copies = if !made.has_length { 0 } else { 1 + dice.roll(5) / 4 };
    let mut groups: Vec<(&str, Vec<String>)> = vec![
        (dice.pick(&["Via", "v", "VIA"]), lines_of(dice, eol, vias)),
        ("Route", lines_of(dice, eol, made.routes.clone())),
        (
            dice.pick(&["Max-Forwards", "MAX-forwards"]),
            made.max_forwards.iter().map(|hops| format!("{zeros}{hops}")).collect(),
        ),
        (dice.pick(&["From", "f", "FROM"]), vec![spell_party(dice, eol, made.from_tag.as_deref())]),
        (dice.pick(&["To", "t", "tO"]), vec![spell_party(dice, eol, made.to_tag.as_deref())]),
        (dice.pick(&["Call-ID", "i", "call-id"]), vec![made.call_id.clone(); 1 + dice.roll(6) / 5]),
        (dice.pick(&["CSeq", "CSEQ"]), vec![cseq]),
        (dice.pick(&["Content-Length", "l", "L"]), vec![length; copies]),
        ("X-Odd", vec!["any: thing; at, all".to_owned(), "\"open".to_owned()]),
        ("Subject", vec!["Caf\u{e9}".to_owned()]),
    ];
    groups.truncate(if dice.once_in(2) { 10 } else { 8 });
    for (name, value) in &wish.lines {
        match groups.iter_mut().find(|(other, _)| other == name) {
            Some((_, values)) => values.push(value.clone()),
            None => groups.push((name, vec![value.clone()])),
        }
    }
    let mut text = format!("{}{start}{eol}", dice.pick(&["", "", "", "\r\n"]));
    for _ in 0..groups.iter().map(|(_, values)| values.len()).sum() {
        groups.retain(|(_, values)| !values.is_empty());
        let at = dice.roll(groups.len());
        let (name, values) = &mut groups[at];
        let before = dice.pick(&["", "", "", " ", "\t "]);
        text = format!("{text}{name}{before}:{}{}{eol}", gap(dice, eol, " "), values.remove(0));
    }
    text += eol;
    made.bytes = [text.as_bytes(), &made.body, &vec![b'j'; made.junk]].concat();
    made
}
