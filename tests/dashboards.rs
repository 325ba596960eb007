//! What packaging/ asks Prometheus for is what a balancer says: each name in dashboards and alerts is in a real scrape with
//! the labels that are asked for, promtool finds nothing wrong, and each alert leads to a page that is there.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::http::{admin, get};
use support::pki::Pki;
use support::process::{output, program, spawn, wait_for};
use support::regions::{Net, ROUND, SERVERS, answer, stop};
use trunkline::load::{Generator, Timers};
use trunkline::state::server::{Admin, Health, Rest};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Exit code of promtool, and all that it said.
fn promtool(arguments: &[&str], stdin: &str) -> (Option<i32>, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command.current_dir(root())).expect("promtool is there: tests/setup installs it");
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Families by name, with the values of each label that their samples have.
#[derive(Default)]
struct Scrape {
    text: String,
    families: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Scrape {
    fn read(text: String) -> Self {
        let mut families: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let [sample] = selectors(line).try_into().unwrap_or_else(|_| panic!("{line}"));
            let labels = families.entry(sample.name).or_default();
            for (label, value) in sample.labels {
                labels.entry(label).or_default().insert(value);
            }
        }
        Self { text, families }
    }

    /// What is wrong with what an expression asks for.
    fn misses(&self, wanted: &Selector) -> Option<String> {
        // Prometheus' own.
        if ["up", "ALERTS"].contains(&&*wanted.name) {
            return None;
        }
        let Some(family) = self.families.get(&wanted.name) else {
            return Some(format!("no sample of {}", wanted.name));
        };
        wanted.labels.iter().find_map(|(label, value)| {
            let values = match family.get(label) {
                Some(values) => values,
                None if TARGETS_LABELS.contains(&&**label) => return None,
                None => return Some(format!("{} has no label {label}", wanted.name)),
            };
            let known = |value: &str| values.contains(value) || is_other_state(&wanted.name, value);
            let named = ["kind", "reason", "state", "method"].contains(&&**label) && !value.contains('$');
            let stranger = value.split('|').find(|value| named && !known(value))?;
            Some(format!("{} never has {label}=\"{stranger}\"", wanted.name))
        })
    }
}

/// What Prometheus gives each sample by its configuration.
const TARGETS_LABELS: [&str; 3] = ["job", "instance", "pair"];

/// A healthy balancer has a server in one of them only.
fn is_other_state(family: &str, word: &str) -> bool {
    let health = [Health::Up, Health::Suspect, Health::Resting(Rest::Call), Health::Down, Health::Dead];
    let admin = [Admin::Ready, Admin::Drain, Admin::Maint, Admin::Leaving];
    match family {
        "trunkline_server_state" => health.iter().any(|health| health.word() == word),
        "trunkline_server_admin" => admin.iter().any(|admin| admin.word() == word),
        _ => false,
    }
}

/// A family that is asked for, and what of it.
#[derive(Debug, PartialEq, Eq)]
struct Selector {
    name: String,
    labels: Vec<(String, String)>,
}

/// Words of PromQL that are no names, and after which a list in parentheses has labels.
const WORDS: [&str; 14] =
    ["and", "or", "unless", "bool", "offset", "sum", "min", "max", "avg", "count", "topk", "bottomk", "inf", "nan"];
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// What an expression asks for.
fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if !(first.is_ascii_alphanumeric() || first == '_') {
            // A range has a length and no name, and a text is none.
            let behind = &rest[first.len_utf8()..];
            rest = match first {
                '[' => after(behind, ']'),
                '"' => after(behind, '"'),
                _ => behind,
            };
            continue;
        }
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_:.".contains(c))).unwrap_or(rest.len());
        let (word, behind) = (&rest[..end], rest[end..].trim_start());
        rest = &rest[end..];
        if LISTS.contains(&word) {
            rest = if behind.starts_with('(') { after(behind, ')') } else { behind };
        } else if let Some(inside) = behind.strip_prefix('{') {
            let (labels, end) = matchers(inside);
            found.push(Selector { name: word.to_owned(), labels });
            rest = end;
        } else if !first.is_ascii_digit() && !WORDS.contains(&word) && !behind.starts_with('(') {
            found.push(Selector { name: word.to_owned(), labels: Vec::new() });
        }
        // Of a line of a scrape the value follows, which may be NaN.
        if rest.trim() == "NaN" {
            break;
        }
    }
    found
}

fn after(text: &str, end: char) -> &str {
    text.split_once(end).unwrap_or_else(|| panic!("{end} is missing in {text}")).1
}

/// Labels and values up to the brace, and what is behind it.
fn matchers(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut labels = Vec::new();
    while !text.starts_with('}') {
        let (label, rest) = text.split_once('"').unwrap_or_else(|| panic!("no value in {text}"));
        let mut escaped = false;
        let is_end = |c: char| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        };
        let end = rest.find(is_end).unwrap();
        let label = label.trim_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        labels.push((label.to_owned(), rest[..end].to_owned()));
        text = &rest[end + 1..];
    }
    (labels, &text[1..])
}

/// Every string below a member of this name.
fn members<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members_of) => {
            found.extend(members_of.get(name).and_then(Value::as_str));
            members_of.values().for_each(|value| members(value, name, found));
        }
        Value::Array(values) => values.iter().for_each(|value| members(value, name, found)),
        _ => {}
    }
}

fn all<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    members(value, name, &mut found);
    found
}

/// The dashboards by the names of their files.
fn dashboards() -> Vec<(String, Value)> {
    let files = fs::read_dir(root().join("packaging/grafana")).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
    };
    let found: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "json")).map(read).collect();
    assert_eq!(found.len(), 3, "the dashboards were found");
    found
}

/// What the variables of a dashboard ask for: a family and its label.
fn variables(dashboard: &Value) -> Vec<Selector> {
    let [asked, shown] = ["query", "definition"].map(|name| all(&dashboard["templating"], name));
    let asked = asked.into_iter().chain(shown).filter_map(|words| words.strip_prefix("label_values("));
    let read = |words: &str| {
        let (family, label) = words.trim_end_matches(')').rsplit_once(", ").unwrap_or_else(|| panic!("{words}"));
        let [mut selector] = selectors(family).try_into().unwrap();
        selector.labels.push((label.to_owned(), "$any".to_owned()));
        selector
    };
    asked.map(read).collect()
}

const RULES: &str = "packaging/prometheus/trunkline.rules.yml";
const RULES_TEST: &str = "packaging/prometheus/trunkline.rules.test.yml";

/// An alert as it stands in the file: its lines by key, those of annotations too.
struct Alert {
    name: String,
    keys: BTreeMap<String, String>,
}

fn alerts() -> Vec<Alert> {
    let text = fs::read_to_string(root().join(RULES)).unwrap();
    let read = |block: &str| {
        let mut lines = block.lines();
        let name = lines.next().unwrap().to_owned();
        let (mut keys, mut last) = (BTreeMap::<String, String>::new(), String::new());
        // To the next group.
        let own = lines.take_while(|line| !line.starts_with("  - "));
        for line in own.filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
            let depth = line.len() - line.trim_start().len();
            match line.trim().split_once(':') {
                Some((key, value)) if depth <= 10 && !key.contains(' ') && !key.contains('"') => {
                    last = key.to_owned();
                    keys.insert(last.clone(), value.trim().trim_matches('"').to_owned());
                }
                _ => *keys.entry(last.clone()).or_default() += &format!("\n{line}"),
            }
        }
        Alert { name, keys }
    };
    text.split("- alert: ").skip(1).map(read).collect()
}

/// A balancer with a stick table, breakers, a certificate and checks, after some calls.
fn scrape() -> Scrape {
    let net = Net(84);
    let (pki, looked_at, addresses) = (Pki::new(), net.free(3), net.servers());
    let folder = pki.path("certs");
    fs::create_dir(&folder).unwrap();
    pki.put(&folder.join("sips.pem"), &pki.pem("sips", "DNS:sip.example.ng"));
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let servers = answer(&named, Timers::default());
    let frontend = format!("[frontend.tls]\ncertificates = {folder:?}\n{}", admin(looked_at));
    let backend =
        "check = { interval = \"200ms\" }\nbreaker = {}\nstick = { on = \"from-user\", size = 1000, expire = \"1h\" }";
    let edge = support::regions::Edge { outside: &["udp", "tls"], frontend: &frontend, backend, ..Default::default() };
    let (balancer, at) = net.balance_as(&addresses, &edge);
    let socket = balancer.folder.path().join("admin.sock");
    let role = ["role", "INSTANCE", "VI_1", "MASTER", "110", "--socket"];
    assert!(output(Command::new(program()).args(role).arg(socket)).status.success());
    let calls = Generator::start(net.callers(at, 10 * ROUND, 200.0)).unwrap().finish().unwrap();
    assert!(calls.succeeded(), "{calls}");
    let mut scrape = Scrape::default();
    wait_for("a response in the scrape", || {
        scrape = Scrape::read(get(looked_at, "/metrics"));
        ["trunkline_responses_total", "trunkline_role"].iter().all(|name| scrape.families.contains_key(*name))
    });
    stop(servers);
    balancer.stop();
    scrape
}

#[test]
fn all_that_is_asked_for_is_in_a_scrape() {
    let scrape = scrape();
    let mut faults = Vec::new();
    for (file, dashboard) in dashboards() {
        let expressions = all(&dashboard, "expr");
        assert!(expressions.len() > 15, "{file}: its expressions were found");
        let asked = expressions.iter().flat_map(|expression| selectors(expression)).chain(variables(&dashboard));
        faults.extend(asked.filter_map(|selector| Some(format!("{file}: {}", scrape.misses(&selector)?))));
        let kinds = &scrape.families["trunkline_response_time_seconds_bucket"]["kind"];
        let custom = dashboard["templating"]["list"].as_array().unwrap().iter().find(|v| v["name"] == "kind");
        let offered = custom.map_or_else(Vec::new, |kind| all(&kind["options"], "value"));
        faults.extend(
            offered.iter().filter(|kind| !kinds.contains(**kind)).map(|kind| format!("{file}: no kind {kind}")),
        );
    }
    let alerts = alerts();
    assert!(alerts.len() > 15, "the alerts were found");
    for alert in &alerts {
        let asked = selectors(&alert.keys["expr"]);
        assert!(!asked.is_empty(), "{}", alert.name);
        faults.extend(asked.iter().filter_map(|asked| Some(format!("{}: {}", alert.name, scrape.misses(asked)?))));
    }
    faults.extend(dashboard_12693().iter().filter_map(|asked| scrape.misses(asked)));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // The name of this one is asked for as it is.
    let remark = "inter_region_latency_ms metric names should not contain abbreviated units\n";
    assert_eq!(promtool(&["check", "metrics"], &scrape.text), (Some(3), remark.to_owned()));
}

#[test]
fn promtool_finds_nothing_wrong_with_rules_and_expressions() {
    for arguments in [["check", "rules", RULES], ["test", "rules", RULES_TEST]] {
        let (code, said) = promtool(&arguments, "");
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, said) = promtool(&["check", "config", "--syntax-only", "packaging/prometheus/prometheus.yml"], "");
    assert_eq!(code, Some(0), "{said}");
    // Expressions of dashboards as rules, which promtool reads: JSON is YAML.
    let mut rules = Vec::new();
    for (file, dashboard) in dashboards() {
        for expression in all(&dashboard, "expr") {
            let plain = expression.replace("$__rate_interval", "5m").replace("$__range", "1h");
            rules.push(
                json!({ "record": format!("{}:n{}", file.replace(['-', '.'], "_"), rules.len()), "expr": plain }),
            );
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    fs::write(&file, json!({ "groups": [{ "name": "dashboards", "rules": rules }] }).to_string()).unwrap();
    let (code, said) = promtool(&["check", "rules", file.to_str().unwrap()], "");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn alerts_that_are_of_a_pair_are_counted_too() {
    let (_, regions) = dashboards().into_iter().find(|(file, _)| file == "trunkline-regions.json").unwrap();
    let panel = regions["panels"].as_array().unwrap().iter().find(|panel| panel["title"] == "Alerts").unwrap();
    let [asked] = all(panel, "expr").try_into().unwrap();
    let master = |node: &str| {
        let labels = format!("job=\"trunkline\", pair=\"lagos\", instance=\"{node}\", vrrp=\"VI_1\", role=\"master\"");
        json!({ "series": format!("trunkline_role{{{labels}}}"), "values": "1x40" })
    };
    let down = |job: &str, node: &str| json!({ "series": format!("up{{job=\"{job}\", instance=\"{node}\"}}"), "values": "0x40" });
    // Two masters, which no instance is said to be; one of the nodes is silent, and so are one that was not chosen and another job's.
    let series = [master("l1"), master("l2"), down("trunkline", "l1"), down("trunkline", "other"), down("web", "l1")];
    let expression = asked.replace("$instance", "(l1|l2)");
    let wanted = json!({ "expr": expression, "eval_time": "5m", "exp_samples": [{ "labels": "{}", "value": 2 }] });
    let test = json!({
        "rule_files": [root().join(RULES)], "evaluation_interval": "15s",
        "tests": [{ "interval": "15s", "input_series": series, "promql_expr_test": [wanted] }],
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.yml");
    fs::write(&file, test.to_string()).unwrap();
    let (code, said) = promtool(&["test", "rules", file.to_str().unwrap()], "");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn each_alert_is_tested_explained_and_leads_somewhere() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (tests, page) = (read(RULES_TEST), read("docs/monitoring.md"));
    for Alert { name, keys } in alerts() {
        for key in ["expr", "for", "severity", "summary", "description", "runbook"] {
            assert!(keys.get(key).is_some_and(|value| !value.is_empty()), "{name} has no {key}");
        }
        assert!(["critical", "warning"].contains(&&*keys["severity"]), "{name}");
        assert!(tests.contains(&name), "{name} is not tested");
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not in docs/monitoring.md");
        let (file, anchor) = keys["runbook"].split_once('#').unwrap_or_else(|| panic!("{name}: {}", keys["runbook"]));
        assert!(Path::new(file).starts_with("docs"), "{name}: {file}");
        let text = read(file);
        let mut headings = text.lines().filter(|line| line.starts_with('#')).map(slug);
        assert!(headings.any(|slug| slug == anchor), "{name}: {file} has no heading {anchor}");
    }
}

/// A heading as links call it.
fn slug(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn dashboards_stay_the_same_wherever_they_are_put() {
    let mut known = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        let uid = dashboard["uid"].as_str().unwrap();
        assert_eq!(file, format!("{uid}.json"));
        assert_eq!(dashboard["schemaVersion"], 38, "{file}: Grafana 10");
        let uids: BTreeSet<_> = all(&dashboard, "uid").into_iter().collect();
        assert_eq!(uids, BTreeSet::from([uid, "${datasource}"]), "{file}: the source is chosen, never written");
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{file}: each panel has a number of its own");
        let variables: Vec<_> =
            dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
        for name in ["datasource", "instance", "proxy", "region"] {
            assert!(variables.iter().any(|variable| *variable == name), "{file}: no variable {name}");
        }
        for expression in all(&dashboard, "expr") {
            let used =
                expression.split('$').skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap());
            let mut used = used.filter(|name| !name.is_empty());
            assert!(used.all(|name| variables.iter().any(|known| *known == name)), "{file}: {expression}");
        }
        known.insert(uid.to_owned());
    }
    assert_eq!(known.len(), 3);
}

#[test]
fn names_and_labels_are_found_in_expressions() {
    let found = |text: &str| {
        let said = selectors(text).into_iter().map(|Selector { name, labels }| {
            let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
            format!("{name}{{{}}}", labels.join(","))
        });
        said.collect::<Vec<_>>().join(" ")
    };
    for (expression, expected) in [
        ("up", "up{}"),
        ("sum by (le, region) (rate(a_bucket{kind=\"x\", b!~\"c|d\"}[5m])) > 0.5", "a_bucket{kind=x,b=c|d}"),
        ("max without (state) (2 * a{x=\"}\"} or b) == bool 1e3", "a{x=}} b{}"),
        ("histogram_quantile(0.9, a) / on (x) group_left () b[$__range:] unless ignoring (y) c:d:e", "a{} b{} c:d:e{}"),
        ("a > 0 unless on (x) label_join(b{c=\"d\"}, \"x\", \"/\", \"y\")", "a{} b{c=d}"),
        ("a{file=\"x\\\"y\",z=\"\"} NaN", "a{file=x\\\"y,z=}"),
    ] {
        assert_eq!(found(expression), expected, "{expression}");
    }
}

/// What dashboard 12693 of grafana.com, "HAProxy", asks HAProxy's own exporter for.
fn dashboard_12693() -> Vec<Selector> {
    let of = |(scope, names): &(&str, &str)| {
        let labels: &[&str] = match *scope {
            "process" => &[],
            "server" => &["proxy", "server"],
            "sticktable" => &["name"],
            _ => &["proxy"],
        };
        let selector = |name: &str| {
            let more = match name {
                "status" => Some("state"),
                "http_responses_total" => Some("code"),
                _ => None,
            };
            let labels = labels.iter().copied().chain(more).map(|label| (label.to_owned(), "$any".to_owned()));
            Selector { name: format!("haproxy_{scope}_{name}"), labels: labels.collect() }
        };
        names.split_whitespace().map(selector).collect::<Vec<_>>()
    };
    let asked: Vec<_> = DASHBOARD_12693.iter().flat_map(of).collect();
    assert_eq!(asked.len(), 143);
    asked
}

const DASHBOARD_12693: [(&str, &str); 5] = [
    (
        "process",
        "active_peers connected_peers current_backend_ssl_key_rate current_connections current_frontend_ssl_key_rate
         current_run_queue current_ssl_connections current_tasks current_zlib_memory dropped_logs_total
         failed_resolutions frontend_ssl_reuse hard_max_connections idle_time_percent jobs limit_connection_rate
         limit_session_rate limit_ssl_rate listeners max_connection_rate max_memory_bytes max_pipes max_session_rate
         max_ssl_connections max_ssl_rate max_zlib_memory nbproc nbthread pipes_free_total pipes_used_total
         pool_allocated_bytes pool_failures_total pool_used_bytes recv_logs_total ssl_cache_lookups_total
         ssl_cache_misses_total ssl_connections_total start_time_seconds stopping unstoppable_jobs uptime_seconds",
    ),
    (
        "frontend",
        "bytes_in_total bytes_out_total connections_total current_sessions denied_connections_total
         denied_sessions_total failed_header_rewriting_total http_cache_hits_total http_cache_lookups_total
         http_comp_bytes_bypassed_total http_comp_bytes_in_total http_comp_bytes_out_total http_comp_responses_total
         http_requests_total http_responses_total intercepted_requests_total internal_errors_total limit_sessions
         max_sessions request_errors_total requests_denied_total responses_denied_total sessions_total status",
    ),
    (
        "backend",
        "active_servers backup_servers bytes_in_total bytes_out_total check_up_down_total client_aborts_total
         connect_time_average_seconds connection_attempts_total connection_errors_total connection_reuses_total
         current_queue current_sessions downtime_seconds_total failed_header_rewriting_total http_cache_hits_total
         http_cache_lookups_total http_comp_bytes_bypassed_total http_comp_bytes_in_total http_comp_bytes_out_total
         http_comp_responses_total http_requests_total http_responses_total internal_errors_total last_session_seconds
         limit_sessions loadbalanced_total max_sessions queue_time_average_seconds redispatch_warnings_total
         requests_denied_total response_errors_total response_time_average_seconds responses_denied_total
         retry_warnings_total server_aborts_total sessions_total status total_time_average_seconds uweight weight",
    ),
    (
        "server",
        "bytes_in_total bytes_out_total check_duration_seconds check_failures_total check_last_change_seconds
         check_up_down_total client_aborts_total connect_time_average_seconds connection_attempts_total
         connection_errors_total connection_reuses_total current_queue downtime_seconds_total
         failed_header_rewriting_total http_responses_total idle_connections_current internal_errors_total
         last_session_seconds loadbalanced_total max_sessions need_connections_current queue_time_average_seconds
         redispatch_warnings_total response_errors_total response_time_average_seconds responses_denied_total
         retry_warnings_total safe_idle_connections_current server_aborts_total sessions_total status
         total_time_average_seconds unsafe_idle_connections_current used_connections_current uweight weight",
    ),
    ("sticktable", "size used"),
];
