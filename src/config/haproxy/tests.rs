use super::*;
use crate::config::Config;

const EDGE: &str = r#"
global
    daemon
    maxconn 20000
    nbthread 4
    stats socket /run/haproxy/admin.sock mode 660 level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client  120000
    timeout server  5m
    option tcplog
frontend sip
    bind 203.0.113.10:5060
    maxconn 20000
    tcp-request connection reject if { src 192.0.2.0/24 }
    default_backend pbx
backend pbx
    balance source
    stick-table type ip size 100k expire 60m
    stick on src
    option tcp-check
    tcp-check send OPTIONS\ sip:ping@pbx\ SIP/2.0\r\n
    tcp-check expect string SIP/2.0\ 200
    default-server inter 10s fastinter 1s rise 2 fall 5
    server pbx-1 10.0.10.11:5060 check weight 100 maxconn 500 slowstart 30s
    server pbx-2 10.0.10.12:5060 check backup
listen engine
    bind 10.0.1.10:8080
    balance roundrobin
    option redispatch
    option httpchk GET /status
    http-check expect string ready
    server engine-1 10.0.10.41:8080 check inter 2s
    server spare 10.1.10.41:8080 check backup cookie s2
"#;

#[test]
fn a_file_becomes_one_that_is_accepted_and_every_line_is_told() {
    let Imported { text, lines } = import(EDGE);
    let config = Config::parse(&text).map_err(|faults| faults.render("imported", &text).to_string());
    let config = config.unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    assert_eq!(config.workers, 4);
    let [sip, engine] = &config.frontends[..] else { panic!("{text}") };
    assert!(sip.is_proxy() && engine.relays_streams(), "{text}");
    assert_eq!((sip.connections.most, sip.connections.idle.as_secs()), (20_000, 120));
    assert_eq!(sip.limits.deny, ["192.0.2.0/24".parse::<ipnet::IpNet>().unwrap()]);
    let [pbx, pool] = &config.backends[..] else { panic!("{text}") };
    assert_eq!(pbx.stick.as_ref().map(|stick| (stick.size, stick.expire.as_secs())), Some((102_400, 3_600)));
    assert_eq!((pbx.servers[0].max_calls, pbx.servers[1].backup, pbx.timeout.server.as_secs()), (500, true, 300));
    let check = pbx.check.as_ref().unwrap();
    assert_eq!((check.interval.as_secs(), check.rise, check.fall), (10, 2, 5));
    assert!(
        matches!(&pool.check.as_ref().unwrap().kind, crate::config::CheckKind::Http(http) if http.path == "/status")
    );

    let said = EDGE.lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(lines.len(), said, "each line once");
    let by_hand: Vec<_> = lines
        .iter()
        .filter_map(|told| if let Fate::ByHand(what) = &told.fate { Some((told.number, what.as_str())) } else { None })
        .collect();
    assert_eq!(by_hand.len(), 2, "{by_hand:?}");
    assert!(by_hand[0].1.contains("max_calls") && by_hand[1].1.contains("cookie s2"), "{by_hand:?}");
}

#[test]
fn a_rule_that_says_more_than_we_can_is_left_to_somebody() {
    for (rule, translated) in [
        ("tcp-request connection reject if { src_conn_rate gt 20 }", true),
        ("tcp-request connection reject if { src_conn_cur ge 20 }", true),
        ("tcp-request connection reject if { src 192.0.2.0/24 }", true),
        ("tcp-request connection reject if !carriers { src_conn_rate gt 20 }", false),
        ("tcp-request connection reject if { src_conn_rate gt 20 } !{ src 192.0.2.1 }", false),
        ("tcp-request connection reject if { src 192.0.2.0/24 } !{ src 192.0.2.1 }", false),
    ] {
        let table = "stick-table type ip size 1k expire 10s store conn_rate(10s),conn_cur";
        let text = format!("listen l\n bind 10.0.0.1:80\n {table}\n {rule}\n server s 10.0.0.2:80\n");
        let Imported { lines, text } = import(&text);
        assert_eq!(lines[3].fate == Fate::Translated, translated, "{rule}: {text}");
    }
    // A table elsewhere may count over another time.
    let text = "listen l\n bind 10.0.0.1:80\n tcp-request connection reject if { sc0_conn_rate gt 20 }\n";
    assert!(matches!(import(text).lines[2].fate, Fate::ByHand(_)));
}

#[test]
fn a_table_larger_than_a_number_is_left_to_somebody() {
    for (size, translated) in [("16g", true), ("99999999999g", false), ("many", false)] {
        let table = format!("stick-table type ip size {size} expire 10s");
        let Imported { lines, .. } = import(&format!("listen l\n bind 10.0.0.1:80\n {table}\n server s 10.0.0.2:80\n"));
        assert_eq!(lines[2].fate == Fate::Translated, translated, "{size}");
    }
}

#[test]
fn what_servers_or_binds_say_alone_is_left_to_somebody() {
    let first = "server a 10.0.0.1:80 check inter 2s";
    for (line, translated) in [
        ("server b 10.0.0.2:80 check backup", true),
        ("server b 10.0.0.2:80", false),
        ("server b 10.0.0.2:80 check inter 5s", false),
        ("server b 10.0.0.2:80 check send-proxy", false),
        ("server b 10.0.0.2:80 check minconn 5", false),
        ("bind 10.0.0.9:444 ssl crt /certs", false),
        ("bind 10.0.0.9:81 interface lo", false),
        ("bind :::81", true),
        ("stick on src table other", false),
        ("stats admin if { src 10.0.0.0/8 }", false),
        ("stats uri /haproxy", false),
    ] {
        let Imported { lines, text } = import(&format!("listen l\n bind 10.0.0.9:80\n {first}\n {line}\n"));
        assert_eq!(lines[3].fate == Fate::Translated, translated, "{line}: {text}");
    }
    let pass = "listen l\n bind 10.0.0.9:443\n timeout client 5s\n timeout tunnel 1h\n option httpchk GET /\n";
    let Imported { lines, text } = import(&format!("{pass} server a 10.0.0.1:443 check check-ssl verify none\n"));
    assert!(matches!(lines[5].fate, Fate::ByHand(_)), "behind tcp:// nobody asks over TLS");
    assert!(
        text.contains("type = \"tcp\"") && text.contains("client = \"1h\"") && text.contains("\"roundrobin\""),
        "{text}"
    );
}

/// What a file is translated to, and of which lines something is left to somebody.
fn both(text: &str) -> (String, Vec<String>) {
    let Imported { text, lines } = import(text);
    let left =
        |told: Told| if let Fate::ByHand(what) = told.fate { Some(format!("{}: {what}", told.number)) } else { None };
    (text, lines.into_iter().filter_map(left).collect())
}

#[test]
fn times_are_those_that_count_there() {
    let times = "timeout connect 1s\n timeout client 30s\n timeout server 30s\n";
    let sip = format!(
        "defaults\n {times}frontend f\n bind :5060\n default_backend b\nbackend b\n timeout tunnel 1h\n server a 10.0.0.1:5060\n"
    );
    let (text, left) = both(&sip);
    assert!(
        text.contains("idle = \"1h\"") && text.contains("timeout = { connect = \"1s\", server = \"1h\" }"),
        "{text}"
    );
    assert_eq!(left, [""; 0]);
    let one_name = sip.replace("frontend f", "frontend b");
    assert!(both(&one_name).0.contains("idle = \"1h\""), "a frontend and a backend may have one name there");
    let relay = "frontend f\n bind :443\n timeout client 30s\n default_backend b\nbackend b\n timeout server 40s\n server a 10.0.0.1:443\n";
    assert!(both(relay).0.contains("timeout = { server = \"40s\", client = \"30s\" }"), "{}", both(relay).0);
}

#[test]
fn defaults_count_for_who_names_them() {
    let two = "defaults slow\n timeout server 1h\ndefaults fast from slow\n timeout client 5s\ndefaults\n timeout server 5s\n";
    let proxies = |from: &str| format!("{two}listen l {from}\n bind :80\n server a 10.0.0.1:80\n");
    for (from, expected) in [
        ("from slow", "timeout = { server = \"1h\" }"),
        ("from fast", "timeout = { server = \"1h\", client = \"5s\" }"),
        ("", "timeout = { server = \"5s\" }"),
    ] {
        let (text, left) = both(&proxies(from));
        assert!(text.contains(expected) && left.is_empty(), "{from}: {left:?} {text}");
    }
    assert!(both(&proxies("from other")).1[0].starts_with("7: no `defaults`"), "{:?}", both(&proxies("from other")));
}

#[test]
fn servers_have_the_weights_that_they_have_there() {
    let weights = |text: &str| -> Vec<u32> {
        let (text, _) = both(&format!("listen l\n bind :80\n{text}"));
        let config = Config::parse(&text).unwrap_or_else(|faults| panic!("{}", faults.render("imported", &text)));
        config.backends[0].servers.iter().map(|server| server.weight).collect()
    };
    assert_eq!(weights("server a 10.0.0.1:80 weight 2\nserver b 10.0.0.2:80\n"), [2, 1], "1 is the default there");
    assert_eq!(weights("server a 10.0.0.1:80\nserver b 10.0.0.2:80 disabled\n"), [100, 0]);
    let (text, _) = both("listen l\n bind :80\n server a 10.0.0.1:80\n server b 10.0.0.2:80 weight 50 disabled\n");
    assert!(text.contains("# disabled; 50 in haproxy.cfg"), "{text}");
    assert_eq!(weights("default-server disabled\nserver a 10.0.0.1:80\nserver b 10.0.0.2:80 enabled\n"), [0, 100]);
}

#[test]
fn nothing_of_a_line_is_passed_over() {
    for (line, left) in [
        ("server b 10.0.0.2:5060 inter 5s disabled port 99", &["first server's count", "weight = 0", "port 99"][..]),
        ("server b 10.0.0.2:5060 check send-proxy-v2 inter 2s", &["first server's count", "source_header"]),
        ("default-server send-proxy", &["source_header"]),
        ("tcp-check connect port 5080", &["port 5080"]),
        ("http-check connect ssl", &["ssl"]),
        ("bind :5061 ssl crt a.pem crt b.pem accept-proxy tfo", &["not like the first"]),
    ] {
        let (text, told) = both(&format!("listen l\n bind :5060\n server a 10.0.0.1:5060 check inter 2s\n {line}\n"));
        let line_4 =
            told.iter().find(|told| told.starts_with("4: ")).unwrap_or_else(|| panic!("{line}: {told:?}\n{text}"));
        assert!(left.iter().all(|part| line_4.contains(part)), "{line}: {line_4}");
    }
    let of_defaults = "defaults\n default-server send-proxy\nlisten l\n bind :5060\n server a 10.0.0.1:5060\n";
    assert!(both(of_defaults).1[0].contains("source_header"), "{:?}", both(of_defaults));
    let (text, left) = both("listen l\n bind :443 ssl crt a.pem crt b.pem accept-proxy tfo\n server a 10.0.0.1:80\n");
    assert!(["crt b.pem", "accept_proxy", "tfo"].iter().all(|part| left[0].contains(part)), "{left:?}\n{text}");
    let (text, left) = both(
        "listen l\n bind :80\n default-server check\n server a 10.0.0.1:80 no-check\n stick-table type ip size 1M\n stick on src\n",
    );
    assert!(text.contains("type = \"none\"") && text.contains("size = 1048576"), "{text}");
    assert_eq!(left, [""; 0]);
}

#[test]
fn checks_ask_what_the_last_option_says() {
    let defaults = "defaults\n option httpchk GET /health\n http-check expect status 200\n";
    for (lines, expected) in [
        ("", "type = \"http\", method = \"GET\", path = \"/health\", expect = [\"200\"]"),
        ("option tcp-check", "type = \"tcp\""),
        ("option httpchk GET /own", "type = \"http\", method = \"GET\", path = \"/own\", interval"),
        // As HAProxy 2.6 does: lines of its own are in the place of all that `defaults` say, in whatever order they stand.
        ("http-check send hdr host a", "type = \"http\", method = \"OPTIONS\", path = \"/\", host = \"a\", interval"),
        ("http-check expect status 204\n option httpchk HEAD /own", "path = \"/own\", expect = [\"204\"]"),
        (
            "tcp-check expect string SIP/2.0\n option tcp-check\n option httpchk\n option tcp-check",
            "type = \"options\"",
        ),
        ("tcp-check expect string SIP/2.0\n option tcp-check\n option httpchk GET /last", "path = \"/last\""),
    ] {
        let (text, left) = both(&format!("{defaults}listen l\n bind :80\n {lines}\n server a 10.0.0.1:80 check\n"));
        assert!(text.contains(expected) && left.is_empty(), "{lines}: {left:?}\n{text}");
    }
    let (text, left) =
        both(&format!("{defaults}listen l\n bind :80\n option mysql-check\n server a 10.0.0.1:80 check\n"));
    assert!(text.contains("type = \"tcp\"") && left[0].contains("mysql-check"), "{left:?}\n{text}");
}

#[test]
fn another_balance_does_not_stick() {
    let defaults = "defaults\n balance source\n";
    for (lines, sticks) in [
        ("", true),
        ("balance leastconn", false),
        ("balance uri", false),
        ("balance leastconn\n stick-table type ip size 1k\n stick on src", true),
    ] {
        let (text, _) = both(&format!("{defaults}listen l\n bind :5060\n {lines}\n server a 10.0.0.1:5060\n"));
        assert_eq!(text.contains("stick = { on = \"source\""), sticks, "{lines}: {text}");
        assert_eq!(text.contains("balance = \"hash\""), lines.is_empty(), "{lines}: {text}");
    }
}

#[test]
fn what_a_stats_page_has_not_here_is_left_to_somebody() {
    let page = |lines: &str| both(&format!("listen stats\n {lines}\n stats enable\n stats uri /stats\n"));
    let (text, left) = page("bind :8404");
    assert!(text.contains("stats = \"0.0.0.0:8404\"") && left.is_empty(), "{left:?}\n{text}");
    // Passwords that went over TLS there go over no network here.
    let (text, left) = page("bind :8404 ssl crt /certs");
    assert!(
        text.contains("stats = \"127.0.0.1:8404\"") && left[0].starts_with("2: ") && left[0].contains("TLS"),
        "{left:?}\n{text}"
    );
    for (lines, at) in [
        ("bind :8404\n bind :8405", "3: "),
        ("bind :8404,:8405", "2: "),
        ("bind :8404\n tcp-request connection reject if { src 192.0.2.0/24 }", "3: "),
        ("bind :8404\n maxconn 10", "3: "),
    ] {
        let (text, left) = page(lines);
        assert!(
            text.contains("stats = \"0.0.0.0:8404\"") && left.len() == 1 && left[0].starts_with(at),
            "{left:?}\n{text}"
        );
    }
    let two = "listen one\n bind :8404\n stats enable\nlisten two\n bind :8405\n stats enable\n stats admin if TRUE\n";
    let (text, left) = both(two);
    assert!(text.contains("0.0.0.0:8404") && left.len() == 1 && left[0].starts_with("4: "), "{left:?}\n{text}");
    let led = "frontend f\n bind :80\n use_backend page if { src 10.0.0.0/8 }\n use_backend none if { src 10.0.0.0/8 }\n \
               default_backend b\nbackend page\n stats enable\nbackend b\n server a 10.0.0.1:80\n";
    let (text, left) = both(led);
    assert!(!text.contains("[[frontend.route]]") && left.len() == 2, "{left:?}\n{text}");
    assert!(left[0].starts_with("3: ") && left[1].starts_with("4: "), "{left:?}");
}

/// A page beside what clients ask for is at no address of theirs.
#[test]
fn the_page_is_where_nothing_else_is() {
    let beside = "frontend web\n bind :80\n stats enable\n default_backend b\nbackend b\n server a 10.0.0.1:80\n";
    let (text, left) = both(beside);
    assert!(!text.contains("stats = ") && left.len() == 1 && left[0].starts_with("1: "), "{left:?}\n{text}");
    let (text, left) = both(&format!("{beside}listen stats\n bind :8404\n stats enable\n"));
    assert!(text.contains("stats = \"0.0.0.0:8404\"") && left.len() == 1, "{left:?}\n{text}");
}

#[test]
fn no_word_is_passed_over() {
    for (line, written, left) in [
        (r"option httpchk GET /x HTTP/1.1\r\nHost:\ api", "path = \"/x\", host = \"api\"", &[][..]),
        (r"option httpchk GET /x HTTP/1.1\r\nHost:\ api\r\nX-Key:\ k", "host = \"api\"", &["X-Key: k"]),
        (
            "http-check send meth GET uri /x ver HTTP/1.1 hdr User-Agent a hdr Host b hdr Authorization c body d",
            "path = \"/x\", host = \"b\"",
            &["hdr User-Agent", "hdr Authorization", "body"],
        ),
        ("http-check expect status 200\n http-check expect status 204", "expect = [\"200\"]", &["one `expect`"]),
        ("server b 10.0.0.2:80 check ssl sni req.hdr(host)", "", &["sni req.hdr(host)"]),
        ("server b 10.0.0.2:80 check inter 10s fall 10", "interval = \"2s\"", &["first server's count"]),
        ("server b 10.0.0.2:80 check inter 2000 fastinter 2s rise 2 fall 3", "interval = \"2s\"", &[]),
        ("server b 10.0.0.2:80 check observe layer4 error-limit 5", "", &["first server's count"]),
        ("server b 10.0.0.2:80 check backup\n server c 10.0.0.3:80 check backup", "", &["allbackups"]),
        ("option allbackups\n server b 10.0.0.2:80 check backup\n server c 10.0.0.3:80 check backup", "", &[]),
    ] {
        let option = if line.contains("http-check") { "option httpchk" } else { "option tcp-check" };
        let (text, told) = both(&format!("listen l\n bind :80\n {option}\n server a 10.0.0.1:80 check\n {line}\n"));
        assert!(text.contains(written), "{line}: {text}");
        assert_eq!(told.len(), usize::from(!left.is_empty()), "{line}: {told:?}");
        assert!(left.iter().all(|part| told[0].contains(part)), "{line}: {told:?}");
        assert!(!told.iter().any(|told| told.contains("hdr Host")), "{line}: {told:?}");
    }
}

#[test]
fn clients_are_asked_for_certificates_where_they_are_there() {
    let none = ["client_auth", "client_ca"];
    for (words, written, left) in [
        ("ca-file /ca verify required", "client_auth = \"required\"\nclient_ca = \"/ca\"", None),
        ("ca-file /ca verify optional", "client_auth = \"optional\"\nclient_ca = \"/ca\"", None),
        // HAProxy asks nobody then: phones have certificates of their makers.
        ("ca-file /ca", "", Some("ca-file")),
        ("ca-file /ca verify none", "", Some("ca-file")),
        ("verify required", "", Some("verify required")),
        ("verify none", "", None),
        ("ssl-min-ver TLSv1.3", "min_version = \"1.3\"", None),
        ("ssl-min-ver TLSv1.2", "", None),
        ("ssl-min-ver TLSv1.1", "", Some("older than TLS 1.2")),
    ] {
        let (text, told) = both(&format!("listen l\n bind :5061 ssl crt /certs {words}\n server a 10.0.0.1:80\n"));
        assert!(text.contains(written), "{words}: {text}");
        assert!(!written.is_empty() || none.iter().all(|key| !text.contains(key)), "{words}: {text}");
        assert_eq!(told.len(), usize::from(left.is_some()), "{words}: {told:?}");
        assert!(left.is_none_or(|part| told[0].contains(part)), "{words}: {told:?}");
    }
}

#[test]
fn a_rate_is_counted_by_its_own_table() {
    for (rule, translated) in [
        ("tcp-request connection reject if { src_conn_rate(l) gt 20 }", true),
        ("tcp-request connection reject if { sc_conn_rate(0) gt 20 }", true),
        ("tcp-request connection reject if { src_conn_rate(other) gt 20 }", false),
        ("tcp-request connection reject if { sc0_conn_rate(other) gt 20 }", false),
        ("tcp-request connection reject if { sc_conn_rate(0,other) gt 20 }", false),
        ("tcp-request connection reject if { src_conn_cur(other) gt 20 }", false),
        ("tcp-request connection track-sc0 src\n tcp-request connection reject if { sc0_conn_rate gt 20 }", true),
        (
            "tcp-request connection track-sc0 src table other\n tcp-request connection reject if { sc0_conn_rate gt 20 }",
            false,
        ),
    ] {
        let table = "stick-table type ip size 1k expire 10s store conn_rate(10s),conn_cur";
        let (text, left) = both(&format!("listen l\n bind 10.0.0.1:80\n {table}\n {rule}\n server s 10.0.0.2:80\n"));
        assert_eq!(text.contains("per_source_rate"), translated && rule.contains("rate"), "{rule}: {text}");
        assert_eq!(left.is_empty(), translated, "{rule}: {left:?}");
    }
}

#[test]
fn a_limit_of_connections_is_none_of_calls() {
    let defaults = "defaults\n default-server maxconn 100\n";
    let listen =
        |port: u16, words: &str| both(&format!("{defaults}listen l\n bind :{port}\n server a 10.0.0.1:80 {words}\n"));
    let (text, left) = listen(5060, "maxconn 500");
    assert!(text.contains("max_calls = 500") && left.len() == 2, "{left:?}\n{text}");
    assert!(left.iter().all(|told| told.contains("max_calls") && told.contains("503")), "{left:?}");
    assert_eq!(listen(80, "maxconn 500").1, [""; 0]);
    assert!(
        both("listen l\n bind :5060\n maxconn 9\n server a 10.0.0.1:80\n").1.is_empty(),
        "the frontend's are connections here too"
    );
}

#[test]
fn a_source_has_as_many_connections_as_there() {
    let most = |limit: &str| both(&format!("listen l\n bind :80\n {limit}\n server a 10.0.0.1:80\n")).0;
    assert!(most("maxconn 5000").contains("max_connections_per_source = 5000"));
    assert!(most("").contains("max_connections_per_source = 100000"));
    let rule = "maxconn 5000\n tcp-request connection reject if { src_conn_cur gt 20 }";
    assert!(most(rule).contains("max_connections_per_source = 20\n"));
}

#[test]
fn whatever_is_read_nothing_panics_and_no_line_is_lost() {
    for text in [
        "",
        "bind :80",
        "frontend",
        "backend b\n server",
        "listen l\n bind :1-70000\n bind x\n stick-table",
        "stats auth x",
    ] {
        let Imported { lines, .. } = import(text);
        assert_eq!(lines.len(), text.lines().filter(|line| !line.is_empty()).count(), "{text}");
    }
}
