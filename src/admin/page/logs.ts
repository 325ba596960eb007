// What happened: the health log, and the events with who wanted them. One list, asked on from the last number known.

import { get } from "./ask";
import { attr, h, Keyed, put, show, type View } from "./dom";
import { clock } from "./format";
import type { Event, Picture } from "./picture";
import type { Panel } from "./tabs";

const MOST = 500;
const ASK_MS = 900;
/** The uptime comes in whole seconds, so when the node began is known to one or two. */
const BEGAN_S = 2;
const HEALTH = new Set(["health", "breaker", "weight"]);

/** The events known so far, newest last. */
export class Events {
  all: Event[] = [];
  private asking = false;
  private asked = -ASK_MS;

  private pid = 0;
  private began = 0;

  /** A node that began anew counts its events anew. In a container each process may have the same number, so the time counts too. */
  of({ made_at, node: { pid, uptime_seconds } }: Picture): void {
    const began = made_at - uptime_seconds;
    if (pid !== this.pid || Math.abs(began - this.began) > BEGAN_S) this.all = [];
    this.pid = pid;
    this.began = began;
  }

  async ask(): Promise<boolean> {
    const now = performance.now();
    if (this.asking || now - this.asked < ASK_MS) return false;
    this.asking = true;
    this.asked = now;
    const answer = await get<{ events: Event[] }>(`/api/v1/events?after=${this.all[this.all.length - 1]?.id ?? 0}`);
    this.asking = false;
    if (!answer.ok || answer.value.events.length === 0) return false;
    const last = this.all[this.all.length - 1]?.id ?? 0;
    this.all = [...this.all, ...answer.value.events.filter((event) => event.id > last)].slice(-MOST);
    return true;
  }
}

class Line implements View<Event> {
  readonly node: HTMLElement;
  private readonly at = h("td", { class: "at" });
  private readonly kind = h("span", { class: "kind" });
  private readonly about = h("td", { class: "about" });
  private readonly text = h("td", {});
  private readonly who = h("td", { class: "muted who" });

  constructor(private readonly now: () => number, audit: boolean) {
    this.node = h("tr", {}, this.at, h("td", {}, this.kind), this.about, this.text, audit && this.who);
  }

  update(event: Event): void {
    put(this.at, clock(event.at, this.now()));
    put(this.kind, event.kind);
    attr(this.kind, "data-kind", event.kind);
    put(this.about, event.server ? `${event.backend}/${event.server}` : (event.backend ?? ""));
    put(this.text, event.text);
    put(this.who, event.who ?? "");
  }
}

export class Log implements Panel {
  readonly node: HTMLElement;
  private readonly lines: Keyed<Event>;
  private readonly none: HTMLElement;
  private readonly table: HTMLElement;
  private now = 0;

  constructor(readonly id: string, readonly title: string, private readonly events: Events, private readonly audit: boolean) {
    const body = h("tbody", {});
    this.lines = new Keyed<Event>(body, (event) => String(event.id), () => new Line(() => this.now, audit));
    const heads = ["Time", "Kind", "Server", "What", ...(audit ? ["Who"] : [])];
    this.table = h("table", { class: "log" }, h("thead", {}, h("tr", {}, ...heads.map((title) => h("th", { scope: "col" }, title)))), body);
    this.none = h("p", { class: "none" }, audit ? "Nothing has happened since the start." : "No server has changed its state since the start.");
    this.node = h("div", {}, this.table, this.none);
  }

  update(picture: Picture, opened: boolean): void {
    this.now = picture.made_at;
    this.events.of(picture);
    if (opened) this.paint();
    void this.events.ask().then((news) => news && this.paint());
  }

  private paint(): void {
    const seen = this.events.all.filter((event) => this.audit || HEALTH.has(event.kind)).reverse();
    this.lines.update(seen);
    show(this.table, seen.length > 0);
    show(this.none, seen.length === 0);
  }
}
