// What the columns are called here and at HAProxy: the tooltips of the tables and the tab "HAProxy names" say the same.

import { h } from "./dom";

export interface Column {
  key: string;
  title: string;
  /** What it says, for people. */
  means: string;
  /** HAProxy's column of `show stat` and its metric. */
  haproxy: string;
  metric: string;
  /** A number: right-aligned. */
  number?: boolean;
}

export const SERVER: Column[] = [
  { key: "server", title: "Server", means: "Name and address", haproxy: "svname, addr", metric: 'label server="\u2026"' },
  { key: "state", title: "State", means: "What it takes, why and since when", haproxy: "status, lastchg", metric: "haproxy_server_status" },
  { key: "calls", title: "Calls", means: "Calls it has now, and how many it may have", haproxy: "scur, slim", metric: "haproxy_server_current_sessions", number: true },
  { key: "rate", title: "Calls/s", means: "New calls each second; requests of any kind below", haproxy: "rate", metric: "haproxy_server_sessions_total", number: true },
  { key: "p95", title: "p95 ms", means: "Milliseconds to the first response: 95 of 100 were faster; p99 below", haproxy: "rtime (p50)", metric: "trunkline_response_time_seconds", number: true },
  { key: "responses", title: "Responses", means: "Its responses by class, 1xx to 6xx", haproxy: "hrsp_1xx \u2026 hrsp_5xx, hrsp_other", metric: "haproxy_server_http_responses_total" },
  { key: "failed", title: "Failed", means: "Without an answer, or with one of the breaker's codes; unreachable below", haproxy: "hanafail, econ", metric: "circuit_breaker_failed_requests", number: true },
  { key: "checks", title: "Last checks", means: "The last 20 checks, newest right", haproxy: "check_status, check_code, check_duration", metric: "haproxy_server_check_status" },
  { key: "breaker", title: "Breaker", means: "Closed lets calls through, open holds new ones back, half-open tries a few", haproxy: "check_status (HANA)", metric: "circuit_breaker_state" },
  { key: "weight", title: "Weight", means: "Its part within the region, now; configured below where it differs", haproxy: "weight, uweight, throttle", metric: "haproxy_server_weight", number: true },
];

export const FRONTEND: Column[] = [
  { key: "frontend", title: "Frontend", means: "Name and addresses", haproxy: "pxname (FRONTEND)", metric: 'label proxy="\u2026"' },
  { key: "state", title: "State", means: "Whether it takes what comes", haproxy: "status", metric: "haproxy_frontend_status" },
  { key: "connections", title: "Connections", means: "TCP and TLS connections now; all that ever were below", haproxy: "conn_tot, conn_rate", metric: "haproxy_frontend_connections", number: true },
  { key: "rate", title: "Calls/s", means: "New calls each second", haproxy: "rate", metric: "haproxy_frontend_sessions_total", number: true },
  { key: "requests", title: "Requests/s", means: "Requests each second; all that ever were below", haproxy: "req_rate, req_tot", metric: "haproxy_frontend_http_requests_total", number: true },
  { key: "methods", title: "Methods", means: "Requests by method", haproxy: "", metric: "trunkline_frontend_requests_total" },
  { key: "responses", title: "Responses", means: "Responses to clients by class, 1xx to 6xx", haproxy: "hrsp_1xx \u2026 hrsp_other", metric: "haproxy_frontend_http_responses_total" },
  { key: "bytes", title: "Bytes", means: "Bytes in; out below", haproxy: "bin, bout", metric: "haproxy_frontend_bytes_in_total", number: true },
  { key: "refused", title: "Refused, dropped", means: "Answered with a refusal, or dropped, and why", haproxy: "dreq, ereq, dcon", metric: "haproxy_frontend_requests_denied_total" },
];

export const REGION: Column[] = [
  { key: "region", title: "Region", means: "A weighted group of a backend's servers", haproxy: "", metric: 'label region="\u2026"' },
  { key: "share", title: "Share", means: "Part of the new calls of the last minute, beside its target", haproxy: "", metric: "trunkline_traffic_share_ratio" },
];

/** The head of a table: each column with what it means and what HAProxy calls it. */
export function headRow(columns: Column[], ...more: HTMLElement[]): HTMLElement {
  const cells = columns.map((column) =>
    h("th", { scope: "col", class: column.number ? "number" : undefined, "data-column": column.key },
      h("span", { class: "term" }, column.title,
        h("span", { class: "tip", "aria-hidden": "true" },
          h("b", {}, column.means), column.haproxy && h("span", {}, `HAProxy: ${column.haproxy}`), h("code", {}, column.metric)))));
  return h("thead", {}, h("tr", {}, ...cells, ...more));
}

/** One cell with what it says first and, smaller, second. */
export class Cell {
  readonly main = h("span", { class: "main" });
  readonly sub = h("span", { class: "sub" });
  readonly node: HTMLTableCellElement;

  constructor(column: Column, head = false) {
    this.node = h(head ? "th" : "td", {
      scope: head ? "row" : undefined,
      class: column.number ? "number" : undefined, "data-column": column.key, "data-label": column.title,
    }, this.main, this.sub);
  }
}
