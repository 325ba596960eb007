// The page in a browser: against the mock, or against a real node:
//
//   PAGE_BASE=http://127.0.0.1:8404 PAGE_ADMIN=name:password PAGE_VIEWER=name:password \
//   PAGE_KILL='a command that makes a region die' node --test page.test.mjs
//
// What only the mock can be made to do is left out there. CHROMIUM names the browser.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { buildSync } from "esbuild";
import { chromium } from "playwright-core";
import { start } from "./mock.mjs";

const { PAGE_BASE, PAGE_ADMIN = "admin:admin", PAGE_VIEWER = "viewer:viewer", PAGE_KILL } = process.env;
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const real = PAGE_BASE !== undefined;
const mocked = { skip: real && "only the mock can do this" };
const DEADLINE = { timeout: 15_000 };
const WIDE = { width: 1440, height: 900 };
const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
let mock, browser, base;

before(async () => {
  if (!existsSync(executablePath)) throw new Error(`no browser at ${executablePath}: apt-get install chromium`);
  mock = real ? null : await start();
  base = PAGE_BASE ?? mock.base;
  browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
});
after(async () => {
  await browser?.close();
  await mock?.stop();
});

const login = (viewer) => {
  const [username, password] = (viewer ? PAGE_VIEWER : PAGE_ADMIN).split(":");
  return real ? { httpCredentials: { username, password } } : {};
};

/** Opens the page, gives it to `play`, and holds that the browser had nothing to complain of and asked nobody else. */
async function visit({ viewer = false, at = base, first = "tr.server", before, ...options }, play) {
  const context = await browser.newContext({ viewport: WIDE, ...login(viewer), ...options });
  if (before) await context.addInitScript(before);
  const page = await context.newPage();
  const faults = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("dialog", (dialog) => faults.push(`dialog: ${dialog.message()}`) && void dialog.dismiss());
  page.on("request", (request) => /^(data:|blob:)/.test(request.url()) || request.url().startsWith(at) || faults.push(`asked ${request.url()}`));
  await page.goto(`${at}/stats${real ? "" : `?user=${viewer ? "viewer" : "admin"}`}`);
  if (options.javaScriptEnabled !== false) await page.waitForSelector(first, DEADLINE);
  await play(page, faults);
  await context.close();
  assert.deepEqual(faults, []);
}

const text = (page, selector) => page.locator(selector).first().innerText();
const until = (page, selector, pattern) =>
  page.waitForFunction(([one, source]) => new RegExp(source).test(document.querySelector(one)?.innerText ?? ""), [selector, pattern.source], DEADLINE);
const row = (page, name) => page.locator("tr.server", { has: page.getByRole("rowheader", { name: new RegExp(`^${name}\\b`) }) });
const firstServer = (page) => text(page, "tr.server .main");
/** Two more pictures have come. */
async function pictures(page) {
  for (let turn = 0; turn < 2; turn++) {
    const before = await text(page, ".facts div:nth-child(2) dd");
    const calls = await text(page, ".tile:nth-child(3) .value");
    await page.waitForFunction(([up, was]) => document.querySelector(".facts div:nth-child(2) dd").innerText !== up || document.querySelector(".tile:nth-child(3) .value").innerText !== was, [before, calls], DEADLINE);
  }
}

test("it is live, and its policy allows nothing from elsewhere", async () => {
  await visit({}, async (page) => {
    await until(page, ".link", /^live, /);
    await pictures(page);
    assert.equal(await page.locator("main:visible").count(), 1);
    assert.match(await text(page, ".verdict p"), /take calls|servers/);
    const response = await page.request.get(`${base}/stats`);
    const policy = response.headers()["content-security-policy"];
    assert.match(policy, /default-src 'none'/);
    assert.doesNotMatch(policy, /unsafe|https?:|\*/);
    assert.doesNotMatch(await response.text(), /<script>|<style| style=| on\w+=/i);
  });
});

test("a server is drained by mouse, and made ready again", async () => {
  await visit({}, async (page) => {
    const name = await firstServer(page);
    await row(page, name).locator(".more").click();
    await page.getByRole("menuitem", { name: /^Drain/ }).click();
    const said = await text(page, "dialog[open] .consequence");
    assert.match(said, /stays? until|no calls now/);
    assert.match(said, /remains?;|goes to|is left|take/);
    await page.locator("dialog[open] .primary").click();
    await until(page, ".toast", new RegExp(name));
    await row(page, name).getByText("drain", { exact: true }).waitFor(DEADLINE);
    await row(page, name).locator(".more").click();
    await page.getByRole("menuitem", { name: /^Ready/ }).click();
    await page.locator("dialog[open] .primary").click();
    await row(page, name).getByText("up", { exact: true }).waitFor(DEADLINE);
  });
});

test("a server is drained by keyboard alone, and Escape leaves everything as it was", async () => {
  await visit({}, async (page) => {
    const name = await firstServer(page);
    const press = async (...keys) => { for (const key of keys) await page.keyboard.press(key); };
    for (let tabs = 0; tabs < 60 && (await page.evaluate(() => document.activeElement.className)) !== "more"; tabs++) await press("Tab");
    await press("Enter", "Escape");
    assert.equal(await page.locator(".menu").isVisible(), false);
    assert.equal(await page.evaluate(() => document.activeElement.className), "more");
    await press("Enter", "ArrowDown", "Enter");
    assert.match(await text(page, "dialog[open] h2"), new RegExp(`Drain ${name}`));
    await press("Escape");
    assert.equal(await page.locator("dialog[open]").count(), 0);
    await press("Enter", "ArrowDown", "Enter", "Enter");
    await row(page, name).getByText("drain", { exact: true }).waitFor(DEADLINE);
    await press("Enter", "Home", "Enter", "Enter");
    await row(page, name).getByText("up", { exact: true }).waitFor(DEADLINE);
  });
});

test("a weight says what it means before it is set, and a wrong one cannot be", async () => {
  await visit({}, async (page) => {
    const name = await firstServer(page);
    await row(page, name).locator(".more").click();
    await page.getByRole("menuitem", { name: /^Weight/ }).click();
    await page.fill("#weight", "900");
    assert.equal(await page.locator("dialog[open] .primary").isDisabled(), true);
    await page.fill("#weight", "50%");
    assert.match(await text(page, "dialog[open] .consequence"), /goes from|only server|part/);
    await page.keyboard.press("Enter");
    await until(page, ".toast", /weight/);
    await row(page, name).locator("[data-column=weight] .main", { hasText: /^50$/ }).waitFor(DEADLINE);
    await row(page, name).locator(".more").click();
    await page.getByRole("menuitem", { name: /^Weight/ }).click();
    await page.fill("#weight", "100%");
    await page.keyboard.press("Enter");
    await row(page, name).locator("[data-column=weight] .main", { hasText: /^100$/ }).waitFor(DEADLINE);
  });
});

test("a viewer is told why not, and refused by the node", async () => {
  await visit({ viewer: true }, async (page, faults) => {
    const name = await firstServer(page);
    await row(page, name).locator(".more").click();
    assert.match(await text(page, ".menu .note"), /may look/);
    for (const tab of ["bad", "configuration"]) {
      await page.locator(`#tab-${tab}`).evaluate((one) => one.click());
      await until(page, `#panel-${tab}`, /operator may see/);
    }
    await page.keyboard.press("Escape");
    await row(page, name).locator(".more").click();
    await page.getByRole("menuitem", { name: /^Drain/ }).click({ force: true });
    assert.equal(await page.locator("dialog[open]").count(), 0);
    const status = await page.evaluate(async (server) => (await fetch("/api/v1/server", {
      method: "POST", headers: { "Content-Type": "application/json", "X-Requested-With": "trunkline" },
      body: JSON.stringify({ backend: document.querySelector(".backend h2").innerText, server, do: "drain" }),
    })).status, name);
    assert.equal(status, 403);
    // The browser writes refused answers down by itself.
    assert.equal(faults.splice(0).every((fault) => /403/.test(fault)), true);
    await pictures(page);
    assert.doesNotMatch(await row(page, name).innerText(), /drain/);
  });
});

test("what is looked at keeps its focus and its selection through updates", async () => {
  await visit({}, async (page) => {
    await page.locator("tr.server .more").nth(1).focus();
    await page.evaluate(() => getSelection().selectAllChildren(document.querySelector("tr.server .main")));
    const name = await firstServer(page);
    await pictures(page);
    assert.equal(await page.evaluate(() => document.activeElement.className), "more");
    assert.equal(await page.evaluate(() => getSelection().toString()), name);
  });
});

test("paused it stands still, and says for how long", async () => {
  await visit({}, async (page) => {
    await page.getByRole("button", { name: "Pause" }).click();
    const before = await text(page, ".tiles");
    await until(page, ".link", /^paused, [3-9]/);
    assert.equal(await text(page, ".tiles"), before);
    await page.getByRole("button", { name: "Go on" }).click();
    await until(page, ".link", /^live, 1/);
  });
});

test("paused, a dialog speaks from a new picture", mocked, async (t) => {
  const other = await start();
  t.after(other.stop);
  await visit({ at: other.base }, async (page) => {
    await page.getByRole("button", { name: "Pause" }).click();
    other.cluster.wish({ backend: "opensips", server: "abuja-1", do: "drain" }, { name: "ngozi" });
    await row(page, "abuja-1").locator(".more").click();
    await page.getByRole("menuitem", { name: /^Maintenance/ }).click();
    await until(page, "dialog[open] .consequence", /takes no new calls already \(drain\)/);
    await until(page, ".link", /^paused, /);
  });
});

test("the menu of a relay's server speaks of what a relay has", mocked, async (t) => {
  const relay = await start();
  t.after(relay.stop);
  relay.cluster.mode = "relay";
  await visit({ at: relay.base }, async (page) => {
    const hint = async (server) => {
      await row(page, server).locator(".more").click();
      const said = await page.getByRole("menuitem", { name: /^Maintenance/ }).innerText();
      await page.keyboard.press("Escape");
      return said.replace(/\s+/g, " ");
    };
    assert.equal(await hint("asaba-1"), "Maintenance keeps its connections, takes no new ones");
    assert.equal(await hint("lagos-1"), "Maintenance its flows go to others at once");
  });
});

test("a tile opens its chart, and Escape closes it", async () => {
  await visit({}, async (page) => {
    for (let tile = 1; tile <= 7; tile++) {
      await page.locator(`.tile:nth-child(${tile})`).press("Enter");
      await page.waitForSelector("#chart canvas", DEADLINE);
      assert.match(await page.locator("#chart .plot").getAttribute("aria-label"), /now .+, most/);
    }
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("#chart").isVisible(), false);
    assert.match(await page.evaluate(() => document.activeElement.className), /tile/);
  });
});

test("the tabs go by arrows, and hostile text stays text", async () => {
  await visit({}, async (page) => {
    await page.locator("#tab-health").focus();
    for (const tab of ["events", "pins", "responses", "bad", "configuration", "names", "health"]) {
      await page.keyboard.press("ArrowRight");
      assert.equal(await page.evaluate(() => document.activeElement.id), `tab-${tab}`);
      assert.equal(await page.locator(`#panel-${tab}`).isVisible(), true);
    }
    await page.click("#tab-pins");
    await page.fill("#call-id", "no-such-call");
    await page.keyboard.press("Enter");
    await until(page, ".result", /^Nothing/);
    if (!real) {
      await page.fill("#call-id", "192.0.2.9");
      await page.keyboard.press("Enter");
      await until(page, ".result", /^It sticks to opensips\/abuja-1; confirmed; kept for 1\sh/);
    }
    await page.click("#tab-responses");
    await until(page, ".matrix", /200\s/);
    await page.click("#tab-bad");
    await page.locator(".bad summary").first().click(DEADLINE);
    await until(page, ".bad details[open] pre", /<script>/);
    assert.equal(await page.evaluate(() => document.scripts.length), 1);
    assert.equal(await page.locator(".bad img").count(), 0);
  });
});

test("a bad message that is open stays open", mocked, async () => {
  await visit({}, async (page) => {
    await page.click("#tab-bad");
    await page.locator(".bad summary").first().click(DEADLINE);
    for (let polls = 0; polls < 2; polls++) await page.waitForResponse(/api\/v1\/bad/, DEADLINE);
    await pictures(page);
    assert.equal(await page.locator(".bad details[open]").count(), 1);
    assert.equal(await page.locator(".bad details").count(), 2);
  });
});

test("390 pixels are enough: nothing to scroll sideways, and the menu is on the screen", async () => {
  await visit(PHONE, async (page) => {
    for (const tab of ["events", "pins", "responses", "bad", "configuration", "names", "health"]) {
      await page.click(`#tab-${tab}`);
      await pictures(page);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390, tab);
    }
    await page.locator("tr.server .more").first().click();
    const box = await page.locator(".menu").boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 390);
    const more = await page.locator("tr.server .more").first().boundingBox();
    assert.ok(more.height >= 40 && more.width >= 40, "a finger needs 40 pixels");
  });
});

test("without JavaScript the node's own table is there", async () => {
  await visit({ javaScriptEnabled: false }, async (page) => {
    assert.equal(await page.locator("#fallback table").first().isVisible(), true);
    assert.ok((await page.locator("#fallback tr").count()) > 1);
  });
});

test("everything that can be used has a name, and no two things one id", async () => {
  await visit({}, async (page) => {
    const nameless = await page.evaluate(() => [...document.querySelectorAll("button, input, select, [role=img], [role=progressbar], dialog")]
      .filter((one) => !one.textContent.trim() && !one.getAttribute("aria-label") && !one.getAttribute("aria-labelledby") && !one.labels?.length && !one.closest("[hidden], dialog:not([open])"))
      .map((one) => one.outerHTML));
    assert.deepEqual(nameless, []);
    const ids = await page.evaluate(() => [...document.querySelectorAll("[id]")].map((one) => one.id));
    assert.equal(new Set(ids).size, ids.length);
    const scopes = await page.evaluate(() => [...document.querySelectorAll("#page th")].filter((one) => !one.scope).length);
    assert.equal(scopes, 0);
  });
});

for (const colorScheme of ["light", "dark"]) {
  test(`words have a contrast of 4.5 at least (${colorScheme})`, async () => {
    await visit({ colorScheme }, async (page) => {
      const low = await page.evaluate(() => {
        const probe = document.body.appendChild(document.createElement("i"));
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const light = (name) => {
          probe.style.setProperty("color", `var(${name})`);
          canvas.fillStyle = getComputedStyle(probe).color;
          canvas.fillRect(0, 0, 1, 1);
          const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
          return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const pairs = ["ink", "muted", "accent", "good", "warning", "bad", "idle"].flatMap((word) => [[word, "card"], ["ink", "raised"]].concat(["idle", "accent"].includes(word) ? [] : [[word, "ground"]]))
          .concat([["on-accent", "accent"], ["card", "bad"], ["warning", "warning-wash"], ["bad", "bad-wash"], ["muted", "bad-wash"], ["muted", "warning-wash"], ["card", "ink"], ["muted", "raised"]]);
        return pairs.map(([word, ground]) => {
          const [a, b] = [light(`--${word}`), light(`--${ground}`)].sort((x, y) => y - x);
          return [word, ground, Number(((a + 0.05) / (b + 0.05)).toFixed(2))];
        }).filter(([, , contrast]) => contrast < 4.5);
      });
      assert.deepEqual(low, []);
    });
  });
}

test("light and dark follow the system until somebody chooses, and the choice is kept", async () => {
  await visit({ colorScheme: "dark" }, async (page) => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const seen = [await ground()];
    for (let turn = 0; turn < 3; turn++) {
      await page.locator(".tools button").last().click();
      seen.push(await ground());
      if (turn === 0) await page.reload();
      assert.equal(await ground(), seen[turn + 1]);
    }
    assert.notEqual(seen[0], seen[1]);
    assert.deepEqual([seen[2], seen[3]], [seen[0], seen[0]]);
  });
});

test("a node that falls silent is said to be, and comes back by itself", mocked, async () => {
  await visit({}, async (page, faults) => {
    mock.cluster.hush(9);
    for (const one of mock.streams) one.destroy();
    await until(page, ".link", /^no word for [4-9]/);
    assert.match(await text(page, ".alarm"), /has not been heard/);
    await until(page, ".link", /^live, /);
    assert.equal(await page.locator(".alarm").isVisible(), false);
    // The browser writes down by itself that nobody answered.
    assert.equal(faults.splice(0).every((fault) => /ERR_/.test(fault)), true);
  });
});

test("a hidden tab holds no stream", mocked, async () => {
  await visit({}, async (page) => {
    const hide = (hidden) => page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
    const streams = async (count) => {
      for (const end = Date.now() + DEADLINE.timeout; mock.streams.size !== count;) {
        assert.ok(Date.now() < end, `${mock.streams.size} streams`);
        await new Promise((done) => setTimeout(done, 20));
      }
    };
    await streams(1);
    await hide(true);
    await streams(0);
    await hide(false);
    await streams(1);
    await pictures(page);
  });
});

test("where nobody calls nothing is said of the split", mocked, async (t) => {
  const quiet = await start();
  t.after(quiet.stop);
  quiet.cluster.quiet = true;
  quiet.cluster.second();
  await visit({ at: quiet.base }, async (page) => {
    assert.match(await text(page, ".split"), /too few calls in the last minute to judge/);
    assert.doesNotMatch(await text(page, ".split"), /points/);
    assert.match(await text(page, "tr.server [data-column=p95]"), /\u2013/);
  });
});

test("a node that began anew is believed anew", mocked, async (t) => {
  const anew = await start();
  t.after(anew.stop);
  await visit({ at: anew.base }, async (page) => {
    const { cluster } = anew;
    cluster.kill("asaba");
    await until(page, "#panel-health", /dead/);
    // Its uptime is smaller; or larger, for nobody looked for long; or the same; or it has its number again, as in a container.
    const others = [{ began: cluster.now - 1 }, { began: cluster.now - 90_000, pid: 4712 }, { pid: 4713 }, { began: cluster.now - 99_000 }];
    for (const [nth, other] of others.entries()) {
      Object.assign(cluster, { events: [], ...other });
      cluster.event("health", `up -> suspect: the first word of number ${nth}`, null, "abuja-1");
      await until(page, "#panel-health", new RegExp(`of number ${nth}`));
      assert.doesNotMatch(await text(page, "#panel-health"), new RegExp(`dead|of number [^${nth}]`));
    }
  });
});

test("the stream's goodbye is no alarm, unless the node goes", mocked, async (t) => {
  const going = await start();
  t.after(going.stop);
  const goodbye = () => going.streams.forEach((one) => one.end("event: bye\ndata: {}\n\n"));
  await visit({ at: going.base }, async (page, faults) => {
    await pictures(page);
    await page.evaluate(() => {
      window.alarms = [];
      const alarm = document.querySelector(".alarm");
      new MutationObserver(() => alarm.hidden || window.alarms.push(alarm.innerText)).observe(alarm, { attributes: true, childList: true, characterData: true, subtree: true });
    });
    // Other users: whoever may still look is let in again.
    goodbye();
    await until(page, ".link", /asking/);
    await until(page, ".link", /^live, \d/);
    await pictures(page);
    assert.deepEqual(await page.evaluate(() => window.alarms), []);
    going.cluster.hush(60);
    goodbye();
    await until(page, ".alarm", /The node is stopping/);
    assert.equal(faults.splice(0).every((fault) => /ERR_/.test(fault)), true);
  });
});

test("a thousand servers: well regions are closed, and what is not well is found", mocked, async (t) => {
  const many = await start({ servers: 1000 });
  t.after(many.stop);
  await visit({ at: many.base, first: "tr.region" }, async (page) => {
    assert.equal(await page.locator("tr.server").count(), 0);
    many.cluster.kill("asaba");
    await page.locator("tr.server[data-level=bad]").first().waitFor(DEADLINE);
    await page.getByRole("button", { name: "Not well only" }).click();
    assert.equal(await page.locator("tr.server:visible").count(), many.cluster.servers.filter((one) => one.region === "asaba").length);
    await page.fill("#search", "lagos-420");
    await page.getByText("No server matches.").waitFor(DEADLINE);
    await page.getByRole("button", { name: "Not well only" }).click();
    assert.equal(await page.locator("tr.server:visible").count(), 1);
    await page.fill("#search", "");
    await page.locator("button.region", { hasText: "lagos" }).click();
    const count = (region) => many.cluster.servers.filter((one) => one.region === region).length;
    assert.equal(await page.locator("tr.server").count(), count("lagos") + count("asaba"));
    await pictures(page);
  });
});

/** In the page: counts the pictures that came, and which of them was the first to show a server in trouble. */
function countPictures() {
  const listen = EventSource.prototype.addEventListener;
  window.came = 0;
  EventSource.prototype.addEventListener = function (type, heard) {
    listen.call(this, type, (event) => {
      heard(event);
      window.came += type === "picture";
      if (document.querySelector("tr.server[data-level=bad]")) window.shown ??= window.came;
    });
  };
}

// A picture comes each second: counted, for a slow browser is late with each of them.
test("a region that dies is seen with the second picture", { skip: real && !PAGE_KILL && "PAGE_KILL is not set" }, async () => {
  await visit({ before: countPictures }, async (page) => {
    const dead = async () => {
      const picture = await (await page.request.get(`${base}/api/v1/picture`)).json();
      return picture.backends.flatMap((one) => one.servers).find((one) => one.level === "bad")?.name;
    };
    if (real) execFileSync("sh", ["-c", PAGE_KILL]);
    else mock.cluster.kill("asaba");
    let name;
    for (const end = Date.now() + 60_000; !(name = await dead()); ) assert.ok(Date.now() < end, "nothing died");
    const came = await page.evaluate(() => window.came);
    await page.locator(`tr.server[data-level=bad]`, { hasText: name }).waitFor(DEADLINE);
    await page.waitForFunction(() => window.shown, null, DEADLINE);
    const pictures = (await page.evaluate(() => window.shown)) - came;
    assert.ok(pictures <= 2, `after ${pictures} pictures`);
    await until(page, "#panel-health", new RegExp(name));
    assert.match(await page.title(), /trouble|look/);
    mock?.cluster.revive("asaba");
  });
});

// Without a browser.

function sources() {
  const here = new URL(".", import.meta.url);
  return readdirSync(here).filter((name) => name.endsWith(".ts")).map((name) => [name, readFileSync(new URL(name, here), "utf8")]);
}

test("no source writes markup, and none is too long", () => {
  for (const [name, source] of sources()) {
    assert.doesNotMatch(source, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|setAttribute\("style"/, name);
    assert.ok(source.split("\n").length <= 400, name);
  }
});

/** A module of the page, for node. */
async function module(name) {
  const outfile = join(mkdtempSync(join(tmpdir(), "page-")), "module.mjs");
  buildSync({ entryPoints: [new URL(name, import.meta.url).pathname], bundle: true, format: "esm", outfile });
  return import(outfile);
}

const backend = (...servers) => ({
  name: "opensips", mode: "proxy", when_all_down: "reject", spill_below: 50,
  regions: [{ name: "lagos", weight: 70 }, { name: "abuja", weight: 15 }, { name: "asaba", weight: 15 }],
  servers: servers.map(([name, calls, more]) => ({ name, region: name.split("-")[0], address: "udp://10.0.0.1:5060", calls, takes_new: true, backup: false, weight: 100, weight_configured: 100, throttle_percent: null, state: "up", admin: "ready", health: "up", why: null, breaker: null, ...more })),
});

const dead = { takes_new: false, state: "dead", health: "dead" };

/** What is said of an action on a server, with plain spaces. */
async function consequences() {
  const { consequence, weightOf } = await module("consequence.ts");
  const says = (of, act, index = 0, weight = "") => consequence(of, of.servers[index], act, weight).sentences.join(" ").replace(/[\u202f\u00a0]/g, " ");
  return { consequence, weightOf, says };
}

test("what an action brings is said rightly", async () => {
  const { consequence, weightOf, says } = await consequences();
  const five = backend(["lagos-1", 132], ["lagos-2", 1], ["lagos-3", 0], ["abuja-1", 5], ["asaba-1", 5]);
  assert.equal(says(five, "drain"), "132 calls stay until they end. 2 of 3 servers of lagos remain; lagos keeps its 70 %.");
  assert.equal(says(five, "drain", 1), "1 call stays until it ends. 2 of 3 servers of lagos remain; lagos keeps its 70 %.");
  assert.match(says(five, "maint"), /132 calls lose their server at once/);
  assert.equal(says(five, "drain", 3), "5 calls stay until they end. No server of abuja remains: its 15 % of new calls goes to lagos (82.4 %) and asaba (17.6 %).");
  assert.equal(says(five, "weight", 0, "50%"), "Its part of the new calls of lagos goes from 33 % to 20 %. Its calls stay.");
  assert.equal(says(five, "weight", 3, "50"), "It is the only server of abuja that takes new calls: the weight changes nothing now.");
  const one = backend(["lagos-1", 0]);
  assert.equal(says(one, "drain"), "It has no calls now. No server of opensips is left for new calls: each is answered with 503.");
  assert.equal(consequence(one, one.servers[0], "drain").grave, true);
  one.when_all_down = "forward";
  assert.match(says(one, "maint"), /fail open/);
  const away = backend(["lagos-1", 9, { takes_new: false, state: "down", health: "down", why: "503" }], ["abuja-1", 0]);
  assert.match(says(away, "drain"), /takes no new calls already \(down\)/);
  assert.match(says(away, "ready"), /as soon as its check finds it well; now it is down \(503\)/);
  const drained = backend(["lagos-1", 9, { takes_new: false, state: "drain", admin: "drain" }], ["abuja-1", 0]);
  assert.equal(says(drained, "ready"), "It takes new calls at once; lagos has 82.4 % of them.");
  assert.deepEqual(["50%", "256", "257", "101%", "x", ""].map((weight) => weightOf(weight, 80)), [40, 256, null, null, null, null]);
});

// As share() in src/balance/mod.rs and candidates() in src/state/snapshot/candidates.rs.
test("a region's part shrinks with its servers, once less than spill_below of them is left", async () => {
  const { says } = await consequences();
  const calls = (sentences) => sentences.replace(/^It has no calls now\. /, "");
  const of = (...lagos) => backend(...lagos.map((more, nth) => [`lagos-${nth + 1}`, 0, more]), ["abuja-1", 0], ["asaba-1", 0]);
  assert.equal(calls(says(of({}, {}, dead), "drain")), "1 of 3 servers of lagos remains; lagos's part of new calls falls from 70 % to 60.9 %.");
  assert.equal(calls(says(of({}, {}), "drain")), "1 of 2 servers of lagos remains; lagos keeps its 70 %.");
  const all = { ...of({}, {}, dead), spill_below: 0 };
  assert.equal(calls(says(all, "drain")), "1 of 3 servers of lagos remains; lagos keeps its 70 %.");
  // Weights that were set and slow starts take away from what is usable, not from the whole; backups count for neither.
  assert.equal(calls(says(of({}, { weight: 50 }), "drain")), "1 of 2 servers of lagos remains; lagos's part of new calls falls from 70 % to 53.8 %.");
  assert.equal(calls(says(of({}, { throttle_percent: 50 }), "drain")), "1 of 2 servers of lagos remains; lagos's part of new calls falls from 70 % to 53.8 %.");
  assert.equal(calls(says(of({}, {}, { backup: true }), "drain")), "1 of 2 servers of lagos remains; lagos keeps its 70 %.");
  // What one region loses others have.
  assert.match(says(of({}, dead, dead), "drain", 3), /No server of abuja remains: its 19.6 % of new calls goes to lagos \(75.7 %\) and asaba \(24.3 %\)/);
  const drained = { takes_new: false, state: "drain", admin: "drain" };
  assert.equal(says(of(drained, dead, dead), "ready"), "It takes new calls at once; lagos has 60.9 % of them.");
});

test("a weight says what it changes, and that it changes nothing only where that is so", async () => {
  const { says, weightOf } = await consequences();
  const five = backend(["lagos-1", 0], ["lagos-2", 0], ["lagos-3", 0], ["abuja-1", 0], ["asaba-1", 0]);
  assert.equal(says(five, "weight", 3, "20"), "abuja's part of new calls falls from 15 % to 6.6 %. Its calls stay.");
  five.servers[3].weight = 20;
  assert.equal(says(five, "weight", 3, "100%"), "abuja's part of new calls rises from 6.6 % to 15 %. Its calls stay.");
  five.servers[2] = { ...five.servers[2], ...dead };
  assert.equal(says(five, "weight", 0, "10"), "Its part of the new calls of lagos goes from 50 % to 9 %. lagos's part of new calls falls from 76.9 % to 71 %. Its calls stay.");
  assert.equal(says(five, "weight", 2, "10"), "It gets no new calls now.");
  const light = backend(["lagos-1", 0], ["abuja-1", 3, { weight: 1, weight_configured: 1 }], ["lagos-2", 0, { backup: true }]);
  assert.deepEqual([weightOf("50%", 1), weightOf("50%", 15)], [0, 7]);
  assert.equal(says(light, "weight", 1, "50%"), "No server of abuja remains: its 17.6 % of new calls goes to lagos (100 %). Its calls stay.");
  assert.equal(says(light, "weight", 2, "50%"), "It gets no new calls now.");
  Object.assign(light.servers[1], { weight: 0, takes_new: false });
  assert.equal(says(light, "weight", 1, "0"), "It gets no new calls now.");
  light.servers[1].level = "idle";
  assert.equal(says(light, "weight", 1, "1"), "abuja's part of new calls rises from 0 % to 17.6 %. Its calls stay.");
});

test("backups serve where no primary takes new calls outright, and wait otherwise", async () => {
  const { consequence, says } = await consequences();
  const calls = (sentences) => sentences.replace(/^It has no calls now\. /, "");
  const grave = (of, index) => consequence(of, of.servers[index], "drain").grave;
  const spare = { backup: true };
  const drained = { takes_new: false, state: "drain", admin: "drain" };
  const trying = { state: "breaker half-open", breaker: { state: "half-open" } };
  const alone = "No server of opensips is left for new calls: each is answered with 503.";
  const waits = "It is a backup that waits: it gets no new calls now.";
  // Who takes trial calls only keeps no backup waiting.
  const trial = backend(["lagos-1", 0, trying], ["abuja-1", 0, spare], ["asaba-1", 0, spare]);
  assert.equal(calls(says(trial, "drain", 1)), "Only asaba-1 (a backup) remains.");
  assert.deepEqual([0, 1, 2].map((index) => grave(trial, index)), [false, false, false]);
  const served = backend(["lagos-1", 0], ["lagos-2", 0, trying], ["abuja-1", 0, spare]);
  assert.equal(calls(says(served, "drain")), "Only abuja-1 (a backup) remains.");
  assert.equal(grave(served, 0), true);
  served.servers[2] = { ...served.servers[2], ...dead };
  assert.equal(calls(says(served, "drain")), `${alone} Only trial calls go to lagos-2.`);
  assert.equal(grave(served, 0), true);
  const halfway = backend(["lagos-1", 0, { ...trying, ...drained }], ["lagos-2", 0]);
  assert.equal(says(halfway, "ready"), "It is ready and takes trial calls; others come when its breaker has closed.");
  // Nor does who serves only those that prefer its region.
  const none = { ...backend(["lagos-1", 0], ["abuja-1", 0], ["asaba-1", 0, spare]), regions: [{ name: "lagos", weight: 70 }, { name: "abuja", weight: 0 }, { name: "asaba", weight: 15 }] };
  assert.equal(calls(says(none, "drain")), "Only asaba-1 (a backup) remains.");
  assert.deepEqual([0, 1, 2].map((index) => grave(none, index)), [true, false, false]);
  const plain = backend(["lagos-1", 0], ["abuja-1", 0], ["asaba-1", 0, spare]);
  plain.servers.forEach((server) => (server.region = ""));
  plain.regions = [];
  assert.equal(calls(says(plain, "drain", 2)), waits);
  assert.equal(grave(plain, 0), false);
  // Waiting backups, and the last that serve.
  const waiting = backend(["lagos-1", 0], ["abuja-1", 0, spare]);
  assert.equal(calls(says(waiting, "drain", 1)), waits);
  assert.deepEqual([0, 1].map((index) => grave(waiting, index)), [true, false]);
  const last = backend(["lagos-1", 0, dead], ["abuja-1", 0, spare]);
  assert.equal(calls(says(last, "drain", 1)), alone);
  assert.equal(grave(last, 1), true);
  const two = backend(["lagos-1", 0, dead], ["abuja-1", 0, spare], ["asaba-1", 0, spare]);
  assert.deepEqual([1, 2].map((index) => grave(two, index)), [false, false]);
  // Made ready, not all get calls.
  assert.equal(says(backend(["lagos-1", 0], ["abuja-1", 0, { ...spare, ...drained }]), "ready", 1), waits);
  assert.equal(says(backend(["lagos-1", 0], ["abuja-1", 0, { ...spare, ...dead }]), "ready", 1), waits);
  assert.equal(says(backend(["lagos-1", 0, dead], ["abuja-1", 0, { ...spare, ...drained }]), "ready", 1), "It takes new calls at once.");
  assert.equal(says(backend(["lagos-1", 0, { ...drained, weight: 0 }], ["lagos-2", 0]), "ready"), "It gets no new calls while its weight is 0.");
});

test("a relay has connections or flows, and loses no connection", async () => {
  const { consequence, says } = await consequences();
  const relay = (scheme, ...names) => ({ ...backend(...names.map((name) => [name, 2, { address: `${scheme}://10.0.0.1:443` }])), mode: "relay" });
  const streams = relay("tls", "lagos-1", "lagos-2");
  assert.equal(says(streams, "maint"), "2 connections stay until they end. 1 of 2 servers of lagos remains; lagos keeps its 100 %.");
  assert.equal(consequence(streams, streams.servers[0], "maint").grave, false);
  assert.equal(consequence(streams, streams.servers[0], "maint").title, "Maintenance for lagos-1");
  assert.equal(says(relay("tcp", "lagos-1"), "maint"), "2 connections stay until they end. No server of opensips is left for new connections: each is closed.");
  assert.equal(says(streams, "weight", 0, "50"), "Its part of the new connections of lagos goes from 50 % to 33 %. Its connections stay.");
  const datagrams = relay("udp", "lagos-1");
  assert.equal(says(datagrams, "maint"), "2 flows lose their server at once: what comes for them goes to another. No server of opensips is left for new flows: each is dropped.");
  assert.equal(consequence(datagrams, datagrams.servers[0], "maint").grave, true);
  assert.equal(says(datagrams, "drain"), "2 flows stay until they end. No server of opensips is left for new flows: each is dropped.");
});

// What servers and frontends have in `show stat` is in src/admin/haproxy/stat.rs, the families in src/admin/metrics.
test("columns are called what HAProxy's page and /metrics call them", async () => {
  const { SERVER, FRONTEND } = await module("columns.ts");
  const names = (columns, key) => columns.filter((one) => one.key === key).map(({ haproxy, metric }) => [haproxy, metric])[0];
  assert.deepEqual(names(SERVER, "failed"), ["hanafail, econ", "circuit_breaker_failed_requests"]);
  assert.match(SERVER.find((one) => one.key === "failed").means, /answer.*codes/);
  assert.equal(names(SERVER, "rate")[0], "rate");
  assert.equal(names(FRONTEND, "methods")[1], "trunkline_frontend_requests_total");
  const rust = ["own.rs", "haproxy.rs"].map((name) => readFileSync(new URL(`../metrics/${name}`, import.meta.url), "utf8")).join("");
  for (const { metric } of [...SERVER, ...FRONTEND]) {
    const family = metric.replace(/^haproxy_(server|frontend)_/, "");
    if (!metric.startsWith("label")) assert.ok(rust.includes(`${family}"`), metric);
  }
});

test("numbers read well", async () => {
  const { amount, bytes, count, duration, share, signed } = await module("format.ts");
  const plain = (text) => text.replace(/\u202f/g, "_").replace(/\u2212/g, "-");
  assert.deepEqual([0, 999, 1000, 1234567, -4200].map(count).map(plain), ["0", "999", "1_000", "1_234_567", "-4_200"]);
  assert.deepEqual([null, 0, 0.04, 0.82, 12.34, 99.96, 1034.4].map(amount).map(plain), ["\u2013", "0", "0.04", "0.8", "12.3", "100", "1_034"]);
  assert.deepEqual([0, 59, 60, 125, 3599, 3600, 7384, 90061].map(duration).map(plain), ["0_s", "59_s", "1_m", "2_m 5_s", "59_m", "1_h", "2_h 3_m", "1_d 1_h"]);
  assert.deepEqual([-0.64, 0.04, 1.25].map(signed).map(plain), ["-0.6", "0.0", "+1.3"]);
  assert.deepEqual([70, 33.333].map(share).map(plain), ["70_%", "33.3_%"]);
  assert.deepEqual([12, 1500, 2.5e9].map(bytes).map(plain), ["12_B", "1.5_kB", "2.5_GB"]);
});
