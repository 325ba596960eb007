// The small lines: ten minutes in the width of a tile, drawn as one path for the line and one for what is below it.

import { attr, svg } from "./dom";

const WIDTH = 120;
const HEIGHT = 32;
const SECONDS = 600;
type Column = (number | null)[];

export class Spark {
  readonly node: SVGSVGElement;
  private readonly area = svg("path", { class: "area" });
  private readonly line = svg("path", { class: "line" });

  constructor() {
    this.node = svg("svg", {
      class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true",
    }, this.area, this.line);
  }

  /** The end of the column is now, at the right edge; `most` is the height of the picture. */
  update(column: Column): void {
    const points = buckets(column);
    const most = Math.max(...points.map((value) => value ?? 0), 1e-9) * 1.08;
    let line = "";
    let area = "";
    let begun = -1;
    const x = (index: number) => ((index + 0.5) * WIDTH) / points.length;
    const close = (end: number) => {
      if (begun >= 0) area += `L${x(end).toFixed(1)} ${HEIGHT}L${x(begun).toFixed(1)} ${HEIGHT}Z`;
      begun = -1;
    };
    points.forEach((value, index) => {
      if (value === null) return close(index - 1);
      const at = `${x(index).toFixed(1)} ${(HEIGHT - 1 - (value / most) * (HEIGHT - 2)).toFixed(1)}`;
      line += (begun < 0 ? "M" : "L") + at;
      area += (begun < 0 ? "M" : "L") + at;
      if (begun < 0) begun = index;
    });
    close(points.length - 1);
    attr(this.line, "d", line);
    attr(this.area, "d", area);
  }
}

/** Mean of each five seconds, of ten minutes that end now; empty where nothing was measured. */
function buckets(column: Column): Column {
  const wide = SECONDS / WIDTH;
  return Array.from({ length: WIDTH }, (_, index) => {
    const start = column.length - SECONDS + index * wide;
    const known = column.slice(Math.max(0, start), Math.max(0, start + wide)).filter((value) => value !== null);
    return known.length === 0 ? null : known.reduce((total, value) => total + value, 0) / known.length;
  });
}
