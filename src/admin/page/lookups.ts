// The panels that answer a question: pins, responses by method and code, bad messages, names at HAProxy.

import { get } from "./ask";
import { attr, h, Keyed, put, show, size, type View } from "./dom";
import { clock, count, duration, percent, sum, THIN } from "./format";
import { FRONTEND, REGION, SERVER, type Column } from "./columns";
import type { BadMessage, Found, Picture, Pin, Server } from "./picture";
import type { Panel } from "./tabs";

export class Pins implements Panel {
  readonly id = "pins";
  readonly title = "Pins";
  readonly node: HTMLElement;
  private readonly meter = h("span", { class: "meter wide", role: "img" }, h("i"));
  private readonly used = h("p", { class: "says" });
  private readonly input = h("input", { id: "call-id", type: "search", autocomplete: "off", spellcheck: "false", placeholder: "a84b4c76e66710@pc33.example.ng", maxlength: 256 });
  private readonly result = h("p", { class: "result", role: "status" });

  constructor() {
    const form = h("form", { class: "find" }, h("label", { for: "call-id" }, "Whose is this Call-ID, or what calls stick by?"),
      h("div", {}, this.input, h("button", { type: "submit" }, "Find")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.find();
    });
    this.node = h("div", {}, form, this.result, this.used, this.meter);
  }

  update({ pins }: Picture): void {
    const part = pins.size > 0 ? pins.used / pins.size : 0;
    put(this.used, `${count(pins.used)} of ${count(pins.size)} pins are used (${percent(100 * part, 2)}); ${count(pins.evicted)} were given up for newer ones.`);
    size(this.meter, "--part", part.toFixed(4));
    attr(this.meter, "aria-label", `${percent(100 * part, 2)} of the pins are used`);
  }

  private async find(): Promise<void> {
    const wanted = this.input.value.trim();
    if (wanted === "") return put(this.result, "");
    const answer = await get<Pin>(`/api/v1/pins?find=${encodeURIComponent(wanted)}`);
    if (!answer.ok) return put(this.result, answer.error);
    const { found, stuck } = answer.value;
    const said = stuck.map((one) => `It sticks to ${says(one, "confirmed")}`);
    if (found) said.unshift(says(found, "the call was answered"));
    put(this.result, said.join(" ") || "Nothing: no such call or key is known; a new one would be balanced.");
  }
}

function says({ server, confirmed, expires_seconds: rest }: Found, yes: string): string {
  const kept = rest === null ? "" : `; kept for ${duration(rest)} without a message`;
  return `${server}; ${confirmed ? yes : "not yet answered"}${kept}.`;
}

const METHODS = ["INVITE", "REGISTER", "OPTIONS", "BYE", "other"];

/** Codes by methods: of all servers, or of one. */
export class Responses implements Panel {
  readonly id = "responses";
  readonly title = "Responses";
  readonly node: HTMLElement;
  private readonly choice = h("select", { id: "responses-of", onchange: () => this.paint() }, h("option", { value: "" }, "all servers"));
  private readonly place = h("div", { class: "wide" });
  private readonly known = new Set<string>();
  private picture!: Picture;
  private shape = "";

  constructor() {
    this.node = h("div", {}, h("div", { class: "find" }, h("label", { for: "responses-of" }, "Responses of"), this.choice), this.place);
  }

  update(picture: Picture): void {
    this.picture = picture;
    this.paint();
  }

  private paint(): void {
    const { value } = this.choice;
    const rows = new Map<string, number[]>();
    for (const backend of this.picture.backends) {
      for (const server of backend.servers) {
        const name = `${backend.name}/${server.name}`;
        if (!this.known.has(name)) this.choice.append(h("option", { value: name }, name));
        this.known.add(name);
        if (value === "" || value === name) add(rows, server);
      }
    }
    this.draw([...rows].sort(([a], [b]) => a.localeCompare(b)));
  }

  /** Anew only where there is another row; else the numbers change in place. */
  private draw(rows: [string, number[]][]): void {
    const shape = rows.map(([code]) => code).join();
    if (shape !== this.shape || !this.place.firstChild) this.build(rows);
    this.shape = shape;
    const values = rows.flatMap(([, row]) => [...row, sum(row)]);
    this.place.querySelectorAll("td").forEach((cell, index) => {
      put(cell, count(values[index]!));
      cell.classList.toggle("zero", values[index] === 0);
    });
  }

  private build(rows: [string, number[]][]): void {
    const head = (title: string) => h("th", { scope: "col", class: title === "Code" ? undefined : "number" }, title);
    const cells = () => [...METHODS, "All"].map(() => h("td", { class: "number" }));
    const table = h("table", { class: "matrix" }, h("thead", {}, h("tr", {}, ...["Code", ...METHODS, "All"].map(head))),
      h("tbody", {}, ...rows.map(([code]) => h("tr", {}, h("th", { scope: "row" }, code), ...cells()))));
    this.place.replaceChildren(rows.length > 0 ? table : h("p", { class: "none" }, "No server has answered yet."));
  }
}

function add(rows: Map<string, number[]>, { codes }: Server): void {
  for (const { code, method, count: value } of codes) {
    if (value === 0) continue;
    const row = rows.get(code) ?? METHODS.map(() => 0);
    rows.set(code, row);
    const at = METHODS.indexOf(method);
    row[at < 0 ? METHODS.length - 1 : at]! += value;
  }
}

class Bad implements View<BadMessage> {
  readonly node: HTMLElement;
  private readonly at = h("span", { class: "at" });
  private readonly about = h("span", { class: "about" });
  private readonly text = h("pre", { tabindex: 0 });

  constructor(private readonly now: () => number) {
    this.node = h("details", {}, h("summary", {}, this.at, this.about), this.text);
  }

  update(message: BadMessage): void {
    put(this.at, clock(message.at, this.now()));
    put(this.about, `${message.reason.replace(/_/g, " ")}, from ${message.source} at ${message.frontend}, ${count(message.bytes)}${THIN}bytes`);
    put(this.text, message.text);
  }
}

export class BadMessages implements Panel {
  readonly id = "bad";
  readonly title = "Bad messages";
  readonly node: HTMLElement;
  private readonly none = h("p", { class: "none" });
  private readonly list = h("div", { class: "bad" });
  private readonly views: Keyed<BadMessage>;
  private now = 0;
  private asked = 0;

  constructor() {
    this.views = new Keyed<BadMessage>(this.list, (one) => one.id, () => new Bad(() => this.now));
    this.node = h("div", {}, h("p", { class: "says" }, "What came and could not be understood, as it came. Do not trust it: anybody may have written it."), this.list, this.none);
  }

  update(picture: Picture, opened: boolean): void {
    this.now = picture.made_at;
    const viewer = picture.user.role === "viewer";
    put(this.none, viewer ? "They are somebody's messages: an operator may see them." : "No bad message has come since the start.");
    const now = performance.now();
    if (viewer || (!opened && now - this.asked < 2_000)) return;
    this.asked = now;
    void get<{ messages: BadMessage[] }>("/api/v1/bad").then((answer) => {
      if (!answer.ok) return;
      this.views.update(answer.value.messages);
      show(this.none, answer.value.messages.length === 0);
    });
  }
}

/** What HAProxy calls what this page shows. */
export class Names implements Panel {
  readonly id = "names";
  readonly title = "HAProxy names";
  readonly node: HTMLElement;

  constructor() {
    const part = (title: string, columns: Column[]) => h("tbody", {},
      h("tr", { class: "part" }, h("th", { scope: "rowgroup", colspan: 4 }, title)),
      ...columns.map((column) => h("tr", {}, h("th", { scope: "row" }, column.title),
        h("td", {}, column.means), h("td", {}, h("code", {}, column.haproxy || "\u2013")), h("td", {}, h("code", {}, column.metric)))));
    this.node = h("div", {}, h("table", { class: "names" },
      h("thead", {}, h("tr", {}, ...["Here", "Means", "show stat", "/metrics"].map((title) => h("th", { scope: "col" }, title)))),
      part("Servers", SERVER), part("Frontends", FRONTEND), part("Regions", REGION)));
  }

  update(): void {}
}
