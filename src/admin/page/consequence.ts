// What an action will do, said before it is done. Pure: from the picture to sentences.

import { count, list, percent, plural, share, sum } from "./format";
import type { Backend, Server } from "./picture";

export type Act = "ready" | "drain" | "maint" | "weight" | "close-breaker";

export interface Consequence {
  title: string;
  sentences: string[];
  /** The action takes something from callers. */
  grave: boolean;
}

const TITLES: Record<Act, string> = {
  ready: "Make ready", drain: "Drain", maint: "Maintenance for", weight: "Weight of", "close-breaker": "Close the breaker of",
};

/** What `act` on `server` brings about, `weight` being the text of the wanted weight. */
export function consequence(backend: Backend, server: Server, act: Act, weight = ""): Consequence {
  const title = `${TITLES[act]} ${server.name}`;
  switch (act) {
    case "ready":
      return { title, sentences: ready(backend, server), grave: false };
    case "drain":
      return { title, sentences: [callsStay(server), ...leaves(backend, server)], grave: isLast(backend, server) };
    case "maint":
      return { title, sentences: [callsGo(server), ...leaves(backend, server)], grave: server.calls > 0 || isLast(backend, server) };
    case "weight":
      return { title, sentences: weighs(backend, server, weight), grave: false };
    case "close-breaker":
      return { title, sentences: closes(server), grave: false };
  }
}

function callsStay(server: Server): string {
  if (server.calls === 0) return "It has no calls now.";
  return `${plural(server.calls, "call")} ${server.calls === 1 ? "stays until it ends" : "stay until they end"}.`;
}

function callsGo(server: Server): string {
  if (server.calls === 0) return "It has no calls now.";
  return `${plural(server.calls, "call")} ${server.calls === 1 ? "loses its" : "lose their"} server at once: what comes for them goes to another.`;
}

/** Servers that take new calls and are no backups, without `except`. */
function takers(backend: Backend, except?: Server): Server[] {
  return backend.servers.filter((one) => one.takes_new && !one.backup && one !== except && one.weight > 0);
}

const isLast = (backend: Backend, server: Server) => server.takes_new && takers(backend, server).length === 0;

/** The share of each region whose servers are among `servers`. */
function shares(backend: Backend, servers: Server[]): Map<string, number> {
  const alive = backend.regions.filter((region) => servers.some((one) => one.region === region.name));
  const total = sum(alive.map((region) => region.weight));
  return new Map(alive.map((region) => [region.name, total > 0 ? (100 * region.weight) / total : 0]));
}

function leaves(backend: Backend, server: Server): string[] {
  if (!server.takes_new) {
    return [`It takes no new calls already (${server.state}); it will not come back by itself until it is made ready.`];
  }
  const rest = takers(backend, server);
  if (rest.length === 0) return [nobody(backend, server)];
  const before = shares(backend, takers(backend));
  const after = shares(backend, rest);
  const region = server.region;
  if (region === null || !before.has(region)) {
    return [`${remain(rest.length, backend.servers.length)} of ${backend.name} ${rest.length === 1 ? "takes" : "take"} new calls.`];
  }
  const here = rest.filter((one) => one.region === region).length;
  const all = backend.servers.filter((one) => one.region === region && !one.backup).length;
  if (here > 0) {
    return [`${remain(here, all)} of ${region} ${here === 1 ? "remains" : "remain"}; ${region} keeps its ${share(before.get(region)!)}.`];
  }
  const others = [...after].map(([name, value]) => `${name} (${share(value)})`);
  return [`No server of ${region} remains: its ${share(before.get(region)!)} of new calls goes to ${list(others)}.`];
}

const remain = (some: number, all: number) => `${count(some)} of ${plural(all, "server")}`;

function nobody(backend: Backend, server: Server): string {
  const backups = backend.servers.filter((one) => one.backup && one.takes_new && one !== server);
  if (backups.length > 0) return `Only ${list(backups.map((one) => one.name))} ${backups.length === 1 ? "(a backup) remains" : "(backups) remain"}.`;
  const then = backend.when_all_down === "forward" ? "they are sent to servers all the same (fail open)" : "each is answered with 503";
  return `No server of ${backend.name} is left for new calls: ${then}.`;
}

function ready(backend: Backend, server: Server): string[] {
  if (server.health !== "up") {
    return [`It takes new calls as soon as its check finds it well; now it is ${server.health}${server.why ? ` (${server.why})` : ""}.`];
  }
  if (server.breaker?.state === "open") return ["It is ready; new calls come when its breaker has closed."];
  const after = shares(backend, [...takers(backend, server), server]);
  const region = server.region;
  const whole = region !== null ? after.get(region) : undefined;
  if (server.backup || whole === undefined) return ["It takes new calls at once."];
  return [`It takes new calls at once; ${region} has ${share(whole)} of them.`];
}

/** What a weight means: "50%" is of the configured weight, "50" is absolute. Null where it is neither. */
export function weightOf(text: string, configured: number): number | null {
  const match = /^(\d{1,3})(%?)$/.exec(text.trim());
  if (!match) return null;
  const value = Number(match[1]);
  if (match[2] === "%") return value <= 100 ? Math.round((value * configured) / 100) : null;
  return value <= 256 ? value : null;
}

function weighs(backend: Backend, server: Server, text: string): string[] {
  const weight = weightOf(text, server.weight_configured);
  if (weight === null) return [`A weight is 0 to 256, or a percentage of the configured ${server.weight_configured}: 50%.`];
  const kept = "Calls that it has stay.";
  if (weight === 0) return [...leaves(backend, server).map((one) => "New calls: " + one), kept];
  const beside = takers(backend, server).filter((one) => one.region === server.region);
  const others = sum(beside.map((one) => one.weight));
  const part = (own: number) => percent((100 * own) / (own + others), 0);
  if (beside.length === 0) return [`It is the only server ${where(backend, server)} that takes new calls: the weight changes nothing now.`];
  return [`Its part of the new calls ${where(backend, server)} goes from ${part(server.weight)} to ${part(weight)}.`, kept];
}

const where = (backend: Backend, server: Server) => `of ${server.region || backend.name}`;

function closes(server: Server): string[] {
  const breaker = server.breaker;
  if (!breaker || breaker.state === "closed") return ["Its breaker is closed already."];
  const failed = breaker.total > 0 ? ` It opened after ${count(breaker.failed)} of ${plural(breaker.total, "call")} failed.` : "";
  return [`New calls go to it at once, without trial calls.${failed}`];
}
