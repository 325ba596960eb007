//! Keys and words that are another program's, or another section's: what to write here instead. They are most of HAProxy's
//! that an operator brings along; what is no key of ours is refused with or without a line here.

/// Keys, by the section that they were written in; dashes count as underscores.
const KEYS: &[(&str, &[&str], &str)] = &[
    ("the file", &["defaults"], "there are no defaults: each [[frontend]] and [[backend]] says what it wants"),
    ("the file", &["listen"], "write [[frontend]] and [[backend]]"),
    ("the file", &["frontends"], "write [[frontend]]"),
    ("the file", &["backends"], "write [[backend]]"),
    ("the file", &["server", "servers"], "write [[backend.server]], behind its [[backend]]"),
    ("the file", &["region", "regions"], "write [[backend.region]], behind its [[backend]]"),
    ("the file", &["check"], "write [backend.check], behind its [[backend]]"),
    ("the file", &["pin"], "write [backend.pin], behind its [[backend]]"),
    ("the file", &["stick"], "write [backend.stick], behind its [[backend]]"),
    ("the file", &["suspect"], "write [backend.suspect], behind its [[backend]]"),
    ("the file", &["breaker"], "write [backend.breaker], behind its [[backend]]"),
    ("the file", &["limits"], "write [frontend.limits], behind its [[frontend]]"),
    ("the file", &["route", "routes"], "write [[frontend.route]], behind its [[frontend]]"),
    ("the file", &["tls"], "write [frontend.tls] or [backend.tls], behind its [[frontend]] or [[backend]]"),
    ("[global]", &["nbthread", "nbproc"], "write `workers`"),
    ("[global]", &["maxconn"], "a frontend's limits are in [frontend.limits], a server's is its `max_calls`"),
    ("[global]", &["stats"], "write `runtime_socket`"),
    ("the file", &["stats", "http", "health", "metrics", "users", "userlist"], "write it in [admin]"),
    ("[admin]", &["bind", "listen", "uri", "address"], "write `stats = \"127.0.0.1:8404\"`; its path is /stats"),
    ("[admin]", &["refresh"], "the page is live without it"),
    ("[admin]", &["realm", "identity"], "write `compat = { identity = \"haproxy\" }`"),
    (
        "[admin]",
        &["auth", "user"],
        "write `users = [{ name = \"admin\", password_hash = \"$argon2id$...\", role = \"admin\" }]`",
    ),
    (
        "[[admin.users]]",
        &["password", "hash", "insecure_password"],
        "run `trunkline hash-password` and write what it prints as `password_hash`",
    ),
    ("[[frontend]]", &["default_backend"], "write `backend`"),
    ("[[frontend]]", &["use_backend", "acl"], "write [[frontend.route]] with a condition and its `backend`"),
    ("[[frontend]]", &["maxconn", "rate_limit"], "a frontend's limits are in [frontend.limits]"),
    ("[[frontend]]", &["timeout"], "what is silent for long ends by `idle`"),
    ("[[frontend]]", &["max_connections", "max_connections_per_source"], "write it in [frontend.limits]"),
    ("[global]", &["max_connections"], "write it in [frontend.limits], for each [[frontend]]"),
    ("[frontend.limits]", &["maxconn"], "write `max_connections`"),
    ("[frontend.tls]", &["crt", "cert", "certificate", "crt_list"], "write `certificates`, a folder or a file"),
    ("[frontend.tls]", &["key"], "the key is in the certificate's file, or beside it as NAME.key"),
    ("[frontend.tls]", &["ca_file", "ca"], "write `client_ca`: whom clients' certificates must be from"),
    ("[frontend.tls]", &["verify"], "write `client_auth = \"required\"` or \"optional\""),
    ("[frontend.tls]", &["ssl_min_ver"], "write `min_version = \"1.2\"` or \"1.3\""),
    (
        "[frontend.tls]",
        &["ciphers", "ciphersuites", "curves"],
        "they are not chosen: only those with forward secrecy are spoken",
    ),
    ("[frontend.tls]", &["alpn"], "it is not chosen: `sip` is spoken, whoever asks for it or for nothing"),
    ("[backend.tls]", &["ca_file"], "write `ca`"),
    ("[backend.tls]", &["crt", "cert"], "write `certificate`"),
    ("[backend.tls]", &["server_name", "sni", "verifyhost"], "write `tls_name` in [[backend.server]]"),
    ("[[backend.server]]", &["sni", "verifyhost", "server_name"], "write `tls_name`"),
    ("[[backend.server]]", &["ca_file", "crt", "tls"], "write it in [backend.tls], for the servers of a backend"),
    ("[[backend]]", &["idle", "timeout_server"], "write `timeout = { server = \"5m\" }`"),
    ("[[backend]]", &["timeout_connect"], "write `timeout = { connect = \"2s\" }`"),
    ("[[backend]]", &["stick_table"], "write `stick = { on = \"source\" }`, or what else keeps calls together"),
    ("[[backend]]", &["option", "default_server"], "checks are on and asked by OPTIONS; [backend.check] changes them"),
    ("[[backend]]", &["maxconn", "fullconn"], "the limit of a server is its `max_calls`"),
    ("[backend.check]", &["inter"], "write `interval`"),
    ("[backend.check]", &["fastinter", "downinter"], "write `fast_interval`"),
    ("[[backend.server]]", &["maxconn"], "write `max_calls`"),
    ("[[backend.server]]", &["check"], "checks are on; [backend.check] changes them for the servers of a backend"),
    ("[[backend.server]]", &["inter"], "write `interval` in [backend.check]"),
    ("[[backend.server]]", &["fastinter", "downinter"], "write `fast_interval` in [backend.check]"),
    ("[[backend.server]]", &["rise"], "write `rise` in [backend.check]"),
    ("[[backend.server]]", &["fall"], "write `fall` in [backend.check]"),
    ("[[backend.server]]", &["slowstart"], "write `slow_start`"),
    ("[[backend.server]]", &["disabled"], "write `weight = 0`; `trunkline maint` takes a server out while it runs"),
    ("[[backend.server]]", &["ssl", "verify"], "write `address = \"tls://...\"`; [backend.tls] says who it must be"),
];

/// Words of a key.
const WORDS: &[(&str, &str, &str)] = &[
    ("balance", "source", "write `stick = { on = \"source\" }`; `balance` is for the first call of each source"),
    ("balance", "uri", "write `stick = { on = \"to-user\" }`; `balance` is for the first call of each user"),
    ("balance", "hdr", "write `stick = { on = \"header:X-Key\" }`; `balance` is for the first call of each key"),
    ("balance", "static-rr", "write \"roundrobin\""),
    ("balance", "random", "write \"random2\""),
    ("mode", "sip", "write \"proxy\""),
    ("mode", "http", "write \"proxy\", which reads SIP, or \"relay\", which reads nothing"),
    ("mode", "tcp", "write \"proxy\", which reads SIP, or \"relay\", which reads nothing"),
    ("mode", "udp", "write \"proxy\", which reads SIP, or \"relay\", which reads nothing"),
];

/// What to write instead of a key that a section does not know.
pub fn of_key(title: &str, key: &str) -> Option<&'static str> {
    let key = key.replace('-', "_");
    KEYS.iter().find(|(section, keys, _)| *section == title && keys.contains(&key.as_str())).map(|(_, _, hint)| *hint)
}

/// What to write instead of a word that a key does not know.
pub fn of_word(key: &str, word: &str) -> Option<&'static str> {
    WORDS.iter().find(|(of, written, _)| *of == key && *written == word).map(|(_, _, hint)| *hint)
}
