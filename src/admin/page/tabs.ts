// The tabs: one panel seen, and only that one is kept true.

import { attr, h } from "./dom";
import type { Picture } from "./picture";

export interface Panel {
  id: string;
  title: string;
  node: HTMLElement;
  /** Called when the panel comes to be seen, and with each picture while it is. */
  update(picture: Picture, opened: boolean): void;
}

export class Tabs {
  readonly node: HTMLElement;
  private readonly buttons: HTMLButtonElement[];
  private selected = 0;
  private picture: Picture | null = null;

  constructor(private readonly panels: Panel[]) {
    this.buttons = panels.map((panel, index) =>
      h("button", { type: "button", role: "tab", id: `tab-${panel.id}`, "aria-controls": `panel-${panel.id}`, onclick: () => this.select(index) }, panel.title));
    for (const panel of panels) {
      for (const [name, value] of [["id", `panel-${panel.id}`], ["role", "tabpanel"], ["tabindex", "0"], ["aria-labelledby", `tab-${panel.id}`]]) {
        panel.node.setAttribute(name!, value!);
      }
    }
    const list = h("div", { role: "tablist", "aria-label": "More", onkeydown: (event: KeyboardEvent) => this.key(event) }, ...this.buttons);
    this.node = h("section", { class: "card tabs", "aria-label": "Details" }, list, ...panels.map((panel) => panel.node));
    this.select(0);
  }

  update(picture: Picture): void {
    const first = this.picture === null;
    this.picture = picture;
    this.panels[this.selected]!.update(picture, first);
  }

  private select(index: number): void {
    this.selected = index;
    this.panels.forEach((panel, at) => {
      panel.node.hidden = at !== index;
      attr(this.buttons[at]!, "aria-selected", String(at === index));
      attr(this.buttons[at]!, "tabindex", at === index ? "0" : "-1");
    });
    if (this.picture) this.panels[index]!.update(this.picture, true);
  }

  private key(event: KeyboardEvent): void {
    const to: Record<string, number> = { ArrowRight: this.selected + 1, ArrowLeft: this.selected - 1, Home: 0, End: this.panels.length - 1 };
    if (!(event.key in to)) return;
    event.preventDefault();
    this.select((to[event.key]! + this.panels.length) % this.panels.length);
    this.buttons[this.selected]!.focus();
  }
}
