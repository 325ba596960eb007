// A node that is none: serves the page, and the API with the numbers of a five-server cluster that somebody might have.
// For working on the page and for its test. Nothing here is shipped. `node mock.mjs [--port N] [--servers N]`
//
//   /?user=viewer             who looks: viewer, operator, admin (a cookie keeps it)
//   POST /mock/kill?region=X  the region's servers stop answering; /mock/revive brings them back
//   POST /mock/silent?for=S   no word for S seconds

import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { Cluster, MEASURES } from "./mock_cluster.mjs";

const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
  "form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const here = (path) => new URL(path, import.meta.url);
const TYPES = { js: "text/javascript", css: "text/css" };
const escaped = (text) => String(text).replace(/[&<>"']/g, (one) => `&#${one.charCodeAt(0)};`);

function page(cluster, user) {
  const picture = cluster.picture(user);
  const rows = picture.backends.flatMap((backend) => backend.servers.map((server) =>
    `<tr><th scope="row">${escaped(`${backend.name}/${server.name}`)}</th><td>${escaped(server.state)}</td><td>${server.calls}</td><td>${escaped(server.why ?? "")}</td></tr>`));
  const table = `<p>${escaped(picture.verdict.text)}</p><table><thead><tr><th scope="col">Server</th><th scope="col">State</th><th scope="col">Calls</th><th scope="col">Why</th></tr></thead><tbody>${rows.join("")}</tbody></table>`;
  const filled = { title: `${escaped(picture.node.name)} \u00b7 Trunkline`, table, compat: "<p>HAProxy version 2.6.0-trunkline0.1.0, released 2026/11/01</p>" };
  return readFileSync(here("page.html"), "utf8").replace(/\{\{(\w+)\}\}/g, (_, name) => filled[name]);
}

function userOf(request, url) {
  const cookie = /user=(\w+)/.exec(request.headers.cookie ?? "")?.[1];
  const role = url.searchParams.get("user") ?? cookie ?? "admin";
  return { name: role === "admin" ? "ngozi" : role, role };
}

const send = (response, status, type, body, more = {}) => {
  response.writeHead(status, { "Content-Type": `${type}; charset=utf-8`, "Content-Security-Policy": POLICY, "Cache-Control": "no-cache", ...more });
  response.end(body);
};
const json = (response, status, value) => send(response, status, "application/json", JSON.stringify(value));

async function body(request) {
  let text = "";
  for await (const part of request) text += part;
  return JSON.parse(text || "{}");
}

function stream(cluster, user, request, response, streams) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache", "Content-Security-Policy": POLICY });
  const say = () => cluster.silent() || response.write(`event: picture\ndata: ${JSON.stringify(cluster.picture(user))}\n\n`);
  const timer = setInterval(say, 1000);
  streams.add(response);
  request.on("close", () => (clearInterval(timer), streams.delete(response)));
  say();
}

async function api(cluster, path, url, user, request, response) {
  if (cluster.silent()) return request.socket.destroy();
  const after = Number(url.searchParams.get("after") ?? 0);
  switch (`${request.method} ${path}`) {
    case "GET /api/v1/picture": return json(response, 200, cluster.picture(user));
    case "GET /api/v1/history": return json(response, 200, { step_seconds: 1, until: cluster.now, ...Object.fromEntries(MEASURES.map((name) => [name, cluster.history.map((one) => one[name])])) });
    case "GET /api/v1/events": return json(response, 200, { events: cluster.events.filter((event) => event.id > after) });
    case "GET /api/v1/pins": return json(response, 200, cluster.pin(url.searchParams.get("find")));
    case "GET /api/v1/bad": if (user.role === "viewer") return json(response, 403, { error: "an operator may see messages" }); return json(response, 200, { messages: cluster.unread() });
    case "GET /api/v1/configuration": if (user.role === "viewer") return json(response, 403, { error: "an operator may see it" }); return json(response, 200, { hash: cluster.hash, text: cluster.text });
    case "POST /api/v1/server":
    case "POST /api/v1/reload": break;
    default: return json(response, 404, { error: "no such thing" });
  }
  if (request.headers["x-requested-with"] !== "trunkline") return json(response, 403, { error: "not asked by the page" });
  const wish = await body(request);
  if (path.endsWith("reload")) {
    return user.role === "admin" ? json(response, 200, { said: cluster.reload(user) }) : json(response, 403, { error: "an admin may reload" });
  }
  if (user.role === "viewer") return json(response, 403, { error: "a viewer may look, not change: log in as an operator" });
  const error = cluster.wish(wish, user);
  return error ? json(response, error.status, { error: error.text }) : json(response, 200, { said: "" });
}

function mock(cluster, url, response) {
  const { searchParams } = url;
  if (url.pathname === "/mock/kill") cluster.kill(searchParams.get("region"));
  if (url.pathname === "/mock/revive") cluster.revive(searchParams.get("region"));
  if (url.pathname === "/mock/silent") cluster.hush(Number(searchParams.get("for")));
  json(response, 200, {});
}

/** Starts it; `base` is where. */
export async function start({ port = 0, servers = 5 } = {}) {
  const cluster = new Cluster(servers);
  const timer = setInterval(() => cluster.second(), 1000);
  const streams = new Set();
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://mock");
    const user = userOf(request, url);
    const path = url.pathname;
    const file = /^\/stats\/page\.(js|css)$/.exec(path)?.[1];
    if (file) return send(response, 200, TYPES[file], readFileSync(here(`dist/page.${file}`)));
    if (path === "/api/v1/stream") return cluster.silent() ? request.socket.destroy() : stream(cluster, user, request, response, streams);
    if (path.startsWith("/api/")) return void api(cluster, path, url, user, request, response);
    if (path.startsWith("/mock/")) {
      mock(cluster, url, response);
      if (path === "/mock/silent") for (const one of streams) one.destroy();
      return undefined;
    }
    if (path === "/" || path.startsWith("/stats")) return send(response, 200, "text/html", page(cluster, user), { "Set-Cookie": `user=${user.role}` });
    return json(response, 404, { error: "not found" });
  });
  await new Promise((done) => server.listen(port, "127.0.0.1", done));
  const stop = () => (clearInterval(timer), server.closeAllConnections(), new Promise((done) => server.close(done)));
  return { base: `http://127.0.0.1:${server.address().port}`, cluster, streams, stop };
}

const option = (name, otherwise) => (process.argv.includes(name) ? Number(process.argv[process.argv.indexOf(name) + 1]) : otherwise);
if (process.argv[1] === here("mock.mjs").pathname) {
  const { base } = await start({ port: option("--port", 8404), servers: option("--servers", 5) });
  console.log(`${base}/stats`);
}
