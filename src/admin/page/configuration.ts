// The configuration that runs, without its secrets; an admin may have the file read again.

import { get, post } from "./ask";
import { h, put, show } from "./dom";
import type { Picture } from "./picture";
import type { Panel } from "./tabs";

export class Configuration implements Panel {
  readonly id = "configuration";
  readonly title = "Configuration";
  readonly node: HTMLElement;
  private readonly about = h("p", { class: "says" });
  private readonly text = h("pre", { class: "configuration", tabindex: 0 });
  private readonly reload = h("button", { type: "button", onclick: () => this.dialog.showModal() }, "Reload\u2026");
  private readonly dialog: HTMLDialogElement;
  private readonly said = h("pre", { class: "said", role: "alert", hidden: true });
  private hash = "";

  constructor(private readonly onDone: (said: string) => void) {
    const cancel = h("button", { type: "button", onclick: () => this.dialog.close() }, "Cancel");
    const form = h("form", { method: "dialog" }, h("h2", { id: "reload-title" }, "Reload the configuration"),
      h("div", { class: "consequence" }, h("p", {}, "The file is read and checked as a whole. A fault changes nothing and is shown here."),
        h("p", {}, "Calls and connections stay; removed servers keep their calls until they end.")),
      h("div", { class: "buttons" }, cancel, h("button", { type: "submit", class: "primary" }, "Reload")));
    form.addEventListener("submit", () => void this.go());
    this.dialog = h("dialog", { "aria-labelledby": "reload-title" }, form);
    this.node = h("div", {}, h("div", { class: "find" }, this.about, this.reload), this.said, this.text, this.dialog);
  }

  update({ node, user, reload }: Picture): void {
    show(this.reload, user.role === "admin");
    const failed = reload.last && !reload.last.ok;
    put(this.about, `${node.configuration}, without secrets. ${reload.done} reloads, ${reload.failed} refused.` + (failed ? " The last one was refused." : ""));
    if (user.role === "viewer") return put(this.text, "An operator may see it.");
    if (this.hash === node.configuration) return;
    this.hash = node.configuration;
    void get<{ text: string }>("/api/v1/configuration").then((answer) => {
      if (!answer.ok) this.hash = "";
      put(this.text, answer.ok ? answer.value.text : answer.error);
    });
  }

  private async go(): Promise<void> {
    show(this.said, false);
    const answer = await post<{ said?: string }>("/api/v1/reload", {});
    if (answer.ok) return this.onDone(answer.value.said || "reloaded");
    show(this.said, true);
    put(this.said, answer.error);
  }
}
