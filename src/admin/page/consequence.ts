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

/** What becomes of it where no server takes it. */
const UNSERVED = { call: "answered with 503", connection: "closed", flow: "dropped" };

/** What a server has for its clients: a relay knows no calls. */
export function session(backend: Backend, server: Server): keyof typeof UNSERVED {
  if (backend.mode !== "relay") return "call";
  return server.address.startsWith("udp") ? "flow" : "connection";
}

/** What `act` on `server` brings about, `weight` being the text of the wanted weight. */
export function consequence(backend: Backend, server: Server, act: Act, weight = ""): Consequence {
  const word = session(backend, server);
  // An open connection cannot go on at another server: a relay lets it end.
  const goes = act === "maint" && word !== "connection";
  const will = (sentences: string[], grave = false) => ({ title: `${TITLES[act]} ${server.name}`, sentences, grave });
  switch (act) {
    case "ready":
      return will([ready(backend, server, word)]);
    case "drain":
    case "maint":
      return will([has(server, word, goes), leaves(backend, server, word)], (goes && server.calls > 0) || isLast(backend, server));
    case "weight":
      return will(weighs(backend, server, weight, word));
    case "close-breaker":
      return will([closes(server, word)]);
  }
}

function has({ calls }: Server, word: string, goes: boolean): string {
  const one = calls === 1;
  if (calls === 0) return `It has no ${word}s now.`;
  if (goes) return `${plural(calls, word)} ${one ? "loses its" : "lose their"} server at once: what comes for them goes to another.`;
  return `${plural(calls, word)} ${one ? "stays until it ends" : "stay until they end"}.`;
}

/** The backend as it will be when `server` is so. */
function changed(backend: Backend, server: Server, to: Partial<Server>): Backend {
  return { ...backend, servers: backend.servers.map((one) => (one === server ? { ...one, ...to } : one)) };
}

const takes = (server: Server) => server.takes_new && server.weight > 0;

/** Whether it takes trial calls only. */
const tries = (server: Server) => server.breaker?.state === "half-open";

/** Whether it takes new calls outright: not for trial only, nor only of those that prefer its region. */
const takesOutright = ({ regions }: Backend, server: Server) =>
  takes(server) && !tries(server) && regions.find((one) => one.name === server.region)?.weight !== 0;

/** Who gets what is new, as src/state/snapshot/candidates.rs has it: backups only where no other takes it outright. */
function takers(backend: Backend): Server[] {
  const usual = backend.servers.some((one) => !one.backup && takesOutright(backend, one));
  return backend.servers.filter((one) => takes(one) && !(usual && one.backup));
}

/** Those of them that take it outright: all are backups, or none is. */
const serving = (backend: Backend) => takers(backend).filter((one) => takesOutright(backend, one));

/** Whether nobody serves without it, or only backups that wait now. */
function isLast(backend: Backend, server: Server): boolean {
  const rest = serving(changed(backend, server, { takes_new: false }));
  return takers(backend).includes(server) && (rest.length === 0 || (rest[0]!.backup && !serving(backend)[0]?.backup));
}

const waits = (word: string) => `It is a backup that waits: it gets no new ${word}s now.`;

/** The weight that a slow start lets it have, in hundredths. */
const effective = (server: Server) => server.weight * (server.throttle_percent ?? 100);

/**
 * The part, in percent, of each region that gets anything new. As the node has it (`share` in src/balance/mod.rs): a region
 * keeps its weight while `spill_below` of what is configured for its servers is usable; with less its weight shrinks.
 */
function shares(backend: Backend): Map<string, number> {
  const who = serving(backend);
  const weights = new Map<string, number>();
  for (const { name, weight } of backend.regions) {
    const own = backend.servers.filter((one) => one.region === name && one.backup === who[0]?.backup);
    const usable = sum(own.filter((one) => who.includes(one)).map(effective));
    const needed = sum(own.map((one) => one.weight_configured)) * backend.spill_below;
    if (usable > 0 && weight > 0) weights.set(name, weight * Math.min(1, usable / needed));
  }
  const whole = sum(weights.values());
  return new Map([...weights].map(([name, weight]) => [name, (100 * weight) / whole]));
}

/** How the part of a region changes; "" where it stays, as it is written. */
function moves(region: string, word: string, before = 0, after = 0): string {
  if (share(before) === share(after)) return "";
  return `${region}'s part of new ${word}s ${after < before ? "falls" : "rises"} from ${share(before)} to ${share(after)}.`;
}

function leaves(backend: Backend, server: Server, word: keyof typeof UNSERVED): string {
  if (!takers(backend).includes(server)) {
    if (server.backup && takes(server)) return waits(word);
    return `It takes no new ${word}s already (${server.state}); it will not come back by itself until it is made ready.`;
  }
  const then = changed(backend, server, { takes_new: false });
  const rest = serving(then);
  const after = shares(then);
  if (rest[0]?.backup) return `Only ${list(rest.map((one) => one.name))} ${rest.length === 1 ? "(a backup) remains" : "(backups) remain"}.`;
  if (after.size === 0) {
    const what = backend.when_all_down === "forward" ? "they are sent to servers all the same (fail open)" : `each is ${UNSERVED[word]}`;
    const trial = list(takers(then).filter(tries).map((one) => one.name));
    return `No server of ${backend.name} is left for new ${word}s: ${what}.${trial && ` Only trial ${word}s go to ${trial}.`}`;
  }
  const { region } = server;
  const before = shares(backend).get(region) ?? 0;
  const here = takers(then).filter((one) => one.region === region && !tries(one)).length;
  const all = backend.servers.filter((one) => one.region === region && !one.backup).length;
  if (here > 0) {
    const part = moves(region, word, before, after.get(region)) || `${region} keeps its ${share(before)}.`;
    return `${count(here)} of ${plural(all, "server")} of ${region} ${here === 1 ? "remains" : "remain"}; ${part}`;
  }
  const others = [...after].map(([name, value]) => `${name} (${share(value)})`);
  return `No server of ${region} remains: its ${share(before)} of new ${word}s goes to ${list(others)}.`;
}

function ready(backend: Backend, server: Server, word: string): string {
  if (server.weight === 0) return `It gets no new ${word}s while its weight is 0.`;
  const then = changed(backend, server, { takes_new: true });
  if (!takers(then).some((one) => one.name === server.name)) return waits(word);
  if (server.health !== "up") {
    return `It takes new ${word}s as soon as its check finds it well; now it is ${server.health}${server.why ? ` (${server.why})` : ""}.`;
  }
  if (server.breaker?.state === "open") return `It is ready; new ${word}s come when its breaker has closed.`;
  if (tries(server)) return `It is ready and takes trial ${word}s; others come when its breaker has closed.`;
  const part = shares(then).get(server.region);
  const whole = server.backup || part === undefined ? "" : `; ${server.region} has ${share(part)} of them`;
  return `It takes new ${word}s at once${whole}.`;
}

/** What a weight means: "50%" is of the configured weight, rounded down; "50" is absolute. Null where it is neither. */
export function weightOf(text: string, configured: number): number | null {
  const match = /^(\d{1,3})(%?)$/.exec(text.trim());
  if (!match) return null;
  const value = Number(match[1]);
  if (match[2] === "%") return value <= 100 ? Math.floor((value * configured) / 100) : null;
  return value <= 256 ? value : null;
}

function weighs(backend: Backend, server: Server, text: string, word: keyof typeof UNSERVED): string[] {
  const weight = weightOf(text, server.weight_configured);
  if (weight === null) return [`A weight is 0 to 256, or a percentage of the configured ${server.weight_configured}: 50%.`];
  // Well but for its weight it is idle, and ready.
  const takes_new = server.takes_new || (server.level === "idle" && server.admin === "ready");
  const then = changed(backend, server, { weight, takes_new });
  const gets = (of: Backend) => takers(of).some((one) => one.name === server.name);
  const kept = `Its ${word}s stay.`;
  if (!gets(then)) return gets(backend) ? [leaves(backend, server, word), kept] : [`It gets no new ${word}s now.`];
  const { region } = server;
  const beside = takers(then).filter((one) => one.name !== server.name && one.region === region && !tries(one));
  const moved = moves(region, word, shares(backend).get(region), shares(then).get(region));
  if (beside.length === 0 && moved === "") return [`It is the only server of ${region} that takes new ${word}s: the weight changes nothing now.`];
  const others = sum(beside.map(effective));
  const part = (weight: number) => {
    const own = effective({ ...server, weight });
    return percent((100 * own) / (own + others), 0);
  };
  const within = beside.length > 0 ? `Its part of the new ${word}s of ${region} goes from ${part(server.weight)} to ${part(weight)}.` : "";
  return [within, moved, kept].filter((one) => one !== "");
}

function closes({ breaker }: Server, word: string): string {
  if (!breaker || breaker.state === "closed") return "Its breaker is closed already.";
  const failed = breaker.total > 0 ? ` It opened after ${count(breaker.failed)} of ${plural(breaker.total, word)} failed.` : "";
  return `New ${word}s go to it at once, without trial ${word}s.${failed}`;
}
