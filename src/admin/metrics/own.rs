//! What HAProxy cannot know: regions, methods, codes, response times as histograms, breakers, named drops.

use super::Exposition;
use crate::admin::picture::{Count, Picture, Region, Server};
use crate::admin::roles::State;
use crate::state::Reason;
use crate::state::connections::End;
use crate::state::response_times::{ResponseTimes, Timed};
use crate::state::server::Circuit;

pub(super) fn render(text: &mut Exposition, picture: &Picture) {
    process(text, picture);
    frontends(text, picture);
    servers(text, picture);
    response_times(text, picture);
    breakers(text, picture);
    regions(text, picture);
    checks(text, picture);
}

fn process(text: &mut Exposition, picture: &Picture) {
    let node = &picture.node;
    text.gauge("trunkline_info", "This process; its configuration by the fingerprint that the log has.");
    let configuration = format!("{:016x}", node.configuration);
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("node", &*node.name), ("configuration", &*configuration)];
    text.sample("trunkline_info", &labels, 1.0);
    let (sums, pins, reloads) = (&picture.sums, &picture.pins, &picture.reloads);
    for (name, kind, help, value) in [
        ("trunkline_calls", "gauge", "Calls at once.", picture.calls() as f64),
        ("trunkline_pins", "gauge", "Calls that the table has room for.", pins.size as f64),
        ("trunkline_pins_used", "gauge", "Pins in the table.", pins.used as f64),
        ("trunkline_pins_evicted_total", "counter", "Live pins that had to give way.", pins.evicted as f64),
        ("trunkline_receive_calls_total", "counter", "System calls that received datagrams.", sums.receives as f64),
        ("trunkline_send_calls_total", "counter", "System calls that sent datagrams.", sums.sends as f64),
        (
            "trunkline_udp_rx_dropped_total",
            "counter",
            "Datagrams that the kernel had no room for.",
            sums.kernel_drops as f64,
        ),
        ("trunkline_icmp_errors_total", "counter", "ICMP errors about what was sent.", sums.icmp as f64),
        (
            "trunkline_copies_lost_total",
            "counter",
            "Copies of followed messages without room.",
            sums.copies_lost as f64,
        ),
        ("trunkline_hep_sent_total", "counter", "Packets that left for the collector.", sums.hep_sent as f64),
        (
            "trunkline_hep_failed_total",
            "counter",
            "Packets for the collector that could not leave.",
            sums.hep_failed as f64,
        ),
        ("trunkline_banned_sources", "gauge", "Sources that may open nothing new.", sums.banned as f64),
        ("trunkline_reloads_total", "counter", "Reloads that were taken.", reloads.done as f64),
        ("trunkline_reloads_refused_total", "counter", "Reloads that were refused.", reloads.failed as f64),
        (
            "trunkline_reload_ok",
            "gauge",
            "Whether the last reload was taken; 1 before the first.",
            f64::from(u8::from(reloads.last.as_ref().is_none_or(|last| last.ok))),
        ),
        ("trunkline_pictures_total", "counter", "How often all of this was read.", picture.number as f64),
    ] {
        text.one(name, kind, help, value);
    }
    text.gauge("trunkline_role", "What this node is in its pair, as keepalived says: 1 for what it is.");
    for role in &*picture.node.roles {
        for state in State::ALL {
            let labels = [("vrrp", role.instance.as_str()), ("role", state.word())];
            text.sample("trunkline_role", &labels, f64::from(u8::from(role.state == state)));
        }
    }
    let name = "trunkline_certificate_expiry_timestamp_seconds";
    text.gauge(name, "When a certificate expires, in seconds since 1970.");
    for certificate in &picture.certificates {
        let (file, names) = (certificate.file.display().to_string(), certificate.names.join(","));
        let labels = [("whose", &*certificate.whose), ("file", &*file), ("names", &*names)];
        text.sample(name, &labels, certificate.not_after.as_secs_f64());
    }
}

fn frontends(text: &mut Exposition, picture: &Picture) {
    let frontends = &picture.frontends;
    let count = |text: &mut Exposition, name: &str, help: &str, count: Count| {
        text.counter(name, help);
        for frontend in frontends {
            text.sample(name, &[("proxy", &frontend.name)], frontend.ever[count] as f64);
        }
    };
    count(text, "trunkline_received_total", "Datagrams and messages that came.", Count::Received);
    count(text, "trunkline_requests_from_servers_total", "Requests that servers sent to clients.", Count::Sent);
    count(text, "trunkline_frontend_retransmissions_total", "Requests sent on before.", Count::Retransmissions);
    text.counter("trunkline_frontend_requests_total", "Requests of clients by method.");
    for frontend in frontends {
        for (method, n) in frontend.ever.methods() {
            let labels = [("proxy", frontend.name.as_str()), ("method", method)];
            text.sample("trunkline_frontend_requests_total", &labels, n as f64);
        }
    }
    text.counter("trunkline_dropped_total", "Messages that were dropped or refused, by the name of the reason.");
    for frontend in frontends {
        for (reason, n) in Reason::ALL.iter().zip(frontend.causes_ever.reasons) {
            let labels = [("proxy", frontend.name.as_str()), ("reason", reason.word())];
            text.sample("trunkline_dropped_total", &labels, n as f64);
        }
    }
    text.counter("trunkline_connections_ended_total", "Connections that ended or were not let in, and why.");
    for frontend in frontends {
        for (end, n) in End::ALL.iter().zip(frontend.causes_ever.ends) {
            let labels = [("proxy", frontend.name.as_str()), ("reason", end.word())];
            text.sample("trunkline_connections_ended_total", &labels, n as f64);
        }
    }
}

fn of(server: &Server) -> [(&str, &str); 3] {
    [("proxy", &server.backend), ("server", &server.name), ("region", &server.region)]
}

/// The same with one label more.
fn of_with<'a>(server: &'a Server, name: &'a str, value: &'a str) -> [(&'a str, &'a str); 4] {
    let [proxy, server, region] = of(server);
    [proxy, server, region, (name, value)]
}

fn servers(text: &mut Exposition, picture: &Picture) {
    for (name, help, count) in [
        ("trunkline_server_calls_total", "New calls.", Count::Calls),
        ("trunkline_server_opened_total", "Balanced requests that opened something.", Count::Opened),
        ("trunkline_server_requests_from_total", "Requests that it sent.", Count::Sent),
        ("trunkline_server_retransmissions_total", "Requests to it that were sent on before.", Count::Retransmissions),
        (
            "trunkline_server_unreachable_total",
            "Requests that could not be sent to it, and ICMP errors.",
            Count::Unreachable,
        ),
    ] {
        text.counter(name, help);
        for server in picture.servers() {
            text.sample(name, &of(server), server.ever[count] as f64);
        }
    }
    text.counter("trunkline_requests_total", "Requests to a server by method.");
    for server in picture.servers() {
        for (method, n) in server.ever.methods() {
            text.sample("trunkline_requests_total", &of_with(server, "method", method), n as f64);
        }
    }
    text.counter("trunkline_responses_total", "Responses of a server by the request's method and by status code.");
    for server in picture.servers() {
        for (method, code, n) in server.responses.each() {
            let code = code.to_string();
            let [proxy, name, region, method] = of_with(server, "method", method.word());
            text.sample("trunkline_responses_total", &[proxy, name, region, method, ("code", &code)], n as f64);
        }
    }
    text.gauge("trunkline_server_state", "1 for the state that a server's health is in.");
    for server in picture.servers() {
        text.sample("trunkline_server_state", &of_with(server, "state", server.state.health.word()), 1.0);
    }
    text.gauge(
        "trunkline_server_admin",
        "1 for what was asked of a server: ready, drain, maint, or leaving after a reload.",
    );
    for server in picture.servers() {
        text.sample("trunkline_server_admin", &of_with(server, "state", server.state.admin.word()), 1.0);
    }
}

/// The bounds that are told: fine ones are summed up, for a scrape of a thousand servers must stay small. The longest are those in
/// which people pick up.
const BOUNDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

fn response_times(text: &mut Exposition, picture: &Picture) {
    let name = "trunkline_response_time_seconds";
    text.family(
        name,
        "histogram",
        "From a request to its answer: invite_first, invite_ringing, invite_final, or other_final for the rest.",
    );
    for server in picture.servers() {
        for (kind, times) in Timed::ALL.iter().zip(&server.histograms) {
            let labels = of_with(server, "kind", kind.word());
            let bucket = format!("{name}_bucket");
            for (bound, n) in up_to(times) {
                let [proxy, server, region, kind] = labels;
                text.sample(&bucket, &[proxy, server, region, kind, ("le", &bound.to_string())], n as f64);
            }
            let [proxy, server, region, kind] = labels;
            text.sample(&bucket, &[proxy, server, region, kind, ("le", "+Inf")], times.count() as f64);
            text.sample(&format!("{name}_sum"), &labels, times.total().as_secs_f64());
            text.sample(&format!("{name}_count"), &labels, times.count() as f64);
        }
    }
}

/// How many took no longer than each of the bounds.
fn up_to(times: &ResponseTimes) -> impl Iterator<Item = (f64, u64)> {
    let (mut seen, mut buckets) = (0, times.buckets().peekable());
    BOUNDS.into_iter().map(move |bound| {
        while let Some((_, n)) = buckets.next_if(|(end, _)| end.as_secs_f64() <= bound) {
            seen += n;
        }
        (bound, seen)
    })
}

fn breakers(text: &mut Exposition, picture: &Picture) {
    let with: Vec<_> = picture.servers().filter_map(|s| Some((s.full_name(), s.breaker?))).collect();
    text.gauge("circuit_breaker_state", "0 closed, 1 open, 2 half-open.");
    for (service, breaker) in &with {
        let state = match breaker.circuit {
            Circuit::Closed => 0.0,
            Circuit::Open => 1.0,
            Circuit::HalfOpen => 2.0,
        };
        text.sample("circuit_breaker_state", &[("service", service)], state);
    }
    for (name, help, count) in [
        ("circuit_breaker_total_requests", "Requests that opened something.", 0),
        ("circuit_breaker_failed_requests", "Those that failed.", 1),
        ("circuit_breaker_rejected_requests", "Those that went elsewhere because it was half-open.", 2),
    ] {
        text.gauge(name, help);
        for (service, breaker) in &with {
            let counts = [breaker.counts.total, breaker.counts.failed, breaker.counts.rejected];
            text.sample(name, &[("service", service)], counts[count] as f64);
        }
    }
}

/// One number of each region, by backend.
fn each_region(text: &mut Exposition, picture: &Picture, name: &str, help: &str, value: impl Fn(&Region) -> f64) {
    text.gauge(name, help);
    for backend in &picture.backends {
        for region in &backend.regions {
            text.sample(name, &[("proxy", &backend.name), ("region", &region.name)], value(region));
        }
    }
}

fn regions(text: &mut Exposition, picture: &Picture) {
    text.gauge(
        "trunkline_traffic_share_ratio",
        "A region's part: target as configured, expected of those who are usable, actual in the last minute.",
    );
    for backend in &picture.backends {
        for region in &backend.regions {
            let actual = region.actual().unwrap_or(f64::NAN);
            for (kind, part) in [("target", region.target), ("expected", region.expected), ("actual", actual)] {
                let labels = [("proxy", backend.name.as_str()), ("region", region.name.as_str()), ("kind", kind)];
                text.sample("trunkline_traffic_share_ratio", &labels, part);
            }
        }
    }
    let name = "trunkline_region_opened_last_minute";
    each_region(text, picture, name, "What opened something in it in the last minute.", |region| region.opened as f64);
    let name = "trunkline_region_availability_ratio";
    each_region(text, picture, name, "The part of the time in which it had a usable server.", |region| {
        region.availability
    });
    let name = "trunkline_region_servers_up";
    each_region(text, picture, name, "Servers that take new calls; backups only where they serve.", |region| {
        region.up as f64
    });
    let name = "trunkline_region_servers";
    each_region(text, picture, name, "Its servers, without backups where it has others.", |region| {
        region.servers as f64
    });
}

fn checks(text: &mut Exposition, picture: &Picture) {
    let last = |server: &Server| Some(server.record.as_ref()?.checks.back()?.took.as_secs_f64());
    text.gauge("trunkline_check_time_seconds", "How long the last check of a server took.");
    for server in picture.servers() {
        text.sample("trunkline_check_time_seconds", &of(server), last(server).unwrap_or(f64::NAN));
    }
    let name = "inter_region_latency_ms";
    text.gauge(
        name,
        "From this node to a region: the quickest server's last check that was answered, in milliseconds.",
    );
    for backend in &picture.backends {
        for region in &backend.regions {
            let passed = |server: &&Server| {
                let record = server.record.as_ref();
                record.and_then(|record| record.checks.back()).is_some_and(|last| last.passed)
            };
            let own = backend.servers.iter().filter(|server| server.region == region.name).filter(passed);
            let quickest = own.filter_map(last).fold(f64::NAN, f64::min);
            let labels = [("from", picture.node.name.as_str()), ("to", region.name.as_str()), ("proxy", &backend.name)];
            text.sample(name, &labels, quickest * 1000.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::response_times::Histogram;

    #[test]
    fn who_picks_up_late_is_not_among_the_rest() {
        let histogram = Histogram::default();
        [3, 8, 25, 55, 100].into_iter().for_each(|seconds| histogram.add(seconds * 1_000_000));
        let told: Vec<_> = up_to(&ResponseTimes::sum([&histogram].into_iter())).collect();
        assert_eq!(told[told.len() - 4..], [(5.0, 1), (10.0, 2), (30.0, 3), (60.0, 4)]);
    }
}
