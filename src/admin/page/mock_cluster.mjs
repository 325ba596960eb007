// The cluster behind mock.mjs: servers in three regions, 70/15/15, whose numbers move as those of real ones might.

export const MEASURES = ["calls", "active_calls", "requests", "p50_ms", "p95_ms", "p99_ms", "failures", "retransmissions", "kernel_drops"];
const REGIONS = [["lagos", 70, 0.8], ["abuja", 15, 1.9], ["asaba", 15, 2.6]];
const CODES = [
  ["INVITE", 100, 1], ["INVITE", 180, 1], ["INVITE", 200, 0.86], ["INVITE", 486, 0.09], ["INVITE", 487, 0.03], ["INVITE", 503, 0.006], ["INVITE", 603, 0.002],
  ["REGISTER", 200, 0.7], ["REGISTER", 401, 0.68], ["OPTIONS", 200, 0.05], ["BYE", 200, 0.85], ["BYE", 481, 0.001], ["other", 200, 0.2],
];
const LENGTH = 600;
const CALLS = 1000;
const HOLD = 12;

const between = (low, high) => low + Math.random() * (high - low);
const round = (value, digits = 1) => Number(value.toFixed(digits));

class Server {
  constructor(name, region, address, delay) {
    Object.assign(this, { name, region, address, delay, admin: "ready", health: "up", why: null, since: 7384, weight: 100 });
    this.breaker = { state: "closed", closes: null, trials: 0, row: 0, total: 0, failed: 0, rejected: 0 };
    Object.assign(this, { calls: 0, rate: 0, total: 0, requests: 0, failed: 0, unreachable: 0, retransmissions: 0, downtime: 0, downs: 0, failures: 0 });
    this.responses = [0, 0, 0, 0, 0, 0];
    this.checks = Array.from({ length: 20 }, () => this.check(true));
  }

  get takes() {
    return this.admin === "ready" && this.health === "up" && this.breaker.state !== "open" && this.weight > 0;
  }

  get level() {
    if (this.admin !== "ready") return "idle";
    if (this.health === "dead" || this.health === "down") return "bad";
    return this.health === "up" && this.breaker.state === "closed" ? "good" : "warning";
  }

  get state() {
    if (this.admin !== "ready") return this.admin;
    if (this.health === "up" && this.breaker.state !== "closed") return `breaker ${this.breaker.state}`;
    return this.health;
  }

  check(ok) {
    const ms = round(this.delay * between(0.8, 1.5));
    return { ok, word: ok ? `200 OK in ${ms} ms` : "no answer", ms: ok ? ms : null, at: 0 };
  }

  second(rate, second) {
    this.rate = rate * between(0.97, 1.03);
    const lost = this.health === "dead" ? 0.35 : 1 / HOLD;
    this.calls = Math.max(0, Math.round(this.calls + this.rate - this.calls * (rate > 0 ? 1 / HOLD : lost)));
    this.total += Math.round(this.rate);
    const requests = Math.round(this.rate * 6);
    this.requests += requests;
    [2, 2.6, 0.004, 0.22, 0.006, 0.002].forEach((part, index) => (this.responses[index] += Math.round(this.rate * part + (Math.random() < 0.1 ? 0.4 : 0))));
    if (Math.random() < 0.05) this.retransmissions += 1;
    this.since += 1;
    if (this.health === "dead") this.downtime += 1;
    if (second % 5 === 0 || this.health !== "up") this.checked(second);
    this.trial();
  }

  checked(second) {
    const ok = this.health === "up";
    this.checks = [...this.checks.slice(1), { ...this.check(ok), at: second }];
    if (!ok) this.failures += 1;
  }

  trial() {
    const { breaker } = this;
    breaker.total += Math.round(this.rate);
    if (breaker.state === "open" && (breaker.closes -= 1) <= 0) Object.assign(breaker, { state: "half-open", trials: 0 });
    else if (breaker.state === "half-open" && (breaker.trials += 1) > 3) Object.assign(breaker, { state: "closed", row: 0 });
  }

  shown(second) {
    const { breaker } = this;
    const p50 = this.rate > 0 ? round(this.delay * between(0.95, 1.05)) : null;
    const last = this.checks[this.checks.length - 1];
    const check = { word: last.word, ok: last.ok, status: last.ok ? 200 : null, ms: last.ms, ago_seconds: second - last.at, failed_total: this.failures, down_total: this.downs, rise: 2, fall: 5, last: this.checks.map(({ ok, word, at }) => ({ ok, word, ago_seconds: second - at })) };
    return {
      name: this.name, region: this.region, address: this.address, backup: false, state: this.state, level: this.level, admin: this.admin, health: this.health, takes_new: this.takes,
      why: this.why, since_seconds: this.since, downtime_seconds: this.downtime, weight: this.weight, weight_configured: 100, throttle_percent: null,
      calls: this.calls, max_calls: 8000, calls_total: this.total, calls_per_second: round(this.rate), max_rate: 0, requests: this.requests, requests_per_second: round(this.rate * 6),
      codes: CODES.map(([method, code, part]) => ({ method, code: String(code), count: Math.round(this.total * part) })),
      methods: { INVITE: this.total, BYE: this.total, REGISTER: Math.round(this.total * 0.4) }, responses: [...this.responses], failed: this.failed, unreachable: this.unreachable, retransmissions: this.retransmissions,
      p50_ms: p50, p95_ms: p50 && round(p50 * 3.4), p99_ms: p50 && round(p50 * 8.1), bytes_in: this.requests * 610, bytes_out: this.requests * 540, check,
      breaker: { state: breaker.state, closes_in_seconds: breaker.state === "open" ? breaker.closes : null, trials_done: breaker.trials, trials: 3, failures: 5, total: breaker.total, failed: breaker.failed, rejected: breaker.rejected },
    };
  }
}

function servers(count) {
  if (count === 5) {
    return [["lagos-1", 0, "udp://10.0.10.11:5060"], ["lagos-2", 0, "udp://10.0.10.12:5060"], ["lagos-3", 0, "udp://10.0.10.13:5060"], ["abuja-1", 1, "udp://10.1.10.11:5060"], ["asaba-1", 2, "tcp://10.2.10.11:5060"]]
      .map(([name, region, address]) => new Server(name, REGIONS[region][0], address, REGIONS[region][2]));
  }
  return Array.from({ length: count }, (_, index) => {
    const region = index % 10 < 7 ? 0 : index % 10 < 8.5 ? 1 : 2;
    return new Server(`${REGIONS[region][0]}-${index}`, REGIONS[region][0], `udp://10.${region}.${index >> 8}.${index & 255}:5060`, REGIONS[region][2]);
  });
}

export class Cluster {
  constructor(count) {
    this.servers = servers(count);
    this.now = Math.floor(Date.now() / 1000) - LENGTH;
    this.began = this.now - 7384;
    this.pid = 4711;
    this.mode = "proxy";
    this.history = [];
    this.events = [];
    this.hash = "9f2c41d07be3a856";
    this.text = TEXT;
    this.hushed = 0;
    this.reloads = { done: 3, failed: 0, last: { at: this.now - 9380, who: "uid 0 pid 55", ok: true, said: "1 server added: opensips/lagos-3" } };
    this.bad = [
      { id: "0-2", at: this.now + 570, frontend: "sip", source: "198.51.100.23:5071", reason: "malformed", bytes: 402, text: "INVITE sip:<script>alert(1)</script>@sip.example.ng SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.23:5071;branch=<img src=x onerror=alert(2)>\r\nFrom: \"><script>alert(1)</script>\" <sip:x@y>;tag=1\r\n\r\n" },
      { id: "1-1", at: this.now + 130, frontend: "sip", source: "203.0.113.77:40022", reason: "not_sip", bytes: 18, text: "GET / HTTP/1.1\r\n\r\n" },
    ];
    this.event("start", "trunkline 0.1.0 started with 4 workers");
    this.event("reload", "1 server added: opensips/lagos-3", "uid 0 pid 55");
    for (let second = 0; second < LENGTH; second++) this.second();
    this.event("admin", "weight of opensips/abuja-1 set to 100", "ngozi from 10.0.0.9 (page)", "abuja-1");
  }

  event(kind, text, who = null, server = null) {
    this.events = [...this.events, { id: (this.events[this.events.length - 1]?.id ?? 0) + 1, at: this.now + 0.2, kind, text, who, backend: server ? "opensips" : null, server }].slice(-500);
  }

  second() {
    this.now += 1;
    const wave = this.quiet ? 0 : CALLS * (1 + 0.09 * Math.sin(this.now / 70) + 0.03 * Math.sin(this.now / 11)) * between(0.985, 1.015);
    const alive = REGIONS.filter(([name]) => this.servers.some((server) => server.region === name && server.takes));
    const weights = alive.reduce((total, [, weight]) => total + weight, 0);
    const whole = new Map(REGIONS.map(([name]) => [name, this.servers.reduce((total, one) => total + (one.region === name && one.takes ? one.weight : 0), 0)]));
    for (const server of this.servers) {
      const beside = whole.get(server.region);
      const weight = REGIONS.find(([name]) => name === server.region)[1];
      server.second(server.takes ? ((wave * weight) / weights) * (server.weight / beside) : 0, this.now);
    }
    this.history = [...this.history, this.measure()].slice(-LENGTH);
  }

  measure() {
    const calls = this.servers.reduce((total, server) => total + server.rate, 0);
    const dead = this.servers.some((server) => server.health === "dead" && server.since < 4);
    return {
      calls: round(calls), active_calls: this.servers.reduce((total, server) => total + server.calls, 0), requests: round(calls * 6.1),
      p50_ms: round(between(0.8, 0.9), 2), p95_ms: round(between(2.9, 3.4), 2), p99_ms: round(between(8, 9.6) * (dead ? 3 : 1), 2),
      failures: Math.random() < 0.15 || dead ? round(between(0.5, dead ? 40 : 2)) : 0, retransmissions: round(between(0, 2) * (dead ? 60 : 1)), kernel_drops: 0,
    };
  }

  kill(region) {
    for (const server of this.servers.filter((one) => one.region === region)) {
      Object.assign(server, { health: "dead", why: "check was not answered in time", since: 0, downs: server.downs + 1 });
      server.unreachable += 3;
      this.event("health", "up -> dead: check was not answered in time", null, server.name);
    }
  }

  revive(region) {
    for (const server of this.servers.filter((one) => one.region === region)) {
      Object.assign(server, { health: "up", why: null, since: 0 });
      this.event("health", "dead -> up: 2 checks were answered", null, server.name);
    }
  }

  trip(name, closes = 24) {
    const server = this.servers.find((one) => one.name === name);
    Object.assign(server.breaker, { state: "open", closes, failed: server.breaker.failed + 5, row: 5, rejected: 130 });
    server.why = "5 calls in a row were not answered";
    server.since = 0;
    this.event("breaker", "opens for 24 s: 5 calls in a row were not answered", null, name);
  }

  hush(seconds) {
    this.hushed = Date.now() + seconds * 1000;
  }

  silent() {
    return Date.now() < this.hushed;
  }

  wish({ backend, server: name, do: act, weight }, user) {
    const server = backend === "opensips" && this.servers.find((one) => one.name === name);
    if (!server) return { status: 404, text: `there is no server ${backend}/${name}` };
    if (["ready", "drain", "maint"].includes(act)) Object.assign(server, { admin: act, since: 0 });
    else if (act === "weight") server.weight = weight.endsWith("%") ? parseInt(weight, 10) : Number(weight);
    else if (act === "close-breaker") Object.assign(server.breaker, { state: "closed", row: 0 });
    else return { status: 400, text: "do: ready, drain, maint, weight or close-breaker" };
    if (act === "ready" || act === "close-breaker") server.why = null;
    this.event(act === "weight" ? "weight" : "admin", act === "weight" ? `weight set to ${weight}` : act, `${user.name} from 127.0.0.1 (page)`, name);
    return null;
  }

  reload(user) {
    this.reloads = { ...this.reloads, done: this.reloads.done + 1, last: { at: this.now, who: `${user.name} from 127.0.0.1 (page)`, ok: true, said: "nothing changed" } };
    this.event("reload", "nothing changed", this.reloads.last.who);
    return "reloaded: nothing changed";
  }

  pin(find) {
    const found = find?.includes("@") ? { server: "opensips/lagos-1", confirmed: true, expires_seconds: 7100 } : null;
    const stuck = find?.startsWith("192.0.2.") ? [{ backend: "opensips", server: "opensips/abuja-1", confirmed: true, expires_seconds: 3600 }] : [];
    return { found, stuck, used: this.measure().active_calls, size: 4_000_000 };
  }

  /** When they came is reckoned anew for each who asks, from a clock that began elsewhere. */
  unread() {
    return this.bad.map((message) => ({ ...message, at: message.at + Math.random() * 1e-6 }));
  }

  regions() {
    const total = this.servers.reduce((all, server) => all + server.rate, 0);
    const alive = REGIONS.filter(([name]) => this.servers.some((server) => server.region === name && server.takes));
    const weights = alive.reduce((all, [, weight]) => all + weight, 0);
    const gone = REGIONS.filter((one) => !alive.includes(one)).map(([name]) => name);
    return REGIONS.map(([name, weight, delay]) => {
      const own = this.servers.filter((server) => server.region === name);
      const actual = total > 0 ? (100 * own.reduce((all, server) => all + server.rate, 0)) / total : 0;
      return {
        name, weight, target_percent: weight, expected_percent: gone.includes(name) ? 0 : (100 * weight) / weights, actual_percent: total > 0 ? round(actual) : null,
        calls_counted: 60000, judged: total > 0, deviates: total > 0 ? false : null,
        reason: gone.length > 0 ? `${gone.join(" and ")} ${gone.length > 1 ? "have" : "has"} no server that takes calls` : null, up: own.filter((server) => server.takes).length, servers: own.length, availability_percent: 99.98, check_ms: delay,
      };
    });
  }

  verdict(regions) {
    const up = this.servers.filter((server) => server.takes).length;
    const out = this.servers.filter((server) => !server.takes).sort((one, other) => Number(other.level === "bad") - Number(one.level === "bad"));
    if (out.length === 0) return { level: "good", text: `All ${up} servers take calls; the split is within 1 point of the target` };
    const say = out.slice(0, 2).map((server) => `opensips/${server.name} is ${server.state === "drain" ? "draining" : server.state} for ${server.since} s${server.why ? ` (${server.why})` : ""}`);
    const far = Math.max(...regions.map((region) => Math.abs(region.actual_percent - region.target_percent)));
    return { level: out.some((server) => server.level === "bad") ? "bad" : "warning", text: `${up} of ${this.servers.length} servers take calls; ${say.join("; ")}; the split is ${Math.round(far)} points off the target` };
  }

  picture(user) {
    const shown = this.servers.map((server) => server.shown(this.now));
    const regions = this.regions();
    const now = this.history[this.history.length - 1] ?? this.measure();
    const requests = shown.reduce((total, server) => total + server.requests, 0);
    const calls = shown.reduce((total, server) => total + server.calls_total, 0);
    const responses = [0, 1, 2, 3, 4, 5].map((index) => shown.reduce((total, server) => total + server.responses[index], 0));
    const frontend = (name, binds, part, streams) => ({
      name, mode: "proxy", binds, status: "OPEN", connections: streams, connections_total: streams * 9, requests: Math.round(requests * part), requests_per_second: round(now.requests * part), calls_per_second: round(now.calls * part),
      responses: responses.map((value) => Math.round(value * part)), methods: { INVITE: Math.round(calls * part), BYE: Math.round(calls * part), REGISTER: Math.round(calls * part * 0.4), OPTIONS: 812 }, retransmissions: 12, bytes_in: Math.round(requests * part * 610), bytes_out: Math.round(requests * part * 690),
      refused: streams ? 0 : 12, dropped: streams ? 0 : 3, reasons: streams ? {} : { rate_limited: 12, malformed: 2, not_sip: 1 }, ends: streams ? { closed: 8120, idle: 44, slow_reader: 1 } : {},
    });
    return {
      made_at: this.now + 0.25, user, verdict: this.verdict(regions),
      node: { name: "edge-1", version: "0.1.0", pid: this.pid, uptime_seconds: this.now - this.began, workers: 4, configuration: this.hash, stopping: false, roles: [{ instance: "VI_1", state: "master", since: 0 }] },
      reload: this.reloads, now, pins: { used: Math.round(now.active_calls * 1.3), size: 4_000_000, evicted: 0 }, drops: { rate_limited: 12, malformed: 2, not_sip: 1 },
      certificates: [{ name: "sip.example.ng", days: 87, file: "sip.pem" }],
      frontends: [frontend("sip", ["udp://203.0.113.10:5060", "tcp://203.0.113.10:5060"], 0.92, 0), frontend("sips", ["tls://203.0.113.10:5061"], 0.08, 1204)],
      backends: [{ name: "opensips", mode: this.mode, balance: "hash", status: shown.some((server) => server.takes_new) ? "UP" : "DOWN", when_all_down: "reject", spill_below: 50, up: shown.filter((server) => server.takes_new).length, servers_total: shown.length, calls: now.active_calls, calls_per_second: now.calls, regions, servers: shown }],
    };
  }
}

const TEXT = `[global]
workers = 4
cluster_key_file = "(not shown)"

[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "tcp://203.0.113.10:5060"]
backend = "opensips"

[[backend]]
name = "opensips"
balance = "hash"
check = { type = "options", interval = "10s", timeout = "5s", rise = 2, fall = 5 }

[[backend.region]]
name = "lagos"
weight = 70
`;
