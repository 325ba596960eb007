// The top of the page: which node this is, how fresh its word, and the verdict.

import { attr, h, mark, mend, put, show, svg } from "./dom";
import { clock, count, duration } from "./format";
import type { Freshness, Link } from "./live";
import type { Picture } from "./picture";

type Theme = "auto" | "light" | "dark";
const THEMES: Theme[] = ["auto", "light", "dark"];
const KEY = "trunkline.theme";

const DARK = "(prefers-color-scheme: dark)";
const CONDITION: Record<Theme, string> = { auto: DARK, light: "not all", dark: "all" };

/** The one rule of the style sheet that has the dark colours. */
const dark = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules])
  .find((rule): rule is CSSMediaRule => rule instanceof CSSMediaRule && rule.conditionText === DARK);

function chosen(): Theme {
  let theme: Theme = "auto";
  try {
    const kept = localStorage.getItem(KEY) as Theme | null;
    if (kept && THEMES.includes(kept)) theme = kept;
  } catch {
    // A browser that keeps nothing follows the system.
  }
  return theme;
}

export function applyTheme(theme = chosen()): Theme {
  if (dark) dark.media.mediaText = CONDITION[theme];
  return theme;
}

function themeButton(onChange: () => void): HTMLElement {
  const words = { auto: "Auto", light: "Light", dark: "Dark" };
  const word = h("span");
  const half = svg("svg", { class: "half", viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("circle", { cx: 8, cy: 8, r: 6.2 }), svg("path", { d: "M8 1.8a6.2 6.2 0 0 1 0 12.4z" }));
  const button = h("button", { class: "quiet", type: "button", title: "Colours: as the system, light or dark" }, half, word);
  let theme = applyTheme();
  const paint = () => {
    put(word, words[theme]);
    attr(button, "aria-label", `Colours: ${theme}`);
  };
  button.addEventListener("click", () => {
    theme = applyTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
    paint();
    onChange();
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // It is kept until the page is loaded again.
    }
  });
  paint();
  return button;
}

const WORDS: Record<Link, string> = {
  waiting: "asking\u2026", live: "live", polling: "live, by asking", silent: "no word", paused: "paused",
  stopping: "the node is stopping", login: "log in again",
};

/** Three lines that come out of one: the trunk. */
const sign = () =>
  svg("svg", { class: "sign", viewBox: "0 0 24 24", "aria-hidden": "true" },
    svg("path", { d: "M2 12H8C13 12 12 5 17 5H22M8 12H22M8 12C13 12 12 19 17 19H22" }));

export class Head {
  readonly node: HTMLElement;
  private readonly name = h("span", { class: "node" });
  private readonly link = h("span", { class: "link", "data-link": "waiting" });
  private readonly user = h("span", { class: "user" });
  private readonly pause = h("button", { class: "quiet", type: "button", "aria-pressed": "false" }, "Pause");

  constructor(onPause: (paused: boolean) => void, onTheme: () => void) {
    this.pause.addEventListener("click", () => {
      const paused = this.pause.getAttribute("aria-pressed") !== "true";
      attr(this.pause, "aria-pressed", String(paused));
      put(this.pause, paused ? "Go on" : "Pause");
      onPause(paused);
    });
    this.node = h("header", {},
      h("h1", { class: "brand" }, sign(), h("strong", {}, "Trunkline"), this.name),
      h("div", { class: "tools" }, this.link, this.user, this.pause, themeButton(onTheme)));
  }

  update({ node, user }: Picture): void {
    put(this.name, node.name);
    put(this.user, `${user.name}, ${user.role}`);
  }

  freshness({ link, age_seconds }: Freshness): void {
    attr(this.link, "data-link", link);
    const age = age_seconds === null ? "" : duration(Math.max(1, Math.round(age_seconds)));
    const said = link === "silent" && age !== "" ? `no word for ${age}` : age === "" ? WORDS[link] : `${WORDS[link]}, ${age} ago`;
    put(this.link, said);
  }
}

/** One sentence on how things stand. It alone speaks up in a screen reader, and only when it changes its level or words. */
export class Verdict {
  readonly node: HTMLElement;
  private readonly mark = mark("idle");
  private readonly text = h("p", { role: "status", "aria-live": "polite" }, "Asking the node\u2026");
  private readonly facts = new Facts();
  private said = "";

  constructor() {
    this.node = h("section", { class: "verdict", "data-level": "idle", "aria-label": "Verdict" },
      h("div", { class: "sentence" }, this.mark, this.text), this.facts.node);
  }

  update(picture: Picture): void {
    const { level, text } = picture.verdict;
    attr(this.node, "data-level", level);
    mend(this.mark, level);
    this.facts.update(picture);
    // Durations and points go on by themselves; read aloud each second they would drown everything else.
    const essence = level + text.replace(/[\d.]+\s*(d|h|m|s|points?)\b/g, "");
    const quiet = essence === this.said;
    this.said = essence;
    attr(this.text, "aria-live", quiet ? "off" : "polite");
    put(this.text, text);
  }
}

class Facts {
  readonly node = h("dl", { class: "facts" });
  private readonly values = new Map<string, { box: HTMLElement; value: HTMLElement }>();

  update({ node, reload, certificates, made_at }: Picture): void {
    this.say("version", node.version);
    this.say("up", duration(node.uptime_seconds), `process ${node.pid}`);
    this.say("workers", count(node.workers));
    this.say("configuration", node.configuration.slice(0, 8), node.configuration);
    const { last } = reload;
    const when = last ? `${duration(made_at - last.at)} ago${last.ok ? "" : ", refused"}` : "never";
    this.say("role", node.roles.map((role) => `${role.instance} ${role.state}`).join(", "), "", node.roles.some((role) => role.state === "fault"));
    this.say("reload", when, last ? `${clock(last.at, made_at)} by ${last.who}: ${last.said}` : "", last?.ok === false);
    const first = [...certificates].sort((a, b) => a.days - b.days)[0];
    const days = first ? (first.days < 0 ? "expired" : `${count(first.days)} days`) : "";
    this.say("certificate", days, first ? `${first.name} (${first.file})` : "", first !== undefined && first.days < 14);
  }

  private say(name: string, text: string, title = "", loud = false): void {
    let fact = this.values.get(name);
    if (!fact) {
      const value = h("dd");
      fact = { box: h("div", {}, h("dt", {}, name), value), value };
      this.values.set(name, fact);
      this.node.append(fact.box);
    }
    show(fact.box, text !== "");
    put(fact.value, text);
    attr(fact.value, "title", title || null);
    attr(fact.value, "class", loud ? "loud" : null);
  }
}

/** Across the whole page when what it shows is old. */
export class Alarm {
  readonly node = h("div", { class: "alarm", role: "alert", hidden: true });

  update({ link, age_seconds }: Freshness): void {
    const loud = link === "silent" || link === "login" || link === "stopping";
    document.documentElement.classList.toggle("old", link === "silent" || link === "login");
    show(this.node, loud);
    if (!loud) return;
    const age = age_seconds === null ? "" : ` What you see is from before.`;
    const words = {
      silent: "The node has not been heard." + age + " Asking again every 2 seconds.",
      login: "The node wants a name and a password. Load this page again to log in.",
      stopping: "The node is stopping.",
    };
    put(this.node, words[link]);
  }
}
