// Calls of the mesh through the gateway, as whoever is signed in. Every failure is a `Refusal` with a code, a sentence
// and a hint. It keeps no key: the session is a cookie no script can read.

import { events, type SseEvent } from "./sse.ts";

export class Refusal extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly hint: string = "",
    readonly details: Record<string, unknown> = {},
    readonly status = 0,
  ) {
    super(message);
    this.name = "Refusal";
  }
}

let csrf = "";
let renew: () => Promise<void> = async () => undefined;
let signedOut: () => void = () => undefined;

/** What every call that changes something has to show. */
export function useCsrf(token: string): void {
  csrf = token;
}

/** Asked when the gateway does not take it: another tab may have signed in anew since. */
export function onOldCsrf(then: () => Promise<void>): void {
  renew = then;
}

/** Told when the gateway no longer knows the session. */
export function onSignedOut(then: () => void): void {
  signedOut = then;
}

type Failed = { error?: { code?: string; message?: string; hint?: string; details?: Record<string, unknown> }; detail?: string; title?: string };

async function refusalOf(response: Response): Promise<Refusal> {
  const text = await response.text().catch(() => "");
  let body: Failed = {};
  try {
    body = JSON.parse(text) as Failed;
  } catch {
    // Not ours (a proxy's page): its status is all there is to tell.
  }
  const error = body.error ?? {};
  const message = error.message ?? body.detail ?? body.title ?? `the gateway answered with status ${response.status}`;
  return new Refusal(error.code ?? `http-${response.status}`, message, error.hint ?? "", error.details ?? {}, response.status);
}

/** One HTTP request to the gateway. */
export async function request(method: string, path: string, body?: unknown, more: RequestInit = {}): Promise<Response> {
  const shown = csrf;
  try {
    return await once(method, path, body, more);
  } catch (error) {
    const isOld = error instanceof Refusal && error.status === 403 && method !== "GET" && path !== "/session" && shown !== "";
    if (!isOld) throw error;
    await renew();
    if (csrf === shown) throw error;
    return once(method, path, body, more);
  }
}

async function once(method: string, path: string, body: unknown, more: RequestInit): Promise<Response> {
  const headers = new Headers(more.headers);
  headers.set("accept", headers.get("accept") ?? "application/json");
  if (body !== undefined) headers.set("content-type", "application/json");
  if (method !== "GET" && csrf) headers.set("x-nhi-csrf", csrf);
  const init: RequestInit = { ...more, method, headers, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) init.body = JSON.stringify(body);
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (more.signal?.aborted) throw error;
    throw new Refusal("unreachable", "the gateway does not answer", "look whether `nhi up` runs; the page tries again by itself");
  }
  if (response.ok) return response;
  const refusal = await refusalOf(response);
  if (response.status === 401 && path !== "/session") signedOut();
  throw refusal;
}

/** Idempotency id and time limit; `act.apply` and `act.approve` ask for both. */
function callHeaders(seconds: number): Record<string, string> {
  return { "nhi-id": crypto.randomUUID?.() ?? idWithoutTls(), "nhi-expires": new Date(Date.now() + seconds * 1000 + skew).toISOString() };
}

/** `randomUUID` is only there with TLS or on this machine itself. */
function idWithoutTls(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** How far the gateway's clock is ahead of the browser's, milliseconds. */
let skew = 0;
export function useSkew(ms: number): void {
  skew = ms;
}
export function serverNow(): number {
  return Date.now() + skew;
}

const CALL_SECONDS = 60;

/** One call with one answer. */
export async function call<T>(service: string, endpoint: string, body: unknown = {}, signal?: AbortSignal): Promise<T> {
  const more: RequestInit = { headers: callHeaders(CALL_SECONDS) };
  if (signal) more.signal = signal;
  const path = `/mesh/${encodeURIComponent(service)}/${encodeURIComponent(endpoint)}`;
  return json<T>(await request("POST", path, body, more), signal);
}

/** An answer's body. A connection that breaks in the middle of it is no fault of the page. */
export async function json<T>(response: Response, signal?: AbortSignal): Promise<T> {
  try {
    return (await response.json()) as T;
  } catch (error) {
    throw signal?.aborted || error instanceof SyntaxError ? error : cut();
  }
}

async function* told(response: Response, signal: AbortSignal): AsyncGenerator<SseEvent> {
  try {
    yield* events(response);
  } catch (error) {
    throw signal.aborted ? error : cut();
  }
}

function cut(): Refusal {
  return new Refusal("cut", "the answer broke off before its end", "ask again");
}

/** A call whose answer comes in frames; a stream that fails or breaks off throws. */
export async function* frames(service: string, endpoint: string, body: unknown, signal: AbortSignal): AsyncGenerator<unknown> {
  const path = `/mesh/${encodeURIComponent(service)}/${encodeURIComponent(endpoint)}`;
  const response = await request("POST", path, body, { signal, headers: { accept: "text/event-stream" } });
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
    yield await json(response, signal);
    return;
  }
  for await (const event of told(response, signal)) {
    if (event.event === "end") {
      const end = JSON.parse(event.data) as { "Nhi-End"?: string; status?: number } & Failed;
      if (end["Nhi-End"] === "done") return;
      const error = end.error ?? {};
      throw new Refusal(error.code ?? "failed", error.message ?? "the answer ended in a failure", error.hint, error.details, end.status);
    }
    yield JSON.parse(event.data);
  }
  throw cut();
}

/** Anything thrown, as what can be shown. */
export function asRefusal(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  return new Refusal("page", error instanceof Error ? error.message : String(error), "this is a fault of the page; please report it");
}
