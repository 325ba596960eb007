// The frontends: where clients come in, and what was refused there.

import { h, Keyed, mark, mend, put, type View } from "./dom";
import { amount, bytes, count, NOTHING, sum } from "./format";
import { finals, ResponseBar } from "./bars";
import { Cell, FRONTEND, headRow } from "./columns";
import type { Counts, Frontend, Picture } from "./picture";

const [NAME, STATE, CONNECTIONS, RATE, REQUESTS, METHODS, RESPONSES, BYTES, REFUSED] = FRONTEND;

/** The greatest first: "INVITE 1 000, BYE 998". */
export function counted(counts: Counts, most = Infinity, between = ", "): string {
  const all = Object.entries(counts).filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]);
  const said = all.slice(0, most).map(([name, value]) => `${name.replace(/_/g, " ")} ${count(value)}`);
  return said.join(between) + (all.length > most ? " \u2026" : "");
}

class FrontendRow implements View<Frontend> {
  readonly node: HTMLTableRowElement;
  private readonly name = new Cell(NAME!, true);
  private readonly state = new Cell(STATE!);
  private readonly connections = new Cell(CONNECTIONS!);
  private readonly rate = new Cell(RATE!);
  private readonly requests = new Cell(REQUESTS!);
  private readonly methods = new Cell(METHODS!);
  private readonly responses = new Cell(RESPONSES!);
  private readonly bytes = new Cell(BYTES!);
  private readonly refused = new Cell(REFUSED!);
  private readonly mark = mark("good");
  private readonly word = h("span");
  private readonly bar = new ResponseBar();

  constructor() {
    this.state.main.append(this.mark, this.word);
    this.state.main.classList.add("state");
    this.responses.main.append(this.bar.node);
    const cells = [this.name, this.state, this.connections, this.rate, this.requests, this.methods, this.responses, this.bytes, this.refused];
    this.node = h("tr", {}, ...cells.map((cell) => cell.node));
  }

  update(frontend: Frontend): void {
    put(this.name.main, frontend.name);
    put(this.name.sub, frontend.binds.join(", "));
    mend(this.mark, frontend.status === "OPEN" ? "good" : "warning");
    put(this.word, frontend.status.toLowerCase());
    put(this.state.sub, frontend.mode);
    const streams = frontend.connections_total > 0 || frontend.connections > 0;
    put(this.connections.main, streams ? count(frontend.connections) : NOTHING);
    put(this.connections.sub, streams ? `${count(frontend.connections_total)} in all` : "");
    this.connections.node.title = counted(frontend.ends);
    put(this.rate.main, amount(frontend.calls_per_second));
    put(this.requests.main, amount(frontend.requests_per_second));
    put(this.requests.sub, `${count(frontend.requests)} in all`);
    put(this.methods.main, counted(frontend.methods, 2, "\n") || NOTHING);
    this.methods.node.title = counted(frontend.methods);
    this.bar.update(frontend.responses);
    put(this.responses.sub, finals(frontend.responses).text);
    put(this.bytes.main, bytes(frontend.bytes_in));
    put(this.bytes.sub, `${bytes(frontend.bytes_out)} out`);
    put(this.refused.main, `${count(frontend.refused)}, ${count(frontend.dropped)}`);
    put(this.refused.sub, counted(frontend.reasons, 3));
    this.refused.node.title = counted(frontend.reasons);
  }
}

export class Frontends {
  readonly node: HTMLElement;
  private readonly rows: Keyed<Frontend>;
  private readonly drops = h("p", { class: "says below" });

  constructor() {
    const body = h("tbody", {});
    this.rows = new Keyed<Frontend>(body, (frontend) => frontend.name, () => new FrontendRow());
    this.node = h("section", { class: "card", "aria-label": "Frontends" },
      h("div", { class: "title" }, h("h2", {}, "Frontends")),
      h("table", { class: "frontends" }, headRow(FRONTEND), body), this.drops);
  }

  update({ frontends, drops }: Picture): void {
    this.rows.update(frontends);
    const all = sum(Object.values(drops));
    put(this.drops, all > 0 ? `Dropped and refused since the start: ${counted(drops)}` : "Nothing was dropped or refused since the start.");
  }
}
