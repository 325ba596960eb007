//! The columns of `show stat`: HAProxy 2.6's, in its order, then `-`, behind which order is free, then ours.

/// Defines [`Field`] with each column's name, tags (origin, nature, scope, as HAProxy's typed output has them) and type.
macro_rules! fields {
    ($($name:ident $tags:literal $kind:ident,)*) => {
        /// A column. The names are HAProxy's own.
        #[allow(non_camel_case_types, reason = "they are HAProxy's words")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field { $($name,)* }

        impl Field {
            pub const ALL: &[Self] = &[$(Self::$name,)*];
            const NAMES: &[&str] = &[$(stringify!($name),)*];

            pub fn name(self) -> &'static str {
                match self {
                    Self::end_of_static => "-",
                    Self::r#type => "type",
                    field => Self::NAMES[field as usize],
                }
            }

            /// Three letters: origin, nature, scope.
            pub fn tags(self) -> &'static str {
                match self { $(Self::$name => $tags,)* }
            }

            /// `str`, `u32`, `s32` or `u64`.
            pub fn kind(self) -> &'static str {
                match self { $(Self::$name => stringify!($kind),)* }
            }
        }
    };
}

fields! {
    pxname "KNS" str, svname "KNS" str, qcur "MGP" u32, qmax "MMP" u32, scur "MGP" u32, smax "MMP" u32, slim "CLP" u32,
    stot "MCP" u64, bin "MCP" u64, bout "MCP" u64, dreq "MCP" u64, dresp "MCP" u64, ereq "MCP" u64, econ "MCP" u64,
    eresp "MCP" u64, wretr "MCP" u64, wredis "MCP" u64, status "SGP" str, weight "MaP" u32, act "SGP" u32,
    bck "SGP" u32, chkfail "MCP" u64, chkdown "MCP" u64, lastchg "MAP" u32, downtime "MCP" u32, qlimit "CLS" u32,
    pid "KGP" u32, iid "KGS" u32, sid "KGS" u32, throttle "MaP" u32, lbtot "MCP" u64, tracked "CNS" str,
    r#type "CGS" u32, rate "MRP" u32, rate_lim "CLP" u32, rate_max "MMP" u32, check_status "MOP" str,
    check_code "MOP" u32, check_duration "MDP" u64, hrsp_1xx "MCP" u64, hrsp_2xx "MCP" u64, hrsp_3xx "MCP" u64,
    hrsp_4xx "MCP" u64, hrsp_5xx "MCP" u64, hrsp_other "MCP" u64, hanafail "MCP" u64, req_rate "MRP" u32,
    req_rate_max "MMP" u32, req_tot "MCP" u64, cli_abrt "MCP" u64, srv_abrt "MCP" u64, comp_in "MCP" u64,
    comp_out "MCP" u64, comp_byp "MCP" u64, comp_rsp "MCP" u64, lastsess "MAP" s32, last_chk "MOP" str,
    last_agt "MOP" str, qtime "MaP" u32, ctime "MaP" u32, rtime "MaP" u32, ttime "MaP" u32, agent_status "MOP" str,
    agent_code "MOP" u32, agent_duration "MDP" u64, check_desc "MOP" str, agent_desc "MOP" str, check_rise "CGS" u32,
    check_fall "CGS" u32, check_health "CGS" u32, agent_rise "CGS" u32, agent_fall "CGS" u32, agent_health "CGS" u32,
    addr "CGS" str, cookie "CNS" str, mode "CGS" str, algo "CGS" str, conn_rate "MRP" u32, conn_rate_max "MMP" u32,
    conn_tot "MCP" u64, intercepted "MCP" u64, dcon "MCP" u64, dses "MCP" u64, wrew "MCP" u64, connect "MCP" u64,
    reuse "MCP" u64, cache_lookups "MCP" u64, cache_hits "MCP" u64, srv_icur "MGP" u32, src_ilim "CLP" u32,
    qtime_max "MMP" u32, ctime_max "MMP" u32, rtime_max "MMP" u32, ttime_max "MMP" u32, eint "MCP" u64,
    idle_conn_cur "MGP" u32, safe_conn_cur "MGP" u32, used_conn_cur "MGP" u32, need_conn_est "MGP" u32,
    uweight "MaP" u32, agg_server_status "MGP" u32, agg_server_check_status "MGP" u32, agg_check_status "MGP" u32,
    end_of_static "" str,
    sip_region "CNS" str, sip_target_pct "CLS" str, sip_actual_pct "MaP" str, sip_invite "MCP" u64,
    sip_register "MCP" u64, sip_options "MCP" u64, sip_bye "MCP" u64, sip_6xx "MCP" u64, sip_retrans "MCP" u64,
    sip_pdd_p50 "MDP" u64, sip_pdd_p95 "MDP" u64, sip_pdd_p99 "MDP" u64, sip_breaker "SGP" str, sip_sticky "MGP" u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_s_columns_stand_where_they_always_did() {
        let at = |field: Field| field as usize;
        assert_eq!(at(Field::status), 17);
        assert_eq!((at(Field::r#type), Field::r#type.name()), (32, "type"));
        assert_eq!([at(Field::hrsp_1xx), at(Field::req_tot), at(Field::lastsess)], [39, 48, 55]);
        assert_eq!([at(Field::addr), at(Field::mode), at(Field::conn_tot)], [73, 75, 79]);
        assert_eq!([at(Field::agg_check_status), at(Field::end_of_static)], [102, 103]);
        assert_eq!(Field::end_of_static.name(), "-");
        assert!(Field::ALL.iter().enumerate().all(|(position, field)| *field as usize == position));
    }
}
