// What one may do to a server: a menu at its row, and a dialog that says what will happen before it does.

import { post } from "./ask";
import { attr, h, put, show } from "./dom";
import { consequence, session, weightOf, type Act } from "./consequence";
import type { Backend, Picture, Server } from "./picture";

interface Item {
  act: Act;
  label: string;
  /** What the button says that does it. */
  go: string;
  /** `sessions`: what the server has, calls or what a relay has. */
  hint(sessions: string): string;
}

const keeps = (sessions: string) => `keeps its ${sessions}, takes no new ones`;
const ITEMS: Item[] = [
  { act: "ready", label: "Ready", go: "Make ready", hint: (sessions) => `takes new ${sessions}` },
  { act: "drain", label: "Drain", go: "Drain", hint: keeps },
  { act: "maint", label: "Maintenance", go: "Put in maintenance", hint: (sessions) => (sessions === "connections" ? keeps(sessions) : `its ${sessions} go to others at once`) },
  { act: "weight", label: "Weight\u2026", go: "Set weight", hint: (sessions) => `its part of the new ${sessions}` },
  { act: "close-breaker", label: "Close breaker", go: "Close breaker", hint: (sessions) => `without trial ${sessions}` },
];

/** Why an action is not to be had; null where it is. */
function obstacle(picture: Picture, server: Server, act: Act): string | null {
  if (picture.user.role === "viewer") return "a viewer only looks";
  if (server.admin === "leaving") return "it is leaving: a reload removed it";
  if (act === server.admin) return `it is ${act === "ready" ? "ready" : act === "drain" ? "draining" : "in maintenance"} already`;
  if (act !== "close-breaker") return null;
  if (!server.breaker) return "it has no breaker";
  return server.breaker.state === "closed" ? "it is closed" : null;
}

/** The menu of a row. One for the whole page: it is where it was asked for. */
export class Menu {
  readonly node = h("div", { class: "menu", role: "menu", hidden: true });
  private readonly note = h("p", { class: "note", hidden: true });
  private readonly items: { item: Item; button: HTMLButtonElement; hint: HTMLElement }[];
  private asked: { backend: Backend; server: Server; from: HTMLElement } | null = null;

  constructor(private readonly picture: () => Picture | null, private readonly choose: (backend: Backend, server: Server, act: Act) => void) {
    this.items = ITEMS.map((item) => {
      const hint = h("small");
      const button = h("button", { type: "button", role: "menuitem", tabindex: -1, onclick: () => this.take(item.act) }, h("span", {}, item.label), hint);
      return { item, button, hint };
    });
    this.node.append(this.note, ...this.items.map((one) => one.button));
    this.node.addEventListener("keydown", (event) => this.key(event));
    this.node.addEventListener("focusout", (event) => {
      if (!this.node.contains(event.relatedTarget as globalThis.Node | null)) this.close(false);
    });
    for (const moved of ["scroll", "resize"]) addEventListener(moved, () => this.place(), { passive: true, capture: true });
  }

  open(backend: Backend, server: Server, from: HTMLElement): void {
    const picture = this.picture();
    if (!picture) return;
    this.asked = { backend, server, from };
    const viewer = picture.user.role === "viewer";
    show(this.note, viewer);
    put(this.note, viewer ? `${picture.user.name === "nobody" ? "You" : picture.user.name} may look: log in as an operator or an admin to do this.` : "");
    const sessions = `${session(backend, server)}s`;
    for (const { item, button, hint } of this.items) {
      const why = obstacle(picture, server, item.act);
      attr(button, "aria-disabled", why ? "true" : null);
      put(hint, (!viewer && why) || item.hint(sessions));
    }
    attr(this.node, "aria-label", `Actions for ${server.name}`);
    attr(from, "aria-expanded", "true");
    show(this.node, true);
    this.place();
    this.items[0]!.button.focus({ preventScroll: true });
  }

  private place(): void {
    const at = this.asked?.from.getBoundingClientRect();
    if (!at) return;
    const { offsetWidth: width, offsetHeight: height } = this.node;
    const below = at.bottom + 4 + height <= innerHeight;
    const top = below ? at.bottom + 4 : Math.max(8, at.top - height - 4);
    this.node.style.setProperty("left", `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`);
    this.node.style.setProperty("top", `${top}px`);
  }

  private close(back: boolean): void {
    if (!this.asked) return;
    const { from } = this.asked;
    this.asked = null;
    attr(from, "aria-expanded", null);
    show(this.node, false);
    if (back) from.focus();
  }

  private take(act: Act): void {
    const { asked } = this;
    const picture = this.picture();
    if (!asked || !picture || obstacle(picture, asked.server, act)) return;
    this.close(true);
    this.choose(asked.backend, asked.server, act);
  }

  private key(event: KeyboardEvent): void {
    const buttons = this.items.map((one) => one.button);
    const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
    const to: Record<string, number> = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 };
    if (event.key === "Escape" || event.key === "Tab") this.close(true);
    else if (event.key in to) buttons[(to[event.key]! + buttons.length) % buttons.length]!.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** Says what will happen, and does it when told so. */
export class Confirm {
  readonly node: HTMLDialogElement;
  private readonly title = h("h2", { id: "confirm-title" });
  private readonly says = h("div", { id: "confirm-says", class: "consequence" });
  private readonly weight = h("input", { id: "weight", inputmode: "text", autocomplete: "off", spellcheck: "false", maxlength: 4 });
  private readonly weighing = h("div", { class: "field" }, h("label", { for: "weight" }, "New weight"), this.weight, h("small", {}, "0 to 256, or a percentage such as 50%"));
  private readonly error = h("p", { class: "error", role: "alert" });
  private readonly cancel = h("button", { type: "button" }, "Cancel");
  private readonly go = h("button", { type: "submit", class: "primary" });
  private asked: { backend: string; server: string; act: Act } | null = null;
  private busy = false;

  constructor(private readonly picture: () => Picture | null, private readonly onDone: (said: string) => void) {
    const form = h("form", { method: "dialog" }, this.title, this.says, this.weighing, this.error, h("div", { class: "buttons" }, this.cancel, this.go));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.act();
    });
    this.cancel.addEventListener("click", () => this.node.close());
    this.weight.addEventListener("input", () => this.describe());
    this.node = h("dialog", { "aria-labelledby": "confirm-title", "aria-describedby": "confirm-says" }, form);
  }

  open(backend: Backend, server: Server, act: Act): void {
    this.asked = { backend: backend.name, server: server.name, act };
    put(this.error, "");
    put(this.go, ITEMS.find((item) => item.act === act)!.go);
    this.weight.value = String(server.weight);
    show(this.weighing, act === "weight");
    this.describe();
    this.node.showModal();
    if (act === "weight") this.weight.select();
    else this.go.focus();
  }

  /** Again with each picture: what is read is what will be done. */
  describe(): void {
    const { asked } = this;
    const backend = this.picture()?.backends.find((one) => one.name === asked?.backend);
    const server = backend?.servers.find((one) => one.name === asked?.server);
    if (!asked || !backend || !server) return;
    const will = consequence(backend, server, asked.act, this.weight.value);
    put(this.title, will.title);
    attr(this.node, "data-grave", will.grave ? "" : null);
    will.sentences.forEach((sentence, index) => {
      const line = this.says.children[index] ?? this.says.appendChild(h("p"));
      put(line, sentence);
    });
    while (this.says.children.length > will.sentences.length) this.says.lastElementChild!.remove();
    this.go.disabled = asked.act === "weight" && weightOf(this.weight.value, server.weight_configured) === null;
  }

  private async act(): Promise<void> {
    const { asked } = this;
    if (!asked || this.busy || this.go.disabled) return;
    this.busy = true;
    put(this.error, "");
    const wish = { backend: asked.backend, server: asked.server, do: asked.act, ...(asked.act === "weight" && { weight: this.weight.value.trim() }) };
    const answer = await post<{ said?: string }>("/api/v1/server", wish);
    this.busy = false;
    if (!answer.ok) return put(this.error, answer.status === 403 ? `Refused: ${answer.error}` : answer.error);
    this.node.close();
    this.onDone(answer.value.said || `${asked.server}: ${asked.act === "weight" ? "weight set" : `${asked.act} done`}`);
  }
}
