//! `show stat`: the rows, cell by cell. An empty cell means that there is no such thing, never zero.

use std::time::Duration;

use super::fields::Field;
use crate::admin::picture::{Backend, Count, Frontend, Picture, Region, Server};
use crate::state::health::Outcome;
use crate::state::server::{Admin, Circuit, Health, Rest};

/// What a row is about; the number is HAProxy's column `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Frontend = 0,
    Backend = 1,
    Server = 2,
}

impl Kind {
    /// The bit by which `show stat <iid> <bits> <sid>` chooses it: those are others than the column's numbers.
    fn bit(self) -> i64 {
        match self {
            Self::Frontend => 1,
            Self::Backend => 2,
            Self::Server => 4,
        }
    }
}

/// One cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(i64),
    Text(String),
}

/// One row: its cells by column.
#[derive(Clone, Debug)]
pub struct Row {
    pub kind: Kind,
    pub iid: usize,
    pub sid: usize,
    cells: Vec<Option<Value>>,
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A proxy's number; `None`: all.
    pub iid: Option<usize>,
    /// HAProxy's bits; `None`: all.
    pub kinds: Option<i64>,
    pub sid: Option<usize>,
    /// Only servers that are up.
    pub up: bool,
    /// No servers in maintenance.
    pub no_maint: bool,
    /// Only proxies whose names contain this, in letters of either case.
    pub scope: Option<String>,
}

/// Whether a name contains a word, in letters of either case.
fn has(name: &str, word: &str) -> bool {
    name.to_ascii_lowercase().contains(&word.to_ascii_lowercase())
}

impl Wanted {
    fn takes(&self, row: &Row, proxy: &str) -> bool {
        self.iid.is_none_or(|iid| iid == row.iid)
            && self.kinds.is_none_or(|bits| bits & row.kind.bit() != 0)
            // As there: it chooses among servers alone.
            && self.sid.is_none_or(|sid| row.kind != Kind::Server || sid == row.sid)
            && self.scope.as_ref().is_none_or(|scope| has(proxy, scope))
    }

    fn takes_server(&self, server: &Server) -> bool {
        let maint = server.state.admin == Admin::Maint;
        let down = maint || matches!(server.state.health, Health::Down | Health::Dead);
        !(self.no_maint && maint || self.up && down)
    }
}

/// All rows that are wanted: frontends, then each backend's servers and it itself.
pub fn rows(picture: &Picture, wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    for of in &picture.frontends {
        let row = frontend(of);
        rows.extend(wanted.takes(&row, &of.name).then_some(row));
    }
    for of in &picture.backends {
        for server in of.servers.iter().filter(|server| wanted.takes_server(server)) {
            let row = self::server(server, of);
            rows.extend(wanted.takes(&row, &of.name).then_some(row));
        }
        let row = backend(of);
        rows.extend(wanted.takes(&row, &of.name).then_some(row));
    }
    rows
}

impl Row {
    fn new(kind: Kind, proxy: &str, name: &str, (iid, sid): (usize, usize)) -> Self {
        let mut row = Self { kind, iid, sid, cells: vec![None; Field::ALL.len()] };
        row.text(Field::pxname, proxy).text(Field::svname, name);
        row.numbers([
            (Field::pid, 1),
            (Field::iid, iid as u64),
            (Field::sid, sid as u64),
            (Field::r#type, kind as u64),
        ]);
        row
    }

    fn text(&mut self, field: Field, value: impl Into<String>) -> &mut Self {
        self.cells[field as usize] = Some(Value::Text(value.into()));
        self
    }

    fn number(&mut self, field: Field, value: i64) -> &mut Self {
        self.cells[field as usize] = Some(Value::Number(value));
        self
    }

    fn numbers<const N: usize>(&mut self, values: [(Field, u64); N]) -> &mut Self {
        for (field, value) in values {
            self.number(field, i64::try_from(value).unwrap_or(i64::MAX));
        }
        self
    }

    fn zeros<const N: usize>(&mut self, fields: [Field; N]) -> &mut Self {
        self.numbers(fields.map(|field| (field, 0)))
    }

    fn responses(&mut self, responses: [u64; 6]) -> &mut Self {
        use Field::{hrsp_1xx, hrsp_2xx, hrsp_3xx, hrsp_4xx, hrsp_5xx, hrsp_other};
        let fields = [hrsp_1xx, hrsp_2xx, hrsp_3xx, hrsp_4xx, hrsp_5xx, hrsp_other];
        self.numbers(std::array::from_fn::<_, 6, _>(|class| (fields[class], responses[class])))
    }

    /// The cells that are not empty.
    pub fn cells(&self) -> impl Iterator<Item = (Field, &Value)> {
        Field::ALL.iter().zip(&self.cells).filter_map(|(field, value)| Some((*field, value.as_ref()?)))
    }

    /// One cell; `None` where it is empty.
    pub fn cell(&self, field: Field) -> Option<&Value> {
        self.cells[field as usize].as_ref()
    }

    /// Every cell in order.
    pub fn all_cells(&self) -> impl Iterator<Item = Option<&Value>> {
        self.cells.iter().map(Option::as_ref)
    }
}

/// Whoever reads SIP responses looks for them in rows of this mode: HAProxy leaves them empty in rows of mode tcp.
fn mode_of(of: &str) -> &'static str {
    if of == "relay" { "tcp" } else { "http" }
}

fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

fn frontend(of: &Frontend) -> Row {
    use Field::*;
    let mut row = Row::new(Kind::Frontend, &of.name, "FRONTEND", (of.iid, 0));
    let (rates, tally) = (&of.rates, &of.tally);
    row.numbers([
        (scur, whole(rates.active.now)),
        (smax, whole(rates.active.most)),
        (slim, of.most_open),
        (stot, tally[Count::Calls]),
        (bin, tally[Count::BytesIn]),
        (bout, tally[Count::BytesOut]),
        (dreq, tally[Count::Denied]),
        (ereq, tally[Count::Malformed]),
        (rate, whole(rates.calls.now)),
        (rate_max, whole(rates.calls.most)),
        (conn_rate, whole(rates.connections.now)),
        (conn_rate_max, whole(rates.connections.most)),
        (conn_tot, tally[Count::Connections]),
    ]);
    row.text(status, "OPEN").text(mode, mode_of(of.mode));
    row.zeros([
        dresp,
        rate_lim,
        comp_in,
        comp_out,
        comp_byp,
        comp_rsp,
        dcon,
        dses,
        wrew,
        eint,
        cache_lookups,
        cache_hits,
    ]);
    row.numbers([
        (req_rate, whole(rates.requests.now)),
        (req_rate_max, whole(rates.requests.most)),
        (req_tot, tally[Count::Requests]),
        (intercepted, tally[Count::Refused]),
    ]);
    if of.mode == "proxy" {
        row.responses(tally.responses());
    }
    row
}

fn backend(of: &Backend) -> Row {
    use Field::*;
    let mut row = Row::new(Kind::Backend, &of.name, "BACKEND", (of.iid, 0));
    let usable = |backup: bool| of.servers.iter().filter(move |server| server.backup == backup && server.takes_new);
    let weight_of = |backup| usable(backup).map(|server| u64::from(server.weight)).sum::<u64>();
    // Backups count where nobody else is left.
    let usable_weight = if usable(false).next().is_some() { weight_of(false) } else { weight_of(true) };
    let (rates, tally) = (&of.rates, &of.tally);
    row.numbers([
        (scur, of.calls),
        (smax, whole(rates.active.most).max(of.calls)),
        (slim, of.servers.iter().map(|server| u64::from(server.max_calls)).sum()),
        (stot, tally[Count::Calls]),
        (bin, tally[Count::BytesIn]),
        (bout, tally[Count::BytesOut]),
        (econ, tally[Count::Unreachable]),
        (wredis, tally[Count::Rejected]),
        (weight, usable_weight),
        (uweight, usable_weight),
        (act, usable(false).count() as u64),
        (bck, usable(true).count() as u64),
        (chkdown, of.downs),
        (lastchg, of.unchanged.as_secs()),
        (downtime, of.downtime.as_secs()),
        (lbtot, tally[Count::Opened]),
        (rate, whole(rates.calls.now)),
        (rate_max, whole(rates.calls.most)),
        (connect, tally[Count::Connections]),
    ]);
    row.text(status, if of.up { "UP" } else { "DOWN" });
    row.text(mode, mode_of(of.mode)).text(algo, of.balance);
    row.zeros([qcur, qmax, dreq, dresp, eresp, wretr, cli_abrt, srv_abrt, comp_in, comp_out, comp_byp, comp_rsp]);
    row.zeros([
        qtime,
        ctime,
        ttime,
        wrew,
        reuse,
        cache_lookups,
        cache_hits,
        qtime_max,
        ctime_max,
        rtime_max,
        ttime_max,
    ]);
    row.zeros([eint, agg_server_status, agg_server_check_status, agg_check_status]);
    // The slowest server's, as the alias in /metrics has it.
    row.numbers([(rtime, millis(of.servers.iter().filter_map(|server| server.times.p50).max()))]);
    row.number(lastsess, last_session(rates.calls.now, tally[Count::Calls]));
    if of.mode == "proxy" {
        row.responses(tally.responses()).numbers([(req_tot, tally[Count::Requests])]);
    }
    row
}

/// -1 where there never was a call; of older ones it is not known when.
fn last_session(rate: f64, calls: u64) -> i64 {
    match calls {
        0 => -1,
        _ if rate > 0.0 => 0,
        _ => 1,
    }
}

fn server(of: &Server, backend: &Backend) -> Row {
    use Field::*;
    let mut row = Row::new(Kind::Server, &backend.name, &of.name, (backend.iid, of.sid));
    let (rates, tally) = (&of.rates, &of.tally);
    row.numbers([
        (scur, of.calls),
        (smax, whole(rates.active.most).max(of.calls)),
        (stot, tally[Count::Calls]),
        (bin, tally[Count::BytesIn]),
        (bout, tally[Count::BytesOut]),
        (econ, tally[Count::Unreachable]),
        (wredis, tally[Count::Rejected]),
        (weight, u64::from(of.weight) * u64::from(100 - of.state.held_back) / 100),
        (uweight, of.weight.into()),
        (act, u64::from(!of.backup)),
        (bck, u64::from(of.backup)),
        (lastchg, of.unchanged.as_secs()),
        (lbtot, tally[Count::Opened]),
        (rate, whole(rates.calls.now)),
        (rate_max, whole(rates.calls.most)),
        (connect, tally[Count::Connections]),
        (hanafail, tally[Count::Failed]),
        (rtime, millis(of.times.p50)),
    ]);
    row.text(status, status_of(of)).text(mode, mode_of(backend.mode)).text(addr, of.address.to_string());
    row.zeros([qcur, qmax, dresp, eresp, wretr, cli_abrt, srv_abrt, qtime, ctime, ttime, wrew, reuse, srv_icur]);
    row.zeros([qtime_max, ctime_max, rtime_max, ttime_max, eint, idle_conn_cur, safe_conn_cur, used_conn_cur]);
    row.zeros([need_conn_est]);
    row.number(lastsess, last_session(rates.calls.now, tally[Count::Calls]));
    if of.max_calls > 0 {
        row.numbers([(slim, of.max_calls.into())]);
    }
    if of.state.held_back > 0 {
        row.numbers([(throttle, u64::from(100 - of.state.held_back))]);
    }
    if backend.mode == "proxy" {
        row.responses(tally.responses()).numbers([(req_tot, tally[Count::Requests])]);
    }
    check(&mut row, of);
    sip(&mut row, of, backend.regions.iter().find(|region| region.name == of.region));
    row
}

/// What the last check said. In maintenance HAProxy leaves it empty, for it does not check there.
fn check(row: &mut Row, of: &Server) {
    use Field::*;
    let (Some((rise, fall)), Some(record)) = (of.check, &of.record) else { return };
    row.numbers([(chkfail, record.failed_checks), (chkdown, record.downs), (downtime, of.downtime.as_secs())]);
    if of.state.admin == Admin::Maint {
        return;
    }
    row.numbers([(check_rise, rise.into()), (check_fall, fall.into()), (check_health, health(of).into())]);
    if of.state.breaker == Circuit::Open {
        row.text(check_status, "HANA").text(check_desc, "Health analyze");
        let words = of.breaker.map(|b| format!("circuit open: {}/{} failed", b.counts.failed, b.counts.total));
        row.text(last_chk, words.unwrap_or_default());
        return;
    }
    let Some(last) = record.checks.back() else {
        row.text(check_status, "INI").text(check_desc, "Initializing").text(last_chk, "");
        return;
    };
    let (word, words) = match (last.outcome, last.passed) {
        (Outcome::Http { has_text: false, .. }, _) => ("L7RSP", "Layer7 invalid response"),
        (Outcome::Answered { .. } | Outcome::Http { .. }, false) => ("L7STS", "Layer7 wrong status"),
        (Outcome::Answered { .. }, true) if of.state.health == Health::Resting(Rest::Check) => {
            ("L7OKC", "Layer7 check conditionally passed")
        }
        (Outcome::Answered { .. } | Outcome::Http { .. }, true) => ("L7OK", "Layer7 check passed"),
        (Outcome::Connected, _) => ("L4OK", "Layer4 check passed"),
        (Outcome::Silent, _) => ("L7TOUT", "Layer7 timeout"),
        (Outcome::Unreachable, _) => ("L4CON", "Layer4 connection problem"),
        (Outcome::Untrusted, _) => ("L6RSP", "Layer6 invalid response"),
    };
    row.text(check_status, word).text(check_desc, words).text(last_chk, words_of(last.outcome));
    row.numbers([(check_duration, last.took.as_millis() as u64)]);
    if let Outcome::Answered { status: code, .. } | Outcome::Http { status: code, .. } = last.outcome {
        row.numbers([(check_code, code.into())]);
    }
}

/// How a check ended, for people.
pub fn words_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Answered { status, .. } => format!("OPTIONS answered {status}"),
        Outcome::Http { status, has_text: true } => format!("HTTP answered {status}"),
        Outcome::Http { status, has_text: false } => format!("HTTP answered {status} without the text"),
        Outcome::Connected => "connected".to_owned(),
        Outcome::Silent => "no answer in time".to_owned(),
        Outcome::Unreachable => "nobody there".to_owned(),
        Outcome::Untrusted => "no TLS handshake".to_owned(),
    }
}

/// HAProxy's counter: from 0 (down) over `rise` (just up) to `rise + fall - 1` (as well as can be).
pub fn health(of: &Server) -> u32 {
    let Some((rise, fall)) = of.check else { return 0 };
    let last = of.record.as_ref().and_then(|record| Some((record.checks.back()?.passed, record.in_a_row)));
    match (of.state.health, last) {
        (Health::Down | Health::Dead, Some((true, row))) => row.min(rise - 1),
        (Health::Down | Health::Dead, _) => 0,
        (_, Some((false, row))) => rise + fall - 1 - row.min(fall - 1),
        _ => rise + fall - 1,
    }
}

/// The column `status`, in words that HAProxy's tools know.
pub fn status_of(of: &Server) -> String {
    let (state, health) = (of.state, health(of));
    let word = match (state.admin, state.health, state.breaker) {
        (Admin::Maint, ..) => "MAINT",
        // What was found, or said by hand, before its checks were stopped still counts.
        (_, Health::Down | Health::Dead, _) => match of.check {
            Some((rise, _)) if health > 0 => return format!("DOWN {health}/{rise}"),
            _ => "DOWN",
        },
        // As there: who is stopping and drained is stopping.
        (_, Health::Suspect | Health::Resting(_), _) => "NOLB",
        (Admin::Drain | Admin::Leaving, ..) => "DRAIN",
        (_, _, Circuit::Open) => "DOWN",
        _ => match of.check {
            None => "no check",
            Some(_) if state.breaker == Circuit::HalfOpen => "NOLB",
            Some((rise, fall)) if health < rise + fall - 1 => return format!("UP {}/{fall}", health + 1 - rise),
            Some(_) => "UP",
        },
    };
    word.to_owned()
}

fn sip(row: &mut Row, of: &Server, region: Option<&Region>) {
    use Field::*;
    let percent = |part: f64| format!("{:.1}", part * 100.0);
    row.text(sip_region, of.region.as_str());
    if let Some(region) = region {
        row.text(sip_target_pct, percent(region.target));
        if let Some(actual) = region.actual() {
            row.text(sip_actual_pct, percent(actual));
        }
    }
    let tally = &of.tally;
    row.numbers([
        (sip_invite, tally[Count::Invite]),
        (sip_register, tally[Count::Register]),
        (sip_options, tally[Count::Options]),
        (sip_bye, tally[Count::Bye]),
        (sip_6xx, tally[Count::Responses6xx]),
        (sip_retrans, tally[Count::Retransmissions]),
        (sip_sticky, of.calls),
    ]);
    for (field, time) in [(sip_pdd_p50, of.times.p50), (sip_pdd_p95, of.times.p95), (sip_pdd_p99, of.times.p99)] {
        if time.is_some() {
            row.numbers([(field, millis(time))]);
        }
    }
    if of.breaker.is_some() {
        row.text(sip_breaker, of.state.breaker.word());
    }
}

fn millis(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| time.as_millis() as u64)
}
