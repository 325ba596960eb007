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
    assert_eq!(by_hand.len(), 1, "{by_hand:?}");
    assert!(by_hand[0].1.contains("cookie s2"), "{by_hand:?}");
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
