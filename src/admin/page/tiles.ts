// The seven numbers that say how the node is, each with its last ten minutes. A tile opens the large chart.

import { attr, h, put, type View } from "./dom";
import type { Chart, Line } from "./chart";
import { amount, count, percent } from "./format";
import type { History } from "./history";
import type { Measure, Now, Picture } from "./picture";
import { Spark } from "./spark";

interface Kind {
  measure: Measure;
  title: string;
  unit: string;
  lines?: Line[];
  value?(now: Now): string;
  note(picture: Picture, most: number): string;
  bad?(now: Now, most: number): boolean;
}

const of = (part: number, whole: number) => (whole > 0 ? percent((100 * part) / whole, 2) : percent(0, 2));

const KINDS: Kind[] = [
  { measure: "calls", title: "Calls", unit: "/s", note: (_, most) => `most ${amount(most)}` },
  { measure: "active_calls", title: "Active calls", unit: "", value: (now) => count(now.active_calls), note: (_, most) => `most ${count(most)}` },
  { measure: "requests", title: "Requests", unit: "/s",
    note: ({ now }) => (now.calls > 0 ? `${amount(now.requests / now.calls)} for each call` : "no new calls") },
  { measure: "p95_ms", title: "Response time", unit: "ms, p95",
    lines: [
      { measure: "p99_ms", label: "p99", colour: "--series-3" },
      { measure: "p95_ms", label: "p95", colour: "--series-1" },
      { measure: "p50_ms", label: "p50", colour: "--series-2" },
    ],
    note: ({ now }) => `p50 ${amount(now.p50_ms)} \u00b7 p99 ${amount(now.p99_ms)}` },
  { measure: "failures", title: "Failures", unit: "/s", note: ({ now }) => `${of(now.failures, now.requests)} of requests` },
  { measure: "retransmissions", title: "Retransmissions", unit: "/s", note: ({ now }) => `${of(now.retransmissions, now.requests)} of requests` },
  { measure: "kernel_drops", title: "Kernel drops", unit: "/s", bad: (now, most) => now.kernel_drops > 0 || most > 0,
    note: (_, most) => (most > 0 ? `most ${amount(most)}` : "none in ten minutes") },
];

class Tile implements View<Picture> {
  readonly node: HTMLButtonElement;
  private readonly value = h("span", { class: "value" });
  private readonly note = h("span", { class: "note" });
  private readonly spark = new Spark();

  constructor(private readonly kind: Kind, private readonly history: History, onOpen: () => void) {
    this.node = h("button", { class: "tile", type: "button", "aria-expanded": "false", "aria-controls": "chart", onclick: onOpen },
      h("span", { class: "label" }, kind.title),
      h("span", { class: "figure" }, this.value, h("span", { class: "unit" }, kind.unit)),
      this.note, this.spark.node);
  }

  update(picture: Picture): void {
    const { kind } = this;
    const most = this.history.most(kind.measure);
    put(this.value, kind.value ? kind.value(picture.now) : amount(picture.now[kind.measure]));
    put(this.note, kind.note(picture, most));
    attr(this.node, "data-level", kind.bad?.(picture.now, most) ? "bad" : null);
    this.spark.update(this.history.column(kind.measure));
  }
}

export class Tiles {
  readonly node = h("section", { class: "tiles", "aria-label": "Now, and the last ten minutes" });
  private readonly tiles: Tile[];
  private opened = -1;

  constructor(history: History, private readonly chart: Chart) {
    this.tiles = KINDS.map((kind, index) => new Tile(kind, history, () => this.toggle(index)));
    this.node.append(...this.tiles.map((tile) => tile.node));
  }

  update(picture: Picture): void {
    for (const tile of this.tiles) tile.update(picture);
    this.chart.update();
  }

  /** Closes the chart, and gives its tile the focus back. */
  close(): boolean {
    if (this.opened < 0) return false;
    const { node } = this.tiles[this.opened]!;
    this.toggle(this.opened);
    node.focus();
    return true;
  }

  private toggle(index: number): void {
    this.opened = this.opened === index ? -1 : index;
    this.tiles.forEach((tile, at) => attr(tile.node, "aria-expanded", String(at === this.opened)));
    const kind = KINDS[this.opened];
    const line = (one: Kind): Line[] => one.lines ?? [{ measure: one.measure, label: one.title, colour: "--series-1" }];
    this.chart.open(kind ? { title: kind.title, unit: kind.unit.replace(", p95", ""), lines: line(kind) } : null);
  }
}
