// The lab as it is now: read once, then followed. Whole commits are applied whole; after a gap everything is read again.
// It holds what the mesh told and when; it guesses nothing.

import { batch, signal } from "@preact/signals";
import { asRefusal, call, request, serverNow, useSkew } from "../api/client.ts";
import { events, type SseEvent } from "../api/sse.ts";
import type { At, Json, Live, RecordDiff, Run, SourceAge, StateGot, StateHistoried, StateRecord } from "../api/types.ts";
import { between, story } from "../lib/diff.ts";
import { session } from "./session.ts";

export type Records = ReadonlyMap<string, StateRecord>;
export type View = {
  records: Records;
  gauges: ReadonlyMap<string, Live>;
  revision: number;
  asOf: string;
  sources: Record<string, SourceAge>;
  stale: string | undefined;
  /** Keys whose version at that moment is no longer kept. */
  unknown: string[];
};
export type Link =
  | { is: "connecting" }
  | { is: "live"; since: number }
  | { is: "lost"; since: number; why: string; again: number };
export type Happening = { key: string; revision: number; at: string; kind: RecordDiff["kind"] | "same"; story: string; record: Json | undefined };

export const lab = signal<View | undefined>(undefined);
export const link = signal<Link>({ is: "connecting" });
/** What happened, newest first, from the records' versions. */
export const happenings = signal<Happening[]>([]);
/** Whether older things happened than are listed. */
export const happeningsCut = signal(false);
/** Rises with every change of plans and runs. */
export const plansChanged = signal(0);
/** Runs as the feed told them last. */
export const runs = signal<ReadonlyMap<string, Run>>(new Map());

const HAPPENINGS_MAX = 200;
/** Twice the gateway's comment and half of one more. */
const SILENCE_MS = 40_000;
const HIDDEN_MS = 5 * 60_000;

/** All pages of the state at a moment. */
export async function read(moment: At | undefined, signal?: AbortSignal): Promise<View> {
  const records = new Map<string, StateRecord>();
  const gauges = new Map<string, Live>();
  const unknown: string[] = [];
  let first: StateGot | undefined;
  let cursor: string | undefined;
  do {
    const fixed: At | undefined = first ? { revision: first.revision } : moment;
    const body = { ...(fixed ? { at: fixed } : { live: true }), ...(cursor ? { cursor } : {}) };
    const page = await call<StateGot>("state", "get", body, signal);
    first ??= page;
    unknown.push(...(page.unknown ?? []));
    for (const [key, record] of Object.entries(page.records)) {
      records.set(key, record);
      if (record.live) gauges.set(key, record.live);
    }
    cursor = page.next;
  } while (cursor);
  // Later pages are read at a revision, and gauges are only told for now: they are asked for once more.
  if (!moment && first.next) {
    for (cursor = first.next; cursor; ) {
      const page: StateGot = await call<StateGot>("state", "get", { live: true, cursor }, signal);
      for (const [key, record] of Object.entries(page.records)) if (record.live) gauges.set(key, record.live);
      cursor = page.next;
    }
  }
  return { records, gauges, revision: first.revision, asOf: first.as_of, sources: first.sources, stale: first.stale?.reason, unknown };
}

async function readNow(signal: AbortSignal): Promise<void> {
  const view = await read(undefined, signal);
  const behind = Date.parse(view.asOf) - Date.now();
  useSkew(Math.abs(behind) > 2000 ? behind : 0);
  lab.value = view;
  await readHappenings(signal);
}

function happening(key: string, revision: number, at: string, before: StateRecord | undefined, after: StateRecord | undefined): Happening {
  const kind = between(before?.record, after?.record)?.kind ?? "same";
  return { key, revision, at, kind, story: story(before, after), record: (after ?? before)?.record };
}

async function readHappenings(signal: AbortSignal): Promise<void> {
  try {
    const answer = await call<StateHistoried>("state", "history", { select: ">", limit: HAPPENINGS_MAX }, signal);
    const older = new Map<string, StateRecord | undefined>();
    const seen = new Set<string>();
    const rows: Happening[] = [];
    for (const version of [...answer.versions].reverse()) {
      const known = seen.has(version.key) || !answer.truncated;
      const before = older.get(version.key);
      const told = happening(version.key, version.revision, version.at, before, version.value);
      // The version before it is not among those that were asked for, so whether it is new cannot be told.
      rows.push(told.kind === "added" && !known ? { ...told, kind: "same", story: "was written" } : told);
      older.set(version.key, version.value);
      seen.add(version.key);
    }
    happenings.value = rows.reverse();
    happeningsCut.value = answer.truncated;
  } catch (error) {
    if (signal.aborted) throw error;
    happenings.value = [];
    happeningsCut.value = true;
  }
}

type Row = { key: string; record: Json | null; at?: string | null; stale?: StateRecord["stale"] };
type Commit = { revision: number; records: Row[] };

function unpack(row: Row, commit: Commit): StateRecord | undefined {
  if (!row.record) return undefined;
  const out: StateRecord = { revision: commit.revision, at: row.at ?? new Date(serverNow()).toISOString(), record: row.record };
  if (row.stale) out.stale = row.stale;
  return out;
}

function applyCommit(commit: Commit): void {
  const now = lab.peek();
  if (!now || commit.revision <= now.revision) return;
  const records = new Map(now.records);
  const fresh: Happening[] = [];
  for (const row of commit.records) {
    const before = records.get(row.key);
    const after = unpack(row, commit);
    if (after) records.set(row.key, after);
    else records.delete(row.key);
    const revision = after?.revision ?? commit.revision;
    const at = after?.at ?? row.at ?? new Date(serverNow()).toISOString();
    fresh.push(happening(row.key, revision, at, before, after));
  }
  batch(() => {
    lab.value = { ...now, records, revision: commit.revision, asOf: new Date(serverNow()).toISOString() };
    happenings.value = [...fresh.reverse(), ...happenings.peek()].slice(0, HAPPENINGS_MAX);
  });
}

const waiting = new Map<string, Live>();

/** Gauges come by the dozen: drawn once a frame. */
function applyLive(key: string, value: Live): void {
  if (waiting.size === 0) setTimeout(flushLive, 50);
  waiting.set(key, value);
}

function flushLive(): void {
  const now = lab.peek();
  if (!now) return waiting.clear();
  const gauges = new Map(now.gauges);
  let sources = now.sources;
  for (const [key, live] of waiting) {
    gauges.set(key, live);
    if (key.startsWith("source.")) {
      const id = key.slice("source.".length);
      const last = live.record["last_success"];
      const old = sources[id];
      if (old && typeof last === "string") sources = { ...sources, [id]: { ...old, last_success: last } };
    }
  }
  waiting.clear();
  lab.value = { ...now, gauges, sources };
}

function applyPlan(key: string, value: Json | null): void {
  // The actuator's sign of life, every few seconds: nothing about any plan.
  if (key === "control.actuator") return;
  if (key.startsWith("run.") && value) {
    const inner = "record" in value && "op" in value ? (value["record"] as Json) : value;
    runs.value = new Map(runs.peek()).set(key.slice(4), inner as unknown as Run);
  }
  plansChanged.value += 1;
}

async function take(event: SseEvent, stop: AbortSignal): Promise<void> {
  switch (event.event) {
    case "hello": {
      const { revision } = JSON.parse(event.data) as { revision: number };
      link.value = { is: "live", since: Date.now() };
      // A revision behind ours: the store was made anew.
      if (!lab.peek() || revision < (lab.peek()?.revision ?? 0)) await readNow(stop);
      plansChanged.value += 1;
      return;
    }
    case "state":
      return applyCommit(JSON.parse(event.data) as Commit);
    case "live": {
      const { key, value } = JSON.parse(event.data) as { key: string; value: Live };
      return applyLive(key, value);
    }
    case "plan": {
      const { key, value } = JSON.parse(event.data) as { key: string; value: Json | null };
      return applyPlan(key, value);
    }
    case "resync":
      await readNow(stop);
      plansChanged.value += 1;
      return;
  }
}

/** One connection, until it ends. Gives the reason. */
async function follow(stop: AbortSignal): Promise<string> {
  const silent = new AbortController();
  let last = Date.now();
  const guard = setInterval(() => {
    if (Date.now() - last > SILENCE_MS) silent.abort();
  }, 5000);
  const either = AbortSignal.any([stop, silent.signal]);
  try {
    const since = lab.peek()?.revision;
    const headers: Record<string, string> = { accept: "text/event-stream" };
    if (since !== undefined) headers["last-event-id"] = String(since);
    const response = await request("GET", "/events?live=1&plans=1", undefined, { headers, signal: either });
    for await (const event of events(response, () => (last = Date.now()))) await take(event, either);
    return "the gateway ended the connection";
  } catch (error) {
    return silent.signal.aborted ? "nothing was heard for 40 s" : asRefusal(error).message;
  } finally {
    clearInterval(guard);
  }
}

let running: AbortController | undefined;

async function keepFollowing(stop: AbortSignal): Promise<void> {
  let wait = 1000;
  while (!stop.aborted) {
    const why = await follow(stop);
    if (stop.aborted || session.peek().is !== "in") return;
    // Where only the feed is missing (a proxy that holds events back), what can be asked for is shown all the same.
    if (!lab.peek()) await readNow(stop).catch(() => undefined);
    const now = link.peek();
    if (now.is === "live" && Date.now() - now.since > 10_000) wait = 1000;
    // Spread, so that many pages do not come back at one moment.
    const pause = wait * (0.75 + Math.random() / 2);
    link.value = { is: "lost", since: now.is === "lost" ? now.since : Date.now(), why, again: Date.now() + pause };
    await new Promise<void>((done) => {
      wake = done;
      setTimeout(done, pause);
      stop.addEventListener("abort", () => done(), { once: true });
    });
    wait = Math.min(wait * 2, 30_000);
  }
}

let wake: () => void = () => undefined;

/** Tries again at once. */
export function retry(): void {
  wake();
}

export function startFeed(): void {
  if (running) return;
  running = new AbortController();
  link.value = { is: "connecting" };
  void keepFollowing(running.signal);
}

export function stopFeed(forget: boolean): void {
  running?.abort();
  running = undefined;
  if (!forget) return;
  batch(() => {
    lab.value = undefined;
    happenings.value = [];
    runs.value = new Map();
    link.value = { is: "connecting" };
  });
}

/** A tab nobody looks at gives its connection back after a while: browsers allow six. */
export function restWhileHidden(): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => stopFeed(false), HIDDEN_MS);
    else if (session.peek().is === "in") startFeed();
  });
  window.addEventListener("online", retry);
}
