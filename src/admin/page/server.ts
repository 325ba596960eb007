// One server: a row of its backend's table (a card on a phone).

import { attr, h, mark, mend, put, show, size, svg, type View } from "./dom";
import { amount, count, duration, NOTHING, percent, plural, THIN } from "./format";
import { CheckDots, finals, ResponseBar } from "./bars";
import { Cell, SERVER } from "./columns";
import type { Breaker, Server } from "./picture";

const [NAME, STATE, CALLS, RATE, P95, RESPONSES, FAILED, CHECKS, BREAKER, WEIGHT] = SERVER;
const dots = () => svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: "M3 8h.01M8 8h.01M13 8h.01" }));
const CHANGED_MS = 4_000;

/** Of a row that is out of sight only the state is kept true (it can be searched for); the rest follows when it is seen. */
const rows = new WeakMap<Element, ServerRow>();
const sight = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) rows.get(target)?.look(isIntersecting);
}, { rootMargin: "300px" });

addEventListener("beforeprint", () => document.querySelectorAll("tr.server").forEach((node) => rows.get(node)?.sayRest()));

export class ServerRow implements View<Server> {
  readonly node: HTMLTableRowElement;
  server!: Server;
  private readonly name = new Cell(NAME!, true);
  private readonly state = new Cell(STATE!);
  private readonly calls = new Cell(CALLS!);
  private readonly rate = new Cell(RATE!);
  private readonly p95 = new Cell(P95!);
  private readonly responses = new Cell(RESPONSES!);
  private readonly failed = new Cell(FAILED!);
  private readonly checks = new Cell(CHECKS!);
  private readonly breaker = new Cell(BREAKER!);
  private readonly weight = new Cell(WEIGHT!);
  private readonly mark = mark("idle");
  private readonly word = h("span");
  private readonly bar = new ResponseBar();
  private readonly dots = new CheckDots();
  private readonly left = h("span", { class: "meter", role: "progressbar", "aria-label": "Calls that have ended since it drains", "aria-valuemin": 0, "aria-valuemax": 100, hidden: true }, h("i"));
  private readonly more: HTMLButtonElement;
  private drainedFrom = 0;
  private seen = true;

  constructor(onActions: (server: Server, button: HTMLButtonElement) => void) {
    this.state.main.append(this.mark, this.word);
    this.state.main.classList.add("state");
    this.calls.node.append(this.left);
    this.responses.main.append(this.bar.node);
    this.checks.main.append(this.dots.node);
    this.more = h("button", { class: "more", type: "button", "aria-haspopup": "menu", onclick: () => onActions(this.server, this.more) }, dots());
    const cells = [this.name, this.state, this.calls, this.rate, this.p95, this.responses, this.failed, this.checks, this.breaker, this.weight];
    this.node = h("tr", { class: "server" }, ...cells.map((cell) => cell.node),
      h("td", { class: "actions" }, this.more));
    rows.set(this.node, this);
    sight.observe(this.node);
  }

  look(seen: boolean): void {
    this.seen = seen;
    if (seen) this.sayRest();
  }

  update(server: Server): void {
    if (this.server && this.server.state !== server.state) this.flash();
    this.server = server;
    attr(this.node, "data-level", server.level);
    put(this.name.main, server.name);
    put(this.name.sub, server.address + (server.backup ? ", backup" : ""));
    attr(this.name.sub, "title", server.address);
    attr(this.more, "aria-label", `Actions for ${server.name}`);
    this.sayState(server);
    if (this.seen) this.sayRest();
  }

  sayRest(): void {
    const { server } = this;
    this.sayCalls(server);
    this.sayResponses(server);
    this.sayCheck(server);
    this.sayBreaker(server.breaker);
    this.sayWeight(server);
  }

  private flash(): void {
    this.node.classList.add("changed");
    setTimeout(() => this.node.classList.remove("changed"), CHANGED_MS);
  }

  private sayState(server: Server): void {
    mend(this.mark, server.level);
    put(this.word, server.state);
    const since = duration(server.since_seconds);
    put(this.state.sub, server.why ? `${since}: ${server.why}` : `for ${since}`);
    attr(this.state.sub, "title", `${server.why ?? server.state}, for ${since}; down ${duration(server.downtime_seconds)} in all`);
  }

  private sayCalls(server: Server): void {
    const draining = server.admin === "drain" || server.admin === "leaving";
    this.drainedFrom = draining ? Math.max(this.drainedFrom, server.calls) : 0;
    put(this.calls.main, count(server.calls));
    put(this.calls.sub, draining ? (server.calls > 0 ? "left" : "empty") : server.max_calls > 0 ? `of ${count(server.max_calls)}` : "");
    show(this.left, draining && this.drainedFrom > 0);
    if (draining && this.drainedFrom > 0) {
      const ended = Math.round(100 * (1 - server.calls / this.drainedFrom));
      attr(this.left, "aria-valuenow", String(ended));
      attr(this.left, "title", `${plural(server.calls, "call")} of ${count(this.drainedFrom)} left`);
      size(this.left, "--part", String(ended / 100));
    }
    put(this.rate.main, amount(server.calls_per_second));
    put(this.rate.sub, `${amount(server.requests_per_second)} req/s`);
    attr(this.rate.node, "title", server.max_rate > 0 ? `at most ${count(server.max_rate)} calls each second` : null);
    put(this.p95.main, amount(server.p95_ms));
    put(this.p95.sub, server.p99_ms === null ? "" : `p99 ${amount(server.p99_ms)}`);
    attr(this.p95.node, "title", `p50 ${amount(server.p50_ms)} ms`);
  }

  private sayResponses(server: Server): void {
    this.bar.update(server.responses);
    const { text, loud } = finals(server.responses);
    put(this.responses.sub, text);
    this.responses.sub.classList.toggle("loud", loud);
    put(this.failed.main, count(server.failed));
    put(this.failed.sub, server.unreachable > 0 ? `${count(server.unreachable)} unreach.` : "");
    attr(this.failed.node, "title", `${count(server.unreachable)} unreachable, ${plural(server.retransmissions, "retransmission")}`);
  }

  private sayCheck({ check }: Server): void {
    this.dots.node.toggleAttribute("hidden", !check);
    if (check) this.dots.update(check);
    put(this.checks.sub, check ? check.word : "not checked");
    this.checks.sub.classList.toggle("loud", check !== null && !check.ok);
    attr(this.checks.node, "title", check ? `${count(check.failed_total)} failed in all, ${count(check.down_total)} times down; rise ${check.rise}, fall ${check.fall}` : null);
  }

  private sayBreaker(breaker: Breaker | null): void {
    attr(this.breaker.node, "data-breaker", breaker?.state ?? null);
    if (!breaker) {
      put(this.breaker.main, NOTHING);
      put(this.breaker.sub, "");
      return;
    }
    const left = breaker.closes_in_seconds;
    const second = {
      closed: "",
      open: left !== null ? `tries in ${Math.ceil(left)}${THIN}s` : "",
      "half-open": breaker.trials_done > 0 ? `${breaker.trials_done} of ${breaker.trials} trials` : `${breaker.trials} trials`,
    };
    put(this.breaker.main, breaker.state);
    put(this.breaker.sub, second[breaker.state]);
    const failed = percent((100 * breaker.failed) / Math.max(1, breaker.total), 2);
    attr(this.breaker.node, "title", `${count(breaker.failed)} of ${plural(breaker.total, "call")} failed (${failed}), ${count(breaker.rejected)} held back`);
  }

  private sayWeight(server: Server): void {
    put(this.weight.main, count(server.weight));
    const slow = server.throttle_percent !== null && server.throttle_percent < 100;
    put(this.weight.sub, slow ? `starting, ${server.throttle_percent}${THIN}%` : server.weight !== server.weight_configured ? `of ${count(server.weight_configured)}` : "");
  }
}
