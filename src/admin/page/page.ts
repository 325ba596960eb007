// The stats page. One picture comes in a second; each part keeps itself true to it.

import { BackendCard, type Wanted } from "./backend";
import { Chart } from "./chart";
import { Configuration } from "./configuration";
import { Confirm, Menu } from "./actions";
import { attr, h, Keyed, put, show } from "./dom";
import { Events, Log } from "./logs";
import { Frontends } from "./frontends";
import { Alarm, applyTheme, Head, Verdict } from "./head";
import { History } from "./history";
import { Live, type Freshness } from "./live";
import { BadMessages, Names, Pins, Responses } from "./lookups";
import type { Backend, Level, Picture } from "./picture";
import { Tabs } from "./tabs";
import { Tiles } from "./tiles";

const TOAST_MS = 6_000;
/** Without a picture for so long the table that the node rendered is shown after all. */
const PATIENCE_MS = 4_000;
/** From so many servers on one wants to search. */
const SEARCH_FROM = 2;

class Page {
  picture: Picture | null = null;
  private readonly history = new History();
  private readonly chart = new Chart(this.history, () => this.tiles.close());
  private readonly tiles = new Tiles(this.history, this.chart);
  private readonly verdict = new Verdict();
  private readonly alarm = new Alarm();
  private readonly frontends = new Frontends();
  private readonly wanted: Wanted = { text: "", trouble: false };
  private readonly search = h("div", { class: "search", hidden: true });
  private readonly found = h("span", { class: "muted", role: "status" });
  private readonly backends = h("div", { class: "backends" });
  private readonly toast = h("div", { class: "toast", role: "status", hidden: true });
  private readonly menu = new Menu(() => this.picture, (backend, server, act) => {
    this.confirm.open(backend, server, act);
    // A paused page shows what was; what is confirmed must be said of what is.
    if (this.live.paused) void this.live.ask();
  });
  private readonly confirm = new Confirm(() => this.picture, (said) => this.done(said));
  private readonly cards: Keyed<Backend, BackendCard>;
  private readonly tabs: Tabs;
  private readonly live: Live;
  private readonly head: Head;
  private toasted = 0;

  constructor(place: HTMLElement) {
    const events = new Events();
    this.live = new Live((picture) => this.take(picture), (freshness) => this.freshness(freshness));
    this.head = new Head((paused) => this.live.pause(paused), () => this.chart.repaint());
    this.cards = new Keyed<Backend, BackendCard>(this.backends, (backend) => backend.name,
      () => new BackendCard(() => this.wanted, (backend, server, button) => this.menu.open(backend, server, button)));
    this.tabs = new Tabs([
      new Log("health", "Health log", events, false), new Log("events", "Events and audit", events, true), new Pins(), new Responses(),
      new BadMessages(), new Configuration((said) => this.done(said)), new Names(),
    ]);
    this.fillSearch();
    const main = h("main", { hidden: true }, this.verdict.node, this.tiles.node, this.chart.node, this.search, this.backends, this.frontends.node, this.tabs.node);
    place.append(this.head.node, this.alarm.node, main, this.menu.node, this.confirm.node, this.toast);
  }

  begin(): void {
    void this.history.load().then(() => this.paint());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) void this.history.load().then(() => this.paint());
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open]")) this.tiles.close();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.chart.repaint());
    this.live.begin();
    setTimeout(() => this.picture ?? document.documentElement.classList.remove("scripted"), PATIENCE_MS);
  }

  private take(picture: Picture): void {
    if (this.picture === null) document.documentElement.classList.add("scripted");
    // The page is part of the node: another version of it has another page.
    if (this.picture && this.picture.node.version !== picture.node.version && !document.querySelector("dialog[open]")) location.reload();
    this.picture = picture;
    this.history.append(picture.made_at, picture.now);
    this.paint();
  }

  /** Everything, from the last picture. Nothing while nobody sees it. */
  private paint(): void {
    const { picture } = this;
    if (!picture || document.hidden) return;
    show(this.tiles.node.parentElement!, true);
    this.head.update(picture);
    this.verdict.update(picture);
    this.tiles.update(picture);
    this.paintServers(picture);
    this.frontends.update(picture);
    this.tabs.update(picture);
    if (this.confirm.node.open) this.confirm.describe();
    this.name(picture);
  }

  private paintServers(picture: Picture): void {
    this.cards.update(picture.backends);
    const servers = picture.backends.flatMap((backend) => backend.servers);
    show(this.search, servers.length >= SEARCH_FROM);
    const troubled = servers.filter((server) => server.level !== "good").length;
    put(this.found, troubled === 0 ? `${servers.length} servers, all well` : `${servers.length} servers, ${troubled} not well`);
  }

  /** The tab says how things stand, by word and by colour. */
  private name({ node, verdict }: Picture): void {
    const words: Record<Level, string> = { good: "", idle: "", warning: "(look) ", bad: "(trouble) " };
    const title = `${words[verdict.level]}${node.name} \u00b7 Trunkline`;
    if (document.title !== title) document.title = title;
  }

  private freshness(freshness: Freshness): void {
    this.head.freshness(freshness);
    this.alarm.update(freshness);
  }

  private done(said: string): void {
    put(this.toast, said);
    show(this.toast, true);
    clearTimeout(this.toasted);
    this.toasted = window.setTimeout(() => show(this.toast, false), TOAST_MS);
    void this.live.ask();
  }

  private fillSearch(): void {
    const input = h("input", { id: "search", type: "search", placeholder: "name, region, state or address", autocomplete: "off", spellcheck: "false" });
    const trouble = h("button", { type: "button", "aria-pressed": "false" }, "Not well only");
    const again = () => this.picture && this.paintServers(this.picture);
    input.addEventListener("input", () => {
      this.wanted.text = input.value.trim();
      again();
    });
    trouble.addEventListener("click", () => {
      this.wanted.trouble = !this.wanted.trouble;
      attr(trouble, "aria-pressed", String(this.wanted.trouble));
      again();
    });
    this.search.append(h("label", { for: "search" }, "Servers"), input, trouble, this.found);
  }
}

applyTheme();
document.documentElement.classList.add("scripted");
document.addEventListener("DOMContentLoaded", () => new Page(document.getElementById("page")!).begin());
