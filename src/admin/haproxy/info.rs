//! `show info`: about the process, under HAProxy's numbers and names. Some of its clients go by the number.

use serde_json::json;

use super::dump::{Format, tags_in_words};
use crate::admin::picture::{Count, Picture};
use crate::config::admin::Identity;

/// When this version came out, as HAProxy writes it.
pub const RELEASED: &str = "2026/11/21";

/// HAProxy's version whose surface this is, and ours behind it: its tools want two numbers in front.
pub fn version(identity: Identity) -> String {
    match identity {
        Identity::Haproxy => format!("2.6.0-trunkline{}", env!("CARGO_PKG_VERSION")),
        Identity::Native => env!("CARGO_PKG_VERSION").to_owned(),
    }
}

impl Identity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "HAProxy",
            Self::Native => "Trunkline",
        }
    }
}

/// HAProxy's lines: number, name, tags and type. 45 and 46 are only there where it has zlib.
#[rustfmt::skip]
const LINES: &[(usize, &str, &str, &str)] = &[
    (0, "Name", "POS", "str"),
    (1, "Version", "POS", "str"),
    (2, "Release_date", "POS", "str"),
    (3, "Nbthread", "CGS", "u32"),
    (4, "Nbproc", "CGS", "u32"),
    (5, "Process_num", "KGP", "u32"),
    (6, "Pid", "SGP", "u32"),
    (7, "Uptime", "MDP", "str"),
    (8, "Uptime_sec", "MDP", "u32"),
    (9, "Memmax_MB", "CLP", "u32"),
    (10, "PoolAlloc_MB", "MGP", "u32"),
    (11, "PoolUsed_MB", "MGP", "u32"),
    (12, "PoolFailed", "MCP", "u32"),
    (13, "Ulimit-n", "CLP", "u32"),
    (14, "Maxsock", "CLP", "u32"),
    (15, "Maxconn", "CLP", "u32"),
    (16, "Hard_maxconn", "CLP", "u32"),
    (17, "CurrConns", "MGP", "u32"),
    (18, "CumConns", "MCP", "u32"),
    (19, "CumReq", "MCP", "u32"),
    (20, "MaxSslConns", "MMP", "u32"),
    (21, "CurrSslConns", "MGP", "u32"),
    (22, "CumSslConns", "MCP", "u32"),
    (23, "Maxpipes", "CLP", "u32"),
    (24, "PipesUsed", "MGP", "u32"),
    (25, "PipesFree", "MGP", "u32"),
    (26, "ConnRate", "MRP", "u32"),
    (27, "ConnRateLimit", "CLP", "u32"),
    (28, "MaxConnRate", "MMP", "u32"),
    (29, "SessRate", "MRP", "u32"),
    (30, "SessRateLimit", "CLP", "u32"),
    (31, "MaxSessRate", "MRP", "u32"),
    (32, "SslRate", "MRP", "u32"),
    (33, "SslRateLimit", "CLP", "u32"),
    (34, "MaxSslRate", "MMP", "u32"),
    (35, "SslFrontendKeyRate", "MGP", "u32"),
    (36, "SslFrontendMaxKeyRate", "MMP", "u32"),
    (37, "SslFrontendSessionReuse_pct", "MGP", "u32"),
    (38, "SslBackendKeyRate", "MRP", "u32"),
    (39, "SslBackendMaxKeyRate", "MMP", "u32"),
    (40, "SslCacheLookups", "MCP", "u32"),
    (41, "SslCacheMisses", "MCP", "u32"),
    (42, "CompressBpsIn", "MRP", "u32"),
    (43, "CompressBpsOut", "MRP", "u32"),
    (44, "CompressBpsRateLim", "CLP", "u32"),
    (47, "Tasks", "MGP", "u32"),
    (48, "Run_queue", "MGP", "u32"),
    (49, "Idle_pct", "MaP", "u32"),
    (50, "node", "COS", "str"),
    (51, "description", "COS", "str"),
    (52, "Stopping", "MGP", "u32"),
    (53, "Jobs", "MGP", "u32"),
    (54, "Unstoppable Jobs", "MGP", "u32"),
    (55, "Listeners", "MGP", "u32"),
    (56, "ActivePeers", "MGP", "u32"),
    (57, "ConnectedPeers", "MGP", "u32"),
    (58, "DroppedLogs", "MGP", "u32"),
    (59, "BusyPolling", "MGP", "u32"),
    (60, "FailedResolutions", "MGP", "u32"),
    (61, "TotalBytesOut", "MGP", "u64"),
    (62, "TotalSplicdedBytesOut", "MGP", "u64"),
    (63, "BytesOutRate", "MRP", "u64"),
    (64, "DebugCommandsIssued", "MGP", "u32"),
    (65, "CumRecvLogs", "MCP", "u32"),
    (66, "Build info", "POS", "str"),
    (67, "Memmax_bytes", "CLP", "u32"),
    (68, "PoolAlloc_bytes", "MGP", "u64"),
    (69, "PoolUsed_bytes", "MGP", "u64"),
    (70, "Start_time_sec", "MDP", "u32"),
    (71, "Tainted", "SGP", "str"),
];

/// `show info`.
pub fn info(picture: &Picture, identity: Identity, format: Format) -> String {
    let lines = LINES.iter().map(|line| (line, value(line.1, picture, identity)));
    match format {
        Format::Plain => lines.map(|((_, name, ..), value)| format!("{name}: {value}\n")).collect(),
        Format::Typed => lines
            .map(|((number, name, tags, kind), value)| format!("{number}.{name}.1:{tags}:{kind}:{value}\n"))
            .collect(),
        Format::Json => {
            let object = |((number, name, tags, kind), value): (&(usize, &str, &str, &str), String)| {
                let value = match *kind {
                    "str" => json!(value),
                    _ => json!(value.parse::<i64>().unwrap_or_default()),
                };
                json!({"field": {"pos": number, "name": name}, "processNum": 1, "tags": tags_in_words(tags),
                    "value": {"type": kind, "value": value}})
            };
            serde_json::Value::Array(lines.map(object).collect()).to_string() + "\n"
        }
    }
}

/// What a line says; what means nothing here is nothing, as where HAProxy has no pipes. Connections over TLS are not counted apart.
fn value(name: &str, picture: &Picture, identity: Identity) -> String {
    let node = &picture.node;
    let (open, most) = picture.open();
    let rates = &picture.rates;
    let number = match name {
        "Name" => return identity.name().to_owned(),
        "Version" => return version(identity),
        "Release_date" => return RELEASED.to_owned(),
        "Uptime" => return days(node.uptime.as_secs()),
        "node" => return node.name.clone(),
        "description" => return format!("trunkline {}", env!("CARGO_PKG_VERSION")),
        "Build info" => return format!("trunkline {} (speaks HAProxy's runtime API)", env!("CARGO_PKG_VERSION")),
        "Nbthread" | "Tasks" => node.workers as u64,
        "Nbproc" | "Process_num" => 1,
        "Pid" => node.pid.into(),
        "Uptime_sec" => node.uptime.as_secs(),
        "Ulimit-n" | "Maxsock" => open_files(),
        "Maxconn" | "Hard_maxconn" => most,
        "CurrConns" => open,
        "CumConns" => picture.counted(Count::Connections),
        "CumReq" => picture.counted(Count::Requests),
        "ConnRate" => rates.connections.now.round() as u64,
        "MaxConnRate" => rates.connections.most.round() as u64,
        "SessRate" => rates.calls.now.round() as u64,
        "MaxSessRate" => rates.calls.most.round() as u64,
        // Nobody measures it; a monitor that asks should not be alarmed.
        "Idle_pct" => 100,
        "Stopping" => node.stopping.into(),
        "Jobs" => node.workers as u64 + open,
        "Listeners" => picture.frontends.iter().map(|frontend| frontend.binds.len() as u64).sum(),
        "TotalBytesOut" => picture.counted(Count::BytesIn) + picture.counted(Count::BytesOut),
        "Start_time_sec" => node.started_at,
        _ => 0,
    };
    number.to_string()
}

/// As HAProxy writes it: `0d 1h02m03s`.
pub fn days(seconds: u64) -> String {
    format!("{}d {}h{:02}m{:02}s", seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// How many files this process may have open.
pub fn open_files() -> u64 {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_is_written_as_haproxy_writes_it() {
        assert_eq!(days(93_784), "1d 2h03m04s");
    }
}
