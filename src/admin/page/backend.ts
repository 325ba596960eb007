// One backend: what it is, how its calls are split among regions, and its servers by region.

import { attr, h, Keyed, mark, mend, put, show, size, type View } from "./dom";
import { amount, count, NOTHING, percent, plural, share, signed } from "./format";
import { headRow, SERVER } from "./columns";
import type { Backend, Level, Region, Server } from "./picture";
import { ServerRow } from "./server";

/** Above so many servers a region where all is well is closed until somebody opens it. */
const MANY = 50;
/** From so many points on a deviation that chance does not explain is loud. */
const ACT = 10;
/** Less is rounding. */
const MOVED = 0.05;

export interface Wanted {
  text: string;
  trouble: boolean;
}

function matches(server: Server, { text, trouble }: Wanted): boolean {
  if (trouble && server.level === "good") return false;
  if (text === "") return true;
  const about = `${server.name} ${server.region} ${server.state} ${server.address}`.toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => about.includes(word));
}

class Share implements View<Region> {
  readonly node: HTMLElement;
  private readonly name = h("span", { class: "name" });
  private readonly actual = h("b");
  private readonly target = h("span", { class: "muted" });
  private readonly off = h("span", { class: "off" });
  private readonly reason = h("span", { class: "reason" });
  private readonly bar = h("span", { class: "share", "aria-hidden": "true" }, h("i"), h("em"), h("u"));

  constructor() {
    this.node = h("li", {}, this.name, this.bar, h("span", { class: "figures" }, this.actual, this.target), this.off, this.reason);
  }

  update(region: Region): void {
    const { expected_percent: expected, target_percent: target } = region;
    const actual = region.judged ? region.actual_percent : null;
    put(this.name, region.name);
    put(this.actual, actual === null ? NOTHING : percent(actual));
    put(this.target, `of ${share(target)}`);
    size(this.bar, "--actual", `${actual ?? 0}%`);
    size(this.bar, "--target", `${target}%`);
    size(this.bar, "--expected", `${expected}%`);
    attr(this.bar, "data-moved", Math.abs(expected - target) > MOVED ? "" : null);
    // What the servers that are left explain is no surprise; a region that should have calls and has none is loud.
    const gone = target > 0 && expected === 0;
    const far = actual !== null && Math.abs(actual - expected) >= ACT;
    const level: Level = gone ? "bad" : !region.deviates ? "good" : far ? "bad" : "warning";
    put(this.off, actual === null ? "" : `${signed(actual - target)} points`);
    attr(this.node, "data-level", level);
    put(this.reason, region.reason ?? (actual === null ? "too few calls in the last minute to judge" : ""));
  }
}

/** What a region's rows are made from. */
interface Group {
  name: string;
  region: Region | null;
  servers: Server[];
  shown: Server[];
  searched: boolean;
}

class RegionRows implements View<Group> {
  readonly node: HTMLTableSectionElement;
  private readonly rows: Keyed<Server, ServerRow>;
  private readonly toggle = h("button", { class: "region", type: "button", onclick: () => this.turn() }, h("span", { class: "arrow", "aria-hidden": "true" }));
  private readonly mark = mark("good");
  private readonly name = h("span", { class: "name" });
  private readonly says = h("span", { class: "says" });
  private readonly head: HTMLElement;
  private chosen: boolean | null = null;
  private opened = true;
  private group!: Group;

  constructor(onActions: (server: Server, button: HTMLButtonElement) => void) {
    this.toggle.append(this.mark, this.name, this.says);
    this.head = h("tr", { class: "region" }, h("th", { scope: "rowgroup", colspan: SERVER.length + 1 }, this.toggle));
    this.node = h("tbody", {}, this.head);
    this.rows = new Keyed(this.node, (server) => server.name, () => new ServerRow(onActions), this.head);
  }

  update(group: Group): void {
    this.group = group;
    const { region, servers, shown } = group;
    const up = servers.filter((server) => server.takes_new).length;
    const level: Level = up === 0 ? "bad" : servers.some((server) => server.level === "bad" || server.level === "warning") ? "warning" : "good";
    mend(this.mark, level);
    put(this.name, group.name || "servers");
    const words = [`${up} of ${servers.length} take calls`];
    if (region) {
      words.push(`weight ${count(region.weight)}`);
      if (region.availability_percent !== null) words.push(`${percent(region.availability_percent, 2)} available`);
      if (region.check_ms !== null) words.push(`checks ${amount(region.check_ms)} ms`);
    }
    put(this.says, words.join("  \u00b7  "));
    this.opened = group.searched || (this.chosen ?? (servers.length <= MANY || level !== "good"));
    attr(this.toggle, "aria-expanded", String(this.opened));
    this.rows.update(this.opened ? shown : []);
    show(this.node, shown.length > 0);
  }

  private turn(): void {
    this.chosen = !this.opened;
    this.update(this.group);
  }
}

export class BackendCard implements View<Backend> {
  readonly node: HTMLElement;
  backend!: Backend;
  private readonly mark = mark("good");
  private readonly title = h("h2");
  private readonly says = h("p", { class: "says" });
  private readonly part: HTMLElement;
  private readonly caption = h("p", { class: "caption" });
  private readonly shares: Keyed<Region>;
  private readonly table: HTMLTableElement;
  private readonly none = h("p", { class: "none", hidden: true }, "No server matches.");
  private readonly groups: Keyed<Group, RegionRows>;

  constructor(private readonly wanted: () => Wanted, onActions: (backend: Backend, server: Server, button: HTMLButtonElement) => void) {
    const list = h("ul");
    this.shares = new Keyed<Region>(list, (region) => region.name, () => new Share());
    const head = headRow(SERVER, h("th", { scope: "col", class: "actions" }, h("span", { class: "unseen" }, "Actions")));
    this.table = h("table", { class: "servers" }, head);
    const rows = () => new RegionRows((server, button) => onActions(this.backend, server, button));
    this.groups = new Keyed(this.table, (group) => group.name, rows, head);
    this.part = h("div", { class: "split" }, this.caption, list);
    this.node = h("section", { class: "card backend" },
      h("div", { class: "title" }, this.mark, this.title, this.says), this.part, this.table, this.none);
  }

  update(backend: Backend): void {
    this.backend = backend;
    const wanted = this.wanted();
    const level = backend.up === 0 ? "bad" : backend.up < backend.servers_total ? "warning" : "good";
    attr(this.node, "aria-label", `Backend ${backend.name}`);
    mend(this.mark, level);
    put(this.title, backend.name);
    put(this.says, [
      backend.status, backend.balance, `${backend.up} of ${plural(backend.servers_total, "server")} up`,
      plural(backend.calls, "call"), `${amount(backend.calls_per_second)} calls/s`,
    ].join("  \u00b7  "));
    show(this.part, backend.regions.length > 1);
    const moved = backend.regions.some(({ expected_percent, target_percent }) => Math.abs(expected_percent - target_percent) > MOVED);
    put(this.caption, "New calls of the last minute by region; the line is the target" + (moved ? ", the dotted one what the servers that are left should have" : ""));
    this.shares.update(backend.regions);
    const groups = grouped(backend, wanted);
    this.groups.update(groups);
    const empty = groups.every((group) => group.shown.length === 0);
    show(this.none, empty);
    show(this.table, !empty);
  }
}

function grouped(backend: Backend, wanted: Wanted): Group[] {
  const searched = wanted.text !== "" || wanted.trouble;
  const empty = (name: string, region: Region | null): Group => ({ name, region, servers: [], shown: [], searched });
  const groups = new Map(backend.regions.map((region) => [region.name, empty(region.name, region)]));
  for (const server of backend.servers) {
    const name = server.region;
    let group = groups.get(name);
    if (!group) groups.set(name, (group = empty(name, null)));
    group.servers.push(server);
    if (matches(server, wanted)) group.shown.push(server);
  }
  return [...groups.values()].filter((group) => group.servers.length > 0);
}
