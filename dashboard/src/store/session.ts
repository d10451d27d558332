// Who is signed in. The key itself is sent once and forgotten; what stays is a cookie that no script can read.

import { signal } from "@preact/signals";
import { asRefusal, json, onOldCsrf, onSignedOut, Refusal, request, useCsrf, useSkew } from "../api/client.ts";
import type { SessionInfo } from "../api/types.ts";

export type Session = { is: "asking" } | { is: "out"; why?: Refusal } | { is: "in"; who: SessionInfo };

export const session = signal<Session>({ is: "asking" });

onSignedOut(() => {
  if (session.peek().is !== "in") return;
  session.value = { is: "out", why: new Refusal("unauthorized", "the session is over", "sign in again", {}, 401) };
});

async function enter(response: Response): Promise<void> {
  const date = Date.parse(response.headers.get("date") ?? "");
  if (!Number.isNaN(date) && Math.abs(date - Date.now()) > 2000) useSkew(date - Date.now());
  const who = await json<SessionInfo>(response);
  useCsrf(who.csrf);
  session.value = { is: "in", who };
}

onOldCsrf(async () => {
  const response = await request("GET", "/session").catch(() => undefined);
  if (response) await enter(response);
});

/** Whether the browser has a session already. */
export async function resume(): Promise<void> {
  try {
    await enter(await request("GET", "/session"));
  } catch (error) {
    const refusal = asRefusal(error);
    session.value = refusal.status === 401 ? { is: "out" } : { is: "out", why: refusal };
  }
}

export async function signIn(key: string): Promise<void> {
  try {
    await enter(await request("POST", "/session", { key }));
  } catch (error) {
    session.value = { is: "out", why: asRefusal(error) };
  }
}

export async function signOut(): Promise<void> {
  try {
    await request("DELETE", "/session");
  } catch {
    // It ends by itself; here it is over.
  }
  useCsrf("");
  session.value = { is: "out" };
}

const RANK: Record<string, number> = { viewer: 1, agent: 2, operator: 3, owner: 4 };

/** Whether the role is at least this. It only spares a click: nats-server decides. */
export function may(role: "agent" | "operator" | "owner"): boolean {
  const now = session.value;
  if (now.is !== "in") return false;
  // The mesh's own identities have no role; `home` may everything.
  return (RANK[now.who.role ?? "owner"] ?? 0) >= (RANK[role] ?? 0);
}

export function me(): string {
  const now = session.value;
  return now.is === "in" ? now.who.name : "";
}
