// How the picture comes: by the stream of events, by asking every two seconds where that does not work, and not at all
// while nobody looks. Says how old the last word is.

import { get, stream } from "./ask";
import type { Picture } from "./picture";

export type Link = "waiting" | "live" | "polling" | "silent" | "paused" | "stopping" | "login";

export interface Freshness {
  link: Link;
  /** Since the last picture came; null before the first. */
  age_seconds: number | null;
}

const BEAT_MS = 500;
const POLL_MS = 2_000;
/** This long without a word is said aloud (longer where a large node speaks less often). */
const SILENT_MS = 4_000;
/** A stream that says nothing for so long is a connection that only we believe in. */
const DEAF_MS = 12_000;
const BACK_OFF_MS = [1_000, 2_000, 4_000, 8_000, 15_000];

export class Live {
  paused = false;
  private source: EventSource | null = null;
  private opened = 0;
  private failures = 0;
  private nextTry = 0;
  private lastPoll = -POLL_MS;
  private asking = false;
  private heard: number | null = null;
  private gap = 1_000;
  private bye = false;
  private stopping = false;
  private login = false;

  constructor(
    private readonly onPicture: (picture: Picture) => void,
    private readonly onFreshness: (freshness: Freshness) => void,
  ) {}

  begin(): void {
    document.addEventListener("visibilitychange", () => this.look());
    setInterval(() => this.beat(), BEAT_MS);
    this.look();
  }

  pause(paused: boolean): void {
    this.paused = paused;
    this.look();
  }

  /** Asks at once: what was just changed should be seen now. */
  async ask(): Promise<void> {
    if (this.asking) return;
    this.asking = true;
    this.lastPoll = performance.now();
    const answer = await get<Picture>("/api/v1/picture");
    this.asking = false;
    this.login = !answer.ok && answer.status === 401;
    if (answer.ok) this.hear(answer.value);
    else this.stopping ||= this.bye;
  }

  /** Nobody looks at a hidden tab or a paused page: it holds no connection and paints nothing. */
  private look(): void {
    if (document.hidden || this.paused) this.close();
    else this.open();
    this.beat();
  }

  private open(): void {
    if (this.source) return;
    const source = stream();
    this.source = source;
    this.opened = performance.now();
    source.addEventListener("picture", (event) => {
      this.failures = 0;
      this.hear(JSON.parse(event.data));
    });
    // It is stopping, or has other users and lets in anew who may look. Who is asked next says which: see `ask`.
    source.addEventListener("bye", () => (this.bye = true));
    source.onerror = () => this.failed();
  }

  private close(): void {
    this.source?.close();
    this.source = null;
  }

  private failed(): void {
    this.close();
    const wait = BACK_OFF_MS[Math.min(this.failures, BACK_OFF_MS.length - 1)]!;
    this.failures += 1;
    this.nextTry = performance.now() + wait;
  }

  private hear(picture: Picture): void {
    const now = performance.now();
    if (this.heard !== null) this.gap = 0.8 * this.gap + 0.2 * Math.min(now - this.heard, 30_000);
    this.heard = now;
    this.bye = false;
    this.stopping = picture.node.stopping;
    this.onPicture(picture);
    this.beat();
  }

  private beat(): void {
    const now = performance.now();
    if (!document.hidden && !this.paused) {
      const silence = now - Math.max(this.opened, this.heard ?? 0);
      if (this.source && silence > DEAF_MS + 3 * this.gap) this.failed();
      if (!this.source && now >= this.nextTry) this.open();
      const streaming = this.source && silence < SILENT_MS + 2 * this.gap;
      if (!streaming && now - this.lastPoll >= POLL_MS) void this.ask();
    }
    this.onFreshness({ link: this.link(now), age_seconds: this.heard === null ? null : (now - this.heard) / 1000 });
  }

  private link(now: number): Link {
    if (this.paused) return "paused";
    if (this.login) return "login";
    if (this.heard === null) return now - this.opened > SILENT_MS ? "silent" : "waiting";
    if (now - this.heard > SILENT_MS + 2 * this.gap) return "silent";
    if (this.stopping) return "stopping";
    return this.source && this.failures === 0 ? "live" : "polling";
  }
}
