// What the node says, as the API answers it. The node is asked, never believed with markup: every text here is text.

export type Level = "good" | "warning" | "bad" | "idle";
export type Role = "viewer" | "operator" | "admin";

export interface Picture {
  made_at: number;
  user: { name: string; role: Role };
  verdict: { level: Level; text: string };
  node: Node;
  reload: { done: number; failed: number; last: Reload | null };
  now: Now;
  pins: { used: number; size: number; evicted: number };
  drops: Counts;
  certificates: { name: string; days: number; file: string }[];
  frontends: Frontend[];
  backends: Backend[];
}

export interface Node {
  name: string;
  version: string;
  pid: number;
  uptime_seconds: number;
  workers: number;
  configuration: string;
  stopping: boolean;
  roles: { instance: string; state: string; since: number }[];
}

export interface Reload {
  at: number;
  who: string;
  ok: boolean;
  said: string;
}

/** Per second, over the last second; milliseconds are null where nothing was measured. */
export interface Now {
  calls: number;
  active_calls: number;
  requests: number;
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
  failures: number;
  retransmissions: number;
  kernel_drops: number;
}
export type Measure = keyof Now;

export type Counts = Record<string, number>;

export interface Frontend {
  name: string;
  mode: string;
  binds: string[];
  status: string;
  connections: number;
  connections_total: number;
  requests: number;
  requests_per_second: number;
  calls_per_second: number;
  responses: number[];
  methods: Counts;
  retransmissions: number;
  bytes_in: number;
  bytes_out: number;
  refused: number;
  dropped: number;
  reasons: Counts;
  ends: Counts;
}

export interface Backend {
  name: string;
  mode: string;
  balance: string;
  status: string;
  when_all_down: string;
  /** Percent: a region with less of its weight usable has a smaller part. */
  spill_below: number;
  up: number;
  servers_total: number;
  calls: number;
  calls_per_second: number;
  regions: Region[];
  servers: Server[];
}

export interface Region {
  name: string;
  weight: number;
  target_percent: number;
  /** The share that its servers which take calls now should have. */
  expected_percent: number;
  /** Null where nobody called. */
  actual_percent: number | null;
  calls_counted: number;
  /** False: too few calls to say anything about the share. */
  judged: boolean;
  /** More than chance explains, from what is expected. */
  deviates: boolean | null;
  reason: string | null;
  up: number;
  servers: number;
  availability_percent: number | null;
  check_ms: number | null;
}

export interface Server {
  name: string;
  region: string;
  address: string;
  backup: boolean;
  state: string;
  level: Level;
  admin: string;
  health: string;
  takes_new: boolean;
  why: string | null;
  since_seconds: number;
  downtime_seconds: number;
  weight: number;
  weight_configured: number;
  throttle_percent: number | null;
  calls: number;
  max_calls: number;
  calls_total: number;
  calls_per_second: number;
  max_rate: number;
  requests: number;
  requests_per_second: number;
  methods: Counts;
  responses: number[];
  codes: { method: string; code: string; count: number }[];
  failed: number;
  unreachable: number;
  retransmissions: number;
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
  bytes_in: number;
  bytes_out: number;
  check: Check | null;
  breaker: Breaker | null;
}

export interface Check {
  word: string;
  ok: boolean;
  status: number | null;
  ms: number | null;
  ago_seconds: number;
  failed_total: number;
  down_total: number;
  rise: number;
  fall: number;
  /** Newest last. */
  last: { ok: boolean; word: string; ago_seconds: number }[];
}

export interface Breaker {
  state: "closed" | "open" | "half-open";
  closes_in_seconds: number | null;
  trials_done: number;
  trials: number;
  failures: number;
  total: number;
  failed: number;
  rejected: number;
}

export interface Event {
  id: number;
  at: number;
  kind: string;
  text: string;
  who: string | null;
  backend: string | null;
  server: string | null;
}

export interface Found {
  server: string;
  confirmed: boolean;
  expires_seconds: number | null;
}

export interface Pin {
  found: Found | null;
  /** What sticks by what was typed, by backend. */
  stuck: (Found & { backend: string })[];
  used: number;
  size: number;
}

export interface BadMessage {
  /** The same in every answer; `at` differs a little. */
  id: string;
  at: number;
  frontend: string;
  source: string;
  reason: string;
  bytes: number;
  text: string;
}
