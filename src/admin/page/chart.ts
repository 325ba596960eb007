// One large chart, opened from a tile: ten minutes by the second, with what each second was.

import uPlot from "uplot";
import { attr, h, put } from "./dom";
import { amount, clock, count } from "./format";
import type { History } from "./history";
import type { Measure } from "./picture";

const HEIGHT = 260;

export interface Line {
  measure: Measure;
  label: string;
  colour: string;
}

export interface Subject {
  title: string;
  unit: string;
  lines: Line[];
}

const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Chart {
  readonly node: HTMLElement;
  subject: Subject | null = null;
  private readonly title = h("h2");
  private readonly place = h("div", { class: "plot", role: "img" });
  private readonly legend = h("p", { class: "legend" });
  private plot: uPlot | null = null;
  private shown: HTMLElement[] = [];

  constructor(private readonly history: History, onClose: () => void) {
    const close = h("button", { class: "quiet", type: "button", onclick: onClose }, "Close");
    this.node = h("section", { class: "card chart", id: "chart", hidden: true, "aria-label": "Ten minutes" },
      h("div", { class: "title" }, this.title, this.legend, close), this.place);
    new ResizeObserver(() => this.fit()).observe(this.place);
  }

  open(subject: Subject | null): void {
    this.subject = subject;
    this.node.hidden = subject === null;
    this.repaint();
  }

  /** Anew, in the colours of now. */
  repaint(): void {
    this.plot?.destroy();
    this.plot = null;
    const { subject } = this;
    if (!subject) return;
    put(this.title, subject.title);
    this.shown = [h("span"), ...subject.lines.map(() => h("b"))];
    this.legend.replaceChildren(...this.shown.flatMap((value, index) => {
      const line = subject.lines[index - 1];
      return line ? [h("i", { class: line.colour.slice(2) }), line.label, value] : [];
    }), this.shown[0]!);
    this.plot = new uPlot(this.options(subject), this.data(subject), this.place);
    this.describe(subject);
  }

  update(): void {
    if (!this.plot || !this.subject) return;
    this.plot.setData(this.data(this.subject));
    this.describe(this.subject);
  }

  private fit(): void {
    const width = this.place.clientWidth;
    if (this.plot && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  private data({ lines }: Subject): uPlot.AlignedData {
    return [this.history.times(lines[0]!.measure), ...lines.map((line) => this.history.column(line.measure))] as uPlot.AlignedData;
  }

  private describe({ title, unit, lines }: Subject): void {
    const words = lines.map((line) => {
      const known = this.history.column(line.measure).filter((value) => value !== null);
      const now = known[known.length - 1];
      return `${line.label}: now ${amount(now)}, most ${amount(Math.max(0, ...known))}`;
    });
    attr(this.place, "aria-label", `${title}, ten minutes, ${unit}. ${words.join("; ")}`);
    this.point();
  }

  /** The values where the pointer is, or the last ones. */
  private point(): void {
    const { plot, subject } = this;
    if (!plot || !subject) return;
    const times = plot.data[0];
    const at = plot.cursor.idx ?? times.length - 1;
    put(this.shown[0]!, times.length > 0 ? clock(times[at]!, times[times.length - 1]!) : "");
    subject.lines.forEach((_, index) => put(this.shown[index + 1]!, `${amount(plot.data[index + 1]?.[at])} ${subject.unit}`));
  }

  private options({ lines }: Subject): uPlot.Options {
    const axis = { stroke: css("--muted"), font: `12px ${css("--sans")}`, ticks: { show: false } };
    const grid = { stroke: css("--line"), width: 1 };
    return {
      width: this.place.clientWidth || 640,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      hooks: { setCursor: [() => this.point()] },
      scales: { y: { range: (_, __, most) => [0, Math.max(most, 1e-9) * 1.1] } },
      axes: [
        { ...axis, grid: { show: false }, incrs: [60, 120, 300], values: [[60, "{HH}:{mm}", null, null, null, null, null, null, 1]] },
        { ...axis, grid, size: 52, values: (_, ticks) => ticks.map((tick) => (tick < 10 ? amount(tick) : count(tick))) },
      ],
      series: [
        {},
        ...lines.map((line) => ({
          stroke: css(line.colour),
          width: 1.75,
          fill: lines.length === 1 ? css("--wash") : undefined,
          points: { show: false },
        })),
      ] as uPlot.Series[],
    };
  }
}
