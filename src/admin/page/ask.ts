// Asking the node. Every address is below the page's own origin; the browser adds the credentials.

export type Answer<T> = { ok: true; value: T } | { ok: false; status: number; error: string };

/** Whole addresses: a page that was opened as http://user:password@host may not fetch relative ones. */
const url = (path: string) => location.origin + path;

async function ask<T>(path: string, init: RequestInit): Promise<Answer<T>> {
  try {
    const response = await fetch(url(path), { cache: "no-store", signal: AbortSignal.timeout(10_000), ...init });
    const text = await response.text();
    const value = parsed(text);
    if (response.ok && value !== null) return { ok: true, value: value as T };
    return { ok: false, status: response.status, error: String((value as { error?: string })?.error ?? response.statusText) };
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    return { ok: false, status: 0, error: late ? "no answer within 10 s" : "the node does not answer" };
  }
}

function parsed(text: string): unknown {
  try {
    return text === "" ? {} : JSON.parse(text);
  } catch {
    return null;
  }
}

export const get = <T>(path: string) => ask<T>(path, {});

export const post = <T>(path: string, body: unknown) =>
  ask<T>(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Requested-With": "trunkline" },
    body: JSON.stringify(body),
  });

export const stream = () => new EventSource(url("/api/v1/stream"));
