// Ten minutes of what the tiles show, one value a second: asked once, then carried on from the pictures.

import { get } from "./ask";
import type { Measure, Now } from "./picture";

const LENGTH = 600;
const MEASURES: Measure[] = [
  "calls", "active_calls", "requests", "p50_ms", "p95_ms", "p99_ms", "failures", "retransmissions", "kernel_drops",
];
type Column = (number | null)[];

export class History {
  /** The second of the last value. */
  until = 0;
  private columns = new Map<Measure, Column>(MEASURES.map((name) => [name, []]));

  /** What the node remembers; what came meanwhile is kept behind it. */
  async load(): Promise<void> {
    const answer = await get<Record<string, unknown>>("/api/v1/history");
    if (!answer.ok) return;
    const until = Math.floor(Number(answer.value.until));
    const newer = Math.max(0, this.until - until);
    if (!Number.isFinite(until) || newer > LENGTH) return;
    for (const name of MEASURES) {
      const old = this.column(name);
      const told = (answer.value[name] as Column | undefined) ?? [];
      this.columns.set(name, [...told, ...(newer > 0 ? old.slice(-newer) : [])].slice(-LENGTH));
    }
    this.until = Math.max(this.until, until);
  }

  /** Adds the picture's second; seconds that were missed stay empty. */
  append(made_at: number, now: Now): void {
    const at = Math.floor(made_at);
    if (at <= this.until) return;
    const missed = this.until === 0 ? 0 : Math.min(at - this.until - 1, LENGTH);
    for (const name of MEASURES) {
      const column = this.column(name);
      for (let second = 0; second < missed; second++) column.push(null);
      column.push(now[name]);
      column.splice(0, column.length - LENGTH);
    }
    this.until = at;
  }

  column(name: Measure): Column {
    return this.columns.get(name)!;
  }

  /** The seconds since 1970 of the values of a column. */
  times(name: Measure): number[] {
    const { length } = this.column(name);
    return this.column(name).map((_, index) => this.until - length + 1 + index);
  }

  most(name: Measure): number {
    return this.column(name).reduce<number>((most, value) => Math.max(most, value ?? 0), 0);
  }
}
