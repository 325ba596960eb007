// Small drawings inside tables: responses by class, the last checks.

import { attr, h, show, size, svg } from "./dom";
import { count, duration, percent, sum } from "./format";
import type { Check } from "./picture";

const CLASSES = ["1xx", "2xx", "3xx", "4xx", "5xx", "6xx"];

/** Responses 1xx to 6xx as parts of one bar. What is there at all is seen, be it one in a million. */
export class ResponseBar {
  readonly node: HTMLElement;
  private readonly parts = CLASSES.map((name) => h("i", { class: `r${name[0]}` }));

  constructor() {
    this.node = h("span", { class: "responses", role: "img" }, ...this.parts);
  }

  update(responses: number[]): void {
    const total = sum(responses);
    this.parts.forEach((part, index) => {
      const value = responses[index] ?? 0;
      size(part, "--part", total > 0 ? (value / total).toFixed(4) : "0");
      show(part, value > 0);
    });
    const words = CLASSES.map((name, index) => [name, responses[index] ?? 0] as const)
      .filter(([, value]) => value > 0)
      .map(([name, value]) => `${name} ${count(value)} (${percent((100 * value) / total, 2)})`);
    const said = words.join(", ") || "no responses";
    attr(this.node, "aria-label", said);
    attr(this.node, "title", said);
  }
}

/** "5xx 0.02 %": the part of final responses that speak of trouble, or how many there were where there was none. */
export function finals(responses: number[]): { text: string; loud: boolean } {
  const all = sum(responses.slice(1));
  if (all === 0) return { text: "none", loud: false };
  const failed = (responses[4] ?? 0) + (responses[5] ?? 0);
  const part = (100 * failed) / all;
  if (failed === 0) return { text: `${count(all)} finals`, loud: false };
  return { text: `${percent(part, part < 1 ? 2 : 1)} 5xx, 6xx`, loud: part >= 1 };
}

const LAST = 20;
const STEP = 6;

/** The last checks: a dot for one that passed, a cross for one that failed, newest right. */
export class CheckDots {
  readonly node: SVGSVGElement;
  private readonly title = svg("title");
  private readonly passed = svg("path", { class: "passed" });
  private readonly failed = svg("path", { class: "failed" });
  private check: Check | null = null;

  constructor() {
    this.node = svg("svg", { class: "dots", viewBox: `0 0 ${LAST * STEP} 10`, role: "img", onpointermove: (event: PointerEvent) => this.name(event) },
      this.title, this.passed, this.failed);
  }

  update(check: Check): void {
    this.check = check;
    const last = check.last.slice(-LAST);
    let passed = "";
    let failed = "";
    last.forEach(({ ok }, index) => {
      const x = (LAST - last.length + index + 0.5) * STEP;
      if (ok) passed += `M${x - 1.9} 5a1.9 1.9 0 1 1 3.8 0a1.9 1.9 0 1 1 -3.8 0z`;
      else failed += `M${x - 1.7} 3.3l3.4 3.4m0 -3.4l-3.4 3.4`;
    });
    attr(this.passed, "d", passed);
    attr(this.failed, "d", failed);
    attr(this.node, "aria-label", `${last.filter((one) => one.ok).length} of the last ${last.length} checks passed; the last: ${check.word}`);
  }

  /** The title follows the pointer: twenty titles for each of a thousand servers, each changing every second, would cost much. */
  private name(event: PointerEvent): void {
    if (!this.check) return;
    const box = this.node.getBoundingClientRect();
    const last = this.check.last.slice(-LAST);
    const at = Math.floor(((event.clientX - box.left) / box.width) * LAST) - (LAST - last.length);
    const one = last[at];
    this.title.textContent = one ? `${one.word}, ${duration(one.ago_seconds)} ago` : "";
  }
}
