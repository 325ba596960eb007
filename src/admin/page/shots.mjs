// Pictures of the page, for looking at: node shots.mjs FOLDER [--base URL]
import { chromium } from "playwright-core";
import { start } from "./mock.mjs";

const folder = process.argv[2] ?? "/tmp";
const mock = await start();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });

async function shot(name, options, play = async () => {}) {
  const context = await browser.newContext({ deviceScaleFactor: 1, ...options });
  const page = await context.newPage();
  page.on("console", (message) => console.log(name, message.type(), message.text()));
  page.on("pageerror", (error) => console.log(name, "error", error.message));
  await page.goto(`${mock.base}/stats`);
  await page.waitForSelector("tr.server");
  await play(page);
  await page.waitForTimeout(700);
  await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
  await context.close();
}

const WIDE = { viewport: { width: 1480, height: 1000 } };
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
await shot("light", { ...WIDE, colorScheme: "light" });
await shot("chart", { ...WIDE, colorScheme: "light" }, (page) => page.click(".tile:nth-child(4)"));
await shot("menu", { ...WIDE, colorScheme: "dark" }, (page) => page.click("tr.server:nth-child(2) .more"));
await shot("dialog", { ...WIDE, colorScheme: "light" }, async (page) => {
  await page.click("tr.server:nth-child(2) .more");
  await page.click(".menu button:nth-of-type(3)");
});
mock.cluster.kill("asaba");
mock.cluster.trip("lagos-3");
await mock.cluster.wish({ backend: "opensips", server: "lagos-2", do: "drain" }, { name: "ngozi" });
await shot("dark", { ...WIDE, colorScheme: "dark" }, (page) => page.waitForTimeout(8000));
await shot("phone", { ...PHONE, colorScheme: "light" });
for (const tab of ["events", "pins", "responses", "bad", "configuration", "names"]) {
  await shot(`tab-${tab}`, { ...WIDE, colorScheme: "light" }, async (page) => {
    await page.click(`#tab-${tab}`);
    await page.waitForTimeout(300);
    await page.locator(".tabs").screenshot({ path: `${folder}/only-${tab}.png` });
  });
}
await shot("plain", { ...WIDE, colorScheme: "light" });
await browser.close();
await mock.stop();
